"""Discrete Fourier transforms by NumPy's pocketfft, on the CPU: three declared operators and what is made of them.

``_fft_c2c`` takes complex numbers to complex ones, ``_fft_r2c`` real ones to all or the first half of their transform,
``_fft_c2r`` such a half to real numbers. Each one's gradient is made of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import as_int, as_ints, dtype_name, wrap_dim
from tensorlib._dtypes import HALF, OF_NUMPY
from tensorlib._promotion import category, complex_of, default_dtype, real_of
from tensorlib._samples import Draw, draw, each, transposed
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.op import Array, composite, op
from tensorlib.ops._out import takes_out
from tensorlib.ops.complex_numbers import conj, real
from tensorlib.ops.create import arange, numpy_dtype, tensor
from tensorlib.ops.joining import cat, pad
from tensorlib.ops.reordering import roll
from tensorlib.ops.views import narrow

# ------------------------------------------------------------------------------------------- the transforms themselves

# By what the sum is divided: nothing, the root of the number of points, or that number; NumPy's word for it depends on
# the direction.
_FORWARD: dict[str, Any] = {"none": "backward", "root": "ortho", "n": "forward"}
_INVERSE: dict[str, Any] = {"none": "forward", "root": "ortho", "n": "backward"}


def _complex_dtype(name: str, input: Any) -> np.dtype[Any]:
    if input.dtype.kind != "c":
        raise DtypeError(f"{name}: takes complex numbers, got {dtype_name(input.dtype)}")
    return input.dtype  # type: ignore[no-any-return]


def _numpy_c2c(x: np.ndarray, dim: tuple[int, ...], scale: str, forward: bool) -> np.ndarray:
    if not x.size or not dim:
        return np.array(x)
    if forward:
        return np.fft.fftn(x, axes=dim, norm=_FORWARD[scale])
    return np.fft.ifftn(x, axes=dim, norm=_INVERSE[scale])


@op(
    spec=lambda input, dim, scale, forward: (input.shape, _complex_dtype("_fft_c2c", input)),
    vjp=lambda g, dim, scale, forward: _fft_c2c(g, dim, scale, not forward),
    complex="own",
    on="",
    samples=each(
        draw((3, 4), dim=(1,), scale="none", forward=True),
        draw((3, 5), dim=(0, 1), scale="root", forward=False),
        draw(transposed(2, 3), dim=(0,), scale="n", forward=False),
        draw((0, 3), dim=(1,), scale="n", forward=True),
    ),
)
def _fft_c2c(input: Array, dim: Any, scale: Any, forward: Any):
    """Σ input[k] exp(∓2πi jk / n) over the dims, - with ``forward``, divided by 1, √n or n ("none", "root", "n")."""
    return _numpy_c2c(input, dim, scale, forward)


def _r2c_spec(input: Any, dim: Any, scale: str, onesided: bool) -> Any:
    if category(input.dtype) != 2 or input.dtype in HALF:
        raise DtypeError(f"_fft_r2c: takes float32 and float64, got {dtype_name(input.dtype)}")
    shape = list(input.shape)
    if onesided:
        shape[dim[-1]] = shape[dim[-1]] // 2 + 1
    return tuple(shape), complex_of(input.dtype)


def _r2c_vjp(g: Tensor, input_shape: Any, dim: Any, scale: str, onesided: bool) -> Tensor:
    if onesided:  # the half that was not computed gets no gradient
        g = _resized(g, dim[-1], input_shape[dim[-1]])
    return real(_fft_c2c(g, dim, scale, False))


@op(
    spec=_r2c_spec,
    vjp=_r2c_vjp,
    complex="own",
    on="",
    samples=each(
        draw((3, 4), dim=(1,), scale="none", onesided=True), draw((3, 5), dim=(0, 1), scale="root", onesided=True),
        draw((3, 5), dim=(1,), scale="n", onesided=False), draw((4, 3), dim=(1, 0), scale="none", onesided=False),
        draw((0, 3), dim=(1,), scale="none", onesided=True),
    ),
)  # fmt: skip
def _fft_r2c(input: Array, dim: Any, scale: Any, onesided: Any):
    """The forward transform of real numbers; with ``onesided`` the first n // 2 + 1 along the last of the dims."""
    if not input.size:
        return np.zeros(*_r2c_spec(input, dim, scale, onesided))
    if not onesided:
        return np.fft.fftn(input, axes=dim, norm=_FORWARD[scale])
    half = np.fft.rfft(input, axis=dim[-1], norm=_FORWARD[scale])
    return _numpy_c2c(half, dim[:-1], scale, True)


def _c2r_spec(input: Any, dim: Any, scale: str, n: int) -> Any:
    shape = list(input.shape)
    shape[dim[-1]] = n
    return tuple(shape), real_of(_complex_dtype("_fft_c2r", input))


def _c2r_vjp(g: Tensor, input_shape: Any, dim: Any, scale: str, n: int) -> Tensor:
    """The transform of g; what stands for itself and for its conjugate counts twice."""
    half = _fft_r2c(g, dim, scale, True)
    length = input_shape[dim[-1]]
    twice = n - length
    if twice <= 0:
        return half
    weights = np.ones(length, real_of(half._array.dtype))
    weights[1 : 1 + twice] = 2
    shape = [1] * len(input_shape)
    shape[dim[-1]] = length
    return half * tensor(weights.reshape(shape))  # type: ignore[no-any-return]


@op(
    spec=_c2r_spec,
    vjp=_c2r_vjp,
    complex="own",
    on="",
    samples=each(
        draw((3, 3), dim=(1,), scale="n", n=4), draw((3, 3), dim=(0, 1), scale="root", n=5),
        draw((2, 3), dim=(1, 0), scale="none", n=2), draw((0, 3), dim=(1,), scale="n", n=4),
    ),
)  # fmt: skip
def _fft_c2r(input: Array, dim: Any, scale: Any, n: Any):
    """The inverse transform of the first half of a Hermitian input, ``n`` real numbers along the last of the dims."""
    if not input.size:
        return np.zeros(*_c2r_spec(input, dim, scale, n))
    full = _numpy_c2c(input, dim[:-1], scale, False)
    return np.fft.irfft(full, n, axis=dim[-1], norm=_INVERSE[scale])


# ------------------------------------------------------------------------------------------------------- arguments


def _scale(name: str, norm: str | None, forward: bool) -> str:
    """What the sum is divided by: "none", "root" or "n"."""
    if norm is None or norm == "backward":
        return "none" if forward else "n"
    if norm == "forward":
        return "n" if forward else "none"
    if norm == "ortho":
        return "root"
    raise ArgumentError(f'{name}: Invalid normalization mode: "{norm}": expected "backward", "ortho" or "forward"')


def _promoted(name: str, input: Any, to_complex: bool = False, only_real: bool = False) -> Tensor:
    """The input in a dtype that can be transformed: integers as the default float dtype."""
    dtype = input._array.dtype
    if only_real and dtype.kind == "c":
        raise DtypeError(f"{name}: expects a real input tensor, but got {dtype_name(dtype)}: take .real")
    want = default_dtype() if category(dtype) < 2 else dtype
    if want in HALF:
        raise DtypeError(f"{name}: Unsupported dtype {dtype_name(want)}: convert it, as in input.float()")
    want = complex_of(want) if to_complex else want
    return input if want == dtype else input.to(OF_NUMPY[want])  # type: ignore[no-any-return]


def _resized(input: Tensor, dim: int, n: int) -> Tensor:
    """``n`` elements along ``dim``: cut, or followed by zeros."""
    have = input._array.shape[dim]
    if n < have:
        return narrow(input, dim, 0, n)
    if n > have:
        return pad(input, (0, 0) * (input._array.ndim - 1 - dim) + (0, n - have))
    return input


def _points(name: str, n: int) -> int:
    if n < 1:
        raise ShapeError(f"{name}: Invalid number of data points ({n}) specified: expected at least 1")
    return n


def _line(name: str, input: Tensor, n: Any, dim: Any, half: bool = False) -> tuple[int, int]:
    """(dim from the front, points) of a transform along one dim; ``half``: of which the first half is given."""
    if not input._array.ndim:
        raise DimError(f"{name}: Dimension specified as {dim} but tensor has no dimensions")
    at = wrap_dim(name, dim, input._array.ndim)
    size = input._array.shape[at]
    return at, _points(name, (2 * (size - 1) if half else size) if n is None else as_int(name, "n", n))


def _dims(name: str, input: Tensor, s: Any, dim: Any, some: bool = False) -> tuple[tuple[int, ...], list[int]]:
    """(dims from the front, points of each, -1 where the input has as many) of a transform of several dims."""
    shape = input._array.shape
    sizes = None if s is None else list(as_ints(name, "s", s))
    if dim is not None:
        dims = tuple([wrap_dim(name, d, len(shape)) for d in as_ints(name, "dim", dim)])
        if len(set(dims)) != len(dims):
            raise ShapeError(f"{name}: FFT dims must be unique, got {dim}")
        if sizes is not None and len(sizes) != len(dims):
            raise ShapeError(f"{name}: When given, dim and shape arguments must have the same length: got {dim}, {s}")
    elif sizes is not None:
        if len(sizes) > len(shape):
            raise ShapeError(
                f"{name}: Got shape with {len(sizes)} values but input tensor only has {len(shape)} dimensions."
            )
        dims = tuple(range(len(shape) - len(sizes), len(shape)))
    else:
        dims = tuple(range(len(shape)))
    if some and not dims:
        raise ShapeError(f"{name}: must transform at least one axis")
    return dims, [-1] * len(dims) if sizes is None else sizes


def _sized(name: str, input: Tensor, dims: tuple[int, ...], sizes: Sequence[int]) -> Tensor:
    """The input with the points asked for along the dims."""
    for d, n in zip(dims, sizes, strict=True):
        input = _resized(input, d, _points(name, input._array.shape[d] if n == -1 else n))
    return input


def _complex_to_complex(name: str, input: Any, s: Any, dim: Any, norm: str | None, forward: bool) -> Tensor:
    scale = _scale(name, norm, forward)
    dims, sizes = _dims(name, input, s, dim)
    x = _promoted(name, input)
    x = _sized(name, x, dims, sizes)
    if forward and dims and x._array.dtype.kind != "c":
        return _fft_r2c(x, dims, scale, False)
    return _fft_c2c(_promoted(name, x, to_complex=True), dims, scale, forward)


def _real_to_half(name: str, input: Any, s: Any, dim: Any, norm: str | None, forward: bool) -> Tensor:
    scale = _scale(name, norm, forward)
    x = _promoted(name, input, only_real=True)
    dims, sizes = _dims(name, x, s, dim, some=True)
    x = _sized(name, x, dims, sizes)
    if forward:
        return _fft_r2c(x, dims, scale, True)
    return _fft_c2c(conj(_fft_r2c(x, dims[-1:], scale, True)), dims[:-1], scale, False)


def _half_to_real(name: str, input: Any, s: Any, dim: Any, norm: str | None, forward: bool) -> Tensor:
    scale = _scale(name, norm, forward)
    x = _promoted(name, input, to_complex=True)
    dims, sizes = _dims(name, x, s, dim, some=True)
    last = sizes[-1] if sizes[-1] != -1 else 2 * (x._array.shape[dims[-1]] - 1)
    _points(name, last)
    x = _sized(name, x, dims, [*sizes[:-1], last // 2 + 1])
    if forward:
        return _fft_c2r(conj(_fft_c2c(x, dims[:-1], scale, True)), dims[-1:], scale, last)
    return _fft_c2r(x, dims, scale, last)


# ---------------------------------------------------------------------------------------------------- along one dim

_LINES = each(
    draw((3, 4)), draw(Draw((3, 5)), n=3, dim=0), draw(Draw((3, 5)), 8, -1, "ortho"), draw((5,), norm="forward"),
    draw(Draw((2, 6), layout="strided")),
)  # fmt: skip
_HALVES = each(
    draw((3, 4)), draw((3, 5), n=7), draw((3, 5), 4, 0, "ortho"), draw((5,), norm="forward"),
)  # fmt: skip


@composite(on="fft", samples=_LINES)
@takes_out
def fft_fft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Σ input[k] exp(-2πi jk / n) along ``dim``: the discrete Fourier transform, complex.

    ``n`` points: the input is cut or followed by zeros. ``norm``: "forward" divides by n, "ortho" by √n, "backward"
    (None) leaves the division by n to ``ifft``. float32 gives complex64; integers become the default float dtype.
    """
    at, points = _line("fft", input, n, dim)
    return _complex_to_complex("fft", input, (points,), (at,), norm, True)


@composite(on="fft", samples=_LINES)
@takes_out
def fft_ifft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Σ input[k] exp(2πi jk / n) / n along ``dim``: the inverse of ``fft``, which see."""
    at, points = _line("ifft", input, n, dim)
    return _complex_to_complex("ifft", input, (points,), (at,), norm, False)


@composite(on="fft", samples=_LINES)
@takes_out
def fft_rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The first n // 2 + 1 elements of ``fft`` of real numbers; the others are their conjugates."""
    at, points = _line("rfft", input, n, dim)
    return _real_to_half("rfft", input, (points,), (at,), norm, True)


@composite(on="fft", samples=_HALVES)
@takes_out
def fft_irfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of ``rfft``: ``n`` real numbers, 2 (m - 1) of m inputs for None."""
    at, points = _line("irfft", input, n, dim, half=True)
    return _half_to_real("irfft", input, (points,), (at,), norm, False)


@composite(on="fft", samples=_HALVES)
@takes_out
def fft_hfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """``fft`` of the Hermitian signal whose first half is given: ``n`` real numbers, 2 (m - 1) of m inputs for None."""
    at, points = _line("hfft", input, n, dim, half=True)
    return _half_to_real("hfft", input, (points,), (at,), norm, True)


@composite(on="fft", samples=_LINES)
@takes_out
def fft_ihfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of ``hfft``: the first n // 2 + 1 elements of ``ifft`` of real numbers."""
    at, points = _line("ihfft", input, n, dim)
    return _real_to_half("ihfft", input, (points,), (at,), norm, False)


# -------------------------------------------------------------------------------------------------- along several dims

_PLANES = each(
    draw((3, 4)), draw(Draw((2, 3, 5)), s=(2, 4)), draw(Draw((2, 3, 4)), None, (0, 1), "ortho"),
    draw(Draw((3, 4)), s=(-1, 6), norm="forward"),
)  # fmt: skip
_HALF_PLANES = each(
    draw((3, 4)), draw((2, 3, 5), s=(2, 5)), draw((2, 3, 4), None, (0, 1), "ortho"),
    draw(Draw((3, 4)), s=(-1, 6), norm="forward"),
)  # fmt: skip


@composite(on="fft", samples=_PLANES)
@takes_out
def fft_fft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """``fft`` along both of the last two dims, or of ``dim``; ``s``: the points of each, -1 as many as there are."""
    return _complex_to_complex("fft2", input, s, dim, norm, True)


@composite(on="fft", samples=_PLANES)
@takes_out
def fft_ifft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """``ifft`` along both of the last two dims, or of ``dim``; ``s``: the points of each."""
    return _complex_to_complex("ifft2", input, s, dim, norm, False)


@composite(on="fft", samples=_PLANES)
@takes_out
def fft_rfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """``rfft`` along the last of two dims, then ``fft`` along the other."""
    return _real_to_half("rfft2", input, s, dim, norm, True)


@composite(on="fft", samples=_HALF_PLANES)
@takes_out
def fft_irfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of ``rfft2``: real numbers."""
    return _half_to_real("irfft2", input, s, dim, norm, False)


@composite(on="fft", samples=_HALF_PLANES)
@takes_out
def fft_hfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """``fft2`` of the signal, Hermitian along the last dim, whose first half is given: real numbers."""
    return _half_to_real("hfft2", input, s, dim, norm, True)


@composite(on="fft", samples=_PLANES)
@takes_out
def fft_ihfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of ``hfft2``: the first half of ``ifft2`` of real numbers."""
    return _real_to_half("ihfft2", input, s, dim, norm, False)


@composite(on="fft", samples=each(_PLANES, draw((2, 3, 4)), draw(())))
@takes_out
def fft_fftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """``fft`` along all dims, or the ones in ``dim``; ``s``: the points of each (of the last ones without ``dim``)."""
    return _complex_to_complex("fftn", input, s, dim, norm, True)


@composite(on="fft", samples=each(_PLANES, draw((2, 3, 4))))
@takes_out
def fft_ifftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """``ifft`` along all dims, or the ones in ``dim``: the inverse of ``fftn``."""
    return _complex_to_complex("ifftn", input, s, dim, norm, False)


@composite(on="fft", samples=each(_PLANES, draw((2, 3, 4))))
@takes_out
def fft_rfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """``rfft`` along the last dim, then ``fft`` along the others. ShapeError where there is none."""
    return _real_to_half("rfftn", input, s, dim, norm, True)


@composite(on="fft", samples=each(_HALF_PLANES, draw((2, 3, 4))))
@takes_out
def fft_irfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of ``rfftn``: real numbers, 2 (m - 1) along the last dim of m inputs unless ``s`` says."""
    return _half_to_real("irfftn", input, s, dim, norm, False)


@composite(on="fft", samples=each(_HALF_PLANES, draw((2, 3, 4))))
@takes_out
def fft_hfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """``fftn`` of the signal, Hermitian along the last dim, whose first half is given: real numbers."""
    return _half_to_real("hfftn", input, s, dim, norm, True)


@composite(on="fft", samples=each(_PLANES, draw((2, 3, 4))))
@takes_out
def fft_ihfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of ``hfftn``: the first half of ``ifftn`` of real numbers."""
    return _real_to_half("ihfftn", input, s, dim, norm, False)


# --------------------------------------------------------------------------------------------------------- frequencies


def _frequencies(name: str, n: Any, d: float, half: bool, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    n = as_int(name, "n", n)
    kind = numpy_dtype(dtype)
    if category(kind) < 2:
        raise DtypeError(f"{name}: requires a floating point or complex dtype, got {OF_NUMPY[kind]}")
    if half:
        points = arange(n // 2 + 1, device=device)
    else:
        points = cat([arange((n + 1) // 2, device=device), arange(-(n // 2), 0, device=device)])
    result = points.to(OF_NUMPY[kind]) * (1 / (n * d) if n * d else math.inf)  # type: ignore[attr-defined, operator]
    return result.requires_grad_() if requires_grad else result  # type: ignore[no-any-return]


_COUNTS = each(draw(5), draw(4, 0.5), draw(1))


@composite(on="fft", samples=_COUNTS)
@takes_out
def fft_fftfreq(n: int, d: float = 1.0, *, dtype: Any = None, layout: Any = None, device: Any = None,
                requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The frequencies of ``fft``'s elements, (0, 1, …, -2, -1) / (n d), for ``n`` samples ``d`` apart."""
    return _frequencies("fftfreq", n, d, False, dtype, device, requires_grad)


@composite(on="fft", samples=_COUNTS)
@takes_out
def fft_rfftfreq(n: int, d: float = 1.0, *, dtype: Any = None, layout: Any = None, device: Any = None,
                 requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The frequencies of ``rfft``'s elements, (0, 1, …, n // 2) / (n d), for ``n`` samples ``d`` apart."""
    return _frequencies("rfftfreq", n, d, True, dtype, device, requires_grad)


def _shifted(name: str, input: Tensor, dim: Any, extra: int) -> Tensor:
    shape = input._array.shape
    dims = range(len(shape)) if dim is None else as_ints(name, "dim", dim)
    at = [wrap_dim(name, d, len(shape)) for d in dims]
    return roll(input, tuple([(shape[d] + extra) // 2 for d in at]), tuple(at))


@composite(on="fft", samples=each(draw((5,)), draw((3, 4)), draw(Draw((3, 4)), 0), draw(Draw((2, 3)), (0, 1))))
def fft_fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The elements of ``fft`` with frequency 0 moved to the middle of ``dim``, of every dim for None."""
    return _shifted("fftshift", input, dim, 0)


@composite(on="fft", samples=each(draw((5,)), draw((3, 4)), draw(Draw((3, 4)), 0), draw(Draw((2, 3)), (0, 1))))
def fft_ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The inverse of ``fftshift``."""
    return _shifted("ifftshift", input, dim, 1)
