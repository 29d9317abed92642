"""Running sums and products, and the linear recurrence of their gradients (kernels/scan.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import ACCUMULATE, PROMOTE, category
from tensorlib._samples import between, bools, distinct, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import DimError, DtypeError
from tensorlib.kernels import reduction as kernels
from tensorlib.kernels import scan as scans
from tensorlib.op import Array, Dim, Scalar, op
from tensorlib.ops._reduction import _converted, _sum_dtype
from tensorlib.ops.selection import _where

_INT64 = np.dtype(np.int64)


def _running_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int, dtype: Any = None, reverse: bool = False) -> Any:
        return input.shape, ACCUMULATE(name, [input], {"dtype": dtype})[1]

    return spec


def _running(x: np.ndarray, dim: int, ufunc: np.ufunc, reverse: bool = False) -> np.ndarray:
    """ufunc.accumulate, by whole slices where there are few of them: NumPy goes along ``dim`` one by one."""
    if reverse:
        return np.flip(_running(np.flip(x, dim), dim, ufunc), dim)
    n = x.shape[dim]
    if dim == x.ndim - 1 or x.size < 64 * n:
        return np.ascontiguousarray(ufunc.accumulate(x, axis=dim))
    out = np.array(x, order="C")
    slices = np.moveaxis(out, dim, 0)
    for k in range(1, n):
        ufunc(slices[k - 1], slices[k], out=slices[k])
    return out


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
    spec=_running_spec("cumsum"), kernel=_running_kernel(scans.CUMSUM), promote=PROMOTE, complex=True, on="",
    vjp=lambda g, dim, reverse: _cumsum_reversed(g, dim, not reverse), samples=_REVERSED,
)  # fmt: skip
def _cumsum_reversed(input: Array, dim: Dim, reverse: Any):
    """The running sum along ``dim``, from the end with ``reverse``."""
    return _running(_converted(input, _sum_dtype("cumsum", input, None)), dim, np.add, reverse)


@op(
    spec=_running_spec("cumsum"), kernel=_running_kernel(scans.CUMSUM), promote=PROMOTE, complex=True,
    vjp=lambda g, input_dtype, dim: _cumsum_reversed(g.to(OF_NUMPY[np.dtype(input_dtype)]), dim, True),
    samples=each(_RUNNING, draw(ints(3, 4, dtype="int8"), dim=1), draw(bools(5), dim=0), draw((), dim=0)),
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)],
    bench=[draw((4096, 4096), dim=1)], bytes=lambda input, dim: 2 * input.nbytes, inplace=True,
)  # fmt: skip
def cumsum(input: Array, dim: Dim, *, dtype: Any = None):
    """Σ input[: i + 1] along ``dim`` for every i. bool and integers are summed in int64, half types in float32.

    With ``dtype`` the input is converted to it first. DimError for a dim out of range. Blelloch 1990.
    """
    return _running(_converted(input, _sum_dtype("cumsum", input, dtype)), dim, np.add)


def _cumprod_vjp(g: Tensor, input: Tensor, out: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """The product before each element, times Σ g · (products after it): exact where elements are 0."""
    step = -1 if reverse else 1
    before = _shift(out, dim, -step, 1)
    return before * _linear_scan(_shift(input, dim, step, 0), g, dim, not reverse)  # type: ignore[operator, no-any-return]


@op(
    spec=_running_spec("cumprod"), kernel=_running_kernel(scans.CUMPROD), promote=PROMOTE, complex=True,
    on="", vjp=_cumprod_vjp,
    samples=_REVERSED,
)  # fmt: skip
def _cumprod_reversed(input: Array, dim: Dim, reverse: Any):
    """The running product along ``dim``, from the end with ``reverse``."""
    return _running(_converted(input, _sum_dtype("cumprod", input, None)), dim, np.multiply, reverse)


@op(
    bench=[draw((1024, 1024), dim=1)],
    spec=_running_spec("cumprod"), kernel=_running_kernel(scans.CUMPROD), promote=PROMOTE, complex=True,
    vjp=lambda g, input, out, dim: _cumprod_vjp(g, input, out, dim),
    samples=each(_RUNNING, draw(values([2.0, 0.0, 3.0, 0.0, 5.0]), dim=0), draw(ints(3, 4, dtype="int8"), dim=1),
    draw((), dim=0)),
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)], inplace=True,
)  # fmt: skip
def cumprod(input: Array, dim: Dim, *, dtype: Any = None):
    """Π input[: i + 1] along ``dim`` for every i. bool and integers are multiplied in int64, half types in float32.

    With ``dtype`` the input is converted to it first. DimError for a dim out of range.
    """
    return _running(_converted(input, _sum_dtype("cumprod", input, dtype)), dim, np.multiply)


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
        low, high = max(by, 0), max(-by, 0)
        out[(*front, slice(high, n - low))] = input[(*front, slice(low, n - high))]
    return out


def _linear_scan_vjp(g: Tensor, a: Tensor, out: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    step = -1 if reverse else 1
    g_b = _linear_scan(_shift(a, dim, step, 0), g, dim, not reverse)
    return g_b * _shift(out, dim, -step, 0), g_b  # type: ignore[operator]


@op(
    bench=[draw((4096, 1024), (4096, 1024), dim=1, reverse=False)],
    spec=lambda a, b, dim, reverse: (a.shape, a.dtype),
    kernel=lambda out, a, b, dim, reverse: scans.scan([out], [a, b], dim, scans.LINEAR, reverse=reverse),
    promote=PROMOTE,
    complex=True,
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


# ------------------------------------------------------------------------------------------------- running extrema


def _running_extremum_spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int) -> Any:
        if category(input.dtype) == 3:
            raise DtypeError(f"{name}: complex numbers have no order, got {OF_NUMPY[input.dtype]}")
        return [(input.shape, input.dtype), (input.shape, _INT64)]

    return spec


def _running_extremum_kernel(what: Any) -> Callable[..., None]:
    return lambda values, indices, input, dim: scans.scan([values, indices], [input], dim, what)


def _to_running_index(g_values: Any, indices: Tensor, input_shape: Any, dim: int) -> Any:
    """The gradients of all results that are one element, added up there."""
    return g_values.new_zeros(input_shape).scatter_add(dim, indices, g_values)


#: Of floats without a NaN the same, at two thirds of the time.
_WITHOUT_NAN: dict[np.ufunc, np.ufunc] = {np.maximum: np.fmax, np.minimum: np.fmin}


def _running_extremum(x: np.ndarray, dim: int, ufunc: np.ufunc) -> tuple[np.ndarray, np.ndarray]:
    """(running extrema, the index of the last element that is one of them); NaN wins from its place on."""
    n = x.shape[dim]
    if not x.size:
        return np.array(x), np.zeros(x.shape, np.int64)
    nan = np.isnan(x) if x.dtype.kind == "f" else None
    if nan is not None and not nan.any():
        nan, ufunc = None, _WITHOUT_NAN[ufunc]
    found = _running(x, dim, ufunc)
    here = x == found
    if nan is not None:
        here |= nan
    if dim == x.ndim - 1:  # from one of them to the next, the index is the same
        places = np.flatnonzero(here)
        return found, np.repeat(places % n, np.diff(places, append=x.size)).reshape(x.shape)
    place = np.arange(n, dtype=np.int32 if n < 1 << 31 else np.int64)
    index = here * place.reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    return found, _running(index, dim, np.maximum).astype(np.int64, copy=False)


_RUNNING_EXTREMA = each(
    draw(distinct(3, 4), dim=1), draw(distinct(3, 4), dim=0), draw(distinct(2, 3, 5), dim=-2), draw((), dim=0),
    draw((0, 3), dim=0), draw((3, 0), dim=1), draw(transposed(5, 6), dim=1), draw(strided(3, 7), dim=1),
    draw((70, 3), dim=0), draw((17000,), dim=0), draw(ints(5, 9, low=-3, high=3, dtype="int32"), dim=1),
    draw(bools(7), dim=0), draw(values([[1.0, 1, 3, 2, 3], [float("nan"), 1, float("nan"), 2, float("-inf")]]), dim=1),
    draw(values([float("-inf"), float("-inf"), float("inf"), float("inf")]), dim=0),
)  # fmt: skip


@op(
    spec=_running_extremum_spec("cummax"), kernel=_running_extremum_kernel(scans.CUMMAX), promote=PROMOTE,
    vjp=_to_running_index, outputs=("values", "indices"), samples=_RUNNING_EXTREMA,
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)], bench=[draw((1024, 1024), dim=1)],
    bytes=lambda input, dim: 2 * input.nbytes + 8 * input.size,
)  # fmt: skip
def cummax(input: Array, dim: Dim):
    """(max input[: i + 1], its index) along ``dim`` for every i: the index of the last of equal maxima. NaN wins.

    DimError for a dim out of range; DtypeError for complex numbers. Blelloch 1990.
    """
    return _running_extremum(input, dim, np.maximum)


@op(
    spec=_running_extremum_spec("cummin"), kernel=_running_extremum_kernel(scans.CUMMIN), promote=PROMOTE,
    vjp=_to_running_index, outputs=("values", "indices"), samples=_RUNNING_EXTREMA,
    errors=[fails((3, 4), dim=2, match="out of range", error=DimError)],
)  # fmt: skip
def cummin(input: Array, dim: Dim):
    """(min input[: i + 1], its index) along ``dim`` for every i: the index of the last of equal minima. NaN wins.

    DimError for a dim out of range; DtypeError for complex numbers. Blelloch 1990.
    """
    return _running_extremum(input, dim, np.minimum)


def _logcumsumexp_spec(input: Any, dim: int) -> Any:
    if category(input.dtype) < 2:
        raise DtypeError(
            f"logcumsumexp: not implemented for {OF_NUMPY[input.dtype]}: convert it, as in input.float()"
        )
    return input.shape, input.dtype


def _logcumsumexp_vjp(g: Any, input: Any, out: Any, dim: int) -> Any:
    """Σ g[k] exp(input - out[k]) over k from each place on: in logarithms, positive and negative g apart."""

    def part(size: Any) -> Any:
        some = (size > 0) & (out != -math.inf)  # what else there is counts for nothing, and must not be differentiated
        logs = _where(some, _where(some, size, 1.0).log() - _where(some, out, 0.0), -math.inf)
        return (logs.flip(dim).logcumsumexp(dim).flip(dim) + input).exp()

    return _where(out == -math.inf, math.nan, part(g.clamp_min(0)) - part((-g).clamp_min(0)))


@op(
    bench=[draw((1024, 1024), dim=1)],
    spec=_logcumsumexp_spec, kernel=_running_kernel(scans.LOGCUMSUMEXP), promote=PROMOTE, vjp=_logcumsumexp_vjp,
    samples=each(
        [s for s in _RUNNING if s.args[0] != (17000,)], draw((), dim=0), draw((9000,), dim=0),
        draw(values([[90.0, 1, -90, 89], [float("-inf"), 1, 2, float("-inf")]]), dim=1),
        draw(values([1.0, float("inf"), 2, float("nan"), 0]), dim=0),
    ),
    errors=[fails(ints(3), dim=0, match="not implemented", error=DtypeError)],
)  # fmt: skip
def logcumsumexp(input: Array, dim: Dim):
    """log Σ exp(input[: i + 1]) along ``dim`` for every i, without overflow. Half types compute in float32.

    DtypeError for integers, DimError for a dim out of range.
    """
    return np.ascontiguousarray(np.logaddexp.accumulate(input, axis=dim))
