"""Ranges and marks for NVIDIA's profilers, through libnvToolsExt where it is installed; elsewhere they do nothing."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

__all__ = ["mark", "range", "range_end", "range_pop", "range_push", "range_start"]


class _Depth(threading.local):
    value = 0


_depth = _Depth()


@cache
def _library() -> Any:
    for name in ("libnvToolsExt.so.1", "libnvToolsExt.so"):
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        for function in ("nvtxRangePushA", "nvtxMarkA", "nvtxRangeStartA"):
            getattr(found, function).argtypes = [ctypes.c_char_p]
        found.nvtxMarkA.restype = None
        found.nvtxRangeStartA.restype, found.nvtxRangeEnd.argtypes = ctypes.c_uint64, [ctypes.c_uint64]
        found.nvtxRangeEnd.restype = None
        return found
    return None


def range_push(msg: str) -> int:
    """Begin a range within the thread's innermost one; how deep it lies, from 0."""
    found, depth = _library(), _depth.value
    if found is not None:
        found.nvtxRangePushA(msg.encode())
    _depth.value = depth + 1
    return depth


def range_pop() -> int:
    """End the thread's innermost range; how deep it lay, -1 where there was none."""
    found = _library()
    if found is not None:
        found.nvtxRangePop()
    _depth.value = max(_depth.value - 1, -1)
    depth = _depth.value
    _depth.value = max(depth, 0)
    return depth


def range_start(msg: str) -> int:
    """Begin a range that may end in another thread; its number for ``range_end``."""
    found = _library()
    return int(found.nvtxRangeStartA(msg.encode())) if found is not None else 0


def range_end(range_id: int) -> None:
    """End a range of ``range_start``."""
    found = _library()
    if found is not None:
        found.nvtxRangeEnd(range_id)


def mark(msg: str) -> None:
    """A moment with a name."""
    found = _library()
    if found is not None:
        found.nvtxMarkA(msg.encode())


@contextlib.contextmanager
def range(msg: str, *args: Any, **kwargs: Any) -> Iterator[None]:
    """A range for the block, or for a decorated function's calls, named ``msg.format(*args, **kwargs)``."""
    range_push(msg.format(*args, **kwargs))
    try:
        yield
    finally:
        range_pop()
