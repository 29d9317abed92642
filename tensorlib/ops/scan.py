"""Running sums and products, and the linear recurrence of their gradients (kernels/scan.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import ACCUMULATE, PROMOTE
from tensorlib._samples import between, bools, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import DimError
from tensorlib.kernels import reduction as kernels
from tensorlib.kernels import scan as scans
from tensorlib.op import Array, Dim, Scalar, op
from tensorlib.ops._reduction import _converted, _sum_dtype


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
        low, high = max(by, 0), max(-by, 0)
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
