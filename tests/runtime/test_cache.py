"""The cache of compiled kernels on disk: damage, killed processes, folders that refuse, what the key depends on."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from tensorlib import _dtypes
from tensorlib.errors import ArgumentError
from tensorlib.runtime import abi, cache, compiler, versions
from tensorlib.runtime.compiler import Request, define, jit

pytest.importorskip("triton")

KEY = "ab" + "0" * 62
FACTOR = 3.0


@jit
def _scaled(x):
    return x * FACTOR


@jit
def _kernel(out, x, fn: tl.constexpr, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, fn(tl.load(x + i)))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLIB_CACHE", raising=False)
    monkeypatch.setattr(cache._State, "warned", False)
    monkeypatch.setattr(compiler, "_compiled", {})
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch):
    """What Triton is asked to compile."""
    asked = []
    run = compiler._run_triton
    monkeypatch.setattr(compiler, "_run_triton", lambda request: asked.append(request) or run(request))
    return asked


def _request(target="sm_90", fn=_scaled, **constants):
    return Request(_kernel, ("*fp32 16", "*fp32 16"), {"fn": fn, "N": 64, **constants}, target)


def _file():
    return cache.path_of(KEY)


# -- entries -----------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_loaded(folder):
    assert cache.load(KEY) is None
    assert cache.store(KEY, {"name": "k", "shared": 3}, b"binary")
    assert cache.load(KEY) == ({"name": "k", "shared": 3, "key": KEY}, b"binary")
    assert [p.name for p in folder.rglob("*") if p.is_file() and p.name != "pruned"] == [KEY[2:] + ".kernel"]
    assert cache.usage() == (1, os.path.getsize(_file()))
    assert cache.store(KEY, {}, b"another")
    assert cache.load(KEY)[1] == b"another"
    assert cache.clear() == 1
    assert cache.load(KEY) is None


def test_damage_is_noticed_wherever_it_is():
    rng = random.Random(0)
    whole = cache.pack(KEY, {"name": "k", "values": list(range(20))}, bytes(rng.randbytes(400)))
    assert cache.unpack(whole, KEY) is not None
    for at in range(len(whole)):  # a flipped bit in each byte
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        assert cache.unpack(bytes(damaged), KEY) is None, at
    for size in range(len(whole)):
        assert cache.unpack(whole[:size], KEY) is None, size
    assert cache.unpack(whole + b"\0", KEY) is None
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        assert bytes(damaged) == whole or cache.unpack(bytes(damaged), KEY) is None
    for foreign in (b"", b"\0" * 1000, b"#!/bin/sh\n", rng.randbytes(1000), whole[:44] + b"\xff" * 500):
        assert cache.unpack(foreign, KEY) is None
    assert cache.unpack(whole, KEY[:-1] + "1") is None  # an entry under another's name


def test_a_well_formed_entry_of_another_kind_is_not_taken(compilations):
    entry = compiler.entry_key(_request())
    good = versions.Metadata("k", 0, 4)._asdict()
    for metadata in (None, [], {}, {**good, "more": 1}, {**good, "shared": "0"}, {**good, "pdl": 1}, {"name": "k"}):
        cache.store(entry, {"metadata": metadata}, b"not a cubin")
        assert compiler._load(_request(), entry) is None
    assert compiler.compile_kernel(*_request()).binary[:4] == b"\x7fELF"
    assert len(compilations) == 1


@pytest.mark.parametrize("harm", ["bit", "cut", "empty", "folder"])
def test_a_damaged_entry_is_compiled_again_and_replaced(harm, compilations):
    first = compiler.compile_kernel(*_request())
    path = cache.path_of(compiler.entry_key(_request()))
    content = Path(path).read_bytes()
    if harm == "folder":
        os.unlink(path)
        os.mkdir(path)
    else:
        damaged = {"bit": content[:-9] + bytes([content[-9] ^ 4]) + content[-8:], "cut": content[:700], "empty": b""}
        Path(path).write_bytes(damaged[harm])
    compiler._compiled.clear()
    if harm == "folder":  # it cannot be replaced
        with pytest.warns(UserWarning, match="cannot be kept"):
            again = compiler.compile_kernel(*_request())
    else:
        again = compiler.compile_kernel(*_request())
        assert Path(path).read_bytes() == content
    assert again.binary == first.binary
    assert len(compilations) == 2


def test_a_hit_is_what_was_compiled(compilations):
    for target in ("sm_90", "gfx942"):
        request = _request(target)
        first = compiler.compile_kernel(*request)
        compiler._compiled.clear()
        again = compiler.compile_kernel(*request)
        assert again is not first
        assert (again.binary, again.metadata, again.types) == (first.binary, first.metadata, first.types)
        assert (again.keys, again.constants) == (request.keys, request.constants)
        abi.check(again)  # the layout is read from the binary
        assert again.asm["ttir"] == first.asm["ttir"]  # compiled again when asked for
    assert len(compilations) == 4


# -- processes ---------------------------------------------------------------------------------------------------------


def _python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


LAUNCH = """
import sys
import tensorlib
tensorlib.exp(tensorlib.empty(64, device="sm_80"))
print(int("triton" in sys.modules))
"""


def test_processes_compile_once_and_a_hit_imports_no_triton(folder):
    running = [_python(LAUNCH, TRITON_CACHE_DIR=str(folder / "triton")) for _ in range(3)]
    assert sorted(p.communicate()[0] for p in running) == ["0\n", "0\n", "1\n"]
    assert [p.returncode for p in running] == [0, 0, 0]
    assert cache.usage()[0] == 1


def test_a_killed_process_leaves_nothing_harmful():
    process = _python(
        f"""
import os
from tensorlib.runtime import cache
os.replace = lambda *_: os.kill(os.getpid(), 9)  # before the rename
cache.store("{KEY}", {{}}, b"x")
"""
    )
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert [path[-4:] for path, _ in cache.entries()] == [".tmp"]
    code = """
import os
from tensorlib.runtime import cache
print("ready", flush=True)
i = 0
while True:
    cache.store("%064x" % (i % 7), {"i": i}, os.urandom(4) * 500_000)
    i += 1
"""
    for pause in (0.003, 0.011, 0.017):
        process = _python(code)
        assert process.stdout.readline() == "ready\n"
        time.sleep(pause)
        process.kill()
        process.wait()
        process.stdout.close()
        for path, _ in cache.entries():
            if path.endswith(".kernel"):
                assert cache.load(Path(path).parent.name + Path(path).stem) is not None
            else:
                os.utime(path, (1, 1))
    cache.prune()  # what was being written goes after a day
    assert not [path for path, _ in cache.entries() if path.endswith(".tmp")]


def test_a_lock_ends_with_its_process_or_when_the_entry_is_there(folder, monkeypatch):
    code = f"""
import time
from tensorlib.runtime import cache
with cache.lock("{KEY}"):
    print("held", flush=True)
    time.sleep(60)
"""
    process = _python(code)
    assert process.stdout.readline() == "held\n"
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.2)
    start = time.monotonic()
    with cache.lock(KEY):  # held elsewhere: both go on in the end
        assert 0.15 < time.monotonic() - start < 5
    monkeypatch.setattr(cache, "LOCK_SECONDS", 60)
    with cache.lock("ff" + KEY[2:]):  # another key's
        pass
    stored = time.monotonic() + 0.1
    real = cache._try_lock
    monkeypatch.setattr(
        cache, "_try_lock", lambda f: (time.monotonic() > stored and cache.store(KEY, {}, b"x"), real(f))[1]
    )
    with cache.lock(KEY):
        assert cache.load(KEY) is not None
    process.kill()
    process.wait()
    process.stdout.close()
    monkeypatch.setattr(cache, "_try_lock", real)
    with cache.lock(KEY):
        process = _python(f"from tensorlib.runtime import cache\nwith cache.lock('{KEY}'): print('got', flush=True)")
        time.sleep(0.5)
        assert process.poll() is None
    assert process.communicate()[0] == "got\n"


def test_a_file_system_without_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    with cache.lock(KEY):
        pass
    monkeypatch.setattr(cache, "fcntl", None)
    with cache.lock(KEY):
        pass


# -- folders that refuse -----------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, compilations):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert not cache.writable()
    with pytest.warns(UserWarning, match="cannot be kept in .*file.*TENSORLIB_CACHE_DIR"):
        compiler.compile_kernel(*_request())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        assert compiler.compile_kernel(*_request(N=32)).binary
    assert len(compilations) == 2
    assert (cache.usage(), cache.clear(), cache.prune()) == ((0, 0), 0, 0)


def test_a_full_disk(monkeypatch, folder):
    real = os.replace

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert not cache.store(KEY, {}, b"x")
    monkeypatch.setattr(os, "replace", real)
    assert list(cache.entries()) == []
    assert cache.store(KEY, {}, b"x")


def test_where_the_folder_is(monkeypatch, tmp_path):
    names = ("TENSORLIB_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "HOME")
    for name in names:
        monkeypatch.setenv(name, str(tmp_path / name))
    parents = [tmp_path / names[1], tmp_path / names[2], tmp_path / "HOME/.cache"]
    wanted = [tmp_path / names[0], *(p / "tensorlib" for p in parents)]
    for name, place in zip(names, wanted, strict=True):
        assert cache.folder() == str(place)
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TENSORLIB_CACHE", "0")
    assert cache.folder() is None
    assert not cache.store(KEY, {}, b"x")
    assert cache.load(KEY) is None
    assert compiler.entry_key(_request()) is None
    assert not cache.writable()
    with cache.lock(KEY):
        assert not list(cache.entries())


def test_the_least_recently_used_go_first(monkeypatch):
    keys = [f"{i:02x}" + "0" * 62 for i in range(10)]
    now = time.time()
    for i, key in enumerate(keys):
        cache.store(key, {}, bytes(100_000))
        os.utime(cache.path_of(key), (now - 86400 * (10 - i),) * 2)
    assert cache.load(keys[0]) is not None  # in use: the newest now
    assert cache.prune() == 0
    monkeypatch.setenv("TENSORLIB_CACHE_SIZE", "0.5")
    assert cache.prune() == 6  # to 80 % of the limit
    assert [k for k in keys if cache.load(k)] == [keys[0], *keys[7:]]
    os.utime(cache.path_of(keys[9]), (now - 86400 * 200,) * 2)
    assert cache.prune() == 1
    monkeypatch.setenv("TENSORLIB_CACHE_SIZE", "")
    assert cache.limit() == 2 << 30


@pytest.mark.parametrize("size", ["much", "-1", "nan", "inf"])
def test_an_impossible_size_is_an_error(monkeypatch, size):
    monkeypatch.setenv("TENSORLIB_CACHE_SIZE", size)
    for call in (cache.limit, cache.prune, lambda: cache.store(KEY, {}, b"x")):
        with pytest.raises(ArgumentError, match=f"^TENSORLIB_CACHE_SIZE={size}: expected a number of MiB.*unset it"):
            call()
    assert cache.usage() == (0, 0)


def test_a_cache_that_is_neither_on_nor_off_is_an_error(monkeypatch, folder):
    for said in ("1", "true", "YES", "on", ""):
        monkeypatch.setenv("TENSORLIB_CACHE", said)
        assert cache.folder() == str(folder)
    for said in ("0", "False", "no", "off"):
        monkeypatch.setenv("TENSORLIB_CACHE", said)
        assert cache.folder() is None
    monkeypatch.setenv("TENSORLIB_CACHE", "nonsense")
    with pytest.raises(ArgumentError, match=r"^TENSORLIB_CACHE=nonsense: expected 1, true, .*unset it for on"):
        cache.folder()


def test_a_program_is_told_that_its_kernels_are_not_kept(tmp_path):
    """Once, and whatever the library's filters of NumPy's warnings are."""
    (tmp_path / "file").write_text("")
    code = f"import tensorlib; from tensorlib.runtime import cache; [cache.store({KEY!r}, {{}}, b'x') for _ in '12']"
    environment = {**os.environ, "TENSORLIB_CACHE_DIR": str(tmp_path / "file" / "cache")}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("UserWarning: compiled kernels cannot be kept in ") == 1
    assert "Set TENSORLIB_CACHE_DIR to a folder that can be written" in done.stderr


def test_a_process_prunes_when_it_writes(monkeypatch):
    monkeypatch.setattr(cache._State, "written", 0)
    monkeypatch.setattr(cache._State, "prune_at", 0)
    monkeypatch.setenv("TENSORLIB_CACHE_SIZE", "0.1")
    pruned = []
    monkeypatch.setattr(cache, "prune", lambda: pruned.append(cache._State.written))
    cache.store(KEY, {}, bytes(1000))
    cache.store(KEY, {}, bytes(1000))
    assert len(pruned) == 1
    monkeypatch.setattr(cache._State, "prune_at", 0)
    cache.store(KEY, {}, bytes(1000))  # somebody has, today
    assert len(pruned) == 1
    monkeypatch.setattr(cache, "_PRUNE_AFTER", 0)
    cache.store(KEY, {}, bytes(1000))
    monkeypatch.setattr(cache._State, "prune_at", 0)
    cache.store(KEY, {}, bytes(1000))
    assert len(pruned) == 2


# -- what the key depends on -------------------------------------------------------------------------------------------


def test_the_key_follows_the_request():
    requests = [
        _request(),
        _request("sm_80"),
        _request(N=32),
        _request(N=64.0),
        _request()._replace(keys=("*fp32 16", "*fp32")),
        _request()._replace(num_warps=8),
        _request()._replace(num_stages=3),
        _request()._replace(options={"maxnreg": 32}),
        _request(N=np.dtype(np.float32)),
        _request(N=_dtypes.bfloat16),
        _request(N=("a", 1)),
        _request(N="('a', 1)"),
        _request(N=True),
        _request(N=1),
        _request(N=-0.0),
        _request(N=0.0),
        _request(N=None),
    ]
    keys = [compiler.entry_key(r) for r in requests]
    assert None not in keys
    assert len(set(keys)) == len(requests)
    assert keys[0] == compiler.entry_key(_request())
    assert compiler.entry_key(_request(N=object())) is None  # it cannot be known in another process


def _of(body, **names):
    return compiler.entry_key(_request(fn=define(f"def f(x):\n    {body}\n", names)))


def test_the_key_follows_sources_and_what_they_use():
    inner = [define(f"def inner(x):\n    return x + {c}\n", {}) for c in (1, 1, 2)]
    assert inner[0].fingerprint == inner[1].fingerprint != inner[2].fingerprint
    deep = [define("def outer(x):\n    return inner(x)\n", {"inner": f}) for f in inner]
    module = type(sys)("constants")
    module.A, module.B = 1, inner[0]
    texts = [
        _of("return x * c", c=2), _of("return x * c", c=2.0), _of("return x * c", c=3), _of("return c * x", c=2),
        _of("y: tl.constexpr = 2; return x * y"), _of("y = 2; return x * y"),
        _of("return g(x)", g=inner[0]), _of("return g(x)", g=inner[2]), _of("return g(x)", g=deep[0]),
        _of("return g(x)", g=deep[2]), _of("return g[0](x)", g=(inner[0],)), _of("return g[0](x)", g=(inner[2],)),
        _of("return x * m.A", m=module),
    ]  # fmt: skip
    assert None not in texts
    assert len(set(texts)) == len(texts)
    assert _of("return g(x)", g=deep[0]) == _of("return g(x)", g=deep[1])
    module.A = 2
    assert _of("return x * m.A", m=module) != texts[-1]
    assert _of("return x * c", c=object()) is None


@pytest.mark.parametrize(
    "name, value, changes",
    [
        ("DISABLE_LLVM_OPT", "1", True), ("TRITON_F32_DEFAULT", "ieee", True), ("AMDGCN_USE_BUFFER_OPS", "0", True),
        ("PTXAS_OPTIONS", "-O0", True), ("TRITON_A_KNOB_OF_THE_FUTURE", "1", True), ("TRITON_HOME", "/tmp", False),
        ("TRITON_PRINT_AUTOTUNING", "1", False), ("TRITON_CACHE_DIR", "/tmp", False), ("PATH_TO_DATA", "/d", False),
    ],
)  # fmt: skip
def test_the_key_follows_settings(monkeypatch, name, value, changes):
    monkeypatch.delenv(name, raising=False)
    before = compiler.entry_key(_request())
    monkeypatch.setenv(name, value)
    assert (compiler.entry_key(_request()) != before) is changes


def test_the_cache_stands_aside_for_who_watches_the_compiler(monkeypatch, compilations):
    import triton

    compiler.compile_kernel(*_request())
    for name in ("TRITON_ALWAYS_COMPILE", "MLIR_ENABLE_DUMP", "TRITON_KERNEL_OVERRIDE"):
        assert compiler.entry_key(_request()) is not None
        monkeypatch.setenv(name, "1")
        assert compiler.entry_key(_request()) is None
        monkeypatch.delenv(name)
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda **_: None)
    assert compiler.entry_key(_request()) is None


def test_the_key_follows_knobs_set_by_the_program():
    import triton

    before = compiler.entry_key(_request())
    with triton.knobs.nvidia.scope():
        triton.knobs.nvidia.disable_ptxas_opt = True
        assert compiler.entry_key(_request()) != before
    assert compiler.entry_key(_request()) == before


def test_the_key_follows_the_assembler(monkeypatch, tmp_path):
    import shutil

    before = compiler.entry_key(_request("sm_80"))
    other = tmp_path / "ptxas"
    shutil.copy(versions.assembler("sm_80"), other)
    amd = compiler.entry_key(_request("gfx942"))
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(other))
    assert versions.assembler("sm_80") == str(other)
    there = compiler.entry_key(_request("sm_80"))
    assert there != before
    assert compiler.entry_key(_request("gfx942")) == amd
    os.utime(other, (1, 1))  # another file of that name
    assert compiler.entry_key(_request("sm_80")) != there
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(tmp_path / "none"))  # Triton then takes its own
    assert compiler.entry_key(_request("sm_80")) == before


def test_the_header_says_what_an_entry_is():
    compiler.compile_kernel(*_request())
    (path,) = (p for p, _ in cache.entries() if p.endswith(".kernel"))
    content = Path(path).read_bytes()
    size = cache._HEAD.unpack_from(content)[2]
    header = json.loads(content[cache._HEAD.size : cache._HEAD.size + size])
    assert header["kernel"] == f"{__name__}._kernel"
    assert header["target"] == "sm_90"
    assert header["metadata"]["num_warps"] == 4


def test_a_signal_while_waiting_for_a_lock_gets_through(monkeypatch):
    monkeypatch.setattr(cache, "_try_lock", lambda _: False)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt), cache.lock(KEY):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
