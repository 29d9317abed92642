"""Device ``native``: kernels as machine code of the host, over host memory.

A launch that ran before is a dictionary lookup, one `struct` packing and one call without the interpreter's lock.
Otherwise its code is on the disk, and is linked; or Triton's front end gives the kernel's IR, `lower` makes LLVM's of
it, and `machine` an object file. A kernel has two forms: for arguments of which none that it stores to shares memory
with another, and for those where one does. Which one a launch needs is seen from the arrays' owners.

With ``TENSORLIB_NATIVE_GUARD=1`` or ``backends.native.guard = True`` every access is checked: one that leaves the
memory of its argument is a KernelError that names argument, element and program. Without, it may end the process.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cffi
import numpy as np

from tensorlib._device import device as Device
from tensorlib._version import __version__
from tensorlib.errors import KernelError, UnsupportedError
from tensorlib.runtime import abi, cache, compiler, fingerprint, memory, quick
from tensorlib.runtime.compiler import Jit, Key, Request
from tensorlib.runtime.engine import planning
from tensorlib.runtime.launch import operator
from tensorlib.runtime.native import codegen, linker, machine, pool, settings

_SMALL = 8_000.0  # ns that a whole grid is said to take, without waiting for memory: less does not wake other threads
STATUS = struct.Struct("<7q")
_ffi = cffi.FFI()
_cast, _from_buffer, _ADDRESS = _ffi.cast, _ffi.from_buffer, _ffi.typeof("uintptr_t")
_ASSERTION = 2  # the state of a launch that failed one; 1 is an access out of bounds
_PRINT_SLOT = 64  # where the status has the address of the function that prints


class Parameter(NamedTuple):
    """One value in the argument block: its name, its type in the IR, and where it is."""

    name: str
    type: str
    offset: int


class Message(NamedTuple):
    """A device_assert's or device_print's own part: which of them, its text, and what the printed values are."""

    kind: str
    text: str
    element: str
    shape: tuple[int, ...]
    hex: bool
    line: int
    file: str


class Program(NamedTuple):
    """What launching asks of a lowered kernel; it is kept on the disk beside the object file."""

    symbol: str
    parameters: tuple[Parameter, ...]
    size: int  #: bytes of the arguments
    scratch: int  #: bytes a thread
    cost: float  #: nanoseconds of one program, about
    stores: tuple[int, ...]  #: the parameters that are written through
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, lowered: Any) -> Program:
        """From `lower`'s result."""
        return cls(
            lowered.grid,
            tuple(Parameter(p.name, str(p.type), p.offset) for p in lowered.parameters),
            lowered.arguments_size,
            lowered.scratch,
            float(lowered.cost),
            tuple(sorted(lowered.stores)),
            tuple(Message(m.kind, m.text, m.element, tuple(m.shape), m.hex, m.line, m.file) for m in lowered.messages),
        )

    @classmethod
    def from_json(cls, found: Any) -> Program | None:
        """From the disk; None where it is not what this version writes."""
        try:
            symbol, parameters, size, scratch, cost, stores, messages = found
            return cls(
                symbol, tuple(Parameter(*p) for p in parameters), size, scratch, cost, tuple(stores),
                tuple(Message(kind, text, e, tuple(shape), *rest) for kind, text, e, shape, *rest in messages),
            )  # fmt: skip
        except (TypeError, ValueError, IndexError):
            return None


class Compiled(NamedTuple):
    """A program and its object file."""

    program: Program
    image: bytes


# -- compilation -------------------------------------------------------------------------------------------------------

_compiled: dict[Any, Compiled] = {}


def compile_kernel(
    kernel: Jit, keys: tuple[Key, ...], constants: dict[str, Any], *, alias: bool = False, guard: bool = False
) -> Compiled:
    """Compile for this processor, or find what was: in this process, or on the disk. KernelError, UnsupportedError."""
    target = f"native {machine.features().text}"
    request = Request(kernel, keys, constants, target, options={"alias": alias, "guard": guard})
    key = request.hashable
    found = _compiled.get(key)
    return compiler.once(_compiled, key, lambda: _obtain(request)) if found is None else found


def _obtain(request: Request) -> Compiled:
    entry = _entry(request)
    if entry is None:
        return _compile(request)

    def make() -> Compiled:
        found = _compile(request)
        if compiler.may_keep():
            name = f"{request.kernel.__module__}.{request.kernel.__qualname__}"
            cache.store(entry, {"kernel": name, "target": "native", "program": found.program}, found.image)
        return found

    return compiler.kept(entry, lambda: _load(entry), make)


def _load(entry: str) -> Compiled | None:
    found = cache.load(entry)
    if found is None:
        return None
    program = Program.from_json(found[0].get("program"))
    return None if program is None else Compiled(program, found[1])


def _entry(request: Request) -> str | None:
    """The key on the disk: what Triton's front end, `lower` and LLVM make depends on."""
    around = compiler.surroundings("sm_80")  # what the front end makes IR for
    if around is None:
        return None
    return compiler.entry_key(request, fingerprint.digest("\0".join((around, _sources(), codegen.version()))))


@functools.cache
def _sources() -> str:
    """The version of the lowering: a hash of this package's files."""
    sha = hashlib.sha256(__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):  # none in an archive, where the version stands for them
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()


def _compile(request: Request) -> Compiled:
    options = request.options or {}
    lowered = lowered_kernel(request.kernel, request.keys, request.constants, **options)
    try:
        image = codegen.compile(lowered.text, machine.features())
    except KernelError as error:
        raise KernelError(f"{request.kernel.__name__}: {error}\n{request.describe()}") from error
    return Compiled(Program.of(lowered), image)


def lowered_kernel(
    kernel: Jit, keys: tuple[Key, ...], constants: dict[str, Any], *, alias: bool = False, guard: bool = False
) -> Any:
    """The kernel as LLVM IR, with what `lower` says of it."""
    parser, lower = _lowering()
    text = parser.ttir_of(kernel, keys, constants, _OPTIONS)
    try:
        module = parser.parse(text)
        if module.kernel.results:
            types = ", ".join(map(str, module.kernel.results))
            raise KernelError(
                f"{kernel.__name__}: returns {types}: expected a kernel that returns nothing, as on a GPU: store it\n"
                f"{Request(kernel, keys, constants, 'native').describe()}"
            )
        return lower.lower(module, machine.features(), alias=alias, guard=guard)
    except UnsupportedError as error:
        what = f"  arguments: {compiler.describe_keys(kernel, keys)}\n  constants: {constants}"
        raise UnsupportedError(f"{kernel.__name__}: {error}\n{what}") from error


#: Of the front end: device_assert is there, and does not also stand guard over every sum of integers.
_OPTIONS = {"debug": True, "sanitize_overflow": False}


@functools.cache
def _lowering() -> tuple[Any, Any]:
    """The modules that lower kernels: not loaded by a program whose kernels are all on the disk."""
    return (
        importlib.import_module("tensorlib.runtime.native.parser"),
        importlib.import_module("tensorlib.runtime.native.lower"),
    )


# -- the device --------------------------------------------------------------------------------------------------------


class _Thread(threading.local):
    """What belongs to one thread: the Recording that is told of what it does."""

    recording: Any = None


class Native(memory.HostMemory):
    """The device: host memory, and launches on the processor. DeviceError where there is no compiler for it."""

    target = "native"

    def __init__(self, device: Device) -> None:
        codegen.require()
        self.device = device
        self.launchers = Launchers(self)
        self.thread = _Thread()
        #: What the layers above keep for this device and drop with its kernels: calls that were prepared, by their key.
        self.plans: dict[Any, Any] = {}
        settings.guard_changed += (self.launchers.forget, self.plans.clear)
        settings.threads_changed.append(self.plans.clear)
        planning[0] = True

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """Address and owner of nbytes of host memory."""
        start, block = super().allocate(nbytes)
        if self.thread.recording is not None:
            self.thread.recording.allocated(self, block, nbytes)
        return start, block

    def read(self, ptr: int, owner: memory.HostBlock, out: np.ndarray) -> None:
        """Copy from the block."""
        if self.thread.recording is not None:
            self.thread.recording.refuse("numbers that the host reads")
        super().read(ptr, owner, out)

    def upload(self, data: np.ndarray) -> tuple[int, Any]:
        """A new block with a copy of data."""
        start, block = self.allocate(data.nbytes)
        self.write(start, block, data)
        return start, block

    def write(self, ptr: int, owner: memory.HostBlock, data: np.ndarray) -> None:
        """Copy to the block."""
        if self.thread.recording is not None:
            self.thread.recording.wrote(self, ptr, owner, data)
        super().write(ptr, owner, data)

    def launch(
        self,
        kernel: Jit,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> None:
        """Run every program. Warps, stages and options are a GPU's: nothing here depends on them."""
        self.launchers.run(kernel, grid, args, constants, num_warps, num_stages, None)


class Launchers(quick.Launchers):
    """The kernels that are linked into this process."""

    def __init__(self, engine: Native) -> None:
        super().__init__(engine)
        self.engine = engine

    def load(
        self,
        kernel: Jit,
        keys: tuple[Key, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> Loaded:
        """Compile a kernel and link it."""
        return Loaded(kernel, keys, constants, alias=False, guard=settings.guarded())

    def launching(self, found: Any, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Tell the thread's recording, if there is one."""
        recording = self.engine.thread.recording
        if recording is not None:
            if found.guard or found.prints:
                recording.refuse("a kernel that prints, or whose accesses are checked")
            recording.reports |= found.reports
            recording.launched(self.engine, found, grid, args, operator[0])


class Loaded:
    """One form of a kernel, linked, and `run`, the code of its launch."""

    def __init__(
        self, kernel: Jit, keys: tuple[Key, ...], constants: dict[str, Any], *, alias: bool, guard: bool
    ) -> None:
        self.kernel = kernel
        self.keys = keys
        self.constants = constants
        self.alias = alias
        self.guard = guard
        machine.refuse_other(machine.features())
        compiled = compile_kernel(kernel, keys, constants, alias=alias, guard=guard)
        self.program = compiled.program
        try:
            self._code = linker.load(compiled.image, self.program.symbol)
        except KernelError as error:
            raise KernelError(f"{kernel.__name__}: {error}") from error
        self.address = self._code[self.program.symbol]
        self._other: Loaded | None = None
        self.prints = any(m.kind == "print" for m in self.program.messages)
        self._print = _printer(self) if self.prints else None
        self.reports = guard or bool(self.program.messages)  #: whether a launch may end with an error
        self.job = Job.of(self)
        self.run: Callable[[tuple[int, ...], tuple[Any, ...]], None]
        self.arrays: Callable[..., dict[int, Any]]  #: of the arguments, by the parameter that has its address
        self.run, self.arrays = _run(self)

    @property
    def compiled(self) -> Loaded:
        """What was compiled, by the name that a GPU's kernel has for it."""
        return self

    def aliased_form(self) -> Loaded:
        """The form for arguments that share memory."""
        if self._other is None:
            self._other = Loaded(self.kernel, self.keys, self.constants, alias=True, guard=self.guard)
        return self._other

    def aliased(self, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Launch the form for arguments that share memory."""
        self.aliased_form().run(grid, args)

    def describe(self, args: tuple[Any, ...]) -> str:
        """What a message says of a launch."""
        given = [f"{n}: {_shown(a)}" for n, a in zip(self.kernel.arguments, args, strict=True)]
        return f"  arguments: {', '.join(given)}\n  constants: {self.constants}"

    def failed(self, status: Any, grid: tuple[int, ...], args: tuple[Any, ...]) -> KernelError:
        """The error that a program left in the status."""
        state, which, offset, x, y, z, access = STATUS.unpack_from(status)
        name = f"{operator[0]}: " if operator[0] else ""
        where = f"{name}{self.kernel.__name__}: program {(x, y, z)[: len(grid)]} of grid {tuple(grid)}"
        if state == _ASSERTION:
            message = self.program.messages[which]
            line = f" ({message.file}:{message.line})" if message.line else ""
            return KernelError(f"{where}: device_assert failed: {message.text}{line}\n{self.describe(args)}")
        array = self.arrays(*args)[which]
        does = ("loads from", "stores to", "updates")[access]
        has = (array.owner.nbytes - (array.ptr - array.owner.start)) // array.dtype.itemsize
        return KernelError(
            f"{where} {does} element {offset} of {self.program.parameters[which].name}, counted from the address it "
            f"was given, behind which there is memory for {has} ({_shown(array)}): a mask or a stride is wrong\n"
            f"{self.describe(args)}"
        )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_shown, value)) + ")"
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else repr(value)


# -- one launch --------------------------------------------------------------------------------------------------------


def _layout(loaded: Loaded) -> tuple[str, list[str], list[tuple[int, str]]]:
    """(format of the arguments, expressions of their values, (parameter, expression) of each array)."""
    program = loaded.program
    names = [f"a{i}" for i in range(len(loaded.keys))]
    pairs = [pair for key, name in zip(loaded.keys, names, strict=True) for pair in quick.values(key, name)]
    arrays = [(i, e.removesuffix(".ptr")) for i, (kind, e) in enumerate(pairs) if kind[0] == "*"]
    for _, array in arrays if loaded.guard else ():
        pairs += [("u64", f"{array}.owner.start"), ("u64", f"{array}.owner.start + {array}.owner.nbytes")]
    if len(pairs) != len(program.parameters):
        raise KernelError(
            f"{loaded.kernel.__name__}: its code takes {len(program.parameters)} values, a launch gives {len(pairs)}"
        )
    code, at = "", 0
    for (kind, _), parameter in zip(pairs, program.parameters, strict=True):
        letter = abi.code(kind)
        code += f"{parameter.offset - at}x" * (parameter.offset > at) + letter
        at = parameter.offset + struct.calcsize("<" + letter)
    return code, [e for _, e in pairs], arrays


class Job(NamedTuple):
    """How one loaded kernel is run: what its block of memory holds besides the arguments, and whether threads share."""

    buffer: Callable[[], Any]  #: new memory for a job: as a buffer, as a pointer, and its status as a buffer
    pack: Callable[..., None]  #: writes the grid, the calling thread's scratch and the arguments
    scratch: int  #: bytes a thread
    small: int  #: programs fewer than which run on the calling thread

    @classmethod
    def of(cls, loaded: Loaded) -> Job:
        """That of a kernel."""
        program, ffi = loaded.program, pool.runtime().ffi
        code, _, _ = _layout(loaded)
        before = pool.HEAD.size + struct.calcsize("<" + pool.RANGE)
        packed = struct.Struct(f"<{pool.RANGE}{pool.ARGUMENTS - before}x{code}")
        status_at = -(-(pool.ARGUMENTS + program.size) // 64) * 64
        cost = max(program.cost, 1.0)

        def buffer() -> Any:
            job = ffi.new("char[]", status_at + pool.STATUS)
            data, address = ffi.buffer(job), int(ffi.cast("uintptr_t", job))
            chunk = pool.first_chunk(cost)
            pool.HEAD.pack_into(data, 0, loaded.address, program.scratch, address + status_at, chunk)
            if loaded._print is not None:
                struct.pack_into("<Q", data, status_at + _PRINT_SLOT, int(ffi.cast("uintptr_t", loaded._print)))
            return data, job, ffi.buffer(job + status_at, STATUS.size)

        return cls(buffer, packed.pack_into, program.scratch, int(_SMALL / cost) + 1)


def address(array: np.ndarray) -> int:
    """Where a NumPy array's first element is. `__array_interface__` says it too, in twice the time."""
    try:
        return int(_cast(_ADDRESS, _from_buffer(array)))
    except (ValueError, TypeError, BufferError):  # not contiguous, or of a dtype that buffers do not know
        place: int = array.__array_interface__["data"][0]
        return place


def _run(loaded: Loaded) -> tuple[Any, Any]:
    """`run(grid, args)`, which packs the job of one loaded kernel and runs it, and `arrays(*args)`."""
    program, runtime, job = loaded.program, pool.runtime(), loaded.job
    names = [f"a{i}" for i in range(len(loaded.keys))]
    _, values, arrays = _layout(loaded)

    stored = {array for i, array in arrays if i in program.stores}
    every = [array for _, array in arrays]
    shared = {
        f"{a}.owner is {b}.owner"
        for i, a in enumerate(every) for b in every[i + 1 :]
        if a in stored or b in stored
    }  # fmt: skip
    lines = ["def run(grid, args):"]
    if names:
        lines.append(f"    {', '.join(names)}, = args")
    lines += [
        "    n = len(grid)",
        "    if n == 1:",
        "        x, = grid",
        "        y = z = 1",
        "        if not 0 < x < 0x80000000: raise no_grid",
        "        total = x",
        "    else:",
        "        if n == 2:",
        "            x, y = grid",
        "            z = 1",
        "        elif n == 3:",
        "            x, y, z = grid",
        "            if z.__class__ is not int: raise no_grid",  # NumPy's overflow
        "        else: raise no_grid",
        "        if not x.__class__ is y.__class__ is int: raise no_grid",
        "        total = x * y * z",
        "        if not 0 < total < 0x80000000 and (not total or x | y | z > 0x7fffffff): raise no_grid",
        # a size below 0 is the packing's error
    ]
    if shared and not loaded.alias:
        lines.append(f"    if {' or '.join(sorted(shared))}: return aliased(grid, args)")
    own = f"scratch.address if scratch.size >= {program.scratch} else scratch.grow({program.scratch})"
    lines += [
        "    try: memory = pop()",
        "    except IndexError: memory = buffer()",
        f"    pack(memory[0], {pool.HEAD.size}, 0, total, x, y, z, {own if program.scratch else '0'}"
        f"{''.join(', ' + v for v in values)})",
        f"    if total < {job.small}: inline(memory[1])",
        "    else: share(memory[1], total)",
    ]
    if loaded.reports:
        lines += [
            "    status = memory[2]",
            "    if status[0] != zero:",
            "        error = failed(status, grid, args)",
            "        status[:] = zeros",
            "        push(memory)",
            "        raise error",
        ]
    lines += [
        "    push(memory)",
        f"def arrays({', '.join(names)}):",
        f"    return {{{', '.join(f'{i}: {array}' for i, array in arrays)}}}",
    ]
    free: list[Any] = [job.buffer()]
    scope: dict[str, Any] = {
        "pop": free.pop, "push": free.append, "buffer": job.buffer, "pack": job.pack, "inline": runtime.inline,
        "share": pool.run, "scratch": pool.scratch, "aliased": loaded.aliased, "failed": loaded.failed,
        "uint16": np.uint16, "no_grid": struct.error("no grid"), "zero": b"\0", "zeros": bytes(STATUS.size),
    }  # fmt: skip
    exec(compiler.compile_source("\n".join(lines), f"<launch {loaded.kernel.__name__}>"), scope)
    return scope["run"], scope["arrays"]


# -- device_print ------------------------------------------------------------------------------------------------------

_DTYPES = {
    "i1": "u1", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8", "f16": "f2", "f32": "f4", "f64": "f8",
}  # fmt: skip


def _printer(loaded: Loaded) -> Any:
    """The function that programs call to print: a line for each number, as a GPU prints them."""
    ffi = pool.runtime().ffi
    messages = loaded.program.messages

    def report(which: int, x: int, y: int, z: int, values: Any, count: int) -> None:
        message = messages[which]
        start = f"pid ({x}, {y}, {z}) idx "
        if not message.element:
            print(f"{start}(){message.text}", flush=True)
            return
        kind = _DTYPES.get(message.element)
        if kind is None:  # bfloat16
            raw = np.frombuffer(ffi.buffer(values, 2 * count), np.uint16).astype(np.uint32) << 16
            numbers = raw.view(np.float32)
        else:
            numbers = np.frombuffer(ffi.buffer(values, count * np.dtype(kind).itemsize), kind)
        text = "\n".join(
            f"{start}({', '.join(map(str, index))}){message.text}{hex(n) if message.hex else n}"
            for index, n in zip(np.ndindex(*message.shape), numbers.tolist(), strict=True)
        )
        print(text, flush=True)

    return ffi.callback("void(int64_t, int64_t, int64_t, int64_t, void *, int64_t)", report)
