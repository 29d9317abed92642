"""Discrete Fourier transforms under the standard's names and semantics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib import fft as _fft
from tensorlib._core import Tensor

from ._data_types import array

__all__ = ["fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft", "irfftn",
           "rfft", "rfftfreq", "rfftn"]  # fmt: skip


def _one(name: str) -> Callable[..., Tensor]:
    """A transform along one axis."""
    function = getattr(_fft, name)

    def call(x: Tensor, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
        out: Tensor = function(array(name, x), n, axis, norm)
        return out

    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    return call


def _several(name: str) -> Callable[..., Tensor]:
    """A transform along several axes."""
    function = getattr(_fft, name)

    def call(x: Tensor, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Tensor:
        out: Tensor = function(array(name, x), s, axes, norm)
        return out

    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    return call


fft, ifft, rfft, irfft, hfft, ihfft = map(_one, ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"))
fftn, ifftn, rfftn, irfftn = map(_several, ("fftn", "ifftn", "rfftn", "irfftn"))


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of ``fft``'s ``n`` results, samples ``d`` apart: 0, 1, …, -2, -1, over n d."""
    return _fft.fftfreq(n, d, dtype=dtype, device=device)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of ``rfft``'s results for ``n`` samples ``d`` apart: 0, 1, …, n // 2, over n d."""
    return _fft.rfftfreq(n, d, dtype=dtype, device=device)


def fftshift(x: Tensor, /, *, axes: Any = None) -> Tensor:
    """Frequency zero moved to the middle, along ``axes`` or all."""
    return _fft.fftshift(array("fftshift", x), axes)


def ifftshift(x: Tensor, /, *, axes: Any = None) -> Tensor:
    """``fftshift`` undone."""
    return _fft.ifftshift(array("ifftshift", x), axes)
