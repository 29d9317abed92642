"""Adding (or multiplying) rows into the places that keys name, in a fixed order: by sorting the keys.

Equal keys stand together after a stable radix sort: a segment, whose rows are joined in the order they came in. So the
same input gives the same bits, at O(n) for n rows (a pass of the sort for each eight bits of the keys), however often a
key repeats: of long segments whole chunks are joined first, by programs of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib._dtypes import HALF
from tensorlib.kernels.sorting import sort_keys
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_INT32 = np.dtype(np.int32)
_FLOAT32 = np.dtype(np.float32)

NARROW = 24  # rows with fewer elements than this are joined one element a lane
BLOCK = 256  # lanes of a program, of narrow rows
ROWS = 8  # wide rows that a program reads at a time
SHORTEST_CHUNK = 64


@jit
def _times(a, b):
    return a * b


@jit
def _joined(x, OP: tl.constexpr):
    if OP == "add":
        result = tl.sum(x, 0)
    else:
        result = tl.reduce(x, 0, _times)
    return result


# One program owns BLOCK_N columns of the rows chunk * c …: where all of them have one key, their sum (or product) goes
# to partials[c]. Reads two keys, and the rows once if they belong together.
@jit
def chunk_kernel(
    partials, y, keys, order, N, chunk,
    OP: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    c = tl.program_id(0) // tiles_n
    n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    first = c * chunk
    if tl.load(keys + first) == tl.load(keys + first + chunk - 1):
        identity: tl.constexpr = 0 if OP == "add" else 1
        acc = tl.full((BLOCK_M, BLOCK_N), identity, ACC)
        for start in range(first, first + chunk, BLOCK_M):
            i = tl.load(order + start + tl.arange(0, BLOCK_M)).to(tl.int64)
            v = tl.load(y + i[:, None] * N + n[None, :], mask=(n < N)[None, :], other=identity).to(ACC)
            if OP == "add":
                acc += v
            else:
                acc *= v
        tl.store(partials + c.to(tl.int64) * N + n, _joined(acc, OP), mask=n < N)


# The address in x that a key stands for: it counts in C order over `sizes`, of dimensions that lie `strides` apart.
@jit
def _place(key, sizes, strides, RANK: tl.constexpr):
    at = tl.zeros_like(key).to(tl.int64)
    rest = key.to(tl.int64)
    for d in tl.static_range(RANK - 1, 0, -1):
        at += rest % sizes[d] * strides[d]
        rest = rest // sizes[d]
    return at + rest * strides[0]


# How many of the sorted keys from low to high equal `key`, as the place where the next one begins.
@jit
def _end(keys, key, low, high, mask, steps):
    for _ in range(0, steps):
        middle = low + ((high - low) >> 1)
        same = (tl.load(keys + middle, mask=mask & (low < high), other=0) == key) & (low < high)
        high = tl.where(same, high, tl.maximum(middle, low))
        low = tl.where(same, middle + 1, low)
    return low


# acc joined with the rows from low to high of y, BLOCK_M at a time: those that `order` names, or in their own order.
@jit
def _rows(acc, y, order, low, high, n, N, OP: tl.constexpr, BLOCK_M: tl.constexpr):
    for start in range(low, high, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        i = m.to(tl.int64)
        if order is not None:
            i = tl.load(order + m, mask=m < high, other=0).to(tl.int64)
        identity: tl.constexpr = 0 if OP == "add" else 1
        v = tl.load(y + i[:, None] * N + n[None, :], mask=(m < high)[:, None] & (n < N)[None, :], other=identity)
        if OP == "add":
            acc += v.to(acc.dtype)
        else:
            acc *= v.to(acc.dtype)
    return acc


# One program owns the segment that begins at one place of the sorted keys, if one does, and BLOCK_N of its columns:
# joins its rows, BLOCK_M at a time, whole chunks of them by what `chunk_kernel` left, into x: x += (or *=) the result,
# or, for FRESH, x = the result. SCALE: divided by the number of rows. Rows of the key `skip` are left out.
# Reads each row once, and the row of x; writes the row of x.
@jit
def segment_kernel(
    x, y, keys, order, partials, M, N, chunk, steps, skip, sizes, strides, shape, row_strides,
    OP: tl.constexpr, FRESH: tl.constexpr, SCALE: tl.constexpr, ACC: tl.constexpr, RANK: tl.constexpr,
    ROW_RANK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    first = tl.program_id(0) // tiles_n
    key = tl.load(keys + first)
    begins = (first == 0) | (tl.load(keys + tl.maximum(first - 1, 0)) != key)
    if begins & (key != skip):
        n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
        near = first + tl.arange(0, 32)
        last = first + tl.sum((tl.load(keys + near, mask=near < M, other=-1) == key).to(tl.int32), 0)
        if last == first + 32:
            last = _end(keys, key, last, M, last < M, steps)
        identity: tl.constexpr = 0 if OP == "add" else 1
        acc = tl.full((BLOCK_M, BLOCK_N), identity, ACC)
        rest = first
        if partials is not None:
            begin = tl.cdiv(first, chunk)
            acc = _rows(acc, y, order, first, tl.minimum(begin * chunk, last), n, N, OP, BLOCK_M)
            end = tl.maximum(last // chunk, begin)
            acc = _rows(acc, partials, None, begin, end, n, N, OP, BLOCK_M)
            rest = end * chunk
        acc = _rows(acc, y, order, rest, last, n, N, OP, BLOCK_M)
        total = _joined(acc, OP)
        if SCALE:
            total = total / (last - first).to(ACC)
        at = x + _place(key, sizes, strides, RANK) + _place(n, shape, row_strides, ROW_RANK)
        if not FRESH:
            v = tl.load(at, mask=n < N, other=0).to(ACC)
            if OP == "add":
                total = v + total
            else:
                total = v * total
        tl.store(at, tl.cast(total, x.dtype.element_ty), mask=n < N)


# The same for rows of few elements: each lane owns one element of a segment, if one begins at its place. A step joins
# one row, or one whole chunk; a program ends with the longest of its segments.
@jit
def narrow_segment_kernel(
    x, y, keys, order, partials, M, N, chunk, steps, skip, sizes, strides, shape, row_strides,
    OP: tl.constexpr, FRESH: tl.constexpr, SCALE: tl.constexpr, ACC: tl.constexpr, RANK: tl.constexpr,
    ROW_RANK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = lane // N
    n = lane % N
    key = tl.load(keys + first, mask=first < M, other=0)
    before = tl.load(keys + first - 1, mask=(first > 0) & (first < M), other=0)
    owned = (first < M) & ((first == 0) | (before != key)) & (key != skip)
    last = tl.where(owned, _end(keys, key, first + 1, tl.zeros_like(first) + M, owned, steps), first)
    identity: tl.constexpr = 0 if OP == "add" else 1
    acc = tl.full((BLOCK,), identity, ACC)
    rounds = last - first
    if partials is not None:
        begin = tl.cdiv(first, chunk)
        rounds -= (tl.maximum(last // chunk, begin) - begin) * (chunk - 1)
    at = first
    for _ in range(0, tl.max(tl.where(owned, rounds, 0), 0)):
        open = owned & (at < last)
        single = open
        if partials is not None:
            whole = open & (at % chunk == 0) & (at + chunk <= last)
            single = open & (whole == 0)
        i = tl.load(order + at, mask=single, other=0).to(tl.int64)
        v = tl.load(y + i * N + n, mask=single, other=identity).to(ACC)
        at += 1
        if partials is not None:
            v = tl.where(whole, tl.load(partials + (at - 1) // chunk * N + n, mask=whole, other=identity), v)
            at = tl.where(whole, at - 1 + chunk, at)
        if OP == "add":
            acc += v
        else:
            acc *= v
    if SCALE:
        acc = acc / tl.maximum(last - first, 1).to(ACC)
    to = x + _place(key, sizes, strides, RANK) + _place(n, shape, row_strides, ROW_RANK)
    if not FRESH:
        v = tl.load(to, mask=owned, other=0).to(ACC)
        if OP == "add":
            acc = v + acc
        else:
            acc = v * acc
    tl.store(to, tl.cast(acc, x.dtype.element_ty), mask=owned)


def chunk_of(rows: int) -> int:
    """How many rows of a long segment are joined by a program of their own: about √rows, so both stages are short."""
    return max(next_power_of_2(math.isqrt(rows)) // 2, SHORTEST_CHUNK)


def join(
    x: DeviceArray,
    keys: DeviceArray,
    rows: DeviceArray,
    places: Sequence[tuple[int, int]],
    row: Sequence[tuple[int, int]],
    *,
    op: str = "add",
    fresh: bool = False,
    scale: bool = False,
    skip: int = -1,
) -> None:
    """x[keys[i]] += rows[i] (op "mul": *=) in the order of i: keys (M,), rows (M, N), contiguous.

    ``places``: (size, stride) of each dimension of x that a key counts over, in C order; ``row``: those of a row.
    ``fresh``: x holds the identity. ``scale`` divides by how many rows a key has; the key ``skip`` is left out.
    """
    M, N = keys.size, rows.size // max(keys.size, 1)
    if not M or not N:
        return
    order = empty((M,), _INT32 if M < 1 << 31 else np.dtype(np.int64), x.device)
    ordered = empty((M,), keys.dtype, x.device)
    sort_keys(ordered, order, keys, math.prod(size for size, _ in places))
    acc = _FLOAT32 if x.dtype in HALF else x.dtype if x.dtype.itemsize >= 4 and x.dtype.kind in "fi" else _INT32
    chunk, partials = chunk_of(M), None
    wide = N >= NARROW
    block_n = next_power_of_2(N) if N <= 512 else 512 if N % 512 == 0 else 256
    num_warps = max(1, min(4, block_n * x.dtype.itemsize // 512)) if wide else 4  # 16 bytes a lane
    if chunk * 2 <= M:
        partials = empty((M // chunk, N), acc, x.device)
        launch(
            chunk_kernel, (M // chunk * cdiv(N, block_n),), partials, rows, ordered, order, N, chunk, OP=op, ACC=acc,
            BLOCK_M=ROWS if wide else max(SHORTEST_CHUNK // block_n, 2), BLOCK_N=block_n, num_warps=num_warps,
        )  # fmt: skip
    sizes, strides = [tuple(t) for t in zip(*places, strict=True)]
    shape, row_strides = [tuple(t) for t in zip(*(row or [(1, 1)]), strict=True)]
    arguments = (x, rows, ordered, order, partials, M, N, chunk, M.bit_length(), skip)
    arguments = (*arguments, sizes, strides, shape, row_strides)
    how = dict(OP=op, FRESH=fresh, SCALE=scale, ACC=acc, RANK=len(sizes), ROW_RANK=len(shape))
    if wide:
        launch(
            segment_kernel, (M * cdiv(N, block_n),), *arguments, **how, BLOCK_M=ROWS, BLOCK_N=block_n,
            num_warps=num_warps,
        )  # fmt: skip
    else:
        launch(narrow_segment_kernel, (cdiv(M * N, BLOCK),), *arguments, **how, BLOCK=BLOCK)
