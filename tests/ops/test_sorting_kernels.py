"""The kernels for long rows, in the interpreter with small limits: several programs a row, all dtypes, ties, NaN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tensorlib as torch
from tensorlib.kernels import counting, prefix, selection, sorting

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
INTERPRET = "interpret"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limits that rows of a few hundred elements pass."""
    monkeypatch.setattr(sorting, "LONGEST", 64)
    monkeypatch.setattr(sorting, "CHUNK", 32)
    monkeypatch.setattr(sorting, "BLOCK", 32)
    monkeypatch.setattr(sorting, "PARTS", 3)
    monkeypatch.setattr(selection, "BLOCK", 32)
    monkeypatch.setattr(selection, "PARTS", 12)
    monkeypatch.setattr(prefix, "BLOCK", 16)
    monkeypatch.setattr(counting, "BLOCK", 32)
    monkeypatch.setattr(counting, "PROGRAMS", 3)
    yield


def numbers(dtype: str, *shape: int, nan: bool = True) -> torch.Tensor:
    """Numbers with many ties, both zeros, infinities and NaN, or the ends of an integer type."""
    x = np.random.default_rng(1).integers(-20, 20, shape) / 4
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        out = torch.tensor(np.round(x)).to(kind)
        if dtype.startswith("int"):
            limits = torch.iinfo(kind)
            out.view(-1)[3:9] = torch.tensor([limits.min, limits.max] * 3).to(kind)
        return out
    x.reshape(-1)[3:9] = [0.0, -0.0, np.inf, -np.inf, 0.0, -0.0]
    if nan:
        x.reshape(-1)[[11, 2]] = np.nan
    return torch.tensor(x).to(kind)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bit for bit."""
    return found.cpu().numpy().tobytes() == expected.contiguous().numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_are_sorted(dtype: str) -> None:
    """A radix sort along the last and the first dimension, stable, as on the CPU; values are those at the indices."""
    for shape, dim, descending in (((1, 130), 1, False), ((70, 2), 0, True)):
        x = numbers(dtype, *shape)
        found, expected = torch.sort(x.to(INTERPRET), dim, descending), torch.sort(x, dim, descending, stable=True)
        assert same(found.indices, expected.indices) and same(found.values, x.gather(dim, expected.indices))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16", "int8"])
def test_the_best_of_long_rows(dtype: str) -> None:
    """topk by candidates (k = 5, in three rounds) and by a sort (k = 20): the first of equal elements."""
    x = numbers(dtype, 1, 300)
    for k, largest in ((5, True), (5, False), (20, True)):
        values, indices = torch.topk(x.to(INTERPRET), k, 1, largest)
        expected = torch.sort(x, 1, largest, stable=True).indices[:, :k]
        assert same(indices, expected) and same(values, x.gather(1, expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rank_of_long_rows(dtype: str) -> None:
    """kthvalue and medians by digits: the value as on the CPU, and the index of the first element equal to it."""
    for x, dim in ((numbers(dtype, 1, 100), 1), (numbers(dtype, 100, 1, nan=False), 0)):
        there = x.to(INTERPRET)
        calls = [lambda t, k=k, dim=dim: t.kthvalue(k, dim) for k in (1, 77, 100)]
        if dtype != "bool":
            calls += [lambda t, dim=dim: t.median(dim), lambda t, dim=dim: t.nanmedian(dim)]
            for whole in (torch.median, torch.nanmedian):
                assert torch.equal(whole(there).cpu().nan_to_num(99), whole(x).nan_to_num(99))
        for call in calls:
            found, expected = call(there), call(x)
            value = expected.values.unsqueeze(dim)
            equal = (x == value) | ((x != x) & (value != value))
            assert torch.equal(found.indices.cpu(), equal.to(torch.int8).argmax(dim))
            assert torch.equal(found.values.cpu().nan_to_num(99), expected.values.nan_to_num(99))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16"])
def test_distinct_elements_over_several_blocks(dtype: str) -> None:
    """unique and unique_consecutive of elements and of rows, with all their results."""
    for x, dim in ((numbers(dtype, 90), None), (numbers(dtype, 45, 2).clamp(-1, 1), 0)):
        x = x.nan_to_num(3) if dim == 0 else x
        for function in (torch.unique, torch.unique_consecutive):
            found = function(x.to(INTERPRET), return_inverse=True, return_counts=True, dim=dim)
            expected = function(x, return_inverse=True, return_counts=True, dim=dim)
            assert torch.equal(found[0].cpu().nan_to_num(99), expected[0].nan_to_num(99))
            assert all(torch.equal(a.cpu(), b) for a, b in zip(found[1:], expected[1:], strict=True))


def test_counts_by_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """bincount and histc, with few bins and with many, by weight and not."""
    x, w = torch.randint(0, 50, (300,)), torch.randn(300)
    y = torch.randn(300)
    for few in (counting.FEW, 0):
        monkeypatch.setattr(counting, "FEW", few)
        assert torch.equal(torch.bincount(x.to(INTERPRET)).cpu(), torch.bincount(x))
        weighed = torch.bincount(x.to(INTERPRET), w.to(INTERPRET), 60).cpu()
        assert torch.allclose(weighed, torch.bincount(x, w, 60), atol=1e-6)
        assert torch.equal(torch.histc(y.to(INTERPRET), 7).cpu(), torch.histc(y, 7))
        assert torch.equal(torch.histc(y.to(INTERPRET), 9, -1, 1.5).cpu(), torch.histc(y, 9, -1, 1.5))


def test_the_stream_is_the_same_on_every_device() -> None:
    """randperm and multinomial draw what they draw on the CPU."""
    p = torch.rand(3, 70) * (torch.rand(3, 70) > 0.3)

    def drawn(device: str) -> list[torch.Tensor]:
        g = torch.Generator().manual_seed(7)
        w = p.to(device)
        out = [torch.randperm(n, generator=g, device=device) for n in (1, 9, 150)]
        out += [torch.multinomial(w, n, replace, generator=g) for n, replace in ((1, False), (40, False), (90, True))]
        return [t.cpu() for t in out]

    assert all(torch.equal(a, b) for a, b in zip(drawn(INTERPRET), drawn("cpu"), strict=True))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("weights", [[-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]])
def test_weights_that_are_none_stop_the_kernel(weights: list[float], replacement: bool) -> None:
    """A device checks the values itself, as nothing is read on the host."""
    with pytest.raises(torch.errors.KernelError, match="device_assert failed"):
        torch.multinomial(torch.tensor(weights).to(INTERPRET), 1, replacement)


def test_a_sorter_that_points_outside() -> None:
    """An error on the CPU; on a device the kernel checks, and reads nothing there."""
    x, wrong = torch.tensor([5.0, 1.0, 3.0]), torch.tensor([1, 7, 0])
    with pytest.raises(torch.errors.RangeError, match="sorter index out of range"):
        torch.searchsorted(x, x, sorter=wrong)
    with pytest.raises(torch.errors.KernelError, match="device_assert failed"):
        torch.searchsorted(x.to(INTERPRET), x.to(INTERPRET), sorter=wrong.to(INTERPRET))
