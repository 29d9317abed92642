"""Pooling over windows of two dims: the largest element, where it was, the mean; and their gradients.

Inputs are read through their strides; outputs are contiguous. float16 and bfloat16 are computed in float32 and rounded
once. Gradients gather: each element of the input asks the windows that hold it, so there are no atomics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib.kernels.reduction import compute_dtype
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 256


# Elements i … of a contiguous (planes, size[0], size[1]) array: (number, in range, plane, y, x).
@jit
def _positions(n, size, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    return i, i < n, i // (size[0] * size[1]), i // size[1] % size[0], i % size[1]


# The offset of a plane (image, channel) of a strided array.
@jit
def _plane(plane, channels, strides):
    return plane // channels * strides[0] + plane % channels * strides[1]


# One program owns BLOCK outputs and reads the elements of their windows, KH * KW each, from cache where windows
# overlap. Writes the largest and its number in the window (row * KW + column), the first of equal ones; NaN is larger
# than everything, the last NaN of all.
@jit
def max_pool2d_kernel(
    out, chosen, x, n, channels, size, result, strides, kernel, stride, padding, dilation,
    LOWEST: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, y, z = _positions(n, result, WIDE, BLOCK)
    x += _plane(plane, channels, strides)
    best = tl.zeros((BLOCK,), COMPUTE)
    number = tl.full((BLOCK,), -1, tl.int32)
    for i in range(kernel[0]):
        h = y * stride[0] - padding[0] + i * dilation[0]
        for j in range(kernel[1]):
            w = z * stride[1] - padding[1] + j * dilation[1]
            inside = mask & (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
            v = tl.load(x + h * strides[2] + w * strides[3], mask=inside, other=0).to(COMPUTE)
            better = inside & ((v > best) | (v != v) | (number < 0))
            best = tl.where(better, v, best)
            number = tl.where(better, i * kernel[1] + j, number)
    best = tl.where(number < 0, LOWEST, best)  # dilation may leave a window without any element
    tl.store(out + at, best.to(out.dtype.element_ty), mask=mask)
    tl.store(chosen + at, tl.maximum(number, 0).to(chosen.dtype.element_ty), mask=mask)


# One program owns BLOCK outputs and reads the one element of x that each window chose.
@jit
def max_pool2d_take_kernel(
    out, x, chosen, n, channels, size, result, strides, chosen_strides, kernel, stride, padding, dilation,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, y, z = _positions(n, result, WIDE, BLOCK)
    where = chosen + _plane(plane, channels, chosen_strides) + y * chosen_strides[2] + z * chosen_strides[3]
    number = tl.load(where, mask=mask, other=0).to(tl.int32)
    h = y * stride[0] - padding[0] + number // kernel[1] * dilation[0]
    w = z * stride[1] - padding[1] + number % kernel[1] * dilation[1]
    inside = mask & (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
    v = tl.load(x + _plane(plane, channels, strides) + h * strides[2] + w * strides[3], mask=inside, other=0)
    tl.store(out + at, v, mask=mask)


# One program owns BLOCK elements of the input's gradient: each sums g over the windows that hold it and chose it. The
# numbers of KH * KW / (stride * stride) windows are read for each element, and every gradient once.
@jit
def max_pool2d_grad_kernel(
    out, g, chosen, n, channels, size, result, g_strides, chosen_strides, kernel, stride, padding, dilation,
    COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, h, w = _positions(n, size, WIDE, BLOCK)
    g += _plane(plane, channels, g_strides)
    chosen += _plane(plane, channels, chosen_strides)
    total = tl.zeros((BLOCK,), COMPUTE)
    for i in range(kernel[0]):
        from_h = h + padding[0] - i * dilation[0]
        y = from_h // stride[0]
        for j in range(kernel[1]):
            from_w = w + padding[1] - j * dilation[1]
            z = from_w // stride[1]
            inside = mask & (from_h >= 0) & (from_w >= 0) & (from_h % stride[0] == 0) & (from_w % stride[1] == 0)
            inside = inside & (y < result[0]) & (z < result[1])
            number = tl.load(chosen + y * chosen_strides[2] + z * chosen_strides[3], mask=inside, other=0).to(tl.int32)
            mine = inside & (number == i * kernel[1] + j)
            total += tl.load(g + y * g_strides[2] + z * g_strides[3], mask=mine, other=0).to(COMPUTE)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


# What the sum of the window of output y is divided by, in one dim: its length within the padding, or within the input.
@jit
def _extent(y, size, kernel, stride, padding, INCLUDE_PAD: tl.constexpr):
    start = y * stride - padding
    if INCLUDE_PAD:
        return tl.minimum(start + kernel, size + padding) - start
    return tl.minimum(start + kernel, size) - tl.maximum(start, 0)


# One program owns BLOCK outputs and reads the KH * KW elements of their windows, from cache where windows overlap.
@jit
def avg_pool2d_kernel(
    out, x, n, channels, size, result, strides, kernel, stride, padding, divisor,
    INCLUDE_PAD: tl.constexpr, COMPUTE: tl.constexpr, FLOAT: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, y, z = _positions(n, result, WIDE, BLOCK)
    x += _plane(plane, channels, strides)
    total = tl.zeros((BLOCK,), COMPUTE)
    for i in range(kernel[0]):
        h = y * stride[0] - padding[0] + i
        for j in range(kernel[1]):
            w = z * stride[1] - padding[1] + j
            inside = mask & (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
            total += tl.load(x + h * strides[2] + w * strides[3], mask=inside, other=0).to(COMPUTE)
    if divisor is None:
        count = _extent(y, size[0], kernel[0], stride[0], padding[0], INCLUDE_PAD)
        count = count * _extent(z, size[1], kernel[1], stride[1], padding[1], INCLUDE_PAD)
    else:
        count = tl.zeros_like(y) + divisor
    count = tl.where(mask, count, 1).to(COMPUTE)
    if FLOAT:
        mean = total / count
    else:
        mean = total // count  # towards zero
    tl.store(out + at, mean.to(out.dtype.element_ty), mask=mask)


# One program owns BLOCK elements of the input's gradient: each sums g / divisor over the windows that hold it.
@jit
def avg_pool2d_grad_kernel(
    out, g, n, channels, size, result, g_strides, kernel, stride, padding, divisor,
    INCLUDE_PAD: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, h, w = _positions(n, size, WIDE, BLOCK)
    g += _plane(plane, channels, g_strides)
    total = tl.zeros((BLOCK,), COMPUTE)
    for i in range(kernel[0]):
        from_h = h + padding[0] - i
        y = from_h // stride[0]
        for j in range(kernel[1]):
            from_w = w + padding[1] - j
            z = from_w // stride[1]
            inside = mask & (from_h >= 0) & (from_w >= 0) & (from_h % stride[0] == 0) & (from_w % stride[1] == 0)
            inside = inside & (y < result[0]) & (z < result[1])
            if divisor is None:
                count = _extent(y, size[0], kernel[0], stride[0], padding[0], INCLUDE_PAD)
                count = count * _extent(z, size[1], kernel[1], stride[1], padding[1], INCLUDE_PAD)
            else:
                count = tl.zeros_like(y) + divisor
            count = tl.where(inside, count, 1).to(COMPUTE)
            total += tl.load(g + y * g_strides[2] + z * g_strides[3], mask=inside, other=0).to(COMPUTE) / count
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


def _launch(
    kernel: Any, out: DeviceArray, arrays: tuple[Any, ...], s: Any, read: tuple[Any, ...], *rest: Any, **constants: Any
) -> None:
    """One program for each BLOCK elements of ``out``. ``read``: the arrays whose strides the kernel takes."""
    n = out.size
    if not n:
        return
    span = max(sum(abs(t) * (m - 1) for t, m in zip(a.strides, a.shape, strict=True)) for a in read)
    launch(
        kernel, (cdiv(n, BLOCK),), out, *arrays, n, s.C, (s.H, s.W), (s.OH, s.OW), *[a.strides for a in read],
        s.kernel, s.stride, s.padding, *rest,
        **constants, WIDE=max(span, n + BLOCK) >= 1 << 31, BLOCK=BLOCK,
    )  # fmt: skip


def max_pool2d(out: DeviceArray, chosen: DeviceArray, x: DeviceArray, s: Any) -> None:
    """out, chosen = the largest element of each window of x (N, C, H, W), and its number there. s: pooling.Windows."""
    lowest = int(np.iinfo(x.dtype).min) if x.dtype.kind in "iu" else float("-inf")
    _launch(max_pool2d_kernel, out, (chosen, x), s, (x,), s.dilation, LOWEST=lowest, COMPUTE=compute_dtype(x.dtype))


def max_pool2d_take(out: DeviceArray, x: DeviceArray, chosen: DeviceArray, s: Any) -> None:
    """out = the elements of x at the places that ``chosen`` names."""
    _launch(max_pool2d_take_kernel, out, (x, chosen), s, (x, chosen), s.dilation)


def max_pool2d_grad(out: DeviceArray, g: DeviceArray, chosen: DeviceArray, s: Any) -> None:
    """out = the gradient of the input of max_pool2d."""
    _launch(max_pool2d_grad_kernel, out, (g, chosen), s, (g, chosen), s.dilation, COMPUTE=compute_dtype(g.dtype))


def avg_pool2d(out: DeviceArray, x: DeviceArray, s: Any, include_pad: bool, divisor: int | None) -> None:
    """out = the mean of each window of x (N, C, H, W)."""
    compute = compute_dtype(x.dtype)
    _launch(
        avg_pool2d_kernel,
        out,
        (x,),
        s,
        (x,),
        divisor,
        INCLUDE_PAD=include_pad,
        COMPUTE=compute,
        FLOAT=compute.kind == "f",
    )


def avg_pool2d_grad(out: DeviceArray, g: DeviceArray, s: Any, include_pad: bool, divisor: int | None) -> None:
    """out = the gradient of the input of avg_pool2d."""
    _launch(
        avg_pool2d_grad_kernel, out, (g,), s, (g,), divisor, INCLUDE_PAD=include_pad, COMPUTE=compute_dtype(g.dtype)
    )
