"""The element of a given rank in each row: the k-th smallest, and medians.

Rows that fit one program are sorted there. In longer ones the key is found eight bits at a time, from the highest: of
the elements that share the bits found so far, count those of each digit, and see which digit holds the rank. So the
row is read once for each eight bits, and nothing is moved. Alabi et al. 2012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import create, sorting
from tensorlib.kernels.sorting import BLOCK, PARTS, _digit, _key, _middle, _row
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


# x's place in the order, counted from 0.
@jit
def _place(x, BITS: tl.constexpr, SIGN: tl.constexpr):
    place = (_key(x, False) ^ SIGN).to(tl.int64).to(tl.uint64, bitcast=True)
    if BITS < 64:
        place = place & ((1 << BITS) - 1)
    return place


# One program owns one row's elements part * chunk … and counts the digits of those whose keys agree with the row's
# `found` above shift + 8 (FIRST: of all), and NaNs with NANS. Reads x once, writes 256 counts, or 257.
@jit(do_not_specialize=("shift",))
def select_count_kernel(
    counts, nans, x, found, N, inner, chunk, parts, shift,
    BITS: tl.constexpr, SIGN: tl.constexpr, FIRST: tl.constexpr, NANS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // parts).to(tl.int64)
    start = (tl.program_id(0) % parts).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, N)
    total = tl.zeros((256,), tl.int32)
    is_nan = tl.zeros((BLOCK,), tl.int32)
    if not FIRST:
        prefix = tl.load(found + row).to(tl.uint64, bitcast=True)
    for begin in range(start, stop, BLOCK):
        n = begin + tl.arange(0, BLOCK)
        mask = n < stop
        v = tl.load(x + (_row(row, N, inner) + n * inner), mask=mask, other=0)
        if NANS:
            is_nan += (mask & (v != v)).to(tl.int32)
        if not FIRST:
            mask = mask & ((_place(v, BITS, SIGN) >> (shift + 8)) == prefix)
        total += tl.histogram(_digit(v, shift, False, SIGN), 256, mask=mask)
    program = tl.program_id(0).to(tl.int64)
    tl.store(counts + program * 256 + tl.arange(0, 256), total)
    if NANS:
        tl.store(nans + program, tl.sum(is_nan))


# One program owns one row: adds up the parts' counts and appends the digit that holds the rank to `found`; `rest` is
# the rank among the elements that agree so far. FIRST: both begin here. Reads 256 counts a part.
@jit
def select_digit_kernel(
    found, rest, counts, nans, N, parts, arg, PICK: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    digit = tl.arange(0, 256)
    total = tl.zeros((256,), tl.int64)
    is_nan = tl.zeros((BLOCK,), tl.int64)
    for begin in range(0, parts, BLOCK):
        part = begin + tl.arange(0, BLOCK)
        at = row * parts + part
        here = part < parts
        counted = tl.load(counts + (at * 256)[:, None] + digit[None, :], mask=here[:, None], other=0)
        total += tl.sum(counted.to(tl.int64), 0)
        if FIRST and nans is not None:
            is_nan += tl.load(nans + at, mask=here, other=0).to(tl.int64)
    if not FIRST:
        rank = tl.load(rest + row)
        prefix = tl.load(found + row)
    else:
        prefix = tl.full((), 0, tl.int64)
        if nans is not None:
            rank = _middle(tl.sum(is_nan), N, PICK).to(tl.int64)
        else:
            rank = prefix + arg
    before = tl.cumsum(total, 0) - total
    holds = (before <= rank) & (rank < before + total)
    tl.store(found + row, prefix * 256 + tl.sum(tl.where(holds, digit, 0)))
    tl.store(rest + row, rank - tl.sum(tl.where(holds, before, 0)))


# One program owns one row's elements part * chunk … and lowers the row's index to that of its first element whose key
# is the one found. Reads x once; atomics of integers, whose order does not show.
@jit
def select_find_kernel(
    indices, x, found, N, inner, chunk, parts, BITS: tl.constexpr, SIGN: tl.constexpr, BLOCK: tl.constexpr
):
    row = (tl.program_id(0) // parts).to(tl.int64)
    start = (tl.program_id(0) % parts).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, N)
    wanted = tl.load(found + row).to(tl.uint64, bitcast=True)
    least = tl.full((BLOCK,), 0x7FFFFFFFFFFFFFFF, tl.int64)
    for begin in range(start, stop, BLOCK):
        n = begin + tl.arange(0, BLOCK)
        mask = n < stop
        v = tl.load(x + (_row(row, N, inner) + n * inner), mask=mask, other=0)
        same = mask & (_place(v, BITS, SIGN) == wanted)
        least = tl.where(same, tl.minimum(least, n.to(tl.int64)), least)
    first = tl.min(least)
    tl.atomic_min(indices + row, first, mask=first < N, sem="relaxed")


# One program copies the chosen elements of BLOCK rows.
@jit
def select_value_kernel(values, indices, x, M, N, inner, BLOCK: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    i = tl.load(indices + m, mask=m < M, other=0)
    tl.store(values + m, tl.load(x + (_row(m, N, inner) + i * inner), mask=m < M), mask=m < M)


def _select(values: DeviceArray, indices: DeviceArray, x: sorting.Rows, pick: str, k: int) -> None:
    """values, indices = the element of each row at the rank k, or its median (k: that of no NaN)."""
    device, keys = x.array.device, sorting.order(x.array.dtype)
    if x.N <= sorting.longest(keys, x.N):
        sorting.network(values, indices, x, x.N, False, pick, k)
        return
    parts = min(cdiv(x.N, BLOCK), max(PARTS // 4, 1))
    chunk = cdiv(cdiv(x.N, parts), BLOCK) * BLOCK
    parts = cdiv(x.N, chunk)
    counts = empty((x.M, parts, 256), _INT32, device)
    of_nan = pick != "kth" and keys.floating
    nans = empty((x.M, parts), _INT32, device) if of_nan else None
    found, rest = empty((x.M,), _INT64, device), empty((x.M,), _INT64, device)
    for shift in range(keys.bits - 8, -1, -8):
        first = shift == keys.bits - 8
        launch(
            select_count_kernel, (x.M * parts,), counts, nans if first else None, x.array, found, x.N, x.inner, chunk,
            parts, shift, BITS=keys.bits, SIGN=keys.sign, FIRST=first, NANS=of_nan and first, BLOCK=BLOCK,
        )  # fmt: skip
        launch(
            select_digit_kernel, (x.M,), found, rest, counts, nans if first else None, x.N, parts, k, PICK=pick,
            FIRST=first, BLOCK=min(max(next_power_of_2(parts), 2), 16),
        )  # fmt: skip
    create.full(indices, None, x.N, None, None)
    launch(
        select_find_kernel, (x.M * parts,), indices, x.array, found, x.N, x.inner, chunk, parts, BITS=keys.bits,
        SIGN=keys.sign, BLOCK=BLOCK,
    )  # fmt: skip
    launch(
        select_value_kernel, (cdiv(x.M, 128),), values, indices, x.array, x.M, x.N, x.inner, BLOCK=128
    )  # fmt: skip


def kthvalue(values: DeviceArray, indices: DeviceArray, input: DeviceArray, k: int, dim: int, keepdim: bool) -> None:
    """values, indices = the k-th smallest along dim, counted from 1; of equal ones the first."""
    if values.size:
        _select(values, indices, sorting.rows_along(input, dim), "kth", k - 1)


def median(values: DeviceArray, indices: DeviceArray, input: DeviceArray, dim: int, keepdim: bool) -> None:
    """values, indices = the lower median along dim, or its first NaN."""
    if values.size:
        _select(values, indices, sorting.rows_along(input, dim), "median", (input.shape[dim] - 1) // 2)


def nanmedian(values: DeviceArray, indices: DeviceArray, input: DeviceArray, dim: int, keepdim: bool) -> None:
    """values, indices = the lower median along dim of what is not NaN."""
    if values.size:
        _select(values, indices, sorting.rows_along(input, dim), "nanmedian", (input.shape[dim] - 1) // 2)


def _of_all(out: DeviceArray, input: DeviceArray, pick: str) -> None:
    if not input.size:  # what a conversion of NaN gives: the least int32 or int64, whose low bits are 0
        least = np.iinfo(out.dtype).min if out.dtype.kind == "i" and out.itemsize > 2 else 0
        create.full(out, None, float("nan") if sorting.order(out.dtype).floating else least, None, None)
        return
    index = empty((1,), _INT64, out.device)
    x = sorting.rows_along(sorting.flat(input), 0)
    _select(out, index, x, pick, (input.size - 1) // 2)


def median_of_all(out: DeviceArray, input: DeviceArray) -> None:
    """out = the lower median of all elements, NaN where there is one."""
    _of_all(out, input, "median")


def nanmedian_of_all(out: DeviceArray, input: DeviceArray) -> None:
    """out = the lower median of the elements that are not NaN."""
    _of_all(out, input, "nanmedian")
