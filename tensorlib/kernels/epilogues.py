"""Epilogues: what is done to the tile of a product, in registers, before it is rounded and stored.

An epilogue is a function of the sums and of operands that broadcast to them (a bias, a residual, scales) or numbers,
and an activation after it; both are constexpr functions of the product's kernel, as in `pointwise`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorlib._array import DeviceArray, empty, expand
from tensorlib.kernels.pointwise import copy
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.recording import float64

if TYPE_CHECKING:
    import triton.language as tl

NUMBER, TILE, ROW, COLUMN, SINGLE = range(5)  # what an operand is: a number, or an array by the strides it has


@jit
def add_to(acc, x):
    return acc + x


@jit
def scaled(acc, alpha):
    return acc * alpha


@jit
def scaled_sum(acc, x, beta, alpha):
    return acc * alpha + x * beta


# The offset of matrix ``batch`` of an array whose leading dimensions have these sizes and strides.
@jit
def of_batch(batch, shape, strides, RANK: tl.constexpr):
    rest = tl.cast(batch, tl.int64)
    offset = tl.zeros_like(rest)
    for d in tl.static_range(RANK - 1, -1, -1):
        offset += rest % shape[d] * strides[d]
        rest = rest // shape[d]
    return offset


# Operand k of an epilogue for the tile of rows m and columns n, broadcast by its shape: a row is loaded once for all
# rows of the tile.
@jit
def _operand(x, strides, batch, shape, m, n, M, N, RANK: tl.constexpr, MODE: tl.constexpr, ACC: tl.constexpr):
    if MODE == 0:
        v = tl.cast(x, ACC)
    else:
        x += of_batch(batch, shape, strides, RANK)
        if MODE == 1:
            at = m[:, None] * strides[RANK] + n[None, :] * strides[RANK + 1]
            v = tl.load(x + at, mask=(m[:, None] < M) & (n[None, :] < N), other=0).to(ACC)
        elif MODE == 2:
            v = tl.load(x + n * strides[RANK + 1], mask=n < N, other=0).to(ACC)[None, :]
        elif MODE == 3:
            v = tl.load(x + m * strides[RANK], mask=m < M, other=0).to(ACC)[:, None]
        else:
            v = tl.load(x).to(ACC)
    return v


# The sums of the tile of rows m and columns n as they are stored, up to the rounding.
@jit
def finish(
    acc, extras, strides, batch, shape, m, n, M, N,
    RANK: tl.constexpr, MODES: tl.constexpr, FUNCTION: tl.constexpr,
):  # fmt: skip
    if FUNCTION is not None:
        values = ()
        for k in tl.static_range(len(MODES)):
            values = values + (_operand(extras[k], strides[k], batch, shape, m, n, M, N, RANK, MODES[k], acc.dtype),)
        acc = FUNCTION(acc, *values)
    return acc


class Epilogue(NamedTuple):
    """``activation(function(sums, *values))``: values are arrays that broadcast to the product, or numbers."""

    function: Jit | None = None
    values: tuple[Any, ...] = ()
    activation: Jit | None = None
    before: DeviceArray | None = None  #: contiguous, of the product's shape: takes what the activation is given


class Laid(NamedTuple):
    """An epilogue's operands as a kernel takes them."""

    extras: tuple[Any, ...]
    strides: tuple[Any, ...]  #: of each: of the batch's dimensions, then of rows and columns
    modes: tuple[int, ...]
    span: int  #: elements that an operand reaches over

    @property
    def swapped(self) -> Laid:
        """The same for the transposed product."""
        strides = tuple([(*s[:-2], s[-1], s[-2]) for s in self.strides])
        modes = tuple([{ROW: COLUMN, COLUMN: ROW}.get(m, m) for m in self.modes])
        return Laid(self.extras, strides, modes, self.span)


def laid_out(values: Sequence[Any], shape: tuple[int, ...], merged: bool, wide: bool) -> tuple[list[Any], list[Any]]:
    """Arrays broadcast to the product's shape, one tall matrix where the product was ``merged`` to one; numbers."""
    found: list[Any] = []
    for x in values:
        if not isinstance(x, DeviceArray):
            found.append(float64(x) if wide and isinstance(x, float) else x)
            continue
        x = expand(x, shape)
        if merged:
            tall = (math.prod(shape[:-1]), shape[-1])
            try:
                x = x.reshape(tall)
            except ValueError:
                own: DeviceArray = empty(shape, x.dtype, x.device)
                copy(own, x)
                x = own.reshape(tall)
        found.append(x)
    return found, [x.strides if isinstance(x, DeviceArray) else None for x in found]


def lay(found: Sequence[Any], batches: Sequence[Any], rank: int) -> Laid:
    """The operands with the collapsed strides of their batch dimensions."""
    strides, modes, span = [], [], 0
    for x, batch in zip(found, batches, strict=True):
        if not isinstance(x, DeviceArray):
            strides.append((0,) * (rank + 2))
            modes.append(NUMBER)
            continue
        (m, n), (stride_m, stride_n) = x.shape[-2:], x.strides[-2:]
        down, across = m > 1 and stride_m != 0, n > 1 and stride_n != 0
        strides.append((*batch, stride_m, stride_n))
        modes.append(TILE if down and across else COLUMN if down else ROW if across else SINGLE)
        span = max(span, abs(stride_m) * m + abs(stride_n) * n)
    return Laid(tuple(found), tuple(strides), tuple(modes), span)


#: Of products that are stored as they are.
PLAIN, NONE = Epilogue(), Laid((), (), (), 0)
