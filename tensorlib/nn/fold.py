"""Sliding blocks of images, and their sum."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module

__all__ = ["Fold", "Unfold"]


class Fold(Module):
    """Blocks summed where they lay: (n, c kh kw, l) or (c kh kw, l) -> (n, c, h, w) or (c, h, w)."""

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """(n, c kh kw, l) -> (n, c, h, w)."""
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Sizes and steps."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


class Unfold(Module):
    """Sliding blocks as columns: (n, c, h, w) or (c, h, w) -> (n, c kh kw, l) or (c kh kw, l)."""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c kh kw, l)."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Sizes and steps."""
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        )
