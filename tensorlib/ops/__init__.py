"""The declarations, by family. Importing this package fills the registry."""

from tensorlib._dispatch import wrap_dim
from tensorlib.ops import create, memory, pointwise, views

__all__ = ["create", "memory", "pointwise", "views", "wrap_dim"]
