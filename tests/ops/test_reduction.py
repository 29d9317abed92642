"""Ties, NaN, empty dims and layouts of the reductions; expected values are PyTorch 2.13's."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as T
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError

NAN, INF = float("nan"), float("inf")


def test_index_of_ties_and_nan() -> None:
    x = T.tensor([[1.0, 3, 3], [2, NAN, NAN], [INF, 1, INF]])
    assert x.argmax(1).tolist() == [1, 1, 0]
    assert x.argmin(1).tolist() == [0, 1, 1]
    values, indices = x.max(1)
    np.testing.assert_array_equal(values.numpy(), [3, NAN, INF])
    assert indices.tolist() == [1, 1, 0]
    assert x.argmax().item() == 4


def test_overloads_of_max() -> None:
    x = T.tensor([[1.0, 5], [7, 2]])
    assert x.max().item() == 7
    assert x.max(0).values.tolist() == [7, 5]
    assert x.max(axis=1, keepdims=True).indices.tolist() == [[1], [0]]
    assert x.max(T.tensor([[3.0, 3], [3, 3]])).tolist() == [[3, 5], [7, 3]]
    assert T.min(x, other=T.tensor(4.0)).tolist() == [[1, 4], [4, 2]]


def test_gradient_of_ties() -> None:
    x = T.tensor([[2.0, 2, 1], [0, 0, 0]], requires_grad=True)
    x.amax(1).backward(T.tensor([1.0, 3]))
    np.testing.assert_allclose(x.grad.numpy(), [[0.5, 0.5, 0], [1, 1, 1]])
    x.grad = None
    x.max(1).values.backward(T.tensor([1.0, 3]))
    assert x.grad.tolist() == [[1, 0, 0], [3, 0, 0]]
    x.grad = None
    x.max().backward()
    assert x.grad.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("row", "gradient"), [([2.0, 0, 3], [0, 6, 0]), ([0.0, 0, 3], [0, 0, 0]), ([2.0, 4, 3], [12, 6, 8])]
)
def test_gradient_of_a_product_with_zeros(row: list[float], gradient: list[float]) -> None:
    x = T.tensor(row, requires_grad=True)
    x.prod().backward()
    assert x.grad.tolist() == gradient


def test_second_order_of_a_product_with_zeros() -> None:
    x = T.tensor([2.0, 0, 3], requires_grad=True)
    (g,) = T.autograd.grad(x.prod(), x, create_graph=True)
    (h,) = T.autograd.grad(g.sum(), x)
    assert h.tolist() == [3, 5, 2]  # d/dx of x1 x2 + x0 x2 + x0 x1


def test_dtypes() -> None:
    assert T.tensor([100, 100], dtype=T.int8).sum().item() == 200
    assert T.tensor([True, True]).sum().dtype is T.int64
    assert T.tensor([0.5, 0.5]).sum(dtype=T.int64).item() == 0  # converted first
    ones = T.ones(1000, dtype=T.bfloat16)
    assert (ones.sum().item(), ones.sum().dtype) == (1000.0, T.bfloat16)
    assert T.tensor([1, 0], dtype=T.uint8).any().dtype is T.uint8
    with pytest.raises(DtypeError, match="could not infer output dtype"):
        T.tensor([1, 2]).mean()


def test_nothing() -> None:
    empty = T.zeros(0, 3)
    assert empty.sum(0).tolist() == [0, 0, 0]
    assert empty.prod(0).tolist() == [1, 1, 1]
    assert empty.logsumexp(0).tolist() == [-INF] * 3
    assert np.isnan(empty.mean().item())
    with np.errstate(all="ignore"), pytest.warns(UserWarning, match="degrees of freedom"):
        assert np.isnan(T.tensor([1.0]).var().item())
    assert empty.amax(1).shape == (0,)
    with pytest.raises(DimError, match="non-zero size"):
        empty.amax(0)
    with pytest.raises(ShapeError, match="numel"):
        empty.max()
    with pytest.raises(DimError, match="numel"):
        empty.argmax()


def test_variance_far_from_zero() -> None:
    x = 1e4 + np.arange(9, dtype=np.float32)
    for device in ("cpu", "interpret"):
        assert T.tensor(x).to(device).var().item() == pytest.approx(7.5, rel=1e-4)
    with pytest.raises(ArgumentError, match="unbiased"):
        T.tensor(x).var(0, True, correction=0)


def test_long_float32_sums_keep_their_digits() -> None:
    x = np.random.default_rng(0).random(3_000_000, dtype=np.float32)
    exact = x.sum(dtype=np.float64)
    assert T.tensor(x).sum().item() == pytest.approx(exact, rel=2e-7)
    columns = x[: 2_999_980].reshape(-1, 20)
    np.testing.assert_allclose(T.tensor(columns).sum(0).numpy(), columns.sum(0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_any_layout_on_a_device(dims: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal((5, 6, 7)).astype(np.float32)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        t = T.tensor(x).to("interpret").permute(*order)
        y = x.transpose(order)
        np.testing.assert_allclose(t.sum(dims).cpu().numpy(), y.sum(dims), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(t.amax(dims).cpu().numpy(), y.max(dims))
        np.testing.assert_allclose(t.var(dims).cpu().numpy(), y.var(dims, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(t[1:, ::2].sum(dims).cpu().numpy(), y[1:, ::2].sum(dims), rtol=1e-5, atol=1e-5)


def test_norm_of_zero_has_gradient_zero() -> None:
    for p in (1, 1.5, 2, 3, INF):
        x = T.zeros(3, requires_grad=True)
        x.norm(p).backward()
        assert x.grad.tolist() == [0, 0, 0]
    with pytest.raises(ShapeError, match="no elements"):
        T.zeros(0).norm(INF)


def test_no_dims_are_all_of_them_but_for_all_and_any() -> None:
    """As in PyTorch, whose ``all`` and ``any`` reduce nothing then."""
    x = T.tensor([[[1.0], [0.0]]])
    assert x.sum(()).shape == x.amax(()).shape == x.mean([]).shape == x.var(()).shape == ()
    for found in (x.all(()), T.any(x, []), x.any(dim=(), keepdim=True), x.to("interpret").all(())):
        assert found.tolist() == [[[True], [False]]]


def test_sum_to_size_of_integers_is_int64_where_it_sums() -> None:
    x = T.ones(2, 3, dtype=T.int32)
    assert x.sum_to_size(2, 1).dtype == x.sum_to_size(()).dtype == T.int64 and x.sum_to_size(2, 3).dtype == T.int32
    zero_d = T.tensor(3.0)
    assert zero_d.sum_to_size(()).data_ptr() != zero_d.data_ptr()
    one = T.ones(1, 1, 1, dtype=T.int32)
    assert T.tensordot(one, T.ones(2, 1, 2, dtype=T.int32), ([0, 1], [2, 1])).dtype == T.int32


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_a_variance_without_degrees_of_freedom_warns(device: str) -> None:
    x = T.ones(3, 1, device=device)
    for name in ("var", "std", "var_mean", "std_mean"):
        warned = pytest.warns(UserWarning, match=rf"^{name}\(\): degrees of freedom is <= 0")
        with np.errstate(all="ignore"), warned:
            getattr(T, name)(x, 1)
    assert x.std(0).tolist() == [0.0]


def test_nanmean_of_more_elements_than_float16_has_numbers_for() -> None:
    x = T.full((70000,), 0.5, dtype=T.float16)
    x[0] = NAN
    assert x.nanmean().item() == x.nanmean(0).item() == 0.5 and x.nanmean().dtype == T.float16
