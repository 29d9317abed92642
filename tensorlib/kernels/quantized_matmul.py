"""Products with quantised operands: scaled float8, and weights of 8 and of 4 bits beside activations of 16 or 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import matmul_tiles as tiles
from tensorlib.kernels.epilogues import Epilogue, scaled
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.matmul import accumulator, add_parts, precision, product
from tensorlib.kernels.matmul import contiguous as copied
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import Estimate, Hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _rescaled(acc, scale_a, scale_b):
    return acc * scale_a * scale_b


@jit
def _rescaled_to(acc, scale_a, scale_b, scale_result):
    return acc * scale_a * scale_b / scale_result


@jit
def _rescaled_add(acc, scale_a, scale_b, bias):
    return acc * scale_a * scale_b + bias


@jit
def _rescaled_add_to(acc, scale_a, scale_b, bias, scale_result):
    return (acc * scale_a * scale_b + bias) / scale_result


def scaled_matmul(
    out: DeviceArray, input: DeviceArray, mat2: DeviceArray, scale_a: DeviceArray, scale_b: DeviceArray,
    bias: DeviceArray | None, scale_result: DeviceArray | None, fast: bool,
) -> None:  # fmt: skip
    """out = (input @ mat2) scale_a scale_b + bias, divided by scale_result; scales of one element, (M, 1) or (1, N)."""
    values = [s.reshape((1, 1)) if s.size == 1 else s for s in (scale_a, scale_b)]
    function = _rescaled
    if bias is not None:
        values.append(bias)
        function = _rescaled_add
    if scale_result is not None:
        values.append(scale_result.reshape((1, 1)))
        function = _rescaled_to if bias is None else _rescaled_add_to
    product(out, input, mat2, Epilogue(function, tuple(values)), fast)


def int8_weight_matmul(out: DeviceArray, input: DeviceArray, weight: DeviceArray, scales: DeviceArray) -> None:
    """out = (input @ weight.T) scales: weight (N, K) of int8, brought to input's dtype in registers."""
    product(out, input, weight.T, Epilogue(scaled, (scales,)))


# ---------------------------------------------------------------------------------------------------- weights of 4 bits

# The layout is that of PyTorch's CUDA kernels, `_convert_weight_to_int4pack`: words of 32 bits (N/8, K/(16 I), 32, I/2)
# with I "inner" tiles of 16 terms. Word (i, j, t, p) has the eight weights of column n = 8 i + t/4 and terms
# k = 16 I j + 32 p + 2 (t % 4) + 8 a + b, for a in 0 .. 3 and b in 0, 1, at bits 4 (a + 4 b).


# One program owns BLOCK words of out; it reads a byte for each of their eight weights, two times in all.
@jit
def int4_pack_kernel(out, x, words, K, stride_n, stride_k, INNER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < words
    p = i % (INNER // 2)
    t = i // (INNER // 2) % 32
    outer = i // (INNER // 2) // 32
    tiles_k = K // (16 * INNER)
    n = outer // tiles_k * 8 + t // 4
    k = outer % tiles_k * 16 * INNER + p * 32 + t % 4 * 2
    word = tl.zeros((BLOCK,), tl.int32)
    for a in tl.static_range(4):
        byte = tl.load(x + n * stride_n + (k // 2 + 4 * a) * stride_k, mask=mask, other=0).to(tl.int32)
        word |= (byte >> 4 & 15) << 4 * a  # the even term lies in the upper half of its byte
        word |= (byte & 15) << 4 * (a + 4)
    tl.store(out + i, word, mask=mask)


# x (M, K) @ w.T, w = (q - 8) scale + zero with one scale and zero for each GROUP terms of a column. One program owns
# BLOCK_M x BLOCK_N elements, or with SPLIT_K > 1 one of SPLIT_K partial sums of them: then out is (SPLIT_K, M, N). It
# reads BLOCK_W words of each column at a time, each once, and multiplies their first weights, their second ones, ..,
# with the terms of x that these meet: eight products of BLOCK_W terms. ARRANGED: x is (M, 8, K/8), the terms that meet
# first weights first, each in the order of the words, and is read in whole lines; else it is (M, K).
@jit
def int4_matmul_kernel(
    out, x, w, scales, M, N, K, stride_xm, stride_xk, stride_sg, stride_sn, stride_sz,
    GROUP: tl.constexpr, INNER: tl.constexpr, ARRANGED: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    split = pid // (tiles_m * tiles_n)
    pid_m = pid % (tiles_m * tiles_n) % tiles_m
    pid_n = pid % (tiles_m * tiles_n) // tiles_m
    m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = m[:, None] < M
    mask_n = n[None, :] < N
    words = K // 8  # of a column
    steps = tl.cdiv(tl.cdiv(words, BLOCK_W), SPLIT_K)
    first = split * steps * BLOCK_W
    last = tl.minimum(first + steps * BLOCK_W, words)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for at in range(first, last, BLOCK_W):
        # Word number v of a column is (j * 4 + q) * I/2 + p, as its words lie in memory but for the columns between.
        v = at + tl.arange(0, BLOCK_W)
        p = v % (INNER // 2)
        q = v // (INNER // 2) % 4
        j = v // (2 * INNER)
        mask_v = v < last
        tile = (n // 8)[None, :].to(tl.int64) * (K // (16 * INNER)) + j[:, None]
        inside = mask_v[:, None] & mask_n
        word_at = (tile * 32 + ((n % 8) * 4)[None, :] + q[:, None]) * (INNER // 2) + p[:, None]
        word = tl.load(w + word_at, mask=inside, other=0)
        k = j * (16 * INNER) + p * 32 + q * 2
        s_ptrs = scales + (k // GROUP)[:, None].to(tl.int64) * stride_sg + n[None, :] * stride_sn
        scale = tl.load(s_ptrs, mask=inside, other=0).to(ACC)
        zero = tl.load(s_ptrs + stride_sz, mask=inside, other=0).to(ACC)
        terms = v if ARRANGED else k
        x_ptrs = x + m[:, None].to(tl.int64) * stride_xm + terms[None, :] * stride_xk
        for i in tl.static_range(8):  # bits 4 i .. 4 i + 3: terms k + 8 (i % 4) + i / 4
            y = ((word >> 4 * i) & 15) - 8
            y = (y.to(ACC) * scale + zero).to(x.dtype.element_ty)
            x_at = (i * words if ARRANGED else 8 * (i % 4) + i // 4) * stride_xk
            u = tl.load(x_ptrs + x_at, mask=mask_m & mask_v[None, :], other=0)
            acc = tl.dot(u, y, acc, input_precision=PRECISION, out_dtype=ACC)
    out += split.to(tl.int64) * M * N
    tl.store(out + (m[:, None].to(tl.int64) * N + n[None, :]), acc.to(out.dtype.element_ty), mask=mask_m & mask_n)


class Packed(NamedTuple):
    """A product with a weight of 4 bits, as the choice of its tile sees it."""

    M: int
    N: int
    K: int
    dtype: np.dtype[Any]
    group: int


def _tile(m: int, n: int, words: int, warps: int, stages: int) -> Config:
    return Config(BLOCK_M=m, BLOCK_N=n, BLOCK_W=words, SPLIT_K=1, num_warps=warps, num_stages=stages)


_TILES = (_tile(16, 32, 32, 4, 2), _tile(16, 64, 16, 4, 3), _tile(16, 64, 32, 4, 3), _tile(16, 128, 16, 4, 3),
          _tile(32, 64, 16, 4, 3), _tile(32, 128, 16, 4, 3), _tile(64, 64, 16, 4, 3), _tile(64, 128, 16, 4, 3),
          _tile(128, 128, 16, 8, 3))  # fmt: skip
_HOST = (_tile(64, 64, 32, 1, 1),)


def _candidates(p: Packed, gpu: Hardware) -> Sequence[Config]:
    if gpu.on_host:
        return _HOST
    p = _key(p)
    found = []
    for c in _TILES:
        if gpu.family != "nvidia":
            c = c.replace(num_stages=2)
        tiles_there = cdiv(p.M, c["BLOCK_M"]) * cdiv(p.N, c["BLOCK_N"])
        most = min(4 * gpu.multiprocessors // tiles_there, p.K // 8 // (4 * c["BLOCK_W"]))
        found += [c.replace(SPLIT_K=s) for s in (1, 2, 4, 8, 16) if s == 1 or s <= most]
    return found


def _fit(config: Config, p: Packed) -> Config:
    m, n = (min(config[f"BLOCK_{x}"], max(16, next_power_of_2(size))) for x, size in (("M", p.M), ("N", p.N)))
    return config.replace(BLOCK_M=m, BLOCK_N=n)


def _cost(config: Config, p: Packed, gpu: Hardware) -> Estimate:
    """That of a tile of 8 BLOCK_W terms, of which the weights are half a byte each and need some arithmetic."""
    split = config["SPLIT_K"]
    k = 8 * config["BLOCK_W"]
    same = Config(BLOCK_M=config["BLOCK_M"], BLOCK_N=config["BLOCK_N"], BLOCK_K=k, GROUP_M=8, SPLIT_K=split,
                  num_warps=config.num_warps, num_stages=config.num_stages)  # fmt: skip
    whole = tiles.Problem(p.M, p.N, p.K, 1, p.dtype, "ieee", "rc/int4")
    found = tiles.cost(same, whole, gpu)
    unpacking = p.N * p.K * cdiv(p.M, config["BLOCK_M"]) * 6 / (gpu.multiprocessors * 128 * gpu.clock)
    # Only words and scales pass through shared memory, and x without being staged.
    shared = config.num_stages * config["BLOCK_W"] * config["BLOCK_N"] * 8 + config["BLOCK_M"] * config["BLOCK_N"] * 4
    saved = (p.dtype.itemsize - 0.5) * p.N * p.K / gpu.bandwidth
    return Estimate(max(found.seconds - saved, 0.3 * found.seconds) + unpacking, shared, found.registers)


def int4_pack(out: DeviceArray, input: DeviceArray, inner: int) -> None:
    """out = the words of a weight (N, K/2) of uint8, two terms a byte."""
    launch(
        int4_pack_kernel, (cdiv(out.size, 256),), out, input, out.size, 2 * input.shape[1], *input.strides,
        INNER=inner, BLOCK=256,
    )  # fmt: skip


def int4_weight_matmul(
    out: DeviceArray, input: DeviceArray, packed: DeviceArray, scales: DeviceArray, group: int
) -> None:
    """out = input @ w.T: packed (N/8, K/(16 I), 32, I/2) as `int4_pack` makes it, scales (K/group, N, 2)."""
    if not out.size:
        return
    packed = contiguous(packed)
    (M, K), N, inner = input.shape, out.shape[1], 2 * packed.shape[3]
    arranged = M > _FEW
    if arranged:  # of k = 16 I j + 32 p + 8 a + 2 q + b, from (j, p, a, q, b) to (b, a, j, q, p)
        parts = contiguous(input).reshape((M, K // (16 * inner), inner // 2, 4, 4, 2)).transpose(0, 5, 3, 1, 4, 2)
        input = copied(parts).reshape((M, K))
    how, acc = precision(input.dtype, input.device), accumulator(input.dtype)

    def run(config: Config, out: DeviceArray) -> None:
        split = config["SPLIT_K"]
        sums: DeviceArray = out if split == 1 else empty((1, split, M, N), acc, out.device)
        launch(
            int4_matmul_kernel, (cdiv(M, config["BLOCK_M"]) * cdiv(N, config["BLOCK_N"]) * split,), sums, input,
            packed, scales, M, N, K, *input.strides, *scales.strides, GROUP=group, INNER=inner, ARRANGED=arranged,
            ACC=acc, PRECISION=how, **config.launch,
        )  # fmt: skip
        if split > 1:
            add_parts(out, sums)

    problem = Packed(M, N, K, input.dtype, group)
    run(INT4.choose(problem, input.device, run, (out,)), out)


_FEW = 32  # rows of x that are not worth the launch that arranges them


def _key(p: Packed) -> Packed:
    return p._replace(M=bucket(p.M), N=bucket(p.N), K=bucket(p.K))


INT4 = Tunable("int4_matmul", (int4_matmul_kernel,), _candidates, _key, _cost, fit=_fit)
