"""GPUs, under PyTorch's name for them: of NVIDIA, and of AMD where those are the only ones.

Importing this loads no driver: the first question about a GPU does, and ``is_available`` answers it without an error.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tensorlib.cuda.devices import (
    can_device_access_peer,
    current_device,
    device,
    device_count,
    device_of,
    get_arch_list,
    get_device_capability,
    get_device_name,
    get_device_properties,
    get_gencode_flags,
    get_sync_debug_mode,
    init,
    ipc_collect,
    is_available,
    is_bf16_supported,
    is_initialized,
    is_tf32_supported,
    set_device,
    set_sync_debug_mode,
    synchronize,
)
from tensorlib.cuda.memory import (
    MemPool,
    OutOfMemoryError,
    caching_allocator_alloc,
    caching_allocator_delete,
    empty_cache,
    get_allocator_backend,
    get_per_process_memory_fraction,
    host_memory_stats,
    host_memory_stats_as_nested_dict,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_picture,
    memory_reserved,
    memory_snapshot,
    memory_stats,
    memory_stats_as_nested_dict,
    memory_summary,
    reset_accumulated_host_memory_stats,
    reset_accumulated_memory_stats,
    reset_peak_host_memory_stats,
    reset_peak_memory_stats,
    set_per_process_memory_fraction,
    use_mem_pool,
)
from tensorlib.cuda.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from tensorlib.errors import DriverError as CudaError
from tensorlib.random import default_generator

if TYPE_CHECKING:
    from tensorlib.cuda import amp, graphs, nvtx, streams
    from tensorlib.cuda.graphs import (
        CUDAGraph,
        graph,
        graph_pool_handle,
        is_current_stream_capturing,
        make_graphed_callables,
    )
    from tensorlib.cuda.streams import (
        Event,
        ExternalStream,
        Stream,
        StreamContext,
        current_stream,
        default_stream,
        get_stream_from_external,
        set_stream,
        stream,
    )

__all__ = [
    "CUDAGraph", "CudaError", "Event", "ExternalStream", "MemPool", "OutOfMemoryError", "Stream", "StreamContext",
    "amp", "caching_allocator_alloc", "caching_allocator_delete", "can_device_access_peer", "current_device",
    "current_stream", "default_stream", "device", "device_count", "device_of", "empty_cache",
    "get_allocator_backend", "get_arch_list", "get_device_capability", "get_device_name", "get_device_properties",
    "get_gencode_flags", "get_per_process_memory_fraction", "get_rng_state", "get_rng_state_all",
    "get_stream_from_external", "get_sync_debug_mode", "graph", "graph_pool_handle", "graphs", "host_memory_stats",
    "host_memory_stats_as_nested_dict", "init", "initial_seed", "ipc_collect", "is_available", "is_bf16_supported",
    "is_current_stream_capturing", "is_initialized", "is_tf32_supported", "make_graphed_callables", "manual_seed",
    "manual_seed_all", "max_memory_allocated", "max_memory_reserved", "mem_get_info", "memory_allocated",
    "memory_picture", "memory_reserved", "memory_snapshot", "memory_stats", "memory_stats_as_nested_dict",
    "memory_summary", "nvtx", "reset_accumulated_host_memory_stats", "reset_accumulated_memory_stats",
    "reset_peak_host_memory_stats", "reset_peak_memory_stats", "seed", "seed_all", "set_device",
    "set_per_process_memory_fraction", "set_rng_state", "set_rng_state_all", "set_stream", "set_sync_debug_mode",
    "stream", "streams", "synchronize", "use_mem_pool",
]  # fmt: skip

has_half = True

#: What loads when it is first named: it needs more than ``import tensorlib`` does.
_LATE = {
    "amp": ("amp",),
    "typed": ("BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "HalfTensor",
              "IntTensor", "LongTensor", "ShortTensor"),
    "nvtx": ("nvtx",),
    "graphs": ("graphs", "CUDAGraph", "graph", "graph_pool_handle", "is_current_stream_capturing",
               "make_graphed_callables"),
    "streams": ("streams", "Event", "ExternalStream", "Stream", "StreamContext", "current_stream", "default_stream",
                "get_stream_from_external", "set_stream", "stream"),
}  # fmt: skip
_HOME = {name: module for module, names in _LATE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Parts that load when they are first named, and ``default_generators``: the one stream, once for each GPU."""
    if name in _HOME:
        module = importlib.import_module(f"tensorlib.cuda.{_HOME[name]}")
        value = globals()[name] = module if name == _HOME[name] else getattr(module, name)
        return value
    if name == "default_generators":
        return (default_generator,) * device_count()
    raise AttributeError(f"module 'tensorlib.cuda' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
