"""Code of a matrix product for processors with 32 vector registers: c = a @ b + bias, in float32 or float64.

Goto and van de Geijn 2008: a panel of two vectors' columns of b is copied to where it stays in the cache, and 12 rows
of a meet it with their 24 vectors of c in registers. a is read as it lies, by rows or by columns: each of its elements
is wanted once a panel. What the next rows need is asked for in advance. Each element of c is the sum of the sums of 512
steps along k, so that the rounding errors of long products grow with their number and not with k.

Beside OpenBLAS 0.3.31 on a Xeon with AVX-512 it takes 0.7 to 0.9 of the time up to some hundred rows and columns, where
that copies both operands; about the same from 1000 on, which `_products` leaves to BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.machine import Features

ROWS = 12  #: of a block of c in registers
_VECTORS = 2  # and its columns, in vectors: 24 sums hide the latency of an instruction that has two a cycle
LINE = 64  #: bytes of a vector, and of a line of the cache
WIDTH = _VECTORS * LINE  #: bytes of a panel's row
_K = 512  # rows of a panel: it takes 64 KiB
_M = 720  # rows of a at most while which a panel's rows of b are read again: they take 1.4 MiB
_UNROLLED = 4  # steps along k, of 24 products each, in one round of the innermost loop
_FAR = 192  # steps along k from which the processor does not foresee by itself where the next rows begin

_PANEL = (_K + 16) * WIDTH  # bytes; turning squares of a vector's width may go beyond the rows

#: Bytes of scratch: a panel, and a block of a's columns.
SCRATCH = 2 * _PANEL + LINE

_BEGIN, _END = "{", "}"


def suits(machine: Features) -> bool:
    """Whether the code is made for such a processor."""
    return machine.lanes == 16


def text(symbol: str, type: str) -> str:
    """Declarations and functions, of which @symbol is the product. Strides are in bytes; a bias may be null.

    ``(ptr a, i64 stride_am, i64 stride_ak, ptr b, i64 stride_bk, i64 stride_bn, ptr c, i64 stride_cm, i64 m, i64 n,
    i64 k, ptr bias, ptr scratch)``: of a and of b one of the strides is an element's size; c's rows are contiguous.
    """
    made = _Gemm(symbol, type)
    parts = [made.declarations(), made.copy_rows(), made.turn_columns(), made.block("rows"), made.block("columns")]
    return "\n".join([*parts, made.product()])


class _Gemm:
    """The functions of one dtype."""

    def __init__(self, symbol: str, type: str) -> None:
        self.symbol, self.type, self.size = symbol, type, llvm.SIZES[type]
        self.lanes = LINE // self.size
        self.vector = llvm.vector(type, self.lanes)
        self.mask = llvm.vector("i1", self.lanes)
        self.suffix = llvm.suffix(type, self.lanes)

    def declarations(self) -> str:
        """LLVM's functions that are called."""
        v, m, s = self.vector, self.mask, self.suffix
        return f"""
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare {v} @llvm.masked.load.{s}.p0(ptr, i32, {m}, {v})
declare void @llvm.masked.store.{s}.p0({v}, ptr, i32, {m})
declare {v} @llvm.fma.{s}({v}, {v}, {v})
declare i32 @llvm.smax.i32(i32, i32)
"""

    # -- pieces ------------------------------------------------------------------------------------------------------

    def within(self, name: str, count: str) -> list[str]:
        """The mask %name of lanes below an i32."""
        wide = llvm.vector("i32", self.lanes)
        return [
            f"%{name}.1 = insertelement {wide} poison, i32 {count}, i64 0",
            f"%{name}.2 = shufflevector {wide} %{name}.1, {wide} poison, {wide} zeroinitializer",
            f"%{name} = icmp ult {wide} {llvm.lanes_of(range(self.lanes), 'i32')}, %{name}.2",
        ]

    def halves(self) -> list[str]:
        """The masks %m0 and %m1 of a panel's two vectors, of %nc columns."""
        return [
            "%columns = trunc i64 %nc to i32", *self.within("m0", "%columns"),
            f"%beyond = sub i32 %columns, {self.lanes}", "%second = call i32 @llvm.smax.i32(i32 %beyond, i32 0)",
            *self.within("m1", "%second"),
        ]  # fmt: skip

    def load(self, to: str, place: str, mask: str) -> str:
        """A vector, 0 outside the mask."""
        return (
            f"{to} = call {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr {place}, i32 {self.size}, "
            f"{self.mask} {mask}, {self.vector} zeroinitializer)"
        )

    def at(self, to: str, base: str, index: str, step: str | int) -> list[str]:
        """The place index * step bytes from a base."""
        return [f"{to}.b = mul i64 {index}, {step}", f"{to} = getelementptr i8, ptr {base}, i64 {to}.b"]

    def turned(self, vectors: Sequence[str]) -> tuple[list[str], list[str]]:
        """As many vectors as they have lanes, a square, turned: halves change places, then quarters, and so on."""
        lines, now, d = [], list(vectors), self.lanes // 2
        lanes = range(self.lanes)
        while d:
            for i in (i for i in lanes if not i & d):
                first, second = now[i], now[i + d]
                picks = (
                    [j if not j & d else self.lanes + j - d for j in lanes],
                    [j + d if not j & d else self.lanes + j for j in lanes],
                )
                for to, pick in zip((i, i + d), picks, strict=True):
                    now[to] = f"%turn.{d}.{to}"
                    chosen = f"{llvm.vector('i32', self.lanes)} {llvm.lanes_of(pick, 'i32')}"
                    lines.append(
                        f"{now[to]} = shufflevector {self.vector} {first}, {self.vector} {second}, {chosen}"
                    )
            d //= 2
        return lines, now

    @staticmethod
    def function(head: str, blocks: dict[str, Sequence[str]]) -> str:
        """A function of named blocks of lines."""
        lines = [f"define internal void {head} noinline nounwind {_BEGIN}"]
        for label, own in blocks.items():
            lines += [f"{label}:", *(f"  {line}" for line in own)]
        return "\n".join([*lines, _END, ""])

    # -- a panel of b ------------------------------------------------------------------------------------------------

    def copy_rows(self) -> str:
        """kc rows of nc contiguous columns of b into a panel, zeros beside them."""
        second = f"%from.1 = getelementptr i8, ptr %from, i64 {LINE}"
        return self.function(
            f"@{self.symbol}.copy(ptr %b, i64 %stride, i64 %kc, i64 %nc, ptr %panel)",
            {
                "entry": [*self.halves(), "br label %next"],
                "next": [
                    "%k = phi i64 [ 0, %entry ], [ %k.next, %next ]",
                    *self.at("%from", "%b", "%k", "%stride"), second,
                    self.load("%x0", "%from", "%m0"), self.load("%x1", "%from.1", "%m1"),
                    *self.at("%to", "%panel", "%k", WIDTH),
                    f"%to.1 = getelementptr i8, ptr %to, i64 {LINE}",
                    f"store {self.vector} %x0, ptr %to, align {LINE}",
                    f"store {self.vector} %x1, ptr %to.1, align {LINE}",
                    "%k.next = add nuw i64 %k, 1", "%more = icmp ult i64 %k.next, %kc",
                    "br i1 %more, label %next, label %end",
                ],
                "end": ["ret void"],
            },
        )  # fmt: skip

    def turn_columns(self) -> str:
        """The same of a b whose columns are contiguous, in squares of a vector's width."""
        loads: list[str] = []
        for i in range(self.lanes):  # a column beyond the last is the last again: nobody looks at what comes of it
            loads += [
                f"%column.{i} = add i64 %n, {i}", f"%own.{i} = call i64 @llvm.umin.i64(i64 %column.{i}, i64 %last)",
                *self.at(f"%from.{i}", "%here", f"%own.{i}", "%stride"), self.load(f"%x.{i}", f"%from.{i}", "%mask"),
            ]  # fmt: skip
        turning, rows = self.turned([f"%x.{i}" for i in range(self.lanes)])
        stores: list[str] = []
        for i, row in enumerate(rows):
            stores += [
                f"%line.{i} = getelementptr i8, ptr %to.n, i64 {i * WIDTH}",
                f"store {self.vector} {row}, ptr %line.{i}, align {LINE}",
            ]
        return self.function(
            f"@{self.symbol}.turn(ptr %b, i64 %stride, i64 %kc, i64 %nc, ptr %panel)",
            {
                "entry": ["%last = sub i64 %nc, 1", "br label %half"],
                "half": [f"%n = phi i64 [ 0, %entry ], [ {self.lanes}, %half.end ]", "br label %next"],
                "next": [
                    "%k = phi i64 [ 0, %half ], [ %k.next, %next ]",
                    "%left = sub i64 %kc, %k", "%left.32 = trunc i64 %left to i32", *self.within("mask", "%left.32"),
                    *self.at("%here", "%b", "%k", self.size), *loads, *turning,
                    *self.at("%to", "%panel", "%k", WIDTH), *self.at("%to.n", "%to", "%n", self.size),
                    *stores,
                    f"%k.next = add nuw i64 %k, {self.lanes}", "%more = icmp ult i64 %k.next, %kc",
                    "br i1 %more, label %next, label %half.end",
                ],
                "half.end": [f"%again = icmp ult i64 %n, {self.lanes}", "br i1 %again, label %half, label %end"],
                "end": ["ret void"],
            },
        )  # fmt: skip

    # -- a block of c ------------------------------------------------------------------------------------------------

    def block(self, of: str) -> str:
        """Up to 12 rows of c by a panel's columns: %first sets them, to the bias or 0 and the sum, else adds the sum.

        ``of``: whether a's rows are contiguous or its columns. A row beyond the last is not stored; it is the last
        again where rows are contiguous, else there is something to read where it would be.
        """
        v, by_rows = self.vector, of == "rows"
        cells = [(i, j) for i in range(ROWS) for j in range(_VECTORS)]
        entry = [*self.halves(), "%last = sub i64 %rows, 1"]
        for i in range(ROWS):
            entry += [f"%row.{i} = call i64 @llvm.umin.i64(i64 {i}, i64 %last)"]
            entry += self.at(f"%c.{i}", "%c", f"%row.{i}", "%stride_cm")
            entry += self.at(f"%a.{i}", "%a", f"%row.{i}", "%stride_am") if by_rows else []
        for i, j in cells:  # c will be written, when the sums are there
            entry += [
                f"%c.{i}.{j} = getelementptr i8, ptr %c.{i}, i64 {j * LINE}",
                f"call void @llvm.prefetch.p0(ptr %c.{i}.{j}, i32 1, i32 3, i32 1)",
            ]
        entry += [
            f"%down = mul i64 %stride_am, {ROWS}", f"%far = icmp ugt i64 %kc, {_FAR}",
            "%ahead = select i1 %far, i64 %down, i64 0",
            f"%whole = and i64 %kc, {-_UNROLLED}", "%any = icmp ne i64 %whole, 0",
            "br i1 %first, label %new, label %start",
        ]  # fmt: skip

        def phi(name: str, *sources: tuple[str, str]) -> list[str]:
            """One for each vector of c; a source is a name, or what every one of them comes from, and a block."""
            return [
                f"%{name}.{i}.{j} = phi {v} "
                + ", ".join(f"[ {s.format(i=i, j=j)}, %{label} ]" for s, label in sources)
                for i, j in cells
            ]

        long, sums = self.steps("l", _UNROLLED, "%k", by_rows)
        short, rest = self.steps("s", 1, "%k.rest", by_rows)
        added: list[str] = []
        for i, j in cells:
            added.append(self.load(f"%was.{i}.{j}", f"%c.{i}.{j}", f"%m{j}"))
            added.append(f"%both.{i}.{j} = fadd {v} %was.{i}.{j}, %own.{i}.{j}")
        asked: list[str] = []
        if by_rows:
            asked = self.at("%along", "%a", "%k.line", self.size)[:1]
            for i in range(ROWS):
                asked += [
                    f"%below.{i} = getelementptr i8, ptr %a.{i}, i64 %ahead",
                    f"%wanted.{i} = getelementptr i8, ptr %below.{i}, i64 %along.b",
                    f"call void @llvm.prefetch.p0(ptr %wanted.{i}, i32 0, i32 2, i32 1)",
                ]
        blocks: dict[str, Sequence[str]] = {
            "entry": entry,
            "new": ["%plain = icmp eq ptr %bias, null", "br i1 %plain, label %start, label %biased"],
            "biased": [
                self.load("%bias.0", "%bias", "%m0"), f"%bias.at = getelementptr i8, ptr %bias, i64 {LINE}",
                self.load("%bias.1", "%bias.at", "%m1"), "br label %start",
            ],
            "start": [
                *phi("from", ("zeroinitializer", "new"), ("%bias.{j}", "biased"), ("zeroinitializer", "entry")),
                "br i1 %any, label %line, label %rest",
            ],
            "line": [  # of the cache: so many steps between two looks ahead
                "%k.line = phi i64 [ 0, %start ], [ %k.next, %line.end ]",
                *phi("begun", ("%from.{i}.{j}", "start"), (sums, "line.end")), *asked,
                f"%k.far = add i64 %k.line, {self.lanes}",
                "%k.end = call i64 @llvm.umin.i64(i64 %k.far, i64 %whole)", "br label %step",
            ],
            "step": [
                "%k = phi i64 [ %k.line, %line ], [ %k.next, %step ]",
                *phi("l", ("%begun.{i}.{j}", "line"), (sums, "step")), *long,
                f"%k.next = add nuw i64 %k, {_UNROLLED}", "%more = icmp ult i64 %k.next, %k.end",
                "br i1 %more, label %step, label %line.end",
            ],
            "line.end": ["%lines = icmp ult i64 %k.next, %whole", "br i1 %lines, label %line, label %rest"],
            "rest": [
                *phi("sum", ("%from.{i}.{j}", "start"), (sums, "line.end")),
                "%left = icmp ult i64 %whole, %kc", "br i1 %left, label %step.rest, label %store",
            ],
            "step.rest": [
                "%k.rest = phi i64 [ %whole, %rest ], [ %k.rest.next, %step.rest ]",
                *phi("s", ("%sum.{i}.{j}", "rest"), (rest, "step.rest")), *short,
                "%k.rest.next = add nuw i64 %k.rest, 1", "%rest.more = icmp ult i64 %k.rest.next, %kc",
                "br i1 %rest.more, label %step.rest, label %store",
            ],
            "store": [
                *phi("own", ("%sum.{i}.{j}", "rest"), (rest, "step.rest")),
                "br i1 %first, label %put, label %add",
            ],
            "add": [*added, "br label %put"],
            "put": [*phi("out", ("%own.{i}.{j}", "store"), ("%both.{i}.{j}", "add")), "br label %store.0"],
        }  # fmt: skip
        for i in range(ROWS):
            stores = [
                f"call void @llvm.masked.store.{self.suffix}.p0({v} %out.{i}.{j}, ptr %c.{i}.{j}, i32 {self.size}, "
                f"{self.mask} %m{j})"
                for j in range(_VECTORS)
            ]
            on = [f"%store.{i}.more = icmp ugt i64 %rows, {i + 1}",
                  f"br i1 %store.{i}.more, label %store.{i + 1}, label %end"]  # fmt: skip
            blocks[f"store.{i}"] = [*stores, *(on if i + 1 < ROWS else ["br label %end"])]
        blocks["end"] = ["ret void"]
        arguments = (
            "ptr %a, i64 %stride_am, i64 %stride_ak, ptr %panel, i64 %kc, ptr %c, i64 %stride_cm, i64 %rows, i64 %nc, "
            "ptr %bias, i1 %first"
        )
        return self.function(f"@{self.symbol}.{of}({arguments})", blocks)

    def steps(self, name: str, count: int, k: str, by_rows: bool) -> tuple[list[str], str]:
        """Lines that add count steps from k on to the sums %name.i.j, and the sums' names then, as a format."""
        v, lines = self.vector, self.at(f"%{name}.panel", "%panel", k, WIDTH)
        lines.append(f"%{name}.offset = mul i64 {k}, {self.size}")
        for s in range(count):
            for j in range(_VECTORS):
                lines += [
                    f"%{name}.b.{s}.{j}.at = getelementptr i8, ptr %{name}.panel, i64 {(s * _VECTORS + j) * LINE}",
                    f"%{name}.b.{s}.{j} = load {v}, ptr %{name}.b.{s}.{j}.at, align {LINE}",
                ]
            if not by_rows:
                lines += [f"%{name}.k.{s} = add i64 {k}, {s}"]
                lines += self.at(f"%{name}.a.{s}", "%a", f"%{name}.k.{s}", "%stride_ak")
                # The block below begins where this one ends, and the steps to come lie far apart.
                for where, offset in (("below", str(2 * ROWS * self.size - 1)), ("later", f"%{name}.later.b")):
                    lines += [f"%{name}.later.b = mul i64 %stride_ak, 16"] if where == "later" and s == 0 else []
                    lines += [
                        f"%{name}.{where}.{s} = getelementptr i8, ptr %{name}.a.{s}, i64 {offset}",
                        f"call void @llvm.prefetch.p0(ptr %{name}.{where}.{s}, i32 0, i32 "
                        f"{2 if where == 'below' else 3}, i32 1)",
                    ]
            for i in range(ROWS):
                x = f"%{name}.x.{s}.{i}"
                if by_rows:
                    lines += [
                        f"{x}.row = getelementptr i8, ptr %a.{i}, i64 %{name}.offset",
                        f"{x}.at = getelementptr i8, ptr {x}.row, i64 {s * self.size}",
                    ]
                else:
                    lines += [f"{x}.at = getelementptr i8, ptr %{name}.a.{s}, i64 {i * self.size}"]
                lines += [
                    f"{x} = load {self.type}, ptr {x}.at, align {self.size}",
                    f"{x}.1 = insertelement {v} poison, {self.type} {x}, i64 0",
                    f"{x}.v = shufflevector {v} {x}.1, {v} poison, {llvm.vector('i32', self.lanes)} zeroinitializer",
                ]
                for j in range(_VECTORS):
                    before = f"%{name}.{i}.{j}" if s == 0 else f"%{name}.sum.{s - 1}.{i}.{j}"
                    lines.append(
                        f"%{name}.sum.{s}.{i}.{j} = call {v} @llvm.fma.{self.suffix}({v} {x}.v, "
                        f"{v} %{name}.b.{s}.{j}, {v} {before})"
                    )
        return lines, f"%{name}.sum.{count - 1}.{{i}}.{{j}}"

    # -- all of it ---------------------------------------------------------------------------------------------------

    def product(self) -> str:
        """The loops: parts of m of about the same size, parts of k, panels of n, blocks of rows."""
        wide = WIDTH // self.size
        block = (
            "ptr {a}, i64 %stride_am, i64 {stride_ak}, ptr %panel, i64 %kc, ptr %c.own, i64 %stride_cm, i64 %rows, "
            "i64 %nc, ptr %bias.own, i1 %first"
        )
        lying = block.format(a="%a.own", stride_ak="%stride_ak")
        copied = block.format(a="%copied", stride_ak=WIDTH)  # with room beside it for the rows that are not
        b = "ptr %b.own, i64 {stride}, i64 %kc, i64 %nc, ptr %panel"
        return self.function(
            f"@{self.symbol}(ptr %a, i64 %stride_am, i64 %stride_ak, ptr %b, i64 %stride_bk, i64 %stride_bn, ptr %c, "
            "i64 %stride_cm, i64 %m, i64 %n, i64 %k, ptr %bias, ptr %scratch)",
            {
                "entry": [
                    f"%by.rows = icmp eq i64 %stride_ak, {self.size}", f"%b.rows = icmp eq i64 %stride_bn, {self.size}",
                    "%plain = icmp eq ptr %bias, null",
                    "%scratch.int = ptrtoint ptr %scratch to i64", f"%scratch.up = add i64 %scratch.int, {LINE - 1}",
                    f"%panel.int = and i64 %scratch.up, {-LINE}", "%panel = inttoptr i64 %panel.int to ptr",
                    f"%copied = getelementptr i8, ptr %panel, i64 {_PANEL}",
                    f"%m.up = add i64 %m, {_M - 1}", f"%parts = udiv i64 %m.up, {_M}",
                    f"%blocks.up = add i64 %m, {ROWS - 1}", f"%blocks = udiv i64 %blocks.up, {ROWS}",
                    "%each.up = add i64 %blocks, %parts", "%each.less = sub i64 %each.up, 1",
                    "%each = udiv i64 %each.less, %parts", f"%step = mul i64 %each, {ROWS}",
                    "br label %m.part",
                ],
                "m.part": [
                    "%m.at = phi i64 [ 0, %entry ], [ %m.next, %m.end ]",
                    "%m.next = add nuw i64 %m.at, %step", "%m.last = call i64 @llvm.umin.i64(i64 %m.next, i64 %m)",
                    "br label %k.part",
                ],
                "k.part": [
                    "%k.at = phi i64 [ 0, %m.part ], [ %k.next, %k.end ]",
                    "%k.left = sub i64 %k, %k.at", f"%kc = call i64 @llvm.umin.i64(i64 %k.left, i64 {_K})",
                    "%first = icmp eq i64 %k.at, 0", "br label %n.panel",
                ],
                "n.panel": [
                    "%n.at = phi i64 [ 0, %k.part ], [ %n.next, %n.end ]",
                    "%n.left = sub i64 %n, %n.at", f"%nc = call i64 @llvm.umin.i64(i64 %n.left, i64 {wide})",
                    *self.at("%b.k", "%b", "%k.at", "%stride_bk"), *self.at("%b.own", "%b.k", "%n.at", "%stride_bn"),
                    *self.at("%bias.n", "%bias", "%n.at", self.size),
                    "%bias.own = select i1 %plain, ptr null, ptr %bias.n",
                    "br i1 %b.rows, label %copy, label %turn",
                ],
                "copy": [f"call void @{self.symbol}.copy({b.format(stride='%stride_bk')})", "br label %row"],
                "turn": [f"call void @{self.symbol}.turn({b.format(stride='%stride_bn')})", "br label %row"],
                "row": [
                    "%i = phi i64 [ %m.at, %copy ], [ %m.at, %turn ], [ %i.next, %row.end ]",
                    "%i.left = sub i64 %m.last, %i", f"%rows = call i64 @llvm.umin.i64(i64 %i.left, i64 {ROWS})",
                    *self.at("%a.i", "%a", "%i", "%stride_am"), *self.at("%a.own", "%a.i", "%k.at", "%stride_ak"),
                    *self.at("%c.i", "%c", "%i", "%stride_cm"), *self.at("%c.own", "%c.i", "%n.at", self.size),
                    "br i1 %by.rows, label %of.rows, label %of.columns",
                ],
                "of.rows": [f"call void @{self.symbol}.rows({lying})", "br label %row.end"],
                "of.columns": [
                    f"%all = icmp eq i64 %rows, {ROWS}", "br i1 %all, label %whole.block, label %part.block",
                ],
                "whole.block": [f"call void @{self.symbol}.columns({lying})", "br label %row.end"],
                "part.block": [
                    f"call void @{self.symbol}.copy(ptr %a.own, i64 %stride_ak, i64 %kc, i64 %rows, ptr %copied)",
                    f"call void @{self.symbol}.columns({copied})", "br label %row.end",
                ],
                "row.end": [
                    f"%i.next = add nuw i64 %i, {ROWS}", "%i.more = icmp ult i64 %i.next, %m.last",
                    "br i1 %i.more, label %row, label %n.end",
                ],
                "n.end": [
                    f"%n.next = add nuw i64 %n.at, {wide}", "%n.more = icmp ult i64 %n.next, %n",
                    "br i1 %n.more, label %n.panel, label %k.end",
                ],
                "k.end": [
                    f"%k.next = add nuw i64 %k.at, {_K}", "%k.more = icmp ult i64 %k.next, %k",
                    "br i1 %k.more, label %k.part, label %m.end",
                ],
                "m.end": ["%m.more = icmp ult i64 %m.next, %m", "br i1 %m.more, label %m.part, label %end"],
                "end": ["ret void"],
            },
        )  # fmt: skip
