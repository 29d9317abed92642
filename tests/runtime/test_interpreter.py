"""Each repair of Triton's interpreter, judged against NumPy in float64 or against a published constant."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib.metadata import version

import ml_dtypes
import numpy as np
import pytest

from tensorlib._array import DeviceArray, as_strided, empty, poison, to_device, to_host
from tensorlib._device import device
from tensorlib.errors import KernelError
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import launch

pytest.importorskip("triton")

INTERPRET = device("interpret")
BF16, F16, F32, F64 = (np.dtype(d) for d in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64))
E4M3, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)


def run(kernel, out_shape, out_dtype, *args, grid=1, **constants):
    """The array that kernel(out, *args) writes."""
    out = empty((out_shape,) if isinstance(out_shape, int) else out_shape, out_dtype, INTERPRET)
    args = [to_device(a, INTERPRET) if isinstance(a, np.ndarray) else a for a in args]
    launch(kernel, grid, out, *args, **constants)
    return to_host(out)


def f64(x):
    return np.asarray(x).astype(np.float64)


# -- one kernel for unary and binary functions of blocks


@jit
def _map1(out, x, fn: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, fn(tl.load(x + i)))


@jit
def _map2(out, x, y, fn: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, fn(tl.load(x + i), tl.load(y + i)))


X = np.array([1.5, -2.25, 3.0, 0.1, 200.0, -0.0, 7.125, 1e-3], np.float32)
Y = np.array([0.5, 1.75, -3.0, 0.3, 3.0, 2.0, 7.125, 5.0], np.float32)


@jit
def _add(a, b):
    return a + b


@jit
def _sub(a, b):
    return a - b


@jit
def _mul(a, b):
    return a * b


@jit
def _div(a, b):
    return a / b


@jit
def _maximum(a, b):
    return tl.maximum(a, b)


@jit
def _clamp(a, b):
    return tl.clamp(a, -1.0, b.to(tl.float32)).to(a.dtype)


@jit
def _where(a, b):
    return tl.where(a < b, a, b)


@jit
def _neg_abs(a, b):
    return -tl.abs(a) + 0 * b


@jit
def _fma(a, b):
    return tl.fma(a, b, b)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64], ids=str)
@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (_add, np.add),
        (_sub, np.subtract),
        (_mul, np.multiply),
        (_maximum, np.fmax),
        (_clamp, lambda a, b: np.minimum(np.maximum(a, -1), b)),
        (_where, lambda a, b: np.where(a < b, a, b)),
        (_neg_abs, lambda a, b: -np.abs(a)),
        (_fma, lambda a, b: a * b + b),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_arithmetic_rounds_once_in_every_float_dtype(dtype, fn, expected):
    x, y = X.astype(dtype), np.abs(Y).astype(dtype)
    wide = np.longdouble if dtype == F64 else np.float64
    np.testing.assert_array_equal(
        run(_map2, 8, dtype, x, y, fn=fn, N=8), expected(x.astype(wide), y.astype(wide)).astype(dtype)
    )


def test_division_of_bfloat16():
    # tl divides half types in float32, and `/` of two bfloat16 gives float32's quotient
    x, y = X.astype(BF16), Y.astype(BF16)
    np.testing.assert_array_equal(run(_map2, 8, F32, x, y, fn=_div, N=8), x.astype(F32) / y.astype(F32))


@jit
def _less(a, b):
    return a < b


@jit
def _unequal(a, b):
    return (a != b).to(tl.bfloat16)


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_comparisons_give_int1(dtype):
    x, y = X.astype(dtype), Y.astype(dtype)
    np.testing.assert_array_equal(run(_map2, 8, bool, x, y, fn=_less, N=8), x < y)
    np.testing.assert_array_equal(run(_map2, 8, BF16, x, y, fn=_unequal, N=8), (x != y).astype(BF16))


def test_int1_arithmetic_wraps():
    x, y = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    np.testing.assert_array_equal(run(_map2, 4, bool, x, y, fn=_add, N=4), [False, True, True, False])


@jit
def _logic(a, b):
    both = (a > 0 and b > 0).to(tl.float32)
    either = (a > 0 or b > 0).to(tl.float32)
    return both + 2 * either + 4 * (not (a > 0)).to(tl.float32)


def test_and_or_not_of_blocks_are_elementwise():
    x, y = np.array([1, 1, -1, -1], np.float32), np.array([1, -1, 1, -1], np.float32)
    np.testing.assert_array_equal(run(_map2, 4, F32, x, y, fn=_logic, N=4), [3, 2, 6, 4])


@jit
def _scalar_logic(out, n, NONE: tl.constexpr):
    if n > 2 and not n > 5:
        tl.store(out, 1)
    if NONE is not None and NONE.undefined:
        tl.store(out, 2)
    if n > 100 or n == 3:
        tl.store(out + 1, 3)


def test_and_or_not_of_scalars_decide_as_in_python():
    np.testing.assert_array_equal(run(_scalar_logic, 2, np.int32, 3, NONE=None), [1, 3])


@jit
def _between(a, b):
    return (-1 < a < b).to(tl.float32)


def test_chained_comparisons_are_elementwise_or_refused():
    x, y = np.array([0, 0, -2, 3], np.float32), np.array([1, -1, 1, 4], np.float32)
    if version("triton") < "3.9":
        with pytest.raises(KernelError, match="takes no a < b < c"):
            run(_map2, 4, F32, x, y, fn=_between, N=4)
    else:
        np.testing.assert_array_equal(run(_map2, 4, F32, x, y, fn=_between, N=4), [1, 0, 0, 1])


# -- casts


@jit
def _cast(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty))


FLOATS = [BF16, F16, F32, F64, E4M3, E5M2]
CASTS = [(a, b) for a in FLOATS for b in FLOATS if a != F64 or b.itemsize > 1] + [
    pair for i in (np.int32, np.uint8) for f in FLOATS[:4] for pair in ((np.dtype(i), f), (f, np.dtype(i)))
]  # Triton has no cast between integers and float8


@pytest.mark.parametrize(("of", "to"), CASTS, ids=str)
def test_casts_round_to_nearest_even(of, to):
    x = np.array([0, 1, 3, 10, 17, 19, 100, 101], np.float64).astype(of)
    if of.kind != "i" and of.kind != "u":
        x[3:5] = np.array([0.3, 1.0625], np.float64).astype(of)
    np.testing.assert_array_equal(
        f64(run(_cast, 8, to, x, N=8)), f64(x.astype(np.float32 if of != F64 else F64).astype(to))
    )


def test_float32_to_bfloat16_ties_and_specials():
    # 1 + 2**-8 is halfway between two bfloat16 and goes to the even one; stock truncation fails the third.
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12, np.inf, -np.inf, np.nan, 3.4e38, -0.0], np.float32)
    out = run(_cast, 8, BF16, x, N=8)
    np.testing.assert_array_equal(f64(out), [1, 1 + 2**-6, 1 + 2**-7, np.inf, -np.inf, np.nan, np.inf, -0.0])


@jit
def _toward_zero(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(tl.bfloat16, fp_downcast_rounding="rtz"))


def test_rounding_toward_zero():
    x = np.array([1 + 2**-7 - 2**-12, -(1 + 2**-7 - 2**-12), 1.0, 0.1], np.float32)
    out = f64(run(_toward_zero, 4, BF16, x, N=4))
    np.testing.assert_array_equal(out[:3], [1, -1, 1])
    assert 0.1 - 2**-11 < out[3] <= 0.1


@jit
def _bits(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(tl.uint16, bitcast=True))


def test_bitcast_of_bfloat16():
    x = np.array([1.0, -2.0], BF16)
    np.testing.assert_array_equal(run(_bits, 2, np.uint16, x, N=2), x.view(np.uint16))


# -- NaN


@jit
def _nan_cases(out, x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.maximum(a, b))
    tl.store(out + N + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 2 * N + i, tl.minimum(a, b))
    tl.store(out + 3 * N + i, tl.clamp(a, -1.0, 1.0))


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_nan_in_maximum_minimum_and_clamp(dtype):
    nan = np.nan
    x, y = np.array([nan, 1, nan, 2], dtype), np.array([3, nan, nan, 5], dtype)
    out = f64(run(_nan_cases, (4, 4), dtype, x, y, N=4))
    np.testing.assert_array_equal(out[0], [3, 1, nan, 5])
    np.testing.assert_array_equal(out[1], [nan, nan, nan, 5])
    np.testing.assert_array_equal(out[2], [3, 1, nan, 2])
    np.testing.assert_array_equal(out[3], [-1, 1, -1, 1])


# -- dot


@jit
def _dot(
    out, a, b, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr = "ieee"
):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + m * K + k[None, :])
    y = tl.load(b + k[:, None] * N + n[None, :])
    acc = tl.zeros((M, N), dtype=ACC)
    acc = tl.dot(x, y, acc, out_dtype=ACC, input_precision=PRECISION)
    tl.store(out + m * N + n[None, :], acc.to(out.dtype.element_ty))


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, E4M3, E5M2], ids=str)
def test_dot_accumulates_wide(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 32)).astype(dtype), rng.standard_normal((32, 16)).astype(dtype)
    acc = F64 if dtype == F64 else F32
    out = run(_dot, (16, 16), acc, a, b, M=16, N=16, K=32, ACC=acc)
    tolerance = 1e-13 if dtype == F64 else 1e-5
    np.testing.assert_allclose(out, f64(a) @ f64(b), rtol=tolerance, atol=tolerance)


def test_dot_in_tf32_multiplies_ten_bits_of_mantissa():
    x = np.full((16, 32), 1 + 2**-11 + 2**-12, np.float32)  # rounds up to 1 + 2**-10
    y = np.full((32, 16), 1 + 2**-11, np.float32)  # a tie: to even, 1
    out = run(_dot, (16, 16), F32, x, y, M=16, N=16, K=32, ACC=F32, PRECISION="tf32")
    np.testing.assert_array_equal(out, np.full((16, 16), 32 * (1 + 2**-10), np.float32))


def test_dot_of_int8():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (16, 32), np.int8), rng.integers(-128, 128, (32, 16), np.int8)
    out = run(_dot, (16, 16), np.int32, a, b, M=16, N=16, K=32, ACC=np.dtype(np.int32))
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


# -- reductions


@jit
def _row_sum(out, x, M: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, M)
    tl.store(out + i, tl.sum(tl.load(x + i[:, None] * N + tl.arange(0, N)[None, :]), axis=1))


@jit
def _row_max(out, x, M: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, M)
    tl.store(out + i, tl.max(tl.load(x + i[:, None] * N + tl.arange(0, N)[None, :]), axis=1))


@jit
def _row_argmax(out, x, M: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, M)
    tl.store(out + i, tl.argmax(tl.load(x + i[:, None] * N + tl.arange(0, N)[None, :]), axis=1))


@jit
def _total(out, x, M: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, M)
    block = tl.load(x + i[:, None] * N + tl.arange(0, N)[None, :])
    tl.store(out, tl.sum(block))
    kept = tl.max(block, axis=0, keep_dims=True)
    tl.store(out + 1 + tl.arange(0, N)[None, :], kept)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, np.dtype(np.int32)], ids=str)
def test_sum_and_max(dtype):
    x = (np.random.default_rng(1).standard_normal((8, 64)) * 10).astype(dtype)
    exact = f64(x).sum(axis=1)
    eps = float(ml_dtypes.finfo(dtype).eps) if dtype.kind in "fV" else 0
    eps *= 4 if dtype.itemsize == 2 else 1  # half types are rounded at each of the steps, as on a GPU
    np.testing.assert_allclose(f64(run(_row_sum, 8, dtype, x, M=8, N=64)), exact, rtol=eps, atol=eps * 40)
    np.testing.assert_array_equal(run(_row_max, 8, dtype, x, M=8, N=64), x.max(axis=1))
    np.testing.assert_array_equal(run(_row_argmax, 8, np.int32, x, M=8, N=64), f64(x).argmax(axis=1))
    both = run(_total, 65, dtype, x, M=8, N=64)
    np.testing.assert_allclose(f64(both[0]), f64(x).sum(), rtol=eps, atol=eps * 60)
    np.testing.assert_array_equal(both[1:], x.max(axis=0))


def test_sum_of_bfloat16_ones_does_not_saturate():
    assert float(run(_row_sum, 1, BF16, np.ones((1, 512), BF16), M=1, N=512)[0]) == 512


def test_max_ignores_nan_as_the_gpu_does():
    x = np.array([[1, np.nan, 3, 2], [np.nan] * 4], np.float32)
    np.testing.assert_array_equal(run(_row_max, 2, F32, x, M=2, N=4), [3, np.nan])


@jit
def _welford(mean_a, m2_a, n_a, mean_b, m2_b, n_b):
    n = n_a + n_b
    delta = mean_b - mean_a
    return mean_a + delta * (n_b / n), m2_a + m2_b + delta * delta * (n_a * n_b / n), n


@jit
def _moments(out, x, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    block = tl.load(x + i * N + j)
    mean, m2, n = tl.reduce((block, tl.zeros_like(block), tl.full((M, N), 1.0, tl.float32)), AXIS, _welford)
    k = tl.arange(0, N if AXIS == 0 else M)
    tl.store(out + k, mean)
    tl.store(out + (N if AXIS == 0 else M) + k, m2 / n)


@pytest.mark.parametrize("axis", [0, 1])
def test_reduction_of_a_tuple_by_a_users_function(axis):
    x = np.random.default_rng(2).standard_normal((8, 16)).astype(np.float32)
    mean, variance = run(_moments, (2, 8 if axis else 16), F32, x, M=8, N=16, AXIS=axis)
    np.testing.assert_allclose(mean, f64(x).mean(axis), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, f64(x).var(axis), rtol=1e-5)


@jit
def _second(a, b):
    return b


@jit
def _last(out, x, N: tl.constexpr):
    tl.store(out, tl.reduce(tl.load(x + tl.arange(0, N)), 0, _second))


def test_reduction_keeps_the_order_of_elements():
    assert run(_last, 1, F32, np.arange(16, dtype=np.float32), N=16)[0] == 15


# -- scans


@jit
def _scans(out, x, M: tl.constexpr, N: tl.constexpr, REVERSE: tl.constexpr):
    p = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    block = tl.load(x + p)
    tl.store(out + p, tl.cumsum(block, axis=1, reverse=REVERSE))
    tl.store(out + M * N + p, tl.cumprod(block, axis=1, reverse=REVERSE))
    tl.store(out + 2 * M * N + p, tl.cumsum(block, axis=0, reverse=REVERSE))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [BF16, F32, F64], ids=str)
def test_cumulative_sum_and_product(dtype, reverse):
    x = np.random.default_rng(3).uniform(0.5, 1.5, (4, 8)).astype(dtype)
    out = f64(run(_scans, (3, 4, 8), dtype, x, M=4, N=8, REVERSE=reverse))
    way = slice(None, None, -1 if reverse else 1)
    tolerance = {BF16: 0.04, F32: 1e-6, F64: 1e-14}[dtype]
    np.testing.assert_allclose(out[0], np.cumsum(f64(x)[:, way], 1)[:, way], rtol=tolerance)
    np.testing.assert_allclose(out[1], np.cumprod(f64(x)[:, way], 1)[:, way], rtol=tolerance)
    np.testing.assert_allclose(out[2], np.cumsum(f64(x)[way], 0)[way], rtol=tolerance)


@jit
def _linear(a1, b1, a2, b2):
    return a1 * a2, a2 * b1 + b2


@jit
def _recurrence(out, a, b, N: tl.constexpr, REVERSE: tl.constexpr):
    i = tl.arange(0, N)
    _, h = tl.associative_scan((tl.load(a + i), tl.load(b + i)), 0, _linear, reverse=REVERSE)
    tl.store(out + i, h)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_of_a_tuple_by_a_function_that_does_not_commute(reverse):
    a, b = np.random.default_rng(4).uniform(0.2, 0.9, (2, 16)).astype(np.float32)
    h, expected = 0.0, np.empty(16)
    for i in range(16)[:: -1 if reverse else 1]:
        h = expected[i] = float(a[i]) * h + float(b[i])
    np.testing.assert_allclose(run(_recurrence, 16, F32, a, b, N=16, REVERSE=reverse), expected, rtol=1e-5)


# -- atomics


@jit
def _count(out, x, n, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.atomic_add(out + (i % 4), tl.load(x + i, mask=i < n), mask=i < n)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, np.dtype(np.int32), np.dtype(np.int64)], ids=str)
def test_atomic_add_to_shared_cells(dtype):
    x = np.arange(1, 31).astype(dtype)
    out = to_device(np.zeros(4, dtype), INTERPRET)
    launch(_count, 2, out, to_device(x, INTERPRET), 30, N=16)
    np.testing.assert_array_equal(f64(to_host(out)), [sum(range(r, 31, 4)) for r in (1, 2, 3, 4)])


@jit
def _extremes(out, x, N: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    tl.atomic_max(out + tl.zeros((N,), tl.int32), v)
    tl.atomic_min(out + 1 + tl.zeros((N,), tl.int32), v)


@pytest.mark.parametrize("dtype", [F32, np.dtype(np.int32), np.dtype(np.uint32)], ids=str)
def test_atomic_max_and_min(dtype):
    x = np.array([3, 7, 1, 200], dtype) if dtype.kind == "u" else np.array([3, -7, 1, 2], dtype)
    start = np.array([2, 2], dtype)
    out = to_device(start, INTERPRET)
    launch(_extremes, 1, out, to_device(x, INTERPRET), N=4)
    np.testing.assert_array_equal(to_host(out), [max(2, x.max()), min(2, x.min())])


@jit
def _locked(out, lock):
    old = tl.atomic_cas(lock, 0, 1)
    before = tl.atomic_xchg(lock, 5)
    tl.store(out, old)
    tl.store(out + 1, before)


def test_atomic_cas_and_xchg():
    lock = to_device(np.zeros(1, np.int32), INTERPRET)
    out = empty((2,), np.int32, INTERPRET)
    launch(_locked, 1, out, lock)
    assert (to_host(out).tolist(), to_host(lock).tolist()) == ([0, 1], [5])


# -- memory


@jit
def _copy(out, x, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i, mask=i < n))


@jit
def _copy_filled(out, x, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=7))


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, np.dtype(np.int8), np.dtype(np.int64)], ids=str)
def test_undefined_lanes_are_poisoned(dtype):
    x = np.arange(4).astype(dtype)
    out = run(_copy, 8, dtype, x, 4, N=8)
    np.testing.assert_array_equal(f64(out[:4]), [0, 1, 2, 3])
    if dtype.kind == "i":
        assert (out[4:] == np.iinfo(dtype).max // 2 | 1).all()
    else:
        assert np.isnan(f64(out[4:])).all()
    np.testing.assert_array_equal(f64(run(_copy_filled, 8, dtype, x, 4, N=8)), [0, 1, 2, 3, 7, 7, 7, 7])


@jit
def _read_past(out, x, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), tl.load(x + tl.arange(0, N) * 1000000007))


def test_out_of_bounds_accesses_are_errors():
    x = to_device(np.zeros(8, np.float32), INTERPRET)
    out = empty((8,), F32, INTERPRET)
    with pytest.raises(KernelError, match=r"_read_past.*program \(0, 0, 0\).*load out of bounds at 7 of 8 lanes") as e:
        launch(_read_past, 1, out, x, N=8)
    assert isinstance(e.value.__cause__, IndexError)
    small = empty((4,), F32, INTERPRET)
    with pytest.raises(KernelError, match="store out of bounds at 4 of 8 lanes"):
        launch(_copy, 1, small, x, 8, N=8)


@jit
def _sum_of_table(out, table, n, COUNT: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    acc = tl.zeros((N,), tl.float32)
    for t in tl.static_range(COUNT):
        p = tl.load(table + t).to(tl.pointer_type(tl.float32))
        acc += tl.load(p + i, mask=i < n, other=0.0)
    tl.store(out + i, acc, mask=i < n)


def test_pointers_from_an_address_table():
    parts = [to_device(np.full(5, v, np.float32), INTERPRET) for v in (1, 2, 4)]
    table = np.array([p.data_ptr() for p in parts], np.int64)
    np.testing.assert_array_equal(run(_sum_of_table, 5, F32, table, 5, COUNT=3, N=8), np.full(5, 7))


@jit
def _bool_kernel(out, x, flag, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    if flag:
        v = ~v
    tl.store(out + i, v)


def test_bool_arrays_and_bool_arguments():
    x = np.array([True, False, True, True])
    np.testing.assert_array_equal(run(_bool_kernel, 4, bool, x, True, N=4), ~x)
    np.testing.assert_array_equal(run(_bool_kernel, 4, bool, x, False, N=4), x)


@jit
def _descriptor(out, x, M, N, BLOCK: tl.constexpr):
    d = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[BLOCK, BLOCK])
    i = tl.arange(0, BLOCK)
    tl.store(out + i[:, None] * BLOCK + i[None, :], d.load([0, 8]))


def test_device_side_descriptor():
    x = np.arange(8 * 20, dtype=np.float32).reshape(8, 20)
    out = run(_descriptor, (16, 16), F32, x, 8, 20, BLOCK=16)
    expected = np.zeros((16, 16), np.float32)
    expected[:8, :12] = x[:, 8:]
    np.testing.assert_array_equal(out, expected)


# -- scalars


@jit
def _scaled(out, x, s, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, (tl.load(x + i) * s).to(out.dtype.element_ty))


def test_float64_scalars_keep_their_precision():
    x = np.ones(2, np.float64)
    assert run(_scaled, 2, F64, x, np.float64(0.1), N=2)[0] == 0.1
    assert run(_scaled, 2, F64, x, 0.1, N=2)[0] == float(np.float32(0.1))


@jit
def _store_integer(out, n):
    tl.store(out, n.to(tl.int64) + 1)


@pytest.mark.parametrize("n", [5, -3, 2**31 - 1, 2**31, 2**40, -(2**40), np.int64(7), np.uint8(255)])
def test_integers_of_every_width(n):
    assert run(_store_integer, 1, np.int64, n)[0] == int(n) + 1


@jit
def _loops(out, n, STEP: tl.constexpr):
    total = 0
    for k in range(0, n, STEP):
        total += k
    while total > 1000:
        total -= 1
    for _ in tl.range(n):
        total += 1
    tl.store(out, total)


def test_loops_over_a_runtime_bound():
    assert run(_loops, 1, np.int32, 10, STEP=4)[0] == 12 + 10


# -- functions


@jit
def _uses_later(x):
    return _defined_later(x) * 2


@jit
def _defined_later(x):
    return tl.sigmoid(x) + tl.zeros_like(x)


@jit
def _pipeline(out, x, fns: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    for k in tl.static_range(len(fns)):
        v = fns[k](v)
    tl.store(out + i, v)


def test_functions_in_a_tuple_defined_in_any_order():
    x = np.array([0.0, 1.0], np.float32)
    once = 2 / (1 + np.exp(-f64(x)))
    out = run(_pipeline, 2, F32, x, fns=(_uses_later, _defined_later), N=2)
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-once)), rtol=1e-6)


def test_function_with_a_closure():
    factor = 3.0
    inner = _defined_later

    @jit
    def scaled(x):
        return inner(x) * factor

    out = run(_map1, 2, F32, np.zeros(2, np.float32), fn=scaled, N=2)
    np.testing.assert_array_equal(out, [1.5, 1.5])


FACTOR = 4.0
HALF = np.dtype(np.float16)


@jit
def _uses_globals(x):
    return x.to(HALF) * FACTOR


def test_globals_are_constants():
    np.testing.assert_array_equal(
        run(_map1, 2, F32, np.array([1.0, 1 + 2.0**-13], np.float32), fn=_uses_globals, N=2), 4
    )


@jit
def _shapes(out, xs, shape, strides, RANK: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    left, offset, size = i, tl.zeros((N,), tl.int64), 1
    for d in tl.static_range(RANK):
        offset += (left % shape[RANK - 1 - d]) * tl.cast(strides[RANK - 1 - d], tl.int64)
        left = left // shape[RANK - 1 - d]
        size *= shape[RANK - 1 - d]
    tl.store(out + i, tl.load(xs[0] + offset, mask=i < size) + tl.load(xs[1] + i, mask=i < size), mask=i < size)


def test_tuples_of_pointers_shapes_and_strides():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    view = to_device(x, INTERPRET).T
    other = to_device(np.full(12, 0.5, np.float32), INTERPRET)
    out = empty((4, 3), F32, INTERPRET)
    launch(_shapes, 1, out, (view, other), view.shape, view.strides, RANK=2, N=16)
    np.testing.assert_array_equal(to_host(out), x.T + 0.5)


# -- the rest of the language that kernels use


@jit
def _philox(out, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b, c, d = tl.philox(seed, i * 0, i * 0, i * 0, i * 0)
    tl.store(out + i * 4, a.to(tl.uint32, bitcast=True))
    tl.store(out + i * 4 + 1, b.to(tl.uint32, bitcast=True))
    tl.store(out + i * 4 + 2, c.to(tl.uint32, bitcast=True))
    tl.store(out + i * 4 + 3, d.to(tl.uint32, bitcast=True))


def test_philox_known_answer():
    # Random123's kat_vectors: philox4x32 10 rounds, counter 0, key 0
    out = run(_philox, (2, 4), np.uint32, 0, N=2)
    np.testing.assert_array_equal(out[0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])


@jit
def _uniform(out, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.rand(seed, i))


def test_rand_is_uniform():
    u = run(_uniform, 1024, F32, 42, N=1024)
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 5 / math.sqrt(12 * 1024)
    assert len(np.unique(u)) > 1000


@jit
def _umulhi(a, b):
    return tl.umulhi(a, b)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_umulhi_multiplies_unsigned(dtype):
    bits = np.dtype(dtype).itemsize * 8
    x = np.array([3, 2**31 - 1, 2**20, 12345], dtype)
    y = -x if np.dtype(dtype).kind == "i" else ~x
    expected = [((int(a) % 2**bits) * (int(b) % 2**bits)) >> bits for a, b in zip(x, y, strict=True)]
    out = run(_map2, 4, dtype, x, y, fn=_umulhi, N=4)
    assert [int(v) % 2**bits for v in out] == expected


@jit
def _shift(a, b):
    return a >> b


@jit
def _integer_division(a, b):
    return (a // b) * 1000 + a % b


def test_integer_shift_and_division():
    x, y = np.array([-17, 17, -1, 9], np.int32), np.array([2, 3, 1, 4], np.int32)
    np.testing.assert_array_equal(run(_map2, 4, np.int32, x, y, fn=_shift, N=4), x >> y)
    # C's: rounded toward zero, the remainder has the dividend's sign
    np.testing.assert_array_equal(run(_map2, 4, np.int32, x, y, fn=_integer_division, N=4), [-8001, 5002, -1000, 2001])
    u = x.view(np.uint32)
    np.testing.assert_array_equal(
        run(_map2, 4, np.uint32, u, y.view(np.uint32), fn=_shift, N=4), u >> y.view(np.uint32)
    )


@jit
def _sorted(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(out + i, tl.sort(v))
    tl.store(out + N + i, tl.flip(v, 0))
    tl.store(out + 2 * N + i, tl.gather(v, (i + 1) % N, 0))
    tl.store(out + 3 * N + i, tl.softmax(v))


def test_sort_flip_gather_softmax():
    x = np.random.default_rng(5).standard_normal(16).astype(np.float32)
    out = run(_sorted, (4, 16), F32, x, N=16)
    e = np.exp(f64(x) - f64(x).max())
    np.testing.assert_array_equal(out[:3], [np.sort(x), x[::-1], np.roll(x, -1)])
    np.testing.assert_allclose(out[3], e / e.sum(), rtol=1e-5)


@jit
def _histogram(out, x, n, N: tl.constexpr, BINS: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i, mask=i < n, other=0)
    tl.store(out + tl.arange(0, BINS), tl.histogram(v, BINS, mask=i < n))


def test_histogram_leaves_out_what_is_masked_or_outside():
    x = np.array([0, 1, 1, 3, 4, 9], np.int32)
    np.testing.assert_array_equal(run(_histogram, 4, np.int32, x, 6, N=8, BINS=4), [1, 2, 0, 1])


@jit
def _transposed(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i[:, None] * N + i[None, :])
    a, b = tl.split(tl.join(v, v * 2))
    tl.store(out + i[:, None] * N + i[None, :], tl.trans(v) + v.T + (b - a))


def test_transposes_join_and_split():
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(run(_transposed, (4, 4), F32, x, N=4), 2 * x.T + x)


# -- libdevice

LIBDEVICE = {
    "tanh": np.tanh, "log1p": np.log1p, "expm1": np.expm1, "atan": np.arctan, "asin": np.arcsin, "acos": np.arccos,
    "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "tan": np.tan, "rint": np.rint, "trunc": np.trunc,
    "cbrt": np.cbrt, "rsqrt": lambda x: 1 / np.sqrt(x), "exp2": np.exp2, "log10": np.log10, "floor": np.floor,
    "erf": np.vectorize(math.erf, [np.float64]), "erfc": np.vectorize(math.erfc, [np.float64]),
    "lgamma": np.vectorize(math.lgamma, [np.float64]), "atanh": np.arctanh, "nearbyint": np.rint, "abs": np.abs,
}  # fmt: skip
LIBDEVICE2 = {"pow": np.power, "atan2": np.arctan2, "fmod": np.fmod, "hypot": np.hypot, "copysign": np.copysign}


def _calls(name, arity):
    from tensorlib.runtime.compiler import define

    args = ", ".join("ab"[:arity])
    return define(f"def _{name}({args}):\n    return libdevice.{name}({args})\n", {})


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_libdevice(dtype):
    x, y = np.array([0.25, 0.9, 0.5, 0.01], dtype), np.array([1.5, 0.5, -2.0, 3.0], dtype)
    tolerance = 3e-6 if dtype == F32 else 1e-13
    for name, expected in LIBDEVICE.items():
        out = run(_map1, 4, dtype, x, fn=_calls(name, 1), N=4)
        np.testing.assert_allclose(out, expected(f64(x)), rtol=tolerance, err_msg=name)
    for name, expected in LIBDEVICE2.items():
        out = run(_map2, 4, dtype, x, y, fn=_calls(name, 2), N=4)
        np.testing.assert_allclose(out, expected(f64(x), f64(y)), rtol=tolerance, err_msg=name)
    inverse = run(_map1, 4, dtype, x, fn=_calls("erfinv", 1), N=4)
    np.testing.assert_allclose([math.erf(v) for v in inverse], f64(x), rtol=tolerance)


@jit
def _classify(a):
    return libdevice.isnan(a).to(tl.float32) + 2 * libdevice.isinf(a).to(tl.float32)


def test_libdevice_predicates():
    x = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    np.testing.assert_array_equal(run(_map1, 4, F32, x, fn=_classify, N=4), [1, 2, 2, 0])


def test_libdevice_refuses_what_a_gpu_refuses():
    with pytest.raises(KernelError, match=r"libdevice\.tanh takes fp32 or fp64, got bf16"):
        run(_map1, 2, BF16, np.zeros(2, BF16), fn=_calls("tanh", 1), N=2)
    with pytest.raises(KernelError, match="no function 'nonsense'"):
        run(_map1, 2, F32, np.zeros(2, np.float32), fn=_calls("nonsense", 1), N=2)


# -- a sweep over dtypes against NumPy, and what LLVM or a GPU refuses


INTEGERS = [np.dtype(d) for d in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)]
_BINARY = {
    "a + b": np.add, "a - b": np.subtract, "a * b": np.multiply, "a & b": np.bitwise_and, "a | b": np.bitwise_or,
    "a ^ b": np.bitwise_xor, "tl.minimum(a, b)": np.minimum, "tl.maximum(a, b)": np.maximum,
    "min(a, b)": np.minimum, "max(a, b)": np.maximum,
    "tl.where(a < b, a, b)": np.minimum, "tl.where(a >= b, a, b)": np.maximum, "tl.where(a != b, a, b)": lambda a, b: a,
    "a // b": lambda a, b: np.array([int(Fraction(int(p), int(q))) for p, q in zip(a, b, strict=True)], a.dtype),
    "a % b": np.fmod,
}  # fmt: skip


def _define(expression):
    from tensorlib.runtime.compiler import define

    return define(f"def _expression(a, b):\n    return {expression}\n", {})


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_arithmetic_wraps_and_compares_in_its_own_sign(dtype):
    info = np.iinfo(dtype)
    x = np.array([info.max, info.min, 7, info.max - 1, 100, info.max, 3, info.min], dtype)
    y = np.array([1, 3, info.max, 5, 7, info.max, 3, info.max], dtype)
    for expression, expected in _BINARY.items():
        with np.errstate(all="ignore"):
            wanted = expected(x, y).astype(dtype)
        out = run(_map2, 8, dtype, x, y, fn=_define(expression), N=8)
        np.testing.assert_array_equal(out, wanted, err_msg=expression)
    bits = dtype.itemsize * 8
    poison = info.max // 2 | 1
    amount = np.array([0, 1, bits - 1, bits, bits + 1, 2, 3, 4], dtype)
    inside = np.minimum(amount, bits - 1)
    for expression, op in {"a << b": np.left_shift, "a >> b": np.right_shift}.items():
        out = run(_map2, 8, dtype, x, amount, fn=_define(expression), N=8)
        np.testing.assert_array_equal(out, np.where(amount < bits, op(x, inside), poison), err_msg=expression)
    zero = np.zeros(8, dtype)
    for expression in ("a // b", "a % b"):
        assert (run(_map2, 8, dtype, x, zero, fn=_define(expression), N=8) == poison).all()


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, E4M3, E5M2, *INTEGERS], ids=str)
def test_float_to_integer_and_to_float8_saturate(dtype):
    x = np.array([3.9, -3.9, 200.5, -200.5, 1e9, -1e9, np.inf, np.nan], np.float32)
    out = run(_cast, 8, dtype, x, N=8)
    if dtype in (E4M3, E5M2):
        limit = {E4M3: 448, E5M2: 57344}[dtype]
        np.testing.assert_array_equal(f64(out), f64(np.clip(x, -limit, limit).astype(dtype)))
    elif dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            wanted = x.astype(dtype)
        np.testing.assert_array_equal(f64(out), f64(wanted))
    else:
        wide = np.iinfo(np.dtype(f"{dtype.kind}2") if dtype.itemsize == 1 else dtype)  # bytes by way of 16 bits
        whole = [int(np.trunc(v)) if np.isfinite(v) else wide.max for v in x[:7]]
        nan = 0 if dtype.itemsize < 8 else 2**63 if dtype.kind == "u" else -(2**63)
        wanted = [min(max(v, wide.min), wide.max) for v in whole] + [nan]
        assert out.tolist() == [int(np.array(v % 2**64, np.uint64).astype(dtype)) for v in wanted]


def test_float64_to_float8_is_refused_as_by_the_compiler():
    with pytest.raises(KernelError, match=r"float64 to float8.*cast to float32 first"):
        run(_cast, 2, E4M3, np.zeros(2), N=2)


@jit
def _reductions(out, index, x, N: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    tl.store(out, tl.sum(v))
    tl.store(out + 1, tl.max(v))
    tl.store(out + 2, tl.min(v))
    tl.store(out + 3, max(tl.max(v), tl.min(v)))
    tl.store(index, tl.argmax(v, 0))
    tl.store(index + 1, tl.argmin(v, 0))
    i = tl.arange(0, N)
    tl.store(out + 4 + i, tl.sort(v, descending=True))
    tl.store(out + 4 + N + i, tl.flip(v, 0))
    tl.store(out + 4 + 2 * N + i, tl.cumsum(v, 0, reverse=True))


@jit
def _bit_reductions(out, x, N: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    tl.store(out, tl.xor_sum(v))
    tl.store(out + 1, tl.reduce_or(v, 0))


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, *INTEGERS], ids=str)
def test_reductions_sorts_and_ties(dtype):
    x = np.array([3, 9, 1, 9, 1, 4, 2, 6], dtype)
    index = to_device(np.zeros(2, np.int32), INTERPRET)
    out = run(_reductions, 4 + 24, dtype, index, x, N=8)
    values = f64(x)
    np.testing.assert_array_equal(f64(out[:4]), [values.sum(), 9, 1, 9])
    assert to_host(index).tolist() == [1, 2]  # the first of equals
    np.testing.assert_array_equal(f64(out[4:12]), np.sort(values)[::-1])
    np.testing.assert_array_equal(f64(out[12:20]), values[::-1])
    np.testing.assert_array_equal(f64(out[20:]), np.cumsum(values[::-1])[::-1])
    if dtype.kind in "iu":
        bits = run(_bit_reductions, 2, dtype, x, N=8)
        assert bits.tolist() == [np.bitwise_xor.reduce(x), np.bitwise_or.reduce(x)]


@jit
def _sum_in_its_type(out, x, N: tl.constexpr):
    tl.store(out, tl.sum(tl.load(x + tl.arange(0, N))))


def test_a_sum_of_bfloat16_rounds_at_every_step():
    x = np.array([256, 1, 1, 1, 1, 1, 1, 1], BF16)  # 257 is no bfloat16
    assert f64(run(_sum_in_its_type, 1, BF16, x, N=8))[0] in (256, 258, 260, 262, 264)
    alternating = np.array([256, 1, 256, 1], BF16)
    assert f64(run(_sum_in_its_type, 1, BF16, alternating, N=4))[0] == 512  # 514 were it summed in float32


@jit
def _atomic_cells(cells, old, x, mask, N: tl.constexpr, OP: tl.constexpr):
    i = tl.arange(0, N)
    v, m = tl.load(x + i), tl.load(mask + i)
    if OP == "add":
        seen = tl.atomic_add(cells + i // 2, v, mask=m)
    elif OP == "max":
        seen = tl.atomic_max(cells + i // 2, v, mask=m)
    elif OP == "min":
        seen = tl.atomic_min(cells + i // 2, v, mask=m)
    elif OP == "and":
        seen = tl.atomic_and(cells + i // 2, v, mask=m)
    elif OP == "or":
        seen = tl.atomic_or(cells + i // 2, v, mask=m)
    elif OP == "xor":
        seen = tl.atomic_xor(cells + i // 2, v, mask=m)
    else:
        seen = tl.atomic_xchg(cells + i // 2, v, mask=m)
    tl.store(old + i, seen, mask=m)


_ATOMIC = {
    "add": np.add, "max": np.maximum, "min": np.minimum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "xchg": lambda a, b: b,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64, *INTEGERS[4:]], ids=str)
def test_every_atomic_with_masks_and_old_values(dtype):
    x, mask = np.array([5, 2, 9, 1], dtype), np.array([1, 1, 0, 1], bool)
    if dtype.kind != "u":
        x[1] = -3
    for op, combine in _ATOMIC.items():
        half = dtype.itemsize == 2
        if (dtype.kind not in "iu" and op in ("and", "or", "xor")) or (half and op in ("max", "min", "xchg")):
            continue
        cells = to_device(np.array([4, 4], dtype), INTERPRET)
        old = to_device(np.zeros(4, dtype), INTERPRET)
        arrays = [to_device(a, INTERPRET) for a in (x, mask)]
        launch(_atomic_cells, 1, cells, old, *arrays, N=4, OP=op)
        start = np.array(4, dtype)
        first = combine(start, x[0]).astype(dtype)
        second = combine(first, x[1]).astype(dtype)
        np.testing.assert_array_equal(f64(to_host(cells)), f64([second, combine(start, x[3])]), err_msg=op)
        if op != "min" or dtype != F64 or version("triton") >= "3.9":  # 3.6's own code takes it for a pointer
            np.testing.assert_array_equal(f64(to_host(old)), f64([start, first, 0, start]), err_msg=op)


@jit
def _fused(out, x, y, z, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.fma(tl.load(x + i), tl.load(y + i), tl.load(z + i)))


@pytest.mark.parametrize("dtype", [F16, F32, F64], ids=str)
def test_fma_rounds_once(dtype):
    x, y, z = np.random.default_rng(6).standard_normal((3, 64)).astype(dtype)
    eps = np.finfo(dtype).eps
    x[0], y[0], z[0] = 1 + eps, 1 + eps, -(1 + 2 * eps)  # what is left is eps**2
    x[1], y[1], z[1] = 1 + eps, 1 - eps / 2, eps**3 if dtype != F16 else 0  # next to a tie
    out = run(_fused, 64, dtype, x, y, z, N=64)
    for r, *v in zip(out, x, y, z, strict=True):
        a, b, c = (Fraction(float(t)) for t in v)
        error = abs(a * b + c - Fraction(float(r)))
        near = [Fraction(float(np.nextafter(r, dtype.type(s)))) for s in (-np.inf, np.inf)]
        assert all(error <= abs(a * b + c - n) for n in near)


@jit
def _hinted(out, x, n, KIND: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N) + n
    if KIND == "multiple_of":
        i = tl.multiple_of(i, 8)
    if KIND == "max_contiguous":
        i = tl.max_contiguous(i % 6, 8)
    if KIND == "max_constancy":
        i = tl.max_constancy(i // 4, 4)
    if KIND == "assume":
        tl.assume(n > 4)
    tl.store(out + tl.arange(0, N), tl.load(x + i))


def test_false_hints_are_errors():
    x = np.arange(32, dtype=np.float32)
    run(_hinted, 8, F32, x, 8, KIND="multiple_of", N=8)
    run(_hinted, 8, F32, x, 8, KIND="max_constancy", N=8)
    run(_hinted, 8, F32, x, 8, KIND="assume", N=8)
    for kind, text in {
        "multiple_of": r"multiple_of\(..., \[8\]\) does not hold", "max_contiguous": "max_contiguous",
        "max_constancy": "max_constancy", "assume": "assume",
    }.items():  # fmt: skip
        with pytest.raises(KernelError, match=f"{text}.*test_interpreter.py:"):
            run(_hinted, 8, F32, x, 2, KIND=kind, N=8)


@jit
def _undecided(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    if tl.load(x + i) > 0:
        tl.store(out + i, 1.0)


@jit
def _asserted(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.device_assert(tl.load(x + i) > 1, "too small", mask=i > 0)
    assert N == 4, "never"
    tl.store(out + i, 1.0)


@jit
def _assembly(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.inline_asm_elementwise("shl.b32 $0, $0, 3;", "=r,r", [tl.load(x + i)], tl.int32, True, 1)
    tl.store(out + i, v)


def test_what_the_interpreter_refuses_names_the_line_and_the_reason():
    x = np.array([0, 2, 1, 0], np.float32)
    with pytest.raises(
        KernelError, match=r"block of shape \[4\] has no truth value.*test_interpreter\.py:\d+, in _undecided"
    ):
        run(_undecided, 4, F32, x, N=4)
    with pytest.raises(KernelError, match=r"device_assert failed in 2 of 4 lanes: too small"):
        run(_asserted, 4, F32, x, N=4)
    with pytest.raises(KernelError, match=r"inline_asm_elementwise runs on a GPU only.*shl\.b32"):
        run(_assembly, 4, np.int32, x.astype(np.int32), N=4)
    with pytest.raises(KernelError, match=r"load out of bounds.*bytes (past the end of|before) (x|out)"):
        run(_read_past, 8, F32, np.zeros(8, np.float32), N=8)


@jit
def _index_type(out, n):
    for k in range(n):
        tl.store(out + k, k * 1500000000)
    for k in tl.range(0, n, 1, num_stages=2):
        tl.store(out + n + k, k.to(tl.float32).to(tl.int64))


def test_a_loops_index_is_a_32_bit_integer():
    out = run(_index_type, 6, np.int64, 3)
    assert out.tolist() == [0, 1500000000, 3000000000 - 2**32, 0, 1, 2]


@jit
def _printed(x, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.device_print("values", tl.load(x + i))
    tl.device_print("bits", tl.load(x + i), hex=True)
    tl.static_print("N is", N)


def test_prints(capsys):
    launch(_printed, 1, to_device(np.array([1.0, -2.0], BF16), INTERPRET), N=2)
    printed = capsys.readouterr().out
    for part in ("pid (0, 0, 0)", "values", "[1 -2]", "0x3f80 0xc000", "N is 2"):
        assert part in printed


@jit
def _of_scalars(a, b):
    if a > b:
        return a - b, a
    else:
        return b - a, b


@jit
def _mapped(out, x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    d, m = tl.map_elementwise(_of_scalars, tl.load(x + i), tl.load(y + i))
    tl.store(out + i, d)
    tl.store(out + N + i, m)


def test_map_elementwise():
    out = run(_mapped, (2, 8), F32, X, Y, N=8)
    np.testing.assert_array_equal(out, [np.abs(X - Y), np.maximum(X, Y)])


@jit
def _descriptor_writes(out, x, M, N, BLOCK: tl.constexpr):
    d = tl.make_tensor_descriptor(out, shape=[M, N], strides=[N, 1], block_shape=[BLOCK, BLOCK])
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i[:, None] * BLOCK + i[None, :])
    d.store([0, 0], v)
    d.atomic_add([0, 8], v)


def test_descriptor_store_and_atomic():
    x = np.arange(256, dtype=np.float32).reshape(16, 16)
    out = to_device(np.zeros((8, 20), np.float32), INTERPRET)
    launch(_descriptor_writes, 1, out, to_device(x, INTERPRET), 8, 20, BLOCK=16)
    expected = np.zeros((8, 32), np.float32)
    expected[:, :16] += x[:8]
    expected[:, 8:24] += x[:8]
    np.testing.assert_array_equal(to_host(out), expected[:, :20])


@jit
def _dot_of_scaled(out, a, sa, b, sb, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, G: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    k, g = tl.arange(0, K), tl.arange(0, G)
    x = tl.load(a + m[:, None] * (K // 2) + tl.arange(0, K // 2)[None, :])
    y = tl.load(b + k[:, None] * N + n[None, :])
    s = tl.load(sa + m[:, None] * G + g[None, :])
    t = tl.load(sb + n[:, None] * G + g[None, :])
    tl.store(out + m[:, None] * N + n[None, :], tl.dot_scaled(x, s, "e2m1", y, t, "e4m3"))


def test_dot_scaled():
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 16, (16, 64))
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])[codes]
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)
    b = rng.standard_normal((64, 16)).astype(E4M3)
    sa, sb = rng.integers(120, 134, (2, 16, 2)).astype(np.uint8)
    out = run(_dot_of_scaled, (16, 16), F32, packed, sa, b, sb, M=16, N=16, K=64, G=2)
    left = values * np.repeat(2.0 ** (sa.astype(int) - 127), 32, axis=1)
    right = f64(b) * np.repeat(2.0 ** (sb.astype(int) - 127), 32, axis=1).T
    np.testing.assert_allclose(out, left @ right, rtol=1e-5, atol=1e-3)


@jit
def _block_pointer(out, x, M, N, BLOCK: tl.constexpr):
    p = tl.make_block_ptr(x, (M, N), (N, 1), (0, 0), (BLOCK, BLOCK), (1, 0))
    p = tl.advance(p, (0, 4))
    i = tl.arange(0, BLOCK)
    v = tl.load(p, boundary_check=(0, 1), padding_option="nan")
    tl.store(out + i[:, None] * BLOCK + i[None, :], v)


def test_block_pointers_or_their_removal():
    x = np.arange(40, dtype=np.float32).reshape(5, 8)
    if version("triton") >= "3.9":
        with pytest.raises(KernelError, match=r"Block pointers have been removed"):
            run(_block_pointer, (8, 8), F32, x, 5, 8, BLOCK=8)
    else:
        expected = np.full((8, 8), np.nan)
        expected[:5, :4] = x[:, 4:]
        np.testing.assert_array_equal(run(_block_pointer, (8, 8), F32, x, 5, 8, BLOCK=8), expected)


@jit
def _random(out, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.rand(seed, i))
    tl.store(out + N + i, tl.randn(seed, i))
    tl.store(out + 2 * N + i, tl.randint(seed, i).to(tl.float64))


def test_rand_randn_and_randint_are_philox():
    out = run(_random, (3, 16), F64, 12345, N=16)
    mask = 2**32 - 1
    words = []
    for i in range(16):  # Salmon et al. 2011
        c, k = [i, 0, 0, 0], [12345, 0]
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [b >> 32 ^ c[1] ^ k[0], b & mask, a >> 32 ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        words.append(c)
    signed = np.array(words, np.uint32).view(np.int32).astype(np.int64)
    uniform = np.where(signed < 0, -signed - 1, signed) * 4.6566127342e-10
    np.testing.assert_allclose(out[0], uniform[:, 0], rtol=1e-6)
    normal = np.sqrt(-2 * np.log(np.maximum(1e-7, uniform[:, 0]))) * np.cos(6.283185307179586 * uniform[:, 1])
    np.testing.assert_allclose(out[1], normal, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out[2] % 2**32, [w[0] for w in words])


def _libdevice_names():
    from triton.language.extra import libdevice

    return [n for n, f in vars(libdevice).items() if callable(f) and not n.startswith("_")]


def test_every_libdevice_function_has_a_numpy_version():
    from tensorlib.runtime import _libdevice

    assert [n for n in _libdevice_names() if n not in _libdevice.FUNCTIONS] == []


#: name -> (arguments, result): from SciPy, exact rational arithmetic, or the definition.
LIBDEVICE_VALUES = {
    "j0": ((2.5,), -0.04838377646819800), "j1": ((2.5,), 0.49709410246427405), "y0": ((2.5,), 0.49807035961523190),
    "y1": ((2.5,), 0.14591813796678580), "jn": ((np.int32(3), 2.5), 0.21660039103911336),
    "yn": ((np.int32(3), 2.5), -0.7560554967536710), "cyl_bessel_i0": ((1.5,), 1.6467231897728904),
    "cyl_bessel_i1": ((-1.5,), -0.9816664285779076), "erfcx": ((30.0,), 0.018795888861416751),
    "erfcinv": ((1e-5,), 3.1234132743414506), "normcdf": ((-10.0,), 7.619853024160527e-24),
    "normcdfinv": ((0.025,), -1.9599639845400545), "sinpi": ((1.0,), 0.0), "cospi": ((1.0,), -1.0),
    "round": ((-2.5,), -3.0), "fdim": ((1.0, 3.0), 0.0), "norm3d": ((1.0, 2.0, 2.0), 3.0),
    "rnorm4d": ((1.0, 1.0, 1.0, 1.0), 0.5), "logb": ((10.0,), 3.0), "ilogb": ((0.3,), -2), "llround": ((2.5,), 3),
    "llrint": ((2.5,), 2), "scalbn": ((1.5, np.int32(4)), 24.0), "tgamma": ((5.0,), 24.0),
    "clz": ((np.int32(255),), 24), "popc": ((np.int32(-1),), 32), "brev": ((np.int32(1),), -(2**31)),
    "ffs": ((np.int32(40),), 4), "mulhi": ((np.int32(-(2**31)), np.int32(4)), -2),
    "mul24": ((np.int32(-3), np.int32(5)), -15), "hadd": ((np.int32(-3), np.int32(4)), 0),
    "rhadd": ((np.int32(3), np.int32(4)), 4),
    "byte_perm": ((np.int32(0x33221100), np.int32(0x77665544), np.int32(0x7610)), 0x77661100),
}  # fmt: skip


@jit
def _call(out, args, fn: tl.constexpr):
    if len(args) == 1:
        tl.store(out, fn(tl.load(args[0])))
    elif len(args) == 2:
        tl.store(out, fn(tl.load(args[0]), tl.load(args[1])))
    elif len(args) == 3:
        tl.store(out, fn(tl.load(args[0]), tl.load(args[1]), tl.load(args[2])))
    else:
        tl.store(out, fn(tl.load(args[0]), tl.load(args[1]), tl.load(args[2]), tl.load(args[3])))


def _called(name, args, out_dtype):
    from tensorlib.runtime.compiler import define

    names = ", ".join("abcd"[: len(args)])
    fn = define(f"def _{name}({names}):\n    return libdevice.{name}({names})\n", {})
    arrays = tuple(to_device(np.atleast_1d(a), INTERPRET) for a in args)
    out = empty((1,), out_dtype, INTERPRET)
    launch(_call, 1, out, arrays, fn=fn)
    return to_host(out)[0]


def test_libdevice_values():
    for name, (args, expected) in LIBDEVICE_VALUES.items():
        given = [a if isinstance(a, np.integer) else np.float64(a) for a in args]
        dtype = F64 if isinstance(expected, float) else np.dtype(np.int32 if not name.startswith("ll") else np.int64)
        found = _called(name, given, dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300, err_msg=name)


def test_libdevice_rounds_as_it_is_told():
    x, y, z = (np.float32(v) for v in (1 / 3, -0.7, 1e-9))
    exact = {
        "add": (x, y, Fraction(float(x)) + Fraction(float(y))), "mul": (x, y, Fraction(float(x)) * Fraction(float(y))),
        "div": (x, y, Fraction(float(x)) / Fraction(float(y))), "sub": (x, y, Fraction(float(x)) - Fraction(float(y))),
        "fma": (x, y, z, Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))),
        "double2float": (np.float64(0.1), Fraction(0.1)), "int2float": (np.int32(2**24 + 1), Fraction(2**24 + 1)),
    }  # fmt: skip
    for name, (*args, value) in exact.items():
        down, up, zero, near = (
            Fraction(float(_called(f"{name}_{mode}", args, F32))) for mode in ("rd", "ru", "rz", "rn")
        )
        assert down <= value <= up and near in (down, up) and zero == (down if value > 0 else up), name
        assert down == up or np.nextafter(np.float32(float(down)), np.float32(np.inf)) == np.float32(float(up)), name
    assert _called("double2int_ru", [np.float64(1.25)], np.int32) == 2
    assert _called("float2int_rz", [np.float32(1e20)], np.int32) == 2**31 - 1
    assert _called("float2uint_rz", [np.float32(-5)], np.int32) == 0


# -- the process


@jit
def _fails(out, x, N: tl.constexpr):
    tl.static_assert(tl.program_id(0) < 2)
    tl.store(out + tl.arange(0, N), 1.0)


def test_an_exception_names_the_kernel_and_leaves_triton_as_it_was():
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    before = {name: vars(tl)[name] for name in ("load", "exp", "range", "reduce")}, vars(JITFunction)["__call__"]
    x = to_device(np.zeros((2, 4), np.float32), INTERPRET)
    with pytest.raises(
        KernelError, match=r"_fails: failed in the interpreter at program \(2, 0, 0\) of grid \(3,\)"
    ) as e:
        launch(_fails, 3, x, x, N=8)
    assert "float32[2, 4]" in str(e.value) and "'N': 8" in str(e.value)
    assert isinstance(e.value.__cause__, AssertionError)
    assert ({name: vars(tl)[name] for name in before[0]}, vars(JITFunction)["__call__"]) == before


def test_interpreting_and_compiling_in_one_process():
    x = np.ones(4, np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(run(_map2, 4, F32, x, x, fn=_add, N=4), 2)
        out = empty((4,), F32, device("sm_90"))
        launch(_map2, 1, out, out, out, fn=_add, N=4)


def test_stock_kernels_run():
    import stock_kernels

    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    np.testing.assert_allclose(run(stock_kernels.doubled_tanh, 4, F32, x, 4, N=4), 2 * np.tanh(x), rtol=1e-6)


def test_poisoned_empty():
    before = poison(True)
    try:
        assert np.isnan(f64(to_host(empty((3,), BF16, INTERPRET)))).all()
        assert (to_host(empty((3,), np.int32, INTERPRET)) == 2**30 - 1).all()
        assert np.isnan(empty((3,), F32)).all()
    finally:
        assert poison(before) is True


def test_negative_strides():
    x = to_device(np.arange(6, dtype=np.float32), INTERPRET)
    back = as_strided(x, (6,), (-1,), 5)
    assert isinstance(back, DeviceArray)
    np.testing.assert_array_equal(to_host(back), np.arange(6)[::-1])


@jit
def _load_one_kernel(out, x, n, BLOCK: tl.constexpr):
    tl.store(out, tl.load(x + n, mask=n < 0, other=0))
    i = tl.arange(0, BLOCK)
    tl.store(out + 1 + i, tl.load(x + i, mask=i + n < 0, other=0))


def test_a_single_element_may_be_loaded_as_zero():
    """Triton's own interpreter takes a false ``other`` for none."""
    assert run(_load_one_kernel, 2, np.float32, np.ones(4, np.float32), 2, BLOCK=1).tolist() == [0, 0]
