"""Exponentials and logarithms, elementwise.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import FLOAT_ONLY, INT_TO_FLOAT
from tensorlib.op import Array, pointwise
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@jit
def _exp(x):
    return tl.exp(x)


@pointwise(_exp, cpu=np.exp, promote=INT_TO_FLOAT, complex=True, vjp=lambda g, out: g * out, inplace=True)
def exp(input: Array):
    """e**input, elementwise. Integers promote to the default float dtype; half types compute in float32."""
    return np.exp(input)


@jit
def _exp2(x):
    return tl.exp2(x)


@pointwise(
    _exp2,
    cpu=np.exp2,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: g * (out * 0.6931471805599453),
    alias=("special.exp2",),
    inplace=True,
)
def exp2(input: Array):
    """2**input, elementwise."""
    return np.exp2(input)


@jit
def _expm1(x):
    return libdevice.expm1(x)


@pointwise(
    _expm1,
    cpu=np.expm1,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: g * (out + 1),
    alias=("special.expm1",),
    inplace=True,
)
def expm1(input: Array):
    """e**input - 1, elementwise, accurate near 0."""
    return np.expm1(input)


@jit
def _log(x):
    return tl.log(x)


@pointwise(
    _log, cpu=np.log, promote=INT_TO_FLOAT, complex=True, vjp=lambda g, input: g / input, domain=(0.1, 5), inplace=True
)
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
    complex=True,
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
    complex=True,
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
    _log1p,
    cpu=np.log1p,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: g / (input + 1),
    domain=(-0.9, 5),
    alias=("special.log1p",),
    inplace=True,
)
def log1p(input: Array):
    """log(1 + input), elementwise, accurate near 0."""
    return np.log1p(input)


def _log_of(x: Any) -> Any:
    if isinstance(x, Tensor):
        return log(x)
    if isinstance(x, complex):
        return cmath.log(x) if x else -math.inf
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


@jit
def _logaddexp(x, y):
    high = tl.maximum(x, y)
    return tl.where(x == y, x + 0.6931471805599453, high + libdevice.log1p(tl.exp(-tl.abs(x - y))))


@pointwise(
    _logaddexp,
    ufunc=np.logaddexp,
    promote=FLOAT_ONLY,
    complex=True,
    vjp=dict(
        input=lambda g, input, other: g / ((other - input).exp() + 1),
        other=lambda g, input, other: g / ((input - other).exp() + 1),
    ),
)
def logaddexp(input: Array, other: Array):
    """log(e**input + e**other), elementwise, without overflow."""
    if input.dtype.kind != "c":
        return np.logaddexp(input, other)
    larger = np.greater_equal(input.real, other.real)
    high: Any = np.where(larger, input, other)
    return high + np.log1p(np.exp(np.where(larger, other, input) - high))


@jit
def _logaddexp2(x, y):
    high = tl.maximum(x, y)
    bent = high + 1.4426950408889634 * libdevice.log1p(tl.exp2(-tl.abs(x - y)))
    return tl.where(x == y, x + 1, bent)


@pointwise(
    _logaddexp2,
    cpu=np.logaddexp2,
    promote=FLOAT_ONLY,
    vjp=dict(
        input=lambda g, input, other: g / ((other - input).exp2() + 1),
        other=lambda g, input, other: g / ((input - other).exp2() + 1),
    ),
)
def logaddexp2(input: Array, other: Array):
    """log2(2**input + 2**other), elementwise, without overflow."""
    return np.logaddexp2(input, other)
