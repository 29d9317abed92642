"""What a Tensor, a Node and a mode hold: data and no behaviour, so that every layer above can share them."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorlib._array import Array


class Tensor:
    """A strided array on one device, with the history that produced it. Methods are attached by ``_tensor``."""

    # What every new tensor is given; `_grad` and `_hooks` are rare and live in __dict__ with a class default.
    __slots__ = ("__dict__", "__weakref__", "_array", "_index", "_needs", "_node", "_view", "_writes")

    _array: Array  # numpy.ndarray on the CPU, DeviceArray elsewhere
    _needs: bool  # a gradient flows through it: a leaf that requires one, or the output of a Node
    _node: Node | None  # what computed it
    _index: int  # which of the Node's outputs it is
    _writes: list[int] | None  # [times written], shared with views; made when first needed
    _view: View | None  # for a view: the base it looks into and how

    _grad: Tensor | None = None
    _hooks: dict[int, Any] | None = None


class View:
    """How a view came from its base: ``steps`` replayed on ``base`` give the view (and its history) again."""

    __slots__ = ("base", "stamp", "steps")

    def __init__(self, base: Tensor, steps: tuple[Any, ...], stamp: int) -> None:
        self.base = base
        self.steps = steps
        #: base's version when the view's own history was made; another version means that it must be made again.
        self.stamp = stamp


class Node:
    """One recorded operation: what backward needs of it and where its gradients go."""

    __slots__ = ("__weakref__", "attrs", "edges", "hooks", "inputs", "outputs", "rule", "saved", "seq", "trace")

    rule: Any  # has .name and .backward(node, grads, create_graph) -> a gradient for each edge
    edges: tuple[Any, ...]  # for each tensor input: a leaf Tensor, a (Node, index), or None when it needs no gradient
    saved: Any  # what the rule kept; None once released
    attrs: Any
    inputs: Any  # ((shape, dtype), …) of the inputs where a gradient must be brought back to them
    outputs: tuple[Any, ...]  # ((shape, numpy dtype, device), …)
    hooks: dict[Any, Any] | None
    seq: int
    trace: Any  # anomaly mode: the stack of the forward call


class Packed:
    """A kept tensor that a hook has taken away, and the hook that brings it back."""

    __slots__ = ("packed", "unpack")

    def __init__(self, packed: Any, unpack: Any) -> None:
        self.packed = packed
        self.unpack = unpack


class Modes(threading.local):
    """What a thread has switched on."""

    grad = True
    inference = False
    anomaly = False
    check_nan = True  # of anomaly mode
    pack: Any = None  # (pack, unpack) hooks for what Nodes keep
    pack_disabled: str | None = None  # why no such hooks may be set
    device: Any = None  # default device of factories; None is the CPU
    autocast: Any = None  # the Autocast that is switched on
    capture: Any = None  # the graph that this thread's work is recorded into: cuda/graphs.py


modes = Modes()

#: The classes of arrays that stand for more than their numbers: the batch of a ``vmap``, a value with its tangent. Each
#: computes an operator (``compute``) and a view (``viewed``) itself; to all above they are arrays on some device.
LIFTED: set[type] = set()

#: What ``random.draw`` asks while ``vmap`` hides dimensions: called as ``mark(offset)``, it gives the offset to use.
draw_marks: list[Any] = []

#: Counts what needs to see every operation (autocast, anomaly mode, recorders, profilers), in all threads.
#: While it is zero the fast paths need not look at anything else.
listening = [0]

#: Called as ``observe(op, inputs, attrs, outputs)`` for each computation, below autograd.
observers: list[Any] = []

next_seq = count().__next__
new = object.__new__

#: The classes the fast paths take: results are plain Tensors. Other subclasses go the slow way.
KINDS: set[type] = {Tensor}


_node_classes: dict[str, type[Node]] = {}


def node_class(rule: Any) -> type[Node]:
    """The class of a rule's Nodes, named as users see it: MulBackward0 for the operator mul."""
    found = _node_classes.get(rule.name)
    if found is None:
        name: str = rule.name
        if hasattr(rule, "reference"):  # an operator's declaration
            name = "".join([part.capitalize() for part in name.split("_")]) + "Backward0"
        found = _node_classes[rule.name] = type(name, (Node,), {"__slots__": (), "__module__": __name__})
    return found


def wrap(array: Any) -> Tensor:
    """A new tensor without history around an array."""
    t = new(Tensor)
    t._array = array
    t._needs = False
    t._node = None
    t._index = 0
    t._writes = None
    t._view = None
    return t


def version_of(tensor: Tensor) -> list[int]:
    """The tensor's version counter, made at first need."""
    counter = tensor._writes
    if counter is None:
        counter = tensor._writes = [0]
    return counter
