"""Special functions, elementwise: the sigmoid and its inverse, the error function, the normal distribution, x log y.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import INT_TO_FLOAT
from tensorlib._samples import between, draw, each, ints, values
from tensorlib.op import Array, pointwise
from tensorlib.ops import _special_tables
from tensorlib.ops._pointwise_numpy import erf as _erf_numpy
from tensorlib.ops._pointwise_numpy import erfc as _erfc_numpy
from tensorlib.ops._pointwise_numpy import sigmoid as _sigmoid_numpy
from tensorlib.ops._scalar_numpy import over_arrays
from tensorlib.ops.bessel import chebyshev
from tensorlib.ops.exponentials import _log_of
from tensorlib.ops.gamma import polynomial
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
    complex=True,
    vjp=lambda g, out: g * (out * (1 - out)),
    on="function method functional",
    alias=("special.expit",),
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
    alias=("special.logit",),
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
    alias=("special.erf",),
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
    alias=("special.erfc",),
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
    alias=("special.xlogy",),
    inplace=True,
)  # fmt: skip
def xlogy(input: Array, other: Array):
    """input log(other), elementwise; 0 where input is 0 and other is not NaN."""
    return np.where((input == 0) & (other == other), 0, input * np.log(other))


@jit
def _xlog1py(x, y):
    return tl.where((x == 0) & (y == y), x * 0, x * libdevice.log1p(y))


@pointwise(
    _xlog1py,
    promote=INT_TO_FLOAT,
    vjp=dict(
        input=lambda g, input, other: _where((input == 0) & (other <= -1), 0.0, g * _log1p_of(other)),
        other=lambda g, input, other: g * (input / (other + 1)),
    ),
    on="special",
    domain=(-0.9, 5),
)  # fmt: skip
def special_xlog1py(input: Array, other: Array):
    """input log(1 + other), elementwise; 0 where input is 0 and other is not NaN."""
    return np.where((input == 0) & (other == other), 0, input * np.log1p(other))


def _log1p_of(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.log1p()
    return math.log1p(x) if x > -1 else -math.inf if x == -1 else math.nan


@jit
def _entr(x):
    return tl.where(x > 0, -x * tl.log(x), tl.where(x == 0, 0.0, tl.where(x < 0, float("-inf"), x)))


@pointwise(
    _entr,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * _where(input == input, -(input.log() + 1), input),
    on="special",
    domain=(0.1, 5),
)
def special_entr(input: Array):
    """-input log(input), elementwise; 0 at 0 and -inf below."""
    return np.where(input > 0, -input * np.log(input), np.where(input == 0, 0, np.where(input < 0, -np.inf, input)))


@jit
def _sinc(x):
    t = 3.141592653589793 * x
    return tl.where(x == 0, x * 0 + 1, tl.sin(t) / t)


def _sinc_rule(g: Tensor, input: Tensor) -> Tensor:
    # About 0 the derivative is -π² input / 3: the quotient is of a number in its place, so that none of it is NaN.
    near = input * (input * math.pi) == 0  # also where input² underflows
    x = _where(near, 1.0, input)
    t = x * math.pi
    return g * _where(near, input * (-(math.pi**2) / 3), (t * t.cos() - t.sin()) / (t * x))


@pointwise(
    _sinc,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=_sinc_rule,
    alias=("special.sinc",),
    inplace=True,
)
def sinc(input: Array):
    """sin(π input) / (π input), elementwise; 1 at 0."""
    t = input * input.dtype.type(math.pi)
    return np.where(input == 0, 1, np.sin(t) / t).astype(input.dtype)


# ------------------------------------------------------------------------------------ the error function's relatives

_ERFCX = _special_tables.ERFCX
# Wichura 1988, Algorithm AS 241: the quantile of the normal distribution, numerators and denominators of the centre,
# the shoulders and the far tails.
_CENTRE_P = (
    3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946, 45921.95393154987,
    67265.7709270087, 33430.57558358813, 2509.0809287301227,
)  # fmt: skip
_CENTRE_Q = (
    1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597, 39307.89580009271,
    28729.085735721943, 5226.495278852854,
)  # fmt: skip
_SHOULDER_P = (
    1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045, 1.2704582524523684,
    0.2417807251774506, 0.022723844989269184, 0.0007745450142783414,
)  # fmt: skip
_SHOULDER_Q = (
    1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008, 0.015198666563616457,
    0.0005475938084995345, 1.0507500716444169e-09,
)  # fmt: skip
_TAIL_P = (
    6.657904643501103, 5.463784911164114, 1.7848265399172913, 0.29656057182850487, 0.026532189526576124,
    0.0012426609473880784, 2.7115555687434876e-05, 2.0103343992922881e-07,
)  # fmt: skip
_TAIL_Q = (
    1.0, 0.599832206555888, 0.1369298809227358, 0.014875361290850615, 0.0007868691311456133,
    1.8463183175100548e-05, 1.421511758316446e-07, 2.0442631033899397e-15,
)  # fmt: skip


@jit
def _quantile(q, r):
    """The x below which a normal number falls with probability 1/2 + q; r = 1/2 - |q|, told without cancellation."""
    t = 0.180625 - q * q
    central = q * polynomial(t, _CENTRE_P) / polynomial(t, _CENTRE_Q)
    far = tl.abs(q) > 0.425
    depth = tl.sqrt(-tl.log(tl.where(far & (r > 0), r, 0.05)))
    shoulder = polynomial(depth - 1.6, _SHOULDER_P) / polynomial(depth - 1.6, _SHOULDER_Q)
    tail = polynomial(depth - 5, _TAIL_P) / polynomial(depth - 5, _TAIL_Q)
    side = tl.where(depth <= 5, shoulder, tail)
    side = tl.where(r == 0, float("inf"), tl.where(r < 0, float("nan"), side))
    return tl.where(far, tl.where(q < 0, -side, side), central)


@jit
def _erfinv(x):
    x = tl.cast(x, tl.float64)
    return _quantile(x * 0.5, (1 - tl.abs(x)) * 0.5) * 0.7071067811865476


@jit
def _ndtri(x):
    x = tl.cast(x, tl.float64)
    return _quantile(x - 0.5, tl.where(x < 0.5, x, 1 - x))


@jit
def _erfcx_of(x):
    a = tl.abs(x)
    safe = tl.where(a == float("inf"), 1.0, a)
    r = tl.where(a == float("inf"), 0.0, chebyshev((safe - 4) / (safe + 4), _ERFCX) / (1 + 2 * safe))
    # e^(x²) from a square that is exact and what is left of it
    below = tl.where((x < 0) & (a < 27), a, 0.0)
    high = tl.floor(below * 67108864.0) / 67108864.0
    square = tl.exp(high * high) * tl.exp((below - high) * (below + high))
    return tl.where(x >= 0, r, tl.where(x <= -27, float("inf"), tl.where(x < 0, 2 * square - r, x)))


@jit
def _erfcx(x):
    return _erfcx_of(tl.cast(x, tl.float64))


@jit
def _ndtr(x):
    return 0.5 * libdevice.erfc(-0.7071067811865476 * tl.cast(x, tl.float64))


@jit
def _log_ndtr(x):
    x = tl.cast(x, tl.float64)
    t = x * 0.7071067811865476
    low = tl.where(x < -1, t, -1.0)
    below = tl.log(_erfcx_of(-low) / 2) - low * low
    above = libdevice.log1p(-libdevice.erfc(tl.where(x < -1, 0.0, t)) / 2)
    return tl.where(x == float("-inf"), x, tl.where(x < -1, below, above))


_erfinv_numpy, _erfcx_numpy, _ndtr_numpy, _ndtri_numpy, _log_ndtr_numpy = map(
    over_arrays, (_erfinv, _erfcx, _ndtr, _ndtri, _log_ndtr)
)


@pointwise(
    _erfinv,
    promote=INT_TO_FLOAT,
    vjp=lambda g, out: g * (0.8862269254527580 * (out * out).exp()),
    alias=("special.erfinv",),
    inplace=True,
    samples=each(
        draw(between(-0.99, 0.99, 3, 4)), draw(values([0.0, 0.5, -0.9, 0.999, -0.25, 0.86])), draw((0, 3)),
        draw(between(-0.9, 0.9)), draw(ints(4, low=0, high=1)),
    ),
)  # fmt: skip
def erfinv(input: Array):
    """The x of erf(x) = input, elementwise; infinite at ±1, NaN beyond. Wichura 1988, Algorithm AS 241."""
    return _erfinv_numpy(input)


@pointwise(
    _erfcx,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input, out: g * (2 * input * out - 1.1283791670955126),
    on="special",
    samples=each(
        draw(between(-4, 9, 3, 4)), draw(values([0.0, 0.5, -1.0, 4.0, 60.0, -2.5])), draw((0, 3)), draw(between(0, 3)),
        draw(ints(4)),
    ),
)  # fmt: skip
def special_erfcx(input: Array):
    """e^(input²) erfc(input), elementwise, without overflow."""
    return _erfcx_numpy(input)


_NORMAL = each(
    draw(between(-8, 8, 3, 4)), draw(values([0.0, 0.5, -1.0, -1.1, 4.0, -12.0])), draw((0, 3)), draw(between(-3, 3)),
    draw(ints(4, low=-3)),
)  # fmt: skip


@pointwise(
    _ndtr,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (0.3989422804014327 * (-0.5 * (input * input)).exp()),
    on="special",
    samples=_NORMAL,
)
def special_ndtr(input: Array):
    """The normal distribution's ∫ e^(-t²/2) dt / √2π from -∞ to input, elementwise."""
    return _ndtr_numpy(input)


@pointwise(
    _log_ndtr,
    promote=INT_TO_FLOAT,
    vjp=lambda g, input: g * (0.7978845608028654 / special_erfcx(input * -0.7071067811865476)),
    on="special",
    samples=_NORMAL,
)
def special_log_ndtr(input: Array):
    """The logarithm of ndtr(input), elementwise, exact in the far tail."""
    return _log_ndtr_numpy(input)


@pointwise(
    _ndtri,
    promote=INT_TO_FLOAT,
    vjp=lambda g, out: g * (2.5066282746310002 * (0.5 * (out * out)).exp()),
    on="special",
    samples=each(
        draw(between(0.01, 0.99, 3, 4)), draw(values([0.5, 0.07, 0.001, 0.999, 1e-7, 0.25])), draw(between(0, 1, 0, 3)),
        draw(between(0.1, 0.9)),
    ),
)  # fmt: skip
def special_ndtri(input: Array):
    """The x of ndtr(x) = input, elementwise; infinite at 0 and 1, NaN beyond. Wichura 1988, Algorithm AS 241."""
    return _ndtri_numpy(input)
