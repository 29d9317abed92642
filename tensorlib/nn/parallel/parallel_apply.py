"""Modules called one after the other, each with its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib.nn.module import Module

__all__ = ["parallel_apply"]


def parallel_apply(
    modules: Sequence[Module], inputs: Sequence[Any], kwargs_tup: Sequence[dict[str, Any]] | None = None,
    devices: Sequence[Any] | None = None,
) -> list[Any]:  # fmt: skip
    """``[module(*input, **kwargs) …]``, on the devices where the modules are."""
    named = kwargs_tup if kwargs_tup is not None else [{}] * len(modules)
    if not len(modules) == len(inputs) == len(named):
        raise AssertionError(f"parallel_apply: {len(modules)} modules, {len(inputs)} inputs and {len(named)} kwargs: "
                             f"expected as many of each")  # fmt: skip
    return [
        module(*(given if isinstance(given, (list, tuple)) else (given,)), **kwargs)
        for module, given, kwargs in zip(modules, inputs, named, strict=True)
    ]
