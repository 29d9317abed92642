"""Complex numbers: made of parts and of polar coordinates, taken apart, conjugated. They are on the CPU only.

Gradients are PyTorch's: of a real loss L, dL/d(re z) + i dL/d(im z), so that -grad descends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib._core import Tensor
from tensorlib._device import meta
from tensorlib._dispatch import dtype_name
from tensorlib._dtypes import HALF
from tensorlib._promotion import INT_TO_FLOAT, PROMOTE, category, complex_of, default_dtype, real_of
from tensorlib._samples import ELEMENTWISE, Draw, between, bools, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.op import Array, composite, into, op, pointwise, registry, view
from tensorlib.ops._pointwise import _common
from tensorlib.ops.arithmetic import mul, sub
from tensorlib.ops.comparison import eq
from tensorlib.ops.create import zeros_like
from tensorlib.ops.linalg import dot
from tensorlib.ops.selection import _where
from tensorlib.ops.views import _conjugate
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl


def _is_complex(x: Any) -> bool:
    return isinstance(x, complex) or (isinstance(x, Tensor) and x._array.dtype.kind == "c")


# ------------------------------------------------------------------------------------------------------------- parts


@view(
    vjp=lambda g: view_as_complex(g.contiguous()),
    samples=each(draw((3, 4)), draw(()), draw((0, 2)), draw(strided(2, 5)), draw(transposed(4, 3))),
)
def view_as_real(input: Array):
    """The view (…, 2) of complex numbers as their real and imaginary parts. DtypeError for real numbers."""
    if input.dtype.kind != "c":
        raise DtypeError(
            f"view_as_real: is only supported for complex tensors, got {dtype_name(input.dtype)}: expected complex "
            f"numbers, as x.to(tensorlib.complex64) gives them"
        )
    if not isinstance(input, np.ndarray):  # on "meta": elsewhere there are none
        strides = (*(2 * s for s in input.strides), 1)
        return DeviceArray(input.ptr, (*input.shape, 2), strides, real_of(input.dtype), input.device, input.owner)
    return input[..., None].view(real_of(input.dtype))


@view(vjp=lambda g: view_as_real(g), samples=each(draw((3, 2)), draw((2,)), draw((2, 3, 2))))
def view_as_complex(input: Array):
    """The view of real numbers (…, 2) as complex ones: the inverse of ``view_as_real``.

    float32 and float64. ShapeError unless the last dim has size 2 and stride 1 and the others an even stride.
    """
    shape = tuple(input.shape)
    if category(input.dtype) != 2 or input.dtype in HALF:
        raise DtypeError(
            f"view_as_complex: is only supported for float32 and float64 tensors, got {dtype_name(input.dtype)}"
        )
    if not shape or shape[-1] != 2:
        raise ShapeError(f"view_as_complex: Tensor must have a last dimension of size 2, got shape {shape}")
    if input.device is meta:
        strides = tuple(s // 2 for s in input.strides[:-1])
        return DeviceArray(input.ptr, shape[:-1], strides, complex_of(input.dtype), meta, input.owner)
    if not isinstance(input, np.ndarray):
        raise DtypeError(f"view_as_complex: complex numbers are on the CPU only, got a tensor on {str(input.device)!r}")
    width = 2 * input.itemsize
    if input.size and (
        input.strides[-1] != input.itemsize
        or any(s % width for s, n in zip(input.strides[:-1], shape[:-1], strict=True) if n > 1)
    ):
        raise ShapeError(
            "view_as_complex: Tensor must have a last dimension with stride 1 and even strides before it: "
            "use .contiguous()"
        )
    return input.view(complex_of(input.dtype))[..., 0]


def _parts_spec(name: str, first: Any, second: Any) -> Any:
    shape, _ = _common(name, first, second)
    if category(first.dtype) != 2 or first.dtype in HALF:
        raise DtypeError(f"{name}: Expected both inputs to be Float or Double tensors, got {dtype_name(first.dtype)}")
    if first.dtype != second.dtype:
        raise DtypeError(
            f"{name}: Expected object of scalar type {dtype_name(first.dtype)} but got scalar type "
            f"{dtype_name(second.dtype)} for second argument: convert one with .to(dtype)"
        )
    return shape, complex_of(first.dtype)


_PAIRS = each(
    draw((3, 4), (3, 4)), draw((3, 1), (4,)), draw((), ()), draw((0, 3), (3,)),
    draw(Draw((2, 3), layout="transposed"), Draw((2, 3), layout="strided")),
)  # fmt: skip


def _combined_vjp(g: Tensor, real_shape: Any, imag_shape: Any) -> tuple[Tensor, Tensor]:
    first: Any = real(g)
    second: Any = imag(g)
    return first.sum_to_size(real_shape), second.sum_to_size(imag_shape)


def _combined_spec(real: Any, imag: Any) -> Any:
    return _parts_spec("complex", real, imag)


@op(
    name="complex",
    spec=_combined_spec,
    vjp=_combined_vjp,
    complex="own",
    on="function",
    samples=_PAIRS,
    errors=[
        fails((2,), ints(2), match="Expected object of scalar type", error=DtypeError),
        fails((2,), (3,), match="must match the size", error=ShapeError),
    ],
)
def complex_(real: Array, imag: Array):
    """real + i imag, elementwise and broadcast: complex64 of float32, complex128 of float64.

    DtypeError for other dtypes, or two.
    """
    out = np.empty(np.broadcast_shapes(real.shape, imag.shape), complex_of(real.dtype))
    out.real, out.imag = real, imag
    return out


def _polar_spec(abs: Any, angle: Any) -> Any:
    return _parts_spec("polar", abs, angle)


def _polar_vjp(g: Tensor, angle: Tensor, out: Tensor, abs_shape: Any, angle_shape: Any) -> tuple[Tensor, Tensor]:
    """Re(g conj(∂out)): ∂out is out / abs, which is polar(1, angle), and i out."""
    unit = complex_(angle.cos(), angle.sin())  # type: ignore[attr-defined]
    by_size, by_angle = real(mul(g, conj(unit))), imag(mul(g, conj(out)))
    return by_size.sum_to_size(abs_shape), by_angle.sum_to_size(angle_shape)  # type: ignore[attr-defined]


@op(
    spec=_polar_spec,
    vjp=_polar_vjp,
    complex="own",
    on="function",
    samples=each(
        draw(between(0.1, 3, 3, 4), Draw((3, 4))), draw(between(0.1, 3, 3, 1), Draw((4,))),
        draw(between(0.1, 3), Draw(())), draw(between(0.1, 3, 0, 3), Draw((3,))),
    ),
)  # fmt: skip
def polar(abs: Array, angle: Array):
    """abs (cos(angle) + i sin(angle)), elementwise and broadcast; dtypes as in ``complex``. ``abs`` is not negative."""
    out = np.empty(np.broadcast_shapes(abs.shape, angle.shape), complex_of(abs.dtype))
    np.multiply(abs, np.cos(angle), out=out.real)
    np.multiply(abs, np.sin(angle), out=out.imag)
    return out


_ANY = each(ELEMENTWISE, draw(ints(3)))


@composite(on="function", samples=_ANY)
def real(input: Tensor) -> Tensor:
    """The real part: a view of complex numbers; real tensors themselves."""
    return view_as_real(input)[..., 0] if _is_complex(input) else input  # type: ignore[index, no-any-return]


@composite(on="function", samples=each(draw((3, 4)), draw(()), draw(strided(5))))
def imag(input: Tensor) -> Tensor:
    """The imaginary part, a view. DtypeError for real tensors."""
    if not _is_complex(input):
        raise DtypeError(
            "imag: is not implemented for tensors with non-complex dtypes: "
            "the imaginary part of real numbers is tensorlib.zeros_like(input)"
        )
    return view_as_real(input)[..., 1]  # type: ignore[index, no-any-return]


# -------------------------------------------------------------------------------------------------------- conjugation


@composite(samples=_ANY)
def conj(input: Tensor) -> Tensor:
    """The complex conjugate, elementwise: a copy; real tensors themselves."""
    return _conjugate(input) if _is_complex(input) else input


@composite(inplace=True, samples=_ANY)
def conj_physical(input: Tensor, *, out: Any = None) -> Tensor:
    """The complex conjugate, elementwise; of real tensors the same numbers."""
    found = conj(input)
    return found if out is None else into("conj_physical", out, found)


@composite(samples=_ANY)
def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself: conjugates are computed at once, never marked for later."""
    return input


@composite(samples=_ANY)
def resolve_neg(input: Tensor) -> Tensor:
    """The tensor itself: negatives are computed at once, never marked for later."""
    return input


@composite(samples=each(draw((2,))))
def is_conj(input: Tensor) -> bool:
    """Whether the tensor is marked as conjugated: never, conjugates are computed at once."""
    return False


@composite(samples=each(draw((2,))))
def is_neg(input: Tensor) -> bool:
    """Whether the tensor is marked as negated: never, negatives are computed at once."""
    return False


@composite(on="function", samples=_ANY)
def is_complex(input: Tensor) -> bool:
    """Whether the dtype is a complex one."""
    return _is_complex(input)


@composite(samples=each(_ANY, draw(values([1 + 0j, 1j, 2 - 3j, 0j], "complex64")), draw(bools(3))))
def isreal(input: Tensor) -> Tensor:
    """Whether the imaginary part of each element is 0."""
    return eq(imag(input), 0) if _is_complex(input) else eq(zeros_like(input), 0)


# ---------------------------------------------------------------------------------------------- direction and product


def _direction_vjp(g: Tensor, input: Tensor, out: Tensor) -> Tensor:
    """The part of g across the direction, over the size; 0 at 0, and everywhere for real numbers."""
    if not _is_complex(input):
        return zeros_like(g)
    size = input.abs()  # type: ignore[attr-defined]
    along = mul(out, real(mul(conj(g), out)))
    return _where(eq(size, 0), 0.0, sub(g, along) / size)  # type: ignore[operator]


@jit
def _sgn(x):
    return tl.cast(x > 0, tl.int8) - tl.cast(x < 0, tl.int8)


@pointwise(_sgn, promote=PROMOTE, complex="own", vjp=_direction_vjp, inplace=True)
def sgn(input: Array):
    """input / |input|, elementwise, 0 at 0: ``sign`` for complex numbers too."""
    if input.dtype.kind != "c":
        return registry["sign"].reference(input)
    size = np.abs(input)
    return np.where(size == 0, 0, input / np.where(size == 0, 1, size))


@jit
def _angle(x):
    return tl.where(x != x, x, tl.cast(x < 0, x.dtype) * 3.141592653589793)


def _angle_vjp(g: Tensor, input: Tensor) -> Tensor:
    """i g z / |z|², 0 at 0; 0 for real numbers."""
    if not _is_complex(input):
        return zeros_like(g)
    size = input.abs()  # type: ignore[attr-defined]
    return _where(eq(size, 0), 0.0, mul(mul(g, 1j), input / (size * size)))  # type: ignore[operator]


def _angle_spec(input: Any) -> Any:
    return input.shape, real_of(input.dtype) if category(input.dtype) >= 2 else default_dtype()


@pointwise(_angle, promote=INT_TO_FLOAT, complex="own", spec=_angle_spec, vjp=_angle_vjp)
def angle(input: Array):
    """The angle of each complex number in (-π, π]; of real numbers π below 0, else 0. NaN of NaN."""
    if input.dtype.kind == "c":
        return np.arctan2(input.imag, input.real)
    return np.where(np.isnan(input), input, np.where(input < 0, input.dtype.type(np.pi), 0))


@composite(samples=each(draw((5,), (5,)), draw((1,), (1,))))
def vdot(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """Σ conj(input) other of two vectors: ``dot`` with the first one conjugated."""
    return dot(conj(input), other, out=out)
