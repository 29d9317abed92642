"""Resizing of signals, images and volumes by separable interpolation."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib._arguments import outside
from tensorlib._core import Tensor
from tensorlib._dispatch import as_int
from tensorlib._promotion import FLOAT_ONLY
from tensorlib._samples import Draw, Sample, draw, each, ints, strided, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from tensorlib.kernels import interpolation as kernels
from tensorlib.op import Array, Dim, composite, op
from tensorlib.ops import create

_DIMS = {"linear": 1, "bilinear": 2, "bicubic": 2, "lanczos": 2, "trilinear": 3}
_KINDS = {"linear": "linear", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos"}


def _resample_spec(input: Any, dim: int, rule: Any, adjoint: bool) -> Any:
    size = rule[0] if adjoint else rule[1]
    return (*input.shape[:dim], size, *input.shape[dim + 1 :]), input.dtype


@op(
    spec=_resample_spec,
    kernel=kernels.resample,
    promote=FLOAT_ONLY,
    vjp=lambda g, dim, rule, adjoint: _resample(g, dim, rule, not adjoint),
    on="",
    samples=each(
        draw((2, 5, 3), dim=1, rule=(5, 8, "linear", None, False), adjoint=False),
        draw((2, 8, 3), dim=1, rule=(5, 8, "linear", None, False), adjoint=True),
        draw(transposed(3, 5), dim=1, rule=(5, 3, "cubic", 0.7, False), adjoint=False),
        draw(strided(3, 7), dim=1, rule=(7, 4, "nearest-exact", None, False), adjoint=False),
        draw((3, 40), dim=1, rule=(40, 3, "lanczos-aa", None, False), adjoint=False),
        draw((3, 3), dim=1, rule=(40, 3, "linear-aa", None, True), adjoint=True),
        draw((1, 600), dim=1, rule=(2, 600, "nearest", None, False), adjoint=True),
        draw((0, 4), dim=1, rule=(4, 2, "linear", None, True), adjoint=False),
    ),
    bench=[draw((8, 64, 56, 56), dim=3, rule=(56, 112, "linear", None, False), adjoint=False)],
    bytes=lambda input, dim, rule, adjoint: input.nbytes * (1 + rule[1] / rule[0]),
)
def _resample(input: Array, dim: Dim, rule: Any, adjoint: Any):
    """Weighted sums of a few inputs along ``dim``; rule (inputs, outputs, kind, scale, aligned corners)."""
    double = input.dtype == np.float64
    index, weight = kernels.taps(rule, adjoint, double)
    shape, _ = _resample_spec(input, dim, rule, adjoint)
    (m, K), n = index.shape, input.shape[dim]
    x = input.reshape(math.prod(input.shape[:dim]), n, math.prod(input.shape[dim + 1 :]))
    if K == 1 and (weight == 1).all():
        runs = _runs(rule, adjoint, double)
        if runs is None:
            return x.take(index[:, 0], 1).reshape(shape)
        out = np.empty((x.shape[0], m, x.shape[2]), x.dtype)
        for to, of in runs:
            out[:, to] = x[:, of]
        return out.reshape(shape)
    bands = _bands(rule, adjoint, double) if x.shape[2] == 1 or x.shape[2] >= 16 else None
    if bands:
        out = np.empty((x.shape[0], m, x.shape[2]), x.dtype)
        for to, of, matrix in bands:
            if x.shape[2] == 1:
                np.matmul(x[:, of, 0], matrix.T, out=out[:, to, 0])
            else:
                np.matmul(matrix, x[:, of], out=out[:, to])
        if np.isfinite(out).all():  # 0 · inf would spread
            return out.reshape(shape)
    if K <= max(m, 4):
        out = x.take(index[:, 0], 1)
        out *= weight[:, :1]
        for k in range(1, K):
            part = x.take(index[:, k], 1)
            part *= weight[:, k : k + 1]
            if not weight[:, k].all():
                part[:, weight[:, k] == 0] = 0  # a tap that is none, whatever it reads
            out += part
    else:
        out = np.empty((x.shape[0], m, x.shape[2]), x.dtype)
        for i in range(m):
            np.matmul(weight[i], x.take(index[i], 1), out=out[:, i])
    return out.reshape(shape)


@lru_cache(64)
def _runs(rule: Any, adjoint: bool, double: bool) -> list[tuple[slice, slice]] | None:
    """(outputs, inputs) that follow one another upwards or downwards, as where an edge is mirrored; None if short."""
    index = kernels.taps(rule, adjoint, double)[0][:, 0].tolist()
    found, begin = [], 0
    while begin < len(index):
        first, end = index[begin], begin + 1
        step = index[end] - first if end < len(index) else 1
        step = step if step in (1, -1) else 1
        while end < len(index) and index[end] == first + (end - begin) * step:
            end += 1
        last = first + (end - begin) * step
        found.append((slice(begin, end), slice(first, last if last >= 0 else None, step)))
        begin = end
    return found if len(found) * 8 <= len(index) else None


@lru_cache(64)
def _bands(rule: Any, adjoint: bool, double: bool) -> list[tuple[slice, slice, np.ndarray]] | None:
    """The map as matrices, each some of the outputs from the inputs they need; None where these hold mostly zeros.

    A product of matrices does some 80 multiplications in the time that one tap of one output takes otherwise.
    """
    index, weight = kernels.taps(rule, adjoint, double)
    m, K = index.shape
    step = max(64 * m // max(index.max(initial=0) + 1, m, 1), 8)
    made = []
    for begin in range(0, m, step):
        i, w = index[begin : begin + step], weight[begin : begin + step]
        low, high = int(i.min()), int(i.max()) + 1
        if high - low > 32 * K:
            return None
        matrix = np.zeros((len(i), high - low), weight.dtype)
        np.add.at(matrix, (np.arange(len(i))[:, None], i - low), w)
        made.append((slice(begin, begin + len(i)), slice(low, high), matrix))
    return made


def _sizes(input: Any, size: Any, scale_factor: Any, recompute: Any) -> tuple[list[int], list[float | None]]:
    """(sizes of the result, scales to compute positions with, or None for the ratio of sizes)."""
    spatial = list(input.shape[2:])
    n = len(spatial)
    if size is not None and scale_factor is not None:
        raise ArgumentError("interpolate: only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ArgumentError("interpolate: either size or scale_factor should be defined")
    given = size if size is not None else scale_factor
    if isinstance(given, (list, tuple)):
        if len(given) != n:
            name = "size" if size is not None else "scale_factor"
            raise ArgumentError(
                f"interpolate: Input and {name} must have the same number of spatial dimensions, but got input with "
                f"spatial dimensions of {spatial} and {name} of {list(given)}"
            )
        values = list(given)
    else:
        values = [given] * n
    if size is not None:
        if recompute:
            raise ArgumentError("interpolate: recompute_scale_factor is not meaningful with an explicit size.")
        return [as_int("interpolate", "size", v) for v in values], [None] * n
    sizes = [int(length * float(v)) for length, v in zip(spatial, values, strict=True)]
    return sizes, [None if recompute else float(v) for v in values]


def _images(*shape: int) -> Draw:
    return Draw(shape)


def _resized(*shape: int, **attrs: Any) -> Sample:
    return draw(_images(*shape), **attrs)


@composite(
    on="functional",
    samples=each(
        _resized(1, 2, 5, size=8), _resized(1, 2, 5, scale_factor=1.7), _resized(2, 1, 4, 3, size=(6, 2)),
        _resized(1, 2, 5, size=3, mode="nearest-exact"), _resized(1, 1, 2, 3, 4, scale_factor=2.0),
        _resized(1, 2, 5, size=9, mode="linear"), _resized(1, 2, 5, size=9, mode="linear", align_corners=True),
        _resized(1, 2, 4, 5, scale_factor=(1.5, 0.6), mode="bilinear"),
        _resized(1, 2, 4, 5, size=(7, 3), mode="bilinear", align_corners=True),
        _resized(1, 2, 6, 5, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
        _resized(1, 2, 4, 5, size=(7, 3), mode="bicubic"),
        _resized(1, 2, 4, 5, size=(7, 9), mode="bicubic", align_corners=True),
        _resized(1, 1, 3, 4, 2, size=(5, 2, 3), mode="trilinear"),
        _resized(1, 2, 9, 11, size=(4, 5), mode="bilinear", antialias=True),
        _resized(1, 2, 9, 11, size=(4, 15), mode="bicubic", antialias=True),
        draw(ints(1, 2, 3, high=200, dtype="uint8"), size=5),
    ),
)  # fmt: skip
def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    """input (N, C, d1, …) resized to ``size``, or by ``scale_factor``, an axis at a time: 1 to 3 spatial dimensions.

    ``mode``: 'nearest', 'nearest-exact', 'area' (means of what adaptive_avg_pool takes), 'linear' (3-D input),
    'bilinear', 'bicubic', 'lanczos' (4-D), 'trilinear' (5-D). Output i lies at (i + 1/2) scale - 1/2, with
    ``align_corners`` at i (in - 1) / (out - 1). ``recompute_scale_factor``: the scale is that of the rounded sizes.
    ``antialias``: filters widen where the image shrinks, as in Pillow. Half types are computed in float32; uint8 is
    rounded after each axis. Keys 1981 with a = -0.75, and -0.5 with antialias.
    """
    x: Any = input
    if mode in ("nearest", "area", "nearest-exact"):
        if align_corners is not None:
            raise ArgumentError(
                "interpolate: align_corners option can only be set with the interpolating modes: linear | bilinear | "
                "bicubic | trilinear"
            )
    n = x.ndim - 2
    if not 1 <= n <= 3 or mode not in ("nearest", "area", "nearest-exact", *_DIMS):
        raise UnsupportedError(
            f"interpolate: Only 3D, 4D and 5D input Tensors supported (got {x.ndim}D) for the modes: nearest | "
            f"linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact (got {mode})"
        )
    sizes, scales = _sizes(x, size, scale_factor, recompute_scale_factor or (mode == "area" and size is None))
    if antialias and not (mode in ("bilinear", "bicubic", "lanczos") and n == 2):
        raise ArgumentError(
            "interpolate: Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D "
            "tensor as input"
        )
    if mode in _DIMS and _DIMS[mode] != n:
        raise UnsupportedError(f"interpolate: Got {x.ndim}D input, but {mode} mode needs {_DIMS[mode] + 2}D input")
    if mode == "lanczos" and (align_corners or not antialias):
        raise ArgumentError("interpolate: Lanczos mode requires antialias=True and align_corners=False")
    if min(*x.shape[1:]) <= 0 or min(sizes) < (0 if mode == "area" else 1):
        raise ShapeError(
            f"interpolate: Input and output sizes should be greater than 0, but got input {tuple(x.shape)} and output "
            f"{sizes}"
        )
    kind = _KINDS.get(mode, mode) + ("-aa" if antialias else "")
    if not x.dtype.is_floating_point and (x._array.dtype != np.uint8 or mode in ("area", "linear", "trilinear")):
        raise DtypeError(f"interpolate: {mode} is not implemented for {x.dtype}: convert it, as in input.float()")
    rules = [
        (d + 2, (x.shape[d + 2], out, kind, scale, bool(align_corners)))
        for d, (out, scale) in enumerate(zip(sizes, scales, strict=True))
    ]
    if n == 2 and mode == "nearest":  # as in PyTorch, whatever the scale
        rules = [(d, (*r[:3], None, False) if r[1] in (r[0], 2 * r[0]) else r) for d, r in rules]
    bytes_in = not x.dtype.is_floating_point
    if bytes_in:
        rules.reverse()
    else:  # what shrinks comes first: less is left for the others
        rules.sort(key=lambda r: r[1][1] / r[1][0])
    if bytes_in and mode.startswith("nearest"):
        for dim, rule in rules:
            x = x.index_select(dim, create.tensor(kernels.taps(rule, False, False)[0][:, 0], device=x.device))
        return x  # type: ignore[no-any-return]
    dtype = x.dtype
    x = x.float() if bytes_in or dtype.itemsize < 4 else x
    for dim, rule in rules:
        if rule[0] != rule[1] or (rule[3] not in (None, 1.0) and kind in ("nearest", "nearest-exact", "cubic")):
            x = _resample(x, dim, rule, False)
            x = (x + 0.5).floor().clamp(0, 255) if bytes_in else x
    return (x if x is not input else x.clone()).to(dtype)  # type: ignore[no-any-return]


@composite(on="functional")
def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """``interpolate``, under PyTorch's old name, with a warning."""
    warnings.warn(
        "`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=outside()
    )
    return interpolate(input, size, scale_factor, mode, align_corners)


@composite(on="functional")
def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """``interpolate`` with mode 'nearest', under PyTorch's old name, with a warning."""
    warnings.warn(
        "`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=outside()
    )
    return interpolate(input, size, scale_factor, "nearest")


@composite(on="functional")
def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """``interpolate`` with mode 'bilinear' and aligned corners, under PyTorch's old name, with a warning."""
    warnings.warn(
        "`nn.functional.upsample_bilinear` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=outside(),
    )
    return interpolate(input, size, scale_factor, "bilinear", True)
