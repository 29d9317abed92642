"""Device "native" and Triton's interpreter on random kernels, and on those that once told them apart."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("triton")

import fuzz
import fuzz_numpy
import fuzz_oracle

from tensorlib.runtime.native import codegen

ROOT = Path(__file__).resolve().parents[2]
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.py"))
pytestmark = pytest.mark.filterwarnings("ignore:tl.cat")  # whose order programs do not show
needs_compiler = pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")


def command(*arguments: object, **variables: str) -> str:
    """What tools/fuzz_native.py prints; it must end well. A process of its own: a wrong kernel may end it."""
    line = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "fuzz_native.py"), *map(str, arguments)]
    environment = {**os.environ, **variables}
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("seed, way", [(0, "plain"), (100, "guarded"), (200, "narrow"), (300, "threads")])
def test_random_programs(seed, way):
    """100 programs each: as they are, with every access checked, for vectors of half the width, on two threads."""
    variables = {}
    if way == "guarded":
        variables["TENSORLIB_NATIVE_GUARD"] = "1"
    elif way == "narrow" and platform.machine() == "x86_64":
        variables["TENSORLIB_NATIVE_CPU"] = "x86-64-v3"
    options = ["--threads", 2] if way == "threads" else []
    said = command(
        "--seed", seed, "--programs", 100, "--seconds", 800, "--reduce", 20, "--failures", 3, *options, **variables
    )
    assert "100 programs" in said


@needs_compiler
def test_corpus():
    said = command("--reduce", 0, *CORPUS)
    assert f"{len(CORPUS)} programs" in said


def test_a_seed_gives_one_program_and_others_give_others():
    sources = [fuzz.generate(seed).source() for seed in range(50)]
    assert sources == [fuzz.generate(seed).source() for seed in range(50)]
    assert len(set(sources)) == 50


def test_every_construct_occurs():
    tags: Counter[str] = Counter()
    for seed in range(600):
        tags += fuzz.generate(seed).tags()
    for name in (
        "load.undefined load.tile load.indirect load.advancing load.chained store.masked in_place.move in_place.twice "
        "arithmetic+ divide.integer divide.constant remainder shift bitcast float8 cast.saturated extreme.all clamp "
        "fma transpose join split interleave flip gather reduce.sum reduce.argmax reduce.pair reduce.xor_sum "
        "scan.cumsum scan.affine sort topk histogram.masked dot.f32 dot.f16 dot.bf16 dot.i8 dot.f8 dot.f64 dot.close "
        "math.exp math.erf random.rand random.randint atomic.add atomic.cas "
        "descriptor.load descriptor.store for.runtime for.data for.step for.static for.pointers for.dot while if "
        "if.constexpr ifexp call call.noinline call.tuple"
    ).split():
        assert tags[name], name


def test_the_interpreter_runs_what_is_generated():
    for seed in range(1000, 1040):
        verdict = fuzz_oracle.judge(fuzz.generate(seed).source(), "interpret")
        assert verdict.kind == "same", (seed, verdict.text)


def test_numpy_says_what_the_interpreter_says():
    options = fuzz.Options(only=fuzz_numpy.EXPRESSIBLE)
    for seed in range(100):
        verdict = fuzz_oracle.judge(fuzz.generate(seed, options).source(), "interpret", "numpy")
        assert verdict.kind == "same", (seed, verdict.text)


@needs_compiler
def test_numpy_says_what_native_says():
    only = ",".join(sorted(fuzz_numpy.EXPRESSIBLE))
    said = command(
        "--oracle", "numpy", "--only", only, "--seed", 1000, "--programs", 100, "--seconds", 800, "--reduce", 20
    )
    assert "100 programs" in said


def test_a_failing_program_is_made_small():
    seed = next(s for s in range(1000) if fuzz.generate(s).tags()["sort"] and len(fuzz.generate(s).statements()) > 25)
    before = fuzz.generate(seed).source()

    def fails(source):
        return "tl.sort(" in source and fuzz_oracle.judge(source, "interpret").kind == "same"

    after = fuzz_oracle.reduce(fuzz.generate(seed), fails)
    assert fails(after)
    assert after.count("\n") < before.count("\n") / 2


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_what_counts_as_different(dtype):
    x = np.array([1.0, np.nan, 0.0, np.inf, 3.0]).astype(dtype)
    close, far, signed = x.copy(), x.copy(), x.copy()
    close[0] = dtype(1) + ml_dtypes.finfo(dtype).eps
    far[0], signed[2] = dtype(1.25), dtype(-0.0)
    none = [False] * 5
    assert fuzz_oracle.difference(x, x, 0).tolist() == none
    assert fuzz_oracle.difference(x, close, 0).tolist() == [True, *none[1:]]
    assert fuzz_oracle.difference(x, close, 2).tolist() == none
    assert fuzz_oracle.difference(x, far, 2).tolist() == [True, *none[1:]]
    assert fuzz_oracle.difference(x, signed, 0).tolist() == [False, False, True, False, False]
    assert fuzz_oracle.difference(x, np.full_like(x, np.nan), 2).tolist() == [True, False, True, True, True]


def test_memory_ends_where_it_must_not_be_read_beyond():
    fenced = fuzz_oracle.Fenced(5000)
    array = fenced.array(np.arange(5000, dtype=np.uint8), None)
    assert fenced.bytes[-1] == 4999 % 256
    verdict = fuzz_oracle.isolated(lambda: fuzz_oracle.Verdict("read", fuzz_oracle.text_at(array.ptr + 5000, 1)))
    assert verdict == fuzz_oracle.Verdict("crash", "SIGSEGV")
