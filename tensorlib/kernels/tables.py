"""Tables that kernels read and nothing writes: made on the host, and kept on the device while they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tensorlib._array import DeviceArray, contiguous_strides, empty
from tensorlib._device import device as Device
from tensorlib.runtime.engine import engine_of


def _upload(array: np.ndarray, engine: Any) -> DeviceArray:
    array = np.ascontiguousarray(array)
    ptr, owner = getattr(engine, "upload_constant", engine.upload)(array)
    return DeviceArray(ptr, array.shape, contiguous_strides(array.shape), array.dtype, engine.device, owner)


class Tables:
    """The tables asked for last: at most ``entries`` of them, and at most ``nbytes`` together.

    What was uploaded on a stream is there for what that stream is given later, so each stream has its own. While a
    graph is captured tables are made for the graph, which keeps them, and no other may use: its memory is its own.
    """

    def __init__(self, entries: int = 256, nbytes: int = 64 << 20) -> None:
        self._entries, self._nbytes = entries, nbytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, tuple[DeviceArray, ...]]] = OrderedDict()
        self._size = 0

    def get(self, key: Hashable, device: Device, make: Callable[[], Sequence[np.ndarray]]) -> tuple[DeviceArray, ...]:
        """The tables of a key on a device: those kept, or what ``make`` gives, uploaded."""
        engine: Any = engine_of(device)
        local = getattr(engine, "local", None)
        thread = getattr(engine, "thread", None)  # none where nothing is recorded
        if thread is None or thread.recording is None:
            return self._get(key, engine, local, make)
        with thread.recording.aside() as recording:
            found = self._get(key, engine, local, make)
        for table in found:
            recording.held(table)
        return found

    def _get(
        self, key: Hashable, engine: Any, local: Any, make: Callable[[], Sequence[np.ndarray]]
    ) -> tuple[DeviceArray, ...]:
        if local is not None and local.capture is not None:
            return tuple([_upload(array, engine) for array in make()])
        key = (engine.device, 0 if local is None else local.stream, key)
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found[0] is engine:  # or the device was forgotten since, and its memory with it
                self._kept.move_to_end(key)
                return found[1]
        made = tuple([_upload(array, engine) for array in make()])
        dropped = []  # outside the lock: freeing calls the allocator
        with self._lock:
            dropped.append(self._kept.pop(key, None))
            self._kept[key] = engine, made
            self._size += _size(made) - (_size(dropped[0][1]) if dropped[0] else 0)
            while len(self._kept) > self._entries or (self._size > self._nbytes and len(self._kept) > 1):
                _, oldest = self._kept.popitem(last=False)
                self._size -= _size(oldest[1])
                dropped.append(oldest)
        return made

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._kept, self._size = OrderedDict(), 0


class Places:
    """Tables of one shape in one piece of memory of the device: a new one takes the place used longest ago.

    For tables that change now and then, as those of addresses do. Memory of its own for each would itself change where
    the allocator puts what comes next, and so the addresses. Each stream has its own places, as in `Tables`.
    """

    def __init__(self, count: int = 8) -> None:
        self._count = count
        self._lock = threading.Lock()
        #: (device, stream, shape) -> its engine, the memory, and which place holds which table, the latest last.
        self._kept: OrderedDict[Hashable, tuple[Any, DeviceArray, OrderedDict[Hashable, int]]] = OrderedDict()

    def get(self, key: Hashable, device: Device, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> DeviceArray:
        """The int64 table of a key on a device: the one kept, or what ``make`` gives, uploaded."""
        engine: Any = engine_of(device)
        local = getattr(engine, "local", None)
        if local is not None and local.capture is not None:
            return _upload(make(), engine)
        where = (engine.device, 0 if local is None else local.stream, shape)
        with self._lock:
            found = self._kept.get(where)
            if found is None or found[0] is not engine:
                found = engine, empty((self._count, *shape), np.int64, engine.device), OrderedDict()
            self._kept[where] = found
            self._kept.move_to_end(where)
            if len(self._kept) > self._count:
                self._kept.popitem(last=False)
            _, memory, places = found
            place = places.pop(key, None)
            if place is not None:
                places[key] = place
                return memory[place]
            place = len(places) if len(places) < self._count else places.popitem(last=False)[1]
            table: DeviceArray = memory[place]
            try:
                engine.write(table.ptr, table.owner, np.ascontiguousarray(make()))
            except BaseException:
                places.clear()  # nobody knows what the place holds now
                raise
            places[key] = place
        return table


def _size(arrays: Sequence[DeviceArray]) -> int:
    return sum(a.nbytes for a in arrays)
