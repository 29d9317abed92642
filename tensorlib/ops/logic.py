"""Logic and bits, elementwise.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib._promotion import COMPARE, INTEGERS
from tensorlib._samples import bools, draw, each, fails, ints
from tensorlib.op import Array, pointwise
from tensorlib.ops._pointwise import _not_bool
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl


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


# ----------------------------------------------------------------------------------------------------------------- bits


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
