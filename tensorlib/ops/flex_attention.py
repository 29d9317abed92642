"""Attention with a window and functions of scores, dense and of packed sequences: fused operators, and their formula.

A window (left, right) lets query i look at keys i - left … i + right, -1: as many as there are. ``aligned``: the last
query has the position of the last key, not the first query that of the first key, for windows and score functions.
``chain`` names score functions with their parameters (`kernels.attention_scores`), None standing for the next of
``buffers``. ``blocks`` lists the blocks of ``block_size`` that the masks leave (`kernels.attention_blocks`), so that
kernels skip the others; they must agree with window and chain. ``attn_mask`` then is None, or the tiles (number,
queries, keys) of the blocks that it cuts, with their numbers the ninth list: -1 for a whole block, -2 for none.
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
from tensorlib.kernels.attention_blocks import Blocks
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


def _untiled(tiles: Any, number: Any, L: int, S: int) -> Any:
    """The mask (B, H, L, S) that tiles and their numbers stand for, of arrays or tensors."""
    at = number.clip(0)
    found = tiles[at if isinstance(at, np.ndarray) else at.long()] & (number >= 0)[..., None, None]
    whole = found | (number == -1)[..., None, None]  # (B, H, rows, columns, m, n)
    B, H, rows, columns, m, n = whole.shape
    return whole.swapaxes(3, 4).reshape(B, H, rows * m, columns * n)[..., :L, :S]


def _mask_of(attn_mask: Any, blocks: Sequence[Any], query: Any, key: Any) -> Any:
    """The mask of all scores."""
    if attn_mask is None or not len(blocks):
        return attn_mask
    return _untiled(attn_mask, blocks[8], query.shape[-2], key.shape[-2])


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


def _formula(query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, blocks: Any, window: Window,
             aligned: bool, chain: Any, scale: float, block_size: Any) -> tuple[Tensor, Tensor]:  # fmt: skip
    attn_mask = _mask_of(attn_mask, blocks, query, key)
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


def _spec(query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, blocks: Any, window: Window, aligned: bool,
          chain: Any, scale: float, block_size: Any) -> Any:  # fmt: skip
    out, rows = attention._shapes(query, key, value, None if len(blocks) else attn_mask, "flex_attention")
    if len(blocks) not in ((0,) if not block_size else (8,) if attn_mask is None else (9,)):
        raise ArgumentError(
            f"flex_attention: got {len(blocks)} lists of blocks of {block_size}: expected 8, and the tiles' numbers"
        )
    if attn_mask is not None and attn_mask.dtype != np.bool_:
        raise DtypeError(f"flex_attention: expected a mask of dtype bool, got {attn_mask.dtype}")
    score_functions.check("flex_attention", chain, buffers)
    return [(out, query.dtype), (rows, _sums_dtype(query))]


def _sums_dtype(query: Any) -> np.dtype[Any]:
    """The dtype of log-sums: what scores are computed in."""
    return np.dtype(np.float64 if query.dtype == np.float64 else np.float32)


def _flops(
    query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, blocks: Any, window: Window, **_: Any
) -> float:  # fmt: skip
    keys: float = key.shape[-2]
    if min(window) >= 0:
        keys = min(keys, sum(window) + 1)
    elif max(window) >= 0:
        keys /= 2
    return 2.0 * query.size / query.shape[-1] * keys * (query.shape[-1] + value.shape[-1])


def _scores(
    window: Window, aligned: bool, chain: Any, buffers: Any, blocks: Any = (), block_size: Any = None
) -> kernels.Scores:  # fmt: skip
    arrays = [x if is_contiguous(x) else contiguous(x) for x in buffers]
    return kernels.Scores(window, aligned, chain, arrays, Blocks(blocks, block_size) if blocks else None)


def _kernel(out: Any, logsumexp: Any, query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, blocks: Any,
            window: Window, aligned: bool, chain: Any, scale: float, block_size: Any) -> None:  # fmt: skip
    scores = _scores(window, aligned, chain, buffers, blocks, block_size)
    kernels.attention(out, logsumexp, query, key, value, attn_mask, False, scale, scores=scores)


def _vjp(g_out: Any, g_logsumexp: Any, query: Any, key: Any, value: Any, attn_mask: Any, buffers: Any, blocks: Any,
         out: Any, logsumexp: Any, window: Window, aligned: bool, chain: Any, scale: float,
         block_size: Any) -> Any:  # fmt: skip
    grads = _flex_attention_grad(
        g_out, g_logsumexp, query, key, value, attn_mask, out, logsumexp, buffers, blocks, window, aligned, chain,
        scale, block_size,
    )  # fmt: skip
    return (*grads, None, [None] * len(buffers), [None] * len(blocks))


_HOW: dict[str, Any] = dict(window=ALL, aligned=False, chain=(), scale=0.35, block_size=None)
_SOFTCAP, _ALIBI = ("softcap", 2.5), ("alibi", None)


def _listed(mask: np.ndarray, size: tuple[int, int], tiled: bool = False) -> tuple[Any, list[Any]]:
    """(tiles or None, lists of blocks) of a mask (B, H, L, S), as samples."""
    B, H, L, S = mask.shape
    m, n = size
    padded = np.pad(mask, ((0, 0), (0, 0), (0, -L % m), (0, -S % n)))
    cells = padded.reshape(B, H, -(-L // m), m, -(-S // n), n).swapaxes(3, 4)
    some, full = cells.any((-1, -2)), cells.all((-1, -2))
    lists = []
    for kind in (some & ~full, full):
        for of in (kind, np.swapaxes(kind, -1, -2)):
            lists.append((of.sum(-1), np.argsort(~of, axis=-1, kind="stable")))
    found = [values(x.tolist(), "int32") for pair in (lists[0], lists[2], lists[1], lists[3]) for x in pair]
    if not tiled:
        return None, found
    number = np.where(full, -1, np.where(some, np.cumsum(some & ~full).reshape(some.shape) - 1, -2))
    return values(cells[some & ~full].tolist(), "bool"), [*found, values(number.tolist(), "int32")]


def _blocked(L: int, S: int, heads: int, of_key: int, kind: str, backward: bool = False) -> Any:
    """A call with lists of blocks of 16 queries by 32 keys, of a mask in the kernel or in tiles."""
    i, j = np.arange(L)[:, None], np.arange(S)
    size, how, tiles = (16, 32), {**_HOW, "block_size": (16, 32)}, None
    if kind == "prefix":
        lists = _listed(((j < 40) | (j <= i))[None, None], size)[1]
        how["chain"] = (_SOFTCAP, ("prefix_lm", 40))
    elif kind == "window":
        lists = _listed((np.abs(i - j) <= 21)[None, None], size)[1]
        how["window"] = (21, 21)
    else:
        far = np.abs(i - j) * np.arange(1, heads + 1)[:, None, None] <= 40
        tiles, lists = _listed((far & ((j + i) % 7 != 3) | (j < 32) & (i < 16))[None], size, True)
    q, k, v = (2, heads, L, 8), (2, of_key, S, 8), (2, of_key, S, 6)
    if backward:
        g, sums = (*q[:3], 6), between(2, 4, *q[:3])
        return draw(g, q[:3], q, k, v, tiles, g, sums, [], lists, **how)
    return draw(q, k, v, tiles, [], lists, **how)


@op(
    spec=_spec,
    promote=FLOATS.over("query", "key", "value"),
    kernel=_kernel,
    outputs=("out", "logsumexp"),
    vjp=_vjp,
    composite=_formula,
    on="",
    samples=each(
        draw((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6), None, [], [], **{**_HOW, "window": (1, -1)}),
        draw((1, 2, 39, 16), (1, 2, 39, 16), (1, 2, 39, 16), None, [], [], **{**_HOW, "window": (5, 0)}),
        draw((1, 4, 21, 8), (1, 2, 70, 8), (1, 2, 70, 8), None, [], [], **{**_HOW, "window": (7, 2), "aligned": True}),
        draw((1, 2, 50, 8), (1, 2, 18, 8), (1, 2, 18, 8), None, [], [], **{**_HOW, "window": (-1, 0), "aligned": True}),
        draw((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), bools(2, 1, 4, 5), [], [], **{**_HOW, "window": (2, -1)}),
        draw((2, 2, 20, 8), (2, 2, 35, 8), (2, 2, 35, 8), None, [], [], **{**_HOW, "chain": (_SOFTCAP,)}),
        draw(
            (2, 4, 20, 8), (2, 2, 37, 8), (2, 2, 37, 4), None, [without_gradient(between(0.1, 0.6, 4))], [],
            **{**_HOW, "window": (-1, 0), "chain": (_ALIBI, _SOFTCAP)},
        ),
        draw((5, 8), (7, 8), (7, 8), None, [], [], **{**_HOW, "chain": (("prefix_lm", 3),)}),
        draw(
            (2, 1, 5, 8), transposed(2, 1, 6, 8), (2, 1, 6, 8), None,
            [values([0, 0, 1, 1, 2], "int64"), values([0, 0, 1, 1, 2, 2], "int64")], [],
            **{**_HOW, "chain": (("document", None, None), _SOFTCAP)},
        ),
        draw((2, 3, 4, 8), (2, 3, 0, 8), (2, 3, 0, 8), None, [], [], **{**_HOW, "chain": (_SOFTCAP,)}),
        _blocked(41, 70, 2, 1, "tiles"),
        _blocked(70, 70, 2, 2, "prefix"),
        _blocked(39, 85, 4, 2, "window"),
    ),
    errors=[
        fails((2, 4, 8), (2, 5, 7), (2, 5, 6), None, [], [], match="last size", error=ShapeError, **_HOW),
        fails((4, 8), (5, 8), (5, 8), (4, 5), [], [], match="dtype bool", error=DtypeError, **_HOW),
        fails((4, 8), (5, 8), (5, 8), None, [], [], **{**_HOW, "chain": (("cap", 1.0),)}, match="is called 'cap'",
              error=ArgumentError),
        fails((4, 8), (5, 8), (5, 8), None, [], [], **{**_HOW, "chain": (_ALIBI,)}, match="take 1 tensors, got 0",
              error=ArgumentError),
    ],
    bench=[draw((4, 16, 4096, 128), (4, 16, 4096, 128), (4, 16, 4096, 128), None, [], [],
                **{**_HOW, "window": (512, 0), "chain": (("softcap", 30.0),)})],
    flops=_flops,
)  # fmt: skip
def _flex_attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None, buffers: Arrays, blocks: Arrays, window: Any,
    aligned: bool, chain: Any, scale: float, block_size: Any,
):  # fmt: skip
    """softmax(chain(query @ key.mT * scale)) @ value within a window, and the log-sum-exp of each row's scores."""
    attn_mask = _mask_of(attn_mask, blocks, query, key)
    return _Dense(query, key, value, attn_mask, buffers, window, aligned, chain, scale).forward()


def _grad_kernel(dq: Any, dk: Any, dv: Any, g: Any, g_sums: Any, query: Any, key: Any, value: Any, attn_mask: Any,
                 out: Any, logsumexp: Any, buffers: Any, blocks: Any, window: Window, aligned: bool, chain: Any,
                 scale: float, block_size: Any) -> None:  # fmt: skip
    kernels.attention_grad(
        dq, dk, dv, g, query, key, value, attn_mask, out, logsumexp, False, scale,
        scores=_scores(window, aligned, chain, buffers, blocks, block_size), g_sums=g_sums,
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
            between(2, 4, 1, 4, 19), [without_gradient(between(0.1, 0.6, 4))], [], window=(7, 2), aligned=True,
            chain=(_ALIBI, _SOFTCAP), scale=0.5, block_size=None,
        ),
        draw(
            (50, 6), (50,), (50, 8), (35, 8), (35, 6), None, (50, 6), between(2, 4, 50), [], [],
            window=(-1, 3), aligned=False, chain=(("prefix_lm", 3),), scale=0.5, block_size=None,
        ),
        _blocked(41, 70, 2, 1, "tiles", True),
        _blocked(39, 85, 4, 2, "window", True),
    ),
)  # fmt: skip
def _flex_attention_grad(
    g: Array, g_sums: Array, query: Array, key: Array, value: Array, attn_mask: Array | None, out: Array,
    logsumexp: Array, buffers: Arrays, blocks: Arrays, window: Any, aligned: bool, chain: Any, scale: float,
    block_size: Any,
):  # fmt: skip
    """Gradients of query, key and value; g_sums is that of the log-sum-exp. Dao 2023, algorithm 2."""
    attn_mask = _mask_of(attn_mask, blocks, query, key)
    block = _Dense(query, key, value, attn_mask, buffers, window, aligned, chain, scale)
    return block.backward(g, g_sums, out, logsumexp)
