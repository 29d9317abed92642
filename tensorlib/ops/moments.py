"""Variances and standard deviations, with the mean or without."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import PROMOTE, category, real_of
from tensorlib._samples import draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DtypeError
from tensorlib.kernels import reduction as kernels
from tensorlib.op import Array, Dims, composite, op
from tensorlib.ops._out import takes_out
from tensorlib.ops._reduction import add_reduce, count, kept, reduced_shape, square_sums
from tensorlib.ops.reduction import _mean_vjp


def _moment_spec(name: str, outputs: int) -> Callable[..., Any]:
    def spec(input: Any, dim: Any, correction: float, keepdim: bool) -> Any:
        if category(input.dtype) < 2:
            raise DtypeError(
                f"{name}: only supports tensors of floating point dtype, got {OF_NUMPY[input.dtype]}; "
                f"convert it, as in input.float()"
            )
        shape = reduced_shape(input.shape, dim, keepdim)
        spread = shape, real_of(input.dtype)  # of complex numbers the sum of that of the parts
        return spread if outputs == 1 else [spread, (shape, input.dtype)]

    return spec


def moments(x: np.ndarray, dim: tuple[int, ...]) -> tuple[Any, Any]:
    """(mean, sum of squared distances from it) over ``dim``, kept as size 1: two passes."""
    n = count(x.shape, dim)
    mean = add_reduce(x, dim, True) / x.dtype.type(n)
    centered = np.subtract(x, mean)
    return mean, square_sums(centered, dim, True)


def _freedom(name: str, shape: tuple[int, ...], dim: Any, correction: float) -> float:
    """The divisor of a variance, with PyTorch's warning where it is 0 and the result NaN or infinite."""
    divisor = count(shape, dim) - correction
    if divisor > 0:
        return divisor
    warnings.warn(
        f"{name}(): degrees of freedom is <= 0. Correction should be strictly less than the reduction factor (input "
        f"numel divided by output numel): got correction={correction} for {count(shape, dim)} elements",
        UserWarning,
        stacklevel=outside(),
    )
    return 0


def _variance(name: str, input: np.ndarray, dim: Any, correction: float, keepdim: bool) -> tuple[Any, Any]:
    mean, m2 = moments(input, dim)
    divisor = _freedom(name, input.shape, dim, correction)
    variance = np.divide(m2, m2.dtype.type(divisor))
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


def _moment_kernel(name: str, reduction: Any, outputs: int) -> Callable[..., None]:
    def kernel(*arrays: Any, dim: Any, correction: float, keepdim: bool) -> None:
        _freedom(name, arrays[outputs].shape, dim, correction)
        kernels.reduce(arrays[:outputs], arrays[outputs:], dim, reduction, arg=correction)

    return kernel


@op(
    spec=_moment_spec("var", 1), kernel=_moment_kernel("var", kernels.VAR, 1),
    promote=PROMOTE, complex="own", vjp=_var_vjp, on="",
    samples=_MOMENTS, errors=_NOT_FLOATING, bench=[draw((4096, 4096), dim=1, correction=1)],
    bytes=lambda input, dim, correction: input.nbytes,
)  # fmt: skip
def _var(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """Σ (input - mean)² / max(n - correction, 0) over ``dim``."""
    return _variance("var", input, dim, correction, keepdim)[0]


@op(
    bench=[draw((4096, 4096), dim=1, correction=1)],
    spec=_moment_spec("std", 1), kernel=_moment_kernel("std", kernels.STD, 1),
    promote=PROMOTE, complex="own", vjp=_std_vjp, on="",
    samples=_MOMENTS, errors=_NOT_FLOATING,
)  # fmt: skip
def _std(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """The square root of the variance."""
    return np.sqrt(_variance("std", input, dim, correction, keepdim)[0])


@op(
    bench=[draw((4096, 4096), dim=1, correction=1)],
    spec=_moment_spec("var_mean", 2), kernel=_moment_kernel("var_mean", kernels.VAR_MEAN, 2),
    promote=PROMOTE, complex="own", vjp=_var_mean_vjp,
    outputs=("var", "mean"), on="", samples=_MOMENTS, errors=_NOT_FLOATING,
)  # fmt: skip
def _var_mean(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """The variance and the mean, in one pass."""
    return _variance("var_mean", input, dim, correction, keepdim)


@op(
    spec=_moment_spec("std_mean", 2), kernel=_moment_kernel("std_mean", kernels.STD_MEAN, 2),
    promote=PROMOTE, complex="own", vjp=_std_mean_vjp,
    outputs=("std", "mean"), on="", samples=_MOMENTS, errors=_NOT_FLOATING,
)  # fmt: skip
def _std_mean(input: Array, dim: Dims, correction: Any, keepdim: Any = False):
    """The standard deviation and the mean, in one pass."""
    variance, mean = _variance("std_mean", input, dim, correction, keepdim)
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
@takes_out
def var(input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    """Σ (input - mean)² / max(n - correction, 0) over ``dim`` (one, several, or all for None); ``correction`` is 1.

    ``unbiased`` True and False are correction 1 and 0. Floating point; float32 or wider statistics by Welford's method.
    DtypeError for integers, DimError for a dim out of range. Chan, Golub & LeVeque 1983.
    """
    return _moment("var", _var, input, dim, unbiased, keepdim, correction)


@composite(samples=each(_SPREADS, draw((3, 4), False)))
@takes_out
def std(input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    """√(Σ (input - mean)² / max(n - correction, 0)) over ``dim``: the square root of ``var``, which see."""
    return _moment("std", _std, input, dim, unbiased, keepdim, correction)


@composite(on="function", samples=_SPREADS)
def var_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """(var, mean) over ``dim``, in one pass over the input: see ``var``."""
    return _moment("var_mean", _var_mean, input, dim, unbiased, keepdim, correction)


@composite(on="function", samples=_SPREADS)
def std_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """(std, mean) over ``dim``, in one pass over the input: see ``var``."""
    return _moment("std_mean", _std_mean, input, dim, unbiased, keepdim, correction)
