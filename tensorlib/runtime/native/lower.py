"""A kernel in TTIR as LLVM IR: its statements in order, and the functions that run one program or a range of them.

A program that finds an error writes it to ``status``, which the engine reads: a failed device_assert ends the program;
in guard mode, an access outside of its argument's memory is left out, and the program goes on to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import collectives, dot, elementwise, llvm, memory, ttir
from tensorlib.runtime.native.analysis import WRITES, Analysis, is_pointer, is_tile, shape_of
from tensorlib.runtime.native.bounds import Bounds
from tensorlib.runtime.native.control import Control
from tensorlib.runtime.native.conversions import is_float8, to_float
from tensorlib.runtime.native.evaluate import Buffer, volume
from tensorlib.runtime.native.inline import inlined
from tensorlib.runtime.native.machine import Features
from tensorlib.runtime.native.tiles import Code, Number, Pointers, Uniform, Value, Vector, integer, number

#: statements that nothing is done for: lanes of a program are in step, and hints are hints
_NOTHING = frozenset({"gpu.barrier", "ttg.barrier", "tt.debug_barrier", "llvm.intr.assume",
                      "tt.grid_dependency_wait", "tt.grid_dependency_launch_dependents"})  # fmt: skip

#: statements of other modules: name -> what makes their code
STATEMENTS: dict[str, Callable[[Lowering, ttir.Operation], None]] = {**collectives.STATEMENTS}

#: what the status says: out of bounds, a failed assertion; and of an access, what it was
OUT_OF_BOUNDS, ASSERTION = 1, 2
_LOAD, _STORE, _ATOMIC = 0, 1, 2
_PRINT_SLOT = 64  #: bytes into the status: the address of the function that prints


class Parameter(NamedTuple):
    """One argument of a kernel, and where it is in the argument block."""

    name: str
    type: str  #: as TTIR spells it
    offset: int


class Message(NamedTuple):
    """A device_assert or device_print: its text, and of printed values TTIR's name of their type, and their shape."""

    kind: str
    text: str
    element: str = ""
    shape: tuple[int, ...] = ()
    hex: bool = False
    line: int = 0
    file: str = ""  #: without its folder


class Program(NamedTuple):
    """A lowered kernel. `symbol` runs one program, `grid` those of a range, in linear order, x fastest."""

    text: str
    symbol: str
    grid: str
    parameters: tuple[Parameter, ...]
    arguments_size: int
    scratch: int  #: bytes per thread, 64-aligned
    cost: float  #: nanoseconds of one program, roughly
    stores: frozenset[int]  #: parameters through which memory is written
    loads: frozenset[int]  #: ... read
    messages: tuple[Message, ...] = ()


class Factor(NamedTuple):
    """A dot's operand: where it is, of which type, and by how many elements neighbours of each dim differ."""

    base: str
    element: str
    strides: tuple[str, str]
    far: bool = False  #: whether it is where the kernel loads it from

    @classmethod
    def of(cls, buffer: Buffer) -> Factor:
        """What is in scratch memory."""
        rows, columns = buffer.strides[-2:]
        return cls(buffer.base.text, buffer.element, (str(rows), str(columns)))

    def part(self, code: Code, elements: int) -> str:
        """Where its elements from that one on are."""
        return code.pure(0, f"getelementptr {self.element}, ptr {self.base}, i64 {elements}") if elements else self.base


class Lowering(Control):
    """One kernel's code."""

    def __init__(self, function: ttir.Function, machine: Features, alias: bool, guard: bool) -> None:
        super().__init__(Analysis(function), machine, alias)
        self.function = function
        self.guarded = guard
        self.messages: list[Message] = []

    # -- statements ----------------------------------------------------------------------------------------------------

    def statement(self, operation: ttir.Operation) -> None:
        """Makes code for an operation, or leaves it until it is needed."""
        name = operation.name
        if self.analysis.lazy(operation):
            if name == "tt.load":
                self.loads.append(operation)
        elif name in _NOTHING:
            pass
        elif name == "tt.reduce" or (name == "tt.store" and is_tile(operation.operands[1])):
            self.add_root(operation)
        elif name in _HANDLERS:
            _HANDLERS[name](self, operation)
        elif name in STATEMENTS:
            self.flush()
            if name in WRITES:
                self.protect(operation, operation.operands)
            STATEMENTS[name](self, operation)
        elif operation.results and elementwise.known(name):
            operands = [self.scalar(x) for x in operation.operands]
            for result in operation.results:
                self.scalars[result] = elementwise.compute(self.code, operation, operands, result.index)
        else:
            raise UnsupportedError(f"native: {name}: this operation is not supported (line {operation.line})")

    def _constant(self, operation: ttir.Operation) -> None:
        self.scalars[operation.result] = self.constant(operation)

    def _program_id(self, operation: ttir.Operation) -> None:
        self.scalars[operation.result] = Uniform(f"%{operation.attributes['axis']}", "i32")

    def _num_programs(self, operation: ttir.Operation) -> None:
        self.scalars[operation.result] = Uniform(f"%n{operation.attributes['axis']}", "i32")

    def _scalar_load(self, operation: ttir.Operation) -> None:
        self.flush()
        if is_tile(operation.result):  # a volatile one
            buffer = self.buffer_for(operation.result)
            self.prepare(operation.operands)
            self.nest(buffer.shape, self.lane_dim(operation.operands), lambda index, level, n: self.write(
                buffer, index, self.load_at(operation, index), level))  # fmt: skip
            self.buffers[operation.result] = buffer
        else:
            self.scalars[operation.result] = self.load(operation, [self.scalar(x) for x in operation.operands])

    def _scalar_store(self, operation: ttir.Operation) -> None:
        self.flush()
        self.protect(operation)
        pointer, value, *masks = (self.scalar(x) for x in operation.operands)
        place = self.code.pointers(pointer, self.element(operation.operands[0]))
        mask = masks[0] if masks else None
        assert not isinstance(mask, Pointers)
        mask = self.checked(operation, place, mask)
        assert mask is None or isinstance(mask, Uniform)
        memory.store_scalar(self.code, place, self.code.scalar(self.to_memory(value)), mask)

    def _poison(self, operation: ttir.Operation) -> None:
        type = llvm.type_of(operation.result.type)
        if is_tile(operation.result):  # what nothing was ever put into: zeros
            buffer = self.buffer_for(operation.result)
            zero: Number = integer(0, "i64") if type == "ptr" else number(0, llvm.in_memory(type))
            self.flush()
            self.nest(buffer.shape, len(buffer.shape) - 1, lambda index, level, n: memory.store(
                self.code, self.place(buffer, index), zero, None, level))  # fmt: skip
            self.buffers[operation.result] = buffer
        else:
            self.scalars[operation.result] = Uniform("null", "ptr") if type == "ptr" else number(0, type)

    def _unsplat(self, operation: ttir.Operation) -> None:
        self.flush()
        (source,) = operation.operands
        buffer = self.materialise(source)
        zero = (integer(0, "i32"),) * len(buffer.shape)
        found: Value = self.read(buffer, zero, llvm.type_of(source.type))
        if is_pointer(operation.result):
            found = self.code.pointers(found, self.element(operation.result))
        self.scalars[operation.result] = found

    # -- dot -----------------------------------------------------------------------------------------------------------

    def _dot(self, operation: ttir.Operation) -> None:
        self.flush()
        a, b, c = operation.operands
        result = operation.result
        *batch, M, K = shape_of(a)
        N = shape_of(b)[-1]
        first, second = self._factor(a), self._factor(b, contiguous=True)
        accumulator = self.targets.get(result) or self.buffer_for(result)
        held = self.buffers.get(c)
        if held is None or held.base != accumulator.base:
            self.fill(accumulator, c)
        function = dot.function(
            first.element, second.element, accumulator.element, M, N, K, self.machine, first.far and second.far
        )
        symbol = self.code.module.define(function.symbol, function.text, function.declarations)
        self.cost += self.trips * volume(batch) * M * N * K / self.machine.lanes / 2
        for n in range(volume(batch)):
            x, y = first.part(self.code, n * M * K), second.part(self.code, n * K * N)
            to = self._part(accumulator, n * M * N)
            self.code.emit(0, f"call void {symbol}(ptr {x}, i64 {first.strides[0]}, i64 {first.strides[1]}, "
                              f"ptr {y}, i64 {second.strides[0]}, ptr {to}, i64 {N})")  # fmt: skip
        self.buffers[result] = accumulator

    def _factor(self, value: ttir.Value, contiguous: bool = False) -> Factor:
        """A dot's operand: in the memory it is loaded from, where a test says that no mask cuts it, else a copy."""
        found = self._loaded_from(value)
        if found is None or (contiguous and found[2][1].constant != 1):
            return Factor.of(self._copied(value))
        conditions, base, strides = found
        if not conditions:
            return Factor(base.text, llvm.in_memory(llvm.type_of(value.type)), (strides[0].text, strides[1].text), True)
        code, module = self.code, self.code.module
        types = ("ptr", "i64", "i64")
        slots = [code.alloca(type) for type in types]
        inside = code.scalar(code.every(conditions))
        direct, copy, done = module.label(), module.label(), module.label()
        self.branch(inside, direct, copy)
        for label in (direct, copy):
            self.label(label)
            known, buffers, cost = code.known(), dict(self.buffers), self.cost
            given = [base.text, *(s.text for s in strides)]
            if label == copy:
                buffer = self._copied(value)
                given = [buffer.base.text, str(buffer.strides[0]), str(buffer.strides[1])]
            for type, slot, text in zip(types, slots, given, strict=True):
                code.emit(0, f"store {type} {text}, ptr {slot}")
            code.forget(known)
            self.buffers, self.cost = buffers, cost
            self.jump(done)
        self.label(done)
        place, *steps = (code.effect(0, f"load {type}, ptr {slot}") for type, slot in zip(types, slots, strict=True))
        return Factor(place, llvm.in_memory(llvm.type_of(value.type)), (steps[0], steps[1]), True)

    def _loaded_from(self, value: ttir.Value) -> tuple[list[Uniform], Uniform, tuple[Uniform, ...]] | None:
        """Where a tile that is only loaded is in memory, its strides, and what has to hold for that."""
        turned = False
        operation = value.operation
        while operation is not None and operation.name == "tt.trans" and value not in self.buffers:
            turned = not turned
            value = operation.operands[0]
            operation = value.operation
        if (
            operation is None or operation.name != "tt.load" or not self.analysis.lazy(operation) or self.guarded
            or value in self.buffers or len(shape_of(value)) != 2 or is_float8(elementwise.scalar_name(value.type))
        ):  # fmt: skip
            return None
        bounds = Bounds(self)
        found = bounds.place(operation.operands[0], operation.operands[1:2])
        if found is None:
            return None
        base, strides = found
        return bounds.inside.conditions, base, strides[::-1] if turned else strides

    def _copied(self, value: ttir.Value) -> Buffer:
        """A dot's operand in scratch memory; 8-bit floats as float32."""
        source = elementwise.scalar_name(value.type)
        if not is_float8(source):
            return self.materialise(value)
        buffer = self.new_buffer(shape_of(value), "float")
        self.prepare([value])
        self.nest(
            buffer.shape,
            self.lane_dim([value]),
            lambda index, level, n: self.write(
                buffer, index, to_float(self.code, _number(self.evaluate(value, index)), source), level
            ),
        )
        return buffer

    def _part(self, buffer: Buffer, elements: int) -> str:
        if not elements:
            return buffer.base.text
        return self.code.pure(0, f"getelementptr {buffer.element}, ptr {buffer.base.text}, i64 {elements}")

    # -- what programs report ------------------------------------------------------------------------------------------

    def checked(self, operation: ttir.Operation, pointers: Pointers, mask: Number | None) -> Number | None:
        """The mask of an access; in guard mode without the lanes that are out of bounds, which are reported."""
        if not self.guarded:
            return mask
        code, size = self.code, llvm.SIZES[pointers.element]
        bases = self.analysis.bases(operation.operands[0])
        if bases is None:
            bases = frozenset(i for i, a in enumerate(self.function.arguments) if is_pointer(a))
        shared = isinstance(pointers.base, Uniform) and isinstance(pointers.offset, Uniform)
        shared = shared and (mask is None or isinstance(mask, Uniform))
        places: Number = code.scalar(pointers) if shared else code.vector(pointers)
        address = code.cast("ptrtoint", places, "i64")
        inside: Number = integer(0, "i1")
        for base in sorted(bases):
            begin, end = Uniform(f"%begin{base}", "i64"), Uniform(f"%end{base}", "i64")
            last = code.binary("sub", end, integer(size))
            within = code.binary("and", code.compare("uge", address, begin), code.compare("ule", address, last))
            inside = code.binary("or", inside, code.binary("and", within, code.compare("uge", end, integer(size))))
        mask = integer(1, "i1") if mask is None else mask
        outside = code.binary("and", mask, code.binary("xor", inside, integer(1, "i1")))
        access = {"tt.load": _LOAD, "tt.store": _STORE}.get(operation.name, _ATOMIC)
        which = min(bases, default=0)
        given: list[Number] = [outside, address, Uniform(f"%a{which}", "ptr") if bases else Uniform("null", "ptr")]
        self._report(OUT_OF_BOUNDS, which, given, access, size)
        return code.binary("and", mask, inside)

    def _report(self, state: int, which: int, given: Sequence[Number], access: int = 0, size: int = 1) -> None:
        """Calls what writes to the status, for lanes where given[0]. given[1:]: their addresses, an argument's own."""
        code = self.code
        wrong, *rest = given
        lanes = 0 if all(isinstance(x, Uniform) for x in (wrong, *rest[:1])) else code.lanes
        helper = _reporter(code.module, lanes)
        values: list[Uniform | Vector] = []
        for x in (wrong, rest[0] if rest else integer(0)):
            values.append(code.vector(x) if lanes else code.scalar(x))
        base = code.scalar(rest[1]) if rest else Uniform("null", "ptr")
        level = max(x.level for x in (*values, base))
        types = [llvm.vector(x.type, lanes) if lanes else x.type for x in values]
        code.emit(level, f"call void @{helper}({types[0]} {values[0].text}, {types[1]} {values[1].text}, "
                         f"ptr {base.text}, i64 {size}, i64 {state}, i64 {which}, i64 {access}, "
                         f"i32 %x, i32 %y, i32 %z, ptr %status)")  # fmt: skip

    def _assert(self, operation: ttir.Operation) -> None:
        self.flush()
        condition = operation.operands[0]
        which = len(self.messages)
        text = str(operation.attributes.get("message", ""))
        self.messages.append(Message("assert", text, line=operation.line, file=PurePath(operation.file).name))

        def check(index: tuple[Number, ...], level: int, n: int) -> None:
            value = _number(self.evaluate(condition, index))
            self._report(ASSERTION, which, [self.code.compare("eq", value, integer(0, value.type))])

        if is_tile(condition):
            self.prepare([condition])
            self.nest(shape_of(condition), self.lane_dim([condition]), check)
        else:
            check((), 0, 0)
        failed = Uniform(self.code.effect(0, "load atomic i64, ptr %status monotonic, align 8"), "i64")
        more = self.code.module.label()
        self.branch(self.code.compare("eq", failed, integer(0)), more, "exit")
        self.label(more)

    def _print(self, operation: ttir.Operation) -> None:
        self.flush()
        code, attributes = self.code, operation.attributes
        prefix, as_hex = str(attributes.get("prefix", "")), bool(attributes.get("hex"))
        at = code.pure(0, f"getelementptr i8, ptr %status, i64 {_PRINT_SLOT}")
        where = ", ".join(f"i64 {code.pure(0, f'zext i32 %{axis} to i64')}" for axis in "xyz")
        values = [self._printed(value) for value in operation.operands]
        nothing = Buffer(Uniform("null", "ptr"), "i8", (), ())
        for buffer, element in values or [(nothing, "")]:
            place, count = buffer.base.text, volume(buffer.shape) if element else 0
            source = operation.line, PurePath(operation.file).name
            message = Message("print", prefix, element, buffer.shape, as_hex, *source)
            printer = code.effect(0, f"load ptr, ptr {at}")
            code.emit(0, f"call void {printer}(i64 {len(self.messages)}, {where}, ptr {place}, i64 {count})")
            self.messages.append(message)

    def _printed(self, value: ttir.Value) -> tuple[Buffer, str]:
        """A value in memory, and TTIR's name of the type it has there."""
        type = llvm.type_of(value.type)
        name = "i64" if is_pointer(value) else elementwise.scalar_name(value.type)
        if is_float8(name):
            return self._copied(value) if is_tile(value) else self._cell(to_float(
                self.code, _number(self.scalar(value)), name)), "f32"  # fmt: skip
        if is_tile(value):
            return self.materialise(value), name
        return self._cell(self.scalar(value) if type != "ptr" else self.uniform(value)), name

    def _cell(self, value: Value) -> Buffer:
        stored = self.code.scalar(self.to_memory(value))
        buffer = self.new_buffer((), stored.type)
        self.code.emit(0, f"store {stored.type} {stored.text}, ptr {buffer.base.text}")
        return buffer

    # -- the function --------------------------------------------------------------------------------------------------

    def lower(self) -> Program:
        """The whole kernel."""
        for place, argument in enumerate(self.function.arguments):
            type = llvm.type_of(argument.type)
            value = Uniform(f"%a{place}", type)
            self.scalars[argument] = self.code.pointers(value, self.element(argument)) if type == "ptr" else value
        self.blocks(self.function.body, [], "exit")
        self.label("exit")
        self.code.emit(0, "ret void")
        parameters, size = self._parameters()
        symbol = "tl.program"
        text = self._functions(symbol, parameters)
        written, read = self._accesses(stores=True), self._accesses(stores=False)
        return Program(text, symbol, f"{symbol}.grid", parameters, size, -(-self.scratch_most // 64) * 64,
                       self.cost * 0.3 + 20, written, read, tuple(self.messages))  # fmt: skip

    def _parameters(self) -> tuple[tuple[Parameter, ...], int]:
        """The argument block: the arguments; in guard mode, for each pointer, what memory it may be used for."""
        entries = [(argument.name.lstrip("%"), argument.type) for argument in self.function.arguments]
        if self.guarded:
            pointers = [name for name, type in entries if isinstance(type, ttir.Pointer)]
            entries += [(f"{name}.{edge}", ttir.Scalar("i64")) for name in pointers for edge in ("begin", "end")]
        parameters, offset = [], 0
        for name, type in entries:
            size = llvm.SIZES[llvm.type_of(type)]
            offset = -(-offset // size) * size
            parameters.append(Parameter(name, str(type), offset))
            offset += size
        return tuple(parameters), offset

    def _accesses(self, stores: bool) -> frozenset[int]:
        """The parameters through which memory is written, or read."""
        found: set[int] = set()
        for operation in self.analysis.operations:
            name = operation.name
            if not (name in WRITES if stores else name == "tt.load" or name.startswith("tt.atomic")):
                continue
            bases = self.analysis.bases(operation.operands[0])
            everything = (i for i, a in enumerate(self.function.arguments) if is_pointer(a))
            found.update(everything if bases is None else bases)
        return frozenset(found)

    def _reaches_anything(self) -> bool:
        """Whether memory is accessed through pointers that may be of any argument, such as those from a table."""
        accesses = (o for o in self.analysis.operations if o.name in WRITES or o.name in ("tt.load", "tt.atomic_load"))
        return any(self.analysis.bases(access.operands[0]) is None for access in accesses)

    def _functions(self, symbol: str, parameters: Sequence[Parameter]) -> str:
        code = self.code
        types = [llvm.type_of(argument.type) for argument in self.function.arguments]
        names = [f"%a{i}" for i in range(len(types))]
        if self.guarded:
            of = [i for i, argument in enumerate(self.function.arguments) if is_pointer(argument)]
            names += [f"%{edge}{i}" for i in of for edge in ("begin", "end")]
            types += ["i64"] * 2 * len(of)
        loads = "\n".join(_argument_loads(types, names, parameters))
        given = ", ".join([*(f"{type} {name}" for type, name in zip(types, names, strict=True)), _PLACE])
        declared = given.replace("ptr %scratch", "ptr noalias %scratch")
        if not (self.alias or self._reaches_anything()):
            declared = declared.replace("ptr %a", "ptr noalias %a")
        body = "\n".join([*code.allocas, *code.levels[0]])
        stops = self.guarded or any(message.kind == "assert" for message in self.messages)
        return f"""\
{code.module.text()}
define internal void @{symbol}.body({declared}) {{
entry:
{body}
}}
define void @{symbol}(ptr %arguments, {_PLACE}) {{
entry:
{loads}
  call void @{symbol}.body({given})
  ret void
}}
{_grid(symbol, loads, given, stops)}
"""


_PLACE = "i32 %x, i32 %y, i32 %z, i32 %nx, i32 %ny, i32 %nz, ptr %scratch, ptr %status"


def _argument_loads(types: Sequence[str], names: Sequence[str], parameters: Sequence[Parameter]) -> Iterable[str]:
    for i, (type, name, parameter) in enumerate(zip(types, names, parameters, strict=True)):
        yield f"  %q{i} = getelementptr i8, ptr %arguments, i64 {parameter.offset}"
        if type == "i1":
            yield f"  %t{i} = load i8, ptr %q{i}"
            yield f"  {name} = icmp ne i8 %t{i}, 0"
        else:
            yield f"  {name} = load {type}, ptr %q{i}, align {llvm.SIZES[type]}"


def _grid(symbol: str, loads: str, given: str, stops: bool) -> str:
    """Programs first .. last - 1 of a grid, x fastest; until one reports an error."""
    check = """\
  %state = load atomic i64, ptr %status monotonic, align 8
  %well = icmp eq i64 %state, 0
  br i1 %well, label %next, label %done""" if stops else "  br label %next"  # fmt: skip
    return f"""\
define void @{symbol}.grid(ptr %arguments, i64 %first, i64 %last, i32 %nx, i32 %ny, i32 %nz, ptr %scratch, \
ptr %status) {{
entry:
{loads}
  %wx = zext i32 %nx to i64
  %wy = zext i32 %ny to i64
  %any = icmp ult i64 %first, %last
  br i1 %any, label %start, label %done
start:
  %x0 = urem i64 %first, %wx
  %r0 = udiv i64 %first, %wx
  %y0 = urem i64 %r0, %wy
  %z0 = udiv i64 %r0, %wy
  br label %loop
loop:
  %i = phi i64 [ %first, %start ], [ %i1, %next ]
  %x6 = phi i64 [ %x0, %start ], [ %x3, %next ]
  %y6 = phi i64 [ %y0, %start ], [ %y3, %next ]
  %z6 = phi i64 [ %z0, %start ], [ %z3, %next ]
  %x = trunc i64 %x6 to i32
  %y = trunc i64 %y6 to i32
  %z = trunc i64 %z6 to i32
  call void @{symbol}.body({given})
{check}
next:
  %i1 = add i64 %i, 1
  %x1 = add i64 %x6, 1
  %xw = icmp eq i64 %x1, %wx
  %x3 = select i1 %xw, i64 0, i64 %x1
  %y1 = add i64 %y6, 1
  %y2 = select i1 %xw, i64 %y1, i64 %y6
  %yw = icmp eq i64 %y2, %wy
  %y3 = select i1 %yw, i64 0, i64 %y2
  %z1 = add i64 %z6, 1
  %z3 = select i1 %yw, i64 %z1, i64 %z6
  %more = icmp ult i64 %i1, %last
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


def _reporter(module: llvm.Module, lanes: int) -> str:
    """The function that writes the first wrong lane to the status, unless an error is there already."""
    symbol = f"tl.report.{lanes}"
    truth, word = (llvm.vector("i1", lanes), llvm.vector("i64", lanes)) if lanes else ("i1", "i64")
    if lanes:
        module.declare(f"declare i{lanes} @llvm.cttz.i{lanes}(i{lanes}, i1)")
        find = f"""\
  %bits = bitcast {truth} %wrong to i{lanes}
  %any = icmp ne i{lanes} %bits, 0
  br i1 %any, label %some, label %done
some:
  %lane = call i{lanes} @llvm.cttz.i{lanes}(i{lanes} %bits, i1 true)
  %address = extractelement {word} %addresses, i{lanes} %lane"""
    else:
        find = "  %address = add i64 %addresses, 0\n  br i1 %wrong, label %some, label %done\nsome:"
    return module.define(symbol, f"""\
define internal void @{symbol}({truth} %wrong, {word} %addresses, ptr %base, i64 %size, i64 %state, i64 %which, \
i64 %access, i32 %x, i32 %y, i32 %z, ptr %status) {{
{find}
  %pair = cmpxchg ptr %status, i64 0, i64 %state acq_rel monotonic
  %first = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %first, label %write, label %done
write:
  %origin = ptrtoint ptr %base to i64
  %bytes = sub i64 %address, %origin
  %offset = sdiv i64 %bytes, %size
  %x6 = zext i32 %x to i64
  %y6 = zext i32 %y to i64
  %z6 = zext i32 %z to i64
  %p1 = getelementptr i64, ptr %status, i64 1
  %p2 = getelementptr i64, ptr %status, i64 2
  %p3 = getelementptr i64, ptr %status, i64 3
  %p4 = getelementptr i64, ptr %status, i64 4
  %p5 = getelementptr i64, ptr %status, i64 5
  %p6 = getelementptr i64, ptr %status, i64 6
  store i64 %which, ptr %p1
  store i64 %offset, ptr %p2
  store i64 %x6, ptr %p3
  store i64 %y6, ptr %p4
  store i64 %z6, ptr %p5
  store i64 %access, ptr %p6
  br label %done
done:
  ret void
}}""")  # fmt: skip


def _number(value: Value) -> Number:
    assert not isinstance(value, Pointers)
    return value


_HANDLERS: dict[str, Callable[[Lowering, ttir.Operation], None]] = {
    "arith.constant": Lowering._constant,
    "tt.get_program_id": Lowering._program_id,
    "tt.get_num_programs": Lowering._num_programs,
    "tt.load": Lowering._scalar_load,
    "tt.store": Lowering._scalar_store,
    "tt.unsplat": Lowering._unsplat,
    "tt.dot": Lowering._dot,
    "tt.assert": Lowering._assert,
    "tt.print": Lowering._print,
    "tt.call": Lowering._call,
    "ub.poison": Lowering._poison,
    "scf.for": Lowering._for,
    "scf.while": Lowering._while,
    "scf.if": Lowering._if,
}


def lower(module: ttir.Module, machine: Features, *, alias: bool = False, guard: bool = False) -> Program:
    """A module's kernel as LLVM IR. alias: pointers of different arguments may overlap. guard: accesses are checked.

    UnsupportedError names an operation that is not supported, and where it is.
    """
    try:
        return Lowering(inlined(module), machine, alias, guard).lower()
    except UnsupportedError as error:
        raise UnsupportedError(f"{module.kernel.name}: {error}") from None
