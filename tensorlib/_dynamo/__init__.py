"""PyTorch's private place of its compiler's marks and settings: they say so, and leave programs as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tensorlib._dynamo.eval_frame import OptimizedModule
from tensorlib.compiler import allow_in_graph, disable, is_compiling

__all__ = [
    "OptimizedModule", "allow_in_graph", "assume_constant_result", "config", "disable", "graph_break", "is_compiling",
    "list_backends", "mark_dynamic", "mark_static", "mark_static_address", "mark_unbacked", "maybe_mark_dynamic",
    "reset",
]  # fmt: skip

#: Settings of a compiler that is not here: taken and kept.
config = SimpleNamespace(
    cache_size_limit=8, recompile_limit=8, accumulated_cache_size_limit=256, suppress_errors=False, verbose=False,
    capture_scalar_outputs=False, capture_dynamic_output_shape_ops=False, assume_static_by_default=True,
)  # fmt: skip


def reset() -> None:
    """Nothing to forget."""


def list_backends(exclude_tags: Any = ()) -> list[str]:
    """None: there is nothing to choose among."""
    return []


def graph_break(msg: str = "") -> None:
    """Nothing to interrupt."""


def mark_dynamic(t: Any, index: Any, **options: Any) -> None:
    """Nothing to mark: code is made for any shape."""


mark_static = maybe_mark_dynamic = mark_unbacked = mark_dynamic


def mark_static_address(t: Any, guard: bool = False) -> None:
    """Nothing to mark: code is made for any address."""


#: The function itself: it is called whenever the program calls it.
assume_constant_result = allow_in_graph
