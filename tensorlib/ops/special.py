"""Special functions, elementwise: the sigmoid and its inverse, the error function, x log y.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import INT_TO_FLOAT
from tensorlib._samples import between, draw, each
from tensorlib.op import Array, pointwise
from tensorlib.ops._pointwise_numpy import erf as _erf_numpy
from tensorlib.ops._pointwise_numpy import erfc as _erfc_numpy
from tensorlib.ops._pointwise_numpy import sigmoid as _sigmoid_numpy
from tensorlib.ops.exponentials import _log_of
from tensorlib.ops.selection import _where
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@jit
def _sigmoid(x):
    # e^-|x| cannot overflow, and the small side keeps its relative accuracy
    t = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)


@pointwise(
    _sigmoid,
    promote=INT_TO_FLOAT,
    vjp=lambda g, out: g * (out * (1 - out)),
    on="function method functional",
    alias=("expit",),
    inplace=True,
)
def sigmoid(input: Array):
    """1 / (1 + e**-input), elementwise."""
    return _sigmoid_numpy(input)


@jit
def _logit(x, eps):
    if eps is not None:
        x = tl.where(x < eps, eps, tl.where(x > 1 - eps, 1 - eps, x))
    return tl.log(x / (1 - x))


def _logit_vjp(g: Tensor, input: Tensor, eps: float | None) -> Tensor:
    slope = g / (input * (1 - input)).abs()
    if eps is None:
        return _where((input >= 0) & (input <= 1), slope, math.nan)
    return _where((input >= eps) & (input <= 1 - eps), slope, 0.0)


@pointwise(
    _logit,
    promote=INT_TO_FLOAT,
    vjp=_logit_vjp,
    inplace=True,
    samples=each(draw(between(0.1, 0.9, 3, 4)), draw(between(0, 1, 40), eps=0.2), draw(between(0.1, 0.9))),
)
def logit(input: Array, eps: float | None = None):
    """log(input / (1 - input)), elementwise, of input clamped to [eps, 1 - eps] when eps is given."""
    x = input if eps is None else np.minimum(np.maximum(input, eps), 1 - eps)
    return np.log(x / (1 - x))


@jit
def _erf(x):
    return tl.erf(x)


@pointwise(
    _erf,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (1.1283791670955126 * (-(input * input)).exp()),
    inplace=True,
)
def erf(input: Array):
    """2/√π ∫ e^(-t²) dt from 0 to input, elementwise."""
    return _erf_numpy(input)


@jit
def _erfc(x):
    return libdevice.erfc(x)


@pointwise(
    _erfc,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (-1.1283791670955126 * (-(input * input)).exp()),
    inplace=True,
)
def erfc(input: Array):
    """1 - erf(input), elementwise, without cancellation."""
    return _erfc_numpy(input)


@jit
def _xlogy(x, y):
    return tl.where((x == 0) & (y == y), x * 0, x * tl.log(y))


@pointwise(
    _xlogy,
    promote=INT_TO_FLOAT,
    vjp=dict(
        input=lambda g, input, other: _where((input == 0) & (other <= 0), 0.0, g * _log_of(other)),
        other=lambda g, input, other: g * (input / other),
    ),
    domain=(0.1, 5),
    inplace=True,
)  # fmt: skip
def xlogy(input: Array, other: Array):
    """input log(other), elementwise; 0 where input is 0 and other is not NaN."""
    return np.where((input == 0) & (other == other), 0, input * np.log(other))
