"""Labelled images: scikit-learn's handwritten digits, or IDX files as MNIST and Fashion-MNIST publish them."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorlib.errors import ArgumentError

_UBYTE = 8  # the IDX code of unsigned bytes, the only ones these data sets hold
_HELD_OUT = 5  # of the digits, which come in one piece, every fifth of a class is for testing


@dataclass(frozen=True)
class Images:
    """uint8 images (N, H, W) with their classes, to learn from and to judge by."""

    train: np.ndarray
    train_labels: np.ndarray  # (N,) int64
    test: np.ndarray
    test_labels: np.ndarray
    name: str

    @classmethod
    def read(cls, data: Sequence[str]) -> Images:
        """The named folder's or files' images, or scikit-learn's digits when none is named."""
        return idx_files(data) if data else digits()

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of all images and labels: a resumed run has to read the same."""
        sha = hashlib.sha256(repr((self.train.shape, self.test.shape)).encode())
        for part in (self.train, self.train_labels, self.test, self.test_labels):
            sha.update(np.ascontiguousarray(part).data)
        return sha.hexdigest()

    def batch(self, step: int, seed: int, size: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """(images, labels): each epoch goes once through a new order; each image is moved by up to ``shift`` pixels.

        A pure function of the seed and the step, so that a resumed run continues with the batch that was next.
        """
        steps = -(-len(self.train) // size)
        order = np.random.Generator(np.random.Philox(key=[seed, step // steps])).permutation(len(self.train))
        chosen = order[step % steps * size : (step % steps + 1) * size]
        images = self.train[chosen]
        if shift:
            random = np.random.Generator(np.random.Philox(key=[seed + 1, step]))
            n, h, w = images.shape
            rows, columns = random.integers(0, 2 * shift + 1, (2, n))
            padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
            images = padded[np.arange(n)[:, None, None], (rows[:, None] + np.arange(h))[:, :, None],
                            (columns[:, None] + np.arange(w))[:, None, :]]  # fmt: skip
        return images, self.train_labels[chosen]


def digits() -> Images:
    """1,797 digits of 8 x 8 pixels in 16 greys. Source: UCI, Alpaydin and Kaynak 1998, as in scikit-learn."""
    try:
        datasets: Any = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise ArgumentError(
            "the digits come with scikit-learn, which is not installed: pip install 'tensorlib[images]', "
            "or name IDX files with --data"
        ) from None
    found = datasets.load_digits()
    images, labels = np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64)
    held = np.zeros(len(labels), bool)
    for c in range(10):
        held[np.flatnonzero(labels == c)[:: _HELD_OUT]] = True
    return Images(images[~held], labels[~held], images[held], labels[held], "scikit-learn's digits")


def idx_files(data: Sequence[str]) -> Images:
    """A folder, or the four files, with "train" or else "t10k" or "test" in their names; ``.gz`` as they are."""
    paths = [Path(name) for name in data]
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(p for p in paths[0].iterdir() if "idx" in p.name and p.is_file())
    parts: dict[tuple[str, str], tuple[Path, np.ndarray]] = {}
    for path in paths:
        array = read_idx(path)
        part = "train" if "train" in path.name else "test" if "t10k" in path.name or "test" in path.name else None
        kind = {1: "labels", 3: "images"}.get(array.ndim)
        if part is None or kind is None:
            raise ArgumentError(
                f"--data {path}: expected images (N, H, W) or labels (N,), with 'train', 't10k' or 'test' in the "
                f"file's name; it holds an array of shape {array.shape}"
            )
        if (part, kind) in parts:
            raise ArgumentError(f"--data names {part} {kind} twice: {parts[part, kind][0]} and {path}")
        parts[part, kind] = path, array
    missing = [f"{p} {k}" for p in ("train", "test") for k in ("images", "labels") if (p, k) not in parts]
    if missing:
        raise ArgumentError(
            f"--data {' '.join(data)}: no {' and no '.join(missing)} among {len(paths)} IDX files: expected the four "
            f"files of MNIST or Fashion-MNIST, or the folder that holds them"
        )
    arrays = {key: array for key, (_, array) in parts.items()}
    for part in ("train", "test"):
        images, labels = arrays[part, "images"], arrays[part, "labels"]
        if len(images) != len(labels) or not len(images):
            raise ArgumentError(f"--data: {len(images)} {part} images with {len(labels)} labels: expected as many")
    if arrays["train", "images"].shape[1:] != arrays["test", "images"].shape[1:]:
        raise ArgumentError("--data: training and test images differ in size")
    if min(arrays["train", "images"].shape[1:]) < 8:
        raise ArgumentError(f"--data: images of {arrays['train', 'images'].shape[1:]} are too small: expected 8 x 8")
    return Images(
        arrays["train", "images"], arrays["train", "labels"].astype(np.int64),
        arrays["test", "images"], arrays["test", "labels"].astype(np.int64), " ".join(data),
    )  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file of unsigned bytes: two zeros, the type, the rank, big-endian sizes, the elements.

    ArgumentError when it cannot be read, is another kind of file, or is shorter or longer than it says.
    Source: Y. LeCun et al., "The MNIST database", section File formats.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return _idx(path, file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"cannot read --data {path}: {reason}") from error


def _idx(path: Path, file: Any) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UBYTE or not 1 <= head[3] <= 4:
        raise ArgumentError(f"--data {path} is not an IDX file of unsigned bytes: it begins with {head.hex(' ')}")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ArgumentError(f"--data {path} is cut off in its header")
    shape = struct.unpack(f">{head[3]}I", sizes)
    count = 1
    for n in shape:
        count *= n
    pieces, have = [], 0
    while have <= count and (piece := file.read(min(1 << 24, count + 1 - have))):  # the header may claim any size
        pieces.append(piece)
        have += len(piece)
    if have != count:
        held = "more" if have > count else f"only {have}: download it again"
        raise ArgumentError(f"--data {path} says {shape}, that is {count} bytes, and holds {held}")
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(shape)
