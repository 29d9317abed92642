"""What the namespace says of itself."""

from __future__ import annotations

from typing import Any

from tensorlib import _dtypes, _promotion, cuda
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib._dtypes import OF_NUMPY
from tensorlib._dtypes import dtype as Dtype
from tensorlib._tensor import get_default_device

from ._data_types import isdtype

__all__ = ["__array_namespace_info__"]

_STANDARD = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64",
             "complex64", "complex128")  # fmt: skip


class Info:
    """Devices, dtypes and abilities; what ``__array_namespace_info__()`` gives."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing, results whose shape depends on values, and how many dimensions a tensor may have."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        """Where tensors are made that name no device."""
        return get_default_device()

    def devices(self) -> tuple[Device, ...]:
        """The processor and every GPU."""
        return cpu, *(Device("cuda", i) for i in range(cuda.device_count()))

    def default_dtypes(self, *, device: Any = None) -> dict[str, Dtype]:
        """The dtypes that Python's numbers, and indices, become."""
        return {
            "real floating": OF_NUMPY[_promotion.default_dtype()],
            "complex floating": OF_NUMPY[_promotion.default_complex()],
            "integral": _dtypes.int64,
            "indexing": _dtypes.int64,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Dtype]:
        """The standard's dtypes of a kind (``isdtype``), by name; complex ones are on the CPU only."""
        here = device is None or Device(device) is cpu
        all_of = {name: _dtypes.as_dtype(name) for name in _STANDARD}
        return {
            name: d
            for name, d in all_of.items()
            if (here or d.kind != "complex") and (kind is None or isdtype(d, kind))
        }


def __array_namespace_info__() -> Info:
    """Devices, dtypes and abilities of this namespace."""
    return Info()
