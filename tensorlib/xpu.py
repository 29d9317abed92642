"""What programs for any device ask of ``torch.xpu``: there is no such device here."""

from __future__ import annotations

from typing import Any

from tensorlib.errors import DeviceError

__all__ = [
    "current_device", "device_count", "empty_cache", "get_device_name", "get_device_properties", "is_available",
    "is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all", "max_memory_allocated",
    "memory_allocated", "memory_reserved", "seed", "seed_all", "set_device", "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """False."""
    return False


is_initialized = is_bf16_supported = is_available


def device_count() -> int:
    """0."""
    return 0


def memory_allocated(device: Any = None) -> int:
    """0 bytes."""
    return 0


memory_reserved = max_memory_allocated = memory_allocated


def manual_seed(seed: int) -> None:
    """Nothing to seed: ``tensorlib.manual_seed`` seeds the devices that there are."""


manual_seed_all = manual_seed


def empty_cache() -> None:
    """Nothing to free."""


seed = seed_all = empty_cache


def synchronize(device: Any = None) -> Any:
    """DeviceError: there is no such device."""
    raise DeviceError("xpu: there is no such device here: ask torch.xpu.is_available(); GPUs are device 'cuda'")


current_device = set_device = get_device_name = get_device_properties = synchronize
