"""Recurrent layers: for each step one product with the hidden state and one kernel for everything elementwise.

Rows are packed (see ``ops/_recurrent_numpy``). Sums and cell states are in float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.matmul import product
from tensorlib.kernels.pointwise import copy
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 256
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def _wide(x: DeviceArray) -> np.dtype[Any]:
    return _FLOAT64 if x.dtype == _FLOAT64 else _FLOAT32


def _steps(sizes: Sequence[int], reverse: bool) -> list[tuple[slice, int]]:
    starts = [0]
    for n in sizes:
        starts.append(starts[-1] + n)
    order = range(len(sizes) - 1, -1, -1) if reverse else range(len(sizes))
    return [(slice(starts[t], starts[t] + sizes[t]), sizes[t]) for t in order]


@jit
def _load(p, mask, ACC: tl.constexpr):
    return tl.load(p, mask=mask, other=0).to(ACC)


@jit
def _sigmoid(x):
    t = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)


@jit
def _tanh(x):
    t = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - t) / (1.0 + t)
    return tl.where(x >= 0, y, -y)


# One program owns BLOCK of the M x N numbers of a step's cells. Reads the four gates twice (of the input, and of the
# hidden state), the cell; writes gates' activations, the cell before and after, its tanh, the hidden state.
# Hochreiter & Schmidhuber 1997.
@jit
def lstm_kernel(
    out, raw, cells, tanhs, activations, cell, gates, own, M, N, ACC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < M * N
    at = i // N * (4 * N) + i % N
    gate_i = _sigmoid(_load(gates + at, mask, ACC) + _load(own + at, mask, ACC))
    gate_f = _sigmoid(_load(gates + at + N, mask, ACC) + _load(own + at + N, mask, ACC))
    gate_g = _tanh(_load(gates + at + 2 * N, mask, ACC) + _load(own + at + 2 * N, mask, ACC))
    gate_o = _sigmoid(_load(gates + at + 3 * N, mask, ACC) + _load(own + at + 3 * N, mask, ACC))
    before = _load(cell + i, mask, ACC)
    now = gate_f * before + gate_i * gate_g
    t = _tanh(now)
    h = gate_o * t
    element: tl.constexpr = raw.dtype.element_ty
    tl.store(cells + i, before.to(element), mask=mask)
    tl.store(tanhs + i, t.to(element), mask=mask)
    tl.store(cell + i, now, mask=mask)
    tl.store(activations + at, gate_i.to(element), mask=mask)
    tl.store(activations + at + N, gate_f.to(element), mask=mask)
    tl.store(activations + at + 2 * N, gate_g.to(element), mask=mask)
    tl.store(activations + at + 3 * N, gate_o.to(element), mask=mask)
    tl.store(raw + i, h.to(element), mask=mask)
    if out is not None:
        tl.store(out + i, h.to(element), mask=mask)


# One program owns BLOCK of the M x N numbers of a step's cells. Reads activations, the cell before, tanh of that after,
# the gradients of the hidden state and of the cell; writes the gates' gradients and the gradient of the cell before.
@jit
def lstm_grad_kernel(
    d_gates, d_cell, d_raw, activations, cells, tanhs, M, N, ACC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < M * N
    at = i // N * (4 * N) + i % N
    gate_i = _load(activations + at, mask, ACC)
    gate_f = _load(activations + at + N, mask, ACC)
    gate_g = _load(activations + at + 2 * N, mask, ACC)
    gate_o = _load(activations + at + 3 * N, mask, ACC)
    before = _load(cells + i, mask, ACC)
    dh = _load(d_raw + i, mask, ACC)
    t = _load(tanhs + i, mask, ACC)
    dc = _load(d_cell + i, mask, ACC) + dh * gate_o * (1 - t * t)
    element: tl.constexpr = d_gates.dtype.element_ty
    tl.store(d_gates + at, (dc * gate_g * gate_i * (1 - gate_i)).to(element), mask=mask)
    tl.store(d_gates + at + N, (dc * before * gate_f * (1 - gate_f)).to(element), mask=mask)
    tl.store(d_gates + at + 2 * N, (dc * gate_i * (1 - gate_g * gate_g)).to(element), mask=mask)
    tl.store(d_gates + at + 3 * N, (dh * t * gate_o * (1 - gate_o)).to(element), mask=mask)
    tl.store(d_cell + i, dc * gate_f, mask=mask)


# One program owns BLOCK of the M x N numbers of a step's hidden state. Reads the three gates twice (of the input, and
# of the hidden state), the hidden state; writes the activations, what r multiplies, the hidden state. Cho et al. 2014.
@jit
def gru_kernel(
    out, hidden, activations, inner, gates, own, bias, M, N, ACC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < M * N
    col = i % N
    at = i // N * (3 * N) + col
    own_r = _load(own + at, mask, ACC)
    own_z = _load(own + at + N, mask, ACC)
    own_n = _load(own + at + 2 * N, mask, ACC)
    if bias is not None:
        own_r += _load(bias + col, mask, ACC)
        own_z += _load(bias + col + N, mask, ACC)
        own_n += _load(bias + col + 2 * N, mask, ACC)
    r = _sigmoid(_load(gates + at, mask, ACC) + own_r)
    z = _sigmoid(_load(gates + at + N, mask, ACC) + own_z)
    new = _tanh(_load(gates + at + 2 * N, mask, ACC) + r * own_n)
    h = new + z * (_load(hidden + i, mask, ACC) - new)
    element: tl.constexpr = out.dtype.element_ty
    tl.store(activations + at, r.to(element), mask=mask)
    tl.store(activations + at + N, z.to(element), mask=mask)
    tl.store(activations + at + 2 * N, new.to(element), mask=mask)
    tl.store(inner + i, own_n.to(element), mask=mask)
    tl.store(hidden + i, h.to(element), mask=mask)
    tl.store(out + i, h.to(element), mask=mask)


# One program owns BLOCK of the M x N numbers of a step's hidden state. Reads activations, the hidden state before and
# the gradient after; writes the gradients of both kinds of gates, and what goes past them to the hidden state before.
@jit
def gru_grad_kernel(
    d_gates, d_own, past, d_hidden, grad, activations, inner, before, M, N, ACC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < M * N
    at = i // N * (3 * N) + i % N
    r = _load(activations + at, mask, ACC)
    z = _load(activations + at + N, mask, ACC)
    new = _load(activations + at + 2 * N, mask, ACC)
    dh = _load(d_hidden + i, mask, ACC) + _load(grad + i, mask, ACC)
    d_new = dh * (1 - z) * (1 - new * new)
    d_r = d_new * _load(inner + i, mask, ACC) * r * (1 - r)
    d_z = dh * (_load(before + i, mask, ACC) - new) * z * (1 - z)
    element: tl.constexpr = d_gates.dtype.element_ty
    tl.store(d_gates + at, d_r.to(element), mask=mask)
    tl.store(d_gates + at + N, d_z.to(element), mask=mask)
    tl.store(d_gates + at + 2 * N, d_new.to(element), mask=mask)
    tl.store(d_own + at, d_r.to(element), mask=mask)
    tl.store(d_own + at + N, d_z.to(element), mask=mask)
    tl.store(d_own + at + 2 * N, (d_new * r).to(element), mask=mask)
    tl.store(past + i, dh * z, mask=mask)


# One program owns BLOCK numbers. Reads the input's part and the hidden state's, writes the hidden state. Elman 1990.
@jit
def rnn_kernel(out, hidden, gates, own, n, RELU: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x = _load(gates + i, mask, ACC) + _load(own + i, mask, ACC)
    h = tl.where(x > 0, x, tl.where(x == x, 0.0, x)) if RELU else _tanh(x)
    tl.store(hidden + i, h.to(hidden.dtype.element_ty), mask=mask)
    tl.store(out + i, h.to(out.dtype.element_ty), mask=mask)


# One program owns BLOCK numbers. Reads the hidden state after and its two gradients, writes the gates' gradient.
@jit
def rnn_grad_kernel(d_gates, d_hidden, grad, out, n, RELU: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    dh = _load(d_hidden + i, mask, ACC) + _load(grad + i, mask, ACC)
    y = _load(out + i, mask, ACC)
    d = tl.where(y > 0, dh, 0.0) if RELU else dh * (1 - y * y)
    tl.store(d_gates + i, d.to(d_gates.dtype.element_ty), mask=mask)


# One program owns BLOCK numbers: out = x + y.
@jit
def sum_kernel(out, x, y, n, ACC: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    v = _load(x + i, mask, ACC) + _load(y + i, mask, ACC)
    tl.store(out + i, v.to(out.dtype.element_ty), mask=mask)


def _cells(kernel: Any, count: int, *args: Any, **constants: Any) -> None:
    if count:
        launch(kernel, (cdiv(count, _BLOCK),), *args, BLOCK=_BLOCK, **constants)


def _copied(x: DeviceArray, dtype: Any = None) -> DeviceArray:
    out: DeviceArray = empty(x.shape, dtype or x.dtype, x.device)
    copy(out, x)
    return out


def lstm(
    out: DeviceArray, hidden_n: DeviceArray, cell_n: DeviceArray, activations: DeviceArray, cells: DeviceArray,
    tanhs: DeviceArray, hiddens: DeviceArray, gates: DeviceArray, hidden: DeviceArray, cell: DeviceArray,
    weight: DeviceArray, projection: DeviceArray | None, sizes: Any, reverse: bool,
) -> None:  # fmt: skip
    """See ``ops/recurrent``; hidden_n is the running hidden state."""
    gates, acc, width = contiguous(gates), _wide(gates), cell.shape[1]
    copy(hidden_n, hidden)
    running = _copied(cell, acc)
    most = max(sizes, default=0)
    own = empty((most, 4 * width), acc, gates.device)
    raw = None if projection is None else empty((most, width), gates.dtype, gates.device)
    for at, n in _steps(sizes, reverse):
        copy(hiddens[at], hidden_n[:n])
        product(own[:n], hidden_n[:n], weight.T, None)
        _cells(
            lstm_kernel, n * width, out[at] if raw is None else None, hidden_n if raw is None else raw, cells[at],
            tanhs[at], activations[at], running, gates[at], own, n, width, ACC=acc,
        )  # fmt: skip
        if raw is not None:
            assert projection is not None
            product(hidden_n[:n], raw[:n], projection.T, None)
            copy(out[at], hidden_n[:n])
    copy(cell_n, running)


def lstm_grad(
    d_gates: DeviceArray, d_hidden: DeviceArray, d_cell: DeviceArray, total: DeviceArray, grad: DeviceArray,
    grad_hidden: DeviceArray, grad_cell: DeviceArray, activations: DeviceArray, cells: DeviceArray, tanhs: DeviceArray,
    weight: DeviceArray, projection: DeviceArray | None, sizes: Any, reverse: bool,
) -> None:  # fmt: skip
    """See ``ops/recurrent``."""
    grad, acc, width = contiguous(grad), _wide(grad), cells.shape[1]
    activations, cells, tanhs = contiguous(activations), contiguous(cells), contiguous(tanhs)
    dh, dc = _copied(grad_hidden, acc), _copied(grad_cell, acc)
    raw = None if projection is None else empty((max(sizes, default=0), width), acc, grad.device)
    for at, n in reversed(_steps(sizes, reverse)):
        _cells(sum_kernel, n * grad.shape[1], total[at], dh, grad[at], n * grad.shape[1], ACC=acc)
        if raw is not None:
            product(raw[:n], total[at], projection, None)
        _cells(
            lstm_grad_kernel, n * width, d_gates[at], dc, total[at] if raw is None else raw, activations[at],
            cells[at], tanhs[at], n, width, ACC=acc,
        )  # fmt: skip
        product(dh[:n], d_gates[at], weight, None)
    copy(d_hidden, dh)
    copy(d_cell, dc)


def gru(
    out: DeviceArray, hidden_n: DeviceArray, activations: DeviceArray, inner: DeviceArray, hiddens: DeviceArray,
    gates: DeviceArray, hidden: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, sizes: Any, reverse: bool,
) -> None:  # fmt: skip
    """See ``ops/recurrent``; hidden_n is the running hidden state."""
    gates, acc, width = contiguous(gates), _wide(gates), hidden.shape[1]
    bias = None if bias is None else contiguous(bias)
    copy(hidden_n, hidden)
    own = empty((max(sizes, default=0), 3 * width), acc, gates.device)
    for at, n in _steps(sizes, reverse):
        copy(hiddens[at], hidden_n[:n])
        product(own[:n], hidden_n[:n], weight.T, None)
        _cells(gru_kernel, n * width, out[at], hidden_n, activations[at], inner[at], gates[at], own, bias, n, width,
               ACC=acc)  # fmt: skip


def gru_grad(
    d_gates: DeviceArray, d_own: DeviceArray, d_hidden: DeviceArray, grad: DeviceArray, grad_hidden: DeviceArray,
    activations: DeviceArray, inner: DeviceArray, hiddens: DeviceArray, weight: DeviceArray, sizes: Any, reverse: bool,
) -> None:  # fmt: skip
    """See ``ops/recurrent``."""
    grad, acc, width = contiguous(grad), _wide(grad), hiddens.shape[1]
    activations, inner, hiddens = contiguous(activations), contiguous(inner), contiguous(hiddens)
    dh = _copied(grad_hidden, acc)
    past, through = (empty((max(sizes, default=0), width), acc, grad.device) for _ in range(2))
    for at, n in reversed(_steps(sizes, reverse)):
        _cells(gru_grad_kernel, n * width, d_gates[at], d_own[at], past, dh, grad[at], activations[at], inner[at],
               hiddens[at], n, width, ACC=acc)  # fmt: skip
        product(through[:n], d_own[at], weight, None)
        _cells(sum_kernel, n * width, dh, past, through, n * width, ACC=acc)
    copy(d_hidden, dh)


def rnn(
    out: DeviceArray, hidden_n: DeviceArray, hiddens: DeviceArray, gates: DeviceArray, hidden: DeviceArray,
    weight: DeviceArray, relu: bool, sizes: Any, reverse: bool,
) -> None:  # fmt: skip
    """See ``ops/recurrent``; hidden_n is the running hidden state."""
    gates, acc, width = contiguous(gates), _wide(gates), hidden.shape[1]
    copy(hidden_n, hidden)
    own = empty((max(sizes, default=0), width), acc, gates.device)
    for at, n in _steps(sizes, reverse):
        copy(hiddens[at], hidden_n[:n])
        product(own[:n], hidden_n[:n], weight.T, None)
        _cells(rnn_kernel, n * width, out[at], hidden_n, gates[at], own, n * width, RELU=relu, ACC=acc)


def rnn_grad(
    d_gates: DeviceArray, d_hidden: DeviceArray, grad: DeviceArray, grad_hidden: DeviceArray, out: DeviceArray,
    weight: DeviceArray, relu: bool, sizes: Any, reverse: bool,
) -> None:  # fmt: skip
    """See ``ops/recurrent``."""
    grad, out, acc, width = contiguous(grad), contiguous(out), _wide(grad), out.shape[1]
    dh = _copied(grad_hidden, acc)
    for at, n in reversed(_steps(sizes, reverse)):
        _cells(rnn_grad_kernel, n * width, d_gates[at], dh, grad[at], out[at], n * width, RELU=relu, ACC=acc)
        product(dh[:n], d_gates[at], weight, None)
    copy(d_hidden, dh)
