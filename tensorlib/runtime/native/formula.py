"""Formulas as LLVM IR: values with Python's operators, each of a fixed number of lanes.

A formula is written once and emitted for any width, so `fma(x, LOG2E, magic) - magic` reads as it is computed. No
fast-math flags: what is written is what is rounded, and a multiplication and an addition fuse only in `fma`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.machine import Features

Number: TypeAlias = "Value | float | int"


class Function(NamedTuple):
    """A helper function in LLVM IR."""

    symbol: str  #: with its "@"
    text: str  #: the definitions, to be put in a module once
    declarations: tuple[str, ...]  #: what it needs declared
    arguments: tuple[str, ...] = ()  #: LLVM's types of one lane
    result: str = "void"


class Value:
    """One SSA value: in each lane a number of `type`."""

    __slots__ = ("formula", "text", "type")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, formula: Formula, text: str, type: str) -> None:
        self.formula, self.text, self.type = formula, text, type

    @property
    def floating(self) -> bool:
        """Whether it is of floats."""
        return self.type in llvm.FLOATS

    def _binary(self, floating: str, whole: str, other: Number, reverse: bool = False) -> Value:
        f = self.formula
        operation = floating if self.floating else whole
        if not operation:
            raise TypeError(f"no such operation on {self.type}")
        x, y = self, f.of(other, self.type)
        if reverse:
            x, y = y, x
        return f.emit(f"{operation} {f.of_type(self.type)} {x.text}, {y.text}", self.type)

    def __add__(self, other: Number) -> Value:
        return self._binary("fadd", "add", other)

    def __sub__(self, other: Number) -> Value:
        return self._binary("fsub", "sub", other)

    def __mul__(self, other: Number) -> Value:
        return self._binary("fmul", "mul", other)

    def __truediv__(self, other: Number) -> Value:
        return self._binary("fdiv", "", other)

    def __and__(self, other: Number) -> Value:
        return self._binary("", "and", other)

    def __or__(self, other: Number) -> Value:
        return self._binary("", "or", other)

    def __xor__(self, other: Number) -> Value:
        return self._binary("", "xor", other)

    def __lshift__(self, other: Number) -> Value:
        return self._binary("", "shl", other)

    def __rshift__(self, other: Number) -> Value:
        """The arithmetic shift; `logical_shift` is the other."""
        return self._binary("", "ashr", other)

    def logical_shift(self, other: Number) -> Value:
        """To the right, filled with zeros."""
        return self._binary("", "lshr", other)

    def __radd__(self, other: Number) -> Value:
        return self._binary("fadd", "add", other, True)

    def __rsub__(self, other: Number) -> Value:
        return self._binary("fsub", "sub", other, True)

    def __rmul__(self, other: Number) -> Value:
        return self._binary("fmul", "mul", other, True)

    def __rtruediv__(self, other: Number) -> Value:
        return self._binary("fdiv", "", other, True)

    def __neg__(self) -> Value:
        if self.floating:
            return self.formula.emit(f"fneg {self.formula.of_type(self.type)} {self.text}", self.type)
        return 0 - self

    def __invert__(self) -> Value:
        return self ^ -1

    def compare(self, floating: str, whole: str, other: Number) -> Value:
        """A truth value by LLVM's predicates for floats and for integers."""
        f = self.formula
        operation = f"fcmp {floating}" if self.floating else f"icmp {whole}"
        return f.emit(f"{operation} {f.of_type(self.type)} {self.text}, {f.of(other, self.type).text}", "i1")

    def __lt__(self, other: Number) -> Value:
        return self.compare("olt", "slt", other)

    def __le__(self, other: Number) -> Value:
        return self.compare("ole", "sle", other)

    def __gt__(self, other: Number) -> Value:
        return self.compare("ogt", "sgt", other)

    def __ge__(self, other: Number) -> Value:
        return self.compare("oge", "sge", other)

    def equals(self, other: Number) -> Value:
        """Lanes that are equal; NaN is not."""
        return self.compare("oeq", "eq", other)

    def differs(self, other: Number) -> Value:
        """Lanes that are not equal; NaN differs from all."""
        return self.compare("une", "ne", other)

    def is_nan(self) -> Value:
        """Lanes that hold NaN."""
        return self.compare("uno", "", self)

    # -- the same bits, other types

    def cast(self, operation: str, type: str) -> Value:
        """One of LLVM's conversions: "sitofp", "fpext", "bitcast", ..."""
        if type == self.type:
            return self
        f = self.formula
        return f.emit(f"{operation} {f.of_type(self.type)} {self.text} to {f.of_type(type)}", type)

    def bits(self) -> Value:
        """A float's bits as an integer."""
        return self.cast("bitcast", f"i{llvm.BITS[self.type]}")

    def floats(self) -> Value:
        """The float that has these bits."""
        return self.cast("bitcast", {"i32": "float", "i64": "double", "i16": "half"}[self.type])

    def to(self, type: str) -> Value:
        """Converted: between floats with one rounding, from signed integers, to integers by truncation, saturated."""
        if type == self.type:
            return self
        if self.floating and type in llvm.FLOATS:
            return self.cast("fpext" if llvm.BITS[type] > llvm.BITS[self.type] else "fptrunc", type)
        if self.floating:
            return self.formula.intrinsic("fptosi.sat", self, result=type)
        if type in llvm.FLOATS:
            return self.cast("sitofp", type)
        if self.type == "i1":
            return self.cast("zext", type)
        return self.cast("sext" if llvm.BITS[type] > llvm.BITS[self.type] else "trunc", type)


class Formula:
    """The body of one function that is being written: `lanes` of everything, 1 for plain scalars."""

    def __init__(self, symbol: str, lanes: int, machine: Features | None = None) -> None:
        self.symbol, self.lanes, self.machine = symbol, lanes, machine
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.helpers: list[str] = []
        self.attributes = "alwaysinline nounwind"
        self._numbers = itertools.count()

    def of_lanes(self, lanes: int) -> Formula:
        """The same body, continued with another number of lanes."""
        other = copy.copy(self)
        other.lanes = lanes
        return other

    def has(self, feature: str) -> bool:
        """Whether code is for a machine that is known to have a feature."""
        return self.machine is not None and self.machine.has(feature)

    def of_type(self, type: str) -> str:
        """The type of `lanes` numbers."""
        return llvm.vector(type, self.lanes) if self.lanes > 1 else type

    def name(self) -> str:
        """A local name that nothing else has."""
        return f"%t{next(self._numbers)}"

    def emit(self, text: str, type: str) -> Value:
        """A new value: the result of one instruction."""
        name = self.name()
        self.lines.append(f"{name} = {text}")
        return Value(self, name, type)

    def constant(self, number: float | int, type: str) -> Value:
        """A number in every lane."""
        text = llvm.constant(number, type)
        return Value(self, llvm.splat(text, type) if self.lanes > 1 else text, type)

    def of(self, number: Number, type: str) -> Value:
        """A value as it is, a number as a constant."""
        if not isinstance(number, Value):
            return self.constant(number, type)
        if number.type != type:
            raise TypeError(f"expected {type}, got {number.type}")
        return number

    def intrinsic(self, name: str, *values: Value, result: str = "", flags: str = "") -> Value:
        """LLVM's overloaded intrinsic of values of one type; `flags` are constants that follow them."""
        type = values[0].type
        result = result or type
        vector = self.lanes if self.lanes > 1 else 0
        overloads = [llvm.suffix(t, vector) for t in ([result, type] if result != type else [type])]
        symbol = f"@llvm.{name}.{'.'.join(overloads)}"
        given = [self.of_type(v.type) for v in values]
        more = [flags] if flags else []
        self.declarations.add(
            f"declare {self.of_type(result)} {symbol}({', '.join(given + [f.split()[0] for f in more])})"
        )
        text = ", ".join([f"{t} {v.text}" for t, v in zip(given, values, strict=True)] + more)
        return self.emit(f"call {self.of_type(result)} {symbol}({text})", result)

    def select(self, condition: Value, yes: Number, no: Number) -> Value:
        """Lane by lane, `yes` where the condition holds."""
        type = yes.type if isinstance(yes, Value) else no.type if isinstance(no, Value) else ""
        x, y = self.of(yes, type), self.of(no, type)
        t = self.of_type(type)
        return self.emit(f"select {self.of_type('i1')} {condition.text}, {t} {x.text}, {t} {y.text}", type)

    def lane(self, x: Value, i: int) -> str:
        """One lane as a scalar."""
        if self.lanes == 1:
            return x.text
        return self.emit(f"extractelement {self.of_type(x.type)} {x.text}, i32 {i}", x.type).text

    def together(self, lanes: Sequence[str], type: str) -> Value:
        """Scalars as the lanes of one value."""
        if self.lanes == 1:
            return Value(self, lanes[0], type)
        found = Value(self, "poison", type)
        for i, x in enumerate(lanes):
            found = self.emit(f"insertelement {self.of_type(type)} {found.text}, {type} {x}, i32 {i}", type)
        return found

    def everywhere(self, x: str, type: str) -> Value:
        """One scalar in every lane."""
        if self.lanes == 1:
            return Value(self, x, type)
        vector = self.of_type(type)
        first = self.emit(f"insertelement {vector} poison, {type} {x}, i64 0", type)
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.emit(f"shufflevector {vector} {first.text}, {vector} poison, {zeros}", type)

    def each_lane(self, symbol: str, result: str, *values: Value) -> Value:
        """A scalar function of every lane by itself."""
        self.attributes = "nounwind"  # so many calls are not worth repeating
        found = []
        for i in range(self.lanes):
            text = ", ".join(f"{v.type} {self.lane(v, i)}" for v in values)
            found.append(self.emit(f"call {result} {symbol}({text})", result).text)
        return self.together(found, result)

    def library(self, name: str, *values: Value, result: str = "double", pure: bool = True) -> Value:
        """A function of the C library, lane by lane."""
        attributes = "nounwind willreturn" + (" memory(none)" if pure else "")
        self.declarations.add(f"declare {result} @{name}({', '.join(v.type for v in values)}) {attributes}")
        return self.each_lane(f"@{name}", result, *values)

    def rarely(
        self, condition: Value, otherwise: Sequence[Value], replace: Callable[[], Sequence[Value]]
    ) -> list[Value]:
        """Values that `replace` computes anew where the condition holds in any lane."""
        any = condition
        if self.lanes > 1:
            symbol = f"@llvm.vector.reduce.or.v{self.lanes}i1"
            self.declarations.add(f"declare i1 {symbol}({self.of_type('i1')})")
            any = self.emit(f"call i1 {symbol}({self.of_type('i1')} {condition.text})", "i1")
        number = next(self._numbers)
        before, rare, after = (f"{name}.{number}" for name in ("before", "rare", "after"))
        self.lines += [
            f"br label %{before}",
            f"{before}:",
            f"br i1 {any.text}, label %{rare}, label %{after}",
            f"{rare}:",
        ]
        found = [
            self.select(condition, new, old) for new, old in zip(replace(), otherwise, strict=True)
        ]  # fmt: skip
        self.lines += [f"br label %{after}", f"{after}:"]
        return [
            self.emit(f"phi {self.of_type(x.type)} [ {x.text}, %{rare} ], [ {y.text}, %{before} ]", x.type)
            for x, y in zip(found, otherwise, strict=True)
        ]

    def function(self, arguments: Sequence[Value], result: Value) -> Function:
        """The whole as a definition."""
        given = ", ".join(f"{self.of_type(a.type)} {a.text}" for a in arguments)
        head = f"define internal {self.of_type(result.type)} {self.symbol}({given}) {self.attributes} {{"
        body = "\n".join(f"  {line}" for line in [*self.lines, f"ret {self.of_type(result.type)} {result.text}"])
        text = "\n".join([*self.helpers, head, body, "}"]) + "\n"
        return Function(
            self.symbol, text, tuple(sorted(self.declarations)), tuple(a.type for a in arguments), result.type
        )


# -- what formulas are written with


def fma(x: Number, y: Number, z: Number) -> Value:
    """x * y + z, rounded once."""
    value = next(v for v in (x, y, z) if isinstance(v, Value))
    f, type = value.formula, value.type
    return f.intrinsic("fma", f.of(x, type), f.of(y, type), f.of(z, type))


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """c[0] + c[1] x + c[2] x**2 + ... by Horner's rule."""
    found: Number = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        found = fma(found, x, c)
    return x.formula.of(found, x.type)


def select(condition: Value, yes: Number, no: Number) -> Value:
    """Lane by lane, `yes` where the condition holds."""
    return condition.formula.select(condition, yes, no)


def absolute(x: Value) -> Value:
    """|x|."""
    return x.formula.intrinsic("fabs", x) if x.floating else x.formula.intrinsic("abs", x, flags="i1 false")


def with_sign(magnitude: Value, sign: Value) -> Value:
    """`magnitude` with the sign of `sign`."""
    return magnitude.formula.intrinsic("copysign", magnitude, sign)


def at_least(x: Value, low: float) -> Value:
    """x, or `low` where it is less; NaN stays."""
    return select(x < low, low, x)


def at_most(x: Value, high: float) -> Value:
    """x, or `high` where it is more; NaN stays."""
    return select(x > high, high, x)
