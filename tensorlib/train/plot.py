"""The loss curve, and pictures side by side, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorlib._picture import BACKGROUND, PIXEL, line, png, write

WIDTH, HEIGHT = 960, 540
LEFT, RIGHT, TOP, BOTTOM = 74, 926, 58, 484  # the plotting area
_GRID = (228, 231, 236)
_TRAIN, _VALIDATION = (126, 170, 222), (208, 74, 44)
_COLUMNS, _ROWS, _MARGIN, _GAP, _CAPTION = 10, 6, 24, 36, 25  # of a mosaic, in pixels the last three
_BINS = 300  # training losses are averaged down to so many points


def loss_curve(
    train: Sequence[float],
    validation: Sequence[tuple[int, float]],
    unit: str = "nats/byte",
    label: str = "training",
) -> bytes:
    """A PNG: the training loss of every step, averaged to a readable number of points, and (step, validation loss).

    ``label`` names the first in the legend.
    """
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.float64)
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
        write(image, _number(tick, y_ticks), LEFT - 12, row, align=1.0)
    for tick in x_ticks:
        column = round(place([(tick, y_ticks[0])])[0, 0])
        image[BOTTOM : BOTTOM + 6, column] = _GRID
        write(image, _number(tick, x_ticks), column, BOTTOM + 20, align=0.5)
    write(image, f"loss  {unit}", LEFT - 52, 26, align=0.0)
    write(image, "step", RIGHT, HEIGHT - 14, align=1.0)

    line(image, place(training), 2.0, _TRAIN)
    line(image, place(validation), 2.6, _VALIDATION)
    for point in place(validation):
        line(image, point[None], 7.0, _VALIDATION)
    end = f"validation {validation[-1][1]:.3f}" if validation else "validation"
    first = RIGHT - 334 - 6 * PIXEL * len(label)
    for column, colour, name in ((first, _TRAIN, label), (RIGHT - 240, _VALIDATION, end)):
        line(image, np.array([[column, 26.0], [column + 28, 26.0]]), 4.0, colour)
        write(image, name, column + 42, 26, align=0.0)
    return png(np.rint(image).astype(np.uint8))


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
    width = max(2 * _MARGIN + 6 * PIXEL * len(title), _MARGIN + min(across, len(shown)) * cell)
    image = np.full((height, width, 3), BACKGROUND, np.float64)
    write(image, title, _MARGIN, 26, align=0.0)
    for i, (picture, caption) in enumerate(shown):
        row, column = divmod(i, across)
        left, top = _MARGIN + column * cell, 46 + row * (tile + _CAPTION)
        rows, columns = (np.arange(tile) * n // tile for n in picture.shape)
        image[top : top + tile, left : left + tile] = 255.0 - picture[rows][:, columns, None]
        write(image, caption, left + tile / 2, top + tile + 10, align=0.5)
    return png(np.rint(image).astype(np.uint8))


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
