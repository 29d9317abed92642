"""The layers of Vaswani et al. 2017, "Attention is all you need", and the whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import float32
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.attention import MultiheadAttention
from tensorlib.nn.container import ModuleList
from tensorlib.nn.dropout import Dropout
from tensorlib.nn.linear import Linear, activated
from tensorlib.nn.module import Module
from tensorlib.nn.normalization import LayerNorm
from tensorlib.ops import full, zeros_like

__all__ = ["Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
           "TransformerEncoderLayer"]  # fmt: skip

Activation = str | Callable[[Tensor], Tensor]


def _activation(chosen: Activation) -> Callable[[Tensor], Tensor]:
    if isinstance(chosen, str):
        if chosen not in ("relu", "gelu"):
            raise RuntimeError(f"activation should be relu/gelu, not {chosen}")
        return F.relu if chosen == "relu" else F.gelu  # type: ignore[return-value]
    return chosen


def _additive(mask: Tensor | None, name: str, like: Tensor) -> Tensor | None:
    """A mask as something to add: boolean ones become -inf where True."""
    if mask is None:
        return None
    if mask.dtype.kind == "bool":
        return zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
    if not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported")
    return mask


def causal_mask(size: int, device: Any = None, dtype: Any = None) -> Tensor:
    """(size, size): -inf above the diagonal, 0 elsewhere."""
    return full((size, size), float("-inf"), device=device, dtype=dtype or float32).triu(1)


def _is_causal(mask: Tensor | None, is_causal: bool | None, size: int | None) -> bool:
    """Whether a mask is the causal one, or is said to be."""
    if is_causal is not None:
        return is_causal
    if mask is None or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        return False
    if not mask.is_floating_point() or (size is not None and mask.shape[0] != size):
        return False
    return bool((mask == causal_mask(mask.shape[0], mask.device, mask.dtype)).all())


class _Layer(Module):
    """What encoder and decoder layers share: self-attention and the feed-forward net."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, activation: Activation, eps: float,
        batch_first: bool, norm_first: bool, bias: bool, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias=bias, batch_first=batch_first, **made)
        self._between(d_model, nhead, dropout, batch_first, bias, made)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **made)
        self.norm_first = norm_first
        for i in range(1, self._sublayers + 1):
            setattr(self, f"norm{i}", LayerNorm(d_model, eps=eps, bias=bias, **made))
        for i in range(1, self._sublayers + 1):
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    _sublayers = 2

    def _between(
        self, d_model: int, nhead: int, dropout: float, batch_first: bool, bias: bool, made: dict[str, Any]
    ) -> None:
        """Modules that come between self-attention and the feed-forward net, in the order of the parameters."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("activation", F.relu)

    def _attend(self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Tensor:
        out = self.self_attn(
            x, x, x, attn_mask=mask, key_padding_mask=padding, is_causal=is_causal, need_weights=False
        )
        return self.dropout1(out[0])  # type: ignore[no-any-return]

    def _feed(self, x: Tensor, dropout: Module) -> Tensor:
        return dropout(self.linear2(self.dropout(activated(self.linear1, self.activation, x))))  # type: ignore[no-any-return]


class TransformerEncoderLayer(_Layer):
    """x <- norm1(x + attention(x)), x <- norm2(x + linear2(activation(linear1(x)))), dropout before each sum.

    ``norm_first``: x <- x + attention(norm1(x)) and so on. (S, N, E), (N, S, E) with ``batch_first``, or (S, E).
    activation: "relu", "gelu" or a function.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,
                         bias, device, dtype)  # fmt: skip

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """One layer of the encoder; ``is_causal`` says that ``src_mask`` is the causal one."""
        mask = _additive(src_mask, "src_mask", src)
        padding = _additive(src_key_padding_mask, "src_key_padding_mask", src)
        x = src
        if self.norm_first:
            x = x + self._attend(self.norm1(x), mask, padding, is_causal)
            return x + self._feed(self.norm2(x), self.dropout2)
        x = self.norm1(x + self._attend(x, mask, padding, is_causal))
        return self.norm2(x + self._feed(x, self.dropout2))  # type: ignore[no-any-return]


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output (``memory``), feed-forward net, each with its sum and norm.

    Options and shapes are TransformerEncoderLayer's.
    """

    _sublayers = 3

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,
                         bias, device, dtype)  # fmt: skip

    def _between(
        self, d_model: int, nhead: int, dropout: float, batch_first: bool, bias: bool, made: dict[str, Any]
    ) -> None:
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias=bias, batch_first=batch_first, **made)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """One layer of the decoder."""
        mine = tgt_mask, tgt_key_padding_mask, tgt_is_causal
        theirs = memory_mask, memory_key_padding_mask, memory_is_causal
        x = tgt
        if self.norm_first:
            x = x + self._attend(self.norm1(x), *mine)
            x = x + self._look(self.norm2(x), memory, *theirs)
            return x + self._feed(self.norm3(x), self.dropout3)
        x = self.norm1(x + self._attend(x, *mine))
        x = self.norm2(x + self._look(x, memory, *theirs))
        return self.norm3(x + self._feed(x, self.dropout3))  # type: ignore[no-any-return]

    def _look(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor:
        out = self.multihead_attn(
            x, memory, memory, attn_mask=mask, key_padding_mask=padding, is_causal=is_causal, need_weights=False
        )
        return self.dropout2(out[0])  # type: ignore[no-any-return]


class _Stack(Module):
    """``num_layers`` copies of a layer, and a norm at the end."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm


class TransformerEncoder(_Stack):
    """A stack of encoder layers. ``enable_nested_tensor`` and ``mask_check`` are accepted and change nothing."""

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """All layers; ``is_causal`` None looks whether ``mask`` is the causal one."""
        padding, mask = _additive(src_key_padding_mask, "src_key_padding_mask", src), _additive(mask, "mask", src)
        causal = _is_causal(mask, is_causal, _length(src, self.layers))
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(_Stack):
    """A stack of decoder layers."""

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """All layers; ``tgt_is_causal`` None looks whether ``tgt_mask`` is the causal one."""
        causal = _is_causal(tgt_mask, tgt_is_causal, _length(tgt, self.layers))
        x = tgt
        for layer in self.layers:
            x = layer(
                x, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )  # fmt: skip
        return x if self.norm is None else self.norm(x)


def _length(x: Tensor, layers: Any) -> int | None:
    """The length of the sequences of a batch."""
    batch_first = x.ndim == 3 and bool(len(layers)) and layers[0].self_attn.batch_first
    return int(x.shape[1 if batch_first else 0])


class Transformer(Module):
    """Encoder and decoder: (source, target) -> features of the target's shape, each with a norm at its end.

    src (S, N, E), tgt (T, N, E), with ``batch_first`` (N, S, E) and (N, T, E), without a batch (S, E) and (T, E).
    Matrices begin Xavier-uniform. ``custom_encoder`` and ``custom_decoder`` take the place of the stacks.
    RuntimeError where batch sizes or the number of features do not fit.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        made = {"bias": bias, "device": device, "dtype": dtype}
        layer = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first)

        def stack(given: Any, of: Any, kind: Any, count: int) -> Any:
            return given if given is not None else of(
                kind(*layer, **made), count, LayerNorm(d_model, eps=layer_norm_eps, **made)
            )

        self.encoder = stack(custom_encoder, TransformerEncoder, TransformerEncoderLayer, num_encoder_layers)
        self.decoder = stack(custom_decoder, TransformerDecoder, TransformerDecoderLayer, num_decoder_layers)
        self._reset_parameters()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoder's output for ``tgt`` beside the encoder's for ``src``."""
        batch = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise RuntimeError("the batch number of src and tgt must be equal")
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise RuntimeError("the feature number of src and tgt must be equal to d_model")
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(  # type: ignore[no-any-return]
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """(sz, sz): -inf above the diagonal, 0 elsewhere."""
        return causal_mask(sz, device, dtype)

    def _reset_parameters(self) -> None:
        for p in self.parameters():
            if p.dim() > 1:
                init.xavier_uniform_(p)
