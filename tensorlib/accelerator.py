"""The GPU whatever its maker, as ``torch.accelerator`` has it: what ``tensorlib.cuda`` sees."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from tensorlib import cuda
from tensorlib._device import device
from tensorlib.errors import DeviceError

__all__ = [
    "current_accelerator", "current_device_index", "device_count", "device_index", "empty_cache", "is_available",
    "max_memory_allocated", "memory_allocated", "set_device_index", "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """Whether a GPU can be used from this process."""
    return cuda.is_available()


def device_count() -> int:
    """How many GPUs can be used from this process."""
    return cuda.device_count()


def current_accelerator(check_available: bool = False) -> device | None:
    """``device("cuda")``, or None without a GPU."""
    return device("cuda") if cuda.is_available() else None


def _need(what: str) -> None:
    if not cuda.is_available():
        raise DeviceError(f"accelerator.{what}: no GPU can be used here: `tensorlib doctor` says why; use the CPU")


def current_device_index() -> int:
    """The number of the GPU that "cuda" means. DeviceError without one."""
    _need("current_device_index")
    return cuda.current_device()


def set_device_index(device: Any) -> None:
    """Choose the GPU that "cuda" means. DeviceError without one."""
    _need("set_device_index")
    cuda.set_device(device)


class device_index:
    """Another GPU for the block; None changes nothing. DeviceError without a GPU."""

    def __init__(self, device: int | None) -> None:
        self.index = device
        self._before: int | None = None

    def __enter__(self) -> None:
        if self.index is not None:
            self._before = current_device_index()
            set_device_index(self.index)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            set_device_index(self._before)


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done everything it was given. DeviceError without one."""
    _need("synchronize")
    cuda.synchronize(device)


def empty_cache() -> None:
    """Give cached memory back to the driver. DeviceError without a GPU."""
    _need("empty_cache")
    cuda.empty_cache()


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors hold on the GPU. DeviceError without one."""
    _need("memory_allocated")
    return cuda.memory_allocated(device)


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors held on the GPU. DeviceError without one."""
    _need("max_memory_allocated")
    return cuda.max_memory_allocated(device)
