"""Nests of tensors in pieces for several devices, and together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._device import device

__all__ = ["gather", "scatter"]


def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> Any:
    """A nest of containers for each device: every tensor's piece along ``dim`` there, all else as it is.

    There are as many as the tensor with the most pieces has, at most one for each device.
    """

    def pieces(value: Any) -> list[Any]:
        if isinstance(value, Tensor):
            parts = ops.chunk(value, len(target_gpus), dim)
            return [part.to(device(at)) for part, at in zip(parts, target_gpus, strict=False)]
        if isinstance(value, (tuple, list)) and value:
            rows = list(zip(*map(pieces, value), strict=False))
            if isinstance(value, list):
                return [list(row) for row in rows]
            return [type(value)(*row) for row in rows] if hasattr(value, "_fields") else rows
        if isinstance(value, dict) and value:
            rows = list(zip(*map(pieces, value.values()), strict=False))
            return [type(value)(zip(value, row, strict=True)) for row in rows]
        return [value] * len(target_gpus)

    found = pieces(inputs)
    return tuple(found) if isinstance(inputs, Tensor) else found


def gather(outputs: Sequence[Any], target_device: Any, dim: int = 0) -> Any:
    """The nests of ``scatter`` as one on a device: tensors joined along ``dim``, those without dims as a row."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return ops.cat([(t if t.dim() else t.unsqueeze(0)).to(device(target_device)) for t in outputs], dim)
    if isinstance(first, dict):
        return type(first)((k, gather([d[k] for d in outputs], target_device, dim)) for k in first)
    if isinstance(first, (tuple, list)):
        joined = [gather(parts, target_device, dim) for parts in zip(*outputs, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return first
