"""Random numbers and dropout: Philox 4x32-10 at counters (index, offset) under the seed as key.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Word w of counter c is element 4 c + w of the stream
(tensorlib.random), so that any element can be made anywhere, and again in backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, is_contiguous
from tensorlib.kernels import pointwise
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch
from tensorlib.runtime.recording import MarkedInt

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
_FLOAT64 = np.dtype(np.float64)
_HALF_BITS = {"float16": 11, "bfloat16": 8}  # bits of a uniform number that its dtype holds exactly


@jit
def drawn(x):
    """A seed or an offset, which is a number, or an int64 in memory: then a graph's replays read what is there."""
    if x.dtype.is_ptr():
        value = tl.load(x)
    else:
        value = tl.cast(x, tl.int64)
    return value


@jit
def _words(seed, offset, counter):
    """The four uint32 words of Philox at (counter, offset)."""
    c = tl.cast(counter, tl.uint64)
    zero = c * 0
    o = zero + tl.cast(drawn(offset), tl.uint64, bitcast=True)
    return tl.philox(
        tl.cast(drawn(seed), tl.uint64, bitcast=True),
        (c & 0xFFFFFFFF).to(tl.uint32), (c >> 32).to(tl.uint32),
        (o & 0xFFFFFFFF).to(tl.uint32), (o >> 32).to(tl.uint32),
    )  # fmt: skip


@jit
def _in_order(a, b, c, d):
    """a0 b0 c0 d0 a1 b1 …"""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@jit
def _uniform32(word):
    """[0, 1) from a uint32, as tl.rand makes it."""
    x = word.to(tl.int32, bitcast=True)
    x = tl.where(x < 0, -x - 1, x)
    return x.to(tl.float32) * 4.6566127342e-10


@jit
def _uniform64(high, low):
    """[0, 1) from 53 bits of two uint32."""
    return ((high >> 5).to(tl.float64) * 67108864.0 + (low >> 6).to(tl.float64)) / 9007199254740992.0


@jit
def _turn(v):
    """(cos, sin) of v turns in float32, 0 <= v < 1, to rounding: within an eighth of a turn of a quarter by series.

    The general functions bring a reduction of large angles with them, ten times this code, and memory of its own.
    """
    quarter = tl.floor(v * 4.0 + 0.5)
    x = v * 4.0 - quarter
    z = x * x
    s = x * (1.5707963268 + z * (-0.6459640975 + z * (0.0796926262 + z * (-0.0046817541 + z * 0.00016044118))))
    c = 1.0 + z * (-1.2337005501 + z * (0.2536695079 + z * (-0.0208634807 + z * (0.00091926027 - z * 2.5202042e-5))))
    k = quarter.to(tl.int32) & 3
    across, along = tl.where(k % 2 == 1, s, c), tl.where(k % 2 == 1, c, s)
    return tl.where((k == 1) | (k == 2), -across, across), tl.where(k >= 2, -along, along)


@jit
def _normal_pair(u, v):
    """Two normal numbers from two uniform ones. Box and Muller 1958."""
    radius = tl.sqrt(-2.0 * tl.log(tl.maximum(u, 1e-7)))
    if v.dtype == tl.float64:
        c, s = tl.cos(v * 6.283185307179586), tl.sin(v * 6.283185307179586)
    else:
        c, s = _turn(v)
    return radius * c, radius * s


# One program makes BLOCK consecutive elements from BLOCK / 4 counters (BLOCK / 2 for float64) and writes them once:
# low + u * span, u uniform in [0, 1), or normal numbers * span + low. BITS: how many bits of u are kept, 0 all.
@jit(do_not_specialize=("seed", "offset"))
def uniform_kernel(
    out, n, low, span, seed, offset, NORMAL: tl.constexpr, DOUBLE: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if DOUBLE:
        a, b, c, d = _words(seed, offset, start // 2 + tl.arange(0, BLOCK // 2))
        u, v = _uniform64(a, b), _uniform64(c, d)
        if NORMAL:
            u, v = _normal_pair(u, v)
        x = tl.interleave(u, v)
    else:
        a, b, c, d = _words(seed, offset, start // 4 + tl.arange(0, BLOCK // 4))
        t, u, v, w = _uniform32(a), _uniform32(b), _uniform32(c), _uniform32(d)
        if NORMAL:
            t, u = _normal_pair(t, u)
            v, w = _normal_pair(v, w)
        x = _in_order(t, u, v, w)
        if BITS > 0:
            x = tl.floor(x * (1 << BITS)) * (1.0 / (1 << BITS))
    i = start + tl.arange(0, BLOCK)
    tl.store(out + i, (x * span + low).to(out.dtype.element_ty), mask=i < n)


def _signed(value: Any) -> Any:
    """An unsigned 64-bit number as the signed one with its bits; what lies in the device's memory as it is."""
    if type(value) is MarkedInt:  # one that is marked lies below 2**63: see _plans
        return value
    return value - (1 << 64) if isinstance(value, int) and value >= 1 << 63 else value


# One program writes 2 BLOCK numbers: row i of table (n, 2) becomes (seed, first + i). It runs before a graph's replay.
@jit(do_not_specialize=("seed", "first"))
def draws_kernel(table, n, seed, first, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    zero = (i * 0).to(tl.int64)
    tl.store(table + 2 * i, zero + tl.cast(seed, tl.int64), mask=i < n)
    tl.store(table + 2 * i + 1, zero + tl.cast(first, tl.int64) + i, mask=i < n)


def write_draws(table: DeviceArray, seed: int, first: int) -> None:
    """table[i] = (seed, first + i): what the draws that a graph recorded read at its next replay."""
    n = table.shape[0]
    launch(draws_kernel, (cdiv(n, 64),), table, n, _signed(seed), _signed(first % (1 << 64)), BLOCK=64)


def _fill(out: DeviceArray, low: float, span: float, seed: Any, offset: Any, normal: bool) -> None:
    double = out.dtype == _FLOAT64
    kind = np.float64 if double else float
    launch(
        uniform_kernel, (cdiv(out.size, BLOCK),), out, out.size, kind(low), kind(span), _signed(seed), _signed(offset),
        NORMAL=normal, DOUBLE=double, BITS=0 if normal else _HALF_BITS.get(out.dtype.name, 0), BLOCK=BLOCK,
    )  # fmt: skip


def uniform(
    out: DeviceArray, size: Any, low: float, high: float, dtype: Any, device: Any, seed: Any, offset: Any
) -> None:
    """out[i] = low + u[i] (high - low)."""
    _fill(out, low, high - low, seed, offset, False)


def normal(
    out: DeviceArray, size: Any, mean: float, std: float, dtype: Any, device: Any, seed: Any, offset: Any
) -> None:
    """out[i] = mean + std z[i]."""
    _fill(out, mean, std, seed, offset, True)


# One program makes BLOCK consecutive integers, low + word % span; two words an element where span passes 32 bits.
@jit(do_not_specialize=("seed", "offset", "low", "span"))
def randint_kernel(out, n, low, span, seed, offset, WIDE: tl.constexpr, WRAP: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if WIDE:
        a, b, c, d = _words(seed, offset, start // 2 + tl.arange(0, BLOCK // 2))
        x = tl.interleave(a.to(tl.uint64) << 32 | b.to(tl.uint64), c.to(tl.uint64) << 32 | d.to(tl.uint64))
    else:
        a, b, c, d = _words(seed, offset, start // 4 + tl.arange(0, BLOCK // 4))
        x = _in_order(a, b, c, d).to(tl.uint64)
    if WRAP:
        x = x % tl.cast(tl.cast(span, tl.int64), tl.uint64, bitcast=True)
    i = start + tl.arange(0, BLOCK)
    drawn = x.to(tl.int64, bitcast=True) + tl.cast(low, tl.int64)
    tl.store(out + i, drawn.to(out.dtype.element_ty), mask=i < n)


def randint(out: DeviceArray, size: Any, low: int, high: int, dtype: Any, device: Any, seed: Any, offset: Any) -> None:
    """out[i] = an integer in [low, high)."""
    span = high - low
    launch(
        randint_kernel, (cdiv(out.size, BLOCK),), out, out.size, low, _signed(span % (1 << 64)), _signed(seed),
        _signed(offset), WIDE=span > 1 << 32, WRAP=span < 1 << 64, BLOCK=BLOCK,
    )  # fmt: skip


# One program draws BLOCK consecutive elements: reads each probability once, writes 1 or 0.
@jit(do_not_specialize=("seed", "offset"))
def bernoulli_kernel(out, p, n, seed, offset, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    a, b, c, d = _words(seed, offset, start // 4 + tl.arange(0, BLOCK // 4))
    u = _in_order(_uniform32(a), _uniform32(b), _uniform32(c), _uniform32(d))
    i = start + tl.arange(0, BLOCK)
    chance = tl.load(p + i, mask=i < n)
    if chance.dtype != tl.float64:
        chance = chance.to(tl.float32)
    tl.store(out + i, (u < chance).to(out.dtype.element_ty), mask=i < n)


def _contiguous(x: DeviceArray) -> DeviceArray:
    if is_contiguous(x):
        return x
    copied = empty(x.shape, x.dtype, x.device)
    pointwise.copy(copied, x)
    return copied


def bernoulli(out: DeviceArray, input: DeviceArray, seed: Any, offset: Any) -> None:
    """out[i] = 1 with probability input[i]."""
    launch(
        bernoulli_kernel, (cdiv(out.size, BLOCK),), out, _contiguous(input), out.size, _signed(seed), _signed(offset),
        BLOCK=BLOCK,
    )  # fmt: skip


# One program owns BLOCK consecutive elements: reads x once, writes out once, 2 bytes of the stream an element; the mask
# is not stored. Element i is dropped when half i % 2 (low first) of word i // 2 lies under p 65536.
@jit(do_not_specialize=("seed", "offset", "threshold"))
def dropout_kernel(out, x, n, threshold, scale, seed, offset, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    a, b, c, d = _words(seed, offset, start // 8 + tl.arange(0, BLOCK // 8))
    word = _in_order(a, b, c, d)
    half = tl.interleave(word & 0xFFFF, word >> 16).to(tl.int32)
    i = start + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n)
    if v.dtype != tl.float64:
        v = v.to(tl.float32)
    v = tl.where(half >= tl.cast(threshold, tl.int32), v * scale, 0.0)
    tl.store(out + i, v.to(out.dtype.element_ty), mask=i < n)


def dropout(out: DeviceArray, input: DeviceArray, p: float, seed: Any, offset: Any) -> None:
    """out[i] = input[i] / (1 - p), or 0 with probability p."""
    scale = 1 / (1 - p) if p < 1 else 0.0
    block = 2 * BLOCK if hardware(out.device).warp_size == 64 else BLOCK  # eight elements a lane: those of a counter
    launch(
        dropout_kernel, (cdiv(out.size, block),), out, _contiguous(input), out.size, round(p * 65536),
        np.float64(scale) if out.dtype == _FLOAT64 else scale, _signed(seed), _signed(offset), BLOCK=block,
    )  # fmt: skip
