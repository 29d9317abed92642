"""Recurrent layers over sequences, RNN, LSTM and GRU, and their single steps, the cells."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

from tensorlib._core import Tensor, modes
from tensorlib.errors import ShapeError
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.utils.rnn import PackedSequence
from tensorlib.ops import (
    empty,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    rnn_relu,
    rnn_relu_cell,
    rnn_tanh,
    rnn_tanh_cell,
    zeros,
)

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]

#: mode -> (the function over a stack of layers, gates)
_MODES = {"LSTM": (lstm, 4), "GRU": (gru, 3), "RNN_TANH": (rnn_tanh, 1), "RNN_RELU": (rnn_relu, 1)}


def _uniform(layer: Module, hidden_size: int) -> None:
    """All parameters from U(-k, k), k = 1 / sqrt(hidden_size)."""
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0
    for weight in layer.parameters():
        init.uniform_(weight, -bound, bound)


class RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters, checks, and the call of the function of ``mode``.

    Parameters of layer k: ``weight_ih_lk`` (gates * hidden, in), ``weight_hh_lk`` (gates * hidden, hidden),
    ``bias_ih_lk``, ``bias_hh_lk``, with ``proj_size`` also ``weight_hr_lk`` (proj, hidden); ``_reverse`` at the end for
    the other direction. All are drawn from U(-k, k) with k = 1 / sqrt(hidden_size).
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        for name, value in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int):
                raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero")
        if num_layers <= 0:
            raise ValueError("num_layers must be greater than zero")
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        if mode not in _MODES:
            raise ValueError("Unrecognized RNN mode: " + mode)
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size

        rows, width = _MODES[mode][1] * hidden_size, proj_size or hidden_size
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            incoming = width * self._directions if layer else input_size
            for suffix in ("", "_reverse")[: self._directions]:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, incoming), "weight_hh": (rows, width)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer}{suffix}", Parameter(empty(shape, device=device, dtype=dtype)))
                self._all_weights.append([f"{name}_l{layer}{suffix}" for name in shapes])
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters, a list for each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights_names(self) -> list[str]:
        """PyTorch's private list; initialisers walk it."""
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Parameter]:
        return [weight for weights in self.all_weights for weight in weights]

    @_flat_weights.setter
    def _flat_weights(self, weights: list[Any]) -> None:
        """Put other tensors in the parameters' places: what makes functions of modules does."""
        self._parameters.update(zip(self._flat_weights_names, weights, strict=True))

    def flatten_parameters(self) -> None:
        """Nothing: parameters need not lie in one piece of memory."""

    def reset_parameters(self) -> None:
        """Draw all parameters."""
        _uniform(self, self.hidden_size)

    # ------------------------------------------------------------------------------------------------ checks

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """An error unless dtype, dimensions and features are right."""
        weight = self._flat_weights[0]
        if input.dtype is not weight.dtype and modes.autocast is None:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        expected = 2 if batch_sizes is not None else 3
        if input.dim() != expected:
            raise ShapeError(f"input must have {expected} dimensions, got {input.dim()}")
        if self.input_size != input.shape[-1]:
            raise ShapeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )

    def _expected_size(self, input: Tensor, batch_sizes: Tensor | None, width: int) -> tuple[int, int, int]:
        batch = int(batch_sizes[0]) if batch_sizes is not None else input.shape[0 if self.batch_first else 1]
        return self.num_layers * self._directions, batch, width

    def get_expected_hidden_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of h_0."""
        return self._expected_size(input, batch_sizes, self.proj_size or self.hidden_size)

    def check_hidden_size(
        self, hx: Tensor, expected_hidden_size: tuple[int, int, int], msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """An error with ``msg`` unless hx has the expected shape."""
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise ShapeError(msg.format(tuple(expected_hidden_size), list(hx.shape)))

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """An error unless input and state fit the layer."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """The state with its batch in another order."""
        return hx if permutation is None else hx.index_select(1, permutation)

    # ------------------------------------------------------------------------------------------------ the call

    def _initial(self, input: Tensor, batch_sizes: Tensor | None) -> Any:
        """The state that stands for none."""
        return zeros(self.get_expected_hidden_size(input, batch_sizes), dtype=input.dtype, device=input.device)

    def _batched_state(self, hx: Any, is_batched: bool) -> Any:
        """hx with a batch, or an error unless it has as many dimensions as the input calls for."""
        if hx.dim() != (3 if is_batched else 2):
            kind, n = ("batched 3-D", 3) if is_batched else ("unbatched 2-D", 2)
            raise ShapeError(f"For {kind} input, hx should also be {n}-D but got {hx.dim()}-D tensor")
        return hx if is_batched else hx.unsqueeze(1)

    def _without_batch(self, hx: Any) -> Any:
        return hx.squeeze(1)

    def _final(self, states: tuple[Tensor, ...]) -> Any:
        return states[0]

    def _settings(self) -> tuple[Any, ...]:
        return self._flat_weights, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional

    def forward(self, input: Any, hx: Any = None) -> Any:
        """(output, final state). input (L, B, in), (B, L, in) with batch_first, (L, in), or a PackedSequence.

        The output is of the same kind with hidden_size (or proj_size) * directions features; states are (layers *
        directions, B, hidden_size).
        """
        function = _MODES[self.mode][0]
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, back = input
            hx = self._initial(data, batch_sizes) if hx is None else self.permute_hidden(hx, order)
            self.check_forward_args(data, hx, batch_sizes)
            out, *final = function(data, batch_sizes, hx, *self._settings())
            packed = PackedSequence(out, batch_sizes, order, back)
            return packed, self.permute_hidden(self._final(tuple(final)), back)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead: give (length, "
                f"features), or a batch of that"
            )
        is_batched, batch_dim = input.dim() == 3, 0 if self.batch_first else 1
        if not is_batched:
            input = input.unsqueeze(batch_dim)
        hx = self._initial(input, None) if hx is None else self._batched_state(hx, is_batched)
        self.check_forward_args(input, hx, None)
        out, *final = function(input, hx, *self._settings(), self.batch_first)
        state = self._final(tuple(final))
        return (out, state) if is_batched else (out.squeeze(batch_dim), self._without_batch(state))

    def extra_repr(self) -> str:
        """Sizes, and what differs from its default."""
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0,
                    "bidirectional": False}  # fmt: skip
        given = [f"{k}={getattr(self, k)}" for k, default in defaults.items() if getattr(self, k) != default]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *given])


def _no_projection(proj_size: int) -> None:
    if proj_size:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class RNN(RNNBase):
    """h_t = tanh(x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh), or relu of it. Elman 1990.

    ``nonlinearity`` is "tanh" or "relu". Dropout acts between layers, in training. See RNNBase for the parameters, its
    ``forward`` for shapes.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _no_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


class GRU(RNNBase):
    """h_t = n + z (h_(t-1) - n): r, z = σ(x W + h U), n = tanh(x W_n + b_n + r (h U_n + c_n)). Cho et al. 2014.

    Rows of the weights: r, z, n. Dropout acts between layers, in training. See RNNBase for the parameters, its
    ``forward`` for shapes.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _no_projection(proj_size)
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )


class LSTM(RNNBase):
    """c_t = σ(f) c_(t-1) + σ(i) tanh(g), h_t = σ(o) tanh(c_t) W_hr^T. Hochreiter & Schmidhuber 1997.

    Rows of the weights: i, f, g, o. States are pairs (h, c). ``proj_size`` (0: none) is the width of h with a
    projection (Sak et al. 2014). Dropout acts between layers, in training. See RNNBase for the parameters, its
    ``forward`` for shapes.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype,
        )  # fmt: skip

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of c_0."""
        return self._expected_size(input, batch_sizes, self.hidden_size)

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """An error unless input and states fit the layer."""
        self.check_input(input, batch_sizes)
        expected = self.get_expected_hidden_size(input, batch_sizes), self.get_expected_cell_size(input, batch_sizes)
        for i, (state, shape) in enumerate(zip(hidden, expected, strict=True)):
            self.check_hidden_size(state, shape, f"Expected hidden[{i}] size {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """Both states with their batch in another order."""
        return hx if permutation is None else tuple(super(LSTM, self).permute_hidden(h, permutation) for h in hx)

    def _initial(self, input: Tensor, batch_sizes: Tensor | None) -> Any:
        cell = self.get_expected_cell_size(input, batch_sizes)
        return super()._initial(input, batch_sizes), zeros(cell, dtype=input.dtype, device=input.device)

    def _batched_state(self, hx: Any, is_batched: bool) -> Any:
        h, c = hx
        if h.dim() != c.dim() or h.dim() != (3 if is_batched else 2):
            kind, n = ("batched 3-D", 3) if is_batched else ("unbatched 2-D", 2)
            raise ShapeError(
                f"For {kind} input, hx and cx should also be {n}-D but got ({h.dim()}-D, {c.dim()}-D) tensors"
            )
        return (h, c) if is_batched else (h.unsqueeze(1), c.unsqueeze(1))

    def _without_batch(self, hx: Any) -> Any:
        return tuple(h.squeeze(1) for h in hx)

    def _final(self, states: tuple[Tensor, ...]) -> Any:
        return states


class RNNCellBase(Module):
    """What the cells share: ``weight_ih`` (num_chunks * hidden, in), ``weight_hh``, ``bias_ih``, ``bias_hh``.

    All are drawn from U(-k, k) with k = 1 / sqrt(hidden_size).
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(empty((rows, input_size), device=device, dtype=dtype))
        self.weight_hh = Parameter(empty((rows, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            made = Parameter(empty(rows, device=device, dtype=dtype)) if bias else None
            self.register_parameter(name, made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters."""
        _uniform(self, self.hidden_size)

    def _step(self, function: Any, input: Tensor, hx: Any, pair: bool = False) -> Any:
        """One step of the function, the state given or zeros, with or without a batch."""
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        states = None if hx is None else tuple(hx) if pair else (hx,)
        for i, h in enumerate(states or ()):
            if h.dim() not in (1, 2):
                what = f"hx[{i}]" if pair else "hidden"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {h.dim()}D instead")
        is_batched = input.dim() == 2
        if not is_batched:
            input = input.unsqueeze(0)
        if states is None:
            none = zeros(input.shape[0], self.hidden_size, dtype=input.dtype, device=input.device)
            states = (none, none) if pair else (none,)
        elif not is_batched:
            states = tuple(h.unsqueeze(0) for h in states)
        weights = self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        result = function(input, states if pair else states[0], *weights)
        if is_batched:
            return result
        return tuple(h.squeeze(0) for h in result) if pair else result.squeeze(0)

    def extra_repr(self) -> str:
        """Sizes, and what differs from its default."""
        given = [] if self.bias is True else [f"bias={self.bias}"]
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            given.append(f"nonlinearity={self.nonlinearity}")
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *given])


class RNNCell(RNNCellBase):
    """tanh(x W_ih^T + b_ih + h W_hh^T + b_hh), or relu of it. input (B, in) or (in,), hx (B, hidden) or (hidden,)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next hidden state; zeros stand for none before."""
        functions = {"tanh": rnn_tanh_cell, "relu": rnn_relu_cell}
        if self.nonlinearity not in functions:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._step(functions[self.nonlinearity], input, hx)  # type: ignore[no-any-return]


class LSTMCell(RNNCellBase):
    """(h, c) after one step of an LSTM. input (B, in) or (in,), hx a pair of (B, hidden) or (hidden,)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next states; zeros stand for none before."""
        return self._step(lstm_cell, input, hx, pair=True)  # type: ignore[no-any-return]


class GRUCell(RNNCellBase):
    """The hidden state after one step of a GRU. input (B, in) or (in,), hx (B, hidden) or (hidden,)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next hidden state; zeros stand for none before."""
        return self._step(gru_cell, input, hx)  # type: ignore[no-any-return]
