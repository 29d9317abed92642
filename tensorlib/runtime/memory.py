"""Memory where there is no GPU: the host's, for the interpreter; addresses only, for compile-only targets."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorlib.errors import DeviceError, KernelError

ALIGNMENT = 64  #: of host memory: a cache line, and the widest vector register
_FAKE_ALIGNMENT = 256  # what cudaMalloc and hipMalloc give


def poison_value(dtype: np.dtype[Any]) -> Any:
    """What undefined memory of that dtype is made to hold where it is to be noticed: NaN, a large odd integer, True."""
    if dtype.kind == "b":
        return True
    return np.iinfo(dtype).max // 2 | 1 if dtype.kind in "iu" else np.nan


class HostBlock:
    """A piece of host memory, known to the interpreter's bounds check for as long as it lives."""

    __slots__ = ("__weakref__", "bytes", "nbytes", "start")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.start = 0  # until there is memory: without, `__del__` runs too
        fence = _Fence.bytes
        raw = np.empty(nbytes + ALIGNMENT + 2 * fence, np.uint8)
        first = raw.ctypes.data
        offset = fence + -(first + fence) % ALIGNMENT
        if fence:
            raw[...] = _Fence.POST
            _Fence.blocks.append((raw, offset, offset + nbytes))
        self.bytes = raw[offset : offset + nbytes]
        self.start = first + offset
        with _Live.lock:
            _Live.ends[self.start] = self.start + nbytes
            _Live.table = None

    @property
    def ptr(self) -> int:
        """Where it begins, by the name that a GPU's block has for it."""
        return self.start

    def __del__(self) -> None:
        with _Live.lock:
            _Live.ends.pop(self.start, None)
            _Live.table = None


class _Fence:
    """What new blocks have around them, and those that have it."""

    POST = 0xA5
    bytes = 0
    blocks: list[tuple[np.ndarray, int, int]] = []  # noqa: RUF012  one for the process


@contextmanager
def fenced(nbytes: int = 1 << 14) -> Iterator[None]:
    """Blocks made within it have so many bytes on either side that are nobody's: for code that nothing else watches.

    KernelError at the end where something was written there.
    """
    before = _Fence.bytes, _Fence.blocks
    _Fence.bytes, _Fence.blocks = nbytes, []
    try:
        yield
        for raw, start, end in _Fence.blocks:
            low, high = (np.flatnonzero(part != _Fence.POST) for part in (raw[:start], raw[end:]))
            if low.size or high.size:
                where = f"{start - low[0]} bytes before its beginning" if low.size else f"{high[0]} bytes after its end"
                raise KernelError(f"a block of {end - start} bytes was written {where}: a mask or a stride is wrong")
    finally:
        _Fence.bytes, _Fence.blocks = before


class _Live:
    """The live host blocks: start -> end, and the same as two sorted lists, made when asked for."""

    # Reentrant: a collection that starts inside the lock may run HostBlock.__del__ on this very thread.
    lock = threading.RLock()
    ends: dict[int, int] = {}  # noqa: RUF012  one for the process
    table: tuple[list[int], list[int]] | None = None


def out_of_bounds(addresses: np.ndarray, itemsize: int) -> np.ndarray | None:
    """Which addresses do not have itemsize bytes of one live host block behind them: (n,) bool, or None for none."""
    if not addresses.size:
        return None
    with _Live.lock:
        if _Live.table is None:
            pairs = sorted(_Live.ends.items())
            _Live.table = [s for s, _ in pairs], [e for _, e in pairs]
        starts, ends = _Live.table
    low, high = int(addresses.min()), int(addresses.max())
    at = bisect.bisect_right(starts, low) - 1
    if at >= 0 and high + itemsize <= ends[at]:
        return None  # all in one block, as nearly always
    if not starts:
        return np.ones(addresses.shape, bool)
    block = np.searchsorted(np.array(starts, np.uint64), addresses, side="right")
    bad = (block == 0) | (addresses > np.array(ends, np.uint64)[block - 1] - np.uint64(itemsize))
    return bad if bad.any() else None


def _bytes(array: np.ndarray) -> np.ndarray:
    """A C-contiguous array as its bytes."""
    return array.reshape(-1).view(np.uint8)


class HostMemory:
    """64-byte aligned NumPy memory, for the devices that run over host memory."""

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """Address and owner of nbytes of host memory."""
        block = HostBlock(nbytes)
        return block.start, block

    def upload(self, data: np.ndarray) -> tuple[int, Any]:
        """A new block with a copy of data."""
        block = HostBlock(data.nbytes)
        self.write(block.start, block, data)
        return block.start, block

    def read(self, ptr: int, owner: HostBlock, out: np.ndarray) -> None:
        """Copy from the block."""
        offset = ptr - owner.start
        _bytes(out)[...] = owner.bytes[offset : offset + out.nbytes]

    def write(self, ptr: int, owner: HostBlock, data: np.ndarray) -> None:
        """Copy to the block."""
        offset = ptr - owner.start
        owner.bytes[offset : offset + data.nbytes] = _bytes(data)


class NoMemory:
    """Addresses without memory, for compile-only targets: distinct and aligned as a GPU's would be."""

    def __init__(self) -> None:
        self._next = 1 << 40
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """An address nobody else has; no owner, as there is nothing to free."""
        with self._lock:
            start = self._next
            self._next += max(1, -(-nbytes // _FAKE_ALIGNMENT)) * _FAKE_ALIGNMENT
        return start, None

    def upload(self, data: np.ndarray) -> tuple[int, Any]:
        """An address; nothing is kept."""
        return self.allocate(data.nbytes)

    def read(self, ptr: int, owner: None, out: np.ndarray) -> None:
        """Nothing was run, so there is nothing to read."""
        raise DeviceError("cannot read from a compile-only target: its kernels are compiled and nothing is run")

    def write(self, ptr: int, owner: None, data: np.ndarray) -> None:
        """Nothing to write to: kernels for this target are never run."""
