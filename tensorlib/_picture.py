"""Pictures drawn with NumPy alone, so that every installation has them: lines, a small font, PNG."""

from __future__ import annotations

import struct
import zlib

import numpy as np

BACKGROUND, TEXT = (255, 255, 255), (71, 80, 96)

#: A 5 x 7 font: each row of a glyph is a base-32 digit of five pixels; two more rows where it goes below the line.
GLYPHS = {
    "0": "ehhhhhe", "1": "4c4444e", "2": "eh1248v", "3": "eh161he", "4": "26aiv22", "5": "vgu11he", "6": "68guhhe",
    "7": "v122444", "8": "ehhehhe", "9": "ehhf12c", ".": "00000cc", "-": "000v000", "/": "122488g", "a": "00e1fhf",
    "b": "gguhhhu", "d": "11fhhhf", "e": "00ehvge", "g": "00fhhhf1e", "i": "40c444e", "k": "ggikoki", "l": "c44444e",
    "n": "00uhhhh", "o": "00ehhhe", "p": "00uhhhugg", "r": "00mpggg", "s": "00fge1u", "t": "88u8896", "v": "00hhha4",
    "c": "00eggge", "f": "698s888", "m": "00qlllh", ":": "00c0c00", "y": "00hhhhf1e", "M": "hrllhhh", " ": "0000000",
    "h": "ggmphhh", ",": "00000cc48", "u": "00hhhjd", "w": "00hhlla", "x": "00ha4ah", "q": "00fhhhf11", "z": "00v248v",
    "B": "uhhuhhu", "G": "ehgnhhf", "K": "hikokih", "P": "uhhuggg", "U": "hhhhhhe", "=": "000v0v0",
    "F": "vgguggg", "L": "ggggggv", "O": "ehhhhhe",
}  # fmt: skip
PIXEL = 2  #: pixels a pixel of the font


def line(image: np.ndarray, points: np.ndarray, width: float, colour: tuple[int, int, int]) -> None:
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


def write(image: np.ndarray, text: str, x: float, y: float, align: float) -> None:
    """Text whose middle height is ``y``; ``align`` 0 begins, 0.5 centres and 1 ends it at ``x``."""
    rows = np.array([[int(row, 32) for row in GLYPHS[glyph].ljust(9, "0")] for glyph in text])  # (characters, 9)
    pixels = (rows[:, :, None] >> np.array([5, 4, 3, 2, 1, 0])) & 1  # the leftmost, never set, is the space between
    mask = np.kron(pixels.transpose(1, 0, 2).reshape(9, -1), np.ones((PIXEL, PIXEL))).astype(bool)
    left, top = round(x - align * mask.shape[1]), round(y - 3.5 * PIXEL)
    left = max(2, min(left, image.shape[1] - 2 - mask.shape[1]))
    image[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = TEXT


def png(image: np.ndarray) -> bytes:
    """An 8-bit RGB image (H, W, 3) as a PNG file. ISO/IEC 15948: signature, IHDR, IDAT, IEND."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)  # filter type 0 a row
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b""))  # fmt: skip
