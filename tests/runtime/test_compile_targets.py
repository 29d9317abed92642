"""Kernels compiled for every GPU target, with the parameter block read back from each binary. No GPU."""

from __future__ import annotations

import importlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tensorlib
from tensorlib._array import as_strided, empty
from tensorlib._device import TARGETS, device
from tensorlib.errors import DeviceError, KernelError
from tensorlib.runtime import abi, compiler
from tensorlib.runtime.compiler import compile_kernel, constant, define, jit, registry, specialise
from tensorlib.runtime.launch import Coverage, cdiv, launch, next_power_of_2

BF16 = np.dtype(ml_dtypes.bfloat16)


@jit
def _double(x):
    return x * 2


@jit
def _add_kernel(out, x, y, n, fn: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    a = tl.load(x + i, mask=mask).to(tl.float32)
    b = tl.load(y + i, mask=mask).to(tl.float32)
    tl.store(out + i, fn(a) + b, mask=mask)


@jit
def _dot_kernel(out, a, b, K, stride_am, stride_bk, stride_om, BLOCK: tl.constexpr):
    m, k = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, K, BLOCK):
        x = tl.load(a + m[:, None] * stride_am + (start + k)[None, :], mask=(start + k)[None, :] < K, other=0.0)
        y = tl.load(b + (start + k)[:, None] * stride_bk + m[None, :], mask=(start + k)[:, None] < K, other=0.0)
        acc = tl.dot(x, y, acc)
    tl.store(out + m[:, None] * stride_om + m[None, :], acc.to(out.dtype.element_ty))


@jit
def _scalars(out, a, b, c, d, e, f, g, h, k):
    tl.store(out, a.to(tl.float64) + b.to(tl.float64) + c + d + e + f + g + h.to(tl.float64) + k.to(tl.float64))


@jit
def _tuples(out, xs, shape, strides, fns: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    offset = tl.zeros((N,), tl.int64)
    left = i
    for d in tl.static_range(len(shape)):
        offset += (left % shape[len(shape) - 1 - d]) * tl.cast(strides[len(shape) - 1 - d], tl.int64)
        left = left // shape[len(shape) - 1 - d]
    v = tl.load(xs[0] + offset)
    for k in tl.static_range(len(fns)):
        v = fns[k](v)
    if xs[1] is not None:
        v += tl.load(xs[1] + i)
    tl.store(out + i, v)


def _compiled(kernel, args, target, **constants):
    keys = tuple(specialise(a, target.startswith("gfx")) for a in args)
    return compile_kernel(kernel, keys, constants, target)


triton = pytest.importorskip("triton")


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_compiles_and_reads_the_block_we_pack(target):
    on = device(target)
    x = empty((100,), BF16, on)
    launch(_add_kernel, cdiv(100, 64), x, x, x, 100, fn=_double, BLOCK=64)
    dtypes = (np.float32, BF16, np.float16)
    a = empty((32, 48), dtypes[TARGETS.index(target) % 3], on)
    launch(_dot_kernel, 1, a, a, a, 48, 48, 48, 48, BLOCK=32, num_warps=4, num_stages=2)
    compiled = _compiled(_dot_kernel, (a, a, a, 48, 48, 48, 48), target, BLOCK=32)
    # three pointers, four int32, alignment of the two scratch pointers
    assert abi.layout_of(compiled) == [(0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8), (48, 8)]


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx90a", "gfx1201"])
def test_scalars_of_every_width_are_where_the_binary_reads_them(target, monkeypatch):
    x = empty((4,), np.float64, device(target))
    args = (x, np.float16(1), np.float64(2), True, 2**40, np.float32(3), np.int8(4), np.int16(5),
            BF16.type(6), np.uint64(7))  # fmt: skip
    compiled = _compiled(_scalars, args, target)
    assert compiled.types == ["*fp64", "fp16", "fp64", "u1", "i64", "fp32", "i8", "i16", "bf16", "u64"]
    abi.check(compiled)
    assert [offset for offset, _ in abi.layout_of(compiled)] == [0, 8, 16, 24, 32, 40, 44, 46, 48, 56, 64, 72]
    block = abi.packed(compiled.types, [0x1000, 1.0, 2.0, True, 2**40, 3.0, 4, 5, 6.0, 7])
    assert len(block.data) == 80
    assert np.frombuffer(block.data, np.float64, 1, 16)[0] == 2.0
    assert np.frombuffer(block.data, BF16, 1, 48)[0] == 6.0
    compiled.types[1] = "fp32"
    monkeypatch.setattr(abi, "_checked", {})  # it passed above
    with pytest.raises(KernelError, match=f"_scalars: {target} reads its parameters at"):
        abi.check(compiled)
    compiled.types[1] = "fp16"  # it is shared with the cache


@pytest.mark.parametrize("target", ["sm_90", "gfx942", "gfx1100"])
def test_tuples_of_pointers_sizes_and_functions(target):
    x = empty((4, 8), np.float32, device(target))
    for xs in ((x.T, x), (x.T, None)):
        launch(_tuples, 1, x, xs, x.T.shape, x.T.strides, fns=(_double, _double), N=32)
    compiled = _compiled(_tuples, (x, (x, None), (8, 4), (1, 8)), target, fns=(_double,), N=32)
    assert compiled.types == ["*fp32", "*fp32", "i32", "i32", "i32"]  # None and the stride 1 are constants


def test_functions_change_the_code_and_the_key():
    triple = define("def _triple(x):\n    return inner(x) * 1.5\n", {"inner": _double})
    x = empty((64,), np.float32, device("sm_80"))
    keys = tuple(specialise(a) for a in (x, (x, None), (64,), (1,)))
    one = compile_kernel(_tuples, keys, {"fns": (_double,), "N": 64}, "sm_80")
    two = compile_kernel(_tuples, keys, {"fns": (triple,), "N": 64}, "sm_80")
    assert one.binary != two.binary
    assert one is compile_kernel(_tuples, keys, {"fns": (_double,), "N": 64}, "sm_80")
    # The disk cache of Triton asks a tuple for its key: it must follow the source, not the name
    again = define("def _triple(x):\n    return inner(x) * 2.5\n", {"inner": _double})
    assert constant((triple,)).cache_key != constant((again,)).cache_key
    assert two.binary != compile_kernel(_tuples, keys, {"fns": (again,), "N": 64}, "sm_80").binary


def _times(factor):
    @jit
    def scaled(x):
        return x * factor

    return scaled


@jit
def _through(x, fn: tl.constexpr):  # no tl in its body: only an annotation names it
    return fn(x)


@jit
def _sum_of_two(out, f: tl.constexpr, g: tl.constexpr):
    tl.store(out, f(tl.load(out)) + g(tl.load(out + 1)))


@jit
def _sum_of_two_nested(out, f: tl.constexpr, g: tl.constexpr):
    tl.store(out, _through(tl.load(out), f) + _through(tl.load(out + 1), g))


PAIR = (_times(3.0), _times(7.0))


@jit
def _sum_of_global_pair(out):
    tl.store(out, PAIR[0](tl.load(out)) + PAIR[1](tl.load(out + 1)))


def test_functions_of_one_name_are_told_apart(tmp_path, monkeypatch):
    # Triton reuses a compiled function by its name: with one name for both, the second would compute the first.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x = empty((2,), np.float32, device("sm_90"))
    generated = [define(f"def _g(x):\n    return x * {c}\n", {}) for c in (3.0, 7.0)]
    for kernel, functions in (
        (_sum_of_two, (_times(3.0), _times(7.0))),
        (_sum_of_two, generated),
        (_sum_of_two_nested, (_times(3.0), _times(7.0))),
        (_sum_of_two_nested, generated),
        (_sum_of_global_pair, ()),
    ):
        compiled = _compiled(kernel, (x,), "sm_90", **dict(zip("fg", functions, strict=False)))
        found = re.findall(r"arith\.constant (\d)\.0+e\+00", compiled.asm["ttir"])
        assert sorted(found) == ["3", "7"], kernel


def test_the_values_of_a_launch_follow_its_key():
    x = empty((8,), np.float32, device("sm_90"))
    args = (x, (x[4:], None), (8, 1), np.float64(0.5), 2**40)
    keys = tuple(specialise(a) for a in args)
    types = [t for k in keys for t in compiler.runtime_types(k)]
    values = [v for k, a in zip(keys, args, strict=True) for v in abi.runtime_values(k, a)]
    assert types == ["*fp32", "*fp32", "i32", "fp64", "i64"]
    assert values == [x.ptr, x.ptr + 16, 8, 0.5, 2**40]
    block = abi.packed(types, values)
    assert [offset for offset, _ in block.layout] == [0, 8, 16, 24, 32, 40, 48]
    assert struct.unpack("<QQi4xdqQQ", block.data) == (x.ptr, x.ptr + 16, 8, 0.5, 2**40, 0, 0)


def test_the_key_of_an_argument():
    on = device("gfx942")
    x = empty((8,), np.float32, on)
    assert specialise(x) == "*fp32 16"
    assert specialise(x[1:]) == "*fp32"
    assert specialise(x, wide_range=True) == "*fp32 16 range32"
    assert specialise(as_strided(x, (8,), (-1,), 7), wide_range=True) == "*fp32"
    huge = as_strided(x, (2, 8), (2**29, 1))
    assert specialise(huge, wide_range=True) == "*fp32 16"
    assert specialise(empty((2,), bool, on)) == "*u1 16"
    integers = {1: "=1", 2: "i32", 32: "i32 16", 0: "i32 16", -16: "i32 16", 2**31 + 1: "i64", 2**63: "u64 16"}
    assert {v: specialise(v) for v in integers} == integers
    scalars = (True, 1.0, np.float64(1), np.float32(1), None)
    assert [specialise(v) for v in scalars] == ["u1", "fp32", "fp64", "fp32", "=None"]
    assert [specialise(v) for v in (np.int32(1), np.int64(32), np.bool_(True))] == ["i32", "i64 16", "u1"]
    assert specialise((x, (1, 3), None)) == ("*fp32 16", ("=1", "i32"), "=None")
    assert specialise(1, plain=True) == "i32"
    with pytest.raises(KernelError, match="got 'text'"):
        specialise("text")
    with pytest.raises(KernelError, match="64 bits"):
        specialise(2**64)
    with pytest.raises(RuntimeError, match="complex"):
        specialise(empty((2,), np.complex64, on))


def test_constants_that_compare_equal_are_kept_apart():
    keys = {compiler.constant_key(v) for v in (1, 1.0, True, 0.0, -0.0)}
    assert len(keys) == 5
    assert compiler.constant_key(float("nan")) == compiler.constant_key(float("nan"))


@jit(do_not_specialize=("seed",))
def _seeded(out, seed, N: tl.constexpr = 4):
    tl.store(out + tl.arange(0, N), tl.rand(seed, tl.arange(0, N)))


def test_arguments_that_change_every_launch_compile_once():
    x = empty((4,), np.float32, device("sm_90"))
    before = len(compiler._compiled)
    for seed in (1, 2, 16, 12345):
        launch(_seeded, 1, x, seed)
    assert len(compiler._compiled) == before + 1
    with pytest.raises(KernelError, match="do_not_specialize names"):
        jit(_double.fn, do_not_specialize=("sede",))


@jit
def _mistaken(out, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), undefined_name)


@jit
def _pointer_twice(out, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), tl.arange(0, 2 * N))


def test_a_failed_compilation_says_what_was_compiled():
    x = empty((4,), np.float32, device("sm_90"))
    with pytest.raises(KernelError) as e:
        launch(_mistaken, 1, x, N=4)
    for part in ("_mistaken: does not compile for sm_90", "undefined_name", "out: *fp32 16", "'N': 4", "num_warps=4"):
        assert part in str(e.value)
    assert e.value.__cause__ is not None
    with pytest.raises(KernelError, match="_pointer_twice"):
        launch(_pointer_twice, 1, x, N=4)


def test_arguments_that_do_not_fit_the_kernel():
    on = device("sm_90")
    x = empty((4,), np.float32, on)
    with pytest.raises(KernelError, match="_add_kernel: got 3 arguments, expected 4: out, x, y, n"):
        launch(_add_kernel, 1, x, x, x, fn=_double, BLOCK=4)
    with pytest.raises(KernelError, match="BLOK is not a constexpr of this kernel; its constexprs are BLOCK, fn"):
        launch(_add_kernel, 1, x, x, x, 4, fn=_double, BLOK=4)
    with pytest.raises(KernelError, match="the constexprs BLOCK are missing"):
        launch(_add_kernel, 1, x, x, x, 4, fn=_double)
    with pytest.raises(KernelError, match="none of its arguments is an array"):
        launch(_add_kernel, 1, 1, 2, 3, 4, fn=_double, BLOCK=4)
    with pytest.raises(KernelError, match="expected a function declared with @jit"):
        launch(print, 1, x)
    with pytest.raises(KernelError, match="one to three whole sizes"):
        launch(_add_kernel, (1, 1, 1, 1), x, x, x, 4, fn=_double, BLOCK=4)
    other = empty((4,), np.float32, device("gfx942"))
    with pytest.raises(DeviceError, match=r"out on 'sm_90' and x\[0\] on 'gfx942'"):
        launch(_add_kernel, 1, x, (other,), x, 4, fn=_double, BLOCK=4)
    with pytest.raises(KernelError, match="_add_kernel: x, y, n, fn, BLOCK missing"):
        _add_kernel[1](x)
    with pytest.raises(TypeError, match="_double is a Triton function: call it in a kernel"):
        _double(1)


def test_an_empty_grid_runs_and_compiles_nothing():
    before = len(compiler._compiled)
    x = empty((0,), np.float32, device("sm_120"))
    with Coverage() as seen:
        launch(_add_kernel, (0,), x, x, x, 0, fn=_double, BLOCK=512)
    assert (len(compiler._compiled), seen.reached) == (before, set())


@jit
def _outer(x):
    return _middle(x)


@jit
def _middle(x):
    return _double(x)


def test_coverage_sees_nested_functions_and_variants():
    assert registry[__name__, "_outer"] is _outer
    assert _outer.dependencies == {_middle, _double}
    x = empty((64,), np.float32, device("sm_80"))
    with Coverage() as seen:
        launch(_add_kernel, 1, x, x, x, 64, fn=_outer, BLOCK=64)
        launch(_add_kernel, 1, x, x, x, 64, fn=_outer, BLOCK=64)
        launch(_add_kernel, 1, x, x, x, 64, fn=_double, BLOCK=64)
    assert seen.reached == {_add_kernel, _outer, _middle, _double}
    assert len(seen.variants) == 2
    launch(_add_kernel, 1, x, x, x, 64, fn=_middle, BLOCK=64)
    assert len(seen.variants) == 2


def test_stock_kernels_compile():
    import stock_kernels

    for target in ("sm_90", "gfx942"):
        x = empty((4,), np.float32, device(target))
        launch(stock_kernels.doubled_tanh, 1, x, x, 4, N=4)


@jit
def _libdevice(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(out + i, libdevice.tanh(v) + libdevice.pow(v, v) + libdevice.isnan(v).to(v.dtype))


@pytest.mark.parametrize("target", ["sm_80", "gfx90a", "gfx1100"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_libdevice_is_each_vendors(target, dtype):
    x = empty((64,), dtype, device(target))
    launch(_libdevice, 1, x, x, N=64)


def test_options_reach_the_compiler():
    x = empty((128,), np.float32, device("sm_90"))
    launch(_add_kernel, 1, x, x, x, 128, fn=_double, BLOCK=128, num_warps=8, options={"maxnreg": 32})
    compiled = next(c for r, c in compiler._compiled.items() if r.kernel is _add_kernel and r.num_warps == 8)
    assert compiled.block_warps == 8
    assert ".maxnreg 32" in compiled.asm["ptx"]


def test_buffers_below_two_gigabytes_use_buffer_instructions_on_amd():
    x = empty((1024,), np.float32, device("gfx942"))
    compiled = _compiled(_add_kernel, (x, x, x, 1024), "gfx942", fn=_double, BLOCK=1024)
    assert "buffer_load" in compiled.asm["amdgcn"]


def test_the_host_helpers():
    assert [cdiv(a, 4) for a in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [next_power_of_2(n) for n in (0, 1, 2, 3, 4, 5, 1023, 1024, 1025)] == [1, 1, 2, 4, 4, 8, 1024, 1024, 2048]


def test_importing_the_runtime_imports_no_triton():
    code = """
import sys
import tensorlib.runtime.launch, tensorlib.runtime.interpreter, tensorlib._array
from tensorlib.runtime.compiler import jit, registry
@jit
def f(x, N: "tl.constexpr"):
    return tl.exp(x)
assert f.constants == {"N"} and registry["__main__", "f"] is f
assert "triton" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_gpu_the_reason_is_said():
    with pytest.raises(DeviceError, match=r"'cuda:0': no GPU can be used here: CUDA: .*; HIP: .*; use 'cpu'"):
        empty((4,), np.float32, device("cuda:0"))


def test_triton_interpret_is_refused():
    code = "from tensorlib.runtime.compiler import triton; triton()"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert "TRITON_INTERPRET is set" in ran.stderr


def test_every_vendor_has_the_functions_that_kernels_call() -> None:
    """AMD's libdevice lacks some names in older versions of Triton, where only a kernel's compilation would tell."""
    root = Path(tensorlib.__file__).parent
    files = [*root.glob("ops/*.py"), *root.glob("kernels/*.py")]
    called = {n for file in files for n in re.findall(r"\blibdevice\.(\w+)\(", file.read_text())}
    assert len(called) > 10
    for vendor in ("cuda", "hip"):
        module = importlib.import_module(f"triton.language.extra.{vendor}.libdevice")
        assert not {name for name in called if not hasattr(module, name)}, vendor
