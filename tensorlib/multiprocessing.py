"""Python's ``multiprocessing`` under PyTorch's name, with ``spawn``: a function run in processes by their rank.

Tensors travel between processes by pickling, which copies them, but for those in shared memory
(``Tensor.share_memory_``, ``Module.share_memory``): they arrive over that memory. Batches of a DataLoader go through
shared memory of their own (``utils.data``).
"""

from __future__ import annotations

import multiprocessing as _multiprocessing
import multiprocessing.connection as _connection
import os
import shutil
import signal
import tempfile
import traceback
import weakref
from collections.abc import Callable
from multiprocessing import *  # noqa: F403  all its names are this module's
from multiprocessing import reduction as _reduction
from typing import Any

import numpy as _np

from tensorlib import _sharing

__all__ = [
    *_multiprocessing.__all__, "ProcessContext", "ProcessExitedException", "ProcessRaisedException", "SpawnContext",
    "get_all_sharing_strategies", "get_sharing_strategy", "set_sharing_strategy", "spawn", "start_processes",
]  # fmt: skip

_STRATEGIES = {"file_descriptor", "file_system"}
_strategy = ["file_descriptor"]


def get_all_sharing_strategies() -> set[str]:
    """PyTorch's names; what is chosen makes no difference here."""
    return set(_STRATEGIES)


def get_sharing_strategy() -> str:
    """The name that was set."""
    return _strategy[0]


def set_sharing_strategy(new_strategy: str) -> None:
    """Keep the name: tensors are copied from process to process either way."""
    if new_strategy not in _STRATEGIES:
        raise ValueError(f"set_sharing_strategy: {new_strategy!r}: expected one of {sorted(_STRATEGIES)}")
    _strategy[0] = new_strategy


class ProcessException(Exception):
    """A process did not end well: its index and its id."""

    def __init__(self, msg: str, error_index: int, error_pid: int) -> None:
        super().__init__(msg)
        self.msg, self.error_index, self.pid = msg, error_index, error_pid

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.msg, self.error_index, self.pid)


class ProcessRaisedException(ProcessException):
    """A process ended with an exception: the text of it."""


class ProcessExitedException(ProcessException):
    """A process was ended by a signal or with a status: ``exit_code`` and ``signal_name``."""

    def __init__(
        self, msg: str, error_index: int, error_pid: int, exit_code: int, signal_name: str | None = None
    ) -> None:
        super().__init__(msg, error_index, error_pid)
        self.exit_code, self.signal_name = exit_code, signal_name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.msg, self.error_index, self.pid, self.exit_code, self.signal_name)


def _run(fn: Callable[..., Any], rank: int, args: tuple[Any, ...], report: str) -> None:
    """What a process does: ``fn(rank, *args)``, and the text of its exception into a file."""
    try:
        fn(rank, *args)
    except KeyboardInterrupt:
        pass
    except Exception:
        with open(report, "w", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        raise SystemExit(1) from None


class ProcessContext:
    """Processes that were started together."""

    def __init__(self, processes: list[Any], error_files: list[str]) -> None:
        self.processes, self.error_files = processes, error_files
        self.sentinels = {process.sentinel: index for index, process in enumerate(processes)}

    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [int(process.pid) for process in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for some process to end: True when all have. After a failure the others are ended and it is raised."""
        if not self.sentinels:
            return True
        failed = None
        for sentinel in _connection.wait(list(self.sentinels), timeout=timeout):
            index = self.sentinels.pop(sentinel)  # type: ignore[call-overload]
            self.processes[index].join()
            if self.processes[index].exitcode != 0:
                failed = index
                break
        if failed is None:
            return not self.sentinels
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        for process in self.processes:
            process.join(grace_period)
            if process.is_alive():
                process.kill()
                process.join()
        self._raise(failed)
        return False

    def _raise(self, index: int) -> None:
        process = self.processes[index]
        try:
            with open(self.error_files[index], encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
        if text:
            raise ProcessRaisedException(f"\n\n-- Process {index} terminated with the following error:\n{text}",
                                         index, process.pid)  # fmt: skip
        code = process.exitcode
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"<Unknown signal {-code}>"
            message = f"process {index} terminated with signal {name}"
            raise ProcessExitedException(message, index, process.pid, code, name)
        raise ProcessExitedException(f"process {index} terminated with exit code {code}", index, process.pid, code)


SpawnContext = ProcessContext


def start_processes(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Run ``fn(i, *args)`` in ``nprocs`` processes, i from 0 on; with ``join`` wait for them, else give their context.

    ProcessRaisedException has the text of the first exception; the other processes are ended then.
    """
    context: Any = _multiprocessing.get_context(start_method)
    folder = tempfile.mkdtemp(prefix="tensorlib-processes-")
    processes, reports = [], []
    for rank in range(nprocs):
        report = os.path.join(folder, str(rank))
        process = context.Process(target=_run, args=(fn, rank, args, report), daemon=daemon)
        process.start()
        processes.append(process)
        reports.append(report)
    started = ProcessContext(processes, reports)
    weakref.finalize(started, shutil.rmtree, folder, ignore_errors=True)
    if not join:
        return started
    while not started.join():
        pass
    return None


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """``start_processes`` with new processes of Python, which import what ``fn`` needs."""
    return start_processes(fn, args, nprocs, join, daemon, start_method)


def _packed(x: _np.ndarray) -> tuple[Any, ...] | None:
    """What ``_unpacked`` takes, for a message to another process; None for memory that cannot be sent."""
    memory = _sharing.memory_of(x)
    if memory is None or memory.fd < 0:
        return None
    offset = x.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
    return _reduction.DupFd(memory.fd), memory.size, offset, x.shape, x.strides, x.dtype  # type: ignore[attr-defined]


def _unpacked(descriptor: Any, size: int, offset: int, shape: Any, strides: Any, dtype: Any) -> _np.ndarray:
    """The array, in the process that got the message."""
    return _np.ndarray(shape, dtype, _np.asarray(_sharing.SharedMemory(size, descriptor.detach())), offset, strides)


def _sends(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Have messages between processes take objects of a class apart by ``reduce``."""
    _reduction.ForkingPickler.register(kind, reduce)
