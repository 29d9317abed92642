"""DLPack: the same memory handed to and taken from other array libraries, without a copy.

NumPy makes and consumes the capsules: their destructors and deleters then are C code that needs no Python, so that one
may run while an exception is on its way or another thread holds the object. What NumPy has no name for, bfloat16 and
float8, travels as integers of the same size, and the type in the capsule's struct is exchanged for the right one.
Source: dmlc/dlpack, dlpack.h, versions 0.8 and 1.x; the Python array API standard, "Data interchange mechanisms".
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tensorlib._core import Tensor, wrap
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib._dtypes import OF_NUMPY, bfloat16, float8_e4m3fn, float8_e5m2
from tensorlib.errors import TensorlibError

__all__ = ["ExchangeError", "from_dlpack", "to_dlpack"]


class ExchangeError(TensorlibError, BufferError):
    """An array cannot be handed over, or taken, by DLPack."""


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor, of capsules named "dltensor"."""

    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned, of capsules named "dltensor_versioned"."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


_KINDS: tuple[tuple[bytes, Any], ...] = ((b"dltensor_versioned", _Versioned), (b"dltensor", _Managed))
_READ_ONLY, _IS_COPIED = 1, 2  # bits of `flags`

# Prototypes of our own: those of ctypes.pythonapi's attributes are shared by everybody in the process.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

#: DLDataTypeCode and bits of the dtypes that NumPy does not export, and the integers that stand in for them.
_CODES = {bfloat16.numpy: (4, 16), float8_e4m3fn.numpy: (10, 8), float8_e5m2.numpy: (12, 8)}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_UNSIGNED = 1  # DLDataTypeCode kDLUInt
_STAND_IN = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}

_CPU, _CUDA, _ROCM = 1, 2, 10  # DLDeviceType
#: Device types whose memory the CPU reads: its own, that of CUDA and ROCm pinned on the host, CUDA's managed.
_ON_HOST = (_CPU, 3, 11, 13)
_DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 14: "oneapi", 15: "webgpu", 16: "hexagon"}


def _managed(capsule: Any) -> Any:
    """The struct in a capsule that was not consumed yet; ExchangeError for any other object."""
    for name, kind in _KINDS:
        if _is_valid(capsule, name):
            return kind.from_address(_pointer(capsule, name))
    raise ExchangeError(
        f"from_dlpack: got {capsule!r}: expected an object with __dlpack__, or a DLPack capsule that was not used yet "
        f"(a capsule can be consumed once)"
    )


# ------------------------------------------------------------------------------------------------------------ export


def export(
    tensor: Tensor, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
) -> Any:
    """What ``Tensor.__dlpack__`` gives: a capsule that holds the memory until its consumer lets go of it.

    Versioned (DLPack 1.x) where ``max_version`` is at least (1, 0). A read-only array says so there, and is an error in
    the older form, which cannot. ``copy=True`` hands over a copy.
    """
    if tensor.requires_grad:  # type: ignore[attr-defined]
        raise ExchangeError("Can't export tensors that require gradient, use tensor.detach()")
    here = device_of(tensor)
    if here[0] != _CPU:
        raise ExchangeError(
            f"__dlpack__: the tensor is on {tensor.device}: only CPU tensors can be exported; "  # type: ignore[attr-defined]
            f"move it first with tensor.cpu()"
        )
    if stream not in (None, -1):
        raise ExchangeError(f"__dlpack__: got stream={stream!r}: stream should be None on cpu")
    if dl_device is not None and tuple(map(int, dl_device)) != here:
        raise ExchangeError(f"__dlpack__: got dl_device={tuple(dl_device)}: the tensor is on the CPU, device {here}")
    x: Any = tensor._array
    code = _CODES.get(x.dtype)
    if code is None:
        return x.__dlpack__(max_version=max_version, copy=copy)
    capsule = x.view(_STAND_IN[code[1]]).__dlpack__(max_version=max_version, copy=copy)
    _managed(capsule).tensor.code = code[0]
    return capsule


def device_of(tensor: Tensor) -> tuple[int, int]:
    """(DLDeviceType, index) of a tensor: what ``Tensor.__dlpack_device__`` gives."""
    device: Device = tensor.device  # type: ignore[attr-defined]
    if device is cpu:
        return _CPU, 0
    if device.type in ("cuda", "hip"):
        return _CUDA if device.type == "cuda" else _ROCM, device.index or 0
    raise ExchangeError(
        f"__dlpack_device__: DLPack has no device for {str(device)!r}; move the tensor with tensor.cpu()"
    )


def to_dlpack(tensor: Tensor) -> Any:
    """A DLPack capsule (unversioned) over the memory of a CPU tensor. BufferError where it requires a gradient."""
    return export(tensor)


# ------------------------------------------------------------------------------------------------------------ import


class _Given:
    """A capsule as the object that NumPy asks for one."""

    __slots__ = ("capsule",)

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0


class _Writable:
    """The memory of an array that NumPy took for read-only because its capsule could not say."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, owner: np.ndarray) -> None:
        self.owner = owner
        interface = owner.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _ask(producer: Any, copy: bool | None) -> Any:
    """A capsule from an object, in the newest form that it knows."""
    wanted: dict[str, Any] = {"max_version": (1, 3), "copy": copy}
    for leave in ((), ("copy",), ("copy", "max_version")):
        try:
            return producer.__dlpack__(**{k: v for k, v in wanted.items() if k not in leave})
        except TypeError:  # an older producer, without these parameters
            if len(leave) == len(wanted):
                raise
    raise AssertionError  # the last attempt returns or raises


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor over the memory of another library's array, or of a DLPack capsule.

    ``ext_tensor`` has ``__dlpack__`` and ``__dlpack_device__``, and lies in memory that the CPU reads. Writes are seen
    on both sides. ``copy=True`` copies; ``device``: where to move it, by copying. BufferError for memory of another
    device, dtypes tensorlib lacks, and capsules that were used; read-only arrays come as such, and cannot be written.
    """
    target = None if device is None else Device(device)
    moved = target is not None and target is not cpu
    if moved and copy is False:
        raise ExchangeError(
            f"from_dlpack: cannot move a CPU array to {target} without copying: set copy=None or copy=True"
        )
    capsule = ext_tensor
    if hasattr(ext_tensor, "__dlpack__"):
        kind, index = ext_tensor.__dlpack_device__()
        if int(kind) not in _ON_HOST:
            raise ExchangeError(
                f"from_dlpack: the array is on {_DEVICES.get(int(kind), f'DLPack device type {int(kind)}')}:{index}: "
                f"expected memory that the CPU reads; copy it to the CPU first"
            )
        capsule = _ask(ext_tensor, copy)
    array, copied = _taken(capsule)
    if array.dtype not in OF_NUMPY:
        names = ", ".join(d.name for d in OF_NUMPY.values())
        raise ExchangeError(f"from_dlpack: got dtype {array.dtype}: the dtypes are {names}")
    out = wrap(array.copy() if copy and not copied and not moved else array)
    return out.to(target) if moved else out  # type: ignore[attr-defined, no-any-return]


def _taken(capsule: Any) -> tuple[np.ndarray, bool]:
    """(an array over the capsule's memory, whether the producer made a copy for it); the capsule is consumed."""
    managed = _managed(capsule)
    versioned = isinstance(managed, _Versioned)
    if versioned and managed.major != 1:
        raise ExchangeError(f"from_dlpack: got DLPack version {managed.major}.{managed.minor}: expected 1.x or older")
    flags = managed.flags if versioned else 0
    tensor = managed.tensor
    dtype = _DTYPES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is not None:
        tensor.code = _UNSIGNED
    try:
        array = np.from_dlpack(_Given(capsule))  # type: ignore[arg-type]
    except (BufferError, RuntimeError) as error:
        raise ExchangeError(f"from_dlpack: {error}") from None
    if not array.flags.writeable and not flags & _READ_ONLY:
        array = np.asarray(_Writable(array))
    return array if dtype is None else array.view(dtype), bool(flags & _IS_COPIED)
