"""Pooling by windows that are not alike: as many as asked for, placed by chance, or undone."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import PROMOTE
from tensorlib._samples import distinct, draw, each, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import pooling as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops.create import arange, tensor, zeros
from tensorlib.ops.interpolation import _resample
from tensorlib.ops.joining import cat
from tensorlib.ops.pooling import _along, _avg_pool, _each, _five, _max, _max_pool, _positions, _tensor
from tensorlib.ops.random import rand

_SMALL = 1 << 14  # elements of a matrix of windows up to which a product with it is faster than sums
_INT64 = np.dtype(np.int64)


# ---------------------------------------------------------------------------------------------------- windows that fit


def _sizes(output_size: Any, dims: int) -> tuple[int | None, ...]:
    return (output_size,) * dims if output_size is None or isinstance(output_size, int) else tuple(output_size)


def _adapted(name: str, dims: int, input: Any, output_size: Any) -> tuple[int, ...]:
    """The output's size, with None as the input's own."""
    array = _tensor(name, input)
    shape = array.shape
    if len(shape) not in (dims + 1, dims + 2):
        kind = ArgumentError if len(shape) <= dims else ShapeError
        raise kind(f"{name}(): Expected {dims + 1}D or {dims + 2}D tensor, but got {list(shape)}")
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
    elif samples._array.ndim != 3 or samples._array.shape[0] < N or samples._array.shape[1:] != (C, dims):
        raise ShapeError(f"{name}: _random_samples has shape {samples._array.shape}: expected {(N, C, dims)}")
    else:
        samples = samples[:N]
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
        return tables[dim].gather(-1, at.reshape(N, C, prod(out_size))).reshape(number.shape)

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
