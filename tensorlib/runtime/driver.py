"""The driver of a GPU, called through cffi: what CUDA's and HIP's have in common, which is nearly everything.

The two interfaces agree entry point by entry point, with handles, addresses and enums of the same widths. So the calls
are written once, over short names; a vendor's file says what they are called in its library, and holds what differs.
Handles and addresses are Python ints (in C: ``uintptr_t``), 0 is null or the default stream, sizes are bytes. Most
calls concern the device that is current in the calling thread: see `Driver.activate`.

Nothing is loaded before a `Driver` is made: neither cffi nor a library.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import functools
import os
import struct
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from tensorlib.errors import ArgumentError, DeviceError, DriverError, OutOfMemoryError, UnsupportedError

#: TENSORLIB_LAUNCH_BLOCKING=1 waits for every launch, so that a kernel's failure is reported by the launch it is of.
LAUNCH_BLOCKING = os.environ.get("TENSORLIB_LAUNCH_BLOCKING", "") not in ("", "0")

CAPTURE_MODES = ("global", "thread_local", "relaxed")
CAPTURE_STATES = ("none", "active", "invalidated")

_NON_BLOCKING = 1  # of a stream: it does not wait for the default stream
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2  # of an event
_PORTABLE = 1  # of pinned memory: pinned for every device
_VERBOSE = 1  # of a graph's picture

#: Arguments of the entry points that are the same for both vendors, by short name; each returns its status.
#: ``place`` is what says which device a thread works on: a context in CUDA, the device's number in HIP.
SIGNATURES = {
    "init": "unsigned int",
    "driver_version": "int *",
    "device_count": "int *",
    "device": "int *, int",
    "device_name": "char *, int, int",
    "device_uuid": "uuid *, int",
    "device_memory": "size_t *, int",
    "device_attribute": "int *, int, int",
    "set_place": "place",
    "get_place": "place *",
    "synchronize": "void",
    "memory_info": "size_t *, size_t *",
    "malloc": "uintptr_t *, size_t",
    "free": "uintptr_t",
    "copy_to_device": "uintptr_t, uintptr_t, size_t, uintptr_t",
    "copy_to_host": "uintptr_t, uintptr_t, size_t, uintptr_t",
    "copy": "uintptr_t, uintptr_t, size_t, uintptr_t",
    "copy_peer": "uintptr_t, place, uintptr_t, place, size_t, uintptr_t",
    "fill": "uintptr_t, unsigned char, size_t, uintptr_t",
    "can_access_peer": "int *, int, int",
    "enable_peer": "place, unsigned int",
    "host_allocate": "uintptr_t *, size_t, unsigned int",
    "host_free": "uintptr_t",
    "host_register": "uintptr_t, size_t, unsigned int",
    "host_unregister": "uintptr_t",
    "stream_priority_range": "int *, int *",
    "stream_create": "uintptr_t *, unsigned int, int",
    "stream_destroy": "uintptr_t",
    "stream_synchronize": "uintptr_t",
    "stream_query": "uintptr_t",
    "stream_wait_event": "uintptr_t, uintptr_t, unsigned int",
    "event_create": "uintptr_t *, unsigned int",
    "event_destroy": "uintptr_t",
    "event_record": "uintptr_t, uintptr_t",
    "event_query": "uintptr_t",
    "event_synchronize": "uintptr_t",
    "event_elapsed": "float *, uintptr_t, uintptr_t",
    "module_load": "uintptr_t *, const void *",
    "module_unload": "uintptr_t",
    "module_function": "uintptr_t *, uintptr_t, const char *",
    "function_attribute": "int *, int, uintptr_t",
    "capture_begin": "uintptr_t, int",
    "capture_end": "uintptr_t, uintptr_t *",
    "capture_info": "uintptr_t, int *, unsigned long long *, uintptr_t *, const uintptr_t **, size_t *",
    "exchange_capture_mode": "int *",
    "graph_instantiate": "uintptr_t *, uintptr_t, unsigned long long",
    "graph_launch": "uintptr_t, uintptr_t",
    "graph_upload": "uintptr_t, uintptr_t",
    "graph_destroy": "uintptr_t",
    "graph_exec_destroy": "uintptr_t",
    "graph_debug_dot": "uintptr_t, const char *, unsigned int",
    "graph_nodes": "uintptr_t, uintptr_t *, size_t *",
}

#: Attributes of a function, the same numbers in both: what `Driver.function_attributes` calls them.
FUNCTION_ATTRIBUTES = {"max_threads": 0, "shared": 1, "constant": 2, "local": 3, "registers": 4}

# Statuses with one number in both vendors' lists.
_OUT_OF_MEMORY = 2
_INVALID_CONTEXT, _INVALID_HANDLE = 201, 400
_NOT_READY = 600
_PEER_ACCESS_ALREADY_ENABLED = 704
_HOST_MEMORY_ALREADY_REGISTERED = 712
_GRAPH_EXEC_UPDATE_FAILURE = 910

#: What to do, by status.
_REMEDIES = {
    209: "the kernel was compiled for another GPU than this one",
    214: "the GPU's memory failed: run nvidia-smi or rocm-smi, and restart the machine if it says so",
    220: "the link between GPUs failed: run nvidia-smi nvlink -e",
    701: "a block asks for more threads, registers or shared memory than there are: smaller blocks, fewer warps",
    702: "a kernel ran longer than the watchdog of a GPU with a display allows",
    720: "a cooperative launch must fit on the GPU at once: a smaller grid",
    900: "this call cannot be recorded in a graph",
    901: "an earlier error made the capture void: see the first one",
    904: "a stream that was forked from the captured one was not joined to it again",
    905: "a stream outside the capture depends on one inside it, or the reverse",
    906: "the default stream cannot be captured, nor used while a stream that waits for it is",
    908: "a capture must end in the thread that began it",
}
_FAULT = (
    "the error may be of any kernel launched before: set TENSORLIB_LAUNCH_BLOCKING=1 to be told which, or move the "
    "tensors to device 'interpret', which checks every access. This process cannot use the GPU any more: restart it"
)


class Unavailable(DeviceError):
    """A vendor's GPUs cannot be used here; the text says why and what to do."""


class OutOfDeviceMemory(DriverError, OutOfMemoryError):
    """The device, or the pinned host memory, has not so much left."""


class DeviceFault(DriverError):
    """A kernel or the hardware failed, and the device's context is lost to this process: everything later fails too."""

    sticky = True


@dataclass(frozen=True, slots=True)
class Properties:
    """What a device is, in the names of ``torch.cuda.get_device_properties``."""

    name: str
    major: int
    minor: int
    total_memory: int  #: bytes
    multi_processor_count: int
    warp_size: int
    max_threads_per_multi_processor: int
    regs_per_multiprocessor: int
    shared_memory_per_block: int  #: bytes, as are all that follow
    shared_memory_per_block_optin: int
    shared_memory_per_multiprocessor: int
    L2_cache_size: int
    clock_rate: int  #: kHz
    memory_clock_rate: int  #: kHz
    memory_bus_width: int  #: bits
    is_integrated: bool
    uuid: str
    pci_bus_id: int
    pci_device_id: int
    pci_domain_id: int
    gcnArchName: str  #: "gfx942:sramecc+:xnack-"; "" on CUDA
    target: str  #: what kernels are compiled for: "sm_90", "gfx942"


class Entries:
    """The library's functions under their short names, each found when it is first asked for: by Driver's beginning.

    In a forked child they are all forgotten, and asking for one is an error: so a call costs no check of that.
    """

    def __init__(self, driver: Driver, library: Any) -> None:
        self._driver = weakref.ref(driver)
        self._library = library
        self._forked = False

    def __getattr__(self, name: str) -> Any:
        driver = self._driver()
        if driver is None:  # it is collected together with what still refers to it
            raise DeviceError("the GPU's driver is not used any more")
        if name not in driver.NAMES:
            raise AttributeError(name)
        if self._forked:
            raise DeviceError(_fork_text(driver.label))
        symbol, since = driver.NAMES[name], driver.SINCE.get(name)
        try:
            found = getattr(self._library, symbol)
        except AttributeError:
            if not any(driver.version):  # the first function that is asked for
                raise UnsupportedError(f"it has no function {symbol}") from None
            needed = f"it came with {driver.label} {since}" if since else "every driver that is recent enough has it"
            raise UnsupportedError(
                f"{symbol}: {driver.path}, {driver.label} {_dotted(driver.version)}, has no such function: {needed}; "
                f"install a newer driver"
            ) from None
        setattr(self, name, found)
        return found

    def forget(self) -> None:
        """The process was forked: nothing here may be called any more."""
        driver = self._driver
        self.__dict__.clear()
        self._driver, self._forked = driver, True


_IN_DESTRUCTORS = ("int *", "uintptr_t *", "size_t *", "place *", "const char **", "char[]")  # types, as C has them


class Prepared:
    """The launch of one function by blocks of one size, as text that the code of a launch is generated with.

    Nothing is called between that code and the driver then, and what the driver reads from memory is packed together
    with the kernel's arguments. Called, it does the same the long way.
    """

    def __init__(
        self,
        driver: Driver,
        entry: str,
        head: Sequence[tuple[str, str]],
        arguments: str,
        scope: dict[str, Any],
        shape: tuple[int, int, int],
        kind: str = "void *",
    ) -> None:
        #: (letter of `struct`, expression of x, y, z and stream) of what lies in memory before the arguments; pad bytes
        #: have no expression.
        self.head = tuple(head)
        self.letters = "".join(letter for letter, _ in head)
        self.values = [expression for _, expression in head if expression]
        self.size = struct.calcsize("<" + self.letters)
        self.scope = {"api": driver.api, "repeat": driver._repeat, "null": driver.ffi.NULL, **scope}
        self._ffi, self._kind = driver.ffi, kind
        self._entry, self._arguments = entry, arguments
        self._scale, block, shared = shape  # the grid that the driver is given is so many times as large
        self._rest = f"{block}, {shared}"
        self._home = driver.place()
        self._code: Any = None

    def pointer(self, memory: Any) -> Any:
        """The driver's pointer to a `head` in memory."""
        return self._ffi.cast(self._kind, memory)

    def lines(self, head: str = "head", params: str = "params", names: str = "", grid: str = "x, y, z") -> list[str]:
        """The statements of a launch, where head and params name the driver's pointers to what was packed.

        names: a prefix of the names in `scope`. grid: what the sizes are called; `stream` is called so.
        """
        x, y, z = grid.split(", ")
        a = self._arguments.format(head=head, params=params, p=names, x=x, y=y, z=z)
        shape = f"({x} * {self._scale}, {y}, {z}, {self._rest})" if self._scale > 1 else f"({grid}, {self._rest})"
        return [
            f"status = {names}api.{self._entry}({a})",
            f"if status: {names}repeat({self._entry!r}, status, {self._home}, ({a}), {shape})",
        ]

    def __call__(self, x: int, y: int, z: int, stream: int, params: Any) -> None:
        """Launch (x, y, z) programs; params is cffi's ``void *[]`` of the arguments' addresses."""
        if self._code is None:
            values = "".join(f", {value}" for value in self.values)
            lines = ["def launch(x, y, z, stream, params, memory, head):", f"    pack(memory, 0{values})"]
            lines += ["    " + line for line in self.lines()]
            scope = {**self.scope, "pack": struct.Struct("<" + self.letters).pack_into}
            exec("\n".join(lines), scope)
            self._code = scope["launch"]
        memory = self._ffi.new("char[]", self.size + 1)
        self._code(x, y, z, stream, params, self._ffi.buffer(memory), self.pointer(memory))


class Driver(abc.ABC):
    """One vendor's driver. A call that fails raises DriverError with the driver's name and text of the error.

    ``path``: the library; None takes what the vendor's environment variable names, or else looks in the usual places.
    Unavailable where there is no library, no device, or a driver too old.
    """

    kind: ClassVar[str]
    label: ClassVar[str]  # the vendor's name in messages
    VARIABLE: ClassVar[str]  # the environment variable that names a library
    LIBRARIES: ClassVar[tuple[str, ...]]
    INSTALL: ClassVar[str]  # what to do where there is no library
    OLDEST: ClassVar[tuple[int, int]]
    NAMES: ClassVar[dict[str, str]]  # short name -> the library's
    SINCE: ClassVar[dict[str, str]] = {}  # short name -> the version that brought it, where older ones are supported
    DECLARATIONS: ClassVar[str]  # in C: the types `place` and `uuid`, and the vendor's own functions
    ATTRIBUTES: ClassVar[dict[str, int]]  # a field of Properties -> the device attribute
    STICKY: ClassVar[frozenset[int]]
    ELSEWHERE: ClassVar[frozenset[int]] = frozenset({_INVALID_CONTEXT, _INVALID_HANDLE})  # another device is current?
    INIT_REMEDIES: ClassVar[dict[int, str]]

    ffi: Any
    path: str
    version: tuple[int, int] = (0, 0)
    count: int

    def __init__(self, path: str | None = None) -> None:
        if self.kind in _forked:
            raise DeviceError(_fork_text(self.label))
        #: What else is to be said of a fault: which launches came before it.
        self.explain: list[Callable[[], str]] = []
        self._lock = threading.RLock()
        self._images: dict[int, Any] = {}
        self._peers: set[tuple[int, int]] = set()
        library = self._open(path)
        try:
            self.ffi = _interface(type(self))
        except ImportError as error:
            raise Unavailable(
                f"{self.label}: {self.path} is there, and the package that calls it is not ({error}): pip install cffi"
            ) from None
        self.api = Entries(self, self.ffi.dlopen(self.ffi.cast("void *", library)))
        # cffi makes a function or a type under a lock, at its first use. A destructor that the collector runs meanwhile
        # on the same thread would wait for ever for another one: so all of them are made now.
        for name in self.NAMES:
            with contextlib.suppress(UnsupportedError):
                getattr(self.api, name)
        for kind in _IN_DESTRUCTORS:
            self.ffi.typeof(kind)
        self.forked = False
        try:
            self._start()
        except UnsupportedError as error:
            raise Unavailable(f"{self.label}: {self.path} cannot be used as its driver: {error}") from None
        _drivers.add(self)

    # -- loading
    def _open(self, path: str | None) -> int:
        """dlopen's handle of the library; ctypes opens it, as cffi runs compilers to find what is not there."""
        given = path or os.environ.get(self.VARIABLE)
        names = [given] if given else self._candidates()
        reasons = []
        # A library that the process has already loaded comes first: two HIP runtimes in one process do not get along.
        loaded = getattr(os, "RTLD_NOLOAD", 0)
        for only in (loaded, 0) if loaded else (0,):
            for name in names:
                try:
                    library = ctypes.CDLL(name, only | ctypes.DEFAULT_MODE)
                except OSError as error:
                    if not only:
                        reasons.append(str(error))
                    continue
                self.path = name
                return library._handle
        others = [r for r in reasons if "No such file" not in r or r.split(":")[0] not in names]
        if given:
            what = f"{given} (named by {self.VARIABLE})" if path is None else given
            raise Unavailable(f"{self.label}: the library {what} cannot be loaded: {'; '.join(reasons)}")
        if others:
            raise Unavailable(f"{self.label}: its driver is there and cannot be loaded: {'; '.join(others)}")
        raise Unavailable(f"{self.label}: there is no {self.LIBRARIES[0]}: {self.INSTALL}")

    def _candidates(self) -> list[str]:
        return list(self.LIBRARIES)

    def _start(self) -> None:
        """Version, initialisation, number of devices."""
        number = self.ffi.new("int *")
        self._check_start("driver_version", self.api.driver_version(number))
        self.version = self._version(number[0])
        if self.version < self.OLDEST:
            raise Unavailable(
                f"{self.label}: the driver is too old: {self.path} is of {self.label} {_dotted(self.version)}, "
                f"expected {_dotted(self.OLDEST)} or later: install a newer driver"
            )
        self._check_start("init", self.api.init(0))
        self._check_start("device_count", self.api.device_count(number))
        self.count = number[0]
        if self.count < 1:
            raise Unavailable(f"{self.label}: the driver finds no GPU: {self._none_text()}")

    def _check_start(self, entry: str, status: int) -> None:
        if status:
            remedy = self.INIT_REMEDIES.get(status)
            text = self._none_text() if remedy is None and status in (100, 101) else remedy
            raise Unavailable(f"{self.label}: {self._failed(entry, status)}" + (f": {text}" if text else ""))

    def _none_text(self) -> str:
        """Why there may be no device."""
        hidden = [f"{name}={os.environ[name]!r}" for name in self._hiding() if name in os.environ]
        if hidden:
            return f"{' and '.join(hidden)} may hide it"
        return "none is installed, or this container or user was not given one"

    @abc.abstractmethod
    def _hiding(self) -> tuple[str, ...]:
        """Environment variables that can make devices disappear."""

    @abc.abstractmethod
    def _version(self, number: int) -> tuple[int, int]:
        """(major, minor) of the library's one number."""

    # -- errors
    @abc.abstractmethod
    def _describe(self, status: int) -> tuple[str, str]:
        """The driver's name and text of a status."""

    def _failed(self, entry: str, status: int) -> str:
        name, text = self._describe(status)
        shown = self.NAMES[entry]
        if shown[-3:-1] == "_v":
            shown = shown[:-3]
        return f"{shown}: {name} ({status})" + (f": {text}" if text and text != name else "")

    def error(self, entry: str, status: int, detail: str = "") -> DriverError:
        """The error of a call: by its short name, the status it returned, and what else is to be said."""
        message = self._failed(entry, status)
        kind = OutOfDeviceMemory if status == _OUT_OF_MEMORY else DeviceFault if status in self.STICKY else DriverError
        for more in (detail, _REMEDIES.get(status, ""), _FAULT if kind is DeviceFault else ""):
            if more:
                message += f"; {more}"
        if kind is DeviceFault:
            message += "".join([explain() for explain in self.explain])
        return kind(message, status, self._describe(status)[0])

    def fail(self, entry: str, status: int, detail: str = "") -> NoReturn:
        """Raise the error of a call."""
        raise self.error(entry, status, detail)

    # -- devices
    def attribute(self, index: int, number: int) -> int:
        """A device attribute by the vendor's number."""
        value = self.ffi.new("int *")
        status = self.api.device_attribute(value, number, self._device(index))
        if status:
            self.fail("device_attribute", status, f"attribute {number} of device {index}")
        return value[0]

    def _device(self, index: int) -> int:
        """The driver's number of the index-th device."""
        found = self.ffi.new("int *")
        status = self.api.device(found, index)
        if status:
            self.fail("device", status, f"device {index} of {self.count}")
        return found[0]

    def properties(self, index: int) -> Properties:
        """Everything that PyTorch's device properties say of a device."""
        device = self._device(index)
        name, memory, identity = self.ffi.new("char[256]"), self.ffi.new("size_t *"), self.ffi.new("uuid *")
        for entry, status in (
            ("device_name", self.api.device_name(name, 255, device)),
            ("device_memory", self.api.device_memory(memory, device)),
            ("device_uuid", self.api.device_uuid(identity, device)),
        ):
            if status:
                self.fail(entry, status, f"device {index}")
        values: dict[str, Any] = {field: self.attribute(index, number) for field, number in self.ATTRIBUTES.items()}
        values["is_integrated"] = bool(values["is_integrated"])
        return Properties(
            name=self.ffi.string(name).decode(errors="replace"),
            total_memory=memory[0],
            uuid=str(uuid.UUID(bytes=bytes(self.ffi.buffer(identity)))),
            **self._architecture(index, values),
        )

    @abc.abstractmethod
    def _architecture(self, index: int, values: dict[str, Any]) -> dict[str, Any]:
        """Add gcnArchName and target, and repair what the vendor's attributes leave out."""

    def activate(self, index: int) -> None:
        """Make a device the calling thread's current one. Not cached: another library may have changed it."""
        status = self.api.set_place(self.place_of(index))
        if status:
            self.fail("set_place", status, f"device {index} of {self.count}")

    @abc.abstractmethod
    def place_of(self, index: int) -> int:
        """What makes a device current: its primary context (CUDA), its number (HIP)."""

    def place(self) -> int:
        """What is current in this thread; 0 may stand for nothing."""
        found = self.ffi.new("place *")
        status = self.api.get_place(found)
        if status:
            self.fail("get_place", status)
        return found[0]

    def set_place(self, place: int) -> None:
        """Make current again what `place` told."""
        status = self.api.set_place(place)
        if status:
            self.fail("set_place", status)

    @contextlib.contextmanager
    def at(self, place: int) -> Iterator[None]:
        """Within the block the thread works at that place; afterwards where it was."""
        before = self.place()
        if before == place:
            yield
            return
        self.set_place(place)
        try:
            yield
        finally:
            self.set_place(before)

    def synchronize(self) -> None:
        """Wait until the current device has done everything."""
        status = self.api.synchronize()
        if status:
            self.fail("synchronize", status)

    # -- memory
    def malloc(self, nbytes: int) -> int:
        """Device memory, aligned to 256 bytes or more. OutOfDeviceMemory where there is not so much."""
        found = self.ffi.new("uintptr_t *")
        status = self.api.malloc(found, nbytes)
        if status:
            self.fail("malloc", status, f"{nbytes:,} bytes")
        return found[0]

    def free(self, ptr: int) -> None:
        """Give device memory back. The driver waits for the device first."""
        status = self.api.free(ptr)
        if status:
            self.fail("free", status, f"address {ptr:#x}")

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the current device."""
        free, total = self.ffi.new("size_t *"), self.ffi.new("size_t *")
        status = self.api.memory_info(free, total)
        if status:
            self.fail("memory_info", status)
        return free[0], total[0]

    def copy_to_device(self, ptr: int, host: int, nbytes: int, stream: int = 0) -> None:
        """Host to device, in the stream's order; asynchronous from pinned memory."""
        status = self.api.copy_to_device(ptr, host, nbytes, stream)
        if status:
            self.fail("copy_to_device", status, f"{nbytes:,} bytes")

    def copy_to_host(self, host: int, ptr: int, nbytes: int, stream: int = 0) -> None:
        """Device to host, in the stream's order; asynchronous to pinned memory."""
        status = self.api.copy_to_host(host, ptr, nbytes, stream)
        if status:
            self.fail("copy_to_host", status, f"{nbytes:,} bytes")

    def copy(self, dst: int, src: int, nbytes: int, stream: int = 0) -> None:
        """Device to device, in the stream's order."""
        status = self.api.copy(dst, src, nbytes, stream)
        if status:
            self.fail("copy", status, f"{nbytes:,} bytes")

    def fill(self, ptr: int, byte: int, nbytes: int, stream: int = 0) -> None:
        """Set every byte, in the stream's order."""
        status = self.api.fill(ptr, byte, nbytes, stream)
        if status:
            self.fail("fill", status, f"{nbytes:,} bytes")

    def copy_peer(self, dst: int, dst_index: int, src: int, src_index: int, nbytes: int, stream: int = 0) -> None:
        """From one device to another, in the stream's order; through the host where neither reaches the other."""
        status = self.api.copy_peer(dst, self.place_of(dst_index), src, self.place_of(src_index), nbytes, stream)
        if status:
            self.fail("copy_peer", status, f"{nbytes:,} bytes from device {src_index} to {dst_index}")

    def can_access_peer(self, index: int, peer: int) -> bool:
        """Whether kernels of one device can read another's memory."""
        found = self.ffi.new("int *")
        status = self.api.can_access_peer(found, self._device(index), self._device(peer))
        if status:
            self.fail("can_access_peer", status, f"device {index} to {peer}")
        return bool(found[0])

    def enable_peer(self, index: int, peer: int) -> None:
        """Let kernels of a device read a peer's memory. Again is no error."""
        if (index, peer) in self._peers:
            return
        with self.at(self.place_of(index)):
            status = self.api.enable_peer(self.place_of(peer), 0)
        if status and status != _PEER_ACCESS_ALREADY_ENABLED:
            self.fail("enable_peer", status, f"device {index} to {peer}")
        self._peers.add((index, peer))

    def host_allocate(self, nbytes: int) -> int:
        """Pinned host memory, pinned for every device."""
        found = self.ffi.new("uintptr_t *")
        status = self.api.host_allocate(found, nbytes, _PORTABLE)
        if status:
            self.fail("host_allocate", status, f"{nbytes:,} bytes of pinned host memory")
        return found[0]

    def host_free(self, ptr: int) -> None:
        """Give pinned host memory back."""
        status = self.api.host_free(ptr)
        if status:
            self.fail("host_free", status, f"address {ptr:#x}")

    def host_register(self, ptr: int, nbytes: int) -> None:
        """Pin host memory that is there already."""
        status = self.api.host_register(ptr, nbytes, _PORTABLE)
        if status:
            self.fail("host_register", status, f"{nbytes:,} bytes at {ptr:#x}")

    def host_unregister(self, ptr: int) -> None:
        """Unpin what was registered."""
        status = self.api.host_unregister(ptr)
        if status:
            self.fail("host_unregister", status, f"address {ptr:#x}")

    # -- streams and events
    def stream_priority_range(self) -> tuple[int, int]:
        """(least, greatest): lower numbers come first, so that greatest <= least."""
        least, greatest = self.ffi.new("int *"), self.ffi.new("int *")
        status = self.api.stream_priority_range(least, greatest)
        if status:
            self.fail("stream_priority_range", status)
        return least[0], greatest[0]

    def stream_create(self, priority: int = 0) -> int:
        """A stream that does not wait for the default one."""
        found = self.ffi.new("uintptr_t *")
        status = self.api.stream_create(found, _NON_BLOCKING, priority)
        if status:
            self.fail("stream_create", status)
        return found[0]

    def stream_destroy(self, stream: int) -> None:
        """Work that it was given is still done."""
        status = self.api.stream_destroy(stream)
        if status:
            self.fail("stream_destroy", status)

    def stream_synchronize(self, stream: int) -> None:
        """Wait for everything that the stream was given."""
        status = self.api.stream_synchronize(stream)
        if status:
            self.fail("stream_synchronize", status)

    def stream_query(self, stream: int) -> bool:
        """Whether the stream has done everything."""
        status = self.api.stream_query(stream)
        if status and status != _NOT_READY:
            self.fail("stream_query", status)
        return not status

    def stream_wait_event(self, stream: int, event: int) -> None:
        """What the stream is given from now on waits for the event as last recorded."""
        status = self.api.stream_wait_event(stream, event, 0)
        if status:
            self.fail("stream_wait_event", status)

    def event_create(self, timing: bool = False, blocking: bool = False) -> int:
        """An event; ``blocking``: a thread that waits for it sleeps, where it otherwise spins."""
        found = self.ffi.new("uintptr_t *")
        flags = (0 if timing else _DISABLE_TIMING) | (_BLOCKING_SYNC if blocking else 0)
        status = self.api.event_create(found, flags)
        if status:
            self.fail("event_create", status)
        return found[0]

    def event_destroy(self, event: int) -> None:
        """Give an event back; whoever waits for it already still does."""
        status = self.api.event_destroy(event)
        if status:
            self.fail("event_destroy", status)

    def event_record(self, event: int, stream: int = 0) -> None:
        """The event happens when the stream has done what it was given up to now."""
        status = self.api.event_record(event, stream)
        if status:
            self.fail("event_record", status)

    def event_query(self, event: int) -> bool:
        """Whether it has happened; True of an event that was never recorded."""
        status = self.api.event_query(event)
        if status and status != _NOT_READY:
            self.fail("event_query", status)
        return not status

    def event_synchronize(self, event: int) -> None:
        """Wait for the event."""
        status = self.api.event_synchronize(event)
        if status:
            self.fail("event_synchronize", status)

    def event_elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two events that were made with timing."""
        found = self.ffi.new("float *")
        status = self.api.event_elapsed(found, start, end)
        if status:
            self.fail("event_elapsed", status)
        return found[0]

    # -- modules and launches
    def module_load(self, image: bytes) -> int:
        """Load a compiled image, a cubin or a code object, on the current device."""
        found, data = self.ffi.new("uintptr_t *"), self.ffi.from_buffer(image)
        status = self.api.module_load(found, data)
        if status:
            self.fail("module_load", status, f"an image of {len(image):,} bytes")
        self._images[found[0]] = data  # HIP reads it again, from where it is, when a function is first asked for
        return found[0]

    def module_unload(self, module: int) -> None:
        """Its functions must not be launched any more."""
        status = self.api.module_unload(module)
        self._images.pop(module, None)
        if status:
            self.fail("module_unload", status)

    def function(self, module: int, name: str) -> int:
        """A kernel of a module, by name."""
        found = self.ffi.new("uintptr_t *")
        status = self.api.module_function(found, module, name.encode())
        if status:
            self.fail("module_function", status, f"function {name!r}")
        return found[0]

    def function_attributes(self, function: int) -> dict[str, int]:
        """max_threads of a block; static shared and constant bytes; local bytes (spills) and registers of a thread."""
        value, found = self.ffi.new("int *"), {}
        for name, number in FUNCTION_ATTRIBUTES.items():
            status = self.api.function_attribute(value, number, function)
            if status:
                self.fail("function_attribute", status, name)
            found[name] = value[0]
        return found

    @abc.abstractmethod
    def allow_shared(self, function: int, nbytes: int) -> None:
        """Let a function have so much dynamic shared memory, where more than 48 KB need leave."""

    @abc.abstractmethod
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
        """The launch of a function of the current device: by blocks of so many threads, with so much shared memory.

        num_ctas: programs of a cluster; the grid given to the launch counts clusters. cooperative: all blocks are on
        the GPU at once. pdl: it may start while the launch before it ends. Where another library has changed the
        thread's device, the launch puts it right and is repeated.
        """

    def _repeat(self, entry: str, status: int, home: int, args: tuple[Any, ...], shape: tuple[int, ...]) -> None:
        """A launch failed: once more on its own device if that was not current, else its error.

        The arguments of the call are given, and not a closure over them, which would cost every launch its cells.
        """
        if status in self.ELSEWHERE and self.place() != home:
            self.set_place(home)
            status = getattr(self.api, entry)(*args)
            if not status:
                return
        gx, gy, gz, block, shared = shape
        too_large = self._grid_limit(gx, gy, gz, block)
        detail = f"grid ({gx}, {gy}, {gz}), {block} threads a block, {shared:,} bytes of shared memory"
        self.fail(entry, status, f"{detail}; {too_large}" if too_large and status not in self.STICKY else detail)

    @abc.abstractmethod
    def _grid_limit(self, gx: int, gy: int, gz: int, block: int) -> str:
        """What a grid breaks, or ""."""

    # -- capture and graphs
    def capture_begin(self, stream: int, mode: str = "global") -> None:
        """From now on work given to the stream is recorded, not done. mode: which other calls are errors meanwhile."""
        status = self.api.capture_begin(stream, _capture_mode(mode))
        if status:
            self.fail("capture_begin", status)

    def capture_end(self, stream: int) -> int:
        """The graph of what was recorded."""
        found = self.ffi.new("uintptr_t *")
        status = self.api.capture_end(stream, found)
        if status:
            self.fail("capture_end", status)
        return found[0]

    def capture_info(self, stream: int) -> tuple[str, int]:
        """("none", "active" or "invalidated", number of the capture)."""
        state, number, null = self.ffi.new("int *"), self.ffi.new("unsigned long long *"), self.ffi.NULL
        status = self.api.capture_info(stream, state, number, null, null, null)
        if status:
            self.fail("capture_info", status)
        return CAPTURE_STATES[state[0]], number[0]

    def exchange_capture_mode(self, mode: str) -> str:
        """Which calls this thread may make while streams are captured; returns the mode before."""
        value = self.ffi.new("int *", _capture_mode(mode))
        status = self.api.exchange_capture_mode(value)
        if status:
            self.fail("exchange_capture_mode", status)
        return CAPTURE_MODES[value[0]]

    def graph_instantiate(self, graph: int) -> int:
        """A graph that can be launched. The graph itself is not needed any more."""
        found = self.ffi.new("uintptr_t *")
        status = self.api.graph_instantiate(found, graph, 0)
        if status:
            self.fail("graph_instantiate", status)
        return found[0]

    def graph_launch(self, executable: int, stream: int = 0) -> None:
        """Do everything the graph holds, in the stream's order."""
        status = self.api.graph_launch(executable, stream)
        if status:
            self.fail("graph_launch", status)

    def graph_update(self, executable: int, graph: int) -> bool:
        """Give an instantiated graph the arguments of another of the same shape; False where the shapes differ."""
        status = self._graph_update(executable, graph)
        if status and status != _GRAPH_EXEC_UPDATE_FAILURE:
            self.fail("graph_update", status)
        return not status

    @abc.abstractmethod
    def _graph_update(self, executable: int, graph: int) -> int:
        """The status of the update."""

    def graph_destroy(self, graph: int) -> None:
        """Give a graph back; what was instantiated from it stays."""
        status = self.api.graph_destroy(graph)
        if status:
            self.fail("graph_destroy", status)

    def graph_exec_destroy(self, executable: int) -> None:
        """Give an instantiated graph back."""
        status = self.api.graph_exec_destroy(executable)
        if status:
            self.fail("graph_exec_destroy", status)

    def graph_upload(self, executable: int, stream: int = 0) -> None:
        """Bring an instantiated graph to the device now, where its first launch would."""
        status = self.api.graph_upload(executable, stream)
        if status:
            self.fail("graph_upload", status)

    def graph_debug_dot(self, graph: int, path: str) -> None:
        """Write a picture of a graph, for Graphviz."""
        status = self.api.graph_debug_dot(graph, os.fsencode(path), _VERBOSE)
        if status:
            self.fail("graph_debug_dot", status, path)

    def graph_nodes(self, graph: int) -> int:
        """How many nodes a graph has."""
        found = self.ffi.new("size_t *")
        status = self.api.graph_nodes(graph, self.ffi.NULL, found)
        if status:
            self.fail("graph_nodes", status)
        return found[0]

    def tensor_map(
        self,
        *,
        ptr: int,
        dtype: Any,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        block: tuple[int, ...],
        swizzle: int,
        fill_nan: bool = False,
    ) -> bytes:
        """A tensor map for TMA: 128 bytes. Sizes and strides are counted in elements, the last stride is 1.

        dtype: a NumPy dtype, or Triton's number for one (``elem_type``); swizzle: 0 to 3 for none, 32, 64, 128 bytes.
        """
        raise UnsupportedError(f"tensor_map: {self.label} has no tensor maps: TMA is NVIDIA's, from sm_90")


class _Owned:
    """Something of the driver's that is given back when the last reference goes, in any thread."""

    __slots__ = ("__weakref__", "_place", "driver", "handle")
    _give_back = ""  # the method of Driver

    def __init__(self, driver: Driver, handle: int, place: int) -> None:
        self.driver = driver
        self.handle = handle
        self._place = place

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of the process the driver may be gone before us, and takes everything with it.
        if not getattr(self, "handle", 0) or is_finalizing() or self.driver.forked:
            return
        driver = self.driver
        try:
            with driver.at(self._place):
                mode = driver.exchange_capture_mode("relaxed")  # whoever captures now has nothing to do with this
                try:
                    getattr(driver, self._give_back)(self.handle)
                finally:
                    driver.exchange_capture_mode(mode)
        except DeviceError:
            pass  # the context is lost, and the handle with it
        except AttributeError:
            pass  # the driver is collected together with this: its entry points are gone

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.handle:#x} of {self.driver.label}>"


class Stream(_Owned):
    """A stream of a device. priority: lower comes first, within `Driver.stream_priority_range`."""

    __slots__ = ("index", "priority")
    _give_back = "stream_destroy"

    def __init__(self, driver: Driver, index: int, priority: int = 0) -> None:
        self.index, self.priority = index, priority
        place = driver.place_of(index)
        with driver.at(place):
            super().__init__(driver, driver.stream_create(priority), place)


class Event(_Owned):
    """An event of a device."""

    __slots__ = ("index",)
    _give_back = "event_destroy"

    def __init__(self, driver: Driver, index: int, timing: bool = False, blocking: bool = False) -> None:
        self.index = index
        place = driver.place_of(index)
        with driver.at(place):
            super().__init__(driver, driver.event_create(timing, blocking), place)


class Module(_Owned):
    """A compiled image, loaded on the current device."""

    __slots__ = ()
    _give_back = "module_unload"

    def __init__(self, driver: Driver, image: bytes) -> None:
        place = driver.place()
        super().__init__(driver, driver.module_load(image), place)


class Graph(_Owned):
    """The owner of a captured graph's handle."""

    __slots__ = ("index",)
    _give_back = "graph_destroy"

    def __init__(self, driver: Driver, index: int, handle: int) -> None:
        self.index = index
        super().__init__(driver, handle, driver.place_of(index))


class GraphExec(_Owned):
    """The owner of an instantiated graph's handle."""

    __slots__ = ("index",)
    _give_back = "graph_exec_destroy"

    def __init__(self, driver: Driver, index: int, handle: int) -> None:
        self.index = index
        super().__init__(driver, handle, driver.place_of(index))


def _capture_mode(mode: str) -> int:
    if mode not in CAPTURE_MODES:
        raise ArgumentError(f"capture mode {mode!r}: expected one of {', '.join(map(repr, CAPTURE_MODES))}")
    return CAPTURE_MODES.index(mode)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def declarations(kind: type[Driver]) -> str:
    """What cffi is told of a vendor's library, in C."""
    lines = [f"int {kind.NAMES[name]}({arguments});" for name, arguments in SIGNATURES.items()]
    return "\n".join([kind.DECLARATIONS, *lines])


@functools.cache
def _interface(kind: type[Driver]) -> Any:
    from cffi import FFI  # 30 ms that only a machine with a driver pays

    ffi = FFI()
    ffi.cdef(declarations(kind))
    return ffi


# -- fork
_drivers: weakref.WeakSet[Driver] = weakref.WeakSet()
_forked: set[str] = set()  # vendors that the process we were forked from had initialised


def _fork_text(label: str) -> str:
    return (
        f"Cannot re-initialize {label} in forked subprocess. To use {label} with multiprocessing, you must use the "
        f"'spawn' start method: this process was forked from one that used the GPU, and shares nothing with it"
    )


def _after_fork() -> None:
    for driver in list(_drivers):
        driver.forked = True
        driver.api.forget()
        _forked.add(driver.kind)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
