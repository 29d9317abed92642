"""The GPU tests in several processes, so that kernels compile side by side and one lost context costs one test.

    python tests/gpu/run.py [--out DIR] [--workers N] [--seconds S] [--only TEXT ...]

Each worker is a pytest process with the GPU to itself; it is given one group after another (an operator, a layer, a
file). A worker whose GPU context is lost, that dies, or whose test takes too long is replaced, and what it had not run
yet is run by the next one. Files of first contact come first, in one process. What could not be run is reported as not
run, never as passed. Writes tests.json and tests.txt; prints a table.

Exit status: 0 everything passed; 1 something failed; 2 nothing failed, but not everything was run; 3 there is no GPU.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

#: Run first, one after another, by one process: the rest is built on them.
FIRST = ("driver", "launch", "memory", "graphs")
#: Without these nothing can be right: the rest is then not run.
ESSENTIAL = ("test_copies_there_and_back", "test_trivial_kernel")
#: A group is given up after so many workers were lost to it.
ATTEMPTS = 4
OUTCOMES = ("passed", "failed", "crashed", "timed out", "skipped", "not run")
BAD = OUTCOMES[1:4]
SIMULATED = os.environ.get("TENSORLIB_TEST_SIMULATED", "")


#: What a worker is: pytest, which this folder's conftest.py makes listen to us.
COMMAND = [
    sys.executable, "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider", "-o", "addopts=",
    "-o", "filterwarnings=", f"--rootdir={ROOT}", f"--confcutdir={HERE}", "-m", "gpu",
]  # fmt: skip


class Worker:
    """A process that runs the groups it is given."""

    def __init__(self, log: Any) -> None:
        down, self._write = os.pipe()
        read, up = os.pipe()
        environment = {
            **os.environ,
            "TENSORLIB_TEST_CHANNEL": f"{down},{up}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # the workers share the processors
        }
        self.process = subprocess.Popen(
            COMMAND, cwd=ROOT, env=environment, pass_fds=(down, up), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        os.close(down)
        os.close(up)
        self._read = os.fdopen(read, "r")
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self._read:
            for line in self._read:
                try:
                    self.messages.put(json.loads(line))
                except ValueError:  # a process that dies may leave half a line
                    break
        self.messages.put(None)

    def ask(self, group: str, skip: list[str]) -> None:
        """Begin a group, without the tests that were run already."""
        os.write(self._write, (json.dumps({"group": group, "skip": skip}) + "\n").encode())

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None when the process has ended; queue.Empty when none came in time."""
        return self.messages.get(timeout=max(seconds, 0.01))

    def close(self, kill: bool = False) -> int:
        """End the process; its exit status."""
        try:
            os.close(self._write)
        except OSError:
            pass
        if kill:
            self.process.kill()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Run:
    """All the groups, what came of each test, and the threads that drive the workers."""

    def __init__(self, options: argparse.Namespace, log: Any) -> None:
        self.options, self.log = options, log
        self.begun = time.monotonic()
        self.stop_at = self.begun + options.seconds
        self.known: dict[str, list[str]] = {}  # every test by group
        self.groups: dict[str, list[str]] = {}  # those to run
        self.results: dict[str, dict[str, Any]] = {}
        self.pending: collections.deque[str] = collections.deque()
        self.lock = threading.Lock()
        self.gpu = ""
        self.why_not: list[str] = []
        self.broken = ""  # why the rest is not run
        self.lost_workers = 0

    # -- one worker
    def started(self) -> Worker | None:
        """A worker that has said what there is to run; None when it could not start."""
        worker = Worker(self.log)
        try:
            hello = worker.hear(min(180.0, self.left()))
        except queue.Empty:
            hello = None
        if hello is None:
            status = worker.close(kill=True)
            self.broken = self.broken or f"a worker could not start (exit status {status}): see the log"
            return None
        with self.lock:
            if not self.groups:
                self.known = hello["groups"]
                self.groups = self.chosen(self.known)
                self.gpu, self.why_not = hello["gpu"] or "", hello["why_not"]
        return worker

    def chosen(self, groups: dict[str, list[str]]) -> dict[str, list[str]]:
        """The groups that --only leaves, the longest first: one long group at the end would be waited for."""
        only = self.options.only
        found = {
            name: [t for t in tests if not only or any(re.search(p, t) for p in only)] for name, tests in groups.items()
        }
        order = sorted(found, key=lambda name: (_rank(name), -len(found[name])))
        return {name: found[name] for name in order if found[name]}

    def left(self) -> float:
        return self.stop_at - time.monotonic()

    def run_group(self, worker: Worker, group: str) -> bool:
        """Run what is left of a group; whether the worker can go on."""
        wanted = {t for t in self.groups[group] if t not in self.results}
        try:
            worker.ask(group, [t for t in self.known[group] if t not in wanted])
        except OSError:
            return False
        running = ""
        while True:
            patience = min(self.options.test_seconds, self.left())
            try:
                message = worker.hear(patience)
            except queue.Empty:
                late = self.left() > 0
                if running and late:
                    self.note(running, "timed out", f"no result in {self.options.test_seconds:.0f} s", patience)
                return False
            if message is None:
                status = worker.process.wait()
                if running:
                    self.note(running, "crashed", f"the process ended with status {status}", 0.0)
                return False
            if "start" in message:
                running = message["start"]
            elif "end" in message:
                self.note(message["end"], message["outcome"], message["text"], message["seconds"])
                running = ""
            elif "lost" in message:
                return False
            elif "done" in message:
                return True

    def note(self, test: str, outcome: str, text: str, seconds: float) -> None:
        """What came of a test: a failure of its call stands, whatever its clean-up says."""
        with self.lock:
            before = self.results.get(test)
            if before is None or before["outcome"] in ("passed", "skipped"):
                self.results[test] = {"outcome": outcome, "seconds": seconds, "text": text}

    # -- all of them
    def drive(self, take: Any, worker: Worker | None = None) -> None:
        """Run the groups that take() gives in a worker, and in another one when that is lost."""
        attempts: collections.Counter[str] = collections.Counter()
        group = take()
        while group is not None and self.left() > 0 and not self.broken:
            if worker is None:
                worker = self.started()
                if worker is None:
                    break
            going_on = self.run_group(worker, group)
            left = [t for t in self.groups[group] if t not in self.results]
            if not going_on:
                worker.close(kill=True)
                worker = None
                with self.lock:
                    self.lost_workers += 1
            attempts[group] += 1
            if not left or attempts[group] >= max(ATTEMPTS, len(self.groups[group]) + 1):
                group = take()
        if worker is not None:
            worker.close()

    def say(self) -> None:
        """How far it is, on the standard error and in the files: we may be killed before the end."""
        with self.lock:
            bad = sum(r["outcome"] in BAD for r in self.results.values())
            total = sum(map(len, self.groups.values()))
            done = len(self.results)
        print(f"{done} of {total} tests, {bad} failed, {max(self.left(), 0):.0f} s left", file=sys.stderr, flush=True)
        write(self, f"interrupted after {done} of {total} tests", time.monotonic() - self.begun)

    def take(self) -> str | None:
        with self.lock:
            return self.pending.popleft() if self.pending else None

    def all(self) -> None:
        """First contact by one worker, then everything by many."""
        worker = self.started()
        if worker is None:
            return
        if not self.gpu:
            worker.close()
            return
        first = [name for name in self.groups if name in FIRST]
        self.pending.extend(name for name in self.groups if name not in FIRST)
        beginning = iter(first)
        self.drive(lambda: next(beginning, None), worker)
        self.say()
        failed = [t for t, r in self.results.items() if t.rpartition("::")[2] in ESSENTIAL and r["outcome"] != "passed"]
        if failed:
            self.broken = f"first contact failed: {', '.join(failed)}"
        if self.broken:
            return
        count = min(self.options.workers, max(1, len(self.pending)))
        threads = [threading.Thread(target=self.drive, args=(self.take,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(20)
                self.say()

    def finish(self) -> None:
        """What was not run is said to be so."""
        why = self.broken or ("out of time" if self.left() <= 0 else "its process was lost too often")
        for tests in self.groups.values():
            for test in tests:
                self.results.setdefault(test, {"outcome": "not run", "seconds": 0.0, "text": why})


def _rank(group: str) -> tuple[int, int]:
    """First contact in its order; then what is slow to compile."""
    name = group.split(":")[0]
    if name in FIRST:
        return 0, FIRST.index(name)
    return 1, {"large": 0, "training": 0, "errors": 1, "operators": 2}.get(name, 3)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Counts by file, and seconds of all processes together."""
    files: dict[str, collections.Counter[str]] = {}
    seconds: collections.Counter[str] = collections.Counter()
    for test, result in results.items():
        name = test.split("::")[0].rpartition("/")[2].removeprefix("test_gpu_").removesuffix(".py")
        files.setdefault(name, collections.Counter())[result["outcome"]] += 1
        seconds[name] += result["seconds"]
    lines = [f"{'':12}" + "".join(f"{o:>11}" for o in OUTCOMES) + f"{'seconds':>10}"]
    for name, counts in files.items():
        lines.append(f"{name:12}" + "".join(f"{counts[o] or '':>11}" for o in OUTCOMES) + f"{seconds[name]:10.1f}")
    total = sum(files.values(), collections.Counter())
    lines.append(f"{'all':12}" + "".join(f"{total[o] or '':>11}" for o in OUTCOMES) + f"{sum(seconds.values()):10.1f}")
    return "\n".join(lines)


def _reason(text: str) -> str:
    """The line of a failure that says what is wrong: pytest's last one that begins with E."""
    marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    raised = [line for line in marked if re.match(r"[\w.]*(Error|Exception|Fault|Warning)\b", line)]
    lines = raised or marked or [line for line in text.splitlines() if line.strip()] or [""]
    return lines[0][:300]


def failures(results: dict[str, dict[str, Any]], width: int = 300) -> str:
    """One line a failed test, those of one kind together."""
    bad = {t: r for t, r in results.items() if r["outcome"] in BAD}
    kinds: dict[str, list[tuple[str, str]]] = {}
    for test, result in bad.items():
        reason = _reason(result["text"])
        kinds.setdefault(re.sub(r"[\d.e+-]+|'[^']*'|\([^)]*\)", "#", reason)[:80], []).append((test, reason))
    lines = []
    for group in sorted(kinds.values(), key=len, reverse=True):
        lines.append(f"{len(group)} x {group[0][1][:width]}")
        lines.extend(f"    {test.rpartition('/')[2]}" for test, _ in group[:6])
        if len(group) > 6:
            lines.append(f"    and {len(group) - 6} more")
    return "\n".join(lines)


def reasons(results: dict[str, dict[str, Any]], outcome: str) -> str:
    """Why tests were skipped, or not run, and how many for each reason."""
    counts = collections.Counter(
        re.sub(r"^Skipped: ", "", r["text"].strip())[:200] for r in results.values() if r["outcome"] == outcome
    )
    return "\n".join(f"{n} {outcome}: {why}" for why, n in counts.most_common(12))


def shorten(results: dict[str, dict[str, Any]], whole: int = 150, least: int = 400) -> None:
    """Keep whole texts of so many failures only: thousands of one kind would make files that nobody can move."""
    for i, result in enumerate(r for r in results.values() if r["outcome"] in BAD):
        if i >= whole:
            result["text"] = f"{_reason(result['text'])}\n{result['text'][-least:]}"


def status(run: Run) -> int:
    """The exit status: 0, 1 failures, 2 not everything was run, 3 no GPU."""
    if not run.gpu:
        return 1 if run.broken else 3
    outcomes = {r["outcome"] for r in run.results.values()}
    if outcomes & set(BAD):
        return 1
    return 0 if outcomes and "not run" not in outcomes else 2


def described(run: Run, seconds: float, noise: str) -> str:
    """The results as text."""
    if not run.gpu and not run.broken:
        return "NO GPU: nothing was tested. " + " ".join(run.why_not)
    where = run.gpu + " (simulated driver: says nothing of a GPU)" * bool(SIMULATED)
    lines = [f"GPU tests on {where}, {seconds:.0f} s, {run.lost_workers} processes lost", "", table(run.results)]
    for text in (failures(run.results), reasons(run.results, "not run"), reasons(run.results, "skipped")):
        lines += ["", text] if text else []
    if run.broken:
        lines += ["", f"STOPPED: {run.broken}", noise]
    return "\n".join(lines)


def write(run: Run, text: str, seconds: float) -> None:
    """tests.json and tests.txt, as far as it is."""
    out = run.options.out
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    with run.lock:
        results = {test: dict(result) for test, result in run.results.items()}
    shorten(results)
    full = [f"{test}: {r['outcome']}\n{r['text']}\n" for test, r in results.items() if r["outcome"] in BAD]
    counts = collections.Counter(r["outcome"] for r in results.values())
    record = {
        "gpu": run.gpu, "simulated": bool(SIMULATED), "status": status(run), "seconds": round(seconds, 1),
        "workers": run.options.workers, "only": run.options.only, "lost_processes": run.lost_workers,
        "stopped": run.broken, "counts": {o: counts[o] for o in OUTCOMES}, "tests": results,
    }  # fmt: skip
    (out / "tests.txt").write_text("\n".join([text, "", *full]) + "\n", encoding="utf-8")
    (out / "tests.json").write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for tests.json and tests.txt")
    parser.add_argument("--workers", type=int, default=min(12, max(1, len(os.sched_getaffinity(0)) - 2)))
    parser.add_argument("--seconds", type=float, default=1800.0, help="for everything (1800)")
    parser.add_argument("--test-seconds", type=float, default=120.0, help="for one test, compilation included (120)")
    parser.add_argument("--only", nargs="*", default=[], metavar="REGEX", help="tests whose id matches one of these")
    options = parser.parse_args()
    with tempfile.TemporaryFile() as log:
        run = Run(options, log)
        run.all()
        run.finish()
        log.seek(0)
        noise = log.read()[-4000:].decode(errors="replace")
    seconds = time.monotonic() - run.begun
    text = described(run, seconds, noise)
    print(text, flush=True)
    write(run, text, seconds)
    return status(run)


if __name__ == "__main__":
    sys.exit(main())
