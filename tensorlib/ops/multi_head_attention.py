"""Attention of several heads with its projections: what ``nn.MultiheadAttention`` computes. Vaswani et al. 2017."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import bool_
from tensorlib._samples import draw, each
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.op import composite
from tensorlib.ops.create import zeros, zeros_like
from tensorlib.ops.joining import cat, pad
from tensorlib.ops.linalg import linear, matmul
from tensorlib.ops.random import dropout
from tensorlib.ops.scaled_dot_product import scaled_dot_product_attention
from tensorlib.ops.softmax import softmax

NAME = "multi_head_attention_forward"


class MultiheadError(ShapeError, AssertionError):
    """Arguments of multi-head attention that do not go together, where PyTorch asserts."""


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise MultiheadError(f"{NAME}: {message}")


def _additive(name: str, mask: Any, dtype: Any) -> Any:
    """The mask as floats: minus infinity where a boolean one is True."""
    if mask is None or mask.is_floating_point():
        return mask
    _require(mask.dtype is bool_, f"only bool and floating types of {name} are supported, got {mask.dtype}")
    return zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)  # type: ignore[attr-defined]


def _is_batched(query: Any, key: Any, value: Any, padding: Any, mask: Any, heads: int) -> bool:
    """Whether there is a batch dimension; the errors of the numbers of dimensions."""
    n = query.ndim
    _require(n in (2, 3), f"query should be unbatched 2D or batched 3D tensor but received {n}-D query tensor")
    kind = "batched (3-D)" if n == 3 else "unbatched (2-D)"
    _require(
        key.ndim == n and value.ndim == n,
        f"For {kind} `query`, expected `key` and `value` to be {n}-D but found {key.ndim}-D and {value.ndim}-D tensors",
    )
    _require(
        padding is None or padding.ndim == n - 1,
        f"For {kind} `query`, expected `key_padding_mask` to be `None` or {n - 1}-D",
    )
    if mask is not None:
        _require(mask.ndim in (2, 3), f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D")
        expected = (heads, query.shape[0], key.shape[0])
        _require(
            n == 3 or mask.ndim == 2 or tuple(mask.shape) == expected,
            f"Expected `attn_mask` shape to be {expected} but got {tuple(mask.shape)}",
        )
    return bool(n == 3)


def _projected(query: Any, key: Any, value: Any, weight: Any, bias: Any) -> list[Any]:
    """q, k, v by the three parts of one weight; one product where they are projected from one tensor."""
    e = query.shape[-1]
    if query is key and key is value:
        together = linear(query, weight, bias)
        return [together[..., i * e : (i + 1) * e] for i in range(3)]
    biases = [None] * 3 if bias is None else list(bias.chunk(3))
    if key is value:
        both = linear(key, weight[e:], None if bias is None else bias[e:])
        return [linear(query, weight[:e], biases[0]), both[..., :e], both[..., e:]]
    return [linear(x, w, b) for x, w, b in zip((query, key, value), weight.chunk(3), biases, strict=True)]


@composite(
    on="functional",
    samples=each(
        draw((3, 2, 4), (5, 2, 4), (5, 2, 4), 4, 2, (12, 4), (12,), None, None, False, 0.0, (4, 4), (4,)),
        draw((3, 2, 4), (5, 2, 4), (5, 2, 4), 4, 2, (12, 4), (12,), (1, 1, 4), (1, 1, 4), True, 0.0, (4, 4), (4,),
             attn_mask=None, average_attn_weights=False),
        draw((3, 4), (5, 4), (5, 4), 4, 2, (12, 4), None, None, None, False, 0.0, (4, 4), None, need_weights=False),
    ),
)  # fmt: skip
def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """concat_h softmax(q_h k_hᵀ / √d) v_h W_oᵀ, with q, k, v projected; and the weights, averaged over the heads.

    query (L, N, E), key and value (S, N, E) -> (L, N, E) and (N, L, S); without N for one sequence. key_padding_mask
    (N, S) and attn_mask (L, S) or (N heads, L, S): True masks out, or numbers to add. ``bias_k``, ``bias_v`` and
    ``add_zero_attn`` append a key; ``static_k``, ``static_v`` (N heads, S, d) take the place of projected ones.
    ``is_causal`` says that attn_mask is the causal one, which then need not be read where no weights are wanted.
    """
    q, k, v = query, key, value
    batched = _is_batched(q, k, v, key_padding_mask, attn_mask, num_heads)
    if not batched:
        one = q is k and k is v
        q = q.unsqueeze(1)  # type: ignore[attr-defined]
        k, v = (q, q) if one else (k.unsqueeze(1), v.unsqueeze(1))  # type: ignore[attr-defined]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)  # type: ignore[attr-defined]
    length, n, e = q.shape
    padding: Any = _additive("key_padding_mask", key_padding_mask, q.dtype)
    if is_causal and attn_mask is None:
        raise ArgumentError(
            f"{NAME}: Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
            f"`generate_square_subsequent_mask` to create this mask."
        )
    mask: Any = None
    if not is_causal or padding is not None or need_weights:
        mask = _additive("attn_mask", attn_mask, q.dtype)
        is_causal = is_causal and padding is None
    _require(e == embed_dim_to_check, f"was expecting embedding dimension of {embed_dim_to_check}, but got {e}")
    d = e // num_heads
    _require(d * num_heads == e, f"embed_dim {e} not divisible by num_heads {num_heads}")
    if use_separate_proj_weight:
        _require(
            k.shape[:2] == v.shape[:2],
            f"key's sequence and batch dims {tuple(k.shape[:2])} do not match value's {tuple(v.shape[:2])}",
        )
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        _require(
            all(w is not None for w in weights), "use_separate_proj_weight is True but a projection weight is None"
        )
        biases: Any = [None] * 3 if in_proj_bias is None else in_proj_bias.chunk(3)  # type: ignore[attr-defined]
        q, k, v = (linear(x, w, b) for x, w, b in zip((q, k, v), weights, biases, strict=True))
    else:
        _require(k.shape == v.shape, f"key shape {tuple(k.shape)} does not match value shape {tuple(v.shape)}")
        _require(in_proj_weight is not None, "use_separate_proj_weight is False but in_proj_weight is None")
        q, k, v = _projected(q, k, v, in_proj_weight, in_proj_bias)
    source = k.shape[0]
    if mask is not None:
        expected = (length, source) if mask.ndim == 2 else (n * num_heads, length, source)
        if tuple(mask.shape) != expected:
            raise ShapeError(
                f"{NAME}: The shape of the {mask.ndim}D attn_mask is {tuple(mask.shape)}, but should be {expected}."
            )
        mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    extra = 0
    _require((bias_k is None) == (bias_v is None), "bias_k and bias_v are set together or not at all")
    if bias_k is not None:
        _require(static_k is None and static_v is None, "bias cannot be added to static key or value.")
        k = cat([k, bias_k.expand(1, n, e)])  # type: ignore[attr-defined]
        v = cat([v, bias_v.expand(1, n, e)])  # type: ignore[union-attr]
        extra += 1

    def heads(x: Any) -> Any:
        return x.reshape((x.shape[0], n, num_heads, d)).permute((1, 2, 0, 3))

    def fixed(name: str, x: Any) -> Any:
        _require(x.shape[0] == n * num_heads, f"expecting {name}.size(0) of {n * num_heads}, but got {x.shape[0]}")
        _require(x.shape[2] == d, f"expecting {name}.size(2) of {d}, but got {x.shape[2]}")
        return x.reshape((n, num_heads, *x.shape[1:]))

    q = heads(q)
    k = heads(k) if static_k is None else fixed("static_k", static_k)
    v = heads(v) if static_v is None else fixed("static_v", static_v)
    if add_zero_attn:
        k, v = (cat([x, zeros((n, num_heads, 1, d), dtype=x.dtype, device=x.device)], 2) for x in (k, v))
        extra += 1
    source = k.shape[2]
    if extra and mask is not None:  # what was appended is never masked
        mask = pad(mask, (0, extra))
    if mask is not None:
        mask = mask.unsqueeze(0) if mask.shape[0] == 1 else mask.reshape((n, num_heads, length, source))
    if padding is not None:
        padding = pad(padding, (0, extra)) if extra else padding
        _require(tuple(padding.shape) == (n, source),
                 f"Expected key_padding_mask of shape {(n, source)}, but got {tuple(padding.shape)}")  # fmt: skip
        padding = padding.reshape((n, 1, 1, source))
        mask = padding if mask is None else mask + padding
    drop = dropout_p if training else 0.0
    if not need_weights:
        out: Any = scaled_dot_product_attention(q, k, v, mask, drop, is_causal and mask is None)
        chosen = None
    else:
        scores: Any = matmul(q * math.sqrt(1.0 / d), k.transpose(-2, -1))
        chosen = softmax(scores if mask is None else scores + mask, -1)
        chosen = dropout(chosen, drop) if drop > 0 else chosen
        out = matmul(chosen, v)
        chosen = chosen.mean(1) if average_attn_weights else chosen
        chosen = chosen if batched else chosen[0]
    out = linear(out.permute((2, 0, 1, 3)).reshape((length, n, e)), out_proj_weight, out_proj_bias)
    return (out if batched else out.squeeze(1)), chosen
