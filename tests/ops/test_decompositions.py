"""Factorisations, systems of equations and what follows from them: what their declarations do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.autograd.gradcheck import gradcheck, gradgradcheck
from tensorlib.errors import ArgumentError, AutogradError, DtypeError, ShapeError
from tensorlib.linalg import LinAlgError

SHAPES = [(4, 4), (5, 3), (3, 5), (2, 4, 3), (2, 0, 3, 3)]
DTYPES = [np.float64, np.complex128]


def numbers(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    return tl.from_numpy((x + 1j * rng.standard_normal(shape) if dtype == np.complex128 else x).astype(dtype))


def hermitian(*shape: int, dtype: Any = np.float64) -> Any:
    x = numbers(*shape, dtype=dtype)
    return x + x.mH


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)


def unitary(q: Any) -> None:
    close(q.mH @ q, tl.eye(q.shape[-1], dtype=q.dtype).expand(*q.shape[:-2], -1, -1))


# ------------------------------------------------------------------------------------------------------- factorisations


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values(shape: tuple[int, ...], dtype: Any) -> None:
    a = numbers(*shape, dtype=dtype)
    for full in (True, False):
        u, s, vh = tl.linalg.svd(a, full_matrices=full)
        k = s.shape[-1]
        close((u[..., :k] * s.unsqueeze(-2)) @ vh[..., :k, :], a)
        unitary(u)
        unitary(vh.mH)
        assert not s.dtype.is_complex and (s.diff(dim=-1) <= 0).all()
    u, s, v = tl.svd(a)
    close((u * s.unsqueeze(-2)) @ v.mH, a)
    close(tl.linalg.svdvals(a), s)
    assert tl.svd(a, compute_uv=False).U.abs().sum() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_eigenvalues(dtype: Any) -> None:
    a = numbers(2, 4, 4, dtype=dtype)
    values, vectors = tl.linalg.eig(a)
    assert values.dtype == vectors.dtype == tl.complex128
    close(a.to(tl.complex128) @ vectors, vectors * values.unsqueeze(-2))
    close(vectors.abs().square().sum(-2), tl.ones(2, 4, dtype=tl.float64))
    h = hermitian(2, 4, 4, dtype=dtype)
    values, vectors = tl.linalg.eigh(h)
    close((vectors * values.unsqueeze(-2)) @ vectors.mH, h)
    unitary(vectors)
    close(tl.linalg.eigvalsh(h.tril(), "L"), values)
    close(tl.linalg.eigvalsh(h.triu(), "U"), values)


def test_lu_without_pivots_and_in_panels() -> None:
    a = numbers(2, 70, 50)
    p, lower, upper = tl.linalg.lu(a)
    close(p @ lower @ upper, a)
    assert lower.abs().max() <= 1
    p, lower, upper = tl.linalg.lu(a, pivot=False)
    assert p.numel() == 0
    np.testing.assert_allclose((lower @ upper).numpy(), a.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_solutions(dtype: Any) -> None:
    a, b = numbers(3, 5, 5, dtype=dtype), numbers(3, 5, 2, dtype=dtype, seed=1)
    close(a @ tl.linalg.solve(a, b), b)
    close(tl.linalg.solve(a, b.mT, left=False) @ a, b.mT)
    lu, pivots = tl.linalg.lu_factor(a)
    close(a.mH @ tl.linalg.lu_solve(lu, pivots, b, adjoint=True), b)
    for symmetric in (True, False):
        s = hermitian(5, 5, dtype=dtype) if symmetric else a[0] + a[0].mT
        ld, p = tl.linalg.ldl_factor(s, hermitian=symmetric)
        close(s @ tl.linalg.ldl_solve(ld, p, b[0], hermitian=symmetric), b[0])
    spd = a @ a.mH + tl.eye(5, dtype=a.dtype)
    close(spd @ tl.cholesky_solve(b, tl.linalg.cholesky(spd)), b)
    close(spd @ tl.cholesky_inverse(tl.linalg.cholesky(spd)), tl.eye(5, dtype=a.dtype).expand(3, 5, 5))
    q = tl.linalg.householder_product(*tl.geqrf(a))
    close(q, tl.linalg.qr(a).Q)
    close(tl.ormqr(*tl.geqrf(a), b), q @ b)
    close(tl.ormqr(*tl.geqrf(a), b.mT, left=False, transpose=True), b.mT @ q.mH)


def test_triangles_larger_than_a_block() -> None:
    a = numbers(150, 150).tril() + 20 * tl.eye(150, dtype=tl.float64)
    b = numbers(150, 3)
    close(a @ tl.linalg.solve_triangular(a, b, upper=False), b)
    close(a.mT @ tl.linalg.solve_triangular(a.mT, b, upper=True), b)
    zero = tl.linalg.solve_triangular(tl.zeros(2, 2), tl.ones(2, 1), upper=True)
    assert not zero.isfinite().any()


def test_exponentials_of_matrices() -> None:
    a = numbers(2, 3, 3) * tl.tensor([0.1, 30.0], dtype=tl.float64).reshape(2, 1, 1)
    values, vectors = tl.linalg.eig(a)
    want = (vectors * values.exp().unsqueeze(-2)) @ tl.linalg.inv(vectors)
    np.testing.assert_allclose(tl.matrix_exp(a).numpy(), want.real.numpy(), rtol=1e-9)
    assert tl.matrix_exp(tl.full((2, 2), float("nan"))).isnan().all()


def test_low_rank() -> None:
    a = numbers(20, 3) @ numbers(3, 12, seed=1)
    u, s, v = tl.svd_lowrank(a, q=5)
    close((u * s.unsqueeze(-2)) @ v.mT, a)
    u, s, v = tl.pca_lowrank(a, q=3)
    close((u * s.unsqueeze(-2)) @ v.mT, a - a.mean(0, keepdim=True))
    assert tl.linalg.matrix_rank(a).item() == 3


# ------------------------------------------------------------------------------------------------------------ gradients


def _invariant(name: str) -> Any:
    """A function of a matrix that does not depend on the choice of signs and phases."""

    def svd(a: Any) -> Any:
        u, s, vh = tl.linalg.svd(a, full_matrices=False)
        return (u * (s**3).unsqueeze(-2)) @ vh, u[..., :1] @ vh[..., :1, :]

    def eigh(a: Any) -> Any:
        values, v = tl.linalg.eigh(a + a.mH)
        return (v * values.exp().unsqueeze(-2)) @ v.mH, v[..., :1] @ v[..., :1].mH

    def eig(a: Any) -> Any:
        values, v = tl.linalg.eig(a)
        out = (v * (values**2).unsqueeze(-2)) @ tl.linalg.inv(v)
        return out.real if not a.is_complex() else out

    return {"svd": svd, "eigh": eigh, "eig": eig}[name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "shape"), [("svd", (3, 3)), ("svd", (4, 2)), ("svd", (2, 3)), ("eigh", (3, 3)),
                                             ("eig", (3, 3))])  # fmt: skip
def test_gradients_of_vectors(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    a = numbers(*shape, dtype=dtype).requires_grad_()
    assert gradcheck(_invariant(name), (a,))
    assert gradgradcheck(_invariant(name), (a,), atol=1e-4)


def test_gradients_through_factors() -> None:
    a = numbers(3, 3).requires_grad_()
    spd = lambda x: x @ x.mT + tl.eye(3, dtype=x.dtype)  # noqa: E731
    for function in (lambda x: tl.linalg.cholesky(spd(x)), lambda x: tl.logdet(spd(x)),
                     lambda x: tl.cholesky_inverse(tl.linalg.cholesky(spd(x)))):  # fmt: skip
        assert gradcheck(function, (a,)) and gradgradcheck(function, (a,), atol=1e-4)


def test_gradient_of_a_singular_determinant() -> None:
    """The cofactors: of rank n - 1 they are not 0."""
    a = tl.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0]], dtype=tl.float64)
    zero = tl.diag(tl.tensor([2.0, 3.0, 0.0], dtype=tl.float64)).requires_grad_()
    tl.linalg.det(zero).backward()
    np.testing.assert_allclose(zero.grad.numpy(), np.diag([0.0, 0.0, 6.0]), atol=1e-12)
    both = tl.stack([zero.detach(), a + tl.eye(3, dtype=a.dtype)]).requires_grad_()
    assert gradcheck(tl.linalg.det, (both,))


def test_repeated_singular_values_have_gradients_where_vectors_do_not_matter() -> None:
    a = tl.eye(3).requires_grad_()
    tl.linalg.svd(a).S.sum().backward()
    assert a.grad.tolist() == tl.eye(3).tolist()


def test_gradients_that_do_not_exist() -> None:
    a = numbers(3, 3, dtype=np.complex128).requires_grad_()
    with pytest.raises(AutogradError, match=r"specified up to multiplication by e\^\{i phi\}"):
        tl.linalg.svd(a).U.real.sum().backward()
    with pytest.raises(AutogradError, match="mode='r'"):
        tl.linalg.qr(a, mode="r").R.abs().sum().backward()
    tall = numbers(4, 3).requires_grad_()
    with pytest.raises(AutogradError, match="not differentiable when mode='complete'"):
        tl.linalg.qr(tall, mode="complete").R.sum().backward()
    for f in (tl.geqrf, tl.linalg.ldl_factor):
        with pytest.raises(AutogradError, match="not implemented"):
            f(numbers(3, 3).requires_grad_())[0].sum().backward()


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tl.linalg.inv(tl.zeros(2, 2)), "linalg.inv: The diagonal element 1 is zero"),
        (lambda: tl.linalg.inv(tl.stack([tl.eye(2), tl.ones(2, 2)])), r"\(Batch element 1\): The diagonal element 2"),
        (lambda: tl.linalg.solve(tl.ones(2, 2), tl.ones(2)), "solver failed because the input matrix is singular"),
        (lambda: tl.linalg.cholesky(-tl.eye(2)), "leading minor of order 1 is not positive-definite"),
        (lambda: tl.linalg.cholesky(tl.full((2, 2), float("nan"))), "leading minor of order 1"),
        (lambda: tl.linalg.lu_factor(tl.zeros(2, 2)), r"U\[1,1\] is zero"),
        (lambda: tl.linalg.svd(tl.full((2, 2), float("nan"))), "contained non-finite values"),
        (lambda: tl.linalg.eig(tl.full((2, 2), float("inf"))), "should not contain infs or NaNs"),
        (lambda: tl.linalg.ldl_factor(tl.zeros(2, 2)), "singular"),
    ],
)
def test_numbers_that_cannot_be(call: Any, match: str) -> None:
    with pytest.raises(LinAlgError, match=match):
        call()
    assert issubclass(LinAlgError, RuntimeError)


def test_info_instead_of_errors() -> None:
    found, info = tl.linalg.inv_ex(tl.stack([tl.eye(2), tl.ones(2, 2)]))
    assert info.tolist() == [0, 2] and info.dtype == tl.int32
    assert found[0].tolist() == [[1.0, 0.0], [0.0, 1.0]] and not found[1].isfinite().all()
    found, info = tl.linalg.cholesky_ex(tl.tensor([[1.0, 2.0], [2.0, 1.0]]))
    assert info.item() == 2 and found.tolist() == [[1.0, 0.0], [2.0, -3.0]]
    assert tl.linalg.solve_ex(tl.ones(2, 2), tl.ones(2)).info.item() == 2
    for f in (tl.linalg.inv_ex, tl.linalg.lu_factor_ex):
        with pytest.raises(LinAlgError):
            f(tl.zeros(2, 2), check_errors=True)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: tl.linalg.det(tl.ones(2, 3)), ShapeError, "square matrices, but they are 2 by 3"),
        (lambda: tl.linalg.inv(tl.eye(2).half()), DtypeError, "Low precision dtypes not supported"),
        (lambda: tl.linalg.svd(tl.eye(2).int()), DtypeError, "Expected a floating point or complex tensor"),
        (lambda: tl.linalg.solve(tl.eye(2), tl.eye(2).double()), DtypeError, "one dtype"),
        (lambda: tl.linalg.solve(tl.eye(2), tl.ones(3, 1)), ShapeError, "Incompatible shapes of A and B"),
        (lambda: tl.linalg.matrix_norm(tl.ones(2, 2), 3), ArgumentError, "Order 3 not supported"),
        (lambda: tl.linalg.norm(tl.ones(2, 2, 2), 2), ShapeError, "input must be 1D or 2D"),
        (lambda: tl.linalg.lstsq(tl.ones(2, 2), tl.ones(2, 2), driver="x"), ArgumentError, "gels, gelsy"),
        (lambda: tl.linalg.multi_dot([tl.ones(2)]), ShapeError, "at least 2 tensors"),
        (lambda: tl.tensordot(tl.ones(2, 3), tl.ones(3, 2)), ShapeError, "contracted dimensions need to match"),
        (lambda: tl.linalg.cross(tl.ones(2), tl.ones(2)), ShapeError, "must have length 3"),
        (lambda: tl.linalg.matrix_power(tl.ones(2, 3), 2), ShapeError, "square"),
    ],
)
def test_calls_that_cannot_be(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_results_into_given_tensors() -> None:
    a = numbers(3, 3)
    q, r = tl.empty(0, dtype=tl.float64), tl.empty(0, dtype=tl.float64)
    found = tl.linalg.qr(a, out=(q, r))
    assert found.Q is q and found.R is r
    out = tl.empty(3, 3, dtype=tl.float64)
    assert tl.linalg.inv(a, out=out) is out
    close(out @ a, tl.eye(3, dtype=tl.float64))
