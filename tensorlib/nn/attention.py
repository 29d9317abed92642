"""MultiheadAttention."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import bool_
from tensorlib.errors import ShapeError
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.linear import Linear
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.ops import cat, empty, zeros, zeros_like

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """concat_h softmax(q_h k_h^T / sqrt(d)) v_h W_o, q, k, v projected from query, key, value. Vaswani et al. 2017.

    query (l, n, e), key (s, n, kdim), value (s, n, vdim) -> output (l, n, e), weights (n, l, s); batch first with
    ``batch_first``; the batch dim may be left out. in_proj_weight (3 e, e) holds q, k, v one after the other;
    q_proj_weight, k_proj_weight, v_proj_weight take its place when kdim or vdim differ from e.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                "embed_dim and num_heads must be greater than 0,"
                f" got embed_dim={embed_dim} and num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        if embed_dim % num_heads:
            raise AssertionError("embed_dim must be divisible by num_heads")

        def new(*shape: int) -> Parameter:
            return Parameter(empty(shape, device=device, dtype=dtype))

        same = self._qkv_same_embed_dim
        if same:
            self.in_proj_weight = new(3 * embed_dim, embed_dim)
        for name, size in (("q", embed_dim), ("k", self.kdim), ("v", self.vdim)):
            self.register_parameter(f"{name}_proj_weight", None if same else new(embed_dim, size))
        if not same:
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", new(3 * embed_dim) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, new(1, 1, embed_dim) if add_bias_kv else None)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        if self._qkv_same_embed_dim:
            init.xavier_uniform_(self.in_proj_weight)
        else:
            init.xavier_uniform_(self.q_proj_weight)
            init.xavier_uniform_(self.k_proj_weight)
            init.xavier_uniform_(self.v_proj_weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        if self.bias_k is not None:
            init.xavier_normal_(self.bias_k)
            init.xavier_normal_(self.bias_v)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, weights); weights is None unless ``need_weights``, (n, heads, l, s) unless averaged.

        key_padding_mask (n, s) and attn_mask (l, s) or (n heads, l, s): True masks out, or floats to be added.
        ``is_causal`` says that attn_mask is the causal one, which then need not be read.
        """
        if not query.ndim == key.ndim == value.ndim or query.ndim not in (2, 3):
            raise ShapeError(
                f"MultiheadAttention: query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}: "
                "expected all 3-D (batched) or all 2-D"
            )
        batched = query.ndim == 3
        if not batched:  # (l, e) -> (1, l, e)
            q, k, v = query[None], key[None], value[None]
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask[None]
        elif self.batch_first:
            q, k, v = query, key, value
        else:
            q, k, v = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        n, length, size = q.shape
        if size != self.embed_dim:
            raise ShapeError(f"was expecting embedding dimension of {self.embed_dim}, but got {size}")
        if k.shape[:2] != v.shape[:2] or k.shape[0] != n:
            raise ShapeError(
                f"MultiheadAttention: query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}: "
                "expected one batch size, and key and value of one length"
            )
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        source = k.shape[1]
        if (
            is_causal
            and key_padding_mask is None
            and not need_weights
            and self.bias_k is None
            and not self.add_zero_attn
        ):
            attn_mask = None
        else:
            is_causal = False
        mask = self._mask(key_padding_mask, attn_mask, n, length, source, q)

        q, k, v = self._project(q, k, v)
        if self.bias_k is not None:
            k = cat([k, self.bias_k.expand(n, 1, size)], dim=1)
            v = cat([v, self.bias_v.expand(n, 1, size)], dim=1)
            source += 1
        if self.add_zero_attn:
            k = cat([k, zeros((n, 1, size), dtype=k.dtype, device=k.device)], dim=1)
            v = cat([v, zeros((n, 1, size), dtype=v.dtype, device=v.device)], dim=1)
            source += 1
        if mask is not None and mask.shape[-1] != source:  # what was appended is never masked
            mask = F.pad(mask, (0, source - mask.shape[-1]))
        heads = (self.num_heads, self.head_dim)
        q = q.reshape(n, length, *heads).transpose(1, 2)
        k = k.reshape(n, source, *heads).transpose(1, 2)
        v = v.reshape(n, source, *heads).transpose(1, 2)

        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            if mask is not None:
                scores = scores + mask
            weights = F.softmax(scores, dim=-1)
            if drop:
                weights = F.dropout(weights, drop)
            out = weights @ v
            if average_attn_weights:
                weights = weights.mean(1)
            if not batched:
                weights = weights[0]
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, is_causal=is_causal)
        out = self.out_proj(out.transpose(1, 2).reshape(n, length, size))
        if not batched:
            out = out[0]
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, weights

    def _project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e = self.embed_dim
        bias = self.in_proj_bias
        if self._qkv_same_embed_dim:
            if q is k and k is v:
                together = F.linear(q, self.in_proj_weight, bias)
                return together[..., :e], together[..., e : 2 * e], together[..., 2 * e :]
            weight = self.in_proj_weight
            weights = weight[:e], weight[e : 2 * e], weight[2 * e :]
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        biases = (None, None, None) if bias is None else (bias[:e], bias[e : 2 * e], bias[2 * e :])
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((q, k, v), weights, biases, strict=True))
        return q, k, v

    def _mask(
        self, padding: Tensor | None, attn: Tensor | None, n: int, length: int, source: int, like: Tensor
    ) -> Tensor | None:
        """One mask to be added to the scores, broadcastable to (n, heads, l, s)."""
        mask = None
        if attn is not None:
            if tuple(attn.shape) == (length, source):
                attn = attn[None, None]
            elif tuple(attn.shape) == (n * self.num_heads, length, source):
                attn = attn.reshape(n, self.num_heads, length, source)
            else:
                raise ShapeError(
                    f"MultiheadAttention: attn_mask {tuple(attn.shape)}: expected {(length, source)} or "
                    f"{(n * self.num_heads, length, source)}"
                )
            mask = _additive("attn_mask", attn, like)
        if padding is not None:
            if tuple(padding.shape) != (n, source):
                raise ShapeError(f"MultiheadAttention: key_padding_mask {tuple(padding.shape)}: expected {(n, source)}")
            added = _additive("key_padding_mask", padding.reshape(n, 1, 1, source), like)
            mask = added if mask is None else mask + added
        return mask


def _additive(name: str, mask: Tensor, like: Tensor) -> Tensor:
    """The mask as floats: minus infinity where a boolean one is True."""
    if mask.is_floating_point():
        return mask
    if mask.dtype is not bool_:
        raise AssertionError(f"only bool and floating types of {name} are supported, got {mask.dtype}")
    return zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
