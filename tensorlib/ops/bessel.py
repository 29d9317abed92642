"""Bessel functions of the orders 0 and 1, elementwise, and Airy's function: Chebyshev series by range.

Each approximation is one scalar function in float64, for kernels and for NumPy alike; float32 is rounded once. The
series are fitted by tools/fit_special.py. As in PyTorch, only i0, i0e, i1 and i1e have a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib._promotion import INT_TO_FLOAT
from tensorlib._samples import between, draw, each, ints, values
from tensorlib.op import Array, pointwise
from tensorlib.ops import _special_tables
from tensorlib.ops._scalar_numpy import over_arrays
from tensorlib.ops.selection import _where
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl

_I0_NEAR, _I0_FAR = _special_tables.I0_NEAR, _special_tables.I0_FAR
_I1_NEAR, _I1_FAR = _special_tables.I1_NEAR, _special_tables.I1_FAR
_K0_NEAR, _K0_FAR = _special_tables.K0_NEAR, _special_tables.K0_FAR
_K1_NEAR, _K1_FAR = _special_tables.K1_NEAR, _special_tables.K1_FAR
_J0_NEAR, _Y0_NEAR = _special_tables.J0_NEAR, _special_tables.Y0_NEAR
_J1_NEAR, _Y1_NEAR = _special_tables.J1_NEAR, _special_tables.Y1_NEAR
_P0_FAR, _Q0_FAR = _special_tables.P0_FAR, _special_tables.Q0_FAR
_P1_FAR, _Q1_FAR = _special_tables.P1_FAR, _special_tables.Q1_FAR
_AIRY_MIDDLE, _AIRY_DECAYING = _special_tables.AIRY_MIDDLE, _special_tables.AIRY_DECAYING
_AIRY_P, _AIRY_Q = _special_tables.AIRY_P, _special_tables.AIRY_Q


@jit
def chebyshev(t, C: tl.constexpr):
    """Σ C[k] T_k(t), by Clenshaw's recurrence."""
    twice = t + t
    b = t * 0 + C[len(C) - 1]
    before = t * 0
    for k in tl.static_range(len(C) - 2, 0, -1):
        after = before
        before = b
        b = twice * before - after + C[k]
    return t * b - before + C[0]


# ------------------------------------------------------------------------------------------------ modified, first kind


@jit
def _scaled_i(a, NEAR: tl.constexpr, FAR: tl.constexpr):
    """e^-a I(a) for a >= 0 (of order 1: over a up to 8)."""
    far = a > 8
    b = tl.where(far, a, 8.0)
    large = chebyshev(16 / b - 1, FAR) / tl.sqrt(b)
    return tl.where(far, large, chebyshev(tl.where(far, 8.0, a) / 4 - 1, NEAR))


@jit
def _i0e(x):
    x = tl.cast(x, tl.float64)
    return _scaled_i(tl.abs(x), _I0_NEAR, _I0_FAR)


@jit
def _i0(x):
    x = tl.cast(x, tl.float64)
    a = tl.abs(x)
    # half of the exponent at a time: e^a alone overflows before I0 does
    half = tl.exp(a / 2)
    return _i0e(x) * half * half


@jit
def _i1e(x):
    x = tl.cast(x, tl.float64)
    a = tl.abs(x)
    r = _scaled_i(a, _I1_NEAR, _I1_FAR)
    return tl.where(a > 8, tl.where(x < 0, -r, r), r * x)


@jit
def _i1(x):
    x = tl.cast(x, tl.float64)
    half = tl.exp(tl.abs(x) / 2)
    return _i1e(x) * half * half


_i0_numpy, _i0e_numpy, _i1_numpy, _i1e_numpy = map(over_arrays, (_i0, _i0e, _i1, _i1e))

_AROUND_8 = each(
    draw(between(-20, 20, 3, 4)), draw(values([0.0, -0.5, 1.0, 4.0, 7.9, 8.0, 8.1, -9.0, 40.0])), draw((0, 3)),
    draw(between(0, 3)), draw(ints(5, low=-9)),
)  # fmt: skip


def _i1_slope(input: Any, out: Any) -> Any:
    """I1'(x) = I0(x) - I1(x) / x, 1/2 at 0."""
    return _where(input == 0, 0.5, i0(input) - out / _where(input == 0, 1.0, input))


def _i1e_slope(input: Any, out: Any) -> Any:
    return _where(
        input == 0, 0.5, special_i0e(input) - out * (input.sign() + 1 / _where(input == 0, 1.0, input))
    )  # fmt: skip


@pointwise(
    _i0,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * special_i1(input),
    alias=("special.i0", "special.modified_bessel_i0"),
    inplace=True,
    samples=_AROUND_8,
)
def i0(input: Array):
    """I0(input), the modified Bessel function of the first kind of order 0, elementwise."""
    return _i0_numpy(input)


@pointwise(
    _i0e,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input, out: g * (special_i1e(input) - input.sign() * out),
    on="special",
    samples=_AROUND_8,
)
def special_i0e(input: Array):
    """e^-|input| I0(input), elementwise."""
    return _i0e_numpy(input)


@pointwise(
    _i1,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input, out: g * _i1_slope(input, out),
    on="special",
    alias=("special.modified_bessel_i1",),
    samples=_AROUND_8,
)
def special_i1(input: Array):
    """I1(input), the modified Bessel function of the first kind of order 1, elementwise."""
    return _i1_numpy(input)


@pointwise(
    _i1e,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input, out: g * _i1e_slope(input, out),
    on="special",
    samples=_AROUND_8,
)
def special_i1e(input: Array):
    """e^-|input| I1(input), elementwise."""
    return _i1e_numpy(input)


# ----------------------------------------------------------------------------------------------- modified, second kind


@jit
def _scaled_k(x, ORDER: tl.constexpr):
    """e^x K(x): infinite at 0 and NaN below, as PyTorch has it."""
    x = tl.cast(x, tl.float64)
    near = x <= 2
    a = tl.where(near & (x > 0), x, 2.0)
    b = tl.where(near, 2.0, x)
    t = a * a / 2 - 1
    if ORDER == 0:
        small = chebyshev(t, _K0_NEAR) - tl.log(a / 2) * _i0(a)
        large = chebyshev(4 / b - 1, _K0_FAR) / tl.sqrt(b)
    else:
        small = chebyshev(t, _K1_NEAR) / a + tl.log(a / 2) * _i1(a)
        large = chebyshev(4 / b - 1, _K1_FAR) / tl.sqrt(b)
    r = tl.where(near, small * tl.exp(a), large)
    r = tl.where(x == 0, float("inf"), tl.where(x < 0, float("nan"), r))
    return tl.where(x != x, x, r)


@jit
def _k0e(x):
    return _scaled_k(x, 0)


@jit
def _k1e(x):
    return _scaled_k(x, 1)


@jit
def _k0(x):
    return _scaled_k(x, 0) * tl.exp(-tl.cast(x, tl.float64))


@jit
def _k1(x):
    return _scaled_k(x, 1) * tl.exp(-tl.cast(x, tl.float64))


# ---------------------------------------------------------------------------------------------------------- unmodified


@jit
def _wave(a, P: tl.constexpr, Q: tl.constexpr, ORDER: tl.constexpr, SECOND: tl.constexpr):
    """J or Y for a > 8: √(2/πa) (P cos χ - Q sin χ) or (P sin χ + Q cos χ), χ = a - π/4 - ORDER π/2."""
    inverse = 8 / a
    t = 2 * inverse * inverse - 1
    p = chebyshev(t, P)
    q = chebyshev(t, Q) / a
    s = tl.sin(a)
    c = tl.cos(a)
    if ORDER == 0:
        cosine = c + s
        sine = s - c
    else:
        cosine = s - c
        sine = -(s + c)
    if SECOND:
        r = p * sine + q * cosine
    else:
        r = p * cosine - q * sine
    return r / tl.sqrt(3.141592653589793 * a)


@jit
def _j0(x):
    a = tl.abs(tl.cast(x, tl.float64))
    far = a > 8
    b = tl.where(far, 8.0, a)
    return tl.where(far, _wave(tl.where(far, a, 8.0), _P0_FAR, _Q0_FAR, 0, False), chebyshev(b * b / 32 - 1, _J0_NEAR))


@jit
def _j1(x):
    x = tl.cast(x, tl.float64)
    a = tl.abs(x)
    far = a > 8
    b = tl.where(far, 8.0, a)
    r = _wave(tl.where(far, a, 8.0), _P1_FAR, _Q1_FAR, 1, False)
    return tl.where(far, tl.where(x < 0, -r, r), x * chebyshev(b * b / 32 - 1, _J1_NEAR))


@jit
def _y0(x):
    x = tl.cast(x, tl.float64)
    far = x > 8
    a = tl.where(far | (x <= 0), 8.0, x)
    small = chebyshev(a * a / 32 - 1, _Y0_NEAR) + 0.6366197723675814 * tl.log(a) * _j0(a)
    r = tl.where(far, _wave(tl.where(far, x, 8.0), _P0_FAR, _Q0_FAR, 0, True), small)
    return tl.where(x == 0, float("-inf"), tl.where(x < 0, float("nan"), r))


@jit
def _y1(x):
    x = tl.cast(x, tl.float64)
    far = x > 8
    a = tl.where(far | (x <= 0), 8.0, x)
    small = a * chebyshev(a * a / 32 - 1, _Y1_NEAR) + 0.6366197723675814 * (tl.log(a) * _j1(a) - 1 / a)
    r = tl.where(far, _wave(tl.where(far, x, 8.0), _P1_FAR, _Q1_FAR, 1, True), small)
    return tl.where(x == 0, float("-inf"), tl.where(x < 0, float("nan"), r))


@jit
def _spherical_j0(x):
    x = tl.cast(x, tl.float64)
    safe = tl.where((x == 0) | (tl.abs(x) == float("inf")), 1.0, x)
    r = tl.where(x == 0, 1.0, tl.sin(safe) / safe)
    return tl.where(tl.abs(x) == float("inf"), 0.0, r)


@jit
def _airy_ai(x):
    x = tl.cast(x, tl.float64)
    a = tl.abs(x)
    root = tl.sqrt(tl.where(a > 2, a, 2.0))
    zeta = 2 * tl.where(a > 2, a, 2.0) * root / 3
    fourth = tl.sqrt(root)
    decaying = chebyshev(3.771236166328254 / zeta - 1, _AIRY_DECAYING) * tl.exp(-zeta) / (3.5449077018110318 * fourth)
    outside = tl.where(zeta < 6.363961030678928, 6.363961030678928, zeta)
    inverse = 6.363961030678928 / outside
    t = 2 * inverse * inverse - 1
    s = tl.sin(zeta)
    c = tl.cos(zeta)
    waving = chebyshev(t, _AIRY_P) * (s + c) - chebyshev(t, _AIRY_Q) / outside * (c - s)
    waving = waving / (2.5066282746310002 * fourth)
    middle = chebyshev((tl.where((x > 2) | (x < -4.5), 0.0, x) + 1.25) / 3.25, _AIRY_MIDDLE)
    r = tl.where(x > 2, decaying, tl.where(x < -4.5, waving, middle))
    return tl.where(x > 103.892, 0.0, tl.where(x == float("-inf"), float("nan"), r))


def _declare(name: str, fn: Any, doc: str, samples: Any, tolerance: float | None = None) -> Any:
    """One function of the list below: they differ in the approximation alone."""
    numpy = over_arrays(fn)

    def reference(input: Array) -> Any:
        return numpy(input)

    reference.__name__ = reference.__qualname__ = f"special_{name}"
    reference.__doc__ = f"{doc}, elementwise. No gradient, as in PyTorch."
    return pointwise(fn, promote=INT_TO_FLOAT, on="special", samples=samples, tolerance=tolerance)(reference)


# Where PyTorch's own values are good: the other ranges are compared with SciPy in tests/ops/test_special.py.
_ANYWHERE = each(
    draw(between(-2, 20, 3, 4)), draw(values([0.0, -0.5, 1.0, 2.0, -1.5, 3.0])), draw((0, 3)), draw(between(0, 3)),
)  # fmt: skip
_ABOVE_0 = each(
    draw(between(0.1, 20, 3, 4)), draw(values([0.0, -0.5, 1.0, 2.0, 2.5, 3.0])), draw((0, 3)), draw(between(0.1, 3)),
)  # fmt: skip

#: PyTorch's values of these are off by up to 1e-5 near a zero; tests/ops/test_special.py has SciPy's.
_PYTORCH = 3e-5

special_bessel_j0 = _declare(
    "bessel_j0", _j0, "J0(input), the Bessel function of the first kind, order 0", _ANYWHERE, _PYTORCH
)
special_bessel_j1 = _declare(
    "bessel_j1", _j1, "J1(input), the Bessel function of the first kind, order 1", _ANYWHERE, _PYTORCH
)
special_bessel_y0 = _declare(
    "bessel_y0", _y0, "Y0(input), the Bessel function of the second kind, order 0", _ABOVE_0, _PYTORCH
)
special_bessel_y1 = _declare(
    "bessel_y1", _y1, "Y1(input), the Bessel function of the second kind, order 1", _ABOVE_0, _PYTORCH
)
special_modified_bessel_k0 = _declare(
    "modified_bessel_k0", _k0, "K0(input), the modified Bessel function of the second kind, order 0", _ABOVE_0
)
special_modified_bessel_k1 = _declare(
    "modified_bessel_k1", _k1, "K1(input), the modified Bessel function of the second kind, order 1", _ABOVE_0
)
special_scaled_modified_bessel_k0 = _declare(
    "scaled_modified_bessel_k0", _k0e, "e^input K0(input), the scaled modified Bessel function of order 0", _ABOVE_0
)
special_scaled_modified_bessel_k1 = _declare(
    "scaled_modified_bessel_k1", _k1e, "e^input K1(input), the scaled modified Bessel function of order 1", _ABOVE_0
)
special_spherical_bessel_j0 = _declare(
    "spherical_bessel_j0", _spherical_j0, "sin(input) / input, the spherical Bessel function of order 0", _ANYWHERE
)
special_airy_ai = _declare("airy_ai", _airy_ai, "Ai(input), Airy's function", _ANYWHERE, _PYTORCH)
