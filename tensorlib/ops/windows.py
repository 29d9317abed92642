"""Window functions: weights that fall off to both ends, for spectra and filters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, wrap
from tensorlib._device import cpu
from tensorlib._dtypes import OF_NUMPY
from tensorlib._samples import draw, each
from tensorlib.errors import ArgumentError, DtypeError
from tensorlib.op import composite
from tensorlib.ops.create import _finish, device_of, numpy_dtype


def _window(
    name: str, n: int, periodic: bool, weights: Any, dtype: Any, device: Any, requires_grad: bool
) -> Tensor:  # fmt: skip
    """``weights`` of the places 0 … 1 of n points; a periodic window is one of n + 1 without its last point."""
    kind = numpy_dtype(dtype)
    if OF_NUMPY[kind].kind != "float":
        raise DtypeError(f"{name}: expects floating point dtypes, got {OF_NUMPY[kind]}")
    if not 0 <= n < 2**63:
        raise ArgumentError(
            f"{name}: requires non-negative window_length, got window_length={n}: expected 0 … 2**63 - 1"
        )
    points = n + 1 if periodic else n
    x = np.arange(n) / max(points - 1, 1)
    w = (np.ones(n) if n <= 1 else weights(x)).astype(kind)
    at = device_of(device)
    return _finish(wrap(w if at is cpu else _array.to_device(w, at)), requires_grad)


_LENGTHS = each(draw(7), draw(6, False), draw(1), draw(0), draw(5, periodic=True))


@composite(on="function", samples=_LENGTHS)
def bartlett_window(window_length: int, periodic: bool = True, *, dtype: Any = None, layout: Any = None,
                    device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """1 - |2 i / (n - 1) - 1|: a triangle. ``periodic``: n + 1 points without the last, for use in a transform."""
    rule = lambda x: 1 - np.abs(2 * x - 1)  # noqa: E731
    return _window("bartlett_window", window_length, periodic, rule, dtype, device, requires_grad)


@composite(on="function", samples=_LENGTHS)
def blackman_window(window_length: int, periodic: bool = True, *, dtype: Any = None, layout: Any = None,
                    device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """0.42 - 0.5 cos(2 π i / (n - 1)) + 0.08 cos(4 π i / (n - 1)). ``periodic`` as in ``bartlett_window``."""
    rule = lambda x: np.abs(0.42 - 0.5 * np.cos(2 * np.pi * x) + 0.08 * np.cos(4 * np.pi * x))  # noqa: E731
    return _window("blackman_window", window_length, periodic, rule, dtype, device, requires_grad)


@composite(on="function", samples=each(_LENGTHS, draw(6, True, 0.5, 0.4)))
def hamming_window(window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *,
                   dtype: Any = None, layout: Any = None, device: Any = None,
                   requires_grad: bool = False) -> Tensor:  # fmt: skip
    """alpha - beta cos(2 π i / (n - 1)). ``periodic`` as in ``bartlett_window``."""
    rule = lambda x: alpha - beta * np.cos(2 * np.pi * x)  # noqa: E731
    return _window("hamming_window", window_length, periodic, rule, dtype, device, requires_grad)


@composite(on="function", samples=_LENGTHS)
def hann_window(window_length: int, periodic: bool = True, *, dtype: Any = None, layout: Any = None,
                device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """0.5 - 0.5 cos(2 π i / (n - 1)). ``periodic`` as in ``bartlett_window``."""
    rule = lambda x: 0.5 - 0.5 * np.cos(2 * np.pi * x)  # noqa: E731
    return _window("hann_window", window_length, periodic, rule, dtype, device, requires_grad)


@composite(on="function", samples=each(_LENGTHS, draw(6, True, 3.0)))
def kaiser_window(window_length: int, periodic: bool = True, beta: float = 12.0, *, dtype: Any = None,
                  layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """I₀(β √(1 - (2 i / (n - 1) - 1)²)) / I₀(β). ``periodic`` as in ``bartlett_window``. Kaiser & Schafer 1980."""
    rule = lambda x: np.i0(beta * np.sqrt(1 - (2 * x - 1) ** 2)) / np.i0(beta)  # noqa: E731
    return _window("kaiser_window", window_length, periodic, rule, dtype, device, requires_grad)
