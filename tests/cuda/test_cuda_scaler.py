"""Loss scaling asks nothing of the host: captured, a step with an infinity changes nothing and halves the scale."""

from __future__ import annotations

from typing import Any

import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib.errors import CaptureError

INPUTS = [
    [1.0, -2.0, 0.5], [float("inf"), 1.0, 1.0], [0.25, 1.0, -1.0], [2.0, 0.0, 1.0], [1.0, float("nan"), 3.0],
    [1.0, 1.0, 1.0],
]  # fmt: skip
SCALES = [8.0, 4.0, 4.0, 8.0, 4.0, 4.0]

#: Optimizer, and the parameter after the second and the last step of PyTorch 2.13 on the CPU.
CASES: list[tuple[Any, list[float], list[float]]] = [
    (lambda p: tl.optim.Adam(p, lr=0.1), [0.9, 2.1, 2.9], [0.6426317691802979, 2.1388607025146484, 2.8681833744049072]),
    (lambda p: tl.optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True), [0.89, 2.08, 2.87],
     [0.6087126731872559, 2.0563368797302246, 2.7524282932281494]),
    (lambda p: tl.optim.SGD(p, lr=0.1), [0.9, 2.2, 2.95], [0.574999988079071, 2.000000238418579, 2.8500001430511475]),
    (lambda p: tl.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5), [0.9, 2.2, 2.95],
     [0.3822249472141266, 2.502300262451172, 2.8185501098632812]),
]  # fmt: skip


class Training:
    """A parameter, its optimizer and scaler on a device, and the step that may be captured."""

    def __init__(self, make: Any, device: str) -> None:
        self.p = tl.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
        self.x = tl.tensor(INPUTS[0], device=device)
        self.optimizer = make([self.p])
        self.scaler = tl.GradScaler(device, init_scale=8.0, growth_interval=2)

    def step(self) -> None:
        """Forward, backward, unscale, update the parameter unless a gradient is infinite, adapt the scale."""
        self.optimizer.zero_grad()
        self.scaler.scale((self.p * self.x).sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _check(training: Training, i: int, second: list[float], last: list[float]) -> None:
    assert training.scaler.get_scale() == SCALES[i]
    if i in (0, 1, len(INPUTS) - 1):
        wanted = tl.tensor(last if i > 1 else second)
        assert tl.allclose(training.p.detach().cpu(), wanted, rtol=2e-6), i


@pytest.mark.parametrize("number", range(len(CASES)))
def test_as_pytorch_scales(sim: Simulation, number: int) -> None:
    make, second, last = CASES[number]
    host, device = Training(make, "cpu"), Training(make, "cuda")
    for i, x in enumerate(INPUTS):
        for training in (host, device):
            training.x.copy_(tl.tensor(x))
            training.step()
            _check(training, i, second, last)
    assert device.scaler.state_dict() == host.scaler.state_dict() and host.scaler.state_dict()["_growth_tracker"] == 1


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_captured_step(sim: Simulation, number: int) -> None:
    make, second, last = CASES[number]
    training = Training(make, "cuda")
    side = tl.cuda.Stream()
    side.wait_stream(tl.cuda.current_stream())
    with tl.cuda.stream(side):
        training.step()
    tl.cuda.current_stream().wait_stream(side)
    graph = tl.cuda.CUDAGraph()
    with tl.cuda.graph(graph):
        training.step()
    for i, x in enumerate(INPUTS):
        if i:
            training.x.copy_(tl.tensor(x))
            graph.replay()
        _check(training, i, second, last)


def test_no_step_waits(nvidia: Simulation) -> None:
    training = Training(CASES[0][0], "cuda")
    training.step()
    tl.cuda.synchronize()
    before = nvidia.count("cuStreamSynchronize")
    for x in INPUTS[1:]:
        training.x.copy_(tl.tensor(x))
        training.step()
    assert nvidia.count("cuStreamSynchronize") == before
    _check(training, len(INPUTS) - 1, *CASES[0][1:])


def test_dampening_begins_with_the_first_step_that_counts(nvidia: Simulation) -> None:
    host, device = (Training(CASES[3][0], name) for name in ("cpu", "cuda"))
    for x in (INPUTS[1], INPUTS[0], INPUTS[2]):
        for training in (host, device):
            training.x.copy_(tl.tensor(x))
            training.step()
    assert tl.allclose(host.p, device.p.cpu())


def test_gradients_by_hand_of_several_optimizers(sim: Simulation) -> None:
    p, q = (tl.ones(2, 3, device="cuda", dtype=kind, requires_grad=True) for kind in (tl.float32, tl.float64))
    scaler = tl.GradScaler("cuda", init_scale=4.0)
    first, second = tl.optim.SGD([p, q], lr=1.0), tl.optim.Muon([p])
    scaler.scale(p.sum() + q.sum()).backward()
    q.grad[1, 2] = float("inf")
    scaler.unscale_(first)
    assert tl.equal(p.grad.cpu(), tl.ones(2, 3)) and q.grad[0, 0].item() == 1
    scaler.step(first)  # one flag for all of an optimizer's parameters
    assert p.sum().item() == q.sum().item() == 6
    p.grad = tl.full((3, 2), 4.0, device="cuda").T
    scaler.step(second)  # its own gradients are good; the host looks
    assert p.sum().item() < 6 and tl.equal(p.grad.cpu(), tl.ones(2, 3))
    scaler.update()
    assert scaler.get_scale() == 2.0
    scaler.scale(p.sum()).backward()
    with pytest.raises(CaptureError, match="Muon has the host read"), tl.cuda.graph(tl.cuda.CUDAGraph()):
        scaler.step(second)


def test_the_protocol_of_optimizers_of_ones_own(nvidia: Simulation) -> None:
    seen = []

    class Own(tl.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params)
            self._step_supports_amp_scaling = True

        def step(self, closure: Any = None) -> None:
            seen.append((self.grad_scale, self.found_inf.item()))

    class Plain(tl.optim.SGD):
        def step(self, closure: Any = None) -> None:
            seen.append("plain")

    p = tl.ones(2, device="cuda", requires_grad=True)
    for kind in (Own, Plain):
        optimizer, scaler = kind([p]), tl.GradScaler("cuda")
        scaler.scale(p.sum() * float("inf")).backward()
        scaler.step(optimizer)
        assert not hasattr(optimizer, "found_inf")
    assert seen == [(None, 1.0)]
