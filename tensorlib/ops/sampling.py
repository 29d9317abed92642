"""Images sampled at the points of a grid, and grids from affine maps. Jaderberg et al. 2015."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor, modes
from tensorlib._dispatch import as_ints
from tensorlib._promotion import FLOATS
from tensorlib._samples import between, draw, each, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from tensorlib.op import Array, composite, op
from tensorlib.ops import _sampling_numpy
from tensorlib.ops.create import linspace, ones
from tensorlib.ops.joining import stack
from tensorlib.ops.linalg import matmul
from tensorlib.ops.selection import _where
from tensorlib.ops.views import reshape


def _aligned(name: str, align_corners: bool | None) -> bool:
    if align_corners is None:
        warnings.warn(
            f"Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please "
            f"specify align_corners=True if the old behavior is desired. See the documentation of {name} for details.",
            stacklevel=outside(),
        )
        return False
    return align_corners


def _pixels(x: Any, size: int, align: bool) -> Any:
    """-1 … 1 as positions in pixels."""
    return (x + 1) * ((size - 1) / 2) if align else ((x + 1) * size - 1) / 2


def _clipped(x: Any, size: int) -> Any:
    """Within the image; no gradient at the border and beyond. NaN is 0."""
    return _where(x > 0, _where(x >= size - 1, float(size - 1), x), 0.0)


def _reflected(x: Any, size: int, align: bool) -> Any:
    """Mirrored at the first and last pixel (their outer edges unless aligned), as often as needed."""
    low, span = (0.0, float(size - 1)) if align else (-0.5, float(size))
    if span == 0:
        return x * 0
    x = x - low
    x = _where(x < 0, -x, x)
    turns = (x / span).floor().detach()
    rest = x - turns * span
    return _clipped(_where(turns.remainder(2) == 0, rest, span - rest) + low, size)


def _padded(x: Any, size: int, padding: str, align: bool) -> Any:
    if padding == "border":
        return _clipped(x, size)
    return _reflected(x, size, align) if padding == "reflection" else x


def _taken(flat: Any, at: list[Any], size: tuple[int, ...], zeros: bool) -> Any:
    """Pixels (N, C, P) at whole positions, one (N, P) an axis; 0 outside for ``zeros``."""
    index: Any = 0
    inside = None
    for x, n in zip(at, size, strict=True):
        if zeros:
            here = (x >= 0) & (x <= n - 1)
            inside = here if inside is None else inside & here
        index = index * n + _where(x > 0, _where(x < n - 1, x, float(n - 1)), 0.0).long()
    index = index.unsqueeze(1)
    found = flat.gather(2, index.expand(index.shape[0], flat.shape[1], index.shape[2]))
    return found if inside is None else _where(inside.unsqueeze(1), found, 0.0)


def _cubic_weights(t: Any) -> list[Any]:
    """Keys' convolution with a = -0.75 at 1 + t, t, 1 - t and 2 - t."""
    a = -0.75

    def near(x: Any) -> Any:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Any) -> Any:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _by_parts(input: Any, grid: Any, mode: str, padding: str, align: bool) -> Tensor:
    """grid_sample by other operators: what a device runs, and what gradients of gradients come from."""
    x, g, n = input, grid, input.ndim - 2
    dtype, shape, size = x.dtype, (*x.shape[:2], *g.shape[1:-1]), tuple(x.shape[2:])
    x, g = (t.float() if t.dtype.itemsize < 4 else t for t in (x, g))
    points = 1
    for m in g.shape[1:-1]:
        points *= m
    flat = reshape(x, (*shape[:2], size[0] * size[1] * (size[2] if n == 3 else 1)))
    g = reshape(g, (shape[0], points, n))
    at = [_pixels(g[:, :, n - 1 - d], size[d], align) for d in range(n)]  # the grid has the last axis first
    zeros = padding == "zeros"
    if mode == "bicubic":
        out = _bicubic(flat, at, size, padding, align)
    else:
        at = [_padded(p, m, padding, align) for p, m in zip(at, size, strict=True)]
        if mode == "nearest":
            out = _taken(flat, [p.round().detach() for p in at], size, zeros)
            if modes.grad and g._needs:  # a gradient of zeros, not none
                out = out + _where(at[0] < -math.inf, at[0], 0.0).unsqueeze(1)
        else:
            low = [p.floor().detach() for p in at]
            part = [p - q for p, q in zip(at, low, strict=True)]
            out = 0
            for corner in product((0, 1), repeat=n):
                weight: Any = 1
                for c, t in zip(corner, part, strict=True):
                    weight = weight * (t if c else 1 - t)
                pixel = _taken(flat, [q + c for q, c in zip(low, corner, strict=True)], size, zeros)
                out = out + pixel * weight.unsqueeze(1)
    return reshape(out, shape).to(dtype)  # type: ignore[no-any-return]


def _bicubic(flat: Any, at: list[Any], size: tuple[int, ...], padding: str, align: bool) -> Any:
    low = [p.floor().detach() for p in at]
    rows, columns = (_cubic_weights(p - q) for p, q in zip(at, low, strict=True))
    lines = [_padded(low[0] + (i - 1), size[0], padding, align) for i in range(4)]
    places = [_padded(low[1] + (j - 1), size[1], padding, align) for j in range(4)]
    out: Any = 0
    for line, down in zip(lines, rows, strict=True):
        row: Any = 0
        for place, across in zip(places, columns, strict=True):
            row = row + _taken(flat, [line, place], size, padding == "zeros") * across.unsqueeze(1)
        out = out + row * down.unsqueeze(1)
    return out


def _sampled_spec(input: Any, grid: Any, **_: Any) -> Any:
    return (*input.shape[:2], *grid.shape[1:-1]), input.dtype


_HOW = dict(mode="bilinear", padding="zeros", align=False)


@op(
    spec=lambda g, grid, input_shape, **_: (input_shape, g.dtype),
    promote=FLOATS,
    on="",
    samples=each(
        draw((1, 2, 2, 2), between(-1.2, 1.2, 1, 2, 2, 2), input_shape=(1, 2, 4, 5), **_HOW),
        draw((1, 9, 2, 2), between(-1.2, 1.2, 1, 2, 2, 2), input_shape=(1, 9, 2, 3), **_HOW),
    ),
)
def grid_sample_input_grad(g: Array, grid: Array, input_shape: Any, mode: str, padding: str, align: bool):
    """The gradient of grid_sample's images (N, C, …): g (N, C, …) in shares, added up where it was sampled."""
    return _sampling_numpy.input_grad(g, grid, tuple(input_shape[2:]), mode, padding, align)


@op(
    spec=lambda g, input, grid, **_: (grid.shape, grid.dtype),
    promote=FLOATS,
    on="",
    samples=each(
        draw((1, 2, 2, 2), (1, 2, 4, 5), between(-1.2, 1.2, 1, 2, 2, 2), **_HOW),
        draw((1, 9, 2, 2), (1, 9, 2, 3), between(-1.2, 1.2, 1, 2, 2, 2), **_HOW),
    ),
)
def grid_sample_grid_grad(g: Array, input: Array, grid: Array, mode: str, padding: str, align: bool):
    """The gradient of grid_sample's points: Σ over the taps of what each is worth times its weight's slope."""
    return _sampling_numpy.grid_grad(g, input, grid, mode, padding, align)


@op(
    spec=_sampled_spec,
    promote=FLOATS,
    vjp=dict(
        input=lambda g, grid, input_shape, mode, padding, align: grid_sample_input_grad(
            g, grid, input_shape, mode, padding, align
        ),
        grid=lambda g, input, grid, mode, padding, align: grid_sample_grid_grad(g, input, grid, mode, padding, align),
    ),
    composite=_by_parts,
    on="",
    samples=each(
        draw((1, 2, 4, 5), between(-1.2, 1.2, 1, 3, 2, 2), **_HOW),
        draw((2, 9, 3, 4), between(-1.2, 1.2, 2, 3, 1, 2), **{**_HOW, "padding": "border", "align": True}),
        draw((1, 9, 3, 4), between(-3, 3, 1, 3, 2, 2), **{**_HOW, "padding": "reflection"}),
        draw((1, 9, 4, 5), between(-1.2, 1.2, 1, 2, 2, 2), **{**_HOW, "mode": "bicubic"}),
        draw((1, 1, 4, 5), between(-2, 2, 1, 2, 2, 2), mode="bicubic", padding="reflection", align=True),
        draw((1, 9, 4, 5), between(-1.2, 1.2, 1, 2, 2, 2), **{**_HOW, "mode": "nearest"}),
        draw((1, 1, 2, 3, 2), between(-1.2, 1.2, 1, 2, 1, 2, 3), **_HOW), draw((0, 2, 2, 2), (0, 1, 1, 2), **_HOW),
    ),
    bench=[draw((8, 64, 64, 64), between(-1.1, 1.1, 8, 64, 64, 2), **_HOW)],
    bytes=lambda input, grid, **_: 2 * input.nbytes + grid.nbytes,
)  # fmt: skip
def _grid_sample(input: Array, grid: Array, mode: str, padding: str, align: bool):
    """The images (N, C, …) at the points of the grid (N, …, n): see grid_sample."""
    return _sampling_numpy.sample(input, grid, mode, padding, align)


@composite(
    on="functional",
    samples=each(
        draw((1, 2, 4, 5), between(-1.2, 1.2, 1, 3, 2, 2), align_corners=False),
        draw((1, 2, 4, 5), between(-1.2, 1.2, 1, 3, 2, 2), align_corners=True),
        draw((1, 2, 4, 5), between(-1.7, 1.7, 1, 3, 2, 2), padding_mode="border", align_corners=False),
        draw((1, 1, 3, 4), between(-3, 3, 1, 3, 2, 2), padding_mode="reflection", align_corners=False),
        draw((1, 1, 3, 4), between(-3, 3, 1, 3, 2, 2), padding_mode="reflection", align_corners=True),
        draw((1, 1, 4, 5), between(-1.2, 1.2, 1, 2, 2, 2), "bicubic", align_corners=False),
        draw((1, 1, 4, 5), between(-2, 2, 1, 2, 2, 2), "bicubic", "reflection", True),
        draw((1, 1, 2, 3, 2), between(-1.2, 1.2, 1, 2, 1, 2, 3), align_corners=False),
        draw(transposed(2, 1, 3, 4), between(-1.2, 1.2, 2, 2, 2, 2), align_corners=False),
    ),
)
def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """input (N, C, H, W) at grid (N, Ho, Wo, 2) of points (x, y) -> (N, C, Ho, Wo); or with a depth, 5-D and 3.

    -1 and 1 are the centres of the corner pixels with ``align_corners``, else their outer edges. ``mode``: 'bilinear',
    'nearest' (half to even), 'bicubic' (4-D). ``padding_mode``: what lies outside is 0 ('zeros'), the nearest pixel
    ('border') or the mirror image ('reflection'). Half types compute in float32. ShapeError names what does not fit.
    """
    x: Any = input
    g: Any = grid
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ArgumentError(f"grid_sample: expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ArgumentError(
            f"grid_sample: expected padding_mode to be 'zeros', 'border', or 'reflection', but got: '{padding_mode}'"
        )
    align = _aligned("grid_sample", align_corners)
    if x.ndim not in (4, 5) or x.ndim != g.ndim:
        raise ShapeError(
            f"grid_sample: expected 4D or 5D input and grid with same number of dimensions, but got input with sizes "
            f"{list(x.shape)} and grid with sizes {list(g.shape)}"
        )
    if x.shape[0] != g.shape[0]:
        raise ShapeError(
            f"grid_sample: expected grid and input to have same batch size, but got input with sizes {list(x.shape)} "
            f"and grid with sizes {list(g.shape)}"
        )
    n = x.ndim - 2
    if g.shape[-1] != n:
        raise ShapeError(f"grid_sample: expected grid to have size {n} in last dimension, but got {list(g.shape)}")
    if 0 in x.shape[2:]:
        raise ShapeError(
            f"grid_sample: expected input to have non-empty spatial dimensions, but input has sizes {list(x.shape)}"
        )
    if mode == "bicubic" and n == 3:
        raise ShapeError("grid_sample: bicubic interpolation only supports 4D input")
    if not x.dtype.is_floating_point or x.dtype != g.dtype:
        raise DtypeError(f"grid_sample: expected input and grid of one floating-point dtype, got {x.dtype}, {g.dtype}")
    if type(x._array) is type(g._array) is np.ndarray and g._array.size:
        return _grid_sample(x, g, mode, padding_mode, align)
    return _by_parts(x, g, mode, padding_mode, align)


@composite(
    complex=False,
    on="functional",
    samples=each(
        draw((2, 2, 3), (2, 1, 3, 4), align_corners=False), draw((1, 2, 3), (1, 1, 3, 4), align_corners=True),
        draw((1, 3, 4), (1, 2, 2, 3, 4), align_corners=False), draw((1, 2, 3), (1, 1, 1, 4), align_corners=False),
    ),
)
def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """grid[n, h, w] = theta[n] (x, y, 1): theta (N, 2, 3) and size (N, C, H, W) -> (N, H, W, 2), for ``grid_sample``.

    theta (N, 3, 4) and size (N, C, D, H, W) -> (N, D, H, W, 3). x and y are -1 and 1 at the centres of the corner
    pixels with ``align_corners``, else at their outer edges. ArgumentError names what does not fit.
    """
    align = _aligned("affine_grid", align_corners)
    t: Any = theta
    sizes = as_ints("affine_grid", "size", size)
    if not t.dtype.is_floating_point:
        raise ArgumentError(f"affine_grid: Expected theta to have floating point type, but got {t.dtype}")
    n = len(sizes) - 2
    if n not in (2, 3):
        raise UnsupportedError(
            f"affine_grid: only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. Got {sizes}."
        )
    if t.ndim != 3 or tuple(t.shape[1:]) != (n, n + 1):
        raise ArgumentError(
            f"affine_grid: Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {sizes}. Got "
            f"{tuple(t.shape)}."
        )
    if align and min(sizes[2:]) == 1:
        warnings.warn(
            "Since version 1.3.0, affine_grid behavior has changed for unit-size grids when align_corners=True. This "
            "is not an intended use case of affine_grid. See the documentation of affine_grid for details.",
            stacklevel=outside(),
        )
    elif min(sizes) <= 0:
        raise ArgumentError(f"affine_grid: Expected non-zero, positive output size. Got {sizes}")
    if t.shape[0] != sizes[0]:
        raise ShapeError(f"affine_grid: theta {tuple(t.shape)} is not a batch of {sizes[0]}, as size {sizes} says")
    axes = []
    for d in range(n - 1, -1, -1):  # x first
        m = sizes[2 + d]
        axis = linspace(-1, 1, m, dtype=t.dtype, device=t.device) if m > 1 else t.new_zeros((m,))
        axis = axis if align else axis * ((m - 1) / m)
        axes.append(axis.reshape([m if k == d else 1 for k in range(n)]).expand(sizes[2:]))
    axes.append(ones(sizes[2:], dtype=t.dtype, device=t.device))
    points = reshape(stack(axes, -1), (-1, n + 1))
    return reshape(matmul(points, t.transpose(1, 2)), (sizes[0], *sizes[2:], n))
