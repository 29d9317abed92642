"""Elementwise arithmetic, comparison, selection and elementary functions: one scalar function and one gradient each.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import broadcast
from tensorlib._dtypes import OF_NUMPY, finfo
from tensorlib._promotion import (
    COMPARE,
    FLOAT_ONLY,
    INT_TO_FLOAT,
    INTEGERS,
    PROMOTE,
    category,
    of_number,
    result_dtype,
)
from tensorlib._samples import between, bools, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, TensorlibError
from tensorlib.op import Array, Scalar, composite, pointwise, registry
from tensorlib.ops._pointwise_numpy import erf as _erf_numpy
from tensorlib.ops._pointwise_numpy import erfc as _erfc_numpy
from tensorlib.ops._pointwise_numpy import select
from tensorlib.ops._pointwise_numpy import sigmoid as _sigmoid_numpy
from tensorlib.ops.create import zeros_like
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


class IntegerDivisionError(TensorlibError, RuntimeError):
    """An integer was divided by zero."""


def _common(name: str, *inputs: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a promoted result, for operators that check more than that."""
    present = [x for x in inputs if x is not None]
    return broadcast(registry[name], present), result_dtype(present)


def _not_bool(name: str) -> Any:
    """A spec that refuses bools."""

    def spec(input: Any, other: Any) -> Any:
        shape, dtype = _common(name, input, other)
        if dtype == np.bool_:
            raise DtypeError(f"{name}: not implemented for bool tensors: convert one, as in input.int()")
        return shape, dtype

    return spec


def _scaled(x: np.ndarray, factor: Any) -> np.ndarray:
    """factor x in x's dtype, wrapping integers."""
    return x if factor == 1 else np.multiply(x, np.asarray(factor).astype(x.dtype))


def _zero(g: Tensor) -> Tensor:
    """The gradient of a function that is constant between its jumps."""
    return zeros_like(g)


# --------------------------------------------------------------------------------------------------------- arithmetic


def _sum_spec(name: str, input: Any, other: Any, alpha: Any) -> Any:
    shape, dtype = _common(name, input, other)
    if dtype == np.bool_ and name != "add":
        raise DtypeError(
            f"{name}: Subtraction, the `-` operator, with two bool tensors is not supported. "
            f"Use the `^` or `logical_xor()` operator instead"
        )
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
    promote=PROMOTE,
    spec=lambda input, other, alpha: _sum_spec("sub", input, other, alpha),
    vjp=dict(input=lambda g: g, other=lambda g, alpha: -g if alpha == 1 else g * -alpha),
    alias=("subtract",),
    inplace=True,
    samples=each(
        draw((3, 4), (3, 4)), draw((3, 4), (4,), alpha=2.5), draw((2, 1, 5), (3, 1)), draw((5,), 2.0),
        draw(transposed(40, 33), (40, 33)), draw((), ()),
    ),
    errors=[fails(bools(3), bools(3), match="two bool tensors")],
)  # fmt: skip
def sub(input: Array, other: Array, *, alpha: Scalar = 1):
    """input - alpha * other, elementwise, broadcast and promoted. DtypeError for bools."""
    return np.subtract(input, _scaled(other, alpha))


@composite()
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
    vjp=dict(input=lambda g, other: g / other, other=lambda g, input, other: -g * ((input / other) / other)),
    inplace=True,
)
def true_divide(input: Array, other: Array):
    """input / other, elementwise, broadcast; integers promote to the default float dtype."""
    return np.true_divide(input, other)


def _check_divisor(name: str, other: np.ndarray) -> None:
    """IntegerDivisionError for an integer zero: seen on the CPU; a GPU gives an undefined number, as in PyTorch."""
    if other.dtype.kind in "iu" and not other.all():
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
    _check_divisor("floor_divide", other)
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
    _check_divisor("div", other)
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
    _check_divisor("div", other)
    return np.floor_divide(input, other)


@composite(alias=("divide",), inplace=True)
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
    _check_divisor("remainder", other)
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
    _check_divisor("fmod", other)
    return np.fmod(input, other)


@jit
def _neg(x):
    return -x


def _signed(name: str, input: Any, message: str) -> Any:
    shape, dtype = _common(name, input)
    if dtype == np.bool_:
        raise DtypeError(f"{name}: {message}")
    return shape, dtype


@pointwise(
    _neg,
    cpu=np.negative,
    promote=PROMOTE,
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


@composite()
def positive(input: Tensor) -> Tensor:
    """input itself. DtypeError for bools."""
    if input._array.dtype == np.bool_:
        raise DtypeError("positive: The `+` operator, on a bool tensor is not supported")
    return input


@jit
def _abs(x):
    return tl.abs(x)


@pointwise(
    _abs,
    cpu=np.absolute,
    promote=PROMOTE,
    spec=lambda input: _signed("abs", input, "not implemented for bool tensors: they have no sign"),
    vjp=lambda g, input: g * input.sign(),
    alias=("absolute",),
    inplace=True,
)
def abs(input: Array):
    """|input|, elementwise; the gradient at 0 is 0. DtypeError for bools."""
    return np.absolute(input)


@jit
def _sign(x):
    return tl.cast(x > 0, tl.int8) - tl.cast(x < 0, tl.int8)


@pointwise(_sign, promote=PROMOTE, vjp=_zero, inplace=True)
def sign(input: Array):
    """-1, 0 or 1 as input is negative, zero (or NaN) or positive."""
    return np.subtract(np.greater(input, 0).view(np.int8), np.less(input, 0).view(np.int8)).astype(input.dtype)


@jit
def _square(x):
    return x * x


@pointwise(
    _square,
    cpu=np.square,
    promote=PROMOTE,
    spec=lambda input: (input.shape, np.dtype(np.int64) if input.dtype == np.bool_ else input.dtype),
    vjp=lambda g, input: g * (2 * input),
    inplace=True,
)
def square(input: Array):
    """input², elementwise; of bools int64, as pow gives."""
    return np.square(input)


@jit
def _cubed(x):
    return x * x * x


@pointwise(_cubed, promote=PROMOTE, vjp=lambda g, input: g * (3 * (input * input)), on="")
def _cube(input: Array):
    """input³ by two multiplications; NumPy's float32 power costs fifty times as much."""
    return input * input * input


@jit
def _reciprocal(x):
    return _quotient(tl.cast(1.0, x.dtype), x)


@pointwise(
    _reciprocal,
    cpu=np.reciprocal,
    promote=INT_TO_FLOAT,
    vjp=lambda g, out: -g * (out * out),
    inplace=True,
)
def reciprocal(input: Array):
    """1 / input, elementwise; integers promote to the default float dtype."""
    return np.reciprocal(input)


@jit
def _pow(x, y):
    if x.dtype.is_floating():
        r = libdevice.pow(x, y)
    else:  # by squaring; a negative exponent leaves only 1 and -1 apart from 0
        r = x * 0 + y * 0 + 1
        base = r * x
        e = y
        for _ in tl.static_range(7 if y.dtype.primitive_bitwidth == 8 else 31):
            r = tl.where(e & 1 == 1, r * base, r)
            base = base * base
            e = tl.where(y < 0, e, e >> 1)
        one = tl.where(x == 1, r * 0 + 1, tl.where(x == -1, 1 - 2 * (y & 1), r * 0))
        r = tl.where(y < 0, one.to(r.dtype), r)
    return r


def _power_rule(g: Tensor, input: Any, exponent: Any) -> Tensor:
    """g exponent input^(exponent - 1), 0 where the exponent is 0."""
    if not isinstance(exponent, Tensor):
        return zeros_like(g) if exponent == 0 else g * (exponent * pow(input, exponent - 1))
    return _where(exponent == 0, 0.0, g * (exponent * pow(input, exponent - 1)))


def _exponent_rule(g: Tensor, input: Any, exponent: Any, out: Tensor) -> Tensor:
    """g out log(input), 0 where 0 is raised to a nonnegative power."""
    if not isinstance(input, Tensor):
        if input == 0:
            return _where(exponent >= 0, 0.0, g * (out * -math.inf))
        return g * (out * _log_of(input))
    return _where((input == 0) & (exponent >= 0), 0.0, g * (out * log(input)))


def _integer_power(input: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    if exponent.dtype.kind == "u" or not (exponent < 0).any():
        return np.power(input, exponent)
    parity = (1 - 2 * (exponent & 1)).astype(input.dtype)
    inverse = np.where(input == 1, 1, np.where(input == -1, parity, 0))
    return np.where(exponent < 0, inverse, np.power(input, np.maximum(exponent, 0))).astype(input.dtype)


@pointwise(
    _pow,
    promote=PROMOTE,
    vjp=dict(input=_power_rule, exponent=_exponent_rule),
    on="",
    samples=each(
        draw(between(0.1, 3, 3, 4), (3, 4)), draw(between(0.1, 3, 5, 1), (4,)), draw((7,), 5), draw((6,), 0),
        draw(2.5, (5,)), draw(ints(4, low=-3, high=4), ints(4, high=4)), draw((6,), -2),
        draw(ints(5, low=-2, high=3), ints(5, low=-2, high=3)),
        draw(between(0.1, 3, 5), -1.5),
    ),
)  # fmt: skip
def _power(input: Array, exponent: Array):
    """input**exponent, elementwise, in the promoted dtype; small integer powers by multiplication."""
    if input.dtype.kind == "b":
        return input | ~exponent
    if input.dtype.kind in "iu":
        return _integer_power(input, exponent)
    if not exponent.ndim and exponent.dtype.kind == "f":
        n = float(exponent)
        if n in (4.0, 5.0, 6.0):
            r = np.square(np.square(input))
            return r if n == 4 else r * input if n == 5 else r * np.square(input)
        if n == -2.0:
            return np.reciprocal(np.square(input))
    return np.power(input, exponent)


@composite(inplace=True)
def pow(input: Any, exponent: Any, *, out: Any = None) -> Tensor:
    """input**exponent, elementwise, broadcast and promoted.

    The exponents 2 to 6, ±0.5, -1 and -2 are computed by multiplication, square root and division. An integer tensor to
    a negative integer number is a DtypeError.
    """
    kind = type(exponent)
    if (kind is int or kind is float) and out is None and isinstance(input, Tensor):
        dtype = input._array.dtype.kind
        if dtype in "fVc":
            special = _POWERS.get(exponent)
            if special is not None:
                return special(input)
        elif kind is int and dtype in "iu":
            if exponent == 2:
                return square(input)
            if exponent < 0:
                raise DtypeError(
                    f"pow: Integers to negative integer powers are not allowed: {OF_NUMPY[input._array.dtype]} to "
                    f"{exponent}: convert the input with .float()"
                )
    return _power(input, exponent, out=out)


@composite()
def float_power(input: Any, exponent: Any, *, out: Any = None) -> Tensor:
    """input**exponent in float64, elementwise and broadcast."""
    first, second = (x.to(OF_NUMPY[_FLOAT64]) if isinstance(x, Tensor) else float(x) for x in (input, exponent))
    return pow(first, second, out=out)


_FLOAT64 = np.dtype(np.float64)


# ------------------------------------------------------------------------------------------------ exponents and roots


@jit
def _exp(x):
    return tl.exp(x)


@pointwise(_exp, cpu=np.exp, promote=INT_TO_FLOAT, vjp=lambda g, out: g * out, inplace=True)
def exp(input: Array):
    """e**input, elementwise. Integers promote to the default float dtype; half types compute in float32."""
    return np.exp(input)


@jit
def _exp2(x):
    return tl.exp2(x)


@pointwise(_exp2, cpu=np.exp2, promote=INT_TO_FLOAT, vjp=lambda g, out: g * (out * 0.6931471805599453), inplace=True)
def exp2(input: Array):
    """2**input, elementwise."""
    return np.exp2(input)


@jit
def _expm1(x):
    return libdevice.expm1(x)


@pointwise(_expm1, cpu=np.expm1, promote=INT_TO_FLOAT, vjp=lambda g, out: g * (out + 1), inplace=True)
def expm1(input: Array):
    """e**input - 1, elementwise, accurate near 0."""
    return np.expm1(input)


@jit
def _log(x):
    return tl.log(x)


@pointwise(_log, cpu=np.log, promote=INT_TO_FLOAT, vjp=lambda g, input: g / input, domain=(0.1, 5), inplace=True)
def log(input: Array):
    """The natural logarithm, elementwise: -inf at 0, NaN below."""
    return np.log(input)


@jit
def _log2(x):
    return tl.log2(x)


@pointwise(
    _log2,
    cpu=np.log2,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g / (input * 0.6931471805599453),
    domain=(0.1, 5),
    inplace=True,
)
def log2(input: Array):
    """The logarithm to base 2, elementwise."""
    return np.log2(input)


@jit
def _log10(x):
    return libdevice.log10(x)


@pointwise(
    _log10,
    cpu=np.log10,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g / (input * 2.302585092994046),
    domain=(0.1, 5),
    inplace=True,
)
def log10(input: Array):
    """The logarithm to base 10, elementwise."""
    return np.log10(input)


@jit
def _log1p(x):
    return libdevice.log1p(x)


@pointwise(
    _log1p, cpu=np.log1p, promote=INT_TO_FLOAT, vjp=lambda g, input: g / (input + 1), domain=(-0.9, 5), inplace=True
)
def log1p(input: Array):
    """log(1 + input), elementwise, accurate near 0."""
    return np.log1p(input)


@jit
def _root(x):
    if x.dtype == tl.float32:
        r = tl.sqrt_rn(x)
    else:
        r = tl.sqrt(x)
    return r


@pointwise(_root, cpu=np.sqrt, promote=INT_TO_FLOAT, vjp=lambda g, out: g / (2 * out), domain=(0.1, 5), inplace=True)
def sqrt(input: Array):
    """The square root, elementwise; NaN below 0."""
    return np.sqrt(input)


@jit
def _rsqrt(x):
    return _reciprocal(_root(x))


@pointwise(
    _rsqrt, promote=INT_TO_FLOAT, vjp=lambda g, out: g * (-0.5 * (out * (out * out))), domain=(0.1, 5), inplace=True
)
def rsqrt(input: Array):
    """1 / √input, elementwise."""
    r = np.asarray(np.sqrt(input))
    return np.reciprocal(r, out=r)


_POWERS = {
    1: lambda x: x.clone(),
    2: square,
    3: _cube,
    0.5: sqrt,
    -0.5: rsqrt,
    -1: reciprocal,
}


@jit
def _sigmoid(x):
    # e^-|x| cannot overflow, and the small side keeps its relative accuracy
    t = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)


@pointwise(
    _sigmoid,
    promote=INT_TO_FLOAT,
    vjp=lambda g, out: g * (out * (1 - out)),
    on="function method functional",
    alias=("expit",),
    inplace=True,
)
def sigmoid(input: Array):
    """1 / (1 + e**-input), elementwise."""
    return _sigmoid_numpy(input)


@jit
def _logit(x, eps):
    if eps is not None:
        x = tl.where(x < eps, eps, tl.where(x > 1 - eps, 1 - eps, x))
    return tl.log(x / (1 - x))


def _logit_vjp(g: Tensor, input: Tensor, eps: float | None) -> Tensor:
    slope = g / (input * (1 - input)).abs()  # type: ignore[attr-defined]
    if eps is None:
        return _where((input >= 0) & (input <= 1), slope, math.nan)
    return _where((input >= eps) & (input <= 1 - eps), slope, 0.0)


@pointwise(
    _logit,
    promote=INT_TO_FLOAT,
    vjp=_logit_vjp,
    inplace=True,
    samples=each(draw(between(0.1, 0.9, 3, 4)), draw(between(0, 1, 40), eps=0.2), draw(between(0.1, 0.9))),
)
def logit(input: Array, eps: float | None = None):
    """log(input / (1 - input)), elementwise, of input clamped to [eps, 1 - eps] when eps is given."""
    x = input if eps is None else np.minimum(np.maximum(input, eps), 1 - eps)
    return np.log(x / (1 - x))


# ------------------------------------------------------------------------------------------------------- trigonometry


@jit
def _sin(x):
    return tl.sin(x)


@pointwise(_sin, cpu=np.sin, promote=INT_TO_FLOAT, vjp=lambda g, input: g * input.cos(), inplace=True)
def sin(input: Array):
    """The sine, elementwise, of radians."""
    return np.sin(input)


@jit
def _cos(x):
    return tl.cos(x)


@pointwise(_cos, cpu=np.cos, promote=INT_TO_FLOAT, vjp=lambda g, input: -g * input.sin(), inplace=True)
def cos(input: Array):
    """The cosine, elementwise, of radians."""
    return np.cos(input)


@jit
def _tan(x):
    return libdevice.tan(x)


@pointwise(
    _tan, cpu=np.tan, promote=INT_TO_FLOAT, vjp=lambda g, out: g * (out * out + 1), domain=(-1.3, 1.3), inplace=True
)
def tan(input: Array):
    """The tangent, elementwise, of radians."""
    return np.tan(input)


@jit
def _asin(x):
    return libdevice.asin(x)


@pointwise(
    _asin,
    cpu=np.arcsin,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (1 - input * input).rsqrt(),
    alias=("arcsin",),
    domain=(-0.9, 0.9),
    inplace=True,
)
def asin(input: Array):
    """The inverse sine in [-π/2, π/2], elementwise; NaN outside [-1, 1]."""
    return np.arcsin(input)


@jit
def _acos(x):
    return libdevice.acos(x)


@pointwise(
    _acos,
    cpu=np.arccos,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: -g * (1 - input * input).rsqrt(),
    alias=("arccos",),
    domain=(-0.9, 0.9),
    inplace=True,
)
def acos(input: Array):
    """The inverse cosine in [0, π], elementwise; NaN outside [-1, 1]."""
    return np.arccos(input)


@jit
def _atan(x):
    return libdevice.atan(x)


@pointwise(
    _atan,
    cpu=np.arctan,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g / (input * input + 1),
    alias=("arctan",),
    inplace=True,
)
def atan(input: Array):
    """The inverse tangent in [-π/2, π/2], elementwise."""
    return np.arctan(input)


def _over_norm(numerator: Any, y: Any, x: Any) -> Tensor:
    """numerator / (x² + y²), 0 at the origin."""
    norm = x * x + y * y
    return _where(norm == 0, 0.0, numerator / norm)


@jit
def _atan2(y, x):
    return libdevice.atan2(y, x)


@pointwise(
    _atan2,
    cpu=np.arctan2,
    promote=INT_TO_FLOAT,
    vjp=dict(
        input=lambda g, input, other: g * _over_norm(other, input, other),
        other=lambda g, input, other: g * _over_norm(-input, input, other),
    ),
    alias=("arctan2",),
    inplace=True,
)
def atan2(input: Array, other: Array):
    """The angle in [-π, π] of the point (other, input), elementwise."""
    return np.arctan2(input, other)


@jit
def _sinh(x):
    return libdevice.sinh(x)


@pointwise(_sinh, cpu=np.sinh, promote=INT_TO_FLOAT, vjp=lambda g, input: g * input.cosh(), inplace=True)
def sinh(input: Array):
    """The hyperbolic sine, elementwise."""
    return np.sinh(input)


@jit
def _cosh(x):
    return libdevice.cosh(x)


@pointwise(_cosh, cpu=np.cosh, promote=INT_TO_FLOAT, vjp=lambda g, input: g * input.sinh(), inplace=True)
def cosh(input: Array):
    """The hyperbolic cosine, elementwise."""
    return np.cosh(input)


@jit
def _tanh(x):
    return libdevice.tanh(x)


@pointwise(
    _tanh,
    cpu=np.tanh,
    promote=INT_TO_FLOAT,
    vjp=lambda g, out: g * (1 - out * out),
    on="function method functional",
    inplace=True,
)
def tanh(input: Array):
    """The hyperbolic tangent, elementwise."""
    return np.tanh(input)


@jit
def _asinh(x):
    return libdevice.asinh(x)


@pointwise(
    _asinh,
    cpu=np.arcsinh,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (input * input + 1).rsqrt(),
    alias=("arcsinh",),
    inplace=True,
)
def asinh(input: Array):
    """The inverse hyperbolic sine, elementwise."""
    return np.arcsinh(input)


@jit
def _acosh(x):
    return libdevice.acosh(x)


@pointwise(
    _acosh,
    cpu=np.arccosh,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (input * input - 1).rsqrt(),
    alias=("arccosh",),
    domain=(1.1, 5),
    inplace=True,
)
def acosh(input: Array):
    """The inverse hyperbolic cosine, elementwise; NaN below 1."""
    return np.arccosh(input)


@jit
def _atanh(x):
    return libdevice.atanh(x)


@pointwise(
    _atanh,
    cpu=np.arctanh,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g / (1 - input * input),
    alias=("arctanh",),
    domain=(-0.9, 0.9),
    inplace=True,
)
def atanh(input: Array):
    """The inverse hyperbolic tangent, elementwise; NaN outside [-1, 1]."""
    return np.arctanh(input)


@jit
def _hypot(x, y):
    return libdevice.hypot(x, y)


@pointwise(
    _hypot,
    cpu=np.hypot,
    promote=FLOAT_ONLY,
    vjp=dict(input=lambda g, input, out: g * (input / out), other=lambda g, other, out: g * (other / out)),
    inplace=True,
)
def hypot(input: Array, other: Array):
    """√(input² + other²), elementwise, without overflow in between."""
    return np.hypot(input, other)


@composite(inplace=True)
def deg2rad(input: Tensor) -> Tensor:
    """input π / 180, elementwise."""
    return input * (math.pi / 180)  # type: ignore[no-any-return]


@composite(inplace=True)
def rad2deg(input: Tensor) -> Tensor:
    """input 180 / π, elementwise."""
    return input * (180 / math.pi)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------- error functions, xlogy


@jit
def _erf(x):
    return tl.erf(x)


@pointwise(
    _erf,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (1.1283791670955126 * (-(input * input)).exp()),
    inplace=True,
)
def erf(input: Array):
    """2/√π ∫ e^(-t²) dt from 0 to input, elementwise."""
    return _erf_numpy(input)


@jit
def _erfc(x):
    return libdevice.erfc(x)


@pointwise(
    _erfc,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (-1.1283791670955126 * (-(input * input)).exp()),
    inplace=True,
)
def erfc(input: Array):
    """1 - erf(input), elementwise, without cancellation."""
    return _erfc_numpy(input)


def _log_of(x: Any) -> Any:
    if isinstance(x, Tensor):
        return log(x)
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


@jit
def _xlogy(x, y):
    return tl.where((x == 0) & (y == y), x * 0, x * tl.log(y))


@pointwise(
    _xlogy,
    promote=INT_TO_FLOAT,
    vjp=dict(
        input=lambda g, input, other: _where((input == 0) & (other <= 0), 0.0, g * _log_of(other)),
        other=lambda g, input, other: g * (input / other),
    ),
    domain=(0.1, 5),
    inplace=True,
)  # fmt: skip
def xlogy(input: Array, other: Array):
    """input log(other), elementwise; 0 where input is 0 and other is not NaN."""
    return np.where((input == 0) & (other == other), 0, input * np.log(other))


@jit
def _logaddexp(x, y):
    high = tl.maximum(x, y)
    return tl.where(x == y, x + 0.6931471805599453, high + libdevice.log1p(tl.exp(-tl.abs(x - y))))


@pointwise(
    _logaddexp,
    cpu=np.logaddexp,
    promote=FLOAT_ONLY,
    vjp=dict(input=lambda g, input, out: g * (input - out).exp(), other=lambda g, other, out: g * (other - out).exp()),
)
def logaddexp(input: Array, other: Array):
    """log(e**input + e**other), elementwise, without overflow."""
    return np.logaddexp(input, other)


# ----------------------------------------------------------------------------------------------------------- rounding


@jit
def _floor(x):
    if x.dtype.is_floating():
        x = tl.floor(x)
    return x


@pointwise(_floor, promote=PROMOTE, vjp=_zero, inplace=True)
def floor(input: Array):
    """The largest integer not above input, elementwise, in input's dtype."""
    return np.floor(input) if input.dtype.kind == "f" else input.copy()


@jit
def _ceil(x):
    if x.dtype.is_floating():
        x = tl.ceil(x)
    return x


@pointwise(_ceil, promote=PROMOTE, vjp=_zero, inplace=True)
def ceil(input: Array):
    """The smallest integer not below input, elementwise, in input's dtype."""
    return np.ceil(input) if input.dtype.kind == "f" else input.copy()


@jit
def _trunc(x):
    if x.dtype.is_floating():
        x = libdevice.trunc(x)
    return x


@pointwise(_trunc, promote=PROMOTE, vjp=_zero, alias=("fix",), inplace=True)
def trunc(input: Array):
    """input without its fraction, elementwise."""
    return np.trunc(input) if input.dtype.kind == "f" else input.copy()


@jit
def _frac(x):
    return x - libdevice.trunc(x)


@pointwise(_frac, promote=FLOAT_ONLY, vjp=lambda g: g, inplace=True)
def frac(input: Array):
    """input - trunc(input), elementwise: the fraction, with input's sign."""
    return input - np.trunc(input)


@jit
def _rounded(x):
    if x.dtype.is_floating():
        x = libdevice.rint(x)
    return x


@pointwise(
    _rounded,
    promote=PROMOTE,
    vjp=_zero,
    on="",
    samples=each(draw((3, 4)), draw(values([0.5, 1.5, 2.5, -0.5, -1.5, 0.0])), draw(ints(4)), draw(())),
)
def _round(input: Array):
    """The nearest integer, halves to even."""
    return np.rint(input) if input.dtype.kind == "f" else input.copy()


@composite(inplace=True)
def round(input: Tensor, *, decimals: int = 0, out: Any = None) -> Tensor:
    """input rounded to ``decimals`` decimal places, elementwise; halves go to the even neighbour."""
    if decimals == 0:
        return _round(input, out=out)
    if input._array.dtype.kind in "iub":
        raise DtypeError(f"round: decimals={decimals} is for floating-point tensors, got {input.dtype}")  # type: ignore[attr-defined]
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    r = _round(input * scale) / scale if decimals > 0 else _round(input / scale) * scale  # type: ignore[operator]
    return r if out is None else out.copy_(r)


# --------------------------------------------------------------------------------------------------------- comparison


@jit
def _eq(x, y):
    return x == y


@pointwise(_eq, cpu=np.equal, promote=COMPARE, inplace=True)
def eq(input: Array, other: Array):
    """input == other, elementwise, broadcast; the result is bool."""
    return np.equal(input, other)


@jit
def _ne(x, y):
    return x != y


@pointwise(_ne, cpu=np.not_equal, promote=COMPARE, alias=("not_equal",), inplace=True)
def ne(input: Array, other: Array):
    """input != other, elementwise, broadcast; the result is bool."""
    return np.not_equal(input, other)


@jit
def _lt(x, y):
    return x < y


@pointwise(_lt, cpu=np.less, promote=COMPARE, alias=("less",), inplace=True)
def lt(input: Array, other: Array):
    """input < other, elementwise, broadcast; the result is bool."""
    return np.less(input, other)


@jit
def _le(x, y):
    return x <= y


@pointwise(_le, cpu=np.less_equal, promote=COMPARE, alias=("less_equal",), inplace=True)
def le(input: Array, other: Array):
    """input <= other, elementwise, broadcast; the result is bool."""
    return np.less_equal(input, other)


@jit
def _gt(x, y):
    return x > y


@pointwise(_gt, cpu=np.greater, promote=COMPARE, alias=("greater",), inplace=True)
def gt(input: Array, other: Array):
    """input > other, elementwise, broadcast; the result is bool."""
    return np.greater(input, other)


@jit
def _ge(x, y):
    return x >= y


@pointwise(_ge, cpu=np.greater_equal, promote=COMPARE, alias=("greater_equal",), inplace=True)
def ge(input: Array, other: Array):
    """input >= other, elementwise, broadcast; the result is bool."""
    return np.greater_equal(input, other)


@jit
def _isnan(x):
    return x != x


@pointwise(_isnan, cpu=np.isnan, promote=COMPARE)
def isnan(input: Array):
    """Whether each element is NaN."""
    return np.isnan(input)


@jit
def _isinf(x):
    if x.dtype.is_floating():
        r = tl.abs(x) == float("inf")
    else:
        r = x != x
    return r


@pointwise(_isinf, cpu=np.isinf, promote=COMPARE)
def isinf(input: Array):
    """Whether each element is infinite."""
    return np.isinf(input)


@jit
def _isfinite(x):
    if x.dtype.is_floating():
        r = tl.abs(x) < float("inf")
    else:
        r = x == x
    return r


@pointwise(_isfinite, cpu=np.isfinite, promote=COMPARE)
def isfinite(input: Array):
    """Whether each element is neither infinite nor NaN."""
    return np.isfinite(input)


@jit
def _signbit(x):
    if x.dtype.is_floating():
        r = (libdevice.signbit(x) != 0)
    else:
        r = x < 0
    return r


@pointwise(_signbit, promote=COMPARE)
def signbit(input: Array):
    """Whether the sign bit of each element is set, that of -0.0 included."""
    return np.signbit(input) if input.dtype.kind == "f" else input < 0


@composite()
def isposinf(input: Tensor) -> Tensor:
    """Whether each element is +∞."""
    return eq(input, math.inf)


@composite()
def isneginf(input: Tensor) -> Tensor:
    """Whether each element is -∞."""
    return eq(input, -math.inf)


@composite()
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol |other|, elementwise, or equal; NaN equals NaN with ``equal_nan``."""
    x, y = input.detach(), other.detach()  # type: ignore[attr-defined]
    if x._array.dtype != y._array.dtype:
        raise DtypeError(
            f"isclose: {OF_NUMPY[x._array.dtype]} did not match {OF_NUMPY[y._array.dtype]}: convert one with .to(dtype)"
        )
    if rtol < 0 or atol < 0:
        raise ArgumentError(f"isclose: rtol and atol must not be negative, got {rtol} and {atol}")
    close = eq(x, y)
    if x._array.dtype.kind in "iub":
        if rtol == 0 and atol == 0:
            return close
        x, y = x.double(), y.double()
    elif equal_nan:
        close = close | (isnan(x) & isnan(y))  # type: ignore[operator]
    difference = abs(x - y)
    return close | (isfinite(difference) & (difference <= abs(y) * rtol + atol))  # type: ignore[operator,no-any-return]


@composite()
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether ``isclose`` holds for every element, as a Python bool."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())  # type: ignore[attr-defined]


@composite()
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both tensors have the same shape and the same elements, as a Python bool."""
    if input._array.shape != other._array.shape:
        return False
    return bool(eq(input, other).all())  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------- logic and bits


@jit
def _logical_and(x, y):
    return (x != 0) & (y != 0)


@pointwise(_logical_and, cpu=np.logical_and, promote=COMPARE, inplace=True)
def logical_and(input: Array, other: Array):
    """Whether both are nonzero, elementwise."""
    return np.logical_and(input, other)


@jit
def _logical_or(x, y):
    return (x != 0) | (y != 0)


@pointwise(_logical_or, cpu=np.logical_or, promote=COMPARE, inplace=True)
def logical_or(input: Array, other: Array):
    """Whether one of the two is nonzero, elementwise."""
    return np.logical_or(input, other)


@jit
def _logical_xor(x, y):
    return (x != 0) != (y != 0)


@pointwise(_logical_xor, cpu=np.logical_xor, promote=COMPARE, inplace=True)
def logical_xor(input: Array, other: Array):
    """Whether exactly one of the two is nonzero, elementwise."""
    return np.logical_xor(input, other)


@jit
def _logical_not(x):
    return x == 0


@pointwise(_logical_not, cpu=np.logical_not, promote=COMPARE, inplace=True)
def logical_not(input: Array):
    """Whether each element is zero."""
    return np.logical_not(input)


_BIT_PAIRS = each(
    draw(ints(3, 4, low=-9), ints(3, 4, low=-9)), draw(bools(5, 1), bools(4)), draw(ints(3, dtype="int32"), 5),
    draw(ints(7, low=-9, dtype="int8"), ints(1, dtype="int16")), draw(ints(), ints()),
)  # fmt: skip
_NOT_BITS = [fails((3,), (3,), match="takes integer and bool tensors")]


@jit
def _bitwise_and(x, y):
    return x & y


@pointwise(_bitwise_and, promote=INTEGERS, inplace=True, samples=_BIT_PAIRS, errors=_NOT_BITS)
def bitwise_and(input: Array, other: Array):
    """input & other, bit by bit, of integers; logical and of bools."""
    return np.bitwise_and(input, other)


@jit
def _bitwise_or(x, y):
    return x | y


@pointwise(_bitwise_or, promote=INTEGERS, inplace=True, samples=_BIT_PAIRS, errors=_NOT_BITS)
def bitwise_or(input: Array, other: Array):
    """input | other, bit by bit, of integers; logical or of bools."""
    return np.bitwise_or(input, other)


@jit
def _bitwise_xor(x, y):
    return x ^ y


@pointwise(_bitwise_xor, promote=INTEGERS, inplace=True, samples=_BIT_PAIRS, errors=_NOT_BITS)
def bitwise_xor(input: Array, other: Array):
    """input ^ other, bit by bit, of integers; logical exclusive or of bools."""
    return np.bitwise_xor(input, other)


@jit
def _bitwise_not(x):
    if x.dtype == tl.int1:
        r = x == 0
    else:
        r = ~x
    return r


@pointwise(
    _bitwise_not,
    promote=INTEGERS,
    alias=("bitwise_invert",),
    inplace=True,
    samples=each(draw(ints(3, 4, low=-9)), draw(bools(5)), draw(ints(7, dtype="uint8")), draw(bools())),
    errors=[fails((3,), match="takes integer and bool tensors")],
)
def bitwise_not(input: Array):
    """~input, bit by bit, of integers; logical not of bools."""
    return np.invert(input)


_SHIFTS = each(
    draw(ints(3, 4, low=-9), ints(3, 4)), draw(ints(5, dtype="int32"), 3),
    draw(ints(4, low=-9), ints(4, low=60, high=70)), draw(ints(5, dtype="uint8"), ints(5, dtype="uint8")),
)  # fmt: skip


@jit
def _left_shift(x, y):
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    inside = (y >= 0) & (y < BITS)
    return tl.where(inside, x << tl.where(inside, y, 0).to(x.dtype), x * 0)


@pointwise(
    _left_shift,
    promote=INTEGERS,
    spec=_not_bool("bitwise_left_shift"),
    inplace=True,
    samples=_SHIFTS,
    errors=_NOT_BITS,
)
def bitwise_left_shift(input: Array, other: Array):
    """input 2**other by a shift of bits; 0 where other is negative or at least the number of bits."""
    bits = input.dtype.itemsize * 8
    inside = (other >= 0) & (other < bits)
    return np.where(inside, np.left_shift(input, np.where(inside, other, 0).astype(input.dtype)), 0)


@jit
def _right_shift(x, y):
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    inside = (y >= 0) & (y < BITS)
    return tl.where(inside, x >> tl.where(inside, y, 0).to(x.dtype), tl.where(x < 0, x * 0 - 1, x * 0))


@pointwise(
    _right_shift,
    promote=INTEGERS,
    spec=_not_bool("bitwise_right_shift"),
    inplace=True,
    samples=_SHIFTS,
    errors=_NOT_BITS,
)
def bitwise_right_shift(input: Array, other: Array):
    """⌊input / 2**other⌋ by a shift of bits; the sign alone remains past the number of bits."""
    bits = input.dtype.itemsize * 8
    inside = (other >= 0) & (other < bits)
    shifted = np.right_shift(input, np.where(inside, other, 0).astype(input.dtype))
    return np.where(inside, shifted, -(input < 0).astype(np.int8))


# ----------------------------------------------------------------------------------------------- extrema and selection


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


@composite(on="function")
def where(condition: Tensor, input: Any = None, other: Any = None, *, out: Any = None) -> Any:
    """input where condition holds, other elsewhere; broadcast, and input and other promoted to one dtype.

    ``where(condition)`` alone gives the indices of the nonzero elements: one tensor a dimension.
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)  # type: ignore[attr-defined]
    if input is None or other is None:
        raise TypeError("where(): give both input and other, or neither")
    return _where(condition, input, other, out=out)


@composite(on="method", alias=("where",))
def _where_method(input: Tensor, condition: Tensor, other: Any) -> Tensor:
    """self where condition holds, other elsewhere."""
    return _where(condition, input, other)


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
        inside = below if inside is None else inside & below  # type: ignore[operator]
    return _where(inside, g, 0.0)


def _clamp_min(g: Tensor, input: Tensor, min: Tensor, max: Any) -> Tensor:
    chosen = lt(input, min)
    return _where(chosen if max is None else chosen & lt(min, max), g, 0.0)  # type: ignore[operator]


def _clamp_max(g: Tensor, input: Tensor, min: Any, max: Tensor) -> Tensor:
    chosen = gt(input, max)
    return _where(chosen if min is None else chosen | gt(min, max), g, 0.0)  # type: ignore[operator]


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


@composite(inplace=True)
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """max(input, min), elementwise."""
    return clamp(input, min, None)


@composite(inplace=True)
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """min(input, max), elementwise."""
    return clamp(input, None, max)


@composite(inplace=True)
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
        value = value if value._array.dtype == want else value.to(input)  # type: ignore[attr-defined]
    elif category(of_number(value)) > category(want):
        if isinstance(value, complex):
            raise DtypeError(f"masked_fill: value {value} cannot be converted to type {OF_NUMPY[want]}")
        value = int(value) if want != np.bool_ else bool(value)
    return _where(mask, value, input)


@jit
def _copysign(x, y):
    return libdevice.copysign(x, y)


@pointwise(
    _copysign,
    cpu=np.copysign,
    promote=INT_TO_FLOAT,
    vjp=dict(input=lambda g, input, other: g * (sign(input) * copysign(1.0, other)), other=_zero),
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
    return np.where(np.isfinite(input), input, np.where(input != input, nan, np.where(input > 0, posinf, neginf)))


@composite(inplace=True)
def nan_to_num(
    input: Tensor, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None, *, out: Any = None
) -> Tensor:
    """input with NaN, ∞ and -∞ replaced: by 0 and the largest and smallest numbers of the dtype unless given."""
    dtype = OF_NUMPY[input._array.dtype]
    limits = finfo(dtype) if dtype.is_floating_point else None
    high = posinf if posinf is not None else float(limits.max) if limits is not None else 0.0
    low = neginf if neginf is not None else float(limits.min) if limits is not None else 0.0
    return _nan_to_num(input, 0.0 if nan is None else nan, high, low, out=out)


# ------------------------------------------------------------------------------------------------------ combinations


@jit
def _lerp(x, y, w):
    return tl.where(tl.abs(w) < 0.5, x + w * (y - x), y - (y - x) * (1 - w))


@pointwise(
    _lerp,
    promote=FLOAT_ONLY,
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
    near, far = input + weight * step, end - step * (1 - weight)
    return np.where(np.abs(weight) < 0.5, near, far) if weight.ndim else near if np.abs(weight) < 0.5 else far


@jit
def _addcmul(x, a, b, value):
    return x + value * (a * b)


@pointwise(
    _addcmul,
    promote=PROMOTE,
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
