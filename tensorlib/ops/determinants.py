"""Determinants, pseudo-inverses and what follows from them. On the CPU, by LAPACK through NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor
from tensorlib._dtypes import bool_, int64
from tensorlib._promotion import FLOATS, real_of
from tensorlib._samples import Draw, draw, each, fails, positive, regular, values, without_gradient
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import Array, composite, op, result_type
from tensorlib.ops import _linalg_numpy as numerics
from tensorlib.ops._linalg import floating, identity, matrices, square
from tensorlib.ops._out import takes_out
from tensorlib.ops.decompositions import converged, interchange, linalg_eigvalsh, linalg_svd, linalg_svdvals
from tensorlib.ops.linalg import _lead, _to_shape, matmul
from tensorlib.ops.selection import _where
from tensorlib.ops.solvers import is_vector, linalg_solve, linalg_solve_triangular

# ---------------------------------------------------------------------------------------------------------- determinant


def _det_spec(A: Any) -> Any:
    square("linalg.det", A)
    return A.shape[:-2], A.dtype


def _cofactors(A: Any, g: Any) -> Any:
    """g times the conjugate of the cofactors of A, by its singular values: those of rank n - 1 are not 0."""
    u, s, vh = linalg_svd(A)
    n = A._array.shape[-1]
    others = _where(s.new_tensor(np.eye(n), dtype=bool_), s.new_ones(()), s.unsqueeze(-2)).prod(-1)
    scale = (linalg_det(u) * linalg_det(vh)).conj() * g
    return matmul(u * (scale.unsqueeze(-1) * others).unsqueeze(-2), vh)


def _det_vjp(g: Any, A: Any, out: Any) -> Any:
    """G with A^H G = conj(det) g I; of singular matrices the cofactors."""
    n = A._array.shape[-1]
    if not n or not A._array.size:
        return A * 0
    singular = _array.numbers(out._array) == 0
    if singular.all():
        return _cofactors(A, g)
    scale = (g * out.conj()).unsqueeze(-1).unsqueeze(-1)
    if not singular.any():
        return linalg_solve(A.mH, scale * identity(n, A))
    which = (out == 0).unsqueeze(-1).unsqueeze(-1)
    regular = linalg_solve(_where(which, identity(n, A), A).mH, scale * identity(n, A))
    return _where(which, _cofactors(A, g), regular)


@op(
    spec=_det_spec,
    promote=FLOATS,
    complex="own",
    vjp=_det_vjp,
    on="linalg",
    samples=each(
        draw((3, 3)), draw((2, 3, 3)), draw((1, 1)), draw((0, 3, 3)), draw((0, 0)), draw((2, 1, 2, 2)),
    ),
    errors=[
        fails((2, 3), match="square matrices, but they are 2 by 3", error=ShapeError),
        fails((3,), match="at least 2 dimensions", error=ShapeError),
    ],
)  # fmt: skip
def linalg_det(A: Array):
    """det A: (…, n, n) -> (…), by LU; 1 for n = 0. float32, float64, complex."""
    return numerics.det(A)


def _slogdet_spec(A: Any) -> Any:
    square("linalg.slogdet", A)
    return [(A.shape[:-2], A.dtype), (A.shape[:-2], real_of(A.dtype))]


def _slogdet_vjp(g_sign: Any, g_logabsdet: Any, A: Any, sign: Any) -> Any:
    """G with A^H G = (g_logabsdet + the turning of the sign) I."""
    n = A._array.shape[-1]
    if not A._array.size:
        return A * 0
    scale = g_logabsdet
    if A._array.dtype.kind == "c":
        turn = g_sign.conj() * sign
        scale = scale + 0.5 * (turn.conj() - turn)
    return linalg_solve(A.mH, scale.unsqueeze(-1).unsqueeze(-1) * identity(n, A))


@op(
    spec=_slogdet_spec,
    promote=FLOATS,
    complex="own",
    outputs=("sign", "logabsdet"),
    vjp=_slogdet_vjp,
    on="linalg",
    samples=each(draw((3, 3)), draw((2, 3, 3)), draw((1, 1)), draw((0, 3, 3)), draw((0, 0))),
    errors=[fails((2, 3), match="square matrices", error=ShapeError)],
)
def linalg_slogdet(A: Array):
    """(sign, log |det A|) with det A = sign e^logabsdet: (…, n, n) -> (…). (0, -inf) for singular matrices."""
    return numerics.slogdet(A)


@composite(samples=each(draw((3, 3)), draw((2, 3, 3))))
@takes_out
def det(input: Tensor) -> Tensor:
    """The determinant: ``linalg.det``."""
    return linalg_det(input)  # type: ignore[no-any-return]


@composite(samples=each(draw((3, 3)), draw((2, 3, 3))))
@takes_out
def slogdet(input: Tensor) -> Any:
    """(sign, log |det input|): ``linalg.slogdet``."""
    return linalg_slogdet(input)


@composite(samples=each(draw(positive(3, 3)), draw(positive(2, 3, 3)), draw((0, 0))))
def logdet(input: Tensor) -> Tensor:
    """log det input: (…, n, n) -> (…); NaN where the determinant is negative, -inf where it is 0."""
    sign, size = linalg_slogdet(input)
    if sign.is_complex():
        return sign.log() + size  # type: ignore[no-any-return]
    return _where(sign == -1, float("nan"), size)


# ---------------------------------------------------------------------------------------------------------- factored LU


@composite(on="linalg", samples=each(
    draw(regular(3, 3), values([2, 3, 3], "int32"), (3, 2)),
    draw(regular(3, 3), values([2, 3, 3], "int32"), (2, 3), left=False),
    draw(regular(3, 3), values([2, 3, 3], "int32"), (2, 3, 2), adjoint=True),
))  # fmt: skip
@takes_out
def linalg_lu_solve(
    LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    """X with A X = B, ``adjoint``: A^H X = B, ``left=False``: X A = B, of A factored by ``linalg.lu_factor``."""
    square("linalg.lu_solve", LU._array, "LU")
    matrices("linalg.lu_solve", B._array, "B")
    if LU.dtype != B.dtype:
        raise DtypeError(
            f"linalg.lu_solve: Expected LU and B to have the same dtype, but found {LU.dtype} and {B.dtype}"
        )
    if pivots.dtype.name != "int32":
        raise DtypeError(f"linalg.lu_solve: pivots should be a Tensor of scalar type torch.int32, got {pivots.dtype}")
    if tuple(pivots.shape) != tuple(LU.shape[:-1]):
        raise ShapeError(
            f"linalg.lu_solve: Number of pivots per batch should be same as the dimension of the matrix: LU "
            f"{tuple(LU.shape)}, pivots {tuple(pivots.shape)}"
        )
    if B.shape[-2 if left else -1] != LU.shape[-1]:
        raise ShapeError(
            f"linalg.lu_solve: Incompatible shapes of A and B for the equation {'AX = B' if left else 'XA = B'} "
            f"({LU.shape[-2]}x{LU.shape[-1]} and {B.shape[-2]}x{B.shape[-1]})"
        )
    lu: Any = LU
    b: Any = B
    if not left:  # X A = B is A^H X^H = B^H
        b, adjoint = b.mH, not adjoint
    if adjoint:
        x = linalg_solve_triangular(lu.mH, b, upper=False)
        x = interchange(linalg_solve_triangular(lu.mH, x, upper=True, unitriangular=True), pivots, True)
    else:
        x = linalg_solve_triangular(lu, interchange(b, pivots, False), upper=False, unitriangular=True)
        x = linalg_solve_triangular(lu, x, upper=True)
    return x if left else x.mH


@composite(samples=each(draw((3, 2), regular(3, 3), values([2, 3, 3], "int32"))))
@takes_out
def lu_solve(input: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """X with A X = input of A factored by ``lu``: ``linalg.lu_solve`` in the order of old programs."""
    return linalg_lu_solve(LU_data, LU_pivots, input)


# ------------------------------------------------------------------------------------------------- rank, pseudo-inverse


def _real(t: Any, like: Any) -> Any:
    """A tolerance as an array that broadcasts over the batch."""
    if isinstance(t, Tensor):
        if t.dtype.is_complex:
            raise DtypeError("linalg: a tolerance of complex numbers: expected real numbers")
        return t._array
    return np.asarray(t, real_of(like.dtype))


def _cutoff(A: Any, s: np.ndarray, atol: Any, rtol: Any) -> np.ndarray:
    """Below it a singular value counts as 0: max(atol, rtol * the largest)."""
    x = A._array
    kind = real_of(x.dtype)
    if rtol is None:
        default = np.asarray(np.finfo(kind).eps * max(x.shape[-2:]), kind)
        rtol = default if atol is None else np.where(_real(atol, x) > 0, 0, default)
    absolute = np.asarray(0 if atol is None else _real(atol, x), kind)
    largest = s.max(axis=-1, initial=0)
    return np.maximum(absolute, np.asarray(_real(rtol, x), kind) * largest).astype(kind, copy=False)


@composite(on="linalg", samples=each(
    draw((3, 4)), draw((2, 3, 3)), draw(positive(3, 3), hermitian=True), draw((3, 4), atol=0.5), draw((3, 4), 0.9),
))  # fmt: skip
@takes_out
def linalg_matrix_rank(
    input: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Tensor:
    """How many singular values are above max(atol, rtol * largest): (…, m, n) -> (…), int64.

    rtol is by default max(m, n) eps, 0 where atol is given; ``tol`` is atol. Tolerances may be tensors, one a matrix.
    """
    matrices("linalg.matrix_rank", input._array)
    atol = tol if atol is None else atol
    if tol is not None and rtol is None:
        rtol = 0.0
    x = input.detach()  # type: ignore[attr-defined]
    s = linalg_eigvalsh(x)._array if hermitian else linalg_svdvals(x)._array
    if input.is_meta:  # type: ignore[attr-defined]
        return input.new_empty(s.shape[:-1], dtype=int64)  # type: ignore[attr-defined]
    s = np.abs(s)
    rank = (s > _cutoff(input, s, atol, rtol)[..., None]).sum(-1)
    return input.new_tensor(rank, dtype=int64)  # type: ignore[attr-defined]


def _pinv_vjp(g: Any, A: Any, out: Any) -> Any:
    """Golub, Pereyra 1973, equation 4.12, for matrices of constant rank; the smaller products first."""
    p, ph, gh = out, out.mH, g.mH
    if A._array.shape[-2] <= A._array.shape[-1]:
        k = matmul(gh, p)
        kph = matmul(k, ph)
        return (
            kph - matmul(p, k).mH - matmul(matmul(A, p), kph) + matmul(matmul(ph, p), gh - matmul(k, A))
        )  # fmt: skip
    k = matmul(p, gh)
    phk = matmul(ph, k)
    return phk - matmul(k, p).mH + matmul(matmul(gh - matmul(A, k), p), ph) - matmul(matmul(phk, p), A)


def _pinv_spec(A: Any, cutoff: Any, hermitian: bool) -> Any:
    return (*A.shape[:-2], A.shape[-1], A.shape[-2]), A.dtype


@op(
    spec=_pinv_spec,
    promote=FLOATS.over("A"),
    complex="own",
    vjp=dict(A=_pinv_vjp),
    on="",
    samples=each(draw((3, 4), None, False), draw((2, 4, 3), None, False), draw(positive(3, 3), None, True)),
)
def _pinv(A: Array, cutoff: Any, hermitian: bool):
    """V diag(1 / s) U^H over the singular values above the cut-off; ``cutoff``: a function of them."""
    if hermitian:
        s, u = converged("linalg.eigh", np.linalg.eigh, A)
        vh = numerics.adjoint(u)
    else:
        u, s, vh = converged("linalg.svd", np.linalg.svd, A, False)
    size = np.abs(s)
    least = np.finfo(real_of(A.dtype)).eps if cutoff is None else cutoff(size)
    keep = size > np.asarray(least)[..., None]
    inverse = np.where(keep, 1 / np.where(keep, s, 1), 0)
    return numerics.adjoint(vh) @ (inverse[..., None] * numerics.adjoint(u))


@composite(on="linalg", samples=each(
    draw((3, 4)), draw((2, 4, 3)), draw((3, 3)), draw(positive(3, 3), hermitian=True), draw((4, 3), rtol=1e-2),
    draw((0, 3)), draw((3, 4), atol=1e-2),
))  # fmt: skip
@takes_out
def linalg_pinv(
    input: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Tensor:
    """The Moore-Penrose inverse V diag(1 / s) U^H over singular values s > max(atol, rtol * largest): (…, n, m).

    rtol is by default max(m, n) eps, 0 where atol is given; ``rcond`` is rtol. ``hermitian``: by eigenvalues, of the
    lower triangle. The gradient is that of matrices of constant rank.
    """
    matrices("linalg.pinv", input._array)
    if hermitian:
        square("linalg.pinv", input._array)
    rtol = rcond if rtol is None else rtol
    if input.numel() == 0:
        return input.mT.clone()  # type: ignore[attr-defined]
    found = _pinv(input, lambda s: _cutoff(input, s, atol, rtol), hermitian)
    return found


@composite(samples=each(draw((3, 4)), draw((4, 3), 1e-2)))
def pinverse(input: Tensor, rcond: Any = 1e-15) -> Tensor:
    """The Moore-Penrose inverse: ``linalg.pinv`` with singular values of at most rcond times the largest as 0."""
    return linalg_pinv(input, rcond)


# -------------------------------------------------------------------------------------------------------- least squares

_DRIVERS = ("gels", "gelsy", "gelsd", "gelss")


def _lstsq_spec(A: Any, B: Any, rcond: Any, driver: Any) -> Any:
    name = "linalg.lstsq"
    matrices(name, A)
    floating(name, B)
    if driver is not None and driver not in _DRIVERS:
        raise ArgumentError(f"{name}: parameter `driver` should be one of (gels, gelsy, gelsd, gelss), got {driver!r}")
    lead, (m, n) = A.shape[:-2], A.shape[-2:]
    if not B.ndim:
        raise ShapeError(f"{name}: input other must have at least 1 dimension")
    vector = is_vector(A.shape, B.shape)
    b = (*B.shape, 1) if vector else B.shape
    if len(b) < 2 or b[-2] != m:
        raise ShapeError(
            f"{name}: input.size(-2) should match other.size({-1 if vector else -2}): A {tuple(A.shape)}, B "
            f"{tuple(B.shape)}: expected (…, m, n) and (…, m, k)"
        )
    lead = _lead(name, tuple(lead), tuple(b[:-2]))
    x = (*lead, n) if vector else (*lead, n, b[-1])
    return [(x, A.dtype), (lead, int64.numpy), ((*lead, min(m, n)), real_of(A.dtype))]


def _lstsq_grad_a(g: Any, A: Any, B: Any) -> Any:
    """Through pinv(A) B."""
    b = B.unsqueeze(-1) if is_vector(A._array.shape, B._array.shape) else B
    g = g.unsqueeze(-1) if b is not B else g
    p = linalg_pinv(A)
    return _to_shape(_pinv_vjp(matmul(g, b.mH), A, p), A._array.shape)


def _lstsq_grad_b(g: Any, A: Any, B_shape: Any) -> Any:
    vector = is_vector(A._array.shape, B_shape)
    found = matmul(linalg_pinv(A).mH, g.unsqueeze(-1) if vector else g)
    return _to_shape(found.squeeze(-1) if vector else found, B_shape)


@op(
    spec=_lstsq_spec,
    promote=FLOATS,
    complex="own",
    outputs=("solution", "rank", "singular_values"),
    vjp=dict(A=_lstsq_grad_a, B=_lstsq_grad_b),
    on="",
    samples=each(
        draw((4, 3), (4, 2), None, None), draw((3, 4), (3, 2), None, "gelsd"), draw((2, 4, 3), (2, 4), None, "gelsy"),
        draw((2, 1, 4, 3), (3, 4, 2), None, "gels"),
    ),
)  # fmt: skip
def _lstsq(A: Array, B: Array, rcond: Any, driver: Any):
    """The solution of least norm, by QR where the rank is surely full, else by singular values; the rank and those."""
    vector = is_vector(A.shape, B.shape)
    b = B[..., None] if vector else B
    m, n = A.shape[-2:]
    (shape, dtype), (lead, _), (values, kind) = _lstsq_spec(A, B, rcond, driver)
    if not A.size:
        return np.zeros(shape, dtype), np.zeros(lead, np.int64), np.zeros(values, kind)
    least = np.finfo(kind).eps * max(m, n) if rcond is None else rcond
    if m >= n and driver in (None, "gels", "gelsy"):
        q, r = numerics.qr(A)
        inverse = numerics.solve_triangular(r, np.eye(n, dtype=r.dtype), True)
        size = np.sqrt((np.abs(r) ** 2).sum((-1, -2)) * (np.abs(inverse) ** 2).sum((-1, -2)))
        if (size * least < 1).all():  # no singular value is that small beside the largest: the rank is full
            x = numerics.solve_triangular(r, numerics.adjoint(q) @ b, True)
            return (x[..., 0] if vector else x), np.full(lead, n, np.int64), np.zeros(values, kind)
    u, s, vh = converged("linalg.lstsq", np.linalg.svd, A, False)
    keep = s > least * s[..., :1] if driver != "gels" else s > 0
    scale = np.where(keep, 1 / np.where(keep, s, 1), 0)
    x = numerics.adjoint(vh) @ (scale[..., None] * (numerics.adjoint(u) @ b))
    rank = np.broadcast_to(keep.sum(-1), lead)
    return (x[..., 0] if vector else x), np.array(rank, np.int64), np.array(np.broadcast_to(s, values))


_LSTSQ = result_type("linalg_lstsq", ("solution", "residuals", "rank", "singular_values"))


def _rated(*shape: int) -> Draw:
    """A matrix whose singular values are among the results, and they have no gradient, as in PyTorch."""
    return without_gradient(Draw(shape))


@composite(on="linalg", samples=each(
    draw((4, 3), (4, 2)), draw((3, 4), (3, 2)), draw((2, 4, 3), (2, 4)), draw((4, 3), (4, 2), driver="gels"),
    draw(_rated(4, 3), (4, 2), driver="gelsd"), draw(_rated(3, 3), (3, 2), 1e-5, driver="gelss"), draw((4, 3), (4,)),
))  # fmt: skip
@takes_out
def linalg_lstsq(input: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """(X, residuals, rank, singular_values), X = argmin ‖input X - b‖ of least norm: (…, m, n), b (…, m, k) or (…, m).

    Singular values of at most rcond (by default max(m, n) eps) times the largest count as 0. As PyTorch's drivers on
    the CPU, whose arithmetic is the same here: the residuals ‖input X - b‖² come with "gels", and of matrices of full
    rank with "gelsd" and "gelss", for m > n; the rank with all but "gels"; the singular values with "gelsd", "gelss".
    """
    a: Any = input
    right: Any = b
    x, rank, s = _lstsq(a, right, rcond, driver)
    driver = driver or "gelsy"
    m, n = a.shape[-2:]
    residuals: Any = a.new_empty(0, dtype=s.dtype)
    full = driver == "gels" or (_array.numbers(rank._array) == n).all()
    if m > n and full and driver != "gelsy":
        vector = is_vector(a.shape, right.shape)
        rest = matmul(a, x.unsqueeze(-1)) - right.unsqueeze(-1) if vector else matmul(a, x) - right
        residuals = (rest.abs() ** 2).sum(-2) if n else right.new_zeros((*a.shape[:-2], rest.shape[-1]), dtype=s.dtype)
    if driver == "gels":
        rank = a.new_empty(0, dtype=int64)
    if driver in ("gels", "gelsy"):
        s = s.new_empty(0)
    return _LSTSQ(x, residuals, rank, s.detach())
