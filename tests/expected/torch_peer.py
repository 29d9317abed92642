"""PyTorch beside tensorlib: arguments and results converted, and PyTorch as a peer of tensorlib.testing.peers.

Imported by what runs with PyTorch at hand: make.py here and tools/compare_with_pytorch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch

import tensorlib
from tensorlib._dtypes import OF_NUMPY

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = {np.dtype(getattr(ml_dtypes, name)): getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2")}


def to_torch(x: Any) -> Any:
    """An argument as PyTorch takes it."""
    if isinstance(x, np.ndarray):
        strided = np.lib.stride_tricks.as_strided
        if x.size and any(s < 0 for s in x.strides):
            x = x.copy()
        if x.dtype == BFLOAT16:
            raw = x.view(np.uint16)
            return torch.from_numpy(_writable(raw, strided)).view(torch.bfloat16)
        if x.dtype in FLOAT8:
            return torch.from_numpy(_writable(x.view(np.uint8), strided)).view(FLOAT8[x.dtype])
        return torch.from_numpy(_writable(x, strided))
    if isinstance(x, list):
        return [to_torch(v) for v in x]
    if isinstance(x, np.dtype):
        return getattr(torch, OF_NUMPY[x].name)
    if isinstance(x, tensorlib.dtype):
        return getattr(torch, x.name)
    if isinstance(x, tensorlib.device):
        return torch.device(str(x))
    if isinstance(x, tensorlib.Tensor):
        return to_torch(x.numpy())
    if isinstance(x, tuple):
        return tuple(to_torch(v) for v in x)
    return x


def _writable(x: np.ndarray, strided: Callable[..., Any]) -> np.ndarray:
    """The same strides over memory that may be written; a broadcast array stays one."""
    if x.flags.writeable:
        return x
    base = np.array(x[tuple(slice(0, 1) if s == 0 else slice(None) for s in x.strides)])
    return np.broadcast_to(base, x.shape) if base.shape != x.shape else base


def to_numpy(t: Any) -> np.ndarray:
    """A result as an array of the same dtype."""
    if not isinstance(t, torch.Tensor):
        return np.asarray(t)
    t = t.detach()
    for ours, theirs in FLOAT8.items():
        if t.dtype == theirs:
            return t.view(torch.uint8).numpy().view(ours)
    if t.is_conj() or t.is_neg():
        t = t.resolve_conj().resolve_neg()
    if t.dtype == torch.bfloat16:
        return t.contiguous().view(torch.uint16).numpy().view(BFLOAT16).reshape(t.shape)
    if t.dtype == torch.complex32:  # NumPy has none
        t = t.to(torch.complex64)
    return t.contiguous().numpy(force=True).reshape(t.shape)  # force: a tensor of zeros may have no memory


class PyTorch:
    """PyTorch as a peer."""

    module: Any = torch

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor of the same strides."""
        return to_torch(array)

    def array(self, tensor: Any) -> np.ndarray:
        """Its elements."""
        return to_numpy(tensor)

    def value(self, value: Any) -> Any:
        """PyTorch's dtype or device for ours."""
        return to_torch(value)

    def shares(self, one: Any, other: Any) -> bool:
        """By the address of their storage."""
        return bool(one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())

    def version(self, tensor: Any) -> int:
        """Its counter."""
        return int(tensor._version)
