"""Graphs: what was recorded is done again, with the random numbers that come now; errors leave nothing behind."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib import nn
from tensorlib.cuda import graphs
from tensorlib.errors import ArgumentError, CaptureError, DeviceError, DriverError
from tensorlib.nn import functional as F

OPTIMIZERS: list[Any] = [
    lambda p, lr: tl.optim.AdamW(p, lr=lr, weight_decay=0.1, amsgrad=True),
    lambda p, lr: tl.optim.Adam(p, lr=lr, capturable=True),
    lambda p, lr: tl.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    lambda p, lr: tl.optim.SGD(p, lr=lr),
    lambda p, lr: tl.optim.RMSprop(p, lr=0.01, momentum=0.5),
]


def _train(make: Any, steps: int, graphed: bool, set_to_none: bool = True) -> list[float]:
    """Losses of a net with dropout, clipped gradients and a rate that changes: the first step eagerly, beside."""
    tl.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Dropout(0.25), nn.Linear(12, 3)).cuda()
    rate = tl.tensor(0.05, device="cuda")
    optimizer = make(model.parameters(), rate)
    x, y = tl.zeros(6, 8, device="cuda"), tl.tensor([0, 1, 2, 0, 1, 2], device="cuda")

    def step() -> tl.Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    side = tl.cuda.Stream()
    side.wait_stream(tl.cuda.current_stream())
    with tl.cuda.stream(side):
        losses = [step().item()]
    tl.cuda.current_stream().wait_stream(side)
    graph, loss = tl.cuda.CUDAGraph(), None
    if graphed:
        with tl.cuda.graph(graph):
            loss = step()
    for i in range(1, steps):
        rate.fill_(0.05 / i)
        x.copy_(tl.randn(6, 8))
        if loss is None:
            losses.append(step().item())
        else:
            graph.replay()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_a_captured_training_step(nvidia: Simulation, number: int) -> None:
    eager = _train(OPTIMIZERS[number], 4, False)
    assert _train(OPTIMIZERS[number], 4, True) == eager and len(set(eager)) == 4


def test_gradients_that_are_kept(sim: Simulation) -> None:
    assert _train(OPTIMIZERS[2], 3, True, False) == _train(OPTIMIZERS[2], 3, False, False)


def _draw() -> list[tl.Tensor]:
    x = tl.ones(40, device="cuda")
    q = tl.ones(1, 1, 8, 16, device="cuda")
    other = tl.zeros(5, device="cuda")
    return [
        F.dropout(x, 0.5), tl.rand(7, device="cuda"), tl.randn(6, device="cuda", dtype=tl.float64),
        tl.randint(0, 100, (9,), device="cuda"), tl.bernoulli(x * 0.5), other.normal_(), tl.rand(3),
        F.scaled_dot_product_attention(q, q, q, dropout_p=0.5), tl.rand_like(x), tl.randperm(9, device="cuda"),
        tl.multinomial(x, 3), tl.multinomial(x, 50, True),
    ]  # fmt: skip


def test_random_numbers_are_those_of_eager_calls(sim: Simulation) -> None:
    _draw()
    tl.manual_seed(11)
    eager = [[t.cpu() for t in _draw()] for _ in range(3)]
    after = tl.get_rng_state()
    tl.manual_seed(11)
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        out = _draw()
    tl.manual_seed(11)
    for want in eager:
        graph.replay()
        for i, (mine, theirs) in enumerate(zip(out, want, strict=True)):
            if mine.is_cuda:
                assert tl.equal(mine.cpu(), theirs), i
    assert tl.equal(tl.get_rng_state(), after)


def test_generators_of_ones_own_and_checkpoints(nvidia: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_ROWS", 4)
    mine = tl.Generator().manual_seed(1 << 63)
    drawn = [tl.rand(4, device="cuda", generator=mine) for _ in range(11)]
    mine.manual_seed(1 << 63)
    graph, twice = tl.cuda.CUDAGraph(), tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        out = [tl.rand(4, device="cuda", generator=mine) for _ in range(10)]  # more than one table holds
    graph.replay()
    assert tl.equal(tl.stack(out), tl.stack(drawn[:10]))
    assert tl.equal(tl.rand(4, device="cuda", generator=mine), drawn[10])
    x = tl.ones(64, device="cuda", requires_grad=True)

    def forward() -> tl.Tensor:
        return tl.utils.checkpoint.checkpoint(lambda t: F.dropout(t, 0.5), x, use_reentrant=False)

    with tl.cuda.graph(twice):  # the backward pass draws the mask of the forward pass again
        y = forward()
        (grad,) = tl.autograd.grad(y.sum(), x)
    for _ in range(2):
        twice.replay()
        assert tl.equal(y.detach(), grad) and 0 < (grad == 0).sum().item() < 64
    with pytest.raises(CaptureError, match="randomness='different'"), tl.cuda.graph(tl.cuda.CUDAGraph()):
        tl.vmap(lambda t: F.dropout(t, 0.5), randomness="different")(x.detach().view(2, 32))
    with tl.cuda.graph(tl.cuda.CUDAGraph()):
        assert tl.vmap(lambda t: F.dropout(t, 0.5), randomness="same")(x.detach().view(2, 32)).shape == (2, 32)
    with pytest.raises(CaptureError, match="the generator was seeded or set back"), tl.cuda.graph(tl.cuda.CUDAGraph()):
        tl.rand(2, device="cuda", generator=mine)
        mine.manual_seed(4)
        tl.rand(2, device="cuda", generator=mine)


def test_inputs_are_read_anew_and_constants_stay(sim: Simulation) -> None:
    source, x = tl.arange(8.0).pin_memory(), tl.zeros(8, device="cuda")
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        x.copy_(source, non_blocking=True)
        y = x.mul(2)
        y[3] = 7.0
        y += tl.tensor([1.0] * 8, device="cuda")
        side = tl.cuda.Stream()
        side.wait_stream(tl.cuda.current_stream())
        with tl.cuda.stream(side):
            z = y + 1
        tl.cuda.current_stream().wait_stream(side)
        host = z.to("cpu", non_blocking=True)
    for k in (1.0, 2.0):
        source.fill_(k)
        graph.replay()
        tl.cuda.synchronize()
        assert host.tolist() == [2 * k + 2] * 3 + [9.0] + [2 * k + 2] * 4


def test_a_graph_keeps_its_memory(sim: Simulation) -> None:
    x = tl.arange(300.0, device="cuda")
    first, second = tl.cuda.CUDAGraph(), tl.cuda.CUDAGraph()
    with tl.cuda.graph(first):
        y = x * 2
        for _ in range(3):
            y = y + 1  # the memory of what is dropped is used again within the graph
    with tl.cuda.graph(second, pool=first.pool()):
        z = y * 10
    others = [tl.full((300,), 9.0, device="cuda") for _ in range(5)]
    first.replay()
    second.replay()
    assert z[:3].tolist() == [30.0, 50.0, 70.0] and all((o == 9).all().item() for o in others)
    pool = first.pool()
    assert any(s["segment_pool_id"] == pool for s in tl.cuda.memory_snapshot())
    first.reset()
    del y, z
    assert any(s["segment_pool_id"] == pool for s in tl.cuda.memory_snapshot())
    second.reset()
    tl.cuda.empty_cache()
    assert not any(s["segment_pool_id"] == pool for s in tl.cuda.memory_snapshot())
    with pytest.raises(DeviceError, match="without a preceding successful capture"):
        first.replay()
    with tl.cuda.graph(first):  # after reset it may be used again
        w = x + 1
    first.replay()
    assert w[0].item() == 1
    live = sim.live("exec")
    del first
    gc.collect()
    assert sim.live("exec") == live - 1


def test_graph_objects(nvidia: Simulation, tmp_path: Path) -> None:
    x = tl.ones(3, device="cuda")
    graph = tl.cuda.CUDAGraph(keep_graph=True)
    with tl.cuda.graph(graph, stream=tl.cuda.Stream(priority=-1), capture_error_mode="thread_local"):
        assert tl.cuda.is_current_stream_capturing() and tl.cuda.current_stream().is_capturing()
        y = x + 1
    assert not tl.cuda.is_current_stream_capturing() and graph.raw_cuda_graph()
    with pytest.raises(DeviceError, match="instantiate"):
        graph.raw_cuda_graph_exec()
    graph.replay()
    assert graph.raw_cuda_graph_exec() and y.tolist() == [2.0] * 3
    with pytest.warns(UserWarning, match="debug not enabled"):
        tl.cuda.CUDAGraph().debug_dump(str(tmp_path / "no.dot"))
    shown = tl.cuda.CUDAGraph()
    shown.enable_debug_mode()
    with tl.cuda.graph(shown):
        x.add_(1)
    shown.debug_dump(str(tmp_path / "graph.dot"))
    assert (tmp_path / "graph.dot").exists()
    with pytest.raises(DeviceError, match="already owns a captured graph"), tl.cuda.graph(shown):
        pass
    with pytest.raises(DeviceError, match="on a non-default stream"):
        tl.cuda.CUDAGraph().capture_begin()
    with pytest.raises(ArgumentError, match="Unknown capture error mode"):
        tl.cuda.CUDAGraph().capture_begin(capture_error_mode="strict")
    with pytest.raises(DeviceError, match="no capture was begun"):
        tl.cuda.CUDAGraph().capture_end()
    assert tl.cuda.graph_pool_handle() != tl.cuda.graph_pool_handle()
    with pytest.raises(CaptureError, match="captures a graph already"), tl.cuda.graph(tl.cuda.CUDAGraph()):
        tl.cuda.CUDAGraph().capture_begin()
    mine = tl.accelerator.Graph(capture_error_mode="relaxed")
    with tl.Stream(), mine:
        x.mul_(2)
    mine.replay()
    tl.accelerator.synchronize()
    assert x.tolist() == [2.0] * 3  # `shown` was never replayed
    with pytest.raises(ArgumentError, match="capture_error_mode"):
        tl.accelerator.Graph(capture_error_mode="strict")


REFUSED: list[tuple[Callable[[tl.Tensor], object], str]] = [
    (lambda x: x.sum().item(), "^item: reading"),
    (lambda x: bool(x[0]), "^item: reading"),
    (lambda x: x.tolist(), "^tolist: reading"),
    (lambda x: x.numpy(force=True), "^numpy: reading"),
    (lambda x: repr(x), "reading from the GPU"),
    (lambda x: x.cpu(), "reading from the GPU"),
    (lambda x: x.nonzero(), "^nonzero: reading"),
    (lambda x: x[x > 0], "reading from the GPU"),
    (lambda x: x.unique(), "reading from the GPU"),
    (lambda x: tl.bincount(x.long()), "reading from the GPU"),
    (lambda x: tl.ones(4).cuda(), "copying from the CPU to the GPU: .*pin_memory"),
    (lambda x: x.copy_(tl.ones(4)), "copying from the CPU to the GPU"),
    (lambda x: x.to("cuda:1"), "copying from one GPU to another"),
    (lambda x: tl.cuda.synchronize(), "^synchronize: not permitted"),
    (lambda x: tl.cuda.current_stream().synchronize(), "^Stream.synchronize: not permitted"),
    (lambda x: tl.cuda.current_stream().query(), "^Stream.query: not permitted"),
    (lambda x: tl.cuda.current_stream().record_event().synchronize(), "^Event.synchronize: not permitted"),
]


def test_what_cannot_be_recorded_is_an_error_that_loses_nothing(nvidia: Simulation) -> None:
    x = tl.arange(4.0, device="cuda")
    state, reserved = tl.get_rng_state(), None
    for act, match in REFUSED:
        graph = tl.cuda.CUDAGraph()
        with pytest.raises(CaptureError, match=match), tl.cuda.graph(graph):
            y = F.dropout(x + 1, 0.5)
            act(x)
        del y
        assert not tl.cuda.is_current_stream_capturing() and tl.cuda.current_stream().cuda_stream == 0
        assert tl.equal(tl.get_rng_state(), state) and nvidia.live("graph") == nvidia.live("exec") == 0
        with pytest.raises(DeviceError, match="without a preceding successful capture"):
            graph.replay()
        assert (x * 2).tolist() == [0.0, 2.0, 4.0, 6.0]
        tl.cuda.empty_cache()
        reserved = reserved or tl.cuda.memory_reserved()
        assert tl.cuda.memory_reserved() == reserved
        with tl.cuda.graph(graph):
            z = x + 5
        graph.replay()
        assert z.tolist() == [5.0, 6.0, 7.0, 8.0]
        del z, graph


def test_a_capture_that_the_driver_refuses(nvidia: Simulation) -> None:
    x = tl.ones(3, device="cuda")
    x + 1
    graph = tl.cuda.CUDAGraph()
    with pytest.raises(DeviceError, match="CAPTURE_INVALIDATED"), tl.cuda.graph(graph):
        x + 1
        with pytest.raises(DriverError, match="CAPTURE_UNSUPPORTED"):  # another library asks for what is not allowed
            x._array.device.engine.driver.synchronize()
    nvidia.fail("cuGraphInstantiateWithFlags", 2)
    with pytest.raises(DeviceError, match="OUT_OF_MEMORY"), tl.cuda.graph(graph):
        x + 1
    nvidia.fail("cuStreamBeginCapture_v2", 1)
    with pytest.raises(DeviceError, match="INVALID_VALUE"), tl.cuda.graph(graph):
        x + 1
    with tl.cuda.graph(graph):
        y = x + 1
    graph.replay()
    assert y.tolist() == [2.0] * 3


def test_optimizers_that_a_graph_cannot_hold(nvidia: Simulation) -> None:
    p = tl.ones(3, device="cuda", requires_grad=True)
    p.grad = tl.ones(3, device="cuda")
    for make, match in (
        (tl.optim.Adam, "run one step, on a side stream, before the capture"),
        (tl.optim.RMSprop, "run one step, on a side stream, before the capture"),
        (tl.optim.NAdam, "run one step, on a side stream, before the capture"),
        (tl.optim.Adafactor, "count of steps is on the host"),
    ):
        optimizer = make([p])
        with pytest.raises(CaptureError, match=match), tl.cuda.graph(tl.cuda.CUDAGraph()):
            optimizer.step()
        optimizer.step()  # nothing is left of the attempt
        assert optimizer.state[p]
    optimizer = tl.optim.SGD([p], lr=0.1)
    scaler = tl.GradScaler("cuda")
    with pytest.raises(CaptureError, match="before the capture"), tl.cuda.graph(tl.cuda.CUDAGraph()):
        scaler.scale(p.sum())


def test_another_thread_works_on(nvidia: Simulation) -> None:
    x, found = tl.ones(1000, device="cuda"), []
    x + 1
    tl.cuda.synchronize()

    def other() -> None:
        with tl.cuda.stream(tl.cuda.Stream()):
            found.append((tl.ones(1000, device="cuda") * tl.rand(1000, device="cuda")).sum().item())

    other()
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph, capture_error_mode="thread_local"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        y = x + 1
    graph.replay()
    assert len(found) == 2 and all(400 < total < 600 for total in found) and y.sum().item() == 2000


def test_functions_as_graphs(nvidia: Simulation) -> None:
    tl.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).cuda()
    module = copy.deepcopy(plain)
    graphed = tl.cuda.make_graphed_callables(module, (tl.randn(3, 4, device="cuda", requires_grad=True),))
    assert graphed is module
    for _ in range(2):
        a = tl.randn(3, 4, device="cuda", requires_grad=True)
        b = a.detach().clone().requires_grad_()
        for net, x in ((graphed, a), (plain, b)):
            net.zero_grad()
            net(x).square().sum().backward()
        assert tl.equal(a.grad, b.grad)
        assert all(tl.equal(p.grad, q.grad) for p, q in zip(module.parameters(), plain.parameters(), strict=True))
    graphed.eval()
    assert tl.equal(graphed(a), plain(a))
    sample = (tl.ones(3, device="cuda"),)
    double, both = tl.cuda.make_graphed_callables((lambda t: t * 2, lambda t: (t + 1, t.neg())), (sample, sample))
    assert double(tl.arange(3.0, device="cuda")).tolist() == [0.0, 2.0, 4.0]
    assert [t.tolist() for t in both(tl.arange(3.0, device="cuda"))] == [[1.0, 2.0, 3.0], [0.0, -1.0, -2.0]]
    with pytest.raises(TypeError, match="must contain only Tensors"):
        tl.cuda.make_graphed_callables(lambda t: t, (3.0,))
    with pytest.raises(ArgumentError, match="got 2 tensors"):
        double(*sample, *sample)
    hooked = nn.Linear(4, 2).cuda()
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(AssertionError, match="must not have hooks"):
        tl.cuda.make_graphed_callables(hooked, (tl.ones(1, 4, device="cuda"),))
