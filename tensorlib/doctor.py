"""`tensorlib doctor`: what this machine offers, what is in use, and what to do about the difference."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

import tensorlib as tl
from tensorlib import _blas, _lapack, _malloc


def report() -> Iterator[str]:
    """The lines that `tensorlib doctor` prints."""
    yield f"tensorlib   {tl.__version__}"
    yield f"python      {platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    for name in ("numpy", "triton", "ml_dtypes", "cffi"):
        yield f"{name:<12}{_version(name)}"
    used = _blas.openblas()
    yield f"BLAS        OpenBLAS, {used.core} kernels, {used.threads} threads" if used else "BLAS        not OpenBLAS"
    direct = _lapack.library()
    yield f"LAPACK      {'called directly' if direct else 'not found: factorisations in NumPy, several times slower'}"
    yield f"processors  {_blas.usable_processors()} usable"
    yield f"malloc      {_malloc.status}"
    devices = [f"cuda:{i}" for i in range(tl.cuda.device_count())]
    for line in devices or ["no GPU found; everything runs on the CPU with NumPy"]:
        yield f"{'devices':<12}{line}"
    yield ""
    yield from list(_advice()) or ["Nothing to do: everything is as it should be."]


def _advice() -> Iterator[str]:
    used, core, processors = _blas.openblas(), _blas.better_core(), _blas.usable_processors()
    if used is not None and core is not None:
        yield (
            f"OpenBLAS chose its {used.core} kernels on a processor with AVX-512. Set OPENBLAS_CORETYPE={core} before "
            f"Python starts for faster matrix products; `tensorlib train` does so for itself."
        )
    if used is not None and used.threads > processors:
        yield (
            f"OpenBLAS runs {used.threads} threads on {processors} usable processors, which slows it down: "
            f"set OPENBLAS_NUM_THREADS={processors}; `tensorlib train` does so for itself."
        )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
