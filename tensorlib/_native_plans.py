"""Plans of native operators, the CPU's and those of device "native": one that ran before on such arrays is run again
without its host function.

What `_plans` is to a GPU, this is to NumPy's arrays; arrays of device "native" have `_plans`' own, the code of which
`NativeBuilder` writes. The key holds all that a host function decides by: shapes, strides, dtypes, addresses modulo 16,
attributes. Two calls with a key are recorded (`runtime.recording`); where both did the same, code is generated that
asks for the results' memory, packs the kernels' arguments and runs them. Of the CPU's only operators without writes to
operands have plans: their results lie in new memory, so that nothing is shared that was not before.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import _array
from tensorlib._array import DeviceArray
from tensorlib._device import device as Device
from tensorlib._plans import ATTEMPTS, MOST, NO_PLAN, PATIENCE, Builder, Candidate, Refuse, builders, frozen
from tensorlib.kernels.pointwise import Host
from tensorlib.runtime import autotune, compiler, determinism, engine, launch, precision
from tensorlib.runtime.native import settings
from tensorlib.runtime.recording import (
    Allocate,
    Constant,
    Launched,
    MarkedFloat,
    MarkedInt,
    Number,
    Operand,
    Place,
    Recording,
    Table,
    Upload,
)

if TYPE_CHECKING:
    from tensorlib.op import Op

ndarray = np.ndarray
_NATIVE = Device("native")
_DRAWS = ("seed", "offset")
_KEPT = 1 << 18  #: bytes of a call's own memory that a plan keeps for the next one; more is asked for anew
_PLAIN = frozenset({int, bool, str, type(None)})


class _Operator:
    """What is known of an operator. One of a plugin may look at anything: only those of the library have plans."""

    def __init__(self, op: Op) -> None:
        self.has_plans = not op.mutates and op.__module__.startswith("tensorlib.")
        #: Whether the host function only passes Python floats on, so that they take no part in its decisions.
        self.marks = type(op.kernel) is Host
        self.lonely = 0  # keys recorded once since one was recorded again


plans: dict[Any, Any] = {}
_operators: dict[Op, _Operator] = {}


settings.threads_changed.append(plans.clear)
settings.guard_changed.append(plans.clear)


def run(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any, general: Callable[..., Any]) -> Any:
    """The operator's outputs by a plan; NO_PLAN where it has none and gets none; None where kernels cannot read arrays.

    ``general(op, arrays, attrs, specs, begin)`` runs the host function with the attributes that
    ``begin(operands, outputs)`` gives; it may mark the operands that are numbers.
    """
    try:
        of = _operators[op]
    except KeyError:
        of = _operators[op] = _Operator(op)
    if not of.has_plans or specs is None or launch.observers or determinism.level[0] != "off":
        return NO_PLAN
    if autotune.state.special and autotune.busy():
        return NO_PLAN
    native = engine.native()
    pointers: list[Any] = []  # of arrays; numbers
    parts: list[Any] = [op, _array._poisoned, autotune.state.generation, precision.float32[0], *specs]
    for x in arrays:
        if type(x) is ndarray:
            if not x.ndim and op.pointwise and x.dtype.kind != "b":  # a number that promotion made an array
                number = x.item()
                if type(number) is float and of.marks:
                    pointers.append(number)
                    parts.append(float)
                else:
                    pointers.append(0)
                    parts += (type(number), repr(number))
                continue
            ptr = native.address(x)
            pointers.append(ptr)
            parts += (x.shape, x.strides, x.dtype, ptr & 15)
        elif x is None:
            pointers.append(0)
            parts.append(None)
        else:
            return NO_PLAN
    for name, v in attrs.items():
        kind = type(v)
        if name in _DRAWS:
            if kind is not int or not 0 <= v < 1 << 63:
                return NO_PLAN
            parts.append(v < 1 << 31)
        elif kind in _PLAIN:
            parts += (kind, v)
        elif kind is float:
            parts.append(float if of.marks else repr(v))
        else:
            try:
                parts.append(frozen(v))
            except Refuse:
                return NO_PLAN
    key = tuple(parts)
    plan = plans.get(key)
    if type(plan) is FunctionType:
        return plan(pointers, attrs)
    return _missed(key, plan, op, of, arrays, attrs, specs, general)


def _missed(
    key: Any, seen: Any, op: Op, of: _Operator, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any, general: Any
) -> Any:
    """The general way, recorded unless that was in vain before."""
    if seen is not None:
        if seen.reason:
            return NO_PLAN
    elif of.lonely >= PATIENCE:
        of.lonely += 1
        if of.lonely & 15:
            return NO_PLAN
    device: Any = engine.engine_of(_NATIVE)
    if device.thread.recording is not None or settings.guarded():
        return NO_PLAN
    recordings: list[Recording] = []
    passed = dict(attrs)

    def begin(operands: list[Any], outputs: list[Any]) -> dict[str, Any]:
        """Record what follows on these arrays; the attributes to call with, those marked that may change."""
        given = [x if type(x) is DeviceArray else None for x in operands]
        recording = Recording(device, [*given, *outputs])
        recordings.append(recording)
        for i, x in enumerate(operands):
            if of.marks and type(x) is float:
                operands[i] = MarkedFloat(x).marked(recording, i, x)
        for name, v in attrs.items():
            if name in _DRAWS:
                passed[name] = MarkedInt(v).marked(recording, name, v)
            elif of.marks and type(v) is float:
                passed[name] = MarkedFloat(v).marked(recording, name, v)
        device.thread.recording = recording
        return passed

    launch.observers.append(_look)  # while there is one, launches go the way that tells the recording
    try:
        outs = general(op, arrays, attrs, specs, begin)
    finally:
        launch.observers.remove(_look)
        device.thread.recording = None
    if len(plans) >= MOST:
        plans.clear()
    if outs is None:
        plans[key] = Candidate(None, "arrays that kernels cannot read", 0)
        return None
    recording = recordings[0]
    attempts = 0 if seen is None else seen.attempts + 1
    if recording.tables:
        recording.refuse("tables that are kept")
    if recording.refused or attempts > ATTEMPTS:
        plans[key] = Candidate(None, recording.refused or "it does something else each time", attempts)
    elif seen is None or seen.did != recording.steps:
        of.lonely += seen is None
        plans[key] = Candidate(recording.steps, "", attempts)
    else:
        of.lonely = 0
        plans[key] = _built(recording.steps, len(arrays), specs)
    return outs


def _look(record: Any) -> None:
    """An observer of launches that sees nothing."""


@cache
def _compiled(source: str) -> Any:
    """Plans of one structure share one code object."""
    return compiler.compile_source(source, "<plan>")


def _built(steps: list[Any], operands: int, specs: Any) -> FunctionType:
    """``plan(pointers, attrs)``, which gives the outputs. Operands from ``operands`` on are the outputs."""
    native = engine.native()
    launches = [step for step in steps if type(step) is Launched]
    written = {step.block: np.frombuffer(step.data, np.uint8) for step in steps if type(step) is Upload}
    sizes = {step.block: step.nbytes for step in steps if type(step) is Allocate}
    sizes |= {b: data.nbytes for b, data in written.items()}
    kept = sum(sizes.values()) <= _KEPT
    jobs = [_form(step).job for step in launches]

    def made() -> tuple[Any, ...]:
        """New memory for a call: of each launch its arguments, as a buffer and a pointer, and its status; the blocks
        that are kept."""
        parts: list[Any] = []
        for job in jobs:
            parts += job.buffer()
        for nbytes in sizes.values() if kept else ():
            parts += block(nbytes)
        return tuple(parts)

    def block(nbytes: int) -> tuple[np.ndarray, int]:
        raw = np.empty(nbytes + 64, np.uint8)
        offset = -native.address(raw) % 64
        return raw[offset : offset + nbytes], native.address(raw) + offset

    scope: dict[str, Any] = {
        "empty": np.empty if not _array._poisoned else _array.empty, "address": native.address, "free": [],
        "made": made, "block": block, "NO_PLAN": NO_PLAN,
    }  # fmt: skip
    scope |= {"pop": scope["free"].pop, "push": scope["free"].append}
    lines = ["def plan(p, attrs):"]
    for i, (shape, dtype) in enumerate(specs):
        scope |= {f"shape{i}": shape, f"dtype{i}": dtype}
        lines += [f"    o{i} = empty(shape{i}, dtype{i})", f"    q{i} = address(o{i})"]
    names = [name for k in range(len(jobs)) for name in (f"v{k}", f"j{k}", f"s{k}")]
    names += [name for b in sizes for name in (f"r{b}", f"b{b}")] if kept else []
    lines += ["    try: memory = pop()", "    except IndexError: memory = made()", f"    {', '.join(names)}, = memory"]
    if not kept:
        scope |= {f"n{b}": nbytes for b, nbytes in sizes.items()}
        lines += [f"    r{b}, b{b} = block(n{b})" for b in sizes]
    for b, data in written.items():  # at each call, for the kernels may write to it
        scope[f"data{b}"] = data
        lines.append(f"    r{b}[:] = data{b}")

    def place(origin: Any) -> str:
        name = f"b{origin.block}" if type(origin) is Place else f"p[{origin.index}]"
        if type(origin) is Operand and origin.index >= operands:
            name = f"q{origin.index - operands}"
        return f"{name} + {origin.offset}" if origin.offset else name

    def number(place: Any) -> str:
        return f"p[{place}]" if type(place) is int else f"attrs[{place!r}]"

    for k, (step, job) in enumerate(zip(launches, jobs, strict=True)):
        parts = _launch(k, step, job, scope, place, number, "NO_PLAN")
        lines += [f"    {line}" for line in parts]
    lines += ["    push(memory)", f"    return ({''.join(f'o{i}, ' for i in range(len(specs)))})"]
    exec(_compiled("\n".join(lines)), scope)
    plan: FunctionType = scope["plan"]
    return plan


def _launch(
    k: int, step: Launched, job: Any, scope: dict[str, Any], place: Callable[[Any], str],
    number: Callable[[Any], str], general: str,
) -> Iterator[str]:  # fmt: skip
    """Lines that pack the k-th launch's arguments into its job's memory, v<k>, and run it; names go into the scope.

    ``place(origin)``, ``number(origin)``: the expressions of an address, of a number that may change. ``general``: that
    of the call by the general way, which tells of an error that a kernel reports.
    """
    native = engine.native()
    pool, (x, y, z), values = native.pool, step.grid, list[str]()
    total = x * y * z
    for i, (letter, origin) in enumerate(step.values):
        if type(origin) is Constant:
            scope[f"c{k}_{i}"] = struct.unpack("<" + letter, origin.data)[0]
            values.append(f"c{k}_{i}")
        elif type(origin) is Number:  # what float32 does not hold is an infinity, and an error to `struct`
            values.append(f"single({number(origin.origin)}).value" if letter == "f" else number(origin.origin))
        else:
            values.append(place(origin))
    own = f"scratch.address if scratch.size >= {job.scratch} else scratch.grow({job.scratch})"
    scope |= {
        f"pack{k}": job.pack, "share": pool.run, "inline": pool.runtime().inline, "scratch": pool.scratch,
        "single": ctypes.c_float, "ZERO": b"\0", "ZEROS": bytes(native.STATUS.size),
    }  # fmt: skip
    yield (
        f"pack{k}(v{k}, {pool.HEAD.size}, 0, {total}, {x}, {y}, {z}, {own if job.scratch else '0'}"
        f"{''.join(', ' + v for v in values)})"
    )
    yield f"inline(j{k})" if total < job.small else f"share(j{k}, {total})"
    if step.loaded.reports:
        yield f"if s{k}[0] != ZERO:"
        yield f"    s{k}[:] = ZEROS"
        yield f"    push(memory); return {general}"


class NativeBuilder(Builder):
    """The code of one plan of device "native"."""

    def work(self) -> list[str]:
        """Memory, uploads and launches, in the order of the recording."""
        jobs, last, lines = [_form(step).job for step in self.launches], self.last_uses(), list[str]()
        free: list[Any] = []
        self.scope |= {"tables": self.tables, "allocate": self.engine.allocate}

        def made() -> tuple[Any, ...]:
            """New memory for the jobs of a call: of each its arguments, as a buffer and a pointer, and its status."""
            return tuple(part for job in jobs for part in job.buffer())

        if jobs:
            self.scope |= {"pop": free.pop, "push": free.append, "made": made}
            names = ", ".join(f"v{k}, j{k}, s{k}" for k in range(len(jobs)))
            lines += ["try: memory = pop()", "except IndexError: memory = made()", f"{names}, = memory"]
        k = 0
        for at, step in enumerate(self.steps):
            if type(step) is Allocate:
                lines.append(f"b{step.block} = allocate({step.nbytes})[1]")
            elif type(step) is Upload:  # at each call, for the kernels may write to it
                self.scope[f"data{step.block}"] = np.frombuffer(step.data, np.uint8)
                lines.append(f"b{step.block} = upload(data{step.block})[1]")
            else:
                general = "general(op, operands, attrs)"
                lines += _launch(k, step, jobs[k], self.scope, self._place, self.number, general)
                k += 1
            gone = [f"b{b}" for b, end in last.items() if end == at]
            lines += [f"del {', '.join(gone)}"] * bool(gone)
        return [*lines, "push(memory)"] if jobs else lines

    def _place(self, origin: Any) -> str:
        """The expression of an address; a table's is the same at each call."""
        return f"{self.tables[origin.index].ptr + origin.offset}" if type(origin) is Table else self.address(origin)


builders["native"] = NativeBuilder


def _form(step: Launched) -> Any:
    """The form of the kernel that was launched: another one where it stores to memory that it also has otherwise."""
    loaded = step.loaded
    stored = {i for i, parameter in enumerate(loaded.program.parameters) if i in loaded.program.stores}
    places = [(i, type(o), o.block if type(o) is Place else o.index) for i, (_, o) in enumerate(step.values)
              if type(o) in (Place, Operand)]  # fmt: skip
    for i, kind, which in places:
        if any(j != i and (kind, which) == other for j, *rest in places for other in (tuple(rest),) if i in stored):
            return loaded.aliased_form()
    return loaded
