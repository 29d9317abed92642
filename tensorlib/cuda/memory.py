"""Memory of a GPU: what the cache holds and gave out, and pools of its own for a part of a program."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tensorlib.cuda.devices import gpu_in_use, gpu_of, is_initialized
from tensorlib.errors import ArgumentError, OutOfMemoryError
from tensorlib.runtime.engine import gpus
from tensorlib.runtime.memory_report import picture

if TYPE_CHECKING:
    from tensorlib.runtime.gpu import GPU

__all__ = [
    "MemPool", "OutOfMemoryError", "caching_allocator_alloc", "caching_allocator_delete", "empty_cache",
    "get_allocator_backend", "get_per_process_memory_fraction", "host_memory_stats",
    "host_memory_stats_as_nested_dict", "max_memory_allocated", "max_memory_reserved", "mem_get_info",
    "memory_allocated", "memory_picture", "memory_reserved", "memory_snapshot", "memory_stats",
    "memory_stats_as_nested_dict", "memory_summary", "reset_accumulated_host_memory_stats",
    "reset_accumulated_memory_stats", "reset_peak_host_memory_stats", "reset_peak_memory_stats",
    "set_per_process_memory_fraction", "use_mem_pool",
]  # fmt: skip


def empty_cache() -> None:
    """Give the driver the memory that no tensor uses. What tensors hold stays."""
    for used in gpus().used():
        used.memory.empty_cache()


def memory_stats(device: Any = None) -> OrderedDict[str, Any]:
    """Counts of the allocator under PyTorch's names: ``allocated_bytes.all.current``, ``reserved_bytes.all.peak``, …

    Empty where the GPU was not used yet, and without one.
    """
    owner = gpu_in_use(device)
    return OrderedDict(sorted(owner.memory.stats().items())) if owner is not None else OrderedDict()


def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    """``memory_stats`` as dictionaries within dictionaries."""
    owner = gpu_in_use(device)
    return owner.memory.nested_stats() if owner is not None else {}


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors hold on the GPU; 0 without one."""
    owner = gpu_in_use(device)
    return owner.memory.allocated if owner is not None else 0


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors held on the GPU since ``reset_peak_memory_stats``; 0 without one."""
    owner = gpu_in_use(device)
    return owner.memory.max_allocated if owner is not None else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that the allocator has of the GPU; 0 without one."""
    owner = gpu_in_use(device)
    return owner.memory.reserved if owner is not None else 0


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that the allocator had of the GPU since ``reset_peak_memory_stats``; 0 without one."""
    owner = gpu_in_use(device)
    return owner.memory.max_reserved if owner is not None else 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """Start the peaks anew. DeviceError without a GPU."""
    gpu_of(device).memory.reset_peak()


def reset_accumulated_memory_stats(device: Any = None) -> None:
    """Start the sums of what was ever allocated and freed anew. DeviceError without a GPU."""
    gpu_of(device).memory.reset_accumulated()


def memory_snapshot(mempool_id: Any = None, include_traces: bool = True) -> list[dict[str, Any]]:
    """The segments that the allocator has of every GPU in use, each with its blocks. No traces are kept."""
    found: list[dict[str, Any]] = []
    for used in gpus().used():
        found += used.memory.snapshot()
    if mempool_id is not None:
        found = [segment for segment in found if segment["segment_pool_id"] == tuple(mempool_id)]
    return found


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """``memory_stats`` as a table to read. DeviceError without a GPU."""
    return gpu_of(device).memory.summary(abbreviated)


def memory_picture(path: Any = None) -> bytes:
    """``memory_snapshot`` as a picture, a PNG: each segment a bar, its blocks coloured by their state.

    Written to a file as well where a path is given.
    """
    image = picture(memory_snapshot())
    if path is not None:
        with open(path, "wb") as file:
            file.write(image)
    return image


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the GPU, whoever uses them. DeviceError without one."""
    owner = gpu_of(device)
    owner.activate()
    return owner.driver.memory_info()


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Let this process have at most a fraction of the GPU's memory: beyond it allocations are out of memory."""
    if not isinstance(fraction, float):
        raise TypeError("Invalid type for fraction argument, must be `float`")
    if not 0 <= fraction <= 1:
        raise ArgumentError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    owner = gpu_of(device)
    owner.memory.set_limit(fraction)


def get_per_process_memory_fraction(device: Any = None) -> float:
    """The fraction that ``set_per_process_memory_fraction`` set; 1 before."""
    return gpu_of(device).memory.fraction


def get_allocator_backend() -> str:
    """"native": the allocator is the library's own."""
    return "native"


_given: dict[int, Any] = {}  # addresses that caching_allocator_alloc gave out, and what keeps them


def caching_allocator_alloc(size: int, device: Any = None, stream: Any = None) -> int:
    """The address of ``size`` bytes of the cache for another library; ``caching_allocator_delete`` gives them back."""
    owner = gpu_of(device)
    handle = owner.stream if stream is None else getattr(stream, "cuda_stream", stream)
    if not isinstance(handle, int):
        raise TypeError(
            "Invalid type for stream argument, must be `tensorlib.cuda.Stream` or `int` representing a pointer to a "
            f"existing stream, got {type(stream).__name__}"
        )
    block = owner.memory.allocate(size, handle)
    _given[block.ptr] = block
    return int(block.ptr)


def caching_allocator_delete(mem_ptr: int) -> None:
    """Give back what ``caching_allocator_alloc`` gave. ArgumentError for another address."""
    if _given.pop(mem_ptr, None) is None:
        raise ArgumentError(f"invalid device pointer: {mem_ptr:#x} is none that caching_allocator_alloc gave")


_ids = itertools.count(1)


class MemPool:
    """Memory of its own for what is allocated within ``use_mem_pool``: no other allocation takes it."""

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        if allocator is not None or use_on_oom or no_split:
            raise ArgumentError(
                "MemPool: expected allocator=None, use_on_oom=False, no_split=False: the library has one allocator, "
                "which splits its blocks and keeps a pool for its users alone"
            )
        self.id = (1, next(_ids))
        self._users: list[GPU] = []

    def use_count(self) -> int:
        """How many GPUs it has memory of, and 1 for this object."""
        return 1 + len(self._users)

    def snapshot(self, include_traces: bool = True) -> list[dict[str, Any]]:
        """Its segments, as ``memory_snapshot`` gives them."""
        return memory_snapshot(self.id)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end what this needs may be gone
            for owner in self._users:
                owner.memory.release_pool(self.id)


@contextlib.contextmanager
def use_mem_pool(pool: MemPool, device: Any = None) -> Iterator[None]:
    """Within the block this thread's allocations on a GPU, the current one for None, are of the pool."""
    owner, me = gpu_of(device), threading.get_ident()
    owner.memory.begin_pool(pool.id, lambda stream: threading.get_ident() == me)
    try:
        yield
    finally:
        owner.memory.end_pool(pool.id)
        if any(owner is user for user in pool._users):
            owner.memory.release_pool(pool.id)  # counted once for each GPU: by the first block
        else:
            pool._users.append(owner)


# ---------------------------------------------------------------------------------------------- pinned host memory


def host_memory_stats() -> OrderedDict[str, Any]:
    """Counts of page-locked host memory under PyTorch's names; empty where none was asked for."""
    return OrderedDict(gpu_of(None).pinned.stats()) if is_initialized() else OrderedDict()


def host_memory_stats_as_nested_dict() -> dict[str, Any]:
    """``host_memory_stats`` as dictionaries within dictionaries."""
    return gpu_of(None).pinned.nested_stats() if is_initialized() else {}


def reset_peak_host_memory_stats() -> None:
    """Start the peaks of page-locked memory anew. DeviceError without a GPU."""
    gpu_of(None).pinned.reset_peak()


def reset_accumulated_host_memory_stats() -> None:
    """Start the sums of page-locked memory anew. DeviceError without a GPU."""
    gpu_of(None).pinned.reset_accumulated()
