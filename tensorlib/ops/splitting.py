"""Splitting: the parts of a tensor along one dimension, as views that share one Node."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tensorlib import _array
from tensorlib._core import Tensor, View, listening, modes, observers, version_of, wrap
from tensorlib._dispatch import as_ints, edge, make_node, sync, wrap_dim
from tensorlib._samples import draw, each
from tensorlib.errors import DimError, ShapeError
from tensorlib.op import composite, registry
from tensorlib.ops._out import also_named
from tensorlib.ops.views import _SLICE, _basic, _bound, _slice_grad, basic_index


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
        t._writes = counter
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


@composite(alias=("unsafe_split_with_sizes",), samples=each(draw((5, 2), [2, 0, 3]), draw((2, 4), [1, 3], -1)))
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


@composite(on="function", samples=each(draw((5, 2), 2), draw((2, 4), [1, 3], -1), draw((0,), 2)))
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


@composite(samples=each(draw((5, 2), 2), draw((2, 4), 3, -1)))
def unsafe_split(input: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """``split`` by size; here the parts stay safe to write into."""
    return split(input, split_size, dim)


@composite(samples=each(draw((7, 2), 3), draw((2, 4), [1, 3], -1), draw((3,), [2, 1])))
@also_named(
    indices="indices_or_sections", sections="indices_or_sections", tensor_indices_or_sections="indices_or_sections"
)  # fmt: skip
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """NumPy's array_split: so many views of nearly equal size, or cuts before the given indices."""
    x = input._array
    if not x.ndim:
        raise ShapeError("tensor_split: expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    dim = wrap_dim("tensor_split", dim, x.ndim)
    n = x.shape[dim]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
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
@also_named(indices="indices_or_sections", sections="indices_or_sections")
def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal parts, or cuts, along dimension 1; along 0 for a 1-D tensor."""
    return _nsplit("hsplit", input, indices_or_sections, 0 if input._array.ndim == 1 else 1, 1)


@composite(samples=each(draw((4, 2), 2)))
@also_named(indices="indices_or_sections", sections="indices_or_sections")
def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal parts, or cuts, along dimension 0 of a tensor with at least two."""
    return _nsplit("vsplit", input, indices_or_sections, 0, 2)


@composite(samples=each(draw((1, 2, 4), 2)))
@also_named(indices="indices_or_sections", sections="indices_or_sections")
def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal parts, or cuts, along dimension 2 of a tensor with at least three."""
    return _nsplit("dsplit", input, indices_or_sections, 2, 3)
