"""`tensorlib doctor`: what this machine offers, what is in use, and what to do about the difference."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tensorlib as tl
from tensorlib import _malloc

#: What OpenBLAS' SkylakeX kernels need of the processor.
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
#: The names OpenBLAS gives to kernels that use AVX-512.
_AVX512_CORES = {"SkylakeX", "Cooperlake", "Sapphirerapids"}


class Blas(NamedTuple):
    """The BLAS library NumPy loaded: the kernels it chose for this processor, and its threads."""

    path: str
    core: str
    threads: int


def blas() -> Blas | None:
    """The OpenBLAS in this process, or None where NumPy uses another one."""
    np.dot(np.ones(1), np.ones(1))
    for path in _mapped_libraries():
        if "openblas" not in os.path.basename(path):
            continue
        library = ctypes.CDLL(path)
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                name = getattr(library, f"{prefix}_get_corename{suffix}", None)
                threads = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                if name is not None and threads is not None:
                    name.restype = ctypes.c_char_p
                    return Blas(path, (name() or b"").decode(), threads())
    return None


def better_core() -> str | None:
    """The OPENBLAS_CORETYPE that would be faster than what OpenBLAS chose, or None where it chose well.

    OpenBLAS knows processors by model and gives a newer one its oldest AVX2 kernels, although it has AVX-512: large
    matrix products then take 1.5 to 2.5 times as long.
    """
    used = blas()
    if used is None or used.core in _AVX512_CORES or not _processor_flags() >= _AVX512:
        return None
    return "SkylakeX"


def report() -> Iterator[str]:
    """The lines that `tensorlib doctor` prints."""
    yield f"tensorlib   {tl.__version__}"
    yield f"python      {platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    for name in ("numpy", "triton", "ml_dtypes", "cffi"):
        yield f"{name:<12}{_version(name)}"
    used = blas()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"BLAS        OpenBLAS, {used.core} kernels, {used.threads} threads" if used else "BLAS        not OpenBLAS"
    yield f"processors  {cores} usable"
    yield f"malloc      {_malloc.status}"
    devices = [f"cuda:{i}" for i in range(tl.cuda.device_count())]
    for line in devices or ["no GPU found; everything runs on the CPU with NumPy"]:
        yield f"{'devices':<12}{line}"
    advice = list(_advice(used, cores))
    yield ""
    yield from advice or ["Nothing to do: everything is as it should be."]


def _advice(used: Blas | None, cores: int | None) -> Iterator[str]:
    core = better_core()
    if core is not None and used is not None:
        yield (
            f"OpenBLAS chose its {used.core} kernels on a processor with AVX-512. Set OPENBLAS_CORETYPE={core} before "
            f"Python starts for faster matrix products; `tensorlib train` does so for itself."
        )
    if used is not None and cores and used.threads > cores:
        yield (
            f"OpenBLAS runs {used.threads} threads on {cores} usable processors, which slows it down: "
            f"set OPENBLAS_NUM_THREADS={cores}."
        )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _mapped_libraries() -> list[str]:
    """Paths of the shared libraries in this process; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[5] for line in lines if line.count("/") and ".so" in line})


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
