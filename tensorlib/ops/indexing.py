"""Reading and writing by index: ``x[...]``, gather and scatter, embeddings, triangles, reordering.

A basic index (integers, slices, None, Ellipsis) is a view. An advanced one (tensors, lists, masks) copies: everything
of that kind is one of two operators, ``_index`` and ``_index_put``, over the dimensions that its indices name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib import _array, _inplace
from tensorlib._arguments import outside
from tensorlib._core import KINDS, LIFTED, Tensor, listening, modes, version_of, wrap
from tensorlib._device import cpu
from tensorlib._dispatch import (
    apply,
    as_int,
    as_ints,
    flatten,
    record,
    sync,
    unflatten,
    wrap_dim,
)
from tensorlib._dtypes import HALF, OF_NUMPY, bool_
from tensorlib._samples import Draw, bools, draw, each, fails, ints, transposed, values
from tensorlib.errors import ArgumentError, DimError, DtypeError, RangeError, ShapeError
from tensorlib.kernels import indexing as kernels
from tensorlib.kernels import prefix, scattering
from tensorlib.op import Array, Arrays, Op, composite, into, op, registry
from tensorlib.ops import create, splitting, views
from tensorlib.ops._out import takes_out
from tensorlib.ops._rows_numpy import join_rows
from tensorlib.ops.views import basic_index

ndarray = np.ndarray
_INT64, _INT32, _BOOL, _UINT8 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_), np.dtype(np.uint8)
INTEGERS = (_INT64, _INT32)


# ---------------------------------------------------------------------------------------------- what the bodies share


def numbers(data: Any, dtype: str = "int64") -> Draw:
    """These very indices, in samples."""
    return values(data, dtype)


def bounded(name: str, index: Any, dim: int, n: int, wrap: bool = True) -> Any:
    """A NumPy index with negative numbers counted from the end (``wrap``) or refused; DimError out of range."""
    if not index.size:
        return index
    once = index[tuple([slice(1) if s == 0 else slice(None) for s in index.strides])] if 0 in index.strides else index
    if within(once, n):
        return index
    least, most = np.minimum.reduce(once, axis=None), np.maximum.reduce(once, axis=None)
    low = -n if wrap else 0
    if least < low or most >= n:
        bad = index[(index < low) | (index >= n)].reshape(-1)[0]
        raise RangeError(f"{name}: index {bad} is out of bounds for dimension {dim} with size {n}")
    return np.where(index < 0, index + n, index) if least < 0 else index


_UNSIGNED = {np.dtype(np.int64): np.dtype(np.uint64), np.dtype(np.int32): np.dtype(np.uint32)}


def within(index: Any, n: int) -> bool:
    """Whether 0 <= index < n, of one element and more, in one pass: without its sign a negative number is huge."""
    unsigned = _UNSIGNED.get(index.dtype)
    return unsigned is not None and bool(np.maximum.reduce(index.view(unsigned), axis=None) < n)


def widened(x: Any) -> Any:
    """x, or half types in float32, to sum in."""
    return x.astype(np.float32) if x.dtype in HALF else x


def index_integers(name: str, index: Any) -> None:
    if index.dtype not in INTEGERS:
        raise DtypeError(
            f"{name}: expected dtype int32 or int64 for index, got {OF_NUMPY[index.dtype]}: use index.long()"
        )


def in_place(
    pure: Op, writing: Op, name: str, target: Tensor, operands: Sequence[Any], attrs: dict[str, Any]
) -> Tensor:
    """Write into ``target`` with the operator ``writing``; its history is ``pure``'s, the same without writing."""
    _inplace.check_writable(target, name)
    given = (target, *operands)
    flat, counts = flatten(pure, given)
    x = target._array
    arrays = unflatten([t._array if isinstance(t, Tensor) else t for t in flat], counts)
    pure.specs(arrays, attrs)
    _writable(x, name)
    if not listening[0] and _inplace.writes_plainly(target):
        for t in flat:
            if isinstance(t, Tensor) and (type(t._array) is not ndarray or (t._needs and modes.grad)):
                break
        else:
            writing.cpu(*arrays, **attrs)
            version_of(target)[0] += 1
            return target
    for t in flat[1:]:
        if isinstance(t, Tensor) and type(t._array) in LIFTED:
            t._array.prepare(target)
            x = target._array
    apply(writing, given, dict(attrs))
    result = wrap(x)
    if modes.grad and x.dtype.kind not in "iub" and any(isinstance(t, Tensor) and t._needs for t in flat):
        result._node, result._needs = record(pure, flat, counts, attrs, [x]), True
    _inplace.follow(target, result, True)
    return target


def _writable(x: Any, name: str) -> None:
    fits = x.flags.writeable if type(x) is ndarray else all(s or n < 2 for s, n in zip(x.strides, x.shape, strict=True))
    if not fits:
        raise ShapeError(
            f"{name}: unsupported operation: more than one element of the written-to tensor refers to a single memory "
            f"location, or its memory is read-only. Write into a .clone() of it"
        )


# ------------------------------------------------------------------------------------------------- advanced indices


def _index_shape(name: str, shape: Sequence[int], indices: Sequence[Any], dims: Sequence[int]) -> tuple[int, ...]:
    """The shape of an advanced index: the common shape of the indices in place of adjacent dims, in front otherwise."""
    for i in indices:
        if i.dtype not in INTEGERS:
            raise DimError(
                f"{name}: tensors used as indices must be long, int, byte or bool tensors, got {OF_NUMPY[i.dtype]}"
            )
    try:
        common = indices[0].shape if len(indices) == 1 else np.broadcast_shapes(*[i.shape for i in indices])
    except ValueError:
        raise DimError(
            f"{name}: shape mismatch: indexing tensors could not be broadcast together with shapes "
            f"{', '.join(str(list(i.shape)) for i in indices)}"
        ) from None
    if 0 not in common:
        for d in dims:
            if shape[d] == 0:
                raise DimError(f"{name}: index is out of bounds for dimension {d} with size 0")
    return kernels._placed(shape, dims, common)[0]


def _addresses(shape: Sequence[int], indices: Sequence[Any], dims: Sequence[int]) -> tuple[Any, tuple[int, ...]]:
    """(flat positions of the rows that an advanced index names, the shape of what it reads).

    A row is what lies behind adjacent ``dims`` of a contiguous array of ``shape``; one element otherwise.
    """
    adjacent = dims[-1] - dims[0] == len(dims) - 1
    end = dims[-1] + 1 if adjacent else len(shape)
    strides = _array.contiguous_strides(shape[:end])
    common = sum(i.astype(np.int64, copy=False) * strides[d] for i, d in zip(indices, dims, strict=True))
    rest = [d for d in range(end) if d not in dims]
    at = dims[0] if adjacent else 0
    n, k = len(rest) + common.ndim, common.ndim
    out = common.reshape((1,) * at + common.shape + (1,) * (len(rest) - at))
    for place, d in enumerate(rest):
        if shape[d] > 1:
            axis = place if place < at else place + k
            out = out + (np.arange(shape[d]) * strides[d]).reshape((1,) * axis + (-1,) + (1,) * (n - axis - 1))
    whole = kernels._placed(shape, dims, common.shape)[0]
    return out.reshape(-1), whole


def _index_key(x: Any, indices: Sequence[Any], dims: Sequence[int], wrap: bool) -> tuple[list[Any], tuple[Any, ...]]:
    """(the indices in range, a NumPy index)."""
    checked = [bounded("index", i, d, x.shape[d], wrap) for i, d in zip(indices, dims, strict=True)]
    key: list[Any] = [slice(None)] * x.ndim
    for d, i in zip(dims, checked, strict=True):
        key[d] = i
    return checked, tuple(key)


def _names_nothing(x: Any, indices: Sequence[Any]) -> bool:
    """The result of the index is empty; its numbers are then not looked at, as in PyTorch."""
    return not x.size or any(not i.size for i in indices)


def _put_into(
    x: Any, values: Any, indices: Sequence[Any], dims: Sequence[int], add: bool, wrap: bool, fresh: bool = False
) -> None:
    """Write or ``add``; ``fresh``: x is 0 still."""
    if _names_nothing(x, indices):
        return
    checked, key = _index_key(x, indices, dims, wrap)
    if not add:
        x[key] = values
        return
    work = np.ascontiguousarray(widened(x))
    if len(dims) == 1 and dims[0] == 0 and checked[0].ndim == 1:
        at, shape = checked[0], (checked[0].size, *x.shape[1:])
    else:
        at, shape = _addresses(x.shape, checked, dims)
    given = values if values.shape == shape else np.broadcast_to(values, shape)
    given = given.astype(work.dtype, copy=False)
    width = math.prod(shape) // at.size
    join_rows(work.reshape(-1, width), at, given.reshape(-1, width), fresh=fresh)
    if work is not x:
        x[...] = work


def _put_spec(input: Any, values: Any, indices: Any, dims: Any, accumulate: bool, wrap: bool) -> Any:
    if not indices:
        raise DimError("index_put: expected at least one index")
    shape = _index_shape("index_put", input.shape, indices, dims)
    if values.dtype != input.dtype:
        raise DtypeError(
            f"index_put: requires the source and destination dtypes match, got {OF_NUMPY[input.dtype]} for the "
            "destination "
            f"and {OF_NUMPY[values.dtype]} for the source"
        )
    lead = len(shape) - values.ndim
    if lead < 0 or any(m != n and m != 1 for m, n in zip(values.shape, shape[lead:], strict=True)):
        raise ShapeError(
            f"index_put: shape mismatch: value tensor of shape {list(values.shape)} cannot be broadcast to indexing "
            "result "
            f"of shape {list(shape)}"
        )
    return input.shape, input.dtype


def _put_input(g: Any, indices: Any, dims: Any, accumulate: bool, wrap: bool) -> Any:
    return g if accumulate else _index_put(g, g.new_zeros(()), indices, dims, False, wrap)


_PUT_SAMPLES = each(
    draw((4, 3), (2, 3), [ints(2, high=4)], dims=(0,)),
    draw((4, 3), (5, 3), [ints(5, low=-4, high=4)], dims=(0,), accumulate=True),
    draw((2, 4, 3), (2, 6), [ints(6, high=4), ints(6, high=3)], dims=(1, 2), accumulate=True),
    draw((3, 2, 4), (2, 1), [numbers([2, 0]), numbers([1, 3])], dims=(0, 2)),
    draw(transposed(4, 3), (), [numbers([[1], [2]], "int32")], dims=(1,)),
    draw((4, 3), (0, 3), [ints(0)], dims=(0,), accumulate=True),
    draw((3, 700), (3, 700), [numbers([0, 2, 1])], dims=(0,), accumulate=True),
)


@op(
    bench=[draw((16384, 1024), (4096, 1024), [ints(4096, high=16384)], dims=(0,), accumulate=True)],
    spec=_put_spec,
    kernel=scattering.index_put,
    vjp=dict(
        input=_put_input,
        values=lambda g, indices, dims, wrap, values_shape: _index(g, indices, dims, False, wrap).sum_to_size(
            values_shape
        ),
    ),
    on="",
    samples=_PUT_SAMPLES,
    errors=[
        fails(
            (4, 3), (3,), [numbers([4])], dims=(0,), match="out of bounds for dimension 0 with size 4", error=DimError
        ),
        fails((4, 3), (2, 2), [numbers([1])], dims=(0,), match="cannot be broadcast"),
    ],
)
def _index_put(input: Array, values: Array, indices: Arrays, dims: Any, accumulate: bool = False, wrap: bool = True):
    """input with ``values`` put (or added) where ``indices`` over ``dims`` point; values are broadcast.

    Half types are summed in float32. Of several values put in one place any one may stay. On a GPU rows and half types
    are summed in order, single elements of float32 and float64 atomically, but where deterministic algorithms are asked
    for.
    """
    out = np.array(input, order="C")
    _put_into(out, values, indices, dims, accumulate, wrap)
    return out


@op(mutates=("input",), kernel=scattering.index_put_, on="", samples=_PUT_SAMPLES)
def _index_put_(input: Array, values: Array, indices: Arrays, dims: Any, accumulate: bool = False, wrap: bool = True):
    """``_index_put`` in input's own memory."""
    _put_into(input, values, indices, dims, accumulate, wrap)


@op(
    spec=lambda g, indices, shape, dims, unique, wrap: (shape, g.dtype),
    kernel=scattering.index_grad,
    vjp=dict(g=lambda g, indices, dims, unique, wrap: _index(g, indices, dims, unique, wrap)),
    on="",
    samples=each(
        draw((5, 3), [ints(5, low=-4, high=4)], shape=(4, 3), dims=(0,)),
        draw((2, 6), [ints(6, high=4), ints(6, high=3)], shape=(2, 4, 3), dims=(1, 2)),
        draw((2, 2), [numbers([2, 0]), numbers([1, 3])], shape=(3, 2, 4), dims=(0, 2)),
        draw((2, 3), [numbers([2, 0])], shape=(4, 3), dims=(0,), unique=True),
    ),
)
def _index_grad(g: Array, indices: Arrays, shape: Any, dims: Any, unique: bool = False, wrap: bool = True):
    """Zeros of ``shape`` to which g is added where the indices point: the gradient of an advanced index.

    Summed in float32 or wider, on a GPU as ``scatter_add`` does. ``unique``: no place is named twice.
    """
    out = np.zeros(shape, g.dtype)
    _put_into(out, g, indices, dims, not unique, wrap, fresh=True)
    return out


@op(
    bench=[draw((16384, 1024), [ints(16384, high=16384)], dims=(0,))],
    spec=lambda input, indices, dims, unique, wrap: (_index_shape("index", input.shape, indices, dims), input.dtype),
    kernel=kernels.index,
    vjp=dict(
        input=lambda g, indices, input_shape, dims, unique, wrap: _index_grad(
            g, indices, input_shape, dims, unique, wrap
        )
    ),
    on="",
    samples=each(
        draw((4, 3), [ints(2, high=4)], dims=(0,)), draw((4, 3), [ints(2, 2, low=-3, high=3)], dims=(1,)),
        draw((2, 4, 3), [ints(6, high=4), ints(2, 1, high=3)], dims=(1, 2)), draw((4, 3), [ints(0)], dims=(0,)),
        draw((3, 2, 4), [numbers([2, 0]), numbers([1, 3])], dims=(0, 2)),
        draw(transposed(4, 3), [ints(5, high=4)], dims=(0,)),
        draw((3, 1100), [numbers([2, 0, 2], "int32")], dims=(0,)), draw((5,), [ints(high=5)], dims=(0,)),
    ),
    errors=[
        fails((4, 3), [numbers([4])], dims=(0,), match="out of bounds for dimension 0 with size 4", error=DimError),
        fails((4, 3), [ints(2), ints(3)], dims=(0, 1), match="could not be broadcast", error=DimError),
    ],
)  # fmt: skip
def _index(input: Array, indices: Arrays, dims: Any, unique: bool = False, wrap: bool = True):
    """input at integer ``indices`` over ``dims``. ``unique`` promises that no place is named twice."""
    if _names_nothing(input, indices):
        return np.empty(_index_shape("index", input.shape, indices, dims), input.dtype)
    if len(dims) == 1:
        i, d = indices[0], dims[0]
        try:
            if wrap or not i.size or np.minimum.reduce(i, axis=None) >= 0:
                return input.take(i, d)
        except IndexError:
            pass
        bounded("index", i, d, input.shape[d], wrap)
    return input[_index_key(input, indices, dims, wrap)[1]]


# ------------------------------------------------------------------------------------------------ what is not zero


@op(
    bench=[draw(bools(1 << 22))],
    dynamic=True,
    kernel=prefix.nonzero,
    on="",
    samples=each(
        draw(bools(3, 4)), draw(ints(5, low=-1, high=2)), draw(bools(0, 2)), draw(bools()), draw(bools(2, 3, 250)),
        draw(transposed(4, 3)),
    ),
)  # fmt: skip
def _nonzero(input: Array):
    """The coordinates of the elements that are not 0, in C order: (count, ndim), int64."""
    if not input.ndim:
        return np.empty((int(bool(input)), 0), np.int64)
    if input.ndim == 1:
        return np.flatnonzero(input)[:, None]
    return np.stack(np.nonzero(input), 1)


@composite(samples=each(draw(bools(3, 4)), draw(ints(5, low=-1, high=2), as_tuple=True), draw(bools(), as_tuple=True)))
def nonzero(input: Tensor, *, out: Any = None, as_tuple: bool = False) -> Any:
    """The coordinates of the elements that are not 0, in C order: (count, ndim) in int64, or one tensor a dimension.

    The count is known only when the values are: on a GPU this waits for the device.
    """
    if as_tuple and out is not None:
        raise ArgumentError("nonzero: does not support the out kwarg when as_tuple is True: give one of the two")
    if as_tuple and not input._array.ndim:
        return (_nonzero(basic_index(input, (None,))).reshape((-1,)),)
    found = _nonzero(input)
    if as_tuple:
        return splitting.unbind(found, 1)
    return found if out is None else into("nonzero", out, found)


@composite(samples=each(draw(ints(3, 4, high=2)), draw(bools(4))))
def argwhere(input: Tensor) -> Tensor:
    """The coordinates of the elements that are not 0, in C order: (count, ndim) in int64."""
    return _nonzero(input)


# ----------------------------------------------------------------------------------------------- x[...] and x[...] = y


def _as_index(item: Any, device: Any) -> Tensor:
    """An index that is a tensor, a list, or an array, as a tensor on ``device``."""
    if isinstance(item, Tensor):
        t = item
    elif isinstance(item, ndarray):
        t = wrap(item)
    elif isinstance(item, (str, bytes)):
        raise TypeError(f"index: invalid data type {type(item).__name__!r}: expected numbers")
    elif isinstance(item, Sequence):
        t = create.tensor(_plain(item))
        if not t._array.size:
            t = wrap(np.empty(t._array.shape, np.int64))
    else:
        raise DimError(
            "index: only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid "
            "indices (got "
            f"{type(item).__name__})"
        )
    kind = t._array.dtype
    if kind == _UINT8:
        warnings.warn(
            "index: indexing with uint8 is deprecated, please use bool masks instead", UserWarning, stacklevel=outside()
        )
        t = t.to(np.dtype(np.bool_))
    elif kind.kind in "iu" and not t._array.ndim:  # one integer, of whatever dtype
        t = t.to(np.dtype(np.int64))
    elif kind not in INTEGERS and kind != _BOOL:
        raise DimError(f"index: tensors used as indices must be long, int, byte or bool tensors, got {OF_NUMPY[kind]}")
    return t.to(device) if _array.device_of(t._array) is not device else t


def _plain(data: Any) -> Any:
    return (
        data.tolist() if isinstance(data, Tensor) else [_plain(x) for x in data] if isinstance(data, Sequence) else data
    )


def _step(s: slice) -> slice:
    """A slice of plain integers, whose step must be positive."""
    start, stop, step = s.start, s.stop, s.step
    if step is not None and (type(step) is not int or step <= 0):
        if not hasattr(step, "__index__"):
            raise TypeError("slice indices must be integers or None or have an __index__ method")
        step = as_int("index", "step", step)
        if step <= 0:
            raise ArgumentError(f"index: slice step must be greater than zero, got {step}: reverse with flip(dim)")
    if (start is None or type(start) is int) and (stop is None or type(stop) is int):
        return s if step is s.step else slice(start, stop, step)
    try:
        return slice(*[None if v is None else int(v.__index__()) for v in (start, stop, step)])
    except AttributeError:
        raise TypeError("slice indices must be integers or None or have an __index__ method") from None


def _items(index: Any) -> tuple[Any, ...]:
    """An index as a tuple: a short list that holds tensors, sequences, slices, None or Ellipsis stands for one."""
    if type(index) is tuple:
        return index
    if isinstance(index, list) and len(index) < 32:
        if any(i is None or i is Ellipsis or isinstance(i, (Tensor, ndarray, slice, list, tuple)) for i in index):
            return tuple(index)
    return (index,)


def _is_int(item: Any) -> bool:
    return type(item) is int or (isinstance(item, (int, np.integer)) and not isinstance(item, (bool, np.bool_)))


def _parse(x: Any, index: Any) -> tuple[tuple[Any, ...], list[tuple[int, Tensor]]]:
    """(a basic index, [(dimension of the resulting view, index tensor or mask)])."""
    items = list(_items(index))
    device = _array.device_of(x)
    used, scalars = 0, 0
    for k, item in enumerate(items):
        if item is None or item is Ellipsis or item is True or item is False or isinstance(item, np.bool_):
            continue
        if _is_int(item):
            items[k] = int(item)
            used += 1
            scalars += 1
        elif isinstance(item, slice):
            items[k] = _step(item)
            used += 1
        else:
            t = items[k] = _as_index(item, device)
            if t._array.ndim == 0 and (type(t._array) not in LIFTED or t._array.dtype == _BOOL):
                value = t.item()
                items[k] = value
                used += not isinstance(value, bool)
            elif t._array.dtype == _BOOL:
                used += t._array.ndim
            else:
                used += 1
    if used > x.ndim:
        if not x.ndim and scalars:
            raise DimError(
                "index: invalid index of a 0-dim tensor. Use `tensor.item()` to convert a 0-dim tensor to a number"
            )
        raise DimError(f"index: too many indices for tensor of dimension {x.ndim}: got {used}")
    basic: list[Any] = []
    advanced: list[tuple[int, Tensor]] = []
    d = at = 0  # dimension of x, of the view
    expanded = False
    for item in items:
        if item is Ellipsis:
            n = 0 if expanded else x.ndim - used
            expanded = True
            basic += [slice(None)] * n
            d += n
            at += n
        elif item is None:
            basic.append(None)
            at += 1
        elif isinstance(item, (bool, np.bool_)):
            basic.append(None)
            chosen = np.zeros(1 if item else 0, np.int64)
            advanced.append((at, wrap(chosen).to(device)))
            at += 1
        elif isinstance(item, Tensor):
            a = item._array
            k = a.ndim if a.dtype == _BOOL else 1
            if a.dtype == _BOOL and a.shape != x.shape[d : d + k]:
                j = next(j for j in range(k) if a.shape[j] != x.shape[d + j])
                raise DimError(
                    f"index: The shape of the mask {list(a.shape)} at index {j} does not match the shape of the "
                    "indexed "
                    f"tensor {list(x.shape)} at index {d + j}"
                )
            basic += [slice(None)] * k
            advanced.append((at, item))
            d += k
            at += k
        else:
            basic.append(item)
            d += 1
            at += type(item) is not int
    return tuple(basic), advanced


def _is_full(basic: tuple[Any, ...]) -> bool:
    return all(type(s) is slice and s.start is None and s.stop is None and s.step is None for s in basic)


def _resolve(
    t: Tensor, advanced: list[tuple[int, Tensor]], write: bool
) -> tuple[Tensor, list[Tensor], tuple[int, ...], bool]:
    """(view, integer indices, their dimensions, no place twice): masks become the coordinates of what they select."""
    indices: list[Tensor] = []
    dims: list[int] = []
    gone = 0
    for at, item in advanced:
        at -= gone
        if item._array.dtype != _BOOL:
            indices.append(item)
            dims.append(at)
            continue
        k = item._array.ndim
        if k > 1 and _array.is_contiguous(t._array):
            # One index over the merged dimensions instead of k: NumPy and the GPU then have less to add up.
            shape = t._array.shape
            t = views.reshape(t, (*shape[:at], math.prod(shape[at : at + k]), *shape[at + k :]))
            item = views.reshape(item, (item._array.size,))
            gone += k - 1
            k = 1
        found = _nonzero(item)
        for j in range(k):
            indices.append(basic_index(found, (slice(None), j)))
            dims.append(at + j)
    return t, indices, tuple(dims), len(advanced) == 1 and advanced[0][1]._array.dtype == _BOOL


def getitem(self: Tensor, index: Any) -> Tensor:
    """``self[index]`` for integers, slices, None, Ellipsis (a view) and tensors, lists, masks (a copy), as in PyTorch.

    Adjacent index tensors put their common shape where they stand, others in front. DimError out of range.
    """
    kind: Any = type(index)
    if kind is int:
        if self._array.ndim:
            return basic_index(self, (index,))
    elif kind in KINDS:
        x, i = self._array, index._array
        if type(x) is ndarray and type(i) is ndarray and i.ndim and x.ndim and i.dtype in INTEGERS and not listening[0]:
            try:
                out = x.take(i, 0)
            except IndexError:
                return _index(self, [index], (0,))  # has the message
            t = wrap(out)
            if modes.grad:
                if self._view is not None:
                    sync(self)
                if self._needs and x.dtype.kind not in "iub":
                    t._node, t._needs = record(_INDEX, (self, index), _ONE_INDEX, _FIRST, (out,)), True
            return t
        if type(x) is ndarray and type(i) is ndarray and i.dtype.kind == "b" and not listening[0]:  # a mask
            if i.ndim and i.shape == x.shape[: i.ndim] and not (modes.grad and self._needs):
                return wrap(x[i])
    elif kind is slice:
        if self._array.ndim:
            return basic_index(self, (_step(index),))
    elif kind is tuple:
        dots = 0
        for item in index:
            what = type(item)
            if what is int or item is None:
                continue
            if what is slice:
                if item.step is None and _plain_bounds(item):
                    continue
                break
            if item is Ellipsis and not dots:
                dots = 1
                continue
            break
        else:
            return basic_index(self, index)
    basic, advanced = _parse(self._array, index)
    if not advanced:
        return basic_index(self, basic or (Ellipsis,))
    t = self if _is_full(basic) else basic_index(self, basic)
    t, indices, dims, unique = _resolve(t, advanced, False)
    return _index(t, indices, dims, unique)


_INDEX = registry["_index"]
_ONE_INDEX = [-1, 1]  # how many tensors each argument gave: input, indices
_FIRST = {"dims": (0,), "unique": False, "wrap": True}


def _plain_bounds(s: slice) -> bool:
    return (s.start is None or type(s.start) is int) and (s.stop is None or type(s.stop) is int)


def as_value(value: Any, x: Any) -> Tensor:
    """What is assigned, as a tensor of x's dtype and device."""
    device = _array.device_of(x)
    if isinstance(value, Tensor):
        if value._array.dtype != x.dtype or _array.device_of(value._array) is not device:
            return value.to(device, OF_NUMPY[x.dtype])
        return value
    if x.dtype.kind in "iu" and isinstance(value, (bool, int, float)):
        value = create.number_as("index", value, x.dtype)
    if device is not cpu and isinstance(value, (bool, int, float)):
        return create.full((), value, dtype=OF_NUMPY[x.dtype], device=device)
    return wrap(create.host_array(value, OF_NUMPY[x.dtype])).to(device)


def _without_ones(value: Tensor, ndim: int) -> Tensor:
    """Leading dimensions of size 1 that the target has not are dropped, as in PyTorch."""
    extra = value._array.ndim - ndim
    if extra > 0 and value._array.shape[:extra] == (1,) * extra:
        return views.reshape(value, value._array.shape[extra:])
    return value


def _as_source(value: Any, x: Any) -> Any:
    """What NumPy may assign as it is; None where a conversion has to be made or checked."""
    if type(value) is float or type(value) is int:
        return value if x.dtype.kind == "f" or (x.dtype.kind == "i" and type(value) is int) else None
    if isinstance(value, Tensor) and type(value._array) is ndarray and value._array.dtype == x.dtype:
        return value._array
    return None


def _as_key(index: Any, x: Any) -> Any:
    """An index that means to NumPy what it means here; None for others."""
    kind = type(index)
    if kind is int:
        return index if x.ndim else None
    if kind is slice:
        return index if index.step is None or (type(index.step) is int and index.step > 0) else None
    if kind is tuple:
        for i in index:
            if not (type(i) is int or i is None or i is Ellipsis or (type(i) is slice and i.step is None)):
                return None
        return index if x.ndim else None
    if kind in KINDS:
        i = index._array
        if type(i) is ndarray and i.ndim and (i.dtype in INTEGERS or (i.dtype == _BOOL and i.shape == x.shape)):
            return i
    return None


def setitem(self: Tensor, index: Any, value: Any) -> None:
    """``self[index] = value``, broadcast and converted to this tensor's dtype; gradients flow to what was written.

    Where an index tensor names a place twice any one of its values stays.
    """
    x = self._array
    if (
        type(x) is ndarray
        and not listening[0]
        and x.flags.writeable
        and not (
            modes.grad
            and (self._needs or self._view is not None or (isinstance(value, Tensor) and (value._needs or value._view)))
        )
    ):
        source = _as_source(value, x)
        key = _as_key(index, x) if source is not None else None
        if key is not None:
            try:
                x[key] = source
            except (IndexError, ValueError, OverflowError):
                key = None  # the general path has the message
            if key is not None:
                if self._writes is not None:
                    self._writes[0] += 1
                return
    basic, advanced = _parse(x, index)
    given = as_value(value, x)
    if not advanced:
        _inplace.check_writable(self, "__setitem__")
        target = basic_index(self, basic or (Ellipsis,))
        _inplace.assign(target, _without_ones(given, target._array.ndim), "__setitem__")
        return
    target = self if _is_full(basic) else basic_index(self, basic)
    if len(advanced) == 1 and advanced[0][1]._array.dtype == _BOOL and given._array.size == 1:
        at, mask_t = advanced[0]
        after = target._array.ndim - at - mask_t._array.ndim
        mask_t = views.reshape(mask_t, (*mask_t._array.shape, *(1,) * after))
        _inplace.check_writable(self, "__setitem__")
        _inplace.assign(
            target, registry["_where"].public(mask_t, views.reshape(given, ()), target), "__setitem__", own=True
        )
        return
    _put(target, advanced, given, False, "__setitem__")


def _put(target: Tensor, advanced: list[tuple[int, Tensor]], given: Tensor, accumulate: bool, name: str) -> None:
    t, indices, dims, _ = _resolve(target, advanced, True)
    shape = _index_shape(name, t._array.shape, [i._array for i in indices], dims)
    given = _without_ones(given, len(shape))
    in_place(_PUT, _PUT_, name, t, (given, indices), {"dims": dims, "accumulate": accumulate, "wrap": True})


_PUT, _PUT_ = registry["_index_put"], registry["_index_put_"]


def _given_indices(name: str, input: Tensor, indices: Any) -> list[tuple[int, Tensor]]:
    if isinstance(indices, Tensor) or not isinstance(indices, (tuple, list)):
        raise TypeError(f"{name}(): argument 'indices' must be tuple of Tensors, not {type(indices).__name__}")
    basic, advanced = _parse(input._array, tuple([slice(None) if i is None else i for i in indices]))
    if not advanced or not _is_full(basic):
        raise DimError(f"{name}: expected index tensors of at least one dimension, got {list(indices)!r}")
    return advanced


@composite(
    samples=each(
        draw((4, 3), [numbers([2, 0, 1])], (3, 3)), draw((4, 3), [numbers([2, 0, 1])], (3, 3), accumulate=True)
    ),
)
def index_put_(input: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    """``input[indices] = values``, or ``+=`` with repeated places adding up; None stands for a whole dimension."""
    _put(input, _given_indices("index_put_", input, indices), values, accumulate, "index_put_")
    return input


@composite(
    samples=each(
        draw((4, 3), [numbers([2, 0])], (2, 3)),
        draw((4, 3), [numbers([1, 1, 3]), numbers([0, 0, 2])], (3,), True),
        draw((4,), [bools(4)], ()),
    )
)
def index_put(input: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of input with ``values`` put (or added) at ``input[indices]``; None stands for a whole dimension.

    On a GPU rows and half types are summed in order, single elements of float32 and float64 atomically, but where
    deterministic algorithms are asked for.
    """
    t, found, dims, _ = _resolve(input, _given_indices("index_put", input, indices), True)
    return views.reshape(_index_put(t, values, found, dims, accumulate), input._array.shape)


def with_dimension(t: Any) -> Any:
    """t with at least one dimension."""
    return basic_index(t, (None,)) if isinstance(t, Tensor) and not t._array.ndim else t


# -------------------------------------------------------------------------------------------------- along one dimension


def _vector(name: str, index: Tensor) -> Tensor:
    """An index of one dimension; a 0-d one has one element."""
    x = index._array
    if x.dtype not in INTEGERS:
        raise DtypeError(f"{name}: expected dtype int32 or int64 for index, got {OF_NUMPY[x.dtype]}: use index.long()")
    if x.ndim > 1:
        raise DimError(f"{name}: index is supposed to be a vector, got shape {tuple(x.shape)}")
    return basic_index(index, (None,)) if not x.ndim else index


@composite(
    samples=each(
        draw((3, 4), 1, ints(5, high=4)),
        draw((3, 4), 0, numbers([2], "int32")),
        draw((), 0, numbers([0])),
        draw((3,), -1, ints(0)),
    )
)
def index_select(input: Tensor, dim: int, index: Tensor, *, out: Any = None) -> Tensor:
    """input[..., index[j], ...] over ``dim``, for a vector of indices, none negative. DimError out of range."""
    at, n = _vector("index_select", index), input._array.ndim
    dim = wrap_dim("index_select", dim, n)
    if not n:
        if at._array.size != 1:
            raise ShapeError(f"index_select: Index to scalar can have only 1 value, got {at._array.size} value(s)")
        result = views.reshape(_index(basic_index(input, (None,)), [at], (0,), False, False), ())
    else:
        result = _index(input, [at], (dim,), False, False)
    return result if out is None else into("index_select", out, result)


def _source(name: str, input: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    """Errors where ``source`` does not fit along ``dim``."""
    x, s, i = input._array, source._array, index._array
    if s.dtype != x.dtype:
        raise DtypeError(
            f"{name}: self ({OF_NUMPY[x.dtype]}) and source ({OF_NUMPY[s.dtype]}) must have the same scalar type"
        )
    if (s.shape[dim] if s.ndim else 1) != i.size:
        raise RangeError(
            f"{name}: Number of indices ({i.size}) should be equal to source.size(dim): "
            f"({s.shape[dim] if s.ndim else 1}), "
            f"for dim: {dim}"
        )
    if not x.ndim and s.ndim == 1 and name.startswith("index_copy"):  # PyTorch takes a vector for a 0-d input there
        return
    if s.ndim and (
        s.ndim != x.ndim or any(m != n for d, (m, n) in enumerate(zip(x.shape, s.shape, strict=True)) if d != dim)
    ):
        raise ShapeError(
            f"{name}: source tensor shape must match self tensor shape, excluding the specified dimension. Got "
            "self.shape = "
            f"{list(x.shape)} source.shape = {list(s.shape)}"
        )


def _along(
    name: str, input: Tensor, dim: int, index: Tensor, source: Tensor | None, accumulate: bool, write: bool
) -> Tensor:
    """The index_… functions: ``_index_put`` with one vector of indices. ``source`` None: for a fill."""
    at = _vector(name, index)
    dim = wrap_dim(name, dim, input._array.ndim)
    x = basic_index(input, (None,)) if not input._array.ndim else input
    assert source is not None
    attrs = {"dims": (dim,), "accumulate": accumulate, "wrap": name.startswith("index_fill")}
    if write:
        in_place(_PUT, _PUT_, name, x, (source, [at]), attrs)
        return input
    return views.reshape(_index_put(x, source, [at], **attrs), input._array.shape)


def _scaled(name: str, input: Tensor, dim: int, index: Tensor, source: Tensor, alpha: Any) -> Tensor:
    dim = wrap_dim(name, dim, input._array.ndim)
    _source(name, input, dim, _vector(name, index), source)
    return source if alpha == 1 else (source * alpha).to(source.dtype)


@composite(samples=each(draw((3, 4), 0, numbers([2, 0, 2]), (3, 4)), draw((3, 4), -1, numbers([1]), (3, 1), alpha=2)))
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1, out: Any = None) -> Tensor:
    """A copy of input to which ``alpha * source[..., j, ...]`` is added at ``index[j]`` of ``dim``; repeats add up.

    Summed in float32 or wider, on a GPU as ``scatter_add`` does.
    """
    scaled = _scaled("index_add", input, dim, index, source, alpha)
    result = _along("index_add", input, dim, index, scaled, True, False)
    return result if out is None else into("index_add", out, result)


@composite(
    on="method",
    samples=each(draw((4, 3), 0, numbers([2, 0, 1]), (3, 3)), draw((2, 4), 1, numbers([2, 0, 1]), (2, 3), alpha=2)),
)
def index_add_(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """``index_add`` in input's own memory."""
    return _along("index_add_", input, dim, index, _scaled("index_add_", input, dim, index, source, alpha), True, True)


@composite(samples=each(draw((3, 4), 0, numbers([2, 0]), (2, 4)), draw((3, 4), -1, numbers([1]), (3, 1))))
@takes_out
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of input with ``source[..., j, ...]`` written at ``index[j]`` of ``dim``."""
    return _along("index_copy", input, dim, index, _scaled("index_copy", input, dim, index, source, 1), False, False)


@composite(
    on="method", samples=each(draw((4, 3), 0, numbers([2, 0, 1]), (3, 3)), draw((2, 4), -1, numbers([2, 0, 1]), (2, 3)))
)
def index_copy_(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``index_copy`` in input's own memory."""
    return _along("index_copy_", input, dim, index, _scaled("index_copy_", input, dim, index, source, 1), False, True)


def _filler(name: str, input: Tensor, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value._array.ndim:
        raise ShapeError(
            f"{name}: only supports a 0-dimensional value tensor, but got one of {value._array.ndim} dimensions"
        )
    if not isinstance(value, Tensor):
        value = create.number_as(name, value, input._array.dtype)
    return as_value(value, input._array)


def _filled(name: str, input: Tensor, dim: int, index: Tensor, value: Tensor) -> Tensor:
    """``index_fill`` of a tensor, by a mask: a place that index names twice has one share in the value's gradient."""
    at, x = _vector(name, index), input._array
    dim = wrap_dim(name, dim, x.ndim)
    n = x.shape[dim] if x.ndim else 1
    mask = _index_put(create.zeros(n, dtype=bool_, device=input.device), create.ones_like(at, dtype=bool_), [at], (0,))
    mask = views.reshape(mask, (n, *(1,) * (x.ndim - dim - 1)) if x.ndim else ())
    return registry["_where"].public(mask, _filler(name, input, value), input)  # type: ignore[no-any-return]


@composite(samples=each(draw((3, 4), 0, numbers([2, 0]), 1.5), draw((3, 4), 1, numbers([3]), 2),
                        draw((3, 4), 1, numbers([3, 0, 3]), Draw(()))))  # fmt: skip
@takes_out
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of input with ``value`` (a number or a 0-d tensor) at ``index`` of ``dim``."""
    if isinstance(value, Tensor):
        return _filled("index_fill", input, dim, index, value)
    return _along("index_fill", input, dim, index, _filler("index_fill", input, value), False, False)


@composite(
    on="method", samples=each(draw((4, 3), 0, numbers([2, 0, 1]), 2.5), draw((2, 4), 1, numbers([2, 0, 1]), -1.0))
)
def index_fill_(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """``index_fill`` in input's own memory."""
    if isinstance(value, Tensor):
        _inplace.check_writable(input, "index_fill_")
        _inplace.assign(input, _filled("index_fill_", input, dim, index, value), "index_fill_", own=True)
        return input
    return _along("index_fill_", input, dim, index, _filler("index_fill_", input, value), False, True)


@composite(samples=each(draw((3, 4), ints(2, 3, low=-12, high=12)), draw((5,), ints(0))))
@takes_out
def take(input: Tensor, index: Tensor) -> Tensor:
    """input.reshape(-1)[index], of the shape of ``index``."""
    index_integers("take", index._array)
    return _index(views.reshape(input, (input._array.size,)), [index], (0,))


@composite(
    inplace=True,
    samples=each(
        draw((3, 4), numbers([[1, 5], [0, -1]]), (2, 2)), draw((5,), numbers([1, 1, 2]), (3,), accumulate=True),
        draw((3, 4), ints(0), (0,)),
    ),
)  # fmt: skip
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """input with ``source`` put (or added) at ``index`` of its elements in C order; one source for each index.

    Negative indices count from the end. RangeError out of range.
    """
    x, i, s = input._array, index._array, source._array
    index_integers("put_", i)
    if s.dtype != x.dtype:
        raise DtypeError(
            f"put_: self and source expected to have the same dtype, but got self.dtype = {OF_NUMPY[x.dtype]} and "
            f"source.dtype = {OF_NUMPY[s.dtype]}"
        )
    if s.size != i.size:
        raise DimError(
            "put_: Expected source and index to have the same number of elements, but got source.numel() = "
            f"{s.size}, index.numel() = {i.size}"
        )
    flat, at = views.reshape(input, (x.size,)), views.reshape(index, (i.size,))
    return views.reshape(_index_put(flat, views.reshape(source, (s.size,)), [at], (0,), accumulate), x.shape)


@composite(
    on="function",
    samples=each(
        draw(numbers([3, 5]), [2, 3]), draw(numbers([[7, -1], [0, 4]]), [2, 2, 3]), draw(numbers(3), 4),
        draw(numbers([3, 6]), [2, 3]),
    ),
)  # fmt: skip
def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """The coordinates, one tensor a dimension of ``shape``, of elements numbered in C order."""
    if not isinstance(indices, Tensor) or indices._array.dtype.kind not in "iu":
        raise TypeError(f"unravel_index: expected 'indices' to be integer dtype, but got {indices!r}")
    sizes = as_ints("unravel_index", "shape", shape)
    if any(n < 0 for n in sizes):
        raise ArgumentError(f"unravel_index: 'shape' cannot have negative values, but got {sizes}")
    rest: Any = indices.long()  # type: ignore[attr-defined]
    out = []
    for n in reversed(sizes):
        out.append(rest.remainder(n))
        rest = rest.div(n, rounding_mode="floor")
    return tuple(reversed(out))


# -------------------------------------------------------------------------------------------------------------- masks


@composite(samples=each(draw((3, 4), bools(3, 4)), draw((3, 4), bools(4)), draw((4,), bools(3, 1))))
def masked_select(input: Tensor, mask: Tensor, *, out: Any = None) -> Tensor:
    """The elements of input where mask holds, broadcast against each other, in C order: 1-D."""
    if mask._array.dtype != _BOOL:
        raise DtypeError(f"masked_select: expected BoolTensor for mask, got {OF_NUMPY[mask._array.dtype]}")
    shape = views.shape_of_all("masked_select", [input._array.shape, mask._array.shape])
    if not shape:
        shape = (1,)
    x, m = views.expand(input, shape), views.expand(mask, shape)
    result = getitem(x, m)
    return result if out is None else into("masked_select", out, result)


@composite(inplace=True, samples=each(draw((3, 4), bools(3, 4), (12,)), draw((3, 4), bools(4), (3, 4))))
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with the elements of ``source``, in order, where mask holds. ShapeError when source has too few."""
    if mask._array.dtype != _BOOL:
        raise DtypeError(
            f"masked_scatter: only supports boolean masks, but got mask with dtype {OF_NUMPY[mask._array.dtype]}"
        )
    if source._array.dtype != input._array.dtype:
        raise DtypeError(
            f"masked_scatter: expected self and source to have same dtypes but got {OF_NUMPY[input._array.dtype]} and "
            f"{OF_NUMPY[source._array.dtype]}"
        )
    shape = views.shape_of_all("masked_scatter", [input._array.shape, mask._array.shape])
    if type(mask._array) in LIFTED and source._array.size:  # no list of places: how long it is differs in a batch
        every: Any = views.expand(mask, shape)
        at = (views.reshape(every, (math.prod(shape),)).cumsum(0) - 1).clamp(0, source._array.size - 1)
        found = getitem(views.reshape(source, (source._array.size,)), at)
        return registry["_where"].public(every, views.reshape(found, shape), input)  # type: ignore[no-any-return]
    flat = views.reshape(views.expand(input, shape), (math.prod(shape),))
    at = basic_index(_nonzero(views.reshape(views.expand(mask, shape), (math.prod(shape),))), (slice(None), 0))
    count = at._array.size
    if source._array.size < count:
        raise ShapeError(f"masked_scatter: expected at least {count} elements in source, got {source._array.size}")
    taken = basic_index(views.reshape(source, (source._array.size,)), (slice(0, count),))
    return views.reshape(_index_put(flat, taken, [at], (0,)), shape)


#: What Tensor has as special methods.
SPECIAL = {"__getitem__": getitem, "__setitem__": setitem}
