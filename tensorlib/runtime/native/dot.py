"""Products of tiles in LLVM IR: c += a @ b in blocks of registers.

`function` is one product of an (M, K) tile by a (K, N) tile. A block of rows of c and of vectors of its columns stays
in registers while k runs, so each element is accumulated in the order of k, each step rounded once, whatever the
machine: the result does not depend on the width of its vectors. float16 and bfloat16 operands are widened exactly.
AVX512-BF16's instruction is left alone: it flushes denormals, adds pairs in an order of its own, and is no faster.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.formula import Formula, Function, Value, fma, select
from tensorlib.runtime.native.machine import Features

#: accumulator -> (the type that is multiplied, operands that it takes)
PRODUCTS = {
    "float": ("float", ("float", "half", "bfloat")),
    "half": ("float", ("half", "bfloat", "float")),
    "bfloat": ("float", ("bfloat", "half", "float")),
    "double": ("double", ("double", "float")),
    "i32": ("i32", ("i8", "i32")),
}


#: Rows of a for which it pays to copy b
_MANY_ROWS = 32


class Block(NamedTuple):
    """What one pass over k keeps in registers: rows x (vectors * lanes) of c."""

    rows: int
    vectors: int
    lanes: int


def block(M: int, N: int, type: str, machine: Features) -> Block:
    """Six rows of four vectors with 32 registers (AVX-512, NEON), of two with 16.

    24 sums, or 12, hide an FMA's latency and leave registers for b and an element of a. Fewer vectors load more of a
    for each product, so then more rows are taken.
    """
    lanes = max(1, min(N, machine.lanes * 4 // llvm.SIZES[type]))
    many = machine.lanes == 16 or machine.architecture == "aarch64"
    vectors = min(4 if many else 2, N // lanes)
    return Block(min((24 if many else 12) // vectors, 16, M), vectors, lanes)


@functools.cache
def function(a: str, b: str, c: str, M: int, N: int, K: int, machine: Features) -> Function:
    """``void @tl.dot…(ptr a, i64 stride_am, i64 stride_ak, ptr b, i64 stride_bk, ptr c, i64 stride_cm)``: c += a @ b.

    Strides count elements; the columns of b and of c are contiguous; c overlaps neither a nor b.
    UnsupportedError names types that it does not take.
    """
    product, operands = PRODUCTS.get(c, ("", ()))
    if a not in operands or b not in operands:
        raise UnsupportedError(f"native: no product of {a} by {b} into {c}")
    kernel = _Kernel
    if (a, b) == ("i8", "i8"):
        kernel = next((k for k in (_DotOfUnsigned, _DotOfSigned, _SumOfTwo) if k.fits(N, K, machine)), _Kernel)
    elif product == "float" and (a, b) != ("float", "float") and (M + N) * K <= _MOST_WIDENED and M > 2:
        kernel = _Widened
    elif a == b == product in llvm.FLOATS and M >= _MANY_ROWS:
        kernel = _Packed
    return kernel(f"@tl.dot.{a}.{b}.{c}.{M}x{N}x{K}", a, b, c, product, M, N, K, machine).function()


@functools.cache
def pack(source: str, target: str, rows: int, columns: int, machine: Features) -> Function:
    """``void @tl.pack…(ptr source, i64 stride_r, i64 stride_c, ptr out)``: a tile of any strides made row-major.

    To `target`, float16 and bfloat16 are widened and int8 is sign-extended: what `function` wants of b.
    """
    f = Formula(f"@tl.pack.{source}.{target}.{rows}x{columns}", 1, machine)
    _copy(f, "a", source, rows, columns, target)
    arguments = "ptr noalias %a, i64 %stride_am, i64 %stride_ak, ptr noalias %a.packed"
    return _definition(f, arguments, ("ptr", "i64", "i64", "ptr"))


def _definition(f: Formula, arguments: str, types: tuple[str, ...]) -> Function:
    head = f"define internal void {f.symbol}({arguments}) noinline nounwind {{\nentry:"
    text = "\n".join([head, *(f"  {line}" for line in f.lines), "  ret void", "}"]) + "\n"
    return Function(f.symbol, text, tuple(sorted(f.declarations)), types)


_ARGUMENTS = (
    "ptr noalias %a, i64 %stride_am, i64 %stride_ak, ptr noalias %b, i64 %stride_bk, ptr noalias %c, i64 %stride_cm"
)


class _Kernel:
    """The loops: panels of columns, blocks of rows, k."""

    def __init__(
        self, symbol: str, a: str, b: str, c: str, product: str, M: int, N: int, K: int, machine: Features
    ) -> None:
        self.a, self.b, self.c, self.product, self.M, self.N, self.K = a, b, c, product, M, N, K
        self.block = block(M, N, product, machine)
        self.formula = Formula(symbol, self.block.lanes, machine)
        self.steps = K  #: of the innermost loop
        self.rows_of_a, self.stride_am, self.stride_ak = "%a", "%stride_am", "%stride_ak"
        self.rows_of_b, self.stride_bk = "%b", "%stride_bk"
        self.word = a  #: what one step takes of a row of a

    def function(self) -> Function:
        """The definition."""
        f, rows = self.formula, self.block.rows
        self._prepare()
        with_columns = _Loop(f, "j", 0, self.N, self.block.vectors * self.block.lanes)
        self._panel(with_columns.index)
        whole = self.M - self.M % rows
        for first, last, count in ((0, whole, rows), (whole, self.M, self.M - whole)):
            if count:
                with_rows = _Loop(f, f"i{first}", first, last, count)
                self._rows(with_rows.index, with_columns.index, count, f"k{first}")
                with_rows.close()
        with_columns.close()
        return _definition(f, _ARGUMENTS, ("ptr", "i64", "i64", "ptr", "i64", "ptr", "i64"))

    def _prepare(self) -> None:
        """What comes before the loops."""

    def _panel(self, j: str) -> None:
        """What comes before the loop over rows: where the panel of b is that begins at column j."""
        self.panel = _element(self.formula, self.b, self.rows_of_b, j)

    def _rows(self, i: str, j: str, rows: int, label: str) -> None:
        """One block of c, from memory to memory."""
        f, lanes = self.formula, self.block.lanes
        places: list[str] = []
        pointers: list[str] = []
        for row in range(rows):
            at = _scalar(f, f"add i64 {i}, {row}")
            offset = _scalar(f, f"mul i64 {at}, {self.stride_am}")
            pointers.append(_element(f, self.a, self.rows_of_a, offset))
            offset = _scalar(f, f"mul i64 {at}, %stride_cm")
            first = _scalar(f, f"add i64 {offset}, {j}")
            places += [
                _element(f, self.c, "%c", _scalar(f, f"add i64 {first}, {v * lanes}"))
                for v in range(self.block.vectors)
            ]
        sums = self._first([self._load(place, self.c) for place in places], j)
        loop = _Loop(f, label, 0, self.steps, 1, sums)
        sums = self._step(loop.index, pointers, self.panel, loop.values)
        loop.close(sums)
        for place, found in zip(places, sums, strict=True):
            rounded = _narrowed(found, self.c)
            f.lines.append(f"store {f.of_type(rounded.type)} {rounded.text}, ptr {place}, align {llvm.SIZES[self.c]}")

    def _first(self, sums: list[Value], j: str) -> list[Value]:
        """What the sums begin with, of what c holds."""
        return sums

    def _step(self, k: str, pointers: list[str], columns: str, sums: list[Value]) -> list[Value]:
        """The sums with the products of one step added."""
        f, lanes, vectors = self.formula, self.block.lanes, self.block.vectors
        row = _element(f, self.b, columns, _scalar(f, f"mul i64 {k}, {self.stride_bk}"))
        b = [self._load(_element(f, self.b, row, str(v * lanes)), self.b) for v in range(vectors)]
        offset = _scalar(f, f"mul i64 {k}, {self.stride_ak}")
        found = []
        for r, pointer in enumerate(pointers):
            a = self._spread(_loaded(f, self.word, _element(f, self.word, pointer, offset), self.product, self.a))
            found += [self._add(sums[r * vectors + v], a, b[v]) for v in range(vectors)]
        return found

    def _spread(self, word: str) -> Value:
        """What one step takes of a row of a, in every lane."""
        return self.formula.everywhere(word, self.product)

    def _add(self, sum: Value, a: Value, b: Value) -> Value:
        """sum + a * b."""
        return fma(a, b, sum) if a.floating else sum + a * b

    def _load(self, place: str, type: str) -> Value:
        """A vector from memory, in the type that is multiplied."""
        f = self.formula
        x = f.emit(f"load {f.of_type(type)}, ptr {place}, align {llvm.SIZES[type]}", type)
        return x if type == self.product else x.cast(_widening(type), self.product)


class _Packed(_Kernel):
    """Each panel of b is copied together first, where it is not yet: rows of b a power of two apart displace each other
    from the first cache, and each is read once for every block of rows of c."""

    def _prepare(self) -> None:
        f, width = self.formula, self.block.vectors * self.block.lanes
        f.lines += [
            f"%panel.packed = alloca {self.b}, i64 {self.K * width}, align 64",
            f"%panel.far = icmp ugt i64 %stride_bk, {self.N}",
            f"%panel.stride = select i1 %panel.far, i64 {width}, i64 %stride_bk",
        ]
        self.stride_bk = "%panel.stride"

    def _panel(self, j: str) -> None:
        f, lanes = self.formula, self.block.lanes
        place = _element(f, self.b, self.rows_of_b, j)
        f.lines += ["br i1 %panel.far, label %panel.copy, label %panel.done", "panel.copy:"]
        rows = _Loop(f, "panel.k", 0, self.K, 1)
        row = _element(f, self.b, place, _scalar(f, f"mul i64 {rows.index}, %stride_bk"))
        out = _element(
            f, self.b, "%panel.packed", _scalar(f, f"mul i64 {rows.index}, {self.block.vectors * lanes}")
        )
        for v in range(self.block.vectors):
            x = self._load(_element(f, self.b, row, str(v * lanes)), self.b)
            to = _element(f, self.b, out, str(v * lanes))
            f.lines.append(f"store {f.of_type(self.b)} {x.text}, ptr {to}, align {llvm.SIZES[self.b]}")
        rows.close()
        f.lines += ["br label %panel.done", "panel.done:"]
        self.panel = _scalar(f, f"select i1 %panel.far, ptr %panel.packed, ptr {place}")


#: Elements of float32 that are put on the stack, of which a thread may have little: 256 KiB
_MOST_WIDENED = 65536


class _Widened(_Kernel):
    """float16 and bfloat16 as float32 on the stack first, instead of at every use."""

    def _prepare(self) -> None:
        f = self.formula
        if self.a != "float":
            f.lines.append(f"%a.packed = alloca float, i64 {self.M * self.K}, align 64")
            _copy(f, "a", self.a, self.M, self.K, "float")
            self.rows_of_a, self.stride_am, self.stride_ak, self.a = "%a.packed", str(self.K), "1", "float"
            self.word = self.a
        if self.b != "float":
            f.lines.append(f"%b.packed = alloca float, i64 {self.K * self.N}, align 64")
            _copy_rows(f, "b", self.b, self.K, self.N, "float", "%stride_bk")
            self.rows_of_b, self.stride_bk, self.b = "%b.packed", str(self.N), "float"


class _Grouped(_Kernel):
    """int8 by instructions that add several products to a lane at once: words of int32 hold `group` elements of one k.

    b is packed into such words first, and a where its rows are not contiguous. Sums are exact modulo 2**32.
    """

    group = 4

    @classmethod
    def fits(cls, N: int, K: int, machine: Features) -> bool:
        """Whether the processor has the instruction, for whole words and vectors of at least 128 bits."""
        return K % cls.group == 0 and N >= 4 and cls.available(machine)

    @classmethod
    def available(cls, machine: Features) -> bool:
        """Whether the processor has the instruction."""
        raise AssertionError(machine)

    def _prepare(self) -> None:
        self.steps = self.K // self.group
        self._pack_a()
        self._pack_b()
        self.word, self.b = "i32", "i32"
        self.stride_ak, self.stride_bk, self.rows_of_b = "1", str(self.N), "%b.packed"

    def _pack_a(self) -> None:
        """Rows are read in words, so a's own if they are contiguous, or a copy."""
        f = self.formula
        f.lines.append(f"%a.packed = alloca i8, i64 {self.M * self.K}, align 64")
        _copy(f, "a", "i8", self.M, self.K, "i8", scattered=True)
        f.lines += [
            "%a.rows = select i1 %a.contiguous, ptr %a, ptr %a.packed",
            f"%a.stride = select i1 %a.contiguous, i64 %stride_am, i64 {self.K}",
        ]
        self.rows_of_a, self.stride_am = "%a.rows", "%a.stride"

    def _pack_b(self) -> None:
        f = self.formula
        f.lines.append(f"%b.packed = alloca i32, i64 {self.steps * self.N}, align 64")
        columns = _Loop(f, "packed.j", 0, self.N, self.block.lanes)
        groups = _Loop(f, "packed.k", 0, self.steps, 1)
        first = _scalar(f, f"mul i64 {groups.index}, {self.group}")
        word = f.constant(0, "i32")
        for n in range(self.group):
            offset = _scalar(f, f"mul i64 {_scalar(f, f'add i64 {first}, {n}')}, %stride_bk")
            place = _element(f, "i8", "%b", _scalar(f, f"add i64 {offset}, {columns.index}"))
            x = f.emit(f"load {f.of_type('i8')}, ptr {place}, align 1", "i8").to("i32")
            bits = 32 // self.group
            word = word | ((x & ((1 << bits) - 1)) << (bits * n))
        f.lines.append(
            f"store {f.of_type('i32')} {word.text}, ptr {self._packed(groups.index, columns.index)}, align 4"
        )
        groups.close()
        columns.close()

    def _packed(self, group: str, j: str) -> str:
        """Where b's words of a group and of columns from j on are."""
        row = _scalar(self.formula, f"mul i64 {group}, {self.N}")
        return _element(self.formula, "i32", "%b.packed", _scalar(self.formula, f"add i64 {row}, {j}"))

    def _call(self, symbol: str, part: str, *values: Value) -> Value:
        """An instruction by its intrinsic, whose operands after the sum are words seen as vectors of `part`."""
        f = self.formula
        total = f.of_type("i32")
        count = f.lanes * 32 // llvm.BITS[part]
        types = [total] * (len(values) - 2) + [f"<{count} x {part}>"] * 2
        given = []
        for type, value in zip(types, values, strict=True):
            text = value.text
            if type != total:
                text = _scalar(f, f"bitcast {total} {text} to {type}")
            given.append(f"{type} {text}")
        f.declarations.add(f"declare {total} {symbol}({', '.join(types)})")
        return f.emit(f"call {total} {symbol}({', '.join(given)})", "i32")


class _DotOfUnsigned(_Grouped):
    """x86's VNNI, of unsigned bytes by signed ones: (a + 128) b, less the sums of 128 b, which are taken once."""

    @classmethod
    def available(cls, machine: Features) -> bool:
        """AVX-512's form of all widths, or AVX's of 128 and 256 bits."""
        wide = machine.has("avx512vnni") and (machine.has("avx512vl") or machine.lanes == 16)
        return machine.architecture == "x86_64" and (wide or (machine.has("avxvnni") and machine.lanes == 8))

    def _prepare(self) -> None:
        super()._prepare()
        f = self.formula
        f.lines.append(f"%b.sums = alloca i32, i64 {self.N}, align 64")
        columns = _Loop(f, "sums.j", 0, self.N, self.block.lanes)
        groups = _Loop(f, "sums.k", 0, self.steps, 1, [f.constant(0, "i32")])
        words = f.emit(f"load {f.of_type('i32')}, ptr {self._packed(groups.index, columns.index)}, align 4", "i32")
        found = self._add(groups.values[0], f.constant(-0x7F7F7F80, "i32"), words)
        groups.close([found])
        place = _element(f, "i32", "%b.sums", columns.index)
        f.lines.append(f"store {f.of_type('i32')} {found.text}, ptr {place}, align 4")
        columns.close()

    def _first(self, sums: list[Value], j: str) -> list[Value]:
        vectors = self.block.vectors
        place = _element(self.formula, "i32", "%b.sums", j)
        less = [
            self._load(_element(self.formula, "i32", place, str(v * self.block.lanes)), "i32") for v in range(vectors)
        ]
        return [sum - less[n % vectors] for n, sum in enumerate(sums)]

    def _spread(self, word: str) -> Value:
        return super()._spread(_scalar(self.formula, f"xor i32 {word}, {-0x7F7F7F80}"))

    def _add(self, sum: Value, a: Value, b: Value) -> Value:
        return self._call(f"@llvm.x86.avx512.vpdpbusd.{self.formula.lanes * 32}", "i8", sum, a, b)


class _DotOfSigned(_Grouped):
    """ARM's SDOT."""

    @classmethod
    def available(cls, machine: Features) -> bool:
        """ARMv8.2's dot products."""
        return machine.architecture == "aarch64" and machine.has("dotprod")

    def _add(self, sum: Value, a: Value, b: Value) -> Value:
        return self._call("@llvm.aarch64.neon.sdot.v4i32.v16i8", "i8", sum, a, b)


class _SumOfTwo(_Grouped):
    """x86's PMADDWD: the sum of two products of int16, which a and b are widened to."""

    group = 2

    @classmethod
    def available(cls, machine: Features) -> bool:
        """SSE2 has it, and every wider extension; AVX-512 in its byte and word part."""
        return machine.architecture == "x86_64" and (machine.lanes < 16 or machine.has("avx512bw"))

    def _pack_a(self) -> None:
        f = self.formula
        f.lines.append(f"%a.packed = alloca i16, i64 {self.M * self.K}, align 64")
        _copy(f, "a", "i8", self.M, self.K, "i16")
        self.rows_of_a, self.stride_am, self.a = "%a.packed", str(self.K), "i16"

    def _add(self, sum: Value, a: Value, b: Value) -> Value:
        symbol = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[self.formula.lanes]
        return sum + self._call(f"@llvm.x86.{symbol}", "i16", a, b)


def _copy(f: Formula, name: str, source: str, rows: int, columns: int, target: str, *, scattered: bool = False) -> None:
    """A tile of any strides, row-major into %<name>.packed; with `scattered` only if its columns are scattered."""
    f.lines += [
        f"%{name}.contiguous = icmp eq i64 %stride_{name}k, 1",
        f"br i1 %{name}.contiguous, label %{name}.together, label %{name}.scattered",
        f"{name}.together:",
    ]
    if not scattered:
        _copy_rows(f, name, source, rows, columns, target, f"%stride_{name}m")
    f.lines += [f"br label %{name}.copied", f"{name}.scattered:"]
    over_rows = _Loop(f, f"{name}.i", 0, rows, 1)
    row = _element(f, source, f"%{name}", _scalar(f, f"mul i64 {over_rows.index}, %stride_{name}m"))
    out = _element(f, target, f"%{name}.packed", _scalar(f, f"mul i64 {over_rows.index}, {columns}"))
    over_columns = _Loop(f, f"{name}.j", 0, columns, 1)
    place = _element(f, source, row, _scalar(f, f"mul i64 {over_columns.index}, %stride_{name}k"))
    x = _loaded(f, source, place, target)
    place = _element(f, target, out, over_columns.index)
    f.lines.append(f"store {target} {x}, ptr {place}, align {llvm.SIZES[target]}")
    over_columns.close()
    over_rows.close()
    f.lines += [f"br label %{name}.copied", f"{name}.copied:"]


def _copy_rows(f: Formula, name: str, source: str, rows: int, columns: int, target: str, stride: str) -> None:
    """The same where columns are contiguous, in vectors."""
    wide = f.of_lanes(min(columns, 16))
    over_rows = _Loop(f, f"{name}.rows", 0, rows, 1)
    row = _element(f, source, f"%{name}", _scalar(f, f"mul i64 {over_rows.index}, {stride}"))
    out = _element(f, target, f"%{name}.packed", _scalar(f, f"mul i64 {over_rows.index}, {columns}"))
    over_columns = _Loop(f, f"{name}.columns", 0, columns, wide.lanes)
    place = _element(f, source, row, over_columns.index)
    x = wide.emit(f"load {wide.of_type(source)}, ptr {place}, align {llvm.SIZES[source]}", source)
    x = x if source == target else x.cast(_widening(source), target)
    place = _element(f, target, out, over_columns.index)
    f.lines.append(f"store {wide.of_type(target)} {x.text}, ptr {place}, align {llvm.SIZES[target]}")
    over_columns.close()
    over_rows.close()


def _loaded(f: Formula, type: str, place: str, product: str, aligned: str = "") -> str:
    """One element from memory, aligned as `aligned` is, widened to the type that is multiplied."""
    x = _scalar(f, f"load {type}, ptr {place}, align {llvm.SIZES[aligned or type]}")
    return x if type == product else _scalar(f, f"{_widening(type)} {type} {x} to {product}")


def _narrowed(x: Value, type: str) -> Value:
    """Rounded to nearest even. bfloat16 as integers: the processors' own instruction flushes denormals."""
    if x.type == type:
        return x
    if type != "bfloat":
        return x.cast("fptrunc", type)
    bits = x.bits()
    rounded = (bits + ((bits.logical_shift(16) & 1) + 0x7FFF)).logical_shift(16)
    return select(x.is_nan(), 0x7FC0, rounded).cast("trunc", "i16")


def _widening(type: str) -> str:
    return "fpext" if type in llvm.FLOATS else "sext"


def _scalar(f: Formula, text: str) -> str:
    """The name of the result of an instruction on scalars."""
    name = f.name()
    f.lines.append(f"{name} = {text}")
    return name


def _element(f: Formula, type: str, base: str, offset: str) -> str:
    """The address of base[offset]."""
    return _scalar(f, f"getelementptr {type}, ptr {base}, i64 {offset}")


class _Loop:
    """``for index in range(first, last, step)`` with values that go round; `close` ends the body."""

    def __init__(self, f: Formula, name: str, first: int, last: int, step: int, values: Sequence[Value] = ()) -> None:
        self.f, self.name, self.last, self.step = f, name, last, step
        self.index = f"%{name}"
        f.lines += [f"br label %{name}.before", f"{name}.before:", f"br label %{name}.body", f"{name}.body:"]
        self._heads = [f"{self.index} = phi i64 [ {first}, %{name}.before ], [ {self.index}.next, %{name}.last ]"]
        self.values = [Value(f, f"%{name}.{n}", value.type) for n, value in enumerate(values)]
        self._first = [value.text for value in values]
        self._at = len(f.lines)

    def close(self, values: Sequence[Value] = ()) -> None:
        """Go round with these values; after the loop they are the last."""
        f, name = self.f, self.name
        for value, before, after in zip(self.values, self._first, values, strict=True):
            ways = f"[ {before}, %{name}.before ], [ {after.text}, %{name}.last ]"
            self._heads.append(f"{value.text} = phi {f.of_type(value.type)} {ways}")
        f.lines[self._at : self._at] = self._heads
        f.lines += [
            f"br label %{name}.last",
            f"{name}.last:",
            f"{self.index}.next = add i64 {self.index}, {self.step}",
            f"%{name}.more = icmp ult i64 {self.index}.next, {self.last}",
            f"br i1 %{name}.more, label %{name}.body, label %{name}.after",
            f"{name}.after:",
        ]
