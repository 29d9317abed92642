"""GPUs, under PyTorch's name for them. This version has no GPU driver: there is none to be seen, and it says so."""

from __future__ import annotations

import importlib
from typing import Any

from tensorlib import random
from tensorlib._device import device as _device
from tensorlib.errors import DeviceError
from tensorlib.runtime.memory import ALLOCATORS


def is_available() -> bool:
    """Whether a GPU can be used from this process."""
    return "cuda" in ALLOCATORS or "hip" in ALLOCATORS


def device_count() -> int:
    """How many GPUs can be used from this process."""
    return 0 if not is_available() else 1


def is_initialized() -> bool:
    """Whether a GPU was used in this process."""
    return False


def synchronize(device: object = None) -> None:
    """Wait until the GPU has done everything it was given; nothing to wait for without one."""


def manual_seed(seed: int) -> None:
    """Seed the GPU's stream: it is the default stream of every device."""
    random.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the stream of every GPU: it is the default stream of every device."""
    random.manual_seed(seed)


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current GPU computes in bfloat16; False without one."""
    return is_available()


def _absent(what: str) -> DeviceError:
    return DeviceError(f"{what}: no GPU can be used here: `tensorlib doctor` says why; use the CPU")


def current_device() -> int:
    """The number of the GPU that "cuda" means. DeviceError without one."""
    if not is_available():
        raise _absent("cuda.current_device")
    return 0


def set_device(device: Any) -> None:
    """Choose the GPU that "cuda" means. DeviceError without one."""
    if not is_available():
        raise _absent("cuda.set_device")
    _device(device)


def get_device_name(device: Any = None) -> str:
    """The GPU's name. DeviceError: this version has no driver to ask."""
    raise _absent("cuda.get_device_name")


def get_device_properties(device: Any = None) -> Any:
    """The GPU's properties. DeviceError: this version has no driver to ask."""
    raise _absent("cuda.get_device_properties")


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The GPU's compute capability. DeviceError: this version has no driver to ask."""
    raise _absent("cuda.get_device_capability")


def empty_cache() -> None:
    """Give cached memory back to the driver; there is none without a GPU."""


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors hold on the GPU; 0 without one."""
    return 0


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors held on the GPU; 0 without one."""
    return 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that the allocator holds on the GPU; 0 without one."""
    return 0


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that the allocator held on the GPU; 0 without one."""
    return 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """Start counting the most memory anew; nothing is counted without a GPU."""


def ipc_collect() -> None:
    """Free memory that other processes no longer use; there is none without a GPU."""


def __getattr__(name: str) -> Any:
    """``amp`` loads when it is first named."""
    if name == "amp":
        return importlib.import_module("tensorlib.cuda.amp")
    raise AttributeError(f"module 'tensorlib.cuda' has no attribute {name!r}")
