"""Arrays that stand for more than their numbers: the batch that ``vmap`` hides, and a value with its tangent.

Each transform is a kind of array (a member of ``LIFTED``), so that Tensor, autograd and every composite work on it
as on any other: ``_dispatch.compute`` and ``apply_view`` hand an operator over to the array of the highest level.
The history (Nodes) lies above, over whatever arrays there are; that is what makes the transforms compose in any
order.

A level is one call of ``vmap`` or ``jvp``. Levels are numbered in the order in which they begin, an array nests them
with the latest outside, and one that lacks a level is constant there.

Where an operand with a gradient lacks a level that the result has, its edge passes a ``Lift``: the gradient is summed
over the hidden batch, or taken from the tangent of dual gradients.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import LIFTED, Node, Tensor, modes, version_of, wrap
from tensorlib._dispatch import edge, make_node, sync
from tensorlib.errors import AutogradError
from tensorlib.op import registry

_next_order = count(1).__next__


class Level:
    """One call of a transform."""

    __slots__ = ("__weakref__", "order")

    def __init__(self) -> None:
        self.order = _next_order()

    def claim(self, array: Any) -> Any:
        """The array as one made inside the level, where it is constant."""
        raise TypeError

    def reduce(self, g: Tensor) -> Tensor:
        """The gradient of an operand without the level from the one of its use inside."""
        raise TypeError

    def prepare(self, target: Tensor, source: Any) -> None:
        """Before an array with this level is written into a tensor."""


class _State(threading.local):
    """The levels that a thread is inside of, outermost first."""

    active: tuple[Level, ...] = ()


state = _State()


@contextmanager
def inside(level: Level) -> Any:
    """Run the function of a transform: the level is active."""
    before = state.active
    state.active = (*before, level)
    try:
        yield level
    finally:
        state.active = before


@contextmanager
def outside(level: Level) -> Any:
    """Compute with what arrays of a level hold: neither it nor a later one is active, and nothing is recorded."""
    active, grad = state.active, modes.grad
    state.active, modes.grad = tuple([other for other in active if other.order < level.order]), False
    try:
        yield
    finally:
        state.active, modes.grad = active, grad


class Lifted:
    """What the lifted arrays have in common: shape and dtype as the operators inside the level see them."""

    __slots__ = ("__weakref__", "dtype", "level", "levels", "order", "shape")

    level: Any
    levels: tuple[Any, ...]
    order: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def _held(self) -> Any:
        raise TypeError

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, had they been contiguous."""
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> Any:
        """Where the numbers are."""
        return _array.device_of(self._held())

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements."""
        raise TypeError

    @property
    def ptr(self) -> int:
        """Address of the first element."""
        x = self._held()
        return x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x.ptr

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return view_of(registry["_slice"], self, {"index": index if isinstance(index, tuple) else (index,)})

    def decomposes(self, op: Any) -> bool:
        """Whether a fused operator is computed by its parts: where their rules are better than its own, or none."""
        return not op.pointwise or any(type(held) is not type(self) for held in self._all_held())

    def accumulated(self, g: Tensor) -> Tensor:
        """What a leaf takes of a gradient with this array."""
        return g

    def _all_held(self) -> list[Any]:
        """This, and the lifted arrays that it holds."""
        held = self._held()
        return [self, *(held._all_held() if type(held) in LIFTED else [])]

    def _numbers(self, *args: Any, **kwargs: Any) -> Any:
        raise AutogradError(
            "vmap, jvp: this operator reads the numbers of a Tensor, which inside a transform stands for more than "
            "them: use it outside, or rewrite it with other operators"
        )

    # What only code that looks at the numbers themselves calls.
    reshape = ravel = astype = copy = min = max = all = sum = tobytes = view = transpose = swapaxes = _numbers

    def numbers(self) -> np.ndarray:
        """All the numbers there are, with the hidden dimensions in front: for checks, not for results."""
        held = self._held()
        return held.numbers() if type(held) in LIFTED else _array.to_host(held)  # type: ignore[no-any-return]

    def any(self, *args: Any, **kwargs: Any) -> bool:
        """Whether any of the numbers is not 0."""
        return bool(self.numbers().any())

    def prepare(self, target: Tensor) -> None:
        """Before this is written into a tensor."""
        for level in self.levels:
            level.prepare(target, self)

    def edges(self, edges: tuple[Any, ...], operands: Sequence[Any]) -> tuple[Any, ...]:
        """The edges of a Node with this output, where operands lack levels that it has."""
        return tuple([e if e is None else lift_edge(e, t, self.levels) for e, t in zip(edges, operands, strict=True)])


def levels_of(array: Any) -> tuple[Any, ...]:
    """The levels of an array, latest first."""
    return array.levels if type(array) in LIFTED else ()


def highest(*arrays: Any) -> Any:
    """The array with the latest level, or None where none has any."""
    top = None
    for x in arrays:
        if type(x) in LIFTED and (top is None or x.order > top.order):
            top = x
    return top


class _Lift:
    name = "LiftBackward"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        g = grads[0]
        for level in node.attrs:
            g = level.reduce(g)
        return (g,)


def lift_edge(e: Any, t: Tensor, levels: Sequence[Any]) -> Any:
    """The edge of an operand used where there are ``levels``."""
    own = levels_of(t._array)
    missing = [level for level in levels if level not in own]
    return (make_node(_Lift, (e,), None, missing), 0) if missing else e


def claim(array: Any) -> Any:
    """The array as one made here: with every active level, constant in those it lacks."""
    own = levels_of(array)
    top = own[0].order if own else 0
    for level in state.active:
        if level not in own:
            if level.order < top:
                return array.claimed(level)  # held by one of a later level, which is no longer active
            array = level.claim(array)
            top = level.order
    return array


class _Fresh:
    name = "AliasBackward0"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> tuple[Any, ...]:
        return (grads[0],)


#: The rule of the Nodes that ``fresh`` makes: where the gradients of a transform's inputs are caught.
FRESH = _Fresh


def fresh(t: Tensor) -> Tensor:
    """The same values under a Node of their own, made in the active levels: what ``func.grad`` differentiates by."""
    sync(t)
    x = t._array
    out = wrap(claim(x))
    out._writes = version_of(t)
    e = edge(t) if modes.grad else None
    if e is not None:
        e = lift_edge(e, t, levels_of(out._array))
    out._node = make_node(_Fresh, (e,))
    out._needs = True
    return out


def tensor_op(t: Tensor, array: Any, rule: Any, level: Any) -> Tensor:
    """A tensor around an array made from t's, with the history of one step that ``rule`` undoes."""
    out = wrap(array)
    if modes.grad and t._needs and array.dtype.kind not in "iub":
        out._node = make_node(rule, (edge(t),), None, level)
        out._needs = True
    return out


def of_array(function: Callable[[Tensor], Tensor], array: Any) -> Any:
    """A Tensor function applied to a bare array."""
    before, modes.grad = modes.grad, False
    try:
        return function(wrap(array))._array
    finally:
        modes.grad = before


def view_of(op: Any, x: Any, attrs: dict[str, Any]) -> Any:
    """A declared view of a bare array."""
    return op.reference(x, **attrs) if type(x) not in LIFTED else x.viewed(op, attrs)
