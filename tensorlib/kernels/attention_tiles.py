"""Tiles of attention: which a target's registers and shared memory hold, and what a search tries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tensorlib._device import device as Device
from tensorlib.runtime import versions
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.hardware import Estimate, Hardware, Tile, hardware, product_cost
from tensorlib.runtime.launch import cdiv, next_power_of_2


def fit(n: int) -> int:
    """A power of two from 16, which is the least that tl.dot takes."""
    return max(16, next_power_of_2(n))


#: Whose matrix units read operands from shared memory.
_FROM_SHARED = ("sm_90", "sm_100", "sm_103")


class Problem(NamedTuple):
    """Attention as the choice of its tile sees it."""

    L: int
    S: int
    width: int  # of a head, as blocks hold it
    matrices: int
    dtype: np.dtype[Any]
    precision: str
    causal: bool
    mask: int
    dropout: bool
    reach: int = 0  # keys that a query may look at in a window; 0: any number


def _bucket(p: Problem) -> Problem:
    reach = bucket(p.reach) if p.reach else 0
    return p._replace(L=bucket(p.L), S=bucket(p.S), matrices=next_power_of_2(p.matrices), reach=reach)


def _tile(m: int, n: int, warps: int, stages: int, p: Problem, chunk: int = 0) -> Config:
    return Config(warps, stages, BLOCK_M=min(m, fit(p.L)), BLOCK_N=min(n, fit(p.S)), CHUNK=chunk)


def _default(p: Problem, gpu: Hardware, products: int) -> Config:
    """The tile of m queries and n keys: what registers and shared memory hold without spilling, as the compiler says.

    What runs before anything was measured. A step has 2 products forward, 3 for the gradient of queries, 4 for keys.
    """
    width, wide, backward = p.width, p.dtype.itemsize >= 4, products > 2
    amd, from_shared = gpu.family in ("cdna", "rdna"), gpu.target in _FROM_SHARED
    if gpu.family == "native":  # tiles of q, k, v and the scores in the first two caches
        side = 64 if width * p.dtype.itemsize <= 512 else 32
        return _tile(side, side, 1, 1, p)
    chunk = 0
    if p.dtype.itemsize == 8:
        m, n, warps = 16, 16, 4
    elif gpu.family == "rdna" and not wide:
        m, n, warps, chunk = _rdna(p, gpu, products)
    elif gpu.family == "rdna":  # products of float32 without a matrix unit, in 256 registers a lane
        m, n, warps = 16, 16, 8 if backward or width > 64 else 4
    elif wide and (amd or p.precision != "ieee"):
        m, n, warps = (64, 32, 4) if width <= 64 else (32, 32, 4) if width <= 128 else (16, 16, 4)
    elif wide and width <= 64:  # no matrix unit: sums and operands both lie in registers
        m, n, warps = (32, 32, 4) if products == 4 else (64, 32, 8)
    elif wide and width <= 128:
        m, n, warps = (32, 16, 8) if products == 2 else (32, 32, 8) if products == 3 else (16, 32, 4)
    elif wide:
        m, n, warps = 16, 16, 4
    elif width <= 64:
        m, n, warps = (64, 64, 4) if backward else (128, 64, 4)
        if gpu.family == "nvidia":
            m, n, warps = _narrow(p, gpu, products)
    elif not backward:
        m, n, warps = (128, 64, 8) if width <= 128 else (64, 32, 8)
        if width <= 128 and not (amd or from_shared) and (p.mask or p.dropout):
            n = 32
        if from_shared and gpu.target != "sm_90" and p.L <= 16:
            warps = 4
    elif amd:  # with 4 warps of 64 lanes each has 512 registers
        m, n, warps = (32, 64, 4) if width <= 128 else (16, 32, 4)
    elif width <= 128 and from_shared:  # of what a program owns, each four warps take 64 rows or more
        m, n, warps = (128, 64, 8) if products == 3 else (32, 128, 8) if gpu.target == "sm_90" else (64, 128, 8)
    else:
        m, n, warps = (64, 64, 8) if width <= 128 else (32, 32, 8)
    stages = 1 if amd else 2
    if width * p.dtype.itemsize >= 1024 and width > 128:  # shared memory of the smallest GPUs, 99 KB, holds no more
        m, n, warps = 16, 16, max(warps, 4)
        stages = 1 if width * p.dtype.itemsize > 1024 else stages
        if backward and wide and not amd and _rows_held(64, width * p.dtype.itemsize) > gpu.shared:
            m, n = (8, 16) if products == 3 else (16, 8)
    return _tile(m, n, warps, stages, p, chunk)


def _narrow(p: Problem, gpu: Hardware, products: int) -> tuple[int, int, int]:
    """(m, n, warps) of heads up to 64 wide of half types on NVIDIA's.

    Where operands lie in registers, what is added to the scores, or drawn for them, has little room beside.
    """
    mask, drawn = bool(p.mask), bool(p.dropout)
    from_shared = gpu.target in _FROM_SHARED
    if products == 2:
        if mask and not from_shared:
            return 128, 32, 8 if drawn else 4
        return 128, 64, 8 if mask or drawn else 4
    if gpu.target == "sm_90":
        return (32 if products == 4 and mask and drawn else 64), 64, 4
    if from_shared:  # a matrix unit takes 128 rows of what a program owns
        return (128, 64, 8) if products == 3 else (64, 128, 8)
    if mask or drawn:
        return 64, 32, 4
    return (64, 64, 4) if products == 3 else (32 if _before39() else 64, 128, 8)


def _rdna(p: Problem, gpu: Hardware, products: int) -> tuple[int, int, int, int]:
    """(m, n, warps, features at a time) of half types on RDNA: 16 rows a warp of what a program owns, 256 registers.

    Operands lie in registers, on RDNA3 (gfx11) twice, from 128 features on in chunks: a chunk of what a program owns
    is loaded again in every step, which the first cache answers. 0: all of them, once.
    """
    width, extra = p.width, bool(p.mask or p.dropout)
    if gpu.target.startswith("gfx12") and width <= 128 and products < 4:  # each operand once
        return (64, 32 if width <= 64 else 16, 4, 0) if products == 2 else (32, 32 if width <= 64 else 16, 8, 0)
    if products == 2:
        n = 32 if width <= 64 or (width <= 128 and not extra) else 16
        return 64, n, 4 if width <= 128 else 8, 0 if width <= 64 else 32 if width <= 128 else 64
    if products == 3:
        return 64, 16, 4 if width <= 128 else 8, 64 if width > 64 or extra else 0
    if gpu.target.startswith("gfx12"):
        return (32, 32, 8, 0) if width <= 64 else (16, 32, 4, 64)
    return 16, 64 if width <= 128 else 32, 4 if width <= 64 and not p.dropout else 8, 64


def _before39() -> bool:
    return versions.require().number < (3, 9)


def spread(config: Config, gpu: Hardware, rows: int) -> int:
    """Of how many lanes each loads the same log-sum, where not every lane shall load all that its scores need.

    On AMD's, and before Triton 3.9, which copies to shared memory whatever each lane reads, as often as it is read.
    """
    if gpu.family in ("cdna", "rdna") or (gpu.family == "nvidia" and _before39()):
        return max(config.num_warps * gpu.warp_size // rows, 1)
    return 1


def fits(features: int, itemsize: int, device: Device, backward: bool) -> bool:
    """Whether a device's shared memory and registers hold the smallest tile of heads so wide, forward or backward.

    As Triton 3.9 compiles 16 queries by 16 keys: shared memory has, on NVIDIA's, tiles of q and k or v; in the backward
    of those and g, and of half types as wide as 1024 one more; on AMD's, whose others stay in registers, one tile. The
    side that a backward's program owns may have 8 rows where products are made without matrix units.
    """
    gpu = hardware(device)
    row = fit(features) * itemsize
    if row > _WIDEST and not gpu.on_host:
        return False
    if gpu.family in ("cdna", "rdna"):
        return 17 * row <= gpu.shared
    rows = 32 if not backward else 48 if itemsize >= 4 else 80 if features > 512 else 64
    return _rows_held(rows, row) <= gpu.shared


def _rows_held(rows: int, nbytes: int) -> int:
    """Bytes of shared memory of so many rows of so many bytes, with what a kernel needs beside them."""
    return rows * nbytes + 3 * 1024


_WIDEST = 2048  # bytes of a head: beyond, sums spill whatever the tile, and take minutes to compile
_SIZES = (
    (16, 16, 4), (16, 32, 4), (16, 64, 4), (16, 64, 8), (32, 32, 4), (32, 64, 4), (32, 128, 8), (64, 16, 4),
    (64, 32, 4), (64, 32, 8), (64, 64, 4), (64, 64, 8), (64, 128, 8), (128, 32, 4), (128, 32, 8), (128, 64, 4),
    (128, 64, 8), (128, 128, 8),
)  # fmt: skip


def _candidates(p: Problem, gpu: Hardware, products: int) -> list[Config]:
    """The default, and on GPUs what a search compares it with."""
    found = [_default(p, gpu, products)]
    if gpu.on_host or p.dtype.itemsize == 8:
        return found
    held = {"nvidia": 255, "cdna": 512}.get(gpu.family, 256)
    for m, n, warps in _SIZES:
        # Registers that the sums and the scores take, of what a lane has: the rest is addresses and operands.
        sums = p.width * (2 * n if products > 2 else m) + m * n
        if sums / (warps * gpu.warp_size) <= 0.75 * held:
            for stages in (1, 2) if gpu.family != "nvidia" else (2, 3, 4) if p.width <= 64 else (1, 2, 3):
                found.append(_tile(m, n, warps, stages, p))
            if gpu.family == "rdna" and p.dtype.itemsize == 2:
                found.append(_tile(m, n, warps, 1, p, 64))
    return found


def _cost(config: Config, p: Problem, gpu: Hardware, products: int) -> Estimate:
    """Two products a step forward; scores are made anew in the backward, so that it has three and four."""
    m, n = config["BLOCK_M"], config["BLOCK_N"]
    tile = Tile(m, n, p.width, config.num_warps, config.num_stages)
    keys = min(p.reach or p.S, p.S / 2 if p.causal else p.S)
    steps = max(1, round(keys / n))
    elements = (2 * p.L + 2 * p.S) * p.width * p.matrices
    estimate = product_cost(
        gpu, tile, p.dtype, p.precision, cdiv(p.L, m) * p.matrices, steps * products, elements * p.dtype.itemsize
    )
    buffers = config.num_stages if gpu.family == "nvidia" else max(config.num_stages - 1, 1)
    return estimate._replace(shared=(m + 2 * n * buffers) * p.width * p.dtype.itemsize)


def _mask_tile(p: Problem, gpu: Hardware) -> Config:
    """Of the gradient of a mask: a program holds sums and two products of a tile. All operands are read once a step,
    so that taking some features at a time costs nothing."""
    if gpu.family == "native":
        return _default(p, gpu, 3)
    from_shared = gpu.target in _FROM_SHARED
    m, n, warps, chunk = 64, 64, 4, 64 if p.width > 64 and not from_shared else 0
    if p.dtype.itemsize == 8:
        m, n, chunk = 16, 16, 32 if p.width > 32 else 0
    elif p.dtype.itemsize == 4:
        m, n = (32, 32) if p.width <= (128 if gpu.family == "nvidia" else 256) else (16, 16)
        chunk = 32 if p.width > 32 else 0
    elif gpu.family == "rdna":
        n = 32
    elif from_shared and p.width > 128:
        n, warps = 32, 8
    elif gpu.family == "nvidia" and not from_shared:  # operands in registers
        n, warps = (32 if p.dropout or p.width > 64 else 64), 8
    made = _tile(m, n, warps, 2, p, chunk)
    while made["BLOCK_M"] > 16 and _mask_shared(made.replace(num_stages=1), p, gpu) > gpu.shared:
        made = made.replace(BLOCK_M=made["BLOCK_M"] // 2, BLOCK_N=max(16, made["BLOCK_N"] // 2))
    if gpu.family != "nvidia" or _mask_shared(made, p, gpu) > gpu.shared:
        made = made.replace(num_stages=1)
    return made


def _mask_shared(config: Config, p: Problem, gpu: Hardware) -> int:
    """Bytes of q, k, g and v that are held or on their way; AMD's come one after the other."""
    rows, features = config["BLOCK_M"] + config["BLOCK_N"], config["CHUNK"] or p.width
    held = 1 if gpu.family != "nvidia" else 2 * config.num_stages * cdiv(p.width, features)
    return _rows_held(rows * held, features * p.dtype.itemsize)


def mask_grad_tunable(name: str, kernel: Any) -> Tunable:
    """The choice of the tile of a mask's gradient; ``reach`` of its Problem: how many heads and batches share it."""

    def candidates(p: Problem, gpu: Hardware) -> list[Config]:
        found = [_mask_tile(p, gpu)]
        if gpu.on_host or p.dtype.itemsize == 8:
            return found
        for m, n, warps in ((32, 32, 4), (64, 32, 4), (64, 64, 4), (64, 64, 8), (128, 64, 8)):
            for stages in (1, 2) if gpu.family == "nvidia" else (1,):
                made = _tile(m, n, warps, stages, p, found[0]["CHUNK"])
                if _mask_shared(made, p, gpu) <= gpu.shared:
                    found.append(made)
        return found

    def cost(config: Config, p: Problem, gpu: Hardware) -> Estimate:
        m, n = config["BLOCK_M"], config["BLOCK_N"]
        tile = Tile(m, n, p.width, config.num_warps, config.num_stages)
        programs, steps = cdiv(p.L, m) * cdiv(p.S, n) * p.matrices, max(p.reach, 1)
        moved = (2 * p.L + 2 * p.S) * p.width * p.matrices * steps * p.dtype.itemsize
        estimate = product_cost(gpu, tile, p.dtype, p.precision, programs, 2 * steps, moved)
        return estimate._replace(shared=_mask_shared(config, p, gpu))

    return Tunable(name, (kernel,), candidates, _bucket, cost, default=_mask_tile)


def tunable(name: str, kernel: Any, products: int) -> Tunable:
    """The choice of one kernel's tile; ``products``: how many it makes a step."""
    return Tunable(
        name, (kernel,), lambda p, gpu: _candidates(p, gpu, products), _bucket,
        lambda config, p, gpu: _cost(config, p, gpu, products), default=lambda p, gpu: _default(p, gpu, products),
    )  # fmt: skip
