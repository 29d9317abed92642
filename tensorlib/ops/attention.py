"""Scaled dot-product attention: one fused operator, its backward, and the formula that both are equal to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib import _products, random
from tensorlib._core import Tensor, modes
from tensorlib._promotion import FLOATS
from tensorlib._samples import between, bools, draw, each, fails, transposed
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.kernels import attention as kernels
from tensorlib.kernels.attention_bias import attention_mask_grad
from tensorlib.op import Array, op
from tensorlib.ops import _few_numpy as few
from tensorlib.ops.create import arange
from tensorlib.ops.linalg import matmul

NAME = "scaled_dot_product_attention"

# --------------------------------------------------------------------------------------------------- shapes and dtypes


def _shapes(
    query: Any, key: Any, value: Any, attn_mask: Any, name: str = NAME
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """(shape of the output, shape of the log-sum-exp); every error of the shapes and dtypes."""
    q, k, v = query.shape, key.shape, value.shape
    if q[-1] != k[-1]:
        raise ShapeError(
            f"{name}: query {tuple(q)} and key {tuple(k)} differ in their last size: expected (…, L, E) and (…, S, E)"
        )
    if k[-2] != v[-2]:
        raise ShapeError(
            f"{name}: key {tuple(k)} and value {tuple(v)} differ in length: expected (…, S, E) and (…, S, Ev)"
        )
    if query.dtype.kind in "iub":
        raise DtypeError(
            f"{name}: expected floating-point tensors, got {query.dtype}: convert them, as in query.float()"
        )
    scores = (*q[:-1], k[-2])
    if attn_mask is not None:
        missing = len(scores) - attn_mask.ndim
        if missing < 0 or any(n not in (1, m) for n, m in zip(attn_mask.shape, scores[missing:], strict=True)):
            raise ShapeError(
                f"{name}: attn_mask of shape {tuple(attn_mask.shape)} must match the size of the scores {scores}, or "
                f"be 1 there: expected a shape that broadcasts to (…, L, S)"
            )
        if attn_mask.dtype != np.bool_ and attn_mask.dtype != query.dtype and attn_mask.dtype != np.float32:
            raise DtypeError(
                f"{name}: Expected attn_mask dtype to be bool or float or to match query dtype, but got "
                f"attn_mask.dtype: {attn_mask.dtype} and query.dtype: {query.dtype}"
            )
    return (*q[:-1], v[-1]), q[:-1]


def _spec(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float, dropout_p: float = 0.0,
          seed: int = 0, offset: int = 0) -> Any:  # fmt: skip
    out, rows = _shapes(query, key, value, attn_mask)
    return [(out, query.dtype), (rows, np.dtype(np.float64 if query.dtype == np.float64 else np.float32))]


# ------------------------------------------------------------------------------------------------------ NumPy, blocked

# Bytes of scores held at a time: they are read and written some ten times and should stay in a core's own cache.
_BLOCK_BYTES = 1 << 20
_ROWS = 32  # fewest queries of a block where causality leaves part of the keys out; an eighth of long ones
_CALM = 50.0  # scores within this of 0 need no maximum taken off them: float32 holds exp of it, and sums of that


class _Blocks:
    """The work in blocks of batches, heads and queries.

    Scores lie as (keys, heads * queries), so that a sum over keys runs along vectors as long as a block is wide: 3 to 5
    times as fast as along rows of 64. The transposed queries are copied into that order with the scale multiplied in.
    """

    def __init__(self, query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: float, p: float, seed: int,
                 offset: int) -> None:  # fmt: skip
        lead = query.shape[:-2]
        self.L, self.E = query.shape[-2:]
        self.S, self.EV = value.shape[-2:]
        heads = lead[-1] if lead else 1
        group = heads // key.shape[-3] if lead and heads else 1
        # (batches, heads of k, group, rows, columns): splitting an axis is a view, and a group shares k and v.
        self.shape = (math.prod(lead[:-1]), heads // group, group)
        self.q = query.reshape(*self.shape, self.L, self.E)
        self.k, self.v = (x.reshape(*self.shape[:2], 1, *x.shape[-2:]) for x in (key, value))
        self.dtype = query.dtype
        self.scale = self.dtype.type(scale)
        self.causal = causal
        scores = (*self.shape, self.L, self.S)
        self.mask = None if mask is None else np.broadcast_to(mask, (*lead, self.L, self.S)).reshape(scores)
        self.keep = None if p == 0 else _keep(lead, self.L, self.S, p, seed, offset).reshape(scores)
        column = max(self.S * group * query.itemsize, 1)
        self.rows = max(1, min(self.L, max(_ROWS, self.L // 8) if causal else self.L, _BLOCK_BYTES // column))
        together = max(1, _BLOCK_BYTES // (column * self.rows))  # heads of k at a time
        self.heads = max(1, min(self.shape[1], together))
        self.batches = max(1, min(self.shape[0], together // self.heads)) if self.heads == self.shape[1] else 1
        self.size = self.batches * self.heads * group * self.S * self.rows

    def __iter__(self) -> Iterator[tuple[Any, slice, int]]:
        """(where in batches and heads, queries, how many keys they may look at)."""
        for b in range(0, self.shape[0], self.batches):
            for h in range(0, self.shape[1], self.heads):
                at = (slice(b, b + self.batches), slice(h, h + self.heads))
                for start in range(0, self.L, self.rows):
                    stop = min(start + self.rows, self.L)
                    yield at, slice(start, stop), min(self.S, stop) if self.causal else self.S

    def columns(self, x: np.ndarray, at: Any, rows: slice) -> np.ndarray:
        """Rows of a block, scaled, transposed and contiguous: BLAS multiplies by those twice as fast as by a view."""
        t: np.ndarray = np.multiply(x[at][..., rows, :].swapaxes(-1, -2), self.scale, order="C")
        return t

    def scores(self, at: Any, rows: slice, keys: int, buffer: np.ndarray) -> tuple[np.ndarray, bool]:
        """The masked scores (keys, heads * queries) in the buffer; whether all of them are near 0."""
        q = self.columns(self.q, at, rows)
        flat, s = _block(buffer, keys, (*q.shape[:3], q.shape[4]))
        _products.matmul(self.k[at][..., :keys, :], q, out=s)
        calm = self.mask is None and bool(-_CALM < flat.min() and flat.max() < _CALM)
        if self.mask is not None:
            m = self.mask[at][..., rows, :keys].swapaxes(-1, -2)
            if m.dtype == np.bool_:
                np.copyto(s, -np.inf, where=~m)
            else:
                s += m
        if self.causal and keys > rows.start:
            n = q.shape[4]
            flat[rows.start :] += _triangle(n, flat.shape[1] // n, self.dtype)[: keys - rows.start]
        return flat, calm


def _block(buffer: np.ndarray, keys: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The start of the buffer as (keys, heads * queries), and the same memory as (…, heads, keys, queries)."""
    flat = buffer[: keys * math.prod(shape)].reshape(keys, -1)
    return flat, flat.reshape(keys, *shape).transpose(1, 2, 3, 0, 4)


@lru_cache(maxsize=8)
def _triangle(n: int, heads: int, dtype: np.dtype[Any]) -> np.ndarray:
    """(n keys, heads * n queries): -inf where a key comes after the query, else 0."""
    return np.tile(np.tril(np.full((n, n), -np.inf, dtype), -1), (1, heads))


def _keep(lead: tuple[int, ...], L: int, S: int, p: float, seed: int, offset: int) -> np.ndarray:
    """Which weights dropout keeps. A row starts at a multiple of four numbers of the stream, as the kernels count."""
    u = random.uniform01((*lead, L, -(-S // 4) * 4), np.dtype(np.float32), seed, offset)
    kept: np.ndarray = u[..., :S] >= np.float32(p)
    return kept


def _forward(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float, dropout_p: float = 0.0,
             seed: int = 0, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    if attn_mask is None and not dropout_p:
        found = few.attention(query, key, value, is_causal, scale)
        if found is not None:
            return found
    x = _Blocks(query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset)
    out = np.empty((*x.shape, x.L, x.EV), x.dtype)
    lse = np.empty((*x.shape, x.L), x.dtype)
    if x.S == 0:
        out.fill(0)
        lse.fill(np.inf)
        return out.reshape(*query.shape[:-1], x.EV), lse.reshape(query.shape[:-1])
    buffer = np.empty(x.size, x.dtype)
    for at, rows, keys in x:
        block = lse[at][..., rows]
        w, calm = x.scores(at, rows, keys, buffer)
        if not calm:
            top = np.maximum.reduce(w, axis=0)
            if attn_mask is not None:  # a query that may look at no key: weights 0, not NaN
                np.copyto(top, 0, where=top == -np.inf)
            w -= top
        np.exp(w, out=w)
        sums = np.add.reduce(w, axis=0)
        log = np.log(sums)
        if not calm:
            log += top
        if attn_mask is not None:
            np.copyto(log, np.inf, where=sums == 0)
            np.copyto(sums, 1, where=sums == 0)
        block[...] = log.reshape(block.shape)
        heads = _block(buffer, keys, block.shape)[1]
        if x.keep is not None:
            heads *= x.keep[at][..., rows, :keys].swapaxes(-1, -2)
            sums *= x.dtype.type(1 - dropout_p) if dropout_p < 1 else 1
        y = out[at][..., rows, :]
        _products.matmul(heads.swapaxes(-1, -2), x.v[at][..., :keys, :], out=y)
        y /= sums.reshape(block.shape)[..., None]
    return out.reshape(*query.shape[:-1], x.EV), lse.reshape(query.shape[:-1])


# ------------------------------------------------------------------------------------------------------- the operators

_HEADS = each(
    draw((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), None, is_causal=False, scale=0.35),
    draw((1, 2, 19, 16), (1, 2, 19, 16), (1, 2, 19, 16), None, is_causal=True, scale=0.25),
    draw((1, 4, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8), None, is_causal=True, scale=0.35),
    draw((9, 20), (35, 20), (35, 18), None, is_causal=False, scale=0.2),
    draw((3, 35, 4), (3, 9, 4), (3, 9, 4), None, is_causal=True, scale=0.5),
    draw(transposed(2, 5, 8), transposed(2, 6, 8), transposed(2, 6, 8), None, is_causal=False, scale=0.35),
    draw((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), bools(4, 5), is_causal=False, scale=0.35),
    draw((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), bools(2, 1, 1, 5), is_causal=True, scale=0.35),
    draw((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), (2, 4, 5), is_causal=False, scale=0.35),
    draw((2, 1, 3, 4, 8), (2, 1, 3, 5, 8), (2, 1, 3, 5, 8), (4, 1), is_causal=False, scale=0.35),
    draw((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), None, is_causal=True, scale=1.0),
    draw((2, 3, 4, 8), (2, 3, 0, 8), (2, 3, 0, 8), None, is_causal=False, scale=0.35),
    draw((2, 3, 0, 8), (2, 3, 4, 8), (2, 3, 4, 8), None, is_causal=False, scale=0.35),
)


def _flops(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float) -> float:
    pairs = query.size / query.shape[-1] * key.shape[-2] * (0.5 if is_causal else 1.0)
    return 2.0 * float(pairs) * (query.shape[-1] + value.shape[-1])


def _gradients(g: Any, query: Any, key: Any, value: Any, attn_mask: Any, out: Any, logsumexp: Any, is_causal: bool,
               scale: float, needs: Any, dropout_p: float = 0.0, seed: int = 0, offset: int = 0) -> Any:  # fmt: skip
    attrs = (is_causal, scale, dropout_p, seed, offset)
    of_mask = None
    if needs["attn_mask"]:
        of_mask = _attention_mask_grad(g, query, key, value, attn_mask, out, logsumexp, *attrs)
    return (*scaled_dot_product_attention_grad(g, query, key, value, attn_mask, out, logsumexp, *attrs), of_mask)


def _gradients_plain(g: Any, query: Any, key: Any, value: Any, attn_mask: Any, out: Any, logsumexp: Any,
                     is_causal: bool, scale: float, needs: Any) -> Any:  # fmt: skip
    return _gradients(g, query, key, value, attn_mask, out, logsumexp, is_causal, scale, needs)


def _gradients_with_dropout(g: Any, query: Any, key: Any, value: Any, attn_mask: Any, out: Any, logsumexp: Any,
                            is_causal: bool, scale: float, needs: Any, dropout_p: float, seed: int,
                            offset: int) -> Any:  # fmt: skip
    return _gradients(g, query, key, value, attn_mask, out, logsumexp, is_causal, scale, needs, dropout_p, seed, offset)


def _wide(*tensors: Any) -> Any:
    """float32 for half types."""
    return [t.float() if t.dtype.itemsize < 4 else t for t in tensors]


def _per_query_head(query: Any, *tensors: Any) -> list[Any]:
    """Keys and values repeated so that each head of the query has its own."""
    lead = query.shape[:-2]
    if not lead or lead[-1] == tensors[0].shape[-3]:
        return list(tensors)
    group = lead[-1] // tensors[0].shape[-3]
    wide = [x.unsqueeze(-3).expand(*x.shape[:-2], group, *x.shape[-2:]) for x in tensors]
    return [x.reshape((*lead, *x.shape[-2:])) for x in wide]


def _scores(query: Any, key: Any, attn_mask: Any, is_causal: bool, scale: float) -> tuple[Any, Any]:
    """(query @ key.mT * scale + mask, which of them no query may look at: True there, None for none)."""
    s = matmul(query * scale, key.transpose(-1, -2))
    hidden = None
    if attn_mask is not None:
        if attn_mask.dtype.kind == "bool":
            hidden = attn_mask.logical_not()
        else:
            s = s + attn_mask
            hidden = attn_mask == -math.inf
    if is_causal:
        later = arange(s.shape[-1], device=s.device) > arange(s.shape[-2], device=s.device).unsqueeze(1)
        hidden = later if hidden is None else later | hidden
    return s if hidden is None else s.masked_fill(hidden, -math.inf), hidden


def _rescale(p: float) -> float:
    """What dropout multiplies the weights it keeps with."""
    return 1 / (1 - p) if p < 1 else 0.0


def _formula(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float, dropout_p: float = 0.0,
             seed: int = 0, offset: int = 0) -> Tensor:  # fmt: skip
    """softmax(query @ key.mT * scale + mask) @ value, with tensor operators: what the fused operators are equal to."""
    keep = _attention_keep(query, key, dropout_p, seed, offset) if dropout_p > 0 else None
    return _with_scores(query, key, value, attn_mask, is_causal, scale, dropout_p, keep)


def _with_scores(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float, dropout_p: float,
                 keep: Any) -> Tensor:  # fmt: skip
    """The formula, given which weights dropout keeps."""
    q, k, v = _wide(query, key, value)
    k, v = _per_query_head(query, k, v)
    s, hidden = _scores(q, k, attn_mask, is_causal, scale)
    if hidden is None:
        w = s.softmax(-1)
    else:  # a query that may look at no key has weights 0, and gradients 0
        nothing = hidden.expand(*s.shape).all(-1, keepdim=True)
        w = s.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
    if keep is not None:
        w = w * keep * _rescale(dropout_p)
    return matmul(w, v).to(query.dtype)


@op(
    spec=_spec,
    promote=FLOATS.over("query", "key", "value"),
    kernel=kernels.attention,
    aux=("logsumexp",),
    vjp=_gradients_plain,
    composite=_formula,
    on="",
    samples=_HEADS,
    errors=[
        fails((2, 4, 8), (2, 5, 7), (2, 5, 6), None, is_causal=False, scale=1.0, match="last size", error=ShapeError),
        fails((2, 4, 8), (2, 5, 8), (2, 6, 6), None, is_causal=False, scale=1.0, match="length", error=ShapeError),
        fails((4, 8), (5, 8), (5, 8), bools(4, 4), is_causal=False, scale=1.0, match="of shape", error=ShapeError),
    ],
    bench=[draw((8, 4, 64, 32), (8, 4, 64, 32), (8, 4, 64, 32), None, is_causal=True, scale=32**-0.5),
           draw((4, 16, 4096, 128), (4, 16, 4096, 128), (4, 16, 4096, 128), None, is_causal=True, scale=128**-0.5)],
    flops=_flops,
)  # fmt: skip
def _attention(query: Array, key: Array, value: Array, attn_mask: Array | None, is_causal: bool, scale: float):
    """softmax(query @ key.mT * scale + mask) @ value and its log-sum-exp, in blocks that stay in cache."""
    return _forward(query, key, value, attn_mask, is_causal, scale)


@op(
    spec=_spec,
    promote=FLOATS.over("query", "key", "value"),
    kernel=kernels.attention,
    aux=("logsumexp",),
    vjp=_gradients_with_dropout,
    composite=_formula,
    random=True,
    on="",
    samples=each(
        draw((1, 2, 19, 16), (1, 2, 19, 16), (1, 2, 19, 16), None, is_causal=True, scale=0.25, dropout_p=0.3),
        draw((2, 4, 8), (2, 7, 8), (2, 7, 6), bools(4, 7), is_causal=False, scale=0.35, dropout_p=0.5),
        draw((2, 4, 8), (2, 7, 8), (2, 7, 6), None, is_causal=False, scale=0.35, dropout_p=1.0),
    ),
)
def _attention_dropout(query: Array, key: Array, value: Array, attn_mask: Array | None, is_causal: bool, scale: float,
                       dropout_p: float, seed: int, offset: int):  # fmt: skip
    """The same with dropout on the weights: number (row * ceil(S / 4) * 4 + key) of the stream decides."""
    return _forward(query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset)


def _grad_spec(g: Any, query: Any, key: Any, value: Any, *rest: Any, **attrs: Any) -> Any:
    return [(x.shape, query.dtype) for x in (query, key, value)]


@op(
    spec=_grad_spec,
    promote=FLOATS.over("g", "query", "key", "value", "out"),
    kernel=kernels.attention_grad,
    outputs=("query_grad", "key_grad", "value_grad"),
    on="",
    samples=each(
        draw(
            (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), None, (1, 2, 3, 4), between(2, 4, 1, 2, 3),
            is_causal=True, scale=0.5,
        ),
        draw(
            (1, 4, 3, 6), (1, 4, 3, 8), (1, 2, 5, 8), (1, 2, 5, 6), bools(3, 5), (1, 4, 3, 6), between(2, 4, 1, 4, 3),
            is_causal=False, scale=0.5,
        ),
        draw(
            (35, 6), (35, 8), (37, 8), (37, 6), None, (35, 6), between(2, 4, 35),
            is_causal=False, scale=0.5, dropout_p=0.3, seed=5, offset=1,
        ),
    ),
    # Five products, where forward has two.
    flops=lambda query, key, value, is_causal: 2.5 * _flops(query, key, value, None, is_causal, 1.0),
)  # fmt: skip
def scaled_dot_product_attention_grad(
    g: Array, query: Array, key: Array, value: Array, attn_mask: Array | None, out: Array, logsumexp: Array,
    is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0, offset: int = 0,
):  # fmt: skip
    """Gradients of query, key and value, the weights made again from the log-sum-exp. Dao 2023, algorithm 2."""
    x = _Blocks(query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset)
    # delta = scale * sum_e g * out, which a row of softmax's gradient shares; a product is the fastest sum over rows.
    delta = _products.matmul((g * out).reshape(-1, x.EV), np.full(x.EV, x.scale)).reshape(*x.shape, x.L)
    g = g.reshape(*x.shape, x.L, x.EV)
    lse = logsumexp.reshape(*x.shape, x.L)
    dq = np.empty(x.q.shape, x.dtype)
    # Where several blocks of queries share a key each adds its part, and a key that none looks at gets zeros.
    several = x.rows < x.L or (is_causal and x.L < x.S) or x.S == 0 or x.L == 0
    make = np.zeros if several else np.empty
    dk, dv = make((*x.shape, x.S, x.E), x.dtype), make((*x.shape, x.S, x.EV), x.dtype)
    buffer, other = np.empty(x.size, x.dtype), np.empty(x.size, x.dtype)
    for at, rows, keys in x:
        if not keys:
            dq[at][..., rows, :] = 0
            continue
        w, _ = x.scores(at, rows, keys, buffer)
        w -= lse[at][..., rows].reshape(-1)
        np.exp(w, out=w)
        dy = g[at][..., rows, :]
        shape = (*dy.shape[:3], dy.shape[3])
        weights = _block(buffer, keys, shape)[1]
        dw, heads = _block(other, keys, shape)
        _products.matmul(x.v[at][..., :keys, :], x.columns(g, at, rows), out=heads)
        if x.keep is not None:
            kept = x.keep[at][..., rows, :keys].swapaxes(-1, -2) * x.dtype.type(_rescale(dropout_p))
            heads *= kept
            weights = weights * kept
        if several:
            dv[at][..., :keys, :] += _products.matmul(weights, dy)
        else:
            _products.matmul(weights, dy, out=dv[at])
        dw -= delta[at][..., rows].reshape(-1)
        dw *= w
        q = x.q[at][..., rows, :]
        if several:
            dk[at][..., :keys, :] += _products.matmul(heads, q)
        else:
            _products.matmul(heads, q, out=dk[at])
        _products.matmul(heads.swapaxes(-1, -2), x.k[at][..., :keys, :], out=dq[at][..., rows, :])
    if x.shape[2] > 1:
        dk, dv = np.add.reduce(dk, axis=2), np.add.reduce(dv, axis=2)
    return dq.reshape(query.shape), dk.reshape(key.shape), dv.reshape(value.shape)


@op(
    spec=lambda g, query, key, value, attn_mask, *rest, **attrs: (attn_mask.shape, attn_mask.dtype),
    promote=FLOATS.over("g", "query", "key", "value", "out"),
    kernel=attention_mask_grad,
    on="",
    samples=each(
        draw(
            (2, 4, 19, 6), (2, 4, 19, 8), (2, 2, 37, 8), (2, 2, 37, 6), (4, 19, 37), (2, 4, 19, 6),
            between(2, 4, 2, 4, 19), is_causal=False, scale=0.5,
        ),
        draw(
            (2, 3, 35, 6), (2, 3, 35, 8), (2, 3, 35, 8), (2, 3, 35, 6), (2, 1, 1, 35), (2, 3, 35, 6),
            between(2, 4, 2, 3, 35), is_causal=True, scale=0.5, dropout_p=0.3, seed=5, offset=1,
        ),
        draw((5, 6), (5, 8), (9, 8), (9, 6), (5, 1), (5, 6), between(2, 4, 5), is_causal=False, scale=0.5),
    ),
)  # fmt: skip
def _attention_mask_grad(
    g: Array, query: Array, key: Array, value: Array, attn_mask: Array, out: Array, logsumexp: Array,
    is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0, offset: int = 0,
):  # fmt: skip
    """The gradient of the mask that was added to the scores: theirs, summed over what it was broadcast along."""
    x = _Blocks(query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset)
    delta = (g * out).sum(-1).reshape(*x.shape, x.L)
    g = g.reshape(*x.shape, x.L, x.EV)
    lse = logsumexp.reshape(*x.shape, x.L)
    found = np.zeros((*x.shape, x.L, x.S), x.dtype)
    assert x.mask is not None
    for at, rows, keys in x:
        if not keys:
            continue
        w = _products.matmul(x.q[at][..., rows, :] * x.scale, x.k[at][..., :keys, :].swapaxes(-1, -2))
        w += x.mask[at][..., rows, :keys]
        if is_causal:
            w += np.triu(np.full(w.shape[-2:], -np.inf, x.dtype), rows.start + 1)
        w -= lse[at][..., rows, None]
        np.exp(w, out=w)
        dw = _products.matmul(g[at][..., rows, :], x.v[at][..., :keys, :].swapaxes(-1, -2))
        if x.keep is not None:
            dw *= x.keep[at][..., rows, :keys] * x.dtype.type(_rescale(dropout_p))
        dw -= delta[at][..., rows, None]
        np.multiply(w, dw, out=found[at][..., rows, :keys])
    found = found.reshape(*query.shape[:-1], x.S)
    given = (1,) * (found.ndim - attn_mask.ndim) + attn_mask.shape
    dims = tuple([d for d, n in enumerate(given) if n == 1])
    return np.add.reduce(found, axis=dims, keepdims=True).reshape(attn_mask.shape)


@op(
    spec=lambda query, key, dropout_p, seed, offset: ((*query.shape[:-1], key.shape[-2]), np.dtype(np.bool_)),
    kernel=kernels.keep,
    on="",
    samples=each(
        draw((2, 19, 4), (2, 21, 4), dropout_p=0.3, seed=3, offset=1),
        draw((5, 4), (70, 4), dropout_p=0.5, seed=1 << 40, offset=0),
    ),
)
def _attention_keep(query: Array, key: Array, dropout_p: float, seed: int, offset: int):
    """Which weights (…, L, S) dropout keeps."""
    return _keep(query.shape[:-2], query.shape[-2], key.shape[-2], dropout_p, seed, offset)


@op(
    spec=lambda query, key, dropout_p, seed, offset: ((*query.shape[:-1], key.shape[-2]), np.dtype(np.bool_)),
    kernel=kernels.keep,
    random=True,
    on="",
    samples=each(draw((2, 19, 4), (2, 21, 4), dropout_p=0.3), draw((5, 4), (70, 4), dropout_p=0.5)),
)
def _attention_draw(query: Array, key: Array, dropout_p: float, seed: int, offset: int):
    """Which weights (…, L, S) dropout keeps: those that ``_attention_dropout`` would, drawn by itself."""
    return _keep(query.shape[:-2], query.shape[-2], key.shape[-2], dropout_p, seed, offset)


def fits(query: Any, value: Any) -> bool:
    """Whether the kernels take heads so wide where the tensors are."""
    device, features = query.device, max(query._array.shape[-1], value._array.shape[-1])
    return device.type == "cpu" or kernels.fits(features, query._array.dtype.itemsize, device, modes.grad)
