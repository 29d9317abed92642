"""Score functions and masks that kernels compute: for ``flex_attention``, ``varlen_attn`` and ``paged_attention``.

Each is called with tensors as PyTorch's ``score_mod`` and ``mask_mod`` are, and names what a kernel does instead. A new
one is a Triton function, its derivative and the same with tensors:
```python
@jit
def _scaled_by_distance(score, batch, head, query, key, rate):
    return score * tl.exp(-rate * tl.abs(query - key).to(score.dtype))

@jit
def _scaled_by_distance_grad(grad, score, batch, head, query, key, rate):
    return grad * tl.exp(-rate * tl.abs(query - key).to(score.dtype))

scaled_by_distance = score_function("scaled_by_distance", _scaled_by_distance, _scaled_by_distance_grad,
                                    lambda score, b, h, q, k, rate: score * (-rate * (q - k).abs()).exp())
out = flex_attention(query, key, value, score_mod=compose(scaled_by_distance(0.1), tanh_softcap(30.0)))
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib.errors import ArgumentError
from tensorlib.kernels import attention_scores
from tensorlib.ops import score_functions, tensor
from tensorlib.runtime.compiler import Jit

__all__ = ["MaskMod", "ScoreMod", "alibi_bias", "alibi_slopes", "causal_mask", "compose", "document_mask",
           "mask_function", "prefix_lm_mask", "score_function", "sliding_window_mask", "tanh_softcap"]  # fmt: skip


class _Mod:
    """Links of a chain with the tensors among their parameters."""

    def __init__(self, name: str, chain: Sequence[tuple[Any, ...]], buffers: Sequence[Tensor]) -> None:
        self.__name__ = name
        self.chain = tuple(chain)
        self.buffers = tuple(buffers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__name__}>"


class ScoreMod(_Mod):
    """A function of scores: ``score_mod(score, batch, head, q_idx, kv_idx)`` of tensors, or part of a kernel."""

    def __call__(self, score: Any, batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        """The scores after the function; all arguments broadcast."""
        return score_functions.of_tensors(score, (batch, head, q_idx, kv_idx), self.chain, self.buffers)


class MaskMod(_Mod):
    """A mask: ``mask_mod(batch, head, q_idx, kv_idx)``, True where a query may look at a key.

    ``window`` (left, right): keys q_idx - left … q_idx + right, -1 for all; the kernels skip what lies outside.
    """

    def __init__(
        self, name: str, window: tuple[int, int] = (-1, -1), chain: Sequence[tuple[Any, ...]] = (),
        buffers: Sequence[Tensor] = (),
    ) -> None:  # fmt: skip
        super().__init__(name, chain, buffers)
        self.window = window

    def __call__(self, batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        """A bool tensor; all arguments broadcast."""
        left, right = self.window
        seen: Any = None
        if right >= 0:
            seen = kv_idx - q_idx <= right
        if left >= 0:
            near = q_idx - kv_idx <= left
            seen = near if seen is None else seen & near
        rest = iter(self.buffers)
        for name, *parameters in self.chain:
            given = [next(rest) if p is None else p for p in parameters]
            allowed = attention_scores.registry[name].reference(batch, head, q_idx, kv_idx, *given)
            seen = allowed if seen is None else seen & allowed
        return (q_idx == q_idx) & (kv_idx == kv_idx) if seen is None else seen


def _link(name: str, parameters: Sequence[Any]) -> tuple[tuple[Any, ...], list[Tensor]]:
    """A link of a chain, and the tensors among the parameters."""
    link: list[Any] = [name]
    buffers = []
    for p in parameters:
        if isinstance(p, Tensor):
            buffers.append(p)
            link.append(None)
        elif isinstance(p, (int, float)) and not isinstance(p, bool):
            link.append(p)
        else:
            raise TypeError(f"{name}: expected numbers and tensors as parameters, got {type(p).__name__}")
    return tuple(link), buffers


def score_function(
    name: str, forward: Jit, backward: Jit, reference: Callable[..., Any]
) -> Callable[..., ScoreMod]:  # fmt: skip
    """What makes a `ScoreMod` of parameters, which are numbers and tensors.

    ``forward(score, batch, head, query, key, *parameters)`` and ``backward(grad, score, batch, …)`` are ``@jit``
    functions, the second the gradient of the score that the first was given; a tensor comes to them as a pointer.
    ``reference(score, batch, head, q_idx, kv_idx, *parameters)`` is the same with tensors. Scores are float32 (float64
    for float64). Tensors get no gradient in the kernels: where one requires it, all scores are held at once.
    ArgumentError where the name is taken.
    """
    attention_scores.declare(name, forward, backward, reference)

    def make(*parameters: Any) -> ScoreMod:
        link, buffers = _link(name, parameters)
        return ScoreMod(name, [link], buffers)

    return make


def mask_function(name: str, allowed: Jit, reference: Callable[..., Any]) -> Callable[..., MaskMod]:
    """What makes a `MaskMod` of parameters, as `score_function`: ``allowed(batch, head, query, key, *parameters)``."""
    attention_scores.declare_mask(name, allowed, reference)

    def make(*parameters: Any) -> MaskMod:
        link, buffers = _link(name, parameters)
        return MaskMod(name, chain=[link], buffers=buffers)

    return make


def compose(*mods: ScoreMod) -> ScoreMod:
    """One function of scores: the first of these, then the next of what it gave. ArgumentError for none of them."""
    if not mods or not all(isinstance(m, ScoreMod) for m in mods):
        raise ArgumentError(f"compose: expected one or more ScoreMods, got {mods}: other functions compose by calls")
    return ScoreMod(
        " then ".join(m.__name__ for m in mods), [link for m in mods for link in m.chain],
        [b for m in mods for b in m.buffers],
    )  # fmt: skip


def intersection(masks: Sequence[MaskMod]) -> MaskMod:
    """The mask that all of these allow."""
    left, right = (
        min((m.window[side] for m in masks if m.window[side] >= 0), default=-1) for side in (0, 1)
    )  # fmt: skip
    return MaskMod(
        " and ".join(m.__name__ for m in masks), (left, right), [link for m in masks for link in m.chain],
        [b for m in masks for b in m.buffers],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the functions


def tanh_softcap(cap: float) -> ScoreMod:
    """cap tanh(score / cap). Gemma Team 2024, "Gemma 2"."""
    if not cap > 0:
        raise ArgumentError(f"tanh_softcap: expected a cap above 0, got {cap}")
    return ScoreMod("tanh_softcap", [("softcap", float(cap))], ())


def alibi_slopes(heads: int) -> Tensor:
    """2^(-8 i / heads), i = 1 … heads, (heads,) float32; between those of the next power of two for other numbers.

    Press et al. 2022, "Train Short, Test Long".
    """

    def of(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    whole = 1 << max(heads.bit_length() - 1, 0)
    made: Tensor = tensor([*of(whole), *of(2 * whole)[::2][: heads - whole]] if heads else [])
    return made


def alibi_bias(slopes: Tensor) -> ScoreMod:
    """score + slopes[head] (kv_idx - q_idx), slopes (heads of query,). Press et al. 2022."""
    if not isinstance(slopes, Tensor) or slopes.ndim != 1 or not slopes.dtype.is_floating_point:
        raise ArgumentError(f"alibi_bias: expected slopes (heads,) of a floating-point dtype, got {slopes}")
    return ScoreMod("alibi_bias", [("alibi", None)], [slopes])


#: kv_idx <= q_idx.
causal_mask = MaskMod("causal_mask", (-1, 0))


def sliding_window_mask(left: int, right: int = 0) -> MaskMod:
    """q_idx - left <= kv_idx <= q_idx + right; -1: no bound on that side. Beltagy et al. 2020, "Longformer"."""
    if left < -1 or right < -1:
        raise ArgumentError(f"sliding_window_mask: expected sizes of at least 0, or -1 for all, got {left}, {right}")
    return MaskMod("sliding_window_mask", (left, right))


def prefix_lm_mask(length: int) -> MaskMod:
    """kv_idx < length or kv_idx <= q_idx: a prefix sees itself whole. Raffel et al. 2020, figure 4."""
    if length < 0:
        raise ArgumentError(f"prefix_lm_mask: expected a length of at least 0, got {length}")
    return MaskMod("prefix_lm_mask", chain=[("prefix_lm", int(length))])


def document_mask(of_query: Tensor, of_key: Tensor | None = None) -> MaskMod:
    """of_query[q_idx] == of_key[kv_idx], of_query (L,) and of_key (S,), the first for both where of_key is None."""
    of_key = of_query if of_key is None else of_key
    for ids in (of_query, of_key):
        if not isinstance(ids, Tensor) or ids.ndim != 1:
            raise ArgumentError(f"document_mask: expected numbers of documents (positions,), got {ids}")
    return MaskMod("document_mask", chain=[("document", None, None)], buffers=[of_query, of_key])
