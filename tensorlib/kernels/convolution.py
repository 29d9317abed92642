"""Convolutions as implicit matrix products: patches are gathered tile by tile, and never exist in memory.

One to three dims go by one kernel: dims of size 1 are constants in a compiled kernel, and cost nothing there. Every
operand is read through its strides. float16, bfloat16 and float32 accumulate in float32, float64 in float64,
integers in int32 (int64 in int64). No atomics: the same inputs give the same bits.
Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, as_strided, empty, is_contiguous
from tensorlib.kernels.matmul import accumulator, precision
from tensorlib.kernels.pointwise import collapse, copy, fill
from tensorlib.kernels.reduction import SUM, reduce
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import Estimate, Hardware, Tile, product_cost
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

CHANNELS = 16  # summed over, from which they are taken in blocks, each element under the kernel for itself
DEPTHWISE = 256  # positions a program takes at a time for the gradient of a depthwise weight
PHASES = 8  # of the gradient of a strided convolution's input, one launch each
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


# The offsets of channels and positions in a result with gaps: one phase of the gradient of a strided convolution.
@jit
def _spread(n, channel, d, y, z, strides):
    at = n * strides[0] + d * strides[2] + y * strides[3] + z * strides[4]
    return at[None, :] + (channel * strides[1])[:, None]


# One program owns BLOCK_M channels of one group and BLOCK_P positions (n, d, y, z) of the result. It walks the BLOCK_K
# elements under the kernel (channel, f, i, j) at a time: K * P / BLOCK_P weights and K * M / BLOCK_M source elements a
# position read in all, the latter mostly from cache; M * P written. Programs next to each other share positions.
@jit
def convolution_kernel(
    out, x, weight, bias, M, P, K, C, groups, size, kernel, result, x_strides, w_strides, stride, padding, dilation,
    out_strides,
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
    if out_strides is None:
        plane = result[0] * result[1] * result[2]
        at = (n * (groups * M) * plane + p % plane)[None, :] + (channel * plane)[:, None]
    else:
        at = _spread(n, channel, d, y, z, out_strides)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m[:, None] & mask_p[None, :])


# The same with the sum in another order: for each element (f, i, j) under the kernel BLOCK_K channels at a time. Where
# it reads the source is worked out once a position, not once an element of a tile. Best where neighbours of x and of
# weight are channels: then both are read in vectors. FLAT: one element under the kernel, at every position: a product.
# UNIT divides C and every other stride of what has channels for neighbours, PLANE the positions of an image and, where
# these are neighbours in x too (not LAST), its other strides.
@jit
def channels_kernel(
    out, x, weight, bias, M, P, C, groups, plane, size, kernel, result, x_strides, stride_wg, stride_wm, stride_wc,
    stride_wt, stride, padding, dilation, out_strides,
    HAS_BIAS: tl.constexpr, BACKWARD: tl.constexpr, FLAT: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, PLANE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    C = C // UNIT * UNIT
    plane = plane // PLANE * PLANE
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles = tiles_m * tl.cdiv(P, BLOCK_P)
    group = tl.program_id(0) // tiles
    pid = tl.program_id(0) % tiles
    if WIDE:
        group = group.to(tl.int64)
        pid = pid.to(tl.int64)
    m = pid % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    p = pid // tiles_m * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    mask_m, mask_p = m < M, p < P
    n = p // plane
    within = p % plane
    d = within // (result[1] * result[2])
    y = within // result[2] % result[1]
    z = within % result[2]
    x += group * C * x_strides[1]
    weight += group * stride_wg
    offs_m = m * stride_wm
    if WIDE:
        k = k.to(tl.int64)
    chunks = tl.cdiv(C, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_P), dtype=ACC)
    for step in range(0, kernel[0] * kernel[1] * kernel[2] * chunks):
        tap = step // chunks
        c = (step - tap * chunks) * BLOCK_K + k
        mask_c = c < C
        offs_c = c * x_strides[1]
        if FLAT:
            at = n * x_strides[0]
            if LAST:
                at = (at + within * x_strides[4]) // UNIT * UNIT
            else:
                at = at // PLANE * PLANE + within * x_strides[4]
                offs_c = offs_c // PLANE * PLANE
            inside = mask_p
        else:
            e, in_e = _source(d, tap // (kernel[1] * kernel[2]), size[0], stride[0], padding[0], dilation[0], BACKWARD)
            h, in_h = _source(y, tap // kernel[2] % kernel[1], size[1], stride[1], padding[1], dilation[1], BACKWARD)
            v, in_v = _source(z, tap % kernel[2], size[2], stride[2], padding[2], dilation[2], BACKWARD)
            at = n * x_strides[0] + e * x_strides[2] + h * x_strides[3] + v * x_strides[4]
            if LAST:
                at = at // UNIT * UNIT
            inside = mask_p & in_e & in_h & in_v
        row = offs_m + tap * stride_wt
        if not BACKWARD:
            row = row // UNIT * UNIT
        w = tl.load(weight + (row[:, None] + (c * stride_wc)[None, :]), mask=mask_m[:, None] & mask_c[None, :], other=0)
        s = tl.load(x + (at[None, :] + offs_c[:, None]), mask=inside[None, :] & mask_c[:, None], other=0)
        acc = tl.dot(w, s, acc, input_precision=PRECISION, out_dtype=ACC)
    channel = group * M + m
    if HAS_BIAS:
        acc += tl.load(bias[0] + channel * bias[1], mask=mask_m, other=0).to(ACC)[:, None]
    if out_strides is None:
        at = (n * (groups * M) * plane + within)[None, :] + (channel * plane)[:, None]
    else:
        at = _spread(n, channel, d, y, z, out_strides)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m[:, None] & mask_p[None, :])


# A depthwise convolution, or the gradient of its input: every group has one channel of the input. One program owns
# BLOCK_M planes (n, result channel) and BLOCK_P positions of each; a position sums the elements under the kernel, which
# neighbours find in cache. Reads x and the kernel's weights about once, writes the result once.
@jit
def depthwise_kernel(
    out, x, weight, bias, M, P, outputs, size, result, x_strides, stride_wm, w_strides, stride, padding, dilation,
    KERNEL_D: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, HAS_BIAS: tl.constexpr,
    BACKWARD: tl.constexpr, MULTIPLE: tl.constexpr, SUMMED: tl.constexpr,
    WIDE: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(P, BLOCK_P)
    m = tl.program_id(0) // tiles
    if WIDE:
        m = m.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_m, mask_p = m < M, p < P
    d = p // (result[1] * result[2])
    y = p // result[2] % result[1]
    z = p % result[2]
    channel = m % outputs
    acc = tl.zeros((BLOCK_M, BLOCK_P), dtype=ACC)
    # Forward a result's channel reads one of x; backward it sums SUMMED = MULTIPLE channels, which read it.
    for r in tl.static_range(SUMMED):
        if BACKWARD:
            read = channel * MULTIPLE + r
            row = read
        else:
            read = channel // MULTIPLE
            row = channel
        base = m // outputs * x_strides[0] + read * x_strides[1]
        for f in tl.static_range(KERNEL_D):
            e, in_e = _source(d, f, size[0], stride[0], padding[0], dilation[0], BACKWARD)
            for i in tl.static_range(KERNEL_H):
                h, in_h = _source(y, i, size[1], stride[1], padding[1], dilation[1], BACKWARD)
                for j in tl.static_range(KERNEL_W):
                    v, in_v = _source(z, j, size[2], stride[2], padding[2], dilation[2], BACKWARD)
                    at = e * x_strides[2] + h * x_strides[3] + v * x_strides[4]
                    inside = mask_m[:, None] & (mask_p & in_e & in_h & in_v)[None, :]
                    s = tl.load(x + (base[:, None] + at[None, :]), mask=inside, other=0).to(ACC)
                    at_w = row * stride_wm + (f * w_strides[0] + i * w_strides[1] + j * w_strides[2])
                    acc += tl.load(weight + at_w, mask=mask_m, other=0).to(ACC)[:, None] * s
    if HAS_BIAS:
        acc += tl.load(bias[0] + channel * bias[1], mask=mask_m, other=0).to(ACC)[:, None]
    at = (m * P)[:, None] + p[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m[:, None] & mask_p[None, :])


# The gradient of a depthwise convolution's weight. One program owns an output channel, TAPS elements under the kernel
# and positions chunk * program_id(1) … of all images: a sum for each tap and lane. Reads g once and x, for neighbouring
# taps mostly from cache, once a tap.
@jit
def depthwise_weight_kernel(
    out, g, x, P, channels, taps, chunk, plane, size, kernel, result, g_strides, x_strides, stride, padding, dilation,
    MULTIPLE: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr, TAPS: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    part = tl.program_id(1)
    first = tl.program_id(2) * TAPS
    start = part * chunk
    if WIDE:
        channel = channel.to(tl.int64)
        start = start.to(tl.int64)
    stop = tl.minimum(start + chunk, P)
    sums = ()
    for _ in tl.static_range(TAPS):
        sums = sums + (tl.zeros((BLOCK_P,), ACC),)
    g += channel * g_strides[1]
    x += channel // MULTIPLE * x_strides[1]
    for begin in range(start, stop, BLOCK_P):
        p = begin + tl.arange(0, BLOCK_P)
        mask_p = p < stop
        n = p // plane
        d = p // (result[1] * result[2]) % result[0]
        y = p // result[2] % result[1]
        z = p % result[2]
        at = n * g_strides[0] + d * g_strides[2] + y * g_strides[3] + z * g_strides[4]
        u = tl.load(g + at, mask=mask_p, other=0).to(ACC)
        new = ()
        for t in tl.static_range(TAPS):
            tap = first + t
            e, in_e = _source(d, tap // (kernel[1] * kernel[2]), size[0], stride[0], padding[0], dilation[0], False)
            h, in_h = _source(y, tap // kernel[2] % kernel[1], size[1], stride[1], padding[1], dilation[1], False)
            v, in_v = _source(z, tap % kernel[2], size[2], stride[2], padding[2], dilation[2], False)
            at = n * x_strides[0] + e * x_strides[2] + h * x_strides[3] + v * x_strides[4]
            s = tl.load(x + at, mask=mask_p & in_e & in_h & in_v & (tap < taps), other=0).to(ACC)
            new = new + (sums[t] + u * s,)
        sums = new
    out += (part.to(tl.int64) * channels + channel) * taps + first
    for t in tl.static_range(TAPS):
        tl.store(out + t, tl.sum(sums[t], 0).to(out.dtype.element_ty), mask=first + t < taps)


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


# The same for one element (f, i, j) under the kernel and BLOCK_K channels a program: where it reads x is worked out
# once a position, and neighbours of x are channels. FLAT: g's positions are one dim, neighbours with step_g 1. UNIT
# divides C and every stride of x but the channels', PLANE an image's positions and every stride of g but theirs.
@jit
def channels_weight_kernel(
    out, g, x, M, P, C, groups, chunk, plane, size, kernel, result, g_strides, step_g, x_strides, stride, padding,
    dilation,
    FLAT: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr, PLANE: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    C = C // UNIT * UNIT
    plane = plane // PLANE * PLANE
    tiles_m = tl.cdiv(M, BLOCK_M)
    chunks = tl.cdiv(C, BLOCK_K)
    taps = kernel[0] * kernel[1] * kernel[2]
    tiles = tiles_m * taps * chunks
    group = tl.program_id(0) // tiles
    pid = tl.program_id(0) % tiles
    part = tl.program_id(1)
    if WIDE:
        group = group.to(tl.int64)
        part = part.to(tl.int64)
    m = pid % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    tap = pid // tiles_m % taps
    c = pid // (tiles_m * taps) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask_m, mask_c = m < M, c < C
    if WIDE:
        c = c.to(tl.int64)
    f = tap // (kernel[1] * kernel[2])
    i = tap // kernel[2] % kernel[1]
    j = tap % kernel[2]
    offs_m = (group * M + m) * g_strides[1] // PLANE * PLANE
    offs_c = (group * C + c) * x_strides[1]
    first = part * chunk
    last = tl.minimum(first + chunk, P)
    acc = tl.zeros((BLOCK_M, BLOCK_K), dtype=ACC)
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask_p = p < P  # chunks are of whole blocks
        n = p // plane
        within = p % plane
        d = within // (result[1] * result[2])
        y = within // result[2] % result[1]
        z = within % result[2]
        if FLAT:
            at = n * g_strides[0] // PLANE * PLANE + within * step_g
        else:
            at = n * g_strides[0] + d * g_strides[2] + y * g_strides[3] + z * g_strides[4]
        u = tl.load(g + (offs_m[:, None] + at[None, :]), mask=mask_m[:, None] & mask_p[None, :], other=0)
        e, in_e = _source(d, f, size[0], stride[0], padding[0], dilation[0], False)
        h, in_h = _source(y, i, size[1], stride[1], padding[1], dilation[1], False)
        v, in_v = _source(z, j, size[2], stride[2], padding[2], dilation[2], False)
        at = (n * x_strides[0] + e * x_strides[2] + h * x_strides[3] + v * x_strides[4]) // UNIT * UNIT
        s = tl.load(x + (at[:, None] + offs_c[None, :]), mask=(mask_p & in_e & in_h & in_v)[:, None] & mask_c[None, :],
                    other=0)  # fmt: skip
        acc = tl.dot(u, s, acc, input_precision=PRECISION, out_dtype=ACC)
    row = (part * groups + group) * M + m
    at = row[:, None] * (C * taps) + (c * taps + tap)[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m[:, None] & mask_c[None, :])


class Problem(NamedTuple):
    """A convolution, or the gradient of its weight, as the choice of its tile sees it: one (M, N) product a group."""

    M: int
    N: int
    K: int  # the terms of a sum
    groups: int
    dtype: np.dtype[Any]
    precision: str
    taps: int  # elements under the kernel
    gaps: bool = False  # in the result: every element is stored for itself, by an address of its own


def _bucket(p: Problem) -> Problem:
    return p._replace(M=bucket(p.M), N=bucket(p.N), K=bucket(p.K), groups=next_power_of_2(p.groups))


def _tile(p: Problem, gpu: Hardware) -> Tile:
    """What runs before anything was measured. Smaller than matmul's: masks and addresses are held in registers."""
    if p.dtype.kind in "iu":  # no matrix unit: a broadcast product, held in registers
        return Tile(16, 16, 16, 4, 1)
    fit_m, fit_n = max(16, next_power_of_2(p.M)), max(16, next_power_of_2(p.N))
    if p.dtype.itemsize == 8:
        return Tile(min(32, fit_m), min(32, fit_n), 16, 4, 2)
    if gpu.family == "rdna":
        return Tile(min(32, fit_m), min(64, fit_n), 32, 4, 2)
    block_m, block_n = min(64, fit_m), min(64 if p.dtype.itemsize == 4 else 128, fit_n)
    if gpu.family == "cdna":
        return Tile(block_m, block_n, 32, 4, 2)
    return Tile(block_m, block_n, 32, 8 if block_m * block_n >= 4096 else 4, 3)  # 4 warps need 255 registers


_HALF = (
    Tile(16, 64, 32, 4, 3), Tile(32, 64, 32, 4, 3), Tile(32, 128, 32, 4, 3), Tile(64, 32, 32, 4, 3),
    Tile(64, 64, 32, 4, 3), Tile(64, 64, 32, 8, 3), Tile(64, 64, 64, 8, 3), Tile(64, 128, 32, 8, 2),
    Tile(64, 128, 32, 8, 3), Tile(64, 128, 64, 8, 3), Tile(128, 64, 32, 8, 3), Tile(128, 128, 32, 8, 3),
)  # fmt: skip
_SINGLE = (
    Tile(16, 64, 32, 4, 3), Tile(32, 32, 32, 4, 3), Tile(32, 64, 32, 4, 3), Tile(64, 32, 32, 4, 3),
    Tile(64, 64, 16, 8, 3), Tile(64, 64, 32, 8, 3),
)  # fmt: skip


def _tiles(p: Problem, gpu: Hardware) -> list[Tile]:
    """The default, and on GPUs what a search compares it with."""
    default = _tile(p, gpu)
    if p.dtype.kind in "iu" or p.dtype.itemsize == 8 or gpu.on_host:
        return [default]
    fit_m, fit_n = max(16, next_power_of_2(p.M)), max(16, next_power_of_2(p.N))
    found = [default]
    for t in _HALF if p.dtype.itemsize == 2 else _SINGLE:
        if gpu.family == "nvidia" or (t.stages == 3 and (gpu.family == "cdna" or t.m * t.n <= 4096)):
            stages = t.stages if gpu.family == "nvidia" else 2
            m, n = min(t.m, fit_m), min(t.n, fit_n)
            found.append(Tile(m, n, t.k, t.warps if m * n >= 4096 else 4, stages))
    return found


def _config(t: Tile) -> Config:
    """A tile (m, n, k) of a result of M channels and N positions, over K elements under the kernel."""
    return Config(t.warps, t.stages, BLOCK_M=t.m, BLOCK_P=t.n, BLOCK_K=t.k)


def _weight_config(t: Tile) -> Config:
    """The same of a weight's gradient: N elements under the kernel, over K positions."""
    return Config(t.warps, t.stages, BLOCK_M=t.m, BLOCK_K=t.n, BLOCK_P=t.k)


def _cost(t: Tile, p: Problem, gpu: Hardware, parts: int) -> Estimate:
    programs = cdiv(p.M, t.m) * cdiv(p.N, t.n) * p.groups * parts
    elements = (p.M * p.K + p.K * p.N / p.taps + p.M * p.N) * p.groups
    steps = cdiv(cdiv(p.K, parts), t.k)
    # Offsets and masks of an (n, k) block: about 4 registers and 8 cycles an element and lane.
    each = t.n * t.k / (t.warps * gpu.warp_size)
    return product_cost(
        gpu, t, p.dtype, p.precision, programs, steps, elements * p.dtype.itemsize, 4 * each, 8 * each * t.warps / 4
    )


def _forward_cost(c: Config, p: Problem, gpu: Hardware) -> Estimate:
    return _cost(Tile(c["BLOCK_M"], c["BLOCK_P"], c["BLOCK_K"], c.num_warps, c.num_stages), p, gpu, 1)


def _weight_cost(c: Config, p: Problem, gpu: Hardware) -> Estimate:
    t = Tile(c["BLOCK_M"], c["BLOCK_K"], c["BLOCK_P"], c.num_warps, c.num_stages)
    return _cost(t, p, gpu, _parts(p.M, p.N, p.K, p.groups, t.m, t.n, t.k)[0])


CONVOLUTION = Tunable(
    "convolution", (convolution_kernel,), lambda p, gpu: [_config(t) for t in _tiles(p, gpu)], _bucket, _forward_cost,
    default=lambda p, gpu: _config(_tile(p, gpu)),
)  # fmt: skip
CONVOLUTION_WEIGHT = Tunable(
    "convolution_weight", (convolution_weight_kernel,), lambda p, gpu: [_weight_config(t) for t in _tiles(p, gpu)],
    _bucket, _weight_cost, default=lambda p, gpu: _weight_config(_tile(p, gpu)),
)  # fmt: skip


def _channel_tiles(p: Problem, gpu: Hardware) -> list[Config]:
    """Those of a product's size: addresses are of positions here, and hold few registers. K: channels."""
    if gpu.on_host or p.dtype.itemsize == 8:
        return [_config(_tile(p, gpu))]
    fit_m, fit_n = max(16, next_power_of_2(p.M)), max(16, next_power_of_2(p.N))
    found = []
    for t in _HALF if p.dtype.itemsize == 2 else _SINGLE:
        m, n = min(t.m, fit_m), min(t.n, fit_n)
        stages = t.stages if gpu.family == "nvidia" else 2
        if gpu.family == "rdna" and (m * n > 4096 or t.k > 32):
            continue
        if p.gaps and m * n > 8192:  # addresses of more would not fit beside the sums
            continue
        found.append(_config(Tile(m, n, t.k, t.warps if m * n >= 4096 else 4, stages)))
    return list(dict.fromkeys(found))


def _channels_cost(c: Config, p: Problem, gpu: Hardware) -> Estimate:
    t = Tile(c["BLOCK_M"], c["BLOCK_P"], c["BLOCK_K"], c.num_warps, c.num_stages)
    programs = cdiv(p.M, t.m) * cdiv(p.N, t.n) * p.groups
    elements = (p.M * p.K * p.taps + p.K * p.N + p.M * p.N) * p.groups
    steps = p.taps * cdiv(p.K, t.k)  # channels beyond the last are only zeros
    return product_cost(
        gpu, t, p.dtype, p.precision, programs, steps, elements * p.dtype.itemsize, 32, 30 + 4 * t.n / t.warps
    )


CONVOLUTION_CHANNELS = Tunable(
    "convolution_channels", (channels_kernel,), _channel_tiles, _bucket, _channels_cost,
)  # fmt: skip


def _channel_weight_tiles(p: Problem, gpu: Hardware) -> list[Config]:
    return [
        _weight_config(Tile(c["BLOCK_M"], c["BLOCK_P"], c["BLOCK_K"], c.num_warps, c.num_stages))
        for c in _channel_tiles(p, gpu)
    ]


def _channels_weight_cost(c: Config, p: Problem, gpu: Hardware) -> Estimate:
    t = Tile(c["BLOCK_M"], c["BLOCK_K"], c["BLOCK_P"], c.num_warps, c.num_stages)
    parts, chunk = _parts(p.M, p.taps * p.N, p.K, p.groups, t.m, t.n, t.k)
    programs = cdiv(p.M, t.m) * p.taps * cdiv(p.N, t.n) * p.groups * parts
    elements = (p.M * p.K + p.K * p.N + p.M * p.N * p.taps * parts * 2) * p.groups
    # Three divisions a position, which each lane makes for those that it loads.
    each = t.k * t.n * p.dtype.itemsize / 16 / (c.num_warps * gpu.warp_size)
    return product_cost(
        gpu, t, p.dtype, p.precision, programs, cdiv(chunk, t.k), elements * p.dtype.itemsize, 40,
        80 * each * c.num_warps / 4,
    )  # fmt: skip


CONVOLUTION_CHANNELS_WEIGHT = Tunable(
    "convolution_channels_weight", (channels_weight_kernel,), _channel_weight_tiles, _bucket, _channels_weight_cost,
)  # fmt: skip


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
    taps = s.KD * s.KH * s.KW
    P, K = s.N * math.prod(result), C * taps
    common = _common(x)
    biased = None if bias is None else (bias, bias.strides[0])
    problem = Problem(M, P, K, s.G, x.dtype, common["PRECISION"], taps, not is_contiguous(out))
    if _is_depthwise(s):
        _depthwise(out, x, weight, biased, s, backward, result)
        return
    if common["DOT"] and C >= CHANNELS:
        _by_channels(out, x, weight, biased, M, C, s, backward, result, problem._replace(K=C))
        return
    folded = None if backward else _fold(x, s)
    if folded is not None:
        _forward_folded(out, folded, weight, biased, s, problem)
        return

    def run(config: Config, out: DeviceArray) -> None:
        launch(
            convolution_kernel,
            (cdiv(M, config["BLOCK_M"]) * cdiv(P, config["BLOCK_P"]) * s.G,),
            out, x, weight, biased, M, P, K, C, s.G, x.shape[2:], (s.KD, s.KH, s.KW),
            result, x.strides, weight.strides, s.stride, s.before, s.dilation, _gaps(out),
            HAS_BIAS=bias is not None, BACKWARD=backward, WIDE=_wide(out, x, weight), **common, **config.launch,
        )  # fmt: skip

    run(CONVOLUTION.choose(problem, x.device, run, (out,)), out)


class _Folded(NamedTuple):
    """A convolution of few channels as one of more: the elements of a kernel's row are channels of the first one."""

    x: DeviceArray  #: (n, columns * channels, d, h, w of the result): neighbours overlap
    s: Any
    channels: int  #: of x, with those of zeros


def _fold(x: DeviceArray, s: Any) -> _Folded | None:
    """The operand of a first layer, such as 3 channels under 7 x 7 elements; None where nothing is gained.

    Of an image whose channels are neighbours, KW columns are KW * C neighbours: 4 channels of float16 are 8 bytes. A
    copy with a border and room for a multiple of 4 channels is a small part of what the products read.
    """
    padded = cdiv(s.C, 4) * 4
    if s.G > 1 or s.C >= CHANNELS or x.dtype.kind in "iu" or s.dilation[2] != 1 or s.KW * s.C < CHANNELS // 2:
        return None
    if s.KW == 1 or 2 * s.C < padded:  # nothing but zeros would be added
        return None
    width = max((s.OW - 1) * s.stride[2] + s.KW, s.before[2] + s.W)
    packed: DeviceArray = empty((s.N, s.D, s.H, width, padded), x.dtype, x.device)
    fill(packed, 0)
    copy(packed[:, :, :, s.before[2] : s.before[2] + s.W, : s.C], x.transpose((0, 2, 3, 4, 1)))
    strides = packed.strides
    shape = (s.N, s.KW * padded, s.D, s.H, s.OW)
    folded = as_strided(packed, shape, (strides[0], 1, *strides[1:3], s.stride[2] * padded))
    sizes = s._replace(
        C=s.KW * padded, W=s.OW, KW=1, stride=(*s.stride[:2], 1), before=(*s.before[:2], 0),
        dilation=(*s.dilation[:2], 1),
    )  # fmt: skip
    return _Folded(folded, sizes, padded)


def _forward_folded(
    out: DeviceArray, f: _Folded, weight: DeviceArray, bias: Any, s: Any, problem: Problem
) -> None:
    """out = the convolution; the weight becomes (O, columns * channels, KD, KH, 1)."""
    packed: DeviceArray = empty((s.O, s.KD, s.KH, s.KW, f.channels), weight.dtype, weight.device)
    fill(packed, 0)
    copy(packed[..., : s.C], weight.transpose((0, 2, 3, 4, 1)))
    columns = packed.reshape((s.O, s.KD, s.KH, 1, f.s.C)).transpose((0, 4, 1, 2, 3))
    problem = problem._replace(K=f.s.C, taps=s.KD * s.KH)
    _by_channels(out, f.x, columns, bias, s.O, f.s.C, f.s, False, (s.OD, s.OH, s.OW), problem)


def _gaps(out: DeviceArray) -> tuple[int, ...] | None:
    """The strides of a result with gaps; None where it has none."""
    return None if is_contiguous(out) else out.strides


def _is_depthwise(s: Any) -> bool:
    """Whether every group has one channel of the input, and few enough elements are added to leave tl.dot alone."""
    return s.G > 1 and s.C == s.G and s.O <= 8 * s.G and s.KD * s.KH * s.KW <= 64


def _depthwise(
    out: DeviceArray, x: DeviceArray, weight: DeviceArray, bias: Any, s: Any, backward: bool, result: tuple[int, ...]
) -> None:
    outputs = s.C if backward else s.O
    planes, P = s.N * outputs, math.prod(result)
    block_p = min(next_power_of_2(P), 1024)
    block_m = min(next_power_of_2(planes), 1024 // block_p)
    launch(
        depthwise_kernel, (cdiv(planes, block_m) * cdiv(P, block_p),), out, x, weight, bias, planes, P, outputs,
        x.shape[2:], result, x.strides, weight.strides[0], weight.strides[2:], s.stride, s.before, s.dilation,
        KERNEL_D=s.KD, KERNEL_H=s.KH, KERNEL_W=s.KW, HAS_BIAS=bias is not None, BACKWARD=backward, MULTIPLE=s.O // s.G,
        SUMMED=s.O // s.G if backward else 1, WIDE=_wide(out, x), ACC=accumulator(x.dtype), BLOCK_M=block_m,
        BLOCK_P=block_p,
    )  # fmt: skip


def _channels_last(x: DeviceArray) -> DeviceArray:
    """x (n, c, d, h, w) with channels as neighbours: a copy unless it lies so."""
    if x.strides[1] == 1:
        return x
    n, c, *size = x.shape
    packed: DeviceArray = empty((n, *size, c), x.dtype, x.device)
    copy(packed, x.transpose((0, 2, 3, 4, 1)))
    return packed.transpose((0, 4, 1, 2, 3))


def _step(x: DeviceArray, s: Any) -> int | None:
    """Where each position reads one, its own: the stride of x from one to the next, if that is one number."""
    if s.KD * s.KH * s.KW > 1 or s.stride != (1, 1, 1) or (s.D, s.H, s.W) != (s.OD, s.OH, s.OW) or any(s.before):
        return None
    shape, (strides,) = collapse(x.shape[2:], [x.strides[2:]])
    return strides[0] if len(shape) == 1 else None


def _by_channels(
    out: DeviceArray, x: DeviceArray, weight: DeviceArray, bias: Any, M: int, C: int, s: Any, backward: bool,
    result: tuple[int, ...], problem: Problem,
) -> None:  # fmt: skip
    position = _step(x, s)
    flat = position is not None
    if not flat:
        x = _channels_last(x)
    # What does not count, of dims of one element, is 0, of which everything is a multiple.
    x_strides = tuple(0 if n == 1 else t for t, n in zip(x.strides, x.shape, strict=True))
    x_strides = (x_strides[0], x.strides[1], *((0, 0, position) if flat else x_strides[2:]))
    taps, plane = problem.taps, math.prod(result)
    if taps > 1:
        weight = _channels_last(weight)
        step = weight.strides[4] if s.KW > 1 else weight.strides[3] if s.KH > 1 else weight.strides[2]
        if weight.strides[2:] != (s.KH * s.KW * step, s.KW * step, step):  # not one walk through the elements
            packed: DeviceArray = empty((s.O, s.KD, s.KH, s.KW, weight.shape[1]), x.dtype, x.device)
            copy(packed, weight.transpose((0, 2, 3, 4, 1)))
            weight, step = packed.transpose((0, 4, 1, 2, 3)), weight.shape[1]
    else:
        step = 0
        if 1 not in weight.strides[:2]:  # one element of a larger kernel
            weight = _channels_last(weight)
    outer, inner = weight.strides[:2]
    stride_wm, stride_wc = (inner, outer) if backward else (outer, inner)
    last = x.strides[1] == 1
    unit = math.gcd(16, C, x_strides[0], *x_strides[2:]) if last else 1
    if not backward:
        unit = math.gcd(unit, outer, step) if inner == 1 else 1
    within = math.gcd(16, plane, *(() if last or not flat else x_strides[:2]))
    configured = {
        "HAS_BIAS": bias is not None, "BACKWARD": backward, "FLAT": flat, "LAST": last, "WIDE": _wide(out, x, weight),
        "UNIT": unit if unit in (4, 8) else 1, "PLANE": within if within in (4, 8) else 1,
        "ACC": accumulator(x.dtype), "PRECISION": problem.precision,
    }  # fmt: skip

    def run(config: Config, out: DeviceArray) -> None:
        launch(
            channels_kernel,
            (cdiv(M, config["BLOCK_M"]) * cdiv(problem.N, config["BLOCK_P"]) * s.G,),
            out, x, weight, bias, M, problem.N, C, s.G, plane, x.shape[2:], (s.KD, s.KH, s.KW), result, x_strides,
            (C if backward else M) * outer, stride_wm, stride_wc, step, s.stride, s.before, s.dilation,
            _gaps(out), **configured, **config.launch,
        )  # fmt: skip

    run(CONVOLUTION_CHANNELS.choose(problem, x.device, run, (out,)), out)


def forward(out: DeviceArray, x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, s: Any) -> None:
    """out = x convolved with weight (+ bias). ``s``: the sizes, ops._convolution_numpy.Geometry."""
    if out.size:
        _convolve(out, x, weight, bias, s.O // s.G, s.C // s.G, s, False)


def transposed(out: DeviceArray, g: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, s: Any) -> None:
    """out = the adjoint of the convolution (+ bias), which is the gradient of its input."""
    if not out.size:
        return
    M, C, phases = s.C // s.G, s.O // s.G, math.prod(s.stride)
    if phases == 1 or phases > PHASES or _is_depthwise(s):
        _convolve(out, g, weight, bias, M, C, s, True)
        return
    apart = tuple(math.gcd(t, d) for t, d in zip(s.stride, s.dilation, strict=True))
    steps = tuple(t // a for t, a in zip(s.stride, apart, strict=True))  # between the elements that read a phase
    dilation = tuple(d // a for d, a in zip(s.dilation, apart, strict=True))
    if any(a > 1 or k < t for a, k, t in zip(apart, (s.KD, s.KH, s.KW), steps, strict=True)):
        # Some positions were never read.
        if bias is not None:
            _convolve(out, g, weight, bias, M, C, s, True)
            return
        fill(out, 0)
    if C >= CHANNELS and g.dtype.kind not in "iu":
        g = _channels_last(g)
    for phase in itertools.product(*[range(t) for t in s.stride]):
        # Positions first, first + stride, … were read by the elements tap, tap + step, … of the kernel alone: among
        # them the stride is 1.
        taps = [
            next((tap for tap in range(step) if (first + pad - tap * d) % t == 0), None)
            for first, pad, d, t, step in zip(phase, s.before, s.dilation, s.stride, steps, strict=True)
        ]
        if None in taps:
            continue
        part = out[(..., *[slice(first, None, t) for first, t in zip(phase, s.stride, strict=True)])]
        under = weight[(..., *[slice(tap, None, step) for tap, step in zip(taps, steps, strict=True)])]
        if part.size and under.size:
            before = [
                (first + pad - tap * d) // t
                for first, pad, tap, d, t in zip(phase, s.before, taps, s.dilation, s.stride, strict=True)
            ]
            sizes = dict(zip(("D", "H", "W", "KD", "KH", "KW"), (*part.shape[2:], *under.shape[2:]), strict=True))
            _convolve(
                part, g, under, bias, M, C,
                s._replace(**sizes, stride=(1, 1, 1), before=tuple(before), dilation=dilation), True,
            )  # fmt: skip


def grad_weight(out: DeviceArray, g: DeviceArray, x: DeviceArray, s: Any) -> None:
    """out = the gradient of the weight; long sums are made in parts, which are added in order."""
    if not out.size:
        return
    M, C, P = s.O // s.G, s.C // s.G, s.N * s.OD * s.OH * s.OW
    K = C * s.KD * s.KH * s.KW
    common = _common(x)
    problem = Problem(M, K, P, s.G, x.dtype, common["PRECISION"], s.KD * s.KH * s.KW)
    if _is_depthwise(s):
        _depthwise_weight(out, g, x, P, s)
        return
    if common["DOT"] and C >= CHANNELS:
        _weight_by_channels(out, g, x, M, C, P, s, problem._replace(N=C))
        return
    folded = _fold(x, s)
    if folded is not None:
        f = folded.s
        columns: DeviceArray = empty((s.O, f.C, s.KD, s.KH, 1), out.dtype, out.device)
        _weight_by_channels(columns, g, folded.x, M, f.C, P, f, problem._replace(N=f.C, taps=s.KD * s.KH))
        apart = columns.reshape((s.O, s.KW, folded.channels, s.KD, s.KH))[:, :, : s.C]
        copy(out, apart.transpose((0, 2, 3, 4, 1)))
        return

    def run(config: Config, out: DeviceArray) -> None:
        block_m, block_k, block_p = config["BLOCK_M"], config["BLOCK_K"], config["BLOCK_P"]
        parts, chunk = _parts(M, K, P, s.G, block_m, block_k, block_p)
        partial = out if parts == 1 else empty((parts, *out.shape), accumulator(x.dtype), out.device)
        launch(
            convolution_weight_kernel,
            (cdiv(M, block_m) * cdiv(K, block_k) * s.G, parts),
            partial, g, x, M, P, K, C, s.G, chunk, (s.D, s.H, s.W), (s.KD, s.KH, s.KW), (s.OD, s.OH, s.OW), g.strides,
            x.strides,
            s.stride, s.before, s.dilation,
            WIDE=_wide(partial, g, x), **common, **config.launch,
        )  # fmt: skip
        if parts > 1:
            reduce([out], [partial], (0,), SUM)

    run(CONVOLUTION_WEIGHT.choose(problem, x.device, run, (out,)), out)


def _weight_by_channels(
    out: DeviceArray, g: DeviceArray, x: DeviceArray, M: int, C: int, P: int, s: Any, problem: Problem
) -> None:
    x = _channels_last(x)
    plane, taps = s.OD * s.OH * s.OW, problem.taps
    x_strides, g_strides = (
        tuple(0 if n == 1 else t for t, n in zip(a.strides, a.shape, strict=True)) for a in (x, g)
    )  # fmt: skip
    x_strides = (x_strides[0], 1, *x_strides[2:])
    shape, (steps,) = collapse(g.shape[2:], [g.strides[2:]])
    flat = len(shape) == 1
    unit = math.gcd(16, C, x_strides[0], *x_strides[2:])
    within = math.gcd(16, plane, *g_strides[:2]) if flat and steps[0] == 1 else 1
    configured = {
        "FLAT": flat, "UNIT": unit if unit in (4, 8) else 1, "PLANE": within if within in (4, 8) else 1,
        "ACC": accumulator(x.dtype), "PRECISION": problem.precision,
    }  # fmt: skip

    def run(config: Config, out: DeviceArray) -> None:
        block_m, block_k, block_p = config["BLOCK_M"], config["BLOCK_K"], config["BLOCK_P"]
        parts, chunk = _parts(M, taps * C, P, s.G, block_m, block_k, block_p)
        partial = out if parts == 1 else empty((parts, *out.shape), accumulator(x.dtype), out.device)
        launch(
            channels_weight_kernel, (cdiv(M, block_m) * taps * cdiv(C, block_k) * s.G, parts), partial, g, x, M, P, C,
            s.G, chunk, plane, (s.D, s.H, s.W), (s.KD, s.KH, s.KW), (s.OD, s.OH, s.OW), g_strides, steps[0], x_strides,
            s.stride, s.before, s.dilation, WIDE=_wide(partial, g, x), **configured, **config.launch,
        )  # fmt: skip
        if parts > 1:
            reduce([out], [partial], (0,), SUM)

    run(CONVOLUTION_CHANNELS_WEIGHT.choose(problem, x.device, run, (out,)), out)


def _depthwise_weight(out: DeviceArray, g: DeviceArray, x: DeviceArray, P: int, s: Any) -> None:
    taps, acc = s.KD * s.KH * s.KW, accumulator(x.dtype)
    group = min(next_power_of_2(taps), 32) if taps > 9 else taps
    parts = max(1, min(cdiv(4 * PROGRAMS, s.O * cdiv(taps, group)), cdiv(P, 2048), 64))
    chunk = cdiv(cdiv(P, parts), DEPTHWISE) * DEPTHWISE
    parts = max(1, cdiv(P, chunk) if chunk else 1)
    partial = out if parts == 1 else empty((parts, *out.shape), acc, out.device)
    launch(
        depthwise_weight_kernel, (s.O, parts, cdiv(taps, group)), partial, g, x, P, s.O, taps, chunk,
        s.OD * s.OH * s.OW, (s.D, s.H, s.W), (s.KD, s.KH, s.KW), (s.OD, s.OH, s.OW), g.strides, x.strides, s.stride,
        s.before, s.dilation, MULTIPLE=s.O // s.G, WIDE=_wide(partial, g, x), ACC=acc, TAPS=group, BLOCK_P=DEPTHWISE,
    )  # fmt: skip
    if parts > 1:
        reduce([out], [partial], (0,), SUM)


def _parts(M: int, N: int, P: int, groups: int, block_m: int, block_n: int, block_p: int) -> tuple[int, int]:
    """In how many parts a sum over P positions is made, and of how many positions a part is."""
    programs = cdiv(M, block_m) * cdiv(N, block_n) * groups
    parts = max(1, min(cdiv(PROGRAMS, programs), cdiv(P, 16 * block_p), 64))
    chunk = cdiv(cdiv(P, parts), block_p) * block_p
    return max(1, cdiv(P, chunk) if chunk else 1), chunk
