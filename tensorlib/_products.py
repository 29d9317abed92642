"""Matrix products of NumPy's arrays: `np.matmul`, or from some size on the native engine's."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np

from tensorlib import _native
from tensorlib.runtime import engine
from tensorlib.runtime.native import settings

#: Multiplications from which the engine has products: with several threads those for which BLAS would wake its own.
LEAST, LEAST_ALONE = 1 << 18, 1 << 20


class _State:
    """The module that shares products; None where it cannot."""

    module: ModuleType | None = None
    tried = False


def _module() -> ModuleType | None:
    if not _State.tried:
        _State.tried = True
        try:
            found = engine.products()
            if found.code() is not None:
                _State.module = found
        except engine.codegen().NoCompiler as error:
            warnings.warn(f"{error}: products of the CPU are left to NumPy alone", stacklevel=2)
    return _State.module


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, bias: np.ndarray | None = None) -> np.ndarray:
    """a @ b, plus a bias (n,): of small arrays by NumPy, else on the engine's threads as long as that is on."""
    size = a.size * b.shape[-1]
    if size >= LEAST and min(a.ndim, b.ndim) > 1 and (size >= LEAST_ALONE or settings.get_num_threads() > 1):
        dtype = a.dtype
        if dtype is b.dtype and dtype.char in "fd" and _native.least():
            module = _module()
            if module is not None:
                added = bias if bias is None or (bias.shape == b.shape[-1:] and bias.flags.c_contiguous) else None
                found: np.ndarray | None = module.matmul(a, b, out, added)
                if found is not None:
                    if added is not bias:
                        found += bias
                    return found
    product: np.ndarray = np.matmul(a, b, out=out)  # type: ignore[call-overload]
    if bias is not None:
        product += bias
    return product
