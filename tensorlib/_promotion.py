"""Type promotion by PyTorch's rules: which dtype an operator computes in, and which it returns.

Operands fall in three groups of falling priority: tensors with dimensions, 0-d tensors, Python numbers. A lower
group changes the result only when it is of a higher category (bool < int < float < complex).
Source: the PyTorch documentation, "Tensor Attributes", section torch.dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tensorlib._dtypes import OF_NUMPY, as_dtype, bool_, complex64, complex128, float32, float64, int64
from tensorlib.errors import DtypeError

_CATEGORY = {"bool": 0, "int": 1, "float": 2, "complex": 3}
_default = [float32.numpy]

Dtype = np.dtype[Any]


def default_dtype() -> Dtype:
    """The dtype that Python floats become."""
    return _default[0]


def set_default_dtype(dtype: Any) -> None:
    """Set the floating-point dtype that Python floats and factories without ``dtype`` take."""
    chosen = as_dtype(dtype)
    if chosen.kind != "float":
        raise TypeError(f"set_default_dtype: only floating-point dtypes can be the default, got {chosen}")
    _default[0] = chosen.numpy


def category(dtype: Dtype) -> int:
    """0 for bool, 1 for integers, 2 for floating point, 3 for complex."""
    return _CATEGORY[OF_NUMPY[dtype].kind]


def default_complex() -> Dtype:
    """The complex dtype whose parts are of the default dtype."""
    return complex_of(default_dtype())


_REAL_OF = {complex64.numpy: float32.numpy, complex128.numpy: float64.numpy}


def real_of(dtype: Dtype) -> Dtype:
    """The dtype of a complex dtype's parts; any other dtype itself."""
    return _REAL_OF.get(dtype, dtype)


def complex_of(dtype: Dtype) -> Dtype:
    """The complex dtype with parts of a floating-point dtype, complex64 for half types; a complex one itself."""
    return complex128.numpy if dtype in (float64.numpy, complex128.numpy) else complex64.numpy


@cache
def promote_types(a: Dtype, b: Dtype) -> Dtype:
    """The smallest dtype both can be converted to without changing category more than needed."""
    if a == b:
        return a
    ours, other = OF_NUMPY[a], OF_NUMPY[b]
    if ours.kind == other.kind:
        if ours.kind == "float":
            if ours.itemsize == 1 or other.itemsize == 1:
                raise DtypeError(f"promotion of {ours} and {other} is not defined: convert one with .to(dtype)")
            if ours.itemsize == other.itemsize:  # float16 with bfloat16
                return float32.numpy
            return a if ours.itemsize > other.itemsize else b
        result = np.promote_types(a, b)
        if result.kind == "f":  # uint64 with a signed type
            raise DtypeError(f"promotion of {ours} and {other} is not defined: convert one with .to(dtype)")
        return result
    low, high = sorted((ours, other), key=lambda d: _CATEGORY[d.kind])
    if high.kind == "complex" and low.kind == "float":
        return complex128.numpy if low is float64 else high.numpy
    return high.numpy


def _combine(high: Dtype | None, low: Dtype | None) -> Dtype | None:
    if high is None or low is None:
        return high if low is None else low
    if category(high) >= category(low):
        return high
    if category(high) == 2:  # floats with a complex of lower rank: complex, of their precision
        return complex128.numpy if high == float64.numpy else complex64.numpy
    return promote_types(high, low)


def of_number(value: Any) -> Dtype:
    """The dtype a Python number has when it stands alone."""
    if isinstance(value, bool):
        return bool_.numpy
    if isinstance(value, int):
        return int64.numpy
    return default_complex() if isinstance(value, complex) else default_dtype()


def result_dtype(operands: Sequence[Any]) -> Dtype:
    """The dtype of combining arrays and Python numbers."""
    groups: list[Dtype | None] = [None, None, None]
    for x in operands:
        if isinstance(x, (bool, int, float, complex)):
            group, dtype = 2, of_number(x)
        else:
            group, dtype = (0 if x.ndim else 1), x.dtype
        have = groups[group]
        groups[group] = dtype if have is None else promote_types(have, dtype)
    result = _combine(groups[0], _combine(groups[1], groups[2]))
    assert result is not None
    return result


class Rule:
    """How an operator's tensor inputs are brought to one dtype: ``compute`` for them, ``out`` for its result."""

    def __init__(self, name: str, over: tuple[str, ...] | None = None) -> None:
        self.name = name
        self.names = over

    def over(self, *names: str) -> Rule:
        """The same rule for some of the inputs only; the others are passed as they are."""
        return Rule(self.name, names)

    def __call__(self, op: str, operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[Dtype, Dtype]:
        """(compute, out) for these operands, or a DtypeError."""
        if self.name == "floats":
            return _same_floats(op, operands)
        common = result_dtype(operands)
        kind = category(common)
        if self.name in ("compare", "order"):
            if kind == 3 and self.name == "order":
                name = "ComplexFloat" if common == complex64.numpy else "ComplexDouble"
                raise DtypeError(f"{op}: not implemented for '{name}': complex numbers have no order; compare x.abs()")
            return common, bool_.numpy
        if self.name == "int_to_float" and kind < 2:
            common = default_dtype()
        elif self.name == "integers" and kind > 1:
            raise DtypeError(f"{op}: takes integer and bool tensors, got {OF_NUMPY[common]}")
        elif self.name == "accumulate":  # sum, prod, cumsum: small integers would overflow
            if attrs.get("dtype") is not None:
                common = as_dtype(attrs["dtype"]).numpy
            elif kind < 2:
                common = int64.numpy
        elif self.name == "float_only":
            if attrs.get("dtype") is not None:
                common = as_dtype(attrs["dtype"]).numpy
            if category(common) < 2:
                raise DtypeError(
                    f"{op}: takes floating-point tensors, got {OF_NUMPY[common]}: convert it first, "
                    f"as in input.float(){', or pass dtype=' if 'dtype' in attrs else ''}"
                )
        return common, common

    def __repr__(self) -> str:
        return self.name if self.names is None else f"{self.name} over {', '.join(self.names)}"


def _same_floats(op: str, operands: Sequence[Any]) -> tuple[Dtype, Dtype]:
    for x in operands:
        if isinstance(x, (bool, int, float, complex)):
            raise TypeError(f"every operand of {op} must be Tensor, not {type(x).__name__}")  # the guard says which
    dtypes = [x.dtype for x in operands]
    first = dtypes[0]
    if any(d != first for d in dtypes):
        names = ", ".join(str(OF_NUMPY[d]) for d in dtypes)
        raise DtypeError(f"{op}: expected tensors of one dtype, got {names}: convert them, as in other.to(input.dtype)")
    return first, first


#: To the common dtype; the result has it.
PROMOTE = Rule("promote")
#: The same, integers and bools becoming the default float dtype.
INT_TO_FLOAT = Rule("int_to_float")
#: To the common dtype; the result is bool.
COMPARE = Rule("compare")
#: The same, without complex numbers, which have no order.
ORDER = Rule("order")
#: Integers and bools only.
INTEGERS = Rule("integers")
#: ``dtype=`` if given; otherwise integers and bools are accumulated in int64.
ACCUMULATE = Rule("accumulate")
#: ``dtype=`` if given; the result must be floating point (or complex).
FLOAT_ONLY = Rule("float_only")
#: All inputs already of one dtype, as PyTorch asks of matmul.
FLOATS = Rule("floats")
