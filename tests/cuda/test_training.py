"""Whole training steps "on cuda": the bindings, the allocator and the launches over a simulated driver, kernels in the
interpreter or the native engine behind its launch entry. They must equal the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import simulated

import tensorlib
from tensorlib import nn
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.driver import DeviceFault
from tensorlib.runtime.launch import launch
from tensorlib.runtime.native import codegen
from tensorlib.train.gpt import GPT, VOCABULARY, GPTConfig

VENDORS = pytest.mark.parametrize(("kind", "arch"), [("cuda", "sm_90"), ("hip", "gfx942")])


def batches(n: int):
    stream = tensorlib.Generator().manual_seed(5)
    return [
        (tensorlib.randn(6, 8, generator=stream), tensorlib.randint(0, 4, (6,), generator=stream)) for _ in range(n)
    ]  # fmt: skip


def model() -> nn.Module:
    tensorlib.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Dropout(0.2), nn.Linear(16, 4))


def train(device: str, make_optimizer):
    net = model().to(device)
    optimizer = make_optimizer(net.parameters())
    losses = []
    for x, y in batches(3):
        loss = nn.functional.cross_entropy(net(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach().cpu().numpy() for p in net.parameters()]


def adamw(parameters):
    return tensorlib.optim.AdamW(parameters, lr=1e-2)


def same(found, expected) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@VENDORS
def test_a_training_step_equals_the_cpus(kind, arch):
    expected = train("cpu", adamw)
    with simulated(kind, arch=arch):
        same(train("cuda", adamw), expected)
        assert tensorlib.cuda.memory_allocated() == 0  # nothing of it is left


@VENDORS
def test_a_transformer_trains_as_on_the_cpu(kind, arch):
    """At real sizes, the kernels as machine code behind the launch entry."""
    if not codegen.available():
        pytest.skip("there is no compiler for this processor")

    def losses(device: str):
        tensorlib.manual_seed(0)
        gpt = GPT(GPTConfig(layers=2, heads=4, width=128, block=64)).to(device)
        optimizer = tensorlib.optim.AdamW(gpt.parameters(), lr=1e-3)
        stream = tensorlib.Generator().manual_seed(5)
        for _ in range(3):
            tokens = tensorlib.randint(0, VOCABULARY, (8, 65), generator=stream).to(device)
            loss = nn.functional.cross_entropy(gpt(tokens[:, :-1]).reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    expected = list(losses("cpu"))
    with simulated(kind, arch=arch, launcher="native"):
        np.testing.assert_allclose(list(losses("cuda")), expected, rtol=1e-5)


@VENDORS
def test_a_captured_step_replays_to_the_same_losses(kind, arch):
    def captured(replay: bool):
        net = model().to("cuda")
        lr = tensorlib.tensor(1e-2, device="cuda")
        optimizer = tensorlib.optim.AdamW(net.parameters(), lr=lr, capturable=True)
        x, y = tensorlib.zeros(6, 8, device="cuda"), tensorlib.zeros(6, dtype=tensorlib.int64, device="cuda")

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        def feed(batch):
            x.copy_(batch[0])
            y.copy_(batch[1])

        losses = []
        given = batches(5)
        side = tensorlib.cuda.Stream()
        with tensorlib.cuda.stream(side):
            for batch in given[:2]:  # the warm-up is part of the run
                feed(batch)
                losses.append(step().item())
        tensorlib.cuda.synchronize()
        graph = tensorlib.cuda.CUDAGraph()
        if replay:
            with tensorlib.cuda.graph(graph):
                loss = step()
        for i, batch in enumerate(given[2:]):
            feed(batch)
            lr.fill_(1e-2 / (i + 1))
            if replay:
                graph.replay()
            else:
                loss = step()
            losses.append(loss.item())
        return losses, [p.detach().cpu().numpy() for p in net.parameters()]

    with simulated(kind, arch=arch):
        expected = captured(False)
    with simulated(kind, arch=arch):
        same(captured(True), expected)


@jit
def beyond(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i + 4096 * 1024, i.to(tl.float32))


@jit
def beside(out, x, n, alpha, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * alpha, mask=i < n)


@VENDORS
def test_a_fault_names_the_launches_before_it(kind, arch):
    with simulated(kind, arch=arch) as machine:
        x = tensorlib.ones(10, device="cuda")
        y = x + 1
        launch(beyond, (1,), x._array, BLOCK=16)
        with pytest.raises(DeviceFault, match=r"(?s)illegal.*  beyond on grid \(1,\), arrays \(10,\).*add: pointwise"):
            y.sum().item()
        machine.violations.clear()


def test_a_second_launch_is_found_without_the_slow_way(monkeypatch):
    with simulated("cuda"):
        x, y = tensorlib.ones(4, device="cuda"), tensorlib.ones(4, device="cuda")
        engine = x.device.engine
        launch(beside, (1,), x._array, y._array, 4, 2.0, BLOCK=4)
        monkeypatch.setattr(engine.launchers, "run", None)  # the slow way
        launch(beside, (1,), x._array, y._array, 4, 3.0, BLOCK=4)
        assert x.tolist() == [3.0] * 4
        for other in ({"BLOCK": 8}, {"BLOCK": 4, "num_warps": 1}):
            with pytest.raises(TypeError, match="not callable"):
                launch(beside, (1,), x._array, y._array, 4, 3.0, **other)
        with pytest.raises(TypeError, match="not callable"):  # 1 is compiled in
            launch(beside, (1,), x._array, y._array, 1, 3.0, BLOCK=4)
        with pytest.raises(TypeError, match="not callable"):  # another alignment
            launch(beside, (1,), x._array, y._array[1:], 4, 3.0, BLOCK=4)


def test_a_kernel_that_ran_on_a_gpu_still_runs_elsewhere():
    x = tensorlib.arange(6.0).reshape(2, 3)
    for device in ("interpret", "cuda", "interpret"):
        with simulated("cuda"):
            assert (x.to(device).t() + 1).cpu().tolist() == (x.t() + 1).tolist()
            (x.to("sm_90").t() + 1).sum(0)
