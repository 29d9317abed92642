"""Embeddings: rows of a table, and the deterministic sum of gradients into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels.indexing import contiguous, index_put_, rows, zero
from tensorlib.kernels.pointwise import copy
from tensorlib.kernels.prefix import offsets
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
_INT32 = np.dtype(np.int32)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def embedding(
    out: DeviceArray, input: DeviceArray, weight: DeviceArray, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    """out = weight[input]."""
    rows(out, contiguous(weight), contiguous(input), False)


# One program counts BLOCK indices into counts, atomically: sums of integers do not depend on the order.
@jit
def histogram_kernel(counts, index, n, size, skip, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.load(index + i, mask=i < n, other=-1).to(tl.int64)
    tl.atomic_add(counts + j, 1, mask=(j >= 0) & (j < size) & (j != skip), sem="relaxed")


# One program places BLOCK tokens: token t of row v goes behind all earlier tokens of that row (a stable counting sort).
# Compares each token with all before it: n² / 2 integer compares, which for 65,536 tokens is 2·10⁹.
@jit
def order_kernel(order, index, starts, n, size, skip, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(index + i, mask=i < n, other=-1).to(tl.int64)
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, pid + 1):
        j = start * BLOCK + tl.arange(0, BLOCK)
        w = tl.load(index + j, mask=j < n, other=-2).to(tl.int64)
        rank += tl.sum(((w[None, :] == v[:, None]) & (j[None, :] < i[:, None])).to(tl.int32), axis=1)
    counted = (v >= 0) & (v < size) & (v != skip)
    tl.store(order + tl.load(starts + v, mask=counted, other=0) + rank, i, mask=counted)


# The only program places all tokens, in their order: what a processor's core does in a few cycles a token, where a grid
# of compares grows with n². next[v] is where the next token of row v goes: a copy of starts, which it changes.
@jit
def serial_order_kernel(order, index, next, n, size, skip):
    for i in range(n):
        v = tl.load(index + i).to(tl.int64)
        if (v >= 0) & (v < size) & (v != skip):
            at = tl.load(next + v)
            tl.store(order + at, i)
            tl.store(next + v, at + 1)


# One program owns one row of out and BLOCK_N of its columns: the sum of its tokens' gradients in the order of the
# tokens, BLOCK_M at a time, in float32 (float64 for float64). Reads each gradient once, writes every row once.
@jit
def embedding_grad_kernel(
    out, g, order, starts, N, SCALE: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    tiles_n = tl.cdiv(N, BLOCK_N)  # the second dimension of a grid ends at 65535
    row = (tl.program_id(0) // tiles_n).to(tl.int64)
    rn = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(starts + row)
    last = tl.load(starts + row + 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for start in range(first, last, BLOCK_M):
        k = start + tl.arange(0, BLOCK_M)
        t = tl.load(order + k, mask=k < last, other=0).to(tl.int64)
        acc += tl.load(g + t[:, None] * N + rn[None, :], mask=(k < last)[:, None] & (rn < N)[None, :], other=0.0).to(
            ACC
        )
    total = tl.sum(acc, axis=0)
    if SCALE:
        total = total / tl.maximum(last - first, 1).to(ACC)
    tl.store(out + row * N + rn, tl.cast(total, out.dtype.element_ty), mask=rn < N)


#: With more tokens the compares of `order_kernel` cost more than they are worth, and the sums are atomic.
MOST_SORTED = 1 << 17


def embedding_grad(
    out: DeviceArray, g: DeviceArray, input: DeviceArray, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    """out[input] += g, deterministically up to MOST_SORTED tokens; rows of ``padding_idx`` stay 0."""
    index, g = contiguous(input), contiguous(g)
    n, width = index.size, out.shape[1]
    if not n or not out.size:
        zero(out)
        return
    native = hardware(out.device).family == "native"
    if n > MOST_SORTED and not scale_grad_by_freq and not native:
        zero(out)
        flat = DeviceArray(index.ptr, (n,), (1,), index.dtype, index.device, index.owner)
        tokens = DeviceArray(g.ptr, (n, width), (width, 1), g.dtype, g.device, g.owner)
        index_put_(out, tokens, [flat], (0,), True, False)
        if padding_idx >= 0:
            zero(out[padding_idx])
        return
    counts = empty((num_weights,), _INT32, out.device)
    zero(counts)
    launch(histogram_kernel, (cdiv(n, BLOCK),), counts, index, n, num_weights, padding_idx, BLOCK=BLOCK)
    starts = offsets(counts)
    order = empty((n,), _INT32, out.device)
    if native:
        places = empty(starts.shape, starts.dtype, out.device)
        copy(places, starts)
        launch(serial_order_kernel, (1,), order, index, places, n, num_weights, padding_idx)
    else:
        launch(order_kernel, (cdiv(n, 64),), order, index, starts, n, num_weights, padding_idx, BLOCK=64)
    block_n = min(max(next_power_of_2(width), 16), 256)
    launch(
        embedding_grad_kernel, (num_weights * cdiv(width, block_n),), out, g, order, starts, width,
        SCALE=scale_grad_by_freq, ACC=_FLOAT64 if out.dtype == _FLOAT64 else _FLOAT32, BLOCK_M=8, BLOCK_N=block_n,
    )  # fmt: skip
