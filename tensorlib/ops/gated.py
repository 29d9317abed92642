"""Gated linear units of transformers: activation(input) · other, and both gradients, in one kernel each."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import FLOAT_ONLY
from tensorlib._samples import draw, each, strided, transposed
from tensorlib.errors import ArgumentError
from tensorlib.kernels import gated as kernels
from tensorlib.op import Array, composite, op, pointwise
from tensorlib.ops._pointwise_numpy import in_blocks
from tensorlib.ops._pointwise_numpy import sigmoid as _sigmoid_numpy
from tensorlib.ops.activation import (
    _gelu,
    _gelu_composite,
    _gelu_grad_scalar,
    _gelu_scalar,
    _silu_grad_scalar,
    _silu_scalar,
    gelu_grad,
)
from tensorlib.runtime.compiler import Jit, jit

_gelu_numpy, _gelu_grad_numpy = (made.op.reference for made in (_gelu, gelu_grad))  # type: ignore[attr-defined]
_CHUNK = 1 << 14  # elements at a time: their work arrays stay in the first two caches


@jit
def _gelu_exact(x):
    return _gelu_scalar(x, False)


@jit
def _gelu_exact_grad(g, x):
    return _gelu_grad_scalar(g, x, False)


@jit
def _gelu_tangent(x):
    return _gelu_scalar(x, True)


@jit
def _gelu_tangent_grad(g, x):
    return _gelu_grad_scalar(g, x, True)


@jit
def _swiglu_scalar(x, y):
    return _silu_scalar(x) * y


@jit
def _geglu_scalar(x, y, tangent):
    return _gelu_scalar(x, tangent) * y


def _tensor(input: Any, other: Any) -> Any:
    """The input, as a tensor where a number was given for it."""
    return input if isinstance(input, Tensor) else other.new_full((), input)


def _both_in_blocks(f: Callable[..., Any]) -> Callable[..., Any]:
    """The body some elements at a time, where operands lie as the results do: its steps then stay in the cache."""

    @wraps(f)
    def run(grad: np.ndarray, *operands: np.ndarray, **attrs: Any) -> Any:
        given = grad, *operands
        if grad.size <= _CHUNK or any(a.shape != grad.shape or not a.flags.c_contiguous for a in given):
            return f(*given, **attrs)
        made = np.empty(grad.shape, grad.dtype), np.empty(grad.shape, grad.dtype)
        flat = [a.reshape(-1) for a in (*given, *made)]
        for i in range(0, grad.size, _CHUNK):
            *part, to_input, to_other = (a[i : i + _CHUNK] for a in flat)
            to_input[...], to_other[...] = f(*part, **attrs)
        return made

    return run


def _grad_spec(grad: Any, input: Any, other: Any, **_: Any) -> Any:
    return [(grad.shape, grad.dtype)] * 2


def _grad_kernel(name: str) -> Callable[..., None]:
    functions: dict[Any, tuple[Jit, Jit]] = {
        "silu": (_silu_scalar, _silu_grad_scalar), False: (_gelu_exact, _gelu_exact_grad),
        True: (_gelu_tangent, _gelu_tangent_grad),
    }  # fmt: skip

    def kernel(dx: Any, dy: Any, grad: Any, input: Any, other: Any, tangent: Any = name) -> None:
        kernels.gated_grad(dx, dy, grad, input, other, *functions[tangent])

    return kernel


@op(
    spec=_grad_spec,
    kernel=_grad_kernel("silu"),
    promote=FLOAT_ONLY,
    outputs=("input", "other"),
    on="",
    samples=each(draw((3, 4), (3, 4), (3, 4)), draw((40, 33), transposed(40, 33), strided(40, 33)),
                 draw((2, 3, 700), (2, 3, 700), (700,)), draw((0, 3), (0, 3), (0, 3)), draw((3000,), (3000,), (3000,))),
    bytes=lambda grad, input, other: 5 * grad.nbytes,
)  # fmt: skip
@_both_in_blocks
def swiglu_grad(grad: Array, input: Array, other: Array):
    """The gradients of swiglu for input and other, of grad's shape."""
    s = _sigmoid_numpy(input)
    slope = np.subtract(1, s)
    slope *= input
    slope += 1
    slope *= s
    s *= input
    return grad * (slope * other), grad * s


@pointwise(
    _swiglu_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, other: swiglu_grad(g, input, other),
    composite=lambda input, other: _tensor(input, other) * _tensor(input, other).sigmoid() * other,
    on="functional",
    samples=each(
        draw((3, 4), (3, 4)), draw(transposed(40, 33), (40, 33)), draw((2, 3, 700), (700,)),
        draw(strided(5, 9), strided(5, 9)), draw((), ()), draw((0, 3), (0, 3)), draw((1, 4), (3, 1)),
    ),
    bench=[draw((8192, 8192), (8192, 8192))],
)  # fmt: skip
@in_blocks
def swiglu(input: Array, other: Array):
    """silu(input) · other = input / (1 + e^-input) · other, elementwise: the gate first. An extension beyond PyTorch.

    Shapes broadcast; half types compute in float32 and are rounded once. The halves of one product are
    ``swiglu(*h.chunk(2, -1))``, and are not copied. Shazeer 2020, eq. 6.
    """
    s = _sigmoid_numpy(input)
    s *= input
    return np.multiply(s, other, out=s if s.shape == np.broadcast_shapes(s.shape, other.shape) else None)


@op(
    spec=_grad_spec,
    kernel=_grad_kernel("gelu"),
    promote=FLOAT_ONLY,
    outputs=("input", "other"),
    on="",
    samples=each(
        draw((3, 4), (3, 4), (3, 4), tangent=False), draw((40, 33), transposed(40, 33), (33,), tangent=True),
        draw((2, 3, 700), (2, 3, 700), (700,), tangent=False), draw((3000,), (3000,), (3000,), tangent=True),
    ),
    bytes=lambda grad, input, other, tangent: 5 * grad.nbytes,
)  # fmt: skip
@_both_in_blocks
def geglu_grad(grad: Array, input: Array, other: Array, tangent: bool):
    """The gradients of geglu for input and other, of grad's shape."""
    x = np.broadcast_to(input, grad.shape).copy()
    return _gelu_grad_numpy(grad * other, x, tangent=tangent), grad * _gelu_numpy(x, tangent=tangent)


@pointwise(
    _geglu_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, other, tangent: geglu_grad(g, input, other, tangent),
    composite=lambda input, other, tangent: _gelu_composite(_tensor(input, other), tangent) * other,
    domain={"input": (-1.5, 8.0)},  # below, 1 + erf cancels: right to gelu's size near 0, not to its own
    on="",
    samples=each(
        draw((3, 4), (3, 4), tangent=False), draw(transposed(40, 33), (40, 33), tangent=True),
        draw((2, 3, 700), (700,), tangent=False), draw((1, 4), (3, 1), tangent=True),
    ),
)  # fmt: skip
def _geglu(input: Array, other: Array, tangent: bool):
    """gelu(input) · other, exactly or by tanh."""
    return np.multiply(_gelu_numpy(input, tangent=tangent), other)


@composite(
    on="functional",
    samples=each(draw((3, 4), (3, 4)), draw((2, 3, 7), (7,), "tanh"), draw((3, 1), (1, 4), approximate="none")),
)
def geglu(input: Tensor, other: Tensor, approximate: str = "none") -> Tensor:
    """gelu(input) · other, elementwise: the gate first; ``approximate`` as in ``gelu``. An extension beyond PyTorch.

    Shapes broadcast; half types compute in float32 and are rounded once. The halves of one product are
    ``geglu(*h.chunk(2, -1))``, and are not copied. Shazeer 2020, eq. 6. ArgumentError for another approximation.
    """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"geglu: approximate argument must be either 'none' or 'tanh', got {approximate!r}")
    return _geglu(input, other, approximate == "tanh")  # type: ignore[no-any-return]
