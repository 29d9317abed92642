"""Products of NumPy's arrays that the native engine's threads share, beside NumPy's own in float64."""

import ctypes
import mmap
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tensorlib as T
from tensorlib import _blas, _native, _products
from tensorlib.runtime import engine
from tensorlib.runtime.native import settings

products = engine.products()
pytestmark = pytest.mark.skipif(products.code() is None, reason="NumPy has no OpenBLAS, the processor no AVX-512")


@pytest.fixture(params=["own", "blas"])
def made(request, monkeypatch):
    """Two threads for both, small products as well, by the engine's own code or by BLAS's, and their results."""
    code = products.code()
    if not (code.own if request.param == "own" else code.blas):
        pytest.skip(f"this processor has no product by {request.param}")
    monkeypatch.setattr(code, "own", request.param == "own")
    used, before = _blas.openblas(), settings.get_num_threads()
    blas_before = used.threads
    T.set_num_threads(2)
    monkeypatch.setattr(_products, "LEAST", 1)
    monkeypatch.setattr(_products, "LEAST_ALONE", 1)
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
        m, k, n = rng.integers(8, 220, 3)
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "k", "n"), [(1500, 40, 37), (13, 1100, 70), (12, 513, 32), (8, 2, 2), (733, 521, 5)])
def test_more_than_one_part(made, dtype, m, k, n):
    rng = np.random.default_rng(5)
    for a_kind, b_kind in (("contiguous", "transposed"), ("transposed", "contiguous")):
        a, b = operand(rng, a_kind, (), m, k, dtype), operand(rng, b_kind, (), k, n, dtype)
        bias = rng.standard_normal(n).astype(dtype)
        with _blas.threads(1):
            expected = a.astype("float64") @ b.astype("float64") + bias
        for threads in (2, 1):
            T.set_num_threads(threads)
            got = _products.matmul(a, b, bias=bias)
            np.testing.assert_allclose(got, expected, rtol=0, atol=np.finfo(dtype).eps * 4 * k)
            if made[-1] is not None:
                assert made.pop() is got
        T.set_num_threads(2)


def test_nothing_beyond_the_operands_is_read(made):
    """Every operand ends where a page that may not be read begins."""
    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    kept = []

    def at_the_end(x):
        size = -(-x.nbytes // page) * page
        area = mmap.mmap(-1, size + page)
        start = np.frombuffer(area, np.uint8).ctypes.data
        assert libc.mprotect(ctypes.c_void_p(start + size), page, 0) == 0
        kept.append((area, start + size))
        out = np.frombuffer(area, x.dtype, x.size, size - x.nbytes).reshape(x.shape)
        out[...] = x
        return out

    rng = np.random.default_rng(6)
    for m, k, n in ((13, 21, 35), (8, 16, 32), (100, 513, 47), (12, 5, 9)):
        for turned_a, turned_b in ((False, False), (False, True), (True, False), (True, True)):
            a = at_the_end(rng.standard_normal((k, m) if turned_a else (m, k)).astype("float32"))
            b = at_the_end(rng.standard_normal((n, k) if turned_b else (k, n)).astype("float32"))
            bias, out = at_the_end(rng.standard_normal(n).astype("float32")), at_the_end(np.zeros((m, n), np.float32))
            x, y = a.T if turned_a else a, b.T if turned_b else b
            _products.matmul(x, y, out, bias)
            np.testing.assert_allclose(out, x @ y + bias, rtol=1e-4, atol=1e-4)
            assert made.pop() is out
    for _, end in kept:  # the memory goes back as it came
        libc.mprotect(ctypes.c_void_p(end), page, mmap.PROT_READ | mmap.PROT_WRITE)


def test_infinities_and_nan_stay_in_their_rows_and_columns(made):
    a, b = np.ones((40, 30), np.float32), np.ones((30, 50), np.float32)
    a[3, 4], b[7, 9] = np.inf, np.nan
    got = _products.matmul(a, b)
    expected = np.full((40, 50), 30, np.float32)
    expected[3], expected[:, 9] = np.inf, np.nan
    np.testing.assert_array_equal(got, expected)


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
    row = np.broadcast_to(a[0], (80, 80))
    for x, y in ((a[::2, ::2], a[:40]), (a[::-1], a), (row, a), (a[:1], a), (a, a[:, :1])):
        np.testing.assert_allclose(_products.matmul(x, y), x @ y, rtol=1e-5, atol=1e-5)
        assert made.pop() is None
    with pytest.raises(ValueError):
        _products.matmul(a, a[:3])


def test_large_products_are_cut_into_more_blocks_than_threads():
    assert products.plan((4096, 4096), (16384, 4), (4096, 4096), (16384, 4), None, 4, 2, True, True).programs > 2
    small = products.plan((8, 64), (256, 4), (64, 8), (32, 4), None, 4, 2, True, True)
    assert small.programs == 1 and not small.shared


def test_every_element_is_of_one_block():
    for m, n, threads in ((1000, 3, 8), (2, 2, 64), (129, 4097, 7), (512, 512, 64), (33, 10_000, 16)):
        how = products.plan((m, 64), (256, 4), (64, n), (4 * n, 4), None, 4, threads, m > 100, True)
        at = dict(zip(products._FIELDS[products._FIELDS.index("inner") :], how.steps, strict=True))
        down = -(-m // at["rows"])
        assert at["parts"] == how.programs == down * at["across"]
        assert (down - 1) * at["rows"] < m and (at["across"] - 1) * at["columns"] < n <= at["across"] * at["columns"]


def test_one_thread(made):
    """BLAS on one thread is NumPy's own product; ours is ours."""
    a = np.ones((64, 64), np.float32)
    own = products.code().own
    with _blas.threads(1):
        assert (_products.matmul(a, a) == 64).all() and (made.pop() is not None) == own
    T.set_num_threads(1)
    assert (_products.matmul(a, a) == 64).all() and (made.pop() is not None) == own
    T.set_num_threads(2)


def test_the_sums_do_not_depend_on_the_threads(made):
    rng = np.random.default_rng(7)
    a, b = (rng.standard_normal(s).astype("float32") for s in ((300, 700), (700, 200)))
    if not products.code().own:
        return
    with_two = _products.matmul(a, b)
    T.set_num_threads(1)
    np.testing.assert_array_equal(with_two, _products.matmul(a, b))
    T.set_num_threads(2)


def test_off_is_off(made, monkeypatch):
    monkeypatch.setattr(_native.state, "least", {})
    a = np.ones((64, 64), np.float32)
    assert (_products.matmul(a, a) == 64).all() and not made


def test_without_a_compiler(made, monkeypatch):
    """One warning, and NumPy's product from then on."""

    def none(*args):
        raise engine.codegen().NoCompiler("no compiler")

    monkeypatch.setattr(products, "matmul", none)
    monkeypatch.setattr(_products._State, "possible", True)
    a = np.ones((64, 64), np.float32)
    with pytest.warns(UserWarning, match="no compiler: products of the CPU are left to NumPy alone"):
        assert (_products.matmul(a, a) == 64).all()
    assert (_products.matmul(a, a) == 64).all()


def test_threads_of_a_program_multiply_at_the_same_time(made):
    """Of BLAS one has it to itself, the others NumPy's product; it has its threads again. Ours give the same bits."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((150, 150)).astype("float32") for _ in range(2))
    expected, wrong, own = a.astype("float64") @ b, [], products.code().own
    once = _products.matmul(a, b)

    def many():
        for _ in range(200):
            got = _products.matmul(a, b)
            if not np.allclose(got, expected, atol=1e-3) or (own and not np.array_equal(got, once)):
                wrong.append(1)

    workers = [threading.Thread(target=many) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong and any(x is not None for x in made)
    assert not own or all(x is not None for x in made)


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


def test_the_first_products_of_several_threads():
    """None of them has its code replaced by another's while it runs."""
    program = (
        "import threading\nimport numpy as np, tensorlib as T\nfrom tensorlib import _products\nT.set_num_threads(2)\n"
        "a, r = np.ones((700, 700), np.float32), []\n"
        "ts = [threading.Thread(target=lambda: r.append(_products.matmul(a, a))) for _ in range(6)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\nassert len(r) == 6 and all((x == 700).all() for x in r)\n"
    )
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_process_ends_while_its_threads_look_for_work():
    program = (
        "import numpy as np, tensorlib as T\nfrom tensorlib import _products\nT.set_num_threads(3)\n"
        "a = np.ones((512, 512), np.float32)\nassert (_products.matmul(a, a) == 512).all()\n"
    )
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0
