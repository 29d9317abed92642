"""What a run shows: the live line, the curve, the generated text."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import ArgumentError
from tensorlib.train.gpt import GPT, GPTConfig
from tensorlib.train.plot import HEIGHT, WIDTH, loss_curve
from tensorlib.train.progress import Progress
from tensorlib.train.sample import decoded, generate


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_rewritten_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = _Terminal()
    progress = Progress(stream, total=100, count=1000, unit="tokens")
    for step in (1, 2, 50):
        progress.due(0.5)
        progress.show(step, 2.0, "val   -  ")
    progress.show(50, 1.5, "val 1.750")
    progress.end()
    shown = stream.getvalue().split("\r\x1b[K")
    assert stream.getvalue().count("\n") == 1
    assert "step  50/100  loss 1.500  val 1.750   2.0k tokens/s  ETA 0:25" in shown[-1]
    assert "val   -  " in shown[1]
    assert all(len(line.rstrip("\n")) < 100 for line in shown)


def test_a_narrow_terminal_gets_a_line_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = _Terminal()
    Progress(stream, total=100, count=1, unit="tokens").show(5, 2.0, "val   -  ")
    assert len(stream.getvalue().split("\x1b[K")[1]) == 29


def test_elsewhere_there_are_few_plain_lines() -> None:
    stream = io.StringIO()
    progress = Progress(stream, total=10, count=10, unit="tokens")
    assert not any(progress.due(0.1) for _ in range(4))  # not before half a minute has passed
    progress.show(5, 3.0, "val 2.500")
    progress.end()
    assert stream.getvalue() == "step  5/10  loss 3.000  val 2.500    100 tokens/s  ETA 0:00\n"


def _pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (width, height, depth, colour) == (WIDTH, HEIGHT, 8, 2)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3).astype(int)


def test_the_curve_falls_where_the_loss_falls() -> None:
    pixels = _pixels(loss_curve(list(np.linspace(5, 1, 400)), [(100, 4.2), (400, 1.2)]))
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 110)
    blue = (pixels[..., 2] > 200) & (pixels[..., 0] < 150)
    for mask in (red, blue):
        rows = [np.flatnonzero(mask[60:, column]).mean() for column in (300, 500, 700, 900)]
        assert rows == sorted(rows)
        assert rows[-1] - rows[0] > 100
    assert red[:40, 600:].any()  # the legend
    assert blue[:40, 400:].any()


@pytest.mark.parametrize("train", [[], [2.0], [2.0, 2.0], [1e-3, 2e5]])
@pytest.mark.parametrize("validation", [[], [(1, 2.0)]])
def test_the_curve_of_next_to_nothing(train: list[float], validation: list[tuple[int, float]]) -> None:
    assert (_pixels(loss_curve(train, validation)) < 255).any()


@pytest.fixture(scope="module")
def model() -> GPT:
    tl.manual_seed(0)
    return GPT(GPTConfig(layers=1, heads=2, width=16, block=8))


def test_generation_repeats_by_seed_and_is_greedy_at_zero(model: GPT) -> None:
    first = list(generate(model, b"ab", 12, seed=1))
    assert len(first) == 12
    assert first == list(generate(model, b"ab", 12, seed=1))
    assert first != list(generate(model, b"ab", 12, seed=2))
    greedy = list(generate(model, b"ab", 12, temperature=0.0))
    assert greedy == list(generate(model, b"ab", 12, top_k=1, seed=9))
    assert greedy == list(generate(model, b"ab", 12, temperature=1e-300, seed=9))
    with tl.no_grad():
        assert greedy[0] == int(model(tl.tensor([list(b"ab")]))[0, -1].argmax())


def test_generation_draws_from_the_model(model: GPT) -> None:
    with tl.no_grad():
        logits = model(tl.tensor([[10]]))[0, -1].numpy().astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum()
    likely = set(np.argsort(-p)[:3].tolist())
    draws = [next(generate(model, b"", 1, temperature=1.0, top_k=3, seed=seed)) for seed in range(100)]
    assert set(draws) == likely  # near-uniform at the start of training: each of three is seen in 100 draws


@pytest.mark.parametrize(
    ("options", "match"), [({"temperature": -1.0}, "--temperature"), ({"temperature": float("nan")}, "--temperature"),
                           ({"top_k": 0}, "--top-k")])  # fmt: skip
def test_impossible_sampling(model: GPT, options: dict[str, float], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        generate(model, b"", 1, **options)


def test_decoding_as_bytes_arrive() -> None:
    assert list(decoded("aä€".encode())) == ["a", "ä", "€"]
    assert "".join(decoded(b"a\xffb\xe2\x82")) == "a\ufffdb\ufffd"
