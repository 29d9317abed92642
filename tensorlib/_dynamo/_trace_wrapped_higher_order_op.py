"""Indexing by the indices that ``vmap`` hands to a function, which programs ask PyTorch's compiler for."""

from __future__ import annotations

from contextlib import nullcontext

__all__ = ["TransformGetItemToIndex"]


class TransformGetItemToIndex(nullcontext[None]):
    """Changes nothing: ``x[i]`` with a batched ``i`` is an indexed read under ``vmap`` anyway."""
