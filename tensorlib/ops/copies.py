"""Copies where others are views: ``view_copy`` and its kin, and tensors with one part of them replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib._dispatch import wrap_dim
from tensorlib._dtypes import dtype as Dtype
from tensorlib._samples import draw, each, ints, values, without_gradient
from tensorlib.autograd.batched import with_batches
from tensorlib.errors import ShapeError
from tensorlib.op import composite
from tensorlib.ops import complex_numbers, splitting, strided, triangles, views
from tensorlib.ops._out import takes_out


def _slice(input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """input[..., start : end : step, ...] over ``dim``."""
    at = wrap_dim("slice", dim, input._array.ndim)
    return views.basic_index(input, (slice(None),) * at + (slice(start, end, step),))


def _alias(input: Tensor) -> Tensor:
    """All of input."""
    return views.basic_index(input, (Ellipsis,))


def _detach(input: Tensor) -> Tensor:
    """input without its history."""
    return input.detach()  # type: ignore[attr-defined, no-any-return]


def _expand(input: Tensor, size: Any) -> Tensor:
    """input repeated to ``size``."""
    return views.expand(input, size)  # type: ignore[no-any-return]


def _split(input: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive parts of a size, the last may be smaller."""
    return splitting.split(input, split_size, dim)  # type: ignore[no-any-return]


def _view(input: Tensor, size: Any = None, *, dtype: Any = None) -> Tensor:
    """input under another shape, or its bytes as another dtype."""
    if dtype is not None or isinstance(size, Dtype):
        return views._as_view(input, size if dtype is None else dtype)  # type: ignore[no-any-return]
    return views.reshape(input, size)  # it copies anyhow


def _unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """All windows of ``size`` along ``dimension``, every ``step``."""
    return strided.unfold(input, dimension, size, step)  # type: ignore[no-any-return]


def _declare_copy(name: str, viewed: Callable[..., Any], samples: Any) -> Callable[..., Any]:
    """``name``: what a view shows, in memory of its own; several views give a tuple."""

    def copy(*args: Any, **kwargs: Any) -> Any:
        out = viewed(*args, **kwargs)
        return tuple([t.clone() for t in out]) if isinstance(out, tuple) else out.clone()

    copy.__name__ = copy.__qualname__ = name
    copy.__doc__ = f"A copy, in memory of its own, of what ``{name.removesuffix('_copy')}`` shows as a view."
    copy.__signature__ = inspect.signature(viewed)  # type: ignore[attr-defined]
    copy.__module__ = __name__
    return composite(on="function", samples=samples)(takes_out(copy))


_COPIES: dict[str, tuple[Callable[..., Any], Any]] = {
    "alias": (_alias, each(draw((2, 3)))),
    "as_strided": (strided.as_strided, each(draw((12,), (3, 2), (4, 1)))),
    "detach": (_detach, each(draw(ints(2, 3)))),
    "diagonal": (triangles.diagonal, each(draw((3, 4)), draw((2, 3, 4), offset=1, dim1=1, dim2=2))),
    "expand": (_expand, each(draw((3, 1), [3, 4]))),
    "permute": (views.permute, each(draw((2, 3, 4), [2, 0, 1]))),
    "select": (views.select, each(draw((2, 3), 1, -1))),
    "slice": (_slice, each(draw((5, 3), 0, 1, 5, 2), draw((2, 3), 1, None, -1))),
    "split": (_split, each(draw((5, 2), 2))),
    "split_with_sizes": (splitting.split_with_sizes, each(draw((5, 2), [2, 3]))),
    "squeeze": (views.squeeze, each(draw((1, 3, 1)), draw((1, 3, 1), 0))),
    "t": (views.t, each(draw((2, 3)))),
    "transpose": (views.transpose, each(draw((2, 3), 0, 1))),
    "unbind": (splitting.unbind, each(draw((2, 3)), draw((2, 3), 1))),
    "unfold": (_unfold, each(draw((6,), 0, 3, 1))),
    "unsqueeze": (views.unsqueeze, each(draw((2, 3), 1))),
    "view": (_view, each(draw((2, 6), [3, -1]))),
    "view_as_complex": (
        complex_numbers.view_as_complex, each(draw(without_gradient(values([[1.0, 2.0], [-0.5, 0.25]], "float32"))))
    ),
    "view_as_real": (complex_numbers.view_as_real, each(draw((3,)))),
}
for _name, (_viewed, _samples) in _COPIES.items():
    globals()[f"{_name}_copy"] = _declare_copy(f"{_name}_copy", _viewed, _samples)


@composite(samples=each(draw((2, 3, 4), 1, 1, 2), draw((3, 4), -1, -2, 1)))
@takes_out
def narrow_copy(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """A copy, in memory of its own, of what ``narrow`` shows as a view."""
    return views.narrow(input, dim, start, length).clone()  # type: ignore[attr-defined, no-any-return]


# ------------------------------------------------------------------------------------------------- one part replaced


def _replaced(name: str, input: Tensor, src: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    out: Any = with_batches(input.clone(), src)  # type: ignore[attr-defined]
    target: Any = part(out)
    if target._array.shape != src._array.shape:
        raise ShapeError(
            f"{name}: expected src to have a size equal to the slice of self. src size = {list(src._array.shape)}, "
            f"slice size = {list(target._array.shape)}"
        )
    target.copy_(src)
    return out  # type: ignore[no-any-return]


@composite(samples=each(draw((3, 4), (4,), 0, 1), draw((2, 3, 4), (2, 4), -2, -1)))
@takes_out
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of input with ``src`` at ``index`` of ``dim``. ShapeError where src has another shape than that part."""
    return _replaced("select_scatter", input, src, lambda t: views.select(t, dim, index))


@composite(
    samples=each(
        draw((5, 2), (2, 2), start=3), draw((2, 6), (2, 2), 1, 1, 5, 2), draw((2, 3), (2, 3)),
        draw((4, 2), (3, 2), 0, 0, -1),
    )
)  # fmt: skip
@takes_out
def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy of input with ``src`` at ``start : end : step`` of ``dim``. ShapeError where src has another shape."""
    return _replaced("slice_scatter", input, src, lambda t: _slice(t, dim, start, end, step))


@composite(samples=each(draw((3, 4), (3,)), draw((3, 3), (2,), 1), draw((2, 3, 4), (2, 3), 0, 1, 2)))
@takes_out
def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of input with ``src`` on its diagonal. ShapeError where src has another shape than the diagonal."""
    return _replaced("diagonal_scatter", input, src, lambda t: triangles.diagonal(t, offset, dim1, dim2))


@composite(
    samples=each(
        draw((3, 3), (2, 2), [2, 2], [1, 2]), draw(ints(3, 3), ints(2, 2), [2, 2], [1, 2]),
        draw(ints(12), ints(3, 2), [3, 2], [4, 1], 1),
    )
)  # fmt: skip
@takes_out
def as_strided_scatter(
    input: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A copy of input with ``src`` where ``as_strided`` looks. ShapeError where src is not of ``size``."""
    return _replaced("as_strided_scatter", input, src, lambda t: strided.as_strided(t, size, stride, storage_offset))
