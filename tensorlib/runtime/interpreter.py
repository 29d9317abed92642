"""Launches run by Triton's interpreter over host memory, with its defects repaired; no environment variable needed.

Triton's interpreter replaces the functions of `triton.language` by ones that compute with NumPy. Here that replacement
holds only while a launch runs, under the compiler's lock: one process can interpret some launches, compile others.

Repairs and additions, each with a test in tests/runtime/test_interpreter.py:
- bfloat16 and float8 are carried as ml_dtypes' own types instead of raw bits, so that arithmetic, comparisons, casts,
  reductions, scans, atomics and dot compute on values; conversions round to nearest even.
- reductions and scans with a user's function combine whole blocks, in log2(n) steps instead of one element at a time.
- lanes that a masked load leaves undefined hold NaN or a large odd integer; an access outside every live allocation is
  an error that names the address, not a crash.
- libdevice functions compute, for the dtypes that CUDA's take; comparisons are int1; fma rounds once; NaN in max, min
  and clamp as on a GPU.
- casts as on NVIDIA's GPUs: float to integer saturates (NaN as PTX's cvt has it), float8 saturates.
- float32 dot is rounded to tf32's 10 bits where the kernel asks for tf32; sums of half types round at every step.
- what LLVM leaves undefined (a shift by the width or more, an integer division by zero) is poison, as masked lanes are.
- multiple_of, max_contiguous, max_constancy and assume are checked; a block in `if` or `while` is an error.
- the index of range is a scalar of the bounds' type, so that it wraps as on a GPU; min, max, print, assert as Triton's.
- descriptors' atomics, map_elementwise and dot_scaled compute; inline assembly is an error that names it.
- an error names the line of the kernel, and an access out of bounds the argument that it lies nearest to.
- device functions need no decorator state: each is rewritten once, and a nested call patches nothing.
"""

from __future__ import annotations

import importlib
import math
import os
from functools import cache
from typing import Any

import numpy as np

from tensorlib.errors import KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit


def run(kernel: Jit, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any]) -> None:
    """Run every program of the grid, one after another. KernelError carries what a program raised as its cause."""
    engine = _engine()
    program: tuple[int, ...] = (0, 0, 0)
    with compiler.LOCK, engine.patched(), np.errstate(all="ignore"):
        try:
            function = engine.interpretable(kernel)
            values = dict(zip(kernel.arguments, map(engine.argument, args), strict=True))
            values |= {name: engine.constant(value) for name, value in constants.items()}
            sizes = grid + (1,) * (3 - len(grid))
            engine.builder.set_grid_dim(*sizes)
            for program in np.ndindex(*sizes):
                engine.builder.set_grid_idx(*program)
                returned = function(**values)
                if engine.is_value(returned):
                    raise TypeError("returns a value: expected a kernel that returns nothing, as on a GPU: store it")
        except Exception as error:
            described = (f"{name}: {_describe(arg)}" for name, arg in zip(kernel.arguments, args, strict=True))
            raise KernelError(
                f"{kernel.__name__}: failed in the interpreter at program {tuple(program)} of grid {grid}: "
                f"{type(error).__name__}: {error}{_line(error, kernel)}{_nearest(error, kernel, args)}\n"
                f"  arguments: {', '.join(described)}\n"
                f"  constants: {constants}"
            ) from error


def _line(error: BaseException, kernel: Jit) -> str:
    """` (softmax.py:12)`: the deepest line of a kernel's source that the error came through."""
    found, step = "", error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if "interpreter_semantic" in step.tb_frame.f_globals and "_tensorlib_logic" in step.tb_frame.f_globals:
            found = f" ({os.path.basename(code.co_filename)}:{step.tb_lineno}, in {code.co_name})"
        step = step.tb_next
    return found


def _nearest(error: BaseException, kernel: Jit, args: tuple[Any, ...]) -> str:
    """Which argument's memory an address out of bounds lies nearest to, and how far from it."""
    address = getattr(error, "address", None)
    spans = [
        (name, value.data_ptr(), value.data_ptr() + value.dtype.itemsize * math.prod(value.shape))
        for name, arg in zip(kernel.arguments, args, strict=True)
        for value in (arg if isinstance(arg, tuple) else (arg,))
        if hasattr(value, "data_ptr")
    ]
    if address is None or not spans:
        return ""
    name, start, end = min(spans, key=lambda span: max(span[1] - address, address - span[2], 0))
    away = f"{start - address} bytes before" if address < start else f"{max(address - end, 0)} bytes past the end of"
    return f"; {away} {name}"


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_describe, value)) + ")"
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "data_ptr") else repr(value)


@cache
def _engine() -> Any:
    """The module that derives from Triton's interpreter: loaded at the first launch, as it imports triton."""
    compiler.triton()
    return importlib.import_module("tensorlib.runtime._interpreter")
