"""The namespaces besides the package itself and Tensor: ``nn.functional``, ``linalg``, ``fft``, ``special``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.op import declared, names_in


def fill(module: str, space: str, scope: dict[str, Any]) -> tuple[list[str], Callable[[str], Any]]:
    """Put the operators declared for ``space`` into a module; its ``__all__`` and a ``__getattr__`` that suggests."""
    names: list[str] = []
    for made in declared():
        for name in names_in(made, space):
            scope[name] = made.public
            names.append(name)
            if made.inplace and space == "functional" and hasattr(Tensor, f"{name}_"):
                scope[f"{name}_"] = getattr(Tensor, f"{name}_")
                names.append(f"{name}_")

    def missing(name: str) -> Any:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")

    return sorted(names), missing


_ = ops  # importing it is what fills the registry
