"""NVIDIA's driver: libcuda. Names and numbers are those of cuda.h, for drivers of CUDA 12.0 and later.

Functions carry the version suffix of the signature that is meant: a library exports every version it ever had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib.errors import ArgumentError, UnsupportedError
from tensorlib.runtime.driver import Driver, Prepared

_MAX_DYNAMIC_SHARED_SIZE_BYTES, _NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 8, 14  # of a function
_COOPERATIVE, _CLUSTER_DIMENSION, _CLUSTER_SCHEDULING_POLICY, _PROGRAMMATIC_STREAM_SERIALIZATION = 2, 4, 5, 6
_SPREAD = 1  # the blocks of a cluster over the multiprocessors
_PORTABLE_CLUSTER = 8  # what every GPU with clusters takes; more must be allowed
_NOT_SUPPORTED = 801

#: CUtensorMapDataType by NumPy's name of a dtype; 8-bit floats are moved as bytes.
TENSOR_MAP_TYPES = {
    "uint8": 0, "int8": 0, "bool": 0, "float8_e4m3fn": 0, "float8_e5m2": 0, "uint16": 1, "int16": 1, "uint32": 2,
    "int32": 3, "uint64": 4, "int64": 5, "float16": 6, "float32": 7, "float64": 8, "bfloat16": 9,
}  # fmt: skip
#: Bytes of an element of a CUtensorMapDataType.
_ELEMENT_BYTES = (1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4)
#: CUtensorMapDataType by Triton's ``elem_type``, where its numbers differ.
_FROM_TRITON = {8: 10, 9: 8, 10: 9}
_PROMOTE_TO_128_BYTES = 2  # what the L2 cache fetches
_TENSOR_MAP_ALIGNMENT = 128  # of the memory that the driver writes a map to; 64 before CUDA 13


class CUDA(Driver):
    """libcuda.so.1."""

    kind = "cuda"
    label = "CUDA"
    VARIABLE = "TENSORLIB_CUDA_DRIVER"
    LIBRARIES = ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1")
    INSTALL = "NVIDIA's driver is not installed (or not mapped into this container: docker run --gpus all)"
    OLDEST = (12, 0)
    DECLARATIONS = """
        typedef uintptr_t place;
        typedef struct { char bytes[16]; } uuid;
        typedef union {
            char pad[64];
            int cooperative;
            struct { unsigned int x, y, z; } clusterDim;
            int clusterSchedulingPolicyPreference;
            int programmaticStreamSerializationAllowed;
        } CUlaunchAttributeValue;
        typedef struct { int id; char pad[4]; CUlaunchAttributeValue value; } CUlaunchAttribute;
        typedef struct {
            unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
            uintptr_t hStream;
            CUlaunchAttribute *attrs;
            unsigned int numAttrs;
        } CUlaunchConfig;
        typedef struct { int result; uintptr_t errorNode, errorFromNode; } CUgraphExecUpdateResultInfo;

        int cuGetErrorName(int, const char **);
        int cuGetErrorString(int, const char **);
        int cuDevicePrimaryCtxRetain(uintptr_t *, int);
        int cuFuncSetAttribute(uintptr_t, int, int);
        int cuLaunchKernelEx(const CUlaunchConfig *, void *, void **, void **);
        int cuGraphExecUpdate_v2(uintptr_t, uintptr_t, CUgraphExecUpdateResultInfo *);
        int cuTensorMapEncodeTiled(void *, int, unsigned int, uintptr_t, const uint64_t *, const uint64_t *,
                                   const uint32_t *, const uint32_t *, int, int, int, int);
    """
    NAMES: ClassVar[dict[str, str]] = {
        "init": "cuInit",
        "driver_version": "cuDriverGetVersion",
        "device_count": "cuDeviceGetCount",
        "device": "cuDeviceGet",
        "device_name": "cuDeviceGetName",
        "device_uuid": "cuDeviceGetUuid_v2",
        "device_memory": "cuDeviceTotalMem_v2",
        "device_attribute": "cuDeviceGetAttribute",
        "set_place": "cuCtxSetCurrent",
        "get_place": "cuCtxGetCurrent",
        "synchronize": "cuCtxSynchronize",
        "memory_info": "cuMemGetInfo_v2",
        "malloc": "cuMemAlloc_v2",
        "free": "cuMemFree_v2",
        "copy_to_device": "cuMemcpyHtoDAsync_v2",
        "copy_to_host": "cuMemcpyDtoHAsync_v2",
        "copy": "cuMemcpyDtoDAsync_v2",
        "copy_peer": "cuMemcpyPeerAsync",
        "fill": "cuMemsetD8Async",
        "can_access_peer": "cuDeviceCanAccessPeer",
        "enable_peer": "cuCtxEnablePeerAccess",
        "host_allocate": "cuMemHostAlloc",
        "host_free": "cuMemFreeHost",
        "host_register": "cuMemHostRegister_v2",
        "host_unregister": "cuMemHostUnregister",
        "stream_priority_range": "cuCtxGetStreamPriorityRange",
        "stream_create": "cuStreamCreateWithPriority",
        "stream_destroy": "cuStreamDestroy_v2",
        "stream_synchronize": "cuStreamSynchronize",
        "stream_query": "cuStreamQuery",
        "stream_wait_event": "cuStreamWaitEvent",
        "event_create": "cuEventCreate",
        "event_destroy": "cuEventDestroy_v2",
        "event_record": "cuEventRecord",
        "event_query": "cuEventQuery",
        "event_synchronize": "cuEventSynchronize",
        "event_elapsed": "cuEventElapsedTime",
        "module_load": "cuModuleLoadData",
        "module_unload": "cuModuleUnload",
        "module_function": "cuModuleGetFunction",
        "function_attribute": "cuFuncGetAttribute",
        "capture_begin": "cuStreamBeginCapture_v2",
        "capture_end": "cuStreamEndCapture",
        "capture_info": "cuStreamGetCaptureInfo_v2",
        "exchange_capture_mode": "cuThreadExchangeStreamCaptureMode",
        "graph_instantiate": "cuGraphInstantiateWithFlags",
        "graph_launch": "cuGraphLaunch",
        "graph_upload": "cuGraphUpload",
        "graph_destroy": "cuGraphDestroy",
        "graph_exec_destroy": "cuGraphExecDestroy",
        "graph_debug_dot": "cuGraphDebugDotPrint",
        "graph_nodes": "cuGraphGetNodes",
        # only here
        "error_name": "cuGetErrorName",
        "error_string": "cuGetErrorString",
        "retain": "cuDevicePrimaryCtxRetain",
        "set_function_attribute": "cuFuncSetAttribute",
        "launch": "cuLaunchKernelEx",
        "graph_update": "cuGraphExecUpdate_v2",
        "tensor_map": "cuTensorMapEncodeTiled",
    }
    ATTRIBUTES: ClassVar[dict[str, int]] = {
        "shared_memory_per_block": 8,
        "warp_size": 10,
        "clock_rate": 13,
        "multi_processor_count": 16,
        "is_integrated": 18,
        "pci_bus_id": 33,
        "pci_device_id": 34,
        "memory_clock_rate": 36,
        "memory_bus_width": 37,
        "L2_cache_size": 38,
        "max_threads_per_multi_processor": 39,
        "pci_domain_id": 50,
        "major": 75,
        "minor": 76,
        "shared_memory_per_multiprocessor": 81,
        "regs_per_multiprocessor": 82,
        "shared_memory_per_block_optin": 97,
    }
    #: What cuda.h says leaves the process in an inconsistent state, or the context unusable.
    STICKY = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 911})
    INIT_REMEDIES: ClassVar[dict[int, str]] = {
        34: "this is the stub for linking programs: put the driver's own libcuda.so.1 first in LD_LIBRARY_PATH",
        802: "the machine's NVSwitch is not ready: start nvidia-fabricmanager",
        803: "the driver's library and its kernel module are of two versions: restart the machine",
        804: "a compatibility library that this GPU does not support: install the driver itself",
        999: "see `nvidia-smi` and `dmesg`: the kernel module may not be loaded",
    }

    def __init__(self, path: str | None = None) -> None:
        self._contexts: dict[int, int] = {}
        super().__init__(path)

    def _hiding(self) -> tuple[str, ...]:
        return ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")

    def _version(self, number: int) -> tuple[int, int]:
        return number // 1000, number % 1000 // 10

    def _describe(self, status: int) -> tuple[str, str]:
        found = []
        for ask, unknown in ((self.api.error_name, "unknown error"), (self.api.error_string, "")):
            text = self.ffi.new("const char **")
            known = not ask(status, text) and text[0]
            found.append(self.ffi.string(text[0]).decode(errors="replace") if known else unknown)
        return found[0], found[1]

    def _architecture(self, index: int, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "gcnArchName": "", "target": f"sm_{values['major']}{values['minor']}"}

    def place_of(self, index: int) -> int:
        """The device's primary context, which every library of the process shares; kept until the process ends."""
        context = self._contexts.get(index)
        if context is None:
            with self._lock:
                context = self._contexts.get(index)
                if context is None:
                    device, found = self._device(index), self.ffi.new("uintptr_t *")
                    status = self.api.retain(found, device)
                    if status:
                        self.fail("retain", status, f"device {index}")
                    context = self._contexts[index] = found[0]
        return context

    def allow_shared(self, function: int, nbytes: int) -> None:
        """Let a function have so much dynamic shared memory: more than 48 KB need leave."""
        self._set(function, _MAX_DYNAMIC_SHARED_SIZE_BYTES, nbytes, f"{nbytes:,} bytes of shared memory")

    def _set(self, function: int, attribute: int, value: int, what: str) -> None:
        status = self.api.set_function_attribute(function, attribute, value)
        if status:
            self.fail("set_function_attribute", status, what)

    def prepare(
        self,
        function: int,
        block: int,
        shared: int,
        *,
        num_ctas: int = 1,
        cooperative: bool = False,
        pdl: bool = False,
    ) -> Prepared:
        """The launch of a function of the current device. See `Driver.prepare`.

        Always through cuLaunchKernelEx: to pack its configuration with the arguments and pass four pointers costs less
        than to pass eleven numbers.
        """
        ffi = self.ffi
        wanted: list[tuple[int, dict[str, Any]]] = []
        if pdl:
            wanted.append((_PROGRAMMATIC_STREAM_SERIALIZATION, {"programmaticStreamSerializationAllowed": 1}))
        if cooperative:
            wanted.append((_COOPERATIVE, {"cooperative": 1}))
        if num_ctas > 1:
            wanted.append((_CLUSTER_DIMENSION, {"clusterDim": (num_ctas, 1, 1)}))
            wanted.append((_CLUSTER_SCHEDULING_POLICY, {"clusterSchedulingPolicyPreference": _SPREAD}))
            if num_ctas > _PORTABLE_CLUSTER:
                self._set(function, _NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1, f"clusters of {num_ctas}")
        attributes = ffi.new("CUlaunchAttribute[]", [{"id": key, "value": value} for key, value in wanted])
        address = int(ffi.cast("uintptr_t", attributes)) if wanted else 0
        head = [  # a CUlaunchConfig
            ("I", f"x * {num_ctas}" if num_ctas > 1 else "x"), ("I", "y"), ("I", "z"), ("I", f"{block}"), ("I", "1"),
            ("I", "1"), ("I", f"{shared}"), ("4x", ""), ("Q", "stream"), ("Q", f"{address}"), ("I", f"{len(wanted)}"),
            ("4x", ""),
        ]  # fmt: skip
        scope = {"code": ffi.cast("void *", function), "attributes": attributes}
        arguments = "{head}, {p}code, {params}, {p}null"
        return Prepared(self, "launch", head, arguments, scope, (num_ctas, block, shared), "CUlaunchConfig *")

    def _grid_limit(self, gx: int, gy: int, gz: int, block: int) -> str:
        if gx >= 1 << 31 or max(gy, gz) >= 1 << 16:
            return "a grid has at most (2147483647, 65535, 65535) blocks"
        return "a block has at most 1024 threads" if block > 1024 else ""

    def _graph_update(self, executable: int, graph: int) -> int:
        return self.api.graph_update(executable, graph, self.ffi.new("CUgraphExecUpdateResultInfo *"))

    def tensor_map(
        self,
        *,
        ptr: int,
        dtype: Any,
        shape: Sequence[int],
        strides: Sequence[int],
        block: Sequence[int],
        swizzle: int,
        fill_nan: bool = False,
    ) -> bytes:
        """A tensor map for TMA, from sm_90: 128 bytes. See `Driver.tensor_map`."""
        triton = isinstance(dtype, int)
        kind = _FROM_TRITON.get(dtype, dtype) if triton else TENSOR_MAP_TYPES.get(_dtype_name(dtype), -1)
        rank, given = len(shape), f"tensor_map: shape {tuple(shape)}, strides {tuple(strides)}, block {tuple(block)}"
        if not 0 <= kind < len(_ELEMENT_BYTES):
            raise ArgumentError(f"tensor_map: dtype {dtype} cannot be moved by TMA")
        size = _ELEMENT_BYTES[kind]
        if not 1 <= rank <= 5 or len(strides) != rank or len(block) != rank:
            raise ArgumentError(f"{given}: expected one to five dimensions, the same number of each")
        if ptr % 16:
            raise ArgumentError(f"{given}: the address {ptr:#x} is not a multiple of 16, which TMA needs")
        if strides[-1] != 1 or any(s * size % 16 or not 0 <= s * size < 1 << 40 for s in strides[:-1]):
            raise ArgumentError(
                f"{given}: elements of {size} bytes: TMA needs a last stride of 1, and others that are multiples of "
                f"{16 // size if size < 16 else 1} elements and below 2^40 bytes"
            )
        if not all(1 <= n <= 1 << 32 for n in shape) or not all(1 <= b <= 256 for b in block):
            raise ArgumentError(f"{given}: TMA needs sizes of 1 to 2^32 and blocks of 1 to 256")
        ffi = self.ffi
        memory = ffi.new("char[]", 128 + _TENSOR_MAP_ALIGNMENT)
        start = -int(ffi.cast("uintptr_t", memory)) % _TENSOR_MAP_ALIGNMENT
        status = self.api.tensor_map(
            memory + start, kind, rank, ptr,
            ffi.new("uint64_t[]", list(shape[::-1])),
            ffi.new("uint64_t[]", [s * size for s in strides[-2::-1]] or 1),
            ffi.new("uint32_t[]", list(block[::-1])),
            ffi.new("uint32_t[]", [1] * rank),
            0, swizzle, _PROMOTE_TO_128_BYTES, int(fill_nan),
        )  # fmt: skip
        if status == _NOT_SUPPORTED:
            raise UnsupportedError(f"{given}: this GPU has no TMA, which came with sm_90")
        if status:
            self.fail("tensor_map", status, f"{given}, elements of {size} bytes, swizzle {swizzle}")
        return bytes(ffi.buffer(memory + start, 128))


def _dtype_name(dtype: Any) -> str:
    return str(getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype))
