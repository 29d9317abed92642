"""Joining, borders, reordering and repetition: what crosses operators, against NumPy."""

import numpy as np
import pytest

import tensorlib as L
import tensorlib.nn.functional as F
from tensorlib.errors import ShapeError


def test_cat_promotes_and_sends_gradients_back_in_each_dtype():
    a = L.ones(2, dtype=L.float16).requires_grad_()
    b = L.ones(3, dtype=L.float64).requires_grad_()
    out = L.cat([a, b, L.tensor([1, 2])])
    assert out.dtype is L.float64
    out.backward(L.arange(7.0).to(L.float64))
    assert (a.grad.dtype, b.grad.dtype) == (L.float16, L.float64)
    assert (a.grad.tolist(), b.grad.tolist()) == ([0, 1], [2, 3, 4])


def test_cat_of_the_same_tensor_twice():
    x = L.ones(2).requires_grad_()
    (L.cat([x, x]) * L.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [4, 6]


def test_an_empty_one_dimensional_tensor_joins_anything():
    x = L.ones(2, 3)
    assert L.cat([L.zeros(0), x], 1).shape == (2, 3)
    assert L.cat([L.zeros(0), L.zeros(0)]).shape == (0,)


def test_an_empty_list_is_refused():
    for join in (L.cat, L.stack, L.hstack, L.vstack):
        with pytest.raises((ValueError, RuntimeError), match="non-empty"):
            join([])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("widths", [(1, 2), (3, 0), (2, 1, 0, 1), (-1, 2)])
def test_borders_are_those_of_numpy(mode, widths):
    numpy_mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    x = np.arange(40.0).reshape(2, 4, 5) if len(widths) == 2 else np.arange(40.0).reshape(1, 2, 4, 5)
    cropped = x[..., max(-widths[0], 0) :]
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2)
    pairs += [(max(widths[2 * k], 0), widths[2 * k + 1]) for k in range(len(widths) // 2)][::-1]
    np.testing.assert_array_equal(F.pad(L.tensor(x), widths, mode).numpy(), np.pad(cropped, pairs, numpy_mode))


def test_border_gradients_count_every_use():
    x = L.ones(1, 4).requires_grad_()
    F.pad(x, (2, 1), "reflect").sum().backward()
    assert x.grad.tolist() == [[1, 2, 3, 1]]
    y = L.ones(1, 4).requires_grad_()
    F.pad(y, (-1, 3)).sum().backward()
    assert y.grad.tolist() == [[0, 1, 1, 1]]


def test_a_border_too_wide_names_the_dimension():
    with pytest.raises(ShapeError, match="at dimension 1"):
        F.pad(L.ones(1, 3), (3, 0), "reflect")


@pytest.mark.parametrize("k", range(-1, 5))
def test_turning(k):
    x = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(L.rot90(L.tensor(x), k, (0, 2)).numpy(), np.rot90(x, k, (0, 2)))


def test_repetition_against_numpy():
    x = np.arange(6).reshape(2, 3)
    t = L.tensor(x)
    np.testing.assert_array_equal(t.tile(2, 1, 2).numpy(), np.tile(x, (2, 1, 2)))
    np.testing.assert_array_equal(t.repeat(2, 2).numpy(), np.tile(x, (2, 2)))
    np.testing.assert_array_equal(t.repeat_interleave(L.tensor([2, 0, 1]), 1).numpy(), np.repeat(x, [2, 0, 1], 1))
    for repeats in ([1, 300, 0, 2], [0], []):
        r = L.tensor(repeats, dtype=L.int64)
        np.testing.assert_array_equal(L.repeat_interleave(r).numpy(), np.repeat(np.arange(len(repeats)), repeats))
        on_device = L.repeat_interleave(r.to("interpret"))
        np.testing.assert_array_equal(on_device.cpu().numpy(), np.repeat(np.arange(len(repeats)), repeats))
    with pytest.raises(ShapeError, match="Number of dimensions of repeat dims"):
        t.repeat(2)


def test_triangles_and_diagonals_against_numpy():
    x = np.arange(60).reshape(3, 4, 5)
    for k in range(-5, 6):
        np.testing.assert_array_equal(L.tril(L.tensor(x), k).numpy(), np.tril(x, k))
        np.testing.assert_array_equal(L.triu(L.tensor(x), k).numpy(), np.triu(x, k))
        np.testing.assert_array_equal(L.diagonal(L.tensor(x), k, 1, 2).numpy(), np.diagonal(x, k, 1, 2))
        np.testing.assert_array_equal(L.diag(L.arange(3), k).numpy(), np.diag(np.arange(3), k))
    np.testing.assert_array_equal(L.tril_indices(3, 4, 1).numpy(), np.stack(np.tril_indices(3, 1, 4)))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 0, 3), (2, 3, 450)])
def test_nonzero_through_the_kernel(shape):
    """More than one block, none, and no dimensions: the count comes from the device, the order from the prefix sums."""
    x = np.random.default_rng(0).integers(0, 3, shape)
    want = np.argwhere(x)
    np.testing.assert_array_equal(L.tensor(x).nonzero().numpy(), want)
    np.testing.assert_array_equal(L.tensor(x).to("interpret").nonzero().cpu().numpy(), want)


@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect", "circular"])
def test_pad_never_returns_its_input_s_memory(mode: str) -> None:
    x = L.arange(16).reshape(1, 4, 4)
    for t in (x, x.float()):
        for widths in ((0, 0), (-1, -1), (-1, 1)):
            found = F.pad(t, widths, mode)
            assert found.is_contiguous() and found._base is None and found.data_ptr() != t.data_ptr()


def test_results_are_in_c_order_whatever_the_inputs_are() -> None:
    """As PyTorch's; NumPy would keep the inputs' order."""
    x = L.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    found = [L.cat([x, x], -1), L.stack([x, x]), L.hstack([x, x]), x.cumsum(1), x.cumprod(0), x.logcumsumexp(2)]
    found += [x.roll(1, 0), x.gather(0, L.zeros(1, 2, 3, dtype=L.int64)), *x.cummax(1)]
    assert all(t.is_contiguous() for t in found)
    np.testing.assert_array_equal(found[0].numpy(), np.concatenate([x.numpy()] * 2, -1))
