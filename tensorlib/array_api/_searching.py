"""Searching, sorting and sets."""

from __future__ import annotations

from typing import Any, NamedTuple

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import bool_, int64
from tensorlib.errors import ArgumentError

from ._data_types import array, together

__all__ = ["argmax", "argmin", "argsort", "isin", "nonzero", "searchsorted", "sort", "unique_all", "unique_counts",
           "unique_inverse", "unique_values", "where"]  # fmt: skip


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The place of the first largest element along ``axis``, or in flattened order."""
    return ops.argmax(array("argmax", x), axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The place of the first smallest element along ``axis``, or in flattened order."""
    return ops.argmin(array("argmin", x), axis, keepdims)


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """The places of the elements that are not 0: one tensor a dimension. ValueError for a 0-d tensor."""
    if not array("nonzero", x).ndim:
        raise ArgumentError("nonzero: got a 0-d tensor: expected one with at least one dimension")
    out: tuple[Tensor, ...] = ops.nonzero(x, as_tuple=True)
    return out


def where(condition: Tensor, x1: Any, x2: Any, /) -> Tensor:
    """``x1`` where ``condition`` holds, else ``x2``: tensors, in their common dtype, or one of them a number."""
    out: Tensor = ops.where(array("where", condition), *together("where", x1, x2))
    return out


def searchsorted(x1: Tensor, x2: Any, /, *, side: str = "left", sorter: Tensor | None = None) -> Tensor:
    """Where ``x2`` goes into the sorted 1-D ``x1`` (``x1[sorter]``): before equal elements, or after them ("right")."""
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: got side={side!r}: expected 'left' or 'right'")
    table, values = together("searchsorted", array("searchsorted", x1), x2)
    if sorter is not None:
        sorter = sorter.to(int64)
    return ops.searchsorted(table, values, side=side, sorter=sorter)


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements along ``axis`` in rising order, or ``descending``."""
    out: Tensor = ops.sort(array("sort", x), axis, descending, stable=stable)[0]
    return out


def argsort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The places from which ``sort`` takes its elements; ``stable`` keeps the order of equal ones."""
    return ops.argsort(array("argsort", x), axis, descending, stable=stable)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    """Whether each element of ``x1`` is among those of ``x2``; one of them may be a number. NaN is in nothing."""
    elements, among = together("isin", x1, x2)
    if not any(isinstance(x, Tensor) and x.is_complex() for x in (elements, among)):
        return ops.isin(elements, among, invert=invert)
    one = elements if isinstance(elements, Tensor) else ops.asarray(elements)
    other = among.reshape(-1) if isinstance(among, Tensor) else among
    found = (one.unsqueeze(-1) == other).any(-1)
    return ~found if invert else found


class UniqueAllResult(NamedTuple):
    """What ``unique_all`` gives."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCountsResult(NamedTuple):
    """What ``unique_counts`` gives."""

    values: Tensor
    counts: Tensor


class UniqueInverseResult(NamedTuple):
    """What ``unique_inverse`` gives."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Tensor, /) -> UniqueAllResult:
    """The different elements, rising, where each is first, which one each element of ``x`` is, how many are equal.

    Every NaN is a value of its own, as NaN != NaN; -0.0 and 0.0 are one. Complex numbers go by their real part first.
    """
    flat = array("unique_all", x).reshape(-1)
    if x.is_complex():
        order = ops.argsort(flat.imag, stable=True)
        order = order[ops.argsort(flat.real[order], stable=True)]
    else:
        order = ops.argsort(flat, stable=True)
    ordered = flat[order]
    begins = ops.ones(flat.shape, dtype=bool_, device=x.device)
    begins[1:] = ordered[1:] != ordered[:-1]
    starts = ops.nonzero(begins).reshape(-1)
    ends = ops.concat([starts[1:], ops.full((min(1, flat.numel()),), flat.numel(), dtype=int64, device=x.device)])
    inverse = ops.empty(flat.shape, dtype=int64, device=x.device)
    inverse[order] = ops.cumsum(begins, 0) - 1
    return UniqueAllResult(ordered[starts], order[starts], inverse.reshape(x.shape), ends - starts)


def unique_counts(x: Tensor, /) -> UniqueCountsResult:
    """The different elements and how many there are of each: ``unique_all``."""
    found = unique_all(x)
    return UniqueCountsResult(found.values, found.counts)


def unique_inverse(x: Tensor, /) -> UniqueInverseResult:
    """The different elements and which one each element of ``x`` is: ``unique_all``."""
    found = unique_all(x)
    return UniqueInverseResult(found.values, found.inverse_indices)


def unique_values(x: Tensor, /) -> Tensor:
    """The different elements: ``unique_all``."""
    return unique_all(x).values
