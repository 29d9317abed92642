"""Attention without its matrix of weights: flash attention forward and backward, dense and of packed sequences.

Scores live in a tile at a time, in float32 (float64 for float64) and base 2; the logarithm of each row's sum is what
the backward needs to make them again. A function of scores (`attention_scores`) is a constexpr argument, its
derivative another. Tiles that a window or causality excludes are not visited, nor, where blocks are listed
(`attention_blocks`), those of blocks that are in no list. No atomics: results are the same bits on every run.
Dao 2023, "FlashAttention-2".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, expand, is_contiguous
from tensorlib.kernels import attention_scores
from tensorlib.kernels.attention_blocks import Blocks, block_mask, block_start, listed_blocks
from tensorlib.kernels.attention_tiles import Problem, fit, fits, spread, tunable
from tensorlib.kernels.matmul import contiguous, precision
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.random import drawn
from tensorlib.runtime.autotune import Config
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["ATTENTION", "KEY_GRAD", "QUERY_GRAD", "Problem", "attention", "attention_grad", "fits", "keep"]

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
NO_MASK, BOOL_MASK, ADDED_MASK, TILED_MASK = 0, 1, 2, 3


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
def _sequence(z, H, cu_q, cu_k, used, L, S, total, VARLEN: tl.constexpr):
    # Of matrix z: its first query and first key in the packed arrays, how many of each, and where its rows lie in an
    # output (first row, rows from one to the next) and in the log-sums. Packed outputs are (tokens, H, features).
    z = tl.cast(z, tl.int64)
    if VARLEN:
        n = z // H
        q0 = tl.load(cu_q + n).to(tl.int64)
        rows = tl.minimum(L, (tl.load(cu_q + n + 1).to(tl.int64) - q0).to(tl.int32))
        k0 = tl.load(cu_k + n).to(tl.int64)
        keys = tl.minimum(S, (tl.load(cu_k + n + 1).to(tl.int64) - k0).to(tl.int32))
        if used is not None:
            keys = tl.minimum(keys, tl.load(used + n).to(tl.int32))
        first = q0 * H + z % H
        step = H
        sums = z % H * total + q0
    else:
        q0 = 0
        k0 = 0
        rows = L
        keys = S
        first = z * L
        step = 1
        sums = first
    return q0, k0, rows, keys, first, step, sums


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
def _by_chunks(
    x, x_rows, x_n, stride_xm, stride_xe, y, y_rows, y_n, stride_ym, stride_ye, E,
    X_EDGE: tl.constexpr, Y_EDGE: tl.constexpr, PAD: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_E: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    # Rows of x @ rows of y.T, CHUNK features of both at a time: no more of them is in registers.
    STEP: tl.constexpr = min(CHUNK, BLOCK_E)
    for e in tl.static_range(0, BLOCK_E, STEP):
        features = e + tl.arange(0, STEP)
        u = _load_rows(x, x_rows, x_n, features, E, stride_xm, stride_xe, X_EDGE, PAD)
        v = tl.trans(_load_rows(y, y_rows, y_n, features, E, stride_ym, stride_ye, Y_EDGE, PAD))
        if e == 0:
            s = tl.dot(u, v, input_precision=PRECISION, out_dtype=ACC)
        else:
            s = tl.dot(u, v, s, input_precision=PRECISION, out_dtype=ACC)
    return s


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
def _scored(s, z, H, rows, columns, L, S, shift, parameters, SCORE: tl.constexpr):
    # Scores, scaled, through the score function, in base 2. Rows and columns past the ends have the last's position.
    if SCORE is not None:
        s = SCORE(s, z // H, z % H, tl.minimum(rows, L - 1) + shift, tl.minimum(columns, S - 1), parameters) * LOG2E
    return s


@jit
def _unscored(ds, s, z, H, rows, columns, L, S, shift, parameters, SCORE_GRAD: tl.constexpr):
    # The gradient of the scores that the score function was given.
    if SCORE_GRAD is not None:
        at = tl.minimum(rows, L - 1) + shift
        ds = SCORE_GRAD(ds, s, z // H, z % H, at, tl.minimum(columns, S - 1), parameters)
    return ds


@jit
def _masked(
    s, mask, rows, columns, L, S, low, high, mask_row, mask_column,
    MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    # Scores in base 2 with what the mask adds, and -inf where a query may not look. rows and columns broadcast.
    if MASK != 0:
        at = mask + (rows * mask_row + columns * mask_column)
        inside = (rows < L) & (columns < S)
        if MASK == 2:
            s += tl.load(at, mask=inside, other=0.0).to(s.dtype) * LOG2E
        else:
            allowed = tl.load(at, mask=inside, other=0)
            s = tl.where(allowed != 0, s, float("-inf"))
    if EDGE:
        seen = columns < S
        if RIGHT:
            seen = seen & (columns <= rows + high)
        if LEFT:
            seen = seen & (columns >= rows + low)
        s = tl.where(seen, s, float("-inf"))
    return s


@jit
def _key_parts(
    start, L, S, low, high, LEFT: tl.constexpr, RIGHT: tl.constexpr, VARLEN: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Where the keys that queries start ... start + BLOCK_M look at begin and end, in three parts: up to the first that
    # all of them see, those that no edge cuts, and the rest. Query i sees keys i + low ... i + high.
    end = S
    whole = S
    if RIGHT:
        end = tl.minimum(S, tl.maximum(start + BLOCK_M + high, 0))
        whole = tl.minimum(S, tl.maximum(start + 1 + high, 0))
    if VARLEN:  # a tile past the last query of its sequence
        end = tl.where(start < L, end, 0)
        whole = tl.minimum(whole, end)
    whole = whole // BLOCK_N * BLOCK_N
    begin = 0
    clear = 0
    if LEFT:
        begin = tl.maximum(start + low, 0) // BLOCK_N * BLOCK_N
        clear = tl.cdiv(tl.maximum(start + BLOCK_M - 1 + low, 0), BLOCK_N) * BLOCK_N
        starts = (begin, clear, tl.maximum(clear, whole))
        ends = (tl.minimum(clear, end), whole, end)
    else:
        starts = (begin, clear, whole)
        ends = (clear, whole, end)
    return starts, ends


@jit
def _query_parts(
    start, L, S, low, high, LEFT: tl.constexpr, RIGHT: tl.constexpr, VARLEN: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    # The same for the queries that look at keys start ... start + BLOCK_N.
    begin = 0
    clear = 0
    whole = L
    end = L
    if LEFT:
        end = tl.minimum(L, tl.maximum(start + BLOCK_N - low, 0))
        whole = tl.minimum(L, tl.maximum(start + 1 - low, 0)) // BLOCK_M * BLOCK_M
    if VARLEN:
        end = tl.where(start < S, end, 0)
        whole = tl.minimum(whole, end)
    if RIGHT:
        begin = tl.maximum(start - high, 0) // BLOCK_M * BLOCK_M
        clear = tl.cdiv(tl.maximum(start + BLOCK_N - 1 - high, 0), BLOCK_M) * BLOCK_M
    if LEFT:
        starts = (begin, clear, tl.maximum(clear, whole))
        ends = (tl.minimum(clear, end), whole, end)
    elif RIGHT:
        starts = (begin, clear, end)
        ends = (tl.minimum(clear, end), whole, end)
    else:
        starts = (begin, clear, end)
        ends = (clear, whole, end)
    return starts, ends


@jit
def _forward_step(
    acc, sums, top, q, q_base, k, v, mask, z, H, rows, n0, L, S, E, EV, shift, low, high, parameters, scale, p, seed,
    offset, stride_qm, stride_qe, stride_kn, stride_ke, stride_vn, stride_ve, mask_row, mask_column,
    MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, SCORE: tl.constexpr, DROPOUT: tl.constexpr,
    EDGE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    columns = n0 + tl.arange(0, BLOCK_N)
    if WIDE:
        columns = columns.to(tl.int64)
    if CHUNK:
        again = rows + tl.minimum(n0, S - 1) // S
        s = _by_chunks(
            q_base, again, L, stride_qm, stride_qe, k, columns, S, stride_kn, stride_ke, E, True, EDGE, PAD_E, ACC,
            PRECISION, BLOCK_E, CHUNK,
        ) * scale  # fmt: skip
    else:
        kt = tl.trans(_load_rows(k, columns, S, tl.arange(0, BLOCK_E), E, stride_kn, stride_ke, EDGE, PAD_E))
        s = tl.dot(q, kt, input_precision=PRECISION, out_dtype=ACC) * scale
    s = _scored(s, z, H, rows[:, None], columns[None, :], L, S, shift, parameters, SCORE)
    s = _masked(
        s, mask, rows[:, None], columns[None, :], L, S, low, high, mask_row, mask_column, MASK, LEFT, RIGHT, EDGE
    )
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
# (L*E + L/BLOCK_M * S*(E + EV) elements a head, S the window where there is one), and writes BLOCK_M*EV outputs and
# BLOCK_M log-sums. VARLEN: heads of sequences that lie one behind the other, each with its own L and S. BLOCK_Q > 0:
# only keys of listed blocks (BLOCK_Q, BLOCK_KV) are read; those that no mask cuts go through WHOLE_SCORE alone.
@jit(do_not_specialize=("seed", "offset"))
def attention_kernel(
    out, logsumexp, q, k, v, mask, cu_q, cu_k, used, parameters, blocks, H, shape, q_strides, k_strides, v_strides,
    mask_strides, L, S, E, EV, total, left, right, scale, p, rescale, seed, offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    ALIGNED: tl.constexpr, VARLEN: tl.constexpr, SCORE: tl.constexpr, WHOLE_SCORE: tl.constexpr,
    DROPOUT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_KV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr,
    PAD_EV: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(L, BLOCK_M)
    z = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    if RIGHT and not LEFT:
        tile = tiles - 1 - tile  # the longest rows start first
    start = tile * BLOCK_M
    rows = start + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    q0, k0, L, S, first, step, at = _sequence(z, H, cu_q, cu_k, used, L, S, total, VARLEN)
    q += _base(z, H, 1, shape, q_strides, RANK) + q0 * q_strides[RANK + 1]
    k += _base(z, H, GROUP, shape, k_strides, RANK) + k0 * k_strides[RANK + 1]
    v += _base(z, H, GROUP, shape, v_strides, RANK) + k0 * v_strides[RANK + 1]
    if MASK != 0 and BLOCK_Q == 0:
        mask += _base(z, H, 1, shape, mask_strides, RANK)
    x = q
    if CHUNK == 0:
        x = _load_rows(q, rows, L, tl.arange(0, BLOCK_E), E, q_strides[RANK + 1], q_strides[RANK + 2], True, PAD_E)
    number = scale
    scale = tl.cast(scale, ACC) if SCORE is not None else tl.cast(scale, ACC) * LOG2E
    acc = tl.zeros((BLOCK_M, BLOCK_EV), dtype=ACC)
    sums = tl.zeros((BLOCK_M,), dtype=ACC)
    top = tl.full((BLOCK_M,), float("-inf"), dtype=ACC)
    shift = S - L if ALIGNED else 0
    low = shift - left
    high = shift + right
    if BLOCK_Q > 0:
        plain = tl.cast(number, ACC) if WHOLE_SCORE is not None else tl.cast(number, ACC) * LOG2E
        for part in tl.static_range(2):
            many, listed = listed_blocks(blocks, part, z, H, start // BLOCK_Q, False)
            for j in range(many * (BLOCK_KV // BLOCK_N)):
                n0 = block_start(listed, j, BLOCK_KV, BLOCK_N)
                acc, sums, top = _forward_step(
                    acc, sums, top, x, q, k, v,
                    block_mask(mask, blocks, z, H, start, n0, BLOCK_Q, BLOCK_KV) if MASK != 0 and part == 0 else mask,
                    z, H, rows,
                    n0, L, S, E, EV, shift, low, high, parameters, scale if part == 0 else plain, p, seed, offset,
                    q_strides[RANK + 1], q_strides[RANK + 2], k_strides[RANK + 1], k_strides[RANK + 2],
                    v_strides[RANK + 1], v_strides[RANK + 2], BLOCK_KV, 1, MASK if part == 0 else 0,
                    LEFT and part == 0, RIGHT and part == 0, SCORE if part == 0 else WHOLE_SCORE, DROPOUT, True, ACC,
                    PRECISION, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE, CHUNK,
                )  # fmt: skip
        starts, ends = (0, 0, 0), (0, 0, 0)
    else:
        starts, ends = _key_parts(start, L, S, low, high, LEFT, RIGHT, VARLEN, BLOCK_M, BLOCK_N)
    for part in tl.static_range(3):
        if (part > 0 or LEFT) and BLOCK_Q == 0:
            for n0 in range(starts[part], ends[part], BLOCK_N):
                acc, sums, top = _forward_step(
                    acc, sums, top, x, q, k, v, mask, z, H, rows, n0, L, S, E, EV, shift, low, high, parameters, scale,
                    p, seed, offset, q_strides[RANK + 1], q_strides[RANK + 2], k_strides[RANK + 1],
                    k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2], mask_strides[RANK + 1],
                    mask_strides[RANK + 2], MASK, LEFT, RIGHT, SCORE, DROPOUT, part != 1, ACC, PRECISION,
                    BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE, CHUNK,
                )  # fmt: skip
    seen = sums != 0.0  # false where a query may look at no key: its output is 0, its log-sum +inf
    scaled = tl.where(seen, sums, 1.0)
    lse = tl.where(seen, (top + tl.log2(scaled)) * LN2, float("inf"))
    if DROPOUT:
        acc = acc * tl.cast(rescale, ACC)
    columns = tl.arange(0, BLOCK_EV)
    inside = (rows[:, None] < L) & (columns[None, :] < EV)
    y = (acc / scaled[:, None]).to(out.dtype.element_ty)
    tl.store(out + first * EV + (rows[:, None] * (step * EV) + columns[None, :]), y, mask=inside)
    tl.store(logsumexp + at + rows, lse, mask=rows < L)


# One program owns BLOCK_M rows: delta = sum_e g * out - g_sums, the term of the softmax's gradient that a row shares;
# g_sums is the gradient of the log-sum. Reads g and out once, writes one number a row.
@jit
def delta_kernel(
    delta, g, out, g_sums, H, shape, g_strides, out_strides, L, EV,
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
    out += _base(z, H, 1, shape, out_strides, RANK)
    x = _load_rows(g, rows, L, columns, EV, g_strides[RANK + 1], g_strides[RANK + 2], True, True).to(ACC)
    y = _load_rows(out, rows, L, columns, EV, out_strides[RANK + 1], out_strides[RANK + 2], True, True).to(ACC)
    d = tl.sum(x * y, 1)
    if g_sums is not None:
        d -= tl.load(g_sums + at + rows, mask=rows < L, other=0.0).to(ACC)
    tl.store(delta + at + rows, d, mask=rows < L)


@jit
def _query_step(
    acc, q, g, q_base, g_base, lse, delta, k, v, mask, z, H, rows, n0, L, S, E, EV, shift, low, high, parameters, scale,
    p, rescale, seed, offset, stride_qm, stride_qe, stride_gm, stride_ge, stride_kn, stride_ke, stride_vn, stride_ve,
    mask_row, mask_column,
    MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, SCORE: tl.constexpr, SCORE_GRAD: tl.constexpr,
    DROPOUT: tl.constexpr, EDGE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    columns = n0 + tl.arange(0, BLOCK_N)
    if WIDE:
        columns = columns.to(tl.int64)
    if CHUNK:
        again = rows + tl.minimum(n0, S - 1) // S
        plain = _by_chunks(
            q_base, again, L, stride_qm, stride_qe, k, columns, S, stride_kn, stride_ke, E, True, EDGE, PAD_E, ACC,
            PRECISION, BLOCK_E, CHUNK,
        ) * scale  # fmt: skip
    else:
        x = _load_rows(k, columns, S, tl.arange(0, BLOCK_E), E, stride_kn, stride_ke, EDGE, PAD_E)
        y = _load_rows(v, columns, S, tl.arange(0, BLOCK_EV), EV, stride_vn, stride_ve, EDGE, PAD_EV)
        plain = tl.dot(q, tl.trans(x), input_precision=PRECISION, out_dtype=ACC) * scale
    s = _scored(plain, z, H, rows[:, None], columns[None, :], L, S, shift, parameters, SCORE)
    s = _masked(
        s, mask, rows[:, None], columns[None, :], L, S, low, high, mask_row, mask_column, MASK, LEFT, RIGHT, EDGE
    )
    w = tl.exp2(s - lse[:, None])
    if CHUNK:
        dw = _by_chunks(
            g_base, again, L, stride_gm, stride_ge, v, columns, S, stride_vn, stride_ve, EV, True, EDGE, PAD_EV, ACC,
            PRECISION, BLOCK_EV, CHUNK,
        )  # fmt: skip
    else:
        dw = tl.dot(g, tl.trans(y), input_precision=PRECISION, out_dtype=ACC)
    if DROPOUT:
        dw = tl.where(_keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N), dw * rescale, 0.0)
    ds = w * (dw - delta[:, None])
    ds = _unscored(ds, plain, z, H, rows[:, None], columns[None, :], L, S, shift, parameters, SCORE_GRAD)
    if CHUNK:
        x = _load_rows(k, columns, S, tl.arange(0, BLOCK_E), E, stride_kn, stride_ke, EDGE, PAD_E)
    return tl.dot(ds.to(x.dtype), x, acc, input_precision=PRECISION, out_dtype=ACC)


# One program owns the gradient of BLOCK_M queries of one head: it reads q and g once and every key and value they
# looked at, and writes BLOCK_M*E elements.
@jit(do_not_specialize=("seed", "offset"))
def query_grad_kernel(
    dq, g, q, k, v, mask, logsumexp, delta, cu_q, cu_k, used, parameters, blocks, H, shape, g_strides, q_strides,
    k_strides, v_strides, mask_strides, L, S, E, EV, total, left, right, scale, p, rescale, seed, offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    ALIGNED: tl.constexpr, VARLEN: tl.constexpr, SCORE: tl.constexpr, SCORE_GRAD: tl.constexpr,
    WHOLE_SCORE: tl.constexpr, WHOLE_SCORE_GRAD: tl.constexpr, DROPOUT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_KV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr,
    WIDE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(L, BLOCK_M)
    z = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    if RIGHT and not LEFT:
        tile = tiles - 1 - tile
    start = tile * BLOCK_M
    rows = start + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    q0, k0, L, S, first, step, at = _sequence(z, H, cu_q, cu_k, used, L, S, total, VARLEN)
    g += _base(z, H, 1, shape, g_strides, RANK) + q0 * g_strides[RANK + 1]
    q += _base(z, H, 1, shape, q_strides, RANK) + q0 * q_strides[RANK + 1]
    k += _base(z, H, GROUP, shape, k_strides, RANK) + k0 * k_strides[RANK + 1]
    v += _base(z, H, GROUP, shape, v_strides, RANK) + k0 * v_strides[RANK + 1]
    if MASK != 0 and BLOCK_Q == 0:
        mask += _base(z, H, 1, shape, mask_strides, RANK)
    features = tl.arange(0, BLOCK_E)
    x = q
    dy = g
    if CHUNK == 0:
        x = _load_rows(q, rows, L, features, E, q_strides[RANK + 1], q_strides[RANK + 2], True, PAD_E)
        dy = _load_rows(g, rows, L, tl.arange(0, BLOCK_EV), EV, g_strides[RANK + 1], g_strides[RANK + 2], True, PAD_EV)
    lse = tl.load(logsumexp + at + rows, mask=rows < L, other=float("inf")) * LOG2E
    shared = tl.load(delta + at + rows, mask=rows < L, other=0.0)
    scale2 = tl.cast(scale, ACC) if SCORE is not None else tl.cast(scale, ACC) * LOG2E
    acc = tl.zeros((BLOCK_M, BLOCK_E), dtype=ACC)
    shift = S - L if ALIGNED else 0
    low = shift - left
    high = shift + right
    if BLOCK_Q > 0:
        plain = tl.cast(scale, ACC) if WHOLE_SCORE is not None else tl.cast(scale, ACC) * LOG2E
        for part in tl.static_range(2):
            many, listed = listed_blocks(blocks, part, z, H, start // BLOCK_Q, False)
            for j in range(many * (BLOCK_KV // BLOCK_N)):
                n0 = block_start(listed, j, BLOCK_KV, BLOCK_N)
                acc = _query_step(
                    acc, x, dy, q, g, lse, shared, k, v,
                    block_mask(mask, blocks, z, H, start, n0, BLOCK_Q, BLOCK_KV) if MASK != 0 and part == 0 else mask,
                    z, H, rows,
                    n0, L, S, E, EV, shift, low, high, parameters, scale2 if part == 0 else plain, p, rescale, seed,
                    offset, q_strides[RANK + 1], q_strides[RANK + 2], g_strides[RANK + 1], g_strides[RANK + 2],
                    k_strides[RANK + 1], k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2], BLOCK_KV, 1,
                    MASK if part == 0 else 0, LEFT and part == 0, RIGHT and part == 0,
                    SCORE if part == 0 else WHOLE_SCORE, SCORE_GRAD if part == 0 else WHOLE_SCORE_GRAD, DROPOUT, True,
                    ACC, PRECISION, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE, CHUNK,
                )  # fmt: skip
        starts, ends = (0, 0, 0), (0, 0, 0)
    else:
        starts, ends = _key_parts(start, L, S, low, high, LEFT, RIGHT, VARLEN, BLOCK_M, BLOCK_N)
    for part in tl.static_range(3):
        if (part > 0 or LEFT) and BLOCK_Q == 0:
            for n0 in range(starts[part], ends[part], BLOCK_N):
                acc = _query_step(
                    acc, x, dy, q, g, lse, shared, k, v, mask, z, H, rows, n0, L, S, E, EV, shift, low, high,
                    parameters, scale2, p, rescale, seed, offset, q_strides[RANK + 1], q_strides[RANK + 2],
                    g_strides[RANK + 1], g_strides[RANK + 2], k_strides[RANK + 1], k_strides[RANK + 2],
                    v_strides[RANK + 1], v_strides[RANK + 2], mask_strides[RANK + 1], mask_strides[RANK + 2], MASK,
                    LEFT, RIGHT, SCORE, SCORE_GRAD, DROPOUT, part != 1, ACC, PRECISION, BLOCK_N, BLOCK_E, BLOCK_EV,
                    PAD_E, PAD_EV, WIDE, CHUNK,
                )  # fmt: skip
    inside = (rows[:, None] < L) & (features[None, :] < E)
    acc = acc * tl.cast(scale, ACC)
    to = dq + first * E + (rows[:, None] * (step * E) + features[None, :])
    tl.store(to, acc.to(dq.dtype.element_ty), mask=inside)


@jit
def _key_step(
    dk, dv, k, v, k_base, v_base, q, g, logsumexp, delta, mask, z, H, columns, n0, m0, L, S, E, EV, shift, low, high,
    parameters, scale, p, rescale, seed, offset, stride_qm, stride_qe, stride_gm, stride_ge, stride_kn, stride_ke,
    stride_vn, stride_ve, mask_row, mask_column,
    MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, SCORE: tl.constexpr, SCORE_GRAD: tl.constexpr,
    DROPOUT: tl.constexpr, EDGE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr,
    WIDE: tl.constexpr, CHUNK: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    rows = m0 + tl.arange(0, BLOCK_M)
    if WIDE:
        rows = rows.to(tl.int64)
    if CHUNK == 0:
        x = _load_rows(q, rows, L, tl.arange(0, BLOCK_E), E, stride_qm, stride_qe, True, PAD_E)
        dy = _load_rows(g, rows, L, tl.arange(0, BLOCK_EV), EV, stride_gm, stride_ge, True, PAD_EV)
    # A row past the end has log-sum +inf, hence weights 0.
    if SPREAD > 1:  # each lane loads one number, and shared memory brings it those of its columns
        many = rows[:, None] + tl.zeros((1, SPREAD), tl.int32)
        lse = tl.max(tl.load(logsumexp + many, mask=many < L, other=float("inf")), 1) * LOG2E
        shared = tl.max(tl.load(delta + many, mask=many < L, other=0.0), 1)
    else:
        lse = tl.load(logsumexp + rows, mask=rows < L, other=float("inf")) * LOG2E
        shared = tl.load(delta + rows, mask=rows < L, other=0.0)
    if CHUNK:
        again = columns + tl.minimum(m0, L - 1) // L
        plain = _by_chunks(
            k_base, again, S, stride_kn, stride_ke, q, rows, L, stride_qm, stride_qe, E, True, True, PAD_E, ACC,
            PRECISION, BLOCK_E, CHUNK,
        ) * scale  # fmt: skip
    else:
        plain = tl.dot(k, tl.trans(x), input_precision=PRECISION, out_dtype=ACC) * scale
    s = _scored(plain, z, H, rows[None, :], columns[:, None], L, S, shift, parameters, SCORE)
    s = _masked(
        s, mask, rows[None, :], columns[:, None], L, S, low, high, mask_row, mask_column, MASK, LEFT, RIGHT, EDGE
    )
    w = tl.exp2(s - lse[None, :])
    if CHUNK:
        dw = _by_chunks(
            v_base, again, S, stride_vn, stride_ve, g, rows, L, stride_gm, stride_ge, EV, True, True, PAD_EV, ACC,
            PRECISION, BLOCK_EV, CHUNK,
        )  # fmt: skip
        dy = _load_rows(g, rows, L, tl.arange(0, BLOCK_EV), EV, stride_gm, stride_ge, True, PAD_EV)
    else:
        dw = tl.dot(v, tl.trans(dy), input_precision=PRECISION, out_dtype=ACC)
    if DROPOUT:
        keep = tl.trans(_keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N))
        dv = tl.dot(tl.where(keep, w * rescale, 0.0).to(dy.dtype), dy, dv, input_precision=PRECISION, out_dtype=ACC)
        dw = tl.where(keep, dw * rescale, 0.0)
    else:
        dv = tl.dot(w.to(dy.dtype), dy, dv, input_precision=PRECISION, out_dtype=ACC)
    ds = w * (dw - shared[None, :])
    ds = _unscored(ds, plain, z, H, rows[None, :], columns[:, None], L, S, shift, parameters, SCORE_GRAD)
    if CHUNK:
        x = _load_rows(q, rows, L, tl.arange(0, BLOCK_E), E, stride_qm, stride_qe, True, PAD_E)
    dk = tl.dot(ds.to(x.dtype), x, dk, input_precision=PRECISION, out_dtype=ACC)
    return dk, dv


# One program owns the gradients of BLOCK_N keys and values of one head: it reads them once, and q and g of every query
# of the GROUP heads that looked at them, in one order; it writes BLOCK_N*(E + EV) elements. SPREAD: of lanes that load
# each log-sum: as many as there are, where each would load those of all its columns.
@jit(do_not_specialize=("seed", "offset"))
def key_grad_kernel(
    dk, dv, g, q, k, v, mask, logsumexp, delta, cu_q, cu_k, used, parameters, blocks, H, shape, g_strides, q_strides,
    k_strides, v_strides, mask_strides, L, S, E, EV, total, left, right, scale, p, rescale, seed, offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, MASK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    ALIGNED: tl.constexpr, VARLEN: tl.constexpr, SCORE: tl.constexpr, SCORE_GRAD: tl.constexpr,
    WHOLE_SCORE: tl.constexpr, WHOLE_SCORE_GRAD: tl.constexpr, DROPOUT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_KV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr,
    WIDE: tl.constexpr, CHUNK: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(S, BLOCK_N)
    y = tl.program_id(0) // tiles  # which head of k and v, of all batches
    start = tl.program_id(0) % tiles * BLOCK_N
    columns = start + tl.arange(0, BLOCK_N)
    if WIDE:
        columns = columns.to(tl.int64)
    features = tl.arange(0, BLOCK_E)
    values = tl.arange(0, BLOCK_EV)
    q0, k0, L, S, _, _, at = _sequence(y * GROUP, H, cu_q, cu_k, used, L, S, total, VARLEN)
    k += _base(y * GROUP, H, GROUP, shape, k_strides, RANK) + k0 * k_strides[RANK + 1]
    v += _base(y * GROUP, H, GROUP, shape, v_strides, RANK) + k0 * v_strides[RANK + 1]
    q += q0 * q_strides[RANK + 1]
    g += q0 * g_strides[RANK + 1]
    kx = k
    vx = v
    if CHUNK == 0:
        kx = _load_rows(k, columns, S, features, E, k_strides[RANK + 1], k_strides[RANK + 2], True, PAD_E)
        vx = _load_rows(v, columns, S, values, EV, v_strides[RANK + 1], v_strides[RANK + 2], True, PAD_EV)
    scale2 = tl.cast(scale, ACC) if SCORE is not None else tl.cast(scale, ACC) * LOG2E
    sum_k = tl.zeros((BLOCK_N, BLOCK_E), dtype=ACC)
    sum_v = tl.zeros((BLOCK_N, BLOCK_EV), dtype=ACC)
    shift = S - L if ALIGNED else 0
    low = shift - left
    high = shift + right
    z = y * GROUP
    q += _base(z, H, 1, shape, q_strides, RANK)
    g += _base(z, H, 1, shape, g_strides, RANK)
    if MASK != 0 and BLOCK_Q == 0:
        mask += _base(z, H, 1, shape, mask_strides, RANK)
    logsumexp += at
    delta += at
    if BLOCK_Q > 0:
        plain = tl.cast(scale, ACC) if WHOLE_SCORE is not None else tl.cast(scale, ACC) * LOG2E
        for h in range(GROUP):
            head = tl.cast(h, tl.int64)
            for part in tl.static_range(2):
                many, listed = listed_blocks(blocks, part, z + h, H, start // BLOCK_KV, True)
                for j in range(many * (BLOCK_Q // BLOCK_M)):
                    m0 = block_start(listed, j, BLOCK_Q, BLOCK_M)
                    sum_k, sum_v = _key_step(
                        sum_k, sum_v, kx, vx, k, v, q + head * q_strides[RANK], g + head * g_strides[RANK],
                        logsumexp + head * L, delta + head * L,
                        block_mask(mask, blocks, z + h, H, m0, start, BLOCK_Q, BLOCK_KV)
                        if MASK != 0 and part == 0 else mask,
                        z + h, H, columns, start, m0, L, S, E, EV, shift, low, high, parameters,
                        scale2 if part == 0 else plain, p, rescale, seed, offset, q_strides[RANK + 1],
                        q_strides[RANK + 2], g_strides[RANK + 1], g_strides[RANK + 2], k_strides[RANK + 1],
                        k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2], BLOCK_KV, 1,
                        MASK if part == 0 else 0, LEFT and part == 0, RIGHT and part == 0,
                        SCORE if part == 0 else WHOLE_SCORE, SCORE_GRAD if part == 0 else WHOLE_SCORE_GRAD, DROPOUT,
                        True, ACC, PRECISION, BLOCK_M, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE, CHUNK, SPREAD,
                    )  # fmt: skip
        starts, ends = (0, 0, 0), (0, 0, 0)
    else:
        starts, ends = _query_parts(start, L, S, low, high, LEFT, RIGHT, VARLEN, BLOCK_M, BLOCK_N)
    for part in tl.static_range(3):
        if (part == 1 or LEFT or (RIGHT and part == 0)) and BLOCK_Q == 0:
            # All heads' steps are one loop: one within another would hold two loops' addresses in registers.
            steps = tl.maximum(tl.cdiv(ends[part] - starts[part], BLOCK_M), 0)
            for i in range(GROUP * steps):
                h = i // steps if GROUP > 1 else 0
                m0 = starts[part] + (i - h * steps) * BLOCK_M
                head = tl.cast(h, tl.int64)
                sums = head * (total if VARLEN else L)
                sum_k, sum_v = _key_step(
                    sum_k, sum_v, kx, vx, k, v, q + head * q_strides[RANK], g + head * g_strides[RANK],
                    logsumexp + sums, delta + sums, mask + head * mask_strides[RANK] if MASK != 0 else mask, z + h, H,
                    columns, start, m0, L, S, E, EV, shift, low, high, parameters, scale2, p, rescale, seed, offset,
                    q_strides[RANK + 1], q_strides[RANK + 2], g_strides[RANK + 1], g_strides[RANK + 2],
                    k_strides[RANK + 1], k_strides[RANK + 2], v_strides[RANK + 1], v_strides[RANK + 2],
                    mask_strides[RANK + 1], mask_strides[RANK + 2], MASK, LEFT, RIGHT, SCORE, SCORE_GRAD, DROPOUT,
                    part != 1, ACC, PRECISION, BLOCK_M, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV, WIDE, CHUNK, SPREAD,
                )  # fmt: skip
    if VARLEN:
        to = k0 * (H // GROUP) + y % (H // GROUP)
        step = H // GROUP
    else:
        to = tl.cast(y, tl.int64) * S
        step = 1
    sum_k = sum_k * tl.cast(scale, ACC)
    if used is not None:  # keys past those that count have gradients 0
        sum_k = tl.where(columns[:, None] < S, sum_k, 0.0)
        sum_v = tl.where(columns[:, None] < S, sum_v, 0.0)
        S = (tl.load(cu_k + y * GROUP // H + 1).to(tl.int64) - k0).to(tl.int32)
    tl.store(dk + to * E + (columns[:, None] * (step * E) + features[None, :]), sum_k.to(dk.dtype.element_ty),
             mask=(columns[:, None] < S) & (features[None, :] < E))  # fmt: skip
    tl.store(dv + to * EV + (columns[:, None] * (step * EV) + values[None, :]), sum_v.to(dv.dtype.element_ty),
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

ATTENTION = tunable("attention", attention_kernel, 2)
QUERY_GRAD = tunable("attention_query_grad", query_grad_kernel, 3)
KEY_GRAD = tunable("attention_key_grad", key_grad_kernel, 4)


class Scores:
    """What happens to scores: a window (keys back, keys on; -1: all), from which diagonal, and a score function.

    ``aligned``: the last query has the position of the last key, not the first that of the first. ``blocks``: the only
    ones that are looked at. They agree with the window and with the masks among the functions.
    """

    __slots__ = ("aligned", "arrays", "blocks", "chain", "left", "right")

    def __init__(
        self, window: tuple[int, int] = (-1, -1), aligned: bool = False, chain: Any = (), arrays: Sequence[Any] = (),
        blocks: Blocks | None = None,
    ) -> None:  # fmt: skip
        self.left, self.right = window
        self.aligned = aligned
        self.chain = chain
        self.arrays = arrays
        self.blocks = blocks


CAUSAL, ALL = Scores((-1, 0)), Scores()


class _Problem:
    """The arguments that the kernels share, worked out of the arrays."""

    def __init__(
        self, query: DeviceArray, key: DeviceArray, value: DeviceArray, attn_mask: DeviceArray | None,
        scores: Scores, scale: float, dropout_p: float, seed: int, offset: int, g: DeviceArray | None,
        packed: Packed | None = None,
    ) -> None:  # fmt: skip
        if packed is None:
            q, k, v = (x[None] if x.ndim == 2 else x for x in (query, key, value))
        else:  # (tokens, heads, features) -> (heads, tokens, features)
            q, k, v = (x.transpose((1, 0, 2)) for x in (query, key, value))
            g = None if g is None else g.transpose((1, 0, 2))
        *lead, self.H, self.L, self.E = q.shape
        self.S, self.EV = v.shape[-2:]
        self.heads = k.shape[-3]
        self.matrices = math.prod(lead) * self.H
        self.q, self.k, self.v, self.g = q, k, v, g if g is None or g.ndim > 2 else g[None]
        self.blocks = blocks = scores.blocks
        self.mask = attn_mask
        if attn_mask is not None and blocks is None:
            self.mask = expand(attn_mask, (*lead, self.H, self.L, self.S))
        elif attn_mask is not None and not is_contiguous(attn_mask):  # tiles, all queries of which may be one
            self.mask = contiguous(attn_mask)
        self.total = self.L
        self.cu: tuple[Any, Any, Any] = (None, None, None)
        if packed is not None:
            self.cu = packed.cu_q, packed.cu_k, packed.used
            self.matrices *= packed.cu_q.shape[0] - 1
            self.L, self.S = packed.max_q, packed.max_k
        arrays = [self.q, self.k, self.v, self.mask if blocks is None else None, self.g]
        if lead:
            self.shape, batch = collapse(lead, [None if x is None else x.strides[:-3] for x in arrays])
        else:
            self.shape, batch = (), [None if x is None else () for x in arrays]
        none = (0,) * (len(self.shape) + 3)
        self.strides = [none if x is None else (*b, *x.strides[-3:]) for x, b in zip(arrays, batch, strict=True)]
        self.acc = np.dtype(np.float64 if q.dtype == np.float64 else np.float32)
        number = np.float64 if self.acc == np.float64 else float
        rescale = number(1 / (1 - dropout_p)) if dropout_p < 1 else number(0)
        self.window = (max(scores.left, 0), max(scores.right, 0))
        self.numbers = (number(scale), float(dropout_p), rescale, seed, offset)
        self.parameters = attention_scores.arguments(scores.chain, scores.arrays, number)
        self.score, self.score_grad = attention_scores.composed(scores.chain)
        self.whole, self.whole_grad = self.score, self.score_grad
        if blocks is not None:  # no mask is applied where it would leave all
            self.whole, self.whole_grad = attention_scores.composed(attention_scores.without_masks(scores.chain))
        kind = NO_MASK if attn_mask is None else BOOL_MASK if attn_mask.dtype == np.bool_ else ADDED_MASK
        kind = TILED_MASK if attn_mask is not None and blocks is not None else kind
        block_e, block_ev = fit(self.E), fit(self.EV)
        self.width = max(block_e, block_ev)
        matrices = (
            (self.q, self.L, self.E), (self.k, self.S, self.E), (self.v, self.S, self.EV),
            (self.mask if blocks is None else None, self.L, self.S), (self.g, self.L, self.EV),
        )  # fmt: skip
        spans = [
            (rows + 128) * abs(x.strides[-2]) + (columns + 128) * abs(x.strides[-1])
            for x, rows, columns in matrices
            if x is not None
        ]
        apart = 1 if packed is None else self.H
        spans.append((max(self.L, self.S) + 128) * self.width * apart)  # the outputs
        left, right = scores.left >= 0, scores.right >= 0
        self.constants: dict[str, Any] = dict(
            GROUP=self.H // self.heads if self.heads else 1, RANK=len(self.shape), MASK=kind, LEFT=left, RIGHT=right,
            ALIGNED=scores.aligned and (left or right or bool(scores.chain)), VARLEN=packed is not None,
            SCORE=self.score, WHOLE_SCORE=self.whole, DROPOUT=dropout_p > 0.0, ACC=self.acc,
            PRECISION=precision(q.dtype, q.device), BLOCK_Q=blocks.size[0] if blocks else 0,
            BLOCK_KV=blocks.size[1] if blocks else 0,
            BLOCK_E=block_e, BLOCK_EV=block_ev, PAD_E=block_e != self.E, PAD_EV=block_ev != self.EV,
            WIDE=max(spans) >= 1 << 31,
        )  # fmt: skip

    @property
    def problem(self) -> Problem:
        """What the choice of a tile depends on."""
        c = self.constants
        reach = sum(self.window) + 1 if c["LEFT"] and c["RIGHT"] else 0
        return Problem(
            self.L, self.S, self.width, self.matrices, self.q.dtype, c["PRECISION"], c["RIGHT"], c["MASK"],
            c["DROPOUT"], reach,
        )  # fmt: skip

    def lists(self, of_keys: bool) -> tuple[Any, ...]:
        """The lists of blocks as kernels take them."""
        return () if self.blocks is None else self.blocks.arguments(of_keys)

    def tile(self, config: Config) -> dict[str, Any]:
        """What a launch takes of a configuration: its tiles lie within blocks, where these are listed."""
        taken: dict[str, Any] = {**config.launch, **self.constants}
        if self.blocks is not None:
            for name, side in zip(("BLOCK_M", "BLOCK_N"), self.blocks.size, strict=True):
                taken[name] = min(taken[name], side & -side)  # the largest power of two that divides it
        return taken


class Packed:
    """Sequences one behind the other: where each begins in queries and in keys, and the longest of each.

    ``used``: how many keys of each count, None: all.
    """

    __slots__ = ("cu_k", "cu_q", "max_k", "max_q", "used")

    def __init__(
        self, cu_q: DeviceArray, cu_k: DeviceArray, used: DeviceArray | None, max_q: int, max_k: int
    ) -> None:
        self.cu_q, self.cu_k, self.used = (
            x if x is None or is_contiguous(x) else contiguous(x) for x in (cu_q, cu_k, used)
        )
        self.max_q, self.max_k = max_q, max_k


def attention(
    out: DeviceArray, logsumexp: DeviceArray, query: DeviceArray, key: DeviceArray, value: DeviceArray,
    attn_mask: DeviceArray | None, is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0,
    offset: int = 0, scores: Scores | None = None, packed: Packed | None = None,
) -> None:  # fmt: skip
    """out = dropout(softmax(query @ key.mT * scale + mask)) @ value, and the log-sum-exp of each row's scores."""
    scores = scores or (CAUSAL if is_causal else ALL)
    x = _Problem(query, key, value, attn_mask, scores, scale, dropout_p, seed, offset, None, packed)
    if not out.size and not logsumexp.size:
        return

    def run(config: Config, out: DeviceArray, logsumexp: DeviceArray) -> None:
        taken = x.tile(config)
        launch(
            attention_kernel, (cdiv(x.L, taken["BLOCK_M"]) * x.matrices,),
            out, logsumexp, x.q, x.k, x.v, x.mask, *x.cu, x.parameters, x.lists(False), x.H, x.shape, *x.strides[:4],
            x.L, x.S, x.E, x.EV, x.total, *x.window, *x.numbers, **taken,
        )  # fmt: skip

    run(ATTENTION.choose(x.problem, x.q.device, run, (out, logsumexp)), out, logsumexp)


def delta_of(x: _Problem, out: DeviceArray, logsumexp: DeviceArray, g_sums: DeviceArray | None) -> DeviceArray:
    """sum_e g * out - g_sums of every row, in the order of the log-sums."""
    delta: DeviceArray = empty(logsumexp.shape, x.acc, out.device)
    out = out if is_contiguous(out) else contiguous(out)
    if g_sums is not None and not is_contiguous(g_sums):
        g_sums = contiguous(g_sums)
    if delta.size:
        rank = x.constants["RANK"]
        if x.constants["VARLEN"]:
            rows = x.total
            strides_out: tuple[int, ...] = (x.EV, x.H * x.EV, 1)
        else:  # contiguous
            rows = x.L
            strides_out = (rows * x.EV, x.EV, 1)
            for n in (x.H, *x.shape[:0:-1])[:rank]:
                strides_out = (strides_out[0] * n, *strides_out)
        launch(
            delta_kernel, (cdiv(rows, 32) * (delta.size // rows),), delta, x.g, out, g_sums, x.H, x.shape,
            x.strides[4], strides_out, rows, x.EV, RANK=rank, ACC=x.acc, BLOCK_M=32, BLOCK_EV=x.constants["BLOCK_EV"],
            WIDE=x.constants["WIDE"],
        )  # fmt: skip
    return delta


def attention_grad(
    dq: DeviceArray, dk: DeviceArray, dv: DeviceArray, g: DeviceArray, query: DeviceArray, key: DeviceArray,
    value: DeviceArray, attn_mask: DeviceArray | None, out: DeviceArray, logsumexp: DeviceArray,
    is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0, offset: int = 0,
    scores: Scores | None = None, packed: Packed | None = None, g_sums: DeviceArray | None = None,
) -> None:  # fmt: skip
    """The gradients of query, key and value: two passes over tiles of scores, one by queries and one by keys."""
    scores = scores or (CAUSAL if is_causal else ALL)
    x = _Problem(query, key, value, attn_mask, scores, scale, dropout_p, seed, offset, g, packed)
    strides_q, strides_k, strides_v, strides_mask, strides_g = x.strides
    logsumexp = logsumexp if is_contiguous(logsumexp) else contiguous(logsumexp)
    delta = delta_of(x, out, logsumexp, g_sums)
    arrays = (x.g, x.q, x.k, x.v, x.mask, logsumexp, delta, *x.cu, x.parameters)
    numbers = (
        x.H, x.shape, strides_g, strides_q, strides_k, strides_v, strides_mask, x.L, x.S, x.E, x.EV, x.total,
        *x.window, *x.numbers,
    )  # fmt: skip
    grads = {"SCORE_GRAD": x.score_grad, "WHOLE_SCORE_GRAD": x.whole_grad}
    if dq.size:

        def query_grad(config: Config, dq: DeviceArray) -> None:
            taken = x.tile(config)
            grid = (cdiv(x.L, taken["BLOCK_M"]) * x.matrices,)
            launch(query_grad_kernel, grid, dq, *arrays, x.lists(False), *numbers, **taken, **grads)

        query_grad(QUERY_GRAD.choose(x.problem, x.q.device, query_grad, (dq,)), dq)
    if dk.size or dv.size:
        gpu = hardware(x.q.device)

        def key_grad(config: Config, dk: DeviceArray, dv: DeviceArray) -> None:
            taken = x.tile(config)
            grid = (cdiv(x.S, taken["BLOCK_N"]) * x.matrices // x.constants["GROUP"],)
            lanes = spread(config, gpu, taken["BLOCK_M"])
            launch(key_grad_kernel, grid, dk, dv, *arrays, x.lists(True), *numbers, SPREAD=lanes, **taken, **grads)

        key_grad(KEY_GRAD.choose(x.problem, x.q.device, key_grad, (dk, dv)), dk, dv)


def keep(out: DeviceArray, query: DeviceArray, key: DeviceArray, dropout_p: float, seed: int, offset: int) -> None:
    """out (…, L, S) = which weights dropout keeps."""
    L, S = out.shape[-2:]
    m, n = 16, 64
    launch(
        keep_kernel, (math.prod(out.shape[:-2]) * cdiv(L, m) * cdiv(S, n),), out, L, S, float(dropout_p), seed, offset,
        BLOCK_M=m, BLOCK_N=n,
    )  # fmt: skip
