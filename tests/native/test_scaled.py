"""tl.dot_scaled natively, of every format, beside float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as T
from tensorlib.op import jit, launch

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
TYPES = {"e4m3": T.float8_e4m3fn, "e5m2": T.float8_e5m2, "bf16": T.bfloat16, "fp16": T.float16}
M, N, K, STEP = 32, 64, 128, 64


# One program makes out (M, N) of a (M, K) and b (K, N), two steps of their terms; e2m1 are packed along K (or M and N).
@jit
def _products(
    out, a, scale_a, b, scale_b, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr,
    GROUP: tl.constexpr, A: tl.constexpr, B: tl.constexpr, ALONG_K: tl.constexpr,
):  # fmt: skip
    m, n, g = tl.arange(0, M), tl.arange(0, N), tl.arange(0, STEP // GROUP)
    per_a: tl.constexpr = 2 if A == "e2m1" else 1
    per_b: tl.constexpr = 2 if B == "e2m1" else 1
    if ALONG_K:
        i, ki, wide_a = m, tl.arange(0, STEP // per_a), K // per_a
        j, kj, wide_b = n, tl.arange(0, STEP // per_b), N
    else:
        i, ki, wide_a = tl.arange(0, M // per_a), tl.arange(0, STEP), K
        j, kj, wide_b = tl.arange(0, N // per_b), tl.arange(0, STEP), N // per_b
    acc = tl.zeros((M, N), tl.float32)
    for step in range(K // STEP):
        x = tl.load(a + i[:, None] * wide_a + (step * ki.shape[0] + ki)[None, :])
        y = tl.load(b + (step * kj.shape[0] + kj)[:, None] * wide_b + j[None, :])
        s = None
        t = None
        if scale_a is not None:
            s = tl.load(scale_a + m[:, None] * (K // GROUP) + (step * (STEP // GROUP) + g)[None, :])
        if scale_b is not None:
            t = tl.load(scale_b + n[:, None] * (K // GROUP) + (step * (STEP // GROUP) + g)[None, :])
        acc = tl.dot_scaled(x, s, A, y, t, B, acc, lhs_k_pack=ALONG_K, rhs_k_pack=ALONG_K)
    tl.store(out + m[:, None] * N + n[None, :], acc)


def _operand(rng: Any, rows: int, format: str, along_k: bool, turned: bool) -> tuple[Any, np.ndarray]:
    """(rows, K) as the kernel reads it, (K, rows) where ``turned``, and its values."""
    if format == "e2m1":
        codes = rng.integers(0, 16, (rows, K))
        low, high = (codes[:, 0::2], codes[:, 1::2]) if along_k else (codes[0::2], codes[1::2])
        raw, values = (low | high << 4).astype(np.uint8), E2M1[codes]
        return T.from_numpy(np.ascontiguousarray(raw.T if turned else raw)), values
    x = T.from_numpy(rng.standard_normal((rows, K), np.float32)).to(TYPES[format])
    return (x.t().contiguous() if turned else x), x.double().numpy()


def _scale(rng: Any, rows: int, group: int) -> tuple[Any, np.ndarray]:
    if group == 16:  # NVIDIA's
        x = T.from_numpy(rng.uniform(0.1, 4, (rows, K // group)).astype(np.float32)).to(T.float8_e4m3fn)
        return x, x.double().numpy()
    exponents = rng.integers(118, 137, (rows, K // group)).astype(np.uint8)
    exponents[:2, 0] = 0, 255
    return T.from_numpy(exponents), np.where(exponents == 255, np.nan, 2.0 ** (exponents.astype(int) - 127))


@pytest.mark.parametrize("a, b, scaled, group, along_k", [
    ("e4m3", "e5m2", "ab", 32, True), ("e2m1", "e4m3", "ab", 32, True), ("e5m2", "e2m1", "ab", 32, True),
    ("e2m1", "e2m1", "ab", 32, False), ("e2m1", "e2m1", "ab", 16, True), ("bf16", "e2m1", "b", 32, True),
    ("e4m3", "fp16", "a", 32, True),
])  # fmt: skip
def test_dot_scaled(a: str, b: str, scaled: str, group: int, along_k: bool) -> None:
    rng = np.random.default_rng(5)
    (x, left), (y, right) = _operand(rng, M, a, along_k, False), _operand(rng, N, b, along_k, True)
    (s, by_rows), (t, by_columns) = _scale(rng, M, group), _scale(rng, N, group)
    out = T.full((M, N), np.nan, device="native")
    x, y, s, t = (v.to("native")._array for v in (x, y, s, t))
    s, t = s if "a" in scaled else None, t if "b" in scaled else None
    launch(
        _products, 1, out._array, x, s, y, t, M=M, N=N, K=K, STEP=STEP, GROUP=group, A=a, B=b, ALONG_K=along_k
    )  # fmt: skip
    left = left * by_rows.repeat(group, 1) if s is not None else left
    right = right * by_columns.repeat(group, 1) if t is not None else right
    np.testing.assert_allclose(out.cpu().numpy(), left @ right.T, rtol=1e-4, atol=1e-3 * np.nanmax(abs(left)))
