"""Random tensors: one stream on every device, distributions, generators, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import random
from tensorlib.nn import functional as F

DRAWS: dict[str, Callable[..., Any]] = {
    "rand": lambda d, t: tl.rand(1030, dtype=t, device=d),
    "uniform_": lambda d, t: tl.empty(1030, dtype=t, device=d).uniform_(-1, 2.5),
    "random_": lambda d, t: tl.empty(515, dtype=t, device=d).random_(),
    "bernoulli": lambda d, t: tl.full((515,), 0.3, dtype=t, device=d).bernoulli(),
    "dropout": lambda d, t: F.dropout(tl.ones(1030, dtype=t, device=d), 0.3),
}


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("n", [1, 5, 64, 301])
def test_draws_computed_ahead_are_those_of_their_place(n: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small draws that follow at one distance, then another seed, back, and at another distance."""
    monkeypatch.setattr(random, "_ahead", {})
    ahead, f32, f64 = 0, np.dtype(np.float32), np.dtype(np.float64)
    for seed, places in ((7, range(0, 90 * step, step)), (8, range(5)), (7, (4, 2, 2, 9, 16, 23, 1 << 33))):
        for at in places:
            before = random._ahead.get((random._normal, n, seed, (f32,)))
            for dtype in (f32, f64):
                for drawn, alone in ((random.normal01, random._normal), (random.uniform01, random._uniform)):
                    got, want = drawn((n,), dtype, seed, at), alone(n, seed, (at,), dtype)[0]
                    np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(random.some_words(n, seed, at), random.words(n, seed, at))
            ahead += before is random._ahead[random._normal, n, seed, (f32,)]
    assert ahead > 50


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.float16, tl.bfloat16], ids=str)
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_a_kernel_draws_the_same_numbers(name: str, dtype: Any, seed: int) -> None:
    found = []
    for device in ("cpu", "interpret"):
        tl.manual_seed(seed)
        found.append(DRAWS[name](device, dtype).cpu().double().numpy())
    np.testing.assert_array_equal(*found)


def test_normal_numbers_agree_to_rounding() -> None:
    found = []
    for device in ("cpu", "interpret"):
        tl.manual_seed(3)
        found.append(tl.randn(1030, device=device).cpu().numpy())
    np.testing.assert_allclose(*found, rtol=2e-6, atol=1e-6)


def test_wide_integers_on_a_kernel() -> None:
    for low, high in ((0, 10), (-5, 1 << 33), (-(1 << 63), 1 << 62)):
        found = []
        for device in ("cpu", "interpret"):
            tl.manual_seed(3)
            found.append(tl.randint(low, high, (300,), device=device).cpu().numpy())
        np.testing.assert_array_equal(*found)
        assert found[0].min() >= low and found[0].max() < high


def test_distributions() -> None:
    tl.manual_seed(0)
    n = 100_000
    u, z, e = tl.rand(n).numpy(), tl.randn(n).numpy(), tl.empty(n).exponential_(2.0).numpy()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.03 and abs((z**4).mean() - 3) < 0.2
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 0.02
    assert abs(e.mean() - 0.5) < 0.01 and e.min() >= 0
    counts = np.bincount(tl.randint(7, (n,)).numpy(), minlength=7)
    assert (abs(counts / n - 1 / 7) < 0.006).all()
    half = tl.rand(n, dtype=tl.bfloat16).float().numpy()
    assert half.max() < 1 and abs(half.mean() - 0.5) < 0.006


def test_permutation() -> None:
    tl.manual_seed(1)
    p = tl.randperm(50)
    assert sorted(p.tolist()) == list(range(50)) and p.tolist() != list(range(50))
    assert tl.randperm(0).shape == (0,)


def test_generator_and_seed() -> None:
    g = tl.Generator().manual_seed(5)
    a, b = tl.rand(3, generator=g), tl.rand(3, generator=g)
    assert not tl.equal(a, b)
    g.manual_seed(5)
    assert tl.equal(a, tl.rand(3, generator=g))
    state = tl.get_rng_state()
    first = tl.randn(4)
    tl.set_rng_state(state)
    assert tl.equal(first, tl.randn(4))
    with pytest.raises(TypeError, match="generator"):
        tl.rand(2, generator=5)


def test_dropout_backward_draws_the_mask_again() -> None:
    x = tl.ones(5000, requires_grad=True)
    y = F.dropout(x, 0.3)
    tl.rand(7)  # the stream has moved on meanwhile
    y.sum().backward()
    assert tl.equal(x.grad, y.detach())
    assert abs((y.detach().numpy() == 0).mean() - 0.3) < 0.03
    kept = y.detach().numpy()[y.detach().numpy() != 0]
    np.testing.assert_allclose(kept, 1 / 0.7, rtol=1e-6)
    node = y.grad_fn
    held = [v for v in (node.saved or {}).values() if isinstance(v, tuple) and isinstance(v[0], np.ndarray)]
    assert not held


def test_dropout_edges() -> None:
    x = tl.tensor([1.0, float("inf")])
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(tl.ones(3), 1.0).tolist() == [0.0, 0.0, 0.0]
    y = tl.ones(8)
    assert F.dropout(y, 0.5, inplace=True) is y
    channels = F.dropout2d(tl.ones(4, 8, 3, 3)).numpy()
    assert set(np.unique(channels.sum((2, 3)))) <= {0.0, 18.0}
    with pytest.raises(ValueError, match="between 0 and 1"):
        F.dropout(x, 1.5)


def test_words_are_philox() -> None:
    """Known answers of Random123 (kat_vectors: philox4x32, 10 rounds), counter and key zero."""
    assert random.words(4, 0, 0).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tl.randint(3, 3, (2,)), "less than"),
        (lambda: tl.rand(-1), "negative dimension"),
        (lambda: tl.empty(2).normal_(0, -1), "std >= 0"),
        (lambda: tl.empty(2).uniform_(2, 1), "from"),
        (lambda: tl.ones(2).bernoulli_(1.5), r"\[0, 1\]"),
        (lambda: tl.randn(2, dtype=tl.int64), "floating-point"),
    ],
)
def test_errors(call: Callable[[], Any], match: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=match):
        call()


def test_integers_that_the_dtype_does_not_hold_are_refused():
    for low, high, dtype in ((0, 257, tl.uint8), (-1, 3, tl.uint8), (0, 3, tl.bool), (0, 70000, tl.float16)):
        with pytest.raises(RuntimeError, match="out of bounds"):
            tl.randint(low, high, (2,), dtype=dtype)
        with pytest.raises(RuntimeError, match="out of bounds"):
            tl.randint_like(tl.ones(2, dtype=dtype), low, high)
    assert tl.randint(0, 256, (2,), dtype=tl.uint8).dtype is tl.uint8
