"""flex_attention beside PyTorch's values, and the fused functions beside those of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flex_cases
import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import ArgumentError, UnsupportedError
from tensorlib.nn.attention import flex_attention as flex
from tensorlib.nn.attention import mods
from tensorlib.op import jit
from tensorlib.ops import flex_attention as operators
from tensorlib.runtime import launch

STORED = np.load(Path(__file__).parent / "flex_attention.npz")
numbers = flex_cases.numbers


def run(arrays: list[np.ndarray], device: str = "cpu", dtype: Any = tl.float64, **options: Any) -> list[np.ndarray]:
    """Output, log-sum-exp, the largest scores where asked for, and gradients of a weighed sum, as float64."""
    q, k, v, g, g_lse = (tl.from_numpy(x).to(dtype).to(device) for x in arrays)
    for t in (q, k, v):
        t.requires_grad_()
    request = options.pop("return_aux", flex.AuxRequest(lse=True))
    out, aux = flex.flex_attention(q, k, v, enable_gqa=True, return_aux=request, **options)
    finite = tl.isfinite(aux.lse)
    lse = tl.where(finite, aux.lse, tl.zeros((), device=device, dtype=aux.lse.dtype))
    ((out * g).sum() + (lse * g_lse).sum()).backward()
    found = [out, aux.lse, *([] if aux.max_scores is None else [aux.max_scores]), *(t.grad for t in (q, k, v))]
    return [t.detach().cpu().double().numpy() for t in found]


def close(got: list[np.ndarray], want: list[np.ndarray], tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("i", range(len(flex_cases.CASES)), ids=lambda i: "-".join(flex_cases.CASES[i]))
def test_as_pytorch(i: int) -> None:
    size, score, mask = flex_cases.CASES[i]
    arrays = flex_cases.operands(size)
    mask_mod = flex_cases.mask_mod(tl, flex, mask)
    L, S = flex_cases.SIZES[size][:2]
    blocks = None if mask_mod is None else flex.create_block_mask(mask_mod, 2, 4, L, S, "cpu", 8)
    want = [STORED[f"{i} {j}"] for j in range(6)]
    options: dict[str, Any] = dict(score_mod=flex_cases.score_mod(tl, score), block_mask=blocks)
    close(run(arrays, return_aux=flex.AuxRequest(True, True), **options), want, 1e-10)
    close(run(arrays, **options), [*want[:2], *want[3:]], 1e-10)
    if blocks is not None:
        for j, name in enumerate(flex._TENSORS[:8]):
            np.testing.assert_array_equal(getattr(blocks, name).numpy(), STORED[f"{i} {j + 6}"])
            assert getattr(blocks, name).dtype == tl.int32
        assert str(blocks) == str(STORED[f"{i} text"])


def chains(device: str) -> dict[str, tuple[Any, Any]]:
    """Fused functions of scores and masks."""
    slopes = tl.from_numpy(np.float32([0.3, 0.1, 0.05, 0.2])).to(device)
    ids = tl.from_numpy(np.arange(90) // 11).to(device)
    cap, alibi = mods.tanh_softcap(2.0), mods.alibi_bias(slopes)
    return {
        "cap": (cap, None), "alibi, causal": (alibi, mods.causal_mask),
        "both": (mods.compose(alibi, cap), mods.sliding_window_mask(9)),
        "two sides": (None, mods.sliding_window_mask(20, 4)), "from the left": (cap, mods.sliding_window_mask(3, -1)),
        "documents": (alibi, flex.and_masks(mods.document_mask(ids), mods.causal_mask)),
        "prefix": (cap, mods.prefix_lm_mask(5)), "far": (None, mods.sliding_window_mask(0, 0)),
    }  # fmt: skip


def plain(mod: Any) -> Any:
    """The same function as one that no kernel knows."""
    if isinstance(mod, mods.MaskMod):
        return lambda b, h, q, k: mod(b, h, q, k)
    return mod and (lambda s, b, h, q, k: mod(s, b, h, q, k))


@pytest.mark.parametrize("device", ["cpu", "interpret", "native"])
@pytest.mark.parametrize("name", chains("cpu"))
def test_fused_functions_are_those_of_tensors(name: str, device: str) -> None:
    arrays = flex_cases.operands("square")
    L, S = (150, 90) if device == "native" else (35, 50)
    arrays = [numbers(2, h, n, *f, seed=i) for i, (h, n, f) in enumerate(
        [(4, L, (20,)), (2, S, (20,)), (2, S, (12,)), (4, L, (12,)), (4, L, ())])]  # fmt: skip
    if name == "documents":
        L = S = 90 if device == "native" else 50
        arrays = [x[:, :, :S] if x.shape[2] >= S else numbers(*x.shape[:2], S, *x.shape[3:], seed=5) for x in arrays]
    score, mask = chains(device)[name]
    of_tensors, masked = (plain(m) for m in chains("cpu")[name])
    blocks, others = (
        None if m is None else flex.create_block_mask(m, None, None, L, S, device=d)
        for m, d in ((mask, device), (masked, "cpu"))
    )
    with launch.Coverage() as seen:
        got = run(arrays, device, tl.float32, score_mod=score, block_mask=blocks)
    close(got, run(arrays, score_mod=of_tensors, block_mask=others), 3e-5)
    if device != "cpu":
        assert {"attention_kernel", "query_grad_kernel", "key_grad_kernel"} <= {f.__name__ for f in seen.reached}


@pytest.mark.parametrize(
    "dtype, features", [(tl.bfloat16, 16), (tl.float16, 40), (tl.bfloat16, 128), (tl.float16, 256)]
)
def test_half_types_at_sizes_of_use(dtype: Any, features: int) -> None:
    E = (features,)
    shapes = [(4, 300, E), (2, 333, E), (2, 333, E), (4, 300, E), (4, 300, ())]
    arrays = [numbers(1, h, n, *f, seed=i) for i, (h, n, f) in enumerate(shapes)]
    arrays = [tl.from_numpy(x).to(dtype).double().numpy() for x in arrays]
    masks = [flex.create_block_mask(m, None, None, 300, 333, device=d) for m, d in (
        (mods.sliding_window_mask(100, 7), "native"), (plain(mods.sliding_window_mask(100, 7)), "cpu"))]  # fmt: skip
    cap = mods.tanh_softcap(5.0)
    got = run(arrays, "native", dtype, score_mod=cap, block_mask=masks[0])
    want = run(arrays, score_mod=plain(cap), block_mask=masks[1])
    bound = 4e-3 if dtype == tl.bfloat16 else 5e-4
    for a, b in zip(got, want, strict=True):
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)


@pytest.mark.parametrize("device", ["cpu", "native"])
def test_gradients_are_the_same_bits_each_time(device: str) -> None:
    arrays = [numbers(2, 4, 200, 16, seed=i) for i in range(4)] + [numbers(2, 4, 200, seed=4)]
    mask = flex.create_block_mask(mods.sliding_window_mask(40), None, None, 200, 200, device=device)
    cap = mods.tanh_softcap(3.0)
    first, second = (run(arrays, device, tl.float32, score_mod=cap, block_mask=mask) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("device", ["cpu", "interpret", "native"])
def test_rows_without_keys_and_nan(device: str) -> None:
    """Zeros and -inf where a query sees no key; a NaN in a key reaches the queries that see it, and no others."""
    q, k, v = (tl.from_numpy(numbers(1, 1, n, 8, seed=n).astype(np.float32)).to(device) for n in (20, 6, 7))
    k = k.clone()
    k[0, 0, 3] = float("nan")
    blocks = flex.create_block_mask(mods.sliding_window_mask(2, 0), None, None, 20, 6, device=device)
    out, lse = flex.flex_attention(
        q, k, v[:, :, :6], mods.tanh_softcap(2.0), blocks, return_lse=True
    )  # fmt: skip
    out, lse = out[0, 0].cpu().numpy(), lse[0, 0].cpu().numpy()
    assert not out[8:].any() and np.isneginf(lse[8:]).all()
    assert np.isnan(out[3:6]).all() and np.isnan(lse[3:6]).all()
    assert np.isfinite(out[:3]).all() and np.isfinite(out[6:8]).all() and out[6:8].any()


def test_window_is_skipped() -> None:
    """The kernel visits only tiles that hold a key in the window: keys outside may be anything."""
    q, k, v = (tl.from_numpy(numbers(1, 1, 512, 16, seed=i).astype(np.float32)).to("native") for i in range(3))
    blocks = flex.create_block_mask(mods.sliding_window_mask(3), None, None, 512, 512, device="native")
    want = flex.flex_attention(q, k, v, block_mask=blocks)[0, 0, 300:310]
    k[0, 0, :200] = float("nan")
    v[0, 0, 400:] = float("inf")
    np.testing.assert_array_equal(
        flex.flex_attention(q, k, v, block_mask=blocks)[0, 0, 300:310].cpu().numpy(), want.cpu().numpy()
    )


def test_a_learned_parameter_has_its_gradient() -> None:
    slopes = tl.tensor([0.1, 0.2], requires_grad=True)
    q, k, v = (tl.from_numpy(numbers(1, 2, 5, 4, seed=i).astype(np.float32)) for i in range(3))
    flex.flex_attention(q, k, v, mods.alibi_bias(slopes)).sum().backward()
    other = slopes.detach().requires_grad_()
    flex.flex_attention(q, k, v, lambda s, b, h, i, j: s + other[h] * (j - i)).sum().backward()
    np.testing.assert_allclose(slopes.grad.numpy(), other.grad.numpy(), rtol=1e-5)
    assert slopes.grad.numpy().all()


def test_second_order() -> None:
    q, k, v = (tl.from_numpy(numbers(1, 2, 5, 4, seed=i)).requires_grad_() for i in range(3))
    blocks = flex.create_block_mask(mods.sliding_window_mask(2), None, None, 5, 5, device="cpu")
    assert tl.autograd.gradgradcheck(
        lambda *t: flex.flex_attention(*t, score_mod=mods.tanh_softcap(1.5), block_mask=blocks), (q, k, v)
    )


def test_a_function_of_ones_own() -> None:
    """As the module's docstring has it, forward and backward in the kernels."""
    made = mods.score_function(
        "tests_distance", _scaled, _scaled_grad, lambda s, b, h, q, k, rate: s * (-rate * (q - k).abs()).exp()
    )
    arrays = [numbers(1, 2, 40, 16, seed=i) for i in range(4)] + [numbers(1, 2, 40, seed=4)]
    mod = mods.compose(made(0.1), mods.tanh_softcap(2.0))
    close(run(arrays, "interpret", tl.float32, score_mod=mod), run(arrays, score_mod=plain(mod)), 3e-5)
    with pytest.raises(ArgumentError, match="declared already"):
        mods.score_function("tests_distance", _scaled, _scaled_grad, lambda s, *_: s)


@jit
def _scaled(score, batch, head, query, key, rate):
    return score * tl.exp(-rate * tl.abs(query - key).to(score.dtype))


@jit
def _scaled_grad(grad, score, batch, head, query, key, rate):
    return grad * tl.exp(-rate * tl.abs(query - key).to(score.dtype))


def test_masks_of_ours_join_into_one() -> None:
    joined = flex.and_masks(mods.causal_mask, mods.sliding_window_mask(7, 3), mods.prefix_lm_mask(4))
    assert isinstance(joined, mods.MaskMod) and joined.window == (7, 0) and len(joined.chain) == 1
    at = [tl.arange(n).reshape(s) for n, s in ((1, (1, 1)), (1, (1, 1)), (12, (12, 1)), (12, (12,)))]
    i, j = np.mgrid[:12, :12]
    want = (j <= i) & (j >= i - 7) & ((j < 4) | (j <= i))
    np.testing.assert_array_equal(joined(*at).numpy(), want)
    assert not isinstance(flex.or_masks(mods.causal_mask, mods.prefix_lm_mask(4)), mods.MaskMod)


def test_alibi_slopes() -> None:
    np.testing.assert_allclose(mods.alibi_slopes(8).numpy(), [2.0**-i for i in range(1, 9)])
    twelve = mods.alibi_slopes(12).numpy()
    np.testing.assert_allclose(twelve[:8], [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(twelve[8:], [2.0 ** -(i + 0.5) for i in range(4)], rtol=1e-6)


def test_errors() -> None:
    x = tl.ones(1, 2, 4, 8)
    blocks = flex.create_block_mask(lambda b, h, q, k: q >= k, None, None, 4, 4, device="cpu")
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "same number of heads", lambda: flex.flex_attention(x, x[:, :1], x[:, :1])),
        (ValueError, "multiple of kv heads", lambda: flex.flex_attention(tl.ones(1, 3, 4, 8), x, x, enable_gqa=True)),
        (ValueError, "embedding dimension", lambda: flex.flex_attention(x, x[..., :4], x)),
        (NotImplementedError, "4D", lambda: flex.flex_attention(x[0], x[0], x[0])),
        (ValueError, "smaller length", lambda: flex.flex_attention(tl.ones(1, 2, 5, 8), x, x, block_mask=blocks)),
        (RuntimeError, "sliced", lambda: flex.flex_attention(x, x, x, block_mask=blocks[0])),
        (ValueError, "return_aux", lambda: flex.flex_attention(
            x, x, x, return_lse=True, return_aux=flex.AuxRequest())),
        (ValueError, "BACKEND", lambda: flex.flex_attention(x, x, x, kernel_options={"BACKEND": "FAST"})),
        (ValueError, "same batch size", lambda: flex.flex_attention(tl.ones(3, 2, 4, 8), x, x)),
        (AssertionError, "mask_mod", lambda: flex.create_block_mask(lambda s, b, h, q, k: s, 1, 1, 4, 4, device="cpu")),
        (AssertionError, "4 or 5", lambda: flex.create_mask(lambda q, k: q, 1, 1, 4, 4, device="cpu")),
        (ArgumentError, "above 0", lambda: mods.tanh_softcap(0.0)),
        (ArgumentError, "at least 0", lambda: mods.sliding_window_mask(-2)),
    ]  # fmt: skip
    for error, match, call in cases:
        with pytest.raises(error, match=match):
            call()
    assert issubclass(UnsupportedError, NotImplementedError)


def test_the_operators_formula_is_the_operator() -> None:
    """What second derivatives go through, at several shapes."""
    for window, aligned in (((-1, 0), True), ((3, 1), True), ((2, -1), False)):
        q, k, v = (tl.from_numpy(numbers(2, h, n, 8, seed=n)) for h, n in ((4, 9), (2, 14), (2, 14)))
        given = (q, k, v, None, [], [], window, aligned, (("softcap", 2.0),), 0.4, None)
        for a, b in zip(operators._flex_attention(*given), operators._formula(*given), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10)


def test_autocast_narrows_the_operands_and_nothing_within() -> None:
    q, k, v = (tl.from_numpy(numbers(1, 2, 40, 16, seed=i).astype(np.float32)) for i in range(3))
    for mod in (mods.tanh_softcap(2.0), plain(mods.tanh_softcap(2.0))):
        with tl.autocast("cpu", dtype=tl.bfloat16):
            got = flex.flex_attention(q, k, v, mod)
        want = flex.flex_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mod)
        assert got.dtype == tl.bfloat16
        np.testing.assert_array_equal(got.float().numpy(), want.float().numpy())


@pytest.mark.parametrize("fused", [False, True])
def test_blocks_that_a_mask_leaves_out_are_not_read(fused: bool) -> None:
    """NaN in keys of no listed block reaches nothing, forward or backward; the rest is what the dense mask gives."""
    L, S, seen = 70, 130, 64
    documents = tl.from_numpy(np.arange(S) * 3 // S)

    def made(device: str) -> flex.BlockMask:
        ids = documents.to(device)
        mask = mods.document_mask(ids[:L].contiguous(), ids) if fused else lambda b, h, q, k: ids[q] == ids[k]
        return flex.create_block_mask(mask, None, None, L, S, device=device, BLOCK_SIZE=(32, 32))

    def grads(device: str, poison: float) -> list[np.ndarray]:
        q, k, v = (numbers(1, h, n, 16, seed=n).astype(np.float32) for h, n in ((4, L), (2, S), (2, S)))
        k[:, :, 3 * 32 :], v[:, :, 3 * 32 :] = poison, poison
        x = [tl.from_numpy(a).to(device).requires_grad_() for a in (q, k, v)]
        out = flex.flex_attention(*x, mods.tanh_softcap(3.0), made(device), enable_gqa=True)
        return [t.detach().cpu().numpy() for t in (out, *tl.autograd.grad(out.square().sum(), x))]

    assert int(documents[:L].max()) == 1 and int((documents <= 1).sum()) < 3 * 32, seen
    blocks = made("native")
    listed = flex._lists(blocks, tl.device("native"))
    assert listed is not None and flex._lists(blocks, tl.device("cpu")) is None
    assert 0 < blocks.sparsity() < 100 and int(blocks.full_kv_num_blocks.sum()) > 0
    for got, want in zip(grads("native", np.nan), grads("cpu", 0.0), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("which", ["keys", "queries", "heads"])
def test_masks_of_one_index_alone(which: str) -> None:
    """Such as padding: the bools of a cut block are one row or column of it, expanded."""
    lengths = tl.from_numpy(np.int64([21, 50]))

    def grads(device: str) -> list[np.ndarray]:
        n = lengths.to(device)
        mask = {
            "keys": lambda b, h, q, k: k < n[b], "queries": lambda b, h, q, k: q < n[b],
            "heads": lambda b, h, q, k: (q + k < n[h]) & (b < 1),
        }[which]  # fmt: skip
        blocks = flex.create_block_mask(mask, 2, 2, 40, 70, device=device, BLOCK_SIZE=(16, 32))
        arrays = [numbers(2, 2, n, 16, seed=i).astype(np.float32) for i, n in enumerate((40, 70, 70, 40))]
        x = [tl.from_numpy(a).to(device).requires_grad_() for a in arrays]
        out = flex.flex_attention(*x[:3], block_mask=blocks)
        return [t.detach().cpu().numpy() for t in (out, *tl.autograd.grad(out, x[:3], x[3]))]

    for got, want in zip(grads("native"), grads("cpu"), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_blocks_count_only_where_they_agree_with_the_mask() -> None:
    """Lists made by hand and a mask_mod set later say nothing of what may be skipped; moved and cropped ones do."""
    blocks = flex.create_block_mask(mods.causal_mask, None, None, 64, 64, device="cpu", BLOCK_SIZE=16)
    native = tl.device("native")
    assert flex._lists(blocks, native) is not None and flex._lists(blocks._adjust(40, 50), native) is not None
    assert flex._lists(blocks._adjust(80, 64), native) is None and flex._lists(blocks[0], native) is None
    by_hand = flex.BlockMask.from_kv_blocks(blocks.kv_num_blocks, blocks.kv_indices, None, None, 16, mods.causal_mask)
    assert flex._lists(by_hand, native) is None
    blocks.mask_mod = mods.prefix_lm_mask(3)
    assert flex._lists(blocks, native) is None
