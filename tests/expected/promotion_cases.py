"""The pairs of operands whose common dtype is compared with PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

OPERATORS = ("add", "mul", "div", "eq", "lt")
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64",
          "complex128")  # fmt: skip
NUMBERS: dict[str, Any] = {"True": True, "2": 2, "0.5": 0.5, "1j": 1j}


def operand(name: str) -> Any:
    """``int8``: a tensor of one dimension; ``int8[]``: of none; ``0.5``: a number."""
    if name in NUMBERS:
        return NUMBERS[name]
    dtype = name.removesuffix("[]")
    array = np.ones(() if name.endswith("[]") else (2,), np.float32)
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def pairs() -> Iterator[tuple[str, str]]:
    """Every pair with a tensor in it."""
    tensors = [*DTYPES, *(f"{d}[]" for d in DTYPES)]
    for left in (*tensors, *NUMBERS):
        for right in (*tensors, *NUMBERS):
            if left in NUMBERS and right in NUMBERS:
                continue
            kinds = {left.removesuffix("[]"), right.removesuffix("[]")}
            if "float16" in kinds and kinds & {"complex64", "complex128", "1j"}:
                continue  # complex32 in PyTorch, which tensorlib does not have
            yield left, right
