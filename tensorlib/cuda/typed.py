"""The typed tensors of a GPU: ``cuda.FloatTensor(2, 3)``, ``isinstance(x, cuda.LongTensor)``."""

from __future__ import annotations

from tensorlib._legacy import TYPES, TensorType, typed

BFloat16Tensor: TensorType
BoolTensor: TensorType
ByteTensor: TensorType
CharTensor: TensorType
DoubleTensor: TensorType
FloatTensor: TensorType
HalfTensor: TensorType
IntTensor: TensorType
LongTensor: TensorType
ShortTensor: TensorType
globals().update({name: typed(name, "cuda") for name in TYPES})
