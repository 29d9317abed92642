"""The functional forms of layers and losses: every operator declared with ``functional`` in its namespaces."""

from __future__ import annotations

from typing import Any

from tensorlib import ops as _ops  # fills the registry
from tensorlib.op import declared as _declared

__all__: list[str] = []

for _made in _declared():
    if "functional" in _made.where:
        for _name in (_made.name, *_made.alias):
            globals()[_name] = _made.public
            __all__.append(_name)
__all__.sort()


def __getattr__(name: str) -> Any:
    raise AttributeError(f"tensorlib.nn.functional has no {name!r}; it has {', '.join(__all__)}")


_ = _ops
