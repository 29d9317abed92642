"""Powers and roots, elementwise.

The scalar functions see float32 for half inputs, and the promoted dtype otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import INT_TO_FLOAT, PROMOTE
from tensorlib._samples import Draw, between, draw, each, ints, values
from tensorlib.errors import DtypeError
from tensorlib.op import Array, composite, pointwise
from tensorlib.ops.arithmetic import _quotient
from tensorlib.ops.create import zeros_like
from tensorlib.ops.exponentials import _log_of, log
from tensorlib.ops.selection import _where
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@jit
def _square(x):
    return x * x


@pointwise(
    _square,
    cpu=np.square,
    promote=PROMOTE,
    complex=True,
    spec=lambda input: (input.shape, np.dtype(np.int64) if input.dtype == np.bool_ else input.dtype),
    vjp=lambda g, input: g * (2 * input),
    inplace=True,
)
def square(input: Array):
    """input², elementwise; of bools int64, as pow gives."""
    return np.square(input)


@jit
def _cubed(x):
    return x * x * x


@pointwise(_cubed, promote=PROMOTE, complex=True, vjp=lambda g, input: g * (3 * (input * input)), on="")
def _cube(input: Array):
    """input³ by two multiplications; NumPy's float32 power costs fifty times as much."""
    return input * input * input


@jit
def _reciprocal(x):
    return _quotient(tl.cast(1.0, x.dtype), x)


@pointwise(
    _reciprocal,
    cpu=np.reciprocal,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: -g * (out * out),
    inplace=True,
)
def reciprocal(input: Array):
    """1 / input, elementwise; integers promote to the default float dtype."""
    return np.reciprocal(input)


@jit
def _root(x):
    if x.dtype == tl.float32:
        r = tl.sqrt_rn(x)
    else:
        r = tl.sqrt(x)
    return r


@pointwise(
    _root,
    cpu=np.sqrt,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: g / (2 * out),
    domain=(0.1, 5),
    inplace=True,
)
def sqrt(input: Array):
    """The square root, elementwise; NaN below 0."""
    return np.sqrt(input)


@jit
def _rsqrt(x):
    return _reciprocal(_root(x))


@pointwise(
    _rsqrt,
    promote=INT_TO_FLOAT,
    complex=True,
    vjp=lambda g, out: g * (-0.5 * (out * (out * out))),
    domain=(0.1, 5),
    inplace=True,
)
def rsqrt(input: Array):
    """1 / √input, elementwise."""
    r = np.asarray(np.sqrt(input))
    return np.reciprocal(r, out=r)


_POWERS = {
    1: lambda x: x.clone(),
    2: square,
    3: _cube,
    0.5: sqrt,
    -0.5: rsqrt,
    -1: reciprocal,
}


@jit
def _pow(x, y):
    if x.dtype.is_floating():
        r = libdevice.pow(x, y)
    else:  # by squaring; a negative exponent leaves only 1 and -1 apart from 0
        r = x * 0 + y * 0 + 1
        base = r * x
        e = y
        for _ in tl.static_range(8 if y.dtype.primitive_bitwidth == 8 else 31):
            r = tl.where(e & 1 == 1, r * base, r)
            base = base * base
            e = e >> 1
        if y.dtype.is_int_signed():
            one = tl.where(x == 1, r * 0 + 1, tl.where(x == -1, 1 - 2 * (y & 1), r * 0))
            r = tl.where(y < 0, one.to(r.dtype), r)
    return r


def _power_rule(g: Tensor, input: Any, exponent: Any) -> Tensor:
    """g exponent input^(exponent - 1), 0 where the exponent is 0."""
    if not isinstance(exponent, Tensor):
        return zeros_like(g) if exponent == 0 else g * (exponent * pow(input, exponent - 1))
    return _where(exponent == 0, 0.0, g * (exponent * pow(input, exponent - 1)))


def _nonnegative(exponent: Any) -> Any:
    if isinstance(exponent, Tensor) and exponent._array.dtype.kind == "c":
        parts: Any = exponent.view_as_real()  # type: ignore[attr-defined]
        return (parts[..., 0] >= 0) & (parts[..., 1] == 0)
    return exponent >= 0


def _exponent_rule(g: Tensor, input: Any, exponent: Any, out: Tensor) -> Tensor:
    """g out log(input), 0 where 0 is raised to a nonnegative power."""
    if not isinstance(input, Tensor):
        if input == 0:
            return _where(_nonnegative(exponent), 0.0, g * (out * -math.inf))
        return g * (out * _log_of(complex(input) if out._array.dtype.kind == "c" else input))
    base: Any = input
    if out._array.dtype.kind == "c" and input._array.dtype.kind != "c":  # of a negative number: a complex one
        base = base.to(OF_NUMPY[out._array.dtype])
    return _where((input == 0) & _nonnegative(exponent), 0.0, g * (out * log(base)))


def _integer_power(input: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    if exponent.dtype.kind == "u" or not (exponent < 0).any():
        return np.power(input, exponent)
    parity = (1 - 2 * (exponent & 1)).astype(input.dtype)
    inverse = np.where(input == 1, 1, np.where(input == -1, parity, 0))
    return np.where(exponent < 0, inverse, np.power(input, np.maximum(exponent, 0))).astype(input.dtype)


@pointwise(
    _pow,
    promote=PROMOTE,
    complex=True,
    vjp=dict(input=_power_rule, exponent=_exponent_rule),
    on="",
    samples=each(
        draw(between(0.1, 3, 3, 4), (3, 4)), draw(between(0.1, 3, 5, 1), (4,)), draw((7,), 5), draw((6,), 0),
        draw(2.5, (5,)), draw(ints(4, low=-3, high=4), ints(4, high=4)), draw((6,), -2),
        draw(ints(5, low=-2, high=3), ints(5, low=-2, high=3)),
        draw(between(0.1, 3, 5), -1.5),
    ),
)  # fmt: skip
def _power(input: Array, exponent: Array):
    """input**exponent, elementwise, in the promoted dtype; small integer powers by multiplication."""
    if input.dtype.kind == "b":
        return input | ~exponent
    if input.dtype.kind in "iu":
        return _integer_power(input, exponent)
    if not exponent.ndim and exponent.dtype.kind == "f":
        n = float(exponent)
        if n in (4.0, 5.0, 6.0):
            r = np.square(np.square(input))
            return r if n == 4 else r * input if n == 5 else r * np.square(input)
        if n == -2.0:
            return np.reciprocal(np.square(input))
    return np.power(input, exponent)


@composite(
    inplace=True,
    samples=each(
        draw(between(0.1, 3, 3, 4), Draw((3, 4))), draw(Draw((3, 4)), 2), draw(Draw((3, 4)), 3), draw(Draw((5,)), 0),
        draw(Draw((5,)), -2), draw(between(0.1, 3, 5), 0.5), draw(between(0.1, 3, 5), -1.5), draw(2.0, Draw((5,))),
        draw(Draw((0, 2)), 3), draw(values([0.0, 0.0, 1.0, -2.0]), values([0.0, 2.0, 0.0, 3.0])),
    ),
)  # fmt: skip
def pow(input: Any, exponent: Any, *, out: Any = None) -> Tensor:
    """input**exponent, elementwise, broadcast and promoted.

    The exponents 2 to 6, ±0.5, -1 and -2 are computed by multiplication, square root and division. An integer tensor to
    a negative integer number is a DtypeError.
    """
    kind = type(exponent)
    if (kind is int or kind is float) and out is None and isinstance(input, Tensor):
        dtype = input._array.dtype.kind
        if dtype in "fVc":
            special = _POWERS.get(exponent)
            if special is not None:
                return special(input)
        elif kind is int and dtype in "iu":
            if exponent == 2:
                return square(input)
            if exponent < 0:
                raise DtypeError(
                    f"pow: Integers to negative integer powers are not allowed: {OF_NUMPY[input._array.dtype]} to "
                    f"{exponent}: convert the input with .float()"
                )
    return _power(input, exponent, out=out)


_FLOAT64, _COMPLEX128 = np.dtype(np.float64), np.dtype(np.complex128)


@composite(
    inplace=True,
    samples=each(
        draw(between(0.1, 3, 3, 4), Draw((3, 4))), draw(Draw((3, 4)), 2), draw(2.0, Draw((5,))), draw(ints(4, low=1), 2)
    )
)
def float_power(input: Any, exponent: Any, *, out: Any = None) -> Tensor:
    """input**exponent in float64, or complex128, elementwise and broadcast."""
    of_complex = any(isinstance(x, complex) or (isinstance(x, Tensor) and x.is_complex()) for x in (input, exponent))  # type: ignore[attr-defined]
    dtype, number = (_COMPLEX128, complex) if of_complex else (_FLOAT64, float)
    first, second = (x.to(OF_NUMPY[dtype]) if isinstance(x, Tensor) else number(x) for x in (input, exponent))
    return pow(first, second, out=out)
