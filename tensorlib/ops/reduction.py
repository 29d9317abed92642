"""Reductions: sums, extrema and where they are, moments, norms. One kernel serves them all (kernels/reduction.py)."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import ACCUMULATE, FLOAT_ONLY, INT_TO_FLOAT, PROMOTE, category, default_dtype
from tensorlib._samples import between, bools, distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.kernels import reduction as kernels
from tensorlib.kernels import scan as scans
from tensorlib.op import Array, Dim, Dims, Scalar, composite, op, view

_F32, _F64, _INT64, _BOOL = (np.dtype(t) for t in (np.float32, np.float64, np.int64, np.bool_))

# ------------------------------------------------------------------------------------------------ shapes and layouts


def reduced_shape(shape: tuple[int, ...], dim: tuple[int, ...], keepdim: bool) -> tuple[int, ...]:
    """The shape after reducing ``dim``."""
    if keepdim:
        return tuple([1 if d in dim else n for d, n in enumerate(shape)])
    return tuple([n for d, n in enumerate(shape) if d not in dim])


def count(shape: tuple[int, ...], dim: tuple[int, ...]) -> int:
    """How many elements are reduced into each result."""
    return math.prod([shape[d] for d in dim])


def kept(t: Tensor, shape: tuple[int, ...], dim: Any, keepdim: bool) -> Tensor:
    """A result with the reduced dims of ``shape`` as size 1, so that it broadcasts against the input."""
    if keepdim or not shape:
        return t
    dims = tuple(range(len(shape))) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    return t.view(reduced_shape(shape, dims, True))  # type: ignore[attr-defined, no-any-return]


@view(
    vjp=lambda g, dim, keepdim: g.sum(dim, keepdim),
    on="",
    samples=each(
        draw((3,), shape=(3, 4), dim=(1,), keepdim=False), draw((1, 4), shape=(3, 4), dim=(0,), keepdim=True),
        draw((), shape=(2, 3), dim=(0, 1), keepdim=False), draw((), shape=(), dim=(), keepdim=False),
    ),
)  # fmt: skip
def _spread(input: Array, shape: Any, dim: Any, keepdim: Any):
    """A reduction's gradient at the size of what was reduced: a view that repeats it with stride 0."""
    if not keepdim and input.ndim:
        input = input.reshape(reduced_shape(shape, dim, True), copy=False)
    return _array.expand(input, shape)


def _nonempty(name: str, input: Any, dim: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Extrema of nothing are an error, unless there is no result either."""
    if input.size or 0 in shape:
        return
    for d in dim:
        if input.shape[d] == 0:
            raise DimError(
                f"{name}: Expected reduction dim {d} to have non-zero size, got shape {tuple(input.shape)}: "
                f"the extremum of nothing is not defined"
            )


def _as_dims(dim: Any, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if dim is None else (dim,)


# ------------------------------------------------------------------------------------------------------------- sums

_CHUNK = 4096  # elements one BLAS product sums in sequence: rounding errors grow with it, as in any blocked sum


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype[Any]) -> np.ndarray:
    return np.ones(n, dtype)


def row_sums(x: np.ndarray) -> np.ndarray:
    """Sums of the rows of a float (m, n) array: BLAS products with ones over chunks, whose sums are summed again."""
    m, n = x.shape
    if n <= 2 * _CHUNK:
        return x @ _ones(n, x.dtype)
    whole = n - n % _CHUNK
    total = row_sums(x[:, :whole].reshape(m, -1, _CHUNK) @ _ones(_CHUNK, x.dtype))
    return total + row_sums(x[:, whole:]) if whole < n else total


def column_sums(x: np.ndarray) -> np.ndarray:
    """Sums of the columns of a float (m, n) array, in the same way."""
    m, n = x.shape
    if m <= 2 * _CHUNK:
        return _ones(m, x.dtype) @ x
    whole = m - m % _CHUNK
    total = column_sums(_ones(_CHUNK, x.dtype) @ x[:whole].reshape(-1, _CHUNK, n))
    return total + column_sums(x[whole:]) if whole < m else total


def add_reduce(x: np.ndarray, dim: tuple[int, ...], keepdim: Any = False) -> Any:
    """np.add.reduce; large contiguous float arrays by rows or columns, which is 2-5 times faster in NumPy."""
    if x.size >= 2048 and dim and (x.dtype == _F32 or x.dtype == _F64) and x.flags.c_contiguous:
        shape, ndim, k = x.shape, x.ndim, len(dim)
        if k == ndim:
            return row_sums(x.reshape(1, -1)).reshape((1,) * ndim if keepdim else ())
        if builtins.min(dim) == ndim - k:  # trailing dims
            n = math.prod(shape[ndim - k :])
            if n >= 16:
                return row_sums(x.reshape(-1, n)).reshape(reduced_shape(shape, dim, keepdim))
        elif builtins.max(dim) == k - 1:  # leading dims
            n = math.prod(shape[k:])
            if n >= 16:
                return column_sums(x.reshape(-1, n)).reshape(reduced_shape(shape, dim, keepdim))
    return np.add.reduce(x, axis=dim, keepdims=keepdim)


def row_extremum(x: np.ndarray, find: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    """(values, indices) of extrema along the last dim of a C-contiguous array; ``find``: np.argmax or np.argmin."""
    indices = find(x, axis=-1)
    n = x.shape[-1]
    starts = np.arange(0, x.size, n).reshape(indices.shape)
    return x.reshape(-1)[starts + indices], indices


def extremum_reduce(
    x: np.ndarray, dim: tuple[int, ...], keepdim: bool, ufunc: np.ufunc, find: Callable[..., Any]
) -> Any:
    """ufunc.reduce; over a contiguous last dim by its index, which NumPy finds several elements at a time."""
    if x.ndim > 1 and dim == (x.ndim - 1,) and x.size >= 2048 and 16 <= x.shape[-1] <= 512 and x.flags.c_contiguous:
        return row_extremum(x, find)[0].reshape(reduced_shape(x.shape, dim, keepdim))
    return ufunc.reduce(x, axis=dim, keepdims=keepdim)


def square_sums(x: np.ndarray, dim: tuple[int, ...], keepdim: bool = False) -> Any:
    """Σ x² over ``dim``; large contiguous float arrays without a temporary."""
    k, ndim = len(dim), x.ndim
    if x.size >= 2048 and k and x.dtype.kind == "f" and x.flags.c_contiguous and builtins.min(dim) == ndim - k:
        n = math.prod(x.shape[ndim - k :])
        rows = x.reshape(-1, n)
        if n > 2 * _CHUNK and n % _CHUNK == 0:
            parts = rows.reshape(rows.shape[0], -1, _CHUNK)
            return row_sums(np.vecdot(parts, parts)).reshape(reduced_shape(x.shape, dim, keepdim))
        if 0 < n <= 2 * _CHUNK:
            return np.vecdot(rows, rows).reshape(reduced_shape(x.shape, dim, keepdim))
    return add_reduce(x * x, dim, keepdim)


def _converted(input: np.ndarray, dtype: Any) -> np.ndarray:
    """The input as the dtype it is accumulated in."""
    want = OF_NUMPY[input.dtype].numpy if dtype is None else dtype
    want = _F32 if want in HALF else want
    return input if input.dtype == want else input.astype(want)


def _sum_dtype(name: str, input: Any, dtype: Any) -> np.dtype[Any]:
    if dtype is None and (input.dtype is _F32 or input.dtype is _F64):
        return input.dtype
    return ACCUMULATE(name, [input], {"dtype": dtype})[1]


def _sum_spec(input: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    return reduced_shape(input.shape, dim, keepdim), _sum_dtype("sum", input, dtype)


def _sum_kernel(out: Any, input: Any, dim: Any, keepdim: bool, dtype: Any) -> None:
    kernels.reduce([out], [input], dim, kernels.SUM, [kernels.compute_dtype(out.dtype)])


_REDUCTIONS = each(
    draw((3, 4), dim=1), draw((3, 4), dim=0, keepdim=True), draw((2, 3, 5), dim=(0, 2)), draw((2, 3, 5), dim=None),
    draw((), dim=None), draw((1,), dim=0), draw((0, 3), dim=1), draw(transposed(4, 5), dim=-1),
    draw(strided(3, 7), dim=(0, 1)), draw((3, 2, 2, 3), dim=(0, 2), keepdim=True), draw((130, 3), dim=0),
)  # fmt: skip
_LONG = each(draw((17000,), dim=0), draw((2, 4099), dim=1), draw(transposed(2, 4099), dim=0))


@op(
    name="sum",
    spec=_sum_spec,
    kernel=_sum_kernel,
    promote=PROMOTE,
    vjp=lambda g, input_shape, dim, keepdim: _spread(g, input_shape, dim, keepdim),
    samples=each(_REDUCTIONS, _LONG, draw((0, 3), dim=0), draw(bools(5, 4), dim=0),
    draw(ints(5, 4, dtype="int8"), dim=1)),
    errors=[
        fails((3, 4), dim=2, match="out of range", error=DimError),
        fails((3, 4), dim=(0, 0), match="twice", error=DimError),
    ],
    bench=[draw((4096, 4096), dim=1), draw((4096, 4096), dim=0), draw((1 << 24,), dim=None)],
    bytes=lambda input, dim: input.nbytes,
)
def sum_(input: Array, dim: Dims = None, keepdim: Any = False, *, dtype: Any = None):
    """Σ input over ``dim`` (one, several, or all for None).

    bool and integers are summed in int64, half types in float32 rounded once; with ``dtype`` the input is converted to
    it first. The sum of nothing is 0. DimError for a dim out of range or named twice.
    """
    return add_reduce(_converted(input, _sum_dtype("sum", input, dtype)), dim, keepdim)


@composite(
    on="method",
    samples=each(draw((2, 3, 4), [3, 1]), draw((3, 4), [1, 4]), draw((3, 4), [3, 4]), draw((3, 4), [])),
)
def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """The sum over the dims in which a tensor of ``size`` would be broadcast to the shape of ``input``.

    ShapeError where ``size`` cannot be broadcast to it.
    """
    shape = size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    shape, have = tuple(shape), input._array.shape
    if shape == have:
        return input
    lead = len(have) - len(shape)
    if lead < 0 or builtins.any(n != m and n != 1 for n, m in zip(shape, have[lead:], strict=False)):
        raise ShapeError(
            f"sum_to_size: size {shape} is not expandable to size {tuple(have)}: expected sizes that are equal or 1"
        )
    dims = tuple(d for d, m in enumerate(have) if d < lead or (shape[d - lead] == 1 and m != 1))
    out = _public_sum(input, dims, True) if dims else input
    return out.view(shape) if lead else out  # type: ignore[attr-defined, no-any-return]


_public_sum: Any = sum_


def _floating(name: str, input: Any, dtype: Any) -> np.dtype[Any]:
    if dtype is None and category(input.dtype) < 2:
        raise DtypeError(
            f"{name}: could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
            f"Got: {OF_NUMPY[input.dtype]}; convert it, as in input.float()"
        )
    return FLOAT_ONLY(name, [input], {"dtype": dtype})[1]


def _mean_spec(input: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    return reduced_shape(input.shape, dim, keepdim), _floating("mean", input, dtype)


def _mean_kernel(out: Any, input: Any, dim: Any, keepdim: bool, dtype: Any) -> None:
    kernels.reduce([out], [input], dim, kernels.MEAN, [kernels.compute_dtype(out.dtype)])


def _mean_vjp(g: Tensor, input_shape: Any, dim: Any, keepdim: bool) -> Tensor:
    n = count(input_shape, dim)
    return _spread(g / n if n else g, input_shape, dim, keepdim)  # type: ignore[operator]


@op(
    spec=_mean_spec,
    kernel=_mean_kernel,
    promote=PROMOTE,
    vjp=_mean_vjp,
    samples=each(_REDUCTIONS, _LONG, draw((0, 3), dim=0)),
    errors=[fails(ints(3, 4), match="could not infer output dtype", error=DtypeError)],
    bench=[draw((4096, 4096), dim=1)],
    bytes=lambda input, dim: input.nbytes,
)
def mean(input: Array, dim: Dims = None, keepdim: Any = False, *, dtype: Any = None):
    """Σ input / n over ``dim`` (one, several, or all for None), n the number of elements reduced.

    Floating point, or any dtype with ``dtype``; half types accumulate in float32. The mean of nothing is NaN.
    DtypeError for integers, DimError for a dim out of range.
    """
    x = _converted(input, _floating("mean", input, dtype))
    total = add_reduce(x, dim, keepdim)
    n = count(x.shape, dim)
    if isinstance(total, np.ndarray) and n:
        return np.divide(total, n, out=total)
    return np.divide(total, total.dtype.type(n))


# ---------------------------------------------------------------------------------------------------------- extrema


def _extremum_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: Any, keepdim: bool) -> Any:
        shape = reduced_shape(input.shape, dim, keepdim)
        if not input.size and 0 not in shape and len(dim) == input.ndim and input.ndim != 1:
            raise ShapeError(
                f"{name}: Expected reduction dim to be specified for input.numel() == 0: got {tuple(input.shape)}"
            )
        _nonempty(name, input, dim, shape)
        return shape, input.dtype

    return spec


def _shared(g: Tensor, input: Tensor, out: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """A gradient divided evenly among the elements equal to the extremum."""
    shape = input._array.shape
    chosen = input == kept(out, shape, dim, keepdim)
    n = chosen.sum(dim, True) if shape else 1  # type: ignore[attr-defined]
    return chosen * kept(g, shape, dim, keepdim) / n  # type: ignore[operator, no-any-return]


_EXTREMA = each(
    draw(distinct(3, 4), dim=1), draw(distinct(3, 4), dim=0, keepdim=True), draw(distinct(2, 3, 5), dim=(0, 2)),
    draw((), dim=None), draw((1,), dim=0), draw((0, 3), dim=1), draw(values([[1.0, 3, 3], [2, 2, 2]]), dim=1),
    draw(distinct(130, 3), dim=0), draw(distinct(17000), dim=None), draw(transposed(5, 6), dim=1),
    draw(strided(3, 7), dim=1), draw(ints(5, 4, low=-9, dtype="int32"), dim=1), draw(bools(4, 5), dim=0),
    draw(values([[1.0, float("nan"), 3], [float("inf"), -1, float("-inf")]]), dim=1),
)  # fmt: skip
_EMPTY = [fails((0, 3), dim=0, match="non-zero size", error=DimError)]


@op(
    spec=_extremum_spec("amax"),
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.AMAX),
    promote=PROMOTE,
    vjp=_shared,
    samples=_EXTREMA,
    errors=_EMPTY,
    bench=[draw((4096, 4096), dim=1)],
    bytes=lambda input, dim: input.nbytes,
)
def amax(input: Array, dim: Dims = (), keepdim: Any = False):
    """The maximum over ``dim`` (one, several, or all). NaN wins. The gradient is divided evenly among equal maxima.

    DimError for a dim out of range, or of size 0.
    """
    return extremum_reduce(input, dim, keepdim, np.maximum, np.argmax)


@op(
    spec=_extremum_spec("amin"),
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.AMIN),
    promote=PROMOTE,
    vjp=_shared,
    samples=_EXTREMA,
    errors=_EMPTY,
    bench=[draw((4096, 4096), dim=1)],
    bytes=lambda input, dim: input.nbytes,
)
def amin(input: Array, dim: Dims = (), keepdim: Any = False):
    """The minimum over ``dim`` (one, several, or all). NaN wins. The gradient is divided evenly among equal minima.

    DimError for a dim out of range, or of size 0.
    """
    return extremum_reduce(input, dim, keepdim, np.minimum, np.argmin)


def _shared_everywhere(g: Tensor, input: Tensor, out: Tensor) -> Tensor:
    """The gradient of the extremum of a whole tensor: divided evenly among the equal ones, NaN ones too."""
    chosen = (input == out) | (input.isnan() & out.isnan())  # type: ignore[attr-defined]
    return chosen * (g / chosen.sum())  # type: ignore[no-any-return]


def _whole_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any) -> Any:
        if not input.size:
            raise ShapeError(
                f"{name}: Expected reduction dim to be specified for input.numel() == 0, got {tuple(input.shape)}: "
                f"Specify the reduction dim with the 'dim' argument."
            )
        return (), input.dtype

    return spec


_WHOLE = each(draw(distinct(3, 4)), draw(()), draw(distinct(17000)), draw(values([2.0, 2, 1])), draw(ints(7)))


@op(
    spec=_whole_spec("max"),
    kernel=lambda out, input: kernels.reduce([out], [input], range(input.ndim), kernels.AMAX),
    promote=PROMOTE,
    vjp=_shared_everywhere,
    on="",
    samples=_WHOLE,
    errors=[fails((0,), match="numel")],
)
def _max_all(input: Array):
    """The maximum of all elements."""
    return np.maximum.reduce(input, axis=None)


@op(
    spec=_whole_spec("min"),
    kernel=lambda out, input: kernels.reduce([out], [input], range(input.ndim), kernels.AMIN),
    promote=PROMOTE,
    vjp=_shared_everywhere,
    on="",
    samples=_WHOLE,
    errors=[fails((0,), match="numel")],
)
def _min_all(input: Array):
    """The minimum of all elements."""
    return np.minimum.reduce(input, axis=None)


def _along_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int, keepdim: bool) -> Any:
        shape = reduced_shape(input.shape, (dim,), keepdim)
        _nonempty(name, input, (dim,), shape)
        return [(shape, input.dtype), (shape, _INT64)]

    return spec


def _at_index(g_values: Tensor, indices: Tensor, input_shape: Any, dim: int, keepdim: bool) -> Tensor:
    """The gradient where the extremum was found, 0 elsewhere."""
    g, i = kept(g_values, input_shape, dim, keepdim), kept(indices, input_shape, dim, keepdim)
    return g.new_zeros(input_shape).scatter(dim, i, g)  # type: ignore[attr-defined, no-any-return]


def _found(x: np.ndarray, dim: int, keepdim: bool, find: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    if dim == x.ndim - 1 and x.size and x.flags.c_contiguous:
        values, indices = row_extremum(x, find)
        return (values[..., None], indices[..., None]) if keepdim else (values, indices)
    indices = find(x, axis=dim, keepdims=True)
    values = np.take_along_axis(x, indices, dim)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


_ALONG = each(
    draw(distinct(3, 4), dim=1), draw(distinct(3, 4), dim=0, keepdim=True), draw(distinct(2, 3, 5), dim=-2),
    draw((), dim=0), draw((1,), dim=0), draw((0, 3), dim=1), draw(values([[1.0, 3, 3], [2, 2, 2]]), dim=1),
    draw(distinct(130, 3), dim=0), draw(distinct(17000), dim=0), draw(transposed(5, 6), dim=1),
    draw(strided(3, 7), dim=1),
    draw(ints(5, 4, low=-9, dtype="int32"), dim=1), draw(bools(4, 5), dim=0),
    draw(values([[1.0, float("nan"), float("nan")], [float("inf"), -1, float("inf")]]), dim=1),
)  # fmt: skip


@op(
    spec=_along_spec("max"),
    kernel=lambda v, i, input, dim, keepdim: kernels.reduce([v, i], [input], (dim,), kernels.MAX),
    promote=PROMOTE,
    outputs=("values", "indices"),
    vjp=_at_index,
    on="",
    samples=_ALONG,
    errors=_EMPTY,
)
def _max_dim(input: Array, dim: Dim, keepdim: Any = False):
    """The maximum along ``dim`` and its index, the first of equal ones; NaN wins."""
    return _found(input, dim, keepdim, np.argmax)


@op(
    spec=_along_spec("min"),
    kernel=lambda v, i, input, dim, keepdim: kernels.reduce([v, i], [input], (dim,), kernels.MIN),
    promote=PROMOTE,
    outputs=("values", "indices"),
    vjp=_at_index,
    on="",
    samples=_ALONG,
    errors=_EMPTY,
)
def _min_dim(input: Array, dim: Dim, keepdim: Any = False):
    """The minimum along ``dim`` and its index, the first of equal ones; NaN wins."""
    return _found(input, dim, keepdim, np.argmin)


def _numpy_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take ``axis=`` and ``keepdims=`` for ``dim=`` and ``keepdim=``."""

    @functools.wraps(function)
    def public(*args: Any, **kwargs: Any) -> Any:
        if "axis" in kwargs:
            kwargs["dim"] = kwargs.pop("axis")
        if "keepdims" in kwargs:
            kwargs["keepdim"] = kwargs.pop("keepdims")
        return function(*args, **kwargs)

    return public


def _extremum(input: Tensor, dim: Any, keepdim: bool, other: Any, whole: Any, along: Any, pairwise: str) -> Any:
    if isinstance(dim, Tensor):
        other, dim = dim, None
    if other is not None:
        return getattr(input, pairwise)(other)
    return whole(input) if dim is None else along(input, dim, keepdim)


_OVERLOADS = each(
    draw(distinct(3, 4)), draw(distinct(3, 4), 1), draw(distinct(2, 3, 5), dim=-2, keepdim=True),
    draw(distinct(3, 4), distinct(3, 4)),
    draw(()), draw((), 0), draw(ints(5)), draw(values([2.0, 2, 1])), draw(values([[1.0, 2, 2]]), 1),
)  # fmt: skip


@composite(samples=_OVERLOADS)
@_numpy_names
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The maximum of all elements; max(input, dim): (values, indices) along a dim; max(input, other): maximum.

    NaN wins; the index is that of the first of equal maxima. The gradient goes to that index, or for the whole tensor
    is divided evenly among equal maxima. DimError for a dim out of range or of size 0.
    """
    return _extremum(input, dim, keepdim, other, _max_all, _max_dim, "maximum")


@composite(samples=_OVERLOADS)
@_numpy_names
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The minimum of all elements; min(input, dim): (values, indices) along a dim; min(input, other): minimum.

    NaN wins; the index is that of the first of equal minima. The gradient goes to that index, or for the whole tensor
    is divided evenly among equal minima. DimError for a dim out of range or of size 0.
    """
    return _extremum(input, dim, keepdim, other, _min_all, _min_dim, "minimum")


def _arg_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int | None, keepdim: bool) -> Any:
        dims = _as_dims(dim, input.ndim)
        shape = reduced_shape(input.shape, dims, keepdim)
        if dim is None and not input.size:
            raise DimError(
                f"{name}: Expected reduction dim to be specified for input.numel() == 0: got {tuple(input.shape)}"
            )
        _nonempty(name, input, dims, shape)
        if input.dtype == _BOOL:
            raise DtypeError(f"{name}: not implemented for bool; convert it, as in input.int()")
        return shape, _INT64

    return spec


_INDICES = each(
    [s for s in _ALONG if getattr(s.args[0], "kind", None) != "bools"], draw(distinct(3, 4), dim=None),
    draw((2, 3), dim=None, keepdim=True),
)  # fmt: skip


@op(
    spec=_arg_spec("argmax"),
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], _as_dims(dim, input.ndim), kernels.ARGMAX),
    promote=PROMOTE,
    samples=_INDICES,
    errors=[*_EMPTY, fails(bools(3), match="bool", error=DtypeError)],
)
def argmax(input: Array, dim: Dim | None = None, keepdim: Any = False):
    """The int64 index of the maximum along ``dim``, or in the flattened tensor for None.

    The first of equal ones; NaN wins. DimError for a dim out of range or of size 0; DtypeError for bool.
    """
    return np.argmax(input, axis=dim, keepdims=keepdim)


@op(
    spec=_arg_spec("argmin"),
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], _as_dims(dim, input.ndim), kernels.ARGMIN),
    promote=PROMOTE,
    samples=_INDICES,
    errors=[*_EMPTY, fails(bools(3), match="bool", error=DtypeError)],
)
def argmin(input: Array, dim: Dim | None = None, keepdim: Any = False):
    """The int64 index of the minimum along ``dim``, or in the flattened tensor for None.

    The first of equal ones; NaN wins. DimError for a dim out of range or of size 0; DtypeError for bool.
    """
    return np.argmin(input, axis=dim, keepdims=keepdim)


# ------------------------------------------------------------------------------------------------------------ truth


def _truth_spec(input: Any, dim: Any, keepdim: bool) -> Any:
    return reduced_shape(input.shape, dim, keepdim), input.dtype if input.dtype == np.uint8 else _BOOL


_TRUTHS = each(
    draw(bools(3, 4), dim=1), draw(bools(2, 3, 5), dim=(0, 2), keepdim=True), draw((3, 4), dim=None),
    draw(values([[0.0, -0.0], [float("nan"), 0]]), dim=1), draw(ints(3, 4, high=2), dim=0), draw((0, 3), dim=0),
    draw((), dim=None), draw(values([[0, 2], [3, 256]], "int32"), dim=1),
)  # fmt: skip


@op(
    name="any",
    spec=_truth_spec,
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.ANY),
    promote=PROMOTE,
    samples=_TRUTHS,
)
def any_(input: Array, dim: Dims = None, keepdim: Any = False):
    """Whether any element over ``dim`` (one, several, or all for None) is not 0; bool, uint8 of uint8.

    False of nothing.
    """
    return np.logical_or.reduce(input, axis=dim, keepdims=keepdim)


@op(
    name="all",
    spec=_truth_spec,
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.ALL),
    promote=PROMOTE,
    samples=_TRUTHS,
)
def all_(input: Array, dim: Dims = None, keepdim: Any = False):
    """Whether every element over ``dim`` (one, several, or all for None) is not 0; bool, uint8 of uint8.

    True of nothing.
    """
    return np.logical_and.reduce(input, axis=dim, keepdims=keepdim)


@op(
    spec=lambda input, dim: (reduced_shape(input.shape, dim, False), _INT64),
    kernel=lambda out, input, dim: kernels.reduce([out], [input], dim, kernels.COUNT_NONZERO),
    promote=PROMOTE,
    samples=each(draw(bools(3, 4), dim=1), draw(ints(3, 4, high=2), dim=None), draw((0, 3), dim=0)),
)
def count_nonzero(input: Array, dim: Dims = None):
    """The number of elements over ``dim`` (one, several, or all for None) that are not 0, as int64."""
    return np.count_nonzero(input, axis=dim if input.ndim else None)


# ---------------------------------------------------------------------------------------------------------- moments


def _moment_spec(name: str, outputs: int) -> Callable[..., Any]:
    def spec(input: Any, dim: Any, correction: float, keepdim: bool) -> Any:
        if category(input.dtype) != 2:
            raise DtypeError(
                f"{name}: only supports tensors of floating point dtype, got {OF_NUMPY[input.dtype]}; "
                f"convert it, as in input.float()"
            )
        one = reduced_shape(input.shape, dim, keepdim), input.dtype
        return one if outputs == 1 else [one, one]

    return spec


def moments(x: np.ndarray, dim: tuple[int, ...]) -> tuple[Any, Any]:
    """(mean, sum of squared distances from it) over ``dim``, kept as size 1: two passes."""
    n = count(x.shape, dim)
    mean = add_reduce(x, dim, True) / x.dtype.type(n)
    centered = np.subtract(x, mean)
    return mean, square_sums(centered, dim, True)


def _variance(input: np.ndarray, dim: Any, correction: float, keepdim: bool) -> tuple[Any, Any]:
    mean, m2 = moments(input, dim)
    divisor = builtins.max(count(input.shape, dim) - correction, 0)
    variance = np.divide(m2, input.dtype.type(divisor))
    shape = reduced_shape(input.shape, dim, keepdim)
    return variance.reshape(shape), mean.reshape(shape)


def _variance_vjp(g: Tensor, input: Tensor, dim: Any, correction: float) -> Tensor:
    """``g`` has the reduced dims as size 1."""
    dof = count(input._array.shape, dim) - correction
    factor = 2 / dof if dof > 0 else math.inf
    return (input - input.mean(dim, True)) * (g * factor)  # type: ignore[attr-defined, operator, no-any-return]


def _var_vjp(g: Tensor, input: Tensor, dim: Any, correction: float, keepdim: bool) -> Tensor:
    return _variance_vjp(kept(g, input._array.shape, dim, keepdim), input, dim, correction)


def _through_root(g: Tensor, out: Tensor) -> Tensor:
    """The gradient of a square root, 0 where it is 0."""
    return (g / (out * 2)).masked_fill(out == 0, 0)  # type: ignore[attr-defined, operator, no-any-return]


def _std_vjp(g: Tensor, input: Tensor, out: Tensor, dim: Any, correction: float, keepdim: bool) -> Tensor:
    return _var_vjp(_through_root(g, out), input, dim, correction, keepdim)


def _var_mean_vjp(
    g_var: Tensor, g_mean: Tensor, input: Tensor, dim: Any, correction: float, keepdim: bool
) -> Tensor:
    shape = input._array.shape
    return _var_vjp(g_var, input, dim, correction, keepdim) + _mean_vjp(g_mean, shape, dim, keepdim)  # type: ignore[operator]


def _std_mean_vjp(
    g_std: Tensor, g_mean: Tensor, input: Tensor, std: Tensor, dim: Any, correction: float, keepdim: bool
) -> Tensor:
    return _var_mean_vjp(_through_root(g_std, std), g_mean, input, dim, correction, keepdim)


_MOMENTS = each(
    draw((3, 4), dim=1, correction=1), draw((3, 4), dim=0, correction=0, keepdim=True),
    draw((2, 3, 5), dim=(0, 2), correction=1),
    draw((5, 2), dim=None, correction=2.5), draw((4, 1), dim=1, correction=0), draw((130, 3), dim=0, correction=1),
    draw((17000,), dim=0, correction=1), draw(transposed(5, 6), dim=1, correction=1),
    draw(strided(3, 7), dim=1, correction=1),
    draw((0, 3), dim=1, correction=1), draw(values([1e4 + i for i in range(9)]), dim=0, correction=1),
)  # fmt: skip
_NOT_FLOATING = [fails(ints(3, 4), dim=0, correction=1, match="floating point", error=DtypeError)]


def _moment_kernel(reduction: Any, outputs: int) -> Callable[..., None]:
    def kernel(*arrays: Any, dim: Any, correction: float, keepdim: bool) -> None:
        kernels.reduce(arrays[:outputs], arrays[outputs:], dim, reduction, arg=correction)

    return kernel


@op(
    spec=_moment_spec("var", 1), kernel=_moment_kernel(kernels.VAR, 1), promote=PROMOTE, vjp=_var_vjp, on="",
    samples=_MOMENTS, errors=_NOT_FLOATING, bench=[draw((4096, 4096), dim=1, correction=1)],
    bytes=lambda input, dim, correction: input.nbytes,
)  # fmt: skip
def _var(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """Σ (input - mean)² / max(n - correction, 0) over ``dim``."""
    return _variance(input, dim, correction, keepdim)[0]


@op(
    spec=_moment_spec("std", 1), kernel=_moment_kernel(kernels.STD, 1), promote=PROMOTE, vjp=_std_vjp, on="",
    samples=_MOMENTS, errors=_NOT_FLOATING,
)  # fmt: skip
def _std(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """The square root of the variance."""
    return np.sqrt(_variance(input, dim, correction, keepdim)[0])


@op(
    spec=_moment_spec("var_mean", 2), kernel=_moment_kernel(kernels.VAR_MEAN, 2), promote=PROMOTE, vjp=_var_mean_vjp,
    outputs=("var", "mean"), on="", samples=_MOMENTS, errors=_NOT_FLOATING,
)  # fmt: skip
def _var_mean(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """The variance and the mean, in one pass."""
    return _variance(input, dim, correction, keepdim)


@op(
    spec=_moment_spec("std_mean", 2), kernel=_moment_kernel(kernels.STD_MEAN, 2), promote=PROMOTE, vjp=_std_mean_vjp,
    outputs=("std", "mean"), on="", samples=_MOMENTS, errors=_NOT_FLOATING,
)  # fmt: skip
def _std_mean(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """The standard deviation and the mean, in one pass."""
    variance, mean = _variance(input, dim, correction, keepdim)
    return np.sqrt(variance), mean


def _moment(name: str, made: Any, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Any:
    if isinstance(dim, bool):  # var(input, unbiased)
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise ArgumentError(f"{name}: got both unbiased={unbiased} and correction={correction}: expected one of them")
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return made(input, dim, correction, keepdim)


_SPREADS = each(
    draw((3, 4)), draw((3, 4), 1), draw((2, 3, 5), dim=(0, 2), keepdim=True), draw((3, 4), dim=0, correction=0),
    draw((5,), dim=0, correction=2),
    draw((3, 4), dim=1, unbiased=False),
)  # fmt: skip


@composite(samples=each(_SPREADS, draw((3, 4), False)))
@_numpy_names
def var(input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    """Σ (input - mean)² / max(n - correction, 0) over ``dim`` (one, several, or all for None); ``correction`` is 1.

    ``unbiased`` True and False are correction 1 and 0. Floating point; float32 or wider statistics by Welford's method.
    DtypeError for integers, DimError for a dim out of range. Chan, Golub & LeVeque 1983.
    """
    return _moment("var", _var, input, dim, unbiased, keepdim, correction)


@composite(samples=each(_SPREADS, draw((3, 4), False)))
@_numpy_names
def std(input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    """√(Σ (input - mean)² / max(n - correction, 0)) over ``dim``: the square root of ``var``, which see."""
    return _moment("std", _std, input, dim, unbiased, keepdim, correction)


@composite(on="function", samples=_SPREADS)
@_numpy_names
def var_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """(var, mean) over ``dim``, in one pass over the input: see ``var``."""
    return _moment("var_mean", _var_mean, input, dim, unbiased, keepdim, correction)


@composite(on="function", samples=_SPREADS)
@_numpy_names
def std_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """(std, mean) over ``dim``, in one pass over the input: see ``var``."""
    return _moment("std_mean", _std_mean, input, dim, unbiased, keepdim, correction)


# -------------------------------------------------------------------------------------------------- log-sum-exp, norms


def _logsumexp_spec(input: Any, dim: Any, keepdim: bool) -> Any:
    kind = input.dtype if category(input.dtype) >= 2 else default_dtype()
    return reduced_shape(input.shape, dim, keepdim), kind


def _logsumexp_vjp(g: Tensor, input: Tensor, out: Tensor, dim: Any, keepdim: bool) -> Tensor:
    shape = input._array.shape
    return kept(g, shape, dim, keepdim) * (input - kept(out, shape, dim, keepdim)).exp()  # type: ignore[attr-defined, operator, no-any-return]


@op(
    spec=_logsumexp_spec,
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.LOGSUMEXP,
                                                           [kernels.compute_dtype(out.dtype)]),
    promote=INT_TO_FLOAT,
    vjp=_logsumexp_vjp,
    samples=each(
        draw((3, 4), dim=1), draw((3, 4), dim=0, keepdim=True), draw((2, 3, 5), dim=(0, 2)), draw((), dim=0),
        draw((0, 3), dim=0), draw((130, 3), dim=0), draw((17000,), dim=0), draw(transposed(5, 6), dim=1),
        draw(ints(3, 4), dim=1),
        draw(values([[1.0, float("-inf"), 80], [float("-inf")] * 3]), dim=1),
        draw(values([[float("inf"), 1, 2], [float("nan"), 1, 2]]), dim=1),
    ),
    bench=[draw((4096, 4096), dim=1)],
    bytes=lambda input, dim: input.nbytes,
)  # fmt: skip
def logsumexp(input: Array, dim: Dims, keepdim: Any = False):
    """log Σ exp(input) over ``dim``, without overflow; -inf of nothing. Integers become the default float dtype.

    Half types compute in float32. DimError for a dim out of range.
    """
    if input.size == 0:
        return np.log(np.add.reduce(input, axis=dim, keepdims=keepdim))
    top = extremum_reduce(input, dim, True, np.maximum, np.argmax)
    top = np.where(np.isinf(top), 0, top)
    e = np.subtract(input, top)
    total = add_reduce(np.exp(e, out=e) if input.ndim else np.exp(e), dim, True)
    return (np.log(total) + top).reshape(reduced_shape(input.shape, dim, keepdim))


def _norm_spec(x: Any, ord: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    shape = reduced_shape(x.shape, dim, keepdim)
    if category(x.dtype) < 2 and dtype is None:
        raise DtypeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {OF_NUMPY[x.dtype]}; "
            f"convert it, as in x.float()"
        )
    if not count(x.shape, dim) and 0 not in shape and (ord < 0 or ord == math.inf):
        raise ShapeError(
            f"linalg.vector_norm: cannot compute the {ord} norm over dims {dim} of shape {tuple(x.shape)}, as there "
            f"are no elements to reduce and no identity"
        )
    kind = _floating("linalg.vector_norm", x, dtype)
    return shape, _REAL.get(kind, kind)


_REAL = {np.dtype(np.complex64): _F32, np.dtype(np.complex128): _F64}


def _norm_kernel(out: Any, x: Any, ord: Any, dim: Any, keepdim: bool, dtype: Any) -> None:
    kernels.reduce([out], [x], dim, kernels.norm(ord), [kernels.compute_dtype(out.dtype)], arg=ord)


def _norm_vjp(g: Tensor, x: Any, out: Any, ord: Any, dim: Any, keepdim: bool) -> Any:
    """As in PyTorch: 0 where the norm is 0; for the largest (smallest) magnitude divided evenly among equal ones."""
    shape = x._array.shape
    norm, g = kept(out, shape, dim, keepdim), kept(g, shape, dim, keepdim)
    if norm.dtype != x.dtype:
        x = x.to(norm.dtype)
    if ord == 0:
        return (x * 0) * g
    if ord == 1:
        return x.sign() * g
    if ord == 2:
        return x * (g / norm).masked_fill(norm == 0, 0)
    if math.isinf(ord):
        size = x.abs()
        chosen = (size == norm) | (size.isnan() & norm.isnan())
        return x.sign() * (chosen * (g / chosen.sum(dim, True)))
    if ord < 1:
        return (x.sign() * x.abs().pow(ord - 1)).masked_fill(x == 0, 0) * g * norm.pow(1 - ord)
    scale = (g / norm.pow(ord - 1)).masked_fill(norm == 0, 0)
    if ord < 2:
        return (x.sign() * x.abs().pow(ord - 1)) * scale
    return x * x.abs().pow(ord - 2) * scale


@op(
    spec=_norm_spec,
    kernel=_norm_kernel,
    promote=PROMOTE,
    vjp=_norm_vjp,
    on="function",
    samples=each(
        draw((3, 4), dim=1), draw((3, 4), ord=1, dim=0, keepdim=True), draw((2, 3, 5), ord=3, dim=(0, 2)),
        draw((3, 4), ord=0.5, dim=1), draw(distinct(3, 4), ord=float("inf"), dim=1),
        draw(distinct(3, 4), ord=float("-inf"), dim=1),
        draw((3, 4), ord=0, dim=1), draw((), dim=None), draw((17000,), dim=None),
        draw(values([[0.0, 1], [3, 4]]), dim=1),
        draw((0, 3), dim=0), draw((3, 4), ord=1.5),
    ),
    errors=[fails(ints(3), match="floating point", error=DtypeError)],
    bench=[draw((1 << 24,))],
    bytes=lambda x: x.nbytes,
)  # fmt: skip
def vector_norm(x: Array, ord: Any = 2, dim: Dims = None, keepdim: Any = False, *, dtype: Any = None):
    """(Σ |x|**ord)**(1/ord) over ``dim``; inf and -inf: the largest and smallest |x|; 0: how many are not 0.

    Floating point; half types accumulate in float32. DtypeError for integers without ``dtype``.
    """
    x = _converted(x, _floating("linalg.vector_norm", x, dtype))
    if ord == 2 and x.dtype.kind == "f":
        return np.sqrt(square_sums(x, dim, keepdim))
    size = np.abs(x)
    if ord == 0:
        return np.add.reduce(size != 0, axis=dim, keepdims=keepdim, dtype=size.dtype)
    if math.isinf(ord):
        extreme = np.maximum if ord > 0 else np.minimum
        initial = 0 if ord > 0 else math.inf
        return extreme.reduce(size, axis=dim, keepdims=keepdim, initial=initial)
    return add_reduce(size**ord, dim, keepdim) ** (1 / ord) if ord != 1 else add_reduce(size, dim, keepdim)


@composite(samples=each(
    draw((3, 4)), draw((3, 4), 1), draw((3, 4), 2, 1), draw((2, 3, 4), p=3, dim=(0, 2), keepdim=True),
    draw(distinct(3, 4), float("inf"), 0),
))  # fmt: skip
def norm(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None
) -> Tensor:
    """(Σ |input|**p)**(1/p) over ``dim``, all elements for None: ``linalg.vector_norm``. "fro" is p = 2."""
    order = 2 if p is None or p == "fro" else p
    if isinstance(order, str):
        raise ArgumentError(f"norm: expected a number or 'fro' for p, got {p!r}")
    return vector_norm(input, order, dim, keepdim, dtype=dtype, out=out)


# --------------------------------------------------------------------------------------- running sums, and products


def _running_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int, dtype: Any = None, reverse: bool = False) -> Any:
        return input.shape, ACCUMULATE(name, [input], {"dtype": dtype})[1]

    return spec


def _running(ufunc: Any, x: np.ndarray, dim: int, reverse: bool) -> np.ndarray:
    if reverse:
        return np.flip(ufunc.accumulate(np.flip(x, dim), axis=dim), dim)  # type: ignore[no-any-return]
    return ufunc.accumulate(x, axis=dim)  # type: ignore[no-any-return]


def _running_kernel(what: Any) -> Callable[..., None]:
    def kernel(out: Any, input: Any, dim: int, dtype: Any = None, reverse: bool = False) -> None:
        scans.scan([out], [input], dim, what, [kernels.compute_dtype(out.dtype)], reverse)

    return kernel


_RUNNING = each(
    draw((3, 4), dim=1), draw((3, 4), dim=0), draw((2, 3, 5), dim=-2), draw((1,), dim=0), draw((0, 3), dim=0),
    draw((3, 0), dim=1), draw(transposed(5, 6), dim=1), draw(strided(3, 7), dim=1), draw((70, 3), dim=0),
    draw((17000,), dim=0), draw((2, 2100), dim=1), draw(transposed(2, 1030), dim=0),
    draw(between(0.5, 1.5, 6, 9), dim=1),
)  # fmt: skip
_REVERSED = [replace(s, attrs={**s.attrs, "reverse": r}) for s in _RUNNING for r in (False, True)]


@op(
    spec=_running_spec("cumsum"), kernel=_running_kernel(scans.CUMSUM), promote=PROMOTE, on="",
    vjp=lambda g, dim, reverse: _cumsum_reversed(g, dim, not reverse), samples=_REVERSED,
)  # fmt: skip
def _cumsum_reversed(input: Array, dim: Dim, reverse: Any):
    """The running sum along ``dim``, from the end with ``reverse``."""
    return _running(np.add, _converted(input, _sum_dtype("cumsum", input, None)), dim, reverse)


@op(
    spec=_running_spec("cumsum"), kernel=_running_kernel(scans.CUMSUM), promote=PROMOTE,
    vjp=lambda g, dim: _cumsum_reversed(g, dim, True),
    samples=each(_RUNNING, draw(ints(3, 4, dtype="int8"), dim=1), draw(bools(5), dim=0), draw((), dim=0)),
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)],
    bench=[draw((4096, 4096), dim=1)], bytes=lambda input, dim: 2 * input.nbytes, inplace=True,
)  # fmt: skip
def cumsum(input: Array, dim: Dim, *, dtype: Any = None):
    """Σ input[: i + 1] along ``dim`` for every i. bool and integers are summed in int64, half types in float32.

    With ``dtype`` the input is converted to it first. DimError for a dim out of range. Blelloch 1990.
    """
    return _running(np.add, _converted(input, _sum_dtype("cumsum", input, dtype)), dim, False)


def _cumprod_vjp(g: Tensor, input: Tensor, out: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """The product before each element, times Σ g · (products after it): exact where elements are 0."""
    step = -1 if reverse else 1
    before = _shift(out, dim, -step, 1)
    return before * _linear_scan(_shift(input, dim, step, 0), g, dim, not reverse)  # type: ignore[operator, no-any-return]


@op(
    spec=_running_spec("cumprod"), kernel=_running_kernel(scans.CUMPROD), promote=PROMOTE, on="", vjp=_cumprod_vjp,
    samples=_REVERSED,
)  # fmt: skip
def _cumprod_reversed(input: Array, dim: Dim, reverse: Any):
    """The running product along ``dim``, from the end with ``reverse``."""
    return _running(np.multiply, _converted(input, _sum_dtype("cumprod", input, None)), dim, reverse)


@op(
    spec=_running_spec("cumprod"), kernel=_running_kernel(scans.CUMPROD), promote=PROMOTE,
    vjp=lambda g, input, out, dim: _cumprod_vjp(g, input, out, dim),
    samples=each(_RUNNING, draw(values([2.0, 0.0, 3.0, 0.0, 5.0]), dim=0), draw(ints(3, 4, dtype="int8"), dim=1),
    draw((), dim=0)),
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)], inplace=True,
)  # fmt: skip
def cumprod(input: Array, dim: Dim, *, dtype: Any = None):
    """Π input[: i + 1] along ``dim`` for every i. bool and integers are multiplied in int64, half types in float32.

    With ``dtype`` the input is converted to it first. DimError for a dim out of range.
    """
    return _running(np.multiply, _converted(input, _sum_dtype("cumprod", input, dtype)), dim, False)


@op(
    spec=lambda input, dim, by, fill: (input.shape, input.dtype),
    kernel=scans.shift,
    vjp=lambda g, dim, by: _shift(g, dim, -by, 0),
    on="",
    samples=each(draw((3, 4), dim=1, by=1, fill=1), draw((3, 4), dim=0, by=-1, fill=0),
    draw((2,), dim=0, by=3, fill=5)),
)
def _shift(input: Array, dim: Dim, by: Any, fill: Scalar):
    """input[k + by] along ``dim``, ``fill`` where there is none."""
    out = np.full_like(input, fill, order="C")
    n, front = input.shape[dim], (slice(None),) * dim
    if abs(by) < n:
        low, high = builtins.max(by, 0), builtins.max(-by, 0)
        out[(*front, slice(high, n - low))] = input[(*front, slice(low, n - high))]
    return out


def _linear_scan_vjp(g: Tensor, a: Tensor, out: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    step = -1 if reverse else 1
    g_b = _linear_scan(_shift(a, dim, step, 0), g, dim, not reverse)
    return g_b * _shift(out, dim, -step, 0), g_b  # type: ignore[operator]


@op(
    spec=lambda a, b, dim, reverse: (a.shape, a.dtype),
    kernel=lambda out, a, b, dim, reverse: scans.scan([out], [a, b], dim, scans.LINEAR, reverse=reverse),
    promote=PROMOTE,
    vjp=_linear_scan_vjp,
    on="",
    samples=each(
        draw(between(-0.9, 0.9, 3, 4), (3, 4), dim=1, reverse=False),
        draw(between(-0.9, 0.9, 5, 2), (5, 2), dim=0, reverse=True),
        draw(between(-0.9, 0.9, 17000), (17000,), dim=0, reverse=False),
        draw(between(-0.9, 0.9, 17000), (17000,), dim=0, reverse=True),
        draw(transposed(2, 9), (2, 9), dim=1, reverse=False),
    ),
)  # fmt: skip
def _linear_scan(a: Array, b: Array, dim: Dim, reverse: Any):
    """s[k] = a[k] s[k - 1] + b[k] along ``dim``, s[k + 1] in place of s[k - 1] with ``reverse``; s is 0 outside."""
    out = np.empty(b.shape, b.dtype)
    a_, b_, s_ = np.moveaxis(a, dim, 0), np.moveaxis(b, dim, 0), np.moveaxis(out, dim, 0)
    before: Any = 0
    for k in range(len(b_))[:: -1 if reverse else 1]:
        before = np.add(a_[k] * before, b_[k], out=s_[k : k + 1])[0]
    return out


# ---------------------------------------------------------------------------------------------------------- products


def _prod_spec(input: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    return reduced_shape(input.shape, _as_dims(dim, input.ndim), keepdim), _sum_dtype("prod", input, dtype)


def _prod_kernel(out: Any, input: Any, dim: Any, keepdim: bool, dtype: Any) -> None:
    kernels.reduce([out], [input], _as_dims(dim, input.ndim), kernels.PROD, [kernels.compute_dtype(out.dtype)])


def _prod_vjp(g: Tensor, input: Tensor, input_shape: Any, dim: Any, keepdim: bool) -> Tensor:
    """g · (the product of the elements before) · (the product of those after): exact where elements are 0."""
    g, x, at = kept(g, input_shape, dim, keepdim), input, dim
    if dim is None:
        x, at = input.reshape((-1,)), 0  # type: ignore[attr-defined]
        g = g.reshape((1,))  # type: ignore[attr-defined]
    others = _shift(_cumprod_reversed(x, at, False), at, -1, 1) * _shift(_cumprod_reversed(x, at, True), at, 1, 1)
    return (g * others).reshape(input_shape)  # type: ignore[no-any-return]


@op(
    spec=_prod_spec,
    kernel=_prod_kernel,
    promote=PROMOTE,
    vjp=_prod_vjp,
    samples=each(
        draw((3, 4), dim=1), draw((3, 4), dim=0, keepdim=True), draw((2, 3, 5), dim=None), draw((0, 3), dim=0),
        draw((), dim=None),
        draw(values([[2.0, 0.0, 3.0], [0.0, 0.0, 1.0]]), dim=1), draw(transposed(4, 5), dim=-1),
        draw(ints(3, 4, dtype="int8"), dim=1),
        draw(between(0.5, 1.5, 130, 3), dim=0),
    ),
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)],
)  # fmt: skip
def prod(input: Array, dim: Dim | None = None, keepdim: Any = False, *, dtype: Any = None):
    """Π input along ``dim``, or of all elements for None; 1 of nothing.

    bool and integers are multiplied in int64, half types in float32. DimError for a dim out of range.
    """
    x = _converted(input, _sum_dtype("prod", input, dtype))
    return np.multiply.reduce(x, axis=dim, keepdims=keepdim)
