"""Collectives that gradients flow through, of one process: they give what they got."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.distributed import ReduceOp, _group

__all__ = ["all_gather", "all_reduce", "broadcast", "reduce"]


def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The tensor: the sum, mean, product and extremum of itself."""
    _group()
    return tensor


def reduce(tensor: Tensor, dst: int, op: Any = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The tensor."""
    _group()
    return tensor


def broadcast(tensor: Tensor, src: int, group: Any = None) -> Tensor:
    """The tensor."""
    _group()
    return tensor


def all_gather(tensor: Tensor, group: Any = None) -> tuple[Tensor, ...]:
    """The tensor, as a tuple of one."""
    _group()
    return (tensor,)
