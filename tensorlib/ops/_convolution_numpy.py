"""Convolution in NumPy: few copies, then matrix products.

From some size on it is the native engine's (runtime/native/direct), where that is on and has code for the processor.
Else there are two ways. *By rows*: the input is laid out once for each kernel column, as (row, channel, kernel
column, image, column); the patches of one output row are then KH consecutive rows of that layout, a matrix without a
copy, and each output row is one product. It copies KW times the input where patches copy KH * KW times; dilated rows
are those of interleaved images. *By patches* (im2col) for what does not fit, such as too few columns for a good
product; a 1 x 1 kernel needs no copy at all.

Three dims become two: the planes under the kernel of each output plane are the channels of one image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tensorlib import _products
from tensorlib.errors import ArgumentError, ShapeError

# Columns of a matrix product by rows, below which copying patches is faster: with few channels copying costs most.
_MIN_COLUMNS, _MIN_COLUMNS_FEW, _FEW = 192, 64, 16
_IMAGES_LAST = 5  # times as many images as columns, from which images are laid out next to each other
_PIECE = 1 << 15  # elements worked on at a time where each is read several times
_PLANE = 1024  # elements of a plane from which a 1 x 1 kernel is not faster by a product
_CHUNK = 1 << 20  # elements of the partial weight gradients held at once


class Geometry(NamedTuple):
    """The sizes of a convolution in three dims; one of fewer has leading dims of 1. No batch counts as a batch of 1."""

    N: int
    C: int
    D: int
    H: int
    W: int
    O: int  # noqa: E741
    KD: int
    KH: int
    KW: int
    OD: int
    OH: int
    OW: int
    G: int
    stride: tuple[int, int, int]
    #: Zeros before the first element of each dim; those after the last follow from the output's size.
    before: tuple[int, int, int]
    dilation: tuple[int, int, int]
    batched: bool
    dims: int

    def _shape(self, channels: int, *size: int) -> tuple[int, ...]:
        shape = (self.N, channels, *size[3 - self.dims :])
        return shape if self.batched else shape[1:]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """([n,] in, [[d,] h,] w)."""
        return self._shape(self.C, self.D, self.H, self.W)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """([n,] out, [[d',] h',] w')."""
        return self._shape(self.O, self.OD, self.OH, self.OW)


def each(name: str, what: str, value: Any, dims: int) -> tuple[int, ...]:
    """An int, one int or ``dims`` ints as ``dims`` ints."""
    value = tuple(value) if hasattr(value, "__iter__") and not isinstance(value, bytes) else (value,)
    if not all(hasattr(v, "__index__") for v in value):
        raise TypeError(f"{name}(): argument '{what}' must be tuple of ints, got {value}")
    if len(value) not in (1, dims):
        raise ShapeError(
            f"{name}: expected {what} to be a single integer value or a list of {dims} values to match the convolution "
            f"dimensions, but got {what}={list(value)}"
        )
    return value if len(value) == dims else value * dims


def geometry(
    input_shape: Any,
    weight_shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    result: Any = None,
) -> Geometry:
    """The sizes, or the error that says what does not fit.

    ``result``: the output's shape, which may be less than what fits: some of the last windows are not looked at.
    """
    if not isinstance(padding, (int, str)):
        padding = (padding,) if isinstance(padding, bytes) else tuple(padding)
    return _geometry(
        tuple(input_shape), tuple(weight_shape), stride, padding, dilation, groups, result and tuple(result)
    )


#: What an input may be, by number of dims.
INPUTS = ("2D (unbatched) or 3D (batched)", "3D (unbatched) or 4D (batched)", "4D (unbatched) or 5D (batched)")


@lru_cache(maxsize=512)
def _geometry(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    result: tuple[int, ...] | None,
) -> Geometry:
    shown, weight = list(input_shape), list(weight_shape)
    dims = len(weight) - 2
    if dims not in (1, 2, 3):
        raise ShapeError(f"conv: got weight of size {weight}: expected (out, in / groups) and one to three dims")
    name = f"conv{dims}d"
    if len(shown) not in (dims + 1, dims + 2):
        raise ShapeError(f"{name}: Expected {INPUTS[dims - 1]} input to {name}, but got input of size: {shown}")
    if groups <= 0:
        raise ArgumentError(f"{name}: non-positive groups is not supported, got groups={groups}")
    stride, dilation = each(name, "stride", stride, dims), each(name, "dilation", dilation, dims)
    if min(stride) <= 0:
        raise ArgumentError(f"{name}: non-positive stride is not supported, got stride={stride}")
    if min(dilation) <= 0:
        raise ArgumentError(f"{name}: non-positive dilation is not supported, got dilation={dilation}")
    batched = len(shown) == dims + 2
    N, C, *size = input_shape if batched else (1, *input_shape)
    out, per_group, *kernel = weight_shape
    if min(kernel) < 1:
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
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ArgumentError(f"{name}: Invalid padding string: '{padding}': expected 'same', 'valid' or ints")
        if padding == "same" and max(stride) > 1:
            raise ArgumentError(
                f"{name}: padding='same' is not supported for strided convolutions, got stride={stride}"
            )
        total = [r - 1 if padding == "same" else 0 for r in reach]
        before = tuple(t // 2 for t in total)
    else:
        before = each(name, "padding", padding, dims)
        if min(before) < 0:
            raise ArgumentError(f"{name}: negative padding is not supported, got padding={padding}")
        total = [2 * b for b in before]
    padded = [n + t for n, t in zip(size, total, strict=True)]
    if any(p < r for p, r in zip(padded, reach, strict=True)) or 0 in size:
        raise ShapeError(
            f"{name}: Calculated padded input size per channel: ({' x '.join(map(str, padded))}). Kernel size: "
            f"({' x '.join(map(str, reach))}). Kernel size can't be greater than actual input size"
        )
    made = tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    if result is not None:
        whole = (N, out, *made) if batched else (out, *made)
        fits = len(result) == len(whole) and result[:-dims] == whole[:-dims]
        if not fits or any(a > b for a, b in zip(result[-dims:], made, strict=True)):
            raise ShapeError(f"{name}: got a gradient of shape {result}: expected {whole}")
        made = tuple(result[-dims:])
    front = (1,) * (3 - dims)
    steps = (*front, *stride), (*(0 for _ in front), *before), (*front, *dilation)
    sizes: Any = (N, C, *front, *size, out, *front, *kernel, *front, *made, groups, *steps, batched, dims)
    return Geometry(*sizes)


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
    (_, sh, sw), (_, dh, dw), (_, top, left) = s.stride, s.dilation, s.before
    height = (s.OH - 1) * sh + (s.KH - 1) * dh + 1
    width = (s.OW - 1) * sw + (s.KW - 1) * dw + 1
    rows, columns = max(min(s.H, height - top), 0), max(min(s.W, width - left), 0)
    images_last = s.N >= _IMAGES_LAST * s.OW
    pointwise = s.KH == s.KW == sh == sw == 1 and top == left == 0 and (s.H, s.W) == (s.OH, s.OW)
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
    Cg, sw, dw = s.C // s.G, s.stride[2], s.dilation[2]
    source = x.reshape(s.N, s.G, Cg, s.H, s.W).transpose(1, 3, 2, 0, 4)
    if p.images_last or (p.rows, p.columns) != (p.height, p.width):
        _, top, left = s.before
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
    (_, sh, sw), (_, dh, dw), (_, top, left) = s.stride, s.dilation, s.before
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
        total += np.add.reduce(_products.matmul(a[part], b[part]), axis=axis)
    return total


# ---------------------------------------------------------------------------------------------- three dims as two


@lru_cache(maxsize=512)
def _frames(s: Geometry) -> Geometry:
    """The convolution of two dims that is left when the planes under the kernel have become channels of a frame."""
    if _pointwise(s):  # depth and height are one dim
        return s._replace(D=1, H=s.D * s.H, OD=1, OH=s.OD * s.OH)
    return s._replace(N=s.N * s.OD, C=s.C * s.KD, D=1, KD=1, OD=1, stride=(1, *s.stride[1:]), before=(0, *s.before[1:]),
                      dilation=(1, *s.dilation[1:]))  # fmt: skip


def _pointwise(s: Geometry) -> bool:
    ones = (1, 1, 1)
    same = (s.D, s.H, s.W) == (s.OD, s.OH, s.OW)
    return (s.KD, s.KH, s.KW) == s.stride == ones and s.before == (0, 0, 0) and same


def _flat_depth(s: Geometry) -> bool:
    return s.D == s.KD == s.OD == 1 and s.before[0] == 0


def _to_frames(x: np.ndarray, s: Geometry) -> np.ndarray:
    """(N, C, D, H, W) as (N * OD, C * KD, H, W): one frame for each output plane, the planes under it as channels."""
    if _flat_depth(s) or _pointwise(s):
        return x.reshape(s.N, s.C, s.D * s.H, s.W)
    sd, pd, dd = s.stride[0], s.before[0], s.dilation[0]
    depth = (s.OD - 1) * sd + (s.KD - 1) * dd + 1
    if pd or depth > s.D:
        padded = np.zeros((s.N, s.C, max(depth, s.D + pd), s.H, s.W), x.dtype)
        padded[:, :, pd : pd + s.D] = x
        x = padded
    n, c, d, h, w = x.strides
    shape = (s.N, s.OD, s.C, s.KD, s.H, s.W)
    return as_strided(x, shape, (n, d * sd, c, d * dd, h, w)).reshape(s.N * s.OD, s.C * s.KD, s.H, s.W)


def _from_frames(frames: np.ndarray, s: Geometry) -> np.ndarray:
    """The adjoint of ``_to_frames``: planes that several frames hold are added up."""
    if _flat_depth(s) or _pointwise(s):
        return frames
    sd, pd, dd = s.stride[0], s.before[0], s.dilation[0]
    depth = max((s.OD - 1) * sd + (s.KD - 1) * dd + 1, s.D + pd)
    parts = frames.reshape(s.N, s.OD, s.C, s.KD, s.H, s.W).transpose(3, 0, 2, 1, 4, 5)
    total = np.zeros((s.N, s.C, depth, s.H, s.W), frames.dtype)
    for i in range(s.KD):
        at = total[:, :, i * dd : i * dd + sd * (s.OD - 1) + 1 : sd]
        np.add(at, parts[i], out=at)
    return total[:, :, pd : pd + s.D]


def _grad_frames(g: np.ndarray, s: Geometry) -> np.ndarray:
    """A gradient (N, O, OD, OH, OW) as that of the frames' convolution."""
    if s.OD == 1 or _pointwise(s):
        return g.reshape(s.N, s.O, s.OD * s.OH, s.OW)
    return g.reshape(s.N, s.O, s.OD, s.OH, s.OW).swapaxes(1, 2).reshape(s.N * s.OD, s.O, s.OH, s.OW)


# ---------------------------------------------------------------------------------- one channel a group, in steps of 1


class _Flat(NamedTuple):
    """Planes with padding as lines: the elements under the kernel are a distance apart that is the same everywhere."""

    height: int
    width: int
    length: int  # of a line of outputs; those beyond OW in each row are not used
    whole: int  # of a line of inputs
    taps: tuple[int, ...]  # how far each element of the kernel is from the first


@lru_cache(maxsize=512)
def _flat(s: Geometry) -> _Flat:
    dh, dw = s.dilation[1:]
    height, width = s.OH + (s.KH - 1) * dh, s.OW + (s.KW - 1) * dw
    taps = tuple(i * dh * width + j * dw for i in range(s.KH) for j in range(s.KW))
    return _Flat(height, width, s.OH * width, height * width + (s.KW - 1) * dw, taps)


def _depthwise(s: Geometry) -> bool:
    """Whether each channel is convolved with a kernel of its own, in steps of 1: too little for a matrix product."""
    return s.C == s.O == s.G > 1 and s.stride[1:] == (1, 1) and s.KH * s.KW > 1


def _parts(s: Geometry, f: _Flat) -> Any:
    """(images, channels) in pieces that stay in the cache."""
    planes = max(1, _PIECE // f.length)
    images, channels = max(1, planes // s.C), min(planes, s.C)
    for n in range(0, s.N, images):
        for c in range(0, s.C, channels):
            yield slice(n, n + images), slice(c, c + channels)


def _input_lines(x: np.ndarray, s: Geometry, f: _Flat) -> np.ndarray:
    """(N, C, whole): the input with its padding."""
    _, top, left = s.before
    lines = np.zeros((s.N, s.C, f.whole), x.dtype)
    planes = lines[..., : f.height * f.width].reshape(s.N, s.C, f.height, f.width)
    x = x[:, :, max(-top, 0) : max(f.height - top, 0), max(-left, 0) : max(f.width - left, 0)]
    top, left = max(top, 0), max(left, 0)
    planes[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    return lines


def _output_lines(g: np.ndarray, s: Geometry, f: _Flat) -> np.ndarray:
    """(N, C, length): a gradient, zero beyond OW."""
    lines = np.zeros((s.N, s.C, s.OH, f.width), g.dtype)
    lines[..., : s.OW] = g
    return lines.reshape(s.N, s.C, f.length)


def _depthwise_convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, s: Geometry) -> np.ndarray:
    f = _flat(s)
    lines, w = _input_lines(x, s, f), weight.reshape(s.C, -1, 1)
    out = np.empty((s.N, s.C, f.length), x.dtype)
    for n, c in _parts(s, f):
        source, total = lines[n, c], out[n, c]
        np.multiply(source[..., : f.length], w[c, 0], out=total)
        product = np.empty(total.shape, x.dtype)
        for k, at in enumerate(f.taps[1:], 1):
            np.multiply(source[..., at : at + f.length], w[c, k], out=product)
            np.add(total, product, out=total)
        if bias is not None:
            total += bias[c, None]
    return out.reshape(s.N, s.G, 1, s.OH, f.width)[..., : s.OW]


def _depthwise_grad_input(g: np.ndarray, weight: np.ndarray, s: Geometry) -> np.ndarray:
    """The convolution of the gradient with kernels reversed, within what of their reach was not padding."""
    (_, dh, dw), (_, top, left) = s.dilation, s.before
    before = (0, (s.KH - 1) * dh - top, (s.KW - 1) * dw - left)
    back = s._replace(H=s.OH, W=s.OW, OH=s.H, OW=s.W, before=before)
    return _depthwise_convolve(g, weight.reshape(s.C, -1)[:, ::-1], None, back).reshape(s.N, s.C, s.H, s.W)


def _depthwise_grad_weight(g: np.ndarray, x: np.ndarray, s: Geometry) -> np.ndarray:
    f = _flat(s)
    source, lines = _input_lines(x, s, f), _output_lines(g, s, f)
    out = np.empty((s.C, len(f.taps)), x.dtype)
    for k, at in enumerate(f.taps):
        out[:, k] = np.add.reduce(np.einsum("ncl,ncl->nc", lines, source[..., at : at + f.length]), axis=0)
    return out


# -------------------------------------------------------------------------------------------------------- dilated rows


@lru_cache(maxsize=512)
def _dilated(s: Geometry) -> Geometry | None:
    """The convolution without dilated rows of images that hold every dilation-th row, where that can go by rows."""
    dh = s.dilation[1]
    if dh == 1 or s.KH == 1 or s.stride[1] > 1:
        return None
    rows = -(-s.OH // dh)
    _, (_, _, left), (_, _, dw) = s.stride, s.before, s.dilation
    t = s._replace(N=s.N * dh, H=rows + s.KH - 1, OH=rows, before=(0, 0, left), dilation=(1, 1, dw))
    return t if _plan(t).by_rows else None


def _every(s: Geometry, t: Geometry) -> Any:
    """For each of the interleaved images: (which, its rows, the rows of the input that they are)."""
    dh, top = s.dilation[1], s.before[1]
    for r in range(dh):
        q = max(-(-(top - r) // dh), 0)
        first = q * dh + r - top
        count = max(min(t.H - q, -(-(s.H - first) // dh)), 0)
        yield r, slice(q, q + count), slice(first, first + count * dh, dh)


def _dilated_input(x: np.ndarray, s: Geometry, t: Geometry) -> np.ndarray:
    out = np.zeros((s.N, s.dilation[1], s.C, t.H, s.W), x.dtype)
    for r, to, of in _every(s, t):
        out[:, r, :, to] = x[:, :, of]
    return out.reshape(t.N, s.C, t.H, s.W)


def _dilated_output(g: np.ndarray, s: Geometry, t: Geometry) -> np.ndarray:
    dh = s.dilation[1]
    out = np.zeros((s.N, dh, s.O, t.OH, s.OW), g.dtype)
    for r in range(dh):
        part = g[:, :, r::dh]
        out[:, r, :, : part.shape[2]] = part
    return out.reshape(t.N, s.O, t.OH, s.OW)


# ------------------------------------------------------------------------------------------------------ the operators


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, s: Geometry) -> np.ndarray:
    """The convolution of one to three dims: (n, in, …) -> (n, out, …), or both without n."""
    f = _frames(s)
    out = _convolve(_to_frames(x.reshape(s.N, s.C, s.D, s.H, s.W), s), weight, bias, f)
    if f.N != s.N:  # (frames, groups, out / groups, h, w)
        out = out.reshape(s.N, s.OD, s.G, s.O // s.G, s.OH, s.OW).transpose(0, 2, 3, 1, 4, 5)
    return np.ascontiguousarray(out).reshape(s.output_shape)


def transposed(g: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, s: Geometry) -> np.ndarray:
    """The adjoint of the convolution, which is the gradient of its input, plus a bias."""
    out = _from_frames(_grad_input(_grad_frames(g, s), weight, _frames(s)), s).reshape(s.input_shape)
    if bias is not None:
        out += bias.reshape(-1, *(1,) * s.dims)
    return np.ascontiguousarray(out)


def grad_weight(g: np.ndarray, x: np.ndarray, s: Geometry) -> np.ndarray:
    """The gradient of the weight: (out, in / groups, …)."""
    frames = _to_frames(x.reshape(s.N, s.C, s.D, s.H, s.W), s)
    product = _grad_weight(_grad_frames(g, s), frames, _frames(s))
    return product.reshape(s.O, s.C // s.G, *(s.KD, s.KH, s.KW)[3 - s.dims :])


def _engine(s: Geometry, *arrays: np.ndarray | None, sums: bool = False) -> Any:
    """The native engine's convolutions where these are one of them, else None. ``sums``: for a weight's gradient."""
    if not (s.N and s.H and s.W) or (_pointwise(s) and (sums or s.OH * s.OW < _PLANE)):
        return None
    return _products.convolutions(s.N * s.O * (s.C // s.G) * s.KH * s.KW * s.OH * s.OW, *arrays)


def _convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, s: Geometry) -> np.ndarray:
    """(N, C, H, W) -> (N, G, O / G, OH, OW), which may be a view."""
    native = _engine(s, x, weight, bias)
    if native is not None:
        added = None if bias is None else np.ascontiguousarray(bias)
        found = native.forward(np.ascontiguousarray(x), np.ascontiguousarray(weight), added, s)
        if found is not None:
            return found.reshape(s.N, s.G, s.O // s.G, s.OH, s.OW)  # type: ignore[no-any-return]
    if _depthwise(s):
        return _depthwise_convolve(x, weight, bias, s)
    t = _dilated(s)
    if t is not None:
        apart = _convolve(_dilated_input(x, s, t), weight, bias, t)
        apart = apart.reshape(s.N, s.dilation[1], *apart.shape[1:]).transpose(0, 2, 3, 4, 1, 5)
        return apart.reshape(*apart.shape[:3], -1, s.OW)[:, :, :, : s.OH]
    p, Og, Cg = _plan(s), s.O // s.G, s.C // s.G
    K, P = Cg * s.KH * s.KW, s.OH * s.OW
    if p.pointwise:
        product = _products.matmul(weight.reshape(s.G, Og, Cg), x.reshape(s.N, s.G, Cg, P))
        out = product.reshape(s.N, s.G, Og, s.OH, s.OW)
        if bias is not None:
            out += bias.reshape(s.G, Og, 1, 1)
        return out
    if p.by_rows:
        blocks = _blocks(_columns(x, s, p), 0, s.OH, s.stride[1], s.KH)
        # Few output channels multiply faster with the weight laid out by columns.
        w = weight.reshape(s.G, Og, Cg, s.KH, s.KW).transpose(0, 3, 2, 4, 1).reshape(s.G, 1, K, Og)
        product = _products.matmul(w.swapaxes(-1, -2), blocks)
    else:
        product = _products.matmul(weight.reshape(s.G, Og, K), _patches(x, s, p))
    if bias is not None:
        product += bias.reshape(s.G, *(1,) * (product.ndim - 3), Og, 1)
    if not p.by_rows:
        return product.reshape(s.G, Og, s.N, s.OH, s.OW).transpose(2, 0, 1, 3, 4)
    if p.images_last:
        return product.reshape(s.G, s.OH, Og, s.OW, s.N).transpose(4, 0, 2, 1, 3)
    return product.reshape(s.G, s.OH, Og, s.N, s.OW).transpose(3, 0, 2, 1, 4)


def _grad_weight(g: np.ndarray, x: np.ndarray, s: Geometry) -> np.ndarray:
    """(O, C / G, KH, KW), or the same elements in that order."""
    native = _engine(s, g, x, sums=True)
    if native is not None:
        found = native.weight(np.ascontiguousarray(g), np.ascontiguousarray(x), s)
        if found is not None:
            return found  # type: ignore[no-any-return]
    if _depthwise(s):
        return _depthwise_grad_weight(g, x, s)
    t = _dilated(s)
    if t is not None:
        return _grad_weight(_dilated_output(g, s, t), _dilated_input(x, s, t), t)
    p, Og, Cg = _plan(s), s.O // s.G, s.C // s.G
    P = s.OH * s.OW
    if p.pointwise:
        return _summed(g.reshape(s.N, s.G, Og, P), x.reshape(s.N, s.G, Cg, P).swapaxes(-1, -2), 0)
    if p.by_rows:
        blocks = _blocks(_columns(x, s, p), 0, s.OH, s.stride[1], s.KH)
        product = _summed(blocks, _spread_rows(g, s, p, 0).swapaxes(-1, -2), 1)
        return np.ascontiguousarray(product.reshape(s.G, s.KH, Cg, s.KW, Og).transpose(0, 4, 2, 1, 3))
    by_group = g.reshape(s.N, s.G, Og, P).transpose(1, 2, 0, 3).reshape(s.G, Og, s.N * P)
    return _products.matmul(by_group, _patches(x, s, p).swapaxes(-1, -2))


def _grad_input(g: np.ndarray, weight: np.ndarray, s: Geometry) -> np.ndarray:
    """(N, C, H, W)."""
    native = _engine(s, g, weight)
    if native is not None:
        found = native.backward(np.ascontiguousarray(g), np.ascontiguousarray(weight), s)
        if found is not None:
            return found  # type: ignore[no-any-return]
    if _depthwise(s):
        return _depthwise_grad_input(g, weight, s)
    t = _dilated(s)
    if t is not None:
        apart = _grad_input(_dilated_output(g, s, t), weight, t).reshape(s.N, s.dilation[1], s.C, t.H, s.W)
        out = np.zeros((s.N, s.C, s.H, s.W), g.dtype)
        for r, of, to in _every(s, t):
            out[:, :, to] = apart[:, r, :, of]
        return out
    p, Og, Cg = _plan(s), s.O // s.G, s.C // s.G
    K, P = Cg * s.KH * s.KW, s.OH * s.OW
    (_, sh, sw), (_, dh, dw), (_, top, left) = s.stride, s.dilation, s.before
    if p.pointwise:
        return _products.matmul(weight.reshape(s.G, Og, Cg).swapaxes(-1, -2), g.reshape(s.N, s.G, Og, P)).reshape(
            s.N, s.C, s.H, s.W
        )
    if p.by_rows:
        used = _grad_input_by_rows(g, weight, s, p)[:, top : top + p.rows, :, :, left : left + p.columns]
        used = used.transpose(3, 0, 2, 1, 4)
    else:
        by_group = g.reshape(s.N, s.G, Og, P).transpose(1, 2, 0, 3).reshape(s.G, Og, s.N * P)
        products = _products.matmul(weight.reshape(s.G, Og, K).swapaxes(-1, -2), by_group)
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
    Og, Cg, (sh, sw), dw = s.O // s.G, s.C // s.G, s.stride[1:], s.dilation[2]
    w = weight.reshape(s.G, Og, Cg, s.KH, s.KW)
    taps = -(-s.KH // sh)
    rows = _spread_rows(g, s, p, taps - 1)
    _, laid = _lines(np.zeros, (s.G, p.height, Cg), s, p, p.width, g.dtype)
    # Input rows h = q * stride + r of one r: the kernel's rows r, r + stride, … meet the output rows q, q - 1, …
    for r in range(min(sh, s.KH)):
        t = -(-(s.KH - r) // sh)
        count = s.OH + t - 1
        matrix = w[:, :, :, r::sh][:, :, :, ::-1].transpose(0, 2, 4, 3, 1).reshape(s.G, 1, Cg * s.KW, t * Og)
        products = _products.matmul(matrix, _blocks(rows, taps - t, count, 1, t))
        if p.images_last:
            products = products.reshape(s.G, count, Cg, s.KW, s.OW, s.N).swapaxes(-1, -2)
        else:
            products = products.reshape(s.G, count, Cg, s.KW, s.N, s.OW)
        for j in range(s.KW):
            at = laid[:, r::sh, ..., j * dw : j * dw + sw * (s.OW - 1) + 1 : sw][:, :count]
            np.add(at, products[:, :, :, j], out=at)
    return laid
