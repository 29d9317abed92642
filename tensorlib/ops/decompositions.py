"""Factorisations of matrices: Cholesky, QR, LU, LDL, eigenvalues, singular values. On the CPU, by LAPACK through NumPy.

Gradients are written with tensor operators, so that they have gradients themselves; where a factorisation is not unique
(signs, phases, equal values) they hold for functions that do not depend on the choice, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor
from tensorlib._promotion import FLOATS, complex_of, real_of
from tensorlib._samples import Draw, draw, each, fails, positive, regular, values, without_gradient
from tensorlib.errors import ArgumentError, AutogradError, DtypeError, LinAlgError, ShapeError
from tensorlib.op import Array, composite, op, result_type
from tensorlib.ops import _linalg_numpy as numerics
from tensorlib.ops._linalg import (
    INFO,
    absent,
    eye_like,
    failed,
    floating,
    identity,
    matrices,
    square,
    unit_lower,
)
from tensorlib.ops._out import also_named, takes_out
from tensorlib.ops.joining import cat
from tensorlib.ops.linalg import _to_shape, matmul
from tensorlib.ops.solvers import linalg_solve, linalg_solve_triangular

# Of complex vectors PyTorch refuses the gradients that depend on their phases, so that random ones cannot be compared.


def _vectors(*shape: int) -> Draw:
    return without_gradient(Draw(shape), "complex")


def _hermitian(*shape: int) -> Draw:
    return without_gradient(positive(*shape), "complex")


def _uncompared(*shape: int) -> Draw:
    return without_gradient(Draw(shape))


# ------------------------------------------------------------------------------------------------------------- Cholesky

_NOT_POSITIVE = (
    "The factorization could not be completed because the input is not positive-definite "
    "(the leading minor of order {} is not positive-definite)."
)


def _cholesky_spec(A: Any, upper: bool, check_errors: bool) -> Any:
    square("linalg.cholesky", A)
    return [(A.shape, A.dtype), (A.shape[:-2], INFO)]


def _cholesky_vjp(g: Any, L: Any, upper: bool) -> Any:
    """L^-H Φ(L^H g) L^-1, Φ the lower triangle with half of its diagonal, symmetrised: Murray 2016, section 3."""
    if upper:
        L, g = L.mH, g.mH
    phi = matmul(L.mH, g)
    phi = (phi.tril() + phi.tril(-1).mH) * 0.5
    right = linalg_solve_triangular(L, phi, upper=False, left=False)
    return linalg_solve_triangular(L.mH, right, upper=True)


@op(
    spec=_cholesky_spec,
    promote=FLOATS,
    complex="own",
    outputs=("L", "info"),
    vjp=_cholesky_vjp,
    on="linalg",
    samples=each(
        draw(positive(3, 3)), draw(positive(2, 4, 4), upper=True), draw(positive(1, 1)), draw(positive(0, 3, 3)),
        draw(positive(2, 0, 0)),
    ),
    errors=[
        fails((2, 3), match="square matrices, but they are 2 by 3", error=ShapeError),
        fails((3,), match="at least 2 dimensions", error=ShapeError),
    ],
)  # fmt: skip
def linalg_cholesky_ex(input: Array, *, upper: bool = False, check_errors: bool = False):
    """(L, info) with input = L L^H, L lower triangular (``upper``: U^H U): (…, n, n), Hermitian positive definite.

    info is the order of the first leading minor that is not positive definite, and 0 for success; LinAlgError for it
    with ``check_errors``. One triangle of input is read. float32, float64, complex.
    """
    out, info = numerics.cholesky(input, upper)
    if check_errors:
        failed("linalg.cholesky_ex", info, _NOT_POSITIVE)
    return out, info


def _cholesky(name: str, A: Tensor, upper: bool) -> Tensor:
    found, info = linalg_cholesky_ex(A, upper=upper)
    failed(name, info._array, _NOT_POSITIVE)
    return found  # type: ignore[no-any-return]


@composite(on="linalg", samples=each(draw(positive(3, 3)), draw(positive(2, 3, 3), upper=True)))
@takes_out
def linalg_cholesky(input: Tensor, *, upper: bool = False) -> Tensor:
    """L with input = L L^H, lower triangular (``upper``: input = U^H U): (…, n, n), Hermitian positive definite.

    LinAlgError where input is not positive definite.
    """
    return _cholesky("linalg.cholesky", input, upper)


@composite(samples=each(draw(positive(3, 3)), draw(positive(2, 3, 3), True)))
@takes_out
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """L with input = L L^H, lower triangular (``upper``: U with input = U^H U): ``linalg.cholesky``."""
    return _cholesky("cholesky", input, upper)


# ------------------------------------------------------------------------------------------------------------------- QR


def _qr_spec(A: Any, mode: str) -> Any:
    if mode not in ("reduced", "complete", "r"):
        raise ArgumentError(
            f"linalg.qr: qr received unrecognized mode {mode!r} but expected one of 'reduced' (default), 'r', or "
            f"'complete'"
        )
    matrices("linalg.qr", A)
    m, n = A.shape[-2:]
    k = m if mode == "complete" else min(m, n)
    q = (0,) if mode == "r" else (*A.shape[:-2], m, k)
    return [(q, A.dtype), ((*A.shape[:-2], k, n), A.dtype)]


def _qr_square(g_Q: Any, g_R: Any, Q: Any, R: Any) -> Any:
    """[g_Q + Q sym(triu(g_R R^H - Q^H g_Q))] R^-H for R of as many rows as columns."""
    t = (matmul(g_R, R.mH) - matmul(Q.mH, g_Q)).triu()
    d = t.diagonal(0, -2, -1)
    t = t + t.mH - (d.real if d.is_complex() else d).diag_embed()
    return linalg_solve_triangular(R.mH, g_Q + matmul(Q, t), upper=False, left=False)


def _qr_vjp(g_Q: Any, g_R: Any, Q: Any, R: Any, mode: str) -> Any:
    """Walter, Lehmann 2018, section 3; a wide matrix by its square part: the rest of R is Q^H times the rest of A."""
    if mode == "r":
        raise AutogradError(
            "linalg.qr: The derivative of linalg.qr depends on Q, which is not computed when mode='r'. Please use "
            "linalg.qr(A, mode='reduced') if you are going to require gradients"
        )
    m, n = Q._array.shape[-2], R._array.shape[-1]
    if mode == "complete" and m > n:
        raise AutogradError(
            "linalg.qr: The QR decomposition is not differentiable when mode='complete' and nrows > ncols"
        )
    if m >= n:
        return _qr_square(g_Q, g_R, Q, R)
    g2, r2 = g_R[..., m:], R[..., m:]
    first = _qr_square(g_Q + matmul(matmul(Q, r2), g2.mH), g_R[..., :m], Q, R[..., :m])
    return cat([first, matmul(Q, g2)], -1)


@op(
    spec=_qr_spec,
    promote=FLOATS,
    complex="own",
    outputs=("Q", "R"),
    vjp=_qr_vjp,
    on="linalg",
    samples=each(
        draw(regular(4, 3)), draw(regular(3, 3)), draw(regular(2, 3, 5)), draw(regular(3, 4), mode="complete"),
        draw(regular(1, 1)), draw((0, 3, 2)), draw((3, 0)),
    ),
    errors=[
        fails((3, 3), mode="x", match="unrecognized mode", error=ArgumentError),
        fails((3,), match="at least 2 dimensions", error=ShapeError),
    ],
    bench=[draw((256, 256))],
    flops=lambda A: 4.0 * A.size * A.shape[-1] - 4 / 3 * A.shape[-1] ** 3,
)  # fmt: skip
def linalg_qr(A: Array, mode: str = "reduced"):
    """(Q, R) with A = Q R, Q's columns orthonormal, R upper triangular: (…, m, n) -> (…, m, k), (…, k, n).

    k = min(m, n) in mode "reduced"; "complete": k = m, Q square; "r": Q empty. Householder reflections: the signs of
    R's diagonal are as they come. float32, float64, complex.
    """
    if mode == "r":
        return np.zeros(0, A.dtype), np.linalg.qr(A, mode="r")
    if not A.size:
        m, n = A.shape[-2:]
        k = m if mode == "complete" else min(m, n)
        q = np.broadcast_to(np.eye(m, k, dtype=A.dtype), (*A.shape[:-2], m, k)).copy()
        return q, np.zeros((*A.shape[:-2], k, n), A.dtype)
    return numerics.qr(A, mode == "complete")


_QR = result_type("qr", ("Q", "R"))


@composite(samples=each(draw(regular(4, 3)), draw(regular(3, 4), False)))
@takes_out
def qr(input: Tensor, some: bool = True) -> Any:
    """(Q, R) with input = Q R; ``some``: of reduced size. ``linalg.qr``."""
    return _QR(*linalg_qr(input, "reduced" if some else "complete"))


def _geqrf_spec(input: Any) -> Any:
    matrices("geqrf", input, "input")
    k = min(input.shape[-2:])
    return [(input.shape, input.dtype), ((*input.shape[:-2], k), input.dtype)]


@op(
    spec=_geqrf_spec,
    promote=FLOATS,
    complex="own",
    outputs=("a", "tau"),
    samples=each(draw(regular(4, 3)), draw(regular(2, 3, 4)), draw((0, 3))),
)
def geqrf(input: Array):
    """(a, tau): R on and above the diagonal of a, the Householder vectors below it, and their factors. No gradient.

    H_i = I - tau_i v_i v_i^H, v_i the i-th column below the diagonal with 1 on it; Q = H_1 H_2 …: (…, m, n).
    """
    if not input.size:
        return np.array(input), np.zeros((*input.shape[:-2], min(input.shape[-2:])), input.dtype)
    return numerics.geqrf(input)


def _reflectors(name: str, A: Tensor, tau: Tensor, wide: bool = False) -> tuple[Any, Any]:
    """(V, T) with H_1 … H_k = I - V T V^H: Schreiber, Van Loan 1989; T^-1 = diag(1 / tau) + striu(V^H V)."""
    floating(name, A._array)
    if tau.dtype != A.dtype:
        raise DtypeError(f"{name}: tau dtype {tau.dtype} does not match input dtype {A.dtype}: convert it")
    a: Any = A
    if a.ndim < 2:
        raise ShapeError(f"{name}: input must have at least 2 dimensions, got shape {tuple(a.shape)}")
    m, n = a.shape[-2:]
    if m < n and not wide:
        raise ShapeError(f"{name}: input.shape[-2] must be greater than or equal to input.shape[-1], got {m} and {n}")
    k = tau.shape[-1] if tau.ndim else 0
    if min(m, n) < k:
        raise ShapeError(f"{name}: input.shape[-1] must be greater than or equal to tau.shape[-1], got {n} and {k}")
    if a.ndim - tau.ndim != 1 or a.shape[:-2] != tau.shape[:-1]:
        raise ShapeError(
            f"{name}: Expected batch dimensions of tau to be equal to input.shape[:-2], but got {tuple(tau.shape)}: "
            f"expected {(*a.shape[:-2], k)}"
        )
    v = unit_lower(a[..., :k])
    inner = matmul(v.mH, v).triu(1)
    factors: Any = tau
    t = linalg_solve_triangular(
        factors.unsqueeze(-1) * inner, factors.diag_embed(), upper=True, unitriangular=True
    )
    return v, t


@composite(on="linalg", alias=("function.orgqr", "method.orgqr"), samples=each(
    draw((4, 3), (3,)), draw((2, 3, 3), (2, 2)), draw((3, 0), (0,)),
))  # fmt: skip
@takes_out
@also_named(input2="tau")
def linalg_householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """The first n columns of H_1 H_2 … H_k, H_i = I - tau_i v_i v_i^H: input (…, m, n), tau (…, k) -> (…, m, n).

    v_i is 0 above, 1 on and the i-th column of input below the diagonal, as ``geqrf`` returns them.
    """
    v, t = _reflectors("linalg.householder_product", input, tau)
    m, n = input.shape[-2:]
    return eye_like(input, m, n) - matmul(v, matmul(t, v[..., :n, :].mH))


@composite(samples=each(
    draw((4, 3), (3,), (4, 2)), draw((4, 3), (3,), (2, 4), False, True), draw((2, 3, 2), (2, 2), (2, 3, 3), True, True),
))  # fmt: skip
@takes_out
@also_named(input2="tau", input3="other")
def ormqr(
    input: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False
) -> Tensor:
    """Q other (``left``) or other Q, Q = H_1 … H_k of input and tau, ``transpose``: its conjugate transpose.

    input (…, m, k), tau (…, k), other (…, m, n), or (…, n, m) from the right.
    """
    if other.ndim < 2 or other.shape[-2 if left else -1] != input.shape[-2]:
        raise ShapeError(
            f"ormqr: other.shape[{-2 if left else -1}] must be equal to input.shape[-2], got other "
            f"{tuple(other.shape)} and input {tuple(input.shape)}"
        )
    v, t = _reflectors("ormqr", input, tau, True)
    if transpose:
        t = t.mH
    if left:
        result = other - matmul(v, matmul(t, matmul(v.mH, other)))
    else:
        result = other - matmul(matmul(matmul(other, v), t), v.mH)
    return result


# ------------------------------------------------------------------------------------------------------------------- LU


def _lu_spec(A: Any, pivot: bool, check_errors: bool) -> Any:
    matrices("linalg.lu_factor", A)
    lead = A.shape[:-2]
    return [(A.shape, A.dtype), ((*lead, min(A.shape[-2:])), INFO), (lead, INFO)]


def _lu_vjp(g: Any, LU: Any, pivots: Any) -> Any:
    """P L^-H [tril(L^H g_L, -1) + triu(g_U U^H)] U^-H on the square part; the longer side has no P or no triangle."""
    lu = LU
    m, n = lu._array.shape[-2:]
    k = min(m, n)
    lower = unit_lower(lu[..., :k])
    upper = lu[..., :k, :].triu()
    g_lower, g_upper = g[..., :k].tril(-1), g[..., :k, :].triu()
    l1, u1 = lower[..., :k, :], upper[..., :k]
    inner = matmul(lower.mH, g_lower).tril(-1) + matmul(g_upper, upper.mH).triu()
    if m == n:
        inner = linalg_solve_triangular(u1.mH, inner, upper=False, left=False)
        found = linalg_solve_triangular(l1.mH, inner, upper=True, unitriangular=True)
    elif m < n:
        # A = [A1, A2]: L and U1 belong to A1, U2 = L^-1 P^T A2
        u2, gu2 = upper[..., k:], g_upper[..., k:]
        inner = matmul(lower.mH, g_lower).tril(-1) - matmul(gu2, u2.mH).tril(-1)
        inner = inner + matmul(g_upper[..., :k], u1.mH).triu()
        inner = linalg_solve_triangular(u1.mH, inner, upper=False, left=False)
        found = linalg_solve_triangular(l1.mH, cat([inner, gu2], -1), upper=True, unitriangular=True)
    else:
        # A = [A1; A2]: L1 and U belong to A1, L2 = A2 U^-1
        l2, gl2 = lower[..., k:, :], g_lower[..., k:, :]
        inner = matmul(l1.mH, g_lower[..., :k, :]).tril(-1)
        inner = inner + (matmul(g_upper, u1.mH) - matmul(l2.mH, gl2)).triu()
        inner = linalg_solve_triangular(l1.mH, inner, upper=True, unitriangular=True)
        found = linalg_solve_triangular(u1.mH, cat([inner, gl2], -2), upper=False, left=False)
    return matmul(_permutation(pivots.detach(), m, lu._array.dtype), found)


@op(
    spec=_lu_spec,
    promote=FLOATS,
    complex="own",
    outputs=("LU", "pivots", "info"),
    vjp=_lu_vjp,
    on="linalg",
    samples=each(
        draw(Draw((3, 3))), draw(Draw((4, 3))), draw(Draw((2, 3, 5))), draw(Draw((1, 1))), draw(Draw((0, 3, 3))),
        draw(Draw((3, 0))), draw(Draw((40, 37))),
    ),
    errors=[fails((3,), match="at least 2 dimensions", error=ShapeError)],
    bench=[draw((256, 256))],
    flops=lambda A: A.size * A.shape[-1] - A.shape[-1] ** 3 / 3,
)  # fmt: skip
def linalg_lu_factor_ex(A: Array, *, pivot: bool = True, check_errors: bool = False):
    """(LU, pivots, info) with A = P L U, L (unit diagonal, not stored) and U in one matrix: (…, m, n).

    Row i was interchanged with row pivots[i] (counted from 1), the largest in its column; info is the first zero on the
    diagonal of U (from 1), 0 for none, and a LinAlgError with ``check_errors``. float32, float64, complex.
    """
    lu, pivots, info = numerics.lu_factor(A, pivot)
    if check_errors:
        failed("linalg.lu_factor_ex", info, _ZERO_PIVOT)
    return lu, pivots, info


_ZERO_PIVOT = (
    "U[{0},{0}] is zero and using it on lu_solve would result in a division by zero. If you still want to perform the "
    "factorization, consider calling linalg.lu(A, pivot) or linalg.lu_factor_ex(A, pivot)"
)
_LU_FACTOR = result_type("linalg_lu_factor", ("LU", "pivots"))
_LU = result_type("linalg_lu", ("P", "L", "U"))
_LU_WITH_INFO = result_type("lu_with_info", ("LU", "pivots", "info"))
_LU_UNPACK = result_type("lu_unpack", ("P", "L", "U"))


@composite(on="linalg", samples=each(draw((3, 3)), draw((2, 3, 5))))
@takes_out
def linalg_lu_factor(A: Tensor, *, pivot: bool = True) -> Any:
    """(LU, pivots) of ``linalg.lu_factor_ex``, for ``linalg.lu_solve``. LinAlgError where U has a zero pivot."""
    lu, pivots, info = linalg_lu_factor_ex(A, pivot=pivot)
    failed("linalg.lu_factor", info._array, _ZERO_PIVOT)
    return _LU_FACTOR(lu, pivots)


def _permutation_spec(pivots: Any, m: int, dtype: Any) -> Any:
    return (*pivots.shape[:-1], m, m), dtype


@op(
    spec=_permutation_spec,
    on="",
    samples=each(draw(values([2, 3, 3], "int32"), 4, np.dtype(np.float32))),
)
def _permutation(pivots: Array, m: int, dtype: Any):
    """The matrix P of successive interchanges: (…, k) -> (…, m, m)."""
    order = numerics.permutation(pivots, m)
    out = np.zeros((*order.shape, m), dtype)
    np.put_along_axis(out, order[..., None, :], 1, axis=-2)
    return out


def _interchange_spec(input: Any, pivots: Any, back: bool) -> Any:
    return (*np.broadcast_shapes(input.shape[:-2], pivots.shape[:-1]), *input.shape[-2:]), input.dtype


@op(
    spec=_interchange_spec,
    vjp=dict(input=lambda g, input_shape, pivots, back: _to_shape(interchange(g, pivots, not back), input_shape)),
    name="_interchange",
    on="",
    samples=each(
        draw((3, 2), values([2, 3, 3], "int32"), False), draw((2, 3, 2), values([3, 3, 3], "int32"), True),
        draw((3, 1), values([[2, 3, 3], [1, 3, 3]], "int32"), False),
    ),
)  # fmt: skip
def interchange(input: Array, pivots: Array, back: bool):
    """P^T input, or P input for ``back``, P the successive interchanges of rows: (…, n, k), pivots (…, n)."""
    order = numerics.permutation(pivots, input.shape[-2])
    if back:
        order = np.argsort(order, axis=-1)
    if order.ndim == 1:
        return input[..., order, :]
    lead = np.broadcast_shapes(input.shape[:-2], order.shape[:-1])
    rows = np.broadcast_to(order[..., None], (*lead, order.shape[-1], 1))
    return np.take_along_axis(np.broadcast_to(input, (*lead, *input.shape[-2:])), rows, axis=-2)


def _unpacked(lu: Any, pivots: Any) -> tuple[Any, Any, Any]:
    m, n = lu.shape[-2:]
    k = min(m, n)
    lower = unit_lower(lu[..., :k])
    p = None if pivots is None else _permutation(pivots, m, lu._array.dtype)
    return p, lower, lu[..., :k, :].triu()


@composite(on="linalg", samples=each(
    draw((3, 3)), draw((4, 3)), draw((2, 3, 5)), draw((2, 0, 3)),
))  # fmt: skip
@takes_out
def linalg_lu(A: Tensor, *, pivot: bool = True) -> Any:
    """(P, L, U) with A = P L U: (…, m, n) -> (…, m, m), (…, m, k), (…, k, n), k = min(m, n); P empty without pivots."""
    lu, pivots, _ = linalg_lu_factor_ex(A, pivot=pivot)
    p, lower, upper = _unpacked(lu, pivots if pivot else None)
    return _LU(A.new_empty(0) if p is None else p, lower, upper)


@composite(on="function", samples=each(
    draw((3, 3), values([2, 3, 3], "int32")), draw((4, 3), values([2, 3, 4], "int32")),
))  # fmt: skip
@takes_out
def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> Any:
    """(P, L, U) of what ``lu_factor`` returns; empty tensors for what is not to be unpacked."""
    if LU_pivots.dtype.name != "int32" and unpack_pivots:
        raise DtypeError(
            "lu_unpack: torch.lu_unpack: LU_pivots is expected to be a contiguous tensor of torch.int32 dtype, got "
            f"{LU_pivots.dtype}"
        )
    empty = LU_data.new_empty(0)
    p, lower, upper = _unpacked(LU_data, LU_pivots if unpack_pivots else None)
    return _LU_UNPACK(
        empty if p is None else p, lower if unpack_data else empty, upper if unpack_data else empty
    )


@composite(samples=each(draw((3, 3)), draw((2, 4, 3), get_infos=True)))
@takes_out
def lu(A: Tensor, pivot: bool = True, get_infos: bool = False) -> Any:
    """(LU, pivots) of ``linalg.lu_factor_ex``, and its info with ``get_infos``."""
    found = linalg_lu_factor_ex(A, pivot=pivot)
    if not get_infos:
        failed("lu", found.info._array, _ZERO_PIVOT)
    return _LU_WITH_INFO(*found) if get_infos else tuple(found)[:2]


# ------------------------------------------------------------------------------------------------------------------ LDL


def _ldl_spec(A: Any, hermitian: bool, check_errors: bool) -> Any:
    square("linalg.ldl_factor", A)
    return [(A.shape, A.dtype), (A.shape[:-1], INFO), (A.shape[:-2], INFO)]


@op(
    spec=_ldl_spec,
    promote=FLOATS,
    complex="own",
    outputs=("LD", "pivots", "info"),
    on="linalg",
    samples=each(draw((4, 4)), draw((2, 3, 3)), draw((0, 0)), draw((1, 1)), draw((7, 7))),
    errors=[fails((2, 3), match="square matrices", error=ShapeError)],
)
def linalg_ldl_factor_ex(input: Array, *, hermitian: bool = False, check_errors: bool = False):
    """(LD, pivots, info) with P^T input P = L D L^T (``hermitian``: L^H), D of 1 by 1 and 2 by 2 blocks: (…, n, n).

    The lower triangle is read. Negative pivots mark the rows of 2 by 2 blocks. No gradient. Bunch, Kaufman 1977.
    """
    ld, pivots, info = numerics.ldl_factor(input, hermitian)
    if check_errors:
        failed("linalg.ldl_factor_ex", info, "D[{0},{0}] is zero: the block diagonal matrix is singular")
    return ld, pivots, info


_LDL = result_type("linalg_ldl_factor", ("LD", "pivots"))


@composite(on="linalg", samples=each(draw(_uncompared(4, 4)), draw(_uncompared(2, 3, 3))))
@takes_out
def linalg_ldl_factor(input: Tensor, *, hermitian: bool = False) -> Any:
    """(LD, pivots) of ``linalg.ldl_factor_ex``, for ``linalg.ldl_solve``. LinAlgError where D is singular."""
    ld, pivots, info = linalg_ldl_factor_ex(input, hermitian=hermitian)
    failed("linalg.ldl_factor", info._array, "D[{0},{0}] is zero: the block diagonal matrix is singular")
    return _LDL(ld, pivots)


def _ldl_solve_spec(LD: Any, pivots: Any, B: Any, hermitian: bool) -> Any:
    square("linalg.ldl_solve", LD, "LD")
    matrices("linalg.ldl_solve", B, "B")
    if pivots.dtype.kind not in "iu":
        raise DtypeError(f"linalg.ldl_solve: Expected pivots to be integers. Got {pivots.dtype}")
    if pivots.shape != LD.shape[:-1] or B.shape[-2] != LD.shape[-1]:
        raise ShapeError(
            f"linalg.ldl_solve: LD {tuple(LD.shape)}, pivots {tuple(pivots.shape)}, B {tuple(B.shape)}: Expected "
            f"LD.shape[:-1] and pivots.shape to be the same, and B of as many rows"
        )
    return (*np.broadcast_shapes(LD.shape[:-2], B.shape[:-2]), *B.shape[-2:]), B.dtype


@op(
    spec=_ldl_solve_spec,
    promote=FLOATS.over("LD", "B"),
    complex="own",
    on="linalg",
    samples=each(
        draw(regular(3, 3), values([1, 2, 3], "int32"), (3, 2)),
        draw(regular(3, 3), values([-3, -3, 3], "int32"), (2, 3, 1)),
    ),
)  # fmt: skip
def linalg_ldl_solve(LD: Array, pivots: Array, B: Array, *, hermitian: bool = False):
    """X with A X = B of A factored by ``linalg.ldl_factor``: LD (…, n, n), B (…, n, k) -> (…, n, k). No gradient."""
    return numerics.ldl_solve(LD, pivots, B, hermitian)


# ---------------------------------------------------------------------------------------------------------- eigenvalues




def _finite(name: str, A: np.ndarray) -> None:
    if not np.isfinite(A).all():
        raise LinAlgError(f"{name}: input tensor should not contain infs or NaNs.")


def _eigh_spec(A: Any, UPLO: Any) -> Any:
    square("linalg.eigh", A)
    if not isinstance(UPLO, str) or UPLO.upper() not in ("L", "U"):
        raise ArgumentError(f"linalg.eigh: Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    return [(A.shape[:-1], real_of(A.dtype)), (A.shape, A.dtype)]


def _differences(values: Any) -> Any:
    """values[j] - values[i] at (i, j), with ones on the diagonal, to divide by."""
    return values.unsqueeze(-2) - values.unsqueeze(-1) + identity(values._array.shape[-1], values)


def _no_phase(name: str, diagonal: Any) -> None:
    """AutogradError where a gradient depends on the phases of complex vectors, which are arbitrary."""
    turning = _array.numbers(diagonal._array).imag
    if not np.allclose(turning, 0, rtol=1e-2, atol=1e-2):
        raise AutogradError(
            f"{name}_backward: The vectors in the complex case are specified up to multiplication by e^{{i phi}}. The "
            f"specified loss function depends on this quantity, so it is ill-defined: expected a function of what does "
            f"not change with the phase, such as the vectors' magnitudes"
        )


def _eigh_vjp(g_eigenvalues: Any, g_eigenvectors: Any, eigenvalues: Any, eigenvectors: Any) -> Any:
    """V [diag(g_λ) + (V^H g_V) / (λ_j - λ_i) off the diagonal] V^H, its Hermitian part: Giles 2008, section 3.1."""
    v, diagonal = eigenvectors, g_eigenvalues
    if absent(g_eigenvectors):
        return matmul(v * diagonal.unsqueeze(-2), v.mH)
    inner = matmul(v.mH, g_eigenvectors)
    _no_phase("linalg_eigh", inner.diagonal(0, -2, -1))
    inner = inner / _differences(eigenvalues)
    inner = inner - inner.diagonal(0, -2, -1).diag_embed() + diagonal.diag_embed()
    found = matmul(matmul(v, inner), v.mH)
    return (found + found.mH) * 0.5


def converged(name: str, function: Callable[..., Any], A: np.ndarray, *args: Any) -> Any:
    """A NumPy factorisation whose iteration may not end."""
    try:
        return function(A, *args)
    except np.linalg.LinAlgError:
        at = next((i for i, a in enumerate(A.reshape(-1, *A.shape[-2:])) if not np.isfinite(a).all()), 0)
        where = f"(Batch element {at}): " if A.ndim > 2 else ""
        why = (
            "because the input matrix contained non-finite values"
            if not np.isfinite(A).all()
            else "because the input matrix is ill-conditioned or has too many repeated singular values"
        )
        raise LinAlgError(f"{name}: {where}The algorithm failed to converge {why}.") from None


@op(
    spec=_eigh_spec,
    promote=FLOATS,
    complex="own",
    outputs=("eigenvalues", "eigenvectors"),
    vjp=_eigh_vjp,
    on="linalg",
    samples=each(
        draw(_hermitian(3, 3)), draw(_hermitian(2, 4, 4), "U"), draw(_hermitian(1, 1)), draw(_hermitian(0, 3, 3)),
        draw(_hermitian(0, 0)),
    ),
    errors=[
        fails((2, 3), match="square matrices", error=ShapeError),
        fails((2, 2), "X", match="'L' or 'U'", error=ArgumentError),
    ],
    bench=[draw(positive(128, 128))],
)  # fmt: skip
def linalg_eigh(input: Array, UPLO: str = "L"):
    """(λ, V) with input = V diag(λ) V^H of a Hermitian input, λ ascending and real, V unitary: (…, n, n).

    The triangle ``UPLO`` is read. Eigenvectors are determined up to their sign (phase). float32, float64, complex.
    """
    return tuple(converged("linalg.eigh", np.linalg.eigh, input, UPLO.upper()))


@op(
    spec=lambda A, UPLO: _eigh_spec(A, UPLO)[0],
    promote=FLOATS,
    complex="own",
    vjp=lambda g, input, UPLO: _eigh_values_vjp(g, input, UPLO),
    on="linalg",
    samples=each(draw(positive(3, 3)), draw(positive(2, 4, 4), "U"), draw(positive(0, 3, 3))),
    errors=[fails((2, 3), match="square matrices", error=ShapeError)],
)
def linalg_eigvalsh(input: Array, UPLO: str = "L"):
    """The eigenvalues of a Hermitian input, ascending: (…, n, n) -> (…, n). The triangle ``UPLO`` is read."""
    return converged("linalg.eigvalsh", np.linalg.eigvalsh, input, UPLO.upper())


def _eigh_values_vjp(g: Any, input: Any, UPLO: str) -> Any:
    _, v = linalg_eigh(input, UPLO)
    return matmul(v * g.unsqueeze(-2), v.mH)


def _eig_spec(A: Any) -> Any:
    square("linalg.eig", A)
    wide = complex_of(A.dtype)
    return [(A.shape[:-1], wide), (A.shape, wide)]


def _eig_vjp(g_eigenvalues: Any, g_eigenvectors: Any, eigenvalues: Any, eigenvectors: Any, input_dtype: Any) -> Any:
    """V^-H [diag(g_λ) + (V^H g_V - V^H V diag(Re V^H g_V)) / conj(λ_j - λ_i) off the diagonal] V^H.

    Boeddeker et al. 2017, equation 4.77, for eigenvectors of norm 1.
    """
    v = eigenvectors
    inner = g_eigenvalues.unsqueeze(-1) * v.mH
    if not absent(g_eigenvectors):
        t = matmul(v.mH, g_eigenvectors)
        _no_phase("linalg_eig", t.diagonal(0, -2, -1))
        t = t - matmul(v.mH, v * t.diagonal(0, -2, -1).real.unsqueeze(-2))
        t = t / _differences(eigenvalues).conj()
        t = t - t.diagonal(0, -2, -1).diag_embed()
        inner = inner + matmul(t, v.mH)
    found = linalg_solve(v.mH, inner)
    return found if input_dtype.kind == "c" else found.real


@op(
    spec=_eig_spec,
    promote=FLOATS,
    complex="own",
    outputs=("eigenvalues", "eigenvectors"),
    vjp=_eig_vjp,
    on="linalg",
    samples=each(
        draw(_uncompared(3, 3)), draw(_uncompared(2, 4, 4)), draw(_uncompared(1, 1)), draw(_uncompared(0, 3, 3)),
        draw(_uncompared(0, 0)),
    ),
    errors=[fails((2, 3), match="square matrices", error=ShapeError)],
    bench=[draw((128, 128))],
)  # fmt: skip
def linalg_eig(input: Array):
    """(λ, V) with input V = V diag(λ), the columns of V of norm 1; complex also for real input: (…, n, n).

    In no order, and eigenvectors up to a phase. LinAlgError for infinities and NaN.
    """
    _finite("linalg.eig", input)
    return tuple([x.astype(complex_of(input.dtype), copy=False) for x in converged("linalg.eig", np.linalg.eig, input)])


def _eigvals_vjp(g: Any, input: Any) -> Any:
    _, v = linalg_eig(input)
    found = linalg_solve(v.mH, g.unsqueeze(-1) * v.mH)
    return found if input._array.dtype.kind == "c" else found.real


@op(
    spec=lambda A: _eig_spec(A)[0],
    promote=FLOATS,
    complex="own",
    vjp=_eigvals_vjp,
    on="linalg",
    samples=each(draw((3, 3)), draw((2, 4, 4)), draw((0, 3, 3))),
    errors=[fails((2, 3), match="square matrices", error=ShapeError)],
)
def linalg_eigvals(input: Array):
    """The eigenvalues of input, complex, in no order: (…, n, n) -> (…, n). LinAlgError for infinities and NaN."""
    _finite("linalg.eigvals", input)
    return converged("linalg.eigvals", np.linalg.eigvals, input).astype(complex_of(input.dtype), copy=False)


# ------------------------------------------------------------------------------------------------------ singular values


def _svd_spec(A: Any, full_matrices: bool, driver: Any) -> Any:
    matrices("linalg.svd", A)
    _no_driver("linalg.svd", driver)
    lead, (m, n) = A.shape[:-2], A.shape[-2:]
    k = min(m, n)
    rows, columns = (m, n) if full_matrices else (k, k)
    return [((*lead, m, rows), A.dtype), ((*lead, k), real_of(A.dtype)), ((*lead, columns, n), A.dtype)]


def _no_driver(name: str, driver: Any) -> None:
    if driver is not None:
        raise ArgumentError(f"{name}: keyword argument `driver=` is only supported on CUDA inputs, got {driver!r}")


def _skew(x: Any) -> Any:
    return x - x.mH


def _svd_vjp(g_U: Any, g_S: Any, g_Vh: Any, U: Any, S: Any, Vh: Any) -> Any:
    """U [skew(U^H g_U) / E S + S skew(V^H g_V) / E + diag(g_S)] V^H and what lies outside the spans of U and V.

    E_ij = S_j² - S_i². Townsend 2016; for complex numbers Wan, Zhang 2019.
    """
    k = S._array.shape[-1]
    has_U, has_V = not absent(g_U), not absent(g_Vh)
    if U._array.shape[-1] > k:
        U, g_U = U[..., :k], g_U[..., :k]
    if Vh._array.shape[-2] > k:
        Vh, g_Vh = Vh[..., :k, :], g_Vh[..., :k, :]
    if not has_U and not has_V:
        return matmul(U * g_S.unsqueeze(-2), Vh)
    m, n = U._array.shape[-2], Vh._array.shape[-1]
    inner: Any = g_S.diag_embed()
    e = _differences(S * S)
    skew_U, skew_V = _skew(matmul(U.mH, g_U)), _skew(matmul(Vh, g_Vh.mH))
    _no_phase("svd", (skew_U + skew_V).diagonal(0, -2, -1))
    if has_U:
        inner = inner + skew_U / e * S.unsqueeze(-2)
    if has_V:
        inner = inner + S.unsqueeze(-1) * (skew_V / e)
    if has_U and has_V and U._array.dtype.kind == "c":
        inner = inner + (skew_U.diagonal(0, -2, -1) / (2 * S)).diag_embed()
    found = matmul(matmul(U, inner), Vh)
    if m > k and has_U:
        scaled = matmul(g_U / S.unsqueeze(-2), Vh)
        found = found + scaled - matmul(U, matmul(U.mH, scaled))
    if n > k and has_V:
        scaled = matmul(U, g_Vh / S.unsqueeze(-1))
        found = found + scaled - matmul(matmul(scaled, Vh.mH), Vh)
    return found


@op(
    spec=_svd_spec,
    promote=FLOATS,
    complex="own",
    outputs=("U", "S", "Vh"),
    vjp=_svd_vjp,
    on="linalg",
    samples=each(
        draw(_vectors(3, 3)), draw(_vectors(4, 3), False), draw(_vectors(2, 3, 5), False), draw(_vectors(1, 1)),
        draw(_vectors(0, 3, 2)), draw(_vectors(3, 0)),
    ),
    errors=[
        fails((3,), match="at least 2 dimensions", error=ShapeError),
        fails((2, 2), driver="gesvd", match="driver", error=ArgumentError),
    ],
    bench=[draw((128, 128))],
)  # fmt: skip
def linalg_svd(A: Array, full_matrices: bool = True, *, driver: str | None = None):
    """(U, S, Vh) with A = U diag(S) Vh, U and V unitary, S descending: (…, m, n) -> (…, m, m), (…, k), (…, n, n).

    k = min(m, n); without ``full_matrices`` U is (…, m, k) and Vh (…, k, n). U and V are determined up to signs
    (phases). LinAlgError where A is not finite. float32, float64, complex.
    """
    if not A.size:
        (u, dtype), (s, real), (vh, _) = _svd_spec(A, full_matrices, None)
        eyes = [np.broadcast_to(np.eye(*t[-2:], dtype=dtype), t).copy() for t in (u, vh)]
        return eyes[0], np.zeros(s, real), eyes[1]
    return tuple(converged("linalg.svd", np.linalg.svd, A, full_matrices))


def _svdvals_vjp(g: Any, A: Any) -> Any:
    u, _, vh = linalg_svd(A, False)
    return matmul(u * g.unsqueeze(-2), vh)


def _svdvals_spec(A: Any, driver: Any) -> Any:
    return _svd_spec(A, False, driver)[1]


@op(
    spec=_svdvals_spec,
    promote=FLOATS,
    complex="own",
    vjp=_svdvals_vjp,
    on="linalg",
    samples=each(draw((3, 3)), draw((4, 3)), draw((2, 3, 5)), draw((0, 3, 2)), draw((3, 0))),
    errors=[fails((3,), match="at least 2 dimensions", error=ShapeError)],
)
def linalg_svdvals(A: Array, *, driver: str | None = None):
    """The singular values of A, descending: (…, m, n) -> (…, min(m, n))."""
    if not A.size:
        return np.zeros(*_svdvals_spec(A, None))
    return converged("linalg.svd", lambda a: np.linalg.svd(a, compute_uv=False), A)


_SVD = result_type("svd", ("U", "S", "V"))


@composite(samples=each(
    draw(_vectors(4, 3)), draw(_vectors(2, 3, 5)), draw(_vectors(3, 3), False), draw(_vectors(4, 3), compute_uv=False),
))  # fmt: skip
@takes_out
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> Any:
    """(U, S, V) with input = U diag(S) V^H; ``some``: of reduced size. V, where ``linalg.svd`` returns V^H.

    Without ``compute_uv`` U (…, m, m) and V (…, n, n) are zeros.
    """
    if compute_uv:
        u, s, vh = linalg_svd(input, not some)
        return _SVD(u, s, vh.mH)
    s = linalg_svdvals(input)
    lead, (m, n) = tuple(input.shape[:-2]), input.shape[-2:]
    return _SVD(input.new_zeros((*lead, m, m)), s, input.new_zeros((*lead, n, n)))


def _random_range(A: Any, q: int, niter: int, M: Any) -> Any:
    """Orthonormal columns that span most of A's range: Halko et al. 2009, algorithm 4.4."""
    x = A if M is None else A - M
    start: Any = A.new_zeros((x.shape[-1], q)).normal_()
    found = linalg_qr(matmul(x, start)).Q
    for _ in range(niter):
        other = linalg_qr(matmul(x.mH, found)).Q
        found = linalg_qr(matmul(x, other)).Q
    return found


@composite(on="function", samples=each(
    draw(_vectors(5, 4), 3), draw(_vectors(3, 5), 2, 1), draw(_vectors(2, 5, 3), 2, 0, _vectors(2, 5, 3)),
))  # fmt: skip
def svd_lowrank(A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None) -> Any:
    """(U, S, V) of rank q with A - M ≈ U diag(S) V^H, from a random projection: (…, m, n). Halko et al. 2009, 5.1."""
    q, niter = 6 if q is None else q, 2 if niter is None else niter
    x: Any = A
    if M is not None:
        M = M.broadcast_to(x.shape)
    if x.shape[-2] < x.shape[-1]:
        found = _random_range(x.mH, q, niter, None if M is None else M.mH)
        b = matmul(x if M is None else x - M, found)
        u, s, vh = linalg_svd(b, False)
        return u, s, matmul(found, vh.mH)
    found = _random_range(x, q, niter, M)
    u, s, vh = linalg_svd(matmul(found.mH, x if M is None else x - M), False)
    return matmul(found, u), s, vh.mH


@composite(on="function", samples=each(draw(_vectors(5, 4), 3), draw(_vectors(2, 3, 5), center=False)))
def pca_lowrank(A: Tensor, q: int | None = None, center: bool = True, niter: int = 2) -> Any:
    """(U, S, V): the q first principal components of the rows of A (…, m, n), the columns of V. ``svd_lowrank``."""
    m, n = A.shape[-2:]
    if q is None:
        q = min(6, m, n)
    elif not 0 <= q <= min(m, n):
        raise ArgumentError(
            f"pca_lowrank: q(={q}) must be non-negative integer and not greater than min(m, n)={min(m, n)}"
        )
    if niter < 0:
        raise ArgumentError(f"pca_lowrank: niter(={niter}) must be non-negative integer")
    return svd_lowrank(A - A.mean(-2, True) if center else A, q, niter)  # type: ignore[attr-defined]

