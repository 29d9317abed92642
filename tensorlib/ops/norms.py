"""Norms of vectors and matrices, and what is made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import wrap_dim
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import PROMOTE, category, real_of
from tensorlib._samples import distinct, draw, each, fails, ints, regular, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import reduction as kernels
from tensorlib.op import Array, Dims, composite, op, registry
from tensorlib.ops._linalg import floating
from tensorlib.ops._out import takes_out
from tensorlib.ops._reduction import _converted, _floating, add_reduce, count, kept, reduced_shape, square_sums
from tensorlib.ops.decompositions import linalg_svdvals
from tensorlib.ops.solvers import linalg_inv_ex


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
    return shape, real_of(_floating("linalg.vector_norm", x, dtype))


def _norm_kernel(out: Any, x: Any, ord: Any, dim: Any, keepdim: bool, dtype: Any) -> None:
    kernels.reduce([out], [x], dim, kernels.norm(ord), [kernels.compute_dtype(out.dtype)], arg=ord)


def _norm_vjp(g: Tensor, input: Any, out: Any, ord: Any, dim: Any, keepdim: bool) -> Any:
    """As in PyTorch: 0 where the norm is 0; for the largest (smallest) magnitude divided evenly among equal ones."""
    x = input
    shape = x._array.shape
    norm, g = kept(out, shape, dim, keepdim), kept(g, shape, dim, keepdim)
    divisor = norm.masked_fill(norm == 0, math.inf) if 1 < ord < math.inf else norm  # g / inf has derivatives of 0 too
    if norm.dtype != x.dtype and not x.is_complex():
        x = x.to(norm.dtype)
    if ord == 0:
        return (x * 0) * g
    if ord == 1:
        return x.sgn() * g
    if ord == 2:
        return x * (g / divisor)
    if math.isinf(ord):
        size = x.abs()
        chosen = (size == norm) | (size.isnan() & norm.isnan())
        return x.sgn() * (chosen * (g / chosen.sum(dim, True)))
    if ord < 1:
        return (x.sgn() * x.abs().pow(ord - 1)).masked_fill(x == 0, 0) * g * norm.pow(1 - ord)
    scale = g / divisor.pow(ord - 1)
    if ord < 2:
        return (x.sgn() * x.abs().pow(ord - 1)) * scale
    return x * x.abs().pow(ord - 2) * scale


@op(
    spec=_norm_spec,
    kernel=_norm_kernel,
    promote=PROMOTE,
    complex="own",
    vjp=_norm_vjp,
    on="function",
    alias=("linalg.vector_norm",),
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
    bytes=lambda input: input.nbytes,
)  # fmt: skip
def vector_norm(input: Array, ord: Any = 2, dim: Dims = None, keepdim: Any = False, *, dtype: Any = None):
    """(Σ |input|**ord)**(1/ord) over ``dim``; inf and -inf: the largest and smallest |input|; 0: how many are not 0.

    Floating point; half types accumulate in float32. DtypeError for integers without ``dtype``.
    """
    x = _converted(input, _floating("linalg.vector_norm", input, dtype))
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


# ------------------------------------------------------------------------------------------------------ of matrices


def _pair(name: str, dim: Any, ndim: int) -> tuple[int, int]:
    """The dimensions of the matrices."""
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if len(dims) != 2:
        raise ShapeError(f"{name}: dim must be a 2-tuple. Got {' '.join(map(str, dims))}")
    first, second = (wrap_dim(name, d, ndim) for d in dims)
    if first == second:
        raise ShapeError(f"{name}: dims must be different. Got ({dims[0]}, {dims[1]})")
    return first, second


def _of_singular_values(x: Any, dims: tuple[int, int], keepdim: bool, reduce: Any) -> Any:
    """``reduce`` of the singular values of the matrices in two dimensions."""
    rest = [d for d in range(x.ndim) if d not in dims]
    s = linalg_svdvals(x.permute([*rest, *dims]))
    out = reduce(s)
    for d in sorted(dims) if keepdim else ():
        out = out.unsqueeze(d)
    return out


def _extremum(t: Any, largest: bool, dim: int, keepdim: bool) -> Any:
    """The largest or smallest of numbers that are not negative; the largest of none is 0."""
    if not largest:
        return t.amin(dim, keepdim)
    return t.amax(dim, keepdim) if t._array.shape[dim] else t.sum(dim, keepdim)


@composite(on="linalg", samples=each(
    draw((3, 4)), draw((2, 3, 4), "nuc"), draw(distinct(3, 4), 1), draw(distinct(3, 4), float("inf"), keepdim=True),
    draw(distinct(2, 3, 4), -1, (0, 2)), draw(distinct(3, 4), float("-inf")), draw((2, 3, 4), 2),
    draw((3, 3), -2, (1, 0)),
))  # fmt: skip
@takes_out
def linalg_matrix_norm(
    input: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """input norm of matrices. "fro": √Σ |a|²; "nuc": the sum of the singular values; 2, -2: the largest, the smallest;
    1, -1: the largest, smallest sum of a column's magnitudes; inf, -inf: of a row's.

    (…, m, n) -> (…), the matrices in the dimensions ``dim``. Floating point or complex.
    """
    x: Any = input
    name = "linalg.matrix_norm"
    if ord not in ("fro", "nuc") and (isinstance(ord, str) or abs(ord) not in (1, 2, math.inf)):
        raise ArgumentError(f"{name}: Order {ord} not supported.")
    if x.ndim < 2:
        raise ShapeError(f"{name}: The input tensor A must have at least 2 dimensions, got shape {tuple(x.shape)}")
    dims = _pair(name, dim, x.ndim)
    if ord == "fro":
        return vector_norm(x, 2, dims, keepdim, dtype=dtype)  # type: ignore[no-any-return]
    floating(name, x._array if dtype is None else x.to(dtype)._array, half=not (ord == "nuc" or abs(ord) == 2))
    if dtype is not None:
        x = x.to(dtype)
    if ord == "nuc":
        return _of_singular_values(x, dims, keepdim, lambda s: s.sum(-1))  # type: ignore[no-any-return]
    if abs(ord) == 2:
        return _of_singular_values(x, dims, keepdim, lambda s: _extremum(s, ord > 0, -1, False))  # type: ignore[no-any-return]
    summed, other = dims if abs(ord) == 1 else dims[::-1]
    sums = vector_norm(x, 1, summed, keepdim)
    return _extremum(sums, ord > 0, other - (not keepdim and other > summed), keepdim)  # type: ignore[no-any-return]


@composite(on="linalg", samples=each(
    draw((2, 3)), draw((3,), 3), draw(distinct(2, 3), 1), draw((2, 3), dim=1), draw((2, 3, 4), "nuc", (0, 2)),
    draw((2, 3, 4), dim=(0, 1), keepdim=True), draw((2, 3), "fro"), draw(distinct(2, 3), float("inf"), 0),
))  # fmt: skip
@takes_out
def linalg_norm(
    input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """A norm of vectors or matrices: of vectors for one dimension, of matrices for two. Without ``ord`` √Σ |input|².

    ``dim`` None: all elements without ``ord``, and with it the one vector or matrix. ``linalg.vector_norm``,
    ``linalg.matrix_norm``.
    """
    x: Any = input
    if ord is None:
        return vector_norm(x, 2, dim, keepdim, dtype=dtype)  # type: ignore[no-any-return]
    if dim is None:
        if x.ndim not in (1, 2):
            raise ShapeError(
                f"linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {x.ndim}D."
            )
        dim = (0, 1) if x.ndim == 2 or isinstance(ord, str) else (0,)
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if isinstance(ord, str) or len(dims) == 2:
        return linalg_matrix_norm(x, ord, dims, keepdim, dtype=dtype)
    if len(dims) != 1:
        raise ShapeError(f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got {list(dims)}")
    return vector_norm(x, ord, dims, keepdim, dtype=dtype)  # type: ignore[no-any-return]


@composite(samples=each(
    draw((3, 4)), draw((3, 4), 1), draw((3, 4), 2, 1), draw((2, 3, 4), p=3, dim=(0, 2), keepdim=True),
    draw(distinct(3, 4), float("inf"), 0), draw((3, 4), "nuc"), draw((2, 3, 4), "nuc", (0, 2)),
    draw((3, 4), "fro", (0, 1)),
))  # fmt: skip
def norm(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None
) -> Tensor:
    """(Σ |input|**p)**(1/p) over ``dim``, all elements for None: ``linalg.vector_norm``. "fro" is p = 2.

    "nuc": the sum of the singular values of the matrices in two dimensions.
    """
    if not isinstance(p, str):
        return vector_norm(input, 2 if p is None else p, dim, keepdim, dtype=dtype, out=out)  # type: ignore[no-any-return]
    if p not in ("fro", "nuc"):
        raise ArgumentError(f"norm: only valid string values are 'fro' and 'nuc', found {p}")
    if p == "fro" and (dim is None or isinstance(dim, int) or len(dim) <= 2):
        return vector_norm(input, 2, dim, keepdim, dtype=dtype, out=out)  # type: ignore[no-any-return]
    dims = tuple(range(input.ndim)) if dim is None else dim
    return linalg_matrix_norm(input, p, dims, keepdim, dtype=dtype, out=out)  # type: ignore[call-arg]


@composite(on="function", samples=each(draw((3, 4)), draw((3, 4), True), draw((2, 3, 4), (0, 2))))
@takes_out
def nuclear_norm(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The sum of the singular values of a matrix, or of the matrices in two dimensions."""
    if isinstance(dim, bool):
        dim, keepdim = None, dim
    return linalg_matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim)


@composite(on="linalg", samples=each(
    draw((3, 3)), draw((2, 4, 3)), draw(regular(3, 3), "fro"), draw(regular(2, 3, 3), 1), draw(regular(3, 3), "nuc"),
    draw((3, 3), -2),
))  # fmt: skip
@takes_out
def linalg_cond(input: Tensor, p: Any = None) -> Tensor:
    """The condition number ‖input‖ ‖input^-1‖ in a norm of ``linalg.matrix_norm``: (…, n, n) -> (…), inf if singular.

    For p None, 2 and -2 by singular values, and then also for (…, m, n).
    """
    x: Any = input
    if x.ndim < 2:
        raise ShapeError(f"linalg.cond: The input tensor A must have at least 2 dimensions, got {tuple(x.shape)}")
    if p is None or p in (2, -2):
        if not x.numel():
            return x.new_zeros(x.shape[:-2], dtype=x.abs().dtype)  # type: ignore[no-any-return]
        s = linalg_svdvals(x)
        largest, smallest = s[..., 0], s[..., -1]
        return smallest / largest if p == -2 else largest / smallest  # type: ignore[no-any-return]
    if p not in ("fro", "nuc", 1, -1, math.inf, -math.inf):
        raise ArgumentError(f"linalg.cond: linalg.cond got an invalid norm type: {p}")
    if x.shape[-1] != x.shape[-2]:
        raise ShapeError(
            f"linalg.cond: A must be batches of square matrices, but they are {x.shape[-2]} by {x.shape[-1]} matrices"
        )
    if not x.numel():
        return x.new_zeros(x.shape[:-2], dtype=x.abs().dtype)  # type: ignore[no-any-return]
    inverse, info = linalg_inv_ex(x)
    inverse = inverse.masked_fill((info > 0).unsqueeze(-1).unsqueeze(-1), math.inf)
    found: Any = linalg_matrix_norm(x, p) * linalg_matrix_norm(inverse, p)  # type: ignore[operator]
    return found.masked_fill(found.isnan(), math.inf)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- made of vector norms


@composite(samples=each(draw((3, 4), (3, 4)), draw((3, 1), (4,), 1), draw((5,), (5,), p=float("inf")), draw((), ())))
@takes_out
def dist(input: Tensor, other: Tensor, p: Any = 2) -> Tensor:
    """(Σ |input - other|**p)**(1/p), the two broadcast against each other. DtypeError for integers."""
    return norm(input - other, p)  # type: ignore[operator, no-any-return]


@composite(
    inplace=True, samples=each(draw((3, 4), 2, 0, 1.0), draw((2, 3, 4), 1, 1, 2.5), draw((3, 4), 3.0, -1, 100.0))
)
@takes_out
def renorm(input: Tensor, p: Any, dim: int, maxnorm: Any) -> Tensor:
    """input with each slice of ``dim`` whose p-norm is larger than ``maxnorm`` scaled down to it."""
    x: Any = input
    ndim = x._array.ndim
    if p <= 0:
        raise ArgumentError(f"renorm: non-positive-norm not supported, got p = {p}")
    if maxnorm < 0:
        raise ArgumentError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    if ndim < 2:
        raise ShapeError(f"renorm: input needs at least 2 dimensions, got {ndim} dimensions")
    at = wrap_dim("renorm", dim, ndim)
    others = tuple([d for d in range(ndim) if d != at])
    wide = x.float() if x._array.itemsize == 2 else x
    norms = vector_norm(wide, p, others, True)
    factor = registry["_where"].public(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)
    return (wide * factor).to(x.dtype)  # type: ignore[no-any-return]


@composite(on="function", samples=each(draw((3, 4), 1), draw((3, 4), (0, 1), True)))
@takes_out
def frobenius_norm(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """√(Σ |input|²) over ``dim``, one or two."""
    return vector_norm(input, 2, dim, keepdim)  # type: ignore[no-any-return]


@composite(on="function", samples=each(draw((3, 4)), draw((3, 4), 1, 1), draw((2, 3, 4), 2, -1), draw((3, 4), 3, 0)))
def norm_except_dim(v: Tensor, pow: Any = 2, dim: int = 0) -> Tensor:
    """The p-norm over every dimension but ``dim``, kept as size 1; of all elements for -1. For weight normalisation."""
    if dim == -1:
        return norm(v, pow)  # type: ignore[no-any-return]
    at = wrap_dim("norm_except_dim", dim, v._array.ndim)
    return vector_norm(v, pow, tuple([d for d in range(v._array.ndim) if d != at]), True)  # type: ignore[no-any-return]
