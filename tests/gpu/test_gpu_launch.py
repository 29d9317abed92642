"""Launches: parameters of every type at every alignment, grids, shared memory, descriptors, clusters, loops."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import tensorlib
from tensorlib import _array
from tensorlib._device import device as Device
from tensorlib.errors import KernelError
from tensorlib.op import TensorDescriptor, jit, launch
from tensorlib.runtime import driver as drivers

CUDA = Device("cuda", 0)


@jit
def add_kernel(out, x, y, N, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < N) + tl.load(y + i, mask=i < N), mask=i < N)


@jit
def store_all_kernel(out, values, N: tl.constexpr):
    """Each value into an array of its own type: what was packed against what the kernel reads."""
    for i in tl.static_range(N):
        tl.store(out[i], values[i])


@jit
def programs_kernel(out, X, Y):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sizes = tl.num_programs(0) * 10000 + tl.num_programs(1) * 100 + tl.num_programs(2)
    tl.store(out + (z * Y + y) * X + x, sizes)


@jit
def product_kernel(out, x, y, K, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """One tile out (BLOCK, BLOCK) of x (BLOCK, K) times y (K, BLOCK); the pipeline keeps tiles in shared memory."""
    m, k = tl.arange(0, BLOCK), tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for at in range(0, K, BLOCK_K):
        a = tl.load(x + m[:, None] * K + (at + k)[None, :])
        b = tl.load(y + (at + k)[:, None] * BLOCK + m[None, :])
        total = tl.dot(a, b, total)
    tl.store(out + m[:, None] * BLOCK + m[None, :], total)


@jit
def host_descriptor_kernel(out, x, number):
    """A tile copied through descriptors that are arguments: tensor maps from sm_90, pointers elsewhere."""
    m, n = tl.program_id(0) * 32, tl.program_id(1) * 64
    out.store([m, n], x.load([m, n]) + number)


@jit
def descriptor_kernel(out, x, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A tile copied through descriptors made on the device: the bulk copy engine on sm_90 and later."""
    source = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[BLOCK_M, BLOCK_N])
    target = tl.make_tensor_descriptor(out, shape=[M, N], strides=[N, 1], block_shape=[BLOCK_M, BLOCK_N])
    m, n = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    target.store([m, n], source.load([m, n]) + 1)


@jit
def count_kernel(out, N, BLOCK: tl.constexpr):
    """Every element once, by an atomic add: programs that ran twice or never show."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out + i, 1, mask=i < N)


def put(array):
    return _array.to_device(np.ascontiguousarray(array), CUDA)


def get(array):
    return _array.to_host(array)


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_trivial_kernel(engine):
    """The first kernel ever: everything else hangs on it."""
    x, y = normal(1000), normal(1000, seed=1)
    out = _array.empty((1000,), np.float32, CUDA)
    launch(add_kernel, 4, out, put(x), put(y), 1000, BLOCK=256)
    np.testing.assert_array_equal(get(out), x + y)


def test_every_size_and_alignment(engine):
    """Arrays that begin at odd elements, sizes around a block: other specialisations of one kernel."""
    for n, start in itertools.product((1, 2, 16, 255, 256, 257, 4096), (0, 1, 4)):
        x, y = normal(n + start), normal(n + start, seed=1)
        out = put(np.zeros(n + 8, np.float32))
        launch(add_kernel, -(-n // 256), out, put(x)[start:], put(y)[start:], n, BLOCK=256)
        found = get(out)
        np.testing.assert_array_equal(found[:n], (x + y)[start:])
        assert not found[n:].any(), "wrote beyond the end"


#: One value of each type a parameter can have: none is 0 or 1, and bytes in a wrong order would show.
VALUES = {
    "bool": True,
    "int8": np.int8(-101), "uint8": np.uint8(201), "int16": np.int16(-30001), "uint16": np.uint16(60001),
    "int32": -2000000011, "uint32": np.uint32(4000000007), "int64": -(1 << 61) + 12345, "uint64": (1 << 63) + 54321,
    "float16": np.float16(-1.5), "bfloat16": ml_dtypes.bfloat16(2.25), "float32": 1.2345678,
    "float64": np.float64(1.23456789012345678),
}  # fmt: skip


@pytest.mark.parametrize("order", range(8))
def test_scalars_of_every_type(engine, order):
    """Between pointers and each other in eight orders: each type meets every offset that its alignment allows."""
    rng = np.random.default_rng(order)
    names = list(VALUES)
    if order:
        rng.shuffle(names)
    names = names[: len(names) - order % 3]  # other lengths, other paddings before the two trailing words
    dtypes = [np.dtype(ml_dtypes.bfloat16 if n == "bfloat16" else n) for n in names]
    outs = tuple(put(np.zeros(1, d)) for d in dtypes)
    launch(store_all_kernel, 1, outs, tuple(VALUES[n] for n in names), N=len(names))
    for name, dtype, out in zip(names, dtypes, outs, strict=True):
        assert get(out)[0] == np.asarray(VALUES[name]).astype(dtype), name


def test_integers_that_are_specialised(engine):
    """1 becomes a constant, multiples of 16 a promise, 2**31 a wider type: the value arrives all the same."""
    for value in (0, 1, 2, 16, 48, -16, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1):
        out = put(np.zeros(1, np.int64))
        launch(store_all_kernel, 1, (out,), (value,), N=1)
        assert get(out)[0] == value
    for value in (None, 3):
        out = put(np.zeros(1, np.int64))
        if value is not None:
            launch(store_all_kernel, 1, (out,), (value,), N=1)
            assert get(out)[0] == value


def test_grids_of_every_rank(engine):
    for grid in ((5,), (4, 3), (2, 3, 4), (1, 1, 7), (65,)):
        x, y, z = (*grid, 1, 1)[:3]
        out = put(np.zeros(x * y * z, np.int32))
        launch(programs_kernel, grid, out, x, y)
        assert (get(out) == x * 10000 + y * 100 + z).all(), grid
    launch(programs_kernel, (0, 3), put(np.zeros(1, np.int32)), 1, 1)  # nothing to do, and no error


def test_many_programs(engine, small):
    """More programs than run at once: each element is counted once."""
    n = 5000 if small else 50_000_003
    out = put(np.zeros(n, np.int32))
    launch(count_kernel, -(-n // 1024), out, n, BLOCK=1024)
    assert (get(out) == 1).all()


def test_shared_memory_above_48_kb(engine):
    """Dynamic shared memory above what a kernel gets unasked: the attribute must be set on the loaded function."""
    wanted = 48 << 10
    if engine.properties.shared_memory_per_block_optin <= wanted:
        pytest.skip("this GPU gives a block no more than 48 KB of shared memory")
    K = 256
    x, y = normal(128, K, dtype=np.float16), normal(K, 128, dtype=np.float16, seed=1)
    out = _array.empty((128, 128), np.float32, CUDA)
    stages = 4 if engine.driver.kind == "cuda" else 2
    launch(product_kernel, 1, out, put(x), put(y), K, BLOCK=128, BLOCK_K=64, num_warps=8, num_stages=stages)
    np.testing.assert_allclose(get(out), x.astype(np.float32) @ y.astype(np.float32), rtol=1e-3, atol=1e-2)
    used = [
        found.compiled.shared for found in engine.launchers.loaded.values() if found.compiled.kernel is product_kernel
    ]
    if engine.driver.kind == "cuda":
        assert max(used) > wanted


def test_too_much_shared_memory_is_an_error_of_ours(engine):
    """It names the kernel, what it asks for, and what there is."""
    x = put(normal(128, 1024))
    with pytest.raises(KernelError, match=r"product_kernel.*shared memory"):
        launch(product_kernel, 1, _array.empty((128, 128), np.float32, CUDA), x, put(normal(1024, 128)), 1024,
               BLOCK=128, BLOCK_K=256, num_warps=8, num_stages=5)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dot(engine, dtype):
    """Matrix instructions of each dtype against float32."""
    x, y = normal(64, 96, dtype=dtype), normal(96, 64, dtype=dtype, seed=1)
    out = _array.empty((64, 64), np.float32, CUDA)
    launch(product_kernel, 1, out, put(x), put(y), 96, BLOCK=64, BLOCK_K=32)
    atol = 0.1 if dtype is np.float32 else 1e-3  # Triton's default for float32 is tf32: ten bits of each factor
    np.testing.assert_allclose(get(out), x.astype(np.float32) @ y.astype(np.float32), rtol=2e-3, atol=atol)


def test_device_side_descriptors(engine):
    """They need scratch memory for each program, which the launch allocates."""
    M, N = 96, 128
    x = normal(M, N)
    out = _array.empty((M, N), np.float32, CUDA)
    launch(descriptor_kernel, (3, 2), out, put(x), M, N, BLOCK_M=32, BLOCK_N=64)
    np.testing.assert_array_equal(get(out), x + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_descriptors_as_arguments(engine, dtype):
    """Blocks that reach over the edges read zeros there and write nothing."""
    x = normal(90, 104, dtype=dtype)
    out = put(np.zeros((90, 104), dtype))
    source, target = (TensorDescriptor.from_tensor(t, [32, 64]) for t in (put(x), out))
    for number in (1.0, 2.0):
        launch(host_descriptor_kernel, (3, 2), target, source, number)
    np.testing.assert_array_equal(get(out), (x.astype(np.float32) + 2).astype(dtype))


def test_tensor_map(engine):
    """The driver encodes a descriptor of a matrix: 128 bytes."""
    p = engine.properties
    if engine.driver.kind != "cuda" or p.major < 9:
        pytest.skip(f"tensor maps need sm_90 or later, this is {p.target}")
    x = put(normal(128, 256, dtype=np.float16))
    engine.activate()
    found = engine.driver.tensor_map(
        ptr=x.ptr, dtype=np.float16, shape=(128, 256), strides=(256, 1), block=(64, 64), swizzle=3
    )
    assert len(bytes(found)) == 128 and any(bytes(found))


def _needs_hopper(engine, what):
    p = engine.properties
    if engine.driver.kind != "cuda" or p.major < 9:
        pytest.skip(f"{what} needs sm_90 or later, this is {p.target}")


def _adds(n=100_000, **how):
    x, y = normal(n), normal(n, seed=1)
    out = _array.empty((n,), np.float32, CUDA)
    launch(add_kernel, -(-n // 1024), out, put(x), put(y), n, BLOCK=1024, **how)
    np.testing.assert_array_equal(get(out), x + y)


def test_clusters(engine, small):
    _needs_hopper(engine, "a cluster of programs")
    _adds(5000 if small else 100_000, options={"num_ctas": 2})


def test_cooperative_launch(engine, small):
    _adds(5000, options={"launch_cooperative_grid": True})


def test_programmatic_dependent_launch(engine, small):
    _needs_hopper(engine, "programmatic dependent launch")
    for _ in range(3):
        _adds(5000 if small else 100_000, options={"launch_pdl": True})


def test_launches_follow_the_current_stream(engine, small):
    """Kernels, copies and memory of two streams that wait for each other by events."""
    n = 2000 if small else 10_000_000
    d = engine.driver
    stream, event = drivers.Stream(d, engine.index), drivers.Event(d, engine.index, False)
    x = put(np.ones(n, np.float32))
    d.synchronize()
    before = engine.set_stream(stream)
    try:
        total = _array.empty((n,), np.float32, CUDA)
        launch(add_kernel, -(-n // 1024), total, x, x, n, BLOCK=1024)
        for _ in range(6):
            launch(add_kernel, -(-n // 1024), total, total, x, n, BLOCK=1024)
        d.event_record(event.handle, stream.handle)
    finally:
        engine.set_stream(before)
    d.stream_wait_event(0, event.handle)
    out = _array.empty((n,), np.float32, CUDA)
    launch(add_kernel, -(-n // 1024), out, total, x, n, BLOCK=1024)
    assert (get(out) == 9).all()


def test_the_hit_path_gives_what_the_first_launch_gave(engine):
    """The same kernel a hundred times with other arrays, sizes and alignments between."""
    for i in range(100):
        n = 100 + 37 * (i % 5)
        x, y = normal(n, seed=i), normal(n, seed=i + 1)
        out = _array.empty((n,), np.float32, CUDA)
        launch(add_kernel, -(-n // 128), out, put(x), put(y), n, BLOCK=128)
        np.testing.assert_array_equal(get(out), x + y)


def test_a_tensor_goes_there_and_back():
    for dtype in (np.float32, np.float64, np.float16, np.int8, np.int64, np.uint8, np.bool_):
        for shape in ((), (0, 3), (1,), (5, 7), (1025,)):
            x = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
            t = tensorlib.from_numpy(x).to("cuda")
            assert str(t.device) == "cuda:0" and t.shape == shape
            np.testing.assert_array_equal(t.cpu().numpy(), x)
    t = tensorlib.arange(12.0).reshape(3, 4).to("cuda")
    assert t.mT.cpu().tolist() == t.cpu().mT.tolist() and t[1:, ::2].cpu().tolist() == t.cpu()[1:, ::2].tolist()
