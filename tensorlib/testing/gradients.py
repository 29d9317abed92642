"""Gradients of a declared operator: against central differences, of first and second order, and against each other.

All in float64, along one random direction for each input, so that the cost does not grow with the size. An input at
which the function has a kink within the step (the one-sided differences disagree) has no gradient to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _dispatch
from tensorlib._core import Tensor, modes, wrap
from tensorlib.autograd import engine
from tensorlib.errors import AutogradError
from tensorlib.op import Composite, Op
from tensorlib.testing import calls
from tensorlib.testing.cases import COMPLEX64, COMPLEX128, FLOAT32, FLOAT64, Case, cases, dtypes, is_random
from tensorlib.testing.compare import CheckError, bounds, is_differentiable, within

STEP = 1e-6

Declared = Op | Composite


def _numbers(seed: list[int], shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Normal numbers; complex ones have both parts."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(tuple(shape))
    return np.asarray(x + 1j * rng.standard_normal(tuple(shape)) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Re(conj(a) b): the change along b of what has the gradient a."""
    return np.real(np.conj(a) * b)


def cotangents(case: Case) -> Callable[[int, Tensor], np.ndarray]:
    """Random gradients of the outputs, the same for every call of this case."""

    def make(i: int, t: Tensor) -> np.ndarray:
        x = t._array
        return _numbers([5, i], x.shape, x.dtype)

    return make


def at_points(made: Declared) -> list[tuple[Case, tuple[Any, ...], dict[str, Any]]]:
    """The calls at which gradients are compared: float64, finite, with an input that may want a gradient.

    The first few also in complex128, where complex numbers are taken.
    """
    found: list[tuple[Case, tuple[Any, ...], dict[str, Any]]] = []
    takes = dtypes(made)
    for dtype in (FLOAT64, COMPLEX128):
        if (COMPLEX64 if dtype == COMPLEX128 else dtype) not in takes:
            continue
        few = 0
        for case in cases(made):
            if case.special or (case.fixed and case.draws()) or (few == 4 and found and dtype == COMPLEX128):
                continue
            args, attrs = case.arguments(dtype)
            given = zip(calls.arrays_in(args), case.draws(), strict=False)
            wanted = (True,) if dtype == COMPLEX128 else (True, "real")
            if any(d.grad in wanted and is_differentiable(a.dtype) and a.size for a, d in given):
                found.append((case, args, attrs))
                few += 1
    return found


class _Function:
    """x -> sum of cotangent * output over the float outputs, at the arrays of one call."""

    def __init__(self, made: Declared, case: Case, args: Sequence[Any], attrs: dict[str, Any]) -> None:
        self.made, self.args, self.attrs = made, args, attrs
        self.arrays = calls.arrays_in(args)
        self.needs = case.needs()
        self.wanted = [i for i, a in enumerate(self.arrays) if is_differentiable(a.dtype) and self.needs[i]]
        self.symmetric = [d.kind == "positive" for d in case.draws()]
        self.cotangent = cotangents(case)
        self.outs = _differentiable_outputs(made)
        self.extra: dict[int, np.ndarray] = {}

    def moved(self, at: int, delta: np.ndarray) -> list[np.ndarray]:
        """The arrays with one of them moved."""
        return [a + delta if i == at else a for i, a in enumerate(self.arrays)]

    def outputs(self, arrays: Sequence[np.ndarray]) -> list[tuple[int, np.ndarray]]:
        """(number of the output, array) of the float outputs."""
        found = calls.run(self.made, calls.with_arrays(self.args, arrays), self.attrs)
        return [(i, r) for i, r in enumerate(found) if r.dtype.kind in "fc" and (self.outs is None or i in self.outs)]

    def value(self, arrays: Sequence[np.ndarray]) -> float:
        """The weighted sum, over what is finite."""
        total = 0.0
        for i, r in self.outputs(arrays):
            total += float(np.sum(_product(np.where(np.isfinite(r), r, 0), self.seed(i, wrap(r)))))
        return total

    def weight(self) -> float:
        """Sum of the outputs' magnitudes: what rounding errors of the value are relative to."""
        return sum(float(np.sum(np.abs(r[np.isfinite(r)]))) for _, r in self.outputs(self.arrays))

    def seed(self, i: int, t: Tensor) -> np.ndarray:
        """The cotangent of output ``i``, moved by ``extra``."""
        c = self.cotangent(i, t)
        return np.asarray(c + self.extra[i]) if i in self.extra else c

    def gradients(self, arrays: Sequence[np.ndarray], create: bool = False) -> Any:
        """(outputs, leaves, gradients, seeds)."""
        given = calls.with_arrays(self.args, arrays)
        return calls.gradients(
            self.made, given, self.attrs, self.seed, create=create, outputs=self.outs, needs=self.needs
        )


def _differentiable_outputs(made: Declared) -> set[int] | None:
    """Of what only other operators call, the outputs whose gradient the vjps ask for; None: all."""
    if made.where or isinstance(made, Composite) or made.vjps is None:
        return None
    rules = made.vjps.values() if isinstance(made.vjps, dict) else [made.vjps]
    return {0, *(index for rule in rules for _, source, index in rule.plan if source == "grad")}


def _kinked(f: Callable[[Any], float], along: Callable[[float], Any], h: float) -> bool:
    """Whether there is a kink or a jump within the step: then halves of it tell another story than the whole.

    Where the function is smooth, the central difference does not depend on the step, and the difference of the
    one-sided ones shrinks with it.
    """
    value = {t: f(along(t)) for t in (0.0, h, -h, h / 8, -h / 8)}
    noise = 1e-13 * max(*map(abs, value.values()), 1.0) / h
    slopes = [(value[t] - value[-t]) / (2 * t) for t in (h, h / 8)]
    bends = [(value[t] - 2 * value[0.0] + value[-t]) / t for t in (h, h / 8)]
    size = 1 + abs(slopes[0])
    turns = (
        abs(bends[0]) > 1e-5 * size + 8 * noise and abs(bends[1] - bends[0] / 8) > 0.5 * abs(bends[0] / 8) + 8 * noise
    )
    return turns or abs(slopes[1] - slopes[0]) > 1e-4 * size + 8 * noise


def _direction(like: np.ndarray, index: int, symmetric: bool = False) -> np.ndarray:
    v = _numbers([11, index], like.shape, like.dtype)
    return v + np.conj(v.swapaxes(-1, -2)) if symmetric else v


def first_order(made: Declared) -> None:
    """Each input's gradient against central differences; its shape and dtype against the input's."""
    compared = 0
    untouched: list[str] = []
    for case, args, attrs in at_points(made):
        f = _Function(made, case, args, attrs)
        outs, _, grads, _ = f.gradients(f.arrays)
        if any(not np.all(np.isfinite(r)) for r in (t._array for t in outs) if r.dtype.kind in "fc"):
            untouched.append(f"{case.label}: results are not finite")
            continue
        if any(not np.all(np.isfinite(f.arrays[at])) for at in f.wanted):
            untouched.append(f"{case.label}: inputs are not finite")
            continue
        for k, at in enumerate(f.wanted):
            x, g = f.arrays[at], grads[k]
            what = f"{made.name}, {case}: gradient of tensor {at}"
            if g is not None:
                if g._array.shape != x.shape:
                    raise CheckError(f"{what} has shape {g._array.shape}, the input {x.shape}: a missing sum_to_size?")
                if g._array.dtype != x.dtype:
                    raise CheckError(f"{what} has dtype {g._array.dtype}, the input {x.dtype}")
            v = _direction(x, at, f.symmetric[at])
            h = STEP

            def along(t: float, at: int = at, v: np.ndarray = v, f: _Function = f) -> list[np.ndarray]:
                return f.moved(at, t * v)

            if _kinked(f.value, along, h):
                untouched.append(f"{case.label}: a kink")
                continue
            right, left = f.value(along(h)), f.value(along(-h))
            numeric = (right - left) / (2 * h)
            analytic = 0.0 if g is None else float(np.sum(_product(g._array, v)))
            size = abs(numeric) + (0.0 if g is None else float(np.sum(np.abs(g._array * v))))
            allowed = 1e-5 * size + 2e-15 * max(abs(right), f.weight()) / h + 1e-9
            if not abs(numeric - analytic) <= allowed:
                raise CheckError(
                    f"{what} along a random direction is {analytic:.9g}, central differences give {numeric:.9g} "
                    f"(allowed {allowed:.2g})"
                )
            compared += x.size > 0
    if not compared:
        raise CheckError(
            f"{made.name}: no sample at which a gradient could be compared "
            f"({'; '.join(untouched) or 'none is float'}): declare one away from ties and inside the domain"
        )


def second_order(made: Declared) -> None:
    """The gradient of the gradient, in the inputs and in the cotangents, against central differences of the first."""
    compared = 0
    for case, args, attrs in at_points(made):
        f = _Function(made, case, args, attrs)
        outs, leaves, grads, seeds = f.gradients(f.arrays, create=True)
        if any(
            not np.all(np.isfinite(t._array))
            for t in (*outs, *leaves, *grads)
            if t is not None and t._array.dtype.kind in "fc"
        ):
            continue
        weights = [_direction(f.arrays[at], 100 + at, f.symmetric[at]) for at in f.wanted]
        live = [(g, w) for g, w in zip(grads, weights, strict=True) if g is not None and g.requires_grad]
        variables = [*leaves, *seeds]
        # The outputs whose cotangents the seeds are.
        sources = [i for i, t in enumerate(outs) if t.requires_grad and (f.outs is None or i in f.outs)]
        found: list[Tensor | None] = [None] * len(variables)
        if live:
            found = list(
                engine.grad([g for g, _ in live], variables, [wrap(np.asarray(w)) for _, w in live], allow_unused=True)
            )

        def value(arrays: Sequence[np.ndarray], f: _Function = f, weights: Any = weights) -> float:
            again = f.gradients(arrays)[2]
            pairs = [(g._array, w) for g, w in zip(again, weights, strict=True) if g is not None]
            return sum(float(np.sum(_product(np.where(np.isfinite(g), g, 0), w))) for g, w in pairs)

        for k, second in enumerate(found):
            of_input = k < len(leaves)
            at = f.wanted[k] if of_input else sources[k - len(leaves)]
            v = _direction(variables[k]._array, 200 + k, of_input and f.symmetric[at])

            def along(t: float, at: int = at, v: np.ndarray = v, of_input: bool = of_input, f: _Function = f) -> Any:
                f.extra = {} if of_input else {at: t * v}
                return f.moved(at, t * v) if of_input else f.arrays

            h = STEP
            if _kinked(value, along, h):
                continue
            right = value(along(h))
            left = value(along(-h))
            f.extra = {}
            numeric = (right - left) / (2 * h)
            analytic = 0.0 if second is None else float(np.sum(_product(second._array, v)))
            size = abs(numeric) + (0.0 if second is None else float(np.sum(np.abs(second._array * v))))
            first = sum(
                float(np.sum(np.abs(g._array * w))) for g, w in zip(grads, weights, strict=True) if g is not None
            )
            allowed = 2e-5 * size + 2e-15 * max(abs(right), first) / h + 1e-9
            if not abs(numeric - analytic) <= allowed:
                which = f"tensor {at}" if of_input else f"the gradient of output {at}"
                raise CheckError(
                    f"{made.name}, {case}: the second-order gradient in {which} along a random direction is "
                    f"{analytic:.9g}, central differences give {numeric:.9g} (allowed {allowed:.2g})"
                )
            compared += 1
    if not compared:
        raise CheckError(f"{made.name}: no sample at which a second-order gradient could be compared")


def compare_with_composite(op: Op) -> None:
    """A fused operator and the composite it names: the same outputs and the same gradients."""
    assert op.composite is not None
    other = Composite(op.composite, "", (), False, op.samples)
    other.name, other.public = f"{op.name}'s composite", _with_defaults(op, op.composite)
    other.signature = op.signature
    for case, args, attrs in at_points(op):
        make = cotangents(case)
        only = _differentiable_outputs(op)
        ours, theirs = (calls.gradients(m, args, attrs, make, outputs=only, needs=case.needs()) for m in (op, other))
        for i, (a, b) in enumerate(zip(ours[0], theirs[0], strict=False)):
            _alike(f"{op.name}, {case}: output {i} against its composite's", a, b)
        bound = _gradient_bounds(op, case, args, attrs, FLOAT64)
        for i, (g, h) in enumerate(zip(ours[2], theirs[2], strict=True)):
            what = f"{op.name}, {case}: gradient {i} against its composite's"
            _alike(what, g, h, None if bound is None else bound[i])


def _with_defaults(op: Op, function: Callable[..., Any]) -> Callable[..., Any]:
    """The composite called as the mechanism calls it: every attribute given, dimensions counted from the front."""
    from_front = {name for name, style in op.styled if style in ("dim", "dims", "newdim")}

    def public(*args: Any, **attrs: Any) -> Any:
        bound = op.signature.bind_partial(*args, **attrs)
        bound.apply_defaults()
        values = bound.arguments
        if op.random:
            values["seed"], values["offset"] = calls.SEED, 0
        operands = [values[p.name] for p in op.tensors]
        named = {p.name: values[p.name] for p in op.attrs}
        if from_front:
            _dispatch.bind_attrs(op, _dispatch.flatten(op, operands)[0], named)
        return function(*operands, **named)

    return public


def _alike(what: str, a: Any, b: Any, bound: np.ndarray | None = None) -> None:
    """Both gradients to a few roundings, None being zeros; ``bound``: or to what rounding explains."""
    x = np.zeros(()) if a is None else a._array
    y = np.zeros(()) if b is None else b._array
    if a is None or b is None:
        x, y = np.broadcast_arrays(x, y)
    size = np.abs(np.where(np.isfinite(y), y, 0)).astype(np.float64)
    unit = np.finfo(y.dtype if y.dtype.kind == "f" else np.float64).eps
    allowed = 200 * unit * (size + size.max(initial=0.0)) + 16 * unit  # cotangents are of the size of 1
    if bound is not None and bound.shape == y.shape:
        allowed = np.maximum(allowed, 2 * bound)
    within(x, y, allowed, what)


def paths_agree(made: Declared) -> None:
    """The gradient as ``backward()`` computes it (on raw arrays, by fused backward kernels) and as it is computed to be
    differentiated again (by Tensor operators, by the composite): the same numbers, in float32 and float64.
    """
    for dtype in (FLOAT64, FLOAT32):
        if dtype not in dtypes(made):
            continue
        for case in cases(made):
            if case.special or case.refusable:
                continue
            args, attrs = case.arguments(dtype)
            make = cotangents(case)
            plain, created = (
                calls.gradients(made, args, attrs, make, create=c, needs=case.needs()) for c in (False, True)
            )
            bound = _gradient_bounds(made, case, args, attrs, dtype)
            for i, (a, b) in enumerate(zip(plain[2], created[2], strict=True)):
                what = f"{made.name}, {case}, {dtype}: gradient {i}, backward() against create_graph=True"
                if a is None or b is None:
                    zero = a if b is None else b
                    if zero is not None and np.any(zero._array != 0):
                        raise CheckError(f"{what}: only one of them gives a gradient")
                    continue
                if a._array.dtype != b._array.dtype:
                    raise CheckError(f"{what}: dtypes {a._array.dtype} and {b._array.dtype}")
                _alike(what, a, b, None if bound is None else bound[i])


def _gradient_bounds(made: Declared, case: Case, args: Any, attrs: Any, dtype: Any) -> list[np.ndarray] | None:
    """How far each gradient may be off by rounding: from float64, with perturbed inputs."""
    if FLOAT64 not in dtypes(made) or is_random(made):
        return None
    function, arrays = gradient_function(made, args, attrs, cotangents(case), case.needs())
    return bounds(function, arrays, dtype, max((a.size for a in arrays), default=1))[1]


def gradient_function(
    made: Declared,
    args: Sequence[Any],
    attrs: dict[str, Any],
    make: Callable[[int, Tensor], np.ndarray],
    needs: Sequence[bool] = (),
) -> tuple[Callable[..., list[np.ndarray]], list[np.ndarray]]:
    """(arrays -> gradients as arrays, zeros for None; the arrays of the call), for ``bounds``."""
    arrays = calls.arrays_in(args)
    wants = [is_differentiable(a.dtype) and (i >= len(needs) or needs[i]) for i, a in enumerate(arrays)]

    def function(*given: np.ndarray) -> list[np.ndarray]:
        found = calls.gradients(made, calls.with_arrays(args, given), attrs, make, needs=wants)
        back = iter(found[2])
        out = []
        for a, w in zip(given, wants, strict=True):
            if w:
                g = next(back)
                out.append(np.zeros(a.shape) if g is None else g._array)
        return out

    return function, arrays


def never_stale(op: Op) -> None:
    """Writing into an input or an output between forward and backward: a clear error, or the gradient of before.

    A backward that reads memory which the write changed, and which no version counter watches, gives neither.
    """
    for case, args, attrs in at_points(op)[:4]:
        make = cotangents(case)
        needs = case.needs()
        right = calls.gradients(op, args, attrs, make, needs=needs)[2]
        given, made = calls.tensors(args, needs=needs)
        outs = calls.opened(calls.call(op, given, attrs))
        for which in range(len(made) + len(outs)):
            given, made = calls.tensors(args, needs=needs)
            for t in made:  # a leaf may not be written: what is written is its copy
                t._needs = t._needs and t._array.size > 0
            leaves = [t for t in made if t._needs]
            copies = iter([t.clone() for t in made])  # type: ignore[attr-defined]
            given = _replaced(given, copies)
            outs = calls.opened(calls.call(op, given, attrs))
            live = [(i, t) for i, t in enumerate(outs) if t.requires_grad]
            if not live:
                continue
            seeds = [wrap(make(i, t)) for i, t in live]
            written = [*[t for t in _flat(given) if isinstance(t, Tensor)], *outs][which]
            if written._array.dtype.kind == "b" or not written._array.flags.writeable:
                continue
            before, modes.grad = modes.grad, False
            try:
                written.add_(1)  # type: ignore[attr-defined]
            finally:
                modes.grad = before
            try:
                found = engine.grad([t for _, t in live], leaves, seeds, allow_unused=True)
            except AutogradError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
                continue
            kept = [g for g, t in zip(right, _leaves(args, needs), strict=True) if t.size > 0]
            for i, (a, b) in enumerate(zip(found, kept, strict=True)):
                if a is not None and b is not None:
                    _alike(
                        f"{op.name}, {case}: gradient {i} after tensor {which} was written: backward read memory "
                        f"that was overwritten, without an error",
                        a,
                        b,
                    )


def _leaves(args: Sequence[Any], needs: Sequence[bool]) -> list[np.ndarray]:
    return [a for a, n in zip(calls.arrays_in(args), needs, strict=False) if n and is_differentiable(a.dtype)]


def _flat(values: Sequence[Any]) -> list[Any]:
    return [x for v in values for x in (v if isinstance(v, list) else [v])]


def _replaced(given: Sequence[Any], copies: Any) -> list[Any]:
    return [
        [next(copies) for _ in a] if isinstance(a, list) else next(copies) if isinstance(a, Tensor) else a
        for a in given
    ]
