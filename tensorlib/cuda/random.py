"""The random stream, under ``torch.cuda``'s names. There is one for every device: these are its state and its seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorlib import random
from tensorlib._core import Tensor
from tensorlib.cuda.devices import device_count, gpu_of, is_available

__all__ = [
    "get_rng_state", "get_rng_state_all", "initial_seed", "manual_seed", "manual_seed_all", "seed", "seed_all",
    "set_rng_state", "set_rng_state_all",
]  # fmt: skip


def get_rng_state(device: Any = "cuda") -> Tensor:
    """The stream's state as a uint8 tensor. DeviceError without a GPU."""
    gpu_of(device)
    return random.get_rng_state()


def get_rng_state_all() -> list[Tensor]:
    """The stream's state, once for each GPU."""
    return [random.get_rng_state() for _ in range(device_count())]


def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
    """Continue the stream where ``get_rng_state`` was taken; without a GPU nothing happens, as in PyTorch."""
    if is_available():
        gpu_of(device)
        random.set_rng_state(new_state)


def set_rng_state_all(new_states: Iterable[Tensor]) -> None:
    """Continue the stream where ``get_rng_state_all`` was taken."""
    for state in new_states:
        set_rng_state(state)


def manual_seed(seed: int) -> None:
    """Seed the GPU's stream: it is the default stream of every device."""
    random.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the stream of every GPU: it is the default stream of every device."""
    random.manual_seed(seed)


def seed() -> None:
    """Seed the stream from the operating system; without a GPU nothing happens, as in PyTorch."""
    if is_available():
        random.seed()


def seed_all() -> None:
    """Seed the stream from the operating system; without a GPU nothing happens, as in PyTorch."""
    seed()


def initial_seed() -> int:
    """The seed of the stream. DeviceError without a GPU."""
    gpu_of(None)
    return random.initial_seed()
