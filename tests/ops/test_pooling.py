"""Pooling beyond what its declarations say: PyTorch's choices among NaN, infinities and equals; exact gradients."""

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.nn import functional as F
from tensorlib.ops import pooling

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


@pytest.mark.parametrize("arguments", [
    (3, None, 0, False), (4, 5, 0, False), (3, 4, 1, False), ((5, 2), (5, 3), 0, False), (3, 3, 1, True),
    (2, 1, 0, False), ((5, 17), None, 0, False),
])  # fmt: skip
def test_few_elements_and_large_windows_take_ways_of_their_own(arguments, monkeypatch):
    """They give what all others give, bit for bit where nothing is summed."""
    results = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(pooling, "_FEW", 0)
            monkeypatch.setattr(pooling, "_LARGE", 1 << 30)
        x = tl.tensor(np.random.default_rng(0).standard_normal((2, 3, 15, 17)), requires_grad=True)
        kernel, stride, padding, ceil = arguments
        out, where = F.max_pool2d(x, kernel, stride, padding, 1, ceil, return_indices=True)
        assert tl.equal(out.flatten(2), x.flatten(2).gather(-1, where.flatten(2)))
        means = F.avg_pool2d(x, kernel, stride, padding, ceil)
        (g,) = tl.autograd.grad(out, [x], tl.arange(out.numel(), dtype=tl.float64).reshape(out.shape))
        (h,) = tl.autograd.grad(means, [x], tl.arange(out.numel(), dtype=tl.float64).reshape(out.shape))
        results.append([out, where, g, means, h])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-13, atol=1e-13)
    for a, b in zip(results[0][:3], results[1][:3], strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


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


@pytest.mark.parametrize("name", ["max_pool3d", "avg_pool3d"])
def test_three_dims_are_two_after_one(name):
    """Maxima of maxima, means of means."""
    x = tl.tensor(np.random.default_rng(1).standard_normal((2, 3, 6, 8, 5)))
    planes = getattr(F, name.replace("3", "2"))(x.flatten(1, 2), (2, 3), (3, 2)).unflatten(1, (3, 6))
    columns = planes.permute(0, 1, 3, 4, 2).flatten(1, 3)
    want = getattr(F, name.replace("3", "1"))(columns, 2).unflatten(1, planes.shape[1:2] + planes.shape[3:])
    np.testing.assert_allclose(getattr(F, name)(x, (2, 2, 3), (2, 3, 2)).numpy(), want.permute(0, 1, 4, 2, 3).numpy())


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_unpooling_puts_maxima_back(dims, device):
    x = tl.tensor(np.random.default_rng(2).standard_normal((2, 3, 7, 6, 5)[: dims + 2]), device=device)
    out, where = getattr(F, f"max_pool{dims}d")(x, 2, return_indices=True)
    back = getattr(F, f"max_unpool{dims}d")(out, where, 2, output_size=x.shape)
    kept = back != 0
    assert tl.equal(back[kept], x[kept]) and kept.sum().item() == out.numel()


def test_fractional_windows_lie_within_and_reach_the_end():
    x = tl.arange(40.0).reshape(1, 1, 40).repeat(1, 40, 1).unsqueeze(0)
    tl.manual_seed(0)
    out, where = F.fractional_max_pool2d(x, (2, 3), (15, 13), return_indices=True)
    assert out.shape == (1, 1, 15, 13) and tl.equal(out, x.flatten(2).gather(-1, where.flatten(2)).reshape(out.shape))
    steps = out[0, 0, 0].diff()
    assert out[0, 0, 0, -1].item() == 39 and steps.min().item() >= 2 and steps.max().item() <= 4
    tl.manual_seed(0)
    assert tl.equal(out, F.fractional_max_pool2d(x, (2, 3), output_size=(15, 13)))


def test_infinities_stay_in_the_windows_that_hold_them():
    x = tl.zeros(1, 1, 5)
    x[..., 4] = INF
    assert F.adaptive_avg_pool1d(x, 3).tolist() == [[[0, 0, INF]]]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: F.max_pool2d(x, (2, 2, 2)), RuntimeError, "single int, or a tuple of two ints"),
        (lambda x: F.max_pool2d(x, 2.5), TypeError, "kernel_size"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=0), RuntimeError, "divisor must be not zero"),
        (lambda x: F.avg_pool3d(x, 5, padding=2), RuntimeError, "smaller than kernel size"),
        (lambda x: F.adaptive_avg_pool2d(x, (1, 2, 3)), RuntimeError, "output_size must be 2"),
        (lambda x: F.max_unpool2d(x, x, 2), RuntimeError, "should be type int64"),
        (lambda x: F.max_unpool2d(x, x.long(), 2, output_size=(9, 11)), ValueError, "must be between 6 and 10"),
        (lambda x: F.fractional_max_pool2d(x, 2), ValueError, "either an output_size or an output_ratio"),
        (lambda x: F.fractional_max_pool2d(x, 2, 4), RuntimeError, "too large relative to input size"),
        (lambda x: F.max_pool2d(np.zeros((1, 4, 4)), 2), TypeError, "must be Tensor, not ndarray"),
    ],
)
def test_what_pooling_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call(tl.ones(1, 4, 4, 4))
