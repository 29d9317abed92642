"""Rounding, elementwise.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import FLOAT_ONLY, PROMOTE
from tensorlib._samples import ELEMENTWISE, draw, each, ints, values
from tensorlib.errors import DtypeError
from tensorlib.op import Array, composite, into, pointwise
from tensorlib.ops._pointwise import _signed, _zero
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


def _not_bools(name: str) -> Any:
    return lambda input: _signed(name, input, "not implemented for bool tensors: there is nothing to round")


@jit
def _floor(x):
    if x.dtype.is_floating():
        x = tl.floor(x)
    return x


@pointwise(_floor, promote=PROMOTE, spec=_not_bools("floor"), vjp=_zero, inplace=True)
def floor(input: Array):
    """The largest integer not above input, elementwise, in input's dtype."""
    return np.floor(input) if input.dtype.kind == "f" else input.copy()


@jit
def _ceil(x):
    if x.dtype.is_floating():
        x = tl.ceil(x)
    return x


@pointwise(_ceil, promote=PROMOTE, spec=_not_bools("ceil"), vjp=_zero, inplace=True)
def ceil(input: Array):
    """The smallest integer not below input, elementwise, in input's dtype."""
    return np.ceil(input) if input.dtype.kind == "f" else input.copy()


@jit
def _trunc(x):
    if x.dtype.is_floating():
        x = libdevice.trunc(x)
    return x


@pointwise(_trunc, promote=PROMOTE, spec=_not_bools("trunc"), vjp=_zero, alias=("fix",), inplace=True)
def trunc(input: Array):
    """input without its fraction, elementwise."""
    return np.trunc(input) if input.dtype.kind == "f" else input.copy()


@jit
def _frac(x):
    return x - libdevice.trunc(x)


@pointwise(_frac, promote=FLOAT_ONLY, vjp=lambda g: g, inplace=True)
def frac(input: Array):
    """input - trunc(input), elementwise: the fraction, with input's sign."""
    return input - np.trunc(input)


@jit
def _rounded(x):
    if x.dtype.is_floating():
        x = libdevice.nearbyint(x)
    return x


@pointwise(
    _rounded,
    promote=PROMOTE,
    spec=_not_bools("_round"),
    vjp=_zero,
    on="",
    samples=each(draw((3, 4)), draw(values([0.5, 1.5, 2.5, -0.5, -1.5, 0.0])), draw(ints(4)), draw(())),
)
def _round(input: Array):
    """The nearest integer, halves to even."""
    return np.rint(input) if input.dtype.kind == "f" else input.copy()


@composite(
    alias=("special.round",),
    inplace=True,
    samples=each(
        ELEMENTWISE, draw((3, 4), decimals=2), draw(values([125.0, 135.0, -125.0]), decimals=-1),
        draw(values([0.5, 1.5, 2.5, -0.5])),
    ),
)  # fmt: skip
def round(input: Tensor, *, decimals: int = 0, out: Any = None) -> Tensor:
    """input rounded to ``decimals`` decimal places, elementwise; halves go to the even neighbour."""
    if decimals == 0:
        return _round(input, out=out)
    if input._array.dtype.kind in "iub":
        raise DtypeError(f"round: decimals={decimals} is for floating-point tensors, got {input.dtype}")
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    r = _round(input * scale) / scale if decimals > 0 else _round(input / scale) * scale
    return r if out is None else into("round", out, r)
