"""Flattening of tensors, under the private names by which programs for many processes import it from PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import dtype


def _element_size(dtype: dtype) -> int:
    """Bytes of an element."""
    return dtype.itemsize


def _flatten_dense_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """All elements as one row; the tensors must be of one dtype."""
    return ops.cat([t.contiguous().view(-1) for t in tensors]) if len(tensors) != 1 else tensors[0].reshape(-1)


def _unflatten_dense_tensors(flat: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The row as tensors of the shapes of ``tensors``: views of it."""
    parts = flat.split([t.numel() for t in tensors])
    return tuple(part.view(t.shape) for part, t in zip(parts, tensors, strict=True))
