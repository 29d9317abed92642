"""Products of groups of different sizes: sizes of use, groups of every size, gradients, what the compilers make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib._array import empty
from tensorlib._device import TARGETS, device
from tensorlib.kernels import grouped_matmul as kernels
from tensorlib.nn.functional import grouped_mm


def ends(sizes: list[int]) -> Any:
    return tl.from_numpy(np.cumsum(sizes).astype(np.int32))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got: Any, want: np.ndarray) -> None:
    found = got.cpu().numpy().astype(np.float64)
    assert found.shape == want.shape
    assert np.linalg.norm(found - want) <= 3e-6 * np.linalg.norm(want)


SIZES = [[300, 0, 77, 1, 522], [0, 0, 900], [900], [128] * 7 + [4], [0, 5]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_groups_of_rows_columns_and_terms(sizes: list[int]) -> None:
    total, groups, k, n = 900, len(sizes), 200, 130
    a, b, offs = numbers(total, k), numbers(groups, k, n, seed=1), ends(sizes)
    cuts = np.split(np.arange(total), np.cumsum(sizes))[:groups]
    on = [x.to("native") for x in (tl.from_numpy(a), tl.from_numpy(b), offs)]
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    rows = np.zeros((total, n))
    for g, cut in enumerate(cuts):
        rows[cut] = wide_a[cut] @ wide_b[g]
    close(grouped_mm(on[0], on[1], offs=on[2]), rows)  # zeros where there is no group any more
    close(grouped_mm(on[1].mT, on[0].T, offs=on[2]), rows.T)  # columns
    g = numbers(total, n, seed=2)
    terms = np.stack([wide_a[cut].T @ g[cut].astype(np.float64) for cut in cuts])
    close(grouped_mm(on[0].T, tl.from_numpy(g).to("native"), offs=on[2]), terms)
    np.testing.assert_allclose(grouped_mm(tl.from_numpy(a), tl.from_numpy(b), offs=offs).numpy(), rows, atol=1e-3)


def test_more_groups_than_rows() -> None:
    sizes = np.random.default_rng(0).integers(0, 3, 100).tolist()
    a, b = numbers(sum(sizes), 24), numbers(100, 24, 40, seed=1)
    want = np.concatenate([a[i:j] @ b[g] for g, (i, j) in enumerate(zip(
        np.cumsum([0, *sizes]), np.cumsum(sizes), strict=False))])  # fmt: skip
    got = grouped_mm(*[tl.from_numpy(x).to("native") for x in (a, b)], offs=ends(sizes).to("native"))
    np.testing.assert_allclose(got.cpu().numpy(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("on", ["cpu", "native"])
def test_gradients_are_those_of_a_loop(on: str) -> None:
    sizes = [3, 0, 6, 2]
    made = [[tl.from_numpy(x).to(on).requires_grad_() for x in (numbers(12, 8), numbers(4, 8, 5, seed=1))]
            for _ in range(2)]  # fmt: skip
    g = tl.from_numpy(numbers(12, 5, seed=2)).to(on)
    (a, b), (c, d) = made
    grouped_mm(a, b, offs=ends(sizes).to(on)).backward(g)
    at = 0
    for i, size in enumerate(sizes):
        if size:
            (c[at : at + size] @ d[i]).backward(g[at : at + size])
        at += size
    for x, y in ((a, c), (b, d)):
        np.testing.assert_allclose(x.grad.cpu().numpy(), y.grad.cpu().numpy(), rtol=1e-5, atol=1e-5)


def test_what_pytorch_refuses_is_refused() -> None:
    a, b, offs = tl.ones(4, 8), tl.ones(2, 8, 3), ends([2, 2])
    with pytest.raises(RuntimeError, match="Bias not supported yet"):
        grouped_mm(a, b, offs=offs, bias=tl.ones(3))
    with pytest.raises(RuntimeError, match="output dtype must match"):
        tl._grouped_mm(a, b, offs, out_dtype=tl.float64)
    with pytest.raises(RuntimeError, match="Have to provide offsets"):
        grouped_mm(b.mT, b.mT.mT, offs=offs)


@pytest.mark.parametrize("target", TARGETS)
def test_tiles_of_a_size_of_use_compile(target: str) -> None:
    at, half = device(target), np.float16
    offs = empty((8,), np.int32, at)
    a, b = empty((4096, 1024), half, at), empty((8, 2048, 1024), half, at).swapaxes(1, 2)
    kernels.grouped_matmul(empty((4096, 2048), half, at), a, b, offs)
    kernels.grouped_matmul(empty((8, 1024, 2048), half, at), a.T, empty((4096, 2048), half, at), offs)
