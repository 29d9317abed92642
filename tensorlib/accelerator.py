"""The GPU whatever its maker, as ``torch.accelerator`` has it: what ``tensorlib.cuda`` sees."""

from __future__ import annotations

import gc
import warnings
from collections import OrderedDict
from types import TracebackType
from typing import Any

from tensorlib import cuda
from tensorlib._device import device as Device
from tensorlib._dtypes import ALL, dtype
from tensorlib.cuda.devices import gpu_of
from tensorlib.cuda.graphs import CUDAGraph
from tensorlib.cuda.streams import Mark as Event
from tensorlib.cuda.streams import Queue as Stream
from tensorlib.errors import ArgumentError, DeviceError, OutOfMemoryError
from tensorlib.errors import DriverError as AcceleratorError
from tensorlib.runtime.engine import gpus

__all__ = [
    "AcceleratorError", "Event", "Graph", "OutOfMemoryError", "Stream", "current_accelerator", "current_device_idx",
    "current_device_index", "current_stream", "device_count", "device_index", "empty_cache", "empty_host_cache",
    "get_device_capability", "get_memory_info", "is_available", "max_memory_allocated", "max_memory_reserved",
    "memory_allocated", "memory_reserved", "memory_stats", "reset_accumulated_memory_stats", "reset_peak_memory_stats",
    "set_device_idx", "set_device_index", "set_stream", "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """Whether a GPU can be used from this process."""
    return cuda.is_available()


def device_count() -> int:
    """How many GPUs can be used from this process."""
    return cuda.device_count()


def current_accelerator(check_available: bool = False) -> Device | None:
    """``device("cuda")``, or None without a GPU."""
    return Device("cuda") if cuda.is_available() else None


def _need(what: str) -> None:
    if not cuda.is_available():
        raise DeviceError(
            f"accelerator.{what}: Cannot access accelerator device when none is available: "
            f"{'; '.join(gpus().why_not())}; use the CPU"
        )


def current_device_index() -> int:
    """The number of the GPU that "cuda" means in this thread. DeviceError without one."""
    _need("current_device_index")
    return cuda.current_device()


def current_device_idx() -> int:
    """``current_device_index`` under its older name."""
    warnings.warn("Use `current_device_index` instead.", FutureWarning, stacklevel=2)
    return current_device_index()


def set_device_index(device: Any, /) -> None:
    """Choose the GPU that "cuda" means in this thread; a negative number changes nothing. DeviceError without one."""
    _need("set_device_index")
    cuda.set_device(device)


def set_device_idx(device: Any, /) -> None:
    """``set_device_index`` under its older name."""
    warnings.warn("Use `set_device_index` instead.", FutureWarning, stacklevel=2)
    set_device_index(device)


class device_index:
    """Another GPU for the block; None changes nothing. DeviceError without a GPU."""

    def __init__(self, device: int | None, /) -> None:
        self.idx = device
        self.prev_idx: int | None = None

    def __enter__(self) -> None:
        if self.idx is not None:
            before = current_device_index()
            set_device_index(self.idx)
            self.prev_idx = before

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.prev_idx is not None:
            set_device_index(self.prev_idx)
            self.prev_idx = None


def get_device_capability(device: Any = None, /) -> dict[str, set[dtype]]:
    """``supported_dtypes``: the dtypes that tensors on a GPU can have. DeviceError without one."""
    _need("get_device_capability")
    gpu_of(device)
    return {"supported_dtypes": {kind for kind in ALL if not kind.is_complex}}


def current_stream(device: Any = None, /) -> Stream:
    """The stream that this thread's work on a GPU, the current one for None, goes to. DeviceError without one."""
    _need("current_stream")
    return cuda.current_stream(device)


def set_stream(stream: Stream) -> None:
    """Make a stream this thread's current one, and its GPU the current GPU. DeviceError without one."""
    _need("set_stream")
    cuda.set_stream(stream)


def synchronize(device: Any = None, /) -> None:
    """Wait until the GPU has done everything it was given. DeviceError without one."""
    _need("synchronize")
    cuda.synchronize(device)


def empty_cache() -> None:
    """Give the driver the memory that no tensor uses. DeviceError without a GPU."""
    _need("empty_cache")
    cuda.empty_cache()


def empty_host_cache() -> None:
    """Give the page-locked memory of the host that no tensor uses back. DeviceError without a GPU."""
    _need("empty_host_cache")
    for used in gpus().used():
        used.pinned.empty_cache()


def get_memory_info(device_index: Any = None, /) -> tuple[int, int]:
    """(free, total) bytes of the GPU, whoever uses them. DeviceError without one."""
    _need("get_memory_info")
    return cuda.mem_get_info(device_index)


def memory_stats(device_index: Any = None, /) -> OrderedDict[str, Any]:
    """Counts of the allocator under PyTorch's names. DeviceError without a GPU."""
    _need("memory_stats")
    return cuda.memory_stats(device_index)


def memory_allocated(device_index: Any = None, /) -> int:
    """Bytes that tensors hold on the GPU. DeviceError without one."""
    _need("memory_allocated")
    return cuda.memory_allocated(device_index)


def max_memory_allocated(device_index: Any = None, /) -> int:
    """The most bytes that tensors held on the GPU. DeviceError without one."""
    _need("max_memory_allocated")
    return cuda.max_memory_allocated(device_index)


def memory_reserved(device_index: Any = None, /) -> int:
    """Bytes that the allocator has of the GPU. DeviceError without one."""
    _need("memory_reserved")
    return cuda.memory_reserved(device_index)


def max_memory_reserved(device_index: Any = None, /) -> int:
    """The most bytes that the allocator had of the GPU. DeviceError without one."""
    _need("max_memory_reserved")
    return cuda.max_memory_reserved(device_index)


def reset_peak_memory_stats(device_index: Any = None, /) -> None:
    """Start the peaks anew. DeviceError without a GPU."""
    _need("reset_peak_memory_stats")
    cuda.reset_peak_memory_stats(device_index)


def reset_accumulated_memory_stats(device_index: Any = None, /) -> None:
    """Start the sums of what was ever allocated and freed anew. DeviceError without a GPU."""
    _need("reset_accumulated_memory_stats")
    cuda.reset_accumulated_memory_stats(device_index)


class Graph(CUDAGraph):
    """Recorded GPU work that is done again by ``replay``: ``with stream, graph: ...`` records on that stream.

    keep_graph, and pool and capture_error_mode: as for ``cuda.CUDAGraph`` and its ``capture_begin``. DeviceError
    without a GPU.
    """

    def __init__(
        self, keep_graph: bool = False, *, pool: tuple[int, int] | None = None, capture_error_mode: str = "default"
    ) -> None:
        _need("Graph")
        if capture_error_mode not in ("default", "global", "thread_local", "relaxed"):
            raise ArgumentError(
                f"Graph: capture_error_mode={capture_error_mode!r}: expected 'default', 'global', 'thread_local' or "
                f"'relaxed'"
            )
        super().__init__(keep_graph)
        self.graph_pool, self.capture_error_mode = pool, capture_error_mode

    def capture_begin(self) -> None:  # type: ignore[override]
        """Record this thread's work on the current stream from now on."""
        mode = "global" if self.capture_error_mode == "default" else self.capture_error_mode
        super().capture_begin(self.graph_pool, mode)

    def debug_dump(self, path: str) -> None:
        """Write the recording to a file in Graphviz's format; ``enable_debug_mode`` comes before the capture."""
        super().debug_dump(path)

    def __enter__(self) -> None:
        synchronize()
        gc.collect()
        empty_cache()
        self.capture_begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.capture_end()
        else:
            self._abandon()
