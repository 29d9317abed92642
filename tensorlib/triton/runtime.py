"""``triton.runtime`` of programs on every device: its driver, and our decorators' classes. The rest is Triton's."""

from __future__ import annotations

import importlib
from typing import Any

from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit as JITFunction
from tensorlib.triton._driver import DriverConfig
from tensorlib.triton._tuning import Autotuner, Heuristics

__all__ = ["Autotuner", "Heuristics", "JITFunction", "driver"]

driver = DriverConfig()


def __getattr__(name: str) -> Any:
    """Everything else: ``Config``, ``OutOfResources``, ..."""
    stock = compiler.triton().runtime
    if hasattr(stock, name):
        return getattr(stock, name)
    try:
        return importlib.import_module(f"triton.runtime.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module 'triton.runtime' has no attribute {name!r}") from None
