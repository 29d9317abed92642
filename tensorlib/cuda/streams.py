"""Streams and events: what a GPU does in order, and what waits for what.

``Stream`` and ``Event`` of this module are ``tensorlib.cuda``'s. ``Queue`` and ``Mark`` are ``tensorlib.Stream`` and
``tensorlib.Event``, which the CPU has too: its one stream is always done.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from types import TracebackType
from typing import Any

from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib.cuda.devices import device as on_device
from tensorlib.cuda.devices import gpu_of, index_of
from tensorlib.errors import ArgumentError, DeviceError
from tensorlib.runtime import driver, gpu

__all__ = [
    "Event", "ExternalStream", "Stream", "StreamContext", "current_stream", "default_stream",
    "get_stream_from_external", "set_stream", "stream",
]  # fmt: skip

_A_PRIORITY = 32  # streams, after which they are given out again: PyTorch's number


class _Pool:
    """The streams of one GPU. They live as long as it does: a block of memory remembers the handle it was used on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[int, list[driver.Stream]] = {}
        self.next: dict[int, int] = {}

    def take(self, owner: gpu.GPU, priority: int) -> driver.Stream:
        """A stream of the priority: a new one, or after ``_A_PRIORITY`` of them each in turn."""
        with self.lock:
            made = self.made.setdefault(priority, [])
            if len(made) < _A_PRIORITY:
                _on(owner)
                made.append(driver.Stream(owner.driver, owner.index, priority))
                return made[-1]
            turn = self.next.get(priority, 0)
            self.next[priority] = (turn + 1) % _A_PRIORITY
            return made[turn]


_pools: weakref.WeakKeyDictionary[gpu.GPU, _Pool] = weakref.WeakKeyDictionary()


def _on(owner: gpu.GPU) -> driver.Driver:
    """The driver, with the GPU's context current in this thread."""
    if gpu.thread.active is not owner:
        owner.activate()
    return owner.driver


class _Foreign:
    """A stream that another library made."""

    def __init__(self, handle: int) -> None:
        self.handle = handle


def _waiting(owner: gpu.GPU, what: str) -> driver.Driver:
    owner.refuse_capture(what)
    return _on(owner)


class Queue:
    """Work that a device does in the order in which it was given: ``tensorlib.Stream``.

    device: "cpu", a GPU, or None for the current GPU, and the CPU where there is none. priority: lower numbers first.
    In a ``with`` block it is the thread's current stream.
    """

    device: Device
    _gpu: gpu.GPU | None
    _made: Any  # the runtime's stream; None for the default one

    def __init__(self, device: Any = None, priority: int = 0, **known: Any) -> None:
        unknown = known.keys() - {"stream_id", "device_index", "device_type"}
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument '{min(unknown)}'")
        if "device_index" in known:
            device = Device("cuda", known["device_index"]) if known.get("device_type", 1) else cpu
        if device is None:
            device = Device("cuda") if gpu.kind() is not None else cpu
        device = Device(device) if not isinstance(device, int) or device >= 0 else Device("cuda")
        self._entered: list[StreamContext] = []
        if device.type not in ("cuda", "hip"):
            if device is not cpu:
                raise ArgumentError(f"Stream: a stream is of a GPU or of the CPU, got device {str(device)!r}")
            self.device, self._gpu, self._made = device, None, None
            return
        self._gpu = owner = gpu_of(device)
        self.device = owner.device
        if "stream_id" in known:
            handle = known["stream_id"]
            self._made = _known(owner, handle) if handle else None
            return
        least, greatest = _on(owner).stream_priority_range()
        priority = min(max(int(priority), greatest), least)
        pool = _pools.get(owner)
        if pool is None:
            pool = _pools.setdefault(owner, _Pool())
        self._made = pool.take(owner, priority)

    @property
    def stream_id(self) -> int:
        """A number that no other stream of the device has; 0 for the default one."""
        return self._made.handle if self._made is not None else 0

    @property
    def device_index(self) -> int:
        """The number of the GPU; -1 for the CPU."""
        return -1 if self.device.index is None else self.device.index

    @property
    def device_type(self) -> int:
        """PyTorch's number of the kind of device: 0 the CPU, 1 a GPU."""
        return 0 if self._gpu is None else 1

    @property
    def native_handle(self) -> int:
        """The driver's handle of the stream: a CUstream or hipStream_t."""
        return self.stream_id

    def query(self) -> bool:
        """Whether all its work is done."""
        if self._gpu is None:
            return True
        return _waiting(self._gpu, "Stream.query").stream_query(self.stream_id)

    def synchronize(self) -> None:
        """Wait until all its work is done."""
        if self._gpu is not None:
            _waiting(self._gpu, "Stream.synchronize").stream_synchronize(self.stream_id)

    def is_capturing(self) -> bool:
        """Whether its work is being recorded into a graph."""
        if self._gpu is None or not self.stream_id:
            return False
        return _on(self._gpu).capture_info(self.stream_id)[0] == "active"

    def wait_event(self, event: Mark) -> None:
        """What it is given from now on waits for an event. The host does not."""
        event.wait(self)

    def wait_stream(self, stream: Queue) -> None:
        """What it is given from now on waits for what another stream was given until now. The host does not."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Mark | None = None) -> Mark:
        """Record an event, a new one for None, behind the work it was given until now."""
        if event is None:
            event = self._event()
        event.record(self)
        return event

    def _event(self) -> Mark:
        return Mark(self.device)

    def __enter__(self) -> Queue:
        context = StreamContext(self)
        context.__enter__()
        self._entered.append(context)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._entered.pop().__exit__(kind, error, at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self.device is other.device and self.stream_id == other.stream_id

    def __hash__(self) -> int:
        return hash((self.stream_id, self.device))

    def __repr__(self) -> str:
        return (
            f"tensorlib.Stream device_type={self.device.type}, device_index={self.device_index}, "
            f"stream_id={self.stream_id}"
        )


class Mark:
    """A place in a stream's work, to wait for or to ask about: ``tensorlib.Event``.

    device: "cpu" or a GPU; None is the current GPU, or the CPU where there is none. enable_timing: it notes when it
    was reached, for ``elapsed_time``. blocking: ``synchronize`` sleeps instead of asking again and again.
    """

    def __init__(
        self, device: Any = None, *, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        if interprocess:
            raise ArgumentError(
                "Event: interprocess=True: expected False: events are not shared between processes here; "
                "synchronize before the other process is told"
            )
        if device is None:
            device = Device("cuda") if gpu.kind() is not None else cpu
        self._device = Device(device)
        self._timing, self._blocking = bool(enable_timing), bool(blocking)
        self._made: driver.Event | None = None  # made when it is first recorded, on the stream's device
        self._gpu: gpu.GPU | None = None

    @property
    def device(self) -> Device | None:
        """The GPU that recorded it; None before."""
        return self._gpu.device if self._gpu is not None else cpu if self._device is cpu else None

    @property
    def event_id(self) -> int:
        """The driver's handle; 0 before it was recorded."""
        return self._made.handle if self._made is not None else 0

    def record(self, stream: Queue | None = None) -> None:
        """Note the end of what a stream, the current one for None, was given until now."""
        if stream is None:
            stream = current_stream() if self._device is not cpu else Queue(cpu)
        owner = stream._gpu
        if owner is None:
            return
        if self._made is None:
            _on(owner)
            self._gpu = owner
            self._made = driver.Event(owner.driver, owner.index, self._timing, self._blocking)
        elif owner is not self._gpu:
            assert self._gpu is not None
            raise DeviceError(
                f"Event.record: the event is of {self._gpu.device}, the stream of {owner.device}: expected one device; "
                f"make an event for each"
            )
        _on(owner).event_record(self._made.handle, stream.stream_id)

    def wait(self, stream: Queue | None = None) -> None:
        """What a stream, the current one for None, is given from now on waits for the event."""
        if self._made is None:
            return
        if stream is None:
            stream = current_stream()
        if stream._gpu is None:
            self.synchronize()
            return
        _on(stream._gpu).stream_wait_event(stream.stream_id, self._made.handle)

    def query(self) -> bool:
        """Whether the work before it is done; True before it was recorded."""
        if self._made is None or self._gpu is None:
            return True
        return _waiting(self._gpu, "Event.query").event_query(self._made.handle)

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        if self._made is not None and self._gpu is not None:
            _waiting(self._gpu, "Event.synchronize").event_synchronize(self._made.handle)

    def elapsed_time(self, end_event: Mark) -> float:
        """Milliseconds from this event to another. ValueError where they were not recorded, or without timing."""
        if not (self._timing and end_event._timing):
            raise ArgumentError("Both events must be created with argument 'enable_timing=True'.")
        if self._made is None or end_event._made is None:
            raise ArgumentError("Both events must be recorded before calculating elapsed time.")
        if not (self.query() and end_event.query()):
            raise DeviceError(
                "Both events must be completed before calculating elapsed time: call end_event.synchronize() first"
            )
        assert self._gpu is not None
        return _on(self._gpu).event_elapsed(self._made.handle, end_event._made.handle)

    def __repr__(self) -> str:
        index = -1 if self._gpu is None else self._gpu.index
        return f"tensorlib.Event device_type={self._device.type}, device_index={index}, event_id={self.event_id}"


for _class, _public in ((Queue, "Stream"), (Mark, "Event")):  # their names for users, whose own classes are below
    _class.__name__ = _class.__qualname__ = _public
    _class.__module__ = "tensorlib"


def _known(owner: gpu.GPU, handle: int) -> Any:
    """The stream of a handle: one of ours where it is, else another library's."""
    pool = _pools.get(owner)
    for made in pool.made.values() if pool is not None else ():
        for one in made:
            if one.handle == handle:
                return one
    return _Foreign(handle)


class Stream(Queue):
    """A GPU's stream: ``Stream(device=None, priority=0)``, of the current GPU for None. Lower priorities go first.

    In a ``with`` block it is the thread's current stream. There are 32 of each priority, given out in turn.
    """

    def __init__(self, device: Any = None, priority: int = 0, **known: Any) -> None:
        index = known["device_index"] if "device_index" in known else index_of(device)
        super().__init__(Device("cuda", index if index >= 0 else None), priority, **known)

    @property
    def cuda_stream(self) -> int:
        """The driver's handle."""
        return self.stream_id

    @property
    def priority(self) -> int:
        """Its priority: lower numbers first."""
        return getattr(self._made, "priority", 0)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """(the least, the greatest) priority of the current GPU: (0, -1) where it has two."""
        return _on(gpu_of(None)).stream_priority_range()

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_stream)

    def __cuda_stream__(self) -> tuple[int, int]:
        """The CUDA Stream Protocol: (version, handle)."""
        return 0, self.cuda_stream

    def _event(self) -> Event:
        return Event()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and Queue.__eq__(self, other)

    __hash__ = Queue.__hash__

    def __repr__(self) -> str:
        return f"<tensorlib.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class ExternalStream(Stream):
    """A stream that another library made, by its handle. It must live as long as it is used here."""

    def __init__(self, stream_ptr: int, device: Any = None, **known: Any) -> None:
        super().__init__(device, stream_id=stream_ptr, **known)


class Event(Mark):
    """A place in a GPU stream's work: ``Event(enable_timing=False, blocking=False)``; see ``tensorlib.Event``."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False
    ) -> None:
        if external:
            raise ArgumentError("Event: external=True: expected False: in a graph an event orders the graph's own work")
        super().__init__("cuda", enable_timing=enable_timing, blocking=blocking, interprocess=interprocess)

    @property
    def cuda_event(self) -> int:
        """The driver's handle; 0 before it was recorded."""
        return self.event_id

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_event)

    def __repr__(self) -> str:
        return f"<tensorlib.cuda.Event {self.cuda_event:#x}>" if self._made else "<tensorlib.cuda.Event uninitialized>"


def _stream_of(owner: gpu.GPU, made: Any) -> Stream:
    out = object.__new__(Stream)
    out.device, out._gpu, out._made, out._entered = owner.device, owner, made, []
    return out


def current_stream(device: Any = None) -> Stream:
    """The stream that this thread's work on a GPU, the current one for None, goes to."""
    owner = gpu_of(device)
    return _stream_of(owner, owner.local.current)


def default_stream(device: Any = None) -> Stream:
    """The stream that work goes to unless another is chosen."""
    return _stream_of(gpu_of(device), None)


def get_stream_from_external(data_ptr: int, device: Any = None) -> Stream:
    """A stream that another library made, by its handle."""
    return ExternalStream(data_ptr, device)


def set_stream(stream: Queue | None) -> None:
    """Make a stream this thread's current one, and its GPU the current GPU; None changes nothing."""
    if stream is not None and stream._gpu is not None:
        on_device(stream.device).__enter__()
        stream._gpu.set_stream(stream._made)


class StreamContext:
    """A stream, and its GPU, for the block; None changes nothing."""

    def __init__(self, stream: Queue | None) -> None:
        self.stream = stream
        self._before: tuple[on_device, Any] | None = None

    def __enter__(self) -> None:
        stream = self.stream
        if stream is None or stream._gpu is None:
            return
        there = on_device(stream.device)
        there.__enter__()
        self._before = there, stream._gpu.set_stream(stream._made)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None and self.stream is not None and self.stream._gpu is not None:
            (there, before), self._before = self._before, None
            self.stream._gpu.set_stream(before)
            there.__exit__(kind, error, at)


def stream(stream: Queue | None) -> StreamContext:
    """A stream, and its GPU, for the block: ``with tensorlib.cuda.stream(s): ...``. None changes nothing."""
    return StreamContext(stream)
