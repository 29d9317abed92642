"""Attention with a window and functions of scores, dense and of packed sequences: fused operators, and their formula.

A window (left, right) lets query i look at keys i - left … i + right, -1: as many as there are. ``aligned``: the last
query has the position of the last key, not the first query that of the first key, for windows and score functions.
``chain`` names score functions with their parameters (`kernels.attention_scores`), None standing for the next of
``buffers``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._array import is_contiguous
from tensorlib._core import Tensor
from tensorlib._promotion import FLOATS
from tensorlib._samples import between, bools, draw, each, fails, transposed, values, without_gradient
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import attention as kernels
from tensorlib.kernels.matmul import contiguous
from tensorlib.op import Array, Arrays, op
from tensorlib.ops import attention, score_functions
from tensorlib.ops.create import from_numpy
from tensorlib.ops.linalg import matmul

Window = tuple[int, int]
ALL: Window = (-1, -1)

# ------------------------------------------------------------------------------------------------------------ in NumPy


def _band(L: int, S: int, window: Window, aligned: bool) -> np.ndarray | None:
    """Which keys a window leaves each query, (L, S); None for all."""
    left, right = window
    if left < 0 and right < 0:
        return None
    away = np.arange(S) - (np.arange(L)[:, None] + (S - L if aligned else 0))
    seen = np.ones((L, S), np.bool_) if right < 0 else away <= right
    return seen if left < 0 else seen & (away >= -left)


def _joined(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Both masks in one."""
    return a if b is None else b if a is None else a & b


class _Dense:
    """One block of heads in NumPy, with all of its scores where a function of scores is applied."""

    def __init__(
        self, query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray | None, buffers: Sequence[Any],
        window: Window, aligned: bool, chain: Any, scale: float, batch: int = 0,
    ) -> None:  # fmt: skip
        self.query, self.key, self.value, self.scale = query, key, value, scale
        L, S = query.shape[-2], key.shape[-2]
        self.causal = window == (-1, 0) and (L == S or not aligned)
        self.mask = mask if self.causal else _joined(mask, _band(L, S, window, aligned))
        self.chain, self.buffers = chain, buffers
        if chain:
            if self.causal:
                self.mask = _joined(mask, _band(L, S, window, aligned))
            at = score_functions.positions(query.shape[:-2], L, S)
            self.at = [at[0] + batch, at[1], at[2] + (S - L if aligned else 0), at[3]]

    def _per_head(self, x: np.ndarray) -> np.ndarray:
        lead = self.query.shape[:-2]
        return x if not lead or lead[-1] == x.shape[-3] else np.repeat(x, lead[-1] // x.shape[-3], axis=-3)

    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Before the functions and after, with the mask."""
        plain = np.matmul(self.query * self.query.dtype.type(self.scale), self._per_head(self.key).swapaxes(-1, -2))
        s = score_functions.of_arrays(plain, self.at, self.chain, self.buffers).astype(plain.dtype, copy=False)
        return plain, s if self.mask is None else np.where(self.mask, s, s.dtype.type(-np.inf))

    def forward(self) -> tuple[np.ndarray, np.ndarray]:
        """(out, logsumexp)."""
        if not self.chain:
            return attention._forward(self.query, self.key, self.value, self.mask, self.causal, self.scale)
        s = self._scores()[1]
        top = s.max(axis=-1, keepdims=True, initial=-np.inf)
        w = np.exp(s - np.where(top == -np.inf, 0, top))
        sums = w.sum(axis=-1, keepdims=True)
        seen = sums != 0
        safe = np.where(seen, sums, 1)
        lse = np.where(seen, top + np.log(safe), np.inf)[..., 0]
        return np.matmul(w / safe, self._per_head(self.value)), lse.astype(s.dtype, copy=False)

    def backward(self, g: np.ndarray, g_sums: np.ndarray, out: np.ndarray, lse: np.ndarray) -> Any:
        """The gradients of query, key and value."""
        k, v = self._per_head(self.key), self._per_head(self.value)
        scale = self.query.dtype.type(self.scale)
        if self.chain:
            plain, s = self._scores()
        else:
            plain = s = np.matmul(self.query * scale, k.swapaxes(-1, -2))
            mask = _joined(self.mask, _band(s.shape[-2], s.shape[-1], (-1, 0), False) if self.causal else None)
            s = s if mask is None else np.where(mask, s, s.dtype.type(-np.inf))
        w = np.exp(s - lse[..., None])
        dw = np.matmul(g, v.swapaxes(-1, -2))
        ds = w * (dw - ((g * out).sum(-1) - g_sums)[..., None])
        if self.chain:
            ds = score_functions.grad_of_arrays(ds, plain, self.at, self.chain, self.buffers).astype(s.dtype)
        dk, dv = np.matmul(ds.swapaxes(-1, -2), self.query), np.matmul(w.swapaxes(-1, -2), g)
        if dk.shape != self.key.shape:  # heads of a group share keys and values
            heads = self.key.shape[:-2]
            group = k.shape[-3] // heads[-1]
            dk, dv = (x.reshape(*heads, group, *x.shape[-2:]).sum(-3) for x in (dk, dv))
        return np.matmul(ds, k) * scale, dk * scale, dv


# --------------------------------------------------------------------------------------------------------- with tensors


def _outside(away: Any, window: Window, hidden: Any) -> Any:
    """``hidden`` and what a window excludes; ``away`` is how far a key lies behind the query's diagonal."""
    left, right = window
    if right >= 0:
        later = away > right
        hidden = later if hidden is None else hidden | later
    if left >= 0:
        earlier = away < -left
        hidden = earlier if hidden is None else hidden | earlier
    return hidden


def _softmax_with_sums(s: Any, hidden: Any, v: Any, dtype: Any) -> tuple[Tensor, Tensor]:
    """(softmax(s) @ v, log-sum-exp of s): zeros and +inf for a query all of whose keys are hidden."""
    if hidden is not None:
        s = s.masked_fill(hidden, -math.inf)
    nothing = (s == -math.inf).all(-1, keepdim=True)
    calm = s.masked_fill(nothing, 0.0)
    w = calm.softmax(-1).masked_fill(nothing, 0.0)
    return matmul(w, v).to(dtype), calm.logsumexp(-1).masked_fill(nothing.squeeze(-1), math.inf)


def _formula(query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, window: Window, aligned: bool, chain: Any,
             scale: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    q, k, v = attention._wide(query, key, value)
    k, v = attention._per_query_head(query, k, v)
    s = matmul(q * scale, k.transpose(-1, -2))
    L, S = s.shape[-2:]
    hidden = None if attn_mask is None else attn_mask.logical_not()
    device = query.device
    batch, head, i, j = (from_numpy(x).to(device) for x in score_functions.positions(query.shape[:-2], L, S))
    i = i + (S - L if aligned else 0)
    s = score_functions.of_tensors(s, (batch, head, i, j), chain, buffers)
    return _softmax_with_sums(s, _outside(j - i, window, hidden), v, query.dtype)


# ------------------------------------------------------------------------------------------------------------ operators


def _spec(query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, window: Window, aligned: bool, chain: Any,
          scale: float) -> Any:  # fmt: skip
    out, rows = attention._shapes(query, key, value, attn_mask, "flex_attention")
    if attn_mask is not None and attn_mask.dtype != np.bool_:
        raise DtypeError(f"flex_attention: expected a mask of dtype bool, got {attn_mask.dtype}")
    score_functions.check("flex_attention", chain, buffers)
    return [(out, query.dtype), (rows, _sums_dtype(query))]


def _sums_dtype(query: Any) -> np.dtype[Any]:
    """The dtype of log-sums: what scores are computed in."""
    return np.dtype(np.float64 if query.dtype == np.float64 else np.float32)


def _flops(query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, window: Window, **_: Any) -> float:
    keys: float = key.shape[-2]
    if min(window) >= 0:
        keys = min(keys, sum(window) + 1)
    elif max(window) >= 0:
        keys /= 2
    return 2.0 * query.size / query.shape[-1] * keys * (query.shape[-1] + value.shape[-1])


def _scores(window: Window, aligned: bool, chain: Any, buffers: Any) -> kernels.Scores:
    arrays = [x if is_contiguous(x) else contiguous(x) for x in buffers]
    return kernels.Scores(window, aligned, chain, arrays)


def _kernel(out: Any, logsumexp: Any, query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, window: Window,
            aligned: bool, chain: Any, scale: float) -> None:  # fmt: skip
    scores = _scores(window, aligned, chain, buffers)
    kernels.attention(out, logsumexp, query, key, value, attn_mask, False, scale, scores=scores)


def _vjp(g_out: Any, g_logsumexp: Any, query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, out: Any,
         logsumexp: Any, window: Window, aligned: bool, chain: Any, scale: float) -> Any:  # fmt: skip
    grads = _flex_attention_grad(
        g_out, g_logsumexp, query, key, value, attn_mask, out, logsumexp, buffers, window, aligned, chain, scale
    )
    return (*grads, None, [None] * len(buffers))


_HOW: dict[str, Any] = dict(window=ALL, aligned=False, chain=(), scale=0.35)
_SOFTCAP, _ALIBI = ("softcap", 2.5), ("alibi", None)


@op(
    spec=_spec,
    promote=FLOATS.over("query", "key", "value"),
    kernel=_kernel,
    outputs=("out", "logsumexp"),
    vjp=_vjp,
    composite=_formula,
    on="",
    samples=each(
        draw((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), None, [], **{**_HOW, "window": (1, -1)}),
        draw((1, 2, 39, 16), (1, 2, 39, 16), (1, 2, 39, 16), None, [], **{**_HOW, "window": (5, 0)}),
        draw((1, 4, 21, 8), (1, 2, 70, 8), (1, 2, 70, 8), None, [], **{**_HOW, "window": (7, 2), "aligned": True}),
        draw((1, 2, 50, 8), (1, 2, 18, 8), (1, 2, 18, 8), None, [], **{**_HOW, "window": (-1, 0), "aligned": True}),
        draw((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), bools(2, 1, 4, 5), [], **{**_HOW, "window": (2, -1)}),
        draw((2, 2, 20, 8), (2, 2, 35, 8), (2, 2, 35, 8), None, [], **{**_HOW, "chain": (_SOFTCAP,)}),
        draw(
            (2, 4, 20, 8), (2, 2, 37, 8), (2, 2, 37, 4), None, [without_gradient(between(0.1, 0.6, 4))],
            **{**_HOW, "window": (-1, 0), "chain": (_ALIBI, _SOFTCAP)},
        ),
        draw((5, 8), (7, 8), (7, 8), None, [], **{**_HOW, "chain": (("prefix_lm", 3),)}),
        draw(
            (2, 1, 5, 8), transposed(2, 1, 6, 8), (2, 1, 6, 8), None,
            [values([0, 0, 1, 1, 2], "int64"), values([0, 0, 1, 1, 2, 2], "int64")],
            **{**_HOW, "chain": (("document", None, None), _SOFTCAP)},
        ),
        draw((2, 3, 4, 8), (2, 3, 0, 8), (2, 3, 0, 8), None, [], **{**_HOW, "chain": (_SOFTCAP,)}),
    ),
    errors=[
        fails((2, 4, 8), (2, 5, 7), (2, 5, 6), None, [], match="last size", error=ShapeError, **_HOW),
        fails((4, 8), (5, 8), (5, 8), (4, 5), [], match="dtype bool", error=DtypeError, **_HOW),
        fails((4, 8), (5, 8), (5, 8), None, [], **{**_HOW, "chain": (("cap", 1.0),)}, match="is called 'cap'",
              error=ArgumentError),
        fails((4, 8), (5, 8), (5, 8), None, [], **{**_HOW, "chain": (_ALIBI,)}, match="take 1 tensors, got 0",
              error=ArgumentError),
    ],
    bench=[draw((4, 16, 4096, 128), (4, 16, 4096, 128), (4, 16, 4096, 128), None, [],
                **{**_HOW, "window": (512, 0), "chain": (("softcap", 30.0),)})],
    flops=_flops,
)  # fmt: skip
def _flex_attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None, buffers: Arrays, window: Any, aligned: bool,
    chain: Any, scale: float,
):  # fmt: skip
    """softmax(chain(query @ key.mT * scale)) @ value within a window, and the log-sum-exp of each row's scores."""
    return _Dense(query, key, value, attn_mask, buffers, window, aligned, chain, scale).forward()


def _grad_kernel(dq: Any, dk: Any, dv: Any, g: Any, g_sums: Any, query: Any, key: Any, value: Any, attn_mask: Any,
                 out: Any, logsumexp: Any, buffers: Any, window: Window, aligned: bool, chain: Any,
                 scale: float) -> None:  # fmt: skip
    kernels.attention_grad(
        dq, dk, dv, g, query, key, value, attn_mask, out, logsumexp, False, scale,
        scores=_scores(window, aligned, chain, buffers), g_sums=g_sums,
    )  # fmt: skip


@op(
    spec=lambda g, g_sums, query, key, value, *_, **attrs: [(x.shape, query.dtype) for x in (query, key, value)],
    promote=FLOATS.over("g", "query", "key", "value", "out"),
    kernel=_grad_kernel,
    outputs=("query_grad", "key_grad", "value_grad"),
    on="",
    samples=each(
        draw(
            (1, 4, 19, 6), (1, 4, 19), (1, 4, 19, 8), (1, 2, 37, 8), (1, 2, 37, 6), bools(19, 37), (1, 4, 19, 6),
            between(2, 4, 1, 4, 19), [without_gradient(between(0.1, 0.6, 4))], window=(7, 2), aligned=True,
            chain=(_ALIBI, _SOFTCAP), scale=0.5,
        ),
        draw(
            (50, 6), (50,), (50, 8), (35, 8), (35, 6), None, (50, 6), between(2, 4, 50), [],
            window=(-1, 3), aligned=False, chain=(("prefix_lm", 3),), scale=0.5,
        ),
    ),
)  # fmt: skip
def _flex_attention_grad(
    g: Array, g_sums: Array, query: Array, key: Array, value: Array, attn_mask: Array | None, out: Array,
    logsumexp: Array, buffers: Arrays, window: Any, aligned: bool, chain: Any, scale: float,
):  # fmt: skip
    """Gradients of query, key and value; g_sums is that of the log-sum-exp. Dao 2023, algorithm 2."""
    block = _Dense(query, key, value, attn_mask, buffers, window, aligned, chain, scale)
    return block.backward(g, g_sums, out, logsumexp)
