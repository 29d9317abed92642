"""Random tensors, in-place draws and dropout, all from one counted stream: see ``tensorlib.random``.

The same seed gives the same integers, uniform numbers and dropout masks on every device, normal numbers to rounding.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tensorlib import _inplace
from tensorlib import random as stream
from tensorlib._arguments import outside
from tensorlib._array import device_of as array_device
from tensorlib._core import Tensor
from tensorlib._device import device as Device
from tensorlib._dispatch import apply, as_int, as_ints, broadcast, refuse_complex
from tensorlib._dtypes import OF_NUMPY, bool_, finfo
from tensorlib._promotion import FLOAT_ONLY, category, default_dtype, real_of
from tensorlib._samples import Draw, between, draw, each, fails, ints, transposed, values, without_gradient
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import drawing
from tensorlib.kernels import random as kernels
from tensorlib.op import Array, Ints, Scalar, composite, into, op, registry
from tensorlib.ops._out import also_named
from tensorlib.ops.create import device_of, dtype_with, numpy_dtype, pinned, sizes_given, zeros_like
from tensorlib.ops.gamma import _digamma_numpy
from tensorlib.ops.selection import _where
from tensorlib.ops.softmax import softmax

_F32, _F64, _I64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)


def _work(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return _F64 if dtype == _F64 else _F32


# ------------------------------------------------------------------------------------------------ declared operators


def _filled(size: Any, dtype: Any) -> Any:
    return size, dtype


def _sizes(**attrs: Any) -> Any:
    return each(
        draw(size=(3, 5), dtype=_F32, device=None, **attrs), draw(size=(), dtype=_F32, device=None, **attrs),
        draw(size=(0, 3), dtype=_F32, device=None, **attrs), draw(size=(2051,), dtype=_F32, device=None, **attrs),
        draw(size=(1030,), dtype=_F64, device=None, **attrs),
        draw(size=(7,), dtype=np.dtype(np.float16), device=None, **attrs),
    )  # fmt: skip


@op(
    bench=[draw(size=(1 << 22,), dtype=np.dtype(np.float32), device=None, low=0.0, high=1.0)],
    spec=lambda size, low, high, dtype, device, seed, offset: _filled(size, dtype),
    kernel=kernels.uniform,
    random=True,
    on="",
    samples=_sizes(low=0.0, high=1.0) + _sizes(low=-2.0, high=3.5),
)
def _uniform(size: Ints, low: Scalar, high: Scalar, dtype: Any, device: Any, seed: Any, offset: Any):
    """Uniform numbers in [low, high); of complex ones each part."""
    if dtype.kind == "c":
        parts = stream.uniform01((*size, 2), real_of(dtype), seed, offset)
        return (parts * (high - low) + low).astype(parts.dtype, copy=False).view(dtype)[..., 0]
    out = stream.uniform01(size, dtype, seed, offset)  # type: ignore[arg-type]
    if low == 0 and high == 1:
        return out
    out = out.astype(_work(dtype), copy=False)
    return (out * (high - low) + low).astype(dtype, copy=False)


@op(
    bench=[draw(size=(1 << 22,), dtype=np.dtype(np.float32), device=None, mean=0.0, std=1.0)],
    spec=lambda size, mean, std, dtype, device, seed, offset: _filled(size, dtype),
    kernel=kernels.normal,
    random=True,
    on="",
    samples=_sizes(mean=0.0, std=1.0) + _sizes(mean=-2.0, std=0.5),
)
def _normal(size: Ints, mean: Scalar, std: Scalar, dtype: Any, device: Any, seed: Any, offset: Any):
    """Normal numbers of the given mean and standard deviation, by Box and Muller's transform.

    Of complex numbers each part has half of the variance.
    """
    if dtype.kind == "c":
        parts = stream.normal01((*size, 2), real_of(dtype), seed, offset)
        return (parts.view(dtype)[..., 0] * (std * math.sqrt(0.5)) + mean).astype(dtype, copy=False)
    out = stream.normal01(size, _work(dtype), seed, offset)  # type: ignore[arg-type]
    return (out if mean == 0 and std == 1 else out * std + mean).astype(dtype, copy=False)


@op(
    spec=lambda size, low, high, dtype, device, seed, offset: _filled(size, dtype),
    kernel=kernels.randint,
    random=True,
    on="",
    samples=each(
        draw(size=(3, 5), low=0, high=10, dtype=_I64, device=None),
        draw(size=(), low=-3, high=4, dtype=_I64, device=None),
        draw(size=(0,), low=0, high=2, dtype=_I64, device=None),
        draw(size=(2051,), low=-5, high=1 << 31, dtype=_I64, device=None),
        draw(size=(515,), low=-(1 << 62), high=1 << 62, dtype=_I64, device=None),
        draw(size=(9,), low=-(1 << 63), high=1 << 63, dtype=_I64, device=None),
        draw(size=(9,), low=0, high=200, dtype=np.dtype(np.uint8), device=None),
        draw(size=(9,), low=0, high=200, dtype=_F32, device=None),
    ),
)  # fmt: skip
def _randint(size: Ints, low: Any, high: Any, dtype: Any, device: Any, seed: Any, offset: Any):
    """Integers in [low, high)."""
    return stream.integers(size, low, high, dtype, seed, offset)  # type: ignore[arg-type]


@op(
    spec=lambda input, seed, offset: (input.shape, input.dtype),
    kernel=kernels.bernoulli,
    promote=FLOAT_ONLY,
    vjp=lambda g: g * 0,
    random=True,
    on="",
    samples=each(draw(between(0, 1, 3, 4)), draw(between(0, 1)), draw(between(0, 1, 2051)), draw(transposed(4, 3))),
    errors=[fails(ints(3), match="takes floating-point tensors")],
)
def _bernoulli(input: Array, seed: Any, offset: Any):
    """1 with probability input, else 0."""
    return np.less(stream.uniform01(input.shape, _F32, seed, offset), input)


def survivors(shape: tuple[int, ...], p: float, seed: int, offset: int) -> np.ndarray:
    """Which elements survive dropout: 16 bits of the stream each, low half of a word first, against p 65536."""
    n = int(np.prod(shape, dtype=np.int64))
    halves = stream.some_words(-(-n // 2), seed, offset).astype("<u4", copy=False).view("<u2")[:n]
    return np.greater_equal(halves, round(p * 65536)).reshape(shape) if p < 1 else np.zeros(shape, np.bool_)


def _again(g: Tensor, p: float, seed: int, offset: int) -> Tensor:
    """The gradient through the same mask: drawn again, not kept."""
    return apply(registry["_dropout"], (g,), {"p": p, "seed": seed, "offset": offset})


@op(
    bench=[draw((4096, 1024), p=0.1)],
    spec=lambda input, p, seed, offset: (input.shape, input.dtype),
    kernel=kernels.dropout,
    promote=FLOAT_ONLY,
    vjp=lambda g, p, seed, offset: _again(g, p, seed, offset),
    random=True,
    on="",
    samples=each(
        draw((3, 4), p=0.5), draw((2051,), p=0.1), draw((), p=0.3), draw((0, 3), p=0.5),
        draw(transposed(40, 33), p=0.9), draw((5,), p=1.0), draw((5,), p=0.0),
    ),
)  # fmt: skip
def _dropout(input: Array, p: float, seed: Any, offset: Any):
    """input / (1 - p), elements zeroed with probability p (a multiple of 2**-16)."""
    mask = survivors(input.shape, p, seed, offset)
    out = np.multiply(input, mask)
    out *= 1 / (1 - p) if p < 1 else 0
    return out


# ------------------------------------------------------------------------------------------------------- factories


def _shape(name: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    shape = as_ints(name, "size", size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size)
    for n in shape:
        if n < 0:
            raise ArgumentError(f"{name}: Trying to create tensor with negative dimension {n}: {shape}")
    return shape


def _float(name: str, dtype: Any) -> np.dtype[Any]:
    """A floating-point or complex dtype, the default float one for None."""
    kind = numpy_dtype(dtype)
    if category(kind) < 2:
        raise DtypeError(f"{name}: not implemented for {OF_NUMPY[kind]}: expected a floating-point dtype")
    return kind


def _give(name: str, t: Tensor, out: Any, requires_grad: bool, pin_memory: bool = False) -> Tensor:
    if out is not None:
        t = into(name, out, t)
    if pin_memory:
        t = pinned(t)
    if requires_grad:
        t.requires_grad_()
    return t


@composite(on="function", samples=each(draw(2, 3), draw((4,)), draw(0)))
def rand(*args: Any, size: Any = None, generator: Any = None, out: Any = None, dtype: Any = None, layout: Any = None,
         device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of ``size`` with uniform numbers in [0, 1)."""
    dtype = dtype_with("rand", out, dtype)
    shape = _shape("rand", sizes_given("rand", args, size))
    t = _uniform(shape, 0.0, 1.0, _float("rand", dtype), device_of(device), generator=generator)
    return _give("rand", t, out, requires_grad, pin_memory)


@composite(on="function", samples=each(draw(2, 3), draw((4,)), draw(0)))
def randn(*args: Any, size: Any = None, generator: Any = None, out: Any = None, dtype: Any = None, layout: Any = None,
          device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of ``size`` with standard normal numbers."""
    dtype = dtype_with("randn", out, dtype)
    shape = _shape("randn", sizes_given("randn", args, size))
    t = _normal(shape, 0.0, 1.0, _float("randn", dtype), device_of(device), generator=generator)
    return _give("randn", t, out, requires_grad, pin_memory)


def _bounds(name: str, low: Any, high: Any, kind: np.dtype[Any]) -> tuple[int, int]:
    """The bounds as numbers; ArgumentError where there is nothing between, or the dtype does not hold it."""
    low, high = as_int(name, "low", low), as_int(name, "high", high)
    if high <= low:
        raise ArgumentError(f"{name}: random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    dtype = OF_NUMPY[kind]
    if kind.kind in "iu":
        least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    elif dtype.is_floating_point:
        most = int(finfo(dtype).max)
        least = -most
    else:
        least, most = 0, 1
    for what, bound in (("from", low), ("to - 1", high - 1)):
        if not least <= bound <= most:
            raise ArgumentError(f"{name}: {what} is out of bounds for {dtype}: {bound} is not in [{least}, {most}]")
    return low, high


@composite(on="function", samples=each(draw(5, (2, 3)), draw(-2, 3, (4,))))
def randint(low: Any = None, high: Any = None, size: Any = None, *, generator: Any = None, out: Any = None,
            dtype: Any = None, layout: Any = None, device: Any = None,
            pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """Integers in [low, high) in a tensor of ``size``: int64 unless ``dtype`` is given.

    ``randint(high, size)`` starts at 0. ArgumentError for an empty range.
    """
    dtype = dtype_with("randint", out, dtype)
    if isinstance(high, (tuple, list)) and size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    elif low is None:
        low = 0
    if size is None or high is None:
        raise TypeError(f"randint() missing required argument: '{'size' if size is None else 'high'}'")
    shape, kind = _shape("randint", (size,)), numpy_dtype(dtype, _I64)
    low, high = _bounds("randint", low, high, kind)
    t = _randint(shape, low, high, kind, device_of(device), generator=generator)
    return _give("randint", t, out, requires_grad, pin_memory)


@op(
    spec=lambda n, dtype, device, seed, offset: ((n,), dtype),
    kernel=drawing.randperm,
    random=True,
    on="",
    samples=each(
        draw(n=9, dtype=_I64, device=None), draw(n=0, dtype=_I64, device=None),
        draw(n=1030, dtype=np.dtype(np.int32), device=None), draw(n=1, dtype=_F32, device=None),
    ),
    bench=[draw(n=1 << 20, dtype=_I64, device=None)],
    bytes=lambda n, dtype, device: n * dtype.itemsize,
)  # fmt: skip
def _randperm(n: int, dtype: Any, device: Any, seed: Any, offset: Any):
    """The order of n random 64-bit numbers."""
    keys = stream.some_words(2 * n, seed, offset).view(np.uint64)
    if n > 2048:  # sorting numbers with their places in the low bits takes a fifth of an argsort
        low = np.uint64((1 << (n - 1).bit_length()) - 1)
        both = keys & ~low
        both |= np.arange(n, dtype=np.uint64)
        both.sort()
        found = (both & low).view(np.int64)
        if not ((both[1:] ^ both[:-1]) <= low).any():
            return found.astype(dtype, copy=False)
    found = np.argsort(keys)  # several times as fast as the stable one, and the same where no two are equal
    ranked = keys[found]
    if (ranked[1:] == ranked[:-1]).any():
        found = np.argsort(keys, kind="stable")
    return found.astype(dtype, copy=False)


@composite(on="function", samples=each(draw(9), draw(0)))
def randperm(n: int, *, generator: Any = None, out: Any = None, dtype: Any = None, layout: Any = None,
             device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The integers 0 … n - 1 in random order: the order of n random 64-bit numbers."""
    dtype = dtype_with("randperm", out, dtype)
    n = as_int("randperm", "n", n)
    if n < 0:
        raise ArgumentError(f"randperm: n must be non-negative, got {n}")
    t = _randperm(n, numpy_dtype(dtype, _I64), device_of(device), generator=generator)
    return _give("randperm", t, out, requires_grad, pin_memory)


def _like(input: Tensor, dtype: Any, device: Any) -> tuple[tuple[int, ...], np.dtype[Any], Device]:
    x = input._array
    return x.shape, numpy_dtype(dtype, x.dtype), array_device(x) if device is None else Device(device)


@composite(on="function", samples=each(draw((2, 3))))
def rand_like(input: Tensor, *, generator: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
              pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """Uniform numbers in [0, 1) in the shape, dtype and device of ``input``."""
    shape, kind, at = _like(input, dtype, device)
    t = _uniform(shape, 0.0, 1.0, _float("rand_like", OF_NUMPY[kind]), at, generator=generator)
    return _give("rand_like", t, None, requires_grad, pin_memory)


@composite(on="function", samples=each(draw((2, 3))))
def randn_like(input: Tensor, *, generator: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
               pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """Standard normal numbers in the shape, dtype and device of ``input``."""
    shape, kind, at = _like(input, dtype, device)
    t = _normal(shape, 0.0, 1.0, _float("randn_like", OF_NUMPY[kind]), at, generator=generator)
    return _give("randn_like", t, None, requires_grad, pin_memory)


@composite(complex=False, on="function", samples=each(draw((2, 3), 9), draw(ints(4), -2, 3)))
def randint_like(input: Tensor, low: Any, high: Any = None, *, generator: Any = None, dtype: Any = None,
                 layout: Any = None, device: Any = None, pin_memory: bool = False, requires_grad: bool = False,
                 memory_format: Any = None) -> Tensor:  # fmt: skip
    """Integers in [low, high) in the shape, dtype and device of ``input``; ``randint_like(input, high)`` from 0."""
    if high is None:
        low, high = 0, low
    shape, kind, at = _like(input, dtype, device)
    low, high = _bounds("randint_like", low, high, kind)
    t = _randint(shape, low, high, kind, at, generator=generator)
    return _give("randint_like", t, None, requires_grad, pin_memory)


@composite(on="function", samples=each(
    draw(without_gradient(Draw((2, 3))), without_gradient(between(0.5, 1, 2, 3))), draw(0.0, 1.0, (2, 3)),
))  # fmt: skip
def normal(mean: Any, std: Any = 1.0, size: Any = None, *, generator: Any = None, out: Any = None, dtype: Any = None,
           layout: Any = None, device: Any = None, pin_memory: bool = False,
           requires_grad: bool = False) -> Tensor:  # fmt: skip
    """Normal numbers of a mean and a standard deviation that are tensors (broadcast) or, with ``size``, numbers.

    The gradients of both are zero: ``mean + std * randn_like(mean)`` passes them on.
    """
    dtype = dtype_with("normal", out, dtype)
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if not tensors:
        if size is None:
            raise TypeError("normal() missing required argument: 'size'")
        if std < 0:
            raise ArgumentError(f"normal: normal expects std >= 0.0, but found std {std}")
        shape, kind = _shape("normal", (size,)), _float("normal", dtype)
        t = _normal(shape, mean, std, kind, device_of(device), generator=generator)
        return _give("normal", t, out, requires_grad, pin_memory)
    if not isinstance(std, Tensor) and std < 0:
        raise ArgumentError(f"normal: normal expects std >= 0.0, but found std {std}")
    if isinstance(std, Tensor):
        refuse_complex("normal", std._array.dtype)
        if type(std._array) is np.ndarray and (std._array < 0).any():
            raise ArgumentError("normal: normal expects all elements of std >= 0.0")
    total = mean + std * 0 if isinstance(mean, Tensor) else std * 0 + mean
    z = randn_like(total.detach(), generator=generator)
    drawn = (z * std + mean).detach()
    kind = mean.dtype if isinstance(mean, Tensor) and mean.dtype.is_floating_point else drawn.dtype
    t = drawn.to(kind)
    if total.requires_grad:  # the gradient of a draw is zero, as PyTorch has it
        t = _where(zeros_like(t, dtype=bool_), total.to(kind), t)
    return _give("normal", t, out, requires_grad, pin_memory)


@composite(on="function method", samples=each(draw(between(0, 1, 3, 4)), draw((3, 4), p=0.25)))
def bernoulli(input: Tensor, p: Any = None, *, generator: Any = None, out: Any = None) -> Tensor:
    """1 with probability ``input``, elementwise, else 0; with ``p`` that is the probability everywhere."""
    chance = _possible("bernoulli", input) if p is None else _probabilities("bernoulli", input, p)
    t = _bernoulli(chance, generator=generator).to(input.dtype)
    return t if out is None else into("bernoulli", out, t)


def _possible(name: str, p: Tensor) -> Tensor:
    """The probabilities, read on the CPU only: on a device that would wait for it."""
    x = p._array
    if isinstance(x, np.ndarray) and not bool(np.all((x >= 0) & (x <= 1))):
        raise ArgumentError(f"{name}: Expected p_in >= 0 && p_in <= 1: a probability is outside [0, 1] or NaN")
    return p


def _probabilities(name: str, input: Tensor, p: Any) -> Tensor:
    """A float tensor of input's shape and dtype holding p."""
    if isinstance(p, Tensor):
        p = _possible(name, p).to(array_device(input._array))
        return p.expand(input._array.shape)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{name}: expects p to be in [0, 1], but got p={p}")
    x = input._array
    kind = x.dtype if OF_NUMPY[x.dtype].is_floating_point else default_dtype()
    attrs = {"size": x.shape, "fill_value": float(p), "dtype": kind, "device": array_device(x)}
    return apply(registry["_full"], (), attrs)


# --------------------------------------------------------------------------------------------------------- in place


def _write(input: Tensor, drawn: Tensor, name: str) -> Tensor:
    return _inplace.assign(input, drawn, name)


@composite(on="method", samples=each(draw((3, 4))))
def uniform_(input: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None, **names: Any) -> Tensor:
    """Fill with uniform numbers in [from, to)."""
    from_ = names.pop("from", from_)
    if names:
        raise TypeError(f"uniform_() got an unexpected keyword argument '{next(iter(names))}'")
    if from_ > to:
        raise ArgumentError(f"uniform_: expects to return a [from, to) range, but found from={from_} > to={to}")
    x = input._array
    kind = _float("uniform_", OF_NUMPY[x.dtype])
    drawn = _uniform(x.shape, float(from_), float(to), kind, array_device(x), generator=generator)
    return _write(input, drawn, "uniform_")


@composite(on="method", samples=each(draw((3, 4)), draw((3,), 2.0, 0.5)))
def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers of the given mean and standard deviation."""
    if std < 0:
        raise ArgumentError(f"normal_: normal expects std >= 0.0, but found std {std}")
    x = input._array
    kind = _float("normal_", OF_NUMPY[x.dtype])
    drawn = _normal(x.shape, float(mean), float(std), kind, array_device(x), generator=generator)
    return _write(input, drawn, "normal_")


@composite(complex=False, on="method", samples=each(draw((3, 4))))
def random_(input: Tensor, from_: Any = 0, to: Any = ..., *, generator: Any = None, **names: Any) -> Tensor:
    """Fill with integers in [from, to); ``random_(to)`` from 0, ``random_()`` all that the dtype holds exactly.

    ``random_(from, None)`` goes to the greatest of these. ArgumentError for bounds that the dtype does not hold.
    """
    from_ = names.pop("from", from_)
    if names:
        raise TypeError(f"random_() got an unexpected keyword argument '{next(iter(names))}'")
    x = input._array
    dtype = OF_NUMPY[x.dtype]
    if to is ...:
        from_, to = (0, from_) if from_ else (0, None)
    if to is None:
        if dtype.is_floating_point:
            to = (1 << {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[dtype.name]) + 1
        else:
            to = 2 if x.dtype == np.bool_ else int(np.iinfo(x.dtype).max) + 1
    low, high = _bounds("random_", from_, to, x.dtype)
    return _write(input, _randint(x.shape, low, high, x.dtype, array_device(x), generator=generator), "random_")


@composite(complex=False, on="method", samples=each(draw((3, 4)), draw((3,), 0.25)))
def bernoulli_(input: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with 1 with probability ``p`` (a number, or a tensor that broadcasts), else 0."""
    return _write(input, _bernoulli(_probabilities("bernoulli_", input, p), generator=generator), "bernoulli_")


@composite(complex=False, on="method", samples=each(draw((3, 4)), draw((3,), 2.0)))
def exponential_(input: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with numbers of density lambd e**(-lambd x): -log(1 - u) / lambd."""
    if lambd <= 0:
        raise ArgumentError(f"exponential_: expects lambda > 0.0, but found lambda={lambd}")
    x = input._array
    _float("exponential_", OF_NUMPY[x.dtype])
    u: Any = _uniform(x.shape, 0.0, 1.0, _work(x.dtype), array_device(x), generator=generator)
    return _write(input, (-u).log1p() * (-1.0 / lambd), "exponential_")


@composite(complex=False, on="method", samples=each(draw((3, 4)), draw((3,), 2.0, 0.5)))
def cauchy_(input: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with numbers of Cauchy's distribution: median + sigma tan(π (u - ½))."""
    if sigma <= 0:
        raise ArgumentError(f"cauchy_: expects sigma > 0.0, but found sigma={sigma}")
    x = input._array
    _float("cauchy_", OF_NUMPY[x.dtype])
    u: Any = _uniform(x.shape, 0.0, 1.0, _work(x.dtype), array_device(x), generator=generator)
    return _write(input, ((u - 0.5) * math.pi).tan() * sigma + median, "cauchy_")


@composite(complex=False, on="method", samples=each(draw((3, 4)), draw((3,), 2.0, 0.5)))
def log_normal_(input: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Any = None) -> Tensor:
    """Fill with e**z, z normal of the given mean and standard deviation."""
    if std <= 0:
        raise ArgumentError(f"log_normal_: expects std > 0.0, but found std={std}")
    x = input._array
    _float("log_normal_", OF_NUMPY[x.dtype])
    drawn: Any = _normal(x.shape, float(mean), float(std), _work(x.dtype), array_device(x), generator=generator)
    return _write(input, drawn.exp(), "log_normal_")


@composite(complex=False, on="method", samples=each(draw((3, 4), 0.25), draw(ints(3), 0.5)))
def geometric_(input: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """Fill with the number of trials up to the first success of probability p: ⌈log(1 - u) / log(1 - p)⌉, from 1."""
    if not 0 < p < 1:
        raise ArgumentError(f"geometric_: expects p to be in (0, 1), but got p={p}")
    x = input._array
    u: Any = _uniform(x.shape, 0.0, 1.0, _work(x.dtype), array_device(x), generator=generator)
    drawn = ((-u).log1p() * (1.0 / math.log1p(-p))).ceil().clamp(min=1)
    return _write(input, drawn.to(input.dtype), "geometric_")


def _sampler(seed: int, offset: int) -> np.random.Generator:
    """NumPy's generator at a place of the stream of its own: its samplers take a varying number of draws."""
    return np.random.Generator(np.random.Philox(key=seed & (1 << 128) - 1, counter=offset))


def _rates(name: str, x: np.ndarray) -> None:
    if not bool(np.all(x >= 0)):
        raise ArgumentError(f"{name}: invalid Poisson rate, expected rate to be non-negative")


@op(
    spec=lambda input, seed, offset: (input.shape, input.dtype),
    promote=FLOAT_ONLY,
    vjp=lambda g: g * 0,
    random=True,
    on="function",
    samples=each(draw(without_gradient(between(0, 9, 3, 4))), draw(without_gradient(between(0, 90))),
                 draw(without_gradient(between(0, 1, 0, 3))), draw(without_gradient(values([0.0, 1e4])))),
    errors=[fails(values([-1.0]), match="non-negative"), fails(ints(3), match="takes floating-point tensors")],
)
def poisson(input: Array, seed: Any, offset: Any):
    """Poisson numbers of rate ``input``, elementwise, in its dtype; its gradient is 0. NumPy's sampler: CPU only."""
    _rates("poisson", input)
    return np.asarray(_sampler(seed, offset).poisson(input)).astype(input.dtype)


def _gamma_slope(c: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dx/dc along a quantile of the gamma distribution: -(dP(c, x)/dc) / (dP(c, x)/dx).

    With P(c, x) = sum_n t_n, t_n = x^(c + n) exp(-x) / gamma(c + n + 1) (DLMF 8.11.4), dt_n/dc is
    t_n (log x - digamma(c + n + 1)) and dP/dx = t_0 c / x. The sum stops where the terms no longer count.
    """
    ratio, total, psi = np.ones_like(x), np.zeros_like(x), _digamma_numpy(c + 1)
    log_x = np.log(x)
    n = 0
    while True:  # ratio is t_n / t_0
        total += ratio * (log_x - psi)
        n += 1
        psi += 1 / (c + n)
        ratio *= x / (c + n)
        if not np.any((ratio > np.finfo(np.float64).eps * 1e-3 * np.abs(total)) & (ratio > 0)):
            return -total * x / c


@op(
    spec=lambda input, output: (input.shape, input.dtype),
    promote=FLOAT_ONLY,
    on="",
    samples=each(
        draw(between(0.1, 9, 3, 4), between(0.1, 9, 3, 4)), draw(between(0.5, 2), between(0.5, 2)),
        draw(between(20, 200, 7), between(20, 200, 7)), draw(between(1, 2, 0, 3), between(1, 2, 0, 3)),
    ),
)
def _standard_gamma_grad(input: Array, output: Array):
    """d output / d input of a standard gamma number ``output`` of concentration ``input``. CPU only."""
    slope = _gamma_slope(input.astype(np.float64).ravel(), output.astype(np.float64).ravel())
    return slope.astype(input.dtype).reshape(input.shape)


@op(
    spec=lambda input, seed, offset: (input.shape, input.dtype),
    promote=FLOAT_ONLY,
    random=True,
    on="",
    samples=each(
        draw(between(0.1, 9, 3, 4)), draw(between(0.5, 2)), draw(between(50, 90, 5)), draw(between(1, 2, 0, 3)),
    ),
    errors=[fails(ints(3), match="takes floating-point tensors")],
)
def _standard_gamma(input: Array, seed: Any, offset: Any):
    """Gamma numbers of concentration ``input`` and rate 1, elementwise. NumPy's sampler: CPU only."""
    drawn = np.asarray(_sampler(seed, offset).standard_gamma(input.astype(np.float64)))
    return np.maximum(drawn.astype(input.dtype), np.asarray(finfo(OF_NUMPY[input.dtype]).tiny, input.dtype))


def _binomial_spec(count: Any, prob: Any, seed: Any, offset: Any) -> Any:
    if count.dtype != prob.dtype:
        raise DtypeError(
            f"binomial: count and prob must have the same dtype, got {OF_NUMPY[count.dtype]} and {OF_NUMPY[prob.dtype]}"
        )
    return broadcast(registry["binomial"], (count, prob)), count.dtype


@op(
    spec=_binomial_spec,
    promote=FLOAT_ONLY,
    random=True,
    on="function",
    samples=each(
        draw(values([3.0, 10.0, 0.0, 50.0]), between(0, 1, 4)), draw(values([[5.0], [2.0]]), between(0, 1, 3)),
        draw(values(7.0), between(0, 1)),
    ),
    errors=[fails(values([3.0]), values([1.5]), match="prob")],
)
def binomial(count: Array, prob: Array, seed: Any, offset: Any):
    """How many of ``count`` trials of probability ``prob`` succeed, elementwise. By NumPy's sampler, on the CPU."""
    if not bool(np.all((prob >= 0) & (prob <= 1)) and np.all((count >= 0) & (count < 2.0**63))):
        raise ArgumentError("binomial: expected count in 0 .. 2**63 - 1 and prob in [0, 1]")
    drawn = _sampler(seed, offset).binomial(count.astype(np.int64), prob.astype(np.float64))
    return np.asarray(drawn).astype(count.dtype)


# ---------------------------------------------------------------------------------------------------------- dropout


def _check_probability(name: str, p: float) -> None:
    if p < 0 or p > 1:
        raise ArgumentError(f"{name}: dropout probability has to be between 0 and 1, but got {p}")


@composite(
    on="function functional",
    samples=each(draw((3, 4)), draw((3, 4), p=0.25), draw((3, 4), training=False), draw((3, 4), p=0.0)),
)
@also_named(train="training")
def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Tensor:
    """Zero each element with probability p, scale the others by 1 / (1 - p); input itself unless ``training``.

    p counts in steps of 2**-16. Backward draws the same mask again from seed and offset; none is kept.
    Srivastava et al. 2014.
    """
    _check_probability("dropout", p)
    if not training or p == 0:
        return input
    out = _dropout(input, float(p), generator=generator)
    return _inplace.assign(input, out, "dropout_", own=True) if inplace else out


@composite(complex=False, on="function functional", samples=each(draw((3, 4), training=True), draw((3, 4))))
@also_named(train="training")
def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, generator: Any = None
) -> Tensor:
    """Dropout that keeps mean 0 and variance 1 of selu's outputs: dropped elements become -1.7581, then a x + b.

    Klambauer et al. 2017, section 3.
    """
    _check_probability("alpha_dropout", p)
    if not training or p == 0:
        return input
    kept = _bernoulli(_probabilities("alpha_dropout", input, 1 - p), generator=generator) != 0
    return _alpha("alpha_dropout", input, kept, p, inplace)


def _alpha(name: str, input: Tensor, kept: Any, p: float, inplace: bool) -> Tensor:
    """What is not kept is the lowest value of selu, and an affine map brings back mean 0 and variance 1."""
    alpha = 1.7580993408473766
    a = ((1 - p) * (1 + p * alpha * alpha)) ** -0.5 if p < 1 else 0.0
    out = _where(kept, input, -alpha) * a + a * alpha * p
    return _inplace.assign(input, out, f"{name}_", own=True) if inplace else out


def _feature_mask(name: str, input: Tensor, p: float, generator: Any) -> Any:
    """1 / (1 - p) or 0 for each of the first two dimensions, to broadcast over the rest."""
    x = input._array
    if x.ndim < 2:
        raise ArgumentError(f"{name}: Feature dropout requires at least 2 dimensions in the input, got {x.ndim}")
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
    one = apply(registry["_full"], (), {"size": shape, "fill_value": 1.0, "dtype": x.dtype, "device": array_device(x)})
    return _dropout(one, float(p), generator=generator)


def _features(name: str, input: Tensor, p: float, training: bool, inplace: bool, generator: Any, ndim: int) -> Tensor:
    """Dropout of whole channels; an input of ``ndim`` dimensions is one sample without a batch."""
    _check_probability(name, p)
    if not training or p == 0:
        return input
    one: Any = input.unsqueeze(0) if input.ndim == ndim else input  # type: ignore[attr-defined]
    out = one * _feature_mask(name, one, p, generator)
    out = out.squeeze(0) if input.ndim == ndim else out
    return _inplace.assign(input, out, f"{name}_", own=True) if inplace else out


@composite(on="functional", samples=each(draw((2, 3, 4)), draw((2, 3, 4), training=False), draw((3, 4))))
def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Tensor:
    """Zero whole channels of (n, c, l) or (c, l) with probability p, scale the others by 1 / (1 - p)."""
    if input.ndim not in (2, 3):
        raise ShapeError(f"dropout1d: Expected 2D or 3D input, but received a {input.ndim}D input.")
    return _features("dropout1d", input, p, training, inplace, generator, 2)


@composite(on="functional", samples=each(draw((2, 3, 4, 2)), draw((2, 3, 4, 2), training=False)))
def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Tensor:
    """Zero whole channels (n, c) of (n, c, h, w) with probability p, scale the others by 1 / (1 - p)."""
    if input.ndim not in (3, 4):
        _expects("dropout2d", input, "3-D or 4-D")
    if input.ndim == 3:
        warnings.warn(
            "dropout2d: Received a 3-D input to dropout2d and assuming that channel-wise 1-D dropout behavior is "
            "desired - input is interpreted as shape (N, C, L). Use dropout1d for that.",
            stacklevel=outside(),
        )
    return _features("dropout2d", input, p, training, inplace, generator, -1)


@composite(on="functional", samples=each(draw((2, 3, 2, 1, 2)), draw((2, 3, 1, 2)), draw((2, 3, 1, 2), training=False)))
def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Tensor:
    """Zero whole channels of (n, c, d, h, w) or (c, d, h, w) with probability p, scale the others by 1 / (1 - p)."""
    if input.ndim not in (4, 5):
        _expects("dropout3d", input, "4-D or 5-D")
    return _features("dropout3d", input, p, training, inplace, generator, 4)


def _expects(name: str, input: Tensor, expected: str) -> None:
    warnings.warn(
        f"{name}: Received a {input.ndim}-D input to {name}, which is deprecated and will result in an error in a "
        f"future release. To retain the behavior and silence this warning, use another input: expected {expected}.",
        stacklevel=outside(),
    )


@composite(on="function", samples=each(draw((2, 3, 4), 0.5, True), draw((2, 3, 4), 0.5, False)))
def feature_dropout(input: Tensor, p: float, train: bool, *, generator: Any = None) -> Tensor:
    """Zero whole channels (n, c) of (n, c, …) with probability p, scale the others by 1 / (1 - p)."""
    return _features("feature_dropout", input, p, train, False, generator, -1)


@composite(on="function functional", samples=each(draw((2, 3, 4), training=True), draw((2, 3, 4), 0.3)))
@also_named(train="training")
def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, generator: Any = None
) -> Tensor:
    """``alpha_dropout`` of whole channels (n, c) of (n, c, …)."""
    _check_probability("feature_alpha_dropout", p)
    if not training or p == 0:
        return input
    kept = _feature_mask("feature_alpha_dropout", input, p, generator) != 0
    return _alpha("feature_alpha_dropout", input, kept, p, inplace)


@composite(on="function", samples=each(draw((3, 4), 0.5, True), draw((3, 4), 0.5, False)))
def dropout_(input: Tensor, p: float, train: bool, *, generator: Any = None) -> Tensor:
    """In-place form of ``dropout``."""
    return dropout(input, p, train, True, generator=generator)


@composite(complex=False, on="function", samples=each(draw((3, 4), 0.5, True), draw((3, 4), 0.5, False)))
def alpha_dropout_(input: Tensor, p: float, train: bool, *, generator: Any = None) -> Tensor:
    """In-place form of ``alpha_dropout``."""
    return alpha_dropout(input, p, train, True, generator=generator)


@composite(on="function", samples=each(draw((2, 3, 4), 0.5, True), draw((2, 3, 4), 0.5, False)))
def feature_dropout_(input: Tensor, p: float, train: bool, *, generator: Any = None) -> Tensor:
    """In-place form of ``feature_dropout``."""
    return _features("feature_dropout", input, p, train, True, generator, -1)


@composite(on="function", samples=each(draw((2, 3, 4), 0.5, True), draw((2, 3, 4), 0.5, False)))
def feature_alpha_dropout_(input: Tensor, p: float, train: bool, *, generator: Any = None) -> Tensor:
    """In-place form of ``feature_alpha_dropout``."""
    return feature_alpha_dropout(input, p, train, True, generator=generator)


@composite(
    on="functional",
    samples=each(draw((3, 4)), draw(Draw((3, 4), grad=False), 0.5, True, dim=0), draw((2, 3, 4), dim=1)),
)
def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1, *, generator: Any = None
) -> Tensor:
    """softmax((logits + G) / tau) along ``dim``, G of Gumbel's distribution; ``hard`` one-hot, with the soft gradient.

    Jang et al. 2017; Maddison et al. 2017.
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=outside())
    x: Any = logits
    noise: Any = exponential_(x.detach().clone(), generator=generator)
    soft: Any = softmax((x - noise.log()) / tau, dim)
    if not hard:
        return soft  # type: ignore[no-any-return]
    chosen = soft.detach().argmax(dim, True)
    return soft.new_zeros(soft.shape).scatter_(dim, chosen, 1.0) - soft.detach() + soft  # type: ignore[no-any-return]
