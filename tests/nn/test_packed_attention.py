"""Attention of packed sequences, and over paged caches, beside float64 of each sequence by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import AutogradError, DtypeError, ShapeError
from tensorlib.kernels import paged_attention as kernels
from tensorlib.nn import functional as F
from tensorlib.nn.attention import bias, mods, paged_attention, varlen
from tensorlib.ops import paged_attention as operators
from tensorlib.runtime import launch

SLOPES = np.float32([0.3, 0.1, 0.05, 0.2])


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def cumulated(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def of_one(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, window: tuple[int, int], slopes: Any = None, cap: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(out, log-sum-exp (heads, queries)) of one sequence (tokens, heads, features), all of its scores at once."""
    (L, H, E), S = q.shape, k.shape[0]
    k, v = (np.repeat(x, H // x.shape[1], 1) for x in (k, v))
    s = np.einsum("ihe,jhe->hij", q, k) / math.sqrt(E)
    away = np.arange(S) - (np.arange(L)[:, None] + S - L)
    if slopes is not None:
        s = s + slopes[:, None, None] * away
    if cap:
        s = cap * np.tanh(s / cap)
    seen = np.ones((L, S), bool)
    if window[0] >= 0:
        seen &= away >= -window[0]
    if window[1] >= 0:
        seen &= away <= window[1]
    w = np.where(seen, np.exp(s), 0.0)
    sums = w.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(sums[..., None] > 0, w / sums[..., None], 0.0)
        lse = np.where(sums > 0, np.log(sums), np.inf)
    return np.einsum("hij,jhe->ihe", w, v), lse


LENGTHS = {
    "ragged": ([1, 37, 0, 64, 5], [20, 37, 3, 1, 90]), "same": ([16, 16], [16, 16]), "one": ([33], [70]),
    "no keys": ([5, 4], [0, 9]), "more queries": ([40, 3], [7, 3]),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "interpret", "native"])
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (9, 2)], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_each_sequence_is_for_itself(lengths: str, window: tuple[int, int], device: str) -> None:
    queries, keys = LENGTHS[lengths]
    if device == "interpret" and lengths != "ragged":
        queries, keys = queries[:2], keys[:2]
    cu_q, cu_k = cumulated(queries), cumulated(keys)
    q, k, v = numbers(sum(queries), 4, 20), numbers(sum(keys), 2, 20, seed=1), numbers(sum(keys), 2, 12, seed=2)
    given = [tl.from_numpy(x.astype(np.float32)).to(device) for x in (q, k, v)]
    cus = [tl.from_numpy(x).to(device) for x in (cu_q, cu_k)]
    fancy = window == (9, 2)
    slopes = tl.from_numpy(SLOPES).to(device)
    mod = mods.compose(mods.alibi_bias(slopes), mods.tanh_softcap(2.0)) if fancy else None
    out, lse = varlen.varlen_attn(
        *given, *cus, max(queries), max(keys), window_size=window, enable_gqa=True, score_mod=mod,
        return_aux=varlen.AuxRequest(lse=True),
    )  # fmt: skip
    assert out.shape == (sum(queries), 4, 12) and lse.shape == (4, sum(queries)) and lse.dtype == tl.float32
    for n in range(len(queries)):
        rows, cols = slice(cu_q[n], cu_q[n + 1]), slice(cu_k[n], cu_k[n + 1])
        want, sums = of_one(q[rows], k[cols], v[cols], window, SLOPES if fancy else None, 2.0 if fancy else 0.0)
        np.testing.assert_allclose(out.cpu().numpy()[rows], want, atol=2e-5, rtol=2e-5)
        np.testing.assert_allclose(lse.cpu().numpy()[:, rows], sums, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("device", ["cpu", "interpret", "native"])
@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16], ids=str)
def test_gradients_are_those_of_attention_apart(dtype: Any, device: str) -> None:
    queries, keys = ([1, 20, 0, 9], [8, 20, 3, 30]) if device == "interpret" else ([1, 200, 0, 90], [8, 200, 3, 300])
    cu_q, cu_k = cumulated(queries), cumulated(keys)
    arrays = [numbers(sum(n), h, 16, seed=i) for i, (n, h) in enumerate(((queries, 4), (keys, 2), (keys, 2)))]
    arrays = [tl.from_numpy(x).to(dtype).double().numpy() for x in arrays]
    g = tl.from_numpy(numbers(sum(queries), 4, 16, seed=7)).to(dtype)
    leaves = [tl.from_numpy(x).to(dtype).to(device).requires_grad_() for x in arrays]
    cus = [tl.from_numpy(x).to(device) for x in (cu_q, cu_k)]
    out = varlen.varlen_attn(*leaves, *cus, max(queries), max(keys), window_size=(-1, 0), enable_gqa=True)
    out.backward(g.to(device))
    alone = [tl.from_numpy(x).requires_grad_() for x in arrays]
    total = tl.zeros((), dtype=tl.float64)
    for n in range(len(queries)):
        rows, cols = slice(cu_q[n], cu_q[n + 1]), slice(cu_k[n], cu_k[n + 1])
        q, k, v = (t[at].transpose(0, 1) for t, at in zip(alone, (rows, cols, cols), strict=True))
        y = F.scaled_dot_product_attention(
            q, k, v, bias.causal_lower_right(queries[n], keys[n]), enable_gqa=True
        ).transpose(0, 1)  # fmt: skip
        total = total + (y * g[rows].double()).sum()
    total.backward()
    bound = 2e-6 if dtype == tl.float32 else 4e-3
    for a, b in zip(leaves, alone, strict=True):
        got, want = a.grad.cpu().double().numpy(), b.grad.numpy()
        assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want)


def test_only_the_keys_that_are_used_count() -> None:
    q, k, v = (tl.from_numpy(numbers(n, 2, 8, seed=n).astype(np.float32)) for n in (5, 30, 31))
    v = v[:30]
    k[[4, 29]] = float("nan")
    cu_q, cu_k, used = (tl.tensor(x, dtype=tl.int32) for x in ([0, 2, 5], [0, 10, 30], [4, 19]))
    results = []
    for device in ("cpu", "interpret", "native"):
        at = [t.to(device) for t in (q, k, v, cu_q, cu_k)]
        out = varlen.varlen_attn(*at, 3, 20, seqused_k=used.to(device))
        assert np.isfinite(out.cpu().numpy()).all()
        results.append(out.cpu().numpy())
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    np.testing.assert_allclose(results[0], results[2], atol=1e-6)
    with pytest.raises(RuntimeError, match="seqused_k is an inference-only parameter"):
        varlen.varlen_attn(q.requires_grad_(), k, v, cu_q, cu_k, 3, 20, seqused_k=used)


def test_written_into_out() -> None:
    q = tl.from_numpy(numbers(6, 2, 8).astype(np.float32))
    cu = tl.tensor([0, 4, 6], dtype=tl.int32)
    out = tl.empty(6, 2, 8)
    got, lse = varlen.varlen_attn_out(out, q, q, q, cu, cu, 4, 4, return_aux=varlen.AuxRequest(True))
    assert got is out and lse.shape == (2, 6)
    np.testing.assert_array_equal(out.numpy(), varlen.varlen_attn(q, q, q, cu, cu, 4, 4).numpy())


# ---------------------------------------------------------------------------------------------------------- paged cache


def cache(used: list[int], page: int, heads: int, features: int, seed: int = 0) -> tuple[Any, ...]:
    """(keys, values) in pages in no order, the table of them, and the same keys and values of each sequence."""
    rng = np.random.default_rng(seed)
    each = [-(-n // page) for n in used]
    pages = sum(each) + 3
    order = rng.permutation(pages)
    table = np.full((len(used), max(*each, 1)), pages - 1, np.int32)
    k, v = (rng.standard_normal((pages, page, heads, features)).astype(np.float32) for _ in range(2))
    rows, at = [], 0
    for n, count in enumerate(each):
        table[n, :count] = order[at : at + count]
        rows.append([x[table[n, :count]].reshape(-1, heads, features)[: used[n]] for x in (k, v)])
        at += count
    for x in (k, v):  # what no sequence uses must not be read into a result
        unused = np.ones((pages, page), bool)
        for n, count in enumerate(each):
            for i in range(count):
                unused[table[n, i], : used[n] - i * page] = False
        x[unused] = np.nan
    return k, v, table, rows


@pytest.mark.parametrize("device", ["cpu", "interpret", "native"])
@pytest.mark.parametrize(
    "page, queries, splits, window, fancy",
    [
        (16, 1, None, (-1, 0), False), (64, 1, 3, (-1, 0), False), (5, 3, 2, (-1, 0), True), (16, 4, 1, (20, 0), False),
        (128, 2, 4, (30, 0), True), (16, 40, 2, (-1, 0), False),
    ],
)  # fmt: skip
def test_paged(page: int, queries: int, splits: int | None, window: Any, fancy: bool, device: str) -> None:
    used = [40, 1, 97, 0, 64] if device == "interpret" else [400, 1, 297, 0, 64, 129]
    k, v, table, rows = cache(used, page, 2, 24)
    q = numbers(len(used), queries, 4, 24, seed=5)
    given = [tl.from_numpy(x).to(device) for x in (q.astype(np.float32), k, v, table, np.array(used, np.int32))]
    mod = None
    if fancy:
        mod = mods.compose(mods.alibi_bias(tl.from_numpy(SLOPES).to(device)), mods.tanh_softcap(2.0))
    with launch.Coverage() as seen:
        out, lse = paged_attention(
            *given, window_size=window, score_mod=mod, num_splits=splits, return_lse=True
        )  # fmt: skip
    assert out.shape == q.shape and lse.shape == (4, len(used) * queries)
    assert device == "cpu" or (kernels.merge_splits_kernel in seen.reached) == ((splits or 1) > 1)
    for n, (keys, values) in enumerate(rows):
        want, sums = of_one(q[n], keys, values, window, SLOPES if fancy else None, 2.0 if fancy else 0.0)
        np.testing.assert_allclose(out.cpu().numpy()[n], want, atol=3e-5, rtol=3e-5)
        got = lse.cpu().numpy()[:, n * queries : (n + 1) * queries]
        np.testing.assert_allclose(got, sums, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16], ids=str)
@pytest.mark.parametrize("heads, of_key, features", [(32, 8, 128), (8, 1, 64), (4, 4, 256)])
def test_decoding_at_sizes_of_use(dtype: Any, heads: int, of_key: int, features: int) -> None:
    used = [1200, 3, 777]
    k, v, table, _ = cache(used, 64, of_key, features)
    q = numbers(3, heads, features, seed=5).astype(np.float32)
    given = [tl.from_numpy(x).to(dtype).to("native") for x in (q, k, v)]
    lengths = [tl.from_numpy(x).to("native") for x in (table, np.array(used, np.int32))]
    whole = paged_attention(*given, *lengths, num_splits=1).float().cpu().numpy()
    split = paged_attention(*given, *lengths, num_splits=5).float().cpu().numpy()
    rounded = [tl.from_numpy(x).to(dtype).double().numpy() for x in (q, k, v)]
    for n, count in enumerate(used):
        pages = table[n, : -(-count // 64)]
        keys, values = (x[pages].reshape(-1, of_key, features)[:count] for x in rounded[1:])
        want, _ = of_one(rounded[0][n][None], keys, values, (-1, 0))
        for got in (whole, split):
            bound = 4e-3 if dtype == tl.bfloat16 else 1e-3
            assert np.linalg.norm(got[n] - want[0]) <= bound * np.linalg.norm(want)


def test_pages_are_packed_sequences() -> None:
    """varlen_attn with a block table, queries of different lengths, is what it is without."""
    used, queries = [40, 9, 70], [7, 1, 33]
    k, v, table, rows = cache(used, 16, 2, 8)
    q = tl.from_numpy(numbers(sum(queries), 4, 8).astype(np.float32))
    cu_q, cu_k = (tl.from_numpy(cumulated(x)) for x in (queries, used))
    plain = [tl.from_numpy(np.concatenate([r[i] for r in rows])) for i in range(2)]
    for device in ("cpu", "native"):
        want = varlen.varlen_attn(
            q.to(device), *(t.to(device) for t in plain), cu_q.to(device), cu_k.to(device), 33, 70,
            window_size=(-1, 0), enable_gqa=True,
        )  # fmt: skip
        got = varlen.varlen_attn(
            q.to(device), *(tl.from_numpy(x).to(device) for x in (k, v)), cu_q.to(device), None, 33, 70,
            window_size=(-1, 0), enable_gqa=True, seqused_k=tl.tensor(used, dtype=tl.int32).to(device),
            block_table=tl.from_numpy(table).to(device), num_splits=2,
        )  # fmt: skip
        np.testing.assert_allclose(got.cpu().numpy(), want.cpu().numpy(), atol=2e-6)


def test_how_many_shares() -> None:
    gpu = tl.device("sm_90")
    assert kernels.splits(8, 8192, gpu) > 8 and kernels.splits(8, 8192, gpu) * 256 <= 8192
    assert kernels.splits(10000, 8192, gpu) == 1 and kernels.splits(1, 100, gpu) == 1
    assert kernels.splits(1, 1 << 20, tl.device("native")) == 1


@pytest.mark.parametrize("size", [(3, 7), (7, 3), (5, 5)])
@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.filterwarnings("ignore:Lower right causal bias")
def test_causal_biases(size: tuple[int, int], device: str) -> None:
    L, S = size
    q, k = (tl.from_numpy(numbers(2, n, 8, seed=n).astype(np.float32)).to(device) for n in (L, S))
    for made, diagonal in ((bias.causal_upper_left(L, S), 0), (bias.causal_lower_right(L, S), S - L)):
        mask = tl.from_numpy(np.tri(L, S, diagonal, dtype=bool)).to(device)
        np.testing.assert_array_equal(made._materialize().numpy(), mask.cpu().numpy())
        got, want = (F.scaled_dot_product_attention(q, k, k, m).cpu().numpy() for m in (made, mask))
        np.testing.assert_allclose(got, want, atol=1e-6)
        tl.manual_seed(0)
        dropped = F.scaled_dot_product_attention(q, k, k, made, dropout_p=0.5).cpu().numpy()
        tl.manual_seed(0)
        want = F.scaled_dot_product_attention(q, k, k, mask, dropout_p=0.5).cpu().numpy()
        np.testing.assert_allclose(dropped, want, atol=1e-6)
    with pytest.raises(ValueError, match="causal=True"):
        F.scaled_dot_product_attention(q, k, k, bias.causal_upper_left(L, S), is_causal=True)


def test_errors() -> None:
    x = tl.ones(4, 2, 8)
    cu = tl.tensor([0, 4], dtype=tl.int32)
    pages, table, used = tl.ones(3, 16, 2, 8), tl.tensor([[0, 1]], dtype=tl.int32), tl.tensor([20], dtype=tl.int32)
    learned = mods.alibi_bias(tl.ones(2, requires_grad=True))
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "same number of heads", lambda: varlen.varlen_attn(x, x[:, :1], x[:, :1], cu, cu, 4, 4)),
        (ValueError, "length 2", lambda: varlen.varlen_attn(x, x, x, cu, cu, 4, 4, window_size=(1,))),
        (ValueError, "expected cu_seq_k", lambda: varlen.varlen_attn(x, x, x, cu, None, 4, 4)),
        (DtypeError, "int32 or int64", lambda: varlen.varlen_attn(x, x, x, cu.float(), cu, 4, 4)),
        (TypeError, "ScoreMod", lambda: varlen.varlen_attn(x, x, x, cu, cu, 4, 4, score_mod=lambda *a: a[0])),
        (AutogradError, "requires grad", lambda: varlen.varlen_attn(x, x, x, cu, cu, 4, 4, score_mod=learned)),
        (ValueError, "needs seqused_k", lambda: varlen.varlen_attn(
            x, pages, pages, cu, None, 4, 20, block_table=table)),
        (ShapeError, "pass cu_seq_q", lambda: paged_attention(x, pages, pages, table, used)),
        (ShapeError, "max_q", lambda: paged_attention(x, pages, pages, table, used, cu_seq_q=cu)),
        (ShapeError, "pages, page size", lambda: paged_attention(x[:1], x, x, table, used)),
        (RuntimeError, "no gradient", lambda: paged_attention(x[:1].requires_grad_(), pages, pages, table, used)),
        (AssertionError, "2D", lambda: bias.causal_upper_left(3)),
    ]  # fmt: skip
    for error, match, call in cases:
        with pytest.raises(error, match=match):
            call()
    assert operators._paged_attention(x[:1], pages, pages, table, used, None, [], 1, (-1, -1), (), 1.0, 0)[0].shape
