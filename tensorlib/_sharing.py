"""Arrays whose memory other processes see: a file in memory without a name, which the kernel frees with its last user.

Processes made by ``fork`` have the mapping; others get the file's descriptor with a message (``multiprocessing``).
Where there is no memfd (macOS, Windows) the memory is anonymous, and reaches only what ``fork`` makes.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

__all__ = ["SharedMemory", "memory_of", "share"]


class SharedMemory:
    """Bytes that processes share: what NumPy keeps alive under arrays over them."""

    __slots__ = ("__array_interface__", "fd", "map", "size")

    def __init__(self, size: int, fd: int = -1) -> None:
        if fd < 0 and hasattr(os, "memfd_create"):
            fd = os.memfd_create("tensorlib-shared", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        self.fd, self.size = fd, size
        self.map = mmap.mmap(fd, size)
        self.__array_interface__ = np.frombuffer(self.map, np.uint8).__array_interface__

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def share(x: np.ndarray) -> np.ndarray:
    """A contiguous copy of an array in shared memory."""
    out = np.asarray(SharedMemory(max(x.nbytes, 1)))[: x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def memory_of(x: Any) -> SharedMemory | None:
    """The shared memory that an array is over; None where it is its process's own."""
    while isinstance(x, np.ndarray):
        x = x.base
    return x if isinstance(x, SharedMemory) else None
