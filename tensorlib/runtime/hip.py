"""AMD's driver: libamdhip64, ROCm's HIP runtime. Names and numbers are those of hip_runtime_api.h, from ROCm 5.2 on.

The structure of a device's properties differs between versions, so that all but the architecture's name comes from
attributes, whose numbers have stayed the same.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from tensorlib.errors import DriverError, UnsupportedError
from tensorlib.runtime.driver import Driver, Prepared

#: Where gcnArchName lies in hipDeviceProp_t, and its size: of hipGetDevicePropertiesR0600, and of the function before.
ARCHITECTURE_R0600, PROPERTIES_R0600 = 1160, 1472
ARCHITECTURE_R0000, PROPERTIES_R0000 = 396, 792
#: An AMD GPU gives a block all the local memory it has; older runtimes know no such attribute and say 0.
_LOCAL_MEMORY = 64 << 10
_LAUNCH_FAILURE = 719


class HIP(Driver):
    """libamdhip64.so."""

    kind = "hip"
    label = "HIP"
    VARIABLE = "TENSORLIB_HIP_DRIVER"
    LIBRARIES = ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so")
    INSTALL = (
        "ROCm is not installed (or not mapped into this container: docker run --device /dev/kfd --device /dev/dri)"
    )
    OLDEST = (5, 2)
    DECLARATIONS = """
        typedef int place;
        typedef struct { char bytes[16]; } uuid;

        const char *hipGetErrorName(int);
        const char *hipGetErrorString(int);
        int hipGetDeviceProperties(void *, int);
        int hipGetDevicePropertiesR0600(void *, int);
        int hipModuleLaunchKernel(void *, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
                                  unsigned int, unsigned int, uintptr_t, void **, void **);
        int hipModuleLaunchCooperativeKernel(void *, unsigned int, unsigned int, unsigned int, unsigned int,
                                             unsigned int, unsigned int, unsigned int, uintptr_t, void **);
        int hipGraphExecUpdate(uintptr_t, uintptr_t, uintptr_t *, int *);
    """
    NAMES: ClassVar[dict[str, str]] = {
        "init": "hipInit",
        "driver_version": "hipRuntimeGetVersion",
        "device_count": "hipGetDeviceCount",
        "device": "hipDeviceGet",
        "device_name": "hipDeviceGetName",
        "device_uuid": "hipDeviceGetUuid",
        "device_memory": "hipDeviceTotalMem",
        "device_attribute": "hipDeviceGetAttribute",
        "set_place": "hipSetDevice",
        "get_place": "hipGetDevice",
        "synchronize": "hipDeviceSynchronize",
        "memory_info": "hipMemGetInfo",
        "malloc": "hipMalloc",
        "free": "hipFree",
        "copy_to_device": "hipMemcpyHtoDAsync",
        "copy_to_host": "hipMemcpyDtoHAsync",
        "copy": "hipMemcpyDtoDAsync",
        "copy_peer": "hipMemcpyPeerAsync",
        "fill": "hipMemsetD8Async",
        "can_access_peer": "hipDeviceCanAccessPeer",
        "enable_peer": "hipDeviceEnablePeerAccess",
        "host_allocate": "hipHostMalloc",
        "host_free": "hipHostFree",
        "host_register": "hipHostRegister",
        "host_unregister": "hipHostUnregister",
        "stream_priority_range": "hipDeviceGetStreamPriorityRange",
        "stream_create": "hipStreamCreateWithPriority",
        "stream_destroy": "hipStreamDestroy",
        "stream_synchronize": "hipStreamSynchronize",
        "stream_query": "hipStreamQuery",
        "stream_wait_event": "hipStreamWaitEvent",
        "event_create": "hipEventCreateWithFlags",
        "event_destroy": "hipEventDestroy",
        "event_record": "hipEventRecord",
        "event_query": "hipEventQuery",
        "event_synchronize": "hipEventSynchronize",
        "event_elapsed": "hipEventElapsedTime",
        "module_load": "hipModuleLoadData",
        "module_unload": "hipModuleUnload",
        "module_function": "hipModuleGetFunction",
        "function_attribute": "hipFuncGetAttribute",
        "capture_begin": "hipStreamBeginCapture",
        "capture_end": "hipStreamEndCapture",
        "capture_info": "hipStreamGetCaptureInfo_v2",
        "exchange_capture_mode": "hipThreadExchangeStreamCaptureMode",
        "graph_instantiate": "hipGraphInstantiateWithFlags",
        "graph_launch": "hipGraphLaunch",
        "graph_upload": "hipGraphUpload",
        "graph_destroy": "hipGraphDestroy",
        "graph_exec_destroy": "hipGraphExecDestroy",
        "graph_debug_dot": "hipGraphDebugDotPrint",
        "graph_nodes": "hipGraphGetNodes",
        # only here
        "error_name": "hipGetErrorName",
        "error_string": "hipGetErrorString",
        "properties": "hipGetDeviceProperties",
        "properties_r0600": "hipGetDevicePropertiesR0600",
        "launch": "hipModuleLaunchKernel",
        "launch_cooperative": "hipModuleLaunchCooperativeKernel",
        "graph_update": "hipGraphExecUpdate",
    }
    SINCE: ClassVar[dict[str, str]] = {
        "graph_upload": "5.3",
        "graph_debug_dot": "5.3",
        "launch_cooperative": "5.5",
        "properties_r0600": "6.0",
    }
    ATTRIBUTES: ClassVar[dict[str, int]] = {
        "clock_rate": 5,
        "is_integrated": 16,
        "L2_cache_size": 19,
        "major": 23,
        "max_threads_per_multi_processor": 57,
        "memory_bus_width": 59,
        "memory_clock_rate": 60,
        "minor": 61,
        "multi_processor_count": 63,
        "pci_bus_id": 67,
        "pci_device_id": 68,
        "pci_domain_id": 69,
        "regs_per_multiprocessor": 72,
        "shared_memory_per_block": 74,
        "shared_memory_per_block_optin": 75,
        "warp_size": 87,
        "shared_memory_per_multiprocessor": 10002,
    }
    STICKY = frozenset({214, 700, 702, 710, 719})  # and not 709, by which HIP means a handle that is none
    #: As CUDA's, and what a function of one device is answered by when another is current.
    ELSEWHERE = Driver.ELSEWHERE | {98, 101, 209}
    INIT_REMEDIES: ClassVar[dict[int, str]] = {
        999: "the kernel module amdgpu may not be loaded: see `rocminfo` and `dmesg`",
    }

    def _candidates(self) -> list[str]:
        roots = [os.environ[name] for name in ("ROCM_PATH", "HIP_PATH") if os.environ.get(name)]
        return [*self.LIBRARIES, *(f"{root}/lib/libamdhip64.so" for root in dict.fromkeys([*roots, "/opt/rocm"]))]

    def _hiding(self) -> tuple[str, ...]:
        return ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")

    def _version(self, number: int) -> tuple[int, int]:
        return number // 10_000_000, number // 100_000 % 100

    def _describe(self, status: int) -> tuple[str, str]:
        name, text = self.api.error_name(status), self.api.error_string(status)
        return self.ffi.string(name).decode(errors="replace"), self.ffi.string(text).decode(errors="replace")

    def _architecture(self, index: int, values: dict[str, Any]) -> dict[str, Any]:
        block = values["shared_memory_per_block"] or _LOCAL_MEMORY
        values["shared_memory_per_block"] = block
        values["shared_memory_per_block_optin"] = max(values["shared_memory_per_block_optin"], block)
        values["shared_memory_per_multiprocessor"] = max(values["shared_memory_per_multiprocessor"], block)
        memory = self.ffi.new("char[]", 4096)  # larger than the structure is in any version
        entry, start = "properties_r0600", ARCHITECTURE_R0600
        try:
            status = self.api.properties_r0600(memory, index)
        except UnsupportedError:
            entry, start = "properties", ARCHITECTURE_R0000
            status = self.api.properties(memory, index)
        if status:
            self.fail(entry, status, f"device {index}")
        name = self.ffi.string(memory + start, 256).decode(errors="replace")
        return {**values, "gcnArchName": name, "target": name.split(":")[0]}

    def place_of(self, index: int) -> int:
        """HIP says a device by its number."""
        return index

    def allow_shared(self, function: int, nbytes: int) -> None:
        """Nothing to do: on an AMD GPU a launch takes what local memory there is."""

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
        """The launch of a function of the current device. See `Driver.prepare`; no clusters and no pdl here."""
        if num_ctas > 1 or pdl:
            what = f"num_ctas={num_ctas}" if num_ctas > 1 else "programmatic dependent launch"
            raise UnsupportedError(f"prepare: {what}: AMD's GPUs have none, NVIDIA's have from sm_90")
        code = self.ffi.cast("void *", function)
        entry, rest = "launch", ", {p}null"
        if cooperative:
            entry, rest = "launch_cooperative", ""
            self.api.launch_cooperative  # noqa: B018  an old runtime has none: say so now, not at the launch
        arguments = f"{{p}}code, {{x}}, {{y}}, {{z}}, {block}, 1, 1, {shared}, stream, {{params}}{rest}"
        return Prepared(self, entry, (), arguments, {"code": code}, (1, block, shared))

    def _repeat(self, entry: str, status: int, home: int, args: tuple[Any, ...], shape: tuple[int, ...]) -> None:
        """As for every vendor; but 719 is also what HIP says to a block larger than a kernel was compiled for."""
        if status == _LAUNCH_FAILURE:
            try:
                limit = self.function_attributes(int(self.ffi.cast("uintptr_t", args[0])))["max_threads"]
            except DriverError:
                limit = 0  # the device is lost indeed
            if 0 < limit < shape[3]:
                raise DriverError(
                    f"{self._failed(entry, status)}; {shape[3]} threads a block, the kernel was compiled for {limit}",
                    status,
                    self._describe(status)[0],
                )
        super()._repeat(entry, status, home, args, shape)

    def _grid_limit(self, gx: int, gy: int, gz: int, block: int) -> str:
        if max(gx * block, gy, gz) >= 1 << 32:
            return "a grid has at most 2^32 - 1 threads along a dimension"
        return "a block has at most 1024 threads" if block > 1024 else ""

    def _graph_update(self, executable: int, graph: int) -> int:
        return self.api.graph_update(executable, graph, self.ffi.new("uintptr_t *"), self.ffi.new("int *"))
