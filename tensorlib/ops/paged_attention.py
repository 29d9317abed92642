"""Attention over a paged cache of keys and values: the fused operator that decoding uses. It has no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._promotion import FLOATS
from tensorlib._samples import between, draw, each, fails, values
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.kernels import paged_attention as kernels
from tensorlib.op import Array, Arrays, op
from tensorlib.ops import flex_attention, score_functions
from tensorlib.ops.flex_attention import ALL, Window
from tensorlib.ops.varlen_attention import check_lengths

NAME = "paged_attention"


def _spec(query: Any, key_cache: Any, value_cache: Any, block_table: Any, seqused_k: Any, cu_seq_q: Any, buffers: Any,
          max_q: int, window: Window, chain: Any, scale: float, num_splits: int) -> Any:  # fmt: skip
    q, k, v = query.shape, key_cache.shape, value_cache.shape
    if len(q) != 3 or len(k) != 4 or len(v) != 4:
        raise ShapeError(
            f"{NAME}: expected query (tokens, heads, features) and caches (pages, page size, heads, features), got "
            f"{tuple(q)}, {tuple(k)} and {tuple(v)}"
        )
    if k[:3] != v[:3]:
        raise ShapeError(f"{NAME}: key_cache {tuple(k)} and value_cache {tuple(v)} differ in pages, page size or heads")
    if q[2] != k[3]:
        raise ShapeError(f"{NAME}: query {tuple(q)} and key_cache {tuple(k)} differ in their last size")
    if not k[2] or q[1] % k[2]:
        raise ShapeError(f"{NAME}: {k[2]} heads of the cache must divide the {q[1]} heads of query")
    if not k[1]:
        raise ShapeError(f"{NAME}: key_cache {tuple(k)} has pages of no keys: expected a page size of at least 1")
    if query.dtype.kind in "iub":
        raise DtypeError(f"{NAME}: expected floating-point tensors, got {query.dtype}")
    if block_table.ndim != 2:
        raise ShapeError(f"{NAME}: block_table {tuple(block_table.shape)}: expected (sequences, pages of each)")
    if block_table.dtype.kind != "i" or block_table.dtype.itemsize < 4:
        raise DtypeError(f"{NAME}: expected block_table of int32 or int64, got {block_table.dtype}")
    sequences = check_lengths(NAME, block_table.shape[0], seqused_k=seqused_k, cu_seq_q=cu_seq_q)
    if cu_seq_q is None and q[0] != sequences * max_q:
        raise ShapeError(f"{NAME}: {q[0]} queries are not {max_q} of each of {sequences} sequences: pass cu_seq_q")
    score_functions.check(NAME, chain, buffers)
    return [((*q[:2], v[3]), query.dtype), ((q[1], q[0]), flex_attention._sums_dtype(query))]


def _kernel(out: Any, logsumexp: Any, query: Any, key_cache: Any, value_cache: Any, block_table: Any, seqused_k: Any,
            cu_seq_q: Any, buffers: Any, max_q: int, window: Window, chain: Any, scale: float,
            num_splits: int) -> None:  # fmt: skip
    kernels.paged_attention(
        out, logsumexp, query, key_cache, value_cache, block_table, seqused_k, cu_seq_q, max_q,
        flex_attention._scores(window, True, chain, buffers), scale, num_splits,
    )  # fmt: skip


_HOW: dict[str, Any] = dict(window=ALL, chain=(), scale=0.35, num_splits=0)
_TABLE = values([[4, 2, 0, 7], [1, 6, 5, 5], [3, 0, 0, 0]], "int32")
_USED = values([52, 33, 0], "int32")


@op(
    spec=_spec,
    promote=FLOATS.over("query", "key_cache", "value_cache"),
    kernel=_kernel,
    outputs=("out", "logsumexp"),
    on="",
    samples=each(
        draw((3, 4, 8), (8, 16, 2, 8), (8, 16, 2, 6), _TABLE, _USED, None, [], max_q=1, **{**_HOW, "num_splits": 3}),
        draw((3, 4, 8), (8, 64, 2, 8), (8, 64, 2, 8), _TABLE, values([200, 33, 64], "int64"), None, [], max_q=1,
             **{**_HOW, "window": (70, 0), "chain": (("softcap", 2.5),), "num_splits": 2}),
        draw((9, 2, 8), (8, 16, 1, 8), (8, 16, 1, 8), _TABLE, _USED, None, [between(0.1, 0.6, 2)], max_q=3,
             **{**_HOW, "window": (-1, 0), "chain": (("alibi", None),)}),
        draw((25, 4, 8), (8, 16, 1, 8), (8, 16, 1, 8), _TABLE, _USED, values([0, 20, 20, 25], "int32"), [], max_q=20,
             **{**_HOW, "window": (-1, 0)}),
        draw((3, 1, 4), (8, 5, 1, 4), (8, 5, 1, 4), _TABLE, values([17, 1, 3], "int32"), None, [], max_q=1, **_HOW),
    ),
    errors=[
        fails((3, 4, 8), (8, 16, 2, 8), (8, 16, 2, 6), _TABLE, _USED, None, [], max_q=2, match="pass cu_seq_q",
              error=ShapeError, **_HOW),
        fails((3, 3, 8), (8, 16, 2, 8), (8, 16, 2, 6), _TABLE, _USED, None, [], max_q=1, match="must divide",
              error=ShapeError, **_HOW),
        fails((3, 4, 8), (8, 16, 2, 8), (8, 8, 2, 6), _TABLE, _USED, None, [], max_q=1, match="differ in pages",
              error=ShapeError, **_HOW),
        fails((3, 4, 8), (8, 16, 2, 8), (8, 16, 2, 6), (3, 4), _USED, None, [], max_q=1, match="int32 or int64",
              error=DtypeError, **_HOW),
    ],
)  # fmt: skip
def _paged_attention(
    query: Array, key_cache: Array, value_cache: Array, block_table: Array, seqused_k: Array, cu_seq_q: Array | None,
    buffers: Arrays, max_q: int, window: Any, chain: Any, scale: float, num_splits: int,
):  # fmt: skip
    """Attention of each sequence's queries over the first seqused_k keys of its pages; log-sum-exps (heads, tokens)."""
    tokens, heads, _ = query.shape
    out = np.zeros((heads, tokens, value_cache.shape[3]), query.dtype)
    sums = np.full((heads, tokens), np.inf, query.dtype)
    for n, pages in enumerate(block_table):
        rows = slice(n * max_q, (n + 1) * max_q) if cu_seq_q is None else slice(int(cu_seq_q[n]), int(cu_seq_q[n + 1]))
        if rows.start == rows.stop:
            continue
        used = int(seqused_k[n])
        pages = pages[: -(-used // key_cache.shape[1])]
        k, v = (x[pages].reshape(-1, *x.shape[2:])[:used].swapaxes(0, 1) for x in (key_cache, value_cache))
        block = flex_attention._Dense(
            query[rows].swapaxes(0, 1), k, v, None, buffers, window, True, chain, scale, batch=n
        )
        out[:, rows], sums[:, rows] = block.forward()
    return np.ascontiguousarray(out.swapaxes(0, 1)), sums
