"""`tensorlib report`: everything there is to know of a GPU machine, by one command, into one folder of few files.

The parts run as processes of their own, each within its time, so that a part that fails, hangs or crashes costs the
others nothing: what `tensorlib doctor` says, the GPU tests (tests/gpu/run.py), the benchmark (bench/gpu.py).

report.json is the record: put into bench/results as gpu-<name>.json it is what `tensorlib doctor` reports of.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorlib
from tensorlib.errors import ArgumentError, TensorlibError
from tensorlib.runtime import versions
from tensorlib.runtime.engine import gpus

PARTS = ("doctor", "tests", "bench")
#: Seconds for everything where nothing else is said: most queues and lent machines give at least ten minutes a command.
MINUTES, QUICK_MINUTES = 9.5, 4.0
NO_GPU = 3  # the exit status of a part, and of the report, that found no GPU
_GRACE = 15.0  # seconds between what a part is told to end by and its being killed

_PACKAGES = ("numpy", "triton", "torch", "cffi", "ml_dtypes", "pytest", "scipy")
_VARIABLES = re.compile(
    r"(TENSORLIB|TRITON|CUDA|NVIDIA|HIP|HSA|ROCR|ROCM|GPU|PYTORCH|OMP|OPENBLAS|MKL|NUMBA|XDG_CACHE)_?\w*|LD_LIBRARY_PATH"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.I)
#: What each vendor's own tool says of the GPUs; they only look.
_TOOLS = (
    ("nvidia-smi",),
    ("nvidia-smi", "--query-gpu=name,driver_version,pci.bus_id,memory.total,memory.used,temperature.gpu,"
     "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,power.draw,persistence_mode,mig.mode.current,"
     "ecc.mode.current,pcie.link.gen.current,pcie.link.width.current", "--format=csv"),
    ("nvidia-smi", "topo", "-m"),
    ("rocm-smi",),
    ("amd-smi", "static"),
)  # fmt: skip
_QUICK_TESTS = (
    "test_gpu_(driver|launch|memory|graphs|training|errors)",
    r"operator\[(add|exp|sum|softmax|matmul|_layer_norm|layer_norm|cross_entropy|conv2d|embedding|where|cat|randn|dropout"
    r"|scaled_dot_product_attention|linear|gather|index_put|cumsum|argmax|nonzero|clone|_adamw?)-",
    r"test_large\[(softmax|matmul|scaled_dot_product_attention|layer_norm|sum_rows|conv2d)-",
)
_QUICK_BENCH = (
    r"^host$|training|^matmul (4096|8192).*bfloat16|^(copy|add) \d+,|^(softmax|layer_norm) 16384.*bfloat16|4096×128"
)


# ------------------------------------------------------------------------------------------------------ the environment


def environment() -> dict[str, Any]:
    """Which machine, which GPUs, which versions, which commit, when, by which command: for every record."""
    root = checkout()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": " ".join(sys.orig_argv),
        "commit": commit(root),
        "changed": changed(root),
        "sources": sources(),
        "versions": {
            "tensorlib": tensorlib.__version__, "python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _version(name))},
        },
        "machine": {
            "system": platform.platform(), "processor": _processor(), "processors": len(_affinity()),
        },
        "variables": {k: "(hidden)" if _SECRET.search(k) else v for k, v in sorted(os.environ.items())
                      if _VARIABLES.fullmatch(k)},
        "gpus": list(_gpus()),
        "why not": gpus().why_not(),
    }  # fmt: skip


def _gpus() -> Iterator[dict[str, Any]]:
    kind = gpus().kind()
    if kind is None:
        return
    driver = gpus().drivers()[kind]
    for i in range(driver.count):
        p = driver.properties(i)
        found = {name: getattr(p, name) for name in p.__slots__ if name != "uuid"}
        yield {**found, "driver": ".".join(map(str, driver.version)), "library": driver.path, "ptxas": _ptxas(p.target)}


def _ptxas(target: str) -> str:
    """The version of the assembler that Triton runs for a target; "" for AMD's, and where it does not run."""
    with contextlib.suppress(TensorlibError, OSError, subprocess.SubprocessError):
        path = versions.assembler(target)
        if path is not None:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout
            found = re.search(r"\bV(\d[\d.]*)", said)
            return f"{found[1]} ({path})" if found else path
    return ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _affinity() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def checkout() -> Path | None:
    """The checkout this is run from or belongs to: the folder with tests/gpu and bench; None where there is none."""
    for root in (Path.cwd(), Path(tensorlib.__file__).resolve().parents[1]):
        if all((root / name).is_file() for name in ("tests/gpu/run.py", "bench/gpu.py", "tensorlib/__init__.py")):
            return root
    return None


def commit(root: Path | None) -> str:
    """The checkout's commit; TENSORLIB_COMMIT where the history did not come along; "unknown"."""
    return os.environ.get("TENSORLIB_COMMIT") or _git(root, "rev-parse", "HEAD") or "unknown"


def changed(root: Path | None) -> bool | None:
    """Whether the checkout differs from its commit; None where nobody can tell."""
    if not _git(root, "rev-parse", "HEAD"):
        return None
    return bool(_git(root, "status", "--porcelain", "--", "tensorlib", "tests", "bench"))


def _git(root: Path | None, *arguments: str) -> str:
    if root is None or not (root / ".git").exists():
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


def sources() -> str:
    """A hash of the library's own files: what ran, where the commit is not known or was changed."""
    folder = Path(tensorlib.__file__).resolve().parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------------- the records


def last_record(root: Path | None) -> dict[str, Any] | None:
    """The newest record in bench/results of GPU tests that ran on a GPU; None where they never did."""
    found: list[dict[str, Any]] = []
    for path in sorted((root / "bench" / "results").glob("gpu-*.json")) if root is not None else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["tests"]["counts"].get("passed") and record["tests"]["gpu"] and not record["simulated"]:
                found.append(record)
    return max(found, key=lambda record: str(record["date"]), default=None)


def last_run(root: Path | None) -> str:
    """What `tensorlib doctor` says of the GPU tests: where, when and at which commit they last ran."""
    if root is None:
        return "not known here: the records are in a checkout, in bench/results"
    record = last_record(root)
    if record is None:
        return "never run on a GPU: no record in bench/results; `tensorlib report` makes one"
    tests = record["tests"]
    counts = ", ".join(f"{n} {outcome}" for outcome, n in tests["counts"].items() if n)
    return f"last run on {tests['gpu']} at {record['commit'][:12]}, {record['date'][:10]}: {counts}"


def record_name(record: dict[str, Any]) -> str:
    """gpu-NVIDIA_H200-2026-11-23-0038cb3.json"""
    name = record["gpus"][0]["name"] if record["gpus"] else "none"
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"gpu-{name}-{record['date'][:10]}-{record['commit'][:7]}") + ".json"


# ------------------------------------------------------------------------------------------------------------ the parts


class Part(NamedTuple):
    """What became of a part."""

    name: str
    status: int | None  # of its process; None where it was killed for its time
    seconds: float
    said: str  # the end of what it printed

    @property
    def word(self) -> str:
        """Its status as a word."""
        if self.status is None:
            return "out of time"
        if self.status < 0:
            with contextlib.suppress(ValueError):
                return f"crashed ({signal.Signals(-self.status).name})"
        return {0: "ok", 1: "failed", 2: "not complete", NO_GPU: "no GPU"}.get(self.status, f"status {self.status}")


def run(
    out: Path, parts: Sequence[str] = PARTS, *, quick: bool = False, minutes: float | None = None,
    allow_no_gpu: bool = False, workers: int | None = None, record: bool = False,
) -> int:  # fmt: skip
    """Make the report in a folder, print its summary, and return the exit status.

    0: every part did its work and found nothing wrong. 1: something failed. 2: something was not run. 3: there is no
    GPU (0 with ``allow_no_gpu``). ArgumentError where tests or bench are asked for and there is no checkout.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown or not parts:
        raise ArgumentError(f"report: --only {','.join(parts)}: expected some of {', '.join(PARTS)}")
    root = checkout()
    if root is None and set(parts) & {"tests", "bench"}:
        raise ArgumentError(
            "report: tests/gpu and bench are not here: they are no part of an installed tensorlib. Run it from a "
            "checkout: `cd tensorlib && python -m tensorlib report`; `--only doctor` works anywhere"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tests.json", "tests.txt", "bench.json", "bench.txt", "bench.png"):
        (out / name).unlink(missing_ok=True)  # what an earlier report left is not this one's
    minutes = (QUICK_MINUTES if quick else MINUTES) if minutes is None else minutes
    stop = time.monotonic() + 60 * minutes
    done: list[Part] = []
    found = {**_of_a_process("environment", {}), "parts": {}}
    (out / "log.txt").write_text("")
    for name in parts:
        left = stop - time.monotonic() - _GRACE
        share = min(60.0, left) if name == "doctor" else 0.6 * left if name == "tests" and "bench" in parts else left
        share = max(share, 5.0)
        done.append(
            _part(name, _command(name, root, out, share, quick, workers), share + _GRACE, out / "log.txt", root)
        )
        print(f"{name}: {done[-1].word}, {done[-1].seconds:.0f} s", flush=True)
        _write(out, found, done)
    record_at = _write(out, found, done)
    text = summary(record_at, done, out)
    (out / "report.txt").write_text("\n".join([text, *_details(done), *_tools()]) + "\n", encoding="utf-8")
    print(text, flush=True)
    if record and root is not None:
        kept = root / "bench" / "results" / record_name(record_at)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "report.json", kept)
        print(f"kept as {kept}")
    return exit_status(done, bool(record_at["gpus"]) or record_at["simulated"], allow_no_gpu)


def exit_status(done: Sequence[Part], gpu: bool, allow_no_gpu: bool) -> int:
    """The report's status from those of its parts."""
    found = [part.status for part in done]
    if any(s not in (0, 2, NO_GPU) for s in found if s is not None):
        return 1
    if not gpu or NO_GPU in found:
        return 0 if allow_no_gpu else NO_GPU
    return 2 if None in found or 2 in found else 0


def _command(name: str, root: Path | None, out: Path, seconds: float, quick: bool, workers: int | None) -> list[str]:
    """The command line of a part."""
    python = [sys.executable, "-u"]
    if name == "doctor" or root is None:
        return [*python, "-m", "tensorlib", "doctor"]
    common = ["--out", str(out.resolve()), "--seconds", f"{seconds:.0f}"]
    if name == "bench":
        tiny = ["--tiny"] if os.environ.get("TENSORLIB_TEST_SIMULATED") else []
        return [*python, str(root / "bench" / "gpu.py"), *common, *(["--only", _QUICK_BENCH] if quick else []), *tiny]
    more = [] if workers is None else ["--workers", str(workers)]
    return [
        *python,
        str(root / "tests" / "gpu" / "run.py"),
        *common,
        *more,
        *(["--only", *_QUICK_TESTS] if quick else []),
    ]


def _part(name: str, command: list[str], seconds: float, log: Path, root: Path | None) -> Part:
    """Run a part in a process group of its own, its streams into the log; killed with its children when time is up."""
    start = time.monotonic()
    paths = [str(root) if root is not None else "", os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONIOENCODING": "utf-8"}
    with open(log, "ab") as file:
        file.write(f"\n======== {name}: {' '.join(command)}\n".encode())
        file.flush()
        begun = file.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True,
        )  # fmt: skip
        status: int | None = None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it may have left running
            process.wait()
    said = log.read_bytes()[begun:].decode(errors="replace").strip()
    return Part(name, status, time.monotonic() - start, said[-20000:])


def _of_a_process(what: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    """``environment()`` as another process finds it: a driver that takes its process down leaves this one alone."""
    code = f"import json; from tensorlib import report; print(json.dumps(report.{what}()))"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["command"] = " ".join(sys.orig_argv)
        return found
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return {
            **otherwise, "date": date, "commit": commit(checkout()), "command": " ".join(sys.orig_argv), "gpus": [],
            "versions": {"tensorlib": tensorlib.__version__}, "why not": [f"looking for GPUs failed: {error}"],
        }  # fmt: skip


def _write(out: Path, found: dict[str, Any], done: Sequence[Part]) -> dict[str, Any]:
    """report.json: the environment, what the parts came to, and the benchmark's results."""
    record = dict(found)
    record["simulated"] = bool(os.environ.get("TENSORLIB_TEST_SIMULATED"))
    record["parts"] = {p.name: {"result": p.word, "seconds": round(p.seconds, 1)} for p in done}
    tests, bench = _json(out / "tests.json"), _json(out / "bench.json")
    if tests:
        bad = {t: r for t, r in tests["tests"].items() if r["outcome"] in ("failed", "crashed", "timed out")}
        record["tests"] = {k: v for k, v in tests.items() if k != "tests"}
        record["tests"]["failures"] = {t: {**r, "text": r["text"][-1500:]} for t, r in bad.items()}
    if bench:
        common = {"date", "command", "commit", "changed", "sources", "versions", "machine", "variables", "gpus"}
        record["bench"] = {k: v for k, v in bench.items() if k not in common}
    (out / "report.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def summary(record: dict[str, Any], done: Sequence[Part], out: Path) -> str:
    """What one wants to know first: of each part the beginning of its text, which it writes as it goes."""
    gpu = ", ".join(f"{g['name']} ({g['target']}, driver {g['driver']})" for g in record["gpus"])
    named = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    state = {True: ", changed since", False: "", None: f", sources {record.get('sources', '?')}"}[record.get("changed")]
    lines = ["", f"tensorlib report, {record['date']}", f"commit    {record['commit']}{state}", f"versions  {named}"]
    if record["simulated"]:
        lines.append("GPU       SIMULATED: this says nothing of any GPU")
    else:
        lines.append(f"GPU       {gpu or 'NONE: ' + ' '.join(record.get('why not', []))}")
    for part in done:
        lines.append(f"{part.name:10}{part.word}, {part.seconds:.0f} s")
        if part.name != "doctor":
            path = out / f"{part.name}.txt"
            text = path.read_text(encoding="utf-8") if path.exists() else part.said
            lines.extend(f"    {line}" for line in text.strip().splitlines()[:45])
        elif part.status:
            lines.extend(f"    {line}" for line in part.said.splitlines()[-12:])
    if not gpu and not record["simulated"]:
        lines += ["", "There is no GPU that can be used here: nothing was proven on one."]
    return "\n".join(lines)


def _details(done: Sequence[Part]) -> Iterator[str]:
    for part in done:
        if part.name == "doctor":
            yield f"\n-------- tensorlib doctor\n{part.said}"


def _tools() -> Iterator[str]:
    """What the vendors' tools say, where they are installed."""
    for command in _TOOLS:
        if shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, errors="replace")
            said = done.stdout + done.stderr
        except (OSError, subprocess.SubprocessError) as error:
            said = f"failed: {error}"
        yield f"\n-------- {' '.join(command)}\n{said.strip()}"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `tensorlib report`."""
    command.add_argument("--out", metavar="DIR", help="folder of the report (report-<date>)")
    command.add_argument(
        "--quick", action="store_true", help=f"first contact and the core only, {QUICK_MINUTES:g} minutes"
    )
    command.add_argument("--only", metavar="PARTS", help=f"some of {','.join(PARTS)}, with commas (all)")
    command.add_argument("--minutes", type=float, metavar="N", help=f"for everything ({MINUTES:g})")
    command.add_argument("--workers", type=int, metavar="N", help="processes that test at once (one a processor, 12)")
    command.add_argument("--allow-no-gpu", action="store_true", help="having no GPU is no error")
    command.add_argument("--record", action="store_true", help="keep report.json in bench/results of the checkout")


def main(options: argparse.Namespace) -> int:
    """`tensorlib report`."""
    out = Path(options.out or f"report-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}")
    parts = [name for name in PARTS if name in options.only.split(",")] if options.only else PARTS
    unknown = set(options.only.split(",")) - set(PARTS) if options.only else set()
    if unknown:
        raise ArgumentError(f"report: --only {','.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    return run(
        out, parts, quick=options.quick, minutes=options.minutes, allow_no_gpu=options.allow_no_gpu,
        workers=options.workers, record=options.record,
    )  # fmt: skip
