"""Write tensorlib/ops/_special_tables.py: Chebyshev series of the special functions, fitted to SciPy's values.

    python tools/fit_special.py

Needs SciPy, which the library itself never imports. Each table is the interpolant at the Chebyshev points of a smooth
factor of the function (the growth, the logarithm and the oscillation taken out), cut where its terms no longer count.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

Function = Callable[[Any], Any]


def fit(f: Function, degree: int) -> tuple[float, ...]:
    """Coefficients on [-1, 1], up to where they are the noise of the values."""
    n = 2 * degree
    odd = 2 * np.arange(n) + 1
    at = f(np.cos(odd * np.pi / (2 * n)))
    c = np.array([at @ np.cos(j * odd % (4 * n) * np.pi / (2 * n)) / degree for j in range(degree)])
    c[0] /= 2
    size = np.abs(c) / np.abs(c).max()
    pair = np.maximum(size[:-1], size[1:])
    small = (j for j in range(2, degree - 1) if pair[j] < 1e-16 or (pair[j] < 3e-15 and pair[j] > pair[j - 2] / 3))
    return tuple(map(float, c[: next(small, degree)]))


def near(f: Function, bound: float) -> Function:
    """f(x) as a function of t = 2 x / bound - 1."""
    return lambda t: f((np.asarray(t) + 1) * bound / 2)


def near_squared(f: Function, bound: float) -> Function:
    """f(x) as a function of t = 2 x² / bound² - 1."""
    return lambda t: f(np.sqrt((np.asarray(t) + 1) / 2) * bound)


def far(f: Function, bound: float) -> Function:
    """f(x) as a function of t = 2 bound / x - 1."""
    return lambda t: f(2 * bound / (np.asarray(t) + 1))


def far_squared(f: Function, bound: float) -> Function:
    """f(x) as a function of t = 2 bound² / x² - 1."""
    return lambda t: f(bound * np.sqrt(2 / (np.asarray(t) + 1)))


def _hankel(order: int, part: int) -> Function:
    """P (part 0) or x Q (part 1) of J = √(2/πx) (P cos χ - Q sin χ), Y = √(2/πx) (P sin χ + Q cos χ)."""

    def asymptotic(x: Any) -> Any:  # DLMF 10.17.3, for x > 40
        a, total = 1.0, np.zeros_like(x)
        for k in range(1, 40):
            if (k - 1) % 2 == part:
                total = total + (-1) ** ((k - 1) // 2) * a * x ** -(k - 1.0 - part)
            a *= (4 * order * order - (2 * k - 1) ** 2) / (k * 8)
        return total

    def rotated(x: Any) -> Any:
        chi = x - (2 * order + 1) * np.pi / 4
        scale = np.sqrt(np.pi * x / 2)
        j, y = special.jv(order, x) * scale, special.yv(order, x) * scale
        if part == 0:
            return j * np.cos(chi) + y * np.sin(chi)
        return (y * np.cos(chi) - j * np.sin(chi)) * x

    return lambda x: np.where(x > 40, asymptotic(np.maximum(x, 40)), rotated(np.minimum(x, 40)))


def _airy_oscillating(part: int) -> Function:
    """P or ζ Q of Ai(-z) = (P sin(ζ + π/4) - Q cos(ζ + π/4)) / (√π z^¼), ζ = ⅔ z^1.5 (DLMF 9.7.9)."""

    def u(zeta: Any) -> Any:
        c, total = 1.0, np.zeros_like(zeta)
        for k in range(0, 30):
            if k % 2 == part:
                total = total + (-1) ** (k // 2) * c * zeta ** -(k - float(part))
            c *= (6 * k + 5) * (6 * k + 3) * (6 * k + 1) / (216 * (k + 1) * (2 * k + 1))
        return total

    def rotated(zeta: Any) -> Any:
        z = (1.5 * zeta) ** (2 / 3)
        scale = np.sqrt(np.pi) * z**0.25
        ai, _, bi, _ = special.airy(-z)
        s, c = np.sin(zeta + np.pi / 4), np.cos(zeta + np.pi / 4)
        return scale * (ai * s + bi * c) if part == 0 else scale * (bi * s - ai * c) * zeta

    return lambda zeta: np.where(zeta > 30, u(np.maximum(zeta, 30)), rotated(np.minimum(zeta, 30)))


def _airy_decaying(zeta: Any) -> Any:
    """2 √π x^¼ e^ζ Ai(x)."""
    x = (1.5 * np.minimum(zeta, 1e8)) ** (2 / 3)
    return 2 * np.sqrt(np.pi) * x**0.25 * special.airye(x)[0]


_J0 = special.j0
ZETA = 2 / 3 * 4.5**1.5
TABLES: dict[str, tuple[str, tuple[float, ...]]] = {
    "I0_NEAR": ("e^-x I0(x), x in [0, 8]", fit(near(special.i0e, 8), 40)),
    "I0_FAR": ("√x e^-x I0(x), x > 8, in 8/x", fit(far(lambda x: np.sqrt(x) * special.i0e(x), 8), 40)),
    "I1_NEAR": ("e^-x I1(x) / x, x in [0, 8]", fit(near(lambda x: special.i1e(x) / x, 8), 40)),
    "I1_FAR": ("√x e^-x I1(x), x > 8, in 8/x", fit(far(lambda x: np.sqrt(x) * special.i1e(x), 8), 40)),
    "K0_NEAR": (
        "K0(x) + log(x/2) I0(x), x in [0, 2], in x²",
        fit(near_squared(lambda x: special.k0(x) + np.log(x / 2) * special.i0(x), 2), 20),
    ),
    "K0_FAR": ("√x e^x K0(x), x > 2, in 2/x", fit(far(lambda x: np.sqrt(x) * special.k0e(x), 2), 50)),
    "K1_NEAR": (
        "x (K1(x) - log(x/2) I1(x)), x in [0, 2], in x²",
        fit(near_squared(lambda x: x * (special.k1(x) - np.log(x / 2) * special.i1(x)), 2), 20),
    ),
    "K1_FAR": ("√x e^x K1(x), x > 2, in 2/x", fit(far(lambda x: np.sqrt(x) * special.k1e(x), 2), 50)),
    "J0_NEAR": ("J0(x), x in [0, 8], in x²", fit(near_squared(_J0, 8), 30)),
    "J1_NEAR": ("J1(x) / x, x in [0, 8], in x²", fit(near_squared(lambda x: special.j1(x) / x, 8), 30)),
    "Y0_NEAR": (
        "Y0(x) - 2/π log(x) J0(x), x in [0, 8], in x²",
        fit(near_squared(lambda x: special.y0(x) - 2 / np.pi * np.log(x) * _J0(x), 8), 30),
    ),
    "Y1_NEAR": (
        "(Y1(x) - 2/π (log(x) J1(x) - 1/x)) / x, x in [0, 8], in x²",
        fit(
            near_squared(lambda x: (special.y1(x) - 2 / np.pi * (np.log(x) * special.j1(x) - 1 / x)) / x, 8), 30
        ),
    ),
    "P0_FAR": ("P of J0 and Y0, x > 8, in 64/x²", fit(far_squared(_hankel(0, 0), 8), 30)),
    "Q0_FAR": ("x Q of J0 and Y0, x > 8, in 64/x²", fit(far_squared(_hankel(0, 1), 8), 15)),
    "P1_FAR": ("P of J1 and Y1, x > 8, in 64/x²", fit(far_squared(_hankel(1, 0), 8), 30)),
    "Q1_FAR": ("x Q of J1 and Y1, x > 8, in 64/x²", fit(far_squared(_hankel(1, 1), 8), 30)),
    "AIRY_MIDDLE": ("Ai(x), x in [-4.5, 2]", fit(lambda t: special.airy(np.asarray(t) * 3.25 - 1.25)[0], 50)),
    "AIRY_DECAYING": (
        "2 √π x^¼ e^ζ Ai(x), ζ = 2/3 x^1.5, x > 2, in 1.885618083164127/ζ",
        fit(far(_airy_decaying, 2 / 3 * 2**1.5), 60),
    ),
    "AIRY_P": (
        "P of Ai(-z), z > 4.5, in (6.363961030678928/ζ)²", fit(far_squared(_airy_oscillating(0), ZETA), 40),
    ),
    "AIRY_Q": (
        "ζ Q of Ai(-z), z > 4.5, in (6.363961030678928/ζ)²", fit(far_squared(_airy_oscillating(1), ZETA), 16),
    ),
    "ERFCX": (
        "(1 + 2x) erfcx(x), x >= 0, in (x - 4) / (x + 4)",
        fit(
            lambda t: (lambda x: (1 + 2 * x) * special.erfcx(x))(4 * (1 + np.asarray(t)) / (1 - np.asarray(t))), 50
        ),
    ),
}  # fmt: skip

NODES, WEIGHTS = np.polynomial.legendre.leggauss(28)
TAYLOR = [float(special.zetac(k)) for k in range(2, 30)]


def main() -> None:
    """Write the file."""
    lines = [
        '"""Coefficients of the special functions: written by tools/fit_special.py, from SciPy\'s values."""',
        "",
        "from __future__ import annotations",
        "",
        "# Chebyshev series: what, over which range, in which variable (mapped onto [-1, 1]).",
    ]

    def table(name: str, note: str, values: Any) -> None:
        lines.append(f"#: {note}")
        lines.append(f"{name} = (")
        lines.extend(f"    {float(v)!r}," for v in values)
        lines.extend([")  # fmt: skip", ""])

    for name, (note, c) in TABLES.items():
        table(name, note, c)
    table("ZETA_MINUS_1", "ζ(k) - 1 for k = 2, 3, …", TAYLOR)
    table("LEGENDRE_NODES", "Gauss and Legendre's nodes on [0, 1]", (NODES + 1) / 2)
    table("LEGENDRE_WEIGHTS", "and their weights", WEIGHTS / 2)
    target = Path(__file__).parent.parent / "tensorlib" / "ops" / "_special_tables.py"
    target.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
