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
_LINE = 64  #: bytes of a cache line


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
def function(
    a: str, b: str, c: str, M: int, N: int, K: int, machine: Features, ahead: bool = False
) -> Function:
    """``void @tl.dot…(ptr a, i64 stride_am, i64 stride_ak, ptr b, i64 stride_bk, ptr c, i64 stride_cm)``: c += a @ b.

    Strides count elements; the columns of b and of c are contiguous; c overlaps neither a nor b. ``ahead``: a and b are
    tiles of larger arrays, and the next ones along k will be wanted.
    UnsupportedError names types that it does not take.
    """
    product, operands = PRODUCTS.get(c, ("", ()))
    if a not in operands or b not in operands:
        raise UnsupportedError(f"native: no product of {a} by {b} into {c}")
    kernel = _Kernel
    if (a, b) == ("i8", "i8") and _Tiles.takes(M, N, K, machine):
        kernel = _Tiles
    elif (a, b) == ("i8", "i8"):
        kernel = next((k for k in (_DotOfUnsigned, _DotOfSigned, _SumOfTwo) if k.fits(N, K, machine)), _Kernel)
    elif product == "float" and (a, b) != ("float", "float") and (M + N) * K <= _MOST_WIDENED and M > 2:
        kernel = _Widened
    elif a == b == product in llvm.FLOATS and M >= _MANY_ROWS:
        kernel = _Packed
    ahead = ahead and kernel is _Packed
    symbol = f"@tl.dot.{a}.{b}.{c}.{M}x{N}x{K}" + ".ahead" * ahead
    made = kernel(symbol, a, b, c, product, M, N, K, machine)
    made.ahead = ahead
    return made.function()


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
        self.machine = machine
        self.block = block(M, N, product, machine)
        self.formula = Formula(symbol, self.block.lanes, machine)
        self.steps = K  #: of the innermost loop
        self.rows_of_a, self.stride_am, self.stride_ak = "%a", "%stride_am", "%stride_ak"
        self.rows_of_b, self.stride_bk = "%b", "%stride_bk"
        self.word = a  #: what one step takes of a row of a
        self.ahead = False  #: whether to ask for what comes next in memory

    def function(self) -> Function:
        """The definition."""
        f, rows = self.formula, self.block.rows
        self._prepare()
        with_columns = _Loop(f, "j", 0, self.N, self.block.vectors * self.block.lanes)
        self._panel(with_columns.index)
        whole = self.M - self.M % rows
        rest = self.M - whole
        if 0 < 2 * rest < rows <= whole and (rows + rest) % 2 == 0:  # too few to hide an FMA's latency
            whole, rest = whole - rows, (rows + rest) // 2
        for first, last, count in ((0, whole, rows), (whole, self.M, rest)):
            if first < last:
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
        if self.ahead:
            self._fetch_ahead(i, j, rows, pointers)
        sums = self._first([self._load(place, self.c) for place in places], j)
        loop = _Loop(f, label, 0, self.steps, 1, sums)
        sums = self._step(loop.index, pointers, self.panel, loop.values)
        loop.close(sums)
        for place, found in zip(places, sums, strict=True):
            rounded = _narrowed(found, self.c)
            f.lines.append(f"store {f.of_type(rounded.type)} {rounded.text}, ptr {place}, align {llvm.SIZES[self.c]}")

    def _fetch_ahead(self, i: str, j: str, rows: int, pointers: list[str]) -> None:
        """Asks for a part of what a and b hold further along k, where the next product of a loop mostly is. Rows that
        are far apart are not foreseen by the processor."""
        f, line, width = self.formula, _LINE // llvm.SIZES[self.a], self.block.vectors * self.block.lanes
        first = self._portion(j, self.N)  # of each row of a, in each panel
        for n in range(0, self.K * width // self.N, line):
            column = _scalar(f, f"mul i64 {_scalar(f, f'add i64 {first}, {n}')}, {self.stride_ak}")
            for pointer in pointers:
                self._fetch(_element(f, self.a, pointer, column))
        first = self._portion(i, self.M)  # of the panel's rows, for each block
        for n in range(-(-rows * self.K // self.M)):
            row = _scalar(f, f"mul i64 {_scalar(f, f'add i64 {first}, {n}')}, %stride_bk")
            place = _element(f, self.b, self.rows_of_b, _scalar(f, f"add i64 {row}, {j}"))
            for at in range(0, width, line):
                self._fetch(_element(f, self.b, place, str(at)))

    def _portion(self, index: str, size: int) -> str:
        """K and index / size of it."""
        product = _scalar(self.formula, f"mul i64 {index}, {self.K}")
        return _scalar(self.formula, f"add i64 {_scalar(self.formula, f'udiv i64 {product}, {size}')}, {self.K}")

    def _fetch(self, place: str) -> None:
        """Into the second cache: the first holds what is multiplied now."""
        self.formula.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.formula.lines.append(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 2, i32 1)")

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
        groups = _Loop(f, "packed.k", 0, self.steps, 1, self._no_sums())
        first = _scalar(f, f"mul i64 {groups.index}, {self.group}")
        rows = []
        for n in range(self.group):
            offset = _scalar(f, f"mul i64 {_scalar(f, f'add i64 {first}, {n}')}, %stride_bk")
            place = _element(f, "i8", "%b", _scalar(f, f"add i64 {offset}, {columns.index}"))
            rows.append(f.emit(f"load {f.of_type('i8')}, ptr {place}, align 1", "i8"))
        words = self._interleaved(rows)
        f.lines.append(
            f"store {f.of_type('i32')} {words.text}, ptr {self._packed(groups.index, columns.index)}, align 4"
        )
        sums = self._sums(groups.values, words)
        groups.close(sums)
        self._keep_sums(columns.index, sums)
        columns.close()

    def _interleaved(self, rows: Sequence[Value]) -> Value:
        """A word for each column, of what is below each other."""
        bits, word = 32 // self.group, self.formula.constant(0, "i32")
        for n, row in enumerate(rows):
            word = word | ((row.to("i32") & ((1 << bits) - 1)) << (bits * n))
        return word

    def _no_sums(self) -> list[Value]:
        """What is summed over the words of a column, before the first."""
        return []

    def _sums(self, sums: Sequence[Value], words: Value) -> list[Value]:
        """The same with one more word of each column."""
        return list(sums)

    def _keep_sums(self, j: str, sums: Sequence[Value]) -> None:
        """What is done with the sums of columns from j on."""

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


_PERMUTE = "@llvm.x86.avx512.permvar.qi.512"


class _Bytes(_Grouped):
    """Words of four bytes, as they are."""

    def _pack_b(self) -> None:
        f, self.order = self.formula, ""
        if f.lanes == 16 and f.has("avx512vbmi"):  # one instruction; LLVM would make several of an order that it sees
            order = llvm.lanes_of(self._order(), "i8")
            self.order = _scalar(f, f'call <64 x i8> asm "", "=v,0"(<64 x i8> {order})')
            f.declarations.add(f"declare <64 x i8> {_PERMUTE}(<64 x i8>, <64 x i8>)")
        super()._pack_b()

    def _order(self) -> list[int]:
        """Of four rows one after the other, where the bytes of each column are."""
        n = self.formula.lanes
        return [row * n + column for column in range(n) for row in range(4)]

    def _interleaved(self, rows: Sequence[Value]) -> Value:
        f, n = self.formula, self.formula.lanes
        pairs = []
        for x, y in (rows[:2], rows[2:]):
            order = llvm.lanes_of(range(2 * n), "i32")
            pairs.append(_scalar(f, f"shufflevector <{n} x i8> {x.text}, <{n} x i8> {y.text}, <{2 * n} x i32> {order}"))
        order = llvm.lanes_of(range(4 * n) if self.order else self._order(), "i32")
        pair, four = f"<{2 * n} x i8>", f"<{4 * n} x i8>"
        found = _scalar(f, f"shufflevector {pair} {pairs[0]}, {pair} {pairs[1]}, <{4 * n} x i32> {order}")
        if self.order:
            found = _scalar(f, f"call {four} {_PERMUTE}({four} {found}, {four} {self.order})")
        return f.emit(f"bitcast {four} {found} to {f.of_type('i32')}", "i32")


class _DotOfUnsigned(_Bytes):
    """x86's VNNI, of unsigned bytes by signed ones: (a + 128) b, less the sums of 128 b, which are taken once."""

    @classmethod
    def available(cls, machine: Features) -> bool:
        """AVX-512's form of all widths, or AVX's of 128 and 256 bits."""
        wide = machine.has("avx512vnni") and (machine.has("avx512vl") or machine.lanes == 16)
        return machine.architecture == "x86_64" and (wide or (machine.has("avxvnni") and machine.lanes == 8))

    def _pack_a(self) -> None:
        """All of it plus 128, which changes the highest bits."""
        f = self.formula
        f.lines.append(f"%a.packed = alloca i8, i64 {self.M * self.K}, align 64")
        _copy(f, "a", "i8", self.M, self.K, "i8", flip=-128)
        self.rows_of_a, self.stride_am = "%a.packed", str(self.K)

    def _pack_b(self) -> None:
        self.formula.lines.append(f"%b.sums = alloca i32, i64 {self.N}, align 64")
        super()._pack_b()

    def _no_sums(self) -> list[Value]:
        return [self.formula.constant(0, "i32")]

    def _sums(self, sums: Sequence[Value], words: Value) -> list[Value]:
        return [self._add(sums[0], self.formula.constant(-0x7F7F7F80, "i32"), words)]

    def _keep_sums(self, j: str, sums: Sequence[Value]) -> None:
        f = self.formula
        place = _element(f, "i32", "%b.sums", j)
        f.lines.append(f"store {f.of_type('i32')} {sums[0].text}, ptr {place}, align 4")

    def _first(self, sums: list[Value], j: str) -> list[Value]:
        vectors = self.block.vectors
        place = _element(self.formula, "i32", "%b.sums", j)
        less = [
            self._load(_element(self.formula, "i32", place, str(v * self.block.lanes)), "i32") for v in range(vectors)
        ]
        return [sum - less[n % vectors] for n, sum in enumerate(sums)]

    def _add(self, sum: Value, a: Value, b: Value) -> Value:
        return self._call(f"@llvm.x86.avx512.vpdpbusd.{self.formula.lanes * 32}", "i8", sum, a, b)


#: Linux grants a process the right to use tiles when it asks, by arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA):
#: for all its threads, and for children that are forked. The answer is kept: 0 not asked yet, 1 granted, 2 refused.
_CHOICE = """
@{name}.permission = internal global i32 0, align 4
define internal void @{name}({arguments}) nounwind {{
entry:
  %known = load atomic i32, ptr @{name}.permission monotonic, align 4
  %asked = icmp ne i32 %known, 0
  br i1 %asked, label %choose, label %ask
ask:
  %error = call i64 (i64, ...) @syscall(i64 158, i64 4131, i64 18)
  %granted = icmp eq i64 %error, 0
  %found = select i1 %granted, i32 1, i32 2
  store atomic i32 %found, ptr @{name}.permission monotonic, align 4
  br label %choose
choose:
  %state = phi i32 [ %known, %entry ], [ %found, %ask ]
  %permitted = icmp eq i32 %state, 1
  br i1 %permitted, label %tiles, label %vectors
tiles:
  call void @{name}.tiles({given})
  ret void
vectors:
  call void @{name}.vectors({given})
  ret void
}}
"""
_ROWS_OF_TILE, _BYTES_OF_TILE = 16, 64


class _Tiles(_Bytes):
    """x86's AMX: registers of 16 rows of 64 bytes, of which one instruction multiplies two and adds to a third. Four of
    c, and two each of a and b, are held. Where the system does not permit it, vectors take their place."""

    @classmethod
    def takes(cls, M: int, N: int, K: int, machine: Features) -> bool:
        """Whether the processor has it, under Linux, for whole tiles."""
        has = all(machine.has(name) for name in ("amx-tile", "amx-int8"))
        whole = M % _ROWS_OF_TILE == 0 and N % (_BYTES_OF_TILE // 4) == 0 and K % _BYTES_OF_TILE == 0
        return has and whole and "linux" in machine.triple and _DotOfUnsigned.fits(N, K, machine)

    def function(self) -> Function:
        """The definition, behind one that looks whether tiles are permitted."""
        f, symbol = self.formula, self.formula.symbol
        plain = _DotOfUnsigned(
            f"{symbol}.vectors", self.a, self.b, self.c, self.product, self.M, self.N, self.K, self.machine
        ).function()
        f.symbol = f"{symbol}.tiles"
        shape = "".join(f"\\{n:02X}" for n in self._shape())
        f.helpers.append(f'@{f.symbol[1:]}.shape = internal constant [64 x i8] c"{shape}", align 64')
        f.lines.append(f"call void @llvm.x86.ldtilecfg(ptr @{f.symbol[1:]}.shape)")
        self._prepare()
        rows, columns = (2 if n % 32 == 0 else 1 for n in (self.M, self.N))
        with_columns = _Loop(f, "j", 0, self.N, columns * 16)
        with_rows = _Loop(f, "i", 0, self.M, rows * 16)
        self._square(with_rows.index, with_columns.index, rows, columns)
        with_rows.close()
        with_columns.close()
        f.lines.append("call void @llvm.x86.tilerelease()")
        f.declarations |= {
            "declare void @llvm.x86.ldtilecfg(ptr)", "declare void @llvm.x86.tilerelease()",
            "declare void @llvm.x86.tileloadd64(i8, ptr, i64)", "declare void @llvm.x86.tilestored64(i8, ptr, i64)",
            "declare void @llvm.x86.tdpbssd(i8, i8, i8)", "declare i64 @syscall(i64, ...)",
        }  # fmt: skip
        tiles = _definition(f, _ARGUMENTS, plain.arguments)
        given = _ARGUMENTS.replace("noalias ", "")
        choice = _CHOICE.format(name=symbol[1:], arguments=_ARGUMENTS, given=given)
        text = "\n".join([*f.helpers, tiles.text, plain.text, choice])
        return Function(symbol, text, tuple(sorted({*tiles.declarations, *plain.declarations})), plain.arguments)

    def _shape(self) -> list[int]:
        """What ldtilecfg reads: palette 1, then of each register how many bytes a row has, and how many rows."""
        row = [byte for n in range(8) for byte in (_BYTES_OF_TILE, 0)]
        return [1, *[0] * 15, *row, *[0] * 16, *[_ROWS_OF_TILE] * 8, *[0] * 8]

    def _square(self, i: str, j: str, rows: int, columns: int) -> None:
        """A few tiles of c, from memory to memory. Registers: c in 0 .. 3, a in 4 and 5, b in 6 and 7."""
        f = self.formula
        c_step = _scalar(f, "mul i64 %stride_cm, 4")
        places = {}
        for r in range(rows):
            row = _scalar(f, f"mul i64 {_scalar(f, f'add i64 {i}, {16 * r}')}, %stride_cm")
            first = _scalar(f, f"add i64 {row}, {j}")
            for s in range(columns):
                places[2 * r + s] = _element(f, "i32", "%c", _scalar(f, f"add i64 {first}, {16 * s}"))
        for number, place in places.items():
            f.lines.append(f"call void @llvm.x86.tileloadd64(i8 {number}, ptr {place}, i64 {c_step})")
        loop = _Loop(f, "k", 0, self.K, _BYTES_OF_TILE)
        for r in range(rows):
            row = _scalar(f, f"mul i64 {_scalar(f, f'add i64 {i}, {16 * r}')}, {self.stride_am}")
            place = _element(f, "i8", self.rows_of_a, _scalar(f, f"add i64 {row}, {loop.index}"))
            f.lines.append(f"call void @llvm.x86.tileloadd64(i8 {4 + r}, ptr {place}, i64 {self.stride_am})")
        group = _scalar(f, f"udiv i64 {loop.index}, 4")
        for s in range(columns):
            place = self._packed(group, _scalar(f, f"add i64 {j}, {16 * s}"))
            f.lines.append(f"call void @llvm.x86.tileloadd64(i8 {6 + s}, ptr {place}, i64 {4 * self.N})")
            f.lines += [f"call void @llvm.x86.tdpbssd(i8 {2 * r + s}, i8 {4 + r}, i8 {6 + s})" for r in range(rows)]
        loop.close()
        for number, place in places.items():
            f.lines.append(f"call void @llvm.x86.tilestored64(i8 {number}, ptr {place}, i64 {c_step})")


class _DotOfSigned(_Bytes):
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


def _copy(
    f: Formula, name: str, source: str, rows: int, columns: int, target: str, *, scattered: bool = False, flip: int = 0
) -> None:
    """A tile of any strides, row-major into %<name>.packed; with `scattered` only if its columns are scattered.
    Bits of integers that are set in `flip` change."""
    f.lines += [
        f"%{name}.contiguous = icmp eq i64 %stride_{name}k, 1",
        f"br i1 %{name}.contiguous, label %{name}.together, label %{name}.scattered",
        f"{name}.together:",
    ]
    if not scattered:
        _copy_rows(f, name, source, rows, columns, target, f"%stride_{name}m", flip)
    f.lines += [f"br label %{name}.copied", f"{name}.scattered:"]
    over_rows = _Loop(f, f"{name}.i", 0, rows, 1)
    row = _element(f, source, f"%{name}", _scalar(f, f"mul i64 {over_rows.index}, %stride_{name}m"))
    out = _element(f, target, f"%{name}.packed", _scalar(f, f"mul i64 {over_rows.index}, {columns}"))
    over_columns = _Loop(f, f"{name}.j", 0, columns, 1)
    place = _element(f, source, row, _scalar(f, f"mul i64 {over_columns.index}, %stride_{name}k"))
    x = _loaded(f, source, place, target)
    x = _scalar(f, f"xor {target} {x}, {flip}") if flip else x
    place = _element(f, target, out, over_columns.index)
    f.lines.append(f"store {target} {x}, ptr {place}, align {llvm.SIZES[target]}")
    over_columns.close()
    over_rows.close()
    f.lines += [f"br label %{name}.copied", f"{name}.copied:"]


def _copy_rows(
    f: Formula, name: str, source: str, rows: int, columns: int, target: str, stride: str, flip: int = 0
) -> None:
    """The same where columns are contiguous, in vectors."""
    wide = f.of_lanes(min(columns, 64 // llvm.SIZES[target]))
    over_rows = _Loop(f, f"{name}.rows", 0, rows, 1)
    row = _element(f, source, f"%{name}", _scalar(f, f"mul i64 {over_rows.index}, {stride}"))
    out = _element(f, target, f"%{name}.packed", _scalar(f, f"mul i64 {over_rows.index}, {columns}"))
    over_columns = _Loop(f, f"{name}.columns", 0, columns, wide.lanes)
    place = _element(f, source, row, over_columns.index)
    x = wide.emit(f"load {wide.of_type(source)}, ptr {place}, align {llvm.SIZES[source]}", source)
    x = x if source == target else x.cast(_widening(source), target)
    x = x ^ flip if flip else x
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
