"""Filling and counting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


# One program writes BLOCK consecutive elements of a contiguous array.
@jit
def full_kernel(out, value, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.full((BLOCK,), 0, out.dtype.element_ty) + tl.cast(value, out.dtype.element_ty), mask=i < n)


def full(out: DeviceArray, size: Any, fill_value: Any, dtype: Any, device: Any) -> None:
    """out[...] = fill_value."""
    value = _typed(fill_value, out.dtype)
    launch(full_kernel, (cdiv(out.size, BLOCK),), out, value, out.size, BLOCK=BLOCK)


def _typed(value: Any, dtype: np.dtype[Any]) -> Any:
    """A number as the kernel takes it: at the precision of dtype."""
    if dtype == np.bool_:
        return bool(value)
    if dtype.kind in "iu":
        return int(value)
    return np.float64(value) if dtype == np.float64 else float(value)


# One program writes BLOCK consecutive elements: start + i * step, in the type of start and step.
@jit
def arange_kernel(out, start, step, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = start + i * step
    tl.store(out + i, tl.cast(value, out.dtype.element_ty), mask=i < n)


def arange(out: DeviceArray, start: Any, step: Any, length: int, dtype: Any, device: Any) -> None:
    """out[i] = start + i * step; floats in float64."""
    kind = int if out.dtype.kind in "iu" else np.float64
    launch(arange_kernel, (cdiv(out.size, BLOCK),), out, kind(start), kind(step), out.size, BLOCK=BLOCK)
