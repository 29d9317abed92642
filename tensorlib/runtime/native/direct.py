"""Code of convolutions in two dims for processors with 32 vector registers: no matrix of patches is ever written.

A program lays some rows of its image's channels out in scratch, with the padding around them; with strides, one plane
for each remainder of the place by the stride. Then every element of the kernel is a distance in that memory that is the
same for all outputs: an output row's neighbours, and the next row's, are a line that is read as it lies. So

    out[o, q] = bias[o] + Σ_k weight[o, k] laid[q + distance[k]]

with up to 8 rows o and 24 vectors of outputs in registers; what a line has between two rows of outputs is thrown away
when it is stored. The gradient of the input is that of the gradient's lines, one convolution for each remainder by the
stride; the weight's gradient is the products of lines with lines. Georganas et al. 2018, "Anatomy of High-Performance
Deep Learning Convolutions on SIMD Architectures", have the layouts that this avoids by reading unaligned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tensorlib.runtime.native import llvm
from tensorlib.runtime.native.machine import Features

LINE = 64  #: bytes of a vector, and of a line of the cache

#: Rows of a block of outputs: how many vectors of each are in registers. A load serves as many rows, a weight as many
#: vectors; 24 sums hide the latency of an instruction that has two a cycle.
BLOCKS = {8: 3, 6: 4, 4: 6, 2: 8, 1: 8}
#: The same of the weight's gradient: output channels and elements of the kernel.
PAIRS = ((6, 4), (4, 6), (1, 5))

# What a job's arguments are: `convolutions` packs them in this order, as 64-bit integers, and the code reads them by
# name. Steps, places and sizes called bytes are in bytes.
#: Of the planes that are laid out: sizes of the source, steps between what goes to one plane, rows and columns of it,
#: zeros before it, the remainders (row, column) of each plane; bytes of a channel's planes and of an image's channels.
LAID = ("H", "W", "sh", "sw", "top", "left", "rows", "pitch", "phases", "remainders", "plane", "image")
CONVOLVE = (
    "x", "w", "bias", "out", *LAID, "N", "G", "channels", "images", "bands", "band.rows", "x.image", "x.group",
    "x.channel", "w.group", "w.row", "bias.group", "out.image", "out.group", "out.channel", "out.band", "parts",
    "parts.at", "blocks", "blocks.at", "dense",
)  # fmt: skip
#: One of the convolutions whose outputs interleave: elements of the kernel, their table, vectors of a line and where
#: they go, in a band and in the last one.
PART = ("taps", "taps.at", "vectors", "table", "last.vectors", "last.table")
#: A block of rows: how many are computed, the first, how many there are.
BLOCK = ("rows", "first", "valid")
WEIGHT = (
    "x", "g", "out", *LAID, "N", "G", "channels", "images", "bands", "band.rows", "x.image", "x.group", "x.channel",
    "g.image", "g.group", "g.channel", "OH", "OW", "outs", "g.plane", "g.laid", "slices", "each", "o.ranges",
    "o.range", "o.bytes", "c.ranges", "c.range", "c.bytes", "kernel", "taps.at", "vectors", "out.slice", "out.group",
    "out.row", "pair.rows", "pair.columns", "pair.bytes",
)  # fmt: skip


def suits(machine: Features) -> bool:
    """Whether the code is made for such a processor."""
    return machine.lanes == 16 and machine.architecture == "x86_64"


def text(type: str) -> str:
    """A module with ``convolve`` and ``weight`` for "float" or "double"."""
    made = Direct(type)
    parts = [made.declarations(), made.lay()]
    for rows, most in BLOCKS.items():
        parts += [made.tile(rows, count) for count in range(1, most + 1)]
        parts.append(made.line(rows, most))
    parts += [made.dot(*pair) for pair in PAIRS]
    return "\n".join([*parts, made.convolve(), made.weight()])


class Function:
    """Lines of a function, with loops and branches that are closed by themselves."""

    def __init__(self, head: str) -> None:
        self._head, self._lines, self._label, self._next = head, ["entry:"], "entry", 0

    def emit(self, line: str) -> None:
        """A line as it is."""
        self._lines.append(f"  {line}")

    def let(self, value: str) -> str:
        """A new name of a value."""
        self._next += 1
        self.emit(f"%v{self._next} = {value}")
        return f"%v{self._next}"

    def place(self, label: str) -> None:
        """Begin a block."""
        self._lines.append(f"{label}:")
        self._label = label

    def labels(self, *names: str) -> list[str]:
        """New names of blocks."""
        self._next += 1
        return [f"{name}.{self._next}" for name in names]

    def add(self, *terms: str | int) -> str:
        """The sum of 64-bit integers."""
        total = str(terms[0])
        for term in terms[1:]:
            total = self.let(f"add i64 {total}, {term}")
        return total

    def mul(self, *factors: str | int) -> str:
        """The product of 64-bit integers."""
        total = str(factors[0])
        for factor in factors[1:]:
            total = self.let(f"mul i64 {total}, {factor}")
        return total

    def least(self, a: str | int, b: str | int) -> str:
        """The smaller one."""
        return self.let(f"call i64 @llvm.umin.i64(i64 {a}, i64 {b})")

    def at(self, base: str, *offsets: str | int) -> str:
        """A place so many bytes from another."""
        for offset in offsets:
            base = self.let(f"getelementptr i8, ptr {base}, i64 {offset}")
        return base

    def load(self, type: str, place: str) -> str:
        """A value from memory."""
        return self.let(f"load {type}, ptr {place}, align {llvm.SIZES[type]}")

    def fields(self, base: str, names: Sequence[str]) -> dict[str, str]:
        """64-bit integers that lie in this order."""
        return {name: self.load("i64", self.at(base, 8 * i)) for i, name in enumerate(names)}

    def pointer(self, value: str) -> str:
        """An address as a pointer."""
        return self.let(f"inttoptr i64 {value} to ptr")

    @contextmanager
    def loop(self, end: str | int, begin: str | int = 0, step: str | int = 1) -> Iterator[str]:
        """From begin, below end."""
        head, body, latch, done = self.labels("head", "body", "latch", "done")
        before, index = self._label, f"%i.{head}"
        self.emit(f"br label %{head}")
        self.place(head)
        self.emit(f"{index} = phi i64 [ {begin}, %{before} ], [ {index}.next, %{latch} ]")
        more = self.let(f"icmp ult i64 {index}, {end}")
        self.emit(f"br i1 {more}, label %{body}, label %{done}")
        self.place(body)
        yield index
        self.emit(f"br label %{latch}")
        self.place(latch)
        self.emit(f"{index}.next = add nuw i64 {index}, {step}")
        self.emit(f"br label %{head}")
        self.place(done)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Only where it holds."""
        then, done = self.labels("then", "after")
        self.emit(f"br i1 {condition}, label %{then}, label %{done}")
        self.place(then)
        yield
        self.emit(f"br label %{done}")
        self.place(done)

    def text(self) -> str:
        """All of it."""
        return "\n".join([f"define {self._head} {{", *self._lines, "  ret void", "}", ""])


class Direct:
    """The functions of one dtype."""

    def __init__(self, type: str) -> None:
        self.type, self.size = type, llvm.SIZES[type]
        self.lanes = LINE // self.size
        self.vector, self.mask = llvm.vector(type, self.lanes), llvm.vector("i1", self.lanes)
        self.indices, self.pointers = llvm.vector("i32", self.lanes), llvm.vector("ptr", self.lanes)
        self.suffix = llvm.suffix(type, self.lanes)
        self.counting = llvm.lanes_of(range(self.lanes), "i32")

    def declarations(self) -> str:
        """LLVM's functions that are called."""
        v, m, s, p = self.vector, self.mask, self.suffix, f"v{self.lanes}p0"
        return f"""
declare i64 @llvm.umin.i64(i64, i64)
declare {v} @llvm.masked.load.{s}.p0(ptr, i32, {m}, {v})
declare void @llvm.masked.store.{s}.p0({v}, ptr, i32, {m})
declare {v} @llvm.masked.gather.{s}.{p}({self.pointers}, i32, {m}, {v})
declare void @llvm.masked.scatter.{s}.{p}({v}, {self.pointers}, i32, {m})
declare {v} @llvm.fma.{s}({v}, {v}, {v})
declare {v} @llvm.x86.avx512.mask.compress.{s}({v}, {v}, {m})
"""

    def splat(self, f: Function, value: str, type: str, wide: str) -> str:
        """A value in every lane."""
        one = f.let(f"insertelement {wide} poison, {type} {value}, i64 0")
        zeros = f"{self.indices} zeroinitializer"
        return f.let(f"shufflevector {wide} {one}, {wide} poison, {zeros}")

    # -- laying out --------------------------------------------------------------------------------------------------

    def lay(self) -> str:
        """The planes of one channel: row t, column u of a plane is the source's (t sh + row, u sw + column), or %fill.

        Stores are whole vectors: what goes beyond a row is written again by the next one; the same follows a plane.
        """
        f = Function(
            "internal void @lay(ptr %x, i64 %first, i64 %H, i64 %W, i64 %sh, i64 %sw, i64 %left, i64 %rows, "
            f"i64 %pitch, i64 %phases, ptr %remainders, ptr %to, {self.type} %fill) noinline nounwind"
        )
        fill = self.splat(f, "%fill", self.type, self.vector)
        step = f.let("trunc i64 %sw to i32")
        steps = f.let(f"mul {self.indices} {self.splat(f, step, 'i32', self.indices)}, {self.counting}")
        plain, pairs = f.let("icmp eq i64 %sw, 1"), f.let("icmp eq i64 %sw, 2")
        down, across = f.mul("%W", self.size), f.mul("%pitch", self.size)
        area = f.mul("%rows", across)
        with f.loop("%phases") as phase:
            own = f.at("%remainders", f.mul(phase, 16))
            ry, rx = f.load("i64", own), f.load("i64", f.at(own, 8))
            begin, column = f.add("%first", ry), f.let(f"sub i64 {rx}, %left")
            plane = f.at("%to", f.mul(phase, area))
            with f.loop("%rows") as t:
                row = f.add(f.mul(t, "%sh"), begin)
                inside = f.let(f"icmp ult i64 {row}, %H")  # unsigned: what is before 0 is beyond
                wide = f.let(f"select i1 {inside}, i64 %W, i64 0")
                width = self.splat(f, f.let(f"trunc i64 {wide} to i32"), "i32", self.indices)
                source, line = f.at("%x", f.mul(row, down)), f.at(plane, f.mul(t, across))
                with f.loop("%pitch", step=self.lanes) as u:
                    start = f.add(f.mul(u, "%sw"), column)
                    places = f.let(
                        f"add {self.indices} {steps}, "
                        + self.splat(f, f.let(f"trunc i64 {start} to i32"), "i32", self.indices)
                    )
                    valid = f.let(f"icmp ult {self.indices} {places}, {width}")
                    one, more, two, many, both = f.labels("one", "more", "two", "many", "both")
                    f.emit(f"br i1 {plain}, label %{one}, label %{more}")
                    f.place(more)
                    f.emit(f"br i1 {pairs}, label %{two}, label %{many}")
                    f.place(two)  # a quarter of the time of a gather
                    lines = []
                    for i in range(2):
                        begin = f.add(start, i * self.lanes)
                        own = self.splat(f, f.let(f"trunc i64 {begin} to i32"), "i32", self.indices)
                        within = f.let(
                            f"icmp ult {self.indices} {f.let(f'add {self.indices} {own}, {self.counting}')}, {width}"
                        )
                        lines.append(
                            f.let(
                                f"call {self.vector} @llvm.masked.load.{self.suffix}.p0("
                                f"ptr {f.at(source, f.mul(begin, self.size))}, i32 {self.size}, {self.mask} {within}, "
                                f"{self.vector} {fill})"
                            )
                        )
                    every = f"{self.indices} {llvm.lanes_of(range(0, 2 * self.lanes, 2), 'i32')}"
                    c = f.let(f"shufflevector {self.vector} {lines[0]}, {self.vector} {lines[1]}, {every}")
                    f.emit(f"br label %{both}")
                    f.place(one)
                    here = f.at(source, f.mul(start, self.size))
                    a = f.let(
                        f"call {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr {here}, i32 {self.size}, "
                        f"{self.mask} {valid}, {self.vector} {fill})"
                    )
                    f.emit(f"br label %{both}")
                    f.place(many)
                    each = f.let(f"getelementptr {self.type}, ptr {source}, {self.indices} {places}")
                    b = f.let(
                        f"call {self.vector} @llvm.masked.gather.{self.suffix}.v{self.lanes}p0({self.pointers} {each}, "
                        f"i32 {self.size}, {self.mask} {valid}, {self.vector} {fill})"
                    )
                    f.emit(f"br label %{both}")
                    f.place(both)
                    value = f.let(f"phi {self.vector} [ {a}, %{one} ], [ {b}, %{many} ], [ {c}, %{two} ]")
                    to = f.at(line, f.mul(u, self.size))
                    f.emit(f"store {self.vector} {value}, ptr {to}, align {self.size}")
        end = f.at("%to", f.mul("%phases", area))
        for i in range(3):
            f.emit(f"store {self.vector} {fill}, ptr {f.at(end, i * LINE)}, align {self.size}")
        return f.text()

    def lay_all(self, f: Function, a: dict[str, str], source: str, channel: str, first: str, count: str, to: str,
                plane: str) -> None:  # fmt: skip
        """Every channel of an image. ``a``: `LAID`."""
        remainders = f.pointer(a["remainders"])
        with f.loop(count) as c:
            f.emit(
                f"call void @lay(ptr {f.at(source, f.mul(c, channel))}, i64 {first}, i64 {a['H']}, i64 {a['W']}, "
                f"i64 {a['sh']}, i64 {a['sw']}, i64 {a['left']}, i64 {a['rows']}, i64 {a['pitch']}, "
                f"i64 {a['phases']}, ptr {remainders}, ptr {f.at(to, f.mul(c, plane))}, {self.type} 0.0)"
            )

    # -- a block of outputs ------------------------------------------------------------------------------------------

    def tile(self, rows: int, vectors: int) -> str:
        """So many rows of so many vectors of outputs, from a line at %s on. %rows of them are stored.

        A tap is two 32-bit numbers: bytes from the line, bytes in a row of the weight.
        """
        v, cells = self.vector, [(i, j) for i in range(rows) for j in range(vectors)]
        f = Function(
            f"internal void @tile.{rows}.{vectors}(ptr %s, ptr %taps, i64 %K, ptr %w, i64 %w.row, ptr %bias, ptr %out, "
            f"i64 %channel, i64 %rows, ptr %table, i1 %dense) noinline nounwind"
        )
        last = f.let("sub i64 %rows, 1")
        own = [f.least(i, last) for i in range(rows)]
        weights = [f.at("%w", f.mul(n, "%w.row")) for n in own]
        none, some, start = f.labels("none", "some", "start")
        f.emit("%plain = icmp eq ptr %bias, null")
        f.emit(f"br i1 %plain, label %{none}, label %{some}")
        f.place(some)
        biases = [self.splat(f, f.load(self.type, f.at("%bias", f.mul(n, self.size))), self.type, v) for n in own]
        f.emit(f"br label %{start}")
        f.place(none)
        f.emit(f"br label %{start}")
        f.place(start)
        for i in range(rows):
            f.emit(f"%begin.{i} = phi {v} [ {biases[i]}, %{some} ], [ zeroinitializer, %{none} ]")
        head, body, done = f.labels("head", "body", "done")
        f.emit(f"br label %{head}")
        f.place(head)
        f.emit(f"%k = phi i64 [ 0, %{start} ], [ %k.next, %{body} ]")
        for i, j in cells:
            f.emit(f"%sum.{i}.{j} = phi {v} [ %begin.{i}, %{start} ], [ %sum.{i}.{j}.next, %{body} ]")
        f.emit("%more = icmp ult i64 %k, %K")
        f.emit(f"br i1 %more, label %{body}, label %{done}")
        f.place(body)
        tap = f.let("getelementptr [2 x i32], ptr %taps, i64 %k")
        place = f.let(f"sext i32 {f.load('i32', tap)} to i64")
        weight = f.let(f"sext i32 {f.load('i32', f.at(tap, 4))} to i64")
        line = f.at("%s", place)
        laid = [f.let(f"load {v}, ptr {f.at(line, j * LINE)}, align {self.size}") for j in range(vectors)]
        for i in range(rows):
            x = self.splat(f, f.load(self.type, f.at(weights[i], weight)), self.type, v)
            for j in range(vectors):
                f.emit(
                    f"%sum.{i}.{j}.next = call {v} @llvm.fma.{self.suffix}({v} {x}, {v} {laid[j]}, {v} %sum.{i}.{j})"
                )
        f.emit("%k.next = add nuw i64 %k, 1")
        f.emit(f"br label %{head}")
        f.place(done)
        dense, spread, end = f.labels("dense", "spread", "end")
        f.emit(f"br i1 %dense, label %{dense}, label %{spread}")
        f.place(dense)
        places, masks, counts = zip(*[self.place_of(f, f.at("%table", 8 * j)) for j in range(vectors)], strict=True)
        for i in range(rows):
            to = f.at("%out", f.mul("%channel", i))
            for j in range(vectors):
                here = f.let(f"getelementptr {self.type}, ptr {to}, i64 {places[j]}")
                self.store_packed(f, f"%sum.{i}.{j}", here, masks[j], counts[j])
            self._next_row(f, i, rows, end)
        f.place(spread)
        each = []
        for j in range(vectors):
            each.append(f.let(f"load {self.indices}, ptr {f.at('%table', 4 * self.lanes * j)}, align 4"))
        used = [f.let(f"icmp sge {self.indices} {x}, zeroinitializer") for x in each]
        for i in range(rows):
            to = f.at("%out", f.mul("%channel", i))
            for j in range(vectors):
                self.store_apart(f, f"%sum.{i}.{j}", to, each[j], used[j])
            self._next_row(f, i, rows, end)
        f.place(end)
        return f.text()

    def place_of(self, f: Function, entry: str) -> tuple[str, str, str]:
        """(where a vector's first output goes, its lanes that are outputs, as many from the first on)."""
        where = f.let(f"sext i32 {f.load('i32', entry)} to i64")
        found = []
        for offset in (4, 6):
            bits = f.load("i16", f.at(entry, offset))
            narrow = bits if self.lanes == 16 else f.let(f"trunc i16 {bits} to i{self.lanes}")
            found.append(f.let(f"bitcast i{self.lanes} {narrow} to {self.mask}"))
        return where, found[0], found[1]

    def store_packed(self, f: Function, value: str, place: str, mask: str, count: str) -> None:
        """The lanes of a mask, one behind the other."""
        v = self.vector
        packed = f.let(
            f"call {v} @llvm.x86.avx512.mask.compress.{self.suffix}({v} {value}, {v} zeroinitializer, "
            f"{self.mask} {mask})"
        )
        f.emit(
            f"call void @llvm.masked.store.{self.suffix}.p0({v} {packed}, ptr {place}, i32 {self.size}, "
            f"{self.mask} {count})"
        )

    def store_apart(self, f: Function, value: str, base: str, indices: str, mask: str) -> None:
        """The lanes of a mask, each where its index says."""
        here = f.let(f"getelementptr {self.type}, ptr {base}, {self.indices} {indices}")
        f.emit(
            f"call void @llvm.masked.scatter.{self.suffix}.v{self.lanes}p0({self.vector} {value}, "
            f"{self.pointers} {here}, i32 {self.size}, {self.mask} {mask})"
        )

    @staticmethod
    def _next_row(f: Function, i: int, rows: int, end: str) -> None:
        """Go on to row i + 1 if that is to be stored."""
        if i + 1 == rows:
            f.emit(f"br label %{end}")
            return
        (on,) = f.labels("row")
        more = f.let(f"icmp ugt i64 %rows, {i + 1}")
        f.emit(f"br i1 {more}, label %{on}, label %{end}")
        f.place(on)

    def line(self, rows: int, most: int) -> str:
        """A whole line of a block of rows: tiles of ``most`` vectors, and one of the rest."""
        f = Function(
            f"internal void @line.{rows}(ptr %s, i64 %vectors, ptr %taps, i64 %K, ptr %w, i64 %w.row, ptr %bias, "
            f"ptr %out, i64 %channel, i64 %rows, ptr %table, i1 %dense) noinline nounwind"
        )
        step = f.let(f"select i1 %dense, i64 8, i64 {4 * self.lanes}")
        rest = f.let(f"urem i64 %vectors, {most}")
        whole = f.let(f"sub i64 %vectors, {rest}")

        def tile(count: int, at: str) -> None:
            s, table = f.at("%s", f.mul(at, LINE)), f.at("%table", f.mul(at, step))
            f.emit(
                f"call void @tile.{rows}.{count}(ptr {s}, ptr %taps, i64 %K, ptr %w, i64 %w.row, ptr %bias, ptr %out, "
                f"i64 %channel, i64 %rows, ptr {table}, i1 %dense)"
            )

        with f.loop(whole, step=most) as v:
            tile(most, v)
        for count in range(1, most):
            with f.when(f.let(f"icmp eq i64 {rest}, {count}")):
                tile(count, whole)
        return f.text()

    def convolve(self) -> str:
        """Programs are (group of images, group of channels, band of rows), the last the fastest."""
        f = Function(
            "void @convolve(ptr %a, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status) nounwind"
        )
        a = f.fields("%a", CONVOLVE)
        x, w, out = (f.pointer(a[name]) for name in ("x", "w", "out"))
        parts, blocks = f.pointer(a["parts.at"]), f.pointer(a["blocks.at"])
        dense, plain = f.let(f"icmp ne i64 {a['dense']}, 0"), f.let(f"icmp eq i64 {a['bias']}, 0")
        final = f.let(f"sub i64 {a['bands']}, 1")
        with f.loop("%last", "%first") as p:
            band, rest = f.let(f"urem i64 {p}, {a['bands']}"), f.let(f"udiv i64 {p}, {a['bands']}")
            group, some = f.let(f"urem i64 {rest}, {a['G']}"), f.let(f"udiv i64 {rest}, {a['G']}")
            begin = f.mul(some, a["images"])
            count = f.least(f.let(f"sub i64 {a['N']}, {begin}"), a["images"])
            row = f.let(f"sub i64 {f.mul(band, a['band.rows'], a['sh'])}, {a['top']}")
            from_group = f.at(x, f.mul(begin, a["x.image"]), f.mul(group, a["x.group"]))
            to_group = f.at(out, f.mul(begin, a["out.image"]), f.mul(group, a["out.group"]), f.mul(band, a["out.band"]))
            w_group = f.at(w, f.mul(group, a["w.group"]))
            bias_group = f.add(a["bias"], f.mul(group, a["bias.group"]))
            ending = f.let(f"icmp eq i64 {band}, {final}")
            with f.loop(count) as n:
                source, to = f.at(from_group, f.mul(n, a["x.image"])), f.at("%scratch", f.mul(n, a["image"]))
                self.lay_all(f, a, source, a["x.channel"], row, a["channels"], to, a["plane"])
            with f.loop(a["parts"]) as part:
                own = f.fields(f.at(parts, f.mul(part, 8 * len(PART))), PART)
                vectors = f.let(f"select i1 {ending}, i64 {own['last.vectors']}, i64 {own['vectors']}")
                table = f.pointer(f.let(f"select i1 {ending}, i64 {own['last.table']}, i64 {own['table']}"))
                taps = f.pointer(own["taps.at"])
                with f.loop(a["blocks"]) as block:
                    b = f.fields(f.at(blocks, f.mul(block, 8 * len(BLOCK))), BLOCK)
                    weights = f.at(w_group, f.mul(b["first"], a["w.row"]))
                    added = f.add(bias_group, f.mul(b["first"], self.size))
                    bias = f.pointer(f.let(f"select i1 {plain}, i64 0, i64 {added}"))
                    with f.loop(count) as n:
                        laid = f.at("%scratch", f.mul(n, a["image"]))
                        to = f.at(to_group, f.mul(n, a["out.image"]), f.mul(b["first"], a["out.channel"]))
                        for rows in BLOCKS:
                            with f.when(f.let(f"icmp eq i64 {b['rows']}, {rows}")):
                                f.emit(
                                    f"call void @line.{rows}(ptr {laid}, i64 {vectors}, ptr {taps}, i64 {own['taps']}, "
                                    f"ptr {weights}, i64 {a['w.row']}, ptr {bias}, ptr {to}, i64 {a['out.channel']}, "
                                    f"i64 {b['valid']}, ptr {table}, i1 {dense})"
                                )
        return f.text()

    # -- the weight's gradient ---------------------------------------------------------------------------------------

    def dot(self, rows: int, columns: int) -> str:
        """rows x columns sums of products of lines over images, in vectors: stored, or added to what is there."""
        v, cells = self.vector, [(i, j) for i in range(rows) for j in range(columns)]
        f = Function(
            f"internal void @dot.{rows}.{columns}(ptr %g, i64 %g.plane, i64 %g.image, i64 %valid, ptr %s, "
            f"i64 %s.image, ptr %taps, i64 %images, i64 %bytes, ptr %out, i1 %begin) noinline nounwind"
        )
        last = f.let("sub i64 %valid, 1")
        lines = [f.at("%g", f.mul(f.least(i, last), "%g.plane")) for i in range(rows)]
        places = [f.let(f"sext i32 {f.load('i32', f.at('%taps', 8 * j))} to i64") for j in range(columns)]
        taps = [f.at("%s", place) for place in places]
        next_image, inner, latch, done = f.labels("image", "inner", "latch", "done")
        f.emit(f"br label %{next_image}")
        f.place(next_image)
        f.emit(f"%n = phi i64 [ 0, %entry ], [ %n.next, %{latch} ]")
        for i, j in cells:
            f.emit(f"%old.{i}.{j} = phi {v} [ zeroinitializer, %entry ], [ %sum.{i}.{j}.next, %{latch} ]")
        g_offset, s_offset = f.mul("%n", "%g.image"), f.mul("%n", "%s.image")
        g_lines, s_lines = [f.at(x, g_offset) for x in lines], [f.at(x, s_offset) for x in taps]
        f.emit(f"br label %{inner}")
        f.place(inner)
        f.emit(f"%q = phi i64 [ 0, %{next_image} ], [ %q.next, %{inner} ]")
        for i, j in cells:
            f.emit(f"%sum.{i}.{j} = phi {v} [ %old.{i}.{j}, %{next_image} ], [ %sum.{i}.{j}.next, %{inner} ]")
        xs = [f.let(f"load {v}, ptr {f.at(x, '%q')}, align {self.size}") for x in s_lines]
        for i in range(rows):
            g = f.let(f"load {v}, ptr {f.at(g_lines[i], '%q')}, align {self.size}")
            for j in range(columns):
                f.emit(f"%sum.{i}.{j}.next = call {v} @llvm.fma.{self.suffix}({v} {g}, {v} {xs[j]}, {v} %sum.{i}.{j})")
        f.emit(f"%q.next = add nuw i64 %q, {LINE}")
        f.emit("%q.more = icmp ult i64 %q.next, %bytes")
        f.emit(f"br i1 %q.more, label %{inner}, label %{latch}")
        f.place(latch)
        f.emit("%n.next = add nuw i64 %n, 1")
        f.emit("%n.more = icmp ult i64 %n.next, %images")
        f.emit(f"br i1 %n.more, label %{next_image}, label %{done}")
        f.place(done)
        sums = [f"%sum.{i}.{j}.next" for i, j in cells]
        for n in range(0, len(sums), self.lanes):
            total, to = self.totals(f, sums[n : n + self.lanes]), f.at("%out", n * self.size)
            before = f.let(f"load {v}, ptr {to}, align {self.size}")
            kept = f.let(f"select i1 %begin, {v} zeroinitializer, {v} {before}")
            f.emit(f"store {v} {f.let(f'fadd {v} {kept}, {total}')}, ptr {to}, align {self.size}")
        return f.text()

    def totals(self, f: Function, vectors: Sequence[str]) -> str:
        """The sums of the lanes of up to as many vectors as there are lanes, in their order.

        Two vectors become one that has the sums of their halves, and so on: each step adds all of it at once.
        """
        now = [*vectors, *["zeroinitializer"] * (self.lanes - len(vectors))]
        width = self.lanes
        while width > 1:
            half, paired = width // 2, []
            for a, b in zip(now[::2], now[1::2], strict=True):
                if a == b:  # both zero
                    paired.append(a)
                    continue
                first = [at + i for at in range(0, 2 * self.lanes, width) for i in range(half)]
                parts = []
                for pick in (first, [i + half for i in first]):
                    chosen = f"{self.indices} {llvm.lanes_of(pick, 'i32')}"
                    parts.append(f.let(f"shufflevector {self.vector} {a}, {self.vector} {b}, {chosen}"))
                paired.append(f.let(f"fadd {self.vector} {parts[0]}, {parts[1]}"))
            now, width = paired, half
        return now[0]

    def weight(self) -> str:
        """Programs are (slice of the images, range of outputs, range of inputs, group), the last the fastest."""
        f = Function(
            "void @weight(ptr %a, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status) nounwind"
        )
        a = f.fields("%a", WEIGHT)
        x, g, out, taps = (f.pointer(a[name]) for name in ("x", "g", "out", "taps.at"))
        once = f.let("alloca [2 x i64], align 16")
        f.emit(f"store [2 x i64] zeroinitializer, ptr {once}")
        lines = {**a, "H": a["OH"], "W": a["OW"], "sh": "1", "sw": "1", "left": "0", "rows": a["band.rows"],
                 "phases": "1", "remainders": f.let(f"ptrtoint ptr {once} to i64")}  # fmt: skip
        bytes = f.mul(a["vectors"], LINE)
        with f.loop("%last", "%first") as p:
            group, rest = f.let(f"urem i64 {p}, {a['G']}"), f.let(f"udiv i64 {p}, {a['G']}")
            c_range, rest = f.let(f"urem i64 {rest}, {a['c.ranges']}"), f.let(f"udiv i64 {rest}, {a['c.ranges']}")
            o_range, slice = f.let(f"urem i64 {rest}, {a['o.ranges']}"), f.let(f"udiv i64 {rest}, {a['o.ranges']}")
            c, o = f.mul(c_range, a["c.range"]), f.mul(o_range, a["o.range"])
            cs = f.least(f.let(f"sub i64 {a['channels']}, {c}"), a["c.range"])
            os = f.least(f.let(f"sub i64 {a['outs']}, {o}"), a["o.range"])
            begin = f.mul(slice, a["each"])
            end = f.least(f.add(begin, a["each"]), a["N"])
            from_x = f.at(x, f.mul(group, a["x.group"]), f.mul(c, a["x.channel"]))
            from_g = f.at(g, f.mul(group, a["g.group"]), f.mul(o, a["g.channel"]))
            rows_of, columns_of = (
                f.let(f"udiv i64 {f.add(f.let(f'sub i64 {step}, 1'), size)}, {step}")
                for size, step in ((os, a["pair.rows"]), (f.mul(cs, a["kernel"]), a["pair.columns"]))
            )
            to = f.at(out, f.mul(slice, a["out.slice"]), f.mul(group, a["out.group"]))
            to = f.at(to, f.mul(o_range, a["o.bytes"]), f.mul(c_range, a["c.bytes"]))
            laid_g = f.at("%scratch", f.mul(a["images"], a["image"]))
            with f.loop(end, begin, a["images"]) as n:
                count = f.least(f.let(f"sub i64 {end}, {n}"), a["images"])
                with f.loop(a["bands"]) as band:
                    y = f.mul(band, a["band.rows"])
                    row = f.let(f"sub i64 {f.mul(y, a['sh'])}, {a['top']}")
                    with f.loop(count) as m:
                        image = f.add(n, m)
                        self.lay_all(f, a, f.at(from_x, f.mul(image, a["x.image"])), a["x.channel"], row, cs,
                                     f.at("%scratch", f.mul(m, a["image"])), a["plane"])  # fmt: skip
                        self.lay_all(f, lines, f.at(from_g, f.mul(image, a["g.image"])), a["g.channel"], y, os,
                                     f.at(laid_g, f.mul(m, a["g.laid"])), a["g.plane"])  # fmt: skip
                    start = f.let(f"and i1 {f.let(f'icmp eq i64 {n}, {begin}')}, {f.let(f'icmp eq i64 {band}, 0')}")
                    with f.loop(rows_of) as row_of:
                        i = f.mul(row_of, a["pair.rows"])
                        valid, lines_at = f.let(f"sub i64 {os}, {i}"), f.at(laid_g, f.mul(i, a["g.plane"]))
                        to_row = f.at(to, f.mul(row_of, a["out.row"]))
                        with f.loop(columns_of) as column_of:
                            own = f.at(taps, f.mul(column_of, a["pair.columns"], 8))
                            cell = f.at(to_row, f.mul(column_of, a["pair.bytes"]))
                            for rows, wide in PAIRS:
                                with f.when(f.let(f"icmp eq i64 {a['pair.rows']}, {rows}")):
                                    f.emit(
                                        f"call void @dot.{rows}.{wide}(ptr {lines_at}, i64 {a['g.plane']}, "
                                        f"i64 {a['g.laid']}, i64 {valid}, ptr %scratch, i64 {a['image']}, ptr {own}, "
                                        f"i64 {count}, i64 {bytes}, ptr {cell}, i1 {start})"
                                    )
        return f.text()
