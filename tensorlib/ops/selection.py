"""Selection, elementwise: where, the larger and the smaller, bounds, and values put in place of others.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor
from tensorlib._dispatch import broadcast
from tensorlib._dtypes import OF_NUMPY, finfo
from tensorlib._promotion import PROMOTE, category, of_number, result_dtype
from tensorlib._samples import Draw, bools, distinct, draw, each, fails, ints, transposed, values
from tensorlib.errors import ArgumentError, DtypeError
from tensorlib.op import Array, Scalar, composite, into, pointwise, registry
from tensorlib.ops._out import takes_out
from tensorlib.ops._pointwise import _common
from tensorlib.ops._pointwise_numpy import select
from tensorlib.ops.comparison import eq, ge, gt, isfinite, le, lt, ne
from tensorlib.ops.create import number_as
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _maximum(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


def _halved(name: str, first: bool) -> Any:
    """The gradient goes to the chosen input; at a tie half of it to each; NaN takes it to both."""

    def vjp(g: Tensor, input: Any, other: Any) -> Tensor:
        mine, theirs = (input, other) if first else (other, input)
        lost = lt(mine, theirs) if name == "maximum" else gt(mine, theirs)
        return _where(lost, 0.0, _where(eq(input, other), g * 0.5, g))

    return vjp


@pointwise(
    _maximum,
    cpu=np.maximum,
    promote=PROMOTE,
    vjp=dict(input=_halved("maximum", True), other=_halved("maximum", False)),
)
def maximum(input: Array, other: Array):
    """The larger of the two, elementwise; NaN where either is NaN. At a tie each gets half of the gradient."""
    return np.maximum(input, other)


@jit
def _minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@pointwise(
    _minimum,
    cpu=np.minimum,
    promote=PROMOTE,
    vjp=dict(input=_halved("minimum", True), other=_halved("minimum", False)),
)
def minimum(input: Array, other: Array):
    """The smaller of the two, elementwise; NaN where either is NaN. At a tie each gets half of the gradient."""
    return np.minimum(input, other)


@jit
def _fmax(x, y):
    return tl.where((x >= y) | (y != y), x, y)


@pointwise(
    _fmax,
    cpu=np.fmax,
    promote=PROMOTE,
    vjp=dict(
        input=lambda g, input, other: _where(ge(input, other) | ne(other, other), g, 0.0),
        other=lambda g, input, other: _where(ge(input, other) | ne(other, other), 0.0, g),
    ),
)
def fmax(input: Array, other: Array):
    """The larger of the two, elementwise; the number where only one is NaN."""
    return np.fmax(input, other)


@jit
def _fmin(x, y):
    return tl.where((x <= y) | (y != y), x, y)


@pointwise(
    _fmin,
    cpu=np.fmin,
    promote=PROMOTE,
    vjp=dict(
        input=lambda g, input, other: _where(le(input, other) | ne(other, other), g, 0.0),
        other=lambda g, input, other: _where(le(input, other) | ne(other, other), 0.0, g),
    ),
)
def fmin(input: Array, other: Array):
    """The smaller of the two, elementwise; the number where only one is NaN."""
    return np.fmin(input, other)


# ---------------------------------------------------------------------------------------------------------------- where


@jit
def _chosen(condition, x, y):
    return tl.where(condition, x, y)


def _where_spec(condition: Any, input: Any, other: Any) -> Any:
    dtype = getattr(condition, "dtype", np.dtype(type(condition)))
    if dtype != np.bool_:
        raise DtypeError(
            f"where: expected condition to be a boolean tensor, but got a tensor with dtype "
            f"{OF_NUMPY.get(dtype, dtype)}: compare it first, as in condition != 0"
        )
    return broadcast(registry["_where"], (condition, input, other)), result_dtype((input, other))


@pointwise(
    _chosen,
    promote=PROMOTE.over("input", "other"),
    complex=True,
    spec=_where_spec,
    vjp=dict(
        input=lambda g, condition: _where(condition, g, 0.0),
        other=lambda g, condition: _where(condition, 0.0, g),
    ),
    on="",
    samples=each(
        draw(bools(3, 4), (3, 4), (3, 4)), draw(bools(4), (3, 1), ()), draw(bools(3, 1), 2.0, (4,)),
        draw(bools(), (2,), 0.0), draw(bools(40, 40), transposed(40, 40), (40,)), draw(bools(0), (0,), (0,)),
        draw(bools(5), ints(5), ints(5)),
    ),
    errors=[fails(ints(3), (3,), (3,), match="boolean tensor")],
)  # fmt: skip
def _where(condition: Array, input: Array, other: Array):
    """input where condition, other elsewhere; broadcast, the two promoted."""
    return select(condition, input, other)


@composite(
    on="function",
    samples=each(
        draw(bools(3, 4), Draw((3, 4)), Draw((3, 4))), draw(bools(3, 1), Draw((4,)), 2.5),
        draw(bools(4), 1.5, Draw((3, 4))), draw(bools(3, 4)),
    ),
)  # fmt: skip
def where(condition: Tensor, input: Any = None, other: Any = None, *, out: Any = None) -> Any:
    """input where condition holds, other elsewhere; broadcast, and input and other promoted to one dtype.

    ``where(condition)`` alone gives the indices of the nonzero elements: one tensor a dimension.
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if input is None or other is None:
        raise TypeError("where(): give both input and other, or neither")
    return _where(_as_condition(condition), *_numbers_that_fit(input, other), out=out)


def _as_condition(condition: Tensor) -> Tensor:
    """uint8 counts as bool, with a warning, as in PyTorch."""
    if isinstance(condition, Tensor) and condition._array.dtype == np.uint8:
        warnings.warn(
            "where: received a uint8 condition tensor. This behavior is deprecated: use a boolean condition",
            UserWarning,
            stacklevel=outside(),
        )
        return condition.bool()  # type: ignore[attr-defined, no-any-return]
    return condition


def _numbers_that_fit(input: Any, other: Any) -> tuple[Any, Any]:
    """The two, an integer that would not fit the other's 8-bit (16-, 32-bit) integers refused."""
    if isinstance(input, Tensor) == isinstance(other, Tensor):
        return input, other
    dtype = (input if isinstance(input, Tensor) else other)._array.dtype
    if dtype.kind not in "iu":
        return input, other

    def fit(v: Any) -> Any:
        return number_as("where", v, dtype) if isinstance(v, int) and not isinstance(v, bool) else v

    return (input, fit(other)) if isinstance(input, Tensor) else (fit(input), other)


@composite(on="method", alias=("where",))
def _where_method(input: Tensor, condition: Tensor, other: Any) -> Tensor:
    """self where condition holds, other elsewhere."""
    return _where(_as_condition(condition), *_numbers_that_fit(input, other))


# --------------------------------------------------------------------------------------------------------------- bounds


@jit
def _clamp(x, low, high):
    if low is not None:
        x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    if high is not None:
        x = tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)
    return x


def _clamp_spec(input: Any, min: Any, max: Any) -> Any:
    if min is None and max is None:
        raise ArgumentError("clamp: At least one of 'min' or 'max' must not be None")
    return _common("clamp", input, min, max)


def _clamp_input(g: Tensor, input: Tensor, min: Any, max: Any) -> Tensor:
    inside = None if min is None else ge(input, min)
    if max is not None:
        below = le(input, max)
        inside = below if inside is None else inside & below
    return _where(inside, g, 0.0)


def _clamp_min(g: Tensor, input: Tensor, min: Tensor, max: Any) -> Tensor:
    chosen = lt(input, min)
    return _where(chosen if max is None else chosen & lt(min, max), g, 0.0)


def _clamp_max(g: Tensor, input: Tensor, min: Any, max: Tensor) -> Tensor:
    chosen = gt(input, max)
    return _where(chosen if min is None else chosen | gt(min, max), g, 0.0)


@pointwise(
    _clamp,
    promote=PROMOTE,
    spec=_clamp_spec,
    vjp=dict(input=_clamp_input, min=_clamp_min, max=_clamp_max),
    alias=("clip",),
    inplace=True,
    samples=each(
        draw((3, 4), -0.5, 0.5), draw((3, 4), (4,), (3, 1)), draw((5,), None, 0.25), draw((5,), 0.25, None),
        draw(ints(6, low=-9), -2, 3), draw(transposed(40, 30), -1.0, None), draw((), 0.0, 1.0),
    ),
    errors=[fails((3,), None, None, match="At least one of", error=ArgumentError)],
)  # fmt: skip
def clamp(input: Array, min: Array | None = None, max: Array | None = None):
    """min(max(input, min), max), elementwise, with bounds that are numbers, tensors or absent. NaN stays NaN."""
    x = input
    if min is not None:
        x = np.maximum(x, min)
    return x if max is None else np.minimum(x, max)


@composite(inplace=True, samples=each(draw((3, 4), 0.25), draw((3, 4), Draw((4,))), draw(distinct(5), -1.0)))
@takes_out
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """max(input, min), elementwise."""
    return clamp(input, min, None)


@composite(inplace=True, samples=each(draw((3, 4), 0.25), draw((3, 4), Draw((4,))), draw(distinct(5), -1.0)))
@takes_out
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """min(input, max), elementwise."""
    return clamp(input, None, max)


@composite(
    inplace=True,
    samples=each(draw((3, 4), bools(3, 4), 2.5), draw((3, 4), bools(4), Draw(())), draw((0, 4), bools(4), 0)),
)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value where mask holds, input elsewhere, in input's dtype; ``value`` is a number or a 0-d tensor.

    A float loses its fraction in an integer tensor. DtypeError for a mask that is not bool.
    """
    if mask._array.dtype != np.bool_:
        raise DtypeError(f"masked_fill: only supports boolean masks, but got dtype {OF_NUMPY[mask._array.dtype]}")
    want = input._array.dtype
    if isinstance(value, Tensor):
        if value._array.ndim:
            raise ArgumentError(
                f"masked_fill: only supports a 0-dimensional value tensor, but got tensor with {value._array.ndim} "
                f"dimension(s): use where(mask, value, input)"
            )
        value = value if value._array.dtype == want else value.to(input)
    elif category(of_number(value)) > category(want):
        if isinstance(value, complex):
            raise DtypeError(f"masked_fill: value {value} cannot be converted to type {OF_NUMPY[want]}")
        value = number_as("masked_fill", value, want)
    elif want.kind in "iu" or want.itemsize == 2:
        value = number_as("masked_fill", value, want)
    return _where(mask, value, input)


@jit
def _nan_to_num_scalar(x, nan, posinf, neginf):
    if x.dtype.is_floating():
        x = tl.where(x != x, nan, tl.where(x == float("inf"), posinf, tl.where(x == float("-inf"), neginf, x)))
    return x


@pointwise(
    _nan_to_num_scalar,
    promote=PROMOTE,
    vjp=lambda g, input: _where(isfinite(input), g, 0.0),
    on="",
    samples=each(
        draw(values([0.0, math.nan, math.inf, -math.inf, 1.0]), nan=0.0, posinf=7.0, neginf=-8.0),
        draw((3, 4), nan=1.0, posinf=2.0, neginf=3.0),
    ),
)
def _nan_to_num(input: Array, nan: Scalar, posinf: Scalar, neginf: Scalar):
    """input with NaN and the infinities replaced."""
    if input.dtype.kind != "f":
        return input.copy()
    out, finite = input.copy(), np.isfinite(input)
    if not finite.all():
        bad = ~finite
        x = input[bad]
        out[bad] = np.where(x != x, nan, np.where(x > 0, posinf, neginf))
    return out


@composite(
    inplace=True,
    samples=each(
        draw(values([float("nan"), 1.5])),
        draw((3, 4)),
        draw(values([float("nan"), float("inf"), -float("inf")]), nan=1.0, posinf=2.0, neginf=-2.0),
    ),
)
def nan_to_num(
    input: Tensor, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None, *, out: Any = None
) -> Tensor:
    """input with NaN, ∞ and -∞ replaced: by 0 and the largest and smallest numbers of the dtype unless given."""
    dtype = OF_NUMPY[input._array.dtype]
    if dtype.is_complex:  # each part by itself
        parts = nan_to_num(input.view_as_real(), nan, posinf, neginf)  # type: ignore[attr-defined]
        found: Tensor = parts.view_as_complex()  # type: ignore[attr-defined]
        return found if out is None else into("nan_to_num", out, found)
    limits = finfo(dtype) if dtype.is_floating_point else None
    high = posinf if posinf is not None else float(limits.max) if limits is not None else 0.0
    low = neginf if neginf is not None else float(limits.min) if limits is not None else 0.0
    return _nan_to_num(input, 0.0 if nan is None else nan, high, low, out=out)
