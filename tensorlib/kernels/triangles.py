"""Triangles of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorlib._array import DeviceArray
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.pointwise import collapse
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


# One program copies BLOCK elements of a batch of matrices, zeros on one side of a diagonal.
# Reads and writes each element once.
@jit
def triangle_kernel(
    out, x, n, M, N, stride_xb, stride_xm, stride_xn, diagonal, UPPER: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = i % N
    row = i // N % M
    at = i // N // M * stride_xb + row * stride_xm + column * stride_xn
    if UPPER:
        keep = column - row >= diagonal
    else:
        keep = column - row <= diagonal
    v = tl.load(x + at, mask=(i < n) & keep, other=0)
    tl.store(out + i, v, mask=i < n)


def triangle(out: DeviceArray, x: DeviceArray, diagonal: int, upper: bool) -> None:
    """The lower or upper triangle of a batch of matrices, zeros elsewhere."""
    batch, strides = collapse(x.shape[:-2], [x.strides[:-2]])
    if len(batch) > 1:
        x = contiguous(x)
        strides = [(x.strides[-3],)]
    launch(triangle_kernel, (cdiv(x.size, BLOCK),), out, x, x.size, x.shape[-2], x.shape[-1], strides[0][0],
           x.strides[-2], x.strides[-1], diagonal, UPPER=upper, BLOCK=BLOCK)  # fmt: skip


def tril(out: DeviceArray, input: DeviceArray, diagonal: int) -> None:
    """The lower triangle."""
    triangle(out, input, diagonal, False)


def triu(out: DeviceArray, input: DeviceArray, diagonal: int) -> None:
    """The upper triangle."""
    triangle(out, input, diagonal, True)
