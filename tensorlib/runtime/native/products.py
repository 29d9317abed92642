"""Products of NumPy's matrices on the pool's threads.

A job's program is a block of one product, some rows and some columns: by `gemm`'s code where the processor suits it and
the product is not so large that BLAS's is as good, else by ``cblas_sgemm`` or ``cblas_dgemm`` on one thread, with the
bias added while the block lies in the cache. BLAS's own threads would give the same speed to a product by itself, but
not to a program: they and the pool's wait for work at the same processors, and each keeps the other from it.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import struct
import threading
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _blas
from tensorlib.runtime import cache, fingerprint
from tensorlib.runtime.native import codegen, engine, gemm, linker, llvm, machine, pool, settings

_OWN = 1 << 29  # multiplications up to which, and rows from which, `gemm`'s code was the faster one
_OWN_ROWS = 8
#: Multiplications from which a product is shared; a smaller one takes less time than its threads' waking.
_SHARED = 1 << 22
_LONG = 1 << 28  # multiplications of a block that takes milliseconds: then several a thread, since one may be slowed
_SEVERAL = 4
_LEAST_BLOCK = 32  # rows or columns of a block
_ROUND = 16  # what they are a multiple of with BLAS; with `gemm` its own blocks

# What a job's arguments are: `_JOB` packs them in this order, and the code below reads them by name.
_FIELDS = (
    "gemm", "A", "B", "C", "bias", "m", "n", "k", "lda", "ldb", "ldc", "inner",
    "outer.A", "outer.B", "outer.C", "inner.A", "inner.B", "inner.C",
    "rows", "columns", "parts", "across", "row.A", "column.B", "row.C", "column.C", "column.bias", "ta", "tb",
)  # fmt: skip
#: A job: its code, bytes of scratch, the status, chunks of one program; the programs, scratch; the arguments.
_JOB = struct.Struct(f"{pool.START.format}{pool.ARGUMENTS - pool.START.size}x{len(_FIELDS)}q")
_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112  # cblas.h
_KINDS = {"f": "float", "d": "double"}  # NumPy's characters of the dtypes: LLVM's names

_BY_BLAS = """
{sizes}
  call void %function(i32 {order}, i32 %turned.a, i32 %turned.b, {int} {m.own}, {int} {n.own}, {int} {k}, {type} 1.0, \
ptr %A.own, {int} {lda}, ptr %B.own, {int} {ldb}, {type} 0.0, ptr %C.own, {int} {ldc})
  %biased = icmp ne i64 %bias, 0
  br i1 %biased, label %add, label %done
add:
  %bias.offset = mul i64 %column, %column.bias
  %bias.first = add i64 %bias, %bias.offset
  %bias.own = inttoptr i64 %bias.first to ptr
  br label %line
line:
  %i = phi i64 [ 0, %add ], [ %i.next, %line.done ]
  %line.first = mul i64 %i, %ldc
  %line.at = getelementptr {type}, ptr %C.own, i64 %line.first
  br label %element
element:
  %j = phi i64 [ 0, %line ], [ %j.next, %element ]
  %to = getelementptr {type}, ptr %line.at, i64 %j
  %from = getelementptr {type}, ptr %bias.own, i64 %j
  %sum = load {type}, ptr %to, !alias.scope !1, !noalias !2
  %b = load {type}, ptr %from, !alias.scope !2, !noalias !1
  %both = fadd {type} %sum, %b
  store {type} %both, ptr %to, !alias.scope !1, !noalias !2
  %j.next = add nuw i64 %j, 1
  %j.more = icmp ult i64 %j.next, %n.own
  br i1 %j.more, label %element, label %line.done
line.done:
  %i.next = add nuw i64 %i, 1
  %i.more = icmp ult i64 %i.next, %m.own
  br i1 %i.more, label %line, label %done"""

_BY_GEMM = """
  %bias.offset = mul i64 %column, %column.bias
  %bias.first = add i64 %bias, %bias.offset
  %biased = icmp ne i64 %bias, 0
  %bias.any = select i1 %biased, i64 %bias.first, i64 0
  %bias.own = inttoptr i64 %bias.any to ptr
  call void @gemm(ptr %A.own, i64 %stride.am, i64 %stride.ak, ptr %B.own, i64 %stride.bk, i64 %stride.bn, \
ptr %C.own, i64 %stride.cm, i64 %m.own, i64 %n.own, i64 %k, ptr %bias.own, ptr %s)
  br label %done"""

_TEXT = """
declare i64 @llvm.umin.i64(i64, i64)

; Program p is block p % parts of product p / parts; "across" blocks lie side by side.
define void @products_{kind}(ptr %a, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %s, ptr %status) nounwind {{
entry:
{loads}
{prepare}
  br label %next
next:
  %p = phi i64 [ %first, %entry ], [ %p.next, %done ]
  %more = icmp slt i64 %p, %last
  br i1 %more, label %block, label %end
block:
  %product = udiv i64 %p, %parts
  %part = urem i64 %p, %parts
  %outer = udiv i64 %product, %inner
  %within = urem i64 %product, %inner
  %row = udiv i64 %part, %across
  %column = urem i64 %part, %across
{places}
  %row.first = mul i64 %row, %rows
  %m.left = sub i64 %m, %row.first
  %m.own = call i64 @llvm.umin.i64(i64 %m.left, i64 %rows)
  %column.first = mul i64 %column, %columns
  %n.left = sub i64 %n, %column.first
  %n.own = call i64 @llvm.umin.i64(i64 %n.left, i64 %columns)
{multiply}
done:
  %p.next = add i64 %p, 1
  br label %next
end:
  ret void
}}

!0 = distinct !{{!0}}
!1 = !{{!3}}
!2 = !{{!4}}
!3 = distinct !{{!3, !0}}
!4 = distinct !{{!4, !0}}
"""


def _text(kind: str, wide: bool, own: bool) -> str:
    """The module of one dtype. ``wide``: BLAS counts in 64 bits; ``own``: not by BLAS."""
    type, size = _KINDS[kind], llvm.SIZES[_KINDS[kind]]
    loads, places = [], []
    for i, name in enumerate(_FIELDS):
        loads += [f"  %{name}.at = getelementptr i8, ptr %a, i64 {8 * i}", f"  %{name} = load i64, ptr %{name}.at"]
    steps = {"A": ("outer", "inner", "row"), "B": ("outer", "inner", "column"),
             "C": ("outer", "inner", "row", "column")}  # fmt: skip
    which = {"outer": "%outer", "inner": "%within", "row": "%row", "column": "%column"}
    for operand, counted in steps.items():
        at = f"%{operand}"
        for step in counted:
            offset, here = f"%offset.{operand}.{step}", f"%at.{operand}.{step}"
            places += [f"  {offset} = mul i64 {which[step]}, %{step}.{operand}", f"  {here} = add i64 {at}, {offset}"]
            at = here
        places.append(f"  %{operand}.own = inttoptr i64 {at} to ptr")
    if own:
        prepare = [f"  %stride.cm = mul i64 %ldc, {size}"]
        for operand, (down, right) in {"a": ("am", "ak"), "b": ("bk", "bn")}.items():
            prepare += [
                f"  %long.{operand} = mul i64 %ld{operand}, {size}",
                f"  %plain.{operand} = icmp eq i64 %t{operand}, {_AS_IT_IS}",
                f"  %stride.{down} = select i1 %plain.{operand}, i64 %long.{operand}, i64 {size}",
                f"  %stride.{right} = select i1 %plain.{operand}, i64 {size}, i64 %long.{operand}",
            ]
        multiply = _BY_GEMM
    else:
        prepare = ["  %function = inttoptr i64 %gemm to ptr"]
        prepare += [f"  %turned.{operand} = trunc i64 %t{operand} to i32" for operand in "ab"]
        sizes = []
        multiply = _BY_BLAS.replace("{type}", type).replace("{int}", "i64" if wide else "i32")
        for name in ("m.own", "n.own", "k", "lda", "ldb", "ldc"):
            multiply = multiply.replace(f"{{{name}}}", f"%{name}" if wide else f"%{name}.narrow")
            if not wide:
                sizes.append(f"  %{name}.narrow = trunc i64 %{name} to i32")
        multiply = multiply.format(sizes="\n".join(sizes), order=_ROW_MAJOR)
    text = _TEXT.format(
        kind=kind, loads="\n".join(loads), places="\n".join(places), prepare="\n".join(prepare), multiply=multiply
    )
    return text + gemm.text("gemm", type) if own else text


class _Code:
    """BLAS's functions if NumPy has OpenBLAS, the code, linked when it is first asked for, and the jobs."""

    def __init__(self, blas: _blas.OpenBLAS | None) -> None:
        runtime, self.machine = pool.runtime(), machine.features()
        ffi = runtime.ffi
        self.blas, self.wide = {}, blas is not None and blas.wide
        if blas is not None and blas.address("cblas_sgemm"):
            self.get_threads = ffi.cast("int(*)(void)", ctypes.cast(blas.get_threads, ctypes.c_void_p).value)
            self.set_threads = ffi.cast("void(*)(int)", ctypes.cast(blas.set_threads, ctypes.c_void_p).value)
            self.blas = {"f": blas.address("cblas_sgemm"), "d": blas.address("cblas_dgemm")}
        self.own = gemm.suits(self.machine)
        self._functions: dict[tuple[str, bool], tuple[int, linker.Loaded]] = {}
        self.ffi = ffi
        self.jobs: list[tuple[Any, Any, int]] = []  #: those that nobody is running

    def new_job(self) -> tuple[Any, Any, int]:
        """Memory of a job: as a pointer, as a buffer, and the address of its status."""
        status = -(-_JOB.size // 64) * 64
        job = self.ffi.new("char[]", status + pool.STATUS)
        return job, self.ffi.buffer(job), int(self.ffi.cast("uintptr_t", job)) + status

    def function(self, kind: str, own: bool) -> int:
        """The address of one dtype's code: compiled once, then from the disk."""
        found = self._functions.get((kind, own))
        if found is None:
            with _State.making:  # once: code that another thread runs must not be replaced, and so go
                found = self._functions.get((kind, own)) or self._load(kind, own)
                self._functions[kind, own] = found
        return found[0]

    def _load(self, kind: str, own: bool) -> tuple[int, linker.Loaded]:
        module, name = _text(kind, self.wide, own), f"products_{kind}"
        key = fingerprint.digest("\0".join((module, self.machine.text, codegen.version())))
        stored = cache.load(key)
        if stored is None:
            image = codegen.compile(module, self.machine)
            cache.store(key, {"kernel": name, "target": "native"}, image)
        else:
            image = stored[1]
        loaded = linker.load(image, name)
        return loaded[name], loaded


@functools.cache
def code() -> _Code | None:
    """The code; None where NumPy's products are not OpenBLAS's and `gemm` has none for this processor.

    DeviceError (NoCompiler) where nothing compiles.
    """
    made = _Code(_blas.openblas())
    return made if made.blas or made.own else None


class _State:
    """Which thread of the program has BLAS, how many threads BLAS is to have again after it, and who compiles."""

    lock = threading.Lock()
    making = threading.Lock()  #: code is compiled and linked by one thread at a time
    threads: int | None = None


class Plan(NamedTuple):
    """How products of some shapes and strides are computed."""

    shape: tuple[int, ...]  #: of the result
    sizes: tuple[int, ...]  #: from m to ldc, by `_FIELDS`
    steps: tuple[int, ...]  #: from inner to ta, tb
    programs: int
    shared: bool
    own: bool  #: by `gemm`
    columns: tuple[bool, ...]  #: whether each operand is one matrix stored by columns: its .T tells its address sooner


def _layout(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> tuple[int, int] | None:
    """How BLAS reads a matrix: as it is or transposed, and elements from line to line. None: it cannot."""
    (rows, columns), (down, right) = shape[-2:], strides[-2:]
    if right == size and down >= columns * size and not down % size:
        return _AS_IT_IS, down // size
    if down == size and right >= rows * size and not right % size:
        return _TRANSPOSED, right // size
    return None


def _batches(
    shapes: list[tuple[int, ...]], strides: list[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]] | None:
    """The leading dims of the result, at most two of them, and each operand's strides. None where more are needed."""
    lead = shapes[-1][:-2]
    dims: list[tuple[int, tuple[int, ...]]] = []
    for d, count in enumerate(lead):
        if count == 1:
            continue
        own = []
        for shape, stride in zip(shapes, strides, strict=True):
            at = d - len(lead) + len(shape) - 2
            own.append(0 if at < 0 or shape[at] == 1 else stride[at])
        if dims and all(o * count == b for o, b in zip(own, dims[-1][1], strict=True)):  # one step goes on in the next
            dims[-1] = (dims[-1][0] * count, tuple(own))
        else:
            dims.append((count, tuple(own)))
    if len(dims) > 2:
        return None
    dims = [(1, (0,) * len(shapes))] * (2 - len(dims)) + dims
    return tuple(count for count, _ in dims), [own for _, own in dims]


def _blocks(m: int, n: int, wanted: int, rounds: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the blocks of a product that so many threads share, multiples of ``rounds``."""
    best, least = (m, n), float("inf")
    for down in range(1, wanted + 1):
        rows, columns = (
            min(size, max(-(-_LEAST_BLOCK // to) * to, -(-size // (parts * to)) * to))
            for size, parts, to in ((m, down, rounds[0]), (n, wanted // down, rounds[1]))
        )
        # What a thread multiplies, the largest blocks in as many turns as there are, and what it reads for that: BLAS
        # was measured to lose about twice as much by few columns as by few rows, and `gemm` copies the columns.
        turns = -(-(-(-m // rows) * -(-n // columns)) // wanted)
        cost = turns * rows * columns * (1 + _ROUND / (2 * rows) + _ROUND / columns)
        if cost <= least:
            least, best = cost, (rows, columns)
    return best


@functools.lru_cache(maxsize=4096)
def plan(
    a: tuple[int, ...], a_strides: tuple[int, ...], b: tuple[int, ...], b_strides: tuple[int, ...],
    out: tuple[int, ...] | None, size: int, threads: int, suits: bool, blas: bool,
) -> Plan | None:  # fmt: skip
    """How to multiply arrays of these shapes and strides into one of strides ``out`` (None: a new one) on so many
    threads, with `gemm` (``suits``) and BLAS or one of them. None where they cannot read or write one of the arrays as
    it lies, where shapes do not fit, and where it is left to BLAS on one thread, which NumPy calls itself."""
    m, k, n = a[-2], a[-1], b[-1]
    if b[-2] != k or min(m, k, n) < 2:
        return None
    try:
        shape = (*np.broadcast_shapes(a[:-2], b[:-2]), m, n)
    except ValueError:
        return None
    if out is None:
        steps = list(itertools.accumulate((size, *shape[:0:-1]), lambda x, y: x * y))
        out = tuple(reversed(steps))
    layouts = [_layout(a, a_strides, size), _layout(b, b_strides, size), _layout(shape, out, size)]
    batches = _batches([a, b, shape], [a_strides, b_strides, out])
    if None in layouts or layouts[2][0] != _AS_IT_IS or batches is None:  # type: ignore[index]
        return None
    (ta, lda), (tb, ldb), (_, ldc) = layouts  # type: ignore[misc]
    (outer, inner), (outer_steps, inner_steps) = batches
    count, each = outer * inner, m * n * k
    if not count:
        return None
    own = suits and each < _OWN and m >= _OWN_ROWS
    if not own and (threads == 1 or not blas):
        return None
    shared = threads > 1 and count * each >= _SHARED
    wanted = threads if shared and count < 2 * threads else 1
    if wanted > 1 and each >= _LONG * threads:
        wanted *= _SEVERAL
    rounds = (gemm.ROWS, gemm.WIDTH // size) if own else (_ROUND, _ROUND)
    rows, columns = _blocks(m, n, wanted, rounds)
    across = -(-n // columns)
    parts = -(-m // rows) * across
    by_row = rows * a_strides[-2]
    by_column = columns * b_strides[-1]
    return Plan(
        shape,
        (m, n, k, lda, ldb, ldc),
        (inner, *outer_steps, *inner_steps, rows, columns, parts, across, by_row, by_column, rows * ldc * size,
         columns * size, columns * size, ta, tb),
        count * parts,
        shared,
        own,
        tuple(len(x) == 2 and how == (_TRANSPOSED, x[0]) for x, how in ((a, layouts[0]), (b, layouts[1]))),
    )  # fmt: skip


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray | None:
    """a @ b + bias of float32 or float64 arrays of one dtype with two dims at least; bias (n,) is contiguous.

    None where NumPy is to do it: `plan` says so, or it is BLAS's and another thread of the program has it.
    """
    made = code()
    if made is None:
        return None
    threads = settings.get_num_threads()
    given = made.get_threads() if made.blas else threads
    dtype, into, threads = a.dtype, None if out is None else out.strides, min(given, threads)
    how = plan(a.shape, a.strides, b.shape, b.strides, into, dtype.itemsize, threads, made.own, bool(made.blas))
    if how is None or (out is not None and out.shape != how.shape):
        return None
    if out is None:
        out = np.empty(how.shape, dtype)
    if how.own:  # on several threads of a program at the same time as well: the same bits, whoever has the pool
        _run(made, how, a, b, out, bias)
        return out
    if not _State.lock.acquire(blocking=False):
        return None
    _State.threads = given
    try:
        made.set_threads(1)
        _run(made, how, a, b, out, bias)
    finally:
        made.set_threads(given)
        _State.threads = None
        _State.lock.release()
    return out


def _run(made: _Code, how: Plan, a: np.ndarray, b: np.ndarray, out: np.ndarray, bias: np.ndarray | None) -> None:
    """Fill a job and run it."""
    try:
        job = made.jobs.pop()
    except IndexError:
        job = made.new_job()
    pointer, memory, status = job
    address, kind, programs, own = engine.address, out.dtype.char, how.programs, how.own
    _JOB.pack_into(
        memory, 0, made.function(kind, own), gemm.SCRATCH if own else 0, status, 1,
        0, programs, programs, 1, 1, pool.scratch.grow(gemm.SCRATCH) if own else 0, 0 if own else made.blas[kind],
        address(a.T if how.columns[0] else a), address(b.T if how.columns[1] else b), address(out),
        0 if bias is None else address(bias), *how.sizes, *how.steps,
    )  # fmt: skip
    if how.shared:
        pool.run(pointer, programs)
    else:
        pool.runtime().inline(pointer)
    made.jobs.append(job)


def _after_fork() -> None:
    """A child whose parent was here has neither the thread that was nor its locks."""
    _State.lock, _State.making = threading.Lock(), threading.Lock()
    if _State.threads is not None:
        made = code()
        if made is not None:
            made.set_threads(_State.threads)
        _State.threads = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
