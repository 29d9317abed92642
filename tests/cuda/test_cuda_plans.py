"""Plans: an operator that is done again without its host function gives what its host function would give."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton.language as language
from simulated import Simulation, simulated
from triton.language import constexpr

import tensorlib as tl
from tensorlib import _array, _core, _dispatch, _plans
from tensorlib._core import wrap
from tensorlib.autograd import engine as autograd
from tensorlib.errors import DriverError, DtypeError, TensorlibError
from tensorlib.kernels import pointwise
from tensorlib.kernels.segments import narrow_segment_kernel
from tensorlib.op import Array, Op, registry
from tensorlib.op import op as declare
from tensorlib.runtime import abi, autotune, compiler, driver, engine, gpu, interpreter, launch, memory, recording
from tensorlib.runtime.compiler import Compiled, jit
from tensorlib.runtime.versions import Metadata
from tensorlib.testing import calls
from tensorlib.testing.cases import Case, cases, usual

# Plugins and other tests may have declared more by the time this runs.
LIBRARY = [op for op in registry.values() if op.__module__.startswith("tensorlib.") and op.kernel is not None]


def uncompiled(sim: Simulation) -> Any:
    """compile_kernel without the compiler: an image that is only a name, and what it does by the interpreter."""

    def compile_kernel(kernel: Any, keys: Any, constants: Any, target: str, num_warps: int = 4, num_stages: int = 2,
                       options: Any = None) -> Compiled:  # fmt: skip
        request = compiler.Request(kernel, keys, constants, target, num_warps, num_stages, options)
        types = [t for k in keys for t in compiler.runtime_types(k)]

        def run(raw: list[bytes], grid: tuple[int, ...], block: Any) -> None:
            flat = iter(zip(types, raw, strict=False))
            interpreter.run(kernel, grid, tuple(sim._argument(key, flat, []) for key in keys), dict(constants))

        name = f"kernel_{len(sim._images)}"
        sizes = [size for _, size in abi.packed(types).layout]
        return Compiled(request, Metadata(name, 0, num_warps), sim.kernel(name, sizes, run))

    return compile_kernel


@pytest.fixture(scope="module")
def machine() -> Iterator[Simulation]:
    """A GPU for all the tests of this module, whose kernels are never compiled."""
    patch = pytest.MonkeyPatch()
    with simulated("cuda", blocks=False, record=False, lazy=False) as sim:
        patch.setattr(compiler, "compile_kernel", uncompiled(sim))
        patch.setattr(memory, "out_of_bounds", lambda addresses, itemsize: None)
        yield sim
        patch.undo()


@contextlib.contextmanager
def without_plans() -> Iterator[None]:
    """Every call goes the general way."""
    before, engine.planning[0] = engine.planning[0], False
    try:
        yield
    finally:
        engine.planning[0] = before


def plans(made: Any = None) -> list[Any]:
    """The plans of the first GPU, of one operator or of all."""
    kept = gpu.gpu(tl.device("cuda:0")).plans
    return [p for key, p in kept.items() if callable(p) and (made is None or key[0] is made)]


def reasons(made: Op) -> set[str]:
    """Why an operator has no plan for some of its calls."""
    kept = gpu.gpu(tl.device("cuda:0")).plans
    return {p.reason for key, p in kept.items() if key[0] is made and not callable(p) and p.reason}


def turned(a: np.ndarray, by: int) -> np.ndarray:
    """The numbers of an array in another order, in memory that lies like the array's."""
    if by == 0 or a.size < 2 or 0 in a.strides:
        return a
    out = np.empty_like(a)
    out[...] = np.roll(a.reshape(-1)[:: -1 if by % 2 else 1], by).reshape(a.shape)
    strides = _array.strides_of(a)
    if _array.strides_of(out) == strides:
        return out
    low = sum((n - 1) * s for n, s in zip(a.shape, strides, strict=True) if s < 0)
    span = sum((n - 1) * abs(s) for n, s in zip(a.shape, strides, strict=True)) + 1
    placed: np.ndarray = _array.as_strided(np.zeros(span, a.dtype), a.shape, strides, -low)
    placed[...] = out
    return placed


def outcome(made: Op, args: Sequence[Any], attrs: dict[str, Any], seed: int, needs: Any) -> list[Any]:
    """What a call gives, and its gradients: arrays on the host, or the error."""
    given, tensors = calls.tensors(args, tl.device("cuda:0"), needs=needs)
    attrs = {k: wrap(calls.place(v, tl.device("cuda:0"))) if isinstance(v, np.ndarray) else v for k, v in attrs.items()}
    try:
        with calls.stream(seed):
            for _ in range(seed % 4):
                tl.default_generator.draw()
            result = made.public(*given, **attrs)
    except (TensorlibError, ValueError, RuntimeError, IndexError, TypeError) as error:
        return [type(error), str(error)]
    if made.mutates:
        return calls.host([t._array for t in calls.mutated(made, given)])
    outs = calls.opened(result)
    found: list[Any] = calls.host([t._array for t in outs])
    live = [t for t in outs if t.requires_grad]
    leaves = [t for t in tensors if t._needs]
    if live and leaves:
        seeds = []
        for i, t in enumerate(live):
            numbers = np.random.default_rng([seed, i]).standard_normal(t._array.shape).astype(t._array.dtype)
            seeds.append(wrap(calls.place(numbers, tl.device("cuda:0"))))
        try:
            gradients = autograd.grad(live, leaves, seeds, allow_unused=True)
        except (TensorlibError, RuntimeError) as error:
            return [*found, type(error), str(error)]
        found += [None if g is None else calls.host([g._array])[0] for g in gradients]
    return found


def same(found: list[Any], expected: list[Any], what: str) -> None:
    assert len(found) == len(expected), what
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape, what
            assert a.tobytes() == b.tobytes() or np.array_equal(a, b, equal_nan=b.dtype.kind == "f"), f"{what}: {a} {b}"
        else:
            assert a == b, what


def chosen(made: Op) -> list[Case]:
    """Two small calls: the smallest with several elements, and one in another layout."""

    def size(case: Case) -> int:
        return sum(math.prod(d.shape) for d in case.draws())

    found = sorted((c for c in cases(made) if not c.special and size(c) > 1 and not c.refusable), key=size)
    found = [c for c in found if size(c) <= 600] or found[:1]
    kinds: dict[str, Case] = {}
    for case in found:
        words = case.label.split()
        kinds.setdefault(words[-1] if words[-1] in ("transposed", "strided", "expanded") else "", case)
    return list(kinds.values())[:2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", LIBRARY, ids=lambda made: made.name)
def test_an_operator_again(made: Op, machine: Simulation) -> None:
    """Other numbers in the same layout, four times, the last two of them by plans where there are any."""
    for case in chosen(made):
        args, attrs = case.arguments(usual(made))
        for by in (0, 1, 2, 3):
            moved = calls.with_arrays(args, [turned(a, by) for a in calls.arrays_in(args)])
            if by > 1:
                with without_plans():
                    expected = outcome(made, moved, attrs, 17 + by, case.needs())
            found = outcome(made, moved, attrs, 17 + by, case.needs())
            if by > 1:
                same(found, expected, f"{made.name}, {case}, call {by}")


# ----------------------------------------------------------------------------------------------------------- the key


def again(function: Any, *args: Any, times: int = 3) -> Any:
    """What a function gives when its plans are made."""
    for _ in range(times):
        result = function(*args)
    return result


def host(t: Any) -> np.ndarray:
    found: np.ndarray = t.detach().cpu().numpy()
    return found


def test_attributes_that_are_equal_and_not_the_same() -> None:
    nan = float("nan")
    values = [1, 1.0, True, 0, 0.0, -0.0, False, nan, "1", None, (1,), (True,), (1.0,), [1], ((1,),), (0.0,), (-0.0,),
              slice(1), slice(1.0), slice(None, None, True), ..., (...,), (None,)]  # fmt: skip
    keys = [(type(v), _plans.frozen(v)) for v in values]
    assert len(set(keys)) == len(values)
    assert _plans.frozen((nan,)) == _plans.frozen((float("nan"),))
    for value in (object(), {1: 2}, np.float32(1.0), tl.device("cuda")):  # "cuda" is whichever is current
        with pytest.raises(_plans.Refuse):
            _plans.frozen(value)


def test_attributes_are_not_confused(machine: Simulation) -> None:
    """Each after the others have a plan, in the same layout."""
    x = tl.tensor([[-1.0, 0.0, float("nan")], [2.0, -0.0, 3.0]], device="cuda")
    n = tl.tensor([[1, 2, 3], [4, 5, 6]], device="cuda")
    asked = [
        *(lambda v=v: tl.nan_to_num(x, nan=v) for v in (0.0, -0.0, 1.0, 1)),
        *(lambda v=v: tl.clamp(x, min=v) for v in (0.0, -0.0, 1, 1.0, True)),
        *(lambda v=v: tl.add(n, n, alpha=v) for v in (1, 2, True)),
        *(lambda v=v: tl.sum(x, dim=v) for v in (0, 1, -1, (0,), (0, 1), None)),
        *(lambda v=v: tl.sum(n, dim=0, keepdim=v) for v in (True, False)),
        *(lambda v=v: n * v for v in (1, 1.0, True, 2, 2.0)),
        *(lambda v=v: x * v for v in (0.0, -0.0, float("nan"), 1e300, -2.5)),
        *(lambda v=v: tl.sum(n, dtype=v) for v in (None, tl.float32, tl.float64, tl.int32)),
        *(lambda v=v: tl.full((2,), v, device="cuda") for v in (0.0, -0.0, 1, 1.0, True)),
    ]

    def outcome(call: Any) -> Any:
        try:
            return host(call())
        except DtypeError as error:
            return str(error)

    with without_plans():
        expected = [outcome(call) for call in asked]
    assert "Boolean alpha" in expected[11]
    for _ in range(4):
        for i, (call, want) in enumerate(zip(asked, expected, strict=True)):
            got = outcome(call)
            if isinstance(want, str):
                assert got == want
                continue
            assert got.dtype == want.dtype and got.shape == want.shape, i
            np.testing.assert_array_equal(got, want, err_msg=str(i))
            if got.dtype.kind == "f":
                np.testing.assert_array_equal(np.signbit(got), np.signbit(want), err_msg=str(i))


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.bfloat16], ids=str)
def test_a_float_is_passed_on(machine: Simulation, dtype: Any) -> None:
    """Python floats take part in no key: one plan serves all of them."""
    x = tl.arange(5, device="cuda", dtype=dtype)
    again(lambda: x * 1.5)
    before = len(plans(registry["mul"]))
    for v in (2.25, 1 / 3, -0.0, 1e30):
        with without_plans():
            want = host(x * v + x)
        np.testing.assert_array_equal(host(x * v + x), want)
    assert len(plans(registry["mul"])) == before > 0
    y = tl.ones(5, device="cuda", dtype=dtype, requires_grad=True)
    for v in (2.0, 3.0, 4.0, 5.0):  # and the Node keeps the number of its own call
        (g,) = tl.autograd.grad((y * v).sum(), y)
        assert host(g.float()).tolist() == [v] * 5


def test_operands_that_are_one(machine: Simulation) -> None:
    x, y = tl.tensor([1.0, 2.0], device="cuda"), tl.tensor([10.0, 20.0], device="cuda")
    assert host(again(lambda: x + x)).tolist() == [2.0, 4.0]
    assert host(x + y).tolist() == [11.0, 22.0]
    assert host(again(lambda: x + y)).tolist() == [11.0, 22.0]
    assert host(y + y).tolist() == [20.0, 40.0]
    both = tl.arange(6.0, device="cuda")
    parts = both[:2], both[2:4], both[4:]
    assert host(again(lambda: parts[0] + parts[1])).tolist() == [2.0, 4.0]
    assert host(parts[0] + parts[2]).tolist() == [4.0, 6.0]
    assert host(parts[2] + parts[0]).tolist() == [4.0, 6.0]
    a, b, c = tl.cat([x, y, x]), tl.cat([x, x, y]), tl.cat([y, x, x])
    for _ in range(3):
        a, b, c = tl.cat([x, y, x]), tl.cat([x, x, y]), tl.cat([y, x, x])
    assert host(a).tolist() == [1, 2, 10, 20, 1, 2] and host(b).tolist() == [1, 2, 1, 2, 10, 20]
    assert host(c).tolist() == [10, 20, 1, 2, 1, 2]


def test_writes_within_one_tensor(machine: Simulation) -> None:
    """A write is planned for how source and target overlap."""
    for _ in range(4):
        x = tl.arange(8.0, device="cuda")
        x[1:5].copy_(x[0:4])
        x[4:8].copy_(x[0:4])
        assert host(x).tolist() == [0, 0, 1, 2, 0, 0, 1, 2]
        y = tl.zeros(4, device="cuda")
        y.copy_(x[:4])
        y.fill_(2.5)[1:].add_(y[:-1])
        assert host(y).tolist() == [2.5, 5.0, 5.0, 5.0]
        assert y._writes == [3]


def test_layouts(machine: Simulation) -> None:
    """The same operator on every layout in turn, each with its own plan."""
    m = tl.arange(24.0, device="cuda").reshape(4, 6)
    row = tl.arange(6.0, device="cuda")
    layouts = [m, m[:, ::2], m.T, m[1:], m[:, 1:], m[0], m[:1].expand(4, 6), m[..., 0], m[1:, 1:][:, :4]]
    for _ in range(3):
        for x in layouts:
            np.testing.assert_array_equal(host(x * x + 1.0), host(x) * host(x) + 1)
            np.testing.assert_array_equal(host(x.sum()), host(x).sum())
        np.testing.assert_array_equal(host(m + row), host(m) + host(row))
        np.testing.assert_array_equal(host(m[:, 3:].mT @ m), host(m)[:, 3:].T @ host(m))


def test_dtypes_and_no_elements(machine: Simulation) -> None:
    for _ in range(3):
        for dtype in (tl.float32, tl.float64, tl.int64, tl.uint8, tl.bool):
            x = tl.ones(3, device="cuda", dtype=dtype)
            assert (x + x).dtype == dtype and (x < 2).dtype == tl.bool
            assert x.sum().item() == 3
        e = tl.ones(0, 3, device="cuda")
        assert (e + 1).shape == (0, 3) and e.sum().item() == 0 and (e.mT @ e).shape == (3, 3)
        assert e.reshape(3, 0)._array.ptr == e._array.ptr  # and not memory of NumPy's
        assert host(tl.nn.functional.linear(e.mT, tl.ones(5, 0, device="cuda"))).tolist() == [[0.0] * 5] * 3


# ------------------------------------------------------------------------------------------------- what else is asked


def test_a_saved_tensor_that_was_written(machine: Simulation) -> None:
    x = tl.ones(3, device="cuda", requires_grad=True)
    for _ in range(4):
        y = x * 2.0
        z = y * y
        y.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()
        y = (x * 2.0).exp()
        y.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_gradients_switched_off_and_on(machine: Simulation) -> None:
    x, w = tl.ones(2, 3, device="cuda"), tl.ones(4, 3, device="cuda", requires_grad=True)
    for _ in range(4):
        with tl.no_grad():
            assert not tl.nn.functional.linear(x, w).requires_grad
        y = tl.nn.functional.linear(x, w)
        assert y.requires_grad and y.grad_fn is not None
        assert not tl.nn.functional.linear(x, w.detach()).requires_grad
        w.grad = None
        y.sum().backward()
        assert host(w.grad).tolist() == [[2.0] * 3] * 4


def test_who_listens_sees_every_call(machine: Simulation) -> None:
    x = tl.ones(3, device="cuda", requires_grad=True)
    again(lambda: x * x)
    seen: list[str] = []

    def observe(op: Any, inputs: Any, attrs: Any, outputs: Any) -> None:
        seen.append(op.name)

    _core.observers.append(observe)
    _core.listening[0] += 1
    try:
        again(lambda: x * x)
    finally:
        _core.listening[0] -= 1
        _core.observers.remove(observe)
    assert seen == ["mul"] * 3
    with launch.Coverage() as covered:
        x * x
    assert covered.reached
    packed: list[Any] = []
    with tl.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        x * x
    assert packed
    with tl.autograd.set_detect_anomaly(True):
        y = x * x
        assert y.grad_fn is not None
        assert y._node.trace is not None
    with tl.autocast("cuda"):  # which listens too, and has plans for what it casts
        m = tl.ones(4, 4, device="cuda")
        before = len(plans(registry["matmul"]))
        assert again(lambda: m @ m).dtype == tl.float16
        assert len(plans(registry["matmul"])) > before


def test_in_place_forms_are_one_kernel(machine: Simulation) -> None:
    """It writes where it reads, with a plan too; an operand that lies across goes by way of a copy."""
    there = tl.tensor([1.0, -2.0, 3.0, -4.0], device="cuda")
    forms: list[tuple[Any, int]] = [
        (lambda x, y: x.add_(y), 1), (lambda x, y: x.mul_(0.5), 1), (lambda x, y: x.relu_(), 1),
        (lambda x, y: x.mul_(x), 1), (lambda x, y: x.div_(4), 1), (lambda x, y: x.clamp_(-1, 2), 1),
        (lambda x, y: x[1:].sub_(x[:-1]), 2),
    ]  # fmt: skip
    for form, count in forms:
        want = there.cpu()
        form(want, there.cpu())
        seen: list[Any] = []
        x = there.clone()
        launch.observers.append(seen.append)
        try:
            form(x, there)
        finally:
            launch.observers.clear()
        assert len(seen) == count and host(x).tolist() == want.tolist()
        for trained in (False, True) * 4:
            x = there.clone().requires_grad_() * 1.0 if trained else there.clone()
            x._writes, at = [0], x.data_ptr()
            form(x, there)
            assert x.data_ptr() == at and x._writes[0] == 1
            assert host(x).tolist() == want.tolist()
    x = tl.tensor([1, 2], device="cuda")
    for _ in range(3):
        with pytest.raises(DtypeError, match="can't be cast"):
            x.add_(0.5)
    assert x.tolist() == [1, 2]


def test_settings(machine: Simulation) -> None:
    n, x = tl.tensor([4, 9], device="cuda"), tl.ones(3, device="cuda")
    again(lambda: tl.sqrt(n))
    tl.set_default_dtype(tl.float64)
    try:
        assert again(lambda: tl.sqrt(n)).dtype == tl.float64
        assert host(tl.sqrt(n)).tolist() == [2.0, 3.0]
    finally:
        tl.set_default_dtype(tl.float32)
    assert tl.sqrt(n).dtype == tl.float32
    index = tl.tensor([0, 0, 1], device="cuda")
    again(lambda: tl.zeros(3, device="cuda").scatter_add(0, index, x))
    tl.use_deterministic_algorithms(True)
    try:
        with launch.Coverage() as seen:  # the plan of atomics is not taken
            tl.zeros(3, device="cuda").scatter_add(0, index, x)
        assert narrow_segment_kernel in seen.reached
    finally:
        tl.use_deterministic_algorithms(False)
    before = _array.poison(False)
    try:
        assert host(again(lambda: tl.sqrt(n))).tolist() == [2.0, 3.0]
    finally:
        _array.poison(before)


def test_a_plan_is_for_one_precision_of_float32_products(machine: Simulation) -> None:
    x = tl.ones(24, 40, device="cuda")
    made = len(plans(registry["matmul"]))
    try:
        for word in ("highest", "high", "highest"):
            tl.set_float32_matmul_precision(word)
            for _ in range(4):
                assert (x @ x.T).cpu().tolist() == [[40.0] * 24] * 24
    finally:
        tl.set_float32_matmul_precision("highest")
    assert len(plans(registry["matmul"])) == made + 2


def test_a_search_is_not_passed_by(machine: Simulation) -> None:
    """Plans hold the configuration that was chosen: another choice, and a search, go the general way."""
    m = tl.ones(16, 16, device="cuda")
    again(lambda: m @ m)
    asked: list[Any] = []
    choose = autotune.Tunable.choose

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        asked.append(self.name)
        return choose(self, *args, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(autotune.Tunable, "choose", counted)
    try:
        m @ m
        assert not asked
        with autotune.ranked(1):
            m @ m
            m @ m
        assert asked == ["matmul"] * 2
        autotune.unpin()  # whatever may have changed a choice
        again(lambda: m @ m, times=2)
        assert asked == ["matmul"] * 4
        m @ m
        assert asked == ["matmul"] * 4
    finally:
        patch.undo()


def test_random_numbers(machine: Simulation) -> None:
    """The stream goes on from call to call, whatever the size of the seed."""
    x = tl.ones(40, device="cuda")
    for seed in (3, 2**31 - 1, 2**40, 2**63 - 1, 2**63 + 5, 2**64 - 1):
        found = []
        for planned in (False, True):
            with contextlib.ExitStack() as stack:
                if not planned:
                    stack.enter_context(without_plans())
                tl.manual_seed(seed)
                rows = []
                for _ in range(4):
                    rows += [host(tl.nn.functional.dropout(x, 0.5)), host(tl.rand(9, device="cuda")),
                             host(tl.bernoulli(x * 0.5)), host(tl.randint(0, 90, (7,), device="cuda")),
                             host(tl.randn(5, device="cuda", dtype=tl.float64))]  # fmt: skip
                found.append(rows)
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(found[1][0], found[1][5])
    assert plans(registry["_dropout"]) and plans(registry["_uniform"]) and plans(registry["_bernoulli"])


# ------------------------------------------------------------------------------------------------------- refusals


def test_marked_numbers_are_only_passed_on(machine: Simulation) -> None:
    device = gpu.gpu(tl.device("cuda:0"))
    uses: list[Any] = [
        lambda v: v + 1, lambda v: 1 - v, lambda v: v * v, lambda v: -v, lambda v: v == 2, lambda v: v < 3,
        bool, int, float, hash, str, repr, lambda v: f"{v}", round, math.floor, math.ceil, math.trunc, abs,
        lambda v: v**2, lambda v: v // 2, lambda v: v % 2, lambda v: divmod(v, 2), lambda v: {v: 1},
    ]  # fmt: skip
    whole: list[Any] = [lambda v: v & 1, lambda v: v >> 1, lambda v: v | 1, lambda v: ~v, lambda v: v.bit_length()]
    for make, value, asked in (
        (recording.MarkedFloat, 2.5, uses),
        (recording.MarkedInt, 7, [*uses, *whole]),
    ):
        for use in asked:
            told = recording.Recording(device, [])
            use(make(value).marked(told, 0, value))
            assert told.refused, use
        told = recording.Recording(device, [])
        marked = make(value).marked(told, 0, value)
        assert isinstance(marked, type(value)) and recording.plain(marked) is value and not told.refused
    told = recording.Recording(device, [])
    wide = recording.float64(recording.MarkedFloat(2.5).marked(told, 0, 2.5))
    assert isinstance(wide, np.float64) and not told.refused and recording.plain(wide) == np.float64(2.5)
    _ = wide * 2
    assert told.refused


@jit
def _fill(out, n, value, BLOCK: constexpr):
    i = language.arange(0, BLOCK)
    language.store(out + i, value, mask=i < n)


_fill_plain = jit(do_not_specialize=("value",))(_fill.fn)


def test_marked_numbers_where_a_kernel_would_be_compiled_for_them(machine: Simulation) -> None:
    """A grid, a constant, and an integer that a kernel is specialised for are what they were: no plan."""
    out = tl.zeros(64, device="cuda")._array
    for use, why in (
        (lambda v: launch.launch(_fill, (1,), out, 64, v, BLOCK=64), "specialised for its value"),
        (lambda v: launch.launch(_fill_plain, (1,), out, 64, v, BLOCK=64), ""),
        (lambda v: launch.launch(_fill_plain, (v,), out, 64, 3, BLOCK=64), "number that may change"),
        (lambda v: launch.launch(_fill_plain, (1,), out, 64, 3, BLOCK=v), "number that may change"),
    ):
        told = recording.Recording(gpu.gpu(tl.device("cuda:0")), [out])
        gpu.thread.recording = told
        launch.observers.append(_plans._look)
        try:
            use(recording.MarkedInt(64).marked(told, "offset", 64))
        finally:
            launch.observers.remove(_plans._look)
            gpu.thread.recording = None
        assert why in told.refused and bool(why) == bool(told.refused), told.refused


def test_addresses_are_looked_at_nowhere_else() -> None:
    """A key knows an address modulo 16, and how far operands in one memory are apart: host functions use no more."""
    known = {"embeddings.py", "grouped_matmul.py", "loss.py", "matmul.py", "optim.py", "pointwise.py", "prefix.py",
             "scattering.py", "sorting.py", "tables.py", "transfer.py"}  # fmt: skip
    folder = Path(pointwise.__file__).parent
    using = {p.name for p in folder.glob("*.py") if re.search(r"\.(ptr|data_ptr\(\))\b", p.read_text())}
    assert using <= known, f"{using - known}: look at what is done with an address, and whether a plan may repeat it"


def test_what_differs_has_no_plan(machine: Simulation) -> None:
    """A host function that does something else each time, that reads, or that knows memory of its own."""
    x, y = (tl.ones(4, device="cuda")._array for _ in range(2))
    calls_made: list[int] = []
    mine = tl.full((4,), 7.0, device="cuda")._array

    def counts(out: Any, source: Any) -> None:
        calls_made.append(1)
        pointwise.fill(out, float(len(calls_made)))

    def reads(out: Any, source: Any) -> None:
        pointwise.fill(out, float(_array.to_host(source)[0]))

    def knows(out: Any, source: Any) -> None:
        pointwise.copy(out, mine)

    def addresses(out: Any, source: Any) -> None:
        table = _array.to_device(np.array([source.ptr], np.int64), out.device)
        pointwise.copy(out, _array.expand(table, (4,)))

    def halves(out: Any, source: Any) -> None:
        pointwise.fill(out, 0.5)

    kept = gpu.gpu(tl.device("cuda:0")).plans
    for function, planned, why in (
        (counts, False, "something else each time"), (reads, False, "reading"), (knows, False, "neither an operand's"),
        (addresses, False, "addresses written"), (halves, True, ""),
    ):  # fmt: skip
        routine = _dispatch.planned.routine(function.__name__, function, 2)
        before = set(kept)
        for i in range(8):
            routine(x, y)
            if function is counts:
                assert _array.to_host(x).tolist() == [i + 1.0] * 4
        (new,) = [kept[key] for key in set(kept) - before if key[0].name == function.__name__]
        assert callable(new) == planned
        assert planned or why in new.reason, new.reason


def test_a_plugin_may_look_at_anything(machine: Simulation) -> None:
    """What another package's host function depends on is not known: no plan. Its scalar functions have plans."""
    factor = [2.0]

    def spec(input: Any) -> Any:
        return input.shape, input.dtype

    def kernel(out: Any, input: Any) -> None:
        pointwise.fill(out, factor[0])

    def _constant_of_a_plugin(input: Array):
        """A number, of the input's shape."""
        return input * 0 + factor[0]

    try:
        public = declare(spec=spec, kernel=kernel, samples=())(_constant_of_a_plugin)
        x = tl.ones(2, device="cuda")
        assert host(again(lambda: public(x))).tolist() == [2.0, 2.0]
        factor[0] = 3.0
        assert host(public(x)).tolist() == [3.0, 3.0]
        assert not plans(registry["_constant_of_a_plugin"])
    finally:
        registry.pop("_constant_of_a_plugin", None)


def test_operators_without_plans(machine: Simulation) -> None:
    x = tl.tensor([0.0, 1.0, 2.0], device="cuda")
    for _ in range(4):
        assert host(tl.nonzero(x)).tolist() == [[1], [2]]
        assert host(x[x > 0.5]).tolist() == [1.0, 2.0]
    assert not plans(registry["_nonzero"])


def test_the_number_of_plans_is_bounded(machine: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plans, "MOST", 20)
    for n in range(1, 40):
        again(lambda n=n: tl.ones(n, device="cuda") + 1)
        assert len(gpu.gpu(tl.device("cuda:0")).plans) <= 21


def test_keys_that_never_come_again_are_seldom_recorded(machine: Simulation) -> None:
    before = len(gpu.gpu(tl.device("cuda:0")).plans)
    for i in range(400):
        tl.full((2,), i + 0.5, device="cuda")
    added = len(gpu.gpu(tl.device("cuda:0")).plans) - before
    assert added < _plans.PATIENCE + 40
    assert host(tl.full((2,), 7.5, device="cuda")).tolist() == [7.5, 7.5]


# --------------------------------------------------------------------- streams, captures, threads, devices and faults


@pytest.fixture(params=["cuda", "hip"])
def uncaptured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """Two GPUs of each vendor, on which everything happens as late as it may, and kernels are never compiled."""
    with simulated(request.param, devices=2, blocks=False) as sim:
        monkeypatch.setattr(compiler, "compile_kernel", uncompiled(sim))
        monkeypatch.setattr(memory, "out_of_bounds", lambda addresses, itemsize: None)
        yield sim


def test_a_capture_of_plans(uncaptured: Simulation) -> None:
    """What was planned before is captured by its plans, with memory of the graph's own pool, and replays."""
    x, w = tl.ones(2, 3, device="cuda"), tl.full((3, 3), 2.0, device="cuda", requires_grad=True)

    def step() -> tuple[Any, Any]:
        y = tl.nn.functional.gelu(x @ w).sum()
        (g,) = tl.autograd.grad(y, w)
        return y, g

    side = tl.cuda.Stream()
    side.wait_stream(tl.cuda.current_stream())
    with tl.cuda.stream(side):
        for _ in range(3):
            step()
    tl.cuda.current_stream().wait_stream(side)
    assert len(plans()) >= 5
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        y, g = step()
    for scale in (0.5, -1.0):
        x.fill_(scale)
        graph.replay()
        with without_plans():
            want, slope = step()
        np.testing.assert_array_equal(host(y), host(want))
        np.testing.assert_array_equal(host(g), host(slope))
    upsampled = again(lambda: tl.nn.functional.interpolate(x[None, None], (4, 5), mode="bilinear"))
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        out = tl.nn.functional.interpolate(x[None, None], (4, 5), mode="bilinear")
    graph.replay()
    np.testing.assert_array_equal(host(out), host(upsampled))


def test_nothing_is_recorded_while_a_graph_is_captured(uncaptured: Simulation) -> None:
    x = tl.ones(3, device="cuda")
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        again(lambda: tl.tanh(x))
    assert not plans(registry["tanh"]) and not reasons(registry["tanh"])


def test_streams(uncaptured: Simulation) -> None:
    """A plan works on the stream that is current, with memory of that stream."""
    x = tl.ones(700, device="cuda")
    again(lambda: x + 1.0)
    tl.cuda.synchronize()
    side = tl.cuda.Stream()
    with tl.cuda.stream(side):
        before = len(uncaptured.calls)
        y = x + 1.0
        (launched,) = [c for c in uncaptured.calls[before:] if "Launch" in c.name]
        assert launched.arguments["stream"] == side.cuda_stream == y._array.owner.stream
    tl.cuda.current_stream().wait_stream(side)
    y.record_stream(tl.cuda.current_stream())
    assert host(y).tolist() == [2.0] * 700
    assert (x + 1.0)._array.owner.stream == 0


def test_two_gpus(uncaptured: Simulation) -> None:
    x, y = tl.ones(3, device="cuda:0"), tl.full((3,), 5.0, device="cuda:1")
    assert host(again(lambda: x + x)).tolist() == [2.0] * 3
    assert host(y + y).tolist() == [10.0] * 3
    assert host(again(lambda: y + y)).tolist() == [10.0] * 3
    assert (x + x).device.index == 0 and (y + y).device.index == 1
    for _ in range(3):
        with pytest.raises(RuntimeError, match="expected all tensors on the same device"):
            x + y
    with tl.cuda.device(1):
        made = again(lambda: tl.full((2,), 3.0, device="cuda"))
        assert made.device.index == 1
    assert tl.full((2,), 3.0, device="cuda").device.index == 0


def test_threads(uncaptured: Simulation) -> None:
    """Calls of one plan at once: each has its own parameters and its own memory."""
    xs = [tl.full((64,), float(i), device="cuda") for i in range(4)]
    tl.cuda.synchronize()
    wrong: list[Any] = []

    def work(i: int) -> None:
        try:
            for _ in range(25):
                y = xs[i] * 2.0 + xs[i]
                if host(y).tolist() != [3.0 * i] * 64:
                    wrong.append(host(y))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert plans(registry["mul"])


def test_a_fault_names_the_operator(uncaptured: Simulation) -> None:
    x = tl.ones(3, device="cuda")
    again(lambda: tl.exp(x))
    (entry,) = {c.name for c in uncaptured.calls if "Launch" in c.name}
    uncaptured.fail(entry, 1)
    with pytest.raises(DriverError) as caught:
        tl.exp(x)
    assert any("launching exp: pointwise_kernel on grid (1,)" in note for note in caught.value.__notes__)
    assert host(tl.exp(x)).tolist() == host(again(lambda: tl.exp(x))).tolist()
    assert "exp: pointwise_kernel on grid (1,)" in gpu.gpu(tl.device("cuda:0")).launchers.explain()


def test_every_launch_is_waited_for_where_that_was_asked(
    uncaptured: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LAUNCH_BLOCKING", True)
    x = tl.ones(3, device="cuda")
    again(lambda: tl.exp(x))
    before = len(uncaptured.calls)
    tl.exp(x)
    names = [c.name for c in uncaptured.calls[before:]]
    assert len([n for n in names if "Launch" in n]) == len([n for n in names if "StreamSynchronize" in n]) == 1


def test_memory_is_given_back(uncaptured: Simulation) -> None:
    """A plan holds no memory, and its temporaries are gone when it returns."""
    before = _array.poison(False)
    try:
        m = tl.ones(8, 8, device="cuda")[:, ::2]
        again(lambda: tl.softmax(m, -1).mT @ m.mT.mT)
        again(lambda: tl.bernoulli(m * 0.5))
        del m
        assert tl.cuda.memory_allocated() == 0
    finally:
        _array.poison(before)


def test_a_device_that_is_forgotten(uncaptured: Simulation) -> None:
    x = tl.ones(3, device="cuda")
    again(lambda: x + x)
    old = gpu.gpu(tl.device("cuda:0"))
    assert plans()
    uncaptured.drain()
    gpu.reset()
    assert not old.plans and not plans()
    y = tl.ones(3, device="cuda")
    assert host(again(lambda: y + y)).tolist() == [2.0] * 3


def test_a_forked_child(uncaptured: Simulation) -> None:
    x = tl.ones(3, device="cuda")
    again(lambda: x + x)
    tl.cuda.synchronize()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the threads that a fork does not take along
        child = os.fork()
    if not child:
        try:
            x + x
            os.write(writer, b"it worked")
        except BaseException as error:
            os.write(writer, str(error).encode()[:4000])
        os._exit(0)
    os.waitpid(child, 0)
    assert "forked" in os.read(reader, 4096).decode()
    assert host(x + x).tolist() == [2.0] * 3


def test_training(uncaptured: Simulation) -> None:
    """Steps of which the last ones are plans but for the optimizer's, held to the CPU's."""

    def train(device: str, general: list[str]) -> tuple[list[float], list[np.ndarray]]:
        tl.manual_seed(0)
        net = tl.nn.Sequential(tl.nn.Embedding(9, 8), tl.nn.Linear(8, 16), tl.nn.GELU(), tl.nn.LayerNorm(16),
                               tl.nn.Dropout(0.2), tl.nn.Linear(16, 9)).to(device)  # fmt: skip
        optimizer = tl.optim.AdamW(net.parameters(), lr=1e-2)
        losses = []
        for i in range(5):
            tokens = tl.tensor([[(i + 3 * j) % 9 for j in range(6)]])
            tokens = tokens.to(device)
            general.clear()
            logits = net(tokens)
            loss = tl.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])
            optimizer.zero_grad()
            loss.backward()
            tl.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        return losses, [host(p) for p in net.parameters()]

    expected = train("cpu", [])
    general: list[str] = []
    execute = _dispatch.execute

    def counted(op: Any, *args: Any) -> Any:
        general.append(op.name)
        return execute(op, *args)

    patch = pytest.MonkeyPatch()
    patch.setattr(_dispatch, "execute", counted)
    try:
        found = train("cuda", general)
    finally:
        patch.undo()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert set(general) <= {"adam_", "multi_tensor_norm", "multi_tensor_clip_"}, general  # addresses in a table
