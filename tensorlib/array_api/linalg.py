"""Linear algebra under the standard's names and semantics."""

from __future__ import annotations

from typing import Any

from tensorlib import linalg, ops
from tensorlib._core import Tensor
from tensorlib.errors import ArgumentError, DimError, ShapeError

from ._data_types import array, sum_dtype, together
from ._manipulation import wrap
from ._statistics import reduced

__all__ = ["cholesky", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh", "inv", "matmul", "matrix_norm",
           "matrix_power", "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd",
           "svdvals", "tensordot", "trace", "vecdot", "vector_norm"]  # fmt: skip


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    """x1 @ x2, in their common dtype: (…, m, k) @ (…, k, n) -> (…, m, n); 1-D as in NumPy."""
    return ops.matmul(*together("matmul", array("matmul", x1), array("matmul", x2)))


def matrix_transpose(x: Tensor, /) -> Tensor:
    """Every matrix transposed: (…, m, n) -> (…, n, m), a view."""
    if array("matrix_transpose", x).ndim < 2:
        raise ArgumentError(f"matrix_transpose: got shape {tuple(x.shape)}: expected at least two dimensions")
    return ops.transpose(x, -2, -1)


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: Any = 2) -> Tensor:
    """Σ over the last ``axes`` dimensions of ``x1`` and the first of ``x2``, or over two sequences of dimensions."""
    one, other = together("tensordot", array("tensordot", x1), array("tensordot", x2))
    return ops.tensordot(one, other, axes if isinstance(axes, int) else [list(a) for a in axes])


def _shared(function: str, x1: Tensor, x2: Tensor, axis: int) -> int:
    """``axis`` counted from the end, where both tensors must have one size; they may lack others in front."""
    ndim = min(x1.ndim, x2.ndim)
    if axis >= 0 and x1.ndim != x2.ndim:
        raise DimError(f"{function}: got axis {axis} of {x1.ndim} and {x2.ndim} dimensions: expected a negative one")
    place = wrap(function, axis, ndim) - ndim
    if x1.shape[place] != x2.shape[place]:
        raise ShapeError(f"{function}: got {tuple(x1.shape)} and {tuple(x2.shape)}: expected one size at axis {axis}")
    return place


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """Σ conj(x1) x2 along ``axis``, counted from the end of both, whose other dimensions broadcast."""
    one, other = together("vecdot", array("vecdot", x1), array("vecdot", x2))
    place = _shared("vecdot", one, other, axis)
    if one.dtype.kind in ("float", "complex"):
        return linalg.vecdot(one, other, dim=place)
    return ops.sum(one * other, place, dtype=one.dtype)


def cholesky(x: Tensor, /, *, upper: bool = False) -> Tensor:
    """L with x = L Lᴴ, or U with x = Uᴴ U (``upper``). LinAlgError where ``x`` is not positive definite."""
    return linalg.cholesky(array("cholesky", x), upper=upper)


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The cross product of vectors of three elements along ``axis``; the other dimensions broadcast."""
    one, other = together("cross", array("cross", x1), array("cross", x2))
    place = _shared("cross", one, other, axis)
    ndim = max(one.ndim, other.ndim)
    return linalg.cross(one[(None,) * (ndim - one.ndim)], other[(None,) * (ndim - other.ndim)], dim=place)


def det(x: Tensor, /) -> Tensor:
    """Determinants: (…, n, n) -> (…)."""
    return linalg.det(array("det", x))


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    """The diagonals ``offset``, counted to the right, of matrices (…, m, n): a view."""
    return linalg.diagonal(array("diagonal", x), offset=offset)


def eig(x: Tensor, /) -> Any:
    """(eigenvalues, eigenvectors) of square matrices, complex, in no order."""
    return linalg.eig(array("eig", x))


def eigvals(x: Tensor, /) -> Tensor:
    """The eigenvalues of square matrices, complex, in no order."""
    return linalg.eigvals(array("eigvals", x))


def eigh(x: Tensor, /) -> Any:
    """(eigenvalues, eigenvectors) of Hermitian matrices, rising; the lower triangle is read."""
    return linalg.eigh(array("eigh", x))


def eigvalsh(x: Tensor, /) -> Tensor:
    """The eigenvalues of Hermitian matrices, rising; the lower triangle is read."""
    return linalg.eigvalsh(array("eigvalsh", x))


def inv(x: Tensor, /) -> Tensor:
    """Inverses of square matrices. LinAlgError where one is singular."""
    return linalg.inv(array("inv", x))


def matrix_norm(x: Tensor, /, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """Norms of matrices: "fro", "nuc", 1, -1, 2, -2, inf or -inf."""
    return linalg.matrix_norm(array("matrix_norm", x), ord, keepdim=keepdims)


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    """Square matrices to the power of an integer, of the inverse where it is negative."""
    return linalg.matrix_power(array("matrix_power", x), n)


def matrix_rank(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """How many singular values exceed ``rtol`` times the largest; max(m, n) eps for None. In int64."""
    return linalg.matrix_rank(array("matrix_rank", x), rtol=rtol)


def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    """x1[i] x2[j] of two vectors."""
    one, other = together("outer", array("outer", x1), array("outer", x2))
    if one.ndim != 1 or other.ndim != 1:
        raise ShapeError(f"outer: got {tuple(one.shape)} and {tuple(other.shape)}: expected two vectors")
    return one.unsqueeze(1) * other


def pinv(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """Moore-Penrose inverses, without the singular values up to ``rtol`` times the largest."""
    return linalg.pinv(array("pinv", x), rtol=rtol)


def qr(x: Tensor, /, *, mode: str = "reduced") -> Any:
    """(Q, R) with x = Q R, "reduced" or "complete"."""
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"qr: got mode={mode!r}: expected 'reduced' or 'complete'")
    return linalg.qr(array("qr", x), mode)


def slogdet(x: Tensor, /) -> Any:
    """(sign, logabsdet) of determinants."""
    return linalg.slogdet(array("slogdet", x))


def solve(x1: Tensor, x2: Tensor, /) -> Tensor:
    """x with x1 @ x = x2. A 1-D ``x2`` is one vector, any other one are matrices, whatever the batch."""
    one, other = together("solve", array("solve", x1), array("solve", x2))
    if other.ndim == 1:
        return linalg.solve(one, other.unsqueeze(1)).squeeze(-1)
    # PyTorch takes (2, 3) for vectors beside (2, 3, 3): with as many dimensions it cannot be mistaken.
    return linalg.solve(one, other[(None,) * max(0, one.ndim - other.ndim)])


def svd(x: Tensor, /, *, full_matrices: bool = True) -> Any:
    """(U, S, Vh) with x = U diag(S) Vh, S falling."""
    return linalg.svd(array("svd", x), full_matrices)


def svdvals(x: Tensor, /) -> Tensor:
    """Singular values, falling."""
    return linalg.svdvals(array("svdvals", x))


def trace(x: Tensor, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """Sums of the diagonals ``offset`` of matrices; dtypes as in ``sum``."""
    return ops.sum(linalg.diagonal(array("trace", x), offset=offset), -1, dtype=sum_dtype(x, dtype))


def vector_norm(x: Tensor, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Tensor:
    """(Σ |x|^ord)^(1/ord) along ``axis``, an int or several, or all; inf and -inf the extremes, 0 counts."""
    x, axes, keep = reduced("vector_norm", x, axis, keepdims)
    return linalg.vector_norm(x, ord, axes, keep)
