"""Rows of a table by their number: embeddings and one-hot vectors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor, listening, modes, wrap
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import FLOATS
from tensorlib._samples import distinct, draw, each, fails, ints, transposed, values
from tensorlib.autograd.batched import with_batches
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError, UnsupportedError
from tensorlib.kernels import embeddings as kernels
from tensorlib.op import Array, composite, op, registry
from tensorlib.ops import create, views
from tensorlib.ops._out import also_named
from tensorlib.ops._rows_numpy import join_rows, sums
from tensorlib.ops.gather_scatter import _scatter_, _scatter_add
from tensorlib.ops.indexing import INTEGERS, bounded, index_add, index_copy_, index_fill, numbers, widened
from tensorlib.ops.selection import _where

_INT64 = np.dtype(np.int64)


def _embedding_spec(input: Any, weight: Any, padding_idx: int, scale_grad_by_freq: bool) -> Any:
    if weight.ndim != 2:
        raise ShapeError(f"embedding: 'weight' must be 2-D, got shape {tuple(weight.shape)}")
    if input.dtype not in INTEGERS:
        raise DtypeError(
            f"embedding: expected indices of dtype int32 or int64, got {OF_NUMPY[input.dtype]}: use input.long()"
        )
    return (*input.shape, weight.shape[1]), weight.dtype


@op(
    spec=lambda g, input, num_weights, padding_idx, scale_grad_by_freq: ((num_weights, g.shape[-1]), g.dtype),
    kernel=kernels.embedding_grad,
    vjp=dict(
        g=lambda g, input, padding_idx, scale_grad_by_freq: _embedding_grad_vjp(
            g, input, padding_idx, scale_grad_by_freq
        )
    ),
    on="",
    samples=each(
        draw((2, 3, 5), ints(2, 3, high=4), num_weights=4, padding_idx=-1),
        draw((7, 3), ints(7, high=3, dtype="int32"), num_weights=3, padding_idx=1),
        draw((9, 3), ints(9, high=3), num_weights=3, padding_idx=-1, scale_grad_by_freq=True),
        draw((0, 3), ints(0), num_weights=2, padding_idx=-1),
        draw((140, 30), ints(140, high=3), num_weights=1030, padding_idx=-1),
    ),
    bench=[draw((16384, 768), ints(16384, high=50257), num_weights=50257, padding_idx=-1)],
    bytes=lambda g, input, num_weights, **_: g.dtype.itemsize * (g.size + num_weights * g.shape[-1]),
)  # fmt: skip
def embedding_grad(g: Array, input: Array, num_weights: int, padding_idx: int = -1, scale_grad_by_freq: bool = False):
    """out[input[t]] += g[t]: (num_weights, D) from g (…, D), summed in float32 or wider, in the order of the tokens.

    The row ``padding_idx`` stays 0; ``scale_grad_by_freq`` divides each row by how often it was read. Deterministic on
    every device: on a GPU the tokens are sorted (O(n) for n tokens, however often one repeats).
    """
    index, rows = input.reshape(-1), widened(g).reshape(input.size, g.shape[-1])
    out = sums(num_weights, index, rows)
    if padding_idx >= 0:
        out[padding_idx] = 0
    if scale_grad_by_freq:
        out /= np.maximum(np.bincount(index, minlength=num_weights), 1)[:, None]
    return out.astype(g.dtype, copy=False)


def _embedding_grad_vjp(g: Any, input: Any, padding_idx: int, scale_grad_by_freq: bool) -> Any:
    if padding_idx >= 0:
        g = index_fill(g, 0, create.tensor([padding_idx], device=g.device), 0)
    if scale_grad_by_freq:
        flat = views.reshape(input, (-1,))
        count = _scatter_add(g.new_zeros((g.shape[0],)), flat, g.new_ones(flat.shape), 0).clamp(1)
        g = g / count.unsqueeze(1)
    return _embedding(input, g, padding_idx, scale_grad_by_freq)


@op(
    spec=_embedding_spec,
    kernel=kernels.embedding,
    vjp=dict(
        weight=lambda g, input, weight_shape, padding_idx, scale_grad_by_freq: embedding_grad(
            g, input, weight_shape[0], padding_idx, scale_grad_by_freq
        )
    ),
    on="",
    samples=each(
        draw(ints(2, 3, high=4), (4, 5)), draw(ints(high=4), (4, 5)), draw(ints(0), (4, 5)),
        draw(ints(3, high=4), transposed(4, 5)),
        draw(ints(3, high=4, dtype="int32"), (4, 1100)),
    ),
    errors=[
        fails(numbers([5]), (3, 4), match="index 5 is out of bounds", error=DimError),
        fails(numbers([-1]), (3, 4), match="index -1 is out of bounds", error=DimError),
        fails(numbers([1]), (3,), match="must be 2-D"),
        fails((2,), (3, 4), match="int32 or int64"),
    ],
    bench=[draw(ints(8192, high=50257), (50257, 768))],
    bytes=lambda input, weight, **_: 2 * input.size * weight.shape[1] * weight.dtype.itemsize,
)  # fmt: skip
def _embedding(input: Array, weight: Array, padding_idx: int = -1, scale_grad_by_freq: bool = False):
    """weight[input]: (…) and (V, D) -> (…, D)."""
    try:
        if not input.size or np.minimum.reduce(input, axis=None) >= 0:
            return weight.take(input, 0)
    except IndexError:
        pass
    return weight[bounded("embedding", input, 0, weight.shape[0], False)]


def _renormalise(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows of weight that index names down to ``max_norm``, in place and without a gradient."""
    grad, modes.grad = modes.grad, False
    try:
        at = views.reshape(index, (-1,))
        rows: Any = _embedding(at, weight)
        norm = (rows.abs().pow(norm_type).sum(1, keepdim=True)).pow(1 / norm_type)
        scaled = registry["_where"].public(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)
        index_copy_(weight, 0, at, scaled)
    finally:
        modes.grad = grad


@composite(
    on="functional",
    samples=each(draw(ints(2, 3, high=4), (4, 5))),
)
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
              norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:  # fmt: skip
    """weight[input]: indices (…) and weight (V, D) -> (…, D).

    The row ``padding_idx`` gets no gradient; ``max_norm`` first scales the rows read, in place, to at most that norm;
    ``scale_grad_by_freq`` divides a row's gradient by how often it was read. ``sparse`` changes nothing: it is dense.
    DimError for an index out of range, also a negative one.
    """
    if padding_idx is not None:
        n = weight._array.shape[0]
        if not -n <= padding_idx < n:
            raise ArgumentError(f"embedding: padding_idx must be within num_embeddings, got {padding_idx} for {n}")
        padding_idx %= n
    if max_norm is not None and weight._array.ndim == 2:
        _renormalise(weight, input, max_norm, norm_type)
    return _embedding(input, weight, -1 if padding_idx is None else padding_idx, scale_grad_by_freq)


def _bags(input: Any, offsets: Any, last: bool) -> tuple[Any, int]:
    """(the bag of each index (n,), how many bags): those of offsets, which are where each begins."""
    n, count = input.shape[0], offsets.shape[0]
    at = offsets._array
    if type(at) is np.ndarray and count:
        if at[0] != 0:
            raise ShapeError(
                f"embedding_bag: offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from "
                f"position 0. However, got {at[0]}"
            )
        if at[-1] > n:
            raise ShapeError(
                f"embedding_bag: offsets[-1] can not be greater than input's length {n} but got offsets[-1] of {at[-1]}"
            )
    starts = offsets.long()
    if last:
        if not count:
            raise ShapeError("embedding_bag: include_last_offset: number of offsets should be at least 1")
        starts, count = starts[: count - 1], count - 1
    if type(at) is np.ndarray and count and not listening[0]:
        sizes = np.diff(at[:count], append=n)
        if np.minimum.reduce(sizes) >= 0:
            return wrap(np.repeat(np.arange(count), sizes)), count
    begun = starts.new_zeros((n + 1,)).scatter_add(0, starts, starts.new_ones((count,))).cumsum(0)
    return begun[:n] - 1, count


def _bag_rows(g: Any, bag: Any, scale: Any) -> Any:
    rows = g.index_select(0, bag)
    return rows if scale is None else rows * scale.unsqueeze(1)


def _bag_scale(g: Any, weight: Any, input: Any, bag: Any, padding_idx: int) -> Any:
    out = (weight.index_select(0, input) * g.index_select(0, bag)).sum(1)
    return _where(input != padding_idx, out, 0.0) if padding_idx >= 0 else out


@op(
    spec=lambda weight, input, bag, scale, count, padding_idx, scale_grad_by_freq: (
        (count, weight.shape[1]), weight.dtype
    ),
    promote=FLOATS.over("weight", "scale"),
    vjp=dict(
        weight=lambda g, weight_shape, input, bag, scale, padding_idx, scale_grad_by_freq: embedding_grad(
            _bag_rows(g, bag, scale), input, weight_shape[0], padding_idx, scale_grad_by_freq
        ),
        scale=lambda g, weight, input, bag, padding_idx: _bag_scale(g, weight, input, bag, padding_idx),
    ),
    on="",
    samples=each(
        draw((4, 5), ints(6, high=4), numbers([0, 0, 1, 1, 1, 3]), None, count=4),
        draw((4, 40), ints(12, high=4), numbers([0] * 9 + [2, 2, 3]), (12,), count=4, padding_idx=1),
        draw((4, 30), ints(0), ints(0), None, count=2),
    ),
    bench=[draw((10000, 64), ints(20000, high=10000), numbers(sorted([*range(1000)] * 20)), None, count=1000)],
    bytes=lambda weight, input, **_: weight.itemsize * input.size * weight.shape[1],
)  # fmt: skip
def _bag_sums(
    weight: Array, input: Array, bag: Array, scale: Array | None, count: int, padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
):  # fmt: skip
    """out[bag[i]] += weight[input[i]] (times scale[i]): (V, D) and (n,) -> (count, D), in float32 or wider.

    ``padding_idx`` counts for nothing. The bags are in order.
    """
    input = bounded("embedding_bag", input, 0, weight.shape[0], False)
    if padding_idx >= 0:
        counted = np.flatnonzero(input != padding_idx)
        input, bag = input[counted], bag[counted]
        scale = None if scale is None else scale[counted]
    out = np.zeros((count, weight.shape[1]), weight.dtype)
    if scale is None:
        join_rows(out, bag, weight, fresh=True, of=input)
    else:
        join_rows(out, bag, weight.take(input, 0) * scale[:, None], fresh=True)
    return out


_BAGGED = ints(6, high=4)
_STARTS = values([0, 2, 2], "int64")


@composite(
    on="functional",
    samples=each(
        draw(ints(2, 3, high=4), (4, 5)), draw(ints(2, 3, high=4), (4, 5), mode="sum"), draw(_BAGGED, (4, 5), _STARTS),
        draw(_BAGGED, (4, 5), _STARTS, None, 2.0, False, "sum", False, (6,)),
        draw(_BAGGED, distinct(4, 5), _STARTS, mode="max"), draw(ints(2, 3, high=4), distinct(4, 5), mode="max"),
        draw(_BAGGED, (4, 5), values([0, 2, 6], "int64"), mode="mean", include_last_offset=True, padding_idx=1),
    ),
)  # fmt: skip
def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Sums, means or maxima of weight's rows over bags of indices: (B, n) -> (B, D).

    Or indices (n,) and ``offsets`` (B,), where each bag begins (with ``include_last_offset`` also where the last ends).
    ``per_sample_weights``, of input's shape, multiply the rows of a 'sum'; ``padding_idx`` counts for nothing. An empty
    bag is 0. max_norm, norm_type, scale_grad_by_freq as in ``embedding``. ``sparse`` changes nothing.
    """
    x: Any = input
    w: Any = weight
    if w._array.dtype.kind in "iu" and x.dtype.is_floating_point:
        warnings.warn(
            "Argument order of nn.functional.embedding_bag was changed. Usage `embedding_bag(weight, input, ...)` is "
            "deprecated, and should now be `embedding_bag(input, weight, ...)`.",
            stacklevel=outside(),
        )
        x, w = w, x
    scale: Any = per_sample_weights
    if scale is not None and x.shape != scale.shape:
        raise ArgumentError(
            f"embedding_bag: If per_sample_weights ({tuple(scale.shape)}) is not None, then it must have the same "
            f"shape as the input ({tuple(x.shape)})"
        )
    if w.ndim != 2:
        raise ArgumentError(f"embedding_bag: weight has to be a 2D Tensor, but got Tensor of dimension {w.ndim}")
    if not w.dtype.is_floating_point:
        raise DtypeError(f"embedding_bag: expected weight to be floating-point, got {w.dtype}")
    if x.ndim not in (1, 2):
        raise ArgumentError(f"embedding_bag: input has to be 1D or 2D Tensor, but got Tensor of dimension {x.ndim}")
    if x.ndim == 2 and offsets is not None:
        raise ArgumentError(
            "embedding_bag: if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed "
            "length sequences"
        )
    if x.ndim == 1 and (offsets is None or offsets.ndim != 1):
        raise ArgumentError(f"embedding_bag: offsets has to be a 1D Tensor but got {offsets}")
    if mode not in ("sum", "mean", "max"):
        raise ArgumentError(f"embedding_bag: mode has to be one of sum, mean or max, got {mode}")
    if mode == "max" and (scale_grad_by_freq or sparse):
        raise ArgumentError("embedding_bag: max mode supports neither scale_grad_by_freq nor sparse weights")
    if scale is not None and mode != "sum":
        raise UnsupportedError(
            f"embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' (got "
            f"mode='{mode}')."
        )
    if max_norm is not None:
        _renormalise(w, x, max_norm, norm_type)
    if padding_idx is not None:
        if not -w.shape[0] <= padding_idx < w.shape[0]:
            raise ShapeError(f"embedding_bag: padding_idx must be within the number of embeddings, got {padding_idx}")
        padding_idx %= w.shape[0]
    counted = None if padding_idx is None else x != padding_idx
    if mode != "max" and all(type(t._array) is np.ndarray for t in (x, w, x if scale is None else scale)):
        n = x.shape[-1]
        if x.ndim == 2:
            bag, count = create.arange(x.shape[0]).repeat_interleave(n), x.shape[0]
        else:
            bag, count = _bags(x, offsets, include_last_offset)
        flat = None if scale is None else views.reshape(scale, (-1,))
        total = _bag_sums(
            w, views.reshape(x, (-1,)), bag, flat, count, -1 if padding_idx is None else padding_idx, scale_grad_by_freq
        )
        return total if mode == "sum" else total / _bag_sizes(x, bag, count, counted)
    rows: Any = _embedding(x, w, -1, scale_grad_by_freq)
    if scale is not None:
        rows = rows * scale.unsqueeze(-1)
    if counted is not None:
        rows = _where(counted.unsqueeze(-1), rows, -math.inf if mode == "max" else 0.0)
    if x.ndim == 2:
        if mode == "max":
            return _finite(rows.amax(1)) if x.shape[1] else w.new_zeros((x.shape[0], w.shape[1]))
        total = rows.sum(1)
        return total if mode == "sum" else total / _bag_sizes(x, None, x.shape[0], counted)  # type: ignore[no-any-return]
    bag, count = _bags(x, offsets, include_last_offset)
    empty = w.new_zeros((count, w.shape[1]))
    if mode == "max":
        index = bag.unsqueeze(1).expand(bag.shape[0], w.shape[1])
        return _finite(empty.scatter_reduce(0, index, rows, "amax", include_self=False))
    total = index_add(empty, 0, bag, rows)
    return total if mode == "sum" else total / _bag_sizes(x, bag, count, counted)


def _bag_sizes(x: Any, bag: Any, count: int, counted: Any) -> Any:
    """How many indices each bag has that count, at least 1: a number, or (count, 1)."""
    if x.ndim == 2:
        return max(x.shape[1], 1) if counted is None else counted.sum(1).clamp(1).unsqueeze(1)
    each_one: Any = bag.new_ones(bag.shape) if counted is None else counted.long()
    return index_add(bag.new_zeros((count,)), 0, bag, each_one).clamp(1).unsqueeze(1)  # type: ignore[attr-defined]


def _finite(x: Any) -> Any:
    """0 where a bag held nothing that counts."""
    return _where(x == -math.inf, 0.0, x)


@composite(on="functional", samples=each(draw(ints(2, 3, high=4), 5), draw(ints(4, high=3)), draw(ints(high=3), 3)))
@also_named(input="tensor")
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """out[..., c] = 1 where tensor is c, 0 elsewhere: (…) in int64 -> (…, num_classes) in int64.

    Without ``num_classes`` one more than the largest value, which is read on the host. Values are checked on the CPU.
    """
    x = tensor._array
    if x.dtype != _INT64:
        raise DtypeError(f"one_hot: is only applicable to index tensor of type int64, got {OF_NUMPY[x.dtype]}")
    if not x.size and num_classes <= 0:
        raise ShapeError("one_hot: Can not infer total number of classes from empty tensor: pass num_classes")
    if num_classes == -1:
        num_classes = int(tensor.max().item()) + 1
    if type(x) is np.ndarray and x.size:
        if np.minimum.reduce(x, axis=None) < 0:
            raise ShapeError("one_hot: Class values must be non-negative.")
        if np.maximum.reduce(x, axis=None) >= num_classes:
            raise ShapeError(f"one_hot: Class values must be smaller than num_classes ({num_classes}).")
    out = with_batches(create.zeros(*x.shape, num_classes, dtype=tensor.dtype, device=tensor.device), tensor)
    _scatter_(out, views.unsqueeze(tensor, -1), None, x.ndim, 1)
    return out
