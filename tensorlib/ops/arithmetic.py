"""Arithmetic, elementwise: sums, products, quotients and their remainders, signs, and fused combinations.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import FLOAT_ONLY, INT_TO_FLOAT, PROMOTE, Rule, category, real_of
from tensorlib._samples import (
    ELEMENTWISE,
    Draw,
    between,
    bools,
    draw,
    each,
    fails,
    ints,
    strided,
    transposed,
    values,
    with_attrs,
)
from tensorlib.errors import ArgumentError, DtypeError, TensorlibError
from tensorlib.op import Array, Scalar, composite, pointwise
from tensorlib.ops._pointwise import _common, _not_bool, _scaled, _signed, _zero
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


class IntegerDivisionError(TensorlibError, RuntimeError):
    """An integer was divided by zero."""


# ---------------------------------------------------------------------------------------------------- sums and products


class _Subtraction(Rule):
    """To the common dtype, of operands none of which is bool: seen before they are promoted."""

    def __call__(self, op: str, operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[Any, Any]:
        bools = [isinstance(x, bool) or getattr(x, "dtype", None) == np.bool_ for x in operands]
        if all(bools):
            raise DtypeError(
                f"{op}: Subtraction, the `-` operator, with two bool tensors is not supported. "
                f"Use the `^` or `logical_xor()` operator instead"
            )
        if any(bools):
            raise DtypeError(
                f"{op}: Subtraction, the `-` operator, with a bool tensor is not supported. "
                f"If you are trying to invert a mask, use the `~` or `logical_not()` operator instead"
            )
        return super().__call__(op, operands, attrs)


def _sum_spec(name: str, input: Any, other: Any, alpha: Any) -> Any:
    shape, dtype = _common(name, input, other)
    if isinstance(alpha, bool) and dtype != np.bool_:
        raise DtypeError(f"{name}: Boolean alpha only supported for Boolean results, got {OF_NUMPY[dtype]}")
    if isinstance(alpha, float) and category(dtype) < 2:
        raise DtypeError(f"{name}: For integral input tensors, argument alpha must not be a floating point number")
    return shape, dtype


@jit
def _add(x, y, alpha):
    return x + y * alpha


@pointwise(
    _add,
    ufunc=np.add,
    promote=PROMOTE,
    complex=True,
    spec=lambda input, other, alpha: _sum_spec("add", input, other, alpha),
    vjp=dict(input=lambda g: g, other=lambda g, alpha: g if alpha == 1 else g * alpha),
    inplace=True,
    samples=each(
        draw((3, 4), (3, 4)), draw((3, 4), (4,), alpha=2.5), draw((2, 1, 5), (3, 1)), draw((0, 3), (3,)),
        draw(transposed(40, 33), (40, 33)), draw((5,), 2.0), draw(strided(7), ()), draw((), ()),
    ),
    errors=[fails((3, 4), (3, 5), match="must match the size of tensor b")],
)  # fmt: skip
def add(input: Array, other: Array, *, alpha: Scalar = 1):
    """input + alpha * other, elementwise, broadcast and promoted. DtypeError for a float alpha of integers."""
    return np.add(input, _scaled(other, alpha))


@jit
def _sub(x, y, alpha):
    return x - y * alpha


@pointwise(
    _sub,
    ufunc=np.subtract,
    promote=_Subtraction("promote"),
    complex=True,
    spec=lambda input, other, alpha: _sum_spec("sub", input, other, alpha),
    vjp=dict(input=lambda g: g, other=lambda g, alpha: -g if alpha == 1 else g * -alpha),
    alias=("subtract",),
    inplace=True,
    samples=each(
        draw((3, 4), (3, 4)), draw((3, 4), (4,), alpha=2.5), draw((2, 1, 5), (3, 1)), draw((5,), 2.0),
        draw(transposed(40, 33), (40, 33)), draw((), ()),
    ),
    errors=[
        fails(bools(3), bools(3), match="two bool tensors"), fails((3,), bools(3), match="with a bool tensor"),
        fails(1, bools(3), match="invert a mask"), fails(ints(3), True, match="with a bool tensor"),
    ],
)  # fmt: skip
def sub(input: Array, other: Array, *, alpha: Scalar = 1):
    """input - alpha * other, elementwise, broadcast and promoted. DtypeError for bools."""
    return np.subtract(input, _scaled(other, alpha))


@composite(
    samples=each(
        draw(Draw((3, 4)), Draw((3, 4))), draw(Draw((3, 1)), Draw((4,))), draw(Draw((5,)), 2.5),
        draw(Draw((0, 2)), Draw((2,))), draw(Draw(()), Draw(())), draw(Draw((3, 4)), Draw((3, 4)), alpha=2),
    ),
)  # fmt: skip
def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """other - alpha * input, elementwise."""
    return sub(other, input, alpha=alpha)


@jit
def _mul(x, y):
    return x * y


@pointwise(
    _mul,
    cpu=np.multiply,
    promote=PROMOTE,
    complex=True,
    vjp=dict(input=lambda g, other: g * other, other=lambda g, input: g * input),
    alias=("multiply",),
    inplace=True,
)
def mul(input: Array, other: Array):
    """input * other, elementwise, broadcast and promoted."""
    return np.multiply(input, other)


@jit
def _quotient(x, y):
    # The plain fp32 division of a GPU is off by up to 2 units in the last place.
    if x.dtype == tl.float32:
        q = tl.div_rn(x, y)
    else:
        q = x / y
    return q


@pointwise(
    _quotient,
    cpu=np.true_divide,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=dict(input=lambda g, other: g / other, other=lambda g, input, other: -g * ((input / other) / other)),
    inplace=True,
)
def true_divide(input: Array, other: Array):
    """input / other, elementwise, broadcast; integers promote to the default float dtype."""
    return np.true_divide(input, other)


# ---------------------------------------------------------------------------------------- rounded quotients, remainders


def _check_divisor(name: str, input: np.ndarray, other: np.ndarray) -> None:
    """IntegerDivisionError for an integer zero: seen on the CPU; a GPU gives an undefined number, as in PyTorch."""
    if other.dtype.kind in "iu" and input.size and not other.all():
        raise IntegerDivisionError(f"{name}: ZeroDivisionError: an integer was divided by 0: use floats, or mask it")


@jit
def _floor_quotient(x, y):
    if x.dtype.is_floating():
        r = libdevice.fmod(x, y)
        q = _quotient(x - r, y)
        q = tl.where((r != 0) & ((y < 0) != (r < 0)), q - 1, q)
        whole = tl.floor(q)
        whole = tl.where(q - whole > 0.5, whole + 1, whole)
        plain = _quotient(x, y)
        q = tl.where(q != 0, whole, plain * 0)
        q = tl.where(y == 0, plain, q)
    else:
        q = x // y
        q = tl.where((q * y != x) & ((x < 0) != (y < 0)), q - 1, q)
    return q


_DIVIDENDS = each(
    draw((3, 4), (3, 4)), draw((5, 1), (4,)), draw((7,), 0.75), draw(ints(5, low=-9), ints(5, low=1)),
    draw(ints(3, 4, low=-9), -4), draw(values([5.0, -5.0, 0.0, -0.5]), values([2.0, 2.0, -1.0, 3.0])),
)  # fmt: skip


@pointwise(
    _floor_quotient, promote=PROMOTE, spec=_not_bool("floor_divide"), inplace=True, samples=_DIVIDENDS
)
def floor_divide(input: Array, other: Array):
    """⌊input / other⌋, elementwise, in the promoted dtype. An integer divided by 0 is an error on the CPU."""
    _check_divisor("floor_divide", input, other)
    return np.floor_divide(input, other)


@jit
def _truncated_quotient(x, y):
    if x.dtype.is_floating():
        q = libdevice.trunc(_quotient(x, y))
    else:
        q = x // y
    return q


@pointwise(
    _truncated_quotient,
    promote=PROMOTE,
    spec=_not_bool("_trunc_divide"),
    vjp=dict(input=_zero, other=_zero),
    on="",
    samples=_DIVIDENDS,
)
def _trunc_divide(input: Array, other: Array):
    """input / other rounded toward zero, in the promoted dtype."""
    _check_divisor("div", input, other)
    if input.dtype.kind in "iu":
        q = np.floor_divide(input, other)
        return q + ((q < 0) & (q * other != input)).astype(q.dtype)
    return np.trunc(np.true_divide(input, other))


@pointwise(
    _floor_quotient,
    promote=PROMOTE,
    spec=_not_bool("_floor_div"),
    vjp=dict(input=_zero, other=_zero),
    on="",
    samples=_DIVIDENDS,
)
def _floor_div(input: Array, other: Array):
    """⌊input / other⌋ with the gradient zero that ``div(rounding_mode='floor')`` has."""
    _check_divisor("div", input, other)
    return np.floor_divide(input, other)


_DIVISIONS = each(
    draw(Draw((3, 4)), between(1, 4, 3, 4)), draw(Draw((3, 1)), between(1, 4, 4)), draw(Draw((5,)), -2.5),
    draw(Draw((0, 2)), between(1, 4, 2)),
)  # fmt: skip


@composite(
    alias=("divide",), inplace=True,
    samples=each(
        _DIVISIONS[:1], with_attrs(_DIVISIONS, rounding_mode="trunc"), with_attrs(_DIVISIONS, rounding_mode="floor"),
        _DIVISIONS[1:], draw(Draw((3, 4)), Draw((3, 4))), draw(Draw(()), Draw(())),
    ),
)  # fmt: skip
def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Any = None) -> Tensor:
    """input / other, elementwise; rounded toward zero ('trunc') or down ('floor') by ``rounding_mode``.

    Without rounding, integers promote to the default float dtype. ArgumentError for another mode.
    """
    if rounding_mode is None:
        return true_divide(input, other) if out is None else true_divide(input, other, out=out)
    if rounding_mode == "floor":
        return _floor_div(input, other, out=out)
    if rounding_mode == "trunc":
        return _trunc_divide(input, other, out=out)
    raise ArgumentError(f"div: rounding_mode {rounding_mode!r}: expected one of None, 'trunc', 'floor'")


@jit
def _remainder(x, y):
    if x.dtype.is_floating():
        r = libdevice.fmod(x, y)
    else:
        r = x % y
    return tl.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)


@pointwise(
    _remainder,
    promote=PROMOTE,
    spec=_not_bool("remainder"),
    vjp=dict(input=lambda g: g, other=lambda g, input, other: -g * div(input, other, rounding_mode="floor")),
    inplace=True,
    samples=_DIVIDENDS,
)
def remainder(input: Array, other: Array):
    """input - ⌊input / other⌋ other, elementwise: the remainder with the sign of ``other``, as Python's %."""
    _check_divisor("remainder", input, other)
    return np.remainder(input, other)


@jit
def _fmod(x, y):
    if x.dtype.is_floating():
        r = libdevice.fmod(x, y)
    else:
        r = x % y
    return r


@pointwise(
    _fmod,
    promote=PROMOTE,
    spec=_not_bool("fmod"),
    vjp=dict(input=lambda g: g, other=lambda g, input, other: -g * div(input, other, rounding_mode="trunc")),
    inplace=True,
    samples=_DIVIDENDS,
)
def fmod(input: Array, other: Array):
    """input - trunc(input / other) other, elementwise: the remainder with the sign of ``input``, as C's fmod."""
    _check_divisor("fmod", input, other)
    return np.fmod(input, other)


# ---------------------------------------------------------------------------------------------------------------- signs


@jit
def _neg(x):
    return -x


@pointwise(
    _neg,
    cpu=np.negative,
    promote=PROMOTE,
    complex=True,
    spec=lambda input: _signed(
        "neg", input, "Negation, the `-` operator, on a bool tensor is not supported. "
        "If you are trying to invert a mask, use the `~` or `logical_not()` operator instead"
    ),
    vjp=lambda g: -g,
    alias=("negative",),
    inplace=True,
)  # fmt: skip
def neg(input: Array):
    """-input, elementwise. DtypeError for bools."""
    return np.negative(input)


@composite(samples=ELEMENTWISE)
def positive(input: Tensor) -> Tensor:
    """input itself. DtypeError for bools."""
    if input._array.dtype == np.bool_:
        raise DtypeError("positive: The `+` operator, on a bool tensor is not supported")
    return input


def _abs_spec(input: Any) -> Any:
    shape, dtype = _signed("abs", input, "not implemented for bool tensors: they have no sign")
    return shape, real_of(dtype)


@jit
def _abs(x):
    return tl.abs(x)


@pointwise(
    _abs,
    cpu=np.absolute,
    promote=PROMOTE,
    complex="own",
    spec=lambda input: _abs_spec(input),
    vjp=lambda g, input: g * input.sgn(),
    alias=("absolute",),
    inplace=True,
)
def abs(input: Array):
    """|input|, elementwise, real of complex numbers; the gradient at 0 is 0. DtypeError for bools."""
    return np.absolute(input)


@jit
def _sign(x):
    return tl.cast(x > 0, tl.int8) - tl.cast(x < 0, tl.int8)


@pointwise(_sign, promote=PROMOTE, vjp=_zero, inplace=True)
def sign(input: Array):
    """-1, 0 or 1 as input is negative, zero (or NaN) or positive."""
    return np.subtract(np.greater(input, 0).view(np.int8), np.less(input, 0).view(np.int8)).astype(input.dtype)


@jit
def _copysign(x, y):
    return libdevice.copysign(x, y)


@pointwise(
    _copysign,
    cpu=np.copysign,
    promote=INT_TO_FLOAT,
    vjp=dict(input=lambda g, input, other: g * (sign(input) * copysign(sign(input), other)), other=_zero),
    inplace=True,
)
def copysign(input: Array, other: Array):
    """|input| with the sign of other, elementwise; that of -0.0 counts."""
    return np.copysign(input, other)


@jit
def _heaviside(x, y):
    return tl.where(x == 0, y, tl.cast(x > 0, y.dtype))


@pointwise(_heaviside, promote=PROMOTE, inplace=True)
def heaviside(input: Array, values: Array):
    """0 below zero (and for NaN), 1 above, ``values`` at zero, elementwise."""
    return np.where(input == 0, values, input > 0)


# --------------------------------------------------------------------------------------------------------- combinations


@jit
def _lerp(x, y, w):
    return tl.where(tl.abs(w) < 0.5, x + w * (y - x), y - (y - x) * (1 - w))


@pointwise(
    _lerp,
    promote=FLOAT_ONLY,
    complex=True,
    vjp=dict(
        input=lambda g, weight: g * (1 - weight),
        end=lambda g, weight: g * weight,
        weight=lambda g, input, end: g * (end - input),
    ),
    inplace=True,
    samples=each(draw((3, 4), (3, 4), 0.25), draw((3, 4), (4,), 0.75), draw((5,), (5,), (5,)), draw((2, 3), (3,), ())),
)
def lerp(input: Array, end: Array, weight: Array):
    """input + weight (end - input), elementwise; ``weight`` is a number or a tensor. Exact at weight 1."""
    step = end - input
    if weight.ndim:
        return np.where(np.abs(weight) < 0.5, input + weight * step, end - step * (1 - weight))
    return input + weight * step if np.abs(weight) < 0.5 else end - step * (1 - weight)


@jit
def _addcmul(x, a, b, value):
    return x + value * (a * b)


@pointwise(
    _addcmul,
    promote=PROMOTE,
    complex=True,
    vjp=dict(
        input=lambda g: g,
        tensor1=lambda g, tensor2, value: g * (tensor2 * value),
        tensor2=lambda g, tensor1, value: g * (tensor1 * value),
    ),
    inplace=True,
    samples=each(
        draw((3, 4), (3, 4), (3, 4)), draw((3, 1), (4,), (), value=-0.5), draw((40, 30), transposed(40, 30), (30,)),
    ),
)
def addcmul(input: Array, tensor1: Array, tensor2: Array, *, value: Scalar = 1):
    """input + value tensor1 tensor2, elementwise and broadcast."""
    return np.add(input, _scaled(np.multiply(tensor1, tensor2), value))


def _addcdiv_spec(input: Any, tensor1: Any, tensor2: Any, value: Any) -> Any:
    shape, dtype = _common("addcdiv", input, tensor1, tensor2)
    if category(dtype) < 2:
        raise DtypeError(
            f"addcdiv: Integer division with addcdiv is no longer supported, got {OF_NUMPY[dtype]}: "
            f"write input + value * tensor1 / tensor2"
        )
    return shape, dtype


@jit
def _addcdiv(x, a, b, value):
    return x + value * _quotient(a, b)


@pointwise(
    _addcdiv,
    promote=PROMOTE,
    complex=True,
    spec=_addcdiv_spec,
    vjp=dict(
        input=lambda g: g,
        tensor1=lambda g, tensor2, value: g * (value / tensor2),
        tensor2=lambda g, tensor1, tensor2, value: g * (-value * (tensor1 / (tensor2 * tensor2))),
    ),
    inplace=True,
    samples=each(
        draw((3, 4), (3, 4), between(0.5, 2, 3, 4)), draw((3, 1), (4,), between(0.5, 2), value=-0.5),
    ),
    errors=[fails(ints(3), ints(3), ints(3), match="Integer division")],
)  # fmt: skip
def addcdiv(input: Array, tensor1: Array, tensor2: Array, *, value: Scalar = 1):
    """input + value tensor1 / tensor2, elementwise and broadcast. DtypeError for integers."""
    return np.add(input, _scaled(np.true_divide(tensor1, tensor2), value))
