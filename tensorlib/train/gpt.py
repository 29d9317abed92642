"""A decoder-only transformer over bytes: pre-norm blocks, rotary positions, causal attention, GELU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorlib as tl
from tensorlib import nn
from tensorlib.errors import ArgumentError
from tensorlib.nn import functional as F

VOCABULARY = 256  # one entry a byte: nothing to train, nothing to store, no text that cannot be written


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model: everything needed to build it again from a checkpoint."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    block: int = 128
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "block"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"--{name} is {getattr(self, name)}: expected 1 or more")
        if self.width % self.heads:
            raise ArgumentError(
                f"--width {self.width} does not divide into --heads {self.heads}: "
                f"choose a width that is a multiple of the number of heads"
            )
        if self.width // self.heads % 2:
            raise ArgumentError(
                f"--width {self.width} over --heads {self.heads} gives heads of "
                f"{self.width // self.heads}: rotary positions turn pairs, so an even size is needed"
            )
        if self.parameters > 2**40:
            raise ArgumentError(
                f"--layers {self.layers} of --width {self.width} make {self.parameters:.1e} parameters, "
                f"more than a machine holds"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ArgumentError(f"--dropout is {self.dropout}: expected 0 or more and less than 1")

    @property
    def parameters(self) -> int:
        """How many numbers the model learns: embedding and head, 12 width**2 a block, biases and norms."""
        return 2 * VOCABULARY * self.width + self.layers * (12 * self.width**2 + 9 * self.width) + 2 * self.width


def rotary_table(block: int, size: int, base: float = 10000.0) -> tuple[tl.Tensor, tl.Tensor]:
    """(cos, sin) of position x base**(-2i/size): two (block, size) tables. Su et al. 2021, eq. 34."""
    frequency = base ** (-tl.arange(0, size, 2, dtype=tl.float32) / size)
    angle = tl.arange(block, dtype=tl.float32)[:, None] * frequency[None, :]
    return tl.cat([angle.cos(), angle.cos()], dim=-1), tl.cat([-angle.sin(), angle.sin()], dim=-1)


def rotate(x: tl.Tensor, cos: tl.Tensor, sin: tl.Tensor) -> tl.Tensor:
    """x cos + swap(x) sin: each pair (i, i + size/2) of the last axis turned by its angle. (…, T, size) -> the same."""
    half = x.shape[-1] // 2
    return x * cos + tl.cat([x[..., half:], x[..., :half]], dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention. (B, T, width) -> (B, T, width). Vaswani et al. 2017, section 3.2."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: tl.Tensor, cos: tl.Tensor, sin: tl.Tensor) -> tl.Tensor:
        """Mix each position with the ones before it."""
        b, t, c = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], cos, sin).unbind(0)
        y = F.scaled_dot_product_attention(
            q, k, qkv[2], dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). (B, T, width) -> (B, T, width)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(config.width), Attention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.up, self.down = nn.Linear(config.width, 4 * config.width), nn.Linear(4 * config.width, config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: tl.Tensor, cos: tl.Tensor, sin: tl.Tensor) -> tl.Tensor:
        """One layer of the transformer."""
        x = x + self.drop(self.attention(self.norm1(x), cos, sin))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh")))


class GPT(nn.Module):
    """Bytes (B, T) -> logits (B, T, 256) for the byte that follows each; T is at most ``config.block``."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, VOCABULARY, bias=False)
        cos, sin = rotary_table(config.block, config.width // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if name.endswith(("attention.out.weight", "down.weight")):
                # The two that write to the residual stream: smaller, so that its variance does not grow with depth.
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.layers))
            elif p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: tl.Tensor) -> tl.Tensor:
        """Logits of the next byte at every position."""
        t = tokens.shape[1]
        x = self.embedding(tokens)
        cos, sin = self.cos[:t], self.sin[:t]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))
