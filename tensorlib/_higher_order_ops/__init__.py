"""PyTorch's private place of operators that take functions, as far as programs name it."""

from __future__ import annotations

from tensorlib._higher_order_ops.associative_scan import associative_scan

__all__ = ["associative_scan"]
