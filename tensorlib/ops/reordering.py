"""The same elements in another order, or several times: copies, as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import as_int, as_ints, wrap_dim, wrap_dims
from tensorlib._dtypes import OF_NUMPY
from tensorlib._samples import draw, each, ints, transposed
from tensorlib.errors import DimError, DtypeError, ShapeError
from tensorlib.kernels import prefix
from tensorlib.kernels import reordering as kernels
from tensorlib.op import Array, Ints, composite, op
from tensorlib.ops import views
from tensorlib.ops.create import sizes_given
from tensorlib.ops.indexing import INTEGERS, _index, numbers, with_dimension


@op(
    bench=[draw((4096, 4096), dims=(1,))],
    spec=lambda input, dims: (input.shape, input.dtype),
    kernel=kernels.flip,
    vjp=lambda g, dims: _flip(g, dims),
    on="",
    samples=each(
        draw((3, 4), dims=(0,)), draw((3, 4), dims=(1, 0)), draw((2, 3, 4), dims=(1,)), draw((0, 2), dims=(0,)),
        draw((), dims=()), draw(transposed(3, 4), dims=(1,)), draw((2, 700), dims=(1,)),
    ),
)  # fmt: skip
def _flip(input: Array, dims: Any):
    """input with ``dims`` in reverse order, as a copy."""
    return np.array(
        input[tuple([slice(None, None, -1) if d in dims else slice(None) for d in range(input.ndim)])], order="C"
    )


@composite(samples=each(draw((3, 4), [0]), draw((2, 3, 4), [0, -1]), draw((3, 4), [])))
def flip(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """input with the dimensions ``dims`` in reverse order, as a copy. DimError out of range or named twice."""
    sizes = sizes_given("flip", args, dims, "dims")
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    return _flip(input, wrap_dims("flip", tuple(given), input._array.ndim) if given else ())


@composite(samples=each(draw((3, 4))))
def fliplr(input: Tensor) -> Tensor:
    """input with its columns in reverse order: ``flip(1)``."""
    if input._array.ndim < 2:
        raise ShapeError(f"fliplr: Input must be >= 2-d, got {tuple(input.shape)}")
    return flip(input, 1)


@composite(samples=each(draw((3, 4))))
def flipud(input: Tensor) -> Tensor:
    """input with its rows in reverse order: ``flip(0)``."""
    if input._array.ndim < 1:
        raise ShapeError(f"flipud: Input must be >= 1-d, got {tuple(input.shape)}")
    return flip(input, 0)


@op(
    bench=[draw((4096, 4096), shifts=(5,), dims=(1,))],
    spec=lambda input, shifts, dims: (input.shape, input.dtype),
    kernel=kernels.roll,
    vjp=lambda g, shifts, dims: _roll(g, tuple([-n for n in shifts]), dims),
    on="",
    samples=each(
        draw((3, 4), shifts=(1,), dims=(0,)), draw((3, 4), shifts=(-1, 5), dims=(0, 1)),
        draw((0, 3), shifts=(1,), dims=(0,)),
        draw(transposed(3, 4), shifts=(2,), dims=(1,)), draw((5,), shifts=(0,), dims=(0,)),
    ),
)  # fmt: skip
def _roll(input: Array, shifts: Ints, dims: Any):
    """input moved by ``shifts`` along ``dims``, each named once; what leaves at one end comes in at the other."""
    return np.ascontiguousarray(np.roll(input, shifts, dims))


@composite(samples=each(draw((3, 4), 1), draw((3, 4), [1, -2], [0, 1]), draw((5,), [3, 4], [0, 0])))
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """input moved by ``shifts`` along ``dims`` (None: flattened); what leaves at one end comes in at the other."""
    by = as_ints("roll", "shifts", shifts)
    if dims is None or (isinstance(dims, (tuple, list)) and not dims):
        if len(by) != 1:
            raise ShapeError(f"roll: shifts and dims must align. shifts: {len(by)}, dims: 0")
        flat = _roll(views.reshape(input, (input._array.size,)), by, (0,))
        return views.reshape(flat, input._array.shape)
    if not input._array.ndim:
        raise DimError(f"roll: Dimension specified as {dims} but tensor has no dimensions")
    at = tuple([wrap_dim("roll", d, input._array.ndim) for d in as_ints("roll", "dims", dims)])
    if len(at) != len(by):
        raise ShapeError(f"roll: shifts and dimensions must align. shifts: {len(by)}, dims:{len(at)}")
    once: dict[int, int] = {}
    for d, n in zip(at, by, strict=True):
        once[d] = once.get(d, 0) + n
    return _roll(input, tuple(once.values()), tuple(once))


@composite(samples=each(draw((3, 4)), draw((3, 4), 2), draw((2, 3, 4), 3, [1, 2])))
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """input turned ``k`` times by 90 degrees from the first of ``dims`` towards the second."""
    n = input._array.ndim
    if len(dims) != 2:
        raise ShapeError(f"rot90: expected total rotation dims == 2, but got dims = {len(dims)}")
    if n < 2:
        raise ShapeError(f"rot90: expected total dims >= 2, but got total dims = {n}")
    a, b = (wrap_dim("rot90", d, n) for d in dims)
    if a == b:
        raise ShapeError(
            f"rot90: expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}"
        )
    k %= 4
    if k == 0:
        return input.clone()
    if k == 2:
        return flip(input, (a, b))
    return views.transpose(flip(input, b), a, b) if k == 1 else flip(views.transpose(input, a, b), b)


# ---------------------------------------------------------------------------------------------------------- repetition


def _repeated(name: str, input: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """input repeated ``sizes[d]`` times along each dimension d, new dimensions in front."""
    shape = (1,) * (len(sizes) - input._array.ndim) + tuple(input._array.shape)
    if any(r < 0 for r in sizes):
        raise ShapeError(f"{name}: trying to create tensor with negative dimension: repeats {sizes}")
    if not shape:
        return input.clone()
    apart: list[int] = []
    wide: list[int] = []
    for r, n in zip(sizes, shape, strict=True):
        apart += (1, n)
        wide += (r, n)
    spread = views.expand(views.reshape(input, tuple(apart)), tuple(wide)).clone()
    return views.reshape(spread, tuple([r * n for r, n in zip(sizes, shape, strict=True)]))


@composite(on="method", samples=each(draw((2, 3), 2, 1), draw((3,), 2, 2), draw((), 3), draw((2,), 0)))
def repeat(input: Tensor, *args: Any, repeats: Any = None) -> Tensor:
    """A copy with input repeated ``repeats[d]`` times along each dimension; more repeats make dimensions in front."""
    given = sizes_given("repeat", args, repeats, "repeats")
    sizes = as_ints("repeat", "repeats", given[0] if len(given) == 1 else given)
    if len(sizes) < input._array.ndim:
        raise ShapeError(
            "repeat: Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor: "
            f"{sizes} for "
            f"shape {tuple(input._array.shape)}"
        )
    return _repeated("repeat", input, sizes)


@composite(samples=each(draw((2, 3), [2]), draw((3,), [2, 2]), draw((), [2])))
def tile(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """A copy with input repeated ``dims[d]`` times along each dimension; missing ones in front count 1."""
    given = sizes_given("tile", args, dims, "dims")
    sizes = as_ints("tile", "dims", given[0] if len(given) == 1 else given)
    return _repeated("tile", input, (1,) * (input._array.ndim - len(sizes)) + sizes)


@op(
    dynamic=True,
    kernel=prefix.repeat_index,
    on="",
    samples=each(
        draw(ints(5, high=4), output_size=None), draw(numbers([2, 0, 1]), output_size=3),
        draw(ints(0), output_size=None),
        draw(numbers([200, 1], "int32"), output_size=None),
    ),
)  # fmt: skip
def _repeat_index(repeats: Array, output_size: Any):
    """[0] * repeats[0] + [1] * repeats[1] + …, int64."""
    return np.repeat(np.arange(repeats.size), repeats)


@composite(
    samples=each(draw((2, 3), 2), draw((2, 3), 2, 1), draw((2, 3), ints(3, high=3), 1), draw((2, 3), numbers([2]), 0))
)
def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element along ``dim`` (None: flattened) repeated ``repeats`` times: a number, or one for each element.

    ``repeat_interleave(repeats)`` gives the indices alone. The length of a result with a tensor of repeats is read on
    the host, unless ``output_size`` names it.
    """
    if repeats is None:
        repeats, input = input, None  # type: ignore[assignment]
    if input is not None and dim is not None and not input._array.ndim and (isinstance(repeats, Tensor) or dim != -1):
        raise DimError(f"repeat_interleave: Dimension specified as {dim} but tensor has no dimensions")
    if not isinstance(repeats, Tensor):
        times = as_int("repeat_interleave", "repeats", repeats)
        if times < 0:
            raise ShapeError(f"repeat_interleave: Repeats must be non-negative, got {times}")
        x = views.reshape(input, (input._array.size,)) if dim is None else with_dimension(input)
        d = 0 if dim is None else wrap_dim("repeat_interleave", dim, x._array.ndim)
        shape = x._array.shape
        wide = views.expand(views.unsqueeze(x, d + 1), (*shape[: d + 1], times, *shape[d + 1 :]))
        copied = wide.clone()
        return views.reshape(copied, (*shape[:d], shape[d] * times, *shape[d + 1 :]))
    counts = repeats._array
    if counts.dtype not in INTEGERS:
        raise DtypeError(f"repeat_interleave: repeats has to be int32 or int64, got {OF_NUMPY[counts.dtype]}")
    if counts.ndim > 1:
        raise ShapeError(
            f"repeat_interleave: only accepts a 0-dim or 1-dim vector as repeats, got {tuple(counts.shape)}"
        )
    if type(counts) is np.ndarray and counts.size and counts.min() < 0:
        raise ShapeError("repeat_interleave: repeats can not be negative")
    if input is None:
        return _repeat_index(with_dimension(repeats), output_size)
    x = views.reshape(input, (input._array.size,)) if dim is None else with_dimension(input)
    d = 0 if dim is None else wrap_dim("repeat_interleave", dim, x._array.ndim)
    n = x._array.shape[d]
    each_one = views.expand(views.reshape(repeats, (1,)), (n,)) if counts.size == 1 else repeats
    if each_one._array.shape != (n,):
        raise ShapeError(
            "repeat_interleave: repeats must have the same size as input along dim, but got repeats.size(0) = "
            f"{counts.size} "
            f"and input.size({d}) = {n}"
        )
    return _index(x, [_repeat_index(each_one, output_size)], (d,))
