"""Products with quantised operands at sizes of use, and PyTorch's values where it computes them on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorlib as tl
from tensorlib._array import empty, to_device, to_host
from tensorlib._device import device
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import matmul
from tensorlib.kernels import quantized_matmul as kernels
from tensorlib.runtime.hardware import hardware

STORED = np.load(Path(__file__).with_name("quantized.npz"))
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


def packed(q: np.ndarray, inner: int) -> Any:
    """Weights of 4 bits, one an element, as the product takes them."""
    return tl._convert_weight_to_int4pack(tl.from_numpy((q[:, ::2] << 4 | q[:, 1::2]).astype(np.uint8)), inner)


def dequantised(q: np.ndarray, s: np.ndarray, group: int) -> np.ndarray:
    groups = q.astype(np.float64).reshape(len(q), -1, group) - 8
    scale, zero = s.astype(np.float64).transpose(2, 1, 0)[..., None]
    return (groups * scale + zero).reshape(len(q), -1)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_weights_of_4_bits_are_pytorchs(group: int) -> None:
    q, x, s = STORED["q"], STORED[f"int4 {group} x"], STORED[f"int4 {group} s"]
    for inner in (2, 4, 8):
        got = tl._weight_int4pack_mm(tl.from_numpy(x), packed(q, inner), group, tl.from_numpy(s))
        np.testing.assert_allclose(got.numpy(), STORED[f"int4 {group} out"], rtol=2e-4, atol=2e-3)
        np.testing.assert_allclose(got.numpy(), x @ dequantised(q, s, group).T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("m", [3, 1])
def test_weights_of_8_bits_are_pytorchs(m: int, name: str) -> None:
    dtype = getattr(tl, name)
    x, s = (tl.from_numpy(STORED[f"int8 {m} {name} {part}"]).to(dtype) for part in "xs")
    got = tl._weight_int8pack_mm(x, tl.from_numpy(STORED[f"int8 {m} w"]), s).float().numpy()
    want = STORED[f"int8 {m} {name} out"]
    np.testing.assert_allclose(got, want, rtol=1e-5 if name == "float32" else 1e-2, atol=1e-4 * np.abs(want).max())


def test_the_packed_layout() -> None:
    """Word (i, j, t, p) holds column 8 i + t/4 and terms 16 I j + 32 p + 2 (t % 4) + 8 a + b at bits 4 (a + 4 b)."""
    q = np.random.default_rng(1).integers(0, 16, (16, 256))
    words = packed(q, 4).numpy().view(np.uint32)
    assert words.shape == (2, 4, 32, 2)
    for i, j, t, p, a, b in ((0, 0, 0, 0, 0, 0), (1, 3, 31, 1, 3, 1), (1, 2, 13, 0, 2, 1), (0, 1, 18, 1, 1, 0)):
        term = 64 * j + 32 * p + 2 * (t % 4) + 8 * a + b
        assert words[i, j, t, p] >> 4 * (a + 4 * b) & 15 == q[8 * i + t // 4, term]


@pytest.mark.parametrize("m", [1, 16, 100])
def test_weights_of_4_bits_at_size(m: int) -> None:
    rng = np.random.default_rng(m)
    n, k, group = 1000, 2048, 128
    q, s = rng.integers(0, 16, (n, k)), rng.uniform(0.01, 0.1, (k // group, n, 2)).astype(np.float32)
    x = rng.standard_normal((m, k)).astype(np.float32)
    native = [tl.from_numpy(a).to("native") for a in (x, s)]
    got = tl._weight_int4pack_mm(native[0], packed(q, 8).to("native"), group, native[1]).cpu().numpy()
    want = x @ dequantised(q, s, group).T
    assert np.linalg.norm(got - want) < 2e-6 * np.linalg.norm(want)


@pytest.mark.parametrize("split", [2, 5])
def test_weights_of_4_bits_in_parts(monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    rng = np.random.default_rng(0)
    q, s = rng.integers(0, 16, (40, 1024)), rng.uniform(0.01, 0.1, (8, 40, 2)).astype(np.float32)
    x = rng.standard_normal((5, 1024)).astype(np.float32)
    config = kernels._tile(16, 32, 32, 4, 2).replace(SPLIT_K=split)
    monkeypatch.setattr(kernels.INT4, "choose", lambda *args: config)
    on = [tl.from_numpy(a).to("native") for a in (x, s)]
    got = tl._weight_int4pack_mm(on[0], packed(q, 4).to("native"), 128, on[1]).cpu().numpy()
    np.testing.assert_allclose(got, x @ dequantised(q, s, 128).T, rtol=1e-5, atol=1e-4)


def test_int8_at_size() -> None:
    rng = np.random.default_rng(0)
    for m, n, k in ((300, 500, 1000), (1, 4096, 1024), (1000, 1, 777)):
        a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((m, k), (k, n)))
        on = [tl.from_numpy(x).to("native") for x in (a, b)]
        want = a.astype(np.int64) @ b.astype(np.int64)
        np.testing.assert_array_equal(tl._int_mm(*on).cpu().numpy(), want)
        np.testing.assert_array_equal((on[0] @ on[1]).cpu().numpy(), want.astype(np.int8))  # a sum of int8 wraps around


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_weights_of_8_bits_at_size(name: str) -> None:
    rng = np.random.default_rng(0)
    for m in (1, 16, 200):
        x = tl.from_numpy(rng.standard_normal((m, 1536)).astype(np.float32)).to(getattr(tl, name))
        w = rng.integers(-128, 128, (1000, 1536)).astype(np.int8)
        s = tl.from_numpy(rng.uniform(0.01, 0.1, 1000).astype(np.float32)).to(x.dtype)
        on = [t.to("native") for t in (x, tl.from_numpy(w), s)]
        got = tl._weight_int8pack_mm(*on).cpu().double().numpy()
        want = (x.double().numpy() @ w.T.astype(np.float64)) * s.double().numpy()
        assert np.linalg.norm(got - want) < (3e-6 if name == "float32" else 3e-3) * np.linalg.norm(want)


def test_scaled_float8_at_size() -> None:
    rng = np.random.default_rng(0)
    m, n, k = 300, 500, 1000
    a, b = (rng.standard_normal(shape).astype(E4M3) for shape in ((m, k), (n, k)))
    rows, columns = rng.uniform(0.5, 2, (m, 1)).astype(np.float32), rng.uniform(0.5, 2, (1, n)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    on = [tl.from_numpy(x).to("native") for x in (a, b, rows, columns, bias)]
    got = tl._scaled_mm(on[0], on[1].T, *on[2:], out_dtype=tl.float32).cpu().numpy()
    want = (a.astype(np.float64) @ b.astype(np.float64).T) * rows * columns + bias
    assert np.linalg.norm(got - want) < 1e-6 * np.linalg.norm(want)
    narrow = tl._scaled_mm(on[0], on[1].T, *on[2:4], scale_result=tl.tensor(4.0).to("native"))
    assert narrow.dtype is tl.float8_e4m3fn
    want = (want - bias) / 4
    inside = np.abs(want) < 400
    np.testing.assert_allclose(narrow.cpu().float().numpy()[inside], want[inside], rtol=0.07, atol=2e-3)


@pytest.mark.parametrize("name", ["interpret", "native"])
@pytest.mark.parametrize("rows", [256, 1])
def test_bytes_as_float8(monkeypatch: pytest.MonkeyPatch, name: str, rows: int) -> None:
    """What targets run for which Triton does not convert float8_e4m3fn: each of its numbers, by a tile and by rows."""
    at = device(name)
    real = hardware(at)
    monkeypatch.setattr(matmul, "hardware", lambda device: real._replace(target="sm_80"))
    each = np.arange(256, dtype=np.uint8).view(E4M3)
    one, a, b = np.ones(1, E4M3), np.zeros((256, 16), E4M3), np.zeros((16, 16), E4M3)
    a[:, 0], b[0] = each, one
    if rows == 1:  # a column of each by a vector
        b = b[:, :1]
    out = empty((256, b.shape[1]), np.float32, at)
    matmul.product(out, to_device(a, at), to_device(b, at))
    np.testing.assert_array_equal(to_host(out)[:, 0], each.astype(np.float32))


def test_what_does_not_fit_is_refused() -> None:
    x, w = tl.ones(3, 64), tl.zeros(16, 64, dtype=tl.int8)
    with pytest.raises(DtypeError, match="one dtype"):
        tl._weight_int8pack_mm(x, w, tl.ones(16, dtype=tl.float16))
    with pytest.raises(ArgumentError, match="qGroupSize"):
        tl._weight_int4pack_mm(x, tl.zeros(2, 2, 32, 1, dtype=tl.int32), 48, tl.ones(1, 16, 2))
    with pytest.raises(ShapeError, match="to be of dimension 2"):
        tl._int_mm(w, w[None])


def test_scaled_products_by_recipe() -> None:
    """Rows, blocks of 128 and groups against float64; what fits no recipe says so."""
    f, kinds = tl.nn.functional, tl.nn.functional.ScalingType
    rng = np.random.default_rng(7)

    def float8(*shape: int) -> tl.Tensor:
        return tl.tensor(rng.standard_normal(shape).astype(np.float32)).to(tl.float8_e4m3fn)

    def scale(*shape: int) -> tl.Tensor:
        return tl.tensor(rng.uniform(0.5, 2, shape).astype(np.float32))

    def wide(x: tl.Tensor) -> np.ndarray:
        return x.double().numpy()

    def near(found: tl.Tensor, want: np.ndarray, bound: float = 2e-6) -> None:
        assert found.shape == want.shape
        assert np.abs(wide(found) - want).max() <= bound * np.abs(want).max()

    a, b = float8(150, 260), float8(260, 140)
    sa, sb = scale(150, 1), scale(1, 140)
    want = wide(a) @ wide(b)
    near(f.scaled_mm(a, b, sa, kinds.RowWise, sb, kinds.RowWise, output_dtype=tl.float32),
         want * wide(sa) * wide(sb))  # fmt: skip
    sa, sb, bias = scale(150, 3), scale(3, 2), scale(140)
    left = wide(a) * np.repeat(wide(sa), 128, 1)[:, :260]
    right = wide(b) * np.repeat(np.repeat(wide(sb), 128, 0)[:260], 128, 1)[:, :140]
    near(f.scaled_mm(a, b, [sa], [kinds.BlockWise1x128], [sb], [kinds.BlockWise128x128], bias=bias,
                     output_dtype=tl.float32), left @ right + wide(bias))  # fmt: skip
    sb = scale(3, 140)
    near(f.scaled_mm(a, b, sa, kinds.BlockWise1x128, sb, kinds.BlockWise1x128),
         left @ (wide(b) * np.repeat(wide(sb), 128, 0)[:260]), 8e-3)  # fmt: skip
    for scales in ((sa, kinds.BlockWise1x128, sa, kinds.BlockWise1x128), (sa, kinds.TensorWise, sb, kinds.TensorWise)):
        with pytest.raises(ValueError, match="Invalid scaling configuration"):
            f.scaled_mm(a, b, *scales)
    with pytest.raises(NotImplementedError, match="blocks of 128"):
        f.scaled_mm(a, b, sa, kinds.BlockWise1x32, sb, kinds.BlockWise1x32)
    with pytest.raises(NotImplementedError, match="NO_SWIZZLE"):
        f.scaled_mm(a, b, sa, kinds.RowWise, sb, kinds.RowWise, f.SwizzleType.SWIZZLE_32_4_4)

    offs = tl.tensor([8, 8, 20], dtype=tl.int32)
    x, w, sx, sw = float8(20, 32), float8(3, 32, 8), scale(20), scale(3, 8)
    found = f.scaled_grouped_mm(x, w, sx, kinds.RowWise, sw, kinds.RowWise, offs=offs, output_dtype=tl.float32)
    rows = wide(x) * wide(sx)[:, None]
    near(found, np.concatenate([rows[:8] @ (wide(w)[0] * wide(sw)[0]), rows[8:] @ (wide(w)[2] * wide(sw)[2])]))
    x, w, sx, sw = float8(8, 20), float8(20, 6), scale(24), scale(18)
    found = f.scaled_grouped_mm(x, w, sx, kinds.RowWise, sw, kinds.RowWise, offs=offs, output_dtype=tl.float32)
    parts = [wide(x)[:, i:j] @ wide(w)[i:j] for i, j in ((0, 8), (8, 8), (8, 20))]
    near(found, np.stack(parts) * wide(sx).reshape(3, 8, 1) * wide(sw).reshape(3, 1, 6))
