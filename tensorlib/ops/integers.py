"""Numbers taken apart and whole numbers, elementwise: mantissa and exponent, the next float, common divisors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import FLOAT_ONLY, INTEGERS, PROMOTE, category, default_dtype, result_dtype
from tensorlib._samples import Draw, bools, draw, each, fails, ints, transposed, values
from tensorlib.errors import DtypeError
from tensorlib.kernels import pointwise as kernels
from tensorlib.op import Array, composite, into, op, pointwise
from tensorlib.ops._pointwise import _common, _not_bool, _zero
from tensorlib.ops.powers import pow
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl

# ------------------------------------------------------------------------------------------------------------ divisors


@jit
def _gcd(x, y):
    # Euclid's algorithm, until no element of the block has a remainder; the least integer has no absolute value
    a = tl.abs(x + (y - y))
    b = tl.abs(y + (x - x))
    while tl.max(tl.where(b != 0, 1, 0), None) > 0:
        rest = tl.where(b != 0, a % tl.where(b != 0, b, b + 1), 0)
        a = tl.where(b != 0, b, a)
        b = rest.to(a.dtype)
    return tl.abs(a)


@jit
def _lcm(x, y):
    d = _gcd(x, y)
    quotient = x // tl.where(d == 0, d + 1, d)
    if d.dtype.primitive_bitwidth < 32:  # the product wraps when it is stored
        product = quotient.to(tl.int32) * y.to(tl.int32)
    else:
        product = quotient * y
    return tl.where(d == 0, 0, tl.abs(product))


_WHOLE = each(
    draw(ints(3, 4, low=-60, high=60), ints(3, 4, low=-60, high=60)), draw(ints(5, 1, high=9), ints(4, low=-9)),
    draw(ints(7, low=-40, high=40, dtype="int8"), ints(7, low=-90, high=90, dtype="int8")),
    draw(ints(5, high=200, dtype="uint8"), ints(5, high=200, dtype="uint8")),
    draw(ints(4, dtype="int32"), ints(1)), draw(ints(), ints()),
)  # fmt: skip


@pointwise(
    _gcd, promote=INTEGERS, spec=_not_bool("gcd"), inplace=True, samples=_WHOLE,
    errors=[fails((3,), (3,), match="takes integer"), fails(bools(3), bools(3), match="not implemented for bool")],
)  # fmt: skip
def gcd(input: Array, other: Array):
    """The greatest common divisor, elementwise, not negative; gcd(0, 0) = 0."""
    return np.gcd(input, other)


@pointwise(
    _lcm, promote=INTEGERS, spec=_not_bool("lcm"), inplace=True, samples=_WHOLE,
    errors=[fails((3,), (3,), match="takes integer"), fails(bools(3), bools(3), match="not implemented for bool")],
)  # fmt: skip
def lcm(input: Array, other: Array):
    """The least common multiple, elementwise, not negative; 0 where one of the two is."""
    return np.lcm(input, other)


# ----------------------------------------------------------------------------------------------------- parts of floats


@jit
def _exponent_bits(x):
    """The exponent of a normal float32 or float64."""
    if x.dtype == tl.float64:
        e = ((x.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32) - 1022
    else:
        e = ((x.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 126
    return e


@jit
def _whole(x):
    """x with subnormals scaled to normal numbers, and by how many powers of two."""
    if x.dtype == tl.float64:
        small = tl.abs(x) < 2.2250738585072014e-308
        x = tl.where(small, x * 18014398509481984.0, x)
        by = tl.where(small, 54, 0)
    else:
        small = tl.abs(x) < 1.1754943508222875e-38
        x = tl.where(small, x * 16777216.0, x)
        by = tl.where(small, 24, 0)
    return x, by


@jit
def _mantissa(x):
    y, _ = _whole(x)
    if x.dtype == tl.float64:
        bits = y.to(tl.int64, bitcast=True)
        m = ((bits & -9218868437227405313) | 0x3FE0000000000000).to(tl.float64, bitcast=True)
    else:
        bits = y.to(tl.int32, bitcast=True)
        m = ((bits & -2139095041) | 0x3F000000).to(tl.float32, bitcast=True)
    return tl.where((x == 0) | (x != x) | (tl.abs(x) == float("inf")), x, m)


@jit
def _exponent(x):
    y, by = _whole(x)
    return tl.where((x == 0) | (x != x) | (tl.abs(x) == float("inf")), 0, _exponent_bits(y) - by)


def _frexp_spec(input: Any) -> Any:
    if category(input.dtype) != 2:
        raise DtypeError(f"frexp: torch.frexp() only supports floating-point dtypes, got {OF_NUMPY[input.dtype]}")
    return [(input.shape, input.dtype), (input.shape, np.dtype(np.int32))]


def _frexp_kernel(mantissa: Any, exponent: Any, input: Any) -> None:
    work = np.dtype(np.float32) if input.dtype in HALF else input.dtype
    kernels.run(_mantissa, mantissa, (input,), (work,))
    kernels.run(_exponent, exponent, (input,), (work,))


def _frexp_rule(g: Tensor, exponent: Tensor) -> Tensor:
    return (g * pow(2.0, -exponent)).to(g.dtype)


@op(
    spec=_frexp_spec,
    kernel=_frexp_kernel,
    promote=PROMOTE,
    vjp=_frexp_rule,
    outputs=("mantissa", "exponent"),
    samples=each(
        draw((3, 4)), draw(values([0.5, 1.0, -3.0, 0.0, 1024.0, -0.3, 1e-3])), draw(transposed(4, 3)), draw((0, 3)),
        draw(()), draw((1500,)),
    ),
    errors=[fails(ints(3), match="floating-point")],
)  # fmt: skip
def frexp(input: Array):
    """(mantissa, exponent) with input = mantissa 2**exponent, ½ <= |mantissa| < 1, exponent int32; elementwise."""
    return np.frexp(input)


@jit
def _next(x, y):
    if x.dtype == tl.float64:
        i = x.to(tl.int64, bitcast=True)
        least = tl.where(y > 0, 1, -9223372036854775807).to(tl.int64)
    elif x.dtype == tl.float32:
        i = x.to(tl.int32, bitcast=True)
        least = tl.where(y > 0, 1, -2147483647).to(tl.int32)
    else:
        i = x.to(tl.int16, bitcast=True)
        least = tl.where(y > 0, 1, -32767).to(tl.int16)
    outward = (y > x) == (x > 0)
    step = tl.where(outward, 1, -1).to(i.dtype)
    i = tl.where(x == 0, least, i + step)
    r = i.to(x.dtype, bitcast=True)
    r = tl.where(x == y, y, r)
    return tl.where((x != x) | (y != y), float("nan"), r)


def _nextafter_spec(input: Any, other: Any) -> Any:
    shape, dtype = _common("nextafter", input, other)
    if category(dtype) != 2:
        raise DtypeError(f"nextafter: not implemented for {OF_NUMPY[dtype]}: convert to a floating-point dtype")
    return shape, dtype


def _nextafter_kernel(out: Any, input: Any, other: Any) -> None:
    operands = [float(x) if isinstance(x, (bool, int)) else x for x in (input, other)]
    kernels.run(_next, out, operands, (out.dtype, out.dtype))


@pointwise(
    _next,
    kernel=_nextafter_kernel,
    exact=True,
    promote=FLOAT_ONLY,
    spec=_nextafter_spec,
    vjp=dict(input=lambda g: g, other=_zero),
    inplace=True,
    samples=each(
        draw((3, 4), (3, 4)), draw((3, 1), (4,)),
        draw(values([0.0, 0.0, 1.0, -1.0, 3.0]), values([1.0, -1.0, 2.0, 2.0, -3.0])),
    ),
    errors=[fails(ints(3), ints(3), match="floating-point")],
)
def nextafter(input: Array, other: Array):
    """The next number of the dtype after input toward other, elementwise."""
    return np.nextafter(input, other)


@composite(
    inplace=True,
    samples=each(
        draw(Draw((3, 4)), ints(3, 4, high=5)), draw(Draw((3, 1)), ints(4, high=9)), draw(ints(5), ints(5)),
        draw(Draw((3, 4)), Draw((3, 4))), draw(Draw(()), ints()), draw(Draw((0, 2)), ints(2)),
    ),
)  # fmt: skip
def ldexp(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """input 2**other, elementwise and broadcast."""
    dtype = result_dtype([input._array, other._array])
    kind = OF_NUMPY[dtype if category(dtype) >= 2 else default_dtype()]
    r = (input * pow(2.0, other)).to(kind)
    return r if out is None else into("ldexp", out, r)
