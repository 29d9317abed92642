"""Convolutions as implicit matrix products: patches are gathered tile by tile, and never exist in memory.

One to three dims go by one kernel: dims of size 1 are constants in a compiled kernel, and cost nothing there. Every
operand is read through its strides. float16, bfloat16 and float32 accumulate in float32, float64 in float64,
integers in int32 (int64 in int64). No atomics: the same inputs give the same bits.
Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib._device import device as Device
from tensorlib.kernels.matmul import Tiles, accumulator, is_amd, is_rdna, precision
from tensorlib.kernels.reduction import SUM, reduce
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

PROGRAMS = 512  # with fewer, a weight gradient is split over positions, so that a large GPU has work


@jit
def _product(a, b, acc, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):
    if DOT:
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    else:
        acc += tl.sum(a.to(ACC)[:, :, None] * b.to(ACC)[None, :, :], axis=1)
    return acc


# Where tap t of the kernel, at position y of the result, reads the source: (index, whether there is such an element).
# BACKWARD: the source is the output's gradient; position y was read by output (y + padding - t * dilation) / stride.
@jit
def _source(y, t, size, stride, padding, dilation, BACKWARD: tl.constexpr):
    if BACKWARD:
        at = y + padding - t * dilation
        index = at // stride
        inside = (at >= 0) & (index < size) & (at % stride == 0)
    else:
        index = y * stride - padding + t * dilation
        inside = (index >= 0) & (index < size)
    return index, inside


# One program owns BLOCK_M channels of one group and BLOCK_P positions (n, d, y, z) of the result. It walks the BLOCK_K
# elements under the kernel (channel, f, i, j) at a time: K * P / BLOCK_P weights and K * M / BLOCK_M source elements a
# position read in all, the latter mostly from cache; M * P written. Programs next to each other share positions.
@jit
def convolution_kernel(
    out, x, weight, bias, M, P, K, C, groups, size, kernel, result, x_strides, w_strides, stride, padding, dilation,
    HAS_BIAS: tl.constexpr, BACKWARD: tl.constexpr, WIDE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles = tiles_m * tl.cdiv(P, BLOCK_P)
    group = tl.program_id(0) // tiles
    pid = tl.program_id(0) % tiles
    if WIDE:
        group = group.to(tl.int64)
        pid = pid.to(tl.int64)
    m = pid % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    p = pid // tiles_m * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_m, mask_p = m < M, p < P
    n = p // (result[0] * result[1] * result[2])
    d = p // (result[1] * result[2]) % result[0]
    y = p // result[2] % result[1]
    z = p % result[2]
    x += group * C * x_strides[1]
    # Forward the weight of a group begins at its first output channel, backward at that of its first input's outputs.
    if BACKWARD:
        weight += group * C * w_strides[0]
    else:
        weight += group * M * w_strides[0]
    offs_p = n * x_strides[0]
    acc = tl.zeros((BLOCK_M, BLOCK_P), dtype=ACC)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        c = k // (kernel[0] * kernel[1] * kernel[2])
        f = k // (kernel[1] * kernel[2]) % kernel[0]
        i = k // kernel[2] % kernel[1]
        j = k % kernel[2]
        mask_k = k < K
        if WIDE:
            c = c.to(tl.int64)
        if BACKWARD:
            offs_k = c * w_strides[0]
            offs_m = m * w_strides[1]
        else:
            offs_k = c * w_strides[1]
            offs_m = m * w_strides[0]
        offs_k += f * w_strides[2] + i * w_strides[3] + j * w_strides[4]
        w = tl.load(weight + (offs_m[:, None] + offs_k[None, :]), mask=mask_m[:, None] & mask_k[None, :], other=0)
        e, in_e = _source(d[None, :], f[:, None], size[0], stride[0], padding[0], dilation[0], BACKWARD)
        h, in_h = _source(y[None, :], i[:, None], size[1], stride[1], padding[1], dilation[1], BACKWARD)
        v, in_v = _source(z[None, :], j[:, None], size[2], stride[2], padding[2], dilation[2], BACKWARD)
        at = (c * x_strides[1])[:, None] + offs_p[None, :] + e * x_strides[2] + h * x_strides[3] + v * x_strides[4]
        s = tl.load(x + at, mask=in_e & in_h & in_v & mask_k[:, None] & mask_p[None, :], other=0)
        acc = _product(w, s, acc, DOT, ACC, PRECISION)
    channel = group * M + m
    if HAS_BIAS:
        acc += tl.load(bias[0] + channel * bias[1], mask=mask_m, other=0).to(ACC)[:, None]
    plane = result[0] * result[1] * result[2]
    at = (n * (groups * M) * plane + p % plane)[None, :] + (channel * plane)[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m[:, None] & mask_p[None, :])


# One program owns BLOCK_M output channels and BLOCK_K kernel elements (channel, f, i, j) of one group, and positions
# chunk * program_id(1) … of the output; it walks them BLOCK_P at a time. P * M * K / BLOCK_K + P * K * M / BLOCK_M
# elements read in all; M * K written by each of the programs that share positions out among them.
@jit
def convolution_weight_kernel(
    out, g, x, M, P, K, C, groups, chunk, size, kernel, result, g_strides, x_strides, stride, padding, dilation,
    WIDE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles = tiles_m * tl.cdiv(K, BLOCK_K)
    group = tl.program_id(0) // tiles
    pid = tl.program_id(0) % tiles
    part = tl.program_id(1)
    if WIDE:
        group = group.to(tl.int64)
        part = part.to(tl.int64)
    m = pid % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid // tiles_m * BLOCK_K + tl.arange(0, BLOCK_K)
    mask_m, mask_k = m < M, k < K
    c = k // (kernel[0] * kernel[1] * kernel[2])
    f = k // (kernel[1] * kernel[2]) % kernel[0]
    i = k // kernel[2] % kernel[1]
    j = k % kernel[2]
    if WIDE:
        c = c.to(tl.int64)
    offs_m = (group * M + m) * g_strides[1]
    offs_c = (group * C + c) * x_strides[1]
    first = part * chunk
    last = tl.minimum(first + chunk, P)
    acc = tl.zeros((BLOCK_M, BLOCK_K), dtype=ACC)
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask_p = p < last
        n = p // (result[0] * result[1] * result[2])
        d = p // (result[1] * result[2]) % result[0]
        y = p // result[2] % result[1]
        z = p % result[2]
        offs_p = n * g_strides[0] + d * g_strides[2] + y * g_strides[3] + z * g_strides[4]
        u = tl.load(g + (offs_m[:, None] + offs_p[None, :]), mask=mask_m[:, None] & mask_p[None, :], other=0)
        e, in_e = _source(d[:, None], f[None, :], size[0], stride[0], padding[0], dilation[0], False)
        h, in_h = _source(y[:, None], i[None, :], size[1], stride[1], padding[1], dilation[1], False)
        v, in_v = _source(z[:, None], j[None, :], size[2], stride[2], padding[2], dilation[2], False)
        at = (n * x_strides[0])[:, None] + offs_c[None, :] + e * x_strides[2] + h * x_strides[3] + v * x_strides[4]
        s = tl.load(x + at, mask=in_e & in_h & in_v & mask_p[:, None] & mask_k[None, :], other=0)
        acc = _product(u, s, acc, DOT, ACC, PRECISION)
    row = (part * groups + group) * M + m
    if WIDE:
        k = k.to(tl.int64)
    at = row[:, None] * K + k[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m[:, None] & mask_k[None, :])


def tiles(M: int, N: int, dtype: np.dtype[Any], device: Device) -> Tiles:
    """The tile of an (M, N) result. Smaller than matmul's: masks and addresses are held in registers."""
    if dtype.kind in "iu":  # no matrix unit: a broadcast product, held in registers
        return Tiles(16, 16, 16, 4, 1)
    fit_m, fit_n = max(16, next_power_of_2(M)), max(16, next_power_of_2(N))
    if dtype.itemsize == 8:
        return Tiles(min(32, fit_m), min(32, fit_n), 16, 4, 2)
    if is_rdna(device):
        return Tiles(min(32, fit_m), min(64, fit_n), 32, 4, 2)
    block_m, block_n = min(64, fit_m), min(64 if dtype.itemsize == 4 else 128, fit_n)
    if is_amd(device):
        return Tiles(block_m, block_n, 32, 4, 2)
    return Tiles(block_m, block_n, 32, 8 if block_m * block_n >= 4096 else 4, 3)  # 4 warps need 255 registers


def _common(x: DeviceArray) -> dict[str, Any]:
    return {"DOT": x.dtype.kind not in "iu", "ACC": accumulator(x.dtype), "PRECISION": precision(x.dtype, x.device)}


def _wide(*arrays: DeviceArray) -> bool:
    """Whether an offset, or a number of elements with a block to spare, may pass 2**31."""
    return any(
        max(sum(abs(s) * (n - 1) for s, n in zip(a.strides, a.shape, strict=True)), a.size + 1024) >= 1 << 31
        for a in arrays
    )


def _convolve(
    out: DeviceArray,
    x: DeviceArray,
    weight: DeviceArray,
    bias: DeviceArray | None,
    M: int,
    C: int,
    s: Any,
    backward: bool,
) -> None:
    """out (n, groups * M, …): x (n, groups * C, …) under the kernel; ``backward``: with rows and columns exchanged."""
    result = (s.D, s.H, s.W) if backward else (s.OD, s.OH, s.OW)
    P, K = s.N * math.prod(result), C * s.KD * s.KH * s.KW
    t = tiles(M, P, x.dtype, x.device)
    launch(
        convolution_kernel,
        (cdiv(M, t.m) * cdiv(P, t.n) * s.G,),
        out, x, weight, None if bias is None else (bias, bias.strides[0]), M, P, K, C, s.G, x.shape[2:],
        (s.KD, s.KH, s.KW),
        result, x.strides, weight.strides, s.stride, s.before, s.dilation,
        HAS_BIAS=bias is not None, BACKWARD=backward, WIDE=_wide(out, x, weight), **_common(x),
        BLOCK_M=t.m, BLOCK_P=t.n, BLOCK_K=t.k, num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip


def forward(out: DeviceArray, x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, s: Any) -> None:
    """out = x convolved with weight (+ bias). ``s``: the sizes, ops._convolution_numpy.Geometry."""
    if out.size:
        _convolve(out, x, weight, bias, s.O // s.G, s.C // s.G, s, False)


def transposed(out: DeviceArray, g: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, s: Any) -> None:
    """out = the adjoint of the convolution (+ bias), which is the gradient of its input."""
    if out.size:
        _convolve(out, g, weight, bias, s.C // s.G, s.O // s.G, s, True)


def grad_weight(out: DeviceArray, g: DeviceArray, x: DeviceArray, s: Any) -> None:
    """out = the gradient of the weight; long sums are made in parts, which are added in order."""
    if not out.size:
        return
    M, C, P = s.O // s.G, s.C // s.G, s.N * s.OD * s.OH * s.OW
    K = C * s.KD * s.KH * s.KW
    t = tiles(M, K, x.dtype, x.device)
    programs = cdiv(M, t.m) * cdiv(K, t.n) * s.G
    parts = max(1, min(cdiv(PROGRAMS, programs), cdiv(P, 16 * t.k), 64))
    chunk = cdiv(cdiv(P, parts), t.k) * t.k
    parts = max(1, cdiv(P, chunk) if chunk else 1)
    partial = out if parts == 1 else empty((parts, *out.shape), accumulator(x.dtype), out.device)
    launch(
        convolution_weight_kernel,
        (cdiv(M, t.m) * cdiv(K, t.n) * s.G, parts),
        partial, g, x, M, P, K, C, s.G, chunk, (s.D, s.H, s.W), (s.KD, s.KH, s.KW), (s.OD, s.OH, s.OW), g.strides,
        x.strides,
        s.stride, s.before, s.dilation,
        WIDE=_wide(partial, g, x), **_common(x),
        BLOCK_M=t.m, BLOCK_P=t.k, BLOCK_K=t.n, num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    if parts > 1:
        reduce([out], [partial], (0,), SUM)
