"""Shapes and order: what moves elements without computing with them, and indexing by functions."""

from __future__ import annotations

from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import int64
from tensorlib.errors import ArgumentError, DimError, ShapeError

from ._data_types import array, together

__all__ = ["broadcast_arrays", "broadcast_shapes", "broadcast_to", "concat", "expand_dims", "flip", "moveaxis",
           "permute_dims", "repeat", "reshape", "roll", "squeeze", "stack", "take", "take_along_axis", "tile",
           "unstack"]  # fmt: skip


def wrap(function: str, axis: int, ndim: int) -> int:
    """An axis counted from the front; IndexError out of range."""
    if not -ndim <= axis < ndim:
        raise DimError(f"{function}: got axis {axis}: expected one in [{-ndim}, {ndim - 1}]")
    return axis % ndim


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that shapes broadcast to. ValueError where there is none."""
    try:
        return tuple(ops.broadcast_shapes(*shapes))
    except ShapeError as error:  # a RuntimeError, as in PyTorch
        raise ArgumentError(str(error)) from None


def broadcast_arrays(*arrays: Tensor) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape; each keeps its dtype."""
    shape = ops.broadcast_shapes(*[array("broadcast_arrays", x).shape for x in arrays])
    return tuple(ops.broadcast_to(x, shape) for x in arrays)


def broadcast_to(x: Tensor, /, shape: Any) -> Tensor:
    """``x`` expanded to ``shape``: a view."""
    return ops.broadcast_to(array("broadcast_to", x), shape)


def concat(arrays: Any, /, *, axis: int | None = 0) -> Tensor:
    """The tensors, in their common dtype, one after another along ``axis``; flattened first for None."""
    tensors = together("concat", *arrays)
    if axis is None:
        tensors, axis = [x.reshape(-1) for x in tensors], 0
    return ops.concat(tensors, axis)


def stack(arrays: Any, /, *, axis: int = 0) -> Tensor:
    """The tensors, in their common dtype, along a new ``axis``."""
    return ops.stack(together("stack", *arrays), axis)


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of ``x`` along ``axis``, without it. ValueError for a 0-d tensor."""
    if not array("unstack", x).ndim:
        raise ArgumentError("unstack: got a 0-d tensor: expected one with at least one dimension")
    return tuple(ops.unbind(x, axis))


def expand_dims(x: Tensor, /, axis: Any) -> Tensor:
    """``x`` with dimensions of size 1 at ``axis``, an int or several, counted in the result."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    ndim = array("expand_dims", x).ndim + len(axes)
    places = sorted(wrap("expand_dims", a, ndim) for a in axes)
    if len(set(places)) < len(places):
        raise ArgumentError(f"expand_dims: got axis={axis}: expected different ones")
    for place in places:
        x = ops.unsqueeze(x, place)
    return x


def squeeze(x: Tensor, /, axis: Any) -> Tensor:
    """``x`` without the dimensions ``axis``, an int or several. ValueError where one is not of size 1."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    places = tuple(wrap("squeeze", a, array("squeeze", x).ndim) for a in axes)
    for place in places:
        if x.shape[place] != 1:
            raise ArgumentError(f"squeeze: got axis {place} of {tuple(x.shape)}: expected one of size 1")
    return ops.squeeze(x, places) if places else x


def flip(x: Tensor, /, *, axis: Any = None) -> Tensor:
    """``x`` in reversed order along ``axis``, an int or several, or all."""
    axes = tuple(range(array("flip", x).ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    return ops.flip(x, axes)


def moveaxis(x: Tensor, source: Any, destination: Any, /) -> Tensor:
    """``x`` with the dimensions ``source`` at the places ``destination``, the others in their order."""
    return ops.moveaxis(array("moveaxis", x), source, destination)


def permute_dims(x: Tensor, /, axes: Any) -> Tensor:
    """``x`` with its dimensions in the order ``axes``."""
    return ops.permute(array("permute_dims", x), tuple(axes))


def repeat(x: Tensor, repeats: Any, /, *, axis: int | None = None) -> Tensor:
    """Every slice along ``axis`` ``repeats`` times, a number or one for each; ``x`` flattened for None."""
    if axis is None:
        x, axis = array("repeat", x).reshape(-1), 0
    if not isinstance(repeats, int):
        given = repeats if isinstance(repeats, Tensor) else ops.tensor(list(repeats), device=x.device)
        size = x.shape[wrap("repeat", axis, x.ndim)]
        if given.ndim > 1 or given.numel() not in (1, size):
            raise ShapeError(f"repeat: got repeats of shape {tuple(given.shape)}: expected () or ({size},)")
        repeats = given.to(int64).expand(size)
    return ops.repeat_interleave(array("repeat", x), repeats, axis)


def reshape(x: Tensor, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    """``x`` in another shape, one size of which may be -1: a view where there is one, unless ``copy``.

    ``copy=False``: ValueError where there is no view.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    out = ops.reshape(array("reshape", x), shape)
    if copy is None or not x.numel():
        return out
    shared = out.untyped_storage() == x.untyped_storage()
    if copy:
        return out.clone() if shared else out
    if not shared:
        raise ArgumentError(f"reshape: got copy=False: {tuple(x.shape)} cannot become {shape} without a copy")
    return out


def roll(x: Tensor, /, shift: Any, *, axis: Any = None) -> Tensor:
    """Elements moved by ``shift`` along ``axis``, coming in again at the other end; in flattened order for None."""
    if axis is None:
        return ops.roll(array("roll", x), shift)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    shifts = (shift,) * len(axes) if isinstance(shift, int) else tuple(shift)
    return ops.roll(array("roll", x), shifts, axes)


def tile(x: Tensor, repetitions: Any, /) -> Tensor:
    """Copies of ``x`` side by side, ``repetitions`` for each dimension, the last ones where they are fewer."""
    return ops.tile(array("tile", x), tuple(repetitions))


def _indices(function: str, indices: Any, size: int) -> Tensor:
    """Indices in int64, counted from the front."""
    index = array(function, indices)
    if index.dtype.kind != "int":
        raise TypeError(f"{function}: got indices of {index.dtype}: expected integers")
    index = index.to(int64)
    return ops.where(index < 0, index + size, index)


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """The slices ``indices`` (1-D) of ``x`` along ``axis``, which only a 1-D tensor may leave out; -1 is the last."""
    ndim = array("take", x).ndim
    if axis is None:
        if ndim != 1:
            raise ArgumentError(f"take: got a tensor of {ndim} dimensions and no axis: expected axis=")
        axis = 0
    axis = wrap("take", axis, ndim)
    index = _indices("take", indices, x.shape[axis])
    out = ops.index_select(x, axis, index.reshape(-1))
    return out if index.ndim == 1 else out.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """Elements of ``x`` whose place along ``axis`` is in ``indices``, which broadcasts with ``x`` elsewhere."""
    axis = wrap("take_along_axis", axis, array("take_along_axis", x).ndim)
    return ops.take_along_dim(x, _indices("take_along_axis", indices, x.shape[axis]), axis)
