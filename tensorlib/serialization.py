"""``load`` and ``save`` by PyTorch's name of this place, and the list of classes that its unpickler may make.

``load`` never unpickles: the list is kept for programs that fill it, and allows nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib.io import load, save

__all__ = [
    "MAP_LOCATION", "add_safe_globals", "clear_safe_globals", "get_safe_globals", "load", "safe_globals", "save",
]  # fmt: skip

#: What ``load`` takes as ``map_location``.
MAP_LOCATION = Callable[[Any, str], Any] | str | dict[str, str] | None

_safe: list[Any] = []


def add_safe_globals(safe_globals: list[Any]) -> None:
    """Add classes and functions to the list."""
    _safe.extend(x for x in safe_globals if x not in _safe)


def clear_safe_globals() -> None:
    """Empty the list."""
    _safe.clear()


def get_safe_globals() -> list[Any]:
    """The list."""
    return list(_safe)


class safe_globals:
    """``with safe_globals([...]):`` has them in the list within the block."""

    def __init__(self, safe_globals: list[Any]) -> None:
        self.safe_globals = safe_globals
        self._before: list[Any] = []

    def __enter__(self) -> None:
        self._before = list(_safe)
        add_safe_globals(self.safe_globals)

    def __exit__(self, *error: object) -> None:
        _safe[:] = self._before
