"""Padding of the last one to three dimensions: constant, by reflection, by the nearest element, around."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorlib._core import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


def _widths(padding: Any, n: int) -> tuple[int, ...]:
    if isinstance(padding, str) or not isinstance(padding, (int, Iterable)):
        raise TypeError(f"padding: expected an int or a tuple of {2 * n} ints, got {padding!r}")
    return (padding,) * (2 * n) if isinstance(padding, int) else tuple(padding)


class _Pad(Module):
    """``padding``: one width, or (low, high) for the last dimension, then for the one before, …; negative ones cut."""

    _mode: str
    _dims: int

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = _widths(padding, self._dims)

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, *) or (c, *) -> the same with longer last dimensions."""
        if self._mode == "circular" and input.ndim not in (self._dims + 1, self._dims + 2):
            raise ValueError(
                f"expected {self._dims + 1}D or {self._dims + 2}D input (got {input.ndim}D input)"
            )
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        """The widths."""
        return f"{self.padding}"


class _CircularPadNd(_Pad):
    _mode = "circular"


class _ReflectionPadNd(_Pad):
    _mode = "reflect"


class _ReplicationPadNd(_Pad):
    _mode = "replicate"


class _ConstantPadNd(Module):
    """A border of ``value``; ``padding`` as in the others."""

    _dims: int

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__()
        self.padding, self.value = _widths(padding, self._dims), value

    def forward(self, input: Tensor) -> Tensor:
        """The input with longer last dimensions."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """The widths and the value."""
        return f"padding={self.padding}, value={self.value}"


class CircularPad1d(_CircularPadNd):
    """A border of what leaves at one end coming in at the other: (n, c, w) or (c, w)."""

    _dims = 1


class CircularPad2d(_CircularPadNd):
    """A border of what leaves at one end coming in at the other: (n, c, h, w) or (c, h, w)."""

    _dims = 2


class CircularPad3d(_CircularPadNd):
    """A border of what leaves at one end coming in at the other: (n, c, d, h, w) or (c, d, h, w)."""

    _dims = 3


class ReflectionPad1d(_ReflectionPadNd):
    """A border of the input mirrored at its border: (n, c, w) or (c, w)."""

    _dims = 1


class ReflectionPad2d(_ReflectionPadNd):
    """A border of the input mirrored at its border: (n, c, h, w) or (c, h, w)."""

    _dims = 2


class ReflectionPad3d(_ReflectionPadNd):
    """A border of the input mirrored at its border: (n, c, d, h, w) or (c, d, h, w)."""

    _dims = 3


class ReplicationPad1d(_ReplicationPadNd):
    """A border of the border's elements repeated: (n, c, w) or (c, w)."""

    _dims = 1


class ReplicationPad2d(_ReplicationPadNd):
    """A border of the border's elements repeated: (n, c, h, w) or (c, h, w)."""

    _dims = 2


class ReplicationPad3d(_ReplicationPadNd):
    """A border of the border's elements repeated: (n, c, d, h, w) or (c, d, h, w)."""

    _dims = 3


class ConstantPad1d(_ConstantPadNd):
    """A border of ``value``: (n, c, w) or (c, w)."""

    _dims = 1


class ConstantPad2d(_ConstantPadNd):
    """A border of ``value``: (n, c, h, w) or (c, h, w)."""

    _dims = 2


class ConstantPad3d(_ConstantPadNd):
    """A border of ``value``: (n, c, d, h, w) or (c, d, h, w)."""

    _dims = 3


class ZeroPad1d(ConstantPad1d):
    """A border of zeros: (n, c, w) or (c, w)."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """The widths."""
        return f"{self.padding}"


class ZeroPad2d(ConstantPad2d):
    """A border of zeros: (n, c, h, w) or (c, h, w)."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """The widths."""
        return f"{self.padding}"


class ZeroPad3d(ConstantPad3d):
    """A border of zeros: (n, c, d, h, w) or (c, d, h, w)."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """The widths."""
        return f"{self.padding}"
