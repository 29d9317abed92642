"""Marks that PyTorch's compiler reads. Nothing compiles a function here: they say so and leave it as it is."""

from __future__ import annotations

from typing import Any

__all__ = ["allow_in_graph", "disable", "is_compiling", "is_dynamo_compiling", "is_exporting"]


def is_compiling() -> bool:
    """False: operators run one by one."""
    return False


def is_dynamo_compiling() -> bool:
    """False: operators run one by one."""
    return False


def is_exporting() -> bool:
    """False: operators run one by one."""
    return False


def allow_in_graph(fn: Any) -> Any:
    """``fn`` itself."""
    return fn


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """``fn`` itself; without it, a decorator that returns its function."""
    return allow_in_graph if fn is None else fn
