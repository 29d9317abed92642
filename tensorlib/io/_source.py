"""Where the bytes of a checkpoint come from, and where its tensors go: what both formats share."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, wrap
from tensorlib._device import device as Device
from tensorlib.errors import CheckpointError, DeviceError


class Source:
    """A file that can be read at any place: ``size`` bytes from where it stood, read or mapped."""

    def __init__(self, file: Any, name: str, mapped: bool = False) -> None:
        self.name = name
        if not (hasattr(file, "seek") and hasattr(file, "tell") and hasattr(file, "readinto")) or not _seekable(file):
            file = io.BytesIO(file.read())
        self.file = file
        self.begin = file.tell()
        self.size = file.seek(0, os.SEEK_END) - self.begin
        file.seek(self.begin)
        self.map: np.ndarray | None = None
        if mapped and self.size:
            # Private: a tensor may be written, the file is not.
            self.map = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)

    def head(self, count: int) -> bytes:
        """The first bytes, without moving."""
        data: bytes = self.read(0, min(count, self.size)).tobytes()
        self.file.seek(self.begin)
        return data

    def read(self, offset: int, count: int) -> np.ndarray:
        """``count`` bytes as a uint8 array: of its own, or where the file is mapped. ValueError past the end."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ValueError(f"bytes {offset} to {offset + count} of {self.size} were asked for")
        if self.map is not None:
            return self.map[offset : offset + count]
        out = np.empty(count, np.uint8)
        self.file.seek(self.begin + offset)
        rest = out.data
        while len(rest):
            got = self.file.readinto(rest)
            if not got:
                raise ValueError("the file ends early")
            rest = rest[got:]
        return out


def _seekable(file: Any) -> bool:
    return bool(file.seekable()) if hasattr(file, "seekable") else True


def typed(data: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Bytes as an array of ``dtype``; a copy where a mapped file has them at an address that does not suit it."""
    if data.__array_interface__["data"][0] % dtype.alignment:
        data = data.copy()
    return data.view(dtype)


class Placement:
    """Where loaded memory goes: ``map_location``, as PyTorch takes it."""

    def __init__(self, map_location: Any) -> None:
        if isinstance(map_location, Mapping):
            table = {str(Device(key)): Device(value) for key, value in map_location.items()}
            self.choose: Callable[[np.ndarray, str], Any] = lambda _, saved: table.get(saved, saved)
        elif map_location is None:
            self.choose = lambda _, saved: saved
        elif callable(map_location) and not isinstance(map_location, Device):
            self.choose = lambda array, saved: _chosen(map_location(wrap(array), saved), saved)
        else:
            chosen = Device(map_location)
            self.choose = lambda _, saved: chosen

    def place(self, array: np.ndarray, saved: str) -> Any:
        """The array on the device chosen for memory that was on ``saved``. CheckpointError where there is none such."""
        chosen = self.choose(array, saved)
        try:
            device = Device(chosen)
            return array if device.type == "cpu" else _array.to_device(array, device)
        except DeviceError as error:
            raise CheckpointError(
                f"load: a tensor was saved on {saved!r} and belongs on {str(chosen)!r}, which is not available here "
                f"({error}): pass map_location='cpu'"
            ) from error


def _chosen(result: Any, saved: str) -> Any:
    """What a function given as ``map_location`` returned: a tensor, whose device counts, a device, or None."""
    if result is None:
        return saved
    return result.device if isinstance(result, Tensor) else result


def strided(flat: Any, shape: Any, strides: Any, offset: Any) -> Any:
    """The view of an array in one dimension; ValueError where it would leave it."""
    for name, value in (("shape", shape), ("strides", strides)):
        if not isinstance(value, (list, tuple)) or len(value) > 64 or any(type(n) is not int for n in value):
            raise ValueError(f"a tensor has the {name} {value!r:.200}")
    if len(shape) != len(strides) or type(offset) is not int or offset < 0 or any(n < 0 or n >= 2**62 for n in shape):
        raise ValueError(f"a tensor has the shape {shape}, the strides {strides} and the offset {offset!r}")
    if 0 in shape:
        if offset > flat.size:
            raise ValueError(f"a tensor begins at element {offset} of {flat.size}")
        return flat[:0].reshape(shape)
    low = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    high = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)
    if low < 0 or high >= flat.size:
        raise ValueError(
            f"a tensor of shape {tuple(shape)} and strides {tuple(strides)} claims elements {low} to {high} of memory "
            f"that has {flat.size}"
        )
    return _array.as_strided(flat, tuple(shape), tuple(strides), offset)
