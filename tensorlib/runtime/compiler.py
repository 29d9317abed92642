"""The one shim over Triton: a deferred `jit`, the specialisation key, and compilation for any target.

Importing this module imports no triton: a declaration costs nothing, and works where Triton has no wheel. Nor does a
kernel that is in the cache on disk. In what Triton's versions differ is `versions`. Nothing here touches a device or
needs one.
"""

from __future__ import annotations

import collections
import functools
import importlib
import inspect
import linecache
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from tensorlib import _dtypes
from tensorlib._version import __version__
from tensorlib.errors import DtypeError, KernelError
from tensorlib.runtime import cache, descriptors, fingerprint, versions
from tensorlib.runtime.descriptors import TensorDescriptor
from tensorlib.runtime.fingerprint import names_used as names_used

_T = TypeVar("_T")

#: Held while Triton compiles and while a kernel is interpreted: the interpreter patches `triton.language` globally.
LOCK = threading.RLock()

#: NumPy dtype -> Triton's name of the type in a kernel signature.
TYPES: dict[np.dtype[Any], str] = {
    np.dtype(d): name
    for d, name in {
        np.bool_: "u1", np.int8: "i8", np.int16: "i16", np.int32: "i32", np.int64: "i64",
        np.uint8: "u8", np.uint16: "u16", np.uint32: "u32", np.uint64: "u64",
        np.float16: "fp16", ml_dtypes.bfloat16: "bf16", np.float32: "fp32", np.float64: "fp64",
        ml_dtypes.float8_e4m3fn: "fp8e4nv", ml_dtypes.float8_e5m2: "fp8e5",
    }.items()
}  # fmt: skip
descriptors.know(TYPES)
#: Bytes of a value of that type.
BYTES = {name: d.itemsize for d, name in TYPES.items()}
_LANGUAGE_NAMES = {
    "u1": "int1", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64",
    "fp8e4nv": "float8e4nv", "fp8e5": "float8e5",
}  # fmt: skip


def triton() -> Any:
    """The triton module, imported when first needed. KernelError where it is not installed."""
    versions.require()
    import triton
    import triton.language

    if triton.knobs.runtime.interpret:
        raise KernelError(
            "TRITON_INTERPRET is set: Triton then cannot compile; unset it, 'interpret' has no need of it"
        )
    return triton


def language_dtype(dtype: Any) -> Any:
    """`tl.float32` and so on, for a NumPy dtype or one of ours. DtypeError where Triton has no such type."""
    numpy = dtype.numpy if isinstance(dtype, _dtypes.dtype) else np.dtype(dtype)
    name = TYPES.get(numpy)
    if name is None:
        raise DtypeError(f"Triton has no element type for {numpy}; kernels take {', '.join(map(str, TYPES))}")
    return getattr(triton().language, _LANGUAGE_NAMES[name])


# -- deferred jit ------------------------------------------------------------------------------------------------------

#: What ``kernel[grid](...)`` calls: `launch.launch_by_name`, which puts itself here.
launchers: list[Callable[..., None]] = []
#: Every Jit that was declared, by (module, name).
registry: dict[tuple[str, str], Jit] = {}


class Parameter(NamedTuple):
    """A kernel's parameter: its name, and whether it is a constexpr."""

    name: str
    constexpr: bool


def _nothing(*_: Any) -> None:
    """The quick way to launch a kernel that was not launched yet."""


class Jit:
    """A Triton function that is still plain Python: Triton's JITFunction is built at first use.

    Its body may use `tl` and `libdevice` without importing them, other Jit functions of its module or closure defined
    before or after it, and numbers or dtypes in globals, which it sees as constexpr with their value at first use.
    """

    def __init__(self, fn: Callable[..., Any], do_not_specialize: tuple[str, ...] = (), stock: Any = None) -> None:
        self.fn = fn
        self.do_not_specialize = frozenset(do_not_specialize)
        self.__name__, self.__qualname__, self.__module__ = fn.__name__, fn.__qualname__, fn.__module__
        self.__doc__ = fn.__doc__
        unknown = do_not_specialize and self.do_not_specialize - set(self.arguments)
        if unknown:
            raise KernelError(f"{fn.__name__}: do_not_specialize names {sorted(unknown)}, which it has no argument for")
        self._jit_function = stock
        self._dependencies: frozenset[Jit] | None = None
        self.interpreted: Any = None  # the function rewritten for the interpreter, kept by interpreter.py
        self.quick: dict[Any, Any] = {}  # the quick ways to launch it, by the types of the arguments: quick.py
        self.latest: Any = _nothing  # the one that was right last

    # Worked out at first use: hundreds of these are made when the library is imported.
    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in order."""
        signature = inspect.signature(self.fn).parameters.values()
        return tuple(Parameter(p.name, _is_constexpr(p.annotation)) for p in signature)

    @functools.cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the parameters that are passed at a launch."""
        return tuple(p.name for p in self.parameters if not p.constexpr)

    @functools.cached_property
    def constants(self) -> frozenset[str]:
        """Names of the constexpr parameters."""
        return frozenset(p.name for p in self.parameters if p.constexpr)

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """Defaults of the constexpr parameters that have one."""
        signature = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in signature if p.name in self.constants and p.default is not p.empty}

    def __repr__(self) -> str:
        return f"<jit {self.__module__}.{self.__qualname__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A Triton function runs on a device only."""
        raise TypeError(
            f"{self.__name__} is a Triton function: call it in a kernel, or run it as a kernel by "
            f"{self.__name__}[grid](...)"
        )

    def __getitem__(self, grid: Any) -> Any:
        """``kernel[grid](*args, **kwargs)``, as Triton spells a launch: arguments and constexprs in any form.

        The grid may be a function of them by name. ``launch(kernel, grid, ...)`` does the same with less to work out.
        """
        return functools.partial(launchers[0], self, grid)

    def warmup(self, *args: Any, grid: Any = None, **kwargs: Any) -> Any:
        """Compile it for what a launch would be given, and launch nothing: `warm.Warm`. The grid plays no part."""
        return importlib.import_module("tensorlib.runtime.warm").warmup(self, args, kwargs)

    @property
    def arg_names(self) -> list[str]:
        """Names of all parameters, as Triton's JITFunction has them."""
        return [p.name for p in self.parameters]

    @property
    def names(self) -> dict[str, Any]:
        """The globals and closure variables the body uses, as they are now."""
        return names_used(self.fn)

    # What is on disk is found by the next three, and what is compiled is made of them: they must not change between.
    @functools.cached_property
    def names_at_first_use(self) -> dict[str, Any]:
        """`names`, as they were when the function was first launched."""
        return self.names

    @functools.cached_property
    def source(self) -> str:
        """The lines of its definition."""
        return fingerprint.source(self.fn)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of its source, of every function it reaches and of the values of the globals they use."""
        return fingerprint.of(self)

    @property
    def dependencies(self) -> frozenset[Jit]:
        """Every Jit that the body reaches, directly or through another."""
        if self._dependencies is None:
            found: set[Jit] = set()
            pending = [self]
            while pending:
                for value in pending.pop().names.values():
                    for other in _jits_in(value):
                        if other not in found:
                            found.add(other)
                            pending.append(other)
            self._dependencies = frozenset(found)
        return self._dependencies

    @property
    def jit_function(self) -> Any:
        """Triton's JITFunction of this function, with every name in its body resolved."""
        if self._jit_function is None:
            with LOCK:
                if self._jit_function is None:
                    self._jit_function = self._build()
        return self._jit_function

    def _build(self) -> Any:
        tl = triton().language
        from triton.language.extra import libdevice
        from triton.runtime.jit import JITFunction

        fn = self.fn
        scope = {"__name__": fn.__module__, "__builtins__": __builtins__, "tl": tl, "libdevice": libdevice}
        copy = types.FunctionType(fn.__code__, scope, fn.__name__, fn.__defaults__, _closure(fn))
        copy.__kwdefaults__, copy.__annotations__ = fn.__kwdefaults__, dict(fn.__annotations__)
        copy.__module__, copy.__doc__ = fn.__module__, fn.__doc__
        # Triton tells the functions of one kernel apart by this name alone: two of one factory must not share it.
        name = fn.__qualname__.replace(".<locals>", "")
        _times_built[fn.__module__, name] += 1
        times = _times_built[fn.__module__, name]
        copy.__qualname__ = name if times == 1 else f"{name}__{times}"
        built = JITFunction(copy)
        self._jit_function = built  # before the names are resolved: they may lead back here
        scope.update({name: _resolve(value) for name, value in self.names_at_first_use.items()})
        if self._was_edited(versions.source(built)):
            _Edited.found = True
        return built

    def _was_edited(self, compiled: str) -> bool:
        """Whether Triton read another source than the fingerprint was made of."""
        try:
            return not self.source.startswith(compiled.rstrip())
        except fingerprint.Unknown:
            return False

    # Triton's disk cache asks a constant for its key.
    @property
    def cache_key(self) -> str:
        """A hash of the source and of everything it reaches."""
        return str(self.jit_function.cache_key)


class _Edited:
    """Whether a file was changed while its kernels were in use: what is compiled from then on is not kept on disk."""

    found = False


_times_built: collections.Counter[tuple[str, str]] = collections.Counter()


class FunctionTuple(tuple[Any, ...]):
    """A tuple of constants, functions among them, that Triton's disk cache keys by the functions' sources."""

    @property
    def cache_key(self) -> str:
        """Key of each element: a function's source hash, else its repr."""
        return "(" + ",".join(v.cache_key if hasattr(v, "cache_key") else repr(v) for v in self) + ")"

    def __repr__(self) -> str:
        return self.cache_key  # in a global, it is keyed by its text

    def __deepcopy__(self, memo: Any) -> FunctionTuple:
        return self  # Triton copies the globals of a kernel; a function holds a lock


def jit(fn: Any = None, *, do_not_specialize: tuple[str, ...] = ()) -> Any:
    """Declare a Triton function: ``@jit`` as ``@triton.jit``, with triton imported at first use only.

    do_not_specialize names integer arguments that change from launch to launch (a seed, a step count): their value
    then never causes another compilation.
    """
    if fn is None:
        return functools.partial(jit, do_not_specialize=do_not_specialize)
    declared = Jit(fn, do_not_specialize)
    registry[fn.__module__, fn.__qualname__] = declared
    return declared


def define(source: str, namespace: dict[str, Any], module: str = __name__) -> Jit:
    """A Jit from source text, for code that is generated: fused chains and compositions of scalar functions.

    source holds one function definition; namespace the Jit functions and numbers that its body uses.
    """
    name = re.match(r"\s*def\s+(\w+)", source)
    if name is None:
        raise KernelError(f"define: expected the source of one function, got {source[:60]!r}")
    filename = f"<tensorlib {name[1]} {len(linecache.cache)} {hash(source) & 0xFFFFFFFF:08x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    scope = {**namespace, "__name__": module}
    exec(compile_source(source, filename), scope)
    return Jit(scope[name[1]])


def compile_source(source: str, filename: str) -> types.CodeType:
    """Python code of a source text whose annotations stay strings."""
    return compile(source, filename, "exec")


_of_stock: dict[int, Jit] = {}


def as_jit(fn: Any) -> Jit:
    """A Jit for a Jit, or for Triton's own JITFunction. KernelError for anything else."""
    if isinstance(fn, Jit):
        return fn
    if hasattr(fn, "fn") and hasattr(fn, "cache_key"):
        known = _of_stock.get(id(fn))
        if known is None:
            stock = fn
            known = _of_stock[id(fn)] = Jit(stock.fn, stock=stock)  # keeps stock alive, so its id stays its own
        return known
    raise KernelError(f"expected a function declared with @jit or @triton.jit, got {fn!r}")


def _is_constexpr(annotation: Any) -> bool:
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.rpartition(".")[2] == "constexpr"


def _jits_in(value: Any) -> Iterator[Jit]:
    if isinstance(value, Jit):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _jits_in(item)


def _closure(fn: Callable[..., Any]) -> tuple[types.CellType, ...] | None:
    """The function's cells with their contents resolved."""
    if fn.__closure__ is None:
        return None
    return tuple(types.CellType(_resolve(c.cell_contents)) for c in fn.__closure__)


def _resolve(value: Any) -> Any:
    """A global as Triton's compiler wants it: Jit -> JITFunction, number -> constexpr, dtype -> tl dtype."""
    if isinstance(value, Jit):
        return value.jit_function
    if isinstance(value, (bool, int, float, str, tuple, np.generic, np.dtype, _dtypes.dtype)):
        return triton().language.constexpr(constant(value))
    return value


def constant(value: Any) -> Any:
    """A constexpr's value as Triton's compiler wants it: dtypes, functions and NumPy scalars translated, tuples too."""
    if isinstance(value, Jit):
        return value.jit_function
    if isinstance(value, (np.dtype, _dtypes.dtype)):
        return language_dtype(value)
    if isinstance(value, type) and issubclass(value, np.generic):
        return language_dtype(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return FunctionTuple(constant(v) for v in value)
    return value


# -- specialisation ----------------------------------------------------------------------------------------------------

#: The key of one argument: a string such as "*fp32 16", "i32 16", "=1", "=None"; of a tuple, a tuple of keys.
Key = Any


def specialise(value: Any, wide_range: bool = False, plain: bool = False) -> Key:
    """What a compiled kernel depends on in an argument: type, alignment, the values 1 and None.

    wide_range: also say whether 32-bit offsets reach the whole array (AMD). plain: the type alone.
    """
    kind = type(value)
    if kind is int:
        return _specialise_int(value, plain)
    if kind is tuple:
        return tuple([specialise(v, wide_range, plain) for v in value])
    if hasattr(value, "data_ptr"):
        name = TYPES.get(value.dtype)
        if name is None:
            raise DtypeError(f"Triton has no element type for {value.dtype}; kernels take {', '.join(map(str, TYPES))}")
        key = f"*{name} 16" if not plain and value.data_ptr() % 16 == 0 else f"*{name}"
        return key + " range32" if wide_range and in_range32(value) else key
    if kind is TensorDescriptor:
        return str(value.key)
    if value is None:
        return "=None"
    if kind is bool:
        return "u1"
    if kind is float:
        return "fp32"
    if isinstance(value, np.generic):
        name = TYPES.get(value.dtype)
        if name is not None:
            divisible = not plain and name[0] in "iu" and name != "u1" and int(value) % 16 == 0
            return f"{name} 16" if divisible else name
    if isinstance(value, int):
        return _specialise_int(int(value), plain)
    if isinstance(value, tuple):
        return tuple([specialise(v, wide_range, plain) for v in value])
    raise KernelError(
        f"a kernel argument is an array, TensorDescriptor, int, float, bool, NumPy scalar, None or a tuple of those, "
        f"got {value!r}; "
        f"pass anything else as a constexpr, by keyword"
    )


def specialise_all(kernel: Jit, args: tuple[Any, ...], target: str) -> tuple[Key, ...]:
    """The keys of every argument of a launch on a target."""
    amd = target.startswith("gfx")
    return tuple(
        [
            specialise(value, amd, name in kernel.do_not_specialize)
            for name, value in zip(kernel.arguments, args, strict=True)
        ]
    )


def _specialise_int(value: int, plain: bool) -> str:
    if value == 1 and not plain:
        return "=1"
    if -(2**31) <= value < 2**31:
        name = "i32"
    elif -(2**63) <= value < 2**63:
        name = "i64"
    elif 0 <= value < 2**64:
        name = "u64"
    else:
        raise KernelError(f"an integer kernel argument must fit 64 bits, got {value}")
    return f"{name} 16" if not plain and value % 16 == 0 else name


def in_range32(array: Any) -> bool:
    """Whether every element lies within 2 GiB after ptr, so that AMD's buffer instructions reach it."""
    if min(array.strides, default=0) < 0:
        return False
    last = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
    return bool(last * array.dtype.itemsize < 2**31 - array.dtype.itemsize)


def constant_key(value: Any) -> Any:
    """A hashable key of a constexpr's value that tells 1 from 1.0 and True, and -0.0 from 0.0."""
    if isinstance(value, tuple):
        return tuple([constant_key(v) for v in value])
    if isinstance(value, float):
        return "float", repr(value)
    return type(value), value


def constants_key(constants: dict[str, Any]) -> tuple[Any, ...]:
    """A hashable key of constexprs by name."""
    return tuple(sorted((name, constant_key(value)) for name, value in constants.items()))


def runtime_types(key: Key, mapped: bool = False) -> list[str]:
    """The types of the parameters that are passed at run time, in order, tuples flattened.

    mapped: tensor descriptors are tensor maps, not pointers.
    """
    if isinstance(key, tuple):
        return [t for k in key for t in runtime_types(k, mapped)]
    if descriptors.is_key(key):
        return descriptors.types(key, mapped, versions.descriptor_flags())
    return [] if key[0] == "=" else [key.partition(" ")[0]]


# -- targets and compilation -------------------------------------------------------------------------------------------


def target(name: str) -> Any:
    """Triton's GPUTarget for 'sm_90', 'gfx942', ...: wavefronts of 64 on CDNA (gfx9), 32 elsewhere."""
    triton()
    from triton.backends.compiler import GPUTarget

    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)


class Request(NamedTuple):
    """One compilation. keys: a specialisation key for each argument; constants: every constexpr by name."""

    kernel: Jit
    keys: tuple[Key, ...]
    constants: dict[str, Any]
    target: str
    num_warps: int = 4
    num_stages: int = 2
    options: dict[str, Any] | None = None

    @property
    def hashable(self) -> _Hashable:
        """The same to look it up by."""
        return _Hashable(
            self.kernel,
            self.keys,
            constants_key(self.constants),
            self.target,
            self.num_warps,
            self.num_stages,
            constants_key(self.options or {}),
        )

    def describe(self) -> str:
        """What a message says of it."""
        what = f"  arguments: {describe_keys(self.kernel, self.keys)}\n  constants: {self.constants}"
        if self.target.startswith("native"):  # warps, stages and options are a GPU's
            return what
        return f"{what}\n  num_warps={self.num_warps}, num_stages={self.num_stages}, options={self.options or {}}"


class _Hashable(NamedTuple):
    kernel: Jit
    keys: tuple[Key, ...]
    constants: tuple[Any, ...]
    target: str
    num_warps: int
    num_stages: int
    options: tuple[Any, ...]


class Compiled:
    """A kernel compiled for one target: its binary and what a launch must know."""

    __slots__ = (
        "_asm", "binary", "block_warps", "constants", "cooperative", "global_scratch_align", "global_scratch_size",
        "kernel", "keys", "metadata", "name", "num_ctas", "pdl", "profile_scratch_align", "profile_scratch_size",
        "request", "shared", "target", "tensordesc_meta", "types",
    )  # fmt: skip

    def __init__(
        self, request: Request, metadata: versions.Metadata, binary: bytes, asm: dict[str, Any] | None = None
    ) -> None:
        self.request = request
        self.kernel = request.kernel
        self.target = request.target
        #: The specialisation key of each argument, and every constexpr by name: what it was compiled for.
        self.keys = request.keys
        self.constants = dict(request.constants)
        #: Triton types of the run-time parameters in order, without the two trailing scratch pointers.
        self.types = [t for k in request.keys for t in runtime_types(k, bool(metadata.tensordesc_meta))]
        self.binary = binary
        self._asm = asm
        self.metadata = metadata
        self.name = metadata.name
        self.shared = metadata.shared
        self.block_warps = metadata.num_warps  # what the compiler made of it, not what was asked
        self.num_ctas = metadata.num_ctas
        self.cooperative, self.pdl = metadata.cooperative, metadata.pdl
        self.global_scratch_size = metadata.global_scratch_size
        self.global_scratch_align = metadata.global_scratch_align
        self.profile_scratch_size = metadata.profile_scratch_size
        self.profile_scratch_align = metadata.profile_scratch_align
        self.tensordesc_meta = metadata.tensordesc_meta

    @property
    def asm(self) -> dict[str, Any]:
        """The text of every stage: "ttir", "ttgir", "llir", "ptx" or "amdgcn". The disk keeps none: compiled again."""
        if self._asm is None:
            self._asm = _run_triton(self.request).asm
        return self._asm


def compile_kernel(
    kernel: Jit,
    keys: tuple[Key, ...],
    constants: dict[str, Any],
    target_name: str,
    num_warps: int = 4,
    num_stages: int = 2,
    options: dict[str, Any] | None = None,
) -> Compiled:
    """Compile for a target. keys: one specialisation key per argument; constants: every constexpr by name.

    What this process or the cache on disk has is not compiled again; threads and processes that ask for the same at
    once wait for one of them. KernelError names the kernel, its types, constants and target, with Triton's error as
    its cause.
    """
    request = Request(kernel, keys, constants, target_name, num_warps, num_stages, options)
    key = request.hashable
    found = _compiled.get(key)
    return once(_compiled, key, lambda: _obtain(request)) if found is None else found


_compiled: dict[_Hashable, Compiled] = {}
#: While there are any, a compile-only device tells them what it would compile, and does not: `ahead.collect`.
collectors: list[Callable[[Request], None]] = []


class _Flight:
    """A compilation that is going on, for the other threads that want its result."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()
        self.error: BaseException | None = None


_flights: dict[_Hashable, _Flight] = {}
_flights_lock = threading.Lock()  # never held while anything is compiled or read


def once(made: dict[Any, _T], key: _Hashable, make: Callable[[], _T]) -> _T:
    """What ``made`` has under a key, or what ``make`` gives, which is kept there.

    Threads that ask for the same at once wait for one of them.
    """
    while True:
        with _flights_lock:
            found, flight = made.get(key), _flights.get(key)
            if found is not None:
                return found
            if flight is None:
                flight = mine = _flights[key] = _Flight()
            else:
                mine = None
        if mine is not None:
            break
        if flight.thread == threading.get_ident():  # a finaliser or a signal's handler, within the compilation
            return make()
        flight.done.wait()
        if isinstance(flight.error, KernelError):
            raise KernelError(*flight.error.args) from flight.error
    try:
        new = made[key] = make()
        return new
    except BaseException as error:
        mine.error = error
        raise
    finally:
        with _flights_lock:
            del _flights[key]
        mine.done.set()


def _after_fork() -> None:
    """A child has none of the threads that compiled or interpreted when it was made."""
    global LOCK, _flights_lock
    _flights.clear()
    _flights_lock = threading.Lock()
    LOCK._at_fork_reinit()  # type: ignore[attr-defined]  # the object itself, which other modules hold


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _obtain(request: Request) -> Compiled:
    """From the disk, or from Triton and then to the disk."""
    entry = entry_key(request)
    return _compile(request) if entry is None else obtain(request, entry)


def obtain(request: Request, entry: str) -> Compiled:
    """What the disk has under a key, or what Triton makes of the request, which is then kept under that key."""

    def make() -> Compiled:
        found = _compile(request)
        if may_keep():
            header = {
                "kernel": f"{request.kernel.__module__}.{request.kernel.__qualname__}",
                "target": request.target,
                "metadata": found.metadata._asdict(),
            }
            cache.store(entry, header, found.binary)
        return found

    return kept(entry, lambda: _load(request, entry), make)


def kept(entry: str, load: Callable[[], _T | None], make: Callable[[], _T]) -> _T:
    """What ``load`` finds on the disk, else what ``make`` makes and puts there: in one of the processes that ask."""
    found = load()
    if found is None:
        with cache.lock(entry):
            found = load()  # while this waited, another process may have compiled it
            if found is None:
                found = make()
    return found


def may_keep() -> bool:
    """Whether what is compiled is what its key says: not once the file of a kernel in use was changed."""
    return not _Edited.found


def entry_key(request: Request, around: str | None = None) -> str | None:
    """The key of a compilation in the cache on disk: a hash of all that its result depends on.

    around: what that is beside the request, by default its target's `surroundings`. None where that cannot be known,
    where a setting asks to watch the compiler, and without a cache.
    """
    if around is None:
        around = surroundings(request.target)
    if around is None or cache.folder() is None:
        return None
    values = fingerprint.Arguments()
    options = {**versions.OPTIONS, **(request.options or {})}
    try:
        parts = (
            around,
            request.kernel.fingerprint,
            values.text(request.keys),
            values.text(tuple(sorted(request.constants.items()))),
            request.target,
            f"{request.num_warps} {request.num_stages}",
            values.text(tuple(sorted(options.items()))),
            *(f"{v} {versions.stamp(v)}" for v in options.values() if isinstance(v, str) and os.sep in v),
        )
    except fingerprint.Unknown:
        return None
    return fingerprint.digest("\0".join(parts))


def surroundings(target_name: str) -> str | None:
    """A hash of everything but the request that changes what is compiled: Triton, its tools and settings.

    None where a setting asks to see or replace what the compiler does.
    """
    settings = versions.settings()
    if settings is None:
        return None
    tool = versions.assembler(target_name)
    identity = versions.identity(target_name, tool, versions.stamp(tool))
    return fingerprint.digest("\0".join((_own_identity(), identity, settings)))


@functools.cache
def _own_identity() -> str:
    """tensorlib's own part in what is compiled: the text of the files that drive Triton."""
    parts = []
    for path in (__file__, versions.__file__):
        try:
            with open(path, encoding="utf-8") as file:
                parts.append(file.read())
        except OSError:
            parts.append(__version__)  # from an archive
    return "\0".join(parts)


def _load(request: Request, entry: str) -> Compiled | None:
    """What the disk has; None where it is not what this version writes."""
    found = cache.load(entry)
    if found is None:
        return None
    header, binary = found
    metadata = versions.Metadata.from_json(header.get("metadata"))
    return None if metadata is None else Compiled(request, metadata, binary)


def _compile(request: Request) -> Compiled:
    result = _run_triton(request)
    binary: bytes = result.asm["cubin" if request.target.startswith("sm_") else "hsaco"]
    return Compiled(request, versions.metadata(result.metadata), binary, result.asm)


def ast_source(kernel: Jit, keys: tuple[Key, ...], constants: dict[str, Any]) -> Any:
    """Triton's ASTSource of a kernel: its function, a signature entry for each key, and a value for each constexpr."""
    signature: dict[str, Any] = {}
    constexprs: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    arguments = iter(keys)
    for i, parameter in enumerate(kernel.parameters):
        if parameter.constexpr:
            signature[parameter.name] = "constexpr"
            constexprs[i,] = constant(constants[parameter.name])
        else:
            signature[parameter.name] = _signature(next(arguments), (i,), constexprs, attributes)
    return triton().compiler.ASTSource(kernel.jit_function, signature, constexprs, attributes)


def front_end(kernel: Jit, keys: tuple[Key, ...], constants: dict[str, Any], options: dict[str, Any]) -> str:
    """The text of a kernel's TTIR, before anything is done that is a GPU's. KernelError names kernel and types."""
    triton()
    with LOCK:
        try:
            with _Silenced():
                return versions.front_end(ast_source(kernel, keys, constants), options)
        except Exception as error:
            raise KernelError(
                f"{kernel.__name__}: Triton makes no IR of it: {_first_lines(error)}\n"
                f"{Request(kernel, keys, constants, 'native', options=options).describe()}"
            ) from error


def _run_triton(request: Request) -> Any:
    """Triton's CompiledKernel."""
    kernel = request.kernel
    stock = triton()
    with LOCK:
        source = ast_source(kernel, request.keys, request.constants)

        def run() -> Any:
            return stock.compile(
                source,
                target=target(request.target),
                options={
                    "num_warps": request.num_warps,
                    "num_stages": request.num_stages,
                    **versions.OPTIONS,
                    **(request.options or {}),
                },
            )

        try:
            with _Silenced():
                try:
                    return run()
                except (OSError, ValueError, KeyError, StopIteration):
                    # Triton's own cache may be damaged, or its folder not to be written: without it.
                    with versions.without_cache():
                        return run()
        except Exception as error:
            raise KernelError(
                f"{kernel.__name__}: does not compile for {request.target}: {_first_lines(error)}\n{request.describe()}"
            ) from error


class _Silenced:
    """Within it this thread prints nothing: when ptxas fails, Triton prints the whole PTX. Other threads do."""

    def __enter__(self) -> None:
        self._before, self._thread = sys.stdout, threading.get_ident()
        sys.stdout = self  # type: ignore[assignment]

    def __exit__(self, *exception: Any) -> None:
        if sys.stdout is self:  # type: ignore[comparison-overlap]
            sys.stdout = self._before

    def write(self, text: str) -> int:
        """To where it would have gone, unless this thread wrote it."""
        return len(text) if threading.get_ident() == self._thread else self._before.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)


def _signature(
    key: Key,
    path: tuple[int, ...],
    constexprs: dict[tuple[int, ...], Any],
    attributes: dict[tuple[int, ...], list[list[Any]]],
) -> Any:
    """Triton's signature entry for a key; values and attributes go to their tables under the argument's path."""
    if isinstance(key, tuple):
        return tuple(_signature(k, (*path, i), constexprs, attributes) for i, k in enumerate(key))
    if key[0] == "=":
        constexprs[path] = 1 if key == "=1" else None
        return "constexpr"
    name, *flags = key.split(" ")
    found: list[list[Any]] = []
    if "16" in flags:
        found.append(["tt.divisibility", 16])
    if "range32" in flags:
        found.append(["tt.pointer_range", 32])
    if found:
        attributes[path] = found
    return name


def describe_keys(kernel: Jit, keys: tuple[Key, ...]) -> str:
    """`out: *fp32 16, n: i32`."""
    return ", ".join(f"{name}: {key}" for name, key in zip(kernel.arguments, keys, strict=False))


def _first_lines(error: BaseException, limit: int = 30) -> str:
    """An error's text, cut, with the reason that Triton hides behind it."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    if len(lines) > limit:
        lines[limit:] = [f"... ({len(lines) - limit} more lines)"]
    reason = error.__cause__
    while reason is not None and reason.__cause__ is not None:
        reason = reason.__cause__
    if reason is not None and not (str(reason) and str(reason) in str(error)):
        lines.append(f"{type(reason).__name__}: {reason}")
    return "\n".join(lines)
