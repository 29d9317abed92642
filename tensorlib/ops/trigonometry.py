"""Trigonometric and hyperbolic functions, elementwise, and their inverses.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import FLOAT_ONLY, INT_TO_FLOAT
from tensorlib._samples import ELEMENTWISE
from tensorlib.op import Array, composite, pointwise
from tensorlib.ops._out import takes_out
from tensorlib.ops.selection import _where
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@jit
def _sin(x):
    return tl.sin(x)


@pointwise(_sin, cpu=np.sin, promote=INT_TO_FLOAT, complex=True, vjp=lambda g, input: g * input.cos(), inplace=True)
def sin(input: Array):
    """The sine, elementwise, of radians."""
    return np.sin(input)


@jit
def _cos(x):
    return tl.cos(x)


@pointwise(_cos, cpu=np.cos, promote=INT_TO_FLOAT, complex=True, vjp=lambda g, input: -g * input.sin(), inplace=True)
def cos(input: Array):
    """The cosine, elementwise, of radians."""
    return np.cos(input)


@jit
def _tan(x):
    return libdevice.tan(x)


@pointwise(
    _tan,
    cpu=np.tan,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: g * (out * out + 1),
    domain=(-1.3, 1.3),
    inplace=True,
)
def tan(input: Array):
    """The tangent, elementwise, of radians."""
    return np.tan(input)


@jit
def _asin(x):
    return libdevice.asin(x)


@pointwise(
    _asin,
    cpu=np.arcsin,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: g * (1 - input * input).rsqrt(),
    alias=("arcsin",),
    domain=(-0.9, 0.9),
    inplace=True,
)
def asin(input: Array):
    """The inverse sine in [-π/2, π/2], elementwise; NaN outside [-1, 1]."""
    return np.arcsin(input)


@jit
def _acos(x):
    return libdevice.acos(x)


@pointwise(
    _acos,
    cpu=np.arccos,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: -g * (1 - input * input).rsqrt(),
    alias=("arccos",),
    domain=(-0.9, 0.9),
    inplace=True,
)
def acos(input: Array):
    """The inverse cosine in [0, π], elementwise; NaN outside [-1, 1]."""
    return np.arccos(input)


@jit
def _atan(x):
    return libdevice.atan(x)


@pointwise(
    _atan,
    cpu=np.arctan,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: g / (input * input + 1),
    alias=("arctan",),
    inplace=True,
)
def atan(input: Array):
    """The inverse tangent in [-π/2, π/2], elementwise."""
    return np.arctan(input)


def _over_norm(numerator: Any, y: Any, x: Any) -> Tensor:
    """numerator / (x² + y²), 0 at the origin."""
    norm = x * x + y * y
    return _where(norm == 0, 0.0, numerator / norm)


@jit
def _atan2(y, x):
    return libdevice.atan2(y, x)


@pointwise(
    _atan2,
    cpu=np.arctan2,
    promote=INT_TO_FLOAT,
    vjp=dict(
        input=lambda g, input, other: g * _over_norm(other, input, other),
        other=lambda g, input, other: g * _over_norm(-input, input, other),
    ),
    alias=("arctan2",),
    inplace=True,
)
def atan2(input: Array, other: Array):
    """The angle in [-π, π] of the point (other, input), elementwise."""
    return np.arctan2(input, other)


# ----------------------------------------------------------------------------------------------------------- hyperbolic


@jit
def _sinh(x):
    return libdevice.sinh(x)


@pointwise(_sinh, cpu=np.sinh, promote=INT_TO_FLOAT, complex=True, vjp=lambda g, input: g * input.cosh(), inplace=True)
def sinh(input: Array):
    """The hyperbolic sine, elementwise."""
    return np.sinh(input)


@jit
def _cosh(x):
    return libdevice.cosh(x)


@pointwise(_cosh, cpu=np.cosh, promote=INT_TO_FLOAT, complex=True, vjp=lambda g, input: g * input.sinh(), inplace=True)
def cosh(input: Array):
    """The hyperbolic cosine, elementwise."""
    return np.cosh(input)


@jit
def _tanh(x):
    return libdevice.tanh(x)


@pointwise(
    _tanh,
    cpu=np.tanh,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: g * (1 - out * out),
    on="function method functional",
    inplace=True,
)
def tanh(input: Array):
    """The hyperbolic tangent, elementwise."""
    return np.tanh(input)


@jit
def _asinh(x):
    return libdevice.asinh(x)


@pointwise(
    _asinh,
    cpu=np.arcsinh,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: g * (input * input + 1).rsqrt(),
    alias=("arcsinh",),
    inplace=True,
)
def asinh(input: Array):
    """The inverse hyperbolic sine, elementwise."""
    return np.arcsinh(input)


def _acosh_slope(input: Any) -> Any:
    if input.is_complex():  # on the branch of acosh, which the root of the product is not
        return (input - 1).rsqrt() * (input + 1).rsqrt()
    return (input * input - 1).rsqrt()


@jit
def _acosh(x):
    return libdevice.acosh(x)


@pointwise(
    _acosh,
    cpu=np.arccosh,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: g * _acosh_slope(input),
    alias=("arccosh",),
    domain=(1.1, 5),
    inplace=True,
)
def acosh(input: Array):
    """The inverse hyperbolic cosine, elementwise; NaN below 1."""
    return np.arccosh(input)


@jit
def _atanh(x):
    return libdevice.atanh(x)


@pointwise(
    _atanh,
    cpu=np.arctanh,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, input: g / (1 - input * input),
    alias=("arctanh",),
    domain=(-0.9, 0.9),
    inplace=True,
)
def atanh(input: Array):
    """The inverse hyperbolic tangent, elementwise; NaN outside [-1, 1]."""
    return np.arctanh(input)


@jit
def _hypot(x, y):
    return libdevice.hypot(x, y)


@pointwise(
    _hypot,
    cpu=np.hypot,
    promote=FLOAT_ONLY,
    vjp=dict(input=lambda g, input, out: g * (input / out), other=lambda g, other, out: g * (other / out)),
    inplace=True,
)
def hypot(input: Array, other: Array):
    """√(input² + other²), elementwise, without overflow in between."""
    return np.hypot(input, other)


@composite(complex=False, inplace=True, samples=ELEMENTWISE)
@takes_out
def deg2rad(input: Tensor) -> Tensor:
    """input π / 180, elementwise."""
    return input * (math.pi / 180)


@composite(complex=False, inplace=True, samples=ELEMENTWISE)
@takes_out
def rad2deg(input: Tensor) -> Tensor:
    """input 180 / π, elementwise."""
    return input * (180 / math.pi)
