"""`tensorlib report` and what it runs: on the simulated driver, without a GPU, and when its parts go wrong."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from simulated import library

from tensorlib import cli, doctor, report
from tensorlib.errors import ArgumentError

ROOT = Path(__file__).parents[1]
#: No library, so no GPU, wherever this runs.
NONE = {"TENSORLIB_CUDA_DRIVER": os.devnull, "TENSORLIB_HIP_DRIVER": os.devnull}


def loaded(path):
    """A script as a module."""
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"report_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(path.parent))


@pytest.fixture(scope="module")
def runner():
    return loaded(ROOT / "tests" / "gpu" / "run.py")


@pytest.fixture(scope="module")
def bench():
    return loaded(ROOT / "bench" / "gpu.py")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.delenv("TENSORLIB_TEST_SIMULATED", raising=False)
    for name, value in NONE.items():
        monkeypatch.setenv(name, value)


# ----------------------------------------------------------------------------------------------------------- end to end


def test_on_the_simulated_driver(monkeypatch, tmp_path, capsys):
    """All three parts, a little of each: every test is counted, every entry has a time, and nothing claims a GPU."""
    monkeypatch.setenv("TENSORLIB_TEST_SIMULATED", "cuda")
    monkeypatch.setattr(report, "_QUICK_TESTS", ("test_trivial_kernel", "test_copies_there", r"operator\[exp-"))
    monkeypatch.setattr(report, "_QUICK_BENCH", "^(add|copy) 16, float32|^softmax 16×16, both ways, float32")
    status = report.run(tmp_path, quick=True, minutes=2, workers=1)
    said = capsys.readouterr().out
    assert status == 0, said
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["simulated"] and record["tests"]["simulated"] and record["bench"]["simulated"]
    assert record["tests"]["counts"]["passed"] == 6 and sum(record["tests"]["counts"].values()) == 6
    times = {name: r["tensorlib"] for name, r in record["bench"]["results"].items()}
    assert len(times) == 3 and all(t["device"] > 0 and t["call"] > 0 and "no graph" not in t for t in times.values())
    assert record["bench"]["finished"] and record["bench"]["copy bandwidth"] > 0
    assert "SIMULATED" in said and re.search(r"operators +4 ", said)
    names = sorted(p.name for p in tmp_path.iterdir())
    made = "bench.json bench.png bench.txt log.txt report.json report.txt tests.json tests.txt"
    assert " ".join(names) == made
    assert report.last_record(tmp_path) is None


def test_without_a_gpu(no_gpu, tmp_path, capsys):
    """It says so, passes nothing, and the status says so too."""
    assert report.run(tmp_path, ["doctor", "tests"], minutes=2) == report.NO_GPU
    said = capsys.readouterr().out
    assert "NO GPU: nothing was tested" in said and "NONE: CUDA:" in said and "nothing was proven" in said
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["gpus"] == [] and record["why not"] and record["tests"]["counts"]["passed"] == 0
    assert record["parts"]["doctor"]["result"] == "ok" and record["parts"]["tests"]["result"] == "no GPU"
    assert "never run on a GPU" in (tmp_path / "report.txt").read_text()


def test_the_benchmark_without_a_gpu(no_gpu, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == report.NO_GPU and "NO GPU: nothing was measured. CUDA:" in done.stdout, done.stderr


def test_gpu_tests_are_skipped_with_a_reason(no_gpu):
    """By pytest alone: not one passes, and each says why."""
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-rs", "-p", "no:cacheprovider", "-m", "gpu"]
    done = subprocess.run(
        [*command, "tests/gpu/test_gpu_driver.py"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and re.search(r"^\d+ skipped", done.stdout, re.M), done.stdout + done.stderr
    assert "no GPU can be used here: CUDA:" in done.stdout and "passed" not in done.stdout


def test_the_command_line(no_gpu, monkeypatch, tmp_path, capsys):
    """Flags, statuses, few files, and a part that there is none of."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "--only", "doctor", "--out", "a", "--allow-no-gpu"]) == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["log.txt", "report.json", "report.txt"]
    assert cli.main(["report", "--only", "doctor,tennis"]) == 1
    assert "--only tennis: expected some of doctor, tests, bench" in capsys.readouterr().err


def test_a_driver_without_cffi():
    """A machine with a GPU, and without the package that calls its driver: said, not raised."""
    code = """
        import sys
        sys.modules["cffi"] = None
        from tensorlib.runtime import gpu
        assert gpu.kind() is None
        print(gpu.why_not()[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
        env={**os.environ, **NONE, "TENSORLIB_CUDA_DRIVER": library("cuda"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip().endswith("pip install cffi"), done.stdout + done.stderr


def test_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "checkout", lambda: None)
    with pytest.raises(ArgumentError, match=r"no part of an installed tensorlib\. Run it from a checkout"):
        report.run(tmp_path)
    assert report.last_run(None).startswith("not known here")


# ------------------------------------------------------------------------------------------------- parts that go wrong


def test_a_part_that_hangs_is_killed_with_its_children(tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('begun', flush=True); time.sleep(60)"
    start = time.monotonic()
    part = report._part("tests", [sys.executable, "-c", code], 1.0, tmp_path / "log.txt", None)
    assert part.word == "out of time" and part.said == "begun" and time.monotonic() - start < 10


def test_a_part_that_crashes_is_named(tmp_path):
    code = "import os; os.kill(os.getpid(), 11)"
    part = report._part("bench", [sys.executable, "-c", code], 20.0, tmp_path / "log.txt", None)
    assert part.word == "crashed (SIGSEGV)"


@pytest.mark.parametrize(
    ("statuses", "gpu", "allow", "status"),
    [
        ((0, 0, 0), True, False, 0), ((0, 1, 0), True, False, 1), ((0, -11, 0), True, False, 1),
        ((0, 2, 0), True, False, 2), ((0, 0, None), True, False, 2), ((0, 3, 3), False, False, 3),
        ((0, 3, 3), False, True, 0), ((1, 3, 3), False, True, 1), ((0,), False, False, 3), ((0, 3, 0), True, False, 3),
    ],
)  # fmt: skip
def test_exit_status(statuses, gpu, allow, status):
    done = [report.Part("x", s, 0.0, "") for s in statuses]
    assert report.exit_status(done, gpu, allow) == status


WORKER = """
import json, os, sys, time
down, up = map(int, os.environ["TENSORLIB_TEST_CHANNEL"].split(","))
requests, answers = os.fdopen(down), os.fdopen(up, "w")
def say(**message):
    print(json.dumps(message), file=answers, flush=True)
groups = {"driver": ["d::test_copies_there_and_back"], "operators:a": ["o::a-1", "o::a-lost", "o::a-2", "o::a-3"],
          "operators:b": ["o::b-1", "o::b-crash", "o::b-2"], "operators:c": ["o::c-hang", "o::c-1"],
          "operators:d": ["o::d-1"]}
groups = {"driver": groups["driver"]} if len(sys.argv) > 1 else groups
say(groups=groups, gpu="Fake", why_not=[])
for line in requests:
    request = json.loads(line)
    for test in groups[request["group"]]:
        if test in request["skip"]:
            continue
        say(start=test)
        if test.endswith("crash"):
            os.abort()
        if test.endswith("hang"):
            time.sleep(60)
        bad = test.endswith("lost") or len(sys.argv) > 1
        text = "E  DeviceFault: an illegal address" if bad else ""
        say(end=test, outcome="failed" if bad else "passed", seconds=0.01, text=text)
        if test.endswith("lost"):
            say(lost=test)
            os._exit(0)
    say(done=request["group"])
"""


@pytest.fixture
def drive(runner, monkeypatch, tmp_path):
    """The runner over a worker that loses its context, crashes and hangs where it is told to."""
    (tmp_path / "worker.py").write_text(WORKER)

    def run(*arguments, **options):
        monkeypatch.setattr(runner, "COMMAND", [sys.executable, str(tmp_path / "worker.py"), *arguments])
        given = {"seconds": 30.0, "test_seconds": 1.0, "workers": 2, "only": [], "out": tmp_path, **options}
        with open(tmp_path / "log", "wb") as log:
            made = runner.Run(argparse.Namespace(**given), log)
            made.all()
            made.finish()
        return made

    return run


def test_a_lost_worker_costs_one_test(drive, runner):
    """The tests after a lost context, a crash or a hang are run by the next process; what took it down is named."""
    run = drive()
    outcomes = {test.rpartition("::")[2]: result["outcome"] for test, result in run.results.items()}
    assert outcomes == {
        "test_copies_there_and_back": "passed", "a-1": "passed", "a-lost": "failed", "a-2": "passed", "a-3": "passed",
        "b-1": "passed", "b-crash": "crashed", "b-2": "passed", "c-hang": "timed out", "c-1": "passed", "d-1": "passed",
    }  # fmt: skip
    assert run.lost_workers == 3 and runner.status(run) == 1
    assert "1 x DeviceFault: an illegal address" in runner.failures(run.results)
    assert re.search(r"^all +8 +1 +1 +1 +\d", runner.table(run.results), re.M)


def test_nothing_is_run_after_failed_first_contact(drive, runner):
    run = drive("fails")
    assert run.broken == "first contact failed: d::test_copies_there_and_back"
    assert runner.status(run) == 1


def test_what_there_is_no_time_for_is_not_run(drive, runner):
    run = drive(seconds=1.5, test_seconds=60.0, workers=1, only=["copies", "c-", "d-"])
    assert run.results["o::c-1"]["outcome"] == "not run" and "out of time" in run.results["o::c-1"]["text"]
    assert runner.status(run) in (1, 2) and "o::a-1" not in run.results


def test_workers_that_cannot_start(drive, runner, monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text("raise SystemExit('no pytest here')")
    run = drive()
    assert "could not start" in run.broken and runner.status(run) == 1


def test_the_benchmark_goes_on_after_a_crash(bench, tmp_path, capsys):
    """The entry that took the process down is named; the others are measured by another one."""
    script = tmp_path / "measure.py"
    script.write_text(
        textwrap.dedent("""
        import json, os, sys
        channel = os.fdopen(int(sys.argv[sys.argv.index("--channel") + 1]), "w")
        skip = sys.argv[sys.argv.index("--skip") + 1:]
        def say(**message):
            print(json.dumps(message), file=channel, flush=True)
        say(gpu="Fake", libraries=["tensorlib"])
        times = {"device": 1e-4, "call": 2e-4, "first": 1.0}
        for name in ("copy, float32", "bad", "worse", "add, float32"):
            if name not in skip:
                say(start=name)
                if name == "bad":
                    os.abort()
                result = {"error": "KernelError: no"} if name == "worse" else times
                say(end=name, result={"dtype": "float32", "bytes": 1e6, "flops": 0.0, "tensorlib": result})
        say(finished=True)
    """)
    )
    options = argparse.Namespace(
        out=tmp_path / "out", only="", seconds=30.0, tiny=True, measure=[sys.executable, str(script)]
    )
    assert bench.parent(options) == 1
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(record["results"]) == ["copy, float32", "worse", "add, float32"] and list(record["lost"]) == ["bad"]
    said = capsys.readouterr().out
    assert "LOST: the process ended with status -6" in said and "FAILED: KernelError: no" in said
    assert re.search(r"add, float32 +100\.00 +- +- +10 +100% +200\.00", said)


# ---------------------------------------------------------------------------------------------------------- the records


def _record(date, gpu="NVIDIA H200", simulated=False, passed=7):
    return {"date": date, "commit": "0123456789abcdef", "simulated": simulated, "gpus": [{"name": gpu}],
            "tests": {"gpu": gpu, "counts": {"passed": passed, "failed": 0}}}  # fmt: skip


def test_doctor_names_the_last_run_on_a_gpu(monkeypatch, tmp_path):
    """Simulated runs, runs in which nothing passed and damaged files do not count."""
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    assert report.last_run(tmp_path).startswith("never run on a GPU")
    for i, record in enumerate((_record("2026-12-01", simulated=True), _record("2026-12-02", passed=0))):
        (folder / f"gpu-{i}.json").write_text(json.dumps(record))
    (folder / "gpu-damaged.json").write_text("{")
    assert report.last_run(tmp_path).startswith("never run on a GPU")
    for date in ("2026-11-30 10:00:00 UTC", "2026-11-29 10:00:00 UTC"):
        record = _record(date)
        (folder / report.record_name(record)).write_text(json.dumps(record))
    assert report.last_run(tmp_path) == "last run on NVIDIA H200 at 0123456789ab, 2026-11-30: 7 passed"
    monkeypatch.setattr(doctor, "checkout", lambda: tmp_path)
    assert any("last run on NVIDIA H200" in line for line in doctor.report())


def test_names_of_records_are_plain():
    name = report.record_name(_record("2026-11-30 10:00:00 UTC", gpu="AMD Instinct™ MI300X / (OAM)"))
    assert re.fullmatch(r"gpu-AMD_Instinct\w*_MI300X[\w.-]*-2026-11-30-0123456\.json", name) and name.isascii()


def test_the_environment_hides_secrets(monkeypatch):
    monkeypatch.setenv("TENSORLIB_COMMIT", "abc")
    monkeypatch.setenv("CUDA_API_TOKEN", "hush")
    found = report.environment()
    assert found["commit"] == "abc" and found["variables"]["CUDA_API_TOKEN"] == "(hidden)" and "hush" not in str(found)
    assert re.fullmatch(r"[0-9a-f]{16}", found["sources"]) and found["versions"]["numpy"]
