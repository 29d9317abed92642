"""Norms of vectors: of all elements, or over some dims."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import PROMOTE, category
from tensorlib._samples import distinct, draw, each, fails, ints, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import reduction as kernels
from tensorlib.op import Array, Dims, composite, op
from tensorlib.ops._reduction import _converted, _floating, add_reduce, count, kept, reduced_shape, square_sums

_F32, _F64 = (np.dtype(t) for t in (np.float32, np.float64))


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
