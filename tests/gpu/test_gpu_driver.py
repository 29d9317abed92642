"""First contact: what the driver says of the GPU, and copies, streams and events through it alone, with no kernel."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

from tensorlib.errors import TensorlibError
from tensorlib.runtime import driver as drivers
from tensorlib.runtime import gpu

SIZES = (1, 2, 3, 7, 15, 16, 17, 255, 4095, 4097, 65537, (1 << 20) + 3)


def address(array):
    return array.__array_interface__["data"][0]


def numbers(nbytes, seed=0):
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


@pytest.fixture
def blocks(engine):
    """Device memory that is freed again: ``blocks(nbytes)`` gives an address."""
    engine.activate()
    made = []

    def allocate(nbytes):
        made.append(engine.driver.malloc(nbytes))
        return made[-1]

    yield allocate
    engine.driver.synchronize()
    for ptr in made:
        engine.driver.free(ptr)


def test_properties_are_plausible(engine):
    """Numbers as some GPU of the last ten years has them: a field read at a wrong place shows."""
    p = engine.properties
    print(p)
    assert p.name.isprintable() and p.name.strip()
    assert 1 << 30 <= p.total_memory < 1 << 42
    assert 1 <= p.multi_processor_count < 1024
    assert p.warp_size in (32, 64)
    assert 1024 <= p.max_threads_per_multi_processor <= 4096
    assert 32 << 10 <= p.shared_memory_per_block <= p.shared_memory_per_block_optin
    assert p.shared_memory_per_block_optin <= 1 << 20
    assert p.regs_per_multiprocessor >= 1 << 15
    assert p.L2_cache_size >= 1 << 19
    if engine.driver.kind == "cuda":
        assert re.fullmatch(r"sm_\d{2,3}", p.target) and p.target == f"sm_{p.major}{p.minor}"
        assert p.gcnArchName == ""
    else:
        assert re.fullmatch(r"gfx[0-9a-f]{3,4}", p.target) and p.gcnArchName.startswith(p.target)
        assert p.warp_size == (64 if p.target.startswith("gfx9") else 32)


def test_driver_version_and_count(engine):
    assert engine.driver.version >= ((12, 0) if engine.driver.kind == "cuda" else (5, 2))
    assert engine.driver.count >= 1 and engine.driver.path


def test_memory_info(engine, blocks):
    engine.activate()
    free, total = engine.driver.memory_info()
    assert 0 < free <= total
    assert abs(total - engine.properties.total_memory) <= total // 8
    blocks(64 << 20)
    assert engine.driver.memory_info()[0] < free or engine.driver.memory_info()[1] == total


def test_memory_is_aligned(blocks):
    assert all(blocks(n) % 256 == 0 for n in (1, 3, 511, 4097))


def test_copies_there_and_back(engine, blocks):
    """Every byte of odd sizes, and nothing beyond them."""
    for n in SIZES:
        data, back = numbers(n, n), np.zeros(n + 8, np.uint8)
        ptr = blocks(n)
        engine.driver.copy_to_device(ptr, address(data), n, 0)
        engine.driver.copy_to_host(address(back) + 4, ptr, n, 0)
        engine.driver.stream_synchronize(0)
        assert np.array_equal(back[4 : n + 4], data), n
        assert not back[:4].any() and not back[n + 4 :].any(), n


def test_copies_at_odd_places(engine, blocks):
    data = numbers(4099)
    ptr, back = blocks(5000), np.zeros(4096, np.uint8)
    engine.driver.copy_to_device(ptr + 5, address(data) + 3, 4096, 0)
    engine.driver.copy_to_host(address(back), ptr + 5, 4096, 0)
    engine.driver.stream_synchronize(0)
    assert np.array_equal(back, data[3:])


def test_copies_and_fills_on_the_device(engine, blocks):
    for n in SIZES:
        data, back = numbers(n, n), np.zeros(n, np.uint8)
        one, other = blocks(n), blocks(n)
        engine.driver.copy_to_device(one, address(data), n, 0)
        engine.driver.fill(other, 0xA5, n, 0)
        engine.driver.copy_to_host(address(back), other, n, 0)
        engine.driver.stream_synchronize(0)
        assert (back == 0xA5).all(), n
        engine.driver.copy(other, one, n, 0)
        engine.driver.copy_to_host(address(back), other, n, 0)
        engine.driver.stream_synchronize(0)
        assert np.array_equal(back, data), n


def test_pinned_memory(engine, blocks):
    """Asynchronous copies from and to page-locked memory, allocated and registered."""
    n = 1 << 20
    data = numbers(n)
    pinned, ptr = engine.driver.host_allocate(2 * n), blocks(n)
    here = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * (2 * n)).from_address(pinned))
    stream = drivers.Stream(engine.driver, engine.index)
    try:
        here[:n] = data
        engine.driver.copy_to_device(ptr, pinned, n, stream.handle)
        engine.driver.copy_to_host(pinned + n, ptr, n, stream.handle)
        engine.driver.stream_synchronize(stream.handle)
        assert np.array_equal(here[n:], data)
    finally:
        engine.driver.host_free(pinned)
    plain, back = numbers(n, 1), np.zeros(n, np.uint8)
    engine.driver.host_register(address(plain), n)
    try:
        engine.driver.copy_to_device(ptr, address(plain), n, stream.handle)
        engine.driver.stream_synchronize(stream.handle)
    finally:
        engine.driver.host_unregister(address(plain))
    engine.driver.copy_to_host(address(back), ptr, n, 0)
    engine.driver.stream_synchronize(0)
    assert np.array_equal(back, plain)


def test_streams_and_events(engine, blocks):
    """Work of one stream waits for an event of another; elapsed times are positive and add up."""
    n = 32 << 20
    d = engine.driver
    one, other = (drivers.Stream(d, engine.index) for _ in range(2))
    begin, middle, end = (drivers.Event(d, engine.index, timing=True) for _ in range(3))
    a, b = blocks(n), blocks(n)
    d.event_record(begin.handle, one.handle)
    for value in range(8):
        d.fill(a, value, n, one.handle)
    d.event_record(middle.handle, one.handle)
    d.stream_wait_event(other.handle, middle.handle)
    d.copy(b, a, n, other.handle)
    d.event_record(end.handle, other.handle)
    d.event_synchronize(end.handle)
    assert d.event_query(end.handle) and d.stream_query(one.handle)
    first, second, whole = (
        d.event_elapsed(x.handle, y.handle) for x, y in ((begin, middle), (middle, end), (begin, end))
    )
    assert first >= 0 and second >= 0 and whole == pytest.approx(first + second, abs=0.1)
    back = np.zeros(1 << 16, np.uint8)
    d.copy_to_host(address(back), b + n - len(back), len(back), 0)
    d.stream_synchronize(0)
    assert (back == 7).all()


def test_stream_priorities(engine):
    least, greatest = engine.driver.stream_priority_range()
    assert greatest <= least
    for priority in {least, greatest}:
        stream = drivers.Stream(engine.driver, engine.index, priority)
        assert engine.driver.stream_query(stream.handle)


def test_every_thread_can_use_the_gpu(engine, blocks):
    """A thread that has made no call has no current context: activate gives it one."""
    ptrs = [blocks(1 << 16) for _ in range(8)]
    wrong = []

    def work(i):
        engine.activate()
        back = np.zeros(1 << 16, np.uint8)
        for round in range(20):
            data = numbers(1 << 16, 100 * i + round)
            engine.driver.copy_to_device(ptrs[i], address(data), data.nbytes, 0)
            engine.driver.copy_to_host(address(back), ptrs[i], data.nbytes, 0)
            engine.driver.stream_synchronize(0)
            if not np.array_equal(back, data):
                wrong.append((i, round))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_errors_have_names(engine):
    """A refused call says which, the driver's name of the error and its number."""
    engine.activate()
    with pytest.raises(TensorlibError, match=r"(?i)memory.*\(\d+\)"):
        engine.driver.malloc(1 << 60)
    with pytest.raises(TensorlibError):
        engine.driver.module_load(b"not a module at all" * 100)
    engine.driver.synchronize()


def test_peers(engine):
    """Copies between two GPUs, where there are two."""
    if engine.driver.count < 2:
        pytest.skip("needs two GPUs, this machine has one")
    there = gpu.gpu(gpu.Device("cuda", 1))
    n, d = 1 << 20, engine.driver
    data, back = numbers(n), np.zeros(n, np.uint8)
    engine.activate()
    a = d.malloc(n)
    d.copy_to_device(a, address(data), n, 0)
    d.synchronize()
    if d.can_access_peer(0, 1):
        d.enable_peer(0, 1)
    there.activate()
    b = d.malloc(n)
    d.copy_peer(b, 1, a, 0, n, 0)
    d.copy_to_host(address(back), b, n, 0)
    d.synchronize()
    d.free(b)
    engine.activate()
    d.free(a)
    assert np.array_equal(back, data)
