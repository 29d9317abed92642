"""The text: files as one row of bytes, split by file into training and validation, and cut into batches."""

from __future__ import annotations

import hashlib
import sysconfig
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorlib.errors import ArgumentError

_NOT_SOURCE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Bytes to learn from and bytes to judge by, which no training batch ever contains."""

    train: np.ndarray  # uint8
    validation: np.ndarray  # uint8
    name: str
    digest: str  # of both parts: a resumed run has to read the same bytes

    @classmethod
    def read(cls, data: Sequence[str], block: int) -> Corpus:
        """The corpus of the named files, or of Python's standard library when none is named."""
        files = [Path(name) for name in data] or standard_library()
        texts = [_read(path) for path in files]
        if data and b"" in texts:
            raise ArgumentError(f"--data {files[texts.index(b'')]} is empty")
        train, validation = split(texts)
        if min(len(train), len(validation)) < block + 1:
            raise ArgumentError(
                f"the text is too short: {len(train)} bytes to train on and {len(validation)} to validate with, "
                f"and --block {block} needs {block + 1} of each; give more --data or a smaller --block"
            )
        name = " ".join(data) if data else f"Python's standard library ({len(files)} files)"
        digest = hashlib.sha256(b"%d " % len(train) + train + validation).hexdigest()
        return cls(np.frombuffer(train, np.uint8), np.frombuffer(validation, np.uint8), name, digest)

    def batch(self, step: int, seed: int, batch: int, block: int) -> np.ndarray:
        """(batch, block + 1) int64: windows at places that are a pure function of the seed and the step.

        The position in the data is therefore the step, and a resumed run continues with the batch that was next.
        """
        random = np.random.Generator(np.random.Philox(key=[seed, step]))
        return _windows(self.train, random.integers(0, len(self.train) - block, batch), block)

    def validation_batches(self, batch: int, block: int, count: int = 2**15) -> list[np.ndarray]:
        """The same evenly spaced windows each time, about ``count`` bytes of them, as batches of (…, block + 1)."""
        windows = max(1, min(count, len(self.validation)) // block)
        starts = np.linspace(0, len(self.validation) - block - 1, windows).astype(np.int64)
        return [_windows(self.validation, starts[i : i + batch], block) for i in range(0, windows, batch)]


def standard_library() -> list[Path]:
    """Python's own source files, sorted, without its tests and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(path for path in root.rglob("*.py") if not _NOT_SOURCE.intersection(path.relative_to(root).parts))
    if not found:
        raise ArgumentError(f"this Python has no source files in {root}: name text files with --data")
    return found


def split(texts: Sequence[bytes]) -> tuple[bytes, bytes]:
    """(train, validation): whole files for validation, in the order of their checksums, up to a tenth of the bytes.

    Where that leaves less than half of the tenth (one file, or one that outweighs the rest), the last tenth of all.
    """
    limit, taken, chosen = sum(map(len, texts)) // 10, 0, set()
    for i in sorted(range(len(texts)), key=lambda i: zlib.crc32(texts[i])):
        if taken + len(texts[i]) <= limit:
            chosen.add(i)
            taken += len(texts[i])
    if taken >= limit / 2 > 0:
        parts = [b"".join(text for i, text in enumerate(texts) if (i in chosen) is held) for held in (False, True)]
        return parts[0], parts[1]
    whole = b"".join(texts)
    return whole[: len(whole) - limit], whole[len(whole) - limit :]


def _read(path: Path) -> bytes:
    try:
        if path.is_char_device() or path.is_block_device():
            raise ArgumentError(f"--data {path} is a device: name a text file")
        return path.read_bytes()
    except IsADirectoryError:
        raise ArgumentError(f"--data {path} is a directory: name the text files in it") from None
    except OSError as error:
        raise ArgumentError(f"cannot read --data {path}: {error.strerror or error}") from error


def _windows(data: np.ndarray, starts: np.ndarray, block: int) -> np.ndarray:
    return data[starts[:, None] + np.arange(block + 1)].astype(np.int64)
