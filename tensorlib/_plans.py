"""Plans: an operator on a GPU that was applied to such operands before is done again without its host function.
Device "native" has them too: `_native_plans` has what is special there.

What an operator's host code does depends on the layout of the operands and on the attributes, not on the numbers. So
the first call with a key (`_Finder`) is recorded (`runtime.recording`), and so is the second; where both did the same,
code is generated that does it: ask for memory, pack the arguments, launch, make the results and the Node. It calls the
allocator and the driver as the host function would, so that streams, captures and errors see no difference.

A value is never taken over unless its origin is known: the key holds everything that host functions look at, addresses
come from operands or from memory that the call allocated, and numbers that may change (a Python float that joins a
pointwise operator, the place of a random draw) are marked while recording. A call that reads from the GPU, touches
memory of others or computes with a marked number has no plan, nor has one that does something else the second time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import _array
from tensorlib._array import DeviceArray
from tensorlib._core import KINDS, Tensor, listening, modes, new, next_seq, node_class, observers, version_of, wrap
from tensorlib._device import device as Device
from tensorlib._dtypes import dtype as Dtype
from tensorlib._promotion import Rule, default_dtype
from tensorlib.errors import DeviceError, DriverError, OutOfMemoryError
from tensorlib.kernels.pointwise import Host
from tensorlib.runtime import autotune, compiler, determinism, launch, precision
from tensorlib.runtime.engine import planning, resolve
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

MOST = 1 << 13  #: plans of one GPU; all are dropped when there would be more
ATTEMPTS = 3  #: recordings of one key that may differ from the one before
PATIENCE = 64  #: keys of an operator that may come without one coming again, before only some are recorded

NO_PLAN: Any = object()  #: what a finder returns where the general way has to go

_PLAIN = frozenset({int, bool, type(None), type(Ellipsis), str, Dtype})
_RANDOM = ("seed", "offset")


class Refuse(Exception):
    """A value that no key can be made of."""


def frozen(value: Any) -> Any:
    """A key for an attribute that tells 1 from 1.0 and True, 0.0 from -0.0, and knows NaN again."""
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        return repr(value)
    if kind is tuple or kind is list:
        return kind, *[frozen(v) for v in value]
    if kind is slice:
        return kind, frozen(value.start), frozen(value.stop), frozen(value.step)
    if isinstance(value, np.dtype) or (kind is Device and value.index is not None):  # "cuda" is the current one
        return value
    raise Refuse


class Candidate:
    """What was seen of a key that has no plan yet; with a reason, none will be made."""

    __slots__ = ("attempts", "did", "reason")

    def __init__(self, did: Any, reason: str, attempts: int) -> None:
        self.did, self.reason, self.attempts = did, reason, attempts


class _Done:
    """One application as it was recorded: what the general way tells while it goes on."""

    def __init__(self, finder: _Finder, recording: Recording) -> None:
        self._finder, self._recording = finder, recording
        self.flat: list[Any] = []
        self.counts: Any = None
        self.attrs: dict[str, Any] = {}
        self.outs: tuple[Any, ...] | None = None
        self._floats: list[tuple[Any, Any, Any]] = []  # (list or dict, place in it, the number)

    def bound(self, flat: list[Any], counts: Any, attrs: dict[str, Any]) -> None:
        """Operands and attributes are bound: those that may change are marked from now on."""
        self.counts = counts
        recording, finder = self._recording, self._finder
        if finder.marks:
            for i, x in enumerate(flat):
                if type(x) is float:
                    self._floats.append((flat, i, x))
                    flat[i] = MarkedFloat(x).marked(recording, i, x)
        for name, value in attrs.items():
            if type(value) is float and finder.marks and name in finder.floats:
                self._floats.append((attrs, name, value))
                attrs[name] = MarkedFloat(value).marked(recording, name, value)
            elif name in finder.draws:
                self._floats.append((attrs, name, value))
                attrs[name] = MarkedInt(value).marked(recording, name, value)

    def computed(self, flat: list[Any], attrs: dict[str, Any], outs: Sequence[Any]) -> None:
        """The outputs are there; nothing is marked any more."""
        for where, place, value in self._floats:
            where[place] = value
        self.flat, self.attrs, self.outs = list(flat), attrs, tuple(outs)


class _Finder:
    """The plans of one operator. ``find(operands, attrs)`` is generated: results, or NO_PLAN."""

    def __init__(
        self, op: Any, general: Callable[..., Any], sync: Callable[[Tensor], None], finish: Any, marks: bool
    ) -> None:
        self.op, self.general, self.sync, self.finish = op, general, sync, finish
        #: Whether the host function only passes Python floats on, so that they take no part in its decisions.
        self.marks = marks
        self.draws = frozenset(_RANDOM) if op.random or {p.name for p in op.attrs} >= set(_RANDOM) else frozenset()
        self.floats = frozenset(p.name for p in op.attrs) if self.marks else frozenset()
        self.lonely = 0  # keys recorded once since one was recorded again
        self.refused = 0  # calls with keys that get no plan, while none got one: a long key takes time
        self.many = op.variadic or len(op.tensors) > 5
        self.find: Callable[..., Any] = self._many if self.many else self._compiled()

    # -- keys
    def _compiled(self) -> Callable[..., Any]:
        """The function that makes a key of operands and attributes and looks for a plan."""
        names = [f"x{i}" for i in range(len(self.op.tensors))]
        lines = ["def find(operands, attrs):", *("    " + line for line in _GUARD), "    device = None"]
        if names:
            lines.append(f"    {', '.join(names)}, = operands")
        for i, x in enumerate(names):
            near = "".join(
                f", a{i}.ptr - a{j}.ptr if a{j} is not None and a{i}.owner is a{j}.owner else None" for j in range(i)
            )
            number = "float" if self.marks else f"repr({x})"
            lines += [
                f"    t = type({x})",
                "    if t in KINDS:",
                f"        a{i} = {x}._array",
                f"        if type(a{i}) is not DeviceArray: return NO_PLAN",
                f"        if {x}._view is not None: sync({x})",
                f"        if device is not a{i}.device:",
                "            if device is not None: return NO_PLAN",
                f"            device = a{i}.device",
                f"        k{i} = (a{i}.shape, a{i}.strides, a{i}.dtype, a{i}.ptr & 15, {x}._needs and grad{near})",
                "    else:",
                f"        a{i} = None",
                f"        if {x} is None: k{i} = None",
                f"        elif t is float: k{i} = {number}",
                f"        elif t is int or t is bool: k{i} = (t, {x})",
                "        else: return NO_PLAN",
            ]
        keys = [f"k{i}" for i in range(len(names))]
        for i, p in enumerate(self.op.attrs):
            lines += [f"    v = attrs[{p.name!r}]", "    t = type(v)"]
            if p.name == "device" and not names:
                lines += [
                    "    if t is not Device: return NO_PLAN",
                    f"    try: v{i} = device = resolve(v)",
                    "    except ABSENT: return NO_PLAN",
                ]
            elif p.name in self.draws:
                lines.append("    if t is not int or not 0 <= v < 0x8000000000000000: return NO_PLAN")
                lines.append(f"    v{i} = v < 0x80000000")
            else:
                marked = "float" if self.marks else "repr(v)"
                lines += [
                    f"    if t in PLAIN: v{i} = v",
                    f"    elif t is float: v{i} = {marked}",
                    "    else:",
                    f"        try: v{i} = frozen(v)",
                    "        except REFUSE: return NO_PLAN",
                    f"    t{i} = t",
                ]
                keys.append(f"t{i}")
            keys.append(f"v{i}")
        lines += [
            "    if device is None: return NO_PLAN",
            "    engine = device.engine",
            "    try: plans = engine.plans",
            "    except AttributeError: return NO_PLAN",
            f"    key = ({', '.join(['op', *_STATE, *keys])})",
            "    plan = plans.get(key)",
            "    if plan.__class__ is function: return plan(operands, attrs)",
            "    return missed(key, engine, plan, operands, attrs)",
        ]
        scope = {**_SCOPE, "op": self.op, "sync": self.sync, "missed": self._missed}
        exec(compiler.compile_source("\n".join(lines), f"<plans of {self.op.name}>"), scope)
        find: Callable[..., Any] = scope["find"]
        return find

    def _many(self, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """The same for an operator with sequences of tensors, or with many."""
        if self.refused > PATIENCE or _blocked():
            return NO_PLAN
        grad, device = modes.grad, None
        parts: list[Any] = []
        first: dict[int, tuple[int, int]] = {}  # the first operand in an owner's memory: its place, its address
        for x in self.flatten(operands):
            kind = type(x)
            if kind in KINDS:
                a = x._array
                if type(a) is not DeviceArray or (device is not None and a.device is not device):
                    return NO_PLAN
                device = a.device
                if x._view is not None:
                    self.sync(x)
                at, ptr = first.setdefault(id(a.owner), (len(parts), a.ptr))
                parts.append((a.shape, a.strides, a.dtype, a.ptr & 15, x._needs and grad, at, a.ptr - ptr))
            elif x is None or kind in (bool, int):
                parts.append((kind, x))
            elif kind is float:
                parts.append(float if self.marks else repr(x))
            else:
                return NO_PLAN
        engine = None if device is None else device.engine
        plans = getattr(engine, "plans", None)
        if plans is None:
            return NO_PLAN
        counts = tuple([len(x) if type(x) in (list, tuple) else -1 for x in operands])
        try:
            for name, v in attrs.items():
                if name in self.draws:
                    if type(v) is not int or not 0 <= v < 1 << 63:
                        return NO_PLAN
                    parts.append(v < 1 << 31)
                else:
                    parts.append(float if self.marks and type(v) is float else frozen(v))
        except Refuse:
            return NO_PLAN
        state = default_dtype(), _array._poisoned, autotune.state.generation, precision.float32[0]
        key = (self.op, *state, counts, *parts)
        plan = plans.get(key)
        if type(plan) is FunctionType:
            return plan(operands, attrs)
        return self._missed(key, engine, plan, operands, attrs)

    def flatten(self, operands: Sequence[Any]) -> list[Any]:
        """The operands, those of sequences too."""
        out: list[Any] = []
        for x in operands:
            out.extend(x) if type(x) in (list, tuple) else out.append(x)
        return out

    # -- recordings
    def _missed(self, key: Any, engine: Any, seen: Any, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """The general way, recorded unless that was in vain before; the results."""
        thread = engine.thread
        if seen is not None:
            if seen.reason:
                self.refused += 1
                return self.general(self.op, operands, attrs)
        elif self.lonely >= PATIENCE:
            self.lonely += 1
            if self.lonely & 15:
                return self.general(self.op, operands, attrs)
        local = getattr(engine, "local", None)  # of a GPU: its streams and captures
        if thread.recording is not None or (local is not None and local.capture is not None):
            return self.general(self.op, operands, attrs)
        flat = self.flatten(operands)
        recording = Recording(engine, [x._array if isinstance(x, Tensor) else None for x in flat])
        done = _Done(self, recording)
        thread.recording = recording
        launch.observers.append(_look)  # while there is one, launches go the way that tells the recording
        try:
            result = self.general(self.op, operands, attrs, done)
        finally:
            launch.observers.remove(_look)
            thread.recording = None
        self._learn(key, engine, seen, recording, done, flat)
        return result

    def _learn(
        self, key: Any, engine: Any, seen: Candidate | None, recording: Recording, done: _Done, flat: list[Any]
    ) -> None:
        """Make a plan of the second recording that is like the one before, or remember why there is none."""
        if len(engine.plans) >= MOST:
            engine.plans.clear()
        outs: list[Any] = []
        if done.outs is None:
            recording.refuse("another way than through the kernel")
        elif not self.op.mutates:
            for out in done.outs:
                place = recording.place(out.ptr, out.owner) if type(out) is DeviceArray else None
                if type(place) is not Place:
                    recording.refuse("a result in memory of others")
                    break
                outs.append((place, out.shape, out.strides, out.dtype))
        if recording.reports and self.op.mutates:  # the general way tells of the error, and would write once more
            recording.refuse("a kernel that writes to an operand and may report an error")
        did = (recording.steps, outs, recording.tables)
        attempts = 0 if seen is None else seen.attempts + 1
        if recording.refused or attempts > ATTEMPTS:
            reason = recording.refused or "it does something else each time"
            engine.plans[key] = Candidate(None, reason, attempts)
            return
        if seen is None or seen.did != did:
            self.lonely += seen is None
            engine.plans[key] = Candidate(did, "", attempts)
            return
        self.lonely, self.refused = 0, -MOST  # it has plans
        try:
            builder = builders.get(engine.target, Builder)
            engine.plans[key] = builder(self, engine, recording, outs, done, flat).build()
        except OutOfMemoryError:
            engine.plans[key] = Candidate(None, "no memory for what it would hold", attempts)


def _look(record: Any) -> None:
    """An observer of launches that sees nothing."""


# What a finder asks first, whether somebody needs the general way; and what host functions look at besides arguments.
_GUARD = (
    "if launches or level[0] != 'off': return NO_PLAN",
    "if listening[0] and (observers or modes.pack is not None or modes.anomaly): return NO_PLAN",
    "if autotune.state.special and autotune.busy(): return NO_PLAN",
    "grad = modes.grad",
)
_STATE = ("default_dtype()", "arrays._poisoned", "autotune.state.generation", "precision[0]")
_SCOPE: dict[str, Any] = {
    "launches": launch.observers, "level": determinism.level, "listening": listening, "observers": observers,
    "modes": modes, "autotune": autotune, "default_dtype": default_dtype, "arrays": _array,
    "precision": precision.float32, "NO_PLAN": NO_PLAN,
    "KINDS": KINDS, "PLAIN": _PLAIN, "REFUSE": Refuse, "ABSENT": DeviceError,
    "DeviceArray": DeviceArray, "frozen": frozen,
    "function": FunctionType, "Device": Device, "resolve": resolve,
}  # fmt: skip


def _blocked() -> bool:
    if launch.observers or determinism.level[0] != "off":
        return True
    if listening[0] and (observers or modes.pack is not None or modes.anomaly):
        return True
    return autotune.state.special and autotune.busy()


# ---------------------------------------------------------------------------------------------------- code of a plan


@cache
def _compiled(source: str) -> Any:
    """Plans of one structure share one code object."""
    return compiler.compile_source(source, "<plan>")


class Builder:
    """Writes the code of one plan: everything that tells it from another of its structure is a name in its scope."""

    def __init__(
        self, finder: _Finder, engine: Any, recording: Recording, outs: list[Any], done: _Done, flat: list[Any]
    ) -> None:
        self.finder, self.op, self.engine, self.outs = finder, finder.op, engine, outs
        self.steps = steps = recording.steps
        self.tables = recording.tables
        self.counts, self.attrs, self.flat = done.counts, done.attrs, flat
        self.launches = [step for step in steps if type(step) is Launched]
        self.scope: dict[str, Any] = {
            "op": self.op, "new": new, "Tensor": Tensor, "Node": node_class(self.op), "DeviceArray": DeviceArray,
            "next_seq": next_seq, "version_of": version_of, "upload": engine.upload, "finish": finder.finish,
            "flatten": finder.flatten, "device": engine.device, "general": finder.general,
        }  # fmt: skip
        self.used: set[int] = set()  # operands whose arrays the code names
        self.lines: list[str] = []

    def build(self) -> FunctionType:
        """The function ``plan(operands, attrs)``."""
        body = self.work()
        tail = self._results()
        head = ["def plan(operands, attrs):"]
        if self.finder.many:
            head.append("    flat = flatten(operands)")
            head += [f"    x{i} = flat[{i}]" for i in sorted(self.used)]
        elif self.op.tensors:
            head.append(f"    {', '.join(f'x{i}' for i in range(len(self.flat)))}, = operands")
        head += [f"    a{i} = x{i}._array" for i in sorted(self.used)]
        exec(_compiled("\n".join([*head, *("    " + line for line in [*body, *tail])])), self.scope)
        plan: FunctionType = self.scope["plan"]
        return plan

    # -- the work
    def work(self) -> list[str]:
        """Memory, uploads and launches, in the order of the recording."""
        lines: list[str] = []
        engine = self.engine
        self.scope |= {
            "gpu": engine, "thread": engine.thread, "local": engine.local, "allocate": engine.memory.allocate,
            "share": engine.memory.record_stream, "recent": engine.launchers.recent.append,
        }  # fmt: skip
        if self.steps:
            lines += ["if thread.active is not gpu: gpu.activate()", "stream = local.stream"]
        if self.tables:
            self.engine.driver.stream_synchronize(self.engine.stream)  # they are there now, for every stream
            self.scope |= {"tables": self.tables, "home": self.engine.stream}
            lines += [
                "if stream != home:",
                "    for table in tables: share(table, stream)",
                "if local.capture is not None: local.capture.keep.append(tables)",
            ]
        last = self.last_uses()
        block = None
        if self.launches:
            block = self.engine.launchers.parameters(
                [(step.loaded.prepared, [letter for letter, _ in step.values]) for step in self.launches]
            )
            self._fill(block)
            self.scope |= {"pop": block.pop, "push": block.push, "new_block": block.new}
            pointers = "".join(f", h{k}, p{k}" for k in range(len(self.launches)))
            lines += [
                "try: memory = pop()",
                "except IndexError: memory = new_block()",
                f"view{pointers} = memory",
            ]
        number = 0
        for at, step in enumerate(self.steps):
            if type(step) is Allocate:
                self.scope[f"n{step.block}"] = step.nbytes
                lines.append(f"b{step.block} = allocate(n{step.block}, stream)")
            elif type(step) is Upload:
                # At each call, for the kernels may write to it.
                self.scope[f"data{step.block}"] = np.frombuffer(step.data, np.uint8)
                lines.append(f"b{step.block} = upload(data{step.block})[1]")
            else:
                lines += self._launch(number, step, block)
                number += 1
            gone = [f"b{b}" for b, end in last.items() if end == at]
            if gone:
                lines.append(f"del {', '.join(gone)}")
        if self.launches:
            lines.append("push(memory)")
        return lines

    def last_uses(self) -> dict[int, int]:
        """For each block that is no result's, the step after which it may be given back."""
        kept = {place.block for place, *_ in self.outs}
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            if type(step) is Launched:
                places = [origin for _, origin in step.values]
            else:
                places = [Place(step.block, 0)]
            for place in places:
                if type(place) is Place and place.block not in kept:
                    last[place.block] = at
        return last

    def address(self, origin: Any) -> str:
        """The expression of an address."""
        if type(origin) is Operand:
            self.used.add(origin.index)
            name = f"a{origin.index}.ptr"
        else:
            name = f"b{origin.block}.ptr"
        return f"{name} + {origin.offset}" if origin.offset else name

    def number(self, place: Any) -> str:
        """The expression of a number that may change: an operand's or an attribute's."""
        if type(place) is not int:
            return f"attrs[{place!r}]"
        return f"flat[{place}]" if self.finder.many else f"x{place}"

    def _fill(self, block: Any) -> None:
        """Everything that is the same at each call is written into the blocks of parameters once."""
        template = bytearray(block.size)
        for step, fields in zip(self.launches, block.fields, strict=True):
            for (offset, letter), value in zip(fields, self._fixed(step), strict=True):
                if value is not None:
                    struct.pack_into("<" + letter, template, offset, value)
        block.begin_with(bytes(template))

    def _fixed(self, step: Launched) -> list[Any]:
        """The values of a launch's fields, None for those that differ from call to call."""
        x, y, z = step.grid
        head = [None if e == "stream" else eval(e, {"x": x, "y": y, "z": z}) for e in step.loaded.prepared.values]
        rest: list[Any] = []
        for letter, origin in step.values:
            if type(origin) is Constant:
                rest.append(struct.unpack("<" + letter, origin.data)[0])
            else:
                rest.append(self.tables[origin.index].ptr + origin.offset if type(origin) is Table else None)
        return [*head, *rest, None if step.loaded.compiled.global_scratch_size else 0, 0]

    def _launch(self, k: int, step: Launched, block: Any) -> list[str]:
        loaded, (x, y, z) = step.loaded, step.grid
        prepared, scratch = loaded.prepared, loaded.compiled.global_scratch_size
        lines = []
        expressions: list[str] = [e for e in prepared.values]
        for _, origin in step.values:
            if type(origin) is Number:
                expressions.append(self.number(origin.origin))
            else:
                expressions.append("" if type(origin) in (Constant, Table) else self.address(origin))
        expressions += [f"s{k}.ptr" if scratch else "", ""]
        if scratch:
            self.scope[f"m{k}"] = x * y * z * loaded.compiled.num_ctas * scratch
            lines.append(f"s{k} = allocate(m{k}, stream)")
        fixed, fields = self._fixed(step), block.fields[k]
        moving = [i for i, value in enumerate(fixed) if value is None]
        if moving:
            letters, values, at = "<", [], fields[moving[0]][0]
            for i in range(moving[0], moving[-1] + 1):
                offset, letter = fields[i]
                letters += f"{offset - at}x" * (offset > at) + letter
                at = offset + struct.calcsize("<" + letter)
                if fixed[i] is None:
                    values.append(expressions[i])
                else:
                    values.append(f"c{k}_{i}")
                    self.scope[f"c{k}_{i}"] = fixed[i]
            self.scope[f"pack{k}"] = struct.Struct(letters).pack_into
            self.scope[f"at{k}"] = fields[moving[0]][0]
            lines.append(f"pack{k}(view, at{k}, {', '.join(values)})")
            if any(type(origin) is Number and letter == "f" for letter, origin in step.values):
                self.scope |= {"narrowed": self.engine.launchers.narrowed, f"f{k}": fields[moving[0] : moving[-1] + 1]}
                again = f"pack{k}(view, at{k}, *narrowed(f{k}, ({', '.join(values)})))"
                lines[-1:] = [f"try: {lines[-1]}", f"except OverflowError: {again}"]
        self.scope |= {f"l{k}_{name}": value for name, value in prepared.scope.items()}
        self.scope |= {f"g{k}x": x, f"g{k}y": y, f"g{k}z": z, f"r{k}": (loaded, *step.described)}
        self.scope[f"l{k}_repeat"] = self._noted(prepared.scope["repeat"], loaded, step.described)
        lines.append(f"recent(r{k})")
        lines += prepared.lines(f"h{k}", f"p{k}", f"l{k}_", f"g{k}x, g{k}y, g{k}z")
        if self.engine.launchers.blocking:
            wait = self._noted(self.engine.driver.stream_synchronize, loaded, step.described)
            self.scope[f"wait{k}"] = wait
            lines.append(f"wait{k}(stream)")
        return lines

    @staticmethod
    def _noted(call: Callable[..., Any], loaded: Any, described: tuple[Any, ...]) -> Callable[..., Any]:
        """The call, an error of which says what was being launched."""

        def noted(*args: Any) -> None:
            try:
                call(*args)
            except DriverError as error:
                error.add_note(f"launching {loaded.describe(*described)}")
                raise

        return noted

    # -- the results
    def _results(self) -> list[str]:
        """The outputs as tensors, and the Node; or the count of a write."""
        op = self.op
        if op.mutates:
            lines = []
            for i in self._mutated():
                self.used.add(i)
                lines.append(f"version_of(x{i})[0] += 1")
            return [*lines, "return None"]
        lines = []
        for i, (place, shape, strides, dtype) in enumerate(self.outs):
            self.scope |= {f"shape{i}": shape, f"strides{i}": strides, f"dtype{i}": dtype}
            lines += [
                f"o{i} = new(DeviceArray)",
                f"o{i}.ptr = {self.address(place)}",
                f"o{i}.shape = shape{i}",
                f"o{i}.strides = strides{i}",
                f"o{i}.dtype = dtype{i}",
                f"o{i}.device = device",
                f"o{i}.owner = b{place.block}",
            ]
        self.scope["ATTRS"] = self.attrs
        changing = [n for n, v in self.attrs.items() if n in self.finder.draws or
                    (n in self.finder.floats and type(v) is float)]  # fmt: skip
        given = "".join(f", {n!r}: attrs[{n!r}]" for n in changing)
        attrs = f"{{**ATTRS{given}}}" if given else "ATTRS"
        if self.finder.many or op.n_public > 1:
            self.scope["counts"] = self.counts
            flat = "flat" if self.finder.many else f"[{', '.join(f'x{i}' for i in range(len(self.flat)))}]"
            outs = "".join(f"o{i}, " for i in range(len(self.outs)))
            return [*lines, f"return finish(op, {flat}, counts, {attrs}, ({outs}))"]
        needs = tuple([isinstance(x, Tensor) and x._needs and modes.grad for x in self.flat])
        lines += ["t = new(Tensor)", "t._array = o0", "t._index = 0", "t._view = None"]
        if not any(needs) or not op.differentiable or self.outs[0][3].kind in "iub":
            return [*lines, "t._writes = t._node = None", "t._needs = False", "return t"]
        edges = "".join(
            f"x{i} if x{i}._node is None else (x{i}._node, x{i}._index), " if need else "None, "
            for i, need in enumerate(needs)
        )
        kept, before = self._kept(needs)
        self.scope["INPUTS"] = self._brought_back(needs)
        return [
            *lines, *before, "node = t._node = new(Node)", "node.rule = op", f"node.edges = ({edges})",
            f"node.saved = {{{kept}}}", f"node.attrs = {attrs}", "node.inputs = INPUTS", "node.outputs = ()",
            "node.hooks = node.trace = None", "node.seq = next_seq()", "t._needs = True", "return t",
        ]  # fmt: skip

    def _mutated(self) -> list[int]:
        """Which of the flat operands are written."""
        counts = self.counts or [-1] * len(self.flat)
        starts = [0]
        for n in counts:
            starts.append(starts[-1] + (1 if n < 0 else n))
        written = [j for i in self.op.mutates for j in range(starts[i], starts[i + 1])]
        return [j for j in written if self.flat[j] is not None]

    def _kept(self, needs: tuple[bool, ...]) -> tuple[str, list[str]]:
        """What the Node keeps, as `record` and `results` of the general way keep it; and what must be done before."""
        op, items, before = self.op, [], {}
        version = "t._writes = None"
        for name, source, index in op.keeps(needs):
            if source == "output":
                at = op.output_names[name]
                if at == 0:
                    version = "v = t._writes = [0]"
                items.append(f"{name!r}: (o0, v, 0)" if at == 0 else f"{name!r}: (o{at}, [0], 0)")
                continue
            x = self.flat[index]
            if source == "input" and isinstance(x, Tensor):
                self.used.add(index)
                before[index] = f"v{index} = x{index}._writes"
                items.append(f"{name!r}: (a{index}, v{index}, v{index}[0])")
            elif source == "input":
                items.append(f"{name!r}: x{index}")
            else:
                self.scope[f"kept_{name}"] = getattr(x._array, source) if isinstance(x, Tensor) else None
                items.append(f"{name!r}: kept_{name}")
        lines = [version]
        for index, line in before.items():
            lines += [line, f"if v{index} is None: v{index} = x{index}._writes = [0]"]
        return ", ".join(items), lines

    def _brought_back(self, needs: tuple[bool, ...]) -> Any:
        """The shapes and dtypes that gradients must be brought back to; None where they have them."""
        op = self.op
        if op.promote is None:
            return None
        _, shape, _, dtype = self.outs[0]
        arrays: list[Any] = [x._array if isinstance(x, Tensor) else None for x in self.flat]
        if not any(
            need and (a.dtype is not dtype or (op.broadcasts and a.shape != shape))
            for need, a in zip(needs, arrays, strict=True)
        ):
            return None
        return tuple([None if a is None else (a.shape if op.broadcasts else None, a.dtype) for a in arrays])


#: What writes the plans of a device that is no GPU, by its target.
builders: dict[str, type[Builder]] = {}


class Planner:
    """The finders of all operators.

    general: ``general(op, operands, attrs, done)``, which applies an operator and tells ``done`` of it; sync: brings a
    view's history up to date; finish: ``finish(op, flat, counts, attrs, outs)`` wraps outputs and records them.
    """

    def __init__(self, general: Callable[..., Any], sync: Callable[[Tensor], None], finish: Callable[..., Any]) -> None:
        self._parts = general, sync, finish
        self._finders: dict[Op, Callable[..., Any]] = {}

    def __call__(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """The results of an application that has a plan, or that may get one; NO_PLAN for any other."""
        try:
            find = self._finders[op]
        except KeyError:
            find = self._finders[op] = self._finder(op)
        return find(operands, attrs)

    def _finder(self, op: Op) -> Callable[..., Any]:
        """The operator's own; one of a plugin may look at anything, so that only pointwise ones have plans."""
        scalar = isinstance(op.kernel, Host) and op.spec is None and (op.promote is None or type(op.promote) is Rule)
        ours = op.__module__.startswith("tensorlib.") or scalar
        if op.kernel is None or op.dynamic or op.is_view or not ours:
            return _never
        return _Finder(op, *self._parts, marks=isinstance(op.kernel, Host)).find

    def routine(self, name: str, function: Callable[..., None], count: int) -> Callable[..., None]:
        """A function of so many arrays, which writes the first, with plans of its own.

        A Python float may stand for any of the others, if the function only passes it on.
        """
        made = _Routine(name, function, count)
        find = _Finder(made, made.general, *self._parts[1:], marks=True).find

        def call(*values: Any) -> None:
            if not planning[0] or find([wrap(v) if type(v) is DeviceArray else v for v in values], {}) is NO_PLAN:
                function(*values)

        return call


class _Routine:
    """What a finder asks of an operator, of a function of arrays."""

    variadic = random = False
    attrs: tuple[Any, ...] = ()
    mutates = (0,)

    def __init__(self, name: str, function: Callable[..., None], count: int) -> None:
        self.name, self.kernel = name, function
        self.tensors = (None,) * count

    def general(self, op: Any, operands: list[Any], attrs: dict[str, Any], done: _Done | None = None) -> None:
        """The function itself, as the general way of an operator."""
        if done is not None:
            done.bound(operands, None, attrs)
        launch.operator[0] = self.name
        try:
            self.kernel(*[x._array if isinstance(x, Tensor) else x for x in operands])
        finally:
            launch.operator[0] = ""
        if done is not None:
            done.computed(operands, attrs, ())


def _never(operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    return NO_PLAN
