"""Triton's IR (TTIR): types, values, operations, and the functions of a kernel. `parser` reads it from text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

# -- types -------------------------------------------------------------------------------------------------------------

#: Bits of a number of each type.
BITS = {
    "i1": 1, "i4": 4, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "i128": 128, "index": 64,
    "f8E4M3FN": 8, "f8E5M2": 8, "f8E4M3FNUZ": 8, "f8E5M2FNUZ": 8, "f8E4M3B11FNUZ": 8,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A number: "i1", "i8", ..., "i64", "f8E4M3FN", "f8E5M2", "f16", "bf16", "f32", "f64", "index"."""

    name: str

    @property
    def bits(self) -> int:
        """Its width."""
        return BITS[self.name]

    @property
    def floating(self) -> bool:
        """Whether it is a floating-point number."""
        return self.name[0] in "fb"

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Pointer:
    """An address of elements of a type."""

    pointee: Type
    space: int = 1

    def __str__(self) -> str:
        return f"!tt.ptr<{self.pointee}>" if self.space == 1 else f"!tt.ptr<{self.pointee}, {self.space}>"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tile."""

    shape: tuple[int, ...]
    element: Scalar | Pointer

    @functools.cached_property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    def __str__(self) -> str:
        return f"tensor<{''.join(f'{n}x' for n in self.shape)}{self.element}>"


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A tensor descriptor: an array in memory, read and written in tiles of a type."""

    block: Tensor
    signed: bool | None = None  #: of an integer element, what the text says: si8, ui8, i8

    def __str__(self) -> str:
        return f"!tt.tensordesc<{self.block}>"


Type = Scalar | Pointer | Tensor | Descriptor


# -- values and operations ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dense:
    """A constant tile: one value for every element, or all of them in row-major order. 8-bit floats by their bits."""

    type: Tensor
    values: tuple[Any, ...]

    @property
    def splat(self) -> bool:
        """Whether one value stands for every element."""
        return len(self.values) == 1


@dataclasses.dataclass(eq=False)
class Value:
    """What an operation gives, or an argument of a block."""

    type: Type
    operation: Operation | None = None  #: None for a block's argument
    index: int = 0  #: number of the result or argument
    name: str = ""  #: as in the text: "%x_3"
    block: Block | None = None  #: of an argument

    def __repr__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclasses.dataclass(eq=False)
class Operation:
    """One operation: its name, what it takes, and what it gives."""

    name: str  #: "arith.addf"
    operands: list[Value] = dataclasses.field(default_factory=list)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    results: list[Value] = dataclasses.field(default_factory=list)
    regions: list[Region] = dataclasses.field(default_factory=list)
    successors: list[tuple[Block, list[Value]]] = dataclasses.field(default_factory=list)  #: of a branch
    line: int = 0  #: of the kernel's source; 0 where that is not known
    file: str = ""
    block: Block | None = None

    @property
    def result(self) -> Value:
        """Its only result."""
        (result,) = self.results
        return result

    def __repr__(self) -> str:
        return f"{self.results} = {self.name} {self.operands} {self.attributes}"


@dataclasses.dataclass(eq=False)
class Block:
    """Operations that run one after the other."""

    arguments: list[Value] = dataclasses.field(default_factory=list)
    operations: list[Operation] = dataclasses.field(default_factory=list)
    name: str = ""

    @property
    def terminator(self) -> Operation:
        """Its last operation: a yield, a return, a branch."""
        return self.operations[-1]


@dataclasses.dataclass(eq=False)
class Region:
    """The body of a function, a loop, a branch or a reduction: one block, but where a function has branches."""

    blocks: list[Block] = dataclasses.field(default_factory=list)

    @property
    def block(self) -> Block:
        """Its only block."""
        (block,) = self.blocks
        return block


@dataclasses.dataclass(eq=False)
class Function:
    """A kernel, or a function that it calls."""

    name: str
    arguments: list[Value]
    argument_attributes: list[dict[str, Any]]  #: of each argument, such as {"tt.divisibility": 16}
    results: list[Type]
    body: Region
    public: bool
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)  #: such as {"noinline": True}
    line: int = 0


@dataclasses.dataclass(eq=False)
class Module:
    """All functions of a kernel."""

    functions: dict[str, Function]

    @property
    def kernel(self) -> Function:
        """The public one."""
        (kernel,) = (f for f in self.functions.values() if f.public)
        return kernel


# -- what others make of it --------------------------------------------------------------------------------------------


def walk(region: Region) -> Iterator[Operation]:
    """Every operation of a region, those of its regions after each, in order."""
    for block in region.blocks:
        for operation in block.operations:
            yield operation
            for inner in operation.regions:
                yield from walk(inner)


def dump(module: Module) -> str:
    """A module as text that is alike for equal modules: values numbered, every operation in one form, no locations."""
    lines: list[str] = []
    for function in module.functions.values():
        numbers: dict[int, str] = {}
        labels: dict[int, str] = {}

        def name(value: Value, numbers: dict[int, str] = numbers) -> str:
            return numbers.setdefault(id(value), f"%{len(numbers)}")

        def label(block: Block, labels: dict[int, str] = labels) -> str:
            return labels.setdefault(id(block), f"^{len(labels)}")

        _dump_function(function, lines, name, label)
    return "\n".join(lines) + "\n"


def _dump_function(
    function: Function, lines: list[str], name: Callable[[Value], str], label: Callable[[Block], str]
) -> None:
    """Add a function's lines."""
    arguments = ", ".join(
        f"{name(v)}: {v.type}{_dump_attributes(a)}"
        for v, a in zip(function.arguments, function.argument_attributes, strict=True)
    )
    results = ", ".join(map(str, function.results))
    kind = "public" if function.public else "private"
    lines.append(f"{kind} @{function.name}({arguments}) -> ({results}){_dump_attributes(function.attributes)} {{")

    def region(made: Region, indent: str, first: bool) -> None:
        for i, block in enumerate(made.blocks):
            if i or first:
                given = ", ".join(f"{name(v)}: {v.type}" for v in block.arguments)
                lines.append(f"{indent[:-1]}{label(block)}({given}):")
            for operation in block.operations:
                one(operation, indent)

    def one(operation: Operation, indent: str) -> None:
        operands = ", ".join(map(name, operation.operands))
        targets = ", ".join(f"{label(b)}({', '.join(map(name, values))})" for b, values in operation.successors)
        results = ", ".join(f"{name(v)}: {v.type}" for v in operation.results)
        said = f"{operation.name}({operands}){targets and f'[{targets}]'}{_dump_attributes(operation.attributes)}"
        lines.append(f"{indent}{results and f'{results} = '}{said}{' {' if operation.regions else ''}")
        for i, inner in enumerate(operation.regions):
            if i:
                lines.append(f"{indent}}} {{")
            region(inner, indent + "  ", True)
        if operation.regions:
            lines.append(f"{indent}}}")

    region(function.body, "  ", False)
    lines.append("}")


def _dump_attributes(attributes: dict[str, Any]) -> str:
    if not attributes:
        return ""
    return " {" + ", ".join(f"{k} = {_dump_value(v)}" for k, v in sorted(attributes.items())) + "}"


def _dump_value(value: Any) -> str:
    if isinstance(value, Dense):
        return f"dense<{', '.join(map(_dump_value, value.values))}>: {value.type}"
    if isinstance(value, dict):
        return _dump_attributes(value).strip() or "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_dump_value, value))}]"
    return repr(value)
