"""Reductions, running sums and differences."""

from __future__ import annotations

from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import bool_
from tensorlib.errors import ArgumentError

from ._data_types import array, sum_dtype
from ._manipulation import wrap

__all__ = ["all", "any", "count_nonzero", "cumulative_prod", "cumulative_sum", "diff", "max", "mean", "min", "prod",
           "std", "sum", "var"]  # fmt: skip


def reduced(function: str, x: Tensor, axis: Any, keepdims: bool) -> tuple[Tensor, tuple[int, ...], bool]:
    """What to reduce, along which dimensions, and whether they stay.

    ``axis=()`` reduces nothing, where PyTorch reduces all: then it is along a new dimension of size 1.
    """
    ndim = array(function, x).ndim
    if axis is None:
        axes = tuple(range(ndim))
    else:
        axes = tuple(wrap(function, a, ndim) for a in ((axis,) if isinstance(axis, int) else axis))
        if len(set(axes)) < len(axes):
            raise ArgumentError(f"{function}: got axis={axis}: expected different ones")
    return (x, axes, keepdims) if axes else (x.unsqueeze(0), (0,), False)


def sum(x: Tensor, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Sum along ``axis``, an int or several, or all. Integers sum in int64, unsigned ones in uint64."""
    kind = sum_dtype(array("sum", x), dtype)
    x, axes, keep = reduced("sum", x, axis, keepdims)
    return ops.sum(x, axes, keep, dtype=kind)


def prod(x: Tensor, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Product along ``axis``, an int or several, or all. Integers multiply in int64, unsigned ones in uint64."""
    kind = sum_dtype(array("prod", x), dtype)
    x, axes, keep = reduced("prod", x, axis, keepdims)
    for dim in sorted(axes, reverse=True):
        x = ops.prod(x, dim, keep, dtype=kind)
    return x


def max(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest element along ``axis``, an int or several, or all; NaN where there is one."""
    x, axes, keep = reduced("max", x, axis, keepdims)
    return ops.amax(x, axes, keep)


def min(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest element along ``axis``, an int or several, or all; NaN where there is one."""
    x, axes, keep = reduced("min", x, axis, keepdims)
    return ops.amin(x, axes, keep)


def mean(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean along ``axis``, an int or several, or all. DtypeError for integers."""
    x, axes, keep = reduced("mean", x, axis, keepdims)
    return ops.mean(x, axes, keep)


def std(x: Tensor, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Square root of the variance: ``var``."""
    x, axes, keep = reduced("std", x, axis, keepdims)
    out: Tensor = ops.std(x, axes, keepdim=keep, correction=correction)
    return out


def var(x: Tensor, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Σ |x - mean|² / (n - correction) along ``axis``, an int or several, or all; PyTorch's default correction is 1."""
    x, axes, keep = reduced("var", x, axis, keepdims)
    out: Tensor = ops.var(x, axes, keepdim=keep, correction=correction)
    return out


def all(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether every element along ``axis`` is true, that is not 0: always bool."""
    x, axes, keep = reduced("all", x, axis, keepdims)
    return ops.all(x.to(bool_), axes, keep)


def any(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether some element along ``axis`` is true, that is not 0: always bool."""
    x, axes, keep = reduced("any", x, axis, keepdims)
    return ops.any(x.to(bool_), axes, keep)


def count_nonzero(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """How many elements along ``axis`` are not 0, in int64."""
    x, axes, keep = reduced("count_nonzero", x, axis, keepdims)
    return ops.sum(x.to(bool_), axes, keep)


def _running(function: str, operator: Any, x: Tensor, axis: int | None, dtype: Any, first: int | None) -> Tensor:
    """A running sum or product along ``axis``, with the value of nothing in front where ``first`` is one."""
    ndim = array(function, x).ndim
    if axis is None:
        if ndim != 1:
            raise ArgumentError(f"{function}: got a tensor of {ndim} dimensions and no axis: expected axis=")
        axis = 0
    axis, kind = wrap(function, axis, ndim), sum_dtype(x, dtype)
    out: Tensor = operator(x, axis, dtype=kind)
    if first is None:
        return out
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return ops.concat([ops.full(shape, first, dtype=kind, device=x.device), out], axis)


def cumulative_sum(
    x: Tensor, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Running sums along ``axis``, which only a 1-D tensor may leave out; dtypes as in ``sum``.

    ``include_initial``: a zero in front, so one element more.
    """
    return _running("cumulative_sum", ops.cumsum, x, axis, dtype, 0 if include_initial else None)


def cumulative_prod(
    x: Tensor, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Running products along ``axis``, which only a 1-D tensor may leave out; dtypes as in ``prod``.

    ``include_initial``: a one in front, so one element more.
    """
    return _running("cumulative_prod", ops.cumprod, x, axis, dtype, 1 if include_initial else None)


def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbours along ``axis``, ``n`` times, of ``x`` with ``prepend`` and ``append`` around it."""
    return ops.diff(array("diff", x), n, axis, prepend, append)
