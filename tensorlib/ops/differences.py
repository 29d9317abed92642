"""Differences and sums along one dimension: diff, gradient, the trapezoidal rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import wrap_dim
from tensorlib._samples import bools, draw, each, ints, values
from tensorlib.errors import ArgumentError, DimError, ShapeError
from tensorlib.op import composite
from tensorlib.ops._out import takes_out
from tensorlib.ops.joining import cat
from tensorlib.ops.reduction import _public_sum

_BOOL = np.dtype(np.bool_)


def _steps(x: Any, dim: int) -> tuple[Any, Any]:
    """(all but the last, all but the first) along ``dim``."""
    n = max(x._array.shape[dim] - 1, 0)
    return x.narrow(dim, 0, n), x.narrow(dim, x._array.shape[dim] - n, n)


@composite(
    samples=each(
        draw((3, 4)), draw((3, 4), 2, 0), draw((5,), n=0), draw((2,), 5), draw(bools(5)), draw(ints(4)),
        draw((3, 4), 1, 1, (3, 2), (3, 1)),
    )
)  # fmt: skip
@takes_out
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """input[i + 1] - input[i] along ``dim``, ``n`` times; of bool whether they differ.

    ``prepend`` and ``append`` are joined to input first. ShapeError for a 0-d tensor, ArgumentError for negative n.
    """
    x: Any = input
    if not x._array.ndim:
        raise ShapeError("diff: expects input to be at least one-dimensional")
    if n < 0:
        raise ArgumentError(f"diff: order must be non-negative but got {n}")
    dim = wrap_dim("diff", dim, x._array.ndim)
    if n == 0:
        return x.clone()  # type: ignore[no-any-return]
    ends = [t for t in (prepend, input, append) if t is not None]
    if len(ends) > 1:
        x = cat(ends, dim)
    for _ in range(min(n, x._array.shape[dim])):
        low, high = _steps(x, dim)
        x = high.logical_xor(low) if x._array.dtype == _BOOL else high - low
    return x  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------- trapezoidal rule


def _areas(name: str, y: Any, x: Any, dx: Any, dim: int) -> tuple[Any, int]:
    """Twice the area over each step, and the dimension."""
    if not y._array.ndim:
        raise DimError(f"{name}: dim {dim} was given but y has no dimensions: expected one at least")
    dim = wrap_dim(name, dim, y._array.ndim)
    if x is not None and dx is not None:
        raise TypeError(f"{name}(): give x or dx, not both")
    low, high = _steps(y, dim)
    if x is None:
        return (low + high) * (1 if dx is None else dx), dim
    along = dim
    if x._array.ndim == 1:
        shape = [1] * y._array.ndim
        shape[dim] = x._array.size
        x = x.reshape(tuple(shape))
    elif x._array.ndim < y._array.ndim:
        x = x.reshape((*(1,) * (y._array.ndim - x._array.ndim), *x._array.shape))
    else:
        along = dim + x._array.ndim - y._array.ndim
    if x._array.shape[along] != y._array.shape[dim]:
        raise ShapeError(
            f"{name}: There must be one `x` value for each sample point: got {x._array.shape[along]} for "
            f"{y._array.shape[dim]}"
        )
    before, after = _steps(x, along)
    return (low + high) * (after - before), along


_TRAPEZOIDS = each(
    draw((3, 4)), draw((3, 4), dx=0.5), draw((3, 4), values([0.0, 1, 3, 4])), draw((3, 4), values([0.0, 1, 3]), dim=0),
    draw((3, 4), (3, 4)), draw(ints(4)), draw((1,)), draw((2, 3, 4), (3, 4), dim=-2),
)  # fmt: skip


def _empty_rule(y: Any, dim: int) -> Any:
    shape = list(y._array.shape)
    del shape[dim]
    return y.new_zeros(tuple(shape))


@composite(on="function", alias=("trapz",), samples=_TRAPEZOIDS)
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """Σ (y[i] + y[i + 1]) / 2 · (x[i + 1] - x[i]) along ``dim``: the integral by the trapezoidal rule.

    x has the shape of y, or is 1-D; without it the points are ``dx`` (1) apart. Integers give floats.
    """
    if y._array.ndim and not y._array.shape[wrap_dim("trapezoid", dim, y._array.ndim)]:
        return _empty_rule(y, wrap_dim("trapezoid", dim, y._array.ndim))  # type: ignore[no-any-return]
    areas, along = _areas("trapezoid", y, x, dx, dim)
    return _public_sum(areas, along) / 2  # type: ignore[no-any-return]


@composite(on="function", samples=_TRAPEZOIDS)
def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The running integral by the trapezoidal rule, one value less than y has along ``dim``: see ``trapezoid``."""
    areas, along = _areas("cumulative_trapezoid", y, x, dx, dim)
    return areas.cumsum(along) / 2  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- central differences


def _weighted(x: Any, dim: int, places: tuple[int, int, int], weights: Any) -> Any:
    """Σ weight · x[place] along ``dim``, one wide."""
    return sum(w * x.narrow(dim, p % x._array.shape[dim], 1) for p, w in zip(places, weights, strict=True))


def _derivative(x: Any, dim: int, step: Any, edge_order: int) -> Any:
    """The derivative along ``dim``: ``step`` is the distance of neighbours, or a tensor of the points' coordinates."""
    n = x._array.shape[dim]
    if isinstance(step, Tensor) and step._array.ndim:
        h: Any = diff(step)
        h1, h2 = h[:-1], h[1:]
        shape = tuple([-1 if d == dim else 1 for d in range(x._array.ndim)])
        inner = [
            w.reshape(shape)
            for w in (-h2 / (h1 * (h1 + h2)), (h2 - h1) / (h1 * h2), h1 / (h2 * (h1 + h2)))
        ]  # fmt: skip
        first, last = h[0], h[-1]
        if edge_order == 2:
            a, b, c, d = h[0], h[1], h[-2], h[-1]
            head = (-(2 * a + b) / (a * (a + b)), (a + b) / (a * b), -a / (b * (a + b)))
            tail = (d / (c * (c + d)), -(d + c) / (c * d), (2 * d + c) / (d * (c + d)))
    else:
        first = last = step
        inner = [-0.5 / step, 0, 0.5 / step]
        head, tail = (-1.5 / step, 2 / step, -0.5 / step), (0.5 / step, -2 / step, 1.5 / step)
    if edge_order == 1:
        low = (x.narrow(dim, 1, 1) - x.narrow(dim, 0, 1)) / first
        high = (x.narrow(dim, n - 1, 1) - x.narrow(dim, n - 2, 1)) / last
    else:
        low, high = _weighted(x, dim, (0, 1, 2), head), _weighted(x, dim, (-3, -2, -1), tail)
    if n == 2:
        return cat([low, high], dim)
    before, here, after = (x.narrow(dim, k, n - 2) for k in range(3))
    if isinstance(step, Tensor) and step._array.ndim:
        middle = inner[0] * before + inner[1] * here + inner[2] * after
    else:
        middle = (after - before) / (2 * step)
    return cat([low, middle, high], dim)


@composite(
    on="function",
    samples=each(
        draw((5,)), draw((3, 4)), draw((3, 4), spacing=0.5), draw((3, 4), spacing=[0.5, 2.0], edge_order=2),
        draw((3, 4), dim=1), draw(ints(4)),
        draw((3, 4), edge_order=2), draw((2, 3, 4), dim=(0, 2)),
    ),
)  # fmt: skip
def gradient(
    input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1
) -> tuple[Tensor, ...]:  # fmt: skip
    """The derivative along each dimension of ``dim`` (None: all) by central differences, of second order inside.

    ``spacing``: a number for all dimensions, one for each, or a 1-D tensor of coordinates for each. At the ends the
    differences are one-sided, of order ``edge_order`` (1 or 2). ShapeError where a size is not above edge_order.
    """
    x: Any = input
    ndim = x._array.ndim
    dims = range(ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    at = [wrap_dim("gradient", d, ndim) for d in dims]
    if len(set(at)) < len(at):
        raise ShapeError(f"gradient: dim {dim} appears multiple times in the list of dims: name each once")
    spacing = 1 if spacing is None else spacing
    if edge_order not in (1, 2):
        raise ArgumentError(f"gradient: only supports edge_order=1 and edge_order=2, got {edge_order}")
    several = isinstance(spacing, Sequence)
    steps = list(spacing) if several else [spacing] * len(at)
    if several and len(steps) != len(at):
        raise ShapeError(
            f"gradient: expected spacing to be unspecified, a scalar, or a list of length equal to the number of "
            f"dimensions to differentiate, {len(at)}, but got {len(steps)}"
        )
    for d, step in zip(at, steps, strict=True):
        if x._array.shape[d] < edge_order + 1:
            raise ShapeError(
                f"gradient: expected each dimension size to be at least edge_order+1 = {edge_order + 1}, got "
                f"{tuple(x._array.shape)}"
            )
        if isinstance(step, Tensor) and step._array.ndim and step._array.shape != (x._array.shape[d],):
            raise ShapeError(
                f"gradient: expected one coordinate for each of the {x._array.shape[d]} points of dimension {d}, got "
                f"{tuple(step._array.shape)}"
            )
    return tuple([_derivative(x, d, step, edge_order) for d, step in zip(at, steps, strict=True)])
