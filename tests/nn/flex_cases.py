"""Functions of scores and masks, written for PyTorch and for tensorlib alike, and the operands they are tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: (queries and keys, heads, heads of key, features, of value) of each case's operands.
SIZES = {"square": (11, 11, 4, 4, 4, 4), "grouped": (20, 13, 4, 2, 4, 3), "few queries": (3, 40, 4, 1, 4, 4)}

SCORES = ("none", "alibi", "softcap", "table", "hides")
MASKS = ("none", "causal", "window", "documents", "both", "either", "by head", "all hidden")
CASES = [(size, SCORES[i % len(SCORES)], mask) for i, (size, mask) in enumerate((s, m) for s in SIZES for m in MASKS)]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def operands(size: str) -> list[np.ndarray]:
    """query, key, value and the gradients of the output and of the log-sum-exp."""
    L, S, heads, of_key, E, Ev = SIZES[size]
    shapes = (2, heads, L, E), (2, of_key, S, E), (2, of_key, S, Ev), (2, heads, L, Ev), (2, heads, L)
    return [numbers(*s, seed=i) for i, s in enumerate(shapes)]


def score_mod(tl: Any, name: str) -> Callable[..., Any] | None:
    """A function of scores by its name, of the library ``tl``."""
    slopes, table = (tl.from_numpy(x) for x in (numbers(4, seed=8), numbers(4, 16, seed=9)))
    return {
        "none": None,
        "alibi": lambda s, b, h, q, k: s + slopes[h] * (k - q),
        "softcap": lambda s, b, h, q, k: 3 * tl.tanh(s / 3),
        "table": lambda s, b, h, q, k: s + table[h, (q - k) % 16],
        "hides": lambda s, b, h, q, k: tl.where(q + b >= k, s, -float("inf")),
    }[name]  # type: ignore[return-value]


def mask_mod(tl: Any, flex: Any, name: str) -> Callable[..., Any] | None:
    """A mask by its name, of the library ``tl`` and its module of flex_attention."""
    ids = tl.from_numpy(np.random.default_rng(3).integers(0, 3, 100))

    def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
        return q >= k

    def window(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q - k).abs() <= 5

    return {
        "none": None, "causal": causal, "window": window, "documents": lambda b, h, q, k: ids[q] == ids[k],
        "both": flex.and_masks(causal, window), "either": flex.or_masks(causal, window),
        "by head": lambda b, h, q, k: (k + h) % 2 == b, "all hidden": lambda b, h, q, k: q > k + 2,
    }[name]  # type: ignore[return-value]  # fmt: skip
