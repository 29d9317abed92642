"""A third opinion on programs that NumPy can express: a kernel's source run as Python, with `tl` a few lines of NumPy.

It shares nothing with Triton's interpreter but NumPy's arithmetic. `EXPRESSIBLE` are the constructs of `fuzz` it knows.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from fuzz_data import contents, scalar

#: Constructs of `fuzz`, for Options.only.
EXPRESSIBLE = frozenset((
    "arithmetic", "bits", "compare", "boolean", "where", "transpose", "reshape", "broadcast", "join", "loading",
    "storing", "in_place", "loop", "branch", "constexpr_branch", "pointer_loop", "pointer_ring", "while_loop",
    "indirect", "broadcast_pointers", "backward_pointers", "choice",
))  # fmt: skip

DTYPES = {
    "int1": np.bool_, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64,
}  # fmt: skip


class Tile(np.ndarray):
    """An array with Triton's `to`; a remainder has the sign of the dividend, and a quotient is cut off."""

    def to(self, dtype: Any) -> Tile:
        return tile(self.astype(dtype))

    def __mod__(self, other: Any) -> Tile:
        return tile(np.fmod(self, other))

    def __floordiv__(self, other: Any) -> Tile:
        x, y = np.asarray(self), np.asarray(other)
        return tile((x - np.fmod(x, y)) // y)


class Pointers:
    """Elements of an array, by index."""

    def __init__(self, memory: np.ndarray, at: Any = 0) -> None:
        self.memory, self.at = memory, np.asarray(at, np.int64)

    def __add__(self, other: Any) -> Pointers:
        return Pointers(self.memory, self.at + np.asarray(other, np.int64))

    def __sub__(self, other: Any) -> Pointers:
        return Pointers(self.memory, self.at - np.asarray(other, np.int64))

    def __getitem__(self, index: Any) -> Pointers:
        return Pointers(self.memory, self.at[index])


def tile(x: Any) -> Tile:
    """x as a Tile."""
    return np.asarray(x).view(Tile)


def load(p: Pointers, mask: Any = True, other: Any = 1, **_: Any) -> Tile:
    """tl.load; outside the mask 1 where there is no other: those lanes are not used."""
    mask = np.broadcast_to(mask, p.at.shape)
    found = p.memory[np.where(mask, p.at, 0)]
    return tile(np.where(mask, found, np.asarray(other).astype(found.dtype)))


def store(p: Pointers, value: Any, mask: Any = True) -> None:
    """tl.store."""
    shape = np.broadcast_shapes(p.at.shape, np.shape(value), np.shape(mask))
    mask = np.broadcast_to(mask, shape)
    value = np.broadcast_to(np.asarray(value), shape).astype(p.memory.dtype)
    p.memory[np.broadcast_to(p.at, shape)[mask]] = value[mask]


def steps(*bounds: Any, **_: Any) -> Iterator[Tile]:
    """range: the index is of the bounds' type, 32 bits or 64."""
    dtype = np.result_type(np.int32, *(b for b in bounds if isinstance(b, np.ndarray)))
    return (tile(dtype.type(i)) for i in range(*map(int, bounds)))


def language(program: tuple[int, ...], grid: tuple[int, ...]) -> Any:
    """`triton.language` in one program of a grid."""
    named: dict[str, Any] = {
        "program_id": lambda axis: tile(np.int32(program[axis])),
        "num_programs": lambda axis: tile(np.int32(grid[axis])),
        "arange": lambda start, end: tile(np.arange(start, end, dtype=np.int32)),
        "full": lambda shape, value, dtype: tile(np.full(shape, value).astype(dtype)),
        "load": load, "store": store,
        "where": lambda c, a, b: tile(np.where(c, a, b)),
        "minimum": lambda a, b: tile(np.fmin(a, b)),
        "maximum": lambda a, b: tile(np.fmax(a, b)),
        "reshape": lambda x, shape: tile(np.reshape(x, shape)),
        "trans": lambda x: tile(np.transpose(x)),
        "permute": lambda x, order: tile(np.transpose(x, order)),
        "broadcast_to": lambda x, shape: tile(np.broadcast_to(x, shape)),
        "expand_dims": lambda x, axis: tile(np.expand_dims(x, axis)),
        "join": lambda a, b: tile(np.stack([a, b], -1)),
        "interleave": lambda a, b: tile(np.stack([a, b], -1).reshape(*np.shape(a)[:-1], -1)),
        "max": lambda x, axis: tile(np.fmax.reduce(x, axis=axis)),
        "sum": lambda x, axis: tile(np.sum(x, axis=axis, dtype=x.dtype)),
        "floor": lambda x: tile(np.floor(x)),
        "range": steps,
        "static_range": range,
        "constexpr": int,
        **DTYPES,
    }  # fmt: skip
    return types.SimpleNamespace(**named)


def run(source: str) -> dict[str, np.ndarray]:
    """What a program leaves in its buffers."""
    body = (
        source.replace("import triton.language as tl\n", "").replace("import triton\n", "").replace("@triton.jit\n", "")
    )
    code = compile("from __future__ import annotations\n" + body, "<numpy>", "exec")
    scope: dict[str, Any] = {}
    exec(code, scope)
    kernel = scope["kernel"]
    memory: dict[str, np.ndarray] = {}
    arguments = []
    for name in kernel.__code__.co_varnames[: kernel.__code__.co_argcount]:
        if "_" not in name:
            value = scalar(name)
            wide = isinstance(value, int) and abs(value) > 2**31
            kind = np.float32 if isinstance(value, float) else np.int64 if wide else np.int32
            arguments.append(value if name[0] == "C" else tile(kind(value)))
            continue
        base, _, shift = name.partition("_at")
        memory.setdefault(base, contents(base))
        arguments.append(Pointers(memory[base], int(shift or 0)))
    grid = scope["GRID"] + (1,) * (3 - len(scope["GRID"]))
    with np.errstate(all="ignore"):
        for i in range(math.prod(grid)):
            program = (i % grid[0], i // grid[0] % grid[1], i // grid[0] // grid[1])
            scope["tl"] = language(program, grid)
            scope["range"] = scope["tl"].range
            kernel(*arguments)
    return {base: array for base, array in memory.items() if base[:3] not in ("in_", "tm_", "po_")}
