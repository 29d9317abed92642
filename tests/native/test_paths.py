"""The ways that a nest or a product may take, by a test as the kernel runs: each gives what NumPy gives."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib
from tensorlib.nn import functional as F
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch
from tensorlib.runtime.native import codegen

tl = pytest.importorskip("triton.language")

if not codegen.available():
    pytest.skip("there is no compiler for this processor", allow_module_level=True)
pytest.importorskip("triton")

DEVICE = "native"


@jit
def division_kernel(quotient, rest, x, size, n, UNSIGNED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    a = tl.load(x + i, mask=inside, other=1)
    b = size
    if UNSIGNED:
        a = a.to(tl.uint32, bitcast=True)
        b = tl.cast(size, tl.uint32)
    tl.store(quotient + i, (a // b).to(tl.int32, bitcast=UNSIGNED), mask=inside)
    tl.store(rest + i, (a % b).to(tl.int32, bitcast=UNSIGNED), mask=inside)


def _native(array):
    return tensorlib.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("size", [2, 3, 7, 641, 4096, 65537, 1 << 30, (1 << 31) - 1, -1, -7, -(1 << 31)])
def test_vectors_divided_by_one_number(size, unsigned):
    if unsigned and size < 0:
        size = -size
    rng = np.random.default_rng(0)
    low, high = (0, 1 << 32) if unsigned else (-(1 << 31), 1 << 31)
    near = rng.integers(low, high, 4000) // size * size + rng.integers(-1, 2, 4000)
    x = np.concatenate([near, rng.integers(low, high, 4000), [low, low + 1, high - 1, 0]]).clip(low, high - 1)
    quotient = np.sign(x) * np.sign(size) * (np.abs(x) // abs(size))
    given = _native(x.astype(np.uint32).view(np.int32) if unsigned else x.astype(np.int32))
    found = [tensorlib.empty(x.size, dtype=tensorlib.int32, device=DEVICE) for _ in range(2)]
    launch(division_kernel, (cdiv(x.size, 512),), *(t._array for t in (*found, given)), size, x.size,
           UNSIGNED=unsigned, BLOCK=512)  # fmt: skip
    for tensor, expected in zip(found, (quotient, x - quotient * size), strict=True):
        np.testing.assert_array_equal(tensor.to("cpu").numpy(), expected.astype(np.uint32).view(np.int32))


@pytest.mark.parametrize("columns", [1, 3, 15, 16, 17, 48, 1000, 1024, 1030])
def test_rows_that_end_within_a_vector(columns):
    rng = np.random.default_rng(columns)
    x, row, column = (rng.standard_normal(s, np.float32) for s in ((3, 7, columns), (columns,), (7, 1)))
    found = _native(x) + _native(row) * _native(column)
    np.testing.assert_array_equal(found.to("cpu").numpy(), x + row * column)
    turned = _native(x).permute(2, 0, 1) + 1.0
    np.testing.assert_array_equal(turned.to("cpu").numpy(), x.transpose(2, 0, 1) + 1.0)


@pytest.mark.parametrize("sizes", [(64, 64, 64), (128, 256, 128), (130, 190, 70), (17, 33, 65), (600, 520, 130)])
@pytest.mark.parametrize("layout", ["rows", "a columns", "b columns", "b reversed", "strided"])
def test_products_of_what_is_in_memory(sizes, layout):
    M, N, K = sizes
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
    x, y = _native(a), _native(b)
    if layout == "a columns":
        x = _native(a.T).T
    elif layout == "b columns":
        y = _native(b.T).T
    elif layout == "b reversed":
        y, b = y.flip(0), b[::-1]
    elif layout == "strided":
        x, y = _native(np.repeat(a, 3, 0))[::3], _native(np.repeat(b, 2, 0))[::2]
    np.testing.assert_allclose((x @ y).to("cpu").numpy(), a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(256, 1000), (1000, 256), (5, 3, 77)])
@pytest.mark.parametrize("dim", [0, -1])
def test_states_laid_out_along_what_is_read(shape, dim):
    x = np.random.default_rng(2).standard_normal(shape, np.float32)
    given = _native(x)
    np.testing.assert_allclose(given.sum(dim).to("cpu").numpy(), x.sum(dim), rtol=1e-4, atol=1e-4)
    values, indices = given.max(dim)
    np.testing.assert_array_equal(values.to("cpu").numpy(), x.max(dim))
    np.testing.assert_array_equal(indices.to("cpu").numpy(), x.argmax(dim))
    np.testing.assert_allclose(given.var(dim).to("cpu").numpy(), x.var(dim, ddof=1), rtol=1e-4)


def test_what_underflows_to_zero_does():
    x = np.array([-np.inf, -1e30, -151, -150.5, -150, -149.5, -149, -127, -126, 0, 127, np.inf, np.nan] * 3, np.float32)
    found = _native(x).exp2().to("cpu").numpy()
    np.testing.assert_allclose(found, np.exp2(x.astype(np.float64)).astype(np.float32), rtol=1e-6, atol=2.0**-149)
    scores = _native(np.where(np.tri(64, dtype=bool), 1.0, -np.inf).astype(np.float32))
    weights = F.softmax(scores, -1).to("cpu").numpy()
    np.testing.assert_allclose(weights, np.tri(64) / np.arange(1, 65)[:, None], rtol=1e-6)


@pytest.mark.parametrize("padding", [None, 3])
def test_gradients_of_rows_in_the_order_of_tokens(padding):
    rng = np.random.default_rng(3)
    index = rng.integers(0, 50, 3000)
    g = rng.standard_normal((3000, 40), np.float32)
    weight = _native(np.zeros((50, 40), np.float32)).requires_grad_(True)
    F.embedding(_native(index), weight, padding_idx=padding).backward(_native(g))
    expected = np.zeros((50, 40))
    np.add.at(expected, index, g.astype(np.float64))
    if padding is not None:
        expected[padding] = 0
    np.testing.assert_allclose(weight.grad.to("cpu").numpy(), expected, rtol=1e-4, atol=1e-4)
