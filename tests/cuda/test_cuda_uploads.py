"""What goes from the host to a GPU: without waiting, through memory used again in time; tables once, not each step."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib import _array
from tensorlib.errors import DeviceError
from tensorlib.kernels import optim as optim_kernels
from tensorlib.kernels.tables import Tables
from tensorlib.nn import functional as F
from tensorlib.runtime import gpu, pinned

NAMES = {
    "cuda": ("cuMemcpyHtoDAsync_v2", "cuStreamSynchronize", "cuMemHostAlloc"),
    "hip": ("hipMemcpyHtoDAsync", "hipStreamSynchronize", "hipHostMalloc"),
}


@pytest.fixture(autouse=True)
def _as_users_have_it() -> Iterator[None]:
    """Elsewhere in the tests undefined memory is filled, from the host."""
    before = _array.poison(False)
    yield
    _array.poison(before)


def _counts(sim: Simulation) -> tuple[int, int]:
    """(copies from the host, times that it waited) so far."""
    upload, wait, _ = NAMES[sim.kind]
    return sim.count(upload), sim.count(wait)


def _since(sim: Simulation, before: tuple[int, int]) -> tuple[int, int]:
    now = _counts(sim)
    return now[0] - before[0], now[1] - before[1]


# -- small uploads


def test_the_host_does_not_wait_and_its_data_may_change(sim: Simulation) -> None:
    tl.tensor([0.0], device="cuda")
    tl.cuda.synchronize()
    before = _counts(sim)
    data = np.zeros(5000, np.float32)
    made = []
    for i in range(40):
        data[:] = i
        made.append(tl.tensor(data, device="cuda"))
        if i % 2:
            with tl.cuda.stream(tl.cuda.Stream()):
                made.append(tl.tensor(data, device="cuda") + 0)
    data[:] = -1
    assert _since(sim, before) == (60, 0)
    sim.drain()
    assert sorted({(t[0].item(), t[-1].item()) for t in made}) == [(float(i), float(i)) for i in range(40)]


def test_pieces_are_used_again_only_when_their_copy_is_done(sim: Simulation) -> None:
    sim.options(patience=-1)  # a stream never comes further by itself
    data = np.zeros(60_000, np.float32)
    made = []
    for i in range(20):
        data[:] = i
        made.append(tl.tensor(data, device="cuda"))
    held = tl.cuda.host_memory_stats()["allocated_bytes.current"]
    sim.options(patience=0)
    tl.cuda.synchronize()
    for i in range(20, 40):
        data[:] = i
        made.append(tl.tensor(data, device="cuda"))
        tl.cuda.synchronize()
    assert tl.cuda.host_memory_stats()["allocated_bytes.current"] == held
    assert [t[7].item() for t in made] == list(range(40))


def test_a_ring_is_not_overwritten_before_it_was_read(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SIZE", 1 << 16), ("PARTS", 4), ("MOST", 1 << 12)):
        monkeypatch.setattr(pinned.Ring, name, value)
    with tl.cuda.device(1):  # on which nothing was copied yet
        side = tl.cuda.Stream()
        before = _counts(sim)
        data, made = np.zeros(250, np.int32), []
        for i in range(200):  # three times around
            data[:] = i
            if i % 3:
                made.append(tl.tensor(data, device="cuda"))
            else:
                with tl.cuda.stream(side):
                    made.append(tl.tensor(data, device="cuda"))
        assert _since(sim, before) == (200, 0)
        tl.cuda.synchronize()
        assert [(t[0].item(), t[-1].item()) for t in made] == [(i, i) for i in range(200)]
        tl.accelerator.empty_host_cache()
        assert tl.tensor(data, device="cuda")[3].item() == 199  # it is made anew


def test_a_host_far_ahead_waits(nvidia: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STAGED_AT_MOST", 4 << 20)
    nvidia.options(patience=-1)
    tl.zeros(1, device="cuda")
    before = _counts(nvidia)
    x = np.ones(1 << 18, np.float32)
    made = [tl.tensor(x * i, device="cuda") for i in range(16)]
    assert _since(nvidia, before) == (16, 3)
    assert tl.cuda.host_memory_stats()["allocated_bytes.peak"] <= 6 << 20
    assert [t[-1].item() for t in made] == list(range(16))


def test_what_is_large_or_finds_no_memory_is_copied_by_the_driver(sim: Simulation) -> None:
    tl.zeros(1, device="cuda")
    before = _counts(sim)
    large = np.ones(gpu.STAGED // 4 + 1, np.float32)
    x = tl.tensor(large, device="cuda")
    large[:] = 2
    assert _since(sim, before) == (1, 1)
    sim.fail(NAMES[sim.kind][2], 2, always=True)  # no more pages can be locked
    small = np.ones(3, np.float32)
    y = tl.tensor(small, device="cuda")
    small[:] = 2
    assert _since(sim, before) == (2, 2) and x[-1].item() == 1 and y.tolist() == [1.0] * 3


def test_kinds_of_data(sim: Simulation) -> None:
    for x in (tl.tensor(3.5), tl.tensor([True, False]), tl.ones(2, 3, dtype=tl.bfloat16).T, tl.arange(4)[::2],
              tl.tensor([1.0, 2.0], dtype=tl.float8_e4m3fn), tl.zeros(0, 3)):  # fmt: skip
        y = x.cuda()
        z = tl.empty_like(y)
        z.copy_(x)
        assert tl.equal(y.cpu().float(), x.float()) and tl.equal(z.cpu().float(), x.float()) and y.dtype is x.dtype


# -- tables


def _model() -> tl.nn.Module:
    tl.manual_seed(1)
    return tl.nn.Sequential(tl.nn.Linear(5, 40), tl.nn.Tanh(), tl.nn.Linear(40, 3))


OPTIMIZERS: list[Callable[..., tl.optim.Optimizer]] = [
    lambda p: tl.optim.AdamW(p, lr=0.001, amsgrad=True),
    lambda p: tl.optim.SGD(p, lr=0.001, momentum=0.9),
    lambda p: tl.optim.SGD(p, lr=0.001),
]


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_steps_upload_nothing_while_addresses_are_the_same(sim: Simulation, number: int) -> None:
    x = tl.ones(4, 5)
    models = _model(), _model().cuda()
    inputs = x, x.cuda()
    optimizers = [OPTIMIZERS[number](m.parameters()) for m in models]
    uploads = []
    kept = []  # of gradients, so that the next ones lie elsewhere
    for i in range(24):
        before = _counts(sim)
        for model, given, optimizer in zip(models, inputs, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            model(given).square().sum().backward()
            optimizer.step()
        uploads.append(_since(sim, before)[0])
        if i >= 20:
            kept.append(models[1][0].weight.grad)
    assert uploads[12:20] == [0] * 8, uploads  # the allocator repeats itself, by turns
    assert any(uploads[20:]), uploads
    for mine, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert tl.allclose(mine.cpu(), theirs, atol=1e-5)


def test_tables_go_with_the_parameters(nvidia: Simulation) -> None:
    gc.collect()
    before = len(optim_kernels._kept)
    for make in OPTIMIZERS:
        model = _model().cuda()
        optimizer = make(model.parameters())
        model(tl.ones(2, 5, device="cuda")).sum().backward()
        optimizer.step()
        assert len(optim_kernels._kept) == before + 1
        del model, optimizer
        gc.collect()
        assert len(optim_kernels._kept) == before
    assert tl.cuda.memory_allocated() == 0


def test_two_streams_take_turns(sim: Simulation) -> None:
    p = tl.ones(8, device="cuda", requires_grad=True)
    optimizer = tl.optim.SGD([p], lr=1.0)
    p.grad = tl.ones(8, device="cuda")
    streams = [tl.cuda.Stream(), tl.cuda.Stream()]
    for i in range(6):
        streams[i % 2].wait_stream(tl.cuda.current_stream())
        streams[i % 2].wait_stream(streams[1 - i % 2])
        with tl.cuda.stream(streams[i % 2]):
            optimizer.step()
    tl.cuda.current_stream().wait_stream(streams[1])
    assert p.tolist() == [-5.0] * 8


def test_index_tables_of_interpolation(sim: Simulation) -> None:
    x = tl.arange(12.0).reshape(1, 1, 3, 4)
    wanted = F.interpolate(x, (5, 7), mode="bilinear")
    graph = tl.cuda.CUDAGraph()
    y = x.cuda()
    with tl.cuda.graph(graph):
        out = F.interpolate(y, (5, 7), mode="bilinear")
    graph.replay()
    assert tl.allclose(out.cpu(), wanted)
    del out
    graph.reset()
    del graph  # and the tables that it was captured with
    tl.cuda.empty_cache()
    for i in range(3):
        before = _counts(sim)
        assert tl.allclose(F.interpolate(y, (5, 7), mode="bilinear").cpu(), wanted)
        assert (_since(sim, before)[0] == 0) == (i > 0)


def test_tables_are_bounded(nvidia: Simulation) -> None:
    tables, made = Tables(entries=3, nbytes=1000), []
    device = tl.ones(1, device="cuda").device

    def get(key: int, n: int) -> None:
        def make() -> list[np.ndarray]:
            made.append(key)
            return [np.full(n, key, np.int64)]

        (table,) = tables.get(key, device, make)
        assert (_array.to_host(table) == key).all() and table.size == n

    for key in (1, 2, 3, 1, 4, 1, 2):
        get(key, 4)
    assert made == [1, 2, 3, 4, 2] and len(tables) == 3
    get(9, 500)  # larger than all together may be: kept by itself
    assert len(tables) == 1
    tables.clear()
    get(9, 500)
    assert made[-2:] == [9, 9]


# -- allocation and another GPU while a graph is captured


def test_another_gpu_allocates_during_a_global_capture(sim: Simulation) -> None:
    x = tl.ones(1000, device="cuda:0")
    x + 1
    far = tl.zeros(4, device="cuda:1")
    far + 1
    made: list[tl.Tensor] = []

    def other() -> None:
        made.append(tl.empty(1 << 20, device="cuda:1").fill_(3))

    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph, capture_error_mode="global"):
        y = x + 1
        made.append(tl.empty(3 << 20, device="cuda:1").fill_(2))  # a new segment, of this thread
        thread = threading.Thread(target=other)  # and of another
        thread.start()
        thread.join()
        y += 1
    x.fill_(5)
    graph.replay()
    assert y.sum().item() == 7000 and [t[-1].item() for t in made] == [2, 3]


def test_freed_memory_of_other_streams_is_asked_for_during_a_capture_elsewhere(nvidia: Simulation) -> None:
    x = tl.ones(100, device="cuda:0")
    x + 1
    nvidia.options(patience=-1)
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.device(1):
        shared, side = tl.ones(1 << 20, device="cuda:1"), tl.cuda.Stream()
    with tl.cuda.graph(graph):
        y = x + 1
        shared.record_stream(side)
        del shared  # waits for an event, about which the next allocation asks
        again = [tl.empty(1 << 20, device="cuda:1") for _ in range(3)]
        tl.cuda.empty_cache()
    graph.replay()
    assert y.sum().item() == 200 and len(again) == 3
    with pytest.raises(DeviceError, match="reading from the GPU"), tl.cuda.graph(tl.cuda.CUDAGraph()):
        x.cpu()
