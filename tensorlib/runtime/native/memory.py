"""Loads and stores of one vector of lanes: contiguous, strided or gathered, masked or not.

A lane whose mask is false never touches memory. A scalar access under a false mask goes to the first bytes of the
thread's scratch memory, which hold nothing. Contiguous stores branch on a mask that is all ones: a masked store costs
several times a plain one.
"""

from __future__ import annotations

from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.tiles import Affine, Code, Number, Pointers, Uniform, Value, Vector, integer, number

LINE = 64  #: bytes of the cache's, and of the widest vector

#: what masked intrinsics move instead of 16-bit floats
_AS_INTEGER = {"half": "i16", "bfloat": "i16"}


def load(
    code: Code, pointers: Pointers, type: str, mask: Number | None, other: Number | None, level: int = 0
) -> Number:
    """Elements of ``type`` (as in memory) from ``pointers``; ``other`` in lanes without a mask, else zero."""
    if isinstance(mask, Uniform) and mask.constant == 1:
        mask = None
    base, offset = pointers.base, pointers.offset
    if isinstance(base, Uniform) and isinstance(offset, Uniform) and (mask is None or isinstance(mask, Uniform)):
        return _load_scalar(code, pointers, type, mask, other, level)
    moved, align = _AS_INTEGER.get(type, type), llvm.SIZES[type]
    if isinstance(mask, Uniform) and mask.constant is None and other is None:
        other = number(0, type)
    lanes, zero = code.lanes, Vector("zeroinitializer", moved)
    if not (isinstance(base, Uniform) and isinstance(offset, Affine) and offset.stride.constant in (1, -1)):
        places = code.vector(pointers)
        return _as(code, _gather(code, places, moved, mask, zero if other is None else other, level), type)
    if offset.stride.constant == -1:
        return _load_reversed(code, pointers, type, mask, other, level)
    place = code.scalar(Pointers(base, offset.base, pointers.element))
    if mask is None:
        level = max(level, place.level)
        return Vector(
            code.effect(level, f"load {code.vector_type(type)}, ptr {place.text}, align {align}"), type, level
        )
    masks, intrinsic = code.vector(mask), f"llvm.masked.load.{llvm.suffix(moved, lanes)}.p0"
    passed = _as(code, code.vector(other), moved) if other is not None else zero
    level = max(level, place.level, masks.level, passed.level)
    vector, truth = code.vector_type(moved), code.vector_type("i1")
    code.module.declare(f"declare {vector} @{intrinsic}(ptr, i32, {truth}, {vector})")
    text = code.effect(level, f"call {vector} @{intrinsic}(ptr {place.text}, i32 {align}, "
                              f"{truth} {masks.text}, {vector} {passed.text})")  # fmt: skip
    return _as(code, Vector(text, moved, level), type)


def prefetch(code: Code, pointers: Pointers, distance: int) -> None:
    """Asks for the line so many bytes behind contiguous lanes. It may lie outside of any memory."""
    base, offset = pointers.base, pointers.offset
    if isinstance(base, Uniform) and isinstance(offset, Affine) and offset.stride.constant == 1:
        place = code.scalar(Pointers(base, offset.base, pointers.element))
        code.module.declare("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        there = code.effect(place.level, f"getelementptr i8, ptr {place.text}, i64 {distance}")
        code.emit(place.level, f"call void @llvm.prefetch.p0(ptr {there}, i32 0, i32 2, i32 1)")


def _gather(code: Code, places: Vector, type: str, mask: Number | None, other: Number, level: int) -> Vector:
    """Elements anywhere. Without a branch a lane, which LLVM makes of a mask where the processor has no instruction."""
    passed = _as(code, code.vector(other), type)
    masks = None if mask is None else code.vector(mask)
    level = max(level, places.level, passed.level, 0 if masks is None else masks.level)
    gathers = code.machine.architecture == "x86_64" and code.machine.lanes >= 8  # AVX2, AVX-512
    if not gathers or code.lanes < 4:
        return _one_by_one(code, places, type, masks, passed, level)
    if llvm.SIZES[type] >= 4:
        return _gather_words(code, places, type, masks, passed, level)
    # the words of 4 bytes that hold the elements: none of them leads into another page than its element
    address = code.cast("ptrtoint", places, "i64")
    within = code.binary("and", address, integer(3))
    words = code.vector(code.cast("inttoptr", code.binary("and", address, integer(-4)), "ptr"))
    found = _gather_words(code, words, "i32", masks, Vector("zeroinitializer", "i32"), level)
    shift = code.cast("trunc", code.multiply(within, integer(8)), "i32")
    element = code.vector(code.cast("trunc", code.binary("lshr", found, shift), type))
    return element if masks is None else code.vector(code.select(masks, element, passed))


def _gather_words(
    code: Code, places: Vector, type: str, masks: Vector | None, passed: Vector, level: int
) -> Vector:
    """Elements of 4 bytes or 8, by the processor's instruction."""
    vector, truth, lanes = code.vector_type(type), code.vector_type("i1"), code.lanes
    intrinsic = f"llvm.masked.gather.{llvm.suffix(type, lanes)}.v{lanes}p0"
    masks = code.vector(integer(1, "i1")) if masks is None else masks
    pointers = code.vector_type("ptr")
    code.module.declare(f"declare {vector} @{intrinsic}({pointers}, i32, {truth}, {vector})")
    text = code.effect(level, f"call {vector} @{intrinsic}({pointers} {places.text}, i32 {llvm.SIZES[type]}, "
                              f"{truth} {masks.text}, {vector} {passed.text})")  # fmt: skip
    return Vector(text, type, level)


def _one_by_one(
    code: Code, places: Vector, type: str, masks: Vector | None, passed: Vector, level: int
) -> Vector:
    """A load a lane; of a lane whose mask is false, of the first bytes of scratch memory."""
    if masks is not None:
        places = code.vector(code.select(masks, places, Uniform("%scratch", "ptr")))
    vector, found = code.vector_type(type), "poison"
    for i in range(code.lanes):
        place = code.extract(places, i)
        x = code.effect(level, f"load {type}, ptr {place.text}, align {llvm.SIZES[type]}")
        found = code.pure(level, f"insertelement {vector} {found}, {type} {x}, i32 {i}")
    result = Vector(found, type, level)
    return result if masks is None else code.vector(code.select(masks, result, passed))


def _as(code: Code, value: Vector, type: str) -> Vector:
    return code.vector(code.cast("bitcast", value, type)) if value.type != type else value


def _load_scalar(
    code: Code, pointers: Pointers, type: str, mask: Uniform | None, other: Number | None, level: int
) -> Number:
    place = code.scalar(pointers)
    if mask is not None:
        place = code.scalar(code.select(mask, place, Uniform("%scratch", "ptr")))
    level = max(level, place.level)
    value = Uniform(code.effect(level, f"load {type}, ptr {place.text}, align {llvm.SIZES[type]}"), type, level)
    if mask is None:
        return value
    if other is None:
        other = number(0, type)
    return code.select(mask, value, other)


def _load_reversed(
    code: Code, pointers: Pointers, type: str, mask: Number | None, other: Number | None, level: int
) -> Number:
    """Addresses that fall by one a lane: a contiguous load, its lanes reversed."""
    assert isinstance(pointers.offset, Affine)
    lanes, order = code.lanes, range(code.lanes - 1, -1, -1)

    def reverse(value: Number | None) -> Number | None:
        return value if value is None or isinstance(value, Uniform) else code.shuffle(code.vector(value), order, lanes)

    lowest = code.add(pointers.offset.base, integer(1 - lanes))
    assert isinstance(lowest, Uniform)
    rising = Pointers(pointers.base, Affine(lowest, integer(1)), pointers.element)
    return code.shuffle(code.vector(load(code, rising, type, reverse(mask), reverse(other), level)), order, lanes)


def store(code: Code, pointers: Pointers, value: Number, mask: Number | None, level: int) -> None:
    """Writes ``value`` (of a type that memory holds) at the end of ``level``. Of lanes at one address the last wins."""
    if isinstance(mask, Uniform) and mask.constant is not None:
        if not mask.constant:
            return
        mask = None
    base, offset, type = pointers.base, pointers.offset, value.type
    moved, align, lanes = _AS_INTEGER.get(type, type), llvm.SIZES[type], code.lanes
    values, vector, truth = code.vector(value), code.vector_type(moved), code.vector_type("i1")
    if isinstance(base, Uniform) and isinstance(offset, Affine) and offset.stride.constant == 1:
        place = code.scalar(Pointers(base, offset.base, pointers.element))
        if mask is None:
            code.emit(level, f"store {code.vector_type(type)} {values.text}, ptr {place.text}, align {align}")
            return
        masks = code.vector(mask)
        helper = _masked_store(code, moved, align)
        moved_values = _as(code, values, moved)
        code.emit(level, f"call void @{helper}({vector} {moved_values.text}, ptr {place.text}, {truth} {masks.text})")
        return
    places, masks = code.vector(pointers), code.vector(mask if mask is not None else integer(1, "i1"))
    intrinsic = f"llvm.masked.scatter.{llvm.suffix(moved, lanes)}.v{lanes}p0"
    parameter = code.vector_type("ptr")
    code.module.declare(f"declare void @{intrinsic}({vector}, {parameter}, i32, {truth})")
    moved_values = _as(code, values, moved)
    code.emit(level, f"call void @{intrinsic}({vector} {moved_values.text}, {parameter} {places.text}, i32 {align}, "
                     f"{truth} {masks.text})")  # fmt: skip


def _masked_store(code: Code, type: str, align: int) -> str:
    """A masked store that looks first whether all lanes are written.

    Of elements narrower than 32 bits LLVM must not see the mask: it makes of one with a single lane a store of as many
    bytes as the vector's elements had before they were truncated.
    """
    lanes, vector, truth = code.lanes, code.vector_type(type), code.vector_type("i1")
    intrinsic = f"llvm.masked.store.{llvm.suffix(type, lanes)}.p0"
    code.module.declare(f"declare void @{intrinsic}({vector}, ptr, i32, {truth})")
    symbol = f"tl.masked_store.{llvm.suffix(type, lanes)}"
    mask = "  %hidden = bitcast <L x i1> %mask to <L x i1>"
    if align < 4:
        mask = '  %some = call iL asm "", "=r,0"(iL %bits)\n  %hidden = bitcast iL %some to <L x i1>'
        if lanes < 8:  # no processor has registers of so few bits
            mask = (
                '  %wide = zext iL %bits to i8\n  %some = call i8 asm "", "=r,0"(i8 %wide)\n'
                "  %few = trunc i8 %some to iL\n  %hidden = bitcast iL %few to <L x i1>"
            )
    return code.module.define(symbol, f"""\
define internal void @{symbol}({vector} %value, ptr %place, {truth} %mask) alwaysinline {{
  %bits = bitcast {truth} %mask to i{lanes}
  %full = icmp eq i{lanes} %bits, -1
  br i1 %full, label %whole, label %part
whole:
  store {vector} %value, ptr %place, align {align}
  ret void
part:
{mask.replace("iL", f"i{lanes}").replace("<L", f"<{lanes}")}
  call void @{intrinsic}({vector} %value, ptr %place, i32 {align}, {truth} %hidden)
  ret void
}}""")  # fmt: skip


def store_scalar(code: Code, pointers: Value, value: Uniform, mask: Uniform | None, level: int = 0) -> None:
    """One element."""
    place = code.scalar(pointers)
    if mask is not None and mask.constant != 1:
        place = code.scalar(code.select(mask, place, Uniform("%scratch", "ptr")))
    code.emit(level, f"store {value.type} {value.text}, ptr {place.text}, align {llvm.SIZES[value.type]}")
