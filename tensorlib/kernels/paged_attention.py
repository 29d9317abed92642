"""Attention over a cache of keys and values that lie in pages: a few queries a sequence, its keys split among programs.

Kwon et al. 2023, "PagedAttention"; the split over keys with its merge by log-sum-exp is Dao et al. 2023,
"Flash-Decoding". Scores in float32 (float64 for float64), no atomics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, is_contiguous
from tensorlib.kernels import attention_scores
from tensorlib.kernels.attention import LN2, LOG2E, Scores
from tensorlib.kernels.attention_tiles import fit
from tensorlib.kernels.matmul import contiguous, precision
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _page_rows(
    cache, table, columns, n0, end, features, E, stride_page, stride_slot, stride_feature, PAGE,
    ONE_PAGE: tl.constexpr, PAD: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    # The rows of one head of the cache at positions `columns`; zeros from `end` on. ONE_PAGE: they lie in one page.
    if ONE_PAGE:
        page = tl.load(table + n0 // PAGE).to(tl.int64)
        at = cache + page * stride_page
        slots = n0 % PAGE + tl.arange(0, columns.shape[0])
        at += slots[:, None] * stride_slot + features[None, :] * stride_feature
    else:
        pages = tl.load(table + columns // PAGE, mask=columns < end, other=0).to(tl.int64)
        at = cache + (pages * stride_page + columns % PAGE * stride_slot)[:, None] + features[None, :] * stride_feature
    if WHOLE and not PAD:
        x = tl.load(at)
    elif WHOLE:
        x = tl.load(at, mask=features[None, :] < E, other=0.0)
    elif PAD:
        x = tl.load(at, mask=(columns[:, None] < end) & (features[None, :] < E), other=0.0)
    else:
        x = tl.load(at, mask=columns[:, None] < end, other=0.0)
    return x


@jit
def _page_step(
    acc, sums, top, q, k, v, table, n, n0, L, keys, end, heads, position, low, high, E, EV, parameters, scale, PAGE,
    k_strides, v_strides,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, SCORE: tl.constexpr, ONE_PAGE: tl.constexpr, WHOLE: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr,
    PAD_E: tl.constexpr, PAD_EV: tl.constexpr,
):  # fmt: skip
    columns = n0 + tl.arange(0, BLOCK_N)
    x = _page_rows(
        k, table, columns, n0, end, tl.arange(0, BLOCK_E), E, k_strides[0], k_strides[1], k_strides[3], PAGE, ONE_PAGE,
        PAD_E, WHOLE,
    )  # fmt: skip
    s = tl.dot(q, tl.trans(x), input_precision=PRECISION, out_dtype=ACC) * scale
    if SCORE is not None:
        at = tl.minimum(columns, keys - 1)
        s = SCORE(s, n, heads[:, None], position[:, None], at[None, :], parameters) * LOG2E
    if not WHOLE:
        seen = columns[None, :] < end
        if RIGHT:
            seen = seen & (columns[None, :] <= position[:, None] + high)
        if LEFT:
            seen = seen & (columns[None, :] >= position[:, None] - low)
        s = tl.where(seen, s, float("-inf"))
    new = tl.maximum(top, tl.max(s, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    w = tl.exp2(s - safe[:, None])
    shrink = tl.exp2(top - safe)
    sums = sums * shrink + tl.sum(w, 1)
    y = _page_rows(
        v, table, columns, n0, end, tl.arange(0, BLOCK_EV), EV, v_strides[0], v_strides[1], v_strides[3], PAGE,
        ONE_PAGE, PAD_EV, WHOLE,
    )  # fmt: skip
    acc = tl.dot(w.to(y.dtype), y, acc * shrink[:, None], input_precision=PRECISION, out_dtype=ACC)
    return acc, sums, new


# One program owns BLOCK_M of the queries of one sequence that share a head of the cache (GROUP heads of each query),
# and one of SPLITS shares of the keys they look at. It reads its queries once and its share of keys and values,
# keys / SPLITS * (E + EV) elements, and writes BLOCK_M * EV outputs and BLOCK_M log-sums: parts of them where there are
# several shares.
@jit
def paged_attention_kernel(
    out, logsumexp, q, k, v, table, used, cu_q, parameters, H, L, total, q_strides, k_strides, v_strides, stride_table,
    E, EV, PAGE, left, right, scale,
    GROUP: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, SCORE: tl.constexpr, SPLITS: tl.constexpr,
    ONE_PAGE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(L * GROUP, BLOCK_M)
    pid = tl.program_id(0)
    start = pid % tiles * BLOCK_M
    split = pid // tiles % SPLITS
    z = pid // (tiles * SPLITS)
    kv_heads = H // GROUP
    n = z // kv_heads
    kv_head = z % kv_heads
    if cu_q is not None:
        q0 = tl.load(cu_q + n).to(tl.int64)
        L = tl.minimum(L, (tl.load(cu_q + n + 1).to(tl.int64) - q0).to(tl.int32))
    else:
        q0 = tl.cast(n, tl.int64) * L
    keys = tl.load(used + n).to(tl.int32)
    table += tl.cast(n, tl.int64) * stride_table
    rows = start + tl.arange(0, BLOCK_M)
    i = rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    features = tl.arange(0, BLOCK_E)
    values = tl.arange(0, BLOCK_EV)
    live = i < L
    at = (q0 + i) * q_strides[0] + heads * q_strides[1]
    inside = live[:, None] & (features[None, :] < E)
    x = tl.load(q + at[:, None] + features[None, :] * q_strides[2], mask=inside, other=0.0)
    k += tl.cast(kv_head, tl.int64) * k_strides[2]
    v += tl.cast(kv_head, tl.int64) * v_strides[2]
    # The keys that the queries of this tile look at, first to last, and this program's share of them.
    shift = keys - L
    position = i + shift
    first = start // GROUP + shift
    last = tl.minimum((start + BLOCK_M - 1) // GROUP, L - 1) + shift
    begin = 0
    end = keys
    whole = keys
    if RIGHT:
        end = tl.minimum(keys, tl.maximum(last + right + 1, 0))
        whole = tl.minimum(keys, tl.maximum(first + right + 1, 0))
    clear = 0
    if LEFT:
        begin = tl.maximum(first - left, 0) // BLOCK_N * BLOCK_N
        clear = tl.cdiv(tl.maximum(last - left, 0), BLOCK_N) * BLOCK_N
    end = tl.where(start < L * GROUP, end, 0)
    share = tl.cdiv(tl.cdiv(tl.maximum(end - begin, 0), BLOCK_N), SPLITS) * BLOCK_N
    begin = begin + split * share
    end = tl.minimum(end, begin + share)
    whole = tl.minimum(whole, end) // BLOCK_N * BLOCK_N
    clear = tl.maximum(clear, begin)
    scale = tl.cast(scale, ACC) if SCORE is not None else tl.cast(scale, ACC) * LOG2E
    acc = tl.zeros((BLOCK_M, BLOCK_EV), dtype=ACC)
    sums = tl.zeros((BLOCK_M,), dtype=ACC)
    top = tl.full((BLOCK_M,), float("-inf"), dtype=ACC)
    starts = (begin, clear, tl.maximum(clear, whole))
    ends = (tl.minimum(clear, end), whole, end)
    for part in tl.static_range(3):
        if part > 0 or LEFT:
            for n0 in range(starts[part], ends[part], BLOCK_N):
                acc, sums, top = _page_step(
                    acc, sums, top, x, k, v, table, n, n0, L, keys, end, heads, position, left, right, E, EV,
                    parameters, scale, PAGE, k_strides, v_strides, LEFT, RIGHT, SCORE, ONE_PAGE, part == 1, ACC,
                    PRECISION, BLOCK_N, BLOCK_E, BLOCK_EV, PAD_E, PAD_EV,
                )  # fmt: skip
    seen = sums != 0.0
    scaled = tl.where(seen, sums, 1.0)
    nothing = float("inf") if SPLITS == 1 else float("-inf")
    lse = tl.where(seen, (top + tl.log2(scaled)) * LN2, nothing)
    token = q0 + i
    if SPLITS > 1:
        out += tl.cast(split, tl.int64) * total * H * EV
        logsumexp += tl.cast(split, tl.int64) * H * total
    to = (token * H + heads) * EV
    y = (acc / scaled[:, None]).to(out.dtype.element_ty)
    tl.store(out + to[:, None] + values[None, :], y, mask=live[:, None] & (values[None, :] < EV))
    tl.store(logsumexp + heads.to(tl.int64) * total + token, lse, mask=live)


# One program owns the output of one head of one token: it merges SPLITS parts, each weighed by its share of the sum.
# Reads SPLITS * (EV + 1) elements, writes EV + 1.
@jit
def merge_splits_kernel(
    out, logsumexp, parts, part_sums, H, total, EV,
    SPLITS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_EV: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # token * H + head
    token = row // H
    head = row % H
    part = tl.arange(0, BLOCK_S)
    features = tl.arange(0, BLOCK_EV)
    sums = tl.load(part_sums + (part * H + head) * total + token, mask=part < SPLITS, other=float("-inf"))
    top = tl.max(sums, 0)
    safe = tl.where(top == float("-inf"), 0.0, top)
    shares = tl.exp2((sums - safe) * LOG2E)
    sum_all = tl.sum(shares, 0)
    seen = sum_all != 0.0
    scaled = tl.where(seen, sum_all, 1.0)
    at = (part * total * H + row)[:, None] * EV + features[None, :]
    x = tl.load(parts + at, mask=(part[:, None] < SPLITS) & (features[None, :] < EV), other=0.0)
    y = tl.sum(x * shares[:, None], 0) / scaled
    tl.store(out + row * EV + features, y.to(out.dtype.element_ty), mask=features < EV)
    tl.store(logsumexp + head * total + token, tl.where(seen, safe + tl.log2(scaled) * LN2, float("inf")))


# ---------------------------------------------------------------------------------------------------- host functions

_SHARE = 256  # keys that a share has at least: fewer cost more to merge than they save
_MOST = 128  # shares


def splits(programs: int, keys: int, device: Any) -> int:
    """In how many shares the keys go so that every multiprocessor has a program or two."""
    gpu = hardware(device)
    if gpu.on_host:
        return 1
    wanted = cdiv(2 * gpu.multiprocessors, max(programs, 1))
    return max(1, min(wanted, keys // _SHARE, _MOST))


def paged_attention(
    out: DeviceArray, logsumexp: DeviceArray, query: DeviceArray, key_cache: DeviceArray, value_cache: DeviceArray,
    block_table: DeviceArray, seqused_k: DeviceArray, cu_seq_q: DeviceArray | None, max_q: int,
    scores: Scores, scale: float, num_splits: int,
) -> None:  # fmt: skip
    """out (tokens, H, EV) of queries (tokens, H, E) over caches (pages, page, heads, features); log-sums (H, tokens).

    num_splits 0 chooses.
    """
    total, H, E = query.shape
    _, page, kv_heads, EV = value_cache.shape
    sequences = block_table.shape[0]
    if not out.size or not sequences:
        return
    group = H // kv_heads
    acc = np.dtype(np.float64 if query.dtype == np.float64 else np.float32)
    number = np.float64 if acc == np.float64 else float
    gpu = hardware(query.device)
    block_e, block_ev = fit(E), fit(EV)
    wide = max(block_e, block_ev) * query.dtype.itemsize  # bytes of a row
    block_m = min(fit(max_q * group), 64 if wide <= 256 else 32 if wide <= 512 else 16)
    block_n = 64 if wide <= 256 else 32 if wide <= 1024 else 16
    if gpu.family == "rdna":
        block_m, block_n = min(block_m, 32), min(block_n, 16 if gpu.target.startswith("gfx11") and wide > 128 else 32)
    tiles = cdiv(max_q * group, block_m)
    programs = tiles * sequences * kv_heads
    parts = num_splits or splits(programs, block_table.shape[1] * page, query.device)
    table, used = (x if is_contiguous(x) else contiguous(x) for x in (block_table, seqused_k))
    cu = cu_seq_q if cu_seq_q is None or is_contiguous(cu_seq_q) else contiguous(cu_seq_q)
    to, sums = out, logsumexp
    if parts > 1:
        to, sums = empty((parts, *out.shape), acc, out.device), empty((parts, *logsumexp.shape), acc, out.device)
    score, _ = attention_scores.composed(scores.chain)
    launch(
        paged_attention_kernel, (programs * parts,), to, sums, query, key_cache, value_cache, table, used, cu,
        attention_scores.arguments(scores.chain, scores.arrays, number), H, max_q, total, query.strides,
        key_cache.strides, value_cache.strides, table.shape[1], E, EV, page, max(scores.left, 0), max(scores.right, 0),
        number(scale), num_warps=4, num_stages=1 if gpu.family in ("cdna", "rdna") or wide > 512 else 2,
        GROUP=group, LEFT=scores.left >= 0, RIGHT=scores.right >= 0, SCORE=score, SPLITS=parts,
        ONE_PAGE=page % block_n == 0, ACC=acc, PRECISION=precision(query.dtype, query.device), BLOCK_M=block_m,
        BLOCK_N=block_n, BLOCK_E=block_e, BLOCK_EV=block_ev, PAD_E=block_e != E, PAD_EV=block_ev != EV,
    )  # fmt: skip
    if parts > 1:
        launch(
            merge_splits_kernel, (total * H,), out, logsumexp, to, sums, H, total, EV, SPLITS=parts,
            BLOCK_S=next_power_of_2(parts), BLOCK_EV=next_power_of_2(EV), num_warps=1 if parts <= 16 else 4,
        )  # fmt: skip
