"""What a device offers: memory and launches. One engine a device, found at its first use and kept on it.

``cpu`` has none: NumPy allocates and computes there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np

from tensorlib._device import device as Device
from tensorlib.runtime import abi, compiler, interpreter, memory
from tensorlib.runtime.compiler import Jit


class Engine(Protocol):
    """What every kind of device offers."""

    device: Device

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """Address of nbytes of uninitialised memory, and its owner."""

    def upload(self, data: np.ndarray) -> tuple[int, Any]:
        """Address and owner of new memory that holds a copy of data, a C-contiguous array."""

    def read(self, ptr: int, owner: Any, out: np.ndarray) -> None:
        """Copy ``out.nbytes`` bytes at ptr into out; they are there when it returns."""

    def write(self, ptr: int, owner: Any, data: np.ndarray) -> None:
        """Copy data, a C-contiguous array, to ptr; data may change when it returns."""

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
        """Run a kernel whose arguments and constants were checked."""


class Interpreter(memory.HostMemory):
    """Triton's interpreter over host memory."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def launch(
        self, kernel: Jit, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any], *_: Any
    ) -> None:
        """Run every program, one after another."""
        interpreter.run(kernel, grid, args, constants)


class CompileOnly(memory.NoMemory):
    """A target that is not there: a launch stops after the compiler and the comparison of the parameter block."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

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
        """Compile, and hold our packing to what the binary reads."""
        target = self.device.type
        keys = compiler.specialise_all(kernel, args, target)
        if compiler.collectors:
            for collector in compiler.collectors:
                collector(compiler.Request(kernel, keys, constants, target, num_warps, num_stages, options))
            return
        abi.check(compiler.compile_kernel(kernel, keys, constants, target, num_warps, num_stages, options))


class Meta(memory.NoMemory):
    """Nothing computes there: what a launch would write has no numbers."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def launch(self, kernel: Jit, grid: tuple[int, ...], args: tuple[Any, ...], *_: Any) -> None:
        """Nothing."""


#: Whether this process has used a device that keeps plans of operators: a GPU, or "native".
planning = [False]


@cache
def gpus() -> Any:
    """The module of GPUs, loaded when one is first asked for: it brings the drivers' bindings."""
    return importlib.import_module("tensorlib.runtime.gpu")


@cache
def native() -> Any:
    """The module of device "native", loaded when it is first asked for."""
    return importlib.import_module("tensorlib.runtime.native.engine")


@cache
def products() -> Any:
    """The module of products on the native engine's threads, loaded when it is first asked for."""
    return importlib.import_module("tensorlib.runtime.native.products")


@cache
def convolutions() -> Any:
    """The module of convolutions on the native engine's threads, loaded when it is first asked for."""
    return importlib.import_module("tensorlib.runtime.native.convolutions")


@cache
def maxima() -> Any:
    """The module of maxima of windows on the native engine's threads, loaded when it is first asked for."""
    return importlib.import_module("tensorlib.runtime.native.maxima")


@cache
def codegen() -> Any:
    """The module of the processor's compiler, loaded when it is first asked for."""
    return importlib.import_module("tensorlib.runtime.native.codegen")


def engine_of(device: Device) -> Engine:
    """The engine of a device: "cuda" without an index is the thread's current GPU.

    DeviceError where there is no such device, with the reason.
    """
    found: Engine | None = device.engine
    if found is None:
        if device.type in ("cuda", "hip"):
            engine: Engine = gpus().gpu(device)
            return engine
        if device.type == "native":
            found = native().Native(device)
        else:
            kinds: dict[str, Callable[[Device], Engine]] = {"meta": Meta, "interpret": Interpreter}
            found = kinds.get(device.type, CompileOnly)(device)
        device.engine = found
    return found


def resolve(device: Device) -> Device:
    """The device that arrays made on this one are on: "cuda" is "cuda:0" where that is the thread's current GPU."""
    if device.engine is not None or device.type not in ("cuda", "hip"):
        return device
    resolved: Device = gpus().resolve(device)
    return resolved
