"""Gathering from, and scattering to, the addresses that indices give; nonzero; triangles.

An index out of range traps on a GPU (``tl.device_assert``), as in PyTorch; the access itself is masked off.
Sums into repeated addresses are atomic, in no fixed order, in float32 or wider; ``embedding_grad`` is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, as_strided, contiguous_strides, empty, expand, is_contiguous, to_host
from tensorlib._dtypes import HALF
from tensorlib.kernels import create, pointwise
from tensorlib.kernels.pointwise import collapse
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
_CHECKED = {"debug": True, "sanitize_overflow": False}  # keeps device_assert, and adds no checks of its own
_INT32, _INT64, _BOOL = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.bool_)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


# --------------------------------------------------------------------------------------------------- one element each


# One program owns BLOCK elements of the index space, in C order. For each: the address in x is its place by x_strides
# (0 along indexed dimensions) plus index * step for each index array; y is the dense side. MODE "read": y = x, and the
# others write to x: "write" y, "fill" value, "add" / "max" / "min" y atomically.
# Reads the indices (8 bytes each) and one side, writes the other.
@jit
def indexed_kernel(
    x, y, indices, n, shape, x_strides, y_strides, index_strides, sizes, steps, value,
    MODE: tl.constexpr, RANK: tl.constexpr, COUNT: tl.constexpr, WRAP: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    rest = i
    at_x = tl.zeros_like(i)
    at_y = tl.zeros_like(i)
    at_index = ()
    for _ in tl.static_range(COUNT):
        at_index = at_index + (at_x,)
    for d in tl.static_range(RANK - 1, -1, -1):
        c = rest % shape[d]
        rest = rest // shape[d]
        at_x += c * x_strides[d]
        at_y += c * y_strides[d]
        moved = ()
        for k in tl.static_range(COUNT):
            moved = moved + (at_index[k] + c * index_strides[k][d],)
        at_index = moved
    inside = mask
    for k in tl.static_range(COUNT):
        j = tl.load(indices[k] + at_index[k], mask=mask, other=0).to(tl.int64)
        if WRAP:
            j = tl.where(j < 0, j + sizes[k], j)
        fits = (j >= 0) & (j < sizes[k])
        tl.device_assert(fits | (i >= n), "index out of bounds")
        inside = inside & fits
        at_x += j.to(at_x.dtype) * steps[k]
    element: tl.constexpr = x.dtype.element_ty
    if MODE == "read":
        v = tl.load(x + at_x, mask=inside, other=0)
        tl.store(y + at_y, tl.cast(v, y.dtype.element_ty), mask=mask)
    elif MODE == "fill":
        tl.store(x + at_x, tl.full((BLOCK,), 0, element) + tl.cast(value, element), mask=inside)
    else:
        v = tl.cast(tl.load(y + at_y, mask=mask, other=0), element)
        if MODE == "write":
            tl.store(x + at_x, v, mask=inside)
        elif MODE == "add":
            tl.atomic_add(x + at_x, v, mask=inside, sem="relaxed")
        elif MODE == "max":
            # As bits a positive NaN is above every number, so that NaN wins, as in PyTorch.
            if element.is_floating():
                v = tl.where(v != v, float("nan"), v)
            tl.atomic_max(x + at_x, v, mask=inside, sem="relaxed")
        else:
            if element.is_floating():
                v = tl.where(v != v, -float("nan"), v)  # and a negative NaN is below every number
            tl.atomic_min(x + at_x, v, mask=inside, sem="relaxed")


def _indexed(
    mode: str,
    x: DeviceArray,
    y: DeviceArray | None,
    shape: Sequence[int],
    x_strides: Sequence[int],
    indices: Sequence[DeviceArray],
    sizes: Sequence[int],
    steps: Sequence[int],
    value: Any = None,
    wrap: bool = True,
) -> None:
    """Launch ``indexed_kernel`` over ``shape``; y and the indices have that shape."""
    n = 1
    for m in shape:
        n *= m
    if n == 0:
        return
    dims, strides = collapse(shape, [x_strides, None if y is None else y.strides, *[i.strides for i in indices]])
    rank = len(dims)
    reach = sum((size - 1) * abs(step) for size, step in zip(sizes, steps, strict=True))
    span = max(sum(abs(t) * (m - 1) for t, m in zip(s, dims, strict=True)) for s in strides if s is not None)
    launch(
        indexed_kernel,
        (cdiv(n, BLOCK),),
        x,
        y,
        tuple(indices),
        n,
        dims,
        strides[0],
        (0,) * rank if strides[1] is None else strides[1],
        tuple(strides[2:]),
        tuple(sizes),
        tuple(steps),
        value,
        MODE=mode,
        RANK=rank,
        COUNT=len(indices),
        WRAP=wrap,
        WIDE=max(span + reach, n + BLOCK) >= 1 << 31,
        BLOCK=BLOCK,
        options=_CHECKED,
    )


def _work(x: DeviceArray) -> DeviceArray:
    """x, or a copy of it in a type that has atomics: float32 for half types, int32 for small integers and bool."""
    if x.dtype in (_FLOAT32, _FLOAT64, _INT32, _INT64):
        return x
    out = empty(x.shape, _FLOAT32 if x.dtype in HALF else _INT32, x.device)
    pointwise.copy(out, x)
    return out


# --------------------------------------------------------------------------------------------------- advanced indices


def _placed(shape: Sequence[int], dims: Sequence[int], common: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """(shape of the result, where the indices' dimensions lie in it) of an advanced index over ``dims``."""
    rest = [n for d, n in enumerate(shape) if d not in dims]
    at = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    return (*rest[:at], *common, *rest[at:]), at


def _layout(x: DeviceArray, indices: Sequence[DeviceArray], dims: Sequence[int]) -> tuple[Any, Any, Any, Any, Any]:
    """(shape, strides of x, index arrays, sizes, steps) of the index space of an advanced index."""
    common = np.broadcast_shapes(*[i.shape for i in indices])
    shape, at = _placed(x.shape, dims, common)
    rest = [s for d, s in enumerate(x.strides) if d not in dims]
    strides = (*rest[:at], *(0,) * len(common), *rest[at:])
    after = len(shape) - at - len(common)
    spread = []
    for i in indices:
        i = expand(i, common)
        spread.append(as_strided(i, shape, (*(0,) * at, *i.strides, *(0,) * after)))
    return shape, strides, spread, [x.shape[d] for d in dims], [x.strides[d] for d in dims]


def index(
    out: DeviceArray, input: DeviceArray, indices: Sequence[DeviceArray], dims: Sequence[int], unique: bool, wrap: bool
) -> None:
    """out = input[..., indices, ...], the indices over ``dims``."""
    i = indices[0]
    if len(dims) == 1 and dims[0] == 0 and is_contiguous(i) and is_contiguous(input) and out.size >= 64 * i.size:
        rows(out, input, i, wrap)
        return
    shape, strides, spread, sizes, steps = _layout(input, indices, dims)
    _indexed("read", input, out, shape, strides, spread, sizes, steps, wrap=wrap)


def index_put_(
    input: DeviceArray,
    values: DeviceArray,
    indices: Sequence[DeviceArray],
    dims: Sequence[int],
    accumulate: bool,
    wrap: bool,
) -> None:
    """input[..., indices, ...] = values, or += values. Of several values for one place any one stays; sums are atomic."""
    work = _work(input) if accumulate else input
    shape, strides, spread, sizes, steps = _layout(work, indices, dims)
    mode = "add" if accumulate else "write"
    _indexed(mode, work, expand(values, shape), shape, strides, spread, sizes, steps, wrap=wrap)
    if work is not input:
        pointwise.copy(input, work)


def index_put(
    out: DeviceArray, input: DeviceArray, values: Any, indices: Any, dims: Any, accumulate: bool, wrap: bool
) -> None:
    """A copy of input with values put or added at the indices."""
    pointwise.copy(out, input)
    index_put_(out, values, indices, dims, accumulate, wrap)


def index_grad(out: DeviceArray, g: DeviceArray, indices: Any, shape: Any, dims: Any, unique: bool, wrap: bool) -> None:
    """Zeros to which g is added at the indices."""
    _zero(out)
    index_put_(out, g, indices, dims, not unique, wrap)


def _zero(x: DeviceArray) -> None:
    create.full(x, x.shape, 0, x.dtype, x.device)


# -------------------------------------------------------------------------------------------------- along one dimension


def _along(x: DeviceArray, dim: int, index: DeviceArray) -> tuple[Any, Any, Any, Any, Any]:
    """The index space of gather and scatter: index's own, a corner of x's but for ``dim``."""
    strides = (*x.strides[:dim], 0, *x.strides[dim + 1 :])
    return index.shape, strides, [index], [x.shape[dim]], [x.strides[dim]]


def gather(out: DeviceArray, input: DeviceArray, index: DeviceArray, dim: int) -> None:
    """out[i, j, k] = input[i, index[i, j, k], k] for dim 1."""
    shape, strides, at, sizes, steps = _along(input, dim, index)
    _indexed("read", input, out, shape, strides, at, sizes, steps, wrap=False)


def scatter_(input: DeviceArray, index: DeviceArray, src: DeviceArray | None, dim: int, value: Any) -> None:
    """input[i, index[i, j, k], k] = src[i, j, k] (or value) for dim 1."""
    shape, strides, at, sizes, steps = _along(input, dim, index)
    if src is None:
        _indexed("fill", input, None, shape, strides, at, sizes, steps, create._typed(value, input.dtype), wrap=False)
    else:
        _indexed("write", input, _corner(src, index), shape, strides, at, sizes, steps, wrap=False)


def scatter(out: DeviceArray, input: DeviceArray, index: DeviceArray, src: Any, dim: int, value: Any) -> None:
    """A copy of input with src (or value) written at the indices."""
    pointwise.copy(out, input)
    scatter_(out, index, src, dim, value)


def _corner(src: DeviceArray, index: DeviceArray) -> DeviceArray:
    return as_strided(src, index.shape, src.strides)


def _reduce(mode: str, input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int) -> None:
    work = _work(input)
    shape, strides, at, sizes, steps = _along(work, dim, index)
    _indexed(mode, work, _corner(src, index), shape, strides, at, sizes, steps, wrap=False)
    if work is not input:
        pointwise.copy(input, work)


def scatter_add_(input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int) -> None:
    """input[i, index[i, j, k], k] += src[i, j, k] for dim 1, atomically."""
    if index.size:
        _reduce("add", input, index, src, dim)


def scatter_add(out: DeviceArray, input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int) -> None:
    """A copy of input with src added at the indices."""
    pointwise.copy(out, input)
    scatter_add_(out, index, src, dim)


def scatter_reduce(out: DeviceArray, input: DeviceArray, index: DeviceArray, src: DeviceArray, dim: int, reduce: str) -> None:
    """A copy of input joined with src at the indices: "amax" and "amin" atomically, "prod" in order."""
    pointwise.copy(out, input)
    if not index.size:
        return
    if reduce == "prod":
        _scatter_prod(out, dim, index, _corner(src, index))
    else:
        _reduce("max" if reduce == "amax" else "min", out, index, src, dim)


# One program owns BLOCK elements of x, whose dimension `dim` has size N, and walks the L indices of their line:
# deterministic, and quadratic in the dimension. Products have no atomics.
@jit
def scatter_prod_kernel(
    x, y, index, n, L, shape, index_shape, x_strides, y_strides, index_strides, y_step, index_step,
    DIM: tl.constexpr, RANK: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    rest = i
    at_x = tl.zeros_like(i)
    at_y = tl.zeros_like(i)
    at_index = tl.zeros_like(i)
    here = tl.zeros_like(i)
    lies = mask
    for d in tl.static_range(RANK - 1, -1, -1):
        c = rest % shape[d]
        rest = rest // shape[d]
        at_x += c * x_strides[d]
        if d == DIM:
            here = c
        else:
            at_y += c * y_strides[d]
            at_index += c * index_strides[d]
            lies = lies & (c < index_shape[d])
    product = tl.load(x + at_x, mask=mask, other=0).to(ACC)
    for k in range(0, L):
        j = tl.load(index + at_index + k * index_step, mask=lies, other=-1)
        v = tl.load(y + at_y + k * y_step, mask=lies, other=0).to(ACC)
        product = tl.where(lies & (j == here), product * v, product)
    tl.store(x + at_x, tl.cast(product, x.dtype.element_ty), mask=mask)


def _scatter_prod(x: DeviceArray, dim: int, index: DeviceArray, src: DeviceArray) -> None:
    acc = _FLOAT32 if x.dtype in HALF else x.dtype if x.dtype.kind in "fi" and x.dtype.itemsize >= 4 else _INT32
    launch(
        scatter_prod_kernel, (cdiv(x.size, BLOCK),), x, src, index, x.size, index.shape[dim] if index.size else 0, x.shape,
        index.shape, x.strides, src.strides, index.strides, src.strides[dim], index.strides[dim],
        DIM=dim, RANK=x.ndim, ACC=acc, BLOCK=BLOCK,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- gradients of views


def slice_grad(out: DeviceArray, g: DeviceArray, shape: Any, index: Any) -> None:
    """out = zeros with g at a basic index."""
    _zero(out)
    pointwise.copy(out[index], g)


def diagonal_grad(out: DeviceArray, g: DeviceArray, shape: Any, offset: int, dim1: int, dim2: int) -> None:
    """out = zeros with g on a diagonal."""
    _zero(out)
    rest = [d for d in range(out.ndim) if d not in (dim1, dim2)]
    s = out.strides
    start = 0 if not g.size else offset * s[dim2] if offset >= 0 else -offset * s[dim1]
    pointwise.copy(as_strided(out, g.shape, (*[s[d] for d in rest], s[dim1] + s[dim2]), start), g)


def _add_strided(out: DeviceArray, g: DeviceArray, strides: Sequence[int], offset: int) -> None:
    work = out if out.dtype in (_FLOAT32, _FLOAT64, _INT32, _INT64) else empty(out.shape, _wide(out.dtype), out.device)
    _zero(work)
    if g.size:
        view = as_strided(work, g.shape, strides, offset)
        _indexed("add", view, g, g.shape, view.strides, [], [], [])
    if work is not out:
        pointwise.copy(out, work)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return _FLOAT32 if dtype in HALF else _INT32


def as_strided_grad(out: DeviceArray, g: DeviceArray, shape: Any, size: Any, stride: Any, offset: int) -> None:
    """out = zeros to which g is added at the places of a strided view; atomically."""
    _add_strided(out, g, stride, offset)


def unfold_grad(out: DeviceArray, g: DeviceArray, shape: Any, dimension: int, size: int, step: int) -> None:
    """out = zeros to which g is added at the places of sliding windows; atomically."""
    s = contiguous_strides(shape)
    strides = (*s[:dimension], s[dimension] * step, *s[dimension + 1 :], s[dimension]) if shape else (1,)
    _add_strided(out, g, strides, 0)


# ----------------------------------------------------------------------------------------------------------- embedding


# One program owns BLOCK_M rows and BLOCK_N columns of out = x[index]. Reads each index and row once, writes it once.
@jit
def rows_kernel(
    out, x, index, M, N, size, WRAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    rm = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.load(index + rm, mask=rm < M, other=0).to(tl.int64)
    if WRAP:
        j = tl.where(j < 0, j + size, j)
    fits = (j >= 0) & (j < size)
    tl.device_assert(fits | (rm >= M), "index out of bounds")
    mask = (rm < M)[:, None] & (rn < N)[None, :]
    v = tl.load(x + j[:, None] * N + rn[None, :], mask=mask & fits[:, None], other=0)
    tl.store(out + rm.to(tl.int64)[:, None] * N + rn[None, :], v, mask=mask)


def rows(out: DeviceArray, x: DeviceArray, index: DeviceArray, wrap: bool) -> None:
    """out = x[index] over the first dimension; all contiguous."""
    m, size = index.size, x.shape[0]
    if not out.size:
        return
    n = out.size // m
    block_n = min(next_power_of_2(n), 1024)
    block_m = max(1, min(1024 // block_n, 16))
    launch(rows_kernel, (cdiv(m, block_m), cdiv(n, block_n)), out, x, index, m, n, size, WRAP=wrap, BLOCK_M=block_m,
           BLOCK_N=block_n, options=_CHECKED)  # fmt: skip


def embedding(out: DeviceArray, input: DeviceArray, weight: DeviceArray, padding_idx: int, scale_grad_by_freq: bool) -> None:
    """out = weight[input]."""
    rows(out, contiguous(weight), contiguous(input), False)


def contiguous(x: DeviceArray) -> DeviceArray:
    """x, or a contiguous copy of it."""
    if is_contiguous(x):
        return x
    out = empty(x.shape, x.dtype, x.device)
    pointwise.copy(out, x)
    return out


# One program counts BLOCK indices into counts, atomically: sums of integers do not depend on the order.
@jit
def histogram_kernel(counts, index, n, size, skip, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.load(index + i, mask=i < n, other=-1).to(tl.int64)
    tl.atomic_add(counts + j, 1, mask=(j >= 0) & (j < size) & (j != skip), sem="relaxed")


# One program sums BLOCK numbers: the first pass of a prefix sum.
@jit
def block_sum_kernel(sums, x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(sums + tl.program_id(0), tl.sum(tl.load(x + i, mask=i < n, other=0).to(tl.int64)))


# One program turns n numbers into their exclusive prefix sums and writes the total behind them.
@jit
def prefix_kernel(sums, n, BLOCK: tl.constexpr):
    total = tl.full((), 0, tl.int64)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(sums + i, mask=i < n, other=0)
        tl.store(sums + i, total + tl.cumsum(v, 0) - v, mask=i < n)
        total += tl.sum(v)
    tl.store(sums + n, total)


# One program owns BLOCK numbers: out = what all before them sum to, exclusive. Reads and writes each once.
@jit
def scan_kernel(out, x, sums, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0).to(tl.int64)
    tl.store(out + i, tl.load(sums + tl.program_id(0)) + tl.cumsum(v, 0) - v, mask=i < n)
    tl.store(out + n, tl.load(sums + tl.num_programs(0)))


def block_sums(x: DeviceArray) -> DeviceArray:
    """Exclusive prefix sums of the sums of x's blocks, the total at the end; x contiguous."""
    blocks = cdiv(x.size, BLOCK)
    sums = empty((blocks + 1,), _INT64, x.device)
    launch(block_sum_kernel, (blocks,), sums, x, x.size, BLOCK=BLOCK)
    launch(prefix_kernel, (1,), sums, blocks, BLOCK=min(max(next_power_of_2(blocks), 16), BLOCK))
    return sums


def offsets(counts: DeviceArray) -> DeviceArray:
    """[0, c0, c0 + c1, …]: where each of consecutive runs begins, the total at the end, in int64."""
    out = empty((counts.size + 1,), _INT64, counts.device)
    launch(scan_kernel, (cdiv(counts.size, BLOCK),), out, counts, block_sums(counts), counts.size, BLOCK=BLOCK)
    return out


# One program places BLOCK tokens: token t of row v goes behind all earlier tokens of that row (a stable counting sort).
# Compares each token with all before it: n² / 2 integer compares, which for 65,536 tokens is 2·10⁹.
@jit
def order_kernel(order, index, starts, n, size, skip, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(index + i, mask=i < n, other=-1).to(tl.int64)
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, pid + 1):
        j = start * BLOCK + tl.arange(0, BLOCK)
        w = tl.load(index + j, mask=j < n, other=-2).to(tl.int64)
        rank += tl.sum(((w[None, :] == v[:, None]) & (j[None, :] < i[:, None])).to(tl.int32), axis=1)
    counted = (v >= 0) & (v < size) & (v != skip)
    tl.store(order + tl.load(starts + v, mask=counted, other=0) + rank, i, mask=counted)


# One program owns one row of out and BLOCK_N of its columns: the sum of its tokens' gradients in the order of the
# tokens, BLOCK_M at a time, in float32 (float64 for float64). Reads each gradient once, writes every row once.
@jit
def embedding_grad_kernel(
    out, g, order, starts, N, SCALE: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    rn = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(starts + row)
    last = tl.load(starts + row + 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for start in range(first, last, BLOCK_M):
        k = start + tl.arange(0, BLOCK_M)
        t = tl.load(order + k, mask=k < last, other=0).to(tl.int64)
        acc += tl.load(g + t[:, None] * N + rn[None, :], mask=(k < last)[:, None] & (rn < N)[None, :], other=0.0).to(ACC)
    total = tl.sum(acc, axis=0)
    if SCALE:
        total = total / tl.maximum(last - first, 1).to(ACC)
    tl.store(out + row * N + rn, tl.cast(total, out.dtype.element_ty), mask=rn < N)


#: With more tokens the sort's compares cost more than they are worth, and the sums are atomic.
MOST_SORTED = 1 << 17


def embedding_grad(
    out: DeviceArray, g: DeviceArray, input: DeviceArray, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    """out[input] += g, deterministically up to MOST_SORTED tokens; rows of ``padding_idx`` stay 0."""
    index, g = contiguous(input), contiguous(g)
    n, width = index.size, out.shape[1]
    if not n or not out.size:
        _zero(out)
        return
    if n > MOST_SORTED and not scale_grad_by_freq:
        work = out if out.dtype in (_FLOAT32, _FLOAT64) else empty(out.shape, _FLOAT32, out.device)
        _zero(work)
        flat = DeviceArray(index.ptr, (n,), (1,), index.dtype, index.device, index.owner)
        rows_of_g = DeviceArray(g.ptr, (n, width), (width, 1), g.dtype, g.device, g.owner)
        shape, strides, at, sizes, steps = _layout(work, [flat], [0])
        _indexed("add", work, rows_of_g, shape, strides, at, sizes, steps, wrap=False)
        if padding_idx >= 0:
            _zero_rows(work, padding_idx)
        if work is not out:
            pointwise.copy(out, work)
        return
    counts = empty((num_weights,), _INT32, out.device)
    _zero(counts)
    launch(histogram_kernel, (cdiv(n, BLOCK),), counts, index, n, num_weights, padding_idx, BLOCK=BLOCK)
    starts = offsets(counts)
    order = empty((n,), _INT32, out.device)
    launch(order_kernel, (cdiv(n, 64),), order, index, starts, n, num_weights, padding_idx, BLOCK=64)
    block_n = min(max(next_power_of_2(width), 16), 256)
    launch(
        embedding_grad_kernel, (num_weights, cdiv(width, block_n)), out, g, order, starts, width, SCALE=scale_grad_by_freq,
        ACC=_FLOAT64 if out.dtype == _FLOAT64 else _FLOAT32, BLOCK_M=8, BLOCK_N=block_n,
    )  # fmt: skip


def _zero_rows(x: DeviceArray, row: int) -> None:
    _zero(x[row])


# ------------------------------------------------------------------------------------------- where something is not zero


# One program owns BLOCK elements of a mask and writes the coordinates of those set, in order, behind those of all
# blocks before it. Reads each element once; writes RANK int64 for each one set.
@jit
def nonzero_kernel(out, mask, sums, n, shape, RANK: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_set = tl.load(mask + i, mask=i < n, other=0).to(tl.int64)
    place = tl.load(sums + tl.program_id(0)) + tl.cumsum(is_set, 0) - is_set
    rest = i
    for d in tl.static_range(RANK - 1, -1, -1):
        tl.store(out + place * RANK + d, rest % shape[d], mask=is_set != 0)
        rest = rest // shape[d]


def nonzero(input: DeviceArray) -> DeviceArray:
    """The coordinates of elements that are not 0, (count, ndim) in int64. The count is read on the host."""
    mask = empty(input.shape, _BOOL, input.device)
    pointwise.run(_is_set, mask, (input,), (None,))
    flat = DeviceArray(mask.ptr, (mask.size,), (1,), mask.dtype, mask.device, mask.owner)
    if not mask.size:
        return empty((0, input.ndim), _INT64, input.device)
    sums = block_sums(flat)
    count = total(sums, mask.size)
    out = empty((count, input.ndim), _INT64, input.device)
    if input.ndim:
        launch(nonzero_kernel, (cdiv(mask.size, BLOCK),), out, mask, sums, mask.size, input.shape, RANK=input.ndim,
               BLOCK=BLOCK)  # fmt: skip
    return out


@jit
def _is_set(x):
    return x != 0


def total(sums: DeviceArray, most: int) -> int:
    """The last of the prefix sums, read on the host; ``most`` where nothing is run, so that what follows compiles."""
    return most if sums.device.compile_only else int(to_host(sums[sums.size - 1]))


# One program owns the elements of one run of BLOCK outputs' sources: source j is written counts[j] times.
# Reads two offsets, writes the run once.
@jit
def repeat_kernel(out, starts, BLOCK: tl.constexpr):
    j = tl.program_id(0).to(tl.int64)
    first = tl.load(starts + j)
    last = tl.load(starts + j + 1)
    for start in range(first, last, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(out + i, tl.zeros((BLOCK,), tl.int64) + j, mask=i < last)


def repeat_index(repeats: DeviceArray, output_size: int | None) -> DeviceArray:
    """[0] * repeats[0] + [1] * repeats[1] + …; the length is read on the host unless it is given."""
    if not repeats.size:
        return empty((0,), _INT64, repeats.device)
    starts = offsets(contiguous(repeats))
    n = total(starts, repeats.size) if output_size is None else output_size
    out = empty((n,), _INT64, repeats.device)
    launch(repeat_kernel, (repeats.size,), out, starts, BLOCK=128)
    return out


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
    launch(triangle_kernel, (cdiv(x.size, BLOCK),), out, x, x.size, x.shape[-2], x.shape[-1], strides[0][0], x.strides[-2],
           x.strides[-1], diagonal, UPPER=upper, BLOCK=BLOCK)  # fmt: skip


def tril(out: DeviceArray, input: DeviceArray, diagonal: int) -> None:
    """The lower triangle."""
    triangle(out, input, diagonal, False)


def triu(out: DeviceArray, input: DeviceArray, diagonal: int) -> None:
    """The upper triangle."""
    triangle(out, input, diagonal, True)


# ------------------------------------------------------------------------------------------------------------ moving


def flip(out: DeviceArray, input: DeviceArray, dims: Sequence[int]) -> None:
    """out = input with ``dims`` in reverse order."""
    pointwise.copy(out, input[tuple(slice(None, None, -1) if d in dims else slice(None) for d in range(input.ndim))])


def roll(out: DeviceArray, input: DeviceArray, shifts: Sequence[int], dims: Sequence[int]) -> None:
    """out = input moved along ``dims``, what leaves at one end coming in at the other: one copy a piece."""
    if not out.size:
        return
    pieces: list[tuple[list[slice], list[slice]]] = [([slice(None)] * out.ndim, [slice(None)] * out.ndim)]
    for d, shift in zip(dims, shifts, strict=True):
        n = out.shape[d]
        k = shift % n
        cut = [(slice(k, n), slice(0, n - k)), (slice(0, k), slice(n - k, n))] if k else [(slice(None), slice(None))]
        pieces = [
            ([*to[:d], a, *to[d + 1 :]], [*source[:d], b, *source[d + 1 :]]) for to, source in pieces for a, b in cut
        ]
    for to, source in pieces:
        pointwise.copy(out[tuple(to)], input[tuple(source)])
