"""What programs for any device ask of ``torch.mps``: there is no such device here."""

from __future__ import annotations

from typing import Any

from tensorlib.errors import DeviceError

__all__ = [
    "current_allocated_memory", "device_count", "driver_allocated_memory", "empty_cache", "is_available",
    "manual_seed", "recommended_max_memory", "seed", "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0."""
    return 0


def manual_seed(seed: int) -> None:
    """Nothing to seed: ``tensorlib.manual_seed`` seeds the devices that there are."""


def seed() -> None:
    """Nothing to seed."""


def synchronize() -> Any:
    """DeviceError: there is no such device."""
    raise DeviceError("mps: there is no such device here: ask torch.backends.mps.is_available()")


empty_cache = current_allocated_memory = driver_allocated_memory = recommended_max_memory = synchronize
