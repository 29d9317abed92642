"""What is asked of the allocator: statistics, limits, pools; and page-locked memory with the copies that use it."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib import _array
from tensorlib.errors import ArgumentError, DeviceError
from tensorlib.utils.data import DataLoader, TensorDataset

MIB = 1 << 20


def test_statistics(sim: Simulation) -> None:
    assert tl.cuda.memory_stats() == {} and tl.cuda.memory_allocated() == 0 == tl.cuda.memory_reserved()
    assert not tl.cuda.is_initialized()  # asking prepared nothing
    x = tl.empty(3 * MIB, dtype=tl.uint8, device="cuda")
    assert tl.cuda.memory_allocated() == 3 * MIB <= tl.cuda.memory_reserved() == sim.used()
    stats = tl.cuda.memory_stats()
    assert stats["allocated_bytes.all.current"] == 3 * MIB and stats["allocation.large_pool.current"] == 1
    assert list(stats) == sorted(stats) and stats["num_ooms"] == 0
    assert tl.cuda.memory_stats_as_nested_dict()["allocated_bytes"]["all"]["peak"] == 3 * MIB
    del x
    assert tl.cuda.memory_allocated() == 0 and tl.cuda.max_memory_allocated() == 3 * MIB
    tl.cuda.reset_peak_memory_stats()
    tl.cuda.reset_accumulated_memory_stats()
    assert tl.cuda.max_memory_allocated() == 0 and tl.cuda.memory_stats()["allocated_bytes.all.allocated"] == 0
    assert tl.cuda.memory_reserved() == tl.cuda.max_memory_reserved() > 0
    (segment,) = tl.cuda.memory_snapshot()
    assert segment["total_size"] == tl.cuda.memory_reserved() and segment["blocks"][0]["state"] == "inactive"
    assert "Allocated memory" in tl.cuda.memory_summary() and "device 0" in tl.cuda.memory_summary(abbreviated=True)
    free, total = tl.cuda.mem_get_info()
    assert total == 1 << 30 and free == total - sim.used()
    tl.cuda.empty_cache()
    assert tl.cuda.memory_reserved() == 0 == sim.used() and tl.cuda.mem_get_info("cuda:0") == (total, total)
    assert tl.cuda.memory_allocated("cuda:1") == 0 and tl.cuda.get_allocator_backend() == "native"


def test_the_picture(nvidia: Simulation, tmp_path: Path) -> None:
    x = tl.empty(3 * MIB, dtype=tl.uint8, device="cuda")
    assert tl.cuda.memory_picture() == tl.cuda.memory_picture(tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and x.nbytes


def test_limits(sim: Simulation) -> None:
    assert tl.cuda.get_per_process_memory_fraction() == 1.0
    tl.cuda.set_per_process_memory_fraction(1 / 32)  # of a GiB: 32 MiB
    assert tl.cuda.get_per_process_memory_fraction() == 1 / 32
    with pytest.raises(tl.cuda.OutOfMemoryError, match=r"out of memory\. Tried to allocate 40\.00 MiB") as raised:
        tl.empty(40 * MIB, dtype=tl.uint8, device="cuda")
    assert isinstance(raised.value, tl.OutOfMemoryError) and isinstance(raised.value, RuntimeError)
    assert tl.empty(8 * MIB, dtype=tl.uint8, device="cuda").nbytes == 8 * MIB
    with pytest.raises(TypeError, match="must be `float`"):
        tl.cuda.set_per_process_memory_fraction(1)
    with pytest.raises(ValueError, match="Allowed range: 0~1"):
        tl.cuda.set_per_process_memory_fraction(1.5)


def test_memory_for_others_and_pools(sim: Simulation) -> None:
    address = tl.cuda.caching_allocator_alloc(1000, stream=tl.cuda.current_stream())
    assert tl.cuda.memory_allocated() == 1024
    tl.cuda.caching_allocator_delete(address)
    assert tl.cuda.memory_allocated() == 0
    with pytest.raises(ArgumentError, match="invalid device pointer"):
        tl.cuda.caching_allocator_delete(address)
    pool = tl.cuda.MemPool()
    with tl.cuda.use_mem_pool(pool):
        inside = tl.ones(100, device="cuda")
    outside = tl.ones(100, device="cuda")
    (segment,) = pool.snapshot()
    assert segment["address"] <= inside.data_ptr() < segment["address"] + segment["total_size"]
    assert not segment["address"] <= outside.data_ptr() < segment["address"] + segment["total_size"]
    with tl.cuda.use_mem_pool(pool):
        assert len(pool.snapshot()) == 1 and pool.use_count() == 2
    del inside, pool
    gc.collect()
    tl.cuda.empty_cache()
    assert len(tl.cuda.memory_snapshot()) == 1


def test_pinned_tensors(sim: Simulation) -> None:
    x = tl.arange(1000.0)
    pinned = x.pin_memory()
    assert pinned.is_pinned() and pinned[5:].is_pinned() and not x.is_pinned() and pinned.pin_memory() is pinned
    assert tl.equal(pinned, x) and pinned.device == tl.device("cpu") and pinned.untyped_storage().is_pinned()
    made = (
        tl.empty(3, pin_memory=True), tl.zeros(2, 3, pin_memory=True), tl.rand(4, pin_memory=True),
        tl.tensor([1, 2], pin_memory=True), tl.full_like(x, 2.0, pin_memory=True), x.new_ones(3, pin_memory=True),
        tl.arange(3, pin_memory=True), x.new_tensor([3.0], pin_memory=True), x.view(20, 50).t().pin_memory(),
    )  # fmt: skip
    assert all(t.is_pinned() for t in made) and made[-1].stride() == (1, 50)
    assert tl.equal(made[-1], x.view(20, 50).t()) and tl.tensor(3.0, requires_grad=True).pin_memory().requires_grad
    with pytest.raises(DeviceError, match="only dense CPU tensors can be pinned"):
        x.cuda().pin_memory()
    stats = tl.cuda.host_memory_stats()
    assert stats["active_bytes.current"] > 4000 and sim.live("pinned") == stats["num_host_alloc"]
    assert tl.cuda.host_memory_stats_as_nested_dict()["allocations"]["current"] == sim.live("pinned")
    tl.cuda.reset_peak_host_memory_stats()
    tl.cuda.reset_accumulated_host_memory_stats()
    del made, pinned
    tl.accelerator.empty_host_cache()
    assert sim.live("pinned") == 0


def test_copies_that_the_host_does_not_wait_for(sim: Simulation) -> None:
    source = tl.arange(1000.0).pin_memory()
    tl.zeros(1, device="cuda")
    tl.cuda.synchronize()
    x = source.to("cuda", non_blocking=True)
    assert sim.pending and x.is_cuda
    out = tl.full((1000,), -1.0).pin_memory()
    out.copy_(x * 2, non_blocking=True)
    assert out[7] == -1.0  # not yet there: the driver of these tests runs nothing before somebody waits
    tl.cuda.current_stream().synchronize()
    assert np.array_equal(out.numpy(), np.arange(1000) * 2)
    back = (x.view(10, 100).t() + 1).to("cpu", non_blocking=True)
    tl.cuda.synchronize()
    assert back.is_pinned() and np.array_equal(back.numpy(), np.arange(1000).reshape(10, 100).T + 1)
    y = tl.empty(1000, device="cuda").copy_(source.neg().pin_memory(), non_blocking=True)  # freed at once, in use still
    source.neg().add_(1).pin_memory()
    assert np.array_equal(y.cpu().numpy(), -np.arange(1000))
    assert tl.equal(source.cuda(non_blocking=True).cpu(), source) and not x.cpu().is_pinned()
    assert source.to("cuda", tl.float64, True).dtype is tl.float64
    assert source.to("cpu", tl.float32, False, True).data_ptr() != source.data_ptr()


def test_copies_between_devices(sim: Simulation) -> None:
    x = tl.arange(2000.0, device="cuda:0")
    with tl.cuda.stream(tl.cuda.Stream("cuda:1")):
        y = (x.view(20, 100).t() * 1).to("cuda:1", non_blocking=True)
        assert y.get_device() == 1 and (y + 1)[3, 2].item() == 204
    z = tl.zeros(2000, device="cuda:1").copy_(x)
    assert np.array_equal(z.cpu().numpy(), np.arange(2000)) and sim.count(
        "hipMemcpyPeerAsync" if sim.kind == "hip" else "cuMemcpyPeerAsync"
    )
    z[::2].copy_(x[1000:])
    assert z[2].item() == 1001 and z[1].item() == 1
    assert tl.empty(0, device="cuda:0").to("cuda:1").get_device() == 1


def test_a_loader_that_pins(sim: Simulation) -> None:
    data = TensorDataset(tl.arange(6.0), tl.arange(6))
    for workers in (0, 1):
        for x, y in DataLoader(data, 2, pin_memory=True, num_workers=workers):
            assert x.is_pinned() and y.is_pinned()
            assert tl.equal(x.to("cuda", non_blocking=True).long(), y.cuda(non_blocking=True))


def test_linear_cross_entropy_holds_a_chunk_of_scores(nvidia: Simulation) -> None:
    n, k, c, chunk = 256, 8, 1024, 32
    draws = np.random.default_rng(0)
    x, w = (tl.tensor(draws.standard_normal(s)).float().to("cuda").requires_grad_(True) for s in ((n, k), (c, k)))
    y = tl.tensor(draws.integers(0, c, n)).to("cuda")
    options = tl.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
    peaks = []
    for fused in (True, False):
        x.grad = w.grad = None
        start = tl.cuda.memory_allocated()
        tl.cuda.reset_peak_memory_stats()
        functional = tl.nn.functional
        if fused:
            functional.linear_cross_entropy(x, w, y, options=options).backward()
        else:
            functional.cross_entropy(functional.linear(x, w), y).backward()
        peaks.append(tl.cuda.max_memory_allocated() - start)
    assert peaks[0] < chunk * c * 4 + 5 * (n + c) * k * 4 + 64 * 1024 < n * c * 4 / 2 < peaks[1]


def test_clipping_uploads_no_table_again(nvidia: Simulation) -> None:
    params = [tl.ones(3, 5, device="cuda", requires_grad=True), tl.ones(7, device="cuda", requires_grad=True)]
    uploads = []
    poisoned = _array.poison(False)  # which uploads NaN
    try:
        for _ in range(4):
            before = len([call for call in nvidia.calls if "HtoD" in call.name])
            for p in params:
                p.grad = tl.ones(p.shape, device="cuda")
            tl.nn.utils.clip_grad_norm_(params, 0.1)
            uploads.append(len([call for call in nvidia.calls if "HtoD" in call.name]) - before)
            for p in params:
                p.grad = None
    finally:
        _array.poison(poisoned)
    assert uploads[0] > 0 and uploads[-1] == 0  # new arrays, at the addresses of those that were dropped
