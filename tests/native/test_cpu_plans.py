"""Plans of the CPU's native operators: held to the general way, and given up where anything else decides."""

from __future__ import annotations

import threading
from types import FunctionType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorlib as T
from tensorlib import _native, _native_plans
from tensorlib._plans import Candidate
from tensorlib.nn import functional as F
from tensorlib.op import Array, op, registry
from tensorlib.runtime.native import codegen

if not codegen.available():
    pytest.skip("there is no compiler for this processor", allow_module_level=True)


@pytest.fixture(autouse=True)
def everything(monkeypatch):
    """Every operator with a kernel runs natively, from one element on; there is no plan yet."""
    names = {o.name for o in registry.values() if getattr(o, "kernel", None) is not None and not o.dynamic}
    monkeypatch.setattr(_native.state, "least", dict.fromkeys(names, 1))
    _native_plans.plans.clear()
    _native_plans._operators.clear()
    yield
    _native_plans.plans.clear()


def planned(name: str) -> list[Any]:
    return [plan for key, plan in _native_plans.plans.items() if key[0].name == name and type(plan) is FunctionType]


def whole(f: Any) -> Any:
    """The same by host functions alone."""
    saved = dict(_native_plans._operators)
    for of in _native_plans._operators.values():
        of.has_plans = False
    try:
        return f()
    finally:
        for of in saved.values():
            of.has_plans = True


X = np.random.default_rng(0).standard_normal((37, 70)).astype(np.float32)
CALLS = {
    "_gelu": lambda x: F.gelu(x), "softmax": lambda x: T.softmax(x, -1), "log_softmax": lambda x: x.log_softmax(1),
    "_layer_norm": lambda x: F.layer_norm(x, (x.shape[-1],)), "_rms_norm": lambda x: F.rms_norm(x, (x.shape[-1],)),
    "cumsum": lambda x: x.cumsum(1), "sigmoid": lambda x: x.T.contiguous().T.sigmoid(),
    "_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "_elu": lambda x: F.elu(x, 0.3), "matmul": lambda x: x @ x.T, "_cross_entropy": lambda x: F.cross_entropy(
        x, T.arange(x.shape[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_plan_gives_what_the_host_function_gives(name):
    call, rng = CALLS[name], np.random.default_rng(1)
    x = T.from_numpy(X.copy())
    for _ in range(3):
        call(x)
    assert planned(name), {type(p) if type(p) is FunctionType else p.reason for p in _native_plans.plans.values()}
    for _ in range(3):  # other numbers, at other addresses
        x = T.from_numpy(rng.standard_normal(X.shape).astype(np.float32))
        a, b = call(x).numpy(), whole(lambda x=x: call(x).numpy())
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype and a.strides == b.strides


@pytest.mark.parametrize("name", ["_gelu", "softmax", "_layer_norm", "_cross_entropy"])
def test_gradients(name):
    x = T.from_numpy(X.copy()).requires_grad_()

    def gradient() -> np.ndarray:
        x.grad = None
        (CALLS[name](x) ** 2).sum().backward()
        return x.grad.numpy()

    found = [gradient() for _ in range(4)]
    assert len(_native_plans.plans) > 1
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    np.testing.assert_array_equal(whole(gradient), found[0])


def test_layouts_dtypes_and_alignment():
    """Each is a key of its own: columns, reversed rows, no elements, bfloat16, an address that is no multiple of 16."""
    raw = np.zeros(4 * X.size + 4, np.uint8)
    moved = raw[4:].view(np.float32).reshape(X.shape)
    moved[...] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    arrays = [X, X.T, X[::2], X[:, ::3], X[:0], X.astype(np.float64), X.astype(ml_dtypes.bfloat16), moved,
              np.broadcast_to(X[0], X.shape), X[5:6]]  # fmt: skip
    for _ in range(4):
        for a in arrays:
            t = T.from_numpy(a.copy(order="K")) if a is not moved else T.from_numpy(moved)
            found, want = T.softmax(t, -1).numpy(), whole(lambda t=t: T.softmax(t, -1).numpy())
            np.testing.assert_array_equal(found.astype(np.float64), want.astype(np.float64))
    assert len(planned("softmax")) >= len(arrays) - 2


def test_random_numbers_go_on():
    """Seed and place in the stream are passed on at each call."""
    x = T.ones(4000)
    T.manual_seed(3)
    a = [F.dropout(x, 0.25).numpy() for _ in range(6)]
    assert planned("_dropout")
    T.manual_seed(3)
    b = whole(lambda: [F.dropout(x, 0.25).numpy() for _ in range(6)])
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p, q)
    assert not np.array_equal(a[3], a[4])
    assert abs(F.dropout(x, 0.75).numpy().astype(bool).mean() - 0.25) < 0.05


def test_attributes_are_not_confused():
    x = T.from_numpy(X.copy())
    for _ in range(4):
        for alpha in (1.0, 0.5, 2.0, 0.0, -0.0):
            want = np.where(x.numpy() > 0, x.numpy(), alpha * np.expm1(x.numpy()))
            np.testing.assert_allclose(F.elu(x, alpha).numpy(), want, rtol=1e-5, atol=1e-6)
        for eps in (1e-5, 1.0, 1e-3):
            mean, var = X.mean(1, keepdims=True), X.var(1, keepdims=True)
            got = F.layer_norm(x, (70,), eps=eps).numpy()
            np.testing.assert_allclose(got, (X - mean) / np.sqrt(var + eps), rtol=1e-4, atol=1e-5)
    assert len(planned("_elu")) == 1  # alpha is passed on
    assert len(planned("_layer_norm")) == 3  # eps may be looked at


def test_what_listens_sees_every_call():
    from tensorlib.runtime import launch

    x, seen = T.from_numpy(X.copy()), []
    for _ in range(3):
        F.gelu(x)
    launch.observers.append(seen.append)
    try:
        F.gelu(x)
    finally:
        launch.observers.remove(seen.append)
    assert len(seen) == 1


def test_threads_and_the_guard_make_new_plans():
    x = T.from_numpy(X.copy())
    for _ in range(3):
        F.gelu(x)
    before = T.get_num_threads()
    T.set_num_threads(before + 1)
    try:
        assert not _native_plans.plans
        want = F.gelu(x).numpy()
    finally:
        T.set_num_threads(before)
    with T.backends.native.flags(guard=True):
        for _ in range(3):
            np.testing.assert_array_equal(F.gelu(x).numpy(), want)
        assert not planned("_gelu")


def test_many_threads_at_once():
    rows = [T.from_numpy(X + i) for i in range(4)]
    want = [T.softmax(x, -1).numpy() for x in rows]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(200):
            if not np.array_equal(T.softmax(rows[i], -1).numpy(), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and planned("softmax")


@op(spec=lambda input: (input.shape, input.dtype), kernel=lambda out, input: looks(out, input), on="", samples=())
def looks_around(input: Array):
    """input, or its negative: a plugin may decide by anything."""
    return input


SIGN = [1.0]


def looks(out: Any, input: Any) -> None:
    from tensorlib.kernels import pointwise

    (pointwise.copy if SIGN[0] > 0 else lambda o, x: pointwise.fill(o, -1.0))(out, input)


def test_a_plugin_has_no_plans(monkeypatch):
    monkeypatch.setitem(_native.state.least, "looks_around", 1)
    x = T.from_numpy(X.copy())
    for _ in range(4):
        np.testing.assert_array_equal(looks_around(x).numpy(), X)
    SIGN[0] = -1.0
    try:
        assert (looks_around(x).numpy() == -1).all()
    finally:
        SIGN[0] = 1.0
    assert not [key for key in _native_plans.plans if key[0].name == "looks_around"]


def test_shapes_that_never_come_again_are_seldom_recorded():
    for n in range(1, 400):
        F.gelu(T.ones(n))
    kept = [key for key in _native_plans.plans if key[0].name == "_gelu"]
    assert len(kept) < 120
    for _ in range(40):
        x = T.ones(1000)
        F.gelu(x)
    assert planned("_gelu")


def test_the_number_of_plans_is_bounded(monkeypatch):
    monkeypatch.setattr(_native_plans, "MOST", 8)
    for n in range(1, 30):
        F.gelu(T.ones(n))
    assert len(_native_plans.plans) <= 8


def test_arrays_that_kernels_cannot_read_are_left_to_numpy():
    odd = np.zeros(4 * X.size + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)  # not aligned to its elements
    odd[...] = X
    for _ in range(3):
        np.testing.assert_allclose(T.softmax(T.from_numpy(odd), -1).numpy(), T.softmax(T.from_numpy(X), -1).numpy(),
                                   rtol=1e-5)  # fmt: skip
    reasons = {plan.reason for plan in _native_plans.plans.values() if type(plan) is Candidate}
    assert "arrays that kernels cannot read" in reasons


def test_much_memory_of_a_calls_own_is_asked_for_anew(monkeypatch):
    monkeypatch.setattr(_native_plans, "_KEPT", 0)
    x = T.from_numpy(np.random.default_rng(2).standard_normal((300, 40)).astype(np.float32)).requires_grad_()
    w = T.ones(40, requires_grad=True)
    grads = []
    for _ in range(5):
        w.grad = None
        F.layer_norm(x, (40,), w).square().sum().backward()
        grads.append(w.grad.numpy())
    for g in grads[1:]:
        np.testing.assert_array_equal(g, grads[0])


def test_numbers_are_passed_on():
    """One plan for all numbers that an operand may be; what float32 does not hold is an infinity."""
    x = T.from_numpy(X.copy())
    for number in (1.5, -2.0, 0.0, -0.0, float("inf"), float("nan"), 1e300):
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal((x * number).numpy(), X * np.float32(number))
    assert len(planned("mul")) == 1
    count = T.from_numpy(np.arange(2000))
    for number in (3, 5, 3, 5, 3, 5):  # a whole number may choose another kernel
        np.testing.assert_array_equal((count * number).numpy(), np.arange(2000) * number)


# -- device "native": `_plans`, with NativeBuilder's code --------------------------------------------------------------


def plans_of(name: str) -> list[Any]:
    kept = T.device("native").engine.plans
    return [plan for key, plan in kept.items() if getattr(key[0], "name", "") == name and type(plan) is FunctionType]


@pytest.fixture
def device():
    """Device "native" without plans."""
    T.zeros(1, device="native")
    T.device("native").engine.plans.clear()
    yield "native"
    T.device("native").engine.plans.clear()


def test_operators_of_the_device_have_plans(device):
    rng = np.random.default_rng(4)

    def both(numbers: np.ndarray, where: str) -> list[np.ndarray]:
        x = T.from_numpy(numbers).to(where).requires_grad_()
        y = F.layer_norm(F.gelu(x * 2.5), (70,)) + x.T.contiguous().T
        (y.softmax(-1) * y).sum().backward()
        return [y.detach().cpu().numpy(), x.grad.cpu().numpy()]

    for _ in range(5):
        numbers = rng.standard_normal(X.shape).astype(np.float32)
        for a, b in zip(both(numbers, device), both(numbers, "cpu"), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    assert all(plans_of(name) for name in ("_gelu", "gelu_grad", "_layer_norm", "layer_norm_grad", "softmax", "mul"))


def test_writes_of_the_device(device):
    """In place, over memory that operands share, and in a count of writes that autograd sees."""
    x = T.from_numpy(X.copy()).to(device)
    for i in range(1, 6):
        x.add_(1.0)
        np.testing.assert_allclose(x.cpu().numpy(), X + i, rtol=1e-5, atol=1e-5)
    for _ in range(5):
        y = T.arange(100.0, device=device)
        y[1:].copy_(y[:-1].clone())
        y[:50].add_(y[:50])
        want = np.concatenate([[0.0], np.arange(99.0)])
        want[:50] *= 2
        np.testing.assert_array_equal(y.cpu().numpy(), want)
    w = T.ones(8, device=device, requires_grad=True)
    for _ in range(4):
        v = w * 1.0
        kept = v.exp()
        kept.add_(1.0)
        with pytest.raises(RuntimeError, match="inplace operation"):
            kept.sum().backward()


def test_an_error_that_a_kernel_reports(device):
    """The plan finds it, and the general way tells of it; the next call is well."""
    table = T.from_numpy(X.copy()).to(device)
    good = T.from_numpy(np.array([0, 3, 5])).to(device)
    bad = T.from_numpy(np.array([0, 3, 500])).to(device)
    for _ in range(5):
        np.testing.assert_array_equal(F.embedding(good, table).cpu().numpy(), X[[0, 3, 5]])
    assert plans_of("_embedding")
    for _ in range(2):
        with pytest.raises(T.errors.KernelError, match="out of bounds"):
            F.embedding(bad, table)
        np.testing.assert_array_equal(F.embedding(good, table).cpu().numpy(), X[[0, 3, 5]])


def test_random_numbers_and_optimizers_of_the_device(device):
    def run(where: str) -> list[np.ndarray]:
        T.manual_seed(5)
        p = T.from_numpy(X.copy()).to(where).requires_grad_()
        optimizer, out = T.optim.AdamW([p], lr=0.1), []
        for _ in range(6):
            optimizer.zero_grad()
            noise = T.randn(*X.shape, device=where)
            F.dropout(p * noise, 0.3).square().sum().backward()
            optimizer.step()
            out += [noise.cpu().numpy(), p.detach().cpu().numpy().copy()]
        return out

    for a, b in zip(run(device), run("cpu"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_devices_plans_go_with_threads_and_guard(device):
    x = T.from_numpy(X.copy()).to(device)
    for _ in range(4):
        F.gelu(x)
    assert plans_of("_gelu")
    before = T.get_num_threads()
    T.set_num_threads(before + 1)
    T.set_num_threads(before)
    assert not plans_of("_gelu")
    with T.backends.native.flags(guard=True):
        for _ in range(4):
            F.gelu(x)
        assert not plans_of("_gelu")


def test_a_condition_of_no_dims_chooses_everywhere() -> None:
    """It is no number to Triton."""
    x, y = T.ones(20000), T.zeros(20000)
    for _ in range(4):  # by the host function, then by a plan
        assert T.where(T.tensor(True), x, y).sum().item() == 20000 and T.where(x[0] > 2, x, y).sum().item() == 0
