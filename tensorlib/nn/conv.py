"""Conv1d and Conv2d."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._core import Tensor
from tensorlib.errors import ArgumentError
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.ops import empty

__all__ = ["Conv1d", "Conv2d"]


class _Conv(Module):
    """Arguments, weights and text of the convolutions, which differ in their number of dims."""

    _dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode != "zeros":
            raise ArgumentError(
                f"{self._get_name()}: padding_mode={padding_mode!r}: expected 'zeros'; pad the input with F.pad first"
            )
        stride = self._each(stride)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'same', 'valid'}}")
            if padding == "same" and any(s != 1 for s in stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = self._each(kernel_size), stride, self._each(dilation)
        self.padding = padding if isinstance(padding, str) else self._each(padding)
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _each(self, value: Any) -> tuple[int, ...]:
        """A number for each dim."""
        return (value,) * self._dims if isinstance(value, int) else tuple(value)

    def reset_parameters(self) -> None:
        """Draw weight, then bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
        if self.bias is not None and fan_in:
            bound = 1 / math.sqrt(fan_in)
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """Sizes and what differs from the defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._dims:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._dims:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Conv):
    """Cross-correlation in one dim. input (n, in, l) or (in, l) -> (n, out, l').

    l' = floor((l + 2 padding - dilation (kernel - 1) - 1) / stride + 1). weight (out, in / groups, k) and bias (out,),
    both from U(-b, b) with b = 1 / sqrt(in / groups k). padding: an int, ``'valid'`` or ``'same'`` (stride 1 only),
    with zeros.
    """

    _dims = 1

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, l) -> (n, out, l')."""
        return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Cross-correlation in two dims. input (n, in, h, w) or (in, h, w) -> (n, out, h', w').

    h' = floor((h + 2 padding - dilation (kernel - 1) - 1) / stride + 1). weight (out, in / groups, kh, kw) and bias
    (out,), both from U(-b, b) with b = 1 / sqrt(in / groups kh kw). padding: ints, ``'valid'`` or ``'same'`` (stride 1
    only), with zeros.
    """

    _dims = 2

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h', w')."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
