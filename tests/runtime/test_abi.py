"""The parameter block beside what compiled binaries say of it, on every target."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tensorlib._array import empty
from tensorlib._device import TARGETS, device
from tensorlib.errors import KernelError
from tensorlib.runtime import abi, compiler
from tensorlib.runtime.compiler import jit, specialise
from tensorlib.runtime.launch import launch

pytest.importorskip("triton")


@jit
def _mixed(out, flag, half, pair, byte, brain, nested, wide, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(pair[0] + i) * half + brain + byte + tl.load(nested[0][0] + i) * nested[1] + nested[0][1]
    if flag:
        v = (v + wide).to(tl.float32)
    tl.store(out + i, v)


def _compiled(target):
    x = empty((64,), np.float32, device(target))
    scalars = (True, np.float16(0.5), (x, 3), np.int8(-2), ml_dtypes.bfloat16(1.5), ((x[1:], np.int16(7)), 0.25))
    args = (x, *scalars, np.float64(0.1))
    keys = tuple(specialise(a, target.startswith("gfx")) for a in args)
    return compiler.compile_kernel(_mixed, keys, {"N": 64}, target, 4, 2)


@pytest.mark.parametrize("target", TARGETS)
def test_scalars_of_every_width_in_nested_tuples(target, monkeypatch):
    compiled = _compiled(target)
    assert compiled.types == ["*fp32", "u1", "fp16", "*fp32", "i32", "i8", "bf16", "*fp32", "i16", "fp32", "fp64"]
    layout = [(0, 8), (8, 1), (10, 2), (16, 8), (24, 4), (28, 1), (30, 2), (32, 8), (40, 2), (44, 4), (48, 8)]
    assert abi.layout_of(compiled) == [*layout, (56, 8), (64, 8)]
    abi.check(compiled)
    packed = abi.packed
    monkeypatch.setattr(abi, "packed", None)
    abi.check(compiled)  # what passed is remembered
    monkeypatch.setattr(abi, "_checked", {})
    for wrong in (
        lambda types: packed([*types[:1], "i32", *types[2:]]),  # a bool of four bytes
        lambda types: packed(types[:-1]),  # a parameter short
        lambda types: abi.Block([(at + 8 * (at > 8), size) for at, size in packed(types).layout], b""),  # shifted
    ):
        monkeypatch.setattr(abi, "packed", wrong)
        with pytest.raises(KernelError, match=r"_mixed: .* reads its parameters at .* tensorlib packs"):
            abi.check(compiled)
        monkeypatch.setattr(abi, "packed", packed)


@jit
def _large_tiles(out, x, y, K, N: tl.constexpr):
    i = tl.arange(0, N)
    acc = tl.zeros((N, N), tl.float32)
    for k in range(0, K, 64):
        a = tl.load(x + i[:, None] * K + k + tl.arange(0, 64)[None, :])
        b = tl.load(y + (k + tl.arange(0, 64))[:, None] * N + i[None, :])
        acc = tl.dot(a, b, acc)
    tl.store(out + i[:, None] * N + i[None, :], acc)


def test_more_shared_memory_than_the_target_has():
    keys = ("*fp16 16", "*fp16 16", "*fp16 16", "i32 16")
    compiled = compiler.compile_kernel(_large_tiles, keys, {"N": 128}, "sm_90", 8, 5)
    assert 99 << 10 < compiled.shared <= 227 << 10
    abi.check(compiled)
    compiled = compiler.compile_kernel(_large_tiles, keys, {"N": 128}, "sm_120", 8, 5)
    with pytest.raises(KernelError, match=r"_large_tiles: asks for \d+ bytes of shared memory, .* sm_120 has 101376"):
        abi.check(compiled)


class _HostDescriptor:
    """What triton.tools.tensor_descriptor.TensorDescriptor looks like to a launch."""

    def __init__(self, base):
        self.base, self.shape, self.strides, self.block_shape = base, list(base.shape), list(base.strides), [8, 8]


def test_host_descriptors_are_refused_by_name():
    x = empty((8, 8), np.float32, device("sm_90"))
    with pytest.raises(KernelError, match="HostDescriptor"):
        launch(_large_tiles, 1, x, _HostDescriptor(x), x, 64, N=16)
