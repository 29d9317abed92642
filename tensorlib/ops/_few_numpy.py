"""Bodies for few elements, where a NumPy call takes longer than its work: as few calls as possible.

Each gives None for what it is not for: other dtypes, layouts and options, and values that ask for more care. A product
with ones takes less than half the time of a reduction, which prepares an iteration.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

FEW = 2048  #: elements up to which these bodies are the faster ones
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
_largest: Any = np.maximum.reduce


@lru_cache(maxsize=64)
def _filled(n: int, dtype: np.dtype[Any], value: float) -> np.ndarray:
    return np.full(n, value, dtype)


@lru_cache(maxsize=64)
def _starts(m: int, n: int) -> np.ndarray:
    """Where each row of (m, n) begins."""
    return np.arange(0, m * n, n)


def _suits(x: np.ndarray, dim: int) -> bool:
    """Whether x is rows of floats along its last dim, not many and not none."""
    dtype = x.dtype
    return 0 < x.size <= FEW and (dtype is _F32 or dtype is _F64) and dim == x.ndim - 1 and x.flags.c_contiguous


def softmax(x: np.ndarray, dim: int) -> np.ndarray | None:
    """exp(x) / Σ exp(x)."""
    if not _suits(x, dim):
        return None
    e = x - _largest(x, dim, None, None, True)
    np.exp(e, e)
    e /= e.dot(_filled(x.shape[dim], x.dtype, 1.0))[..., None]
    return e


def log_softmax(x: np.ndarray, dim: int) -> np.ndarray | None:
    """x - log Σ exp(x)."""
    if not _suits(x, dim):
        return None
    out = x - _largest(x, dim, None, None, True)
    total = np.exp(out).dot(_filled(x.shape[dim], x.dtype, 1.0))
    out -= np.log(total)[..., None]
    return out


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, columns: int, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(x - mean) rstd weight + bias over the last dim, mean and rstd; ``columns``: how many dims are normalized."""
    if columns != 1 or not _suits(x, x.ndim - 1):
        return None
    dtype, n = x.dtype, x.shape[-1]
    if (weight is not None and weight.dtype is not dtype) or (bias is not None and bias.dtype is not dtype):
        return None
    # The mean by a division, which is exact where all elements are the same number.
    mean = x.dot(_filled(n, dtype, 1.0)) / n
    out = x - mean[..., None]
    rstd = (out * out).dot(_filled(n, dtype, 1.0 / n)) + eps
    rstd = np.reciprocal(np.sqrt(rstd))
    out *= rstd[..., None]
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out, mean, rstd


def cross_entropy(
    x: np.ndarray, target: np.ndarray, ignore_index: int, reduction: str, log_probabilities: bool
) -> tuple[Any, np.ndarray, Any] | None:
    """The loss of rows by class indices that are all used, log Σ exp of each, and the divisor of a mean.

    ``log_probabilities``: x has them already.
    """
    if x.ndim != 2 or target.ndim != 1 or target.size > 64 or not _suits(x, 1):
        return None
    classes = target.tolist()
    m, n = x.shape
    if min(classes) < 0 or max(classes) >= n or 0 <= ignore_index < n:
        return None
    chosen = x.reshape(-1).take(_starts(m, n) + target)
    if log_probabilities:
        lse, loss = np.zeros(m, x.dtype), np.negative(chosen)
    else:
        high = _largest(x, 1, None, None, True)
        e = x - high
        np.exp(e, e)
        lse = np.log(e.dot(_filled(n, x.dtype, 1.0)))
        lse += high.reshape(m)
        loss = lse - chosen
    if reduction == "none":
        total: Any = loss
    else:
        total = loss.dot(_filled(m, x.dtype, 1.0))
        if reduction == "mean":
            total = total / x.dtype.type(m)
    if not np.isfinite(lse.dot(lse)):  # infinities: a row of -inf alone, say
        return None
    return total, lse, _filled(1, x.dtype, float(m) if reduction == "mean" else 1.0).reshape(())


@lru_cache(maxsize=64)
def _hidden(rows: int, columns: int, dtype: np.dtype[Any]) -> np.ndarray:
    """(L, S): -inf where a key comes after the query, else 0."""
    return np.triu(np.full((rows, columns), -np.inf, dtype), 1)


def attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, is_causal: bool, scale: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """softmax(query keyᵀ scale) value and log Σ exp of the scores, with all scores at once; every head its own keys."""
    L, S = query.shape[-2], key.shape[-2]
    if query.ndim < 3 or not S or query.shape[:-2] != key.shape[:-2] or query.dtype not in (_F32, _F64):
        return None
    if not 0 < query.size // query.shape[-1] * S <= FEW:
        return None
    scores = np.matmul(query * scale, key.swapaxes(-1, -2))
    if is_causal and L > 1:
        scores += _hidden(L, S, query.dtype)
    elif is_causal:
        scores[..., 1:] = -np.inf
    top = _largest(scores, scores.ndim - 1, None, None, True)
    scores -= top
    np.exp(scores, scores)
    total = np.matmul(scores, _filled(S, query.dtype, 1.0))
    out = np.matmul(scores, value)
    out /= total[..., None]
    return out, np.log(total) + top[..., 0]
