"""Tiles as functions of an index: lazy expressions, and those that are in memory.

`Tiles.evaluate` gives a tile at one index, following lazy operations down to buffers, loads and constants. Whether an
index stands for one element or for a vector of them is the business of the nest around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tensorlib.runtime.native import elementwise, llvm, memory, ttir
from tensorlib.runtime.native.analysis import (
    STRUCTURAL,
    Analysis,
    is_tile,
    permutation,
    shape_of,
    unit_dims,
    weight,
)
from tensorlib.runtime.native.bounds import Inside
from tensorlib.runtime.native.machine import Features
from tensorlib.runtime.native.tiles import TRUE, Affine, Code, Number, Pointers, Uniform, Value, Vector, integer, number

Index = tuple[Number, ...]


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A materialised tile. ``strides`` count elements of type ``element``, as in memory."""

    base: Uniform
    element: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Moved:
    """A tile that a loop carries and only ever adds uniform numbers to: ``source + offset``."""

    source: ttir.Value
    offset: Uniform


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous array."""
    strides, total = [], 1
    for size in reversed(shape):
        strides.append(total)
        total *= size
    return tuple(reversed(strides))


def volume(shape: Sequence[int]) -> int:
    """Number of elements."""
    total = 1
    for size in shape:
        total *= size
    return total


_FORESEEN = 2 << 10, 64 << 10  # bytes of a tile, of which those of the next program are asked for in advance
_PAGE = 4 << 10


class Tiles:
    """Evaluation of tiles, and the state it needs: which are in buffers, which scalars are known."""

    def __init__(self, analysis: Analysis, machine: Features, alias: bool) -> None:
        self.analysis = analysis
        self.machine = machine
        self.alias = alias
        self.apart = False  #: whether pointers from memory were found to lead apart, where code is made now
        self.guarded = False  #: whether every access is checked
        self.code = Code(llvm.Module(), machine)
        self.scalars: dict[ttir.Value, Value] = {}
        self.buffers: dict[ttir.Value, Buffer] = {}
        self.moved: dict[ttir.Value, Moved] = {}
        self.loads: list[ttir.Operation] = []  #: lazy loads that stand before the statement at hand
        self.scratch = 64  #: the first bytes take masked-off scalars
        self.scratch_most = 64
        self.cost = 0.0  #: of one program: vector instructions, roughly
        self.trips = 1.0  #: how often what is generated now runs
        self.inside: Inside | None = None  #: what holds in the nest that is generated now
        self.nests = 0  #: that were begun; the forms of one count once
        self._readers: dict[ttir.Operation, list[int]] = {}  # of a load, the nests that evaluate it
        self._memo: list[dict[tuple[ttir.Value, tuple[str, ...]], Value]] = []

    # -- statements that are held back: `groups` does it ---------------------------------------------------------------

    def flush(self) -> None:
        """Makes the code of statements that are held back."""

    def pending(self, values: Sequence[ttir.Value]) -> bool:
        """Whether evaluating tiles needs a result of a statement that is held back."""
        return False

    # -- values --------------------------------------------------------------------------------------------------------

    def scalar(self, value: ttir.Value) -> Value:
        """A scalar; what pending reductions give is computed now."""
        if value not in self.scalars:
            self.flush()
        return self.scalars[value]

    def uniform(self, value: ttir.Value) -> Uniform:
        """A scalar as one SSA value."""
        return self.code.scalar(self.scalar(value))

    def new_buffer(self, shape: Sequence[int], type: str) -> Buffer:
        """Scratch memory for a tile of LLVM's ``type``, until the region ends."""
        element, at = llvm.in_memory(type), self.scratch
        self.scratch += -(-volume(shape) * llvm.SIZES[element] // 64) * 64
        self.scratch_most = max(self.scratch_most, self.scratch)
        base = self.code.pure(0, f"getelementptr i8, ptr %scratch, i64 {at}")
        return Buffer(Uniform(base, "ptr"), element, tuple(shape), row_major(shape))

    def buffer_for(self, value: ttir.Value) -> Buffer:
        """A new buffer of a tile's shape and type."""
        return self.new_buffer(shape_of(value), llvm.type_of(value.type))

    def place(self, buffer: Buffer, index: Index) -> Pointers:
        """Where an element of a buffer is."""
        offset: Number = integer(0)
        for i, stride in zip(index, buffer.strides, strict=True):
            offset = self.code.add(offset, self.code.multiply(self._wide_index(i), integer(stride)))
        return Pointers(buffer.base, offset, buffer.element)

    def _wide_index(self, index: Number) -> Number:
        """An index as i64. It is small: base and stride are exact."""
        if isinstance(index, Affine):
            base, stride = self.code.widen(index.base), self.code.widen(index.stride)
            assert isinstance(base, Uniform) and isinstance(stride, Uniform)
            return Affine(base, stride)
        return self.code.widen(index)

    def read(self, buffer: Buffer, index: Index, type: str) -> Number:
        """An element of a buffer, as LLVM's ``type``."""
        level = max((i.level for i in index), default=0)
        value = memory.load(self.code, self.place(buffer, index), buffer.element, None, None, level)
        return self.from_memory(value, type)

    def write(self, buffer: Buffer, index: Index, value: Value, level: int) -> None:
        """Sets an element of a buffer."""
        self.write_memory(buffer, index, self.to_memory(value), level)

    def write_memory(self, buffer: Buffer, index: Index, value: Number, level: int) -> None:
        """Sets an element of a buffer to a value as it is in memory."""
        memory.store(self.code, self.place(buffer, index), value, None, level)

    def from_memory(self, value: Number, type: str) -> Number:
        """A value as it is in memory, as it is computed with."""
        if type == "i1":
            return self.code.compare("ne", value, integer(0, "i8"))
        return self.code.cast("inttoptr", value, "ptr") if type == "ptr" else value

    def to_memory(self, value: Value) -> Number:
        """A value as it is computed with, as it is in memory."""
        if isinstance(value, Pointers):
            shared = isinstance(value.base, Uniform) and isinstance(value.offset, Uniform)
            value = self.code.scalar(value) if shared else self.code.vector(value)
        if value.type == "i1":
            return self.code.cast("zext", value, "i8")
        return self.code.cast("ptrtoint", value, "i64") if value.type == "ptr" else value

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def evaluate(self, value: ttir.Value, index: Index) -> Value:
        """A tile at an index, or a scalar."""
        if not is_tile(value):
            return self.scalar(value)
        stack = [(value, index)]  # not by recursion: unrolled loops make expressions thousands of operations deep
        while True:
            v, at = stack[-1]
            result = self._known(v, at)
            if result is None:
                missing = [need for need in self._needs(v, at) if is_tile(need[0]) and self._known(*need) is None]
                if missing:
                    stack += missing
                    continue
                result = self._evaluate(v, at)
                self._memo[min(result.level, len(self._memo) - 1)][v, tuple(i.key for i in at)] = result
            stack.pop()
            if not stack:
                return result

    def _known(self, value: ttir.Value, index: Index) -> Value | None:
        """A tile at an index at which it was evaluated before."""
        key = (value, tuple(i.key for i in index))
        for known in self._memo:
            if key in known:
                return known[key]
        return None

    def _needs(self, value: ttir.Value, index: Index) -> list[tuple[ttir.Value, Index]]:
        """What evaluating a tile evaluates."""
        if value in self.buffers or (self.inside is not None and value in self.inside.certain):
            return []
        if value in self.moved:
            return [(self.moved[value].source, index)]
        operation = value.operation
        assert operation is not None, value
        if operation.name in STRUCTURAL and operation.name != "tt.splat":
            return [(operation.operands[0], self.source_index(operation, index))]
        return [(x, index) for x in operation.operands]

    def _evaluate(self, value: ttir.Value, index: Index) -> Value:
        code, type = self.code, llvm.type_of(value.type)
        if self.inside is not None and value in self.inside.certain:
            return TRUE
        if self.inside is not None and value in self.inside.unwrapped:
            assert value.operation is not None
            index_that_wraps = _number(self.evaluate(value.operation.operands[0], index))
            return code.binary("sub", index_that_wraps, self.inside.unwrapped[value])
        buffer = self.buffers.get(value)
        if buffer is not None:
            found = self.read(buffer, index, type)
            return code.pointers(found, self.element(value)) if type == "ptr" else found
        moved = self.moved.get(value)
        if moved is not None:
            source = self.evaluate(moved.source, index)
            if type == "ptr":
                pointers = code.pointers(source, self.element(value))
                return Pointers(pointers.base, code.add(pointers.offset, moved.offset), pointers.element)
            assert not isinstance(source, Pointers)
            return code.add(source, moved.offset)
        operation = value.operation
        assert operation is not None, value
        operands = operation.operands
        match operation.name:
            case "arith.constant":
                return self.constant(operation, index)
            case "tt.make_range":
                return code.add(index[0], integer(int(operation.attributes["start"]), "i32"))
            case "tt.splat":
                scalar = self.scalar(operands[0])
                return code.pointers(scalar, self.element(value)) if type == "ptr" else scalar
            case "tt.expand_dims" | "tt.broadcast" | "tt.trans" | "tt.reshape":
                return self.evaluate(operands[0], self.source_index(operation, index))
            case "tt.load":
                return self.load_at(operation, index)
        return elementwise.compute(code, operation, [self.evaluate(x, index) for x in operands], value.index)

    def element(self, value: ttir.Value) -> str:
        """What a pointer counts in: LLVM's type of what it points to, as in memory."""
        return llvm.in_memory(elementwise.pointee(value.type))

    def source_index(self, operation: ttir.Operation, index: Index) -> Index:
        """Where a structural operation reads its operand."""
        source = shape_of(operation.operands[0])
        zero = integer(0, "i32")
        match operation.name:
            case "tt.expand_dims":
                axis = int(operation.attributes["axis"])
                return index[:axis] + index[axis + 1 :]
            case "tt.broadcast":
                return tuple(zero if size == 1 else i for size, i in zip(source, index, strict=True))
            case "tt.trans":
                found: list[Number] = [zero] * len(source)
                for i, dim in zip(index, permutation(operation), strict=True):
                    found[dim] = i
                return tuple(found)
        dims = unit_dims(source, shape_of(operation.result))
        assert dims is not None
        return tuple(zero if dim is None else index[dim] for dim in dims)

    def constant(self, operation: ttir.Operation, index: Index = ()) -> Value:
        """arith.constant."""
        type, value = llvm.type_of(operation.result.type), operation.attributes["value"]
        if not isinstance(value, ttir.Dense):
            return number(value, type)
        if value.splat:
            return number(value.values[0], type)
        shape, element = shape_of(operation.result), llvm.in_memory(type)
        symbol = f"@tl.constant.{self.analysis.position[operation]}"
        items = ", ".join(f"{element} {llvm.constant(x, element)}" for x in value.values)
        self.code.module.define(
            symbol, f"{symbol} = internal constant [{len(value.values)} x {element}] [{items}], align 64"
        )
        return self.read(Buffer(Uniform(symbol, "ptr"), element, shape, row_major(shape)), index, type)

    def load_at(self, operation: ttir.Operation, index: Index) -> Number:
        """tt.load of tiles, at an index."""
        operands = [self.evaluate(x, index) for x in operation.operands]
        return self.load(operation, operands)

    def load(self, operation: ttir.Operation, operands: list[Value]) -> Number:
        """tt.load of pointers, a mask and what takes its place."""
        type = llvm.type_of(operation.result.type)
        pointers = self.code.pointers(operands[0], self.element(operation.operands[0]))
        mask, other = (operands[1] if len(operands) > 1 else None), (operands[2] if len(operands) > 2 else None)
        assert not isinstance(mask, Pointers)
        replacement = None if other is None else self.to_memory(other)
        mask = self.checked(operation, pointers, mask)
        found = memory.load(self.code, pointers, llvm.in_memory(type), mask, replacement)
        self._foresee(operation, pointers, found)
        return self.from_memory(found, type)

    def _foresee(self, operation: ttir.Operation, pointers: Pointers, found: Number) -> None:
        """Asks for what the next program reads, which mostly lies behind it: processors foresee it within a page only.
        What is read a second time is in the cache, so that memory has time for the next one then."""
        size = volume(shape_of(operation.result)) * llvm.SIZES[found.type]
        if self.trips != 1 or not _FORESEEN[0] <= size <= _FORESEEN[1] or not isinstance(found, Vector):
            return
        readers = self._readers.setdefault(operation, [])
        if self.nests not in readers:
            readers.append(self.nests)
        again = self.analysis.roots[operation.result].bit_count() > 1
        wide = self.code.lanes * llvm.SIZES[found.type] >= memory.LINE
        if wide and readers.index(self.nests) == again and self.analysis.of_program(operation.operands[0]):
            memory.prefetch(self.code, pointers, max(size, _PAGE))

    def checked(self, operation: ttir.Operation, pointers: Pointers, mask: Number | None) -> Number | None:
        """The mask of an access; in guard mode, without the lanes that are out of bounds, which are reported."""
        return mask

    # -- what a tile costs and what it reads ---------------------------------------------------------------------------

    def closure(self, values: Sequence[ttir.Value]) -> dict[ttir.Value, bool]:
        """What evaluating tiles comes upon, scalars included: whether each tile is only read at the same index."""
        found: dict[ttir.Value, bool] = {}
        stack = [(value, True) for value in values]
        while stack:
            value, same = stack.pop()
            if value in found and found[value] <= same:
                continue
            found[value] = same and found.get(value, True)
            if value in self.buffers or not is_tile(value):
                continue
            if value in self.moved:
                stack.append((self.moved[value].source, same))
            elif value.operation is not None and self.analysis.lazy(value.operation):
                inner = same and value.operation.name not in STRUCTURAL
                stack.extend((x, inner) for x in value.operation.operands)
        return found

    def lazy_loads(self, values: Sequence[ttir.Value]) -> dict[ttir.Operation, bool]:
        """The loads that evaluating tiles would make now: whether each is only used at the same index."""
        return {value.operation: same for value, same in self.closure(values).items()
                if value.operation is not None and value.operation.name == "tt.load"
                and is_tile(value) and value not in self.buffers}  # fmt: skip

    def price(self, value: ttir.Value) -> float:
        """Cost of an element of a tile, evaluated from what there is."""
        made = (v for v in self.closure([value]) if is_tile(v) and v not in self.buffers and v not in self.moved)
        return sum(weight(v.operation) + self._scattered(v) for v in made if v.operation is not None)

    def _scattered(self, value: ttir.Value) -> float:
        """What a load costs more where its elements are not neighbours along any dim."""
        operation = value.operation
        if operation is None or operation.name != "tt.load":
            return 0.0
        pointers, shape = operation.operands[0], shape_of(value)
        dims = [dim for dim, size in enumerate(shape) if size > 1]
        return 0.0 if not dims or any(self.analysis.stride(pointers, d) in (1, -1) for d in dims) else 8.0

    def overlap(self, a: ttir.Value, b: ttir.Value) -> bool:
        """Whether two pointers (or tiles of them) may be of the same memory."""
        first, second = self.analysis.bases(a), self.analysis.bases(b)
        if self.apart and (first is None or second is None):
            return self.analysis.origin(a) is self.analysis.origin(b)
        return self.alias or first is None or second is None or bool(first & second)


def _number(value: Value) -> Number:
    assert not isinstance(value, Pointers)
    return value
