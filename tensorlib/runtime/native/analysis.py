"""What is known about a kernel before code is made for it: who uses a tile, what may overlap, what is contiguous.

Operations are either *lazy* (they give tiles and have no effect: evaluated wherever their value is needed) or
*statements* (stores, reductions, dots, loops: code is made for them where they stand). A statement that consumes a lazy
tile, directly or through other lazy tiles, is one of the tile's *roots*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tensorlib.runtime.native import elementwise, ttir

#: lazy operations that only move an index
STRUCTURAL = frozenset({"tt.splat", "tt.expand_dims", "tt.broadcast", "tt.trans", "tt.reshape"})
#: lazy operations whose operand is read at another index than the result's
_MOVED = frozenset({"tt.expand_dims", "tt.broadcast", "tt.trans", "tt.reshape"})
_SOURCES = frozenset({"arith.constant", "tt.make_range", "tt.load"})
#: operations that write memory
WRITES = frozenset({"tt.store", "tt.atomic_rmw", "tt.atomic_cas", "tt.atomic_store", "tt.descriptor_store",
                    "tt.descriptor_reduce", "tt.descriptor_scatter"})  # fmt: skip

#: cost of one element of a result, in units of a cheap vector instruction; what is not listed costs half a unit
_COST = {
    "tt.load": 1.0, "tt.extern_elementwise": 12.0, "arith.divf": 3.0, "tt.precise_divf": 3.0, "math.sqrt": 3.0,
    "tt.precise_sqrt": 3.0, "math.rsqrt": 5.0, "arith.remf": 20.0, "arith.divsi": 6.0, "arith.divui": 6.0,
    "arith.remsi": 6.0, "arith.remui": 6.0, "arith.truncf": 1.5, "tt.fp_to_fp": 4.0,
    "arith.addi": 0.1, "arith.subi": 0.1, "arith.muli": 0.1,  # mostly of indices, and so outside of the loop
}  # fmt: skip
_FREE = STRUCTURAL | {"arith.constant", "tt.make_range", "tt.addptr", "tt.bitcast", "arith.extsi"}


def is_tile(value: ttir.Value) -> bool:
    """Whether a value is a tensor."""
    return isinstance(value.type, ttir.Tensor)


def shape_of(value: ttir.Value) -> tuple[int, ...]:
    """A tensor's shape; () of a scalar."""
    return value.type.shape if isinstance(value.type, ttir.Tensor) else ()


def is_pointer(value: ttir.Value) -> bool:
    """Whether a value is a pointer, or a tile of pointers."""
    type = value.type.element if isinstance(value.type, ttir.Tensor) else value.type
    return isinstance(type, ttir.Pointer)


def is_lazy(operation: ttir.Operation) -> bool:
    """Whether an operation's tiles are evaluated where they are needed."""
    if not operation.results or not all(is_tile(r) for r in operation.results):
        return False
    if operation.name == "tt.load" and operation.attributes.get("isVolatile"):
        return False
    return operation.name in STRUCTURAL or operation.name in _SOURCES or elementwise.known(operation.name)


def walk(blocks: Iterable[ttir.Block]) -> Iterator[ttir.Operation]:
    """All operations, also those in regions, in the order of the text."""
    for block in blocks:
        for operation in block.operations:
            yield operation
            for region in operation.regions:
                yield from walk(region.blocks)


def unit_dims(source: tuple[int, ...], shape: tuple[int, ...]) -> list[int | None] | None:
    """For a reshape that only adds or drops dims of size 1: which dim of ``shape`` each dim of ``source`` is."""
    if [n for n in source if n != 1] != [n for n in shape if n != 1]:
        return None
    rest = iter([i for i, n in enumerate(shape) if n != 1])
    return [None if n == 1 else next(rest) for n in source]


def permutation(operation: ttir.Operation) -> tuple[int, ...]:
    """The dim of its operand that each dim of a tt.trans's result is."""
    return tuple(int(dim) for dim in operation.attributes["order"])


def weight(operation: ttir.Operation) -> float:
    """Cost of one element of an operation's result."""
    name = operation.name
    if name in ("arith.remsi", "arith.remui") and _is_affine(operation.operands[0]):
        return 0.0  # wraps an index: kept lazy, so that the fast path sees it contiguous
    if name in _FREE:
        return 0.0
    if name.startswith("math.") and name not in ("math.absf", "math.absi", "math.fma", "math.floor", "math.ceil"):
        return _COST.get(name, 10.0)
    return _COST.get(name, 0.5)


def is_index(value: ttir.Value) -> bool:
    """Whether a tile is an index or a comparison of indices with bounds: kept lazy, so that what is known of it is."""
    operation = value.operation
    if operation is not None and operation.name in ("arith.cmpi", "arith.andi") and is_tile(value):
        return all(is_index(x) for x in operation.operands)
    if operation is not None and operation.name in STRUCTURAL and operation.name != "tt.splat":
        return is_index(operation.operands[0])
    return _is_affine(value)


def _is_affine(value: ttir.Value) -> bool:
    """Whether a value is sums and multiples of ranges and scalars."""
    operation = value.operation
    if operation is None or not is_tile(value):
        return not is_tile(value)
    if operation.name in ("tt.make_range", "arith.constant", "tt.splat"):
        return True
    if operation.name in STRUCTURAL or operation.name in ("arith.addi", "arith.subi", "arith.muli", "arith.extsi"):
        return all(_is_affine(x) for x in operation.operands)
    return False


class Analysis:
    """Facts about one function body."""

    def __init__(self, function: ttir.Function) -> None:
        self.function = function
        self.operations = list(walk(function.body.blocks))
        self.position = {operation: i for i, operation in enumerate(self.operations)}
        self.users: dict[ttir.Value, list[ttir.Operation]] = {}
        for operation in self.operations:
            used = [*operation.operands, *(value for _, values in operation.successors for value in values)]
            for value in used:
                self.users.setdefault(value, []).append(operation)
        self.roots: dict[ttir.Value, int] = {}
        """Of a tile, the statements that consume it: a bit at each one's position."""
        self._lazy = {operation for operation in self.operations if is_lazy(operation)}
        for operation in reversed(self.operations):
            for result in operation.results:
                self._find_roots(result)
        for block in self._blocks(function.body):
            for argument in block.arguments:
                self._find_roots(argument)
        self._bases: dict[ttir.Value, frozenset[int] | None] = {}
        self._of_program: dict[ttir.Value, bool | None] = {}
        self._strides: dict[tuple[ttir.Value, int], int | None] = {}
        for operation in self.operations:  # in the order of the text, so that no search goes deep
            for result in operation.results:
                self.of_program(result)
            if operation.name in ("arith.addi", "arith.subi", "arith.muli", "tt.addptr"):
                for dim in range(len(shape_of(operation.result))):
                    self.stride(operation.result, dim)

    def _find_roots(self, value: ttir.Value) -> None:
        mask = 0
        for user in self.users.get(value, ()):
            if user in self._lazy:
                for result in user.results:
                    mask |= self.roots[result]
            else:
                mask |= 1 << self.position[user]
        self.roots[value] = mask

    def _blocks(self, region: ttir.Region) -> Iterator[ttir.Block]:
        for block in region.blocks:
            yield block
            for operation in block.operations:
                for inner in operation.regions:
                    yield from self._blocks(inner)

    def lazy(self, operation: ttir.Operation) -> bool:
        """Whether an operation is lazy."""
        return operation in self._lazy

    def used_after(self, value: ttir.Value, operation: ttir.Operation) -> bool:
        """Whether a statement after ``operation``, in the order of the text, consumes a tile."""
        return bool(self.roots[value] >> (self.position[operation] + 1))

    def closure(self, value: ttir.Value) -> dict[ttir.Value, bool]:
        """Tiles that a lazy tile is computed from, itself included: whether each is read at the same index only."""
        found: dict[ttir.Value, bool] = {}
        stack = [(value, True)]
        while stack:
            v, same = stack.pop()
            if not is_tile(v) or (v in found and found[v] <= same):
                continue
            found[v] = same and found.get(v, True)
            if v.operation is not None and v.operation in self._lazy:
                inner = same and v.operation.name not in _MOVED
                stack.extend((x, inner) for x in v.operation.operands)
        return found

    # -- what memory a pointer is of -----------------------------------------------------------------------------------

    def bases(self, value: ttir.Value) -> frozenset[int] | None:
        """The arguments of the kernel that a pointer may point into; None: any memory."""
        if value not in self._bases:
            self._bases[value] = self._find_bases(value)
        return self._bases[value]

    def _find_bases(self, value: ttir.Value) -> frozenset[int] | None:
        found, stack, seen = set(), [value], {value}
        while stack:
            pointer = stack.pop()
            sources = self._pointer_sources(pointer)
            if sources is None:
                return None
            if not sources:
                found.add(pointer.index)
            stack += [x for x in sources if x not in seen]
            seen.update(sources)
        return frozenset(found)

    def origin(self, value: ttir.Value) -> ttir.Value:
        """What a pointer, or a tile of them, is an offset to."""
        while (operation := value.operation) is not None and operation.name in STRUCTURAL | {"tt.addptr"}:
            value = operation.operands[0]
        return value

    def _pointer_sources(self, value: ttir.Value) -> list[ttir.Value] | None:
        """What a pointer comes from; [] if it is an argument of the kernel, None if that is not known."""
        operation = value.operation
        if operation is None:
            return [] if value in self.function.arguments else self._argument_sources(value)
        if operation.name in STRUCTURAL or operation.name in ("tt.addptr", "tt.bitcast"):
            return [operation.operands[0]]
        if operation.name == "arith.select":
            return operation.operands[1:]
        if operation.name == "scf.if":
            return [region.block.terminator.operands[value.index] for region in operation.regions]
        if operation.name == "scf.for":
            return [operation.operands[3 + value.index], operation.regions[0].block.terminator.operands[value.index]]
        if operation.name == "scf.while":
            return [operation.regions[0].block.terminator.operands[1 + value.index]]
        return None

    def _argument_sources(self, value: ttir.Value) -> list[ttir.Value] | None:
        """What a loop's or a branch's block argument may be."""
        sources: list[ttir.Value] = []
        for operation in self.operations:
            for target, values in operation.successors:
                if value in target.arguments:
                    sources.append(values[target.arguments.index(value)])
            for number, region in enumerate(operation.regions):
                if not region.blocks or value not in region.blocks[0].arguments:
                    continue
                at = region.blocks[0].arguments.index(value)
                if operation.name == "scf.for" and at:
                    return [operation.operands[2 + at], region.block.terminator.operands[at - 1]]
                if operation.name == "scf.while" and number == 0:
                    return [operation.operands[at], operation.regions[1].block.terminator.operands[at]]
                if operation.name == "scf.while":
                    return [operation.regions[0].block.terminator.operands[1 + at]]
                return None
        return sources or None

    def of_program(self, value: ttir.Value) -> bool | None:
        """Whether a value follows from the program's number: None where it follows from numbers in memory as well."""
        if value not in self._of_program:
            operation = value.operation
            found: bool | None = False
            if operation is not None and operation.name == "tt.get_program_id":
                found = True
            elif operation is not None and not is_pointer(value) and operation.name in ("tt.load", *WRITES):
                found = None
            elif operation is not None:
                known = [self.of_program(x) for x in operation.operands]
                found = None if None in known else True in known
            self._of_program[value] = found
        return self._of_program[value]

    def writes_in(self, operations: Iterable[ttir.Operation]) -> list[ttir.Operation]:
        """Those that write memory."""
        return [operation for operation in operations if operation.name in WRITES]

    # -- strides -------------------------------------------------------------------------------------------------------

    def stride(self, value: ttir.Value, dim: int) -> int | None:
        """By how much neighbours in a dim of an integer or pointer tile differ, where that is known now.

        An index that wraps (``%``) counts as if it did not.
        """
        if (value, dim) not in self._strides:
            self._strides[value, dim] = self._find_stride(value, dim)
        return self._strides[value, dim]

    def _find_stride(self, value: ttir.Value, dim: int) -> int | None:
        shape = shape_of(value)
        if not shape or shape[dim] == 1:
            return 0
        operation = value.operation
        if operation is None:
            sources = self._argument_sources(value)  # a carried tile is its initial value, moved
            return self.stride(sources[0], dim) if sources else None
        name, operands = operation.name, operation.operands
        if name == "arith.constant" or name == "tt.splat":
            return 0
        if name == "tt.make_range":
            return 1
        if name == "tt.expand_dims":
            axis = int(operation.attributes["axis"])
            return 0 if dim == axis else self.stride(operands[0], dim - (dim > axis))
        if name == "tt.broadcast":
            return self.stride(operands[0], dim)
        if name == "tt.trans":
            return self.stride(operands[0], permutation(operation)[dim])
        if name == "tt.reshape":
            dims = unit_dims(shape_of(operands[0]), shape)
            return self.stride(operands[0], dims.index(dim)) if dims and dim in dims else (0 if dims else None)
        if name in ("arith.extsi", "arith.remsi", "arith.remui", "tt.bitcast"):
            return self.stride(operands[0], dim)
        if name == "scf.for":
            return self.stride(operation.operands[3 + value.index], dim)
        if name in ("arith.addi", "arith.subi", "tt.addptr", "arith.muli"):
            a, b = (self.stride(x, dim) for x in operands)
            if name != "arith.muli":
                return None if a is None or b is None else a - b if name == "arith.subi" else a + b
            if a == 0 and b == 0:
                return 0
            for x, other in ((operands[0], b), (operands[1], a)):
                factor = constant_of(x)
                if factor is not None and other is not None:
                    return other * factor
        return None

    def distinct(self, pointers: ttir.Value) -> bool:
        """Whether no two elements of a tile of pointers are known to be able to coincide: its strides are constants
        that nest, as a row-major array's do."""
        known = []
        for dim, size in enumerate(shape_of(pointers)):
            if size == 1:
                continue
            stride = None if self._wraps(pointers) else self.stride(pointers, dim)
            if not stride:
                return False
            known.append((abs(stride), size))
        reach = 0
        for stride, size in sorted(known):
            if stride <= reach:
                return False
            reach += stride * (size - 1)
        return True

    def _wraps(self, pointers: ttir.Value) -> bool:
        return any(v.operation is not None and v.operation.name in ("arith.remsi", "arith.remui")
                   for v in self.closure(pointers))  # fmt: skip


def constant_of(value: ttir.Value) -> int | None:
    """The integer that a constant (scalar, or the same in every element) is."""
    operation = value.operation
    if operation is not None and operation.name == "tt.splat":
        return constant_of(operation.operands[0])
    if operation is None or operation.name != "arith.constant":
        return None
    number = operation.attributes["value"]
    if isinstance(number, ttir.Dense):
        if not number.splat:
            return None
        number = number.values[0]
    return int(number) if isinstance(number, int) else None
