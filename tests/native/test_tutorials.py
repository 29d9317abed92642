"""The kernels of Triton's tutorials on our tensors: at sizes of use on ``native``, at small ones interpreted too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from places import DEVICES, on

import tensorlib as T

tutorials = pytest.importorskip("tutorials", reason="needs triton, which has wheels for Linux", exc_type=ImportError)
triton = tutorials.triton


def _numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def _close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got.cpu().numpy().astype(np.float64), want, rtol=tolerance, atol=tolerance)


def _sizes(device, real, small):
    return real if device == "native" else small


@pytest.mark.parametrize("device", DEVICES)
def test_vector_add(device):
    n = _sizes(device, 98432, 1000)
    x, y = _numbers(n), _numbers(n, seed=1)
    output = T.empty(n, device=device)
    tutorials.add_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK_SIZE"]),)](
        on(x, device), on(y, device), output, n, BLOCK_SIZE=1024
    )
    np.testing.assert_array_equal(output.cpu().numpy(), x + y)


@pytest.mark.parametrize("device", DEVICES)
def test_fused_softmax(device):
    rows, columns = _sizes(device, (1823, 781), (7, 45))
    x = _numbers(rows, columns)
    given, y = on(x, device), T.empty(rows, columns, device=device)
    tutorials.softmax_kernel[(min(8, rows), 1, 1)](
        y, given, given.stride(0), y.stride(0), rows, columns, triton.next_power_of_2(columns), 4
    )
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    _close(y, e / e.sum(1, keepdims=True), 1e-6)


@pytest.mark.parametrize("activation", ["", "leaky_relu"])
@pytest.mark.parametrize("device", DEVICES)
def test_matmul(device, activation):
    m, n, k = _sizes(device, (512, 500, 520), (70, 66, 40))
    a, b = _numbers(m, k, dtype=np.float16), _numbers(k, n, dtype=np.float16)
    ours, theirs, c = on(a, device), on(b, device), T.empty(m, n, dtype=T.float16, device=device)

    def grid(meta):
        return (triton.cdiv(m, meta["BLOCK_SIZE_M"]) * triton.cdiv(n, meta["BLOCK_SIZE_N"]),)

    tutorials.matmul_kernel[grid](
        ours, theirs, c, m, n, k, ours.stride(0), ours.stride(1), theirs.stride(0), theirs.stride(1), c.stride(0),
        c.stride(1), ACTIVATION=activation,
    )  # fmt: skip
    want = a.astype(np.float64) @ b.astype(np.float64)
    _close(c, np.where(want >= 0, want, 0.01 * want) if activation else want, 0.02)
    assert tutorials.matmul_kernel.best_config in tutorials.matmul_kernel.configs


@pytest.mark.parametrize("device", DEVICES)
def test_dropout(device):
    n = _sizes(device, 100_003, 300)
    x, keep = _numbers(n), np.random.default_rng(0).random(n) > 0.5
    output = T.empty(n, device=device)
    tutorials.dropout[(triton.cdiv(n, 1024),)](
        on(x, device), on(keep, device), output, n, 0.5, BLOCK_SIZE=1024
    )
    np.testing.assert_array_equal(output.cpu().numpy(), np.where(keep, x / np.float32(0.5), 0))


def test_seeded_dropout_draws_the_same_on_every_device():
    n = 1500
    x, found = _numbers(n), []
    for device in DEVICES:
        output = T.empty(n, device=device)
        tutorials.seeded_dropout[lambda meta: (triton.cdiv(n, meta["BLOCK_SIZE"]),)](
            on(x, device), output, n, p=0.3, seed=512, BLOCK_SIZE=1024
        )
        found.append(output.cpu().numpy())
    for each in found:
        np.testing.assert_array_equal(each, found[0])
        assert abs((each == 0).mean() - 0.3) < 0.05


@pytest.mark.parametrize("device", DEVICES)
def test_layer_norm(device):
    m, n = _sizes(device, (1151, 1000), (9, 70))
    block = triton.next_power_of_2(n)
    x, weight, bias, dy = _numbers(m, n), _numbers(n), _numbers(n, seed=1), _numbers(m, n, seed=2)
    given = [on(a, device) for a in (x, weight, bias, dy)]
    y, mean, rstd = T.empty(m, n, device=device), T.empty(m, device=device), T.empty(m, device=device)
    tutorials.layer_norm_fwd_fused[(m,)](
        given[0], y, given[1], given[2], mean, rstd, n, n, 1e-5, BLOCK_SIZE=min(block, 256)
    )
    wide = x.astype(np.float64)
    deviation = 1 / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    normal = (wide - wide.mean(1, keepdims=True)) * deviation
    _close(y, normal * weight + bias)
    groups = 16
    locks = T.zeros(2 * groups, dtype=T.int32, device=device)
    partial = [T.zeros(groups, n, device=device) for _ in range(2)]
    dx, dw, db = T.empty(m, n, device=device), T.empty(n, device=device), T.empty(n, device=device)
    tutorials.layer_norm_bwd_dx_fused[(m,)](
        dx, given[3], *partial, given[0], given[1], mean, rstd, locks, n, n, BLOCK_SIZE_N=block, GROUP_SIZE_M=groups
    )
    tutorials.layer_norm_bwd_dwdb[lambda meta: [triton.cdiv(n, meta["BLOCK_SIZE_N"])]](
        *partial, dw, db, min(groups, m), n, BLOCK_SIZE_M=32, BLOCK_SIZE_N=128
    )
    g = dy * weight.astype(np.float64)
    want = (g - normal * (g * normal).mean(1, keepdims=True) - g.mean(1, keepdims=True)) * deviation
    _close(dx, want, 1e-4)
    _close(dw, (dy * normal).sum(0), 1e-3)
    _close(db, dy.astype(np.float64).sum(0), 1e-3)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("device", DEVICES)
def test_attention(device, causal):
    z, h, t, d = _sizes(device, (2, 3, 512, 64), (1, 2, 64, 16))
    block = _sizes(device, 64, 32)
    arrays = [_numbers(z, h, t, d, seed=i) * np.float32(0.5) for i in range(4)]
    q, k, v, do = (on(a, device) for a in arrays)
    out, m = T.empty(z, h, t, d, device=device), T.empty(z, h, t, device=device)
    scale = d**-0.5
    tutorials.attention_fwd[lambda meta: (triton.cdiv(t, meta["BLOCK_M"]), z * h, 1)](
        scale, m, z, h, q, k, v, out, N_CTX=t, HEAD_DIM=d, BLOCK_M=block, BLOCK_N=32, STAGE=3 if causal else 1,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    delta, dq, dk, dv = T.empty_like(m), T.empty_like(q), T.empty_like(k), T.empty_like(v)
    tutorials.attention_bwd_preprocess[(t // block, z * h)](out, do, delta, t, BLOCK_M=block, HEAD_DIM=d)
    tutorials.attention_bwd[(t // block, 1, z * h)](
        q, k * (scale / math.log(2)), v, scale, do, dq, dk, dv, m, delta, *q.stride(), h, t, BLOCK_M1=32,
        BLOCK_N1=block, BLOCK_M2=block, BLOCK_N2=32, BLK_SLICE_FACTOR=2, HEAD_DIM=d, CAUSAL=causal, num_warps=4,
        num_stages=5,
    )  # fmt: skip
    wide = [a.astype(np.float64) for a in arrays]
    scores = wide[0] @ wide[1].swapaxes(-1, -2) * scale
    if causal:
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    total = np.exp(scores - top).sum(-1, keepdims=True)
    p = np.exp(scores - top) / total
    tolerance = 1e-5 if device == "native" else 3e-3  # the interpreter rounds to tf32 as a GPU does
    _close(out, p @ wide[2], tolerance)
    _close(m, ((top + np.log(total)) / math.log(2))[..., 0], tolerance)
    dp = wide[3] @ wide[2].swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
    _close(dv, p.swapaxes(-1, -2) @ wide[3], tolerance)
    _close(dq, ds @ wide[1], tolerance)
    _close(dk, ds.swapaxes(-1, -2) @ wide[0], tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_libdevice(device):
    n = _sizes(device, 98432, 500)
    x = np.random.default_rng(0).random(n, np.float32)
    y = T.zeros(n, device=device)
    tutorials.asin_kernel[(triton.cdiv(n, 1024),)](on(x, device), y, n, BLOCK_SIZE=1024)
    _close(y, np.arcsin(x.astype(np.float64)), 1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_grouped_matmul(device):
    sizes = _sizes(device, [(256, 128, 192), (64, 320, 64), (128, 64, 256)], [(64, 32, 32), (32, 64, 64)])
    a = [_numbers(m, k, dtype=np.float16, seed=1) for m, n, k in sizes]
    b = [_numbers(k, n, dtype=np.float16, seed=2) for m, n, k in sizes]
    ours, theirs = [on(x, device) for x in a], [on(x, device) for x in b]
    c = [T.empty(m, n, dtype=T.float16, device=device) for m, n, k in sizes]
    addresses = [T.tensor([t.data_ptr() for t in ts], dtype=T.int64, device=device) for ts in (ours, theirs, c)]
    shapes = T.tensor([x for size in sizes for x in size], dtype=T.int32, device=device)
    strides = T.tensor([x for m, n, k in sizes for x in (k, n, n)], dtype=T.int32, device=device)
    tutorials.grouped_matmul_kernel[(4,)](
        *addresses, shapes, strides, len(sizes), NUM_SM=4, BLOCK_SIZE_M=32, BLOCK_SIZE_N=32, BLOCK_SIZE_K=32
    )
    for x, y, found in zip(a, b, c, strict=True):
        _close(found, x.astype(np.float64) @ y.astype(np.float64), 0.02)
