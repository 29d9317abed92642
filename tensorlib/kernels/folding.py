"""Patches of an image as columns of a matrix, and their sum back into an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib._array import DeviceArray
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.reduction import compute_dtype
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 512


# One program makes BLOCK elements of (N, C KH KW, OH OW) from (N, C, H, W). Reads and writes each of them once.
@jit
def unfold_kernel(
    out, x, n, H, W, OH, OW, KH, KW, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    column = i % OW
    row = i // OW % OH
    kw = i // OW // OH % KW
    kh = i // OW // OH // KW % KH
    plane = i // OW // OH // KW // KH
    h = row * stride_h - pad_h + kh * dilation_h
    w = column * stride_w - pad_w + kw * dilation_w
    inside = live & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    v = tl.load(x + (plane * H + h) * W + w, mask=inside, other=0)
    tl.store(out + i, v, mask=live)


# One program makes BLOCK pixels of (N, C, H, W), each the sum of the patches that hold it; no atomics.
# Reads (N, C KH KW, OH OW) once and writes the image once.
@jit
def fold_kernel(
    out, x, n, H, W, OH, OW, KH, KW, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    w = i % W
    h = i // W % H
    plane = i // W // H
    total = tl.zeros([BLOCK], ACC)
    for kh in range(0, KH):
        y = h + pad_h - kh * dilation_h
        row = y // stride_h
        in_row = (y >= 0) & (y % stride_h == 0) & (row < OH)
        for kw in range(0, KW):
            z = w + pad_w - kw * dilation_w
            column = z // stride_w
            inside = live & in_row & (z >= 0) & (z % stride_w == 0) & (column < OW)
            at = ((plane * KH + kh) * KW + kw) * OH * OW + row * OW + column
            total += tl.load(x + at, mask=inside, other=0).to(ACC)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=live)


def _geometry(size: Any, blocks: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple[int, ...]:
    return (*size, *blocks, *kernel_size, *stride, *padding, *dilation)


def unfold(
    out: DeviceArray, input: DeviceArray, kernel_size: Any, dilation: Any, padding: Any, stride: Any, blocks: Any
) -> None:
    """The patches of (N, C, H, W) as columns."""
    if out.size:
        launch(unfold_kernel, (cdiv(out.size, BLOCK),), out, contiguous(input), out.size,
               *_geometry(input.shape[2:], blocks, kernel_size, dilation, padding, stride), BLOCK=BLOCK)  # fmt: skip


def fold(
    out: DeviceArray, input: DeviceArray, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any,
    blocks: Any,
) -> None:  # fmt: skip
    """The sum of patches as an image."""
    if out.size:
        launch(fold_kernel, (cdiv(out.size, BLOCK),), out, contiguous(input), out.size,
               *_geometry(output_size, blocks, kernel_size, dilation, padding, stride),
               ACC=compute_dtype(out.dtype), BLOCK=BLOCK)  # fmt: skip
