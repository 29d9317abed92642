"""The GPUs of this process: the drivers found, what "cuda" means here, each thread's current device and stream.

Nothing is loaded before somebody asks. On a machine with AMD GPUs and none of NVIDIA's, "cuda" is the AMD GPU, as in
PyTorch for ROCm, and "hip:0" is another name for "cuda:0".
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any

import numpy as np

from tensorlib._device import device as Device
from tensorlib.errors import CaptureError, DeviceError, OutOfMemoryError
from tensorlib.runtime import caching, cuda, hip, pinned
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.driver import Driver, Event, Stream, Unavailable
from tensorlib.runtime.engine import planning
from tensorlib.runtime.gpu_launch import Launchers

STAGED = 1 << 20  #: bytes: what is written to a GPU through page-locked memory of the library's own, at most
STAGED_AT_MOST = 32 << 20  #: bytes that may be on their way so, for one stream


class _Found:
    """The drivers that could be loaded, and why the others could not."""

    def __init__(self) -> None:
        self.drivers: dict[str, Driver] = {}
        self.why_not: list[str] = []
        for name, load in (("cuda", cuda.CUDA), ("hip", hip.HIP)):
            try:
                self.drivers[name] = load()
            except Unavailable as error:
                self.why_not.append(str(error))


_lock = threading.RLock()
_found: _Found | None = None
_gpus: dict[Device, GPU] = {}


class _Thread(threading.local):
    """What a thread has chosen."""

    index = 0  # its current device
    active: GPU | None = None  # whose context its last driver call was made in
    recording: Any = None  # the Recording that is told of what the thread does on a GPU


thread = _Thread()


#: How many graphs are being captured in this process: a capture forbids other streams' waits too, unless they say so.
captures = [0]

#: What is done when the host waits for a GPU to read from it or write to it: 0 nothing, 1 a warning, 2 an error.
sync_debug = [0]


def note_sync(what: str) -> None:
    """Say that the host waits for the GPU, where ``cuda.set_sync_debug_mode`` asked for that."""
    if sync_debug[0] > 1:
        raise DeviceError(f"called a synchronizing CUDA operation: {what} (cuda.set_sync_debug_mode)")
    warnings.warn(f"called a synchronizing CUDA operation: {what}", UserWarning, stacklevel=3)


def _look() -> _Found:
    global _found
    found = _found
    if found is None:
        with _lock:
            found = _found
            if found is None:
                found = _found = _Found()
    return found


def drivers() -> dict[str, Driver]:
    """The drivers that have a device: "cuda", "hip", both or none."""
    return _look().drivers


def why_not() -> list[str]:
    """For each vendor that cannot be used here, a sentence that says why and what to do."""
    return list(_look().why_not)


def kind() -> str | None:
    """What "cuda" means here: "cuda"; "hip" where only AMD's GPUs are; None without any."""
    return next(iter(drivers()), None)


def device_count() -> int:
    """How many devices "cuda" has."""
    found = kind()
    return drivers()[found].count if found is not None else 0


def current_device() -> int:
    """The number of the thread's current device."""
    return thread.index


def set_device(index: int) -> None:
    """Make another device the thread's current one. DeviceError where there is none of that number."""
    resolve(Device("cuda", index))
    thread.index = index


def resolve(device: Device) -> Device:
    """The device with its index. DeviceError, with the reason, where it is not there."""
    found = kind()
    if found is None:
        reasons = "; ".join(why_not())
        raise DeviceError(f"device {str(device)!r}: no GPU can be used here: {reasons}; use 'cpu'")
    name = "cuda" if device.type == "cuda" or found == "hip" else "hip"
    driver = drivers().get(found if name == "cuda" else "hip")
    if driver is None:
        raise DeviceError(f"device {str(device)!r}: there is no AMD GPU here: {'; '.join(why_not())}; use 'cuda'")
    index = thread.index if device.index is None else device.index
    if index >= driver.count:
        there = f"{name}:0" if driver.count == 1 else f"{name}:0 to {name}:{driver.count - 1}"
        raise DeviceError(f"device {str(device)!r}: invalid device ordinal: this machine has {there}")
    return Device(name, index)


def gpu(device: Device) -> GPU:
    """The GPU of a device, made at first use. DeviceError, with the reason, where it is not there."""
    device = resolve(device)
    found = _gpus.get(device)
    if found is None:
        with _lock:
            found = _gpus.get(device)
            if found is None:
                name = kind() if device.type == "cuda" else "hip"
                assert name is not None and device.index is not None
                found = _gpus[device] = GPU(device, drivers()[name], device.index)
                device.engine = found
                planning[0] = True
    return found


def used() -> list[GPU]:
    """The GPUs that this process has used."""
    return list(_gpus.values())


def reset() -> None:
    """Forget every driver and device, as if none had been used: for tests with a driver of their own."""
    global _found
    with _lock:
        for device, engine in _gpus.items():
            device.engine = None
            engine.forget()
        _gpus.clear()
        _found = None
        thread.index, thread.active = 0, None
        sync_debug[0] = captures[0] = 0


def _after_fork() -> None:
    """A child shares no context with its parent: whatever it asks of a GPU must find the driver's refusal."""
    thread.active = None
    for engine in _gpus.values():
        engine.forget()


os.register_at_fork(after_in_child=_after_fork)


class _Local(threading.local):
    """What a thread has chosen on one GPU."""

    stream = 0  # handle of its current stream; 0 is the default stream
    current: Stream | None = None  # the same as an object, None for the default stream
    capture: Any = None  # the graph being captured: something with a list ``keep`` of what must outlive the capture


class _Backend:
    """The driver, with this GPU's context current at every call: what the allocator asks, from any thread."""

    def __init__(self, gpu: GPU) -> None:
        self._gpu = gpu

    def __getattr__(self, name: str) -> Any:
        gpu, method = self._gpu, getattr(self._gpu.driver, name)
        if not callable(method):
            return method

        def call(*args: Any, **options: Any) -> Any:
            if thread.active is not gpu:
                gpu.activate()
            return method(*args, **options)

        setattr(self, name, call)
        return call


class GPU:
    """One device: its memory, its streams and the kernels loaded on it. An Engine."""

    def __init__(self, device: Device, driver: Driver, index: int) -> None:
        self.device = device
        self.driver = driver
        self.index = index
        self.properties = driver.properties(index)
        self.target: str = self.properties.target
        self.thread = thread
        self.local = _Local()
        self.activate()
        backend = _Backend(self)
        self.memory = caching.Allocator(backend, index)
        self.pinned = pinned.Pinned(backend)
        self.launchers = Launchers(self)
        #: What the layers above keep for this GPU and drop with its kernels: calls that were prepared, by their key.
        self.plans: dict[Any, Any] = {}
        driver.explain.append(self.launchers.explain)
        self._side: Stream | None = None  # for uploads while another stream is captured
        self._ring = pinned.Ring(self.pinned, driver)
        self._staged: dict[int, int] = {}  # stream -> bytes staged for it since it was last waited for, about

    def __repr__(self) -> str:
        return f"<GPU {self.device}: {self.properties.name}, {self.target}>"

    def forget(self) -> None:
        """Drop every kernel that is loaded and every plan."""
        self.launchers.forget()
        self.plans.clear()

    def activate(self) -> None:
        """Make the device's context the current one of this thread."""
        self.driver.activate(self.index)
        thread.active = self

    @property
    def stream(self) -> int:
        """Handle of the thread's current stream on this GPU."""
        return self.local.stream

    def set_stream(self, stream: Stream | None) -> Stream | None:
        """Make a stream, or None for the default one, the thread's current stream; returns the one before."""
        before = self.local.current
        self.local.current = stream
        self.local.stream = 0 if stream is None else stream.handle
        return before

    def follow(self, other: GPU) -> None:
        """What this GPU's current stream is given from now on waits for what another's was given until now."""
        event = Event(other.driver, other.index)
        other.activate()
        other.driver.event_record(event.handle, other.stream)
        self.activate()
        self.driver.stream_wait_event(self.stream, event.handle)

    def synchronize(self) -> None:
        """Wait until the GPU has done everything it was given. DeviceError while a stream is captured."""
        self.refuse_capture("synchronize")
        if thread.active is not self:
            self.activate()
        self.driver.synchronize()

    def refuse_capture(self, what: str) -> None:
        """CaptureError while this thread captures a graph: the host cannot wait for work that is only written down."""
        if self.local.capture is not None:
            raise CaptureError(
                f"{what}: not permitted while a graph is captured: the work is recorded and has not run, so there is "
                f"nothing to wait for or to read; move item(), numpy(), printing, `if tensor:` and operators whose "
                f"result's shape depends on data out of the captured step"
            )

    # -- memory
    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """A block of the cache, for the thread's current stream."""
        block = self.memory.allocate(nbytes, self.local.stream)
        if thread.recording is not None:
            thread.recording.allocated(self, block, nbytes)
        return block.ptr, block

    def upload(self, data: np.ndarray) -> tuple[int, Any]:
        """A block with a copy of data. While a graph is captured, its replays copy the same data again."""
        ptr, owner = self.allocate(data.nbytes)
        if self.local.capture is None:
            self.write(ptr, owner, data)
        elif data.nbytes:
            kept, _ = self._upload_beside(data)
            self.driver.copy(ptr, kept, data.nbytes, self.local.stream)
        return ptr, owner

    def upload_constant(self, data: np.ndarray) -> tuple[int, Any]:
        """`upload` of what nothing will ever write to: replays of a graph being captured need not copy it again."""
        if self.local.capture is None or not data.nbytes:
            return self.upload(data)
        return self._upload_beside(data)

    def _upload_beside(self, data: np.ndarray) -> tuple[int, Any]:
        """A block with a copy of data, made at once though a graph is captured, which keeps the block.

        The graph must not read host memory that is gone, nor memory that one of its own nodes has reused by the time
        of a replay: the data go to a block that no node frees, by a stream outside the capture.
        """
        capture = self.local.capture
        if thread.active is not self:
            self.activate()
        mode = self.driver.exchange_capture_mode("relaxed")
        try:
            if self._side is None:
                self._side = Stream(self.driver, self.index)
            side = self._side.handle
            kept = self.memory.allocate(data.nbytes, side)
            self.driver.copy_to_device(kept.ptr, _address(data), data.nbytes, side)
            self.driver.stream_synchronize(side)
        finally:
            self.driver.exchange_capture_mode(mode)
        capture.keep.append(kept)
        return kept.ptr, kept

    def read(self, ptr: int, owner: Any, out: np.ndarray) -> None:
        """Copy from the GPU, after what the current stream was given, and wait for it."""
        self.refuse_capture("reading from the GPU")
        if thread.recording is not None:
            thread.recording.refuse("reading from the GPU")
        if not out.nbytes:
            return
        if sync_debug[0]:
            note_sync("reading from the GPU")
        if thread.active is not self:
            self.activate()
        stream = self.local.stream
        self.driver.copy_to_host(_address(out), ptr, out.nbytes, stream)
        self._wait(stream)

    def _wait(self, stream: int) -> None:
        """Wait for a stream, which is not captured, though another one may be."""
        if not captures[0]:
            self.driver.stream_synchronize(stream)
            return
        mode = self.driver.exchange_capture_mode("relaxed")
        try:
            self.driver.stream_synchronize(stream)
        finally:
            self.driver.exchange_capture_mode(mode)

    def write(self, ptr: int, owner: Any, data: np.ndarray) -> None:
        """Copy to the GPU, after what the current stream was given; data may change when it returns.

        Up to STAGED bytes go by way of page-locked memory of the library's own, and the host does not wait. More than
        that would be copied twice for it: the driver does it, and the host waits.
        """
        self.refuse_capture("writing to the GPU")
        if not data.nbytes:
            return
        if thread.recording is not None:
            thread.recording.wrote(self, ptr, owner, data)
        if thread.active is not self:
            self.activate()
        if data.nbytes <= STAGED and self._stage(ptr, data):
            return
        if sync_debug[0]:
            note_sync("writing to the GPU from memory that is not pinned")
        stream = self.local.stream
        self.driver.copy_to_device(ptr, _address(data), data.nbytes, stream)
        self._wait(stream)

    def _stage(self, ptr: int, data: np.ndarray) -> bool:
        """Copy through a piece of page-locked memory, which is used again when the copy is done; False without any."""
        stream, nbytes = self.local.stream, data.nbytes
        try:
            if nbytes <= pinned.Ring.MOST:
                self._ring.copy(ptr, _address(data), nbytes, stream)
                return True
            piece = self.pinned.allocate(nbytes)
        except OutOfMemoryError:  # the system locks no more pages
            return False
        piece[...] = data.reshape(-1).view(np.uint8)
        self.driver.copy_to_device(ptr, _address(piece), nbytes, stream)
        self.pinned.record(piece, stream)
        waiting = self._staged.get(stream, 0) + nbytes
        if waiting > STAGED_AT_MOST:  # a host that is so far ahead of its GPU would lock ever more memory
            if sync_debug[0]:
                note_sync("writing to the GPU faster than it reads")
            self._wait(stream)
            waiting = 0
        self._staged[stream] = waiting
        return True

    # -- launches
    def launch(
        self,
        kernel: Jit,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> None:
        """Compile and load the kernel where this is its first such launch, and run it on the current stream."""
        self.launchers.run(kernel, grid, args, constants, num_warps, num_stages, options)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
