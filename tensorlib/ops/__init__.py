"""The declarations, by family. Importing this package fills the registry and gives the public functions their names."""

from tensorlib._dispatch import wrap_dim
from tensorlib.op import composites as _composites
from tensorlib.op import registry as _registry
from tensorlib.ops import (
    create,
    linalg,
    memory,
    pointwise,
    reduction,
    views,
)

__all__ = ["create", "linalg", "memory", "pointwise", "reduction", "views", "wrap_dim"]

for _made in (*_registry.values(), *_composites.values()):
    if _made.where & {"function", "functional"}:
        for _name in (_made.name, *_made.alias):
            globals()[_name] = _made.public
