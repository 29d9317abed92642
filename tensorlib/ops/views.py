"""Views: the same memory under another shape and strides. A rule on strides and a gradient each."""

from __future__ import annotations

from typing import Any

from tensorlib import _array
from tensorlib._samples import draw, each, fails
from tensorlib.errors import DimError, ShapeError
from tensorlib.op import Array, Dim, Ints, view


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


def _expand_shape(input: Any, size: tuple[int, ...]) -> tuple[int, ...]:
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
    samples=each(draw((3, 1), size=(3, 4)), draw((3, 1), size=(2, -1, 4)), draw((), size=(2, 2)), draw((1,), size=(0,))),
    errors=[fails((3, 2), size=(3, 4), match="must match the existing size")],
)
def expand(input: Array, size: Ints):
    """The view in which dimensions of size 1 repeat to ``size``, with stride 0; -1 keeps a size."""
    return _array.expand(input, _expand_shape(input, size))


def _view_shape(input: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
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
    samples=each(draw((3, 4), shape=(12,)), draw((2, 6), shape=(3, -1)), draw((), shape=(1, 1)), draw((0, 3), shape=(3, 0))),
    errors=[fails((3, 4), shape=(5,), match="invalid for input of size 12")],
)
def _view(input: Array, shape: Ints):
    """The view of another shape with the same number of elements; one size may be -1. ShapeError where strides forbid it."""
    return input.reshape(_view_shape(input, shape), copy=False)
