"""The simulated GPU driver: ``with simulated("cuda", devices=2) as sim:`` and the process has GPUs, over host memory.

driver.c exports the vendor's entry points and holds callers to their rules; it is built here with ``cc``. Everything
above it is the library's own: bindings, allocator, launches, graphs, errors. What a kernel computes comes from Triton's
interpreter: the compiled binary that is loaded is known by its hash, and its arguments are read from the bytes that the
launch wrote, at the offsets that the *binary* names.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tensorlib._device import device as Device
from tensorlib.runtime import (
    abi,
    caching,
    compiler,
    descriptors,
    gpu,
    interpreter,
    memory,
    memory_blocks,
    versions,
)
from tensorlib.runtime.compiler import Compiled, Key
from tensorlib.runtime.engine import engine_of

SOURCE = Path(__file__).with_name("driver.c")
_FILES = {"cuda": "libcuda-simulated.so", "hip": "libamdhip64-simulated.so"}
_VARIABLES = {"cuda": "TENSORLIB_CUDA_DRIVER", "hip": "TENSORLIB_HIP_DRIVER"}
_VERSIONS = {"cuda": 13000, "hip": 60241134}
_ARCHES = {"cuda": "sm_90", "hip": "gfx942"}
ILLEGAL_ADDRESS, LAUNCH_FAILED, ASSERT, NOT_FOUND, INVALID_IMAGE, NO_BINARY = 700, 719, 710, 500, 200, 209

#: name, (major, minor, warp, multiprocessors, threads and registers of each, shared memory of a block, the most that a
#: block can have, that of a multiprocessor, L2 cache)
_MODELS: dict[str, tuple[str, tuple[int, ...]]] = {
    "sm_80": ("Simulated A100", (8, 0, 32, 108, 2048, 65536, 49152, 166912, 167936, 40 << 20)),
    "sm_90": ("Simulated H100", (9, 0, 32, 132, 2048, 65536, 49152, 232448, 233472, 50 << 20)),
    "sm_100": ("Simulated B200", (10, 0, 32, 148, 2048, 65536, 49152, 232448, 233472, 126 << 20)),
    "sm_120": ("Simulated RTX 5090", (12, 0, 32, 170, 1536, 65536, 49152, 101376, 102400, 96 << 20)),
    "gfx90a": ("Simulated MI250X", (9, 0, 64, 110, 2048, 65536, 65536, 65536, 65536, 8 << 20)),
    "gfx942": ("Simulated MI300X", (9, 4, 64, 304, 2048, 65536, 65536, 65536, 65536, 4 << 20)),
    "gfx950": ("Simulated MI355X", (9, 5, 64, 256, 2048, 65536, 163840, 163840, 163840, 4 << 20)),
    "gfx1100": ("Simulated RX 7900", (11, 0, 32, 96, 2048, 65536, 65536, 65536, 65536, 6 << 20)),
    "gfx1201": ("Simulated RX 9070", (12, 0, 32, 64, 2048, 65536, 65536, 65536, 65536, 8 << 20)),
}

_LOADER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32),
)  # fmt: skip
_LAUNCHER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32,
    ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64), ctypes.c_int, ctypes.c_int,
)  # fmt: skip


class Call(NamedTuple):
    """A call that reached the driver: what it was, its key arguments by name, and what it returned."""

    name: str
    arguments: dict[str, int]
    status: int
    thread: int


NATIVE = Device("native")


class _Block(NamedTuple):
    """A block of the driver's memory; equal ones are one object, by which the native engine knows what may overlap."""

    start: int
    nbytes: int


_block = functools.lru_cache(maxsize=1 << 16)(_Block)


class Pointer:
    """A pointer argument read back from a launch: what the interpreter and the native engine want of an array."""

    def __init__(self, ptr: int, dtype: np.dtype[Any], start: int, end: int) -> None:
        self.ptr = ptr
        self.dtype = dtype
        self.shape = ((end - ptr) // dtype.itemsize,)  # from there to the end of its block
        self.strides = (1,)
        self.owner = _block(start, end - start)
        self.device = NATIVE

    def data_ptr(self) -> int:
        """Its address."""
        return self.ptr


@functools.cache
def library(kind: str) -> str:
    """The path of the driver, built at its first use; processes that build it at once do not meet."""
    text = SOURCE.read_bytes()
    folder = Path(tempfile.gettempdir()) / f"tensorlib-simulated-{os.getuid()}-{hashlib.sha256(text).hexdigest()[:16]}"
    path = folder / _FILES[kind]
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = folder / f".{_FILES[kind]}.{os.getpid()}.{threading.get_ident()}"
        command = ["cc", "-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall"]
        command += [f"-D{kind.upper()}", str(SOURCE), "-o", str(made), "-lpthread"]
        subprocess.run(command, check=True)
        os.replace(made, path)
    return str(path)


@functools.cache
def _control(kind: str) -> Any:
    """The functions sim_* of a driver."""
    lib = ctypes.CDLL(library(kind))
    u64, number, text, pointer = ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
    for name, result, arguments in (
        ("reset", None, (number, number)),
        ("device", None, (number, text, text, u64, pointer)),
        ("options", None, (number, number, number, number)),
        ("callbacks", None, (pointer, pointer)),
        ("fail", number, (text, u64, number, number)),
        ("fail_allocation", None, (ctypes.c_long,)),
        ("stick", None, (number, number)),
        ("sticky", number, (number,)),
        ("limit", None, (number, u64)),
        ("used", u64, (number,)),
        ("count", u64, (text,)),
        ("violation", text, (number,)),
        ("forgive", number, (number,)),
        ("violate", number, (text,)),
        ("call", text, (number, pointer, pointer, pointer, pointer, pointer)),
        ("block", number, (u64, u64)),
        ("unblock", number, (u64,)),
        ("what", number, (u64,)),
        ("live", number, (number,)),
        ("live_ranges", number, (number,)),
    ):
        function = getattr(lib, f"sim_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def _image_size(image: bytes) -> int:
    """Bytes of an image as its own header tells them, as driver.c computes them: a driver is given a pointer alone."""
    if image[:4] != b"\x7fELF":
        return struct.unpack_from("<I", image, 4)[0] if image[:4] == b"\x7fSIM" else 0
    segments, sections = struct.unpack_from("<QQ", image, 32)
    segment_size, segment_count, section_size, section_count = struct.unpack_from("<HHHH", image, 54)
    size = max(sections + section_size * section_count, segments + segment_size * segment_count)
    for i in range(section_count):
        kind, offset, length = struct.unpack_from("<4xI16xQQ", image, sections + i * section_size)
        if kind != 8:
            size = max(size, offset + length)
    return int(size)


_FORMATS = {
    "u1": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "fp16": "e", "fp32": "f", "fp64": "d",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in compiler.TYPES.items()}


def _value(kind: str, raw: bytes) -> Any:
    """A scalar argument of its own type."""
    if kind == "bf16":
        return np.frombuffer(raw, ml_dtypes.bfloat16)[0]
    if kind == "u1":
        return bool(raw[0])
    return _DTYPES[kind].type(struct.unpack("<" + _FORMATS[kind], raw)[0])


class _Function:
    """A kernel that was loaded."""

    def __init__(self, name: str, layout: Sequence[tuple[int, int]], compiled: Compiled | None, run: Any) -> None:
        self.name = name
        self.layout = list(layout)
        self.compiled = compiled
        self.run = run


class Simulation:
    """The handle of a simulated driver: options, faults, and what it saw."""

    def __init__(self, kind: str, launcher: str | Callable[..., Any]) -> None:
        self.kind = kind
        self.launcher = launcher
        self.path = library(kind)
        self.exceptions: list[BaseException] = []  # what kernels raised, each of which stopped a device
        self._lib = _control(kind)
        self._images: dict[bytes, Compiled | _Function] = {}  # by the SHA-256 of the image
        self._functions: dict[int, _Function] = {}
        self._arches: list[str] = []
        self._options = {"lazy": 1, "patience": 2, "record": 1, "peer": 1}
        self._callbacks = (_LOADER(self._load), _LAUNCHER(self._launch))  # kept: C has only their addresses

    # -- options and faults
    def options(self, **options: int | bool) -> None:
        """lazy: work waits for somebody who needs it; patience: refusals of a query before its work is run, -1: always
        refuse; record: calls are written down; peer: devices can reach each other's memory.
        """
        unknown = options.keys() - self._options.keys()
        if unknown:
            raise TypeError(f"options: unknown {sorted(unknown)}: expected {', '.join(self._options)}")
        self._options |= {name: int(value) for name, value in options.items()}
        self._lib.sim_options(*(self._options[n] for n in ("lazy", "patience", "record", "peer")))

    def fail(self, entry: str, status: int, nth: int = 1, always: bool = False) -> None:
        """The nth call from now of an entry point (its exported name) returns a status; always: all after it too."""
        self._lib.sim_fail(entry.encode(), nth, status, int(always))

    def fail_allocation(self, nth: int = 1) -> None:
        """The nth allocation from now, of the device or the host, finds no memory."""
        self._lib.sim_fail_allocation(nth)

    def limit(self, nbytes: int, device: int = 0) -> None:
        """Memory of a device."""
        self._lib.sim_limit(device, nbytes)

    def lose(self, status: int = 999, device: int = 0) -> None:
        """The device is lost, or its context is: every later call fails so."""
        self._lib.sim_stick(device, status)

    # -- what it saw
    @property
    def calls(self) -> list[Call]:
        """Every call, in order."""
        names, n, status, thread = ctypes.c_char_p(), ctypes.c_int(), ctypes.c_int(), ctypes.c_uint64()
        values = (ctypes.c_uint64 * 8)()
        found = []
        for i in range(self._lib.sim_n_calls()):
            refs = (ctypes.byref(names), values, ctypes.byref(n), ctypes.byref(status), ctypes.byref(thread))
            name = self._lib.sim_call(i, *refs).decode()
            keys = (names.value or b"").decode().split()
            found.append(Call(name, dict(zip(keys, values, strict=False)), status.value, thread.value))
        return found

    def forget_calls(self) -> None:
        """Begin the list of calls anew."""
        self._lib.sim_forget_calls()

    def count(self, entry: str) -> int:
        """How often an entry point was called."""
        return int(self._lib.sim_count(entry.encode()))

    def used(self, device: int = 0) -> int:
        """Bytes of a device that are allocated."""
        return int(self._lib.sim_used(device))

    def live(self, what: str) -> int:
        """How many there are of: stream (the legacy ones are among them), event, module, function, graph, exec, memory,
        pinned, registered."""
        kinds = {"stream": 2, "event": 3, "module": 4, "function": 5, "graph": 6, "exec": 7}
        ranges = {"memory": 0, "pinned": 1, "registered": 2}
        if what in ranges:
            return int(self._lib.sim_live_ranges(ranges[what]))
        return int(self._lib.sim_live(kinds[what]))

    @property
    def pending(self) -> int:
        """Pieces of work that nobody has needed yet."""
        return int(self._lib.sim_pending())

    def drain(self) -> None:
        """Run everything that is pending, as time does."""
        self._lib.sim_drain()

    @property
    def violations(self) -> list[str]:
        """The rules that were broken, in order; the guards around every allocation are looked at now."""
        self._lib.sim_check()
        return [self._lib.sim_violation(i).decode() for i in range(self._lib.sim_n_violations())]

    @contextlib.contextmanager
    def expect(self, pattern: str) -> Iterator[None]:
        """Within, a rule is broken on purpose: AssertionError unless the violations match, and there is one."""
        before = len(self.violations)
        yield
        new = self.violations[before:]
        self._lib.sim_forgive(before)
        assert new, f"no rule was broken: expected one that matches {pattern!r}"
        other = [text for text in new if not re.search(pattern, text)]
        assert not other, f"expected violations that match {pattern!r}, got {other}"

    # -- kernels
    def kernel(self, name: str, sizes: Sequence[int], run: Callable[..., Any] | None = None) -> bytes:
        """An image to load with one kernel, in place of a compiled one: ``sizes`` of its parameters in bytes.

        ``run(values, grid, block)`` is called for a launch, when it is executed, with the bytes of each parameter.
        """
        layout, at = [], 0
        for size in sizes:
            at = -(-at // size) * size
            layout.append((at, size))
            at += size
        text = f"{name} {len(self._images)} {list(sizes)}".encode()
        image = b"\x7fSIM" + struct.pack("<I", 8 + len(text)) + text
        self._images[hashlib.sha256(image).digest()] = _Function(name, layout, None, run)
        return image

    def _compile(self, original: Callable[..., Compiled]) -> Callable[..., Compiled]:
        """compile_kernel, with every binary that it gives noted."""

        @functools.wraps(original)
        def compile_kernel(*args: Any, **kwargs: Any) -> Compiled:
            compiled = original(*args, **kwargs)
            binary = compiled.binary
            self._images[hashlib.sha256(binary[: _image_size(binary)]).digest()] = compiled
            return compiled

        return compile_kernel

    def _load(
        self, image: int, size: int, name: bytes | None, handle: int, offsets: Any, sizes: Any, limits: Any
    ) -> int:
        """A module is loaded (no name; handle is the device), or a function is asked of it: its layout, or -status."""
        try:
            known = self._images.get(hashlib.sha256(ctypes.string_at(image, size)).digest())
            if known is None:
                self._lib.sim_violate(b"a module was loaded that nobody compiled here")
                return -INVALID_IMAGE
            if name is None:
                wrong = isinstance(known, Compiled) and known.target != self._arches[handle]
                return -NO_BINARY if wrong else 0
            if known.name != name.decode():
                return -NOT_FOUND
            if isinstance(known, Compiled):
                known = _Function(known.name, abi.layout_of(known), known, None)
            for i, (offset, nbytes) in enumerate(known.layout):
                offsets[i], sizes[i] = offset, nbytes
            self._functions[handle] = known
            return len(known.layout)
        except Exception as error:
            self.exceptions.append(error)
            return -LAUNCH_FAILED

    def _launch(
        self,
        handle: int,
        grid: Any,
        block: Any,
        shared: int,
        values: int,
        nbytes: int,
        ranges: Any,
        n: int,
        device: int,
    ) -> int:
        """A launch is executed: 0, or the status that its device then answers with."""
        try:
            function = self._functions[handle]
            data = ctypes.string_at(values, nbytes) if nbytes else b""
            raw = [data[offset : offset + size] for offset, size in function.layout]
            pairs = [(ranges[2 * i], ranges[2 * i + 1]) for i in range(n)]
            sizes = grid[0], grid[1], grid[2]
            threads = block[0] * block[1] * block[2]
            if function.compiled is None:
                if function.run is not None:
                    function.run(raw, sizes, (block[0], block[1], block[2]))
            elif callable(self.launcher):
                self.launcher(function.compiled, raw, sizes)
            elif self.launcher in ("interpreter", "native"):
                self._execute(function.compiled, raw, sizes, threads, shared, pairs)
            return 0
        except BaseException as error:
            self.exceptions.append(error)
            cause = error.__cause__ if error.__cause__ is not None else error
            if isinstance(cause, IndexError):
                return ILLEGAL_ADDRESS
            return ASSERT if isinstance(cause, AssertionError) else LAUNCH_FAILED

    def _execute(
        self,
        compiled: Compiled,
        raw: list[bytes],
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        ranges: list[tuple[int, int]],
    ) -> None:
        warp = 64 if compiled.target.startswith("gfx9") else 32
        if threads != warp * compiled.block_warps:
            self._lib.sim_violate(f"{compiled.name}: launched with {threads} threads, compiled for "
                                  f"{compiled.block_warps} warps of {warp}".encode())  # fmt: skip
        if shared != compiled.shared:
            self._lib.sim_violate(f"{compiled.name}: launched with {shared} bytes of shared memory, it uses "
                                  f"{compiled.shared}".encode())  # fmt: skip
        if compiled.global_scratch_size and not struct.unpack("<Q", raw[-2])[0]:
            self._lib.sim_violate(f"{compiled.name}: its scratch memory is missing".encode())
        ctas = compiled.num_ctas or 1
        if len(raw) != len(compiled.types) + 2 or grid[0] % ctas:
            raise AssertionError(f"{compiled.name}: {len(raw)} parameters, types {compiled.types}, grid {grid}")
        flat = iter(zip(compiled.types, raw, strict=False))
        args = tuple(self._argument(key, flat, ranges) for key in compiled.keys)
        sizes = grid[0] // ctas, grid[1], grid[2]
        if self.launcher == "native":
            engine_of(NATIVE).launch(compiled.kernel, sizes, args, dict(compiled.constants), 4, 2, None)
            return
        with compiler.LOCK:
            before = memory.out_of_bounds
            anywhere = self._lib.sim_what if "table" in compiled.kernel.arguments else None
            memory.out_of_bounds = functools.partial(_outside, ranges, anywhere)  # type: ignore[assignment]
            try:
                interpreter.run(compiled.kernel, sizes, args, dict(compiled.constants))
            finally:
                memory.out_of_bounds = before  # type: ignore[assignment]

    def _argument(self, key: Key, flat: Iterator[tuple[str, bytes]], ranges: list[tuple[int, int]]) -> Any:
        """An argument from the bytes of a launch; what was specialised away, from its key."""
        if isinstance(key, tuple):
            return tuple(self._argument(k, flat, ranges) for k in key)
        if key[0] == "=":
            return 1 if key == "=1" else None
        if descriptors.is_key(key):
            return self._descriptor(key, flat, ranges)
        kind, raw = next(flat)
        if kind[0] != "*":
            if key.endswith(" 16") and struct.unpack("<" + _FORMATS[kind], raw)[0] % 16:
                self._lib.sim_violate(f"{key}: got a value that is no multiple of 16".encode())
            return _value(kind, raw)
        ptr = struct.unpack("<Q", raw)[0]
        if " 16" in key and ptr % 16:
            self._lib.sim_violate(f"{key}: got the address {ptr:#x}".encode())
        return self._pointer(ptr, kind[1:], ranges)

    def _descriptor(self, key: str, flat: Iterator[tuple[str, bytes]], ranges: list[tuple[int, int]]) -> Any:
        """A tensor descriptor from its parameters: what its tensor map says, or its pointer."""
        name, _, block = key.removeprefix("tensordesc<").removesuffix("]>").partition("[")
        boxes = [int(n) for n in block.split(",")]
        rank = len(boxes)
        kind, raw = next(flat)
        padding, rounded, mapped = "zero", False, kind == descriptors.MAP
        if mapped:
            ptr, found = struct.unpack_from("<Q", raw)[0], raw[9]
            dims = [n + 1 for n in struct.unpack_from(f"<{rank}I", raw, 16)][::-1]
            steps = struct.unpack_from(f"<{rank - 1}Q", raw, 40)[::-1]
            padding = "nan" if raw[11] else "zero"
        else:
            ptr, found = struct.unpack("<Q", raw)[0], rank
            dims = [struct.unpack("<q", next(flat)[1])[0] for _ in boxes]
            steps = [struct.unpack("<q", next(flat)[1])[0] for _ in boxes]
            flags = [next(flat)[1] != b"\0" for _ in range(versions.descriptor_flags())]
            padding, rounded = "nan" if flags[0] else "zero", any(flags[1:])
        shape = [struct.unpack("<i", next(flat)[1])[0] for _ in boxes]
        strides = [struct.unpack("<q", next(flat)[1])[0] for _ in boxes]
        base = self._pointer(ptr, name, ranges)
        if mapped:
            steps = [step // base.dtype.itemsize for step in steps] + [1]
        if found != rank or dims != shape or list(steps) != strides:
            self._lib.sim_violate(f"{key}: a map of {dims}, {list(steps)}, beside {shape}, {strides}".encode())
        return descriptors.TensorDescriptor(base, shape, strides, boxes, padding, rounded)

    def _pointer(self, ptr: int, name: str, ranges: list[tuple[int, int]]) -> Pointer:
        start, end = next(((s, e) for s, e in ranges if s <= ptr <= e), (ptr, ptr))
        if ptr and self._lib.sim_what(ptr) <= 0:
            self._lib.sim_violate(f"a kernel was given {ptr:#x}, which is none of the driver's memory".encode())
        return Pointer(ptr, _DTYPES[name], start, end)


def _outside(
    ranges: list[tuple[int, int]], anywhere: Any, addresses: np.ndarray, itemsize: int
) -> np.ndarray | None:
    """memory.out_of_bounds for a launch: an access must lie in a block that one of the arguments points into.

    ``anywhere``: of a kernel that finds its arrays in a table of addresses, whether one lies in any of the driver's.
    """
    if not addresses.size:
        return None
    low, high = int(addresses.min()), int(addresses.max())
    if any(s <= low and high + itemsize <= e for s, e in ranges):
        return None
    good = np.zeros(addresses.shape, bool)
    for s, e in set(ranges):
        good |= (addresses >= np.uint64(s)) & (addresses + np.uint64(itemsize) <= np.uint64(e))
    if anywhere is not None:
        good |= np.array([anywhere(int(a)) > 0 and anywhere(int(a) + itemsize - 1) > 0 for a in addresses.flat])
    return None if good.all() else ~good


@contextlib.contextmanager
def simulated(
    kind: str = "cuda",
    devices: int = 1,
    memory: int = 1 << 30,
    arch: str | None = None,
    *,
    launcher: str | Callable[..., Any] = "interpreter",
    version: int | None = None,
    strict: bool = True,
    blocks: bool = True,
    **options: int | bool,
) -> Iterator[Simulation]:
    """A machine with GPUs of one vendor and none of the other's, within the block.

    memory: bytes of each device; arch: "sm_90", "gfx942", ...; version: what the driver says of itself; launcher: what
    kernels do: "interpreter", "native", "none", or ``f(compiled, values, grid)``; strict: AssertionError at the end
    when a rule was broken that no `Simulation.expect` was for; blocks: the caching allocator's blocks bound every
    access, not only the driver's allocations; options: of `Simulation.options`.
    """
    arch = arch or _ARCHES[kind]
    if launcher not in ("interpreter", "native", "none") and not callable(launcher):
        raise ValueError(f"launcher: got {launcher!r}: expected 'interpreter', 'native', 'none' or a function")
    sim = Simulation(kind, launcher)
    lib = sim._lib
    lib.sim_reset(devices, _VERSIONS[kind] if version is None else version)
    name, numbers = _MODELS[arch]
    features = arch + (":sramecc+:xnack-" if arch in ("gfx90a", "gfx942", "gfx950") else "")
    for i in range(devices):
        lib.sim_device(i, name.encode(), features.encode(), memory, (ctypes.c_int * len(numbers))(*numbers))
        sim._arches.append(arch)
    sim.options(**options)
    lib.sim_callbacks(*(ctypes.cast(callback, ctypes.c_void_p) for callback in sim._callbacks))
    other = "hip" if kind == "cuda" else "cuda"
    with contextlib.ExitStack() as stack:
        for variable, value in ((_VARIABLES[kind], sim.path), (_VARIABLES[other], os.devnull)):
            stack.callback(_restore, variable, os.environ.get(variable))
            os.environ[variable] = value
        gpu.reset()
        stack.callback(gpu.reset)
        _patch(stack, compiler, "compile_kernel", sim._compile(compiler.compile_kernel))
        if blocks:
            _patch(stack, caching.Allocator, "allocate", _allocate(caching.Allocator.allocate, lib))
            _patch(stack, memory_blocks.Block, "__del__", _delete(memory_blocks.Block.__del__, lib))
        yield sim
        sim.drain()
        left = sim.violations
        if strict and left:
            raise AssertionError("rules of the driver were broken:\n  " + "\n  ".join(left))


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _patch(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _allocate(original: Any, lib: Any) -> Any:
    def allocate(self: Any, nbytes: int, stream: int = 0) -> Any:
        block = original(self, nbytes, stream)
        if block.ptr and nbytes:
            lib.sim_block(block.ptr, nbytes)
        return block

    return allocate


def _delete(original: Any, lib: Any) -> Any:
    def __del__(self: Any) -> None:
        chunk = getattr(self, "_chunk", None)
        if chunk is not None and chunk is not memory_blocks.NOTHING:
            lib.sim_unblock(chunk.ptr)
        original(self)

    return __del__
