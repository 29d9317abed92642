"""Which operators ran and how long the program spent on them: ``with profile() as p:``, then ``p.key_averages()``.

An operator's time is from the end of the one before it (or the beginning of the range it is in) to its own end, so it
includes the Python around it; on a GPU it is the time to launch, as kernels run on by themselves.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

from tensorlib._core import listening, observers
from tensorlib.errors import UnsupportedError

__all__ = [
    "EventList", "FunctionEvent", "FunctionEventAvg", "emit_itt", "emit_nvtx", "kineto_available", "profile",
    "record_function",
]  # fmt: skip

_ROOT = str(Path(__file__).parent.parent)

#: The profiles that run now, the outermost first.
_running: list[profile] = []


def kineto_available() -> bool:
    """False: the profiler is the library's own."""
    return False


class Interval(NamedTuple):
    """Microseconds since the profile began."""

    start: float
    end: float

    def elapsed_us(self) -> float:
        """Its length."""
        return self.end - self.start


class FunctionEvent:
    """One run of an operator, or of a range that ``record_function`` named."""

    flops = 0.0  # of what its declaration counts them, with_flops=True
    cpu_memory_usage = self_cpu_memory_usage = 0  # bytes of its results, profile_memory=True
    stack: tuple[str, ...] = ()  # of the program, the innermost line first, with_stack=True

    def __init__(self, name: str, start: float, end: float, input_shapes: Any = None, is_user: bool = False) -> None:
        self.name = self.key = name
        self.time_range = Interval(start, end)
        self.input_shapes = input_shapes
        self.is_user_annotation = is_user
        self.count = 1

    @property
    def cpu_time_total(self) -> float:
        """Microseconds, of what ran within it too."""
        return self.time_range.elapsed_us()

    cpu_time = cpu_time_total

    @property
    def self_cpu_time_total(self) -> float:
        """Microseconds, without what ran within it: a range has none of its own."""
        return 0.0 if self.is_user_annotation else self.cpu_time_total

    def __repr__(self) -> str:
        return f"<FunctionEvent name={self.name} cpu_time={self.cpu_time_total:.3f}us>"


class FunctionEventAvg:
    """All runs of one name, or of one name and shapes."""

    def __init__(self, key: str = "", input_shapes: Any = None, stack: tuple[str, ...] = ()) -> None:
        self.key = key
        self.input_shapes = input_shapes
        self.stack = stack
        self.count = 0
        self.flops, self.cpu_memory_usage, self.self_cpu_memory_usage = 0.0, 0, 0
        self.cpu_time_total = self.self_cpu_time_total = 0.0

    def add(self, event: Any) -> FunctionEventAvg:
        """Count one run more, or those of another average."""
        self.count += event.count
        self.flops += event.flops
        self.cpu_memory_usage += event.cpu_memory_usage
        self.self_cpu_memory_usage += event.self_cpu_memory_usage
        self.cpu_time_total += event.cpu_time_total
        self.self_cpu_time_total += event.self_cpu_time_total
        return self

    @property
    def cpu_time(self) -> float:
        """Microseconds of one run, on average."""
        return self.cpu_time_total / self.count if self.count else 0.0

    def __repr__(self) -> str:
        return f"<FunctionEventAvg key={self.key} count={self.count} cpu_time={self.cpu_time:.3f}us>"


def _time(microseconds: float) -> str:
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3f}{unit}"
    return f"{microseconds:.3f}us"


def _bytes(count: float) -> str:
    for unit, size in (("Gb", 2**30), ("Mb", 2**20), ("Kb", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} b"


#: Columns of a table where some event has something to show: title, attribute, how.
_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("CPU Mem", "cpu_memory_usage", lambda event: _bytes(event.cpu_memory_usage)),
    ("Total MFLOPs", "flops", lambda event: f"{event.flops / 1e6:.3f}"),
    ("Source Location", "stack", lambda event: event.stack[0] if event.stack else ""),
)


def _lines() -> tuple[str, ...]:
    """Where the program is that called the library: file(line): function, the innermost first."""
    found = []
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_ROOT, "<operator")):
            found.append(f"{file}({frame.f_lineno}): {frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(found)


def _flops(op: Any, inputs: Any, attrs: Any) -> float:
    """What the declaration counts of a call, asked by the names that it takes; 0 where it says nothing."""
    if op.flops is None:
        return 0.0
    given = {**dict(zip(op.position, inputs, strict=False)), **attrs}
    return float(op.flops(**{name: given[name] for name in inspect.signature(op.flops).parameters}))


class EventList(list[Any]):
    """Events, or averages of them, with a table."""

    @property
    def self_cpu_time_total(self) -> float:
        """Microseconds of all."""
        return float(sum(event.self_cpu_time_total for event in self))

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """One entry a name, in the order of their first run: or also by shapes of inputs, or lines of the program."""
        found: dict[Any, FunctionEventAvg] = {}
        for event in self:
            shapes = event.input_shapes if group_by_input_shape else None
            stack = event.stack[:group_by_stack_n]
            key = (event.key, str(shapes), stack)
            found.setdefault(key, FunctionEventAvg(event.key, shapes, stack)).add(event)
        return EventList(found.values())

    def total_average(self) -> FunctionEventAvg:
        """All as one entry."""
        total = FunctionEventAvg("Total")
        for event in self:
            total.add(event)
        return total

    def table(
        self, sort_by: str | None = None, row_limit: int = 100, max_src_column_width: int = 75,
        max_name_column_width: int = 55, max_shapes_column_width: int = 80, header: str | None = None,
        top_level_events_only: bool = False, time_unit: str | None = None,
    ) -> str:  # fmt: skip
        """A table: name, share, times and count, by ``sort_by`` ("cpu_time_total", "count" …) from the largest on."""
        rows: Iterable[Any] = self
        if sort_by is not None:
            name = sort_by.replace("cuda_", "cpu_").replace("device_", "cpu_")
            rows = sorted(self, key=lambda event: getattr(event, name, event.self_cpu_time_total), reverse=True)
        whole = self.self_cpu_time_total or 1.0
        more = [(title, show) for title, kept, show in _COLUMNS if any(getattr(event, kept) for event in self)]
        lines = [("Name", "Self CPU %", "Self CPU", "CPU total", "CPU time avg", "# of Calls", *(t for t, _ in more))]
        for event in list(rows)[: row_limit if row_limit >= 0 else None]:
            name, most = event.key, max_name_column_width
            name = name if len(name) <= most else name[: most - 3] + "..."
            lines.append(
                (name, f"{100 * event.self_cpu_time_total / whole:.2f}%", _time(event.self_cpu_time_total),
                 _time(event.cpu_time_total), _time(event.cpu_time), str(event.count),
                 *(show(event) for _, show in more))
            )  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        rule = "  ".join("-" * w for w in widths)
        text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        body = [rule, text[0], rule, *text[1:], rule, f"Self CPU time total: {_time(self.self_cpu_time_total)}", ""]
        return "\n".join([header, *body] if header else body)

    def __str__(self) -> str:
        return self.table()

    def export_chrome_trace(self, path: str) -> None:
        """Write the runs as JSON that chrome://tracing and Perfetto show."""
        events = [
            {"name": e.name, "ph": "X", "ts": e.time_range.start, "dur": e.cpu_time_total, "pid": 0, "tid": 0,
             "cat": "user_annotation" if e.is_user_annotation else "cpu_op", "args": {"Input Dims": e.input_shapes}}
            for e in self
        ]  # fmt: skip
        with open(path, "w") as file:
            json.dump({"traceEvents": events}, file)


class profile:
    """Records the operators that run inside, and the ranges of ``record_function``.

    ``record_shapes`` keeps the shapes of inputs, ``profile_memory`` the bytes of each operator's results,
    ``with_flops`` what it computes as far as its declaration counts it (products and convolutions), ``with_stack`` the
    lines of the program that called it. The other arguments are PyTorch's and change nothing.
    """

    def __init__(
        self, enabled: bool = True, *, use_cuda: bool = False, use_device: str | None = None,
        record_shapes: bool = False, with_flops: bool = False, profile_memory: bool = False, with_stack: bool = False,
        with_modules: bool = False, use_kineto: bool = False, use_cpu: bool = True, experimental_config: Any = None,
        acc_events: bool = False, custom_trace_id_callback: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        self.enabled = enabled
        self.record_shapes = record_shapes
        self.profile_memory, self.with_flops, self.with_stack = profile_memory, with_flops, with_stack
        self.function_events = EventList()
        self._begin = self._mark = 0

    def _now(self) -> float:
        return (perf_counter_ns() - self._begin) / 1e3

    def _observe(self, op: Any, inputs: Any, attrs: Any, outputs: Any) -> None:
        end = self._now()
        shapes = [list(getattr(x, "shape", ())) for x in inputs] if self.record_shapes else None
        event = FunctionEvent(op.name, self._mark, end, shapes)
        if self.profile_memory:
            event.cpu_memory_usage = event.self_cpu_memory_usage = sum(out.nbytes for out in outputs)
        if self.with_flops:
            event.flops = _flops(op, inputs, attrs)
        if self.with_stack:
            event.stack = _lines()
        self.function_events.append(event)
        self._mark = self._now()  # type: ignore[assignment]

    def __enter__(self) -> profile:
        if self.enabled:
            self._begin, self._mark = perf_counter_ns(), 0
            _running.append(self)
            observers.append(self._observe)
            listening[0] += 1
        return self

    def __exit__(self, *error: object) -> None:
        if self.enabled:
            listening[0] -= 1
            observers.remove(self._observe)
            _running.remove(self)

    @property
    def self_cpu_time_total(self) -> float:
        """Microseconds of all operators."""
        return self.function_events.self_cpu_time_total

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """One entry a name."""
        return self.function_events.key_averages(group_by_input_shape, group_by_stack_n)

    def total_average(self) -> FunctionEventAvg:
        """All as one entry."""
        return self.function_events.total_average()

    def table(self, *args: Any, **kwargs: Any) -> str:
        """As ``EventList.table``."""
        return self.function_events.table(*args, **kwargs)

    def export_chrome_trace(self, path: str) -> None:
        """As ``EventList.export_chrome_trace``."""
        self.function_events.export_chrome_trace(path)

    def __repr__(self) -> str:
        return str(self.function_events)


class record_function(ContextDecorator):
    """Names what runs inside for the profiles around it: a ``with`` block, or a decorator."""

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name = name
        self.args = args
        self._starts: list[tuple[profile, float]] = []

    def __enter__(self) -> record_function:
        self._starts = [(p, p._now()) for p in _running]
        for p, start in self._starts:
            p._mark = start  # type: ignore[assignment]
        return self

    def __exit__(self, *error: object) -> None:
        for p, start in self._starts:
            p.function_events.append(FunctionEvent(self.name, start, p._now(), is_user=True))
        self._starts = []


class emit_nvtx:
    """PyTorch's marks for NVIDIA's profiler, which are not here: UnsupportedError on entry if ``enabled``."""

    def __init__(self, enabled: bool = True, record_shapes: bool = False) -> None:
        self.enabled = enabled
        self.record_shapes = record_shapes

    def __enter__(self) -> emit_nvtx:
        if self.enabled:
            raise UnsupportedError(
                f"{type(self).__name__}: nothing is emitted to other profilers: profile() records the operators, and "
                f"NVIDIA's shows the kernels by their names"
            )
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""


class emit_itt(emit_nvtx):
    """PyTorch's marks for Intel's profiler: as ``emit_nvtx``."""
