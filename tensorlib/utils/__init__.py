"""Tools beside the tensors: checkpointing."""

from tensorlib.utils import checkpoint

__all__ = ["checkpoint"]
