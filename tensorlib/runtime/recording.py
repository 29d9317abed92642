"""What a host function does on a GPU, written down so that it can be done again without the host function.

A recording is of one thread and one call: memory that is asked for, what is written to it from the host, kernels with
their arguments. Each argument is known by its origin: an array among the operands, or one that was allocated since, and
how many bytes behind its beginning; a marked number; or a constant. Whatever else happens is `refuse`d, and nothing is
done again.

A number whose value may be another one at the next call is handed to the host function as a marked one. It may only be
passed on: whoever computes with it, compares it or converts it would turn it into a number of unknown origin, and
is noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tensorlib.runtime import abi, descriptors
from tensorlib.runtime.compiler import Key

MOST_WRITTEN = 1 << 20  #: bytes from the host that a recording keeps, at most

_T = TypeVar("_T", bound=type)

#: What every object has, and what says nothing of the number.
_HARMLESS = {"__new__", "__init__", "__class__", "__getattribute__", "__getattr__", "__setattr__", "__delattr__",
             "__dir__", "__doc__", "__init_subclass__", "__subclasshook__", "__sizeof__", "__getnewargs__",
             "__reduce__", "__reduce_ex__", "__getstate__", "__getformat__", "__array_priority__"}  # fmt: skip


def _noticed(cls: _T) -> _T:
    """The class with every method of its number refusing the recording that it belongs to."""
    base = cls.__mro__[1]

    def notice(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noticed(self: Any, *args: Any, **options: Any) -> Any:
            self.recording.refuse(f"{name} of a number that may change")
            return method(self, *args, **options)

        return noticed

    for name in dir(base):
        method = getattr(base, name)
        if name not in _HARMLESS and callable(method) and name not in cls.__dict__:
            setattr(cls, name, notice(name, method))
    return cls


class Marked:
    """A number that may only be passed on. ``origin`` says which one it is, ``plain`` what it is."""

    recording: Recording
    origin: Any
    plain: Any

    def marked(self, recording: Recording, origin: Any, plain: Any) -> Any:
        """This object, with what a marked number has."""
        self.recording, self.origin, self.plain = recording, origin, plain
        return self


@_noticed
class MarkedFloat(float, Marked):
    """A Python float; `wide` is the same number for a kernel that computes in float64."""

    def wide(self) -> Any:
        """As ``np.float64`` makes of a float, and still marked."""
        return MarkedDouble(self.plain).marked(self.recording, self.origin, np.float64(self.plain))


@_noticed
class MarkedDouble(np.float64, Marked):  # type: ignore[misc]  # NumPy's comparisons are typed otherwise
    """A float64 number."""


@_noticed
class MarkedInt(int, Marked):
    """A Python int."""


def float64(value: float) -> Any:
    """``np.float64(value)``, of a marked number a marked one."""
    return value.wide() if type(value) is MarkedFloat else np.float64(value)


def plain(value: Any) -> Any:
    """A number without its mark."""
    return value.plain if isinstance(value, Marked) else value


@dataclass(frozen=True, slots=True)
class Allocate:
    """Block ``block`` is asked for."""

    block: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """Block ``block`` is asked for and filled with bytes of the host."""

    block: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Operand:
    """An address: so many bytes behind the first element of an operand."""

    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class Place:
    """An address within memory that was allocated since."""

    block: int
    offset: int


@dataclass(frozen=True, slots=True)
class Table:
    """An address within memory that is kept for all calls, and that nothing writes to."""

    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class Number:
    """A marked number."""

    origin: Any


@dataclass(frozen=True, slots=True)
class Constant:
    """A number as the kernel's parameter has it."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Launched:
    """A launch: the kernel as it was loaded, the grid, (struct letter, origin) of each parameter; and for messages."""

    loaded: Any
    grid: tuple[int, int, int]
    values: tuple[tuple[str, Any], ...]
    described: tuple[Any, ...]


class Recording:
    """One thread's call as it goes on. ``operands``: the arrays on the GPU that it was given, None for what is none."""

    def __init__(self, gpu: Any, operands: list[Any]) -> None:
        self.gpu = gpu
        self.steps: list[Any] = []
        self.refused = ""
        self.reports = False  #: whether a kernel may end with an error, which who launches it has to look for
        self._operands = operands
        self._origins: dict[int, Any] = {}  # of the memory of an owner, by the owner's id: what it begins with
        self._owners: list[Any] = []  # kept: an id must not be used twice
        self._blocks: list[Any] = []
        self._written = 0
        self.tables: list[Any] = []  # owners of memory that is kept for all calls
        for i, array in enumerate(operands):
            if array is None:
                continue
            if not hasattr(array.owner, "nbytes"):
                self.refuse("an operand in memory that is not the allocator's")
                continue
            self._origins.setdefault(id(array.owner), (Operand, i, array.ptr))
            self._owners.append(array.owner)

    def refuse(self, why: str) -> None:
        """Nothing of this recording is to be done again; the first reason is kept."""
        self.refused = self.refused or why

    # -- what the runtime tells
    def allocated(self, gpu: Any, block: Any, nbytes: int) -> None:
        """A block was given out."""
        if gpu is not self.gpu:
            self.refuse("memory of another GPU")
        if self.refused:
            return
        self._origins[id(block)] = (Place, len(self._blocks), block.ptr)
        self._owners.append(block)
        self.steps.append(Allocate(len(self._blocks), nbytes))
        self._blocks.append((block.ptr, nbytes))

    def wrote(self, gpu: Any, ptr: int, owner: Any, data: np.ndarray) -> None:
        """Bytes of the host were written to the GPU."""
        if self.refused:
            return
        self._written += data.nbytes
        if self._written > MOST_WRITTEN:
            self.refuse("much written from the host")
            return
        last = self.steps[-1] if self.steps else None
        if gpu is not self.gpu or type(last) is not Allocate or self.place(ptr, owner) != Place(last.block, 0):
            self.refuse("written from the host to memory that is in use")
            return
        raw = data.tobytes()
        if self._holds_addresses(np.frombuffer(raw[: len(raw) // 8 * 8], np.uint64)):
            self.refuse("addresses written from the host")
        if len(raw) != last.nbytes:
            self.refuse("memory written in part from the host")
        self.steps[-1] = Upload(last.block, raw)

    @contextmanager
    def aside(self) -> Iterator[Recording]:
        """Within, nothing is recorded."""
        self.gpu.thread.recording = None
        try:
            yield self
        finally:
            self.gpu.thread.recording = self

    def held(self, table: Any) -> None:
        """An array that is kept for all calls: a plan may keep it too. What it holds follows from what a key holds."""
        if id(table.owner) not in self._origins:
            self._origins[id(table.owner)] = (Table, len(self.tables), table.owner.ptr)
            self.tables.append(table.owner)

    def launched(self, gpu: Any, loaded: Any, grid: tuple[int, ...], args: tuple[Any, ...], operator: str) -> None:
        """A kernel is about to be launched. The arguments may be marked."""
        if gpu is not self.gpu:
            self.refuse("a launch on another GPU")
        if self.refused:
            return
        if any(isinstance(size, Marked) for size in grid):
            self.refuse("a grid of a number that may change")
        if 0 in grid:
            return
        compiled = loaded.compiled
        values: list[tuple[str, Any]] = []
        shapes: list[Any] = []
        for key, arg, name in zip(compiled.keys, args, compiled.kernel.arguments, strict=True):
            for k, value in _leaves(key, arg):
                if descriptors.is_key(k):
                    self.refuse("a tensor descriptor, which is made for an address")
                    return
                if isinstance(value, MarkedInt) and name not in compiled.kernel.do_not_specialize:
                    self.refuse(f"{name} may change, and {compiled.kernel.__name__} is specialised for its value")
                if k[0] == "*":
                    shapes.append(value.shape)
                if k[0] != "=":
                    values.append(self._value(k.partition(" ")[0], value))
        x, y, z = (*grid, 1, 1)[:3]
        self.steps.append(Launched(loaded, (x, y, z), tuple(values), (operator, grid, tuple(shapes))))

    def _value(self, name: str, value: Any) -> tuple[str, Any]:
        """(struct letter, origin) of one parameter."""
        if name.startswith("tensordesc"):
            self.refuse("a tensor descriptor")
            return "B", Constant(bytes(1))
        letter = abi.code(name)
        if name[0] == "*":
            return letter, self.place(value.ptr, value.owner)
        if isinstance(value, Marked):
            return letter, Number(value.origin)
        if name == "bf16":
            value = value.view(np.uint16).item()
        data = struct.pack("<" + letter, value)
        if letter in "qQ" and self._holds_addresses(np.frombuffer(data, np.uint64)):
            self.refuse("an address as a number")
        return letter, Constant(data)

    def _holds_addresses(self, words: np.ndarray) -> bool:
        """Whether a number among these lies in memory that the call knows: it may be an address."""
        known = [(a.ptr, a.ptr + max(a.owner.nbytes, 1)) for a in self._operands if a is not None and a.owner]
        known += [(ptr, ptr + max(nbytes, 1)) for ptr, nbytes in self._blocks]
        return any(ptr and bool(((words >= np.uint64(ptr)) & (words < np.uint64(end))).any()) for ptr, end in known)

    def place(self, ptr: int, owner: Any) -> Operand | Place | Table | None:
        """Where an address comes from; None and a refusal for one of an owner that the call does not know."""
        found = self._origins.get(id(owner))
        if found is None:
            self.refuse("memory that is neither an operand's nor was allocated by the call")
            return None
        kind, index, start = found
        if not owner.ptr <= ptr <= owner.ptr + owner.nbytes:  # NumPy's, of a view without elements
            self.refuse("an address outside of its memory")
        origin: Operand | Place | Table = kind(index, ptr - start)
        return origin


def _leaves(key: Key, value: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of an argument, tuples flattened."""
    if isinstance(key, tuple):
        for k, v in zip(key, value, strict=True):
            yield from _leaves(k, v)
    else:
        yield key, value
