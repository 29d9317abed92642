"""libdevice's functions in NumPy, for the interpreter: correctly rounded where NumPy or Python's math is."""

from __future__ import annotations

import functools
import math
import operator
import statistics
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tensorlib.errors import KernelError

Function = Callable[..., Any]


# -- conversions and arithmetic that the interpreter's own casts and fma use too


def to_integer(x: np.ndarray, dtype: Any) -> np.ndarray:
    """x rounded toward zero to an integer dtype as NVIDIA's cvt does: saturated, NaN as cvt has it.

    A byte is the low half of a 16-bit conversion, as that is what Triton's compiler makes of it.
    """
    dtype = np.dtype(dtype)
    target = np.dtype(f"{dtype.kind}2") if dtype.itemsize == 1 else dtype
    info = np.iinfo(target)
    whole = np.trunc(x.astype(np.float64))
    low, high = whole < info.min, whole >= float(info.max) + 1 if target.itemsize == 8 else whole > info.max
    nan = np.isnan(whole)
    unusual = low | high | nan
    if not unusual.any():
        return whole.astype(target).astype(dtype)
    found = np.where(unusual, 0, whole).astype(target)
    found[low], found[high] = info.min, info.max
    # PTX ISA, cvt: zero, but the top bit alone where the source has 64 bits or the target has
    found[nan] = info.max // 2 + 1 if target.kind == "u" else info.min
    if x.dtype.itemsize < 8 and target.itemsize < 8:
        found[nan] = 0
    return found.astype(dtype)


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z rounded once to z's dtype (float32 or narrower, or float64)."""
    if z.dtype == np.float64:
        return _elements(_fma, np.float64)(x, y, z)
    a, b = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)  # the product is exact
    near = a + b
    error = (a - (near - (near - a))) + (b - (near - a))  # Knuth's two-sum: near + error is exact
    # To the odd neighbour where it is not: the rounding that follows then sees on which side of a tie the sum lies.
    inexact = np.isfinite(near) & (error != 0) & (near.view(np.uint64) & 1 == 0)
    odd = np.nextafter(near, np.where(error > 0, np.inf, -np.inf))
    return np.where(inexact, odd, near).astype(z.dtype)


def _fma(x: float, y: float, z: float) -> float:
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return x * y + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if not exact:
        return x * y + z  # the sign of a zero
    try:
        return float(exact)
    except OverflowError:
        return math.copysign(math.inf, exact)


# -- functions of Python numbers, by element


def _elements(f: Callable[..., Any], dtype: Any = np.float64) -> Function:
    """f of Python numbers for each element; NaN where it raises."""

    def guarded(*x: float) -> Any:
        try:
            return f(*x)
        except (ValueError, OverflowError, ZeroDivisionError, statistics.StatisticsError):
            return math.nan

    return np.vectorize(guarded, otypes=[dtype])


def _lgamma(x: float) -> float:
    return math.inf if math.isinf(x) or (x <= 0 and x == math.floor(x)) else math.lgamma(x)


def _tgamma(x: float) -> float:
    if x == 0:
        return math.copysign(math.inf, x)
    try:
        return math.gamma(x)
    except OverflowError:
        return math.inf


_NORMAL = statistics.NormalDist()


def _normcdfinv(p: float) -> float:
    return {0.0: -math.inf, 1.0: math.inf}.get(p) or _NORMAL.inv_cdf(p)


def _erfinv(y: float) -> float:
    """By the standard library's normal quantile, then one Newton step on erf."""
    if not -1 < y < 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    x = _NORMAL.inv_cdf((y + 1) / 2) / math.sqrt(2)
    return x - (math.erf(x) - y) * math.sqrt(math.pi) / 2 * math.exp(x * x)


def _erfcinv(y: float) -> float:
    if not 0 < y < 2:
        return {0.0: math.inf, 2.0: -math.inf}.get(y, math.nan)
    x = -_NORMAL.inv_cdf(y / 2) / math.sqrt(2)
    return x + (math.erfc(x) - y) * math.sqrt(math.pi) / 2 * math.exp(x * x) if x * x < 600 else x


def _erfcx(x: float) -> float:
    """exp(x**2) erfc(x); beyond 25 by its asymptotic series (DLMF 7.12.1)."""
    if x < -26.6:
        return math.inf
    if x <= 25:
        return math.exp(x * x) * math.erfc(x)
    t = 1 / (2 * x * x) if x < 1e150 else 0.0
    return (1 - t * (1 - 3 * t * (1 - 5 * t * (1 - 7 * t * (1 - 9 * t))))) / (x * math.sqrt(math.pi))


def _sinpi(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    r = wide - 2 * np.rint(wide / 2)
    r = np.where(np.abs(r) > 0.5, np.copysign(1, r) - r, r)
    return np.sin(np.pi * r)


def _cospi(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return _sinpi(0.5 - np.abs(wide - 2 * np.rint(wide / 2)))


def _round(x: np.ndarray) -> np.ndarray:
    whole = np.trunc(np.abs(x))
    return np.copysign(whole + (np.abs(x) - whole >= 0.5), x)


# -- Bessel functions of integer order: J by the Fourier coefficients of exp(ix sin t), Y from J (DLMF 10.12.1, 10.8.3)
_BESSEL_LIMIT = 2.0**16


def _bessel_j(x: float) -> np.ndarray:
    """J_0(x), J_1(x), ... until they vanish."""
    if abs(x) > _BESSEL_LIMIT:
        raise KernelError(f"a Bessel function of {x}: tensorlib's interpreter computes them up to {_BESSEL_LIMIT:g}")
    n = 1 << (2 * int(abs(x)) + 128).bit_length()
    t = 2 * np.pi * np.arange(n) / n
    return np.asarray(np.fft.fft(np.exp(1j * x * np.sin(t))).real[: n // 2] / n)


def _jn(n: int, x: float) -> float:
    if not math.isfinite(x):
        return math.nan if math.isnan(x) else 0.0
    j = _bessel_j(x)
    return (-1) ** (n < 0 and n % 2) * float(j[abs(n)]) if abs(n) < len(j) else 0.0


def _yn(n: int, x: float) -> float:
    if not 0 < x < math.inf:
        return -math.inf if x == 0 else 0.0 if x == math.inf else math.nan
    if n < 0:
        return (-1) ** (n % 2) * _yn(-n, x)
    j = _bessel_j(x)
    k = np.arange(1, (len(j) - 2) // 2)
    sign = np.where(k % 2, 1, -1)
    log = math.log(x / 2) + 0.57721566490153286061
    y0 = 2 / math.pi * (log * j[0] + 2 * float(np.sum(sign * j[2 * k] / k)))
    slope = float(np.sum(sign * (j[2 * k - 1] - j[2 * k + 1]) / k))
    y1 = 2 / math.pi * (log * j[1] - j[0] / x - slope)  # the derivative of y0, negated
    for m in range(1, n):
        y0, y1 = y1, 2 * m / x * y1 - y0
    return y1 if n else y0


def _bessel_i(n: int) -> Function:
    """I_n(x) = mean over t of exp(x cos t) cos nt (DLMF 10.32.3)."""
    t = 2 * np.pi * np.arange(1024) / 1024

    def function(x: np.ndarray) -> np.ndarray:
        size = np.abs(x.astype(np.float64))[..., None]
        mean = np.mean(np.exp(size * (np.cos(t) - 1)) * np.cos(n * t), axis=-1) * np.exp(size[..., 0])
        return np.copysign(mean, x) if n % 2 else mean

    return function


# -- directed rounding: the nearest value, moved where exact arithmetic says that it lies on the wrong side
_MODES = ("rn", "rz", "rd", "ru")


def _directed(near: Function, residual: Callable[..., Fraction], mode: str) -> Function:
    """near(*x) rounded by mode; residual(r, *x) has the sign of the exact result minus r."""

    def one(*x: Any) -> Any:
        r = near(*x)
        if mode == "rn" or np.isnan(r) or not all(np.isfinite(v) for v in x):
            return r
        if np.isinf(r):
            if near in (np.divide, np.reciprocal) and not x[-1]:
                return r  # a pole, not an overflow
            side = -r
        else:
            side = residual(*(Fraction(v.item()) for v in (r, *x)))
        if side < 0 and (mode == "rd" or (mode == "rz" and r > 0)):
            return np.nextafter(r, -np.inf, dtype=r.dtype)
        if side > 0 and (mode == "ru" or (mode == "rz" and r < 0)):
            return np.nextafter(r, np.inf, dtype=r.dtype)
        return r

    def function(*x: np.ndarray) -> np.ndarray:
        arrays = np.broadcast_arrays(*x)
        found = [one(*values) for values in zip(*(v.flat for v in arrays), strict=True)]
        return np.array(found).reshape(arrays[0].shape)

    return function


def _fma_element(x: Any, y: Any, z: Any) -> Any:
    return fma(np.array([x]), np.array([y]), np.array([z]))[0] if np.ndim(z) == 0 else fma(x, y, z)


_ARITHMETIC: dict[str, tuple[Function, Callable[..., Fraction]]] = {
    "add": (np.add, lambda r, x, y: x + y - r),
    "sub": (np.subtract, lambda r, x, y: x - y - r),
    "mul": (np.multiply, lambda r, x, y: x * y - r),
    "div": (np.divide, lambda r, x, y: x / y - r),
    "rcp": (np.reciprocal, lambda r, x: 1 / x - r),
    "sqrt": (np.sqrt, lambda r, x: x - r * r),
    "fma": (_fma_element, lambda r, x, y, z: x * y + z - r),
}
_WHOLE: dict[str, Function] = {"rn": np.rint, "rz": np.trunc, "rd": np.floor, "ru": np.ceil}
_C_TYPES = {
    "float": np.float32, "double": np.float64, "int": np.int32, "uint": np.uint32, "ll": np.int64, "ull": np.uint64,
}  # fmt: skip


def _conversion(of: str, to: str, mode: str) -> Function:
    source, target = np.dtype(_C_TYPES[of]), np.dtype(_C_TYPES[to])
    if target.kind != "f":
        return lambda x: to_integer(_WHOLE[mode](x), target)
    convert = functools.partial(_astype, dtype=target)
    rounded = _directed(convert, lambda r, x: x - r, mode)
    return lambda x: rounded(x.astype(source))


def _astype(x: Any, dtype: np.dtype[Any]) -> Any:
    return x.astype(dtype)


# -- integers


def _unsigned(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.dtype.itemsize}")


def _length(x: np.ndarray) -> np.ndarray:
    """Bits up to the highest that is set."""
    return _elements(lambda v: int(v).bit_length(), np.int32)(_unsigned(x))


def _reversed_bits(x: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(_unsigned(x).astype(f">u{x.dtype.itemsize}").reshape(-1, 1).view(np.uint8), axis=1)
    back = np.packbits(bits[:, ::-1], axis=1).view(f">u{x.dtype.itemsize}")
    return back.reshape(x.shape).astype(f"u{x.dtype.itemsize}")


def _byte_perm(x: np.ndarray, y: np.ndarray, s: np.ndarray) -> np.ndarray:
    both = _unsigned(x).astype(np.uint64) | _unsigned(y).astype(np.uint64) << np.uint64(32)
    found = np.zeros(np.broadcast_shapes(x.shape, s.shape), np.uint64)
    for i in range(4):
        choice = (_unsigned(s) >> np.uint32(4 * i)).astype(np.uint64) & np.uint64(7)
        found |= (both >> choice * np.uint64(8) & np.uint64(255)) << np.uint64(8 * i)
    return found.astype(np.uint32)


def high_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The high half of x * y, whose dtype both have."""
    bits = x.dtype.itemsize * 8
    double = np.dtype(object if bits == 64 else f"{x.dtype.kind}{bits // 4}")
    return np.asarray((x.astype(double) * y.astype(double)) >> bits).astype(x.dtype)


def _mul24(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = (np.right_shift(np.left_shift(v, 8), 8) for v in (x, y))  # the low 24 bits, the sign among them
    return a * b


def _halved(round_up: int) -> Function:
    return lambda x, y: ((x.astype(np.int64) + y.astype(np.int64) + round_up) >> 1).astype(x.dtype)


def _sad(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (np.abs(x.astype(np.int64) - y.astype(np.int64)) + z.astype(np.int64)).astype(np.uint32)


def _ilogb(x: np.ndarray) -> np.ndarray:
    found = np.frexp(x)[1].astype(np.int32) - 1
    found = np.where(np.isinf(x), np.iinfo(np.int32).max, found)
    return np.where(np.isnan(x) | (x == 0), np.iinfo(np.int32).min, found)


def _logb(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x) & (x != 0), np.frexp(x)[1] - 1.0, np.where(x == 0, -np.inf, np.abs(x)))


def _norm(*x: np.ndarray) -> np.ndarray:
    return functools.reduce(np.hypot, [v.astype(np.float64) for v in x])


def _as(dtype: Any) -> Function:
    return operator.methodcaller("view", dtype)


erf = _elements(math.erf)
_EXP10: Function = lambda x: np.power(x.dtype.type(10), x)  # noqa: E731

#: libdevice name -> the same function in NumPy, of arrays in the dtypes that the GPU's takes.
FUNCTIONS: dict[str, Function] = {
    **{
        name: getattr(np, name)
        for name in (
            "abs", "floor", "ceil", "trunc", "rint", "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log2", "log10",
            "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "hypot", "copysign", "nextafter", "fmod", "signbit",
            "isnan", "isinf",
        )
    },
    **{
        f"{name}_{mode}": near if mode == "rn" and name != "fma" else _directed(near, residual, mode)
        for name, (near, residual) in _ARITHMETIC.items() for mode in _MODES
    },
    **{
        f"{of}2{to}_{mode}": _conversion(of, to, mode)
        for of in _C_TYPES for to in _C_TYPES for mode in _MODES
        if of != to and ("float" in (of, to) or "double" in (of, to)) and (of, to) != ("float", "double")
    },
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "pow": np.power, "nearbyint": np.rint, "isfinited": np.isfinite, "finitef": np.isfinite,
    "rsqrt": lambda x: 1 / np.sqrt(x), "rsqrt_rn": lambda x: 1 / np.sqrt(x.astype(np.float64)),
    "rcbrt": lambda x: 1 / np.cbrt(x), "rhypot": lambda x, y: 1 / np.hypot(x, y),
    "norm3d": _norm, "norm4d": _norm, "rnorm3d": lambda *x: 1 / _norm(*x), "rnorm4d": lambda *x: 1 / _norm(*x),
    "exp10": _EXP10, "saturatef": lambda x: np.fmin(np.fmax(x, 0), 1), "sinpi": _sinpi, "cospi": _cospi,
    "fmin": np.fmin, "fmax": np.fmax, "fdim": lambda x, y: np.where(x <= y, 0, x - y),
    "remainder": _elements(math.remainder), "round": _round, "fma": fma,
    "ldexp": np.ldexp, "scalbn": np.ldexp, "ilogb": _ilogb, "logb": _logb,
    "llrint": lambda x: to_integer(np.rint(x), np.int64), "llround": lambda x: to_integer(_round(x), np.int64),
    "erf": erf, "erfc": _elements(math.erfc), "erfinv": _elements(_erfinv),
    "erfcinv": _elements(_erfcinv), "erfcx": _elements(_erfcx),
    "lgamma": _elements(_lgamma), "tgamma": _elements(_tgamma),
    "normcdf": _elements(lambda x: math.erfc(-x / math.sqrt(2)) / 2), "normcdfinv": _elements(_normcdfinv),
    "cyl_bessel_i0": _bessel_i(0), "cyl_bessel_i1": _bessel_i(1),
    "j0": _elements(functools.partial(_jn, 0)), "j1": _elements(functools.partial(_jn, 1)), "jn": _elements(_jn),
    "y0": _elements(functools.partial(_yn, 0)), "y1": _elements(functools.partial(_yn, 1)), "yn": _elements(_yn),
    "fast_expf": np.exp, "fast_logf": np.log, "fast_log2f": np.log2, "fast_log10f": np.log10, "fast_exp10f": _EXP10,
    "fast_sinf": np.sin, "fast_cosf": np.cos, "fast_tanf": np.tan, "fast_tanhf": np.tanh, "fast_powf": np.power,
    "fast_dividef": np.divide,
    "clz": lambda x: x.dtype.itemsize * 8 - _length(x), "popc": lambda x: np.bitwise_count(_unsigned(x)),
    "brev": _reversed_bits, "ffs": lambda x: _length(x & -x), "byte_perm": _byte_perm,
    "mulhi": high_product, "mul24": _mul24, "sad": _sad, "hadd": _halved(0), "rhadd": _halved(1),
    "rcp64h": lambda x: (np.reciprocal(x).view(np.uint64) & ~np.uint64(2**32 - 1)).view(np.float64),
    "hiloint2double": lambda high, low: (
        (_unsigned(high).astype(np.uint64) << np.uint64(32)) | _unsigned(low).astype(np.uint64)
    ).view(np.float64),
    "double2loint": lambda x: x.view(np.uint64).astype(np.uint32),
    "double2hiint": lambda x: (x.view(np.uint64) >> np.uint64(32)).astype(np.uint32),
    "int_as_float": _as(np.float32), "uint_as_float": _as(np.float32), "longlong_as_double": _as(np.float64),
    "float_as_int": _as(np.int32), "float_as_uint": _as(np.uint32), "double_as_longlong": _as(np.int64),
}  # fmt: skip
