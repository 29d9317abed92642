"""Scalar functions of kernels over NumPy arrays: an approximation written once serves the GPU and the CPU.

A Triton function that computes in float64, with ``tl.where`` for branches, is also a NumPy function once ``tl`` means
NumPy. It runs over a few thousand elements at a time, so that its many temporaries stay in the cache.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.ops._pointwise_numpy import erf, erfc
from tensorlib.runtime.compiler import Jit, jit, names_used

if TYPE_CHECKING:
    import triton.language as tl

_CHUNK = 1 << 12  # float64: the dozen temporaries of a long approximation fit the second-level cache


def _largest(x: Any, axis: int) -> Any:
    return np.max(x, axis=axis, initial=0)


#: What ``tl`` means over arrays.
_LANGUAGE = types.SimpleNamespace(
    exp=np.exp, log=np.log, sqrt=np.sqrt, sin=np.sin, cos=np.cos, abs=np.absolute, floor=np.floor, where=np.where,
    cast=lambda x, dtype: np.asarray(x).astype(dtype), float64=np.float64, int64=np.int64, static_range=range,
    max=_largest,
)  # fmt: skip
#: What ``libdevice`` means over arrays.
_LIBDEVICE = types.SimpleNamespace(
    pow=np.power, tan=np.tan, acos=np.arccos, log1p=np.log1p, expm1=np.expm1, exp2=np.exp2, trunc=np.trunc,
    copysign=np.copysign, erf=erf, erfc=erfc,
)  # fmt: skip


@jit
def pick(C: tl.constexpr, k):
    """C[k] for the counter of a loop: a table in a kernel, unlike a loop that is unrolled, costs no compilation."""
    r = tl.cast(k, tl.float64) * 0
    for i in tl.static_range(len(C)):
        r = tl.where(k == i, C[i], r)
    return r


@cache
def _plain(fn: Jit) -> Any:
    """The Triton function as a Python function of arrays."""
    if fn is pick:
        return lambda table, k: table[k]
    scope: dict[str, Any] = {"__builtins__": __builtins__, "__name__": __name__}
    scope.update(tl=_LANGUAGE, libdevice=_LIBDEVICE)
    made = types.FunctionType(fn.fn.__code__, scope, fn.__name__, fn.fn.__defaults__, fn.fn.__closure__)
    for name, value in names_used(fn.fn).items():
        scope[name] = _plain(value) if isinstance(value, Jit) else value
    return made


def over_arrays(fn: Jit) -> Callable[..., np.ndarray]:
    """fn of arrays, broadcast, and numbers, in float64; the result is in the first array's dtype, or float32."""

    def run(*operands: Any) -> np.ndarray:
        arrays = [x for x in operands if isinstance(x, np.ndarray)]
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        dtype = arrays[0].dtype if arrays[0].dtype == np.float64 else np.dtype(np.float32)
        flat = [np.broadcast_to(x, shape).reshape(-1) if isinstance(x, np.ndarray) else x for x in operands]
        out = np.empty(shape, dtype)
        target = out.reshape(-1)
        function = _plain(fn)
        for i in range(0, target.size, _CHUNK):
            part = [x[i : i + _CHUNK].astype(np.float64) if isinstance(x, np.ndarray) else x for x in flat]
            target[i : i + _CHUNK] = function(*part)
        return out

    run.__name__ = fn.__name__
    return run
