"""Sliding blocks of images as columns of a matrix, and their sum back into images."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import as_ints
from tensorlib._promotion import PROMOTE
from tensorlib._samples import draw, each, transposed
from tensorlib.errors import ShapeError
from tensorlib.kernels import folding as kernels
from tensorlib.op import Array, composite, op

Pair = tuple[int, int]


def _spans(height: int, width: int, kernel: Pair, dilation: Pair, stride: Pair, blocks: Pair) -> Any:
    """For each element of a block: its place (i, j), and the slices of the padded image that hold it."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y, x = i * dilation[0], j * dilation[1]
            yield i, j, slice(y, y + (blocks[0] - 1) * stride[0] + 1, stride[0]), slice(
                x, x + (blocks[1] - 1) * stride[1] + 1, stride[1]
            )


def _unfold_spec(
    input: Any, kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair, blocks: Pair
) -> Any:
    n, c = input.shape[:2]
    return (n, c * kernel_size[0] * kernel_size[1], blocks[0] * blocks[1]), input.dtype


_ONE = dict(dilation=(1, 1), padding=(0, 0), stride=(1, 1))
_GEOMETRIES: Any = [
    ((1, 2, 4, 5), dict(kernel_size=(2, 3), blocks=(3, 3), **_ONE)),
    ((2, 1, 5, 4), dict(kernel_size=(3, 2), dilation=(2, 1), padding=(1, 2), stride=(2, 3), blocks=(2, 3))),
    ((1, 1, 20, 17), dict(kernel_size=(3, 3), dilation=(1, 1), padding=(1, 1), stride=(1, 1), blocks=(20, 17))),
    ((0, 2, 3, 3), dict(kernel_size=(2, 2), blocks=(2, 2), **_ONE)),
]


@op(
    spec=_unfold_spec,
    kernel=kernels.unfold,
    vjp=lambda g, input_shape, kernel_size, dilation, padding, stride, blocks: _fold(
        g, input_shape[2:], kernel_size, dilation, padding, stride, blocks
    ),
    on="",
    samples=[draw(shape, **attrs) for shape, attrs in _GEOMETRIES],
    bench=[draw((16, 64, 56, 56), kernel_size=(3, 3), dilation=(1, 1), padding=(1, 1), stride=(1, 1), blocks=(56, 56))],
    bytes=lambda input, kernel_size, **_: input.nbytes * (1 + kernel_size[0] * kernel_size[1]),
)
def _unfold(input: Array, kernel_size: Any, dilation: Any, padding: Any, stride: Any, blocks: Any):
    """The blocks of (N, C, H, W), zeros around it, as columns: (N, C kh kw, blocks)."""
    n, c, height, width = input.shape
    if any(padding):
        x = np.zeros((n, c, height + 2 * padding[0], width + 2 * padding[1]), input.dtype)
        x[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = input
    else:
        x = input
    out = np.empty((n, c, *kernel_size, *blocks), input.dtype)
    for i, j, rows, columns in _spans(height, width, kernel_size, dilation, stride, blocks):
        out[:, :, i, j] = x[:, :, rows, columns]
    return out.reshape(_unfold_spec(input, kernel_size, dilation, padding, stride, blocks)[0])


def _fold_spec(
    input: Any, output_size: Pair, kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair, blocks: Pair
) -> Any:
    n, columns, _ = input.shape
    return (n, columns // (kernel_size[0] * kernel_size[1]), *output_size), input.dtype


def _fold_samples() -> Any:
    for shape, attrs in _GEOMETRIES:
        taps, blocks = attrs["kernel_size"][0] * attrs["kernel_size"][1], attrs["blocks"][0] * attrs["blocks"][1]
        yield draw((shape[0], shape[1] * taps, blocks), output_size=shape[2:], **attrs)


@op(
    spec=_fold_spec,
    kernel=kernels.fold,
    promote=PROMOTE,
    complex=True,
    vjp=lambda g, kernel_size, dilation, padding, stride, blocks: _unfold(
        g, kernel_size, dilation, padding, stride, blocks
    ),
    on="",
    samples=[
        *_fold_samples(),
        draw(transposed(1, 8, 9), output_size=(4, 4), kernel_size=(2, 2), blocks=(3, 3), **_ONE),
    ],
)
def _fold(
    input: Array, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any, blocks: Any
):
    """The sum of blocks (N, C kh kw, blocks) where they lay in images (N, C, H, W)."""
    (n, c, height, width), _ = _fold_spec(input, output_size, kernel_size, dilation, padding, stride, blocks)
    x = input.reshape(n, c, *kernel_size, *blocks)
    out = np.zeros((n, c, height + 2 * padding[0], width + 2 * padding[1]), input.dtype)
    for i, j, rows, columns in _spans(height, width, kernel_size, dilation, stride, blocks):
        out[:, :, rows, columns] += x[:, :, i, j]
    return out[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def _pair(name: str, label: str, given: Any, least: int) -> Pair:
    values = as_ints(name, label, given)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2 or min(values) < least:
        raise ShapeError(f"{name}: {label} {values}: expected one or two numbers of at least {least}")
    return values[0], values[1]


def _blocks(name: str, size: Pair, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> Pair:
    """How many blocks there are along the height and the width."""
    counts = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
    )
    if min(counts) < 1:
        raise ShapeError(
            f"{name}: Given spatial size {size}, kernel_size={kernel}, dilation={dilation}, padding={padding}, "
            f"calculated shape of the array of sliding blocks as {counts}, but its components must be at least one"
        )
    return counts[0], counts[1]


@composite(
    on="functional",
    alias=("functional.unfold",),
    samples=each(
        draw((1, 2, 4, 5), (2, 3)), draw((2, 5, 6), 3, 1, 1, 2), draw((1, 1, 7, 7), 2, dilation=2, padding=(1, 0)),
        draw(transposed(2, 1, 5, 4), 2, stride=(1, 2)),
    ),
)
def _im2col(
    input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Sliding blocks as columns: (N, C, H, W) or (C, H, W) -> (N, C kh kw, L) or (C kh kw, L), zeros beyond the border.

    Column l holds the block l, row by row, channels outermost. ShapeError where no block fits.
    """
    x: Any = input
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        raise ShapeError(
            f"unfold: Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
            f"for input, but got: {list(x.shape)}"
        )
    kernel, gaps = _pair("unfold", "kernel_size", kernel_size, 1), _pair("unfold", "dilation", dilation, 1)
    pads, steps = _pair("unfold", "padding", padding, 0), _pair("unfold", "stride", stride, 1)
    blocks = _blocks("unfold", tuple(x.shape[-2:]), kernel, gaps, pads, steps)
    out = _unfold(x if x.ndim == 4 else x.unsqueeze(0), kernel, gaps, pads, steps, blocks)
    return out if x.ndim == 4 else out[0]


@composite(
    on="functional",
    samples=each(
        draw((1, 12, 9), (4, 5), (2, 3)), draw((18, 9), (5, 6), 3, 1, 1, 2),
        draw((1, 4, 35), 7, 2, 2, (1, 0)),
    ),
)
def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Blocks summed where they lay: (N, C kh kw, L) or (C kh kw, L) -> (N, C, H, W) or (C, H, W); unfold's adjoint.

    ShapeError where L is not the number of blocks in ``output_size``.
    """
    x: Any = input
    size, kernel = _pair("fold", "output_size", output_size, 1), _pair("fold", "kernel_size", kernel_size, 1)
    gaps, pads = _pair("fold", "dilation", dilation, 1), _pair("fold", "padding", padding, 0)
    steps = _pair("fold", "stride", stride, 1)
    if x.ndim not in (2, 3) or 0 in x.shape[-2:]:
        raise ShapeError(
            f"fold: Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions "
            f"for input, but got: {list(x.shape)}"
        )
    if x.shape[-2] % (kernel[0] * kernel[1]):
        raise ShapeError(
            f"fold: Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={x.shape[-2]} and kernel_size={kernel}."
        )
    blocks = _blocks("fold", size, kernel, gaps, pads, steps)
    if x.shape[-1] != blocks[0] * blocks[1]:
        raise ShapeError(
            f"fold: expected size of input's dimension 2 to match the calculated number of sliding blocks "
            f"{blocks[0]} * {blocks[1]} = {blocks[0] * blocks[1]}, but got input.size(2)={x.shape[-1]}."
        )
    out = _fold(x if x.ndim == 3 else x.unsqueeze(0), size, kernel, gaps, pads, steps, blocks)
    return out if x.ndim == 3 else out[0]
