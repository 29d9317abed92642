"""Sums, means, products, truth and log-sum-exp. One kernel serves all reductions (kernels/reduction.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, listening
from tensorlib._dtypes import HALF, OF_NUMPY, as_dtype, float32
from tensorlib._promotion import INT_TO_FLOAT, PROMOTE, category, default_dtype
from tensorlib._samples import between, bools, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.kernels import reduction as kernels
from tensorlib.op import Array, Dim, Dims, composite, op, view
from tensorlib.ops._out import takes_out
from tensorlib.ops._reduction import (
    _as_dims,
    _converted,
    _floating,
    _sum_dtype,
    add_reduce,
    count,
    extremum_reduce,
    kept,
    reduced_shape,
)
from tensorlib.ops.create import sizes_given
from tensorlib.ops.scan import _cumprod_reversed, _shift

_INT64, _UINT64, _BOOL = (np.dtype(t) for t in (np.int64, np.uint64, np.bool_))


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


# ------------------------------------------------------------------------------------------------------------- sums


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
    complex=True,
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
def sum_to_size(input: Tensor, *args: Any, size: Any = None) -> Tensor:
    """The sum over the dims in which a tensor of ``size`` would be broadcast to the shape of ``input``.

    ShapeError where ``size`` cannot be broadcast to it.
    """
    sizes = sizes_given("sum_to_size", args, size)
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    shape, have = tuple(shape), input._array.shape
    if shape == have:
        return input if shape else _public_sum(input)  # type: ignore[no-any-return]
    lead = len(have) - len(shape)
    if lead < 0 or any(n != m and n != 1 for n, m in zip(shape, have[lead:], strict=False)):
        raise ShapeError(
            f"sum_to_size: size {shape} is not expandable to size {tuple(have)}: expected sizes that are equal or 1"
        )
    dims = tuple(d for d, m in enumerate(have) if d < lead or (shape[d - lead] == 1 and m != 1))
    out = _public_sum(input, dims, True) if dims else input
    return out.view(shape) if lead else out  # type: ignore[attr-defined, no-any-return]


_public_sum: Any = sum_


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
    complex=True,
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


# --------------------------------------------------------------------------------------------------------- products


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
    bench=[draw((4096, 4096), dim=1)],
    spec=_prod_spec,
    kernel=_prod_kernel,
    promote=PROMOTE,
    complex=True,
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
    if dim is not None and dim == x.ndim - 1 and x.shape[-1] >= 16 and x.size >= 2048 and x.dtype.kind == "f":
        while (n := x.shape[-1]) >= 16:  # by halves: one product after another waits for the one before
            half = x[..., : n // 2] * x[..., n // 2 : n - n % 2]
            if n % 2:
                half[..., 0] *= x[..., -1]
            x = half
    return np.multiply.reduce(x, axis=dim, keepdims=keepdim)


# ------------------------------------------------------------------------------------------------------------ truth


def _truth_spec(input: Any, dim: Any, keepdim: bool) -> Any:
    return reduced_shape(input.shape, dim, keepdim), input.dtype if input.dtype == np.uint8 else _BOOL


_TRUTHS = each(
    draw(bools(3, 4), dim=1), draw(bools(2, 3, 5), dim=(0, 2), keepdim=True), draw((3, 4), dim=None),
    draw(values([[0.0, -0.0], [float("nan"), 0]]), dim=1), draw(ints(3, 4, high=2), dim=0), draw((0, 3), dim=0),
    draw((), dim=None), draw(values([[0, 2], [3, 256]], "int32"), dim=1),
)  # fmt: skip


@op(
    bench=[draw((4096, 4096), dim=1)],
    name="any",
    spec=_truth_spec,
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.ANY),
    promote=PROMOTE,
    complex=True,
    samples=_TRUTHS,
)
def any_(input: Array, dim: Dims = None, keepdim: Any = False):
    """Whether any element over ``dim`` (one, several, or all for None) is not 0; bool, uint8 of uint8.

    False of nothing.
    """
    return np.logical_or.reduce(input, axis=dim, keepdims=keepdim)


@op(
    bench=[draw((4096, 4096), dim=1)],
    name="all",
    spec=_truth_spec,
    kernel=lambda out, input, dim, keepdim: kernels.reduce([out], [input], dim, kernels.ALL),
    promote=PROMOTE,
    complex=True,
    samples=_TRUTHS,
)
def all_(input: Array, dim: Dims = None, keepdim: Any = False):
    """Whether every element over ``dim`` (one, several, or all for None) is not 0; bool, uint8 of uint8.

    True of nothing.
    """
    return np.logical_and.reduce(input, axis=dim, keepdims=keepdim)


@op(
    bench=[draw((4096, 4096), dim=1)],
    spec=lambda input, dim: (reduced_shape(input.shape, dim, False), _INT64),
    kernel=lambda out, input, dim: kernels.reduce([out], [input], dim, kernels.COUNT_NONZERO),
    promote=PROMOTE,
    complex=True,
    samples=each(draw(bools(3, 4), dim=1), draw(ints(3, 4, high=2), dim=None), draw((0, 3), dim=0)),
)
def count_nonzero(input: Array, dim: Dims = None):
    """The number of elements over ``dim`` (one, several, or all for None) that are not 0, as int64."""
    return np.count_nonzero(input, axis=dim if input.ndim else None)


# ------------------------------------------------------------------------------------------------------ log-sum-exp


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
    complex=True,
    vjp=_logsumexp_vjp,
    alias=("special.logsumexp",),
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
    size = input.real if input.dtype.kind == "c" else input
    top = extremum_reduce(size, dim, True, np.maximum, np.argmax)
    top = np.where(np.isinf(top), 0, top)
    e = np.subtract(input, top)
    total = add_reduce(np.exp(e, out=e) if input.ndim else np.exp(e), dim, True)
    return (np.log(total) + top).reshape(reduced_shape(input.shape, dim, keepdim))


# ------------------------------------------------------------------------------------------------ by way of the others


@composite(
    samples=each(
        draw(values([[1.0, float("nan"), 3], [2.0, 5, float("nan")]])),
        draw(values([[1.0, float("nan"), 3], [2.0, 5, float("nan")]]), 1, True), draw(ints(3, 4), dim=0),
        draw((2, 3, 4), dim=(0, 2)), draw((0, 3), dim=0),
    )
)  # fmt: skip
@takes_out
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Σ input over ``dim`` (one, several, or all for None), NaN counting as 0: see ``sum``."""
    x: Any = input
    if category(x._array.dtype) == 3:
        raise DtypeError(f"nansum: does not support complex inputs, got {x.dtype}")
    if category(x._array.dtype) < 2:
        return _public_sum(x, dim, keepdim, dtype=dtype)  # type: ignore[no-any-return]
    if type(x._array) is np.ndarray and not listening[0]:
        total = _public_sum(x, dim, keepdim, dtype=dtype)
        if not np.isnan(total._array).any():  # the plain sum, three times as fast, was all there is to do
            return total  # type: ignore[no-any-return]
    return _public_sum(x.masked_fill(x.isnan(), 0), dim, keepdim, dtype=dtype)  # type: ignore[no-any-return]


@composite(
    samples=each(
        draw(values([[1.0, float("nan"), 3], [2.0, 5, float("nan")]])),
        draw(values([[1.0, float("nan"), 3], [2.0, 5, float("nan")]]), 1, True), draw((2, 3, 4), dim=(0, 2)),
        draw((0, 3), dim=0),
    )
)  # fmt: skip
@takes_out
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of the elements over ``dim`` that are not NaN; NaN where there are none. DtypeError for integers."""
    x: Any = input
    if category(x._array.dtype) < 2:
        raise DtypeError(
            f"nanmean: expected input to have floating point or complex dtype but got {x.dtype}: use input.float()"
        )
    present = x.isnan().logical_not().sum(dim, keepdim)
    kind = x.dtype if dtype is None else as_dtype(dtype)
    if kind.numpy not in HALF:
        return nansum(x, dim, keepdim, dtype=dtype) / present  # type: ignore[no-any-return]
    # Not in float16, which has no number for how many 65,520 elements are.
    return (nansum(x, dim, keepdim, dtype=float32) / present).to(kind)  # type: ignore[no-any-return]


@composite(samples=each(draw((3, 4)), draw((4, 3)), draw(ints(3, 3, dtype="int8")), draw((0, 3))))
@takes_out
def trace(input: Tensor) -> Tensor:
    """Σ input[i, i] of a matrix. ShapeError for other than two dimensions."""
    if input._array.ndim != 2:
        raise ShapeError(f"trace: expected a matrix, but got tensor with dim {input._array.ndim}")
    return _public_sum(input.diagonal())  # type: ignore[attr-defined, no-any-return]


def _hash_spec(input: Any, dim: Any, keepdim: bool, mode: int) -> Any:
    if mode != 0:
        raise ArgumentError(f"hash_tensor: expected mode 0, the only one there is, got {mode}")
    if category(input.dtype) == 3:
        raise DtypeError(f"hash_tensor: takes real numbers, got {OF_NUMPY[input.dtype]}: use view_as_real(input)")
    shape = reduced_shape(input.shape, dim, keepdim)
    if not input.size and 0 not in shape:
        raise DimError(f"hash_tensor: Expected reduction dims to have non-zero size, got shape {tuple(input.shape)}")
    return shape, _UINT64


def _hash_kernel(out: Any, input: Any, dim: Any, keepdim: bool, mode: int) -> None:
    wide = np.float64 if category(input.dtype) == 2 else np.int64
    kernels.reduce([out], [input], dim, kernels.HASH, [np.dtype(wide)])


@op(
    spec=_hash_spec,
    kernel=_hash_kernel,
    samples=each(
        draw((3, 4)), draw((3, 4), dim=1), draw(ints(3, 4, low=-9), dim=0, keepdim=True), draw(bools(5)), draw(()),
        draw((2, 3, 4), dim=(0, 2)),
    ),
    errors=[fails((0, 3), dim=0, match="non-zero size", error=DimError), fails((3,), mode=1, match="mode")],
)  # fmt: skip
def hash_tensor(input: Array, dim: Dims = (), keepdim: Any = False, *, mode: int = 0):
    """The exclusive or of the elements over ``dim``, as the bits of float64 or int64: uint64."""
    wide = np.float64 if category(input.dtype) == 2 else np.int64
    bits = input.astype(wide).reshape(-1).view(np.uint64).reshape(input.shape)
    return np.bitwise_xor.reduce(bits, axis=dim, keepdims=keepdim)
