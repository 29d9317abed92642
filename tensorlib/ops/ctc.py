"""Connectionist temporal classification: the loss of all alignments of a sequence of labels. Graves et al. 2006."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tensorlib._core import Tensor, modes
from tensorlib._promotion import FLOATS
from tensorlib._samples import between, draw, each, ints, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import Array, composite, op
from tensorlib.ops.create import arange, as_tensor
from tensorlib.ops.exponentials import logaddexp
from tensorlib.ops.joining import cat, stack
from tensorlib.ops.loss import _reduction
from tensorlib.ops.selection import _where

# A path that does not exist, where minus infinity would make the gradient of log-sum-exp 0 * inf.
_NONE = -1e30


def _log_sum(a: np.ndarray, b: np.ndarray, c: np.ndarray, skip: np.ndarray) -> np.ndarray:
    """log(e^a + e^b + skip e^c), minus infinity where all of them are."""
    c = np.where(skip, c, -np.inf)
    high = np.maximum(np.maximum(a, b), c)
    finite = np.where(np.isneginf(high), 0, high)
    total = np.exp(a - finite)
    total += np.exp(b - finite)
    total += np.exp(c - finite)
    np.log(total, out=total)
    total += finite
    return total


def _forward(emission: np.ndarray, skip: np.ndarray) -> np.ndarray:
    """log of the sum over all paths to each state at each time: (T, N, 2 + L), two states without a path first."""
    T, N, L = emission.shape
    alpha = np.full((T, N, L + 2), -np.inf, emission.dtype)
    if T:
        alpha[0, :, 2:4] = emission[0, :, :2]
    for t in range(1, T):
        before = alpha[t - 1]
        np.add(_log_sum(before[:, 2:], before[:, 1:-1], before[:, :-2], skip), emission[t], out=alpha[t, :, 2:])
    return alpha


def _last(input_lengths: np.ndarray, target_lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """(time, sample, state) of the end of a path: after the last label's blank; the label itself is a state before."""
    return np.maximum(input_lengths - 1, 0), np.arange(input_lengths.size), 2 * target_lengths


def _ctc_spec(emission: Any, skip: Any, input_lengths: Any, target_lengths: Any) -> Any:
    T, N, L = emission.shape
    return [((N,), emission.dtype), ((T, N, L + 2), emission.dtype)]


def _formula(emission: Any, skip: Any, input_lengths: Any, target_lengths: Any) -> Tensor:
    """The recursion by tensor operators: what the fused operator is equal to, and what runs on a device."""
    T, N, L = emission.shape
    dtype = emission.dtype
    emission = emission.float() if dtype.itemsize < 4 else emission
    none = emission.new_full((N, 1), _NONE)
    first = arange(L, device=emission.device) < 2
    alpha = _where(first, emission[0], _NONE) if T else emission.new_full((N, L), _NONE)
    steps = [alpha]
    for t in range(1, T):
        one = cat([none, alpha], 1)[:, :L]
        two = _where(skip, cat([none, none, alpha], 1)[:, :L], _NONE)
        alpha = logaddexp(logaddexp(alpha, one), two) + emission[t]
        steps.append(alpha)
    at = (input_lengths - 1).clamp(0).reshape((1, N, 1)).expand(1, N, L)
    final = stack(steps).gather(0, at)[0]
    end = (2 * target_lengths).unsqueeze(1)
    blank = final.gather(1, end).squeeze(1)
    label = final.gather(1, (end - 1).clamp(0)).squeeze(1)
    loss = -_where(target_lengths > 0, logaddexp(blank, label), blank)
    loss = _where(input_lengths > 0, loss, _where(target_lengths > 0, -2 * _NONE, 0.0))
    return _where(loss > -0.5 * _NONE, math.inf, loss).to(dtype)  # type: ignore[no-any-return]


def _skips(*shape: int) -> Any:
    return replace(values([[False, False, False, i % 2 == 0, False][: shape[1]] for i in range(shape[0])], "bool"))


@op(
    spec=_ctc_spec,
    promote=FLOATS.over("emission"),
    vjp=dict(
        emission=lambda g, emission, skip, input_lengths, target_lengths, out, alpha: ctc_grad(
            g, emission, skip, input_lengths, target_lengths, out, alpha
        )
    ),
    aux=("alpha",),
    composite=_formula,
    on="",
    samples=each(
        draw(between(-3, 0, 6, 2, 5), _skips(2, 5), values([6, 4], "int64"), values([2, 1], "int64")),
        draw(between(-3, 0, 3, 1, 3), _skips(1, 3), values([3], "int64"), values([1], "int64")),
        draw(between(-3, 0, 4, 2, 3), _skips(2, 3), values([4, 3], "int64"), values([0, 1], "int64")),
    ),
)
def _ctc(emission: Array, skip: Array, input_lengths: Array, target_lengths: Array):
    """-log Σ over the paths through the states of Π e^emission, and the log of the partial sums.

    emission (T, N, L) of the states, blanks and labels in turn; skip (N, L): a path may come from two states before.
    """
    alpha = _forward(emission, skip)
    if not alpha.shape[0]:
        return np.where(target_lengths > 0, np.inf, 0).astype(emission.dtype), alpha
    t, n, s = _last(input_lengths, target_lengths)
    total = np.logaddexp(alpha[t, n, s + 2], alpha[t, n, s + 1])
    return np.where(input_lengths > 0, -total, np.where(target_lengths > 0, np.inf, 0)), alpha


@op(
    spec=lambda g, emission, skip, input_lengths, target_lengths, loss, alpha: (emission.shape, emission.dtype),
    promote=FLOATS.over("g", "emission", "loss", "alpha"),
    on="",
    samples=each(
        draw((2,), between(-3, 0, 4, 2, 3), _skips(2, 3), values([4, 3], "int64"), values([0, 1], "int64"),
             between(4, 5, 2), between(-5, -3, 4, 2, 5)),
    ),
)  # fmt: skip
def ctc_grad(
    g: Array, emission: Array, skip: Array, input_lengths: Array, target_lengths: Array, loss: Array, alpha: Array
):
    """-g times the share of the paths that are in each state at each time, from the partial sums of both directions."""
    T, N, L = emission.shape
    out = np.zeros(emission.shape, emission.dtype)
    beta = np.full((N, L + 2), -np.inf, emission.dtype)  # of what follows the state, without its own emission
    ahead = np.zeros((N, L), np.bool_)
    ahead[:, :-2] = skip[:, 2:]
    state = np.arange(L)
    end = 2 * target_lengths[:, None]
    ends = np.where((state == end) | (state == end - 1), emission.dtype.type(0), emission.dtype.type(-np.inf))
    last, wanted = (input_lengths - 1)[:, None], (g != 0)[:, None]  # not 0 * NaN where the loss is infinite
    for t in range(T - 1, -1, -1):
        if t < T - 1:
            beta[:, :L] += emission[t + 1]
            beta[:, :L] = _log_sum(beta[:, :L], beta[:, 1:-1], beta[:, 2:], ahead)
        np.copyto(beta[:, :L], ends, where=last == t)
        share = alpha[t, :, 2:] + beta[:, :L]
        share += loss[:, None]
        np.exp(share, out=share)
        share *= -g[:, None]
        np.copyto(out[t], share, where=(last >= t) & wanted)
    return out


def _lengths(name: str, given: Any, n: int, most: int, device: Any) -> Any:
    """Lengths as a tensor (N,), checked on the CPU."""
    t: Any = given if isinstance(given, Tensor) else as_tensor(given, device=device)
    if t._array.dtype.kind not in "iu":
        raise DtypeError(f"ctc_loss: {name} must be integral, got {t.dtype}")
    if math.prod(t.shape) != n:
        raise ShapeError(f"ctc_loss: {name} must be of size batch_size: expected {n}, got {tuple(t.shape)}")
    t = t.reshape((n,)).long()
    x = t._array
    if isinstance(x, np.ndarray) and x.size and (x.min() < 0 or x.max() > most):
        raise ShapeError(f"ctc_loss: Expected {name} to have values in 0 … {most}, got {x.tolist()}")
    return t.to(device)


_LABELS = values([[1, 2, 2], [3, 1, 0]], "int64")
_TIMES = replace(between(-3, -0.1, 9, 2, 4), grad=False)


@composite(
    on="function functional",
    samples=each(
        draw(_TIMES, _LABELS, [9, 8], [3, 2]),
        draw(_TIMES, _LABELS, [9, 8], [3, 2], reduction="sum"),
        draw(_TIMES, _LABELS, [9, 8], [3, 2], reduction="none"),
        draw(_TIMES, values([1, 2, 2, 3, 1], "int64"), [9, 3], [3, 2], reduction="none"),
        draw(_TIMES, _LABELS, values([9, 2], "int64"), values([3, 3], "int64"), 3, "none", True),
        draw(replace(between(-3, 0, 5, 4), grad=False), values([1, 2], "int64"), [5], [2]),
        draw(_TIMES, ints(2, 3, low=1, high=4), [9, 9], [0, 3], reduction="none"),
    ),
)
def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """-log Σ over the alignments of targets of Π e^log_probs, for log-probabilities (T, N, C) or (T, C).

    targets (N, S), or all of them one after the other, (Σ target_lengths,); lengths (N,) tensors or lists. An alignment
    has the labels in order, each once or several times in a row, and ``blank`` anywhere between. 'mean' divides each
    loss by its number of labels first. A sequence without an alignment gives infinity, with ``zero_infinity`` 0 and no
    gradient. The gradient is PyTorch's: that of scores whose log_softmax log_probs is. On a CPU one pass each way over
    time, (N, 2 S + 1) states at once; on a device an operator a step.
    """
    reduction = _reduction("ctc_loss", reduction)
    x: Any = log_probs
    if not x.dtype.is_floating_point:
        raise DtypeError(f"ctc_loss: expected floating-point log_probs, got {x.dtype}")
    if x.ndim not in (2, 3):
        raise ShapeError(f"ctc_loss: expected log_probs (T, N, C) or (T, C), got {tuple(x.shape)}")
    batched = x.ndim == 3
    if not batched:
        x = x.unsqueeze(1)
    T, N, C = x.shape
    if not 0 <= blank < C:
        raise ArgumentError(f"ctc_loss: blank must be in label range: expected 0 … {C - 1}, got {blank}")
    frames = _lengths("input_lengths", input_lengths, N, T, x.device)
    labels: Any = targets.long()  # type: ignore[attr-defined]
    if labels.ndim == 2:
        counts = _lengths("target_lengths", target_lengths, N, labels.shape[1], x.device)
        if labels.shape[0] != N:
            raise ShapeError(f"ctc_loss: expected targets ({N}, S), got {tuple(labels.shape)}")
    elif labels.ndim == 1:
        counts = _lengths("target_lengths", target_lengths, N, labels.shape[0], x.device)
        of_all = counts._array
        if isinstance(of_all, np.ndarray) and of_all.sum() != labels.shape[0]:
            raise ShapeError(f"ctc_loss: expected {of_all.sum()} targets one after the other, got {labels.shape[0]}")
        # Where the host has the lengths, it need not ask a device for the longest.
        known: Any = target_lengths if isinstance(target_lengths, Tensor) else as_tensor(target_lengths, device="cpu")
        longest = int(known.max().item()) if N else 0
        start = counts.cumsum(0) - counts
        index = start.unsqueeze(1) + arange(longest, device=x.device)
        labels = labels[index.clamp(0, labels.shape[0] - 1)] if longest else labels.new_zeros((N, 0))
    else:
        raise ShapeError(f"ctc_loss: expected targets (N, S) or (Σ target_lengths,), got {tuple(labels.shape)}")
    S = labels.shape[1]
    labels = _where(arange(S, device=x.device) < counts.unsqueeze(1), labels, blank)
    blanks = labels.new_full((N, S), blank)
    states = cat([stack([blanks, labels], 2).reshape((N, 2 * S)), labels.new_full((N, 1), blank)], 1)
    two = cat([states.new_full((N, 2), blank), states], 1)[:, : 2 * S + 1]
    skip = states != two
    emission = x.gather(2, states.unsqueeze(0).expand(T, N, 2 * S + 1))
    run = _ctc if isinstance(x._array, np.ndarray) else _formula
    loss: Any = run(emission, skip, frames, counts)
    if modes.grad and x._needs:  # PyTorch's gradient has the softmax already taken off; the value is 0
        inside = arange(T, device=x.device).unsqueeze(1) < frames
        mass = (x.exp().sum(2) * inside).sum(0)
        loss = loss + (mass - mass.detach())
    if zero_infinity:
        loss = _where(loss == math.inf, 0.0, loss)
    if reduction == "mean":
        loss = (loss / counts.clamp(1)).mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss if batched or reduction != "none" else loss.reshape(())  # type: ignore[no-any-return]
