"""Views by strides: sliding windows, and any size and stride over a tensor's memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, modes
from tensorlib._dispatch import as_ints, sync
from tensorlib._samples import draw, each, fails
from tensorlib.errors import ShapeError
from tensorlib.kernels import scattering
from tensorlib.op import Array, Dim, Ints, composite, op, view
from tensorlib.ops.views import _memory


@op(
    spec=lambda g, shape, size, stride, offset: (shape, g.dtype),
    kernel=scattering.as_strided_grad,
    vjp=lambda g, size, stride, offset: _as_strided(g.contiguous(), size, stride, offset),
    on="",
    samples=each(
        draw((2, 2), shape=(3, 3), size=(2, 2), stride=(1, 2), offset=1),
        draw((4, 3), shape=(6,), size=(4, 3), stride=(1, 1), offset=0),
        draw((0,), shape=(2,), size=(0,), stride=(1,), offset=0),
    ),
)
def _as_strided_grad(g: Array, shape: Any, size: Any, stride: Any, offset: int):
    """Zeros of a contiguous ``shape`` to which g is added at the places of a strided view; repeated places add up.

    Half types add up in float32. On a GPU places that repeat are added atomically, but
    where deterministic algorithms are asked for.
    """
    wide = np.float32 if g.dtype.kind not in "biufc" or g.dtype == np.float16 else g.dtype
    out = np.zeros(shape, wide)
    places = _array.as_strided(np.arange(out.size), size, stride, offset) if g.size else np.empty(size, np.int64)
    np.add.at(out.reshape(-1), places.reshape(-1), g.reshape(-1))
    return out.astype(g.dtype, copy=False)


@view(
    vjp=lambda g, input_shape, size, stride, offset: _as_strided_grad(g, input_shape, size, stride, offset),
    name="_as_strided",
    on="",
    samples=each(
        draw((3, 4), size=(2, 2), stride=(4, 1), offset=1), draw((6,), size=(4, 3), stride=(1, 1), offset=0),
        draw((6,), size=(), stride=(), offset=5),
    ),
)  # fmt: skip
def _as_strided(input: Array, size: Any, stride: Any, offset: int):
    """The view of ``size`` and ``stride`` that starts ``offset`` elements after the first of a contiguous input."""
    out = _array.as_strided(input, size, stride, offset)
    if 0 in stride and type(out) is np.ndarray and any(s == 0 and n > 1 for s, n in zip(stride, size, strict=True)):
        out.flags.writeable = False  # as an expanded tensor: an element has several places
    return out


def _contiguous(t: Tensor) -> bool:
    return _array.is_contiguous(t._array)


@composite(samples=each(draw((12,), (3, 2), (4, 1)), draw((3, 4), (2, 2), (4, 1), 1), draw((5,), (3, 3), (1, 1))))
def as_strided(input: Tensor, size: Ints, stride: Ints, storage_offset: int | None = None) -> Tensor:
    """The view of ``size`` and ``stride`` (in elements) over input's memory, from element ``storage_offset`` of it.

    Without ``storage_offset`` it begins where input begins. The memory is that of the tensor input is a view of;
    ShapeError outside it. A gradient needs an input that covers its own memory (such as a contiguous one).
    """
    size, stride = as_ints("as_strided", "size", size), as_ints("as_strided", "stride", stride)
    if len(size) != len(stride):
        raise ShapeError(f"as_strided: mismatch in length of strides and shape: {size} and {stride}")
    if any(s < 0 for s in stride):
        raise ShapeError(f"as_strided: Negative strides are not supported at the moment, got strides: {list(stride)}")
    sync(input)
    x = input._array
    root: Any = input if input._view is None else input._view.base
    low, high = _memory(root._array)
    here = _memory(x)[0]
    start = here if storage_offset is None else low + storage_offset * x.itemsize
    last = start + (sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1) * x.itemsize
    if start < low or (0 not in size and last > high):
        raise ShapeError(
            f"as_strided: sizes {list(size)}, strides {list(stride)}, storage offset {(start - low) // x.itemsize} "
            f"are out of bounds for the tensor's memory of {(high - low) // x.itemsize} elements"
        )
    leaf = input._needs and input._node is None  # its gradient ends here, also where it looks into something larger
    whole = root is not input and not leaf and root._array.dtype == x.dtype and _contiguous(root)
    if storage_offset is not None and whole:
        # From the whole memory: the gradient then reaches elements that input itself does not show.
        return _as_strided(root, size, stride, (start - low) // x.itemsize)
    if input._needs and modes.grad and not _contiguous(input):
        if leaf or not _contiguous(root) or root._array.dtype != x.dtype:
            raise ShapeError(
                "as_strided: the gradient needs a contiguous tensor or a view of one: call .contiguous() first"
            )
        return _as_strided(root, size, stride, (start - low) // x.itemsize)
    return _as_strided(input, size, stride, (start - here) // x.itemsize)


def _windows(input: Any, dimension: int, size: int, step: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, strides) of sliding windows."""
    strides = _array.strides_of(input)
    if not input.ndim:
        if size > 1:
            raise ShapeError(f"unfold: maximum size for tensor at dimension 0 is 1 but size is {size}")
        return (size,), (1,)
    n = input.shape[dimension]
    if size < 0:
        raise ShapeError(f"unfold: size is {size} but must be >= 0")
    if size > n:
        raise ShapeError(f"unfold: maximum size for tensor at dimension {dimension} is {n} but size is {size}")
    if step <= 0:
        raise ShapeError(f"unfold: step is {step} but must be > 0")
    shape = (*input.shape[:dimension], (n - size) // step + 1, *input.shape[dimension + 1 :], size)
    return shape, (*strides[:dimension], strides[dimension] * step, *strides[dimension + 1 :], strides[dimension])


@op(
    spec=lambda g, shape, dimension, size, step: (shape, g.dtype),
    kernel=scattering.unfold_grad,
    vjp=lambda g, dimension, size, step: g.unfold(dimension, size, step),
    on="",
    samples=each(
        draw((4, 3), shape=(6,), dimension=0, size=3, step=1),
        draw((2, 2, 2), shape=(2, 5), dimension=1, size=2, step=2),
        draw((2, 2, 3), shape=(5, 2), dimension=0, size=3, step=2),
    ),
)
def _unfold_grad(g: Array, shape: Ints, dimension: int, size: int, step: int):
    """out[..., w * step + j, ...] += g[..., w, ..., j]: the gradient of sliding windows, added up in float32 or wider.

    On a GPU windows that overlap are added atomically, but where deterministic algorithms are asked for.
    """
    wide = np.float32 if g.dtype.kind not in "biufc" or g.dtype == np.float16 else g.dtype
    out = np.zeros(shape, wide)
    if not shape:
        return g.reshape(()).copy() if size else out.astype(g.dtype)
    windows = g.shape[dimension]
    for j in range(size):
        at = (slice(None),) * dimension + (slice(j, j + (windows - 1) * step + 1, step),)
        out[at] += g[..., j]
    return out.astype(g.dtype, copy=False)


@view(
    vjp=lambda g, input_shape, dimension, size, step: _unfold_grad(g, input_shape, dimension, size, step),
    on="method",
    samples=each(
        draw((6,), dimension=0, size=3, step=1), draw((2, 5), dimension=-1, size=2, step=2),
        draw((5, 2), dimension=0, size=3, step=2), draw((4,), dimension=0, size=4, step=3),
    ),
    errors=[
        fails((3,), dimension=0, size=4, step=1, match="maximum size"),
        fails((3,), dimension=0, size=1, step=0, match="must be > 0"),
    ],
)  # fmt: skip
def unfold(input: Array, dimension: Dim, size: int, step: int):
    """All windows of ``size`` along ``dimension``, every ``step``: a view (…, number of windows, …, size)."""
    return _array.as_strided(input, *_windows(input, dimension, size, step))
