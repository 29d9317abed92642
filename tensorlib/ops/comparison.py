"""Comparison, elementwise and of whole tensors, and tests for NaN and infinities.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import COMPARE, ORDER
from tensorlib._samples import ELEMENTWISE, draw, each, values
from tensorlib.errors import ArgumentError, DtypeError
from tensorlib.op import Array, composite, pointwise
from tensorlib.ops._out import takes_out
from tensorlib.ops.arithmetic import abs
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


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


@pointwise(_lt, cpu=np.less, promote=ORDER, alias=("less",), inplace=True)
def lt(input: Array, other: Array):
    """input < other, elementwise, broadcast; the result is bool."""
    return np.less(input, other)


@jit
def _le(x, y):
    return x <= y


@pointwise(_le, cpu=np.less_equal, promote=ORDER, alias=("less_equal",), inplace=True)
def le(input: Array, other: Array):
    """input <= other, elementwise, broadcast; the result is bool."""
    return np.less_equal(input, other)


@jit
def _gt(x, y):
    return x > y


@pointwise(_gt, cpu=np.greater, promote=ORDER, alias=("greater",), inplace=True)
def gt(input: Array, other: Array):
    """input > other, elementwise, broadcast; the result is bool."""
    return np.greater(input, other)


@jit
def _ge(x, y):
    return x >= y


@pointwise(_ge, cpu=np.greater_equal, promote=ORDER, alias=("greater_equal",), inplace=True)
def ge(input: Array, other: Array):
    """input >= other, elementwise, broadcast; the result is bool."""
    return np.greater_equal(input, other)


# ----------------------------------------------------------------------------------------------- NaN, infinities, signs


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


@pointwise(_signbit, promote=COMPARE, complex=False)
def signbit(input: Array):
    """Whether the sign bit of each element is set, that of -0.0 included."""
    return np.signbit(input) if input.dtype.kind == "f" else input < 0


@composite(complex=False, samples=each(ELEMENTWISE, draw(values([float("inf"), -float("inf"), float("nan")]))))
@takes_out
def isposinf(input: Tensor) -> Tensor:
    """Whether each element is +∞."""
    return eq(input, math.inf)


@composite(complex=False, samples=each(ELEMENTWISE, draw(values([float("inf"), -float("inf"), float("nan")]))))
@takes_out
def isneginf(input: Tensor) -> Tensor:
    """Whether each element is -∞."""
    return eq(input, -math.inf)


# -------------------------------------------------------------------------------------------------------- whole tensors


@composite(
    samples=each(
        draw(values([1.0, 1.0, 0.0]), values([1.0, 1.1, 1e-9])),
        draw((3, 1), (4,), rtol=0.5, atol=0.1),
        draw(values([float("nan")]), values([float("nan")]), equal_nan=True),
    )
)
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol |other|, elementwise, or equal; NaN equals NaN with ``equal_nan``."""
    x, y = input.detach(), other.detach()
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
        close = close | (isnan(x) & isnan(y))
    difference = abs(x - y)
    return close | (isfinite(difference) & (difference <= abs(y) * rtol + atol))


@composite(samples=each(draw(values([1.0, 2.0]), values([1.0, 2.0])), draw((3,), (3,)), draw((3,), (3,), atol=10.0)))
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether ``isclose`` holds for every element, as a Python bool."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


@composite(samples=each(draw(values([1.0, 2.0]), values([1.0, 2.0])), draw((3,), (3,)), draw((3,), (4,))))
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both tensors have the same shape and the same elements, as a Python bool."""
    if input._array.shape != other._array.shape:
        return False
    return bool(eq(input, other).all())
