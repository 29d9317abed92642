"""What the versions of Triton differ in, fingerprints, and threads that compile at once."""

from __future__ import annotations

import dis
import importlib
import inspect
import os
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

import tensorlib
from tensorlib.errors import KernelError
from tensorlib.runtime import cache, compiler, fingerprint, versions
from tensorlib.runtime.compiler import Request, define, jit, registry

triton = pytest.importorskip("triton")


@jit
def _kernel(out, x, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i) * 2)


@pytest.fixture(autouse=True)
def nothing_compiled(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "_compiled", {})


def _request(N=64, target="sm_90"):
    return Request(_kernel, ("*fp32 16", "*fp32 16"), {"N": N}, target)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_versions_that_work_and_that_do_not():
    for version in ("3.6.0", "3.7.1", "3.8.0+git123", "3.9.9"):
        versions.check(version)
    for version in ("2.3.1", "3.5.1", "3.10.0", "3.11.0.dev20260101", "4.0", "unknown"):
        with pytest.raises(KernelError, match=r"Triton .* is installed, tensorlib works with triton>=3.6,<3.10: pip"):
            versions.check(version)


def test_what_is_installed_is_known_without_importing_it():
    found = versions.require()
    assert found == (os.path.dirname(triton.__file__), triton.__version__)
    assert f"{found.number[0]}.{found.number[1]}." in triton.__version__
    code = (
        "import sys; from tensorlib.runtime import versions as v; print(v.require().version, 'triton' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{triton.__version__} False\n"


def test_an_unknown_version_is_refused_before_it_is_used(tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton/__init__.py").write_text("__version__ = '3.5.0'\nraise AssertionError('imported')\n")
    code = "import tensorlib as t; t.exp(t.ones(3)); t.exp(t.empty(3, device='sm_90'))"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "KernelError: exp: Triton 3.5.0 is installed" in ran.stderr


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_the_assembler_is_the_one_that_triton_runs(arch):
    from triton.backends.nvidia.compiler import get_ptxas

    assert versions.assembler(f"sm_{arch}") == get_ptxas(arch).path
    assert versions.assembler("gfx942") is None


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_metadata_is_the_same_for_all(target):
    compiled = compiler.compile_kernel(*_request(target=target))
    assert compiled.metadata == versions.Metadata("_kernel", 0, 4)._replace(name=compiled.name)
    assert (compiled.num_ctas, compiled.cooperative, compiled.pdl, compiled.tensordesc_meta) == (1, False, False, ())
    assert (compiled.global_scratch_size, compiled.profile_scratch_size) == (0, 0)
    assert (compiled.keys, compiled.constants) == (("*fp32 16", "*fp32 16"), {"N": 64})
    cluster = compiler.compile_kernel(*_request()._replace(options={"num_ctas": 2, "launch_pdl": True}))
    assert (cluster.num_ctas, cluster.pdl) == (2, True)


@jit
def _described(x, M, N, BLOCK: tl.constexpr):
    x = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[BLOCK, BLOCK])
    x.store([0, 0], x.load([0, 0]) * 2)


def test_scratch_memory_that_a_kernel_asks_for():
    keys = ("*fp32 16", "i32 16", "i32 16")
    compiled = compiler.compile_kernel(_described, keys, {"BLOCK": 32}, "sm_90")
    assert compiled.global_scratch_size >= 128
    assert compiled.global_scratch_align == 128
    compiler._compiled.clear()
    assert compiler.compile_kernel(_described, keys, {"BLOCK": 32}, "sm_90").metadata == compiled.metadata


# -- fingerprints ------------------------------------------------------------------------------------------------------


def _names_by_dis(code):
    found = {s.argval: None for s in dis.get_instructions(code) if s.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _names_by_dis(inner)
    return found


def test_every_kernel_has_its_source_its_names_and_a_fingerprint():
    assert len(registry) > 300
    kernels = [f for f in registry.values() if f.__module__.startswith("tensorlib.")]
    seen = {f.fingerprint for f in kernels}
    assert len(seen) == len(kernels)
    for f in kernels:
        assert set(fingerprint.names_loaded(f.fn.__code__)) == set(_names_by_dis(f.fn.__code__)), f
        assert f.source == inspect.getsource(f.fn).rstrip(), f


def test_names_after_many_others():
    names = [f"name_{i}" for i in range(700)]  # their numbers take more than one byte
    code = compile("def f():\n" + "".join(f"    {n}.{n}\n" for n in names), "", "exec").co_consts[0]
    assert fingerprint.names_loaded(code) == names


def _ends_oddly(x):
    y: tl.constexpr = 2
    text = """
not indented
"""
    return (
  x, y, text
    )  # fmt: skip


def test_source_to_the_last_line():
    assert fingerprint.source(_ends_oddly) == inspect.getsource(_ends_oddly).rstrip()
    with pytest.raises(fingerprint.Unknown):
        fingerprint.source(types.FunctionType(compile("1", "<nowhere>", "exec"), {}, "f"))


def test_stock_kernels_have_one():
    import stock_kernels

    assert len({compiler.as_jit(f).fingerprint for f in vars(stock_kernels).values() if hasattr(f, "cache_key")}) >= 1


def test_a_file_edited_under_the_program_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compiler._Edited, "found", False)
    text = "from tensorlib.runtime.compiler import jit\n@jit\ndef k(x, N: 'tl.constexpr'):\n    tl.store(x, {})\n"
    file = tmp_path / "edited_kernels.py"
    file.write_text(text.format("1.0"))
    module = importlib.import_module("edited_kernels")
    assert module.k.fingerprint
    time.sleep(0.01)
    file.write_text(text.format("1234.0"))
    compiler.compile_kernel(module.k, ("*fp32",), {"N": 1}, "sm_90")
    assert cache.usage() == (0, 0)
    compiler.compile_kernel(*_request())
    assert cache.usage() == (0, 0)  # other files may have been edited too


# -- threads -----------------------------------------------------------------------------------------------------------


def _in_threads(n, f):
    found = [None] * n

    def run(i):
        try:
            found[i] = f(i)
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return found


def test_threads_compile_once(monkeypatch):
    asked, run = [], compiler._run_triton

    def slowly(request):
        asked.append(request)
        time.sleep(0.1)
        return run(request)

    monkeypatch.setattr(compiler, "_run_triton", slowly)
    found = _in_threads(8, lambda i: compiler.compile_kernel(*_request(64 if i % 2 else 32)))
    assert len(asked) == 2
    assert len(set(map(id, found))) == 2
    assert {c.constants["N"] for c in found} == {32, 64}
    assert not compiler._flights


def test_threads_that_wait_for_a_failure_fail_alike(monkeypatch):
    asked, run = [], compiler._run_triton

    def slowly(request):
        asked.append(request)
        time.sleep(0.2)
        return run(request)

    monkeypatch.setattr(compiler, "_run_triton", slowly)
    found = _in_threads(4, lambda i: compiler.compile_kernel(*_request(3)))
    assert all(isinstance(e, KernelError) and "_kernel: does not compile" in str(e) for e in found)
    assert len(asked) == 1
    with pytest.raises(KernelError):  # nothing is remembered of it
        compiler.compile_kernel(*_request(3))
    assert len(asked) == 2


def test_an_interrupted_compilation_is_taken_over(monkeypatch):
    asked, run = [], compiler._run_triton

    def interrupted(request):
        asked.append(request)
        time.sleep(0.1)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return run(request)

    monkeypatch.setattr(compiler, "_run_triton", interrupted)
    found = _in_threads(3, lambda i: compiler.compile_kernel(*_request()))
    assert sum(isinstance(f, KeyboardInterrupt) for f in found) == 1
    assert sum(isinstance(f, compiler.Compiled) for f in found) == 2
    assert len(asked) == 2


def test_hits_do_not_wait_for_who_compiles_or_interprets():
    here = compiler.compile_kernel(*_request())
    compiler.compile_kernel(*_request(32))
    del compiler._compiled[_request(32).hashable]  # on the disk only
    with compiler.LOCK:
        found = _in_threads(2, lambda i: compiler.compile_kernel(*_request((64, 32)[i])))
    assert found[0] is here
    assert found[1].constants == {"N": 32}


def test_only_the_thread_that_compiles_is_silent(capsys):
    with compiler._Silenced():
        print("of the compiler")
        _in_threads(1, lambda i: print("of a thread"))
    print("after")
    assert capsys.readouterr().out == "of a thread\nafter\n"


def test_a_forked_child_has_the_locks_to_itself():
    code = """
import os, threading, warnings
from tensorlib.runtime import compiler
warnings.simplefilter("ignore")
def hold():
    with compiler.LOCK:
        held.set()
        done.wait()
held, done = threading.Event(), threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    with compiler.LOCK:
        os._exit(7)
done.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "7\n"


# -- Triton's own cache ------------------------------------------------------------------------------------------------


def test_triton_compiles_where_its_own_cache_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "triton"))
    before = dict(vars(triton.knobs.cache))
    assert compiler.compile_kernel(*_request()).binary
    assert vars(triton.knobs.cache) == before


def test_triton_compiles_where_its_own_cache_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("TENSORLIB_CACHE", "0")
    first = compiler.compile_kernel(*_request())
    for path in (tmp_path / "triton").rglob("*.json"):
        path.write_bytes(path.read_bytes()[:20])
    compiler._compiled.clear()
    assert compiler.compile_kernel(*_request()).binary == first.binary


def test_a_program_that_is_all_in_the_cache_imports_no_triton():
    x = tensorlib.empty(64, 64, device="sm_90")
    tensorlib.softmax(x @ x, 1)
    code = """
import sys
import tensorlib
x = tensorlib.empty(64, 64, device="sm_90")
tensorlib.softmax(x @ x, 1)
print("triton" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_numbers_and_their_types_as_text():
    text = fingerprint.Reached().text
    values = [1, 1.0, True, "1", np.float32(1), np.int64(1), np.dtype("i4"), np.int32, None, (1,), ((1,),), b"1", min]
    assert len({text(v) for v in values}) == len(values) - 1  # a dtype is its type
    assert text(triton.language.constexpr(3)) != text(3)
    assert text(triton.language.float32) != text(triton.language.float16)
    with pytest.raises(fingerprint.Unknown):
        text(object())
    f, g = (define("def f(x):\n    return x\n", {}) for _ in range(2))
    assert fingerprint.Arguments().text((f,)) == fingerprint.Arguments().text((g,))
