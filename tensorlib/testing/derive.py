"""``checks(op)``: everything an operator is put through, derived from its declaration alone.

Each check is named, can be run by itself and says by its name what it found wrong:

===============  ===========================================================================================
declaration      a docstring that says something, samples where they cannot be derived
spec             what ``spec`` says against what the body gives: shapes, dtypes, auxiliary outputs
reference        ``cpu=`` against the readable body
expected         stored values of another library: numbers, shapes, dtypes, gradients
oracle           float32 and half types against float64 on the same (rounded) numbers, with derived bounds
inputs           nobody wrote into an argument that is not declared in ``mutates``
gradient         central differences; shape and dtype of every gradient
second-order     central differences of the gradient, in the inputs and in the cotangents
composite        a fused operator against the composite it names: outputs and gradients
paths            gradients on raw arrays and by fused kernels against those by Tensor operators
stale            a write between forward and backward gives an error or has no effect
fast             the fast path of a ufunc against the one slow path: numbers, dtypes, errors
kernel           the kernel in Triton's interpreter against the CPU, in memory that was poisoned
native           the kernel as machine code of the processor, at sizes of use too; where there is a compiler for it
compile          the kernel compiled for every GPU target, its parameter block read back
errors           the declared errors, alike on the CPU and in the interpreter
inplace          ``x.op_()`` and ``out=`` against the result; version counters
mutates          what is written is what was declared, alike on the CPU and in the interpreter
===============  ===========================================================================================
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _dispatch
from tensorlib._core import Tensor, version_of, wrap
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib._dtypes import HALF
from tensorlib.autograd import engine
from tensorlib.errors import DeviceError, DtypeError
from tensorlib.op import Composite, Op
from tensorlib.runtime import memory
from tensorlib.runtime.native import codegen
from tensorlib.testing import calls, expected, gradients, kernels, transforms
from tensorlib.testing.cases import (
    BFLOAT16,
    COMPLEX64,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Case,
    Declared,
    at_size,
    cases,
    dtypes,
    each_case,
    is_random,
    usual,
    writes_first,
)
from tensorlib.testing.compare import (
    CheckError,
    bounds,
    eps,
    exact64,
    is_differentiable,
    is_float,
    same,
    smallest_normal,
    within,
    working_eps,
)


class Check(NamedTuple):
    """One check of one operator: call it; it raises CheckError or what the operator raised."""

    op: str
    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run it. What it raises carries a note with the operator's name and the check's."""
        try:
            self.run()
        except Exception as error:
            error.add_note(f"check {self.name!r} of operator {self.op!r}")
            raise

    def __repr__(self) -> str:
        return f"{self.op}-{self.name}"


def checks(op: Any, *, values: Path | str | None = None, targets: kernels.Extent = "each") -> Iterator[Check]:
    """The checks of a declared operator: the operator, its public function or its name.

    Which ones depends on the declaration: ``gradient`` needs a vjp, ``kernel`` and ``compile`` a kernel, ``inplace`` an
    ``out=`` or ``inplace=True``, ``errors`` its errors. ``repr`` of each is ``operator-check``; called, it raises
    CheckError or what the operator raised. All but ``declaration`` need samples; those of pointwise operators are made
    from the arity. ``help(tensorlib.testing.derive)`` says what each one compares.

    ``values``: the folder with stored values of another library; without it the check ``expected`` is left out.
    ``targets``: "each" compiles for each target with one dtype, in turn; "all" for each target with each dtype; "turn"
    for one target of each family (NVIDIA, AMD with wavefronts of 64, of 32), others for another operator: for a library
    whose kernels many operators launch, together with ``kernels.left_out``.
    """
    made = calls.declared(op)
    try:
        everything = list(_checks(made, values, targets))
    except Exception as error:  # samples that cannot be drawn are this operator's failure alone
        yield Check(made.name, "declaration", partial(_reraise, error))
        return
    yield from everything


def _reraise(error: Exception) -> None:
    raise error


def _checks(made: Declared, values: Path | str | None, targets: kernels.Extent) -> Iterator[Check]:
    def check(name: str, run: Callable[..., None], *args: Any) -> Check:
        return Check(made.name, name, partial(run, made, *args))

    yield check("declaration", _declaration)
    if not cases(made):
        return
    if values is not None and made.where:
        yield check("expected", _expected, Path(values))
    yield check("oracle", _oracle)
    yield check("inputs", _inputs)
    if transforms.transformable(made):
        yield check("vmap", transforms.batched)
        yield check("forward", transforms.forward)
    if isinstance(made, Composite):
        yield check("kernel", whole_on)
        if not writes_first(made) and _differentiable(made):
            yield check("gradient", gradients.first_order)
            yield check("second-order", gradients.second_order)
        if made.inplace:
            yield check("inplace", _inplace)
        return
    yield check("spec", _spec)
    if made.cpu is not made.reference:
        yield check("reference", _reference)
    if made.vjps is not None and not _declined(made):
        yield check("gradient", gradients.first_order)
        if made.where:
            yield check("second-order", gradients.second_order)
            yield check("paths", gradients.paths_agree)
        yield check("stale", gradients.never_stale)
    if made.composite is not None:
        yield check("composite", gradients.compare_with_composite)
    if made.fast is not None:
        yield check("fast", _fast)
    if made.kernel is not None:
        yield check("kernel", kernel_on)
        if codegen.available():
            yield check("native", _native)
        yield check("compile", _compile, targets)
    elif made.is_view:
        yield check("kernel", whole_on)
    if made.errors:
        yield check("errors", _errors)
    if made.inplace or has_out(made):
        yield check("inplace", _inplace)
    if made.mutates:
        yield check("mutates", _mutates)


def _declined(made: Op) -> bool:
    """Whether its declaration says of every floating-point sample that its gradient is not to be compared."""
    draws = [d for c in cases(made) for d in c.draws() if d.dtype is None]
    return bool(draws) and not any(d.grad for d in draws)


def _differentiable(made: Composite) -> bool:
    """Whether a float result of a float input wants a gradient."""
    for case, args, attrs in gradients.at_points(made)[:3]:
        try:
            outs = calls.gradients(made, args, attrs, gradients.cotangents(case), needs=case.needs())[0]
        except Exception:  # the check will meet it again and report it
            return True
        if any(t.requires_grad for t in outs):
            return True
    return False


def has_out(op: Op) -> bool:
    """Whether its public function takes ``out=``."""
    return not (op.is_view or op.mutates or op.dynamic or "out" in op.signature.parameters) and bool(op.where)


# -------------------------------------------------------------------------------------------------------- declaration


def _declaration(made: Declared) -> None:
    """A first docstring line of its own, and samples that cannot be derived."""
    text = (made.__doc__ or "").strip().partition("\n")[0].strip()
    if len(text) < 12 or text.lower().rstrip(".") == made.name:
        raise CheckError(f"{made.name}: its docstring begins with {text!r}: expected a formula or a sentence")
    if isinstance(made, Op):
        if not cases(made):
            raise CheckError(f"{made.name}: has no samples: declare samples=each(draw(...), ...)")
        if not made.pointwise and not any(c.label.startswith("sample") for c in cases(made)):
            raise CheckError(f"{made.name}: has no samples of its own: declare samples=each(draw(...), ...)")


# --------------------------------------------------------------------------------------------------- values and specs


def _length(op: Declared, arrays: Sequence[np.ndarray], outs: Sequence[np.ndarray]) -> int:
    """How many numbers one result may accumulate."""
    if isinstance(op, Op) and op.pointwise:
        return 1
    return max((a.size for a in arrays), default=1)


def _bounds(
    made: Declared, args: Any, attrs: Any, dtype: Any, working: float | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """float64 results and how far results in ``dtype`` may be from them; None where float64 is refused."""
    wide = dtypes(made)
    if is_random(made) or (FLOAT64 not in wide and COMPLEX64 not in wide):  # float64 draws other numbers
        return None
    arrays = calls.arrays_in(args)
    if len(_floats(args)) > 1:  # rounded once, to what promotion makes of them
        dtype = next((r.dtype for r in calls.run(made, args, attrs) if is_float(r.dtype)), dtype)

    def function(*wide: np.ndarray) -> list[np.ndarray]:
        return calls.host(calls.run(made, calls.with_arrays(args, wide), attrs))

    results, allowed = bounds(function, arrays, dtype, _length(made, arrays, ()), working)
    if isinstance(made, Op) and made.tolerance is not None:
        print(f"{made.name}: tolerance {made.tolerance} as declared, instead of the derived bound")
        for i, r in enumerate(results):
            if r.dtype.kind in "fc":
                size = np.abs(np.where(np.isfinite(r), r, 0))
                allowed[i] = made.tolerance * (size + size.max(initial=0.0)) + eps(dtype) * size
    return list(results), allowed


def _floats(args: Any) -> set[np.dtype[Any]]:
    """The floating-point dtypes among the arguments: one, where the call may be evaluated in float64 for comparison."""
    return {a.dtype for a in calls.arrays_in(args) if is_differentiable(a.dtype)}


def _oracle(made: Declared) -> None:
    """Results in each float dtype against float64 evaluation of the same numbers."""
    for case, dtype in each_case(made, (FLOAT32, BFLOAT16, FLOAT16), few=3):
        if case.special or not is_float(dtype) or dtype == FLOAT64:
            continue
        args, attrs = case.arguments(dtype)
        if len(_floats(args)) != 1:
            continue
        got = calls.run(made, args, attrs)
        # A composite rounds to the half type at each step.
        working = eps(dtype) if isinstance(made, Composite) else None
        found = _bounds(made, args, attrs, dtype, working)
        if found is None:
            return
        for i, (r, want, allowed) in enumerate(zip(got, *found, strict=True)):
            what = f"{made.name}, {case}, {dtype}: output {i} against float64"
            if is_float(r.dtype) and r.dtype != FLOAT64:
                if r.dtype != dtype:  # float32 beside half inputs, such as a statistic
                    allowed = allowed + eps(r.dtype) * np.abs(np.where(np.isfinite(want), want, 0))
                within(r, want, allowed, what)
            elif r.dtype.kind in "iub" and _settled(made, args, attrs, dtype):
                within(r, want.astype(r.dtype), 0.0, what)


def _settled(made: Declared, args: Any, attrs: Any, dtype: Any) -> bool:
    """Whether integer results do not hang on rounding: the same after each float moved by one rounding error."""
    from_wide = [exact64(a) for a in calls.arrays_in(args)]
    rng = np.random.default_rng(3)
    unit = eps(dtype)
    moved = [a * (1 + unit * rng.choice((-1.0, 1.0), a.shape)) if a.dtype.kind == "f" else a for a in from_wide]
    a, b = (calls.run(made, calls.with_arrays(args, x), attrs) for x in (from_wide, moved))
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True) if p.dtype.kind in "iub")


def _spec(op: Op) -> None:
    """Shapes and dtypes that spec says, against the arrays that the body gives."""
    for case, dtype in each_case(op):
        args, attrs = case.arguments(dtype)
        try:
            bound = calls.bind(op, args, attrs)
        except DtypeError:
            if dtype == usual(op) and not case.fixed:
                raise
            continue
        if bound.specs is None:
            continue
        # Its own arrays: whatever the mechanism would convert afterwards is seen here.
        result = op.reference(*bound.arrays, **bound.attrs)
        results = result if type(result) is tuple else (result,)
        if len(results) != len(bound.specs):
            raise CheckError(f"{op.name}, {case}: the body gives {len(results)} arrays, spec {len(bound.specs)}")
        names = [*op.outputs, *op.aux]
        for i, (r, (shape, want)) in enumerate(zip(results, bound.specs, strict=True)):
            what = f"{op.name}, {case}, {dtype}: {names[i] if i < len(names) else i}"
            if np.shape(r) != tuple(shape):
                raise CheckError(f"{what}: the body gives shape {np.shape(r)}, spec says {tuple(shape)}")
            _dtype_fits(what, np.asarray(r).dtype, np.dtype(want), op)


_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}


def _dtype_fits(what: str, got: np.dtype[Any], want: np.dtype[Any], op: Op) -> None:
    """CheckError unless the mechanism only rounds ``got`` to ``want``: never to another kind, never to a wider one."""
    if got == want or (want in HALF and got == FLOAT32):
        return
    narrows = _RANK[got.kind] == _RANK[want.kind] and (got.itemsize >= want.itemsize or got.kind in "iub")
    narrows |= got.kind == "b"  # any() of uint8 is uint8, a mask may be a float
    if not narrows:
        raise CheckError(f"{what}: the body gives {got}, spec says {want}")


def _reference(op: Op) -> None:
    """The faster CPU implementation against the readable one."""
    for case, dtype in each_case(op):
        args, attrs = case.arguments(dtype)
        try:
            # Bound twice: an implementation may work inside the arrays that were made for it.
            one, other = calls.bind(op, args, attrs), calls.bind(op, args, attrs)
        except DtypeError:
            continue
        found = []
        for function, bound in ((op.cpu, one), (op.reference, other)):
            result = function(*bound.arrays, **bound.attrs)
            if op.mutates:
                result = tuple(_flat(bound.arrays[i] for i in op.mutates))
            found.append(result if type(result) is tuple else (result,))
        for i, (a, b) in enumerate(zip(*found, strict=True)):
            b = np.asarray(b)
            size = (
                np.abs(np.where(np.isfinite(exact64(b)), exact64(b), 0))
                if b.dtype.kind not in "iub"
                else np.zeros(b.shape)
            )
            unit = max(eps(b.dtype), eps(FLOAT32) if dtype in HALF else 0.0)
            allowed = 16 * unit * (size + size.max(initial=0.0) + float(np.sqrt(b.size)))
            if op.pointwise or b.dtype.kind in "iub":
                allowed = 16 * unit * size
            found_bounds = None
            if case.special is False and is_float(b.dtype) and _floats(args) and i < op.n_public:
                found_bounds = _bounds(op, args, attrs, FLOAT32 if b.dtype != FLOAT64 else FLOAT64)
            if found_bounds is not None and found_bounds[1][i].shape == b.shape:
                allowed = np.maximum(allowed, 2 * found_bounds[1][i])
            within(
                np.asarray(a).astype(b.dtype),
                b,
                allowed,
                f"{op.name}, {case}, {dtype}: cpu= against the body, output {i}",
            )


def _flat(values: Any) -> list[Any]:
    return [x for v in values for x in (v if isinstance(v, list) else [v]) if x is not None]


def _inputs(made: Declared) -> None:
    """Arguments are as they were, after the call and after its backward."""
    allowed = set()
    if isinstance(made, Op):
        allowed = {made.tensors[i].name for i in made.mutates}
    elif writes_first(made):
        allowed = {next(iter(made.signature.parameters))}
    names = list(made.signature.parameters)
    for case in cases(made):
        args, attrs = case.arguments(usual(made))
        given, tensors = calls.tensors(args, needs=case.needs() if not allowed else False)
        before = [t._array.copy() for t in tensors]
        outs = calls.opened(calls.call(made, given, attrs))
        live = [t for t in outs if t.requires_grad]
        if case.refusable:  # PyTorch refuses some of their gradients, as of atan2 of bools
            live = []
        if live and (not isinstance(made, Op) or made.vjps is not None):
            leaves = [t for t in tensors if t._needs]
            seeds = [wrap(np.full(t._array.shape, 1.5, t._array.dtype)) for t in live]
            engine.grad(live, leaves, seeds, allow_unused=True)
            for i, s in enumerate(seeds):
                what = f"{made.name}, {case}: the gradient of output {i} was written by the vjp"
                within(s._array, np.full(s._array.shape, 1.5, s._array.dtype), 0.0, what)
        owners = [names[min(i, len(names) - 1)] for i, a in enumerate(args) for _ in _arrays_of(a)]
        for i, (t, old, owner) in enumerate(zip(tensors, before, owners, strict=True)):
            if owner not in allowed:
                within(
                    t._array, old, 0.0, f"{made.name}, {case}: tensor {i} ({owner}) was written, and is not in mutates"
                )


def _arrays_of(a: Any) -> list[Any]:
    return [x for x in (a if isinstance(a, list) else [a]) if isinstance(x, np.ndarray)]


# ----------------------------------------------------------------------------------------------------- stored values


def _expected(made: Declared, folder: Path) -> None:
    """Values, shapes, dtypes and gradients against those stored."""
    records = expected.load(folder / f"{made.name}.npz")
    for call in expected.plan(made):
        what = f"{made.name}, {call.case}, {call.dtype}"
        record = records.get(call.key)
        if record is None:
            raise CheckError(f"{what}: no expected value is stored: make it with {folder / 'make.py'} {made.name}")
        if record.error is not None:
            if call.usual and not call.case.refusable and not record.error.startswith(expected.LEFT_OUT):
                raise CheckError(f"{what}: there is nothing to compare with, it raised {record.error}")
            if call.dtype == COMPLEX64 and not _NO_GRADIENT.search(record.error) and _takes(made, call):
                raise CheckError(f"{what}: takes complex numbers, where PyTorch raises {record.error}")
            continue
        got = calls.run(made, call.args, call.attrs)
        if len(got) != len(record.outputs):
            raise CheckError(f"{what}: {len(got)} outputs, expected {len(record.outputs)}")
        allowed = _allowed(made, call)
        if allowed is None and not call.case.special and not (isinstance(made, Op) and made.pointwise):
            allowed = [_summed(r) for r in got]
        for i, (r, want) in enumerate(zip(got, record.outputs, strict=True)):
            if is_random(made):  # other numbers, of the same shape and dtype
                _same_kind(f"{what}: output {i}", r, want)
            else:
                lost = _cancelled(made, call.args, r) if call.case.special else None
                _stored(f"{what}: output {i}", r, want, lost if allowed is None else allowed[i], call.case.special)
        if call.gradients and record.gradients:
            _stored_gradients(made, call, record, what)


#: PyTorch computes some operators of complex numbers, and lacks only the gradient.
_NO_GRADIENT = re.compile(f"^{expected.LEFT_OUT}|does not support automatic differentiation")


def _takes(made: Declared, call: expected.Call) -> bool:
    """Whether the operator computes this call, or refuses its dtypes."""
    try:
        calls.run(made, call.args, call.attrs)
    except DtypeError:
        return False
    return True


def _summed(r: np.ndarray) -> np.ndarray:
    """How far sums of integers may be off: some roundings of the largest of them."""
    if not is_differentiable(r.dtype):
        return np.zeros(r.shape)
    size = np.abs(np.where(np.isfinite(exact64(r)), exact64(r), 0))
    return 16 * eps(r.dtype) * (size + size.max(initial=0.0)) + 1e-37  # type: ignore[no-any-return]


def _allowed(made: Declared, call: expected.Call) -> list[np.ndarray] | None:
    if call.case.special or not _floats(call.args):
        return None
    found = _bounds(made, call.args, call.attrs, call.dtype, _coarsest(call.args))
    return None if found is None else [2 * b for b in found[1]]


def _coarsest(args: Any) -> float | None:
    """The working precision where half types are among the arguments: PyTorch may round to them between the steps of
    what is one operator here. None without them, and for one dtype.
    """
    kinds = _floats(args)
    return max(map(eps, kinds)) if len(kinds) > 1 or kinds & HALF else None


def _same_kind(what: str, got: np.ndarray, want: expected.Values) -> None:
    name = _dispatch.dtype_name(got.dtype).removeprefix("tensorlib.")
    if name != want.dtype:
        raise CheckError(f"{what}: dtype {name}, expected {want.dtype}")
    if got.shape != want.shape:
        raise CheckError(f"{what}: shape {got.shape}, expected {want.shape}")


def _stored(
    what: str, got: np.ndarray, want: expected.Values, allowed: np.ndarray | None, special: bool = False
) -> None:
    _same_kind(what, got, want)
    assert want.kept is not None
    at = expected.positions(got.size)
    mine = got.reshape(-1)[at]
    if special or allowed is None or allowed.shape != got.shape:
        unit = eps(got.dtype)
        wide = exact64(want.kept)
        with np.errstate(all="ignore"):
            limit = 16 * unit * np.abs(np.where(np.isfinite(wide), wide, 0)) if unit else np.zeros(mine.shape)
            limit = limit + (1e-37 if unit else 0.0)
        if special and allowed is not None and allowed.shape == got.shape:
            limit = limit + allowed.reshape(-1)[at]
    else:
        limit = allowed.reshape(-1)[at]
    within(mine, want.kept, limit, what)


def _stored_gradients(made: Declared, call: expected.Call, record: expected.Record, what: str) -> None:
    def make(i: int, t: Tensor) -> np.ndarray:
        x = t._array
        return expected.cotangent(call.key, i, x.shape, x.dtype.kind == "c").astype(x.dtype)

    grads = calls.gradients(made, call.args, call.attrs, make, needs=call.needs)[2]
    allowed: Any = [None] * len(grads)
    arrays = calls.arrays_in(call.args)
    if FLOAT64 in dtypes(made) or call.dtype == COMPLEX64:
        function, given = gradients.gradient_function(made, call.args, call.attrs, make, call.needs)
        length = max((a.size for a in arrays), default=1)
        allowed = [2 * b for b in bounds(function, given, call.dtype, length, _coarsest(call.args))[1]]
    for i, (g, want) in enumerate(zip(grads, record.gradients, strict=True)):
        if want is None:
            if g is not None and np.any(g._array != 0):
                raise CheckError(f"{what}: gradient {i} is not zero, PyTorch gives none")
            continue
        assert want.kept is not None
        if g is None:
            if np.any(want.kept != 0):
                raise CheckError(f"{what}: there is no gradient {i}, PyTorch gives one")
            continue
        _stored(f"{what}: gradient {i}", g._array, want, allowed[i])


# ---------------------------------------------------------------------------------------------------------- fast path


def _fast(op: Op) -> None:
    """Every pair of kinds of operands through the fast function and through the slow one."""
    kinds = operands()
    if len(op.tensors) == 1:
        for x in kinds:
            _both(op, (x,))
        return
    for x in kinds:
        for y in kinds:
            _both(op, (x, y))


def operands() -> list[Any]:
    """One operand of each kind: dtypes, layouts, numbers, dimensions, what is refused."""
    rng = np.random.default_rng(9)
    base = rng.uniform(0.5, 2.0, (3, 4)).astype(np.float32)
    found: list[Any] = [wrap(base), wrap(base.astype(np.float64)), wrap(base.T), wrap(base[:, ::2]), wrap(base[:1])]
    found += [wrap(base.astype(BFLOAT16)), wrap(base.astype(np.float16)), wrap((base * 3).astype(np.int64))]
    found += [wrap(base > 1), wrap(np.asarray(base[0, 0])), wrap(np.asarray(1.5)), wrap(np.asarray(3)), wrap(base[:0])]
    needs = wrap(base.copy())
    needs._needs = True
    found += [needs, 2, 0.5, -1.0, True, base, "text", None, [1.0]]
    return found


def _both(op: Op, given: tuple[Any, ...]) -> None:
    assert op.fast is not None
    attrs = {p.name: p.default for p in op.attrs}
    outcomes: list[tuple[Any, Any]] = []
    ways: tuple[Callable[[], Any], ...] = (partial(op.fast, *given), lambda: _dispatch.apply(op, given, dict(attrs)))
    for function in ways:
        try:
            outcomes.append((function(), None))
        except Exception as error:  # the error is what is compared
            outcomes.append((None, error))
    (a, first), (b, second) = outcomes
    what = f"{op.name}({', '.join(map(_shown, given))}), fast against slow"
    if first is not None or second is not None:
        if type(first) is not type(second) or str(first) != str(second):
            raise CheckError(f"{what}: {first!r} against {second!r}")
        return
    same(a._array, b._array, what)
    if a.requires_grad != b.requires_grad:
        raise CheckError(f"{what}: requires_grad is {a.requires_grad} against {b.requires_grad}")
    if a.requires_grad:
        leaves = [x for x in given if isinstance(x, Tensor) and x._needs]
        seed = wrap(np.full(a._array.shape, 1.25, a._array.dtype))
        ones, others = (_gradients_or_error(t, leaves, seed) for t in (a, b))
        if isinstance(ones, Exception) or isinstance(others, Exception):
            if str(ones) != str(others):
                raise CheckError(f"{what}: gradient: {ones!r} against {others!r}")
            return
        for p, q in zip(ones, others, strict=True):
            if (p is None) != (q is None):
                raise CheckError(f"{what}: only one of them gives a gradient")
            if p is not None:
                same(p._array, q._array, f"{what}: gradient")


def _gradients_or_error(t: Tensor, leaves: list[Tensor], seed: Tensor) -> Any:
    try:
        return engine.grad(t, leaves, seed, allow_unused=True)
    except DtypeError as error:
        return error


def _shown(x: Any) -> str:
    return f"{x._array.dtype}{x._array.shape}" if isinstance(x, Tensor) else repr(x)[:20]


# ------------------------------------------------------------------------------------------------------------ kernels


def kernel_on(
    op: Op, device: Device = kernels.INTERPRET, chosen: Iterable[tuple[Case, np.dtype[Any]]] | None = None
) -> None:
    """Outputs and auxiliary outputs of the kernel on a device (the interpreter, a GPU) against those of the CPU."""
    for case, dtype in kernels.interpreted(op) if chosen is None else chosen:
        args, attrs = case.arguments(dtype)
        what = f"{op.name}, {case}, {dtype}: kernel on {device} against the CPU"
        try:
            bound = calls.bind(op, args, attrs, device)
        except DtypeError:
            if dtype == usual(op) and not case.fixed:
                raise
            continue
        if bound.device is not device:
            continue
        here = calls.bind(op, args, attrs, cpu)
        with kernels.poisoned():
            outs = calls.on_kernel(op, bound)
            if op.mutates:
                outs = _flat(bound.arrays[i] for i in op.mutates)
            got = calls.host(outs)
        result = op.cpu(*here.arrays, **here.attrs)
        if op.mutates:
            result = tuple(_flat(here.arrays[i] for i in op.mutates))
        wants = [np.asarray(w) for w in (result if type(result) is tuple else (result,))]
        if bound.specs is not None:
            # Converted as the dispatcher does.
            with np.errstate(all="ignore"):
                wants = [w.astype(s[1], copy=False) for w, s in zip(wants, bound.specs, strict=True)]
        allowed = _kernel_bounds(op, case, args, attrs, dtype, device)
        for i, (g, w) in enumerate(zip(got, wants, strict=True)):
            if g.dtype != w.dtype:
                raise CheckError(f"{what}: output {i} has dtype {g.dtype}, expected {w.dtype}")
            limit = _limit(op, w, None if allowed is None else allowed, i)
            if case.special:
                limit = limit + _cancelled(op, args, w)
            within(g, w, limit + approximate(device, w, op), f"{what}, output {i}")


def _native(op: Op) -> None:
    """The kernel as machine code of the processor against the CPU: small calls, and those of a size that is used."""
    with memory.fenced():
        kernel_on(op, kernels.NATIVE, kernels.natively(op))
    kernel_on(op, kernels.NATIVE, [(case, usual(op)) for case in at_size(op)])


def approximate(device: Device, want: np.ndarray, made: Declared) -> float:
    """What a GPU's approximate instructions add to how far a result may be off; 0 elsewhere.

    They flush what is below float32's smallest normal number to zero. Normal numbers are sqrt(-2 log u), and the
    logarithm is right to 2**-22, not to 2**-22 of itself: near u = 1 that is up to 2**-11 of the number.
    """
    if not device.type.startswith(("cuda", "hip")) or not is_float(want.dtype):
        return 0.0
    drawn = 2.0**-11 if is_random(made) and want.dtype != FLOAT64 else 0.0
    return drawn + smallest_normal(FLOAT64 if want.dtype == FLOAT64 else FLOAT32)


def _kernel_bounds(op: Op, case: Case, args: Any, attrs: Any, dtype: Any, device: Device) -> list[np.ndarray] | None:
    # exp(88) by exp2(88 · log2 e) is 64 roundings off: special values on a GPU get the bound of their conditioning.
    special = case.special and device is kernels.INTERPRET
    if special or not is_float(dtype) or op.mutates or not _floats(args):
        return None
    found = _bounds(op, args, attrs, dtype)
    return None if found is None else [2 * b for b in found[1]]


def _cancelled(made: Declared, args: Any, want: np.ndarray) -> np.ndarray:
    """What subtraction within an elementwise formula may lose: a few roundings of the operands, or of 1."""
    size = np.zeros(want.shape)
    if not (isinstance(made, Op) and made.pointwise) or not is_float(want.dtype):
        return size
    for a in args:
        if isinstance(a, (np.ndarray, int, float)):
            x = np.abs(exact64(np.asarray(a)).astype(np.float64))
            size = np.maximum(size, np.where(np.isfinite(x), x, 0))
    return 4 * working_eps(want.dtype) * np.minimum(size, 1)


def _limit(op: Op, want: np.ndarray, allowed: list[np.ndarray] | None, i: int) -> Any:
    """How far an interpreted result may be from the CPU's: the derived bound, else a few roundings of its size."""
    if not is_float(want.dtype) and want.dtype.kind != "c":
        return 0.0
    wide = np.abs(exact64(want))
    size = np.where(np.isfinite(wide), wide, 0)
    unit = eps(want.dtype)
    if op.promote is None and not op.random and op.vjps is not None and op.pointwise:
        return 0.0
    own = 8 * unit * size + (0.0 if op.pointwise else 16 * unit * size.max(initial=0.0))
    if allowed is not None and i < len(allowed) and allowed[i].shape == want.shape:
        return np.maximum(allowed[i], own)
    return own + float(np.finfo(np.float32).tiny)


def whole_on(made: Declared, device: Device = kernels.INTERPRET) -> None:
    """The public function on a device (Triton's interpreter, a GPU) against the CPU."""
    for case, dtype in each_case(made, (FLOAT32, BFLOAT16, FLOAT16)):
        args, attrs = case.arguments(dtype)
        if any(a.dtype.kind == "c" for a in calls.arrays_in(args)):  # complex numbers are on the CPU only
            continue
        if not calls.arrays_in(args) and "device" not in made.signature.parameters:
            continue
        want = calls.run(made, args, attrs)
        try:
            with kernels.poisoned():
                got = calls.host(calls.run(made, args, attrs, device))
        except (DeviceError, DtypeError) as error:  # an operator without a kernel says so
            if "on the CPU only" not in str(error):
                raise
            continue
        working = eps(dtype) if isinstance(made, Composite) and is_float(dtype) else None
        found = None
        if not case.special and is_float(dtype) and _floats(args):
            found = _bounds(made, args, attrs, dtype, working)
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            what = f"{made.name}, {case}, {dtype}: on {device} against the CPU, output {i}"
            if g.dtype != w.dtype:
                raise CheckError(f"{what}: dtype {g.dtype}, expected {w.dtype}")
            limit: Any = 0.0
            if isinstance(made, Composite) and w.dtype.kind not in "iub":
                size = np.abs(np.where(np.isfinite(exact64(w)), exact64(w), 0))
                limit = 16 * eps(w.dtype) * size + 1e-37
                if found is not None and found[1][i].shape == w.shape:
                    limit = np.maximum(limit, 2 * found[1][i])
                limit = limit + approximate(device, w, made)
            within(g, w, limit, what)


def _compile(op: Op, extent: kernels.Extent) -> None:
    """The targets, with the parameter block read back from each binary."""
    if not kernels.representatives(op):
        raise CheckError(f"{op.name}: no sample launches a kernel")
    kernels.compile_for(op, extent)


# ------------------------------------------------------------------------------------------------- errors and writing


def _errors(op: Op) -> None:
    """The declared errors: type and message, on the CPU and, when spec raises them, before anything is launched."""
    for sample in op.errors:
        args, attrs = Case("error", sample).arguments(FLOAT32)
        try:
            calls.bind(op, args, attrs)
            devices: tuple[Any, ...] = (cpu,)  # the numbers are at fault, which only the CPU looks at
        except Exception:  # which error it is, is looked at below
            devices = (cpu, kernels.INTERPRET)
        for device in devices:
            what = f"{op.name}{sample!r} on {device}"
            try:
                calls.run(op, args, attrs, device)
            except sample.error as error:
                if not re.search(sample.match or "", str(error)):
                    raise CheckError(f"{what}: raised {error!r}, expected a message with {sample.match!r}") from error
                continue
            except Exception as error:
                raise CheckError(f"{what}: raised {error!r}, expected {sample.error.__name__}") from error
            raise CheckError(f"{what}: raised nothing, expected {sample.error.__name__} with {sample.match!r}")


def _inplace(made: Declared) -> None:
    """``x.op_(...)`` writes the result into x and counts the write; ``out=`` writes it into the tensor given."""
    tried = 0
    for case, dtype in each_case(made):
        args, attrs = case.arguments(dtype)
        try:
            want = calls.run(made, args, attrs)
        except DtypeError:
            continue
        if isinstance(made, Op) and has_out(made):
            _with_out(made, case, args, attrs, want)
            tried += 1
        first = args[0] if args else None
        if not made.inplace or not isinstance(first, np.ndarray) or first.shape != want[0].shape or 0 in first.strides:
            continue
        given, tensors = calls.tensors(args)
        x = given[0]
        before = version_of(x)[0]
        try:
            with calls.stream():
                result = getattr(Tensor, f"{made.name}_")(*given, **attrs)
        except DtypeError:
            becomes_real = first.dtype.kind == "c" and want[0].dtype.kind == "f"
            if _RANK[want[0].dtype.kind] <= _RANK[first.dtype.kind] and not becomes_real:
                raise
            continue
        what = f"{made.name}_, {case}, {dtype}"
        if result is not x:
            raise CheckError(f"{what}: returns another tensor than its first")
        if version_of(x)[0] <= before:
            raise CheckError(f"{what}: the version counter was not raised")
        with np.errstate(all="ignore"):
            converted = want[0].astype(first.dtype, copy=False)
        same(x._array, converted, what)
        for t, old in zip(tensors[1:], calls.arrays_in(args)[1:], strict=True):
            within(t._array, old, 0.0, f"{what}: another argument was written")
        tried += 1
    if not tried:
        raise CheckError(f"{made.name}: declared inplace=, and no sample keeps its input's shape")


def _with_out(op: Op, case: Case, args: Any, attrs: dict[str, Any], want: Sequence[np.ndarray]) -> None:
    given, _ = calls.tensors(args)
    outs = tuple(wrap(np.empty(w.shape, w.dtype)) for w in want)
    before = [version_of(t)[0] for t in outs]
    result = calls.call(op, given, {**attrs, "out": outs[0] if len(outs) == 1 else outs})
    results = calls.opened(result)
    for i, (t, r, w, b) in enumerate(zip(outs, results, want, before, strict=True)):
        what = f"{op.name}(out=), {case}: output {i}"
        if r is not t:
            raise CheckError(f"{what}: another tensor is returned than was given")
        same(t._array, w, what)
        if version_of(t)[0] <= b:
            raise CheckError(f"{what}: the version counter was not raised")
    if want[0].ndim and want[0].size:
        wrong = wrap(np.empty((*want[0].shape, 2), want[0].dtype))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            calls.call(op, given, {**attrs, "out": wrong if len(outs) == 1 else (wrong, *outs[1:])})
        what = f"{op.name}(out=), {case}: an out of another shape"
        if wrong._array.shape != want[0].shape:
            raise CheckError(f"{what} was not resized: it has {wrong._array.shape}, the result {want[0].shape}")
        same(wrong._array, want[0], what)
        if not any("was resized" in str(w.message) for w in caught):
            raise CheckError(f"{what} was resized without a warning")


def _mutates(op: Op) -> None:
    """The arguments in ``mutates`` are written and counted, alike on the CPU and in the interpreter."""
    written = False
    for case in cases(op):
        args, attrs = case.arguments(usual(op))
        given, _ = calls.tensors(args)
        targets = calls.mutated(op, given)
        before = calls.versions(targets)
        old = [t._array.copy() for t in targets]
        calls.call(op, given, attrs)
        for t, b in zip(targets, before, strict=True):
            if version_of(t)[0] <= b:
                raise CheckError(f"{op.name}, {case}: a tensor was written without raising its version counter")
        written |= any(not np.array_equal(t._array, o) for t, o in zip(targets, old, strict=True))
        if op.kernel is not None:
            mutates_on(op, case, kernels.INTERPRET)
    if not written:
        raise CheckError(f"{op.name}: declares mutates=, and no sample changes a tensor")


def mutates_on(op: Op, case: Case, device: Device) -> None:
    """What one call writes into its arguments on a device against what it writes on the CPU."""
    args, attrs = case.arguments(usual(op))
    here, there = (calls.host(calls.run(op, args, attrs, d)) for d in (cpu, device))
    for i, (g, w) in enumerate(zip(there, here, strict=True)):
        limit = 64 * eps(w.dtype) * (np.abs(exact64(w)) + 1) if is_float(w.dtype) else 0.0
        within(g, w, limit, f"{op.name}, {case}: written tensor {i}, on {device} against the CPU")
