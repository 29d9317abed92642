"""Matrix products: one tiled kernel for every layout, batch, dtype and transposition, with an optional bias.

Operands are read through their strides, so neither a transpose nor a broadcast batch is ever copied. float16, bfloat16
and float32 accumulate in float32, float64 in float64, integers in int32 (int64 in int64).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from tensorlib._array import DeviceArray, empty, expand, to_device
from tensorlib._device import device as Device
from tensorlib.kernels.pointwise import collapse, copy
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import Estimate, Hardware, Tile, hardware, product_cost
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

#: How float32 operands are multiplied on tensor cores: "ieee" (full float32, PyTorch's default) or "tf32" (10 bits of
#: mantissa, several times faster; targets without it keep "ieee").
FLOAT32_PRECISION = "ieee"

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


# One program owns BLOCK_M x BLOCK_N elements of one matrix of the batch. It reads BLOCK_M x K of a and K x BLOCK_N
# of b, and writes its tile once: M*K*N/BLOCK_N + K*N*M/BLOCK_M elements read in all, M*N written. Programs run in
# groups of GROUP_M rows of tiles, so that neighbours find each other's operands in L2 (the Triton tutorial's order).
@jit
def matmul_kernel(
    out, a, b, bias, M, N, K, batch_shape, a_strides, b_strides,
    stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn,
    RANK: tl.constexpr, HAS_BIAS: tl.constexpr, EVEN_K: tl.constexpr, WIDE: tl.constexpr, DOT: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    batch = pid // (tiles_m * tiles_n)
    pid = pid % (tiles_m * tiles_n)
    first = pid // (GROUP_M * tiles_n) * GROUP_M
    rows = tl.minimum(tiles_m - first, GROUP_M)
    pid_m = first + pid % (GROUP_M * tiles_n) % rows
    pid_n = pid % (GROUP_M * tiles_n) // rows

    rest = tl.cast(batch, tl.int64)
    out += rest * M * N
    for d in tl.static_range(RANK - 1, -1, -1):
        index = rest % batch_shape[d]
        rest = rest // batch_shape[d]
        a += index * a_strides[d]
        b += index * b_strides[d]

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    if WIDE:
        offs_m = offs_m.to(tl.int64)
        offs_n = offs_n.to(tl.int64)
        offs_k = offs_k.to(tl.int64)
    mask_m = offs_m[:, None] < M
    mask_n = offs_n[None, :] < N
    a_ptrs = a + (offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak)
    b_ptrs = b + (offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn)
    # A step over BLOCK_K elements of K; a stride of 1 is a constexpr, hence the cast.
    step_a = tl.cast(stride_ak, tl.int64) * BLOCK_K
    step_b = tl.cast(stride_bk, tl.int64) * BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            x = tl.load(a_ptrs, mask=mask_m, other=0)
            y = tl.load(b_ptrs, mask=mask_n, other=0)
        else:
            x = tl.load(a_ptrs, mask=mask_m & (offs_k[None, :] < K - k), other=0)
            y = tl.load(b_ptrs, mask=mask_n & (offs_k[:, None] < K - k), other=0)
        if DOT:
            acc = tl.dot(x, y, acc, input_precision=PRECISION, out_dtype=ACC)
        else:
            acc += tl.sum(x.to(ACC)[:, :, None] * y.to(ACC)[None, :, :], axis=1)
        a_ptrs += step_a
        b_ptrs += step_b
    inside = mask_m & mask_n
    if HAS_BIAS:
        acc += tl.load(bias + offs_m[:, None] * stride_cm + offs_n[None, :] * stride_cn, mask=inside, other=0).to(ACC)
    tl.store(out + (offs_m[:, None] * N + offs_n[None, :]), acc.to(out.dtype.element_ty), mask=inside)


class Problem(NamedTuple):
    """A product as the choice of its tile sees it."""

    M: int
    N: int
    K: int
    batch: int
    dtype: np.dtype[Any]
    precision: str
    layout: str  # of a and b: see `_layout`


def _layout(stride_row: int, stride_column: int, itemsize: int) -> str:
    """"r": elements of a row are neighbours, "c": of a column, "s": of neither. Capital: what follows is unaligned."""
    if stride_column == 1:
        return "r" if stride_row * itemsize % 16 == 0 else "R"
    if stride_row == 1:
        return "c" if stride_column * itemsize % 16 == 0 else "C"
    return "s"


def _bucket(p: Problem) -> Problem:
    return p._replace(M=bucket(p.M), N=bucket(p.N), K=bucket(p.K), batch=next_power_of_2(p.batch))


def _tile(m: int, n: int, k: int, warps: int, stages: int) -> Config:
    return Config(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, GROUP_M=8, num_warps=warps, num_stages=stages)


# Small ones that fill a GPU with few rows, and larger ones that read less: a program of m x n reads 1/m + 1/n elements
# for each that it multiplies.
_HALF = tuple(
    _tile(*sizes) for sizes in (
        (16, 64, 64, 4, 4), (16, 128, 64, 4, 4), (32, 32, 64, 4, 4), (32, 64, 64, 4, 4), (64, 32, 64, 4, 4),
        (64, 64, 32, 4, 4), (64, 64, 64, 4, 3), (64, 64, 64, 4, 4), (64, 128, 32, 4, 4), (128, 64, 32, 4, 4),
        (64, 128, 64, 4, 3), (128, 64, 64, 4, 3), (128, 128, 32, 4, 4), (128, 128, 32, 8, 3), (128, 128, 32, 8, 4),
        (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (64, 256, 64, 8, 3), (256, 64, 64, 8, 3),
        (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 4),
    )
)  # fmt: skip
_HALF_AMD = tuple(
    _tile(*sizes, 2) for sizes in (
        (16, 64, 64, 4), (32, 32, 64, 4), (32, 64, 64, 4), (64, 32, 64, 4), (64, 64, 32, 4), (64, 64, 64, 4),
        (64, 128, 32, 4), (128, 64, 32, 4), (64, 128, 64, 4), (128, 64, 64, 4), (128, 128, 32, 4), (128, 128, 32, 8),
        (128, 128, 64, 4), (128, 128, 64, 8), (128, 256, 32, 8), (256, 128, 32, 8), (128, 256, 64, 8),
        (256, 128, 64, 8),
    )
)  # fmt: skip
_HALF_RDNA = tuple(
    _tile(*sizes, 2) for sizes in (
        (16, 64, 64, 4), (32, 32, 32, 4), (32, 64, 32, 4), (64, 32, 32, 4), (64, 64, 32, 4), (64, 64, 64, 4),
        (64, 128, 32, 4), (128, 64, 32, 4), (128, 128, 32, 8), (128, 128, 64, 8),
    )
)  # fmt: skip
_SINGLE = tuple(
    _tile(*sizes) for sizes in (
        (16, 64, 32, 4, 3), (32, 32, 32, 4, 3), (32, 64, 32, 4, 3), (64, 32, 32, 4, 3), (64, 64, 16, 4, 3),
        (64, 64, 32, 4, 3), (64, 128, 16, 8, 3), (64, 128, 32, 8, 3), (128, 64, 16, 8, 3), (128, 64, 32, 8, 3),
        (128, 128, 16, 8, 3), (128, 128, 32, 8, 3),
    )
)  # fmt: skip
_DOUBLE = tuple(
    _tile(*sizes) for sizes in (
        (16, 16, 16, 4, 2), (32, 32, 16, 4, 2), (64, 32, 16, 4, 2), (32, 64, 16, 4, 2), (64, 64, 16, 8, 2),
    )
)  # fmt: skip
_INTEGER = (_tile(16, 16, 16, 4, 1),)  # no matrix unit: a broadcast product, held in registers
_INTERPRET = {8: (_tile(32, 32, 16, 4, 2),), 4: (_tile(64, 64, 32, 4, 2), _tile(128, 64, 32, 8, 2))}
_NATIVE = (_tile(64, 64, 64, 1, 1), _tile(128, 128, 128, 1, 1))  # tiles in the second cache, panels in the first
_INTERPRET_HALF = (_tile(64, 64, 64, 4, 2), _tile(128, 128, 64, 8, 2))


def _candidates(p: Problem, gpu: Hardware) -> Sequence[Config]:
    if p.dtype.kind in "iu":
        return _INTEGER
    if gpu.family == "native":
        few = p.M * p.N * p.batch <= 512 * 512  # programs for every thread
        return _NATIVE[:1] if few or p.dtype.itemsize == 8 else _NATIVE[1:]
    if gpu.family == "interpret":
        found = _INTERPRET.get(p.dtype.itemsize, _INTERPRET_HALF)
        return found[:1] if min(p.M, p.N) <= 64 or p.M * p.N <= 64**3 else found[-1:]
    if p.dtype.itemsize == 8:
        return _DOUBLE
    if p.dtype.itemsize == 4:
        if gpu.family == "nvidia":
            return _SINGLE
        return tuple(c.replace(num_stages=2) for c in _SINGLE if gpu.family == "cdna" or c["BLOCK_M"] <= 64)
    return {"nvidia": _HALF, "cdna": _HALF_AMD, "rdna": _HALF_RDNA}[gpu.family]


def _cut(config: Config, p: Problem) -> Config:
    """A block larger than what there is of a size only computes zeros."""
    m, n, k = (min(config[f"BLOCK_{x}"], _fit(size)) for x, size in (("M", p.M), ("N", p.N), ("K", p.K)))
    warps = config.num_warps if m * n > 64 * 64 else min(config.num_warps, 4)
    if (m, n, k, warps) == (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config.num_warps):
        return config
    return config.replace(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, num_warps=warps)


def _cost(config: Config, p: Problem, gpu: Hardware) -> Estimate:
    tile = Tile(config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config.num_warps, config.num_stages)
    programs = cdiv(p.M, tile.m) * cdiv(p.N, tile.n) * p.batch
    elements = (p.M * p.K + p.K * p.N + p.M * p.N) * p.batch
    return product_cost(gpu, tile, p.dtype, p.precision, programs, cdiv(p.K, tile.k), elements * p.dtype.itemsize)


def _fit(n: int) -> int:
    """The tile that holds n: a power of two from 16, which is the least that tl.dot takes."""
    return max(16, next_power_of_2(n))


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that products of ``dtype`` are summed in."""
    if dtype.kind in "iu":
        return _INT64 if dtype.itemsize == 8 else _INT32
    return _FLOAT64 if dtype == _FLOAT64 else _FLOAT32


def precision(dtype: np.dtype[Any], device: Device) -> str:
    """``input_precision`` of tl.dot for operands of this dtype."""
    if dtype != _FLOAT32 or FLOAT32_PRECISION == "ieee" or not hardware(device).tf32:
        return "ieee"
    return FLOAT32_PRECISION


def contiguous(x: DeviceArray) -> DeviceArray:
    """A contiguous copy."""
    out: DeviceArray = empty(x.shape, x.dtype, x.device)
    copy(out, x)
    return out


def rows(x: DeviceArray, n: int | None = None) -> DeviceArray:
    """(…, n) as (rows, n), n the last size for None: a view where the strides allow one, else of a copy."""
    n = x.shape[-1] if n is None else n
    shape = (x.size // n if n else math.prod(x.shape[:-1]), n)
    try:
        return x.reshape(shape)
    except ValueError:
        return contiguous(x).reshape(shape)


def matmul(out: DeviceArray, input: DeviceArray, other: DeviceArray) -> None:
    """out = input @ other with leading dimensions broadcast; 1-D operands as a row and as a column."""
    a = input[None] if input.ndim == 1 else input
    b = other[:, None] if other.ndim == 1 else other
    product(out, a, b, None)


def linear(out: DeviceArray, input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None) -> None:
    """out = input @ weight.T + bias: one product over all rows of input."""
    if bias is not None:
        bias = rows(expand(bias, out.shape), weight.shape[0] if weight.ndim == 2 else 1)
    product(out, rows(input), weight.T if weight.ndim == 2 else weight[:, None], bias)


def gram(out: DeviceArray, input: DeviceArray, other: DeviceArray) -> None:
    """out = rows(input).T @ rows(other)."""
    product(out, rows(input).T, rows(other), None)


def product(out: DeviceArray, a: DeviceArray, b: DeviceArray, bias: DeviceArray | None) -> None:
    """out = a @ b (+ bias): a (…, M, K), b (…, K, N), contiguous out of M*N elements for each matrix of the batch."""
    if not out.size:
        return
    if b.ndim == 2 and a.ndim > 2:
        try:  # one tall matrix instead of a batch
            a = a.reshape((math.prod(a.shape[:-1]), a.shape[-1]))
        except ValueError:
            pass
    M, K = a.shape[-2:]
    N = b.shape[-1]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = expand(a, (*lead, M, K)), expand(b, (*lead, K, N))
    shape, strides = collapse(lead, [a.strides[:-2], b.strides[:-2]])
    (stride_am, stride_ak), (stride_bk, stride_bn) = a.strides[-2:], b.strides[-2:]
    matrices, dtype = math.prod(lead), a.dtype
    how = precision(dtype, a.device)

    def run(config: Config, out: DeviceArray) -> None:
        m, n, k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
        span = max(
            abs(s) * (q - 1) + abs(r) * (p - 1) for p, q, r, s in (
                (M + m, K + k, stride_am, stride_ak), (K + k, N + n, stride_bk, stride_bn), (M + m, N + n, N, 1))
        )  # fmt: skip
        launch(
            matmul_kernel,
            (cdiv(M, m) * cdiv(N, n) * matrices,),
            out, a, b, bias, M, N, K, shape, strides[0], strides[1],
            stride_am, stride_ak, stride_bk, stride_bn, *((0, 0) if bias is None else bias.strides),
            RANK=len(shape), HAS_BIAS=bias is not None, EVEN_K=K % k == 0, WIDE=span >= 1 << 31,
            DOT=dtype.kind not in "iu", ACC=accumulator(dtype), PRECISION=how, **config.launch,
        )  # fmt: skip

    layout = _layout(stride_am, stride_ak, dtype.itemsize) + _layout(stride_bk, stride_bn, dtype.itemsize)
    problem = Problem(M, N, K, matrices, dtype, how, layout)
    run(MATMUL.choose(problem, a.device, run, (out,)), out)


def noise(shape: tuple[int, ...], dtype: np.dtype[Any], device: Device) -> DeviceArray:
    """Normal numbers that repeat after some thousands: zeros would be multiplied faster, and compare equal."""
    made: DeviceArray
    if device.compile_only:
        made = empty(shape, dtype, device)
    else:
        numbers = np.random.default_rng(0).standard_normal(65521).astype(dtype)
        made = to_device(np.resize(numbers, shape), device)
    return made


def _examples(device: Device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Products of transformers: projections and their gradients, and one token at a time."""
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), _FLOAT32):
        for tokens, width in ((4096, 768), (8192, 1024), (8192, 4096), (16, 4096)):
            for M, N, K in ((tokens, width, width), (tokens, 4 * width, width), (tokens, width, 4 * width)):
                text = f"({M}, {K}) @ ({K}, {N}) {dtype}"
                yield text, lambda M=M, N=N, K=K, dtype=dtype: _example(M, N, K, dtype, device, False)
                if tokens > 16:  # the gradient of the weight
                    text = f"({K}, {M}) @ ({M}, {N}) {dtype}"
                    yield text, lambda M=K, N=N, K=M, dtype=dtype: _example(M, N, K, dtype, device, True)


def _example(M: int, N: int, K: int, dtype: np.dtype[Any], device: Device, gradient: bool) -> None:
    """A product of made-up numbers, as a layer (its weight transposed) or its weight's gradient does it."""
    a = noise((K, M), dtype, device).T if gradient else noise((M, K), dtype, device)
    b = noise((K, N), dtype, device) if gradient else noise((N, K), dtype, device).T
    matmul(empty((M, N), dtype, device), a, b)


MATMUL = Tunable("matmul", (matmul_kernel,), _candidates, _bucket, _cost, fit=_cut, examples=_examples)
