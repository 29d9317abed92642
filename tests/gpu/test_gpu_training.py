"""Training on the GPU: the losses of some steps follow those of the same steps on the CPU."""

from __future__ import annotations

import gpt2
import numpy as np
import pytest

import tensorlib as T
from tensorlib import nn

F = nn.functional


def mlp(small, rng):
    n, batch = (12, 8) if small else (256, 128)
    model = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Dropout(0.0), nn.Linear(n, 10))
    data = [(rng.standard_normal((batch, n)).astype(np.float32), rng.integers(0, 10, batch))]
    return model, data, lambda p: T.optim.SGD(p, lr=0.1, momentum=0.9)


def convnet(small, rng):
    size, batch = (8, 2) if small else (28, 64)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    data = [(rng.standard_normal((batch, 1, size, size)).astype(np.float32), rng.integers(0, 10, batch))]
    return model, data, lambda p: T.optim.Adam(p, lr=1e-2)


def gpt(small, rng):
    shape, batch = (gpt2.Shape(1, 16, 2, 8, 11), 2) if small else (gpt2.Shape(3, 128, 4, 128, 256), 8)
    ids = rng.integers(0, shape.vocabulary, (batch, shape.length + 1))
    return gpt2.gpt(T, shape), [(ids[:, :-1], ids[:, 1:])], lambda p: T.optim.AdamW(p, lr=1e-3)


MODELS = {"mlp": mlp, "convnet": convnet, "gpt": gpt}
CASES = {
    "test_losses_follow_the_cpu": lambda: list(MODELS),
    "test_bfloat16_autocast": lambda: ["mlp", "gpt"],
    "test_reruns_are_bit_equal": lambda: ["mlp", "gpt"],
}


def losses(name, device, steps, small, autocast=None):
    rng = np.random.default_rng(0)
    T.manual_seed(0)
    model, data, make = MODELS[name](small, rng)
    model = model.to(device)
    optimizer = make(model.parameters())
    (a, b), found = data[0], []
    x, y = T.from_numpy(np.ascontiguousarray(a)).to(device), T.from_numpy(np.ascontiguousarray(b)).to(device)
    for _ in range(steps):
        optimizer.zero_grad()
        with T.autocast(device, dtype=T.bfloat16, enabled=autocast is not None):
            out = model(x)
            loss = F.cross_entropy(out.reshape(-1, out.shape[-1]).float(), y.reshape(-1))
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return [float(v) for v in found], [p.detach().cpu().numpy() for p in model.parameters()]


def test_losses_follow_the_cpu(case, small):
    steps = 2 if small else 20
    here, there = (losses(case, device, steps, small)[0] for device in ("cpu", "cuda"))
    print(here, there, sep="\n")
    np.testing.assert_allclose(there[:3], here[:3], rtol=1e-4)
    np.testing.assert_allclose(there, here, rtol=2e-2)
    assert there[-1] < there[0]


def test_bfloat16_autocast(case, small):
    """Coarser numbers, the same course."""
    steps = 2 if small else 20
    plain, mixed = losses(case, "cuda", steps, small)[0], losses(case, "cuda", steps, small, "bfloat16")[0]
    print(plain, mixed, sep="\n")
    np.testing.assert_allclose(mixed, plain, rtol=0.1)
    assert mixed[-1] < mixed[0]


def test_reruns_are_bit_equal(case, small):
    """With deterministic algorithms, two runs give the same bits: losses and weights."""
    T.use_deterministic_algorithms(True)
    try:
        runs = [losses(case, "cuda", 2 if small else 6, small) for _ in range(2)]
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        pytest.skip(f"an operator says that it has no fixed order: {error}")
    finally:
        T.use_deterministic_algorithms(False)
    assert runs[0][0] == runs[1][0]
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        assert a.tobytes() == b.tobytes()


def test_gradient_scaler():
    """float16 with a scaled loss: no infinity is stepped into, and the scale falls when one is met."""
    T.manual_seed(0)
    w = T.ones(8, device="cuda", requires_grad=True)
    optimizer = T.optim.SGD([w], lr=0.1)
    scaler = T.amp.GradScaler("cuda", init_scale=2.0**10)
    for bad in (False, True):
        optimizer.zero_grad()
        loss = (w * w).sum() * (float("inf") if bad else 1.0)
        scaler.scale(loss).backward()
        before = w.detach().cpu().tolist()
        scaler.step(optimizer)
        scaler.update()
        assert (w.detach().cpu().tolist() == before) is bad
    assert scaler.get_scale() == 2.0**9


def test_a_captured_step_with_an_infinity_changes_nothing():
    """The flag of an infinity, the scale and the count of steps stay on the GPU."""
    for make in (lambda p: T.optim.Adam(p, lr=0.1), lambda p: T.optim.SGD(p, lr=0.1, momentum=0.9)):
        w, x = T.ones(2000, device="cuda", requires_grad=True), T.ones(2000, device="cuda")
        optimizer, scaler = make([w]), T.amp.GradScaler("cuda", init_scale=8.0)

        def step(w=w, x=x, optimizer=optimizer, scaler=scaler):
            optimizer.zero_grad()
            scaler.scale((w * x).sum()).backward()
            scaler.step(optimizer)
            scaler.update()

        side = T.cuda.Stream()
        side.wait_stream(T.cuda.current_stream())
        with T.cuda.stream(side):
            step()
        T.cuda.current_stream().wait_stream(side)
        graph = T.cuda.CUDAGraph()
        with T.cuda.graph(graph):
            step()
        before = w.detach().clone()
        x[7] = float("inf")
        graph.replay()
        assert T.equal(w.detach(), before) and scaler.get_scale() == 4.0
        x[7] = 1.0
        graph.replay()
        assert not T.equal(w.detach(), before) and scaler.get_scale() == 4.0 and w.isfinite().all().item()


def test_a_checkpoint_moves_between_devices(tmp_path):
    model = nn.Linear(5, 3).to("cuda")
    T.save(model.state_dict(), tmp_path / "model.safetensors")
    other = nn.Linear(5, 3)
    other.load_state_dict(T.load(tmp_path / "model.safetensors", map_location="cpu"))
    x = T.randn(2, 5)
    np.testing.assert_allclose(
        model(x.to("cuda")).detach().cpu().numpy(), other(x).detach().numpy(), rtol=1e-5, atol=1e-6
    )
