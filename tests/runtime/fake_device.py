"""A device in Python for tests of its memory: streams that work when they are told to, events, a limit, faults."""

from __future__ import annotations

import bisect
import threading

import numpy as np

from tensorlib.errors import DriverError
from tensorlib.runtime.driver import OutOfDeviceMemory

BASE = 1 << 40
STEP = 1 << 21  # segments lie on multiples of it, with nothing between them where they fit exactly


class FakeDevice:
    """What an Allocator asks of a driver. Every rule of the real one that matters here is asserted."""

    def __init__(self, capacity: int = 1 << 30, kind: str = "cuda") -> None:
        self.kind = kind
        self.capacity = capacity
        self.others = 0  # bytes of other processes
        self.segments: dict[int, int] = {}  # address -> bytes
        self.given: dict[int, int] = {}  # stream -> pieces of work it was given
        self.done: dict[int, int] = {}  # stream -> pieces that are done
        self.events: dict[int, tuple[int, int] | None] = {}  # event -> (stream, pieces before it)
        self.gone: set[int] = set()  # streams that were destroyed
        self.capturing = False
        self.mode = "global"
        self.failures = 0  # so many calls of malloc fail that would not
        self.calls = 0
        self.host: dict[int, np.ndarray] = {}
        self.host_capacity = 1 << 26
        self._next = 1
        self._lock = threading.RLock()  # the collector may run a destructor, which frees, anywhere

    # memory
    def malloc(self, nbytes: int) -> int:
        with self._lock:
            self.calls += 1
            assert nbytes > 0
            if self.capturing and self.mode != "relaxed":
                raise DriverError("cuMemAlloc: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)", 900)
            if self.failures:
                self.failures -= 1
                raise OutOfDeviceMemory("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory", 2)
            if nbytes > self.memory_info()[0]:
                raise OutOfDeviceMemory("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory", 2)
            at = BASE
            for start in sorted(self.segments):
                if start - at >= nbytes:
                    break
                at = max(at, start + -(-self.segments.get(start, 0) // STEP) * STEP)
            self.segments[at] = nbytes
            return at

    def free(self, ptr: int) -> None:
        with self._lock:
            self.calls += 1
            if self.capturing and self.mode != "relaxed":
                raise DriverError("cuMemFree: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)", 900)
            del self.segments[ptr]
        self.synchronize()

    def memory_info(self) -> tuple[int, int]:
        return self.capacity - self.others - sum(list(self.segments.values())), self.capacity

    def host_allocate(self, nbytes: int) -> int:
        self.calls += 1
        if nbytes + sum(array.nbytes for array in self.host.values()) > self.host_capacity:
            raise OutOfDeviceMemory("cuMemHostAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory", 2)
        array = np.zeros(nbytes + 4096, np.uint8)
        start = int(-array.ctypes.data % 4096)
        self.host[array.ctypes.data + start] = array[start : start + nbytes]
        return int(array.ctypes.data + start)

    def host_free(self, ptr: int) -> None:
        self.calls += 1
        del self.host[ptr]

    def holds(self, ptr: int, size: int) -> bool:
        """Whether bytes lie in one segment."""
        starts = sorted(self.segments)
        at = bisect.bisect_right(starts, ptr) - 1
        return at >= 0 and ptr + size <= starts[at] + self.segments[starts[at]]

    # streams and events
    def work(self, stream: int) -> int:
        """Give a stream a piece of work; returns its number."""
        self.given[stream] = self.given.get(stream, 0) + 1
        return self.given[stream]

    def finish(self, stream: int, pieces: int = 1 << 30) -> None:
        """Let a stream do some of its work."""
        self.done[stream] = min(self.given.get(stream, 0), self.done.get(stream, 0) + pieces)

    def synchronize(self) -> None:
        for stream in self.given:
            self.finish(stream)

    def event_create(self) -> int:
        with self._lock:
            self.calls += 1
            event, self._next = self._next, self._next + 1
            self.events[event] = None
            return event

    def event_destroy(self, event: int) -> None:
        self.calls += 1
        del self.events[event]

    def event_record(self, event: int, stream: int) -> None:
        self.calls += 1
        assert event in self.events
        if stream in self.gone:
            raise DriverError("cuEventRecord: CUDA_ERROR_INVALID_HANDLE (400)", 400)
        self.events[event] = stream, self.given.get(stream, 0)

    def event_query(self, event: int) -> bool:
        self.calls += 1
        assert not self.capturing or self.mode == "relaxed", "an event was queried during a capture"
        mark = self.events[event]
        assert mark is not None, "an event was queried that was never recorded"
        return self.done.get(mark[0], 0) >= mark[1]

    def event_synchronize(self, event: int) -> None:
        self.calls += 1
        assert not self.capturing, "an event was waited for during a capture"
        mark = self.events[event]
        assert mark is not None
        self.done[mark[0]] = max(self.done.get(mark[0], 0), mark[1])

    def exchange_capture_mode(self, mode: str) -> str:
        before, self.mode = self.mode, mode
        return before
