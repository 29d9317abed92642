"""How a batch travels from a worker: its arrays through shared memory that has no name, the rest as a short message.

A segment is a memfd (Linux): a file in memory that only the descriptors and mappings of two processes hold. The kernel
frees it with the last of them, however they end: there is no name in /dev/shm that could be left behind. The worker
makes segments, the parent maps them and gives each back to its worker when the last tensor over it is gone, so that an
epoch runs in a few segments per worker, whose pages are faulted in once. Where there is no memfd (macOS, Windows) and
for batches below 16 KB the arrays travel in the message itself.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from multiprocessing import reduction
from typing import Any

import numpy as np

_ALIGN = 64  # every array begins at a cache line
_SMALL = 1 << 14  # bytes of arrays up to which the message carries them: below the cost of a mapping
_LIMIT = 32  # segments per worker that a caller may hold; beyond, as each costs a descriptor, arrays are copied
_SHARES = hasattr(os, "memfd_create")


class Segment:
    """Shared memory of ``size`` bytes, mapped in this process."""

    __slots__ = ("bytes", "number", "size")

    def __init__(self, number: int, fd: int, size: int) -> None:
        self.number = number
        self.size = size
        self.bytes = np.frombuffer(mmap.mmap(fd, size), np.uint8)  # unmapped with the last array over it


class _Lease:
    """What NumPy keeps alive under the arrays of one batch; the segment is free again when it goes."""

    __slots__ = ("__array_interface__", "free", "segment")

    def __init__(self, segment: Segment, free: list[Segment]) -> None:
        self.segment = segment
        self.free = free
        self.__array_interface__ = segment.bytes.__array_interface__

    def __del__(self) -> None:
        self.free.append(self.segment)


class _Pickler(pickle.Pickler):
    """Takes the arrays out of what it pickles."""

    def __init__(self, file: Any, arrays: list[np.ndarray]) -> None:
        super().__init__(file, protocol=5)
        self.arrays = arrays

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray or obj.dtype.hasobject or obj.dtype.names:
            return NotImplemented
        self.arrays.append(np.ascontiguousarray(obj))
        return _take, (len(self.arrays) - 1, obj.shape)


_arriving: list[np.ndarray] = []  # the arrays of the message that is being unpickled


def _take(number: int, shape: tuple[int, ...]) -> np.ndarray:
    return _arriving[number].reshape(shape)


class Sender:
    """The worker's side."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.segments: dict[int, Segment] = {}
        self.made = 0

    def send(self, head: tuple[Any, ...], data: Any, segment: int | None) -> None:
        """Send ``head`` and ``data``. ``segment``: the number of one that may be written; -1 to send no new one."""
        arrays: list[np.ndarray] = []
        file = io.BytesIO()
        _Pickler(file, arrays).dump(data)
        table, end = [], 0
        for array in arrays:
            table.append((array.dtype, end, array.nbytes))
            end += -(-array.nbytes // _ALIGN) * _ALIGN
        place, fd, size, inline = None, -1, 0, b""
        if end <= _SMALL or not _SHARES or (segment == -1):
            buffer = np.zeros(end, np.uint8)
            _fill(buffer, table, arrays)
            inline = buffer.tobytes()
        else:
            given = None if segment is None else self.segments.get(segment)
            if given is None or given.size < end:
                if given is not None:
                    del self.segments[given.number]  # the parent lets its own mapping go when it sees another number
                size = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
                fd = os.memfd_create("tensorlib-batch", os.MFD_CLOEXEC)
                os.ftruncate(fd, size)
                given = Segment(self.made, fd, size)
                self.segments[given.number] = given
                self.made += 1
            place = given.number
            _fill(given.bytes, table, arrays)
        try:
            self.conn.send_bytes(pickle.dumps((head, place, size, table, inline, file.getbuffer().tobytes()), 5))
            if size:
                reduction.send_handle(self.conn, fd, None)  # type: ignore[arg-type]
        finally:
            if fd >= 0:
                os.close(fd)


def _fill(buffer: np.ndarray, table: list[Any], arrays: list[np.ndarray]) -> None:
    for (_, begin, size), array in zip(table, arrays, strict=True):
        buffer[begin : begin + size] = array.reshape(-1).view(np.uint8)


class Receiver:
    """The parent's side of one worker."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.free: list[Segment] = []
        self.lent: dict[int, Segment] = {}  # given to the worker with a task
        self.held = 0  # segments that exist

    def lend(self) -> int | None:
        """A segment for the worker to write into: its number, None for a new one, -1 for none."""
        if self.free:
            segment = self.free.pop()
            self.lent[segment.number] = segment
            return segment.number
        return None if self.held < _LIMIT else -1

    def receive(self, lent: Any) -> tuple[tuple[Any, ...], Any]:
        """(head, data) of the next message. ``lent(head)``: the number that ``lend`` gave for its task.

        The head's second entry becomes "unreadable", and data the error, where the data cannot be unpickled here.
        """
        head, place, size, table, inline, body = pickle.loads(self.conn.recv_bytes())
        given = lent(head)
        segment = self.lent.pop(given, None) if given is not None else None
        if place is None:
            if segment is not None:
                self.free.append(segment)  # the batch was small: unused
            base = np.frombuffer(bytearray(inline), np.uint8)
        else:
            if size:
                if segment is not None:
                    self.held -= 1  # it was too small: the worker let it go
                fd = reduction.recv_handle(self.conn)
                try:
                    segment = Segment(place, fd, size)
                finally:
                    os.close(fd)
                self.held += 1
            assert segment is not None and segment.number == place
            base = np.asarray(_Lease(segment, self.free))
        _arriving[:] = [base[begin : begin + n].view(dtype) for dtype, begin, n in table]
        try:
            return head, pickle.loads(body)
        except Exception as error:  # a class that unpickles in the worker only
            return (head[0], "unreadable", *head[2:]), error
        finally:
            _arriving.clear()
