"""`tensorlib doctor`: what this machine offers, what is in use, and what to do about the difference."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorlib as tl
from tensorlib import _blas, _lapack, _malloc
from tensorlib import _native as _engine
from tensorlib.errors import ArgumentError, DeviceError
from tensorlib.report import checkout, last_run
from tensorlib.runtime import cache, versions
from tensorlib.runtime.engine import gpus
from tensorlib.runtime.environment import EnvironmentVariableError
from tensorlib.runtime.native import codegen, gemm, machine, settings

_COLUMN = 12


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
    yield f"{'native':<{_COLUMN}}{_told(_native)}"
    yield f"{'kernels':<{_COLUMN}}{_told(_kernels)}"
    for target in dict.fromkeys(_targets()):
        yield f"{'ptxas':<{_COLUMN}}{_ptxas(target)}"
    for i, line in enumerate(_devices()):
        yield f"{'' if i else 'devices':<{_COLUMN}}{line}"
    yield f"{'GPU tests':<{_COLUMN}}{last_run(checkout())}"
    yield ""
    yield from list(_advice()) or ["Nothing to do: everything is as it should be."]


def _told(line: Callable[[], str]) -> str:
    """A line of the report, or the error that takes its place: an environment variable may say what cannot be."""
    try:
        return line()
    except (ArgumentError, DeviceError) as error:
        return str(error).removeprefix("native: ")


def _variables() -> Iterator[str]:
    """What is wrong with the environment."""
    reads: tuple[Callable[[], object], ...] = (
        _engine.asked, settings.guarded, cache.folder, cache.limit, lambda: machine.refuse_other(machine.features()),
    )  # fmt: skip
    for read in reads if codegen.available() else reads[:-1]:
        try:
            read()
        except (EnvironmentVariableError, DeviceError) as error:
            yield f"{error}."
    given = os.environ.get("OMP_NUM_THREADS")
    if given and settings.given_threads() is None:
        yield (
            f"OMP_NUM_THREADS={given} is not a number of threads and is ignored: "
            f"set OMP_NUM_THREADS={_blas.usable_processors()}, or unset it."
        )


def _kernels() -> str:
    """Where compiled kernels are kept."""
    folder = cache.folder()
    if folder is None:
        return "not kept between runs (TENSORLIB_CACHE, or there is no home folder)"
    if not cache.writable():
        return f"{folder}: it cannot be written, so that every process compiles anew what is not there"
    count, nbytes = cache.usage()
    return f"{folder}: {count} compiled, {nbytes / 2**20:.1f} MiB"


def _native() -> str:
    """What kernels on device "native" are compiled for."""
    if not codegen.available():
        return f"not available: kernels as machine code of the processor need {codegen.requirement()}"
    made_for = machine.features()
    machine.refuse_other(made_for)
    off = "" if _engine.asked() else ", operators of the CPU by NumPy alone (TENSORLIB_NATIVE)"
    bits, own = 32 * made_for.lanes, "own matrix products, " if gemm.suits(made_for) else ""
    return (
        f"{codegen.version()}: {made_for.architecture} {made_for.cpu}, vectors of {bits} bits, {own}"
        f"{settings.get_num_threads()} threads{', every access checked' if settings.guarded() else ''}{off}"
    )


def _targets() -> Iterator[str]:
    for i in range(tl.cuda.device_count()):
        yield gpus().drivers()[gpus().kind()].properties(i).target


def _ptxas(target: str) -> str:
    """The version of the assembler that Triton runs for a target."""
    if target.startswith("gfx"):
        return f"none for {target}: AMD's assembler is part of Triton"
    path = versions.assembler(target)
    if path is None or not Path(path).exists():
        return f"none for {target}: Triton brings no ptxas: reinstall triton, or set TRITON_PTXAS_PATH"
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} for {target} does not run: {error}"
    found = re.search(r"release \S+ V?(\S+)|V(\d[\d.]*)", said)
    number = next((g for g in found.groups() if g), "?") if found else "?"
    return f"{number.removeprefix('V')} for {target} ({path})"


def _devices() -> Iterator[str]:
    """A line for each GPU; where there is none, one for each vendor that says why."""
    kind = gpus().kind()
    if kind is None:
        yield "no GPU can be used; everything runs on the CPU with NumPy"
        yield from gpus().why_not()
    for i in range(tl.cuda.device_count()):
        driver = gpus().drivers()[kind]
        p = driver.properties(i)
        version = ".".join(map(str, driver.version))
        yield (
            f"cuda:{i} {p.name}, {p.target}, {p.total_memory / 2**30:.1f} GiB, {p.multi_processor_count} "
            f"multiprocessors, {driver.label} driver {version}"
        )


#: Vendor -> its number on the PCI bus, its device files, and what a user needs to open them.
_FILES = {
    "CUDA": ("NVIDIA", "0x10de", ("dev/nvidia[0-9]*", "dev/nvidiactl"), "give the user read and write access to them"),
    "HIP": ("AMD", "0x1002", ("dev/kfd", "dev/dri/renderD*"), "add the user to the groups render and video"),
}


def hint(label: str, root: Path = Path("/")) -> str:
    """What the device files and the PCI bus say of a vendor's GPUs that cannot be used; "" where there are none."""
    maker, vendor, patterns, remedy = _FILES[label]
    files = sorted(path for pattern in patterns for path in root.glob(pattern))
    closed = [path for path in files if not os.access(path, os.R_OK | os.W_OK)]
    cards = 0
    for place in root.glob("sys/bus/pci/devices/*/vendor"):
        try:
            display = (place.parent / "class").read_text().startswith(("0x03", "0x12"))  # display and accelerator
            cards += display and place.read_text().strip() == vendor
        except OSError:
            continue
    if closed:
        return f"{', '.join(map(str, closed))} may not be opened by this user: {remedy}"
    if label == "HIP" and not any(path.name == "kfd" for path in files):
        files = []  # other graphics cards have files in dev/dri too
    if files:
        return f"{', '.join(map(str, files))} {'are' if len(files) > 1 else 'is'} there: what lacks is the library"
    if cards:
        there = f"there {'are' if cards > 1 else 'is'} {cards} {maker} card{'s' * (cards > 1)} in the machine"
        return f"{there}: install the driver"
    return ""


def _advice() -> Iterator[str]:
    yield from _variables()
    with contextlib.suppress(EnvironmentVariableError):  # told above
        folder = cache.folder()
        if folder is not None and not cache.writable():
            yield (
                f"Compiled kernels cannot be kept: {folder} cannot be written. Set TENSORLIB_CACHE_DIR to a folder "
                f"that can be, or TENSORLIB_CACHE=0 to do without."
            )
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
    if gpus().kind() is None:
        for label, (maker, *_) in _FILES.items():
            found = hint(label)
            if found:
                yield f"{maker}'s GPUs cannot be used (see above): {found}."
    elif versions.installed() is None:
        yield "The GPU needs the package triton: pip install triton."
    for i in range(tl.cuda.device_count()):
        try:
            tl.zeros(1, device=f"cuda:{i}")
        except DeviceError as error:
            yield f"cuda:{i} is there and does not work: {' '.join(str(error).split())}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
