"""The processor as LLVM sees it: its features, machine code for it, and that code in this process.

The only module that imports llvmlite, and only when something is compiled or linked. An object file is compiled for
one processor with every feature it has; the disk cache keys it by `Features`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import sys
import threading
from typing import Any, NamedTuple

from tensorlib.errors import DeviceError, KernelError
from tensorlib.runtime import environment

#: Held around every use of llvmlite, and over a fork: a child never begins in the middle of one.
LOCK = threading.RLock()


class Features(NamedTuple):
    """A processor that code is made for."""

    triple: str  #: LLVM's name of the architecture and system
    cpu: str  #: LLVM's name of the processor, which decides what the scheduler assumes
    features: str  #: "+avx2,-avx512f,...", sorted
    lanes: int  #: float32 numbers in a vector register: 16, 8 or 4

    @property
    def architecture(self) -> str:
        """"x86_64", "aarch64"."""
        name = self.triple.partition("-")[0]
        return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)

    def has(self, name: str) -> bool:
        """Whether the processor has a feature, by LLVM's name of it: "avx512bf16", "f16c", "fullfp16"."""
        return f"+{name}" in self.features.split(",")

    @property
    def text(self) -> str:
        """All of it in one line, for a key and for messages."""
        return f"{self.triple} {self.cpu} {self.lanes} {self.features}"


_V2 = "+cx16,+popcnt,+sahf,+sse3,+sse4.1,+sse4.2,+ssse3"
_V3 = f"+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+xsave,{_V2}"
_V4 = f"+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vl,-prefer-256-bit,{_V3}"
#: What TENSORLIB_NATIVE_CPU may name instead of this processor: (architecture, LLVM's processor, features, lanes).
LEVELS = {
    "x86-64": ("x86_64", "x86-64", "+sse2", 4),
    "x86-64-v2": ("x86_64", "x86-64-v2", _V2, 4),
    "x86-64-v3": ("x86_64", "x86-64-v3", _V3, 8),
    "x86-64-v4": ("x86_64", "x86-64-v4", _V4, 16),
    "neon": ("aarch64", "generic", "+fp-armv8,+neon", 4),
    "neoverse-n2": ("aarch64", "neoverse-n2", "+bf16,+dotprod,+fp-armv8,+fullfp16,+i8mm,+neon", 4),
}


def available() -> bool:
    """Whether llvmlite is installed, found out without importing it."""
    return "llvmlite" in sys.modules or importlib.util.find_spec("llvmlite") is not None


def require() -> None:
    """DeviceError where there is no llvmlite."""
    if not available():
        raise DeviceError("native: needs llvmlite: pip install 'tensorlib[native]'")


@functools.cache
def llvm() -> Any:
    """``llvmlite.binding``, ready to compile for this machine."""
    require()
    with LOCK:
        binding = importlib.import_module("llvmlite.binding")
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
    return binding


@functools.cache
def version() -> str:
    """"llvmlite 0.50.0, LLVM 22.1.0"."""
    number = ".".join(map(str, llvm().llvm_version_info))
    return f"llvmlite {sys.modules['llvmlite'].__version__}, LLVM {number}"


@functools.cache
def host() -> Features:
    """The processor that this runs on, as LLVM detects it."""
    binding = llvm()
    with LOCK:
        found = {name: bool(on) for name, on in binding.get_host_cpu_features().items()}
        triple, cpu = binding.get_default_triple(), binding.get_host_cpu_name()
    lanes = 4
    if found.get("avx512f") and found.get("avx512vl") and found.get("avx512bw") and found.get("avx512dq"):
        lanes = 16
        found["prefer-256-bit"] = False  # registers of 512 bits are asked for by name
    elif found.get("avx2") and found.get("fma"):
        lanes = 8
    return Features(triple, cpu, ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(found.items())), lanes)


def level(name: str) -> Features:
    """One of LEVELS."""
    architecture, cpu, features, lanes = LEVELS[name]
    triple = host().triple if host().architecture == architecture else f"{architecture}-unknown-linux-gnu"
    return Features(triple, cpu, ",".join(sorted(features.split(","))), lanes)


def features() -> Features:
    """The processor that kernels are compiled for: this one, or what ``TENSORLIB_NATIVE_CPU`` names.

    EnvironmentVariableError where that is none of LEVELS.
    """
    name = os.environ.get("TENSORLIB_NATIVE_CPU")
    if name and name not in LEVELS:
        raise environment.refuse("TENSORLIB_NATIVE_CPU", f"one of {', '.join(LEVELS)}", "this processor")
    return level(name) if name else host()


def refuse_other(machine: Features) -> None:
    """DeviceError where this processor cannot run what is compiled for that one."""
    here = host()
    lacks = [f[1:] for f in machine.features.split(",") if f[:1] == "+" and not here.has(f[1:])]
    if machine.architecture != here.architecture:
        lacks = [machine.architecture]
    if lacks:
        asked = os.environ.get("TENSORLIB_NATIVE_CPU") or machine.cpu
        raise DeviceError(
            f"native: this processor ({here.architecture} {here.cpu}) cannot run code for {asked}: it lacks "
            f"{', '.join(lacks)}; unset TENSORLIB_NATIVE_CPU, or name a lesser one"
        )


def compile(text: str, machine: Features, speed: int = 2) -> bytes:
    """An object file of a module of LLVM IR. KernelError, with LLVM's message, where the text is not a valid module.

    LLVM's vectorisers stay off: the text is in vectors of the machine's width already.
    """
    with LOCK:
        module, target = _optimised(text, machine, speed)
        result: bytes = target.emit_object(module)
    return result


def assembly(text: str, machine: Features, speed: int = 2) -> str:
    """The same as assembly, to be read."""
    with LOCK:
        module, target = _optimised(text, machine, speed)
        result: str = target.emit_assembly(module)
    return result


def _optimised(text: str, machine: Features, speed: int) -> tuple[Any, Any]:
    """(module after LLVM's passes, target machine)."""
    binding = llvm()
    target = _target_machine(machine, speed)
    try:
        module = binding.parse_assembly(text, binding.create_context())
        module.triple = machine.triple
        module.data_layout = str(target.target_data)
        module.verify()
    except RuntimeError as error:
        raise KernelError(f"LLVM does not take the module that was made for it: {error}") from error
    options = binding.create_pipeline_tuning_options(speed_level=speed)
    options.loop_vectorization = options.loop_interleaving = options.slp_vectorization = False
    builder = binding.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return module, target


def _target_machine(machine: Features, speed: int) -> Any:
    binding = llvm()
    if machine.architecture != host().architecture:
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(machine.triple)
    # Position independent, so that constants are reached relative to the code, wherever it is put.
    return target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=speed, reloc="pic", codemodel="small"
    )


class Loaded:
    """An object file linked into this process. Its code goes when this does."""

    __slots__ = ("_tracker", "addresses")

    def __init__(self, tracker: Any, addresses: dict[str, int]) -> None:
        self._tracker = tracker
        self.addresses = addresses

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]


_numbers = itertools.count()


def load(image: bytes, *symbols: str, name: str = "") -> Loaded:
    """Link an object file with the process's own functions; the addresses of symbols. KernelError where it fails."""
    binding = llvm()
    with LOCK:
        linker = _linker()
        library = binding.JITLibraryBuilder().add_object_img(image)
        if not name and any(helper.encode() in image for helper in HELPERS):
            _helpers()
            library.add_jit_library(_HELPERS)
        library.add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        name = name or f"tensorlib.{next(_numbers)}"
        try:
            tracker = library.link(linker, name)
        except RuntimeError as error:
            raise KernelError(f"machine code cannot be linked: {error}") from error
    return Loaded(tracker, {symbol: tracker[symbol] for symbol in symbols})


@functools.cache
def _linker() -> Any:
    binding = llvm()
    for name in ("libm.so.6", "libm.so"):  # macOS has it in what every process loads
        try:
            binding.load_library_permanently(name)
            break
        except RuntimeError:
            continue
    return binding.create_lljit_compiler(_target_machine(host(), 2), use_jit_link=True)


# -- what LLVM expects of a compiler's library -------------------------------------------------------------------------

_HELPERS = "tensorlib.helpers"

#: Where a processor cannot convert half types LLVM calls these functions, which not every process has.
_NARROW = """
define {type} @{name}(double %x) nounwind {{
  %bits = bitcast double %x to i64
  %magnitude = and i64 %bits, 9223372036854775807
  %top = lshr i64 %bits, 48
  %sign = and i64 %top, 32768
  %raw = lshr i64 %magnitude, 52
  %tiny = icmp ult i64 %raw, {least}
  %exponent = select i1 %tiny, i64 {least}, i64 %raw
  %down = sub i64 {unit}, %exponent
  %scale.bits = shl i64 %down, 52
  %scale = bitcast i64 %scale.bits to double
  %absolute = bitcast i64 %magnitude to double
  %scaled = fmul double %absolute, %scale
  %added = fadd double %scaled, 0x4330000000000000
  %rounded = fsub double %added, 0x4330000000000000
  %fraction = fptoui double %rounded to i64
  %above = sub i64 %exponent, {least}
  %shifted = shl i64 %above, {fraction}
  %sum = add i64 %shifted, %fraction
  %large = icmp ugt i64 %sum, {infinity}
  %endless = icmp uge i64 %magnitude, 9218868437227405312
  %over = or i1 %large, %endless
  %finite = select i1 %endless, i64 {infinity}, i64 %sum
  %limited = select i1 %over, i64 {infinity}, i64 %finite
  %nan = icmp ugt i64 %magnitude, 9218868437227405312
  %value = select i1 %nan, i64 {quiet}, i64 %limited
  %signed = or i64 %value, %sign
  %short = trunc i64 %signed to i16
  %result = bitcast i16 %short to {type}
  ret {type} %result
}}
define {type} @{from_float}(float %x) nounwind {{
  %wide = fpext float %x to double
  %result = call {type} @{name}(double %wide)
  ret {type} %result
}}
"""
_WIDEN = """
define float @__extendhfsf2(half %x) nounwind {
  %short = bitcast half %x to i16
  %bits = zext i16 %short to i32
  %top = and i32 %bits, 32768
  %sign = shl i32 %top, 16
  %magnitude = and i32 %bits, 32767
  %moved = shl i32 %magnitude, 13
  %small = bitcast i32 %moved to float
  %scaled = fmul float %small, 0x46F0000000000000
  %finite = bitcast float %scaled to i32
  %endless = icmp uge i32 %magnitude, 31744
  %special = or i32 %moved, 2139095040
  %value = select i1 %endless, i32 %special, i32 %finite
  %signed = or i32 %value, %sign
  %result = bitcast i32 %signed to float
  ret float %result
}
"""
HELPERS_TEXT = (
    _NARROW.format(type="half", name="__truncdfhf2", from_float="__truncsfhf2", least=1009, unit=2056, fraction=10,
                   infinity=31744, quiet=32256)
    + _NARROW.format(type="bfloat", name="__truncdfbf2", from_float="__truncsfbf2", least=897, unit=2053, fraction=7,
                     infinity=32640, quiet=32704)
    + _WIDEN
)  # fmt: skip
HELPERS = ("__truncdfhf2", "__truncsfhf2", "__truncdfbf2", "__truncsfbf2", "__extendhfsf2")


@functools.cache
def _helpers() -> Loaded:
    """The helpers, compiled when the first kernel that calls one is linked."""
    return load(compile(HELPERS_TEXT, host()), *HELPERS, name=_HELPERS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
