"""Launches on a GPU: a dictionary lookup and one call of the driver where the kernel ran before with such arguments.

`quick` finds what was loaded for the arguments; the code of a launch is then `run`, which is generated here for one
loaded kernel, and packs its parameters into a block of memory that is used again and again.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import DriverError, KernelError
from tensorlib.runtime import abi, compiler, driver, quick
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


class Launchers(quick.Launchers):
    """The kernels loaded on one GPU."""

    def __init__(self, gpu: GPU) -> None:
        super().__init__(gpu)
        self.gpu = gpu
        self.recent: deque[Any] = deque(maxlen=RECENT)

    def forget(self) -> None:
        """Drop everything loaded: the next launch starts anew."""
        super().forget()
        self.recent.clear()

    @property
    def blocking(self) -> bool:
        """Whether each launch is waited for."""
        return driver.LAUNCH_BLOCKING

    def parameters(self, launches: Sequence[tuple[driver.Prepared, Sequence[str]]]) -> ParameterBlock:
        """Memory for the parameters of launches that are made one after another: see ParameterBlock."""
        return ParameterBlock(self.gpu, launches)

    @staticmethod
    def narrowed(fields: Sequence[tuple[int, str]], values: Sequence[Any]) -> list[Any]:
        """Values as `struct` takes them: what float32 does not hold is an infinity there, and an error to `struct`."""
        with np.errstate(over="ignore"):
            return [
                float(np.float32(value)) if letter == "f" else value
                for (_, letter), value in zip(fields, values, strict=True)
            ]

    def launching(self, found: Loaded, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Tell the thread's recording, if there is one."""
        if self.gpu.thread.recording is not None:
            self.gpu.thread.recording.launched(self.gpu, found, grid, args, operator[0])

    def load(
        self,
        kernel: Jit,
        keys: tuple[Key, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> Loaded:
        """Compile a kernel, and load its binary on the GPU."""
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


# ------------------------------------------------------------------------------------------------------- one launch


def _run(gpu: GPU, loaded: Loaded) -> Callable[[tuple[int, ...], tuple[Any, ...]], None]:
    """`run(grid, args)`: pack and launch one loaded kernel on the thread's current stream."""
    compiled, prepared = loaded.compiled, loaded.prepared
    names = [f"a{i}" for i in range(len(compiled.keys))]
    keys = list(zip(compiled.keys, names, strict=True))
    maps, numbers = compiled.tensordesc_meta, itertools.count()
    pairs = [pair for key, name in keys for pair in quick.values(key, name, bool(maps), numbers)]
    shapes = [f"{a}.shape" for key, name in keys for a in quick.array_names(key, name)]
    block = ParameterBlock(gpu, [(prepared, [abi.code(name) for name, _ in pairs])])
    scratch = compiled.global_scratch_size
    values = ", ".join([*prepared.values, *(e for _, e in pairs), "scratch.ptr" if scratch else "0", "0"])
    lines = ["def run(grid, args):"]
    if names:
        lines.append(f"    {', '.join(names)}, = args")
    lines += [
        "    n = len(grid)",
        "    if n == 1:",
        "        x, = grid",
        "        y = z = 1",
        "    elif n == 2 or n == 3:",
        "        x, y, z = grid if n == 3 else (*grid, 1)",
        "        if not (0 < y < 0x10000 and 0 < z < 0x10000): raise no_grid",
        "    else: raise no_grid",
        "    if not 0 < x < 0x80000000: raise no_grid",
        "    if thread.active is not gpu: gpu.activate()",
        "    stream = local.stream",
    ]
    if scratch:
        lines.append(f"    scratch = allocate(int(x) * int(y) * int(z) * {compiled.num_ctas * scratch}, stream)")
    lines += [
        "    try: memory = pop()",
        "    except IndexError: memory = new()",
        "    view, head, params = memory",
        f"    try: pack(view, 0, {values})",
        f"    except OverflowError: pack(view, 0, *narrowed(letters, ({values})))",
        f"    recent((loaded, operator[0], grid, ({''.join(s + ', ' for s in shapes)})))",
        "    try:",
        *("        " + line for line in prepared.lines()),
        *(["        synchronize(stream)"] if driver.LAUNCH_BLOCKING else []),
        "    except DriverError as error:",
        "        failed(error)",
        "        raise",
        "    push(memory)",
    ]

    def failed(error: DriverError) -> None:
        error.add_note(f"launching {loaded.describe(*launchers.recent[-1][1:])}") if launchers.recent else None

    launchers = gpu.launchers
    scope: dict[str, Any] = {
        **prepared.scope, "gpu": gpu, "local": gpu.local, "thread": gpu.thread, "pop": block.pop, "push": block.push,
        "new": block.new, "pack": struct.Struct(block.letters).pack_into, "recent": launchers.recent.append,
        "operator": operator, "loaded": loaded, "DriverError": DriverError, "failed": failed,
        "letters": block.fields[0], "narrowed": launchers.narrowed, "allocate": gpu.memory.allocate,
        "uint16": np.uint16, "synchronize": gpu.driver.stream_synchronize, "no_grid": struct.error("no grid"),
        "tensor_map": lambda descriptor, number: descriptor.map(gpu.driver, maps[number]),
    }  # fmt: skip
    exec(compiler.compile_source("\n".join(lines), f"<launch {compiled.kernel.__name__}>"), scope)
    run: Callable[[tuple[int, ...], tuple[Any, ...]], None] = scope["run"]
    return run


class ParameterBlock:
    """Memory for what launches made one after another give the driver, used again and again.

    launches: of each, its `Prepared` and the letters (of `struct`) of its arguments; Triton's two scratch pointers
    follow them. ``letters`` packs it all; ``fields`` has the (offset, letter) of each value of each launch. No two
    calls share a block: the driver reads it without the interpreter's lock.
    """

    def __init__(self, gpu: GPU, launches: Sequence[tuple[driver.Prepared, Sequence[str]]]) -> None:
        self._ffi = gpu.driver.ffi
        self._launches: list[tuple[driver.Prepared, int, list[int]]] = []
        self.letters, self.size = "<", 0
        self.fields: list[list[tuple[int, str]]] = []
        self.template = b""
        for prepared, arguments in launches:
            self._pad(8)
            start, fields = self.size, []
            for letter, expression in prepared.head:
                if expression:
                    fields.append((self.size, letter))
                self._add(letter)
            places = []
            for letter in [*arguments, "Q", "Q"]:
                self._pad(struct.calcsize("<" + letter))
                places.append(self.size)
                fields.append((self.size, letter))
                self._add(letter)
            self._launches.append((prepared, start, places))
            self.fields.append(fields)
        self._free: list[Any] = []
        self.pop, self.push = self._free.pop, self._free.append

    def begin_with(self, template: bytes) -> None:
        """What every new block holds at first."""
        self._free.clear()
        self.template = template

    def _add(self, letters: str) -> None:
        self.letters += letters
        self.size += struct.calcsize("<" + letters)

    def _pad(self, size: int) -> None:
        if self.size % size:
            self._add(f"{-self.size % size}x")

    def new(self) -> tuple[Any, ...]:
        """(what `struct` packs into, and for each launch the driver's pointers to its head and its arguments)."""
        memory = self._ffi.new("char[]", self.size)
        view = self._ffi.buffer(memory)
        view[: len(self.template)] = self.template
        pointers: list[Any] = []
        for prepared, start, places in self._launches:
            pointers += [prepared.pointer(memory + start), self._ffi.new("void *[]", [memory + at for at in places])]
        return view, *pointers
