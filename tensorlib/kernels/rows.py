"""How rows are cut into blocks: what softmax and the normalizations of rows choose among, and the model of that.

A row is in one block, read once, while the numbers that a lane holds of it fit its registers; longer rows are walked
through twice. The registers are fitted to what Triton 3.6 and 3.9 compile for nine targets (docs/tuning.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tensorlib._array import DeviceArray
from tensorlib._device import device as Device
from tensorlib.kernels.matmul import noise
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.hardware import Estimate, Hardware, stream_cost
from tensorlib.runtime.launch import cdiv, next_power_of_2

ROW = 8192  # elements of a row in one block on a processor, whose tiles have to stay in its caches
TILE = 2048  # elements a program takes at a time there, where rows are short or long
HELD = 32  # float32 numbers of a row that a lane of a GPU holds at most
ACROSS = 128  # the same along a row, where neighbours in memory are neighbouring rows


class Rows(NamedTuple):
    """M rows of N elements as the choice of a block sees them."""

    M: int
    N: int
    itemsize: int  # of an element in memory
    compute: np.dtype[Any]
    across: bool  # neighbours in memory are neighbouring rows
    sums: bool  # sums over the rows are held too, one an element of a row


class Need(NamedTuple):
    """What a kernel needs: registers of a lane, so many for each float32 of a row that it holds, and arrays."""

    fixed: float
    slope: float
    slope_sums: float
    reads: int  #: arrays of the rows' size, of which `again` are read a second time where a row is not in one block
    again: int
    single: float = 0.0  #: registers of a lane more, where elements in memory have 4 bytes


def unit(N: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> int:
    """What the compiler is told to divide rows of N neighbours and where they begin: 4 or 8, else 1.

    Of multiples of 16 it knows. shape, strides: of the rows, of each array.
    """
    found = math.gcd(16, N, *(t for s in strides for t, n in zip(s, shape, strict=True) if n > 1))
    return found if found in (4, 8) else 1


def sized(n: int) -> int:
    """`bucket`, of sizes that are covered by a power of two, which it keeps."""
    return bucket(n) if n > 16 else next_power_of_2(n)


def _bucket(p: Rows) -> Rows:
    return p._replace(M=sized(p.M), N=sized(p.N))


def _config(one: bool, block_m: int, block_n: int, warps: int) -> Config:
    return Config(warps, ONE=one, BLOCK_M=block_m, BLOCK_N=block_n)


def _fixed(p: Rows) -> Config:
    """The block on a processor, and where neighbours in memory are neighbouring rows."""
    if p.across:
        one = p.N <= ACROSS
        block_m, block_n = min(next_power_of_2(p.M), 32), next_power_of_2(p.N) if one else ACROSS
    else:
        one = p.N <= ROW
        block_n = next_power_of_2(p.N) if one else 2 * TILE
        block_m = min(next_power_of_2(p.M), max(TILE // block_n, 1))
    tile = block_m * block_n
    return _config(one, block_m, block_n, 16 if tile > 4096 else 8 if tile > 2048 else 4)


def registers(need: Need, p: Rows, tile: int, threads: int) -> float:
    """Registers of a lane of a program that holds a tile."""
    each = tile / threads * max(p.compute.itemsize // 4, 1)
    needed = need.fixed + (need.slope_sums if p.sums else need.slope) * each
    return needed * 1.05 if p.compute.itemsize == 8 else needed + (need.single if p.itemsize == 4 else 0.0)


def _limit(gpu: Hardware, threads: int) -> float:
    """Registers that each of so many threads can have: RDNA's programs may take those of two multiprocessors, and of
    CDNA's the compiler needs some for itself.
    """
    if gpu.family == "cdna":
        return min(gpu.max_registers, gpu.registers / threads) - 10
    return min(gpu.max_registers, (2 if gpu.family == "rdna" else 1) * gpu.registers / threads)


def _candidates(need: Need, p: Rows, gpu: Hardware) -> Sequence[Config]:
    if gpu.on_host or p.across:
        return [_fixed(p)]
    row = next_power_of_2(p.N)
    most = 1024 // gpu.warp_size
    found = []
    for one, block_n in ((True, row), *((False, b) for b in (2048, 4096, 8192) if b < row)):
        for tile in (1024, 2048, 4096, block_n):
            block_m = min(next_power_of_2(p.M), tile // block_n)
            if block_m and (one or block_m == 1):
                tile = block_m * block_n
                for warps in (1, 2, 4, 8, 16, 32):
                    threads = warps * gpu.warp_size
                    vectors = warps == 1 or tile // threads * p.itemsize >= 16  # fewer bytes a lane only waste lanes
                    if tile * p.compute.itemsize > HELD * 4 * threads:
                        continue
                    if warps <= most and vectors and registers(need, p, tile, threads) <= _limit(gpu, threads):
                        found.append(_config(one, block_m, block_n, warps))
    return list(dict.fromkeys(found)) or [_fixed(p)]


def cost(need: Need, c: Config, p: Rows, gpu: Hardware) -> Estimate:
    """What a block costs: device memory, latency and whole rounds of programs."""
    tile, threads = c["BLOCK_M"] * c["BLOCK_N"], c.num_warps * gpu.warp_size
    if gpu.on_host:
        return Estimate(float(cdiv(p.M, c["BLOCK_M"])))
    steps = 1 if c["ONE"] else cdiv(p.N, c["BLOCK_N"])
    elements = p.M * p.N
    # What is read a second time comes from L2 if the rows of all programs stay there that long.
    again = 0.0
    if steps > 1:
        stays = gpu.multiprocessors * gpu.threads / threads * p.N * p.itemsize * need.reads < gpu.l2 / 2
        again = need.again * (0.4 if stays else 1.0)
        steps *= 2
    held = registers(need, p, tile, threads)
    programs = cdiv(p.M, c["BLOCK_M"])
    if p.sums:  # a few programs, each of which walks through many rows
        programs = min(programs, resident(need, c, p, gpu))
        steps *= cdiv(cdiv(p.M, c["BLOCK_M"]), programs)
    estimate = stream_cost(
        gpu, programs, c.num_warps, held, steps, tile * p.itemsize * need.reads,
        elements * p.itemsize * (need.reads + 1 + again),
        cdiv(p.M, c["BLOCK_M"]) * c["BLOCK_M"] * cdiv(p.N, c["BLOCK_N"]) * c["BLOCK_N"] * 24.0,
    )  # fmt: skip
    # Fewer numbers a lane than it has vectors to load leave it waiting, more make it work on its own.
    usual = (16 if gpu.warp_size == 32 else 8) // (2 if p.sums or p.compute.itemsize == 8 else 1)
    factor = 1 + 0.08 * abs(math.log2(tile / threads / usual)) + 0.01 * max(0.0, math.log2(TILE / tile))
    factor *= 1.0 if c["ONE"] else 1.5  # a second walk waits for the first one's sums
    factor *= 1 + max(0.0, held - _limit(gpu, threads)) / 32  # spilled
    return estimate._replace(seconds=estimate.seconds * factor)


#: (M, N) of a transformer's rows: of features, of attention scores, of logits.
SHAPES = (
    (8192, 64), (8192, 768), (8192, 1024), (8192, 4096), (4096, 8192), (4096, 16384), (4096, 50304), (512, 131072),
)  # fmt: skip


def tunable(name: str, kernel: Jit, need: Need, example: Callable[[DeviceArray], Any]) -> Tunable:
    """The `Tunable` of a kernel of rows, by what it needs; ``example`` launches it on rows of numbers."""

    def examples(device: Device) -> Iterator[tuple[str, Callable[[], Any]]]:
        for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)):
            for shape in SHAPES:
                yield f"{name} of {shape} {dtype}", lambda s=shape, t=dtype: example(noise(s, t, device))

    return Tunable(
        name, (kernel,), lambda p, gpu: _candidates(need, p, gpu), _bucket, lambda c, p, gpu: cost(need, c, p, gpu),
        examples=examples,
    )  # fmt: skip


def among(outputs: Sequence[Any], made: Sequence[Any]) -> list[Any]:
    """The arrays ``made``, in the places of the outputs that are wanted (not None)."""
    arrays = iter(made)
    return [None if a is None else next(arrays) for a in outputs]


def resident(need: Need, c: Config, p: Rows, gpu: Hardware) -> int:
    """How many programs that share the rows out keep a GPU busy: enough to have loads under way, no more."""
    threads = c.num_warps * gpu.warp_size
    tile = c["BLOCK_M"] * c["BLOCK_N"]
    fits = gpu.occupancy(c.num_warps, min(registers(need, p, tile, threads), gpu.max_registers), 0)
    wanted = cdiv(32 << 10, tile * p.itemsize * need.reads)
    return gpu.multiprocessors * max(1, min(fits, wanted))
