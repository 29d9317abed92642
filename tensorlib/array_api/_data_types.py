"""Data types: casts, promotion, limits, kinds."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensorlib import _dtypes, _promotion
from tensorlib._core import Tensor
from tensorlib._device import device as Device
from tensorlib._dtypes import OF_NUMPY, as_dtype, int64, uint64
from tensorlib._dtypes import dtype as Dtype
from tensorlib.errors import ArgumentError

__all__ = ["astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

_NUMBERS = (bool, int, float, complex)
_KINDS: dict[str, Callable[[Dtype], bool]] = {
    "bool": lambda d: d.kind == "bool",
    "signed integer": lambda d: d.kind == "int" and d.is_signed,
    "unsigned integer": lambda d: d.kind == "int" and not d.is_signed,
    "integral": lambda d: d.kind == "int",
    "real floating": lambda d: d.kind == "float",
    "complex floating": lambda d: d.kind == "complex",
    "numeric": lambda d: d.kind != "bool",
}


def array(function: str, x: Any) -> Tensor:
    """``x`` if it is a tensor; TypeError for anything else."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: got {type(x).__name__}: expected a Tensor; make one with asarray")
    return x


def result_type(*arrays_and_dtypes: Any) -> Dtype:
    """The dtype of combining tensors, dtypes and Python numbers, by the standard's tables.

    A 0-d tensor counts as any other, unlike in PyTorch. A number takes the arrays' dtype unless its kind is higher.
    Kinds that the standard does not mix combine as PyTorch's do. ValueError without a tensor or a dtype; DtypeError for
    uint64 with a signed type.
    """
    dtypes, numbers = [], []
    for x in arrays_and_dtypes:
        if isinstance(x, Tensor):
            dtypes.append(x._array.dtype)
        elif isinstance(x, _NUMBERS):
            numbers.append(x)
        else:
            dtypes.append(as_dtype(x).numpy)
    if not dtypes:
        raise ArgumentError("result_type: got no tensor and no dtype: expected at least one")
    result = dtypes[0]
    for other in dtypes[1:]:
        result = _promotion.promote_types(result, other)
    for number in numbers:
        combined = _promotion._combine(result, _promotion.of_number(number))
        assert combined is not None
        result = combined
    return OF_NUMPY[result]


def together(function: str, *operands: Any) -> list[Any]:
    """Operands with their tensors in the common dtype; numbers stay, as every operator takes them by their kind."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    for x in operands:
        if not isinstance(x, (Tensor, *_NUMBERS)):
            raise TypeError(f"{function}: got {type(x).__name__}: expected a Tensor or a number")
    if not tensors:
        raise TypeError(f"{function}: got numbers only: expected at least one Tensor; make one with asarray")
    first = tensors[0]._array.dtype
    if builtins.all(x._array.dtype == first for x in tensors):
        return list(operands)
    common = result_type(*tensors)
    return [x.to(common) if isinstance(x, Tensor) else x for x in operands]


def sum_dtype(x: Tensor, dtype: Any) -> Dtype:
    """The dtype in which ``sum``, ``prod``, ``trace`` and the cumulative ones answer: integers in 64 bits."""
    if dtype is not None:
        return as_dtype(dtype)
    if x.dtype.kind in ("float", "complex"):
        return x.dtype
    return uint64 if x.dtype.kind == "int" and not x.dtype.is_signed else int64


def astype(x: Tensor, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """``x`` as ``dtype``; ``copy=False`` gives ``x`` itself where nothing changes. TypeError for complex to real."""
    target = as_dtype(dtype)
    if array("astype", x).dtype.kind == "complex" and target.kind in ("int", "float"):
        raise TypeError(f"astype: got {x.dtype} to {target}: take real(x) or imag(x) first")
    return x.to(device=None if device is None else Device(device), dtype=target, copy=copy)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether ``from_``, a dtype or a tensor, promotes to ``to`` by the standard's tables, which mix no kinds."""
    one, other = from_.dtype if isinstance(from_, Tensor) else as_dtype(from_), as_dtype(to)
    if one.kind != other.kind and (one.kind, other.kind) != ("float", "complex"):
        return False
    if (other is uint64 and one.is_signed) or (one is uint64 and other.is_signed):
        return False
    if _dtypes.float8_e4m3fn in (one, other) or _dtypes.float8_e5m2 in (one, other):
        return one is other
    return result_type(one, other) is other


@dataclass(frozen=True)
class finfo_object:
    """Limits of a floating-point dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Dtype


@dataclass(frozen=True)
class iinfo_object:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: Dtype


def finfo(type: Any, /) -> finfo_object:
    """bits, eps, max, min, smallest_normal and dtype of a float dtype, or a tensor's; of a complex one's parts."""
    kind = type.dtype if isinstance(type, Tensor) else as_dtype(type)
    info = _dtypes.finfo(kind)
    return finfo_object(info.bits, info.eps, info.max, info.min, info.smallest_normal, kind.to_real())


def iinfo(type: Any, /) -> iinfo_object:
    """bits, max, min and dtype of an integer dtype, or a tensor's."""
    kind = type.dtype if isinstance(type, Tensor) else as_dtype(type)
    info = _dtypes.iinfo(kind)
    return iinfo_object(info.bits, info.max, info.min, kind)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, a name ("bool", "signed integer", ..., "numeric"), or a tuple of these."""
    if isinstance(kind, tuple):
        return builtins.any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise ArgumentError(f"isdtype: got kind {kind!r}: expected a dtype or one of {', '.join(_KINDS)}")
        return _KINDS[kind](as_dtype(dtype))
    if not isinstance(kind, Dtype):
        raise TypeError(f"isdtype: got kind {kind!r}: expected a dtype, the name of a kind, or a tuple of these")
    return as_dtype(dtype) is kind
