"""libdevice's functions in NumPy, for the interpreter: correctly rounded where NumPy or Python's math is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np


def _by_element(f: Callable[..., float]) -> Callable[..., np.ndarray]:
    """f of Python floats, for each element, in float64; NaN where it raises."""

    def guarded(*x: float) -> float:
        try:
            return f(*x)
        except (ValueError, OverflowError, statistics.StatisticsError):
            return math.nan

    return np.vectorize(guarded, otypes=[np.float64])


def _lgamma(x: float) -> float:
    return math.inf if math.isinf(x) or (x <= 0 and x == math.floor(x)) else math.lgamma(x)


def _erfinv(y: float) -> float:
    """By the standard library's normal quantile, then one Newton step on erf."""
    if not -1 < y < 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    x = statistics.NormalDist().inv_cdf((y + 1) / 2) / math.sqrt(2)
    return x - (math.erf(x) - y) * math.sqrt(math.pi) / 2 * math.exp(x * x)


erf = _by_element(math.erf)
_NORMAL = statistics.NormalDist()

#: libdevice name -> the same function in NumPy.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(np, name)
        for name in (
            "abs", "floor", "ceil", "trunc", "rint", "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log2", "log10",
            "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "hypot", "copysign", "nextafter", "fmod", "signbit",
            "isnan", "isinf",
        )
    },
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "pow": np.power, "nearbyint": np.rint, "isfinited": np.isfinite, "finitef": np.isfinite,
    "rsqrt": lambda x: 1 / np.sqrt(x), "rcbrt": lambda x: 1 / np.cbrt(x), "rhypot": lambda x, y: 1 / np.hypot(x, y),
    "sqrt_rn": np.sqrt, "div_rn": np.divide, "mul_rn": np.multiply, "add_rn": np.add, "sub_rn": np.subtract,
    "exp10": lambda x: np.power(x.dtype.type(10), x), "saturatef": lambda x: np.fmin(np.fmax(x, 0), 1),
    "sinpi": lambda x: np.sin(np.pi * x), "cospi": lambda x: np.cos(np.pi * x),
    "fmin": np.fmin, "fmax": np.fmax, "fdim": lambda x, y: np.fmax(x - y, 0),
    "remainder": _by_element(math.remainder), "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "fma": lambda x, y, z: x.astype(np.longdouble) * y + z, "ldexp": lambda x, n: np.ldexp(x, n.astype(np.int32)),
    "erf": erf, "erfc": _by_element(math.erfc), "erfinv": _by_element(_erfinv),
    "lgamma": _by_element(_lgamma), "tgamma": _by_element(math.gamma), "cyl_bessel_i0": np.i0,
    "normcdf": _by_element(_NORMAL.cdf), "normcdfinv": _by_element(_NORMAL.inv_cdf),
    "fast_expf": np.exp, "fast_logf": np.log, "fast_log2f": np.log2, "fast_sinf": np.sin, "fast_cosf": np.cos,
    "fast_tanhf": np.tanh, "fast_powf": np.power, "fast_dividef": np.divide,
}  # fmt: skip
