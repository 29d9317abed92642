"""Sorting along a dimension: a bitonic network where a row fits one program, else a radix sort; and the k smallest.

Order is that of integers: ``_key`` maps every dtype to one of 8 to 64 bits that sorts as the numbers do, NaN last, -0
equal to 0. Equal elements stay in their order, and of equal ones the first are the smallest, so that every result here
is determined by its input. A row's elements are ``inner`` apart, and rows are numbered in C order of the other dims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib._dtypes import HALF
from tensorlib.kernels import pointwise
from tensorlib.kernels.indexing import contiguous
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)

TILE = 1024  # elements that a program sorts at a time where rows are short
LONGEST = 4096  # a longer row is sorted by several programs
CHUNK = 2048  # of a long row, from which one program takes its k smallest
BLOCK = 1024  # elements that a program of the radix sort ranks at a time
PARTS = 1024  # programs a row, of a radix sort


# ---------------------------------------------------------------------------------------------------------------- order


class Order(NamedTuple):
    """How a dtype is sorted: the width of its keys, what they are or-ed with exclusively to count from 0."""

    bits: int
    sign: int
    floating: bool


def order(dtype: np.dtype[Any]) -> Order:
    """The keys of a dtype."""
    bits = 8 * dtype.itemsize
    if dtype.kind == "b" or (dtype.kind == "u" and bits < 32):
        return Order(bits, 0, False)
    return Order(bits, -1 << bits - 1, dtype.kind == "f" or dtype in HALF)


# The place of x in the order, as a signed integer of 32 or 64 bits.
@jit
def _key(x, DESCENDING: tl.constexpr):
    width: tl.constexpr = x.dtype.primitive_bitwidth
    if x.dtype.is_floating():
        if width == 64:
            infinite: tl.constexpr = 0x7FF0000000000000
            b = x.to(tl.int64, bitcast=True)
        elif width == 32:
            infinite: tl.constexpr = 0x7F800000
            b = x.to(tl.int32, bitcast=True)
        else:
            infinite: tl.constexpr = 0x7C00 if x.dtype == tl.float16 else 0x7F80
            b = x.to(tl.int16, bitcast=True).to(tl.int32)
        largest: tl.constexpr = (1 << width - 1) - 1
        size = b & largest
        key = tl.where(b < 0, -size, size)
        key = tl.where(size > infinite, largest, key)
    elif width == 64:
        key = x.to(tl.int64, bitcast=True)
        if x.dtype.is_int_unsigned():
            key = key ^ (-1 << 63)
    elif width == 32:
        key = x.to(tl.int32, bitcast=True)
        if x.dtype.is_int_unsigned():
            key = key ^ (-1 << 31)
    else:
        key = x.to(tl.int32)
    if DESCENDING:
        key = ~key
    return key


@jit
def _row(m, N, inner):
    """The offset of row m of an array whose rows are N long."""
    return m // inner * N * inner + m % inner  # from the left: N * inner may pass 32 bits


# -------------------------------------------------------------------------------------------------------------- network


@jit
def _indicator(j: tl.constexpr, DIMS: tl.constexpr):
    return tl.reshape(tl.arange(0, 2), [1] * (DIMS - j - 1) + [2] + [1] * j)


@jit
def _lesser(a, b):
    return tl.minimum(a, b)


@jit
def _lesser_pair(a, i, b, j):
    left = (a < b) | ((a == b) & (i < j))
    return tl.where(left, a, b), tl.where(left, i, j)


# Elements 2**j apart change places where they are not in the order that flip (1: falling) asks for.
@jit
def _exchange(state, flip, j: tl.constexpr, DIMS: tl.constexpr):
    backward = (flip ^ _indicator(j, DIMS)).to(tl.int1)
    key = state[0]
    other = key ^ tl.xor_sum(key, DIMS - 1 - j, True)
    if len(state) == 1:
        result = (tl.where((key > other) != backward, other, key),)
    else:
        index = state[1]
        others = index ^ tl.xor_sum(index, DIMS - 1 - j, True)
        greater = (key > other) | ((key == other) & (index > others))
        result = (tl.where(greater != backward, other, key), tl.where(greater != backward, others, index))
    return result


@jit
def _merge(state, stage: tl.constexpr, rising: tl.constexpr, DIMS: tl.constexpr):
    if rising:
        flip = 0
    else:
        flip = _indicator(stage, DIMS)
    for j in tl.static_range(stage):
        state = _exchange(state, flip, stage - 1 - j, DIMS)
    return state


# The 2**LOG_K smallest of each row of 2**LOG_N, in order; rows are the slow dimension of a hypercube of DIMS dimensions
# of size 2. state: (keys,), or (keys, what breaks ties). Batcher 1968; the k smallest: Shanbhag, Pirahadesh and Madden
# 2018, who halve what is left by comparing runs of k sorted in opposite directions.
@jit
def smallest(state, LOG_K: tl.constexpr, LOG_N: tl.constexpr, LOG_M: tl.constexpr):
    cube = ()
    for k in tl.static_range(len(state)):
        cube = cube + (tl.reshape(state[k], [2] * (LOG_M + LOG_N)),)
    for stage in tl.static_range(1, LOG_K + 1):
        cube = _merge(cube, stage, stage == LOG_N, LOG_M + LOG_N)
    for stage in tl.static_range(LOG_K + 1, LOG_N + 1):
        if len(state) == 1:
            cube = (tl.reduce(cube[0], LOG_M + LOG_N - stage, _lesser),)
        else:
            cube = tl.reduce(cube, LOG_M + LOG_N - stage, _lesser_pair)
        cube = _merge(cube, LOG_K, stage == LOG_N, LOG_M + LOG_N - stage + LOG_K)
    flat = ()
    for k in tl.static_range(len(state)):
        flat = flat + (tl.reshape(cube[k], [1 << LOG_M, 1 << LOG_K]),)
    return flat


# One program owns 2**LOG_M rows and, of each, 2**LOG_N elements, of which it sorts the 2**LOG_K smallest by key and
# index. FIRST: x are numbers; else x are candidates that programs before it left, a row of N of them, with their
# indices in `at` where they are not packed in one number with the key. LAST: writes values and indices of the elements
# of ranks 0 … K - 1, or of the one rank that PICK names ("kth": arg; "median", "nanmedian": a row's own); else writes K
# candidates a row. Reads x once (and again what it writes); nothing else but the result is written.
@jit
def rows_kernel(
    values, indices, x, at, source, M, N, width, inner, parts, K, arg,
    PACK: tl.constexpr, DESCENDING: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, PICK: tl.constexpr,
    LOG_M: tl.constexpr, LOG_N: tl.constexpr, LOG_K: tl.constexpr,
):  # fmt: skip
    m = (tl.program_id(0) // parts).to(tl.int64) * (1 << LOG_M) + tl.arange(0, 1 << LOG_M)
    part = tl.program_id(0) % parts
    n = part.to(tl.int64) * (1 << LOG_N) + tl.arange(0, 1 << LOG_N)
    mask = (m < M)[:, None] & (n < N)[None, :]
    if FIRST:
        v = tl.load(x + _row(m, N, inner)[:, None] + (n * inner)[None, :], mask=mask, other=0)
        key = _key(v, DESCENDING)
        index = n[None, :] + tl.zeros_like(key).to(tl.int64)
        if PACK == 32:
            state = (tl.where(mask, key << 16 | index.to(tl.int32), 0x7FFFFFFF),)
        elif PACK == 64:
            state = (tl.where(mask, key.to(tl.int64) << 32 | index, 0x7FFFFFFFFFFFFFFF),)
        else:
            key = key.to(tl.int64)
            state = (tl.where(mask, key, 0x7FFFFFFFFFFFFFFF), tl.where(mask, index, 0x7FFFFFFFFFFFFFFF))
    else:
        from_ = (m * N)[:, None] + n[None, :]
        if PACK == 0:
            state = (
                tl.load(x + from_, mask=mask, other=0x7FFFFFFFFFFFFFFF),
                tl.load(at + from_, mask=mask, other=0x7FFFFFFFFFFFFFFF),
            )
        else:
            state = (tl.load(x + from_, mask=mask, other=0x7FFFFFFF if PACK == 32 else 0x7FFFFFFFFFFFFFFF),)
    state = smallest(state, LOG_K, LOG_N, LOG_M)
    rank = tl.arange(0, 1 << LOG_K)
    if LAST:
        if PACK == 32:
            index = (state[0] & 0xFFFF).to(tl.int64)
        elif PACK == 64:
            index = state[0] & 0xFFFFFFFF
        else:
            index = state[1]
        if PICK is None:
            kept = (m < M)[:, None] & (rank < K)[None, :]
            to = _row(m, K, inner)[:, None] + (rank * inner)[None, :]
        else:
            wanted = tl.zeros_like(m) + arg
            if PICK != "kth" and x.dtype.element_ty.is_floating():
                wanted = _middle(tl.sum((mask & (v != v)).to(tl.int32), 1), N, PICK).to(tl.int64)
            kept = (m < M)[:, None] & (rank[None, :] == wanted[:, None])
            to = m[:, None] + tl.zeros_like(index)
        found = tl.load(source + _row(m, width, inner)[:, None] + index * inner, mask=kept)
        tl.store(values + to, found, mask=kept)
        tl.store(indices + to, index.to(indices.dtype.element_ty), mask=kept)
    else:
        to = (m * (parts * K))[:, None] + (part * K + rank)[None, :]
        kept = (m < M)[:, None] & (rank < K)[None, :]
        tl.store(values + to, state[0], mask=kept)
        if PACK == 0:
            tl.store(indices + to, state[1], mask=kept)


# The rank of the median of N numbers of which some are NaN: that of the first NaN, or of the middle of the others.
@jit
def _middle(nans, N, PICK: tl.constexpr):
    if PICK == "median":
        rank = tl.where(nans > 0, N - nans, (N - 1) // 2)
    else:
        rank = tl.maximum(N - nans - 1, 0) // 2
    return rank


class Rows(NamedTuple):
    """An array as rows along a dimension: M of N elements, ``inner`` apart; ``array`` is contiguous."""

    array: DeviceArray
    M: int
    N: int
    inner: int


def rows_along(x: DeviceArray, dim: int) -> Rows:
    """x as rows along dim, copied where it is not contiguous."""
    N = x.shape[dim]
    inner = 1
    for n in x.shape[dim + 1 :]:
        inner *= n
    return Rows(contiguous(x), x.size // N if N else 0, N, inner)


def flat(x: DeviceArray) -> DeviceArray:
    """All elements of x in C order, as one row."""
    x = contiguous(x)
    return DeviceArray(x.ptr, (x.size,), (1,), x.dtype, x.device, x.owner)


def _pack(keys: Order, N: int) -> int:
    """The bits of the number that holds both a key and an index below N; 0 where there is none."""
    if keys.bits == 64 or N >= 1 << 32:
        return 0
    return 32 if keys.bits <= 16 and N < 1 << 16 and (keys.bits < 16 or keys.sign) else 64


def log2(n: int) -> int:
    """The exponent of the smallest power of two that is at least n."""
    return max(n - 1, 0).bit_length()


def longest(keys: Order, N: int) -> int:
    """The longest row that one program sorts, of those with N elements."""
    return LONGEST if _pack(keys, N) else LONGEST // 2


def network(
    values: DeviceArray, indices: DeviceArray, x: Rows, K: int, descending: bool, pick: str | None = None, arg: int = 0
) -> None:
    """values, indices = the K first of each row in order (a rank that ``pick`` names): in one launch where rows are
    short, else from candidates of CHUNK elements at a time."""
    device, keys = x.array.device, order(x.array.dtype)
    pack = _pack(keys, x.N)
    source, at, N, first = x.array, None, x.N, True
    data = x.array
    while True:
        last = N <= longest(keys, x.N)
        log_n = max(log2(N if last else CHUNK), 1)
        log_k = log_n if pick is not None else max(log2(K), 1)
        log_m = min(max(log2(TILE) - log_n, 0), log2(x.M))
        parts = 1 if last else cdiv(N, CHUNK)
        kind = _INT32 if pack == 32 else _INT64
        to, to_index = values, indices
        if not last:
            to = empty((x.M, parts * K), kind, device)
            to_index = at if pack else empty((x.M, parts * K), _INT64, device)
        launch(
            rows_kernel, (cdiv(x.M, 1 << log_m) * parts,), to, to_index, data, at, source, x.M, N, x.N, x.inner, parts,
            K, arg, PACK=pack, DESCENDING=descending, FIRST=first, LAST=last, PICK=pick, LOG_M=log_m, LOG_N=log_n,
            LOG_K=log_k, num_warps=8 if log_n + log_m > 10 else 4,
        )  # fmt: skip
        if last:
            return
        data, at, N, first = to, to_index, parts * K, False


# -------------------------------------------------------------------------------------------------------------- radix


# Eight bits of x's place in the order, counted from 0.
@jit
def _digit(x, shift, DESCENDING: tl.constexpr, SIGN: tl.constexpr):
    return (((_key(x, DESCENDING) ^ SIGN) >> shift) & 255).to(tl.int32)


# One program owns one row's elements part * chunk … and counts their digits, BLOCK at a time: reads x once, writes 256
# counts.
@jit(do_not_specialize=("shift",))
def digit_count_kernel(
    counts, x, N, inner, chunk, parts, shift, DESCENDING: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr
):
    row = (tl.program_id(0) // parts).to(tl.int64)
    start = (tl.program_id(0) % parts).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, N)
    total = tl.zeros((256,), tl.int32)
    for begin in range(start, stop, BLOCK):
        n = begin + tl.arange(0, BLOCK)
        v = tl.load(x + (_row(row, N, inner) + n * inner), mask=n < stop, other=0)
        total += tl.histogram(_digit(v, shift, DESCENDING, SIGN), 256, mask=n < stop)
    digit = tl.arange(0, 256)
    to = counts + tl.program_id(0).to(tl.int64) * 256 + digit
    tl.store(to, total.to(counts.dtype.element_ty))


# One program owns DIGITS digits of a row: turns their counts in each of the row's parts into exclusive sums over the
# parts, and writes the totals. Reads and writes every count once.
@jit
def digit_sum_kernel(totals, counts, parts, DIGITS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // (256 // DIGITS)).to(tl.int64)
    digit = tl.program_id(0) % (256 // DIGITS) * DIGITS + tl.arange(0, DIGITS)
    total = tl.zeros((DIGITS,), counts.dtype.element_ty)
    for begin in range(0, parts, BLOCK):
        part = begin + tl.arange(0, BLOCK)
        at = counts + ((row * parts + part) * 256)[:, None] + digit[None, :]
        mask = (part < parts)[:, None] & (digit < 256)[None, :]
        c = tl.load(at, mask=mask, other=0)
        tl.debug_barrier()  # several threads may hold the same count: all read before one writes
        tl.store(at, total[None, :] + tl.cumsum(c, 0) - c, mask=mask)
        total += tl.sum(c, 0)
    tl.store(totals + row * 256 + digit, total)


# One program owns one row's elements part * chunk … and moves each behind those of smaller digits and those of its own
# digit before it: ranks BLOCK at a time by sorting (digit, lane), so that neighbours in the result are written
# together. FIRST: indices are positions; LAST: the rows of the result are `inner` apart, the indices int64.
# Reads and writes each element and its index once. Satish, Harris and Garland 2009.
@jit(do_not_specialize=("shift",))
def digit_move_kernel(
    values, indices, x, at, counts, totals, N, inner, to_inner, chunk, parts, shift,
    DESCENDING: tl.constexpr, SIGN: tl.constexpr, FIRST: tl.constexpr, LOG_BLOCK: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = 1 << LOG_BLOCK
    row = (tl.program_id(0) // parts).to(tl.int64)
    start = (tl.program_id(0) % parts).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, N)
    digit = tl.arange(0, 256)
    total = tl.load(totals + row * 256 + digit)
    place = tl.cumsum(total, 0) - total + tl.load(counts + tl.program_id(0).to(tl.int64) * 256 + digit)
    lane = tl.arange(0, BLOCK)
    from_ = _row(row, N, inner)
    to = _row(row, N, to_inner)
    for begin in range(start, stop, BLOCK):
        mask = begin + lane < stop
        v = tl.load(x + (from_ + (begin + lane) * inner), mask=mask, other=0)
        d = _digit(v, shift, DESCENDING, SIGN)
        here = tl.histogram(d, 256, mask=mask).to(place.dtype)
        pairs = tl.where(mask, d, 256) << LOG_BLOCK | lane
        ranked = tl.reshape(smallest((pairs,), LOG_BLOCK, LOG_BLOCK, 0)[0], [BLOCK])
        d = ranked >> LOG_BLOCK
        n = begin + (ranked & (BLOCK - 1))
        mask = d < 256
        goal = tl.gather(place - (tl.cumsum(here, 0) - here), tl.minimum(d, 255), 0) + lane
        v = tl.load(x + (from_ + n * inner), mask=mask)
        if FIRST:
            i = n
        else:
            i = tl.load(at + row * N + n, mask=mask)
        goal = to + goal.to(tl.int64) * to_inner
        tl.store(values + goal, v, mask=mask)
        tl.store(indices + goal, i.to(indices.dtype.element_ty), mask=mask)
        place += here


def _radix(values: DeviceArray, indices: DeviceArray, x: Rows, descending: bool, bits: int = 0) -> None:
    """values, indices = each row in order: three launches for each eight bits of the keys, the least first.

    ``bits``: how many of the lowest differ, where not all do.
    """
    device, keys = x.array.device, order(x.array.dtype)
    # The last pass writes the result; all others go between two scratch arrays.
    parts = min(cdiv(x.N, BLOCK), PARTS)
    chunk = cdiv(cdiv(x.N, parts), BLOCK) * BLOCK
    parts = cdiv(x.N, chunk)
    wide = _INT64 if x.N >= 1 << 31 else _INT32
    counts = empty((x.M, parts, 256), wide, device)
    totals = empty((x.M, 256), wide, device)
    passes = cdiv(bits or keys.bits, 8)
    common = dict(DESCENDING=descending, SIGN=keys.sign)
    scratch = [
        (empty((x.M, x.N), x.array.dtype, device), empty((x.M, x.N), wide, device)) for _ in range(min(passes - 1, 2))
    ]
    data, at, inner = x.array, None, x.inner
    for p in range(passes):
        last = p == passes - 1
        to, to_index = (values, indices) if last else scratch[p % 2]
        launch(digit_count_kernel, (x.M * parts,), counts, data, x.N, inner, chunk, parts, 8 * p, BLOCK=BLOCK, **common)
        launch(
            digit_sum_kernel, (x.M * 32,), totals, counts, parts, DIGITS=8,
            BLOCK=min(max(next_power_of_2(parts), 2), 128),
        )  # fmt: skip
        launch(
            digit_move_kernel, (x.M * parts,), to, to_index, data, at, counts, totals, x.N, inner,
            x.inner if last else 1, chunk, parts, 8 * p, FIRST=p == 0, LOG_BLOCK=log2(BLOCK), **common,
        )  # fmt: skip
        data, at, inner = to, to_index, 1


# ------------------------------------------------------------------------------------------------------ host functions


def sort(
    values: DeviceArray, indices: DeviceArray, input: DeviceArray, dim: int, descending: bool, stable: Any = True
) -> None:
    """values, indices = input in order along dim, equal elements in theirs."""
    if not input.size:
        return
    x = rows_along(input, dim)
    if x.N <= longest(order(input.dtype), x.N):
        network(values, indices, x, x.N, descending)
    else:
        _radix(values, indices, x, descending)


def sort_keys(values: DeviceArray, indices: DeviceArray, keys: DeviceArray, limit: int) -> None:
    """values, indices = the integers 0 <= keys < limit of a vector in order; indices may be int32."""
    x = Rows(keys, 1, keys.size, 1)
    if x.N <= BLOCK:
        network(values, indices, x, x.N, False)
    else:
        _radix(values, indices, x, False, max(limit - 1, 1).bit_length())


def topk(
    values: DeviceArray, indices: DeviceArray, input: DeviceArray, k: int, dim: int, largest: bool, sorted: bool = True
) -> None:
    """values, indices = the k largest (smallest) along dim, the best first, of equal ones those of the least index."""
    if not values.size:
        return
    x = rows_along(input, dim)
    if 4 * k <= CHUNK or x.N <= longest(order(input.dtype), x.N):
        network(values, indices, x, k, largest)
        return
    all_values = empty(input.shape, input.dtype, input.device)
    all_indices = empty(input.shape, _INT64, input.device)
    _radix(all_values, all_indices, x, largest)
    front = (*(slice(None),) * dim, slice(0, k))
    pointwise.copy(values, all_values[front])
    pointwise.copy(indices, all_indices[front])
