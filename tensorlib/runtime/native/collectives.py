"""Operations between the elements of a tile, and atomic ones: scans, gathers, histograms, joins, atomics.

Each is a statement: it reads its operands where it stands and leaves its result in a buffer. (Reductions are in `nest`,
where they share the loops of what they reduce.)

A scan along a dim that vectors do not run along keeps one vector of running values. Along the lanes it combines each
vector with itself moved by 1, 2, 4, ... lanes, and then with the last running value of the vector before: the
operands of a combining function are grouped otherwise than from first to last, as on a GPU, and never change places.

Atomics are made lane by lane, for the lanes whose mask is true, in the order of the tile's elements: of two lanes at
one address the second sees what the first wrote. Lanes whose mask is false give 0. What stands before an atomic that
releases is done before it; the scope is always the whole machine. 16-bit floats are added in float32 and rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import llvm, memory, ttir
from tensorlib.runtime.native.analysis import is_tile, shape_of
from tensorlib.runtime.native.conversions import round_half, to_float
from tensorlib.runtime.native.evaluate import Buffer, Index, volume
from tensorlib.runtime.native.nest import Nests
from tensorlib.runtime.native.tiles import Affine, Code, Number, Pointers, Uniform, Value, Vector, integer, number

# -- scans -------------------------------------------------------------------------------------------------------------


def scan(nests: Nests, operation: ttir.Operation) -> None:
    """tt.scan: running combinations along an axis, of one or more tiles, from its beginning or its end."""
    operands, axis = operation.operands, int(operation.attributes["axis"])
    nests.prepare(operands)
    shape, lane = shape_of(operands[0]), nests.lane_dim(operands)
    buffers = [nests.buffer_for(result) for result in operation.results]
    made = _Scan(nests, operation, buffers)
    nests.nest(shape, lane, made.along if axis == lane else made.across, innermost=axis)
    nests.buffers.update(zip(operation.results, buffers, strict=True))


class _Scan:
    """One scan within a nest: its running values, a variable each."""

    def __init__(self, nests: Nests, operation: ttir.Operation, buffers: Sequence[Buffer]) -> None:
        self.nests = nests
        self.operation = operation
        self.buffers = buffers
        self.axis = int(operation.attributes["axis"])
        self.size = shape_of(operation.operands[0])[self.axis]
        self.reverse = bool(operation.attributes["reverse"])
        self.types = [llvm.type_of(x.type) for x in operation.operands]

    def across(self, index: Index, level: int, n: int) -> None:
        """One vector of running values, along another dim than the vectors."""
        code = self.nests.code
        counter = index[self.axis]
        if self.reverse:
            index = self._replaced(index, code.binary("sub", integer(self.size - 1, "i32"), counter))
        new = self._given(index)
        if self.size > 1:
            slots = [self._slot(code.vector_type(type)) for type in self.types]
            old = [
                Vector(code.effect(level, f"load {code.vector_type(type)}, ptr {slot}"), type, level)
                for slot, type in zip(slots, self.types, strict=True)
            ]
            first = code.compare("eq", counter, integer(0, "i32"))
            combined = self.nests.combine(self.operation, old, new)
            new = [code.vector(code.select(first, x, y)) for x, y in zip(new, combined, strict=True)]
            for slot, type, value in zip(slots, self.types, new, strict=True):
                code.emit(level, f"store {code.vector_type(type)} {value.text}, ptr {slot}")
        self._write(index, new, level)

    def along(self, index: Index, level: int, n: int) -> None:
        """Vectors along the axis: each is combined with itself, moved, then with what came before it."""
        code, lanes = self.nests.code, self.nests.code.lanes
        at = index[self.axis]
        start = at.base if isinstance(at, Affine) else at
        assert isinstance(start, Uniform)
        if self.reverse:
            first = code.binary("sub", integer(self.size - lanes, "i32"), start)
            assert isinstance(first, Uniform)
            index = self._replaced(index, Affine(first, integer(1, "i32")) if lanes > 1 else first)
        new = self._given(index)
        step = 1
        while step < lanes:
            moved = [code.shuffle(x, self._sources(step), lanes) for x in new]
            combined = self.nests.combine(self.operation, moved, new)
            mask = Vector(llvm.lanes_of((int(i != source) for i, source in enumerate(self._sources(step))), "i1"), "i1")
            new = [code.vector(code.select(mask, y, x)) for x, y in zip(new, combined, strict=True)]
            step *= 2
        if self.size > lanes:
            slots = [self._slot(type) for type in self.types]
            last: list[Number] = [
                Uniform(code.effect(level, f"load {type}, ptr {slot}"), type, level)
                for slot, type in zip(slots, self.types, strict=True)
            ]
            combined = self.nests.combine(self.operation, [code.vector(x) for x in last], new)
            begins = code.compare("eq", start, integer(0, "i32"))
            new = [code.vector(code.select(begins, x, y)) for x, y in zip(new, combined, strict=True)]
            for slot, value in zip(slots, new, strict=True):
                running = code.extract(value, 0 if self.reverse else lanes - 1)
                code.emit(level, f"store {value.type} {running.text}, ptr {slot}")
        self._write(index, new, level)

    def _slot(self, written: str) -> str:
        """A variable that is zero before the loop over the axis: even what is not used may not be undefined."""
        code = self.nests.code
        slot = code.alloca(written)
        code.emit(self.nests.level_after, f"store {written} zeroinitializer, ptr {slot}")
        return slot

    def _sources(self, step: int) -> list[int]:
        """Which lane each lane is combined with; its own where there is none."""
        lanes = self.nests.code.lanes
        if self.reverse:
            return [i + step if i + step < lanes else i for i in range(lanes)]
        return [i - step if i >= step else i for i in range(lanes)]

    def _replaced(self, index: Index, value: Number) -> Index:
        return (*index[: self.axis], value, *index[self.axis + 1 :])

    def _given(self, index: Index) -> list[Vector]:
        return [self.nests.code.vector(self.nests.evaluate(x, index)) for x in self.operation.operands]

    def _write(self, index: Index, values: Sequence[Vector], level: int) -> None:
        for buffer, value in zip(self.buffers, values, strict=True):
            self.nests.write(buffer, index, value, level)


# -- other places ------------------------------------------------------------------------------------------------------


def gather(nests: Nests, operation: ttir.Operation) -> None:
    """tt.gather: ``result[i, j] = source[indices[i, j], j]`` for axis 0. An index counts modulo the axis's size."""
    source, indices = operation.operands
    (result,) = operation.results
    axis, code = int(operation.attributes["axis"]), nests.code
    held = nests.materialise(source)
    nests.prepare([indices])
    buffer = nests.buffer_for(result)
    type = llvm.type_of(result.type)
    last = shape_of(source)[axis] - 1  # sizes are powers of two, so that no index leads out of the tile

    def body(index: Index, level: int, n: int) -> None:
        at = nests.evaluate(indices, index)
        assert not isinstance(at, Pointers)
        at = code.binary("and", code.cast("trunc" if at.type == "i64" else "zext", at, "i32"), integer(last, "i32"))
        nests.write(buffer, index, nests.read(held, (*index[:axis], at, *index[axis + 1 :]), type), level)

    nests.nest(shape_of(result), nests.lane_dim([indices]), body)
    nests.buffers[result] = buffer


#: of a histogram's counts: as many are made at once, and added up, where there are this many times more values
_COPIES = 4
_UNROLLED = 8


def histogram(nests: Nests, operation: ttir.Operation) -> None:
    """tt.histogram: how often each of 0 .. N - 1 occurs. What is outside, or masked off, counts nowhere.

    The places of the counts are computed in vectors, and then counted one by one, with one place more for what does not
    count. Neighbours that are equal would wait for each other: they count in copies.
    """
    (result,), code = operation.results, nests.code
    nests.prepare(operation.operands)
    (bins,), shape = shape_of(result), shape_of(operation.operands[0])
    type, total = llvm.type_of(result.type), volume(shape)
    copies = _COPIES if bins * 2 * _COPIES <= total and bins <= 4096 else 1
    row = max(bins, 16) + 16  # no power of two: a count and its copies would displace each other from the first cache
    counts, places = nests.new_buffer((copies, row), type), nests.new_buffer(shape, "i32")
    zero = code.vector(number(0, type))
    nests.nest(counts.shape, 1, lambda index, level, n: nests.write(counts, index, zero, level))

    def place(index: Index, level: int, n: int) -> None:
        value, *masks = (_number(nests.evaluate(x, index)) for x in operation.operands)
        every = bins >= 1 << llvm.BITS[value.type]  # there is a bin for each number of the type
        counted = None if every else code.compare("ult", value, integer(bins, value.type))
        for mask in masks:
            counted = mask if counted is None else code.binary("and", counted, mask)
        at = code.cast("trunc" if value.type == "i64" else "zext", value, "i32")
        nests.write(places, index, at if counted is None else code.select(counted, at, integer(bins, "i32")), level)

    nests.nest(shape, nests.lane_dim(operation.operands), place)
    listed = Buffer(places.base, places.element, (total,), (1,))

    def count(index: Index, level: int, n: int) -> None:
        at = (integer(n % copies, "i32"), nests.read(listed, index, "i32"))
        old = nests.read(counts, at, type)
        memory.store_scalar(
            code, nests.place(counts, at), code.scalar(code.add(old, integer(1, type))), None, level
        )

    nests.nest((total,), 0, count, width=1, unroll=_UNROLLED)
    nests.buffers[result] = Buffer(counts.base, counts.element, (bins,), (1,))
    if copies == 1:
        return
    buffer = nests.buffer_for(result)

    def add(index: Index, level: int, n: int) -> None:
        held = [nests.read(counts, (integer(i, "i32"), *index), type) for i in range(copies)]
        nests.write(buffer, index, functools.reduce(code.add, held), level)

    nests.nest((bins,), 0, add)
    nests.buffers[result] = buffer


def cat(nests: Nests, operation: ttir.Operation) -> None:
    """tt.cat: the elements of one tile, then those of another."""
    (result,) = operation.results
    buffer = nests.buffer_for(result)
    for number_, operand in enumerate(operation.operands):
        shape = shape_of(operand)
        offset = number_ * volume(shape)
        place = nests.code.pure(0, f"getelementptr {buffer.element}, ptr {buffer.base.text}, i64 {offset}")
        nests.fill(Buffer(Uniform(place, "ptr"), buffer.element, shape, buffer.strides), operand)
    nests.buffers[result] = buffer


def join(nests: Nests, operation: ttir.Operation) -> None:
    """tt.join: ``result[..., 0] = a``, ``result[..., 1] = b``, along a new last dim."""
    (result,), operands, code = operation.results, operation.operands, nests.code
    nests.prepare(operands)
    buffer = nests.buffer_for(result)
    shape = shape_of(operands[0])

    def body(index: Index, level: int, n: int) -> None:
        a, b = (code.vector(nests.to_memory(nests.evaluate(x, index))) for x in operands)
        lanes, type = code.lanes, a.type
        order = llvm.lanes_of((i // 2 + i % 2 * lanes for i in range(2 * lanes)), "i32")
        level = max(level, a.level, b.level)
        both = code.pure(level, f"shufflevector {code.vector_type(type)} {a.text}, {code.vector_type(type)} {b.text}, "
                                f"<{2 * lanes} x i32> {order}")  # fmt: skip
        place = _first(nests, buffer, (*index, integer(0, "i32")))
        code.emit(level, f"store {llvm.vector(type, 2 * lanes)} {both}, ptr {place.text}, align {llvm.SIZES[type]}")

    nests.nest(shape, len(shape) - 1, body)
    nests.buffers[result] = buffer


def split(nests: Nests, operation: ttir.Operation) -> None:
    """tt.split: ``a = source[..., 0]``, ``b = source[..., 1]``."""
    (source,), code = operation.operands, nests.code
    held = nests.materialise(source)
    buffers = [nests.buffer_for(result) for result in operation.results]
    shape = shape_of(operation.results[0])

    def body(index: Index, level: int, n: int) -> None:
        lanes, type = code.lanes, held.element
        place = _first(nests, held, (*index, integer(0, "i32")))
        level = max(level, place.level)
        both = code.effect(level, f"load {llvm.vector(type, 2 * lanes)}, ptr {place.text}, align {llvm.SIZES[type]}")
        for side, buffer in enumerate(buffers):
            value = code.shuffle(Vector(both, type, level), range(side, 2 * lanes, 2), 2 * lanes)
            memory.store(code, nests.place(buffer, index), value, None, level)

    nests.nest(shape, len(shape) - 1, body)
    nests.buffers.update(zip(operation.results, buffers, strict=True))


def _first(nests: Nests, buffer: Buffer, index: Index) -> Uniform:
    """The place of the first lane of a vector of indices."""
    return nests.code.scalar(nests.place(buffer, tuple(i.base if isinstance(i, Affine) else i for i in index)))


# -- functions of elements ---------------------------------------------------------------------------------------------


def map_elementwise(nests: Nests, operation: ttir.Operation) -> None:
    """tt.map_elementwise: a function of scalars at each element, or at each few neighbours of the last dim (pack)."""
    operands, pack, code = operation.operands, int(operation.attributes["pack"]), nests.code
    region = operation.regions[0]
    held = [nests.materialise(x) for x in operands] if pack > 1 else []
    nests.prepare(operands)
    buffers = [nests.buffer_for(result) for result in operation.results]
    shape = shape_of(operands[0])
    if shape[-1] % pack:
        raise UnsupportedError(
            f"native: tt.map_elementwise (line {operation.line}): pack={pack}: expected a divisor of {shape[-1]}"
        )

    def at(index: Index, number_: int) -> Index:
        """Of a pack's number along the last dim, the index of one of its elements."""
        return (*index[:-1], code.add(code.multiply(index[-1], integer(pack, "i32")), integer(number_, "i32")))

    def body(index: Index, level: int, n: int) -> None:
        if pack == 1:
            given = [nests.evaluate(x, index) for x in operands]
        else:
            given = [nests.read(buffer, at(index, i), llvm.type_of(x.type))
                     for buffer, x in zip(held, operands, strict=True) for i in range(pack)]  # fmt: skip
        found = nests.run_region(region, dict(zip(region.blocks[0].arguments, given, strict=True)))
        for number_, value in enumerate(found):
            place = index if pack == 1 else at(index, number_ % pack)
            nests.write(buffers[number_ // pack], place, value, level)

    lane = nests.lane_dim(operands) if pack == 1 else len(shape) - 1
    nests.nest((*shape[:-1], shape[-1] // pack), lane, body)
    nests.buffers.update(zip(operation.results, buffers, strict=True))


# -- atomics -----------------------------------------------------------------------------------------------------------

_ORDERS = {"relaxed": "monotonic", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}
_COST = 16.0  #: of one, in vector instructions
_LOADS = _ORDERS | {"release": "monotonic", "acq_rel": "acquire"}
_STORES = _ORDERS | {"acquire": "monotonic", "acq_rel": "release"}
_OPERATIONS = {
    "and": "and", "or": "or", "xor": "xor", "add": "add", "fadd": "fadd", "max": "max", "min": "min", "umax": "umax",
    "umin": "umin", "exch": "xchg",
}  # fmt: skip


def atomic(nests: Nests, operation: ttir.Operation) -> None:
    """tt.atomic_rmw and tt.atomic_cas: read, change and write; the result is what was read."""
    order = _ORDERS[operation.attributes["sem"]]
    pointers = operation.operands[0]
    compares = operation.name == "tt.atomic_cas"
    values = operation.operands[1:3] if compares else operation.operands[1:2]
    masks = operation.operands[1 + len(values) :]
    type = llvm.in_memory(llvm.type_of(values[0].type))
    if compares:
        symbol = _compare_and_swap(nests.code, type, order)
    else:
        symbol = _read_modify_write(nests.code, _OPERATIONS[operation.attributes["atomic_rmw_op"]], type, order)
    _each(nests, operation, symbol, pointers, values, masks, type)


def atomic_load(nests: Nests, operation: ttir.Operation) -> None:
    """tt.atomic_load."""
    order = _LOADS[operation.attributes["sem"]]
    type = llvm.in_memory(llvm.type_of(operation.result.type))
    symbol = f"tl.atomic.load.{llvm.suffix(type)}.{order}"
    nests.code.module.define(symbol, f"""\
define internal {type} @{symbol}(ptr %place) alwaysinline {{
  %now = load atomic {type}, ptr %place {order}, align {llvm.SIZES[type]}
  ret {type} %now
}}""")  # fmt: skip
    _each(nests, operation, symbol, operation.operands[0], [], operation.operands[1:], type)


def atomic_store(nests: Nests, operation: ttir.Operation) -> None:
    """tt.atomic_store."""
    order = _STORES[operation.attributes["sem"]]
    value = operation.operands[1]
    type = llvm.in_memory(llvm.type_of(value.type))
    symbol = f"tl.atomic.store.{llvm.suffix(type)}.{order}"
    nests.code.module.define(symbol, f"""\
define internal {type} @{symbol}(ptr %place, {type} %value) alwaysinline {{
  store atomic {type} %value, ptr %place {order}, align {llvm.SIZES[type]}
  ret {type} %value
}}""")  # fmt: skip
    _each(nests, operation, symbol, operation.operands[0], [value], operation.operands[2:], type)


def _each(
    nests: Nests,
    operation: ttir.Operation,
    symbol: str,
    pointers: ttir.Value,
    values: Sequence[ttir.Value],
    masks: Sequence[ttir.Value],
    type: str,
) -> None:
    """Calls an atomic function of one address for every element, and keeps what it gives if that is used."""
    code = nests.code
    if operation.attributes["sem"] in ("release", "acq_rel"):
        _finish_loads(nests, operation)
    used = [result for result in operation.results if nests.analysis.users.get(result)]

    def call(index: Index, level: int) -> Value:
        place = code.pointers(nests.evaluate(pointers, index), nests.element(pointers))
        mask = nests.evaluate(masks[0], index) if masks else None
        assert not isinstance(mask, Pointers)
        mask = nests.checked(operation, place, mask)
        given = [nests.to_memory(nests.evaluate(x, index)) for x in values]
        return _call(code, symbol, place, given, mask, type, level)

    if not is_tile(pointers):
        found = call((), 0)
        for result in used:
            value = nests.from_memory(_only(code, found), llvm.type_of(result.type))
            nests.scalars[result] = value
        return
    operands = [x for x in (pointers, *values, *masks) if is_tile(x)]
    nests.prepare(operands)
    buffers = [nests.buffer_for(result) for result in used]
    shape = shape_of(pointers)
    nests.cost += nests.trips * volume(shape) * _COST

    def body(index: Index, level: int, n: int) -> None:
        value = call(index, level)
        for buffer in buffers:
            assert not isinstance(value, Pointers)
            memory.store(code, nests.place(buffer, index), value, None, level)

    nests.nest(shape, len(shape) - 1, body)
    nests.buffers.update(zip(used, buffers, strict=True))


def _only(code: Code, value: Value) -> Number:
    assert isinstance(value, (Uniform, Vector))
    return value if isinstance(value, Uniform) else code.extract(value, 0, 1)


def _finish_loads(nests: Nests, operation: ttir.Operation) -> None:
    """Makes the loads that stand before an atomic that releases, and are used after it."""
    for load in list(nests.loads):
        if load.result not in nests.buffers and nests.analysis.used_after(load.result, operation):
            nests.materialise(load.result)


def _call(
    code: Code, symbol: str, place: Pointers, values: Sequence[Number], mask: Number | None, type: str, level: int
) -> Value:
    """An atomic function of the lanes whose mask is true."""
    if isinstance(mask, Uniform) and mask.constant == 1:
        mask = None
    if code.lanes == 1 and mask is None:
        address, scalars = code.scalar(place), [code.scalar(x) for x in values]
        level = max(level, address.level, *(x.level for x in scalars))
        given = "".join(f", {x.type} {x.text}" for x in scalars)
        return Uniform(code.effect(level, f"call {type} @{symbol}(ptr {address.text}{given})"), type, level)
    places, vectors = code.vector(place), [code.vector(x) for x in values]
    lanes = code.vector(mask if mask is not None else integer(1, "i1"))
    level = max(level, places.level, lanes.level, *(x.level for x in vectors))
    function = _lane_by_lane(code, symbol, [x.type for x in vectors], type)
    given = "".join(f", {code.vector_type(x.type)} {x.text}" for x in vectors)
    text = (
        f"call {code.vector_type(type)} @{function}({code.vector_type('i1')} {lanes.text}, "
        f"{code.vector_type('ptr')} {places.text}{given})"
    )
    return Vector(code.effect(level, text), type, level)


def _lane_by_lane(code: Code, symbol: str, types: Sequence[str], type: str) -> str:
    """A function of vectors that calls one of scalars for each lane whose mask is true, lowest first."""
    n, name = code.lanes, f"{symbol}.v{code.lanes}"
    bits, result = f"i{n}", llvm.vector(type, n)
    kept = ["ptr", *types]
    parameters = "".join(f", {llvm.vector(t, n)} %given{i}" for i, t in enumerate(kept))
    spilt = "\n".join(
        f"  %all{i} = alloca [{n} x {t}], align 64\n  store {llvm.vector(t, n)} %given{i}, ptr %all{i}"
        for i, t in enumerate(kept)
    )
    picked = "\n".join(
        f"  %at{i} = getelementptr {t}, ptr %all{i}, i64 %i\n  %x{i} = load {t}, ptr %at{i}" for i, t in enumerate(kept)
    )
    passed = ", ".join(f"{t} %x{i}" for i, t in enumerate(kept))
    code.module.declare(f"declare {bits} @llvm.cttz.{bits}({bits}, i1)")
    code.module.define(name, f"""\
define internal {result} @{name}(<{n} x i1> %mask{parameters}) {{
entry:
{spilt}
  %results = alloca [{n} x {type}], align 64
  store {result} zeroinitializer, ptr %results
  %bits = bitcast <{n} x i1> %mask to {bits}
  %any = icmp ne {bits} %bits, 0
  br i1 %any, label %loop, label %done
loop:
  %left = phi {bits} [ %bits, %entry ], [ %rest, %loop ]
  %lane = call {bits} @llvm.cttz.{bits}({bits} %left, i1 false)
  %below = sub {bits} %left, 1
  %rest = and {bits} %left, %below
  %i = zext {bits} %lane to i64
{picked}
  %old = call {type} @{symbol}({passed})
  %to = getelementptr {type}, ptr %results, i64 %i
  store {type} %old, ptr %to
  %more = icmp ne {bits} %rest, 0
  br i1 %more, label %loop, label %done
done:
  %found = load {result}, ptr %results
  ret {result} %found
}}""")  # fmt: skip
    return name


def _read_modify_write(code: Code, operation: str, type: str, order: str) -> str:
    """A function that changes one address and gives what was there."""
    if operation == "fadd" and type in ("half", "bfloat"):
        return _add_half(code, type, order)
    symbol = f"tl.atomic.{operation}.{llvm.suffix(type)}.{order}"
    held, before, after, align = type, "", "", llvm.SIZES[type]
    if operation == "xchg" and type in llvm.FLOATS:
        held = f"i{llvm.BITS[type]}"
        before, after = f"  %bits = bitcast {type} %value to {held}\n", f"  %found = bitcast {held} %old to {type}\n"
    code.module.define(symbol, f"""\
define internal {type} @{symbol}(ptr %place, {type} %value) alwaysinline {{
{before}  %old = atomicrmw {operation} ptr %place, {held} {'%bits' if before else '%value'} {order}, align {align}
{after}  ret {type} {'%found' if after else '%old'}
}}""")  # fmt: skip
    return symbol


def _add_half(code: Code, type: str, order: str) -> str:
    """Addition of 16-bit floats: in float32, rounded, tried again until no one else wrote in between."""
    symbol = f"tl.atomic.fadd.{llvm.suffix(type)}.{order}"
    body = Code(code.module, code.machine)
    source = "f16" if type == "half" else "bf16"
    now, value = body.cast("bitcast", Uniform("%now", "i16"), type), Uniform("%value", type)
    total = body.binary("fadd", to_float(body, now, source), to_float(body, value, source))
    new = body.scalar(body.cast("bitcast", round_half(body, total, type), "i16"))
    lines = "\n".join(f"  {line}" for line in body.levels[0])
    code.module.define(symbol, f"""\
define internal {type} @{symbol}(ptr %place, {type} %value) alwaysinline {{
entry:
  %first = load atomic i16, ptr %place monotonic, align 2
  br label %loop
loop:
  %now = phi i16 [ %first, %entry ], [ %seen, %loop ]
{lines}
  %tried = cmpxchg ptr %place, i16 %now, i16 {new.text} {order} {_failure(order)}
  %seen = extractvalue {{ i16, i1 }} %tried, 0
  %won = extractvalue {{ i16, i1 }} %tried, 1
  br i1 %won, label %done, label %loop
done:
  %found = bitcast i16 %seen to {type}
  ret {type} %found
}}""")  # fmt: skip
    return symbol


def _compare_and_swap(code: Code, type: str, order: str) -> str:
    """A function that writes to an address if it holds what is expected, bit by bit, and gives what was there."""
    symbol, bits = f"tl.atomic.cas.{llvm.suffix(type)}.{order}", f"i{llvm.BITS[type]}"
    code.module.define(symbol, f"""\
define internal {type} @{symbol}(ptr %place, {type} %expected, {type} %value) alwaysinline {{
  %old = bitcast {type} %expected to {bits}
  %new = bitcast {type} %value to {bits}
  %tried = cmpxchg ptr %place, {bits} %old, {bits} %new {order} {_failure(order)}
  %seen = extractvalue {{ {bits}, i1 }} %tried, 0
  %found = bitcast {bits} %seen to {type}
  ret {type} %found
}}""")  # fmt: skip
    return symbol


def _failure(order: str) -> str:
    """The order of a compare-and-swap that does not swap."""
    return "acquire" if order in ("acquire", "acq_rel") else "monotonic"


def _number(value: Value) -> Number:
    assert not isinstance(value, Pointers)
    return value


#: what makes the code of each operation of this module
STATEMENTS: dict[str, Callable[[Nests, ttir.Operation], None]] = {
    "tt.scan": scan,
    "tt.gather": gather,
    "tt.histogram": histogram,
    "tt.cat": cat,
    "tt.join": join,
    "tt.split": split,
    "tt.map_elementwise": map_elementwise,
    "tt.atomic_rmw": atomic,
    "tt.atomic_cas": atomic,
    "tt.atomic_load": atomic_load,
    "tt.atomic_store": atomic_store,
}
