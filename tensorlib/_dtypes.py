"""The dtypes: one object per element type, naming its NumPy dtype. Arrays carry NumPy dtypes; users see these."""

from __future__ import annotations

import math
from typing import Any, cast

import ml_dtypes
import numpy as np


class dtype:
    """An element type. Compares by identity; ``str`` is ``tensorlib.float32`` as PyTorch's is ``torch.float32``."""

    __slots__ = ("__weakref__", "itemsize", "kind", "name", "numpy")

    def __init__(self, name: str, numpy: Any, kind: str) -> None:
        self.name = name
        self.numpy: np.dtype[Any] = np.dtype(numpy)
        self.itemsize = self.numpy.itemsize
        #: "bool", "int", "float" or "complex": the categories of type promotion, in rising order.
        self.kind = kind

    @property
    def is_floating_point(self) -> bool:
        """True for the real floating-point dtypes."""
        return self.kind == "float"

    @property
    def is_complex(self) -> bool:
        """True for the complex dtypes."""
        return self.kind == "complex"

    @property
    def is_signed(self) -> bool:
        """True where negative values can be held."""
        return self.kind in ("float", "complex") or (self.kind == "int" and not self.name.startswith("u"))

    def to_real(self) -> dtype:
        """The dtype of a complex dtype's parts; any other itself."""
        return {"complex64": float32, "complex128": float64}.get(self.name, self)

    def to_complex(self) -> dtype:
        """The complex dtype with parts of this dtype, complex64 for what is narrower than float32."""
        return self if self.kind == "complex" else complex128 if self.name == "float64" else complex64

    def __repr__(self) -> str:
        return f"tensorlib.{self.name}"

    def __reduce__(self) -> str:
        return self.name  # pickled by name: identity survives a round trip


bool_ = dtype("bool", np.bool_, "bool")
uint8 = dtype("uint8", np.uint8, "int")
int8 = dtype("int8", np.int8, "int")
int16 = dtype("int16", np.int16, "int")
int32 = dtype("int32", np.int32, "int")
int64 = dtype("int64", np.int64, "int")
uint16 = dtype("uint16", np.uint16, "int")
uint32 = dtype("uint32", np.uint32, "int")
uint64 = dtype("uint64", np.uint64, "int")
float16 = dtype("float16", np.float16, "float")
bfloat16 = dtype("bfloat16", ml_dtypes.bfloat16, "float")
float32 = dtype("float32", np.float32, "float")
float64 = dtype("float64", np.float64, "float")
float8_e4m3fn = dtype("float8_e4m3fn", ml_dtypes.float8_e4m3fn, "float")
float8_e5m2 = dtype("float8_e5m2", ml_dtypes.float8_e5m2, "float")
complex64 = dtype("complex64", np.complex64, "complex")
complex128 = dtype("complex128", np.complex128, "complex")

ALL = (bool_, uint8, int8, int16, int32, int64, uint16, uint32, uint64, float16, bfloat16, float32, float64,
       float8_e4m3fn, float8_e5m2, complex64, complex128)  # fmt: skip
ALIASES = {"half": float16, "float": float32, "double": float64, "short": int16, "int": int32, "long": int64,
           "cfloat": complex64, "cdouble": complex128}  # fmt: skip

#: NumPy's dtype of an array -> ours.
OF_NUMPY: dict[np.dtype[Any], dtype] = {d.numpy: d for d in ALL}
_BY_NAME = {d.name: d for d in ALL} | ALIASES
_BY_PYTHON = {bool: bool_, int: int64, float: float64, complex: complex128}

#: Element types narrower than float32: operators compute them in float32 and round once.
HALF = frozenset(d.numpy for d in (float16, bfloat16, float8_e4m3fn, float8_e5m2))


def as_dtype(value: Any) -> dtype:
    """Our dtype for a dtype, a NumPy dtype or scalar type, a name, or Python's bool, int, float, complex."""
    if type(value) is dtype:
        return value
    found = _BY_PYTHON.get(value) if isinstance(value, type) else None
    if found is None and isinstance(value, str):
        found = _BY_NAME.get(value.rpartition(".")[2])
    if found is None:
        try:
            found = OF_NUMPY.get(np.dtype(value))
        except TypeError:
            found = None
    if found is None:
        names = ", ".join(d.name for d in ALL)
        raise TypeError(f"expected a dtype, got {value!r}; the dtypes are {names}")
    return found


class finfo:
    """Limits of a floating-point dtype: bits, eps, max, min, tiny, smallest_normal, resolution."""

    def __init__(self, type: Any = None) -> None:
        d = as_dtype(type if type is not None else float32)
        if d.kind not in ("float", "complex"):
            raise TypeError(f"finfo takes a floating-point dtype, got {d}; use iinfo")
        d = d.to_real()
        info = cast(Any, ml_dtypes.finfo)(d.numpy)
        self.dtype = d.name
        self.bits = int(info.bits)
        self.eps, self.max, self.min, self.tiny = float(info.eps), float(info.max), float(info.min), float(info.tiny)
        self.smallest_normal = float(info.smallest_normal)
        self.resolution = float(f"1e-{int(-math.log10(self.eps))}")  # by the decimal digits that always survive

    def __repr__(self) -> str:
        names = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        return f"finfo({', '.join(f'{name}={getattr(self, name):g}' for name in names)}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: bits, max, min."""

    def __init__(self, type: Any) -> None:
        d = as_dtype(type)
        if d.kind != "int":
            raise TypeError(f"iinfo takes an integer dtype, got {d}; use finfo")
        info = np.iinfo(d.numpy)
        self.dtype, self.bits, self.max, self.min = d.name, int(info.bits), int(info.max), int(info.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
