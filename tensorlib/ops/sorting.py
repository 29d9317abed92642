"""Order: sorting, the largest, the middle and the most frequent elements, and where numbers belong in a sorted row.

NaN is larger than every number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib import random as stream
from tensorlib._core import Tensor, wrap
from tensorlib._dispatch import as_int, wrap_dim
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import PROMOTE, of_number
from tensorlib._samples import between, bools, draw, each, fails, ints, shuffled, strided, transposed, values
from tensorlib.errors import ArgumentError, DeviceError, DimError, DtypeError, RangeError, ShapeError
from tensorlib.kernels import counting, drawing, searching, selection
from tensorlib.kernels import create as create_kernels
from tensorlib.kernels import sorting as kernels
from tensorlib.op import Array, Arrays, Dim, composite, op, result_type
from tensorlib.ops import create, views
from tensorlib.ops._out import also_named, takes_out
from tensorlib.ops._reduction import reduced_shape
from tensorlib.ops.extrema import _along_spec, _at_index, _nonempty, _shared_everywhere
from tensorlib.ops.gather_scatter import gather
from tensorlib.ops.indexing import with_dimension
from tensorlib.ops.joining import cat

_F32, _F64, _INT64, _INT32, _BOOL = (np.dtype(t) for t in (np.float32, np.float64, np.int64, np.int32, np.bool_))


def _ordered(name: str, dtype: Any) -> None:
    if dtype.kind == "c":
        raise DtypeError(f"{name}: complex numbers have no order, got {OF_NUMPY[dtype]}: sort by .abs() or .real")


def _front(x: np.ndarray, dim: int, part: slice) -> np.ndarray:
    return x[(*(slice(None),) * dim, part)]


def _starts(v: np.ndarray, dim: int) -> np.ndarray:
    """Which elements of a sorted array, from the second on, differ from the one before; NaN equals NaN."""
    before, after = _front(v, dim, slice(None, -1)), _front(v, dim, slice(1, None))
    new = before < after
    if v.dtype.kind == "f" and np.isnan(_front(v, dim, slice(-1, None))).any():
        new |= np.isnan(after) & ~np.isnan(before)
    return new  # type: ignore[no-any-return]


def _along(x: np.ndarray, i: np.ndarray, dim: int) -> np.ndarray:
    """np.take_along_axis, of rows and columns without its checks, which take longer than a small array."""
    if x.ndim == 1:
        return x[i]
    if x.ndim == 2:
        others = np.arange(x.shape[1 - dim])
        return x[others[:, None], i] if dim else x[i, others]
    return np.take_along_axis(x, i, dim)


def _sorted(x: np.ndarray, dim: int, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    """(values, indices), equal elements in their order: NumPy's fast unstable sort, then the indices of ties sorted.

    np.argsort(kind="stable") takes several times as long but for 8- and 16-bit numbers, where it is a radix sort.
    """
    turned = slice(None, None, -1)
    y = _front(x, dim, turned) if descending else x
    n = x.shape[dim]
    if x.itemsize <= 2 or n < 64:
        i = np.argsort(y, axis=dim, kind="stable")
        v = _along(y, i, dim)
    else:
        i = np.argsort(y, axis=dim)
        v = _along(y, i, dim)
        new = _starts(v, dim)
        if not new.all():
            run = np.zeros(v.shape, np.int64)
            np.cumsum(new, axis=dim, out=_front(run, dim, slice(1, None)))
            run *= n
            run += i
            run.sort(axis=dim)
            run %= n
            i = run
            if v.dtype.kind == "f":  # -0 and 0 are equal, and not the same
                v = _along(y, i, dim)
    if descending:
        return np.ascontiguousarray(_front(v, dim, turned)), np.ascontiguousarray(n - 1 - _front(i, dim, turned))
    return v, i


def _same_and_indices(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int, descending: bool, stable: bool) -> Any:
        _ordered(name, input.dtype)
        return [(input.shape, input.dtype), (input.shape, _INT64)]

    return spec


_TIES = values([[2.0, float("nan"), 2.0, -0.0, 0.0, float("-inf"), 2.0, float("inf"), float("nan")]])
_SORTS = each(
    draw(shuffled(3, 4)), draw(shuffled(3, 4), dim=0), draw(shuffled(2, 3, 5), dim=-2, descending=True), draw(()),
    draw((0, 3)), draw((1,)), draw(transposed(5, 6), dim=0), draw(strided(3, 7), descending=True), draw(shuffled(130)),
    draw(_TIES), draw(_TIES, descending=True), draw(bools(9)), draw(ints(200, high=9), descending=True, stable=True),
    draw(ints(3, 70, high=9, dtype="int32"), dim=1, stable=True), draw(ints(9, high=5, dtype="uint8")),
    draw(ints(4100, low=-900, high=900, dtype="int16"), stable=True),
)  # fmt: skip


@op(
    spec=_same_and_indices("sort"),
    kernel=kernels.sort,
    promote=PROMOTE,
    outputs=("values", "indices"),
    vjp=lambda g_values, indices, input_shape, dim: _at_index(g_values, indices, input_shape, dim, True),
    samples=_SORTS,
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)],
    bench=[draw((1 << 20,)), draw((1024, 1024))],
    bytes=lambda input: 2 * input.nbytes + 8 * input.size,
)
def sort(input: Array, dim: Dim = -1, descending: bool = False, *, stable: Any = False):
    """(values, indices) of input in ascending order along ``dim``: values = input.gather(dim, indices).

    Of any shape; values of input's dtype, indices int64. NaN is larger than every number. Equal elements keep their
    order whether or not ``stable``. DimError for a dim out of range.
    """
    return _sorted(input, dim, descending)


@composite(samples=each(draw(shuffled(3, 4)), draw(shuffled(3, 4), 0, True), draw(ints(70, high=9), stable=True)))
@takes_out
def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Tensor:
    """The indices that sort input along ``dim``: the second result of ``sort``."""
    return sort(input, dim, descending, stable=stable)[1]  # type: ignore[no-any-return]


@composite(samples=each(draw(shuffled(4, 3)), draw(()), draw(shuffled(5))))
@takes_out
def msort(input: Tensor) -> Tensor:
    """input in ascending order along its first dimension."""
    return sort(input, 0)[0]  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------- the k-th element


def _topk_spec(input: Any, k: int, dim: int, largest: bool, sorted: bool) -> Any:
    _ordered("topk", input.dtype)
    n = input.shape[dim]
    if not 0 <= k <= n:
        raise ShapeError(f"topk: selected index k out of range: k = {k}, expected 0 … {n}, the size of dimension {dim}")
    shape = (*input.shape[:dim], k, *input.shape[dim + 1 :])
    return [(shape, input.dtype), (shape, _INT64)]


@op(
    spec=_topk_spec,
    kernel=kernels.topk,
    promote=PROMOTE,
    outputs=("values", "indices"),
    vjp=lambda g_values, indices, input_shape, dim: _at_index(g_values, indices, input_shape, dim, True),
    on="",
    samples=each(
        draw(shuffled(3, 4), k=2), draw(shuffled(3, 4), k=3, dim=0, largest=False), draw((0, 3), k=1),
        draw(shuffled(2, 3, 50), k=5, dim=-1), draw(shuffled(200, 2), k=7, dim=0), draw((3,), k=0),
        draw(shuffled(4, 3), k=4, dim=0, sorted=False), draw(transposed(30, 40), k=2),
        draw(replace(shuffled(4100), dtype="int16", grad=False), k=3),
    ),
    errors=[fails((3, 4), k=5, match="out of range"), fails((3, 4), k=1, dim=2, match="range", error=DimError)],
    bench=[draw((128, 50257), k=50)],
    bytes=lambda input, k: input.nbytes,
)  # fmt: skip
def _topk(input: Array, k: int, dim: Dim = -1, largest: bool = True, sorted: bool = True):
    """(values, indices) of the k largest or smallest elements along ``dim``."""
    n = input.shape[dim]
    if 4 * k >= n:
        v, i = _sorted(input, dim, largest)
        # copies, for views would keep all of the sorted memory
        return np.ascontiguousarray(_front(v, dim, slice(0, k))), np.ascontiguousarray(_front(i, dim, slice(0, k)))
    if k == 0:
        shape = (*input.shape[:dim], 0, *input.shape[dim + 1 :])
        return np.empty(shape, input.dtype), np.empty(shape, np.int64)
    chosen = np.argpartition(input, n - k if largest else k - 1, axis=dim)
    chosen = _front(chosen, dim, slice(n - k, None) if largest else slice(0, k))
    v, order = _sorted(_along(input, chosen, dim), dim, largest)
    return v, _along(chosen, order, dim)


@composite(
    samples=each(
        draw(shuffled(3, 4), 2), draw(shuffled(3, 4), 3, 0, False), draw(shuffled(2, 3, 50), k=5, dim=2, largest=True),
        draw((), 1), draw(shuffled(9), 3, largest=False, sorted=True),
    )
)  # fmt: skip
@takes_out
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the k largest (or smallest) elements along ``dim``, the best first.

    NaN is larger than every number; which of equal elements are taken is not defined. ShapeError where k is not in
    0 … input.size(dim).
    """
    if not input._array.ndim:
        wrap_dim("topk", dim, 0)
        found = _topk(with_dimension(input), as_int("topk", "k", k), 0, largest, sorted)
        return type(found)(*[views.reshape(t, ()) if t._array.size else t for t in found])
    return _topk(input, as_int("topk", "k", k), dim, largest, sorted)


def _nth(x: np.ndarray, k: Any, dim: int, keepdim: bool) -> tuple[np.ndarray, np.ndarray]:
    """(values, indices) of the k-th smallest, from 0."""
    chosen = np.ascontiguousarray(_front(np.argpartition(x, k, axis=dim), dim, slice(k, k + 1)))
    found = np.take_along_axis(x, chosen, dim)
    return (found, chosen) if keepdim else (found.squeeze(dim), chosen.squeeze(dim))


def _kthvalue_spec(input: Any, k: int, dim: int, keepdim: bool) -> Any:
    _ordered("kthvalue", input.dtype)
    shape = reduced_shape(input.shape, (dim,), keepdim)
    _nonempty("kthvalue", input, (dim,), shape)
    if not 1 <= k <= input.shape[dim] and (input.shape[dim] or 0 not in shape):
        raise ShapeError(
            f"kthvalue: selected number k out of range for dimension {dim}: k = {k}, expected 1 … {input.shape[dim]}"
        )
    return [(shape, input.dtype), (shape, _INT64)]


@op(
    spec=_kthvalue_spec,
    kernel=selection.kthvalue,
    promote=PROMOTE,
    outputs=("values", "indices"),
    vjp=lambda g_values, indices, input_shape, dim, keepdim: _at_index(g_values, indices, input_shape, dim, keepdim),
    samples=each(
        draw(shuffled(3, 4), k=2), draw(shuffled(3, 4), k=3, dim=0, keepdim=True), draw((), k=1), draw((0, 3), k=1),
        draw(shuffled(2, 5, 3), k=5, dim=1), draw(transposed(5, 6), k=1),
        draw(replace(shuffled(4100), dtype="int16", grad=False), k=1234),
    ),
    bench=[draw((128, 50257), k=25000)],
    bytes=lambda input, k: input.nbytes,
    errors=[fails((3,), k=4, match="out of range"), fails((3,), k=0, match="out of range")],
)  # fmt: skip
def kthvalue(input: Array, k: int, dim: Dim = -1, keepdim: Any = False):
    """(value, index) of the k-th smallest element along ``dim``, counted from 1; NaN is larger than every number.

    ShapeError where k is not in 1 … input.size(dim). Which of equal elements the index names is not defined.
    """
    if not input.size:
        shape = reduced_shape(input.shape, (dim,), keepdim)
        return np.empty(shape, input.dtype), np.empty(shape, np.int64)
    return _nth(input, k - 1, dim, keepdim)


# ------------------------------------------------------------------------------------------------------------- medians


def _median_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any) -> Any:
        if input.dtype.kind in "bc":
            raise DtypeError(f"{name}: not implemented for {OF_NUMPY[input.dtype]}: convert it, as in input.int()")
        return (), input.dtype

    return spec


def _middle(x: np.ndarray, ignore_nan: bool) -> Any:
    """The lower median of all elements."""
    flat = x.reshape(-1)
    if not flat.size:
        # What a conversion of NaN gives: the least int32 or int64, whose low bits are 0.
        return x.dtype.type(np.nan) if x.dtype.kind == "f" else np.iinfo(x.dtype).min if x.itemsize > 2 else 0
    if x.dtype.kind == "f":
        nan = np.isnan(flat)
        if nan.any():
            flat = flat[~nan]
            if not ignore_nan or not flat.size:
                return x.dtype.type(np.nan)
    k = (flat.size - 1) // 2
    return np.partition(flat, k)[k]


_MIDDLES = each(
    draw(shuffled(3, 5)), draw(shuffled(4)), draw(()), draw(values([1.0, float("nan"), 3.0, 2.0])), draw(ints(6)),
    draw(values([float("nan")] * 2)), draw(values([2.0, 2.0, 1.0, 2.0])),
)  # fmt: skip


@op(
    spec=_median_spec("median"), kernel=selection.median_of_all, promote=PROMOTE, vjp=_shared_everywhere, on="",
    samples=_MIDDLES,
)  # fmt: skip
def _median_all(input: Array):
    """The lower median of all elements."""
    return _middle(input, False)


@op(
    spec=_median_spec("nanmedian"), kernel=selection.nanmedian_of_all, promote=PROMOTE, vjp=_shared_everywhere, on="",
    samples=_MIDDLES,
)  # fmt: skip
def _nanmedian_all(input: Array):
    """The lower median of the elements that are not NaN."""
    return _middle(input, True)


def _median_along_spec(name: str) -> Callable[..., Any]:
    extremum = _along_spec(name)

    def spec(input: Any, dim: int, keepdim: bool) -> Any:
        _median_spec(name)(input)
        return extremum(input, dim, keepdim)

    return spec


def _middles(x: np.ndarray, dim: int, keepdim: bool, ignore_nan: bool) -> tuple[np.ndarray, np.ndarray]:
    shape = reduced_shape(x.shape, (dim,), keepdim)
    if not x.size:
        return np.empty(shape, x.dtype), np.empty(shape, np.int64)
    nan = np.isnan(x) if x.dtype.kind == "f" else None
    if nan is None or not nan.any():
        return _nth(x, (x.shape[dim] - 1) // 2, dim, keepdim)
    if ignore_nan:  # NaN sorts last: the middle of what comes before it, a different place in each row
        order = np.argsort(x, axis=dim, kind="stable")
        k = np.maximum((x.shape[dim] - nan.sum(dim, keepdims=True) - 1) // 2, 0)
        i = np.take_along_axis(order, k, dim)
    else:
        i = _nth(x, (x.shape[dim] - 1) // 2, dim, True)[1]
        i = np.where(nan.any(dim, keepdims=True), nan.argmax(dim, keepdims=True), i)
    v = np.take_along_axis(x, i, dim)
    return (v, i) if keepdim else (v.squeeze(dim), i.squeeze(dim))


_MEDIANS = each(
    draw(shuffled(3, 4), dim=1), draw(shuffled(3, 5), dim=0, keepdim=True), draw((), dim=0), draw((0, 3), dim=1),
    draw(shuffled(2, 7, 3), dim=-2), draw(values([[1.0, float("nan"), 3.0, 2.0], [4.0, 3.0, 1.0, 2.0]]), dim=1),
    draw(values([[float("nan")] * 2]), dim=1), draw(transposed(5, 6), dim=1),
    draw(ints(5, low=-9, dtype="int32"), dim=0),
)  # fmt: skip
_NO_MIDDLE = [fails((2, 0), dim=1, match="non-zero size", error=DimError)]


@op(
    bench=[draw((1024, 4096), dim=1)],
    spec=_median_along_spec("median"), kernel=selection.median, promote=PROMOTE, outputs=("values", "indices"),
    vjp=_at_index, on="", samples=_MEDIANS, errors=_NO_MIDDLE,
)  # fmt: skip
def _median_dim(input: Array, dim: Dim, keepdim: Any = False):
    """The lower median along ``dim`` and its index; NaN wins."""
    return _middles(input, dim, keepdim, False)


@op(
    spec=_median_along_spec("nanmedian"), kernel=selection.nanmedian, promote=PROMOTE, outputs=("values", "indices"),
    vjp=_at_index, on="", samples=_MEDIANS, errors=_NO_MIDDLE,
)  # fmt: skip
def _nanmedian_dim(input: Array, dim: Dim, keepdim: Any = False):
    """The lower median along ``dim`` of what is not NaN, and its index."""
    return _middles(input, dim, keepdim, True)


_BOTH_MEDIANS = each(
    draw(shuffled(3, 5)), draw(shuffled(3, 5), 1), draw(shuffled(2, 3, 5), dim=-2, keepdim=True), draw(ints(6)),
    draw(values([1.0, float("nan"), 3.0, 2.0])), draw(values([[1.0, float("nan"), 3.0, 2.0]]), 1),
)  # fmt: skip


@composite(samples=_BOTH_MEDIANS)
@takes_out
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle of all elements, the lower one of two; median(input, dim): (values, indices) along a dim.

    NaN where there is one. The gradient goes to the index, or for the whole tensor is divided evenly among the
    elements equal to the median. DtypeError for bool and complex; DimError for a dim out of range or of size 0.
    """
    return _median_all(input) if dim is None else _median_dim(input, dim, keepdim)


@composite(samples=_BOTH_MEDIANS)
@takes_out
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """``median`` of the elements that are not NaN; NaN where all are."""
    return _nanmedian_all(input) if dim is None else _nanmedian_dim(input, dim, keepdim)


@op(
    spec=_along_spec("mode"),
    kernel=searching.mode,
    promote=PROMOTE,
    outputs=("values", "indices"),
    vjp=_at_index,
    samples=each(
        draw(ints(3, 9, high=4)), draw(ints(7, 2, high=3), dim=0, keepdim=True), draw(values([1.0, 2, 2, 1, 3])),
        draw(()), draw((0, 3)), draw(bools(5)), draw(values([1.0, float("nan"), float("nan")])),
    ),
    errors=[fails((2, 0), dim=1, match="non-zero size", error=DimError)],
)  # fmt: skip
def mode(input: Array, dim: Dim = -1, keepdim: Any = False):
    """(value, index) of the most frequent element along ``dim``: the smallest of equally frequent ones, its last index.

    DimError for a dim out of range or of size 0.
    """
    shape = reduced_shape(input.shape, (dim,), keepdim)
    if not input.size:
        return np.empty(shape, input.dtype), np.empty(shape, np.int64)
    x = np.moveaxis(input, dim, -1)
    v, i = _sorted(x, x.ndim - 1, False)
    place = np.arange(v.shape[-1])
    start = np.zeros(v.shape, np.int64)
    start[..., 1:] = np.where(v[..., 1:] != v[..., :-1], place[1:], 0)
    at = (place - np.maximum.accumulate(start, axis=-1)).argmax(-1)[..., None]
    return np.take_along_axis(v, at, -1).reshape(shape), np.take_along_axis(i, at, -1).reshape(shape)


# ----------------------------------------------------------------------------------------------------------- quantiles

_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(name: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, how: str, ignore_nan: bool) -> Tensor:
    x: Any = input
    dtype = x._array.dtype
    if dtype != _F32 and dtype != _F64:
        raise DtypeError(f"{name}: input tensor must be either float or double dtype, got {OF_NUMPY[dtype]}")
    if not x._array.size:
        raise ShapeError(f"{name}: input tensor must be non-empty, got shape {tuple(x._array.shape)}")
    if how not in _INTERPOLATIONS:
        raise ArgumentError(
            f"{name}: interpolation must be one of linear, lower, higher, midpoint or nearest, but got {how}"
        )
    if not isinstance(q, Tensor):
        if not 0 <= q <= 1:
            raise ArgumentError(f"{name}: q must be in the range [0, 1] but got {q}")
        q = create.tensor(q, dtype=OF_NUMPY[dtype], device=x.device)
    elif q._array.ndim > 1:
        raise ShapeError(f"{name}: q must be a scalar or 1D tensor, got {q._array.ndim}D")
    elif q._array.dtype != dtype:
        raise DtypeError(
            f"{name}: q tensor must be same dtype as the input tensor, got {OF_NUMPY[q._array.dtype]} for "
            f"{OF_NUMPY[dtype]}"
        )
    elif type(q._array) is np.ndarray and not ((q >= 0) & (q <= 1)).all():
        raise ArgumentError(f"{name}: q values must be in the range [0, 1]")
    ndim = x._array.ndim
    at = 0 if dim is None else wrap_dim(name, dim, ndim)
    shape = reduced_shape(x._array.shape, tuple(range(ndim)) if dim is None else (at,), keepdim) if ndim else ()
    x = x.reshape((-1,)) if dim is None else with_dimension(x).movedim(at, -1)
    x = sort(x, -1)[0]
    n = x._array.shape[-1]
    ranks = q.reshape((-1,))
    if ignore_nan:
        ranks = ranks * (x.isnan().logical_not().sum(-1, True) - 1).clamp(0)
    else:
        last = x[..., -1:].isnan()  # NaN sorts last
        ranks = ranks * (n - 1)
        if type(last._array) is not np.ndarray or last._array.any():
            ranks = ranks.masked_fill(last, n - 1)
    if how in ("lower", "higher", "nearest"):
        ranks = {"lower": ranks.floor, "higher": ranks.ceil, "nearest": ranks.round}[how]()
    ranks = ranks.expand((*x._array.shape[:-1], q._array.size))
    below = ranks.long()
    result = gather(x, -1, below)
    if how in ("linear", "midpoint"):
        weights = ranks.new_full((), 0.5) if how == "midpoint" else ranks - below
        above = ranks.ceil().long()
        result = result.lerp(gather(x, -1, above), weights)  # type: ignore[attr-defined]
    if q._array.ndim:
        return views.reshape(result.movedim(-1, 0), (q._array.size, *shape))  # type: ignore[attr-defined]
    return views.reshape(result, shape)


_QUANTILES = each(
    draw(shuffled(3, 5), 0.5), draw(shuffled(3, 5), 1.0, 1), draw(shuffled(3, 5), values([0.1, 0.25, 0.9]), 0, True),
    draw(shuffled(2, 3, 5), values([0.6, 0.1]), dim=-2), draw((), 0.4), draw(shuffled(4, 3), 0.7, None, True),
    draw(values([[1.0, float("nan"), 3.0, 0.0], [2.0, 1.0, 0.0, 5.0]]), 0.4, 1),
    *(draw(shuffled(2, 6), values([0.33, 0.5]), 1, interpolation=how) for how in _INTERPOLATIONS),
)  # fmt: skip


@composite(samples=_QUANTILES)
@takes_out
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-th quantiles along ``dim`` (None: of all elements): the value at rank q (n - 1) of the sorted elements.

    ``q`` is a number in 0 … 1, or a 0-d or 1-D tensor of input's dtype, whose dimension comes first in the result.
    ``interpolation`` between two ranks: "linear", "lower", "higher", "midpoint" or "nearest". NaN where there is one.
    float32 and float64; DtypeError otherwise, ArgumentError for q out of range.
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@composite(samples=_QUANTILES)
@takes_out
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """``quantile`` of the elements that are not NaN; NaN where all are."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


# ------------------------------------------------------------------------------------------------------ distinct values


def _comparable(x: np.ndarray) -> np.ndarray:
    """x, half types as float32, which NumPy sorts faster."""
    return x.astype(np.float32) if x.dtype.kind == "V" or x.dtype == np.float16 else x


def _grouped(x: np.ndarray, new: np.ndarray, order: np.ndarray | None, inverse: bool, counts: bool) -> Any:
    """(first of each group, group of each element, group sizes) of rows in order, ``new`` where a group begins."""
    first = np.flatnonzero(new)
    groups = sizes = np.empty(0, np.int64)
    if inverse:
        groups = np.cumsum(new) - 1
        if order is not None:
            placed = np.empty_like(groups)
            placed[order] = groups
            groups = placed
    if counts:
        sizes = np.diff(first, append=len(new))
    return (x[first] if order is None else x[order[first]]), groups, sizes


def _changes(x: np.ndarray) -> np.ndarray:
    """Where a row differs from the one before; the first does."""
    new = np.ones(len(x), np.bool_)
    if len(x):
        differ = x[1:] != x[:-1]
        new[1:] = differ if x.ndim == 1 else differ.any(1)
    return new


@op(
    bench=[draw(ints(1 << 20, high=1000), return_inverse=True, return_counts=True, consecutive=False)],
    dynamic=True,
    kernel=searching.unique,
    outputs=("output", "inverse_indices", "counts"),
    on="",
    samples=each(
        draw(values([3, 1, 2, 1], "int64"), return_inverse=True, return_counts=True, consecutive=False),
        draw(values([[3, 1], [3, 1], [2, 0]], "int32"), return_inverse=True, return_counts=True, consecutive=False),
        draw(values([3, 3, 2, 3], "uint8"), return_inverse=True, return_counts=True, consecutive=True),
        draw(ints(0), return_inverse=True, return_counts=True, consecutive=False),
        draw(ints(9, high=3), return_inverse=False, return_counts=False, consecutive=False),
    ),
)  # fmt: skip
def _unique(input: Array, return_inverse: bool, return_counts: bool, consecutive: bool):
    """The distinct elements (rows) of a vector (matrix), sorted, or one for each run of equal ones."""
    x = _comparable(input)
    if consecutive:
        return _grouped(input, _changes(x), None, return_inverse, return_counts)
    if x.ndim == 1 and not return_inverse:
        x = np.sort(x)
        return _grouped(x.astype(input.dtype, copy=False), _changes(x), None, False, return_counts)
    order = _sorted(x, 0, False)[1] if x.ndim == 1 else np.lexsort(x.T[::-1])
    return _grouped(input, _changes(x[order]), order, return_inverse, return_counts)


def _shuffled(
    name: str, input: Tensor, return_inverse: bool, return_counts: bool, dim: int | None, consecutive: bool
) -> Any:
    x: Any = input.detach()  # type: ignore[attr-defined]
    _ordered(name, x._array.dtype)
    shape = x._array.shape
    if dim is None:
        rows, back = x.reshape((x._array.size,)), None
        out, groups, sizes = _unique(rows, return_inverse, return_counts, consecutive)
        groups = groups.reshape(shape) if return_inverse else groups
    else:
        if not shape:
            raise DimError(f"{name}: Dimension specified as {dim} but tensor has no dimensions")
        at = wrap_dim(name, dim, len(shape))
        if 0 in shape[:at] + shape[at + 1 :]:
            raise ShapeError(
                f"{name}: There are 0 sized dimensions, and they aren't selected, so unique cannot be applied: "
                f"{tuple(shape)}"
            )
        back = x.movedim(at, 0)
        width = math.prod(shape[:at] + shape[at + 1 :])
        out, groups, sizes = _unique(back.reshape((shape[at], width)), return_inverse, return_counts, consecutive)
        out = out.reshape((out._array.shape[0], *back._array.shape[1:])).movedim(0, at)
    if not (return_inverse or return_counts):
        return out
    return (out, *[groups] * return_inverse, *[sizes] * return_counts)


_DISTINCT = each(
    draw(values([[3, 1, 2], [1, 1, 2]], "int32")), draw(ints(3, 5, high=4), return_inverse=True),
    draw(ints(7, high=3), return_inverse=True, return_counts=True), draw(ints(6, 2, high=2), dim=0),
    draw(ints(2, 6, high=2), return_inverse=True, return_counts=True, dim=-1), draw((0,)), draw(bools(9)),
    draw((), return_counts=True),
)  # fmt: skip


@composite(samples=_DISTINCT)
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements of input in ascending order, or its distinct slices along ``dim``.

    With ``return_inverse`` also where each element went (of input's shape; of its size along ``dim``), with
    ``return_counts`` also how often each occurs. Every NaN is distinct. Always sorted.
    """
    return _shuffled("unique", input, return_inverse, return_counts, dim, False)


@composite(samples=_DISTINCT)
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """input without the elements (slices along ``dim``) that equal the one before: see ``unique``."""
    return _shuffled("unique_consecutive", input, return_inverse, return_counts, dim, True)


# ------------------------------------------------------------------------------------------------ places in sorted rows


def _searchsorted_spec(sorted_sequence: Any, input: Any, sorter: Any, right: bool, out_int32: bool) -> Any:
    s, x = sorted_sequence, input
    if s.ndim != 1 and s.shape[:-1] != x.shape[:-1]:
        raise ShapeError(
            "searchsorted: boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries tensor "
            f"and input value tensor must match, but we got boundaries tensor {list(s.shape)} and input value tensor "
            f"{list(x.shape)}"
        )
    if sorter is not None:
        if sorter.shape != s.shape:
            raise ShapeError(
                f"searchsorted: boundary and sorter must have the same size, but got boundary tensor {list(s.shape)} "
                f"and got sorter tensor {list(sorter.shape)}"
            )
        if sorter.dtype != _INT64:
            raise DtypeError(
                f"searchsorted: sorter must be a tensor of long dtype but got dtype {OF_NUMPY[sorter.dtype]}"
            )
    return x.shape, _INT32 if out_int32 else _INT64


@op(
    bench=[draw(values(range(1 << 12)), between(0.0, 4096.0, 1 << 20), None, right=False, out_int32=False)],
    spec=_searchsorted_spec,
    kernel=searching.searchsorted,
    promote=PROMOTE.over("sorted_sequence", "input"),
    on="",
    samples=each(
        draw(values([1.0, 3, 5, 7]), values([[3.0, 6, 0], [9, 5, 1]]), None, right=False, out_int32=False),
        draw(values([1.0, 3, 3, 7]), values([3.0, 8]), None, right=True, out_int32=True),
        draw(values([[1.0, 3, 5], [2, 4, 6]]), values([[3.0, 6], [3, 6]]), None, right=False, out_int32=False),
        draw(values([5.0, 1, 3]), values([3.0, 4]), values([1, 2, 0], "int64"), right=False, out_int32=False),
    ),
)  # fmt: skip
def _searchsorted(sorted_sequence: Array, input: Array, sorter: Array | None, right: bool, out_int32: bool):
    """Where each number of input belongs in its sorted row."""
    if sorter is not None and sorter.size and not (sorter.min() >= 0 and sorter.max() < sorter.shape[-1]):
        raise RangeError("searchsorted: sorter index out of range")
    s = sorted_sequence if sorter is None else np.take_along_axis(sorted_sequence, sorter, -1)
    if s.ndim == 1:
        return np.searchsorted(s, input, "right" if right else "left")
    n = s.shape[-1]
    low, high = np.zeros(input.shape, np.int64), np.full(input.shape, n)
    # A binary search of all rows at once: a step halves every interval.
    for _ in range(n.bit_length()):
        middle = (low + high) >> 1
        at = np.take_along_axis(s, np.minimum(middle, max(n - 1, 0)), -1)
        beyond = (low < high) & ~((at > input) if right else (at >= input))
        low, high = np.where(beyond, middle + 1, low), np.where(beyond, high, middle)
    return low


@composite(
    on="function",
    samples=each(
        draw(values([1.0, 3, 5, 7]), values([[3.0, 6, 0], [9, 5, 1]])), draw(values([1.0, 3, 3, 7]), 3, right=True),
        draw(values([[1.0, 3, 5], [2, 4, 6]]), values([[3.0, 6], [3, 6]]), side="right", out_int32=True),
        draw(ints(0), ints(3)),
        draw(values([5.0, 1, 3]), values([3.0, 4]), sorter=values([1, 2, 0], "int64")),
    ),
)  # fmt: skip
@takes_out
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """The index i at which each number of input keeps its row of ``sorted_sequence`` sorted: s[i - 1] < x <= s[i].

    ``sorted_sequence`` (…, n), sorted along its last dimension or by ``sorter``; input (…, k), of any shape where
    there is one row, or a number. With ``right`` (or ``side="right"``) s[i - 1] <= x < s[i]. int64, or int32.
    """
    if side is not None and side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise ArgumentError(
            "searchsorted: side and right can't be set to opposites, got side of left while right was True"
        )
    s = sorted_sequence._array
    if not isinstance(input, Tensor):
        input = create.tensor(input, dtype=OF_NUMPY[of_number(input)], device=sorted_sequence.device)  # type: ignore[attr-defined]
        if s.ndim != 1:
            raise ShapeError(
                "searchsorted: input value can be a scalar only when boundaries tensor dimension is 1, but we got "
                f"boundaries tensor dim({s.ndim})"
            )
    if not s.ndim:
        raise ShapeError("searchsorted: boundaries tensor should have positive dimension, but got 0 dimension")
    return _searchsorted(sorted_sequence, input, sorter, right or side == "right", out_int32)


@composite(
    on="function",
    samples=each(
        draw(values([[3.0, 6, 9], [3, 6, 9]]), values([1.0, 3, 5, 7, 9])), draw(3, values([1.0, 3, 5]), right=True),
        draw(ints(4), ints(0), out_int32=True),
    ),
)  # fmt: skip
@takes_out
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The bucket of each number between the sorted 1-D ``boundaries``: b[i - 1] < x <= b[i], < and <= swapped by right.

    ShapeError where boundaries are not 1-D.
    """
    if boundaries._array.ndim != 1:
        raise ShapeError(f"bucketize: boundaries tensor must be 1 dimension, but got dim({boundaries._array.ndim})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@op(
    bench=[draw(ints(1 << 20, high=1 << 16), ints(1024, high=1 << 16), invert=False)],
    spec=lambda elements, test_elements, invert: (elements.shape, _BOOL),
    kernel=searching.isin,
    promote=PROMOTE,
    on="",
    samples=each(
        draw(ints(3, 4), ints(5), invert=False), draw(ints(3, 4), ints(5), invert=True),
        draw(values([1.0, float("nan")]), values([float("nan"), 1.0]), invert=False),
        draw(ints(0), ints(2), invert=False),
    ),
)  # fmt: skip
def _isin(elements: Array, test_elements: Array, invert: bool):
    """Which elements are among the test elements."""
    return np.isin(elements, test_elements, invert=invert)


@composite(
    on="function",
    samples=each(
        draw(ints(3, 4), ints(5)), draw(ints(3, 4), ints(2, 2), invert=True, assume_unique=False), draw(ints(4), 3),
        draw(values([1.0, float("nan")]), values([float("nan"), 1.0])), draw(2, ints(4)),
    ),
)  # fmt: skip
@takes_out
@also_named(element="elements", test_element="test_elements")
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each of ``elements`` is among ``test_elements``; bool, of the shape of elements. NaN is nowhere.

    One of the two may be a number. ``assume_unique`` promises that neither has repeated elements.
    """
    like = elements if isinstance(elements, Tensor) else test_elements
    if not isinstance(like, Tensor):
        raise TypeError("isin(): at least one of elements and test_elements must be a Tensor")
    given = [
        t if isinstance(t, Tensor) else create.tensor(t, dtype=OF_NUMPY[of_number(t)], device=like.device)  # type: ignore[attr-defined]
        for t in (elements, test_elements)
    ]
    return _isin(*given, invert)


# -------------------------------------------------------------------------------------------------------------- counts


def _countable(input: Any, weights: Any, minlength: int) -> None:
    if input.ndim != 1:
        raise ShapeError("bincount: only supports 1-d non-negative integral inputs.")
    if input.dtype.kind not in "iu":
        raise DtypeError(f"bincount: only supports 1-d non-negative integral inputs, got {OF_NUMPY[input.dtype]}")
    if minlength < 0:
        raise ArgumentError(f"bincount: minlength should be >= 0, got {minlength}")
    if weights is not None and weights.shape != input.shape:
        raise ShapeError(
            f"bincount: weights should be 1-d and have the same length as input, got {tuple(weights.shape)} for "
            f"{tuple(input.shape)}"
        )


def _not_negative(least: int) -> None:
    if least < 0:
        raise ShapeError("bincount: only supports 1-d non-negative integral inputs.")


def _bincount_kernel(input: Any, weights: Any, minlength: int) -> Any:
    """The largest element is read on the host: it is the result's length."""
    _countable(input, weights, minlength)
    if not input.size:
        counts = _array.empty((minlength,), _INT64, input.device)
        create_kernels.full(counts, None, 0, None, None)
        return counts
    least, largest = counting.extremes(input)
    _not_negative(least)
    return counting.bincount(input, weights, max(largest + 1, minlength))


@op(
    bench=[draw(ints(1 << 22, high=1000), None)],
    dynamic=True,
    kernel=_bincount_kernel,
    samples=each(
        draw(ints(20, high=5), None), draw(ints(6, high=3), (6,)), draw(ints(0), None, minlength=3),
        draw(ints(4, high=3, dtype="int32"), values([1, 2, 3, 4], "int32"), minlength=7),
        draw(ints(9, high=9, dtype="uint8"), None, minlength=1030),
    ),
    errors=[
        fails(values([-1, 2], "int64"), None, match="non-negative"), fails(ints(2, 2), None, match="1-d"),
        fails(ints(2), None, minlength=-3, match="minlength"), fails(ints(2), (3,), match="same length"),
    ],
)  # fmt: skip
def bincount(input: Array, weights: Array | None = None, minlength: int = 0):
    """out[n] = the number of elements of input that are n (or the sum of their weights), for n up to the largest.

    input 1-D of integers that are not negative; at least ``minlength`` long. int64, or with weights float32 for
    float32, else float64. ShapeError otherwise.
    """
    _countable(input, weights, minlength)
    if input.size:
        _not_negative(input.min())
    if weights is None:
        return np.bincount(input, minlength=minlength).astype(np.int64, copy=False)
    if not input.size:
        return np.zeros(minlength, np.int64)
    summed = np.bincount(input, weights.astype(np.float64), minlength)
    return summed.astype(np.float32 if weights.dtype == _F32 else np.float64, copy=False)


def _edges(low: Any, high: Any, bins: int, dtype: np.dtype[Any]) -> np.ndarray:
    """bins + 1 numbers from low to high, counted from the nearer end, as PyTorch's linspace does."""
    low, high, i = dtype.type(low), dtype.type(high), np.arange(bins + 1)
    step = (high - low) / dtype.type(bins)
    half = (bins + 1) // 2
    return np.where(i < half, low + step * i.astype(dtype), high - step * (bins - i).astype(dtype)).astype(dtype)


def _span(name: str, x: np.ndarray, low: Any, high: Any, given: bool, margin: float) -> tuple[Any, Any]:
    """The range of a histogram: as given, or that of the elements, widened by a margin where it is one point."""
    if not given and x.size:
        low, high = x.min(), x.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ArgumentError(f"{name}: range of [{low:g}, {high:g}] is not finite")
    if low == high:
        low, high = low - margin, high + margin
    return low, high


def _float_input(name: str, dtype: np.dtype[Any]) -> None:
    if OF_NUMPY[dtype].kind != "float":
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[dtype]}: convert it, as in input.float()")


def _histc_spec(input: Any, bins: int, min: float, max: float) -> Any:
    _float_input("histc", input.dtype)
    if bins <= 0:
        raise ArgumentError(f"histc: bins must be > 0, but got {bins}")
    if min > max:
        raise ArgumentError(f"histc: max must be larger than min, got {min} and {max}")
    return (bins,), input.dtype


@op(
    bench=[draw((1 << 22,), bins=100, min=-3, max=3)],
    spec=_histc_spec,
    kernel=counting.histc,
    promote=PROMOTE,
    differentiable=False,
    samples=each(
        draw((3, 40), bins=5), draw((50,), bins=4, min=-1, max=2), draw((0,), bins=3), draw(values([1.0, 1.0]), bins=3),
        draw(values([1.0, float("nan"), 3.0]), bins=3, min=0, max=2),
    ),
    errors=[
        fails((3,), bins=0, match="bins must be > 0"), fails((3,), bins=3, min=2, max=1, match="larger than min"),
        fails(ints(3), bins=3, match="not implemented"),
    ],
)  # fmt: skip
def histc(input: Array, bins: int = 100, min: float = 0, max: float = 0):
    """How many elements lie in each of ``bins`` equal parts of min … max; of the elements' range where both are 0.

    The last part includes max; elements outside, and NaN, are not counted. Floating point, as is the result.
    """
    x = input.reshape(-1)
    low, high = _span("histc", x, min, max, min != max, 1)
    x = x[(x >= low) & (x <= high)]
    at = ((x - x.dtype.type(low)) / x.dtype.type(high - low) * bins).astype(np.int64)
    return np.bincount(np.minimum(at, bins - 1), minlength=bins).astype(x.dtype)


def _bins_spec(input: Any, edges: Any, weight: Any, density: bool) -> Any:
    return tuple([e.shape[0] - 1 for e in edges]), input.dtype


@op(
    spec=_bins_spec,
    on="",
    samples=each(
        draw((9, 1), [values([-2.0, 0, 2.0])], None, density=False),
        draw((9, 2), [values([-2.0, 0, 2.0]), values([-1.0, 0.5, 1, 3])], between(0, 1, 9), density=True),
    ),
)  # fmt: skip
def _binned(input: Array, edges: Arrays, weight: Array | None, density: bool):
    """The weights of the points (n, d) summed in the cells between the edges of each of the d dimensions."""
    x = input
    inside = np.ones(len(x), np.bool_)
    places = []
    for d, e in enumerate(edges):
        v = x[:, d]
        inside &= (v >= e[0]) & (v <= e[-1])
        places.append(np.minimum(np.searchsorted(e, v, "right") - 1, len(e) - 2))
    sizes = [len(e) - 1 for e in edges]
    at = np.ravel_multi_index([p[inside] for p in places], sizes, mode="clip")
    w = None if weight is None else weight[inside].astype(np.float64)
    hist = np.bincount(at, w, minlength=int(np.prod(sizes))).reshape(sizes).astype(x.dtype)
    if density:
        hist /= hist.sum()
        for d, e in enumerate(edges):
            hist /= np.diff(e).reshape([-1 if k == d else 1 for k in range(len(edges))])
    return hist


_Histogram = result_type("histogram", ("hist", "bin_edges"))
_HistogramDD = result_type("histogramdd", ("hist", "bin_edges"))


def _bin_edges(name: str, x: np.ndarray, bins: Any, span: Any) -> list[Tensor]:
    """The edges of each dimension of the points (n, d): as given, or between the ends of the range."""
    if isinstance(bins[0], Tensor):
        for d, e in enumerate(bins):
            if e._array.ndim != 1 or e._array.size < 2:
                raise ShapeError(
                    f"{name}: bins must be > 0: a bins tensor should have one dimension and two or more edges, but got "
                    f"{tuple(e._array.shape)} for dimension {d}"
                )
            if e._array.dtype != x.dtype:
                raise DtypeError(
                    f"{name}: input tensor and bins tensors should have the same dtype, but got "
                    f"{OF_NUMPY[x.dtype]} and {OF_NUMPY[e._array.dtype]}"
                )
        return [e.detach() for e in bins]
    out = []
    for d, n in enumerate(bins):
        if n <= 0:
            raise ArgumentError(f"{name}: bins must be > 0, but got {n} for dimension {d}")
        low, high = (0.0, 1.0) if span is None else span[2 * d : 2 * d + 2]
        if low > high:
            raise ArgumentError(f"{name}: min should not exceed max, but got min {low} max {high} for dimension {d}")
        column = _comparable(x[:, d])
        low, high = _span(name, column, low, high, span is not None, 0.5)
        out.append(wrap(_edges(low, high, n, x.dtype)))
    return out


def _points(name: str, input: Tensor, weight: Any, shape: tuple[int, ...]) -> None:
    x = input._array
    if not isinstance(x, np.ndarray):
        raise DeviceError(f"{name}: runs on the CPU only, and came with a tensor on {x.device}: move it with .cpu()")
    _float_input(name, x.dtype)
    if weight is not None:
        if weight._array.shape != shape:
            raise ShapeError(
                f"{name}: if weight tensor is provided it should have the shape {shape} of the input, got "
                f"{tuple(weight._array.shape)}"
            )
        if weight._array.dtype != x.dtype:
            raise DtypeError(
                f"{name}: if weight tensor is provided, input tensor and weight tensor should have the same dtype, "
                f"but got {OF_NUMPY[x.dtype]} and {OF_NUMPY[weight._array.dtype]}"
            )


@composite(
    samples=each(
        draw((30,), 4), draw((4, 9), 5, range=(-1.0, 2.0), density=True),
        draw(values([1.0, 2, 3, 3]), values([0.0, 2, 3])), draw((0,), 3),
    )
)  # fmt: skip
@takes_out
def histogram(
    input: Tensor, bins: Any, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Any:
    """(hist, bin_edges): how many elements (or their weights' sum) lie between each two neighbours of bin_edges.

    ``bins`` is a number of equal bins of ``range`` (else of the elements' range), or the sorted edges, 1-D. The last
    bin includes its right edge. With ``density`` the histogram integrates to 1. float32 and float64.
    CPU only, as PyTorch's; ``histc`` counts on a GPU.
    """
    _points("histogram", input, weight, tuple(input._array.shape))
    if isinstance(bins, Tensor) and not isinstance(bins, int):
        bins = [bins.detach().clone()]
    else:
        bins = [as_int("histogram", "bins", bins)]
    x: Any = input.detach().reshape((input._array.size, 1))  # type: ignore[attr-defined]
    edges = _bin_edges("histogram", x._array, bins, range)
    w = None if weight is None else weight.detach().reshape((weight._array.size,))  # type: ignore[attr-defined]
    return _Histogram(_binned(x, edges, w, density), edges[0])


@composite(on="function", samples=each(draw((20, 2), [2, 3]), draw((20, 2), 2, range=[-1.0, 1.0, -2.0, 2.0])))
def histogramdd(
    input: Tensor, bins: Any, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Any:
    """(hist, bin_edges) of the points input (…, d) in d dimensions: hist has a dimension, bin_edges a tensor for each.

    ``bins``: a number for all dimensions, one for each, or the sorted edges of each. ``range``: 2 d numbers, (low,
    high) of each dimension. See ``histogram``.
    """
    x: Any = input
    if x._array.ndim < 2:
        raise ShapeError(f"histogramdd: input tensor should have at least 2 dimensions, but got {x._array.ndim}")
    *lead, d = x._array.shape
    _points("histogramdd", input, weight, tuple(lead))
    if isinstance(bins, int):
        bins = [bins] * d
    if len(bins) != d:
        raise ShapeError(f"histogramdd: expected {d} sequences of bin edges or numbers of bins, got {len(bins)}")
    if range is not None and len(range) != 2 * d:
        raise ShapeError(f"histogramdd: for a {d}-dimensional histogram range should have {2 * d} elements")
    n = x._array.size // max(d, 1)
    edges = _bin_edges("histogramdd", x._array.reshape(n, d), list(bins), range)
    w = None if weight is None else weight.detach().reshape((n,))  # type: ignore[attr-defined]
    return _HistogramDD(_binned(x.detach().reshape((n, d)), edges, w, density), tuple(edges))


# -------------------------------------------------------------------------------------------------------------- drawing


def _multinomial_spec(input: Any, num_samples: int, replacement: bool, seed: Any, offset: Any) -> Any:
    if input.ndim not in (1, 2):
        raise ShapeError(f"multinomial: prob_dist must be 1 or 2 dim, got {input.ndim}")
    if OF_NUMPY[input.dtype].kind != "float":
        raise DtypeError(f"multinomial: only supports floating-point dtypes for input, got: {OF_NUMPY[input.dtype]}")
    if num_samples <= 0:
        raise ArgumentError(f"multinomial: cannot sample n_sample <= 0 samples, got {num_samples}")
    if not replacement and num_samples > input.shape[-1]:
        raise ShapeError(
            f"multinomial: cannot sample n_sample > prob_dist.size(-1) samples without replacement: {num_samples} of "
            f"{input.shape[-1]}"
        )
    return (*input.shape[:-1], num_samples), _INT64


@op(
    spec=_multinomial_spec,
    kernel=drawing.multinomial,
    random=True,
    on="",
    samples=each(
        draw(between(0.1, 1, 5), num_samples=3), draw(between(0.1, 1, 3, 6), num_samples=40, replacement=True),
        draw(between(0.1, 1, 2, 30), num_samples=30),
    ),
    errors=[
        fails(between(0, 1, 2, 2, 2), num_samples=1, match="1 or 2 dim"),
        fails(between(0, 1, 3), num_samples=4, match="without replacement"),
        fails(ints(3), num_samples=1, match="floating-point"),
        fails(values([-1.0, 2.0]), num_samples=1, match="element < 0"),
        fails(values([0.0, 0.0]), num_samples=1, match="sum of probabilities"),
    ],
    bench=[
        draw(between(0, 1, 64, 50257), num_samples=1), draw(between(0, 1, 64, 50257), num_samples=9, replacement=True)
    ],
    bytes=lambda input, num_samples, **_: input.nbytes + 8 * num_samples * input.shape[0],
)  # fmt: skip
def _multinomial(input: Array, num_samples: int, replacement: bool = False, *, seed: Any, offset: Any):
    """Indices drawn with chances proportional to input."""
    p = _comparable(input).astype(np.float64)
    total = p.sum(-1)
    if not p.min(initial=0) >= 0 or not p.max(initial=0) < np.inf:  # NaN is neither
        raise ArgumentError("multinomial: probability tensor contains either `inf`, `nan` or element < 0")
    if (total <= 0).any():
        raise ArgumentError("multinomial: invalid multinomial distribution (sum of probabilities <= 0)")
    if replacement:
        u = stream.uniform01((*p.shape[:-1], num_samples), _F64, seed, offset)
        bounds = np.cumsum(p, -1)
        rows = bounds.reshape(-1, p.shape[-1])
        places = [np.searchsorted(b, v * b[-1], "right") for b, v in zip(rows, u.reshape(-1, num_samples), strict=True)]
        last = p.shape[-1] - 1 - np.argmax(p[..., ::-1] > 0, -1)  # rounding must not reach a weight of 0 at the end
        return np.minimum(np.reshape(places, u.shape), last[..., None])
    noise = -np.log1p(-stream.uniform01(p.shape, _F64, seed, offset))
    keys = p / np.maximum(noise, np.finfo(np.float64).tiny)
    if num_samples == 1:
        return keys.argmax(-1)[..., None]
    return _sorted(keys, p.ndim - 1, True)[1][..., :num_samples]


@composite()
@takes_out
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """``num_samples`` indices of each row of input (n,) or (m, n), index i with a chance proportional to input[i].

    Without ``replacement`` each index at most once: those of the largest input / exponential noise. int64. Floating
    point; ArgumentError for negative, infinite or NaN weights and rows that sum to 0. A GPU traps there.
    """
    return _multinomial(input.detach(), num_samples, replacement, generator=generator)  # type: ignore[attr-defined, no-any-return]


@composite(samples=each(draw(ints(3, 4, high=2), size=5), draw(values([1, 0, 2], "int64"), size=4, fill_value=-7)))
@takes_out
def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first ``size`` rows of ``nonzero``, with rows of ``fill_value`` behind them where there are fewer."""
    if size < 0:
        raise ArgumentError(f"nonzero_static: size must be non-negative, got {size}")
    found: Any = input.nonzero()  # type: ignore[attr-defined]
    have, n = found._array.shape
    if have >= size:
        return found[:size]  # type: ignore[no-any-return]
    return cat([found, found.new_full((size - have, n), fill_value)])
