"""Convolutions of one to three dims, transposed ones, and their gradients, which are convolutions again."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._array import DeviceArray, as_strided
from tensorlib._core import Tensor
from tensorlib._promotion import FLOATS
from tensorlib._samples import draw, each, fails, ints, strided, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import convolution as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops import _convolution_numpy as host
from tensorlib.ops._convolution_numpy import Geometry, geometry

_F32, _F64, _BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)


def _spec(input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    s = geometry(input.shape, weight.shape, stride, padding, dilation, groups)
    if bias is not None and bias.shape != (s.O,):
        raise ShapeError(
            f"conv{s.dims}d: Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {s.O} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )
    if input.dtype == _BOOL:
        raise DtypeError(f"conv{s.dims}d: not implemented for bool; convert it, as in input.float()")
    return s.output_shape, input.dtype


def _kernel(
    out: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    s = geometry(input.shape, weight.shape, stride, padding, dilation, groups)
    kernels.forward(_five(out, s), _five(input, s), _weight5(weight, s), bias, s)


def _five(x: DeviceArray, s: Geometry) -> DeviceArray:
    """An array of one to three dims, with a batch or without, as (n, channels, d, h, w). Not a copy."""
    lead = 0 if s.batched else 1
    ones = (1,) * (3 - s.dims)
    at = 2 - lead
    return as_strided(  # type: ignore[no-any-return]
        x, ((1,) * lead + x.shape[:at] + ones + x.shape[at:]), ((1,) * lead + x.strides[:at] + ones + x.strides[at:])
    )


def _weight5(x: DeviceArray, s: Geometry) -> DeviceArray:
    ones = (1,) * (3 - s.dims)
    return as_strided(x, x.shape[:2] + ones + x.shape[2:], x.strides[:2] + ones + x.strides[2:])  # type: ignore[no-any-return]


def _bias_grad(g: Tensor, weight_shape: Any) -> Tensor:
    """Σ g over images and positions."""
    dims = len(weight_shape) - 2
    positions = tuple(range(-dims, 0))
    if g.ndim == dims + 1:
        return g.sum(positions)  # type: ignore[attr-defined, no-any-return]
    if g._array.dtype in (_F32, _F64):  # in two steps, each along memory; half types are rounded once
        return g.sum(positions).sum(0)  # type: ignore[attr-defined, no-any-return]
    return g.sum((0, *positions))  # type: ignore[attr-defined, no-any-return]


def _flops(input: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> float:
    s = geometry(input.shape, weight.shape, stride, padding, dilation, groups)
    return 2.0 * s.N * s.OD * s.OH * s.OW * weight.size


@op(
    on="",
    spec=_spec,
    promote=FLOATS,
    complex=True,
    kernel=_kernel,
    vjp={
        "input": lambda g, weight, input_shape, stride, padding, dilation, groups: _convolution_transposed(
            g, weight, None, input_shape, stride, padding, dilation, groups
        ),
        "weight": lambda g, input, weight_shape, stride, padding, dilation, groups: _convolution_grad_weight(
            g, input, weight_shape, stride, padding, dilation, groups
        ),
        "bias": _bias_grad,
    },
    samples=each(
        draw((2, 3, 5, 6), (4, 3, 3, 2), (4,)), draw((2, 3, 7, 6), (4, 3, 3, 3), None, stride=2, padding=1),
        draw((1, 1, 1, 1), (1, 1, 1, 1), (1,)), draw((3, 5, 6), (2, 3, 3, 3), (2,), padding=(0, 1)),
        draw((2, 4, 6, 7), (6, 2, 3, 2), (6,), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2),
        draw((2, 4, 6, 6), (4, 1, 3, 3), None, padding="same", groups=4),
        draw((1, 2, 5, 6), (3, 2, 2, 4), None, padding="same"), draw((2, 5, 4, 4), (3, 5, 1, 1), (3,)),
        draw((2, 3, 6, 6), (2, 3, 1, 1), None, stride=2, padding="valid"), draw((0, 3, 4, 4), (2, 3, 3, 3), (2,)),
        draw((3, 2, 9, 35), (5, 2, 3, 3), (5,), padding=1),
        draw((3, 2, 9, 40), (18, 2, 4, 3), (18,), stride=(3, 1), padding=(1, 0)),
        draw((9, 3, 7, 16), (2, 3, 2, 3), None, stride=2, dilation=(1, 3)), draw((2, 20, 3, 3), (3, 20, 3, 3), None),
        draw((12, 2, 6, 13), (4, 1, 2, 2), (4,), stride=(3, 2), groups=2),
        draw(transposed(2, 3, 5, 6), strided(4, 3, 3, 2), (4,)),
        draw(ints(1, 2, 4, 4, low=-9), ints(2, 2, 3, 3, low=-9)),
        draw((2, 3, 9), (4, 3, 3), (4,)), draw((3, 9), (2, 3, 2), None, stride=2, padding=1),
        draw((2, 3, 4, 5, 3), (4, 3, 2, 3, 2), (4,), padding=1), draw((2, 4, 3, 4), (3, 2, 1, 1, 1), None),
        draw((1, 4, 5, 4, 6), (6, 2, 3, 2, 2), (6,), stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 2, 1), groups=2),
    ),
    errors=[
        fails((2, 3, 4, 4), (5, 4, 3, 3), match="conv2d: .* to have 4 channels, but got 3 channels instead"),
        fails((2, 3, 4, 4), (5, 3, 6, 3), match=r"\(4 x 4\). Kernel size: \(6 x 3\). Kernel size can't be greater"),
        fails((3, 4), (5, 3, 3, 3), match=r"Expected 3D \(unbatched\) or 4D"),
        fails((3, 4), (5, 3, 3, 3, 3), match=r"conv3d: Expected 4D \(unbatched\) or 5D"),
        fails((2, 4, 4, 4), (5, 2, 3, 3), groups=2, match="expected weight to be divisible by 2"),
        fails((2, 4, 4, 4), (4, 4, 3, 3), groups=0, match="non-positive groups", error=ArgumentError),
        fails((2, 3, 4, 4), (5, 3, 3, 3), (4,), match="expected bias to be 1-dimensional with 5 elements"),
        fails((2, 3, 4, 4), (5, 3, 3, 3), stride=0, match="non-positive stride", error=ArgumentError),
        fails((2, 3, 4, 4), (5, 3, 3, 3), dilation=0, match="non-positive dilation", error=ArgumentError),
        fails((2, 3, 4, 4), (5, 3, 3, 3), padding=-1, match="negative padding", error=ArgumentError),
        fails((2, 3, 4, 4), (5, 3, 3, 3), stride=(1, 1, 1), match="a list of 2 values"),
        fails((2, 3, 4, 4), (5, 3, 3, 3), padding="same", stride=2, match="strided", error=ArgumentError),
        fails((2, 3, 4, 4), (5, 3, 3, 3), padding="full", match="Invalid padding string", error=ArgumentError),
    ],
    bench=[draw((32, 64, 56, 56), (64, 64, 3, 3), None, padding=1),
           draw((32, 256, 14, 14), (256, 256, 3, 3), None, padding=1),
           draw((64, 1, 28, 28), (6, 1, 5, 5), (6,), padding=2), draw((64, 6, 14, 14), (16, 6, 5, 5), (16,)),
           draw((32, 64, 56, 56), (64, 1, 3, 3), None, padding=1, groups=64), draw((32, 64, 512), (64, 64, 5), (64,))],
    flops=_flops,
)  # fmt: skip
def _convolution(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: Any = 1,
):
    """out[n, o, y] = bias[o] + Σ weight[o, c, k] input[n, c, y stride + k dilation - padding]; 1 to 3 dims."""
    s = geometry(input.shape, weight.shape, stride, padding, dilation, groups)
    return host.convolve(input, weight, bias, s)


# ------------------------------------------------------------------------------- the adjoint: transposed convolutions


def _transposed_spec(
    input: Any, weight: Any, bias: Any, output_size: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    s = geometry(output_size, weight.shape, stride, padding, dilation, groups, input.shape)
    if bias is not None and bias.shape != (s.C,):
        raise ShapeError(
            f"conv_transpose{s.dims}d: Given transposed=1, weight of size {list(weight.shape)}, expected bias to be "
            f"1-dimensional with {s.C} elements, but got bias of size {list(bias.shape)} instead"
        )
    if input.dtype == _BOOL:
        raise DtypeError(f"conv_transpose{s.dims}d: not implemented for bool; convert it, as in input.float()")
    return tuple(output_size), input.dtype


def _transposed_kernel(
    out: Any, input: Any, weight: Any, bias: Any, output_size: Any, stride: Any, padding: Any, dilation: Any,
    groups: int,
) -> None:  # fmt: skip
    s = geometry(output_size, weight.shape, stride, padding, dilation, groups, input.shape)
    kernels.transposed(_five(out, s), _five(input, s), _weight5(weight, s), bias, s)


def _transposed_grad_input(
    g: Any, weight: Any, input_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Any:
    out = _convolution(g, weight, None, stride, padding, dilation, groups)
    # With output_padding beyond the stride the convolution has more windows than there were inputs.
    dims = len(input_shape) - (len(weight.shape) - 2), len(input_shape)
    for dim in range(*dims):
        if out.shape[dim] != input_shape[dim]:
            out = out.narrow(dim, 0, input_shape[dim])
    return out


@op(
    on="",
    spec=_transposed_spec,
    promote=FLOATS,
    complex=True,
    kernel=_transposed_kernel,
    vjp={
        "input": _transposed_grad_input,
        "weight": lambda g, input, weight_shape, stride, padding, dilation, groups: _convolution_grad_weight(
            input, g, weight_shape, stride, padding, dilation, groups
        ),
        "bias": _bias_grad,
    },
    samples=each(
        draw((2, 4, 3, 5), (4, 3, 3, 2), None, output_size=(2, 3, 5, 6)),
        draw((2, 4, 4, 3), (4, 3, 3, 3), (3,), output_size=(2, 3, 7, 6), stride=2, padding=1),
        draw((2, 6, 2, 3), (6, 2, 3, 2), (4,), output_size=(2, 4, 6, 7), stride=(2, 3), padding=1, dilation=(2, 1),
             groups=2),
        draw((5, 3, 15), (5, 2, 1, 2), (2,), output_size=(2, 3, 16)),
        draw((3, 2, 2, 41), (2, 1, 2, 2), None, output_size=(3, 2, 7, 42), stride=(3, 1), groups=2),
        draw((2, 4, 5), (4, 3, 3), (3,), output_size=(2, 3, 10), stride=2, padding=1),
        draw((1, 4, 2, 3, 2), (4, 2, 2, 1, 3), (2,), output_size=(1, 2, 4, 3, 5), stride=(2, 1, 2)),
        draw((1, 2, 4), (2, 2, 2), None, output_size=(1, 2, 9), stride=1, dilation=3),  # fewer inputs than windows
    ),
    errors=[fails((2, 4, 3, 5), (4, 3, 3, 2), (4,), output_size=(2, 3, 5, 6), match="1-dimensional with 3 elements"),
            fails((2, 4, 6, 5), (4, 3, 3, 2), None, output_size=(2, 3, 5, 6), match="got a gradient of shape")],
    bench=[draw((32, 64, 56, 56), (64, 64, 3, 3), None, output_size=(32, 64, 56, 56), padding=1),
           draw((32, 64, 28, 28), (64, 32, 4, 4), (32,), output_size=(32, 32, 56, 56), stride=2, padding=1)],
    flops=lambda input, weight: 2.0 * input.size * weight.size / weight.shape[0],
)  # fmt: skip
def _convolution_transposed(
    input: Array,
    weight: Array,
    bias: Array | None,
    output_size: Ints,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: Any = 1,
):
    """bias + Σ weight[o, c, k] input[n, o, y] over what a convolution would read of output_size at y."""
    s = geometry(output_size, weight.shape, stride, padding, dilation, groups, input.shape)
    return host.transposed(input, weight, bias, s)


# ------------------------------------------------------------------------------------------------ the weight's gradient


def _grad_weight_spec(
    grad_output: Any, input: Any, weight_size: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    geometry(input.shape, weight_size, stride, padding, dilation, groups, grad_output.shape)
    return weight_size, grad_output.dtype


def _grad_weight_kernel(
    out: Any, grad_output: Any, input: Any, weight_size: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    s = geometry(input.shape, weight_size, stride, padding, dilation, groups, grad_output.shape)
    kernels.grad_weight(_weight5(out, s), _five(grad_output, s), _five(input, s), s)


@op(
    on="",
    spec=_grad_weight_spec,
    promote=FLOATS,
    complex=True,
    kernel=_grad_weight_kernel,
    vjp={
        "grad_output": lambda g, input, grad_output_shape, stride, padding, dilation, groups: _transposed_grad_input(
            input, g, grad_output_shape, stride, padding, dilation, groups
        ),
        "input": lambda g, grad_output, input_shape, stride, padding, dilation, groups: _convolution_transposed(
            grad_output, g, None, input_shape, stride, padding, dilation, groups
        ),
    },
    samples=each(
        draw((2, 4, 3, 5), (2, 3, 5, 6), weight_size=(4, 3, 3, 2)),
        draw((2, 4, 4, 3), (2, 3, 7, 6), weight_size=(4, 3, 3, 3), stride=2, padding=1),
        draw((2, 6, 2, 3), (2, 4, 6, 7), weight_size=(6, 2, 3, 2), stride=(2, 3), padding=1, dilation=(2, 1), groups=2),
        draw((5, 3, 15), (2, 3, 16), weight_size=(5, 2, 1, 2)),
        draw((40, 2, 6, 7), (40, 1, 7, 8), weight_size=(2, 1, 2, 2)),
        draw((2, 4, 5), (2, 3, 10), weight_size=(4, 3, 3), stride=2, padding=1),
        draw((1, 4, 2, 3, 2), (1, 2, 4, 3, 5), weight_size=(4, 2, 2, 1, 3), stride=(2, 1, 2)),
        draw((1, 2, 4), (1, 2, 9), weight_size=(2, 2, 2), dilation=3),
        draw((2, 6, 5, 6), (2, 20, 5, 6), weight_size=(6, 20, 3, 3), padding=1),  # channels in blocks
        draw((2, 6, 5, 7), (2, 6, 5, 7), weight_size=(6, 1, 3, 3), padding=1, groups=6),
        draw((3, 8, 4), (3, 4, 9), weight_size=(8, 1, 3), stride=2, groups=4),
    ),
    bench=[draw((32, 64, 56, 56), (32, 64, 56, 56), weight_size=(64, 64, 3, 3), padding=1)],
    flops=lambda grad_output, weight_size: 2.0 * grad_output.size * float(np.prod(weight_size[1:])),
)  # fmt: skip
def _convolution_grad_weight(
    grad_output: Array,
    input: Array,
    weight_size: Ints,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: Any = 1,
):
    """Σ grad_output[n, o, y] input[n, c, y stride + k dilation - padding] over images and positions."""
    s = geometry(input.shape, weight_size, stride, padding, dilation, groups, grad_output.shape)
    return host.grad_weight(grad_output, input, s)


# ------------------------------------------------------------------------------------------------- the public functions


def _check_weight(name: str, input: Any, weight: Any, dims: int) -> None:
    """An error unless both are tensors and the weight is one of ``dims`` dims."""
    for what, x in (("input", input), ("weight", weight)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}(): argument '{what}' must be Tensor, not {type(x).__name__}")
    if weight._array.ndim != dims + 2:
        raise ShapeError(
            f"{name}: Expected a weight of {dims + 2} dimensions (out, in, kernel), but got weight of size "
            f"{list(weight._array.shape)} and input of size {list(input._array.shape)}"
        )


@composite(
    on="function functional",
    samples=each(
        draw((2, 3, 9), (4, 3, 3), (4,)), draw((3, 9), (2, 3, 2), None, stride=2, padding=1),
        draw((2, 4, 8), (4, 2, 3), None, padding="same", dilation=2, groups=2),
        draw((40, 3, 7), (2, 3, 2), (2,), padding=(1,)),
    ),
)  # fmt: skip
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """out[n, o, x] = bias[o] + Σ weight[o, c, j] input[n, c, x stride + j dilation - padding].

    input (n, in, l) or (in, l), weight (out, in / groups, k), bias (out,) -> (n, out, l'). As ``conv2d`` otherwise.
    """
    _check_weight("conv1d", input, weight, 1)
    return _convolution(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(
        draw((2, 3, 5, 6), (4, 3, 3, 2), (4,)), draw((2, 3, 7, 6), (4, 3, 3, 3), None, stride=2, padding=1),
        draw((1, 1, 1, 1), (1, 1, 1, 1), (1,)), draw((3, 5, 6), (2, 3, 3, 3), (2,), padding=(0, 1)),
        draw((2, 4, 6, 7), (6, 2, 3, 2), (6,), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2),
        draw((2, 4, 6, 6), (4, 1, 3, 3), None, padding="same", groups=4),
        draw((1, 2, 5, 6), (3, 2, 2, 4), None, padding="same"), draw((2, 5, 4, 4), (3, 5, 1, 1), (3,)),
        draw((2, 3, 6, 6), (2, 3, 1, 1), None, stride=2, padding="valid"), draw((0, 3, 4, 4), (2, 3, 3, 3), (2,)),
        draw((9, 3, 7, 16), (2, 3, 2, 3), None, stride=2, dilation=(1, 3)),
        draw(transposed(2, 3, 5, 6), strided(4, 3, 3, 2), (4,)),
        draw(ints(1, 2, 4, 4, low=-9), ints(2, 2, 3, 3, low=-9)),
    ),
)  # fmt: skip
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """out[n, o, y, x] = bias[o] + Σ weight[o, c, i, j] input[n, c, y stride + i dilation - padding, x stride + …].

    input (n, in, h, w) or (in, h, w), weight (out, in / groups, kh, kw), bias (out,) -> (n, out, h', w') with
    h' = floor((h + 2 padding - dilation (kh - 1) - 1) / stride) + 1. Cross-correlation, zeros outside the input.
    ``padding``: ints, ``'valid'`` (none) or ``'same'`` (h' = h; stride 1). All tensors of one dtype; accumulated in
    float32 or wider. ShapeError where channels, groups, bias or the kernel's size do not fit.
    """
    _check_weight("conv2d", input, weight, 2)
    return _convolution(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(
        draw((2, 3, 4, 5, 3), (4, 3, 2, 3, 2), (4,), padding=1), draw((3, 2, 4, 5), (2, 3, 2, 2, 3), None, stride=2),
        draw((1, 4, 5, 4, 6), (6, 2, 3, 2, 2), (6,), stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 2, 1), groups=2),
        draw((2, 2, 3, 4, 4), (3, 2, 2, 3, 4), (3,), padding="same"), draw((2, 3, 2, 3, 2), (2, 3, 1, 1, 1), (2,)),
    ),
)  # fmt: skip
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """out[n, o, z, y, x] = bias[o] + Σ weight[o, c, k, i, j] input[n, c, z stride + k dilation - padding, y …, x …].

    input (n, in, d, h, w) or (in, d, h, w), weight (out, in / groups, kd, kh, kw), bias (out,) -> (n, out, d', h', w').
    As ``conv2d`` otherwise.
    """
    _check_weight("conv3d", input, weight, 3)
    return _convolution(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


def _transpose(
    dims: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    name = f"conv_transpose{dims}d"
    _check_weight(name, input, weight, dims)
    shape, kernel = input._array.shape, weight._array.shape
    if len(shape) not in (dims + 1, dims + 2):
        raise ShapeError(
            f"{name}: Expected {host.INPUTS[dims - 1]} input to {name}, but got input of size: {list(shape)}"
        )
    if groups <= 0:
        raise ArgumentError(f"{name}: non-positive groups is not supported, got groups={groups}")
    steps, pad, more, spread = (
        host.each(name, what, value, dims)
        for what, value in (("stride", stride), ("padding", padding), ("output_padding", output_padding),
                            ("dilation", dilation))
    )  # fmt: skip
    for what, values, least in (("stride", steps, 1), ("padding", pad, 0), ("output_padding", more, 0),
                                ("dilation", spread, 1)):  # fmt: skip
        if min(values) < least:
            sign = "negative" if least == 0 else "non-positive"
            raise ArgumentError(f"{name}: {sign} {what} is not supported, got {what}={values}")
    channels = shape[-dims - 1]
    if channels != kernel[0]:
        raise ShapeError(
            f"{name}: Given transposed=1, weight of size {list(kernel)}, expected input{list(shape)} to have "
            f"{kernel[0]} channels, but got {channels} channels instead"
        )
    for m, s, d in zip(more, steps, spread, strict=True):
        if m >= max(s, d):
            raise ArgumentError(
                f"{name}: output padding must be smaller than either stride or dilation, but got output_padding="
                f"{more}, stride={steps}, dilation={spread}"
            )
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + m + 1
        for n, s, p, d, k, m in zip(shape[-dims:], steps, pad, spread, kernel[2:], more, strict=True)
    ]
    if min(size) < 0 or 0 in shape[-dims:]:
        raise ShapeError(
            f"{name}: Given input size per channel: {list(shape[-dims:])}. Calculated output size per channel: {size}. "
            f"Output size is too small"
        )
    output_size = (*shape[: -dims - 1], kernel[1] * groups, *(max(n, 1) for n in size))
    out = _convolution_transposed(input, weight, bias, output_size, steps, pad, spread, groups)
    return out if min(size) else out.narrow(size.index(0) - dims, 0, 0).reshape(*output_size[:-dims], *size)


@composite(
    on="function functional",
    samples=each(
        draw((2, 4, 5), (4, 3, 3), (3,)), draw((4, 5), (4, 2, 4), None, stride=2, padding=1, output_padding=1),
        draw((2, 4, 6), (4, 2, 2), (4,), stride=3, groups=2, dilation=2), draw((0, 4, 5), (4, 3, 3)),
        draw((1, 2, 4), (2, 2, 2), None, output_padding=2, dilation=3),
    ),
)  # fmt: skip
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """out[n, c, x stride + j dilation - padding] += weight[o, c, j] input[n, o, x]: the adjoint of ``conv1d``.

    input (n, in, l) or (in, l), weight (in, out / groups, k), bias (out,) -> (n, out, l'). As ``conv_transpose2d``.
    """
    return _transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(
        draw((2, 4, 3, 5), (4, 3, 3, 2), (3,)), draw((4, 3, 2), (4, 2, 4, 4), None, stride=2, padding=1),
        draw((1, 6, 3, 4), (6, 2, 3, 2), (4,), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2,
             dilation=(2, 1)),
        draw((2, 3, 4, 4), (3, 2, 1, 1), (2,)), draw((9, 3, 4, 30), (3, 2, 3, 3), (2,), padding=1),
        draw((1, 2, 2, 3), (2, 2, 2, 2), None, output_padding=(1, 2), dilation=3),
        draw(transposed(2, 3, 4, 5), (3, 2, 2, 2)),
    ),
)  # fmt: skip
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """out[n, c, y stride + i dilation - padding, x …] += weight[o, c, i, j] input[n, o, y, x]; the adjoint of conv2d.

    input (n, in, h, w) or (in, h, w), weight (in, out / groups, kh, kw), bias (out,) -> (n, out, h', w') with
    h' = (h - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1. ``output_padding``, less than stride or
    dilation, chooses among the sizes that a convolution would bring to h. Accumulated in float32 or wider.
    ShapeError where channels, bias or sizes do not fit, ArgumentError for impossible numbers.
    """
    return _transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(
        draw((2, 3, 2, 3, 2), (3, 2, 2, 3, 2), (2,)), draw((4, 2, 3, 2), (4, 2, 2, 2, 2), None, stride=2, padding=1),
        draw((1, 4, 2, 3, 2), (4, 1, 3, 2, 2), (2,), stride=(2, 1, 3), padding=(1, 0, 1), output_padding=(1, 0, 2),
             groups=2, dilation=(1, 2, 1)),
    ),
)  # fmt: skip
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """out[n, c, z stride + k dilation - padding, y …, x …] += weight[o, c, k, i, j] input[n, o, z, y, x].

    input (n, in, d, h, w) or (in, d, h, w), weight (in, out / groups, kd, kh, kw), bias (out,) ->
    (n, out, d', h', w'): the adjoint of ``conv3d``. As ``conv_transpose2d`` otherwise.
    """
    return _transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[no-any-return]


@composite(
    on="function",
    complex=False,
    samples=each(
        draw((2, 3, 7), (4, 3, 3), (4,), [2], [1], [1], False, [0], 1),
        draw((1, 4, 3, 3), (4, 2, 3, 2), None, [2, 1], [1, 0], [1, 1], True, [1, 0], 2),
        draw((1, 2, 3, 3, 3), (2, 2, 2, 2, 2), (2,), [1, 1, 1], [0, 0, 0], [1, 1, 1], False, [0, 0, 0], 1),
    ),
)  # fmt: skip
def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    """The convolution, or transposed convolution, of as many dims as weight has beyond two: see ``conv2d``."""
    dims = weight._array.ndim - 2
    if transposed:
        return _transpose(dims, input, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[no-any-return]
    return _convolution(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(draw((5, 2, 3), (3, 3, 4), (4,), 1), draw((4, 1, 2), (2, 2, 3), (3,))),
)
def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """out[t, b, o] = bias[o] + Σ weight[k, c, o] input[t + k - pad, b, c]: ``conv1d`` with time first, channels last.

    input (l, n, in), weight (k, in, out), bias (out,) -> (l', n, out). ShapeError unless both have three dimensions.
    """
    if input._array.ndim != 3 or weight._array.ndim != 3 or bias._array.ndim != 1:
        raise ShapeError(
            f"conv_tbc: Input must have 3 dims: time, batch, in_channel; weight kernel, in, out; bias one: got "
            f"{list(input._array.shape)}, {list(weight._array.shape)} and {list(bias._array.shape)}"
        )
    if isinstance(pad, bool) or not isinstance(pad, int):
        raise TypeError(f"conv_tbc(): argument 'pad' must be int, not {type(pad).__name__}")
    rows, taps = input.permute(1, 2, 0), weight.permute(2, 1, 0)  # type: ignore[attr-defined]
    return conv1d(rows, taps, bias, padding=pad).permute(2, 0, 1)  # type: ignore[attr-defined, no-any-return]
