"""Heads too wide for a GPU's shared memory: the kernels take what fits, and the formula with all scores the rest."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
from tensorlib.kernels import attention
from tensorlib.nn import functional as F
from tensorlib.runtime import compiler, hardware
from tensorlib.runtime.autotune import Config
from tensorlib.runtime.hardware import nominal

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
KERNELS = (attention.attention_kernel, attention.query_grad_kernel, attention.key_grad_kernel)

#: (dtype, features): the targets whose kernels take them, forward and backward.
TAKEN: dict[tuple[str, int], set[str]] = {
    ("float32", 128): set(TARGETS),
    ("float32", 256): set(TARGETS),
    ("float32", 512): set(TARGETS),
    ("float32", 1024): set(),
    ("float64", 128): set(TARGETS),
    ("float64", 256): set(TARGETS),
    ("float64", 512): set(),
    ("bfloat16", 512): set(TARGETS),
    ("float16", 1024): set(TARGETS) - {"sm_86", "sm_89", "sm_120"},
    ("bfloat16", 2048): set(),
}


@pytest.mark.parametrize("dtype, features", TAKEN)
def test_which_kernels_fit(dtype: str, features: int) -> None:
    size = getattr(tl, dtype).itemsize
    fit = {t for t in TARGETS if attention.fits(features, size, tl.device(t), True)}
    assert fit == TAKEN[dtype, features]
    assert {t for t in TARGETS if attention.fits(features, size, tl.device(t), False)} >= fit
    assert attention.fits(features, size, tl.device("interpret"), True)


def _attend(target: str, dtype: Any, features: int, **options: Any) -> set[Any]:
    """The kernels that forward and backward compile, each held to the target's shared memory by its launch."""
    before = set(compiler._compiled.values())
    q, k, v = (tl.empty(1, 2, 40, features, device=target, dtype=dtype, requires_grad=True) for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v, **options)
    out.backward(tl.empty(1, 2, 40, features, device=target, dtype=dtype))
    assert q.grad is not None and v.grad is not None
    made = [c for c in compiler._compiled.values() if c not in before and c.target == target]
    assert all(c.shared <= hardware.nominal(target).shared for c in made)
    return {c.kernel for c in made} & set(KERNELS)


@pytest.mark.parametrize(
    "target, dtype, features",
    [
        ("sm_86", tl.float32, 600), ("sm_120", tl.float64, 300), ("sm_89", tl.bfloat16, 1024),
        ("gfx1100", tl.float32, 600),
    ],
)
def test_what_is_too_wide_is_compiled_otherwise(target: str, dtype: Any, features: int) -> None:
    assert _attend(target, dtype, features, is_causal=True, dropout_p=0.1) == set()


@pytest.mark.parametrize(
    "target, dtype, features", [("sm_86", tl.float32, 512), ("sm_120", tl.float64, 256), ("gfx942", tl.float64, 256)]
)
def test_the_widest_that_fits(target: str, dtype: Any, features: int) -> None:
    assert _attend(target, dtype, features) == set(KERNELS)


def test_with_all_scores_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tl.manual_seed(0)
    q, k, v = (tl.randn(2, 4, n, 8, device="interpret") for n in (5, 7, 7))
    cases = [
        {}, {"is_causal": True}, {"attn_mask": tl.rand(5, 7, device="interpret") > 0.3}, {"dropout_p": 0.4},
        {"scale": 0.3, "attn_mask": tl.randn(5, 7, device="interpret")},
    ]  # fmt: skip

    def run(options: dict[str, Any]) -> list[tl.Tensor]:
        tl.manual_seed(5)
        given = [t.clone().requires_grad_() for t in (q, k, v)]
        out = F.scaled_dot_product_attention(*given, **options)
        return [out.detach(), *tl.autograd.grad(out.square().sum(), given), tl.rand(2, device="interpret")]

    plain = [run(options) for options in cases]
    grouped = F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
    monkeypatch.setattr(attention, "fits", lambda *_: False)
    for options, wanted in zip(cases, plain, strict=True):
        for mine, theirs in zip(run(options), wanted, strict=True):
            assert tl.allclose(mine.cpu(), theirs.cpu(), atol=2e-5), options
    again = F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
    assert tl.allclose(again.cpu(), grouped.cpu(), atol=1e-5)


@pytest.mark.parametrize(
    "forward, queries, keys, target",
    [(None, (8, 16, 0), (16, 8, 0), "sm_90"), ((16, 32, 16), (16, 16, 16), (16, 32, 16), "gfx1100")],
)
def test_other_tiles(
    forward: Any, queries: Any, keys: Any, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Eight rows: the widest heads' gradients where shared memory is small. Features in chunks, log-sums by way of
    shared memory: what RDNA has."""
    tl.manual_seed(0)
    given = [tl.randn(1, n, m, 20, requires_grad=True) for n, m in ((4, 37), (2, 45), (2, 45))]

    def results(device: str) -> list[tl.Tensor]:
        leaves = [t.detach().to(device).requires_grad_() for t in given]
        out = F.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=True)
        return [out.detach().cpu(), *(g.cpu() for g in tl.autograd.grad(out.square().sum(), leaves))]

    plain = results("cpu")
    for tunable, tile in ((attention.ATTENTION, forward), (attention.QUERY_GRAD, queries), (attention.KEY_GRAD, keys)):
        if tile is not None:
            config = Config(4, 1, BLOCK_M=tile[0], BLOCK_N=tile[1], CHUNK=tile[2])
            monkeypatch.setattr(tunable, "choose", lambda *_, config=config: config)
    monkeypatch.setattr(attention, "hardware", lambda _: nominal(target))
    for device in ("interpret", "native"):
        for mine, theirs in zip(results(device), plain, strict=True):
            assert tl.allclose(mine, theirs, atol=2e-5), device
