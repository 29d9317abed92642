"""Random orders and draws without and with replacement, from the same stream as on the CPU.

The keys of ``randperm`` are the CPU's bit for bit, and so is the order. Weights are taken in float64: a draw differs
from the CPU's only where two sums or logarithms differ in their last bit and decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import pointwise, sorting
from tensorlib.kernels.indexing import CHECKED, contiguous
from tensorlib.kernels.random import _signed, _uniform64, _words
from tensorlib.kernels.scan import CUMSUM, scan
from tensorlib.kernels.searching import search
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

BLOCK = 1024
_INT64, _UINT64, _FLOAT64 = np.dtype(np.int64), np.dtype(np.uint64), np.dtype(np.float64)


# One program writes BLOCK random 64-bit numbers, the low word first.
@jit(do_not_specialize=("seed", "offset"))
def words_kernel(out, n, seed, offset, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    a, b, c, d = _words(seed, offset, start // 2 + tl.arange(0, BLOCK // 2))
    x = tl.interleave(a.to(tl.uint64) | b.to(tl.uint64) << 32, c.to(tl.uint64) | d.to(tl.uint64) << 32)
    i = start + tl.arange(0, BLOCK)
    tl.store(out + i, x, mask=i < n)


def randperm(out: DeviceArray, n: int, dtype: Any, device: Any, seed: Any, offset: Any) -> None:
    """out = the order of n random 64-bit numbers."""
    if not n:
        return
    keys, ordered = empty((n,), _UINT64, out.device), empty((n,), _UINT64, out.device)
    launch(words_kernel, (cdiv(n, BLOCK),), keys, n, _signed(seed), _signed(offset), BLOCK=BLOCK)
    order = out if out.dtype == _INT64 else empty((n,), _INT64, out.device)
    sorting.sort(ordered, order, keys, 0, False)
    if order is not out:
        pointwise.copy(out, order)


# One program owns BLOCK weights: keys = weight / exponential noise, of which the largest are a draw without
# replacement. Reads each weight once, writes 8 bytes. Efraimidis and Spirakis 2006.
@jit(do_not_specialize=("seed", "offset"))
def exponential_keys_kernel(keys, p, n, seed, offset, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    a, b, c, d = _words(seed, offset, start // 2 + tl.arange(0, BLOCK // 2))
    u = tl.interleave(_uniform64(a, b), _uniform64(c, d))
    i = start + tl.arange(0, BLOCK)
    v = tl.load(p + i, mask=i < n, other=0.0).to(tl.float64)
    tl.device_assert((v >= 0) & (v < float("inf")), "probability tensor contains either `inf`, `nan` or element < 0")
    noise = -libdevice.log1p(-u)
    tl.store(keys + i, v / tl.maximum(noise, 2.2250738585072014e-308), mask=i < n)


# One program checks the first keys of BLOCK rows: all weights of a row are 0 where its largest key is.
@jit
def drawn_kernel(keys, M, K, BLOCK: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(keys + m * K, mask=m < M, other=1.0)
    tl.device_assert(first > 0, "invalid multinomial distribution (sum of probabilities <= 0)")


# One program makes BLOCK draws with replacement, S of each row of N weights: the place of u times the row's sum among
# its running sums. Reads log2(N) sums a draw, writes the index.
@jit(do_not_specialize=("seed", "offset"))
def inverse_kernel(out, sums, n, S, N, steps, seed, offset, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    a, b, c, d = _words(seed, offset, start // 2 + tl.arange(0, BLOCK // 2))
    u = tl.interleave(_uniform64(a, b), _uniform64(c, d))
    i = start + tl.arange(0, BLOCK)
    mask = i < n
    row = sums + i // S * N
    whole = tl.load(row + (N - 1), mask=mask, other=1.0)
    valid = (whole > 0) & (whole < float("inf"))
    tl.device_assert(valid, "invalid multinomial distribution (sum of probabilities <= 0)")
    place = search(row, None, N, u * whole, mask, steps, "right")
    last = search(row, None, N, whole, mask, steps, "left")  # rounding must not reach a weight of 0 at the end
    tl.store(out + i, tl.minimum(place, last), mask=mask)


# One program checks BLOCK weights.
@jit
def weights_kernel(p, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(p + i, mask=i < n, other=0.0).to(tl.float64)
    tl.device_assert((v >= 0) & (v < float("inf")), "probability tensor contains either `inf`, `nan` or element < 0")


def multinomial(
    out: DeviceArray, input: DeviceArray, num_samples: int, replacement: bool, seed: Any, offset: Any
) -> None:
    """out = indices drawn with chances proportional to each row of input; what is no weight traps on a GPU."""
    if not out.size or not input.size:
        return
    p = contiguous(input)
    N = p.shape[-1]
    M = p.size // N
    stream = (_signed(seed), _signed(offset))
    if replacement:
        launch(weights_kernel, (cdiv(p.size, BLOCK),), p, p.size, BLOCK=BLOCK, options=CHECKED)
        sums = empty(p.shape, _FLOAT64, p.device)
        scan([sums], [p], p.ndim - 1, CUMSUM, [_FLOAT64])
        launch(
            inverse_kernel, (cdiv(out.size, 256),), out, sums, out.size, num_samples, N, N.bit_length(), *stream,
            BLOCK=256, options=CHECKED,
        )  # fmt: skip
        return
    keys, best = empty(p.shape, _FLOAT64, p.device), empty(out.shape, _FLOAT64, p.device)
    launch(exponential_keys_kernel, (cdiv(p.size, BLOCK),), keys, p, p.size, *stream, BLOCK=BLOCK, options=CHECKED)
    sorting.topk(best, out, keys, num_samples, p.ndim - 1, True)
    launch(drawn_kernel, (cdiv(M, 128),), best, M, num_samples, BLOCK=128, options=CHECKED)
