"""A run that is stopped, killed or refused: it continues to the bit, and its last checkpoint stays whole."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tensorlib.cli import main
from tensorlib.errors import CheckpointError
from tensorlib.train import Checkpoint, LanguageConfig, LanguageRun, Run

Train = Callable[..., int]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the `train` fixture's run goes."""
    return tmp_path / "run"


def _assert_same(a: Checkpoint, b: Checkpoint) -> None:
    """Everything but the time it took."""
    assert a.step == b.step
    assert a.config == b.config
    assert np.array_equal(a.losses, b.losses)
    timeless = [
        [{k: v for k, v in e.items() if k not in ("seconds", "tokens_per_second")} for e in c.history] for c in (a, b)
    ]
    assert timeless[0] == timeless[1]
    assert a.random.tobytes() == b.random.tobytes()
    for part in ("model", "optimizer"):
        one, other = getattr(a, part), getattr(b, part)
        assert one.keys() == other.keys()
        assert all(one[name].tobytes() == other[name].tobytes() for name in one), part


def _sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("tensorlib: ")
    return error


def _stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Let a signal come in the middle of the step."""
    whole = Run._train_step

    def train_step(run: Run) -> None:
        if run.step + 1 == step:
            signal.raise_signal(number)
        whole(run)

    monkeypatch.setattr(Run, "_train_step", train_step)


def test_a_run_learns_and_leaves_its_files(train: Train, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "60", "--eval-interval", "20", "--lr", "0.01", "--warmup", "5", "--sample", "9") == 0
    assert {path.name for path in out.iterdir()} == {"checkpoint.safetensors", "log.jsonl", "loss.png"}
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [20, 40, 60]
    losses = Checkpoint.load(out).losses
    assert log[1]["train_loss"] == losses[20:40].mean()
    assert abs(losses[0] - np.log(256)) < 0.2  # untrained: uniform over bytes
    assert log[-1]["validation_loss"] < 3.5
    assert log[-1]["learning_rate"] == pytest.approx(0.001, rel=0.01)
    printed = capsys.readouterr().out
    assert "step 60/60" in printed
    assert "\ndef " in printed
    assert main(["generate", "--checkpoint", str(out), "--tokens", "5", "--prompt", "the é"]) == 0


def test_the_live_line_follows_the_loss(text: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("tensorlib.train.progress._REFRESH", 0.0)
    stream = Terminal()
    config = LanguageConfig(data=(str(text),), layers=1, heads=2, width=16, block=16, batch=2, steps=9, eval_interval=6)
    run = LanguageRun.start(config, out, stream=stream)
    assert run.fit() is None
    lines = stream.getvalue().split("\x1b[K")[1:]
    assert len(lines) == 9
    assert all(f"step {i + 1}/9  loss {loss:.3f}" in lines[i] for i, loss in enumerate(run.losses))
    assert ["val   -  " in line for line in lines] == [True] * 5 + [False] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_is_the_same_run_to_the_bit(
    train: Train, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    flags = ["--steps", "12", "--eval-interval", "5", "--checkpoint-interval", "4", "--dropout", "0.1"]
    assert train(*flags) == 0
    whole = Checkpoint.load(out)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        _stop_after(patch, 7, number)
        assert train(*flags, "--overwrite") == 128 + number
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert f"stopped after step 7: `tensorlib train gpt --resume {out}` continues" in capsys.readouterr().out
    assert Checkpoint.load(out).step == 7
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 10, "a line of a run that was kil')
    assert train("--resume") == 0
    _assert_same(Checkpoint.load(out), whole)
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [5, 10, 12]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(train: Train, out: Path, dtype: str) -> None:
    flags = ["--eval-interval", "50", "--lr", "0.01", "--warmup", "5", "--dtype", dtype]
    assert train("--steps", "49", *flags) == 0
    assert train("--resume", "--steps", "50") == 0
    checkpoint = Checkpoint.load(out)
    assert checkpoint.history[-1]["validation_loss"] < 3.6
    assert checkpoint.model["head.weight"].dtype == (np.float64 if dtype == "float64" else np.float32)
    assert main(["generate", "--checkpoint", str(out), "--tokens", "3"]) == 0


def test_resume_without_the_random_state_would_differ(train: Train, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above sees a wrong random state: dropout does depend on it."""
    flags = ["--steps", "6", "--dropout", "0.1"]
    assert train(*flags) == 0
    whole = Checkpoint.load(out)
    with monkeypatch.context() as patch:
        _stop_after(patch, 3, signal.SIGINT)
        assert train(*flags, "--overwrite") == 130
    monkeypatch.setattr("tensorlib.set_rng_state", lambda state: None)
    assert train("--resume") == 0
    with pytest.raises(AssertionError):
        _assert_same(Checkpoint.load(out), whole)


def test_resume_elsewhere_and_longer(
    train: Train, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--steps", "3") == 0
    before = (out / "checkpoint.safetensors").read_bytes()
    other = tmp_path / "other"
    assert main(["train", "gpt", "--resume", str(out), "--out", str(other), "--steps", "5", "--sample", "0"]) == 0
    assert "resuming at step 3 of 5\n" in capsys.readouterr().out
    assert Checkpoint.load(other).step == 5
    assert Checkpoint.load(other).losses.shape == (5,)
    assert (out / "checkpoint.safetensors").read_bytes() == before
    assert main(["train", "gpt", "--resume", str(other / "checkpoint.safetensors"), "--sample", "0"]) == 0  # at its end
    assert main(["train", "gpt", "--resume", str(other), "--steps", "4"]) == 1
    assert "at step 5 already: a run of 4 steps is behind it" in _sentence(capsys)


def _spawn(*flags: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tensorlib.cli", "train", "gpt", *flags], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload] # fmt: skip


def test_killed_at_any_moment_it_continues_to_the_bit(
    train: Train, tiny: list[str], text: Path, out: Path, tmp_path: Path
) -> None:
    flags = ["--steps", "400", "--eval-interval", "3", "--checkpoint-interval", "1", "--dropout", "0.1"]
    killed, written = tmp_path / "killed", tmp_path / "killed" / "log.jsonl"
    begin = [*tiny, "--data", str(text), "--out", str(killed), *flags]
    delays = random.Random(0)
    steps = []
    for _ in range(3):
        process = _spawn(*(["--resume", str(killed)] if killed.exists() else begin))
        deadline = time.monotonic() + 60
        before = written.stat().st_mtime_ns if written.exists() else 0
        while not (written.exists() and written.stat().st_mtime_ns > before) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delays.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        steps.append(Checkpoint.load(killed).step)  # whole, whenever it was killed
    assert process.returncode == -signal.SIGKILL
    assert steps == sorted(steps)
    assert 0 < steps[-1] < 400
    last = str(steps[-1] + 3)
    assert main(["train", "gpt", "--resume", str(killed), "--steps", last, "--sample", "0"]) == 0
    # The schedule depends on --steps: the uninterrupted run stops where the other one was, and goes on likewise.
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(patch, steps[-1], signal.SIGTERM)
        assert train(*flags) == 143
    assert train("--resume", "--steps", last) == 0
    one, other = Checkpoint.load(killed), Checkpoint.load(out)
    _assert_same(dataclasses.replace(one, history=[]), dataclasses.replace(other, history=[]))


def test_a_second_signal_ends_at_once() -> None:
    program = """
import time
from tensorlib.train.signals import StopRequest
with StopRequest() as stop:
    print("begun", flush=True)
    while stop.signal is None:
        time.sleep(0.01)
    print("noted", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    for expected in ("begun\n", "noted\n"):
        assert process.stdout.readline() == expected
        process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert error == ""


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--data", "none.txt"], "cannot read --data none.txt: No such file"),
        (["--data", "/"], "--data / is a directory"),
        (["--data", os.devnull], "is a device: name a text file"),
        (["--block", "10000"], "the text is too short: 3600 bytes to train on and 400 to validate with"),
        (["--block", "512"], "too short"),
        (["--width", "15"], "--width 15 does not divide into --heads 2"),
        (["--width", "6"], "heads of 3: rotary positions"),
        (["--layers", "0"], "--layers is 0"),
        (["--heads", "-1"], "--heads is -1"),
        (["--batch", "0"], "--batch is 0"),
        (["--steps", "-5"], "--steps is -5"),
        (["--eval-interval", "0"], "--eval-interval is 0"),
        (["--checkpoint-interval", "-1"], "--checkpoint-interval is -1"),
        (["--lr", "0"], "--lr is 0"),
        (["--lr", "nan"], "--lr is nan"),
        (["--warmup", "-1"], "--warmup is -1"),
        (["--weight-decay", "inf"], "--weight-decay is inf"),
        (["--clip", "-1"], "--clip is -1"),
        (["--dropout", "1"], "--dropout is 1"),
        (["--threads", "-1"], "--threads is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--sample", "-1"], "--sample is -1"),
        (["--width", "1000000000000"], "parameters, more than a machine holds"),
        (["--batch", "1000000000000"], "more than a step can hold"),
        (["--dtype", "int8"], "--dtype is 'int8': expected one of float32"),
        (["--device", "abacus"], "--device abacus: unknown device"),
        (["--device", "cuda"], "^tensorlib: --device cuda: device 'cuda': no GPU can be used here: CUDA: "),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--resume", "none"], "there is no checkpoint at none"),
    ],
)
def test_bad_input_is_one_sentence_and_touches_nothing(
    train: Train, out: Path, capsys: pytest.CaptureFixture[str], flags: list[str], match: str
) -> None:
    out.mkdir()
    for name in ("checkpoint.safetensors", "log.jsonl"):
        (out / name).write_bytes(b"the run before")
    assert train("--overwrite", *flags) == 1
    assert re.search(match, _sentence(capsys))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "checkpoint.safetensors": b"the run before", "log.jsonl": b"the run before"}  # fmt: skip


def test_an_empty_file_is_said_to_be_empty(
    train: Train, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert train(data=empty) == 1
    assert f"--data {empty} is empty" in _sentence(capsys)
    assert not out.exists()


def test_usage_errors_are_of_argparse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["train", "gpt", "--layers", "four"])
    assert raised.value.code == 2
    assert "invalid int value: 'four'" in capsys.readouterr().err


def test_an_out_that_holds_a_run_is_not_overwritten(
    train: Train, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--steps", "1") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert train("--steps", "1") == 1
    assert "holds a run already: continue it with --resume, replace it with --overwrite" in _sentence(capsys)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert train("--steps", "2", "--overwrite") == 0
    assert Checkpoint.load(out).step == 2


def test_an_out_that_cannot_be_written(train: Train, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--out", str(text)) == 1
    assert f"cannot write to --out {text}: File exists" in _sentence(capsys)
    assert train("--out", str(text / "sub")) == 1
    assert "Not a directory" in _sentence(capsys)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--width", "32"], "--width 16 and --width 32 was given"),
        (["--dtype", "float64"], "--dtype float32 and --dtype float64 was given"),
        (["--lr", "0.5"], "--lr 0.003 and --lr 0.5 was given"),
    ],
)
def test_resume_with_other_settings(
    train: Train, out: Path, capsys: pytest.CaptureFixture[str], flags: list[str], match: str
) -> None:
    assert train("--steps", "1") == 0
    assert train("--resume", *flags) == 1
    assert match in _sentence(capsys)
    assert Checkpoint.load(out).step == 1


def test_resume_with_other_text(train: Train, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "1") == 0
    other = tmp_path / "other.txt"
    other.write_bytes(b"other text, " * 300)
    assert train("--resume", data=other) == 1
    assert "the data is not what the checkpoint was trained on" in _sentence(capsys)


def test_a_damaged_checkpoint(train: Train, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "1") == 0
    path = out / "checkpoint.safetensors"
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    chance = random.Random(0)
    damages = [whole[:n] for n in (0, 4, 8, 100, start, start + 5, len(whole) - 1)] + [
        whole + b"\x00",
        b"not a checkpoint",
    ]
    for at in [*range(8), *chance.sample(range(8, start), 60), *chance.sample(range(start, len(whole)), 60)]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        damages.append(bytes(flipped))
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            Checkpoint.load(path)
    for command in (["train", "gpt", "--resume", str(out)], ["generate", "--checkpoint", str(out)]):
        assert main(command) == 1
        assert str(path) in _sentence(capsys)
    assert path.read_bytes() == damages[-1]


def test_a_checkpoint_of_another_model(train: Train, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "1") == 0
    checkpoint = Checkpoint.load(out)
    checkpoint.model["norm.weight"] = np.ones(7, np.float32)
    checkpoint.save(out / "checkpoint.safetensors")
    assert train("--resume") == 1
    assert re.search(
        r"norm.weight is float32 of shape \(7,\) in it and float32 of shape \(16,\) here", _sentence(capsys)
    )
    del checkpoint.model["norm.weight"]
    checkpoint.save(out / "checkpoint.safetensors")
    assert train("--resume") == 1
    assert "norm.weight is missing in it" in _sentence(capsys)


def test_a_full_disk_keeps_the_checkpoint_before(
    train: Train, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--steps", "2") == 0
    before = (out / "checkpoint.safetensors").read_bytes()
    written = os.fsync

    def full(descriptor: int) -> None:
        if "checkpoint" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert train("--resume", "--steps", "4") == 1
    assert "No space left on device; the checkpoint before it is intact" in _sentence(capsys)
    assert (out / "checkpoint.safetensors").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"checkpoint.safetensors", "log.jsonl", "loss.png"}


def test_a_file_limit_that_cuts_the_write(train: Train, out: Path) -> None:
    """The kernel itself refuses the bytes in the middle of the file, as a full disk does."""
    assert train("--steps", "2") == 0
    before = (out / "checkpoint.safetensors").read_bytes()
    limit = len(before) // 2
    process = _spawn("--resume", str(out), "--steps", "9", "--eval-interval", "100", "--checkpoint-interval", "3",
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))  # fmt: skip
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert "File too large; the checkpoint before it is intact" in error
    assert (out / "checkpoint.safetensors").read_bytes() == before


def test_divergence_names_the_step_and_keeps_the_checkpoint(
    train: Train, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--steps", "50", "--checkpoint-interval", "1", "--lr", "1e30", "--warmup", "0") == 1
    sentence = _sentence(capsys)
    assert re.search(r"at step \d+: .*lower --lr than 1e\+30", sentence)
    kept = Checkpoint.load(out)
    assert all(np.isfinite(array).all() for array in kept.model.values())
    assert np.isfinite(kept.losses).all()


def test_a_directory_without_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for command in (["train", "gpt", "--resume", str(tmp_path / "empty")], ["generate", "--checkpoint", str(tmp_path)]):
        assert main(command) == 1
        assert "there is no checkpoint at" in _sentence(capsys)
