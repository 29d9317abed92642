"""Losses beside PyTorch's stored values, and what no declaration implies."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.nn import functional as F
from tensorlib.testing import assert_close

LOGITS = [[1.0, 2.0, -1.0], [0.5, -3.0, 2.0], [4.0, 0.0, 0.0]]


def test_cross_entropy_with_weights_and_smoothing() -> None:
    x = tl.tensor(LOGITS, requires_grad=True)
    loss = F.cross_entropy(x, tl.tensor([1, 2, 0]), weight=tl.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.46364665031433105, rel=1e-6)
    loss.backward()
    expected = [
        [0.13258139789104462, -0.14705128967761993, 0.01446994487196207],
        [0.019849933683872223, -0.018160609528422356, -0.0016893368447199464],
        [0.013544991612434387, -0.013915364630520344, 0.0003703502006828785],
    ]
    assert_close(x.grad, tl.tensor(expected), rtol=1e-5, atol=1e-7)


def test_other_class_losses() -> None:
    x = tl.tensor(LOGITS)
    p = tl.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])
    assert F.cross_entropy(x, p).item() == pytest.approx(2.4639651775360107, rel=1e-6)
    logp = x.log_softmax(1)
    assert F.nll_loss(logp, tl.tensor([1, -100, 0])).item() == pytest.approx(0.19249427318572998, rel=1e-6)
    assert F.kl_div(logp, p, reduction="batchmean").item() == pytest.approx(1.907736897468567, rel=1e-6)


def test_binary_losses() -> None:
    loss = F.binary_cross_entropy(tl.tensor([0.0, 1.0, 0.25]), tl.tensor([1.0, 1.0, 0.0]), reduction="none")
    assert_close(loss, tl.tensor([100.0, 0.0, 0.28768205642700195]), rtol=1e-6, atol=1e-7)
    x, t = tl.tensor([-200.0, 3.0, 0.0]), tl.tensor([1.0, 1.0, 0.0])
    loss = F.binary_cross_entropy_with_logits(x, t, pos_weight=tl.tensor(2.0))
    assert loss.item() == pytest.approx(133.59677124023438, rel=1e-6)
    with pytest.raises(ValueError, match="between 0 and 1"):
        F.binary_cross_entropy(x, t)


def test_regression_losses() -> None:
    a, b = tl.tensor([-2.0, 0.25, 3.0]), tl.zeros(3)
    assert F.huber_loss(a, b, delta=0.5).item() == pytest.approx(0.7604166865348816)
    assert F.smooth_l1_loss(a, b, beta=0.5).item() == pytest.approx(1.5208333730697632)
    assert F.mse_loss(a, b).item() == pytest.approx(4.354166507720947)
    assert F.l1_loss(a, b, reduction="sum").item() == 5.25
    with pytest.warns(UserWarning, match="different to the input size"):
        F.mse_loss(a, tl.zeros(1))


@pytest.mark.parametrize("target", [3, -1])
def test_a_class_out_of_range(target: int) -> None:
    with pytest.raises(IndexError, match=f"Target {target} is out of bounds"):
        F.cross_entropy(tl.tensor(LOGITS), tl.tensor([0, target, 1]))
    on_device = F.cross_entropy(tl.tensor(LOGITS).to("interpret"), tl.tensor([0, target, 1]).to("interpret"))
    assert math.isnan(on_device.item())


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_nothing_but_ignored_targets(device: str) -> None:
    """The mean of nothing is NaN, its gradient 0: as PyTorch has it."""
    leaf = tl.tensor(LOGITS, requires_grad=True)
    target = tl.full((3,), -100).to(device)
    loss = F.cross_entropy(leaf.to(device), target)
    assert math.isnan(loss.item())
    loss.backward()
    assert leaf.grad.tolist() == [[0.0] * 3] * 3
    assert F.cross_entropy(leaf.to(device), target, reduction="sum").item() == 0


def test_masked_logits_in_a_first_block() -> None:
    """A block of -inf before the first finite logit does not poison the running maximum."""
    x = np.full((2, 5000), -np.inf, np.float32)
    x[:, 4500:] = 1.0
    for device in ("cpu", "interpret"):
        loss = F.cross_entropy(tl.tensor(x).to(device), tl.tensor([4600, 4999]).to(device))
        assert loss.item() == pytest.approx(math.log(500), rel=1e-6)


def test_second_order() -> None:
    """Through the composite: the Hessian of log-sum-exp is diag(p) - p pᵀ."""
    x = tl.tensor([[0.3, -1.0, 2.0]], dtype=tl.float64, requires_grad=True)
    (g,) = tl.autograd.grad(F.cross_entropy(x, tl.tensor([1])), [x], create_graph=True)
    (h,) = tl.autograd.grad(g[0, 0], [x])
    p = np.exp(x.detach().numpy()[0])
    p /= p.sum()
    np.testing.assert_allclose(h.numpy()[0], p[0] * (np.eye(3)[0] - p), rtol=1e-12)


def test_weight_takes_no_gradient() -> None:
    w = tl.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        F.cross_entropy(tl.tensor(LOGITS), tl.tensor([0, 1, 2]), weight=w)


@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy", "nll_loss", "kl_div", "huber_loss"])
def test_unknown_reduction(name: str) -> None:
    with pytest.raises(ValueError, match="not a valid value for reduction"):
        getattr(F, name)(tl.tensor(LOGITS), tl.tensor(LOGITS), reduction="average")
