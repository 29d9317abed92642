"""Pooling beyond what its declarations say: PyTorch's choices among NaN, infinities and equals; exact gradients."""

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.nn import functional as F

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_the_last_nan_and_the_first_maximum_are_chosen(device):
    x = tl.tensor([[[1, NAN, 3, NAN], [NAN, 2, 5, 5], [-INF, -INF, 0, -0.0], [-INF, -INF, 0, 0]]], device=device)
    out, where = F.max_pool2d(x, 2, return_indices=True)
    assert where.tolist() == [[[4, 3], [8, 10]]] and where.dtype is tl.int64
    np.testing.assert_array_equal(out.cpu().numpy(), [[[NAN, NAN], [-INF, 0]]])
    out, where = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert where.tolist() == [[[4, 3], [4, 6]]]


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_padding_is_never_chosen(device):
    x = tl.full((1, 3, 3), -INF, device=device)
    assert F.max_pool2d(x, 2, 2, 1, return_indices=True)[1].tolist() == [[[0, 1], [3, 4]]]
    assert F.max_pool2d(x, 2, 1, 1, 2, return_indices=True)[1].tolist() == [[[4, 3, 4], [1, 0, 1], [4, 3, 4]]]


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_gradients_of_overlapping_windows_add_up(device):
    x = tl.tensor([[[1.0, 3, 3, 0], [3, 1, 5, 5], [2, 2, 0, 0], [2, 2, 0, 0]]], device=device).requires_grad_()
    out = F.max_pool2d(x, 3, 2, 1)
    assert out.tolist() == [[[3, 5], [3, 5]]]
    (g,) = tl.autograd.grad(out, [x], tl.tensor([[[1.0, 2], [4, 8]]], device=device))
    assert g.tolist() == [[[0, 1, 0, 0], [4, 0, 10, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]


@pytest.mark.parametrize("stride", [2, 1])
def test_an_infinite_gradient_stays_at_its_element(stride):
    x = tl.tensor([[[1.0, 2, 0], [0, 0, 0], [0, 0, 3]]], requires_grad=True)
    out = F.max_pool2d(x, 2, stride, ceil_mode=True)
    (g,) = tl.autograd.grad(out, [x], tl.full(out.shape, -INF))
    assert np.isneginf(g.numpy()).sum() == np.count_nonzero(g.numpy()) > 0 and not g.isnan().any()


def test_averages_beside_padding_as_pytorch_counts_them():
    x = tl.arange(25.0).reshape(1, 5, 5)
    assert F.avg_pool2d(x, 2, 2, 1, True, False).tolist() == [[[0, 1.5, 3.5], [7.5, 9, 11], [17.5, 19, 21]]]
    assert F.avg_pool2d(x, 2, 2, 1, True, True).tolist() == [[[0, 0.75, 1.75], [3.75, 9, 11], [8.75, 19, 21]]]
    assert F.avg_pool2d(tl.tensor([[[-7, 2], [-3, 1]]]), 2).tolist() == [[[-1]]]  # integers are cut towards zero


def test_windows_that_adapt():
    x = tl.arange(25.0).reshape(1, 5, 5)
    out, where = F.adaptive_max_pool2d(x, (2, 3), return_indices=True)
    assert out.tolist() == where.tolist() == [[[11, 13, 14], [21, 23, 24]]]
    np.testing.assert_allclose(F.adaptive_avg_pool2d(x, (2, 3)).numpy(), [[[5.5, 7, 8.5], [15.5, 17, 18.5]]], rtol=1e-6)


def test_one_dim_is_a_row_of_two():
    x = tl.tensor(np.random.default_rng(0).standard_normal((2, 3, 11), dtype=np.float32))
    out, where = F.max_pool1d(x, 3, 2, 1, return_indices=True)
    assert tl.equal(out, x.gather(-1, where))
    assert tl.equal(F.avg_pool1d(x, 3, 2), F.avg_pool2d(x.unsqueeze(-2), (1, 3), (1, 2)).squeeze(-2))


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_errors_name_the_public_function(name):
    pool = getattr(F, name)
    with pytest.raises(ValueError, match=f"{name}: pad should be at most half of effective kernel size"):
        pool(tl.ones(1, 4, 4), 2, padding=2)
    with pytest.raises(RuntimeError, match=rf"{name}: .*Calculated output size: \(1x0x0\)"):
        pool(tl.ones(1, 4, 4), 5)
    with pytest.raises(RuntimeError, match=f"{name}: Expected 3D or 4D"):
        pool(tl.ones(4, 4), 2)
