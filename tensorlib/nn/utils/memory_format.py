"""Weights of convolutions in another memory format."""

from __future__ import annotations

from typing import Any, TypeVar

from tensorlib.autograd import no_grad
from tensorlib.nn.conv import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d
from tensorlib.nn.module import Module

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]

T = TypeVar("T", bound=Module)


def _convert(module: T, kinds: tuple[type[Module], ...], memory_format: Any) -> T:
    for each in module.modules():
        if isinstance(each, kinds):
            weight: Any = each.weight
            with no_grad():
                weight.data = weight.detach().clone().contiguous(memory_format=memory_format)
    return module


def convert_conv2d_weight_memory_format(module: T, memory_format: Any) -> T:
    """Give the weights of all 2-d convolutions, transposed ones too, this memory format."""
    return _convert(module, (Conv2d, ConvTranspose2d), memory_format)


def convert_conv3d_weight_memory_format(module: T, memory_format: Any) -> T:
    """Give the weights of all 3-d convolutions, transposed ones too, this memory format."""
    return _convert(module, (Conv3d, ConvTranspose3d), memory_format)
