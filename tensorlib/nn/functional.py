"""The functional forms of layers and losses: every operator declared with ``functional`` in its namespaces."""

from __future__ import annotations

import difflib
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
    near = difflib.get_close_matches(name, __all__, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module 'tensorlib.nn.functional' has no attribute {name!r}{hint}")


_ = _ops
