"""TorchScript's decorators as PyTorch has them with ``PYTORCH_JIT=0``: the program is Python and runs as it is.

Nothing is compiled, saved or loaded here: a decorated function or module is returned unchanged, so that model code
which carries the decorators runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

__all__ = [
    "Final", "ScriptModule", "TracerWarning", "annotate", "export", "ignore", "interface", "is_scripting",
    "is_tracing", "isinstance", "script", "script_if_tracing", "script_method", "trace", "trace_module", "unused",
]  # fmt: skip

_isinstance = isinstance

#: Over the mark of __future__, which has the submodule's name.
annotations = importlib.import_module(f"{__name__}.annotations")  # type: ignore[assignment]


class TracerWarning(Warning):
    """What tracing warns of; nothing traces."""


def __getattr__(name: str) -> Any:
    """``ScriptModule``, a Module as any other: it loads when it is first named, as it brings the layers with it."""
    if name != "ScriptModule":
        raise AttributeError(f"module 'tensorlib.jit' has no attribute {name!r}")
    module: Any = importlib.import_module("tensorlib.nn").Module
    value = globals()[name] = type(
        "ScriptModule", (module,), {"__doc__": "A Module whose methods run as Python.", "__module__": __name__}
    )
    return value


def is_scripting() -> bool:
    """False: Python runs the program."""
    return False


def is_tracing() -> bool:
    """False: Python runs the program."""
    return False


def script(obj: Any, optimize: Any = None, _frames_up: int = 0, _rcb: Any = None, example_inputs: Any = None) -> Any:
    """``obj`` itself: a function, class or module runs as the Python it is."""
    return obj


def script_method(fn: Any) -> Any:
    """``fn`` itself."""
    return fn


def script_if_tracing(fn: Any) -> Any:
    """``fn`` itself: nothing traces."""
    return fn


def interface(obj: Any) -> Any:
    """``obj`` itself."""
    return obj


def trace(func: Any, example_inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    """``func`` itself; it is not called with the examples."""
    return func


def trace_module(mod: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """``mod`` itself; its methods are not called with the examples."""
    return mod


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """The decorated function itself; with arguments, a decorator that returns it."""
    return drop if callable(drop) else _same


def _same(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


def unused(fn: Any) -> Any:
    """``fn`` itself."""
    return fn


def export(fn: Any) -> Any:
    """``fn`` itself."""
    return fn


#: Under PyTorch's private names: one of several signatures, and ``script_if_tracing``.
_overload_method = _overload = export
_script_if_tracing = script_if_tracing


def annotate(the_type: Any, the_value: Any) -> Any:
    """``the_value``: a type for a compiler to read."""
    return the_value


def _assert(condition: Any, message: str = "") -> None:
    """``assert condition, message``, as a function."""
    assert condition, message


def isinstance(obj: Any, target_type: Any) -> bool:
    """Python's ``isinstance``."""
    return _isinstance(obj, target_type)
