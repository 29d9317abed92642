"""One kernel for every reduction, of any inputs, dims, layout and dtype: what is reduced and how are functions.

A reduction is a state of one to three numbers: ``map`` makes the state of one element, ``combine`` joins two states
(associative and commutative), ``finish`` gives the results. float16 and bfloat16 are computed in float32 and rounded
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from tensorlib._array import DeviceArray, empty, expand
from tensorlib._device import device as Device
from tensorlib._dtypes import HALF
from tensorlib.kernels.matmul import noise
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.rows import sized
from tensorlib.runtime.autotune import Config, Tunable
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.hardware import Estimate, Hardware, hardware, stream_cost, vector_warps
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT32, _INT64, _BOOL = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.bool_)

TILE = 4096  # elements a program holds at a time, for a state of one number
PROGRAMS = 512  # with fewer, long reductions are split, where they are interpreted
FEW_PROGRAMS = 32  # the same on a processor


@jit
def strided(index, shape, strides, RANK: tl.constexpr):
    """The offset of element number ``index`` (in C order) of an array of RANK dimensions."""
    if RANK == 1:
        at = index * strides[0]
    else:
        at = tl.zeros_like(index)
        rest = index
        for d in tl.static_range(RANK - 1, 0, -1):
            at += (rest % shape[d]) * strides[d]
            rest = rest // shape[d]
        at += rest * strides[0]
    return at


@jit
def _fill(shape: tl.constexpr, INIT: tl.constexpr, TYPES: tl.constexpr):
    state = ()
    for k in tl.static_range(len(INIT)):
        state = state + (tl.full(shape, INIT[k], TYPES[k]),)
    return state


# The states of BLOCK_M rows after BLOCK_N more elements of each, numbers n. ``mask`` says which there are; ``loaded``
# is the same for the loads, None where all are. What begins at multiples of UNITS can be loaded as vectors.
@jit
def _walk(
    state, inputs, rows, fixed, reduced_shape, reduced_strides, n, mask, loaded, arg, t,
    map_fn: tl.constexpr, combine: tl.constexpr, step: tl.constexpr, INIT: tl.constexpr, TYPES: tl.constexpr,
    COMPUTE: tl.constexpr, REDUCED: tl.constexpr, INNER: tl.constexpr, UNITS: tl.constexpr, VARIES: tl.constexpr,
):  # fmt: skip
    values = ()
    for k in tl.static_range(len(inputs)):
        if VARIES[k]:
            columns = strided(n, reduced_shape, reduced_strides[k], REDUCED)
            if not INNER:
                columns = columns // UNITS[k] * UNITS[k]
            v = tl.load(inputs[k] + (rows[k][:, None] + columns[None, :]), mask=loaded)
            values = values + (v.to(COMPUTE[k]),)
        else:
            values = values + (fixed[k],)
    if step is not None:
        state = step(*state, *values, n[None, :], mask, t)
    else:
        new = map_fn(*values, n[None, :], arg)
        taken = ()
        for k in tl.static_range(len(INIT)):
            taken = taken + (tl.where(mask, tl.cast(new[k], TYPES[k]), tl.full((1, 1), INIT[k], TYPES[k])),)
        state = combine(*state, *taken)
    return state


# One program owns BLOCK_M results and the elements chunk * program_id(1) … of what is reduced into each; it walks them
# BLOCK_N at a time, with one state a lane, and joins the lanes at the end. Reads every input once; writes a result, or
# (with several programs a result) a state, for each row and program. Offsets are 32-bit unless WIDE. INNER: the
# elements of a row are neighbours, else the rows; UNIT divides their number. PEEL: whole blocks need no mask. VARIES:
# False for an input that is the same along a row, which is read once.
@jit
def reduce_kernel(
    outs, inputs, M, N, chunk, count, arg,
    kept_shape, kept_strides, reduced_shape, reduced_strides,
    map_fn: tl.constexpr, combine: tl.constexpr, join: tl.constexpr, finish: tl.constexpr, step: tl.constexpr,
    INIT: tl.constexpr, TYPES: tl.constexpr, COMPUTE: tl.constexpr,
    KEPT: tl.constexpr, REDUCED: tl.constexpr, WIDE: tl.constexpr, INNER: tl.constexpr, UNIT: tl.constexpr,
    UNITS: tl.constexpr, VARIES: tl.constexpr, PEEL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    start = tl.program_id(1)
    if WIDE:
        m = m.to(tl.int64)
        start = start.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    if INNER:
        N = N // UNIT * UNIT
    else:
        M = M // UNIT * UNIT
    start = start * chunk
    stop = tl.minimum(start + chunk, N)
    rows = ()
    for k in tl.static_range(len(inputs)):
        row = strided(m, kept_shape, kept_strides[k], KEPT)
        if INNER:
            row = row // UNITS[k] * UNITS[k]
        rows = rows + (row,)
    fixed = ()
    for k in tl.static_range(len(inputs)):
        if VARIES[k]:
            fixed = fixed + (0,)
        else:
            fixed = fixed + (tl.load(inputs[k] + rows[k], mask=m < M).to(COMPUTE[k])[:, None],)
    state = _fill((BLOCK_M, BLOCK_N), INIT, TYPES)
    first = start
    if PEEL:
        first = start + tl.maximum(stop - start, 0) // BLOCK_N * BLOCK_N
        every = tl.full((BLOCK_M, BLOCK_N), 1, tl.int1)
        for at in range(start, first, BLOCK_N):
            t = (at - start) // BLOCK_N
            state = _walk(
                state, inputs, rows, fixed, reduced_shape, reduced_strides, at + tl.arange(0, BLOCK_N), every, None,
                arg, t, map_fn, combine, step, INIT, TYPES, COMPUTE, REDUCED, INNER, UNITS, VARIES,
            )  # fmt: skip
    for at in range(first, stop, BLOCK_N):
        n = at + tl.arange(0, BLOCK_N)
        mask = (m < M)[:, None] & (n < N)[None, :]  # chunks are of whole blocks: a block ends where N does, or within
        state = _walk(
            state, inputs, rows, fixed, reduced_shape, reduced_strides, n, mask, mask, arg, (at - start) // BLOCK_N,
            map_fn, combine, step, INIT, TYPES, COMPUTE, REDUCED, INNER, UNITS, VARIES,
        )  # fmt: skip
    results = finish(*join(state), count, arg)
    at = tl.program_id(1).to(tl.int64) * M + m
    for k in tl.static_range(len(outs)):
        tl.store(outs[k] + at, tl.cast(results[k], outs[k].dtype.element_ty), mask=m < M)


# ----------------------------------------------------------------------------------------------------- the functions
# Every map, combine and finish takes and gives a tuple, one number long where the state is.


@jit
def _map(x, n, arg):
    return (x,)


@jit
def _map_nonzero(x, n, arg):
    return (x != 0,)


@jit
def _map_square(x, n, arg):
    return (x * x,)


@jit
def _map_abs(x, n, arg):
    return (tl.abs(x),)


@jit
def _map_power(x, n, arg):
    return (libdevice.pow(tl.abs(x), tl.full(x.shape, 0.0, x.dtype) + arg),)


@jit
def _map_indexed(x, n, arg):
    return (x, n + tl.zeros_like(x).to(tl.int32))


@jit
def _map_moments(x, n, arg):
    return (x, tl.zeros_like(x), tl.full(x.shape, 1.0, x.dtype))


@jit
def _map_exp(x, n, arg):
    return (x, tl.full(x.shape, 1.0, x.dtype))


@jit
def _map_bits(x, n, arg):
    return (x.to(tl.int64, bitcast=True),)


@jit
def _map_state1(a, n, arg):
    return (a,)


@jit
def _map_state2(a, b, n, arg):
    return (a, b)


@jit
def _map_state3(a, b, c, n, arg):
    return (a, b, c)


@jit
def _add(a, b):
    return (a + b,)


@jit
def _add2(a, c, b, d):
    return (a + b, c + d)


@jit
def _mul(a, b):
    return (a * b,)


@jit
def _or(a, b):
    return (a | b,)


@jit
def _and(a, b):
    return (a & b,)


@jit
def _xor(a, b):
    return (a ^ b,)


@jit
def _max(a, b):
    return (tl.where((a > b) | (a != a), a, b),)


@jit
def _min(a, b):
    return (tl.where((a < b) | (a != a), a, b),)


# The first of equal values, and the first NaN before everything, as in PyTorch.
@jit
def _argmax(a, i, b, j):
    nan = a != a
    tie = (a == b) | (nan & (b != b))
    left = tl.where(tie, i < j, nan | (a > b))
    return tl.where(left, a, b), tl.where(left, i, j)


@jit
def _argmin(a, i, b, j):
    nan = a != a
    tie = (a == b) | (nan & (b != b))
    left = tl.where(tie, i < j, nan | (a < b))
    return tl.where(left, a, b), tl.where(left, i, j)


# (mean, sum of squared distances from it, count) of two parts. Chan, Golub & LeVeque 1983.
@jit
def _moments(mean, m2, n, mean_b, m2_b, n_b):
    total = n + n_b
    part = tl.where(total > 0, n_b / tl.maximum(total, 1.0), 0.0)
    delta = mean_b - mean
    return mean + delta * part, m2 + m2_b + delta * delta * n * part, total


# (maximum, sum of exp(x - maximum)) of two parts; equal maxima, infinite ones too, need no exponential.
@jit
def _logaddexp(m, s, m_b, s_b):
    top = tl.maximum(m, m_b)
    left = tl.where(m == top, 1.0, tl.exp(m - top))
    right = tl.where(m_b == top, 1.0, tl.exp(m_b - top))
    nan = (m != m) | (m_b != m_b)
    return top, tl.where(nan, m + m_b, s * left + s_b * right)


# Steps take the states of lanes and one more element of each, in fewer operations than a map and a combine would: in a
# lane the elements come in order, and all lanes have as many of them, t, but for those beyond the end.


# Welford 1962.
@jit
def _step_moments(mean, m2, count, x, n, mask, t):
    delta = tl.where(mask, x - mean, 0.0)
    mean += delta * (1.0 / (t + 1).to(mean.dtype))
    return mean, m2 + delta * tl.where(mask, x - mean, 0.0), count + mask.to(count.dtype)


@jit
def _step_argmax(best, index, x, n, mask, t):
    better = mask & ((x > best) | ((x != x) & (best == best)) | (t == 0))
    return tl.where(better, x, best), tl.where(better, n.to(index.dtype), index)


@jit
def _step_argmin(best, index, x, n, mask, t):
    better = mask & ((x < best) | ((x != x) & (best == best)) | (t == 0))
    return tl.where(better, x, best), tl.where(better, n.to(index.dtype), index)


# One exponential: of the distance to the larger, by which either the sum or the new term is scaled.
@jit
def _step_exp(m, s, x, n, mask, t):
    x = tl.where(mask, x, float("-inf"))
    scale = tl.where(x == m, 1.0, tl.exp(-tl.abs(x - m)))
    return tl.maximum(m, x), tl.where(x > m, s * scale + 1.0, s + scale)


@jit
def _state1(a, count, arg):
    return (a,)


@jit
def _state2(a, b, count, arg):
    return (a, b)


@jit
def _state3(a, b, c, count, arg):
    return (a, b, c)


@jit
def _divide(a, count, arg):
    return (a / tl.cast(count, a.dtype),)


@jit
def _sqrt(a, count, arg):
    return (tl.sqrt(a),)


@jit
def _root(a, count, arg):
    return (libdevice.pow(a, 1.0 / (tl.full(a.shape, 0.0, a.dtype) + arg)),)


@jit
def _index(value, index, count, arg):
    return (index,)


# Divided as IEEE does: 0/0 is NaN where there is one element too few.
@jit
def _variance(mean, m2, n, count, arg):
    return (m2 / tl.maximum(tl.cast(count, m2.dtype) - tl.cast(arg, m2.dtype), 0.0),)


@jit
def _deviation(mean, m2, n, count, arg):
    return (tl.sqrt(m2 / tl.maximum(tl.cast(count, m2.dtype) - tl.cast(arg, m2.dtype), 0.0)),)


@jit
def _variance_mean(mean, m2, n, count, arg):
    divisor = tl.maximum(tl.cast(count, m2.dtype) - tl.cast(arg, m2.dtype), 0.0)
    nothing = tl.where(n > 0, mean, mean / n)
    return m2 / divisor, nothing


@jit
def _deviation_mean(mean, m2, n, count, arg):
    divisor = tl.maximum(tl.cast(count, m2.dtype) - tl.cast(arg, m2.dtype), 0.0)
    nothing = tl.where(n > 0, mean, mean / n)
    return tl.sqrt(m2 / divisor), nothing


@jit
def _log_sum(m, s, count, arg):
    return (m + tl.log(s),)


@cache
def lanes(combine: Jit) -> Jit:
    """The function that joins the states along the last dimension of a tile: tl.reduce takes no constexpr function."""

    @jit
    def join(state):
        return tl.reduce(state, 1, combine)

    return join


class Reduction(NamedTuple):
    """What a reduction computes. ``init`` is the state of nothing: numbers, or "lowest", "highest", "last"."""

    map: Jit
    combine: Jit
    finish: Jit
    init: tuple[Any, ...]
    #: dtype of each number of the state; None: that of the computation.
    types: tuple[Any, ...]
    #: ``step(*state, *inputs, number, mask, how many came before)`` in place of ``map`` and ``combine`` within a lane.
    step: Jit | None = None


SUM = Reduction(_map, _add, _state1, (0,), (None,))
MEAN = Reduction(_map, _add, _divide, (0,), (None,))
PROD = Reduction(_map, _mul, _state1, (1,), (None,))
AMAX = Reduction(_map, _max, _state1, ("lowest",), (None,))
AMIN = Reduction(_map, _min, _state1, ("highest",), (None,))
ANY = Reduction(_map_nonzero, _or, _state1, (0,), (_INT32,))
ALL = Reduction(_map_nonzero, _and, _state1, (1,), (_INT32,))
COUNT_NONZERO = Reduction(_map_nonzero, _add, _state1, (0,), (_INT64,))
MAX = Reduction(_map_indexed, _argmax, _state2, ("lowest", "last"), (None, "index"), _step_argmax)
MIN = Reduction(_map_indexed, _argmin, _state2, ("highest", "last"), (None, "index"), _step_argmin)
ARGMAX = Reduction(_map_indexed, _argmax, _index, ("lowest", "last"), (None, "index"), _step_argmax)
ARGMIN = Reduction(_map_indexed, _argmin, _index, ("highest", "last"), (None, "index"), _step_argmin)
VAR = Reduction(_map_moments, _moments, _variance, (0.0, 0.0, 0.0), (None,) * 3, _step_moments)
STD = Reduction(_map_moments, _moments, _deviation, (0.0, 0.0, 0.0), (None,) * 3, _step_moments)
VAR_MEAN = Reduction(_map_moments, _moments, _variance_mean, (0.0, 0.0, 0.0), (None,) * 3, _step_moments)
STD_MEAN = Reduction(_map_moments, _moments, _deviation_mean, (0.0, 0.0, 0.0), (None,) * 3, _step_moments)
HASH = Reduction(_map_bits, _xor, _state1, (0,), (_INT64,))
LOGSUMEXP = Reduction(_map_exp, _logaddexp, _log_sum, (float("-inf"), 0.0), (None,) * 2, _step_exp)

_NORMS = {
    2: Reduction(_map_square, _add, _sqrt, (0.0,), (None,)),
    1: Reduction(_map_abs, _add, _state1, (0.0,), (None,)),
    0: Reduction(_map_nonzero, _add, _state1, (0.0,), (None,)),
    float("inf"): Reduction(_map_abs, _max, _state1, (0.0,), (None,)),
    float("-inf"): Reduction(_map_abs, _min, _state1, ("highest",), (None,)),
}
_POWER_NORM = Reduction(_map_power, _add, _root, (0.0,), (None,))


def norm(ord: float) -> Reduction:
    """(Σ |x|**ord)**(1/ord), ``arg`` being ord, and its limits at 0 and ±inf."""
    return _NORMS.get(ord, _POWER_NORM)


_MAP_STATE = (_map_state1, _map_state2, _map_state3)
_STATE = (_state1, _state2, _state3)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype a reduction works in: float32 for half types, int32 for small integers."""
    if dtype in HALF:
        return _FLOAT32
    return _INT32 if dtype == _BOOL or (dtype.kind in "iu" and dtype.itemsize < 4) else dtype


def _initial(value: Any, dtype: np.dtype[Any]) -> Any:
    if value == "last":
        return int(np.iinfo(dtype).max)
    if value in ("lowest", "highest"):
        sign = 1 if value == "highest" else -1
        if dtype.kind == "f":
            return sign * float("inf")
        limits = np.iinfo(dtype)
        return int(limits.max if sign > 0 else limits.min)
    return float(value) if dtype.kind == "f" else int(value)


def _addressing(x: Any, dims: Sequence[int]) -> Any:
    """(kept shape, strides of each input there, reduced shape, strides of each input there), in fewest dimensions."""
    ndim = x[0].ndim
    inside = [d for d in range(ndim) if d in dims]
    outside = [d for d in range(ndim) if d not in dims]
    parts: list[Any] = []
    for some in (outside, inside):
        parts.extend(collapse([x[0].shape[d] for d in some], [tuple(a.strides[d] for d in some) for a in x]))
    return parts


class Problem(NamedTuple):
    """M sums of N elements as the choice of a block sees them."""

    M: int
    N: int
    inner: bool  # the elements of a sum are neighbours in memory, else the sums are
    numbers: int  # of a state
    inputs: int
    itemsize: int
    compute: np.dtype[Any]


def blocks(M: int, N: int, inner: bool, tile: int) -> tuple[int, int]:
    """(BLOCK_M, BLOCK_N): long in the direction in which memory is contiguous."""
    if inner:
        block_n = min(next_power_of_2(N), tile)
        return min(next_power_of_2(M), max(tile // block_n, 1), 256), block_n
    block_m = min(next_power_of_2(M), 128)
    return block_m, min(next_power_of_2(N), max(tile // block_m, 1))


def _default(p: Problem, gpu: Hardware) -> Config:
    tile = TILE // (1 if p.numbers == 1 and p.inputs == 1 else 2)
    block_m, block_n = blocks(p.M, p.N, p.inner, tile)
    programs = 2 * (FEW_PROGRAMS if gpu.family == "native" else PROGRAMS)
    if gpu.family == "native" and p.inner:  # a lane's elements cost less than joining lanes does
        block_n = min(max(next_power_of_2(p.N) // 16, 64), block_n)
        block_m = min(next_power_of_2(p.M), tile // block_n, 8)
    if not (p.inner or gpu.on_host):
        programs = 8 * gpu.multiprocessors
        if next_power_of_2(p.M) <= 64 * gpu.multiprocessors and p.N <= 1024:  # one pass costs less than two
            block_m = min(block_m, max(32, 64 // p.itemsize))
            block_n = min(next_power_of_2(p.N), tile // block_m)
    elif not gpu.on_host:
        programs = 8 * gpu.multiprocessors
        rows = next_power_of_2(p.M) // next_power_of_2(gpu.multiprocessors)  # that leave a program for each of them
        block_m = min(block_m, max(rows, 512 // block_n, 1))
    return Config(8 if block_m * block_n >= 4096 else 4, BLOCK_M=block_m, BLOCK_N=block_n, PROGRAMS=programs)


def _candidates(p: Problem, gpu: Hardware) -> Sequence[Config]:
    found = [_default(p, gpu)]
    if gpu.on_host:
        return found
    for tile in (1024, 2048, 4096, 8192):
        if p.inner:
            block_n = min(next_power_of_2(p.N), tile)
            sizes = [(min(next_power_of_2(p.M), max(tile // block_n, 1), 256), block_n)]
        else:
            sizes = [
                (min(next_power_of_2(p.M), m), min(next_power_of_2(p.N), max(tile // m, 1))) for m in (32, 64, 128, 256)
            ]
        for block_m, block_n in sizes:
            for warps in (4, 8, 16):
                each = block_m * block_n / (warps * gpu.warp_size) * p.numbers * max(p.compute.itemsize // 4, 1)
                if warps * gpu.warp_size <= 1024 and 4 * p.numbers <= each <= 48:
                    found += [
                        Config(warps, BLOCK_M=block_m, BLOCK_N=block_n, PROGRAMS=waves * gpu.multiprocessors)
                        for waves in (2, 4, 8)
                    ]
    return list(dict.fromkeys(found))


def _split(p: Problem, config: Config, gpu: Hardware) -> tuple[int, int]:
    """In how many parts each sum is made, and of how many elements one is: whole blocks."""
    block_n, programs = config["BLOCK_N"], cdiv(p.M, config["BLOCK_M"])
    least = 64 * TILE if gpu.family == "native" else (4 if p.inner or gpu.on_host else 8) * block_n
    parts = 1
    if 2 * programs < config["PROGRAMS"] and p.N > least:
        parts = min(cdiv(p.N, least), cdiv(config["PROGRAMS"], programs))
    chunk = cdiv(cdiv(p.N, parts), block_n) * block_n
    return max(cdiv(p.N, chunk), 1) if chunk else 1, chunk


def _cost(config: Config, p: Problem, gpu: Hardware) -> Estimate:
    block_m, block_n = config["BLOCK_M"], config["BLOCK_N"]
    parts, chunk = _split(p, config, gpu)
    programs = cdiv(p.M, block_m) * parts
    if gpu.on_host:
        return Estimate(float(programs))
    each = block_m * block_n / (config.num_warps * gpu.warp_size) * max(p.compute.itemsize // 4, 1)
    registers = 24 + each * (p.numbers + 0.5 * p.inputs)
    nbytes = p.M * p.N * p.itemsize * p.inputs + 2 * p.M * (parts if parts > 1 else 0) * p.numbers * p.compute.itemsize
    work = cdiv(p.M, block_m) * block_m * p.N * 6.0 * p.numbers
    held = block_m * block_n * p.itemsize * p.inputs
    return stream_cost(gpu, programs, config.num_warps, registers, cdiv(chunk, block_n), held, nbytes, work)


def _examples(device: Device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Sums of everything, of rows and of columns: gradients of biases, of norms, statistics of channels."""
    for dtype in (np.dtype(ml_dtypes.bfloat16), _FLOAT32):
        for shape, dim in (((1 << 24,), 0), ((8192, 768), 1), ((8192, 768), 0), ((8192, 4096), 1), ((8192, 4096), 0),
                           ((528, 768), 0), ((32, 1 << 18), 1)):  # fmt: skip
            for name, what in (("sum", SUM), ("var", VAR)):
                yield f"{name} of {shape} {dtype} along {dim}", (
                    lambda s=shape, d=dim, w=what, t=dtype: _example(noise(s, t, device), d, w)
                )


def _example(x: DeviceArray, dim: int, what: Reduction) -> None:
    kept = tuple(n for d, n in enumerate(x.shape) if d != dim)
    reduce([empty(kept, compute_dtype(x.dtype), x.device)], [x], (dim,), what, arg=1.0)


REDUCE = Tunable(
    "reduce", (reduce_kernel,), _candidates, lambda p: p._replace(M=sized(p.M), N=sized(p.N)), _cost, default=_default,
    examples=_examples,
)  # fmt: skip


def _units(p: Problem, rows: Any, reduced: Any, kept_shape: Any, reduced_shape: Any) -> tuple[int, tuple[int, ...]]:
    """What the compiler is told to divide the number of neighbours, and where those of each input begin: 4, 8 or 1."""
    near, far = (reduced, rows) if p.inner else (rows, reduced)
    shape, far_shape = (reduced_shape, kept_shape) if p.inner else (kept_shape, reduced_shape)
    units = []
    for a, b in zip(near, far, strict=True):
        strides = [t for t, n in zip(b, far_shape, strict=True) if n > 1]
        found = math.gcd(16, shape[0], *strides) if len(shape) == 1 and a[0] == 1 else 1
        units.append(found)
    unit = min(units)
    return (unit if unit in (4, 8) else 1), tuple(u if u in (4, 8) else 1 for u in units)


def reduce(
    outs: Sequence[DeviceArray],
    inputs: Sequence[DeviceArray],
    dims: Sequence[int],
    reduction: Reduction,
    compute: Any = None,
    arg: float = 0.0,
) -> None:
    """outs = reduction of the inputs (broadcast to the first's shape) over dims.

    ``outs`` are contiguous, in the order of the kept dims. ``compute``: the dtype of each input inside, else
    ``compute_dtype`` of its own. The result does not depend on the order in which programs run.
    """
    shape = inputs[0].shape
    inputs = [x if x.shape == shape else expand(x, shape) for x in inputs]
    compute = tuple(compute) if compute is not None else tuple(compute_dtype(x.dtype) for x in inputs)
    M = outs[0].size
    if M == 0:
        return
    N = int(np.prod([shape[d] for d in dims], dtype=np.int64)) if dims else 1
    kept_shape, kept, reduced_shape, reduced = _addressing(inputs, dims)
    wide = max(sum(abs(s) * (m - 1) for s, m in zip((*a, *b), (*kept_shape, *reduced_shape), strict=True))
               for a, b in zip(kept, reduced, strict=True)) >= 1 << 31 or max(M, N) >= 1 << 30  # fmt: skip
    index = _INT64 if N >= 1 << 31 else _INT32
    types = tuple(compute[0] if t is None else index if t == "index" else t for t in reduction.types)
    init = tuple(_initial(v, t) for v, t in zip(reduction.init, types, strict=True))
    inner = abs(reduced[0][-1]) <= abs(kept[0][-1]) or M == 1
    if M == 1:  # a stride of 0, whose multiples the compiler knows to be aligned; of 1 it does not
        kept_shape, kept = (1,), [(0,)] * len(inputs)
    problem = Problem(M, N, inner, len(init), len(inputs), inputs[0].itemsize, types[0])
    varies = (True, *(any(t for t, n in zip(s, reduced_shape, strict=True) if n > 1) for s in reduced[1:]))
    unit, units = _units(problem, kept, reduced, kept_shape, reduced_shape)
    number = np.float64(arg) if types[0] == _FLOAT64 else float(arg)
    gpu, k = hardware(inputs[0].device), len(init)
    common = dict(combine=reduction.combine, join=lanes(reduction.combine), INIT=init, TYPES=types, WIDE=wide)

    def run(config: Config, *outs: DeviceArray) -> None:
        block_m, block_n = config["BLOCK_M"], config["BLOCK_N"]
        splits, chunk = _split(problem, config, gpu)
        if splits > 1 and M == 1 and not gpu.on_host:  # what is left of 16 has nothing to add: vectors for who sums up
            splits = cdiv(splits, 16) * 16
        partial = outs if splits == 1 else tuple(empty((splits, M), t, outs[0].device) for t in types)
        launch(
            reduce_kernel, (cdiv(M, block_m), splits), tuple(partial), tuple(inputs), M, N, chunk, N, number,
            kept_shape, tuple(kept), reduced_shape, tuple(reduced),
            map_fn=reduction.map, finish=reduction.finish if splits == 1 else _STATE[k - 1], step=reduction.step,
            COMPUTE=compute, KEPT=len(kept_shape), REDUCED=len(reduced_shape), INNER=inner, UNIT=unit, UNITS=units,
            VARIES=varies,
            PEEL=M == 1 and inner and N % 16 != 0 and unit == 1 and N > block_n, **common,
            BLOCK_M=block_m, BLOCK_N=block_n, num_warps=config.num_warps,
        )  # fmt: skip
        if splits == 1:
            return
        if M == 1:
            block_m, block_n = 1, min(next_power_of_2(splits), TILE // 2)
        else:
            block_m = min(next_power_of_2(M), 32)
            block_n = min(next_power_of_2(splits), TILE // 2 // block_m)
        warps = vector_warps(outs[0].device, block_m * block_n, types[0].itemsize)
        launch(
            reduce_kernel, (cdiv(M, block_m), 1), tuple(outs), partial, M, splits, splits, N, number,
            (M,), (((1,) if M > 1 else (0,)),) * k, (splits,), ((M,),) * k,
            map_fn=_MAP_STATE[k - 1], finish=reduction.finish, step=None, COMPUTE=types, KEPT=1, REDUCED=1,
            INNER=False, UNIT=1, UNITS=(1,) * k, VARIES=(True,) * k, PEEL=False, **common, BLOCK_M=block_m,
            BLOCK_N=block_n, num_warps=warps,
        )  # fmt: skip

    run(REDUCE.choose(problem, inputs[0].device, run, tuple(outs)), *outs)
