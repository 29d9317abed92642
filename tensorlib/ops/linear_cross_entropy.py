"""cross_entropy of a linear layer, which never holds the scores of more than some rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorlib._core import Tensor, modes
from tensorlib._dispatch import Meta
from tensorlib._dtypes import HALF
from tensorlib._promotion import FLOATS
from tensorlib._samples import Draw, between, draw, each, fails, ints, strided, transposed
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.kernels import linear_cross_entropy as kernels
from tensorlib.op import Array, composite, op
from tensorlib.ops.linalg import linear
from tensorlib.ops.loss import _constant, _cross_entropy, _cross_entropy_spec, _reduction, _row_weights, _smoothing
from tensorlib.ops.loss import cross_entropy as of_scores
from tensorlib.ops.selection import _where

_FLOAT32 = np.dtype(np.float32)
_BLOCK = 1 << 16  # scores whose exponentials are computed at a time: they stay in the second-level cache
_WEIGHTS = 1 << 21  # elements of the weight's gradient that a product makes at a time, before they are added


@dataclass(frozen=True)
class LinearCrossEntropyOptions:
    """How ``linear_cross_entropy`` divides its work: PyTorch's settings. They change memory, time and rounding only.

    batch_chunk_size  rows whose scores are held at a time
    chunking_method   'aspect_ratio': scores that take the memory of the input, 'aspect_ratio:f': one f-th of it;
                      'auto': as many, but at least 1024 rows on a GPU and 512 on the CPU, as each chunk reads and
                      writes the weight's gradient; None: ``batch_chunk_size``, or all rows
    acc_policy        'compact': the weight's gradient is added up over the chunks in its own dtype on a GPU, half types
                      in half the memory; otherwise in float32 or wider
    allow_retain_graph, acc_dtype  accepted: backward may always run again, and sums are never narrower than float32
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: Any = None

    def __post_init__(self) -> None:
        """ArgumentError for settings that PyTorch refuses."""
        if self.acc_policy not in ("auto", "accurate", "balanced", "compact"):
            raise ArgumentError(f"LinearCrossEntropyOptions: invalid acc_policy: {self.acc_policy!r}")
        method, _, factor = (self.chunking_method or "auto").partition(":")
        if method not in ("auto", "aspect_ratio") or (factor and (method == "auto" or not factor.isdigit())):
            raise ArgumentError(f"LinearCrossEntropyOptions: invalid chunking_method: {self.chunking_method!r}")
        if self.batch_chunk_size is not None and self.batch_chunk_size <= 0:
            raise ArgumentError(
                f"LinearCrossEntropyOptions: batch_chunk_size must be positive int or None, got {self.batch_chunk_size}"
            )


def _chunk(rows: int, classes: int, columns: int, options: LinearCrossEntropyOptions | None, least: int) -> int:
    """How many rows are scored at a time."""
    options = LinearCrossEntropyOptions() if options is None else options
    if options.batch_chunk_size is not None:
        return options.batch_chunk_size
    if options.chunking_method is None:
        return max(rows, 1)
    method, _, factor = options.chunking_method.partition(":")
    even = -(-rows // max(-(-classes // max(columns, 1)), 1))
    even = 1 << max(even - 1, 0).bit_length()
    return max(even, least) if method == "auto" else max(even // int(factor or 1), 1)


def _spec(
    input: Any, linear_weight: Any, linear_bias: Any, target: Any, weight: Any, reduction: str, wanted: Any, wide: bool,
    ignore_index: int, label_smoothing: float, z_loss: float, chunk: int, compact: bool,
) -> Any:  # fmt: skip
    scores = Meta((input.shape[0], linear_weight.shape[0]), input.dtype)
    loss, _, total = _cross_entropy_spec(
        scores, target, weight, ignore_index, reduction, label_smoothing, False, z_loss
    )
    return [(loss[0], total[1] if wide else loss[1]), total, *_grad_specs(input, linear_weight, wanted)]


def _grad_specs(input: Any, linear_weight: Any, wanted: Any) -> list[Any]:
    shapes = input.shape, linear_weight.shape, linear_weight.shape[:1]
    return [(tuple(s) if w else (0,), input.dtype) for s, w in zip(shapes, wanted, strict=True)]


def _vjp(
    g: Tensor, input: Tensor, linear_weight: Tensor, linear_bias: Any, target: Tensor, weight: Any, total: Tensor,
    g_input: Tensor, g_weight: Tensor, g_bias: Tensor, reduction: str, wanted: Any, ignore_index: int,
    label_smoothing: float, z_loss: float, chunk: int, compact: bool, needs: Any,
) -> Any:  # fmt: skip
    asked = needs["input"], needs["linear_weight"], linear_bias is not None and needs["linear_bias"]
    # 0 where nothing counts and the mean divides by 0, as rows that are left out have no gradient
    scale: Any = g if reduction == "none" else _where(total == 0, 0.0, g / total)
    grads: Any
    if reduction == "none" or any(a and not w for a, w in zip(asked, wanted, strict=True)):
        grads = linear_cross_entropy_grad(
            scale.expand(target.shape), input, linear_weight, linear_bias, target, weight, asked, ignore_index,
            label_smoothing, z_loss, chunk, compact,
        )  # fmt: skip
    else:
        grads = [
            scaled(made, scale, of._array.dtype) if a else None
            for made, of, a in zip((g_input, g_weight, g_bias), (input, linear_weight, linear_bias), asked, strict=True)
        ]
    return *(made if a else None for made, a in zip(grads, asked, strict=True)), None, None


def _composite(
    input: Any, linear_weight: Any, linear_bias: Any, target: Any, weight: Any, reduction: str, wanted: Any, wide: bool,
    ignore_index: int, label_smoothing: float, z_loss: float, chunk: int, compact: bool,
) -> Tensor:  # fmt: skip
    scores = linear(input, linear_weight, linear_bias)
    scores = scores.float() if wide and scores._array.dtype in HALF else scores
    return _cross_entropy(scores, target, weight, ignore_index, reduction, label_smoothing, False, z_loss)


def _weights(n: int) -> Draw:
    return replace(between(0.5, 2, n), grad=False)


def _labels(n: int, classes: int) -> Draw:
    return ints(n, high=classes)


_ALL = dict(reduction="mean", wanted=(True, True, True), wide=False, ignore_index=-100, label_smoothing=0.0, z_loss=0.0,
            chunk=1024, compact=False)  # fmt: skip


def _grads_of(
    losses: np.ndarray, weights: np.ndarray | None, into: list[Any], grad: np.ndarray | None, input: np.ndarray,
    linear_weight: np.ndarray, linear_bias: np.ndarray | None, target: np.ndarray, weight: np.ndarray | None, *,
    ignore_index: int, label_smoothing: float, z_loss: float, chunk: int, compact: bool,
) -> None:  # fmt: skip
    """The losses of all rows and the gradients that are asked for, ``chunk`` rows at a time."""
    (N, K), C = input.shape, linear_weight.shape[0]
    g_input, g_weight, g_bias = into
    acc = input.dtype
    target, w, ignored = _row_weights(target, weight, ignore_index, C, acc)
    if weights is not None:
        weights[...] = 1 if w is None else w
    share = acc.type(label_smoothing / C) if C else acc.type(0)
    each = np.ones(C, acc) if weight is None else weight
    held = np.empty((min(chunk, N), C), acc)
    ones = np.ones(max(C, chunk), acc)
    step, block = max(_BLOCK // max(C, 1), 1), max(min(_WEIGHTS // max(K, 1), C), 1)
    product = np.empty((block, K), acc)
    wanted = any(g is not None for g in into)
    for start in range(0, N, chunk):
        x = input[start : start + chunk]
        scores = held[: len(x)]
        np.matmul(x, linear_weight.T, out=scores)
        for top in range(0, len(x), step):
            rows = slice(start + top, min(start + top + step, start + len(x)))
            e, t = scores[top : top + step], target[rows]
            if linear_bias is not None:
                e += linear_bias
            at = np.arange(len(t)), t
            chosen = e[at]
            spread = e @ each if label_smoothing else None
            high = np.maximum.reduce(e, axis=1, initial=-np.inf)
            np.copyto(high, 0, where=np.isneginf(high))
            e -= high[:, None]
            np.exp(e, out=e)
            total = e @ ones[:C]
            lse = np.log(total)
            lse += high
            one = ones[:1] if w is None else w[rows]
            loss = one * (lse - chosen)
            main, part = one, one
            if spread is not None:
                whole = np.add.reduce(each)
                main = (1 - label_smoothing) * one
                part = main + share * whole
                loss = (1 - label_smoothing) * loss + share * (whole * lse - spread)
            if z_loss:
                loss += z_loss * one * lse * lse
                part = part + 2 * z_loss * one * lse
            losses[rows] = loss if ignored is None else np.where(ignored[rows], 0, loss)
            if not wanted:
                continue
            e *= (part / total)[:, None]
            e[at] -= main
            if spread is not None:
                e -= share * each
            if grad is not None:
                e *= grad[rows, None]
            if ignored is not None:
                np.copyto(e, 0, where=ignored[rows, None])
        if g_input is not None:
            np.matmul(scores, linear_weight, out=g_input[start : start + chunk])
        if g_weight is not None:
            for c in range(0, C, block):  # a product that adds has no name in NumPy
                made = np.matmul(scores[:, c : c + block].T, x, out=product[: C - c])
                g_weight[c : c + block] += made
        if g_bias is not None:
            g_bias += ones[: len(x)] @ scores


def _zeros(wanted: Any, input: np.ndarray, linear_weight: np.ndarray) -> list[Any]:
    shapes = input.shape, linear_weight.shape, linear_weight.shape[:1]
    return [np.zeros(s, input.dtype) if w else None for s, w in zip(shapes, wanted, strict=True)]


def _or_none(grads: list[Any], dtype: Any) -> Any:
    return [np.zeros(0, dtype) if g is None else g for g in grads]


@op(
    spec=_spec,
    kernel=kernels.linear_cross_entropy,
    promote=FLOATS.over("input", "linear_weight", "linear_bias", "weight"),
    vjp=_vjp,
    aux=("total", "g_input", "g_weight", "g_bias"),
    composite=_composite,
    on="",
    samples=each(
        draw((6, 4), (5, 4), None, _labels(6, 5), None, **_ALL),
        draw((7, 4), (5, 4), (5,), _labels(7, 5), _weights(5), **{**_ALL, "chunk": 3}),
        draw((7, 4), (5, 4), None, _labels(7, 5), None, **{**_ALL, "chunk": 3, "compact": True, "reduction": "sum"}),
        draw(transposed(6, 8), strided(9, 8), (9,), _labels(6, 9), _weights(9),
             **{**_ALL, "chunk": 4, "label_smoothing": 0.2, "z_loss": 0.1, "ignore_index": 3}),
        draw((5, 8), (9, 8), (9,), _labels(5, 9), _weights(9),
             **{**_ALL, "chunk": 2, "reduction": "none", "wanted": (False, False, False), "label_smoothing": 0.1}),
        draw((40, 33), (70, 33), (70,), _labels(40, 70), None, **{**_ALL, "chunk": 16, "z_loss": 0.01}),
        draw((2, 8), (5000, 8), None, _labels(2, 5000), None, **{**_ALL, "wanted": (True, False, False)}),
        draw((3, 4), (5, 4), None, ints(3, low=2, high=3), None, **{**_ALL, "ignore_index": 2}),
    ),
    errors=[
        fails((3, 4), (5, 4), None, _labels(2, 5), None, match="Expected input batch", error=ArgumentError, **_ALL),
    ],
    bench=[draw((2048, 768), (50257, 768), None, _labels(2048, 50257), None, **_ALL)],
    flops=lambda input, linear_weight, *_, **__: 6.0 * input.size * linear_weight.shape[0],
)  # fmt: skip
def _linear_cross_entropy(
    input: Array, linear_weight: Array, linear_bias: Array | None, target: Array, weight: Array | None, reduction: str,
    wanted: Any, wide: bool, ignore_index: int, label_smoothing: float, z_loss: float, chunk: int, compact: bool,
):  # fmt: skip
    """cross_entropy(input @ linear_weight.T + linear_bias), and the ``wanted`` gradients of its sum over the rows.

    Also the divisor of a mean. ``wide``: the loss of half types is float32. The rest is ``linear_cross_entropy``'s.
    """
    losses, weights = np.empty(target.shape, input.dtype), np.empty(target.shape, input.dtype)
    grads = _zeros(wanted, input, linear_weight)
    _grads_of(
        losses, weights, grads, None, input, linear_weight, linear_bias, target, weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, z_loss=z_loss, chunk=chunk, compact=compact,
    )  # fmt: skip
    total = np.asarray(np.add.reduce(weights) if reduction == "mean" else 1, input.dtype)
    out = losses if reduction == "none" else np.true_divide(np.add.reduce(losses), total)
    return out, total, *_or_none(grads, input.dtype)


@op(
    spec=lambda grad, input, linear_weight, linear_bias, target, weight, wanted, **_: _grad_specs(
        input, linear_weight, wanted
    ),
    kernel=kernels.linear_cross_entropy_grad,
    promote=FLOATS.over("input", "linear_weight", "linear_bias", "weight"),
    outputs=("input", "weight", "bias"),
    on="",
    samples=each(
        draw((6,), (6, 4), (5, 4), (5,), _labels(6, 5), _weights(5), (True, True, True), 1, 0.1, 0.01, 4, False),
        draw((6,), (6, 4), (5, 4), None, _labels(6, 5), None, (True, False, False), -100, 0.0, 0.0, 1024, False),
        draw((3,), (3, 8), (300, 8), None, _labels(3, 300), None, (False, True, False), -100, 0.0, 0.0, 2, False),
    ),
)  # fmt: skip
def linear_cross_entropy_grad(
    grad: Array, input: Array, linear_weight: Array, linear_bias: Array | None, target: Array, weight: Array | None,
    wanted: Any, ignore_index: int, label_smoothing: float, z_loss: float, chunk: int, compact: bool,
):  # fmt: skip
    """Gradients of input, weight and bias from those of each row's loss; empty ones where they are not wanted."""
    grads = _zeros(wanted, input, linear_weight)
    _grads_of(
        np.empty(target.shape, input.dtype), None, grads, grad.astype(input.dtype, copy=False), input, linear_weight,
        linear_bias, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
        chunk=chunk, compact=compact,
    )  # fmt: skip
    return tuple(_or_none(grads, input.dtype))


@op(
    spec=lambda input, scale, dtype: (input.shape, dtype),
    kernel=kernels.scaled,
    on="",
    samples=each(
        draw((3, 4), between(0.5, 1), dtype=_FLOAT32), draw((70, 33), between(0.5, 1), dtype=np.dtype(np.float16)),
    ),
)
def scaled(input: Array, scale: Array, dtype: Any):
    """input times the number ``scale``, in ``dtype``; computed in float32 or wider and rounded once."""
    wide = _FLOAT32 if input.dtype in HALF else input.dtype
    return np.multiply(input.astype(wide, copy=False), scale.astype(wide), dtype=wide).astype(dtype, copy=False)


@composite(
    on="functional",
    samples=each(
        draw((6, 4), (5, 4), _labels(6, 5)),
        draw((6, 4), (5, 4), _labels(6, 5), linear_bias=None, label_smoothing=0.1, reduction="sum"),
        draw((6, 4), (5, 4), _labels(6, 5), reduction="none", ignore_index=2),
        draw((2, 4), (5, 3, 4), ints(2, 3, low=0, high=5), ignore_index=1),
        draw((4,), (5, 4), ints(low=0, high=5)),
        draw((3, 4), (5, 4), replace(between(0, 1, 3, 5), grad=False)),
    ),
)  # fmt: skip
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, linear_bias: Tensor | None = None,
    weight: Tensor | None = None, reduction: str = "mean", ignore_index: int | None = None,
    label_smoothing: float = 0.0, options: LinearCrossEntropyOptions | None = None, z_loss: float = 0.0,
) -> Tensor:  # fmt: skip
    """cross_entropy(input @ linear_weight.T + linear_bias, target): input (N, in) or (in,), linear_weight (C, …, in).

    target, weight, reduction, label_smoothing and z_loss as in ``cross_entropy``; ``ignore_index`` None is -100.

    For input (N, in), linear_weight (C, in) and class indices the scores (N, C) are never held: those of some rows at a
    time (``options``) become their gradients in place, and these the gradients of input, weight and bias, while the
    loss is computed; backward multiplies these by a number. So there are three products, as without fusion, and the
    peak is one chunk of scores and the gradients. For 'none' backward computes the scores again. What is asked for
    where no gradient is wanted is the loss alone. Sums over rows are in float32 or wider; half scores are rounded to
    their dtype, as ``linear`` rounds them. Second-order gradients, ``vmap`` and forward mode hold the scores.
    """
    name = "linear_cross_entropy"
    if input.ndim not in (1, 2):
        raise ShapeError(f"{name}: expected input with dimensionality 1 or 2, got {input.ndim}")
    if linear_weight.ndim < 2:
        raise ShapeError(
            f"{name}: expected linear_weight with dimensionality at least 2, got {linear_weight.ndim}"
        )
    rows, columns = tuple(input.shape[:-1]), input.shape[-1]
    if columns != linear_weight.shape[-1]:
        raise ShapeError(
            f"{name}: expected equal input and linear_weight last dimensions (in_features), got {columns} and "
            f"{linear_weight.shape[-1]}"
        )
    classes = tuple(linear_weight.shape[:-1])
    if linear_bias is not None and tuple(linear_bias.shape) != classes:
        raise ShapeError(f"{name}: expected linear_bias shape {classes}, got {tuple(linear_bias.shape)}")
    if len(classes) > 1 and not rows:
        raise ShapeError(f"{name}: a linear_weight {tuple(linear_weight.shape)} requires batched input (N, {columns})")
    if tuple(target.shape) == (*rows, *classes) and ignore_index is not None:
        raise ShapeError(f"{name}: ignore_index cannot be specified when target contains probabilities")
    ignore_index = -100 if ignore_index is None else ignore_index
    if len(classes) == 1 and rows and target._array.dtype.kind in "iu" and target._array.shape == rows:
        reduction = _reduction(name, reduction)
        _constant(name, "weight", weight)
        _smoothing(name, label_smoothing)
        wide = False
        if modes.autocast is not None:  # as ``linear``, and a loss in float32, as ``cross_entropy``
            lower, wide = modes.autocast.cast(("lower", "lower"), [input, linear_weight, linear_bias])
            input, linear_weight, linear_bias = lower
            if weight is not None and wide:
                weight = weight.to(input.dtype)
        made = [modes.grad and x is not None and x._needs for x in (input, linear_weight, linear_bias)]
        wanted = (False,) * 3 if reduction == "none" else tuple(made)
        least = 512 if input.device.type == "cpu" else 1024
        compact = options is not None and options.acc_policy == "compact"
        return _linear_cross_entropy(
            input, linear_weight, linear_bias, target, weight, reduction, wanted, wide, ignore_index,
            float(label_smoothing), float(z_loss), _chunk(rows[0], classes[0], columns, options, least), compact,
        )  # fmt: skip
    flat: Any = linear_weight.reshape((-1, columns))  # type: ignore[attr-defined]
    bias = None if linear_bias is None else linear_bias.reshape((-1,))  # type: ignore[attr-defined]
    scores = linear(input, flat, bias).reshape((*rows, *classes))
    return of_scores(scores, target, weight, None, ignore_index, None, reduction, label_smoothing, z_loss=z_loss)
