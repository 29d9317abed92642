"""Sums, products and extrema into rows that may be named several times, in NumPy.

Everything that adds into repeated places is this one function: the gradients of indexing, gather and embeddings,
index_add, scatter_add, index_put with accumulate, and their reductions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# From this width on, whole rows are joined at once; below, element by element. Where NumPy's ufunc.at (2 ns an element,
# of any repetition) and the rounds below (1 ns, and 15 ns a row for the sort) cost the same.
_WIDE = 24

_PAIRS: dict[Any, Any] = {np.dtype(np.float32): np.dtype(np.complex64), np.dtype(np.float64): np.dtype(np.complex128)}


def by_name(index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(the names 0 <= index < n in order, the position of each: None where they are in order as they come). Stable."""
    count = index.size
    if (index[1:] >= index[:-1]).all():
        return index, None
    bits = (count - 1).bit_length()
    if bits + n.bit_length() > 62:
        order = np.argsort(index, kind="stable")
        return index[order], order
    # Sorting one integer of both is several times faster than a stable argsort.
    key = index.astype(np.int64) << bits
    key |= np.arange(count)
    key.sort()
    return key >> bits, key & ((1 << bits) - 1)


def join_rows(
    out: np.ndarray,
    index: np.ndarray,
    rows: np.ndarray,
    ufunc: Any = np.add,
    fresh: bool = False,
    of: np.ndarray | None = None,
) -> None:
    """out[index[i]] = ufunc(out[index[i]], rows[i]) for each i: out (n, D), contiguous, index (m,), rows (m, D).

    0 <= index < n. ``fresh``: out still holds ``ufunc``'s identity. The rows of a name are joined in a fixed order, in
    the dtype of out. ``of`` (m,): rows[of[i]] in place of rows[i].
    """
    count, d = index.size, rows.shape[1]
    if not count or not d:
        return
    if d < _WIDE or count < 8:
        rows = rows if of is None else rows.take(of, 0)
        _element_by_element(out, index, rows, ufunc)
        return
    rows = np.ascontiguousarray(rows)  # take copies what is not
    names, order = by_name(index, len(out))
    first = np.empty(count, np.bool_)
    first[0] = True
    np.not_equal(names[1:], names[:-1], out=first[1:])
    start = np.flatnonzero(first)
    if start.size == count:  # no name comes twice
        rows = rows if of is None else rows.take(of, 0)
        out[index] = rows if fresh else ufunc(out.take(index, 0), rows)
        return
    if of is not None:
        order = of if order is None else of[order]
    sizes = np.empty_like(start)
    np.subtract(start[1:], start[:-1], out=sizes[:-1])
    sizes[-1] = count - start[-1]
    longest_first = np.argsort(-sizes, kind="stable")
    start, sizes = start[longest_first], sizes[longest_first]
    names = names[start]

    def taken(at: Any) -> np.ndarray:
        return rows.take(at if order is None else order[at], 0)

    total = taken(start)
    # Round k joins the k-th row of every name that has one. A few names with many rows are cheaper one by one: the
    # first ``alone``, for their rows beyond the rounds.
    alone = int(np.argmin(sizes + np.arange(sizes.size)))
    rounds = int(sizes[alone])
    have = np.searchsorted(-sizes, -np.arange(rounds)).tolist()
    for k in range(1, rounds):
        m = have[k]
        ufunc(total[:m], taken(start[:m] + k), out=total[:m])
    for j in range(alone):
        at = slice(int(start[j]) + rounds, int(start[j] + sizes[j]))
        rest = rows[at] if order is None else rows.take(order[at], 0)
        if len(rest):
            ufunc(total[j], ufunc.reduce(rest, 0), out=total[j])
    out[names] = total if fresh else ufunc(out.take(names, 0), total)


def _element_by_element(out: np.ndarray, index: np.ndarray, rows: np.ndarray, ufunc: Any) -> None:
    d = rows.shape[1]
    flat, given = out.reshape(-1), np.ascontiguousarray(rows, out.dtype).reshape(-1)
    pair = _PAIRS.get(out.dtype)
    if d % 2 == 0 and ufunc is np.add and pair is not None:  # complex numbers are added part by part
        flat, given, d = flat.view(pair), given.view(pair), d // 2
    if d > 1:
        index = (index[:, None].astype(np.int64, copy=False) * d + np.arange(d)).reshape(-1)
    ufunc.at(flat, index, given)


def sums(n: int, index: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Zeros (n, D) to which rows[i] is added at ``index[i]``, 0 <= index < n; rows in float32 or wider."""
    out = np.zeros((n, rows.shape[1]), rows.dtype)
    join_rows(out, index, rows, fresh=True)
    return out
