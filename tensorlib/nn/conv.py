"""Convolutions and transposed convolutions in one to three dims."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.ops import empty

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


def each(value: Any, dims: int) -> tuple[Any, ...]:
    """A number for each dim."""
    return tuple(value) if hasattr(value, "__iter__") else (value,) * dims


class _ConvNd(Module):
    """Arguments, weights and text of all convolutions."""

    _dims: int
    _function: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        transposed: bool,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
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
        dims = self._dims
        stride, kernel_size, dilation = each(stride, dims), each(kernel_size, dims), each(dilation, dims)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'same', 'valid'}}")
            if padding == "same" and any(s != 1 for s in stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
            total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel_size, strict=True)]
            borders = [(t // 2, t - t // 2) for t in total]
        else:
            padding = each(padding, dims)
            borders = [(p, p) for p in padding]
        modes = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(f"padding_mode must be one of {modes}, but got padding_mode='{padding_mode}'")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.transposed, self.output_padding, self.padding_mode = transposed, each(output_padding, dims), padding_mode
        # What F.pad takes: the last dim first.
        self._reversed_padding_repeated_twice = [n for low, high in reversed(borders) for n in (low, high)]
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = Parameter(empty((first, second // groups, *kernel_size), device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight, then bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
        if self.bias is not None and fan_in:
            bound = 1 / math.sqrt(fan_in)
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """Sizes and what differs from the defaults."""
        dims = len(self.kernel_size)
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * dims:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * dims:
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * dims:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else text + f", padding_mode={self.padding_mode}"


class _Conv(_ConvNd):
    """Convolutions, which differ in their number of dims."""

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
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, False, 0, groups, bias, padding_mode,
            device, dtype,
        )  # fmt: skip

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function, padding = type(self)._function, self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return function(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        """(n, in, …) or (in, …) -> (n, out, …')."""
        return self._conv_forward(input, self.weight, self.bias)


class Conv1d(_Conv):
    """Cross-correlation in one dim. input (n, in, l) or (in, l) -> (n, out, l').

    l' = floor((l + 2 padding - dilation (kernel - 1) - 1) / stride + 1). weight (out, in / groups, k) and bias (out,),
    both from U(-b, b) with b = 1 / sqrt(in / groups k). padding: an int, ``'valid'`` or ``'same'`` (stride 1 only),
    with zeros or, as ``padding_mode`` says, ``'reflect'``, ``'replicate'`` or ``'circular'``.
    """

    _dims = 1
    _function = staticmethod(F.conv1d)


class Conv2d(_Conv):
    """Cross-correlation in two dims. input (n, in, h, w) or (in, h, w) -> (n, out, h', w').

    h' = floor((h + 2 padding - dilation (kernel - 1) - 1) / stride + 1). weight (out, in / groups, kh, kw) and bias
    (out,), both from U(-b, b) with b = 1 / sqrt(in / groups kh kw). padding: ints, ``'valid'`` or ``'same'`` (stride 1
    only), with zeros or, as ``padding_mode`` says, ``'reflect'``, ``'replicate'`` or ``'circular'``.
    """

    _dims = 2
    _function = staticmethod(F.conv2d)


class Conv3d(_Conv):
    """Cross-correlation in three dims. input (n, in, d, h, w) or (in, d, h, w) -> (n, out, d', h', w').

    weight (out, in / groups, kd, kh, kw) and bias (out,), both from U(-b, b) with b = 1 / sqrt(in / groups kd kh kw).
    Sizes and ``padding_mode`` as for ``Conv2d``.
    """

    _dims = 3
    _function = staticmethod(F.conv3d)


class _ConvTransposeNd(_ConvNd):
    """Transposed convolutions, which differ in their number of dims."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, True, output_padding, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def _output_padding(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """What to add to the smallest size so that the output is of ``output_size``."""
        if output_size is None:
            return self.output_padding
        dims = self._dims
        lead = input.ndim - dims
        size = list(output_size)
        if len(size) == lead + dims:
            size = size[lead:]
        if len(size) != dims:
            raise ValueError(
                f"ConvTranspose{dims}D: for {input.ndim}D input, output_size must have {dims} or {lead + dims} "
                f"elements (got {len(size)})"
            )
        given = zip(input.shape[lead:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in given]
        most = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
        if any(n < low or n > high for n, low, high in zip(size, least, most, strict=True)):
            raise ValueError(
                f"requested an output size of {size}, but valid sizes range from {least} to {most} (for an input of "
                f"{list(input.shape[lead:])})"
            )
        return tuple(n - low for n, low in zip(size, least, strict=True))

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(n, in, …) or (in, …) -> (n, out, …'). ``output_size``: one of the possible sizes, n and out or not."""
        padding = self._output_padding(input, output_size)
        return type(self)._function(
            input, self.weight, self.bias, self.stride, self.padding, padding, self.groups, self.dilation
        )


class ConvTranspose1d(_ConvTransposeNd):
    """The adjoint of ``Conv1d`` in its input. input (n, in, l) or (in, l) -> (n, out, l').

    l' = (l - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1. weight (in, out / groups, k) and bias
    (out,), both from U(-b, b) with b = 1 / sqrt(out / groups k).
    """

    _dims = 1
    _function = staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTransposeNd):
    """The adjoint of ``Conv2d`` in its input. input (n, in, h, w) or (in, h, w) -> (n, out, h', w').

    h' = (h - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1. weight (in, out / groups, kh, kw) and
    bias (out,), both from U(-b, b) with b = 1 / sqrt(out / groups kh kw).
    """

    _dims = 2
    _function = staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTransposeNd):
    """The adjoint of ``Conv3d`` in its input. input (n, in, d, h, w) or (in, d, h, w) -> (n, out, d', h', w').

    Sizes as for ``ConvTranspose2d``. weight (in, out / groups, kd, kh, kw) and bias (out,), both from U(-b, b) with
    b = 1 / sqrt(out / groups kd kh kw).
    """

    _dims = 3
    _function = staticmethod(F.conv_transpose3d)
