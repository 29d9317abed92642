"""MaxPool2d, AvgPool2d, AdaptiveAvgPool2d."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib._tensor import Tensor
from tensorlib.errors import ShapeError
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module
from tensorlib.ops import tensor as _tensor

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]


class MaxPool2d(Module):
    """The largest element of each window. (n, c, h, w) or (c, h, w) -> (n, c, h', w').

    h' = floor((h + 2 padding - dilation (kernel - 1) - 1) / stride + 1), ceil with ``ceil_mode``. ``stride`` is the
    kernel by default. ``return_indices``: also the flat positions of the maxima in each plane.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        """(n, c, h, w) -> (n, c, h', w')."""
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The window."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean of each window. (n, c, h, w) or (c, h, w) -> (n, c, h', w').

    ``count_include_pad``: padding counts in the divisor. ``divisor_override``: what to divide by instead.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h', w')."""
        return F.avg_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


@lru_cache(maxsize=64)
def _windows(size: int, out: int) -> np.ndarray[Any, Any]:
    """(out, size): row i averages the elements from floor(i size / out) up to ceil((i + 1) size / out)."""
    weights = np.zeros((out, size))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        weights[i, start:end] = 1 / (end - start)
    return weights


class AdaptiveAvgPool2d(Module):
    """Means over windows chosen so that the output is (…, output_size). None keeps a side as it is.

    A window of means in two dims is two small matrix products: rows, then columns.
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) or (c, h, w) -> (n, c, *output_size)."""
        if input.ndim not in (3, 4):
            raise ShapeError(
                f"AdaptiveAvgPool2d: input {tuple(input.shape)}: expected 3-D (c, h, w) or 4-D (n, c, h, w)"
            )
        size = self.output_size
        rows, columns = (size, size) if size is None or isinstance(size, int) else size
        if rows == 1 and columns == 1:
            return input.mean((-2, -1), keepdim=True)
        height, width = input.shape[-2:]
        out = input
        if rows is not None and rows != height:
            out = _tensor(_windows(height, rows), dtype=input.dtype, device=input.device) @ out
        if columns is not None and columns != width:
            out = out @ _tensor(_windows(width, columns).T, dtype=input.dtype, device=input.device)
        return out

    def extra_repr(self) -> str:
        """The output's size."""
        return f"output_size={self.output_size}"
