"""Order: what stored values cannot say — ties, draws, windows into histograms."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as torch


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ["int64", "float32", "int8", "bfloat16"])
def test_ties_keep_their_order(descending: bool, dtype: str) -> None:
    """Long rows take the fast unstable sort, whose ties are then put in order: as the stable sort has them."""
    x = np.random.default_rng(0).integers(0, 9, (3, 500))
    found = torch.sort(torch.tensor(x).to(getattr(torch, dtype)), 1, descending, stable=True)
    expected = np.argsort(-x if descending else x, 1, kind="stable")
    assert np.array_equal(found.indices.numpy(), expected)
    assert np.array_equal(found.values.float().numpy(), np.take_along_axis(x, expected, 1))


def test_nan_is_last_and_its_ties_keep_their_order() -> None:
    """NaN is larger than every number, however many there are."""
    x = torch.arange(200.0)
    x[::3] = float("nan")
    assert torch.sort(x).indices[-67:].tolist() == list(range(0, 200, 3))
    assert torch.sort(x, descending=True).indices[:67].tolist() == list(range(0, 200, 3))


def test_unique_keeps_every_nan() -> None:
    """NaN equals nothing, itself included."""
    values, inverse, counts = torch.unique(
        torch.tensor([float("nan"), 1.0, float("nan"), 1.0]), return_inverse=True, return_counts=True
    )
    assert counts.tolist() == [2, 1, 1] and values[0] == 1 and values[1:].isnan().all()
    assert inverse.tolist() == [1, 0, 2, 0]


def test_rows_are_searched_each_in_its_own() -> None:
    """A 2-D sorted sequence against NumPy, row by row; NaN goes behind everything."""
    rng = np.random.default_rng(1)
    rows = np.sort(rng.integers(0, 9, (5, 13)), 1).astype(np.float32)
    x = rng.integers(-1, 11, (5, 7)).astype(np.float32)
    x[0, 0] = np.nan
    for side in ("left", "right"):
        found = torch.searchsorted(torch.tensor(rows), torch.tensor(x), side=side)
        assert np.array_equal(found.numpy(), [np.searchsorted(r, v, side) for r, v in zip(rows, x, strict=True)])


def test_multinomial_draws_by_weight() -> None:
    """Frequencies follow the weights; without replacement nothing twice; a weight of 0 is never drawn."""
    p = torch.tensor([0.0, 1.0, 3.0, 0.0])
    g = torch.Generator().manual_seed(0)
    n = torch.bincount(torch.multinomial(p, 40_000, True, generator=g), minlength=4).float() / 40_000
    assert n[0] == 0 and n[3] == 0 and abs(n[2].item() - 0.75) < 0.02
    first = torch.multinomial(p.expand(10_000, 4), 1, generator=g)
    assert abs((first == 2).float().mean().item() - 0.75) < 0.03
    pairs = torch.multinomial(torch.rand(50, 9, generator=g), 9, generator=g)
    assert torch.equal(pairs.sort(1).values, torch.arange(9).expand(50, 9))
    for bad, match in ((torch.tensor([-1.0, 2.0]), "element < 0"), (torch.zeros(3), "sum of probabilities")):
        with pytest.raises(RuntimeError, match=match):
            torch.multinomial(bad, 1)
    with pytest.raises(RuntimeError, match="without replacement"):
        torch.multinomial(p, 5)


def test_histogram_weights_and_gradients_of_samples() -> None:
    """Weights add up in their bins; the edges are those given."""
    hist, edges = torch.histogram(
        torch.tensor([0.5, 1.5, 1.5, 9.0]), torch.tensor([0.0, 1.0, 2.0]), weight=torch.tensor([1.0, 2.0, 3.0, 4.0])
    )
    assert hist.tolist() == [1.0, 5.0] and edges.tolist() == [0.0, 1.0, 2.0]


def test_out_is_resized_and_returned() -> None:
    """An empty out takes the shape of the result; another shape does with a warning."""
    values, indices = torch.empty(0), torch.empty(0, dtype=torch.int64)
    found = torch.topk(torch.tensor([3.0, 1.0, 2.0]), 2, out=(values, indices))
    assert found.values is values and values.tolist() == [3.0, 2.0] and indices.tolist() == [0, 2]
    with pytest.warns(UserWarning, match="was resized"):
        torch.msort(torch.tensor([3.0, 1.0]), out=values.new_empty(3))


def test_gradient_by_coordinates() -> None:
    """Exact for a parabola at order 2, at uneven points too."""
    x = torch.tensor([0.0, 1.0, 1.5, 4.0])
    (slope,) = torch.gradient(x**2, spacing=[x], edge_order=2)
    assert torch.allclose(slope, 2 * x, atol=1e-5)


def test_scatters_route_gradients() -> None:
    """What is overwritten gets 0, what is written its part."""
    x, part = torch.ones(3, 3, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    torch.as_strided_scatter(x, part, (2, 2), (3, 1)).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]] and part.grad.tolist() == [[1, 1], [1, 1]]


def test_the_kth_elements_have_memory_of_their_own() -> None:
    """Views would keep all of the sorted memory."""
    x = torch.tensor([[3.0, 1, 2]] * 4)
    for found in (x.topk(2), x.kthvalue(2), x.median(1), x.topk(1, 0)):
        assert found.values.is_contiguous() and found.indices.is_contiguous()


def test_histogram_copies_its_edges() -> None:
    edges = torch.tensor([0.0, 1, 2])
    found = torch.histogram(torch.ones(3), edges)
    found.bin_edges.zero_()
    assert edges.tolist() == [0, 1, 2]
