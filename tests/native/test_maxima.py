"""Maxima of windows by the native engine's own code, beside NumPy's: the same bits."""

import numpy as np
import pytest

import tensorlib as T
from tensorlib import _native
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.ops import pooling
from tensorlib.runtime import engine
from tensorlib.runtime.native import direct, machine, settings

pytestmark = pytest.mark.skipif(
    not _native.available() or not direct.suits(machine.features()), reason="the processor has no AVX-512"
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2])
def test_any_windows(dtype, count):
    before, rng, tried = settings.get_num_threads(), np.random.default_rng(count), 0
    settings.set_num_threads(count)
    try:
        while tried < 60:
            dims = int(rng.integers(1, 3))
            kernel, stride = (tuple(int(v) for v in rng.integers(1, 5, dims)) for _ in range(2))
            padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
            dilation = tuple(int(v) for v in rng.integers(1, 3, dims))
            shape = (2, int(rng.integers(1, 4)), *(int(v) for v in rng.integers(1, 40, dims)))
            try:
                s = pooling.windows("max_pool2d", shape, kernel, stride, padding, dilation, bool(tried % 2))
            except (ArgumentError, ShapeError):  # they do not fit
                continue
            tried += 1
            x = np.round(rng.standard_normal((shape[0] * shape[1], *shape[2:])), 1).astype(dtype)  # with equals
            if tried % 4 == 0:
                x.reshape(-1)[rng.integers(0, x.size, 3)] = [np.nan, -np.inf, np.inf]
            best, number = np.empty((len(x), *s.out), dtype), np.empty((len(x), *s.out), np.uint8)
            pooling._largest(x, s, best, number)
            out, chosen = engine.maxima().forward(x, s, pooling._first(s, np.dtype(np.uint8)))
            np.testing.assert_array_equal(out, best)
            np.testing.assert_array_equal(chosen, number)
            g, wanted = rng.standard_normal(out.shape).astype(dtype), np.empty(x.shape, dtype)
            pooling._spread(g, number, s, wanted)
            found = engine.maxima().backward(g, number, s)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=20 * np.finfo(dtype).eps)
    finally:
        settings.set_num_threads(before)


def test_the_operators_use_it(monkeypatch):
    native, used = engine.maxima(), []
    for name in ("forward", "backward"):
        real = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, real=real, name=name: used.append(name) or real(*a))
    x = T.randn(2, 8, 40, 40).transpose(2, 3).requires_grad_()
    out, where = T.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    out.sum().backward()
    assert used == ["forward", "backward"]
    assert T.equal(out.flatten(2), x.flatten(2).gather(-1, where.flatten(2)))
    with _native.numpy_only():
        assert T.equal(T.nn.functional.max_pool2d(x, 3, 2, 1), out)
    assert len(used) == 2
