"""Views: the same memory under another shape and strides. A rule on strides and a gradient each.

Nothing here copies, except ``reshape`` and ``flatten`` where strides allow no view. Writing into a view writes into
its base, whose history follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._array import DeviceArray
from tensorlib._core import KINDS, Tensor, listening
from tensorlib._dispatch import apply_view, as_int, as_ints, wrap_dim
from tensorlib._dtypes import OF_NUMPY, as_dtype
from tensorlib._dtypes import dtype as Dtype
from tensorlib._samples import draw, each, fails, transposed
from tensorlib._size import Size
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
    shape = _expand_shape(input, size)
    if isinstance(input, np.ndarray) and math.prod(shape) == input.size:  # nothing repeats, so that it can be written
        return input.reshape(shape)
    return _array.expand(input, shape)


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
    if type(input) is np.ndarray and input.flags.c_contiguous and (not shape or min(shape) > -2):
        return input.reshape(shape)  # never a copy, and three times as fast as with copy=False
    return input.reshape(_view_shape(input, shape), copy=False)


def _permutation(input: Any, dims: Any) -> tuple[int, ...]:
    """``dims`` counted from the front, or an error when they are not a permutation."""
    if len(dims) != input.ndim:
        raise ShapeError(
            f"permute: number of dimensions in the tensor input does not match the length of the desired ordering of "
            f"dimensions: {input.ndim} and {len(dims)} ({tuple(input.shape)} by {dims})"
        )
    n = input.ndim
    order = tuple([d if 0 <= d < n else wrap_dim("permute", d, n) for d in dims])
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
    if type(input) is np.ndarray and len(dims) == input.ndim:
        try:
            return input.transpose(dims)
        except ValueError:  # what is wrong with dims is said below
            pass
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
    return out if type(out) is np.ndarray or isinstance(out, (np.ndarray, DeviceArray)) else input[(*index, ...)]


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
    out: Tensor | None = _SLICE.quick(input, index)
    return apply_view(_SLICE, input, {"index": index}) if out is None else out


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


# ------------------------------------------------------------------------------------------------- diagonals, windows


def _memory(x: Any) -> tuple[int, int]:
    """(lowest address of an array's elements, address behind the highest)."""
    ptr = x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x.ptr
    if not x.size:
        return ptr, ptr
    steps = [(n - 1) * s * x.itemsize for n, s in zip(x.shape, _array.strides_of(x), strict=True)]
    return ptr + sum(s for s in steps if s < 0), ptr + sum(s for s in steps if s > 0) + x.itemsize


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
def _as_view(input: Tensor, *shape: Any, dtype: Any = None, size: Any = None) -> Tensor:
    """The view of another shape with the same elements, or the same bytes as another dtype: ``view(2, -1)``,
    ``view(int32)``.

    One size may be -1. ShapeError where strides allow no view; ``reshape`` then copies.
    """
    if size is not None:
        if shape or dtype is not None:
            raise TypeError(f"view(): expected sizes one by one, or `size` a sequence; got {shape} and {size!r}")
        shape = (size,)
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
    out: Tensor | None = _VIEW.quick(input, shape)
    return apply_view(_VIEW, input, {"shape": shape}) if out is None else out


# ------------------------------------------------------------------------------------------------------ by other names


@composite(samples=each(draw((3, 4), [2, -1]), draw((2, 3, 2), [6, 2]), draw((), [1, 1]), draw((0, 3), [3, 0])))
def reshape(input: Tensor, shape: Ints) -> Tensor:
    """The same elements in C order under another shape: a view where strides allow it, otherwise a copy.

    One size may be -1. ShapeError when the number of elements differs.
    """
    size = as_ints("reshape", "shape", shape)
    x = input._array
    try:
        out: Tensor | None = _VIEW.quick(input, size)
        if out is None and (type(x) is not np.ndarray or type(input) not in KINDS or listening[0]):
            out = apply_view(_VIEW, input, {"shape": size})
    except ShapeError:
        out = None
    if out is not None:
        return out
    size = _reshaped(x, size)  # raises where the sizes are wrong: the strides are what allows no view
    return _view(input.clone(), size)


def _reshaped(x: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return _view_shape(x, shape)
    except ShapeError as error:
        raise ShapeError(str(error).replace("view: ", "reshape: ", 1)) from None


@composite(on="method", samples=each(draw((3, 4), (2, 6)), draw((0, 4), (4, 0))))
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.view(other.shape)``."""
    return _view(input, other._array.shape)


@composite(on="method", samples=each(draw((3, 4), (2, 6)), draw(transposed(3, 4), (12,))))
def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.reshape(other.shape)``."""
    return reshape(input, other._array.shape)


@composite(on="method", samples=each(draw((3, 1), (3, 4)), draw((), (2, 2))))
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
def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that tensors of the given shapes have after broadcasting."""
    return Size(shape_of_all("broadcast_shapes", [as_ints("broadcast_shapes", "shapes", s) for s in shapes]))


def _several(tensors: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors


@composite(on="function", samples=each(draw((3, 1), (4,)), draw((2,), (2,)), draw((), (0, 2))))
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
    """input.reshape(-1), a copy unless input is contiguous."""
    return reshape(input.contiguous(), (-1,) if input._array.size else (0,))  # type: ignore[attr-defined]


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
    complex="own",
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


@composite(on="function", samples=each(draw(()), draw((3,)), draw((), (2,))))
def atleast_1d(*tensors: Tensor) -> Any:
    """Tensors with at least one dimension; several, or a list, give a tuple."""
    return _atleast("atleast_1d", tensors, lambda t: reshape(t, (1,)) if not t._array.ndim else t)


@composite(on="function", samples=each(draw(()), draw((3,)), draw((2, 3))))
def atleast_2d(*tensors: Tensor) -> Any:
    """Tensors with at least two dimensions, new ones in front; several, or a list, give a tuple."""

    def one(t: Tensor) -> Tensor:
        n = t._array.ndim
        return reshape(t, (1, 1)) if n == 0 else unsqueeze(t, 0) if n == 1 else t

    return _atleast("atleast_2d", tensors, one)


@composite(on="function", samples=each(draw(()), draw((3,)), draw((2, 3)), draw((2, 3, 4))))
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
