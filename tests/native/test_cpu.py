"""The native engine behind ``cpu``: which operators it takes, that they give what NumPy gives, and the switches."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import _native, doctor
from tensorlib.errors import ArgumentError, DeviceError
from tensorlib.nn import functional as F
from tensorlib.op import registry
from tensorlib.runtime.native import codegen, machine, settings

if not codegen.available():
    pytest.skip("there is no compiler for this processor", allow_module_level=True)
pytest.importorskip("triton")

OPERATORS = (
    "_gelu", "gelu_grad", "softmax", "softmax_grad", "_layer_norm", "layer_norm_grad", "_cross_entropy",
    "cross_entropy_grad", "_attention", "adam_", "erf", "_dropout", "_normal", "cumsum", "sum",
)  # fmt: skip


@pytest.fixture
def native(monkeypatch, tmp_path):
    """These operators natively whatever the size; a list of those that did."""
    monkeypatch.setenv("TENSORLIB_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_native.state, "least", dict.fromkeys(OPERATORS, 1))
    seen: list[str] = []
    force = _native.force

    def noted(op, *args):
        out = force(op, *args)
        if out is not None:
            seen.append(op.name)
        return out

    monkeypatch.setattr(_native, "force", noted)
    return seen


def both(call):
    """What a call gives natively and by NumPy."""
    got = call()
    with _native.numpy_only():
        return got, call()


def close(got, expected, rtol=2e-5):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=rtol, atol=rtol)


def trained(function, *shapes, dtype=tl.float32):
    """A function's result and the gradients of its inputs."""
    rng = np.random.default_rng(3)
    inputs = [tl.tensor(rng.standard_normal(shape), dtype=dtype).requires_grad_() for shape in shapes]
    out = function(*inputs)
    out.backward(tl.ones_like(out))
    return [out.detach().double(), *(x.grad.double() for x in inputs)]


CASES = {
    "gelu": (F.gelu, (7, 33)),
    "softmax": (lambda x: F.softmax(x, 1).square(), (5, 70)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (40,), w, b), (9, 40), (40,), (40,)),
    "cross_entropy": (lambda x: F.cross_entropy(x, tl.arange(6) % 5), (6, 5)),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),) + ((2, 3, 17, 8),) * 3,
    "strided": (lambda x: F.gelu(x.t()[1:, ::2]), (6, 9)),
    "erf": (tl.erf, (50,)),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_give_what_numpy_gives(native, name):
    function, *shapes = CASES[name]
    close(*both(lambda: trained(function, *shapes)))
    assert native


@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16, tl.float64], ids=str)
def test_other_dtypes(native, dtype):
    close(*both(lambda: trained(CASES["gelu"][0], (7, 33), dtype=dtype)), rtol=1e-2 if dtype.itemsize == 2 else 1e-12)
    assert "_gelu" in native


@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16], ids=str)
def test_many_numbers_of_half_types_are_read_as_they_are(monkeypatch, dtype):
    """Without widening them first; a number is taken in float32; fewer, or of two types, are NumPy's."""
    seen: list[str] = []
    by_kernel = _native.run_halves

    def noted(op, *args):
        seen.append(op.name)
        return by_kernel(op, *args)

    monkeypatch.setattr(_native, "run_halves", noted)
    rng = np.random.default_rng(0)
    x, y = (tl.tensor(rng.standard_normal((130, 130)), dtype=dtype).requires_grad_() for _ in range(2))

    def run():
        x.grad = y.grad = None
        out = (x * 1.1 + y).exp().sum(1)
        out.backward(tl.ones_like(out))
        return [t.detach().double() for t in (out, x.grad, y.grad, x.t() - y, F.softmax(x, 1), x.argmax(1))]

    close(*both(run), rtol=2e-2)
    assert {"mul", "add", "exp", "sum", "sub", "softmax", "argmax"} <= set(seen)
    seen.clear()
    x[:2] * y[:2], x + y.float()
    assert not seen


def test_large_tensors_are_written_in_one_kernel(monkeypatch):
    """In place: of another view of the same memory as it was, counted once; by NumPy where that is to be."""
    written: list[str] = []
    force = _native.force

    def noted(op, *args):
        written.extend([op.name] * bool(op.mutates))
        return force(op, *args)

    monkeypatch.setattr(_native, "force", noted)
    tl.manual_seed(0)
    start, other = tl.rand(400, 400), tl.rand(400, 400)

    def run():
        x = start.clone()
        x.sub_(other, alpha=0.1).lerp_(x.t(), 0.25).addcmul_(other, other[:1], value=2).clamp_(0.1, 0.9)
        return x, tl.tensor(x._version)

    close(*both(run))
    assert written == ["sub", "lerp", "addcmul", "clamp"]


def test_random_numbers_are_the_same(native):
    def draw():
        tl.manual_seed(5)
        return tl.randn(1000), F.dropout(tl.ones(1000), 0.3)

    close(*both(draw), rtol=1e-5)
    assert {"_normal", "_dropout"} <= set(native)


def test_an_optimizer(native):
    def run():
        tl.manual_seed(1)
        layers = tl.nn.Linear(8, 8)
        optimizer = tl.optim.AdamW(layers.parameters(), lr=0.1)
        for _ in range(3):
            layers(tl.ones(2, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in layers.parameters()]

    close(*both(run))
    assert "adam_" in native


def test_small_and_foreign_arrays_stay_with_numpy(native, monkeypatch):
    monkeypatch.setitem(_native.state.least, "erf", 100)
    tl.erf(tl.ones(99))
    assert native == []
    tl.erf(tl.ones(100))
    assert native == ["erf"]
    packed = np.zeros(100, np.dtype([("a", "i1"), ("x", "<f4")], align=False))["x"]  # at addresses that kernels refuse
    assert not packed.flags.aligned
    assert (tl.erf(tl.from_numpy(packed)) == 0).all() and native == ["erf"]


def test_what_was_not_measured_stays_with_numpy(native):
    """Rows along another dim than the last, a query or two, classes in the middle."""
    F.softmax(tl.ones(8, 8), 0), F.log_softmax(tl.ones(8, 8), 0), tl.cumsum(tl.ones(8, 8), 0)
    F.scaled_dot_product_attention(tl.ones(2, 3, 8), tl.ones(2, 40, 8), tl.ones(2, 40, 8))
    F.cross_entropy(tl.ones(2, 5, 3), tl.ones(2, 3, dtype=tl.int64))
    assert native == []
    F.softmax(tl.ones(8, 8), -1), tl.cumsum(tl.ones(8, 8), 1)
    F.scaled_dot_product_attention(tl.ones(2, 16, 8), tl.ones(2, 40, 8), tl.ones(2, 40, 8))
    assert native == ["softmax", "cumsum", "_attention"]


def test_memory_that_two_arguments_share_is_seen():
    memory = np.arange(20, dtype=np.float32)
    arrays = [_native._seen(a) for a in (memory[:10], memory[5:15], memory[16:], np.frombuffer(memory)[-1:])]
    _native._share(list(arrays))
    first, second, third, last = (a.owner for a in arrays)
    assert first is second and third is last and first is not third
    assert (first.start, first.nbytes) == (memory.ctypes.data, 60)


def usual() -> dict[str, int]:
    """The library's own numbers, for as many threads as there are."""
    return _native.MEASURED | (_native.SHARED if tl.get_num_threads() > 1 else {})


def test_numbers_of_threads():
    """What NumPy does on one thread is shared from two on, with the same bits; nothing else changes with them."""
    x, y = (tl.randn(512, 512) for _ in range(2))
    before, found = tl.get_num_threads(), []
    try:
        for count in (1, 2):
            tl.set_num_threads(count)
            assert ("add" in _native.least()) == (count == 2) and "_gelu" in _native.least()
            found.append([(x + y).numpy(), (x * 2.5).numpy(), (x / y).numpy(), (-x).numpy(), (x > 0.3).numpy(),
                          tl.maximum(x, y).numpy(), tl.relu(x).numpy(), (x.T - y).numpy()])  # fmt: skip
    finally:
        tl.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_the_switches(native):
    assert tl.backends.native.is_available() and "erf" in _native.least()
    with tl.backends.native.flags(enabled=False):
        tl.erf(tl.ones(100))
        assert native == [] and not _native.least()
    assert _native.least() == usual()  # the user's file is in an empty folder
    unknown = (_native.MEASURED | _native.SHARED).keys() - registry.keys()
    assert not unknown


def test_numbers_of_the_users_own(native):
    path = _native.keep({"erf": 10})
    assert json.loads(path.read_text())["processor"] == _native.processor()
    _native.enable(True)
    assert _native.least() == {"erf": 10}
    path.write_text('{"processor": "another", "least": {"erf": 1}}')
    _native.enable(True)
    assert _native.least() == usual()
    for damage in ("", "[]", '{"least": 3}'):
        path.write_text(damage)
        with pytest.warns(UserWarning, match=r"cpu-native.json cannot be read .*tensorlib tune --device cpu"):
            _native.enable(True)
        assert _native.least() == usual()


def test_measuring(native):
    found = list(_native.measure(lambda: F.gelu(tl.randn(5000))))
    assert [(m.op, m.size) for m in found if m.op == "_gelu"] == [("_gelu", 5000)]
    assert all(m.numpy > 0 and m.native > 0 for m in found)
    times = [
        _native.Measured("a", 10, 1.0, 5.0), _native.Measured("a", 100, 1.0, 0.5), _native.Measured("a", 999, 1.0, 0.2),
        _native.Measured("b", 10, 1.0, 0.1), _native.Measured("b", 100, 1.0, 0.1), _native.Measured("b", 100, 1.0, 2.0),
        _native.Measured("c", 5, 1.0, 0.5),
    ]  # fmt: skip
    assert _native.crossovers(times) == {"a": 100, "c": 5}


@pytest.mark.parametrize(
    ("name", "ratios", "least"),
    [
        ("x", [2.0, 0.8, 0.8], 2), ("x", [2.0, 2.0, 0.5], None), ("x", [0.5, 0.5, 1.0], None),
        ("x", [0.5, 2.0, 0.5], None), ("x", [0.89, 0.89], 1),
        ("x", [0.7], 1), ("x", [0.8], None), ("sum", [0.2], None), ("matmul", [0.2], None),
        ("matmul", [1.1, 0.2], None), ("sum", [0.5, 0.5], 1),
    ],
)  # fmt: skip
def test_one_lucky_size_chooses_nothing(name, ratios, least):
    """Sizes 1, 2, 3, with what the kernel takes of NumPy's time; the worse of two measurements of a size counts."""
    found = [_native.Measured(name, size, 1.0, r * luck) for size, r in enumerate(ratios, 1) for luck in (0.1, 1.0)]
    assert _native.crossovers(found) == ({} if least is None else {name: least})


def test_both_sides_take_turns():
    """What slows the machine for a while slows both of them, and the fastest round of each counts."""
    turns: list[str] = []
    times = _native._seconds(lambda: turns.append("numpy"), lambda: turns.append("native"))
    assert len(times) == 2 and len(turns) >= 10 and turns == ["numpy", "native"] * (len(turns) // 2)
    assert _native.BOUND <= registry.keys()


def test_the_environment(monkeypatch):
    code = "import tensorlib as t; from tensorlib import _native; t.ones(3).erf(); print(len(_native.least()))"
    environment = {**os.environ, "TENSORLIB_NATIVE": "off"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    for said, on in dict.fromkeys(("", "1", "true", "YES", "on"), True).items() | {"0": False, "No": False}.items():
        monkeypatch.setenv("TENSORLIB_NATIVE", said)
        assert _native.asked() is on
    monkeypatch.setenv("TENSORLIB_NATIVE", "fast")
    monkeypatch.setattr(_native.state, "least", _native._Unread())
    with pytest.raises(ArgumentError, match=r"^TENSORLIB_NATIVE=fast: expected 1, true, .*; unset it for on$"):
        tl.erf(tl.ones(3))  # which is not to blame


def test_switches_are_booleans(native, monkeypatch):
    switches = tl.backends.native
    for name in ("enabled", "guard"):
        for value in ("off", None, 2, 0.0):
            with pytest.raises(TypeError, match=f"backends.native.{name}: got .*: expected True or False"):
                setattr(switches, name, value)
        for value in (0, np.False_):
            with switches.flags(**{name: value}):
                assert not getattr(switches, name)
    assert switches.enabled and not switches.guard
    with pytest.raises(TypeError, match="guard"), switches.flags(enabled=False, guard="on"):
        pass
    assert switches.enabled and not switches.guard
    monkeypatch.setattr(_native, "available", lambda: False)
    switches.enabled = False
    try:
        with pytest.raises(DeviceError, match=r"needs Triton"):
            switches.enabled = True
        assert not switches.enabled
    finally:
        monkeypatch.undo()
        switches.enabled = True


SAYS = {
    "TENSORLIB_NATIVE=fast": "TENSORLIB_NATIVE=fast: expected 1, true, yes or on, or else 0, false, no or off",
    "TENSORLIB_NATIVE_CPU=fast": "TENSORLIB_NATIVE_CPU=fast: expected one of x86-64, .*; unset it for this processor",
    "TENSORLIB_CACHE=fast": "TENSORLIB_CACHE=fast: expected 1, true",
    "TENSORLIB_CACHE_SIZE=fast": "TENSORLIB_CACHE_SIZE=fast: expected a number of MiB",
    "OMP_NUM_THREADS=fast": r"OMP_NUM_THREADS=fast is not a number of threads and is ignored: set OMP_NUM_THREADS=\d",
    "TENSORLIB_CACHE_DIR=/dev/null/x": "Compiled kernels cannot be kept: /dev/null/x cannot be written. Set TENSORLIB",
}


@pytest.mark.parametrize("variable", SAYS)
def test_the_doctor_says_what_is_wrong_with_the_environment(variable, monkeypatch):
    monkeypatch.setenv(*variable.split("="))
    advice = list(doctor.report())[-5:]
    assert any(re.match(SAYS[variable], line) for line in advice), advice


def test_the_doctor_knows_a_foreign_processor_and_the_guards_variable(monkeypatch):
    monkeypatch.setattr(settings._State, "guard", None)
    monkeypatch.setenv("TENSORLIB_NATIVE_GUARD", "fast")
    assert any(line.startswith("TENSORLIB_NATIVE_GUARD=fast: expected 1, true") for line in doctor.report())
    monkeypatch.delenv("TENSORLIB_NATIVE_GUARD")
    other = "neon" if machine.host().architecture == "x86_64" else "x86-64"
    monkeypatch.setenv("TENSORLIB_NATIVE_CPU", other)
    lines = list(doctor.report())
    assert sum(f"cannot run code for {other}: it lacks " in line for line in lines) == 2


def test_without_a_working_compiler_numpy_does_it(monkeypatch):
    """A Triton without a code generator for the processor, or a system that forbids it: said once, nothing is lost."""

    def none(*_):
        raise codegen.NoCompiler("native: the LLVM of this Triton makes no code for x86-64")

    x = tl.randn(1 << 17)
    monkeypatch.setattr(_native, "force", none)
    monkeypatch.setattr(_native.state, "least", dict(_native.MEASURED))
    with pytest.warns(UserWarning, match="makes no code for x86-64: operators of the CPU run on NumPy alone"):
        y = F.gelu(x)
    assert not _native.state.least
    np.testing.assert_array_equal(F.gelu(x).numpy(), y.numpy())


def test_nothing_but_triton_is_needed():
    """On Linux for x86-64 no llvmlite is loaded, to compile or to link."""
    if platform.machine() != "x86_64":
        pytest.skip("elsewhere llvmlite compiles")
    code = (
        "import sys, tensorlib as tl\n"
        "with tl.backends.native.flags(enabled=True): tl.nn.functional.gelu(tl.randn(1 << 17))\n"
        "tl.ones(3, device='native').sum().item()\n"
        "assert not any(name.startswith('llvmlite') for name in sys.modules), 'llvmlite'\n"
    )
    environment = {**os.environ, "TENSORLIB_CACHE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
