"""functional_call under PyTorch's first name for it."""

from __future__ import annotations

from typing import Any

from tensorlib.func import functional_call as _functional_call

__all__ = ["functional_call"]


def functional_call(
    module: Any, parameters_and_buffers: Any, args: Any = None, kwargs: Any = None, *, tie_weights: bool = True,
    strict: bool = False,
) -> Any:  # fmt: skip
    """``func.functional_call``, which has replaced it."""
    return _functional_call(module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict)
