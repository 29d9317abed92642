"""Variable: the name that a tracked tensor had in the first versions of PyTorch; programs still call it."""

from __future__ import annotations

import warnings
from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import engine

__all__ = ["Variable"]


class _IsTensor(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor)


class Variable(metaclass=_IsTensor):
    """``Variable(data, requires_grad=False)``: a detached tensor over data's memory. Every tensor is an instance."""

    _execution_engine = engine  # programs queue callbacks there

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = False, volatile: bool | None = None) -> Any:
        """A tensor, not a Variable. TypeError where data is no tensor; ``volatile`` has no effect, as in PyTorch."""
        if volatile is not None:
            warnings.warn("volatile was removed; use `with no_grad():` instead", stacklevel=2)
        if data is not None and not isinstance(data, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        made: Any = Tensor() if data is None else data.detach()
        return made.requires_grad_() if requires_grad else made
