"""grid_sample and its gradients in NumPy: a few taps a point, each one take of whole pixels and one product.

Images with many channels are laid out with the channels last, so that a tap reads and adds contiguous rows; those with
few, with the channels first and all images of the batch in one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tensorlib.ops._rows_numpy import join_rows

_MANY = 8  # channels
_BLOCK = 1 << 15  # numbers sampled at a time, which stay in cache from tap to tap


def _clipped(p: Any, size: int) -> tuple[Any, Any]:
    """(positions within the image, their slope). NaN is 0."""
    inside = (p > 0) & (p < size - 1)
    return np.where(p > 0, np.where(p >= size - 1, p.dtype.type(size - 1), p), p.dtype.type(0)), inside.astype(p.dtype)


def _reflected(p: Any, size: int, align: bool) -> tuple[Any, Any]:
    """Mirrored at the first and last pixel (their outer edges unless aligned), as often as needed."""
    low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(p), np.zeros_like(p)
    p = p - low
    slope = np.where(p < 0, -1, 1).astype(p.dtype)
    p = np.abs(p)
    turns = np.floor(p / span)
    rest = p - turns * span
    even = turns % 2 == 0
    slope[~even] *= -1
    p, inside = _clipped(np.where(even, rest, span - rest) + p.dtype.type(low), size)
    return p, slope * inside


def _padded(p: Any, size: int, padding: str, align: bool) -> tuple[Any, Any]:
    return _clipped(p, size) if padding == "border" else _reflected(p, size, align)


def _place(q: Any, size: int, padding: str, align: bool) -> Any:
    """Whole positions as those of pixels; for zeros in an image with one more on each side, where all outside is."""
    if padding == "reflection":
        q = _reflected(q, size, align)[0]
    low, high = (-1, size) if padding == "zeros" else (0, size - 1)
    at = np.fmin(np.fmax(q, low), high).astype(np.intp)
    return at + 1 if padding == "zeros" else at


def _cubic(t: Any) -> tuple[list[Any], list[Any]]:
    """Keys' convolution with a = -0.75 at 1 + t, t, 1 - t and 2 - t, and the slopes in t."""
    a = -0.75

    def near(x: Any) -> Any:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Any) -> Any:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    def near_slope(x: Any) -> Any:
        return (3 * (a + 2) * x - 2 * (a + 3)) * x

    def far_slope(x: Any) -> Any:
        return (3 * a * x - 10 * a) * x + 8 * a

    u = 1 - t
    slopes = [far_slope(t + 1), near_slope(t), -near_slope(u), -far_slope(u + 1)]
    return [far(t + 1), near(t), near(u), far(u + 1)], slopes


def _axis(x: Any, size: int, mode: str, padding: str, align: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """(positions of each tap, weights, slopes of the weights in the grid's numbers x, -1 … 1)."""
    scale = (size - 1) / 2 if align else size / 2
    p = (x + 1) * x.dtype.type(scale) if align else ((x + 1) * size - 1) / 2
    slope: Any = x.dtype.type(scale)
    if mode != "bicubic" and padding != "zeros":
        p, change = _padded(p, size, padding, align)
        slope = change * slope
    if mode == "nearest":
        return [_place(np.rint(p), size, padding if padding == "zeros" else "border", align)], [], []
    low = np.floor(p)
    t = p - low
    if mode == "bicubic":
        weights, slopes = _cubic(t)
        places = [_place(low + o, size, padding, align) for o in (-1, 0, 1, 2)]
        return places, weights, [s * slope for s in slopes]
    within = padding if padding == "zeros" else "border"
    return [_place(low + o, size, within, align) for o in (0, 1)], [1 - t, t], [-slope, slope]


class _Taps:
    """The taps of every point of a grid (N, …, n) in images of ``size``."""

    def __init__(self, grid: Any, size: tuple[int, ...], mode: str, padding: str, align: bool) -> None:
        n = len(size)
        self.batch, self.points = grid.shape[0], math.prod(grid.shape[1:-1])
        self.border = 1 if padding == "zeros" else 0
        self.size = tuple([m + 2 * self.border for m in size])
        self.axes = [_axis(grid[..., n - 1 - d].reshape(-1), size[d], mode, padding, align) for d in range(n)]
        plane = math.prod(self.size)
        first = np.repeat(np.arange(self.batch) * plane, self.points)
        for d, (places, _, _) in enumerate(self.axes):
            step = math.prod(self.size[d + 1 :])
            for k, at in enumerate(places):
                if step != 1:
                    at *= step
                if d == 0:
                    places[k] = at + first

    def __iter__(self) -> Iterator[tuple[Any, Any, tuple[int, ...]]]:
        """(place, weight or None for 1, number of the tap along each axis)."""
        for tap in product(*[range(len(places)) for places, _, _ in self.axes]):
            at: Any = sum(places[k] for k, (places, _, _) in zip(tap, self.axes, strict=True))
            yield at, self.weight(tap), tap

    def weight(self, tap: tuple[int, ...], along: int = -1) -> Any:
        """The product of a tap's weights; of its slope ``along`` one axis and the weights along the others."""
        made: Any = None
        for d, (k, (_, weights, slopes)) in enumerate(zip(tap, self.axes, strict=True)):
            if weights:
                factor = slopes[k] if d == along else weights[k]
                made = factor if made is None else made * factor
        return made

    def stored(self, x: Any, many: bool) -> Any:
        """Images (N, C, …) as (pixels, C), or (C, pixels) for few channels, with the border."""
        if not self.border:
            return _lined(x, many)
        laid = np.zeros((x.shape[0], *self.size, x.shape[1]) if many else (x.shape[1], x.shape[0], *self.size), x.dtype)
        inner = (slice(1, -1),) * len(self.size)
        if many:
            laid[(slice(None), *inner)] = np.moveaxis(x, 1, -1)
            return laid.reshape(math.prod(laid.shape[:-1]), x.shape[1])
        laid[(slice(None), slice(None), *inner)] = x.swapaxes(0, 1)
        return laid.reshape(x.shape[1], math.prod(laid.shape[1:]))


def _lined(x: Any, many: bool) -> Any:
    """(N, C, …) as (N …, C), or (C, N …)."""
    laid = np.moveaxis(x, 1, -1) if many else x.swapaxes(0, 1)
    places = math.prod(laid.shape[:-1] if many else laid.shape[1:])
    return laid.reshape(places, x.shape[1]) if many else laid.reshape(x.shape[1], places)


def sample(input: Any, grid: Any, mode: str, padding: str, align: bool) -> Any:
    """input (N, C, …) at grid (N, …, n) -> (N, C, …)."""
    C, many = input.shape[1], input.shape[1] >= _MANY
    taps = _Taps(grid, input.shape[2:], mode, padding, align)
    pixels, found, n = taps.stored(input, many), list(taps), taps.batch * taps.points
    out = np.empty((n, C) if many else (C, n), input.dtype)
    step = max(_BLOCK // max(C, 1), 1)
    for begin in range(0, n, step):
        block = slice(begin, begin + step)
        total = out[block] if many else out[:, block]
        for k, (at, weight, _) in enumerate(found):
            part = pixels.take(at[block], 0 if many else 1)
            if weight is None:
                total[...] = part
                continue
            share = weight[block, None] if many else weight[block]
            if k:
                part *= share
                total += part
            else:
                np.multiply(part, share, out=total)
    shape = (input.shape[0], C, *grid.shape[1:-1])
    if many:
        return np.ascontiguousarray(out.reshape(taps.batch, taps.points, C).swapaxes(1, 2)).reshape(shape)
    return np.ascontiguousarray(out.reshape(C, taps.batch, taps.points).swapaxes(0, 1)).reshape(shape)


def input_grad(g: Any, grid: Any, size: tuple[int, ...], mode: str, padding: str, align: bool) -> Any:
    """The gradient of the images (N, C, *size): g in shares, added where it was sampled."""
    C, many = g.shape[1], g.shape[1] >= _MANY
    taps = _Taps(grid, size, mode, padding, align)
    pixels, given = taps.batch * math.prod(taps.size), _lined(g, many)
    out = np.zeros((pixels, C) if many else (C, pixels), g.dtype)
    for at, weight, _ in taps:
        if many:
            join_rows(out, at, given if weight is None else given * weight[:, None])
        else:
            share = given if weight is None else given * weight
            for c in range(C):
                np.add.at(out[c], at, share[c])
    laid = out.reshape(taps.batch, *taps.size, C) if many else out.reshape(C, taps.batch, *taps.size)
    laid = np.moveaxis(laid, -1, 1) if many else laid.swapaxes(0, 1)
    inner = slice(taps.border, -taps.border or None)
    return np.ascontiguousarray(laid[(slice(None), slice(None), *(inner,) * len(size))])


def grid_grad(g: Any, input: Any, grid: Any, mode: str, padding: str, align: bool) -> Any:
    """The gradient of the grid: by how much each tap's weight changes, times what it is worth."""
    out = np.zeros_like(grid, order="C")
    if mode == "nearest":
        return out
    many, n = input.shape[1] >= _MANY, grid.shape[-1]
    taps = _Taps(grid, input.shape[2:], mode, padding, align)
    pixels, given = taps.stored(input, many), _lined(g, many)
    flat = out.reshape(-1, n)
    for at, _, tap in taps:
        worth = np.einsum("pc,pc->p" if many else "cp,cp->p", pixels.take(at, 0 if many else 1), given)
        for d in range(n):
            flat[:, n - 1 - d] += worth * taps.weight(tap, d)
    return out
