"""Pooling: the largest element or the mean of each window, in one and two dims, of given or adapted size."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import PROMOTE
from tensorlib._samples import distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import pooling as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops.create import arange, tensor

_INT64, _INT32, _UINT8 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.uint8)


class Windows(NamedTuple):
    """The sizes of a pooling. One image without a batch counts as a batch of one."""

    N: int
    C: int
    H: int
    W: int
    OH: int
    OW: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    batched: bool

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(n, c, h', w'), or (c, h', w') without a batch."""
        shape = (self.N, self.C, self.OH, self.OW)
        return shape if self.batched else shape[1:]

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns read, from the first window's first to the last window's last, padding included."""
        pairs = zip((self.OH, self.OW), self.kernel, self.stride, self.dilation, strict=True)
        height, width = [(out - 1) * s + (k - 1) * d + 1 for out, k, s, d in pairs]
        return height, width

    @property
    def apart(self) -> bool:
        """Whether no two windows hold the same element."""
        return self.dilation == (1, 1) and all(s >= k for s, k in zip(self.stride, self.kernel, strict=True))


def _two(name: str, what: str, value: tuple[int, ...]) -> tuple[int, int]:
    if len(value) not in (1, 2):
        raise ShapeError(f"{name}: {what} must either be a single int, or a tuple of two ints, got {value}")
    return value[0], value[-1]


@lru_cache(maxsize=512)
def windows(
    name: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    """The sizes, or the error that says what does not fit."""
    kernel = _two(name, "kernel_size", kernel_size)
    steps = _two(name, "stride", stride) if stride else kernel
    pad, spread = _two(name, "padding", padding), _two(name, "dilation", dilation)
    if min(steps) == 0:
        raise ArgumentError(f"{name}: stride should not be zero, got stride={steps}, kernel_size={kernel}")
    if min(kernel) < 0 or min(steps) < 0 or min(kernel) == 0:
        raise ArgumentError(f"{name}: kernel size and stride should be greater than zero, got {kernel} and {steps}")
    if min(spread) <= 0:
        raise ArgumentError(
            f"{name}: dilation should be greater than zero, but got dilationH: {spread[0]} dilationW: {spread[1]}"
        )
    if len(shape) not in (3, 4) or 0 in shape[-3:]:
        raise ShapeError(
            f"{name}: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but got:{list(shape)}"
        )
    for p, k, d in zip(pad, kernel, spread, strict=True):
        if p < 0:
            raise ArgumentError(f"{name}: pad must be non-negative, but got pad: {p}")
        if p > ((k - 1) * d + 1) // 2:
            raise ArgumentError(
                f"{name}: pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            )
    out = []
    for n, k, s, p, d in zip(shape[-2:], kernel, steps, pad, spread, strict=True):
        size = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        # A last window, begun in the padding after the input, would hold none of it.
        out.append(size - 1 if ceil_mode and (size - 1) * s >= n + p else size)
    if min(out) < 1:
        C, H, W = shape[-3:]
        raise ShapeError(
            f"{name}: Given input size: ({C}x{H}x{W}). Calculated output size: ({C}x{out[0]}x{out[1]}). Output size is "
            f"too small"
        )
    batched = len(shape) == 4
    N, C, H, W = shape if batched else (1, *shape)
    return Windows(N, C, H, W, out[0], out[1], kernel, steps, pad, spread, batched)


def _images(x: Any) -> Any:
    """An image without a batch as a batch of one."""
    return x if x.ndim == 4 else x[None]


# -------------------------------------------------------------------------------------------------------- on the CPU


def _padded(x: np.ndarray, s: Windows, fill: Any) -> np.ndarray:
    """x (N, C, H, W) with what the windows reach beyond it; itself when they stay inside."""
    (height, width), (top, left) = s.reach, s.padding
    if (top, left) == (0, 0) and height <= s.H and width <= s.W:
        return x
    out = np.full((s.N, s.C, max(height, s.H + top), max(width, s.W + left)), fill, x.dtype)
    out[:, :, top : top + s.H, left : left + s.W] = x
    return out


def _at(x: np.ndarray, s: Windows, i: int, j: int) -> np.ndarray:
    """Element (i, j) of each window: a view (N, C, OH, OW) of an array with padding."""
    (sh, sw), (dh, dw) = s.stride, s.dilation
    return x[:, :, i * dh : i * dh + sh * (s.OH - 1) + 1 : sh, j * dw : j * dw + sw * (s.OW - 1) + 1 : sw]


def _number_dtype(kernel: tuple[int, int]) -> np.dtype[Any]:
    return _UINT8 if kernel[0] * kernel[1] <= 256 else _INT32


def _first(s: Windows, dtype: np.dtype[Any]) -> np.ndarray:
    """(OH, OW): the number of each window's first element that is not padding."""
    firsts = []
    for out, stride, pad, dilation in zip((s.OH, s.OW), s.stride, s.padding, s.dilation, strict=True):
        before = np.maximum(pad - np.arange(out) * stride, 0)
        firsts.append(-(-before // dilation))
    return (firsts[0][:, None] * s.kernel[1] + firsts[1]).astype(dtype)


def _largest(x: np.ndarray, s: Windows, nans: bool) -> tuple[np.ndarray, np.ndarray]:
    """The largest element of each window and its number. With ``nans`` the last NaN of a window wins."""
    dtype = _number_dtype(s.kernel)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = _padded(x, s, lowest)
    best = np.array(_at(padded, s, 0, 0), order="C")
    number = np.zeros(best.shape, dtype)
    if s.padding != (0, 0):
        number += _first(s, dtype)
    for k in range(1, s.kernel[0] * s.kernel[1]):
        v = np.ascontiguousarray(_at(padded, s, *divmod(k, s.kernel[1])))
        better = v > best
        if nans:
            better |= np.isnan(v)
            np.copyto(best, v, where=better)
        else:
            np.maximum(best, v, out=best)
        # Numbers grow, so that the larger one is that of the better element.
        np.maximum(number, better.view(_UINT8) * dtype.type(k), out=number)
    if not nans and best.size and best.dtype.kind == "f" and np.isnan(best.max()):
        return _largest(x, s, True)
    return best, number


def _spread(g: np.ndarray, number: np.ndarray, s: Windows) -> np.ndarray:
    """The gradient of the input: each of g at the element its window chose."""
    top, left = s.padding
    height, width = max(s.reach[0], s.H + top), max(s.reach[1], s.W + left)
    whole = s.apart and s.kernel == s.stride and s.reach == (height, width)
    out = (np.empty if whole else np.zeros)((s.N, s.C, height, width), g.dtype)
    # Multiplying the bits by 0 or 1 keeps infinities from becoming NaN, and is much faster than a masked copy.
    bits = np.dtype(f"i{g.dtype.itemsize}")
    g = np.ascontiguousarray(g).view(bits)
    for k in range(s.kernel[0] * s.kernel[1]):
        at = _at(out, s, *divmod(k, s.kernel[1]))
        if s.apart:
            np.multiply(g, number == k, out=at.view(bits))
        else:
            np.add(at, (g * (number == k)).view(out.dtype), out=at)
    return np.ascontiguousarray(out[:, :, top : top + s.H, left : left + s.W])


# ---------------------------------------------------------------------------------------------------------- maximum


def _numeric(name: str, input: Any) -> None:
    if input.dtype.kind in "bc":
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[input.dtype]}: expected real numbers")


def _max_spec(input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    s = windows("max_pool2d", input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    _numeric("max_pool2d", input)
    return [(s.output_shape, input.dtype), (s.output_shape, _number_dtype(s.kernel))]


def _max_kernel(
    out: Any, chosen: Any, input: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> None:
    s = windows("max_pool2d", input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    kernels.max_pool2d(out, chosen, _images(input), s)


_NAN, _INF = float("nan"), float("inf")


@op(
    on="",
    outputs=("out", "chosen"),
    spec=_max_spec,
    promote=PROMOTE,
    kernel=_max_kernel,
    vjp=lambda g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode: _max_pool2d_grad(
        g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode
    ),
    samples=each(
        draw(distinct(2, 3, 6, 8), 2), draw(distinct(3, 7, 5), (3, 2)), draw(distinct(1, 2, 7, 9), 3, 2, 1),
        draw(distinct(2, 1, 8, 9), (2, 3), (1, 2), (1, 1), (2, 1)), draw(distinct(1, 2, 6, 7), 3, 2, 1, ceil_mode=True),
        draw(distinct(1, 1, 1, 1), 1), draw((0, 2, 4, 4), 2), draw(distinct(3, 4, 10, 11), 2),
        draw(values([[[1.0, 3, 3, _NAN], [3, 1, 5, 5], [-_INF, -_INF, 0, 0], [-_INF, -_INF, 0, 0]]]), 2),
        draw(values([[[1.0, _NAN, 3], [_NAN, 2, 5], [-_INF, -_INF, -_INF], [-_INF, -_INF, -_INF]]]), 3, 1, 1),
        draw(values([[[-_INF] * 3] * 3]), 2, 1, 1, 2), draw(ints(2, 5, 6, low=-9, dtype="int32"), 2), draw(distinct(1, 18, 18), 17, 1),
    ),
    bench=[draw((32, 64, 112, 112), 3, 2, 1)],
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def _max_pool2d(
    input: Array, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1, ceil_mode: Any = False
):
    """The largest element of each window, and its number in the window, row * kernel width + column."""
    s = windows("max_pool2d", input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    best, number = _largest(_images(input), s, False)
    return best.reshape(s.output_shape), number.reshape(s.output_shape)


_GRAD_SAMPLES = each(
    draw((1, 2, 3, 4), ints(1, 2, 3, 4, high=4, dtype="uint8"), (1, 2, 6, 8), 2),
    draw((2, 3, 2), ints(2, 3, 2, high=4, dtype="uint8"), (2, 7, 5), 2),
    draw((1, 2, 4, 3), ints(1, 2, 4, 3, high=6, dtype="uint8"), (1, 2, 6, 5), (3, 2), (1, 2)),
    draw((1, 1, 3, 3), values([[[[8, 7, 7], [5, 4, 0], [5, 3, 4]]]], "uint8"), (1, 1, 5, 6), 3, 2, 1),
    draw((1, 2, 3), ints(1, 2, 3, high=4, dtype="int32"), (1, 5, 7), 2, 2, 0, 2),
)


def _max_grad_spec(g: Any, chosen: Any, input_size: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    return input_size, g.dtype


def _max_grad_kernel(out: Any, grad_output: Any, chosen: Any, input_size: Any, *window: Any, **attrs: Any) -> None:
    kernels.max_pool2d_grad(out, _images(grad_output), _images(chosen), windows("max_pool2d", input_size, **attrs))
