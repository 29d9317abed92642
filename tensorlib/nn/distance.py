"""Distances and similarities between the rows of two tensors."""

from __future__ import annotations

from tensorlib._core import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class PairwiseDistance(Module):
    """||x1 - x2 + eps||_p along the last dimension: (n, d), (n, d) -> (n,), or (n, 1) with ``keepdim``."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """(n, d), (n, d) -> (n,)."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """x1 x2 / (max(||x1||, eps) max(||x2||, eps)) along ``dim``, which goes."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Two tensors of one shape -> that shape without ``dim``."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)
