"""What one test before a nest can settle for a whole tile: masks that are true everywhere, indices that do not wrap.

The indices of most kernels are sums of ranges times uniform strides. Of such a tile the least and the greatest element
follow from a few scalar instructions. A nest whose masks compare such indices with bounds is generated twice: for tiles
that lie within the bounds, where the masks are true and ``index % size`` is the index less a multiple of the size,
hence contiguous in memory; and for those at the edge.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tensorlib.runtime.native import llvm, ttir
from tensorlib.runtime.native.analysis import STRUCTURAL, is_tile, permutation, shape_of, unit_dims
from tensorlib.runtime.native.tiles import Pointers, Uniform, integer

if TYPE_CHECKING:
    from tensorlib.runtime.native.nest import Nests

#: a 64-bit scalar is taken to be smaller than this, and the test says whether it is
_SMALL = 1 << 40
_LIMIT = 1 << 62
_MOVES = STRUCTURAL - {"tt.splat"}
#: predicate -> (whether the operands change places, whether equality will do, whether it is of unsigned numbers)
_ORDERS = {
    "slt": (False, False, False), "sle": (False, True, False), "sgt": (True, False, False), "sge": (True, True, False),
    "ult": (False, False, True), "ule": (False, True, True), "ugt": (True, False, True), "uge": (True, True, True),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Form:
    """``base + sum(stride * index)`` over an integer tile's dims, in integers that do not wrap (i64, |x| <= bound)."""

    base: Uniform
    strides: tuple[Uniform, ...]
    bound: int


@dataclasses.dataclass
class Inside:
    """What holds of a tile where ``conditions`` do: which tiles are true, and what indices that wrap are less by."""

    conditions: list[Uniform] = dataclasses.field(default_factory=list)
    certain: set[ttir.Value] = dataclasses.field(default_factory=set)
    unwrapped: dict[ttir.Value, Uniform] = dataclasses.field(default_factory=dict)


class _Never(Exception):
    """What was asked for is known to be false."""


class Bounds:
    """The search for such tiles below some that a nest evaluates. Emits scalar instructions at level 0."""

    def __init__(self, nests: Nests) -> None:
        self.nests = nests
        self.code = nests.code
        self.inside = Inside()
        self._forms: dict[ttir.Value, Form | None] = {}

    def search(self, values: Sequence[ttir.Value]) -> Inside:
        """What can be settled for the tiles that evaluating ``values`` comes upon."""
        for value in self.nests.closure(values):
            if value in self.nests.buffers or not is_tile(value) or value.operation is None:
                continue
            operation = value.operation
            if operation.name == "tt.load" and self.nests.analysis.lazy(operation):
                for mask in operation.operands[1:2]:
                    self.mask(mask)
            elif operation.name in ("arith.remsi", "arith.remui"):
                self._attempt(functools.partial(self._has_form, value))
        return self.inside

    def mask(self, mask: ttir.Value) -> None:
        """Looks for comparisons with bounds among what a mask is made of."""
        for value in self._comparisons(mask):
            if value not in self.inside.certain and self._attempt(functools.partial(self._compare, value)):
                self.inside.certain.add(value)

    def place(self, pointers: ttir.Value, masks: Sequence[ttir.Value]) -> tuple[Uniform, tuple[Uniform, ...]] | None:
        """The address of the first element of a tile of pointers and its strides, if no mask cuts it: elements of an
        array. None where it is nothing of the kind."""
        found: list[tuple[Uniform, tuple[Uniform, ...]]] = []

        def search() -> bool:
            for mask in masks:
                self.mask(mask)
                if not self._true(mask):
                    return False
            place = self._pointers(pointers)
            if place is not None:
                found.append(place)
            return bool(found)

        return found[0] if self._attempt(search) else None

    def apart(self, pairs: Sequence[tuple[ttir.Value, ttir.Value]]) -> list[Uniform] | None:
        """What has to hold for no two tiles of pointers of a pair to meet; None where that cannot be said."""

        def search() -> bool:
            for a, b in pairs:
                first, second = self._extent(a), self._extent(b)
                if first is None or second is None:
                    return False
                code = self.code
                before, after = code.compare("ule", first[1], second[0]), code.compare("ule", second[1], first[0])
                self.inside.conditions.append(code.scalar(code.binary("or", before, after)))
            return True

        return self.inside.conditions if self._attempt(search) else None

    def _extent(self, pointers: ttir.Value) -> tuple[Uniform, Uniform] | None:
        """The addresses from which and up to which a tile of pointers leads."""
        place = self._pointers(pointers)
        if place is None:
            return None
        code, size = self.code, llvm.SIZES[self.nests.element(pointers)]
        origin = code.scalar(code.cast("ptrtoint", place[0], "i64"))
        form = Form(integer(0), place[1], 0)
        low, high = (self._edge(pointers, form, greatest) for greatest in (False, True))
        first = code.scalar(code.add(origin, code.multiply(low, integer(size))))
        last = code.scalar(code.add(origin, code.multiply(high, integer(size))))
        return first, code.scalar(code.add(last, integer(size)))

    def _true(self, mask: ttir.Value) -> bool:
        """Whether a mask is true everywhere, under the conditions."""
        operation = mask.operation
        if mask in self.inside.certain:
            return True
        if operation is None or mask in self.nests.buffers:
            return False
        if operation.name == "arith.andi" or operation.name in _MOVES:
            return all(self._true(x) for x in operation.operands)
        if operation.name == "arith.constant":
            value = operation.attributes["value"]
            return value.splat and bool(value.values[0]) if isinstance(value, ttir.Dense) else bool(value)
        return False

    def _pointers(self, value: ttir.Value) -> tuple[Uniform, tuple[Uniform, ...]] | None:
        nests, code, shape = self.nests, self.code, shape_of(value)
        moved, operation = nests.moved.get(value), value.operation
        if moved is not None:
            source = self._pointers(moved.source)
            return None if source is None else (self._displaced(value, source[0], moved.offset), source[1])
        if value in nests.buffers or operation is None or not nests.analysis.lazy(operation):
            return None
        if operation.name == "tt.splat":
            scalar = nests.scalars.get(operation.operands[0])
            if not (isinstance(scalar, Uniform) or (
                isinstance(scalar, Pointers) and isinstance(scalar.base, Uniform) and isinstance(scalar.offset, Uniform)
            )):  # fmt: skip
                return None
            return code.scalar(scalar), (integer(0),) * len(shape)
        if operation.name == "tt.addptr":
            source, offset = self._pointers(operation.operands[0]), self.form(operation.operands[1])
            if source is None or offset is None:
                return None
            self._fits(operation.operands[1], offset)
            strides = tuple(code.scalar(code.add(s, t)) for s, t in zip(source[1], offset.strides, strict=True))
            return self._displaced(value, source[0], offset.base), strides
        if operation.name in _MOVES:
            source = self._pointers(operation.operands[0])
            strides_moved = None if source is None else self._moved_strides(operation, source[1])
            return None if source is None or strides_moved is None else (source[0], strides_moved)
        return None

    def _displaced(self, value: ttir.Value, base: Uniform, offset: Uniform) -> Uniform:
        if offset.constant == 0:
            return base
        element = self.nests.element(value)
        text = self.code.pure(0, f"getelementptr {element}, ptr {base.text}, i64 {offset.text}")
        return Uniform(text, "ptr")

    def _attempt(self, search: Callable[[], bool]) -> bool:
        """Runs a search; what it asks for is asked for only if it succeeds."""
        inside, forms = self.inside, dict(self._forms)
        before = Inside(list(inside.conditions), set(inside.certain), dict(inside.unwrapped))
        try:
            if search():
                return True
        except _Never:
            pass
        self.inside, self._forms = before, forms
        return False

    def _comparisons(self, value: ttir.Value) -> Iterator[ttir.Value]:
        operation = value.operation
        if operation is None or not is_tile(value) or value in self.nests.buffers:
            return
        if operation.name == "arith.cmpi":
            yield value
        elif operation.name == "arith.andi" or operation.name in _MOVES:
            for x in operation.operands:
                yield from self._comparisons(x)

    def _compare(self, value: ttir.Value) -> bool:
        operation = value.operation
        assert operation is not None
        order = _ORDERS.get(operation.attributes["predicate"])
        if order is None:
            return False
        swap, equal, unsigned = order
        a, b = operation.operands[::-1] if swap else operation.operands
        low, high = self.form(a), self.form(b)
        if low is None or high is None:
            return False
        for tile, form in ((a, low), (b, high)):
            self._fits(tile, form, unsigned)
        self._ask("sle" if equal else "slt", self._edge(a, low, greatest=True), self._edge(b, high, greatest=False))
        return True

    def _ask(self, predicate: str, a: Uniform, b: Uniform) -> None:
        if a.constant is not None and b.constant is not None:
            if a.constant > b.constant or (a.constant == b.constant and predicate == "slt"):
                raise _Never
            return
        self.inside.conditions.append(self.code.scalar(self.code.compare(predicate, a, b)))

    def _fits(self, value: ttir.Value, form: Form, nonnegative: bool = False) -> None:
        """Asks that a tile's numbers do not wrap in their own type."""
        bits = llvm.BITS[llvm.type_of(value.type)]
        if nonnegative:
            self._ask("sle", integer(0), self._edge(value, form, greatest=False))
        if bits < 64 and form.bound > (1 << (bits - 1)) - 1:
            self._ask("sle", integer(-1 << (bits - 1)), self._edge(value, form, greatest=False))
            self._ask("sle", self._edge(value, form, greatest=True), integer((1 << (bits - 1)) - 1))

    def _narrowed(self, value: ttir.Value, form: Form) -> Form:
        """A form that is asked to fit in its own type, 32 bits or fewer, and what its negative is as well."""
        bits = llvm.BITS[llvm.type_of(value.type)]
        most = (1 << (bits - 1)) - 1
        if bits > 32 or form.bound <= most:
            return form
        self._ask("sle", integer(-most), self._edge(value, form, greatest=False))
        self._ask("sle", self._edge(value, form, greatest=True), integer(most))
        return Form(form.base, form.strides, most)

    def _edge(self, value: ttir.Value, form: Form, greatest: bool) -> Uniform:
        """The least or greatest number of a tile."""
        code, total = self.code, form.base
        for stride, size in zip(form.strides, shape_of(value) or (), strict=False):
            reach = code.scalar(code.multiply(stride, integer(size - 1)))
            if reach.constant is None:
                reach = code.scalar(code.intrinsic("smax" if greatest else "smin", [reach, integer(0)]))
            elif (reach.constant > 0) != greatest:
                continue
            total = code.scalar(code.add(total, reach))
        return total

    # -- forms ---------------------------------------------------------------------------------------------------------

    def _has_form(self, value: ttir.Value) -> bool:
        return self.form(value) is not None

    def form(self, value: ttir.Value) -> Form | None:
        """An integer tile (or scalar) as base and strides; None where it is nothing of the kind."""
        if value not in self._forms:
            found = self._find(value)
            self._forms[value] = found if found is not None and found.bound < _LIMIT else None
        return self._forms[value]

    def _scalar(self, value: ttir.Value) -> Form | None:
        number = self.nests.scalars.get(value)
        if not isinstance(number, Uniform) or number.type not in ("i8", "i16", "i32", "i64"):
            return None
        wide = self.code.scalar(self.code.widen(number))
        if wide.constant is not None:
            return Form(wide, (), abs(wide.constant)) if abs(wide.constant) < _SMALL else None
        if number.type == "i64":
            self._ask("slt", wide, integer(_SMALL))
            self._ask("slt", integer(-_SMALL), wide)
            return Form(wide, (), _SMALL)
        return Form(wide, (), 1 << (llvm.BITS[number.type] - 1))

    def _find(self, value: ttir.Value) -> Form | None:
        if not is_tile(value):
            return self._scalar(value)
        nests, code, shape = self.nests, self.code, shape_of(value)
        zeros = (integer(0),) * len(shape)
        moved = nests.moved.get(value)
        if moved is not None:
            source = self.form(moved.source)
            if source is None or moved.offset.type == "i64":
                return None
            base = code.scalar(code.add(source.base, code.widen(moved.offset)))
            return Form(base, source.strides, source.bound + (1 << 31))
        operation = value.operation
        if value in nests.buffers or operation is None or not nests.analysis.lazy(operation):
            return None
        match operation.name:
            case "arith.constant":
                number = operation.attributes["value"]
                if isinstance(number, ttir.Dense):
                    if not number.splat:
                        return None
                    number = number.values[0]
                if not isinstance(number, int) or isinstance(number, bool) or abs(number) >= _SMALL:
                    return None
                return Form(integer(number), zeros, abs(number))
            case "tt.make_range":
                start, end = (int(operation.attributes[name]) for name in ("start", "end"))
                return Form(integer(start), (integer(1),), max(abs(start), abs(end)))
            case "tt.splat":
                scalar = self.form(operation.operands[0])
                return None if scalar is None else Form(scalar.base, zeros, scalar.bound)
            case "tt.expand_dims" | "tt.broadcast" | "tt.trans" | "tt.reshape":
                return self._moved(operation)
            case "arith.extsi":
                source = self.form(operation.operands[0])
                if source is not None:
                    self._fits(operation.operands[0], source)
                return source
            case "arith.addi" | "arith.subi" | "arith.muli":
                return self._arithmetic(operation)
            case "arith.remsi" | "arith.remui":
                return self._remainder(operation)
        return None

    def _moved(self, operation: ttir.Operation) -> Form | None:
        source = self.form(operation.operands[0])
        strides = None if source is None else self._moved_strides(operation, source.strides)
        return None if source is None or strides is None else Form(source.base, strides, source.bound)

    def _moved_strides(self, operation: ttir.Operation, given: Sequence[Uniform]) -> tuple[Uniform, ...] | None:
        """The strides of a structural operation's result, of its operand's."""
        shape = shape_of(operation.operands[0])
        strides = [integer(0) if size == 1 else s for s, size in zip(given, shape, strict=True)]
        match operation.name:
            case "tt.expand_dims":
                strides.insert(int(operation.attributes["axis"]), integer(0))
            case "tt.trans":
                strides = [strides[dim] for dim in permutation(operation)]
            case "tt.reshape":
                dims = unit_dims(shape, shape_of(operation.result))
                if dims is None:
                    return None
                strides = [strides[dims.index(d)] if d in dims else integer(0)
                           for d in range(len(shape_of(operation.result)))]  # fmt: skip
        return tuple(strides)

    def _arithmetic(self, operation: ttir.Operation) -> Form | None:
        a, b = (self.form(x) for x in operation.operands)
        if a is None or b is None:
            return None
        code = self.code
        if operation.name == "arith.muli":
            if a.bound * b.bound >= _LIMIT:
                a, b = (self._narrowed(x, form) for x, form in zip(operation.operands, (a, b), strict=True))
            if any(s.constant != 0 for s in a.strides):
                a, b = b, a
            if any(s.constant != 0 for s in a.strides) or a.bound * b.bound >= _LIMIT:
                return None
            strides = tuple(code.scalar(code.multiply(s, a.base)) for s in b.strides)
            return Form(code.scalar(code.multiply(a.base, b.base)), strides, a.bound * b.bound)
        instruction = "add" if operation.name == "arith.addi" else "sub"
        strides = tuple(code.scalar(code.binary(instruction, s, t)) for s, t in zip(a.strides, b.strides, strict=True))
        return Form(code.scalar(code.binary(instruction, a.base, b.base)), strides, a.bound + b.bound)

    def _remainder(self, operation: ttir.Operation) -> Form | None:
        """x % m, where x stays between two multiples of m: x less the lower one."""
        x, m = operation.operands
        index, size = self.form(x), self.form(m)
        if index is None or size is None or any(s.constant != 0 for s in size.strides):
            return None
        code = self.code
        low, high = self._edge(x, index, greatest=False), self._edge(x, index, greatest=True)
        self._fits(x, index, nonnegative=True)
        self._fits(m, size)
        self._ask("slt", integer(0), size.base)
        divisor = code.scalar(code.intrinsic("smax", [size.base, integer(1)]))
        start = code.scalar(code.binary("urem", low, divisor))
        extent = code.scalar(code.add(start, code.binary("sub", high, low)))
        self._ask("slt", extent, divisor)
        less = code.scalar(code.binary("sub", low, start))
        type = llvm.type_of(x.type)
        self.inside.unwrapped[operation.result] = code.scalar(code.cast("trunc", less, type))
        return Form(code.scalar(code.binary("sub", index.base, less)), index.strides, size.bound)
