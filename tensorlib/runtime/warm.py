"""``kernel.warmup(..., grid=...)``: a kernel compiled for such arguments, and what programs ask of the result.

They ask for registers and shared memory, to choose a grid that fills a GPU: on one these are the driver's numbers. On
the processor a program has a thread to itself, and no shared memory; what it has of its own there counts as such, and
at least a byte, so that the same arithmetic comes out at a grid of one program or more.
"""

from __future__ import annotations

import functools
import platform
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _dtypes
from tensorlib._device import device as Device
from tensorlib.errors import KernelError
from tensorlib.runtime import compiler, launch
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.engine import codegen, engine_of, gpus, native


class Target(NamedTuple):
    """What kernels are compiled for, as Triton's GPUTarget: ("cuda", 90, 32), ("hip", "gfx942", 64).

    The processor is ("native", "x86_64", 1) or ("interpret", "x86_64", 1): the backend is the name of a device as well,
    which programs make tensors on.
    """

    backend: str
    arch: Any
    warp_size: int

    def is_cuda_backend(self) -> bool:
        """Whether it is one of NVIDIA's GPUs."""
        return self.backend == "cuda"


def target_of(device: Device) -> Target:
    """What kernels of a device are compiled for."""
    if device.type in ("native", "interpret"):
        return Target(device.type, platform.machine(), 1)
    name = _gpu_target(device)
    if name.startswith("sm_"):
        return Target("cuda", int(name[3:]), 32)
    return Target("hip", name, 64 if name.startswith("gfx9") else 32)


def _gpu_target(device: Device) -> str:
    return device.type if device.compile_only else str(gpus().gpu(device).target)


def active_device() -> Device:
    """The GPU that this thread uses; without one ``native``, and without a compiler for it ``interpret``."""
    if gpus().kind() is not None:
        return Device(gpus().kind(), gpus().current_device())
    return Device("native" if codegen().available() else "interpret")


class Metadata(NamedTuple):
    """What was asked for, and what the compiler made of it."""

    name: str
    target: Target
    shared: int  #: bytes; at least 1 on the processor
    num_warps: int
    num_stages: int
    num_ctas: int
    warp_size: int
    global_scratch_size: int
    global_scratch_align: int


class _Call(NamedTuple):
    """What a launch by name asks for."""

    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    options: dict[str, Any] | None


def _call(kernel: Jit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
    order = launch._order(kernel, len(args), kwargs)
    values = {name: launch._plain(args[at] if type(at) is int else kwargs[at]) for name, at in order.given}
    values.update(order.defaults)
    options = {name: kwargs[name] for name in order.options if kwargs[name] is not None}
    warps, stages = options.pop("num_warps", 4), options.pop("num_stages", 2)
    arguments = tuple([values[name] for name in order.arguments])
    return _Call(arguments, {name: values[name] for name in order.constants}, warps, stages, options or None)


def warmup(kernel: Jit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Warm:
    """Compile a kernel for the arguments of a launch by name; a dtype stands for a tensor of it at an even address.

    The device is the tensors', or `active_device` where there are dtypes only. KernelError as a launch raises it.
    """
    call = _call(kernel, args, kwargs)
    stands = [_standing(v) for v in call.arguments]
    arrays = [array for _, array in launch._arrays(kernel.arguments, call.arguments)]
    device: Device = arrays[0].device if arrays else active_device()
    rest = tuple([None if s else v for s, v in zip(stands, call.arguments, strict=True)])
    launch._bind(kernel, rest, call.constants)
    keys = compiler.specialise_all(kernel, rest, device.type if device.compile_only else _key_target(device))
    keys = tuple([s or key for s, key in zip(stands, keys, strict=True)])
    return Warm(kernel, device, keys, call)


def _standing(value: Any) -> str | None:
    """The key of a tensor that a dtype, or Triton's MockTensor of one, stands for."""
    if type(value).__name__ == "MockTensor":
        value = value.dtype
    if isinstance(value, _dtypes.dtype):
        value = value.numpy
    return f"*{compiler.TYPES[value]} 16" if isinstance(value, np.dtype) and value in compiler.TYPES else None


def _key_target(device: Device) -> str:
    return device.type if device.type in ("native", "interpret") else _gpu_target(device)


class Warm:
    """A kernel that was compiled: ``warm[grid](...)`` launches it; ``n_regs``, ``metadata`` and ``asm`` tell of it."""

    def __init__(self, kernel: Jit, device: Device, keys: tuple[Any, ...], call: _Call) -> None:
        self.kernel, self.device, self.keys = kernel, device, keys
        self._call = call
        target = target_of(device)
        name, shared, warps, ctas, scratch, align = kernel.__name__, 1, call.num_warps, 1, 0, 1
        if device.type == "native":
            shared = max(1, native().compile_kernel(kernel, keys, call.constants).program.scratch)
        elif device.type != "interpret":
            made = self._binary
            name, shared, warps, ctas = made.name, made.shared, made.block_warps, made.num_ctas
            scratch, align = made.global_scratch_size, made.global_scratch_align
        self.name = name
        self.metadata = Metadata(name, target, shared, warps, call.num_stages, ctas, target.warp_size, scratch, align)

    def __repr__(self) -> str:
        return f"<{self.kernel.__name__} compiled for {self.device}>"

    @property
    def _binary(self) -> compiler.Compiled:
        call = self._call
        return compiler.compile_kernel(
            self.kernel, self.keys, call.constants, _gpu_target(self.device), call.num_warps, call.num_stages,
            call.options,
        )  # fmt: skip

    @functools.cached_property
    def asm(self) -> dict[str, Any]:
        """The text of the stages of its compilation: "ttir", and "llir" or those of a GPU's compiler."""
        if self.device.type == "native":
            lowered = native().lowered_kernel(self.kernel, self.keys, self._call.constants)
            ttir = compiler.front_end(self.kernel, self.keys, self._call.constants, {})
            return {"ttir": ttir, "llir": lowered.text}
        if self.device.type == "interpret":
            return {}
        return self._binary.asm

    @functools.cached_property
    def _attributes(self) -> dict[str, int]:
        """The driver's numbers of the binary, once it is on the GPU."""
        if self.device.type in ("native", "interpret"):
            wide = self.device.type == "native" and native().machine.features().lanes == 16
            return {"registers": 32 if wide else 16, "local": 0, "max_threads": 1}
        if self.device.compile_only:
            raise KernelError(
                f"{self.kernel.__name__}: registers are known to a GPU's driver, and {self.device} is a target to "
                f"compile for: run it on 'cuda', or read .asm"
            )
        gpu: Any = engine_of(self.device)
        call = self._call
        found = gpu.launchers.load(
            self.kernel, self.keys, call.constants, call.num_warps, call.num_stages, call.options
        )
        attributes: dict[str, int] = gpu.driver.function_attributes(found.function)
        return attributes

    @property
    def n_regs(self) -> int:
        """Registers of a thread; of the processor the vector registers that it has."""
        return self._attributes["registers"]

    @property
    def n_spills(self) -> int:
        """32-bit words of a thread that did not fit in its registers; 0 on the processor."""
        return self._attributes["local"] // 4

    @property
    def n_max_threads(self) -> int:
        """Threads that a block may have."""
        return self._attributes["max_threads"]

    def _init_handles(self) -> None:
        """Nothing: Triton's has to be asked to load its binary before n_regs is there."""

    def __getitem__(self, grid: Any) -> Any:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: Any, *args: Any) -> None:
        """With every parameter of the kernel by position; constants may be left out, and are what they were."""
        kernel, call = self.kernel, self._call
        if len(args) == len(kernel.parameters):
            args = tuple([a for a, p in zip(args, kernel.parameters, strict=True) if not p.constexpr])
        arguments = tuple([launch._plain(a) for a in args])
        launch._launch(kernel, grid, arguments, dict(call.constants), call.num_warps, call.num_stages, call.options)
