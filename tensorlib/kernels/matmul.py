"""Matrix products: one tiled kernel for every layout, batch, dtype and transposition, with an optional bias.

Operands are read through their strides, so neither a transpose nor a broadcast batch is ever copied. float16, bfloat16
and float32 accumulate in float32, float64 in float64, integers in int32 (int64 in int64).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty, expand
from tensorlib._device import device as Device
from tensorlib.kernels.pointwise import collapse, copy
from tensorlib.runtime.compiler import jit
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


class Tiles(NamedTuple):
    """Sizes of a program's tile, and how it is run."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def is_rdna(device: Device) -> bool:
    """Radeon GPUs: 32 lanes, half the registers a lane of a CDNA or NVIDIA one, no float32 matrix unit."""
    return device.type.startswith(("gfx11", "gfx12"))


def is_amd(device: Device) -> bool:
    """GPUs where num_stages counts register stages and shared memory holds 64 KB."""
    return device.type.startswith("gfx") or device.type == "hip"


def tiles(M: int, N: int, K: int, dtype: np.dtype[Any], device: Device) -> Tiles:
    """The tile for a product of (M, K) and (K, N): large enough to reuse its operands, small enough to fill the GPU."""
    if dtype.kind in "iu":  # no matrix unit: a broadcast product, held in registers
        return Tiles(16, 16, 16, 4, 1)
    if dtype.itemsize == 8:
        return Tiles(min(32, _fit(M)), min(32, _fit(N)), 16, 4, 2)
    stages = 2 if is_amd(device) else 3
    wide = dtype.itemsize == 4
    if is_rdna(device) or min(M, N) <= 64 or M * N <= 64 * 64 * 64:
        block_m, block_n = min(64, _fit(M)), min(64, _fit(N))
        block_k = 32 if wide or K <= 512 or max(block_m, block_n) == 64 else 64
        return Tiles(block_m, block_n, block_k, 4, stages)
    if wide:
        return Tiles(128, 64, 32, 8, stages)
    return Tiles(128, 128, 32 if device.type in ("sm_120", "sm_121") else 64, 8, stages)


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
    if dtype != _FLOAT32 or is_rdna(device) or device.type == "gfx90a":
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
    t = tiles(M, N, K, a.dtype, a.device)
    span = max(
        abs(s) * (n - 1) + abs(r) * (m - 1) for m, n, r, s in (
            (M + t.m, K + t.k, *a.strides[-2:]), (K + t.k, N + t.n, *b.strides[-2:]), (M + t.m, N + t.n, N, 1))
    )  # fmt: skip
    launch(
        matmul_kernel,
        (cdiv(M, t.m) * cdiv(N, t.n) * math.prod(lead),),
        out, a, b, bias, M, N, K, shape, strides[0], strides[1],
        *a.strides[-2:], *b.strides[-2:], *((0, 0) if bias is None else bias.strides),
        RANK=len(shape), HAS_BIAS=bias is not None, EVEN_K=K % t.k == 0, WIDE=span >= 1 << 31,
        DOT=a.dtype.kind not in "iu", ACC=accumulator(a.dtype), PRECISION=precision(a.dtype, a.device),
        BLOCK_M=t.m, BLOCK_N=t.n, BLOCK_K=t.k, GROUP_M=8,
        num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
