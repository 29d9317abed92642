"""Runs a generated program, holds two devices' results to each other, and makes a failing program small.

The arguments follow from the names of a kernel's parameters (see `fuzz`), so that a module's text is all there is to a
program: those of tests/native/corpus are run by the same functions.
"""

from __future__ import annotations

import ctypes
import faulthandler
import linecache
import math
import mmap
import os
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fuzz_numpy
import ml_dtypes
import numpy as np
from fuzz import Program
from fuzz_data import contents, parts, scalar

from tensorlib._array import DeviceArray, to_device, to_host
from tensorlib._device import device
from tensorlib.errors import UnsupportedError
from tensorlib.runtime.compiler import Jit, as_jit
from tensorlib.runtime.launch import launch
from tensorlib.runtime.native import engine, settings

#: Units in the last place by which close results may differ.
CLOSE = {"f16": 2.0, "bf16": 2.0, "f32": 64.0, "f64": 64.0}


# -- arguments


class Fenced:
    """Memory that ends where a page begins that must not be touched: a read beyond an array's end is seen."""

    def __init__(self, nbytes: int) -> None:
        page = mmap.PAGESIZE
        whole = -(-nbytes // page) * page
        self.map = mmap.mmap(-1, whole + page)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(first + whole), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        # As memory.HostBlock, which guarded kernels ask where an array's memory begins and ends.
        self.start, self.nbytes = first + whole - nbytes, nbytes
        self.bytes = np.frombuffer(self.map, np.uint8, nbytes, whole - nbytes)

    def array(self, data: np.ndarray, where: Any) -> DeviceArray:
        """A copy of data at the end of it, as a device's array."""
        self.bytes[:] = data.view(np.uint8)
        return DeviceArray(self.start, data.shape, (1,), data.dtype, where, self)


def text_at(address: int, nbytes: int) -> str:
    """What is in memory there, in hexadecimal digits."""
    return ctypes.string_at(address, nbytes).hex()


def arguments(kernel: Jit, where: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The arguments and constants of a launch on a device, and the memory behind them by name."""
    memory: dict[str, Any] = {}
    args = []
    for name in kernel.arguments:
        if "_" not in name:
            args.append(scalar(name))
            continue
        kind, dtype, shift = parts(name)
        base = f"{kind}_{dtype}"
        if base not in memory:
            data = contents(base)
            fenced = where.type == "native"
            memory[base] = Fenced(data.nbytes).array(data, where) if fenced else to_device(data, where)
        whole = memory[base]
        args.append(
            DeviceArray(
                whole.ptr + shift * whole.itemsize, (whole.size - shift,), (1,), whole.dtype, where, whole.owner
            )
        )
    return args, {name: scalar(name) for name in kernel.constants}, memory


# -- running


def module(source: str) -> dict[str, Any]:
    """The names of a program's module; its lines can be read by Triton and by tracebacks."""
    filename = f"<fuzz {zlib.crc32(source.encode()):08x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    scope: dict[str, Any] = {"__name__": "fuzzed"}
    exec(compile(source, filename, "exec"), scope)
    if "libdevice." in source:
        from triton.language.extra import libdevice  # only where it is used

        scope["libdevice"] = libdevice
    return scope


def run(source: str, name: str) -> dict[str, np.ndarray]:
    """What a program leaves in its buffers on the device of that name, or by "numpy"."""
    if name == "numpy":
        return fuzz_numpy.run(source)
    scope = module(source)
    kernel = as_jit(scope["kernel"])
    where = device(name)
    args, constants, memory = arguments(kernel, where)
    launch(kernel, scope["GRID"], *args, **constants)
    return {base: _read(array) for base, array in memory.items() if base[:3] not in ("in_", "tm_", "po_")}


def _read(array: DeviceArray) -> np.ndarray:
    if isinstance(array.owner, Fenced):
        return array.owner.bytes.copy().view(array.dtype)
    return to_host(array)


def share(threads: int) -> None:
    """From now on share every native launch between that many threads, however small."""
    settings.set_num_threads(threads)
    engine._SMALL = 0.0


@dataclass
class Verdict:
    """What became of a program: same, differs, unsupported, error (of the native device), invalid (of the oracle)."""

    kind: str
    text: str = ""


def difference(expected: np.ndarray, found: np.ndarray, units: float) -> np.ndarray:
    """Which elements differ: by more than units in the last place, or at all for 0; every NaN is the same."""
    if expected.dtype.kind in "iu":
        return expected != found
    bits = f"u{expected.itemsize}"
    nan = np.isnan(expected) & np.isnan(found)
    if not units:
        return (expected.view(bits) != found.view(bits)) & ~nan
    with np.errstate(all="ignore"):
        e, f = expected.astype(np.float64), found.astype(np.float64)
        info = ml_dtypes.finfo(expected.dtype)
        unit = np.maximum(np.abs(e), float(info.tiny)) * float(info.eps)
        return ~((np.abs(e - f) <= units * unit) | (e == f) | nan)


def compare(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> str:
    """What differs, as text; empty for nothing."""
    lines = []
    for name in expected:
        units = CLOSE[parts(name)[1]] if name.startswith("ap_") else 0.0
        bad = np.flatnonzero(difference(expected[name], found[name], units))
        if bad.size:
            i = int(bad[0])
            lines.append(
                f"{name}: {bad.size} of {expected[name].size} differ, the first at {i}: "
                f"expected {expected[name][i]!r}, found {found[name][i]!r}"
            )
    return "\n".join(lines)


def judge(source: str, target: str = "native", oracle: str = "interpret") -> Verdict:
    """A program on both devices."""
    try:
        expected = run(source, oracle)
    except Exception as error:
        return Verdict("invalid", _short(error))
    if target == oracle:
        return Verdict("same")
    try:
        found = run(source, target)
    except UnsupportedError as error:
        return Verdict("unsupported", _short(error))
    except Exception as error:
        return Verdict("error", _short(error))
    text = compare(expected, found)
    return Verdict("differs", text) if text else Verdict("same")


def _short(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:1500]} ({os.path.basename(where.filename)}:{where.lineno})"


def isolated(work: Callable[[], Verdict], seconds: float = 60.0) -> Verdict:
    """work in a child process: where it ends the process, by a signal or by not ending, that is the verdict."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reader)
            faulthandler.disable()  # the verdict says it
            signal.alarm(math.ceil(seconds))
            verdict = work()
            with os.fdopen(writer, "w") as stream:
                stream.write(f"{verdict.kind}\n{verdict.text}")
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Verdict("crash", signal.Signals(os.WTERMSIG(status)).name)
    kind, _, text = said.partition("\n")
    return Verdict(kind or "crash", text)


# -- making a program small


def reduce(program: Program, fails: Callable[[str], bool], seconds: float = 60.0) -> str:
    """The source of the smallest program found in that time that fails still: statements are left out, or constant."""
    tried: dict[str, bool] = {}
    deadline = time.monotonic() + seconds

    def still() -> bool:
        source = program.source()
        if source not in tried:
            tried[source] = time.monotonic() < deadline and fails(source)
        return tried[source]

    changed = True
    while changed and time.monotonic() < deadline:
        changed = False
        for grid in ((1,), (2,)):
            if math.prod(program.grid) > math.prod(grid):
                before, program.grid = program.grid, grid
                changed |= (kept := still())
                if not kept:
                    program.grid = before
        statements = [s for s in program.statements() if s.state != "gone"]
        size = max(1, len(statements) // 2)
        while size:
            for at in range(0, len(statements), size):
                changed |= _drop(statements[at : at + size], still)
            size //= 2
    return program.source()


def _drop(group: list[Any], still: Callable[[], bool]) -> bool:
    """Try to leave a group of statements out, else to make what they define constant."""
    before = [s.state for s in group]
    for state in ("gone", "constant"):
        if any(_rank(s.state) < _rank(state) for s in group):
            for s, old in zip(group, before, strict=True):
                wanted = state if state == "gone" or s.defines else "gone"
                s.state = wanted if _rank(wanted) > _rank(old) else old
            if still():
                return True
            for s, old in zip(group, before, strict=True):
                s.state = old
    return False


def _rank(state: str) -> int:
    return ("kept", "constant", "gone").index(state)
