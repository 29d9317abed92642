"""Attention of a few queries a sequence over a paged cache of keys and values."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._core import Tensor, modes
from tensorlib.errors import ShapeError
from tensorlib.nn.attention.mods import ScoreMod
from tensorlib.nn.attention.varlen import chain_of, window_of
from tensorlib.ops.paged_attention import _paged_attention


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    seqused_k: Tensor,
    *,
    cu_seq_q: Tensor | None = None,
    max_q: int | None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, 0),
    score_mod: ScoreMod | None = None,
    num_splits: int | None = None,
    return_lse: bool = False,
) -> Any:
    """softmax(query_n @ keys_n.mT * scale) @ values_n, keys_n the first seqused_k[n] in the pages block_table[n].

    query (N, H, E), one for each sequence, or (N, L, H, E), or packed (T, H, E) with ``cu_seq_q`` (N + 1,) and
    ``max_q``; key_cache (pages, page size, H_kv, E), value_cache (pages, page size, H_kv, E_v), H_kv a divisor of H;
    block_table (N, pages of the longest) and seqused_k (N,) of int32 or int64 -> a tensor like query, E_v for E. The
    queries are the last of their sequence, so that ``window_size`` (-1, 0) is causal; (left, right) as in
    `varlen_attn`. ``score_mod``: one of `nn.attention.mods`, which sees positions in the sequence. ``num_splits``:
    shares of the keys that programs of their own take and a second kernel merges by their log-sum-exps; None chooses by
    how many programs the device holds, 1 gives results that do not depend on the batch. ``return_lse`` gives (out,
    log-sum-exps (H, tokens)). Sums in float32 (float64 for float64); a query that may look at no key gives 0. No
    gradient. ShapeError and DtypeError name what does not fit. Kwon et al. 2023, "PagedAttention"; Dao et al. 2023,
    "Flash-Decoding".
    """
    if query.ndim not in (3, 4) or (query.ndim == 4 and cu_seq_q is not None):
        raise ShapeError(
            f"paged_attention: expected query (N, H, E) or (N, L, H, E), or (tokens, H, E) with cu_seq_q, got "
            f"{tuple(query.shape)}"
        )
    if cu_seq_q is not None and max_q is None:
        raise ShapeError("paged_attention: cu_seq_q needs max_q, the most queries that a sequence has")
    if modes.grad and any(t.requires_grad for t in (query, key_cache, value_cache)):
        raise RuntimeError("paged_attention has no gradient: call it under no_grad, or use varlen_attn")
    chain, buffers = chain_of("paged_attention", score_mod)
    shape = query.shape
    packed = query.reshape((shape[0] * shape[1], *shape[2:])) if query.ndim == 4 else query
    most = int(max_q) if cu_seq_q is not None and max_q is not None else shape[1] if query.ndim == 4 else 1
    out, lse = _paged_attention(
        packed, key_cache, value_cache, block_table, seqused_k, cu_seq_q, buffers, most, window_of(window_size), chain,
        1 / math.sqrt(shape[-1] or 1) if scale is None else float(scale), num_splits or 0,
    )  # fmt: skip
    if query.ndim == 4:
        out = out.reshape((*shape[:-1], out.shape[-1]))
    return (out, lse) if return_lse else out
