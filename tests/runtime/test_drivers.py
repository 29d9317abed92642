"""The bindings of libcuda and libamdhip64 against the vendors' headers, stub libraries and the simulated drivers."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import Simulation, simulated

from tensorlib.errors import ArgumentError, DeviceError, DriverError, OutOfMemoryError, UnsupportedError
from tensorlib.runtime import cuda, driver, gpu, hip
from tensorlib.runtime.driver import DeviceFault, Driver, Event, Graph, GraphExec, Module, OutOfDeviceMemory, Stream

VENDORS = {"cuda": cuda.CUDA, "hip": hip.HIP}
_TRITON = importlib.util.find_spec("triton")
assert _TRITON is not None and _TRITON.submodule_search_locations is not None
BACKENDS = Path(next(iter(_TRITON.submodule_search_locations))) / "backends"


# --------------------------------------------------------------------------------------------------- vendors' headers
#: What a translation unit includes to see a vendor's interface; the compiler's own flags before it.
HEADERS = {
    "cuda": (["-I", str(BACKENDS / "nvidia/include")], "#include <cuda.h>\n"),
    "hip": (
        ["-D__HIP_PLATFORM_AMD__=1", "-I", str(BACKENDS / "amd/include")],
        "#include <hip/hip_runtime_api.h>\n#include <hip/hip_deprecated.h>\n",
    ),
}
#: What the headers call a function that old libraries export under the name we ask for.
RENAMED = {"hipGetDeviceProperties": "hipGetDevicePropertiesR0000"}  # as libraries before ROCm 6 export it


def compile_c(kind: str, source: str, *flags: str) -> subprocess.CompletedProcess[str]:
    include, lines = HEADERS[kind]
    command = ["cc", "-x", "c", "-std=gnu11", "-w", *include, *flags, "-"]
    return subprocess.run(command, input=lines + source, capture_output=True, text=True, check=False)


def arguments(text: str) -> list[str]:
    """The types of a parameter list, without names."""
    found = []
    for parameter in text.split(","):
        parameter = re.sub(r"\s+", " ", parameter).replace("* ", "*").strip()
        words = re.fullmatch(r"(.*?[\s*])(\w+)", parameter)
        if words and words[2] not in ("int", "char", "unsigned", "long", "size_t", "float", "void"):
            parameter = words[1].strip()
        found.append(parameter)
    return [] if found == ["void"] else found


def declared(kind: str) -> dict[str, list[str]]:
    """Every function of the vendor's headers, with its parameters' types as they are spelled there."""
    found: dict[str, list[str]] = {}
    for flags in (["-D__CUDA_API_VERSION_INTERNAL"], []) if kind == "cuda" else ([],):
        text = compile_c(kind, "", "-E", "-P", *flags).stdout
        pattern = r"\b(?:CUresult|hipError_t|const char ?\*)\s+\*?((?:cu|hip)\w+)\s*\(([^()]*)\)\s*;"
        found |= {m[1]: arguments(m[2]) for m in re.finditer(pattern, re.sub(r"\s+", " ", text))}
    return found


@pytest.mark.parametrize("kind", VENDORS)
def test_declarations_are_the_headers(kind: str) -> None:
    """Each function that is called has, argument by argument, the widths and the indirections of the vendor's."""
    vendor, theirs = VENDORS[kind], declared(kind)
    own = re.findall(r"\b(\w+)\(([^()]*)\);", driver.declarations(vendor))
    assert {name for name, _ in own} == set(vendor.NAMES.values())
    checks = ["typedef uintptr_t place;" if kind == "cuda" else "typedef int place;"]
    checks += ["typedef struct { char bytes[16]; } uuid;"]
    checks.insert(0, "#include <stdint.h>\n#include <stddef.h>")
    structures = ("CUlaunchConfig", "CUgraphExecUpdateResultInfo")
    for name, text in own:
        ours, expected = arguments(text), theirs[RENAMED.get(name, name)]
        assert len(ours) == len(expected), f"{name}: {ours} against {expected}"
        for mine, its in zip(ours, expected, strict=True):
            checks.append(f'_Static_assert(sizeof({mine}) == sizeof({its}), "{name}: {mine} for {its}");')
            if mine.endswith("*") and "void" not in mine.removesuffix("**") and not any(s in mine for s in structures):
                # Where we pass an address, so does the header; and what lies there has its width.
                checks.append(f'_Static_assert(sizeof(*({mine})0) == sizeof(*({its})0), "{name}: {mine} for {its}");')
            if "float" in mine + its or its == "unsigned char":  # widths do not tell these from integers
                assert mine.replace(" ", "") == its.replace(" ", ""), name
    checks.append("int main(void) { return 0; }")
    done = compile_c(kind, "\n".join(checks), "-fsyntax-only")
    assert done.returncode == 0, done.stderr
    # and that check can fail
    wrong = "\n".join(checks).replace("_Static_assert(sizeof(size_t)", "_Static_assert(sizeof(int)", 1)
    assert compile_c(kind, wrong, "-fsyntax-only").returncode


CONSTANTS = {
    "cuda": {
        **{f"CU_DEVICE_ATTRIBUTE_{name}": cuda.CUDA.ATTRIBUTES[field] for field, name in {
            "shared_memory_per_block": "MAX_SHARED_MEMORY_PER_BLOCK", "warp_size": "WARP_SIZE",
            "clock_rate": "CLOCK_RATE", "multi_processor_count": "MULTIPROCESSOR_COUNT",
            "is_integrated": "INTEGRATED", "pci_bus_id": "PCI_BUS_ID", "pci_device_id": "PCI_DEVICE_ID",
            "memory_clock_rate": "MEMORY_CLOCK_RATE", "memory_bus_width": "GLOBAL_MEMORY_BUS_WIDTH",
            "L2_cache_size": "L2_CACHE_SIZE", "max_threads_per_multi_processor": "MAX_THREADS_PER_MULTIPROCESSOR",
            "pci_domain_id": "PCI_DOMAIN_ID", "major": "COMPUTE_CAPABILITY_MAJOR",
            "minor": "COMPUTE_CAPABILITY_MINOR",
            "shared_memory_per_multiprocessor": "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR",
            "regs_per_multiprocessor": "MAX_REGISTERS_PER_MULTIPROCESSOR",
            "shared_memory_per_block_optin": "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
        }.items()},
        "CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK": driver.FUNCTION_ATTRIBUTES["max_threads"],
        "CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES": driver.FUNCTION_ATTRIBUTES["shared"],
        "CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES": driver.FUNCTION_ATTRIBUTES["constant"],
        "CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES": driver.FUNCTION_ATTRIBUTES["local"],
        "CU_FUNC_ATTRIBUTE_NUM_REGS": driver.FUNCTION_ATTRIBUTES["registers"],
        "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": cuda._MAX_DYNAMIC_SHARED_SIZE_BYTES,
        "CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED": cuda._NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
        "CU_LAUNCH_ATTRIBUTE_COOPERATIVE": cuda._COOPERATIVE,
        "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION": cuda._CLUSTER_DIMENSION,
        "CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE": cuda._CLUSTER_SCHEDULING_POLICY,
        "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION": cuda._PROGRAMMATIC_STREAM_SERIALIZATION,
        "CU_CLUSTER_SCHEDULING_POLICY_SPREAD": cuda._SPREAD,
        **{f"CU_TENSOR_MAP_DATA_TYPE_{name.upper()}": cuda.TENSOR_MAP_TYPES[name] for name in (
            "uint8", "uint16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "bfloat16")},
        "CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ": len(cuda._ELEMENT_BYTES) - 1,
        "CU_TENSOR_MAP_L2_PROMOTION_L2_128B": cuda._PROMOTE_TO_128_BYTES,
        "CU_TENSOR_MAP_INTERLEAVE_NONE": 0, "CU_TENSOR_MAP_SWIZZLE_128B": 3,
        "CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA": 1,
        "CU_STREAM_NON_BLOCKING": driver._NON_BLOCKING, "CU_EVENT_BLOCKING_SYNC": driver._BLOCKING_SYNC,
        "CU_EVENT_DISABLE_TIMING": driver._DISABLE_TIMING, "CU_MEMHOSTALLOC_PORTABLE": driver._PORTABLE,
        "CU_MEMHOSTREGISTER_PORTABLE": driver._PORTABLE, "CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE": driver._VERBOSE,
        "CU_STREAM_CAPTURE_MODE_GLOBAL": 0, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1,
        "CU_STREAM_CAPTURE_MODE_RELAXED": 2, "CU_STREAM_CAPTURE_STATUS_ACTIVE": 1,
        "CU_STREAM_CAPTURE_STATUS_INVALIDATED": 2,
        "CUDA_ERROR_OUT_OF_MEMORY": driver._OUT_OF_MEMORY, "CUDA_ERROR_INVALID_CONTEXT": driver._INVALID_CONTEXT,
        "CUDA_ERROR_INVALID_HANDLE": driver._INVALID_HANDLE, "CUDA_ERROR_NOT_READY": driver._NOT_READY,
        "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED": driver._PEER_ACCESS_ALREADY_ENABLED,
        "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE": driver._GRAPH_EXEC_UPDATE_FAILURE,
        "CUDA_ERROR_NOT_SUPPORTED": cuda._NOT_SUPPORTED, "CUDA_ERROR_NO_DEVICE": 100,
        "CUDA_ERROR_STUB_LIBRARY": 34, "CUDA_ERROR_SYSTEM_NOT_READY": 802,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": 803, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": 804,
        "CUDA_ERROR_NO_BINARY_FOR_GPU": 209, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": 701,
        "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE": 720, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED": 904,
        "CUDA_ERROR_STREAM_CAPTURE_ISOLATION": 905, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT": 906,
        "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD": 908,
    },
    "hip": {
        **{f"hipDeviceAttribute{name}": hip.HIP.ATTRIBUTES[field] for field, name in {
            "clock_rate": "ClockRate", "is_integrated": "Integrated", "L2_cache_size": "L2CacheSize",
            "major": "ComputeCapabilityMajor", "max_threads_per_multi_processor": "MaxThreadsPerMultiProcessor",
            "memory_bus_width": "MemoryBusWidth", "memory_clock_rate": "MemoryClockRate",
            "minor": "ComputeCapabilityMinor", "multi_processor_count": "MultiprocessorCount",
            "pci_bus_id": "PciBusId", "pci_device_id": "PciDeviceId", "pci_domain_id": "PciDomainId",
            "regs_per_multiprocessor": "MaxRegistersPerMultiprocessor",
            "shared_memory_per_block": "MaxSharedMemoryPerBlock",
            "shared_memory_per_block_optin": "SharedMemPerBlockOptin", "warp_size": "WarpSize",
            "shared_memory_per_multiprocessor": "MaxSharedMemoryPerMultiprocessor",
        }.items()},
        "HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK": driver.FUNCTION_ATTRIBUTES["max_threads"],
        "HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES": driver.FUNCTION_ATTRIBUTES["shared"],
        "HIP_FUNC_ATTRIBUTE_CONST_SIZE_BYTES": driver.FUNCTION_ATTRIBUTES["constant"],
        "HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES": driver.FUNCTION_ATTRIBUTES["local"],
        "HIP_FUNC_ATTRIBUTE_NUM_REGS": driver.FUNCTION_ATTRIBUTES["registers"],
        "hipStreamNonBlocking": driver._NON_BLOCKING, "hipEventBlockingSync": driver._BLOCKING_SYNC,
        "hipEventDisableTiming": driver._DISABLE_TIMING, "hipHostMallocPortable": driver._PORTABLE,
        "hipHostRegisterPortable": driver._PORTABLE, "hipGraphDebugDotFlagsVerbose": driver._VERBOSE,
        "hipStreamCaptureModeGlobal": 0, "hipStreamCaptureModeThreadLocal": 1, "hipStreamCaptureModeRelaxed": 2,
        "hipStreamCaptureStatusActive": 1, "hipStreamCaptureStatusInvalidated": 2,
        "hipErrorOutOfMemory": driver._OUT_OF_MEMORY, "hipErrorInvalidContext": driver._INVALID_CONTEXT,
        "hipErrorInvalidHandle": driver._INVALID_HANDLE, "hipErrorNotReady": driver._NOT_READY,
        "hipErrorPeerAccessAlreadyEnabled": driver._PEER_ACCESS_ALREADY_ENABLED,
        "hipErrorGraphExecUpdateFailure": driver._GRAPH_EXEC_UPDATE_FAILURE,
        "hipErrorInvalidDeviceFunction": 98, "hipErrorNoDevice": 100, "hipErrorInvalidDevice": 101,
        "hipErrorNoBinaryForGpu": 209, "hipErrorECCNotCorrectable": 214, "hipErrorIllegalAddress": 700,
        "hipErrorLaunchOutOfResources": 701, "hipErrorLaunchTimeOut": 702, "hipErrorContextIsDestroyed": 709,
        "hipErrorAssert": 710, "hipErrorLaunchFailure": 719, "hipErrorCooperativeLaunchTooLarge": 720,
        "hipErrorStreamCaptureUnsupported": 900, "hipErrorStreamCaptureInvalidated": 901,
        "hipErrorStreamCaptureUnjoined": 904, "hipErrorStreamCaptureIsolation": 905,
        "hipErrorStreamCaptureImplicit": 906, "hipErrorStreamCaptureWrongThread": 908,
        "offsetof(hipDeviceProp_tR0600, gcnArchName)": hip.ARCHITECTURE_R0600,
        "offsetof(hipDeviceProp_tR0000, gcnArchName)": hip.ARCHITECTURE_R0000,
        "sizeof(hipDeviceProp_tR0600)": hip.PROPERTIES_R0600,
        "sizeof(hipDeviceProp_tR0000)": hip.PROPERTIES_R0000,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", VENDORS)
def test_numbers_are_the_headers(kind: str) -> None:
    assert set(VENDORS[kind].ATTRIBUTES.values()) <= set(CONSTANTS[kind].values())
    checks = [f'_Static_assert({name} == {value}, "{name}");' for name, value in CONSTANTS[kind].items()]
    done = compile_c(kind, "#include <stddef.h>\n" + "\n".join(checks), "-fsyntax-only")
    assert done.returncode == 0, done.stderr


def test_structures_are_the_headers() -> None:
    """The launch's configuration and attributes lie as cuda.h lays them out."""
    ffi = driver._interface(cuda.CUDA)
    checks = []
    for name in ("CUlaunchConfig", "CUlaunchAttribute", "CUlaunchAttributeValue", "CUgraphExecUpdateResultInfo"):
        checks.append(f'_Static_assert(sizeof({name}) == {ffi.sizeof(name)}, "{name}");')
        for field, _ in ffi.typeof(name).fields:
            what = f"offsetof({name}, {field}) == {ffi.offsetof(name, field)}"
            checks.append(f'_Static_assert({what}, "{what}");')
    aligned = f"_Alignof(CUtensorMap) <= {cuda._TENSOR_MAP_ALIGNMENT}"
    checks.append(f'_Static_assert(sizeof(CUtensorMap) == 128 && {aligned}, "tensor map");')
    done = compile_c("cuda", "#include <stddef.h>\n" + "\n".join(checks), "-fsyntax-only")
    assert done.returncode == 0, done.stderr


def test_sticky_errors_are_the_headers() -> None:
    """Whatever cuda.h says leaves the process in an inconsistent state is known to."""
    text = (BACKENDS / "nvidia/include/cuda.h").read_text()
    said = re.findall(r"/\*\*((?:(?!\*/).)*)\*/\s*(CUDA_ERROR_\w+)\s*=\s*(\d+)", text, re.S)
    lost = {int(number) for doc, _, number in said if "inconsistent state" in re.sub(r"[\s*]+", " ", doc)}
    assert len(lost) > 8 and lost <= cuda.CUDA.STICKY
    assert hip.HIP.STICKY < cuda.CUDA.STICKY  # the vendors' numbers agree where both have them


# ---------------------------------------------------------------------------------------------------- stub libraries
STUB = r"""
#include <stdlib.h>
static int number(const char *name, int other) { const char *s = getenv(name); return s ? atoi(s) : other; }
#define E(name) __attribute__((visibility("default"))) int name
#ifdef CUDA
E(cuDriverGetVersion)(int *v) { *v = number("STUB_VERSION", 12040); return 0; }
E(cuInit)(unsigned f) { return number("STUB_INIT", 0); }
E(cuDeviceGetCount)(int *n) { *n = number("STUB_COUNT", 1); return 0; }
E(cuGetErrorName)(int s, const char **t) { if (s == 77) return 1; *t = "CUDA_ERROR_STUBBED"; return 0; }
E(cuGetErrorString)(int s, const char **t) { if (s == 77) return 1; *t = "text of a stub"; return 0; }
E(cuMemFree_v2)(unsigned long p) { return (int)p; }
#else
E(hipRuntimeGetVersion)(int *v) { *v = number("STUB_VERSION", 60241134); return 0; }
E(hipInit)(unsigned f) { return number("STUB_INIT", 0); }
E(hipGetDeviceCount)(int *n) { *n = number("STUB_COUNT", 1); return 0; }
const char *hipGetErrorName(int s) { return "hipErrorStubbed"; }
const char *hipGetErrorString(int s) { return s == 1 ? "hipErrorStubbed" : "text of a stub"; }
E(hipFree)(unsigned long p) { return (int)p; }
#endif
"""


@pytest.fixture(scope="module", params=list(VENDORS))
def stub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type[Driver], str]:
    """A vendor's class, and a library that has six of its functions."""
    path = tmp_path_factory.mktemp("stub") / f"lib{request.param}.so"
    command = ["cc", "-x", "c", "-shared", "-fPIC", f"-D{request.param.upper()}", "-", "-o", str(path)]
    subprocess.run(command, input=STUB, text=True, check=True)
    return VENDORS[request.param], str(path)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("STUB_") or name.endswith("VISIBLE_DEVICES"):
            monkeypatch.delenv(name)


def refusal(vendor: type[Driver], path: str | None) -> str:
    with pytest.raises(driver.Unavailable) as caught:
        vendor(path)
    assert isinstance(caught.value, DeviceError) and str(caught.value).startswith(f"{vendor.label}: ")
    return str(caught.value)


def test_a_library_that_works(stub: tuple[type[Driver], str], monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, path = stub
    monkeypatch.setenv(vendor.VARIABLE, path)
    d = vendor()
    assert (d.kind, d.path, d.count) == (vendor.kind, path, 1)
    assert d.version == ((12, 4) if vendor.kind == "cuda" else (6, 2))


def test_no_library(stub: tuple[type[Driver], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vendor, _ = stub
    absent = str(tmp_path / "absent.so")
    assert absent in refusal(vendor, absent)
    monkeypatch.setenv(vendor.VARIABLE, absent)
    assert f"{absent} (named by {vendor.VARIABLE})" in refusal(vendor, None)
    monkeypatch.delenv(vendor.VARIABLE)
    monkeypatch.setattr(vendor, "LIBRARIES", ("libnothing-of-the-kind.so.1",))
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    text = refusal(vendor, None)
    assert "there is no libnothing-of-the-kind.so.1" in text and "docker run" in text


def test_a_library_that_is_none(stub: tuple[type[Driver], str], tmp_path: Path) -> None:
    vendor, _ = stub
    garbage = tmp_path / "garbage.so"
    garbage.write_bytes(b"this is not a library")
    assert "cannot be loaded" in refusal(vendor, str(garbage)) and "garbage.so" in refusal(vendor, str(garbage))
    text = refusal(vendor, "libm.so.6")
    assert f"libm.so.6 cannot be used as its driver: it has no function {vendor.NAMES['driver_version']}" in text


def test_a_driver_that_cannot_be_loaded(stub: tuple[type[Driver], str], tmp_path: Path, monkeypatch: Any) -> None:
    """What is found in the usual places and fails for another reason than absence is not called absent."""
    vendor, _ = stub
    garbage = tmp_path / "lib" / "libamdhip64.so"
    garbage.parent.mkdir()
    garbage.write_bytes(b"this is not a library")
    monkeypatch.setattr(vendor, "LIBRARIES", ("libnothing-of-the-kind.so.1", str(garbage)))
    monkeypatch.delenv(vendor.VARIABLE, raising=False)
    text = refusal(vendor, None)
    assert "its driver is there and cannot be loaded" in text and str(garbage) in text


def test_too_old_a_driver(stub: tuple[type[Driver], str], monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, path = stub
    for number, shown in ((11080, "11.8"),) if vendor.kind == "cuda" else ((50120531, "5.1"),):
        monkeypatch.setenv("STUB_VERSION", str(number))
        oldest = ".".join(map(str, vendor.OLDEST))
        assert f"too old: {path} is of {vendor.label} {shown}, expected {oldest} or later" in refusal(vendor, path)
    monkeypatch.setenv("STUB_VERSION", "12000" if vendor.kind == "cuda" else "50221153")
    assert vendor(path).version == vendor.OLDEST


def test_no_device(stub: tuple[type[Driver], str], monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, path = stub
    monkeypatch.setenv("STUB_COUNT", "0")
    assert "the driver finds no GPU: none is installed" in refusal(vendor, path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' may hide it" in refusal(vendor, path)
    monkeypatch.setenv("STUB_INIT", "100")
    text = refusal(vendor, path)
    assert f"{vendor.NAMES['init']}: " in text and "(100): text of a stub: CUDA_VISIBLE_DEVICES='' may hide it" in text


def test_initialisation_fails(stub: tuple[type[Driver], str], monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, path = stub
    for status, remedy in vendor.INIT_REMEDIES.items():
        monkeypatch.setenv("STUB_INIT", str(status))
        text = refusal(vendor, path)
        assert f"({status}): text of a stub: {remedy}" in text
    monkeypatch.setenv("STUB_INIT", "304")
    assert refusal(vendor, path).endswith("(304): text of a stub")


def test_a_function_that_is_missing(stub: tuple[type[Driver], str]) -> None:
    vendor, path = stub
    d = vendor(path)
    with pytest.raises(UnsupportedError, match=re.escape(f"{vendor.NAMES['malloc']}: {path}, {vendor.label}")):
        d.malloc(8)
    for name, since in vendor.SINCE.items():
        with pytest.raises(UnsupportedError, match=rf"has no such function: it came with {vendor.label} {since}; inst"):
            getattr(d.api, name)


def test_classes_of_errors(stub: tuple[type[Driver], str]) -> None:
    vendor, path = stub
    d = vendor(path)
    shown = vendor.NAMES["free"].removesuffix("_v2")
    name = "CUDA_ERROR_STUBBED" if vendor.kind == "cuda" else "hipErrorStubbed"
    with pytest.raises(DriverError) as caught:
        d.free(3)
    assert str(caught.value) == f"{shown}: {name} (3): text of a stub; address 0x3"
    assert (caught.value.error_code, caught.value.error_name) == (3, name)
    assert type(caught.value) is DriverError and not getattr(caught.value, "sticky", False)
    with pytest.raises(OutOfDeviceMemory) as memory:
        d.free(2)
    assert isinstance(memory.value, (DriverError, OutOfMemoryError, MemoryError, RuntimeError))
    assert isinstance(memory.value, OutOfMemoryError) and isinstance(memory.value, DeviceError)
    for status in (700, 719, 710, 214):
        with pytest.raises(DeviceFault, match=r"TENSORLIB_LAUNCH_BLOCKING=1.*restart it") as fault:
            d.free(status)
        assert fault.value.sticky and fault.value.error_code == status
    if vendor.kind == "cuda":
        for status in (714, 715, 716, 717, 718):
            with pytest.raises(DeviceFault):
                d.free(status)
        with pytest.raises(DriverError, match=r"^cuMemFree: unknown error \(77\); address"):
            d.free(77)
    else:
        with pytest.raises(DriverError, match=r"^hipFree: hipErrorStubbed \(1\); address"):  # the name is not repeated
            d.free(1)


@pytest.mark.parametrize("vendor", VENDORS.values())
def test_fork(vendor: type[Driver]) -> None:
    """In a forked child every call is refused, also of what was prepared before, and destructors do nothing."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tensorlib.errors import DeviceError
from tensorlib.runtime import driver
from tensorlib.runtime.{vendor.kind} import {vendor.__name__} as Vendor
from simulated import library
d = Vendor(library({vendor.kind!r}))
d.activate(0)
stream, event = driver.Stream(d, 0), driver.Event(d, 0)
ptr = d.malloc(64)
launch = d.prepare(1, 32, 0)
before = d.free
child = os.fork()
if not child:
    def refused(call):
        try:
            call()
        except DeviceError as error:
            assert "Cannot re-initialize {vendor.label} in forked subprocess" in str(error) and "'spawn'" in str(error)
            return
        os._exit(3)
    try:
        refused(lambda: d.malloc(8))
        refused(lambda: before(ptr))
        refused(lambda: launch(1, 1, 1, 0, d.ffi.new("void *[]", 1)))
        refused(lambda: Vendor(library({vendor.kind!r})))
        assert d.forked
        handle = stream.handle
        del stream, event  # silently
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(4)
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
d.free(ptr)  # the parent goes on
event = None
sys.exit(status)
"""
    root = Path(__file__).parents[2]
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from simulated import _control\n"
    setup += f"c = _control({vendor.kind!r}); c.sim_reset(1, "
    setup += "13000)\n" if vendor.kind == "cuda" else "60241134)\n"
    model = "(__import__('ctypes').c_int * 10)(9, 0, 32, 132, 2048, 65536, 49152, 232448, 233472, 1 << 20)"
    arch = "sm_90" if vendor.kind == "cuda" else "gfx942"
    setup += f"c.sim_device(0, b'x', {arch!r}.encode(), 1 << 24, {model})\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_importing_loads_nothing() -> None:
    code = "import sys, tensorlib.runtime.cuda, tensorlib.runtime.hip; assert 'cffi' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


# ------------------------------------------------------------------------------------------------- simulated drivers
@pytest.fixture(params=list(VENDORS))
def sim(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    with simulated(request.param, devices=2, memory=1 << 24, launcher="none", record=True) as sim:
        yield sim
        gc.collect()


@pytest.fixture
def d(sim: Simulation) -> Driver:
    found = VENDORS[sim.kind](sim.path)
    found.activate(0)
    return found


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_properties(d: Driver) -> None:
    p = d.properties(1)
    assert (p.name, p.target) == (("Simulated H100", "sm_90") if d.kind == "cuda" else ("Simulated MI300X", "gfx942"))
    assert p.gcnArchName == ("" if d.kind == "cuda" else "gfx942:sramecc+:xnack-")
    assert (p.major, p.minor) == ((9, 0) if d.kind == "cuda" else (9, 4))
    assert p.total_memory == 1 << 24 and p.is_integrated is False
    numbers = (p.warp_size, p.multi_processor_count, p.shared_memory_per_block, p.shared_memory_per_block_optin)
    assert numbers == ((32, 132, 49152, 232448) if d.kind == "cuda" else (64, 304, 65536, 65536))
    assert uuid.UUID(p.uuid) and d.properties(0).uuid != p.uuid
    with pytest.raises(DriverError, match=r"device 2 of 2"):
        d.properties(2)


@pytest.mark.parametrize("sim", ["hip"], indirect=True)
def test_the_older_structure_of_properties(d: Driver) -> None:
    """Before ROCm 6 the architecture's name is at another place, of another function."""

    def missing(*_: Any) -> int:
        raise UnsupportedError("hipGetDevicePropertiesR0600")

    def older(memory: Any, index: int) -> int:
        d.ffi.memmove(memory + hip.ARCHITECTURE_R0000, b"gfx90a:sramecc+:xnack-\0", 23)
        return 0

    d.api.properties_r0600, d.api.properties = missing, older
    p = d.properties(0)
    assert (p.gcnArchName, p.target) == ("gfx90a:sramecc+:xnack-", "gfx90a")


def test_memory(d: Driver, sim: Simulation) -> None:
    free, total = d.memory_info()
    ptr, other = d.malloc(1000), d.malloc(1000)
    assert ptr % 256 == 0 and total == 1 << 24 and d.memory_info()[0] <= free - 2000
    data, back = np.arange(250, dtype=np.int32), np.zeros(250, np.int32)
    d.copy_to_device(ptr, address(data), 1000)
    d.copy(other, ptr, 1000)
    d.fill(other, 0x11, 8)
    d.copy_to_host(address(back), other, 1000)
    d.synchronize()
    assert back[0] == back[1] == 0x11111111 and (back[2:] == data[2:]).all()
    with pytest.raises(OutOfDeviceMemory, match=r"1,099,511,627,776 bytes") as caught:
        d.malloc(1 << 40)
    assert caught.value.error_code == 2
    d.free(ptr)
    d.free(other)
    assert d.memory_info() == (free, total)
    with sim.expect("free"), pytest.raises(DriverError, match=rf"{ptr:#x}"):
        d.free(ptr)


def test_pinned_memory(d: Driver, sim: Simulation) -> None:
    ptr = d.host_allocate(4096)
    ctypes.memset(ptr, 7, 4096)
    plain = np.zeros(4096, np.uint8)
    d.host_register(address(plain), 4096)
    assert (sim.live("pinned"), sim.live("registered")) == (1, 1)
    with pytest.raises(DriverError, match=r"\(712\)"):
        d.host_register(address(plain), 4096)
    d.host_unregister(address(plain))
    d.host_free(ptr)
    assert (sim.live("pinned"), sim.live("registered")) == (0, 0)


def test_peers(d: Driver) -> None:
    assert d.can_access_peer(0, 1) and d.can_access_peer(1, 0) and not d.can_access_peer(0, 0)
    home = d.place()
    d.enable_peer(0, 1)
    d.enable_peer(0, 1)
    type(d)(d.path).enable_peer(0, 1)  # enabled by somebody else: no error either
    d.enable_peer(1, 0)
    assert d.place() == home
    data, back = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    here = d.malloc(64)
    d.activate(1)
    there = d.malloc(64)
    d.copy_to_device(there, address(data), 64)
    d.synchronize()
    d.activate(0)
    d.copy_peer(here, 0, there, 1, 64)
    d.copy_to_host(address(back), here, 64)
    d.synchronize()
    assert (back == data).all()
    d.free(here)
    d.activate(1)
    d.free(there)


def test_streams_and_events(d: Driver, sim: Simulation) -> None:
    least, greatest = d.stream_priority_range()
    assert greatest <= 0 <= least
    one, other = Stream(d, 0, greatest), Stream(d, 0)
    assert one.priority == greatest and "Stream" in repr(one)
    begin, middle, end = (Event(d, 0, timing=True) for _ in range(3))
    assert d.event_query(begin.handle) and d.stream_query(one.handle)
    ptr, back = d.malloc(64), np.zeros(64, np.uint8)
    sim.options(patience=-1)
    d.event_record(begin.handle, one.handle)
    d.fill(ptr, 3, 64, one.handle)
    d.event_record(middle.handle, one.handle)
    assert not d.stream_query(one.handle) and not d.event_query(middle.handle)
    d.stream_wait_event(other.handle, middle.handle)
    d.copy_to_host(address(back), ptr, 64, other.handle)
    d.event_record(end.handle, other.handle)
    d.event_synchronize(end.handle)
    assert (back == 3).all() and d.event_query(middle.handle)
    d.stream_synchronize(other.handle)
    assert d.stream_query(other.handle)
    assert d.event_elapsed(begin.handle, end.handle) >= d.event_elapsed(begin.handle, middle.handle) >= 0
    bare = Event(d, 0)
    d.event_record(bare.handle, one.handle)
    d.event_synchronize(bare.handle)
    with pytest.raises(DriverError):
        d.event_elapsed(begin.handle, bare.handle)
    d.free(ptr)


def test_owners_give_back(d: Driver, sim: Simulation) -> None:
    """In any thread, whatever device is current there, which stays so, also while somebody captures."""
    before = {what: sim.live(what) for what in ("stream", "event", "module", "graph", "exec")}
    d.activate(1)
    there = d.place()
    module = Module(d, sim.kernel("k", (8,)))
    d.activate(0)
    home, capturing = d.place(), Stream(d, 0)
    d.capture_begin(capturing.handle)
    graph = Graph(d, 0, d.capture_end(capturing.handle))
    owned: list[Any] = [Stream(d, 1), Event(d, 1, True, True), module, graph]
    owned.append(GraphExec(d, 0, d.graph_instantiate(graph.handle)))
    assert d.place() == home != there
    after = {what: sim.live(what) for what in before}
    assert after == {"stream": before["stream"] + 2, **{w: before[w] + 1 for w in before if w != "stream"}}
    del module, graph
    d.capture_begin(capturing.handle)
    places = []

    def drop() -> None:
        places.append(d.place())
        owned.clear()
        places.append(d.place())

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    assert places[0] == places[1] and d.capture_info(capturing.handle)[0] == "active"
    Graph(d, 0, d.capture_end(capturing.handle))
    del capturing
    assert {what: sim.live(what) for what in before} == before


def test_owners_never_raise(d: Driver, sim: Simulation) -> None:
    stream, event = Stream(d, 0), Event(d, 0)
    sim.lose(719)
    with pytest.raises(DeviceFault):
        d.synchronize()
    del stream, event
    gc.collect()


def launcher(sim: Simulation, d: Driver, **how: Any) -> tuple[Any, list[Any], Any]:
    """A prepared launch of a kernel with one parameter of 8 bytes, what its runs saw, and its parameters."""
    seen: list[Any] = []
    image = sim.kernel("k", (8,), lambda values, grid, block: seen.append((values, tuple(grid), tuple(block))))
    function = d.function(d.module_load(image), "k")
    value = d.ffi.new("uint64_t *", 77)
    params = d.ffi.new("void *[]", [value])
    seen_of = d.prepare(function, how.pop("block", 64), how.pop("shared", 0), **how)
    return seen_of, seen, (params, value)


def test_launch(d: Driver, sim: Simulation) -> None:
    launch, seen, (params, value) = launcher(sim, d)
    stream = Stream(d, 0)
    launch(5, 2, 3, stream.handle, params)
    value[0] = 78
    launch(1, 1, 1, 0, params)
    d.synchronize()
    assert sorted(seen, key=str) == sorted(
        [([(77).to_bytes(8, "little")], (5, 2, 3), (64, 1, 1)), ([(78).to_bytes(8, "little")], (1, 1, 1), (64, 1, 1))],
        key=str,
    )


def test_launches_share_no_configuration(d: Driver, sim: Simulation) -> None:
    """A launch that starts while another is in the driver has its own."""
    launch, seen, (params, _) = launcher(sim, d)
    real, nested = d.api.launch, []

    def interrupting(*args: Any) -> int:
        if not nested:
            nested.append(1)
            launch(2, 1, 1, 0, params)
        return int(real(*args))

    d.api.launch = interrupting
    launch(9, 1, 1, 0, params)
    launch(4, 1, 1, 0, params)
    d.synchronize()
    assert [grid for _, grid, _ in seen] == [(2, 1, 1), (9, 1, 1), (4, 1, 1)]


def test_a_launch_finds_its_device(d: Driver, sim: Simulation) -> None:
    """Where the thread has no context, or another library has made another device current, it is put right."""
    launch, seen, (params, _) = launcher(sim, d)
    home, stream = d.place(), Stream(d, 0)
    name = VENDORS[sim.kind].NAMES["launch"]
    d.activate(1)
    sim.fail(name, 400)
    launch(1, 1, 1, stream.handle, params)
    assert d.place() == home

    def elsewhere() -> None:
        if d.kind == "cuda":  # a thread begins without a context
            assert d.place() == 0
            with sim.expect("no context is current"):
                launch(2, 1, 1, stream.handle, params)
        else:
            sim.fail(name, 201)
            d.activate(1)
            launch(2, 1, 1, stream.handle, params)
        assert d.place() == home

    errors: list[BaseException] = []

    def run() -> None:
        try:
            elsewhere()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors
    d.stream_synchronize(stream.handle)
    assert [grid for _, grid, _ in seen] == [(1, 1, 1), (2, 1, 1)]
    sim.fail(name, 400)
    with pytest.raises(DriverError, match=r"\(400\).*grid \(3, 1, 1\), 64 threads a block"):
        launch(3, 1, 1, stream.handle, params)  # at home that is a real error, and not tried again
    d.stream_synchronize(stream.handle)
    assert len(seen) == 2


def test_refused_launches(d: Driver, sim: Simulation) -> None:
    launch, seen, (params, _) = launcher(sim, d)
    if d.kind == "cuda":
        with pytest.raises(DriverError, match=r"a grid has at most \(2147483647, 65535, 65535\) blocks"):
            launch(1, 65536, 1, 0, params)
    name = VENDORS[sim.kind].NAMES["launch"]
    sim.fail(name, 701)
    with pytest.raises(DriverError, match=r"\(701\).*smaller blocks, fewer warps"):
        launch(1, 1, 1, 0, params)
    wide, _, _ = launcher(sim, d, block=2048)
    with pytest.raises(DriverError, match=r"2048 threads a block.*at most 1024 threads"):
        wide(1, 1, 1, 0, params)
    d.synchronize()
    assert not seen


def test_attributes_of_launches(d: Driver, sim: Simulation) -> None:
    """Clusters, programmatic dependent and cooperative launches, as the driver is told of them."""
    if d.kind == "hip":
        for how in ({"num_ctas": 2}, {"pdl": True}):
            with pytest.raises(UnsupportedError, match=r"NVIDIA's have from sm_90"):
                launcher(sim, d, **how)
        launch, seen, (params, _) = launcher(sim, d, cooperative=True)
        launch(4, 1, 1, 0, params)
        d.synchronize()
        assert [grid for _, grid, _ in seen] == [(4, 1, 1)] and sim.count("hipModuleLaunchCooperativeKernel") == 1
        return
    for how, grid, expected in (
        ({}, (3, 1, 1), []),
        ({"num_ctas": 4}, (12, 1, 1), [(4, (4, 1, 1)), (5, 1)]),
        ({"pdl": True}, (3, 1, 1), [(6, 1)]),
        ({"cooperative": True}, (3, 1, 1), [(2, 1)]),
        ({"cooperative": True, "pdl": True, "num_ctas": 2}, (6, 1, 1), [(6, 1), (2, 1), (4, (2, 1, 1)), (5, 1)]),
    ):
        launch, seen, (params, _) = launcher(sim, d, shared=1024, **how)
        real, told = d.api.launch, []

        def listening(config: Any, *args: Any, real: Any = real, told: list[Any] = told) -> int:
            for i in range(config.numAttrs):
                a, v = config.attrs[i], config.attrs[i].value
                told.append((a.id, (v.clusterDim.x, v.clusterDim.y, v.clusterDim.z) if a.id == 4 else v.cooperative))
            assert config.sharedMemBytes == 1024
            return int(real(config, *args))

        d.api.launch = listening
        launch(3, 1, 1, 0, params)
        d.api.launch = real
        d.synchronize()
        assert [g for _, g, _ in seen] == [grid] and told == expected


@pytest.mark.parametrize("sim", ["hip"], indirect=True)
def test_a_launch_failure_that_is_none(d: Driver, sim: Simulation) -> None:
    """HIP says 719 to a block larger than the kernel was compiled for as well, which loses nothing."""
    launch, _, (params, _value) = launcher(sim, d, block=512)

    def compiled_for_256(value: Any, number: int, function: int) -> int:
        value[0] = 256
        return 0

    sim.fail("hipModuleLaunchKernel", 719)
    with pytest.raises(DeviceFault):
        launch(1, 1, 1, 0, params)
    d.api.function_attribute = compiled_for_256
    sim.fail("hipModuleLaunchKernel", 719)
    with pytest.raises(DriverError, match=r"\(719\).*512 threads a block, the kernel was compiled for 256") as caught:
        launch(1, 1, 1, 0, params)
    assert not isinstance(caught.value, DeviceFault)


@pytest.mark.parametrize("sim", ["cuda"], indirect=True)
def test_large_clusters_are_allowed_first(d: Driver, sim: Simulation) -> None:
    asked = []
    d.api.set_function_attribute = lambda function, attribute, value: asked.append((attribute, value)) or 0
    launcher(sim, d, num_ctas=8)
    assert not asked
    launcher(sim, d, num_ctas=16)
    assert asked == [(14, 1)]


def test_functions(d: Driver, sim: Simulation) -> None:
    module = d.module_load(sim.kernel("k", (8, 4)))
    function = d.function(module, "k")
    found = d.function_attributes(function)
    assert set(found) == {"max_threads", "shared", "constant", "local", "registers"} and found["max_threads"] >= 64
    d.allow_shared(function, 60_000)
    with pytest.raises(DriverError, match=r"function 'other'"):
        d.function(module, "other")
    d.module_unload(module)
    assert not d._images
    with pytest.raises(DriverError, match=r"an image of 120 bytes"):
        d.module_load(b"not a module" * 10)


@pytest.mark.parametrize("sim", ["cuda"], indirect=True)
def test_shared_memory_needs_leave(d: Driver, sim: Simulation) -> None:
    function = d.function(d.module_load(sim.kernel("k", (8,))), "k")
    params = d.ffi.new("void *[]", [d.ffi.new("uint64_t *")])
    value = d.ffi.new("uint64_t *")
    params[0] = value
    launch = d.prepare(function, 64, 100_000)
    with pytest.raises(DriverError, match=r"100,000 bytes of shared memory"):
        launch(1, 1, 1, 0, params)
    d.allow_shared(function, 100_000)
    launch(1, 1, 1, 0, params)
    with pytest.raises(DriverError, match=r"cuFuncSetAttribute.*1,000,000 bytes of shared memory"):
        d.allow_shared(function, 1_000_000)


def test_graphs(d: Driver, sim: Simulation, tmp_path: Path) -> None:
    stream, ptr, back = Stream(d, 0), d.malloc(64), np.zeros(64, np.uint8)

    def capture(*fills: tuple[int, int]) -> Graph:
        d.capture_begin(stream.handle, "thread_local")
        state, number = d.capture_info(stream.handle)
        assert state == "active" and number
        for at, byte in fills:
            d.fill(ptr + at, byte, 8, stream.handle)
        return Graph(d, 0, d.capture_end(stream.handle))

    def result() -> list[int]:
        d.fill(ptr, 0, 64, stream.handle)
        d.graph_launch(executable.handle, stream.handle)
        d.copy_to_host(address(back), ptr, 64, stream.handle)
        d.stream_synchronize(stream.handle)
        return back[[0, 8, 16]].tolist()

    graph = capture((0, 5), (8, 6))
    assert d.capture_info(stream.handle) == ("none", 0) and d.graph_nodes(graph.handle) == 2
    executable = GraphExec(d, 0, d.graph_instantiate(graph.handle))
    d.graph_upload(executable.handle, stream.handle)
    assert result() == [5, 6, 0]
    assert d.graph_update(executable.handle, capture((0, 7), (8, 8)).handle) and result() == [7, 8, 0]
    assert not d.graph_update(executable.handle, capture((0, 1), (8, 1), (16, 1)).handle)
    picture = tmp_path / "graph.dot"
    d.graph_debug_dot(graph.handle, str(picture))
    assert sim.count(d.NAMES["graph_debug_dot"]) == 1
    with sim.expect("no handle of a graph"), pytest.raises(DriverError):
        d.graph_update(executable.handle, 12345)
    d.free(ptr)


def test_capture_modes(d: Driver) -> None:
    assert d.exchange_capture_mode("relaxed") == "global"
    assert d.exchange_capture_mode("thread_local") == "relaxed"
    assert d.exchange_capture_mode("global") == "thread_local"
    with pytest.raises(ArgumentError, match=r"'loose': expected one of 'global', 'thread_local', 'relaxed'"):
        d.exchange_capture_mode("loose")
    stream = Stream(d, 0)
    with pytest.raises(ArgumentError):
        d.capture_begin(stream.handle, "loose")
    d.capture_begin(stream.handle)
    with pytest.raises(DriverError):
        d.malloc(64)  # forbidden in this mode, and makes the capture void
    assert d.capture_info(stream.handle)[0] == "invalidated"
    with pytest.raises(DriverError, match=r"\(901\).*see the first one"):
        d.capture_end(stream.handle)
    assert d.capture_info(stream.handle)[0] == "none"


def test_tensor_map(d: Driver) -> None:
    half: dict[str, Any] = {"dtype": np.float16, "shape": (128, 256), "strides": (256, 1), "block": (64, 32)}
    if d.kind == "hip":
        with pytest.raises(UnsupportedError, match=r"TMA is NVIDIA's"):
            d.tensor_map(ptr=4096, swizzle=3, **half)
        return
    told: list[Any] = []

    def encode(memory: Any, kind: int, rank: int, ptr: int, *rest: Any) -> int:
        assert int(d.ffi.cast("uintptr_t", memory)) % 128 == 0
        sizes, strides, box, steps, *options = rest
        told[:] = [kind, ptr, list(sizes), list(strides), list(box), list(steps), *options]
        d.ffi.memmove(memory, bytes(range(128)), 128)
        return 0

    assert len(d.tensor_map(ptr=4096, swizzle=3, **half)) == 128  # as the driver takes it
    d.api.tensor_map = encode
    assert d.tensor_map(ptr=4096, swizzle=3, **half) == bytes(range(128))
    # dims reversed, strides in bytes without the innermost, element strides 1, no interleave, 128-byte promotion
    assert told == [6, 4096, [256, 128], [512], [32, 64], [1, 1], 0, 3, 2, 0]
    d.tensor_map(
        ptr=16, dtype=10, shape=(2, 3, 8), strides=(32, 8, 1), block=(1, 2, 8), swizzle=0, fill_nan=True
    )  # Triton's 10 is bfloat16
    assert told == [9, 16, [8, 3, 2], [16, 64], [8, 2, 1], [1, 1, 1], 0, 0, 2, 1]
    d.tensor_map(ptr=16, dtype="float8_e4m3fn", shape=(100,), strides=(1,), block=(64,), swizzle=0)
    assert told[:3] == [0, 16, [100]]
    for change, match in (
        ({"ptr": 4100}, "multiple of 16"),
        ({"strides": (256, 2)}, "last stride of 1"),
        ({"strides": (257, 1)}, "multiples of 8 elements"),
        ({"block": (64,)}, "the same number"),
        ({"block": (512, 32)}, "blocks of 1 to 256"),
        ({"dtype": np.complex64}, "cannot be moved"),
    ):
        with pytest.raises(ArgumentError, match=match):
            d.tensor_map(**{"ptr": 4096, "swizzle": 3, **half, **change})


@pytest.mark.parametrize("status", [214, 700, 710, 719])
def test_a_lost_context(d: Driver, sim: Simulation, status: int) -> None:
    sim.lose(status)
    for call in (d.synchronize, lambda: d.malloc(8), lambda: d.event_create()):
        with pytest.raises(DeviceFault) as caught:
            call()
        assert caught.value.sticky and caught.value.error_code == status


def test_two_drivers_of_one_library(d: Driver) -> None:
    """They share what the library keeps: both are usable, and an address of one is good for the other."""
    other = type(d)(d.path)
    assert other.ffi is d.ffi and other.place_of(1) == d.place_of(1)
    other.free(d.malloc(64))


def test_the_process_finds_it(sim: Simulation) -> None:
    found = gpu.drivers()
    assert list(found) == [sim.kind] and isinstance(found[sim.kind], VENDORS[sim.kind])


def test_destructors_find_nothing_new(d: Driver) -> None:
    """cffi makes a function under a lock, which a destructor that the collector runs meanwhile must not wait for."""
    lacking = {name for name in d.NAMES if name not in vars(d.api)}
    for name in lacking:
        with pytest.raises(UnsupportedError):
            getattr(d.api, name)
    assert not lacking & {"free", "host_free", "module_unload", "stream_destroy", "event_destroy", "graph_destroy"}
