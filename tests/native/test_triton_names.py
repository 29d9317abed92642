"""``tensorlib.triton``: what a program written for Triton uses, on tensors of ``interpret`` and ``native``."""

from __future__ import annotations

import numpy as np
import pytest
from places import DEVICES, on

import tensorlib as T
from tensorlib.errors import KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.descriptors import TensorDescriptor

stock = pytest.importorskip("stock", reason="needs triton, which has wheels for Linux", exc_type=ImportError)
triton = T.triton
tl = triton.language


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
    assert triton.testing is original.testing
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
    assert len(kernel._chosen) == 1


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
