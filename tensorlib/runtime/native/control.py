"""Control flow: branches, loops and what they carry, and functions of more than one block.

Scalars are SSA values. A loop keeps what it carries in variables on the stack that LLVM promotes to registers; a
carried tile lives in scratch memory, in one buffer where the new value may overwrite the old as it is computed, in two
that change places where it may not. A tile of pointers (or integers) that only moves by a uniform step is its initial
value and an offset. What is written to a buffer inside a branch or loop is not known outside of it.

Pointers that come from memory may lead anywhere, so that each store through one would part the loads before it from the
stores after it. A run of such stores is made twice: a test of the addresses tells whether they lie apart.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tensorlib.runtime.native import llvm, ttir
from tensorlib.runtime.native.analysis import (
    STRUCTURAL,
    Analysis,
    is_index,
    is_pointer,
    is_tile,
    shape_of,
    unit_dims,
    walk,
)
from tensorlib.runtime.native.bounds import Bounds
from tensorlib.runtime.native.evaluate import Buffer, Moved, row_major
from tensorlib.runtime.native.groups import Groups
from tensorlib.runtime.native.machine import Features
from tensorlib.runtime.native.tiles import Uniform, Value

Place = tuple[str, str] | Buffer
"""Where a value leaves a region: a scalar's type and variable, or a tile's buffer."""


_TERMINATORS = frozenset({"scf.yield", "scf.condition", "tt.return", "cf.br", "cf.cond_br"})


#: statements that take tiles in any layout
_ANY_LAYOUT = frozenset({"tt.store", "tt.reduce", "tt.reduce.return", "scf.for", "scf.if", "scf.yield"})


class Carried(NamedTuple):
    """A value that a loop carries. Of a scalar: `slot`. Of a tile: a buffer and, unless the new value may overwrite the
    old, another, with variables that say which is which. Of a moved tile: its source and, in `slot`, how far."""

    argument: ttir.Value
    type: str
    slot: str
    other: str = ""
    buffer: Buffer | None = None
    source: ttir.Value | None = None
    steps: tuple[ttir.Value, ...] = ()


class Control(Groups, abc.ABC):
    """Code of statements that hold other statements."""

    def __init__(self, analysis: Analysis, machine: Features, alias: bool) -> None:
        super().__init__(analysis, machine, alias)
        self.targets: dict[ttir.Value, Buffer] = {}  #: where a statement's tile is wanted

    @abc.abstractmethod
    def statement(self, operation: ttir.Operation) -> None:
        """Makes code for an operation; `lower.Lowering` says how."""

    def block(self, block: ttir.Block) -> None:
        """All statements of a block but its terminator."""
        operations = [operation for operation in block.operations if operation.name not in _TERMINATORS]
        at = 0
        while at < len(operations):
            run = self._stores(operations, at)
            pairs = self._may_meet(run)
            if pairs:
                self._both_ways(run, pairs)
                at += len(run)
            else:
                self.statement(operations[at])
                at += 1

    # -- pointers from memory ------------------------------------------------------------------------------------------

    def _stores(self, operations: Sequence[ttir.Operation], at: int) -> list[ttir.Operation]:
        """The stores of tiles of one shape that follow each other here, with what is lazy between them."""
        first = operations[at]
        if first.name != "tt.store" or not is_tile(first.operands[1]) or self.apart or self.alias or self.guarded:
            return []
        shape, end = shape_of(first.operands[1]), at + 1
        for i in range(at + 1, len(operations)):
            operation = operations[i]
            if operation.name == "tt.store" and shape_of(operation.operands[1]) == shape:
                end = i + 1
            elif operation.name == "tt.load" or not self.analysis.lazy(operation):
                break
        return list(operations[at:end])

    def _may_meet(self, run: Sequence[ttir.Operation]) -> list[tuple[ttir.Value, ttir.Value]]:
        """The stores among them, with what else they read or write, of which only a test can say whether they meet."""
        analysis = self.analysis
        stores = [operation.operands[0] for operation in run if operation.name == "tt.store"]
        values = [x for operation in run if operation.name == "tt.store" for x in operation.operands]
        accessed = {load.operands[0] for load in self.lazy_loads(values)} | set(stores)
        return [
            (store, other)
            for store in stores
            for other in sorted(accessed, key=lambda value: value.name)
            if (analysis.bases(store) is None or analysis.bases(other) is None)
            and analysis.origin(store) is not analysis.origin(other)
        ]

    def _both_ways(self, run: Sequence[ttir.Operation], pairs: list[tuple[ttir.Value, ttir.Value]]) -> None:
        """Stores through pointers from memory: as they stand, and shorter for where what they lead to lies apart."""
        self.flush()
        self._settle_loads(run[-1], run)
        conditions = Bounds(self).apart(pairs)
        if conditions is None:
            for operation in run:
                self.statement(operation)
            return
        apart, meeting, done = (self.code.module.label() for _ in range(3))
        self.branch(self.code.every(conditions), apart, meeting)
        for label in (apart, meeting):
            with self.region():
                self.label(label)
                self.apart = label == apart
                for operation in run:
                    self.statement(operation)
                self.flush()
                self.apart = False
                self.jump(done)
        self.label(done)

    # -- regions -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def region(self, trips: float = 1.0) -> Iterator[None]:
        """Code that may not run, or run often: what it makes known is forgotten after it."""
        known, buffers, moved, scratch = self.code.known(), dict(self.buffers), dict(self.moved), self.scratch
        self.trips *= trips
        yield
        self.flush()
        self.trips /= trips
        self.code.forget(known)
        self.buffers, self.moved, self.scratch = buffers, moved, scratch

    def label(self, label: str) -> None:
        """Begins a block."""
        self.code.emit(0, f"{label}:")

    def jump(self, label: str) -> None:
        """Ends a block."""
        self.code.emit(0, f"br label %{label}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        """Ends a block, in one of two ways."""
        self.code.emit(0, f"br i1 {self.code.scalar(condition).text}, label %{yes}, label %{no}")

    def enter(self, operation: ttir.Operation, loop: bool) -> None:
        """Before a region: what is lazy and expensive is not to be computed in each round, and no load may be made
        after a write within the region that it stands before."""
        self.flush()
        inside = [o for region in operation.regions for o in walk(region.blocks)]
        self._settle_loads(operation, inside)
        if loop:
            defined = {result for o in inside for result in o.results}
            used = {x for o in inside for x in o.operands if is_tile(x) and x not in defined}
            for value in sorted(used, key=lambda v: v.name):
                self._settle(value)
            for value in operation.operands:
                if is_tile(value):
                    self._settle(value, carried=True)

    def _settle(self, value: ttir.Value, carried: bool = False) -> None:
        """Materialises the expensive part of a lazy tile. Of a carried one that is only what moved tiles rest on."""
        if value in self.buffers or value in self.moved or value.operation is None:
            return
        operation = value.operation
        if not self.analysis.lazy(operation) or is_index(value):
            return
        cheap = operation.name in STRUCTURAL or is_pointer(value) or self.price(value) < 1
        if cheap or (carried and operation.name in ("arith.addi", "arith.subi", "arith.muli")):
            for x in operation.operands:
                self._settle(x, carried)
        else:
            self.materialise(value)

    # -- what loops carry ----------------------------------------------------------------------------------------------

    def _steps(self, argument: ttir.Value, new: ttir.Value) -> tuple[ttir.Value, ...] | None:
        """The uniform tiles that are added to a carried tile in a round; None if it changes in any other way."""
        steps: list[ttir.Value] = []
        while new is not argument:
            operation = new.operation
            if operation is None or operation.name not in ("tt.addptr", "arith.addi") or not is_tile(new):
                return None
            a, b = operation.operands
            if operation.name == "arith.addi" and self._is_uniform(a):
                a, b = b, a
            if not self._is_uniform(b):
                return None
            steps.append(b)
            new = a
        return tuple(reversed(steps))

    def _is_uniform(self, value: ttir.Value) -> bool:
        operation = value.operation
        if operation is None:
            return False
        if operation.name == "arith.constant":
            constant = operation.attributes["value"]
            return not isinstance(constant, ttir.Dense) or constant.splat
        return operation.name == "tt.splat"

    def _uniform_tile(self, value: ttir.Value) -> Uniform:
        assert value.operation is not None
        if value.operation.name == "tt.splat":
            return self.uniform(value.operation.operands[0])
        return self.code.scalar(self.constant(value.operation))

    def _overwrites(self, argument: ttir.Value, at: int, new: Sequence[ttir.Value]) -> bool:
        """Whether a carried tile's new value, new[at], may be written where the old one is, element by element."""
        analysis = self.analysis
        producer = new[at].operation
        if producer is not None and producer.name == "tt.dot":
            a, b, c = producer.operands
            if analysis.used_after(argument, producer) or len(analysis.users.get(new[at], ())) > 1:
                return False
            read = any(argument in analysis.closure(factor) for factor in (a, b))
            return not read and analysis.closure(c).get(argument, True)
        others = (value for i, value in enumerate(new) if i != at and is_tile(value))
        if any(argument in analysis.closure(other) for other in others):
            return False
        return analysis.closure(new[at]).get(argument, True)

    def carry(self, arguments: Sequence[ttir.Value], initial: Sequence[ttir.Value], new: Sequence[ttir.Value],
              may_overwrite: bool) -> list[Carried]:  # fmt: skip
        """Sets what a loop carries to its initial value."""
        code = self.code
        carried = []
        for at, (argument, start) in enumerate(zip(arguments, initial, strict=True)):
            type = llvm.type_of(argument.type)
            if not is_tile(argument):
                slot = code.alloca(type)
                code.emit(0, f"store {type} {self.uniform(start).text}, ptr {slot}")
                carried.append(Carried(argument, type, slot))
                continue
            steps = None if type in llvm.FLOATS else self._steps(argument, new[at])
            if steps is not None:
                type = "i64" if type == "ptr" else type
                slot = code.alloca(type)
                code.emit(0, f"store {type} 0, ptr {slot}")
                carried.append(Carried(argument, type, slot, source=start, steps=steps))
                continue
            buffer = self._carrier(argument, new)
            self.fill(buffer, start)
            slot = code.alloca("ptr")
            code.emit(0, f"store ptr {buffer.base.text}, ptr {slot}")
            other = ""
            if not (may_overwrite and self._overwrites(argument, at, new)):
                other = code.alloca("ptr")
                code.emit(0, f"store ptr {self._carrier(argument, new).base.text}, ptr {other}")
            carried.append(Carried(argument, type, slot, other, buffer))
        return carried

    def _carrier(self, argument: ttir.Value, new: Sequence[ttir.Value]) -> Buffer:
        """A buffer of a carried tile. Its elements follow each other along the dim along which the new values of such
        tiles are read, where nothing else of the kernel asks for rows."""
        buffer = self.buffer_for(argument)
        shape, last = buffer.shape, len(buffer.shape) - 1
        if last < 1 or not self._any_layout:
            return buffer
        lane = self.lane_dim([value for value in new if shape_of(value) == shape])
        if lane == last:
            return buffer
        order = [*(d for d in range(last + 1) if d != lane), lane]
        steps = dict(zip(order, row_major([shape[d] for d in order]), strict=True))
        return Buffer(buffer.base, buffer.element, shape, tuple(steps[d] for d in range(last + 1)))

    @functools.cached_property
    def _any_layout(self) -> bool:
        """Whether every tile is only evaluated element by element, stored or reduced."""
        for operation in self.analysis.operations:
            if operation.name == "tt.reshape":
                if unit_dims(shape_of(operation.operands[0]), shape_of(operation.result)) is None:
                    return False
            elif not self.analysis.lazy(operation) and operation.name not in _ANY_LAYOUT:
                if any(is_tile(x) for x in (*operation.operands, *operation.results)):
                    return False
        return True

    def bind(self, values: Sequence[ttir.Value], carried: Sequence[Carried]) -> list[Buffer | None]:
        """Gives carried values to a block's arguments or a loop's results; returns where tiles' new values go."""
        targets: list[Buffer | None] = []
        for value, c in zip(values, carried, strict=True):
            target = None
            if c.buffer is not None:
                base = c.buffer.base
                if c.other:
                    base = Uniform(self.code.effect(0, f"load ptr, ptr {c.slot}"), "ptr")
                    free = Uniform(self.code.effect(0, f"load ptr, ptr {c.other}"), "ptr")
                    target = _at(c.buffer, free)
                else:
                    target = c.buffer
                self.buffers[value] = _at(c.buffer, base)
            else:
                loaded = Uniform(self.code.effect(0, f"load {c.type}, ptr {c.slot}"), c.type)
                if c.source is not None:
                    self.moved[value] = Moved(c.source, loaded)
                elif c.type == "ptr":
                    self.scalars[value] = self.code.pointers(loaded, self.element(value))
                else:
                    self.scalars[value] = loaded
            targets.append(target)
        return targets

    def advance(self, carried: Sequence[Carried], targets: Sequence[Buffer | None], new: Sequence[ttir.Value]) -> None:
        """The end of a round: carried values become the new ones."""
        self.flush()
        code = self.code
        wanted: dict[tuple[int, ...], list[tuple[Buffer, ttir.Value]]] = {}
        for target, value in zip(targets, new, strict=True):
            if target is None:
                continue
            held = self.buffers.get(value)
            if held is None or held.base != target.base:
                wanted.setdefault(target.shape, []).append((target, value))
        for pairs in wanted.values():
            self.fill_all(pairs)
        updates = []
        for c, target, value in zip(carried, targets, new, strict=True):
            if c.source is not None:
                total = Uniform(code.effect(0, f"load {c.type}, ptr {c.slot}"), c.type)
                for step in c.steps:
                    moved = code.add(total, code.cast("sext", self._uniform_tile(step), c.type))
                    total = code.scalar(moved)
                updates.append((c.type, total.text, c.slot))
            elif target is None:
                updates.append((c.type, self.uniform(value).text, c.slot))
            elif c.other:
                old = code.effect(0, f"load ptr, ptr {c.slot}")
                updates += [("ptr", target.base.text, c.slot), ("ptr", old, c.other)]
        for type, text, slot in updates:
            code.emit(0, f"store {type} {text}, ptr {slot}")

    # -- control flow --------------------------------------------------------------------------------------------------

    def _for(self, operation: ttir.Operation) -> None:
        self.enter(operation, loop=True)
        code, module = self.code, self.code.module
        block = operation.regions[0].block
        variable, *arguments = block.arguments
        low, high, step = (self.uniform(x) for x in operation.operands[:3])
        type, new = low.type, block.terminator.operands
        carried = self.carry(arguments, operation.operands[3:], new, may_overwrite=True)
        slot = code.alloca(type)
        code.emit(0, f"store {type} {low.text}, ptr {slot}")
        head, body, done = module.label(), module.label(), module.label()
        self.jump(head)
        self.label(head)
        now = Uniform(code.effect(0, f"load {type}, ptr {slot}"), type)
        less = "ult" if operation.attributes.get("unsigned") or operation.attributes.get("unsignedCmp") else "slt"
        self.branch(_uniform(code.compare(less, now, high)), body, done)
        with self.region(trips=_trips(low, high, step)):
            self.label(body)
            self.scalars[variable] = now
            targets = self.bind(arguments, carried)
            for value, target in zip(new, targets, strict=True):
                if target is not None:
                    self.targets[value] = target
            self.block(block)
            self.advance(carried, targets, new)
            code.emit(0, f"store {type} {_uniform(code.add(now, step)).text}, ptr {slot}")
            self.jump(head)
        self.label(done)
        self.bind(operation.results, carried)

    def _while(self, operation: ttir.Operation) -> None:
        self.enter(operation, loop=True)
        module = self.code.module
        before, after = (region.block for region in operation.regions)
        condition, *forwarded = before.terminator.operands
        new = after.terminator.operands
        carried = self.carry(before.arguments, operation.operands, new, may_overwrite=False)
        passed = [self._place_for(value) for value in forwarded]
        head, body, done = module.label(), module.label(), module.label()
        self.jump(head)
        self.label(head)
        with self.region(trips=8):
            targets = self.bind(before.arguments, carried)
            self.block(before)
            self.flush()
            for value, place in zip(forwarded, passed, strict=True):
                self._pass(value, place)
            self.branch(self.scalar(condition), body, done)
            with self.region():
                self.label(body)
                for argument, place in zip(after.arguments, passed, strict=True):
                    self._receive(argument, place)
                self.block(after)
                self.advance(carried, targets, new)
                self.jump(head)
        self.label(done)
        for result, place in zip(operation.results, passed, strict=True):
            self._receive(result, place)

    def _if(self, operation: ttir.Operation) -> None:
        self.enter(operation, loop=False)
        module = self.code.module
        places = [self._place_for(result) for result in operation.results]
        yes, no, done = module.label(), module.label(), module.label()
        self.branch(self.scalar(operation.operands[0]), yes, no)
        for label, region in zip((yes, no), [*operation.regions, None, None], strict=False):
            with self.region():
                self.label(label)
                if region is not None and region.blocks:
                    for value, place in zip(region.block.terminator.operands, places, strict=True):
                        if isinstance(place, Buffer):
                            self.targets[value] = place
                    self.block(region.block)
                    self.flush()
                    for value, place in zip(region.block.terminator.operands, places, strict=True):
                        self._pass(value, place)
                self.flush()
                self.jump(done)
        self.label(done)
        for result, place in zip(operation.results, places, strict=True):
            self._receive(result, place)

    def _call(self, operation: ttir.Operation) -> None:
        """A function that branches. Its blocks follow here, and its returns lead behind it."""
        self.enter(operation, loop=False)
        places = [self._place_for(result) for result in operation.results]
        done = self.code.module.label()
        with self.region():
            self.blocks(operation.regions[0], places, done)
        self.label(done)
        for result, place in zip(operation.results, places, strict=True):
            self._receive(result, place)

    def blocks(self, region: ttir.Region, places: Sequence[Place], done: str) -> None:
        """The blocks of a function, each after those that lead to it. Where it returns, its values go to ``places``."""
        code = self.code
        labels = {block: code.module.label() for block in region.blocks}
        slots = {argument: self._place_for(argument) for block in region.blocks[1:] for argument in block.arguments}
        dominators = _dominators(region.blocks)
        ends: dict[ttir.Block, tuple[dict[str, str], dict[ttir.Value, Buffer], dict[ttir.Value, Moved]]] = {}
        for number, block in enumerate(region.blocks):
            if number:
                known, buffers, moved = ends[dominators[block]]
                code.forget(known)
                self.buffers, self.moved = dict(buffers), dict(moved)
                self.label(labels[block])
                for argument in block.arguments:
                    self._receive(argument, slots[argument])
            self.block(block)
            self.flush()
            last = block.terminator
            if last.name == "tt.return":
                for value, place in zip(last.operands, places, strict=True):
                    self._pass(value, place)
                self.jump(done)
                continue
            self._settle_loads(last, [o for later in region.blocks[number + 1 :] for o in walk([later])])
            for target, given in last.successors:
                for argument, value in zip(target.arguments, given, strict=True):
                    self._pass(value, slots[argument])
            ends[block] = code.known(), dict(self.buffers), dict(self.moved)
            targets = [labels[target] for target, _ in last.successors]
            if last.name == "cf.cond_br":
                self.branch(self.scalar(last.operands[0]), *targets)
            else:
                self.jump(targets[0])

    def _settle_loads(self, operation: ttir.Operation, following: Sequence[ttir.Operation]) -> None:
        """Materialises the loads that may be needed after a write among operations that may or may not run."""
        for write in self.analysis.writes_in(following):
            for load in self.loads:
                value = load.result
                if (value not in self.buffers and self.analysis.used_after(value, operation)
                        and self.overlap(load.operands[0], write.operands[0])):  # fmt: skip
                    self.materialise(value)

    def _place_for(self, value: ttir.Value) -> Place:
        """Where a value leaves a region."""
        type = llvm.type_of(value.type)
        return self.buffer_for(value) if is_tile(value) else (type, self.code.alloca(type))

    def _pass(self, value: ttir.Value, place: Place) -> None:
        """Hands a value out of a region."""
        if isinstance(place, Buffer):
            held = self.buffers.get(value)
            if held is None or held.base != place.base:
                self.fill(place, value)
        else:
            self.code.emit(0, f"store {place[0]} {self.uniform(value).text}, ptr {place[1]}")

    def _receive(self, value: ttir.Value, place: Place) -> None:
        """Takes a value that a region handed out."""
        if isinstance(place, Buffer):
            self.buffers[value] = place
            return
        type, slot = place
        loaded = Uniform(self.code.effect(0, f"load {type}, ptr {slot}"), type)
        self.scalars[value] = self.code.pointers(loaded, self.element(value)) if type == "ptr" else loaded


def _at(buffer: Buffer, base: Uniform) -> Buffer:
    return Buffer(base, buffer.element, buffer.shape, buffer.strides)


def _uniform(value: Value) -> Uniform:
    assert isinstance(value, Uniform)
    return value


def _trips(low: Uniform, high: Uniform, step: Uniform) -> float:
    """How often a loop runs, where that is known; else a guess."""
    if low.constant is None or high.constant is None or not step.constant:
        return 8.0
    return max(1.0, (high.constant - low.constant) / step.constant)


def _dominators(blocks: Sequence[ttir.Block]) -> dict[ttir.Block, ttir.Block]:
    """Of each block but the first, the last block that every way to it leads through."""
    number = {block: i for i, block in enumerate(blocks)}
    found: dict[ttir.Block, ttir.Block] = {}
    for block in blocks:
        for target, _ in block.terminator.successors:
            a = found.get(target, block)
            b = block
            while a is not b:  # the nearest that both have in common
                if number[a] > number[b]:
                    a = found[a]
                else:
                    b = found[b]
            found[target] = a
    return found
