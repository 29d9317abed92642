"""Copies between the host and GPUs, and between GPUs: in the order of the streams, and of their own accord where asked.

Memory of the host that is not page-locked is copied by the driver through memory that is, while the caller waits.
Page-locked memory is copied while the host goes on if ``non_blocking``: whoever reads the result on the host has to
wait for the stream first, and the memory is not given to others before the copy is done.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._array import DeviceArray, empty, is_contiguous
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib.errors import CaptureError
from tensorlib.kernels import pointwise
from tensorlib.runtime import pinned
from tensorlib.runtime.engine import engine_of, gpus, resolve


def _is_gpu(device: Device) -> bool:
    return device.type in ("cuda", "hip")


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def empty_pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A C-contiguous array in page-locked memory with undefined elements. DeviceError without a GPU."""
    memory = engine_of(Device("cuda")).pinned  # type: ignore[attr-defined]
    block: np.ndarray = memory.allocate(math.prod(shape) * dtype.itemsize)
    return block.view(dtype).reshape(shape)


def pin(array: np.ndarray) -> np.ndarray:
    """A copy in page-locked memory, its dimensions in the same order; the array itself where it lies there already."""
    if pinned.is_pinned(array):
        return array
    order = sorted(range(array.ndim), key=lambda d: -abs(array.strides[d])) if 0 not in array.strides else []
    out = empty_pinned(tuple(array.shape[d] for d in order) if order else array.shape, array.dtype)
    out = out.transpose(np.argsort(order)) if order else out
    np.copyto(out, array)
    return out


def _contiguous(x: DeviceArray) -> DeviceArray:
    if is_contiguous(x):
        return x
    packed: DeviceArray = empty(x.shape, x.dtype, x.device)
    pointwise.copy(packed, x)
    return packed


def _active(engine: Any) -> Any:
    """The driver, with the GPU's context current in this thread."""
    if engine.thread.active is not engine:
        engine.activate()
    return engine.driver


def _in(engine: Any, ptr: int, host: np.ndarray, non_blocking: bool) -> None:
    """Copy page-locked memory to a GPU's."""
    capture, stream = engine.local.capture, engine.stream
    if not non_blocking and capture is None and gpus().sync_debug[0]:
        gpus().note_sync("writing to the GPU")
    _active(engine).copy_to_device(ptr, _address(host), host.nbytes, stream)
    if capture is not None:
        capture.keep.append(host)  # every replay reads it again
    elif non_blocking:
        pinned.record(host, stream, engine.memory.backend)
    else:
        engine.driver.stream_synchronize(stream)


def _out(engine: Any, host: np.ndarray, x: DeviceArray, non_blocking: bool) -> None:
    """Copy a GPU's memory to page-locked memory."""
    capture, stream = engine.local.capture, engine.stream
    if not non_blocking:
        engine.refuse_capture("reading from the GPU")
        if gpus().sync_debug[0]:
            gpus().note_sync("reading from the GPU")
    _active(engine).copy_to_host(_address(host), x.ptr, host.nbytes, stream)
    if capture is not None:
        capture.keep.append(host)  # every replay writes it again
    elif non_blocking:
        pinned.record(host, stream, engine.memory.backend)
    else:
        engine.driver.stream_synchronize(stream)


def _check_between(*devices: Device) -> None:
    for device in devices:
        engine_of(device).refuse_capture("copying from one GPU to another")  # type: ignore[attr-defined]


def _between(x: DeviceArray, out: DeviceArray) -> None:
    """Copy between two GPUs: behind what either's stream was given, and before what they are given later."""
    x = _contiguous(x)
    source: Any = engine_of(x.device)
    target: Any = engine_of(out.device)
    if source.driver is not target.driver:  # of two vendors
        target.write(out.ptr, out.owner, _array.to_host(x))
        return
    if target.driver.can_access_peer(target.index, source.index):
        target.driver.enable_peer(target.index, source.index)
    source.follow(target)  # the memory of out may still be in use there
    _active(source).copy_peer(out.ptr, target.index, x.ptr, source.index, x.nbytes, source.stream)
    target.follow(source)


def to(array: Any, device: Device, non_blocking: bool = False) -> Any:
    """A C-contiguous copy on another device."""
    device = resolve(device)
    if isinstance(array, np.ndarray):
        if not _is_gpu(device):
            return _array.to_device(array, device)
        locked = pinned.is_pinned(array) and array.flags.c_contiguous
        engine: Any = engine_of(device)
        if not locked:
            if engine.local.capture is not None:
                raise CaptureError(
                    "copying from the CPU to the GPU: not permitted while a graph is captured: each replay would copy "
                    "what the tensor holds now; copy it before, into a tensor that the captured step reads, or copy "
                    "from .pin_memory() with non_blocking=True"
                )
            return _array.to_device(array, device)
        if array.dtype.kind == "c":
            _array.refuse_complex(device)
        out: DeviceArray = empty(array.shape, array.dtype, device)
        if array.size:
            _in(engine, out.ptr, array, non_blocking)
        return out
    here = array.device
    if not _is_gpu(here):
        host = _array.to_host(array)
        return host if device is cpu else _array.to_device(host, device)
    if device is cpu:
        if not non_blocking or not array.size:
            return _array.to_host(array)
        host = empty_pinned(array.shape, array.dtype)
        _out(engine_of(here), host, _contiguous(array), True)
        return host
    if not _is_gpu(device):
        return _array.to_device(_array.to_host(array), device)
    _check_between(here, device)
    out = empty(array.shape, array.dtype, device)
    if array.size:
        _between(array, out)
    return out


def write(target: Any, source: Any, non_blocking: bool) -> bool:
    """target[...] = source, where they are on two devices and lie so that one copy does it; whether that was so."""
    if target.shape != source.shape or target.dtype != source.dtype or not target.size:
        return False
    if isinstance(source, np.ndarray):
        if not (_is_gpu(target.device) and is_contiguous(target) and source.flags.c_contiguous):
            return False
        if not pinned.is_pinned(source):
            return False
        _in(engine_of(target.device), target.ptr, source, non_blocking)
        return True
    if isinstance(target, np.ndarray):
        if not (_is_gpu(source.device) and target.flags.c_contiguous and pinned.is_pinned(target)):
            return False
        _out(engine_of(source.device), target, _contiguous(source), non_blocking)
        return True
    if _is_gpu(target.device) and _is_gpu(source.device) and is_contiguous(target):
        _check_between(source.device, target.device)
        _between(source, target)
        return True
    return False


def is_pinned(array: Any) -> bool:
    """Whether an array lies in page-locked memory of the host."""
    return isinstance(array, np.ndarray) and pinned.is_pinned(array)


def record_stream(array: Any, handle: int) -> None:
    """Tell the allocator that a stream uses an array's memory: it is not given to others before that is done."""
    if isinstance(array, DeviceArray) and _is_gpu(array.device) and array.owner is not None:
        engine_of(array.device).memory.record_stream(array.owner, handle)  # type: ignore[attr-defined]


def available() -> bool:
    """Whether there is a GPU, so that page-locked memory exists."""
    return gpus().kind() is not None
