"""Losses. ``reduction``: 'mean', 'sum', or 'none' for one number an element (or a row)."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor, modes
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import FLOAT_ONLY, FLOATS
from tensorlib._samples import Draw, Sample, between, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, AutogradError, DimError, DtypeError, ShapeError
from tensorlib.kernels import loss as kernels
from tensorlib.op import Array, Scalar, composite, op, pointwise
from tensorlib.ops import _few_numpy as few
from tensorlib.ops._pointwise_numpy import in_blocks
from tensorlib.ops._reduction import _ones
from tensorlib.ops.activation import logsigmoid
from tensorlib.ops.arithmetic import abs
from tensorlib.ops.exponentials import exp, log, log1p
from tensorlib.ops.powers import square
from tensorlib.ops.selection import _where, clamp_min
from tensorlib.ops.special import xlogy
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


def _reduction(name: str, reduction: str, size_average: Any = None, reduce: Any = None) -> str:
    """The reduction, also from PyTorch's old ``size_average`` and ``reduce``. ArgumentError for an unknown one."""
    if size_average is not None or reduce is not None:
        mean = size_average is None or size_average
        reduction = ("mean" if mean else "sum") if reduce is None or reduce else "none"
        message = f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead."
        warnings.warn(message, stacklevel=outside())
    if reduction not in kernels.REDUCTIONS:
        raise ArgumentError(f"{name}: {reduction} is not a valid value for reduction: expected 'mean', 'sum' or 'none'")
    return reduction


def _reduced(loss: Any, reduction: str, weight: Any = None) -> Tensor:
    """The loss, its sum, or its mean: with ``weight`` the weighted mean."""
    if weight is not None:
        loss = loss * weight
        if reduction == "mean":
            return loss.sum() / weight.expand(loss._array.shape).sum()
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _constant(name: str, argument: str, given: Tensor | None) -> None:
    if given is not None and given._needs and modes.grad:
        raise AutogradError(
            f"{name}: not differentiable with respect to argument '{argument}'. This input cannot have requires_grad "
            f"True: pass {argument}.detach()"
        )


def _same_size(name: str, input: Tensor, weight: Tensor | None) -> None:
    if weight is not None and weight._array.shape != input._array.shape:
        raise ArgumentError(
            f"{name}: Weights and input must have the same size: got {tuple(weight._array.shape)} and "
            f"{tuple(input._array.shape)}"
        )


def _compare_sizes(input: Tensor, target: Tensor) -> None:
    if input._array.shape != target._array.shape:
        warnings.warn(
            f"Using a target size ({tuple(target._array.shape)}) that is different to the input size "
            f"({tuple(input._array.shape)}). This will likely lead to incorrect results due to broadcasting. "
            f"Please ensure they have the same size.",
            stacklevel=outside(),
        )


_PROBABILITY = between(0.05, 0.95, 4, 3)
_CLASSES = ints(6, low=0, high=5)


def _losses(*tensors: Any, **attrs: Any) -> list[Sample]:
    """A call under each reduction."""
    return [draw(*tensors, reduction=r, **attrs) for r in ("mean", "sum", "none")]


# --------------------------------------------------------------------------------------------------------- regression


def _difference(input: Any, target: Any) -> Any:
    """input - target, where a bool counts as a number of the other's dtype."""
    x, y = input._array.dtype, target._array.dtype
    if (x == np.bool_) != (y == np.bool_):
        input, target = (input.to(target.dtype), target) if x == np.bool_ else (input, target.to(input.dtype))
    return input - target


@composite(complex=False, on="functional", samples=each(_losses((4, 3), (4, 3)), draw((4, 3), (4, 3), reduction="sum")))
def mse_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
             weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """(input - target)², broadcast, times ``weight``."""
    reduction = _reduction("mse_loss", reduction, size_average, reduce)
    _same_size("mse_loss", input, weight)
    _compare_sizes(input, target)
    return _reduced(square(_difference(input, target)), reduction, weight)


@composite(on="functional", samples=_losses((4, 3), (4, 3)))
def l1_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
            weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """|input - target|, broadcast, times ``weight``; the gradient at 0 is 0."""
    reduction = _reduction("l1_loss", reduction, size_average, reduce)
    _same_size("l1_loss", input, weight)
    _compare_sizes(input, target)
    return _reduced(abs(input - target), reduction, weight)


@jit
def _smooth_abs_scalar(x, beta):
    d = tl.abs(x)
    return tl.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)


@pointwise(
    _smooth_abs_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, beta: g * (input / beta).clamp(-1, 1),
    on="",
    samples=each(draw((3, 4), beta=1.0), draw((1030,), beta=0.5)),
)
@in_blocks
def _smooth_abs(input: Array, beta: Scalar):
    """input² / (2 beta) where |input| < beta, |input| - beta / 2 elsewhere: m (|input| - m / 2) / beta."""
    far = np.asarray(np.abs(input))
    near = np.asarray(np.minimum(far, beta))
    far -= 0.5 * near
    far *= near
    far /= beta
    return far


@composite(complex=False, on="functional", samples=each(_losses((4, 3), (4, 3)), _losses((4, 3), (4, 3), beta=0.5)))
def smooth_l1_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
                   reduction: str = "mean", beta: float = 1.0) -> Tensor:  # fmt: skip
    """d² / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere, d = input - target. Girshick 2015, eq. 3."""
    reduction = _reduction("smooth_l1_loss", reduction, size_average, reduce)
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss does not support negative values for beta, got {beta}")
    _compare_sizes(input, target)
    d = _difference(input, target)
    return _reduced(_smooth_abs(d, float(beta)) if beta else abs(d), reduction)


@composite(complex=False, on="functional", samples=each(_losses((4, 3), (4, 3)), _losses((4, 3), (4, 3), delta=0.5)))
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d² / 2 where |d| <= delta, delta (|d| - delta / 2) elsewhere, d = input - target. Huber 1964."""
    reduction = _reduction("huber_loss", reduction)
    _same_size("huber_loss", input, weight)
    if delta <= 0:
        raise ArgumentError(f"huber_loss does not support non-positive values for delta, got {delta}")
    _compare_sizes(input, target)
    d = _difference(input, target)
    loss: Any = _smooth_abs(d, float(delta))
    if delta != 1:
        loss = loss * delta
    return _reduced(loss if weight is None else loss * weight, reduction)


@composite(
    on="functional",
    samples=each(
        _losses(between(-3, 0, 4, 3), _PROBABILITY),
        _losses(between(-3, 0, 4, 3), between(-3, 0, 4, 3), log_target=True),
        draw(between(-3, 0, 4, 3), _PROBABILITY, reduction="batchmean"),
    ),
)
def kl_div(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
           log_target: bool = False) -> Tensor:  # fmt: skip
    """target (log target - input) for log-probabilities ``input``; e**target (target - input) with ``log_target``.

    'batchmean' divides the sum by the first size, as the divergence is defined; 'mean' by the number of elements.
    """
    if reduction != "batchmean":
        reduction = _reduction("kl_div", reduction, size_average, reduce)
        if reduction == "mean":
            warnings.warn(
                "kl_div: reduction 'mean' divides the total loss by both the batch size and the support size; "
                "'batchmean' divides only by the batch size, and aligns with the mathematical definition.",
                stacklevel=outside(),
            )
    x, t = input, target
    loss = exp(t) * (t - x) if log_target else xlogy(t, t) - t * x
    if reduction == "batchmean":
        return _reduced(loss, "sum") / (input._array.shape[0] if input._array.ndim else 1)
    return _reduced(loss, reduction)


@composite(
    complex=False,
    on="functional",
    samples=each(
        _losses((4, 3), ints(4, 3, high=5)),
        draw((4, 3), between(0, 5, 4, 3), full=True),
        draw(between(0.5, 3, 4, 3), between(0, 5, 4, 3), False, True, eps=1e-6),
    ),
)
def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, size_average: Any = None,
    eps: float = 1e-8, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """e^input - target input, or with ``log_input`` False input - target log(input + eps): -log P up to log target!.

    ``full`` adds Stirling's approximation of it, target log target - target + log(2π target) / 2, where target > 1.
    """
    reduction = _reduction("poisson_nll_loss", reduction, size_average, reduce)
    x, t = input, target
    loss: Any = exp(x) - t * x if log_input else x - t * log(x + eps)
    if full:
        stirling = t * log(t) - t + 0.5 * log(2 * math.pi * t)
        loss = loss + _where(t <= 1, 0.0, stirling)
    return _reduced(loss, reduction)


@composite(
    on="functional",
    samples=each(
        _losses((4, 3), (4, 3), between(0.5, 2, 4, 3)),
        draw((4, 3), (4, 3), between(0.5, 2, 4), True),
        draw((4, 3), (4, 3), replace(between(0.5, 2, 4, 1), grad=False), eps=0.9),
        draw((4, 3), (4, 3), 0.7),
    ),
    complex=False,
)
def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """(log v + (input - target)² / v) / 2 with v = max(var, eps); ``full`` adds log(2π) / 2.

    var: of input's shape, or 1 (or missing) in its last dimension, or 1 in another one, or a number. The gradient of
    var passes where eps takes its place. ArgumentError for a var that does not fit, and on the CPU for a negative one.
    Nix & Weigend 1994.
    """
    reduction = _reduction("gaussian_nll_loss", reduction)
    x: Any = input
    v: Any = var if isinstance(var, Tensor) else x.new_full(x.shape, var)
    a = v._array
    if isinstance(a, np.ndarray) and (a < 0).any():
        raise ArgumentError("gaussian_nll_loss: var has negative entry/entries")
    if v.shape != x.shape:
        if x.shape[:-1] == v.shape:
            v = v.unsqueeze(-1)
        elif x.ndim != v.ndim or sum(m for n, m in zip(x.shape, v.shape, strict=True) if n != m) != 1:
            raise ArgumentError(
                f"gaussian_nll_loss: var is of incorrect size: {tuple(v.shape)} for input {tuple(x.shape)}"
            )
    fixed = v.detach()
    v = v + _where(fixed < eps, eps - fixed, 0.0)
    loss = 0.5 * (log(v) + square(x - target) / v)
    return _reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


# ------------------------------------------------------------------------------------------------------ binary targets


@jit
def _bce_scalar(x, t):
    off = tl.maximum(libdevice.log1p(-x), -100.0, propagate_nan=tl.PropagateNan.ALL)
    on = tl.maximum(tl.log(x), -100.0, propagate_nan=tl.PropagateNan.ALL)
    return (t - 1.0) * off - t * on


@pointwise(
    _bce_scalar,
    promote=FLOAT_ONLY,
    vjp=dict(
        input=lambda g, input, target: g * ((input - target) / clamp_min((1 - input) * input, 1e-12)),
        target=lambda g, input: g * (log1p(-input) - log(input)),
    ),
    domain=(0.1, 0.9),
    on="",
)
def _bce(input: Array, target: Array):
    """-(target log input + (1 - target) log(1 - input)), the logarithms at least -100."""
    return (target - 1) * np.maximum(np.log1p(-input), -100) - target * np.maximum(np.log(input), -100)


@composite(
    on="functional",
    samples=each(
        _losses(_PROBABILITY, Draw((4, 3), "uniform", 0, 1, grad=False)),
        draw(_PROBABILITY, Draw((4, 3), "uniform", 0, 1, grad=False), Draw((3,), grad=False)),
    ),
)
def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
                         reduce: Any = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """-weight (target log input + (1 - target) log(1 - input)), logarithms clamped at -100.

    ArgumentError where the sizes differ, and on the CPU for an input outside [0, 1].
    """
    reduction = _reduction("binary_cross_entropy", reduction, size_average, reduce)
    _constant("binary_cross_entropy", "weight", weight)
    if input._array.shape != target._array.shape:
        raise ArgumentError(
            f"binary_cross_entropy: Using a target size ({tuple(target._array.shape)}) that is different to the input "
            f"size ({tuple(input._array.shape)}) is deprecated. Please ensure they have the same size."
        )
    x = input._array
    if isinstance(x, np.ndarray) and not ((x >= 0) & (x <= 1)).all():
        raise ArgumentError(
            "binary_cross_entropy: all elements of input should be between 0 and 1: apply sigmoid, or use "
            "binary_cross_entropy_with_logits"
        )
    loss = _bce(input, target)
    return _reduced(loss if weight is None else loss * weight, reduction)


@composite(
    on="functional",
    samples=each(
        _losses((4, 3), between(0, 1, 4, 3)),
        draw((4, 3), between(0, 1, 4, 3), Draw((3,), "uniform", 0.5, 2, grad=False)),
        draw((4, 3), between(0, 1, 4, 3), None, None, None, "mean", Draw((3,), "uniform", 0.5, 2, grad=False)),
        draw(values([-100.0, 100.0, 0.0]), values([0.0, 1.0, 0.5])),
    ),
)  # fmt: skip
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """-weight (pos_weight target log s + (1 - target) log(1 - s)) with s = sigmoid(input), without overflow."""
    reduction = _reduction("binary_cross_entropy_with_logits", reduction, size_average, reduce)
    _constant("binary_cross_entropy_with_logits", "weight", weight)
    _constant("binary_cross_entropy_with_logits", "pos_weight", pos_weight)
    if input._array.shape != target._array.shape:
        raise ArgumentError(
            f"binary_cross_entropy_with_logits: Target size ({tuple(target._array.shape)}) must be the same as input "
            f"size ({tuple(input._array.shape)})"
        )
    t: Any = target
    loss = (1 - t) * input
    soft: Any = logsigmoid(input)
    loss = loss - soft if pos_weight is None else loss - ((pos_weight - 1) * t + 1) * soft
    return _reduced(loss if weight is None else loss * weight, reduction)


# ------------------------------------------------------------------------------------------------------- class targets


def _acc(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype in HALF else dtype


def _cross_entropy_spec(
    input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, label_smoothing: float,
    log_probabilities: bool, z_loss: float,
) -> Any:  # fmt: skip
    name = "nll_loss" if log_probabilities else "cross_entropy"
    if not OF_NUMPY[input.dtype].is_floating_point:
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[input.dtype]}: expected floating-point scores")
    if target.dtype.kind not in "iu":
        raise DtypeError(
            f"{name}: expected target dtype to be Long or Byte, but target is {OF_NUMPY[target.dtype].name}: class "
            f"indices are int64: use target.long()"
        )
    x, t = tuple(input.shape), tuple(target.shape)
    if x and t == x and not log_probabilities:
        came = OF_NUMPY[target.dtype].name
        raise DtypeError(
            f"{name}: target has the input's shape {list(x)}, which is that of class probabilities, and is {came}: "
            f"Expected floating point type for target with class probabilities: use target.float()"
        )
    if not x:
        raise ArgumentError(f"{name}: expected input (C), (N, C) or (N, C, d1, …), got a 0-d tensor")
    rows = () if len(x) == 1 else (x[0], *x[2:])
    if t != rows and not (len(x) == 1 and t == (1,)):
        if len(x) > 1 and (not t or t[0] != x[0]):
            raise ArgumentError(
                f"{name}: Expected input batch_size ({x[0]}) to match target batch_size ({t[0] if t else 1}): "
                f"input {x}, target {t}"
            )
        kind = ArgumentError if len(x) == 1 else ShapeError  # PyTorch's ValueError for one sample
        raise kind(f"{name}: Expected target size {list(rows)}, got {list(t)}, for input {x}")
    C = x[0] if len(x) == 1 else x[1]
    if weight is not None and tuple(weight.shape) != (C,):
        raise ShapeError(
            f"{name}: weight tensor should be defined either for all {C} classes or no classes but got weight tensor "
            f"of shape: {list(weight.shape)}"
        )
    acc = _acc(input.dtype)
    return [(t if reduction == "none" else (), input.dtype), (t, acc), ((), acc)]


def _matrix(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x as (N, C) or (N, C, S), target as (N) or (N, S))."""
    if x.ndim == 1:
        return x[None], target.reshape(1)
    if x.ndim == 2:
        return x, target
    places = math.prod(x.shape[2:])
    return x.reshape(*x.shape[:2], places), target.reshape(target.shape[0], places)


def _at(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """The index of each row's class in (N, C) or (N, C, S)."""
    n = np.arange(t.shape[0])
    return (n, t) if t.ndim == 1 else (n[:, None], t, np.arange(t.shape[1]))


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    """log Σ e^x over axis 1 of (N, C) or (N, C, S)."""
    high = np.maximum.reduce(x, axis=1, keepdims=True, initial=-np.inf)
    if high.size and np.minimum.reduce(high, axis=None) == -np.inf:
        np.copyto(high, 0, where=np.isneginf(high))
    e = np.subtract(x, high)
    np.exp(e, out=e)
    # a product with ones is a quarter of the time of a reduction along the last axis
    s = e @ _ones(x.shape[1], x.dtype) if x.ndim == 2 else np.add.reduce(e, axis=1)
    np.log(s, out=s)
    s += high[:, 0]
    return s


def _row_weights(t: np.ndarray, weight: np.ndarray | None, ignore_index: int, C: int, dtype: Any) -> Any:
    """(targets with 0 for ignored ones, weight of each row or None when all are 1, which are ignored or None)."""
    ignored = None
    low, high = (np.minimum.reduce(t, axis=None), np.maximum.reduce(t, axis=None)) if t.size else (0, -1)
    if low <= ignore_index <= high:
        found = t == ignore_index
        if found.any():
            t, ignored = np.where(found, 0, t), found
            low, high = t.min(), t.max()
    if low < 0 or high >= C:
        wrong = t[(t < 0) | (t >= C)].flat[0]
        raise DimError(f"cross_entropy: Target {wrong} is out of bounds: expected 0 … {C - 1}, or {ignore_index}")
    w = None if weight is None else weight[t]
    if ignored is not None:
        w = np.where(ignored, dtype.type(0), dtype.type(1) if w is None else w)
    return t, w, ignored


def _class_weights(weight: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """Weights that broadcast against (N, C) or (N, C, S)."""
    w = np.ones(x.shape[1], x.dtype) if weight is None else weight
    return w if x.ndim == 2 else w[:, None]


def _cross_entropy_vjp(g: Tensor, input: Tensor, target: Tensor, weight: Any, lse: Tensor, total: Tensor,
                       ignore_index: int, label_smoothing: float, log_probabilities: bool,
                       z_loss: float) -> Tensor:  # fmt: skip
    return cross_entropy_grad(
        g, input, target, weight, lse, total, ignore_index, label_smoothing, log_probabilities, z_loss
    )


def _cross_entropy_composite(
    input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, label_smoothing: float,
    log_probabilities: bool, z_loss: float,
) -> Tensor:  # fmt: skip
    dim = 0 if input.ndim == 1 else 1
    if input.ndim == 1:
        target = target.reshape(())
    logp = input if log_probabilities else input.log_softmax(dim)
    counted = target != ignore_index
    index = _where(counted, target, 0)
    w = counted.to(input.dtype) if weight is None else _where(counted, weight[index], 0.0)
    # the outer selection keeps the gradient 0 where nothing counts and the mean divides by 0
    loss = _where(counted, -w * logp.gather(dim, index.unsqueeze(dim)).squeeze(dim), 0.0)
    if label_smoothing:
        each = logp if weight is None else logp * weight.reshape((-1, *(1,) * (input.ndim - 1 - dim)))
        spread = _where(counted, -each.sum(dim), 0.0)
        loss = (1 - label_smoothing) * loss + (label_smoothing / input.shape[dim]) * spread
    if z_loss:
        loss = loss + _where(counted, z_loss * w * input.logsumexp(dim).square(), 0.0)
    if reduction == "none":
        return loss
    return loss.sum() / w.sum() if reduction == "mean" else loss.sum()


def _weights(n: int) -> Draw:
    return replace(between(0.5, 2, n), grad=False)


def _labels(*shape: int, classes: int) -> Draw:
    return ints(*shape, high=classes)


_PLAIN = dict(ignore_index=-100, reduction="mean", label_smoothing=0.0, log_probabilities=False, z_loss=0.0)
_NLL = {**_PLAIN, "log_probabilities": True}


@op(
    bench=[draw((1024, 50257), ints(1024, high=50257), None, ignore_index=-100, reduction="mean",
           label_smoothing=0.0, log_probabilities=False, z_loss=0.0)],
    spec=_cross_entropy_spec,
    kernel=kernels.cross_entropy,
    promote=FLOATS.over("input", "weight"),
    vjp=dict(input=_cross_entropy_vjp),
    aux=("lse", "total"),
    composite=_cross_entropy_composite,
    on="",
    samples=each(
        draw((5, 7), _labels(5, classes=7), None, **_PLAIN),
        draw((3, 1), _labels(3, classes=1), None, **_PLAIN),
        draw((7,), _labels(classes=7), None, **_PLAIN),
        draw((300, 10), _labels(300, classes=10), None, **_PLAIN),
        draw((2, 4100), _labels(2, classes=4100), None, **_PLAIN),
        draw((3, 9000), _labels(3, classes=9000), _weights(9000),
             **{**_PLAIN, "label_smoothing": 0.1, "z_loss": 1e-2, "reduction": "none"}),
        draw((4, 6), _labels(4, classes=6), _weights(6), **{**_PLAIN, "z_loss": 0.1, "ignore_index": 2}),
        draw(transposed(6, 9), _labels(6, classes=9), _weights(9), **{**_PLAIN, "reduction": "none"}),
        draw((2, 5, 3), _labels(2, 3, classes=5), _weights(5), **{**_PLAIN, "label_smoothing": 0.2}),
        draw((2, 5, 3, 70), _labels(2, 3, 70, classes=5), None, **{**_PLAIN, "label_smoothing": 0.1}),
        draw(strided(6, 9), _labels(6, classes=9), None, **{**_PLAIN, "ignore_index": 3, "reduction": "sum"}),
        draw((8, 4), _labels(8, classes=4), _weights(4),
             **{**_PLAIN, "ignore_index": 1, "label_smoothing": 0.3}),
        draw((5, 7), _labels(5, classes=7), _weights(7), **_NLL),
        draw((2, 5, 3), _labels(2, 3, classes=5), None, **{**_NLL, "reduction": "none", "ignore_index": 2}),
        draw((2, 5), ints(2, low=3, high=4), None, **{**_NLL, "ignore_index": 3}),
    ),
    errors=[
        fails((3, 5), _labels(2, classes=5), None, match="Expected input batch_size", error=ArgumentError, **_PLAIN),
        fails((2, 5, 3), _labels(2, 4, classes=5), None, match="Expected target size", error=ShapeError, **_PLAIN),
        fails((3, 5), _labels(3, classes=5), (4,), match="either for all 5 classes", error=ShapeError, **_PLAIN),
        fails((3, 5), (3,), None, match="expected target dtype", error=DtypeError, **_PLAIN),
    ],
)  # fmt: skip
def _cross_entropy(
    input: Array, target: Array, weight: Array | None, ignore_index: int, reduction: str, label_smoothing: float,
    log_probabilities: bool, z_loss: float,
):  # fmt: skip
    """-weight[target] log softmax(input)[target], smoothed, reduced; also log Σ e^input and the divisor of a mean.

    ``log_probabilities``: input is log softmax already. On the CPU a target out of range is a DimError; on a device
    the loss is NaN, because reading the target would stall it.
    """
    if weight is None and not (label_smoothing or z_loss):
        found = few.cross_entropy(input, target, ignore_index, reduction, log_probabilities)
        if found is not None:
            return found
    x, t = _matrix(input, target)
    C, acc = x.shape[1], x.dtype
    t, w, ignored = _row_weights(t, weight, ignore_index, C, acc)
    chosen = x[_at(t)]
    if log_probabilities:
        lse = np.zeros(t.shape, acc)
        loss = -chosen
        if w is not None:
            loss = np.where(w == 0, 0, loss * w)
    else:
        lse = _log_sum_exp(x)
        loss = lse - chosen
        if w is not None:
            loss = loss * w
        if label_smoothing:
            each = _class_weights(weight, x)
            spread = np.add.reduce(each) * lse - np.add.reduce(x * each, axis=1)
            loss = (1 - label_smoothing) * loss + (label_smoothing / C) * spread
        if z_loss:
            loss = loss + z_loss * np.square(lse) * (1 if w is None else w)
        if ignored is not None:
            loss = np.where(ignored, 0, loss)
    total = np.asarray(1, acc)
    if reduction == "none":
        out = loss.reshape(target.shape)
    else:
        out = np.add.reduce(loss, axis=None)
        if reduction == "mean":
            total = np.asarray(loss.size if w is None else np.add.reduce(w, axis=None), acc)
            out = np.true_divide(out, total)
    return out, lse.reshape(target.shape), total


@op(
    spec=lambda grad, input, target, weight, lse, total, ignore_index, label_smoothing, log_probabilities, z_loss: (
        input.shape, input.dtype
    ),
    kernel=kernels.cross_entropy_grad,
    promote=FLOATS.over("grad", "input", "weight"),
    on="",
    samples=each(
        draw((), (5, 7), _labels(5, classes=7), None, (5,), between(1, 2), ignore_index=-100, label_smoothing=0.0,
             log_probabilities=False, z_loss=0.0),
        draw((6,), transposed(6, 9), _labels(6, classes=9), _weights(9), (6,), between(1, 2), ignore_index=3,
             label_smoothing=0.2, log_probabilities=False, z_loss=0.0),
        draw((2, 150), (2, 5, 150), _labels(2, 150, classes=5), None, (2, 150), between(1, 2), ignore_index=3,
             label_smoothing=0.2, log_probabilities=False, z_loss=0.0),
        draw((3,), (3, 1500), _labels(3, classes=1500), _weights(1500), (3,), between(1, 2), ignore_index=-100,
             label_smoothing=0.1, log_probabilities=False, z_loss=0.1),
        draw((2, 3), (2, 5, 3), _labels(2, 3, classes=5), _weights(5), (2, 3), between(1, 2), ignore_index=1,
             label_smoothing=0.0, log_probabilities=True, z_loss=0.0),
    ),
)  # fmt: skip
def cross_entropy_grad(
    grad: Array, input: Array, target: Array, weight: Array | None, lse: Array, total: Array, ignore_index: int,
    label_smoothing: float, log_probabilities: bool, z_loss: float,
):  # fmt: skip
    """grad times the derivative of the loss: without smoothing weight[target] (softmax(input) - onehot) / total."""
    x, t = _matrix(input, target)
    C, acc = x.shape[1], x.dtype
    t, w, ignored = _row_weights(t, weight, ignore_index, C, acc)
    at = _at(t)
    lse, total = lse.astype(acc, copy=False), total.astype(acc, copy=False)
    scale = np.true_divide(grad, total)
    scale = scale.reshape(t.shape) if grad.ndim else scale
    if ignored is not None:  # not 0 * inf where nothing counts and the mean divides by 0
        scale = np.where(ignored, acc.type(0), scale)
    if log_probabilities:
        d = np.zeros(x.shape, acc)
        d[at] = -scale if w is None else -scale * w
        return d.reshape(input.shape)
    lse = lse.reshape(t.shape)
    d = np.subtract(x, lse[:, None])
    np.exp(d, out=d)
    if label_smoothing or z_loss:
        one = np.ones(t.shape, acc) if w is None else w
        main = (1 - label_smoothing) * one
        part = main + (2 * z_loss) * one * lse
        if label_smoothing:
            each = (label_smoothing / C) * _class_weights(weight, x)
            part += np.add.reduce(each)
        d *= part[:, None]
        d[at] -= main
        if label_smoothing:
            d -= each
        w = None
    else:
        d[at] -= 1
    if w is not None:
        scale = scale * w
    d *= scale[:, None] if np.ndim(scale) else scale
    if ignored is not None:
        np.copyto(d, 0, where=ignored[:, None])
    return d.reshape(input.shape)


@composite(
    on="functional",
    samples=each(
        _losses((6, 5), _CLASSES), draw((6, 5), _CLASSES, ignore_index=2),
        draw((6, 5), _CLASSES, Draw((5,), "uniform", 0.5, 2, grad=False)), draw((2, 5, 3), ints(2, 3, low=0, high=5)),
        draw((5,), Draw((), "integers", 0, 5, "int64", grad=False)),
    ),
)  # fmt: skip
def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
             ignore_index: int = -100, reduce: Any = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """-weight[target] input[target] for log-probabilities. input (C), (N, C) or (N, C, d1, …), target of class indices.

    'mean' divides by the sum of the weights used; targets equal to ``ignore_index`` count for nothing. DimError (an
    IndexError) on the CPU for a class out of range; on a device the loss is NaN.
    """
    reduction = _reduction("nll_loss", reduction, size_average, reduce)
    _constant("nll_loss", "weight", weight)
    return _cross_entropy(input, target, weight, ignore_index, reduction, 0.0, True, 0.0)


@composite(
    on="functional",
    samples=each(
        _losses((6, 5), _CLASSES), draw((6, 5), _CLASSES, ignore_index=2),
        draw((6, 5), _CLASSES, Draw((5,), "uniform", 0.5, 2, grad=False)),
        _losses((6, 5), _CLASSES, label_smoothing=0.1), draw((2, 5, 3), ints(2, 3, low=0, high=5)),
        draw((6, 5), between(0, 1, 6, 5)), draw((5,), Draw((), "integers", 0, 5, "int64", grad=False)),
    ),
)  # fmt: skip
def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0, *, z_loss: float = 0.0,
) -> Tensor:  # fmt: skip
    """-Σ weight target log softmax(input) over the classes. input (C), (N, C) or (N, C, d1, …).

    target: class indices (N, d1, …), or probabilities of input's shape. ``label_smoothing`` mixes it with the uniform
    distribution. For indices 'mean' divides by the sum of the weights used and ``ignore_index`` is left out; for
    probabilities it divides by the number of rows. float32 statistics for half types. DimError (an IndexError) on the
    CPU for a class out of range; on a device the loss is NaN.

    ``z_loss``, an extension: each row's loss for class indices gains weight[target] z_loss (log Σ e^input)², which
    keeps the scores from drifting. Chowdhery et al. 2022 (PaLM), section 5, with 1e-4.
    """
    reduction = _reduction("cross_entropy", reduction, size_average, reduce)
    _constant("cross_entropy", "weight", weight)
    _smoothing("cross_entropy", label_smoothing)
    if OF_NUMPY[target._array.dtype].is_floating_point:
        if z_loss:
            raise ArgumentError(
                f"cross_entropy: z_loss={z_loss} with a target of probabilities: expected class indices; "
                f"add z_loss * input.logsumexp(1).square() to the loss"
            )
        return _soft_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    return _cross_entropy(
        input, target, weight, ignore_index, reduction, float(label_smoothing), False, float(z_loss)
    )


def _smoothing(name: str, label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"{name}: label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")


def _soft_cross_entropy(
    input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """Cross-entropy with a target of class probabilities."""
    if input.shape != target.shape:
        rows = input.shape[1:2] if input.ndim == 1 else (input.shape[:1] + input.shape[2:]) if input.ndim else None
        if target.shape == rows:
            raise DtypeError(
                f"cross_entropy: expected target dtype to be Long or Byte, but target is {target.dtype.name}: class "
                f"indices are int64: use target.long()"
            )
        raise ArgumentError(
            f"cross_entropy: Expected input batch_size to match target batch_size and the classes theirs: "
            f"probabilities {tuple(target.shape)}, input {tuple(input.shape)}"
        )
    if ignore_index >= 0:
        raise ArgumentError("cross_entropy: ignore_index is not supported for floating point target")
    dim = 0 if input.ndim == 1 else 1
    classes = input.shape[dim]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    loss = input.log_softmax(dim) * target
    if weight is not None:
        loss = loss * weight.reshape((-1, *(1,) * (input.ndim - 1 - dim)))
    loss = -loss.sum(dim)
    if reduction == "none":
        return loss
    return loss.sum() / math.prod(loss.shape) if reduction == "mean" else loss.sum()
