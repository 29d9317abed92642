"""Special functions beside SciPy: float64 to 1e-12 and float32 to a few units in the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special as scipy

import tensorlib
from tensorlib import special

RNG = np.random.default_rng(7)
ANY = np.concatenate([RNG.uniform(-30, 30, 2000), 10.0 ** RNG.uniform(-6, 2.5, 500)])
ABOVE_0 = np.abs(ANY)
INSIDE = RNG.uniform(-1, 1, 2000)

#: name -> (ours, SciPy's, at, below what size the error counts absolutely)
UNARY: dict[str, tuple[Callable[..., Any], Callable[..., Any], np.ndarray, float]] = {
    "lgamma": (tensorlib.lgamma, scipy.gammaln, ANY[np.abs(ANY - np.round(ANY)) > 1e-3], 1),
    "digamma": (tensorlib.digamma, scipy.digamma, ANY[np.abs(ANY - np.round(ANY)) > 1e-3], 1),
    "i0": (special.i0, scipy.i0, ANY, 0),
    "i0e": (special.i0e, scipy.i0e, ANY, 0),
    "i1": (special.i1, scipy.i1, ANY, 0),
    "i1e": (special.i1e, scipy.i1e, ANY, 0),
    "j0": (special.bessel_j0, scipy.j0, ANY, 1),
    "j1": (special.bessel_j1, scipy.j1, ANY, 1),
    "y0": (special.bessel_y0, scipy.y0, ABOVE_0, 1),
    "y1": (special.bessel_y1, scipy.y1, ABOVE_0, 1),
    "k0": (special.modified_bessel_k0, scipy.k0, ABOVE_0, 0),
    "k1": (special.modified_bessel_k1, scipy.k1, ABOVE_0, 0),
    "k0e": (special.scaled_modified_bessel_k0, scipy.k0e, ABOVE_0, 0),
    "k1e": (special.scaled_modified_bessel_k1, scipy.k1e, ABOVE_0, 0),
    "airy": (special.airy_ai, lambda x: scipy.airy(x)[0], ANY[np.abs(ANY) < 40], 1),
    "erf": (special.erf, scipy.erf, ANY / 8, 0),
    "erfc": (special.erfc, scipy.erfc, ANY[ANY < 25], 0),
    "erfcx": (special.erfcx, scipy.erfcx, ANY[ANY > -20], 0),
    "erfinv": (special.erfinv, scipy.erfinv, INSIDE, 0),
    "ndtr": (special.ndtr, scipy.ndtr, ANY, 0),
    "log_ndtr": (special.log_ndtr, scipy.log_ndtr, ANY[ANY < 5], 0),
    "ndtri": (special.ndtri, scipy.ndtri, (INSIDE + 1) / 2, 1e-3),
    "entr": (special.entr, scipy.entr, ABOVE_0, 1e-2),
}


def _compare(got: Any, want: np.ndarray, floor: float, units: float) -> None:
    a, b = got.numpy().astype(np.float64), np.asarray(want, np.float64)
    finite = np.isfinite(b) & (np.abs(b) > 1e-37) & (np.abs(b) < 3e38)
    error = np.abs(a - b)[finite] / np.maximum(np.abs(b[finite]), max(floor, 1e-300))
    assert error.max() < units


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions_equal_scipy(name: str) -> None:
    ours, theirs, at, floor = UNARY[name]
    _compare(ours(tensorlib.tensor(at)), theirs(at), floor, 1e-12)
    single = at.astype(np.float32)
    _compare(ours(tensorlib.tensor(single)), theirs(single.astype(np.float64)), floor, 4e-7)


def test_incomplete_gamma_functions_equal_scipy() -> None:
    a = 10 ** RNG.uniform(-3, 3, 4000)
    x = a * np.exp(RNG.normal(size=4000) * RNG.choice([1, 0.3, 0.03], 4000))
    for ours, theirs in ((special.gammainc, scipy.gammainc), (special.gammaincc, scipy.gammaincc)):
        _compare(ours(tensorlib.tensor(a), tensorlib.tensor(x)), theirs(a, x), 1e-30, 2e-12)


def test_zeta_and_polygamma_equal_scipy() -> None:
    s, q = RNG.uniform(1.01, 30, 2000), 10 ** RNG.uniform(-2, 3, 2000)
    _compare(special.zeta(tensorlib.tensor(s), tensorlib.tensor(q)), scipy.zeta(s, q), 0, 1e-12)
    for n in (1, 2, 5):
        _compare(special.polygamma(n, tensorlib.tensor(q)), scipy.polygamma(n, q), 0, 1e-12)


@pytest.mark.parametrize("name, theirs", [
    ("chebyshev_polynomial_t", scipy.eval_chebyt), ("chebyshev_polynomial_u", scipy.eval_chebyu),
    ("shifted_chebyshev_polynomial_t", scipy.eval_sh_chebyt), ("hermite_polynomial_h", scipy.eval_hermite),
    ("hermite_polynomial_he", scipy.eval_hermitenorm), ("laguerre_polynomial_l", scipy.eval_laguerre),
    ("legendre_polynomial_p", scipy.eval_legendre),
])  # fmt: skip
def test_polynomials_equal_scipy(name: str, theirs: Callable[..., Any]) -> None:
    x, n = RNG.uniform(0, 1, 500), RNG.integers(0, 30, 500)
    want = theirs(n, x)
    _compare(getattr(special, name)(tensorlib.tensor(x), tensorlib.tensor(n)), want, np.abs(want).max() * 1e-2, 1e-11)


def test_bools_are_not_subtracted() -> None:
    mask = tensorlib.tensor([True, False])
    for call in (lambda: 1 - mask, lambda: mask - 1, lambda: mask - mask, lambda: tensorlib.ones(2) - mask):
        with pytest.raises(RuntimeError, match="bool tensor"):
            call()


def test_samplers_have_the_moments_of_their_distributions() -> None:
    tensorlib.manual_seed(3)
    n = 40_000
    assert tensorlib.poisson(tensorlib.full((n,), 4.0)).mean().item() == pytest.approx(4, abs=0.06)
    drawn = tensorlib.binomial(tensorlib.full((n,), 10.0), tensorlib.full((n,), 0.3))
    assert drawn.mean().item() == pytest.approx(3, abs=0.05)
    assert drawn.var().item() == pytest.approx(2.1, abs=0.1)
    assert tensorlib.empty(n).geometric_(0.25).mean().item() == pytest.approx(4, abs=0.1)
    assert tensorlib.empty(n).cauchy_(1.0, 2.0).median().item() == pytest.approx(1, abs=0.08)
    assert tensorlib.empty(n).log_normal_(0.5, 0.25).log().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "function, integers",
    [(special.gammainc, False), (special.gammaincc, False), (special.zeta, False), (tensorlib.gcd, True),
     (special.chebyshev_polynomial_t, True), (special.hermite_polynomial_he, True)],
)  # fmt: skip
def test_operands_of_different_layouts(function, integers):
    """Kernels whose loop asks all elements something are also right where a program owns a tile of two dimensions."""
    numbers = RNG.integers(2, 9, (2, 64, 96)) if integers else RNG.uniform(1.1, 9, (2, 64, 96))
    x, y = tensorlib.tensor(numbers[0]), tensorlib.tensor(numbers[1].T.copy())
    np.testing.assert_allclose(function(x, y.t()).numpy(), function(x, y.t().contiguous()).numpy(), rtol=1e-12)
