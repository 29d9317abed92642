"""The calls an operator is tried on: the declared samples, and what every operator of its kind is tried on besides.

A pointwise operator needs no samples: from its number of tensors follow broadcast pairs, no elements, no dimensions,
several blocks, layouts that are not contiguous, ties, infinities, NaN, huge and tiny values, Python numbers and mixed
dtypes. Any other operator's samples are repeated with inputs that are not contiguous.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

from tensorlib._samples import Draw, Sample
from tensorlib.errors import DtypeError, ShapeError, TensorlibError
from tensorlib.op import MISSING, Composite, Op
from tensorlib.testing import calls
from tensorlib.testing.compare import is_float

FLOAT32, BFLOAT16, FLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
FLOAT64, INT64, BOOL = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)
#: What kernels are compiled and interpreted in.
KERNEL_DTYPES = (FLOAT32, BFLOAT16, FLOAT16)
COMPLEX64, COMPLEX128 = np.dtype(np.complex64), np.dtype(np.complex128)
#: The dtypes an operator is tried on; each takes those that it does not refuse with a DtypeError.
DTYPES = (*KERNEL_DTYPES, FLOAT64, INT64, np.dtype(np.int32), np.dtype(np.uint8), BOOL, COMPLEX64)

Declared = Op | Composite

#: Around the kinks of relu, abs, clamp, floor and of ties between two operands.
TIES = (-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0)
#: What only IEEE arithmetic settles.
SPECIAL = (
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.5,
    -2.5,
    1e20,
    -1e20,
    1e-18,
    -1e-18,
    6e4,
    88.0,
)


@dataclass(frozen=True)
class Case:
    """One call of an operator."""

    label: str
    sample: Sample
    #: Infinities, NaN and huge values: results are compared, gradients and the float64 evaluation are not.
    special: bool = False
    #: All its dtypes are its own, so that one dtype under test is enough.
    fixed: bool = False
    #: The tensor whose integers are not to be zero: division by an integer zero is an error, not a value.
    divisor: int | None = None
    #: A number, a mixture of dtypes or an infinity, which the operator may refuse.
    refusable: bool = False

    def arguments(self, dtype: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(positional arguments with arrays, keyword arguments) for a dtype under test."""
        with np.errstate(all="ignore"):  # 1e20 overflows in float16, as it should
            args = tuple(_array_of(a) for a in self.sample.arrays(dtype))
            attrs = dict(self.sample.attrs)
            for name, value in attrs.items():
                if isinstance(value, Draw):
                    rng = np.random.default_rng(zlib.crc32(f"{name} {value!r}".encode()))
                    attrs[name] = value.array(rng, np.dtype(dtype))
        at = self.divisor
        if at is not None and at < len(args) and isinstance(x := args[at], np.ndarray) and x.dtype.kind in "iu":
            args = (*args[:at], np.where(x == 0, np.ones((), x.dtype), x), *args[at + 1 :])
        return args, attrs

    def draws(self) -> list[Draw]:
        """The Draws among its arguments, sequences opened."""
        found: list[Draw] = []
        for a in (*self.sample.args, *self.sample.attrs.values()):
            found.extend(x for x in (a if isinstance(a, list) else [a]) if isinstance(x, Draw))
        return found

    def needs(self) -> list[bool]:
        """For each tensor, whether its gradient is its derivative: not so for the weights of a loss, for one."""
        return [bool(d.grad) for d in self.draws()]

    def __str__(self) -> str:
        return f"{self.label} {self.sample!r}"


def _array_of(a: Any) -> Any:
    """An argument with NumPy's scalars as arrays of no dimensions."""
    return [_array_of(x) for x in a] if isinstance(a, list) else np.asarray(a) if isinstance(a, np.generic) else a


def depends_on_dtype(case: Case) -> bool:
    """Whether some tensor takes the dtype under test."""
    return not case.fixed and any(d.dtype is None for d in case.draws())


@cache
def cases(made: Declared) -> tuple[Case, ...]:
    """Every call an operator is tried on, without the mixed dtypes that it refuses."""
    return tuple(c for c in proposed(made) if not c.refusable or any(_binds(made, c, d) for d in (FLOAT32, INT64)))


@cache
def proposed(made: Declared) -> tuple[Case, ...]:
    """Every call an operator may be tried on; it may refuse those of mixed dtypes."""
    declared = [Case(f"sample {i}", s) for i, s in enumerate(made.samples or ())]
    declared = [replace(c, fixed=not depends_on_dtype(c)) for c in declared]
    if isinstance(made, Op) and made.pointwise:
        divisor = 1 if len(made.tensors) == 2 else None
        return tuple(_without_refused(made, replace(c, divisor=divisor)) for c in (*declared, *_pointwise(made)))
    return (*declared, *_not_contiguous(made, declared))


def at_size(op: Op) -> tuple[Case, ...]:
    """Calls of the size that programs have, of at most a few million numbers: those that are timed, else a matrix."""
    if op.bench:
        timed = [Case(f"bench {i}", s) for i, s in enumerate(op.bench)]
        return tuple(c for c in timed if sum(math.prod(d.shape) for d in c.draws()) <= _LARGE)
    plain = [c for c in cases(op) if c.label == "plain"]
    return tuple(
        replace(c, label="a matrix", sample=Sample(tuple(_enlarged(a) for a in c.sample.args), c.sample.attrs))
        for c in plain
    )


_LARGE = 1 << 22


def _enlarged(a: Any) -> Any:
    return replace(a, shape=(1021, 515)) if isinstance(a, Draw) else a


def _without_refused(op: Op, case: Case) -> Case:
    """The case without gradients of the tensors whose rule only says that PyTorch has none (``refuses`` is set)."""
    rules = op.vjps if isinstance(op.vjps, dict) else {}
    refused = [p.name in rules and getattr(rules[p.name].function, "refuses", False) for p in op.tensors]
    if not any(refused):
        return case
    args = tuple(
        replace(a, grad=False) if isinstance(a, Draw) and i < len(refused) and refused[i] else a
        for i, a in enumerate(case.sample.args)
    )
    return replace(case, sample=replace(case.sample, args=args))


# --------------------------------------------------------------------------------------------------------- pointwise


def _domain(op: Op, position: int) -> tuple[float, float]:
    """The range of one tensor's numbers."""
    domain = op.domain
    if isinstance(domain, dict):
        domain = domain.get(op.tensors[position].name)
    elif domain is not None and len(domain) == len(op.tensors) and not isinstance(domain[0], (int, float)):
        domain = domain[position]
    if domain is None:
        return -3.0, 3.0
    return (-3.0 if domain[0] is None else domain[0]), (3.0 if domain[1] is None else domain[1])


def _number(limits: tuple[float, float], at: float) -> float:
    low, high = max(limits[0], -3.0), min(limits[1], 3.0)
    return low + (high - low) * at


def _special(op: Op, position: int, numbers: Sequence[float]) -> list[float]:
    """The special values of one tensor: finite ones within its own domain, where it has one (a count of steps)."""
    own = op.domain.get(op.tensors[position].name) if isinstance(op.domain, dict) else None
    return [v for v in numbers if own is None or not math.isfinite(v) or own[0] <= v <= own[1]]


def _pointwise(op: Op) -> Iterator[Case]:
    n = len(op.tensors)
    if op.variadic or n == 0:
        return
    attrs: dict[str, Any] = {}
    required = [p.name for p in op.attrs if p.default is MISSING and p.name not in ("seed", "offset")]
    if op.samples:
        attrs = {k: v for k, v in op.samples[0].attrs.items() if k not in op.position}
    elif required:
        return
    ranges = [_domain(op, i) for i in range(n)]

    own: dict[int, Draw] = {}
    if op.promoted is not None and op.samples:
        given = op.samples[0].args[:n]
        own = {i: d for i, d in enumerate(given) if i not in op.promoted and isinstance(d, Draw)}

    def draws(*shapes: Any, layout: str = "contiguous", dtypes: Sequence[Any] = ()) -> Sample:
        args = []
        for i, shape in enumerate(shapes):
            low, high = ranges[i]
            dtype = dtypes[i] if dtypes else None
            # Normal numbers fill an open range, uniform ones a given range.
            kind = "normal" if op.domain is None else "uniform"
            drawn = Draw(shape, kind, max(low, -1e3), min(high, 1e3), dtype, None, layout)
            if i in own:  # outside the promotion: a mask, an index, drawn as in the first sample
                drawn = replace(own[i], shape=shape, layout=layout)
            args.append(drawn)
        return Sample(tuple(args), attrs)

    def cycled(*shapes: Any) -> list[Any]:
        return [shapes[i % len(shapes)] for i in range(n)]

    yield Case("plain", draws(*cycled((3, 4))))
    yield Case("several blocks", draws(*cycled((1030,))))
    yield Case("no dimensions", draws(*cycled(())))
    yield Case("no elements", draws(*cycled((0, 3))))
    yield Case("transposed", draws(*cycled((4, 3)), layout="transposed"))
    yield Case("strided", draws(*cycled((3, 5)), layout="strided"))
    yield Case("expanded", draws(*cycled((3, 5)), layout="expanded"))
    gradient = not op.where and any(p.name == "g" for p in op.tensors)  # called with tensors of one shape only
    if n > 1 and not gradient:
        yield Case("broadcast", draws(*cycled((3, 1), (4,))))
        yield Case("broadcast, three dimensions", draws(*cycled((2, 1, 3), (4, 1), (1,))))
        yield Case("broadcast to no elements", draws(*cycled((0, 1), (3,))))
        yield Case("with no dimensions", draws(*cycled((3, 4), ())))
    grids = [[v for v in TIES if low <= v <= high] for low, high in ranges]
    if all(grids) and op.domain is None and not own:
        yield Case("ties", _grid(grids[: min(n, 3)] + grids[3:], attrs))
    if not own:
        special = [_special(op, i, SPECIAL[:6] if n > 2 else SPECIAL) for i in range(n)]
        yield Case("special values", _grid(special, attrs), special=True, refusable=True)
    if gradient or n == 1:
        return
    for i in sorted({*range(n)} - {*own}):
        tensor: list[Any] = list(draws(*cycled((3, 4))).args)
        for number in (_number(ranges[i], 0.75), 2, True):
            if ranges[i][0] <= number <= ranges[i][1]:
                args = [*tensor[:i], number, *tensor[i + 1 :]]
                yield Case(
                    f"{op.tensors[i].name} {number!r}", Sample(tuple(args), attrs), fixed=number is True, refusable=True
                )
    for (a, b), label in _MIXED.items():
        shapes = cycled((2, 3), ()) if label.endswith("no dimensions") else cycled((2, 3))
        yield Case(
            label, draws(*shapes, dtypes=[(a.strip(), b.strip())[i % 2] for i in range(n)]), fixed=True, refusable=True
        )


#: Pairs of dtypes that promotion has to bring together.
_MIXED = {
    ("int64", "float32"): "int64 with float32",
    ("float32", "float64"): "float32 with float64",
    ("bool", "float32"): "bool with float32",
    ("bool", "int32"): "bool with int32",
    ("float16", "bfloat16"): "float16 with bfloat16",
    ("uint8", "int8"): "uint8 with int8",
    ("float32", "float64 "): "float32 with float64 of no dimensions",
    ("int32", "float64"): "int32 with float64 of no dimensions",
    ("int32", "int64"): "int32 with int64 of no dimensions",
    ("bfloat16", "float32"): "bfloat16 with float32 of no dimensions",
}


def _grid(axes: Sequence[Sequence[float]], attrs: dict[str, Any]) -> Sample:
    """Every combination of the values, one array for each axis."""
    points = list(product(*axes))
    columns = [[p[i] for p in points] for i in range(len(axes))]
    return Sample(tuple(Draw((len(c),), "values", values=c) for c in columns), attrs)


# ------------------------------------------------------------------------------------------------ the layout variants


def _not_contiguous(made: Declared, declared: Sequence[Case]) -> Iterator[Case]:
    for layout in ("transposed", "strided"):
        found = 0
        for case in declared:
            args = tuple(_laid_out(a, layout) for a in case.sample.args)
            if args == case.sample.args or found == 2:
                continue
            variant = Case(f"{case.label} {layout}", replace(case.sample, args=args), case.special, case.fixed)
            if not _takes(made, variant):
                continue
            found += 1
            yield variant


def _takes(made: Declared, case: Case) -> bool:
    """view() refuses some strides and as_strided() counts in them, as PyTorch's do; all others take any."""
    if made.name.lstrip("_").startswith("as_strided"):
        return False
    if not made.name.startswith("view") and not (isinstance(made, Op) and made.is_view):
        return True
    try:
        calls.run(made, *case.arguments(FLOAT32))
    except ShapeError:
        return False
    except Exception:  # the checks will meet it again
        return True
    return True


def _binds(made: Declared, case: Case, dtype: Any) -> bool:
    """Whether it takes the dtypes of a call; what else is wrong with the call, the checks will say."""
    args, attrs = case.arguments(dtype)
    try:
        if isinstance(made, Op) and not made.is_view:
            bound = calls.bind(made, args, attrs)  # not the call itself: it may have a fast path, and not ask
            if dtype == BOOL or case.special:  # half of the divisors are zero; a probability is not 1e20
                made.cpu(*bound.arrays, **bound.attrs)
        else:
            calls.run(made, args, attrs)
    except DtypeError:
        return False
    except TensorlibError:
        return dtype != BOOL and not case.special
    except Exception:
        return True
    return True


def _laid_out(a: Any, layout: str) -> Any:
    if isinstance(a, list):
        return [_laid_out(x, layout) for x in a]
    if not isinstance(a, Draw) or a.layout != "contiguous" or a.kind == "values" or 0 in a.shape:
        return a
    if len(a.shape) < (2 if layout == "transposed" else 1):
        return a
    return replace(a, layout=layout)


# ------------------------------------------------------------------------------------------------------------- dtypes


@cache
def dtypes(made: Declared) -> tuple[np.dtype[Any], ...]:
    """The dtypes it takes: those that its first calls do not refuse with a DtypeError. The first is the usual one."""
    tried = [c for c in cases(made) if depends_on_dtype(c) and not c.special and not c.refusable][:2]
    if not tried:
        return (FLOAT32,)
    found = [d for d in DTYPES if all(_binds(made, c, d) for c in tried)]
    if not made.where and any(is_float(d) for d in found):
        # What only other operators call is called with what they compute in.
        found = [d for d in found if is_float(d)]
    return tuple(found)


@cache
def is_random(made: Declared) -> bool:
    """Whether its results change with the seed."""
    if isinstance(made, Op):
        return made.random
    for case in cases(made)[:4]:
        args, attrs = case.arguments(usual(made))
        results = [calls.run(made, args, attrs, seed=seed) for seed in (1, 2)]
        if any(not np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") for a, b in zip(*results, strict=True)):
            return True
    return False


def writes_first(made: Declared) -> bool:
    """Whether it is an in-place function of its own, which by its name writes its first argument."""
    return isinstance(made, Composite) and made.name.endswith("_")


def usual(made: Declared) -> np.dtype[Any]:
    """float32, or for operators that do not take it the first dtype they take."""
    found = dtypes(made)
    return found[0] if found else FLOAT32


def each_case(made: Declared, others: Sequence[Any] = DTYPES, few: int = 2) -> Iterator[tuple[Case, np.dtype[Any]]]:
    """Every case in the usual dtype, then the first ``few`` and the special ones in each other dtype it takes."""
    first = usual(made)
    everything = cases(made)
    for case in everything:
        yield case, first
    ordinary = [c for c in everything if depends_on_dtype(c)]
    chosen = [c for c in ordinary if not c.special][:few] + [c for c in ordinary if c.special]
    for dtype in dtypes(made):
        if dtype != first and dtype in others:
            for case in chosen:
                if not (case.special and dtype.kind == "c"):  # what ∞ + NaN i is, is not defined
                    yield case, dtype
