"""Convolutions by the native engine's own code, beside NumPy's in float64."""

import numpy as np
import pytest

import tensorlib as T
from tensorlib import _native
from tensorlib.ops import _convolution_numpy as host
from tensorlib.runtime import engine
from tensorlib.runtime.native import direct, machine, settings

pytestmark = pytest.mark.skipif(
    not _native.available() or not direct.suits(machine.features()), reason="the processor has no AVX-512"
)
F = T.nn.functional


@pytest.fixture
def threads():
    before = settings.get_num_threads()
    yield T.set_num_threads
    settings.set_num_threads(before)


def sizes(rng):
    """Sizes of a convolution, any that fit."""
    while True:
        G = int(rng.choice([1, 1, 2, 3]))
        kernel, stride, dilation = ([int(v) for v in rng.integers(1, top, 2)] for top in (6, 4, 3))
        padding, size = [int(v) for v in rng.integers(0, 4, 2)], [int(v) for v in rng.integers(1, 36, 2)]
        C, O, N = G * int(rng.integers(1, 20)), G * int(rng.integers(1, 20)), int(rng.integers(1, 12))  # noqa: E741
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        if all(n + 2 * p >= r for n, p, r in zip(size, padding, reach, strict=True)):
            return (N, C, *size), (O, C // G, *kernel), (tuple(stride), tuple(padding), tuple(dilation), G)


def of_numpy(f, *args):
    with _native.numpy_only():
        return f(*args)


def agree(found, wanted, terms):
    eps = np.finfo(found.dtype).eps
    np.testing.assert_allclose(found, wanted, rtol=0, atol=12 * eps * (terms + 1) ** 0.5 * 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2])
def test_any_sizes(threads, dtype, count):
    threads(count)
    native = engine.convolutions()
    rng = np.random.default_rng(count)
    for _ in range(60):
        x_shape, w_shape, rest = sizes(rng)
        s = host.geometry(x_shape, w_shape, *rest)
        x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
        bias = rng.standard_normal(s.O).astype(dtype) if rng.random() < 0.5 else None
        g = rng.standard_normal(s.output_shape).astype(dtype)
        x64, w64, g64 = (a.astype(np.float64) for a in (x, w, g))
        wanted = of_numpy(host._convolve, x64, w64, None if bias is None else bias.astype(np.float64), s)
        agree(native.forward(x, w, bias, s), wanted.reshape(s.output_shape), w[0].size)
        agree(native.backward(g, w, s), of_numpy(host._grad_input, g64, w64, s), w[:, 0].size)
        found = native.weight(g, x, s)
        agree(found, of_numpy(host._grad_weight, g64, x64, s).reshape(found.shape), s.N * s.OH * s.OW)


@pytest.mark.parametrize("shapes", [
    ((3, 8, 40, 41), (16, 8, 3, 3), {"padding": 1}), ((2, 4, 61, 60), (7, 4, 5, 5), {"stride": 2, "padding": 2}),
    ((2, 16, 30, 30), (16, 1, 3, 3), {"groups": 16, "padding": 1}), ((1, 200, 24, 24), (40, 200, 3, 3), {}),
])  # fmt: skip
def test_threads_change_no_bit(threads, shapes):
    (x_shape, w_shape, options), results = shapes, []
    for count in (1, 2, 3):
        threads(count)
        T.manual_seed(0)
        x, w, b = T.randn(x_shape), T.randn(w_shape), T.randn(w_shape[0])
        leaves = [t.requires_grad_() for t in (x, w, b)]
        out = F.conv2d(*leaves, **options)
        out.square().sum().backward()
        results.append([out.detach().numpy(), *(t.grad.numpy() for t in leaves[:2])])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_operators_use_it(monkeypatch):
    native, used = engine.convolutions(), []
    for name in ("forward", "backward", "weight"):
        real = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, real=real, name=name: used.append(name) or real(*a))
    x = T.randn(4, 8, 20, 20).transpose(2, 3).requires_grad_()
    w = T.randn(8, 8, 3, 3).requires_grad_()
    F.conv2d(x, w).sum().backward()
    assert sorted(used) == ["backward", "forward", "weight"]
    with _native.numpy_only():
        F.conv2d(x, w)
    F.conv2d(x.detach()[:1, :, :4, :4], w.detach())  # few elements
    assert len(used) == 3


def test_an_infinity_stays_where_it_is():
    """A weight's element that never meets it has a gradient that is a number."""
    x = T.randn(2, 4, 30, 30)
    x[0, 0, 3, 0] = float("inf")  # the first column: the last column of the kernel never sees it
    w = T.randn(4, 4, 3, 3).requires_grad_()
    F.conv2d(x, w, padding=1).backward(T.ones(2, 4, 30, 30))
    grad = w.grad.numpy()
    assert np.isfinite(grad[:, :, :, 2]).all() and np.isinf(grad[:, 0, :, :2]).all() and np.isfinite(grad[:, 1:]).all()
    out = F.conv2d(x, w.detach(), padding=1).numpy()
    assert np.isfinite(out[1]).all() and np.isfinite(out[0, :, :, 2:]).all() and np.isfinite(out[0, :, 6:]).all()


@pytest.mark.parametrize("count", [1, 2])
def test_a_long_job_is_finished(threads, count):
    """The threads come back after 20 ms for signals to be seen: what is left must still be computed."""
    threads(count)
    rng = np.random.default_rng(0)
    shapes = (32, 64, 64, 64), (64, 64, 3, 3)
    x, w = (T.from_numpy(rng.standard_normal(shape).astype("f4")).requires_grad_() for shape in shapes)
    for _ in range(2):  # the second time over memory that holds something
        x.grad = w.grad = None
        np.full((32, 64, 62, 62), np.nan, "f4")
        y = F.conv2d(x, w)
        y.sum().backward()
    for at in (0, 31):
        one = x[at : at + 1].detach().requires_grad_()
        alone = F.conv2d(one, w)
        (of_one,) = T.autograd.grad(alone.sum(), one)
        assert T.equal(alone[0], y[at]) and T.equal(of_one[0], x.grad[at])
    summed = x.detach().double().unfold(2, 62, 1).unfold(3, 62, 1).sum((0, 4, 5))
    T.testing.assert_close(w.grad[0].double(), summed, rtol=1e-3, atol=0.1)
    pooled = F.max_pool2d(x.detach(), 3, 1)
    assert T.equal(pooled[-1:], F.max_pool2d(x[-1:].detach(), 3, 1))
