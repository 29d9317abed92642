"""Convolutions, and their gradients, which are convolutions again."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    s = geometry("conv2d", input.shape, weight.shape, stride, padding, dilation, groups)
    if bias is not None and bias.shape != (s.O,):
        raise ShapeError(
            f"conv2d: Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {s.O} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )
    if input.dtype == _BOOL:
        raise DtypeError("conv2d: not implemented for bool; convert it, as in input.float()")
    return s.output_shape, input.dtype


def _kernel(
    out: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    s = geometry("conv2d", input.shape, weight.shape, stride, padding, dilation, groups)
    kernels.forward(out, _images(input), weight, bias, s)


def _images(x: Any) -> Any:
    """An image without a batch as a batch of one."""
    return x if x.ndim == 4 else x[None]


def _bias_grad(g: Tensor) -> Tensor:
    """Σ g over images and positions."""
    if g.ndim == 4 and g._array.dtype in (_F32, _F64):  # in two steps, each along memory; half types are rounded once
        return g.sum((2, 3)).sum(0)  # type: ignore[attr-defined, no-any-return]
    return g.sum((-1, -2) if g.ndim == 3 else (0, 2, 3))  # type: ignore[attr-defined, no-any-return]


def _flops(input: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> float:
    s = geometry("conv2d", input.shape, weight.shape, stride, padding, dilation, groups)
    return 2.0 * s.N * s.OH * s.OW * weight.size


@op(
    on="function functional",
    spec=_spec,
    promote=FLOATS,
    kernel=_kernel,
    vjp={
        "input": lambda g, weight, input_shape, stride, padding, dilation, groups: _conv2d_grad_input(
            g, weight, input_shape, stride, padding, dilation, groups
        ),
        "weight": lambda g, input, weight_shape, stride, padding, dilation, groups: _conv2d_grad_weight(
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
    ),
    errors=[
        fails((2, 3, 4, 4), (5, 4, 3, 3), match="to have 4 channels, but got 3 channels instead"),
        fails((2, 3, 4, 4), (5, 3, 6, 3), match=r"\(4 x 4\). Kernel size: \(6 x 3\). Kernel size can't be greater"),
        fails((3, 4), (5, 3, 3, 3), match=r"Expected 3D \(unbatched\) or 4D"),
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
           draw((64, 1, 28, 28), (6, 1, 5, 5), (6,), padding=2), draw((64, 6, 14, 14), (16, 6, 5, 5), (16,))],
    flops=_flops,
)  # fmt: skip
def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: Any = 1,
):
    """out[n, o, y, x] = bias[o] + Σ weight[o, c, i, j] input[n, c, y stride + i dilation - padding, x stride + …].

    input (n, in, h, w) or (in, h, w), weight (out, in / groups, kh, kw), bias (out,) -> (n, out, h', w') with
    h' = floor((h + 2 padding - dilation (kh - 1) - 1) / stride) + 1. Cross-correlation, zeros outside the input.
    ``padding``: ints, ``'valid'`` (none) or ``'same'`` (h' = h; stride 1). All tensors of one dtype; accumulated in
    float32 or wider. ShapeError where channels, groups, bias or the kernel's size do not fit.
    """
    s = geometry("conv2d", input.shape, weight.shape, stride, padding, dilation, groups)
    return host.conv2d(_images(input), weight, bias, s).reshape(s.output_shape)


def _grad_geometry(grad_output: Any, input_size: Any, weight_size: Any, attrs: Any) -> Geometry:
    s = geometry("conv2d_grad", input_size, weight_size, *attrs)
    if grad_output.shape != s.output_shape:
        raise ShapeError(f"conv2d_grad: got a gradient of shape {grad_output.shape}: expected {s.output_shape}")
    return s


def _grad_input_spec(
    grad_output: Any, weight: Any, input_size: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    _grad_geometry(grad_output, input_size, weight.shape, (stride, padding, dilation, groups))
    return input_size, grad_output.dtype


def _grad_input_kernel(
    out: Any, grad_output: Any, weight: Any, input_size: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    s = geometry("conv2d_grad", input_size, weight.shape, stride, padding, dilation, groups)
    kernels.grad_input(out, _images(grad_output), weight, s)


@op(
    on="",
    spec=_grad_input_spec,
    promote=FLOATS,
    kernel=_grad_input_kernel,
    vjp={
        "grad_output": lambda g, weight, stride, padding, dilation, groups: conv2d(
            g, weight, None, stride, padding, dilation, groups
        ),
        "weight": lambda g, grad_output, weight_shape, stride, padding, dilation, groups: _conv2d_grad_weight(
            grad_output, g, weight_shape, stride, padding, dilation, groups
        ),
    },
    samples=each(
        draw((2, 4, 3, 5), (4, 3, 3, 2), input_size=(2, 3, 5, 6)),
        draw((2, 4, 4, 3), (4, 3, 3, 3), input_size=(2, 3, 7, 6), stride=2, padding=1),
        draw((2, 6, 2, 3), (6, 2, 3, 2), input_size=(2, 4, 6, 7), stride=(2, 3), padding=1, dilation=(2, 1), groups=2),
        draw((5, 3, 15), (5, 2, 1, 2), input_size=(2, 3, 16)),
        draw((3, 2, 2, 41), (2, 1, 2, 2), input_size=(3, 2, 7, 42), stride=(3, 1), groups=2),
    ),
    bench=[draw((32, 64, 56, 56), (64, 64, 3, 3), input_size=(32, 64, 56, 56), padding=1)],
)  # fmt: skip
def _conv2d_grad_input(
    grad_output: Array,
    weight: Array,
    input_size: Ints,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: Any = 1,
):
    """Σ weight[o, c, i, j] grad_output[n, o, y, x] over what read each element of an input of input_size."""
    s = geometry("conv2d_grad", input_size, weight.shape, stride, padding, dilation, groups)
    return host.grad_input(_images(grad_output), weight, s).reshape(input_size)


def _grad_weight_spec(
    grad_output: Any, input: Any, weight_size: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    _grad_geometry(grad_output, input.shape, weight_size, (stride, padding, dilation, groups))
    return weight_size, grad_output.dtype


def _grad_weight_kernel(
    out: Any, grad_output: Any, input: Any, weight_size: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    s = geometry("conv2d_grad", input.shape, weight_size, stride, padding, dilation, groups)
    kernels.grad_weight(out, _images(grad_output), _images(input), s)


@op(
    on="",
    spec=_grad_weight_spec,
    promote=FLOATS,
    kernel=_grad_weight_kernel,
    vjp={
        "grad_output": lambda g, input, stride, padding, dilation, groups: conv2d(
            input, g, None, stride, padding, dilation, groups
        ),
        "input": lambda g, grad_output, input_shape, stride, padding, dilation, groups: _conv2d_grad_input(
            grad_output, g, input_shape, stride, padding, dilation, groups
        ),
    },
    samples=each(
        draw((2, 4, 3, 5), (2, 3, 5, 6), weight_size=(4, 3, 3, 2)),
        draw((2, 4, 4, 3), (2, 3, 7, 6), weight_size=(4, 3, 3, 3), stride=2, padding=1),
        draw((2, 6, 2, 3), (2, 4, 6, 7), weight_size=(6, 2, 3, 2), stride=(2, 3), padding=1, dilation=(2, 1), groups=2),
        draw((5, 3, 15), (2, 3, 16), weight_size=(5, 2, 1, 2)),
        draw((40, 2, 6, 7), (40, 1, 7, 8), weight_size=(2, 1, 2, 2)),
    ),
    bench=[draw((32, 64, 56, 56), (32, 64, 56, 56), weight_size=(64, 64, 3, 3), padding=1)],
)  # fmt: skip
def _conv2d_grad_weight(
    grad_output: Array,
    input: Array,
    weight_size: Ints,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: Any = 1,
):
    """Σ grad_output[n, o, y, x] input[n, c, y stride + i dilation - padding, …] over images and positions."""
    s = geometry("conv2d_grad", input.shape, weight_size, stride, padding, dilation, groups)
    return host.grad_weight(_images(grad_output), _images(input), s)


@composite(
    on="function functional",
    samples=each(
        draw((2, 3, 9), (4, 3, 3), (4,)), draw((3, 9), (2, 3, 2), None, stride=2, padding=1),
        draw((2, 4, 8), (4, 2, 3), None, padding="same", dilation=2, groups=2),
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
    """out[n, o, x] = bias[o] + Σ weight[o, c, j] input[n, c, x stride + j dilation - padding]: ``conv2d`` of one row.

    input (n, in, l) or (in, l), weight (out, in / groups, k), bias (out,) -> (n, out, l'). ShapeError as for conv2d.
    """
    if input.ndim not in (2, 3) or weight.ndim != 3:
        raise ShapeError(
            f"conv1d: Expected 2D (unbatched) or 3D (batched) input to conv1d and a 3D weight, but got input of size: "
            f"{list(input.shape)} and weight of size: {list(weight.shape)}"
        )
    if not isinstance(padding, str):
        padding = (0, _one("padding", padding))
    steps = (1, _one("stride", stride)), padding, (1, _one("dilation", dilation)), groups
    return conv2d(input.unsqueeze(-2), weight.unsqueeze(-2), bias, *steps).squeeze(-2)  # type: ignore[attr-defined, no-any-return]


def _one(what: str, value: Any) -> int:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) != 1:
        raise ShapeError(
            f"conv1d: expected {what} to be a single integer value or a list of 1 values to match the convolution "
            f"dimensions, but got {what}={list(values)}"
        )
    return int(values[0])
