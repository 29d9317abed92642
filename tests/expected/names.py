"""Where PyTorch keeps an operator whose place or name differs, and which operators it does not have."""

from __future__ import annotations

#: Our name -> the path below ``torch``.
NAMES: dict[str, str] = {
    "vector_norm": "linalg.vector_norm",
}

#: Our name -> why PyTorch has nothing to compare with.
NOT_IN_TORCH: dict[str, str] = {}
