"""Identities and limits of softmax on every path: one block, several blocks, rows that lie across memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import tensorlib as T

F = T.nn.functional


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("shape", [(3, 7), (2, 8200), (300, 2)])
@pytest.mark.parametrize("dim", [0, 1])
def test_agrees_with_scipy(device: str, shape: tuple[int, int], dim: int) -> None:
    x = (5 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    t = T.tensor(x).to(device)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(t.softmax(dim).cpu().numpy(), special.softmax(exact, dim), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(t.log_softmax(dim).cpu().numpy(), special.log_softmax(exact, dim), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("n", [4, 9000])
def test_masked_rows(device: str, n: int) -> None:
    """-inf has weight 0, wherever it stands; a row of nothing else is NaN, as in PyTorch."""
    x = np.full((3, n), -np.inf, np.float32)
    x[0, -1] = 0
    x[1, 0] = 88
    out = T.tensor(x).to(device).softmax(1).cpu().numpy()
    assert out[0, -1] == 1 and out[0, :-1].max() == 0
    assert out[1, 0] == 1 and out[1, 1:].max() == 0
    assert np.isnan(out[2]).all()


def test_dtype_and_stacklevel() -> None:
    x = T.tensor([1.0, 2.0], dtype=T.bfloat16)
    assert F.softmax(x, dim=0, _stacklevel=5, dtype=T.float32).dtype is T.float32
    assert T.log_softmax(T.tensor([1, 2]), 0, dtype=T.float64).dtype is T.float64
    assert x.softmax(axis=-1).dtype is T.bfloat16


def test_gradient_of_logsumexp_is_softmax() -> None:
    x = T.tensor([[1.0, 2, 3], [0, 0, 0]], requires_grad=True)
    x.logsumexp(1).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), x.softmax(1).detach().numpy(), rtol=1e-6)
