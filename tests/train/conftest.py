"""A text and a model small enough that a run takes a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tensorlib.cli import main

TINY = ["--layers", "1", "--heads", "2", "--width", "16", "--block", "16", "--batch", "2", "--sample", "0",
        "--threads", "1"]  # fmt: skip


@pytest.fixture
def tiny() -> list[str]:
    """The flags of the tiny model."""
    return TINY


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of 4000 bytes."""
    path = tmp_path / "text.txt"
    path.write_bytes(b"".join(b"the square of %d is %d\n" % (i, i * i) for i in range(200))[:4000])
    return path


@pytest.fixture
def train(text: Path, tmp_path: Path) -> Callable[..., int]:
    """`tensorlib train gpt` with a tiny model on ``text`` into tmp_path/run, in this process; its exit status."""

    def run(*flags: str, data: Path = text) -> int:
        return main(["train", "gpt", *TINY, "--data", str(data), "--out", str(tmp_path / "run"), *flags])

    return run
