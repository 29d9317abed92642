"""Linear, Bilinear, Identity."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._array import DeviceArray
from tensorlib._core import Tensor, modes
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module, uncalled
from tensorlib.nn.parameter import Parameter
from tensorlib.ops import empty

__all__ = ["Bilinear", "Identity", "Linear"]

#: Activations that a product's kernel applies to what it stores, by the function that a layer calls.
_IN_KERNEL = {F.relu: "relu", F.gelu: "gelu", F.silu: "silu"}


def activated(layer: Module, activation: Any, input: Any) -> Any:
    """activation(layer(input)), in one kernel where that is possible; activation: a function of `nn.functional`."""
    name = _IN_KERNEL.get(activation)
    if name is not None and in_one_kernel(layer, input):
        return F.linear_activation(input, layer.weight, layer.bias, name)
    return activation(layer(input))


def in_one_kernel(layer: Any, input: Any) -> bool:
    """Whether a layer and the activation after it are one kernel: a plain `Linear` on a device, with no hooks."""
    return (
        type(layer) is Linear
        and type(getattr(input, "_array", None)) is DeviceArray
        and (modes.autocast is not None or input.dtype == layer.weight.dtype)
        and input.is_floating_point()
        and uncalled(layer)
    )


class Identity(Module):
    """The input. Takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """input -> input."""
        return input


class Linear(Module):
    """x W^T + b. input (…, in_features) -> (…, out_features); weight (out_features, in_features), bias (out_features,).

    Both are drawn from U(-k, k) with k = 1 / sqrt(in_features).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(empty((out_features, in_features), device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight, then bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features)."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class NonDynamicallyQuantizableLinear(Linear):
    """Linear, by the name that PyTorch prints for ``MultiheadAttention.out_proj``."""


class Bilinear(Module):
    """y_k = x1^T W_k x2 + b_k. input1 (…, in1), input2 (…, in2) -> (…, out); weight (out, in1, in2), bias (out,)."""

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got {in1_features}")
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = Parameter(empty((out_features, in1_features, in2_features), device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight, then bias, from U(-k, k) with k = 1 / sqrt(in1)."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """(…, in1), (…, in2) -> (…, out)."""
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes."""
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
