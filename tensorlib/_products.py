"""Matrix products of NumPy's arrays: `np.matmul`, or from some size on the native engine's; its other own code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _native
from tensorlib.runtime import engine
from tensorlib.runtime.native import settings

#: Multiplications from which the engine has products: with several threads those for which BLAS would wake its own.
LEAST, LEAST_ALONE = 1 << 18, 1 << 20
#: Multiplications from which the engine has convolutions: NumPy's copies take longer than a job's arguments.
LEAST_CONVOLUTION = 1 << 16
LEAST_MAXIMA = 1 << 14  #: elements from which it has the maxima of windows


class _State:
    """Whether products and convolutions can be the engine's: not where nothing compiles."""

    possible = True


def _shared(a: np.ndarray, b: np.ndarray, out: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray | None:
    try:
        module = engine.products()
        found: np.ndarray | None = None if module.code() is None else module.matmul(a, b, out, bias)
        return found
    except engine.codegen().NoCompiler as error:
        _State.possible = False
        warnings.warn(f"{error}: products of the CPU are left to NumPy alone", stacklevel=2)
        return None


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, bias: np.ndarray | None = None) -> np.ndarray:
    """a @ b, plus a bias (n,): of small arrays by NumPy, else on the engine's threads as long as that is on."""
    size = a.size * b.shape[-1]
    if size >= LEAST and min(a.ndim, b.ndim) > 1 and (size >= LEAST_ALONE or settings.get_num_threads() > 1):
        dtype = a.dtype
        if dtype is b.dtype and dtype.char in "fd" and _State.possible and _native.least():
            added = bias if bias is None or (bias.shape == b.shape[-1:] and bias.flags.c_contiguous) else None
            found = _shared(a, b, out, added)
            if found is not None:
                if added is not bias:
                    found += bias
                return found
    product: np.ndarray = np.matmul(a, b, out=out)  # type: ignore[call-overload]
    if bias is not None:
        product += bias
    return product


def convolutions(multiplications: int, *arrays: np.ndarray | None) -> Any:
    """The engine's convolutions, if that is on and has one of so many multiplications for these arrays, else None."""
    return _own(engine.convolutions) if multiplications >= LEAST_CONVOLUTION and _floats(arrays) else None


def maxima(size: int, *arrays: np.ndarray) -> Any:
    """The engine's maxima of windows, if that is on and has them for so many elements of these arrays, else None."""
    return _own(engine.maxima) if size >= LEAST_MAXIMA and _floats(arrays) else None


def _floats(arrays: Sequence[np.ndarray | None]) -> bool:
    """Whether all are of one dtype that the engine's own code is for."""
    dtype = arrays[0].dtype  # type: ignore[union-attr]
    return dtype.char in "fd" and all(x is None or x.dtype is dtype for x in arrays)


def _own(load: Callable[[], Any]) -> Any:
    """A module of the engine's own code, where that is for this processor."""
    if not _State.possible or not _native.least():
        return None
    try:
        return load() if engine.convolutions().suits() else None
    except engine.codegen().NoCompiler as error:
        _State.possible = False
        warnings.warn(f"{error}: convolutions of the CPU are left to NumPy alone", stacklevel=2)
        return None
