"""Activation functions: elementwise, of any shape, with PyTorch's constants and edge cases."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import _inplace
from tensorlib._array import device_of as array_device
from tensorlib._core import Tensor
from tensorlib._dispatch import wrap_dim
from tensorlib._promotion import FLOAT_ONLY, INT_TO_FLOAT, PROMOTE
from tensorlib._samples import ELEMENTWISE, draw, each, fails, ints, transposed, values, with_attrs
from tensorlib._written import written
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import Array, Scalar, composite, pointwise
from tensorlib.ops._out import takes_out
from tensorlib.ops._pointwise_numpy import erf as _erf_numpy
from tensorlib.ops._pointwise_numpy import in_blocks, keep, odds32, select
from tensorlib.ops._pointwise_numpy import sigmoid as _sigmoid_numpy
from tensorlib.ops.exponentials import exp
from tensorlib.ops.random import _uniform
from tensorlib.ops.selection import _where
from tensorlib.ops.special import _sigmoid
from tensorlib.ops.trigonometry import tanh
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

_KINKS = values([-4.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 4.0, 6.0, 7.0])


def _run(op: Any, input: Tensor, inplace: bool, *attrs: Any) -> Tensor:
    """The operator's result, written into the input for ``inplace=True``."""
    if not inplace:
        return op(input, *attrs)
    return _in_place(op)(input, *attrs)  # type: ignore[no-any-return]


@cache
def _in_place(op: Any) -> Any:
    return _inplace.method(op, op.__name__.lstrip("_"), None, op is not _relu, written(op.op))


def _no_bools(name: str, input: Tensor) -> None:
    if input._array.dtype.kind == "b":
        raise DtypeError(f"{name}: Boolean inputs not supported: convert it, as in input.float()")


# --------------------------------------------------------------------------------------------------------------- relu


@jit
def _relu_scalar(x):
    return tl.where(x <= 0, tl.zeros_like(x), x)


@jit
def _relu_grad_scalar(g, y):
    return tl.where(y <= 0, tl.zeros_like(g), g)  # at NaN the gradient passes


@pointwise(_relu_grad_scalar, promote=PROMOTE, vjp=dict(grad=lambda g, output: relu_grad(g, output)), on="")
def relu_grad(grad: Array, output: Array):
    """grad where the output of relu is positive (or NaN), 0 where it is 0."""
    return keep(~(output <= 0), grad)


@pointwise(
    _relu_scalar,
    cpu=lambda input: np.maximum(input, 0),
    promote=PROMOTE,
    vjp=lambda g, out: relu_grad(g, out),
    on="",
    samples=each(draw((3, 4)), draw(_KINKS), draw(()), draw((0, 3)), draw(transposed(40, 33)), draw(ints(5, low=-9))),
)
def _relu(input: Array):
    """max(input, 0), elementwise; NaN stays NaN."""
    return np.maximum(input, 0)


@composite(on="function method functional", inplace=True, samples=ELEMENTWISE)
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0), elementwise; the gradient at 0 is 0."""
    _no_bools("relu", input)
    return _run(_relu, input, inplace)


@jit
def _hardtanh_scalar(x, low, high):
    return tl.where(x < low, low, tl.where(x > high, high, x))


@pointwise(
    _hardtanh_scalar,
    promote=PROMOTE,
    vjp=lambda g, input, min_val, max_val: _where((input > min_val) & (input < max_val), g, 0.0),
    on="",
    samples=each(draw((3, 4), min_val=-0.5, max_val=0.75), draw(_KINKS, min_val=0.0, max_val=6.0)),
)
def _hardtanh(input: Array, min_val: Scalar, max_val: Scalar):
    """min(max(input, min_val), max_val), elementwise; no gradient at the bounds."""
    return np.minimum(np.maximum(input, min_val), max_val).astype(input.dtype, copy=False)


@composite(on="functional", samples=each(ELEMENTWISE, draw((3, 4), min_val=-0.5, max_val=2.0)))
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """min(max(input, min_val), max_val), elementwise."""
    if min_val > max_val:
        raise ArgumentError(f"hardtanh: min_val cannot be greater than max_val, got {min_val} and {max_val}")
    _no_bools("hardtanh", input)
    return _run(_hardtanh, input, inplace, min_val, max_val)


@composite(on="functional", samples=ELEMENTWISE)
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input, 0), 6), elementwise."""
    _no_bools("relu6", input)
    return _run(_hardtanh, input, inplace, 0, 6)


@jit
def _leaky_relu_scalar(x, slope):
    return tl.where(x > 0, x, x * slope)


@pointwise(
    _leaky_relu_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, negative_slope: _where(input > 0, g, g * negative_slope),
    on="",
    samples=each(
        draw((3, 4), negative_slope=0.1), draw(_KINKS, negative_slope=-0.5), draw((1030,), negative_slope=0.0)
    ),
)
def _leaky_relu(input: Array, negative_slope: Scalar):
    """input where positive, negative_slope input elsewhere."""
    low = input * negative_slope
    if input.dtype.kind == "f" and isinstance(negative_slope, float) and 0 < negative_slope <= 1:
        return np.maximum(input, low)
    return select(input > 0, input, low)


@composite(on="functional", samples=each(ELEMENTWISE, draw((3, 4), negative_slope=0.3)))
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """max(input, 0) + negative_slope min(input, 0), elementwise."""
    return _run(_leaky_relu, input, inplace, negative_slope)


@composite(on="function method functional", samples=each(draw((2, 3, 4), (3,)), draw((3, 4), (1,)), draw((5,), (1,))))
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """max(input, 0) + weight min(input, 0); weight has one element, or one for each channel (dim 1)."""
    w, x = weight._array, input._array
    if w.ndim > 1:
        raise ShapeError(f"prelu: expected `weight` to be a scalar or 1D tensor, got {tuple(w.shape)}")
    if w.size != 1:
        channels = x.shape[1] if x.ndim > 1 else 1
        if w.size != channels:
            raise ShapeError(
                f"prelu: Mismatch of parameter numbers and input channel size: {w.size} weights and {channels} channels"
            )
        weight = weight.reshape((1, -1, *(1,) * (x.ndim - 2)))
    elif w.ndim and not x.ndim:
        weight = weight.reshape(())
    return _where(input > 0, input, weight * input)


@jit
def _threshold_scalar(x, threshold, value):
    return tl.where(x <= threshold, value, x)


@pointwise(
    _threshold_scalar,
    promote=PROMOTE,
    vjp=lambda g, input, threshold: _where(input <= threshold, 0.0, g),
    on="",
    samples=each(draw((3, 4), threshold=0.5, value=-1.0), draw(_KINKS, threshold=0.0, value=20.0)),
)
def _threshold(input: Array, threshold: Scalar, value: Scalar):
    """value where input <= threshold, input elsewhere."""
    return np.where(input <= threshold, np.asarray(value).astype(input.dtype), input)


@composite(on="function functional", samples=with_attrs(ELEMENTWISE, threshold=0.25, value=-2.0))
@takes_out
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """input where it is greater than ``threshold``, ``value`` elsewhere."""
    return _run(_threshold, input, inplace, threshold, value)


# --------------------------------------------------------------------------------------------------------- exponential


@jit
def _elu_scalar(x, alpha, scale, input_scale):
    return tl.where(x <= 0, libdevice.expm1(x * input_scale) * (alpha * scale), x * scale)


def _elu_vjp(g: Tensor, input: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    # min(x, 0): the branch not taken must not overflow, or its 0 * inf is NaN in the second order.
    low = exp(_where(input <= 0, input, 0.0) * input_scale) * (alpha * scale * input_scale)
    return g * _where(input <= 0, low, scale)


@pointwise(
    _elu_scalar,
    promote=FLOAT_ONLY,
    vjp=_elu_vjp,
    on="",
    samples=each(
        draw((3, 4), alpha=1.5, scale=1.0, input_scale=1.0), draw(_KINKS, alpha=1.0, scale=2.0, input_scale=0.5)
    ),
)
@in_blocks
def _elu(input: Array, alpha: Scalar, scale: Scalar, input_scale: Scalar):
    """scale input where positive, scale alpha (e^(input_scale input) - 1) elsewhere."""
    low = np.expm1(np.minimum(input, 0) * input_scale) * (alpha * scale)
    return select(input <= 0, low, input * scale)


@composite(on="functional", samples=each(ELEMENTWISE, draw((3, 4), alpha=0.5)))
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, alpha (e**input - 1) elsewhere. Clevert et al. 2015."""
    return _run(_elu, input, inplace, alpha, 1.0, 1.0)


@composite(on="function functional", samples=ELEMENTWISE)
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """1.0507 (max(input, 0) + min(1.6733 (e**input - 1), 0)), elementwise. Klambauer et al. 2017."""
    return _run(_elu, input, inplace, 1.6732632423543772, 1.0507009873554805, 1.0)


@composite(on="function functional", samples=each(ELEMENTWISE, draw((3, 4), alpha=0.5)))
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(input, 0) + min(alpha (e**(input / alpha) - 1), 0), elementwise. Barron 2017."""
    if alpha == 0:
        raise ArgumentError("celu: ZeroDivisionError: alpha cannot be 0 for CELU")
    return _run(_elu, input, inplace, alpha, 1.0, 1.0 / alpha)


@jit
def _softplus_scalar(x, beta, threshold):
    z = x * beta
    # log(1 + e^z) = max(z, 0) + log1p(e^-|z|)
    soft = (tl.maximum(z, 0.0) + libdevice.log1p(tl.exp(-tl.abs(z)))) / beta
    return tl.where((z > threshold) | (z != z), x, soft)


def _softplus_vjp(g: Tensor, z: Any, threshold: float) -> Tensor:
    return g * _where(z > threshold, 1.0, z.sigmoid())


@pointwise(
    _softplus_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, beta, threshold: _softplus_vjp(g, input if beta == 1 else input * beta, threshold),
    on="functional",
    samples=each(draw((3, 4)), draw(_KINKS, beta=2.0, threshold=5.0), draw((1030,), beta=0.5)),
)
@in_blocks
def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0):
    """log(1 + e**(beta input)) / beta, elementwise; input itself where beta input > threshold."""
    z = np.asarray(input * beta)
    soft = np.negative(np.abs(z))
    soft = np.log1p(np.exp(soft)) + np.maximum(z, 0)
    return np.where(z > threshold, input, soft / beta)


@jit
def _logsigmoid_scalar(x):
    low = tl.where(x < 0, x, tl.zeros_like(x))
    return tl.where(x != x, x, low - libdevice.log1p(tl.exp(-tl.abs(x))))


@pointwise(
    _logsigmoid_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input: g * (-input).sigmoid(),
    on="functional",
)
@in_blocks
def logsigmoid(input: Array):
    """log(1 / (1 + e**-input)), elementwise, without overflow."""
    return np.minimum(input, 0) - np.log1p(np.exp(-np.abs(input)))


# ------------------------------------------------------------------------------------------------- x times a sigmoid


_ROOT_2_OVER_PI, _CUBIC = math.sqrt(2 / math.pi), 0.044715
_TWICE, _TWICE_CUBIC = 2 * _ROOT_2_OVER_PI, 2 * _ROOT_2_OVER_PI * _CUBIC


@jit
def _gelu_scalar(x, tangent):
    if tangent:  # 0.5 (1 + tanh u) = sigmoid(2 u): one exponential
        r = x * _sigmoid(x * (_TWICE + _TWICE_CUBIC * x * x))
    else:
        r = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return r


@jit
def _gelu_grad_scalar(g, x, tangent):
    if tangent:
        s = _sigmoid(x * (_TWICE + _TWICE_CUBIC * x * x))
        slope = s + x * (s * (1.0 - s)) * (_TWICE + 3 * _TWICE_CUBIC * x * x)
    else:
        slope = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * (0.3989422804014327 * tl.exp(-0.5 * x * x))
    return g * slope


def _gate(x: np.ndarray) -> np.ndarray:
    """1 + e^(-2 u) with u = √(2/π) (x + 0.044715 x³): 0.5 (1 + tanh u) is its reciprocal, without cancellation."""
    t = np.asarray(np.square(x))
    t *= -_TWICE_CUBIC
    t -= _TWICE
    t *= x
    np.exp(t, out=t)
    t += 1
    return t


def _times(slope: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """slope times grad, in slope's memory where it fits."""
    return np.multiply(slope, grad, out=slope if slope.shape == grad.shape else None)


@pointwise(
    _gelu_grad_scalar,
    promote=FLOAT_ONLY,
    on="",
    samples=each(draw((3, 4), (3, 4), tangent=True), draw((40, 33), transposed(40, 33), tangent=False)),
)
@in_blocks
def gelu_grad(grad: Array, input: Array, tangent: bool):
    """grad times the derivative of gelu at input."""
    x = input
    if tangent:
        s = _gate(x)
        np.reciprocal(s, out=s)
        slope = np.asarray(np.square(x))
        slope *= 3 * _TWICE_CUBIC
        slope += _TWICE
        slope *= x
        slope *= 1 - s
        slope += 1
        slope *= s
    else:
        slope = np.asarray(np.square(x))
        slope *= -0.5
        np.exp(slope, out=slope)
        slope *= x
        slope *= 0.3989422804014327
        if x.dtype == np.float32:
            half = odds32(x)
            np.reciprocal(half, out=half)
        else:
            half = _erf_numpy(np.asarray(x * 0.7071067811865476))
            half += 1
            half *= 0.5
        slope += half
    return _times(slope, grad)


def _gelu_composite(input: Tensor, tangent: bool) -> Tensor:
    x: Any = input
    if tangent:
        return 0.5 * x * (1 + tanh(_ROOT_2_OVER_PI * (x + _CUBIC * (x * x * x))))
    return 0.5 * x * (1 + (x * 0.7071067811865476).erf())


@pointwise(
    _gelu_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, tangent: gelu_grad(g, input, tangent),
    composite=_gelu_composite,
    on="",
    samples=each(
        draw((3, 4), tangent=True), draw((3, 4), tangent=False), draw(_KINKS, tangent=True),
        draw(_KINKS, tangent=False), draw(transposed(40, 33), tangent=True), draw((), tangent=False),
    ),
)  # fmt: skip
@in_blocks
def _gelu(input: Array, tangent: bool):
    """input times the normal distribution function of input, exactly or by tanh."""
    if tangent:
        t = _gate(input)
        return np.divide(input, t, out=t)
    if input.dtype == np.float32:
        t = odds32(input)
        return np.divide(input, t, out=t)
    t = _erf_numpy(np.asarray(input * 0.7071067811865476))
    t += 1
    t *= input
    t *= 0.5
    return t


@composite(on="functional", samples=each(ELEMENTWISE, with_attrs(ELEMENTWISE, approximate="tanh")))
@takes_out
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input Φ(input), elementwise, Φ the normal distribution function. Hendrycks and Gimpel 2016.

    ``approximate='tanh'``: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))). ArgumentError for another name.
    """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"gelu: approximate argument must be either 'none' or 'tanh', got {approximate!r}")
    return _gelu(input, approximate == "tanh")


@jit
def _silu_scalar(x):
    return x * _sigmoid(x)


@jit
def _silu_grad_scalar(g, x):
    s = _sigmoid(x)
    return g * (s * (1.0 + x * (1.0 - s)))


@pointwise(_silu_grad_scalar, promote=FLOAT_ONLY, complex=True, on="")
@in_blocks
def silu_grad(grad: Array, input: Array):
    """grad times sigmoid(x) (1 + x (1 - sigmoid(x))) at x = input."""
    s = _sigmoid_numpy(input)
    slope = np.asarray(np.subtract(1, s))
    slope *= input
    slope += 1
    slope *= s
    return _times(slope, grad)


@pointwise(
    _silu_scalar,
    promote=FLOAT_ONLY,
    complex=True,
    vjp=lambda g, input: silu_grad(g, input),
    composite=lambda input: input * input.sigmoid(),
    on="",
)
@in_blocks
def _silu(input: Array):
    """input sigmoid(input), elementwise."""
    s = _sigmoid_numpy(input)
    s *= input
    return s


@composite(on="functional", samples=ELEMENTWISE)
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input sigmoid(input), elementwise. Hendrycks and Gimpel 2016; swish."""
    return _run(_silu, input, inplace)


@jit
def _mish_scalar(x):
    # tanh(log(1 + e^x)) = (n² + 2 n) / (n² + 2 n + 2) with n = e^x; written for both signs without overflow
    t = tl.exp(-tl.abs(x))
    up = tl.where(x >= 0, 1.0 + 2.0 * t, t * t + 2.0 * t)
    down = tl.where(x >= 0, 1.0 + 2.0 * t + 2.0 * t * t, t * t + 2.0 * t + 2.0)
    return x * (up / down)


def _mish_vjp(g: Tensor, input: Any) -> Tensor:
    t, s = tanh(softplus(input)), input.sigmoid()
    return g * (t + input * (s * (1 - t * t)))


@pointwise(_mish_scalar, promote=FLOAT_ONLY, vjp=_mish_vjp, on="")
@in_blocks
def _mish(input: Array):
    """input tanh(log(1 + e**input)), elementwise."""
    return input * np.tanh(np.log1p(np.exp(-np.abs(input))) + np.maximum(input, 0))


@composite(on="functional", samples=ELEMENTWISE)
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input tanh(softplus(input)), elementwise. Misra 2019."""
    return _run(_mish, input, inplace)


@composite(
    complex=False,
    on="functional",
    samples=each(draw((3, 4)), draw((4, 3), dim=0), draw((2, 6, 3), dim=1), draw((0, 4))),
)
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a sigmoid(b) for the halves a and b of input along ``dim``. Dauphin et al. 2017. ShapeError for an odd size."""
    n = input._array.ndim
    if n == 0:
        raise ShapeError("glu: does not support 0-dimensional tensors")
    dim = wrap_dim("glu", dim, n)
    size = input._array.shape[dim]
    if size % 2:
        raise ShapeError(f"glu: Halving dimension must be even, but dimension {dim} is size {size}")
    x: Any = input
    return x.narrow(dim, 0, size // 2) * x.narrow(dim, size // 2, size // 2).sigmoid()


# ------------------------------------------------------------------------------------------------ piecewise, rational


@jit
def _hardsigmoid_scalar(x):
    return tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 1.0, (x + 3.0) / 6.0))


@pointwise(
    _hardsigmoid_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input: _where((input > -3) & (input < 3), g * (1.0 / 6.0), 0.0),
    on="",
    samples=each(draw((3, 4)), draw(_KINKS)),
)
def _hardsigmoid(input: Array):
    """min(max(input + 3, 0), 6) / 6, elementwise."""
    return np.minimum(np.maximum(input + 3, 0), 6) / 6


@composite(on="functional", samples=ELEMENTWISE)
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input + 3, 0), 6) / 6, elementwise. Howard et al. 2019."""
    return _run(_hardsigmoid, input, inplace)


@jit
def _hardswish_scalar(x):
    return x * _hardsigmoid_scalar(x)


def _hardswish_vjp(g: Tensor, input: Any) -> Tensor:
    return _where(input <= -3, 0.0, _where(input < 3, g * (input / 3 + 0.5), g))


@pointwise(
    _hardswish_scalar,
    promote=FLOAT_ONLY,
    vjp=_hardswish_vjp,
    on="",
    samples=each(draw((3, 4)), draw(_KINKS)),
)
@in_blocks
def _hardswish(input: Array):
    """input min(max(input + 3, 0), 6) / 6, elementwise."""
    out = np.asarray(input + 3)
    np.maximum(out, 0, out=out)
    np.minimum(out, 6, out=out)
    out *= input
    out /= 6
    return out


@composite(on="functional", samples=ELEMENTWISE)
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input min(max(input + 3, 0), 6) / 6, elementwise. Howard et al. 2019."""
    return _run(_hardswish, input, inplace)


def _softsign_vjp(g: Tensor, input: Any) -> Any:
    scale = 1 + input.abs()
    if not input.is_complex():
        return g / scale.square()
    along: Any = g.conj() * input  # type: ignore[attr-defined]
    return g / scale - input.sgn() * (along.real / scale.square())


@jit
def _softsign_scalar(x):
    return x / (1.0 + tl.abs(x))


@pointwise(
    _softsign_scalar,
    promote=INT_TO_FLOAT,
    complex="own",
    vjp=lambda g, input: _softsign_vjp(g, input),
    on="functional",
)
@in_blocks
def softsign(input: Array):
    """input / (1 + |input|), elementwise."""
    return input / (1 + np.abs(input))


@composite(on="functional", samples=ELEMENTWISE)
def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input), elementwise."""
    return input - tanh(input)


@jit
def _softshrink_scalar(x, lambd):
    return tl.where(x > lambd, x - lambd, tl.where(x < -lambd, x + lambd, x * 0.0))


@pointwise(
    _softshrink_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, lambd: _where((input >= -lambd) & (input <= lambd), 0.0, g),
    on="",
    samples=each(draw((3, 4), lambd=0.5), draw(_KINKS, lambd=1.0)),
)
def _softshrink(input: Array, lambd: Scalar):
    """input moved toward 0 by lambd, 0 within."""
    return np.where(input > lambd, input - lambd, np.where(input < -lambd, input + lambd, input * 0))


@composite(on="functional", samples=each(ELEMENTWISE, draw((3, 4), lambd=1.0)))
@takes_out
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """input - lambd above lambd, input + lambd below -lambd, 0 between, elementwise."""
    if lambd < 0:
        raise ArgumentError(f"softshrink: lambda must be greater or equal to 0, but found to be {lambd}")
    return _softshrink(input, lambd)


@jit
def _hardshrink_scalar(x, lambd):
    return tl.where((x >= -lambd) & (x <= lambd), 0.0, x)


@pointwise(
    _hardshrink_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g, input, lambd: _where((input >= -lambd) & (input <= lambd), 0.0, g),
    on="function method functional",
    samples=each(draw((3, 4)), draw(_KINKS, lambd=1.0)),
    errors=[fails(ints(3), match="takes floating-point tensors")],
)
def hardshrink(input: Array, lambd: Scalar = 0.5):
    """input where its magnitude exceeds lambd, 0 elsewhere."""
    return np.where((input >= -lambd) & (input <= lambd), 0, input)


@composite(on="function functional", samples=each(ELEMENTWISE, draw((3, 4), 0.1, 0.4), draw((0, 2), training=True)))
def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False, *,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """input where positive, a input elsewhere: a uniform in [lower, upper) an element in training, else their mean.

    Xu et al. 2015.
    """
    if lower > upper:
        raise ArgumentError(f"rrelu: Lower bound should be less than or equal to the upper bound, got {lower}, {upper}")
    if not training:
        return _run(_leaky_relu, input, inplace, (lower + upper) / 2)
    x = input._array
    kind = x.dtype if x.dtype.itemsize > 2 else np.dtype(np.float32)
    slope = _uniform(x.shape, float(lower), float(upper), kind, array_device(x), generator=generator).to(input.dtype)
    before: Any = _inplace._before_write(input) if inplace else input
    out = before * _where(before <= 0, slope, 1.0)
    return _inplace.assign(input, out, "rrelu_", own=True) if inplace else out


# ------------------------------------------------------------------------------------------------------------ in place


@composite(on="function functional", samples=with_attrs(ELEMENTWISE, threshold=0.25, value=-2.0))
def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """In-place form of ``threshold``."""
    return _run(_threshold, input, True, threshold, value)


@composite(on="functional", samples=ELEMENTWISE)
def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """In-place form of ``hardtanh``."""
    return hardtanh(input, min_val, max_val, True)


@composite(on="functional", samples=ELEMENTWISE)
def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """In-place form of ``leaky_relu``."""
    return leaky_relu(input, negative_slope, True)


@composite(on="functional", samples=ELEMENTWISE)
def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place form of ``elu``."""
    return elu(input, alpha, True)


@composite(on="function functional", samples=ELEMENTWISE)
def selu_(input: Tensor) -> Tensor:
    """In-place form of ``selu``."""
    return selu(input, True)


@composite(on="function functional", samples=ELEMENTWISE)
def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place form of ``celu``."""
    return celu(input, alpha, True)


@composite(on="function functional", samples=ELEMENTWISE)
def rrelu_(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, *, generator: Any = None
) -> Tensor:
    """In-place form of ``rrelu``."""
    return rrelu(input, lower, upper, training, True, generator=generator)
