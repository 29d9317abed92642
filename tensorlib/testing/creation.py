"""make_tensor: random numbers of any dtype for tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import as_dtype, bool_, finfo, float64, iinfo, int64, uint8
from tensorlib.errors import ArgumentError

__all__ = ["make_tensor"]


def make_tensor(
    *shape: int | Sequence[int],
    dtype: Any,
    device: Any = None,
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uniform numbers of [low, high), by default [-9, 9); of integers [-9, 10), unsigned ones [0, 10), bools [0, 2).

    ``exclude_zero`` puts the smallest positive number of the dtype for zeros, True for bools. ``noncontiguous`` takes
    every second element along the last dim.
    """
    sizes: Any = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else tuple(shape)
    kind = as_dtype(dtype)
    if noncontiguous and memory_format is not None:
        raise ValueError(
            f"The parameters `noncontiguous` and `memory_format` are mutually exclusive, but got {noncontiguous=} and "
            f"{memory_format=}"
        )
    if requires_grad and kind.kind in ("bool", "int"):
        raise ValueError(
            f"`requires_grad=True` is not supported for boolean and integral dtypes, but got {dtype=}"
        )
    whole = kind.kind in ("bool", "int")
    default = (0, 2) if kind is bool_ else (0, 10) if kind is uint8 or not kind.is_signed else (-9, 10)
    usual = default if whole else (-9, 9)
    start, stop = usual[0] if low is None else low, usual[1] if high is None else high
    if math.isnan(start) or math.isnan(stop):
        raise ValueError(f"`low` and `high` cannot be NaN, but got low={start} and high={stop}")
    if not start < stop:
        raise ValueError(f"make_tensor: expected low < high, got low={start} and high={stop}")
    if whole:
        info = (0, 1) if kind is bool_ else (iinfo(kind).min, iinfo(kind).max)
        first: Any = max(math.ceil(start), info[0])
        last: Any = min(math.ceil(stop), info[1] + 1)
        if not first < last:
            raise ArgumentError(f"make_tensor: {kind} holds no number of [{start}, {stop}): expected one")
    else:
        first, last = max(start, finfo(kind).min), min(stop, finfo(kind).max)
    drawn = (*sizes[:-1], 2 * sizes[-1]) if noncontiguous and sizes else sizes
    if whole:
        x = ops.randint(int(first), int(min(last, 2**63 - 1)), drawn, dtype=int64)
    elif kind.is_complex:
        x = ops.complex(*(ops.empty(drawn, dtype=float64).uniform_(first, last) for _ in range(2)))
    else:
        x = ops.empty(drawn, dtype=float64).uniform_(first, last)
    x = x.to(dtype=kind, device=device)
    if exclude_zero:
        x = x.masked_fill(x == 0, 1 if whole else finfo(kind).tiny)
    if noncontiguous and sizes:
        x = x[..., ::2]
    elif memory_format is not None:
        x = x.contiguous(memory_format=memory_format)
    return x.requires_grad_() if requires_grad else x
