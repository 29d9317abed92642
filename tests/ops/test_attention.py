"""Attention: masks that hide everything, blocks, groups of heads, dropout's stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.kernels import attention_bias
from tensorlib.nn import functional as F
from tensorlib.ops import attention
from tensorlib.runtime.autotune import Config

sdpa = F.scaled_dot_product_attention


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaves(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...] | None = None, device: str = "cpu") -> list[Any]:
    shapes = (q, k, v or k)
    return [tl.from_numpy(numbers(*s, seed=i)).to(device).requires_grad_() for i, s in enumerate(shapes)]


def run(leaves: list[Any], function: Any, *args: Any, **attrs: Any) -> list[np.ndarray]:
    """Output and gradients as arrays."""
    for t in leaves:
        t.grad = None
    out = function(*leaves, *args, **attrs)
    out.backward(tl.from_numpy(numbers(*out.shape, seed=9)).to(out.device))
    return [t.cpu().numpy() for t in (out.detach(), *(t.grad for t in leaves))]


def close(got: list[np.ndarray], want: list[np.ndarray], tolerance: float = 2e-5) -> None:
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("kind", ["bool", "added"])
def test_a_query_that_may_look_at_no_key_gives_zeros(device: str, kind: str) -> None:
    allowed = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    mask = allowed if kind == "bool" else np.where(allowed, 0.5, -np.inf).astype(np.float32)
    inputs = leaves((1, 2, 3, 4), (1, 2, 5, 4), device=device)
    out, dq, dk, dv = run(inputs, sdpa, tl.from_numpy(mask).to(device))
    assert not out[0, :, 1].any() and not dq[0, :, 1].any()
    assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))
    assert out[0, :, 0].any() and dq[0, :, 0].any()


def test_causal_counts_from_the_first_key() -> None:
    for length, source in ((3, 5), (5, 3)):
        inputs = leaves((2, length, 4), (2, source, 4))
        mask = tl.from_numpy(np.tri(length, source, dtype=bool))
        close(run(inputs, sdpa, is_causal=True), run(inputs, sdpa, mask))
        both = tl.from_numpy(np.random.default_rng(5).random((length, source)) < 0.7)
        fused = run(inputs, attention._attention, both, is_causal=True, scale=0.5)
        close(fused, run(inputs, sdpa, both & mask))
        with pytest.raises(RuntimeError, match="Explicit attn_mask should not be set when is_causal=True"):
            sdpa(*inputs, both, is_causal=True)


def test_grouped_heads_are_repeated_heads() -> None:
    q, k, v = leaves((2, 6, 4, 8), (2, 2, 5, 8), (2, 2, 5, 3))
    out, dq, dk, dv = run([q, k, v], sdpa, enable_gqa=True)
    wide = [q, *(t.detach().repeat_interleave(3, 1).requires_grad_() for t in (k, v))]
    want, wq, wk, wv = run(wide, sdpa)
    close([out, dq, dk, dv], [want, wq, wk.reshape(2, 2, 3, 5, 8).sum(2), wv.reshape(2, 2, 3, 5, 3).sum(2)])
    unlike = leaves((2, 6, 4, 8), (2, 3, 5, 8), (2, 2, 5, 3))
    out = sdpa(*unlike, enable_gqa=True)
    assert out.shape == (2, 6, 4, 3)


CASES = [
    dict(is_causal=True), dict(is_causal=False), dict(is_causal=True, mask="bool"), dict(is_causal=False, mask="added"),
    dict(is_causal=True, dropout_p=0.4),
]  # fmt: skip


SHAPES = [((2, 4, 21, 8), (2, 2, 30, 8)), ((3, 1, 33, 4), (3, 1, 9, 4)), ((19, 8), (19, 8))]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_blocks_are_the_formula(case: dict[str, Any], shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that batches, heads and queries are all divided."""
    q, k = shapes
    attrs = dict(is_causal=case["is_causal"], scale=0.3)
    mask: Any = None
    if "mask" in case:
        drawn = np.random.default_rng(3).random((q[-2], k[-2])) < 0.7
        mask = tl.from_numpy(drawn if case["mask"] == "bool" else np.where(drawn, 0.5, -np.inf).astype(np.float32))
    inputs = leaves(q, k)
    p = case.get("dropout_p", 0.0)

    def fused(*tensors: Any) -> Any:
        if p:
            tl.manual_seed(11)
            return attention._attention_dropout(*tensors, mask, dropout_p=p, **attrs)
        return attention._attention(*tensors, mask, **attrs)

    drawn_at = (p, 11, 0) if p else ()
    want = run(inputs, lambda *t: attention._formula(*t, mask, attrs["is_causal"], attrs["scale"], *drawn_at))
    for size, rows in ((1 << 20, 64), (1 << 12, 64), (1 << 10, 8), (256, 5), (1, 64)):
        monkeypatch.setattr(attention, "_BLOCK_BYTES", size)
        monkeypatch.setattr(attention, "_ROWS", rows)
        close(run(inputs, fused), want)


@pytest.mark.parametrize("attrs", [{"is_causal": True}, {"is_causal": False}, {"is_causal": True, "dropout_p": 0.3}])
def test_kernels_over_several_tiles(attrs: dict[str, Any]) -> None:
    """More than one tile of queries and of keys in both passes of the backward, heads padded, in the interpreter."""
    results = []
    for device in ("cpu", "interpret"):
        tl.manual_seed(4)
        results.append(run(leaves((2, 70, 20), (1, 90, 20), (1, 90, 12), device), sdpa, **attrs, enable_gqa=True))
    close(results[1], results[0], 5e-5)


def test_dropout_draws_only_where_it_drops() -> None:
    inputs = leaves((1, 2, 8, 4), (1, 2, 9, 4))
    tl.manual_seed(0)
    state = tl.get_rng_state().tolist()
    plain = sdpa(*inputs)
    assert tl.get_rng_state().tolist() == state
    first, second = (sdpa(*inputs, dropout_p=0.5).detach().numpy() for _ in range(2))
    assert tl.get_rng_state().tolist() != state
    assert not np.array_equal(first, second)
    tl.manual_seed(0)
    np.testing.assert_array_equal(sdpa(*inputs, dropout_p=0.5).detach().numpy(), first)
    assert not sdpa(*inputs, dropout_p=1.0).detach().numpy().any()
    np.testing.assert_array_equal(sdpa(*inputs, dropout_p=0.0).detach().numpy(), plain.detach().numpy())


def test_dropout_keeps_its_share_and_the_mean() -> None:
    kept = attention._keep((4, 8), 64, 63, 0.3, 5, 0)
    assert abs(kept.mean() - 0.7) < 0.005
    q, k = (tl.from_numpy(numbers(1, 256, 4, seed=i)) for i in range(2))
    out = sdpa(q, k, tl.ones(1, 256, 4), dropout_p=0.3).numpy()
    assert abs(out.mean() - 1) < 0.02 and out.std() > 0.01


def test_the_gradient_of_an_added_mask() -> None:
    q, k, v = leaves((2, 3, 4, 8), (2, 3, 5, 8))
    mask = tl.from_numpy(numbers(3, 1, 5, seed=7)).requires_grad_()
    attention._attention(q, k, v, mask, True, 8**-0.5).sum().backward()
    again = mask.detach().requires_grad_()
    attention._formula(q.detach(), k.detach(), v.detach(), again, True, 8**-0.5).sum().backward()
    np.testing.assert_allclose(mask.grad.numpy(), again.grad.numpy(), rtol=1e-4, atol=1e-5)
    assert mask.grad.numpy().any()


@pytest.mark.parametrize(
    ("shape", "chunk"), [((4, 65, 90), 0), ((3, 1, 65, 90), 16), ((90,), 0), ((3, 4, 1, 90), 0)], ids=str
)
def test_a_mask_gradient_over_several_tiles(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Whatever the mask is broadcast along; some programs share a sum; features in chunks, as RDNA has them."""
    config = Config(4, 1, BLOCK_M=32, BLOCK_N=64, CHUNK=chunk)
    monkeypatch.setattr(attention_bias.MASK_GRAD, "choose", lambda *_: config)
    given = [numbers(*s, seed=i) for i, s in enumerate([(3, 4, 65, 20), (3, 2, 90, 20), (3, 2, 90, 12), shape])]
    given[3][..., ::7] = -np.inf

    def grads(device: str, function: Any) -> np.ndarray:
        *t, mask = (tl.from_numpy(x).to(device) for x in given)
        mask.requires_grad_()
        function(*t, mask, True, 0.3).square().sum().backward()
        return mask.grad.cpu().numpy()

    want = grads("cpu", attention._formula)
    for device in ("cpu", "native"):
        np.testing.assert_allclose(grads(device, attention._attention), want, rtol=1e-3, atol=2e-5 * abs(want).max())


@pytest.mark.parametrize(
    ("shapes", "attrs", "error", "match"),
    [
        (((8,), (5, 8), (5, 8)), {}, ShapeError, "at least 2 dimensional"),
        (((2, 6, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8)), {}, ShapeError, "enable_gqa=True"),
        (((2, 6, 4, 8), (2, 4, 5, 8), (2, 4, 5, 8)), {"enable_gqa": True}, ShapeError, "must divide"),
        (((4, 8), (5, 8), (5, 8)), {"enable_gqa": True}, DimError, "Dimension out of range"),
        (((4, 8), (5, 7), (5, 8)), {}, ShapeError, "last size"),
        (((4, 8), (5, 8), (6, 8)), {}, ShapeError, "length"),
        (((4, 8), (5, 8), (5, 8)), {"dropout_p": 1.5}, ArgumentError, "between 0 and 1"),
        (((4, 8), (5, 8), (5, 8)), {"attn_mask": (4, 4)}, ShapeError, "attn_mask of shape"),
    ],
)
def test_errors_say_what_came(shapes: Any, attrs: dict[str, Any], error: type[Exception], match: str) -> None:
    if "attn_mask" in attrs:
        attrs = {**attrs, "attn_mask": tl.ones(*attrs["attn_mask"]).bool()}
    with pytest.raises(error, match=match):
        sdpa(*[tl.ones(*s) for s in shapes], **attrs)


def test_dtypes_that_do_not_fit() -> None:
    x = tl.ones(4, 8)
    with pytest.raises(DtypeError, match="to have the same dtype"):
        sdpa(x, x.double(), x)
    with pytest.raises(DtypeError, match="floating-point"):
        sdpa(x.int(), x.int(), x.int())
    with pytest.raises(DtypeError, match="attn_mask dtype"):
        sdpa(x, x, x, tl.ones(4, 4).int())
    assert sdpa(x.bfloat16(), x.bfloat16(), x.bfloat16(), tl.zeros(4, 4)).dtype == tl.bfloat16
