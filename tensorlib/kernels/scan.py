"""One kernel for every running reduction along a dim: sums, products, linear recurrences; any layout and dtype.

States, maps and combines are those of kernels/reduction.py; here the order of the elements counts, so ``combine`` need
only be associative. float16 and bfloat16 are computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import create, pointwise
from tensorlib.kernels.reduction import (
    _add,
    _fill,
    _initial,
    _map,
    _map_indexed,
    _map_state1,
    _map_state2,
    _mul,
    compute_dtype,
    strided,
)
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.hardware import vector_warps
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_FLOAT32, _INT64 = np.dtype(np.float32), np.dtype(np.int64)
PROGRAMS = 256  # with fewer, long rows are split


# One program owns BLOCK_M rows and, of each, the elements chunk * program_id(1) …; it scans them BLOCK_N at a time and
# carries the state from tile to tile. Reads every input once and writes every output once. TOTALS: writes only the
# state after its chunk; CARRIES: starts from the state after the chunk before it. Blelloch 1990.
@jit
def scan_kernel(
    outs, inputs, states, M, N, chunk, kept_shape, in_kept, in_strides, out_kept, out_stride,
    map_fn: tl.constexpr, combine: tl.constexpr, along: tl.constexpr, PICK: tl.constexpr,
    INIT: tl.constexpr, TYPES: tl.constexpr, COMPUTE: tl.constexpr, KEPT: tl.constexpr,
    REVERSE: tl.constexpr, TOTALS: tl.constexpr, CARRIES: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    if WIDE:
        m = m.to(tl.int64)
        part = part.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    start = part * chunk
    stop = tl.minimum(start + chunk, N)
    rows = ()
    for k in tl.static_range(len(inputs)):
        rows = rows + (strided(m, kept_shape, in_kept[k], KEPT),)
    to = strided(m, kept_shape, out_kept, KEPT)
    carry = _fill((BLOCK_M,), INIT, TYPES)
    if CARRIES:
        before = part - 1
        if REVERSE:
            before = part + 1
        have = (m < M) & (before >= 0) & (before < parts)
        loaded = ()
        for k in tl.static_range(len(INIT)):
            held = tl.load(states[k] + m.to(tl.int64) * parts + before, mask=have)
            loaded = loaded + (tl.where(have, held, carry[k]),)
        carry = loaded
    lane = tl.arange(0, BLOCK_N)
    tiles = tl.cdiv(stop - start, BLOCK_N)
    for t in range(0, tiles):
        at = start + t * BLOCK_N
        if REVERSE:
            at = start + (tiles - 1 - t) * BLOCK_N
        n = at + lane
        mask = (m < M)[:, None] & (n < N)[None, :]  # chunks are of whole tiles
        values = ()
        for k in tl.static_range(len(inputs)):
            v = tl.load(inputs[k] + (rows[k][:, None] + (n * in_strides[k])[None, :]), mask=mask)
            values = values + (v.to(COMPUTE[k]),)
        new = map_fn(*values, n[None, :], 0)
        taken = ()
        for k in tl.static_range(len(INIT)):
            taken = taken + (tl.where(mask, tl.cast(new[k], TYPES[k]), tl.full((1, 1), INIT[k], TYPES[k])),)
        first = ()
        for k in tl.static_range(len(INIT)):
            first = first + (carry[k][:, None] + tl.zeros((BLOCK_M, BLOCK_N), TYPES[k]),)
        state = combine(*first, *along(taken))
        edge = BLOCK_N - 1
        if REVERSE:
            edge = 0
        after = ()
        for k in tl.static_range(len(INIT)):
            last = tl.where((lane == edge)[None, :], state[k], tl.zeros((BLOCK_M, BLOCK_N), TYPES[k]))
            after = after + (tl.sum(last, 1),)
        carry = after
        if not TOTALS:
            for k in tl.static_range(len(outs)):
                result = tl.cast(state[PICK[k]], outs[k].dtype.element_ty)
                tl.store(outs[k] + (to[:, None] + (n * out_stride)[None, :]), result, mask=mask)
    if TOTALS:
        for k in tl.static_range(len(INIT)):
            tl.store(states[k] + m.to(tl.int64) * parts + part, carry[k], mask=m < M)


# s -> a s + b, one after the other.
@jit
def _compose(a, b, a2, b2):
    return a * a2, a2 * b + b2


# The larger, with the index of the last of equal ones; every NaN is larger than what came before, as in PyTorch.
@jit
def _last_max(a, i, b, j):
    right = (b != b) | ((a == a) & (b >= a))
    return tl.where(right, b, a), tl.where(right, j, i)


@jit
def _last_min(a, i, b, j):
    right = (b != b) | ((a == a) & (b <= a))
    return tl.where(right, b, a), tl.where(right, j, i)


# log(exp(a) + exp(b)).
@jit
def _log_add(a, b):
    left = (a > b) | (a != a)
    large, small = tl.where(left, a, b), tl.where(left, b, a)
    total = large + tl.log(1.0 + tl.exp(small - large))
    return (tl.where((large == float("inf")) | (large == float("-inf")), large, total),)


@cache
def _along(combine: Jit, reverse: bool) -> Jit:
    """The function that scans a tile's states along the last dim: tl.associative_scan takes no constexpr function."""
    if reverse:

        @jit
        def backward(state):
            return tl.associative_scan(state, 1, combine, reverse=True)

        return backward

    @jit
    def forward(state):
        return tl.associative_scan(state, 1, combine)

    return forward


class Scan(NamedTuple):
    """A running reduction: as kernels.reduction.Reduction; ``pick`` says which numbers of the state are the results."""

    map: Jit
    combine: Jit
    init: tuple[Any, ...]
    types: tuple[Any, ...]
    pick: tuple[int, ...]


CUMSUM = Scan(_map, _add, (0,), (None,), (0,))
CUMPROD = Scan(_map, _mul, (1,), (None,), (0,))
LINEAR = Scan(_map_state2, _compose, (1.0, 0.0), (None, None), (1,))
CUMMAX = Scan(_map_indexed, _last_max, ("lowest", 0), (None, _INT64), (0, 1))
CUMMIN = Scan(_map_indexed, _last_min, ("highest", 0), (None, _INT64), (0, 1))
LOGCUMSUMEXP = Scan(_map, _log_add, ("lowest",), (None,), (0,))
_MAP_STATE = (_map_state1, _map_state2)


def scan(
    outs: Sequence[DeviceArray],
    inputs: Sequence[DeviceArray],
    dim: int,
    what: Scan,
    compute: Any = None,
    reverse: bool = False,
) -> None:
    """outs = the running reduction of the inputs (all of one shape) along dim; from the end with ``reverse``."""
    shape = inputs[0].shape
    N = shape[dim]
    if not inputs[0].size:
        return
    outer = [d for d in range(len(shape)) if d != dim]
    M = outs[0].size // N
    work = tuple(compute) if compute is not None else tuple(compute_dtype(x.dtype) for x in inputs)
    types = tuple(work[0] if t is None else t for t in what.types)
    init = tuple(_initial(v, t) for v, t in zip(what.init, types, strict=True))
    everything = [*inputs, *outs]
    outer_strides = [tuple(a.strides[d] for d in outer) for a in everything]
    kept_shape, strides = pointwise.collapse([shape[d] for d in outer], outer_strides)
    kept, out_kept = strides[: len(inputs)], strides[len(inputs)]
    if M == 1:  # a stride of 0, whose multiples the compiler knows to be aligned; of 1 it does not
        kept_shape, kept, out_kept = (1,), [(0,)] * len(inputs), (0,)
    steps = tuple(x.strides[dim] for x in inputs)
    span = max(sum(abs(s) * (n - 1) for s, n in zip(a.strides, shape, strict=True)) for a in everything)
    if abs(steps[0]) <= abs(kept[0][-1]) or M == 1:
        block_n = min(next_power_of_2(N), 2048)
        block_m = min(next_power_of_2(M), max(2048 // block_n, 1), 128)
    else:
        block_m = min(next_power_of_2(M), 64)
        block_n = min(next_power_of_2(N), 32)
    programs = cdiv(M, block_m)
    parts = 1
    if programs < PROGRAMS and N > 8 * block_n:
        parts = min(cdiv(N, 4 * block_n), cdiv(2 * PROGRAMS, programs))
    chunk = cdiv(cdiv(N, parts), block_n) * block_n
    parts = cdiv(N, chunk)
    wide = max(span, M * parts, N + chunk) >= 1 << 30
    states: tuple[DeviceArray, ...] = ()
    common = dict(
        combine=what.combine, along=_along(what.combine, reverse), INIT=init, TYPES=types, REVERSE=reverse, WIDE=wide,
    )  # fmt: skip
    whole = dict(map_fn=what.map, PICK=what.pick, COMPUTE=work, KEPT=len(kept_shape), BLOCK_M=block_m, BLOCK_N=block_n)
    if parts > 1:
        totals = tuple(empty((M, parts), t, outs[0].device) for t in types)
        launch(
            scan_kernel, (programs, parts), tuple(outs), tuple(inputs), totals, M, N, chunk,
            kept_shape, tuple(kept), steps, out_kept, outs[0].strides[dim],
            TOTALS=True, CARRIES=False, **whole, **common,
        )  # fmt: skip
        states = tuple(empty((M, parts), t, outs[0].device) for t in types)
        k = len(types)
        row = min(next_power_of_2(parts), 1024)
        launch(
            scan_kernel, (M, 1), states, totals, (), M, parts, parts, (M,), ((parts,),) * k, (1,) * k, (parts,), 1,
            map_fn=_MAP_STATE[k - 1], PICK=tuple(range(k)), COMPUTE=types, KEPT=1, TOTALS=False, CARRIES=False,
            BLOCK_M=1, BLOCK_N=row, num_warps=vector_warps(outs[0].device, row, types[0].itemsize), **common,
        )  # fmt: skip
    launch(
        scan_kernel, (programs, parts), tuple(outs), tuple(inputs), states, M, N, chunk,
        kept_shape, tuple(kept), steps, out_kept, outs[0].strides[dim],
        TOTALS=False, CARRIES=parts > 1, **whole, **common,
    )  # fmt: skip


def shift(out: DeviceArray, x: DeviceArray, dim: int, by: int, fill: float) -> None:
    """out[k] = x[k + by] along dim, fill where there is none."""
    create.full(out, None, fill, None, None)
    n = x.shape[dim]
    if abs(by) < n:
        front = (slice(None),) * dim
        to, from_ = slice(max(-by, 0), n - max(by, 0)), slice(max(by, 0), n - max(-by, 0))
        pointwise.copy(out[(*front, to)], x[(*front, from_)])
