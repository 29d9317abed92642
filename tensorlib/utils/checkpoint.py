"""Trade time for memory: run a function again in backward instead of keeping what it computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorlib import random
from tensorlib._core import Tensor
from tensorlib.autograd.saved import (
    CheckpointError,
    checkpoint,
    checkpoint_sequential,
    noop_context_fn,
    set_checkpoint_debug_enabled,
    set_checkpoint_early_stop,
)

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential", "get_device_states", "noop_context_fn",
           "set_checkpoint_debug_enabled", "set_checkpoint_early_stop", "set_device_states"]  # fmt: skip


def get_device_states(*args: Any) -> tuple[list[int], list[Tensor]]:
    """The GPUs of the tensors among ``args``, and the state of random numbers: one stream, once for each of them."""
    devices = sorted({x.get_device() for x in args if isinstance(x, Tensor) and x.is_cuda})  # type: ignore[attr-defined]
    return devices, [random.get_rng_state() for _ in devices]


def set_device_states(devices: Iterable[int], states: Iterable[Tensor], *, device_type: str | None = None) -> None:
    """Go back to the states that ``get_device_states`` gave."""
    for state in states:
        random.set_rng_state(state)
