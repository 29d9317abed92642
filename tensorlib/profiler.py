"""The profiler under PyTorch's newer names: ``profile`` with a schedule over the steps of a training loop."""

from __future__ import annotations

import enum
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from tensorlib.autograd import profiler as _profiler
from tensorlib.autograd.profiler import EventList, kineto_available, record_function

__all__ = [
    "ProfilerAction", "ProfilerActivity", "kineto_available", "profile", "record_function", "schedule",
    "supported_activities", "tensorboard_trace_handler",
]  # fmt: skip


class ProfilerActivity(enum.Enum):
    """What to record. Operators are recorded in any case; their times are the host's."""

    CPU = 0
    XPU = 1
    CUDA = 2
    MTIA = 3
    HPU = 4
    PrivateUse1 = 5


class ProfilerAction(enum.Enum):
    """What is done in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def supported_activities() -> set[ProfilerActivity]:
    """The CPU's."""
    return {ProfilerActivity.CPU}


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0, skip_first_wait: int = 0
) -> Callable[[int], ProfilerAction]:
    """Of every ``wait + warmup + active`` steps record the last ``active``, ``repeat`` times (0: always)."""
    if min(wait, warmup, repeat, skip_first) < 0 or active <= 0:
        raise ValueError("Invalid profiler schedule arguments: expected active > 0 and the others not negative")

    def action(step: int) -> ProfilerAction:
        if step < skip_first:
            return ProfilerAction.NONE
        step -= skip_first
        if skip_first_wait:
            step += wait
        length = wait + warmup + active
        if repeat and step >= repeat * length:
            return ProfilerAction.NONE
        at = step % length
        if at < wait:
            return ProfilerAction.NONE
        if at < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if at < length - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


def tensorboard_trace_handler(
    dir_name: str, worker_name: str | None = None, use_gzip: bool = False
) -> Callable[[profile], None]:
    """For ``on_trace_ready``: writes each trace as a JSON file into ``dir_name``."""

    def handler(prof: profile) -> None:
        os.makedirs(dir_name, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        prof.export_chrome_trace(os.path.join(dir_name, f"{worker}.{time.time_ns()}.pt.trace.json"))

    return handler


class profile:
    """Records the operators that run inside; with a ``schedule`` those of the steps it chooses, ``step()`` ending each.

    After the last recorded step, or at the end, ``on_trace_ready(self)`` is called.
    """

    def __init__(
        self, *, activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[..., Any] | None = None, record_shapes: bool = False, profile_memory: bool = False,
        with_stack: bool = False, with_flops: bool = False, with_modules: bool = False,
        experimental_config: Any = None, execution_trace_observer: Any = None, acc_events: bool = False,
        use_cuda: bool | None = None, custom_trace_id_callback: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        self.schedule = schedule or (lambda step: ProfilerAction.RECORD)
        self.on_trace_ready = on_trace_ready
        self.record_shapes = record_shapes
        self.profile_memory, self.with_flops, self.with_stack = profile_memory, with_flops, with_stack
        self.step_num = 0
        self.profiler: _profiler.profile | None = None
        self._open = False

    def _record(self, action: ProfilerAction) -> None:
        wanted = action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
        if wanted and not self._open:
            self.profiler = _profiler.profile(
                record_shapes=self.record_shapes, profile_memory=self.profile_memory, with_flops=self.with_flops,
                with_stack=self.with_stack,
            )  # fmt: skip
            self.profiler.__enter__()
            self._open = True

    def _close(self) -> None:
        if self._open and self.profiler is not None:
            self.profiler.__exit__(None, None, None)
            self._open = False
            if self.on_trace_ready is not None:
                self.on_trace_ready(self)

    def start(self) -> None:
        """Begin, as entering does."""
        self._record(self.schedule(self.step_num))

    def stop(self) -> None:
        """End, as leaving does."""
        self._close()

    def step(self) -> None:
        """The next step of the schedule begins."""
        if self.schedule(self.step_num) is ProfilerAction.RECORD_AND_SAVE:
            self._close()
        self.step_num += 1
        self._record(self.schedule(self.step_num))

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _recorded(self) -> _profiler.profile:
        if self.profiler is None:
            raise RuntimeError("Profiler must be initialized before getting its events: nothing was recorded yet")
        return self.profiler

    def events(self) -> EventList:
        """Every run of an operator and every named range."""
        return self._recorded().function_events

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """One entry a name, or a name and shapes of inputs."""
        return self._recorded().key_averages(group_by_input_shape, group_by_stack_n)

    def export_chrome_trace(self, path: str) -> None:
        """Write the runs as JSON that chrome://tracing and Perfetto show."""
        self._recorded().export_chrome_trace(path)
