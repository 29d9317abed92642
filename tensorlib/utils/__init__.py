"""Tools beside the tensors: checkpointing of activations, DLPack, and ``utils.data``."""

from __future__ import annotations

import importlib
from typing import Any

from tensorlib.utils import checkpoint, dlpack, hooks

__all__ = ["checkpoint", "data", "dlpack", "hooks"]


def __getattr__(name: str) -> Any:
    """``data`` loads when it is first named: it brings multiprocessing with it."""
    if name == "data":
        return importlib.import_module("tensorlib.utils.data")
    raise AttributeError(f"module 'tensorlib.utils' has no attribute {name!r}")
