"""Counts of integers and of numbers in equal bins; sums of weights by integer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, to_host
from tensorlib._device import device as Device
from tensorlib._dtypes import HALF
from tensorlib.kernels import create, pointwise, reduction, sorting
from tensorlib.kernels.indexing import CHECKED, contiguous
from tensorlib.kernels.prefix import offsets
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
FEW = 1024  # bins that a program counts by itself before it adds to memory
PROGRAMS = 1024
FEW_PROGRAMS = 32  # the same on a processor, which has fewer cores
_INT64, _FLOAT32, _FLOAT64 = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64)


# Adds how many of the lanes are in each bin, to memory with many bins: integers, in whatever order.
@jit
def _count(counts, held, bin, mask, BINS: tl.constexpr):
    if BINS > 0:
        held += tl.histogram(bin.to(tl.int32), BINS, mask=mask)
    else:
        tl.atomic_add(counts + bin, 1, mask=mask, sem="relaxed")
    return held


@jit
def _flush(counts, held, bins, BINS: tl.constexpr):
    if BINS > 0:
        bin = tl.arange(0, BINS)
        tl.atomic_add(counts + bin, held.to(tl.int64), mask=bin < bins, sem="relaxed")


# One program counts its elements part * chunk …, integers below `bins`. Reads x once. BINS: 0, or bins rounded up.
@jit
def bincount_kernel(counts, x, n, bins, chunk, BINS: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, n)
    held = tl.zeros((BINS if BINS > 0 else 1,), tl.int32)
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        v = tl.load(x + i, mask=i < stop, other=-1).to(tl.int64)
        held = _count(counts, held, v, (i < stop) & (v >= 0) & (v < bins), BINS)
    _flush(counts, held, bins, BINS)


# One program owns one integer: the sum, in float64, of the weights at its places, in their order. Reads 8 bytes and a
# weight for each, writes the sum.
@jit
def weigh_kernel(out, weights, order, starts, BLOCK: tl.constexpr):
    bin = tl.program_id(0).to(tl.int64)
    first = tl.load(starts + bin)
    last = tl.load(starts + bin + 1)
    acc = tl.zeros((BLOCK,), tl.float64)
    for begin in range(first, last, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        at = tl.load(order + k, mask=k < last, other=0)
        acc += tl.load(weights + at, mask=k < last, other=0).to(tl.float64)
    tl.store(out + bin, tl.sum(acc).to(out.dtype.element_ty))


def _plan(n: int, bins: int, device: Device) -> tuple[int, int]:
    """(elements a program, BINS)."""
    most = FEW_PROGRAMS if hardware(device).family == "native" else PROGRAMS
    chunk = cdiv(cdiv(n, most), BLOCK) * BLOCK
    return chunk, next_power_of_2(max(bins, 16)) if bins <= FEW else 0


@jit
def _twice(x, n, arg):
    return (x, x)


@jit
def _wider(low, high, low_b, high_b):
    return (tl.minimum(low, low_b), tl.maximum(high, high_b))


@jit
def _ends(low, high, count, arg):
    return (low, high)


#: The least and the largest integer, in one reading.
EXTREMES = reduction.Reduction(_twice, _wider, _ends, ("highest", "lowest"), (None, None))


def extremes(x: DeviceArray) -> tuple[int, int]:
    """(least, largest) of the elements, read on the host; (0, the number of them) where nothing is run."""
    if x.device.compile_only:
        return 0, x.size
    both = empty((2,), x.dtype, x.device)
    reduction.reduce([both[:1], both[1:]], [x], range(x.ndim), EXTREMES)
    low, high = to_host(both)
    return int(low), int(high)


def bincount(input: DeviceArray, weights: DeviceArray | None, bins: int) -> DeviceArray:
    """How many elements are each of 0 … bins - 1, or their weights' sums: deterministic."""
    x, n = contiguous(input), input.size
    counts = empty((bins,), _INT64, x.device)
    create.full(counts, None, 0, None, None)
    chunk, few = _plan(n, bins, x.device)
    launch(bincount_kernel, (cdiv(n, max(chunk, 1)),), counts, x, n, bins, chunk, BINS=few, BLOCK=BLOCK)
    if weights is None:
        return counts
    out = empty((bins,), _FLOAT32 if weights.dtype == _FLOAT32 else _FLOAT64, x.device)
    ordered, order = empty((n,), x.dtype, x.device), empty((n,), _INT64, x.device)
    sorting.sort(ordered, order, x, 0, False)
    launch(weigh_kernel, (bins,), out, contiguous(weights), order, offsets(counts), BLOCK=256)
    return out


# One program counts its elements part * chunk … in equal bins between low and low + span, or between the two numbers of
# `ends`, widened by 1 where they are one point; the last bin includes its end. Reads x once.
@jit
def histc_kernel(counts, x, ends, n, bins, chunk, low, high, span, ACC: tl.constexpr, BINS: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, n)
    if ends is not None:
        first = tl.load(ends).to(ACC)
        last = tl.load(ends + 1).to(ACC)
        tl.device_assert((first - first == 0) & (last - last == 0), "range is not finite")
        point = first == last
        first, last = tl.where(point, first - 1, first), tl.where(point, last + 1, last)
        width = last - first
    else:
        first, last, width = tl.cast(low, ACC), tl.cast(high, ACC), tl.cast(span, ACC)
    held = tl.zeros((BINS if BINS > 0 else 1,), tl.int32)
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        v = tl.load(x + i, mask=i < stop, other=0).to(ACC)
        inside = (i < stop) & (v >= first) & (v <= last)
        part = tl.where(inside, v - first, 0.0)
        if ACC == tl.float64:
            place = part / width
        else:
            place = tl.div_rn(part, tl.zeros_like(part) + width)
        place = tl.minimum((place * bins).to(tl.int64), bins - 1)
        held = _count(counts, held, place, inside, BINS)
    _flush(counts, held, bins, BINS)


def histc(out: DeviceArray, input: DeviceArray, bins: int, min: Any, max: Any) -> None:
    """out = how many elements lie in each of ``bins`` equal parts of min … max, or of the elements' own range."""
    counts = empty((bins,), _INT64, out.device)
    create.full(counts, None, 0, None, None)
    n = input.size
    if n:
        ends = None
        if min == max:
            ends = empty((2,), input.dtype, out.device)
            every = range(input.ndim)
            reduction.reduce([ends[:1]], [input], every, reduction.AMIN)
            reduction.reduce([ends[1:]], [input], every, reduction.AMAX)
        work = _FLOAT32 if input.dtype in HALF else input.dtype
        numbers = [work.type(v).item() for v in (min, max, max - min)]
        if work == _FLOAT64:
            numbers = [np.float64(v) for v in numbers]
        chunk, few = _plan(n, bins, out.device)
        launch(
            histc_kernel, (cdiv(n, chunk),), counts, contiguous(input), ends, n, bins, chunk, *numbers, ACC=work,
            BINS=few, BLOCK=BLOCK, options=CHECKED,
        )  # fmt: skip
    pointwise.copy(out, counts)
