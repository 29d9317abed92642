"""Everything in which the versions of Triton differ that tensorlib works with, 3.6 to 3.9, and what is installed.

The rest of the library asks here instead of testing for a version or an attribute. Differences in what a kernel may
say are not here, as nothing can be done about them but to write the kernel for all: before 3.9 there is no
``a < b < c``, minus is ``0 - x`` (which loses the sign of a zero), and ``tl.dot_scaled`` does not compile for gfx90a
and gfx942.

What is installed is found out without importing triton, which takes a fifth of a second: a program whose kernels
are all in the cache on disk never imports it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from tensorlib.errors import KernelError
from tensorlib.runtime import fingerprint

#: The first version that works, and the first that is not known to.
OLDEST, BEYOND = (3, 6), (3, 10)


class Triton(NamedTuple):
    """The installed Triton: its folder and version."""

    folder: str
    version: str

    @property
    def number(self) -> tuple[int, int]:
        """(3, 9) of "3.9.0"."""
        return _number(self.version)


@functools.cache
def installed() -> Triton | None:
    """The Triton that ``import triton`` gives, looked up without importing it; None where there is none."""
    loaded = sys.modules.get("triton")
    spec = importlib.util.find_spec("triton") if loaded is None else loaded.__spec__
    if spec is None or spec.origin is None:
        return None
    with open(spec.origin, encoding="utf-8") as file:
        found = re.search(r"^__version__ = ['\"]([^'\"]+)['\"]", file.read(), re.M)
    return Triton(os.path.dirname(spec.origin), found[1] if found else "unknown")


def require() -> Triton:
    """The installed Triton. KernelError where there is none, or one of a version that does not work."""
    found = installed()
    if found is None:
        raise KernelError(
            "Triton kernels need the package 'triton' (pip install triton; it has wheels for Linux); "
            "without it, device 'cpu' runs every operator on NumPy"
        )
    check(found.version)
    return found


def check(version: str) -> None:
    """KernelError unless tensorlib works with this version of Triton."""
    if not OLDEST <= _number(version) < BEYOND:
        wanted = f"triton>={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, BEYOND))}"
        raise KernelError(f"Triton {version} is installed, tensorlib works with {wanted}: pip install '{wanted}'")


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


# -- the compiler ------------------------------------------------------------------------------------------------------

#: Options that every compilation is given. Fusion of multiply and add is the default up to 3.9, which warns of 3.10's.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}


def assembler(target: str) -> str | None:
    """The path of the ptxas that Triton runs for a target; None for AMD's, which it links in.

    Triton has two: the newer serves sm_100 and later, from 3.9 on sm_90 as well. TRITON_PTXAS_PATH and
    TRITON_PTXAS_BLACKWELL_PATH name others.
    """
    if not target.startswith("sm_"):
        return None
    found = require()
    newer = int(target[3:].rstrip("abf")) >= (90 if found.number >= (3, 9) else 100)
    name, variable = ("ptxas-blackwell", "TRITON_PTXAS_BLACKWELL_PATH") if newer else ("ptxas", "TRITON_PTXAS_PATH")
    asked = os.environ.get(variable)
    return asked if asked and os.path.exists(asked) else os.path.join(found.folder, "backends", "nvidia", "bin", name)


@functools.cache
def identity(target: str, assembler: str | None, stamp: tuple[int, int] | None) -> str:
    """What compiles for a target, as text: Python, Triton, its own files by name and size, and the assembler's file.

    Times are left out where the files are Triton's own, so that machines with a Triton of their own share a cache.
    """
    triton = require()
    vendor = "nvidia" if target.startswith("sm_") else "amd"
    parts = [f"python {sys.version_info[:3]}", f"triton {triton.version}"]
    extra = "language/extra/cuda" if vendor == "nvidia" else "language/extra/hip"
    for place in ("_C", "compiler", "language", extra, "runtime", f"backends/{vendor}", f"backends/{vendor}/lib"):
        folder = os.path.join(triton.folder, place)
        if os.path.isdir(folder):
            files = sorted((e.name, e.stat().st_size) for e in os.scandir(folder) if e.is_file())
            parts += [f"{place}/{name} {size}" for name, size in files if not name.endswith(".pyc")]
            libraries = [name for name, _ in files if name.endswith(".so") and name != "libproton.so"]
            parts += [f"{name} {_ends(os.path.join(folder, name))}" for name in libraries]
    if assembler is not None:
        own = assembler.startswith(triton.folder)
        parts.append(f"assembler {_ends(assembler)} {stamp[:1] if own and stamp else (assembler, stamp)}")
    return "\n".join(parts)


def _ends(path: str, size: int = 4096) -> str:
    """A hash of the first and last bytes of a file: of an ELF file they hold its build id and the table of sections."""
    with open(path, "rb") as file:
        first = file.read(size)
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return fingerprint.sha256(first + file.read()).hexdigest()


def stamp(path: str | None) -> tuple[int, int] | None:
    """(size, time of change) of a file; None where there is none."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


_PREFIXES = ("TRITON_", "AMDGCN_", "MLIR_", "LLVM_", "NVPTX_", "PTXAS_", "DISABLE_", "USE_IR_LOC")
#: Variables of those names that change no code. ptxas' are read by `assembler`.
_HARMLESS = re.compile(
    "TRITON_(HOME|(CACHE|DUMP|OVERRIDE)_DIR|CACHE_MANAGER|REMOTE_CACHE_BACKEND|REDIS_.*|PRINT_AUTOTUNING|"
    "CACHE_AUTOTUNING|INTERPRET|LIB(CUDA|HIP)_PATH|CUDA(RT|CRT)_PATH|(CUOBJDUMP|NVDISASM|PTXAS|PTXAS_BLACKWELL)_PATH|"
    "STORE_BINARY_ONLY|ENABLE_PYTHON_STACKTRACE|FRONT_END_DEBUGGING|PROTON_.*)"
)
#: Variables that ask to see or to replace what the compiler does: it must run, and the cache stands aside.
_WATCHING = frozenset((
    "TRITON_ALWAYS_COMPILE", "TRITON_KERNEL_DUMP", "TRITON_KERNEL_OVERRIDE", "TRITON_DUMP_PTXAS_LOG", "TRITON_DUMP_MIR",
    "TRITON_SWAP_MIR", "TRITON_REPRODUCER_PATH", "TRITON_ENABLE_LLVM_DEBUG", "TRITON_LLVM_DEBUG_ONLY",
    "TRITON_PLUGIN_PATHS", "MLIR_ENABLE_DUMP", "MLIR_DUMP_PATH", "MLIR_ENABLE_DIAGNOSTICS", "MLIR_ENABLE_TIMING",
    "LLVM_IR_ENABLE_DUMP", "LLVM_ENABLE_TIMING", "LLVM_PASS_PLUGIN_PATH", "NVPTX_ENABLE_DUMP", "AMDGCN_ENABLE_DUMP",
    "USE_IR_LOC",
))  # fmt: skip


def settings() -> str | None:
    """The environment variables and knobs that change what Triton makes of a kernel, as text.

    A variable that is the path of a file stands for the file's size and time too. None where one of them asks to see
    or to replace what the compiler does.
    """
    parts = []
    for name, value in sorted(os.environ.items()):
        if name.startswith(_PREFIXES) and not _HARMLESS.fullmatch(name):
            if name in _WATCHING and value not in ("", "0", "false", "off", "no"):
                return None
            parts.append(f"{name}={value}{stamp(value) if os.sep in value else ''}")
    knobs = getattr(sys.modules.get("triton"), "knobs", None)
    if knobs is not None:  # set by the program itself
        if knobs.compilation.listener is not None or knobs.runtime.add_stages_inspection_hook is not None:
            return None
        for group in ("compilation", "language", "runtime", "nvidia", "amd"):
            given = vars(getattr(knobs, group))
            parts += [f"{group}.{name}={value}" for name, value in sorted(given.items()) if not callable(value)]
    return "\n".join(parts)


class Metadata(NamedTuple):
    """What the compiler says of a kernel, named alike for all versions and vendors."""

    name: str
    shared: int  #: bytes of shared memory
    num_warps: int  #: that a program has, not that were asked for
    num_ctas: int = 1  #: programs in a cluster
    cooperative: bool = False  #: all programs must run at once
    pdl: bool = False  #: it may begin before the launch ahead of it has ended
    global_scratch_size: int = 0  #: bytes of global memory for each program, and their alignment
    global_scratch_align: int = 1
    profile_scratch_size: int = 0
    profile_scratch_align: int = 1
    tensordesc_meta: tuple[dict[str, Any], ...] = ()  #: for each tensor descriptor, how the driver must encode it

    @classmethod
    def from_json(cls, stored: Any) -> Metadata | None:
        """What ``_asdict`` gave, after JSON; None unless it has these fields and their types."""
        if not isinstance(stored, dict) or stored.keys() != set(cls._fields):
            return None
        stored = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        example = cls("", 0, 0)._asdict()
        return cls(**stored) if all(type(v) is type(example[k]) for k, v in stored.items()) else None


def metadata(stock: Any) -> Metadata:
    """Triton's metadata of a kernel. AMD's lacks ``launch_pdl``, in 3.6 the scratch memories too."""
    return Metadata(
        name=stock.name,
        shared=stock.shared,
        num_warps=stock.num_warps,
        num_ctas=getattr(stock, "num_ctas", 1),
        cooperative=bool(getattr(stock, "launch_cooperative_grid", False)),
        pdl=bool(getattr(stock, "launch_pdl", False)),
        global_scratch_size=getattr(stock, "global_scratch_size", 0),
        global_scratch_align=getattr(stock, "global_scratch_align", 1),
        profile_scratch_size=getattr(stock, "profile_scratch_size", 0),
        profile_scratch_align=getattr(stock, "profile_scratch_align", 1),
        tensordesc_meta=tuple(getattr(stock, "tensordesc_meta", None) or ()),
    )


def descriptor_flags() -> int:
    """How many parameters a descriptor without a tensor map has between its pointer's and its own shape and strides.

    The padding, and from 3.8 on whether float32 is rounded to tf32.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    return 2 if "round_f32_to_tf32" in TensorDescriptor.__dataclass_fields__ else 1


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Within it Triton keeps what it compiles in a folder that is deleted: its own cannot be used."""
    import tempfile  # takes 3 ms, and is hardly ever needed

    knobs = sys.modules["triton"].knobs
    with tempfile.TemporaryDirectory(prefix="tensorlib-triton-") as folder:
        given = vars(knobs.cache)  # not by assignment, which would set the environment variable
        before = dict(given)
        given["dir"] = folder
        try:
            yield
        finally:
            given.clear()
            given.update(before)


#: What the front end makes IR for, where the host compiles it: of this one it rewrites tensor descriptors to pointers.
_FRONT_END = ("cuda", 80, 32)
#: The 8-bit floats of every target.
_FLOAT8 = ("fp8e4b15", "fp8e4b8", "fp8e4nv", "fp8e5", "fp8e5b16")


def front_end(source: Any, options: dict[str, Any]) -> str:
    """The text of a kernel's IR (TTIR) after Triton's own passes that no target has a part in, with locations.

    source: an ASTSource. Whoever calls holds the compiler's lock.
    """
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    target = GPUTarget(*_FRONT_END)
    backend = make_backend(target)
    asked = backend.parse_options({"supported_fp8_dtypes": _FLOAT8, **OPTIONS, **options})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, asked, source.language)
    functions = backend.get_codegen_implementation(asked)
    module = source.make_ir(target, asked, functions, backend.get_module_map(), context)
    return str(stages["ttir"](module, {}).str())


class HostCompiler:
    """The LLVM in Triton's library as a compiler for x86-64, which Triton itself has no use for.

    Its optimiser is not told of the target, so that it leaves loops as they are. Whoever calls holds a lock.
    """

    triple = "x86_64-unknown-linux-gnu"

    def __init__(self) -> None:
        import cffi
        from triton._C import libtriton

        self._ir, self._llvm = libtriton.ir, libtriton.llvm
        self._llvm.init_targets()
        ffi = cffi.FFI()
        library = ffi.dlopen(libtriton.__file__)
        with contextlib.suppress(AttributeError):  # 3.6 has made every target ready, and hides these
            for part in ("TargetInfo", "Target", "TargetMC", "AsmPrinter"):
                ffi.cdef(f"void LLVMInitializeX86{part}(void);")
                getattr(library, f"LLVMInitializeX86{part}")()
        takes = self._llvm.translate_to_asm.__doc__
        self._more = (False,) if "canonicalize_gep" in takes or "arg7" in takes else ()  # since 3.8
        slp = "disable_slp_vectorizer" in self._llvm.optimize_module.__doc__  # since 3.9
        self._without = {"disable_slp_vectorizer": True} if slp else {}
        self._levels = {1: self._llvm.OPTIMIZE_O1, 2: self._llvm.OPTIMIZE_O2, 3: self._llvm.OPTIMIZE_O3}

    def emit(self, declarations: str, library: str, cpu: str, features: str, speed: int, binary: bool) -> bytes:
        """An object file, or assembly, of what a module of MLIR declares and a file of LLVM's IR defines (paths)."""
        context = self._ir.context()
        self._ir.load_dialects(context)
        mlir = self._ir.parse_mlir_module(declarations, context)
        mlir.context = context
        scope = self._llvm.context()
        module = self._llvm.to_module(mlir, scope)
        self._llvm.attach_datalayout(module, self.triple, cpu, features)
        if "target datalayout" not in str(module):  # translate_to_asm would end the process
            raise KernelError("the LLVM of this Triton makes no code for x86-64")
        self._llvm.link_extern_libs(module, [library])
        self._llvm.optimize_module(module, self._levels[speed], **self._without)
        made = self._llvm.translate_to_asm(str(module), self.triple, cpu, features, [], False, binary, *self._more)
        return made if binary else made.encode()


def source(jit_function: Any) -> str:
    """The source that Triton read of a function."""
    return "".join(jit_function.raw_src)


# -- the interpreter ---------------------------------------------------------------------------------------------------


def chained_comparison(stock: Any) -> Any:
    """What Triton's interpreter makes of ``a < b < c``, since 3.9; None before. stock: triton.runtime.interpreter."""
    return getattr(stock, "_InterpreterComparison", None)
