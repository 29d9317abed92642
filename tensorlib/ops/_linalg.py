"""What the operators on matrices share: checks of shapes and dtypes, and the errors of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._device import meta
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import category
from tensorlib.errors import DtypeError, LinAlgError, ShapeError

#: The dtype of what a factorisation says of its success.
INFO = np.dtype(np.int32)


def floating(name: str, x: Any, half: bool = False) -> None:
    """DtypeError unless x is of float32, float64 or a complex dtype; ``half``: or of a half type."""
    if category(x.dtype) < 2:
        raise DtypeError(
            f"{name}: Expected a floating point or complex tensor as input. Got {OF_NUMPY[x.dtype]}: convert it, as in "
            f"x.float()"
        )
    if x.dtype in HALF and not half:
        raise DtypeError(f"{name}: Low precision dtypes not supported. Got {OF_NUMPY[x.dtype]}: convert it to float32")


def matrices(name: str, x: Any, what: str = "A", half: bool = False) -> None:
    """An error unless x is one floating-point matrix or a batch of them."""
    if x.ndim < 2:
        raise ShapeError(
            f"{name}: The input tensor {what} must have at least 2 dimensions, got shape {tuple(x.shape)}: expected "
            f"(…, m, n)"
        )
    floating(name, x, half)


def square(name: str, x: Any, what: str = "A", half: bool = False) -> None:
    """An error unless x is one square matrix or a batch of them."""
    matrices(name, x, what, half)
    m, n = x.shape[-2:]
    if m != n:
        raise ShapeError(
            f"{name}: {what} must be batches of square matrices, but they are {m} by {n} matrices: expected (…, n, n), "
            f"got {tuple(x.shape)}"
        )


def failed(name: str, info: Any, message: str) -> None:
    """LinAlgError for the first matrix whose ``info`` is not 0; ``{}`` in the message is that number."""
    if getattr(info, "device", None) is meta or not np.any(info):
        return
    info = _array.numbers(info)
    at = int(np.argmax(info.reshape(-1) != 0))
    where = f"(Batch element {at}): " if info.ndim else ""
    raise LinAlgError(f"{name}: {where}{message.format(abs(int(info.reshape(-1)[at])))}")


def absent(g: Any) -> bool:
    """Whether no gradient arrived: zeros without history."""
    return not g._needs and not g.is_meta and not _array.numbers(g._array).any()


def identity(n: int, like: Any) -> Any:
    """The n by n identity of a tensor's dtype."""
    return eye_like(like, n, n)


def unit_lower(a: Any) -> Any:
    """The lower trapezoid of a with ones on its diagonal."""
    return a.tril(-1) + eye_like(a, *a.shape[-2:])


def eye_like(a: Any, m: int, n: int) -> Any:
    """The m by n identity, of a's dtype and on its device."""
    return a.new_tensor(np.eye(m, n), dtype=a.dtype)
