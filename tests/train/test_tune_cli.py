"""`tensorlib tune`: what it refuses, ahead compilation for a target, searching on the simulated GPU, its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from simulated import simulated

import tensorlib
from tensorlib import _native, cli
from tensorlib.runtime import ahead, autotune
from tensorlib.runtime.native import codegen
from tensorlib.train import tuning


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLIB_CACHE", raising=False)
    autotune.reload()
    yield
    autotune.reload()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], r"tune times kernels on a GPU: .*; without one, --compile-only --target sm_90 compiles .* the CPU$"),
        (["--op", "matmul"], r"times kernels on a GPU: [^.]*no GPU can be used here(?!.*use 'cpu'|.*or --device cpu)"),
        (["--device", "native"], "--device native is no GPU: expected cuda"),
        (["--op", "matmull"], "--op matmull: expected one of attention, .*matmul"),
        (["--width", "8"], "--width says how large a --model is: name one of gpt, images"),
        (["--model", "images", "--heads", "2"], "--model images has no --heads"),
        (["--model", "gpt", "--layers", "0"], "--layers is 0: expected 1 or more"),
        (["--candidates", "0"], "--candidates is 0: expected 1 or more"),
        (["--compile-only", "--target", "cpu"], "--target cpu: expected a target such as sm_80"),
        (["--compile-only", "--op", "convolution"], "--op convolution has no examples of its own"),
    ],
)
def test_what_it_refuses(argv, said, capsys, monkeypatch):
    monkeypatch.setenv("TENSORLIB_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    monkeypatch.setenv("TENSORLIB_HIP_DRIVER", "/nowhere/libamdhip64.so")
    assert cli.main(["tune", *argv]) == 1
    assert re.search(said, capsys.readouterr().err)


def test_an_interrupted_comparison_keeps_what_was_done(capsys, monkeypatch, tmp_path):
    """The operators whose sizes were all timed; that in hand and the rest stay as they were."""
    if not codegen.available():
        pytest.skip("there is no compiler for this processor")
    monkeypatch.setattr(_native.state, "least", {"tanh": 7, "erf": 3, "gelu": 5})
    stop = ["c 3", "a 1"]
    names = {"a": "erf", "b": "gelu", "c": "tanh"}

    def measure(call):
        if call() in stop:
            raise KeyboardInterrupt
        name, size = call().split()
        yield _native.Measured(names[name], int(size), 1.0, 2.0 if name == "a" else 0.5)

    texts = [f"{name} {size}" for size in (1, 2, 3) for name in "abc"]
    monkeypatch.setattr(_native, "measure", measure)
    monkeypatch.setattr(tuning, "cpu_workloads", lambda: ((text, lambda text=text: text) for text in texts))
    assert cli.main(["tune", "--device", "cpu"]) == 130  # nothing was done
    assert "nothing is changed" in capsys.readouterr().err and _native.least() == {"tanh": 7, "erf": 3, "gelu": 5}
    stop.pop()
    assert cli.main(["tune", "--device", "cpu"]) == 130
    shown = capsys.readouterr()
    assert "stopped: what is above was measured and is kept" in shown.err and "tanh" not in shown.out
    assert _native.least() == {"gelu": 1, "tanh": 7}
    assert json.loads(next(tmp_path.rglob("cpu-native.json")).read_text())["least"] == _native.least()
    stop.pop()
    assert cli.main(["tune", "--device", "cpu"]) == 0
    assert _native.least() == {"gelu": 1, "tanh": 1}


@pytest.fixture
def small(monkeypatch):
    """One product in place of a training step, which takes the compiler and the interpreter many seconds."""

    def workloads(config, names, device):
        yield "a product", lambda: tensorlib.ones(20, 24, device=device) @ tensorlib.ones(24, 18, device=device)

    monkeypatch.setattr(tuning, "workloads", workloads)


@pytest.mark.parametrize(("model", "kernels"), [("gpt", "attention"), ("images", "convolution")])
def test_what_a_training_step_compiles(model, kernels):
    """Forward, backward, the optimizer and an evaluation; with the next candidates more of those kernels that have any.

    A weight's gradient is summed in other parts with another tile: by ``reduce_kernel``.
    """
    sizes = {"layers": 1, "heads": 1, "width": 16, "block": 16} if model == "gpt" else {"width": 4}
    config = tuning.configured(model, {**sizes, "batch": 2, "dtype": "bfloat16"})
    ((text, call),) = tuning.workloads(config, [], tensorlib.device("sm_90"))
    assert text == "a training step, batch 2, bfloat16"
    found = tuning.requests([call], 1)
    names = {r.kernel.__name__ for r in found}
    assert {f"{kernels}_kernel", "matmul_kernel", "adam_kernel", "cross_entropy_kernel"} <= names
    more = tuning.requests([call], 2)
    before = {r.hashable for r in found}
    added = {r.kernel.__name__ for r in more if r.hashable not in before}
    tunable = {kernel.__name__ for made in autotune.tunables.values() for kernel in made.kernels}
    assert "matmul_kernel" in added and added <= tunable | {"reduce_kernel"}


def test_the_examples_of_a_kernel():
    for text, call in tuning.workloads(None, ["matmul"], tensorlib.device("gfx942")):
        names = {r.kernel.__name__ for r in ahead.collect(call)}
        assert text.startswith("matmul (") and names & {"matmul_kernel", "gemv_kernel"}


def test_compiling_ahead_for_a_target(small, capsys):
    """With no GPU, and the second time everything is there."""
    pytest.importorskip("triton")
    argv = ["tune", "--compile-only", "--target", "sm_90", "gfx1100", "--model", "gpt", "--jobs", "1"]
    assert cli.main(argv) == 0
    first = capsys.readouterr()
    assert " kernels compiled, 0 were there, 0 failed" in first.out and "kernels: " in first.err
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.startswith("0 kernels compiled, ")


def test_a_search_on_a_gpu_and_its_tables(small, capsys, tmp_path):
    pytest.importorskip("triton")
    assert cli.main(["tune", "--show"]) == 0
    assert "nothing was measured yet" in capsys.readouterr().out
    argv = ["tune", "--model", "gpt", "--op", "matmul", "--candidates", "2"]
    with simulated("cuda"):
        assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "matmul on cuda:0: " in out and "0 skipped, 0 with wrong results; kept in " in out
    assert cli.main(["tune", "--show"]) == 0
    shown = capsys.readouterr().out
    assert "Simulated H100 (sm_90), yours: " in shown and " -> " in shown and "(fastest of " in shown
    file = next((tmp_path / "cache" / "tables").glob("*.json"))
    file.write_text(re.sub(r'"\d+-', '"0-', file.read_text()))
    assert cli.main(["tune", "--show"]) == 0
    assert "of another version of the kernel: not used" in capsys.readouterr().out
    assert cli.main(["tune", "--clear"]) == 0 and str(file) in capsys.readouterr().out and not Path(file).exists()
    assert cli.main(["tune", "--clear"]) == 0 and "no table of yours" in capsys.readouterr().out
