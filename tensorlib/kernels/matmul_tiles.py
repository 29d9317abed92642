"""Which tile a product is cut into: the candidates of each family of GPUs, and what a model says they cost.

Three kinds of candidates, by the constants that they have: tiles of pointers (``BLOCK_M``, ``BLOCK_N``, ``BLOCK_K``,
``GROUP_M``, ``SPLIT_K``); persistent programs that load through tensor descriptors (``WARP_SPECIALIZE`` too); and, for
a product with a vector, no ``BLOCK_M``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlib.runtime import versions
from tensorlib.runtime.autotune import Config, bucket
from tensorlib.runtime.hardware import Estimate, Hardware, Tile, product_cost
from tensorlib.runtime.launch import cdiv, next_power_of_2

_FLOAT64 = np.dtype(np.float64)


class Problem(NamedTuple):
    """A product as the choice of its tile sees it."""

    M: int
    N: int
    K: int
    batch: int
    dtype: np.dtype[Any]
    precision: str  # of float32; "sums" where those of float8 products are to be in float32
    layout: str  # of a and b: see `layout`; of a b of another dtype, that too: "rc/int8"; "+": a third matrix is read


def layout(stride_row: int, stride_column: int, itemsize: int, ptr: int = 0) -> str:
    """"r": elements of a row are neighbours, "c": of a column, "s": of neither. Capital: not aligned, or one row."""
    if stride_column == 1:
        return "r" if stride_row and (stride_row * itemsize | ptr) % 16 == 0 else "R"
    if stride_row == 1:
        return "c" if stride_column and (stride_column * itemsize | ptr) % 16 == 0 else "C"
    return "s"


def key(p: Problem) -> Problem:
    """The problem that stands for its bucket."""
    return p._replace(M=bucket(p.M), N=bucket(p.N), K=bucket(p.K), batch=next_power_of_2(p.batch))


def tile(m: int, n: int, k: int, warps: int, stages: int, **options: Any) -> Config:
    """A tile of pointers."""
    return Config(
        options=options, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, GROUP_M=8, SPLIT_K=1, num_warps=warps, num_stages=stages
    )


def _tiles(*rows: tuple[int, ...], stages: int = 0, **options: Any) -> tuple[Config, ...]:
    return tuple(tile(*(row if not stages else (*row, stages)), **options) for row in rows)


# Small ones that fill a GPU with few rows, and larger ones that read less: a program of m x n reads 1/m + 1/n elements
# for each that it multiplies.
_HALF = _tiles(
    (16, 64, 64, 4, 4), (16, 64, 128, 4, 4), (16, 128, 64, 4, 4), (32, 32, 64, 4, 4), (32, 64, 64, 4, 4),
    (64, 32, 64, 4, 4), (64, 64, 32, 4, 4), (64, 64, 64, 4, 3), (64, 64, 64, 4, 4), (64, 128, 32, 4, 4),
    (128, 64, 32, 4, 4), (64, 128, 64, 4, 3), (128, 64, 64, 4, 3), (128, 128, 32, 4, 4), (128, 128, 32, 8, 3),
    (128, 128, 32, 8, 4), (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (64, 256, 64, 8, 3),
    (256, 64, 64, 8, 3), (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 4),
)  # fmt: skip
# float8 and int8: rows of as many bytes hold twice the elements.
_BYTE = _tiles(
    (16, 64, 128, 4, 4), (16, 128, 128, 4, 4), (32, 64, 128, 4, 4), (64, 32, 128, 4, 4), (64, 64, 64, 4, 4),
    (64, 64, 128, 4, 3), (64, 128, 128, 4, 3), (128, 64, 128, 4, 3), (128, 128, 64, 4, 4), (128, 128, 64, 8, 4),
    (128, 128, 128, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 4), (128, 256, 128, 8, 3), (256, 128, 128, 8, 3),
)  # fmt: skip
_HALF_AMD = _tiles(
    (16, 64, 64, 4), (16, 64, 128, 4), (32, 32, 64, 4), (32, 64, 64, 4), (64, 32, 64, 4), (64, 64, 32, 4),
    (64, 64, 64, 4), (64, 128, 32, 4), (128, 64, 32, 4), (64, 128, 64, 4), (128, 64, 64, 4), (128, 128, 32, 4),
    (128, 128, 32, 8), (128, 128, 64, 4), (128, 128, 64, 8), (128, 256, 32, 8), (256, 128, 32, 8), (128, 256, 64, 8),
    (256, 128, 64, 8), stages=2,
)  # fmt: skip
# Matrix instructions of 16 x 16 need fewer registers than those of 32 x 32, which Triton takes by itself: large tiles
# fit without spills. kpack=2 reads 16 bytes of shared memory at a time, where two instructions would else; from gfx950
# on Triton does so unasked. waves_per_eu=2: registers for two waves on a SIMD unit.
_SQUARE = {"matrix_instr_nonkdim": 16}
_HALF_CDNA = (
    *_HALF_AMD, *_tiles((256, 256, 64, 8), stages=2),
    *_tiles((256, 256, 32, 8), (128, 128, 64, 4), (64, 64, 64, 4), stages=2, **_SQUARE),
    *_tiles((256, 128, 64, 8), (128, 256, 64, 8), (128, 128, 64, 4), stages=2, **_SQUARE, kpack=2),
    *_tiles((128, 128, 64, 8), stages=2, waves_per_eu=2),
)  # fmt: skip
_HALF_CDNA4 = (
    *_HALF_AMD, *_tiles((256, 256, 32, 8), (256, 256, 64, 8), (256, 128, 64, 8), (128, 256, 64, 8), (128, 128, 64, 4),
                        (64, 64, 64, 4), stages=2, **_SQUARE),
    *_tiles((128, 128, 64, 8), stages=2, waves_per_eu=2),
)  # fmt: skip
_BYTE_AMD = _tiles(
    (16, 64, 128, 4), (32, 64, 128, 4), (64, 64, 64, 4), (64, 64, 128, 4), (64, 128, 64, 4), (128, 64, 64, 4),
    (128, 128, 64, 4), (128, 128, 64, 8), (128, 128, 128, 8), (256, 128, 64, 8), (128, 256, 64, 8), stages=2,
)  # fmt: skip
_HALF_RDNA = _tiles(
    (16, 64, 64, 4), (32, 32, 32, 4), (32, 64, 32, 4), (64, 32, 32, 4), (64, 64, 32, 4), (64, 64, 64, 4),
    (64, 128, 32, 4), (128, 64, 32, 4), (128, 128, 32, 8), (128, 128, 64, 8), (64, 256, 32, 8), (256, 64, 32, 8),
    (128, 256, 32, 8), stages=2,
)  # fmt: skip
_SINGLE = _tiles(
    (16, 64, 32, 4), (32, 32, 32, 4), (32, 64, 32, 4), (64, 32, 32, 4), (64, 64, 16, 4), (64, 64, 32, 4),
    (64, 128, 16, 8), (64, 128, 32, 8), (128, 64, 16, 8), (128, 64, 32, 8), (128, 128, 16, 8), (128, 128, 32, 8),
    stages=3,
)  # fmt: skip
_DOUBLE = _tiles((16, 16, 16, 4), (32, 32, 16, 4), (64, 32, 16, 4), (32, 64, 16, 4), (64, 64, 16, 8), stages=2)
_INTEGER = (tile(16, 16, 16, 4, 1),)  # no matrix unit: a broadcast product, held in registers
_INTERPRET = {8: (tile(32, 32, 16, 4, 2),), 4: (tile(64, 64, 32, 4, 2), tile(128, 64, 32, 8, 2))}
#: tiles in the second cache, panels in the first; the last for what is large and made of whole tiles
_NATIVE = (tile(64, 64, 64, 1, 1), tile(128, 128, 128, 1, 1), tile(256, 256, 128, 1, 1))
_INTERPRET_HALF = (tile(64, 64, 64, 4, 2), tile(128, 128, 64, 8, 2))
_SPLITS = (2, 4, 8, 16, 32, 64)


def _by_descriptor(m: int, n: int, k: int, warps: int, stages: int, specialize: bool) -> Config:
    return Config(
        BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, GROUP_M=8, SUBTILE=n >= 256, WARP_SPECIALIZE=specialize, num_warps=warps,
        num_stages=stages,
    )


_DESCRIPTORS = tuple(
    _by_descriptor(*sizes, False) for sizes in (
        (64, 128, 64, 4, 4), (128, 128, 64, 4, 4), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3), (128, 256, 64, 8, 4),
        (256, 128, 64, 8, 3),
    )
)  # fmt: skip
#: Tensor cores that read operands from shared memory and sums from their own: a warp each loads, multiplies, stores.
_SPECIALIZED = tuple(
    _by_descriptor(*sizes, True) for sizes in ((128, 128, 64, 4, 4), (128, 256, 64, 4, 3), (128, 256, 64, 8, 3))
)
_DESCRIPTORS_BYTE = tuple(
    _by_descriptor(*sizes, False) for sizes in (
        (64, 128, 128, 4, 4), (128, 128, 128, 4, 4), (128, 128, 128, 8, 4), (128, 256, 128, 8, 3),
    )
)  # fmt: skip
_HOPPER, _BLACKWELL = ("sm_90",), ("sm_100", "sm_103", "sm_110")

# A product with a vector: n of its elements, k terms at a time, their products summed at the end. The first of each
# are for a matrix whose neighbours lie along K, the others for one where they lie along N.
_VECTOR = tuple(
    Config(BLOCK_N=n, BLOCK_K=k, SPLIT_K=1, num_warps=warps, num_stages=2) for n, k, warps in (
        (1, 2048, 4), (2, 1024, 4), (4, 512, 4), (4, 1024, 4), (8, 512, 4), (16, 256, 4), (16, 512, 8), (32, 128, 4),
        (32, 32, 4), (64, 32, 4), (64, 64, 4), (128, 16, 4), (128, 32, 4), (256, 16, 4), (512, 8, 4),
    )
)  # fmt: skip
_VECTOR_HOST = {
    "interpret": (Config(BLOCK_N=256, BLOCK_K=256, SPLIT_K=1, num_warps=4, num_stages=1),),
    "native": (Config(BLOCK_N=16, BLOCK_K=256, SPLIT_K=1, num_warps=1, num_stages=1),
               Config(BLOCK_N=256, BLOCK_K=16, SPLIT_K=1, num_warps=1, num_stages=1)),
}  # fmt: skip


def is_vector(config: Config) -> bool:
    """Whether it is for a product with a vector."""
    return "BLOCK_M" not in config.constants


def by_descriptor(config: Config) -> bool:
    """Whether its programs load through tensor descriptors."""
    return "WARP_SPECIALIZE" in config.constants


def on_matrix_units(dtype: np.dtype[Any]) -> bool:
    """Whether tl.dot multiplies such operands: floats, and int8 with sums in int32."""
    return dtype.kind not in "iu" or dtype == np.int8


def candidates(p: Problem, gpu: Hardware) -> Sequence[Config]:
    """Every configuration that may serve a product on a device; each gives a right result. Equal in a bucket."""
    p = key(p)
    if min(p.M, p.N) == 1:
        if gpu.on_host:
            return _VECTOR_HOST[gpu.family]
        return [*_VECTOR, *(_in_parts(c, s) for c in _VECTOR for s in _splits(p, c, gpu))]
    if not on_matrix_units(p.dtype):
        return _INTEGER
    if gpu.family == "native":
        few = p.M * p.N * p.batch <= 512 * 512  # programs for every thread
        if few or p.dtype.itemsize == 8:
            return _NATIVE[:1]
        whole = p.M % 256 == p.N % 256 == 0 and p.M * p.N * p.batch >= 1 << 20
        return _NATIVE[2:] if whole and p.dtype.itemsize == 4 else _NATIVE[1:2]
    if gpu.family == "interpret":
        found: Sequence[Config] = _INTERPRET.get(p.dtype.itemsize, _INTERPRET_HALF)
        return found[:1] if min(p.M, p.N) <= 64 or p.M * p.N <= 64**3 else found[-1:]
    if p.dtype.itemsize == 8:
        found = _DOUBLE
    elif p.dtype.itemsize == 4:
        found = _SINGLE
        if gpu.family != "nvidia":
            found = [c.replace(num_stages=2) for c in _SINGLE if gpu.family == "cdna" or c["BLOCK_M"] <= 64]
    elif p.dtype.itemsize == 1:
        found = {"nvidia": _BYTE, "cdna": _BYTE_AMD, "rdna": _HALF_RDNA}[gpu.family]
    else:
        cdna = _HALF_CDNA4 if gpu.target == "gfx950" else _HALF_CDNA
        found = {"nvidia": _HALF, "cdna": cdna, "rdna": _HALF_RDNA}[gpu.family]
    split = [_in_parts(c, s) for c in found for s in _splits(p, c, gpu)]
    return [*found, *split, *_mapped(p, gpu)]


def _mapped(p: Problem, gpu: Hardware) -> tuple[Config, ...]:
    """The persistent programs that load through descriptors, where hardware moves blocks by itself and the rows fit."""
    if p.dtype.itemsize > 2 or p.batch != 1 or min(p.M, p.N) < 64 or p.K < 64 or not set(p.layout) <= set("rc+"):
        return ()
    if p.dtype.itemsize == 1:  # its terms are neighbours in both operands
        if p.dtype.kind in "iu" or not p.layout.startswith("rc") or p.K < 128:
            return ()
        if gpu.target in _BLACKWELL and versions.require().number < (3, 9):  # takes more shared memory for the last
            return _DESCRIPTORS_BYTE[:-1]
        return _DESCRIPTORS_BYTE if gpu.target in _HOPPER + _BLACKWELL else ()
    if gpu.target in _BLACKWELL and versions.require().number >= (3, 9):  # older ones fail at specialised warps
        return _DESCRIPTORS + _SPECIALIZED
    return _DESCRIPTORS if gpu.target in _HOPPER + _BLACKWELL else ()


@functools.cache
def _in_parts(config: Config, split: int) -> Config:
    return config.replace(SPLIT_K=split)


def _splits(p: Problem, config: Config, gpu: Hardware) -> list[int]:
    """Into how many parts K may be cut: where the programs leave multiprocessors idle, and each part has some steps."""
    if is_vector(config):
        programs, least = cdiv(max(p.M, p.N), config["BLOCK_N"]) * p.batch, 1
    else:
        programs, least = cdiv(p.M, config["BLOCK_M"]) * cdiv(p.N, config["BLOCK_N"]) * p.batch, 4
    most = min(4 * gpu.multiprocessors // programs, p.K // (least * config["BLOCK_K"]), _SPLITS[-1])
    # Half as many parts as fit keep half of the multiprocessors busy: still fewer are no choice where these are one.
    return [s for s in _SPLITS if s <= most and (4 * s > most or programs * s >= gpu.multiprocessors)]


def fit(config: Config, p: Problem) -> Config:
    """A block larger than what there is of a size only computes zeros."""
    if by_descriptor(config):
        return config
    if is_vector(config):
        n, k = (min(config[f"BLOCK_{x}"], next_power_of_2(size)) for x, size in (("N", max(p.M, p.N)), ("K", p.K)))
        if (n, k) == (config["BLOCK_N"], config["BLOCK_K"]):
            return config
        return config.replace(BLOCK_N=n, BLOCK_K=k, num_warps=min(config.num_warps, max(1, n * k // 256)))
    least = 32 if p.dtype.itemsize == 1 else 16
    m, n, k = (
        min(config[f"BLOCK_{x}"], max(low, next_power_of_2(size)))
        for x, size, low in (("M", p.M, 16), ("N", p.N, 16), ("K", p.K, least))
    )
    warps = config.num_warps if m * n > 64 * 64 else min(config.num_warps, 4)
    if (m, n, k, warps) == (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config.num_warps):
        return config
    return config.replace(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, num_warps=warps)


_SUMMING = 3e-6  # seconds that a second kernel adds: its launch, and the end of the first
# Where the hardware moves blocks by itself, cycles of a step that addresses and masks do not take, and how much of
# storing a tile overlaps with the next; where some warps do nothing else, too.
_MAPPED, _APART = (-30.0, 0.5), (-50.0, 1.0)
#: No GPU has run these programs yet. Until one has, the model does not start with them; a search does time them.
_UNPROVEN = 1.25


_SPILLED = 1.5  # how much slower, by guess, a tile is whose sums do not all stay in registers


def _spills(config: Config, p: Problem, gpu: Hardware) -> bool:
    """Whether Triton compiles a large tile to spills (bench/kernels.py), where the sums alone do not tell it."""
    m, n, k, split = (config.constants.get(name, 1) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
    threads = config.num_warps * gpu.warp_size
    before39 = versions.require().number < (3, 9)
    added, odd_rows = p.layout.endswith("+"), p.N % 8 != 0  # an epilogue that reads a tile; stores of single elements
    unaligned = [x.isupper() or x == "s" for x in p.layout[:2]]
    if gpu.family == "cdna":  # eight warps of 256 registers, half of which hold the sums
        if m * n < 256 * 256 or p.dtype.itemsize != 2:
            return False
        return (k > 32 or split > 1 or added) if gpu.target == "gfx950" else odd_rows or (k > 32 and any(unaligned))
    sums = m * n / threads
    if gpu.family == "rdna":
        if before39 and p.dtype.itemsize == 4:
            return sums >= 32 and k >= 32
        return sums >= 128 and (added or p.dtype.itemsize == 1)
    if p.dtype.itemsize > 2:
        return gpu.target == "sm_80" and p.precision == "ieee" and sums >= 64 and k >= 32
    if sums >= 128 and (added or p.precision == "sums"):
        return True
    if p.dtype.itemsize == 1 and p.dtype.kind != "i" and not gpu.float8:  # converted in registers
        return (m + n) * k / threads > (64 if before39 else 128)
    if before39 and sums >= 128 and k >= 64 and gpu.target not in _HOPPER + _BLACKWELL and (odd_rows or p.batch > 1):
        return True
    # What is not aligned comes to shared memory through registers, an element at a time.
    return (m * unaligned[0] + n * unaligned[1]) * k / threads > 48


def cost(config: Config, p: Problem, gpu: Hardware) -> Estimate:
    """What a configuration costs: `hardware.product_cost`, with the second kernel of a product that is cut along K."""
    if is_vector(config):
        return _vector_cost(config, p, gpu)
    sizes = Tile(config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config.num_warps, config.num_stages)
    split = config.constants.get("SPLIT_K", 1)
    tiles = cdiv(p.M, sizes.m) * cdiv(p.N, sizes.n) * p.batch
    elements = (p.M * p.K + p.K * p.N + p.M * p.N) * p.batch
    mapped = by_descriptor(config)
    saved, hidden = (_APART if config["WARP_SPECIALIZE"] else _MAPPED) if mapped else (0.0, 0.0)
    found = product_cost(
        gpu, sizes, p.dtype, p.precision, tiles * split, cdiv(cdiv(p.K, sizes.k), split), elements * p.dtype.itemsize,
        extra_cycles=saved, persistent=mapped, hidden=hidden,
    )  # fmt: skip
    if _spills(config, p, gpu):
        found = found._replace(seconds=found.seconds * _SPILLED)
    if mapped:
        size = max(p.dtype.itemsize, 4 // p.dtype.itemsize)  # of the result, on its way out: of float8 up to float32
        staged = sizes.m * sizes.n * size // (2 if config["SUBTILE"] else 1)
        if p.layout.endswith("+"):  # and what is added to it, on its way in
            staged += 4 * sizes.m * sizes.n
        return found._replace(shared=found.shared + staged, seconds=found.seconds * _UNPROVEN)
    if p.layout.endswith("+") and gpu.family in ("cdna", "rdna"):  # it comes into the sums' places by shared memory
        found = found._replace(shared=max(found.shared, sizes.m * sizes.n * p.dtype.itemsize))
    return found if split == 1 else found._replace(seconds=found.seconds + _sum_cost(p, split, gpu))


def _sum_cost(p: Problem, split: int, gpu: Hardware) -> float:
    """Seconds of writing partial sums and adding them up; they stay in L2 where they fit."""
    moved = 2 * split * p.M * p.N * p.batch * max(4, p.dtype.itemsize)
    l2 = gpu.l2_rate * gpu.multiprocessors * gpu.clock
    return _SUMMING + moved / (l2 if moved < gpu.l2 else gpu.bandwidth)


def _vector_cost(config: Config, p: Problem, gpu: Hardware) -> Estimate:
    n, k, split, size = config["BLOCK_N"], config["BLOCK_K"], config["SPLIT_K"], p.dtype.itemsize
    count = max(p.M, p.N)
    along_k = p.layout[0 if p.N == 1 else 1] in ("rR" if p.N == 1 else "cC")
    programs = cdiv(count, n) * p.batch * split
    steps = cdiv(cdiv(p.K, k), split)
    if gpu.on_host:
        return Estimate(float(programs * steps) * (1.0 if (k >= n) == along_k else 2.0))
    threads = config.num_warps * gpu.warp_size
    registers = 30 + 1.5 * n * k * max(size, 4) / 4 / threads + n * k * size / 4 / threads
    at_once = max(gpu.occupancy(config.num_warps, registers, 0), 1) * gpu.multiprocessors
    if registers > gpu.max_registers:
        return Estimate(1.0 + registers, 0, registers)
    # A run of neighbours shorter than what memory moves at a time wastes the rest of it.
    run = (k if along_k else n) * size
    waste = max(1.0, 128 / run)
    rounds = cdiv(programs, at_once)
    # Little's law: what is on its way has to cover the latency.
    on_its_way = min(programs, at_once) * min(n, count) * min(k, p.K) * size
    rate = min(gpu.bandwidth, on_its_way / (1000 / gpu.clock))
    nbytes = (count * p.K + p.K + count) * p.batch * size * waste
    seconds = nbytes / rate + rounds * 1500 / gpu.clock + 1e-9 * steps
    return Estimate(seconds + (_sum_cost(p, split, gpu) if split > 1 else 0.0), 0, registers)
