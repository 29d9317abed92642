"""Joining tensors, and putting borders around them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor, wrap
from tensorlib._dispatch import as_ints, wrap_dim
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import PROMOTE, default_dtype, result_dtype
from tensorlib._samples import draw, each, fails, ints, transposed, values
from tensorlib.errors import ArgumentError, DimError, DtypeError, ShapeError, UnsupportedError
from tensorlib.kernels import joining as kernels
from tensorlib.op import Array, Arrays, Ints, NewDim, Scalar, composite, op, registry
from tensorlib.ops._out import takes_out


def _is_legacy(shape: Sequence[int]) -> bool:
    """An empty 1-D tensor may be joined to anything, for history's sake."""
    return tuple(shape) == (0,)


def _cat_dim(shapes: Sequence[Sequence[int]], dim: int) -> int:
    """``dim`` counted from the front, for the tensors that count."""
    return wrap_dim("cat", dim, len(next((s for s in shapes if not _is_legacy(s)), (0,))))


def _cat_spec(tensors: Sequence[Any], dim: int) -> Any:
    if not tensors:
        raise ArgumentError("cat: expected a non-empty list of Tensors")
    for i, x in enumerate(tensors):
        if not x.ndim:
            raise ShapeError(f"cat: zero-dimensional tensor (at position {i}) cannot be concatenated: use stack")
    shapes = [x.shape for x in tensors]
    dim = _cat_dim(shapes, dim)
    first: Any = None
    total = 0
    for i, shape in enumerate(shapes):
        if _is_legacy(shape):
            continue
        if first is None:
            first = shape
        if len(shape) != len(first):
            raise ShapeError(
                f"cat: Tensors must have same number of dimensions: got {len(first)} and {len(shape)} (tensor "
                f"number {i} has "
                f"shape {tuple(shape)})"
            )
        for d, (m, n) in enumerate(zip(first, shape, strict=True)):
            if d != dim and m != n:
                raise ShapeError(
                    f"cat: Sizes of tensors must match except in dimension {dim}. Expected size {m} but got size "
                    f"{n} for "
                    f"tensor number {i} in the list ({tuple(first)} and {tuple(shape)})"
                )
        total += shape[dim]
    dtype = tensors[0].dtype
    return ((0,), dtype) if first is None else ((*first[:dim], total, *first[dim + 1 :]), dtype)


def _cat_vjp(g: Any, tensors_shape: Any, dim: int) -> list[Any]:
    dim = _cat_dim(tensors_shape, dim)
    at, out = 0, []
    for shape in tensors_shape:
        if _is_legacy(shape):
            out.append(g.new_zeros((0,)))
        else:
            out.append(g.narrow(dim, at, shape[dim]))
            at += shape[dim]
    return out


@op(
    spec=_cat_spec,
    kernel=lambda out, tensors, dim: kernels.cat(out, tensors, _cat_dim([x.shape for x in tensors], dim)),
    promote=PROMOTE,
    complex=True,
    exact=True,
    vjp=_cat_vjp,
    on="function",
    alias=("concat", "concatenate"),
    samples=each(
        draw([(2, 3), (4, 3)]), draw([(2, 3), (2, 1)], dim=1), draw([(2, 3), transposed(2, 2), (2, 0)], dim=-1),
        draw([(3,)]), draw([(0,), (2, 3)], dim=1), draw([(2, 2), ints(2, 2)]), draw([(1, 600), (2, 600)]),
    ),
    errors=[
        fails([(2, 3), (2, 4)], match="must match except in dimension 0"),
        fails([(2, 3), (2,)], match="same number of dimensions"),
        fails([()], match="cannot be concatenated"),
        fails([], match="non-empty", error=ArgumentError),
        fails([(2, 3)], dim=2, match="out of range", error=DimError),
    ],
    bench=[draw([(4096, 1024), (4096, 1024)], dim=1)],
    bytes=lambda tensors, dim: 2 * sum(x.size * x.dtype.itemsize for x in tensors),
)  # fmt: skip
def cat(tensors: Arrays, dim: int = 0):
    """The tensors one behind the other along ``dim``; their other sizes must agree. The common dtype by promotion."""
    shapes = [x.shape for x in tensors]
    if (0,) not in shapes:
        return np.concatenate(tensors, dim) if tensors[0].flags.c_contiguous else _joined(tensors, dim)
    return _joined([x for x in tensors if not _is_legacy(x.shape)] or list(tensors), _cat_dim(shapes, dim))


def _joined(arrays: Sequence[np.ndarray], dim: int) -> np.ndarray:
    """NumPy's concatenate, but in C order, as PyTorch's: it would keep the arrays' own."""
    first = arrays[0]
    if first.ndim < 2 or first.flags.c_contiguous:
        return np.concatenate(arrays, dim)
    whole = list(first.shape)
    whole[dim] = sum([x.shape[dim] for x in arrays])
    return np.concatenate(arrays, dim, out=np.empty(whole, first.dtype))


def _stack_spec(tensors: Sequence[Any], dim: int) -> Any:
    if not tensors:
        raise ShapeError("stack: expects a non-empty TensorList")
    shape = tensors[0].shape
    for i, x in enumerate(tensors):
        if x.shape != shape:
            raise ShapeError(
                f"stack: expects each tensor to be equal size, but got {list(shape)} at entry 0 and {list(x.shape)} "
                f"at entry {i}"
            )
    return (*shape[:dim], len(tensors), *shape[dim:]), tensors[0].dtype


@op(
    bench=[draw([(4096, 1024), (4096, 1024)])],
    spec=_stack_spec,
    kernel=kernels.stack,
    promote=PROMOTE,
    complex=True,
    exact=True,
    vjp=lambda g, dim: list(g.unbind(dim)),
    on="function",
    samples=each(
        draw([(2, 3), (2, 3)]), draw([(2, 3), transposed(2, 3)], dim=-1), draw([(), ()]), draw([(0, 2)], dim=1),
        draw([(2,), ints(2)], dim=1),
    ),
    errors=[
        fails([(2, 3), (2,)], match="equal size"),
        fails([(2, 3)], dim=4, match="out of range", error=DimError),
        fails([], match="non-empty"),
    ],
)  # fmt: skip
def stack(tensors: Arrays, dim: NewDim = 0):
    """Tensors of one shape beside each other along a new dimension ``dim``. The common dtype by promotion."""
    if dim == 0 and tensors[0].ndim:  # one call for many small ones
        return _joined(tensors, 0).reshape(len(tensors), *tensors[0].shape)
    out = np.empty((*tensors[0].shape[:dim], len(tensors), *tensors[0].shape[dim:]), tensors[0].dtype)
    for i, x in enumerate(tensors):
        out[(slice(None),) * dim + (i,)] = x
    return out


def _several(name: str, tensors: Any) -> list[Any]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, (list, tuple)):
        raise TypeError(f"{name}(): argument 'tensors' must be tuple of Tensors, not {type(tensors).__name__}")
    if not tensors:
        raise ArgumentError(f"{name}: expected a non-empty list of Tensors")
    return list(tensors)


def _at_least(t: Any, n: int) -> Any:
    """t with at least n dimensions, as atleast_1d, atleast_2d, atleast_3d make them."""
    have = t._array.ndim
    if have >= n:
        return t
    if have == 0:
        return t.reshape((1,) * n)
    return t.unsqueeze(0) if n == 2 else t.unsqueeze(-1) if have == 2 else t.unsqueeze(0).unsqueeze(-1)


@composite(on="function", samples=each(draw([(2,), (3,)]), draw([(2, 1), (2, 3)]), draw([(), ()])))
@takes_out
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side: along dimension 1, or 0 for 1-D tensors; 0-D ones become 1-D."""
    given = [_at_least(t, 1) for t in _several("hstack", tensors)]
    return cat(given, 0 if given[0]._array.ndim == 1 else 1)


@composite(on="function", alias=("row_stack",), samples=each(draw([(3,), (3,)]), draw([(2, 3), (1, 3)])))
@takes_out
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors on top of each other, along dimension 0; 1-D tensors are rows."""
    return cat([_at_least(t, 2) for t in _several("vstack", tensors)], 0)


@composite(on="function", samples=each(draw([(3,), (3,)]), draw([(2, 3), (2, 3)])))
@takes_out
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors behind each other, along dimension 2; (n,) becomes (1, n, 1) and (m, n) becomes (m, n, 1)."""
    return cat([_at_least(t, 3) for t in _several("dstack", tensors)], 2)


@composite(on="function", samples=each(draw([(3,), (3, 2)])))
@takes_out
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side, along dimension 1; 0-D and 1-D tensors are columns."""
    given = _several("column_stack", tensors)
    return cat([t if t._array.ndim > 1 else t.reshape((-1, 1)) for t in given], 1)


@composite(
    on="function",
    samples=each(draw([(2,), (3,)], indexing="ij"), draw([(2,), (3,), ()], indexing="xy")),
)
def meshgrid(*tensors: Tensor, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinates of a grid: of 1-D tensors of sizes m, n, … as many views of shape (m, n, …).

    ``indexing="xy"`` exchanges the first two dimensions; "ij" (the default) is matrix order.
    """
    given = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    if not given:
        raise ArgumentError("meshgrid: expects a non-empty TensorList")
    if indexing not in (None, "ij", "xy"):
        raise ArgumentError(f"meshgrid: indexing must be one of 'xy' or 'ij', got {indexing!r}")
    for t in given:
        if t._array.ndim > 1:
            raise ShapeError(f"meshgrid: expected 0D or 1D tensors, got one of shape {tuple(t._array.shape)}")
        if t._array.dtype != given[0]._array.dtype:
            raise DtypeError("meshgrid: expects all tensors to have the same dtype")
    swap = indexing == "xy" and len(given) >= 2
    if swap:
        given[:2] = given[1::-1]
    sizes = [t._array.size for t in given]
    out = []
    for i, t in enumerate(given):
        out.append(t.reshape((1,) * i + (sizes[i],) + (1,) * (len(given) - i - 1)).expand(tuple(sizes)))
    if swap:
        out[:2] = out[1::-1]
    return tuple(out)


@composite(on="function", samples=each(draw((2,), (3,))))
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of the elements of 1-D tensors, one a row; a single tensor as it is."""
    for t in tensors:
        if t._array.ndim != 1:
            raise ShapeError(f"cartesian_prod: Expect a 1D vector, but got shape {list(t._array.shape)}")
    if len(tensors) == 1:
        return tensors[0]
    return stack([t.reshape((-1,)) for t in meshgrid(*tensors, indexing="ij")], 1)


@composite(
    on="function",
    samples=each(draw(values([1, 2, 3], "int64")), draw((4,), 3), draw((3,), with_replacement=True), draw((2,), 5),
                 draw((3,), 0)),
)  # fmt: skip
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """The combinations of ``r`` of the elements of a 1-D tensor, one a row, in the order of itertools."""
    x: Any = input
    if x._array.ndim != 1:
        raise ShapeError(f"combinations: Expect a 1D vector, but got shape {list(x._array.shape)}")
    if r < 0:
        raise ArgumentError(f"combinations: Expect a non-negative number, but got {r}")
    if r == 0:
        return x.new_empty((0,))  # type: ignore[no-any-return]
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array([*choose(range(x._array.size), r)], np.int64).reshape(-1, r)
    return x[wrap(rows).to(x.device)]  # type: ignore[attr-defined, no-any-return]


@composite(on="function", samples=each(draw((3,)), draw(ints(3), 4), draw((3,), 2, True), draw((2,), N=0)))
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """x[i] ** (N - 1 - j), or x[i] ** j with ``increasing``: the Vandermonde matrix of a 1-D tensor; N is its size."""
    t: Any = x
    if t._array.ndim != 1:
        raise ShapeError(f"vander: x must be a one-dimensional tensor, got shape {tuple(t._array.shape)}")
    if N is not None and N < 0:
        raise ArgumentError(f"vander: N must be non-negative, got {N}")
    n = t._array.size if N is None else N
    if t._array.dtype.kind in "biu":
        t = t.long()
    if n == 0:
        return t.new_empty((t._array.size, 0))  # type: ignore[no-any-return]
    if t.new_empty((t._array.size, n)).numel() == 0:  # a size that no memory holds is refused here, not in the loop
        return t.new_empty((0, n))  # type: ignore[no-any-return]
    columns = [t.new_ones((t._array.size,))]
    for _ in range(n - 1):
        columns.append(columns[-1] * t)
    return stack(columns if increasing else columns[::-1], 1)


@composite(on="function", samples=each(draw((2, 3), (), (2,), (1, 2)), draw(ints(2), (2, 2)), draw((0, 2), (1, 1))))
def block_diag(*tensors: Tensor) -> Tensor:
    """The block diagonal matrix of the tensors: 0-d and 1-D ones are rows. The common dtype by promotion."""
    given: list[Any] = list(tensors)
    if not given:
        return wrap(np.zeros((1, 0), default_dtype()))
    for i, t in enumerate(given):
        if t._array.ndim > 2:
            raise ShapeError(
                f"block_diag: Input tensors must have 2 or fewer dimensions. Input {i} has {t._array.ndim} dimensions"
            )
    dtype = OF_NUMPY[result_dtype([t._array for t in given])]  # here 0-d tensors do not yet count as rows
    blocks = [_at_least(t, 2).to(dtype) for t in given]
    width = sum(t._array.shape[1] for t in blocks)
    rows, at = [], 0
    for t in blocks:
        n = t._array.shape[1]
        rows.append(_constant_pad(t, (at, width - at - n), 0))
        at += n
    return cat(rows, 0)


# ------------------------------------------------------------------------------------------------------------- borders


def _pad_spec(input: Any, pad: Any, value: Any) -> Any:
    shape = list(input.shape)
    for k in range(len(pad) // 2):
        d = len(shape) - 1 - k
        cut = shape[d] + min(pad[2 * k], 0) + min(pad[2 * k + 1], 0)
        shape[d] += pad[2 * k] + pad[2 * k + 1]
        if cut < 0 or shape[d] < 0:
            raise ShapeError(
                f"pad: The input size {input.shape[d]}, plus negative padding {pad[2 * k]} and {pad[2 * k + 1]}, "
                "resulted in "
                f"a negative output size in dimension {d}, which is invalid"
            )
    return tuple(shape), input.dtype


@op(
    bench=[draw((32, 64, 56, 56), pad=(1, 1, 1, 1), value=0)],
    spec=_pad_spec,
    kernel=kernels.pad,
    vjp=lambda g, pad: _constant_pad(g, tuple([-n for n in pad]), 0),
    on="",
    samples=each(
        draw((2, 3), pad=(1, 2), value=0), draw((2, 3), pad=(-1, 2, 1, 0), value=1.5),
        draw((3,), pad=(-2, -1), value=0),
        draw((), pad=(), value=0), draw((0, 2), pad=(0, 0, 1, 1), value=3), draw((2, 600), pad=(3, 0), value=0),
    ),
    errors=[fails((2,), pad=(-3, 0), value=0, match="negative output size")],
)  # fmt: skip
def _constant_pad(input: Array, pad: Ints, value: Scalar):
    """input with a border of ``value``: (low, high) widths from the last dimension on; negative ones cut."""
    shape, _ = _pad_spec(input, pad, value)
    out = np.full(shape, np.asarray(value).astype(input.dtype), input.dtype)
    to, source = kernels.inside(input.shape, pad)
    if out.size:
        out[to] = input[source]
    return out


_NON_CONSTANT = {2: (2, 3), 4: (3, 4), 6: (4, 5)}


def _edge(mode: str, x: Any, dim: int, width: int, low: bool) -> Any:
    """The border of ``width`` at one end of a dimension."""
    n = x._array.shape[dim]
    if mode == "reflect":
        return x.narrow(dim, 1, width).flip(dim) if low else x.narrow(dim, n - 1 - width, width).flip(dim)
    if mode == "circular":
        return x.narrow(dim, n - width, width) if low else x.narrow(dim, 0, width)
    shape = list(x._array.shape)
    shape[dim] = width
    return x.narrow(dim, 0 if low else n - 1, 1).expand(tuple(shape))


@composite(
    on="functional",
    samples=each(
        draw((2, 3), [1, 2]),
        draw((2, 3), [-1, 1, 0, 2], value=1.5),
        draw((1, 2, 4), [1, 2], "reflect"),
        draw((1, 2, 4), [3, 1], "replicate"),
        draw((1, 2, 4, 3), [1, 2, 0, 1], "circular"),
        draw((2, 4), [-1, 2], "reflect"),
    ),
)
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Tensor:
    """input with a border of the widths ``pad``: (low, high) for the last dimension, then for the one before, …

    ``mode``: "constant" (``value``, 0 for None; any dimensions), "reflect", "replicate" or "circular" (the last 1, 2 or
    3 dimensions of a batch, or of one sample). Negative widths cut.
    """
    widths = as_ints("pad", "pad", pad)
    x: Any = input
    if len(widths) % 2:
        raise ShapeError(f"pad: Padding length must be divisible by 2, got {widths}")
    if len(widths) > 2 * x._array.ndim:
        raise ShapeError(
            f"pad: Padding length should be less than or equal to two times the input dimension but got padding length "
            f"{len(widths)} and input of dimension {x._array.ndim}"
        )
    if mode == "constant":
        return _constant_pad(x, widths, 0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise UnsupportedError(
            f"pad: Unrecognised padding mode {mode}: expected constant, reflect, replicate or circular"
        )
    if value is not None and value != 0:
        raise ArgumentError(f'pad: Padding mode "{mode}" doesn\'t take in value argument')
    if x._array.ndim not in _NON_CONSTANT.get(len(widths), ()):
        raise UnsupportedError(
            f"pad: Padding size {len(widths)} is not supported for {x._array.ndim}D input tensor in mode {mode}: "
            "expected 2 "
            f"for 2D or 3D, 4 for 3D or 4D, 6 for 4D or 5D input"
        )
    for k in range(len(widths) // 2):
        d = x._array.ndim - 1 - k
        low, high = widths[2 * k], widths[2 * k + 1]
        n = x._array.shape[d]
        if mode == "reflect" and max(low, high) >= n:
            raise ShapeError(
                f"pad: Padding size should be less than the corresponding input dimension, but got: padding ({low}, "
                f"{high}) "
                f"at dimension {d} of input {list(x._array.shape)}"
            )
        if mode == "circular" and max(low, high) > n:
            raise ShapeError(f"pad: Padding value causes wrapping around more than once: ({low}, {high}) around {n}")
        if mode == "replicate" and n == 0:
            raise ShapeError(f"pad: Expected a non-empty dimension {d}, got input of shape {tuple(x._array.shape)}")
        if n + low + high < 0 or (mode != "circular" and n + low + high < 1):
            raise ShapeError(f"pad: input of size {n} at dimension {d} is too small for padding ({low}, {high})")
        if min(low, high) >= 0 and x.dtype.is_floating_point:
            rule = (n, n + low + high, mode, float(low), False)
            x = registry["_resample"].public(x, d, rule, False) if low or high else x
            continue
        start, length = max(-low, 0), n + low + high
        if mode == "circular":  # what is left after the cut is what repeats
            x = x.narrow(d, start, n - start - max(-high, 0)) if low < 0 or high < 0 else x
            start, length = 0, x._array.shape[d] + max(low, 0) + max(high, 0)
        parts = [_edge(mode, x, d, low, True)] if low > 0 else []
        parts.append(x)
        if high > 0:
            parts.append(_edge(mode, x, d, high, False))
        x = cat(parts, d) if len(parts) > 1 else x
        x = x.narrow(d, start, length) if x._array.shape[d] != length else x
    return x.clone() if x is input or x._view is not None else x  # memory of its own, as in PyTorch
