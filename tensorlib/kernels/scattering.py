"""Writing, adding and joining at the addresses that indices give.

Rows are added in the order they come, after sorting their addresses (``segments``), and so is everything in half types,
products, and every sum where deterministic algorithms are asked for. Single elements of float32 and float64 are added
atomically otherwise, in no fixed order; extrema and sums of integers are atomic too, where the order does not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, as_strided, contiguous_strides, empty, expand
from tensorlib._dtypes import HALF
from tensorlib.kernels import create, pointwise
from tensorlib.kernels.indexing import along, contiguous, indexed, layout, zero
from tensorlib.kernels.segments import NARROW, join
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.determinism import level

if TYPE_CHECKING:
    import triton.language as tl

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def _work(x: DeviceArray) -> DeviceArray:
    """x, or a copy of it in a type that has atomics: float32 for half types, int32 for small integers and bool."""
    if x.dtype in (_FLOAT32, _FLOAT64, _INT32, _INT64):
        return x
    out = empty(x.shape, _FLOAT32 if x.dtype in HALF else _INT32, x.device)
    pointwise.copy(out, x)
    return out


# ----------------------------------------------------------------------------------------------------- joining in place


def _merged(dims: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(size, stride) of dimensions in C order, with those joined that lie behind each other."""
    merged: list[tuple[int, int]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged


def _accumulate(
    op: str,
    x: DeviceArray,
    y: DeviceArray,
    space_of: Callable[[DeviceArray], Any],
    wrap: bool = False,
    fresh: bool = False,
) -> None:
    """x[...] += y ("mul": *=) over the index space of ``space_of(x)``: the arguments of ``indexed``. ``fresh``: x is 0.

    A dimension that no index varies along belongs to whole rows, whose address is the same offset behind each key.
    """
    shape, x_strides, indices, sizes, steps = space_of(x)
    n = math.prod(shape)
    if not n:
        return
    rank = len(shape)
    # Without indices x is a view that may lie on itself, and every element is a row of its own.
    free = [d for d in range(rank) if indices and x_strides[d] and not any(i.strides[d] for i in indices)]
    width = math.prod([shape[d] for d in free])
    floating = x.dtype.kind == "f" or x.dtype in HALF
    if op == "add" and not (floating and (level[0] != "off" or x.dtype in HALF or width >= NARROW)):
        work = _work(x)
        shape, x_strides, indices, sizes, steps = space_of(work)
        indexed("add", work, y, shape, x_strides, indices, sizes, steps, wrap=wrap)
        if work is not x:
            pointwise.copy(x, work)
        return
    keyed = [d for d in range(rank) if d not in free]
    y = contiguous(pointwise.apart(y, x).transpose((*keyed, *free)))
    if indices:
        coordinates = [(shape[d], x_strides[d], d) for d in keyed if x_strides[d]]
        places = [*zip(sizes, steps, strict=True), *[(size, stride) for size, stride, _ in coordinates]]
        counts = contiguous_strides([size for size, _ in places])
        key_strides = [0] * rank
        for (_, _, d), count in zip(coordinates, counts[len(sizes) :], strict=True):
            key_strides[d] = count
    else:  # the address itself
        places = [(1 + sum((m - 1) * t for m, t in zip(shape, x_strides, strict=True)), 1)]
        counts, key_strides = (), list(x_strides)
    limit = math.prod([size for size, _ in places])
    keys = empty((n // width,), _INT32 if limit < 1 << 31 else _INT64, x.device)
    space = [shape[d] for d in keyed]
    indexed(
        "place",
        x,
        DeviceArray(keys.ptr, tuple(space), contiguous_strides(space), keys.dtype, keys.device, keys.owner),
        space,
        [key_strides[d] for d in keyed],
        [i.transpose((*keyed, *free))[(..., *(0,) * len(free))] for i in indices],
        sizes,
        counts[: len(sizes)],
        wrap=wrap,
    )
    row = _merged([(shape[d], x_strides[d]) for d in free])
    join(x, keys, y, _merged(places) or [(1, 0)], row, op=op, fresh=fresh)


# --------------------------------------------------------------------------------------------------- advanced indices


def _put(x: DeviceArray, values: DeviceArray, indices: Any, dims: Any, add: bool, wrap: bool, fresh: bool) -> None:
    shape, strides, spread, sizes, steps = layout(x, indices, dims)
    values = expand(values, shape)
    if add:
        _accumulate("add", x, values, lambda work: layout(work, indices, dims), wrap, fresh)
    else:
        indexed("write", x, values, shape, strides, spread, sizes, steps, wrap=wrap)


def index_put_(
    input: DeviceArray,
    values: DeviceArray,
    indices: Sequence[DeviceArray],
    dims: Sequence[int],
    accumulate: bool,
    wrap: bool,
) -> None:
    """input[..., indices, ...] = values, or +=. Of several values for one place any one stays."""
    _put(input, values, indices, dims, accumulate, wrap, False)


def index_put(
    out: DeviceArray, input: DeviceArray, values: Any, indices: Any, dims: Any, accumulate: bool, wrap: bool
) -> None:
    """A copy of input with values put or added at the indices."""
    pointwise.copy(out, input)
    index_put_(out, values, indices, dims, accumulate, wrap)


def index_grad(out: DeviceArray, g: DeviceArray, indices: Any, shape: Any, dims: Any, unique: bool, wrap: bool) -> None:
    """Zeros to which g is added at the indices."""
    zero(out)
    _put(out, g, indices, dims, not unique, wrap, True)


# -------------------------------------------------------------------------------------------------- along one dimension


def scatter_(input: DeviceArray, index: DeviceArray, src: DeviceArray | None, dim: int, value: Any) -> None:
    """input[i, index[i, j, k], k] = src[i, j, k] (or value) for dim 1."""
    shape, strides, at, sizes, steps = along(input, dim, index)
    if src is None:
        indexed("fill", input, None, shape, strides, at, sizes, steps, create._typed(value, input.dtype), wrap=False)
    else:
        indexed("write", input, _corner(src, index), shape, strides, at, sizes, steps, wrap=False)


def scatter(out: DeviceArray, input: DeviceArray, index: DeviceArray, src: Any, dim: int, value: Any) -> None:
    """A copy of input with src (or value) written at the indices."""
    pointwise.copy(out, input)
    scatter_(out, index, src, dim, value)


def _corner(src: DeviceArray, index: DeviceArray) -> DeviceArray:
    return as_strided(src, index.shape, src.strides)


# Atomics compare the bits of a float. As bits a positive NaN is above every number and a negative one below, whichever
# sign the NaN had that the array came with.
@jit
def _highest_nan(x):
    return tl.where(x != x, float("nan"), x)


@jit
def _lowest_nan(x):
    return tl.where(x != x, -float("nan"), x)


def _extreme(mode: str, input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int) -> None:
    work = _work(input)
    if work.dtype.kind == "f":
        pointwise.run(_highest_nan if mode == "max" else _lowest_nan, work, (work,), (None,))
    shape, strides, at, sizes, steps = along(work, dim, index)
    indexed(mode, work, src, shape, strides, at, sizes, steps, wrap=False)
    if work is not input:
        pointwise.copy(input, work)


def scatter_add_(input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int) -> None:
    """input[i, index[i, j, k], k] += src[i, j, k] for dim 1."""
    if index.size:
        _accumulate("add", input, _corner(src, index), lambda work: along(work, dim, index))


def scatter_add(out: DeviceArray, input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int) -> None:
    """A copy of input with src added at the indices."""
    pointwise.copy(out, input)
    scatter_add_(out, index, src, dim)


def scatter_reduce(
    out: DeviceArray, input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int, reduce: str
) -> None:
    """A copy of input joined with src at the indices: "amax" and "amin" atomically, "prod" in order."""
    pointwise.copy(out, input)
    if not index.size:
        return
    src = _corner(src, index)
    if reduce == "prod":
        _accumulate("mul", out, src, lambda work: along(work, dim, index))
    else:
        _extreme("max" if reduce == "amax" else "min", out, index, src, dim)


# ------------------------------------------------------------------------------------------------- gradients of views


def _add_strided(out: DeviceArray, g: DeviceArray, strides: Sequence[int], offset: int) -> None:
    work = out if out.dtype in HALF else _work(out)
    zero(work)
    if g.size:
        view = as_strided(work, g.shape, strides, offset)
        _accumulate("add", view, g, lambda x: (g.shape, x.strides, [], [], []), fresh=True)
    if work is not out:
        pointwise.copy(out, work)


def as_strided_grad(out: DeviceArray, g: DeviceArray, shape: Any, size: Any, stride: Any, offset: int) -> None:
    """out = zeros to which g is added at the places of a strided view."""
    _add_strided(out, g, stride, offset)


def unfold_grad(out: DeviceArray, g: DeviceArray, shape: Any, dimension: int, size: int, step: int) -> None:
    """out = zeros to which g is added at the places of sliding windows."""
    s = contiguous_strides(shape)
    strides = (*s[:dimension], s[dimension] * step, *s[dimension + 1 :], s[dimension]) if shape else (1,)
    _add_strided(out, g, strides, 0)
