"""Reductions of consecutive parts of a dimension, whose lengths are given."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._core import Tensor
from tensorlib._samples import draw, each, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import composite
from tensorlib.ops import create
from tensorlib.ops.reordering import repeat_interleave

#: What a segment starts from.
_START = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}


@composite(
    on="function",
    samples=each(
        *(draw((5, 3), how, lengths=values([2, 0, 3], "int64")) for how in ("sum", "prod", "max", "min")),
        draw((5, 3), "mean", lengths=values([2, 3], "int64")), draw((4,), "sum", offsets=values([0, 1, 4], "int64")),
        draw((2, 4), "max", lengths=values([[1, 3], [2, 2]], "int64"), axis=1),
        draw((5,), "sum", lengths=values([2, 0, 3], "int64"), initial=2.0),
    ),
)  # fmt: skip
def segment_reduce(
    data: Tensor, reduce: str, *, lengths: Tensor | None = None, indices: Tensor | None = None,
    offsets: Tensor | None = None, axis: int = 0, unsafe: bool = False, initial: Any = None,
) -> Tensor:  # fmt: skip
    """out[..., s] = the "sum", "mean", "max", "min" or "prod" of segment s of ``axis``: consecutive elements.

    ``lengths`` (…, S) says how many elements each segment has, or ``offsets`` (…, S + 1) where each begins; the
    dimensions before ``axis`` are those of data. A segment starts from ``initial``, or from what changes no number;
    the mean of nothing is NaN. The lengths are read on the host.
    """
    x: Any = data
    if reduce not in _START:
        raise ArgumentError(f"segment_reduce: expected reduce to be one of {', '.join(_START)}, got {reduce!r}")
    if not x.dtype.is_floating_point:
        raise DtypeError(f"segment_reduce: takes floating-point data, got {x.dtype}: convert it, as in data.float()")
    if indices is not None or (lengths is None) == (offsets is None):
        raise ArgumentError("segment_reduce: give exactly one of lengths and offsets; indices are not supported")
    n: Any = lengths if offsets is None else offsets.diff()  # type: ignore[attr-defined]
    ndim = x._array.ndim
    axis = axis + ndim if axis < 0 else axis
    if n._array.ndim != axis + 1 or n._array.shape[:axis] != x._array.shape[:axis]:
        raise ShapeError(
            f"segment_reduce: expected lengths of shape {tuple(x._array.shape[:axis])} and the number of segments, got "
            f"{tuple(n._array.shape)} for data of shape {tuple(x._array.shape)} and axis {axis}"
        )
    size = x._array.shape[axis]
    if not unsafe and not ((n.sum(-1) == size).all() and (n >= 0).all()):
        raise ShapeError(
            f"segment_reduce: expected lengths that are not negative and sum to {size}, the size of dimension {axis}"
        )
    rest = x._array.shape[axis + 1 :]
    count, rows = n._array.size, math.prod(x._array.shape[: axis + 1])
    segment = repeat_interleave(create.arange(count, device=x.device), n.reshape((count,)), 0, output_size=rows)
    parts = x.reshape((rows, math.prod(rest)))
    out: Any = create.full(
        (count, parts._array.shape[1]), _START[reduce] if initial is None else initial, dtype=x.dtype, device=x.device
    )
    if reduce in ("sum", "mean"):
        out = out.index_add(0, segment, parts)
    else:
        out = out.index_reduce(0, segment, parts, {"max": "amax", "min": "amin"}.get(reduce, reduce))
    if reduce == "mean":
        many = n.reshape((count, 1))
        out = out / (many if initial is None else many.clamp(1))
    return out.reshape((*n._array.shape, *rest))  # type: ignore[no-any-return]
