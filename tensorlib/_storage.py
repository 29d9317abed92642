"""The memory of tensors as programs ask for it: as bytes, or as elements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorlib import _array, ops
from tensorlib._core import Tensor, wrap
from tensorlib._device import cpu, meta
from tensorlib._device import device as Device
from tensorlib._dtypes import dtype
from tensorlib.errors import DeviceError
from tensorlib.kernels import transfer

__all__ = ["TypedStorage", "UntypedStorage"]


class UntypedStorage:
    """The memory of a tensor and its views as a row of bytes: where it is and how large, to tell who shares it.

    Of a number of bytes: new memory of the CPU, not filled.
    """

    def __init__(self, tensor: Any) -> None:
        if isinstance(tensor, int):
            tensor = wrap(np.empty(tensor, np.uint8))
        self._tensor = tensor
        self._start, self._end = ops.views._memory(tensor._array)

    @classmethod
    def from_file(cls, filename: Any, shared: bool = False, nbytes: int | None = None) -> UntypedStorage:
        """The first ``nbytes`` of a file (all), mapped: writes stay in memory, or with ``shared`` reach the file.

        A shared file is made, and made longer, where it must be.
        """
        path = os.fspath(filename)
        have = os.path.getsize(path) if os.path.exists(path) or not shared else 0
        size = have if nbytes is None else nbytes
        if size > have and not shared:
            raise RuntimeError(f"UntypedStorage.from_file: {path!r} has {have} bytes: {size} were asked for")
        if size > have:
            with open(path, "ab") as file:
                file.truncate(size)
        if not size:
            return cls(0)
        return cls(wrap(np.memmap(path, np.uint8, "r+" if shared else "c", shape=(size,)).view(np.ndarray)))

    def _bytes(self) -> np.ndarray:
        """The CPU's memory."""
        if self.device != cpu:
            raise DeviceError(f"UntypedStorage: its bytes are on {self.device}: copy the tensor to the CPU first")
        count = self.nbytes() // self._tensor._array.itemsize
        return ops.as_strided(self._tensor.detach(), (count,), (1,), 0)._array.view(np.uint8)  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self._bytes()
        return found.copy() if copy else found

    def __getitem__(self, index: Any) -> Any:
        found = self._bytes()[index]
        return UntypedStorage(wrap(found)) if isinstance(index, slice) else int(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._bytes()[index] = value

    def tolist(self) -> list[int]:
        """The bytes as numbers."""
        return self._bytes().tolist()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[int]:
        return iter(self.tolist())

    def clone(self) -> UntypedStorage:
        """A copy."""
        return UntypedStorage(wrap(self._bytes().copy()))

    def untyped(self) -> UntypedStorage:
        """Itself."""
        return self

    def cpu(self) -> UntypedStorage:
        """Itself on the CPU, else a copy there."""
        return self if self.device == cpu else UntypedStorage(self._tensor.cpu())  # type: ignore[attr-defined]

    def data_ptr(self) -> int:
        """Address of the first byte; 0 on ``meta``."""
        return 0 if self.device is meta else self._start

    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._end - self._start

    size = __len__ = nbytes

    @property
    def device(self) -> Device:
        """Where it is."""
        return _array.device_of(self._tensor._array)

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.device.type in ("cuda", "hip")

    def is_pinned(self, device: Any = None) -> bool:
        """Whether it is page-locked memory of the host."""
        return transfer.is_pinned(self._tensor._array)

    def get_device(self) -> int:
        """The number of the GPU it is on; -1 on the CPU."""
        return self._tensor.get_device()  # type: ignore[attr-defined, no-any-return]

    def element_size(self) -> int:
        """1: it is counted in bytes."""
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and (self._start, self._end) == (other._start, other._end)

    def __hash__(self) -> int:
        return hash((self._start, self._end))


class TypedStorage:
    """The memory of a tensor and its views as a row of elements: PyTorch's older form of ``UntypedStorage``."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._untyped_storage = UntypedStorage(tensor)

    def untyped(self) -> UntypedStorage:
        """The same, counted in bytes."""
        return self._untyped_storage

    def _flat(self) -> Tensor:
        count = self.nbytes() // self.element_size()
        flat: Tensor = ops.as_strided(self._tensor.detach(), (count,), (1,), 0)  # type: ignore[attr-defined]
        return flat

    @property
    def dtype(self) -> dtype:
        """Of its elements."""
        return self._tensor.dtype  # type: ignore[attr-defined, no-any-return]

    @property
    def device(self) -> Device:
        """Where it is."""
        return self._untyped_storage.device

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self._untyped_storage.is_cuda

    def data_ptr(self) -> int:
        """Address of the first byte."""
        return self._untyped_storage.data_ptr()

    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._untyped_storage.nbytes()

    def element_size(self) -> int:
        """Bytes of an element."""
        return self._tensor._array.itemsize

    def size(self) -> int:
        """How many elements there are."""
        return self.nbytes() // self.element_size()

    __len__ = size

    def tolist(self) -> list[Any]:
        """The elements as Python's numbers."""
        return self._flat().tolist()  # type: ignore[attr-defined, no-any-return]

    def __getitem__(self, index: Any) -> Any:
        found = self._flat()[index]  # type: ignore[index]
        return found.item() if isinstance(index, int) else found.tolist()

    def __setitem__(self, index: Any, value: Any) -> None:
        self._flat()[index] = value  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypedStorage) and self._untyped_storage == other._untyped_storage

    def __hash__(self) -> int:
        return hash(self._untyped_storage)
