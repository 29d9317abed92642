"""What programs ask Triton's active driver: which device there is, what it is compiled for and how large it is."""

from __future__ import annotations

import importlib
from typing import Any

from tensorlib import _tensor
from tensorlib._device import device as Device
from tensorlib.errors import DeviceError
from tensorlib.runtime import warm
from tensorlib.runtime.engine import gpus
from tensorlib.runtime.native import settings

_CACHE = 2 << 20  # bytes of a core's second-level cache, about: what a program of the processor has at hand
_REGISTERS = 1 << 16  # of a multiprocessor, every GPU's number: the processor's programs wait for none


class Driver:
    """``triton.runtime.driver.active``: of a GPU, or of the processor where there is none.

    The device is `tensorlib.set_default_device`'s, or without it the GPU in use, ``native`` or ``interpret``.
    """

    def get_active_torch_device(self) -> Device:
        """The device that a program's tensors belong on."""
        chosen = _tensor.get_default_device()
        return warm.active_device() if chosen.type == "cpu" else chosen

    def get_current_target(self) -> warm.Target:
        """What its kernels are compiled for: backend "cuda", "hip", "native" or "interpret", arch, warp_size."""
        return warm.target_of(self.get_active_torch_device())

    def get_current_device(self) -> int:
        """Its number; 0 for the processor."""
        return self.get_active_torch_device().index or 0

    def set_current_device(self, device: int) -> None:
        """Make another GPU this thread's. DeviceError where there is none of that number."""
        if gpus().kind() is not None or device:
            gpus().set_device(device)

    def get_current_stream(self, device: Any = None) -> int:
        """The handle of the stream that this thread launches on; 0 for the processor."""
        chosen = self._device(device)
        return int(gpus().gpu(chosen).stream) if chosen.type in ("cuda", "hip") else 0

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        """(9, 0) for Hopper. DeviceError for the processor."""
        properties = gpus().gpu(self._gpu(device)).properties
        return properties.major, properties.minor

    def get_device_interface(self) -> Any:
        """`tensorlib.cuda`, or `tensorlib.cpu` for the processor."""
        name = "cuda" if self.get_active_torch_device().type in ("cuda", "hip") else "cpu"
        return importlib.import_module(f"tensorlib.{name}")

    def get_benchmarker(self) -> Any:
        """`triton.testing.do_bench`."""
        return importlib.import_module("tensorlib.triton.testing").do_bench

    @property
    def utils(self) -> Utils:
        """Queries of devices."""
        return Utils(self)

    def _device(self, index: Any) -> Device:
        active = self.get_active_torch_device()
        if index is None or active.type not in ("cuda", "hip"):
            return active
        return Device(active.type, index if isinstance(index, int) else Device(index).index)

    def _gpu(self, index: Any) -> Device:
        found = self._device(index)
        if found.type not in ("cuda", "hip"):
            raise DeviceError(
                f"a compute capability is a GPU's, and kernels run on {str(found)!r} here: ask "
                f"triton.runtime.driver.active.get_current_target().backend first"
            )
        return found


class Utils:
    """``triton.runtime.driver.active.utils``."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def get_device_properties(self, device: Any = None) -> dict[str, Any]:
        """A GPU's under Triton's names; of the processor ``multiprocessor_count`` is the number of its threads."""
        found = self._driver._device(device)
        if found.type not in ("cuda", "hip"):
            return {
                "max_shared_mem": _CACHE,
                "max_num_regs": _REGISTERS,
                "multiprocessor_count": settings.get_num_threads(),
                "warpSize": 1,
                "max_threads_per_sm": 1,
                "arch": found.type,
                "sm_clock_rate": 0,
                "mem_clock_rate": 0,
                "mem_bus_width": 0,
            }
        of: Any = gpus().gpu(found).properties
        return {
            "max_shared_mem": of.shared_memory_per_block_optin,
            "max_num_regs": of.regs_per_multiprocessor,
            "multiprocessor_count": of.multi_processor_count,
            "warpSize": of.warp_size,
            "max_threads_per_sm": of.max_threads_per_multi_processor,
            "arch": of.target if of.target.startswith("gfx") else of.major * 10 + of.minor,
            "sm_clock_rate": of.clock_rate,
            "mem_clock_rate": of.memory_clock_rate,
            "mem_bus_width": of.memory_bus_width,
        }


class DriverConfig:
    """``triton.runtime.driver``."""

    active = default = Driver()
