"""Orthogonal polynomials, elementwise in argument and degree: Chebyshev's, Hermite's, Laguerre's and Legendre's.

By their three-term recurrences in float64, and Chebyshev's of a high degree inside [-1, 1] by cosines. A degree is cut
to an integer; below 0 the value is 0. As in PyTorch, they have no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._promotion import INT_TO_FLOAT
from tensorlib._samples import Draw, between, draw, each, ints, values
from tensorlib.op import Array, pointwise
from tensorlib.ops._scalar_numpy import over_arrays
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@jit
def _prepared(x, n):
    """Both as blocks; the degree cut to an integer, -1 where it is NaN or infinite; the largest, for the loop."""
    n = tl.cast(n, tl.float64)
    x = tl.where(n == n, x, x)
    n = tl.where(x == x, n, n)
    n = tl.where((n == n) & (tl.abs(n) < 1e9), libdevice.trunc(n), -1.0)
    return x, n, tl.cast(tl.max(n, None), tl.int64) + 1


@jit
def _chebyshev(x, n, KIND: tl.constexpr):
    """The kinds T, U, V, W have one recurrence and start with x, 2x, 2x - 1, 2x + 1."""
    x, n, steps = _prepared(x, n)
    if KIND == "t":
        q = x
    elif KIND == "u":
        q = x + x
    elif KIND == "v":
        q = x + x - 1
    else:
        q = x + x + 1
    p = x * 0 + 1
    inside = (tl.abs(x) < 1) & (n > 8)
    recurring = tl.where(inside | (tl.abs(x) == 1), 0.0, n)
    for k in range(2, steps):
        r = (x + x) * q - p
        go = k <= recurring
        p = tl.where(go, q, p)
        q = tl.where(go, r, q)
    # At ±1, and by x = cos θ between them.
    angle = libdevice.acos(tl.where(inside, x, 0.5))
    odd = n != 2 * tl.floor(n / 2)
    sign = tl.where((x < 0) & odd, -1.0, 1.0)
    if KIND == "t":
        turned = tl.cos(n * angle)
        ends = sign
    elif KIND == "u":
        turned = tl.sin((n + 1) * angle) / tl.sin(angle)
        ends = sign * (n + 1)
    elif KIND == "v":
        turned = tl.cos((n + 0.5) * angle) / tl.cos(angle / 2)
        ends = tl.where(x < 0, sign * (2 * n + 1), 1.0)
    else:
        turned = tl.sin((n + 0.5) * angle) / tl.sin(angle / 2)
        ends = tl.where(x < 0, sign, 2 * n + 1)
    value = tl.where(inside, turned, q)
    value = tl.where(tl.abs(x) == 1, ends, tl.where(n == 0, 1.0, value))
    return tl.where(n < 0, 0.0, value)


@jit
def _chebyshev_t(x, n):
    return _chebyshev(tl.cast(x, tl.float64), n, "t")


@jit
def _chebyshev_u(x, n):
    return _chebyshev(tl.cast(x, tl.float64), n, "u")


@jit
def _chebyshev_v(x, n):
    return _chebyshev(tl.cast(x, tl.float64), n, "v")


@jit
def _chebyshev_w(x, n):
    return _chebyshev(tl.cast(x, tl.float64), n, "w")


@jit
def _shifted_t(x, n):
    return _chebyshev(2 * tl.cast(x, tl.float64) - 1, n, "t")


@jit
def _shifted_u(x, n):
    return _chebyshev(2 * tl.cast(x, tl.float64) - 1, n, "u")


@jit
def _shifted_v(x, n):
    return _chebyshev(2 * tl.cast(x, tl.float64) - 1, n, "v")


@jit
def _shifted_w(x, n):
    return _chebyshev(2 * tl.cast(x, tl.float64) - 1, n, "w")


@jit
def _recurrence(x, n, KIND: tl.constexpr):
    """P(k + 1) from P(k) and P(k - 1), until the degree of each element is reached."""
    x = tl.cast(x, tl.float64)
    x, n, steps = _prepared(x, n)
    if KIND == "h":
        q = x + x
    elif KIND == "l":
        q = 1 - x
    else:
        q = x
    p = x * 0 + 1
    for j in range(1, steps):
        k = j * 1.0
        if KIND == "h":
            r = (x + x) * q - (k + k) * p
        elif KIND == "he":
            r = x * q - k * p
        elif KIND == "l":
            r = ((k + k + 1 - x) * q - k * p) / (k + 1)
        else:
            r = ((k + k + 1) * x * q - k * p) / (k + 1)
        go = j < n
        p = tl.where(go, q, p)
        q = tl.where(go, r, q)
    q = tl.where(n == 0, 1.0, q)
    if KIND == "p":
        odd = n != 2 * tl.floor(n / 2)
        q = tl.where(tl.abs(x) == 1, tl.where(odd, x, 1.0), q)
    if KIND == "l":
        q = tl.where(x == 0, 1.0, q)
    return tl.where(n < 0, 0.0, q)


@jit
def _hermite_h(x, n):
    # PyTorch gives up where the dtype of the argument overflows
    if x.dtype == tl.float64:
        highest = n <= 512
    else:
        highest = n <= 128
    return tl.where(highest, _recurrence(x, n, "h"), float("nan"))


@jit
def _hermite_he(x, n):
    if x.dtype == tl.float64:
        highest = n <= 512
    else:
        highest = n <= 128
    return tl.where(highest, _recurrence(x, n, "he"), float("nan"))


@jit
def _laguerre_l(x, n):
    return _recurrence(x, n, "l")


@jit
def _legendre_p(x, n):
    return _recurrence(x, n, "p")


_DEGREES = each(
    draw(between(-1.5, 1.5, 3, 4), ints(3, 4, high=12)), draw(between(-1, 1, 5, 1), ints(4, high=7)),
    draw(between(-1, 1, 5), 3), draw(0.3, ints(6, high=12)),
    draw(values([1.0, -1.0, 0.0, 0.5, 2.0, 1.0]), values([3.0, 4.0, 9.5, 12.0, -1.0, 0.0])),
    draw(Draw((0, 3)), 2), draw(Draw(()), 4),
)  # fmt: skip


#: PyTorch's float32 values are off by this much: cosines of a rounded angle, recurrences in float32.
_PYTORCH = 5e-6


def _declare(name: str, fn: Any, formula: str, limits: tuple[int, int] | None = None) -> Any:
    """One polynomial of the list below."""
    numpy = over_arrays(fn)

    def reference(input: Array, n: Array) -> Any:
        r = numpy(input, n)
        if limits is not None:  # before float32 is widened
            highest = limits[1] if input.dtype == np.float64 else limits[0]
            r[np.broadcast_to(n > highest, r.shape)] = np.nan
        return r

    reference.__name__ = reference.__qualname__ = f"special_{name}"
    reference.__doc__ = f"{formula} at input, of degree n, elementwise and broadcast."
    # A degree is a number of steps, and the interpreter takes a fifth of a millisecond for each.
    return pointwise(
        fn, promote=INT_TO_FLOAT, on="special", samples=_DEGREES, domain={"n": (-1, 6)}, tolerance=_PYTORCH
    )(reference)


_KINDS = ("first", "second", "third", "fourth")
for _letter, _fn, _shifted, _which in zip(
    "tuvw",
    (_chebyshev_t, _chebyshev_u, _chebyshev_v, _chebyshev_w),
    (_shifted_t, _shifted_u, _shifted_v, _shifted_w),
    _KINDS,
    strict=True,
):
    _capital = _letter.upper()
    _declare(f"chebyshev_polynomial_{_letter}", _fn, f"{_capital}_n, Chebyshev's polynomial of the {_which} kind,")
    _declare(
        f"shifted_chebyshev_polynomial_{_letter}", _shifted,
        f"{_capital}_n(2 input - 1), Chebyshev's polynomial of the {_which} kind",
    )  # fmt: skip
_declare("hermite_polynomial_h", _hermite_h, "H_n, the physicists' Hermite polynomial,", (128, 512))
_declare("hermite_polynomial_he", _hermite_he, "He_n, the probabilists' Hermite polynomial,", (128, 512))
_declare("laguerre_polynomial_l", _laguerre_l, "L_n, Laguerre's polynomial,")
_declare("legendre_polynomial_p", _legendre_p, "P_n, Legendre's polynomial,")
