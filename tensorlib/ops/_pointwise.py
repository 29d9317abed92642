"""What the declarations of pointwise operators share: checks beyond promotion, and small rules."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import broadcast
from tensorlib._promotion import result_dtype
from tensorlib.errors import DtypeError
from tensorlib.op import registry
from tensorlib.ops.create import zeros_like


def _common(name: str, *inputs: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a promoted result, for operators that check more than that."""
    present = [x for x in inputs if x is not None]
    return broadcast(registry[name], present), result_dtype(present)


def _not_bool(name: str) -> Any:
    """A spec that refuses bools."""

    def spec(input: Any, other: Any) -> Any:
        shape, dtype = _common(name, input, other)
        if dtype == np.bool_:
            raise DtypeError(f"{name}: not implemented for bool tensors: convert one, as in input.int()")
        return shape, dtype

    return spec


def _signed(name: str, input: Any, message: str) -> Any:
    shape, dtype = _common(name, input)
    if dtype == np.bool_:
        raise DtypeError(f"{name}: {message}")
    return shape, dtype


def _scaled(x: np.ndarray, factor: Any) -> np.ndarray:
    """factor x in x's dtype, wrapping integers."""
    return x if factor == 1 else np.multiply(x, np.asarray(factor).astype(x.dtype))


def _zero(g: Tensor) -> Tensor:
    """The gradient of a function that is constant between its jumps."""
    return zeros_like(g)
