"""Quantization: numbers rounded to a grid of integers as training sees it, and rows as int8 with their scales."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import FLOAT_ONLY
from tensorlib._samples import Draw, draw, each, fails, ints, strided, transposed, values
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError
from tensorlib.kernels import quantization as kernels
from tensorlib.kernels.pointwise import Host
from tensorlib.op import Array, composite, op
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@jit
def _on_grid(x, s, z):
    inverse = tl.div_rn(1.0, tl.cast(s, tl.float32))  # rounded to float32, as PyTorch has it
    return libdevice.nearbyint(x * tl.cast(inverse, x.dtype)) + tl.cast(z, x.dtype)


@jit
def _fake_quantize_scalar(x, s, z, low, high, wide):
    q = tl.minimum(tl.maximum(_on_grid(x, s, z), tl.cast(low, x.dtype)), tl.cast(high, x.dtype))
    steps = q - tl.cast(z, x.dtype)
    if wide:
        r = steps * tl.cast(tl.cast(s, tl.float32), x.dtype)
    else:
        r = tl.cast(steps.to(tl.float32) * tl.cast(s, tl.float32), x.dtype)
    return r


@jit
def _fake_quantize_grad_scalar(g, x, s, z, low, high):
    q = _on_grid(x, s, z)
    return tl.where((q >= tl.cast(low, x.dtype)) & (q <= tl.cast(high, x.dtype)), g, 0.0)


def _grid(input: Any, scale: Any, zero_point: Any) -> tuple[Any, Any, Any]:
    """(the numbers of the grid next to input in its dtype, scale in float32, zero point in input's dtype)."""
    s = np.asarray(scale, np.float32)
    z = np.asarray(zero_point).astype(input.dtype)
    return np.rint(input * np.reciprocal(s).astype(input.dtype)) + z, s, z


_STEPS = Draw((), "uniform", 0.05, 0.3, grad=False)
_TIES = replace(values([0.25, 0.75, -0.25, 1.25, 1e6, -1e6]), grad=False)
_NUMBERS = dict(quant_min=-20.0, quant_max=15.0)


def _still(*shape: int) -> Draw:
    return Draw(shape, grad=False)


# Not declared as pointwise: the checks would compare the gradient, straight through, with differences of the steps.
@op(
    spec=lambda grad, input, scale, zero_point, quant_min, quant_max: (input.shape, input.dtype),
    kernel=Host(_fake_quantize_grad_scalar, "fake_quantize_grad", FLOAT_ONLY, (0, 1)),
    promote=FLOAT_ONLY.over("grad", "input"),
    vjp=dict(
        grad=lambda g, input, scale, zero_point, quant_min, quant_max: fake_quantize_grad(
            g, input, scale, zero_point, quant_min, quant_max
        )
    ),
    on="",
    samples=each(
        draw((3, 40), _still(3, 40), 0.1, 3.0, **_NUMBERS),
        draw((3, 40), _still(3, 40), Draw((3, 1), "uniform", 0.05, 0.3, grad=False), ints(3, 1, high=4), **_NUMBERS),
    ),
)  # fmt: skip
def fake_quantize_grad(grad: Array, input: Array, scale: Array, zero_point: Array, quant_min: float, quant_max: float):
    """grad where input lies on the grid, 0 where it was cut off at an end."""
    q, _, _ = _grid(input, scale, zero_point)
    return np.where((q >= quant_min) & (q <= quant_max), grad, grad.dtype.type(0))


@op(
    spec=lambda input, scale, zero_point, quant_min, quant_max, wide: (input.shape, input.dtype),
    kernel=Host(_fake_quantize_scalar, "_fake_quantize", FLOAT_ONLY, (0,)),
    promote=FLOAT_ONLY.over("input"),
    vjp=dict(
        input=lambda g, input, scale, zero_point, quant_min, quant_max: fake_quantize_grad(
            g, input, scale, zero_point, quant_min, quant_max
        )
    ),
    on="",
    samples=each(
        draw(_still(3, 40), 0.1, 3.0, **_NUMBERS), draw(_still(), 0.1, 0.0, **_NUMBERS),
        draw(_still(3, 4), Draw((3, 1), "uniform", 0.05, 0.3, grad=False), ints(3, 1, high=4), **_NUMBERS),
        draw(_still(0, 4), 0.5, 1.0, **_NUMBERS), draw(_still(3, 4), 0.1, 3.0, wide=True, **_NUMBERS),
        draw(_TIES, 0.5, 0.0, **_NUMBERS),
    ),
)  # fmt: skip
def _fake_quantize(
    input: Array, scale: Array, zero_point: Array, quant_min: float, quant_max: float, wide: bool = False
):
    """(clamp(round(input / scale) + zero_point) - zero_point) scale; that product in float32 unless ``wide``."""
    q, s, z = _grid(input, scale, zero_point)
    steps = np.clip(q, quant_min, quant_max) - z
    return (steps * s if wide else steps.astype(np.float32) * s).astype(input.dtype, copy=False)


def _floating(name: str, input: Tensor) -> None:
    if not input.dtype.is_floating_point:
        raise DtypeError(f"{name}: not implemented for {input.dtype}: takes floating-point tensors: use input.float()")


def _range(name: str, quant_min: int, quant_max: int) -> None:
    if quant_min > quant_max:
        raise ShapeError(
            f"{name}: `quant_min` should be less than or equal to `quant_max`: got {quant_min} and {quant_max}"
        )


def _within(name: str, zero_point: Any, quant_min: int, quant_max: int) -> None:
    """Zero points of the CPU, which are there to be looked at, lie in the range."""
    z = zero_point._array if isinstance(zero_point, Tensor) else zero_point
    if isinstance(z, (int, float, np.ndarray)) and np.any((np.asarray(z) < quant_min) | (np.asarray(z) > quant_max)):
        raise ShapeError(f"{name}: `zero_point` must be between `quant_min` and `quant_max`: {quant_min} … {quant_max}")


@composite(
    on="function",
    samples=each(
        draw(_still(3, 40), 0.1, 3, -20, 15), draw(_still(3, 4), 0.1, 0, 0, 255), draw(_still(), 0.1, 0, -128, 127),
        draw(_still(3, 4), _STEPS, Draw((), "integers", 0, 3, "int32", grad=False), -8, 7),
        draw(_TIES, 0.5, 0, -128, 127),
    ),
)  # fmt: skip
def fake_quantize_per_tensor_affine(
    input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> Tensor:
    """(min(max(round(input / scale) + zero_point, quant_min), quant_max) - zero_point) scale, elementwise.

    scale and zero_point are numbers or tensors of one. Halves go to the even neighbour; 1 / scale is rounded to
    float32, as PyTorch's is. The gradient passes where nothing was cut off: straight through, Bengio et al. 2013.
    """
    name = "fake_quantize_per_tensor_affine"
    _floating(name, input)
    _range(name, quant_min, quant_max)
    if not isinstance(zero_point, Tensor):
        _within(name, zero_point, quant_min, quant_max)
    scale, zero_point = (x.reshape(()) if isinstance(x, Tensor) else float(x) for x in (scale, zero_point))
    return _fake_quantize(input, scale, zero_point, float(quant_min), float(quant_max))


@composite(
    on="function",
    samples=each(
        draw(_still(3, 40), Draw((3,), "uniform", 0.05, 0.3, "float32", grad=False),
             Draw((3,), "integers", -3, 4, "int32", grad=False), 0, -20, 15),
        draw(_still(2, 5, 3), Draw((5,), "uniform", 0.05, 0.3, "float32", grad=False),
             Draw((5,), "integers", 0, 4, "int32", grad=False), 1, 0, 255),
    ),
)  # fmt: skip
def fake_quantize_per_channel_affine(
    input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    """``fake_quantize_per_tensor_affine`` with a scale and a zero point for each index of dimension ``axis``.

    scale and zero_point (n,) for n of that size. RuntimeError for other sizes and, on the CPU, for a zero point out of
    range, DimError (an IndexError) for an axis out of range.
    """
    name = "fake_quantize_per_channel_affine"
    _floating(name, input)
    if scale.ndim != 1 or zero_point.ndim != 1 or scale.shape != zero_point.shape:
        raise ShapeError(
            f"{name}: scale {tuple(scale.shape)} and zero_point {tuple(zero_point.shape)}: expected scale and "
            f"zero-point of one dimension and the same size"
        )
    _range(name, quant_min, quant_max)
    if not 0 <= axis < max(input.ndim, 1):
        kind = ShapeError if axis < 0 else DimError  # as PyTorch has it
        raise kind(f"{name}: axis {axis} of {input.ndim} dimensions: expected one between 0 and {input.ndim - 1}")
    if input.ndim and scale.shape[0] != input.shape[axis]:
        raise ShapeError(
            f"{name}: {scale.shape[0]} scales for dimension {axis} of {tuple(input.shape)}: dimensions of scale and "
            f"zero-point are not consistent with input tensor: expected {input.shape[axis]}"
        )
    _within(name, zero_point, quant_min, quant_max)
    shape = [1] * input.ndim
    shape[axis] = -1
    s, z = (x.reshape(shape) for x in (scale, zero_point))  # type: ignore[attr-defined]
    return _fake_quantize(input, s, z, float(quant_min), float(quant_max), True)


def _int8_spec(input: Any, group_size: int) -> Any:
    if not OF_NUMPY[input.dtype].is_floating_point:
        raise DtypeError(f"quantize_int8: takes floating-point tensors, got {OF_NUMPY[input.dtype]}")
    if not input.shape:
        raise DimError("quantize_int8: takes tensors of at least one dimension, got a 0-d one")
    if group_size < 1 or input.shape[-1] % group_size:
        raise ArgumentError(
            f"quantize_int8: group_size {group_size} for rows of {input.shape[-1]}: expected a divisor, or None"
        )
    groups = *input.shape[:-1], input.shape[-1] // group_size
    return [(input.shape, np.dtype(np.int8)), (groups, np.dtype(np.float32))]


@op(
    spec=_int8_spec,
    kernel=kernels.quantize_int8,
    promote=FLOAT_ONLY,
    outputs=("values", "scale"),
    differentiable=False,
    on="",
    samples=each(
        draw(_still(3, 4), group_size=4), draw(_still(3, 40), group_size=8), draw(transposed(40, 33), group_size=33),
        draw(strided(5, 9), group_size=3), draw(_still(2, 9000), group_size=9000), draw(_still(0, 4), group_size=2),
        draw(values([[0.0, 0.0], [1.0, -127.0]]), group_size=2), draw(_still(7), group_size=1),
    ),
    errors=[fails((3, 4), group_size=3, match="expected a divisor", error=ArgumentError)],
    bench=[draw((4096, 4096), group_size=4096)],
    bytes=lambda input, group_size: input.nbytes + input.size,
)  # fmt: skip
def _quantize_int8(input: Array, group_size: int):
    """The numbers as multiples of their group's scale, the largest |input| of the group / 127."""
    x = input.astype(np.float32, copy=False).reshape(-1, group_size)
    high = np.abs(x).max(axis=1, initial=0)
    scale = np.where(high == 0, np.float32(1), high / np.float32(127)).astype(np.float32)
    made = np.rint(x / scale[:, None]).astype(np.int8)
    return made.reshape(input.shape), scale.reshape(*input.shape[:-1], input.shape[-1] // group_size)


@composite(on="functional", samples=each(draw(_still(3, 4)), draw(_still(2, 3, 8), 4), draw(_still(5), group_size=5)))
def quantize_int8(input: Tensor, group_size: int | None = None) -> Any:
    """(values, scale): values = round(input / scale) of int8, scale = max |input| / 127, symmetric about 0.

    One scale for each row of input (…, n), or for each group of ``group_size`` neighbours in it: values (…, n), scale
    (…, 1) or (…, n / group_size) of float32. A group of zeros has scale 1; halves go to the even neighbour. What a
    weight (out, in) becomes for an int8 product with a scale for each row. Not differentiable. An extension beyond
    PyTorch. ArgumentError for a group size that does not divide n.
    """
    return _quantize_int8(input, (input.shape[-1] if input.ndim else 1) if group_size is None else group_size)


@composite(
    on="functional",
    samples=each(draw(ints(3, 4, high=5), _still(3, 1)), draw(ints(2, 3, 8, high=5), _still(2, 3, 2))),
)
def dequantize_int8(values: Tensor, scale: Tensor, dtype: Any = None) -> Tensor:
    """values · scale of their row or group, the reverse of ``quantize_int8``; in ``dtype``, else scale's.

    values (…, n), scale (…, n / group). An extension beyond PyTorch. ShapeError names the shapes.
    """
    n, groups = values.shape[-1] if values.ndim else 0, scale.shape[-1] if scale.ndim else 0
    if values.shape[:-1] != scale.shape[:-1] or not groups or n % groups:
        raise ShapeError(
            f"dequantize_int8: values {tuple(values.shape)}, scale {tuple(scale.shape)}: expected scales "
            f"(…, n / group) for values (…, n)"
        )
    grouped: Any = values.to(scale.dtype).reshape((*scale.shape, n // groups))  # type: ignore[attr-defined]
    out: Any = (grouped * scale.unsqueeze(-1)).reshape(tuple(values.shape))
    return out if dtype is None else out.to(dtype)  # type: ignore[no-any-return]
