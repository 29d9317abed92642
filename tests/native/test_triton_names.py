"""``tensorlib.triton``: what a program written for Triton uses, on tensors of ``interpret`` and ``native``."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from places import DEVICES, on

import tensorlib as T
from tensorlib.errors import KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.descriptors import TensorDescriptor
from tensorlib.runtime.native import settings

stock = pytest.importorskip("stock", reason="needs triton, which has wheels for Linux", exc_type=ImportError)
triton = T.triton
tl = triton.language
libdevice = importlib.import_module("triton.language.extra.libdevice")


@triton.jit
def shift_kernel(out, x, n, by, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + by, mask=i < n)


@triton.jit
def add_to_kernel(out, x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(out + i, mask=i < n) + tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def copy_kernel(desc_out, desc_x, M: tl.constexpr, N: tl.constexpr):
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    desc_out.store([row, column], desc_x.load([row, column]) * 2)


X = np.arange(100, dtype=np.float32)


def _shifted(kernel, device, **constants):
    x, out = on(X, device), T.empty(100, device=device)
    kernel[lambda meta: (triton.cdiv(100, meta["BLOCK"]),)](out, x, 100, 0.5, **constants)
    np.testing.assert_array_equal(out.cpu().numpy(), X + 0.5)


def test_other_names_are_tritons():
    import triton as original

    assert triton.cdiv is original.cdiv
    assert triton.Config is original.Config
    assert triton.language is original.language
    assert triton.testing.Benchmark is original.testing.Benchmark
    assert triton.runtime.OutOfResources is original.runtime.OutOfResources
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = triton.no_such_thing


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_of_other_packages_are_taken(device):
    _shifted(triton.jit(stock.shift_kernel), device, BLOCK=32)
    assert triton.jit(stock.shift_kernel) is triton.jit(stock.shift_kernel)


@pytest.mark.parametrize("device", DEVICES)
def test_any_kernel_is_launched(device):
    out = T.empty(100, device=device)
    for kernel in (shift_kernel, stock.shift_kernel):
        T.launch(kernel, (2,), out.zero_(), on(X, device), 100, by=2, BLOCK=64)
        np.testing.assert_array_equal(out.cpu().numpy(), X + 2)
    with pytest.raises(KernelError, match="declared with @jit"):
        T.launch(shift_kernel.fn, 1, out, out, 100, by=2, BLOCK=64)


@pytest.mark.parametrize("device", DEVICES)
def test_heuristics(device):
    kernel = triton.jit(stock.even_kernel)
    for n, even in ((64, 1), (60, 0)):
        out = T.full((n,), 7, dtype=T.int32, device=device)
        kernel[(4,)](out, n, BLOCK=16)
        np.testing.assert_array_equal(out.cpu().numpy(), np.full(n, even))


@pytest.mark.parametrize("device", DEVICES)
def test_autotune_chooses_one_that_runs(device):
    configs = [triton.Config({"BLOCK": 2**30}), triton.Config({"BLOCK": 64}, num_warps=2)]
    kernel = triton.autotune(configs=configs if device == "native" else configs[1:], key=["n"])(shift_kernel)
    _shifted(kernel, device)
    assert kernel.best_config is configs[1]
    _shifted(kernel, device)
    assert len(kernel.cache) == 1


def test_autotune_of_another_package():
    for device in DEVICES:
        kernel = triton.jit(stock.tuned())
        _shifted(kernel, device)
        assert kernel.best_config in kernel.configs


@pytest.mark.parametrize("options", [{"reset_to_zero": ["out"]}, {"restore_value": ["out"]}])
@pytest.mark.skipif("native" not in DEVICES, reason="there is no compiler for this processor")
def test_autotune_leaves_the_arguments_as_they_were(options):
    configs = [triton.Config({"BLOCK": b}) for b in (16, 64)]
    kernel = triton.autotune(configs=configs, key=["n"], **options)(add_to_kernel)
    out = T.zeros(100, device="native")
    kernel[lambda meta: (triton.cdiv(100, meta["BLOCK"]),)](out, on(X, "native"), 100)
    np.testing.assert_array_equal(out.cpu().numpy(), X)


@pytest.mark.skipif("native" not in DEVICES, reason="there is no compiler for this processor")
def test_autotune_tells_when_none_runs_and_prunes():
    huge = [triton.Config({"BLOCK": 2**30}), triton.Config({"BLOCK": 2**29})]
    with pytest.raises(KernelError, match="shift_kernel"):
        _shifted(triton.autotune(configs=huge, key=["n"])(shift_kernel), "native")
    prune = {"early_config_prune": lambda configs, given, **_: [c for c in configs if c.kwargs["BLOCK"] < 100]}
    configs = [*huge, triton.Config({"BLOCK": 32})]
    kernel = triton.autotune(configs=configs, key=["n"], prune_configs_by=prune)(shift_kernel)
    _shifted(kernel, "native")
    assert kernel.best_config is configs[2]


@pytest.mark.skipif("native" not in DEVICES, reason="there is no compiler for this processor")
def test_autotune_times_what_its_model_thinks_best():
    """The shortest of a model's times, by number or by share; hooks are called around each run that is timed."""
    configs = [triton.Config({"BLOCK": b}) for b in (16, 32, 64, 128)]
    called, timed = [], []

    def bench(call, quantiles):
        call()
        timed.append(quantiles)
        return [float(-len(timed)), 0.0, 0.0]

    for top, count in ((2, 2), (0.75, 3), (0.1, 1)):
        prune = {"perf_model": lambda BLOCK, n, **_: abs(BLOCK - 64) + n, "top_k": top}
        kernel = triton.autotune(
            configs, ["n"], prune_configs_by=prune, do_bench=bench,
            pre_hook=lambda given, reset_only=False: called.append(("pre", given["BLOCK"], reset_only)),
            post_hook=lambda given, exception: called.append(("post", given["BLOCK"], exception)),
        )(shift_kernel)  # fmt: skip
        timed.clear()
        called.clear()
        _shifted(kernel, "native")
        chosen = [64, 32, 16][:count]
        if count == 1:
            assert not timed and not called
            continue
        assert timed == [(0.5, 0.2, 0.8)] * count
        runs = [(what, b, flag) for b in chosen for what, flag in (("pre", False), ("post", None))]
        assert called == [*runs, ("pre", chosen[-1], True)]
        assert kernel.best_config.kwargs["BLOCK"] == chosen[-1]
        assert list(kernel.configs_timings.values()) == [float(-i) for i in range(1, count + 1)]


@pytest.mark.skipif("native" not in DEVICES, reason="there is no compiler for this processor")
def test_autotune_tells_its_hook_of_what_failed():
    failed = []
    configs = [triton.Config({"BLOCK": 2**30}), triton.Config({"BLOCK": 32})]
    hook = {"post_hook": lambda given, exception: failed.append((given["BLOCK"], exception is None))}
    _shifted(triton.autotune(configs, ["n"], **hook)(shift_kernel), "native")
    assert failed[0] == (2**30, False)
    assert set(failed[1:]) == {(32, True)}


def test_autotune_refuses_what_the_kernel_has_not():
    configs = [triton.Config({"BLOCK": 64})]
    for given in ({"key": ["m"]}, {"key": [], "reset_to_zero": ["m"]}, {"key": [], "restore_value": ["m"]}):
        with pytest.raises(ValueError, match=r"shift_kernel: autotune: \w+ names m: expected parameters"):
            triton.autotune(configs, **given)(shift_kernel)
    with pytest.raises(ValueError, match="BLOCK is given at the launch and by"):
        _shifted(triton.autotune(configs, key=["n"])(shift_kernel), "interpret", BLOCK=32)
    kernel = triton.autotune(configs * 2, ["n"], {"perf_model": lambda **_: 0, "top_k": 1.5})(shift_kernel)
    with pytest.raises(ValueError, match=r"top_k 1\.5"):
        _shifted(kernel, "interpret")


@pytest.mark.parametrize("device", DEVICES)
def test_autotune_of_no_configuration_takes_the_launch_s(device):
    _shifted(triton.autotune(configs=[], key=["n"])(shift_kernel), device, BLOCK=32)


@pytest.mark.parametrize("device", DEVICES)
def test_warmup_compiles_and_launches_later(device):
    x, out = on(X, device), T.zeros(100, device=device)
    warm = shift_kernel.warmup(out, x, 100, 0.5, BLOCK=64, num_warps=8, num_stages=3, grid=(1,))
    assert not out.any()
    warm._init_handles()
    assert (warm.metadata.num_warps, warm.metadata.num_stages) == (8, 3)
    assert warm.metadata.target.backend == device
    assert warm.n_regs >= 8 and warm.n_spills == 0 and warm.metadata.shared >= 1
    assert ("define" in warm.asm["llir"] and "tt.func" in warm.asm["ttir"]) if device == "native" else warm.asm == {}
    for args in ((out, x, 100, 0.5), (out, x, 100, 0.5, 64)):  # constants are what they were, or given once more
        warm[(2, 1, 1)](*args)
        np.testing.assert_array_equal(out.cpu().numpy(), X + 0.5)
        out.zero_()
    tuned = triton.autotune([triton.Config({"BLOCK": b}) for b in (32, 128)], key=["n"])(shift_kernel)
    for each, grid in zip(tuned.warmup(out, x, 100, 0.5, grid=(1,)), (4, 1), strict=True):
        each[(grid,)](out, x, 100, 0.5)
        np.testing.assert_array_equal(out.cpu().numpy(), X + 0.5)
    with pytest.raises(KernelError, match="n missing"):
        shift_kernel.warmup(out, x, by=1, BLOCK=64, grid=(1,))


def test_warmup_for_targets_and_for_dtypes():
    x = T.empty(128, device="sm_90")
    warm = shift_kernel.warmup(x, x, 128, 0.5, BLOCK=64, grid=(1,))
    assert warm.metadata.target == ("cuda", 90, 32) and "ptx" in warm.asm
    with pytest.raises(KernelError, match=r"sm_90 is a target to compile for: .* read \.asm"):
        _ = warm.n_regs
    warm = shift_kernel.warmup(T.float32, T.float32, 128, 0.5, BLOCK=64, grid=(1,))
    assert warm.device == triton.runtime.driver.active.get_active_torch_device()


@triton.jit
def staged_kernel(out, n, num_stages: tl.constexpr, BLOCK: tl.constexpr):
    for i in tl.range(0, n, num_stages=num_stages):
        tl.store(out + i * BLOCK + tl.arange(0, BLOCK), num_stages)


@pytest.mark.parametrize("device", DEVICES)
def test_warmup_of_a_constant_that_is_called_as_an_option_is(device):
    out = T.zeros(48, device=device)
    warm = staged_kernel.warmup(out, 3, BLOCK=16, num_stages=4, num_warps=2, grid=(1,))
    warm[(1,)](out, 3, 4, 16)
    assert float(out.sum()) == 48 * 4


def test_the_active_driver_names_a_device():
    active = triton.runtime.driver.active
    assert active.get_active_torch_device().type in ("cuda", "hip", "native", "interpret")
    T.set_default_device("interpret")
    try:
        assert active.get_active_torch_device() == T.device("interpret")
        target = active.get_current_target()
        assert target.backend == "interpret" and target.warp_size == 1 and not target.is_cuda_backend()
        assert T.zeros(1, device=target.backend).device == T.device("interpret")
        assert active.get_current_device() == active.get_current_stream() == 0
        assert active.get_device_interface() is T.cpu
        properties = active.utils.get_device_properties(None)
        assert properties["multiprocessor_count"] == settings.get_num_threads() and properties["warpSize"] == 1
        with pytest.raises(T.errors.DeviceError, match="get_current_target"):
            active.get_device_capability()
    finally:
        T.set_default_device(None)


def test_submodules_are_imported_under_our_name():
    import triton.language as original

    assert importlib.import_module("tensorlib.triton.language") is original
    assert importlib.import_module("tensorlib.triton.runtime").driver is triton.runtime.driver
    assert isinstance(shift_kernel, triton.runtime.JITFunction)
    assert shift_kernel.arg_names == ["out", "x", "n", "by", "BLOCK"]


def test_functions_are_timed():
    calls = []
    leaf = T.ones(1, requires_grad=True)
    leaf.grad = T.ones(1)

    def run():
        calls.append(leaf.grad is None)

    times = triton.testing.do_bench(run, warmup=1, rep=1, grad_to_none=[leaf], return_mode="all")
    assert all(0 <= t < 1000 for t in times) and len(times) < len(calls)
    assert all(calls[1:])
    low, high = triton.testing.do_bench(run, 1, 1, quantiles=[0.1, 0.9])
    assert low <= high
    assert isinstance(triton.testing.do_bench_cudagraph(run, rep=1, quantiles=[0.5]), float)
    for given in ({"return_mode": "mode"}, {"quantiles": [1.5]}):
        with pytest.raises(ValueError, match="do_bench"):
            triton.testing.do_bench(run, 1, 1, **given)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_are_compared(device):
    x = on(X, device)
    close = triton.testing.assert_close
    close(x, X)
    close(x.bfloat16(), x, rtol=lambda dtype: 0.01 if dtype == T.bfloat16 else 0)
    close(T.tensor(float("nan"), device=device), float("nan"))
    for other, known in ((x + 1, {}), (X + 0.02, {}), (x.bfloat16() * 1.1, {"rtol": 0.01})):
        with pytest.raises(AssertionError, match="differ: here"):
            close(x, other, err_msg="differ: here", **known)


@pytest.mark.parametrize("device", DEVICES)
def test_memory_is_reinterpreted(device):
    x = T.tensor([0x3E, 0xB8], dtype=T.uint8, device=device)
    half = triton.reinterpret(x, dtype=tl.float8e5)
    assert half.dtype == T.float8_e5m2 and half.float().tolist() == [1.5, -0.5]
    assert triton.reinterpret(x, T.int8).tolist() == [62, -72]
    with pytest.raises(T.errors.DtypeError, match="fp8e4b15"):
        triton.reinterpret(x, tl.float8e4b15)


def test_arguments_that_are_not_to_be_specialised():
    for declared in (triton.jit(do_not_specialize=["by"]), triton.jit(do_not_specialize=[3])):
        kernel = declared(shift_kernel.fn)
        assert kernel.do_not_specialize == {"by"}
    assert isinstance(triton.jit(stock.unspecialised_kernel), compiler.Jit)


@pytest.mark.parametrize("device", DEVICES)
def test_descriptors_are_arguments(device):
    x = np.random.default_rng(0).standard_normal((30, 44)).astype(np.float32)
    out, given = T.zeros(30, 44, device=device), on(x, device)
    ours, theirs = TensorDescriptor, triton.tools.tensor_descriptor.TensorDescriptor
    for make in (ours, theirs):
        descriptors = [make(t, shape=[30, 44], strides=[44, 1], block_shape=[8, 16]) for t in (out, given)]
        copy_kernel[(4, 3)](*descriptors, 8, 16)
        np.testing.assert_array_equal(out.cpu().numpy(), 2 * x)
        out.zero_()


@pytest.mark.parametrize("device", DEVICES)
def test_a_configuration_sets_the_block_of_a_descriptor(device):
    """As kernels do whose host makes the descriptor: ours and Triton's."""
    x = np.random.default_rng(0).standard_normal((30, 44)).astype(np.float32)
    out, given = T.zeros(30, 44, device=device), on(x, device)

    def hook(args):
        for name in ("desc_out", "desc_x"):
            args[name].block_shape = [args["M"], args["N"]]

    configs = [triton.Config({"M": m, "N": n}, pre_hook=hook) for m, n in ((16, 8), (8, 16))]
    kernel = triton.autotune(configs, key=[])(copy_kernel.fn)
    for make in (TensorDescriptor, triton.tools.tensor_descriptor.TensorDescriptor):
        descriptors = [make(t, shape=[30, 44], strides=[44, 1], block_shape=[1, 4]) for t in (out, given)]
        kernel[lambda meta: (triton.cdiv(30, meta["M"]), triton.cdiv(44, meta["N"]))](*descriptors)
        np.testing.assert_array_equal(out.cpu().numpy(), 2 * x)
        out.zero_()
    assert kernel.best_config in configs
    with pytest.raises(ValueError, match="powers of two"):
        TensorDescriptor(given, [30, 44], [44, 1], [8, 16]).block_shape = [8, 12]


@pytest.mark.skipif("native" not in DEVICES, reason="there is no compiler for this processor")
def test_the_guard_knows_descriptors():
    """Their loads are masked by the shape: what may be out of bounds is a shape that the memory has not."""
    out, given = T.zeros(30, 44, device="native"), T.ones(30, 44, device="native")
    with T.backends.native.flags(guard=True):
        for rows in (30, 64):
            made = [TensorDescriptor(t._array, [rows, 44], [44, 1], [8, 16]) for t in (out, given)]
            if rows == 30:
                copy_kernel[(4, 3)](*made, 8, 16)
                continue
            with pytest.raises(KernelError, match=r"loads from element \d+ of desc_x"):
                copy_kernel[(8, 3)](*made, 8, 16)
    assert float(out.sum()) == 2 * 30 * 44
