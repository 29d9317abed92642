"""The loss curve as a PNG, drawn with NumPy alone, so that every installation has the picture."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 960, 540
LEFT, RIGHT, TOP, BOTTOM = 74, 926, 58, 484  # the plotting area
_BACKGROUND, _GRID, _TEXT = (255, 255, 255), (228, 231, 236), (71, 80, 96)
_TRAIN, _VALIDATION = (126, 170, 222), (208, 74, 44)
_COLUMNS, _ROWS, _MARGIN, _GAP, _CAPTION = 10, 6, 24, 36, 25  # of a mosaic, in pixels the last three
_BINS = 300  # training losses are averaged down to so many points

#: A 5 x 7 font: each row of a glyph is a base-32 digit of five pixels; two more rows where it goes below the line.
_GLYPHS = {
    "0": "ehhhhhe", "1": "4c4444e", "2": "eh1248v", "3": "eh161he", "4": "26aiv22", "5": "vgu11he", "6": "68guhhe",
    "7": "v122444", "8": "ehhehhe", "9": "ehhf12c", ".": "00000cc", "-": "000v000", "/": "122488g", "a": "00e1fhf",
    "b": "gguhhhu", "d": "11fhhhf", "e": "00ehvge", "g": "00fhhhf1e", "i": "40c444e", "k": "ggikoki", "l": "c44444e",
    "n": "00uhhhh", "o": "00ehhhe", "p": "00uhhhugg", "r": "00mpggg", "s": "00fge1u", "t": "88u8896", "v": "00hhha4",
    "c": "00eggge", "f": "698s888", "m": "00qlllh", ":": "00c0c00", "y": "00hhhhf1e", "M": "hrllhhh", " ": "0000000",
    "h": "ggmphhh", ",": "00000cc48",
}  # fmt: skip
_SIZE = 2  # pixels a pixel of the font


def loss_curve(
    train: Sequence[float],
    validation: Sequence[tuple[int, float]],
    unit: str = "nats/byte",
    label: str = "training",
) -> bytes:
    """A PNG: the training loss of every step, averaged to a readable number of points, and (step, validation loss).

    ``label`` names the first in the legend.
    """
    image = np.full((HEIGHT, WIDTH, 3), _BACKGROUND, np.float64)
    training = _averaged(train)
    values = [y for _, y in training] + [y for _, y in validation]
    x_ticks = _ticks(0, max(1, len(train)), whole=True)
    y_ticks = _ticks(min(values, default=0.0), max(values, default=1.0))
    last = max(1, len(train))

    def place(points: Sequence[tuple[float, float]]) -> np.ndarray:
        x, y = np.array(points, np.float64).reshape(-1, 2).T
        return np.stack([LEFT + (RIGHT - LEFT) * x / last,
                         BOTTOM - (BOTTOM - TOP) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])], 1)  # fmt: skip

    for tick in y_ticks:
        row = round(place([(0, tick)])[0, 1])
        image[row, LEFT:RIGHT] = _GRID
        _write(image, _number(tick, y_ticks), LEFT - 12, row, align=1.0)
    for tick in x_ticks:
        column = round(place([(tick, y_ticks[0])])[0, 0])
        image[BOTTOM : BOTTOM + 6, column] = _GRID
        _write(image, _number(tick, x_ticks), column, BOTTOM + 20, align=0.5)
    _write(image, f"loss  {unit}", LEFT - 52, 26, align=0.0)
    _write(image, "step", RIGHT, HEIGHT - 14, align=1.0)

    _line(image, place(training), 2.0, _TRAIN)
    _line(image, place(validation), 2.6, _VALIDATION)
    for point in place(validation):
        _line(image, point[None], 7.0, _VALIDATION)
    end = f"validation {validation[-1][1]:.3f}" if validation else "validation"
    first = RIGHT - 334 - 6 * _SIZE * len(label)
    for column, colour, name in ((first, _TRAIN, label), (RIGHT - 240, _VALIDATION, end)):
        _line(image, np.array([[column, 26.0], [column + 28, 26.0]]), 4.0, colour)
        _write(image, name, column + 42, 26, align=0.0)
    return _png(np.rint(image).astype(np.uint8))


def mosaic(pictures: np.ndarray, captions: Sequence[str], title: str) -> bytes:
    """A PNG of the first 60 of some uint8 pictures (N, H, W) in rows, each over its caption, under a title.

    The fewer there are, the larger they are drawn, from four in a row to ten.
    """
    shown = list(zip(pictures, captions, strict=True))[: _COLUMNS * _ROWS]
    for across in range(4, _COLUMNS + 1):
        cell = (WIDTH - _GAP) // across
        down = -(-len(shown) // across)
        height = 52 + down * (cell - _GAP + _CAPTION)
        if height <= HEIGHT:
            break
    tile = cell - _GAP
    width = max(2 * _MARGIN + 6 * _SIZE * len(title), _MARGIN + min(across, len(shown)) * cell)
    image = np.full((height, width, 3), _BACKGROUND, np.float64)
    _write(image, title, _MARGIN, 26, align=0.0)
    for i, (picture, caption) in enumerate(shown):
        row, column = divmod(i, across)
        left, top = _MARGIN + column * cell, 46 + row * (tile + _CAPTION)
        rows, columns = (np.arange(tile) * n // tile for n in picture.shape)
        image[top : top + tile, left : left + tile] = 255.0 - picture[rows][:, columns, None]
        _write(image, caption, left + tile / 2, top + tile + 10, align=0.5)
    return _png(np.rint(image).astype(np.uint8))


def _averaged(train: Sequence[float]) -> list[tuple[float, float]]:
    parts = np.array_split(np.asarray(train, np.float64), max(1, min(_BINS, len(train))))
    ends = np.cumsum([len(part) for part in parts])
    return [
        (float(end - (len(part) - 1) / 2), float(part.mean()))
        for part, end in zip(parts, ends, strict=True)
        if len(part)
    ]


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high`` (``whole``: integers, none above)."""
    raw = max(high - low, 1e-3 * max(1.0, abs(high))) / 6
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= raw * 0.999)
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step), math.floor(high / step) if whole else math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + (not whole)) + 1)]


def _number(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    if value == 0:
        return "0"
    if step >= 1e6 or (step >= 1e5 and value % 1e5 == 0 and ticks[-1] >= 1e6):
        return f"{value / 1e6:g}M"
    if step >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _line(image: np.ndarray, points: np.ndarray, width: float, colour: tuple[int, int, int]) -> None:
    """Blend a polyline with round ends into the image: each pixel by how far it is from the nearest segment.

    One point is a disc. Coverage is the maximum over segments, so joints are not drawn twice.
    """
    if not len(points):
        return
    coverage = np.zeros(image.shape[:2])
    reach = width / 2 + 1
    for a, b in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        x0, y0 = np.maximum(np.floor(np.minimum(a, b) - reach), 0).astype(int)
        x1, y1 = np.ceil(np.maximum(a, b) + reach).astype(int) + 1
        region = coverage[y0:y1, x0:x1]
        y, x = np.mgrid[y0 : y0 + region.shape[0], x0 : x0 + region.shape[1]]
        along, length = b - a, float(((b - a) ** 2).sum())
        t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / (length or 1.0), 0, 1)
        distance = np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])
        np.maximum(region, np.clip(width / 2 + 0.5 - distance, 0, 1), out=region)
    image += (np.array(colour) - image) * coverage[..., None]


def _write(image: np.ndarray, text: str, x: float, y: float, align: float) -> None:
    """Text whose middle height is ``y``; ``align`` 0 begins, 0.5 centres and 1 ends it at ``x``."""
    rows = np.array([[int(row, 32) for row in _GLYPHS[glyph].ljust(9, "0")] for glyph in text])  # (characters, 9)
    pixels = (rows[:, :, None] >> np.array([5, 4, 3, 2, 1, 0])) & 1  # the leftmost, never set, is the space between
    mask = np.kron(pixels.transpose(1, 0, 2).reshape(9, -1), np.ones((_SIZE, _SIZE))).astype(bool)
    left, top = round(x - align * mask.shape[1]), round(y - 3.5 * _SIZE)
    left = max(2, min(left, image.shape[1] - 2 - mask.shape[1]))
    image[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = _TEXT


def _png(image: np.ndarray) -> bytes:
    """An 8-bit RGB image (H, W, 3) as a PNG file. ISO/IEC 15948: signature, IHDR, IDAT, IEND."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)  # filter type 0 a row
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b""))  # fmt: skip
