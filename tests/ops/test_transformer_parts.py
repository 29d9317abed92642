"""Fused parts of transformers, and quantization, against the operators they are made of and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.runtime.native import codegen

F = tl.nn.functional

DEVICES = ["cpu", pytest.param("native", marks=pytest.mark.skipif(not codegen.available(), reason="no compiler"))]


def leaf(*shape: int, seed: int, device: str = "cpu", dtype: Any = tl.float32) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape)
    return tl.tensor(values).to(dtype).to(device).requires_grad_(True)


def gradients(outs: Any, leaves: Any) -> list[np.ndarray]:
    """Of Σ cos(i) out[i], cos(i) in steps that every dtype has: other weights for each element."""
    outs = outs if isinstance(outs, (tuple, list)) else [outs]
    total: Any = 0
    for out in outs:
        weights = tl.tensor(np.rint(64 * np.cos(np.arange(out.numel()))).reshape(tuple(out.shape)) / 64)
        total = total + (out * weights.to(out.dtype).to(out.device)).sum()
    return [g.to("cpu").double().numpy() for g in tl.autograd.grad(total, leaves)]


def agree(fused: Any, parts: Any, given: list[Any], limit: float) -> None:
    """The function and its gradients against those of the parts in float64 on the CPU."""
    wide = [t.detach().to("cpu").double().requires_grad_(True) for t in given]
    got, want = fused(*given), parts(*wide)
    many = isinstance(got, tuple)
    for a, b in zip(got if many else [got], want if many else [want], strict=True):
        a, b = a.detach().to("cpu").double().numpy(), b.detach().numpy()
        assert a.shape == b.shape and np.linalg.norm(a - b) <= limit * np.linalg.norm(b)
    for a, b in zip(gradients(got, given), gradients(want, wide), strict=True):
        assert a.shape == b.shape and np.linalg.norm(a - b) <= limit * np.linalg.norm(b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "limit"), [(tl.float32, 2e-6), (tl.bfloat16, 2e-2)])
def test_gated(device: str, dtype: Any, limit: float) -> None:
    x, y = (leaf(64, 500, seed=i, device=device, dtype=dtype) for i in range(2))
    agree(F.swiglu, lambda x, y: F.silu(x) * y, [x, y], limit)
    for approximate in ("none", "tanh"):
        agree(
            lambda x, y, a=approximate: F.geglu(x, y, a), lambda x, y, a=approximate: F.gelu(x, approximate=a) * y,
            [x, y], limit,
        )  # fmt: skip
    h = leaf(7, 3, 64, seed=4, device=device, dtype=dtype)
    agree(lambda h: F.swiglu(*h.chunk(2, -1)), lambda h: F.silu(h[..., :32]) * h[..., 32:], [h], limit)
    row = leaf(500, seed=5, device=device, dtype=dtype)
    agree(F.swiglu, lambda x, y: F.silu(x) * y, [x, row], limit)


def test_geglu_refuses() -> None:
    with pytest.raises(ArgumentError, match="'none' or 'tanh'"):
        F.geglu(tl.ones(2), tl.ones(2), "exact")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "limit"), [(tl.float32, 3e-6), (tl.bfloat16, 2e-2)])
@pytest.mark.parametrize("columns", [96, 1000, 10000])
def test_add_and_normalize(device: str, dtype: Any, limit: float, columns: int) -> None:
    x, r = (leaf(3, 11, columns, seed=i, device=device, dtype=dtype) for i in range(2))
    w, b = (leaf(columns, seed=2 + i, device=device, dtype=dtype) for i in range(2))
    agree(
        lambda x, r, w, b: tuple(F.add_layer_norm(x, r, columns, w, b)),
        lambda x, r, w, b: (F.layer_norm(x + r, [columns], w, b), x + r), [x, r, w, b], limit,
    )  # fmt: skip
    agree(
        lambda x, r, w: tuple(F.add_rms_norm(x, r, columns, w, 1e-6)),
        lambda x, r, w: (F.rms_norm(x + r, [columns], w, 1e-6), x + r), [x, r, w], limit,
    )  # fmt: skip


def test_add_and_normalize_names() -> None:
    out = F.add_rms_norm(tl.ones(2, 3), tl.ones(2, 3), (3,))
    assert out._fields == ("output", "sum") and tl.equal(out.sum, tl.full((2, 3), 2.0))
    assert F.add_layer_norm(tl.ones(2, 3), tl.ones(2, 3), 3)._fields == ("output", "sum")
    with pytest.raises(ShapeError, match="one shape"):
        F.add_rms_norm(tl.ones(2, 3), tl.ones(3), 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(tl.float32, 1e-6), (tl.bfloat16, 1e-2)])
def test_rotary(device: str, interleaved: bool, dtype: Any, limit: float) -> None:
    """As the product of complex numbers, for queries (batch, heads, positions, d); the features behind stay."""
    positions, turned, d = 37, 24, 30
    angles = np.outer(np.arange(positions), 10000.0 ** (-np.arange(turned // 2) / (turned // 2)))
    cos, sin = (tl.tensor(f(angles)).float().to(device) for f in (np.cos, np.sin))
    q = leaf(2, 3, positions, d, seed=1, device=device, dtype=dtype)
    out = F.rotary_embedding(q, cos, sin, interleaved=interleaved)
    x = q.detach().to("cpu").double().numpy()
    half = turned // 2
    v, w = (x[..., 0:turned:2], x[..., 1:turned:2]) if interleaved else (x[..., :half], x[..., half:turned])
    z = (v + 1j * w) * np.exp(1j * angles)
    parts = np.stack([z.real, z.imag], -1).reshape(*v.shape[:-1], turned) if interleaved else np.concatenate(
        [z.real, z.imag], -1
    )  # fmt: skip
    want = np.concatenate([parts, x[..., turned:]], -1)
    got = out.detach().to("cpu").double().numpy()
    assert np.linalg.norm(got - want) <= limit * np.linalg.norm(want)
    g = tl.ones_like(out).requires_grad_(False)
    (back,) = tl.autograd.grad(out, [q], g)
    again = F.rotary_embedding(back, cos, sin, interleaved=interleaved)  # turned back, and there again
    assert np.allclose(again.to("cpu").double().numpy(), 1.0, atol=3e-2 if dtype is tl.bfloat16 else 1e-5)
    other = F.rotary_embedding(q.transpose(1, 2), cos[:, None], sin[:, None], interleaved=interleaved)
    assert tl.equal(other.transpose(1, 2), out)


def test_rotary_gradient_of_the_angles() -> None:
    for interleaved in (False, True):
        x, c, s = (leaf(*shape, seed=i, dtype=tl.float64) for i, shape in enumerate([(2, 3, 5, 8), (5, 4), (5, 4)]))
        assert tl.autograd.gradcheck(
            lambda x, c, s, i=interleaved: F.rotary_embedding(x, c, s, interleaved=i), (x, c, s)
        )


@pytest.mark.parametrize("device", DEVICES)
def test_fake_quantize_passes_gradients_straight(device: str) -> None:
    """1 where the number lies on the grid, 0 where it is cut off: PyTorch's rule."""
    x = tl.tensor([-3.0, -0.26, 0.0, 0.1, 1.9, 2.1, 50.0]).to(device).requires_grad_(True)
    out = tl.fake_quantize_per_tensor_affine(x, 0.5, 1, -3, 5)
    out.backward(tl.arange(1.0, 8.0).to(device))
    assert out.tolist() == [-2.0, -0.5, 0.0, 0.0, 2.0, 2.0, 2.0]
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]
    rows = tl.tensor([[0.2, 9.0], [0.2, 9.0]]).to(device).requires_grad_(True)
    scale, zero = tl.tensor([0.1, 1.0]).to(device), tl.tensor([0, 1], dtype=tl.int32).to(device)
    tl.fake_quantize_per_channel_affine(rows, scale, zero, 0, -8, 7).sum().backward()
    assert rows.grad.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_fake_quantize_refuses() -> None:
    x = tl.ones(2, 3)
    for call in (
        lambda: tl.fake_quantize_per_tensor_affine(x, 0.1, 0, 5, 1),
        lambda: tl.fake_quantize_per_tensor_affine(x, 0.1, 9, 0, 5),
        lambda: tl.fake_quantize_per_channel_affine(x, tl.ones(3), tl.zeros(3, dtype=tl.int32), 0, 0, 5),
        lambda: tl.fake_quantize_per_tensor_affine(x.long(), 0.1, 0, 0, 5),
    ):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(IndexError):
        tl.fake_quantize_per_channel_affine(x, tl.ones(2), tl.zeros(2, dtype=tl.int32), 2, 0, 5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("group", [None, 32])
def test_int8_rows(device: str, group: int | None) -> None:
    """Half a step of each group's grid at most, and the largest number of each is 127 steps."""
    x = leaf(50, 5, 96, seed=3, device=device).detach()
    values, scale = F.quantize_int8(x, group)
    assert values.dtype is tl.int8 and scale.dtype is tl.float32
    assert scale.shape == (50, 5, 1 if group is None else 3)
    back = F.dequantize_int8(values, scale)
    a, b, s = (t.to("cpu").numpy() for t in (x, back, scale))
    assert (np.abs(a - b) <= np.repeat(s, 96 // s.shape[-1], -1) * 0.5001).all()
    assert (np.abs(values.to("cpu").numpy().reshape(*s.shape, -1)).max(-1) == 127).all()
    assert F.dequantize_int8(values, scale, tl.bfloat16).dtype is tl.bfloat16
