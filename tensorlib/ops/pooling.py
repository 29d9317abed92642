"""Pooling: the largest element or the mean of each window, in one and two dims, of given or adapted size."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import PROMOTE
from tensorlib._samples import distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import pooling as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops.create import arange, tensor

_INT64, _INT32, _UINT8 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.uint8)
_FLOAT32 = np.dtype(np.float32)


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
            f"{name}: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but "
            f"got:{list(shape)}"
        )
    for p, k, d in zip(pad, kernel, spread, strict=True):
        if p < 0:
            raise ArgumentError(f"{name}: pad must be non-negative, but got pad: {p}")
        if p > ((k - 1) * d + 1) // 2:
            raise ArgumentError(
                f"{name}: pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            )
        if p > k // 2:
            raise ArgumentError(
                f"{name}: pad should be smaller than or equal to half of kernel size, but got padW = {pad[1]}, "
                f"padH = {pad[0]}, kW = {kernel[1]}, kH = {kernel[0]}"
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
    """(OH, OW): the number of each window's first element that is not padding; 0 where dilation leaves none."""
    firsts, found = [], []
    for out, n, stride, pad, dilation in zip((s.OH, s.OW), (s.H, s.W), s.stride, s.padding, s.dilation, strict=True):
        start = np.arange(out) * stride - pad
        first = -(np.minimum(start, 0) // dilation)
        firsts.append(first)
        found.append(start + first * dilation < n)
    number = firsts[0][:, None] * s.kernel[1] + firsts[1]
    return np.where(found[0][:, None] & found[1], number, 0).astype(dtype)


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
        draw(distinct(2, 3, 6, 8), 2), draw(distinct(3, 7, 5), kernel_size=(3, 2)),
        draw(distinct(1, 2, 7, 9), 3, 2, 1),
        draw(distinct(2, 1, 8, 9), kernel_size=(2, 3), stride=(1, 2), padding=(1, 1), dilation=(2, 1)),
        draw(distinct(1, 2, 6, 7), 3, 2, 1, ceil_mode=True), draw(distinct(1, 1, 1, 1), 1), draw((0, 2, 4, 4), 2),
        draw(distinct(3, 4, 10, 11), 2),
        draw(values([[[1.0, 3, 3, _NAN], [3, 1, 5, 5], [-_INF, -_INF, 0, 0], [-_INF, -_INF, 0, 0]]]), 2),
        draw(values([[[1.0, _NAN, 3], [_NAN, 2, 5], [-_INF, -_INF, -_INF], [-_INF, -_INF, -_INF]]]), 3, 1, 1),
        draw(values([[[-_INF] * 3] * 3]), 2, 1, 1, 2), draw(distinct(1, 1, 5), 2, padding=1, dilation=2),
        draw(ints(2, 5, 6, low=-9, dtype="int32"), 2), draw(distinct(1, 18, 18), 17, 1),
    ),
    bench=[draw((32, 64, 112, 112), 3, 2, 1)],
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def _max_pool2d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: Any = False,
):
    """The largest element of each window, and its number in the window, row * kernel width + column."""
    s = windows("max_pool2d", input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    best, number = _largest(_images(input), s, False)
    return best.reshape(s.output_shape), number.reshape(s.output_shape)


_GRAD_SAMPLES = each(
    draw((1, 2, 3, 4), ints(1, 2, 3, 4, high=4, dtype="uint8"), input_size=(1, 2, 6, 8), kernel_size=2),
    draw((2, 3, 2), ints(2, 3, 2, high=4, dtype="uint8"), input_size=(2, 7, 5), kernel_size=2),
    draw(
        (1, 2, 4, 3),
        ints(1, 2, 4, 3, high=6, dtype="uint8"),
        input_size=(1, 2, 6, 6),
        kernel_size=(3, 2),
        stride=(1, 2),
    ),
    draw(
        (1, 1, 3, 3),
        values([[[[8, 7, 7], [5, 4, 0], [5, 3, 4]]]], "uint8"),
        input_size=(1, 1, 5, 6),
        kernel_size=3,
        stride=2,
        padding=1,
    ),
    draw(
        (1, 2, 3),
        ints(1, 2, 3, high=4, dtype="int32"),
        input_size=(1, 5, 7),
        kernel_size=2,
        stride=2,
        padding=0,
        dilation=2,
    ),
)


def _checked(name: str, g: Any, input_size: Any, attrs: dict[str, Any]) -> Windows:
    s = windows("max_pool2d", input_size, **attrs)
    if g.shape != s.output_shape:
        raise ShapeError(f"{name}: got a gradient of shape {g.shape}: expected {s.output_shape}")
    return s


def _max_grad_spec(grad_output: Any, chosen: Any, input_size: Any, **window: Any) -> Any:
    s = _checked("max_pool2d_grad", grad_output, input_size, window)
    if chosen.shape != s.output_shape:
        raise ShapeError(f"max_pool2d_grad: got numbers of shape {chosen.shape}: expected {s.output_shape}")
    return input_size, grad_output.dtype


def _max_grad_kernel(out: Any, grad_output: Any, chosen: Any, input_size: Any, **window: Any) -> None:
    kernels.max_pool2d_grad(out, _images(grad_output), _images(chosen), windows("max_pool2d", input_size, **window))


@op(
    on="",
    spec=_max_grad_spec,
    promote=PROMOTE.over("grad_output"),
    kernel=_max_grad_kernel,
    vjp={
        "grad_output": lambda g, chosen, kernel_size, stride, padding, dilation, ceil_mode: _max_pool2d_take(
            g, chosen, kernel_size, stride, padding, dilation, ceil_mode
        )
    },
    samples=_GRAD_SAMPLES,
    bench=[draw((32, 64, 56, 56), ints(32, 64, 56, 56, high=9, dtype="uint8"), input_size=(32, 64, 112, 112),
                kernel_size=3, stride=2, padding=1)],
    bytes=lambda grad_output, input_size: grad_output.itemsize * int(np.prod(input_size)) + grad_output.nbytes,
)  # fmt: skip
def _max_pool2d_grad(
    grad_output: Array,
    chosen: Array,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: Any = False,
):
    """Σ grad_output of the windows that chose each element of an input of input_size."""
    s = windows("max_pool2d", input_size, kernel_size, stride, padding, dilation, ceil_mode)
    return _spread(_images(grad_output), _images(chosen), s).reshape(input_size)


def _take_spec(input: Any, chosen: Any, **window: Any) -> Any:
    s = windows("max_pool2d", input.shape, **window)
    if chosen.shape != s.output_shape:
        raise ShapeError(f"max_pool2d_take: got numbers of shape {chosen.shape}: expected {s.output_shape}")
    return s.output_shape, input.dtype


def _take_kernel(out: Any, input: Any, chosen: Any, **window: Any) -> None:
    kernels.max_pool2d_take(out, _images(input), _images(chosen), windows("max_pool2d", input.shape, **window))


@op(
    on="",
    spec=_take_spec,
    kernel=_take_kernel,
    vjp={
        "input": lambda g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode: _max_pool2d_grad(
            g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode
        )
    },
    samples=each(
        draw((1, 2, 6, 8), ints(1, 2, 3, 4, high=4, dtype="uint8"), 2),
        draw((2, 7, 5), ints(2, 3, 2, high=4, dtype="uint8"), 2),
        draw((1, 1, 5, 6), values([[[[8, 7, 7], [5, 4, 0], [5, 3, 4]]]], "uint8"), 3, 2, 1),
    ),
)  # fmt: skip
def _max_pool2d_take(
    input: Array,
    chosen: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: Any = False,
):
    """The element of each window that ``chosen`` names."""
    s = windows("max_pool2d", input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    x, number = _padded(_images(input), s, 0), _images(chosen)
    out = np.zeros((s.N, s.C, s.OH, s.OW), x.dtype)
    for k in range(s.kernel[0] * s.kernel[1]):
        np.copyto(out, _at(x, s, *divmod(k, s.kernel[1])), where=number == k)
    return out.reshape(s.output_shape)


def _int_tuple(name: str, what: str, value: Any) -> tuple[int, ...]:
    value = (value,) if isinstance(value, int) else tuple(value)
    if not all(isinstance(v, int) for v in value):
        raise TypeError(f"{name}(): argument '{what}' must be tuple of ints, got {value}")
    return value


@composite(
    on="function functional",
    samples=each(
        draw(distinct(2, 3, 6, 8), 2), draw(distinct(2, 7, 9), 3, 2, 1),
        draw(distinct(1, 2, 6, 7), 3, 2, 1, ceil_mode=True),
        draw(distinct(2, 1, 8, 9), kernel_size=(2, 3), stride=(1, 2), padding=(1, 1), dilation=(2, 1)),
        draw(values([[[1.0, 3, 3, _NAN], [3, 1, 5, 5], [-_INF, -_INF, 0, 0], [-_INF, -_INF, 0, 0]]]), 2,
             return_indices=True),
        draw(distinct(1, 2, 5, 6), 3, 1, 1, return_indices=True),
        draw(distinct(1, 2, 7, 9), 3, 2, 1, 2, return_indices=True), draw((0, 2, 4, 4), 2, return_indices=True),
    ),
)  # fmt: skip
def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """out[n, c, y, x] = max over (i, j) of input[n, c, y stride + i dilation - padding, x stride + j dilation - …].

    input (n, c, h, w) or (c, h, w) -> (n, c, h', w'), h' = floor((h + 2 padding - dilation (kernel - 1) - 1) / stride)
    + 1, rounded up with ``ceil_mode`` where the last window begins inside the input or the padding before it.
    ``stride`` is ``kernel_size`` by default; padding is never chosen. With ``return_indices`` also the int64 positions
    of the maxima in each plane, row * w + column. The first of equal maxima, NaN before everything. ArgumentError or
    ShapeError for windows that do not fit.
    """
    out, chosen = _max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return out
    s = windows(
        "max_pool2d", tuple(input.shape), _int_tuple("max_pool2d", "kernel_size", kernel_size),
        None if stride is None else _int_tuple("max_pool2d", "stride", stride),
        _int_tuple("max_pool2d", "padding", padding),
        _int_tuple("max_pool2d", "dilation", dilation), ceil_mode,
    )  # fmt: skip
    number, device = chosen.to(_INT64), input.device
    rows = (arange(s.OH, device=device) * s.stride[0] - s.padding[0]).unsqueeze(1) + number // s.kernel[1] * s.dilation[
        0
    ]  # type: ignore[attr-defined]
    columns = arange(s.OW, device=device) * s.stride[1] - s.padding[1] + number % s.kernel[1] * s.dilation[1]
    return out, rows * s.W + columns


@composite(
    on="function functional",
    samples=each(draw(distinct(2, 3, 8), 2), draw(distinct(3, 9), 3, 2, 1, return_indices=True)),
)
def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """out[n, c, x] = max over j of input[n, c, x stride + j dilation - padding]: ``max_pool2d`` of one row.

    input (n, c, l) or (c, l) -> (n, c, l'); with ``return_indices`` also the int64 positions of the maxima.
    """
    _one_row("max_pool1d", input)
    one = [
        _single("max_pool1d", w, v)
        for w, v in (("kernel_size", kernel_size), ("padding", padding), ("dilation", dilation))
    ]
    steps = None if stride is None else (1, _single("max_pool1d", "stride", stride))
    out = max_pool2d(
        input.unsqueeze(-2), (1, one[0]), steps, (0, one[1]), (1, one[2]), ceil_mode, return_indices  # type: ignore[attr-defined]
    )  # fmt: skip
    return (out[0].squeeze(-2), out[1].squeeze(-2)) if return_indices else out.squeeze(-2)


def _one_row(name: str, input: Tensor) -> None:
    if input._array.ndim not in (2, 3):
        raise ShapeError(f"{name}: Expected 2D (unbatched) or 3D (batched) input, but got {list(input._array.shape)}")


def _single(name: str, what: str, value: Any) -> int:
    values = _int_tuple(name, what, value)
    if len(values) != 1:
        raise ShapeError(f"{name}() {what} should be one int, got {values}")
    return values[0]


# ------------------------------------------------------------------------------------------------------------- mean


def _avg_windows(
    name: str, shape: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, divisor_override: Any
) -> Windows:
    if divisor_override == 0:
        raise ArgumentError(f"{name}: divisor must be not zero, got divisor_override={divisor_override}")
    return windows(name, shape, kernel_size, stride, padding, (1, 1), ceil_mode)


@lru_cache(maxsize=256)
def _divisor(s: Windows, include_pad: bool, override: int | None, dtype: np.dtype[Any]) -> Any:
    """What each window's sum is divided by: a number, or (OH, OW) numbers where windows differ."""
    if override is not None:
        return dtype.type(override)
    extents = []
    for out, n, k, stride, p in zip((s.OH, s.OW), (s.H, s.W), s.kernel, s.stride, s.padding, strict=True):
        start = np.arange(out) * stride - p
        if include_pad:
            extents.append(np.minimum(start + k, n + p) - start)
        else:
            extents.append(np.minimum(start + k, n) - np.maximum(start, 0))
    counts = extents[0][:, None] * extents[1]
    return dtype.type(counts.flat[0]) if (counts == counts.flat[0]).all() else counts.astype(dtype)


def _avg_spec(
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> Any:
    s = _avg_windows("avg_pool2d", input.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    if input.dtype.kind != "f" and input.dtype not in HALF and input.dtype != _INT64:
        raise DtypeError(f"avg_pool2d: not implemented for {OF_NUMPY[input.dtype]}: convert it, as in input.float()")
    return s.output_shape, input.dtype


def _avg_kernel(
    out: Any,
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> None:
    s = _avg_windows("avg_pool2d", input.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    kernels.avg_pool2d(out, _images(input), s, count_include_pad, divisor_override)


@op(
    on="functional",
    spec=_avg_spec,
    promote=PROMOTE,
    kernel=_avg_kernel,
    vjp=lambda g, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: (
        _avg_pool2d_grad(g, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    ),
    samples=each(
        draw((2, 3, 6, 8), 2), draw((3, 7, 5), kernel_size=(3, 2)), draw((1, 2, 7, 9), 3, 2, 1),
        draw((1, 2, 6, 7), 3, 2, 1, ceil_mode=True),
        draw((1, 2, 6, 7), 3, 2, 1, ceil_mode=True, count_include_pad=False),
        draw((2, 5, 6), 3, 1, 1, divisor_override=5), draw((1, 1, 1, 1), 1), draw((0, 2, 4, 4), 2),
        draw((3, 4, 10, 11), kernel_size=(2, 3), stride=(3, 4)), draw(transposed(2, 3, 6, 5), 2),
        draw(ints(2, 6, 6, low=-9), 2), draw(strided(1, 2, 5, 6), kernel_size=(4, 2), stride=(1, 2), padding=(2, 1)),
    ),
    errors=[
        fails((2, 4, 4), 2, padding=2, match="at most half of effective kernel size", error=ArgumentError),
        fails((2, 4, 4), 5, match=r"Calculated output size: \(2x0x0\)"), fails((4, 4), 2, match="Expected 3D or 4D"),
        fails((2, 4, 4), 2, divisor_override=0, match="divisor must be not zero", error=ArgumentError),
        fails((2, 4, 4), kernel_size=(2, 2, 2), match="single int, or a tuple of two ints"),
        fails((2, 4, 4), 2, stride=0, match="stride should not be zero", error=ArgumentError),
        fails(ints(2, 4, 4, dtype="int32"), 2, match="not implemented for", error=DtypeError),
    ],
    bench=[draw((32, 64, 112, 112), 3, 2, 1)],
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def avg_pool2d(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
):
    """out[n, c, y, x] = Σ over (i, j) of input[n, c, y stride + i - padding, x stride + j - padding] / (kh kw).

    input (n, c, h, w) or (c, h, w) -> (n, c, h', w'), h' = floor((h + 2 padding - kernel) / stride) + 1, rounded up
    with ``ceil_mode``. ``stride`` is ``kernel_size`` by default. Padding counts in the divisor unless
    ``count_include_pad`` is False; ``divisor_override`` replaces it. Half types are summed in float32.
    ArgumentError or ShapeError for windows that do not fit.
    """
    s = _avg_windows("avg_pool2d", input.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    x = _padded(_images(input), s, 0)
    height, (sh, sw) = s.reach[0], s.stride
    rows = x[:, :, :height, : sw * (s.OW - 1) + 1 : sw].copy()
    for j in range(1, s.kernel[1]):
        np.add(rows, x[:, :, :height, j : j + sw * (s.OW - 1) + 1 : sw], out=rows)
    total = rows[:, :, : sh * (s.OH - 1) + 1 : sh].copy()
    for i in range(1, s.kernel[0]):
        np.add(total, rows[:, :, i : i + sh * (s.OH - 1) + 1 : sh], out=total)
    divisor = _divisor(s, count_include_pad, divisor_override, total.dtype)
    if total.dtype.kind == "f":
        np.divide(total, divisor, out=total)
    else:  # towards zero
        total = np.sign(total) * np.sign(divisor) * (np.abs(total) // np.abs(divisor))
    return total.reshape(s.output_shape)


def _avg_grad_windows(
    g: Any, input_size: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, divisor_override: Any
) -> Windows:
    s = _avg_windows("avg_pool2d_grad", input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    if g.shape != s.output_shape:
        raise ShapeError(f"avg_pool2d_grad: got a gradient of shape {g.shape}: expected {s.output_shape}")
    return s


def _avg_grad_spec(
    grad_output: Any,
    input_size: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> Any:
    _avg_grad_windows(grad_output, input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    return input_size, grad_output.dtype


def _avg_grad_kernel(
    out: Any, grad_output: Any, input_size: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> None:  # fmt: skip
    s = _avg_windows("avg_pool2d_grad", input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    kernels.avg_pool2d_grad(out, _images(grad_output), s, count_include_pad, divisor_override)


@op(
    on="",
    spec=_avg_grad_spec,
    promote=PROMOTE,
    kernel=_avg_grad_kernel,
    vjp=lambda g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: avg_pool2d(
        g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    ),
    samples=each(
        draw((2, 3, 3, 4), input_size=(2, 3, 6, 8), kernel_size=2),
        draw((3, 2, 2), input_size=(3, 7, 5), kernel_size=(3, 2)),
        draw((1, 2, 4, 5), input_size=(1, 2, 7, 9), kernel_size=3, stride=2, padding=1),
        draw((1, 2, 4, 4), input_size=(1, 2, 6, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True),
        draw((1, 2, 4, 4), input_size=(1, 2, 6, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True,
             count_include_pad=False),
        draw((2, 5, 6), input_size=(2, 5, 6), kernel_size=3, stride=1, padding=1, divisor_override=5),
        draw((1, 2, 2, 2), input_size=(1, 2, 9, 9), kernel_size=(2, 3), stride=(5, 4)),
    ),
)  # fmt: skip
def _avg_pool2d_grad(
    grad_output: Array,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
):
    """Σ grad_output / divisor over the windows that hold each element of an input of input_size."""
    s = _avg_windows("avg_pool2d_grad", input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    g = _images(grad_output)
    g = g / _divisor(s, count_include_pad, divisor_override, g.dtype)
    top, left = s.padding
    height, width = max(s.reach[0], s.H + top), max(s.reach[1], s.W + left)
    whole = s.kernel == s.stride and s.reach == (height, width)
    out = (np.empty if whole else np.zeros)((s.N, s.C, height, width), g.dtype)
    for i in range(s.kernel[0]):
        for j in range(s.kernel[1]):
            at = _at(out, s, i, j)
            if s.apart:
                at[...] = g
            else:
                np.add(at, g, out=at)
    return np.ascontiguousarray(out[:, :, top : top + s.H, left : left + s.W]).reshape(input_size)


@composite(on="function functional", samples=each(draw((2, 3, 8), 2), draw((3, 9), 3, 2, 1, count_include_pad=False)))
def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """out[n, c, x] = Σ over j of input[n, c, x stride + j - padding] / k: ``avg_pool2d`` of one row.

    input (n, c, l) or (c, l) -> (n, c, l').
    """
    _one_row("avg_pool1d", input)
    k, p = _single("avg_pool1d", "kernel_size", kernel_size), _single("avg_pool1d", "padding", padding)
    steps = None if stride is None else (1, _single("avg_pool1d", "stride", stride))
    row = input.unsqueeze(-2)  # type: ignore[attr-defined]
    return avg_pool2d(row, (1, k), steps, (0, p), ceil_mode, count_include_pad).squeeze(-2)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------- windows that fit


def _adapted(name: str, input: Tensor, output_size: Any) -> tuple[int, int]:
    """The output's size, with None as the input's own."""
    shape = input._array.shape
    if len(shape) not in (3, 4):
        raise ShapeError(f"{name}(): Expected 3D or 4D tensor, but got {list(shape)}")
    if 0 in shape[-3:]:
        raise ShapeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
            f"{list(shape)}"
        )
    if input._array.dtype.kind != "f" and input._array.dtype not in HALF:
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[input._array.dtype]}: convert it, as in input.float()")
    sizes = (output_size, output_size) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(sizes) != 2:
        raise ShapeError(f"{name}: output_size must be 2, got {sizes}")
    out = [n if size is None else size for size, n in zip(sizes, shape[-2:], strict=True)]
    if min(out) < 0:
        raise ArgumentError(f"{name}: elements of output_size must be greater than or equal to 0 but received {sizes}")
    return out[0], out[1]


@lru_cache(maxsize=64)
def _adaptive(n: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """First element of each of ``out`` windows, and one past its last: floor(i n / out), ceil((i + 1) n / out)."""
    i = np.arange(out)
    return i * n // max(out, 1), -(-(i + 1) * n // max(out, 1))


@composite(
    on="functional",
    samples=each(draw((2, 3, 6, 8), output_size=(3, 4)), draw((2, 7, 5), output_size=(3, 2)), draw((2, 3, 5, 4), 1),
                 draw((1, 2, 4, 5), output_size=(6, None)),
                 draw((0, 2, 4, 4), 2)),
)  # fmt: skip
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means over ``output_size`` windows, from floor(i h / h') up to ceil((i + 1) h / h'). None keeps a side as it is.

    input (n, c, h, w) or (c, h, w) -> (n, c, h', w'). Two small matrix products, rows and columns, in which a window of
    equal weights is a row.
    """
    rows, columns = _adapted("adaptive_avg_pool2d", input, output_size)
    height, width = input._array.shape[-2:]
    if (rows, columns) == (1, 1):
        return input.mean((-2, -1), keepdim=True)  # type: ignore[attr-defined, no-any-return]
    out: Any = input
    if rows and columns and height % rows == 0 and width % columns == 0:
        kernel = height // rows, width // columns
        return input if kernel == (1, 1) else avg_pool2d(input, kernel)
    if input._array.dtype in HALF:  # rounded once
        out = input.to(_FLOAT32)  # type: ignore[attr-defined]
    if rows != height:
        out = tensor(_weights(height, rows), dtype=out.dtype, device=input.device) @ out
    if columns != width:
        out = out @ tensor(_weights(width, columns), dtype=out.dtype, device=input.device).mT
    return out.to(input.dtype)  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _weights(n: int, out: int) -> np.ndarray:
    """(out, n): row i averages window i."""
    start, end = _adaptive(n, out)
    at = np.arange(n)
    return ((at >= start[:, None]) & (at < end[:, None])) / (end - start)[:, None]


@composite(
    on="function functional",
    samples=each(
        draw(distinct(2, 3, 6, 8), output_size=(3, 4)),
        draw(distinct(2, 7, 5), output_size=(3, 2), return_indices=True), draw(distinct(2, 3, 5, 4), 1),
        draw(distinct(1, 2, 4, 5), output_size=(6, None), return_indices=True),
        draw(distinct(1, 2, 6, 4), output_size=(3, 2), return_indices=True),
    ),
)  # fmt: skip
def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over ``output_size`` windows, from floor(i h / h') up to ceil((i + 1) h / h'). None keeps a side as it is.

    input (n, c, h, w) or (c, h, w) -> (n, c, h', w'); with ``return_indices`` also the int64 positions of the maxima in
    each plane. Where windows differ in size, each is laid out at the largest's, its last row and column repeated.
    """
    rows, columns = _adapted("adaptive_max_pool2d", input, output_size)
    height, width = input._array.shape[-2:]
    if not rows or not columns:
        empty = input.new_empty((*input._array.shape[:-2], rows, columns))  # type: ignore[attr-defined]
        return (empty, empty.to(_INT64)) if return_indices else empty
    if height % rows == 0 and width % columns == 0:
        return max_pool2d(input, (height // rows, width // columns), return_indices=return_indices)
    at_rows, at_columns = _repeated(height, rows), _repeated(width, columns)
    device = input.device
    laid = input.index_select(-2, tensor(at_rows.reshape(-1), device=device))  # type: ignore[attr-defined]
    laid = laid.index_select(-1, tensor(at_columns.reshape(-1), device=device))
    out, chosen = _max_pool2d(laid, (at_rows.shape[1], at_columns.shape[1]))
    if not return_indices:
        return out
    number = chosen.to(_INT64)
    k, (y, x) = at_columns.shape[1], (arange(n, device=device) for n in (rows, columns))
    h = tensor(at_rows.reshape(-1), device=device)[y.unsqueeze(1) * at_rows.shape[1] + number // k]  # type: ignore[attr-defined]
    w = tensor(at_columns.reshape(-1), device=device)[x * k + number % k]
    return out, h * width + w


def _repeated(n: int, out: int) -> np.ndarray:
    """(out, longest window): the elements of each window, its last one repeated."""
    start, end = _adaptive(n, out)
    return np.minimum(start[:, None] + np.arange((end - start).max()), end[:, None] - 1)  # type: ignore[no-any-return]
