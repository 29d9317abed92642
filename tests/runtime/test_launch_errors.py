"""What a wrong launch says: grids, constexprs and arguments that are none, at a first launch and at later ones."""

from __future__ import annotations

import gc
import re
import sys

import numpy as np
import pytest
from simulated import simulated

import tensorlib as T
import tensorlib.triton as triton
from tensorlib.errors import DeviceError, KernelError
from tensorlib.op import jit
from tensorlib.runtime import memory
from tensorlib.runtime.launch import launch
from tensorlib.runtime.native import codegen

NATIVE = pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")
DEVICES = pytest.mark.parametrize("device", ["interpret", pytest.param("native", marks=NATIVE), "sm_90"])


@jit
def double(x, out, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)


@jit
def returns(x):
    return tl.load(x)


@jit
def returns_early(x):
    if tl.load(x) > 0:
        return
    tl.store(x, 3.0)


@jit
def asserts(x):
    tl.device_assert(tl.load(x) > 0, "not positive")


def pair(device, n=8):
    return T.ones(n, device=device), T.zeros(n, device=device)


WRONG = [
    (2.0,), (1000 / 512,), 2.0, (2**31,), (2**32,), (2**62, 2**62), None, "2", ("2",), (), (1, 1, 1, 1), (-1,),
    (-1, -1), (1, 0.5), lambda meta: (meta["n"] / meta["BLOCK"],),
]  # fmt: skip
FEW = [
    (2,), 2, [2], np.int64(2), (np.int32(2),), (2, 1), (np.int32(2), np.int32(1), 1), np.array([2, 1]),
    T.tensor([2, 1]), T.tensor(2), lambda meta: [meta["n"] // 4],
]  # fmt: skip


def grids_are_checked(device, also=(), works=True):
    x, out = pair(device)
    for _ in range(2):  # nothing was launched yet, and then a quick way is there
        for grid in (*WRONG, *also):
            with pytest.raises(KernelError, match="double: a grid has one to three whole sizes of 0") as error:
                double[grid](x, out, 8, 2.0, BLOCK=4)
            if not callable(grid):
                assert f", got {grid!r}" in str(error.value)
                with pytest.raises(KernelError, match="one to three whole sizes"):
                    launch(double, grid, x._array, out._array, 8, 2.0, BLOCK=4)
            assert ("use triton.cdiv" in str(error.value)) == (callable(grid) or "." in str(grid))
        for empty in (0, (0,), (3, 0), (0, 3, 1)):
            double[empty](x, out, 8, 2.0, BLOCK=4)
        for grid in FEW:
            out.zero_()
            double[grid](x, out, 8, 2.0, BLOCK=4)
            assert not works or out.tolist() == [2.0] * 8


@DEVICES
def test_what_is_no_grid_is_an_error(device):
    many = [(1, 65536), (1, 1, 65536)] if device == "sm_90" else []
    grids_are_checked(device, many, works=device != "sm_90")


@pytest.mark.parametrize(("kind", "arch"), [("cuda", "sm_90"), ("hip", "gfx942")])
def test_what_is_no_grid_of_a_gpu_is_an_error(kind, arch):
    with simulated(kind, arch=arch):
        grids_are_checked("cuda", [(1, 65536), (1, 1, 65536)])


@NATIVE
def test_sizes_in_numpys_integers_do_not_overflow():
    x, out = pair("native")
    double[(2,)](x, out, 8, 2.0, BLOCK=4)
    out.zero_()
    side = np.int16(256)  # 256 * 256 is 0 in 16 bits
    double[(side, side)](x, out, 8, 2.0, BLOCK=4)
    assert out.tolist() == [2.0] * 8


@DEVICES
def test_what_is_no_constexpr_is_named(device):
    x, out = pair(device)
    for value in (T.tensor(4), T.tensor(4, device=device), np.array(4)):
        with pytest.raises(KernelError, match=r"double: BLOCK is a constexpr, got a tensor: .*BLOCK\.item\(\)"):
            double[(2,)](x, out, 8, 2.0, BLOCK=value)
    with pytest.raises(KernelError, match="double: BLOCK is a constexpr, got a list: expected a number"):
        double[(2,)](x, out, 8, 2.0, BLOCK=[4])
    with pytest.raises(KernelError, match="BLOCK is a constexpr, got a tensor"):
        launch(double, 2, x._array, out._array, 8, 2.0, BLOCK=x._array)


@DEVICES
def test_what_is_no_argument_is_named(device):
    x, out = pair(device)
    other = T.ones(8, device="interpret" if device != "interpret" else "sm_80")
    wrong = [
        (x, np.ones(8, np.float32), 8, 2.0, DeviceError,
         f"double: out is a numpy.ndarray, x on {device}: tensorlib.from_numpy(out).to('{device}')"),
        (np.ones(8), np.ones(8), 8, 2.0, DeviceError, "x is a numpy.ndarray: tensorlib.from_numpy(x).to('native')"),
        (x, T.ones(8), 8, 2.0, DeviceError, f"double: out is on the CPU, x on {device}: out.to('{device}')"),
        (T.ones(8), T.ones(8), 8, 2.0, DeviceError, "its tensors are on the CPU"),
        (x, out, 8, T.tensor(2.0), DeviceError, f"factor is a tensor on the CPU, x on {device}: factor.item()"),
        (x, other, 8, 2.0, DeviceError, f"got x on '{device}' and out on '{other.device}'"),
        (x, out, 8, [2.0], KernelError, "double: factor is a list: a kernel argument is"),
        (x, out, 8, "2", KernelError, "double: factor is a str: "),
        (x, out, {}, 2.0, KernelError, "double: n is a dict: "),
        (x, out, 8, 2j, KernelError, "double: factor is a complex: "),
        (x, out, 8, np.complex64(2), KernelError, "double: factor is a number of complex64: "),
        (x, out, (8, [1]), 2.0, KernelError, "double: n[1] is a list: "),
        (x, out, 2**64, 2.0, KernelError, f"double: n does not fit 64 bits, got {2**64}"),
        (x, out, -(2**63) - 1, 2.0, KernelError, "double: n does not fit 64 bits, got"),
        (1, 2, 8, 2.0, KernelError, "double: none of its arguments is an array on a device"),
    ]  # fmt: skip
    for *values, kind, text in wrong:
        with pytest.raises(kind, match=re.escape(text)):
            double[(2,)](*values, BLOCK=4)
    with pytest.raises(KernelError, match="out is in NumPy's memory: expected an array on a device"):
        launch(double, 2, x._array, np.ones(8), 8, 2.0, BLOCK=4)
    double[(2,)](x, out, 2**62, np.float64(2.0), BLOCK=4)  # what does fit still runs


@DEVICES
def test_a_kernel_returns_nothing(device):
    x = T.zeros(1, device=device)
    text = "does not compile" if device == "sm_90" else "expected a kernel that returns nothing, as on a GPU: store it"
    with pytest.raises(KernelError, match=text):
        returns[(1,)](x)
    for _ in range(2):
        returns_early[(1,)](x)
    assert device == "sm_90" or x.item() == 3.0


@NATIVE
def test_errors_of_the_processors_kernels_say_nothing_of_a_gpus_options():
    x, _ = pair("native")
    for wrong, match in ((returns, "returns f32"), (triton.jit(_pointers), "makes no IR")):
        with pytest.raises(KernelError, match=match) as error:
            wrong[(1,)](x)
        assert "arguments: x: *fp32" in str(error.value)
        assert not re.search("num_warps|num_stages|options", str(error.value))


def _pointers(x):
    tl.store(x, x * 2.0)


@NATIVE
def test_a_failed_assertion_names_operator_file_and_line():
    with pytest.raises(KernelError, match=r"^\w+: indexed_kernel: program .* out of bounds \(indexing\.py:\d+\)"):
        T.ones(3, device="native")[T.tensor([5], device="native")].tolist()
    line = asserts.fn.__code__.co_firstlineno + 2
    with pytest.raises(KernelError, match=rf"^asserts: program .*not positive \(test_launch_errors\.py:{line}\)"):
        asserts[(1,)](T.zeros(1, device="native"))


def test_memory_that_is_not_there_leaves_nothing_behind(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)  # what a finaliser raises
    try:
        memory.HostBlock(2**60)
    except MemoryError as error:
        assert "Unable to allocate" in str(error)
    else:
        pytest.fail("an exbibyte was there")
    gc.collect()
    assert not told
