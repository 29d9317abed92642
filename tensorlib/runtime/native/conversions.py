"""Conversions among number types, none of them poison: what LLVM leaves open is defined here, as a GPU does it.

Every conversion to a narrower float rounds to nearest, ties to even, once: from float64 through a float32 that is
rounded to odd, which keeps enough to round again. Floats become integers by truncation, clamped to the range; NaN
gives 0, or the top bit alone where source or result have 64 bits (8 and 16 bits: the low bits of the 32-bit result).
bfloat16 is converted with integers, because the processor's own instruction flushes denormals. 8-bit floats are held
as their bits; overflow gives the largest finite number, as on a GPU, infinities included.
"""

from __future__ import annotations

from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.tiles import Code, Number, integer, number

#: exponent bits, mantissa bits, bias, bits of the largest finite number, bits of NaN (without sign), whether -0 is NaN
_FLOAT8 = {
    "f8E4M3FN": (4, 3, 7, 0x7E, 0x7F, False),
    "f8E5M2": (5, 2, 15, 0x7B, 0x7F, False),
    "f8E4M3FNUZ": (4, 3, 8, 0x7F, 0x80, True),
    "f8E5M2FNUZ": (5, 2, 16, 0x7F, 0x80, True),
    "f8E4M3B11FNUZ": (4, 3, 11, 0x7F, 0x80, True),
}
_FLOAT8_INFINITY = {"f8E5M2": 0x7C}


def is_float8(type: str) -> bool:
    """Whether a TTIR scalar type is an 8-bit float."""
    return type in _FLOAT8


def widen_half(code: Code, a: Number) -> Number:
    """A 16-bit float as float; others as they are."""
    if a.type == "bfloat":
        bits = code.cast("zext", code.cast("bitcast", a, "i16"), "i32")
        return code.cast("bitcast", code.binary("shl", bits, integer(16, "i32")), "float")
    return code.cast("fpext", a, "float") if a.type == "half" else a


def to_float(code: Code, a: Number, source: str) -> Number:
    """Any float as "float" or, from float64, "double"."""
    if source in _FLOAT8:
        return _from_float8(code, a, source)
    return widen_half(code, a)


def convert(code: Code, a: Number, source: str, target: str, rounding: str = "rtne") -> Number:
    """Between float types, by their TTIR names."""
    if source == target:
        return a
    a = to_float(code, a, source)
    if target == "f64":
        return code.cast("fpext", a, "double")
    if target == "f32":
        return code.cast("fptrunc", a, "float")
    if a.type == "double":
        a = _round_to_odd(code, a)
    if target in _FLOAT8:
        return _to_float8(code, a, target)
    if rounding == "rtz":
        a = _toward_zero(code, a, target)
    return round_half(code, a, "half" if target == "f16" else "bfloat")


def round_half(code: Code, a: Number, type: str) -> Number:
    """A float as 16-bit float; other types as they are."""
    if type == "half":
        return code.cast("fptrunc", a, "half")
    if type != "bfloat":
        return a
    bits = code.cast("bitcast", a, "i32")
    even = code.binary("and", code.binary("lshr", bits, integer(16, "i32")), integer(1, "i32"))
    rounded = code.add(bits, code.add(even, integer(0x7FFF, "i32")))
    quiet = code.binary("or", bits, integer(0x400000, "i32"))
    chosen = code.select(code.compare("uno", a, a), quiet, rounded)
    top = code.cast("trunc", code.binary("lshr", chosen, integer(16, "i32")), "i16")
    return code.cast("bitcast", top, "bfloat")


def _toward_zero(code: Code, a: Number, target: str) -> Number:
    """Clears the bits that a 16-bit float does not have; float16 then rounds only where it is denormal or overflows."""
    dropped = 16 if target == "bf16" else 13
    bits = code.binary("and", code.cast("bitcast", a, "i32"), integer(-1 << dropped, "i32"))
    cleared = code.cast("bitcast", bits, "float")
    if target == "f16":
        size = code.intrinsic("fabs", [cleared])
        low = code.compare("olt", size, number(2.0**-14, "float"))  # a denormal: count in units of 2**-24
        scaled = code.binary("fmul", a, number(2.0**24, "float"))
        units = code.binary("fmul", code.intrinsic("trunc", [scaled]), number(2.0**-24, "float"))
        cleared = code.select(low, units, cleared)
        largest = code.intrinsic("copysign", [number(65504.0, "float"), cleared])
        finite = code.compare("one", size, number(float("inf"), "float"))
        over = code.binary("and", finite, code.compare("ogt", size, number(65504.0, "float")))
        cleared = code.select(over, largest, cleared)
    return code.select(code.compare("uno", a, a), a, cleared)


def _round_to_odd(code: Code, a: Number) -> Number:
    """A double as a float that is truncated, its last bit set where something was lost."""
    near = code.cast("fptrunc", a, "float")
    back = code.cast("fpext", near, "double")
    beyond = code.compare("ogt", code.intrinsic("fabs", [back]), code.intrinsic("fabs", [a]))
    inexact = code.compare("one", back, a)
    bits = code.binary("sub", code.cast("bitcast", near, "i32"), code.cast("zext", beyond, "i32"))
    return code.cast("bitcast", code.binary("or", bits, code.cast("zext", inexact, "i32")), "float")


def from_integer(code: Code, a: Number, target: str, signed: bool) -> Number:
    """An integer as a float."""
    operation = "sitofp" if signed else "uitofp"
    if target in ("f32", "f64"):
        return code.cast(operation, a, llvm.TYPES[target])
    wide = "double" if llvm.BITS[a.type] > 16 else "float"
    return convert(code, code.cast(operation, a, wide), "f64" if wide == "double" else "f32", target)


def to_integer(code: Code, a: Number, source: str, target: str, signed: bool) -> Number:
    """A float truncated to an integer, clamped."""
    a = to_float(code, a, source)
    wide = target if llvm.BITS[target] >= 32 else "i32"
    name = f"llvm.fpto{'s' if signed else 'u'}i.sat"
    vector = not hasattr(a, "constant")
    lanes = code.lanes if vector else 0
    symbol = f"{name}.{llvm.suffix(wide, lanes)}.{llvm.suffix(a.type, lanes)}"
    result, given = (code.vector_type(wide), code.vector_type(a.type)) if vector else (wide, a.type)
    code.module.declare(f"declare {result} @{symbol}({given})")
    clamped = code.call(symbol, [a], wide)
    if a.type == "double" or wide == "i64":
        nothing = integer(1 << (llvm.BITS[wide] - 1), wide)
        clamped = code.select(code.compare("uno", a, a), nothing, clamped)
    return code.cast("trunc", clamped, target)


def _from_float8(code: Code, a: Number, source: str) -> Number:
    """An 8-bit float as float: its bits moved into place and scaled by a power of two, which is exact."""
    _, mantissa_bits, bias, _, nan, unsigned_zero = _FLOAT8[source]
    bits = code.cast("zext", a, "i32")
    size = code.binary("and", bits, integer(0x7F, "i32"))
    sign = code.binary("shl", code.binary("and", bits, integer(0x80, "i32")), integer(24, "i32"))
    moved = code.cast("bitcast", code.binary("shl", size, integer(23 - mantissa_bits, "i32")), "float")
    value = code.binary("fmul", moved, number(2.0 ** (127 - bias), "float"))
    result = code.cast("bitcast", code.binary("or", code.cast("bitcast", value, "i32"), sign), "float")
    if source in _FLOAT8_INFINITY:
        code_of_infinity = integer(_FLOAT8_INFINITY[source], "i32")
        infinity = code.cast("bitcast", code.binary("or", sign, integer(0x7F800000, "i32")), "float")
        result = code.select(code.compare("eq", size, code_of_infinity), infinity, result)
        is_nan = code.compare("ugt", size, code_of_infinity)
    else:
        is_nan = code.compare("eq", bits if unsigned_zero else size, integer(nan, "i32"))
    return code.select(is_nan, number(float("nan"), "float"), result)


def _to_float8(code: Code, a: Number, target: str) -> Number:
    """A float as an 8-bit float: rounded at the bit its exponent says, clamped to the largest."""
    exponent_bits, mantissa_bits, bias, largest, nan, unsigned_zero = _FLOAT8[target]
    bits = code.cast("bitcast", a, "i32")
    sign = code.binary("and", code.binary("lshr", bits, integer(24, "i32")), integer(0x80, "i32"))
    size = code.binary("and", bits, integer(0x7FFFFFFF, "i32"))
    # normal numbers: rebias the exponent and round away the mantissa's low bits
    drop = 23 - mantissa_bits
    rebased = code.add(size, integer((bias - 127) << 23, "i32"))
    even = code.binary("and", code.binary("lshr", rebased, integer(drop, "i32")), integer(1, "i32"))
    rounded = code.add(rebased, code.add(even, integer((1 << (drop - 1)) - 1, "i32")))
    normal = code.binary("lshr", rounded, integer(drop, "i32"))
    # denormals: adding 2**k moves the wanted bits to the end of the mantissa, rounded by the addition itself
    magic = number(2.0 ** (1 - bias - mantissa_bits + 23), "float")
    magnitude = code.cast("bitcast", size, "float")
    shifted = code.cast("bitcast", code.binary("fadd", magnitude, magic), "i32")
    denormal = code.binary("sub", shifted, code.cast("bitcast", magic, "i32"))
    small = code.compare("ult", size, integer((128 - bias) << 23, "i32"))
    result = code.select(small, denormal, normal)
    over = code.compare("ugt", result, integer(largest, "i32"))
    high = code.compare("uge", size, integer((127 + (1 << exponent_bits) - bias) << 23, "i32"))
    result = code.select(code.binary("or", over, high), integer(largest, "i32"), result)
    signed = code.binary("or", result, sign)
    if unsigned_zero:
        signed = code.select(code.compare("eq", result, integer(0, "i32")), integer(0, "i32"), signed)
        not_a_number = integer(nan, "i32")
        result = code.select(code.compare("uno", a, a), not_a_number, signed)
    else:
        result = code.select(code.compare("uno", a, a), code.binary("or", integer(nan, "i32"), sign), signed)
    return code.cast("trunc", result, "i8")
