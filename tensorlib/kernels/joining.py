"""Joining: one strided copy for each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib._array import DeviceArray
from tensorlib.kernels import create, pointwise


def cat(out: DeviceArray, tensors: Sequence[DeviceArray], dim: int) -> None:
    """out = the tensors one behind the other along ``dim``. Reads and writes each element once."""
    at = 0
    for x in tensors:
        if x.ndim != out.ndim:  # an empty 1-D tensor joins anything
            continue
        n = x.shape[dim]
        pointwise.copy(out[(slice(None),) * dim + (slice(at, at + n),)], x)
        at += n


def stack(out: DeviceArray, tensors: Sequence[DeviceArray], dim: int) -> None:
    """out = the tensors beside each other along a new dimension. Reads and writes each element once."""
    for i, x in enumerate(tensors):
        pointwise.copy(out[(slice(None),) * dim + (i,)], x)


def pad(out: DeviceArray, input: DeviceArray, pad: Sequence[int], value: Any) -> None:
    """out = input with a border of ``value``; negative widths cut. Writes the border twice at most."""
    create.full(out, out.shape, value, out.dtype, out.device)
    to, source = inside(input.shape, pad)
    if all(s.stop > s.start for s in to):
        pointwise.copy(out[to], input[source])


def inside(shape: Sequence[int], pad: Any) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(where the input lies in the output, which part of it lies there); pad is (low, high) from the last dim."""
    to, source = [], []
    for d, n in enumerate(shape):
        k = len(shape) - 1 - d
        low, high = (pad[2 * k], pad[2 * k + 1]) if 2 * k < len(pad) else (0, 0)
        first, last = max(-low, 0), n - max(-high, 0)
        source.append(slice(first, max(last, first)))
        to.append(slice(max(low, 0), max(low, 0) + max(last - first, 0)))
    return tuple(to), tuple(source)
