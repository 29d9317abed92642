"""Places in sorted rows by binary search, membership, the distinct elements and the most frequent one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import create, pointwise, prefix, sorting
from tensorlib.kernels.indexing import CHECKED, contiguous, gather, rows
from tensorlib.kernels.prefix import block_sums, total
from tensorlib.kernels.sorting import _row
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_INT64, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)


# ---------------------------------------------------------------------------------------------------------- searching


# x as what a GPU compares: half types in float32, bools as integers.
@jit
def _comparable(x):
    if x.dtype.is_floating() and x.dtype.primitive_bitwidth < 32:
        y = x.to(tl.float32)
    elif x.dtype.primitive_bitwidth < 32:
        y = x.to(tl.int32)
    else:
        y = x
    return y


# How many of the n numbers of a sorted row come before x: for SIDE "left" those that are not equal or larger, "right"
# not larger (NaN is neither), "first" those smaller, where NaN is the largest. Reads one number a step.
@jit
def search(row, sorter, n, x, mask, steps, SIDE: tl.constexpr):
    low = tl.zeros(x.shape, tl.int64)
    high = low + n
    for _ in range(0, steps):
        middle = (low + high) >> 1
        open = mask & (low < high)
        at = middle
        if sorter is not None:
            at = tl.load(sorter + middle, mask=open, other=0)
            fits = (at >= 0) & (at < n)
            tl.device_assert(fits | (open == 0), "sorter index out of range")
            at = tl.where(fits, at, 0)
        v = _comparable(tl.load(row + at, mask=open, other=0))
        if SIDE == "right":
            beyond = open & ((v > x) == 0)
        elif SIDE == "left":
            beyond = open & ((v >= x) == 0)
        else:
            beyond = open & (((v >= x) | (v != v)) == 0)
        low = tl.where(beyond, middle + 1, low)
        high = tl.where(open & (beyond == 0), middle, high)
    return low


# One program finds the places of BLOCK numbers, of which the rows of sorted numbers have `count` each (0: all are of
# the one row). Reads each number once and log2(n) sorted ones, mostly from the caches; writes the place once.
@jit
def searchsorted_kernel(out, x, sequence, sorter, size, n, count, steps, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    row = tl.zeros_like(i)
    if count > 0:
        row = i // count * n
    v = _comparable(tl.load(x + i, mask=mask, other=0))
    if sorter is None:
        place = search(sequence + row, None, n, v, mask, steps, SIDE)
    else:
        place = search(sequence + row, sorter + row, n, v, mask, steps, SIDE)
    tl.store(out + i, place.to(out.dtype.element_ty), mask=mask)


def searchsorted(
    out: DeviceArray, sequence: DeviceArray, input: DeviceArray, sorter: DeviceArray | None, right: bool,
    out_int32: bool,
) -> None:  # fmt: skip
    """out = where each number of input belongs in its row of ``sequence``, which is sorted, or by ``sorter``.

    A GPU traps where an index of ``sorter`` that is read is out of range.
    """
    if not out.size:
        return
    n = sequence.shape[-1]
    launch(
        searchsorted_kernel, (cdiv(out.size, 256),), out, contiguous(input), contiguous(sequence),
        None if sorter is None else contiguous(sorter), out.size, n, input.shape[-1] if sequence.ndim > 1 else 0,
        n.bit_length(), SIDE="right" if right else "left", BLOCK=256, options=None if sorter is None else CHECKED,
    )  # fmt: skip


# One program looks BLOCK numbers up among n sorted ones.
@jit
def isin_kernel(out, x, sequence, size, n, steps, INVERT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    v = _comparable(tl.load(x + i, mask=mask, other=0))
    place = search(sequence + tl.zeros_like(i), None, n, v, mask, steps, "first")
    there = mask & (place < n)
    found = there & (_comparable(tl.load(sequence + place, mask=there, other=0)) == v)
    if INVERT:
        found = found == 0
    tl.store(out + i, found, mask=mask)


def isin(out: DeviceArray, elements: DeviceArray, test_elements: DeviceArray, invert: bool) -> None:
    """out = whether each element is among the test elements, which are sorted for it; NaN is nowhere."""
    n = test_elements.size
    if not out.size:
        return
    if not n:
        create.full(out, None, invert, None, None)
        return
    flat = sorting.flat(test_elements)
    ordered, places = empty((n,), flat.dtype, out.device), empty((n,), _INT64, out.device)
    sorting.sort(ordered, places, flat, 0, False)
    launch(
        isin_kernel, (cdiv(out.size, 256),), out, contiguous(elements), ordered, out.size, n, n.bit_length(),
        INVERT=invert, BLOCK=256,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- distinct values


# One program marks BLOCK rows of x (n, width), taken in `order`, that differ from the one before; the first does.
# Reads each element once and its neighbour from the cache, writes a byte a row.
@jit
def changes_kernel(new, x, order, n, width, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = (i > 0) & (i < n)
    here, before = i, i - 1
    if order is not None:
        here = tl.load(order + i, mask=mask, other=0)
        before = tl.load(order + i - 1, mask=mask, other=0)
    differs = (i == 0).to(tl.int32)
    for c in range(0, width):
        a = _comparable(tl.load(x + here * width + c, mask=mask, other=0))
        b = _comparable(tl.load(x + before * width + c, mask=mask, other=0))
        differs = differs | (mask & (a != b)).to(tl.int32)
    tl.store(new + i, differs != 0, mask=i < n)


# One program numbers the groups of BLOCK rows: first[group] is where it begins (n behind the last), and each row's
# group goes where the row came from. Reads a byte and 8 a row; writes 8 a row and a group.
@jit
def groups_kernel(first, groups, new, sums, order, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    is_new = tl.load(new + i, mask=mask, other=0).to(tl.int64)
    group = tl.load(sums + tl.program_id(0)) + tl.cumsum(is_new, 0) - 1
    tl.store(first + group, i, mask=is_new != 0)
    tl.store(first + tl.load(sums + tl.num_programs(0)), n)
    if groups is not None:
        at = i
        if order is not None:
            at = tl.load(order + i, mask=mask, other=0)
        tl.store(groups + at, group, mask=mask)


@jit
def _difference(x, y):
    return x - y


def _rows_order(x: DeviceArray) -> DeviceArray:
    """The order of the rows of a matrix, compared from their first element on: a stable sort by each column, the last
    first."""
    order: DeviceArray | None = None
    n, width = x.shape
    for c in range(width - 1, -1, -1):
        column = contiguous(x[:, c])
        if order is not None:
            moved = empty((n,), x.dtype, x.device)
            gather(moved, column, order, 0)
            column = moved
        ordered, places = empty((n,), x.dtype, x.device), empty((n,), _INT64, x.device)
        sorting.sort(ordered, places, column, 0, False)
        if order is not None:
            moved = empty((n,), _INT64, x.device)
            gather(moved, order, places, 0)
            places = moved
        order = places
    assert order is not None  # a row has at least one element
    return order


def unique(
    input: DeviceArray, return_inverse: bool, return_counts: bool, consecutive: bool
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """(the distinct elements or rows in order, the group of each, the sizes); their number is read on the host."""
    device, n = input.device, input.shape[0]
    nothing = empty((0,), _INT64, device)
    if not n:
        return empty(input.shape, input.dtype, device), nothing, nothing
    x = contiguous(input)
    width = x.size // n
    order = taken = None  # which row of the input comes next, and which of x
    if not consecutive:
        if x.ndim == 1:
            ordered, order = empty((n,), x.dtype, device), empty((n,), _INT64, device)
            sorting.sort(ordered, order, x, 0, False)
            x = ordered
        else:
            order = taken = _rows_order(x)
    new = empty((n,), _BOOL, device)
    launch(changes_kernel, (cdiv(n, prefix.BLOCK),), new, x, taken, n, width, BLOCK=prefix.BLOCK)
    sums = block_sums(new)
    count = total(sums, n)
    first = empty((count + 1,), _INT64, device)
    groups = empty((n,), _INT64, device) if return_inverse else None
    launch(groups_kernel, (cdiv(n, prefix.BLOCK),), first, groups, new, sums, order, n, BLOCK=prefix.BLOCK)
    at = first[:count]
    if taken is not None:
        at = empty((count,), _INT64, device)
        gather(at, taken, first[:count], 0)
    out = empty((count, *x.shape[1:]), x.dtype, device)
    if x.ndim == 1:
        gather(out, x, at, 0)
    else:
        rows(out, x, at, False)
    sizes = nothing
    if return_counts:
        sizes = empty((count,), _INT64, device)
        pointwise.run(_difference, sizes, (first[1:], first[:count]), (None, None))
    return out, nothing if groups is None else groups, sizes


@jit
def _larger(a, b):
    return tl.maximum(a, b)


# One program owns one sorted row and finds its longest run of equal elements, the first of equally long ones: keeps
# where the current run began from tile to tile. Reads the row once (and the neighbours from the cache), writes the last
# element of that run and the index it had.
@jit
def mode_kernel(values, indices, x, order, N, inner, BLOCK: tl.constexpr):
    m = tl.program_id(0).to(tl.int64)
    base = _row(m, N, inner)
    began = tl.full((), 0, tl.int64)
    best = tl.full((), -1, tl.int64)
    where = tl.full((), 0, tl.int64)
    for begin in range(0, N, BLOCK):
        n = begin + tl.arange(0, BLOCK).to(tl.int64)
        mask = n < N
        a = _comparable(tl.load(x + (base + n * inner), mask=mask, other=0))
        b = _comparable(tl.load(x + (base + (n - 1) * inner), mask=mask & (n > 0), other=0))
        start = tl.where((n > 0) & (a != b), n, 0)
        start = tl.maximum(tl.associative_scan(start, 0, _larger), began)
        length = tl.where(mask, n - start, -1)
        longest = tl.max(length)
        at = tl.min(tl.where(length == longest, n, N))
        where = tl.where(longest > best, at, where)
        best = tl.maximum(longest, best)
        began = tl.max(tl.where(mask, start, 0))
    tl.store(values + m, tl.load(x + (base + where * inner)))
    tl.store(indices + m, tl.load(order + (base + where * inner)))


def mode(values: DeviceArray, indices: DeviceArray, input: DeviceArray, dim: int, keepdim: bool) -> None:
    """values, indices = the most frequent element along dim, the least of equally frequent ones, and its last place."""
    if not values.size:
        return
    ordered = empty(input.shape, input.dtype, input.device)
    places = empty(input.shape, _INT64, input.device)
    sorting.sort(ordered, places, input, dim, False)
    x = sorting.rows_along(ordered, dim)
    launch(
        mode_kernel, (x.M,), values, indices, ordered, places, x.N, x.inner,
        BLOCK=min(max(next_power_of_2(x.N), 16), 1024),
    )  # fmt: skip
