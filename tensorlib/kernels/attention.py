"""Attention without its matrix of weights: flash attention forward and backward.

Scores live in a tile at a time, in float32 (float64 for float64) and base 2; the logarithm of each row's sum is what
the backward needs to make them again. No atomics: results are the same bits on every run. Dao 2023, "FlashAttention-2".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty, expand, is_contiguous
from tensorlib._device import device as Device
from tensorlib.kernels.matmul import contiguous, precision
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.random import drawn
from tensorlib.runtime.autotune import Config, Tunable, bucket
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import Estimate, Hardware, Tile, hardware, product_cost
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
NO_MASK, BOOL_MASK, ADDED_MASK = 0, 1, 2


@jit
def _base(z, H, GROUP: tl.constexpr, shape, strides, RANK: tl.constexpr):
    # Offset of matrix z of (batch..., H); GROUP query heads share one of this array's heads.
    z = tl.cast(z, tl.int64)
    rest = z // H
    at = z % H // GROUP * strides[RANK]
    for d in tl.static_range(RANK - 1, -1, -1):
        at += rest % shape[d] * strides[d]
        rest = rest // shape[d]
    return at


@jit
def _load_rows(base, rows, n, columns, m, row_stride, column_stride, EDGE: tl.constexpr, PAD: tl.constexpr):
    # A (rows, columns) tile; rows from n and columns from m on are zeros.
    at = base + (rows[:, None] * row_stride + columns[None, :] * column_stride)
    if EDGE and PAD:
        x = tl.load(at, mask=(rows[:, None] < n) & (columns[None, :] < m), other=0.0)
    elif EDGE:
        x = tl.load(at, mask=rows[:, None] < n, other=0.0)
    elif PAD:
        x = tl.load(at, mask=columns[None, :] < m, other=0.0)
    else:
        x = tl.load(at)
    return x


@jit
def _keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N: tl.constexpr):
    # Which weights of tile (rows, n0 ... n0 + BLOCK_N) dropout keeps: four columns share one Philox counter.
    quads = tl.cdiv(S, 4)
    row = tl.cast(z, tl.int64) * L + rows.to(tl.int64)
    quad = row[:, None] * quads + (n0 // 4 + tl.arange(0, BLOCK_N // 4))[None, :]
    c0 = (quad & 0xFFFFFFFF).to(tl.uint32)
    c1 = (quad >> 32).to(tl.uint32)
    o = drawn(offset)
    c2 = c0 * 0 + (o & 0xFFFFFFFF).to(tl.uint32)
    c3 = c0 * 0 + (o >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(drawn(seed), c0, c1, c2, c3)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.uint_to_uniform_float(tl.reshape(words, (rows.shape[0], BLOCK_N))) >= p


@jit
def _masked(
    s, mask, rows, columns, L, S, mask_row, mask_column, MASK: tl.constexpr, CAUSAL: tl.constexpr, EDGE: tl.constexpr
):  # fmt: skip
    # Scores in base 2 with what the mask adds, and -inf where a query may not look. rows and columns broadcast.
    if MASK != 0:
        at = mask + (rows * mask_row + columns * mask_column)
        inside = (rows < L) & (columns < S)
        if MASK == 1:
            allowed = tl.load(at, mask=inside, other=0)
            s = tl.where(allowed != 0, s, float("-inf"))
        else:
            s += tl.load(at, mask=inside, other=0.0).to(s.dtype) * LOG2E
    if EDGE:
        if CAUSAL:
            s = tl.where((rows >= columns) & (columns < S), s, float("-inf"))
        else:
            s = tl.where(columns < S, s, float("-inf"))
    return s


@jit
def _forward_step(
    acc, sums, top, q, k, v, mask, z, rows, n0, L, S, E, EV, scale, p, rescale, seed, offset,
    stride_kn, stride_ke, stride_vn, stride_ve, mask_row, mask_column,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr, EDGE: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr,
    PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    columns = n0 + tl.arange(0, BLOCK_N)
    if WIDE:
        columns = columns.to(tl.int64)
    kt = tl.trans(_load_rows(k, columns, S, tl.arange(0, BLOCK_E), E, stride_kn, stride_ke, EDGE, PAD_E))
    s = tl.dot(q, kt, input_precision=PRECISION, out_dtype=ACC) * scale
    s = _masked(s, mask, rows[:, None], columns[None, :], L, S, mask_row, mask_column, MASK, CAUSAL, EDGE)
    new = tl.maximum(top, tl.max(s, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)  # no key so far: every weight 0, not NaN
    w = tl.exp2(s - safe[:, None])
    shrink = tl.exp2(top - safe)
    sums = sums * shrink + tl.sum(w, 1)
    if DROPOUT:
        w = tl.where(_keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N), w, 0.0)
    vt = _load_rows(v, columns, S, tl.arange(0, BLOCK_EV), EV, stride_vn, stride_ve, EDGE, PAD_EV)
    acc = tl.dot(w.to(vt.dtype), vt, acc * shrink[:, None], input_precision=PRECISION, out_dtype=ACC)
    return acc, sums, new


# One program owns BLOCK_M queries of one head: it reads them once and every key and value they may look at
# (L*E + L/BLOCK_M * S*(E + EV) elements a head), and writes BLOCK_M*EV outputs and BLOCK_M log-sums.
@jit(do_not_specialize=("seed", "offset"))
def attention_kernel(
    out, logsumexp, q, k, v, mask, H, shape, q_strides, k_strides, v_strides, mask_strides, L, S, E, EV,
    scale, p, rescale, seed, offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(L, BLOCK_M)
    z = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    if CAUSAL:
        tile = tiles - 1 - tile  # the longest rows start first
    start = tile * BLOCK_M
    rows = start + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    q += _base(z, H, 1, shape, q_strides, RANK)
    k += _base(z, H, GROUP, shape, k_strides, RANK)
    v += _base(z, H, GROUP, shape, v_strides, RANK)
    if MASK != 0:
        mask += _base(z, H, 1, shape, mask_strides, RANK)
    x = _load_rows(q, rows, L, tl.arange(0, BLOCK_E), E, q_strides[RANK + 1], q_strides[RANK + 2], True, PAD_E)
    scale = tl.cast(scale, ACC) * LOG2E
    acc = tl.zeros((BLOCK_M, BLOCK_EV), dtype=ACC)
    sums = tl.zeros((BLOCK_M,), dtype=ACC)
    top = tl.full((BLOCK_M,), float("-inf"), dtype=ACC)
    end = tl.minimum(S, start + BLOCK_M) if CAUSAL else S
    whole = (tl.minimum(S, start + 1) if CAUSAL else S) // BLOCK_N * BLOCK_N  # keys that no edge cuts
    for n0 in range(0, whole, BLOCK_N):
        acc, sums, top = _forward_step(
            acc, sums, top, x, k, v, mask, z, rows, n0, L, S, E, EV, scale, p, rescale, seed, offset,
            k_strides[RANK + 1], k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2],
            mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, CAUSAL, DROPOUT, False, ACC, PRECISION,
            BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE,
        )  # fmt: skip
    for n0 in range(whole, end, BLOCK_N):
        acc, sums, top = _forward_step(
            acc, sums, top, x, k, v, mask, z, rows, n0, L, S, E, EV, scale, p, rescale, seed, offset,
            k_strides[RANK + 1], k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2],
            mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, CAUSAL, DROPOUT, True, ACC, PRECISION,
            BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE,
        )  # fmt: skip
    seen = sums != 0.0  # false where a query may look at no key: its output is 0, its log-sum +inf
    scaled = tl.where(seen, sums, 1.0)
    lse = tl.where(seen, (top + tl.log2(scaled)) * LN2, float("inf"))
    if DROPOUT:
        acc = acc * tl.cast(rescale, ACC)
    at = tl.cast(z, tl.int64) * L
    columns = tl.arange(0, BLOCK_EV)
    inside = (rows[:, None] < L) & (columns[None, :] < EV)
    y = (acc / scaled[:, None]).to(out.dtype.element_ty)
    tl.store(out + at * EV + (rows[:, None] * EV + columns[None, :]), y, mask=inside)
    tl.store(logsumexp + at + rows, lse, mask=rows < L)


# One program owns BLOCK_M rows: delta = sum_e g * out, the term of the softmax's gradient that a row shares.
# Reads g and out once, writes one number a row.
@jit
def delta_kernel(
    delta, g, out, H, shape, g_strides, L, EV,
    RANK: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(L, BLOCK_M)
    z = tl.program_id(0) // tiles
    rows = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    columns = tl.arange(0, BLOCK_EV)
    at = tl.cast(z, tl.int64) * L
    g += _base(z, H, 1, shape, g_strides, RANK)
    x = _load_rows(g, rows, L, columns, EV, g_strides[RANK + 1], g_strides[RANK + 2], True, True).to(ACC)
    y = _load_rows(out + at * EV, rows, L, columns, EV, EV, 1, True, True).to(ACC)
    tl.store(delta + at + rows, tl.sum(x * y, 1), mask=rows < L)


@jit
def _query_step(
    acc, q, g, lse, delta, k, v, mask, z, rows, n0, L, S, E, EV, scale, p, rescale, seed, offset,
    stride_kn, stride_ke, stride_vn, stride_ve, mask_row, mask_column,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr, EDGE: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr,
    PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    columns = n0 + tl.arange(0, BLOCK_N)
    if WIDE:
        columns = columns.to(tl.int64)
    x = _load_rows(k, columns, S, tl.arange(0, BLOCK_E), E, stride_kn, stride_ke, EDGE, PAD_E)
    y = _load_rows(v, columns, S, tl.arange(0, BLOCK_EV), EV, stride_vn, stride_ve, EDGE, PAD_EV)
    s = tl.dot(q, tl.trans(x), input_precision=PRECISION, out_dtype=ACC) * scale
    s = _masked(s, mask, rows[:, None], columns[None, :], L, S, mask_row, mask_column, MASK, CAUSAL, EDGE)
    w = tl.exp2(s - lse[:, None])
    dw = tl.dot(g, tl.trans(y), input_precision=PRECISION, out_dtype=ACC)
    if DROPOUT:
        dw = tl.where(_keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N), dw * rescale, 0.0)
    ds = w * (dw - delta[:, None])
    return tl.dot(ds.to(x.dtype), x, acc, input_precision=PRECISION, out_dtype=ACC)


# One program owns the gradient of BLOCK_M queries of one head: it reads q and g once and every key and value they
# looked at, and writes BLOCK_M*E elements.
@jit(do_not_specialize=("seed", "offset"))
def query_grad_kernel(
    dq, g, q, k, v, mask, logsumexp, delta, H, shape, g_strides, q_strides, k_strides, v_strides, mask_strides,
    L, S, E, EV, scale, p, rescale, seed, offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(L, BLOCK_M)
    z = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    if CAUSAL:
        tile = tiles - 1 - tile
    start = tile * BLOCK_M
    rows = start + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    g += _base(z, H, 1, shape, g_strides, RANK)
    q += _base(z, H, 1, shape, q_strides, RANK)
    k += _base(z, H, GROUP, shape, k_strides, RANK)
    v += _base(z, H, GROUP, shape, v_strides, RANK)
    if MASK != 0:
        mask += _base(z, H, 1, shape, mask_strides, RANK)
    at = tl.cast(z, tl.int64) * L
    features = tl.arange(0, BLOCK_E)
    x = _load_rows(q, rows, L, features, E, q_strides[RANK + 1], q_strides[RANK + 2], True, PAD_E)
    dy = _load_rows(g, rows, L, tl.arange(0, BLOCK_EV), EV, g_strides[RANK + 1], g_strides[RANK + 2], True, PAD_EV)
    lse = tl.load(logsumexp + at + rows, mask=rows < L, other=float("inf")) * LOG2E
    shared = tl.load(delta + at + rows, mask=rows < L, other=0.0)
    scale2 = tl.cast(scale, ACC) * LOG2E
    acc = tl.zeros((BLOCK_M, BLOCK_E), dtype=ACC)
    end = tl.minimum(S, start + BLOCK_M) if CAUSAL else S
    whole = (tl.minimum(S, start + 1) if CAUSAL else S) // BLOCK_N * BLOCK_N
    for n0 in range(0, whole, BLOCK_N):
        acc = _query_step(
            acc, x, dy, lse, shared, k, v, mask, z, rows, n0, L, S, E, EV, scale2, p, rescale, seed, offset,
            k_strides[RANK + 1], k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2],
            mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, CAUSAL, DROPOUT, False, ACC, PRECISION,
            BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE,
        )  # fmt: skip
    for n0 in range(whole, end, BLOCK_N):
        acc = _query_step(
            acc, x, dy, lse, shared, k, v, mask, z, rows, n0, L, S, E, EV, scale2, p, rescale, seed, offset,
            k_strides[RANK + 1], k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2],
            mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, CAUSAL, DROPOUT, True, ACC, PRECISION,
            BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE,
        )  # fmt: skip
    inside = (rows[:, None] < L) & (features[None, :] < E)
    acc = acc * tl.cast(scale, ACC)
    tl.store(dq + at * E + (rows[:, None] * E + features[None, :]), acc.to(dq.dtype.element_ty), mask=inside)


@jit
def _key_step(
    dk, dv, k, v, q, g, logsumexp, delta, mask, z, columns, n0, m0, L, S, E, EV, scale, p, rescale, seed, offset,
    stride_qm, stride_qe, stride_gm, stride_ge, mask_row, mask_column,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    rows = m0 + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    x = _load_rows(q, rows, L, tl.arange(0, BLOCK_E), E, stride_qm, stride_qe, True, PAD_E)
    dy = _load_rows(g, rows, L, tl.arange(0, BLOCK_EV), EV, stride_gm, stride_ge, True, PAD_EV)
    # A row past the end has log-sum +inf, hence weights 0.
    lse = tl.load(logsumexp + rows, mask=rows < L, other=float("inf")) * LOG2E
    shared = tl.load(delta + rows, mask=rows < L, other=0.0)
    s = tl.dot(k, tl.trans(x), input_precision=PRECISION, out_dtype=ACC) * scale
    s = _masked(s, mask, rows[None, :], columns[:, None], L, S, mask_row, mask_column, MASK, CAUSAL, CAUSAL)
    w = tl.exp2(s - lse[None, :])
    dw = tl.dot(v, tl.trans(dy), input_precision=PRECISION, out_dtype=ACC)
    if DROPOUT:
        keep = tl.trans(_keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N))
        dv = tl.dot(tl.where(keep, w * rescale, 0.0).to(dy.dtype), dy, dv, input_precision=PRECISION, out_dtype=ACC)
        dw = tl.where(keep, dw * rescale, 0.0)
    else:
        dv = tl.dot(w.to(dy.dtype), dy, dv, input_precision=PRECISION, out_dtype=ACC)
    ds = w * (dw - shared[None, :])
    dk = tl.dot(ds.to(x.dtype), x, dk, input_precision=PRECISION, out_dtype=ACC)
    return dk, dv


# One program owns the gradients of BLOCK_N keys and values of one head: it reads them once, and q and g of every query
# of the GROUP heads that looked at them, in one order; it writes BLOCK_N*(E + EV) elements.
@jit(do_not_specialize=("seed", "offset"))
def key_grad_kernel(
    dk, dv, g, q, k, v, mask, logsumexp, delta, H, shape, g_strides, q_strides, k_strides, v_strides, mask_strides,
    L, S, E, EV, scale, p, rescale, seed, offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(S, BLOCK_N)
    y = tl.program_id(0) // tiles  # which head of k and v, of all batches
    start = tl.program_id(0) % tiles * BLOCK_N
    columns = start + tl.arange(0, BLOCK_N)
    if WIDE:
        columns = columns.to(tl.int64)
    features = tl.arange(0, BLOCK_E)
    values = tl.arange(0, BLOCK_EV)
    k += _base(y * GROUP, H, GROUP, shape, k_strides, RANK)
    v += _base(y * GROUP, H, GROUP, shape, v_strides, RANK)
    kx = _load_rows(k, columns, S, features, E, k_strides[RANK + 1], k_strides[RANK + 2], True, PAD_E)
    vx = _load_rows(v, columns, S, values, EV, v_strides[RANK + 1], v_strides[RANK + 2], True, PAD_EV)
    scale2 = tl.cast(scale, ACC) * LOG2E
    sum_k = tl.zeros((BLOCK_N, BLOCK_E), dtype=ACC)
    sum_v = tl.zeros((BLOCK_N, BLOCK_EV), dtype=ACC)
    # Causal: queries before `first` see none of these keys, those from `clear` on see all of them.
    first = start // BLOCK_M * BLOCK_M if CAUSAL else 0
    clear = tl.minimum(tl.cdiv(start + BLOCK_N - 1, BLOCK_M) * BLOCK_M, tl.cdiv(L, BLOCK_M) * BLOCK_M) if CAUSAL else 0
    for h in range(GROUP):
        z = y * GROUP + h
        at = tl.cast(z, tl.int64) * L
        qz = q + _base(z, H, 1, shape, q_strides, RANK)
        gz = g + _base(z, H, 1, shape, g_strides, RANK)
        mz = mask
        if MASK != 0:
            mz += _base(z, H, 1, shape, mask_strides, RANK)
        if CAUSAL:
            for m0 in range(first, clear, BLOCK_M):
                sum_k, sum_v = _key_step(
                    sum_k, sum_v, kx, vx, qz, gz, logsumexp + at, delta + at, mz, z, columns, start, m0, L, S, E, EV,
                    scale2, p, rescale, seed, offset, q_strides[RANK + 1], q_strides[RANK + 2], g_strides[RANK + 1],
                    g_strides[RANK + 2], mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, True, DROPOUT, ACC,
                    PRECISION, BLOCK_M, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE,
                )  # fmt: skip
        for m0 in range(clear, L, BLOCK_M):
            sum_k, sum_v = _key_step(
                sum_k, sum_v, kx, vx, qz, gz, logsumexp + at, delta + at, mz, z, columns, start, m0, L, S, E, EV,
                scale2, p, rescale, seed, offset, q_strides[RANK + 1], q_strides[RANK + 2], g_strides[RANK + 1],
                g_strides[RANK + 2], mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, False, DROPOUT, ACC,
                PRECISION, BLOCK_M, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE,
            )  # fmt: skip
    to = tl.cast(y, tl.int64) * S
    sum_k = sum_k * tl.cast(scale, ACC)
    tl.store(dk + to * E + (columns[:, None] * E + features[None, :]), sum_k.to(dk.dtype.element_ty),
             mask=(columns[:, None] < S) & (features[None, :] < E))  # fmt: skip
    tl.store(dv + to * EV + (columns[:, None] * EV + values[None, :]), sum_v.to(dv.dtype.element_ty),
             mask=(columns[:, None] < S) & (values[None, :] < EV))  # fmt: skip


# One program writes BLOCK_M x BLOCK_N of the mask that dropout multiplies one head's weights with; it reads nothing.
@jit(do_not_specialize=("seed", "offset"))
def keep_kernel(out, L, S, p, seed, offset, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    tiles_m = tl.cdiv(L, BLOCK_M)
    tiles_n = tl.cdiv(S, BLOCK_N)
    pid = tl.program_id(0)
    z = pid // (tiles_m * tiles_n)
    rows = pid // tiles_n % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n0 = pid % tiles_n * BLOCK_N
    columns = n0 + tl.arange(0, BLOCK_N)
    keep = _keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N)
    at = (tl.cast(z, tl.int64) * L + rows.to(tl.int64))[:, None] * S + columns[None, :]
    tl.store(out + at, keep, mask=(rows[:, None] < L) & (columns[None, :] < S))


# ---------------------------------------------------------------------------------------------------- host functions


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


def _bucket(p: Problem) -> Problem:
    return p._replace(L=bucket(p.L), S=bucket(p.S), matrices=next_power_of_2(p.matrices))


def _tile(m: int, n: int, warps: int, stages: int, p: Problem) -> Config:
    return Config(warps, stages, BLOCK_M=min(m, _fit(p.L)), BLOCK_N=min(n, _fit(p.S)))


def _default(p: Problem, gpu: Hardware, backward: bool) -> Config:
    """The tile of m queries and n keys: what registers and shared memory hold without spilling, as the compiler says.

    What runs before anything was measured.
    """
    width, wide = p.width, p.dtype.itemsize >= 4
    amd = gpu.family in ("cdna", "rdna")
    if gpu.family == "native":  # tiles of q, k, v and the scores in the first two caches
        side = 64 if width * p.dtype.itemsize <= 512 else 32
        return _tile(side, side, 1, 1, p)
    if p.dtype.itemsize == 8:
        m, n, warps = 16, 16, 4
    elif gpu.family == "rdna":  # 256 registers a lane, and products of float32 without a matrix unit
        if wide or (width > 128 and backward):
            m, n, warps = 16, 16, 8 if backward or width > 64 else 4
        elif backward:
            m, n, warps = 32, 32, 8
        else:
            m, n, warps = (64, 32, 4) if width <= 64 else (64, 16, 4) if width <= 128 else (64, 16, 8)
    elif wide:
        m, n, warps = (64, 32, 4) if width <= 64 else (32, 32, 4) if width <= 128 else (16, 16, 4)
    elif width <= 64:
        m, n, warps = (64, 64, 4) if backward else (128, 64, 4)
    elif not backward:
        m, n, warps = (128, 64, 8) if width <= 128 else (64, 32, 8)
    elif amd:  # with 4 warps of 64 lanes each has 512 registers
        m, n, warps = (32, 64, 4) if width <= 128 else (16, 32, 4)
    else:
        m, n, warps = (64, 64, 8) if width <= 128 else (32, 32, 8)
    stages = 1 if amd else 2
    if width * p.dtype.itemsize >= 1024 and width > 128:  # shared memory of the smallest GPUs, 99 KB, holds no more
        m, n, warps = 16, 16, max(warps, 4)
        stages = 1 if width * p.dtype.itemsize > 1024 else stages
    return _tile(m, n, warps, stages, p)


def fits(features: int, itemsize: int, device: Device, backward: bool) -> bool:
    """Whether a device's shared memory and registers hold the smallest tile of heads so wide, forward or backward.

    As Triton 3.9 compiles 16 queries by 16 keys: shared memory has, on NVIDIA's, tiles of q and k or v; in the backward
    of those and g, and of half types as wide as 1024 one more; on AMD's, whose others stay in registers, one tile.
    """
    gpu = hardware(device)
    row = _fit(features) * itemsize
    if row > _WIDEST and not gpu.on_host:
        return False
    if gpu.family in ("cdna", "rdna"):
        return 17 * row <= gpu.shared
    rows = 32 if not backward else 80 if itemsize == 2 and features > 512 else 64
    return rows * row + 3 * 1024 <= gpu.shared


_WIDEST = 2048  # bytes of a head: beyond, sums spill whatever the tile, and take minutes to compile
_SIZES = (
    (16, 16, 4), (32, 32, 4), (32, 64, 4), (64, 16, 4), (64, 32, 4), (64, 32, 8), (64, 64, 4), (64, 64, 8),
    (64, 128, 8), (128, 32, 4), (128, 32, 8), (128, 64, 4), (128, 64, 8), (128, 128, 8),
)  # fmt: skip


def _candidates(p: Problem, gpu: Hardware, backward: bool) -> list[Config]:
    """The default, and on GPUs what a search compares it with."""
    found = [_default(p, gpu, backward)]
    if gpu.on_host or p.dtype.itemsize == 8:
        return found
    held = {"nvidia": 255, "cdna": 512}.get(gpu.family, 256)
    for m, n, warps in _SIZES:
        # Registers that the sums and the scores take, of what a lane has: the rest is addresses and operands.
        sums = p.width * (2 * n if backward else m) + m * n
        if sums / (warps * gpu.warp_size) <= 0.75 * held:
            for stages in (1, 2) if gpu.family != "nvidia" else (2, 3, 4) if p.width <= 64 else (1, 2, 3):
                found.append(_tile(m, n, warps, stages, p))
    return found


def _cost(config: Config, p: Problem, gpu: Hardware, products: int) -> Estimate:
    """Two products a step forward; scores are made anew in the backward, so that it has three and four."""
    m, n = config["BLOCK_M"], config["BLOCK_N"]
    tile = Tile(m, n, p.width, config.num_warps, config.num_stages)
    keys = p.S / 2 if p.causal else p.S
    steps = max(1, round(keys / n))
    elements = (2 * p.L + 2 * p.S) * p.width * p.matrices
    estimate = product_cost(
        gpu, tile, p.dtype, p.precision, cdiv(p.L, m) * p.matrices, steps * products, elements * p.dtype.itemsize
    )
    buffers = config.num_stages if gpu.family == "nvidia" else max(config.num_stages - 1, 1)
    return estimate._replace(shared=(m + 2 * n * buffers) * p.width * p.dtype.itemsize)


def _tunable(name: str, kernel: Any, products: int) -> Tunable:
    backward = products > 2
    return Tunable(
        name, (kernel,), lambda p, gpu: _candidates(p, gpu, backward), _bucket,
        lambda config, p, gpu: _cost(config, p, gpu, products), default=lambda p, gpu: _default(p, gpu, backward),
    )  # fmt: skip


ATTENTION = _tunable("attention", attention_kernel, 2)
QUERY_GRAD = _tunable("attention_query_grad", query_grad_kernel, 3)
KEY_GRAD = _tunable("attention_key_grad", key_grad_kernel, 4)


def _fit(n: int) -> int:
    """A power of two from 16, which is the least that tl.dot takes."""
    return max(16, next_power_of_2(n))


class _Problem:
    """The arguments that the kernels share, worked out of the arrays."""

    def __init__(
        self, query: DeviceArray, key: DeviceArray, value: DeviceArray, attn_mask: DeviceArray | None,
        is_causal: bool, scale: float, dropout_p: float, seed: int, offset: int, g: DeviceArray | None,
    ) -> None:  # fmt: skip
        q, k, v = (x[None] if x.ndim == 2 else x for x in (query, key, value))
        *lead, self.H, self.L, self.E = q.shape
        self.S, self.EV = v.shape[-2:]
        self.heads = k.shape[-3]
        self.matrices = math.prod(lead) * self.H
        self.q, self.k, self.v, self.g = q, k, v, g if g is None or g.ndim > 2 else g[None]
        self.mask = None if attn_mask is None else expand(attn_mask, (*lead, self.H, self.L, self.S))
        arrays = [self.q, self.k, self.v, self.mask, self.g]
        self.shape, batch = collapse(lead, [None if x is None else x.strides[:-3] for x in arrays])
        none = (0,) * (len(self.shape) + 3)
        self.strides = [none if x is None else (*b, *x.strides[-3:]) for x, b in zip(arrays, batch, strict=True)]
        self.acc = np.dtype(np.float64 if q.dtype == np.float64 else np.float32)
        number = np.float64 if self.acc == np.float64 else float
        rescale = number(1 / (1 - dropout_p)) if dropout_p < 1 else number(0)
        self.numbers = (number(scale), float(dropout_p), rescale, seed, offset)
        kind = NO_MASK if attn_mask is None else BOOL_MASK if attn_mask.dtype == np.bool_ else ADDED_MASK
        block_e, block_ev = _fit(self.E), _fit(self.EV)
        self.width = max(block_e, block_ev)
        matrices = (
            (self.q, self.L, self.E), (self.k, self.S, self.E), (self.v, self.S, self.EV), (self.mask, self.L, self.S),
            (self.g, self.L, self.EV),
        )  # fmt: skip
        spans = [
            (rows + 128) * abs(x.strides[-2]) + (columns + 128) * abs(x.strides[-1])
            for x, rows, columns in matrices
            if x is not None
        ]
        spans.append((max(self.L, self.S) + 128) * self.width)  # the outputs
        self.constants: dict[str, Any] = dict(
            GROUP=self.H // self.heads if self.heads else 1, RANK=len(self.shape), MASK=kind, CAUSAL=is_causal,
            DROPOUT=dropout_p > 0.0, ACC=self.acc, PRECISION=precision(q.dtype, q.device), BLOCK_E=block_e,
            BLOCK_EV=block_ev, PAD_E=block_e != self.E, PAD_EV=block_ev != self.EV, WIDE=max(spans) >= 1 << 31,
        )  # fmt: skip

    @property
    def problem(self) -> Problem:
        """What the choice of a tile depends on."""
        c = self.constants
        return Problem(
            self.L, self.S, self.width, self.matrices, self.q.dtype, c["PRECISION"], c["CAUSAL"], c["MASK"],
            c["DROPOUT"],
        )  # fmt: skip


def attention(
    out: DeviceArray, logsumexp: DeviceArray, query: DeviceArray, key: DeviceArray, value: DeviceArray,
    attn_mask: DeviceArray | None, is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0,
    offset: int = 0,
) -> None:  # fmt: skip
    """out = dropout(softmax(query @ key.mT * scale + mask)) @ value, and the log-sum-exp of each row's scores."""
    x = _Problem(query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset, None)
    if not out.size and not logsumexp.size:
        return

    def run(config: Config, out: DeviceArray, logsumexp: DeviceArray) -> None:
        launch(
            attention_kernel, (cdiv(x.L, config["BLOCK_M"]) * x.matrices,),
            out, logsumexp, x.q, x.k, x.v, x.mask, x.H, x.shape, *x.strides[:4], x.L, x.S, x.E, x.EV, *x.numbers,
            **config.launch, **x.constants,
        )  # fmt: skip

    run(ATTENTION.choose(x.problem, x.q.device, run, (out, logsumexp)), out, logsumexp)


def attention_grad(
    dq: DeviceArray, dk: DeviceArray, dv: DeviceArray, g: DeviceArray, query: DeviceArray, key: DeviceArray,
    value: DeviceArray, attn_mask: DeviceArray | None, out: DeviceArray, logsumexp: DeviceArray,
    is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0, offset: int = 0,
) -> None:  # fmt: skip
    """The gradients of query, key and value: two passes over tiles of scores, one by queries and one by keys."""
    x = _Problem(query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset, g)
    strides_q, strides_k, strides_v, strides_mask, strides_g = x.strides
    delta = empty(logsumexp.shape, x.acc, g.device)
    rank = x.constants["RANK"]
    out, logsumexp = (t if is_contiguous(t) else contiguous(t) for t in (out, logsumexp))
    if x.matrices and x.L:
        launch(
            delta_kernel, (cdiv(x.L, 32) * x.matrices,), delta, x.g, out, x.H, x.shape, strides_g, x.L, x.EV,
            RANK=rank, ACC=x.acc, BLOCK_M=32, BLOCK_EV=x.constants["BLOCK_EV"], WIDE=x.constants["WIDE"],
        )  # fmt: skip
    shared = (
        x.g, x.q, x.k, x.v, x.mask, logsumexp, delta, x.H, x.shape, strides_g, strides_q, strides_k, strides_v,
        strides_mask, x.L, x.S, x.E, x.EV, *x.numbers,
    )  # fmt: skip
    if dq.size:

        def query_grad(config: Config, dq: DeviceArray) -> None:
            grid = (cdiv(x.L, config["BLOCK_M"]) * x.matrices,)
            launch(query_grad_kernel, grid, dq, *shared, **config.launch, **x.constants)

        query_grad(QUERY_GRAD.choose(x.problem, x.q.device, query_grad, (dq,)), dq)
    if dk.size or dv.size:

        def key_grad(config: Config, dk: DeviceArray, dv: DeviceArray) -> None:
            grid = (cdiv(x.S, config["BLOCK_N"]) * x.matrices // x.constants["GROUP"],)
            launch(key_grad_kernel, grid, dk, dv, *shared, **config.launch, **x.constants)

        key_grad(KEY_GRAD.choose(x.problem, x.q.device, key_grad, (dk, dv)), dk, dv)


def keep(out: DeviceArray, query: DeviceArray, key: DeviceArray, dropout_p: float, seed: int, offset: int) -> None:
    """out (…, L, S) = which weights dropout keeps."""
    L, S = out.shape[-2:]
    m, n = 16, 64
    launch(
        keep_kernel, (math.prod(out.shape[:-2]) * cdiv(L, m) * cdiv(S, n),), out, L, S, float(dropout_p), seed, offset,
        BLOCK_M=m, BLOCK_N=n,
    )  # fmt: skip
