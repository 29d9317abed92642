"""`tensorlib bench`: what is timed, what it is said to move and compute, shares of limits, pictures."""

from __future__ import annotations

import json
import struct
import types
import zlib

import numpy as np
import pytest
from simulated import simulated

import tensorlib as T
from tensorlib import bench, cli
from tensorlib._samples import Draw, Sample
from tensorlib.errors import ArgumentError
from tensorlib.op import Op, declared

CPU = bench.Library(T, "cpu")
#: Operators of the paths that models take, which have to declare what is timed.
MAIN = (
    "softmax", "log_softmax", "layer_norm", "rms_norm", "batch_norm", "group_norm", "matmul", "linear", "attention",
    "convolution", "cross_entropy", "embedding", "gather", "scatter_add", "index", "cast", "clone", "sum", "mean",
    "var", "argmax", "cumsum", "sort", "topk", "multinomial", "max_pool", "avg_pool", "resample", "dropout", "normal",
    "uniform", "cat", "where", "add", "mul", "gelu", "silu", "exp", "vector_norm", "adam_", "sgd_", "nonzero",
    "bincount", "unique", "histc", "index_put", "linear_scan", "constant_pad", "flip",
)  # fmt: skip


def work(name: str, *args: object, backward: bool = False, **attrs: object) -> bench.Work:
    (op,) = bench.chosen([name])
    drawn = tuple(Draw(a) if isinstance(a, tuple) else a for a in args)
    return bench.Work(op, Sample(drawn, attrs), np.dtype(np.float32), backward)


def results(w: bench.Work) -> tuple[float, float]:
    _, outs, gradients = bench.prepared(w, CPU, w.op.public)
    return bench.amounts(w, outs, gradients)


# --------------------------------------------------------------------------------------------------------- declarations


@pytest.mark.parametrize("op", [op for op in declared() if isinstance(op, Op) and op.bench], ids=lambda op: op.name)
def test_what_is_declared_can_be_counted(op):
    """Its bytes and flops are functions of its own parameters, and give a number for each size, in each dtype."""
    for sample in op.bench:
        for measure in (op.bytes, op.flops):
            if measure is not None:
                single, half = (bench.count(op, measure, sample, d) for d in (np.float32, np.float16))
                assert 0 < half <= single < 1e15, (op.name, sample)


def test_the_main_operators_are_timed():
    assert all(bench.sizes(op, (8,)) for op in bench.chosen(MAIN)) and len(bench.chosen(MAIN)) == len(MAIN)
    with pytest.raises(ArgumentError, match="softmax_grad declares no sizes"):
        bench.chosen(["softmax_grad"])


def test_pointwise_operators_need_no_sizes():
    """One of each length, of its number of tensors, within its domain."""
    (op,) = bench.chosen(["atan2"])
    assert [[d.shape for d in s.args] for s in bench.sizes(op, (8, 100))] == [[(8,), (8,)], [(100,), (100,)]]
    made = list(bench.works(bench.chosen(["log"]), ["float32", "float64"], True, False))
    assert [w.backward for w in made] == [False, True] * 4 and {w.dtype.name for w in made} == {"float32", "float64"}
    on_gpu = list(bench.works(bench.chosen(["log"]), ["float32"], False, True))
    assert on_gpu[-1].sample.args[0].shape == (1 << 26,)


def test_names(capsys):
    """As declared, without underscores, as an alias; what is none is told with what is like it."""
    assert [op.name for op in bench.chosen(["layer_norm", "_layer_norm", "linalg.vector_norm"])] == [
        "_layer_norm", "vector_norm",
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match=r"layer_nor is no operator: did you mean .*_layer_norm, "):
        bench.chosen(["layer_nor"])
    assert cli.main(["bench", "--list", "matmul", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "matmul 256×256 256×256, float32"


# ------------------------------------------------------------------------------------------------------------- counting


def test_bytes_and_operations():
    """Declared where they are; else operands and results, and both ways what the gradient rule reads and writes."""
    n = 1000 * 4
    assert results(work("exp", (10, 100))) == (2 * n, 0)
    assert results(work("exp", (10, 100), backward=True)) == (2 * n + 3 * n, 0)  # reads out and its gradient, writes
    assert results(work("mul", (10, 100), (10, 100), backward=True)) == (3 * n + 2 * n + n + 2 * n, 0)
    moved, flops = results(work("matmul", (16, 32), (32, 8)))
    assert flops == 2 * 16 * 32 * 8 and moved == 4 * (16 * 32 + 32 * 8 + 16 * 8)
    assert results(work("matmul", (16, 32), (32, 8), backward=True))[1] == 3 * flops
    moved, _ = results(work("sum", (10, 100), dim=1, backward=True))
    assert moved == n + 40 + 40  # the input's gradient is expanded: what has memory is the result's


def test_shares_of_the_limits():
    best = bench.Limits(100.0, {"float32": 1000.0})
    assert best.share(50.0, 0.0, "float32", 1.0) == 0.5
    assert best.share(50.0, 900.0, "float32", 1.0) == 0.9 and best.share(50.0, 900.0, "float64", 1.0) == 0.5
    assert best.share(0.0, 900.0, "bfloat16", 1.0) is None
    found = bench.limits(CPU, ["float32", "float64"], quick=True)
    assert found.bytes > 1e8 and min(found.flops.values()) > 1e8


# -------------------------------------------------------------------------------------------------------------- the run


def test_a_run(tmp_path, capsys):
    """Rows with times of both, shares, a record with the machine, a picture."""
    record, picture = tmp_path / "b.json", tmp_path / "b.png"
    assert cli.main([
        "bench", "exp", "add", "histc", "--device", "cpu", "--seconds", "0.001", "--backward", "--compare", "numpy",
        "--json", str(record), "--plot", str(picture),
    ]) == 0  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("cpu: copies ") and "float32" in said[0] and "of limit" in said[1]
    rows = json.loads(record.read_text())
    assert rows["versions"]["tensorlib"] == T.__version__ and rows["limits"]["bytes"] > 0
    for row in rows["results"]:
        assert row["seconds"].keys() == ({"tensorlib"} if row["backward"] else {"tensorlib", "numpy"}), row
        assert row["share"] > 0 and not row["errors"] and any(row["name"][:40] in line for line in said)
    assert {row["operator"] for row in rows["results"]} == {"exp", "add", "histc"}
    pixels = _pixels(picture.read_bytes())
    assert (pixels == (208, 74, 44)).all(-1).sum() > 30 and (pixels == (126, 170, 222)).all(-1).sum() > 30


def _pixels(data: bytes) -> np.ndarray:
    """The pixels of a PNG that the library wrote."""
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[at - 4 : at])
    rows = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + length]), np.uint8).reshape(height, 1 + 3 * width)
    return rows[:, 1:].reshape(height, width, 3)


def _small() -> list[bench.Work]:
    """Of each main operator the smallest call, where it takes less than 40 MB: the others differ in size alone."""
    found = []
    for op in bench.chosen(MAIN):
        for sample in bench.sizes(op, (8,))[:1]:
            nbytes = sum(bench._drawn(a, np.dtype(np.float32)) for a in sample.args)
            found += [bench.Work(op, sample, np.dtype(np.float32))] if nbytes < 40e6 else []
    return found


@pytest.mark.parametrize("work", _small(), ids=lambda w: w.op.name)
def test_every_main_operator_runs(work):
    """Through the same code as a large call; by NumPy's body alone as well."""
    best = bench.Limits(1e9, {"float32": 1e9})
    row = bench.measure(work, [CPU], ("numpy",), best, 0.0)
    assert not row["errors"] and row["seconds"]["tensorlib"] > 0 and row["share"] > 0, row


def test_a_peer():
    """PyTorch's side, with a module that has its names: a function of another shape is left out, and said to be."""
    peer = types.SimpleNamespace(
        __name__="torch", nn=types.SimpleNamespace(functional=T.nn.functional), Tensor=T.Tensor, linalg=T.linalg,
        fft=T.fft, special=T.special, softmax=T.softmax, from_numpy=T.from_numpy, topk=lambda x, k: x,
        multinomial=T.multinomial, randperm=T.randperm, var=T.var, autograd=T.autograd, ones_like=T.ones_like,
    )  # fmt: skip
    library = bench.Library(peer, "cpu")
    best = bench.Limits(1e9, {})
    row = bench.measure(work("softmax", (4, 8), dim=1), [CPU, library], (), best, 0.0)
    assert row["seconds"].keys() == {"tensorlib", "torch"} and not row["errors"]
    row = bench.measure(work("softmax", (4, 8), dim=1, backward=True), [CPU, library], (), best, 0.0)
    assert row["seconds"].keys() == {"tensorlib", "torch"}
    row = bench.measure(work("topk", (4, 8), k=3), [CPU, library], (), best, 0.0)
    assert row["seconds"].keys() == {"tensorlib"} and "its result is" in row["errors"]["torch"]


def test_what_cannot_be_timed(capsys):
    for device, why in (("sm_90", "runs nothing at speed"), ("interpret", "runs nothing at speed")):
        assert cli.main(["bench", "add", "--device", device]) == 1 and why in capsys.readouterr().err
    assert cli.main(["bench", "no_such", "--device", "cpu"]) == 1
    broken = work("softmax", (4, 8), dim=7)
    row = bench.measure(broken, [CPU], (), bench.Limits(1.0, {}), 0.0)
    assert "DimError" in row["errors"]["tensorlib"] and "DimError" in bench.line(row)


def test_on_a_gpu():
    """Graphs, events, a flushed cache: by the simulated driver, whose kernels do nothing."""
    with simulated("cuda", launcher="none", strict=False):
        library = bench.Library(T, "cuda", tiny=True)
        best = bench.limits(library, ["bfloat16"])
        assert best.bytes > 0 and best.flops["bfloat16"] > 0
        for backward in (False, True):
            w = work("softmax", (64, 32), dim=1, backward=backward)._replace(dtype=np.dtype(T.bfloat16.numpy))
            row = bench.measure(w, [library], ("numpy",), best, 0.0)
            assert not row["errors"] and row["seconds"].keys() == {"tensorlib"} and row["seconds"]["tensorlib"] > 0
        row = bench.measure(work("nonzero", (64,)), [library], (), best, 0.0)  # reads from the GPU: no graph of it
        assert row["seconds"] or row["errors"]


def test_an_interrupted_run_keeps_what_it_measured(monkeypatch, tmp_path, capsys):
    plain, calls = bench.measure, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(bench, "measure", stopping)
    record = tmp_path / "b.json"
    arguments = ["bench", "exp", "neg", "--device", "cpu", "--seconds", "0.001", "--compare", "--json", str(record)]
    assert cli.main(arguments) == 130 and "what is above was measured" in capsys.readouterr().err
    kept = json.loads(record.read_text())
    assert [r["operator"] for r in kept["results"]] == ["exp", "exp"] and kept["limits"]["bytes"] > 0
