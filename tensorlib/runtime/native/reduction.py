"""Reductions within a nest, by any combining function, of any number of operands.

A reduction keeps one partial result a lane, and more than one vector of them, to hide latency; they are combined at the
end. Operands are reordered, so a combining function has to be associative and commutative, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tensorlib.runtime.native import llvm, memory, ttir
from tensorlib.runtime.native.analysis import is_tile, shape_of
from tensorlib.runtime.native.evaluate import Buffer, Index
from tensorlib.runtime.native.nest import Nests
from tensorlib.runtime.native.tiles import Affine, Number, Uniform, Vector, integer


class Results(NamedTuple):
    """Where a reduction's results go: buffers of tiles, variables of scalars."""

    buffers: dict[ttir.Value, Buffer]
    slots: dict[ttir.Value, str]

    @classmethod
    def of(cls, nests: Nests, operation: ttir.Operation) -> Results:
        """Places for an operation's results."""
        tiles = {r: nests.buffer_for(r) for r in operation.results if is_tile(r)}
        scalars = {r: nests.code.alloca(llvm.type_of(r.type)) for r in operation.results if not is_tile(r)}
        return cls(tiles, scalars)

    def publish(self, nests: Nests) -> None:
        """Makes the results known."""
        nests.buffers.update(self.buffers)
        for result, slot in self.slots.items():
            type = llvm.type_of(result.type)
            nests.scalars[result] = Uniform(nests.code.effect(0, f"load {type}, ptr {slot}"), type)


class Reducer:
    """One reduction within a nest: its partial results, and how they come together."""

    def __init__(self, nests: Nests, operation: ttir.Operation, lane: int, results: Results) -> None:
        self.nests = nests
        self.operation = operation
        self.results = results
        self.axis = int(operation.attributes["axis"])
        self.across = self.axis == lane
        self.shape = shape_of(operation.operands[0])
        self.types = [llvm.type_of(x.type) for x in operation.operands]
        self.slots: list[list[str]] = []  #: of each vector of an iteration, a variable per operand
        self.single: list[list[Number]] = []  #: or their values, where the loop has one iteration

    def step(self, index: Index, level: int, n: int) -> None:
        """Combines one vector into the partial results."""
        nests, code = self.nests, self.nests.code
        given = [code.vector(nests.evaluate(x, index)) for x in self.operation.operands]
        if level == nests.level_after:  # no loop over the axis
            self.single.append(list(given))
            return
        slots = [code.alloca(code.vector_type(type)) for type in self.types]
        self.slots.append(slots)
        neutral = _neutral(self.operation)
        old: list[Number] = []
        for slot, type in zip(slots, self.types, strict=True):
            vector = code.vector_type(type)
            # Nothing may be undefined, even what is not used: a division by it is.
            start_value = "zeroinitializer" if neutral is None else llvm.splat(neutral, type)
            code.emit(nests.level_after, f"store {vector} {start_value}, ptr {slot}")
            old.append(Vector(code.effect(level, f"load {vector}, ptr {slot}"), type, level))
        new = nests.combine(self.operation, old, given)
        first: Number | None = None
        if neutral is None:
            counter = nests.innermost_index
            start = counter.base if isinstance(counter, Affine) else counter
            first = code.compare("eq", start, integer(0, "i32"))
        for slot, type, value, fresh in zip(slots, self.types, new, given, strict=True):
            chosen = code.vector(value if first is None else code.select(first, fresh, value))
            code.emit(level, f"store {code.vector_type(type)} {chosen.text}, ptr {slot}")

    def finish(self, indices: list[Index], level: int) -> None:
        """After the loop over the axis: the results of one row, or of one vector of columns a partial result."""
        nests, code = self.nests, self.nests.code
        sets: list[list[Number]] = self.single or [
            [Vector(code.effect(level, f"load {code.vector_type(type)}, ptr {slot}"), type, level)
             for slot, type in zip(slots, self.types, strict=True)]
            for slots in self.slots
        ]  # fmt: skip
        if not self.across:
            for index, values in zip(indices, sets, strict=True):
                self._write(index, values, level)
            return
        while len(sets) > 1:
            pairs = zip(sets[0::2], sets[1::2], strict=False)
            sets = [nests.combine(self.operation, a, b) for a, b in pairs] + sets[len(sets) & ~1 :]
        values, width = sets[0], code.lanes
        while width > 1:
            half = width // 2
            vectors = [code.vector(value) for value in values]
            low = [code.shuffle(value, range(half), width) for value in vectors]
            high = [code.shuffle(value, range(half, width), width) for value in vectors]
            code.lanes = width = half
            values = nests.combine(self.operation, low, high)
        scalars: list[Number] = [code.extract(code.vector(value), 0, 1) for value in values]
        code.lanes = min(nests.machine.lanes, self.shape[self.axis])
        self._write(indices[0], scalars, level)

    def _write(self, index: Index, values: Sequence[Number], level: int) -> None:
        nests = self.nests
        at = index[: self.axis] + index[self.axis + 1 :]
        for result, value in zip(self.operation.results, values, strict=True):
            if result in self.results.slots:
                assert isinstance(value, Uniform)
                nests.code.emit(level, f"store {value.type} {value.text}, ptr {self.results.slots[result]}")
                continue
            place = nests.place(self.results.buffers[result], at)
            if isinstance(value, Uniform):
                memory.store_scalar(nests.code, place, nests.code.scalar(nests.to_memory(value)), None, level)
            else:
                memory.store(nests.code, place, nests.to_memory(value), None, level)


def _neutral(operation: ttir.Operation) -> str | None:
    """The number that changes nothing, of the common combining functions."""
    block = operation.regions[0].blocks[0]
    if (
        len(operation.operands) != 1
        or len(block.operations) != 2
        or block.terminator.operands != block.operations[0].results
    ):
        return None
    if set(block.operations[0].operands) != set(block.arguments):
        return None
    type = llvm.type_of(operation.operands[0].type)
    bits = llvm.BITS[type]
    infinity = float("inf")
    values: dict[str, float] = {
        "arith.addf": -0.0, "arith.mulf": 1.0, "arith.maximumf": -infinity, "arith.minimumf": infinity,
        "arith.maxnumf": float("nan"), "arith.minnumf": float("nan"),
        "arith.addi": 0, "arith.muli": 1, "arith.ori": 0, "arith.xori": 0, "arith.andi": -1,
        "arith.maxsi": -(1 << (bits - 1)), "arith.minsi": (1 << (bits - 1)) - 1, "arith.maxui": 0, "arith.minui": -1,
    }  # fmt: skip
    value = values.get(block.operations[0].name)
    if value is None or (type == "i1" and block.operations[0].name.endswith("si")):
        return None
    return llvm.constant(value, type)
