"""The random stream: Philox 4x32-10, counted, the same integers on every device.

A Generator is a seed and the number of draws made so far (its offset). Element ``i`` of a draw is word ``i % 4`` of
Philox at counter ``(i // 4, offset)`` under key ``seed``: any element can be computed anywhere, in any order, again.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib._core import Tensor, draw_marks, modes, wrap
from tensorlib._device import cpu, device, meta

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_FACTORS = np.array([[_M1], [_M0]], np.uint64)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_CHUNK = 1 << 14  # counters at a time: the eight uint64 work arrays stay in a 2 MB cache


class Generator:
    """A random stream. ``manual_seed`` restarts it; ``get_state`` and ``set_state`` carry it into checkpoints."""

    def __init__(self, device: Any = cpu) -> None:
        self._device = device_of(device)
        self._lock = threading.Lock()
        self._seed = 67280421310721  # PyTorch's default, so that an unseeded run is a stated one too
        self._offset = 0

    @property
    def device(self) -> device:
        """The device it draws for: the stream itself is the same on all."""
        return self._device

    def manual_seed(self, seed: int) -> Generator:
        """Restart the stream at ``seed``; negative seeds count from 2**64."""
        seed = int(seed)
        if not -(1 << 63) <= seed < 1 << 64:
            raise RuntimeError(f"manual_seed: expected a seed in -2**63 .. 2**64 - 1, got {seed}: Overflow")
        with self._lock:
            self._seed, self._offset = seed % (1 << 64), 0
        return self

    def seed(self) -> int:
        """Restart the stream at a seed taken from the operating system, and return it."""
        value = int.from_bytes(os.urandom(8), "little") >> 11
        self.manual_seed(value)
        return value

    def initial_seed(self) -> int:
        """The seed of the stream."""
        return self._seed

    def get_state(self) -> Tensor:
        """Seed and offset as 16 bytes in a uint8 tensor."""
        with self._lock:
            return wrap(np.array([self._seed, self._offset], "<u8").view(np.uint8))

    def clone_state(self) -> Generator:
        """Another generator at the same place of the same stream."""
        made = Generator(self._device)
        with self._lock:
            made._seed, made._offset = self._seed, self._offset
        return made

    def set_state(self, new_state: Tensor) -> None:
        """Continue where ``get_state`` was taken."""
        raw = np.ascontiguousarray(new_state._array)
        if raw.dtype != np.uint8 or raw.shape != (16,):
            raise RuntimeError(f"set_state: expected a uint8 tensor of 16 bytes, got {raw.dtype} of shape {raw.shape}")
        seed, offset = raw.view("<u8")
        with self._lock:
            self._seed, self._offset = int(seed), int(offset)

    def draw(self) -> tuple[int, int]:
        """(seed, offset) of the next draw."""
        with self._lock:
            offset = self._offset
            self._offset = offset + 1
            return self._seed, offset

    def _take(self, count: int) -> tuple[int, int]:
        """(seed, offset) of the first of ``count`` draws, which a graph's replay makes at once."""
        with self._lock:
            offset = self._offset
            self._offset = offset + count
            return self._seed, offset

    def _give_back(self, seed: int, offset: int) -> int:
        """Stand at ``offset`` again, before draws that were recorded and not made; how many. 0 if seeded since."""
        with self._lock:
            if self._seed != seed:
                return 0
            count = self._offset - offset
            self._offset = offset
            return count


def device_of(value: Any) -> device:
    """A device given as a device or a name."""
    return value if isinstance(value, device) else device(value)


default_generator = Generator()


def draw(
    generator: Generator | None, operands: Sequence[Any] = (), attrs: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """(seed, offset) of the next draw from a generator, the default one for None.

    They are numbers; for an operator on the GPU whose work is being captured in a graph (operands and attrs say where
    it runs) one-element arrays there, which every replay of the graph fills with what it then draws.
    """
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"argument 'generator' must be tensorlib.Generator, not {type(generator).__name__}")
    chosen = default_generator if generator is None else generator
    if _on_meta(operands, attrs or {}):  # no number is drawn
        return 0, 0
    seed, offset = chosen.draw()
    for mark in draw_marks:
        offset = mark(offset)
    if modes.capture is not None and modes.capture.records(operands, attrs or {}):
        return modes.capture.draw(chosen, seed, offset)  # type: ignore[no-any-return]
    return seed, offset


def _on_meta(operands: Sequence[Any], attrs: dict[str, Any]) -> bool:
    for x in operands:
        array = getattr(x, "_array", None)
        if array is not None:
            return getattr(array, "device", None) is meta
    return (attrs.get("device") or modes.device) is meta


def manual_seed(seed: int) -> Generator:
    """Restart the default stream of every device at ``seed``."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Restart the default stream at a seed from the operating system, and return it."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default stream."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default stream's state as a uint8 tensor."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Continue the default stream where ``get_rng_state`` was taken."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, **_: Any) -> Iterator[None]:
    """A block after which the default stream, one for every device, is where it was before."""
    before = get_rng_state() if enabled else None
    try:
        yield
    finally:
        if before is not None:
            set_rng_state(before)


# ------------------------------------------------------------------------------------------------ the numbers, NumPy


def words(n: int, seed: int, offset: int) -> np.ndarray:
    """The first ``n`` uint32 words of draw ``offset`` under key ``seed``."""
    counters = -(-n // 4)
    if counters <= 6:
        return _few(counters, offset, seed)[:n]
    out = np.empty((counters, 4), np.uint32)
    for start in range(0, counters, _CHUNK):
        stop = min(start + _CHUNK, counters)
        _philox(np.arange(start, stop, dtype=np.uint64), offset, seed, out[start:stop])
    return out.reshape(-1)[:n]


def some_words(n: int, seed: int, offset: int) -> np.ndarray:
    """``words``, of few with those of the draws to come."""
    return _small(_words_of, n, seed, offset) if 0 < n <= _SMALL else words(n, seed, offset)


def _philox(index: np.ndarray, offset: Any, seed: int, out: np.ndarray) -> None:
    """Ten rounds at counters (index low, index high, offset low, offset high): words 0, 2 in one array, 1, 3 in one."""
    even, odd, product = np.empty((3, 2, len(index)), np.uint64)
    even[0], even[1] = index & _LOW, offset & 0xFFFFFFFF
    odd[0], odd[1] = index >> _32, offset >> 32
    for key in _keys(seed):
        # words 0, 2 <- high(p1) ^ word 1 ^ k0, high(p0) ^ word 3 ^ k1 ; words 1, 3 <- low(p1), low(p0)
        np.multiply(even[::-1], _FACTORS, out=product)
        np.right_shift(product, _32, out=even)
        odd ^= key
        even ^= odd
        np.bitwise_and(product, _LOW, out=odd)
    out[:, 0::2], out[:, 1::2] = even.T, odd.T


@lru_cache(16)
def _keys(seed: int) -> list[np.ndarray]:
    """The keys of the ten rounds."""
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    return [
        np.array([[(k0 + i * _W0) & 0xFFFFFFFF], [(k1 + i * _W1) & 0xFFFFFFFF]], np.uint64) for i in range(10)
    ]


def _few(counters: int, offset: int, seed: int) -> np.ndarray:
    """The same for the first few counters, one by one: less than NumPy's calls take."""
    out = []
    for i in range(counters):
        c0, c1, c2, c3 = i, 0, offset & 0xFFFFFFFF, offset >> 32
        k0, k1 = seed & 0xFFFFFFFF, seed >> 32
        for _ in range(10):
            p0, p1 = c0 * _M0, c2 * _M1
            c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c3 ^ k1, p0 & 0xFFFFFFFF
            k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
        out += [c0, c1, c2, c3]
    return np.array(out, np.uint32)


#: Words of a draw up to which the next draws of its like are computed with it, and words in all: a few hundred NumPy
#: calls' worth of overhead is shared by many draws then. Every draw is a function of its place in the stream alone.
_SMALL, _TOGETHER = 1 << 10, 1 << 13
_KEPT = 32  # kinds of small draws that are remembered
_ahead: dict[Any, tuple[int, int, np.ndarray | None]] = {}


def _small(make: Callable[..., np.ndarray], n: int, seed: int, offset: int, *more: Any) -> np.ndarray:
    """``make(n, seed, [offset], *more)[0]``, from what was computed ahead where draws of this kind keep their distance.

    The first draw of a kind is computed alone; the second tells the distance, and so the places of the next ones.
    """
    key = make, n, seed, more
    found = _ahead.get(key)
    if found is not None:
        start, step, rows = found
        past = offset - start
        if rows is not None and past >= 0:
            i, rest = divmod(past, step)
            if not rest and i < len(rows):
                row: np.ndarray = rows[i].copy()
                return row
        step = past - (len(rows) - 1) * step if rows is not None else past
        if 0 < step <= 1 << 16:
            rows = make(n, seed, range(offset, offset + step * max(2, min(64, _TOGETHER // n)), step), *more)
            _ahead[key] = offset, step, rows
            row = rows[0].copy()
            return row
    elif len(_ahead) >= _KEPT:
        _ahead.clear()
    _ahead[key] = offset, 1, None
    row = make(n, seed, (offset,), *more)[0]
    return row


def _words_of(n: int, seed: int, offsets: Sequence[int]) -> np.ndarray:
    """(draws, n): ``words`` of several draws."""
    if len(offsets) == 1:
        return words(n, seed, offsets[0])[None]
    counters = -(-n // 4)
    out = np.empty((len(offsets) * counters, 4), np.uint32)
    index = np.tile(np.arange(counters, dtype=np.uint64), len(offsets))
    _philox(index, np.repeat(np.array(offsets, np.uint64), counters), seed, out)
    return out.reshape(len(offsets), -1)[:, :n]


#: Bits of a uniform number that its dtype holds exactly: fewer, so that rounding never gives 1.
_MANTISSA = {"float16": 11, "bfloat16": 8}


def uniform01(shape: tuple[int, ...], dtype: np.dtype[Any], seed: int, offset: int) -> np.ndarray:
    """Uniform numbers in [0, 1): float32 from one word as ``tl.rand`` makes them, float64 from 53 bits of two."""
    n = math.prod(shape)
    if 0 < n <= _SMALL:
        return _small(_uniform, n, seed, offset, dtype).reshape(shape)
    return _uniform(n, seed, (offset,), dtype).reshape(shape)


def _uniform(n: int, seed: int, offsets: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """(draws, n): ``uniform01`` of several draws."""
    if dtype == np.float64:
        pairs = _words_of(2 * n, seed, offsets)
        high, low = (pairs[:, 0::2] >> 5).astype(np.float64), (pairs[:, 1::2] >> 6).astype(np.float64)
        exact: np.ndarray = (high * 67108864.0 + low) / 9007199254740992.0
        return exact
    signed = _words_of(n, seed, offsets).view(np.int32)
    out = np.where(signed < 0, ~signed, signed).astype(np.float32)
    out *= np.float32(4.6566127342e-10)
    bits = _MANTISSA.get(dtype.name) if dtype.itemsize < 4 else None
    if bits is not None:
        out = np.floor(out * np.float32(1 << bits)) * np.float32(2.0**-bits)
    return out.astype(dtype, copy=False)


def normal01(shape: tuple[int, ...], dtype: np.dtype[Any], seed: int, offset: int) -> np.ndarray:
    """Standard normal numbers: Box-Muller on pairs of uniforms, in float32 (float64 for float64)."""
    n = math.prod(shape)
    if 0 < n <= _SMALL:
        return _small(_normal, n, seed, offset, dtype).reshape(shape)
    return _normal(n, seed, (offset,), dtype).reshape(shape)


def _normal(n: int, seed: int, offsets: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """(draws, n): ``normal01`` of several draws."""
    work = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    u = _uniform(n + n % 2, seed, offsets, work).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log(np.maximum(u[:, 0], work.type(1e-7))))
    angle = u[:, 1] * work.type(6.283185307179586)
    out = np.empty_like(u)
    np.multiply(radius, np.cos(angle), out=out[:, 0])
    np.multiply(radius, np.sin(angle), out=out[:, 1])
    return out.reshape(len(offsets), -1)[:, :n].astype(dtype, copy=False)


def integers(shape: tuple[int, ...], low: int, high: int, dtype: np.dtype[Any], seed: int, offset: int) -> np.ndarray:
    """Integers in [low, high): a word modulo the range; two words where the range passes 32 bits."""
    n = math.prod(shape)
    span = high - low
    if span <= 1 << 32:
        drawn = some_words(n, seed, offset).astype(np.uint64)
    else:
        pairs = words(2 * n, seed, offset).reshape(-1, 2).astype(np.uint64)
        drawn = pairs[:, 0] << _32 | pairs[:, 1]
    if span < 1 << 64:
        drawn %= np.uint64(span)
    return (drawn.view(np.int64) + np.int64(low)).astype(dtype).reshape(shape)
