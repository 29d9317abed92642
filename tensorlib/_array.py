"""DeviceArray: an untracked, strided array on one device; on the CPU a NumPy array plays that part, unwrapped.

The functions of this module take both kinds, so that one reference body and one host function serve every device.
Views of a DeviceArray are computed by NumPy itself, on an array at the device's address that is never read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tensorlib._device import cpu, meta
from tensorlib._device import device as Device
from tensorlib.errors import DeviceError, DtypeError, UnsupportedError
from tensorlib.runtime.engine import engine_of
from tensorlib.runtime.memory import poison_value

# For striding only: stands in for an element of that many bytes, as the array interface cannot name ml_dtypes' types.
_STAND_IN = {1: "|u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}


class _AtAddress:
    """Something NumPy wraps as an array at an address, without reading it."""

    __slots__ = ("__array_interface__",)

    def __init__(self, ptr: int, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (ptr or 64, False),  # NumPy before 2.4 takes 0, an array's without elements, for no address at all
            "typestr": _STAND_IN[itemsize],
            "shape": shape,
            "strides": tuple(s * itemsize for s in strides),
        }


class DeviceArray:
    """shape and strides (in elements) over memory at ``ptr`` on ``device``, kept alive by ``owner``."""

    __slots__ = ("__weakref__", "device", "dtype", "owner", "ptr", "shape", "strides")

    def __init__(
        self,
        ptr: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: np.dtype[Any],
        device: Device,
        owner: Any,
    ) -> None:
        self.ptr = ptr
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.device = device
        self.owner = owner

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, had they been contiguous."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def T(self) -> DeviceArray:
        """The view with its axes reversed."""
        return self.transpose()

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self.ptr

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d array")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, strides={self.strides}, dtype={self.dtype}, device='{self.device}')"

    def _view(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(self.ptr, shape, strides, self.dtype, self.device, self.owner)

    def _phantom(self) -> np.ndarray:
        return np.asarray(_AtAddress(self.ptr, self.shape, self.strides, self.dtype.itemsize))

    def _of_phantom(self, phantom: np.ndarray, dtype: np.dtype[Any] | None = None) -> DeviceArray:
        dtype = self.dtype if dtype is None else dtype
        strides = tuple(s // dtype.itemsize for s in phantom.strides)
        # NumPy gives an array without elements memory of its own.
        ptr = phantom.__array_interface__["data"][0] if phantom.size else self.ptr
        return DeviceArray(ptr, phantom.shape, strides, dtype, self.device, self.owner)

    def transpose(self, *axes: Any) -> DeviceArray:
        """The view with permuted axes, reversed when none are given: numpy.ndarray.transpose."""
        order: Sequence[int]
        if not axes or axes == (None,):
            order = range(self.ndim)[::-1]
        else:
            order = [self._axis(a) for a in (axes[0] if isinstance(axes[0], Iterable) else axes)]
            if sorted(order) != list(range(self.ndim)):
                raise ValueError(f"transpose: axes {axes} are not a permutation of {self.ndim} dimensions")
        return self._view(tuple(self.shape[a] for a in order), tuple(self.strides[a] for a in order))

    def swapaxes(self, axis1: int, axis2: int) -> DeviceArray:
        """The view with two axes interchanged: numpy.ndarray.swapaxes."""
        a, b = self._axis(axis1), self._axis(axis2)
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self.transpose(order)

    def _axis(self, axis: int) -> int:
        if not -self.ndim <= axis < self.ndim:
            raise np.exceptions.AxisError(axis, self.ndim)
        return axis % self.ndim

    def reshape(self, *shape: Any, copy: bool | None = False) -> DeviceArray:
        """The view with another shape, as numpy.ndarray.reshape(copy=False): ValueError where only a copy has it."""
        if copy:
            raise ValueError("reshape: a DeviceArray reshapes without a copy only; copy it first")
        wanted = shape[0] if len(shape) == 1 else shape
        # copy=False is what keeps NumPy from reading the address when the strides do not allow a view.
        return self._of_phantom(self._phantom().reshape(wanted, copy=False))

    def __getitem__(self, index: Any) -> DeviceArray:
        """Basic indexing: integers, slices, None and Ellipsis, always a view (a 0-d one where NumPy gives a scalar)."""
        items = index if isinstance(index, tuple) else (index,)
        for item in items:
            if not (item is None or item is Ellipsis or isinstance(item, (slice, int, np.integer))) or isinstance(
                item, bool
            ):
                raise TypeError(f"a DeviceArray takes basic indexing (int, slice, None, ...), got {item!r}")
        if Ellipsis not in items:
            items = (*items, Ellipsis)  # NumPy then gives a 0-d array instead of reading a scalar
        return self._of_phantom(self._phantom()[items])

    def view(self, dtype: Any) -> DeviceArray:
        """The same memory read as another dtype of the same size."""
        dtype = np.dtype(dtype)
        if dtype.itemsize != self.dtype.itemsize:
            raise ValueError(f"view: {dtype} and {self.dtype} differ in size; only dtypes of one size can be viewed")
        return DeviceArray(self.ptr, self.shape, self.strides, dtype, self.device, self.owner)


Array = np.ndarray | DeviceArray

_poisoned = False


def poison(on: bool) -> bool:
    """Make `empty` fill floats with NaN and integers with a large odd value; returns the previous setting."""
    global _poisoned
    previous, _poisoned = _poisoned, bool(on)
    return previous


def empty(shape: Sequence[int], dtype: Any, device: Device = cpu) -> Any:
    """A new C-contiguous array with undefined elements: numpy.ndarray on the CPU, DeviceArray elsewhere."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    if device is cpu:
        return np.full(shape, poison_value(dtype), dtype) if _poisoned else np.empty(shape, dtype)
    if dtype.kind == "c" and device is not meta:
        refuse_complex(device)
    engine = device.engine or engine_of(device)
    if _poisoned and not device.memoryless:
        ptr, owner = engine.upload(np.full(math.prod(shape), poison_value(dtype), dtype))
    else:
        ptr, owner = engine.allocate(math.prod(shape) * dtype.itemsize)
    return DeviceArray(ptr, shape, contiguous_strides(shape), dtype, engine.device, owner)


def refuse_complex(device: Device) -> None:
    """DtypeError: arrays of complex numbers are NumPy's."""
    raise DtypeError(
        f"complex numbers are on the CPU only, not on {str(device)!r}: compute there, or keep the real "
        f"and imaginary parts, as view_as_real(x) gives them"
    )


def to_device(array: np.ndarray, device: Device) -> Any:
    """A C-contiguous copy of a NumPy array on the device."""
    if device is cpu:
        return array.copy()
    if array.dtype.kind == "c" and device is not meta:
        refuse_complex(device)
    engine = device.engine or engine_of(device)
    ptr, owner = engine.upload(np.ascontiguousarray(array))
    return DeviceArray(ptr, array.shape, contiguous_strides(array.shape), array.dtype, engine.device, owner)


def to_host(array: Array) -> np.ndarray:
    """A C-contiguous NumPy copy. DeviceError from a compile-only target: nothing was run there."""
    if isinstance(array, np.ndarray):
        return array.copy()
    if not isinstance(array, DeviceArray):  # of one of the classes in LIFTED
        return array.read()
    if array.device is meta:
        raise UnsupportedError(
            "Cannot copy out of meta tensor; no data! It has a shape and a dtype alone: Module.to_empty(device=) gives "
            "a module memory, load_state_dict(assign=True) the tensors of a checkpoint"
        )
    if array.device.compile_only:
        raise DeviceError(
            f"cannot read an array of {str(array.device)!r}: it is a compile-only target, its kernels are compiled "
            f"and nothing is run; use 'interpret' for values"
        )
    if not array.size:
        return np.empty(array.shape, array.dtype)
    # The bytes from the lowest to the highest element, one transfer, then strided on the host.
    steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    below, above = sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)
    extent = np.empty(above - below + 1, array.dtype)
    engine_of(array.device).read(array.ptr + below * array.itemsize, array.owner, extent)
    strided: np.ndarray = as_strided(extent, array.shape, array.strides, -below)
    return strided.copy()


def numbers(array: Any) -> np.ndarray:
    """All the numbers of an array on the host, those of a batch or a tangent's value too: for checks of values."""
    if isinstance(array, np.ndarray):
        return array
    return to_host(array) if isinstance(array, DeviceArray) else array.numbers()


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """C-order strides in elements; a zero counts as one, as in PyTorch."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def strides_of(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    if isinstance(array, np.ndarray):
        return tuple(s // array.itemsize for s in array.strides)
    return array.strides


def is_contiguous(array: Array) -> bool:
    """Whether the elements lie in C order with no gaps; true for every array with no elements."""
    if isinstance(array, np.ndarray):
        return array.flags.c_contiguous
    if 0 in array.shape:
        return True
    step = 1
    for n, s in zip(reversed(array.shape), reversed(array.strides), strict=True):
        if n != 1 and s != step:
            return False
        step *= n
    return True


def expand(array: Any, shape: Sequence[int]) -> Any:
    """The read-only view broadcast to shape, with strides 0 where it repeats: numpy.broadcast_to."""
    if isinstance(array, np.ndarray):
        if not array.ndim and array.dtype.kind in "fiub":  # a sum's gradient
            out = np.ndarray(shape, array.dtype, array, 0, (0,) * len(shape))
            out.flags.writeable = False
            return out
        if array.size and array.dtype.kind in "fiub" and array.flags.c_contiguous:  # NumPy's own takes 3 µs more
            lead = len(shape) - array.ndim
            if lead >= 0:
                pairs = zip(array.shape, array.strides, shape[lead:], strict=True)
                found = (0,) * lead + tuple([s if m == n else 0 if n == 1 else -1 for n, s, m in pairs])
                if -1 not in found:
                    out = np.ndarray(shape, array.dtype, array, 0, found)
                    out.flags.writeable = False
                    return out
        return np.broadcast_to(array, shape)
    shape = tuple(shape)
    lead = len(shape) - array.ndim
    if lead < 0 or any(m not in (1, n) for m, n in zip(array.shape, shape[max(lead, 0) :], strict=False)):
        raise ValueError(f"expand: cannot broadcast {array.shape} to {shape}")
    own = zip(array.shape, array.strides, shape[lead:], strict=True)
    strides = (0,) * lead + tuple(0 if m != n else s for m, s, n in own)
    return array._view(shape, strides)


def as_strided(array: Any, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Any:
    """The view of shape and strides (in elements) that starts offset elements after the array's first."""
    shape, strides = tuple(shape), tuple(strides)
    if not isinstance(array, np.ndarray):
        ptr = array.ptr + offset * array.itemsize
        return DeviceArray(ptr, shape, strides, array.dtype, array.device, array.owner)
    if array.size and offset >= 0 and array.dtype.kind in "fiub" and array.flags.c_contiguous:
        size = array.itemsize
        try:  # a tenth of the time of NumPy's as_strided; it refuses what is beyond the array
            return np.ndarray(shape, array.dtype, array, offset * size, tuple([s * size for s in strides]))
        except (ValueError, TypeError):
            pass
    raw = array.view(f"V{array.itemsize}")  # NumPy's as_strided cannot name float8_e5m2
    if offset:
        step = math.copysign(array.itemsize, offset)
        raw = np.lib.stride_tricks.as_strided(raw, (abs(offset) + 1,), (int(step),))[abs(offset) :]
    return np.lib.stride_tricks.as_strided(raw, shape, tuple(s * array.itemsize for s in strides)).view(array.dtype)


def device_of(array: Array) -> Device:
    """The device an array is on: the CPU for a NumPy array."""
    return cpu if isinstance(array, np.ndarray) else array.device
