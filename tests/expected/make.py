"""Make the stored PyTorch values: ``python tests/expected/make.py [operator ...]``, all of them by default.

Needs PyTorch (its CPU wheel) and tensorlib's own dependencies but triton. Each operator's samples are computed by
``torch.<name>``, ``torch.nn.functional.<name>`` or ``torch.Tensor.<name>`` and written to ``<name>.npz`` beside this
file, gradients for a fixed cotangent with them. Prints the calls that PyTorch refuses.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from names import LEFT_OUT, NAMES, NOT_IN_TORCH  # noqa: E402
from promotion_cases import OPERATORS as PROMOTION_OPERATORS  # noqa: E402
from promotion_cases import operand, pairs  # noqa: E402

import tensorlib  # noqa: E402
from tensorlib._dtypes import OF_NUMPY  # noqa: E402
from tensorlib.op import Op, declared, names_in  # noqa: E402
from tensorlib.testing import expected  # noqa: E402
from tensorlib.testing.cases import cases  # noqa: E402

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
F = torch.nn.functional


def to_torch(x: Any) -> Any:
    """An argument as PyTorch takes it."""
    if isinstance(x, np.ndarray):
        strided = np.lib.stride_tricks.as_strided
        if x.size and any(s < 0 for s in x.strides):
            x = x.copy()
        if x.dtype == BFLOAT16:
            raw = x.view(np.uint16)
            return torch.from_numpy(_writable(raw, strided)).view(torch.bfloat16)
        return torch.from_numpy(_writable(x, strided))
    if isinstance(x, list):
        return [to_torch(v) for v in x]
    if isinstance(x, np.dtype):
        return getattr(torch, OF_NUMPY[x].name)
    if isinstance(x, tensorlib.dtype):
        return getattr(torch, x.name)
    if isinstance(x, tensorlib.device):
        return torch.device(str(x))
    if isinstance(x, tensorlib.Tensor):
        return to_torch(x.numpy())
    if isinstance(x, tuple):
        return tuple(to_torch(v) for v in x)
    return x


def _writable(x: np.ndarray, strided: Callable[..., Any]) -> np.ndarray:
    """The same strides over memory that may be written; a broadcast array stays one."""
    if x.flags.writeable:
        return x
    base = np.array(x[tuple(slice(0, 1) if s == 0 else slice(None) for s in x.strides)])
    return np.broadcast_to(base, x.shape) if base.shape != x.shape else base


def to_numpy(t: Any) -> np.ndarray:
    """A result as an array of the same dtype."""
    if not isinstance(t, torch.Tensor):
        return np.asarray(t)
    t = t.detach()
    if t.is_conj() or t.is_neg():
        t = t.resolve_conj().resolve_neg()
    if t.dtype == torch.bfloat16:
        return t.contiguous().view(torch.uint16).numpy().view(BFLOAT16).reshape(t.shape)
    return t.contiguous().numpy(force=True).reshape(t.shape)  # force: a tensor of zeros may have no memory


def functions(made: Any) -> list[Callable[..., Any]]:
    """PyTorch's functions of that name: the first that takes the arguments is the one."""
    if made.name in NAMES:
        found: Any = torch
        for part in NAMES[made.name].split("."):
            found = getattr(found, part)
        return [found]
    spaces = {"functional": F, "function": torch, "method": torch.Tensor, "linalg": torch.linalg, "fft": torch.fft,
              "special": torch.special}  # fmt: skip
    return [getattr(s, n) for space, s in spaces.items() for n in names_in(made, space)[:1] if hasattr(s, n)]


def call(made: Any, args: Any, attrs: dict[str, Any]) -> Any:
    """PyTorch's result, with arguments by name or, where its parameters are named differently, by position."""
    errors: list[Exception] = []
    values = {k: to_torch(v) for k, v in attrs.items()}
    given = {k: v for k, v in values.items() if v is not None or made.signature.parameters[k].default is not None}
    for function in functions(made):
        try:
            torch.manual_seed(0)
            return function(*args, **values)
        except TypeError as error:
            errors.append(error)
        if given != values:
            try:
                return function(*args, **given)
            except TypeError as error:
                errors.append(error)
        order = [p for p in made.signature.parameters if p in values]
        try:
            return function(*args, *[values[k] for k in order])
        except TypeError as error:
            errors.append(error)
    raise errors[0] if errors else LookupError(f"PyTorch has no {made.name}: name it in names.py")


def flat(x: Any) -> list[Any]:
    """The arrays among results or arguments."""
    if x is None:
        return []
    if isinstance(x, (list, tuple)):
        return [v for y in x for v in flat(y)]
    return [x]


def record(made: Any, item: expected.Call) -> expected.Record:
    """One call by PyTorch."""
    args = [to_torch(a) for a in item.args]
    tensors = [t for t in flat(args) if isinstance(t, torch.Tensor)]
    floats = [t.is_floating_point() or t.is_complex() for t in tensors]
    leaves = [t for t, needs, wants in zip(tensors, item.needs, floats, strict=False) if needs and wants]
    if item.gradients:
        for t in leaves:
            t.requires_grad_()
    result = call(made, args, item.attrs)
    if isinstance(made, Op) and made.mutates:
        position = list(made.signature.parameters)
        result = [args[position.index(made.tensors[i].name)] for i in made.mutates]
    outs = flat(result)
    gradients: list[Any] = []
    if item.gradients:
        live = [(i, t) for i, t in enumerate(outs) if isinstance(t, torch.Tensor) and t.requires_grad]
        seeds = [
            torch.from_numpy(expected.cotangent(item.key, i, t.shape, t.is_complex())).to(t.dtype).reshape(t.shape)
            for i, t in live
        ]
        if live:
            try:
                found = torch.autograd.grad([t for _, t in live], leaves, seeds, allow_unused=True)
            except RuntimeError as error:  # PyTorch has no derivative of it, or not of this call
                found = ()
                print(f"{made.name} {item.case}: no gradient: {str(error)[:120]}")
            gradients = [None if g is None else expected.store(to_numpy(g)) for g in found]
    return expected.Record([expected.store(to_numpy(t)) for t in outs], gradients, None)


def make(made: Any) -> list[str]:
    """Store the values of one operator; what PyTorch refused of its usual dtype."""
    records, refused = {}, []
    for item in expected.plan(made):
        reason = LEFT_OUT.get((made.name, item.case.label))
        if reason is not None:
            records[item.key] = expected.Record([], [], expected.LEFT_OUT + reason)
            continue
        try:
            records[item.key] = record(made, item)
        except Exception as error:  # what PyTorch refuses is stored as that
            text = re.sub(r"0x[0-9a-f]+|\s+", " ", str(error))[:160]
            records[item.key] = expected.Record([], [], f"{type(error).__name__}: {text}")
            if item.usual and not item.case.refusable:
                refused.append(f"{made.name} {item.case}: {type(error).__name__}: {text}")
    expected.save(HERE / f"{made.name}.npz", torch.__version__, records)
    return refused


def promotion() -> None:
    """The dtype of each operator on each pair of dtypes, dimensioned and 0-d tensors and Python numbers."""
    table: dict[str, dict[str, str]] = {}
    for name in PROMOTION_OPERATORS:
        results = table[name] = {}
        for left, right in pairs():
            try:
                out = getattr(torch, name)(to_torch(operand(left)), to_torch(operand(right)))
                results[f"{left} {right}"] = str(out.dtype).removeprefix("torch.")
            except (RuntimeError, TypeError, NotImplementedError):
                results[f"{left} {right}"] = "error"
    text = json.dumps({"version": torch.__version__, "table": table}, indent=0)
    (HERE / "promotion.json").write_text(text)


def wanted(made: Any) -> bool:
    """Whether its values are stored: public, with samples, and something PyTorch has."""
    return bool(made.where) and bool(cases(made)) and made.name not in NOT_IN_TORCH


def main(names: list[str]) -> None:
    """Make the values of the operators named, or of all."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [m for m in declared() if wanted(m) and (not names or m.name in names)]
    unknown = set(names) - {m.name for m in chosen}
    if unknown:
        sys.exit(f"no public operator with samples: {', '.join(sorted(unknown))}")
    if not names:
        promotion()
        for old in {p.stem for p in HERE.glob("*.npz")} - {m.name for m in chosen}:
            (HERE / f"{old}.npz").unlink()
    for made in chosen:
        try:
            for line in make(made):
                print(line)
        except Exception as error:  # tensorlib's own failure: the others are made all the same
            print(f"{made.name}: NOT MADE: {type(error).__name__}: {error}")
    size = sum(p.stat().st_size for p in HERE.glob("*.npz"))
    print(f"{len(chosen)} operators by PyTorch {torch.__version__}; {size / 1e6:.2f} MB in {HERE}")


if __name__ == "__main__":
    main(sys.argv[1:])
