"""Which GPUs there are, what they are, and which of them a thread uses."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from tensorlib._core import Tensor
from tensorlib._device import TARGETS
from tensorlib._device import device as Device
from tensorlib.errors import ArgumentError, DeviceError
from tensorlib.runtime.engine import gpus

if TYPE_CHECKING:
    from tensorlib.runtime.driver import Properties
    from tensorlib.runtime.gpu import GPU


def is_available() -> bool:
    """Whether a GPU can be used from this process. Never raises; the driver is looked for once."""
    return gpus().kind() is not None


def device_count() -> int:
    """How many GPUs can be used from this process."""
    count: int = gpus().device_count()
    return count


def is_initialized() -> bool:
    """Whether a GPU was used in this process."""
    return bool(gpus().used())


def init() -> None:
    """Prepare the current GPU now; without this its first use does. DeviceError, with the reason, without one."""
    gpu_of(None)


def index_of(device: Any, optional: bool = True) -> int:
    """The number of a GPU given as a number, a name or a device; the current one for None where ``optional``.

    ValueError for a device that is not a GPU, and for one without a number where that is not optional.
    """
    if isinstance(device, str):
        device = Device(device)
    if isinstance(device, Device):
        if device.type not in ("cuda", "hip"):
            raise ArgumentError(f"Expected a cuda device, but got: {device}")
        index = device.index
    else:
        if device is not None and (not isinstance(device, int) or isinstance(device, bool)):
            raise ArgumentError(f"Expected a tensorlib.device or an integer, but got: {device!r}")
        index = device
    if index is not None:
        return index
    if not optional:
        raise ArgumentError(
            f"Expected a tensorlib.device with a specified index or an integer, but got: {device if device else None}"
        )
    return current_device()


def gpu_of(device: Any) -> GPU:
    """The GPU of a number, a name or a device, the current one for None. DeviceError where it is not there."""
    if isinstance(device, Device) and device.type == "hip":
        return gpus().gpu(device)
    index = index_of(device)
    return gpus().gpu(Device("cuda", gpus().current_device() if index < 0 else index))


def gpu_in_use(device: Any) -> GPU | None:
    """The GPU of a number, a name or a device if this process has used it: asking does not prepare it."""
    if not gpus().used():
        return None
    return next((g for g in gpus().used() if g.device.type == "cuda" and g.index == index_of(device)), None)


def current_device() -> int:
    """The number of the GPU that "cuda" means in this thread. DeviceError without one."""
    if not is_available():
        gpus().resolve(Device("cuda"))  # says why there is none
    return gpus().current_device()


def set_device(device: Any) -> None:
    """Choose the GPU that "cuda" means in this thread; a negative number changes nothing. DeviceError without one."""
    index = index_of(device, optional=False)
    if index >= 0:
        gpus().set_device(index)


class device:
    """Another GPU for the block, given as a number, a name or a device; None and negative numbers change nothing."""

    def __init__(self, device: Any) -> None:
        self.idx = -1 if device is None else index_of(device)
        self.prev_idx = -1

    def __enter__(self) -> None:
        if self.idx >= 0:
            before = current_device()
            set_device(self.idx)
            self.prev_idx = before

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.prev_idx >= 0:
            set_device(self.prev_idx)
            self.prev_idx = -1


class device_of(device):
    """The GPU of a tensor for the block; a tensor on the CPU changes nothing."""

    def __init__(self, obj: Tensor) -> None:
        super().__init__(obj.get_device())  # type: ignore[attr-defined]


def get_device_properties(device: Any = None) -> Properties:
    """The GPU's properties: ``name``, ``major``, ``minor``, ``total_memory``, ``multi_processor_count`` and others."""
    return gpu_of(device).properties


def get_device_name(device: Any = None) -> str:
    """The GPU's name. DeviceError without one."""
    return gpu_of(device).properties.name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The GPU's compute capability: (9, 0) for Hopper. DeviceError without one."""
    properties = gpu_of(device).properties
    return properties.major, properties.minor


def get_arch_list() -> list[str]:
    """The targets that every kernel is checked for, of the vendor whose GPU is here; empty without one.

    Kernels are compiled for the GPU at hand when they are first used, so that others run as well.
    """
    if not is_available():
        return []
    return [target for target in TARGETS if target.startswith("gfx" if gpus().kind() == "hip" else "sm_")]


def get_gencode_flags() -> str:
    """``get_arch_list`` as flags of nvcc."""
    found = [arch.removeprefix("sm_") for arch in get_arch_list() if arch.startswith("sm_")]
    return " ".join(f"-gencode compute=compute_{arch},code=sm_{arch}" for arch in found)


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current GPU computes in bfloat16; False without one."""
    if not is_available():
        return False
    return gpus().kind() == "hip" or including_emulation or get_device_capability()[0] >= 8


def is_tf32_supported() -> bool:
    """Whether the current GPU's matrix units take float32 rounded to TF32; False without one."""
    if not is_available():
        return False
    if gpus().kind() == "hip":
        return get_device_properties().gcnArchName.startswith(("gfx94", "gfx95"))
    return get_device_capability()[0] >= 8


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """Whether one GPU can read and write the memory of another directly."""
    one, other = gpu_of(device), gpu_of(peer_device)
    if one is other:
        raise DeviceError("can_device_access_peer: got one device twice: expected two")
    return one.driver.can_access_peer(one.index, other.index)


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done everything it was given. DeviceError without one."""
    gpu_of(device).synchronize()


_SYNC_MODES = {"default": 0, "warn": 1, "error": 2, 0: 0, 1: 1, 2: 2}


def set_sync_debug_mode(debug_mode: int | str) -> None:
    """What is done when the host waits for a GPU to read from it or write to it: 0 or "default" nothing, 1 or "warn" a
    warning, 2 or "error" a DeviceError. Calls that are there to wait, as ``synchronize``, are not meant.
    """
    gpu_of(None)
    if debug_mode not in _SYNC_MODES:
        raise ArgumentError(
            f"invalid value of debug_mode, expected one of `default`, `warn`, `error`, got {debug_mode!r}"
        )
    gpus().sync_debug[0] = _SYNC_MODES[debug_mode]


def get_sync_debug_mode() -> int:
    """0, 1 or 2: see ``set_sync_debug_mode``."""
    gpu_of(None)
    return int(gpus().sync_debug[0])


def ipc_collect() -> None:
    """Free memory that other processes no longer use: none is shared with others. DeviceError without a GPU."""
    gpu_of(None)
