"""Choosing configurations: the model, searches with a clock of their own, tables on disk, pins and fixed choices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
from simulated import simulated

import tensorlib
from tensorlib._array import as_strided, empty, to_device, to_host
from tensorlib._device import TARGETS, device
from tensorlib.errors import ArgumentError, KernelError
from tensorlib.kernels import attention, convolution, grouped_matmul, matmul, matmul_tiles, quantized_matmul
from tensorlib.runtime import autotune, compiler, determinism, tables
from tensorlib.runtime.autotune import Config, Tunable, bucket, differs
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import INTERPRETER, Estimate, described, hardware, nominal
from tensorlib.runtime.launch import cdiv, launch, observers

INTERPRET = device("interpret")


@jit
def _add_kernel(out, x, n, WRONG: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(out + i, mask=i < n) + tl.load(x + i, mask=i < n)
    if WRONG:
        value += 1.0
    tl.store(out + i, value, mask=i < n)


class Problem(NamedTuple):
    n: int
    dtype: np.dtype


CANDIDATES = [Config(4, 1, BLOCK=block, WRONG=False) for block in (16, 32, 64)]


def _model(config, problem, gpu):
    return Estimate(1.0 + config["BLOCK"], shared=config["BLOCK"] * 4)


class Clock:
    """A Bench over host memory whose times are made up: TIMES by BLOCK, else 1 ms."""

    TIMES: ClassVar[dict[int, float]] = {}
    timed: ClassVar[list[int]] = []
    capturing = False

    def __init__(self, at):
        self.memory = at.engine

    def ready(self):
        return not Clock.capturing

    def synchronize(self):
        pass

    def copy(self, array):
        before, elements = autotune.extent(array)
        data = np.empty(elements * array.itemsize, np.uint8)
        self.memory.read(array.ptr - before * array.itemsize, array.owner, data)
        ptr, owner = self.memory.allocate(data.nbytes)
        self.memory.write(ptr, owner, data)
        return type(array)(ptr + before * array.itemsize, array.shape, array.strides, array.dtype, array.device, owner)

    def read(self, array):
        return autotune.read_memory(self.memory, array)

    def times(self, run, repetitions):
        (block,) = launch_blocks(run)
        Clock.timed.append(block)
        return [Clock.TIMES.get(block, 1.0)] * repetitions


def launch_blocks(run):
    """Which BLOCK a run launches with."""
    seen, me = [], threading.get_ident()

    def note(record):
        if threading.get_ident() == me:
            seen.append(record.constants["BLOCK"])

    observers.append(note)
    try:
        run()
    finally:
        observers.remove(note)
    return seen


@pytest.fixture
def tunable(tmp_path, monkeypatch):
    """A tunable of its own, a clock on `interpret`, and tables in an empty folder."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLIB_CACHE", raising=False)
    monkeypatch.setitem(autotune.benches, "interpret", Clock)
    monkeypatch.setattr(Clock, "TIMES", {16: 3.0, 32: 1.0, 64: 2.0})
    monkeypatch.setattr(Clock, "timed", [])
    made = Tunable("test", [_add_kernel], {"": CANDIDATES}, lambda p: p._replace(n=bucket(p.n)), _model)
    autotune.reload()
    yield made
    del autotune.tunables["test"]
    autotune.unpin()
    autotune.reload()


def add(tunable, out, x):
    """out += x, by the tunable's choice."""

    def run(config, out):
        launch(_add_kernel, (cdiv(x.size, config["BLOCK"]),), out, x, x.size, **config.launch)

    config = tunable.choose(Problem(x.size, x.dtype), x.device, run, (out,))
    run(config, out)
    return config


def arrays(n=100):
    return to_device(np.arange(n, dtype=np.float32), INTERPRET), to_device(np.ones(n, np.float32), INTERPRET)


def results(tunable, n=100):
    place = autotune.describe(tunable.key(Problem(n, np.dtype(np.float32))))
    return tables.load(autotune.path(INTERPRETER)).results(tunable.name, tunable.stamp, place)


# --------------------------------------------------------------------------------------------- configurations, buckets


def test_configurations_are_texts_and_back():
    config = Config(8, 3, BLOCK_M=64, EVEN=True, options={"maxnreg": 128})
    assert str(config) == "BLOCK_M=64 EVEN=True options.maxnreg=128 num_stages=3 num_warps=8"
    assert Config.parse(str(config)) == config
    assert Config.parse(str(config)).launch == {
        "BLOCK_M": 64, "EVEN": True, "num_warps": 8, "num_stages": 3, "options": {"maxnreg": 128},
    }  # fmt: skip
    assert config.replace(BLOCK_M=32, num_warps=4) == Config(4, 3, {"maxnreg": 128}, BLOCK_M=32, EVEN=True)
    with pytest.raises(ArgumentError, match="expected words such as BLOCK_M=64, got 'fast'"):
        Config.parse("fast")
    with pytest.raises(ArgumentError, match="num_warps and num_stages are numbers"):
        Config.parse("num_warps=many")


def test_buckets():
    assert [bucket(n) for n in (0, 1, 2, 16, 17, 100, 768, 1000, 1025, 50257)] == [
        0, 1, 16, 16, 32, 112, 768, 1024, 1280, 57344,
    ]  # fmt: skip
    sizes = [bucket(n) for n in range(1, 5000)]
    assert sizes == sorted(sizes) and all(bucket(b) == b >= n for n, b in enumerate(sizes, 1))
    # A block that is cut to a power of two is the same for a size and for its bucket.
    assert all(max(16, 1 << (n - 1).bit_length()) == max(16, 1 << (b - 1).bit_length()) for n, b in enumerate(sizes, 1))


# ------------------------------------------------------------------------------------------------ the model's choice


def test_the_model_chooses_and_prunes(tunable):
    problem = Problem(100, np.dtype(np.float32))
    assert tunable.choose(problem, INTERPRET)["BLOCK"] == 16
    small = nominal("sm_90")._replace(shared=150)
    kept, refused = tunable.ranking(problem, small)
    assert [c["BLOCK"] for c in kept] == [16, 32]
    assert refused == {CANDIDATES[2]: "shared memory: about 256 bytes, more than the 150 of a program"}
    with pytest.raises(KernelError, match=r"no candidate of test fits NVIDIA H100 \(sm_90\): .*shared memory"):
        tunable.ranking(problem, small._replace(shared=8))
    with pytest.raises(KernelError, match="64 warps are 2048 threads"):
        Tunable.ranking(_with(tunable, [Config(64, 1, BLOCK=16)]), problem, small)
    assert autotune.report().startswith("test on interpret: n=112 dtype=float32 -> BLOCK=16")
    with pytest.raises(ArgumentError, match="a tunable 'test' is declared already"):
        Tunable("test", [_add_kernel], {"": CANDIDATES}, lambda p: p, _model)


def _with(tunable, candidates):
    """The tunable with other candidates, as a later version of its file would declare it."""
    tunable._candidates = {"": candidates}
    return tunable


def test_a_first_call_times_nothing(tunable):
    out, x = arrays()
    assert add(tunable, out, x)["BLOCK"] == 16
    assert not Clock.timed and not autotune.path(INTERPRETER).exists()


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_library_declares_fits_every_target(target):
    """Each kernel has a choice that fits, for sizes from one element up, and it is the same for a size's bucket."""
    gpu = nominal(target)
    for dtype in map(np.dtype, (np.float16, np.float32, np.float64, np.int32)):
        for n in (1, 17, 100, 4096):
            for made, problem in (
                (matmul.MATMUL, matmul.Problem(n, 4096, n, 1, dtype, "ieee", "rc")),
                (matmul.MATMUL, matmul.Problem(64, 64, 16 * n, 1, dtype, "ieee", "cr")),
                (grouped_matmul.GROUPED, grouped_matmul.Grouped(n, 4096, n, 8, dtype, "ieee", "rc", "rows")),
                (quantized_matmul.INT4, quantized_matmul.Packed(n, 4096, 4096, dtype, 128)),
                (convolution.CONVOLUTION, convolution.Problem(n, 4096, 9 * n, 1, dtype, "ieee", 9)),
                (convolution.CONVOLUTION_WEIGHT, convolution.Problem(n, 9 * n, 4096, 1, dtype, "ieee", 9)),
                (attention.ATTENTION, attention.Problem(n, n, 64, 8, dtype, "ieee", True, 0, False)),
                (attention.KEY_GRAD, attention.Problem(n, n, 128, 8, dtype, "ieee", False, 0, False)),
                (attention.QUERY_GRAD, attention.Problem(n, n, 256, 8, dtype, "ieee", False, 0, False)),
            ):
                kept, _ = made.ranking(problem, gpu)
                assert all(made.judged(c, problem, gpu)[0] is None for c in kept[1:])
                assert made.candidates(problem, gpu) == made.candidates(made.key(problem), gpu)


@pytest.mark.parametrize(
    ("target", "dtype", "sizes", "stages"),
    [("sm_90", np.float16, (128, 128, 64), 3), ("sm_80", np.float16, (64, 64, 64), 4),
     ("gfx942", np.float16, (64, 64, 32), 2), ("sm_120", np.float32, (64, 64, 32), 3)],
)  # fmt: skip
def test_shared_memory_is_estimated_as_the_compiler_needs_it(monkeypatch, target, dtype, sizes, stages):
    """The model's shared memory of a product, beside what Triton reports: never less, so that nothing fails to load."""
    pytest.importorskip("triton")
    config = matmul_tiles.tile(*sizes, 8 if sizes[0] > 64 else 4, stages)
    at, dtype, made = device(target), np.dtype(dtype), []
    a, b, out = (empty((512, 512), dtype, at) for _ in range(3))
    compile_kernel = compiler.compile_kernel
    monkeypatch.setattr(compiler, "compile_kernel", lambda *args: made.append(compile_kernel(*args)) or made[-1])
    monkeypatch.setattr(matmul.MATMUL, "choose", lambda *args: config)
    matmul.product(out, a, b)
    problem = matmul.Problem(512, 512, 512, 1, dtype, "ieee", "rr")
    estimate = matmul_tiles.cost(config, problem, nominal(target)).shared
    assert made[0].shared <= estimate <= 1.5 * made[0].shared


def test_hardware():
    assert nominal("sm_86").shared == nominal("sm_89").shared == nominal("sm_120").shared == 99 << 10
    assert nominal("sm_121")._replace(target="sm_120") == nominal("sm_120")
    assert nominal("gfx1151").family == "rdna" and nominal("gfx908").family == "cdna"
    assert hardware(device("gfx942")).warp_size == 64 and hardware(INTERPRET) is INTERPRETER

    class Properties:
        name, target, multi_processor_count, warp_size = "NVIDIA H200", "sm_90", 132, 32
        max_threads_per_multi_processor, regs_per_multiprocessor = 2048, 65536
        shared_memory_per_block, shared_memory_per_block_optin, shared_memory_per_multiprocessor = 49152, 232448, 233472
        L2_cache_size, clock_rate, memory_clock_rate, memory_bus_width = 62914560, 1980000, 3201000, 6144

    gpu = described(Properties)
    assert (gpu.name, gpu.l2, gpu.shared) == ("NVIDIA H200", 62914560, 232448)
    assert gpu.bandwidth == pytest.approx(4.917e12, rel=1e-3) and gpu.half == 4096
    Properties.memory_clock_rate = 0  # not told any more
    assert described(Properties).bandwidth == nominal("sm_90").bandwidth


# ---------------------------------------------------------------------------------------------------------- searches


def test_a_search_finds_the_fastest_and_keeps_it(tunable):
    out, x = arrays()
    seen = []
    with autotune.search(watch=seen.append):
        assert add(tunable, out, x)["BLOCK"] == 32
    np.testing.assert_array_equal(to_host(out), np.arange(100) + 1.0)  # in place, and done once
    assert [p.config.split()[0] for p in seen] == ["BLOCK=16", "BLOCK=32", "BLOCK=64"]
    assert [p.number for p in seen] == [1, 2, 3] and {p.total for p in seen} == {3}
    kept = results(tunable)
    assert {Config.parse(c)["BLOCK"]: r["ms"] for c, r in kept.items()} == {16: 3.0, 32: 1.0, 64: 2.0}
    assert add(tunable, out, x)["BLOCK"] == 32
    assert "(user's table, 1 ms)" in autotune.report()
    # Another problem of the bucket is not timed again, nor this one in another process.
    Clock.timed.clear()
    with autotune.search():
        add(tunable, *arrays(101))
        autotune.reload()
        assert add(tunable, out, x)["BLOCK"] == 32
    assert not Clock.timed
    with autotune.search(again=True):
        add(tunable, out, x)
    assert set(Clock.timed) == {16, 32, 64}


def test_a_view_of_an_output_is_left_alone(tunable):
    base = to_device(np.arange(200, dtype=np.float32), INTERPRET)
    _, x = arrays()
    with autotune.search():
        add(tunable, base[50:150], x)
    expected = np.arange(200, dtype=np.float32)
    expected[50:150] += 1
    np.testing.assert_array_equal(to_host(base), expected)


def test_a_slow_candidate_is_left_early(tunable):
    Clock.TIMES.update({16: 0.1, 64: 50.0})
    with autotune.search():
        add(tunable, *arrays())
    runs = {Config.parse(c)["BLOCK"]: r["runs"] for c, r in results(tunable).items()}
    assert runs[16] == autotune.MOST and runs[64] == runs[32] == autotune.LEAST


def test_noise_does_not_change_the_choice(tunable, monkeypatch):
    monkeypatch.setattr(Clock, "times", lambda self, run, n: [1.0 + 0.04 * (i % 3) for i in range(n)])
    with autotune.search():
        assert add(tunable, *arrays())["BLOCK"] == 16


def test_a_new_candidate_is_timed_alone(tunable):
    with autotune.search():
        add(tunable, *arrays())
    Clock.timed.clear()
    Clock.TIMES[128] = 0.5
    _with(tunable, [*CANDIDATES, Config(4, 1, BLOCK=128, WRONG=False)])
    autotune.reload()
    with autotune.search():
        assert add(tunable, *arrays())["BLOCK"] == 128
    assert set(Clock.timed) == {128}
    assert len(results(tunable)) == 4
    # One that is gone is not chosen, and not forgotten.
    _with(tunable, CANDIDATES)
    autotune.reload()
    assert add(tunable, *arrays())["BLOCK"] == 32 and len(results(tunable)) == 4


def test_a_wrong_candidate_is_reported_and_never_chosen(tunable):
    Clock.TIMES[256] = 0.001
    _with(tunable, [*CANDIDATES, Config(4, 1, BLOCK=256, WRONG=True)])
    out, x = arrays()
    with autotune.search(), pytest.warns(UserWarning, match="test gives other results with BLOCK=256 .* never"):
        assert add(tunable, out, x)["BLOCK"] == 32
    np.testing.assert_array_equal(to_host(out), np.arange(100) + 1.0)
    wrong = results(tunable)["BLOCK=256 WRONG=True num_stages=1 num_warps=4"]
    assert "100 of 100 elements, first 2.0 for 1.0" in wrong["wrong"]
    assert 256 not in Clock.timed


def test_a_candidate_that_does_not_run_is_skipped_with_its_reason(tunable):
    bad = Config(4, 1, BLOCK=48, WRONG=False)  # tl.arange takes powers of two
    _with(tunable, [*CANDIDATES, bad])
    with autotune.search():
        assert add(tunable, *arrays())["BLOCK"] == 32
    assert "_add_kernel: failed in the interpreter" in results(tunable)[str(bad)]["failed"]
    _with(tunable, [bad])
    autotune.reload()
    with autotune.search(), pytest.raises(KernelError, match="_add_kernel"):  # the only one there is
        add(tunable, *arrays())


def test_a_search_is_for_the_named_tunables_and_at_most_so_many_candidates(tunable):
    with autotune.search("matmul"):
        assert add(tunable, *arrays())["BLOCK"] == 16
    assert not Clock.timed
    with autotune.search("test", limit=2):
        assert add(tunable, *arrays())["BLOCK"] == 32
    assert set(Clock.timed) == {16, 32}
    with pytest.raises(ArgumentError, match="no tunable is called nothing; there are attention, "):
        autotune.search("nothing").__enter__()


def test_nothing_is_timed_while_a_graph_is_captured_or_on_targets(tunable, monkeypatch):
    monkeypatch.setattr(Clock, "capturing", True)
    with autotune.search():
        assert add(tunable, *arrays())["BLOCK"] == 16
        assert tunable.choose(Problem(100, np.dtype(np.float32)), device("sm_90"), add, ())["BLOCK"] == 16
        assert not Clock.timed
        monkeypatch.setattr(Clock, "capturing", False)
        assert add(tunable, *arrays())["BLOCK"] == 32  # the capture is over


def test_benchmark_mode_searches(tunable, monkeypatch):
    autotune.benchmark(True)
    try:
        assert add(tunable, *arrays())["BLOCK"] == 32
    finally:
        autotune.benchmark(False)
    assert not autotune.searching()


def test_results_are_compared():
    r = np.array([1.0, -2.0, np.inf, np.nan], np.float32)
    assert differs([r * (1 + 1e-6)], [r], 64) == ""
    assert "first 1.1 for 1.0" in differs([r * 1.1], [r], 64)
    assert "1 of 4 elements, first nan for inf" in differs([np.array([1, -2, np.nan, np.nan], np.float32)], [r], 64)
    assert "output 1: 1 of 2" in differs([r, np.array([1, 2])], [r, np.array([1, 3])], 64)
    half = np.ones(8, np.float16)
    assert differs([half * np.float16(1.01)], [half], 64) == "" != differs([half * np.float16(1.2)], [half], 64)
    assert differs([np.empty(0, np.float32)], [np.empty(0, np.float32)], 64) == ""


def test_a_large_output_is_compared_in_pieces(monkeypatch):
    monkeypatch.setattr(autotune, "_READ_WHOLE", 1 << 16)
    monkeypatch.setattr(autotune, "_PIECES", 8)
    monkeypatch.setattr(autotune, "_PIECE", 1 << 10)
    data = np.arange(1 << 16, dtype=np.float32)
    read = autotune.read_memory(INTERPRET.engine, to_device(data, INTERPRET))
    assert read.size == 8 * 256 and read[0] == 0 and read[-1] == data[-1]


def test_matmul_is_searched_through_its_host_function(tmp_path, monkeypatch):
    """The library's own kernel: every candidate agrees with the first, and the result is right."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(autotune.benches, "interpret", Clock)
    monkeypatch.setattr(Clock, "times", lambda self, run, n: [1.0] * n)
    wanted = nominal("sm_80")._replace(family="nvidia")
    monkeypatch.setattr(autotune, "hardware", lambda at: wanted)
    autotune.reload()
    x = np.random.default_rng(0).standard_normal((70, 40)).astype(np.float32)
    y = np.random.default_rng(1).standard_normal((40, 50)).astype(np.float32)
    seen = []
    with autotune.search("matmul", watch=seen.append):
        got = tensorlib.tensor(x, device="interpret") @ tensorlib.tensor(y, device="interpret")
    np.testing.assert_allclose(got.cpu().numpy(), x @ y, rtol=1e-4, atol=1e-4)
    assert len(seen) > 5 and all("ms" in p.result for p in seen)
    autotune.reload()


# ------------------------------------------------------------------------------------------- fixed and pinned choices


def test_deterministic_mode_uses_no_measurement(tunable):
    with autotune.search():
        add(tunable, *arrays())
    tunable.deterministic = lambda config: config["BLOCK"] != 16
    tensorlib.use_deterministic_algorithms(True)
    try:
        assert add(tunable, *arrays())["BLOCK"] == 32  # the model's best of those whose sums have an order
        tunable.deterministic = lambda config: True
        autotune.reload()
        assert add(tunable, *arrays())["BLOCK"] == 16
    finally:
        tensorlib.use_deterministic_algorithms(False)
    assert determinism.level[0] == "off" and add(tunable, *arrays())["BLOCK"] == 32
    autotune.set_mode("off")
    try:
        with autotune.search():
            assert add(tunable, *arrays())["BLOCK"] == 16
    finally:
        autotune.set_mode("")


def test_pins(tunable):
    problem = Problem(100, np.dtype(np.float32))
    autotune.pin("test", problem, Config(4, 1, BLOCK=64, WRONG=False))
    assert add(tunable, *arrays())["BLOCK"] == 64
    assert add(tunable, *arrays(200))["BLOCK"] == 16  # another bucket
    autotune.set_mode("off")
    assert add(tunable, *arrays())["BLOCK"] == 64
    autotune.set_mode("")
    autotune.pin("test", "n=112 dtype=float32", "BLOCK=32 WRONG=False num_warps=4 num_stages=1", "interpret")
    assert add(tunable, *arrays())["BLOCK"] == 32
    assert "BLOCK=32 WRONG=False num_stages=1 num_warps=4 (pinned)" in autotune.report()
    autotune.unpin("test")
    assert add(tunable, *arrays())["BLOCK"] == 16
    with pytest.raises(ArgumentError, match="no tunable is called 'tset'"):
        autotune.pin("tset", problem, CANDIDATES[0])


def test_the_environment_variable():
    code = (
        "from tensorlib.runtime import autotune; import tensorlib\n"
        "print(autotune.searching(), autotune.state.mode)"
    )
    for said, printed in (("off", "False off"), ("search", "True search"), ("", "False ")):
        done = _python(code, TENSORLIB_AUTOTUNE=said)
        assert done.stdout.rstrip("\n") == printed, done.stderr
    done = _python(code, TENSORLIB_AUTOTUNE="fast")
    assert "TENSORLIB_AUTOTUNE is 'fast': expected 'off', 'search' or nothing" in done.stderr


def _python(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


# ------------------------------------------------------------------------------------------------------------- tables


def _result(ms=1.0, when=1.0):
    return {"ms": ms, "spread": 0.0, "runs": 5, "triton": "3.9.0", "when": when}


def test_two_processes_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "tables" / "device.json"
    code = (
        "import sys\nfrom pathlib import Path\nfrom tensorlib.runtime import tables\n"
        "path, who = Path(sys.argv[1]), sys.argv[2]\n"
        "for i in range(20):\n"
        "    t = tables.Table('device', 'sm_90')\n"
        "    t.record('k', '1', f'n={i}', f'who={who}', {'ms': 1.0 + i, 'when': 1.0})\n"
        "    tables.save(t, path)\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "ab"]
    assert [p.wait() for p in both] == [0, 0]
    found = tables.load(path)
    assert len(found) == 40 and all(set(found.results("k", "1", f"n={i}")) == {"who=a", "who=b"} for i in range(20))
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".new"] == []


def test_the_later_result_is_kept(tmp_path):
    path = tmp_path / "device.json"
    for ms, when in ((3.0, 10.0), (1.0, 5.0)):
        table = tables.Table("device", "sm_90")
        table.record("k", "1", "n=1", "A=1", _result(ms, when))
        tables.save(table, path)
    assert tables.load(path).results("k", "1", "n=1")["A=1"]["ms"] == 3.0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "device": "d", "target": "t", "tunables": []}',
     '{"format": 1, "device": "d", "target": "t", "tunables": {"k": {"1": {"n=1": {"A=1": {"ms": -1}}}}}}',
     '{"format": 1, "device": "d", "target": "t", "tunables": {"k": {"1": {"n=1": {"A=1": {"ms": NaN}}}}}}',
     '{"format": 1, "device": "d", "target": "t", "tunables": {"k": {"1": {"n=1": {"A=1": {}}}}}}',
     "\x00\x01", "[" * 99999],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(tunable, text):
    path = autotune.path(INTERPRETER)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert add(tunable, *arrays())["BLOCK"] == 16
    assert not path.exists()
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside.read_text() == text
    with autotune.search():
        assert add(tunable, *arrays())["BLOCK"] == 32
    assert len(results(tunable)) == 3


def test_what_another_source_measured_is_not_used(tunable):
    with autotune.search():
        add(tunable, *arrays())
    path = autotune.path(INTERPRETER)
    content = json.loads(path.read_text())
    content["tunables"]["test"] = {"1-0": content["tunables"]["test"][tunable.stamp]}
    path.write_text(json.dumps(content))
    autotune.reload()
    assert add(tunable, *arrays())["BLOCK"] == 16
    other = Tunable("test2", [_add_kernel], {"": CANDIDATES}, tunable.key, _model, version=2)
    del autotune.tunables["test2"]
    assert other.stamp[1:] == tunable.stamp[1:] and other.stamp != tunable.stamp


def test_shipped_tables(tunable, monkeypatch, tmp_path):
    """The user's table over the library's over the model; and the library's is read from the installed package."""
    monkeypatch.setattr(tables, "SHIPPED", tmp_path)
    table = tables.Table(INTERPRETER.name, INTERPRETER.target)
    place = "n=112 dtype=float32"
    table.record("test", tunable.stamp, place, str(CANDIDATES[2]), _result(1.0))
    table.record("test", tunable.stamp, place, "BLOCK=4096 num_stages=1 num_warps=4", _result(0.1))  # not a candidate
    tables.save(table, tmp_path / tables.file_name(table.device, table.target))
    autotune.reload()
    assert add(tunable, *arrays())["BLOCK"] == 64
    assert "(shipped table, 1 ms)" in autotune.report()
    with autotune.search():
        assert add(tunable, *arrays())["BLOCK"] == 32
    assert "user's table" in autotune.report()
    (tmp_path / tables.file_name(table.device, table.target)).write_text("{")
    autotune.clear()
    with pytest.warns(UserWarning, match="the library's table of tuned configurations .* is damaged"):
        assert add(tunable, *arrays())["BLOCK"] == 16


def test_every_shipped_table_is_whole():
    """None is there before it was measured on the GPU it names; one that is there can be read, and is named rightly."""
    folder = Path(tables.__file__).parent
    for path in folder.glob("*.json"):
        table = tables.parse(path.read_text())
        assert path.name == tables.file_name(table.device, table.target) and len(table)
    assert tables.file_name("NVIDIA H200", "sm_90") == "NVIDIA-H200-sm_90.json"
    assert tables.shipped("NVIDIA T1000", "sm_75") is None


def test_a_folder_that_cannot_be_written_is_said_once(tunable, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(blocked))
    autotune.reload()
    with autotune.search(), pytest.warns(UserWarning, match="what was measured is not kept after this process"):
        assert add(tunable, *arrays())["BLOCK"] == 32
    monkeypatch.setenv("TENSORLIB_CACHE", "0")
    autotune.reload()
    with autotune.search(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert add(tunable, *arrays())["BLOCK"] == 32
    assert autotune.path(INTERPRETER) is None and autotune.clear() == []


def test_threads_may_choose_and_search_together(tunable):
    chosen = []
    with autotune.search():
        threads = [threading.Thread(target=lambda: chosen.append(add(tunable, *arrays())["BLOCK"])) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len(chosen) == 3 and set(results(tunable)) == {str(c) for c in CANDIDATES}
    assert add(tunable, *arrays())["BLOCK"] == 32


# ------------------------------------------------------------------------------------- a GPU's events (simulated)


@pytest.mark.parametrize("kind", ["cuda", "hip"])
def test_a_search_by_events(kind, tmp_path, monkeypatch):
    """The whole way on the simulated driver: copies, flushes, events, the device's own file, the next process."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path))
    x = np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32)
    y = np.random.default_rng(1).standard_normal((24, 18)).astype(np.float32)
    with simulated(kind):
        autotune.reload()
        a, b = tensorlib.tensor(x, device="cuda"), tensorlib.tensor(y, device="cuda")
        assert (a @ b).shape == (20, 18) and "(model)" in autotune.report()
        seen = []
        with autotune.search("matmul", limit=2, watch=seen.append):
            np.testing.assert_allclose((a @ b).cpu().numpy(), x @ y, rtol=1e-4, atol=1e-4)
        assert len(seen) == 2 and all(p.result["ms"] > 0 and p.result["runs"] >= autotune.LEAST for p in seen)
        autotune.reload()
        assert (a @ b).shape == (20, 18) and "user's table" in autotune.report()
        (file,) = (tmp_path / "tables").glob("*.json")
        gpu = hardware(device("cuda", 0))
        assert file.name == tables.file_name(gpu.name, gpu.target)
    autotune.reload()


def test_scratch_copies_keep_strides_and_what_lies_between(tmp_path):
    with simulated("cuda"):
        base = to_device(np.arange(24, dtype=np.float32).reshape(4, 6), device("cuda", 0))
        view = as_strided(base, (3, 2), (6, -2), 4)
        bench = autotune.EventBench(view.device)
        copy = bench.copy(view)
        assert (copy.shape, copy.strides) == (view.shape, view.strides) and copy.ptr != view.ptr
        np.testing.assert_array_equal(to_host(copy), to_host(view))
        np.testing.assert_array_equal(bench.read(view), np.arange(2, 17, dtype=np.float32))
        assert bench.copy(as_strided(base, (0, 2), (6, 1), 0)).shape == (0, 2)
