"""Maxima and minima, and where they are: by the kernel of all reductions (kernels/reduction.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import PROMOTE
from tensorlib._samples import bools, distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import DimError, DtypeError, ShapeError
from tensorlib.kernels import reduction as kernels
from tensorlib.op import Array, Dim, Dims, composite, op, result_type
from tensorlib.ops._out import takes_out
from tensorlib.ops._reduction import _as_dims, extremum_reduce, kept, reduced_shape, row_extremum

_INT64, _BOOL = (np.dtype(t) for t in (np.int64, np.bool_))


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


_AminMax = result_type("aminmax", ("min", "max"))


@composite(samples=each(
    draw(distinct(3, 4)), draw(distinct(3, 4), dim=1), draw(distinct(2, 3, 5), dim=-2, keepdim=True), draw(ints(5)),
    draw((), dim=0), draw(values([1.0, float("nan")])),
))  # fmt: skip
@takes_out
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(amin, amax) along ``dim``, or of all elements for None. NaN wins; see ``amin`` for the gradient."""
    if not input._array.size and dim is None:
        raise ShapeError("aminmax: cannot compute aminmax over an empty dimension as the operation has no identity")
    over = () if dim is None else dim
    return _AminMax(amin(input, over, keepdim), amax(input, over, keepdim))


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
    bench=[draw((4096, 4096), dim=1)],
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
@takes_out
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The maximum of all elements; max(input, dim): (values, indices) along a dim; max(input, other): maximum.

    NaN wins; the index is that of the first of equal maxima. The gradient goes to that index, or for the whole tensor
    is divided evenly among equal maxima. DimError for a dim out of range or of size 0.
    """
    return _extremum(input, dim, keepdim, other, _max_all, _max_dim, "maximum")


@composite(samples=_OVERLOADS)
@takes_out
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
    bench=[draw((4096, 4096), dim=1)],
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
    bench=[draw((4096, 4096), dim=1)],
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
