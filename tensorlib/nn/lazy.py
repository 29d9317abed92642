"""Layers that learn how many inputs they have from the first one they see."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.errors import ShapeError
from tensorlib.nn.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from tensorlib.nn.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from tensorlib.nn.linear import Linear
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

__all__ = ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv1d", "LazyConv2d", "LazyConv3d",
           "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d", "LazyInstanceNorm1d",
           "LazyInstanceNorm2d", "LazyInstanceNorm3d", "LazyLinear", "LazyModuleMixin"]  # fmt: skip


class LazyModuleMixin:
    """A module some of whose parameters are uninitialised until its first forward, when it becomes ``cls_to_become``.

    A subclass makes them ``UninitializedParameter`` and gives them shapes in ``initialize_parameters(*inputs)``.
    Loading a state_dict gives them the shapes it holds.
    """

    cls_to_become: type[Module] | None = None

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._load_hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._initialize_hook = self.register_forward_pre_hook(self._infer_parameters, with_kwargs=True)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Give the uninitialised parameters shapes that fit these inputs of ``forward``."""
        raise TypeError(f"{type(self).__name__} does not define initialize_parameters()")

    def has_uninitialized_params(self: Any) -> bool:
        """Whether a parameter or buffer of this module has no shape yet."""
        return any(is_lazy(v) for v in (*self._parameters.values(), *self._buffers.values()))

    def _lazy_load_hook(self: Any, state_dict: Any, prefix: str, *_: Any) -> None:
        for name, value in (*self._parameters.items(), *self._buffers.items()):
            found = state_dict.get(prefix + name)
            if is_lazy(value) and found is not None and not is_lazy(found):
                with no_grad():
                    value.materialize(found.shape)

    def _infer_parameters(self: Any, module: Any, args: Any, kwargs: Any) -> None:
        self.initialize_parameters(*args, **kwargs)
        if self.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        self._initialize_hook.remove()
        self._load_hook.remove()
        del self._initialize_hook, self._load_hook
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become

    def _forget_shapes(self: Any) -> None:
        """Make every parameter and buffer uninitialised that depends on the number of inputs."""
        for name in ("weight", "bias"):
            value = self._parameters.get(name)
            if value is not None:
                self._parameters[name] = UninitializedParameter(value.requires_grad, value.device, value.dtype)
        for name in ("running_mean", "running_var"):
            value = self._buffers.get(name)
            if value is not None:
                self._buffers[name] = UninitializedBuffer(False, value.device, value.dtype)


def _checked(module: Any, input: Any) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{module._get_name()}(): argument 'input' must be Tensor, not {type(input).__name__}")


class LazyLinear(LazyModuleMixin, Linear):
    """A Linear whose ``in_features`` are those of the first input."""

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(0, out_features, bias, device, dtype)
        self._forget_shapes()

    def reset_parameters(self) -> None:
        """Draw weight and bias, once they have shapes."""
        if not self.has_uninitialized_params() and self.in_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Shapes for inputs (…, in_features)."""
        _checked(self, input)
        if self.in_features == 0:
            self.in_features = input.shape[-1]
        if self.has_uninitialized_params():
            with no_grad():
                weight: Any = self.weight
                bias: Any = self.bias
                weight.materialize((self.out_features, self.in_features))
                if bias is not None:
                    bias.materialize((self.out_features,))
                self.reset_parameters()


class _LazyConvXdMixin(LazyModuleMixin):
    """What lazy convolutions share. Arguments are the convolution's own without ``in_channels``."""

    def __init__(self: Any, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(0, out_channels, *args, **kwargs)
        self._forget_shapes()

    def reset_parameters(self: Any) -> None:
        """Draw weight and bias, once they have shapes."""
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()  # type: ignore[misc]

    def initialize_parameters(self: Any, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """Shapes for inputs (n, in_channels, …) or (in_channels, …)."""
        _checked(self, input)
        dims = len(self.kernel_size)
        if input.ndim not in (dims + 1, dims + 2):
            raise RuntimeError(
                f"Expected {dims + 1}D (unbatched) or {dims + 2}D (batched) input to {type(self).__name__}, but got "
                f"input of size: {tuple(input.shape)}"
            )
        if self.in_channels == 0:
            self.in_channels = input.shape[input.ndim - dims - 1]
            if self.in_channels % self.groups:
                raise ValueError("in_channels must be divisible by groups")
        if self.has_uninitialized_params():
            first, second = self.in_channels, self.out_channels
            if not self.transposed:
                first, second = second, first
            with no_grad():
                self.weight.materialize((first, second // self.groups, *self.kernel_size))
                if self.bias is not None:
                    self.bias.materialize((self.out_channels,))
                self.reset_parameters()


class _LazyNormBase(LazyModuleMixin):
    """What lazy norms share. Arguments are the norm's own without ``num_features``."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(0, *args, **kwargs)
        self._forget_shapes()

    def reset_parameters(self: Any) -> None:
        """Ones and zeros, once there are shapes."""
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()  # type: ignore[misc]

    def initialize_parameters(self: Any, input: Tensor) -> None:
        """Shapes for inputs (n, num_features, …), of instance norms (num_features, …) as well."""
        _checked(self, input)
        if hasattr(self, "_check_input_dim"):
            self._check_input_dim(input)
        if self.num_features == 0:
            unbatched = input.ndim == getattr(self, "_without_batch", -1)
            if input.ndim < 1 + (not unbatched):
                raise ShapeError(f"{self._get_name()}: expected (n, c, …), got an input of shape {tuple(input.shape)}")
            self.num_features = input.shape[0 if unbatched else 1]
        if self.has_uninitialized_params():
            with no_grad():
                for value in (*self._parameters.values(), *self._buffers.values()):
                    if is_lazy(value):
                        value.materialize((self.num_features,))
                self.reset_parameters()


def _lazy(mixin: type, base: type[Module], what: str) -> Any:
    doc = f"A {base.__name__} whose {what} are those of the first input; its other arguments are the same."
    name = f"Lazy{base.__name__}"
    return type(name, (mixin, base), {"cls_to_become": base, "__doc__": doc, "__module__": __name__})


LazyConv1d = _lazy(_LazyConvXdMixin, Conv1d, "in_channels")
LazyConv2d = _lazy(_LazyConvXdMixin, Conv2d, "in_channels")
LazyConv3d = _lazy(_LazyConvXdMixin, Conv3d, "in_channels")
LazyConvTranspose1d = _lazy(_LazyConvXdMixin, ConvTranspose1d, "in_channels")
LazyConvTranspose2d = _lazy(_LazyConvXdMixin, ConvTranspose2d, "in_channels")
LazyConvTranspose3d = _lazy(_LazyConvXdMixin, ConvTranspose3d, "in_channels")
LazyBatchNorm1d = _lazy(_LazyNormBase, BatchNorm1d, "num_features")
LazyBatchNorm2d = _lazy(_LazyNormBase, BatchNorm2d, "num_features")
LazyBatchNorm3d = _lazy(_LazyNormBase, BatchNorm3d, "num_features")
LazyInstanceNorm1d = _lazy(_LazyNormBase, InstanceNorm1d, "num_features")
LazyInstanceNorm2d = _lazy(_LazyNormBase, InstanceNorm2d, "num_features")
LazyInstanceNorm3d = _lazy(_LazyNormBase, InstanceNorm3d, "num_features")
