"""Captured graphs: replays see new inputs, draw new random numbers, and train as eager steps do."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as T
from tensorlib import nn
from tensorlib.errors import DeviceError


def captured(function, warm=2):
    """(graph, what the function returned while it was recorded)."""
    side = T.cuda.Stream()
    side.wait_stream(T.cuda.current_stream())
    with T.cuda.stream(side):
        for _ in range(warm):
            function()
    T.cuda.current_stream().wait_stream(side)
    graph = T.cuda.CUDAGraph()
    with T.cuda.graph(graph):
        out = function()
    return graph, out


def test_replays_read_their_inputs_anew():
    x = T.zeros(1000, device="cuda")
    graph, out = captured(lambda: T.softmax(x.view(10, 100) * 2 + 1, dim=1).sum(0))
    for seed in range(3):
        new = T.from_numpy(np.random.default_rng(seed).standard_normal(1000).astype(np.float32))
        x.copy_(new)
        graph.replay()
        want = T.softmax(new.view(10, 100) * 2 + 1, dim=1).sum(0)
        np.testing.assert_allclose(out.cpu().numpy(), want.numpy(), rtol=1e-4, atol=1e-6)


def test_replays_draw_on():
    """Each replay draws what eager calls would draw now."""
    T.manual_seed(5)
    graph, out = captured(lambda: T.rand(64, device="cuda"))
    T.manual_seed(7)
    found = []
    for _ in range(3):
        graph.replay()
        found.append(out.cpu().numpy())
    T.manual_seed(7)
    for values in found:
        np.testing.assert_array_equal(values, T.rand(64, device="cuda").cpu().numpy())


def test_memory_of_a_graph_is_its_own():
    """Tensors made between replays do not overwrite what the graph works in."""
    x = T.ones(5000, device="cuda")

    def function():
        y = x
        for _ in range(5):
            y = y + x
        return y

    graph, out = captured(function)
    for i in range(3):
        others = [T.full((5000,), float(i), device="cuda") for _ in range(8)]
        graph.replay()
        assert bool((out == 6).all()) and all(bool((o == i).all()) for o in others)


def test_host_reads_are_refused_while_capturing():
    x = T.ones(10, device="cuda")
    graph = T.cuda.CUDAGraph()
    with pytest.raises(DeviceError, match="captured"), T.cuda.graph(graph):
        (x + 1).sum().item()
    assert float((x + 1).sum()) == 20  # and the GPU is as usable as before


def step_of(model, optimizer, x, y):
    def step():
        optimizer.zero_grad(set_to_none=False)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("make", ["SGD", "AdamW"])
def test_a_captured_step_trains_as_an_eager_one(make, small):
    """Forward, backward and optimizer in one graph: the weights after some replays are those of eager steps."""
    width, steps = (16, 3) if small else (512, 10)

    def setup():
        T.manual_seed(0)
        model = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 8)).to("cuda")
        options = {"lr": 0.05, "momentum": 0.9} if make == "SGD" else {"lr": 1e-3, "capturable": True}
        return model, getattr(T.optim, make)(model.parameters(), **options)

    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((32, width)).astype(np.float32), rng.integers(0, 8, 32)) for _ in range(steps)]
    x, y = T.zeros(32, width, device="cuda"), T.zeros(32, dtype=T.int64, device="cuda")
    losses = {}
    for way in ("eager", "captured"):
        model, optimizer = setup()
        step = step_of(model, optimizer, x, y)
        x.copy_(T.from_numpy(batches[0][0]))
        y.copy_(T.from_numpy(batches[0][1]))
        if way == "captured":
            graph, loss = captured(step)
        else:
            for _ in range(2):  # the warm-up's steps; the capture itself makes none
                step()
        losses[way] = []
        for a, b in batches:
            x.copy_(T.from_numpy(a))
            y.copy_(T.from_numpy(b))
            if way == "captured":
                graph.replay()
            else:
                loss = step()
            losses[way].append(float(loss))
    print(losses)
    np.testing.assert_allclose(losses["captured"], losses["eager"], rtol=1e-4)


def test_dropout_in_a_graph():
    """Different elements at each replay, about as many as asked for."""
    x = T.ones(4096, device="cuda")
    graph, out = captured(lambda: nn.functional.dropout(x, 0.25))
    masks = []
    for _ in range(3):
        graph.replay()
        masks.append(out.cpu().numpy() == 0)
        assert 0.2 < masks[-1].mean() < 0.3
    assert (masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()
