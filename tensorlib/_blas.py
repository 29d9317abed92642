"""The BLAS library behind NumPy's matrix products: which kernels it chose, and how many threads it runs."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: What OpenBLAS' SkylakeX kernels need of the processor.
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
#: The names OpenBLAS gives to kernels that use AVX-512.
_AVX512_CORES = {"SkylakeX", "Cooperlake", "Sapphirerapids"}


class OpenBLAS(NamedTuple):
    """The OpenBLAS in this process, by its own functions."""

    path: str
    core: str
    get_threads: Any
    set_threads: Any
    prefix: str  #: before the names of BLAS's own functions
    suffix: str  #: after them; "64_" where sizes have 64 bits

    @property
    def threads(self) -> int:
        """How many threads a large product runs on."""
        return int(self.get_threads())

    @property
    def wide(self) -> bool:
        """Whether sizes have 64 bits."""
        return self.suffix == "64_"

    def address(self, name: str) -> int:
        """Where one of BLAS's functions is in this process; 0 where the library does not have it."""
        function = getattr(ctypes.CDLL(self.path), f"{self.prefix}{name}{self.suffix}", None)
        return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def openblas() -> OpenBLAS | None:
    """The OpenBLAS that NumPy loaded, or None where it uses another library."""
    np.dot(np.ones(1), np.ones(1))
    for path in _mapped_libraries():
        if "openblas" not in os.path.basename(path):
            continue
        library = ctypes.CDLL(path)
        for prefix, suffix in (
            ("scipy_openblas", "64_"),
            ("openblas", "64_"),
            ("scipy_openblas", ""),
            ("openblas", ""),
        ):
            functions = [
                getattr(library, f"{prefix}_{name}{suffix}", None)
                for name in ("get_corename", "get_num_threads", "set_num_threads")
            ]
            if None not in functions:
                core, get_threads, set_threads = functions
                core.restype = ctypes.c_char_p  # type: ignore[union-attr]
                named = (core() or b"").decode()  # type: ignore[misc]
                return OpenBLAS(path, named, get_threads, set_threads, prefix.removesuffix("openblas"), suffix)
    return None


def better_core() -> str | None:
    """The OPENBLAS_CORETYPE that would be faster than what OpenBLAS chose, or None where it chose well.

    OpenBLAS knows processors by model and gives a newer one its AVX2 kernels although it has AVX-512: large float32
    products then take 1.5 to 2.5 times as long.
    """
    used = openblas()
    if used is None or used.core in _AVX512_CORES or not processor_flags() >= _AVX512:
        return None
    return "SkylakeX"


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Run matrix products on ``n`` threads inside the block."""
    used = openblas()
    if used is None:
        yield
        return
    before = used.threads
    used.set_threads(n)
    try:
        yield
    finally:
        used.set_threads(before)


def usable_processors() -> int:
    """The processors this process may use: by its affinity, and by its container's quota (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def free_processors() -> int:
    """The usable processors that nobody else has kept busy in the last minute, at least one.

    Threads of one product wait for each other. Where another program takes the processor of one of them, all wait for
    the scheduler: on two busy cores two threads were measured to take three times as long as one.
    """
    usable = usable_processors()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, usable - round(busy)) if (os.cpu_count() or 1) == usable else usable


def _mapped_libraries() -> list[str]:
    """Paths of the shared libraries in this process; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[5] for line in lines if "/" in line and ".so" in line})


def processor_flags() -> set[str]:
    """Linux's names of what this processor has and programs may use; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
