"""Compilation ahead: what a program would compile, worker processes, and what becomes of those that fail or die."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import tensorlib
from tensorlib import _dtypes
from tensorlib._array import empty
from tensorlib._device import device
from tensorlib.errors import DeviceError, KernelError
from tensorlib.runtime import ahead, cache, compiler
from tensorlib.runtime.compiler import define, jit
from tensorlib.runtime.launch import launch

pytest.importorskip("triton")

FACTOR = 3.0


@jit
def _scaled(x):
    return x * FACTOR


@jit
def _kernel(out, x, n, fn: tl.constexpr, dtype: tl.constexpr = None, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    value = fn(tl.load(x + i, mask=i < n))
    tl.store(out + i, value if dtype is None else value.to(dtype), mask=i < n)


def _times(factor):
    @jit
    def times(x, again: tl.constexpr = factor):
        return _scaled(x) * factor * again

    return times


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLIB_CACHE", raising=False)
    monkeypatch.setattr(compiler, "_compiled", {})


def _launch(fn, target="sm_90", **constants):
    x = empty((64,), np.float32, device(target))
    launch(_kernel, 1, x, x, 64, fn=fn, **constants)


def _nothing(*_):
    raise AssertionError("compiled in this process")


def test_a_dry_run_compiles_nothing_and_says_what_would_be(monkeypatch):
    monkeypatch.setattr(compiler, "_run_triton", _nothing)

    def step():
        x = tensorlib.ones(64, 64, device="sm_90", requires_grad=True)
        for _ in range(2):
            tensorlib.softmax(x @ x, 1).sum().backward()
        _launch(_scaled, "gfx942")

    found = ahead.collect(step)
    assert {"matmul_kernel", "softmax_kernel", "_kernel"} <= {r.kernel.__name__ for r in found}
    assert len({r.hashable for r in found}) == len(found)  # each once
    assert {r.target for r in found} == {"sm_90", "gfx942"}
    assert not compiler.collectors
    with pytest.raises(DeviceError):
        ahead.collect(lambda: tensorlib.ones(3, device="sm_90").tolist())
    assert not compiler.collectors


def test_workers_compile_what_this_process_then_finds(monkeypatch):
    generated = define("def g(x):\n    return s(x) + c\n", {"s": _scaled, "c": 2})

    def step():
        tensorlib.exp(tensorlib.empty(64, device="sm_90"))
        _launch(_scaled)
        _launch(_times(2.0), "gfx942")
        _launch(generated, dtype=np.dtype(np.float16))
        _launch(generated, dtype=_dtypes.bfloat16, N=128)

    requests = ahead.collect(step)
    failing = requests[-1]._replace(constants={**requests[-1].constants, "N": 3})
    monkeypatch.setattr(compiler, "_run_triton", _nothing)
    told = []
    outcomes = ahead.compile_all([*requests, failing, requests[0]], 2, lambda *what: told.append(what))
    assert [o.request for o in outcomes] == [*requests, failing, requests[0]]
    assert [o.status for o in outcomes] == ["compiled"] * len(requests) + ["failed", "compiled"]
    assert [o.error for o in outcomes[: len(requests)]] == [""] * len(requests)
    for part in ("_kernel: does not compile for sm_90", "power of 2", "out: *fp32 16", "'N': 3", "num_warps=4"):
        assert part in outcomes[-2].error
    assert [(n, of) for _, n, of in told] == [(i + 1, len(requests) + 1) for i in range(len(requests) + 1)]
    assert {id(o.request) for o, _, _ in told} == {id(r) for r in (*requests, failing)}
    step()  # finds all
    assert {o.status for o in ahead.compile_all(requests)} == {"found"}


def test_what_workers_make_is_what_this_process_makes():
    requests = ahead.collect(lambda: (_launch(_scaled), _launch(_scaled, "gfx942")))
    ahead.compile_all(requests, 1)
    stored = [compiler.compile_kernel(*r).binary for r in requests]
    cache.clear()
    compiler._compiled.clear()
    assert stored == [compiler.compile_kernel(*r).binary for r in requests]


MODULE = """
import os
from tensorlib.runtime.compiler import jit
if os.environ.get("A_TEST_ENDS_THIS_PROCESS"):
    os.kill(os.getpid(), 9)
@jit
def k(x, N: "tl.constexpr"):
    tl.store(x, N)
"""


def test_a_process_that_dies_takes_one_kernel_with_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "deadly_kernels.py").write_text(MODULE)
    deadly = importlib.import_module("deadly_kernels").k
    monkeypatch.setenv("A_TEST_ENDS_THIS_PROCESS", "1")
    good = ahead.collect(lambda: _launch(_scaled))[0]
    bad = ahead.Request(deadly, ("*fp32",), {"N": 1}, "sm_90")
    outcomes = ahead.compile_all([bad, good], 1)
    assert [o.status for o in outcomes] == ["failed", "compiled"]
    assert "k: does not compile for sm_90: the process that compiled it ended by signal 9" in outcomes[0].error


def test_a_file_that_changed_is_compiled_as_this_process_has_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "changed_kernels.py"
    file.write_text(MODULE)
    old = importlib.import_module("changed_kernels").k
    request = ahead.Request(old, ("*fp32",), {"N": 7}, "sm_90")
    entry = compiler.entry_key(request)
    file.write_text(MODULE.replace("tl.store(x, N)", "tl.store(x, N * 100)"))
    assert [o.status for o in ahead.compile_all([request], 1)] == ["compiled"]
    header, binary = cache.load(entry)
    assert header["metadata"]["name"] == "k"
    file.write_text(MODULE)
    cache.clear()
    assert compiler.compile_kernel(*request).metadata.name == "k"
    assert _code(binary) == _code(compiler.compile_kernel(*request).binary)


def _code(cubin):
    """The machine code in it, which debugging information is not."""
    import struct

    table = struct.unpack_from("<Q", cubin, 0x28)[0]
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    start = sections[names][4]
    for label, _, _, _, at, length in sections:
        if cubin[start + label :].startswith(b".text."):
            return cubin[at : at + length]
    raise AssertionError("no code")


def test_what_cannot_be_told_is_compiled_here(monkeypatch):
    import triton

    request = ahead.collect(lambda: _launch(_scaled))[0]
    asked, run = [], compiler._run_triton
    monkeypatch.setattr(compiler, "_run_triton", lambda r: asked.append(r) or run(r))
    with triton.knobs.nvidia.scope():  # a setting that no other process has
        triton.knobs.nvidia.__dict__["disable_ptxas_opt"] = True
        outcomes = ahead.compile_all([request], 1)
    assert ([o.status for o in outcomes], len(asked)) == (["compiled"], 1)
    bad = request._replace(constants={**request.constants, "N": 3})
    monkeypatch.setattr(ahead._Told, "value", lambda *_: (_ for _ in ()).throw(ahead.Unknown("a value")))
    assert [o.status for o in ahead.compile_all([request, bad], 1)] == ["compiled", "failed"]


def test_a_cache_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(KernelError, match=r"compile_all: the cache folder .* cannot be written"):
        ahead.compile_all([])


def test_an_error_of_the_caller_ends_the_workers(monkeypatch):
    made = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: made.append(start(*a, **k)) or made[-1])
    requests = ahead.collect(lambda: [_launch(_scaled, N=n) for n in (64, 128, 256)])

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ahead.compile_all(requests, 2, stop)
    assert made
    assert all(p.wait(10) is not None for p in made)


def test_a_script_without_a_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import numpy as np
from tensorlib._array import empty
from tensorlib._device import device
from tensorlib.runtime import ahead
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import launch
C = 5
@jit
def k(x, N: "tl.constexpr" = C):
    tl.store(x, N * C)
x = empty((4,), np.float32, device("sm_80"))
print([o.status for o in ahead.compile_all(ahead.collect(lambda: launch(k, 1, x)), 1)])
print([o.status for o in ahead.compile_all(ahead.collect(lambda: launch(k, 1, x)), 1)])
"""
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert ran.stdout == "['compiled']\n['found']\n", ran.stderr


def test_every_kind_of_value_is_heard_as_it_was_told():
    values = (
        None, True, 3, -(2**70), "text", 1.5, float("-inf"), -0.0, np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16),
        _dtypes.float8_e5m2, np.float32, np.float64(0.1), np.int8(-3), ml_dtypes.bfloat16(2.5), (1, (2.0, ())), min, np,
        np.ndarray,
    )  # fmt: skip
    for value in values:
        told = ahead._Told(True)
        heard = ahead._Heard(told.functions).value(told.value(value))
        assert type(heard) is type(value)
        assert repr(heard) == repr(value)
    nan = ahead._Heard([]).value(ahead._Told(True).value(float("nan")))
    assert nan != nan
    with pytest.raises(ahead.Unknown):
        ahead._Told(True).value(object())
