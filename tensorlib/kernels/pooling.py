"""Pooling over windows of one to three dims: the largest element, where it was, the mean; and their gradients.

One to three dims go by one kernel: dims of size 1 are constants in a compiled kernel, and cost nothing there. Inputs
are read through their strides; outputs are contiguous. float16 and bfloat16 are computed in float32 and rounded once.
Gradients gather: each element of the input asks the windows that hold it, so there are no atomics.
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


# Elements i … of a contiguous (planes, *size) array: (number, in range, plane, x, y, z).
@jit
def _positions(n, size, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    x = i // (size[1] * size[2]) % size[0]
    return i, i < n, i // (size[0] * size[1] * size[2]), x, i // size[2] % size[1], i % size[2]


# The offset of a plane (image, channel) of a strided array.
@jit
def _plane(plane, channels, strides):
    return plane // channels * strides[0] + plane % channels * strides[1]


# Element i of the window of output x, in one dim: (where, whether the input has it).
@jit
def _forward(x, i, size, stride, padding, dilation):
    at = x * stride - padding + i * dilation
    return at, (at >= 0) & (at < size)


# Of the outputs whose windows reach over element ``at`` of the input, the k-th from the last, in one dim: (which, the
# element's number in its window, whether there is one).
@jit
def _backward(at, k, kernel, result, stride, padding, dilation):
    x = (at + padding) // stride - k
    offset = at + padding - x * stride
    i = offset // dilation
    return x, i, (x >= 0) & (x < result) & (i < kernel) & (offset % dilation == 0)


# One program owns BLOCK outputs and reads the elements of their windows, K of them each, from cache where windows
# overlap. Writes the largest and its number in the window (row by row), the first of equal ones; NaN is larger than
# everything, the last NaN of all.
@jit
def max_pool_kernel(
    out, chosen, x, n, channels, size, result, strides, kernel, stride, padding, dilation,
    LOWEST: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, a, b, c = _positions(n, result, WIDE, BLOCK)
    x += _plane(plane, channels, strides)
    best = tl.zeros((BLOCK,), COMPUTE)
    number = tl.full((BLOCK,), -1, tl.int32)
    for f in range(kernel[0]):
        d, in_d = _forward(a, f, size[0], stride[0], padding[0], dilation[0])
        for i in range(kernel[1]):
            h, in_h = _forward(b, i, size[1], stride[1], padding[1], dilation[1])
            for j in range(kernel[2]):
                w, in_w = _forward(c, j, size[2], stride[2], padding[2], dilation[2])
                inside = mask & in_d & in_h & in_w
                v = tl.load(x + d * strides[2] + h * strides[3] + w * strides[4], mask=inside, other=0).to(COMPUTE)
                better = inside & ((v > best) | (v != v) | (number < 0))
                best = tl.where(better, v, best)
                number = tl.where(better, (f * kernel[1] + i) * kernel[2] + j, number)
    best = tl.where(number < 0, LOWEST, best)  # dilation may leave a window without any element
    tl.store(out + at, best.to(out.dtype.element_ty), mask=mask)
    tl.store(chosen + at, tl.maximum(number, 0).to(chosen.dtype.element_ty), mask=mask)


# One program owns BLOCK outputs and reads the one element of x that each window chose.
@jit
def max_pool_take_kernel(
    out, x, chosen, n, channels, size, result, strides, chosen_strides, kernel, stride, padding, dilation,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, a, b, c = _positions(n, result, WIDE, BLOCK)
    where = chosen + _plane(plane, channels, chosen_strides) + a * chosen_strides[2]
    number = tl.load(where + b * chosen_strides[3] + c * chosen_strides[4], mask=mask, other=0).to(tl.int32)
    f, i, j = number // (kernel[1] * kernel[2]), number // kernel[2] % kernel[1], number % kernel[2]
    d, in_d = _forward(a, f, size[0], stride[0], padding[0], dilation[0])
    h, in_h = _forward(b, i, size[1], stride[1], padding[1], dilation[1])
    w, in_w = _forward(c, j, size[2], stride[2], padding[2], dilation[2])
    x += _plane(plane, channels, strides)
    v = tl.load(x + d * strides[2] + h * strides[3] + w * strides[4], mask=mask & in_d & in_h & in_w, other=0)
    tl.store(out + at, v, mask=mask)


# One program owns BLOCK elements of the input's gradient: each sums g over the windows that hold it and chose it, of as
# many as may reach over it in each dim. The numbers of K / (product of strides) windows are read for each element, and
# every gradient once.
@jit
def max_pool_grad_kernel(
    out, g, chosen, n, channels, size, result, g_strides, chosen_strides, kernel, stride, padding, dilation, windows,
    COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, d, h, w = _positions(n, size, WIDE, BLOCK)
    g += _plane(plane, channels, g_strides)
    chosen += _plane(plane, channels, chosen_strides)
    total = tl.zeros((BLOCK,), COMPUTE)
    for kd in range(windows[0]):
        a, f, in_a = _backward(d, kd, kernel[0], result[0], stride[0], padding[0], dilation[0])
        for kh in range(windows[1]):
            b, i, in_b = _backward(h, kh, kernel[1], result[1], stride[1], padding[1], dilation[1])
            for kw in range(windows[2]):
                c, j, in_c = _backward(w, kw, kernel[2], result[2], stride[2], padding[2], dilation[2])
                inside = mask & in_a & in_b & in_c
                where = a * chosen_strides[2] + b * chosen_strides[3] + c * chosen_strides[4]
                number = tl.load(chosen + where, mask=inside, other=0).to(tl.int32)
                mine = inside & (number == (f * kernel[1] + i) * kernel[2] + j)
                where = a * g_strides[2] + b * g_strides[3] + c * g_strides[4]
                total += tl.load(g + where, mask=mine, other=0).to(COMPUTE)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


# What the sum of the window of output x is divided by, in one dim: its length within the padding, or within the input.
@jit
def _extent(x, size, kernel, stride, padding, INCLUDE_PAD: tl.constexpr):
    start = x * stride - padding
    if INCLUDE_PAD:
        return tl.minimum(start + kernel, size + padding) - start
    return tl.minimum(start + kernel, size) - tl.maximum(start, 0)


@jit
def _divisor(a, b, c, size, kernel, stride, padding, divisor, INCLUDE_PAD: tl.constexpr):
    if divisor is None:
        count = _extent(a, size[0], kernel[0], stride[0], padding[0], INCLUDE_PAD)
        count = count * _extent(b, size[1], kernel[1], stride[1], padding[1], INCLUDE_PAD)
        count = count * _extent(c, size[2], kernel[2], stride[2], padding[2], INCLUDE_PAD)
    else:
        count = tl.zeros_like(c) + divisor
    return count


# One program owns BLOCK outputs and reads the K elements of their windows, from cache where windows overlap.
@jit
def avg_pool_kernel(
    out, x, n, channels, size, result, strides, kernel, stride, padding, divisor,
    INCLUDE_PAD: tl.constexpr, COMPUTE: tl.constexpr, FLOAT: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, a, b, c = _positions(n, result, WIDE, BLOCK)
    x += _plane(plane, channels, strides)
    total = tl.zeros((BLOCK,), COMPUTE)
    for f in range(kernel[0]):
        d, in_d = _forward(a, f, size[0], stride[0], padding[0], 1)
        for i in range(kernel[1]):
            h, in_h = _forward(b, i, size[1], stride[1], padding[1], 1)
            for j in range(kernel[2]):
                w, in_w = _forward(c, j, size[2], stride[2], padding[2], 1)
                where = d * strides[2] + h * strides[3] + w * strides[4]
                total += tl.load(x + where, mask=mask & in_d & in_h & in_w, other=0).to(COMPUTE)
    count = _divisor(a, b, c, size, kernel, stride, padding, divisor, INCLUDE_PAD)
    count = tl.where(mask, count, 1).to(COMPUTE)
    if FLOAT:
        mean = total / count
    else:
        mean = total // count  # towards zero
    tl.store(out + at, mean.to(out.dtype.element_ty), mask=mask)


# One program owns BLOCK elements of the input's gradient: each sums g / divisor over the windows that hold it.
@jit
def avg_pool_grad_kernel(
    out, g, n, channels, size, result, g_strides, kernel, stride, padding, divisor, windows,
    INCLUDE_PAD: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, d, h, w = _positions(n, size, WIDE, BLOCK)
    g += _plane(plane, channels, g_strides)
    total = tl.zeros((BLOCK,), COMPUTE)
    for kd in range(windows[0]):
        a, _, in_a = _backward(d, kd, kernel[0], result[0], stride[0], padding[0], 1)
        for kh in range(windows[1]):
            b, _, in_b = _backward(h, kh, kernel[1], result[1], stride[1], padding[1], 1)
            for kw in range(windows[2]):
                c, _, in_c = _backward(w, kw, kernel[2], result[2], stride[2], padding[2], 1)
                inside = mask & in_a & in_b & in_c
                count = _divisor(a, b, c, size, kernel, stride, padding, divisor, INCLUDE_PAD)
                count = tl.where(inside, count, 1).to(COMPUTE)
                where = a * g_strides[2] + b * g_strides[3] + c * g_strides[4]
                total += tl.load(g + where, mask=inside, other=0).to(COMPUTE) / count
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


# The ``result`` windows over ``size`` elements: window x goes from floor(x size / result) up to ceil((x + 1) size /
# result). Products in int64.
@jit
def _window(x, size, result):
    x = x.to(tl.int64)
    return x * size // result, ((x + 1) * size + result - 1) // result


# One program owns BLOCK outputs and reads the elements of their windows, at most ``longest`` along each dim, from cache
# where windows overlap. ADJOINT: the elements are windows of the output, and each is divided by its own size.
@jit
def adaptive_avg_pool_kernel(
    out, x, n, channels, size, result, strides, longest,
    ADJOINT: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, mask, plane, a, b, c = _positions(n, result, WIDE, BLOCK)
    x += _plane(plane, channels, strides)
    first_d, end_d = _window(a, size[0], result[0])
    first_h, end_h = _window(b, size[1], result[1])
    first_w, end_w = _window(c, size[2], result[2])
    total = tl.zeros((BLOCK,), COMPUTE)
    for f in range(longest[0]):
        d = first_d + f
        for i in range(longest[1]):
            h = first_h + i
            for j in range(longest[2]):
                w = first_w + j
                inside = mask & (d < end_d) & (h < end_h) & (w < end_w)
                v = tl.load(x + d * strides[2] + h * strides[3] + w * strides[4], mask=inside, other=0).to(COMPUTE)
                if ADJOINT:
                    own_d, over_d = _window(d, result[0], size[0])
                    own_h, over_h = _window(h, result[1], size[1])
                    own_w, over_w = _window(w, result[2], size[2])
                    v = v / ((over_d - own_d) * (over_h - own_h) * (over_w - own_w)).to(COMPUTE)
                total += v
    if not ADJOINT:
        total = total / ((end_d - first_d) * (end_h - first_h) * (end_w - first_w)).to(COMPUTE)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


def _wide(n: int, *read: DeviceArray) -> bool:
    """Whether an offset, or a number of elements with a block to spare, may pass 2**31."""
    span = max(sum(abs(t) * (m - 1) for t, m in zip(a.strides, a.shape, strict=True)) for a in read)
    return max(span, n + BLOCK) >= 1 << 31


def _three(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def _windows(s: Any, dilation: tuple[int, ...]) -> tuple[int, ...]:
    """How many windows may hold an element, in each dim."""
    sizes = zip(_three(s.kernel, 1), _three(s.stride, 1), dilation, strict=True)
    return tuple(cdiv((k - 1) * d + 1, step) for k, step, d in sizes)


def _launch(
    kernel: Any, out: DeviceArray, arrays: tuple[Any, ...], s: Any, read: tuple[Any, ...], *rest: Any, **constants: Any
) -> None:
    """One program for each BLOCK elements of ``out``. ``read``: the (n, c, d, h, w) whose strides the kernel takes."""
    n = out.size
    if not n:
        return
    launch(
        kernel, (cdiv(n, BLOCK),), out, *arrays, n, s.C, _three(s.size, 1), _three(s.out, 1),
        *[a.strides for a in read], _three(s.kernel, 1), _three(s.stride, 1), _three(s.padding, 0), *rest,
        **constants, WIDE=_wide(n, *read), BLOCK=BLOCK,
    )  # fmt: skip


def max_pool(out: DeviceArray, chosen: DeviceArray, x: DeviceArray, s: Any) -> None:
    """out, chosen = the largest element of each window of x (n, c, d, h, w), and its number. s: pooling.Windows."""
    lowest = int(np.iinfo(x.dtype).min) if x.dtype.kind in "iu" else float("-inf")
    dilation = _three(s.dilation, 1)
    _launch(max_pool_kernel, out, (chosen, x), s, (x,), dilation, LOWEST=lowest, COMPUTE=compute_dtype(x.dtype))


def max_pool_take(out: DeviceArray, x: DeviceArray, chosen: DeviceArray, s: Any) -> None:
    """out = the elements of x at the places that ``chosen`` names."""
    _launch(max_pool_take_kernel, out, (x, chosen), s, (x, chosen), _three(s.dilation, 1))


def max_pool_grad(out: DeviceArray, g: DeviceArray, chosen: DeviceArray, s: Any) -> None:
    """out = the gradient of the input of max_pool."""
    dilation = _three(s.dilation, 1)
    windows = _windows(s, dilation)
    _launch(max_pool_grad_kernel, out, (g, chosen), s, (g, chosen), dilation, windows, COMPUTE=compute_dtype(g.dtype))


def avg_pool(out: DeviceArray, x: DeviceArray, s: Any, include_pad: bool, divisor: int | None) -> None:
    """out = the mean of each window of x (n, c, d, h, w)."""
    compute = compute_dtype(x.dtype)
    real = compute.kind == "f"
    _launch(avg_pool_kernel, out, (x,), s, (x,), divisor, INCLUDE_PAD=include_pad, COMPUTE=compute, FLOAT=real)


def avg_pool_grad(out: DeviceArray, g: DeviceArray, s: Any, include_pad: bool, divisor: int | None) -> None:
    """out = the gradient of the input of avg_pool."""
    windows = _windows(s, (1, 1, 1))
    _launch(
        avg_pool_grad_kernel, out, (g,), s, (g,), divisor, windows, INCLUDE_PAD=include_pad,
        COMPUTE=compute_dtype(g.dtype),
    )  # fmt: skip


def adaptive_avg_pool(out: DeviceArray, x: DeviceArray, adjoint: bool) -> None:
    """out (n, c, d', h', w') = means over windows of x (n, c, d, h, w), or the adjoint of those from out's size."""
    n = out.size
    if not n:
        return
    size, result = x.shape[2:], out.shape[2:]
    longest = tuple(_longest(m, o) for m, o in zip(size, result, strict=True))
    launch(
        adaptive_avg_pool_kernel, (cdiv(n, BLOCK),), out, x, n, x.shape[1], size, result, x.strides, longest,
        ADJOINT=adjoint, COMPUTE=compute_dtype(x.dtype), WIDE=_wide(n, x), BLOCK=BLOCK,
    )  # fmt: skip


def _longest(n: int, out: int) -> int:
    """The most elements of n that one of ``out`` windows holds."""
    if out % n == 0 or n % out == 0:
        return max(1, n // out)
    return (n - 1) // out + 2 if n > out else 2
