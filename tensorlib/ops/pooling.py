"""Pooling: the largest element or the mean of each window, in one to three dims, of given or adapted size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _products
from tensorlib._array import DeviceArray, as_strided
from tensorlib._core import Tensor, wrap
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import PROMOTE
from tensorlib._samples import distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import pooling as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops._out import takes_out
from tensorlib.ops.activation import relu
from tensorlib.ops.create import arange

_PIECE = 1 << 18  # elements worked on at a time where each is read several times
_FEW = 4096  # elements up to which windows laid one behind the other take less than a call for each of their elements
_VAST = 32  # elements of a window from which windows that share none are laid so, however many there are
_LARGE = 9  # elements of a window, apart from the others, from which its gradient is not written one element at a time
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
    if type(value) is int:
        return (value,) * dims
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


@lru_cache(maxsize=256)
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


def _laid(x: np.ndarray, s: Windows) -> np.ndarray | None:
    """(planes, …, elements of a window): few elements, or large windows, one behind the other. None of others."""
    if x.size > _FEW and not (s.whole and prod(s.kernel) >= _VAST):
        return None
    if s.extent != s.size or not x.flags.c_contiguous or not x.size:
        return None
    plane, *steps = x.strides
    strides = (plane, *map(int.__mul__, s.stride, steps), *map(int.__mul__, s.dilation, steps))
    windows = np.ndarray((len(x), *s.out, *s.kernel), x.dtype, x, 0, strides)
    return windows.reshape(len(x), *s.out, -1)


@lru_cache(maxsize=64)
def _firsts(shape: tuple[int, ...]) -> np.ndarray:
    """Where each window begins that `_laid` gives."""
    return np.arange(0, prod(shape), shape[-1]).reshape(shape[:-1])


def _largest_of_few(x: np.ndarray, s: Windows) -> tuple[np.ndarray, np.ndarray] | None:
    """The largest element of each window and its number. None where there are many, or a NaN: the last one wins."""
    laid = _laid(x, s)
    if laid is None:
        return None
    number = laid.argmax(-1)
    best = laid.reshape(-1).take(_firsts(laid.shape) + number)
    if best.dtype.kind == "f" and np.isnan(best.max()):
        return None
    return best.reshape(s.output_shape), number.astype(_number_dtype(s.kernel)).reshape(s.output_shape)


def _spread(g: np.ndarray, number: np.ndarray, s: Windows, out: np.ndarray) -> None:
    """out = the gradient of the input: each of g at the element its window chose."""
    if s.apart and prod(s.kernel) >= _LARGE:
        total = np.zeros((len(out), *s.extent), out.dtype)
        corner, places = _places(s)
        first = np.arange(0, total.size, prod(s.extent)).reshape(-1, *(1,) * s.dims)
        total.reshape(-1)[places.take(number) + (corner + first)] = g
        out[...] = _inside(total, s)
        return
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


@lru_cache(maxsize=64)
def _places(s: Windows) -> tuple[np.ndarray, np.ndarray]:
    """(…): where each window begins in a plane with padding; and how far from there each of its elements is."""
    at, steps = np.arange(prod(s.extent)).reshape(s.extent), zip(s.out, s.stride, strict=True)
    corner = at[tuple([slice(0, (out - 1) * step + 1, step) for out, step in steps])]
    return corner, at[tuple([slice(k) for k in s.kernel])].reshape(-1)


def _blank(s: Windows, out: np.ndarray) -> np.ndarray:
    """Where to add up a gradient: ``out`` itself or an array with padding; zeros unless all of it is written."""
    total = out if s.extent == s.size else np.empty((len(out), *s.extent), out.dtype)
    if not s.whole:
        total.fill(0)
    return total


# ---------------------------------------------------------------------------------------------------------- maximum


def _engine(size: int, s: Windows, x: np.ndarray) -> Any:
    """The native engine's maxima for so many elements, where it has such windows, else None."""
    return _products.maxima(size, x) if s.dims < 3 and prod(s.kernel) <= 256 and x.size else None


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
    found = _largest_of_few(x, s)
    if found is not None:
        return found
    native = _engine(x.size, s, x)
    if native is not None:
        found = native.forward(np.ascontiguousarray(x), s, _first(s, _UINT8))
        if found is not None:
            return found[0].reshape(s.output_shape), found[1].reshape(s.output_shape)
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
    native = None if s.apart and prod(s.kernel) >= _LARGE else _engine(len(g) * prod(s.size), s, g)
    if native is not None and number.dtype == _UINT8:
        found = native.backward(np.ascontiguousarray(g), np.ascontiguousarray(number), s)
        if found is not None:
            return found.reshape(input_size)
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
    if type(chosen._array) is np.ndarray:
        corner, offsets = _corners(s)
        return out, wrap(offsets.take(chosen._array) + corner)

    def place(dim: int, number: Any) -> Any:
        first = arange(s.out[dim], device=input.device) * s.stride[dim] - s.padding[dim]
        return _along(first, dim, dims) + number * s.dilation[dim]

    return out, _positions(chosen, s.kernel, s.size, place)


@lru_cache(maxsize=64)
def _corners(s: Windows) -> tuple[np.ndarray, np.ndarray]:
    """(…): where in a plane each window begins, perhaps before it; and how far from there each of its elements is."""
    corner, offsets = np.zeros((), np.int64), np.zeros((), np.int64)
    for out, n, k, step, pad, spread in zip(s.out, s.size, s.kernel, s.stride, s.padding, s.dilation, strict=True):
        corner = corner[..., None] * n + np.arange(out) * step - pad
        offsets = offsets[..., None] * n + np.arange(k) * spread
    return corner, offsets.reshape(-1)


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
    divisor = _divisor(s, count_include_pad, divisor_override, x.dtype)
    if x.dtype.kind == "f":
        laid = _laid(x, s)
        if laid is not None:
            return np.divide(np.add.reduce(laid, -1), divisor).reshape(s.output_shape)
    out = np.empty((len(x), *s.out), x.dtype)
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
    if s.whole and s.extent == s.size and prod(s.kernel) >= _LARGE:
        share = g / divisor
        for dim, k in enumerate(s.kernel[1:], 2):
            share = np.repeat(share, k, axis=dim)
        out.reshape(len(g), s.out[0], s.kernel[0], -1)[...] = share.reshape(len(g), s.out[0], 1, -1)
        return out.reshape(input_size)
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
