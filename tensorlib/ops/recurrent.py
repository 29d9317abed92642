"""Recurrent layers: one direction of one layer as one operator, and PyTorch's functions over stacks of them.

``gates`` is what the input gives to the gates at all steps at once, one product for the whole sequence; the operator
adds what the hidden state gives, step by step. Rows are packed: see ``_recurrent_numpy``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tensorlib._core import Tensor, modes
from tensorlib._promotion import FLOAT_ONLY
from tensorlib._samples import between, draw, each, fails, values
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.kernels import recurrent as kernels
from tensorlib.op import Array, Arrays, composite, op, registry
from tensorlib.ops import _recurrent_numpy as numpy
from tensorlib.ops.joining import cat, stack
from tensorlib.ops.linalg import linear
from tensorlib.ops.random import dropout

#: Weights as layers of 256 numbers begin with: under larger ones every step magnifies what the last was off by.
_usual = partial(between, -1 / 16, 1 / 16)


def _check(name: str, gates: Any, hidden: Any, weight: Any, sizes: Any, times: int, width: int) -> None:
    if list(sizes) != sorted(sizes, reverse=True) or hidden.shape[0] != sizes[0]:
        raise ShapeError(
            f"{name}: sizes of the steps {tuple(sizes)} and hidden {tuple(hidden.shape)}: expected falling sizes, the "
            f"first of them hidden's rows"
        )
    if weight.shape != (times * width, hidden.shape[1]) or gates.shape != (sum(sizes), times * width):
        raise ShapeError(
            f"{name}: gates {tuple(gates.shape)}, hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not "
            f"fit: expected gates ({sum(sizes)}, {times} x {width}) and weight ({times} x {width}, hidden's width)"
        )


# ------------------------------------------------------------------------------------------------------------ lstm


def _lstm_spec(
    gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, sizes: Any, reverse: bool
) -> list[Any]:
    rows, width = gates.shape[0], cell.shape[1]
    _check("lstm", gates, hidden, weight, sizes, 4, width)
    steps = rows, hidden.shape[1]
    return [
        (shape, gates.dtype) for shape in (steps, hidden.shape, cell.shape, gates.shape, *[(rows, width)] * 2, steps)
    ]


def _along(sizes: Sequence[int], reverse: bool, gates: Tensor, state: Any, step: Callable[..., Any]) -> Any:
    """(outputs of all steps as rows, the last state): ``step(rows, state)`` gives (output, state) of the first n."""
    outputs: dict[int, Tensor] = {}
    for at, n in numpy.steps(sizes, reverse):
        out, new = step(gates[at], tuple(s[:n] for s in state))
        outputs[at.start] = out
        state = tuple(a if n == len(b) else cat([a, b[n:]]) for a, b in zip(new, state, strict=True))
    rows = [outputs[key] for key in sorted(outputs)]
    return (cat(rows) if rows else gates[:0, : state[0].shape[1]]), state


def _lstm_composite(
    gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, projection: Tensor | None, sizes: Any, reverse: bool
) -> Any:
    def step(x: Tensor, state: Any) -> Any:
        h, c = state
        i, f, g, o = (x + h @ weight.T).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        h = h if projection is None else h @ projection.T
        return h, (h, c)

    out, (h, c) = _along(sizes, reverse, gates, (hidden, cell), step)
    return out, h, c


def _lstm_vjp(
    g_out: Tensor, g_hidden_n: Tensor, g_cell_n: Tensor, activations: Tensor, cells: Tensor, tanhs: Tensor,
    hiddens: Tensor, weight: Tensor, projection: Tensor | None, sizes: Any, reverse: bool, needs: dict[str, bool],
) -> tuple[Any, ...]:  # fmt: skip
    d_gates, d_hidden, d_cell, total = registry["_lstm_grad"].public(
        g_out, g_hidden_n, g_cell_n, activations, cells, tanhs, weight, projection, sizes=sizes, reverse=reverse
    )
    d_projection = None
    if needs["projection"]:
        d_projection = total.T @ (activations.chunk(4, 1)[3] * tanhs)
    d_weight = d_gates.T @ hiddens if needs["weight"] else None
    return d_gates, d_hidden, d_cell, d_weight, d_projection


_SIZES = (3, 3, 2, 1)
_lstm_samples = each(
    draw((9, 8), (3, 2), (3, 2), (8, 2), None, sizes=_SIZES, reverse=False),
    draw((9, 8), (3, 2), (3, 2), (8, 2), None, sizes=_SIZES, reverse=True),
    draw((4, 12), (2, 2), (2, 3), (12, 2), (2, 3), sizes=(2, 2), reverse=False),
    draw((3, 12), (2, 2), (2, 3), (12, 2), (2, 3), sizes=(2, 1), reverse=True),
    draw((20, 132), (20, 33), (20, 33), (132, 33), None, sizes=(20,), reverse=False),
    draw((0, 8), (0, 2), (0, 2), (8, 2), None, sizes=(0,), reverse=False),
)


@op(
    spec=_lstm_spec, kernel=kernels.lstm, promote=FLOAT_ONLY, vjp=_lstm_vjp, composite=_lstm_composite, on="",
    outputs=("out", "hidden_n", "cell_n"), aux=("activations", "cells", "tanhs", "hiddens"), samples=_lstm_samples,
    errors=[fails((9, 8), (3, 2), (3, 2), (6, 2), None, sizes=_SIZES, reverse=False, match="do not fit",
                  error=ShapeError)],
    bench=[draw((35 * 64, 1024), (64, 256), (64, 256), _usual(1024, 256), None, sizes=(64,) * 35, reverse=False)],
    flops=lambda gates, hidden, cell, weight, projection, sizes, reverse: 2 * gates.shape[0] * weight.size,
)  # fmt: skip
def _lstm(
    gates: Array, hidden: Array, cell: Array, weight: Array, projection: Array | None, *, sizes: Any, reverse: Any
):
    """i, f, g, o = gates + h W^T; c <- σ(f) c + σ(i) tanh(g); h <- σ(o) tanh(c), or that times projection^T."""
    return numpy.lstm(gates, hidden, cell, weight, projection, sizes, reverse)


@op(
    spec=lambda grad, grad_hidden, grad_cell, activations, cells, tanhs, weight, projection, sizes, reverse: [
        (activations.shape, grad.dtype), (grad_hidden.shape, grad.dtype), (grad_cell.shape, grad.dtype),
        (grad.shape, grad.dtype),
    ],
    kernel=kernels.lstm_grad, promote=FLOAT_ONLY,
    outputs=("gates", "hidden", "cell", "total"), on="",
    samples=each(
        draw((9, 2), (3, 2), (3, 2), (9, 8), (9, 2), (9, 2), (8, 2), None, sizes=_SIZES, reverse=False),
        draw((9, 2), (3, 2), (3, 2), (9, 8), (9, 2), (9, 2), (8, 2), None, sizes=_SIZES, reverse=True),
        draw((4, 2), (2, 2), (2, 3), (4, 12), (4, 3), (4, 3), (12, 2), (2, 3), sizes=(2, 2), reverse=False),
    ),
)  # fmt: skip
def _lstm_grad(
    grad: Array, grad_hidden: Array, grad_cell: Array, activations: Array, cells: Array, tanhs: Array,
    weight: Array, projection: Array | None, *, sizes: Any, reverse: Any,
):  # fmt: skip
    """Gradients of ``_lstm`` for gates, hidden and cell, and of the hidden states after each step."""
    return numpy.lstm_grad(grad, grad_hidden, grad_cell, activations, cells, tanhs, weight, projection, sizes, reverse)


# ------------------------------------------------------------------------------------------------------------- gru


def _gru_spec(gates: Any, hidden: Any, weight: Any, bias: Any, sizes: Any, reverse: bool) -> list[Any]:
    rows, width = gates.shape[0], hidden.shape[1]
    _check("gru", gates, hidden, weight, sizes, 3, width)
    steps = rows, width
    return [(shape, gates.dtype) for shape in (steps, hidden.shape, gates.shape, steps, steps)]


def _gru_composite(
    gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, sizes: Any, reverse: bool
) -> Any:
    def step(x: Tensor, state: Any) -> Any:
        (h,) = state
        own = h @ weight.T
        r_own, z_own, n_own = (own if bias is None else own + bias).chunk(3, 1)
        r, z, n = x.chunk(3, 1)
        r, z = (r + r_own).sigmoid(), (z + z_own).sigmoid()
        n = (n + r * n_own).tanh()
        h = n + z * (h - n)
        return h, (h,)

    out, (h,) = _along(sizes, reverse, gates, (hidden,), step)
    return out, h


def _gru_vjp(
    g_out: Tensor, g_hidden_n: Tensor, activations: Tensor, inner: Tensor, hiddens: Tensor, weight: Tensor,
    sizes: Any, reverse: bool, needs: dict[str, bool],
) -> tuple[Any, ...]:  # fmt: skip
    d_gates, d_own, d_hidden = registry["_gru_grad"].public(
        g_out, g_hidden_n, activations, inner, hiddens, weight, sizes=sizes, reverse=reverse
    )
    d_weight = d_own.T @ hiddens if needs["weight"] else None
    return d_gates, d_hidden, d_weight, d_own.sum(0) if needs["bias"] else None


@op(
    spec=_gru_spec, kernel=kernels.gru, promote=FLOAT_ONLY, vjp=_gru_vjp, composite=_gru_composite, on="",
    outputs=("out", "hidden_n"), aux=("activations", "inner", "hiddens"),
    samples=each(
        draw((9, 6), (3, 2), (6, 2), (6,), sizes=_SIZES, reverse=False),
        draw((9, 6), (3, 2), (6, 2), None, sizes=_SIZES, reverse=True),
        draw((20, 99), (20, 33), (99, 33), (99,), sizes=(20,), reverse=False),
        draw((0, 6), (0, 2), (6, 2), None, sizes=(0,), reverse=False),
    ),
    errors=[fails((9, 6), (3, 2), (6, 3), None, sizes=_SIZES, reverse=False, match="do not fit", error=ShapeError)],
    bench=[draw((35 * 64, 768), (64, 256), _usual(768, 256), _usual(768), sizes=(64,) * 35, reverse=False)],
    flops=lambda gates, hidden, weight, bias, sizes, reverse: 2 * gates.shape[0] * weight.size,
)  # fmt: skip
def _gru(gates: Array, hidden: Array, weight: Array, bias: Array | None, *, sizes: Any, reverse: Any):
    """r, z, n of gates, r', z', n' of h W^T + bias: h <- n + σ(z + z') (h - n) with n <- tanh(n + σ(r + r') n')."""
    return numpy.gru(gates, hidden, weight, bias, sizes, reverse)


@op(
    spec=lambda grad, grad_hidden, activations, inner, hiddens, weight, sizes, reverse: [
        (activations.shape, grad.dtype), (activations.shape, grad.dtype), (grad_hidden.shape, grad.dtype)
    ],
    kernel=kernels.gru_grad, promote=FLOAT_ONLY,
    outputs=("gates", "own", "hidden"), on="",
    samples=each(
        draw((9, 2), (3, 2), (9, 6), (9, 2), (9, 2), (6, 2), sizes=_SIZES, reverse=False),
        draw((9, 2), (3, 2), (9, 6), (9, 2), (9, 2), (6, 2), sizes=_SIZES, reverse=True),
    ),
)  # fmt: skip
def _gru_grad(
    grad: Array, grad_hidden: Array, activations: Array, inner: Array, hiddens: Array, weight: Array, *, sizes: Any,
    reverse: Any,
):  # fmt: skip
    """Gradients of ``_gru`` for gates, for what the hidden state gives to them, and for hidden."""
    return numpy.gru_grad(grad, grad_hidden, activations, inner, hiddens, weight, sizes, reverse)


# ------------------------------------------------------------------------------------------------------------- rnn


def _rnn_spec(gates: Any, hidden: Any, weight: Any, relu: bool, sizes: Any, reverse: bool) -> list[Any]:
    _check("rnn", gates, hidden, weight, sizes, 1, hidden.shape[1])
    return [(gates.shape, gates.dtype), (hidden.shape, gates.dtype), (gates.shape, gates.dtype)]


def _rnn_composite(gates: Tensor, hidden: Tensor, weight: Tensor, relu: bool, sizes: Any, reverse: bool) -> Any:
    def step(x: Tensor, state: Any) -> Any:
        h = x + state[0] @ weight.T
        h = h.relu() if relu else h.tanh()
        return h, (h,)

    out, (h,) = _along(sizes, reverse, gates, (hidden,), step)
    return out, h


def _rnn_vjp(
    g_out: Tensor, g_hidden_n: Tensor, out: Tensor, hiddens: Tensor, weight: Tensor, relu: bool, sizes: Any,
    reverse: bool, needs: dict[str, bool],
) -> tuple[Any, ...]:  # fmt: skip
    d_gates, d_hidden = registry["_rnn_grad"].public(
        g_out, g_hidden_n, out, weight, relu=relu, sizes=sizes, reverse=reverse
    )
    return d_gates, d_hidden, d_gates.T @ hiddens if needs["weight"] else None


@op(
    spec=_rnn_spec, kernel=kernels.rnn, promote=FLOAT_ONLY, vjp=_rnn_vjp, composite=_rnn_composite, on="",
    outputs=("out", "hidden_n"), aux=("hiddens",),
    samples=each(
        draw((9, 2), (3, 2), (2, 2), relu=False, sizes=_SIZES, reverse=False),
        draw((9, 2), (3, 2), (2, 2), relu=True, sizes=_SIZES, reverse=True),
        draw((20, 33), (20, 33), (33, 33), relu=False, sizes=(20,), reverse=False),
        draw((0, 2), (0, 2), (2, 2), relu=False, sizes=(0,), reverse=False),
    ),
    errors=[fails((8, 2), (3, 2), (2, 2), relu=False, sizes=_SIZES, reverse=False, match="do not fit",
                  error=ShapeError)],
    bench=[draw((35 * 64, 256), (64, 256), _usual(256, 256), relu=False, sizes=(64,) * 35, reverse=False)],
    flops=lambda gates, hidden, weight, relu, sizes, reverse: 2 * gates.shape[0] * weight.size,
)  # fmt: skip
def _rnn(gates: Array, hidden: Array, weight: Array, *, relu: Any, sizes: Any, reverse: Any):
    """h <- tanh(gates + h W^T), or relu of it."""
    return numpy.rnn(gates, hidden, weight, relu, sizes, reverse)


@op(
    spec=lambda grad, grad_hidden, out, weight, relu, sizes, reverse: [
        (grad.shape, grad.dtype), (grad_hidden.shape, grad.dtype)
    ],
    kernel=kernels.rnn_grad, promote=FLOAT_ONLY, outputs=("gates", "hidden"), on="",
    samples=each(
        draw((9, 2), (3, 2), (9, 2), (2, 2), relu=False, sizes=_SIZES, reverse=False),
        draw((9, 2), (3, 2), (9, 2), (2, 2), relu=True, sizes=_SIZES, reverse=True),
    ),
)  # fmt: skip
def _rnn_grad(grad: Array, grad_hidden: Array, out: Array, weight: Array, *, relu: Any, sizes: Any, reverse: Any):
    """Gradients of ``_rnn`` for gates and hidden."""
    return numpy.rnn_grad(grad, grad_hidden, out, weight, relu, sizes, reverse)


# ----------------------------------------------------------------------------------------- stacks, as PyTorch has them

#: Of one direction of one layer: of the input, of the hidden state, their biases, the projection.
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
Layer = Callable[[Tensor, Sequence[Tensor], Weights, tuple[int, ...], bool], tuple[Tensor, tuple[Tensor, ...]]]

_PADDED = ("input", "hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional", "batch_first")
_PACKED = ("data", "batch_sizes", *_PADDED[1:-1])


def _as_narrow(name: str, x: Tensor, *others: Any) -> tuple[Any, ...]:
    """The others in x's dtype: autocast narrowed x alone; without it, operands of two dtypes are an error."""
    for y in others:
        if y is not None and y.dtype is not x.dtype and modes.autocast is None:
            raise DtypeError(
                f"{name}: mat1 and mat2 must have the same dtype, but got {x.dtype} and {y.dtype}: "
                f"convert one with .to({x.dtype})"
            )
    return tuple(y if y is None else y.to(x.dtype) for y in others)


def _lstm_layer(rows: Tensor, state: Any, weights: Weights, sizes: tuple[int, ...], reverse: bool) -> Any:
    w, own, bias, own_bias, projection = weights
    x = linear(rows, w, own_bias if bias is None else bias if own_bias is None else bias + own_bias)
    h, _, own, projection = _as_narrow("lstm", x, *state, own, projection)
    out, h, c = _lstm(x, h, state[1], own, projection, sizes=sizes, reverse=reverse)
    return out, (h, c)


def _gru_layer(rows: Tensor, state: Any, weights: Weights, sizes: tuple[int, ...], reverse: bool) -> Any:
    w, own, bias, own_bias, _ = weights
    x = linear(rows, w, bias)
    _, own, own_bias = _as_narrow("gru", x, *state, own, own_bias)
    out, h = _gru(x, *state, own, own_bias, sizes=sizes, reverse=reverse)
    return out, (h,)


def _rnn_layer(
    relu: bool, rows: Tensor, state: Any, weights: Weights, sizes: tuple[int, ...], reverse: bool
) -> Any:
    w, own, bias, own_bias, _ = weights
    x = linear(rows, w, own_bias if bias is None else bias if own_bias is None else bias + own_bias)
    h, own = _as_narrow("rnn", x, *state, own)
    rnn = _rnn if x.is_floating_point() else _rnn_composite  # PyTorch's products take integers, its relu as well
    out, h = rnn(x, h, own, relu=relu, sizes=sizes, reverse=reverse)
    return out, (h,)


_tanh_layer, _relu_layer = partial(_rnn_layer, False), partial(_rnn_layer, True)


def _split(params: Sequence[Tensor], has_biases: bool, projected: bool) -> list[Weights]:
    """PyTorch's flat list of parameters, by layer and direction."""
    n = 2 + 2 * has_biases + projected
    found = []
    for i in range(0, len(params), n):
        w, own, *rest = params[i : i + n]
        bias, own_bias = rest[:2] if has_biases else (None, None)
        found.append((w, own, bias, own_bias, rest[-1] if projected else None))
    return found


def _stacked(name: str, layer: Layer, n_states: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """All layers and directions by PyTorch's two signatures: of a padded batch, and of packed rows."""
    given: dict[str, Any] = {}
    for names in (_PADDED, _PACKED):
        if len(args) <= len(names) and kwargs.keys() == set(names[len(args) :]):
            given = dict(zip(names, args, strict=False)) | kwargs
        if isinstance(given.get("has_biases"), bool):
            break
    else:
        raise TypeError(
            f"{name}() received an invalid combination of arguments: expected ({', '.join(_PADDED)}) or "
            f"({', '.join(_PACKED)})"
        )
    states = list(given["hx"]) if n_states > 1 else [given["hx"]]
    if len(states) != n_states:
        raise ShapeError(f"{name} expects two hidden states, got {len(states)}: pass (h_0, c_0)")
    packed, batch_first = "data" in given, given.get("batch_first", False)
    if packed:
        rows = given["data"]
        sizes = tuple(int(n) for n in given["batch_sizes"].tolist())
        padded: tuple[int, ...] = ()
    else:
        x = given["input"].transpose(0, 1) if batch_first else given["input"]
        if x.ndim != 3:
            raise ShapeError(f"{name}: input must have 3 dimensions, got {x.ndim}: expected (length, batch, features)")
        padded = x.shape[:2]
        rows, sizes = x.reshape(-1, x.shape[2]) if x.numel() else x.flatten(0, 1), padded[1:] * padded[0]
    if not sizes:
        raise ShapeError(f"{name}: Expected sequence length to be larger than 0 in RNN: give at least one step")

    directions, projected = 1 + given["bidirectional"], n_states > 1 and states[0].shape[2] != states[1].shape[2]
    weights = _split(given["params"], given["has_biases"], projected)
    if len(weights) != directions * given["num_layers"]:
        raise ShapeError(
            f"{name}: got {len(given['params'])} parameters, those of {len(weights)} layers and directions: expected "
            f"{directions * given['num_layers']}"
        )
    finals: list[tuple[Tensor, ...]] = []
    for k in range(0, len(weights), directions):
        if k and given["train"] and given["dropout"]:
            rows = dropout(rows, given["dropout"], True)
        outs = []
        for d in range(directions):
            out, final = layer(rows, [s[k + d] for s in states], weights[k + d], sizes, d == 1)
            outs.append(out)
            finals.append(final)
        rows = outs[0] if directions == 1 else cat(outs, 1)
    if not packed:
        rows = rows.reshape(*padded, rows.shape[1])
    return rows.transpose(0, 1) if batch_first else rows, *(stack(parts) for parts in zip(*finals, strict=True))


@composite(
    on="function",
    samples=each(
        draw((3, 2, 4), [(1, 2, 3), (1, 2, 3)], [(12, 4), (12, 3), (12,), (12,)],
             True, 1, 0.0, False, False, False),
        draw((2, 3, 2), [(4, 2, 2), (4, 2, 3)],
             [(12, 2), (12, 2), (2, 3)] * 2 + [(12, 4), (12, 2), (2, 3)] * 2, False, 2, 0.0, True, True, True),
        draw((6, 2), values([3, 2, 1], "int64"), [(2, 3, 2), (2, 3, 2)], [(8, 2), (8, 2), (8,), (8,)] * 2,
             True, 2, 0.0, True, False),
    ),
)  # fmt: skip
def lstm(*args: Tensor | Any, **kwargs: Any):
    """(out, h_n, c_n) of a stack of LSTM layers; ``nn.LSTM`` calls it. Hochreiter & Schmidhuber 1997.

    lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first) with input (L, B, in)
    and hx = (h_0, c_0) of (layers * directions, B, width), or with packed rows
    lstm(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional).
    params: w_ih, w_hh, b_ih, b_hh, w_hr of each layer and direction, without those that are not used.
    """
    return _stacked("lstm", _lstm_layer, 2, args, kwargs)


def _one_state(times: int) -> Any:
    """Samples for a stack with one state: plain, two layers in both directions, packed."""
    w, b = 2 * times, (2 * times,)
    return each(
        draw((3, 2, 4), (1, 2, 2), [(w, 4), (w, 2), b, b], True, 1, 0.0, False, False, False),
        draw((2, 3, 2), (4, 2, 2), [(w, 2), (w, 2)] * 2 + [(w, 4), (w, 2)] * 2, False, 2, 0.0, True, True, True),
        draw((6, 2), values([3, 2, 1], "int64"), (2, 3, 2), [(w, 2), (w, 2), b, b] * 2, True, 1, 0.0, True, True),
    )


@composite(on="function", samples=_one_state(3))
def gru(*args: Tensor | Any, **kwargs: Any):
    """(out, h_n) of a stack of GRU layers; arguments as for ``lstm``, with one state. Cho et al. 2014."""
    return _stacked("gru", _gru_layer, 1, args, kwargs)


@composite(on="function", samples=_one_state(1))
def rnn_tanh(*args: Tensor | Any, **kwargs: Any):
    """(out, h_n) of a stack of layers with tanh; arguments as for ``lstm``, with one state. Elman 1990."""
    return _stacked("rnn_tanh", _tanh_layer, 1, args, kwargs)


@composite(on="function", samples=_one_state(1))
def rnn_relu(*args: Tensor | Any, **kwargs: Any):
    """(out, h_n) of a stack of layers with relu; arguments as for ``lstm``, with one state. Elman 1990."""
    return _stacked("rnn_relu", _relu_layer, 1, args, kwargs)


def _cell(name: str, layer: Layer, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Any:
    """One step: the final states."""
    w, own, bias, own_bias = weights
    assert w is not None and own is not None
    if input.shape[1] != w.shape[1]:
        raise ShapeError(f"{name}: input has inconsistent input_size: got {input.shape[1]} expected {w.shape[1]}")
    for i, h in enumerate(states):
        if h.shape[0] != input.shape[0]:
            raise ShapeError(
                f"{name}: Input batch size {input.shape[0]} doesn't match hidden{i} batch size {h.shape[0]}"
            )
        if h.shape[1] != own.shape[1]:
            raise ShapeError(
                f"{name}: hidden{i} has inconsistent hidden_size: got {h.shape[1]}, expected {own.shape[1]}"
            )
    if not own.shape[1]:
        return tuple([h.clone() for h in states])  # type: ignore[attr-defined]
    return layer(input, states, (w, own, bias, own_bias, None), (input.shape[0],), False)[1]


def _cell_samples(times: int, states: int = 1) -> Any:
    w, b = 3 * times, (3 * times,)
    hx: Any = (5, 3) if states == 1 else [(5, 3)] * states
    return each(draw((5, 4), hx, (w, 4), (w, 3), b, b), draw((5, 4), hx, (w, 4), (w, 3)))


@composite(on="function", samples=_cell_samples(4, 2))
def lstm_cell(
    input: Array, hx: Arrays, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
):
    """(h, c) after one step of an LSTM from hx = (h, c). input (B, in) -> two of (B, width)."""
    if len(hx) != 2:
        raise ShapeError(f"lstm_cell expects two hidden states, got {len(hx)}: pass (h, c)")
    return _cell("lstm_cell", _lstm_layer, input, hx, (w_ih, w_hh, b_ih, b_hh))


@composite(on="function", samples=_cell_samples(3))
def gru_cell(
    input: Array, hx: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
):
    """h after one step of a GRU from hx. input (B, in) -> (B, width)."""
    return _cell("gru_cell", _gru_layer, input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


@composite(on="function", samples=_cell_samples(1))
def rnn_tanh_cell(
    input: Array, hx: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
):
    """tanh(input w_ih^T + b_ih + hx w_hh^T + b_hh). input (B, in) -> (B, width)."""
    return _cell("rnn_tanh_cell", _tanh_layer, input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


@composite(on="function", samples=_cell_samples(1))
def rnn_relu_cell(
    input: Array, hx: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
):
    """relu(input w_ih^T + b_ih + hx w_hh^T + b_hh). input (B, in) -> (B, width)."""
    return _cell("rnn_relu_cell", _relu_layer, input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]
