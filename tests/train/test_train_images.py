"""`tensorlib train images`: the digits, IDX files and what is wrong with them, resumption, the picture of mistakes."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tensorlib.cli import main
from tensorlib.errors import ArgumentError
from tensorlib.train import Checkpoint, Images
from tensorlib.train.images import read_idx
from tensorlib.train.plot import mosaic

Train = Callable[..., int]


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The four files of a data set in which the class is the bright quarter of the picture; two are compressed."""
    random = np.random.default_rng(0)
    made = tmp_path / "quarters"
    made.mkdir()
    for part, n in (("train", 96), ("t10k", 40)):
        labels = random.integers(0, 4, n).astype(np.uint8)
        images = random.integers(0, 80, (n, 10, 9)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label // 2 * 5 :, label % 2 * 5 :][:5, :4] += 150
        (made / f"{part}-images-idx3-ubyte").write_bytes(_idx(images))
        with gzip.open(made / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(_idx(labels))
    (made / "README").write_text("not a data file")
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def train(folder: Path, out: Path) -> Train:
    """`tensorlib train images` with a tiny net on the quarters, in this process; its exit status."""

    def run(*flags: str) -> int:
        tiny = ["--width", "4", "--batch", "16", "--threads", "1", "--warmup", "3", "--lr", "0.02", "--shift", "0"]
        return main(["train", "images", *tiny, "--data", str(folder), "--out", str(out), *flags])

    return run


def test_it_learns_and_shows_its_mistakes(train: Train, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--epochs", "8", "--dropout", "0") == 0
    shown = capsys.readouterr().out
    assert "96 images of 10 x 9 in 4 classes to train on, 40 to test with" in shown
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == [6 * i for i in range(1, 9)]
    assert entries[-1]["accuracy"] > 0.9 and entries[-1]["train_loss"] < 0.8 * entries[0]["train_loss"]
    assert f"test accuracy {100 * entries[-1]['accuracy']:.2f}%" in shown
    for name in ("loss.png", "misclassified.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_the_digits_are_learnt(tmp_path: Path) -> None:
    assert main(["train", "images", "--epochs", "4", "--threads", "1", "--out", str(tmp_path / "digits")]) == 0
    last = json.loads((tmp_path / "digits" / "log.jsonl").read_text().splitlines()[-1])
    assert last["accuracy"] > 0.94
    data = Images.read(())
    assert data.train.shape == (1433, 8, 8) and data.test.shape == (364, 8, 8) and data.train.max() == 255


def test_without_scikit_learn_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert main(["train", "images", "--out", str(tmp_path / "run")]) == 1
    assert "pip install 'tensorlib[images]'" in capsys.readouterr().err


def test_resumed_it_ends_the_same_to_the_bit(train: Train, out: Path, tmp_path: Path) -> None:
    flags = ["--epochs", "3", "--shift", "1", "--checkpoint-interval", "4"]
    assert train(*flags) == 0
    whole = Checkpoint.load(out, "images")
    part = tmp_path / "part"
    assert train(*flags[2:], "--epochs", "1", "--out", str(part)) == 0
    halfway = Checkpoint.load(part, "images")
    assert halfway.step == 6 and np.array_equal(halfway.losses[:3], whole.losses[:3])  # before the rates part ways
    assert main(["train", "images", "--resume", str(part), "--epochs", "3"]) == 0
    again = Checkpoint.load(part, "images")
    assert again.step == whole.step == 18
    assert main(["train", "images", "--resume", str(out)]) == 0  # at its end
    same = Checkpoint.load(out, "images")
    assert all(np.array_equal(same.model[k], whole.model[k]) for k in whole.model)


def test_a_gpts_checkpoint_is_refused(train: Train, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--epochs", "1") == 0
    assert main(["train", "gpt", "--resume", str(out)]) == 1
    assert "is not a checkpoint of `tensorlib train gpt`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "is not an IDX file"),
        ("train-images-idx3-ubyte", b"\x00\x00\x0d\x03" + bytes(12), "is not an IDX file"),
        ("train-images-idx3-ubyte", b"\x00\x00\x08\x03" + bytes(5), "cut off in its header"),
        ("train-images-idx3-ubyte", struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 8) + bytes(9), "holds only 9"),
        ("train-images-idx3-ubyte", _idx(np.zeros((96, 10, 9), np.uint8)) + b"x", "holds more"),
        ("train-images-idx3-ubyte", _idx(np.zeros((95, 10, 9), np.uint8)), "95 train images with 96 labels"),
        ("train-images-idx3-ubyte", _idx(np.zeros((96, 10, 8), np.uint8)), "differ in size"),
        ("train-images-idx3-ubyte", _idx(np.zeros((96, 10), np.uint8)), r"expected images \(N, H, W\)"),
        ("train-labels-idx1-ubyte.gz", b"\x1f\x8b" + bytes(20), "cannot read"),
        ("valid-labels-idx1-ubyte", _idx(np.zeros(4, np.uint8)), "'train', 't10k' or 'test'"),
        ("test-labels-idx1-ubyte", _idx(np.zeros(40, np.uint8)), "test labels twice"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ArgumentError, match=message):
        Images.read([str(folder)])


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(ArgumentError, match="no test images among 3 IDX files"):
        Images.read([str(folder)])
    with pytest.raises(ArgumentError, match="No such file"):
        read_idx(folder / "t10k-images-idx3-ubyte")


@pytest.mark.parametrize("flag", ["--epochs 0", "--width 0", "--shift -1", "--smoothing 1", "--dropout 1"])
def test_bad_settings_are_named(train: Train, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*flag.split()) == 1
    assert flag.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize(("n", "shown", "tile"), [(0, 0, 0), (1, 1, 195), (8, 8, 195), (11, 11, 118), (70, 60, 56)])
def test_the_mosaic_holds_the_pictures(n: int, shown: int, tile: int) -> None:
    data = mosaic(np.full((n, 8, 8), 255, np.uint8), ["3/8"] * n, f"{n} of 364: label / prediction")
    width, height = struct.unpack(">II", data[16:24])
    rows = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
    image = np.frombuffer(rows, np.uint8).reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)
    assert (image == 0).all(-1).sum() == shown * tile**2  # black pictures, the larger the fewer they are
    assert height <= 540 and width <= 960
