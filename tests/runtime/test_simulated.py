"""The simulated driver enforces the rules that it is there to enforce: asked by its entry points, without bindings."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from simulated import Simulation, library, simulated

from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import jit

HIP_NAMES = {
    "cuInit": "hipInit", "cuMemAlloc_v2": "hipMalloc", "cuMemFree_v2": "hipFree", "cuMemGetInfo_v2": "hipMemGetInfo",
    "cuMemHostAlloc": "hipHostMalloc", "cuMemFreeHost": "hipHostFree", "cuMemHostRegister_v2": "hipHostRegister",
    "cuMemHostUnregister": "hipHostUnregister", "cuMemcpyHtoDAsync_v2": "hipMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync_v2": "hipMemcpyDtoHAsync", "cuMemcpyDtoDAsync_v2": "hipMemcpyDtoDAsync",
    "cuMemsetD8Async": "hipMemsetD8Async", "cuStreamCreate": "hipStreamCreateWithFlags",
    "cuStreamDestroy_v2": "hipStreamDestroy", "cuStreamSynchronize": "hipStreamSynchronize",
    "cuStreamQuery": "hipStreamQuery", "cuStreamWaitEvent": "hipStreamWaitEvent",
    "cuEventCreate": "hipEventCreateWithFlags", "cuEventDestroy_v2": "hipEventDestroy",
    "cuEventRecord": "hipEventRecord", "cuEventQuery": "hipEventQuery", "cuEventSynchronize": "hipEventSynchronize",
    "cuEventElapsedTime": "hipEventElapsedTime", "cuCtxSynchronize": "hipDeviceSynchronize",
    "cuModuleLoadData": "hipModuleLoadData", "cuModuleUnload": "hipModuleUnload",
    "cuModuleGetFunction": "hipModuleGetFunction", "cuFuncSetAttribute": "hipFuncSetAttribute",
    "cuLaunchKernel": "hipModuleLaunchKernel", "cuLaunchCooperativeKernel": "hipModuleLaunchCooperativeKernel",
    "cuStreamBeginCapture_v2": "hipStreamBeginCapture", "cuStreamEndCapture": "hipStreamEndCapture",
    "cuStreamGetCaptureInfo": "hipStreamGetCaptureInfo",
    "cuThreadExchangeStreamCaptureMode": "hipThreadExchangeStreamCaptureMode",
    "cuGraphInstantiateWithFlags": "hipGraphInstantiateWithFlags", "cuGraphLaunch": "hipGraphLaunch",
    "cuGraphExecUpdate_v2": "hipGraphExecUpdate", "cuGraphDestroy": "hipGraphDestroy",
    "cuGraphExecDestroy": "hipGraphExecDestroy", "cuGraphGetNodes": "hipGraphGetNodes",
}  # fmt: skip
NON_BLOCKING = 1
tl: Any = None  # in a kernel, Triton's


@jit
def scaled_kernel(outs, x, scale, shift, one, nothing, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at * one, at < n) * scale + shift.to(tl.float32)
    if nothing is None:
        tl.store(outs[0] + at, value, at < n)
    tl.store(outs[1] + at, value + 1, at < n)


U64 = ctypes.c_uint64


class Raw:
    """The entry points, by CUDA's names: integers and strings in, statuses out."""

    def __init__(self, sim: Simulation) -> None:
        self.sim, self.cuda = sim, sim.kind == "cuda"
        self.lib = ctypes.CDLL(library(sim.kind))

    def status(self, name: str, *args: Any) -> int:
        function = getattr(self.lib, name if self.cuda else HIP_NAMES[name])
        return int(function(*(U64(a & 2**64 - 1) if isinstance(a, int) else a for a in args)))

    def __call__(self, name: str, *args: Any) -> None:
        assert self.status(name, *args) == 0, (name, self.sim.violations)

    def made(self, name: str, *args: Any) -> int:
        out = U64()
        self(name, ctypes.byref(out), *args)
        return out.value

    def use(self, device: int) -> None:
        if self.cuda:
            out = U64()
            assert self.lib.cuDevicePrimaryCtxRetain(ctypes.byref(out), device) == 0
            assert self.lib.cuCtxSetCurrent(out) == 0
        else:
            assert self.lib.hipSetDevice(device) == 0

    def malloc(self, nbytes: int) -> int:
        return self.made("cuMemAlloc_v2", nbytes)

    def stream(self, flags: int = NON_BLOCKING) -> int:
        return self.made("cuStreamCreate", flags)

    def event(self) -> int:
        return self.made("cuEventCreate", 0)

    def fill(self, ptr: int, byte: int, n: int, stream: int) -> None:
        self("cuMemsetD8Async", ptr, byte, n, stream)

    def copy(self, dst: int, src: int, n: int, stream: int) -> None:
        self("cuMemcpyDtoDAsync_v2", dst, src, n, stream)

    def bytes(self, ptr: int, n: int) -> set[int]:
        """The bytes that lie there now: nothing is run."""
        return set(ctypes.string_at(ptr, n))

    def function(self, name: str, sizes: tuple[int, ...], run: Any = None) -> int:
        module = self.made("cuModuleLoadData", self.sim.kernel(name, sizes, run))
        return self.made("cuModuleGetFunction", module, name.encode())

    def launch(
        self,
        f: int,
        values: tuple[Any, ...] = (),
        grid: Any = (1, 1, 1),
        block: int = 64,
        shared: int = 0,
        stream: int = 0,
    ) -> int:
        pointers = (ctypes.c_void_p * (len(values) + 1))(*(ctypes.addressof(v) for v in values))
        return self.status("cuLaunchKernel", f, *grid, block, 1, 1, shared, stream, pointers, None)

    def capture(self, stream: int, mode: int = 0) -> None:
        self("cuStreamBeginCapture_v2", stream, mode)

    def end(self, stream: int) -> int:
        out = U64()
        self("cuStreamEndCapture", stream, ctypes.byref(out))
        return out.value

    def update(self, exec_: int, graph: int) -> tuple[int, int]:
        result = (ctypes.c_int * 8)()
        args = (exec_, graph, result) if self.cuda else (exec_, graph, None, result)
        return self.status("cuGraphExecUpdate_v2", *args), result[0]


@pytest.fixture(params=["cuda", "hip"])
def raw(request: pytest.FixtureRequest) -> Iterator[Raw]:
    with simulated(request.param, devices=2, memory=1 << 24) as sim:
        raw = Raw(sim)
        raw("cuInit", 0)
        raw.use(0)
        yield raw


def test_work_waits_until_it_is_needed(raw: Raw) -> None:
    a, s = raw.malloc(64), raw.stream()
    raw.fill(a, 3, 64, s)
    assert raw.bytes(a, 64) == {0xFF} and raw.sim.pending == 1
    assert raw.status("cuStreamQuery", s) == raw.status("cuStreamQuery", s) == 600  # two refusals, then time passes
    assert raw.status("cuStreamQuery", s) == 0 and raw.bytes(a, 64) == {3}


def test_only_what_is_waited_for_runs(raw: Raw) -> None:
    a, b, s, t = raw.malloc(64), raw.malloc(64), raw.stream(), raw.stream()
    raw.fill(a, 3, 64, s)
    raw.copy(b, a, 64, t)  # nobody said that t must wait for s
    raw("cuStreamSynchronize", t)
    assert raw.bytes(b, 64) == {0xFF}
    event = raw.event()
    raw("cuEventRecord", event, s)
    raw("cuStreamWaitEvent", t, event, 0)
    raw.copy(b, a, 64, t)
    raw("cuStreamSynchronize", t)
    assert raw.bytes(b, 64) == {3}


def test_the_legacy_stream_orders_blocking_streams_only(raw: Raw) -> None:
    for flags, seen in ((0, 3), (NON_BLOCKING, 0xFF)):
        a, b, s = raw.malloc(64), raw.malloc(64), raw.stream(flags)
        raw.fill(a, 3, 64, s)
        raw.copy(b, a, 64, 0)
        raw("cuStreamSynchronize", 0)
        assert raw.bytes(b, 64) == {seen}


def test_host_memory(raw: Raw) -> None:
    a = raw.malloc(8)
    pageable = (ctypes.c_char * 8)(*b"before__")
    raw("cuMemcpyHtoDAsync_v2", a, ctypes.addressof(pageable), 8, 0)
    pageable[:] = b"after___"
    raw("cuStreamSynchronize", 0)
    assert ctypes.string_at(a, 8) == b"before__"  # staged by the call
    pinned = raw.made("cuMemHostAlloc", 8, 0)
    ctypes.memmove(pinned, b"before__", 8)
    raw("cuMemcpyHtoDAsync_v2", a, pinned, 8, 0)
    ctypes.memmove(pinned, b"after___", 8)
    raw("cuMemcpyDtoHAsync_v2", ctypes.addressof(pageable), a, 8, 0)  # waits by itself
    assert pageable.raw == b"after___"  # the other was read when the copy ran
    raw("cuMemcpyHtoDAsync_v2", a, pinned, 8, 0)
    raw("cuMemFreeHost", pinned)
    with raw.sim.expect("pinned host memory was freed before"):
        assert raw.status("cuCtxSynchronize") == 700


def test_registered_memory(raw: Raw) -> None:
    memory = np.zeros(64, np.uint8)
    address = memory.ctypes.data
    raw("cuMemHostRegister_v2", address, 64, 0)
    assert raw.status("cuMemHostRegister_v2", address + 8, 8, 0) == 712
    raw("cuMemHostUnregister", address)
    assert raw.status("cuMemHostUnregister", address) == 713


def test_wrong_memory(raw: Raw) -> None:
    a, b = raw.malloc(64), raw.malloc(32)
    with raw.sim.expect("reach 32 bytes past the end"):
        assert raw.status("cuMemcpyDtoDAsync_v2", b, a, 64, 0) == 1
    with raw.sim.expect("no device memory"):
        assert raw.status("cuMemcpyDtoDAsync_v2", b, 12345, 4, 0) == 1
    with raw.sim.expect("not the start"):
        assert raw.status("cuMemFree_v2", a + 8) == 1
    raw("cuMemFree_v2", a)
    assert raw.bytes(a, 64) == {0xFE}
    with raw.sim.expect("freed before"):
        assert raw.status("cuMemFree_v2", a) == 1
    with raw.sim.expect("was freed"):
        assert raw.status("cuMemsetD8Async", a, 0, 1, 0) == 1
    with raw.sim.expect("behind the end"):
        ctypes.memset(b + 32, 0, 1)
        raw("cuMemFree_v2", b)


def test_handles(raw: Raw) -> None:
    s, e = raw.stream(), raw.event()
    with raw.sim.expect("a handle of a event was given where one of a stream"):
        assert raw.status("cuStreamSynchronize", e) == 400
    raw("cuStreamDestroy_v2", s)
    with raw.sim.expect("used after it was destroyed"):
        assert raw.status("cuStreamSynchronize", s) == 400
    with raw.sim.expect("is no handle"):
        assert raw.status("cuEventQuery", 99) == 400
    f = raw.function("k", ())
    module = raw.made("cuModuleLoadData", raw.sim.kernel("other", ()))
    assert raw.status("cuModuleGetFunction", ctypes.byref(U64()), module, b"missing") == 500
    assert raw.launch(f) == 0
    g = raw.made("cuModuleGetFunction", module, b"other")
    raw("cuModuleUnload", module)
    with raw.sim.expect("function was used after"):
        assert raw.launch(g) == 400


def test_a_context_must_be_current() -> None:
    with simulated("cuda") as sim:
        raw = Raw(sim)
        assert raw.status("cuMemAlloc_v2", ctypes.byref(U64()), 8) == 3  # before cuInit
        raw("cuInit", 0)
        with sim.expect("no context is current"):
            assert raw.status("cuMemAlloc_v2", ctypes.byref(U64()), 8) == 201
        raw.use(0)
        raw.malloc(8)
        found: list[int] = []
        with sim.expect("no context is current"):
            thread = threading.Thread(target=lambda: found.append(raw.status("cuCtxSynchronize")))
            thread.start()
            thread.join()
        assert found == [201]


def test_events(raw: Raw) -> None:
    a, start, end, s = raw.malloc(8), raw.event(), raw.event(), raw.stream()
    ms = ctypes.c_float()
    assert raw.status("cuEventQuery", start) == 0  # never recorded
    raw("cuEventRecord", start, s)
    raw.fill(a, 1, 8, s)
    raw("cuEventRecord", end, s)
    assert raw.status("cuEventElapsedTime", ctypes.byref(ms), start, end) == 600
    raw("cuEventSynchronize", end)
    raw("cuEventElapsedTime", ctypes.byref(ms), start, end)
    assert ms.value >= 0 and raw.bytes(a, 8) == {1}
    raw.use(1)
    other = raw.stream()
    with raw.sim.expect("event of device 0"):
        assert raw.status("cuEventRecord", end, other) == 400


def test_a_launch_takes_its_values_at_the_call(raw: Raw) -> None:
    seen: list[Any] = []
    f = raw.function("k", (8, 4, 2, 8), lambda values, grid, block: seen.append((values, grid, block)))
    a, n = U64(raw.malloc(64)), ctypes.c_int32(7)
    values = (a, n, ctypes.c_int16(5), U64(0))
    before = a.value
    assert raw.launch(f, values, (2, 3, 1), 128) == 0
    a.value, n.value = 0, 0
    assert not seen
    raw("cuCtxSynchronize")
    ((raws, grid, block),) = seen
    assert (
        [int.from_bytes(r, "little") for r in raws] == [before, 7, 5, 0] and grid == (2, 3, 1) and block == (128, 1, 1)
    )


def test_limits_of_a_launch(raw: Raw) -> None:
    f = raw.function("k", ())
    wrong = 1 if raw.cuda else 9
    assert raw.launch(f, block=1025) == wrong
    assert raw.launch(f, grid=(0, 1, 1)) == wrong
    assert raw.launch(f, grid=(1, 65537, 1)) == wrong
    most = 232448 if raw.cuda else 65536
    if raw.cuda:
        assert raw.launch(f, shared=49153) == 1
        assert raw.status("cuFuncSetAttribute", f, 8, most + 1) == 1
        raw("cuFuncSetAttribute", f, 8, most)
    assert raw.launch(f, shared=most) == 0
    assert raw.launch(f, shared=most + 1) != 0
    cooperative = [raw.status("cuLaunchCooperativeKernel", f, n, 1, 1, 1024, 1, 1, 0, 0, None) for n in (2, 10**6)]
    assert cooperative == [0, 720]
    raw.use(1)
    with raw.sim.expect("kernel k of device 0"):
        assert raw.launch(f) == 400


def test_a_kernel_that_fails_stops_the_device(raw: Raw) -> None:
    def fail(values: Any, grid: Any, block: Any) -> None:
        raise IndexError("load out of bounds")

    f = raw.function("k", (), fail)
    assert raw.launch(f) == 0
    assert raw.status("cuCtxSynchronize") == 700
    assert raw.status("cuMemAlloc_v2", ctypes.byref(U64()), 8) == 700  # and every call after it
    assert [str(e) for e in raw.sim.exceptions] == ["load out of bounds"]
    raw.use(1)
    raw.malloc(8)  # the other device is well


def test_a_parameter_into_freed_memory(raw: Raw) -> None:
    f, a, g = raw.function("k", (8,)), raw.malloc(64), raw.stream()
    raw.capture(g)
    assert raw.launch(f, (U64(a),), stream=g) == 0
    exec_ = raw.made("cuGraphInstantiateWithFlags", raw.end(g), 0)
    raw("cuMemFree_v2", a)
    raw("cuGraphLaunch", exec_, g)
    with raw.sim.expect("freed before it ran"):
        assert raw.status("cuStreamSynchronize", g) == 700


def test_memory_of_another_device(raw: Raw) -> None:
    f, a = raw.function("k", (8,)), raw.malloc(64)
    raw.use(1)
    b = raw.malloc(64)
    with raw.sim.expect("without peer access"):
        assert raw.status("cuMemcpyDtoDAsync_v2", b, a, 64, 0) == 1
    raw.use(0)
    assert raw.launch(f, (U64(b),)) == 0
    with raw.sim.expect("without peer access"):
        assert raw.status("cuCtxSynchronize") == 700


def test_memory_handed_out_again_too_early(raw: Raw) -> None:
    a, s, t, event = raw.malloc(512), raw.stream(), raw.stream(), raw.event()
    lib = raw.sim._lib
    for wait in (True, False):
        lib.sim_block(a, 100)
        raw.fill(a, 1, 100, s)
        raw("cuEventRecord", event, s)
        raw("cuStreamWaitEvent", t, event, 0)
        raw.fill(a, 2, 100, t)  # a second stream uses it
        lib.sim_unblock(a)
        with raw.sim.expect("given back to the allocator"):
            raw.fill(a, 2, 10, t)
        lib.sim_block(a, 200)
        if wait:
            raw("cuEventRecord", event, t)
            raw("cuStreamWaitEvent", s, event, 0)
            raw.fill(a, 3, 200, s)
        else:
            with raw.sim.expect("record_stream is missing"):
                raw.fill(a, 3, 200, s)
        lib.sim_unblock(a)
        raw("cuCtxSynchronize")


def test_a_block_bounds_copies(raw: Raw) -> None:
    a = raw.malloc(1024)
    raw.sim._lib.sim_block(a, 100)
    with raw.sim.expect("past the end of a block of 100"):
        assert raw.status("cuMemsetD8Async", a + 50, 0, 51, 0) == 1
    with raw.sim.expect("overlaps a living one"):
        raw.sim._lib.sim_block(a + 50, 100)


def test_a_graph_replays_what_was_captured(raw: Raw) -> None:
    a, b, s, t, fork, joined = raw.malloc(64), raw.malloc(64), raw.stream(), raw.stream(), raw.event(), raw.event()
    seen: list[int] = []
    f = raw.function("k", (4,), lambda values, grid, block: seen.append(int.from_bytes(values[0], "little")))
    raw.capture(s)
    raw.fill(a, 5, 64, s)
    raw("cuEventRecord", fork, s)
    raw("cuStreamWaitEvent", t, fork, 0)
    raw.copy(b, a, 64, t)
    assert raw.launch(f, (ctypes.c_int32(9),), stream=t) == 0
    raw("cuEventRecord", joined, t)
    raw("cuStreamWaitEvent", s, joined, 0)
    raw.fill(a, 6, 64, s)
    graph = raw.end(s)
    assert raw.sim.pending == 0
    exec_ = raw.made("cuGraphInstantiateWithFlags", graph, 0)
    for _ in range(2):
        raw("cuGraphLaunch", exec_, s)
        raw("cuStreamSynchronize", s)
    assert raw.bytes(b, 64) == {5} and raw.bytes(a, 64) == {6} and seen == [9, 9]
    raw.capture(s)
    raw.fill(a, 7, 64, s)
    small = raw.end(s)
    assert raw.update(exec_, small) == (910, 2)  # the topology differs
    second = raw.made("cuGraphInstantiateWithFlags", small, 0)
    raw.capture(s)
    raw.fill(a, 8, 64, s)
    assert raw.update(second, raw.end(s)) == (0, 0)
    raw("cuGraphLaunch", second, s)
    raw("cuStreamSynchronize", s)
    assert raw.bytes(a, 64) == {8}
    raw("cuGraphDestroy", graph)
    with raw.sim.expect("graph was used after"):
        assert raw.status("cuGraphInstantiateWithFlags", ctypes.byref(U64()), graph, 0) == 400


@pytest.mark.parametrize(
    ("call", "status"),
    [("malloc", 900), ("free", 900), ("synchronize", 900), ("this stream", 900), ("event", 907), ("isolation", 905),
     ("pageable", 900), ("module", 900)],
)  # fmt: skip
def test_what_a_capture_forbids(raw: Raw, call: str, status: int) -> None:
    a, s, before, within = raw.malloc(64), raw.stream(), raw.event(), raw.event()
    host, out = (ctypes.c_char * 8)(), ctypes.byref(U64())
    raw("cuEventRecord", before, 0)
    raw.capture(s)
    raw("cuEventRecord", within, s)
    found = {
        "malloc": lambda: raw.status("cuMemAlloc_v2", out, 8),
        "free": lambda: raw.status("cuMemFree_v2", a),
        "synchronize": lambda: raw.status("cuCtxSynchronize"),
        "this stream": lambda: raw.status("cuStreamSynchronize", s),
        "event": lambda: raw.status("cuEventQuery", within),
        "isolation": lambda: raw.status("cuStreamWaitEvent", s, before, 0),
        "pageable": lambda: raw.status("cuMemcpyHtoDAsync_v2", a, ctypes.addressof(host), 8, s),
        "module": lambda: raw.status("cuModuleLoadData", out, raw.sim.kernel("k", ())),
    }[call]()
    assert found == status
    assert raw.status("cuMemsetD8Async", a, 0, 8, s) == 901  # the capture is invalid from then on
    assert raw.status("cuStreamEndCapture", s, out) == 901
    raw.fill(a, 0, 8, s)  # and over


def test_the_mode_of_a_capture(raw: Raw) -> None:
    s, mode = raw.stream(), ctypes.c_int(2)
    raw.capture(s)
    raw("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    raw.malloc(8)  # relaxed: allowed
    assert mode.value == 0
    raw("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    raw.end(s)
    found: list[int] = []

    def elsewhere() -> None:
        raw.use(0)
        found.append(raw.status("cuMemAlloc_v2", ctypes.byref(U64()), 8))

    for mode_of_capture in (0, 1):
        raw.capture(s, mode_of_capture)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        raw.status("cuStreamEndCapture", s, ctypes.byref(U64()))
    assert found == [900, 0]  # a global capture forbids it to every thread, a thread's own only to that one


def test_ends_of_a_capture(raw: Raw) -> None:
    a, s, t, event, out = raw.malloc(64), raw.stream(), raw.stream(), raw.event(), ctypes.byref(U64())
    assert raw.status("cuStreamBeginCapture_v2", 0, 0) == 900
    assert raw.status("cuStreamEndCapture", s, out) == 401
    raw.capture(s)
    assert raw.status("cuStreamBeginCapture_v2", s, 0) == 401
    raw("cuEventRecord", event, s)
    raw("cuStreamWaitEvent", t, event, 0)
    raw.fill(a, 1, 64, t)
    assert raw.status("cuStreamEndCapture", s, out) == 904  # t was not joined
    blocking = raw.stream(0)
    raw.capture(blocking)
    assert raw.status("cuMemsetD8Async", a, 0, 8, 0) == 906  # the legacy stream would wait for it
    assert raw.status("cuStreamEndCapture", blocking, out) == 901


def test_faults(raw: Raw) -> None:
    out, entry = ctypes.byref(U64()), "cuMemAlloc_v2" if raw.cuda else "hipMalloc"
    raw.sim.fail(entry, 2, nth=2)
    assert [raw.status("cuMemAlloc_v2", out, 8) for _ in range(3)] == [0, 2, 0]
    raw.sim.fail_allocation(2)
    assert [raw.status("cuMemAlloc_v2", out, 8) for _ in range(3)] == [0, 2, 0]
    raw.sim.limit(raw.sim.used() + 100)
    assert [raw.status("cuMemAlloc_v2", out, n) for n in (101, 100)] == [2, 0]
    raw.sim.fail(entry, 999, always=True)
    assert [raw.status("cuMemAlloc_v2", out, 8) for _ in range(2)] == [999, 999]
    raw.sim.lose(46)
    assert raw.status("cuCtxSynchronize") == 46
    assert raw.sim.count(entry) == 10 and [c.arguments for c in raw.sim.calls if c.name == entry][-1] == {"nbytes": 8}


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
@pytest.mark.parametrize("n", [100, 101])
def test_a_compiled_kernel_is_interpreted(arch: str, n: int) -> None:
    kind = "cuda" if arch == "sm_90" else "hip"
    keys = (("*fp32 16", "*fp32 16"), "*fp32 16", "fp32", "bf16", "=1", "=None", "i32")
    with simulated(kind, arch=arch) as sim:
        raw = Raw(sim)
        raw("cuInit", 0)
        raw.use(0)
        compiled = compiler.compile_kernel(scaled_kernel, keys, {"BLOCK": 64}, arch)
        module = raw.made("cuModuleLoadData", compiled.binary)
        f = raw.made("cuModuleGetFunction", module, compiled.name.encode())
        a, b, x = (raw.malloc(400) for _ in range(3))
        values = np.arange(100, dtype=np.float32)
        raw("cuMemcpyHtoDAsync_v2", x, values.ctypes.data, 400, 0)
        shift = np.array(0.5, ml_dtypes.bfloat16).view(np.int16)
        arguments = (
            U64(a),
            U64(b),
            U64(x),
            ctypes.c_float(2),
            ctypes.c_int16(int(shift)),
            ctypes.c_int32(n),
            U64(),
            U64(),
        )
        threads = compiled.block_warps * (32 if kind == "cuda" else 64)
        assert raw.launch(f, arguments, (2, 1, 1), threads, compiled.shared) == 0
        found = np.zeros((2, 100), np.float32)
        status = [
            raw.status("cuMemcpyDtoHAsync_v2", o.ctypes.data, p, 400, 0) for o, p in zip(found, (a, b), strict=True)
        ]
        if n == 100:
            np.testing.assert_array_equal(found, np.stack([values * 2 + 0.5, values * 2 + 1.5]))
        else:  # one element too many, of an allocation of its own
            assert status == [700, 700] and "load out of bounds at 1 of" in str(sim.exceptions[0])
        other = compiler.compile_kernel(scaled_kernel, keys, {"BLOCK": 64}, "sm_80" if kind == "cuda" else "gfx1100")
        if n == 100:
            assert raw.status("cuModuleLoadData", ctypes.byref(U64()), other.binary) == 209


def test_an_earlier_simulation_leaves_nothing() -> None:
    with simulated("cuda") as sim:
        raw = Raw(sim)
        raw("cuInit", 0)
        raw.use(0)
        stream, memory = raw.stream(), raw.malloc(8)
    with simulated("cuda") as sim:
        raw = Raw(sim)
        raw("cuInit", 0)
        raw.use(0)
        assert raw.malloc(8) != memory
        assert raw.status("cuStreamDestroy_v2", stream) == 4  # late destructors do no harm
        assert raw.status("cuMemFree_v2", memory) == 4
        assert not sim.violations


def test_a_broken_rule_fails_the_block() -> None:
    with pytest.raises(AssertionError, match="no device memory"), simulated("cuda") as sim:
        raw = Raw(sim)
        raw("cuInit", 0)
        raw.use(0)
        raw.status("cuMemsetD8Async", 64, 0, 8, 0)
