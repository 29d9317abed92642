"""The few private names of PyTorch's core that public programs ask for: nothing traces, and nothing is logged."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from tensorlib.errors import LinAlgError as _LinAlgError

__all__ = ["_LinAlgError", "_get_tracing_state", "_log_api_usage_once"]


#: The class of Tensor's class.
_TensorMeta = type


def _parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool, Any]:
    """(device, dtype, non_blocking, memory_format) of arguments as ``Module.to`` takes them."""
    layout = kwargs.get("memory_format")
    return (*importlib.import_module("tensorlib.nn.module")._parse_to(*args, **kwargs), layout)


_nn = SimpleNamespace(_parse_to=_parse_to)


def _get_tracing_state() -> None:
    """None: no program is traced."""


def _log_api_usage_once(event: str) -> None:
    """Nothing: uses are not counted."""


def _jit_set_profiling_executor(enabled: bool) -> bool:
    """False, the state before: there is no executor."""
    return False


_jit_set_profiling_mode = _jit_set_autocast_mode = _jit_set_profiling_executor


def __getattr__(name: str) -> Any:
    """Nothing else: AttributeError, with what stands for the dispatcher here."""
    raise AttributeError(
        f"module 'tensorlib._C' has no attribute {name!r}: PyTorch's core is not here; new operators are declared with "
        f"tensorlib.op"
    )
