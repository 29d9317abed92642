"""Transforms of a declared operator: ``vmap`` against one call for each element, forward mode against backward.

Both hold for every declaration, with or without rules of its own, on its small samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor, modes, wrap
from tensorlib.autograd import engine
from tensorlib.autograd.batched import Batch, enter, leave
from tensorlib.autograd.dual import Dual, make, primal_of, tangent_of
from tensorlib.autograd.lifted import inside
from tensorlib.errors import AutogradError, DeviceError
from tensorlib.op import Composite, Op
from tensorlib.testing import calls
from tensorlib.testing.cases import FLOAT64, Case, cases, is_random, usual, writes_first
from tensorlib.testing.compare import CheckError, is_differentiable, within

SMALL = 400
FEW = 6
BATCH = 2

Declared = Op | Composite


def _chosen(made: Declared) -> Iterator[tuple[Case, tuple[Any, ...], dict[str, Any]]]:
    """A few small calls, in float64 where the operator takes it."""
    found = 0
    for case in cases(made):
        if case.special or found == FEW:
            continue
        args, attrs = case.arguments(FLOAT64 if usual(made).kind == "f" else usual(made))
        arrays = calls.arrays_in(args)
        if arrays and sum(a.size for a in arrays) <= SMALL and all(type(a.dtype.kind) is str for a in arrays):
            found += 1
            yield case, args, attrs


def _another(a: np.ndarray) -> np.ndarray:
    """An array of other values from the same domain, where it has more than one."""
    return np.flip(a).copy()


def _loop(made: Declared, args: Any, rows: Sequence[Sequence[np.ndarray]], attrs: dict[str, Any]) -> Any:
    return [calls.run(made, calls.with_arrays(args, row), attrs) for row in rows]


def batched(made: Declared) -> None:
    """Over all tensors, and over each alone: what vmap gives for a batch is what each of its elements gives."""
    if is_random(made):
        return
    for case, args, attrs in _chosen(made):
        arrays = calls.arrays_in(args)
        patterns = [(True,) * len(arrays)]
        if len(arrays) > 1:
            patterns += [tuple(i == k for i in range(len(arrays))) for k in range(min(len(arrays), 3))]
        for pattern in patterns:
            _one_pattern(made, case, args, attrs, arrays, pattern)


def _one_pattern(
    made: Declared,
    case: Case,
    args: Any,
    attrs: dict[str, Any],
    arrays: Sequence[np.ndarray],
    pattern: tuple[bool, ...],
) -> None:
    rows = [arrays, [_another(a) if p else a for a, p in zip(arrays, pattern, strict=True)]]
    what = f"{made.name}, {case}: vmap over {pattern}"
    try:
        wants = _loop(made, args, rows, attrs)
    except Exception:  # the other values are none that it takes
        rows = [arrays] * BATCH
        wants = _loop(made, args, rows, attrs)
    if any([w.shape for w in row] != [w.shape for w in wants[0]] for row in wants):  # sizes depend on values
        rows = [arrays] * BATCH
        wants = _loop(made, args, rows, attrs)
    level = Batch(BATCH)
    given, _ = calls.tensors(args)
    flat = iter([enter(wrap(np.stack(column)), level) if p else wrap(column[0].copy())
                 for column, p in zip(zip(*rows, strict=True), pattern, strict=True)])  # fmt: skip

    def put(a: Any) -> Any:
        if isinstance(a, Tensor):
            return next(flat)
        return [put(x) for x in a] if isinstance(a, list) else a

    with inside(level):
        try:
            outs = calls.opened(calls.call(made, [put(a) for a in given], attrs))
        except (AutogradError, DeviceError) as error:
            if "vmap" in str(error) or "CPU only" in str(error):  # it reads numbers, or its shapes depend on them
                return
            raise
        got = [leave(t, level)._array for t in outs]
    for i, g in enumerate(got):
        want = np.stack([row[i] for row in wants])
        if g.dtype != want.dtype:
            raise CheckError(f"{what}, output {i}: dtype {g.dtype}, expected {want.dtype}")
        limit: Any = 0.0
        if want.dtype.kind not in "iub":
            size = np.where(np.isfinite(want), np.abs(want), 0)
            limit = 1e-6 * size + 1e-6 * np.max(size, initial=0.0)
        within(g, want, limit, f"{what}, output {i}")


#: Where forward and backward mode are meant to differ.
DIFFERS = {"gaussian_nll_loss": "clamps under no_grad, which backward does not see and forward does, as in PyTorch"}


def forward(made: Declared) -> None:
    """<c, J t> by forward mode is <Jᵀ c, t> by backward, for random c and t."""
    if made.name in DIFFERS or writes_first(made) or (isinstance(made, Op) and made.vjps is None) or is_random(made):
        return
    for case, args, attrs in _chosen(made):
        _one_case(made, case, args, attrs)


def _one_case(made: Declared, case: Case, args: Any, attrs: dict[str, Any]) -> None:
    arrays = calls.arrays_in(args)
    needs = case.needs()
    chosen = [i for i, a in enumerate(arrays) if is_differentiable(a.dtype) and needs[i] and a.dtype.kind == "f"]
    if not chosen or not any(arrays[i].size for i in chosen):
        return
    rng = np.random.default_rng(11)
    tangents = {i: np.asarray(rng.standard_normal(arrays[i].shape)).astype(arrays[i].dtype) for i in chosen}
    # backward
    given, leaves = calls.tensors(args, needs=[i in chosen for i in range(len(arrays))])
    outs = calls.opened(calls.call(made, given, attrs))
    kept = [k for k, t in enumerate(outs) if t._needs and t._array.dtype.kind == "f"]
    if not kept:
        return
    seeds = {k: np.asarray(rng.standard_normal(outs[k]._array.shape)).astype(outs[k]._array.dtype) for k in kept}
    sources = [leaves[i] for i in chosen]
    try:
        found = engine.run([outs[k] for k in kept], [wrap(seeds[k]) for k in kept], True, False, sources)
    except AutogradError as error:
        if "not implemented" in str(error):
            return
        raise
    terms = [np.sum(g._array * tangents[i]) for g, i in zip(found, chosen, strict=True) if g is not None]
    # forward
    level = Dual()
    plain, _ = calls.tensors(args)
    places = iter(range(len(arrays)))

    def put(a: Any) -> Any:
        if isinstance(a, Tensor):
            i = next(places)
            return make(a, wrap(tangents[i]), level) if i in tangents else a
        return [put(x) for x in a] if isinstance(a, list) else a

    before, modes.grad = modes.grad, False
    try:
        with inside(level):
            duals = calls.opened(calls.call(made, [put(a) for a in plain], attrs))
        pushed = {k: tangent_of(duals[k], level)._array for k in kept}
        values = {k: primal_of(duals[k], level)._array for k in kept}
    finally:
        modes.grad = before
    what = f"{made.name}, {case}: forward mode"
    for k in kept:
        want = outs[k]._array
        size = np.where(np.isfinite(want), np.abs(want), 0)
        within(values[k], want, 1e-6 * size + 1e-9, f"{what}, value {k}")
        if pushed[k].shape != want.shape:
            raise CheckError(f"{what}: a tangent of shape {pushed[k].shape} for a result of shape {want.shape}")
    products = [np.where(np.isfinite(seeds[k] * pushed[k]), seeds[k] * pushed[k], 0) for k in kept]
    ahead, back = sum(float(np.sum(p)) for p in products), sum(float(t) for t in terms)
    scale = sum(float(np.sum(np.abs(p))) for p in products) + sum(abs(float(t)) for t in terms)
    if np.isfinite(back) and abs(ahead - back) > 1e-5 * scale + 1e-9:
        raise CheckError(f"{what}: forward gives {ahead}, backward {back}")


def transformable(made: Declared) -> bool:
    """Whether the checks of this file are for an operator."""
    return not (isinstance(made, Op) and (made.random or made.mutates or made.dynamic))
