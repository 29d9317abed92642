"""Pooling: the largest element or the mean of each window, in one to three dims, of given or adapted size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, as_strided
from tensorlib._core import Tensor
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import PROMOTE
from tensorlib._samples import distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import pooling as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops._out import takes_out
from tensorlib.ops.activation import relu
from tensorlib.ops.create import arange, tensor, zeros
from tensorlib.ops.interpolation import _resample
from tensorlib.ops.joining import cat
from tensorlib.ops.random import rand

_PIECE = 1 << 18  # elements worked on at a time where each is read several times
_SMALL = 1 << 14  # elements of a matrix of windows up to which a product with it is faster than sums
_INT64, _INT32, _UINT8 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.uint8)


class Windows(NamedTuple):
    """The sizes of a pooling. One image without a batch counts as a batch of one."""

    N: int
    C: int
    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    batched: bool
    #: Elements read along each dim, from the first window's first to the last window's last, padding included.
    reach: tuple[int, ...]
    #: The size with padding and with what windows reach beyond it.
    extent: tuple[int, ...]
    #: Whether no two windows hold the same element.
    apart: bool
    #: Whether every element is in exactly one window.
    whole: bool

    @property
    def dims(self) -> int:
        """How many dims windows have."""
        return len(self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(n, c, …), or (c, …) without a batch."""
        return (self.N, self.C, *self.out) if self.batched else (self.C, *self.out)


_COUNTS = ("", "one int", "two ints", "three ints")


def _each(name: str, what: str, value: Any, dims: int) -> tuple[int, ...]:
    """An int, one int or ``dims`` ints as ``dims`` ints."""
    value = tuple(value) if hasattr(value, "__iter__") and not isinstance(value, bytes) else (value,)
    if not all(hasattr(v, "__index__") for v in value):
        raise TypeError(f"{name}(): argument '{what}' must be tuple of ints, got {value}")
    if len(value) not in (1, dims):
        raise ShapeError(f"{name}: {what} must either be a single int, or a tuple of {_COUNTS[dims]}, got {value}")
    return value if len(value) == dims else value * dims


@lru_cache(maxsize=512)
def windows(
    name: str, shape: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    """The sizes, or the error that says what does not fit. Arguments have a value for each dim; no stride: kernel."""
    dims = len(kernel)
    steps = stride or kernel
    if min(steps) == 0:
        raise ArgumentError(f"{name}: stride should not be zero, got stride={steps}, kernel_size={kernel}")
    if min(kernel) <= 0 or min(steps) < 0:
        raise ArgumentError(f"{name}: kernel size and stride should be greater than zero, got {kernel} and {steps}")
    if min(dilation) <= 0:
        raise ArgumentError(f"{name}: dilation should be greater than zero, but got dilation={dilation}")
    if len(shape) not in (dims + 1, dims + 2) or 0 in shape[-dims - 1 :]:
        raise ShapeError(
            f"{name}: Expected {dims + 1}D or {dims + 2}D (batch mode) tensor with optional 0 dim batch size for "
            f"input, but got:{list(shape)}"
        )
    for p, k, d in zip(padding, kernel, dilation, strict=True):
        if p < 0:
            raise ArgumentError(f"{name}: pad must be non-negative, but got pad: {p}")
        if p > ((k - 1) * d + 1) // 2:
            raise ArgumentError(
                f"{name}: pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            )
        if p > k // 2:
            raise ArgumentError(
                f"{name}: pad should be smaller than or equal to half of kernel size, but got padding={padding}, "
                f"kernel_size={kernel}"
            )
    out = []
    for n, k, s, p, d in zip(shape[-dims:], kernel, steps, padding, dilation, strict=True):
        count = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        # A last window, begun in the padding after the input, would hold none of it.
        out.append(count - 1 if ceil_mode and (count - 1) * s >= n + p else count)
    if min(out) < 1:
        given, made = ("x".join(map(str, (shape[-dims - 1], *sizes))) for sizes in (shape[-dims:], out))
        raise ShapeError(
            f"{name}: Given input size: ({given}). Calculated output size: ({made}). Output size is too small"
        )
    batched = len(shape) == dims + 2
    N, C, *size = shape if batched else (1, *shape)
    reach = tuple((o - 1) * s + (k - 1) * d + 1 for o, k, s, d in zip(out, kernel, steps, dilation, strict=True))
    extent = tuple(max(r, n + p) for r, n, p in zip(reach, size, padding, strict=True))
    apart = max(dilation) == 1 and all(s >= k for s, k in zip(steps, kernel, strict=True))
    return Windows(
        N, C, tuple(size), tuple(out), kernel, steps, padding, dilation, batched, reach, extent, apart,
        whole=max(dilation) == 1 and kernel == steps and reach == extent,
    )  # fmt: skip


def _five(x: DeviceArray, dims: int) -> DeviceArray:
    """An array of one to three dims, with a batch or without, as (n, c, d, h, w). Not a copy."""
    lead, ones = (1,) * (dims + 2 - x.ndim), (1,) * (3 - dims)
    at = 2 - len(lead)
    return as_strided(  # type: ignore[no-any-return]
        x, lead + x.shape[:at] + ones + x.shape[at:], lead + x.strides[:at] + ones + x.strides[at:]
    )


# -------------------------------------------------------------------------------------------------------- on the CPU


def _planes(x: np.ndarray, s: Windows) -> np.ndarray:
    """An input, with a batch or without, as (planes, …)."""
    return x.reshape(s.N * s.C, *s.size)


def _pieces(s: Windows) -> list[slice]:
    """Planes in pieces that stay in the cache while their windows are walked element by element."""
    step = max(1, _PIECE // prod(s.extent))
    return [slice(i, i + step) for i in range(0, s.N * s.C, step)]


def _padded(x: np.ndarray, s: Windows, fill: Any) -> np.ndarray:
    """x (planes, …) with what the windows reach beyond it; itself when they stay inside."""
    if s.extent == s.size:
        return x
    out = np.full((len(x), *s.extent), fill, x.dtype)
    _inside(out, s)[...] = x
    return out


def _inside(padded: np.ndarray, s: Windows) -> np.ndarray:
    """The part of an array with padding that is the input."""
    parts: Any = (..., *(slice(p, p + n) for p, n in zip(s.padding, s.size, strict=True)))
    return padded[parts]


@lru_cache(maxsize=256)
def _taps(s: Windows) -> list[Any]:
    """For each element of a window: the index of a view (planes, …) of an array with padding that has it of each."""
    found = []
    for tap in np.ndindex(*s.kernel):
        parts = zip(tap, s.out, s.stride, s.dilation, strict=True)
        slices = [slice(i * d, i * d + step * (out - 1) + 1, step) for i, out, step, d in parts]
        found.append((slice(None), *slices))
    return found


def _number_dtype(kernel: tuple[int, ...]) -> np.dtype[Any]:
    return _UINT8 if prod(kernel) <= 256 else _INT32


@lru_cache(maxsize=64)
def _first(s: Windows, dtype: np.dtype[Any]) -> np.ndarray:
    """(…): the number of each window's first element that is not padding; 0 where dilation leaves none."""
    number, found = np.zeros((), np.int64), np.ones((), np.bool_)
    for out, n, k, stride, pad, dilation in zip(s.out, s.size, s.kernel, s.stride, s.padding, s.dilation, strict=True):
        start = np.arange(out) * stride - pad
        first = -(np.minimum(start, 0) // dilation)
        number = number[..., None] * k + first
        found = found[..., None] & (start + first * dilation < n)
    return np.where(found, number, 0).astype(dtype)


def _largest(x: np.ndarray, s: Windows, best: np.ndarray, number: np.ndarray, nans: bool = False) -> None:
    """best, number = the largest element of each window of x and its number. With ``nans`` the last NaN wins."""
    dtype = number.dtype
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = _padded(x, s, lowest)
    taps = _taps(s)
    best[...] = padded[taps[0]]
    number[...] = _first(s, dtype) if max(s.padding) > 0 else 0
    for k, tap in enumerate(taps[1:], 1):
        v = np.ascontiguousarray(padded[tap])
        better = v > best
        if nans:
            better |= np.isnan(v)
            np.copyto(best, v, where=better)
        else:
            np.maximum(best, v, out=best)
        # Numbers grow, so that the larger one is that of the better element.
        np.maximum(number, better.view(_UINT8) * dtype.type(k), out=number)
    if not nans and best.size and best.dtype.kind == "f" and np.isnan(best.max()):
        _largest(x, s, best, number, True)


def _spread(g: np.ndarray, number: np.ndarray, s: Windows, out: np.ndarray) -> None:
    """out = the gradient of the input: each of g at the element its window chose."""
    total = _blank(s, out)
    # Multiplying the bits by 0 or 1 keeps infinities from becoming NaN, and is much faster than a masked copy.
    bits = np.dtype(f"i{g.dtype.itemsize}")
    g = np.ascontiguousarray(g).view(bits)
    for k, tap in enumerate(_taps(s)):
        at = total[tap]
        if s.apart:
            np.multiply(g, number == k, out=at.view(bits))
        else:
            np.add(at, (g * (number == k)).view(total.dtype), out=at)
    if total is not out:
        out[...] = _inside(total, s)


def _blank(s: Windows, out: np.ndarray) -> np.ndarray:
    """Where to add up a gradient: ``out`` itself or an array with padding; zeros unless all of it is written."""
    total = out if s.extent == s.size else np.empty((len(out), *s.extent), out.dtype)
    if not s.whole:
        total.fill(0)
    return total


# ---------------------------------------------------------------------------------------------------------- maximum


def _max_windows(shape: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Windows:
    return windows(f"max_pool{len(kernel_size)}d", shape, kernel_size, stride, padding, dilation, ceil_mode)


def _max_spec(input: Any, **window: Any) -> Any:
    s = _max_windows(input.shape, **window)
    if input.dtype.kind in "bc":
        raise DtypeError(f"max_pool{s.dims}d: not implemented for {OF_NUMPY[input.dtype]}: expected real numbers")
    return [(s.output_shape, input.dtype), (s.output_shape, _number_dtype(s.kernel))]


def _max_kernel(out: Any, chosen: Any, input: Any, **window: Any) -> None:
    s = _max_windows(input.shape, **window)
    kernels.max_pool(out, chosen, _five(input, s.dims), s)


_NAN, _INF = float("nan"), float("inf")


@op(
    on="",
    outputs=("out", "chosen"),
    spec=_max_spec,
    promote=PROMOTE,
    kernel=_max_kernel,
    vjp=lambda g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode: _max_pool_grad(
        g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode
    ),
    samples=each(
        draw(distinct(2, 3, 6, 8), (2, 2), None, (0, 0), (1, 1)),
        draw(distinct(3, 7, 5), (3, 2), None, (0, 0), (1, 1)),
        draw(distinct(1, 2, 7, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
        draw(distinct(2, 1, 8, 9), (2, 3), (1, 2), (1, 1), (2, 1)),
        draw(distinct(1, 2, 6, 7), (3, 3), (2, 2), (1, 1), (1, 1), True),
        draw(distinct(1, 1, 1, 1), (1, 1), None, (0, 0), (1, 1)), draw((0, 2, 4, 4), (2, 2), None, (0, 0), (1, 1)),
        draw(distinct(3, 4, 10, 11), (2, 2), None, (0, 0), (1, 1)),
        draw(values([[[1.0, 3, 3, _NAN], [3, 1, 5, 5], [-_INF, -_INF, 0, 0], [-_INF, -_INF, 0, 0]]]), (2, 2), None,
             (0, 0), (1, 1)),
        draw(values([[[1.0, _NAN, 3], [_NAN, 2, 5], [-_INF, -_INF, -_INF], [-_INF, -_INF, -_INF]]]), (3, 3), (1, 1),
             (1, 1), (1, 1)),
        draw(values([[[-_INF] * 3] * 3]), (2, 2), (1, 1), (1, 1), (2, 2)),
        draw(distinct(1, 1, 5), (2, 2), None, (1, 1), (2, 2)),
        draw(ints(2, 5, 6, low=-9, dtype="int32"), (2, 2), None, (0, 0), (1, 1)),
        draw(distinct(1, 18, 18), (17, 17), (1, 1), (0, 0), (1, 1)),
        draw(distinct(2, 3, 9), (3,), (2,), (1,), (1,)), draw(distinct(2, 7), (2,), None, (1,), (2,), True),
        draw(distinct(1, 2, 4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 1, 0), (1, 2, 1)),
        draw(distinct(2, 4, 4, 4), (2, 2, 2), None, (0, 0, 0), (1, 1, 1)),
    ),
    errors=[
        fails((4, 4), (2, 2), None, (0, 0), (1, 1), match="max_pool2d: Expected 3D or 4D"),
        fails((2, 4), (2,), None, (0,), (0,), match="dilation should be greater than zero", error=ArgumentError),
        fails((2, 4, 4, 4), (2, 2, 5), None, (0, 0, 0), (1, 1, 1),
              match=r"max_pool3d: Given input size: \(2x4x4x4\). Calculated output size: \(2x2x2x0\)"),
    ],
    bench=[draw((32, 64, 112, 112), (3, 3), (2, 2), (1, 1), (1, 1))],
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def _max_pool(
    input: Array, kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints, ceil_mode: Any = False
):
    """The largest element of each window, and its number in the window, counted row by row."""
    s = _max_windows(input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    x = _planes(input, s)
    best, number = (np.empty((len(x), *s.out), dtype) for dtype in (x.dtype, _number_dtype(s.kernel)))
    for part in _pieces(s):
        _largest(x[part], s, best[part], number[part])
    return best.reshape(s.output_shape), number.reshape(s.output_shape)


_GRAD_SAMPLES = each(
    draw((1, 2, 3, 4), ints(1, 2, 3, 4, high=4, dtype="uint8"), (1, 2, 6, 8), (2, 2), None, (0, 0), (1, 1)),
    draw((2, 3, 2), ints(2, 3, 2, high=4, dtype="uint8"), (2, 7, 5), (2, 2), None, (0, 0), (1, 1)),
    draw((1, 2, 4, 3), ints(1, 2, 4, 3, high=6, dtype="uint8"), (1, 2, 6, 6), (3, 2), (1, 2), (0, 0), (1, 1)),
    draw((1, 1, 3, 3), values([[[[8, 7, 7], [5, 4, 0], [5, 3, 4]]]], "uint8"), (1, 1, 5, 6), (3, 3), (2, 2), (1, 1),
         (1, 1)),
    draw((1, 2, 3), ints(1, 2, 3, high=4, dtype="int32"), (1, 5, 7), (2, 2), (2, 2), (0, 0), (2, 2)),
    draw((2, 3, 4), ints(2, 3, 4, high=3, dtype="uint8"), (2, 3, 6), (3,), (1,), (0,), (1,)),
    draw((1, 2, 2, 2, 3), ints(1, 2, 2, 2, 3, high=8, dtype="uint8"), (1, 2, 4, 4, 6), (2, 2, 2), None, (0, 0, 0),
         (1, 1, 1)),
)  # fmt: skip


def _max_grad_spec(grad_output: Any, chosen: Any, input_size: Any, **window: Any) -> Any:
    s = _max_windows(input_size, **window)
    for what, x in (("a gradient", grad_output), ("numbers", chosen)):
        if x.shape != s.output_shape:
            raise ShapeError(f"max_pool_grad: got {what} of shape {x.shape}: expected {s.output_shape}")
    return input_size, grad_output.dtype


def _max_grad_kernel(out: Any, grad_output: Any, chosen: Any, input_size: Any, **window: Any) -> None:
    s = _max_windows(input_size, **window)
    kernels.max_pool_grad(out, _five(grad_output, s.dims), _five(chosen, s.dims), s)


@op(
    on="",
    spec=_max_grad_spec,
    promote=PROMOTE.over("grad_output"),
    kernel=_max_grad_kernel,
    vjp={
        "grad_output": lambda g, chosen, kernel_size, stride, padding, dilation, ceil_mode: _max_pool_take(
            g, chosen, kernel_size, stride, padding, dilation, ceil_mode
        )
    },
    samples=_GRAD_SAMPLES,
    bench=[draw((32, 64, 56, 56), ints(32, 64, 56, 56, high=9, dtype="uint8"), (32, 64, 112, 112), (3, 3), (2, 2),
                (1, 1), (1, 1))],
    bytes=lambda grad_output, input_size: grad_output.itemsize * prod(input_size) + grad_output.nbytes,
)  # fmt: skip
def _max_pool_grad(
    grad_output: Array,
    chosen: Array,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil_mode: Any = False,
):
    """Σ grad_output of the windows that chose each element of an input of input_size."""
    s = _max_windows(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    g, number = (a.reshape(s.N * s.C, *s.out) for a in (grad_output, chosen))
    out = np.empty((len(g), *s.size), g.dtype)
    for part in _pieces(s):
        _spread(g[part], number[part], s, out[part])
    return out.reshape(input_size)


def _take_spec(input: Any, chosen: Any, **window: Any) -> Any:
    s = _max_windows(input.shape, **window)
    if chosen.shape != s.output_shape:
        raise ShapeError(f"max_pool_take: got numbers of shape {chosen.shape}: expected {s.output_shape}")
    return s.output_shape, input.dtype


def _take_kernel(out: Any, input: Any, chosen: Any, **window: Any) -> None:
    s = _max_windows(input.shape, **window)
    kernels.max_pool_take(out, _five(input, s.dims), _five(chosen, s.dims), s)


@op(
    on="",
    spec=_take_spec,
    kernel=_take_kernel,
    vjp={
        "input": lambda g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode: _max_pool_grad(
            g, chosen, input_shape, kernel_size, stride, padding, dilation, ceil_mode
        )
    },
    samples=each(
        draw((1, 2, 6, 8), ints(1, 2, 3, 4, high=4, dtype="uint8"), (2, 2), None, (0, 0), (1, 1)),
        draw((2, 7, 5), ints(2, 3, 2, high=4, dtype="uint8"), (2, 2), None, (0, 0), (1, 1)),
        draw((1, 1, 5, 6), values([[[[8, 7, 7], [5, 4, 0], [5, 3, 4]]]], "uint8"), (3, 3), (2, 2), (1, 1), (1, 1)),
        draw((2, 3, 6), ints(2, 3, 4, high=3, dtype="uint8"), (3,), (1,), (0,), (1,)),
        draw((1, 2, 4, 4, 6), ints(1, 2, 2, 2, 3, high=8, dtype="uint8"), (2, 2, 2), None, (0, 0, 0), (1, 1, 1)),
    ),
)  # fmt: skip
def _max_pool_take(
    input: Array,
    chosen: Array,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil_mode: Any = False,
):
    """The element of each window that ``chosen`` names."""
    s = _max_windows(input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    x, number = _padded(_planes(input, s), s, 0), chosen.reshape(s.N * s.C, *s.out)
    out = np.zeros(number.shape, x.dtype)
    for k, tap in enumerate(_taps(s)):
        np.copyto(out, x[tap], where=number == k)
    return out.reshape(s.output_shape)


def _tensor(name: str, input: Any) -> Any:
    """The array of ``input``, or a TypeError."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(input).__name__}")
    return input._array


def _max(
    dims: int,
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    name = f"max_pool{dims}d"
    shape = _tensor(name, input).shape
    kernel, pad = _each(name, "kernel_size", kernel_size, dims), _each(name, "padding", padding, dims)
    # An empty stride means the default, too.
    steps = None if stride is None or stride == () or stride == [] else _each(name, "stride", stride, dims)
    spread = _each(name, "dilation", dilation, dims)
    out, chosen = _max_pool(input, kernel, steps, pad, spread, bool(ceil_mode))
    if not return_indices:
        return out
    s = windows(name, shape, kernel, steps, pad, spread, bool(ceil_mode))

    def place(dim: int, number: Any) -> Any:
        first = arange(s.out[dim], device=input.device) * s.stride[dim] - s.padding[dim]
        return _along(first, dim, dims) + number * s.dilation[dim]

    return out, _positions(chosen, s.kernel, s.size, place)


def _along(x: Any, dim: int, dims: int) -> Any:
    """A vector as an array of ``dims`` dims that lies along one of them."""
    return x.reshape(-1, *(1,) * (dims - 1 - dim))


def _positions(chosen: Any, kernel: Sequence[int], size: Sequence[int], place: Callable[[int, Any], Any]) -> Any:
    """int64 positions in each plane of numbers in windows. ``place(dim, number)``: where along a dim that one is."""
    number, flat = chosen.to(_INT64), None
    for dim, (k, n) in enumerate(zip(kernel, size, strict=True)):
        at = place(dim, number // prod(kernel[dim + 1 :]) % k)
        flat = at if flat is None else flat * n + at
    return flat


@composite(
    on="function functional",
    samples=each(
        draw(distinct(2, 3, 8), 2), draw(distinct(3, 9), 3, 2, 1, return_indices=True),
        draw(distinct(1, 2, 8), (3,), 2, 1, 2, True, return_indices=True),
    ),
)  # fmt: skip
def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """out[n, c, x] = max over j of input[n, c, x stride + j dilation - padding]. As ``max_pool2d`` otherwise.

    input (n, c, l) or (c, l) -> (n, c, l'); with ``return_indices`` also the int64 positions of the maxima.
    """
    return _max(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


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
    return _max(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(
    on="function functional",
    samples=each(
        draw(distinct(1, 2, 4, 6, 4), 2), draw(distinct(2, 5, 4, 6), 3, 2, 1, return_indices=True),
        draw(distinct(1, 1, 5, 6, 5), kernel_size=(2, 3, 2), stride=(2, 1, 2), padding=(1, 1, 0), dilation=(1, 2, 1),
             ceil_mode=True, return_indices=True),
    ),
)  # fmt: skip
def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """out[n, c, z, y, x] = max over (k, i, j) of input[n, c, z stride + k dilation - padding, y …, x …].

    input (n, c, d, h, w) or (c, d, h, w) -> (n, c, d', h', w'); with ``return_indices`` also the int64 positions
    (plane * h + row) * w + column of the maxima. As ``max_pool2d`` otherwise.
    """
    return _max(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(on="function functional", samples=each(draw(distinct(2, 9), 3, 2, 1)))
def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maxima of windows and their int64 positions, ``return_indices`` or not: see ``max_pool1d``."""
    return _max(1, input, kernel_size, stride, padding, dilation, ceil_mode, True)


@composite(on="functional", samples=each(draw(distinct(2, 6, 5), 3, 2, 1)))
def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maxima of windows and their int64 positions, ``return_indices`` or not: see ``max_pool2d``."""
    return _max(2, input, kernel_size, stride, padding, dilation, ceil_mode, True)


@composite(on="functional", samples=each(draw(distinct(2, 4, 4, 5), 2)))
def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maxima of windows and their int64 positions, ``return_indices`` or not: see ``max_pool3d``."""
    return _max(3, input, kernel_size, stride, padding, dilation, ceil_mode, True)


# ------------------------------------------------------------------------------------------------------------- mean


def _avg_windows(
    shape: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, divisor_override: Any
) -> Windows:
    name = f"avg_pool{len(kernel_size)}d"
    if divisor_override == 0:
        raise ArgumentError(f"{name}: divisor must be not zero, got divisor_override={divisor_override}")
    s = windows(name, shape, kernel_size, stride, padding, (1,) * len(kernel_size), ceil_mode)
    if s.dims == 3 and any(n < k for n, k in zip(s.size, s.kernel, strict=True)):
        raise ShapeError(f"{name}: input image {s.size} smaller than kernel size {s.kernel}, padding not counted")
    return s


@lru_cache(maxsize=256)
def _divisor(s: Windows, include_pad: bool, override: int | None, dtype: np.dtype[Any]) -> Any:
    """What each window's sum is divided by: a number, or numbers (…) where windows differ."""
    if override is not None:
        return dtype.type(override)
    counts = np.ones((), np.int64)
    for out, n, k, stride, p in zip(s.out, s.size, s.kernel, s.stride, s.padding, strict=True):
        start = np.arange(out) * stride - p
        if include_pad:
            extent = np.minimum(start + k, n + p) - start
        else:
            extent = np.minimum(start + k, n) - np.maximum(start, 0)
        counts = counts[..., None] * extent
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
    s = _avg_windows(input.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    if input.dtype.kind != "f" and input.dtype not in HALF and input.dtype != _INT64:
        name = f"avg_pool{s.dims}d"
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[input.dtype]}: convert it, as in input.float()")
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
    s = _avg_windows(input.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    kernels.avg_pool(out, _five(input, s.dims), s, count_include_pad, divisor_override)


@op(
    on="",
    spec=_avg_spec,
    promote=PROMOTE,
    kernel=_avg_kernel,
    vjp=lambda g, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: (
        _avg_pool_grad(g, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    ),
    samples=each(
        draw((2, 3, 6, 8), (2, 2), None, (0, 0)), draw((3, 7, 5), (3, 2), None, (0, 0)),
        draw((1, 2, 7, 9), (3, 3), (2, 2), (1, 1)), draw((1, 2, 6, 7), (3, 3), (2, 2), (1, 1), True),
        draw((1, 2, 6, 7), (3, 3), (2, 2), (1, 1), True, False),
        draw((2, 5, 6), (3, 3), (1, 1), (1, 1), False, True, 5),
        draw((1, 1, 1, 1), (1, 1), None, (0, 0)), draw((0, 2, 4, 4), (2, 2), None, (0, 0)),
        draw((3, 4, 10, 11), (2, 3), (3, 4), (0, 0)), draw(transposed(2, 3, 6, 5), (2, 2), None, (0, 0)),
        draw(ints(2, 6, 6, low=-9), (2, 2), None, (0, 0)), draw(strided(1, 2, 5, 6), (4, 2), (1, 2), (2, 1)),
        draw((2, 3, 9), (3,), (2,), (1,)), draw((3, 7), (2,), None, (1,), True, False),
        draw((1, 2, 4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 1, 0)),
        draw((2, 5, 4, 3), (2, 2, 3), None, (1, 0, 1), True, False),
    ),
    errors=[
        fails((2, 4, 4), (2, 2), None, (2, 2), match="at most half of effective kernel size", error=ArgumentError),
        fails((2, 4, 4), (5, 5), None, (0, 0), match=r"Calculated output size: \(2x0x0\)"),
        fails((4, 4), (2, 2), None, (0, 0), match="Expected 3D or 4D"),
        fails((2, 4, 4), (2, 2), None, (0, 0), False, True, 0, match="divisor must be not zero", error=ArgumentError),
        fails((2, 4, 4), (2, 2), (0, 0), (0, 0), match="stride should not be zero", error=ArgumentError),
        fails(ints(2, 4, 4, dtype="int32"), (2, 2), None, (0, 0), match="not implemented for", error=DtypeError),
    ],
    bench=[draw((32, 64, 112, 112), (3, 3), (2, 2), (1, 1))],
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def _avg_pool(
    input: Array,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
):
    """Σ over each window / its size, or the elements of it that are not padding, or a number given."""
    s = _avg_windows(input.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    x = _planes(input, s)
    out = np.empty((len(x), *s.out), x.dtype)
    divisor = _divisor(s, count_include_pad, divisor_override, x.dtype)
    for part in _pieces(s):
        total = _sums(_padded(x[part], s, 0), s)
        if total.dtype.kind == "f":
            np.divide(total, divisor, out=out[part])
        else:  # towards zero
            np.multiply(np.sign(total) * np.sign(divisor), np.abs(total) // np.abs(divisor), out=out[part])
    return out.reshape(s.output_shape)


def _sums(total: np.ndarray, s: Windows) -> np.ndarray:
    """The sum of each window of an array with padding, along one dim after the other."""
    for dim in range(s.dims - 1, -1, -1):
        length = s.stride[dim] * (s.out[dim] - 1) + 1
        before = (slice(None), *(slice(n) for n in s.reach[:dim]))
        first = total[(*before, slice(0, length, s.stride[dim]))]
        if s.kernel[dim] > 1:
            first = first.copy()
        for i in range(1, s.kernel[dim]):
            np.add(first, total[(*before, slice(i, i + length, s.stride[dim]))], out=first)
        total = first
    return total


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
    s = _avg_windows(input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    if grad_output.shape != s.output_shape:
        raise ShapeError(f"avg_pool_grad: got a gradient of shape {grad_output.shape}: expected {s.output_shape}")
    return input_size, grad_output.dtype


def _avg_grad_kernel(
    out: Any, grad_output: Any, input_size: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: Any,
) -> None:  # fmt: skip
    s = _avg_windows(input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    kernels.avg_pool_grad(out, _five(grad_output, s.dims), s, count_include_pad, divisor_override)


@op(
    on="",
    spec=_avg_grad_spec,
    promote=PROMOTE,
    kernel=_avg_grad_kernel,
    vjp=lambda g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: _avg_pool(
        g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    ),
    samples=each(
        draw((2, 3, 3, 4), (2, 3, 6, 8), (2, 2), None, (0, 0)), draw((3, 2, 2), (3, 7, 5), (3, 2), None, (0, 0)),
        draw((1, 2, 4, 5), (1, 2, 7, 9), (3, 3), (2, 2), (1, 1)),
        draw((1, 2, 4, 4), (1, 2, 6, 7), (3, 3), (2, 2), (1, 1), True),
        draw((1, 2, 4, 4), (1, 2, 6, 7), (3, 3), (2, 2), (1, 1), True, False),
        draw((2, 5, 6), (2, 5, 6), (3, 3), (1, 1), (1, 1), False, True, 5),
        draw((1, 2, 2, 2), (1, 2, 9, 9), (2, 3), (5, 4), (0, 0)), draw((2, 3, 5), (2, 3, 9), (3,), (2,), (1,)),
        draw((1, 2, 3, 5, 3), (1, 2, 4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 1, 0)),
    ),
)  # fmt: skip
def _avg_pool_grad(
    grad_output: Array,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
):
    """Σ grad_output / divisor over the windows that hold each element of an input of input_size."""
    s = _avg_windows(input_size, kernel_size, stride, padding, ceil_mode, divisor_override)
    g = grad_output.reshape(s.N * s.C, *s.out)
    out = np.empty((len(g), *s.size), g.dtype)
    divisor = _divisor(s, count_include_pad, divisor_override, g.dtype)
    for part in _pieces(s):
        total, share = _blank(s, out[part]), g[part] / divisor
        for tap in _taps(s):
            at = total[tap]
            if s.apart:
                at[...] = share
            else:
                np.add(at, share, out=at)
        if s.extent != s.size:
            out[part] = _inside(total, s)
    return out.reshape(input_size)


def _avg(
    dims: int,
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any = None,
) -> Any:
    name = f"avg_pool{dims}d"
    _tensor(name, input)
    kernel, pad = _each(name, "kernel_size", kernel_size, dims), _each(name, "padding", padding, dims)
    steps = None if stride is None or stride == () or stride == [] else _each(name, "stride", stride, dims)
    return _avg_pool(input, kernel, steps, pad, bool(ceil_mode), bool(count_include_pad), divisor_override)


@composite(on="function functional", samples=each(draw((2, 3, 8), 2), draw((3, 9), 3, 2, 1, count_include_pad=False)))
def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """out[n, c, x] = Σ over j of input[n, c, x stride + j - padding] / k. input (n, c, l) or (c, l) -> (n, c, l').

    As ``avg_pool2d`` otherwise.
    """
    return _avg(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)  # type: ignore[no-any-return]


@composite(
    on="functional",
    samples=each(
        draw((2, 3, 6, 8), 2), draw((3, 7, 5), kernel_size=(3, 2)), draw((1, 2, 7, 9), 3, 2, 1),
        draw((1, 2, 6, 7), 3, 2, 1, ceil_mode=True),
        draw((1, 2, 6, 7), 3, 2, 1, ceil_mode=True, count_include_pad=False),
        draw((2, 5, 6), 3, 1, 1, divisor_override=5), draw((1, 1, 1, 1), 1), draw((0, 2, 4, 4), 2),
        draw((3, 4, 10, 11), kernel_size=(2, 3), stride=(3, 4)), draw(ints(2, 6, 6, low=-9), 2),
    ),
)  # fmt: skip
@takes_out
def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """out[n, c, y, x] = Σ over (i, j) of input[n, c, y stride + i - padding, x stride + j - padding] / (kh kw).

    input (n, c, h, w) or (c, h, w) -> (n, c, h', w'), h' = floor((h + 2 padding - kernel) / stride) + 1, rounded up
    with ``ceil_mode``. ``stride`` is ``kernel_size`` by default. Padding counts in the divisor unless
    ``count_include_pad`` is False; ``divisor_override`` replaces it. Half types are summed in float32.
    ArgumentError or ShapeError for windows that do not fit.
    """
    return _avg(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)  # type: ignore[no-any-return]


@composite(
    on="functional",
    samples=each(
        draw((1, 2, 4, 6, 5), 2), draw((2, 5, 4, 6), 3, 2, 1, True, False),
        draw((1, 2, 4, 5, 6), kernel_size=(2, 3, 2), stride=(2, 1, 2), padding=(1, 1, 0), divisor_override=3),
    ),
)  # fmt: skip
@takes_out
def avg_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """out[n, c, z, y, x] = Σ over (k, i, j) of input[n, c, z stride + k - padding, y …, x …] / (kd kh kw).

    input (n, c, d, h, w) or (c, d, h, w) -> (n, c, d', h', w'). As ``avg_pool2d`` otherwise.
    """
    return _avg(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)  # type: ignore[no-any-return]


def _lp(dims: int, input: Any, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> Any:
    name = f"lp_pool{dims}d"
    _tensor(name, input)
    kernel = _each(name, "kernel_size", kernel_size, dims)
    out = _avg(dims, input.pow(norm_type), kernel, stride, 0, ceil_mode, True)
    return (out.sign() * relu(out.abs())).mul(prod(kernel)).pow(1.0 / norm_type)


@composite(on="functional", samples=each(draw((2, 3, 8), 2, 3), draw((3, 9), 2.0, 2, 3, True)))
def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(Σ over the window of input^p)^(1/p), p = ``norm_type``. (n, c, l) or (c, l) -> (n, c, l')."""
    return _lp(1, input, norm_type, kernel_size, stride, ceil_mode)  # type: ignore[no-any-return]


@composite(on="functional", samples=each(draw((2, 3, 6, 8), 2, 3), draw((3, 7, 5), 4.0, (2, 1), (1, 2), True)))
def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(Σ over the window of input^p)^(1/p), p = ``norm_type``. (n, c, h, w) or (c, h, w) -> (n, c, h', w')."""
    return _lp(2, input, norm_type, kernel_size, stride, ceil_mode)  # type: ignore[no-any-return]


@composite(on="functional", samples=each(draw((1, 2, 4, 4, 5), 2, 2), draw((2, 4, 3, 5), 2.0, (2, 1, 3), 1)))
def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(Σ over the window of input^p)^(1/p), p = ``norm_type``. (n, c, d, h, w) -> (n, c, d', h', w'), n or not."""
    return _lp(3, input, norm_type, kernel_size, stride, ceil_mode)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------- windows that fit


def _sizes(output_size: Any, dims: int) -> tuple[int | None, ...]:
    return (output_size,) * dims if output_size is None or isinstance(output_size, int) else tuple(output_size)


def _adapted(name: str, dims: int, input: Any, output_size: Any) -> tuple[int, ...]:
    """The output's size, with None as the input's own."""
    array = _tensor(name, input)
    shape = array.shape
    if len(shape) not in (dims + 1, dims + 2):
        raise ShapeError(f"{name}(): Expected {dims + 1}D or {dims + 2}D tensor, but got {list(shape)}")
    if 0 in shape[-dims - 1 :]:
        raise ShapeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
            f"{list(shape)}"
        )
    if array.dtype.kind != "f" and array.dtype not in HALF:
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[array.dtype]}: convert it, as in input.float()")
    sizes = _sizes(output_size, dims)
    if len(sizes) != dims:
        raise ShapeError(f"{name}: output_size must be {dims}, got {sizes}")
    out = tuple(n if size is None else size for size, n in zip(sizes, shape[-dims:], strict=True))
    if min(out) < 0:
        raise ArgumentError(f"{name}: elements of output_size must be greater than or equal to 0 but received {sizes}")
    return out


@lru_cache(maxsize=64)
def _adaptive(n: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """First element of each of ``out`` windows, and one past its last: floor(i n / out), ceil((i + 1) n / out)."""
    i = np.arange(out)
    return i * n // max(out, 1), -(-(i + 1) * n // max(out, 1))


@lru_cache(maxsize=64)
def _members(n: int, out: int, dtype: np.dtype[Any]) -> np.ndarray:
    """(n, out): 1 where the element is in the window."""
    start, end = _adaptive(n, out)
    at = np.arange(n)[:, None]
    return ((at >= start) & (at < end)).astype(dtype)


def _range_sums(x: np.ndarray, axis: int, out: int) -> np.ndarray:
    """Sums over ``out`` windows along an axis: a product, or one element of each window at a time."""
    n = x.shape[axis]
    if n * out <= _SMALL:
        members = _members(n, out, x.dtype)
        if axis == x.ndim - 1:
            total = x @ members
        else:
            total = np.matmul(members.T, x.reshape(*x.shape[: axis + 1], -1)).reshape(_with(x.shape, axis, out))
        if np.isfinite(np.add.reduce(total, axis=None)):  # else an infinity may have met a zero
            return total
    start, end = _adaptive(n, out)
    total = x.take(start, axis)
    for i in range(1, int((end - start).max())):
        v = x.take(np.minimum(start + i, n - 1), axis)
        inside = start + i < end
        if not inside.all():
            v[(*(slice(None),) * axis, ~inside)] = 0
        total += v
    return total


def _with(shape: tuple[int, ...], axis: int, n: int) -> tuple[int, ...]:
    return (*shape[:axis], n, *shape[axis + 1 :])


def _counts(n: int, out: int, axis: int, ndim: int, dtype: Any) -> np.ndarray:
    start, end = _adaptive(n, out)
    return (end - start).astype(dtype).reshape(-1, *(1,) * (ndim - 1 - axis))


def _adaptive_spec(input: Any, output_size: Any, adjoint: bool) -> Any:
    return (*input.shape[: -len(output_size)], *output_size), input.dtype


def _adaptive_kernel(out: Any, input: Any, output_size: Any, adjoint: bool) -> None:
    dims = len(output_size)
    kernels.adaptive_avg_pool(_five(out, dims), _five(input, dims), adjoint)


@op(
    on="",
    spec=_adaptive_spec,
    promote=PROMOTE,
    kernel=_adaptive_kernel,
    vjp=lambda g, input_shape, output_size, adjoint: _adaptive_avg_pool(
        g, input_shape[len(input_shape) - len(output_size) :], not adjoint
    ),
    samples=each(
        draw((2, 3, 6, 8), (3, 5)), draw((2, 7, 5), (3, 2)), draw((2, 3, 4), (6, 5)), draw((2, 3, 9), (4,)),
        draw((1, 2, 4, 5, 3), (2, 3, 5)), draw((2, 3, 3, 5), (6, 8), True), draw((2, 3, 2), (7, 5), True),
        draw((2, 6, 5), (3, 4), True), draw((1, 2, 2, 3, 5), (4, 5, 3), True), draw((0, 2, 4, 4), (3, 3)),
        draw(transposed(2, 5, 6), (2, 4)),
    ),
    bench=[draw((32, 512, 20, 20), (7, 7))],
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def _adaptive_avg_pool(input: Array, output_size: Ints, adjoint: Any = False):
    """The means of windows from floor(i n / n') up to ceil((i + 1) n / n'); or the adjoint of that, from n' to n.

    Element h is in windows floor(h n' / n) up to ceil((h + 1) n' / n), so that the adjoint is sums over windows again.
    """
    shape = (*input.shape[: -len(output_size)], *output_size)
    if not input.size or 0 in shape:
        return np.zeros(shape, input.dtype)
    x = input
    for axis in range(input.ndim - 1, input.ndim - 1 - len(output_size), -1):
        n, out = x.shape[axis], shape[axis]
        if n == out:
            continue
        if adjoint:
            x = _range_sums(x / _counts(out, n, axis, x.ndim, x.dtype), axis, out)
        else:
            x = _range_sums(x, axis, out)
            x /= _counts(n, out, axis, x.ndim, x.dtype)
    return x.copy() if x is input else x


def _adaptive_avg(dims: int, input: Any, output_size: Any) -> Any:
    name = f"adaptive_avg_pool{dims}d"
    if _sizes(output_size, dims) == (1,) * dims and _tensor(name, input).ndim >= dims:
        return input.mean(tuple(range(-dims, 0)), keepdim=True)  # of any shape, as in PyTorch
    out = _adapted(name, dims, input, output_size)
    size = input._array.shape[-dims:]
    if min(out) > 0 and all(n % o == 0 for n, o in zip(size, out, strict=True)):
        kernel = tuple(n // o for n, o in zip(size, out, strict=True))
        return _avg_pool(input, kernel, None, (0,) * dims)
    return _adaptive_avg_pool(input, out)


@composite(on="function functional", samples=each(draw((2, 3, 9), 4), draw((3, 8), (2,)), draw((2, 2, 5), 1)))
def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means over ``output_size`` windows, from floor(i l / l') up to ceil((i + 1) l / l'). (n, c, l) or (c, l)."""
    return _adaptive_avg(1, input, output_size)  # type: ignore[no-any-return]


@composite(
    on="functional",
    samples=each(draw((2, 3, 6, 8), output_size=(3, 4)), draw((2, 7, 5), output_size=(3, 2)), draw((2, 3, 5, 4), 1),
                 draw((1, 2, 4, 5), output_size=(6, None)),
                 draw((0, 2, 4, 4), 2)),
)  # fmt: skip
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means over ``output_size`` windows, from floor(i h / h') up to ceil((i + 1) h / h'). None keeps a side as it is.

    input (n, c, h, w) or (c, h, w) -> (n, c, h', w'). Half types are summed in float32.
    """
    return _adaptive_avg(2, input, output_size)  # type: ignore[no-any-return]


@composite(
    on="functional",
    samples=each(draw((1, 2, 4, 6, 5), output_size=(2, 3, 5)), draw((2, 5, 4, 3), (3, None, 2)),
                 draw((1, 2, 2, 3, 4), 1)),
)  # fmt: skip
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Means over ``output_size`` windows, from floor(i d / d') up to ceil((i + 1) d / d'). None keeps a side as it is.

    input (n, c, d, h, w) or (c, d, h, w) -> (n, c, d', h', w'). Half types are summed in float32.
    """
    return _adaptive_avg(3, input, output_size)  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _repeated(n: int, out: int) -> np.ndarray:
    """(out, longest window): the elements of each window, its last one repeated."""
    start, end = _adaptive(n, out)
    return np.minimum(start[:, None] + np.arange((end - start).max()), end[:, None] - 1)  # type: ignore[no-any-return]


def _adaptive_max(dims: int, input: Any, output_size: Any, return_indices: bool) -> Any:
    out_size = _adapted(f"adaptive_max_pool{dims}d", dims, input, output_size)
    shape = input._array.shape
    size = shape[-dims:]
    if 0 in out_size:
        empty = input.new_empty((*shape[:-dims], *out_size))
        return (empty, empty.to(_INT64)) if return_indices else empty
    if all(n % o == 0 for n, o in zip(size, out_size, strict=True)):
        kernel = tuple(n // o for n, o in zip(size, out_size, strict=True))
        return _max(dims, input, kernel, None, 0, 1, False, return_indices)
    # Windows differ in size: each is laid out at the largest's, its last row and column repeated.
    tables, laid = [_repeated(n, o) for n, o in zip(size, out_size, strict=True)], input
    for dim, table in enumerate(tables):
        if table.size != size[dim] or table.shape[1] > 1:
            if input.dtype.is_floating_point:
                rule = (size[dim], table.size, "windows", float(len(table)), False)
                laid = _resample(laid, dim - dims, rule, False)
            else:
                laid = laid.index_select(dim - dims, tensor(table.reshape(-1), device=input.device))
    kernel = tuple(table.shape[1] for table in tables)
    out, chosen = _max_pool(laid, kernel, None, (0,) * dims, (1,) * dims)
    if not return_indices:
        return out

    def place(dim: int, number: Any) -> Any:
        first = _along(arange(out_size[dim], device=input.device) * kernel[dim], dim, dims)
        return tensor(tables[dim].reshape(-1), device=input.device)[first + number]

    return out, _positions(chosen, kernel, size, place)


@composite(on="functional", samples=each(draw(distinct(2, 3, 9), 4), draw(distinct(3, 8), (2,), True)))
def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over ``output_size`` windows, from floor(i l / l') up to ceil((i + 1) l / l'). (n, c, l) or (c, l)."""
    return _adaptive_max(1, input, output_size, return_indices)


@composite(
    on="functional",
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
    each plane.
    """
    return _adaptive_max(2, input, output_size, return_indices)


@composite(
    on="functional",
    samples=each(draw(distinct(1, 2, 4, 6, 5), (2, 3, 5)), draw(distinct(2, 5, 4, 3), (3, None, 2), True)),
)  # fmt: skip
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over ``output_size`` windows, from floor(i d / d') up to ceil((i + 1) d / d'). None keeps a side as it is.

    input (n, c, d, h, w) or (c, d, h, w) -> (n, c, d', h', w'); with ``return_indices`` also the int64 positions.
    """
    return _adaptive_max(3, input, output_size, return_indices)


@composite(on="functional", alias=("function.adaptive_max_pool1d",), samples=each(draw(distinct(2, 9), 4)))
def adaptive_max_pool1d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima and their int64 positions, ``return_indices`` or not: see ``nn.functional.adaptive_max_pool1d``."""
    return _adaptive_max(1, input, output_size, True)


@composite(on="functional", samples=each(draw(distinct(2, 7, 5), (3, 2))))
def adaptive_max_pool2d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima and their int64 positions, ``return_indices`` or not: see ``adaptive_max_pool2d``."""
    return _adaptive_max(2, input, output_size, True)


@composite(on="functional", samples=each(draw(distinct(2, 4, 3, 5), 2)))
def adaptive_max_pool3d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima and their int64 positions, ``return_indices`` or not: see ``adaptive_max_pool3d``."""
    return _adaptive_max(3, input, output_size, True)


# -------------------------------------------------------------------------------------------- windows placed by chance


def _fractional(
    dims: int,
    input: Any,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    return_indices: bool,
    samples: Any,
) -> Any:
    name = f"fractional_max_pool{dims}d"
    array = _tensor(name, input)
    shape = array.shape
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    if len(shape) not in (dims + 1, dims + 2) or 0 in shape[-dims - 1 :]:
        raise ShapeError(
            f"{name}: Expected {dims + 1}D or {dims + 2}D tensor with non-zero size for non-batch dimensions, but got "
            f"{list(shape)}"
        )
    if array.dtype.kind != "f" and array.dtype not in HALF:
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[array.dtype]}: convert it, as in input.float()")
    size, kernel = shape[-dims:], _each(name, "kernel_size", kernel_size, dims)
    if output_size is None:
        ratios = (output_ratio,) * dims if isinstance(output_ratio, (int, float)) else tuple(output_ratio)
        output_size = [int(n * r) for n, r in zip(size, ratios, strict=True)]
    out_size = _each(name, "output_size", output_size, dims)
    for n, o, k in zip(size, out_size, kernel, strict=True):
        if k < 1 or o < 1 or o + k - 1 > n - (dims == 3):  # of three dims PyTorch asks one more
            raise ShapeError(
                f"{name}: pool size {kernel} too large relative to input size {size}: expected output_size + "
                f"kernel_size - 1 within the input, with output_size={out_size}"
            )
    images = input if len(shape) == dims + 2 else input.unsqueeze(0)
    N, C = images._array.shape[:2]
    if samples is None:
        samples = rand(N, C, dims, dtype=input.dtype, device=input.device)
    elif samples._array.shape != (N, C, dims):
        raise ShapeError(f"{name}: _random_samples has shape {samples._array.shape}: expected {(N, C, dims)}")
    tables, laid = [], images
    for dim, (n, o, k) in enumerate(zip(size, out_size, kernel, strict=True)):
        # PyTorch takes the samples of two dims in the order width, height, of three in the order of the dims.
        u = samples[..., 1 - dim if dims == 2 else dim].unsqueeze(-1)
        first = _fractions(u, n, o, k, input)
        table = (first.unsqueeze(-1) + arange(k, device=input.device)).reshape(N, C, o * k)
        tables.append(table)
        index = table.reshape(N, C, *(o * k if d == dim else 1 for d in range(dims)))
        laid = laid.gather(dim - dims, index.expand(*(o * k if d == dim + 2 else m for d, m in enumerate(laid.shape))))
    out, chosen = _max_pool(laid, kernel, None, (0,) * dims, (1,) * dims)
    batched = len(shape) == dims + 2
    if not return_indices:
        return out if batched else out.squeeze(0)

    def place(dim: int, number: Any) -> Any:
        at = _along(arange(out_size[dim], device=input.device) * kernel[dim], dim, dims) + number
        return tables[dim].gather(-1, at.reshape(N, C, -1)).reshape(number.shape)

    positions = _positions(chosen, kernel, size, place)
    return (out, positions) if batched else (out.squeeze(0), positions.squeeze(0))


def _fractions(u: Any, n: int, out: int, kernel: int, like: Any) -> Any:
    """(n, c, out): where windows begin: floor((i + u) a) - floor(u a), a = (n - kernel) / (out - 1); n - kernel."""
    last = u.to(_INT64) * 0 + (n - kernel)
    if out == 1:
        return last
    i = arange(out - 1, dtype=like.dtype, device=like.device)
    alpha = (i[:1] + (n - kernel)) / (out - 1)  # rounded to the input's dtype, as PyTorch does
    first = ((i + u) * alpha).to(_INT64) - (u * alpha).to(_INT64)
    return cat([first, last], -1)


_FRACTIONAL = each(
    draw(distinct(1, 2, 7, 6), 2, (3, 4), _random_samples=values([[[0.25, 0.5], [0.75, 0.125]]])),
    draw(distinct(2, 9, 8), (3, 2), None, (0.5, 0.6), return_indices=True,
         _random_samples=values([[[0.3, 0.9], [0.0, 0.6]]])),
    draw(distinct(1, 1, 5, 5), 3, 1, _random_samples=values([[[0.3, 0.9]]])),
)  # fmt: skip
_FRACTIONAL3 = each(
    draw(distinct(1, 2, 5, 6, 4), 2, (3, 4, 2), _random_samples=values([[[0.25, 0.5, 0.1], [0.75, 0.125, 0.9]]])),
    draw(distinct(1, 6, 5, 7), (3, 2, 2), None, (0.5, 0.7, 0.6), return_indices=True,
         _random_samples=values([[[0.3, 0.9, 0.6]]])),
)  # fmt: skip


@composite(on="functional", samples=_FRACTIONAL)
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Maxima over ``output_size`` windows of kernel_size, begun at floor((i + u) a) - floor(u a), u random.

    a = (h - kernel) / (h' - 1), the last window at the end. input (n, c, h, w) or (c, h, w) -> (n, c, h', w'), with
    ``return_indices`` also the int64 positions. ``output_ratio`` (of the input's size) may stand for ``output_size``.
    ``_random_samples`` (n, c, 2): the u of width and height, uniform by default. Graham 2014, "Fractional Max-Pooling".
    """
    return _fractional(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


@composite(on="functional", samples=_FRACTIONAL3)
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Maxima over ``output_size`` windows of kernel_size, begun at floor((i + u) a) - floor(u a), u random.

    input (n, c, d, h, w) or (c, d, h, w) -> (n, c, d', h', w'). ``_random_samples`` (n, c, 3): the u of depth, height
    and width. As ``fractional_max_pool2d`` otherwise.
    """
    return _fractional(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


@composite(on="functional", samples=_FRACTIONAL)
def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The maxima and their int64 positions, ``return_indices`` or not: see ``fractional_max_pool2d``."""
    return _fractional(2, input, kernel_size, output_size, output_ratio, True, _random_samples)


@composite(on="functional", samples=_FRACTIONAL3)
def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The maxima and their int64 positions, ``return_indices`` or not: see ``fractional_max_pool3d``."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, True, _random_samples)


# ----------------------------------------------------------------------------------------------- the inverse of maximum


def _unpool(
    dims: int, input: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Any:
    name = f"max_unpool{dims}d"
    array, where = _tensor(name, input), _tensor(name, indices)
    shape, kernel = array.shape, _each(name, "kernel_size", kernel_size, dims)
    steps = kernel if stride is None else _each(name, "stride", stride, dims)
    pad = _each(name, "padding", padding, dims)
    default = [
        (n - 1) * s + k - 2 * p for n, s, k, p in zip(shape[len(shape) - dims :], steps, kernel, pad, strict=False)
    ]
    size = default if output_size is None else list(output_size)
    if output_size is not None:
        size = size[2:] if len(size) == dims + 2 else size
        if len(size) != dims:
            raise ValueError(
                f"output_size should be a sequence containing {dims} or {dims + 2} elements, but it has a length of "
                f"'{len(size)}'"
            )
        for d, (n, m, s) in enumerate(zip(size, default, steps, strict=True)):
            if not m - s < n < m + s:
                raise ValueError(f'invalid output_size "{size}" (dim {d} must be between {m - s} and {m + s})')
    if where.dtype != _INT64:
        raise DtypeError(f"{name}: elements in indices should be type int64 but got: {OF_NUMPY[where.dtype]}")
    if len(shape) not in (dims + 1, dims + 2) or 0 in shape[-dims - 1 :]:
        raise ShapeError(
            f"{name}: Expected a {dims + 1}D or {dims + 2}D tensor with non-zero size for non-batch dimensions, but "
            f"got {list(shape)}"
        )
    if shape != where.shape:
        raise ShapeError(
            f"{name}: Expected shape of indices to be same as that of the input tensor ({list(shape)}) but got indices "
            f"tensor with shape: {list(where.shape)}"
        )
    if min(size) < 1:
        raise ShapeError(f"{name}: got input of size {list(shape)}: expected an output with elements, got {size}")
    lead = shape[:-dims]
    flat = zeros((*lead, prod(size)), dtype=input.dtype, device=input.device)
    filled = flat.scatter(-1, indices.reshape(*lead, prod(shape[-dims:])), input.reshape(*lead, prod(shape[-dims:])))
    return filled.reshape(*lead, *size)


@composite(
    complex=False,
    on="functional",
    samples=each(draw((1, 2, 3), values([[[0, 2, 5], [1, 3, 4]]], "int64"), 2),
                 draw((1, 3), values([[1, 2, 5]], "int64"), 3, 2, 1, output_size=(6,))),
)  # fmt: skip
def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """out[indices] = input, zero elsewhere: what ``max_pool1d`` chose, back at its place. As ``max_unpool2d``."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)  # type: ignore[no-any-return]


@composite(
    complex=False,
    on="functional",
    samples=each(draw((1, 2, 2, 2), values([[[[0, 3], [8, 10]], [[5, 2], [13, 15]]]], "int64"), 2),
                 draw((1, 2, 2), values([[[0, 3], [12, 19]]], "int64"), (2, 2), output_size=(4, 5))),
)  # fmt: skip
def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """out[n, c].flatten()[indices] = input, zero elsewhere: what ``max_pool2d`` chose, back at its place.

    input and int64 indices (n, c, h', w') or (c, h', w') -> (n, c, h, w), h = (h' - 1) stride - 2 padding + kernel or,
    within a stride of it, as ``output_size`` says. Where positions repeat, one of the elements is written. ShapeError
    or ValueError for sizes that do not fit, DimError for positions beyond the output.
    """
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)  # type: ignore[no-any-return]


@composite(
    complex=False,
    on="functional",
    samples=each(draw((1, 1, 1, 2, 2), values([[[[[0, 3], [24, 15]]]]], "int64"), 2),
                 draw((1, 1, 1, 2), values([[[[9, 3]]]], "int64"), (2, 1, 3), output_size=(1, 2, 2, 1, 6))),
)  # fmt: skip
def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """out[n, c].flatten()[indices] = input, zero elsewhere: what ``max_pool3d`` chose, back at its place.

    input and int64 indices (n, c, d', h', w') or (c, d', h', w') -> (n, c, d, h, w). As ``max_unpool2d`` otherwise.
    """
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)  # type: ignore[no-any-return]
