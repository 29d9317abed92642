"""Device ``native``: the processor it compiles for, the disk, threads, launches, and what a launch decides."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import tensorlib as T
from tensorlib import _blas
from tensorlib.errors import ArgumentError, DeviceError, KernelError
from tensorlib.op import jit
from tensorlib.runtime import cache, compiler
from tensorlib.runtime.launch import launch
from tensorlib.runtime.native import codegen, engine, helpers, linker, machine, pool, settings

pytestmark = pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")
ROOT = Path(__file__).parents[2]


@jit
def scale(out, x, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)


@jit
def reverse(out, x, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + n - 1 - i, mask=i < n), mask=i < n)


@jit
def asserts(x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.device_assert(tl.load(x + i, mask=i < n, other=0.0) >= 0.0, "a root of a negative number", mask=i < n)


@jit
def prints(x, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.device_print("x: ", tl.load(x + i))
    tl.device_print("n: ", n)


@jit
def programs(out, y, z):
    at = (tl.program_id(2) * y + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(out + at, at + 1000 * z)


@jit
def scalars(out, a, b, c, d, e, f):
    tl.store(out, a.to(tl.float64) + b + c + d + e + f)


@jit
def slow(out, n):
    s = tl.program_id(0).to(tl.float32)
    for _ in range(n):
        s = s * 0.999 + 1.0
    tl.store(out + tl.program_id(0), s)


@jit
def noisy(out, n):
    at = tl.program_id(0)
    s = at.to(tl.float32)
    for _ in range(n):
        s = s * 0.999 + 1.0
    tl.store(out + at, s)
    tl.device_print("here: ", at)


@pytest.fixture
def count():
    before = settings.get_num_threads()
    yield settings.set_num_threads
    settings.set_num_threads(before)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache on the disk, and nothing compiled in this process."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(engine, "_compiled", {})
    device = T.device("native").engine
    if device is not None:
        device.launchers.forget()
    compiled = []
    real = engine._compile
    monkeypatch.setattr(engine, "_compile", lambda request: compiled.append(request) or real(request))
    return compiled


def native(array):
    return T.from_numpy(np.asarray(array)).to("native")


def run_scale(n=1000, factor=2.5):
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    out = T.empty(n, device="native")
    launch(scale, (-(-n // 256),), out._array, native(x)._array, n, factor, BLOCK=256)
    np.testing.assert_array_equal(out.cpu().numpy(), x * np.float32(factor))


# -- the processor -----------------------------------------------------------------------------------------------------


def test_the_host_has_vectors():
    host = machine.host()
    assert host.lanes in (4, 8, 16)
    assert host.has("avx512f") == (host.lanes == 16) or host.architecture != "x86_64"
    assert machine.features() == host


TEXT = """
define void @f(ptr %p) {
  %x = load <16 x float>, ptr %p, align 4
  %y = fadd <16 x float> %x, %x
  store <16 x float> %y, ptr %p, align 4
  ret void
}
"""
REGISTERS = {"x86-64": "%xmm", "x86-64-v2": "%xmm", "x86-64-v3": "%ymm", "x86-64-v4": "%zmm", "neon": ".4s"}


@pytest.mark.parametrize("name", machine.LEVELS)
def test_other_processors_are_compiled_for(name):
    made = machine.level(name)
    text = codegen.assembly(TEXT, made)
    if name in REGISTERS:
        assert REGISTERS[name] in text
    for larger in {4: ("%ymm", "%zmm"), 8: ("%zmm",)}.get(made.lanes, ()):
        assert larger not in text
    assert codegen.compile(TEXT, made)[:4] == b"\x7fELF" or "linux" not in made.triple


def test_an_unknown_processor_is_an_error(monkeypatch):
    monkeypatch.setenv("TENSORLIB_NATIVE_CPU", "pentium")
    with pytest.raises(ArgumentError, match=r"^TENSORLIB_NATIVE_CPU=pentium: expected one of .*x86-64-v3.*; unset it"):
        machine.features()


def test_code_for_another_processor_is_not_run(fresh, monkeypatch):
    other = "neon" if machine.host().architecture == "x86_64" else "x86-64"
    monkeypatch.setenv("TENSORLIB_NATIVE_CPU", other)
    with pytest.raises(DeviceError, match=f"cannot run code for {other}: it lacks "):
        run_scale()


def test_what_is_no_module_is_an_error():
    with pytest.raises(KernelError, match="LLVM does not take"):
        codegen.compile("define void @f( {", machine.host())


def test_what_cannot_be_linked_is_an_error():
    text = "declare void @nobody_has_this()\ndefine void @f() {\n call void @nobody_has_this()\n ret void\n}"
    with pytest.raises(KernelError, match="cannot be linked"):
        linker.load(codegen.compile(text, machine.host()), "f")


@pytest.mark.skipif(codegen.available() and machine.host().architecture != "x86_64", reason="compiles for x86-64")
def test_half_types_convert_where_the_processor_cannot():
    """The compiler's helpers: every half to float, and floats to both halves, rounded to even, from double once."""
    text = """
define void @wide(ptr %in, ptr %out) {
  %x = load half, ptr %in
  %y = fpext half %x to float
  store float %y, ptr %out
  ret void
}
"""
    for source, short in (("float", "half"), ("double", "half"), ("float", "bfloat"), ("double", "bfloat")):
        text += f"""
define void @{source}.{short}(ptr %in, ptr %out) {{
  %x = load {source}, ptr %in
  %y = fptrunc {source} %x to {short}
  store {short} %y, ptr %out
  ret void
}}
"""
    names = ["wide", "float.half", "double.half", "float.bfloat", "double.bfloat"]
    image = codegen.compile(text, machine.level("x86-64"))
    assert any(helper.encode() in image for helper in helpers.NAMES)
    code = linker.load(image, *names)
    ffi = pool.runtime().ffi

    def convert(name, given, dtype):
        out = np.empty(given.shape, dtype)
        call = ffi.cast("void(*)(uintptr_t, uintptr_t)", code[name])
        for i in range(given.size):
            call(given.ctypes.data + i * given.itemsize, out.ctypes.data + i * out.itemsize)
        return out

    bits = np.arange(0, 1 << 16, 7, dtype=np.uint16)
    halves = bits.view(np.float16)
    np.testing.assert_array_equal(convert("wide", halves, np.float32), halves.astype(np.float32))
    rng = np.random.default_rng(0)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.99, 65520, 1e9, 2**-24, 2**-25, 3 * 2**-25, 1 + 2**-11,
             1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 3.3961775e38, 1e-40, 1e-45]  # fmt: skip
    wide = np.concatenate([edges, rng.standard_normal(300) * 10.0 ** rng.integers(-42, 39, 300)])
    for source in (np.float32, np.float64):
        with np.errstate(all="ignore"):
            given = wide.astype(source)
        for short, dtype in (("half", np.float16), ("bfloat", ml_dtypes.bfloat16)):
            name = f"{'float' if source is np.float32 else 'double'}.{short}"
            with np.errstate(all="ignore"):
                want = given.astype(dtype)
            if name == "double.bfloat":  # ml_dtypes goes by way of float and rounds twice
                given = given[given == given.astype(np.float32)]
                want = given.astype(dtype)
            found = convert(name, given, dtype)
            nan = np.isnan(want.astype(np.float64))
            np.testing.assert_array_equal(np.isnan(found.astype(np.float64)), nan)
            np.testing.assert_array_equal(found.view(np.uint16)[~nan], want.view(np.uint16)[~nan])


def test_without_a_compiler_the_device_says_so(monkeypatch):
    monkeypatch.setattr(codegen, "available", lambda: False)
    with pytest.raises(DeviceError, match=r"native: needs Triton.*: pip install"):
        engine.Native(T.device("native"))


# -- launches ----------------------------------------------------------------------------------------------------------


def test_a_kernel_runs(fresh):
    run_scale()
    run_scale(n=100_000, factor=-1.0)
    run_scale(n=1)
    assert {r.kernel for r in fresh} == {scale}


def test_tensors_move_and_compute():
    x = T.from_numpy(np.arange(12, dtype=np.float32).reshape(3, 4)).to("native")
    assert str(x.device) == "native"
    y = (x * 2 + 1).sum(1)
    assert str(y.device) == "native"
    np.testing.assert_array_equal(y.cpu().numpy(), (np.arange(12).reshape(3, 4) * 2 + 1).sum(1))
    w = T.ones(4, device="native", requires_grad=True)
    (x @ w).exp().sum().backward()
    want = np.exp(np.arange(12.0).reshape(3, 4).sum(1)) @ np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(w.grad.cpu().numpy(), want, rtol=1e-5)


def test_grids_of_three_sizes():
    out = T.zeros(2 * 3 * 5, dtype=T.int32, device="native")
    programs[(5, 3, 2)](out, 3, 0)
    np.testing.assert_array_equal(out.cpu().numpy(), np.arange(30))


def test_scalars_of_every_type_arrive():
    out = T.zeros(1, dtype=T.float64, device="native")
    given = (True, -5, 2**40, np.float16(0.5), ml_dtypes.bfloat16(0.25), np.float64(0.125))
    launch(scalars, 1, out._array, *given)
    assert out.item() == sum(map(float, given))


def test_a_grid_that_is_none():
    x = T.ones(4, device="native")
    for _ in range(2):  # the slow way, then the quick one
        launch(scale, 0, x._array, x._array, 4, 2.0, BLOCK=16)
        for grid in ((-1,), (1, 1, 1, 1), ()):
            with pytest.raises(KernelError, match="one to three whole sizes"):
                launch(scale, grid, x._array, x._array, 4, 2.0, BLOCK=16)
        launch(scale, 1, x._array, x._array, 4, 2.0, BLOCK=16)
    np.testing.assert_array_equal(x.cpu().numpy(), np.full(4, 4.0))


def test_kernels_are_launched_by_name():
    x, out = native(np.arange(8, dtype=np.float32)), T.empty(8, device="native")
    for call in (
        lambda k: k(out, x, 8, 3.0, 8),
        lambda k: k(out, x, n=8, factor=3.0, BLOCK=8, num_warps=2),
        lambda k: k(BLOCK=8, out=out, x=x, n=8, factor=3.0, num_stages=1, maxnreg=None),
    ):
        out.zero_()
        call(scale[lambda meta: (-(-meta["n"] // meta["BLOCK"]),)])
        np.testing.assert_array_equal(out.cpu().numpy(), 3 * np.arange(8))
    for wrong, match in (
        (lambda: scale[1](out, x, 8, 3.0), "BLOCK missing"),
        (lambda: scale[1](out, x, 8, 3.0, 8, 9), "at most 5"),
        (lambda: scale[1](out, x, 8, 3.0, 8, n=8), "by position and by name"),
        (lambda: scale[1](out, x, 8, 3.0, BLOCK=8, block=8), "no parameter block"),
    ):
        with pytest.raises(KernelError, match=match):
            wrong()
    with pytest.raises(DeviceError, match="on the CPU"):
        scale[1](T.zeros(8), T.zeros(8), 8, 3.0, BLOCK=8)


def test_a_launch_is_cheap():
    """Some microseconds: the limit is ten times what was measured, for machines that do other things."""
    x, out = T.ones(16, device="native"), T.empty(16, device="native")
    a, b = out._array, x._array

    def once():
        launch(scale, 1, a, b, 16, 2.0, BLOCK=16)

    once()
    best = min(_seconds(once, 200) for _ in range(20))
    assert best < 30e-6


def _seconds(call, times):
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def test_arguments_that_share_memory_take_the_safe_form(fresh):
    x = np.arange(64, dtype=np.float32)
    t, out = native(x), T.empty(64, device="native")
    launch(reverse, 1, out._array, t._array, 64, BLOCK=64)
    np.testing.assert_array_equal(out.cpu().numpy(), x[::-1])
    launch(reverse, 1, t._array, t._array, 64, BLOCK=64)
    np.testing.assert_array_equal(t.cpu().numpy(), x[::-1])
    both = native(np.concatenate([x, x]))
    launch(reverse, 1, both[8:72]._array, both[:64]._array, 64, BLOCK=64)
    np.testing.assert_array_equal(both.cpu().numpy()[8:72], x[::-1])
    assert [r.options["alias"] for r in fresh] == [False, True]


# -- errors of programs ------------------------------------------------------------------------------------------------


def test_guard_names_argument_element_and_program():
    x, out = T.ones(100, device="native"), T.empty(300, device="native")
    with T.backends.native.flags(guard=True):
        launch(scale, 2, out._array, out._array, 300, 2.0, BLOCK=256)
        with pytest.raises(KernelError, match=r"program \(\d,\) of grid \(2,\) loads from element \d+ of x") as error:
            launch(scale, 2, out._array, x._array, 300, 2.0, BLOCK=256)
        assert int(str(error.value).partition("element ")[2].split()[0]) >= 100
        with pytest.raises(KernelError, match=r"stores to element \d+ of out"):
            launch(scale, 2, x._array, out._array, 300, 2.0, BLOCK=256)
        launch(scale, 2, out._array, out._array, 300, 2.0, BLOCK=256)
    launch(scale, 2, out._array, out._array, 300, 2.0, BLOCK=256)


def test_an_assertion_that_fails_is_an_error():
    x = np.ones(1000, np.float32)
    launch(asserts, 4, native(x)._array, 1000, BLOCK=256)
    x[700] = -1
    with pytest.raises(KernelError, match=r"asserts: program \(2,\) of grid \(4,\): .*a root of a negative number"):
        launch(asserts, 4, native(x)._array, 1000, BLOCK=256)
    x[700] = 1
    launch(asserts, 4, native(x)._array, 1000, BLOCK=256)


def test_device_print_prints(capfd):
    launch(prints, 1, native(np.array([1.5, -2.0], np.float32))._array, 7, BLOCK=2)
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if "x:" in line] == ["pid (0, 0, 0) idx (0) x: 1.5", "pid (0, 0, 0) idx (1) x: -2.0"]
    assert [line for line in lines if "n:" in line] == ["pid (0, 0, 0) idx () n: 7"]


def test_every_thread_may_print(capfd, count):
    count(3)
    total = 300
    noisy[(total,)](T.zeros(total, device="native"), 2000)
    lines = sorted(line for line in capfd.readouterr().out.splitlines() if "here:" in line)
    assert lines == sorted(f"pid ({i}, 0, 0) idx () here: {i}" for i in range(total))


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_what_is_on_the_disk_is_not_compiled_again(fresh, monkeypatch):
    run_scale()
    assert len(fresh) == 1
    monkeypatch.setattr(engine, "_compiled", {})
    T.device("native").engine.launchers.forget()
    run_scale()
    assert len(fresh) == 1


def test_a_damaged_entry_is_compiled_again(fresh, monkeypatch, tmp_path):
    run_scale()
    for damage in (lambda c: c[:-1], lambda c: c[:200] + b"\xff" + c[201:], lambda c: b""):
        entries = [p for p in tmp_path.rglob("*.kernel") if b'"target": "native"' in p.read_bytes()]
        for path in entries:
            path.write_bytes(damage(path.read_bytes()))
        before = len(fresh)
        monkeypatch.setattr(engine, "_compiled", {})
        T.device("native").engine.launchers.forget()
        run_scale()
        assert len(fresh) == before + 1


def test_an_entry_of_another_form_is_compiled_again(fresh, monkeypatch):
    run_scale()
    entry = engine._entry(fresh[0])
    header, image = cache.load(entry)
    header.pop("key")
    cache.store(entry, header | {"program": header["program"][:3]}, image)
    assert engine._load(entry) is None
    monkeypatch.setattr(engine, "_compiled", {})
    T.device("native").engine.launchers.forget()
    run_scale()
    assert len(fresh) == 2
    assert engine.Program.from_json(json.loads(json.dumps(cache.load(entry)[0]["program"]))) is not None


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_another_processor_has_entries_of_its_own(fresh, monkeypatch, name):
    if machine.host().architecture != "x86_64" or (name == "x86-64-v3" and machine.host().lanes < 8):
        pytest.skip("this processor cannot run it")  # which an error would say: the test before
    run_scale()
    monkeypatch.setenv("TENSORLIB_NATIVE_CPU", name)
    T.device("native").engine.launchers.forget()
    run_scale()
    T.device("native").engine.launchers.forget()
    assert len(fresh) == 2
    assert engine._entry(fresh[0]) != engine._entry(fresh[1])


def test_threads_that_ask_at_once_compile_once(fresh):
    barrier, errors = threading.Barrier(4), []

    def work():
        try:
            barrier.wait()
            run_scale()
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not errors
    assert len(fresh) == 1


PROGRAM = """
import sys
import numpy as np
import tensorlib as T
x = T.from_numpy(np.arange(6, dtype=np.float32)).to("native")
print(float((x * 2).exp().sum().cpu()), "triton" in sys.modules, "tensorlib.runtime.native.lower" in sys.modules)
"""


def _program(text, tmp_path, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TENSORLIB_CACHE_DIR": str(tmp_path), **environment},
    )  # fmt: skip


def test_a_warm_start_needs_neither_triton_nor_the_lowering(tmp_path):
    first, second = (_program(PROGRAM, tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.split()[1:] == ["True", "True"]
    assert second.stdout.split() == [first.stdout.split()[0], "False", "False"]


def test_processes_that_ask_at_once_compile_once(tmp_path):
    text = PROGRAM + "from tensorlib.runtime.native import engine\n"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TENSORLIB_CACHE_DIR": str(tmp_path)},
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [p.communicate(timeout=120)[0].split()[0] for p in running]
    assert said[0] == said[1]
    kernels = [p for p in tmp_path.rglob("*.kernel") if b'"target": "native"' in p.read_bytes()]
    assert len(kernels) == len({p.name for p in kernels})
    assert not list(tmp_path.rglob("*.tmp"))


# -- threads -----------------------------------------------------------------------------------------------------------

COUNTS = """
define void @count(ptr %arguments, i64 %first, i64 %last, i32 %nx, i32 %ny, i32 %nz, ptr %scratch, ptr %status) {
entry:
  %out = load ptr, ptr %arguments
  store i64 1, ptr %scratch
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %next, %loop ]
  %at = getelementptr i64, ptr %out, i64 %i
  %old = atomicrmw add ptr %at, i64 1 monotonic
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %last
  br i1 %more, label %loop, label %end
end:
  ret void
}

declare i32 @usleep(i32)

define void @count_slowly(ptr %a, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %next, %loop ]
  %next = add i64 %i, 1
  %slept = call i32 @usleep(i32 1000)
  call void @count(ptr %a, i64 %i, i64 %next, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status)
  %more = icmp slt i64 %next, %last
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""


class Job:
    """A job that counts how often each of its programs was run."""

    def __init__(self, total, function="count"):
        self.runtime = pool.runtime()
        self.code = linker.load(codegen.compile(COUNTS, machine.host()), function)
        self.out = np.zeros(total, np.int64)
        ffi = self.runtime.ffi
        self.memory = ffi.new("char[]", pool.ARGUMENTS + 64 + pool.STATUS)
        data = ffi.buffer(self.memory)
        status = int(ffi.cast("uintptr_t", self.memory)) + pool.ARGUMENTS + 64
        pool.HEAD.pack_into(data, 0, self.code[function], 4096, status, 1)
        scratch = pool.scratch.grow(4096)
        struct.pack_into("<" + pool.RANGE, data, pool.HEAD.size, 0, total, total, 1, 1, scratch)
        struct.pack_into("<Q", data, pool.ARGUMENTS, self.out.ctypes.data)


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [1, 2, 7, 1000, 100_000])
def test_every_program_runs_once(count, number, total):
    count(number)
    job = Job(total)
    for times in (1, 2):
        pool._RANGE.pack_into(job.runtime.ffi.buffer(job.memory), pool._FIRST, 0, total)
        pool.run(job.memory, total)
        assert (job.out == times).all()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("said", [1, 1000])
def test_a_long_job_is_run_in_parts(count, monkeypatch, number, said):
    """60 programs of 1 ms, whatever they were said to take: Python looks for signals about every 20 ms."""
    count(number)
    job, parts = Job(60, "count_slowly"), []
    data = job.runtime.ffi.buffer(job.memory)
    struct.pack_into("<Q", data, 24, said)

    def noted(run):
        def part(*args):
            begin, end = pool._RANGE.unpack_from(data, pool._FIRST)
            parts.append(begin)
            assert end == 60
            return run(*args)

        return part

    monkeypatch.setattr(job.runtime, "share", noted(job.runtime.share))
    monkeypatch.setattr(job.runtime, "alone", noted(job.runtime.alone))
    pool.run(job.memory, 60)
    assert (job.out == 1).all() and parts == sorted(set(parts))
    assert len(parts) > 1 and max(np.diff([*parts, 60])) <= 25 * number


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupt_is_seen_where_a_loops_count_is_an_argument(count):
    """2000 programs of about 5 ms, which the estimate of a kernel's time cannot know: at least 5 s."""
    count(2)
    out = T.zeros(2000, device="native")
    slow[(2000,)](out, 10)
    n, took = 100_000, 0.0
    while took < 0.005:
        n *= 2
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            slow[(1,)](out, n)
            runs.append(time.perf_counter() - start)
        took = min(runs)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            slow[(2000,)](out, n)
        assert time.perf_counter() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    slow[(2000,)](out, 0)
    np.testing.assert_array_equal(out.cpu().numpy(), np.arange(2000))


def test_no_more_threads_than_can_be(count, monkeypatch):
    monkeypatch.setattr(settings._State, "threads", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1000000")
    assert settings.get_num_threads() == settings.MOST_THREADS
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    monkeypatch.setattr(settings._State, "threads", None)
    assert settings.get_num_threads() == _blas.usable_processors()
    settings.set_num_threads(10**6)
    assert settings.get_num_threads() == settings.MOST_THREADS


def test_jobs_of_several_threads_at_once(count):
    """One of them has the workers; the others run on their own thread."""
    count(2)
    jobs = [Job(20_000) for _ in range(4)]

    def work(job):
        pool.scratch.grow(4096)
        data = job.runtime.ffi.buffer(job.memory)
        struct.pack_into("<Q", data, pool.HEAD.size + 32, pool.scratch.address)
        for _ in range(50):
            pool._RANGE.pack_into(data, pool._FIRST, 0, 20_000)  # as every launch does
            pool.run(job.memory, 20_000)

    workers = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all((job.out == 50).all() for job in jobs)


def test_the_number_of_threads(count, monkeypatch):
    monkeypatch.setattr(settings._State, "threads", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert settings.get_num_threads() == 3
    T.set_num_threads(2)
    assert settings.get_num_threads() == 2
    assert pool.pool().workers == 1


def test_a_forked_child_starts_its_own(tmp_path):
    done = _program(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        import numpy as np
        import tensorlib as T
        T.set_num_threads(2)
        x = T.from_numpy(np.ones(1 << 20, np.float32)).to("native")
        assert float((x + x).sum().cpu()) == 2 << 20
        child = os.fork()
        if not child:
            assert float((x + x).sum().cpu()) == 2 << 20
            assert float((x.exp() - x.exp()).sum().cpu()) == 0  # compiled and linked by the child
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert float((x + x).sum().cpu()) == 2 << 20
        print("well")
        """,
        tmp_path,
    )
    assert done.stdout == "well\n", done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupt_ends_a_long_launch(count):
    """Between two parts of the grid; the threads and the kernel are as good as before."""
    count(2)
    total = 4000
    out = T.zeros(total, device="native")
    slow[(total,)](out, 10)
    start = time.perf_counter()
    slow[(total,)](out, 200_000)
    whole = time.perf_counter() - start
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, min(0.05, whole / 10))
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            slow[(total,)](out, 200_000)
            time.sleep(1)  # a machine so fast that the launch was over
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    slow[(total,)](out, 0)
    np.testing.assert_array_equal(out.cpu().numpy(), np.arange(total))


def test_the_interpreters_lock_is_free_while_a_kernel_runs(count):
    count(1)
    out, ticks, stop = T.zeros(8, device="native"), [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    slow[(8,)](out, 10)
    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    slow[(8,)](out, 20_000_000)
    end = time.perf_counter()
    stop.set()
    thread.join()
    assert sum(start < t < end for t in ticks) > (end - start) / 0.1


def test_an_unloaded_kernel_frees_its_code():
    import gc

    before = _mapped()
    image = codegen.compile(COUNTS, machine.host())
    for _ in range(200):
        linker.load(image, "count")
    gc.collect()
    assert _mapped() - before < 150  # mappings of 200 that were linked


def _mapped():
    maps = Path("/proc/self/maps")
    return len(maps.read_text().splitlines()) if maps.exists() else 0


def test_a_program_with_too_few_values_is_an_error(fresh, monkeypatch):
    made = SimpleNamespace(
        text=COUNTS, grid="count", parameters=(SimpleNamespace(name="out", type="ptr", offset=0),), arguments_size=8,
        scratch=64, cost=1.0, stores={0}, loads=set(), messages=(),
    )  # fmt: skip
    monkeypatch.setattr(engine, "lowered_kernel", lambda *a, **k: made)
    with pytest.raises(KernelError, match="its code takes 1 values, a launch gives 4"):
        run_scale()


def test_the_key_tells_forms_apart(fresh):
    keys = ("*fp32 16", "*fp32 16", "i32", "fp32")
    target = f"native {machine.features().text}"
    entries = {
        engine._entry(compiler.Request(scale, keys, {"BLOCK": block}, target, options={"alias": a, "guard": g}))
        for block in (16, 32) for a in (False, True) for g in (False, True)
    }  # fmt: skip
    assert len(entries) == 8
    assert None not in entries
