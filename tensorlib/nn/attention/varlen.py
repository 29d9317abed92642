"""Attention over packed sequences of different lengths, as ``torch.nn.attention.varlen`` has it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tensorlib._core import Tensor, modes
from tensorlib.errors import ArgumentError, AutogradError
from tensorlib.nn.attention.mods import ScoreMod
from tensorlib.op import into
from tensorlib.ops.attention import fits
from tensorlib.ops.paged_attention import _paged_attention
from tensorlib.ops.varlen_attention import _formula, _varlen_attention

__all__ = ["AuxRequest", "varlen_attn", "varlen_attn_out"]


class AuxRequest(NamedTuple):
    """What ``varlen_attn`` gives beside its output."""

    lse: bool = False


def chain_of(name: str, score_mod: Any) -> tuple[Any, Any]:
    """(chain, buffers) of a ScoreMod; a TypeError for other functions, an AutogradError for learned parameters."""
    if score_mod is None:
        return (), []
    if not isinstance(score_mod, ScoreMod):
        raise TypeError(
            f"{name}(): argument 'score_mod' must be a ScoreMod of nn.attention.mods, not {type(score_mod).__name__}"
        )
    if modes.grad and any(b.requires_grad for b in score_mod.buffers):
        raise AutogradError(
            f"{name}: {score_mod.__name__} has a tensor that requires grad, which the kernels give no gradient: detach "
            f"it, or use flex_attention"
        )
    return score_mod.chain, list(score_mod.buffers)


def window_of(window_size: Any) -> tuple[int, int]:
    """(left, right) with -1 for every negative size. ValueError for anything but two."""
    if len(window_size) != 2:
        raise ArgumentError(f"window_size must have length 2, got {len(window_size)}")
    left, right = (max(int(w), -1) for w in window_size)
    return left, right


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: AuxRequest | None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
    score_mod: ScoreMod | None = None,
) -> Any:
    """softmax(query_n @ key_n.mT * scale) @ value_n for each sequence n, all packed one behind the other.

    query (T_q, H_q, D), key (T_k, H_kv, D), value (T_k, H_kv, D_v) -> (T_q, H_q, D_v); sequence n has queries
    cu_seq_q[n] … cu_seq_q[n + 1] and keys cu_seq_k[n] … cu_seq_k[n + 1], int32 or int64 (N + 1,); max_q and max_k are
    at least the longest of each. ``window_size`` (left, right): query i looks at keys i + d - left … i + d + right with
    d = keys - queries, so that the last query stands at the last key; -1 for all, (-1, 0) is causal. ``enable_gqa``:
    H_kv divides H_q. ``seqused_k`` (N,): only so many of a sequence's keys count. ``block_table`` (N, pages): key and
    value are pages (pages, page size, H_kv, D), see `paged_attention`; this and seqused_k are for inference. A query
    that may look at no key gives 0, its log-sum-exp is +inf. ``return_aux=AuxRequest(lse=True)`` gives (out,
    log-sum-exps (H_q, T_q)). ``num_splits``: shares of a paged cache, 1 for results that do not depend on the batch.
    Beyond PyTorch: any floating-point dtype, and ``score_mod``, one of `nn.attention.mods`. Scores are held in float32
    (float64 for float64), a block at a time. ValueError, ShapeError and DtypeError name what does not fit.
    """
    heads = query.shape[1]
    of_key = key.shape[2] if block_table is not None else key.shape[1]
    if not enable_gqa and heads != of_key:
        raise ArgumentError(
            f"Expect query and key/value to have the same number of heads but got Hq={heads} and Hkv={of_key}. Try "
            f"setting enable_gqa=True for GQA."
        )
    if enable_gqa and (not of_key or heads % of_key):
        raise ArgumentError(
            f"Expect number of query heads to be a multiple of kv heads for GQA but got Hq={heads} and Hkv={of_key}."
        )
    window = window_of(window_size)
    chain, buffers = chain_of("varlen_attn", score_mod)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else float(scale)
    needs = modes.grad and any(t.requires_grad for t in (query, key, value))
    if needs and (seqused_k is not None or block_table is not None):
        which = "seqused_k" if seqused_k is not None else "block_table"
        raise RuntimeError(f"{which} is an inference-only parameter.")
    if block_table is not None:
        if seqused_k is None:
            raise ArgumentError("varlen_attn: block_table needs seqused_k, how many keys of each sequence there are")
        out, lse = _paged_attention(
            query, key, value, block_table, seqused_k, cu_seq_q, buffers, int(max_q), window, chain, scale,
            num_splits or 0,
        )  # fmt: skip
    else:
        if cu_seq_k is None:
            raise ArgumentError("varlen_attn: expected cu_seq_k, where the keys of each sequence begin, got None")
        most = int(max_q), int(max_k)
        given = (query, key, value, cu_seq_q, cu_seq_k, seqused_k, buffers, *most, window, chain, scale)
        out, lse = _varlen_attention(*given) if fits(query, value) else _formula(*given)
    return (out, lse) if return_aux is not None and return_aux.lse else out


def varlen_attn_out(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: AuxRequest | None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Any:
    """`varlen_attn`, its output written into ``out`` (T_q, H_q, D_v). Has no gradient."""
    result, lse = varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, return_aux=AuxRequest(True), scale=scale,
        window_size=window_size, enable_gqa=enable_gqa, seqused_k=seqused_k, block_table=block_table,
        num_splits=num_splits,
    )  # fmt: skip
    into("varlen_attn_out", out, result)
    return (out, lse) if return_aux is not None and return_aux.lse else out
