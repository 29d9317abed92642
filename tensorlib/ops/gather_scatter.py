"""Gather and scatter: reading and writing along one dimension, at indices of the shape of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib import _array, _inplace
from tensorlib._core import Tensor
from tensorlib._dispatch import refuse_complex, wrap_dim
from tensorlib._dtypes import OF_NUMPY
from tensorlib._samples import draw, each, fails, ints, transposed
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.kernels import indexing as kernels
from tensorlib.kernels import scattering
from tensorlib.op import Array, composite, into, op, registry
from tensorlib.ops import create, views
from tensorlib.ops._out import takes_out
from tensorlib.ops._rows_numpy import join_rows
from tensorlib.ops.indexing import (
    _source,
    _vector,
    as_value,
    bounded,
    in_place,
    index_integers,
    numbers,
    widened,
    with_dimension,
    within,
)


def _corner(name: str, input: Any, index: Any, dim: int) -> None:
    """Errors where index is not a corner of input but for ``dim``."""
    index_integers(name, index)
    if not index.size:
        return
    if index.ndim != input.ndim:
        raise ShapeError(
            f"{name}: Index tensor must have the same number of dimensions as input tensor, got "
            f"{tuple(index.shape)} for "
            f"{tuple(input.shape)}"
        )
    for d, (m, n) in enumerate(zip(index.shape, input.shape, strict=True)):
        if d != dim and m > n:
            raise ShapeError(
                f"{name}: Size does not match at dimension {d} expected index {list(index.shape)} to be no larger "
                "than self "
                f"{list(input.shape)} apart from dimension {dim}"
            )


def _grid(index: Any, dim: int) -> tuple[Any, ...]:
    """A NumPy index: ``index`` over ``dim``, and each other dimension's own numbers."""
    n = index.ndim
    return tuple(
        [
            index if d == dim else np.arange(m).reshape((1,) * d + (-1,) + (1,) * (n - d - 1))
            for d, m in enumerate(index.shape)
        ]
    )


def _rows(shape: Sequence[int], index: Any, dim: int) -> tuple[Any, int]:
    """(flat positions of the rows that gather and scatter name in a contiguous array of ``shape``, a row's length).

    An index that repeats along the last dimensions, as an expanded one does, names whole rows; any other, elements.
    """
    end = index.ndim
    for n, m, step in zip(shape[:dim:-1], index.shape[:dim:-1], index.strides[:dim:-1], strict=True):
        if n != m or (step and m > 1):
            break
        end -= 1
    width = math.prod(shape[end:])
    if end < index.ndim:
        index, shape = index[(..., *(0,) * (index.ndim - end))], shape[:end]
    at = index.astype(np.int64, copy=False)
    stride = math.prod(shape[dim + 1 :])
    if stride != 1:
        at = at * stride
    steps = _steps if index.size <= 1 << 14 else _steps.__wrapped__
    for own in steps(tuple(shape), index.shape, dim):
        at = at + own
    return at, width


@lru_cache(maxsize=64)
def _steps(shape: tuple[int, ...], index: tuple[int, ...], dim: int) -> tuple[Any, ...]:
    """Of each dimension of an index but ``dim``, to be added up: where its own numbers lie in a contiguous array."""
    strides, n = _array.contiguous_strides(shape), len(index)
    return tuple(
        [
            (np.arange(m) * strides[d]).reshape((1,) * d + (-1,) + (1,) * (n - d - 1))
            for d, m in enumerate(index)
            if d != dim and m > 1
        ]
    )


def _gather_spec(input: Any, index: Any, dim: int) -> Any:
    _corner("gather", input, index, dim)
    return index.shape, input.dtype


def _widen(t: Any, shape: Sequence[int]) -> Any:
    """t with zeros behind it up to ``shape``: the gradient of a corner."""
    if t._array.shape == tuple(shape):
        return t
    return views._slice_grad(t, tuple(shape), tuple([slice(0, n) for n in t._array.shape]))


@op(
    bench=[draw((4096, 1024), ints(4096, 1024, high=1024), dim=1)],
    spec=_gather_spec,
    kernel=kernels.gather,
    vjp=dict(input=lambda g, input_shape, index, dim: _scatter_add(g.new_zeros(()).expand(input_shape), index, g, dim)),
    on="",
    samples=each(
        draw((3, 4), ints(3, 2, high=4), dim=1), draw((3, 4), ints(2, 4, high=3), dim=0),
        draw((3, 4), ints(3, 0), dim=1),
        draw((2, 3, 4), ints(1, 2, 5, high=4), dim=2), draw(transposed(4, 3), ints(2, 2, high=4), dim=0),
        draw((2, 600), ints(2, 700, high=600, dtype="int32"), dim=1),
    ),
    errors=[
        fails((3, 4), numbers([[4]]), dim=1, match="out of bounds for dimension 1 with size 4", error=DimError),
        fails((3, 4), numbers([1]), dim=1, match="same number of dimensions"),
        fails((3, 4), ints(4, 1), dim=1, match="no larger than self"),
    ],
)  # fmt: skip
def _gather(input: Array, index: Array, dim: int):
    """out[i, j, k] = input[i, index[i, j, k], k] for ``dim`` 1."""
    if not index.size:
        return np.empty(index.shape, input.dtype)
    bounded("gather", index, dim, input.shape[dim], False)
    if input.flags.c_contiguous:
        at, width = _rows(input.shape, index, dim)
        flat = input.reshape(-1) if width == 1 else input.reshape(-1, width)
        return flat.take(at, 0).reshape(index.shape)
    return np.ascontiguousarray(input[_grid(index, dim)])


@composite(
    samples=each(
        draw((3, 4), 1, ints(3, 2, high=4)), draw((2, 3, 4), 0, ints(1, 2, 3, high=2)), draw((), 0, numbers([0, 0]))
    )
)
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False, out: Any = None) -> Tensor:
    """out[i, j, k] = input[i, index[i, j, k], k] for ``dim`` 1, and so on: of the shape of ``index``.

    No index may be negative; index may be smaller than input in the other dimensions. DimError out of range.
    """
    dim = wrap_dim("gather", dim, input._array.ndim)
    result = _gather(with_dimension(input), with_dimension(index), dim)
    if not index._array.ndim:
        result = views.reshape(result, ())
    return result if out is None else into("gather", out, result)


@composite(
    samples=each(
        draw((3, 4), ints(3, 1, high=4), 1), draw((3, 4), ints(5, high=12)), draw((1, 4), ints(3, 2, high=4), -1)
    )
)
@takes_out
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``gather`` with input and indices broadcast against each other but for ``dim``; None: both flattened."""
    around = dim is not None  # with a dimension, indices are counted around, as in PyTorch
    if dim is None:
        input, indices = views.reshape(input, (-1,)), views.reshape(indices, (-1,))
        dim = 0
    n = input._array.ndim
    if n != indices._array.ndim:
        raise ShapeError(
            f"take_along_dim: input and indices should have the same number of dimensions, but got {n} dimensions "
            "for input, "
            f"and {indices._array.ndim} dimensions for indices"
        )
    dim = wrap_dim("take_along_dim", dim, n)
    at, count = indices._array, input._array.shape[dim]
    inside = type(at) is np.ndarray and at.size and within(at, count)
    if around and not inside and at.dtype.kind in "iu" and count:
        indices = indices.remainder(input._array.shape[dim])  # type: ignore[attr-defined]
    x, i = list(input._array.shape), list(indices._array.shape)
    if x[:dim] == i[:dim] and x[dim + 1 :] == i[dim + 1 :]:
        return gather(input, dim, indices)
    common = views.shape_of_all("take_along_dim", [[*x[:dim], 1, *x[dim + 1 :]], [*i[:dim], 1, *i[dim + 1 :]]])
    return gather(
        views.expand(input, (*common[:dim], x[dim], *common[dim + 1 :])),
        dim,
        views.expand(indices, (*common[:dim], i[dim], *common[dim + 1 :])),
    )


_REDUCE = {"prod": np.multiply, "amax": np.maximum, "amin": np.minimum}


def _scatter_spec(input: Any, index: Any, src: Any, dim: int, **_: Any) -> Any:
    index_integers("scatter", index)
    if src is not None and src.dtype != input.dtype:
        raise DtypeError(
            f"scatter: expected self.dtype to be equal to src.dtype, got {OF_NUMPY[input.dtype]} and "
            f"{OF_NUMPY[src.dtype]}"
        )
    if index.size:
        both = f"{list(index.shape)} to be no larger than self {list(input.shape)} apart from dimension {dim}"
        wrong = index.ndim != input.ndim or any(
            m > n for d, (m, n) in enumerate(zip(index.shape, input.shape, strict=True)) if d != dim
        )
        if src is not None:
            wrong = wrong or index.ndim != src.ndim or any(m > n for m, n in zip(index.shape, src.shape, strict=True))
            both += f" and to be no larger size than src {list(src.shape)}"
        if wrong:
            raise ShapeError(f"scatter: Expected index {both}")
    return input.shape, input.dtype


def _front(src: Any, index: Any) -> Any:
    """The corner of src that index names."""
    return src if src.shape == index.shape else src[tuple([slice(0, n) for n in index.shape])]


def _scatter_into(x: Any, index: Any, src: Any, dim: int, value: Any = None) -> None:
    if index.size:
        bounded("scatter", index, dim, x.shape[dim], False)
        given = np.asarray(value).astype(x.dtype) if src is None else _front(src, index)
        if x.flags.c_contiguous:
            at, width = _rows(x.shape, index, dim)
            if width == 1:
                x.reshape(-1)[at] = given.reshape(at.shape) if given.ndim else given
            else:
                x.reshape(-1, width)[at] = given.reshape(*at.shape, width) if given.ndim else given
        else:
            x[_grid(index, dim)] = given


def _reduce_into(x: Any, index: Any, src: Any, dim: int, ufunc: Any) -> None:
    if index.size:
        bounded("scatter", index, dim, x.shape[dim], False)
        work = np.ascontiguousarray(widened(x))
        given = _front(src, index).astype(work.dtype, copy=False)
        at, width = _rows(x.shape, index, dim)
        join_rows(work.reshape(-1, width), at.reshape(-1), given.reshape(-1, width), ufunc)
        if work is not x:
            x[...] = work


_SCATTER_ERRORS = [
    fails((3, 5), numbers([[5]]), (1, 1), dim=1, match="out of bounds for dimension 1 with size 5", error=DimError),
    fails((3, 5), numbers([[0, 0]]), (1, 1), dim=1, match="no larger size than src"),
    fails((3, 5), numbers([0]), (1,), dim=1, match="no larger than self"),
]
_WRITE_SAMPLES = each(
    draw((3, 5), numbers([[0, 3], [1, 2]]), (2, 3), dim=1),
    draw((3, 5), numbers([[0, 2, 1, 0, 1]], "int32"), None, dim=0, value=1.5),
    draw(transposed(5, 3), numbers([[4, 0, 1]]), transposed(2, 3), dim=0),
    draw((3, 5), ints(2, 0, high=5), (3, 4), dim=1),
)


@op(
    bench=[draw((4096, 1024), ints(4096, 1024, high=1024), (4096, 1024), dim=1)],
    spec=_scatter_spec,
    kernel=scattering.scatter,
    vjp=dict(
        input=lambda g, index, dim: _scatter(g, index, None, dim, 0.0),
        src=lambda g, index, dim, src_shape: _widen(_gather(g, index, dim), src_shape),
    ),
    on="",
    samples=_WRITE_SAMPLES,
    errors=_SCATTER_ERRORS,
)
def _scatter(input: Array, index: Array, src: Array | None, dim: int, value: Any = None):
    """input with out[i, index[i, j, k], k] = src[i, j, k] (or ``value``) for ``dim`` 1."""
    out = np.array(input, order="C")
    _scatter_into(out, index, src, dim, value)
    return out


@op(mutates=("input",), kernel=scattering.scatter_, on="", samples=_WRITE_SAMPLES)
def _scatter_(input: Array, index: Array, src: Array | None, dim: int, value: Any = None):
    """``_scatter`` in input's own memory."""
    _scatter_into(input, index, src, dim, value)


_ADD_SAMPLES = each(
    draw((3, 5), ints(4, 4, high=3), (4, 5), dim=0),
    draw(transposed(5, 3), ints(2, 3, high=5), transposed(2, 3), dim=0),
    draw((4,), ints(1500, high=4), (1500,), dim=0), draw((3, 5), ints(2, 0, high=5), (3, 4), dim=1),
)  # fmt: skip


@op(
    bench=[draw((4096, 1024), ints(4096, 1024, high=1024), (4096, 1024), dim=1)],
    spec=_scatter_spec,
    kernel=scattering.scatter_add,
    vjp=dict(
        input=lambda g: g,
        src=lambda g, index, dim, src_shape: _widen(_gather(g, index, dim), src_shape),
    ),
    on="",
    samples=_ADD_SAMPLES,
    errors=_SCATTER_ERRORS,
)
def _scatter_add(input: Array, index: Array, src: Array, dim: int):
    """input with out[i, index[i, j, k], k] += src[i, j, k] for ``dim`` 1; in float32 or wider.

    On a GPU single elements of float32 and float64 are added atomically, but where deterministic algorithms are asked
    for; rows (index expanded along them) and half types always in order.
    """
    out = np.array(input, order="C")
    _reduce_into(out, index, src, dim, np.add)
    return out


@op(mutates=("input",), kernel=scattering.scatter_add_, on="", samples=_ADD_SAMPLES)
def _scatter_add_(input: Array, index: Array, src: Array, dim: int):
    """``_scatter_add`` in input's own memory."""
    _reduce_into(input, index, src, dim, np.add)


def _reduced(g: Any, input: Any, index: Any, src: Any, out: Any, dim: int) -> tuple[Any, Any]:
    """(the gradient of an extremum divided by how many elements are equal to it, which elements of src are)."""
    here = _front(src, index) == _gather(out, index, dim)
    ties = _scatter_add((input == out).to(g.dtype), index, here.to(g.dtype), dim)
    return g / ties.clamp(1), here


def _reduce_input(g: Any, input: Any, index: Any, src: Any, out: Any, dim: int, reduce: str) -> Any:
    if reduce == "prod":  # the product of the others, without dividing by input
        return g * _scatter_reduce(g.new_ones(input.shape), index, src, dim, "prod")
    shared, _ = _reduced(g, input, index, src, out, dim)
    return shared * (input == out)


def _reduce_src(g: Any, input: Any, index: Any, src: Any, out: Any, dim: int, reduce: str) -> Any:
    part = _front(src, index)
    where = registry["_where"].public
    if reduce != "prod":
        shared, here = _reduced(g, input, index, src, out, dim)
        return _widen(where(here, _gather(shared, index, dim), 0.0), src.shape)
    # The product of the others: divide; of a zero, what is not zero times the other zeros of its place. These stay in
    # the formula for the derivatives of this gradient, up to two of them: products of more have none of first or second
    # order. Sums of powers give them (Newton's identities).
    zero = part == 0
    zeros = where(zero, part, 0.0)

    def total(t: Any) -> Any:
        return _gather(_scatter_add(g.new_zeros(input.shape), index, t, dim), index, dim)

    count, one = total(zero.to(g.dtype)), total(zeros) - zeros
    two = (one.square() - (total(zeros.square()) - zeros.square())) / 2
    product = where(count == 1, 1.0, where(count == 2, one, where(count == 3, two, 0.0)))
    others = _gather(g * _scatter_reduce(input, index, where(zero, 1.0, part), dim, "prod"), index, dim)
    divided = _gather(g * out, index, dim) / where(zero, 1.0, part)
    return _widen(where(zero, others * product, divided), src.shape)


@op(
    spec=_scatter_spec,
    kernel=scattering.scatter_reduce,
    vjp=dict(input=_reduce_input, src=_reduce_src),
    on="",
    samples=each(
        draw((3, 5), ints(3, 9, high=5), (3, 9), dim=1, reduce="amax"),
        draw((3, 5), ints(2, 4, high=5), (3, 4), dim=1, reduce="prod"),
        draw((3, 5), ints(3, 9, high=5), (3, 9), dim=1, reduce="amin"),
        draw((3, 5), ints(0, 4), (3, 4), dim=0, reduce="prod"),
        draw((4,), ints(1500, high=4), (1500,), dim=0, reduce="amax"),
        draw((5, 3), ints(2, 3, high=5), transposed(2, 3), dim=0, reduce="prod"),
    ),
)  # fmt: skip
def _scatter_reduce(input: Array, index: Array, src: Array, dim: int, reduce: str):
    """input joined by ``reduce`` ("prod", "amax", "amin") with src[i, j, k] at [i, index[i, j, k], k] for ``dim`` 1.

    An extremum's gradient is shared by all elements equal to it. Products are deterministic on every device.
    """
    out = np.array(input, order="C")
    _reduce_into(out, index, src, dim, _REDUCE[reduce])
    return out


def _scattered(name: str, input: Tensor, dim: int, index: Tensor, src: Any, write: bool, add: bool = False) -> Tensor:
    """scatter and scatter_add, in place or not; ``src`` a tensor or a number."""
    dim = wrap_dim(name, dim, input._array.ndim)
    x, index = with_dimension(input), with_dimension(index)
    attrs: dict[str, Any] = {"dim": dim}
    if not add:
        attrs["value"] = None if isinstance(src, Tensor) else create.number_as(name, src, x._array.dtype)
    src = with_dimension(src) if isinstance(src, Tensor) else None
    pure, writing = (
        (registry["_scatter_add"], registry["_scatter_add_"]) if add else (registry["_scatter"], registry["_scatter_"])
    )
    if write:
        in_place(pure, writing, name, x, (index, src), attrs)
        return input
    result = pure.public(x, index, src, **attrs)
    return views.reshape(result, input._array.shape) if x is not input else result


def _scatter_any(
    name: str, input: Tensor, dim: int, index: Tensor, src: Any, value: Any, reduce: Any, write: bool
) -> Tensor:
    if (src is None) == (value is None):
        raise TypeError(f"{name}(): expected exactly one of src and value")
    given = value if src is None else src
    if reduce is None:
        return _scattered(name, input, dim, index, given, write)
    if reduce not in ("add", "multiply"):
        raise ArgumentError(f"{name}: reduce argument must be either add or multiply, got {reduce!r}")
    if not isinstance(given, Tensor):
        given = views.expand(as_value(given, input._array), index._array.shape)
    if reduce == "add":
        return _scattered(name, input, dim, index, given, write, add=True)
    result = scatter_reduce(input, dim, index, given, "prod")
    return _inplace.assign(input, result, name, own=True) if write else result


@composite(samples=each(draw((3, 5), 1, numbers([[0, 3], [1, 2]]), (2, 2)), draw((3, 5), 0, numbers([[0, 2, 1]]), 1.5)))
@takes_out
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | float | None = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """A copy of input with out[i, index[i, j, k], k] = src[i, j, k] for ``dim`` 1, and so on.

    ``src`` (or ``value``) is a tensor or a number; index may be smaller than both. ``reduce`` "add" or "multiply" joins
    instead of writing. Where index names a place twice any one of the values stays. DimError out of range.
    """
    return _scatter_any("scatter", input, dim, index, src, value, reduce, False)


@composite(
    on="method",
    samples=each(
        draw((2, 4), 1, numbers([[0, 2, 1], [3, 1, 2]]), (2, 3)),
        draw((4, 3), 0, numbers([[0, 2, 1], [3, 1, 2]]), (2, 3)),
        draw((2, 4), 1, numbers([[0, 2, 1], [3, 1, 2]]), 2.5),
    ),
)
def scatter_(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | float | None = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """``scatter`` in input's own memory."""
    return _scatter_any("scatter_", input, dim, index, src, value, reduce, True)


@composite(samples=each(draw((3, 5), 0, ints(4, 4, high=3), (4, 4)), draw((3, 5), -1, ints(3, 1, high=5), (3, 1))))
@takes_out
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with out[i, index[i, j, k], k] += src[i, j, k] for ``dim`` 1, and so on.

    Summed in float32 or wider. On a GPU single elements of float32 and float64 are added atomically, in no fixed order,
    but where deterministic algorithms are asked for. DimError out of range.
    """
    return _scattered("scatter_add", input, dim, index, src, False, add=True)


@composite(
    on="method",
    samples=each(
        draw((2, 4), 1, numbers([[0, 2, 1], [3, 1, 2]]), (2, 3)),
        draw((4, 3), 0, numbers([[0, 2, 1], [3, 1, 2]]), (2, 3)),
    ),
)
def scatter_add_(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``scatter_add`` in input's own memory."""
    return _scattered("scatter_add_", input, dim, index, src, True, add=True)


def _identity(reduce: str, dtype: Any) -> Any:
    """What leaves every number as it is under ``reduce``."""
    if reduce in ("sum", "mean", "prod"):
        return 1 if reduce == "prod" else 0
    if dtype.kind == "b":
        return reduce == "amin"
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if reduce == "amax" else np.iinfo(dtype).max
    return -math.inf if reduce == "amax" else math.inf


@composite(
    inplace=True,
    samples=each(
        draw((3, 5), 1, ints(3, 7, high=5), (3, 7), "sum"),
        draw((3, 5), 1, ints(3, 7, high=5), (3, 7), "mean"),
        draw((3, 5), 0, ints(2, 5, high=3), (2, 5), "prod", include_self=False),
        draw((3, 5), 1, ints(3, 7, high=5), (3, 7), "mean", include_self=False),
        draw((3, 5), 0, ints(2, 5, high=3), (2, 5), "amax", include_self=False),
    ),
)
@takes_out
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """input joined with src[i, j, k] at [i, index[i, j, k], k] for ``dim`` 1.

    ``reduce`` is "sum", "prod", "mean", "amax" or "amin". Without ``include_self`` what index
    names starts empty. On a GPU sums of single float32 elements are atomic; see ``use_deterministic_algorithms``.
    """
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise ArgumentError(
            f"scatter_reduce: reduce argument must be either sum, prod, mean, amax or amin, got {reduce}"
        )
    if reduce in ("amax", "amin") and input._array.dtype.kind == "c":
        raise DtypeError(f"scatter_reduce: {reduce} of complex numbers, which have no order: {input._array.dtype}")
    dim = wrap_dim("scatter_reduce", dim, input._array.ndim)
    x, index, src = with_dimension(input), with_dimension(index), with_dimension(src)
    dtype = x._array.dtype
    start = x if include_self else _scatter(x, index, None, dim, _identity(reduce, dtype))
    if reduce in ("sum", "mean"):
        out = _scatter_add(start, index, src, dim)
        if reduce == "mean":
            whole = dtype if dtype.kind != "c" else np.dtype(np.float64)
            at, once = index, x
            # dimensions that index repeats along are counted once
            if type(at._array) is np.ndarray and at._array.ndim == x._array.ndim:
                same = [
                    d > dim and not s and m == n
                    for d, (s, m, n) in enumerate(
                        zip(at._array.strides, at._array.shape, x._array.shape, strict=True)
                    )
                ]
                key = tuple([slice(0, 1) if r else slice(None) for r in same])
                at, once = views.basic_index(at, key), views.basic_index(x, key)
            count = create.ones_like(once, dtype=whole)
            if not include_self:
                count = _scatter(count, at, None, dim, 0)
            count = _scatter_add(count, at, create.ones_like(at, dtype=whole), dim).clamp(1).to(dtype)
            out = out / count if dtype.kind not in "iub" else out.div(count, rounding_mode="floor")
    else:
        out = _scatter_reduce(start, index, src, dim, reduce)
    return views.reshape(out, input._array.shape) if x is not input else out


@composite(
    inplace=True,
    samples=each(
        draw((3, 5), 1, numbers([1, 3, 1]), (3, 3), "prod"),
        draw((4, 3), -2, numbers([2, 0, 2]), (3, 3), "mean", include_self=False),
        draw((3, 5), 1, numbers([1, 3, 1]), (3, 3), "prod", include_self=False),
        draw((4,), 0, numbers([2, 0, 2]), (3,), "mean"), draw((4, 3), 0, numbers([2, 0, 2]), (3, 3), "amax"),
        draw((4,), 0, numbers([2, 0, 2]), (3,), "amin", include_self=False),
    ),
)  # fmt: skip
@takes_out
def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """input joined with ``source[..., j, ...]`` at ``index[j]`` of ``dim`` by "prod", "mean", "amax" or "amin".

    Without ``include_self`` what index names starts empty. See ``scatter_reduce``. RangeError out of range.
    """
    if reduce in ("amax", "amin"):
        refuse_complex("index_reduce", input._array.dtype)
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ArgumentError(
            f"index_reduce: Expected reduce to be one of prod, mean, amax or amin but got {reduce}: use index_add for "
            f"sums"
        )
    if not include_self and input._array.dtype.kind == "c":
        raise DtypeError("index_reduce: without include_self it takes no complex numbers: use scatter_reduce")
    dim = wrap_dim("index_reduce", dim, input._array.ndim)
    at, x, s = _vector("index_reduce", index), with_dimension(input), with_dimension(source)
    _source("index_reduce", x, dim, at, s)
    if not input._array.ndim and source._array.ndim:
        raise ShapeError(
            "index_reduce: source tensor shape must match self tensor shape, excluding the specified dimension. Got "
            f"self.shape = [] source.shape = {list(source._array.shape)}"
        )
    shape = s._array.shape
    along = views.reshape(at, tuple([n if d == dim else 1 for d, n in enumerate(shape)]))
    result = scatter_reduce(x, dim, views.expand(along, shape), s, reduce, include_self=include_self)
    return views.reshape(result, input._array.shape) if x is not input else result
