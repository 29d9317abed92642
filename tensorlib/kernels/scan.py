"""One kernel for every running reduction along a dim: sums, products, extrema, linear recurrences; any layout and dtype.

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
    _map_exp,
    _map_indexed,
    _map_state1,
    _map_state2,
    _mul,
    compute_dtype,
    strided,
)
from tensorlib.runtime.compiler import Jit, jit
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
        mask = (m < M)[:, None] & (n < stop)[None, :]
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
        carry = ()
        for k in tl.static_range(len(INIT)):
            last = tl.where((lane == edge)[None, :], state[k], tl.zeros((BLOCK_M, BLOCK_N), TYPES[k]))
            carry = carry + (tl.sum(last, 1),)
        if not TOTALS:
            for k in tl.static_range(len(outs)):
                result = tl.cast(state[PICK[k]], outs[k].dtype.element_ty)
                tl.store(outs[k] + (to[:, None] + (n * out_stride)[None, :]), result, mask=mask)
    if TOTALS:
        for k in tl.static_range(len(INIT)):
            tl.store(states[k] + m.to(tl.int64) * parts + part, carry[k], mask=m < M)
