"""What programs ask of PyTorch's tracer of programs: its marks, and the classes by which they tell what it made.

Nothing is traced here: models are the Python that they are.
"""

from __future__ import annotations

from typing import Any

from tensorlib.errors import UnsupportedError

__all__ = ["Graph", "GraphModule", "Node", "Proxy", "Tracer", "symbolic_trace", "wrap"]


def wrap(fn_or_name: Any) -> Any:
    """The function, or its name, as it came; TypeError for what is neither."""
    if not callable(fn_or_name) and not isinstance(fn_or_name, str):
        raise RuntimeError("Unsupported type for global function! Must be either a callable or string name")
    return fn_or_name


class _Traced:
    """What nothing is: UnsupportedError for who would make one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(
            f"fx.{type(self).__name__}: programs are not traced here: change a model by its modules and hooks, and "
            f"find out which operators run with autograd.profiler.profile"
        )


class GraphModule(_Traced):
    """The class of modules that a tracer made."""


class Graph(_Traced):
    """The class of what a tracer wrote down."""


class Node(_Traced):
    """The class of its entries."""


class Proxy(_Traced):
    """The class of what stands for a tensor while a program is traced."""


class Tracer(_Traced):
    """The class of tracers."""


def symbolic_trace(root: Any, concrete_args: Any = None) -> GraphModule:
    """UnsupportedError: programs are not traced."""
    return GraphModule(root, concrete_args)
