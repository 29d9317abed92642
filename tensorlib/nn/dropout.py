"""Dropout of elements and of whole channels."""

from __future__ import annotations

from tensorlib._core import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _DropoutNd(Module):
    """Active in training only."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """In training, zero each element with probability ``p`` and scale the rest by 1 / (1 - p). Any shape."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape; the input itself in evaluation mode."""
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_DropoutNd):
    """Dropout of whole channels: (n, c, l) or (c, l)."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape; the input itself in evaluation mode."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_DropoutNd):
    """Dropout of whole channels: (n, c, h, w). Tompson et al. 2015."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape; the input itself in evaluation mode."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_DropoutNd):
    """Dropout of whole channels: (n, c, d, h, w) or (c, d, h, w). Tompson et al. 2015."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape; the input itself in evaluation mode."""
        return F.dropout3d(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_DropoutNd):
    """AlphaDropout of whole channels: (n, c, …)."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape; the input itself in evaluation mode."""
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)


class AlphaDropout(_DropoutNd):
    """Dropout that keeps SELU's mean and variance. Any shape. Klambauer et al. 2017."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape; the input itself in evaluation mode."""
        return F.alpha_dropout(input, self.p, self.training, self.inplace)
