"""Triangles and diagonals of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, wrap
from tensorlib._dispatch import wrap_dim
from tensorlib._samples import draw, each, fails, transposed
from tensorlib.errors import ArgumentError, DimError, ShapeError
from tensorlib.kernels import indexing
from tensorlib.kernels import triangles as kernels
from tensorlib.op import Array, Dim, Ints, composite, op, view
from tensorlib.ops import create
from tensorlib.ops._out import takes_out


def _triangle_spec(name: str) -> Any:
    def spec(input: Any, diagonal: int) -> Any:
        if input.ndim < 2:
            raise ShapeError(f"{name}: input tensor must have at least 2 dimensions, got shape {tuple(input.shape)}")
        return input.shape, input.dtype

    return spec


_TRIANGLES = each(
    draw((3, 4)), draw((4, 3), diagonal=1), draw((2, 3, 3), diagonal=-1), draw(transposed(5, 4)), draw((0, 3)),
    draw((2, 1, 40, 40)), draw((3, 3), diagonal=-9),
)  # fmt: skip


@op(
    bench=[draw((4096, 4096))],
    spec=_triangle_spec("tril"),
    kernel=kernels.tril,
    vjp=lambda g, diagonal: tril(g, diagonal),
    inplace=True,
    samples=_TRIANGLES,
    errors=[fails((3,), match="at least 2 dimensions")],
)
def tril(input: Array, diagonal: int = 0):
    """input where column - row <= ``diagonal``, 0 elsewhere, for each of a batch of matrices."""
    return np.tril(input, diagonal)


@op(
    bench=[draw((4096, 4096))],
    spec=_triangle_spec("triu"),
    kernel=kernels.triu,
    vjp=lambda g, diagonal: triu(g, diagonal),
    inplace=True,
    samples=_TRIANGLES,
    errors=[fails((3,), match="at least 2 dimensions")],
)
def triu(input: Array, diagonal: int = 0):
    """input where column - row >= ``diagonal``, 0 elsewhere, for each of a batch of matrices."""
    return np.triu(input, diagonal)


def _triangle_indices(found: Any, dtype: Any, device: Any) -> Tensor:
    kind = create.numpy_dtype(dtype, np.dtype(np.int64))
    return wrap(np.stack(found).astype(kind)).to(create.device_of(device))


def _not_negative(name: str, row: int, col: int) -> None:
    for what, n in (("row", row), ("col", col)):
        if n < 0:
            raise ArgumentError(f"{name}: {what} must be non-negative, got {n}")


@composite(on="function", samples=each(draw(3, 4), draw(4, 3, offset=1)))
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None,
    pin_memory: bool = False, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Rows and columns of the elements of a lower triangle, row by row: (2, n)."""
    _not_negative("tril_indices", row, col)
    made = _triangle_indices(np.tril_indices(row, offset, col), dtype, device)
    return create._finish(made, requires_grad, pin_memory)


@composite(on="function", samples=each(draw(3, 4), draw(4, 3, offset=-1)))
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None,
    pin_memory: bool = False, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Rows and columns of the elements of an upper triangle, row by row: (2, n)."""
    _not_negative("triu_indices", row, col)
    made = _triangle_indices(np.triu_indices(row, offset, col), dtype, device)
    return create._finish(made, requires_grad, pin_memory)


def _diagonal_layout(input: Any, offset: int, dim1: int, dim2: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(shape, strides, offset) of a diagonal."""
    if dim1 == dim2:
        raise ShapeError(f"diagonal: diagonal dimensions cannot be identical {dim1}, {dim2}")
    strides = _array.strides_of(input)
    n1, n2 = input.shape[dim1], input.shape[dim2]
    n = max(min(n1, n2 - offset) if offset >= 0 else min(n1 + offset, n2), 0)
    start = 0 if n == 0 else offset * strides[dim2] if offset >= 0 else -offset * strides[dim1]
    rest = [d for d in range(input.ndim) if d not in (dim1, dim2)]
    shape = (*[input.shape[d] for d in rest], n)
    return shape, (*[strides[d] for d in rest], strides[dim1] + strides[dim2]), start


@view(
    vjp=lambda g, input_shape, offset, dim1, dim2: _diagonal_grad(g, input_shape, offset, dim1, dim2),
    samples=each(
        draw((3, 4)), draw((4, 3), offset=1), draw((3, 4), offset=-1), draw((2, 3, 4), offset=0, dim1=-1, dim2=0),
        draw((3, 3), offset=5), draw((0, 2)),
    ),
    errors=[
        fails((3, 4), dim1=1, dim2=1, match="cannot be identical"),
        fails((3,), match="out of range", error=DimError),
    ],
)  # fmt: skip
def diagonal(input: Array, offset: int = 0, dim1: Dim = 0, dim2: Dim = 1):
    """input[..., i, ..., i + offset, ...] over ``dim1`` and ``dim2``, as a new last dimension."""
    return _array.as_strided(input, *_diagonal_layout(input, offset, dim1, dim2))


@op(
    spec=lambda g, shape, offset, dim1, dim2: (shape, g.dtype),
    kernel=indexing.diagonal_grad,
    vjp=lambda g, offset, dim1, dim2: g.diagonal(offset, dim1, dim2),
    on="",
    samples=each(
        draw((3,), shape=(3, 4), offset=0, dim1=0, dim2=1), draw((3, 2), shape=(2, 3, 4), offset=-1, dim1=2, dim2=0)
    ),
)
def _diagonal_grad(g: Array, shape: Ints, offset: int, dim1: int, dim2: int):
    """Zeros of ``shape`` with g on the diagonal: the gradient of a diagonal."""
    out = np.zeros(shape, g.dtype)
    _array.as_strided(out, *_diagonal_layout(out, offset, dim1, dim2))[...] = g
    return out


@composite(samples=each(draw((2, 3)), draw((2, 3), 1, 0, 2)))
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Zeros with the last dimension of input on the diagonal of the new dimensions ``dim1`` and ``dim2``."""
    x = input._array
    if not x.ndim:
        raise DimError("diag_embed: expected a tensor with at least one dimension")
    first, second = wrap_dim("diag_embed", dim1, x.ndim + 1), wrap_dim("diag_embed", dim2, x.ndim + 1)
    if first == second:
        raise ShapeError(f"diag_embed: diagonal dimensions cannot be identical {dim1}, {dim2}")
    shape = list(x.shape[:-1])
    n = x.shape[-1] + abs(offset)
    for d in sorted((first, second)):
        shape.insert(d, n)
    return _diagonal_grad(input, tuple(shape), offset, first, second)


@composite(samples=each(draw((3, 4)), draw((3, 4), 1), draw((3,)), draw((3,), -2)))
@takes_out
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The matrix with a vector on its diagonal, or the diagonal of a matrix, as a copy."""
    n = input._array.ndim
    if n == 1:
        return diag_embed(input, diagonal)
    if n != 2:
        raise ShapeError(f"diag: Supports 1D or 2D tensors. Got {n}D")
    return input.diagonal(diagonal).clone()


@composite(samples=each(draw((3,)), draw((2, 2), 1), draw((), -1), draw((0,))))
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with the elements of input, in C order, on its diagonal ``offset``."""
    return diag_embed(input.reshape((input._array.size,)), offset)  # type: ignore[attr-defined]
