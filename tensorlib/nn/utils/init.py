"""Modules whose initial values are given up."""

from __future__ import annotations

import inspect
from typing import Any

from tensorlib._device import device as Device
from tensorlib.nn.module import Module

__all__ = ["skip_init"]


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Module:
    """A module whose parameters hold whatever memory held, for those that are loaded at once.

    It is initialised on the CPU and then emptied: PyTorch's saving of that time is not made.
    RuntimeError for a class that is no Module or takes no ``device``.
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    where = kwargs.pop("device", None) or "cpu"
    return module_cls(*args, device="cpu", **kwargs).to_empty(device=Device(where))
