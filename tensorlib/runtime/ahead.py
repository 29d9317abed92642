"""Kernels compiled before they are needed, by worker processes, into the cache on disk.

A dry run on a compile-only device says what a program will launch; the workers compile that in parallel; the program,
started afterwards, finds every kernel in the cache and never waits for the compiler.

A worker is told of a kernel by its module and name. One that is generated, local, or of a script is told by its source
and the values it uses; so is one whose file the worker finds changed. Nothing is pickled.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _dtypes
from tensorlib.errors import KernelError
from tensorlib.runtime import cache, compiler
from tensorlib.runtime.compiler import Jit, Request
from tensorlib.runtime.fingerprint import Unknown

__all__ = ["Outcome", "Request", "collect", "compile_all"]


class Outcome(NamedTuple):
    """What became of one request."""

    request: Request
    status: str  #: "found" (it was in the cache), "compiled", or "failed"
    seconds: float  #: that the compilation took
    error: str  #: why it failed; "" otherwise


def collect(fn: Callable[[], Any]) -> list[Request]:
    """What ``fn()`` compiles on compile-only devices, each once, in order; nothing is compiled while it runs.

    fn makes its tensors on a target such as "sm_90" and does what the program will do: a training step, a batch of
    inference. Whatever it raises goes through. ``Request._replace`` makes the variants that a tuner wants as well.
    """
    found: dict[Any, Request] = {}

    def note(request: Request) -> None:
        found.setdefault(request.hashable, request)

    compiler.collectors.append(note)
    try:
        fn()
    finally:
        compiler.collectors.remove(note)
    return list(found.values())


def compile_all(
    requests: Iterable[Request], jobs: int | None = None, progress: Callable[[Outcome, int, int], None] | None = None
) -> list[Outcome]:
    """Compile what is not in the cache yet, in ``jobs`` processes (None: one per usable core), in any order.

    progress is called in this thread with each outcome, how many are done, and how many there are. A compilation that
    fails, or that kills its process, is an outcome like any other: its error names the kernel, its types, constants
    and target. The result is in the order of the requests; equal requests are compiled once. KernelError where the
    cache cannot be written: what is compiled would be lost.
    """
    if not cache.writable():
        raise KernelError(
            f"compile_all: the cache folder {cache.folder()} cannot be written, so that what is compiled would be "
            f"lost: set TENSORLIB_CACHE_DIR to a folder that can, and TENSORLIB_CACHE to 1"
        )
    given = list(requests)
    unique = {r.hashable: r for r in given}
    outcomes: dict[Any, Outcome] = {}

    def done(outcome: Outcome) -> None:
        outcomes[outcome.request.hashable] = outcome
        if progress is not None:
            progress(outcome, len(outcomes), len(unique))

    waiting, here = [], []
    for request in unique.values():
        entry = compiler.entry_key(request)
        if entry is None:
            here.append(request)
        elif cache.load(entry) is not None:
            done(Outcome(request, "found", 0.0, ""))
        else:
            waiting.append((request, entry))
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for outcome in _in_processes(waiting, max(1, min(jobs, len(waiting)))):
        if outcome.status == "elsewhere":
            here.append(outcome.request)
        else:
            done(outcome)
    for request in here:  # what a worker cannot be told of, or would compile with other settings
        start = time.perf_counter()
        try:
            compiler.compile_kernel(*request)
        except KernelError as error:
            done(Outcome(request, "failed", time.perf_counter() - start, str(error)))
        else:
            done(Outcome(request, "compiled", time.perf_counter() - start, ""))
    return [outcomes[r.hashable]._replace(request=r) for r in given]


# -- this process's side -----------------------------------------------------------------------------------------------


def _in_processes(waiting: list[tuple[Request, str]], jobs: int) -> Iterator[Outcome]:
    """The outcomes of the requests, as they come."""
    todo: queue.SimpleQueue[tuple[Request, str]] = queue.SimpleQueue()
    outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    for item in waiting:
        todo.put(item)
    workers: list[_Worker] = []
    threads: list[threading.Thread] = []
    stop = threading.Event()

    def work(worker: _Worker) -> None:
        try:
            while not stop.is_set():
                outcomes.put(worker.outcome(*todo.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:  # raised in the thread that waits
            outcomes.put(error)
        finally:
            worker.end()

    try:
        for _ in range(jobs if waiting else 0):
            worker = _Worker()
            workers.append(worker)
            threads.append(threading.Thread(target=work, args=(worker,), daemon=True))
            threads[-1].start()
        for _ in waiting:
            outcome = outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        stop.set()
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()


_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tensorlib.runtime import ahead; ahead.serve()"


class _Worker:
    """A process that compiles what it is told of, a line of JSON each, and begins again after one that killed it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors: Any = None
        self._stopped = False
        self._lock = threading.Lock()  # a process is begun, or it is stopped

    def outcome(self, request: Request, entry: str) -> Outcome:
        """Have one request compiled."""
        start = time.perf_counter()
        for by_source in (False, True):
            try:
                message = _Told(by_source).request(request)
            except Unknown:
                return Outcome(request, "elsewhere", 0.0, "")
            answer = self._ask({**message, "entry": entry, "surroundings": compiler.surroundings(request.target)})
            if answer["status"] != "unknown":
                break
        status = "elsewhere" if answer["status"] == "unknown" else answer["status"]
        return Outcome(request, status, time.perf_counter() - start, self._error(request, answer))

    @staticmethod
    def _error(request: Request, answer: dict[str, str]) -> str:
        error = answer["error"]
        if not error or error.startswith(request.kernel.__name__):
            return error
        return f"{request.kernel.__name__}: does not compile for {request.target}: {error}\n{request.describe()}"

    def _ask(self, message: dict[str, Any]) -> dict[str, str]:
        with self._lock:
            if self._stopped:
                return {"status": "failed", "error": "stopped"}
            if self._process is None:
                self._errors = tempfile.TemporaryFile()
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, json.dumps([os.path.abspath(p) for p in sys.path])],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
                )  # fmt: skip
            process = self._process
        assert process.stdin is not None and process.stdout is not None
        line = ""
        with contextlib.suppress(OSError, ValueError):  # it has ended
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if line.endswith("\n"):
            answer: dict[str, str] = json.loads(line)
            return answer
        code = process.wait()
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode(errors="replace").strip()
        self.end()
        ended = f"by signal {-code}" if code < 0 else f"with status {code}"
        return {"status": "failed", "error": f"the process that compiled it ended {ended}" + (said and f": {said}")}

    def stop(self) -> None:
        """Have the process end, from another thread: nothing is asked of it any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, self._errors):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


class _Told:
    """A request as JSON. by_source: no function is told by its name."""

    def __init__(self, by_source: bool) -> None:
        self.by_source = by_source
        self.functions: list[dict[str, Any]] = []
        self._numbers: dict[Jit, int] = {}

    def request(self, request: Request) -> dict[str, Any]:
        """A request. Unknown where it has a value that cannot be told."""
        return {
            "kernel": self.value(request.kernel),
            "keys": self.value(request.keys),
            "constants": {k: self.value(v) for k, v in request.constants.items()},
            "target": request.target,
            "num_warps": request.num_warps,
            "num_stages": request.num_stages,
            "options": {k: self.value(v) for k, v in (request.options or {}).items()},
            "functions": self.functions,
        }

    def value(self, value: Any) -> Any:
        """A value."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return {"float": value.hex()}
        if kind is tuple:
            return {"tuple": [self.value(v) for v in value]}
        if isinstance(value, _dtypes.dtype):
            return {"dtype": value.numpy.name, "own": True}
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if isinstance(value, np.generic):
            return {"number": value.tobytes().hex(), "type": value.dtype.name}
        if isinstance(value, type) and issubclass(value, np.generic):
            return {"type": np.dtype(value).name}
        if isinstance(value, Jit) or (hasattr(value, "fn") and hasattr(value, "cache_key")):
            return {"function": self._number(compiler.as_jit(value))}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if kind.__name__ == "constexpr" and kind.__module__.startswith("triton."):
            return {"constexpr": self.value(value.value)}
        place, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if isinstance(place, str) and isinstance(name, str):
            if getattr(sys.modules.get(place), name, None) is value and place != "__main__":
                return {"module": place, "name": name}
        raise Unknown(repr(value))

    def _number(self, jit: Jit) -> int:
        found = self._numbers.get(jit)
        if found is None:
            found = self._numbers[jit] = len(self.functions)
            told: dict[str, Any] = {"module": jit.__module__}
            self.functions.append(told)
            named = compiler.registry.get((jit.__module__, jit.__qualname__)) is jit
            if named and jit.__module__ != "__main__" and not self.by_source:
                told |= {"qualname": jit.__qualname__, "fingerprint": jit.fingerprint}
            else:
                told |= {
                    "source": _bare(jit),
                    "names": {k: self.value(v) for k, v in jit.names_at_first_use.items()},
                    "defaults": self.value(jit.fn.__defaults__),
                    "kwdefaults": {k: self.value(v) for k, v in (jit.fn.__kwdefaults__ or {}).items()},
                }
        return found


def _bare(jit: Jit) -> str:
    """A function's definition without decorators and defaults, which are told as values."""
    definition = ast.parse(textwrap.dedent(jit.source)).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise Unknown(jit.__qualname__)
    definition.decorator_list = []
    definition.args.defaults, definition.args.kw_defaults = [], [None] * len(definition.args.kwonlyargs)
    for parameter in (*definition.args.posonlyargs, *definition.args.args, *definition.args.kwonlyargs):
        is_constant = parameter.arg in jit.constants  # however it is spelled
        parameter.annotation = ast.parse("tl.constexpr", mode="eval").body if is_constant else None
    return ast.unparse(definition) + "\n"


# -- a worker's side ---------------------------------------------------------------------------------------------------


def serve() -> None:
    """A worker's whole life: an answer for every line that comes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the compiler prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(message: dict[str, Any]) -> dict[str, str]:
    if compiler.surroundings(message["target"]) != message["surroundings"]:
        return {"status": "unknown", "error": "other settings than those of the process that asks"}
    try:
        request = _Heard(message["functions"]).request(message)
    except Exception as error:  # a module that is not found or fails, a function that is not in it or has changed
        return {"status": "unknown", "error": str(error)}
    try:
        compiler.obtain(request, message["entry"])
    except KernelError as error:
        return {"status": "failed", "error": str(error)}
    except Exception as error:
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    if cache.load(message["entry"]) is None:
        return {"status": "failed", "error": f"it could not be written to {cache.folder()}"}
    return {"status": "compiled", "error": ""}


class _Heard:
    """The values of a message."""

    def __init__(self, functions: list[dict[str, Any]]) -> None:
        self._told = functions
        self._made: dict[int, Jit] = {}

    def request(self, message: dict[str, Any]) -> Request:
        """The request that the message tells of."""
        return Request(
            self.value(message["kernel"]),
            self.value(message["keys"]),
            {k: self.value(v) for k, v in message["constants"].items()},
            message["target"],
            message["num_warps"],
            message["num_stages"],
            {k: self.value(v) for k, v in message["options"].items()} or None,
        )

    def value(self, told: Any) -> Any:
        """What `_Told.value` told."""
        if not isinstance(told, dict):
            return told
        if "function" in told:
            return self._function(told["function"])
        if "tuple" in told:
            return tuple(self.value(v) for v in told["tuple"])
        if "float" in told:
            return float.fromhex(told["float"])
        if "dtype" in told:
            found = np.dtype(told["dtype"])
            return _dtypes.OF_NUMPY[found] if "own" in told else found
        if "number" in told:
            return np.frombuffer(bytes.fromhex(told["number"]), told["type"])[0]
        if "type" in told:
            return np.dtype(told["type"]).type
        if "constexpr" in told:
            return compiler.triton().language.constexpr(self.value(told["constexpr"]))
        module = importlib.import_module(told["module"])
        return getattr(module, told["name"]) if "name" in told else module

    def _function(self, number: int) -> Jit:
        if number not in self._made:
            told = self._told[number]
            if "qualname" in told:
                importlib.import_module(told["module"])
                jit = compiler.registry[told["module"], told["qualname"]]
                if jit.fingerprint != told["fingerprint"]:
                    raise KernelError(f"{told['qualname']} is another here")
                self._made[number] = jit
            else:
                jit = self._made[number] = compiler.define(told["source"], {}, told["module"])
                scope: dict[str, Any] = jit.fn.__globals__
                scope.update({k: self.value(v) for k, v in told["names"].items()})
                jit.fn.__defaults__ = self.value(told["defaults"])  # type: ignore[attr-defined]
                jit.fn.__kwdefaults__ = {k: self.value(v) for k, v in told["kwdefaults"].items()}  # type: ignore[attr-defined]
        return self._made[number]
