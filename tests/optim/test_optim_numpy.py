"""The NumPy bodies of the fused updates, beside a direct float64 evaluation of the papers' formulas."""

import numpy as np
import pytest

from tensorlib.ops import _optim_numpy as fused

SHAPES = ((3, 5), (7,), (), (0,), (300, 250), (2, 3, 4), (5000,), (16,))


def layout(shapes, align=16):
    """Offsets of the slices, and the buffers' length."""
    offsets, end = [], 0
    for shape in shapes:
        offsets.append(end)
        end += -(-int(np.prod(shape)) // align) * align
    return tuple(offsets), end


def arrays(draws, dtype, order="C"):
    """One array a shape."""
    return [np.array(draws.standard_normal(s), dtype=dtype, order=order) for s in SHAPES]


def adam64(p, g, m, v, x, t, lr, b1, b2, eps, wd, decoupled, maximize):
    """One step of algorithm 1 (2 of AdamW, AMSGrad with ``x``) in float64; returns the new values."""
    g = -g if maximize else g
    if decoupled:
        p = p * (1 - lr * wd)
    else:
        g = g + wd * p
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    top = v if x is None else np.maximum(x, v)
    p = p - lr * (m / (1 - b1**t)) / (np.sqrt(top / (1 - b2**t)) + eps)
    return p, m, v, top


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(("wd", "decoupled"), [(0.0, True), (0.1, True), (0.1, False)])
def test_adam(dtype, amsgrad, wd, decoupled):
    """Contiguous and transposed parameters, sizes 0 and 1, gathered and long ones, different step counts."""
    draws = np.random.RandomState(0)
    params = arrays(draws, dtype, "F")
    offsets, n = layout(SHAPES)
    m, v, x = np.zeros(n, dtype), np.zeros(n, dtype), np.zeros(n, dtype) if amsgrad else None
    steps = np.zeros(len(SHAPES), np.float32)
    steps[2] = 5.0
    exact = [(p.astype(np.float64), np.zeros(p.shape), np.zeros(p.shape), np.zeros(p.shape)) for p in params]
    options = {"lr": 0.02, "b1": 0.8, "b2": 0.95, "eps": 1e-6}
    for step in range(6):
        grads = arrays(draws, dtype)
        chosen = tuple(i for i in range(len(SHAPES)) if not (step == 2 and i in (1, 4)))
        kept = [params[1].copy(), m[offsets[1] : offsets[1] + 7].copy()]
        fused.adam_(
            [params[i] for i in chosen], [grads[i] for i in chosen], m, v, x, steps, np.float64(0.02),
            offsets=tuple(offsets[i] for i in chosen), index=chosen, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=wd,
            decoupled_weight_decay=decoupled, maximize=step == 4,
        )  # fmt: skip
        if step == 2:
            assert np.array_equal(kept[0], params[1]) and np.array_equal(kept[1], m[offsets[1] : offsets[1] + 7])
        for i in chosen:
            p, em, ev, ex = exact[i]
            exact[i] = adam64(
                p, grads[i].astype(np.float64), em, ev, ex if amsgrad else None, float(steps[i]), **options, wd=wd,
                decoupled=decoupled, maximize=step == 4,
            )  # fmt: skip
    assert steps.tolist() == [6, 5, 11, 6, 5, 6, 6, 6]
    tolerance = 3e-6 if dtype == np.float32 else 1e-13
    for i, (p, em, ev, ex) in enumerate(exact):
        where = slice(offsets[i], offsets[i] + params[i].size)
        np.testing.assert_allclose(params[i], p, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(m[where], em.ravel(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(v[where], ev.ravel(), rtol=tolerance, atol=tolerance)
        if x is not None:
            np.testing.assert_allclose(x[where], ex.ravel(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov", "wd"),
    [
        (0.0, 0.0, False, 0.0),
        (0.0, 0.0, False, 0.1),
        (0.9, 0.0, False, 0.1),
        (0.9, 0.0, True, 0.1),
        (0.7, 0.2, False, 0),
    ],
)
def test_sgd(dtype, momentum, dampening, nesterov, wd):
    """Every option beside the formula in float64."""
    draws = np.random.RandomState(0)
    params = arrays(draws, dtype, "F")
    offsets, n = layout(SHAPES)
    buffer = np.zeros(n, dtype) if momentum else None
    exact = [(p.astype(np.float64), np.zeros(p.shape)) for p in params]
    for step in range(5):
        grads = arrays(draws, dtype)
        fused.sgd_(
            params, grads, buffer, 0.05, offsets=offsets, momentum=momentum, dampening=dampening, weight_decay=wd,
            nesterov=nesterov, maximize=step == 3,
        )  # fmt: skip
        for i, (p, b) in enumerate(exact):
            g = grads[i].astype(np.float64) * (-1 if step == 3 else 1) + wd * p
            b = momentum * b + (1 - dampening) * g
            exact[i] = p - 0.05 * ((g + momentum * b if nesterov else b) if momentum else g), b
    tolerance = 3e-6 if dtype == np.float32 else 1e-13
    for i, (p, b) in enumerate(exact):
        np.testing.assert_allclose(params[i], p, rtol=tolerance, atol=tolerance)
        if buffer is not None:
            np.testing.assert_allclose(
                buffer[offsets[i] : offsets[i] + params[i].size], b.ravel(), rtol=tolerance, atol=tolerance
            )


def test_half_is_the_float32_step_rounded_once():
    """float16 parameters and state equal the float32 update of the same numbers, rounded."""
    draws = np.random.RandomState(3)
    offsets, n = layout(SHAPES)
    half, grads = arrays(draws, np.float16), arrays(draws, np.float16)
    wide = [p.astype(np.float32) for p in half]
    state = {np.float16: np.zeros((2, n), np.float16), np.float32: np.zeros((2, n), np.float32)}
    for dtype, params in ((np.float16, half), (np.float32, wide)):
        fused.adam_(
            params, [g.astype(dtype) for g in grads], *state[dtype], None, np.zeros(len(SHAPES), np.float32), 0.01,
            offsets=offsets, index=tuple(range(len(SHAPES))), beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01,
            decoupled_weight_decay=True, maximize=False,
        )  # fmt: skip
    for p, q in zip(half, wide, strict=True):
        assert p.dtype == np.float16 and np.array_equal(p, q.astype(np.float16))
    for i, p in enumerate(half):
        where = slice(offsets[i], offsets[i] + p.size)
        assert np.array_equal(state[np.float16][:, where], state[np.float32][:, where].astype(np.float16))


def test_gradients_are_only_read():
    """Neither maximize nor weight decay writes into a gradient."""
    params = [np.ones(3, np.float32), np.ones(70000, np.float32)]
    grads = [g.copy() for g in params]
    for g in grads:
        g.flags.writeable = False
    buffers = np.zeros((2, 70016), np.float32)
    fused.adam_(
        params, grads, *buffers, None, np.zeros(2, np.float32), 0.1, offsets=(0, 16), index=(0, 1), beta1=0.9,
        beta2=0.999, eps=1e-8, weight_decay=0.1, decoupled_weight_decay=False, maximize=True,
    )  # fmt: skip
    fused.sgd_(params, grads, buffers[0], 0.1, offsets=(0, 16), momentum=0.9, dampening=0.0, weight_decay=0.1,
               nesterov=True, maximize=True)  # fmt: skip
    assert all((g == 1).all() for g in grads)
