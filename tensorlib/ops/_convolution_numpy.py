"""Convolution in NumPy: few copies, then matrix products.

Two ways. *By rows*: the input is laid out once for each kernel column, as (row, channel, kernel column, image, column);
the patches of one output row are then KH consecutive rows of that layout, a matrix without a copy, and each output row
is one product. It copies KW times the input where patches copy KH * KW times. *By patches* (im2col) for what does not
fit: dilated rows, and too few columns for a good product; a 1 x 1 kernel needs no copy at all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tensorlib.errors import ArgumentError, ShapeError

# Columns of a matrix product by rows, below which copying patches is faster: with few channels copying costs most.
_MIN_COLUMNS, _MIN_COLUMNS_FEW, _FEW = 192, 64, 16
_IMAGES_LAST = 5  # times as many images as columns, from which images are laid out next to each other
_CHUNK = 1 << 20  # elements of the partial weight gradients held at once


class Geometry(NamedTuple):
    """The sizes of a convolution. One image without a batch counts as a batch of one."""

    N: int
    C: int
    H: int
    W: int
    O: int  # noqa: E741
    KH: int
    KW: int
    OH: int
    OW: int
    G: int
    stride: tuple[int, int]
    #: Zeros before the first row and column; those after the last follow from the output's size.
    before: tuple[int, int]
    dilation: tuple[int, int]
    batched: bool

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(n, out, h', w'), or (out, h', w') for an image without a batch."""
        shape = (self.N, self.O, self.OH, self.OW)
        return shape if self.batched else shape[1:]


def two(name: str, what: str, value: Any) -> tuple[int, int]:
    """An int or one or two ints as a pair."""
    value = (value,) if isinstance(value, int) else tuple(value)
    if len(value) not in (1, 2):
        raise ShapeError(
            f"{name}: expected {what} to be a single integer value or a list of 2 values to match the convolution "
            f"dimensions, but got {what}={list(value)}"
        )
    return value[0], value[-1]


def geometry(
    name: str, input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Geometry:
    """The sizes, or the error that says what does not fit."""
    if not isinstance(padding, (int, str)):
        padding = tuple(padding)
    return _geometry(name, input_shape, weight_shape, stride, padding, dilation, groups)


@lru_cache(maxsize=512)
def _geometry(
    name: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Geometry:
    shown, weight = list(input_shape), list(weight_shape)
    if len(weight) != 4:
        raise ShapeError(
            f"{name}: got weight of size {weight}: expected 4 dimensions (out, in / groups, height, width)"
        )
    if len(shown) not in (3, 4):
        raise ShapeError(
            f"{name}: Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: {shown}"
        )
    if groups <= 0:
        raise ArgumentError(f"{name}: non-positive groups is not supported, got groups={groups}")
    sh, sw = two(name, "stride", stride)
    dh, dw = two(name, "dilation", dilation)
    if min(sh, sw) <= 0:
        raise ArgumentError(f"{name}: non-positive stride is not supported, got stride={stride}")
    if min(dh, dw) <= 0:
        raise ArgumentError(f"{name}: non-positive dilation is not supported, got dilation={dilation}")
    batched = len(shown) == 4
    N, C, H, W = input_shape if batched else (1, *input_shape)
    out, per_group, KH, KW = weight_shape
    if min(weight_shape[2:]) < 1:
        raise ShapeError(f"{name}: got weight of size {weight}: expected a kernel with at least one element")
    if out < groups:
        raise ShapeError(
            f"{name}: Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of "
            f"size {weight} instead"
        )
    if out % groups:
        raise ShapeError(
            f"{name}: Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got "
            f"weight of size {weight} instead"
        )
    if per_group * groups != C:
        raise ShapeError(
            f"{name}: Given groups={groups}, weight of size {weight}, expected input{shown} to have "
            f"{per_group * groups} channels, but got {C} channels instead"
        )
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ArgumentError(f"{name}: Invalid padding string: '{padding}': expected 'same', 'valid' or ints")
        if padding == "same" and (sh, sw) != (1, 1):
            raise ArgumentError(
                f"{name}: padding='same' is not supported for strided convolutions, got stride={stride}"
            )
        total = (dh * (KH - 1), dw * (KW - 1)) if padding == "same" else (0, 0)
        before = total[0] // 2, total[1] // 2
    else:
        before = two(name, "padding", padding)
        if min(before) < 0:
            raise ArgumentError(f"{name}: negative padding is not supported, got padding={padding}")
        total = 2 * before[0], 2 * before[1]
    padded = H + total[0], W + total[1]
    reach = dh * (KH - 1) + 1, dw * (KW - 1) + 1
    if padded[0] < reach[0] or padded[1] < reach[1] or (not H or not W):
        raise ShapeError(
            f"{name}: Calculated padded input size per channel: ({padded[0]} x {padded[1]}). Kernel size: "
            f"({reach[0]} x {reach[1]}). Kernel size can't be greater than actual input size"
        )
    OH, OW = (padded[0] - reach[0]) // sh + 1, (padded[1] - reach[1]) // sw + 1
    return Geometry(N, C, H, W, out, KH, KW, OH, OW, groups, (sh, sw), before, (dh, dw), batched)


# -------------------------------------------------------------------------------------------------------- the layouts


class _Plan(NamedTuple):
    """What a convolution reads: rows and columns with padding, up to the last one used; and the way it goes."""

    height: int
    width: int
    rows: int  # of the input that are used
    columns: int
    by_rows: bool
    images_last: bool  # columns before images, so that what lies together in memory is long
    pointwise: bool


@lru_cache(maxsize=512)
def _plan(s: Geometry) -> _Plan:
    (sh, sw), (dh, dw) = s.stride, s.dilation
    height = (s.OH - 1) * sh + (s.KH - 1) * dh + 1
    width = (s.OW - 1) * sw + (s.KW - 1) * dw + 1
    rows, columns = max(min(s.H, height - s.before[0]), 0), max(min(s.W, width - s.before[1]), 0)
    images_last = s.N >= _IMAGES_LAST * s.OW
    pointwise = s.KH == s.KW == 1 and (sh, sw) == (1, 1) and s.before == (0, 0) and (s.H, s.W) == (s.OH, s.OW)
    least = _MIN_COLUMNS_FEW if s.C // s.G <= _FEW else _MIN_COLUMNS
    by_rows = not pointwise and (dh == 1 or s.KH == 1) and s.N * s.OW >= least
    return _Plan(height, width, rows, columns, by_rows, images_last, pointwise)


def _lines(make: Any, lead: tuple[int, ...], s: Geometry, p: _Plan, columns: int, dtype: Any) -> tuple[Any, Any]:
    """(an array (*lead, images * columns), its view (*lead, images, columns)); images may be the inner ones."""
    length = s.N * columns
    # Lines 4 KiB apart would all lie in one set of the L1 cache, hence a gap.
    flat = make((*lead, length + (16 if length * dtype.itemsize % 4096 == 0 else 0)), dtype)[..., :length]
    step = dtype.itemsize
    inner = (step, s.N * step) if p.images_last else (columns * step, step)
    return flat, as_strided(flat, (*lead, s.N, columns), (*flat.strides[:-1], *inner))


def _columns(x: np.ndarray, s: Geometry, p: _Plan) -> np.ndarray:
    """(G, rows, channels * KW, N * OW): (h, (c, j), (image, w)) is input (c, h, w * stride + j * dilation)."""
    Cg, (_, sw), (_, dw) = s.C // s.G, s.stride, s.dilation
    source = x.reshape(s.N, s.G, Cg, s.H, s.W).transpose(1, 3, 2, 0, 4)
    if p.images_last or (p.rows, p.columns) != (p.height, p.width):
        top, left = s.before
        _, laid = _lines(np.zeros, (s.G, p.height, Cg), s, p, p.width, x.dtype)
        laid[:, top : top + p.rows, :, :, left : left + p.columns] = source[:, : p.rows, ..., : p.columns]
        source = laid
    g, h, c, i, w = source.strides
    out, view = _lines(np.empty, (s.G, p.height, Cg, s.KW), s, p, s.OW, x.dtype)
    view[...] = as_strided(source, view.shape, (g, h, c, dw * w, i, sw * w))
    a, b, _, d, e = out.strides
    return as_strided(out, (s.G, p.height, Cg * s.KW, s.N * s.OW), (a, b, d, e))


def _blocks(columns: np.ndarray, first: int, count: int, step: int, taps: int) -> np.ndarray:
    """(G, count, taps * m, n) of (G, rows, m, n): ``taps`` rows from each of first, first + step, … Not a copy."""
    G, _, m, n = columns.shape
    a, b, c, d = columns.strides
    return as_strided(columns[:, first:], (G, count, taps * m, n), (a, b * step, c, d))


def _spread_rows(g: np.ndarray, s: Geometry, p: _Plan, around: int) -> np.ndarray:
    """A gradient (N, O, OH, OW) as (G, around + OH + around, O / G, N * OW), zero around."""
    Og = s.O // s.G
    out, view = _lines(np.zeros if around else np.empty, (s.G, s.OH + 2 * around, Og), s, p, s.OW, g.dtype)
    view[:, around : around + s.OH] = g.reshape(s.N, s.G, Og, s.OH, s.OW).transpose(1, 3, 2, 0, 4)
    return out


def _patches(x: np.ndarray, s: Geometry, p: _Plan) -> np.ndarray:
    """(G, channels * KH * KW, N * OH * OW): the elements under the kernel, for each output."""
    (sh, sw), (dh, dw), (top, left) = s.stride, s.dilation, s.before
    if (p.rows, p.columns) != (p.height, p.width):
        padded = np.zeros((s.N, s.C, p.height, p.width), x.dtype)
        padded[:, :, top : top + p.rows, left : left + p.columns] = x[:, :, : p.rows, : p.columns]
        x = padded
    n, c, h, w = x.strides
    out = np.empty((s.C, s.KH, s.KW, s.N, s.OH, s.OW), x.dtype)
    out[...] = as_strided(x, out.shape, (c, dh * h, dw * w, n, sh * h, sw * w))
    return out.reshape(s.G, s.C // s.G * s.KH * s.KW, s.N * s.OH * s.OW)


def _summed(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    """Σ a @ b over a batch axis, a limited number of products at a time."""
    size = a.shape[-2] * b.shape[-1] * a.shape[1 - axis]
    step = max(1, _CHUNK // max(size, 1))
    total = np.zeros((a.shape[1 - axis], a.shape[-2], b.shape[-1]), a.dtype)
    for at in range(0, a.shape[axis], step):
        part: Any = (slice(None),) * axis + (slice(at, at + step),)
        total += np.add.reduce(np.matmul(a[part], b[part]), axis=axis)
    return total


# ------------------------------------------------------------------------------------------------------ the operators


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, s: Geometry) -> np.ndarray:
    """The convolution: (N, C, H, W) -> (N, O, OH, OW)."""
    p, Og, Cg = _plan(s), s.O // s.G, s.C // s.G
    K, P = Cg * s.KH * s.KW, s.OH * s.OW
    if p.pointwise:
        out = np.matmul(weight.reshape(s.G, Og, Cg), x.reshape(s.N, s.G, Cg, P)).reshape(s.N, s.O, s.OH, s.OW)
        if bias is not None:
            out += bias[:, None, None]
        return out
    if p.by_rows:
        blocks = _blocks(_columns(x, s, p), 0, s.OH, s.stride[0], s.KH)
        # Few output channels multiply faster with the weight laid out by columns.
        w = weight.reshape(s.G, Og, Cg, s.KH, s.KW).transpose(0, 3, 2, 4, 1).reshape(s.G, 1, K, Og)
        product = np.matmul(w.swapaxes(-1, -2), blocks)
    else:
        product = np.matmul(weight.reshape(s.G, Og, K), _patches(x, s, p))
    if bias is not None:
        product += bias.reshape(s.G, *(1,) * (product.ndim - 3), Og, 1)
    if not p.by_rows:
        shaped = product.reshape(s.G, Og, s.N, s.OH, s.OW).transpose(2, 0, 1, 3, 4)
    elif p.images_last:
        shaped = product.reshape(s.G, s.OH, Og, s.OW, s.N).transpose(4, 0, 2, 1, 3)
    else:
        shaped = product.reshape(s.G, s.OH, Og, s.N, s.OW).transpose(3, 0, 2, 1, 4)
    return np.ascontiguousarray(shaped).reshape(s.N, s.O, s.OH, s.OW)


def grad_weight(g: np.ndarray, x: np.ndarray, s: Geometry) -> np.ndarray:
    """The gradient of the weight: (O, C / G, KH, KW)."""
    p, Og, Cg = _plan(s), s.O // s.G, s.C // s.G
    shape, P = (s.O, Cg, s.KH, s.KW), s.OH * s.OW
    if p.pointwise:
        product = _summed(g.reshape(s.N, s.G, Og, P), x.reshape(s.N, s.G, Cg, P).swapaxes(-1, -2), 0)
    elif p.by_rows:
        blocks = _blocks(_columns(x, s, p), 0, s.OH, s.stride[0], s.KH)
        product = _summed(blocks, _spread_rows(g, s, p, 0).swapaxes(-1, -2), 1)
        product = np.ascontiguousarray(product.reshape(s.G, s.KH, Cg, s.KW, Og).transpose(0, 4, 2, 1, 3))
    else:
        by_group = g.reshape(s.N, s.G, Og, P).transpose(1, 2, 0, 3).reshape(s.G, Og, s.N * P)
        product = np.matmul(by_group, _patches(x, s, p).swapaxes(-1, -2))
    return product.reshape(shape)


def grad_input(g: np.ndarray, weight: np.ndarray, s: Geometry) -> np.ndarray:
    """The gradient of the input: (N, C, H, W)."""
    p, Og, Cg = _plan(s), s.O // s.G, s.C // s.G
    K, P = Cg * s.KH * s.KW, s.OH * s.OW
    (sh, sw), (dh, dw), (top, left) = s.stride, s.dilation, s.before
    if p.pointwise:
        return np.matmul(weight.reshape(s.G, Og, Cg).swapaxes(-1, -2), g.reshape(s.N, s.G, Og, P)).reshape(
            s.N, s.C, s.H, s.W
        )
    if p.by_rows:
        used = _grad_input_by_rows(g, weight, s, p)[:, top : top + p.rows, :, :, left : left + p.columns]
        used = used.transpose(3, 0, 2, 1, 4)
    else:
        by_group = g.reshape(s.N, s.G, Og, P).transpose(1, 2, 0, 3).reshape(s.G, Og, s.N * P)
        products = np.matmul(weight.reshape(s.G, Og, K).swapaxes(-1, -2), by_group)
        products = products.reshape(s.C, s.KH, s.KW, s.N, s.OH, s.OW)
        total = np.zeros((s.C, s.N, p.height, p.width), g.dtype)
        for i in range(s.KH):
            for j in range(s.KW):
                at = total[:, :, i * dh : i * dh + sh * s.OH : sh, j * dw : j * dw + sw * s.OW : sw]
                np.add(at, products[:, i, j], out=at)
        used = total[:, :, top : top + p.rows, left : left + p.columns].swapaxes(0, 1)
    used = used.reshape(s.N, s.C, p.rows, p.columns)
    if (p.rows, p.columns) == (s.H, s.W):
        return np.ascontiguousarray(used)
    out = np.zeros((s.N, s.C, s.H, s.W), g.dtype)
    out[:, :, : p.rows, : p.columns] = used
    return out


def _grad_input_by_rows(g: np.ndarray, weight: np.ndarray, s: Geometry, p: _Plan) -> np.ndarray:
    """(G, rows with padding, C / G, N, columns with padding): products by kernel column, added where they were read."""
    Og, Cg, (sh, sw), dw = s.O // s.G, s.C // s.G, s.stride, s.dilation[1]
    w = weight.reshape(s.G, Og, Cg, s.KH, s.KW)
    taps = -(-s.KH // sh)
    rows = _spread_rows(g, s, p, taps - 1)
    _, laid = _lines(np.zeros, (s.G, p.height, Cg), s, p, p.width, g.dtype)
    # Input rows h = q * stride + r of one r: the kernel's rows r, r + stride, … meet the output rows q, q - 1, …
    for r in range(min(sh, s.KH)):
        t = -(-(s.KH - r) // sh)
        count = s.OH + t - 1
        matrix = w[:, :, :, r::sh][:, :, :, ::-1].transpose(0, 2, 4, 3, 1).reshape(s.G, 1, Cg * s.KW, t * Og)
        products = np.matmul(matrix, _blocks(rows, taps - t, count, 1, t))
        if p.images_last:
            products = products.reshape(s.G, count, Cg, s.KW, s.OW, s.N).swapaxes(-1, -2)
        else:
            products = products.reshape(s.G, count, Cg, s.KW, s.N, s.OW)
        for j in range(s.KW):
            at = laid[:, r::sh, ..., j * dw : j * dw + sw * (s.OW - 1) + 1 : sw][:, :count]
            np.add(at, products[:, :, :, j], out=at)
    return laid
