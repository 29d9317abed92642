"""Elementwise functions: the library's own, on operands brought to a common dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor

from ._data_types import array, iinfo, together

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clip",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "real",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
]  # fmt: skip


def _unary(name: str, function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """The function of one tensor under its name in the standard."""

    def call(x: Tensor, /) -> Tensor:
        out: Tensor = function(array(name, x))
        return out

    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    return call


def _binary(name: str, function: Callable[..., Any]) -> Callable[[Any, Any], Tensor]:
    """The function of two tensors, or one and a number, whose common dtype is the standard's: 0-d tensors count too."""

    def call(x1: Any, x2: Any, /) -> Tensor:
        out: Tensor = function(*together(name, x1, x2))
        return out

    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    return call


def _sign(x: Tensor) -> Tensor:
    """x / |x|, elementwise, 0 at 0 and NaN at NaN, where PyTorch has 0; of complex numbers too."""
    if x.is_complex():
        return ops.sgn(x)
    out: Tensor = ops.where(x.isnan(), x, ops.sign(x)) if x.is_floating_point() else ops.sign(x)
    return out


def _expm1(x: Tensor) -> Tensor:
    """e**x - 1, elementwise, accurate near 0. Infinite complex numbers have the limits, where PyTorch has NaN."""
    if not x.is_complex():
        return ops.expm1(x)
    out: Tensor = ops.where(x.isfinite() & (x != 0), ops.expm1(x), ops.exp(x) - 1)
    return out


def _round(x: Tensor) -> Tensor:
    """To the nearest integer, elementwise, halves to the even one; both parts of complex numbers."""
    return ops.complex(ops.round(x.real), ops.round(x.imag)) if x.is_complex() else ops.round(x)


def _imag(x: Tensor) -> Tensor:
    """The imaginary parts; zeros of real numbers."""
    return x.imag if x.is_complex() else ops.zeros_like(x)


abs = _unary("abs", ops.abs)
acos = _unary("acos", ops.acos)
acosh = _unary("acosh", ops.acosh)
asin = _unary("asin", ops.asin)
asinh = _unary("asinh", ops.asinh)
atan = _unary("atan", ops.atan)
atanh = _unary("atanh", ops.atanh)
bitwise_invert = _unary("bitwise_invert", ops.bitwise_not)
ceil = _unary("ceil", ops.ceil)
conj = _unary("conj", ops.conj)
cos = _unary("cos", ops.cos)
cosh = _unary("cosh", ops.cosh)
exp = _unary("exp", ops.exp)
expm1 = _unary("expm1", _expm1)
floor = _unary("floor", ops.floor)
imag = _unary("imag", _imag)
isfinite = _unary("isfinite", ops.isfinite)
isinf = _unary("isinf", ops.isinf)
isnan = _unary("isnan", ops.isnan)
log = _unary("log", ops.log)
log10 = _unary("log10", ops.log10)
log1p = _unary("log1p", ops.log1p)
log2 = _unary("log2", ops.log2)
logical_not = _unary("logical_not", ops.logical_not)
negative = _unary("negative", ops.neg)
positive = _unary("positive", ops.positive)
real = _unary("real", ops.real)
reciprocal = _unary("reciprocal", ops.reciprocal)
round = _unary("round", _round)
sign = _unary("sign", _sign)
signbit = _unary("signbit", ops.signbit)
sin = _unary("sin", ops.sin)
sinh = _unary("sinh", ops.sinh)
sqrt = _unary("sqrt", ops.sqrt)
square = _unary("square", ops.square)
tan = _unary("tan", ops.tan)
tanh = _unary("tanh", ops.tanh)
trunc = _unary("trunc", ops.trunc)

add = _binary("add", ops.add)
atan2 = _binary("atan2", ops.atan2)
bitwise_and = _binary("bitwise_and", ops.bitwise_and)
bitwise_left_shift = _binary("bitwise_left_shift", ops.bitwise_left_shift)
bitwise_or = _binary("bitwise_or", ops.bitwise_or)
bitwise_right_shift = _binary("bitwise_right_shift", ops.bitwise_right_shift)
bitwise_xor = _binary("bitwise_xor", ops.bitwise_xor)
copysign = _binary("copysign", ops.copysign)
divide = _binary("divide", ops.div)
equal = _binary("equal", ops.eq)
floor_divide = _binary("floor_divide", ops.floor_divide)
greater = _binary("greater", ops.gt)
greater_equal = _binary("greater_equal", ops.ge)
hypot = _binary("hypot", ops.hypot)
less = _binary("less", ops.lt)
less_equal = _binary("less_equal", ops.le)
logaddexp = _binary("logaddexp", ops.logaddexp)
logical_and = _binary("logical_and", ops.logical_and)
logical_or = _binary("logical_or", ops.logical_or)
logical_xor = _binary("logical_xor", ops.logical_xor)
maximum = _binary("maximum", ops.maximum)
minimum = _binary("minimum", ops.minimum)
multiply = _binary("multiply", ops.mul)
nextafter = _binary("nextafter", ops.nextafter)
not_equal = _binary("not_equal", ops.ne)
pow = _binary("pow", ops.pow)
remainder = _binary("remainder", ops.remainder)
subtract = _binary("subtract", ops.sub)


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Tensor:
    """Every element brought between ``min`` and ``max``: numbers, tensors that broadcast with ``x``, or None.

    The result has the dtype of ``x``; a number beyond what an integer dtype holds is no limit on that side.
    """
    if array("clip", x).dtype.kind == "int":
        info = iinfo(x.dtype)
        min = None if isinstance(min, int) and min <= info.min else min
        max = None if isinstance(max, int) and max >= info.max else max
    if min is None and max is None:
        return x.clone()
    return ops.clamp(x, min, max).to(x.dtype)
