"""The processor as LLVM sees it. An object file is compiled for one, with every feature that it has."""

from __future__ import annotations

import functools
import importlib
import os
import platform
from typing import NamedTuple

from tensorlib import _blas
from tensorlib.errors import DeviceError
from tensorlib.runtime import environment


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


@functools.cache
def host() -> Features:
    """The processor that this runs on."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        found = _x86_features()
        triple, cpu = "x86_64-unknown-linux-gnu", ""
    else:
        binding = importlib.import_module("llvmlite.binding")
        found = {name: bool(on) for name, on in binding.get_host_cpu_features().items()}
        triple, cpu = binding.get_default_triple(), binding.get_host_cpu_name()
    lanes = 4
    if all(found.get(name) for name in ("avx512f", "avx512vl", "avx512bw", "avx512dq")):
        lanes = 16
        found["prefer-256-bit"] = False  # registers of 512 bits are asked for by name
    elif found.get("avx2") and found.get("fma"):
        lanes = 8
    # A level of the architecture stands for the processor: instructions are timed as most processors' of it are.
    cpu = cpu or {16: "x86-64-v4", 8: "x86-64-v3", 4: "x86-64"}[lanes]
    return Features(triple, cpu, ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(found.items())), lanes)


#: LLVM's names of features that code may use, where Linux has others.
_LINUX = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "lahf_lm": "sahf", "abm": "lzcnt", "bmi1": "bmi",
    "avx512_bf16": "avx512bf16", "avx512_vnni": "avx512vnni", "avx_vnni": "avxvnni", "avx512_fp16": "avx512fp16",
    "avx512_vbmi2": "avx512vbmi2", "avx512_bitalg": "avx512bitalg", "avx512_vpopcntdq": "avx512vpopcntdq",
    "amx_tile": "amx-tile", "amx_int8": "amx-int8", "amx_bf16": "amx-bf16",
}  # fmt: skip
_SAME = (
    "adx", "aes", "avx", "avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512ifma", "avx512vbmi", "avx512vl",
    "bmi2", "cx16", "f16c", "fma", "gfni", "movbe", "popcnt", "sse", "sse2", "ssse3", "vaes", "xsave",
)  # fmt: skip


def _x86_features() -> dict[str, bool]:
    """What Linux says that this processor has and programs may use."""
    flags = _blas.processor_flags()
    return {**{name: name in flags for name in _SAME}, **{_LINUX[name]: name in flags for name in _LINUX}}


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
