"""Elementwise arithmetic, comparison and elementary functions: one scalar function and one gradient each.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib._promotion import COMPARE, INT_TO_FLOAT, PROMOTE
from tensorlib.op import Array, Scalar, pointwise
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl

# --------------------------------------------------------------------------------------------------------- arithmetic


@jit
def _add(x, y, alpha):
    return x + y * alpha


@pointwise(
    _add,
    cpu=None,
    promote=PROMOTE,
    vjp=dict(input=lambda g: g, other=lambda g, alpha: g if alpha == 1 else g * alpha),
    inplace=True,
)
def add(input: Array, other: Array, *, alpha: Scalar = 1):
    """input + alpha * other, elementwise, broadcast and promoted."""
    return np.add(input, other if alpha == 1 else other * alpha)


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
def _exp(x):
    return tl.exp(x)


@pointwise(_exp, cpu=np.exp, promote=INT_TO_FLOAT, vjp=lambda g, out: g * out, inplace=True)
def exp(input: Array):
    """e**input, elementwise. Integers promote to the default float dtype; half types compute in float32."""
    return np.exp(input)


@jit
def _gt(x, y):
    return x > y


@pointwise(_gt, cpu=np.greater, promote=COMPARE, alias=("greater",), inplace=True)
def gt(input: Array, other: Array):
    """input > other, elementwise, broadcast; the result is bool."""
    return np.greater(input, other)
