"""Recurrent layers in NumPy: one loop over time, everything within a step vectorised over the batch.

Rows are packed as in PyTorch's PackedSequence: step t holds the next element of the first ``sizes[t]`` sequences, which
come in falling order of length. Backwards, a sequence joins at its last element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def steps(sizes: Sequence[int], reverse: bool) -> Iterator[tuple[slice, int]]:
    """(rows of the step, how many) in the order of computation."""
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    order = range(len(sizes) - 1, -1, -1) if reverse else range(len(sizes))
    return ((slice(starts[t], starts[t] + sizes[t]), sizes[t]) for t in order)


def _sigmoid(x: Array) -> Array:
    """In place: (tanh(x / 2) + 1) / 2."""
    x *= 0.5
    np.tanh(x, out=x)
    x += 1
    x *= 0.5
    return x


def lstm(
    gates: Array, hidden: Array, cell: Array, weight: Array, projection: Array | None, sizes: Any, reverse: bool
) -> tuple[Array, ...]:
    """(out, last hidden, last cell, activations, cells before each step, hiddens before each step)."""
    rows, width = gates.shape[0], cell.shape[1]
    h, c = hidden.copy(), cell.copy()
    out, before = (np.empty((rows, h.shape[1]), gates.dtype) for _ in range(2))
    cells, activations = np.empty((rows, width), gates.dtype), np.empty(gates.shape, gates.dtype)
    turned = np.ascontiguousarray(weight.T)
    back = None if projection is None else np.ascontiguousarray(projection.T)
    for at, n in steps(sizes, reverse):
        a = activations[at]
        before[at], cells[at] = h[:n], c[:n]
        np.matmul(h[:n], turned, out=a)
        a += gates[at]
        _sigmoid(a[:, : 2 * width])
        np.tanh(a[:, 2 * width : 3 * width], out=a[:, 2 * width : 3 * width])
        _sigmoid(a[:, 3 * width :])
        i, f, g, o = (a[:, k * width : (k + 1) * width] for k in range(4))
        now = c[:n]
        now *= f
        now += i * g
        raw = np.tanh(now)
        raw *= o
        h[:n] = raw if back is None else raw @ back
        out[at] = h[:n]
    return out, h, c, activations, cells, before


def lstm_grad(
    grad: Array, grad_hidden: Array, grad_cell: Array, activations: Array, cells: Array, weight: Array,
    projection: Array | None, sizes: Any, reverse: bool,
) -> tuple[Array, ...]:  # fmt: skip
    """(gradient of gates, of hidden, of cell, of the hiddens after each step)."""
    width = cells.shape[1]
    dh, dc = grad_hidden.copy(), grad_cell.copy()
    total, d_gates = np.empty(grad.shape, grad.dtype), np.empty(activations.shape, grad.dtype)
    for at, n in reversed(list(steps(sizes, reverse))):
        i, f, g, o = (activations[at, k * width : (k + 1) * width] for k in range(4))
        before, d = cells[at], d_gates[at]
        np.add(dh[:n], grad[at], out=total[at])
        draw = total[at] if projection is None else total[at] @ projection
        t = np.tanh(f * before + i * g)
        now = dc[:n]
        now += draw * o * (1 - t * t)
        d[:, :width] = now * g * i * (1 - i)
        d[:, width : 2 * width] = now * before * f * (1 - f)
        d[:, 2 * width : 3 * width] = now * i * (1 - g * g)
        d[:, 3 * width :] = draw * t * o * (1 - o)
        now *= f
        np.matmul(d, weight, out=dh[:n])
    return d_gates, dh, dc, total


def gru(
    gates: Array, hidden: Array, weight: Array, bias: Array | None, sizes: Any, reverse: bool
) -> tuple[Array, ...]:
    """(out, last hidden, activations r z n, what r multiplies, hiddens before each step)."""
    rows, width = gates.shape[0], hidden.shape[1]
    h = hidden.copy()
    out, before, inner = (np.empty((rows, width), gates.dtype) for _ in range(3))
    activations = np.empty(gates.shape, gates.dtype)
    turned = np.ascontiguousarray(weight.T)
    for at, n in steps(sizes, reverse):
        a = activations[at]
        before[at] = h[:n]
        np.matmul(h[:n], turned, out=a)
        if bias is not None:
            a += bias
        inner[at] = a[:, 2 * width :]
        a[:, : 2 * width] += gates[at, : 2 * width]
        _sigmoid(a[:, : 2 * width])
        r, z, new = (a[:, k * width : (k + 1) * width] for k in range(3))
        np.multiply(r, inner[at], out=new)
        new += gates[at, 2 * width :]
        np.tanh(new, out=new)
        now = h[:n]
        now -= new
        now *= z
        now += new
        out[at] = now
    return out, h, activations, inner, before


def gru_grad(
    grad: Array, grad_hidden: Array, activations: Array, inner: Array, before: Array, weight: Array, sizes: Any,
    reverse: bool,
) -> tuple[Array, ...]:  # fmt: skip
    """(gradient of gates, of what the hidden state gives to them, of hidden)."""
    width = before.shape[1]
    dh = grad_hidden.copy()
    d_gates, d_own = (np.empty(activations.shape, grad.dtype) for _ in range(2))
    for at, n in reversed(list(steps(sizes, reverse))):
        r, z, new = (activations[at, k * width : (k + 1) * width] for k in range(3))
        d, own = d_gates[at], d_own[at]
        now = dh[:n]
        now += grad[at]
        d_new = now * (1 - z) * (1 - new * new)
        d[:, 2 * width :] = d_new
        d[:, :width] = d_new * inner[at] * r * (1 - r)
        d[:, width : 2 * width] = now * (before[at] - new) * z * (1 - z)
        own[:, : 2 * width] = d[:, : 2 * width]
        own[:, 2 * width :] = d_new * r
        now *= z
        now += own @ weight
    return d_gates, d_own, dh


def rnn(gates: Array, hidden: Array, weight: Array, relu: bool, sizes: Any, reverse: bool) -> tuple[Array, ...]:
    """(out, last hidden, hiddens before each step)."""
    rows, width = gates.shape[0], hidden.shape[1]
    h = hidden.copy()
    out, before = (np.empty((rows, width), gates.dtype) for _ in range(2))
    turned = np.ascontiguousarray(weight.T)
    for at, n in steps(sizes, reverse):
        before[at] = h[:n]
        now = out[at]
        np.matmul(h[:n], turned, out=now)
        now += gates[at]
        if relu:
            np.maximum(now, 0, out=now)
        else:
            np.tanh(now, out=now)
        h[:n] = now
    return out, h, before


def rnn_grad(
    grad: Array, grad_hidden: Array, out: Array, weight: Array, relu: bool, sizes: Any, reverse: bool
) -> tuple[Array, Array]:
    """(gradient of gates, of hidden)."""
    dh, d_gates = grad_hidden.copy(), np.empty(out.shape, grad.dtype)
    for at, n in reversed(list(steps(sizes, reverse))):
        y = out[at]
        np.multiply(dh[:n] + grad[at], (y > 0) if relu else 1 - y * y, out=d_gates[at])
        np.matmul(d_gates[at], weight, out=dh[:n])
    return d_gates, dh
