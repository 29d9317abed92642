"""Running statistics, shapes and precision of the normalizations, on the CPU and through the kernels."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as T
from tensorlib.errors import ArgumentError, ShapeError

F = T.nn.functional


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_batch_norm_updates_running_statistics(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32) * 2 + 1
    mean, var = T.zeros(3, device=device), T.ones(3, device=device)
    out = F.batch_norm(T.tensor(x).to(device).requires_grad_(), mean, var, None, None, True, 0.3)
    assert out.requires_grad and not mean.requires_grad
    np.testing.assert_allclose(mean.cpu().numpy(), 0.3 * x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(var.cpu().numpy(), 0.7 + 0.3 * x.var((0, 2), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(out.detach().cpu().numpy().mean((0, 2)), 0, atol=1e-6)
    evaluated = F.batch_norm(T.tensor(x).to(device), mean, var, training=False).cpu().numpy()
    m, v = mean.cpu().numpy()[:, None], var.cpu().numpy()[:, None]
    np.testing.assert_allclose(evaluated, (x - m) / np.sqrt(v + 1e-5), rtol=1e-4, atol=1e-5)


def test_instance_norm_updates_running_statistics() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    mean, var = T.zeros(3), T.ones(3)
    F.instance_norm(T.tensor(x), mean, var, use_input_stats=True, momentum=0.3)
    np.testing.assert_allclose(mean.numpy(), 0.3 * x.mean(2).mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var.numpy(), 0.7 + 0.3 * x.var(2, ddof=1).mean(0), rtol=1e-5)


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="more than 1 value per channel"):
        F.batch_norm(T.ones(1, 3), None, None, training=True)
    with pytest.raises(ShapeError, match="running_mean"):
        F.batch_norm(T.ones(2, 3), None, None)
    with pytest.raises(ShapeError, match="3 elements not 4"):
        F.batch_norm(T.ones(2, 3), T.ones(4), T.ones(3))
    with pytest.raises(ShapeError, match=r"normalized_shape=\[5\]"):
        F.layer_norm(T.ones(2, 3), (5,))


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("n", [64, 9001])
def test_layer_norm_far_from_zero(device: str, n: int) -> None:
    """The variance is that of the distances from the mean: 1e4 away, where float32 steps by 1e-3."""
    x = np.random.default_rng(0).standard_normal((3, n)).astype(np.float32) + 1e4
    exact = x.astype(np.float64)
    want = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    got = F.layer_norm(T.tensor(x).to(device), (n,), eps=0.0).cpu().numpy()
    np.testing.assert_allclose(got, want, rtol=4e-3, atol=4e-3)


def test_rms_norm_epsilon_is_that_of_float32_for_half_types() -> None:
    tiny = T.full((4,), 2.0**-12, dtype=T.float16)
    assert F.rms_norm(tiny, (4,)).tolist()[0] == pytest.approx(2**-12 / np.sqrt(2**-24 + 2**-23), rel=1e-3)


@pytest.mark.parametrize("n", [40, 8200])
def test_gradients_of_the_kernels(n: int) -> None:
    """Rows in one block and in several, weight and bias summed over many programs: as on the CPU."""
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((300 if n == 40 else 3, n)), rng.standard_normal(n), rng.standard_normal(n)
    g = rng.standard_normal(x.shape).astype(np.float32)
    found = {}
    for device in ("cpu", "interpret"):
        leaves = [T.tensor(a.astype(np.float32)).to(device).requires_grad_() for a in (x, w, b)]
        F.layer_norm(leaves[0], (n,), leaves[1], leaves[2]).backward(T.tensor(g).to(device))
        layer = [t.grad.cpu().numpy() for t in leaves]
        for t in leaves:
            t.grad = None
        F.rms_norm(leaves[0], (n,), leaves[1], 1e-6).backward(T.tensor(g).to(device))
        found[device] = [*layer, *(t.grad.cpu().numpy() for t in leaves[:2])]
    for a, c in zip(found["interpret"], found["cpu"], strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-4)
