"""Functions of attention scores: applied to tensors, where the fused kernels do not, and to NumPy's arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor, wrap
from tensorlib.autograd import enable_grad, grad, no_grad
from tensorlib.errors import ArgumentError
from tensorlib.kernels.attention_scores import Link, registry


def check(name: str, chain: Sequence[Link], buffers: Sequence[Any]) -> None:
    """ArgumentError for a score function that was not declared, or tensors that none of them takes."""
    for link in chain:
        if link[0] not in registry:
            raise ArgumentError(f"{name}: no score function is called {link[0]!r}: there are {', '.join(registry)}")
    wanted = sum(p is None for link in chain for p in link[1:])
    if wanted != len(buffers):
        raise ArgumentError(f"{name}: the score functions {chain} take {wanted} tensors, got {len(buffers)}")


def of_tensors(score: Any, at: Sequence[Any], chain: Sequence[Link], buffers: Sequence[Any]) -> Any:
    """The scores after every function of the chain; ``at`` is batch, head, query and key, which broadcast to them."""
    rest = iter(buffers)
    for name, *parameters in chain:
        given = [next(rest) if p is None else p for p in parameters]
        declared = registry[name]
        if declared.is_mask:
            score = score.masked_fill(declared.reference(*at, *given).logical_not(), -math.inf)
        else:
            score = declared.reference(score, *at, *given)
    return score


def of_arrays(score: np.ndarray, at: Sequence[Any], chain: Sequence[Link], buffers: Sequence[Any]) -> np.ndarray:
    """``of_tensors`` of NumPy's arrays."""
    with no_grad():
        out: np.ndarray = of_tensors(wrap(score), [wrap(x) for x in at], chain, [wrap(b) for b in buffers])._array
    return out


def grad_of_arrays(
    g: np.ndarray, score: np.ndarray, at: Sequence[Any], chain: Sequence[Link], buffers: Sequence[Any]
) -> np.ndarray:
    """The gradient of the scores that the chain was given, from that of what it made of them."""
    with enable_grad():
        x: Tensor = wrap(score)
        x.requires_grad_()
        out = of_tensors(x, [wrap(i) for i in at], chain, [wrap(b) for b in buffers])
        found: np.ndarray = grad(out, x, wrap(g))[0]._array
    return found


def positions(lead: Sequence[int], L: int, S: int) -> list[np.ndarray]:
    """Batch, head, query and key of scores (…, heads, L, S) as arrays that broadcast to them."""
    query, key = np.arange(L).reshape(-1, 1), np.arange(S)
    if not lead:
        return [np.array(0), np.array(0), query, key]
    *batches, heads = lead
    return [np.arange(math.prod(batches)).reshape(*batches, 1, 1, 1), np.arange(heads).reshape(-1, 1, 1), query, key]
