"""Convolutions of NumPy's arrays in two dims by `direct`'s code, on the pool's threads.

What depends on sizes alone is made once: distances in the memory that a program lays out, where each vector of a line
of outputs goes, the job's sizes. A call adds addresses. Outputs are cut into bands of rows whose input stays in the
cache; each is a sum in the same order whatever the bands and threads. A weight's gradient is summed in slices of the
images that sizes alone decide, so that threads do not change its bits either.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorlib.runtime import cache, fingerprint
from tensorlib.runtime.native import codegen, direct, engine, linker, machine, pool, settings

#: Multiplications from which a job is shared.
_SHARED = 1 << 20
_CACHE = 384 << 10  # bytes that a program lays out where it can
_TURNS = 4  # programs a thread, since one may be slowed
_LINE = 8 << 10  # bytes of a line of a weight's gradient: some of them stay in the first cache
_SLICES = 16  # programs of a weight's gradient where its sizes allow
_SUMS = 8 << 20  # bytes of the sums of all slices at most
_MOST = 1 << 31  # bytes that a distance may be
_KINDS = {"f": "float", "d": "double"}  # NumPy's characters of the dtypes: LLVM's names


class _Code:
    """One dtype's code and how jobs are called."""

    def __init__(self, kind: str, text: Callable[[str], str], symbols: tuple[str, ...]) -> None:
        runtime, features = pool.runtime(), machine.features()
        module = text(_KINDS[kind])
        key = fingerprint.digest("\0".join((module, features.text, codegen.version())))
        stored = cache.load(key)
        if stored is None:
            image = codegen.compile(module, features)
            cache.store(key, {"kernel": "convolutions", "target": "native"}, image)
        else:
            image = stored[1]
        self.loaded = linker.load(image, *symbols)
        self.runtime = runtime


class _State:
    """Who compiles."""

    making = threading.Lock()


@functools.cache
def _made(kind: str, text: Callable[[str], str], symbols: tuple[str, ...]) -> _Code:
    return _Code(kind, text, symbols)


def _code(kind: str, text: Callable[[str], str], symbols: tuple[str, ...]) -> _Code:
    with _State.making:  # compiled by one thread; code that another one runs is not replaced
        return _made(kind, text, symbols)


def suits() -> bool:
    """Whether there is code for this processor."""
    return direct.suits(machine.features())


_SYMBOLS = ("convolve", "weight")


def run(
    kind: str, symbol: str, values: list[int], programs: int, scratch: int, shared: bool,
    text: Callable[[str], str] = direct.text, symbols: tuple[str, ...] = _SYMBOLS,
) -> None:  # fmt: skip
    """Fill a job and run it."""
    made = _code(kind, text, symbols)
    status = pool.ARGUMENTS + 8 * len(values)
    status += -status % 64
    memory: Any = np.zeros(status + pool.STATUS, np.uint8)
    place = engine.address(memory)
    pool.START.pack_into(
        memory, 0, made.loaded[symbol], scratch, place + status, 1, 0, programs, programs, 1, 1,
        pool.scratch.grow(scratch),
    )  # fmt: skip
    struct.pack_into(f"{len(values)}q", memory, pool.ARGUMENTS, *values)
    job = made.runtime.ffi.cast("void *", place)
    if shared and programs > 1:
        pool.run(job, programs)  # in as many parts as it takes: a long job comes back for signals to be seen
    else:
        made.runtime.inline(job)


# ------------------------------------------------------------------------------------------------------------- layouts


class Laid(NamedTuple):
    """Planes of a channel, as `direct.LAID` names them, for bands of so many rows of outputs."""

    values: tuple[int, ...]
    plane: int  # bytes
    image: int
    kept: Any


def layout(
    size: tuple[int, int], stride: tuple[int, int], before: tuple[int, int], rows: int, pitch: int,
    remainders: list[tuple[int, int]], channels: int, itemsize: int,
) -> Laid:  # fmt: skip
    """``before``: zeros above and left of the source; ``remainders``: of each plane."""
    lanes = direct.LINE // itemsize
    plane = len(remainders) * rows * pitch + 2 * lanes  # zeros after the last row
    plane = -(-plane // lanes) * lanes
    if not plane // lanes % 2:
        plane += lanes  # an even number of lines apart, some planes' places would meet in one set of the cache
    kept = np.array(remainders, np.int64)
    image = channels * plane * itemsize + 4 * direct.LINE
    values = (*size, *stride, *before, rows, pitch, len(remainders), engine.address(kept), plane * itemsize, image)
    return Laid(values, plane * itemsize, image, kept)


def row_length(columns: int, reach: int, source: int, before: int, lanes: int) -> int:
    """Elements from row to row of a plane: the zeros after a row may be those before the next one."""
    return max(columns, before + source, columns + reach - min(max(before, 0), lanes))


def store_table(rows: int, columns: int, pitch: int, lanes: int) -> np.ndarray:
    """For each vector of a line: where its first output goes, which lanes are outputs, and as many from the first."""
    q = np.arange(-(-((rows - 1) * pitch + columns) // lanes) * lanes)
    used = (q % pitch < columns) & (q // pitch < rows)
    places = (q // pitch * columns + q % pitch).reshape(-1, lanes)
    used = used.reshape(-1, lanes)
    counts = used.sum(1)
    table = np.zeros(len(places), [("place", "i4"), ("mask", "u2"), ("after", "u2")])
    table["place"] = np.where(counts > 0, places[np.arange(len(places)), used.argmax(1)], 0)
    table["mask"] = (used << np.arange(lanes)).sum(1)
    table["after"] = (1 << counts) - 1
    return table


def spread_table(
    rows: int, columns: int, pitch: int, lanes: int, first: tuple[int, int], step: tuple[int, int], width: int
) -> np.ndarray:
    """For each element of a line: where the output goes in a plane, outputs being ``step`` apart; -1: nowhere."""
    q = np.arange(max(-(-((rows - 1) * pitch + columns) // lanes) * lanes, 0))
    y, x = q // pitch, q % pitch
    places = (y * step[0] + first[0]) * width + x * step[1] + first[1]
    return np.where((x < columns) & (y < rows), places, -1).astype(np.int32)


def _blocks(outs: int) -> np.ndarray:
    """Rows of outputs in blocks that `direct` has: `direct.BLOCK`."""
    found = [(8, at, 8) for at in range(0, outs - 7, 8)]
    left = outs % 8
    if left:
        found.append((min(rows for rows in direct.BLOCKS if rows >= left), outs - left, left))
    return np.array(found, np.int64)


class _Plan(NamedTuple):
    """A job of some sizes: its values from `direct.LAID` on, and memory that they point to."""

    values: tuple[int, ...]
    programs: int
    scratch: int
    shared: bool
    kept: Any


def _taps(channels: int, plane: int, places: list[tuple[int, int]]) -> np.ndarray:
    """(channels * places, 2): bytes from a line, bytes in the weight, for each element of the kernel.

    ``places``: the same two within one channel, and the weight's step from channel to channel as the last of them.
    """
    *own, (_, step) = places
    table = np.array(own, np.int64).reshape(-1, 2) + np.arange(channels)[:, None, None] * np.array((plane, step))
    return np.ascontiguousarray(table.reshape(-1, 2), np.int32)


def _up(n: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-n // step) * step


def _fits(*sizes: int) -> bool:
    """Whether distances are numbers of 32 bits."""
    return max(sizes) < _MOST


def _bands(rows: int, bytes_of: Any, programs: int, threads: int) -> int:
    """Rows of a band: those that the cache holds, and so few that there is work for all threads."""
    most = rows
    while most > 1 and bytes_of(most) > _CACHE:
        most = -(-most // 2)
    if threads > 1:
        wanted = -(-threads * _TURNS // max(programs, 1))
        most = max(1, min(most, max(-(-rows // wanted), min(rows, 4))))
    return -(-rows // -(-rows // most))  # of about the same size


@functools.lru_cache(maxsize=256)
def _forward(s: Any, itemsize: int, threads: int) -> _Plan | None:
    (_, sh, sw), (_, dh, dw), (_, top, left) = s.stride, s.dilation, s.before
    lanes, Cg, Og = direct.LINE // itemsize, s.C // s.G, s.O // s.G
    downs, rights = [i * dh for i in range(s.KH)], [j * dw for j in range(s.KW)]
    remainders = sorted({(y % sh, x % sw) for y in downs for x in rights})
    reach = max(x // sw for x in rights)
    pitch = row_length(s.OW, reach, s.W, left, lanes) if sw == 1 else s.OW + reach
    more = max(y // sh for y in downs)

    def bytes_of(rows: int) -> int:
        return int(Cg * len(remainders) * (rows + more) * pitch * itemsize)

    rows = _bands(s.OH, bytes_of, s.N * s.G, threads)
    bands = -(-s.OH // rows)
    laid = layout((s.H, s.W), (sh, sw), (top, left), rows + more, pitch, remainders, Cg, itemsize)
    channel = s.KH * s.KW * itemsize
    if not _fits(laid.image, Cg * channel, s.OH * s.OW, s.W * sw + 64):
        return None
    index = {r: at for at, r in enumerate(remainders)}
    places = [
        ((index[y % sh, x % sw] * (rows + more) * pitch + y // sh * pitch + x // sw) * itemsize,
         (i * s.KW + j) * itemsize)
        for i, y in enumerate(downs) for j, x in enumerate(rights)
    ]  # fmt: skip
    taps = _taps(Cg, laid.plane, [*places, (0, channel)])
    tables = [store_table(n, s.OW, pitch, lanes) for n in (rows, s.OH - (bands - 1) * rows)]
    part = [len(taps), engine.address(taps), *(v for t in tables for v in (len(t), engine.address(t)))]
    P = s.OH * s.OW * itemsize
    return _job(
        s, laid, np.array([part], np.int64), (taps, *tables), bands, rows, Cg, Og, (s.H * s.W * itemsize, s.C),
        (Og * Cg * channel, Cg * channel), (P, s.O), rows * s.OW * itemsize, itemsize, threads, True,
    )  # fmt: skip


def _job(
    s: Any, laid: Laid, parts: np.ndarray, kept: Any, bands: int, rows: int, channels: int, outs: int,
    source: tuple[int, int], weight: tuple[int, int], result: tuple[int, int], out_band: int, itemsize: int,
    threads: int, dense: bool,
) -> _Plan:  # fmt: skip
    """The values of `direct.CONVOLVE` from `direct.LAID` on. ``source`` and ``result``: bytes of a plane, planes."""
    blocks = _blocks(outs)
    # Weights that the cache does not hold are read once for some images.
    heavy = channels * outs * s.KH * s.KW * itemsize > _CACHE
    turns = threads if heavy else _TURNS * threads
    images = max(1, min(s.N // max(turns, 1), (2 * _CACHE if heavy else _CACHE) // laid.image))
    (x_channel, x_planes), (out_channel, out_planes) = source, result
    programs = -(-s.N // images) * s.G * bands
    multiplications = s.N * s.O * (s.C // s.G) * s.KH * s.KW * s.OH * s.OW
    values = (
        *laid.values, s.N, s.G, channels, images, bands, rows, x_channel * x_planes, x_channel * channels, x_channel,
        *weight, outs * itemsize, out_channel * out_planes, out_channel * outs, out_channel, out_band,
        len(parts), engine.address(parts), len(blocks), engine.address(blocks), int(dense),
    )  # fmt: skip
    return _Plan(values, programs, images * laid.image + 4096, multiplications >= _SHARED, (laid, parts, blocks, kept))


@functools.lru_cache(maxsize=256)
def _backward(s: Any, itemsize: int, threads: int) -> _Plan | None:
    (_, sh, sw), (_, dh, dw), (_, top, left) = s.stride, s.dilation, s.before
    lanes, Cg, Og = direct.LINE // itemsize, s.C // s.G, s.O // s.G
    # Input h = t stride + r got weight i of output t + (r + padding - i dilation) / stride, where that is whole.
    downs = [[(i, (r + top - i * dh) // sh) for i in range(s.KH) if not (r + top - i * dh) % sh] for r in range(sh)]
    rights = [[(j, (r + left - j * dw) // sw) for j in range(s.KW) if not (r + left - j * dw) % sw] for r in range(sw)]
    ys, xs = [e for part in downs for _, e in part], [e for part in rights for _, e in part]
    low, near = min(ys), min(xs)
    tall, wide = -(-s.H // sh), -(-s.W // sw)
    more, pitch = max(ys) - low, row_length(wide, max(xs) - near, s.OW, -near, lanes)

    def bytes_of(rows: int) -> int:
        return int(Og * (rows + more) * pitch * itemsize)

    rows = _bands(tall, bytes_of, s.N * s.G, threads)
    bands = -(-tall // rows)
    laid = layout((s.OH, s.OW), (1, 1), (-low, -near), rows + more, pitch, [(0, 0)], Og, itemsize)
    row = s.KH * s.KW * itemsize
    if not _fits(laid.image, Og * Cg * row, s.H * s.W):
        return None
    dense, parts, kept = sh == sw == 1, [], []
    for ry in range(min(sh, s.H)):
        for rx in range(min(sw, s.W)):
            places = [
                (((y - low) * pitch + x - near) * itemsize, (i * s.KW + j) * itemsize)
                for i, y in downs[ry] for j, x in rights[rx]
            ]  # fmt: skip
            taps = _taps(Og, laid.plane, [*places, (0, Cg * row)])
            height, width = -(-(s.H - ry) // sh), -(-(s.W - rx) // sw)
            tables = []
            for n in (min(rows, height), height - (bands - 1) * rows):
                if dense:
                    tables.append(store_table(n, width, pitch, lanes))
                else:
                    tables.append(spread_table(n, width, pitch, lanes, (ry, rx), (sh, sw), s.W))
            sizes = [len(t) if dense else len(t) // lanes for t in tables]
            parts.append([len(taps), engine.address(taps), sizes[0], engine.address(tables[0]), sizes[1],
                          engine.address(tables[1])])  # fmt: skip
            kept += [taps, *tables]
    return _job(
        s, laid, np.array(parts, np.int64), kept, bands, rows, Og, Cg, (s.OH * s.OW * itemsize, s.O),
        (Og * Cg * row, row), (s.H * s.W * itemsize, s.C), rows * sh * s.W * itemsize, itemsize, threads, dense,
    )  # fmt: skip


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, s: Any) -> np.ndarray | None:
    """The convolution (N, C, H, W) -> (N, O, OH, OW); contiguous arrays of one dtype, sizes of two dims.

    None where distances are too large for it.
    """
    plan = _forward(s, x.itemsize, settings.get_num_threads())
    return None if plan is None else _compute(plan, x, weight, bias, (s.N, s.O, s.OH, s.OW))


def backward(g: np.ndarray, weight: np.ndarray, s: Any) -> np.ndarray | None:
    """The gradient of the input: (N, O, OH, OW) -> (N, C, H, W)."""
    plan = _backward(s, g.itemsize, settings.get_num_threads())
    return None if plan is None else _compute(plan, g, weight, None, (s.N, s.C, s.H, s.W))


def _compute(
    plan: _Plan, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, shape: tuple[int, ...]
) -> np.ndarray:
    out = np.empty(shape, x.dtype)
    address = engine.address
    values = [address(x), address(weight), 0 if bias is None else address(bias), address(out), *plan.values]
    run(x.dtype.char, "convolve", values, plan.programs, plan.scratch, plan.shared)
    return out


# ------------------------------------------------------------------------------------------------ the weight's gradient


class _Sums(NamedTuple):
    """A job of a weight's gradient, and the sums that it makes."""

    plan: _Plan
    shape: tuple[int, ...]  #: (slices, groups, blocks down, ranges of channels, blocks of each across, a block)
    pair: tuple[int, int]  #: rows and columns of a block
    columns: int  #: of a whole range of channels


@functools.lru_cache(maxsize=256)
def _sums(s: Any, itemsize: int) -> _Sums | None:
    (_, sh, sw), (_, dh, dw), (_, top, left) = s.stride, s.dilation, s.before
    lanes, Cg, Og, kernel = direct.LINE // itemsize, s.C // s.G, s.O // s.G, s.KH * s.KW
    downs, rights = [i * dh for i in range(s.KH)], [j * dw for j in range(s.KW)]
    remainders = sorted({(y % sh, x % sw) for y in downs for x in rights})
    reach = max(x // sw for x in rights)
    pitch = row_length(s.OW, reach, s.W, left, lanes) if sw == 1 else s.OW + reach
    more = max(y // sh for y in downs)
    bands = max(1, min(s.OH, round(s.OH * pitch * itemsize / _LINE)))
    rows = -(-s.OH // bands)
    bands = -(-s.OH // rows)
    line = ((rows - 1) * pitch + s.OW + lanes - 1) // lanes
    images = max(1, min(s.N, _LINE // (2 * line * direct.LINE)))
    # What a step takes: two multiplications or two loads a time; a line of the input, which is not aligned, is two.
    high, wide = min(
        direct.PAIRS, key=lambda p: -(-Og // p[0]) * -(-Cg * kernel // p[1]) * max(p[0] * p[1], p[0] + 2 * p[1] + 1)
    )
    of_x = layout((s.H, s.W), (sh, sw), (top, left), rows + more, pitch, remainders, 1, itemsize)
    of_g = layout((s.OH, s.OW), (1, 1), (0, 0), rows, pitch, [(0, 0)], 1, itemsize)
    c_range = max(1, min(Cg, _CACHE // (images * of_x.plane)))
    c_ranges = -(-Cg // c_range)
    c_range = -(-Cg // c_ranges)
    o_range = max(high, min(Og, _CACHE // (images * of_g.plane)))
    o_ranges = -(-Og // o_range)
    o_range = _up(-(-Og // o_ranges), high)
    o_ranges = -(-Og // o_range)
    down, across = -(-Og // high), -(-c_range * kernel // wide)
    block = -(-high * wide // lanes) * direct.LINE
    shape = (s.G, down, c_ranges, across, block // itemsize)
    each_sum = math.prod(shape) * itemsize
    slices = max(1, min(-(-s.N // images), -(-_SLICES // (s.G * c_ranges * o_ranges)), _SUMS // max(each_sum, 1)))
    each = _up(-(-s.N // slices), images)
    slices = -(-s.N // each)
    image = c_range * of_x.plane + 4 * direct.LINE
    g_laid = o_range * of_g.plane + 4 * direct.LINE
    if not _fits(image, g_laid, s.W * sw + 64):
        return None
    index = {r: at for at, r in enumerate(remainders)}
    places = [
        ((index[y % sh, x % sw] * (rows + more) * pitch + y // sh * pitch + x // sw) * itemsize, 0)
        for y in downs for x in rights
    ]  # fmt: skip
    taps = _taps(c_range, of_x.plane, [*places, (0, 0)])
    taps = np.concatenate([taps, np.repeat(taps[-1:], across * wide - len(taps), axis=0)])
    laid_values = (*of_x.values[:-1], image)
    x_channel, g_channel = s.H * s.W * itemsize, s.OH * s.OW * itemsize
    row = c_ranges * across * block
    values = (
        *laid_values, s.N, s.G, Cg, images, bands, rows, x_channel * s.C, x_channel * Cg, x_channel,
        g_channel * s.O, g_channel * Og, g_channel, s.OH, s.OW, Og, of_g.plane, g_laid, slices, each, o_ranges,
        o_range, o_range // high * row, c_ranges, c_range, across * block, kernel, engine.address(taps), line,
        each_sum, down * row, row, high, wide, block,
    )  # fmt: skip
    scratch = images * (image + g_laid) + 4096
    multiplications = s.N * s.O * Cg * kernel * s.OH * s.OW
    programs = slices * o_ranges * c_ranges * s.G
    plan = _Plan(values, programs, scratch, multiplications >= _SHARED, (of_x, of_g, taps))
    return _Sums(plan, (slices, *shape), (high, wide), c_range * kernel)


def weight(g: np.ndarray, x: np.ndarray, s: Any) -> np.ndarray | None:
    """The gradient of the weight: (N, O, OH, OW) and (N, C, H, W) -> (G, O / G, C / G * KH * KW).

    None where it is not a number, which may come of infinities where no output is; where distances are too large.
    """
    made = _sums(s, x.itemsize)
    if made is None:
        return None
    sums = np.empty(made.shape, x.dtype)
    address = engine.address
    values = [address(x), address(g), address(sums), *made.plan.values]
    run(x.dtype.char, "weight", values, made.plan.programs, made.plan.scratch, made.plan.shared)
    total = sums[0] if len(sums) == 1 else np.add.reduce(sums, axis=0)
    (G, down, ranges, across, _), (high, wide) = total.shape, made.pair
    blocks = total[..., : high * wide].reshape(G, down, ranges, across, high, wide).transpose(0, 1, 4, 2, 3, 5)
    rows = blocks.reshape(G, down * high, ranges, across * wide)[:, : s.O // s.G, :, : made.columns]
    out = np.ascontiguousarray(rows.reshape(G, s.O // s.G, -1)[:, :, : s.C // s.G * s.KH * s.KW])
    return None if np.isnan(np.dot(flat := out.reshape(-1), flat)) else out


def _after_fork() -> None:
    """A child has none of its parent's threads: nobody else compiles."""
    _State.making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
