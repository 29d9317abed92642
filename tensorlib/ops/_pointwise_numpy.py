"""Elementary functions that NumPy lacks, or does slowly: selection, erf and erfc on arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

_INT_OF: dict[Any, np.dtype[Any]] = {np.dtype(np.float32): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.int64)}
_CHUNK = 1 << 14  # elements at a time: the work arrays stay in the second-level cache


def in_blocks(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """f, an elementwise function of arrays, by blocks where they are large: its temporaries stay in the cache."""

    @wraps(f)
    def run(*arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        x = arrays[0]
        n = x.size
        if n <= _CHUNK:
            return f(*arrays, **attrs)
        for a in arrays:
            if a.shape != x.shape or not a.flags.c_contiguous:
                return f(*arrays, **attrs)
        out = np.empty_like(x)
        target = out.reshape(-1)
        flat = [a.reshape(-1) for a in arrays]
        for i in range(0, n, _CHUNK):
            target[i : i + _CHUNK] = f(*[a[i : i + _CHUNK] for a in flat], **attrs)
        return out

    return run


def in_row_blocks(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """f, which treats each slice along ``dim`` alone, some rows at a time where dim is the last of large arrays."""

    @wraps(f)
    def run(*arrays: np.ndarray, dim: int, **attrs: Any) -> np.ndarray:
        x = arrays[0]
        n = x.shape[-1] if x.ndim > 1 and dim == x.ndim - 1 else 0
        if x.size <= 4 * _CHUNK or not 1 < n <= _CHUNK or attrs.get("dtype") not in (None, x.dtype):
            return f(*arrays, dim=dim, **attrs)
        for a in arrays:
            if a.shape != x.shape or a.dtype != x.dtype or not a.flags.c_contiguous:
                return f(*arrays, dim=dim, **attrs)
        out = np.empty_like(x)
        target = out.reshape(-1, n)
        flat = [a.reshape(-1, n) for a in arrays]
        step = 4 * _CHUNK // n
        for i in range(0, len(target), step):
            target[i : i + step] = f(*[a[i : i + step] for a in flat], dim=1, **attrs)
        return out

    return run


def select(mask: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """np.where(mask, x, y), by bit masks for large float arrays: np.where branches on every element."""
    bits = _INT_OF.get(x.dtype)
    if bits is None or y.dtype != x.dtype or mask.size < 256:
        return np.where(mask, x, y)
    m = mask.astype(bits)
    np.negative(m, out=m)
    a, b = x.view(bits), y.view(bits)
    if not b.ndim and not b:
        return np.bitwise_and(a, m).view(x.dtype)
    return np.bitwise_xor(np.bitwise_and(np.bitwise_xor(a, b), m), b).view(x.dtype)


def keep(mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x where mask, 0 elsewhere, also where x is infinite or NaN."""
    return select(mask, x, np.zeros((), x.dtype))


def _horner(c: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """c[0] + c[1] x + c[2] x² + …"""
    out = np.full_like(x, c[-1])
    for a in c[-2::-1]:
        out *= x
        out += x.dtype.type(a)
    return out


# atanh(erf(x)) / x in x², fitted up to x = 4 with the weight that counts for erf: tanh of it is erf within 2.8 units in
# the last place of float32, and 1 from there on, at one elementary function and eight multiplications.
_ERF = (1.1283792445078449, 0.1027697124794526, -0.00019439307315781786, -0.0006160496700171861, 8.524527501922297e-05,
        -4.953161611972739e-06, 4.5106674896076906e-08, 4.718043008775305e-09)  # fmt: skip


def _erf32(x: np.ndarray) -> np.ndarray:
    a = np.minimum(x, np.float32(4))
    np.maximum(a, np.float32(-4), out=a)
    t = np.multiply(a, a)
    r = np.multiply(t, np.float32(_ERF[-1]))
    for c in _ERF[-2:0:-1]:
        r += np.float32(c)
        r *= t
    r += np.float32(_ERF[0])
    r *= a
    return np.tanh(r, out=r)


# log(Φ(x) / Φ(-x)) / x in x², Φ the normal distribution function, fitted up to |x| = 5.6 with the weight that counts
# for Φ: 1 / (1 + e^(-x times it)) is Φ within 3e-8, half a unit in the last place of float32 near 1.
_LOGIT = (1.595769883007508, 0.07266616870259919, -6.518938848955383e-05, -0.0001106126541699237,
          7.929543318117691e-06, -2.645314584960293e-07, 3.5124868329918824e-09)  # fmt: skip
_NEGATED = tuple(np.float32(-c) for c in _LOGIT)


def odds32(x: np.ndarray) -> np.ndarray:
    """1 / Φ(x) for float32, Φ the normal distribution function."""
    t = np.minimum(np.square(x), np.float32(31.36))
    r = np.asarray(np.multiply(t, _NEGATED[-1]))
    for c in _NEGATED[-2:0:-1]:
        r += c
        r *= t
    r += _NEGATED[0]
    r *= x
    with np.errstate(over="ignore"):
        np.exp(r, out=r)
    r += np.float32(1)
    return r


# Coefficients of the rational approximations in FreeBSD's msun, s_erf.c (Sun Microsystems, 1993): error < 1 ulp.
_ERX = 8.45062911510467529297e-01
_PP = (1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
       -5.77027029648944159157e-03, -2.37630166566501626084e-05)  # fmt: skip
_QQ = (1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
       1.32494738004321644526e-04, -3.96022827877536812320e-06)  # fmt: skip
_PA = (-2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01,
       3.18346619901161753674e-01, -1.10894694282396677476e-01, 3.54783043256182359371e-02,
       -2.16637559486879084300e-03)  # fmt: skip
_QA = (1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01, 7.18286544141962662868e-02,
       1.26171219808761642112e-01, 1.36370839120290507362e-02, 1.19844998467991074170e-02)  # fmt: skip
_RA = (-9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e+01,
       -6.23753324503260060396e+01, -1.62396669462573470355e+02, -1.84605092906711035994e+02,
       -8.12874355063065934246e+01, -9.81432934416914548592e+00)  # fmt: skip
_SA = (1.0, 1.96512716674392571292e+01, 1.37657754143519042600e+02, 4.34565877475229228821e+02,
       6.45387271733267880336e+02, 4.29008140027567833386e+02, 1.08635005541779435134e+02,
       6.57024977031928170135e+00, -6.04244152148580987438e-02)  # fmt: skip
_RB = (-9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e+01,
       -1.60636384855821916062e+02, -6.37566443368389627722e+02, -1.02509513161107724954e+03,
       -4.83519191608651397019e+02)  # fmt: skip
_SB = (1.0, 3.03380607434824582924e+01, 3.25792512996573918826e+02, 1.53672958608443695994e+03,
       3.19985821950859553908e+03, 2.55305040643316442583e+03, 4.74528541206955367215e+02,
       -2.24409524465858183362e+01)  # fmt: skip


def _ratio(p: tuple[float, ...], q: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    return _horner(p, x) / _horner(q, x)


def _erf64(x: np.ndarray, complement: bool) -> np.ndarray:
    """erf, or erfc = 1 - erf without cancellation, piece by piece."""
    out = np.empty_like(x)
    a = np.abs(x)
    near, middle = a < 0.84375, (a >= 0.84375) & (a < 1.25)
    far = ~(near | middle)
    v = x[near]
    r = v + v * _ratio(_PP, _QQ, v * v)
    # past 1/4 erfc = 1/2 - (erf - 1/2) keeps the last bits
    out[near] = np.where(v < 0.25, 1 - r, 0.5 - (v - 0.5 + v * _ratio(_PP, _QQ, v * v))) if complement else r
    v = x[middle]
    r = _ratio(_PA, _QA, np.abs(v) - 1)
    if complement:
        out[middle] = np.where(v > 0, 1 - _ERX - r, 1 + (_ERX + r))
    else:
        out[middle] = np.copysign(_ERX + r, v)
    v = x[far]
    b = np.minimum(np.abs(v), 28.0)
    s = 1 / (b * b)
    tail = np.where(b < 1 / 0.35, _ratio(_RA, _SA, s), _ratio(_RB, _SB, s))
    high = (b.view(np.int64) & np.int64(-(1 << 32))).view(np.float64)  # high² is exact
    tail = np.exp(-high * high - 0.5625) * np.exp((high - b) * (high + b) + tail) / b
    out[far] = np.where(v > 0, tail, 2 - tail) if complement else np.copysign(1 - tail, v)
    if complement:
        out[np.isnan(x)] = np.nan
    else:
        np.copyto(out, x, where=np.isnan(x))
    return out


#: Elements of float32 up to which Python's function of one number is the faster one.
_FEW = 48
_F32 = np.dtype(np.float32)


def one_by_one(function: Callable[[float], float], x: np.ndarray) -> np.ndarray | None:
    """Python's function of each of a few float32 numbers, in float64, rounded once; None where it has no answer."""
    if x.dtype is not _F32 or not 0 < x.size <= _FEW:
        return None
    try:
        return np.array([function(v) for v in x.ravel().tolist()], _F32).reshape(x.shape)
    except (ValueError, OverflowError):
        return None


@in_blocks
def erf(x: np.ndarray) -> np.ndarray:
    """2/√π ∫₀ˣ e^(-t²) dt for float32 or float64."""
    if x.dtype == np.float32:
        few = one_by_one(math.erf, x)
        if few is not None:
            return few
        return _erf32(np.atleast_1d(x)).reshape(x.shape)
    return _erf64(x.reshape(-1), False).reshape(x.shape)


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x) for float32 or float64, computed in float64."""
    few = one_by_one(math.erfc, x)
    if few is not None:
        return few
    flat = np.ascontiguousarray(x, np.float64).reshape(-1)
    return _erf64(flat, True).astype(x.dtype, copy=False).reshape(x.shape)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), with full relative accuracy where it is small."""
    t = np.asarray(np.negative(x))
    np.exp(t, out=t)
    t += 1
    return np.reciprocal(t, out=t)
