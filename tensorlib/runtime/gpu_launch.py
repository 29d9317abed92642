"""Launches on a GPU: a dictionary lookup and one call of the driver where the kernel ran before with such arguments.

Python's own work is what a small launch costs, so the code of a launch is written for it: `quick` is generated for a
kernel and the types of its arguments, and finds what was loaded for their alignment, width and constants; `run` is
generated for one loaded kernel, and packs its parameters into a block of memory that is used again and again.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import DriverError, KernelError
from tensorlib.runtime import abi, compiler, driver
from tensorlib.runtime.compiler import Compiled, Jit, Key
from tensorlib.runtime.launch import operator

if TYPE_CHECKING:
    from tensorlib.runtime.gpu import GPU

RECENT = 32  # launches that an error of the whole GPU can name


class Loaded:
    """A kernel loaded on one GPU for one specialisation: what a launch needs, and what an error says of it."""

    __slots__ = ("compiled", "function", "module", "num_stages", "prepared", "run")

    compiled: Compiled
    module: driver.Module
    function: int
    prepared: Any
    num_stages: int
    run: Callable[[tuple[int, ...], tuple[Any, ...]], None]

    def describe(self, operator: str, grid: tuple[int, ...], shapes: tuple[Any, ...]) -> str:
        """`add: pointwise_kernel on grid (4,), ...`: the operator, its kernel, types, shapes and configuration."""
        c = self.compiled
        name = f"{operator}: " if operator else ""
        constants = ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in c.constants.items())
        return (
            f"{name}{c.kernel.__name__} on grid {grid}, arrays {', '.join(map(str, shapes)) or 'none'}; "
            f"{compiler.describe_keys(c.kernel, c.keys)}; {constants}; "
            f"num_warps={c.block_warps}, num_stages={self.num_stages}, {c.target}"
        )


class Launchers:
    """The kernels loaded on one GPU."""

    def __init__(self, gpu: GPU) -> None:
        self.gpu = gpu
        self.loaded: dict[Any, Loaded] = {}
        self.recent: deque[Any] = deque(maxlen=RECENT)
        self._tables: list[dict[Any, Any]] = []  # those that `quick` functions look in

    def forget(self) -> None:
        """Drop everything loaded: the next launch starts anew."""
        self.loaded.clear()
        for table in self._tables:
            table.clear()
        self.recent.clear()

    def run(
        self,
        kernel: Jit,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> None:
        """The slow way: find or load the kernel, launch it, and prepare the quick way for the next such launch."""
        args = tuple([_plain(a) for a in args])
        keys = compiler.specialise_all(kernel, args, self.gpu.target)
        request = (
            kernel, keys, compiler.constants_key(constants), num_warps, num_stages,
            compiler.constants_key(options or {}),
        )  # fmt: skip
        found = self.loaded.get(request)
        if found is None:
            found = self._load(kernel, keys, constants, num_warps, num_stages, options)
            found = self.loaded.setdefault(request, found)
        if options is None:
            signature = (*map(type, args), *constants, *map(type, constants.values()))
            quick = kernel.quick.get(signature)
            if quick is None:
                quick = kernel.quick[signature] = _quick(kernel, args, constants, type(self.gpu))
            if quick.table not in self._tables:
                self._tables.append(quick.table)
            key = quick(args, constants, num_warps, num_stages, True)
            if key is not None:
                quick.table[key] = found.run
        found.run(grid, args)

    def _load(
        self,
        kernel: Jit,
        keys: tuple[Key, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> Loaded:
        gpu = self.gpu
        compiled = compiler.compile_kernel(kernel, keys, constants, gpu.target, num_warps, num_stages, options)
        limit = gpu.properties.shared_memory_per_block_optin
        if compiled.shared > limit:
            raise KernelError(
                f"{kernel.__name__}: asks for {compiled.shared:,} bytes of shared memory, {gpu.properties.name} "
                f"({gpu.target}) gives a block at most {limit:,}: use smaller blocks or fewer stages\n"
                f"  constants: {constants}\n  num_warps={num_warps}, num_stages={num_stages}"
            )
        gpu.activate()
        found = Loaded()
        found.compiled, found.num_stages = compiled, num_stages
        # A capture forbids its thread to load anything, which the graph will not contain, unless it says it means it.
        mode = gpu.driver.exchange_capture_mode("relaxed")
        try:
            found.module = driver.Module(gpu.driver, compiled.binary)
            found.function = gpu.driver.function(found.module.handle, compiled.name)
            if compiled.shared > 48 << 10:
                gpu.driver.allow_shared(found.function, compiled.shared)
        finally:
            gpu.driver.exchange_capture_mode(mode)
        warp = 64 if compiled.target.startswith("gfx9") else 32
        found.prepared = gpu.driver.prepare(
            found.function, compiled.block_warps * warp, compiled.shared,
            num_ctas=compiled.num_ctas, cooperative=compiled.cooperative, pdl=compiled.pdl,
        )  # fmt: skip
        found.run = _run(gpu, found)
        return found

    def explain(self) -> str:
        """What an error that concerns the whole GPU adds: the last launches, newest first, and how to find the one."""
        lines = [loaded.describe(*what) for loaded, *what in reversed(self.recent)]
        if not lines:
            return ""
        return (
            "\nThe error is of an earlier launch: kernels run after the call that asked for them has returned. "
            "The last launches on this GPU, newest first:\n  " + "\n  ".join(lines[:8]) + "\n"
            "Set TENSORLIB_LAUNCH_BLOCKING=1 to wait for each launch and so name the one that fails, and move the "
            "same call's tensors to device 'interpret' to see which argument and index: it checks every access."
        )


def _plain(value: Any) -> Any:
    """An argument as the generated code takes it: a subclass of int, as an IntEnum, is an int."""
    if type(value) is tuple:
        return tuple([_plain(v) for v in value])
    if isinstance(value, int) and not isinstance(value, (bool, np.generic)):
        return int(value)
    return value


# ------------------------------------------------------------------------------------------- finding what was loaded


def _tuple_key(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A key for the values of a tuple argument, as `_key_code` makes one for an argument by itself."""
    out: list[Any] = []
    for v in values:
        kind = type(v)
        if kind is int:
            out.append(_int_key(v))
        elif kind is tuple:
            out.append(_tuple_key(v))
        elif hasattr(v, "ptr"):
            out.append((v.dtype, v.ptr & 15 == 0, _in_range32(v)))
        else:
            out.append(compiler.specialise(v))
    return tuple(out)


def _int_key(v: int) -> int:
    return 0 if v == 1 else (1 if v & 15 else 2) if -(2**31) <= v < 2**31 else (3 if v & 15 else 4) + (v >= 1 << 63) * 2


def _in_range32(array: Any) -> bool:
    """What `compiler.specialise` asks for AMD, a little faster: most arrays lie in a block of less than 2 GiB."""
    owner = array.owner
    if owner is not None and owner.nbytes < 1 << 31 and min(array.strides, default=0) >= 0:
        return True
    return compiler.in_range32(array)


def _quick(kernel: Jit, args: tuple[Any, ...], constants: dict[str, Any], gpus: type[GPU]) -> Any:
    """`quick(args, constants, num_warps, num_stages, make_key=False)`: the `run` of what was loaded for these, or None.

    For arguments of exactly these types and constants of these names and types.
    """
    names = [f"a{i}" for i in range(len(args))]
    arrays, aligned, parts = [], [], []
    for name, parameter, value in zip(names, kernel.arguments, args, strict=True):
        plain = parameter in kernel.do_not_specialize
        kind = type(value)
        if hasattr(value, "ptr"):
            arrays.append(name)
            parts.append(f"{name}.dtype")
            if not plain:
                aligned.append(name)
        elif kind is int:
            if plain:
                parts.append(f"-0x80000000 <= {name} < 0x80000000 or {name} >> 63 == 1")
            else:
                parts.append(
                    f"0 if {name} == 1 else (1 if {name} & 15 else 2) if -0x80000000 <= {name} < 0x80000000 "
                    f"else int_key({name})"
                )
        elif kind is tuple:
            parts.append(f"tuple_key({name})")
        elif isinstance(value, np.integer) and not plain:
            parts.append(f"int({name}) & 15 == 0")
    lines = ["def quick(args, constants, num_warps, num_stages, make_key=False):"]
    if names:
        lines.append(f"    {', '.join(names)}, = args")
    first = arrays[0] if arrays else None
    lines.append(f"    device = {first}.device" if first else "    device = device_of(args)")
    lines += ["    engine = getattr(device, 'engine', None)", "    if type(engine) is not GPU: return None"]
    if len(arrays) > 1:
        others = " or ".join(f"{a}.device is not device" for a in arrays[1:])
        lines.append(f"    if {others}: return None")
    if aligned:
        pointers = " | ".join(f"{a}.ptr" for a in aligned)
        each = ", ".join(f"{a}.ptr & 15 == 0" for a in aligned)
        parts.insert(0, f"({pointers}) & 15 and ({each},)")
    ranges = "".join(f", in_range32({a})" for a in arrays)
    exact = not any(isinstance(v, (float, tuple)) for v in constants.values())
    parts.append("*constants.values()" if exact else "constants_key(constants)")
    key = ", ".join(f"({p})" if " if " in p or " or " in p or " and " in p else p for p in parts)
    lines.append(f"    key = (device, num_warps, num_stages, {key})")
    if arrays:
        lines.append(f"    if engine.target[0] == 'g': key = (key{ranges})")
    lines.append("    return key if make_key else get(key)")
    table: dict[Any, Any] = {}
    scope: dict[str, Any] = {
        "get": table.get, "int_key": _int_key, "tuple_key": _tuple_key, "in_range32": _in_range32,
        "constants_key": compiler.constants_key, "device_of": _device_of, "GPU": gpus,
    }  # fmt: skip
    exec(compiler.compile_source("\n".join(lines), f"<quick {kernel.__name__}>"), scope)
    quick = scope["quick"]
    quick.table = table
    return quick


def _device_of(values: Any) -> Any:
    """The device of the first array within tuples."""
    for v in values:
        if type(v) is tuple:
            found = _device_of(v)
            if found is not None:
                return found
        elif hasattr(v, "ptr"):
            return v.device
    return None


# ------------------------------------------------------------------------------------------------------- one launch


def _values(key: Key, expression: str) -> Iterator[tuple[str, str]]:
    """(Triton type, expression) of the run-time values of an argument, tuples flattened."""
    if isinstance(key, tuple):
        for i, k in enumerate(key):
            yield from _values(k, f"{expression}[{i}]")
    elif key[0] != "=":
        name = key.partition(" ")[0]
        if name[0] == "*":
            yield name, f"{expression}.ptr"
        else:
            yield name, f"{expression}.view(uint16).item()" if name == "bf16" else expression


def _array_names(key: Key, expression: str) -> Iterator[str]:
    if isinstance(key, tuple):
        for i, k in enumerate(key):
            yield from _array_names(k, f"{expression}[{i}]")
    elif key[0] == "*":
        yield expression


def _run(gpu: GPU, loaded: Loaded) -> Callable[[tuple[int, ...], tuple[Any, ...]], None]:
    """`run(grid, args)`: pack and launch one loaded kernel on the thread's current stream."""
    compiled = loaded.compiled
    names = [f"a{i}" for i in range(len(compiled.keys))]
    pairs = [pair for key, name in zip(compiled.keys, names, strict=True) for pair in _values(key, name)]
    shapes = [f"{a}.shape" for key, name in zip(compiled.keys, names, strict=True) for a in _array_names(key, name)]
    layout = abi.packed([t for t, _ in pairs]).layout
    code, at = "<", 0
    for (offset, size), name in zip(layout, [*(t for t, _ in pairs), "u64", "u64"], strict=True):
        code += f"{offset - at}x" * (offset > at) + abi.code(name)
        at = offset + size
    scratch = compiled.global_scratch_size
    values = ", ".join([e for _, e in pairs] + (["scratch.ptr", "0"] if scratch else ["0", "0"]))
    ffi = gpu.driver.ffi

    def buffer() -> Any:
        """New parameter memory, with the driver's array of pointers into it."""
        memory = ffi.new("char[]", at)
        pointers = ffi.new("void *[]", [memory + offset for offset, _ in layout])
        return ffi.buffer(memory), pointers, memory

    lines = ["def run(grid, args):"]
    if names:
        lines.append(f"    {', '.join(names)}, = args")
    lines += [
        "    n = len(grid)",
        "    x = grid[0]",
        "    y = grid[1] if n > 1 else 1",
        "    z = grid[2] if n > 2 else 1",
        "    if not x or not y or not z: return",
        "    if thread.active is not gpu: gpu.activate()",
        "    stream = local.stream",
    ]
    if scratch:
        lines.append(f"    scratch = allocate(x * y * z * {compiled.num_ctas * scratch}, stream)")
    lines += [
        "    try: memory = pop()",
        "    except IndexError: memory = buffer()",
        f"    pack(memory[0], 0, {values})",
        f"    recent((loaded, operator[0], grid, ({''.join(s + ', ' for s in shapes)})))",
        "    try:",
        "        launch(x, y, z, stream, memory[1])",
        *(["        synchronize(stream)"] if driver.LAUNCH_BLOCKING else []),
        "    except DriverError as error:",
        "        failed(error, grid, args)",
        "        raise",
        "    push(memory)",
    ]

    def failed(error: DriverError, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        error.add_note(f"launching {loaded.describe(*launchers.recent[-1][1:])}") if launchers.recent else None

    launchers = gpu.launchers
    free: list[Any] = [buffer()]
    scope: dict[str, Any] = {
        "gpu": gpu, "local": gpu.local, "thread": gpu.thread, "pop": free.pop, "push": free.append, "buffer": buffer,
        "pack": struct.Struct(code).pack_into, "recent": launchers.recent.append, "operator": operator,
        "loaded": loaded, "launch": loaded.prepared, "DriverError": DriverError, "failed": failed,
        "allocate": gpu.memory.allocate, "uint16": np.uint16, "synchronize": gpu.driver.stream_synchronize,
    }  # fmt: skip
    exec(compiler.compile_source("\n".join(lines), f"<launch {compiled.kernel.__name__}>"), scope)
    run: Callable[[tuple[int, ...], tuple[Any, ...]], None] = scope["run"]
    return run
