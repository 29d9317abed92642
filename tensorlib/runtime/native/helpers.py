"""What LLVM expects of a compiler's library: conversions of half types, where there is no instruction."""

from __future__ import annotations

#: Where a processor cannot convert half types LLVM calls these functions, which not every process has.
_NARROW = """
define {type} @{name}(double %x) nounwind {{
  %bits = bitcast double %x to i64
  %magnitude = and i64 %bits, 9223372036854775807
  %top = lshr i64 %bits, 48
  %sign = and i64 %top, 32768
  %raw = lshr i64 %magnitude, 52
  %tiny = icmp ult i64 %raw, {least}
  %exponent = select i1 %tiny, i64 {least}, i64 %raw
  %down = sub i64 {unit}, %exponent
  %scale.bits = shl i64 %down, 52
  %scale = bitcast i64 %scale.bits to double
  %absolute = bitcast i64 %magnitude to double
  %scaled = fmul double %absolute, %scale
  %added = fadd double %scaled, 0x4330000000000000
  %rounded = fsub double %added, 0x4330000000000000
  %fraction = fptoui double %rounded to i64
  %above = sub i64 %exponent, {least}
  %shifted = shl i64 %above, {fraction}
  %sum = add i64 %shifted, %fraction
  %large = icmp ugt i64 %sum, {infinity}
  %endless = icmp uge i64 %magnitude, 9218868437227405312
  %over = or i1 %large, %endless
  %finite = select i1 %endless, i64 {infinity}, i64 %sum
  %limited = select i1 %over, i64 {infinity}, i64 %finite
  %nan = icmp ugt i64 %magnitude, 9218868437227405312
  %value = select i1 %nan, i64 {quiet}, i64 %limited
  %signed = or i64 %value, %sign
  %short = trunc i64 %signed to i16
  %result = bitcast i16 %short to {type}
  ret {type} %result
}}
define {type} @{from_float}(float %x) nounwind {{
  %wide = fpext float %x to double
  %result = call {type} @{name}(double %wide)
  ret {type} %result
}}
"""
_WIDEN = """
define float @__extendhfsf2(half %x) nounwind {
  %short = bitcast half %x to i16
  %bits = zext i16 %short to i32
  %top = and i32 %bits, 32768
  %sign = shl i32 %top, 16
  %magnitude = and i32 %bits, 32767
  %moved = shl i32 %magnitude, 13
  %small = bitcast i32 %moved to float
  %scaled = fmul float %small, 0x46F0000000000000
  %finite = bitcast float %scaled to i32
  %endless = icmp uge i32 %magnitude, 31744
  %special = or i32 %moved, 2139095040
  %value = select i1 %endless, i32 %special, i32 %finite
  %signed = or i32 %value, %sign
  %result = bitcast i32 %signed to float
  ret float %result
}
"""
TEXT = (
    _NARROW.format(type="half", name="__truncdfhf2", from_float="__truncsfhf2", least=1009, unit=2056, fraction=10,
                   infinity=31744, quiet=32256)
    + _NARROW.format(type="bfloat", name="__truncdfbf2", from_float="__truncsfbf2", least=897, unit=2053, fraction=7,
                     infinity=32640, quiet=32704)
    + _WIDEN
)  # fmt: skip
NAMES = ("__truncdfhf2", "__truncsfhf2", "__truncdfbf2", "__truncsfbf2", "__extendhfsf2")
