"""softmax and log_softmax: fused forwards and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor
from tensorlib._promotion import FLOAT_ONLY, PROMOTE
from tensorlib._samples import draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import DimError, DtypeError
from tensorlib.kernels import softmax as kernels
from tensorlib.op import Array, Dim, composite, op
from tensorlib.ops import _few_numpy as few
from tensorlib.ops._pointwise_numpy import in_row_blocks
from tensorlib.ops._reduction import _F32, _F64, _converted, add_reduce, extremum_reduce


def _dtype(name: str, input: Any, dtype: Any) -> np.dtype[Any]:
    if dtype is None and (input.dtype is _F32 or input.dtype is _F64):
        return input.dtype  # type: ignore[no-any-return]
    return FLOAT_ONLY(name, [input], {"dtype": dtype})[1]


def _spec(name: str) -> Callable[..., Any]:
    def spec(input: Any, dim: int, dtype: Any) -> Any:
        return input.shape, _dtype(name, input, dtype)

    return spec


def _kernel(log: bool) -> Callable[..., None]:
    def kernel(out: Any, input: Any, dim: int, dtype: Any) -> None:
        kernels.softmax(out, input, dim, log)

    return kernel


def _shifted(input: np.ndarray, dim: int) -> np.ndarray:
    """input minus its maximum, in memory of its own."""
    if not input.shape[dim]:
        return input.copy()
    return np.subtract(input, extremum_reduce(input, (dim,), True, np.maximum, np.argmax), order="C")


_SAMPLES = each(
    draw((3, 4), dim=1), draw((3, 4), dim=0), draw((2, 3, 5), dim=-2), draw((1,), dim=0), draw((), dim=0),
    draw((3, 0), dim=1), draw((0, 3), dim=1), draw(transposed(5, 6), dim=1), draw(strided(3, 7), dim=1),
    draw((2, 130, 3), dim=1),
    draw((2, 9000), dim=1), draw((200, 3), dim=0), draw((300, 7), dim=1),
    draw((5, 64), dim=1, dtype=np.dtype(np.float64)),
    draw(values([[1.0, float("-inf"), 80], [float("-inf")] * 3, [float("inf"), 1, 2], [float("nan"), 1, 2]]), dim=1),
)  # fmt: skip
_ERRORS = [
    fails((3, 4), dim=2, match="out of range", error=DimError),
    fails(ints(3, 4), dim=0, match="floating-point", error=DtypeError),
]
_BENCH = [draw((4096, 1024), dim=1), draw((1024, 50304), dim=1)]


def _grad_spec(grad: Any, output: Any, dim: int) -> Any:
    return output.shape, output.dtype


_GRADS = each(
    draw((3, 4), (3, 4), dim=1), draw((3, 4), (3, 4), dim=0), draw(transposed(5, 6), (5, 6), dim=1),
    draw((2, 0), (2, 0), dim=1),
    draw((2, 9000), (2, 9000), dim=1), draw((200, 3), (200, 3), dim=0), draw((300, 7), strided(300, 7), dim=1),
)  # fmt: skip


@op(
    spec=_grad_spec,
    kernel=lambda to, g, y, dim: kernels.softmax_grad(to, g, y, dim, False),
    promote=PROMOTE.over("grad", "output"),
    vjp=dict(
        # out = (grad - Σ grad y) y with y the softmax: linear in grad, and of y both ways.
        grad=lambda g, output, dim: (g - (g * output).sum(dim, True)) * output,
        output=lambda g, grad, output, dim: (
            g * (grad - (grad * output).sum(dim, True)) - grad * (g * output).sum(dim, True)
        ),
    ),
    on="",
    samples=_GRADS,
)
@in_row_blocks
def softmax_grad(grad: Array, output: Array, dim: Dim):
    """(grad - Σ grad · output) · output along ``dim``: the gradient of softmax from its output."""
    if dim == output.ndim - 1:
        total = np.vecdot(grad, output)[..., None]
    else:
        total = add_reduce(np.multiply(grad, output), (dim,), True)
    out = np.subtract(grad, total)
    return np.multiply(out, output, out=out)


@op(
    spec=_grad_spec,
    kernel=lambda to, g, y, dim: kernels.softmax_grad(to, g, y, dim, True),
    promote=PROMOTE.over("grad", "output"),
    vjp=dict(
        grad=lambda g, output, dim: g - (g * output.exp()).sum(dim, True),
        output=lambda g, grad, output, dim: -(g * output.exp() * grad.sum(dim, True)),
    ),
    on="",
    samples=_GRADS,
)
@in_row_blocks
def log_softmax_grad(grad: Array, output: Array, dim: Dim):
    """grad - exp(output) · Σ grad along ``dim``: the gradient of log_softmax from its output."""
    e = np.exp(output)
    e *= add_reduce(grad, (dim,), True)
    return np.subtract(grad, e, out=e)


@in_row_blocks
def _softmax(input: np.ndarray, dim: int, dtype: Any = None) -> np.ndarray:
    """exp(input) / Σ exp(input)."""
    e = _shifted(_converted(input, _dtype("softmax", input, dtype)), dim)
    np.exp(e, out=e)
    total = add_reduce(e, (dim,), True)
    return np.multiply(e, np.reciprocal(total, out=total), out=e)


@in_row_blocks
def _log_softmax(input: np.ndarray, dim: int, dtype: Any = None) -> np.ndarray:
    """input - log Σ exp(input)."""
    x = _shifted(_converted(input, _dtype("log_softmax", input, dtype)), dim)
    total = add_reduce(np.exp(x), (dim,), True)
    return np.subtract(x, np.log(total, out=total), out=x)


@op(
    spec=_spec("softmax"),
    kernel=_kernel(False),
    promote=PROMOTE,
    vjp=lambda g, out, dim: softmax_grad(g, out, dim),
    on="function method",
    alias=("special.softmax",),
    samples=_SAMPLES,
    errors=_ERRORS,
    bench=_BENCH,
    bytes=lambda input, dim: 2 * input.nbytes,
)
def softmax(input: Array, dim: Dim, dtype: Any = None):
    """exp(input) / Σ exp(input) along ``dim``, without overflow. Any shape -> the same.

    Floating point; half types compute in float32 and are rounded once; with ``dtype`` the input is converted to it
    first. A row of -inf alone is NaN. DimError for a dim out of range, DtypeError for integers without ``dtype``.
    Milakov & Gimelshein 2018.
    """
    found = few.softmax(input, dim) if dtype is None else None
    return _softmax(input, dim=dim, dtype=dtype) if found is None else found


@op(
    spec=_spec("log_softmax"),
    kernel=_kernel(True),
    promote=PROMOTE,
    vjp=lambda g, out, dim: log_softmax_grad(g, out, dim),
    on="function method",
    alias=("special.log_softmax",),
    samples=_SAMPLES,
    errors=_ERRORS,
    bench=_BENCH,
    bytes=lambda input, dim: 2 * input.nbytes,
)
def log_softmax(input: Array, dim: Dim, dtype: Any = None):
    """input - log Σ exp(input) along ``dim``, without overflow. Any shape -> the same.

    Floating point; half types compute in float32 and are rounded once; with ``dtype`` the input is converted to it
    first. A row of -inf alone is NaN. DimError for a dim out of range, DtypeError for integers without ``dtype``.
    """
    found = few.log_softmax(input, dim) if dtype is None else None
    return _log_softmax(input, dim=dim, dtype=dtype) if found is None else found


# ----------------------------------------------------------------------------- nn.functional: dim may be left out


def _implicit(name: str, dim: int | None, ndim: int, stacklevel: int) -> int:
    """The dim, or PyTorch's implicit one, of which it warns: 0 for 0-D, 1-D and 3-D inputs, 1 otherwise."""
    if dim is None:
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. "
            "Change the call to include dim=X as an argument.",
            stacklevel=outside(),
        )
        return 0 if ndim in (0, 1, 3) else 1
    return dim


_CALLS = each(draw((3, 4), 1), draw((3, 4), dim=0), draw((3,), -1), draw((2, 3), 0, 3, None))


@composite(on="functional", alias=("functional.softmax",), samples=_CALLS)
def _softmax_of(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(input) / Σ exp(input) along ``dim``: ``tensorlib.softmax``, with an implicit dim and a warning for None."""
    return softmax(input, _implicit("softmax", dim, input.ndim, _stacklevel) if dim is None else dim, dtype)


@composite(on="functional", alias=("functional.log_softmax",), samples=_CALLS)
def _log_softmax_of(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """input - log Σ exp(input) along ``dim``: ``tensorlib.log_softmax``; an implicit dim and a warning for None."""
    return log_softmax(input, _implicit("log_softmax", dim, input.ndim, _stacklevel) if dim is None else dim, dtype)


@composite(on="functional", samples=_CALLS)
def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-input) along ``dim``; an implicit dim and a warning for None."""
    return softmax(-input, _implicit("softmin", dim, input.ndim, _stacklevel) if dim is None else dim, dtype)  # type: ignore[operator]
