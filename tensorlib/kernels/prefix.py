"""Prefix sums, and what they place: the coordinates of what is not zero, repetitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib._array import DeviceArray, empty, to_host
from tensorlib.kernels import pointwise
from tensorlib.kernels.indexing import contiguous
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
_INT64, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)


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
        tl.debug_barrier()  # with fewer numbers than threads several hold the same one: all read before one writes
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
    block = min(max(next_power_of_2(blocks), 16), BLOCK)
    launch(prefix_kernel, (1,), sums, blocks, BLOCK=block, num_warps=8 if block == BLOCK else 4)
    return sums


def offsets(counts: DeviceArray) -> DeviceArray:
    """[0, c0, c0 + c1, …]: where each of consecutive runs begins, the total at the end, in int64."""
    out = empty((counts.size + 1,), _INT64, counts.device)
    launch(scan_kernel, (cdiv(counts.size, BLOCK),), out, counts, block_sums(counts), counts.size, BLOCK=BLOCK)
    return out


def total(sums: DeviceArray, most: int) -> int:
    """The last of the prefix sums, read on the host; ``most`` where nothing is run, so that what follows compiles."""
    return most if sums.device.compile_only else int(to_host(sums[sums.size - 1]))


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
