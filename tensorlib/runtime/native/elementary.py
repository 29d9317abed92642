"""Elementary functions in LLVM IR, of any number of lanes: by polynomials, or the C library's lane by lane.

float32 is inline but for fmod and remainder, and of float64 what kernels compute most; `IN_LIBRARY` names the rest.
NaN, infinities, zeros with their signs, denormal arguments and results are exact; `ERRORS` states the error of
everything else in units of the last place. Coefficients are minimax fits of the functions that stand beside them,
rounded one after another, each with the error of its fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.formula import (
    Formula,
    Function,
    Value,
    absolute,
    at_least,
    at_most,
    fma,
    polynomial,
    select,
    with_sign,
)
from tensorlib.runtime.native.machine import Features

INF, NAN = math.inf, math.nan
LOG2E = math.log2(math.e)
#: ln 2 in two parts: a whole number below 2**11 times the first is exact
LN2 = {"float": (0.693145751953125, 1.4286068203094172e-06), "double": (0.6931471803691238, 1.9082149292705877e-10)}
#: Added to a small number it leaves the nearest whole one in the low bits of the sum.
ROUNDER = {"float": 12582912.0, "double": 6755399441055744.0}
ROUNDER_BITS = {"float": 0x4B400000, "double": 0x4338000000000000}
MANTISSA = {"float": 23, "double": 52}
BIAS = {"float": 127, "double": 1023}
SMALLEST = {"float": 2.0**-126, "double": 2.0**-1022}  #: of the normal numbers
UNDERFLOW = {"float": -151.0, "double": -1076.0}  #: p * 2**n is zero, for this n or less and p below 2


# -- exponentials


def _scaled(p: Value, rounded: Value) -> Value:
    """p * 2**n, rounded once where the result is denormal; `rounded` is n + ROUNDER, and p about 1.

    What underflows to zero, as exp(-inf) of a masked score, is not computed: processors take 100 times as long for it.
    """
    f, t = p.formula, p.type
    bits = f.lanes * llvm.BITS[t]
    if f.has("avx512f") and (bits == 512 or (bits in (128, 256) and f.has("avx512vl"))):
        symbol = f"@llvm.x86.avx512.mask.scalef.p{'s' if t == 'float' else 'd'}.{bits}"
        vector, mask, rounding = f.of_type(t), f"i{max(f.lanes, 8)}", ["i32"] if bits == 512 else []
        f.declarations.add(f"declare {vector} {symbol}({', '.join([vector] * 3 + [mask, *rounding])})")
        n = rounded - ROUNDER[t]
        given = [f"{vector} {p.text}", f"{vector} {n.text}", f"{vector} zeroinitializer"]
        wanted = "-1"
        if f.lanes >= 8:
            kept = n.compare("ugt", "", UNDERFLOW[t])
            wanted = f.emit(f"bitcast {f.of_type('i1')} {kept.text} to {mask}", mask).text
        given.append(f"{mask} {wanted}")
        return f.emit(f"call {vector} {symbol}({', '.join(given + [f'{r} 4' for r in rounding])})", t)
    # The exponent is moved by n -+ half, which cannot leave the range; a multiplication does the rest.
    half = BIAS[t] // 2 + 1
    n = rounded.bits() - ROUNDER_BITS[t]
    negative = n < 0
    near = n + select(negative, f.constant(half, n.type), -half)
    moved = select(n <= int(UNDERFLOW[t]), 0.0, (p.bits() + (near << MANTISSA[t])).floats())
    return select(p.is_nan(), p, moved * select(negative, f.constant(2.0**-half, t), 2.0**half))


def _power_of_two(rounded: Value, more: int = 0) -> Value:
    """2**(n + more), a normal number; `rounded` is n + ROUNDER."""
    t = rounded.type
    # The integer that ROUNDER adds to is shifted out at the top.
    return ((rounded.bits() << MANTISSA[t]) + ((BIAS[t] + more) << MANTISSA[t])).floats()


#: (exp(r) - 1 - r) / r**2 for |r| < ln 2 / 2, relative to exp(r): 2**-28, 2**-57
_EXP = {
    "float": (0.49999994, 0.16666521, 0.041668274, 0.008368686, 0.0013820138),
    "double": (
        0.5000000000000011, 0.1666666666666644, 0.041666666666526894, 0.008333333333477343, 0.0013888888944380195,
        0.0001984126954213466, 2.4801492392665515e-05, 2.755755555115112e-06, 2.7630482965391007e-07,
        2.5009606113136927e-08,
    ),
}  # fmt: skip
#: (2**r - 1) / r for |r| < 1/2, relative: 2**-28, 2**-57
_EXP2 = {
    "float": (0.6931472, 0.24022648, 0.055503592, 0.009618498, 0.0013391187, 0.0001532998),
    "double": (
        0.6931471805599453, 0.2402265069591011, 0.05550410866482175, 0.009618129107600617, 0.001333355814653654,
        0.00015403530450168655, 1.5252733645102032e-05, 1.3215438312949123e-06, 1.0178154952736548e-07,
        7.073317438096654e-09, 4.4396765711177434e-10,
    ),
}  # fmt: skip
#: (exp(r) - 1 - r) / r**2, relative to exp(r) - 1: 2**-26, 2**-61
_EXPM1 = {
    "float": (0.49999997, 0.16666545, 0.041667487, 0.008366411, 0.0013865946),
    "double": (
        0.5, 0.16666666666666677, 0.04166666666666665, 0.008333333333321473, 0.0013888888888899812,
        0.00019841269886452484, 2.4801587285551226e-05, 2.755724392481354e-06, 2.7557312579304363e-07,
        2.510912640193317e-08, 2.0901629915309567e-09,
    ),
}  # fmt: skip
#: From below the first exp is 0, from above the second infinity; exp2 likewise.
_EXP_RANGE = {"float": (-105.0, 89.0), "double": (-746.0, 710.0)}
_EXP2_RANGE = {"float": (-151.0, 129.0), "double": (-1076.0, 1025.0)}


def _clamped(x: Value, low: float, high: float) -> Value:
    return at_most(at_least(x, low), high)


def _reduced(x: Value) -> tuple[Value, Value]:
    """(n + ROUNDER, r) with x = n ln 2 + r, |r| < ln 2 / 2."""
    rounded = fma(x, LOG2E, ROUNDER[x.type])
    n = rounded - ROUNDER[x.type]
    high, low = LN2[x.type]
    return rounded, fma(n, -low, fma(n, -high, x))


def _exp_near(r: Value) -> Value:
    """exp(r) for |r| < ln 2 / 2."""
    return fma(r * r, polynomial(r, _EXP[r.type]), r) + 1.0


def _exp(x: Value) -> Value:
    rounded, r = _reduced(_clamped(x, *_EXP_RANGE[x.type]))
    return _scaled(_exp_near(r), rounded)


def _exp2(x: Value) -> Value:
    x = _clamped(x, *_EXP2_RANGE[x.type])
    rounded = x + ROUNDER[x.type]
    r = x - (rounded - ROUNDER[x.type])
    return _scaled(polynomial(r, (1.0, *_EXP2[x.type])), rounded)


def _expm1(x: Value) -> Value:
    """Half of the power of two, doubled at the end: it overflows no sooner than the result."""
    rounded, r = _reduced(_clamped(x, -40.0, _EXP_RANGE[x.type][1]))
    p = fma(r * r, polynomial(r, _EXPM1[x.type]), r)
    scale = _power_of_two(rounded, -1)
    return select(x.equals(0.0), x, fma(p, scale, scale - 0.5) * 2.0)


def _half_exp(x: Value) -> Value:
    """exp(x) / 2 for x >= 0: finite wherever sinh and cosh are."""
    rounded, r = _reduced(at_most(x, _EXP_RANGE[x.type][1] + 2.0))
    return _scaled(_exp_near(r), rounded - 1.0)


#: (sinh(x) / x - 1) / x**2 of x**2 for |x| < 1, relative: 2**-31
_SINH = (0.16666667, 0.0083333105, 0.00019842894, 2.7822293e-06)
#: (tanh(x) / x - 1) / x**2 of x**2 for |x| < 0.6, relative: 2**-28
_TANH = (-0.333333, 0.13331936, -0.053784717, 0.020798625, -0.0058979667)


def _odd(x: Value, coefficients: tuple[float, ...]) -> Value:
    """x + x**3 (c[0] + c[1] x**2 + ...)."""
    z = x * x
    return fma(x * z, polynomial(z, coefficients), x)


def _sinh(x: Value) -> Value:
    size = absolute(x)
    h = _half_exp(size)
    far = with_sign(h - 0.25 / h, x)
    if x.type == "float":
        return select(size < 1.0, _odd(x, _SINH), far)
    e = _expm1(at_most(x, 1.0))
    return select(size < 1.0, (e + e / (e + 1.0)) * 0.5, far)


def _cosh(x: Value) -> Value:
    h = _half_exp(absolute(x))
    return h + 0.25 / h


def _tanh(x: Value) -> Value:
    """Near 0 a polynomial, else 1 - 2 / (exp(2 |x|) + 1), which is 1 from 10 on; of float64 by expm1."""
    size = absolute(x)
    if x.type == "double":
        e = _expm1(at_most(size, 20.0) * 2.0)
        return with_sign(e / (e + 2.0), x)
    rounded, r = _reduced(at_most(size, 10.0) * 2.0)
    far = 1.0 - 2.0 / fma(_exp_near(r), _power_of_two(rounded), 1.0)
    return with_sign(select(size < 0.6, _odd(size, _TANH), far), x)


# -- logarithms

#: (log(1 + f) - f + f**2 / 2) / f**3 for |f| < 1/3, relative to log(1 + f): 2**-28
_LOG = (
    0.33333215, -0.24999803, 0.20010449, -0.16680247, 0.14005217, -0.12187446, 0.1398751, -0.12878385,
)  # fmt: skip
#: (2 atanh(s) / s - 2) / s**2 of s**2 for |s| < 0.1716, relative to 2 atanh(s) / s: 2**-59, 2**-37
_ATANH = (
    0.6666666666666734, 0.39999999999416747, 0.285714287420076, 0.2222219860584657, 0.18183562902152928,
    0.1531408090902816, 0.14795700241645704,
)  # fmt: skip
_ATANH_SHORT = (0.6666666564704609, 0.40000334908854246, 0.28537322343086213, 0.235819570193301)
#: The bits of 2/3, and of sqrt(1/2): mantissas are taken from there on to twice that.
_LEAST_MANTISSA = {"float": 0x3F2AAAAB, "double": 0x3FE6A09E667F3BCD}


def _exponent_bits(bits: Value, type: str) -> Value:
    """n << MANTISSA of the number that has these bits."""
    return (bits - _LEAST_MANTISSA[type]) & -(1 << MANTISSA[type])


def _exponent(bits: Value, type: str) -> Value:
    """n as a float, of n << MANTISSA."""
    if type == "float":
        return bits.to(type) * 2.0**-23
    # float64 from an integer of 64 bits is dear: the few bits of the exponent go through ROUNDER.
    return ((bits >> MANTISSA[type]) + ROUNDER_BITS[type]).floats() - ROUNDER[type]


def _parted(x: Value) -> tuple[Value, Value]:
    """(n, f) with x = 2**n (1 + f), 1 + f from LEAST_MANTISSA on, for positive x."""
    t = x.type
    tiny = x < SMALLEST[t]
    bits = select(tiny, x * 2.0 ** MANTISSA[t], x).bits()
    exponent = _exponent_bits(bits, t)
    offset = select(tiny, x.formula.constant(-float(MANTISSA[t]), t), 0.0)
    return _exponent(exponent, t) + offset, (bits - exponent).floats() - 1.0


def _log_edges(x: Value, found: Value) -> Value:
    """A logarithm's values at zeros, infinity, NaN and negative numbers."""
    found = select(x < INF, found, x)
    found = select(x < 0.0, NAN, found)
    return select(x.equals(0.0), -INF, found)


def _log1p_quotient(f: Value) -> Value:
    """(log(1 + f) - f) / f**2."""
    return fma(polynomial(f, _LOG), f, -0.5)


def _log1p_rest(f: Value) -> Value:
    """log(1 + f) - f."""
    if f.type == "float":
        return f * f * _log1p_quotient(f)
    s = f / (f + 2.0)
    z = s * s
    half = f * f * 0.5
    return fma(s, fma(z, polynomial(z, _ATANH), half), -half)


def _log_of_parts(n: Value, f: Value) -> Value:
    """n ln 2 + log(1 + f)."""
    high, low = LN2[f.type]
    if f.type == "float":  # one part is enough: where n is not 0, f's error does not show
        return fma(n, math.log(2), fma(f * f, _log1p_quotient(f), f))
    return fma(n, high, f + fma(n, low, _log1p_rest(f)))


def _log(x: Value) -> Value:
    return _log_edges(x, _log_of_parts(*_parted(x)))


def _log_of_base(x: Value, scale: tuple[float, float], two: tuple[float, float]) -> Value:
    """log(x) * scale; `two` is the logarithm of two in two parts, the first exact times an exponent."""
    n, f = _parted(x)
    rest = fma(_log1p_rest(f), scale[0], f * scale[1])
    if two[1]:
        rest = fma(n, two[1], rest)
    return _log_edges(x, fma(n, two[0], fma(f, scale[0], rest)))


#: log2(e), log10(e), log10(2) in two parts
_LOG2E = {"float": (1.4426950216293335, 1.9259629911266175e-08), "double": (LOG2E, 2.0355273740931033e-17)}
_LOG10E = {
    "float": (0.4342944920063019, -1.0103050052231683e-08),
    "double": (0.4342944819032518, 1.098319650216765e-17),
}
_LOG10_2 = {
    "float": (0.301025390625, 4.605038981195214e-06), "double": (0.30102999566361177, 3.694239077158931e-13),
}  # fmt: skip


def _log2(x: Value) -> Value:
    return _log_of_base(x, _LOG2E[x.type], (1.0, 0.0))


def _log10(x: Value) -> Value:
    return _log_of_base(x, _LOG10E[x.type], _LOG10_2[x.type])


def _log1p(x: Value) -> Value:
    """The mantissa of 1 + x is formed of x itself, so that nothing of x is lost."""
    t = x.type
    exponent = _exponent_bits((x + 1.0).bits(), t)
    four = (((BIAS[t] + 2) << MANTISSA[t]) - exponent).floats()  # 4 / 2**n is normal where 1 / 2**n is not
    f = (x.bits() - exponent).floats() + fma(four, 0.25, -1.0)
    found = _log_of_parts(_exponent(exponent, t), f)
    found = select(x < INF, found, x)
    found = select(x < -1.0, NAN, found)
    return select(x.equals(-1.0), -INF, select(x.equals(0.0), x, found))


#: (2**r - 1) / r for |r| < 1/2, relative: 2**-34
_EXP2_SHORT = (
    0.6931471807050792, 0.2402265106752848, 0.055504103645476935, 0.009618037979040124, 0.0013333935981307927,
    0.00015466808636739788, 1.5196010579358458e-05,
)  # fmt: skip


def _pow(x: Value, y: Value) -> Value:
    """2**(y log2 |x|) in float64, to 2**-28 of the result; C's results at all the edges."""
    whole = _nearest(y).equals(y)
    half = y * 0.5
    odd = whole & _nearest(half).differs(half)
    size, power = absolute(x).to("double"), y.to("double")
    bits = size.bits()
    exponent = _exponent_bits(bits, "double")
    n = _exponent(exponent, "double")
    f = (bits - exponent).floats() - 1.0
    s = f / (f + 2.0)
    z = s * s
    log = fma(s * fma(z, polynomial(z, _ATANH_SHORT), 2.0), LOG2E, n)
    log = select(size.equals(0.0), -INF, select(size < INF, log, size))
    product = _clamped(power * log, -300.0, 300.0)
    rounded = product + ROUNDER["double"]
    r = product - (rounded - ROUNDER["double"])
    found = polynomial(r, (1.0, *_EXP2_SHORT)) * _power_of_two(rounded)
    found = select(product.is_nan(), product, found).to("float")
    negative = x.bits() < 0
    found = select(negative & odd, -found, found)
    found = select((x < 0.0) & (x > -INF) & ~whole & absolute(y).differs(INF), NAN, found)
    one = x.equals(1.0) | y.equals(0.0) | (x.equals(-1.0) & absolute(y).equals(INF))
    return select(one, 1.0, found)


def _nearest(x: Value) -> Value:
    return x.formula.intrinsic("rint", x)


def _hypot(x: Value, y: Value) -> Value:
    """In float64, where squares of float32 neither overflow nor vanish."""
    a, b = x.to("double"), y.to("double")
    found = _square_root(fma(a, a, b * b)).to("float")
    infinite = absolute(x).equals(INF) | absolute(y).equals(INF)  # beside a NaN too
    return select(infinite, INF, found)


def _cbrt(x: Value) -> Value:
    """A third of the exponent, then Halley's steps in float64: 5, 15, 47 bits."""
    size = absolute(x)
    tiny = size < SMALLEST["float"]
    bits = select(tiny, size * 2.0**24, size).bits()
    # 709958130 = (127 - 127/3 - 0.03306) * 2**23 takes half of the error of the first guess away.
    third = (bits.cast("zext", "i64") * 0xAAAAAAAB).logical_shift(33).cast("trunc", "i32")
    guess = (third + select(tiny, bits.formula.constant(642849266, "i32"), 709958130)).floats().to("double")
    wide = size.to("double")
    for _ in range(2):
        cube = guess * guess * guess
        guess = guess * (wide + wide + cube) / (wide + cube + cube)
    found = select(size < INF, guess.to("float"), size)
    return with_sign(select(size.equals(0.0), size, found), x)


# -- circular functions

#: pi/2 in parts; for float32 the first two times a whole number below 2**16 are exact or nearly so
_HALF_PI = {
    "float": (1.570796012878418, 3.1391647326017846e-07, 5.390302529957765e-15),
    "double": (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
}
_FAR = {"float": 71476.0, "double": 2.0**20}  #: from here on the parts are not enough
#: (sin(r) / r - 1) / r**2 of r**2 for |r| < pi/4, relative: 2**-28, 2**-58
_SIN = {
    "float": (-0.16666655, 0.008332188, -0.000195181),
    "double": (
        -0.16666666666666632, 0.00833333333332249, -0.0001984126982985795, 2.7557313707070068e-06,
        -2.5050760253406863e-08, 1.58969099521155e-10,
    ),
}  # fmt: skip
#: (cos(r) - 1 + r**2 / 2) / r**4 of r**2, relative: 2**-33, 2**-58
_COS = {
    "float": (0.041666646, -0.0013887311, 2.4432553e-05),
    "double": (
        0.0416666666666666, -0.001388888888887411, 2.480158728947673e-05, -2.7557314351390663e-07,
        2.087572321298175e-09, -1.1359647557788195e-11,
    ),
}  # fmt: skip
#: floor(2**256 * 2 / pi)
_TWO_OVER_PI = int(
    "A2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561", 16
)  # fmt: skip

#: Payne and Hanek's reduction of one float32: x = mantissa * 2**p, and of mantissa * (2**p * 2/pi) only what is left
#: modulo 4 matters, so the multiples of 4 are cut off 2/pi before the product is taken, in 128 bits.
_FAR_REDUCTION = """
define internal {{ float, i32 }} {symbol}(float %x) nounwind noinline {{
  %bits = bitcast float %x to i32
  %biased = lshr i32 %bits, 23
  %exponent = and i32 %biased, 255
  %fraction = and i32 %bits, 8388607
  %mantissa = or i32 %fraction, 8388608
  %shift = sub i32 280, %exponent
  %limited = and i32 %shift, 255
  %wide.shift = zext i32 %limited to i256
  %window = lshr i256 {table}, %wide.shift
  %modulo = trunc i256 %window to i128
  %wide = zext i32 %mantissa to i128
  %product = mul i128 %modulo, %wide
  %top.wide = lshr i128 %product, 64
  %top = trunc i128 %top.wide to i64
  %half = add i64 %top, 2305843009213693952
  %quadrant = lshr i64 %half, 62
  %whole = shl i64 %quadrant, 62
  %rest = sub i64 %top, %whole
  %number = sitofp i64 %rest to double
  %angle = fmul double %number, {scale}
  %r = fptrunc double %angle to float
  %n = trunc i64 %quadrant to i32
  %negative = icmp slt i32 %bits, 0
  %r.negated = fneg float %r
  %n.negated = sub i32 0, %n
  %r.signed = select i1 %negative, float %r.negated, float %r
  %n.signed = select i1 %negative, i32 %n.negated, i32 %n
  %first = insertvalue {{ float, i32 }} poison, float %r.signed, 0
  %both = insertvalue {{ float, i32 }} %first, i32 %n.signed, 1
  ret {{ float, i32 }} %both
}}
"""


def _quadrant(x: Value) -> tuple[Value, Value]:
    """(r, n) with x = n pi/2 + r, |r| <= pi/4, n modulo 4, for every finite float32."""
    f = x.formula
    rounded = fma(x, 2 / math.pi, ROUNDER["float"])
    n = rounded - ROUNDER["float"]
    r = x
    for part in _HALF_PI["float"]:
        r = fma(n, -part, r)
    symbol = f"{f.symbol}.reduced"
    f.helpers.append(
        _FAR_REDUCTION.format(symbol=symbol, table=_TWO_OVER_PI, scale=llvm.constant(math.pi / 2 * 2.0**-62, "double"))
    )

    def far() -> list[Value]:
        pair = "{ float, i32 }"
        found = [f.emit(f"call {pair} {symbol}(float {f.lane(x, i)})", pair).text for i in range(f.lanes)]
        return [
            f.together([f.emit(f"extractvalue {pair} {p}, {i}", t).text for p in found], t)
            for i, t in enumerate(("float", "i32"))
        ]

    size = absolute(x)
    r, whole = f.rarely((size > _FAR["float"]) & (size < INF), [r, rounded.bits()], far)
    return select(size < INF, r, NAN), whole


def _quadrant_parts(x: Value) -> tuple[Value, Value, Value]:
    """(r, what the rounding of r lost, n + ROUNDER's bits) for float64 below FAR."""
    first, second, third = _HALF_PI["double"]
    rounded = fma(x, 2 / math.pi, ROUNDER["double"])
    n = rounded - ROUNDER["double"]
    near = fma(n, -first, x)  # exact
    product = n * second
    r = near - product
    lost = (near - r) - product - fma(n, second, -product)
    return r, fma(n, -third, lost), rounded.bits()


def _sine(r: Value) -> Value:
    return with_sign(_odd(r, _SIN["float"]), r)  # -0 as well


def _cosine(r: Value) -> Value:
    z = r * r
    return fma(z * z, polynomial(z, _COS["float"]), fma(z, -0.5, 1.0))


def _sine_of_parts(r: Value, lost: Value) -> Value:
    z = r * r
    cube = z * r
    first, *others = _SIN["double"]
    return r - (fma(z, fma(cube, -polynomial(z, others), lost * 0.5), -lost) - cube * first)


def _cosine_of_parts(r: Value, lost: Value) -> Value:
    z = r * r
    half = z * 0.5
    near = 1.0 - half
    return near + ((1.0 - near) - half + fma(z * z, polynomial(z, _COS["double"]), -(r * lost)))


def _turned(sine: Value, cosine: Value, n: Value) -> Value:
    """sin(n pi/2 + r)."""
    top = llvm.BITS[sine.type] - 2
    found = select((n & 1).equals(0), sine, cosine)
    return (found.bits() ^ ((n & 2) << top)).floats()


def _circular(name: str, quarters: int) -> Callable[[Value], Value]:
    """sin(x + quarters * pi/2), which the C library knows as `name`."""

    def formula(x: Value) -> Value:
        if x.type == "float":
            r, n = _quadrant(x)
            return _turned(_sine(r), _cosine(r), n + quarters)
        r, lost, n = _quadrant_parts(x)
        near = _turned(_sine_of_parts(r, lost), _cosine_of_parts(r, lost), n + quarters)
        rare = ~(absolute(x) < _FAR["double"])  # NaN and infinity among them
        (found,) = x.formula.rarely(rare, [near], lambda: [x.formula.library(name, x)])
        return found if quarters else select(x.equals(0.0), x, found)

    return formula


_sin, _cos = _circular("sin", 0), _circular("cos", 1)


#: (tan(r) / r - 1) / r**2 of r**2 for |r| < pi/4, relative: 2**-25
_TAN = (0.33333156, 0.13338834, 0.05340839, 0.024440568, 0.0031029591, 0.009395585)


def _tan(x: Value) -> Value:
    r, n = _quadrant(x)
    tangent = _odd(r, _TAN)
    return select((n & 1).equals(0), tangent, -1.0 / tangent)


#: (atan(x) / x - 1) / x**2 of x**2 for |x| < 1, relative: 2**-25
_ATAN = (
    -0.33333153, 0.19993767, -0.14211002, 0.106657706, -0.07551671, 0.043204986, -0.016363451, 0.002919518,
)  # fmt: skip
#: (asin(x) / x - 1) / x**2 of x**2 for |x| < 1/2, relative: 2**-31
_ASIN = (0.1666666, 0.07500519, 0.044514388, 0.03182782, 0.014365802, 0.037615865)
#: pi and pi/2 in two parts of float32
_PI_PARTS = (3.1415927410125732, -8.742278000372485e-08)
_HALF_PI_PARTS = (1.5707963705062866, -4.3711390001862426e-08)


def _atan_of_ratio(low: Value, high: Value, swapped: Value) -> Value:
    """atan(low / high) for 0 <= low <= high; pi/2 less that where they are swapped."""
    t = low / high
    angle = _odd(t, _ATAN)
    return select(swapped, _HALF_PI_PARTS[0] - (angle - _HALF_PI_PARTS[1]), angle)


def _atan(x: Value) -> Value:
    size = absolute(x)
    large = size > 1.0
    one = x.formula.constant(1.0, x.type)
    return with_sign(_atan_of_ratio(select(large, one, size), select(large, size, one), large), x)


def _atan2(y: Value, x: Value) -> Value:
    tall, wide = absolute(y), absolute(x)
    swapped = tall > wide
    low, high = select(swapped, wide, tall), select(swapped, tall, wide)
    high = select(low.equals(0.0), at_least(high, SMALLEST["float"]), high)  # 0 / 0 is taken as 0
    infinite = low.equals(INF)
    low, high = select(infinite, 1.0, low), select(infinite, 1.0, high)
    angle = _atan_of_ratio(low, high, swapped)
    angle = select(x.bits() < 0, _PI_PARTS[0] - (angle - _PI_PARTS[1]), angle)
    return with_sign(select(x.is_nan() | y.is_nan(), NAN, angle), y)


def _asin_parts(x: Value) -> tuple[Value, Value]:
    """(whether |x| < 1/2, asin(|x|) there, else asin(sqrt((1 - |x|) / 2)))."""
    size = absolute(x)
    near = size < 0.5
    return near, _odd(select(near, size, _square_root(fma(size, -0.5, 0.5))), _ASIN)


def _asin(x: Value) -> Value:
    near, angle = _asin_parts(x)
    return with_sign(select(near, angle, fma(angle, -2.0, _HALF_PI_PARTS[1]) + _HALF_PI_PARTS[0]), x)


def _acos(x: Value) -> Value:
    near, angle = _asin_parts(x)
    negative = x.bits() < 0
    middle = _HALF_PI_PARTS[0] - (with_sign(angle, x) - _HALF_PI_PARTS[1])
    far = select(negative, _PI_PARTS[0] - (angle * 2.0 - _PI_PARTS[1]), angle * 2.0)
    return select(near, middle, far)


# -- inverse hyperbolic functions of float32, in float64


def _asinh(x: Value) -> Value:
    """sign(x) log1p(|x| + x**2 / (1 + sqrt(1 + x**2)))."""
    a = absolute(x).to("double")
    square = a * a
    found = _log1p_double(a + square / (_square_root(square + 1.0) + 1.0)).to("float")
    return select(x.equals(0.0) | ~(absolute(x) < INF), x, with_sign(found, x))


def _acosh(x: Value) -> Value:
    """log1p(t + sqrt(2 t + t**2)) of t = x - 1."""
    t = x.to("double") - 1.0
    found = _log1p_double(t + _square_root(fma(t, t, t + t))).to("float")
    return select(x < INF, select(x < 1.0, NAN, found), x)


def _atanh(x: Value) -> Value:
    """sign(x) log1p(2 |x| / (1 - |x|)) / 2."""
    a = absolute(x).to("double")
    found = (_log1p_double((a + a) / (1.0 - a)) * 0.5).to("float")
    size = absolute(x)
    found = select(size.equals(1.0), INF, select(size < 1.0, found, NAN))
    return select(x.equals(0.0), x, with_sign(found, x))


def _log1p_double(x: Value) -> Value:
    """log(1 + x) for x >= 0, to about 2**-50: log(u) and what the rounding of u = 1 + x lost."""
    u = x + 1.0
    return _log_of_parts(*_parted(u)) + (x - (u - 1.0)) / u


# -- the error function

#: erf(x) / x - 1 of x**2 for |x| < 0.93, relative: 2**-26
_ERF_NEAR = (0.12837915, -0.3761249, 0.11281731, -0.026762966, 0.004987352, -0.00059595786)
#: 1 + log(erfc(x)) / x for 0 < x < 3.92, as it shows in erf(x): 2**-27
_ERF = (
    -0.12837917, -0.6366195, -0.10277711, 0.019151574, 0.00016128246, -0.0016663265, 0.0006317211, -0.000117155854,
    9.18573e-06,
)  # fmt: skip
#: exp(x**2) erfc(x) (1 + 2 x) of (x - 2) / (x + 2) for 0 < x < 10.2, relative: 2**-26
_ERFC = (
    1.2769784, -0.09276392, -0.16603097, 0.16405472, -0.054207228, -0.008058441, 0.00863915, 0.0013143194,
    -0.0012365322, -0.0004038714,
)  # fmt: skip


#: Of 16 intervals of 0.255, 0 in the middle of the first: a number near their middle whose erf is a float32, and of
#: erf(c + t) the coefficients of t**0, t**1, ...; the first's are of erf(t) - t. As it shows in erf: 2**-25
_ERF_MIDDLE = (
    0.0, 0.25503734, 0.5099094, 0.7650829, 1.0200735, 1.2747757, 1.5298865, 1.7852405, 2.0403671, 2.2948472, 2.5497541,
    2.805244, 3.0600166, 3.3157153, 3.5707152, 3.8257153,
)  # fmt: skip
_ERF_PIECES = (
    (0.0, 0.28165928, 0.5291648, 0.7207433, 0.85086733, 0.9285812, 0.9695039, 0.98842067, 0.99609226, 0.99882716,
     0.9996889, 0.9999273, 0.9999849, 0.99999726, 0.9999996, 0.99999994),
    (0.12837917, 1.057321, 0.870032, 0.6284055, 0.3986116, 0.22217922, 0.10863404, 0.046593156, 0.017556766,
     0.005825318, 0.0016943369, 0.0004313415, 9.679479e-05, 1.8959872e-05, 3.274895e-06, 4.9668665e-07),
    (3.300461e-07, -0.2696519, -0.44363195, -0.48077968, -0.4066139, -0.28323108, -0.16619982, -0.08318085,
     -0.035822205, -0.013367868, -0.0043198485, -0.0012098573, -0.00029612426, -6.375593e-05, -2.3929751e-05,
     -4.351614e-06),
    (-0.3761443, -0.3066195, -0.13921815, 0.035751738, 0.14364274, 0.16664103, 0.13329984, 0.083468474, 0.04287557,
     0.018510357, 0.0067786444, 0.0021189465, 0.000571877, 0.00013253985, 2.5661195e-05, -8.5033463e-07),
    (0.00032487154, 0.12807329, 0.18225726, 0.14603302, 0.062421914, -0.011318617, -0.046154223, -0.04660731,
     -0.03180849, -0.016851995, -0.0072606076, -0.0026010212, -0.0007898153, -0.00014746757, 0.0007065087,
     0.00022863646),
    (0.11079739, 0.07991714, 0.0053235004, -0.05493329, -0.06807878, -0.04387536, -0.0116775185, 0.008162653,
     0.013001932, 0.009839915, 0.005327025, 0.0022678364, 0.00078912155, 0.0002376223, 0.00018797543, 0.001036277),
)  # fmt: skip


def _picked(table: Sequence[float], index: Value) -> Value:
    """table[index % 16], of AVX-512's registers of 16 float32."""
    f = index.formula
    symbol, vector, words = "@llvm.x86.avx512.permvar.sf.512", f.of_type("float"), f.of_type("i32")
    f.declarations.add(f"declare {vector} {symbol}({vector}, {words})")
    numbers = llvm.lanes_of((llvm.constant(x, "float") for x in table), "float")
    return f.emit(f"call {vector} {symbol}({vector} {numbers}, {words} {index.text})", "float")


def _erf_by_pieces(x: Value) -> Value:
    """A polynomial for each interval, its coefficients picked from registers: about half of the instructions."""
    size = at_most(absolute(x), 3.92)  # from 3.84 on erf is 1
    index = fma(size, 1 / 0.255, ROUNDER[x.type]).bits()
    t = size - _picked(_ERF_MIDDLE, index)
    found = _picked(_ERF_PIECES[-1], index)
    for piece in reversed(_ERF_PIECES[1:-1]):
        found = fma(found, t, _picked(piece, index))
    first = select(t.equals(size), size, _picked(_ERF_PIECES[0], index))
    return with_sign(fma(found, t, first), x)


def _erf(x: Value) -> Value:
    f = x.formula
    if not f.has("avx512f") or f.lanes > 16:
        return _erf_by_exp(x)
    if f.lanes == 16:
        return _erf_by_pieces(x)
    wide = f.of_lanes(16)  # the same bits at every width
    found = _erf_by_pieces(wide.together([f.lane(x, i) for i in range(f.lanes)], x.type))
    return f.together([wide.lane(found, i) for i in range(f.lanes)], x.type)


def _erf_by_exp(x: Value) -> Value:
    """1 - exp(h) of h = log(erfc(|x|)) = n ln 2 + r, as (1 - 2**n) - 2**n (exp(r) - 1): right to the last places near
    0, where n is 0, as near 1. One form for all x: each of two would be computed for every vector."""
    size = at_most(absolute(x), 3.92)  # from 3.84 on erf is 1
    h = fma(size, polynomial(size, _ERF), -size)
    rounded = fma(h, LOG2E, ROUNDER[x.type])
    r = fma(rounded - ROUNDER[x.type], -math.log(2), h)  # one part is enough: where n is not 0 its error is halved
    e = fma(r * r, polynomial(r, _EXPM1[x.type]), r)
    scale = _power_of_two(rounded)
    return with_sign(fma(-scale, e, 1.0 - scale), x)


def _erfc(x: Value) -> Value:
    """exp(-x**2) times a fit; what the rounding of x**2 lost is subtracted within exp."""
    a = at_most(absolute(x), 10.2)
    square = a * a
    rounded, r = _reduced(-square)
    r = r - fma(a, a, -square)
    fit = polynomial((a - 2.0) / (a + 2.0), _ERFC) / fma(a, 2.0, 1.0)
    found = _scaled(_exp_near(r) * fit, rounded)
    found = select(x < 0.0, 2.0 - found, found)
    return select(a < 0.5, 1.0 - fma(x, polynomial(x * x, _ERF_NEAR), x), found)


# -- the table

Formulation: TypeAlias = Callable[..., Value]


def _square_root(x: Value) -> Value:
    return x.formula.intrinsic("sqrt", x)


def _rsqrt(x: Value) -> Value:
    return 1.0 / _square_root(x)


def _unary(intrinsic: str) -> Formulation:
    return lambda x: x.formula.intrinsic(intrinsic, x)


def _libm(name: str) -> Formulation:
    """The C library's function of doubles, lane by lane; float32 is rounded once more."""
    return lambda *x: x[0].formula.library(name, *(v.to("double") for v in x)).to(x[0].type)


def _same(formulation: Formulation) -> tuple[Formulation, Formulation]:
    return formulation, formulation


def _single(formulation: Formulation, name: str) -> tuple[Formulation, Formulation]:
    """float32's formula; the C library's function for float64."""
    return formulation, _libm(name)


#: name -> (float32's formula, float64's)
FORMULAS: dict[str, tuple[Formulation, Formulation]] = {
    "exp": _same(_exp), "exp2": _same(_exp2), "expm1": _same(_expm1),
    "log": _same(_log), "log2": _same(_log2), "log10": _same(_log10), "log1p": _same(_log1p),
    "sin": _same(_sin), "cos": _same(_cos), "tan": _single(_tan, "tan"),
    "asin": _single(_asin, "asin"), "acos": _single(_acos, "acos"),
    "atan": _single(_atan, "atan"), "atan2": _single(_atan2, "atan2"),
    "sinh": _same(_sinh), "cosh": _same(_cosh), "tanh": _same(_tanh),
    "asinh": _single(_asinh, "asinh"), "acosh": _single(_acosh, "acosh"), "atanh": _single(_atanh, "atanh"),
    "erf": _single(_erf, "erf"), "erfc": _single(_erfc, "erfc"),
    "pow": _single(_pow, "pow"), "cbrt": _single(_cbrt, "cbrt"),
    "rsqrt": _same(_rsqrt), "sqrt": _same(_square_root), "fma": _same(fma),
    **{
        name: _same(_unary(intrinsic))
        for name, intrinsic in {
            "abs": "fabs", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "rint",
            "round": "round", "nearbyint": "rint",
        }.items()
    },
    "hypot": _single(_hypot, "hypot"),
    **{name: _same(_libm(name)) for name in ("fmod", "remainder")},
}  # fmt: skip
NAMES = frozenset(FORMULAS)
_OPERANDS = {"pow": 2, "atan2": 2, "hypot": 2, "fmod": 2, "remainder": 2, "fma": 3}

#: float64's that are the C library's, lane by lane, and both types' of fmod and remainder
IN_LIBRARY = frozenset("tan asin acos atan atan2 asinh acosh atanh erf erfc pow cbrt hypot fmod remainder".split())

#: Largest errors of float32 and of float64, in units of the last place of the exact result, of what does not round
#: correctly. In float64, IN_LIBRARY's are what glibc's manual states.
ERRORS: dict[str, tuple[float, float]] = {
    "exp": (1.02, 1.0), "exp2": (0.85, 0.75), "expm1": (1.55, 1.8),
    "log": (0.95, 0.75), "log2": (1.52, 0.95), "log10": (1.15, 0.95), "log1p": (1.5, 1.4),
    "sin": (1.6, 0.8), "cos": (1.6, 0.8), "tan": (2.7, 1.0),
    "asin": (2.3, 1.0), "acos": (1.4, 1.0), "atan": (1.5, 1.0), "atan2": (2.0, 1.0),
    "sinh": (1.6, 2.6), "cosh": (1.5, 1.5), "tanh": (1.35, 2.4),
    "asinh": (0.51, 2.0), "acosh": (0.51, 2.0), "atanh": (0.51, 2.0),
    "erf": (1.85, 1.0), "erfc": (3.5, 5.0), "pow": (0.51, 1.0), "cbrt": (0.51, 4.0),
    "rsqrt": (1.5, 1.5), "hypot": (0.51, 1.0),
}  # fmt: skip


@functools.cache
def function(name: str, element: str, lanes: int, machine: Features | None = None) -> Function:
    """``element @tl.name(element, ...)`` of so many lanes; 1 is a plain scalar. `element` is "float" or "double".

    With `machine` the code may use what that processor has. UnsupportedError for a name that is not in NAMES.
    """
    if name not in FORMULAS:
        raise UnsupportedError(f"native: no function {name!r}: expected one of {', '.join(sorted(NAMES))}")
    f = Formula(f"@tl.{name}.{llvm.suffix(element, lanes if lanes > 1 else 0)}", lanes, machine)
    x = [Value(f, f"%x{i}", element) for i in range(_OPERANDS.get(name, 1))]
    return f.function(x, FORMULAS[name][element == "double"](*x))
