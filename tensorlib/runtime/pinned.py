"""Page-locked host memory, which a GPU copies from and to while the host goes on; cached, as locking pages is slow.

Requests are rounded up to a power of two, at least 512 bytes, and answered from lists of pieces of one size. Pieces up
to 1 MiB are cut from slabs of 1 MiB, larger ones are the driver's own. A piece that asynchronous copies used
(`Pinned.record`) is handed out again when the events recorded behind those copies are done.

As in `caching`, a destructor appends to a list and to the log, and takes no lock.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
import time
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from tensorlib.errors import ArgumentError, DeviceError, DriverError, OutOfMemoryError
from tensorlib.runtime.memory_report import format_bytes, vendor
from tensorlib.runtime.memory_stats import UNLIMITED, Ledger, event, flat

SMALLEST = 512  #: bytes: the alignment, and the smallest piece
SLAB = 1 << 20  #: bytes: what smaller pieces are cut from
_LOG_LENGTH = 1 << 12  # events that may wait to be counted
_FORKED = (
    "cannot use pinned memory in a forked child of a process that used the GPU (Cannot re-initialize CUDA in forked "
    "subprocess): to use CUDA with multiprocessing, you must use the 'spawn' start method"
)


class Backend(Protocol):
    """What is asked of a driver, for one device; callable from any thread."""

    kind: str

    def host_allocate(self, nbytes: int, /) -> int:
        """Address of new page-locked memory."""

    def host_free(self, ptr: int, /) -> None:
        """Give it back."""

    def event_create(self) -> int:
        """A new event."""

    def event_record(self, event: int, stream: int, /) -> None:
        """Mark the end of what the stream was given so far."""

    def event_query(self, event: int, /) -> bool:
        """Whether the stream has come that far."""

    def event_synchronize(self, event: int, /) -> None:
        """Wait until it has."""

    def exchange_capture_mode(self, mode: str, /) -> str:
        """Set which calls this thread may make while it captures; returns the mode before."""


class _Slab:
    """What one call of the driver gave, and the pieces that it was cut into."""

    __slots__ = ("pieces", "ptr", "size")

    def __init__(self, ptr: int, size: int, step: int, owner: Pinned) -> None:
        self.ptr = ptr
        self.size = size
        self.pieces = [_Piece(at, step, owner) for at in range(ptr, ptr + size, step)]


class _Piece:
    """Memory of a size that is a power of two. ``marks``: the last event on each stream that copied to or from it."""

    __slots__ = ("freed", "marks", "owner", "ptr", "size")

    def __init__(self, ptr: int, size: int, owner: Pinned) -> None:
        self.ptr = ptr
        self.size = size
        self.owner = owner
        self.freed = 0  # what its return adds to the log
        self.marks: dict[tuple[Backend, int], int] = {}


class PinnedBlock:
    """Owner of the memory behind a pinned array: ``array.base``. The last array that needs it gone, it goes back."""

    __slots__ = ("__array_interface__", "__weakref__", "_piece")

    def __init__(self, piece: _Piece, nbytes: int) -> None:
        self._piece = piece
        self.__array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "data": (piece.ptr, False), "version": 3}

    def __del__(self) -> None:
        piece = self._piece
        piece.owner._take_back(piece)


_instances: weakref.WeakSet[Pinned] = weakref.WeakSet()
_lock = threading.RLock()
_slabs: dict[int, _Slab] = {}  # of the whole process: a driver's pinned memory is pinned for all of its devices
_table: tuple[list[int], list[_Slab]] = [], []  # their addresses, sorted, and themselves: replaced, never changed


def _register(slab: _Slab, here: bool) -> None:
    global _table
    with _lock:
        if here:
            _slabs[slab.ptr] = slab
        else:
            del _slabs[slab.ptr]
        starts = sorted(_slabs)
        _table = starts, [_slabs[start] for start in starts]


def _slab_of(array: np.ndarray) -> _Slab | None:
    """The slab that all of an array's elements lie in."""
    starts, slabs = _table
    if not starts:
        return None
    low, high = np.lib.array_utils.byte_bounds(array)
    at = bisect_right(starts, low) - 1
    return slabs[at] if at >= 0 and high <= starts[at] + slabs[at].size else None


def is_pinned(array: np.ndarray) -> bool:
    """Whether an array lies in page-locked memory that ``Pinned.allocate`` gave. False for one without elements."""
    return bool(array.size) and _slab_of(array) is not None


def record(array: np.ndarray, stream: int, backend: Backend) -> None:
    """Tell that the last thing a stream of a device was given copies from or to an array of pinned memory.

    Its memory is not handed out again before that is done. What is not pinned is passed over. Not for a stream that is
    captured: a graph must keep the array itself.
    """
    slab = _slab_of(array) if array.size else None
    if slab is None:
        return
    piece = slab.pieces[(np.lib.array_utils.byte_bounds(array)[0] - slab.ptr) // slab.pieces[0].size]
    mark = piece.marks.get((backend, stream))
    if mark is None:
        mark = piece.owner._event(backend)
    backend.event_record(mark, stream)
    piece.marks[backend, stream] = mark


class Pinned:
    """Page-locked memory through the driver of one device. Every method may be called from any thread."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._lock = threading.RLock()
        self._ledger = Ledger(self._lock, UNLIMITED)
        self._free: dict[int, list[_Piece]] = {}  # size -> pieces
        self._pending: deque[_Piece] = deque()  # freed, and copies may still be going on
        self._events: dict[Backend, list[int]] = {}  # done, to be used again
        self._times: dict[str, list[float]] = {"host_alloc_time": [], "host_free_time": []}  # µs
        self.rings: list[Ring] = []
        self._closed = False  # in a forked child
        self._quiet = False  # there, and at the end of the process
        _instances.add(self)

    def allocate(self, nbytes: int) -> np.ndarray:
        """uint8 (nbytes,): page-locked, aligned to 512 bytes, uninitialised; its base keeps the memory.

        OutOfMemoryError where the system locks no more pages. DeviceError in a forked child.
        """
        if nbytes <= 0:
            if nbytes:
                raise ArgumentError(f"pinned memory: got {nbytes} bytes: expected 0 or more")
            return np.empty(0, np.uint8)
        size = SMALLEST if nbytes <= SMALLEST else 1 << (nbytes - 1).bit_length()
        try:
            piece = self._free[size].pop()
        except LookupError:
            piece = self._find(size)
        entry = event(size, nbytes)
        piece.freed = -entry
        self._ledger.log.append(entry)
        if len(self._ledger.log) > _LOG_LENGTH:
            self._ledger.count()
        return np.asarray(PinnedBlock(piece, nbytes))

    def record(self, array: np.ndarray, stream: int) -> None:
        """``record`` for a stream of this device."""
        record(array, stream, self.backend)

    def _event(self, backend: Backend) -> int:
        try:
            return self._events[backend].pop()
        except LookupError:
            return backend.event_create()

    def _take_back(self, piece: _Piece) -> None:
        """From a destructor: no lock, any thread."""
        if self._quiet:
            return
        log = self._ledger.log
        log.append(piece.freed)
        if piece.marks:
            log.append(event(piece.size, piece.size, True))
            self._pending.append(piece)
        else:
            self._free[piece.size].append(piece)

    def _find(self, size: int) -> _Piece:
        """A piece for which there was none in its list."""
        if self._closed:
            raise DeviceError(_FORKED)
        with self._lock, self._relaxed():
            self._process_events()
            free = self._free.setdefault(size, [])
            try:
                return free.pop()
            except IndexError:
                pass
            wanted = max(size, SLAB)
            ptr = self._host_allocate(wanted)
            if ptr is None:
                self._ledger.num_alloc_retries += 1
                self._process_events(wait=True)
                self._release()
                try:
                    return free.pop()
                except IndexError:
                    ptr = self._host_allocate(wanted)
            if ptr is None:
                self._ledger.num_ooms += 1
                stats = self.nested_stats()
                raise OutOfMemoryError(
                    f"{vendor(self.backend.kind)} out of pinned host memory. Tried to lock {format_bytes(wanted)}. "
                    f"This process has {format_bytes(stats['allocated_bytes']['current'])} pinned, of which "
                    f"{format_bytes(stats['active_bytes']['current'])} is in use. To try: fewer pinned batches at a "
                    f"time (prefetch_factor and num_workers of the data loader); pin_memory=False; a higher limit of "
                    f"locked memory (ulimit -l)."
                )
            slab = _Slab(ptr, wanted, size, self)
            _register(slab, True)
            self._ledger.add_segment(wanted, True)
            first, *others = slab.pieces
            free += others[::-1]
            return first

    @contextlib.contextmanager
    def _relaxed(self) -> Iterator[None]:
        """Calls that a capture forbids to its thread, and that it will not contain, are meant."""
        mode = self.backend.exchange_capture_mode("relaxed")
        try:
            yield
        finally:
            self.backend.exchange_capture_mode(mode)

    def _host_allocate(self, nbytes: int) -> int | None:
        began = time.perf_counter()
        try:
            return self.backend.host_allocate(nbytes)
        except DriverError as error:
            if "MEMORY" in error.error_name.upper() or "memory" in str(error):
                return None
            raise
        finally:
            self._times["host_alloc_time"].append((time.perf_counter() - began) * 1e6)

    def _process_events(self, wait: bool = False) -> None:
        """Take back the pieces whose copies are done, or wait for all of them."""
        behind: set[tuple[Backend, int]] = set()  # streams that have not come so far: no need to ask for later events
        for _ in range(len(self._pending)):
            piece = self._pending[0]
            done = True
            for stream, mark in piece.marks.items():
                if wait:
                    stream[0].event_synchronize(mark)
                elif stream in behind or not stream[0].event_query(mark):
                    behind.add(stream)
                    done = False
                    break
            self._pending.popleft()
            if not done:
                self._pending.append(piece)
                continue
            for (backend, _), mark in piece.marks.items():
                self._events.setdefault(backend, []).append(mark)
            piece.marks = {}
            self._ledger.log.append(-event(piece.size, piece.size, True))
            self._free[piece.size].append(piece)

    def _release(self) -> None:
        """Give the driver the slabs that no array lies in."""
        idle = {id(piece) for free in self._free.values() for piece in free[:]}
        for slab in [slab for slab in _slabs.values() if slab.pieces[0].owner is self]:
            if not all(id(piece) in idle for piece in slab.pieces):
                continue
            free, mine = self._free[slab.pieces[0].size], set(map(id, slab.pieces))
            taken = []
            while free:
                try:
                    taken.append(free.pop())
                except IndexError:  # another thread was faster
                    break
            rest = [piece for piece in taken if id(piece) not in mine]
            if len(taken) - len(rest) < len(slab.pieces):  # another thread took one of them
                free += taken
                continue
            free += rest
            _register(slab, False)
            began = time.perf_counter()
            self.backend.host_free(slab.ptr)
            self._times["host_free_time"].append((time.perf_counter() - began) * 1e6)
            self._ledger.remove_segment(slab.size, True)

    def empty_cache(self) -> None:
        """Wait for the copies, and unlock the memory that no array lies in."""
        if self._closed:
            raise DeviceError(_FORKED)
        for ring in self.rings:
            ring.drop()
        with self._lock, self._relaxed():
            self._process_events(wait=True)
            self._release()

    def nested_stats(self) -> dict[str, Any]:
        """What torch.cuda.host_memory_stats_as_nested_dict gives. Sizes are those of the pieces; times in µs."""
        with self._lock, self._relaxed():
            self._process_events()
            self._ledger.count()
            ledger = self._ledger
            times = {
                name: {
                    "total": sum(seen),
                    "max": max(seen, default=0.0),
                    "min": min(seen, default=0.0),
                    "count": len(seen),
                    "avg": sum(seen) / max(1, len(seen)),
                }
                for name, seen in self._times.items()
            }
            return {
                "allocations": ledger.segment.all.as_dict(),
                "allocated_bytes": ledger.reserved_bytes.all.as_dict(),
                "active_requests": ledger.active.all.as_dict(),
                "active_bytes": ledger.active_bytes.all.as_dict(),
                "num_host_alloc": ledger.num_device_alloc,
                "num_host_free": ledger.num_device_free,
                **times,
            }

    def stats(self) -> dict[str, int | float]:
        """The same flat, sorted by name, as torch.cuda.host_memory_stats."""
        return dict(sorted(flat(self.nested_stats()).items()))

    def reset_peak(self) -> None:
        """Begin the peaks anew from what is now."""
        self._ledger.reset_peak()

    def reset_accumulated(self) -> None:
        """Begin the sums of what was ever gained and lost, and the times, anew."""
        with self._lock:
            self._ledger.reset_accumulated()
            self._times = {name: [] for name in self._times}


class Ring:
    """Page-locked memory that small copies to a device pass through in turn, so that their sources may change at once.

    It is cut into parts. Each copy is marked by its stream's event of the part that it lies in, and a part is written
    again when its events are done: the host waits where it is a whole ring ahead of the device.
    """

    SIZE, PARTS = 4 << 20, 16
    MOST = 1 << 16  #: bytes of one copy

    def __init__(self, pinned: Pinned, driver: Any) -> None:
        self._pinned, self._driver = pinned, driver
        self._lock = threading.Lock()
        self._memory: np.ndarray | None = None
        self._address = self._at = self._end = self._part = 0
        self._marks: list[dict[int, int]] = [{} for _ in range(self.PARTS)]  # of each part: stream -> event
        self._live: list[dict[int, int]] = [{} for _ in range(self.PARTS)]  # those that were recorded since
        pinned.rings.append(self)

    def copy(self, ptr: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from the host's memory at ``source`` to the device's at ``ptr``, on a stream that is not captured.

        The device's context is current. OutOfMemoryError where the system locks no memory; DeviceError in a forked
        child.
        """
        if self._pinned._closed:
            raise DeviceError(_FORKED)
        with self._lock:
            at = self._at
            if at + nbytes > self._end:
                at = self._next()
            ctypes.memmove(self._address + at, source, nbytes)
            self._driver.copy_to_device(ptr, self._address + at, nbytes, stream)
            mark = self._marks[self._part].get(stream)
            if mark is None:
                mark = self._marks[self._part][stream] = self._pinned.backend.event_create()
            self._driver.event_record(mark, stream)
            self._live[self._part][stream] = mark
            self._at = at + nbytes + 63 & ~63

    def _next(self) -> int:
        """Where the next part begins, when what was copied from it is done."""
        if self._memory is None:
            self._memory = self._pinned.allocate(self.SIZE)
            self._address = self._memory.__array_interface__["data"][0]
            part = 0
        else:
            part = (self._part + 1) % self.PARTS
        self._wait(part)
        step = self.SIZE // self.PARTS
        self._part, self._at, self._end = part, part * step, (part + 1) * step
        return self._at


    def _wait(self, part: int) -> None:
        live = self._live[part]
        if live:
            with self._pinned._relaxed():
                for mark in live.values():
                    self._driver.event_synchronize(mark)
            live.clear()

    def drop(self) -> None:
        """Wait for the copies, and give the memory back until the next copy."""
        with self._lock:
            for part in range(self.PARTS):
                self._wait(part)
            self._memory, self._at, self._end = None, 0, 0


def _after_fork() -> None:
    """A child's copy of the pages is not locked, and its driver is not to be called."""
    global _table, _lock
    _lock, _table = threading.RLock(), ([], [])
    for instance in _instances:
        instance._closed = instance._quiet = True
        instance._free = {}
        instance._lock = instance._ledger.lock = threading.RLock()


def _at_exit() -> None:
    for instance in list(_instances):
        instance._quiet = True


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
