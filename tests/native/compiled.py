"""Helper functions of tensorlib.runtime.native called from tests: compiled, linked, run over NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.runtime.native import codegen, linker, machine
from tensorlib.runtime.native.formula import Function

DTYPES = {
    "float": np.float32, "double": np.float64, "i8": np.int8, "i32": np.int32, "i64": np.int64, "half": np.float16,
}  # fmt: skip
#: What code is compiled for in every test, without being run: (level, lanes of float32)
LEVELS = [("x86-64-v3", 8), ("x86-64-v4", 16), ("neon", 4), ("neoverse-n2", 4)]


def module(function: Function, more: str) -> str:
    """A module of a helper function and of one that calls it."""
    return "\n".join([*function.declarations, function.text, more])


def over_arrays(function: Function, lanes: int, features: machine.Features) -> Callable[..., np.ndarray]:
    """A function of vectors as one of arrays."""
    types = [f"<{lanes} x {t}>" if lanes > 1 else t for t in (*function.arguments, function.result)]
    names = [f"%x{i}" for i in range(len(function.arguments))] + ["%out"]
    loads, values = [], []
    for i, (name, type, element) in enumerate(zip(names, types, (*function.arguments, function.result), strict=True)):
        loads.append(f"  %p{i} = getelementptr {element}, ptr {name}, i64 %i")
        if name != "%out":
            loads.append(f"  %v{i} = load {type}, ptr %p{i}, align 1")
            values.append(f"{type} %v{i}")
    loop = "\n".join([
        f"define void @over_arrays(i64 %n, {', '.join(f'ptr {n}' for n in names)}) {{",
        "entry:", "  br label %body", "body:", "  %i = phi i64 [ 0, %entry ], [ %next, %body ]", *loads,
        f"  %found = call {types[-1]} {function.symbol}({', '.join(values)})",
        f"  store {types[-1]} %found, ptr %p{len(values)}, align 1",
        f"  %next = add i64 %i, {lanes}", "  %more = icmp ult i64 %next, %n",
        "  br i1 %more, label %body, label %done", "done:", "  ret void", "}",
    ])  # fmt: skip
    run = linked(module(function, loop), "over_arrays", features, len(names) + 1)

    def call(*arrays: Any) -> np.ndarray:
        given = [np.ravel(a).astype(DTYPES[t], copy=False) for a, t in zip(arrays, function.arguments, strict=True)]
        size = given[0].size
        given = [np.concatenate([x, np.repeat(x[-1:], -size % lanes)]) for x in given]
        out = np.empty(given[0].size, DTYPES[function.result])
        run(out.size, *(x.ctypes.data for x in given), out.ctypes.data)
        return out[:size]

    return call


@functools.cache
def linked(text: str, symbol: str, features: machine.Features, arguments: int) -> Callable[..., None]:
    """A function of integers and addresses out of a module."""
    code = linker.load(codegen.compile(text, features), symbol)
    pointer = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(code[symbol])

    def call(*values: int) -> None:
        assert code  # the machine code lives as long as what calls it
        pointer(*values)

    return call


def ulps(found: np.ndarray, exact: np.ndarray) -> tuple[float, str]:
    """(the largest error in units of the last place, where); infinite where NaN, infinities or a zero's sign differ."""
    with np.errstate(all="ignore"):
        near = exact.astype(found.dtype)
        finite = np.isfinite(near) & np.isfinite(found)
        size = np.where(finite, np.spacing(np.abs(near)), 1).astype(exact.dtype)
        error = np.where(finite, np.abs(found.astype(exact.dtype) - np.where(finite, exact, 0)) / size, 0.0)
        error = np.where(finite | (np.isnan(near) & np.isnan(found)) | (near == found), error, np.inf)
        zeros = (near == 0) & (found == 0) & (np.signbit(near) != np.signbit(found))
        error = np.where(zeros, np.inf, error).astype(float)
    at = int(error.argmax())
    return float(error[at]), f"element {at}: {found[at]!r}, exactly {exact[at]!r}"
