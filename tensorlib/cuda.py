"""GPUs, under PyTorch's name for them. This version has no GPU driver: there is none to be seen, and it says so."""

from __future__ import annotations

from tensorlib import random
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
