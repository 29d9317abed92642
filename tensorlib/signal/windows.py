"""Window functions of SciPy's kind: ``sym`` windows are symmetric, for filters; others periodic, for spectra.

A periodic window of M points is the symmetric one of M + 1 without its last. Computed in float64, rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib.errors import ArgumentError
from tensorlib.ops.create import numpy_dtype

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming", "hamming",
    "hann", "kaiser", "nuttall",
]  # fmt: skip


def _window(
    name: str, M: int, weights: Callable[[Any, float], Any], sym: bool, dtype: Any, layout: Any, device: Any,
    requires_grad: bool,
) -> Tensor:  # fmt: skip
    """``weights(k, last)`` of the places k = 0 … M - 1, where the symmetric window ends at ``last``."""
    if not isinstance(M, int):
        raise TypeError(f"{name}: M must be an integer, got {type(M).__name__}")
    if M < 0:
        raise ValueError(f"{name} requires non-negative window length, got M={M}")
    if layout not in (None, "strided"):
        raise ValueError(f"{name} is implemented for strided tensors only, got: {layout}")
    kind = OF_NUMPY[numpy_dtype(dtype)]
    if kind.kind != "float" or kind.itemsize < 4:
        raise ArgumentError(f"{name} expects float32 or float64 dtypes, got: {kind}")
    last = M - 1 if sym or M <= 1 else M
    w = np.asarray(weights(np.arange(M, dtype=np.float64), float(last)))
    return ops.tensor(w, dtype=kind, device=device, requires_grad=requires_grad)


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: Any = None, layout: Any = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """exp(-|k - center| / tau). ``center`` is the middle, and may be given only where not ``sym``."""
    if tau <= 0:
        raise ValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise ValueError("Center must be None for symmetric windows")

    def weights(k: Any, last: float) -> Any:
        return np.exp(-np.abs(k - (last / 2 if center is None else center)) / tau)

    return _window("exponential", M, weights, sym, dtype, layout, device, requires_grad)


def cosine(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """sin(pi (k + 1/2) / M)."""

    def weights(k: Any, last: float) -> Any:
        return np.sin(math.pi * (k + 0.5) / (last + 1))

    return _window("cosine", M, weights, sym, dtype, layout, device, requires_grad)


def gaussian(
    M: int, *, std: float = 1.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """exp(-((k - middle) / std)^2 / 2)."""
    if std <= 0:
        raise ValueError(f"Standard deviation must be positive, got: {std} instead.")

    def weights(k: Any, last: float) -> Any:
        return np.exp(-0.5 * ((k - last / 2) / std) ** 2)

    return _window("gaussian", M, weights, sym, dtype, layout, device, requires_grad)


def kaiser(
    M: int, *, beta: float = 12.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """I0(beta sqrt(1 - x^2)) / I0(beta), x from -1 to 1."""
    if beta < 0:
        raise ValueError(f"beta must be non-negative, got: {beta} instead.")

    def weights(k: Any, last: float) -> Any:
        if M == 1:
            return np.ones(1)
        x = 2 * k / last - 1
        return np.i0(beta * np.sqrt(np.maximum(1 - x * x, 0))) / np.i0(beta)

    return _window("kaiser", M, weights, sym, dtype, layout, device, requires_grad)


def bartlett(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """1 - |x|, x from -1 to 1."""

    def weights(k: Any, last: float) -> Any:
        return np.ones(M) if M == 1 else 1 - np.abs(2 * k / last - 1)

    return _window("bartlett", M, weights, sym, dtype, layout, device, requires_grad)


def _cosines(
    name: str, M: int, a: Any, sym: bool, dtype: Any, layout: Any, device: Any, requires_grad: bool
) -> Tensor:
    if not isinstance(a, Iterable):
        raise TypeError("Coefficients must be a list/tuple")
    terms = [float(w) for w in a]
    if not terms:
        raise ValueError("Coefficients cannot be empty")

    def weights(k: Any, last: float) -> Any:
        if M == 1:
            return np.ones(1)
        return sum((-1) ** i * w * np.cos(2 * math.pi * i * k / last) for i, w in enumerate(terms))

    return _window(name, M, weights, sym, dtype, layout, device, requires_grad)


def general_cosine(
    M: int, *, a: Iterable[float], sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """sum_i (-1)^i a_i cos(2 pi i k / (M - 1))."""
    return _cosines("general_cosine", M, a, sym, dtype, layout, device, requires_grad)


def general_hamming(
    M: int, *, alpha: float = 0.54, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """alpha - (1 - alpha) cos(2 pi k / (M - 1))."""
    return _cosines("general_hamming", M, (alpha, 1.0 - alpha), sym, dtype, layout, device, requires_grad)


def hamming(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """0.54 - 0.46 cos(2 pi k / (M - 1))."""
    return _cosines("hamming", M, (0.54, 0.46), sym, dtype, layout, device, requires_grad)


def hann(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """(1 - cos(2 pi k / (M - 1))) / 2."""
    return _cosines("hann", M, (0.5, 0.5), sym, dtype, layout, device, requires_grad)


def blackman(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """0.42 - 0.5 cos(2 pi k / (M - 1)) + 0.08 cos(4 pi k / (M - 1))."""
    return _cosines("blackman", M, (0.42, 0.5, 0.08), sym, dtype, layout, device, requires_grad)


def nuttall(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Four cosines with side lobes of less than -98 dB: Nuttall 1981, minimum four-term with continuous derivative."""
    return _cosines("nuttall", M, (0.3635819, 0.4891775, 0.1365995, 0.0106411), sym, dtype, layout, device,
                    requires_grad)  # fmt: skip
