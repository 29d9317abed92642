"""Products of float8 matrices whose scales belong to blocks: 128 terms of one row, or of 128 rows.

DeepSeek-AI 2024, "DeepSeek-V3", section 3.3: sums of 128 products are made by the matrix unit, which on Hopper keeps
fewer bits of them than float32 has, and are added up in float32 after they were scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import matmul_tiles as tiles
from tensorlib.kernels.matmul import _FLOAT8, _NO_E4M3, _widened, add_parts, place_of, widened
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import Estimate, Hardware, hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

TERMS = 128  # that share a scale


# Scales of the block of terms that a step is in, for the rows or columns ``at``: one for all of them where a tile lies
# within 128 rows, else one each. ROWS: how many rows share one.
@jit
def _scales(scale, at, n, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    if ROWS % BLOCK == 0:
        s = tl.load(scale + at // ROWS * stride) + tl.zeros((BLOCK,), tl.float32)
    else:
        i = at + tl.arange(0, BLOCK)
        s = tl.load(scale + i // ROWS * stride, mask=i < n, other=0.0)
    return s


# One program owns BLOCK_M x BLOCK_N elements of out, or, with SPLIT_K > 1, of one of SPLIT_K partial sums of it: then
# out is (SPLIT_K, M, N). It reads BLOCK_M x K bytes of a and K x BLOCK_N of b, and their scales, and writes its tile
# once. BLOCK_K divides 128. WIDEN: the dtype that operands are brought to in registers.
@jit
def block_scaled_kernel(
    out, a, b, scale_a, scale_b, bias, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
    stride_sam, stride_sak, stride_sbk, stride_sbn, stride_bias,
    ROWS_A: tl.constexpr, ROWS_B: tl.constexpr, HAS_BIAS: tl.constexpr, EVEN_K: tl.constexpr, WIDE: tl.constexpr,
    WIDEN: tl.constexpr, SPLIT_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    part = pid // (tiles_m * tiles_n)
    pid_m, pid_n = place_of(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    first_m = pid_m * BLOCK_M
    first_n = pid_n * BLOCK_N
    offs_m = first_m + tl.arange(0, BLOCK_M)
    offs_n = first_n + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    if WIDE:
        offs_m = offs_m.to(tl.int64)
        offs_n = offs_n.to(tl.int64)
        offs_k = offs_k.to(tl.int64)
    mask_m = offs_m[:, None] < M
    mask_n = offs_n[None, :] < N
    # In whole blocks of 128 terms.
    steps = tl.cdiv(tl.cdiv(K, 128), SPLIT_K) * 128
    first = part * steps
    last = tl.minimum(first + steps, K)
    a_ptrs = a + (offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak)
    b_ptrs = b + (offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn)
    a_ptrs += first * tl.cast(stride_ak, tl.int64)
    b_ptrs += first * tl.cast(stride_bk, tl.int64)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(first, last, BLOCK_K):
        if EVEN_K:
            x = tl.load(a_ptrs, mask=mask_m, other=0.0)
            y = tl.load(b_ptrs, mask=mask_n, other=0.0)
        else:
            x = tl.load(a_ptrs, mask=mask_m & (offs_k[None, :] < last - k), other=0.0)
            y = tl.load(b_ptrs, mask=mask_n & (offs_k[:, None] < last - k), other=0.0)
        if WIDEN is not None:
            x = widened(x, WIDEN)
            y = widened(y, WIDEN)
        block = k // 128
        u = _scales(scale_a + block * stride_sak, first_m, M, stride_sam, ROWS_A, BLOCK_M)
        v = _scales(scale_b + block * stride_sbk, first_n, N, stride_sbn, ROWS_B, BLOCK_N)
        acc += tl.dot(x, y, out_dtype=tl.float32) * u[:, None] * v[None, :]
        a_ptrs += tl.cast(stride_ak, tl.int64) * BLOCK_K
        b_ptrs += tl.cast(stride_bk, tl.int64) * BLOCK_K
    if HAS_BIAS:
        if part == 0:
            acc += tl.load(bias + offs_n * stride_bias, mask=offs_n < N, other=0.0).to(tl.float32)[None, :]
    out += tl.cast(part, tl.int64) * M * N
    tl.store(out + (offs_m[:, None] * N + offs_n[None, :]), acc.to(out.dtype.element_ty), mask=mask_m & mask_n)


class Scaled(NamedTuple):
    """A product with scales of blocks as the choice of its tile sees it."""

    M: int
    N: int
    K: int
    dtype: np.dtype[Any]


def _tile(m: int, n: int, k: int, warps: int, stages: int) -> Config:
    return Config(warps, stages, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, GROUP_M=8, SPLIT_K=1)


#: By family. A step's sums and those of all steps are both in registers: 128 rows and columns take 8 warps.
_TILES = {
    "nvidia": (
        _tile(128, 128, 128, 8, 3), _tile(128, 128, 128, 8, 2), _tile(64, 128, 128, 8, 3), _tile(64, 64, 128, 4, 3),
        _tile(64, 128, 128, 4, 3), _tile(16, 64, 128, 4, 4), _tile(16, 128, 128, 4, 4), _tile(32, 64, 128, 4, 3),
    ),
    "cdna": (
        _tile(128, 128, 64, 8, 2), _tile(64, 128, 128, 4, 2), _tile(64, 64, 128, 4, 2), _tile(16, 64, 128, 4, 2),
        _tile(32, 64, 128, 4, 2),
    ),
    "rdna": (_tile(64, 64, 32, 4, 2), _tile(32, 64, 64, 4, 2), _tile(16, 64, 64, 4, 2)),
}  # fmt: skip
_HOST = (_tile(64, 64, 128, 1, 1),)


def _candidates(p: Scaled, gpu: Hardware) -> Sequence[Config]:
    p = _key(p)
    found = []
    for c in _TILES.get(gpu.family, _HOST):
        if gpu.on_host:
            return _HOST
        if gpu.family == "nvidia" and not gpu.float8:  # operands as float16, in registers
            if c["BLOCK_M"] * c["BLOCK_N"] > 1024 * c.num_warps:
                continue
            c = c.replace(BLOCK_K=64)
        tiles_there = cdiv(p.M, c["BLOCK_M"]) * cdiv(p.N, c["BLOCK_N"])
        most = min(2 * gpu.multiprocessors // tiles_there, p.K // (4 * TERMS))
        found += [c.replace(SPLIT_K=s) for s in (1, 2, 4, 8) if s == 1 or s <= most]
    return found or _HOST


def _key(p: Scaled) -> Scaled:
    return p._replace(M=bucket(p.M), N=bucket(p.N), K=bucket(p.K))


def _fit(config: Config, p: Scaled) -> Config:
    m, n = (min(config[f"BLOCK_{x}"], max(16, next_power_of_2(size))) for x, size in (("M", p.M), ("N", p.N)))
    return config.replace(BLOCK_M=m, BLOCK_N=n)


def _cost(config: Config, p: Scaled, gpu: Hardware) -> Estimate:
    """A plain product's, and the registers of the second sums with what it takes to scale them."""
    found = tiles.cost(config, tiles.Problem(p.M, p.N, p.K, 1, p.dtype, "ieee", "rc"), gpu)
    lanes = config.num_warps * gpu.warp_size
    each = config["BLOCK_M"] * config["BLOCK_N"] / lanes
    scaling = p.M * p.N * cdiv(p.K, config["BLOCK_K"]) * 2 / (gpu.multiprocessors * 128 * gpu.clock)
    return found._replace(seconds=found.seconds + scaling, registers=found.registers + each)


BLOCK_SCALED = Tunable("block_scaled_matmul", (block_scaled_kernel,), _candidates, _key, _cost, fit=_fit)


def block_scaled_matmul(
    out: DeviceArray, input: DeviceArray, mat2: DeviceArray, scale_a: DeviceArray, scale_b: DeviceArray,
    bias: DeviceArray | None, rows_a: int, rows_b: int,
) -> None:  # fmt: skip
    """out = Σ over blocks of 128 terms of (input @ mat2) scale_a scale_b, + bias.

    input (M, K), mat2 (K, N), scale_a (M / rows_a, K / 128), scale_b (K / 128, N / rows_b), rounded up; rows 1 or 128.
    """
    if not out.size:
        return
    (M, K), N = input.shape, mat2.shape[1]
    gpu = hardware(input.device)
    a, b, wider = input, mat2, _widened(input, mat2, gpu)
    if gpu.target in _NO_E4M3:
        a, b = (x.view(np.uint8) if x.dtype == _FLOAT8[0] else x for x in (a, b))

    def run(config: Config, out: DeviceArray) -> None:
        m, n, k, split = (config[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
        sums: DeviceArray = out if split == 1 else empty((1, split, M, N), np.dtype(np.float32), out.device)
        spans = ((M + m, K + TERMS, a.strides), (K + TERMS, N + n, b.strides), (M + m, N + n, (N, 1)))
        launch(
            block_scaled_kernel, (cdiv(M, m) * cdiv(N, n) * split,), sums, a, b, scale_a, scale_b, bias, M, N, K,
            *a.strides, *b.strides, *scale_a.strides, *scale_b.strides, 0 if bias is None else bias.strides[0],
            ROWS_A=rows_a, ROWS_B=rows_b, HAS_BIAS=bias is not None, EVEN_K=K % k == 0,
            WIDE=any(abs(s) * rows + abs(t) * columns >= 1 << 31 for rows, columns, (s, t) in spans), WIDEN=wider,
            **config.launch,
        )  # fmt: skip
        if split > 1:
            add_parts(out, sums)

    run(BLOCK_SCALED.choose(Scaled(M, N, K, input.dtype), input.device, run, (out,)), out)
