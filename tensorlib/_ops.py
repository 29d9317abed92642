"""PyTorch's private path to ``torch.ops``."""

from __future__ import annotations

from tensorlib import ops
from tensorlib.library import OpOverload

__all__ = ["OpOverload", "ops"]
