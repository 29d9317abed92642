"""Losses that push scores or distances apart by a margin. ``reduction``: 'mean', 'sum' or 'none'."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._samples import between, draw, each, ints, values
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.op import composite
from tensorlib.ops.activation import logsigmoid
from tensorlib.ops.distance import pairwise_distance
from tensorlib.ops.exponentials import exp, log1p
from tensorlib.ops.loss import _constant, _losses, _reduced, _reduction
from tensorlib.ops.selection import _where, clamp_min

_SIGNS = replace(values([1.0, -1.0, 1.0, -1.0]), grad=False)
_SIGN_ROWS = replace(values([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]), grad=False)


@composite(
    on="functional",
    samples=each(_losses((4,), _SIGNS), draw((2, 3), _SIGN_ROWS, margin=0.3), _losses((2, 3), _SIGN_ROWS)),
)
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, size_average: Any = None,
                         reduce: Any = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """input where target is 1, max(0, margin - input) where it is -1; broadcast."""
    reduction = _reduction("hinge_embedding_loss", reduction, size_average, reduce)
    x: Any = input
    limit = margin if x.dtype.is_floating_point else int(margin)
    far = _where(target == 1, 0, clamp_min(limit - x, 0))
    near = _where(target == -1, 0, x)
    return _reduced(far + near, reduction)


@composite(
    on="functional",
    samples=each(_losses((4,), (4,), _SIGNS), draw((4,), (4,), _SIGNS, margin=0.5)),
)
def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None,
                        reduce: Any = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """max(0, -target (input1 - input2) + margin): target 1 where input1 should be the larger, -1 otherwise."""
    reduction = _reduction("margin_ranking_loss", reduction, size_average, reduce)
    a: Any = input1
    if not input1.ndim == input2.ndim == target.ndim:
        raise ShapeError(
            f"margin_ranking_loss: All input tensors should have same dimension but got sizes: input1: "
            f"{tuple(input1.shape)}, input2: {tuple(input2.shape)}, target: {tuple(target.shape)}"
        )
    return _reduced(clamp_min(-target * (a - input2) + float(margin), 0), reduction)


@composite(
    on="functional",
    samples=each(_losses((4, 3), (4, 3), _SIGNS), draw((4, 3), (4, 3), _SIGNS, margin=0.5)),
)
def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None,
                          reduce: Any = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """1 - cos where target is 1, max(0, cos - margin) where it is -1, cos that of the two inputs.

    input1, input2 (N, D) and target (N,), or (D,) and (). ShapeError otherwise.
    """
    reduction = _reduction("cosine_embedding_loss", reduction, size_average, reduce)
    a: Any = input1
    b: Any = input2
    if target.ndim > 1 or not a.ndim == b.ndim == target.ndim + 1:
        raise ShapeError(
            f"cosine_embedding_loss: inputs {tuple(a.shape)} and {tuple(b.shape)}, target {tuple(target.shape)}: "
            f"0D target tensor expects 1D input tensors, 1D target tensor expects 2D input tensors"
        )
    tiny = 1e-12
    cos = (a * b).sum(-1) / (((a * a).sum(-1) + tiny) * ((b * b).sum(-1) + tiny)).sqrt()
    near = _where(target == 1, 1 - cos, 0.0)
    return _reduced(near + _where(target == -1, clamp_min(cos - margin, 0), 0.0), reduction)


def _triplet(anchor: Any, positive: Any, negative: Any, distance: Callable[[Any, Any], Any], margin: float, swap: bool,
             reduction: str) -> Tensor:  # fmt: skip
    """max(0, margin + d(anchor, positive) - d(anchor, negative)), reduced."""
    far = distance(anchor, negative)
    near = distance(anchor, positive)
    if swap:
        far = far.minimum(distance(positive, negative))
    return _reduced(clamp_min(margin + near - far, 0), reduction)


@composite(
    on="functional",
    samples=each(
        _losses((4, 3), (4, 3), (4, 3)), draw((4, 3), (4, 3), (4, 3), margin=0.5, swap=True),
        draw((4, 3), (4, 3), (4, 3), p=1), draw((3,), (3,), (3,)),
    ),
)  # fmt: skip
def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, margin + ‖anchor - positive + eps‖ₚ - ‖anchor - negative + eps‖ₚ): (N, D) or (D,) -> (N,) or ().

    ``swap``: the distance from positive to negative counts where it is the smaller one. Balntas et al. 2016.
    """
    reduction = _reduction("triplet_margin_loss", reduction, size_average, reduce)
    _check_triplet("triplet_margin_loss", anchor, positive, negative, margin)
    return _triplet(anchor, positive, negative, lambda a, b: pairwise_distance(a, b, p, eps), margin, swap, reduction)


def _check_triplet(name: str, anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> None:
    if margin <= 0:
        raise ArgumentError(f"{name}: margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise ShapeError(
            f"{name}: The anchor, positive, and negative tensors are expected to have the same number of dimensions, "
            f"but got: anchor {anchor.ndim}D, positive {positive.ndim}D, and negative {negative.ndim}D inputs"
        )


@composite(on="functional", samples=each(
    _losses((4, 3), (4, 3), (4, 3)), draw((4, 3), (4, 3), (4, 3), margin=0.5, swap=True),
))  # fmt: skip
def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0, swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, margin + d(anchor, positive) - d(anchor, negative)) with d the Euclidean distance unless it is given."""
    name = "triplet_margin_with_distance_loss"
    reduction = _reduction(name, reduction)
    _check_triplet(name, anchor, positive, negative, margin)
    distance = pairwise_distance if distance_function is None else distance_function
    return _triplet(anchor, positive, negative, distance, margin, swap, reduction)


def _classes(name: str, input: Any, target: Any, per_class: bool) -> tuple[Any, Any]:
    """(scores (N, C), targets (N,), or (N, C) where each class has its own); the errors of shapes and dtypes."""
    x, t = tuple(input.shape), tuple(target.shape)
    if not input.dtype.is_floating_point:
        raise DtypeError(f"{name}: not implemented for {input.dtype}: expected floating-point scores")
    if target._array.dtype != np.int64:
        raise DtypeError(f"{name}: expected target dtype int64, got {OF_NUMPY[target._array.dtype]}: use target.long()")
    if len(x) > 2 or (len(x) == 2 and not x[1]) or (len(x) < 2 and not math.prod(x)):
        raise ShapeError(f"{name}: Expected non-empty vector or matrix with optional 0-dim batch size, but got: {x}")
    rows = input.reshape((-1, x[-1] if x else 1))
    expected = tuple(rows.shape) if per_class else (rows.shape[0],)
    if math.prod(t) != math.prod(expected) or (len(t) > 1 and t != expected) or (per_class and len(x) == 2 and t != x):
        raise ShapeError(f"{name}: inconsistent target size: {t} for input of size {x}: expected {expected}")
    return rows, target.reshape(expected)


@composite(
    on="functional",
    samples=each(
        _losses((4, 3), ints(4, high=3)), draw((4, 3), ints(4, high=3), p=2, margin=0.5),
        draw((4, 3), ints(4, high=3), 1, 1.0, replace(between(0.5, 2, 3), grad=False)), draw((3,), ints(high=3)),
    ),
)  # fmt: skip
def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """weight[y] Σ max(0, margin - input[y] + input[i])^p / C over the classes i != y, y the target.

    input (N, C) or (C,), target (N,) or () of class indices -> (N,) or (). p 1 or 2. On the CPU a target out of range
    is a ShapeError.
    """
    name = "multi_margin_loss"
    reduction = _reduction(name, reduction, size_average, reduce)
    if p not in (1, 2):
        raise ArgumentError(f"{name}: only p == 1 and p == 2 supported, got {p}")
    if weight is not None and weight.ndim != 1:
        raise ArgumentError(f"{name}: weight must be one-dimensional, got {tuple(weight.shape)}")
    x, y = _classes(name, input, target, False)
    classes = x.shape[1]
    if weight is not None and weight.shape[0] != classes:
        raise ShapeError(f"{name}: inconsistent weight size {tuple(weight.shape)} for {classes} classes")
    t = y._array
    if type(t) is np.ndarray and t.size and (t.min() < 0 or t.max() >= classes):
        raise ShapeError(f"{name}: target out of range: expected 0 … {classes - 1}")
    at = y.unsqueeze(1)
    loss = clamp_min(margin - x.gather(1, at) + x, 0)
    if p == 2:
        loss = loss * loss
    if weight is not None:
        loss = loss * weight.gather(0, y).unsqueeze(1)  # type: ignore[attr-defined]
    own = y.new_zeros(x.shape).scatter(1, at, 1) != 0
    loss = _where(own, 0.0, loss).sum(1) / classes
    return _reduced(loss if target.ndim else loss.reshape(()), reduction)


@composite(
    on="functional",
    samples=each(
        _losses((2, 4), values([[3, 0, -1, 1], [1, -1, 2, 0]], "int64")), draw((4,), values([3, 0, -1, 1], "int64")),
        draw((2, 3), values([[0, 1, 2], [-1, 1, 1]], "int64")),
    ),
)
def multilabel_margin_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
                           reduction: str = "mean") -> Tensor:  # fmt: skip
    """Σ max(0, 1 - (input[y] - input[i])) / C over the target's classes y and all classes i that are none of them.

    input and target (N, C) or (C,) -> (N,) or (); the classes of a target end at its first -1.
    """
    name = "multilabel_margin_loss"
    reduction = _reduction(name, reduction, size_average, reduce)
    x, y = _classes(name, input, target, True)
    classes = x.shape[1]
    t = y._array
    if type(t) is np.ndarray and t.size and (t.min() < -1 or t.max() >= classes):
        raise ShapeError(f"{name}: target out of range: expected -1 … {classes - 1}")
    counts = (y < 0).long().cumsum(1) == 0
    index = _where(counts, y, 0)
    chosen = y.new_zeros(x.shape).scatter_add(1, index, counts.long()) > 0
    apart = clamp_min(1 - (x.gather(1, index).unsqueeze(2) - x.unsqueeze(1)), 0)
    loss = _where(counts.unsqueeze(2) & ~chosen.unsqueeze(1), apart, 0.0).sum((1, 2)) / classes
    return _reduced(loss if input.ndim > 1 else loss.reshape(()), reduction)


@composite(on="functional", samples=each(_losses((2, 3), _SIGN_ROWS), draw((4,), _SIGNS)))
def soft_margin_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
                     reduction: str = "mean") -> Tensor:  # fmt: skip
    """log(1 + e^(-target input)), elementwise; target 1 or -1."""
    reduction = _reduction("soft_margin_loss", reduction, size_average, reduce)
    _constant("soft_margin_loss", "target", target)
    return _reduced(log1p(exp(-target * input)), reduction)


@composite(
    on="functional",
    samples=each(
        _losses((4, 3), replace(between(0, 1, 4, 3), grad=False)),
        draw((4, 3), replace(between(0, 1, 4, 3), grad=False), replace(between(0.5, 2, 3), grad=False)),
        draw((3,), replace(between(0, 1, 3), grad=False)),
    ),
)
def multilabel_soft_margin_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
                                reduce: Any = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """-mean over the classes of weight (target log s + (1 - target) log(1 - s)), s = sigmoid(input): (…, C) -> (…)."""
    reduction = _reduction("multilabel_soft_margin_loss", reduction, size_average, reduce)
    x: Any = input
    t: Any = target
    if not x.ndim:
        raise DimError("multilabel_soft_margin_loss: Dimension out of range: expected an input (…, C), got a 0-d one")
    loss = -(t * logsigmoid(x) + (1 - t) * logsigmoid(-x))
    if weight is not None:
        loss = loss * weight
    return _reduced(loss.sum(-1) / x.shape[-1], reduction)
