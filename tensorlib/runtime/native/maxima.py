"""Maxima of windows and their gradient, by code of our own, on the pool's threads.

A program lays a plane out as `direct` does for convolutions, with -inf around it: the elements of the windows of a line
of outputs are then lines at one distance each, and a vector of outputs is a few comparisons. The gradient is the sum,
over the windows that an element is in, of those that chose it: it looks at the gradient and at the numbers, laid out in
the same way, and writes each element once.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from tensorlib.runtime.native import convolutions, direct, engine, llvm, settings
from tensorlib.runtime.native.direct import LAID, LINE, Function

_PLANES = ("x", "out", "number", *LAID, "planes", "source", "result", "parts", "parts.at", "dense")
#: One of the interleaving parts of the outputs: taps, their table, vectors of a line, where they go, the first numbers.
_PART = ("taps", "taps.at", "vectors", "table", "first")
_MOST = 1 << 20  # bytes that a plane may take
_SHARED = 1 << 16  # elements from which a job is shared
_SYMBOLS = ("largest", "spread")


def text(type: str) -> str:
    """A module with ``largest`` and ``spread`` for "float" or "double"."""
    made = _Maxima(type)
    parts = [made.declarations(), made.more_declarations(), made.lay(), made.lay_numbers()]
    return "\n".join([*parts, made.largest(), made.spread()])


class _Maxima(direct.Direct):
    """The functions of one dtype."""

    def __init__(self, type: str) -> None:
        super().__init__(type)
        self.bytes = llvm.vector("i8", self.lanes)
        self.integer = {4: "i32", 8: "i64"}[self.size]  # a number as long as an element
        self.numbers = llvm.vector(self.integer, self.lanes)
        self.n_suffix = llvm.suffix(self.integer, self.lanes)

    def more_declarations(self) -> str:
        """LLVM's functions that are called here alone."""
        b, m = self.bytes, self.mask
        return f"""
declare {b} @llvm.masked.load.v{self.lanes}i8.p0(ptr, i32, {m}, {b})
declare void @llvm.masked.store.v{self.lanes}i8.p0({b}, ptr, i32, {m})
declare {self.numbers} @llvm.x86.avx512.mask.compress.{self.n_suffix}({self.numbers}, {self.numbers}, {m})
"""

    def lay_numbers(self) -> str:
        """A plane of bytes with what is around it, as integers of an element's size: `lay` of one plane."""
        f = Function(
            "internal void @lay.numbers(ptr %x, i64 %first, i64 %H, i64 %W, i64 %left, i64 %rows, i64 %pitch, ptr %to) "
            "noinline nounwind"
        )
        across = f.mul("%pitch", self.size)
        with f.loop("%rows") as t:
            row = f.add(t, "%first")
            inside = f.let(f"icmp ult i64 {row}, %H")
            wide = f.let(f"select i1 {inside}, i64 %W, i64 0")
            width = self.splat(f, f.let(f"trunc i64 {wide} to i32"), "i32", self.indices)
            source, line = f.at("%x", f.mul(row, "%W")), f.at("%to", f.mul(t, across))
            with f.loop("%pitch", step=self.lanes) as u:
                start = f.let(f"sub i64 {u}, %left")
                own = self.splat(f, f.let(f"trunc i64 {start} to i32"), "i32", self.indices)
                valid = f.let(f"icmp ult {self.indices} {f.let(f'add {self.indices} {own}, {self.counting}')}, {width}")
                a = f.let(
                    f"call {self.bytes} @llvm.masked.load.v{self.lanes}i8.p0(ptr {f.at(source, start)}, i32 1, "
                    f"{self.mask} {valid}, {self.bytes} zeroinitializer)"
                )
                long = f.let(f"zext {self.bytes} {a} to {self.numbers}")
                f.emit(f"store {self.numbers} {long}, ptr {f.at(line, f.mul(u, self.size))}, align {self.size}")
        return f.text()

    def _lay(self, f: Function, a: dict[str, str], source: str, fill: str) -> None:
        remainders, first = f.pointer(a["remainders"]), f.let(f"sub i64 0, {a['top']}")
        f.emit(
            f"call void @lay(ptr {source}, i64 {first}, i64 {a['H']}, i64 {a['W']}, i64 {a['sh']}, i64 {a['sw']}, "
            f"i64 {a['left']}, i64 {a['rows']}, i64 {a['pitch']}, i64 {a['phases']}, ptr {remainders}, ptr %scratch, "
            f"{self.type} {fill})"
        )

    def largest(self) -> str:
        """Programs are planes: the largest element of each window, and its number."""
        v, n = self.vector, self.numbers
        f = Function(
            "void @largest(ptr %a, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status) nounwind"
        )
        a = f.fields("%a", _PLANES)
        x, out, number = (f.pointer(a[name]) for name in ("x", "out", "number"))
        part = f.fields(f.pointer(a["parts.at"]), _PART)
        taps, table, firsts = (f.pointer(part[name]) for name in ("taps.at", "table", "first"))
        lowest = self.splat(f, llvm.constant(float("-inf"), self.type), self.type, v)
        with f.loop("%last", "%first") as p:
            self._lay(f, a, f.at(x, f.mul(p, a["source"])), llvm.constant(float("-inf"), self.type))
            to = f.at(out, f.mul(p, a["result"]))
            to_number = f.at(number, f.let(f"udiv i64 {f.mul(p, a['result'])}, {self.size}"))
            with f.loop(part["vectors"]) as at:
                line = f.at("%scratch", f.mul(at, LINE))
                begin = f.let(f"load {self.bytes}, ptr {f.at(firsts, f.mul(at, self.lanes))}, align 1")
                begun = f.let(f"zext {self.bytes} {begin} to {n}")
                head, body, done = f.labels("head", "body", "done")
                (before,) = f.labels("before")
                f.emit(f"br label %{before}")
                f.place(before)
                f.emit(f"br label %{head}")
                f.place(head)
                f.emit(f"%k = phi i64 [ 0, %{before} ], [ %k.next, %{body} ]")
                f.emit(f"%best = phi {v} [ {lowest}, %{before} ], [ %best.next, %{body} ]")
                f.emit(f"%which = phi {n} [ {begun}, %{before} ], [ %which.next, %{body} ]")
                f.emit(f"%more = icmp ult i64 %k, {part['taps']}")
                f.emit(f"br i1 %more, label %{body}, label %{done}")
                f.place(body)
                place = f.let(f"sext i32 {f.load('i32', f.at(taps, f.mul('%k', 8)))} to i64")
                own = f.let(f"load {v}, ptr {f.at(line, place)}, align {self.size}")
                larger, nan = f.let(f"fcmp ogt {v} {own}, %best"), f.let(f"fcmp uno {v} {own}, {own}")
                better = f.let(f"or {self.mask} {larger}, {nan}")
                k = "%k" if self.integer == "i64" else f.let("trunc i64 %k to i32")
                k_all = self.splat(f, k, self.integer, n)
                f.emit(f"%best.next = select {self.mask} {better}, {v} {own}, {v} %best")
                f.emit(f"%which.next = select {self.mask} {better}, {n} {k_all}, {n} %which")
                f.emit("%k.next = add nuw i64 %k, 1")
                f.emit(f"br label %{head}")
                f.place(done)
                where, mask, count = self.place_of(f, f.at(table, f.mul(at, 8)))
                self.store_packed(f, "%best", f.at(to, f.mul(where, self.size)), mask, count)
                which = f.let(
                    f"call {n} @llvm.x86.avx512.mask.compress.{self.n_suffix}({n} %which, {n} zeroinitializer, "
                    f"{self.mask} {mask})"
                )
                short = f.let(f"trunc {n} {which} to {self.bytes}")
                f.emit(
                    f"call void @llvm.masked.store.v{self.lanes}i8.p0({self.bytes} {short}, "
                    f"ptr {f.at(to_number, where)}, i32 1, {self.mask} {count})"
                )
        return f.text()

    def spread(self) -> str:
        """Programs are planes: the gradient of each element, from the windows that it is in."""
        v, n = self.vector, self.numbers
        f = Function(
            "void @spread(ptr %a, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status) nounwind"
        )
        a = f.fields("%a", _PLANES)
        x, out, number, parts = (f.pointer(a[name]) for name in ("x", "out", "number", "parts.at"))
        dense = f.let(f"icmp ne i64 {a['dense']}, 0")
        numbers, first = f.at("%scratch", a["plane"]), f.let(f"sub i64 0, {a['top']}")
        with f.loop("%last", "%first") as p:
            self._lay(f, a, f.at(x, f.mul(p, a["source"])), "0.0")
            own = f.at(number, f.let(f"udiv i64 {f.mul(p, a['source'])}, {self.size}"))
            f.emit(
                f"call void @lay.numbers(ptr {own}, i64 {first}, i64 {a['H']}, i64 {a['W']}, i64 {a['left']}, "
                f"i64 {a['rows']}, i64 {a['pitch']}, ptr {numbers})"
            )
            to = f.at(out, f.mul(p, a["result"]))
            with f.loop(a["parts"]) as i:
                part = f.fields(f.at(parts, f.mul(i, 8 * len(_PART))), _PART)
                taps, table = f.pointer(part["taps.at"]), f.pointer(part["table"])
                with f.loop(part["vectors"]) as at:
                    step = f.mul(at, LINE)
                    line, chosen = f.at("%scratch", step), f.at(numbers, step)
                    before, head, body, done, close, far, after = f.labels(
                        "before", "head", "body", "done", "close", "far", "after"
                    )
                    f.emit(f"br label %{before}")
                    f.place(before)
                    f.emit(f"br label %{head}")
                    f.place(head)
                    f.emit(f"%k = phi i64 [ 0, %{before} ], [ %k.next, %{body} ]")
                    f.emit(f"%sum = phi {v} [ zeroinitializer, %{before} ], [ %sum.next, %{body} ]")
                    f.emit(f"%more = icmp ult i64 %k, {part['taps']}")
                    f.emit(f"br i1 %more, label %{body}, label %{done}")
                    f.place(body)
                    tap = f.at(taps, f.mul("%k", 8))
                    place, wanted = f.let(f"sext i32 {f.load('i32', tap)} to i64"), f.load("i32", f.at(tap, 4))
                    wide = wanted if self.integer == "i32" else f.let(f"zext i32 {wanted} to i64")
                    g = f.let(f"load {v}, ptr {f.at(line, place)}, align {self.size}")
                    which = f.let(f"load {n}, ptr {f.at(chosen, place)}, align {self.size}")
                    same = f.let(f"icmp eq {n} {which}, {self.splat(f, wide, self.integer, n)}")
                    share = f.let(f"select {self.mask} {same}, {v} {g}, {v} zeroinitializer")
                    f.emit(f"%sum.next = fadd {v} %sum, {share}")
                    f.emit("%k.next = add nuw i64 %k, 1")
                    f.emit(f"br label %{head}")
                    f.place(done)
                    f.emit(f"br i1 {dense}, label %{close}, label %{far}")
                    f.place(close)
                    where, mask, count = self.place_of(f, f.at(table, f.mul(at, 8)))
                    self.store_packed(f, "%sum", f.at(to, f.mul(where, self.size)), mask, count)
                    f.emit(f"br label %{after}")
                    f.place(far)
                    each = f.let(f"load {self.indices}, ptr {f.at(table, f.mul(at, 4 * self.lanes))}, align 4")
                    used = f.let(f"icmp sge {self.indices} {each}, zeroinitializer")
                    self.store_apart(f, "%sum", to, each, used)
                    f.emit(f"br label %{after}")
                    f.place(after)
        return f.text()


# ------------------------------------------------------------------------------------------------------------- the jobs


class _Plan(NamedTuple):
    """The values of `_PLANES` from `LAID` on, bytes of scratch, memory that they point to."""

    values: tuple[int, ...]
    scratch: int
    kept: Any


def _two(sizes: Any, one: int) -> tuple[int, int]:
    return tuple(sizes) if len(sizes) == 2 else (one, *sizes)  # type: ignore[return-value]


@functools.lru_cache(maxsize=128)
def _forward(s: Any, itemsize: int, first: Any) -> _Plan | None:
    lanes = LINE // itemsize
    (H, W), (OH, OW), (KH, KW) = (_two(x, 1) for x in (s.size, s.out, s.kernel))
    (sh, sw), (top, left), (dh, dw) = _two(s.stride, 1), _two(s.padding, 0), _two(s.dilation, 1)
    downs, rights = [i * dh for i in range(KH)], [j * dw for j in range(KW)]
    remainders = sorted({(y % sh, x % sw) for y in downs for x in rights})
    reach, rows = max(x // sw for x in rights), OH + max(y // sh for y in downs)
    pitch = convolutions.row_length(OW, reach, W, left, lanes) if sw == 1 else OW + reach
    laid = convolutions.layout((H, W), (sh, sw), (top, left), rows, pitch, remainders, 1, itemsize)
    if laid.image > _MOST:
        return None
    index = {r: at for at, r in enumerate(remainders)}
    taps = np.array(
        [[(index[y % sh, x % sw] * rows * pitch + y // sh * pitch + x // sw) * itemsize, 0] for y in downs
         for x in rights], np.int32,
    )  # fmt: skip
    table = convolutions.store_table(OH, OW, pitch, lanes)
    firsts = np.zeros(len(table) * lanes + OH * pitch, np.uint8)
    firsts[: OH * pitch].reshape(OH, pitch)[:, :OW] = np.frombuffer(first, np.uint8).reshape(OH, OW)
    part = np.array([[len(taps), *map(engine.address, (taps,)), len(table), engine.address(table),
                      engine.address(firsts)]], np.int64)  # fmt: skip
    values = (*laid.values, s.N * s.C, H * W * itemsize, OH * OW * itemsize, 1, engine.address(part), 1)
    return _Plan(values, laid.image + 4096, (laid, taps, table, firsts, part))


@functools.lru_cache(maxsize=128)
def _backward(s: Any, itemsize: int) -> _Plan | None:
    lanes = LINE // itemsize
    (H, W), (OH, OW), (KH, KW) = (_two(x, 1) for x in (s.size, s.out, s.kernel))
    (sh, sw), (top, left), (dh, dw) = _two(s.stride, 1), _two(s.padding, 0), _two(s.dilation, 1)
    # Input h = t stride + r is element i of window t + (r + padding - i dilation) / stride, where that is whole.
    downs = [[(i, (r + top - i * dh) // sh) for i in range(KH) if not (r + top - i * dh) % sh] for r in range(sh)]
    rights = [[(j, (r + left - j * dw) // sw) for j in range(KW) if not (r + left - j * dw) % sw] for r in range(sw)]
    ys, xs = [e for part in downs for _, e in part], [e for part in rights for _, e in part]
    low, near = min(ys), min(xs)
    tall, wide = -(-H // sh), -(-W // sw)
    rows = tall + max(ys) - low
    pitch = convolutions.row_length(wide, max(xs) - near, OW, -near, lanes)
    laid = convolutions.layout((OH, OW), (1, 1), (-low, -near), rows, pitch, [(0, 0)], 1, itemsize)
    if laid.image > _MOST or H * W >= 1 << 31:
        return None
    dense, parts, kept = sh == sw == 1, [], []
    for ry in range(min(sh, H)):
        for rx in range(min(sw, W)):
            taps = np.array(
                [[((y - low) * pitch + x - near) * itemsize, i * KW + j] for i, y in downs[ry] for j, x in rights[rx]],
                np.int32,
            ).reshape(-1, 2)
            height, width = -(-(H - ry) // sh), -(-(W - rx) // sw)
            if dense:
                table = convolutions.store_table(height, width, pitch, lanes)
                count = len(table)
            else:
                table = convolutions.spread_table(height, width, pitch, lanes, (ry, rx), (sh, sw), W)
                count = len(table) // lanes
            parts.append([len(taps), engine.address(taps), count, engine.address(table), 0])
            kept += [taps, table]
    array = np.array(parts, np.int64)
    values = (*laid.values, s.N * s.C, OH * OW * itemsize, H * W * itemsize, len(parts), engine.address(array),
              int(dense))  # fmt: skip
    return _Plan(values, 2 * laid.image + 4096, (laid, array, kept))


def _run(plan: _Plan, symbol: str, x: np.ndarray, out: np.ndarray, number: np.ndarray, planes: int) -> None:
    address = engine.address
    shared = settings.get_num_threads() > 1 and max(x.size, out.size) >= _SHARED
    values = [address(x), address(out), address(number), *plan.values]
    convolutions.run(x.dtype.char, symbol, values, planes, plan.scratch, shared, text, _SYMBOLS)


def forward(x: np.ndarray, s: Any, first: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The maxima (planes, …) of windows of one or two dims of contiguous planes, and their numbers, which are bytes.

    ``first`` (…), bytes: the number of each window's first element that is not padding. None where planes are large.
    """
    plan = _forward(s, x.itemsize, np.ascontiguousarray(first).tobytes())
    if plan is None:
        return None
    out, number = np.empty((len(x), *s.out), x.dtype), np.empty((len(x), *s.out), np.uint8)
    _run(plan, "largest", x, out, number, len(x))
    return out, number


def backward(g: np.ndarray, number: np.ndarray, s: Any) -> np.ndarray | None:
    """The gradient (planes, …) of the input from those of the maxima and their numbers."""
    plan = _backward(s, g.itemsize)
    if plan is None:
        return None
    out = np.empty((len(g), *s.size), g.dtype)
    _run(plan, "spread", g, out, number, len(g))
    return out
