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

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from names import LEFT_OUT, NAMES, NOT_IN_TORCH  # noqa: E402
from promotion_cases import OPERATORS as PROMOTION_OPERATORS  # noqa: E402
from promotion_cases import operand, pairs  # noqa: E402
from torch_peer import to_numpy, to_torch  # noqa: E402

from tensorlib.op import Op, declared, names_in  # noqa: E402
from tensorlib.testing import expected  # noqa: E402
from tensorlib.testing.cases import cases  # noqa: E402

F = torch.nn.functional


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
