"""Gathering from and scattering to addresses that indices give."""

from __future__ import annotations

from typing import Any

from tensorlib._array import DeviceArray
from tensorlib.kernels import create, pointwise


def slice_grad(out: DeviceArray, g: DeviceArray, shape: Any, index: Any) -> None:
    """out = zeros with g at a basic index."""
    create.full(out, shape, 0, out.dtype, out.device)
    pointwise.copy(out[index], g)


def diagonal_grad(*a): ...
def as_strided_grad(*a): ...
def unfold_grad(*a): ...
