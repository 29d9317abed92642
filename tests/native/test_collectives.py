"""Scans, gathers, histograms, joins and atomics on device ``native``, held to NumPy; in the interpreter as well."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from places import DEVICES, on

import tensorlib as T
from tensorlib.errors import KernelError
from tensorlib.op import jit
from tensorlib.runtime.launch import launch
from tensorlib.runtime.native import codegen

pytestmark = pytest.mark.filterwarnings("ignore:tl.cat")
DTYPES = [np.dtype(d) for d in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.int8)]
SHAPES = [(1, 16), (1, 2), (4, 8), (8, 4), (32, 64), (2, 128), (64, 1), (1, 1)]


@pytest.fixture(params=DEVICES)
def device(request):
    """The interpreter, and the processor's own code."""
    return request.param


native = pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")


def draw(shape, dtype=np.float32, seed=0, low=-8, high=9):
    """Small whole numbers: sums of them are exact in every dtype."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def run(kernel, device, *arrays, grid=(1,), **constants):
    """The arrays after a launch of one program."""
    tensors = [on(a, device) if isinstance(a, np.ndarray) else a for a in arrays]
    launch(kernel, grid, *(getattr(t, "_array", t) for t in tensors), **constants)
    return [t.cpu().numpy() if hasattr(t, "_array") else t for t in tensors]


# -- scans -------------------------------------------------------------------------------------------------------------


@jit
def _add(a, b):
    return a + b


@jit
def _larger(a, b):
    return tl.maximum(a, b)


@jit
def _last(a, b):
    return b + a * 0


@jit
def _matrix(a, b, c, d, e, f, g, h):
    """Of 2 by 2 matrices, whose product depends on the order."""
    return e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d


@jit
def _largest_at(a, i, b, j):
    take = (a > b) | ((a == b) & (i <= j))
    return tl.where(take, a, b), tl.where(take, i, j)


def _scan_of(fn):
    @jit
    def scan(out, x, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr):
        at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
        tl.store(out + at, tl.associative_scan(tl.load(x + at), AXIS, fn, reverse=REVERSE))

    return scan


SCANS = {_scan_of(_add): np.add, _scan_of(_larger): np.maximum, _scan_of(_last): lambda a, b: b}


@jit
def scan_matrices(out, x, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    size = M * N
    a, b, c, d = tl.associative_scan(
        (tl.load(x + at), tl.load(x + size + at), tl.load(x + 2 * size + at), tl.load(x + 3 * size + at)),
        AXIS, _matrix, reverse=REVERSE)  # fmt: skip
    tl.store(out + at, a)
    tl.store(out + size + at, b)
    tl.store(out + 2 * size + at, c)
    tl.store(out + 3 * size + at, d)


@jit
def scan_pairs(value, index, x, N: tl.constexpr):
    i = tl.arange(0, N)
    v, k = tl.associative_scan((tl.load(x + i), i), 0, _largest_at)
    tl.store(value + i, v)
    tl.store(index + i, k)


def scanned(x, axis, reverse, combine):
    """The definition: from one end to the other."""
    x = np.moveaxis(x, axis, 0)
    x = x[::-1] if reverse else x
    rows = [x[0]]
    for row in x[1:]:
        rows.append(combine(rows[-1], row).astype(x.dtype))
    found = np.stack(rows)
    return np.moveaxis(found[::-1] if reverse else found, 0, axis)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_scans_along_either_axis(shape, axis, reverse, device):
    x = draw(shape)
    for kernel, combine in SCANS.items():
        out, _ = run(kernel, device, np.zeros_like(x), x, M=shape[0], N=shape[1], AXIS=axis, REVERSE=reverse)
        np.testing.assert_array_equal(out, scanned(x, axis, reverse, combine))


@jit
def scan_blocks(out, x, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr):
    at = tl.arange(0, A)[:, None, None] * B + tl.arange(0, B)[None, :, None]
    at = at * C + tl.arange(0, C)[None, None, :]
    tl.store(out + at, tl.associative_scan(tl.load(x + at), AXIS, _add, reverse=REVERSE))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 4, 32), (16, 2, 4), (2, 64, 2)])
def test_scans_of_three_dims(shape, axis, reverse, device):
    x = draw(shape)
    a, b, c = shape
    out, _ = run(scan_blocks, device, np.zeros_like(x), x, A=a, B=b, C=c, AXIS=axis, REVERSE=reverse)
    np.testing.assert_array_equal(out, scanned(x, axis, reverse, np.add))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_scans_of_every_dtype(dtype, axis, device):
    x = draw((16, 32), dtype, low=-2, high=3)
    out, _ = run(next(iter(SCANS)), device, np.zeros_like(x), x, M=16, N=32, AXIS=axis, REVERSE=False)
    np.testing.assert_array_equal(out.astype(float), np.cumsum(x.astype(float), axis))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_of_several_tiles_keeps_its_order(axis, reverse, device):
    """Products of matrices, modulo 2**32: what does not commute shows every change of place."""
    x = draw((4, 8, 32), np.int32)

    def product(p, q):
        a, b, c, d = p
        e, f, g, h = q
        return np.stack([e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d])

    rows = np.moveaxis(x, axis + 1, 0)
    found = [*(rows[::-1] if reverse else rows)]
    with np.errstate(over="ignore"):
        for i in range(1, len(found)):
            found[i] = product(found[i - 1], found[i])
    expected = np.moveaxis(np.stack(found[::-1] if reverse else found), 0, axis + 1)
    out, _ = run(scan_matrices, device, np.zeros_like(x), x, M=8, N=32, AXIS=axis, REVERSE=reverse)
    np.testing.assert_array_equal(out, expected)


def test_a_scan_of_values_and_places(device):
    x = draw(256, low=-20, high=20)
    value, index, _ = run(scan_pairs, device, np.zeros_like(x), np.zeros(256, np.int32), x, N=256)
    np.testing.assert_array_equal(value, np.maximum.accumulate(x))
    np.testing.assert_array_equal(index, [int(np.argmax(x[: i + 1])) for i in range(256)])


# -- reductions --------------------------------------------------------------------------------------------------------


@jit
def _welford(m, s, n, p, t, k):
    total = n + k
    d = p - m
    ratio = tl.where(total == 0, 0.0, k / total)
    return m + d * ratio, s + t + d * d * n * ratio, total


@jit
def welford(out, x, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr):
    a = tl.load(x + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    mean, m2, n = tl.reduce((a, tl.zeros_like(a), tl.full((M, N), 1.0, tl.float32)), AXIS, _welford)
    i = tl.arange(0, M * N // (N if AXIS == 1 else M))
    tl.store(out + i, mean)
    tl.store(out + 256 + i, m2 / n)


@jit
def positions(out, x, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, LEFT: tl.constexpr):
    a = tl.load(x + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    i = tl.arange(0, M * N // (N if AXIS == 1 else M))
    tl.store(out + i, tl.argmax(a, AXIS, tie_break_left=LEFT))
    tl.store(out + 256 + i, tl.argmin(a, AXIS, tie_break_left=LEFT))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (1, 32), (128, 2)])
def test_reductions_of_several_tiles(shape, axis, device):
    """Welford's mean and variance; places of extremes, the first of equal ones."""
    x = draw(shape, seed=1)
    out, _ = run(welford, device, np.zeros(512, np.float32), x, M=shape[0], N=shape[1], AXIS=axis)
    size = shape[1 - axis]
    np.testing.assert_allclose(out[:size], x.mean(axis), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out[256 : 256 + size], x.var(axis), rtol=1e-5, atol=1e-5)
    out, _ = run(positions, device, np.zeros(512, np.int32), x, M=shape[0], N=shape[1], AXIS=axis, LEFT=True)
    np.testing.assert_array_equal(out[:size], x.argmax(axis))
    np.testing.assert_array_equal(out[256 : 256 + size], x.argmin(axis))


@jit
def _divided(a, b):
    """Not associative; of ones and small divisors it shows a division by what is not there."""
    return b // tl.maximum(a, 1) + a * 0


@jit
def dividing(out, x, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    a = tl.load(x + at)
    tl.store(out + at, tl.associative_scan(a, 0, _divided) + tl.reduce(a, 0, _divided)[None, :] * 0)


@native
def test_combining_functions_that_divide():
    x = draw((8, 32), np.int32, low=1, high=50)
    out, _ = run(dividing, "native", np.zeros_like(x), x, M=8, N=32)
    np.testing.assert_array_equal(out, scanned(x, 0, False, lambda a, b: b // np.maximum(a, 1)))


@jit
def _branching(a, i, b, j):
    """The smaller, of equal ones the later: with branches and not selections."""
    if a < b:
        r = i
    elif a == b:
        if i > j:
            r = i
        else:
            r = j
    else:
        r = j
    return tl.minimum(a, b), r


@jit
def branching_combiner(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    value, place = tl.reduce((a, i), 0, _branching)
    lowest, places = tl.associative_scan((a, i), 0, _branching)
    tl.store(out, place)
    tl.device_assert(lowest >= value)
    tl.store(out + 1 + i, places)


@native
@pytest.mark.parametrize("size", [8, 128])
def test_combining_functions_with_branches(size):
    x = draw(size, seed=3)
    out, _ = run(branching_combiner, "native", np.zeros(size + 1, np.int32), x, N=size)
    last = [i - int(np.argmin(x[i::-1])) for i in range(size)]
    np.testing.assert_array_equal(out, [last[-1], *last])


# -- sorting -----------------------------------------------------------------------------------------------------------


@jit
def sort(out, x, M: tl.constexpr, N: tl.constexpr, DESCENDING: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + at, tl.sort(tl.load(x + at), 1, DESCENDING))


@jit
def largest(out, x, N: tl.constexpr, K: tl.constexpr):
    tl.store(out + tl.arange(0, K), tl.topk(tl.load(x + tl.arange(0, N)), K))


@jit
def flip(out, x, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + at, tl.flip(tl.load(x + at), 1))


@pytest.mark.parametrize("shape", [(1, 2), (1, 32), (4, 16), (1, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16], ids=lambda d: np.dtype(d).name)
def test_sorting(shape, dtype, device):
    """Triton makes it of reshapes, exclusive ors and selections."""
    x = draw(shape, dtype, low=-100, high=100)
    for descending in (False, True):
        out, _ = run(sort, device, np.zeros_like(x), x, M=shape[0], N=shape[1], DESCENDING=descending)
        expected = np.sort(x, 1)
        np.testing.assert_array_equal(out, expected[:, ::-1] if descending else expected)
    out, _ = run(flip, device, np.zeros_like(x), x, M=shape[0], N=shape[1])
    np.testing.assert_array_equal(out, x[:, ::-1])


def test_the_largest_elements(device):
    x = draw(64, low=-1000, high=1000)
    out, _ = run(largest, device, np.zeros(8, np.float32), x, N=64, K=8)
    np.testing.assert_array_equal(out, np.sort(x)[::-1][:8])


# -- other places ------------------------------------------------------------------------------------------------------


@jit
def gather(out, x, index, M: tl.constexpr, N: tl.constexpr, R: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr):
    a = tl.load(x + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]) + 1
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    tl.store(out + at, tl.gather(a, tl.load(index + at), AXIS))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_gather(axis, dtype, device):
    x = draw((16, 32), dtype)
    shape = (64, 32) if axis == 0 else (16, 8)
    for kind in (np.int32, np.int64, np.int8):
        index = draw(shape, kind, low=0, high=x.shape[axis])
        out, *_ = run(gather, device, np.zeros(shape, dtype), x, index, M=16, N=32, R=shape[0], C=shape[1], AXIS=axis)
        np.testing.assert_array_equal(out, np.take_along_axis((x + x.dtype.type(1)), index.astype(np.int64), axis))


@jit
def histogram(out, x, n, N: tl.constexpr, BINS: tl.constexpr, MASKED: tl.constexpr):
    i = tl.arange(0, N)
    if MASKED:
        counts = tl.histogram(tl.load(x + i), BINS, mask=i < n)
    else:
        counts = tl.histogram(tl.load(x + i), BINS)
    tl.store(out + tl.arange(0, BINS), counts)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("bins", [2, 16, 128])
def test_histogram(bins, dtype, device):
    x = draw(256, dtype, low=0, high=min(bins, 100))
    for masked in (False, True):
        out, *_ = run(histogram, device, np.zeros(bins, np.int32), x, 100, N=256, BINS=bins, MASKED=masked)
        np.testing.assert_array_equal(out, np.bincount(x[: 100 if masked else 256].astype(int), minlength=bins))


@native
@pytest.mark.parametrize("bins, size", [(16, 128), (256, 2048), (4096, 32768), (8192, 65536), (256, 256)])
def test_histogram_of_neighbours_that_are_equal(bins, size):
    """With copies of the counts, where there are many times more values, and without."""
    x = draw(size, np.int32, low=-2, high=bins + 2)
    x[: size // 2] = bins - 1
    for masked, n in ((False, size), (True, size - 5)):
        out, *_ = run(histogram, "native", np.zeros(bins, np.int32), x, n, N=size, BINS=bins, MASKED=masked)
        counted = x[:n][(x[:n] >= 0) & (x[:n] < bins)]
        np.testing.assert_array_equal(out, np.bincount(counted, minlength=bins))


@native
def test_what_has_no_bin_is_not_counted():
    x = np.array([-1, 0, 3, 4, 1000, -(2**31), 2**31 - 1, 3], np.int32)
    out, *_ = run(histogram, "native", np.zeros(4, np.int32), x, 8, N=8, BINS=4, MASKED=False)
    np.testing.assert_array_equal(out, [1, 0, 0, 2])


@jit
def joined(out, x, y, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    both = tl.join(tl.load(x + at), tl.load(y + at))
    to = at[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]
    tl.store(out + to, both)


@jit
def parted(first, second, x, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    a, b = tl.split(tl.load(x + at[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]))
    tl.store(first + at, a)
    tl.store(second + at, b)


@jit
def truths(out, x, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    odd, positive = tl.split(tl.join(a % 2 != 0, a > 0))
    both = tl.sum(tl.reshape(tl.interleave(odd, positive).to(tl.int32), (N, 2)), 1)
    tl.store(out + i, (odd & positive).to(tl.int32) + 2 * both)


@jit
def ends(out, x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + tl.arange(0, 2 * N), tl.cat(tl.load(x + i), tl.load(y + i), can_reorder=True))


@jit
def shaped(out, x, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    a = tl.load(x + tl.arange(0, A * B * C))
    b = tl.permute(tl.reshape(a, (A, B, C)), (2, 0, 1)) * 2
    tl.store(out + tl.arange(0, A * B * C), tl.reshape(tl.trans(tl.reshape(b, (C, A * B))), (A * B * C,)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_joining_and_splitting(shape, dtype, device):
    x, y = draw(shape, dtype), draw(shape, dtype, 1)
    out, *_ = run(joined, device, np.zeros((*shape, 2), dtype), x, y, M=shape[0], N=shape[1])
    np.testing.assert_array_equal(out, np.stack([x, y], -1))
    a, b, _ = run(parted, device, np.zeros_like(x), np.zeros_like(y), out, M=shape[0], N=shape[1])
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(b, y)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_joining_truths_and_ends(size, device):
    x, y = draw(size, np.int32), draw(size, np.int32, 1)
    out, _ = run(truths, device, np.zeros_like(x), x, N=size)
    odd, positive = (x % 2 != 0).astype(np.int32), (x > 0).astype(np.int32)
    np.testing.assert_array_equal(out, odd * positive + 2 * (odd + positive))
    out, *_ = run(ends, device, np.zeros(2 * size, np.int32), x, y, N=size)
    np.testing.assert_array_equal(np.sort(out), np.sort(np.concatenate([x, y])))  # the order is left open


@pytest.mark.parametrize("sizes", [(2, 4, 8), (8, 1, 16), (4, 32, 2)])
def test_reshaping_and_transposing(sizes, device):
    x = draw(sizes)
    out, _ = run(shaped, device, np.zeros_like(x), x, A=sizes[0], B=sizes[1], C=sizes[2])
    a, b, c = sizes
    np.testing.assert_array_equal(out.ravel(), (x * 2).transpose(2, 0, 1).reshape(c, a * b).T.ravel())


# -- functions of elements ---------------------------------------------------------------------------------------------


@jit
def _both(a, b):
    return a + b, a * 2 - b


@jit
def _mixed(a, b, c, d):
    """Of two neighbours of each tile: a sum and differences that tell them apart."""
    return a + 2 * b, c - a, d, b * 3


@jit
def mapped(out, x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    s, d = tl.map_elementwise(_both, tl.load(x + i), tl.load(y + i))
    tl.store(out + i, s)
    tl.store(out + N + i, d)


@jit
def packed(out, x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    s, d = tl.map_elementwise(_mixed, tl.load(x + i), tl.load(y + i), pack=2)
    tl.store(out + i, s)
    tl.store(out + N + i, d)


@jit
def _selu(x, alpha):
    if x > 0:
        return x
    else:
        return alpha * (x - 1)


@jit
def branching(out, x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.map_elementwise(_selu, tl.load(x + i), tl.load(y + i)))


@native
@pytest.mark.parametrize("size", [4, 64])
def test_functions_of_elements(size):
    x, y = draw(size), draw(size, seed=1)
    out, *_ = run(mapped, "native", np.zeros((2, size), np.float32), x, y, N=size)
    np.testing.assert_array_equal(out, [x + y, x * 2 - y])
    out, *_ = run(packed, "native", np.zeros((2, size), np.float32), x, y, N=size)
    (a, b), (c, d) = (x[0::2], x[1::2]), (y[0::2], y[1::2])
    np.testing.assert_array_equal(out[0], np.stack([a + 2 * b, c - a], 1).ravel())
    np.testing.assert_array_equal(out[1], np.stack([d, b * 3], 1).ravel())
    out, *_ = run(branching, "native", np.zeros(size, np.float32), x, y, N=size)
    np.testing.assert_array_equal(out, np.where(x > 0, x, y * (x - 1)))


# -- atomics -----------------------------------------------------------------------------------------------------------


@jit
def _atomic_add(p, v, m, SEM: tl.constexpr):
    return tl.atomic_add(p, v, mask=m, sem=SEM)


@jit
def _atomic_max(p, v, m, SEM: tl.constexpr):
    return tl.atomic_max(p, v, mask=m, sem=SEM)


@jit
def _atomic_min(p, v, m, SEM: tl.constexpr):
    return tl.atomic_min(p, v, mask=m, sem=SEM)


@jit
def _atomic_and(p, v, m, SEM: tl.constexpr):
    return tl.atomic_and(p, v, mask=m, sem=SEM)


@jit
def _atomic_or(p, v, m, SEM: tl.constexpr):
    return tl.atomic_or(p, v, mask=m, sem=SEM)


@jit
def _atomic_xor(p, v, m, SEM: tl.constexpr):
    return tl.atomic_xor(p, v, mask=m, sem=SEM)


@jit
def _atomic_xchg(p, v, m, SEM: tl.constexpr):
    return tl.atomic_xchg(p, v, mask=m, sem=SEM)


@jit
def atomic(x, old, v, n, N: tl.constexpr, SEM: tl.constexpr, fn: tl.constexpr):
    i = tl.arange(0, N)
    m = i < n
    tl.store(old + i, fn(x + i, tl.load(v + i), m, SEM), mask=m)


ATOMICS = {
    _atomic_add: np.add, _atomic_max: np.maximum, _atomic_min: np.minimum, _atomic_and: np.bitwise_and,
    _atomic_or: np.bitwise_or, _atomic_xor: np.bitwise_xor, _atomic_xchg: lambda a, b: b,
}  # fmt: skip


@pytest.mark.parametrize("sem", ["relaxed", "acquire", "release", "acq_rel"])
@pytest.mark.parametrize("fn", ATOMICS, ids=lambda f: f.__name__)
def test_atomics_give_what_was_there(fn, sem, device):
    # Of extremes of floats the interpreter of Triton 3.6 gives the bits.
    floats = fn in (_atomic_add, _atomic_xchg) or (fn in (_atomic_max, _atomic_min) and device == "native")
    dtypes = [np.int32, np.int64, np.uint32, np.uint64, *([np.float32, np.float64] if floats else [])]
    for dtype in dtypes if sem == "acq_rel" else dtypes[:1]:
        signed = np.dtype(dtype).kind != "u"
        x, v = draw(64, dtype, low=-8 * signed), draw(64, dtype, 1, low=-8 * signed)
        after, old, *_ = run(atomic, device, x, np.full_like(x, 99), v, 50, N=64, SEM=sem, fn=fn)
        np.testing.assert_array_equal(old[:50], x[:50])
        np.testing.assert_array_equal(old[50:], 99)
        np.testing.assert_array_equal(after[:50], ATOMICS[fn](x, v)[:50])
        np.testing.assert_array_equal(after[50:], x[50:])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_atomic_addition_of_half_types_rounds(dtype, device):
    x = np.random.default_rng(0).standard_normal(64).astype(dtype)
    v = np.random.default_rng(1).standard_normal(64).astype(dtype)
    after, old, *_ = run(atomic, device, x, np.zeros_like(x), v, 64, N=64, SEM="relaxed", fn=_atomic_add)
    np.testing.assert_array_equal(old, x)
    np.testing.assert_array_equal(after.view(np.uint16), (x + v).view(np.uint16))


@jit
def colliding(x, old, N: tl.constexpr, SLOTS: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(old + i, tl.atomic_add(x + i % SLOTS, 1))


@native
def test_lanes_at_one_address_follow_each_other():
    """Each sees what those before it added; the interpreter reads all of them first."""
    x, old = run(colliding, "native", np.zeros(4, np.int32), np.zeros(64, np.int32), N=64, SLOTS=4)
    np.testing.assert_array_equal(x, [16] * 4)
    np.testing.assert_array_equal(old, np.arange(64) // 4)


@jit
def swap(x, old, expected, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(old + i, tl.atomic_cas(x + i, tl.load(expected + i), i.to(x.dtype.element_ty)))


@pytest.mark.parametrize("dtype", [np.int32, np.int64], ids=lambda d: np.dtype(d).name)
def test_compare_and_swap(dtype, device):
    x, expected = draw(32, dtype, low=0, high=3), draw(32, dtype, 1, low=0, high=3)
    after, old, _ = run(swap, device, x, np.zeros_like(x), expected, N=32)
    np.testing.assert_array_equal(old, x)
    np.testing.assert_array_equal(after, np.where(x == expected, np.arange(32), x))


@jit
def scalar_atomics(x, old, n):
    tl.store(old, tl.atomic_add(x, 5))
    tl.store(old + 1, tl.atomic_xchg(x + 1, 7, mask=n > 3))
    tl.store(old + 2, tl.atomic_cas(x + 2, 12, 1))
    tl.atomic_max(x + 3, 100, mask=n < 3)


@pytest.mark.parametrize("n", [2, 9])
def test_atomics_of_one_address(n, device):
    after, old, *_ = run(scalar_atomics, device, np.array([10, 11, 12, 13], np.int32), np.zeros(3, np.int32), n)
    np.testing.assert_array_equal(after, [15, 7 if n > 3 else 11, 1, 100 if n < 3 else 13])
    assert old[0] == 10 and old[2] == 12 and (n <= 3 or old[1] == 11)


@jit
def locked(lock, total, n):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total, tl.load(total) + n)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@jit
def counting(count, sums, x, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.atomic_add(sums + a, a.to(tl.float32) * 0 + 0.5, sem="relaxed")
    tl.atomic_add(count, 1)


def test_programs_share_a_lock(device):
    lock, total, *_ = run(locked, device, np.zeros(1, np.int32), np.zeros(1, np.int32), 3, grid=(200,))
    assert total[0] == 600 and lock[0] == 0


def test_programs_add_to_the_same_addresses(device):
    x = draw(64 * 64, np.int32, low=0, high=7)
    count, sums, _ = run(counting, device, np.zeros(1, np.int32), np.zeros(7, np.float32), x, grid=(64,), BLOCK=64)
    assert count[0] == 64
    np.testing.assert_array_equal(sums, np.bincount(x) * 0.5)


@native
def test_threads_share_locks_and_addresses():
    """Enough programs that every thread takes some."""
    before = T.get_num_threads()
    T.set_num_threads(4)
    try:
        lock, total, _ = run(locked, "native", np.zeros(1, np.int32), np.zeros(1, np.int32), 3, grid=(20_000,))
        x = draw(64 * 5000, np.int32, low=0, high=7)
        count, sums = np.zeros(1, np.int32), np.zeros(7, np.float32)
        count, sums, _ = run(counting, "native", count, sums, x, grid=(5000,), BLOCK=64)
        assert total[0] == 60_000 and lock[0] == 0 and count[0] == 5000
        np.testing.assert_array_equal(sums, np.bincount(x) * 0.5)
    finally:
        T.set_num_threads(before)


@jit
def handed_over(x, flag, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.atomic_xchg(flag, 1, sem="release")  # from here on another program may write to x
    tl.store(x + i, a * 0)
    tl.store(out + i, a)


def test_loads_are_made_before_a_release(device):
    x = draw(64)
    _, _, out = run(handed_over, device, x, np.zeros(1, np.int32), np.zeros_like(x), N=64)
    np.testing.assert_array_equal(out, x)


@jit
def before_and_after(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    before = tl.load(x + i)
    old = tl.atomic_add(x + (i + 1) % N, before, mask=i < n)  # each lane changes what the next one read
    tl.store(out + i, before)
    tl.store(out + N + i, old, mask=i < n)
    tl.store(out + 2 * N + i, tl.load(x + i))


@native
def test_loads_keep_their_place_among_atomics():
    x = draw(64, np.int32)
    _, out, *_ = run(before_and_after, "native", x, np.zeros((3, 64), np.int32), 40, N=64)
    np.testing.assert_array_equal(out[0], x)
    np.testing.assert_array_equal(out[1, :40], np.roll(x, -1)[:40])
    added = np.where(np.arange(64) < 40, x, 0)
    np.testing.assert_array_equal(out[2], x + np.roll(added, 1))


@jit
def out_of_bounds(x, old, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(old + i, tl.atomic_add(x + i, 1, mask=i < n))


@native
def test_an_atomic_out_of_bounds_is_left_out_and_named():
    x, old = on(np.zeros(20, np.int32), "native"), on(np.zeros(32, np.int32), "native")
    with T.backends.native.flags(guard=True):
        launch(out_of_bounds, 1, x._array, old._array, 20, N=32)
        with pytest.raises(KernelError, match=r"(?s)out_of_bounds.*x"):
            launch(out_of_bounds, 1, x._array, old._array, 2**20, N=2**12)
    assert x.cpu().numpy()[:20].tolist() == [2] * 20
