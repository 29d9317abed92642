"""Creation: from data, shapes and ranges."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from tensorlib import _dlpack, _promotion, ops
from tensorlib._core import Tensor
from tensorlib._device import device as Device
from tensorlib._dtypes import OF_NUMPY, as_dtype
from tensorlib.errors import ArgumentError

from ._data_types import array

__all__ = ["arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "linspace",
           "meshgrid", "ones", "ones_like", "tril", "triu", "zeros", "zeros_like"]  # fmt: skip


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of a tensor, a number, nested sequences, or an object with DLPack, a buffer or NumPy's interface.

    ``copy=True`` always copies, ``None`` where needed; ``False`` never: ValueError where a copy is needed.
    """
    target = None if device is None else Device(device)
    kind = None if dtype is None else as_dtype(dtype)
    x = obj
    if not isinstance(obj, Tensor):
        if isinstance(obj, (bytes, bytearray, memoryview)):
            x = np.asarray(memoryview(obj))
        elif not isinstance(obj, (np.ndarray, np.generic)):
            if hasattr(obj, "__dlpack__"):
                x = from_dlpack(obj)
            elif not isinstance(obj, (list, tuple, range, bool, int, float, complex)):
                x = np.asarray(obj)
        if isinstance(x, np.ndarray):
            x = ops.asarray(x)
        elif not isinstance(x, Tensor):
            if copy is False:
                raise ArgumentError(f"asarray: got copy=False: {type(obj).__name__} cannot be taken without a copy")
            return ops.asarray(x, dtype=kind, device=target)
    if copy is False and (kind not in (None, x.dtype) or target not in (None, x.device)):
        raise ArgumentError(
            f"asarray: got copy=False: {x.dtype} on {x.device} cannot become {kind or x.dtype} on {target or x.device} "
            f"without a copy"
        )
    return x.to(device=target, dtype=kind, copy=builtins.bool(copy))


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor over the memory of another library's array. BufferError where it cannot be taken."""
    return _dlpack.from_dlpack(x, device=device, copy=copy)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Tensor:
    """start, start + step, ... before ``stop``; ``arange(n)`` counts from 0. Empty where ``stop`` is behind."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ArgumentError("arange: got step=0: expected another step")
    if dtype is None and builtins.any(isinstance(v, float) for v in (start, stop, step)):
        dtype = OF_NUMPY[_promotion.default_dtype()]
    if (stop - start) * step < 0:
        stop = start
    return ops.arange(start, stop, step, dtype=dtype, device=device)


def linspace(
    start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> Tensor:
    """``num`` evenly spaced numbers from ``start`` to ``stop``, which is the last one with ``endpoint``."""
    if dtype is None:
        complex_ = isinstance(start, complex) or isinstance(stop, complex)
        dtype = OF_NUMPY[_promotion.default_complex() if complex_ else _promotion.default_dtype()]
    out = ops.linspace(start, stop, num if endpoint else num + 1, dtype=dtype, device=device)
    return out if endpoint else out[:num]


def empty(shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of undefined values."""
    return ops.empty(shape, dtype=dtype, device=device)


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of zeros."""
    return ops.zeros(shape, dtype=dtype, device=device)


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of ones."""
    return ops.ones(shape, dtype=dtype, device=device)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of ``fill_value``, whose kind gives the dtype where there is none."""
    return ops.full((shape,) if isinstance(shape, int) else shape, fill_value, dtype=dtype, device=device)


def empty_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of undefined values with the shape of ``x``."""
    return ops.empty_like(array("empty_like", x), dtype=dtype, device=device)


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros with the shape of ``x``."""
    return ops.zeros_like(array("zeros_like", x), dtype=dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones with the shape of ``x``."""
    return ops.ones_like(array("ones_like", x), dtype=dtype, device=device)


def full_like(x: Tensor, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """``fill_value`` with the shape and, unless given, the dtype of ``x``."""
    return ops.full_like(array("full_like", x), fill_value, dtype=dtype, device=device)


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones on the diagonal ``k``, counted to the right, zeros elsewhere."""
    rows = ops.arange(n_rows, device=device).unsqueeze(1)
    columns = ops.arange(n_rows if n_cols is None else n_cols, device=device)
    k = max(-n_rows, min(k, columns.shape[0]))  # beyond int64 too, there is nothing outside
    return (columns - rows == k).to(OF_NUMPY[_promotion.default_dtype()] if dtype is None else as_dtype(dtype))


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinate matrices of 1-D coordinate vectors: the first along columns ("xy") or along rows ("ij")."""
    return tuple(ops.meshgrid(*arrays, indexing=indexing)) if arrays else ()


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    """Matrices with what is above their diagonal ``k`` set to zero."""
    return ops.tril(array("tril", x), k)


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    """Matrices with what is below their diagonal ``k`` set to zero."""
    return ops.triu(array("triu", x), k)
