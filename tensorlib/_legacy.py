"""The typed tensors of PyTorch's first years: ``FloatTensor(2, 3)``, ``isinstance(x, LongTensor)``, ``x.type()``."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import (
    OF_NUMPY,
    bfloat16,
    bool_,
    dtype,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from tensorlib.ops import empty, tensor

#: The name of each typed tensor -> its dtype.
TYPES: dict[str, dtype] = {
    "FloatTensor": float32, "DoubleTensor": float64, "HalfTensor": float16, "BFloat16Tensor": bfloat16,
    "ByteTensor": uint8, "CharTensor": int8, "ShortTensor": int16, "IntTensor": int32, "LongTensor": int64,
    "BoolTensor": bool_,
}  # fmt: skip


class TensorType(type):
    """The type of a typed tensor: it makes tensors of its dtype and place, and counts such as its instances."""

    dtype: dtype
    place: str

    def __call__(cls, *data: Any) -> Any:
        """An uninitialised tensor of these sizes, or one of this data."""
        if not data or all(type(n) is int for n in data):
            return empty(data or (0,), dtype=cls.dtype, device=cls.place)
        if len(data) != 1:
            raise TypeError(f"{cls.__name__}() takes sizes or one sequence, got {len(data)} arguments")
        return tensor(data[0], dtype=cls.dtype, device=cls.place)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Tensor) and value.device.type in _PLACES[cls.place] and value.dtype is cls.dtype

    def __repr__(cls) -> str:
        return f"<class '{cls.__module__}.{cls.__name__}'>"


_PLACES = {"cpu": ("cpu",), "cuda": ("cuda", "hip")}


def typed(name: str, place: str) -> TensorType:
    """The type of that name, of tensors on the CPU or on a GPU."""
    kind = TYPES[name]
    where, module = ("the CPU", "tensorlib") if place == "cpu" else ("a GPU", "tensorlib.cuda")
    made = TensorType(name, (), {"__doc__": f"Tensors of {kind} on {where}.", "__module__": module})
    made.dtype, made.place = kind, place
    return made


FloatTensor: TensorType
DoubleTensor: TensorType
HalfTensor: TensorType
BFloat16Tensor: TensorType
ByteTensor: TensorType
CharTensor: TensorType
ShortTensor: TensorType
IntTensor: TensorType
LongTensor: TensorType
BoolTensor: TensorType
globals().update({name: typed(name, "cpu") for name in TYPES})


def type_name(x: Tensor) -> str:
    """"tensorlib.FloatTensor" of a float32 tensor on the CPU, "tensorlib.cuda.FloatTensor" of one on a GPU."""
    kind = OF_NUMPY[x._array.dtype]
    name = next((n for n, d in TYPES.items() if d is kind), kind.name)
    place = x.device.type
    return f"tensorlib.{name}" if place == "cpu" else f"tensorlib.{place}.{name}"
