"""Views: the same memory under another shape and strides. A rule on strides and a gradient each.

Nothing here copies, except ``reshape`` and ``flatten`` where strides allow no view. Writing into a view writes into
its base, whose history follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._array import DeviceArray
from tensorlib._core import Tensor, View, listening, modes, observers, version_of, wrap
from tensorlib._dispatch import apply_view, as_int, as_ints, edge, make_node, sync, wrap_dim
from tensorlib._dtypes import OF_NUMPY, as_dtype
from tensorlib._dtypes import dtype as Dtype
from tensorlib._samples import draw, each, fails
from tensorlib.errors import DimError, ShapeError
from tensorlib.kernels import indexing as kernels
from tensorlib.op import Array, Dim, Dims, Ints, NewDim, composite, op, registry, view

# ------------------------------------------------------------------------------------------------------------ strides


@view(
    vjp=lambda g, dim0, dim1: g.transpose(dim0, dim1),
    on="function method",
    alias=("swapaxes", "swapdims"),
    samples=each(draw((3, 4), dim0=0, dim1=1), draw((2, 3, 4), dim0=-1, dim1=0), draw((2, 0, 4), dim0=1, dim1=2)),
    errors=[fails((3, 4), dim0=0, dim1=2, match="out of range", error=DimError)],
)
def transpose(input: Array, dim0: Dim, dim1: Dim):
    """The view with dimensions ``dim0`` and ``dim1`` interchanged. DimError out of range."""
    return input.swapaxes(dim0, dim1) if input.ndim else input[...]


def _expand_shape(input: Any, size: Any) -> tuple[int, ...]:
    lead = len(size) - input.ndim
    if lead < 0:
        raise ShapeError(
            f"expand: the number of sizes provided ({len(size)}) must be greater or equal to the number of dimensions "
            f"in the tensor ({input.ndim})"
        )
    out = []
    for d, n in enumerate(size):
        have = input.shape[d - lead] if d >= lead else None
        if n == -1:
            if have is None:
                raise ShapeError(f"expand: size -1 is not allowed for the new dimension {d} of {size}")
            n = have
        elif have is not None and have != n and have != 1:
            raise ShapeError(
                f"expand: The expanded size of the tensor ({n}) must match the existing size ({have}) at non-singleton "
                f"dimension {d}: {tuple(input.shape)} to {size}"
            )
        out.append(n)
    return tuple(out)


@view(
    vjp=lambda g, input_shape: g.sum_to_size(input_shape),
    on="method",
    samples=each(
        draw((3, 1), size=(3, 4)), draw((3, 1), size=(2, -1, 4)), draw((), size=(2, 2)), draw((1,), size=(0,))
    ),
    errors=[fails((3, 2), size=(3, 4), match="must match the existing size")],
)
def expand(input: Array, size: Ints):
    """The view in which dimensions of size 1 repeat to ``size``, with stride 0; -1 keeps a size."""
    return _array.expand(input, _expand_shape(input, size))


def _view_shape(input: Any, shape: Any) -> tuple[int, ...]:
    """``shape`` with -1 worked out, or a ShapeError."""
    n = 1
    free = None
    for d, s in enumerate(shape):
        if s == -1:
            if free is not None:
                raise ShapeError(f"view: only one dimension can be inferred, got {shape}")
            free = d
        elif s < 0:
            raise ShapeError(f"view: invalid shape dimension {s} in {shape}")
        else:
            n *= s
    size = input.size
    if free is not None and n and size % n == 0:
        return (*shape[:free], size // n, *shape[free + 1 :])
    if free is None and n == size:
        return shape
    raise ShapeError(f"view: shape '{list(shape)}' is invalid for input of size {size} (shape {tuple(input.shape)})")


def _view_spec(input: Any, shape: tuple[int, ...]) -> Any:
    _view_shape(input, shape)
    raise ShapeError(
        f"view: view size is not compatible with input tensor's size and stride {tuple(input.shape)} to {shape} "
        f"(at least one dimension spans across two contiguous subspaces). Use .reshape(...) instead."
    )


@view(
    spec=_view_spec,
    vjp=lambda g, input_shape: g.reshape(input_shape),
    name="view",
    on="method",
    samples=each(
        draw((3, 4), shape=(12,)), draw((2, 6), shape=(3, -1)), draw((), shape=(1, 1)), draw((0, 3), shape=(3, 0))
    ),
    errors=[fails((3, 4), shape=(5,), match="invalid for input of size 12")],
)
def _view(input: Array, shape: Ints):
    """The view of another shape with as many elements; one size may be -1. ShapeError where strides forbid it."""
    return input.reshape(_view_shape(input, shape), copy=False)


def _permutation(input: Any, dims: Any) -> tuple[int, ...]:
    """``dims`` counted from the front, or an error when they are not a permutation."""
    if len(dims) != input.ndim:
        raise ShapeError(
            f"permute: number of dimensions in the tensor input does not match the length of the desired ordering of "
            f"dimensions: {input.ndim} and {len(dims)} ({tuple(input.shape)} by {dims})"
        )
    order = tuple(wrap_dim("permute", d, input.ndim) for d in dims)
    if len(set(order)) != len(order):
        raise ShapeError(f"permute: duplicate dims are not allowed, got {dims}")
    return order


def _inverse(dims: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes one; negative dims count from the end."""
    out = [0] * len(dims)
    for i, d in enumerate(dims):
        out[d] = i
    return tuple(out)


@view(
    vjp=lambda g, dims: g.permute(_inverse(dims)),
    samples=each(
        draw((2, 3, 4), dims=(2, 0, 1)), draw((2, 3), dims=(-1, 0)), draw((), dims=()), draw((0, 3), dims=(1, 0))
    ),
    errors=[
        fails((2, 3), dims=(0, 0), match="duplicate dims"),
        fails((2, 3), dims=(0,), match="does not match the length"),
    ],
    alias=("permute_dims",),
)
def permute(input: Array, dims: Ints):
    """The view whose dimension i is dimension ``dims[i]`` of input."""
    return input.transpose(_permutation(input, dims))


@view(
    vjp=lambda g, input_shape: g.reshape(input_shape),
    samples=each(draw((3, 4), dim=0), draw((3, 4), dim=-1), draw((3, 4), dim=1), draw((), dim=0), draw((0,), dim=1)),
    errors=[fails((3,), dim=2, match="out of range", error=DimError)],
    alias=("expand_dims",),
)
def unsqueeze(input: Array, dim: NewDim):
    """The view with a dimension of size 1 inserted at ``dim``. DimError out of range."""
    return input[(slice(None),) * dim + (None,)]


@view(
    vjp=lambda g, input_shape: g.reshape(input_shape),
    samples=each(
        draw((1, 3, 1)),
        draw((1, 3, 1), dim=0),
        draw((1, 3, 1), dim=(0, 2)),
        draw((1, 3), dim=1),
        draw(()),
        draw((1, 0)),
    ),
    errors=[fails((1, 3), dim=2, match="out of range", error=DimError)],
)
def squeeze(input: Array, dim: Dims = None):
    """The view without those of the dimensions ``dim`` (None: all) that have size 1; others stay."""
    keep = [d for d, n in enumerate(input.shape) if n != 1 or d not in dim]  # type: ignore[operator]
    return input.reshape(tuple([input.shape[d] for d in keep]), copy=False)


# --------------------------------------------------------------------------------------------------------- basic index


def _slice_shape(input: Any, index: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape of ``input[index]``, or the error that every device gives."""
    taken = sum(1 for i in index if i is not None and i is not Ellipsis)
    if taken > input.ndim:
        raise DimError(f"index: too many indices for tensor of dimension {input.ndim}: got {taken}")
    if index.count(Ellipsis) > 1:
        raise DimError("index: an index can only have a single ellipsis ('...')")
    shape: list[int] = []
    d = 0
    for i in index if Ellipsis in index else (*index, Ellipsis):
        if i is None:
            shape.append(1)
        elif i is Ellipsis:
            rest = input.ndim - taken
            shape += input.shape[d : d + rest]
            d += rest
        elif isinstance(i, slice):
            shape.append(len(range(*i.indices(input.shape[d]))))
            d += 1
        else:
            n = input.shape[d]
            if not -n <= i < n:
                raise DimError(
                    f"index: index {i} is out of bounds for dimension {d} with size {n} (shape {tuple(input.shape)})"
                )
            d += 1
    return tuple(shape)


def _basic(input: Any, index: tuple[Any, ...]) -> Any:
    """input[index] as an array, also where NumPy would read a scalar."""
    out = input[index]
    return out if isinstance(out, (np.ndarray, DeviceArray)) else input[(*index, ...)]


@op(
    spec=lambda g, shape, index: (shape, g.dtype),
    kernel=kernels.slice_grad,
    vjp=lambda g, index: _slice(g, index),
    on="",
    samples=each(
        draw((3,), shape=(4, 3), index=(1,)), draw((2, 2), shape=(4, 3), index=(slice(0, 4, 2), slice(1, 3))),
        draw((), shape=(2,), index=(0,)), draw((1, 0, 3), shape=(4, 3), index=(None, slice(2, 2))),
    ),
)  # fmt: skip
def _slice_grad(g: Array, shape: Ints, index: Any):
    """Zeros of ``shape`` with g at ``index``: the gradient of a basic index."""
    out = np.zeros(shape, g.dtype)
    out[index] = g
    return out


@view(
    spec=_slice_shape,
    vjp=lambda g, input_shape, index: _slice_grad(g, input_shape, index),
    name="_slice",
    on="",
    samples=each(
        draw((3, 4), index=(1,)), draw((3, 4), index=(-1, 2)), draw((3, 4), index=(slice(None), slice(1, None, 2))),
        draw((3, 4), index=(Ellipsis, None, 1)), draw((), index=(None,)), draw((0, 3), index=(slice(None), 1)),
    ),
    errors=[
        fails((3, 4), index=(3,), match="index 3 is out of bounds for dimension 0 with size 3", error=DimError),
        fails((3,), index=(0, 0), match="too many indices", error=DimError),
    ],
)  # fmt: skip
def _slice(input: Array, index: Any):
    """input[index] for integers, slices, None and Ellipsis."""
    return _basic(input, index)


_SLICE = registry["_slice"]


def basic_index(input: Tensor, index: tuple[Any, ...]) -> Tensor:
    """The view ``input[index]`` for a tuple of integers, slices (of positive step), None and Ellipsis."""
    return apply_view(_SLICE, input, {"index": index})


def _bound(name: str, value: Any) -> int:
    """An integer that may come as a 0-d tensor."""
    return value if type(value) is int else as_int(name, "index", value)


@composite(samples=each(draw((2, 3, 4), 1, 2), draw((3, 4), -1, -4), draw((3,), 0, 1)))
def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """input[..., index, ...]: the view at one ``index`` of ``dim``, which disappears. DimError out of range."""
    x = input._array
    if not x.ndim:
        raise DimError("select: cannot be applied to a 0-dim tensor")
    dim, index = wrap_dim("select", dim, x.ndim), _bound("select", index)
    if not -x.shape[dim] <= index < x.shape[dim]:
        raise DimError(f"select: index {index} out of range for tensor of size {list(x.shape)} at dimension {dim}")
    return basic_index(input, (slice(None),) * dim + (index,))


@composite(samples=each(draw((2, 3, 4), 1, 1, 2), draw((3, 4), -1, -2, 1), draw((3,), 0, 3, 0)))
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """input[..., start : start + length, ...]: a view of ``length`` elements of ``dim``. An error outside."""
    x = input._array
    if not x.ndim:
        raise ShapeError("narrow: cannot be applied to a 0-dim tensor")
    dim, start, length = wrap_dim("narrow", dim, x.ndim), _bound("narrow", start), _bound("narrow", length)
    n = x.shape[dim]
    if length < 0:
        raise ShapeError(f"narrow: length must be non-negative, got {length}")
    if not -n <= start <= n:
        raise DimError(f"narrow: start out of range (expected to be in range of [{-n}, {n}], but got {start})")
    if start < 0:
        start += n
    if start + length > n:
        raise ShapeError(f"narrow: start ({start}) + length ({length}) exceeds dimension size ({n})")
    return basic_index(input, (slice(None),) * dim + (slice(start, start + length),))


# --------------------------------------------------------------------------------------------------------- many views


class _Parts:
    """The history of the parts of a tensor that was cut along one dimension."""

    name = "SplitBackward0"

    @staticmethod
    def backward(node: Any, grads: list[Any], create: bool) -> tuple[Any, ...]:
        """The gradients of the parts, put together again; zeros where none came."""
        dim, stacked = node.attrs
        if sum(g is not None for g in grads) == 1 and not stacked:  # one part used: no need for zeros in the others
            at = next(i for i, g in enumerate(grads) if g is not None)
            start = sum(shape[dim] for shape, _, _ in node.outputs[1][:at])
            shapes = [shape for shape, _, _ in node.outputs[1]]
            whole = (*shapes[0][:dim], sum(s[dim] for s in shapes), *shapes[0][dim + 1 :])
            return (_slice_grad(grads[at], whole, (slice(None),) * dim + (slice(start, start + shapes[at][dim]),)),)
        like = next(g for g in grads if g is not None)
        filled = [
            like.new_zeros(shape) if g is None else g for g, (shape, _, _) in zip(grads, node.outputs[1], strict=True)
        ]
        join = registry["stack" if stacked else "cat"].public
        return (join(filled, dim),)


def _parts(input: Tensor, dim: int, indices: Sequence[Any], stacked: bool = False) -> tuple[Tensor, ...]:
    """The views ``input[..., i, ...]`` for several basic indices of one dimension, sharing one Node.

    Together they must cover the dimension in order. Each is a view like any other: in-place writes reach the base.
    """
    sync(input)
    x = input._array
    before, view = (slice(None),) * dim, input._view
    base, steps = (input, ()) if view is None else (view.base, view.steps)
    counter = version_of(input)
    stamp = counter[0] if modes.grad else -1
    out = []
    for i in indices:
        attrs = {"index": (*before, i)}
        array = _basic(x, attrs["index"])
        t = wrap(array)
        t._version = counter
        t._view = View(base, (*steps, (_SLICE, attrs)), stamp)
        out.append(t)
        if listening[0]:
            for observe in observers:
                observe(_SLICE, (x,), attrs, (array,))
    if out and modes.grad and input._needs and x.dtype.kind not in "iub":
        node = make_node(_Parts, (edge(input),), None, (dim, stacked))
        device = _array.device_of(x)
        node.outputs = (None, tuple([(t._array.shape, x.dtype, device) for t in out]))
        for i, t in enumerate(out):
            t._node, t._index, t._needs = node, i, True
    return tuple(out)


@composite(samples=each(draw((2, 3)), draw((2, 3, 2), -1), draw((1,))))
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The views at each index of ``dim``, which disappears."""
    x = input._array
    if not x.ndim:
        raise DimError("unbind: dimension specified as 0 but tensor has no dimensions")
    dim = wrap_dim("unbind", dim, x.ndim)
    return _parts(input, dim, range(x.shape[dim]), stacked=True)


def _cuts(input: Tensor, dim: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Consecutive views of the given sizes."""
    at, slices = 0, []
    for n in sizes:
        slices.append(slice(at, at + n))
        at += n
    return _parts(input, dim, slices)


@composite(samples=each(draw((5, 2), [2, 0, 3]), draw((2, 4), [1, 3], -1)))
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive views along ``dim`` of the given sizes, which must sum to the size of the dimension."""
    x = input._array
    if not x.ndim:
        raise ShapeError("split: expects at least a 1-dimensional tensor")
    dim, sizes = wrap_dim("split", dim, x.ndim), as_ints("split", "split_sizes", split_sizes)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"split: expects split_sizes have only non-negative entries, got {list(sizes)}")
    if sum(sizes) != x.shape[dim]:
        raise ShapeError(
            f"split: expects split_sizes to sum exactly to {x.shape[dim]} (input tensor's size at dimension {dim}), "
            "but "
            f"got split_sizes={list(sizes)}"
        )
    return _cuts(input, dim, sizes)


@composite(samples=each(draw((5, 2), 2), draw((2, 4), [1, 3], -1), draw((0,), 2)))
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive views along ``dim``: of a size each (the last may be smaller), or of the sizes in a list."""
    if isinstance(split_size_or_sections, (list, tuple)):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    x = tensor._array
    if not x.ndim:
        raise ShapeError("split: expects at least a 1-dimensional tensor")
    size = _bound("split", split_size_or_sections)
    dim = wrap_dim("split", dim, x.ndim)
    n = x.shape[dim]
    if size < 0:
        raise ShapeError(f"split: expects split_size be non-negative, but got split_size={size}")
    if size == 0 and n:
        raise ShapeError(f"split: split_size can only be 0 if dimension size is 0, but got dimension size of {n}")
    count = max(-(-n // size), 1) if size else 1
    return _cuts(tensor, dim, [min(size, n - i * size) for i in range(count)])


@composite(alias=("unsafe_chunk",), samples=each(draw((5, 2), 3), draw((2, 4), 2, -1), draw((3,), 5)))
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` consecutive views along ``dim`` of ceil(n / chunks) each; the last may be smaller."""
    x = input._array
    if not x.ndim:
        raise ShapeError("chunk: expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise ShapeError(f"chunk: expects `chunks` to be greater than 0, got: {chunks}")
    dim = wrap_dim("chunk", dim, x.ndim)
    size = -(-x.shape[dim] // chunks)
    return _cuts(input, dim, [0] * chunks) if size == 0 else split(input, size, dim)


@composite(samples=each(draw((7, 2), 3), draw((2, 4), [1, 3], -1), draw((3,), [2, 1])))
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """NumPy's array_split: so many views of nearly equal size, or cuts before the given indices."""
    x = input._array
    if not x.ndim:
        raise ShapeError("tensor_split: expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    dim = wrap_dim("tensor_split", dim, x.ndim)
    n = x.shape[dim]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()  # type: ignore[attr-defined]
    if isinstance(indices_or_sections, (list, tuple)):
        cuts = [None, *[_bound("tensor_split", i) for i in indices_or_sections], None]
        slices = [slice(a, b) for a, b in pairwise(cuts)]
        spans = [range(n)[s] for s in slices]
        in_order = all(a.start <= a.stop == b.start for a, b in pairwise(spans))
        if in_order and spans[0].start == 0 and spans[-1].start <= spans[-1].stop == n:
            return _parts(input, dim, [slice(r.start, r.stop) for r in spans])
        return tuple([basic_index(input, (slice(None),) * dim + (s,)) for s in slices])
    sections = _bound("tensor_split", indices_or_sections)
    if sections <= 0:
        raise ShapeError(f"tensor_split: number of sections must be larger than 0, got {sections}")
    least, more = divmod(n, sections)
    return _cuts(input, dim, [least + 1] * more + [least] * (sections - more))


def _nsplit(name: str, input: Tensor, cuts: Any, dim: int, least: int) -> tuple[Tensor, ...]:
    x = input._array
    if x.ndim < least:
        raise ShapeError(f"{name}: requires a tensor with at least {least} dimension, but got a tensor with {x.ndim}")
    if not isinstance(cuts, (list, tuple, Tensor)) and (cuts <= 0 or x.shape[dim] % cuts):
        raise ShapeError(
            f"{name}: attempting to split along dimension {dim}, but its size {x.shape[dim]} is not divisible by the "
            f"split_size {cuts}"
        )
    return tensor_split(input, cuts, dim)


@composite(samples=each(draw((2, 4), 2), draw((4,), [1])))
def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal parts, or cuts, along dimension 1; along 0 for a 1-D tensor."""
    return _nsplit("hsplit", input, indices_or_sections, 0 if input._array.ndim == 1 else 1, 1)


@composite(samples=each(draw((4, 2), 2)))
def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal parts, or cuts, along dimension 0 of a tensor with at least two."""
    return _nsplit("vsplit", input, indices_or_sections, 0, 2)


@composite(samples=each(draw((1, 2, 4), 2)))
def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal parts, or cuts, along dimension 2 of a tensor with at least three."""
    return _nsplit("dsplit", input, indices_or_sections, 2, 3)


# ------------------------------------------------------------------------------------------------- diagonals, windows


def _diagonal_layout(input: Any, offset: int, dim1: int, dim2: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(shape, strides, offset) of a diagonal."""
    if dim1 == dim2:
        raise ShapeError(f"diagonal: diagonal dimensions cannot be identical {dim1}, {dim2}")
    strides = _array.strides_of(input)
    n1, n2 = input.shape[dim1], input.shape[dim2]
    n = max(min(n1, n2 - offset) if offset >= 0 else min(n1 + offset, n2), 0)
    start = 0 if n == 0 else offset * strides[dim2] if offset >= 0 else -offset * strides[dim1]
    rest = [d for d in range(input.ndim) if d not in (dim1, dim2)]
    shape = (*[input.shape[d] for d in rest], n)
    return shape, (*[strides[d] for d in rest], strides[dim1] + strides[dim2]), start


@view(
    vjp=lambda g, input_shape, offset, dim1, dim2: _diagonal_grad(g, input_shape, offset, dim1, dim2),
    samples=each(
        draw((3, 4)), draw((4, 3), offset=1), draw((3, 4), offset=-1), draw((2, 3, 4), offset=0, dim1=-1, dim2=0),
        draw((3, 3), offset=5), draw((0, 2)),
    ),
    errors=[
        fails((3, 4), dim1=1, dim2=1, match="cannot be identical"),
        fails((3,), match="out of range", error=DimError),
    ],
)  # fmt: skip
def diagonal(input: Array, offset: int = 0, dim1: Dim = 0, dim2: Dim = 1):
    """input[..., i, ..., i + offset, ...] over ``dim1`` and ``dim2``, as a new last dimension."""
    return _array.as_strided(input, *_diagonal_layout(input, offset, dim1, dim2))


@op(
    spec=lambda g, shape, offset, dim1, dim2: (shape, g.dtype),
    kernel=kernels.diagonal_grad,
    vjp=lambda g, offset, dim1, dim2: g.diagonal(offset, dim1, dim2),
    on="",
    samples=each(
        draw((3,), shape=(3, 4), offset=0, dim1=0, dim2=1), draw((3, 2), shape=(2, 3, 4), offset=-1, dim1=2, dim2=0)
    ),
)
def _diagonal_grad(g: Array, shape: Ints, offset: int, dim1: int, dim2: int):
    """Zeros of ``shape`` with g on the diagonal: the gradient of a diagonal."""
    out = np.zeros(shape, g.dtype)
    _array.as_strided(out, *_diagonal_layout(out, offset, dim1, dim2))[...] = g
    return out


@op(
    spec=lambda g, shape, size, stride, offset: (shape, g.dtype),
    kernel=kernels.as_strided_grad,
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

    Half types add up in float32. On a GPU places that repeat are added atomically, in no fixed order.
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
    return _array.as_strided(input, size, stride, offset)


def _memory(x: Any) -> tuple[int, int]:
    """(lowest address of an array's elements, address behind the highest)."""
    ptr = x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x.ptr
    if not x.size:
        return ptr, ptr
    steps = [(n - 1) * s * x.itemsize for n, s in zip(x.shape, _array.strides_of(x), strict=True)]
    return ptr + sum(s for s in steps if s < 0), ptr + sum(s for s in steps if s > 0) + x.itemsize


@composite()
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
            "are out "
            f"of bounds for the tensor's memory of {(high - low) // x.itemsize} elements"
        )
    if storage_offset is not None and root is not input and root._array.dtype == x.dtype and _contiguous(root):
        # From the whole memory: the gradient then reaches elements that input itself does not show.
        return _as_strided(root, size, stride, (start - low) // x.itemsize)
    if input._needs and modes.grad and not _contiguous(input):
        if not _contiguous(root) or root._array.dtype != x.dtype:
            raise ShapeError(
                "as_strided: the gradient needs a contiguous tensor or a view of one: call .contiguous() first"
            )
        return _as_strided(root, size, stride, (start - low) // x.itemsize)
    return _as_strided(input, size, stride, (start - here) // x.itemsize)


def _contiguous(t: Tensor) -> bool:
    return _array.is_contiguous(t._array)


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
    kernel=kernels.unfold_grad,
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

    On a GPU the windows that overlap are added atomically, in no fixed order.
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


# ----------------------------------------------------------------------------------------------------- another dtype


@view(
    name="_bits",
    on="",
    samples=each(draw((3, 4), dtype=np.dtype(np.int8)), draw((2, 3), dtype=np.dtype(np.uint8))),
)
def _bits(input: Array, dtype: Any):
    """The same bytes read as another dtype; the last dimension grows or shrinks where the sizes differ."""
    old, new = input.itemsize, dtype.itemsize
    if old == new:
        return input.view(dtype)
    names = f"to view {OF_NUMPY[input.dtype].name} as {OF_NUMPY[dtype].name} (different element sizes)"
    if not input.ndim:
        raise ShapeError(f"view: self.dim() cannot be 0 {names}")
    shape, strides = input.shape, _array.strides_of(input)
    if strides[-1] != 1 and shape[-1] != 1:
        raise ShapeError(f"view: self.stride(-1) must be 1 {names}, but got {strides[-1]}")
    if old > new:
        k = old // new
        shape, strides = (*shape[:-1], shape[-1] * k), (*[s * k for s in strides[:-1]], 1)
    else:
        k = new // old
        if shape[-1] % k:
            raise ShapeError(f"view: self.size(-1) must be divisible by {k} {names}, but got {shape[-1]}")
        for d, s in enumerate(strides[:-1]):
            if s % k:
                raise ShapeError(f"view: self.stride({d}) must be divisible by {k} {names}, but got {s}")
        if _memory(input)[0] % new:
            raise ShapeError(f"view: the first element must be aligned to {new} bytes {names}")
        shape, strides = (*shape[:-1], shape[-1] // k), (*[s // k for s in strides[:-1]], 1)
    if isinstance(input, np.ndarray):
        first = np.lib.stride_tricks.as_strided(input.view(f"V{old}"), (k if new > old else 1,), (old,))
        return _array.as_strided(first.view(dtype), shape, strides)
    return DeviceArray(input.ptr, shape, strides, dtype, input.device, input.owner)


_VIEW = registry["view"]


@composite(on="method", alias=("view",))
def _as_view(input: Tensor, *shape: Any, dtype: Any = None) -> Tensor:
    """The view of another shape with the same elements, or the same bytes as another dtype: ``view(2, -1)``,
    ``view(int32)``.

    One size may be -1. ShapeError where strides allow no view; ``reshape`` then copies.
    """
    if len(shape) == 1:
        first = shape[0]
        if type(first) is tuple or type(first) is list:
            shape = tuple(first)
        elif isinstance(first, (Dtype, np.dtype, type)):
            dtype = first
        elif type(first) is not int:
            shape = as_ints("view", "shape", first)
    if dtype is not None:
        return _bits(input, as_dtype(dtype).numpy)
    return apply_view(_VIEW, input, {"shape": shape})


# ------------------------------------------------------------------------------------------------------ by other names


@composite(samples=each(draw((3, 4), [2, -1]), draw((2, 3, 2), [6, 2]), draw((), [1, 1]), draw((0, 3), [3, 0])))
def reshape(input: Tensor, shape: Ints) -> Tensor:
    """The same elements in C order under another shape: a view where strides allow it, otherwise a copy.

    One size may be -1. ShapeError when the number of elements differs.
    """
    size = as_ints("reshape", "shape", shape)
    x = input._array
    try:
        return apply_view(_VIEW, input, {"shape": size})
    except ShapeError:
        size = _reshaped(x, size)  # raises where the sizes are wrong
        return _view(input.clone(), size)  # type: ignore[attr-defined]


def _reshaped(x: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return _view_shape(x, shape)
    except ShapeError as error:
        raise ShapeError(str(error).replace("view: ", "reshape: ", 1)) from None


@composite(on="method")
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.view(other.shape)``."""
    return _view(input, other._array.shape)


@composite(on="method")
def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.reshape(other.shape)``."""
    return reshape(input, other._array.shape)


@composite(on="method")
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.expand(other.shape)``."""
    return expand(input, other._array.shape)


@composite(samples=each(draw((3, 1), [2, 3, 4]), draw((), [2])))
def broadcast_to(input: Tensor, size: Ints) -> Tensor:
    """The view in which input repeats to ``size``, with stride 0."""
    return expand(input, size)


def shape_of_all(name: str, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The common broadcast shape, or a ShapeError that names both sizes."""
    out: list[int] = []
    for shape in shapes:
        lead = len(shape) - len(out)
        if lead > 0:
            out = [1] * lead + out
        for d, n in enumerate(shape, len(out) - len(shape)):
            if n != 1 and out[d] != n:
                if out[d] != 1:
                    raise ShapeError(
                        f"{name}: cannot broadcast {' and '.join(str(tuple(s)) for s in shapes)}: The size of tensor a "
                        f"({out[d]}) must match the size of tensor b ({n}) at non-singleton dimension {d}"
                    )
                out[d] = n
    return tuple(out)


@composite(on="function")
def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that tensors of the given shapes have after broadcasting."""
    return shape_of_all("broadcast_shapes", [as_ints("broadcast_shapes", "shapes", s) for s in shapes])


def _several(tensors: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors


@composite(on="function")
def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor as a view of the shape they have in common after broadcasting."""
    given = _several(tensors)
    shape = shape_of_all("broadcast_tensors", [t._array.shape for t in given])
    return tuple([expand(t, shape) for t in given])


@composite(samples=each(draw((2, 3, 4)), draw((2, 3, 4), 1), draw((2, 3, 4), 0, 1), draw(())))
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions ``start_dim`` … ``end_dim`` as one: a view where strides allow it, otherwise a copy."""
    x = input._array
    first, last = wrap_dim("flatten", start_dim, x.ndim), wrap_dim("flatten", end_dim, x.ndim)
    if first > last:
        raise ShapeError(f"flatten: start_dim cannot come after end_dim, got {start_dim} and {end_dim}")
    if not x.ndim:
        return _view(input, (1,))
    if first == last:
        return input
    shape = x.shape
    return reshape(input, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


@composite(samples=each(draw((2, 6), 1, [2, -1]), draw((4,), 0, [2, 2])))
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension ``dim`` split into dimensions of ``sizes``, one of which may be -1."""
    x = input._array
    dim, sizes = wrap_dim("unflatten", dim, x.ndim), as_ints("unflatten", "sizes", sizes)
    n = x.shape[dim] if x.ndim else 1
    known = math.prod(s for s in sizes if s != -1)
    if not sizes:
        raise ShapeError("unflatten: sizes must be non-empty")
    fits = known == n if -1 not in sizes else sizes.count(-1) == 1 and known > 0 and n % known == 0
    if not fits:
        raise ShapeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {dim} ({n}) in the input "
            f"tensor {tuple(x.shape)}"
        )
    filled = tuple([n // known if s == -1 else s for s in sizes])
    return reshape(input, (*x.shape[:dim], *filled, *x.shape[dim + 1 :]))


@composite(samples=each(draw((2, 3)), draw(())))
def ravel(input: Tensor) -> Tensor:
    """input.reshape(-1)."""
    return reshape(input, (-1,) if input._array.size else (0,))


@composite(samples=each(draw((2, 3)), draw((3,))))
def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; tensors of fewer dimensions as they are."""
    n = input._array.ndim
    if n > 2:
        raise ShapeError(
            f"t: expects a tensor with <= 2 dimensions, but self is {n}D: use .mT or transpose(dim0, dim1)"
        )
    return transpose(input, 0, 1) if n == 2 else basic_index(input, (Ellipsis,))


@composite(alias=("moveaxis",), samples=each(draw((2, 3, 4), 0, -1), draw((2, 3, 4), [0, 1], [2, 0])))
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """The view with dimensions ``source`` moved to ``destination``, the others in their order."""
    n = input._array.ndim
    pairs = []
    for name, dims in (("source", source), ("destination", destination)):
        given = as_ints("movedim", name, dims)
        wrapped = [wrap_dim("movedim", d, n) for d in given]
        if len(set(wrapped)) != len(wrapped):
            raise ShapeError(f"movedim: repeated dim in `{name}` ({list(given)})")
        pairs.append(wrapped)
    if len(pairs[0]) != len(pairs[1]):
        raise ShapeError(
            f"movedim: Invalid source or destination dims: source ({pairs[0]} dims) should contain the same number "
            "of dims "
            f"as destination ({pairs[1]} dims)"
        )
    order = [d for d in range(n) if d not in pairs[0]]
    for to, d in sorted(zip(pairs[1], pairs[0], strict=True)):
        order.insert(to, d)
    return permute(input, tuple(order[:n]))


@op(
    spec=lambda input: (input.shape, input.dtype),
    vjp=lambda g: _conjugate(g),
    on="",
    samples=each(draw((2, 3)), draw(()), draw((0,))),
)
def _conjugate(input: Array):
    """The complex conjugate, elementwise. Complex tensors are on the CPU only."""
    return np.conjugate(input)


def _adjoint(input: Tensor) -> Tensor:
    out = transpose(input, -2, -1)
    return _conjugate(out) if input._array.dtype.kind == "c" else out


@composite(samples=each(draw((2, 3)), draw((2, 2, 3))))
def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions transposed, complex numbers conjugated."""
    if input._array.ndim < 2:
        raise ShapeError(
            f"adjoint: is only supported on matrices or batches of matrices. Got {input._array.ndim}-D tensor."
        )
    return _adjoint(input)


def _atleast(name: str, tensors: tuple[Any, ...], one: Callable[[Tensor], Tensor]) -> Any:
    given = _several(tensors)
    if len(given) == 1 and tensors and isinstance(tensors[0], Tensor):
        return one(given[0])
    return tuple([one(t) for t in given])


@composite(on="function")
def atleast_1d(*tensors: Tensor) -> Any:
    """Tensors with at least one dimension; several, or a list, give a tuple."""
    return _atleast("atleast_1d", tensors, lambda t: reshape(t, (1,)) if not t._array.ndim else t)


@composite(on="function")
def atleast_2d(*tensors: Tensor) -> Any:
    """Tensors with at least two dimensions, new ones in front; several, or a list, give a tuple."""

    def one(t: Tensor) -> Tensor:
        n = t._array.ndim
        return reshape(t, (1, 1)) if n == 0 else unsqueeze(t, 0) if n == 1 else t

    return _atleast("atleast_2d", tensors, one)


@composite(on="function")
def atleast_3d(*tensors: Tensor) -> Any:
    """Tensors with at least three dimensions: (n,) becomes (1, n, 1), (m, n) becomes (m, n, 1)."""

    def one(t: Tensor) -> Tensor:
        n = t._array.ndim
        if n == 0:
            return reshape(t, (1, 1, 1))
        return unsqueeze(unsqueeze(t, 0), -1) if n == 1 else unsqueeze(t, -1) if n == 2 else t

    return _atleast("atleast_3d", tensors, one)


def _T(self: Tensor) -> Tensor:
    """The dimensions in reverse order: the transpose of a matrix."""
    n = self._array.ndim
    return transpose(self, 0, 1) if n == 2 else permute(self, tuple(range(n))[::-1])


def _mT(self: Tensor) -> Tensor:
    """The last two dimensions transposed."""
    if self._array.ndim < 2:
        raise ShapeError(f"mT: is only supported on matrices or batches of matrices. Got {self._array.ndim}-D tensor.")
    return transpose(self, -2, -1)


def _mH(self: Tensor) -> Tensor:
    """The last two dimensions transposed, complex numbers conjugated."""
    if self._array.ndim < 2:
        raise ShapeError(f"mH: is only supported on matrices or batches of matrices. Got {self._array.ndim}-D tensor.")
    return _adjoint(self)


def _H(self: Tensor) -> Tensor:
    """The transpose of a matrix, complex numbers conjugated."""
    if self._array.ndim != 2:
        raise ShapeError(
            f"H: is only supported on matrices (2-D tensors). Got {self._array.ndim}-D tensor. For batches of "
            "matrices, "
            f"consider using mH"
        )
    return _adjoint(self)


#: What Tensor has as properties.
PROPERTIES: dict[str, Callable[[Tensor], Tensor]] = {"T": _T, "mT": _mT, "mH": _mH, "H": _H}
