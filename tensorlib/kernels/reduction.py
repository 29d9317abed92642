"""One kernel for every reduction, of any inputs, dims, layout and dtype: what is reduced and how are functions.

A reduction is a state of one to three numbers: ``map`` makes the state of one element, ``combine`` joins two states
(associative and commutative), ``finish`` gives the results. float16 and bfloat16 are computed in float32 and rounded
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty, expand
from tensorlib._dtypes import HALF
from tensorlib.kernels.pointwise import collapse
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT32, _INT64, _BOOL = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.bool_)

TILE = 4096  # elements a program holds at a time, for a state of one number
PROGRAMS = 512  # with fewer, long reductions are split, so that every multiprocessor of a large GPU has work
FEW_PROGRAMS = 32  # the same on a processor, whose cores are fewer


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


# One program owns BLOCK_M results and the elements chunk * program_id(1) … of what is reduced into each; it walks them
# BLOCK_N at a time, with one state a lane, and joins the lanes at the end. Reads every input once; writes a result, or
# (with several programs a result) a state, for each row and program. Offsets are 32-bit unless WIDE.
@jit
def reduce_kernel(
    outs, inputs, M, N, chunk, count, arg,
    kept_shape, kept_strides, reduced_shape, reduced_strides,
    map_fn: tl.constexpr, combine: tl.constexpr, join: tl.constexpr, finish: tl.constexpr,
    INIT: tl.constexpr, TYPES: tl.constexpr, COMPUTE: tl.constexpr,
    KEPT: tl.constexpr, REDUCED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    start = tl.program_id(1)
    if WIDE:
        m = m.to(tl.int64)
        start = start.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    start = start * chunk
    stop = tl.minimum(start + chunk, N)
    rows = ()
    for k in tl.static_range(len(inputs)):
        rows = rows + (strided(m, kept_shape, kept_strides[k], KEPT),)
    state = _fill((BLOCK_M, BLOCK_N), INIT, TYPES)
    for at in range(start, stop, BLOCK_N):
        n = at + tl.arange(0, BLOCK_N)
        mask = (m < M)[:, None] & (n < stop)[None, :]
        values = ()
        for k in tl.static_range(len(inputs)):
            columns = strided(n, reduced_shape, reduced_strides[k], REDUCED)
            v = tl.load(inputs[k] + (rows[k][:, None] + columns[None, :]), mask=mask)
            values = values + (v.to(COMPUTE[k]),)
        new = map_fn(*values, n[None, :], arg)
        taken = ()
        for k in tl.static_range(len(INIT)):
            taken = taken + (tl.where(mask, tl.cast(new[k], TYPES[k]), tl.full((1, 1), INIT[k], TYPES[k])),)
        state = combine(*state, *taken)
    results = finish(*join(state), count, arg)
    at = m.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
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


SUM = Reduction(_map, _add, _state1, (0,), (None,))
MEAN = Reduction(_map, _add, _divide, (0,), (None,))
PROD = Reduction(_map, _mul, _state1, (1,), (None,))
AMAX = Reduction(_map, _max, _state1, ("lowest",), (None,))
AMIN = Reduction(_map, _min, _state1, ("highest",), (None,))
ANY = Reduction(_map_nonzero, _or, _state1, (0,), (_INT32,))
ALL = Reduction(_map_nonzero, _and, _state1, (1,), (_INT32,))
COUNT_NONZERO = Reduction(_map_nonzero, _add, _state1, (0,), (_INT64,))
MAX = Reduction(_map_indexed, _argmax, _state2, ("lowest", "last"), (None, "index"))
MIN = Reduction(_map_indexed, _argmin, _state2, ("highest", "last"), (None, "index"))
ARGMAX = Reduction(_map_indexed, _argmax, _index, ("lowest", "last"), (None, "index"))
ARGMIN = Reduction(_map_indexed, _argmin, _index, ("highest", "last"), (None, "index"))
VAR = Reduction(_map_moments, _moments, _variance, (0.0, 0.0, 0.0), (None,) * 3)
STD = Reduction(_map_moments, _moments, _deviation, (0.0, 0.0, 0.0), (None,) * 3)
VAR_MEAN = Reduction(_map_moments, _moments, _variance_mean, (0.0, 0.0, 0.0), (None,) * 3)
STD_MEAN = Reduction(_map_moments, _moments, _deviation_mean, (0.0, 0.0, 0.0), (None,) * 3)
HASH = Reduction(_map_bits, _xor, _state1, (0,), (_INT64,))
LOGSUMEXP = Reduction(_map_exp, _logaddexp, _log_sum, (float("-inf"), 0.0), (None,) * 2)

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


def blocks(M: int, N: int, inner: bool, tile: int) -> tuple[int, int]:
    """(BLOCK_M, BLOCK_N): long in the direction in which memory is contiguous."""
    if inner:
        block_n = min(next_power_of_2(N), tile)
        return min(next_power_of_2(M), max(tile // block_n, 1), 256), block_n
    block_m = min(next_power_of_2(M), 128)
    return block_m, min(next_power_of_2(N), max(tile // block_m, 1))


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
    block_m, block_n = blocks(M, N, inner, TILE // (1 if len(init) == 1 and len(inputs) == 1 else 2))
    programs = cdiv(M, block_m)
    splits = 1
    native = hardware(inputs[0].device).family == "native"
    most, least = (FEW_PROGRAMS, 64 * TILE) if native else (PROGRAMS, 4 * block_n)
    if programs < most and N > least:
        splits = min(cdiv(N, least), cdiv(2 * most, programs))
    chunk = cdiv(cdiv(N, splits), block_n) * block_n
    splits = max(cdiv(N, chunk), 1) if chunk else 1
    number = np.float64(arg) if types[0] == _FLOAT64 else float(arg)
    warps = 8 if block_m * block_n >= 4096 else 4
    partial = outs if splits == 1 else [empty((M, splits), t, outs[0].device) for t in types]
    launch(
        reduce_kernel, (programs, splits), tuple(partial), tuple(inputs), M, N, chunk, N, number,
        kept_shape, tuple(kept), reduced_shape, tuple(reduced),
        map_fn=reduction.map, combine=reduction.combine, join=lanes(reduction.combine),
        finish=reduction.finish if splits == 1 else _STATE[len(init) - 1],
        INIT=init, TYPES=types, COMPUTE=compute, KEPT=len(kept_shape), REDUCED=len(reduced_shape), WIDE=wide,
        BLOCK_M=block_m, BLOCK_N=block_n, num_warps=warps,
    )  # fmt: skip
    if splits == 1:
        return
    block_m, block_n = blocks(M, splits, True, TILE // 2)
    k = len(init)
    launch(
        reduce_kernel, (cdiv(M, block_m), 1), tuple(outs), tuple(partial), M, splits, splits, N, number,
        (M,), ((splits,),) * k, (splits,), ((1,),) * k,
        map_fn=_MAP_STATE[k - 1], combine=reduction.combine, join=lanes(reduction.combine), finish=reduction.finish,
        INIT=init, TYPES=types, COMPUTE=types, KEPT=1, REDUCED=1, WIDE=wide,
        BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
