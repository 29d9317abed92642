"""Products of NumPy's arrays that the native engine's threads share, beside NumPy's own in float64."""

import os
import threading

import numpy as np
import pytest

import tensorlib as T
from tensorlib import _blas, _native, _products
from tensorlib.runtime import engine
from tensorlib.runtime.native import settings

products = engine.products()
pytestmark = pytest.mark.skipif(products.code() is None, reason="NumPy's products are not OpenBLAS's")


@pytest.fixture
def made(monkeypatch):
    """Two threads for both, small products shared as well, and the results of the shared ones."""
    used, before = _blas.openblas(), settings.get_num_threads()
    blas_before = used.threads
    T.set_num_threads(2)
    monkeypatch.setattr(_products, "LEAST", 1)
    results = []
    real = products.matmul
    monkeypatch.setattr(products, "matmul", lambda *a: results.append(real(*a)) or results[-1])
    yield results
    assert used.threads == 2  # as it was set
    settings.set_num_threads(before)
    used.set_threads(blas_before)


def operand(rng, kind, lead, rows, columns, dtype):
    if kind == "contiguous":
        return rng.standard_normal((*lead, rows, columns)).astype(dtype)
    if kind == "transposed":
        return rng.standard_normal((*lead, columns, rows)).astype(dtype).swapaxes(-1, -2)
    if kind == "part":
        return rng.standard_normal((*lead, rows + 3, columns + 5)).astype(dtype)[..., 1 : rows + 1, 2 : columns + 2]
    return np.moveaxis(rng.standard_normal((rows, *lead, columns)).astype(dtype), 0, -2)  # heads, say


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [2, 3])
def test_every_layout(made, dtype, threads):
    T.set_num_threads(threads)
    rng = np.random.default_rng(0)
    kinds = ("contiguous", "transposed", "part", "moved")
    leads = [((), ()), ((3,), (3,)), ((2, 3), (2, 3)), ((2, 3), ()), ((2, 1), (1, 3)), ((4, 1, 3), (4, 1, 3))]
    for i in range(60):
        m, k, n = rng.integers(2, 220, 3)
        la, lb = leads[i % len(leads)]
        a = operand(rng, kinds[i % 4], la, m, k, dtype)
        b = operand(rng, kinds[i // 4 % 4], lb, k, n, dtype)
        bias = rng.standard_normal(n).astype(dtype) if i % 3 else None
        with _blas.threads(1):
            expected = a.astype("float64") @ b.astype("float64") + (0 if bias is None else bias)
        got = _products.matmul(a, b, bias=bias)
        assert made.pop() is got and got.dtype == dtype and got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=np.finfo(dtype).eps * 4 * k)
    T.set_num_threads(2)


def test_out_is_written_where_it_lies(made):
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype("float32") for s in ((3, 65, 40), (3, 40, 33)))
    around = np.full((3, 67, 40), 7, np.float32)
    out = around[:, 1:-1, 4:-3]
    assert _products.matmul(a, b, out=out) is out and made.pop() is out
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)
    out[...] = 7
    assert (around == 7).all()


def test_what_blas_cannot_read_is_numpys(made):
    rng = np.random.default_rng(2)
    a = rng.standard_normal((80, 80)).astype("float32")
    for x, y in ((a[::2, ::2], a[:40]), (a[::-1], a), (np.broadcast_to(a[0], (80, 80)), a), (a[:1], a), (a, a[:, :1])):
        np.testing.assert_allclose(_products.matmul(x, y), x @ y, rtol=1e-5, atol=1e-5)
        assert made.pop() is None
    with pytest.raises(ValueError):
        _products.matmul(a, a[:3])


def test_large_products_are_cut_into_more_blocks_than_threads():
    assert products.plan((4096, 4096), (16384, 4), (4096, 4096), (16384, 4), None, 4, 2).programs > 2
    small = products.plan((8, 64), (256, 4), (64, 8), (32, 4), None, 4, 2)
    assert small.programs == 1 and not small.shared


def test_every_element_is_of_one_block():
    for m, n, threads in ((1000, 3, 8), (2, 2, 64), (129, 4097, 7), (512, 512, 64), (33, 10_000, 16)):
        how = products.plan((m, 64), (256, 4), (64, n), (4 * n, 4), None, 4, threads)
        at = dict(zip(products._FIELDS[products._FIELDS.index("inner") :], how.steps, strict=True))
        down = -(-m // at["rows"])
        assert at["parts"] == how.programs == down * at["across"]
        assert (down - 1) * at["rows"] < m and (at["across"] - 1) * at["columns"] < n <= at["across"] * at["columns"]


def test_one_thread_is_left_to_numpy(made):
    a = np.ones((64, 64), np.float32)
    with _blas.threads(1):
        assert (_products.matmul(a, a) == 64).all() and made.pop() is None
    T.set_num_threads(1)
    _products.matmul(a, a)
    assert not made
    T.set_num_threads(2)


def test_off_is_off(made, monkeypatch):
    monkeypatch.setattr(_native.state, "least", {})
    a = np.ones((64, 64), np.float32)
    assert (_products.matmul(a, a) == 64).all() and not made


def test_threads_of_a_program_multiply_at_the_same_time(made):
    """One of them has BLAS to itself, the others NumPy's product: all are right, and BLAS has its threads again."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((150, 150)).astype("float32") for _ in range(2))
    expected, wrong = a.astype("float64") @ b, []

    def many():
        for _ in range(200):
            if not np.allclose(_products.matmul(a, b), expected, atol=1e-3):
                wrong.append(1)

    workers = [threading.Thread(target=many) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong and any(x is not None for x in made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_thread_that_multiplies(made, monkeypatch):
    """The parent was inside, with BLAS at one thread: the child has two again, and multiplies."""
    used = _blas.openblas()
    a = np.ones((64, 64), np.float32)
    _products.matmul(a, a)
    monkeypatch.setattr(products._State, "threads", 2)
    assert products._State.lock.acquire(blocking=False)
    used.set_threads(1)
    child = os.fork()
    if not child:
        good = used.threads == 2 and products.matmul(a, a, None, None) is not None
        os._exit(0 if good else 1)
    used.set_threads(2)
    products._State.lock.release()
    monkeypatch.setattr(products._State, "threads", None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("bias", [None, (40,), (1,), (3, 40), (2, 3, 40)])
def test_linear_adds_every_bias(made, bias):
    rng = np.random.default_rng(4)
    x, w = (T.from_numpy(rng.standard_normal(s).astype("float32")) for s in ((2, 3, 50), (40, 50)))
    b = None if bias is None else T.from_numpy(rng.standard_normal(bias).astype("float32"))
    expected = x.numpy() @ w.numpy().T + (0 if b is None else b.numpy())
    np.testing.assert_allclose(T.nn.functional.linear(x, w, b).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert made.pop() is not None
