"""The values that generated code works with, and their algebra.

A tile expression becomes a loop nest over explicit vectors. For ``x[r, c] + w[c]`` on an (R, C) tile, 16 lanes wide:

    level 0     %bound = ...                            what every element shares: program ids, sizes, bases
    level 1     for r in 0 .. R:                        an ordinary loop a dimension, scalars inside
                    %row = base + r * stride            depends on r only: computed here, once a row
    level 2         for c in 0 .. C step 16:            the *lane* dimension, the one that is contiguous in memory
                        %a = load <16 x float>, %row + c
                        %b = load <16 x float>, %w + c
                        store %a + %b

No operation makes a loop of its own. An element of a tile is a function of its index, and evaluating a tile means
evaluating its expression at one index per dimension, where the lane dimension's index stands for 16 at once. What comes
back is one of four kinds of value:

    Uniform     one scalar for all lanes: a program id, the row's number, a constant
    Affine      base + stride * lane, of integers: ``tl.arange`` and what is added to it or multiplied
    Vector      one number a lane
    Pointers    base + offset, where the offset is one of the other three: so that contiguous access (an affine
                offset of stride 1) is seen and not searched for

Every value knows the *level*, the depth of the loop, at which it can be computed, and its instruction goes there: that
is all of loop-invariant code motion. Instructions without effects are looked up before they are emitted.

Integers wrap. ``base + stride * lane`` may be narrower than the 64 bits of an address, and widening it lane by lane is
not the same as widening base and stride when the sum overflows. ``Affine.exact`` gives the lanes as they are defined;
base and stride are used for addresses only, where an overflow within a vector means an address out of any array.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.machine import Features

#: a * b + c may be fused, as Triton does on a GPU; nothing else about floating-point arithmetic is loosened
FLAGS = " contract"
_FUSABLE = frozenset({"fadd", "fsub", "fmul", "fneg"})


@dataclasses.dataclass(frozen=True, slots=True)
class Uniform:
    """A scalar, the same for all lanes. ``constant`` is its value where it is a known integer."""

    text: str
    type: str
    level: int = 0
    constant: int | None = None

    @property
    def key(self) -> str:
        """Equal for equal values."""
        return f"{self.type} {self.text}"


@dataclasses.dataclass(frozen=True, slots=True)
class Affine:
    """``base + stride * lane``, integers. ``exact`` makes the lanes where widening could have overflowed."""

    base: Uniform
    stride: Uniform
    exact: Callable[[], Vector] | None = None

    @property
    def type(self) -> str:
        """Of each lane."""
        return self.base.type

    @property
    def level(self) -> int:
        """Where it can be computed."""
        return max(self.base.level, self.stride.level)

    @property
    def key(self) -> str:
        """Equal for equal values."""
        return f"{self.base.key} + {self.stride.text} * lane"


@dataclasses.dataclass(frozen=True, slots=True)
class Vector:
    """A number a lane: ``text`` is a name or a constant of type ``<lanes x type>``."""

    text: str
    type: str
    level: int = 0

    @property
    def key(self) -> str:
        """Equal for equal values."""
        return f"<{self.type}> {self.text}"


@dataclasses.dataclass(frozen=True, slots=True)
class Pointers:
    """``base + offset``: a pointer (one a lane where they came from memory), and i64 counts of ``element``."""

    base: Uniform | Vector
    offset: Uniform | Affine | Vector
    element: str

    @property
    def type(self) -> str:
        """Of each lane."""
        return "ptr"

    @property
    def level(self) -> int:
        """Where it can be computed."""
        return max(self.base.level, self.offset.level)

    @property
    def key(self) -> str:
        """Equal for equal values."""
        return f"{self.base.key} + {self.element} {self.offset.key}"


Number = Uniform | Affine | Vector
Value = Uniform | Affine | Vector | Pointers


def integer(value: int, type: str = "i64") -> Uniform:
    """A constant integer."""
    value = llvm.wrap(value, type)
    return Uniform(str(value), type, 0, value)


def number(value: float, type: str) -> Uniform:
    """A constant of any type."""
    return Uniform(llvm.constant(value, type), type) if type in llvm.FLOATS else integer(int(value), type)


TRUE = integer(1, "i1")


class Code:
    """Instructions of one function: a list a loop level, and the algebra of values.

    ``lanes`` is the width of vectors in the loop nest that is being generated.
    """

    def __init__(self, module: llvm.Module, machine: Features) -> None:
        self.module = module
        self.machine = machine
        self.lanes = 1
        self.allocas: list[str] = []
        self.levels: list[list[str]] = [[]]
        self._known: list[dict[str, str]] = [{}]

    # -- instructions --------------------------------------------------------------------------------------------------

    def emit(self, level: int, line: str) -> None:
        """An instruction without a result, at the end of a level."""
        self.levels[level].append(line)

    def effect(self, level: int, expression: str) -> str:
        """An instruction whose result may differ each time: loads, calls with effects."""
        name = self.module.name()
        self.levels[level].append(f"{name} = {expression}")
        return name

    def pure(self, level: int, expression: str) -> str:
        """An instruction without effects: found again if it was emitted at this level or further out."""
        for outer in range(level, -1, -1):
            name = self._known[outer].get(expression)
            if name is not None:
                return name
        name = self._known[level][expression] = self.effect(level, expression)
        return name

    def alloca(self, type: str) -> str:
        """A variable on the stack, to be promoted to a register."""
        name = self.module.name()
        self.allocas.append(f"{name} = alloca {type}, align 64")
        return name

    def open(self) -> int:
        """Begins a level, the body of a loop; returns its number."""
        self.levels.append([])
        self._known.append({})
        return len(self.levels) - 1

    def close(self) -> list[str]:
        """Ends the innermost level; returns its instructions."""
        self._known.pop()
        return self.levels.pop()

    def known(self, level: int = 0) -> dict[str, str]:
        """What is known at a level, to be given back to ``forget`` at the end of a region that may not have run."""
        return dict(self._known[level])

    def forget(self, known: dict[str, str], level: int = 0) -> None:
        """Only this dominates what comes now."""
        self._known[level] = dict(known)

    # -- kinds of values -----------------------------------------------------------------------------------------------

    def vector_type(self, type: str) -> str:
        """``<lanes x type>``."""
        return llvm.vector(type, self.lanes)

    def vector(self, value: Value) -> Vector:
        """The value lane by lane."""
        if isinstance(value, Vector):
            return value
        if isinstance(value, Uniform):
            if not value.text.startswith("%"):
                return Vector(llvm.splat(value.text, value.type), value.type)
            type = self.vector_type(value.type)
            first = self.pure(value.level, f"insertelement {type} poison, {value.type} {value.text}, i32 0")
            mask = f"<{self.lanes} x i32> zeroinitializer"
            text = self.pure(value.level, f"shufflevector {type} {first}, {type} poison, {mask}")
            return Vector(text, value.type, value.level)
        if isinstance(value, Affine):
            if value.exact is not None:
                return value.exact()
            type, stride = value.type, value.stride
            if stride.constant is not None:
                steps = Vector(llvm.lanes_of((i * stride.constant for i in range(self.lanes)), type), type)
            else:
                steps = self._vectors("mul", self.vector(stride), Vector(llvm.lanes_of(range(self.lanes), type), type))
            return self._vectors("add", self.vector(value.base), steps)
        offset, base = self.vector(value.offset), value.base
        if isinstance(base, Vector) and value.offset == integer(0):
            return base
        level = max(base.level, offset.level)
        bases = "ptr" if isinstance(base, Uniform) else self.vector_type("ptr")
        text = f"getelementptr {value.element}, {bases} {base.text}, {self.vector_type('i64')} {offset.text}"
        return Vector(self.pure(level, text), "ptr", level)

    def scalar(self, value: Value) -> Uniform:
        """A value that all lanes share, as a scalar."""
        if isinstance(value, Pointers):
            assert isinstance(value.base, Uniform) and isinstance(value.offset, Uniform)
            if value.offset.constant == 0:
                return value.base
            level = value.level
            text = f"getelementptr {value.element}, ptr {value.base.text}, i64 {value.offset.text}"
            return Uniform(self.pure(level, text), "ptr", level)
        assert isinstance(value, Uniform)
        return value

    def pointers(self, value: Value, element: str) -> Pointers:
        """A pointer, or pointers that were loaded from memory, as pointers to ``element``."""
        if isinstance(value, Pointers):
            return value
        assert not isinstance(value, Affine)
        return Pointers(value, integer(0), element)

    # -- algebra -------------------------------------------------------------------------------------------------------

    def _vectors(self, operation: str, a: Vector, b: Vector, type: str = "") -> Vector:
        level = max(a.level, b.level)
        return Vector(
            self.pure(level, f"{operation} {self.vector_type(a.type)} {a.text}, {b.text}"), type or a.type, level
        )

    def binary(self, operation: str, a: Number, b: Number, type: str = "") -> Number:
        """``operation a, b`` of LLVM; ``type`` is the result's where that is not the operands'."""
        if operation in _FUSABLE:
            operation += FLAGS
        if isinstance(a, Uniform) and isinstance(b, Uniform):
            folded = _fold(operation, a, b)
            if folded is not None:
                return folded
            level = max(a.level, b.level)
            return Uniform(self.pure(level, f"{operation} {a.type} {a.text}, {b.text}"), type or a.type, level)
        if operation in ("and", "or", "xor") and a.type == "i1":
            for x, y in ((a, b), (b, a)):  # masks that are known to be true or false
                if isinstance(x, Uniform) and x.constant is not None:
                    if operation == "xor":
                        if not x.constant:
                            return y
                    else:
                        return y if (x.constant == 1) == (operation == "and") else x
        if operation in ("add", "sub", "mul") and not isinstance(a, Vector) and not isinstance(b, Vector):
            affine = self._affine(operation, a, b)
            if affine is not None:
                return affine
        return self._vectors(operation, self.vector(a), self.vector(b), type)

    def _uniform(self, operation: str, a: Uniform, b: Uniform) -> Uniform:
        value = self.binary(operation, a, b)
        assert isinstance(value, Uniform)
        return value

    def _affine(self, operation: str, a: Uniform | Affine, b: Uniform | Affine) -> Uniform | Affine | None:
        """Sums and multiples of base + stride * lane. Their lanes are exact if the operands' are."""
        exact = None
        if (isinstance(a, Affine) and a.exact) or (isinstance(b, Affine) and b.exact):

            def exact() -> Vector:
                return self._vectors(operation, self.vector(a), self.vector(b))

        zero = integer(0, a.type)
        base_a, stride_a = (a.base, a.stride) if isinstance(a, Affine) else (a, zero)
        base_b, stride_b = (b.base, b.stride) if isinstance(b, Affine) else (b, zero)
        if operation == "mul":
            if isinstance(a, Affine) and isinstance(b, Affine):
                return None
            factor = base_b if isinstance(a, Affine) else base_a
            stride = self._uniform("mul", stride_a if isinstance(a, Affine) else stride_b, factor)
        else:
            stride = self._uniform(operation, stride_a, stride_b)
        base = self._uniform(operation, base_a, base_b)
        return base if stride.constant == 0 else Affine(base, stride, exact)

    def unary(self, expression: str, a: Number, type: str) -> Number:
        """An instruction of one operand: ``{type}``, ``{x}`` and ``{result}`` (a type) stand in ``expression``."""
        if isinstance(a, Uniform):
            text = expression.format(type=a.type, x=a.text, result=type)
            return Uniform(self.pure(a.level, text), type, a.level)
        a = self.vector(a)
        text = expression.format(type=self.vector_type(a.type), x=a.text, result=self.vector_type(type))
        return Vector(self.pure(a.level, text), type, a.level)

    def cast(self, operation: str, a: Number, type: str) -> Number:
        """``sext``, ``trunc``, ``sitofp``, ``bitcast``, ..."""
        if a.type == type:
            return a
        if isinstance(a, Uniform) and a.constant is not None and operation in ("sext", "zext", "trunc"):
            value = a.constant if operation != "zext" else a.constant & ((1 << llvm.BITS[a.type]) - 1)
            return integer(-value if operation == "sext" and a.type == "i1" else value, type)
        if isinstance(a, Affine) and operation in ("sext", "trunc"):
            base, stride = self.cast(operation, a.base, type), self.cast(operation, a.stride, type)
            assert isinstance(base, Uniform) and isinstance(stride, Uniform)
            if operation == "trunc":
                narrow = a.exact and (lambda: self._lanewise(operation, a, type))
                return Affine(base, stride, narrow)
            return Affine(base, stride, lambda: self._lanewise(operation, a, type))
        return self.unary(operation + " {type} {x} to {result}", a, type)

    def _lanewise(self, operation: str, a: Affine, type: str) -> Vector:
        value = self.unary(operation + " {type} {x} to {result}", self.vector(a), type)
        assert isinstance(value, Vector)
        return value

    def compare(self, predicate: str, a: Number, b: Number) -> Number:
        """``icmp`` or ``fcmp``, by the operands' type."""
        return self.binary(("fcmp " if a.type in llvm.FLOATS else "icmp ") + predicate, a, b, "i1")

    def select(self, condition: Number, a: Number, b: Number) -> Number:
        """``a`` where the condition is true, else ``b``."""
        if isinstance(condition, Uniform):
            if condition.constant is not None:
                return a if condition.constant else b
            if isinstance(a, Uniform) and isinstance(b, Uniform):
                level = max(condition.level, a.level, b.level)
                text = f"select i1 {condition.text}, {a.type} {a.text}, {b.type} {b.text}"
                return Uniform(self.pure(level, text), a.type, level)
        elif isinstance(condition, Affine):
            condition = self.vector(condition)
        a, b = self.vector(a), self.vector(b)
        level = max(condition.level, a.level, b.level)
        chooser = "i1" if isinstance(condition, Uniform) else self.vector_type("i1")
        type = self.vector_type(a.type)
        return Vector(
            self.pure(level, f"select {chooser} {condition.text}, {type} {a.text}, {type} {b.text}"), a.type, level
        )

    def call(self, symbol: str, arguments: Sequence[Number], type: str = "", vector: bool | None = None) -> Number:
        """A function without effects. Where an argument differs by lane (or ``vector``) it takes and gives vectors."""
        if vector is None:
            vector = not all(isinstance(a, Uniform) for a in arguments)
        result = type or arguments[0].type
        values = [self.vector(a) if vector else self.scalar(a) for a in arguments]
        types = [self.vector_type(a.type) if vector else a.type for a in values]
        returns = self.vector_type(result) if vector else result
        level = max((a.level for a in values), default=0)
        given = ", ".join(f"{t} {a.text}" for t, a in zip(types, values, strict=True))
        name = self.pure(level, f"call {returns} @{symbol}({given})")
        return Vector(name, result, level) if vector else Uniform(name, result, level)

    def intrinsic(self, name: str, arguments: Sequence[Number], immediate: str = "") -> Number:
        """``llvm.name`` of operands of one type; ``immediate`` is a last, constant operand ("i1 false")."""
        vector = not all(isinstance(a, Uniform) for a in arguments)
        type = arguments[0].type
        symbol = f"llvm.{name}.{llvm.suffix(type, self.lanes if vector else 0)}"
        written = self.vector_type(type) if vector else type
        parameters = [written] * len(arguments) + ([immediate.split()[0]] if immediate else [])
        self.module.declare(f"declare {written} @{symbol}({', '.join(parameters)})")
        if not immediate:
            return self.call(symbol, arguments)
        values = [self.vector(a) if vector else self.scalar(a) for a in arguments]
        level = max(a.level for a in values)
        given = ", ".join([*(f"{written} {a.text}" for a in values), immediate])
        text = self.pure(level, f"call {written} @{symbol}({given})")
        return Vector(text, type, level) if vector else Uniform(text, type, level)

    def shuffle(self, a: Vector, lanes: Sequence[int], width: int) -> Vector:
        """The given lanes of a vector that is ``width`` wide."""
        type, mask = llvm.vector(a.type, width), llvm.lanes_of(lanes, "i32")
        text = f"shufflevector {type} {a.text}, {type} poison, <{len(lanes)} x i32> {mask}"
        return Vector(self.pure(a.level, text), a.type, a.level)

    def interleave(self, a: Vector, b: Vector, lanes: Sequence[int]) -> Vector:
        """Lanes of two vectors: those of ``b`` count from the width on."""
        level, type = max(a.level, b.level), self.vector_type(a.type)
        mask = llvm.lanes_of(lanes, "i32")
        text = f"shufflevector {type} {a.text}, {type} {b.text}, <{len(lanes)} x i32> {mask}"
        return Vector(self.pure(level, text), a.type, level)

    def extract(self, a: Vector, lane: int, width: int | None = None) -> Uniform:
        """One lane."""
        type = llvm.vector(a.type, width or self.lanes)
        return Uniform(self.pure(a.level, f"extractelement {type} {a.text}, i32 {lane}"), a.type, a.level)

    def every(self, conditions: Sequence[Uniform]) -> Number:
        """Whether every condition holds."""
        found: Number = TRUE
        for condition in conditions:
            found = self.binary("and", found, condition)
        return found

    def add(self, a: Number, b: Number) -> Number:
        """a + b of integers."""
        return self.binary("add", a, b)

    def multiply(self, a: Number, b: Number) -> Number:
        """a * b of integers."""
        return self.binary("mul", a, b)

    def widen(self, a: Number) -> Number:
        """A signed integer as i64: an index."""
        return self.cast("sext", a, "i64")


def _fold(operation: str, a: Uniform, b: Uniform) -> Uniform | None:
    """What needs no instruction."""
    x, y = a.constant, b.constant
    if x is not None and y is not None and operation in ("add", "sub", "mul"):
        return integer({"add": x + y, "sub": x - y, "mul": x * y}[operation], a.type)
    if y == 0 and operation in ("add", "sub", "shl"):
        return a
    if operation == "add" and x == 0:
        return b
    if operation == "mul":
        if x == 0 or y == 0:
            return integer(0, a.type)
        if x == 1 and a.type != "i1":
            return b
        if y == 1 and a.type != "i1":
            return a
    if operation in ("and", "or") and a.type == "i1":
        for known, other in ((x, b), (y, a)):
            if known is not None:
                return other if (known == 1) == (operation == "and") else integer(known, "i1")
    return None
