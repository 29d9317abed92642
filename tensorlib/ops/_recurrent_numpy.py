"""Recurrent layers in NumPy: one loop over time, everything within a step vectorised over the batch.

Rows are packed as in PyTorch's PackedSequence: step t holds the next element of the first ``sizes[t]`` sequences, which
come in falling order of length. Backwards, a sequence joins at its last element.

Gates lie side by side in a row, so that what is done to one alone runs over short pieces of memory. What can be done to
all of them at once therefore is: sigmoid(x) = (1 + tanh(x / 2)) / 2 makes every gate a tanh between two scalings.
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


def _most(sizes: Sequence[int]) -> int:
    return max(sizes, default=0)


def _blocks(a: Array, width: int) -> list[Array]:
    """The gates of a row."""
    return [a[:, k : k + width] for k in range(0, a.shape[1], width)]


def _scale(gates: str, width: int, dtype: Any) -> Array:
    """For each column 1/2 where the gate is a sigmoid ("s"), 1 where it is a tanh."""
    return np.repeat(np.array([0.5 if gate == "s" else 1.0 for gate in gates], dtype), width)


def lstm(
    gates: Array, hidden: Array, cell: Array, weight: Array, projection: Array | None, sizes: Any, reverse: bool
) -> tuple[Array, ...]:
    """(out, last hidden, last cell, activations, cells before each step, tanh of those after, hiddens before)."""
    rows, width, dtype = gates.shape[0], cell.shape[1], gates.dtype
    h, c = hidden.copy(), cell.copy()
    out, before = np.empty((rows, h.shape[1]), dtype), np.empty((rows, h.shape[1]), dtype)
    cells, tanhs = np.empty((rows, width), dtype), np.empty((rows, width), dtype)
    scale = _scale("ssts", width, dtype)
    shift = 1 - scale
    activations = gates * scale
    turned = np.multiply(weight.T, scale, order="C")
    back = None if projection is None else np.ascontiguousarray(projection.T)
    own, raw = np.empty((_most(sizes), 4 * width), dtype), np.empty((_most(sizes), width), dtype)
    for at, n in steps(sizes, reverse):
        a, x, now, t = activations[at], raw[:n], c[:n], tanhs[at]
        before[at], cells[at] = h[:n], now
        a += np.matmul(h[:n], turned, out=own[:n])
        np.tanh(a, out=a)
        a *= scale
        a += shift
        i, f, g, o = _blocks(a, width)
        now *= f
        now += np.multiply(i, g, out=x)
        np.tanh(now, out=t)
        if back is None:
            np.multiply(t, o, out=out[at])
        else:
            np.matmul(np.multiply(t, o, out=x), back, out=out[at])
        h[:n] = out[at]
    return out, h, c, activations, cells, tanhs, before


def lstm_grad(
    grad: Array, grad_hidden: Array, grad_cell: Array, activations: Array, cells: Array, tanhs: Array, weight: Array,
    projection: Array | None, sizes: Any, reverse: bool,
) -> tuple[Array, ...]:  # fmt: skip
    """(gradient of gates, of hidden, of cell, of the hiddens after each step)."""
    width, dtype = cells.shape[1], grad.dtype
    dh, dc = grad_hidden.copy(), grad_cell.copy()
    total, d_gates = np.empty(grad.shape, dtype), np.empty(activations.shape, dtype)
    scratch, raw = np.empty((_most(sizes), width), dtype), np.empty((_most(sizes), width), dtype)
    for at, n in reversed(list(steps(sizes, reverse))):
        a, d, t, x, now = activations[at], d_gates[at], tanhs[at], scratch[:n], dc[:n]
        i, f, g, o = _blocks(a, width)
        d_i, d_f, d_g, d_o = _blocks(d, width)
        draw = np.add(dh[:n], grad[at], out=total[at])
        if projection is not None:
            draw = np.matmul(draw, projection, out=raw[:n])
        # The slopes of the gates: a - a^2 of a sigmoid, 1 - a^2 of a tanh.
        np.multiply(a, a, out=d)
        np.subtract(a[:, : 2 * width], d[:, : 2 * width], out=d[:, : 2 * width])
        np.subtract(1, d_g, out=d_g)
        np.subtract(o, d_o, out=d_o)
        np.multiply(t, t, out=x)
        np.subtract(1, x, out=x)
        x *= draw
        x *= o
        now += x
        d_o *= np.multiply(draw, t, out=x)
        d_i *= np.multiply(now, g, out=x)
        d_f *= np.multiply(now, cells[at], out=x)
        d_g *= np.multiply(now, i, out=x)
        now *= f
        np.matmul(d, weight, out=dh[:n])
    return d_gates, dh, dc, total


def gru(
    gates: Array, hidden: Array, weight: Array, bias: Array | None, sizes: Any, reverse: bool
) -> tuple[Array, ...]:
    """(out, last hidden, activations r z n, what r multiplies, hiddens before each step)."""
    rows, width, dtype = gates.shape[0], hidden.shape[1], gates.dtype
    h = hidden.copy()
    out, before, inner = (np.empty((rows, width), dtype) for _ in range(3))
    scale = _scale("sst", width, dtype)
    activations = gates * scale
    turned = np.multiply(weight.T, scale, order="C")
    bias = None if bias is None else bias * scale
    own, scratch = np.empty((_most(sizes), 3 * width), dtype), np.empty((_most(sizes), width), dtype)
    for at, n in steps(sizes, reverse):
        a, from_h, now, x = activations[at], own[:n], h[:n], scratch[:n]
        before[at] = now
        np.matmul(now, turned, out=from_h)
        if bias is not None:
            from_h += bias
        inner[at] = from_h[:, 2 * width :]
        r, z, new = _blocks(a, width)
        r_and_z = a[:, : 2 * width]
        r_and_z += from_h[:, : 2 * width]
        np.tanh(r_and_z, out=r_and_z)
        r_and_z *= 0.5
        r_and_z += 0.5
        new += np.multiply(r, inner[at], out=x)
        np.tanh(new, out=new)
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
    width, dtype = before.shape[1], grad.dtype
    dh = grad_hidden.copy()
    d_gates, d_own = (np.empty(activations.shape, dtype) for _ in range(2))
    first, second = (np.empty((_most(sizes), width), dtype) for _ in range(2))
    for at, n in reversed(list(steps(sizes, reverse))):
        r, z, new = _blocks(activations[at], width)
        d, own, now, x, y = d_gates[at], d_own[at], dh[:n], first[:n], second[:n]
        d_r, d_z, d_new = _blocks(d, width)
        now += grad[at]
        np.subtract(1, z, out=y)
        np.subtract(before[at], new, out=x)
        x *= now
        x *= z
        np.multiply(x, y, out=d_z)
        y *= now
        np.multiply(new, new, out=x)
        np.subtract(1, x, out=x)
        x *= y
        d_new[...] = x
        np.multiply(x, r, out=own[:, 2 * width :])
        x *= inner[at]
        x *= r
        np.subtract(1, r, out=y)
        np.multiply(x, y, out=d_r)
        own[:, : 2 * width] = d[:, : 2 * width]
        now *= z
        now += np.matmul(own, weight, out=x)
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
        y, d, now = out[at], d_gates[at], dh[:n]
        now += grad[at]
        if relu:
            np.multiply(now, y > 0, out=d)
        else:
            np.multiply(y, y, out=d)
            np.subtract(1, d, out=d)
            d *= now
        np.matmul(d, weight, out=now)
    return d_gates, dh
