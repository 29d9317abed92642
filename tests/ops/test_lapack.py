"""Factorisations by LAPACK and without it: the same results from both, whatever the layout of the matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tensorlib import _blas, _lapack, doctor
from tensorlib.ops import _linalg_numpy as numerics

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


@pytest.fixture(params=["LAPACK", "NumPy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "NumPy":
        monkeypatch.setattr(_lapack, "library", lambda: None)
    return str(request.param)


def draw(*shape: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def layouts(a: np.ndarray) -> list[np.ndarray]:
    """The same matrices row by row, column by column, and with gaps."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return [a, np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2), wide[..., ::2], a[::-1][::-1]]


def close(found: Any, wanted: Any) -> None:
    tolerance = 2e-3 if np.asarray(wanted).dtype.char in "fF" else 1e-9
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_found_where_numpy_has_openblas() -> None:
    assert (_lapack.library() is None) == (_blas.openblas() is None)
    assert any(line.startswith("LAPACK") for line in doctor.report())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (6, 4), (3, 7), (2, 3, 4, 4), (70, 70), (0, 3, 3), (3, 0)])
def test_lu(path: str, shape: tuple[int, ...], dtype: Any) -> None:
    a = draw(*shape, dtype=dtype)
    m, n = shape[-2:]
    k = min(m, n)
    for x in layouts(a):
        before = x.copy()
        lu, pivots, info = numerics.lu_factor(x)
        assert np.array_equal(x, before) and lu.dtype == dtype and pivots.dtype == info.dtype == np.int32
        lower = np.tril(lu[..., :k], -1) + np.eye(m, k)
        product = lower @ np.triu(lu[..., :k, :])
        close(product, np.take_along_axis(a, numerics.permutation(pivots, m)[..., None], axis=-2))
        assert (np.abs(np.tril(lu[..., :k], -1)) <= 1.5).all() and not info.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_triangles(path: str, dtype: Any, upper: bool, left: bool, unit: bool) -> None:
    n = 6
    for lead, other in [((), ()), ((3,), (3,)), ((2, 1), (4,)), ((), (2,)), ((1,), (5,))]:
        a = draw(*lead, n, n, dtype=dtype) / 3 + 2 * np.eye(n, dtype=dtype)
        b = draw(*other, *((n, 4) if left else (4, n)), dtype=dtype, seed=1)
        whole = np.triu(a) if upper else np.tril(a)
        if unit:
            whole = whole - np.eye(n) * whole + np.eye(n, dtype=dtype)
        for x in layouts(a):
            unread = np.array(x) + 0
            unread[..., ~np.tri(n, k=-unit, dtype=bool) if not upper else np.tri(n, k=-1 + unit, dtype=bool)] = np.nan
            for t in (x, unread):
                for y in layouts(b):
                    found = numerics.solve_triangular(t, y, upper, left, unit)
                    close(whole @ found if left else found @ whole, np.broadcast_to(b, found.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_on_the_diagonal_of_a_triangle_gives_infinities(path: str, dtype: Any) -> None:
    a = np.array([[2, 0], [1, 0]], dtype)
    with np.errstate(all="ignore"):
        found = numerics.solve_triangular(a, np.array([[2], [4]], dtype), False)
    assert found[0, 0] == 1 and not np.isfinite(found[1, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_solve_and_inverse(path: str, dtype: Any) -> None:
    for lead, other in [((), ()), ((3,), (3,)), ((2, 1), (4,)), ((), (2,)), ((0,), ())]:
        a, b = draw(*lead, 5, 5, dtype=dtype) + 4 * np.eye(5, dtype=dtype), draw(*other, 5, 3, dtype=dtype, seed=1)
        for x in layouts(a):
            found, info = numerics.solve(x, b)
            close(a @ found, np.broadcast_to(b, found.shape))
            assert info.shape == lead and not info.any()
            found, info = numerics.inverse(x)
            close(a @ found, np.broadcast_to(np.eye(5, dtype=dtype), a.shape))
            close(numerics.det(x), np.linalg.det(a))
            for p, q in zip(numerics.slogdet(x), np.linalg.slogdet(a), strict=True):
                close(p, q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_singular(path: str, dtype: Any) -> None:
    a = np.array([[[1, 2], [2, 4]], [[1, 0], [0, 1]], [[0, 0], [0, 0]]], dtype)
    with np.errstate(all="ignore"):
        assert numerics.solve(a, np.ones((3, 2, 1), dtype))[1].tolist() == [2, 0, 1]
        assert numerics.solve(np.array([[0, 1], [0, 1]], dtype), np.ones((2, 1), dtype))[1] == 1
        found, info = numerics.inverse(a)
    assert info.tolist() == [2, 0, 1] and np.array_equal(found[1], np.eye(2))
    assert numerics.det(a).tolist() == [0, 1, 0]
    sign, size = numerics.slogdet(a)
    assert sign.tolist() == [0, 1, 0] and size.tolist() == [-np.inf, 0, -np.inf]
    assert numerics.lu_factor(a)[2].tolist() == [2, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hermitian", [False, True])
def test_ldl(path: str, dtype: Any, hermitian: bool) -> None:
    for lead, n in [((), 7), ((2, 3), 4), ((), 40)]:
        a = draw(*lead, n, n, dtype=dtype)
        a = a + (numerics.adjoint(a) if hermitian else a.swapaxes(-1, -2))
        b = draw(*lead, n, 2, dtype=dtype, seed=1)
        for x in layouts(a):
            ld, pivots, info = numerics.ldl_factor(x, hermitian)
            assert not np.triu(ld, 1).any() and pivots.dtype == np.int32 and not info.any()
            for y in layouts(ld)[:3]:
                close(a @ numerics.ldl_solve(y, pivots, b, hermitian), b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("complete", [False, True])
def test_qr(path: str, dtype: Any, complete: bool) -> None:
    for shape in [(5, 3), (3, 5), (4, 4), (2, 3, 6, 2), (1, 1)]:
        a = draw(*shape, dtype=dtype)
        m, n = shape[-2:]
        k = m if complete else min(m, n)
        for x in layouts(a):
            q, r = numerics.qr(x, complete)
            assert q.shape == (*shape[:-2], m, k) and r.shape == (*shape[:-2], k, n) and not np.tril(r, -1).any()
            close(q @ r, a)
            close(numerics.adjoint(q) @ q, np.broadcast_to(np.eye(k, dtype=dtype), (*shape[:-2], k, k)))
            h, tau = numerics.geqrf(x)
            close(np.triu(h)[..., : min(m, n), :], r[..., : min(m, n), :])
            assert tau.shape == (*shape[:-2], min(m, n))
