"""How operators compute with batches: rules that follow from declarations, and those of their own.

A rule is called as ``rule(op, args, batched, counts, attrs, count, dtype)``: ``args`` are the flattened operands, those
marked in ``batched`` with a batch of ``count`` as their first dimension; ``dtype`` is what one element of the batch
promotes to. It gives the arrays of all outputs with the batch first, or None where it does not apply: the operator
then runs once for each element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, wrap
from tensorlib._dispatch import compute
from tensorlib.autograd.lifted import view_of
from tensorlib.op import Op, registry

Rule = Callable[[Op, list[Any], list[bool], Any, dict[str, Any], int, Any], Any]


def rank(x: Any, batched: bool) -> int:
    """Dimensions of one element of the batch."""
    return x._array.ndim - batched if isinstance(x, Tensor) else 0


def aligned(x: Any, batched: bool, ndim: int) -> Any:
    """A batched tensor with dimensions of size 1 behind the batch, so that an element has ``ndim``."""
    if not batched:
        return x
    shape = x._array.shape
    missing = ndim - (len(shape) - 1)
    return x.reshape((shape[0], *(1,) * missing, *shape[1:])) if missing > 0 else x


def repeated(x: Any, batched: bool, count: int) -> Any:
    """A tensor with the batch, also where all its elements are the same."""
    if batched or not isinstance(x, Tensor):
        return x
    return x.expand((count, *x._array.shape))  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- from declarations


def pointwise(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """Operands aligned behind the batch. A number of the batch keeps its low rank in promotion: it is converted."""
    ndim = max(rank(x, b) for x, b in zip(args, batched, strict=True))
    promoted = op.promoted if op.promoted is not None else range(len(args))
    flat = []
    for i, (x, b) in enumerate(zip(args, batched, strict=True)):
        if b and dtype is not None and x._array.ndim == 1 and i in promoted and x._array.dtype != dtype:
            x = wrap(compute(registry["cast"], [x], None, {"dtype": dtype})[0])
        flat.append(aligned(x, b, ndim))
    return compute(op, flat, counts, attrs)


def along_dims(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """An operator along dimensions of tensors of one rank: the dimensions behind the batch."""
    if any(style == "ints" for _, style in op.styled):
        return None
    tensors = [(x, b) for x, b in zip(args, batched, strict=True) if isinstance(x, Tensor)]
    ndim = rank(*tensors[0])
    if any(rank(x, b) != ndim for x, b in tensors):
        return None
    flat = [repeated(x, b, count) for x, b in zip(args, batched, strict=True)]
    moved = dict(attrs)
    shape: Any = None
    for name, style in op.styled:
        value = attrs[name]
        if style == "dims":
            if not ndim:  # a number of the batch is a row of one
                flat, moved[name], shape = [_row(x) for x in flat], (1,), (count,)
            else:
                moved[name] = tuple([d + 1 for d in value])
        elif style in ("dim", "newdim"):
            if value is None:  # all of them, as one
                flat = [x.reshape((count, -1)) if isinstance(x, Tensor) else x for x in flat]
                moved[name], shape = 1, "kept" if attrs.get("keepdim") else None
            else:
                moved[name] = value + 1
    outs = compute(op, flat, counts, moved)
    if shape == "kept":
        outs = [wrap(o).reshape((count, *(1,) * ndim))._array for o in outs]  # type: ignore[attr-defined]
    elif shape is not None:
        outs = [wrap(o).reshape(shape)._array if o.shape == (count, 1) else o for o in outs]  # type: ignore[attr-defined]
    return outs


def _row(x: Any) -> Any:
    return x.reshape((x._array.shape[0], 1)) if isinstance(x, Tensor) else x


def elementwise(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """One operand, and an operator that cares about no dimension: as it is."""
    return compute(op, args, counts, attrs)


def rule_of(op: Op) -> Rule | None:
    """The rule of an operator: its own, or the one that follows from its declaration. None: one element at a time."""
    if op.batch is not None:
        return op.batch
    own = RULES.get(op.name)
    if own is not None:
        return own
    if op.random:
        return None
    if op.pointwise:
        return pointwise
    if any(style in ("dim", "dims", "newdim") for _, style in op.styled):
        return along_dims
    return None


# ------------------------------------------------------------------------------------------------------ linear algebra


def leading(*core: int) -> Rule:
    """An operator on the last dimensions whose leading ones are batches that broadcast: ``core`` for each operand."""

    def rule(
        op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
    ) -> Any:
        cores = core * len(args) if len(core) == 1 else core
        lead = max(rank(x, b) - c for x, b, c in zip(args, batched, cores, strict=True) if isinstance(x, Tensor))
        flat = [aligned(x, b, lead + c) for x, b, c in zip(args, batched, cores, strict=True)]
        return compute(op, flat, counts, attrs)

    return rule


def matmul(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """Vectors become matrices of one row or column; the batch is the first of the leading dimensions."""
    (a, b), (in_a, in_b) = args, batched
    rows, columns = rank(a, in_a), rank(b, in_b)
    if not in_b and (rows == 1 or columns <= 2):
        if columns > 2:  # (B, k) by (…, k, n)
            return [wrap(compute(op, [a, b], None, attrs)[0]).movedim(-2, 0)._array]  # type: ignore[attr-defined]
        return compute(op, [a, b], counts, attrs)
    if not in_a and columns == 1 and rows == 2:
        return compute(op, [b, a.mT], counts, attrs)
    if rows == 1 and in_a:
        a = a.unsqueeze(-2)
    if columns == 1 and in_b:
        b = b.unsqueeze(-1)
    lead = max(rank(a, in_a), rank(b, in_b))
    out: Any = wrap(compute(op, [aligned(a, in_a, lead), aligned(b, in_b, lead)], counts, attrs)[0])
    if columns == 1 and in_b:
        out = out.squeeze(-1)
        if rows == 1 and in_a:
            out = out.squeeze(-1)
    elif rows == 1 and in_a:
        out = out.squeeze(-1) if columns == 1 else out.squeeze(-2)
    return [out._array]


def gram(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """The rows of each element of the batch as one matrix, and a product of matrices for each."""
    rows = [
        x.reshape((count, math.prod(x.shape[1:-1]), x.shape[-1])) if b else x.reshape((-1, x.shape[-1]))
        if 0 not in x.shape else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))
        for x, b in zip(args, batched, strict=True)
    ]  # fmt: skip
    if all(batched) and rows[0].shape[1] == 1:  # outer products: no sum to compute
        return compute(registry["mul"], [rows[0].mT, rows[1]], None, {})
    return compute(registry["matmul"], [rows[0].mT, rows[1]], None, {})


def linear(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """With one weight as it is; with one for each element a product of matrices."""
    x, weight, bias = args
    in_x, in_weight, in_bias = batched
    if not in_weight and not in_bias:
        return compute(op, args, counts, attrs)
    if rank(weight, in_weight) != 2:
        return None
    product = matmul(registry["matmul"], [x, weight.mT], [in_x, in_weight], None, {}, count, dtype)
    in_product = in_x or in_weight
    if bias is None:
        return product
    ndim = rank(x, in_x)
    add = registry["add"]
    attrs = {p.name: p.default for p in add.attrs}
    out: Any = wrap(product[0])
    if not in_product:
        out = wrap(compute(registry["matmul"], [x, weight.mT], None, {})[0])
    return compute(add, [out, aligned(bias, in_bias, ndim)], None, attrs)


def solve(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """Both with the batch, so that a vector of each element stays one."""
    (a, b), (in_a, in_b) = args, batched
    rank_a, rank_b = rank(a, in_a), rank(b, in_b)
    a, b = repeated(a, in_a, count), repeated(b, in_b, count)
    if rank_b == 1 or (rank_b == rank_a - 1 and b._array.shape == a._array.shape[:-1]):
        return compute(op, [a, b], counts, attrs) if rank_b == rank_a - 1 else None
    lead = max(rank_a, rank_b)
    return compute(op, [aligned(a, True, lead), aligned(b, True, lead)], counts, attrs)


def together(*core: int) -> Rule:
    """As ``leading``, where the leading dimensions of the operands must be the same."""
    broadcasting = leading(*core)

    def rule(
        op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
    ) -> Any:
        flat = [repeated(x, b, count) for x, b in zip(args, batched, strict=True)]
        return broadcasting(op, flat, [True] * len(flat), counts, attrs, count, dtype)

    return rule


def first_only(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """An operator on the elements of its first operand, the others being the same for all."""
    return None if any(batched[1:]) else compute(op, args, counts, attrs)


def sorted_once(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """One sorted sequence for all that is searched for."""
    one = not batched[0] and not batched[2] and rank(args[0], False) == 1
    return compute(op, args, counts, attrs) if one and args[1]._array.ndim else None


# --------------------------------------------------------------------------------------------------------- convolutions


def _fold(x: Any, batched: bool, count: int, into: int) -> Any:
    """The batch as part of dimension ``into`` of an element."""
    x = repeated(x, batched, count)
    if into:
        x = x.movedim(0, into)
    shape = x.shape
    return x.reshape((*shape[:into], shape[into] * shape[into + 1], *shape[into + 2 :]))


def _unfold(array: Any, at: int, count: int) -> Any:
    """The inverse of ``_fold`` on a result."""
    t: Any = wrap(array)
    shape = array.shape
    t = t.reshape((*shape[:at], count, shape[at] // count, *shape[at + 1 :]))
    return (t.movedim(at, 0) if at else t)._array


def convolution(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """With one weight the batch joins N; with one for each element it joins the groups."""
    x, weight, bias = args
    in_x, in_weight, in_bias = batched
    spatial = rank(weight, in_weight) - 2
    single = rank(x, in_x) == spatial + 1  # without N
    if not in_weight and not in_bias:
        if single:
            return compute(op, args, counts, attrs)
        out = compute(op, [_fold(x, in_x, count, 0), weight, bias], counts, attrs)
        return [_unfold(out[0], 0, count)]
    if single:
        x = x.unsqueeze(1 if in_x else 0)
    if bias is not None:
        bias = _fold(bias, in_bias, count, 0)
    out = compute(op, [_fold(x, in_x, count, 1), _fold(weight, in_weight, count, 0), bias], counts,
                  {**attrs, "groups": attrs["groups"] * count})  # fmt: skip
    found = _unfold(out[0], 1, count)
    return [wrap(found).squeeze(1)._array] if single else [found]  # type: ignore[attr-defined]


def convolution_transposed(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """With one weight for all, the batch joins N."""
    x, weight, bias = args
    n, *rest = attrs["output_size"]
    if any(batched[1:]) or rank(x, True) != weight._array.ndim:
        return None
    out = compute(op, [_fold(x, True, count, 0), weight, bias], counts, {**attrs, "output_size": (n * count, *rest)})
    return [_unfold(out[0], 0, count)]


def convolution_grad_weight(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """A weight's gradient for each element of the batch: the batch joins the groups."""
    g, x = args
    if rank(x, batched[1]) != len(attrs["weight_size"]):
        return None
    o, c, *rest = attrs["weight_size"]
    changed = {**attrs, "weight_size": (o * count, c, *rest), "groups": attrs["groups"] * count}
    out = compute(op, [_fold(g, batched[0], count, 1), _fold(x, batched[1], count, 1)], counts, changed)
    return [_unfold(out[0], 0, count)]


def images(spatial: int | str, sizes: str = "") -> Rule:
    """An operator on images (N, C, …) or (C, …), all operands batched alike: the batch joins N.

    ``spatial``: how many dimensions an image has, or the attribute that has as many values.
    """

    def rule(
        op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
    ) -> Any:
        flat = [repeated(x, b, count) for x, b in zip(args, batched, strict=True)]
        single = flat[0]._array.ndim == 2 + (spatial if isinstance(spatial, int) else len(attrs[spatial]))
        if sizes:
            size = attrs[sizes]
            attrs = {**attrs, sizes: (count, *size) if single else (size[0] * count, *size[1:])}
        if single:
            return compute(op, flat, counts, attrs)
        outs = compute(op, [_fold(x, True, count, 0) for x in flat], counts, attrs)
        return [_unfold(o, 0, count) for o in outs]

    return rule


# ----------------------------------------------------------------------------------------------- joining and indexing


def cat(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """All repeated to the batch, joined one dimension further."""
    ranks = [rank(x, b) for x, b in zip(args, batched, strict=True)]
    if len(set(ranks)) != 1:  # the empty tensors that cat forgives
        return None
    dim = attrs["dim"]
    flat = [repeated(x, b, count) for x, b in zip(args, batched, strict=True)]
    return compute(op, flat, counts, {**attrs, "dim": dim + 1 if dim >= 0 else dim})


def along_dim(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """Operands of one rank and an attribute ``dim``."""
    tensors = [(x, b) for x, b in zip(args, batched, strict=True) if isinstance(x, Tensor)]
    ndim = rank(*tensors[0])
    if not ndim or any(rank(x, b) != ndim for x, b in tensors):
        return None
    dim = attrs["dim"]
    flat = [repeated(x, b, count) for x, b in zip(args, batched, strict=True)]
    return compute(op, flat, counts, {**attrs, "dim": dim + 1 if dim >= 0 else dim})


def embedding(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """One table as it is; one for each element: a table of all, and rows counted in it."""
    index, table = args
    if not batched[1]:
        return compute(op, args, counts, attrs)
    rows = table.shape[1]
    index = _own_rows(index, batched[0], rows, count)
    return compute(op, [index, table.reshape((count * rows, *table.shape[2:]))], counts, attrs)


def _own_rows(index: Any, batched: bool, rows: int, count: int) -> Any:
    shift: Any = wrap(_array.to_device(_numbers(count) * rows, _array.device_of(index._array)))
    index = repeated(index, batched, count)
    return index + shift.to(index.dtype).reshape((count, *(1,) * (index._array.ndim - 1)))


def _numbers(count: int) -> Any:
    return np.arange(count)


def embedding_grad(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """The gradient of a table for each element of the batch: of one table that holds them all."""
    g, index = args
    padding = attrs["padding_idx"]
    if (padding is not None and padding >= 0) or not batched[0]:
        return None
    rows = attrs["num_weights"]
    index = _own_rows(index, batched[1], rows, count)
    out = compute(op, [g, index], counts, {**attrs, "num_weights": rows * count})
    return [wrap(out[0]).reshape((count, rows, *out[0].shape[1:]))._array]  # type: ignore[attr-defined]


def _places(dims: Sequence[int]) -> int | None:
    """Where the common dimensions of an advanced index go: the first of adjacent dims; None: in front."""
    return dims[0] if list(dims) == list(range(dims[0], dims[0] + len(dims))) else None


def index(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """Indices of the batch are joined by the number of the element, as the index of the input's batch."""
    x, *indices = args
    in_x, *in_indices = batched
    dims = tuple(attrs["dims"])
    at = _places(dims)
    if not any(in_indices):
        out: Any = wrap(compute(op, args, counts, {**attrs, "dims": tuple([d + 1 for d in dims])})[0])
        common = max(i._array.ndim for i in indices)
        return [(out if at is not None else out.movedim(common, 0))._array]
    common = max(rank(i, b) for i, b in zip(indices, in_indices, strict=True))
    indices = [aligned(i, b, common) for i, b in zip(indices, in_indices, strict=True)]
    if not in_x:
        out = wrap(compute(op, [x, *indices], counts, attrs)[0])
        return [(out.movedim(at, 0) if at else out)._array]
    own: Any = wrap(_array.to_device(_numbers(count), _array.device_of(x._array))).reshape((count, *(1,) * common))  # type: ignore[attr-defined]
    changed = {**attrs, "dims": (0, *[d + 1 for d in dims])}
    out = wrap(compute(op, [x, own, *indices], [-1, len(indices) + 1], changed)[0])
    if at:  # (B, common…, rest…) with the common ones where the indexed were
        for _ in range(common):
            out = out.movedim(1, at + common)
    return [out._array]


def index_grad(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """The inverse of ``index``."""
    g, *indices = args
    in_g, *in_indices = batched
    dims = tuple(attrs["dims"])
    at = _places(dims)
    g = repeated(g, in_g, count)
    changed = {**attrs, "shape": (count, *attrs["shape"])}
    if not any(in_indices):
        if at is None:
            g = g.movedim(0, max(i._array.ndim for i in indices))
        return compute(op, [g, *indices], counts, {**changed, "dims": tuple([d + 1 for d in dims])})
    common = max(rank(i, b) for i, b in zip(indices, in_indices, strict=True))
    indices = [aligned(i, b, common) for i, b in zip(indices, in_indices, strict=True)]
    if at:
        for _ in range(common):
            g = g.movedim(at + common, 1)
    own: Any = wrap(_array.to_device(_numbers(count), _array.device_of(g._array))).reshape((count, *(1,) * common))  # type: ignore[attr-defined]
    changed["dims"] = (0, *[d + 1 for d in dims])
    return compute(op, [g, own, *indices], [-1, len(indices) + 1], changed)


def sized(*names: str, dims: Sequence[str] = ()) -> Rule:
    """One operand; attributes that are shapes get the batch in front, those that are dimensions move up."""

    def rule(
        op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
    ) -> Any:
        changed = dict(attrs)
        for name in names:
            changed[name] = (count, *attrs[name])
        ndim = len(attrs[names[0]]) if names else rank(args[0], batched[0])
        for name in dims:
            value = attrs[name]
            if isinstance(value, int):
                changed[name] = value % max(ndim, 1) + 1
            else:
                changed[name] = tuple([d % max(ndim, 1) + 1 for d in value])
        return compute(op, args, counts, changed)

    return rule


def slice_grad(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """The index behind the batch."""
    changed = {**attrs, "shape": (count, *attrs["shape"]), "index": (slice(None), *attrs["index"])}
    return compute(op, args, counts, changed)


def of_all(op_dims: str) -> Rule:
    """A reduction of all elements, by the operator that takes dimensions."""

    def rule(
        op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
    ) -> Any:
        rows = args[0].reshape((count, math.prod(args[0].shape[1:])))
        return compute(registry[op_dims], [rows], None, {"dim": (1,), "keepdim": False})

    return rule


def normalized(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], count: int, dtype: Any
) -> Any:
    """Over the last dimensions, with one weight for all."""
    if any(batched[1:]):
        return None
    return compute(op, args, counts, attrs)


RULES: dict[str, Rule] = {
    "matmul": matmul, "_gram": gram, "linear": linear,
    "_convolution": convolution, "_convolution_transposed": convolution_transposed,
    "_convolution_grad_weight": convolution_grad_weight,
    "_max_pool": images("kernel_size"), "_max_pool_grad": images("kernel_size", "input_size"),
    "_max_pool_take": images("kernel_size"), "_avg_pool": images("kernel_size"),
    "_avg_pool_grad": images("kernel_size", "input_size"), "_adaptive_avg_pool": images("output_size"),
    "_unfold": images(2), "_fold": images(1),
    **{f"linalg_{name}": leading(2) for name in (
        "inv_ex cholesky_ex qr lu_factor_ex ldl_factor_ex eigh eigvalsh eig eigvals svd svdvals det slogdet matrix_exp "
        "solve_triangular").split()},
    "geqrf": leading(2), "linalg_ldl_solve": together(2, 1, 2), "linalg_solve_ex": solve,
    "complex": pointwise, "polar": pointwise, "frexp": elementwise, "_constant_pad": elementwise,
    "_roll": sized(dims=("dims",)), "_fft_c2c": sized(dims=("dim",)), "_fft_r2c": sized(dims=("dim",)),
    "_fft_c2r": sized(dims=("dim",)), "_isin": first_only, "_searchsorted": sorted_once,
    "cat": cat, "_gather": along_dim, "_scatter": along_dim, "_scatter_add": along_dim, "_scatter_reduce": along_dim,
    "_embedding": embedding, "embedding_grad": embedding_grad, "_index": index, "_index_grad": index_grad,
    "_slice_grad": slice_grad, "_as_strided_grad": lambda *_: None, "_unfold_grad": sized("shape", dims=("dimension",)),
    "_diagonal_grad": sized("shape", dims=("dim1", "dim2")), "_flip": sized(dims=("dims",)),
    "_max_all": of_all("amax"), "_min_all": of_all("amin"),
    "_layer_norm": normalized, "_rms_norm": normalized,
    "cast": elementwise, "_clone": elementwise, "_conjugate": elementwise,
    "tril": elementwise, "triu": elementwise,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- views


def view_attrs(op: Op, x: Any, attrs: dict[str, Any]) -> tuple[Op, Any, dict[str, Any]]:
    """The view of what holds a batch that is the view of each of its elements: operator, array, attributes."""
    value = x.value
    count = value.shape[0]
    special = VIEWS.get(op.name)
    if special is not None:
        return special(op, x, attrs)
    changed = dict(attrs)
    for name, style in op.styled:
        if style in ("dim", "newdim"):
            changed[name] = attrs[name] + 1
        elif style == "dims":
            changed[name] = tuple([d + 1 for d in attrs[name]])
    if not x.shape and any(style == "dim" for _, style in op.styled):  # a number has a dimension to name
        value = view_of(registry["view"], value, {"shape": (count, 1)})
    return op, value, changed


def _of_shape(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    shape = tuple(attrs["shape"])
    if -1 in shape:
        known = -math.prod(shape)
        shape = tuple([x.size // known if s == -1 and known else s for s in shape])
    if math.prod(shape) != x.size or any(s < 0 for s in shape):
        op.spec(x, shape)  # type: ignore[misc]
    return op, x.value, {"shape": (x.value.shape[0], *shape)}


def _of_size(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    size = attrs["size"]
    value, count = x.value, x.value.shape[0]
    missing = len(size) - x.ndim
    if missing > 0:
        value = view_of(registry["_slice"], value, {"index": (slice(None), *(None,) * missing)})
    return op, value, {"size": (count, *size)} if missing >= 0 else {"size": size}


def _of_dims(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    dims = attrs["dims"]
    if len(dims) != x.ndim:
        return op, x.value, {"dims": (0, *[d + 1 for d in dims])}  # raises
    return op, x.value, {"dims": (0, *[d % max(x.ndim, 1) + 1 if -x.ndim <= d < x.ndim else d + 1 for d in dims])}


def _of_index(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    index = attrs["index"]
    op.spec(x, index)  # type: ignore[misc]  # errors count an element's dimensions
    return op, x.value, {"index": (slice(None), *index)}


def _of_strides(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    value = x.value
    changed = {"size": (value.shape[0], *attrs["size"]), "stride": (_array.strides_of(value)[0], *attrs["stride"]),
               "offset": attrs["offset"]}  # fmt: skip
    return op, value, changed


def _transposed(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    if not x.ndim:
        return op, x.value, {"dim0": 0, "dim1": 0}
    return op, x.value, {"dim0": attrs["dim0"] + 1, "dim1": attrs["dim1"] + 1}


def _of_reduction(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    shape, dim, value = attrs["shape"], attrs["dim"], x.value
    count = value.shape[0]
    if not attrs["keepdim"]:
        n = len(shape)
        dims = range(n) if dim is None else [d % n for d in (dim if isinstance(dim, tuple) else (dim,))] if n else []
        kept = tuple([1 if d in dims else size for d, size in enumerate(shape)])
        value = view_of(registry["view"], value, {"shape": (count, *kept)})
    return registry["expand"], value, {"size": (count, *shape)}


VIEWS: dict[str, Callable[[Op, Any, dict[str, Any]], tuple[Op, Any, dict[str, Any]]]] = {
    "view": _of_shape, "expand": _of_size, "permute": _of_dims, "_slice": _of_index, "_as_strided": _of_strides,
    "transpose": _transposed, "_spread": _of_reduction,
}  # fmt: skip
