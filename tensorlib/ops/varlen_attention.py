"""Attention over sequences that lie packed one behind the other: a fused operator, its backward, and the formula.

Windows count from the diagonal that ends at a sequence's last query and last key; see `flex_attention` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import FLOATS
from tensorlib._samples import between, draw, each, fails, values, without_gradient
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.kernels import attention as kernels
from tensorlib.op import Array, Arrays, op
from tensorlib.ops import attention, flex_attention, score_functions
from tensorlib.ops.create import arange
from tensorlib.ops.flex_attention import ALL, Window
from tensorlib.ops.linalg import matmul

NAME = "varlen_attn"


def check_lengths(name: str, sequences: int | None, **arrays: Any) -> int:
    """How many sequences there are. ShapeError, DtypeError for arrays of lengths that are not vectors of integers."""
    for what, x in arrays.items():
        if x is None:
            continue
        if x.ndim != 1 or (what.startswith("cu_") and not x.shape[0]):
            length = "N + 1" if what.startswith("cu_") else "N"
            raise ShapeError(f"{name}: {what} of shape {tuple(x.shape)}: expected one dimension, ({length},)")
        if x.dtype.kind != "i" or x.dtype.itemsize < 4:
            raise DtypeError(f"{name}: expected {what} of int32 or int64, got {x.dtype}")
        n = x.shape[0] - what.startswith("cu_")
        if sequences is None:
            sequences = n
        elif n != sequences:
            raise ShapeError(
                f"{name}: {what} of shape {tuple(x.shape)} is for {n} sequences, the others for {sequences}"
            )
    return sequences or 0


def check_packed(name: str, query: Any, key: Any, value: Any) -> None:
    """ShapeError, DtypeError for arrays that are not (tokens, heads, features) of one another."""
    q, k, v = query.shape, key.shape, value.shape
    if not (len(q) == len(k) == len(v) == 3):
        raise ShapeError(
            f"{name}: expected query, key and value (tokens, heads, features), got {tuple(q)}, {tuple(k)}, {tuple(v)}"
        )
    if q[2] != k[2]:
        raise ShapeError(f"{name}: query {tuple(q)} and key {tuple(k)} differ in their last size")
    if k[:2] != v[:2]:
        raise ShapeError(f"{name}: key {tuple(k)} and value {tuple(v)} differ in tokens or heads")
    if not k[1] or q[1] % k[1]:
        raise ShapeError(f"{name}: {k[1]} heads of key must divide the {q[1]} heads of query")
    if query.dtype.kind in "iub":
        raise DtypeError(
            f"{name}: expected floating-point tensors, got {query.dtype}: convert them, as in query.float()"
        )


def _spec(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, seqused_k: Any, buffers: Any, max_q: int,
          max_k: int, window: Window, chain: Any, scale: float) -> Any:  # fmt: skip
    check_packed(NAME, query, key, value)
    check_lengths(NAME, None, cu_seq_q=cu_seq_q, cu_seq_k=cu_seq_k, seqused_k=seqused_k)
    score_functions.check(NAME, chain, buffers)
    tokens, heads, _ = query.shape
    return [((tokens, heads, value.shape[2]), query.dtype), ((heads, tokens), flex_attention._sums_dtype(query))]


# ------------------------------------------------------------------------------------------------------------ in NumPy


def _sequences(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, cu_q: np.ndarray, cu_k: np.ndarray,
    used: np.ndarray | None, buffers: Sequence[Any], window: Window, chain: Any, scale: float,
) -> Iterator[tuple[slice, slice, Any]]:  # fmt: skip
    """(its queries, its keys, its attention) of each sequence."""
    q, k, v = (x.swapaxes(0, 1) for x in (query, key, value))
    for n in range(len(cu_q) - 1):
        rows = slice(int(cu_q[n]), int(cu_q[n + 1]))
        first, end = int(cu_k[n]), int(cu_k[n + 1])
        keys = slice(first, end if used is None else min(end, first + int(used[n])))
        block = flex_attention._Dense(
            q[:, rows], k[:, keys], v[:, keys], None, buffers, window, True, chain, scale, batch=n
        )
        yield rows, keys, block


# --------------------------------------------------------------------------------------------------------- with tensors


def _places(cu: Any, tokens: int) -> tuple[Any, Any, Any]:
    """(the sequence of each token, its position there, whether it is in one)."""
    token = arange(tokens, device=cu.device)
    of = (token.unsqueeze(1) >= cu[1:]).sum(1)
    return of, token - cu[of], of < cu.shape[0] - 1


def _formula(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, seqused_k: Any, buffers: Any, max_q: int,
             max_k: int, window: Window, chain: Any, scale: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    q, k, v = (x.transpose(0, 1) for x in attention._wide(query, key, value))
    k, v = attention._per_query_head(q, k, v)
    of_query, i, live = _places(cu_seq_q, query.shape[0])
    of_key, j, _ = _places(cu_seq_k, key.shape[0])
    lengths = cu_seq_k[1:] - cu_seq_k[:-1] if seqused_k is None else seqused_k
    n = of_query.clamp(max=lengths.shape[0] - 1)
    keys = lengths[n].unsqueeze(1)
    hidden = (of_query.unsqueeze(1) != of_key) | (j >= keys) | live.logical_not().unsqueeze(1)
    queries = (cu_seq_q[1:] - cu_seq_q[:-1])[n].unsqueeze(1)
    i = i.unsqueeze(1) + (keys - queries)
    heads = arange(query.shape[1], device=query.device).reshape((-1, 1, 1))
    at = [n.unsqueeze(1), heads, i, j]
    s = score_functions.of_tensors(matmul(q * scale, k.transpose(-1, -2)), at, chain, buffers)
    out, sums = flex_attention._softmax_with_sums(s, flex_attention._outside(j - i, window, hidden), v, query.dtype)
    return out.transpose(0, 1), sums


# ------------------------------------------------------------------------------------------------------------ operators


def _flops(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, seqused_k: Any, buffers: Any, max_q: int,
           max_k: int, window: Window, **_: Any) -> float:  # fmt: skip
    keys: float = max_k if min(window) < 0 else min(max_k, sum(window) + 1)
    return 2.0 * query.shape[0] * query.shape[1] * keys * (query.shape[2] + value.shape[2])


def _kernel(out: Any, logsumexp: Any, query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, seqused_k: Any,
            buffers: Any, max_q: int, max_k: int, window: Window, chain: Any, scale: float) -> None:  # fmt: skip
    kernels.attention(
        out, logsumexp, query, key, value, None, False, scale,
        scores=flex_attention._scores(window, True, chain, buffers),
        packed=kernels.Packed(cu_seq_q, cu_seq_k, seqused_k, max_q, max_k),
    )  # fmt: skip


def _vjp(g_out: Any, g_logsumexp: Any, query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, seqused_k: Any,
         buffers: Any, out: Any, logsumexp: Any, max_q: int, max_k: int, window: Window, chain: Any,
         scale: float) -> Any:  # fmt: skip
    grads = _varlen_attention_grad(
        g_out, g_logsumexp, query, key, value, cu_seq_q, cu_seq_k, seqused_k, out, logsumexp, buffers, max_q, max_k,
        window, chain, scale,
    )  # fmt: skip
    return (*grads, None, None, None, [None] * len(buffers))


def _cu(*lengths: int) -> Any:
    return values([0, *np.cumsum(lengths).tolist()], "int32")


_HOW: dict[str, Any] = dict(window=ALL, chain=(), scale=0.35)
_CHAIN = (("alibi", None), ("softcap", 2.5))


@op(
    spec=_spec,
    promote=FLOATS.over("query", "key", "value"),
    kernel=_kernel,
    outputs=("out", "logsumexp"),
    vjp=_vjp,
    composite=_formula,
    on="",
    samples=each(
        draw((9, 2, 8), (9, 2, 8), (9, 2, 6), _cu(4, 0, 5), _cu(4, 0, 5), None, [], max_q=5, max_k=5, **_HOW),
        draw(
            (43, 4, 8), (90, 2, 8), (90, 2, 8), _cu(1, 37, 5), _cu(20, 3, 67), None, [], max_q=37, max_k=67,
            **{**_HOW, "window": (-1, 0)},
        ),
        draw(
            (41, 2, 8), (90, 2, 8), (90, 2, 8), _cu(1, 35, 5), _cu(20, 33, 37), None,
            [without_gradient(between(0.1, 0.6, 2))], max_q=35, max_k=37,
            **{**_HOW, "window": (18, 3), "chain": _CHAIN},
        ),
        draw(
            (6, 2, 8), (50, 1, 8), (50, 1, 8), _cu(1, 1, 4), _cu(20, 20, 10), values([7, 0, 10], "int32"), [],
            max_q=4, max_k=20, **{**_HOW, "window": (-1, 0)},
        ),
        draw((3, 1, 4), (3, 1, 4), (3, 1, 4), _cu(3), values([0, 3], "int64"), None, [], max_q=3, max_k=3, **_HOW),
        draw((0, 2, 4), (0, 2, 4), (0, 2, 4), _cu(0), _cu(0), None, [], max_q=0, max_k=0, **_HOW),
    ),
    errors=[
        fails((4, 8), (5, 8), (5, 8), _cu(4), _cu(5), None, [], max_q=4, max_k=5, match="tokens, heads, features",
              error=ShapeError, **_HOW),
        fails((4, 3, 8), (5, 2, 8), (5, 2, 8), _cu(4), _cu(5), None, [], max_q=4, max_k=5, match="must divide",
              error=ShapeError, **_HOW),
        fails((4, 2, 8), (5, 2, 8), (5, 2, 8), _cu(4), _cu(3, 2), None, [], max_q=4, max_k=5, match="for 2 sequences",
              error=ShapeError, **_HOW),
        fails((4, 2, 8), (5, 2, 8), (5, 2, 8), (2,), _cu(5), None, [], max_q=4, max_k=5, match="int32 or int64",
              error=DtypeError, **_HOW),
    ],
    bench=[draw((16384, 16, 128), (16384, 16, 128), (16384, 16, 128), _cu(*(1024, 3072) * 4), _cu(*(1024, 3072) * 4),
                None, [], max_q=3072, max_k=3072, **{**_HOW, "window": (-1, 0)})],
    flops=_flops,
)  # fmt: skip
def _varlen_attention(
    query: Array, key: Array, value: Array, cu_seq_q: Array, cu_seq_k: Array, seqused_k: Array | None,
    buffers: Arrays, max_q: int, max_k: int, window: Any, chain: Any, scale: float,
):  # fmt: skip
    """Attention of each sequence cu_seq[n] … cu_seq[n + 1] for itself, and the log-sum-exps (heads, tokens)."""
    tokens, heads, _ = query.shape
    out = np.zeros((heads, tokens, value.shape[2]), query.dtype)
    sums = np.full((heads, tokens), np.inf, query.dtype)
    for rows, _, block in _sequences(
        query, key, value, cu_seq_q, cu_seq_k, seqused_k, buffers, window, chain, scale
    ):  # fmt: skip
        if rows.start < rows.stop:
            out[:, rows], sums[:, rows] = block.forward()
    return np.ascontiguousarray(out.swapaxes(0, 1)), sums


def _grad_kernel(dq: Any, dk: Any, dv: Any, g: Any, g_sums: Any, query: Any, key: Any, value: Any, cu_seq_q: Any,
                 cu_seq_k: Any, seqused_k: Any, out: Any, logsumexp: Any, buffers: Any, max_q: int, max_k: int,
                 window: Window, chain: Any, scale: float) -> None:  # fmt: skip
    kernels.attention_grad(
        dq, dk, dv, g, query, key, value, None, out, logsumexp, False, scale, g_sums=g_sums,
        scores=flex_attention._scores(window, True, chain, buffers),
        packed=kernels.Packed(cu_seq_q, cu_seq_k, seqused_k, max_q, max_k),
    )  # fmt: skip


@op(
    spec=lambda g, g_sums, query, key, value, *_, **attrs: [(x.shape, query.dtype) for x in (query, key, value)],
    promote=FLOATS.over("g", "query", "key", "value", "out"),
    kernel=_grad_kernel,
    outputs=("query_grad", "key_grad", "value_grad"),
    on="",
    samples=each(
        draw(
            (38, 4, 6), (4, 38), (38, 4, 8), (60, 2, 8), (60, 2, 6), _cu(1, 37), _cu(20, 40), None, (38, 4, 6),
            between(2, 4, 4, 38), [between(0.1, 0.6, 4)], max_q=37, max_k=40, window=(17, 2), chain=_CHAIN, scale=0.5,
        ),
        draw(
            (5, 2, 6), (2, 5), (5, 2, 8), (9, 2, 8), (9, 2, 6), _cu(4, 0, 1), _cu(3, 5, 1),
            values([2, 0, 1], "int32"), (5, 2, 6), between(2, 4, 2, 5), [], max_q=4, max_k=5, window=ALL, chain=(),
            scale=0.5,
        ),
    ),
)  # fmt: skip
def _varlen_attention_grad(
    g: Array, g_sums: Array, query: Array, key: Array, value: Array, cu_seq_q: Array, cu_seq_k: Array,
    seqused_k: Array | None, out: Array, logsumexp: Array, buffers: Arrays, max_q: int, max_k: int, window: Any,
    chain: Any, scale: float,
):  # fmt: skip
    """Gradients of query, key and value; g_sums is that of the log-sum-exp. Dao 2023, algorithm 2."""
    gradients = [np.zeros(x.shape, x.dtype) for x in (query, key, value)]
    dq, dk, dv = (x.swapaxes(0, 1) for x in gradients)
    g, out = g.swapaxes(0, 1), out.swapaxes(0, 1)
    for rows, keys, block in _sequences(
        query, key, value, cu_seq_q, cu_seq_k, seqused_k, buffers, window, chain, scale
    ):  # fmt: skip
        dq[:, rows], dk[:, keys], dv[:, keys] = block.backward(
            g[:, rows], g_sums[:, rows], out[:, rows], logsumexp[:, rows]
        )
    return tuple(gradients)
