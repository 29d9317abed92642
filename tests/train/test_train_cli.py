"""The command itself: help, version, doctor, the choice of BLAS kernels, a reader that leaves."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tensorlib
from tensorlib import _blas, cli, doctor
from tensorlib.train import LanguageRun, Run, VisionRun


def test_without_arguments_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("train", "generate", "doctor"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "argument COMMAND: invalid choice: 'trian'"),
        (["train", "gtp"], "argument MODEL: invalid choice: 'gtp'"),
        (["train"], "the following arguments are required: MODEL"),
    ],
)
def test_a_mistyped_command(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(argv)
    assert raised.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown and (" COMMAND " if argv == ["trian"] else " MODEL ") in shown.splitlines()[0]


def test_a_picture_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    assert cli.main(["generate", "--checkpoint", str(tmp_path / "x.png")]) == 1
    assert "x.png is neither a safetensors file nor a PyTorch checkpoint" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"tensorlib {tensorlib.__version__}\n"


@pytest.mark.parametrize("made", [LanguageRun, VisionRun])
def test_help_shows_the_defaults_that_hold(made: type[Run], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", made.kind, "--help"])
    shown = " ".join(capsys.readouterr().out.partition("examples:")[0].split())
    for field in dataclasses.fields(made.config_class):
        name = field.name
        if name != "data":
            described = shown.rpartition(f" --{name.replace('_', '-')} ")[2].partition(" --")[0]
            assert f"({field.default})" in described, name


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for name in ("tensorlib", "python", "numpy", "triton", "BLAS", "devices"):
        assert f"\n{name} " in "\n" + shown


_FLAGS = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "fma"}


@pytest.mark.parametrize(
    ("core", "flags", "better"),
    [
        ("Haswell", _FLAGS, "SkylakeX"),
        ("Zen", _FLAGS, "SkylakeX"),
        ("SkylakeX", _FLAGS, None),
        ("Haswell", _FLAGS - {"avx512bw"}, None),
        (None, _FLAGS, None),
    ],
)
def test_the_better_core(
    monkeypatch: pytest.MonkeyPatch, core: str | None, flags: set[str], better: str | None
) -> None:
    list(doctor.report())  # what a process finds out once is found out from the real library and processor
    used = core and _blas.OpenBLAS("lib", core, lambda: 1, None, "", "")
    monkeypatch.setattr(_blas, "openblas", lambda: used)
    monkeypatch.setattr(_blas, "processor_flags", lambda: flags)
    assert _blas.better_core() == better
    assert any("OPENBLAS_CORETYPE=SkylakeX" in line for line in doctor.report()) == (better is not None)


def test_threads_are_set_for_a_while() -> None:
    used = _blas.openblas()
    assert used is not None, "NumPy's wheels for Linux bring OpenBLAS"
    before = used.threads
    with _blas.threads(before + 1):
        assert used.threads == before + 1
    assert used.threads == before


@pytest.mark.parametrize(("load", "free"), [(0.3, 8), (1.6, 6), (20.0, 1)])
def test_free_processors(monkeypatch: pytest.MonkeyPatch, load: float, free: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(_blas, "usable_processors", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert _blas.free_processors() == free
    monkeypatch.setattr(_blas, "usable_processors", lambda: 2)  # two of the eight are ours alone
    assert _blas.free_processors() == 2


def test_blas_kernels_are_chosen_once_and_only_where_the_user_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(_blas, "better_core", lambda: "SkylakeX")
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    cli._with_the_right_blas()
    ((path, arguments, environment),) = calls
    assert path == sys.executable
    assert arguments == [sys.executable, *sys.orig_argv[1:]]
    assert environment == {**os.environ, "OPENBLAS_CORETYPE": "SkylakeX"}
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    cli._with_the_right_blas()
    assert len(calls) == 1


def test_a_reader_that_leaves(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("--steps", "1") == 0
    command = [
        sys.executable,
        "-m",
        "tensorlib.cli",
        "generate",
        "--checkpoint",
        str(tmp_path / "run"),
        "--tokens",
        "5000",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"def "
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141
