"""The corpus: what is read, how it is split, and that batches are a function of seed and step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tensorlib.errors import ArgumentError
from tensorlib.train.text import Corpus, split, standard_library


def test_split_holds_out_whole_files() -> None:
    texts = [bytes([i]) * 100 for i in range(30)]
    train, validation = split(texts)
    assert len(validation) == 300
    assert len(train) == 2700
    assert not set(train) & set(validation)
    assert split(texts[::-1])[1] != b""
    assert set(split(texts[::-1])[1]) == set(validation)  # the choice depends on the content, not on the order


@pytest.mark.parametrize("texts", [[bytes(range(100))], [b"a" * 1000, b"b" * 5]])
def test_split_of_few_files_takes_the_last_tenth(texts: list[bytes]) -> None:
    whole = b"".join(texts)
    train, validation = split(texts)
    assert train + validation == whole
    assert len(validation) == len(whole) // 10


def test_the_standard_library_is_found_without_tests_and_packages() -> None:
    files = standard_library()
    assert files == sorted(files)
    names = {path.name for path in files}
    assert {"argparse.py", "dataclasses.py"} <= names
    assert not any({"site-packages", "test", "tests"} & set(path.parts[-4:]) for path in files)


def test_batches_are_windows_of_the_text_and_repeat(text: Path) -> None:
    corpus = Corpus.read([str(text)], 16)
    batch = corpus.batch(3, seed=1, batch=5, block=16)
    assert batch.shape == (5, 17)
    assert batch.dtype == np.int64
    assert all(bytes(row.astype(np.uint8)) in text.read_bytes()[:3600] for row in batch)
    assert np.array_equal(batch, corpus.batch(3, seed=1, batch=5, block=16))
    assert not np.array_equal(batch, corpus.batch(4, seed=1, batch=5, block=16))
    assert not np.array_equal(batch, corpus.batch(3, seed=2, batch=5, block=16))


def test_validation_windows_lie_in_the_held_out_part(text: Path) -> None:
    corpus = Corpus.read([str(text)], 16)
    batches = corpus.validation_batches(batch=4, block=16)
    assert sum(map(len, batches)) == 400 // 16
    assert all(bytes(row.astype(np.uint8)) in text.read_bytes()[3600:] for batch in batches for row in batch)


def test_the_shortest_text(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 170)
    corpus = Corpus.read([str(path)], 16)
    assert corpus.batch(0, 0, 2, 16).shape == (2, 17)
    assert [b.shape for b in corpus.validation_batches(2, 16)] == [(1, 17)]
    path.write_bytes(b"x" * 169)
    with pytest.raises(ArgumentError, match="153 bytes to train on and 16 to validate with, and --block 16 needs 17"):
        Corpus.read([str(path)], 16)
