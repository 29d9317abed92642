"""The model that is measured under both libraries: ``T`` is tensorlib or torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Sizes of a GPT."""

    layers: int
    width: int
    heads: int
    length: int
    vocabulary: int


GPT2 = Shape(12, 768, 12, 1024, 50257)


def gpt(T: Any, shape: Shape) -> Any:
    """A GPT-2-shaped model: pre-norm blocks of causal attention and a GELU perceptron, learned positions."""
    nn, F = T.nn, T.nn.functional
    layers, width, heads, length, vocabulary = shape

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = (
                h.view(b, t, heads, c // heads).transpose(1, 2) for h in self.qkv(self.ln_1(x)).split(width, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
            return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

        def forward(self, ids: Any) -> Any:
            x = self.wte(ids) + self.wpe(T.arange(ids.shape[1], device=ids.device))
            for block in self.blocks:
                x = block(x)
            return self.head(self.ln_f(x))

    return GPT()


def gpt_flops(shape: Shape, tokens: int) -> float:
    """Operations of forward and backward: 6 for each weight of a product and token, 12 · layers · width · length / 2
    of causal attention."""
    matrices = shape.layers * 12 * shape.width**2 + shape.width * shape.vocabulary
    return tokens * (6.0 * matrices + 6.0 * shape.layers * shape.width * shape.length)
