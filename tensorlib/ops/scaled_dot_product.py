"""scaled_dot_product_attention, PyTorch's biases for it included: which fused operator computes it."""

from __future__ import annotations

import math
import warnings
from enum import IntEnum, auto
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._samples import bools, draw, each
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.op import composite
from tensorlib.ops.attention import NAME, _attention, _attention_draw, _attention_dropout, _with_scores, fits
from tensorlib.ops.create import ones
from tensorlib.ops.flex_attention import _flex_attention
from tensorlib.ops.triangles import tril


class CausalVariant(IntEnum):
    """Which corners of the mask the diagonal joins: the first query and key, or the last."""

    UPPER_LEFT = auto()
    LOWER_RIGHT = auto()


class CausalBias:
    """A causal mask (seq_len_q, seq_len_kv) that is never made: an ``attn_mask`` of scaled_dot_product_attention."""

    def __init__(self, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> None:
        if not isinstance(variant, CausalVariant):
            raise AssertionError(f"variant must be a CausalVariant, got {type(variant).__name__}")
        self.variant, self.seq_len_q, self.seq_len_kv = variant, seq_len_q, seq_len_kv
        if variant is CausalVariant.LOWER_RIGHT and seq_len_q > seq_len_kv:
            warnings.warn(
                "Lower right causal bias leaves the first queries no key when seq_len_q > seq_len_kv: they give zeros",
                stacklevel=2,
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(seq_len_q, seq_len_kv)."""
        return self.seq_len_q, self.seq_len_kv

    def _materialize(self, device: Any = None) -> Tensor:
        """The mask, bool: True where a query may look at a key."""
        diagonal = 0 if self.variant is CausalVariant.UPPER_LEFT else self.seq_len_kv - self.seq_len_q
        made: Tensor = tril(ones(*self.shape, device=device), diagonal).bool()
        return made

    def __repr__(self) -> str:
        return repr(self._materialize())


def causal_upper_left(*size: int) -> CausalBias:
    """``tril(ones(size))`` as a bias of attention: what ``is_causal=True`` is."""
    return CausalBias(CausalVariant.UPPER_LEFT, *_two(size, "causal_upper_left"))


def causal_lower_right(*size: int) -> CausalBias:
    """``tril(ones(size), diagonal=size[1] - size[0])`` as a bias of attention: the last query sees every key."""
    return CausalBias(CausalVariant.LOWER_RIGHT, *_two(size, "causal_lower_right"))


def _two(size: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(size) != 2:
        raise AssertionError(f"{name} only supports 2D tensors")
    return size


def _check(query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float) -> None:
    """The errors that do not depend on sizes."""
    for name, t in (("query", query), ("key", key), ("value", value), ("attn_mask", attn_mask)):
        if not isinstance(t, Tensor) and not (name == "attn_mask" and (t is None or isinstance(t, CausalBias))):
            raise TypeError(f"{NAME}(): argument '{name}' must be Tensor, not {type(t).__name__}")
    if query.ndim < 2 or key.ndim < 2 or value.ndim < 2:
        raise ShapeError(
            f"{NAME}: Expected query, key, and value to all be at least 2 dimensional, but got query.dim: {query.ndim} "
            f"key.dim: {key.ndim} and value.dim: {value.ndim}: expected (…, L, E), (…, S, E), (…, S, Ev)"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise DtypeError(
            f"{NAME}: Expected query, key, and value to have the same dtype, but got query.dtype: {query.dtype} "
            f"key.dtype: {key.dtype} and value.dtype: {value.dtype}"
        )
    if not 0 <= dropout_p <= 1:
        raise ArgumentError(f"{NAME}: dropout probability has to be between 0 and 1, but got {dropout_p}")


def _grouped(query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """Heads of key and value as the fused operator takes them: one number of them, which divides the query's."""
    if min(query.ndim, key.ndim, value.ndim) < 3:
        raise DimError(
            f"{NAME}: enable_gqa takes (…, heads, L, E), got query {tuple(query.shape)} (Dimension out of range)"
        )
    heads, of_key, of_value = query.shape[-3], key.shape[-3], value.shape[-3]
    if of_key == 0 or of_value == 0 or heads % of_key or heads % of_value:
        raise ShapeError(
            f"{NAME}: Number of heads in key and value must divide the number of heads in query: got {of_key} and "
            f"{of_value} for {heads}"
        )
    if of_key != of_value:
        key, value = key.repeat_interleave(heads // of_key, -3), value.repeat_interleave(heads // of_value, -3)
    return query, key, value


def _broadcast(query: Any, key: Any, value: Any, grouped: bool) -> tuple[Any, Any, Any]:
    """Leading dimensions broadcast to one shape, by views; a grouped head dimension stays each one's own."""
    own = -3 if grouped else -2
    leads = [t.shape[:own] for t in (query, key, value)]
    try:
        lead = np.broadcast_shapes(*leads)
    except ValueError:
        shapes = ", ".join(str(tuple(t.shape)) for t in (query, key, value))
        raise ShapeError(
            f"{NAME}: cannot broadcast the leading dimensions of {shapes}: The size of tensor a must match the size of "
            f"tensor b; for fewer heads in key and value than in query pass enable_gqa=True"
        ) from None
    return tuple(t.expand(*lead, *t.shape[own:]) for t in (query, key, value))  # type: ignore[return-value]


@composite(
    on="functional",
    samples=each(
        draw((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)), draw((2, 2, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8), is_causal=True),
        draw((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8), enable_gqa=True), draw((2, 1, 4, 8), (1, 3, 5, 8), (5, 6)),
        draw((2, 2, 4, 8), (2, 2, 7, 8), (2, 2, 7, 8), bools(4, 7)),
        draw((2, 2, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8), (4, 5)), draw((4, 8), (5, 8), (5, 8), scale=0.5),
    ),
)  # fmt: skip
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key.mT * scale + attn_mask) @ value; scale 1 / sqrt(E) for None.

    query (…, L, E), key (…, S, E), value (…, S, Ev) -> (…, L, Ev), leading dimensions broadcast. attn_mask broadcasts
    to (…, L, S): True where a query may look, numbers to add, or a bias of `nn.attention.bias`. ``is_causal``, in its
    place: query i looks at keys 0 … i, also where L and S differ. ``enable_gqa``: heads of key and value may be fewer,
    by a factor. dropout_p drops weights, whatever the mode. A query that may look at no key gives 0. Scores are held in
    float32 (float64 for float64), a block at a time; the gradients make them again. Heads too wide for a GPU's shared
    memory (1024 in bfloat16 where it has 99 KB) are computed with all scores at once. ShapeError and DtypeError name
    what does not fit. Vaswani et al. 2017, eq. 1.
    """
    _check(query, key, value, attn_mask, dropout_p)
    lower = False
    if isinstance(attn_mask, CausalBias):
        if is_causal:
            raise ArgumentError("CausalBias should not be used with causal=True")
        lower = attn_mask.variant is CausalVariant.LOWER_RIGHT and query.shape[-2] != key.shape[-2]
        is_causal, attn_mask = not lower, attn_mask._materialize(query.device) if lower else None
    if attn_mask is not None and is_causal:
        raise ArgumentError(f"{NAME}: Explicit attn_mask should not be set when is_causal=True: join them in attn_mask")
    if enable_gqa:
        query, key, value = _grouped(query, key, value)
    own = -3 if enable_gqa else -2
    if not query._array.shape[:own] == key._array.shape[:own] == value._array.shape[:own]:
        query, key, value = _broadcast(query, key, value, enable_gqa)
    if scale is None:
        scale = 1 / math.sqrt(query._array.shape[-1] or 1)
    attrs: Any = (bool(is_causal), float(scale))
    if type(query._array) is not np.ndarray and not fits(query, value):
        keep = _attention_draw(query, key, float(dropout_p)) if dropout_p > 0 else None
        return _with_scores(query, key, value, attn_mask, bool(is_causal), float(scale), float(dropout_p), keep)
    if lower and not dropout_p:
        return _flex_attention(query, key, value, None, [], [], (-1, 0), True, (), attrs[1], None)[0]
    if dropout_p > 0:
        return _attention_dropout(query, key, value, attn_mask, *attrs, float(dropout_p))
    return _attention(query, key, value, attn_mask, *attrs)
