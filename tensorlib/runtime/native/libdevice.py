"""libdevice's functions in LLVM IR: what `tl.extra.libdevice` calls, under CUDA's names and AMD's.

Results are those of the interpreter's NumPy versions: conversions saturate, directed roundings are exact. What is
neither an instruction nor in `elementary` is computed in float64 with the C library's functions, lane by lane.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import elementary, llvm
from tensorlib.runtime.native.formula import Formula, Function, Value, absolute, fma, polynomial, select, with_sign
from tensorlib.runtime.native.machine import Features

Formulation: TypeAlias = Callable[..., Value]
_FLOATS = {"f": "float", "": "double"}
_MODES = {"rn": 1, "rz": 0, "rd": 3, "ru": 2}  #: as llvm.set.rounding counts them
_WHOLE = {"rn": "rint", "rz": "trunc", "rd": "floor", "ru": "ceil"}
_C_TYPES = {
    "float": "float", "double": "double", "int": "i32", "uint": "i32", "ll": "i64", "ull": "i64",
}  # fmt: skip


def _of(name: str) -> Formulation:
    """elementary's formula for the type of the argument."""
    single, double = elementary.FORMULAS[name]
    return lambda *x: (single if x[0].type == "float" else double)(*x)


def _wide(formulation: Formulation) -> Formulation:
    """A formula of float64 for float32 too, rounded at the end."""
    return lambda *x: formulation(*(v.to("double") for v in x)).to(x[0].type)


def _library(name: str, pure: bool = True) -> Formulation:
    return _wide(lambda *x: x[0].formula.library(name, *x, pure=pure))


_exp, _log, _erf, _erfc, _hypot, _power, _sin = (
    _library(name) for name in ("exp", "log", "erf", "erfc", "hypot", "pow", "sin")
)  # fmt: skip


# -- integers


def _extend(x: Value, type: str, signed: bool) -> Value:
    return x.cast("sext" if signed else "zext", type)


def _high_product(signed: bool) -> Formulation:
    def formulation(x: Value, y: Value) -> Value:
        bits = llvm.BITS[x.type]
        a, b = (_extend(v, f"i{2 * bits}", signed) for v in (x, y))
        return (a * b).logical_shift(bits).cast("trunc", x.type)

    return formulation


def _product_of_24_bits(signed: bool) -> Formulation:
    def low(v: Value) -> Value:
        return (v << 8) >> 8 if signed else v & 0xFFFFFF

    return lambda x, y: low(x) * low(y)


def _mean(signed: bool, up: int) -> Formulation:
    def formulation(x: Value, y: Value) -> Value:
        a, b = (_extend(v, "i64", signed) for v in (x, y))
        return ((a + b + up) >> 1).cast("trunc", x.type)

    return formulation


def _distance(signed: bool) -> Formulation:
    def formulation(x: Value, y: Value, z: Value) -> Value:
        less = x.compare("", "slt" if signed else "ult", y)
        return select(less, y - x, x - y) + z

    return formulation


def _counted(name: str, *flags: str) -> Formulation:
    return lambda x: _to_int(x.formula.intrinsic(name, x, flags="".join(flags)))


def _to_int(x: Value) -> Value:
    return x if x.type == "i32" else x.cast("trunc", "i32")


def _find_first_set(x: Value) -> Value:
    found = x.formula.intrinsic("cttz", x, flags="i1 false") + 1
    return _to_int(select(x.equals(0), 0, found))


def _permute_bytes(x: Value, y: Value, s: Value) -> Value:
    both = x.cast("zext", "i64") | (y.cast("zext", "i64") << 32)
    choices = s.cast("zext", "i64")
    found = both.formula.constant(0, "i64")
    for i in range(4):
        choice = choices.logical_shift(4 * i) & 7
        found = found | ((both.logical_shift(choice << 3) & 255) << (8 * i))
    return found.cast("trunc", "i32")


# -- conversions and rounding


def _to_integer(type: str, signed: bool, mode: str) -> Formulation:
    """Rounded, saturated; NaN as NVIDIA's cvt has it: 0, but the top bit alone where either side has 64 bits."""

    def formulation(x: Value) -> Value:
        f = x.formula
        whole = f.intrinsic(_WHOLE[mode], x)
        found = f.intrinsic("fptosi.sat" if signed else "fptoui.sat", whole, result=type)
        if x.type == "float" and type == "i32":
            return found
        return select(x.is_nan(), f.constant(1 << (llvm.BITS[type] - 1), type), found)

    return formulation


def _directed(operation: str, mode: str, of: str = "", to: str = "") -> Formulation:
    """An operation under another rounding mode of the processor, put back afterwards."""

    def formulation(*x: Value) -> Value:
        f = x[0].formula
        vector = f.lanes if f.lanes > 1 else 0
        result = to or x[0].type
        overloads = [llvm.suffix(t, vector) for t in ([result, of] if to else [result])]
        symbol = f"@llvm.experimental.constrained.{operation}.{'.'.join(overloads)}"
        given = [f.of_type(v.type) for v in x]
        f.declarations |= {
            f"declare {f.of_type(result)} {symbol}({', '.join([*given, 'metadata', 'metadata'])})",
            "declare void @llvm.set.rounding(i32)",
        }
        arguments = [f"{t} {v.text}" for t, v in zip(given, x, strict=True)]
        arguments += ['metadata !"round.dynamic"', 'metadata !"fpexcept.ignore"']
        f.lines.append(f"call void @llvm.set.rounding(i32 {_MODES[mode]}) strictfp")
        found = f.emit(f"call {f.of_type(result)} {symbol}({', '.join(arguments)}) strictfp", result)
        f.lines.append("call void @llvm.set.rounding(i32 1) strictfp")
        f.attributes = "noinline nounwind strictfp"
        return found

    return formulation


def _from_integer(type: str, signed: bool, mode: str) -> Formulation:
    """An unsigned one of 32 bits through 64: LLVM's own conversion makes -0 of 0 when it rounds down."""

    def formulation(x: Value) -> Value:
        if not signed and x.type == "i32":
            return _directed("sitofp", mode, "i64", type)(x.cast("zext", "i64"))
        return _directed("sitofp" if signed else "uitofp", mode, x.type, type)(x)

    return formulation


def _reciprocal(mode: str) -> Formulation:
    divide = _directed("fdiv", mode)
    return lambda x: divide(x.formula.constant(1.0, x.type), x)


# -- floats


def _truth(test: Callable[[Value], Value]) -> Formulation:
    return lambda x: test(x).cast("zext", "i32")


def _is_finite(x: Value) -> Value:
    return absolute(x) < math.inf


def _is_infinite(x: Value) -> Value:
    return absolute(x).equals(math.inf)


def _sign_bit(x: Value) -> Value:
    return x.bits() < 0


def _saturate(x: Value) -> Value:
    """NaN gives 0."""
    positive = select(x > 0.0, x, 0.0)
    return select(positive < 1.0, positive, 1.0)


def _positive_difference(x: Value, y: Value) -> Value:
    return select(x <= y, 0.0, x - y)


def _next_after(x: Value, y: Value) -> Value:
    return x.formula.library("nextafterf" if x.type == "float" else "nextafter", x, y, result=x.type)


def _scale(x: Value, n: Value) -> Value:
    """x * 2**n, lane by lane."""
    name = "ldexpf" if x.type == "float" else "ldexp"
    return x.formula.library(name, x, n, result=x.type)


def _exponent(x: Value) -> Value:
    """floor(log2 |x|) for finite x other than 0, in float64."""
    return x.formula.library("logb", x.to("double"))


def _ilogb(x: Value) -> Value:
    found = _exponent(x).to("i32")
    found = select(_is_infinite(x), 2**31 - 1, found)
    return select(x.is_nan() | x.equals(0.0), -(2**31), found)


def _power_of_integer(x: Value, n: Value) -> Value:
    return _power(x.to("double"), n.to("double")).to(x.type)


def _ordered(n: Value, x: Value, name: str) -> Value:
    """A Bessel function of an order: jn, yn."""
    return x.formula.library(name, n, x.to("double")).to(x.type)


def _high_of_reciprocal(x: Value) -> Value:
    return ((1.0 / x).bits() & -(1 << 32)).floats()


def _doubles_of(high: Value, low: Value) -> Value:
    return ((high.cast("zext", "i64") << 32) | low.cast("zext", "i64")).floats()


def _norm(*x: Value) -> Value:
    return functools.reduce(_hypot, x)


def _reciprocal_norm(*x: Value) -> Value:
    return 1.0 / _norm(*x)


def _sin_of_half_turns(x: Value) -> Value:
    r = x - 2.0 * x.formula.intrinsic("rint", x * 0.5)
    return _sin(math.pi * select(absolute(r) > 0.5, with_sign(x.formula.constant(1.0, x.type), r) - r, r))


def _cos_of_half_turns(x: Value) -> Value:
    r = x - 2.0 * x.formula.intrinsic("rint", x * 0.5)
    return _sin_of_half_turns(0.5 - absolute(r))


def _exp10(x: Value) -> Value:
    return _power(x.formula.constant(10.0, x.type), x)


def _square(x: Value) -> tuple[Value, Value]:
    """(x**2, what its rounding lost)."""
    high = x * x
    return high, fma(x, x, -high)


def _erfcx(x: Value) -> Value:
    """exp(x**2) erfc(x); beyond 25 by its asymptotic series (DLMF 7.12.1)."""
    high, low = _square(x)
    near = _exp(high) * _erfc(x)
    near = fma(near, low, near)
    t = 0.5 / high
    series = polynomial(t, (1.0, -1.0, 3.0, -15.0, 105.0, -945.0))
    far = series / (x * math.sqrt(math.pi))
    return select(x > 25.0, far, select(x < -26.6, math.inf, near))


def _normal_distribution(x: Value) -> Value:
    """erfc(u) / 2 of u = -x / sqrt 2, and by erfc's derivative what the rounding of u lost."""
    u = x * -math.sqrt(0.5)
    lost = fma(x, -_HALF_ROOT_LOW, fma(x, -math.sqrt(0.5), -u))
    slope = _exp(-(u * u)) * (2 / math.sqrt(math.pi))
    found = _erfc(u)
    return select(absolute(lost) < 1.0, fma(lost, -slope, found), found) * 0.5


_HALF_ROOT_LOW = -4.833646656726457e-17  #: sqrt(1/2) less its float64

#: erfinv's Maclaurin series, a start to 3e-4 below 1/2
_ERFINV = (0.886226925452758, 0.232013666534654, 0.127556175305598, 0.086552129241547, 0.064959617745385)


def _erfinv_parts(y: Value, p: Value) -> Value:
    """x > 0 with erf(x) = y, erfc(x) = p = 1 - y: Halley's steps, on erf below 1/2, on erfc above."""
    slope = 2 / math.sqrt(math.pi)
    near = y * polynomial(y * y, _ERFINV)
    log = _log(p * (2.0 - p)) * 0.5
    a = log + 2 / (math.pi * 0.147)  # Winitzki 2008: to 2e-3
    far = _square_root(_square_root(a * a - log * (2 / 0.147)) - a)
    small = y < 0.5
    x = select(small, near, far)
    for _ in range(3):
        error = select(small, _erf(x) - y, p - _erfc(x))
        u = error / (slope * _exp(-(x * x)))
        x = x - u / fma(x, u, 1.0)
    return x


def _square_root(x: Value) -> Value:
    return x.formula.intrinsic("sqrt", x)


def _erfinv(y: Value) -> Value:
    size = absolute(y)
    found = select(size.equals(1.0), math.inf, select(size < 1.0, _erfinv_parts(size, 1.0 - size), math.nan))
    return with_sign(select(y.equals(0.0), size, found), y)


def _erfcinv(y: Value) -> Value:
    p = select(y < 1.0, y, 2.0 - y)
    found = _erfinv_parts(1.0 - p, p)
    found = select(p.equals(0.0), math.inf, select(p > 0.0, found, math.nan))
    return select(y.equals(1.0), 0.0, select(y < 1.0, found, -found))


def _normal_quantile(p: Value) -> Value:
    return _erfcinv(p * 2.0) * -math.sqrt(2) + 0.0  # no negative zero


#: I_n(x) by its power series (DLMF 10.25.2), whose terms are positive: nothing cancels.
_BESSEL_I = """
define internal double {symbol}(double %x) nounwind noinline {{
entry:
  %half = fmul double %x, 5.0e-01
  %square = fmul double %half, %half
  %first = {first}
  br label %terms
terms:
  %k = phi double [ 1.0, %entry ], [ %k.next, %terms ]
  %term = phi double [ %first, %entry ], [ %term.next, %terms ]
  %sum = phi double [ %first, %entry ], [ %sum.next, %terms ]
  %k.other = fadd double %k, {order}
  %divisor = fmul double %k, %k.other
  %factor = fdiv double %square, %divisor
  %term.next = fmul double %term, %factor
  %sum.next = fadd double %sum, %term.next
  %k.next = fadd double %k, 1.0
  %small = fmul double %sum.next, 0x3C10000000000000
  %size = call double @llvm.fabs.f64(double %term.next)
  %least = call double @llvm.fabs.f64(double %small)
  %more = fcmp ogt double %size, %least
  br i1 %more, label %terms, label %done
done:
  ret double %sum.next
}}
"""


def _bessel_i(order: int) -> Formulation:
    def formulation(x: Value) -> Value:
        f = x.formula
        symbol = f"{f.symbol}.series"
        first = "fadd double 1.0, 0.0" if order == 0 else "fadd double %half, 0.0"
        f.helpers.append(_BESSEL_I.format(symbol=symbol, first=first, order=llvm.constant(order, "double")))
        f.declarations.add("declare double @llvm.fabs.f64(double)")
        return f.each_lane(symbol, "double", x)

    return _wide(formulation)


# -- the names
#: formulas that both float types share, by libdevice's names
_COMMON: dict[str, Formulation] = {
    **{name: _of(name) for name in elementary.FORMULAS},
    "copysign": with_sign, "nextafter": _next_after, "fdim": _positive_difference,
    "norm3d": _wide(_norm), "norm4d": _wide(_norm),
    **{name: _wide(_reciprocal_norm) for name in ("rhypot", "rnorm3d", "rnorm4d")},
    "rcbrt": _wide(lambda x: 1.0 / x.formula.library("cbrt", x)),
    "sinpi": _wide(_sin_of_half_turns), "cospi": _wide(_cos_of_half_turns), "exp10": _wide(_exp10),
    "ldexp": _scale, "scalbn": _scale, "ilogb": _ilogb, "logb": _library("logb"),
    "llrint": _to_integer("i64", True, "rn"),
    "llround": lambda x: _to_integer("i64", True, "rz")(_of("round")(x)),
    "erfinv": _wide(_erfinv), "erfcinv": _wide(_erfcinv), "erfcx": _wide(_erfcx),
    "normcdf": _wide(_normal_distribution), "normcdfinv": _wide(_normal_quantile),
    "lgamma": _library("lgamma", pure=False), "tgamma": _library("tgamma"),
    "cyl_bessel_i0": _bessel_i(0), "cyl_bessel_i1": _bessel_i(1),
    **{name: _library(name) for name in ("j0", "j1", "y0", "y1")},
    "jn": functools.partial(_ordered, name="jn"), "yn": functools.partial(_ordered, name="yn"),
    "powi": _power_of_integer,
}  # fmt: skip

_NEAREST: dict[str, Formulation] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
    "sqrt": _square_root, "rcp": lambda x: 1.0 / x, "rsqrt": _wide(_of("rsqrt")),
}  # fmt: skip

_CUDA: dict[str, Formulation] = {
    **{f"{name}{suffix}": formulation for name, formulation in _COMMON.items() for suffix in _FLOATS},
    "fabsf": _of("abs"), "fabs": _of("abs"), "powif": _power_of_integer,
    **{
        f"{letter}{name}_{mode}": _directed(operation, mode)
        for letter in "fd" for mode in ("rz", "rd", "ru")
        for name, operation in {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "sqrt": "sqrt"}.items()
    },
    **{f"{letter}rcp_{mode}": _reciprocal(mode) for letter in "fd" for mode in ("rz", "rd", "ru")},
    **{f"fma{suffix}_{mode}": _directed("fma", mode) for suffix in _FLOATS for mode in ("rz", "rd", "ru")},
    **{
        f"{letter}{name}_rn": formulation
        for letter in "fd"
        for name, formulation in _NEAREST.items()
    },
    "fmaf_rn": fma, "fma_rn": fma,
    **{
        f"{of}2{to}_{mode}": _to_integer(_C_TYPES[to], not to.startswith("u"), mode)
        for of in ("float", "double") for to in ("int", "uint", "ll", "ull") for mode in _MODES
    },
    **{
        f"{of}2{to}_{mode}": _from_integer(_C_TYPES[to], not of.startswith("u"), mode)
        for of in ("int", "uint", "ll", "ull") for to in ("float", "double") for mode in _MODES
    },
    **{f"double2float_{mode}": _directed("fptrunc", mode, "double", "float") for mode in _MODES},
    **{
        f"fast_{name}f": _of(name)
        for name in ("exp", "log", "log2", "log10", "sin", "cos", "tan", "tanh", "pow")
    },
    "fast_exp10f": _COMMON["exp10"], "fast_fdividef": lambda x, y: x / y, "saturatef": _saturate,
    "isnanf": _truth(Value.is_nan), "isnand": _truth(Value.is_nan),
    "isinff": _truth(_is_infinite), "isinfd": _truth(_is_infinite),
    "finitef": _truth(_is_finite), "isfinited": _truth(_is_finite),
    "signbitf": _truth(_sign_bit), "signbitd": _truth(_sign_bit),
    "abs": lambda x: absolute(x), "llabs": lambda x: absolute(x),
    **{f"clz{ll}": _counted("ctlz", "i1 false") for ll in ("", "ll")},
    **{f"popc{ll}": _counted("ctpop") for ll in ("", "ll")},
    **{f"brev{ll}": lambda x: x.formula.intrinsic("bitreverse", x) for ll in ("", "ll")},
    **{f"ffs{ll}": _find_first_set for ll in ("", "ll")},
    "byte_perm": _permute_bytes,
    "mulhi": _high_product(True), "umulhi": _high_product(False),
    "mul64hi": _high_product(True), "umul64hi": _high_product(False),
    "mul24": _product_of_24_bits(True), "umul24": _product_of_24_bits(False),
    "sad": _distance(True), "usad": _distance(False),
    "hadd": _mean(True, 0), "uhadd": _mean(False, 0), "rhadd": _mean(True, 1), "urhadd": _mean(False, 1),
    "rcp64h": _high_of_reciprocal, "hiloint2double": _doubles_of,
    "double2loint": lambda x: x.bits().cast("trunc", "i32"),
    "double2hiint": lambda x: x.bits().logical_shift(32).cast("trunc", "i32"),
    **{name: lambda x: x.floats() for name in ("int_as_float", "uint_as_float", "longlong_as_double")},
    **{name: lambda x: x.bits() for name in ("float_as_int", "float_as_uint", "double_as_longlong")},
}  # fmt: skip

_AMD: dict[str, Formulation] = {
    **{f"__ocml_{name}_f{bits}": formulation for name, formulation in _COMMON.items() for bits in (32, 64)},
    **{
        f"__ocml_{theirs}_f{bits}": formulation
        for bits in (32, 64)
        for theirs, formulation in {
            "i0": _bessel_i(0), "i1": _bessel_i(1), "pown": _power_of_integer, "fabs": _of("abs"),
            "isnan": _CUDA["isnanf"], "isinf": _CUDA["isinff"], "isfinite": _CUDA["finitef"],
            "signbit": _CUDA["signbitf"],
        }.items()
    },
    **{f"__ockl_clz_u{bits}": _CUDA["clz"] for bits in (32, 64)},
    **{f"__ockl_popcount_u{bits}": _CUDA["popc"] for bits in (32, 64)},
    "__triton_hip_iabs": _CUDA["abs"], "__triton_hip_fabs": _of("abs"), "__triton_hip_rint": _of("rint"),
    "__triton_hip_llrint": _COMMON["llrint"], "__triton_hip_fast_expf": _of("exp"),
    "__triton_hip_fast_tanhf": _of("tanh"), "__triton_hip_fast_fdividef": _CUDA["fast_fdividef"],
}  # fmt: skip

#: external symbol -> formula
SYMBOLS: dict[str, Formulation] = {f"__nv_{name}": formulation for name, formulation in _CUDA.items()} | _AMD


@functools.cache
def function(
    symbol: str, arguments: tuple[str, ...], result: str, lanes: int, machine: Features | None = None
) -> Function:
    """A symbol of libdevice for operands of LLVM's types `arguments`, with so many lanes.

    UnsupportedError where there is no such symbol, or it does not have these types.
    """
    if symbol not in SYMBOLS:
        raise UnsupportedError(f"native: no function {symbol!r} on the CPU: expected one of CUDA's or AMD's libdevice")
    types = ".".join(llvm.suffix(t, lanes if lanes > 1 else 0) for t in arguments)
    f = Formula(f"@tl.{symbol}.{types}", lanes, machine)
    x = [Value(f, f"%x{i}", t) for i, t in enumerate(arguments)]
    try:
        found = SYMBOLS[symbol](*x)
    except (TypeError, KeyError) as error:
        raise UnsupportedError(f"native: {symbol} of ({', '.join(arguments)}): {error}") from error
    if {found.type, result} == {"i32", "i64"}:
        found = found.to(result)
    if found.type != result:
        raise UnsupportedError(f"native: {symbol} of ({', '.join(arguments)}) is {found.type}: expected {result}")
    return f.function(x, found)
