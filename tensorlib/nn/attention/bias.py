"""Causal biases for ``scaled_dot_product_attention``, as ``torch.nn.attention.bias`` has them."""

from __future__ import annotations

from tensorlib.ops.scaled_dot_product import CausalBias, CausalVariant, causal_lower_right, causal_upper_left

__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]
