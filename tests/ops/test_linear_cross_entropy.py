"""linear_cross_entropy: that it never holds the scores, and is the two operators that it stands for."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import ArgumentError
from tensorlib.nn import LinearCrossEntropyOptions
from tensorlib.runtime.native import codegen

F = tl.nn.functional


def problem(n: int, k: int, c: int, dtype: Any = tl.float32, seed: int = 0) -> list[Any]:
    draws = np.random.default_rng(seed)
    x, w, b = draws.standard_normal((n, k)), draws.standard_normal((c, k)) / k**0.5, draws.standard_normal(c)
    made = [tl.tensor(a).to(dtype).requires_grad_(True) for a in (x, w, b)]
    return [*made, tl.tensor(draws.integers(0, c, n))]


def gradients(loss: Any, *leaves: Any) -> list[np.ndarray]:
    for leaf in leaves:
        leaf.grad = None
    (loss.sum() if loss.ndim else loss).backward()
    return [leaf.grad.to("cpu").double().numpy() for leaf in leaves]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.bfloat16])
def test_is_linear_and_cross_entropy(reduction: str, dtype: Any) -> None:
    x, w, b, y = problem(23, 8, 17, tl.float64)
    weight = tl.tensor(np.random.default_rng(1).uniform(0.5, 2, 17))
    options: Any = dict(reduction=reduction, label_smoothing=0.1, z_loss=1e-2)
    expected = F.cross_entropy(F.linear(x, w, b), y, weight, ignore_index=3, **options)
    want = [expected.detach().numpy(), *gradients(expected, x, w, b)]
    narrow = [t.detach().to(dtype).requires_grad_(True) for t in (x, w, b)]
    got_loss = F.linear_cross_entropy(
        *narrow[:2], y, linear_bias=narrow[2], weight=weight.to(dtype), ignore_index=3,
        options=LinearCrossEntropyOptions(batch_chunk_size=5), **options,
    )  # fmt: skip
    got = [got_loss.detach().double().numpy(), *gradients(got_loss, *narrow)]
    limit = {tl.float32: 1e-6, tl.float64: 1e-13, tl.bfloat16: 2e-2}[dtype]
    for g, h in zip(got, want, strict=True):
        assert np.linalg.norm(g - h) <= limit * np.linalg.norm(h)


def peak(run: Any) -> int:
    run()
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16])
def test_memory_on_the_cpu(dtype: Any) -> None:
    n, k, c = 2048, 16, 4000
    x, w, _, y = problem(n, k, c, dtype)
    options = LinearCrossEntropyOptions(batch_chunk_size=64)

    def whole() -> None:
        gradients(F.cross_entropy(F.linear(x, w), y), x, w)

    def fused() -> None:
        gradients(F.linear_cross_entropy(x, w, y, options=options), x, w)

    chunk, kept = 64 * c * 4, 12 * (n * k + c * k) * 4  # the scores of a chunk, and what is of the operands' size
    assert peak(fused) < chunk + kept + (1 << 20) < n * c * 4 / 3
    assert peak(whole) > n * c * 4
    with tl.no_grad():
        assert peak(lambda: F.linear_cross_entropy(x, w, y, options=options)) < chunk + kept + (1 << 20)


def test_backward_again_and_twice() -> None:
    x, w, b, y = problem(9, 4, 6, tl.float64)
    loss = F.linear_cross_entropy(x, w, y, linear_bias=b)
    first = tl.autograd.grad(loss, [x, w, b], retain_graph=True)
    again = tl.autograd.grad(3 * loss, [x, w, b], retain_graph=True)
    for a, g in zip(again, first, strict=True):
        np.testing.assert_allclose(a.numpy(), 3 * g.numpy(), rtol=1e-12)
    (g,) = tl.autograd.grad(loss, [x], create_graph=True)
    plain = tl.autograd.grad(F.cross_entropy(F.linear(x, w, b), y), [x], create_graph=True)[0]
    for got, want in zip(tl.autograd.grad(g.square().sum(), [x, w]), tl.autograd.grad(plain.square().sum(), [x, w]),
                         strict=True):  # fmt: skip
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-10, atol=1e-14)


def test_only_what_is_wanted() -> None:
    x, w, b, y = problem(7, 4, 5)
    F.linear_cross_entropy(x.detach(), w, y, linear_bias=b.detach()).backward()
    assert w.grad is not None and x.grad is None and b.grad is None
    assert not F.linear_cross_entropy(x.detach(), w.detach(), y).requires_grad


def test_where_nothing_counts() -> None:
    x, w, _, y = problem(4, 3, 5)
    loss = F.linear_cross_entropy(x, w, tl.full_like(y, -100))
    assert loss.isnan().item()
    assert all((g == 0).all() for g in gradients(loss, x, w))


def test_autocast() -> None:
    x, w, b, y = problem(16, 8, 12)
    with tl.autocast("cpu", tl.bfloat16):
        two = F.cross_entropy(F.linear(x, w, b), y)
    with tl.autocast("cpu", tl.bfloat16):
        one = F.linear_cross_entropy(x, w, y, linear_bias=b)
    assert one.dtype is two.dtype is tl.float32
    for g, h in zip(gradients(one, x, w, b), gradients(two, x, w, b), strict=True):
        assert np.linalg.norm(g - h) < 1e-2 * np.linalg.norm(h)
    assert x.grad.dtype is tl.float32


def test_options() -> None:
    x, w, _, y = problem(40, 4, 64)
    want = F.linear_cross_entropy(x, w, y).item()
    for given in ({"chunking_method": "aspect_ratio"}, {"chunking_method": "aspect_ratio:2"}, {"chunking_method": None},
                  {"batch_chunk_size": 1}, {"acc_policy": "compact"}):  # fmt: skip
        options = LinearCrossEntropyOptions(**given)
        assert F.linear_cross_entropy(x, w, y, options=options).item() == pytest.approx(want, rel=1e-6)


def test_z_loss_of_probabilities_is_refused() -> None:
    with pytest.raises(ArgumentError, match="z_loss"):
        F.cross_entropy(tl.randn(3, 4), tl.rand(3, 4), z_loss=1e-4)


@pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")
@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16])
def test_kernels_at_a_size_of_use(dtype: Any) -> None:
    x, w, b, y = problem(96, 64, 33000, dtype)
    moved = [t.detach().to("native").requires_grad_(True) for t in (x, w, b)]
    options = LinearCrossEntropyOptions(batch_chunk_size=32)
    loss = F.linear_cross_entropy(*moved[:2], y.to("native"), linear_bias=moved[2], options=options)
    wide = [t.detach().double().requires_grad_(True) for t in (x, w, b)]
    exact = F.cross_entropy(F.linear(*wide), y)
    limit = 5e-6 if dtype is tl.float32 else 1e-2
    assert loss.item() == pytest.approx(exact.item(), rel=limit)
    for g, h in zip(gradients(loss, *moved), gradients(exact, *wide), strict=True):
        assert np.linalg.norm(g - h) < limit * np.linalg.norm(h)


@pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")
@pytest.mark.parametrize("classes", [4097, 131072, 262144])
def test_cross_entropy_of_large_vocabularies(classes: int) -> None:
    draws = np.random.default_rng(2)
    scores = tl.tensor(draws.standard_normal((3, classes)) * 5)
    y = tl.tensor(draws.integers(0, classes, 3))
    moved = scores.float().to("native").requires_grad_(True)
    exact = scores.requires_grad_(True)
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 1e-3}):
        loss, want = F.cross_entropy(moved, y.to("native"), **options), F.cross_entropy(exact, y, **options)
        assert loss.item() == pytest.approx(want.item(), rel=2e-6)
        (g,), (h,) = gradients(loss, moved), gradients(want, exact)
        assert np.linalg.norm(g - h) < 5e-6 * np.linalg.norm(h)
