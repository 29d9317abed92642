"""Forward mode: arrays of dual numbers ``primal + tangent ε``, ε² = 0, of one level each.

The tangent of an operator's result follows from its declaration: linear operators apply to the tangent; a real
pointwise operator's Jacobian is diagonal, so that its vjp is its jvp; any other is differentiated twice: its vjp is
linear in g, and the gradient of ``vjp(g)`` with respect to g, towards the tangents, is the jvp (J. Townsend, "A new
trick for calculating Jacobian vector products", 2017). A declaration may name its own (``jvp=``).

Gradients over dual numbers are dual numbers: the adjoint of a product in their ring is the product with the same
factor, where the gradient of the tangent stands in the primal's place and that of the primal in the tangent's. Such
gradients are marked ``swapped``; taking values in and out of the level is what exchanges the two. So backward needs
nothing of its own for a function that was differentiated forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorlib import _array
from tensorlib._core import LIFTED, Node, Tensor, modes, version_of, wrap
from tensorlib._dispatch import compute, edge, make_node, results, sync
from tensorlib.autograd import engine
from tensorlib.autograd.batched import BatchedArray, claim_below, out_of
from tensorlib.autograd.jvp_rules import rule_of
from tensorlib.autograd.lifted import Level, Lifted, highest, levels_of, lift_edge, of_array, outside, view_of
from tensorlib.errors import AutogradError
from tensorlib.op import Op, registry


class Dual(Level):
    """One call of ``jvp``, or one ``dual_level``."""

    __slots__ = ()

    def claim(self, array: Any) -> DualArray:
        """With a tangent of zeros."""
        return DualArray(array, None, self)

    def reduce(self, g: Tensor) -> Tensor:
        """Of a gradient from outside the level, the primal's; one of a loss inside stays dual."""
        return tangent_of(g, self) if swapped_at(g._array, self) else g

    def prepare(self, target: Tensor, source: Any) -> None:
        """Give the target, and what it is a view of, a tangent to write."""
        swapped, tangent = swapped_at(source, self), tangent_in(source, self)
        if tangent_in(target._array, self) is not None or (
            tangent is None and (not swapped or self in levels_of(target._array))
        ):
            return
        base = target if target._view is None else target._view.base
        if tangent_in(base._array, self) is None:
            x = primal_in(base._array, self)
            zeros = None
            if tangent is not None:
                zeros = of_array(lambda t: t * 0 if levels_of(t._array) else t.new_zeros(t.shape), x)  # type: ignore
                if any(level not in levels_of(zeros) for level in levels_of(tangent)):  # a tangent for each of a batch
                    nothing = of_array(lambda t: t.reshape(-1)[:0].sum(), tangent)  # type: ignore[attr-defined]
                    zeros = of_array(lambda t: t + wrap(nothing), zeros)
            base._array = joined(x, zeros, self, swapped)
        if target._view is not None:
            array = base._array
            for op, attrs in target._view.steps:
                array = view_of(op, array, attrs)
            target._array = array


class DualArray(Lifted):
    """``primal + tangent ε``; a tangent of None is zero."""

    __slots__ = ("primal", "swapped", "tangent")

    def __init__(self, primal: Any, tangent: Any, level: Dual, swapped: bool = False) -> None:
        self.primal = primal
        self.tangent = tangent
        self.level = level
        self.order = level.order
        self.levels = (level, *levels_of(primal))
        if tangent is not None and type(tangent) in LIFTED:
            self.levels += tuple([other for other in tangent.levels if other not in self.levels])
        self.swapped = swapped
        self.shape = primal.shape
        self.dtype = primal.dtype

    def _held(self) -> Any:
        return self.primal

    def accumulated(self, g: Tensor) -> Tensor:
        """The gradient without its tangent, which ends with the level."""
        return wrap(
            self.primal if type(self.primal) not in LIFTED else self.primal.accumulated(wrap(self.primal))._array
        )

    def decomposes(self, op: Op) -> bool:
        """Auxiliary outputs have no tangents, and derivatives of fused operators need not have derivatives."""
        return True

    def any(self, *args: Any, **kwargs: Any) -> bool:
        """Whether any number of either part is not 0."""
        return super().any() or (self.tangent is not None and bool(self.tangent.any()))

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements."""
        return _array.strides_of(self.primal)

    def read(self) -> Any:
        """The primal's numbers."""
        return _array.to_host(self.primal)

    def __repr__(self) -> str:
        return f"DualArray(lvl={self.order}, primal={self.primal!r}, tangent={self.tangent!r})"

    def text(self, show: Callable[[Tensor], str]) -> str:
        """As a tensor with this array prints."""
        tangent = "None" if self.tangent is None else show(wrap(self.tangent))
        return f"DualTensor(lvl={self.order}, primal={show(wrap(self.primal))}, tangent={tangent})"

    def map(self, function: Callable[[Any], Any]) -> DualArray:
        """A linear function of both parts."""
        tangent = None if self.tangent is None else function(self.tangent)
        return DualArray(function(self.primal), tangent, self.level, self.swapped)

    def claimed(self, level: Any) -> Any:
        """With an earlier level, constant there."""
        return self.map(lambda part: claim_below(part, level))

    # ------------------------------------------------------------------------------------------- computing

    def compute(self, op: Op, flat: list[Any], counts: Any, attrs: dict[str, Any]) -> Sequence[Any]:
        """The outputs of an operator of which an operand is dual at this level, the latest of all."""
        level = self.level
        primals, tangents = [], []
        swapped = False
        for x in flat:
            a = x._array if isinstance(x, Tensor) else None
            if type(a) is DualArray and a.level is level:
                primals.append(wrap(a.primal))
                tangents.append(None if a.tangent is None else wrap(a.tangent))
                swapped = swapped or a.swapped
            else:
                primals.append(x)
                tangents.append(None)
        with outside(level):
            if op.mutates:
                return self._mutate(op, primals, tangents, counts, attrs)
            outs = compute(op, list(primals), counts, attrs)
            if all(t is None for t in tangents) or not any(o.dtype.kind not in "iub" for o in outs[: op.n_public]):
                found: Sequence[Any] = [None] * len(outs)
            else:
                found = push(op, primals, tangents, counts, attrs, outs)
        return [
            o if o.dtype.kind in "iub" else DualArray(o, t, level, swapped) for o, t in zip(outs, found, strict=True)
        ]

    def viewed(self, op: Op, attrs: dict[str, Any]) -> Any:
        """The view of both parts."""
        if op.name == "_bits":
            raise AutogradError("view: a dual tensor cannot be viewed as another dtype")
        return self.map(lambda part: view_of(op, part, attrs))

    def _mutate(self, op: Op, primals: list[Any], tangents: list[Any], counts: Any, attrs: Any) -> Sequence[Any]:
        beside = registry.get(op.name.rstrip("_"))
        if beside is None or len(op.mutates) != 1:
            raise AutogradError(f"{op.name}: cannot write into its operands in forward mode")
        at = op.mutates[0]
        outs = compute(beside, list(primals), counts, attrs)
        if any(t is not None for t in tangents):
            if tangents[at] is None:
                raise AutogradError(f"{op.name}: cannot write a dual tensor into one without a tangent: clone it first")
            tangent = push(beside, primals, tangents, counts, attrs, outs)[0]
            tangents[at].copy_(wrap(tangent))
        primals[at].copy_(wrap(outs[0]))
        return ()

    def write(self, target: Any, source: Any, name: str, write: Callable[[Any, Any, str], None]) -> None:
        """target[...] = source, of which this has the latest level."""
        level = self.level
        write(primal_in(target, level), primal_in(source, level), name)
        into, tangent = tangent_in(target, level), tangent_in(source, level)
        if into is not None:
            if tangent is None:
                tangent = of_array(lambda t: t.new_zeros(()), primal_in(source, level))  # type: ignore[attr-defined]
            write(into, tangent, name)


LIFTED.add(DualArray)


def swapped_at(array: Any, level: Dual) -> bool:
    """Whether an array is a gradient that came into a level from outside."""
    if type(array) is DualArray:
        return array.swapped if array.level is level else swapped_at(array.primal, level)
    return type(array) is BatchedArray and swapped_at(array.value, level)


# ----------------------------------------------------------------------------------------------- tangents of operators


def push(
    op: Op, primals: Sequence[Any], tangents: Sequence[Any], counts: Any, attrs: dict[str, Any], outs: Sequence[Any]
) -> list[Any]:
    """The tangents of an operator's outputs (None: zero), as arrays; those of auxiliary outputs are left out."""
    live = [
        i for i, t in enumerate(tangents) if t is not None and primals[i]._array.dtype.kind not in "iub"
    ]  # fmt: skip
    found: list[Any] = [None] * len(outs)
    if not live:
        return found
    rule = op.jvp or rule_of(op)
    if rule is not None:
        given = rule(op, primals, tangents, live, counts, attrs, outs)
        if given is not None:
            for i, t in enumerate(given):
                found[i] = None if t is None else t._array
            return found
    if op.vjps is None and op.composite is None:
        raise AutogradError(f"{op.name}: the derivative for '{op.name}' is not implemented (forward mode)")
    if op.pointwise and type(op.vjps) is dict and op.n_public == 1 and outs[0].dtype.kind == "f" and all(
        primals[i]._array.dtype.kind != "c" for i in live
    ):  # fmt: skip
        total = None
        for i in live:
            term = _diagonal(op, primals, tangents[i], i, attrs, outs)
            if term is not None:
                total = term if total is None else total + term
        found[0] = None if total is None else total._array
        return found
    return _twice(op, primals, tangents, live, counts, attrs, outs)


def _diagonal(op: Op, primals: Sequence[Any], tangent: Any, i: int, attrs: dict[str, Any], outs: Sequence[Any]) -> Any:
    """The vjp of one operand, applied to its tangent."""
    shape, dtype = outs[0].shape, outs[0].dtype
    flat = [x.expand(shape) if isinstance(x, Tensor) and x._array.shape != shape else x for x in primals]
    flat[i] = source = wrap(flat[i]._array)
    source._needs = True
    t = tangent if tangent._array.shape == shape else tangent.expand(shape)
    before, modes.grad = modes.grad, True
    try:
        out = results(op, flat, None, attrs, outs)
    finally:
        modes.grad = before
    node = out._node
    if node is None:
        return None
    node.edges = tuple([(None if e is None else source) for e in node.edges])
    r = engine.pull(node, [t.to(dtype)], False)[i]
    return None if r is None else r.to(dtype)


def _twice(
    op: Op, primals: Sequence[Any], tangents: Sequence[Any], live: list[int], counts: Any, attrs: dict[str, Any],
    outs: Sequence[Any],
) -> list[Any]:  # fmt: skip
    """The gradient, with respect to g, of the vjp with g."""
    flat = list(primals)
    for i in live:
        flat[i] = wrap(primals[i]._array)
        flat[i]._needs = True
    found: list[Any] = [None] * len(outs)
    before, modes.grad = modes.grad, True
    try:
        made = results(op, flat, counts, attrs, outs)
        public = [made] if op.n_public == 1 else list(made)
        chosen = [i for i, t in enumerate(public) if t._needs]
        if not chosen:
            return found
        seeds = []
        for i in chosen:
            g = wrap(highest_like(outs[i], of_array(lambda t: t.new_zeros(t.shape), outs[i])))
            g._needs = True
            seeds.append(g)
        sources = [flat[i] for i in live]
        firsts = engine.run([public[i] for i in chosen], seeds, True, True, sources)
        pairs = [(f, tangents[i]) for f, i in zip(firsts, live, strict=True) if f is not None and f._needs]
        if not pairs:
            return found
        seconds = engine.run([f for f, _ in pairs], [t.to(f.dtype) for f, t in pairs], False, False, seeds)
    finally:
        modes.grad = before
    for i, t in zip(chosen, seconds, strict=True):
        found[i] = None if t is None else t._array
    return found


def highest_like(model: Any, array: Any) -> Any:
    """``array`` with the levels of ``model``, constant there: its gradient then is one for each element of a batch."""
    for level in reversed(levels_of(model)):
        if level not in levels_of(array):
            array = claim_below(array, level)
    return array


# ------------------------------------------------------------------------------------------- in and out of a level


def joined(primal: Any, tangent: Any, level: Dual, swapped: bool = False) -> Any:
    """The dual array of two arrays, below their later levels."""
    top = highest(primal, tangent)
    if top is None or top.order < level.order:
        return DualArray(primal, tangent, level, swapped)
    if type(top) is BatchedArray:
        above = top.level
        parts = [p if p is None else out_of(p, above) for p in (primal, tangent)]
        return BatchedArray(joined(parts[0], parts[1], level, swapped), above)
    above = top.level
    mark = any(type(p) is DualArray and p.level is above and p.swapped for p in (primal, tangent))
    first = joined(primal_in(primal, above), None if tangent is None else primal_in(tangent, above), level, swapped)
    tangents = [None if p is None else tangent_in(p, above) for p in (primal, tangent)]
    if tangents[0] is None and tangents[1] is None:
        return DualArray(first, None, above, mark)
    if tangents[0] is None:
        tangents[0] = of_array(lambda t: t.new_zeros(t.shape), tangents[1])
    return DualArray(first, joined(tangents[0], tangents[1], level, swapped), above, mark)


def primal_in(array: Any, level: Dual) -> Any:
    """The primal at a level."""
    if level not in levels_of(array):
        return array
    if type(array) is DualArray:
        return array.primal if array.level is level else array.map(lambda part: primal_in(part, level))
    return BatchedArray(primal_in(array.value, level), array.level, array.const)


def tangent_in(array: Any, level: Dual) -> Any:
    """The tangent at a level; None where it is zero."""
    if level not in levels_of(array):
        return None
    if type(array) is DualArray:
        if array.level is level:
            return array.tangent
        first = tangent_in(array.primal, level)
        second = None if array.tangent is None else tangent_in(array.tangent, level)
        if first is None:
            if second is None:
                return None
            first = of_array(lambda t: t.new_zeros(t.shape), second)
        return DualArray(first, second, array.level, array.swapped)
    inner = tangent_in(array.value, level)
    return None if inner is None else BatchedArray(inner, array.level, array.const)


class _Make:
    name = "MakeDualBackward0"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        g, level = grads[0], node.attrs
        if not swapped_at(g._array, level):  # of a loss inside the level
            return g, None
        return tangent_of(g, level), primal_of(g, level)


class _Primal:
    name = "UnpackDualBackward0"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        g = grads[0]
        return (make(g.new_zeros(g.shape), g, node.attrs, True),)


class _Tangent:
    name = "UnpackDualBackward1"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        return (make(grads[0], None, node.attrs, True),)


def make(primal: Tensor, tangent: Tensor | None, level: Dual, swapped: bool = False) -> Tensor:
    """The dual tensor of a level, with the history of both parts."""
    sync(primal)
    if tangent is not None:
        sync(tangent)
    array = joined(primal._array, None if tangent is None else tangent._array, level, swapped)
    out = wrap(array)
    if not swapped:
        out._writes = version_of(primal)
    if modes.grad and (primal._needs or (tangent is not None and tangent._needs)):
        levels = [other for other in array.levels if other is not level]
        edges = []
        for t in (primal, tangent):
            e = None if t is None else edge(t)
            edges.append(None if t is None or e is None else lift_edge(e, t, levels))
        out._node, out._needs = make_node(_Make, tuple(edges), None, level), True
    return out


def _part(t: Tensor, array: Any, rule: Any, level: Dual) -> Tensor:
    out = wrap(array)
    if modes.grad and t._needs:
        out._node, out._needs = make_node(rule, (edge(t),), None, level), True
    return out


def primal_of(t: Tensor, level: Dual) -> Tensor:
    """The primal of a tensor at a level."""
    sync(t)
    if level not in levels_of(t._array):
        return t
    return _part(t, primal_in(t._array, level), _Primal, level)


def tangent_of(t: Tensor, level: Dual) -> Tensor:
    """The tangent of a tensor at a level, zeros where it has none."""
    sync(t)
    tangent = tangent_in(t._array, level)
    if tangent is None:
        before, modes.grad = modes.grad, False
        try:
            return t.new_zeros(t._array.shape) if level not in levels_of(t._array) else _zeros_like(t, level)
        finally:
            modes.grad = before
    return _part(t, tangent, _Tangent, level)


def _zeros_like(t: Tensor, level: Dual) -> Tensor:
    primal: Any = wrap(primal_in(t._array, level))
    return primal * 0 if levels_of(primal._array) else primal.new_zeros(primal.shape)  # type: ignore[no-any-return]
