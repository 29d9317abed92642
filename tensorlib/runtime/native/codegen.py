"""LLVM's IR as text to object files: by the LLVM inside Triton's own library, so that nothing else must be installed.

On Linux for x86-64, Triton's wheels hold a code generator for the host besides those for GPUs. Elsewhere, and for other
processors than this one's kind, it is llvmlite's (``pip install 'tensorlib[native]'``). Both get the same text; neither
vectorises it: it is in vectors of the machine's width already.

Triton's bindings take a module only as MLIR and know text only as a library to link. So the module starts as a list of
declarations, and the text is linked to it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorlib.errors import DeviceError, KernelError
from tensorlib.runtime import versions
from tensorlib.runtime.native.machine import Features

#: Held around every use of LLVM, and over a fork: a child never begins in the middle of one.
LOCK = threading.RLock()

_X86 = platform.system() == "Linux" and platform.machine() == "x86_64"


class NoCompiler(DeviceError):
    """This system has no compiler for its processor, or does not let it work."""


def available() -> bool:
    """Whether there is a compiler for this processor, found out without importing any."""
    found = versions.installed()
    return found is not None and (_X86 or _has_llvmlite())


def require() -> None:
    """NoCompiler where there is none."""
    if not available():
        raise NoCompiler(f"native: needs {requirement()}")


def requirement() -> str:
    """What a message says that is needed here."""
    return "Triton: pip install triton" if _X86 else "Triton and llvmlite: pip install 'tensorlib[native]'"


def _has_llvmlite() -> bool:
    return "llvmlite" in sys.modules or importlib.util.find_spec("llvmlite") is not None


@functools.cache
def version() -> str:
    """"LLVM of Triton 3.9.0", or "LLVM 22.1.0 of llvmlite 0.50.0": what object files are made by. Imports no Triton."""
    return f"LLVM of Triton {versions.require().version}" if _X86 else _Llvmlite.get().version()


def compile(text: str, machine: Features, speed: int = 2) -> bytes:
    """An object file of a module of LLVM IR. KernelError where the text is not a valid module."""
    with LOCK:
        return _compiler(machine).emit(text, machine, speed, True)


def assembly(text: str, machine: Features, speed: int = 2) -> str:
    """The same as assembly, to be read."""
    with LOCK:
        return _compiler(machine).emit(text, machine, speed, False).decode()


def _compiler(machine: Features) -> Any:
    if not _X86 or machine.architecture != "x86_64":
        return _Llvmlite.get()
    try:
        return _Triton.get()
    except KernelError as error:  # a Triton that somebody built without it
        if _has_llvmlite():
            return _Llvmlite.get()
        raise NoCompiler(f"native: {error}; llvmlite would: pip install 'tensorlib[native]'") from error


class _Triton:
    """The LLVM in Triton's library."""

    @staticmethod
    @functools.cache
    def get() -> _Triton:
        return _Triton()

    def __init__(self) -> None:
        self.compiler = versions.HostCompiler()

    def emit(self, text: str, machine: Features, speed: int, binary: bool) -> bytes:
        """The object file, or the assembly."""
        symbols = _DEFINED.findall(text)
        kept = ", ".join(f"ptr {name}" for name in symbols)  # or they would go: nothing calls them
        used = f'\n@llvm.used = appending global [{len(symbols)} x ptr] [{kept}], section "llvm.metadata"\n'
        declared = "\n".join(f"  llvm.func {name}()" for name in symbols)
        head = f'module attributes {{llvm.target_triple = "{self.compiler.triple}"}} {{\n{declared}\n}}'
        with _file(head) as declarations, _file(text + used) as library:
            try:
                return self.compiler.emit(declarations, library, machine.cpu, machine.features, speed, binary)
            except (RuntimeError, ValueError, TypeError) as error:  # a binding's TypeError quotes the whole module
                raise KernelError(f"LLVM does not take the module that was made for it: {str(error)[:500]}") from error


#: The functions that a module gives to others.
_DEFINED = re.compile(r"^define (?!internal |private )[^@\n]*(@[\w.$]+|@\"[^\"\n]+\")\(", re.MULTILINE)


@contextmanager
def _file(text: str) -> Iterator[str]:
    """The path of a file in memory that holds a text."""
    try:
        descriptor = os.memfd_create("tensorlib")
    except OSError as error:
        raise NoCompiler(f"native: the system gives this process no file in memory ({error})") from error
    try:
        with open(descriptor, "w", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class _Llvmlite:
    """The LLVM of llvmlite, which makes code for every processor."""

    @staticmethod
    @functools.cache
    def get() -> _Llvmlite:
        if not _has_llvmlite():
            raise NoCompiler("native: code for this processor needs llvmlite: pip install 'tensorlib[native]'")
        return _Llvmlite()

    def __init__(self) -> None:
        with LOCK:
            self.binding = importlib.import_module("llvmlite.binding")
            self.binding.initialize_all_targets()
            self.binding.initialize_all_asmprinters()

    def version(self) -> str:
        """Both versions."""
        number = ".".join(map(str, self.binding.llvm_version_info))
        return f"LLVM {number} of llvmlite {sys.modules['llvmlite'].__version__}"

    def emit(self, text: str, machine: Features, speed: int, binary: bool) -> bytes:
        """The object file, or the assembly."""
        binding = self.binding
        target = self.target(machine, speed)
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
        made: bytes = target.emit_object(module) if binary else target.emit_assembly(module).encode()
        return made

    def target(self, machine: Features, speed: int = 2) -> Any:
        """LLVM's target machine."""
        # Position independent, so that constants are reached relative to the code, wherever it is put.
        return self.binding.Target.from_triple(machine.triple).create_target_machine(
            cpu=machine.cpu, features=machine.features, opt=speed, reloc="pic", codemodel="small"
        )


def llvmlite() -> Any:
    """llvmlite's LLVM, for what links with it."""
    return _Llvmlite.get()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
