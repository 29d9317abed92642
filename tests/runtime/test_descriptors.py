"""Tensor descriptors as kernel arguments: by tensor maps, by pointers, and in the interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulated import simulated

import tensorlib as tl_
from tensorlib.errors import ArgumentError, DtypeError, KernelError
from tensorlib.op import TensorDescriptor, jit, launch
from tensorlib.runtime import abi, compiler
from tensorlib.runtime.descriptors import MAP
from tensorlib.runtime.native import codegen

if TYPE_CHECKING:
    import triton.language as tl

TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")


# One program moves an 8 x 16 block, doubled, and adds a number.
@jit
def double_kernel(out, x, number):
    i = tl.program_id(0) * 8
    j = tl.program_id(1) * 16
    out.store([i, j], x.load([i, j]) * 2 + number)


# The same of a pair of descriptors, with the row sums of what was loaded: what lies outside is what pads.
@jit
def sums_kernel(out, pair, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * 8
    x = pair[0].load([i, 0]) + pair[1].load([i, 0])
    rows = i + tl.arange(0, 8)
    tl.store(out + rows, tl.sum(tl.where(x == x, x, 1000.0), 1), mask=rows < n)


def _array(t: Any) -> Any:
    return t._array


def _double(device: str, dtype: Any = tl_.float32) -> None:
    x = tl_.arange(20 * 40, device=device).reshape(20, 40).to(dtype)
    x, out = x[:, :32], tl_.zeros(20, 32, device=device, dtype=dtype)
    for number in (0.0, 1.0):
        source = TensorDescriptor.from_tensor(x, [8, 16])
        target = TensorDescriptor.from_tensor(out, [8, 16])
        launch(double_kernel, (3, 2), target, source, number)
    assert tl_.equal(out.cpu(), (x.cpu().float() * 2 + 1).to(dtype))


def _sums(device: str) -> None:
    x = tl_.ones(10, 8, device=device)
    out = tl_.zeros(10, device=device)
    for padding, total in (("zero", 24.0), ("nan", 24.0 + 8 * 1000.0)):
        pair = (TensorDescriptor.from_tensor(x, [8, 16], padding), TensorDescriptor.from_tensor(x * 2, [8, 16]))
        launch(sums_kernel, (2,), _array(out), pair, 10, BLOCK=8)
        assert out.tolist() == [total] * 10


@pytest.mark.parametrize("dtype", [tl_.float32, tl_.float16, tl_.bfloat16])
def test_in_the_interpreter(dtype: Any) -> None:
    _double("interpret", dtype)


def test_padding_and_tuples_in_the_interpreter() -> None:
    _sums("interpret")


def test_as_machine_code_of_the_processor() -> None:
    if not codegen.available():
        pytest.skip("there is no compiler for this processor")
    _double("native")
    _sums("native")


@pytest.mark.parametrize(
    "kind, arch", [("cuda", "sm_90"), ("cuda", "sm_100"), ("cuda", "sm_80"), ("hip", "gfx942"), ("hip", "gfx1100")]
)
def test_on_a_driver(kind: str, arch: str) -> None:
    with simulated(kind, arch=arch) as sim:
        _double("cuda")
        _double("cuda", tl_.bfloat16)
        _sums("cuda")
        mapped = arch in ("sm_90", "sm_100")
        assert (sim.count("cuTensorMapEncodeTiled") > 0) == mapped
        assert any(MAP in loaded.types for loaded in compiler._compiled.values() if loaded.target == arch) == mapped


def test_a_map_is_encoded_once() -> None:
    with simulated("cuda") as sim:
        x, out = tl_.ones(8, 16, device="cuda"), tl_.zeros(8, 16, device="cuda")
        source, target = (TensorDescriptor.from_tensor(t, [8, 16]) for t in (x, out))
        for _ in range(3):
            launch(double_kernel, (1, 1), target, source, 1.0)
        assert sim.count("cuTensorMapEncodeTiled") == 2 and out.sum().item() == 3 * 128


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_binary_reads(target: str) -> None:
    x, out = (tl_.empty(20, 32, device=target) for _ in range(2))
    launch(double_kernel, (3, 2), *(TensorDescriptor.from_tensor(t, [8, 16]) for t in (out, x)), 2.0)
    compiled = next(c for c in compiler._compiled.values() if c.kernel is double_kernel and c.target == target)
    assert (MAP in compiled.types) == (target in ("sm_90", "sm_100", "sm_120"))
    assert [size for _, size in abi.layout_of(compiled)] == [size for _, size in abi.packed(compiled.types).layout]


def test_tritons_own_descriptors() -> None:
    import tensorlib.triton as triton

    stock = pytest.importorskip("triton.tools.tensor_descriptor").TensorDescriptor
    kernel = triton.jit(double_kernel)
    x, out = tl_.ones(8, 16, device="interpret"), tl_.zeros(8, 16, device="interpret")
    kernel[1, 1](*(stock(t, list(t.shape), list(t.stride()), [8, 16]) for t in (out, x)), 1.0)
    assert out.sum().item() == 3 * 128


def test_what_does_not_fit() -> None:
    x = tl_.zeros(8, 16, device="interpret")
    for make, match in (
        (lambda: TensorDescriptor.from_tensor(tl_.zeros(8, 16), [8, 16]), "on the CPU"),
        (lambda: TensorDescriptor(x, [8], [16, 1], [8, 16]), "one to five dimensions"),
        (lambda: TensorDescriptor.from_tensor(x[:, 1:], [8, 16]), "no multiple of 16"),
        (lambda: TensorDescriptor.from_tensor(x, [8, 12]), "powers of two"),
        (lambda: TensorDescriptor.from_tensor(x, [2048, 1024]), "at most 1048576 elements"),
        (lambda: TensorDescriptor(x, [0, 16], [16, 1], [8, 16]), "at least 1"),
        (lambda: TensorDescriptor.from_tensor(x.T, [8, 16]), "last stride of 1"),
        (lambda: TensorDescriptor(x, [8, 16], [17, 1], [8, 16]), "multiples of 16 bytes"),
        (lambda: TensorDescriptor.from_tensor(x, [8, 16], "one"), "padding 'zero'"),
        (lambda: TensorDescriptor.from_tensor(x.int(), [8, 16], "nan"), "padding 'zero'"),
    ):
        with pytest.raises(ArgumentError, match=match):
            make()
    with pytest.raises(DtypeError, match="round_f32_to_tf32 is for float32"):
        TensorDescriptor.from_tensor(x.half(), [8, 16], round_f32_to_tf32=True)
    with pytest.raises(KernelError, match="TensorDescriptor"):
        launch(double_kernel, 1, x._array, object(), 1.0)
    assert np.float32 == TensorDescriptor.from_tensor(x, [8, 16]).dtype
