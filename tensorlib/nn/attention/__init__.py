"""Attention: the layer, functions of scores and masks in fused kernels, packed sequences, paged caches."""

from tensorlib._settings import SDPBackend, sdpa_kernel
from tensorlib.nn.attention import bias, flex_attention, mods, varlen
from tensorlib.nn.attention.decoding import paged_attention
from tensorlib.nn.attention.multi_head import MultiheadAttention

__all__ = [
    "MultiheadAttention",
    "SDPBackend",
    "bias",
    "flex_attention",
    "mods",
    "paged_attention",
    "sdpa_kernel",
    "varlen",
]
