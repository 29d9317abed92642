"""``vmap``: arrays that hide a batch dimension, and how operators compute with them.

An operator's rule for batches follows from its declaration where that says enough: pointwise operators align their
operands behind the batch, views and operators along dimensions move them up by one. Others have a rule of their own
(``batch=`` in the declaration, or the table in ``batch_rules``); an operator with neither runs once for each element of
the batch and its results are stacked, which is always right and never fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import LIFTED, Node, Tensor, draw_marks, version_of, wrap
from tensorlib._dispatch import Meta, compute, sync, unflatten
from tensorlib._inplace import ENTERED
from tensorlib.autograd.batch_rules import rule_of, view_attrs
from tensorlib.autograd.lifted import (
    Level,
    Lifted,
    inside,
    levels_of,
    of_array,
    outside,
    state,
    tensor_op,
    view_of,
)
from tensorlib.errors import AutogradError
from tensorlib.op import Op, registry

ndarray = np.ndarray


class Batch(Level):
    """One call of ``vmap``: how many elements its batch has, and what random operators do."""

    __slots__ = ("count", "randomness")

    def __init__(self, count: int, randomness: str = "error") -> None:
        super().__init__()
        self.count = count
        self.randomness = randomness

    def claim(self, array: Any) -> BatchedArray:
        """The same for every element of the batch."""
        return BatchedArray(array, self, True)

    def reduce(self, g: Tensor) -> Tensor:
        """The sum over the batch."""
        if self in levels_of(g._array):
            return leave(g, self).sum(0)  # type: ignore[attr-defined,no-any-return]
        return g * self.count  # type: ignore[operator,no-any-return]


class BatchedArray(Lifted):
    """An array for each element of a batch: ``value`` has the batch as its first dimension, unless ``const``."""

    __slots__ = ("const", "value")

    def __init__(self, value: Any, level: Batch, const: bool = False) -> None:
        self.value = value
        self.level = level
        self.order = level.order
        self.levels = (level, *levels_of(value))
        self.const = const
        self.shape = value.shape if const else value.shape[1:]
        self.dtype = value.dtype

    def _held(self) -> Any:
        return self.value

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements."""
        strides = _array.strides_of(self.value)
        return strides if self.const else strides[1:]

    def read(self) -> Any:
        """There is no one value to read."""
        raise AutogradError(
            "vmap: It looks like you're calling .item() on a Tensor, or using its values in Python (if, numpy(), "
            "tolist()): inside vmap a Tensor stands for a whole batch. Rewrite it with tensor operators, such as "
            "where(condition, a, b)"
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.read()

    def item(self) -> Any:
        """There is no one value to read."""
        return self.read()

    def __repr__(self) -> str:
        at = "None" if self.const else "0"
        return f"BatchedArray(lvl={self.order}, bdim={at}, value={self.value!r})"

    def text(self, show: Callable[[Tensor], str]) -> str:
        """As a tensor with this array prints."""
        at = "None" if self.const else "0"
        return f"BatchedTensor(lvl={self.order}, bdim={at}, value=\n{_indented(show(wrap(self.value)))}\n)"

    def claimed(self, level: Any) -> Any:
        """With an earlier level, constant there."""
        from_below = claim_below(self.value, level)
        return BatchedArray(from_below, self.level, self.const)

    # ------------------------------------------------------------------------------------------- computing

    def compute(self, op: Op, flat: list[Any], counts: Any, attrs: dict[str, Any]) -> Sequence[Any]:
        """The outputs of an operator of which an operand is batched at this level, the latest of all."""
        level = self.level
        with outside(level):
            args, batched = split(flat, level)
            if op.mutates:
                return _mutate(op, args, batched, counts, attrs, level)
            if not any(batched):
                return [BatchedArray(o, level, True) for o in compute(op, args, counts, attrs)]
            outs = _by_rule(op, flat, args, batched, counts, attrs, level)
            if outs is None:
                outs = loop(op, args, batched, counts, attrs, level)
            return [BatchedArray(o, level) for o in outs]

    def viewed(self, op: Op, attrs: dict[str, Any]) -> Any:
        """A view of each element."""
        if self.const:
            return BatchedArray(view_of(op, self.value, attrs), self.level, True)
        return BatchedArray(view_of(*view_attrs(op, self, attrs)), self.level)

    def write(self, target: Any, source: Any, name: str, write: Callable[[Any, Any, str], None]) -> None:
        """target[...] = source, of which this has the latest level."""
        level = self.level
        if type(target) is not BatchedArray or target.level is not level:
            if not self.const:
                raise AutogradError(_inplace_message(name))
            write(target, self.value, name)
            return
        inner = source
        if type(source) is BatchedArray and source.level is level:
            inner = source.value
            if not source.const:
                if target.const:
                    raise AutogradError(_inplace_message(name))
                missing = target.ndim - source.ndim
                if missing:
                    shape = (level.count, *(1,) * missing, *source.shape)
                    inner = of_array(lambda t: t.reshape(shape), inner)  # type: ignore[attr-defined]
        write(target.value, inner, name)


LIFTED.add(BatchedArray)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def claim_below(array: Any, level: Any) -> Any:
    """The array with a level that it lacks, constant there, put where its number belongs."""
    if type(array) in LIFTED and array.order > level.order:
        return array.claimed(level)
    return level.claim(array)


def split(flat: Sequence[Any], level: Batch) -> tuple[list[Any], list[bool]]:
    """The operands as the tensors that hold the batch, and which of them do."""
    args, batched = [], []
    for x in flat:
        a = x._array if isinstance(x, Tensor) else None
        if type(a) is BatchedArray and a.level is level:
            args.append(wrap(a.value))
            batched.append(not a.const)
        else:
            args.append(x)
            batched.append(False)
    return args, batched


def logical(op: Op, flat: Sequence[Any], counts: Any, attrs: dict[str, Any]) -> tuple[Any, Any]:
    """(what ``spec`` gives for one element of the batch, the dtype the promoted operands are computed in)."""
    seen: list[Any] = [Meta(x._array.shape, x._array.dtype) if isinstance(x, Tensor) else x for x in flat]
    dtype = None
    out = None
    if op.promote is not None:
        where = op.promoted if op.promoted is not None else range(len(seen))
        chosen = [i for i in where if seen[i] is not None]
        if chosen:
            dtype, out = op.promote(op.name, [seen[i] for i in chosen], attrs)
            for i in chosen:
                seen[i] = Meta(getattr(seen[i], "shape", ()), dtype)
    if op.broadcasts and op.spec is None:
        return [(None, out)], dtype
    return op.specs(unflatten(seen, counts), attrs), dtype


def _by_rule(
    op: Op, flat: list[Any], args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], level: Batch
) -> Any:
    if op.dynamic:
        raise AutogradError(
            f"vmap: {op.name}: it is not possible to use an operator whose result's shape depends on the values inside "
            f"vmap (dynamic output shape), as the shapes would differ within the batch"
        )
    rule = rule_of(op)
    if rule is None:
        return None
    specs, dtype = logical(op, flat, counts, attrs)
    outs = rule(op, args, batched, counts, attrs, level.count, dtype)
    if outs is None:
        return None
    fixed = []
    for o, (shape, _) in zip(outs, specs, strict=True):
        if shape is not None and o.shape != (level.count, *shape):
            return None
        fixed.append(o)
    return fixed


def select(t: Tensor, i: int) -> Tensor:
    """One element of a batch."""
    return wrap(view_of(registry["_slice"], t._array, {"index": (i,)}))


def loop(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], level: Batch, step: Any = None
) -> list[Any]:
    """The operator for one element of the batch after the other, the results stacked.

    ``step``: the attributes of the i-th run, where they are not the same.
    """
    rows = []
    for i in range(level.count):
        each = [select(x, i) if b else x for x, b in zip(args, batched, strict=True)]
        rows.append(compute(op, each, counts, dict(attrs) if step is None else step(i)))
    if not rows:
        each = [_one_of(x) if b else x for x, b in zip(args, batched, strict=True)]
        outs = compute(op, each, counts, dict(attrs) if step is None else step(0))
        return [of_array(lambda t: t.new_empty((0, *t.shape)), o) for o in outs]  # type: ignore[attr-defined]
    return [stacked([row[k] for row in rows]) for k in range(len(rows[0]))]


def _one_of(t: Tensor) -> Tensor:
    return t.new_zeros(t._array.shape[1:])  # type: ignore[attr-defined,no-any-return]


def stacked(arrays: Sequence[Any]) -> Any:
    """The arrays as one, along a new first dimension."""
    op = registry["stack"]
    if all(type(a) is ndarray for a in arrays):
        return np.stack(arrays)
    return compute(op, [wrap(a) for a in arrays], [len(arrays)], {"dim": 0})[0]


# ------------------------------------------------------------------------------------------------------- in place


def _mutate(
    op: Op, args: list[Any], batched: list[bool], counts: Any, attrs: dict[str, Any], level: Batch
) -> Sequence[Any]:
    """An operator that writes into an operand: its values computed beside, then written."""
    beside = registry.get(op.name.rstrip("_"))
    if beside is None or len(op.mutates) != 1 or (counts is not None and counts[op.mutates[0]] >= 0):
        raise AutogradError(f"vmap: {op.name}: cannot write into its operands inside vmap")
    at = op.mutates[0]
    target = args[at]
    if not batched[at]:
        if any(batched):
            raise AutogradError(_inplace_message(op.name))
        compute(op, args, counts, attrs)
        return ()
    flat = [wrap(BatchedArray(x._array, level)) if b else x for x, b in zip(args, batched, strict=True)]
    out = compute(beside, flat, counts, attrs)[0]
    target.copy_(wrap(out.value))
    return ()


def _inplace_message(name: str) -> str:
    return (
        f"vmap: {name}: inplace arithmetic(self, *extra_args) is not possible because there exists a Tensor `other` in "
        f"extra_args that has more elements than `self`. This happened due to `other` being vmapped over but `self` "
        f"not being vmapped over in a vmap. Please try to use out-of-place operators instead of inplace arithmetic, or "
        f"make `self` from a vmapped tensor, as in torch.zeros_like(other)"
    )


# ------------------------------------------------------------------------------------------- in and out of a level


def into(array: Any, level: Batch) -> Any:
    """An array of shape (count, ...) as one of shape (...) that hides the count, below later levels."""
    if type(array) not in LIFTED or array.order < level.order:
        return BatchedArray(array, level)
    if type(array) is BatchedArray:
        if array.const:
            return BatchedArray(into(array.value, level), array.level, True)
        value = of_array(lambda t: t.transpose(0, 1), array.value)  # type: ignore[attr-defined]
        return BatchedArray(into(value, level), array.level)
    return array.map(lambda part: into(part, level))


def out_of(array: Any, level: Batch) -> Any:
    """The inverse of ``into``; what is constant in the level is repeated."""
    if level not in levels_of(array):
        shape = (level.count, *array.shape)
        return of_array(lambda t: t.expand(shape), array)  # type: ignore[attr-defined]
    if type(array) is BatchedArray:
        if array.level is level:
            return out_of(array.value, level) if array.const else array.value
        inner = out_of(array.value, level)
        if not array.const:
            inner = of_array(lambda t: t.transpose(0, 1), inner)  # type: ignore[attr-defined]
        return BatchedArray(inner, array.level, array.const)
    return array.map(lambda part: out_of(part, level))


class _Enter:
    name = ENTERED

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        return (leave(grads[0], node.attrs),)


class _Leave:
    name = "RemoveBatchDimBackward0"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        return (enter(grads[0], node.attrs),)


def enter(t: Tensor, level: Batch) -> Tensor:
    """A tensor whose first dimension is the batch, as the tensor inside the level."""
    sync(t)
    out = tensor_op(t, into(t._array, level), _Enter, level)
    out._writes = version_of(t)
    return out


def leave(t: Tensor, level: Batch) -> Tensor:
    """A tensor of the level, with the batch as its first dimension."""
    sync(t)
    return tensor_op(t, out_of(t._array, level), _Leave, level)


def vmap_flat(
    function: Callable[..., Sequence[Any]],
    args: Sequence[Any],
    in_dims: Sequence[int | None],
    out_dims: Sequence[int | None] | int | None,
    count: int,
    randomness: str,
) -> list[Any]:
    """``function`` of the elements of tensors along ``in_dims``; its results stacked along ``out_dims``."""
    level = Batch(count, randomness)
    with inside(level):
        given = [
            x if d is None else enter(x if not d else x.movedim(d, 0), level)
            for x, d in zip(args, in_dims, strict=True)
        ]
        results = function(*given)
    dims = [out_dims] * len(results) if out_dims is None or isinstance(out_dims, int) else out_dims
    return [out_dim(r, level, d) for r, d in zip(results, dims, strict=True)]


def out_dim(t: Any, level: Batch, dim: int | None) -> Any:
    """A result of the level with its batch at ``dim``; for None it must not have one."""
    if not isinstance(t, Tensor):
        raise AutogradError(
            f"vmap: `f` must only return Tensors, got type {type(t).__name__}. Did you mean to set out_dims= to None "
            f"for output?"
        )
    if dim is None:
        a = t._array
        if level not in levels_of(a):
            return t
        if isinstance(a, BatchedArray) and a.level is level and a.const:
            return leave(t, level)[0]  # type: ignore[index]
        raise ValueError(
            "vmap: `f` returned a batched Tensor for an output whose out_dims is None: it depends on the batch; "
            "give the dimension where it is to go"
        )
    out: Any = leave(t, level)
    return out.movedim(0, dim) if dim else out


# --------------------------------------------------------------------------------------------------- random numbers


class Drawn(int):
    """The offset of a draw of different numbers for each element of the batches that ``levels`` hide.

    It passes through the Node of the operator that drew, so that its gradient meets the same numbers.
    """

    levels: tuple[Batch, ...]

    def compute(self, op: Op, flat: list[Any], counts: Any, attrs: dict[str, Any], top: Any) -> Sequence[Any]:
        """The outputs of an operator that draws."""
        level = self.levels[0]
        if top is not None and top.order > level.order:
            return top.compute(op, flat, counts, attrs)  # type: ignore[no-any-return]
        attrs = {**attrs, "offset": drawn(int(self), self.levels[1:])}
        with outside(level):
            args, batched = split(flat, level)
            count = level.count
            if not args and "size" in attrs:
                attrs["size"] = (count, *attrs["size"])
                outs: Sequence[Any] = compute(op, [], counts, attrs)
            elif op.name in ("_dropout", "_bernoulli"):
                x = args[0]
                outs = compute(op, [x if batched[0] else x.expand((count, *x.shape))], counts, attrs)
            else:
                first = int(self)
                rest = self.levels[1:]
                # Each element its own stretch of the stream, 2^40 draws long.
                outs = loop(op, args, batched, counts, attrs, level,
                            lambda i: {**attrs, "offset": drawn(first + (i << 40), rest)})  # fmt: skip
            return [BatchedArray(o, level) for o in outs]

    def each(self, make: Callable[[Any], Any]) -> Any:
        """The arrays that ``make(offset)`` gives for each element of the batches, as one."""
        level, first = self.levels[0], int(self)
        rest = self.levels[1:]
        return BatchedArray(
            stacked([each_draw(drawn(first + (i << 40), rest), make) for i in range(level.count)]), level
        )


LIFTED.add(Drawn)


def each_draw(offset: Any, make: Callable[[Any], Any]) -> Any:
    """``make(offset)``, or such an array for each element of the batches for which an offset stands."""
    return offset.each(make) if type(offset) is Drawn else make(offset)


def drawn(offset: int, levels: tuple[Batch, ...]) -> int:
    """An offset for different numbers in each element of the levels."""
    if not levels:
        return offset
    out = Drawn(offset)
    out.levels = levels
    return out


def _mark(offset: int) -> int:
    """What ``random.draw`` asks: whether it may draw inside the active levels, and for how many."""
    different = []
    for level in reversed(state.active):
        if isinstance(level, Batch):
            if level.randomness == "error":
                raise AutogradError(
                    "vmap: called random operation while in randomness error mode. Please either use the 'same' or "
                    "'different' randomness flags on vmap or perform the randomness operation out of vmap"
                )
            if level.randomness == "different":
                different.append(level)
    return drawn(offset, tuple(different)) if different else offset


draw_marks.append(_mark)


def with_batches(t: Tensor, *others: Tensor) -> Tensor:
    """A new tensor's values for each element of the batches of ``others``, so that theirs can be written in."""
    array = t._array
    for other in others:
        if type(other._array) not in LIFTED:
            continue
        for level in reversed(levels_of(other._array)):
            if isinstance(level, Batch) and level not in levels_of(array):
                repeated = out_of(array, level)
                array = into(of_array(lambda x: x.clone(), repeated), level)  # type: ignore[attr-defined]
    if array is t._array:
        return t
    out = wrap(array)
    out._needs, out._node, out._index = t._needs, t._node, t._index
    return out
