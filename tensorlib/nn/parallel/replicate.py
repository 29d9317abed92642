"""A module for each of several devices, of which there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib.nn.module import Module
from tensorlib.nn.parallel.data_parallel import _one

__all__ = ["replicate"]


def replicate(network: Module, devices: Sequence[Any], detach: bool = False) -> list[Module]:
    """The module, for each of the devices: DeviceError where they are several GPUs."""
    _one("replicate", devices)
    return [network] * len(devices)
