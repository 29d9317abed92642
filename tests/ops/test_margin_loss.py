"""Losses of margins, alignments and many classes: the stored numbers are PyTorch's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tensorlib as tl

F = tl.nn.functional

CTC_GRADIENT = [
    0.179965198, 0.178946485, 0.490658727, 0.943466867, 1.353553916, 1.088570807, 0.464246327, 0.295507448, 0.266417704,
    0.175905499, 0.294350713, -0.036791086, 0.025733804, 0.040984354, -0.026492998, 0.083943102, 0.350497838,
    0.175524703, 0.304980548, 0.493126419, 0.420322596, 0, 0, 0,
]  # fmt: skip


def test_the_gradient_of_ctc_is_pytorchs() -> None:
    x = (tl.arange(24.0, dtype=tl.float64).reshape(4, 2, 3) * 0.37).sin().requires_grad_()
    loss = F.ctc_loss(x, tl.tensor([[1, 2], [2, 2]]), (4, 3), (2, 1))
    loss.backward()
    assert loss.item() == pytest.approx(-1.7767979252865465, rel=1e-12)
    np.testing.assert_allclose(x.grad.numpy().reshape(-1), CTC_GRADIENT, atol=1e-8)


def test_ctc_sums_over_all_alignments() -> None:
    frames, classes, labels = 5, 3, [1, 1]
    x = tl.randn(frames, classes, dtype=tl.float64).log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(classes), repeat=frames):
        if [c for c, _ in itertools.groupby(path) if c] == labels:
            total += float(np.exp(sum(x[t, c].item() for t, c in enumerate(path))))
    loss = F.ctc_loss(x, tl.tensor(labels), tl.tensor(frames), tl.tensor(2), reduction="none")
    assert loss.item() == pytest.approx(-np.log(total), rel=1e-10)


def test_ctc_without_an_alignment() -> None:
    x = tl.randn(2, 1, 3).log_softmax(-1).requires_grad_()
    args = (tl.tensor([[1, 2, 1]]), [2], [3])
    assert F.ctc_loss(x, *args).item() == float("inf")
    loss = F.ctc_loss(x, *args, zero_infinity=True)
    loss.backward()
    assert loss.item() == 0 and not x.grad.numpy().any()


def test_targets_out_of_range() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(tl.randn(2, 3), tl.tensor([0, 3]))
    with pytest.raises(IndexError, match="out of bounds"):
        F.nll_loss(tl.randn(2, 3), tl.tensor([0, -1]))
    with pytest.raises(RuntimeError, match="target out of range"):
        F.multi_margin_loss(tl.randn(2, 3), tl.tensor([0, 3]))


def test_adaptive_softmax_is_a_distribution() -> None:
    layer = tl.nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 12])
    x, y = tl.randn(30, 16), tl.arange(30) % 20
    every = layer.log_prob(x)
    np.testing.assert_allclose(every.exp().sum(1).detach().numpy(), 1, rtol=1e-5)
    output, loss = layer(x, y)
    np.testing.assert_allclose(output.detach().numpy(), every.gather(1, y.unsqueeze(1)).squeeze(1).detach().numpy(),
                               rtol=1e-5)  # fmt: skip
    assert loss.item() == pytest.approx(-output.mean().item(), rel=1e-6)
    assert tuple(layer.predict(x).shape) == (30,)


def test_linear_cross_entropy_is_both() -> None:
    x, w, y = tl.randn(6, 4), tl.randn(5, 4), tl.tensor([0, 1, 2, 3, 4, 0])
    want = F.cross_entropy(F.linear(x, w), y, label_smoothing=0.1)
    assert F.linear_cross_entropy(x, w, y, label_smoothing=0.1).item() == pytest.approx(want.item(), rel=1e-6)
    with pytest.raises(ValueError, match="acc_policy"):
        tl.nn.LinearCrossEntropyOptions(acc_policy="none")
