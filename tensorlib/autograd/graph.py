"""The recorded graph: its nodes and edges, hooks on what it keeps and on groups of tensors."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tensorlib._core import Node, Packed, Tensor, modes, version_of, wrap
from tensorlib._dispatch import sync
from tensorlib._hooks import RemovableHandle
from tensorlib.autograd import engine
from tensorlib.autograd.modes import no_grad
from tensorlib.autograd.saved import saved_tensors_hooks
from tensorlib.errors import AutogradError
from tensorlib.op import Op

__all__ = ["AccumulateGrad", "GradientEdge", "Node", "allow_mutation_on_saved_tensors", "disable_saved_tensors_hooks",
           "get_gradient_edge", "increment_version", "register_multi_grad_hook", "save_on_cpu",
           "saved_tensors_hooks"]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ nodes, edges


class AccumulateGrad:
    """Where a gradient ends: the place of a leaf in ``next_functions``. Two for one leaf are equal."""

    __slots__ = ("variable",)

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable

    next_functions: tuple[Any, ...] = ()

    def name(self) -> str:
        """Its name."""
        return "torch::autograd::AccumulateGrad"

    @property
    def metadata(self) -> dict[Any, Any]:
        """Anything that belongs to it."""
        return self.variable.__dict__.setdefault("_accumulate_metadata", {})

    def register_prehook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn((gradient,))`` before it is added to the leaf's; what it returns takes its place."""

        return self._register("pre", fn)

    def register_hook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn((), (gradient,))`` after the gradient has been added to the leaf's."""
        return self._register("done", fn)

    def _register(self, when: str, fn: Callable[..., Any]) -> RemovableHandle:
        leaf: Any = self.variable
        if leaf._hooks is None:
            leaf._hooks = {}
        hooks = leaf._hooks.setdefault(when, OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = fn
        return handle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccumulateGrad) and other.variable is self.variable

    def __hash__(self) -> int:
        return hash((AccumulateGrad, id(self.variable)))

    def __repr__(self) -> str:
        return f"<AccumulateGrad object at {id(self.variable):#x}>"


_metadata: Any = weakref.WeakKeyDictionary()


def _name(self: Node) -> str:
    """The node's name, such as MulBackward0."""
    return engine.grad_name(self)


def _next_functions(self: Node) -> tuple[tuple[Any, int], ...]:
    """(node, output) that each input came from: AccumulateGrad for a leaf, (None, 0) where no gradient goes."""
    return tuple([
        (None, 0) if e is None else (AccumulateGrad(e), 0) if isinstance(e, Tensor) else e for e in self.edges
    ])  # fmt: skip


def _get_metadata(self: Node) -> dict[Any, Any]:
    """Anything that belongs to the node; empty at first."""
    return _metadata.setdefault(self, {})  # type: ignore[no-any-return]


def _register(self: Node, when: str, fn: Callable[..., Any]) -> RemovableHandle:
    if self.hooks is None:
        self.hooks = {}
    hooks = self.hooks.setdefault(when, OrderedDict())
    handle = RemovableHandle(hooks)
    hooks[handle.id] = fn
    return handle


def _register_hook(self: Node, fn: Callable[..., Any]) -> RemovableHandle:
    """Call ``fn(grad_inputs, grad_outputs)`` after the node's backward; what it returns takes grad_inputs' place."""
    return _register(self, "post", fn)


def _register_prehook(self: Node, fn: Callable[..., Any]) -> RemovableHandle:
    """Call ``fn(grad_outputs)`` before the node's backward; what it returns takes their place."""
    return _register(self, "pre", fn)


class SavedTensor:
    """One of the tensors that a node keeps, as ``grad_fn._raw_saved_<name>`` gives it."""

    __slots__ = ("_name", "_node")

    def __init__(self, node: Node | None = None, name: str = "") -> None:
        if node is None:
            raise AutogradError("Trying to create a SavedTensor object from Python is forbidden: a node's "
                                "_raw_saved_… attributes give them")  # fmt: skip
        self._node = node
        self._name = name

    def register_hooks(self, pack_hook: Callable[[Any], Any], unpack_hook: Callable[[Any], Any]) -> None:
        """Keep ``pack_hook(tensor)`` in its place; backward gets ``unpack_hook`` of it. Once, before it is freed."""
        node, name = self._node, self._name
        if node.saved is None:
            raise AutogradError("register_hooks: Calling register_hooks on a saved tensor after it has been freed")
        kept = node.saved[name]
        if isinstance(kept, Packed):
            raise AutogradError("register_hooks: Calling register_hooks on a saved tensor with existing hooks")
        if kept is None:
            raise AutogradError("register_hooks: Calling register_hooks on a saved tensor with value None is forbidden")
        t = wrap(kept[0])
        count = version_of(t)
        with no_grad():
            packed = pack_hook(t)
        if count[0]:
            raise AutogradError(
                "register_hooks: A saved tensor pack hook is modifying its input in place: pack a clone"
            )
        node.saved[name] = Packed(packed, unpack_hook)


def _kept_as(self: Node, public: str) -> tuple[str, str, int] | None:
    """(name, source, index) of what a node keeps under PyTorch's name for it: self is the first tensor, result out."""
    op = self.rule
    if not isinstance(op, Op):
        return None
    name = op.tensors[0].name if public == "self" and op.tensors else public
    if public == "result" or (public.startswith("result") and public[6:].isdigit()):
        at = int(public[6:] or 0)
        outputs = [n for n, i in op.output_names.items() if i == at]
        name = outputs[0] if outputs else public
    source = op._source(name)
    return None if source is None else (name, *source)


def _getattr(self: Node, name: str) -> Any:
    """``_saved_<name>`` and ``_raw_saved_<name>``: what the node keeps; of a custom Function whatever its ctx has."""
    for prefix, raw in (("_saved_", False), ("_raw_saved_", True)):
        found = _kept_as(self, name[len(prefix) :]) if name.startswith(prefix) else None
        if found is not None:
            return _kept(self, *found, raw)
    ctx = getattr(self.rule, "ctx", None)
    if ctx is not None and not name.startswith("__"):
        return getattr(ctx, name)
    raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


def _kept(self: Node, name: str, source: str, index: int, raw: bool) -> Any:
    if source == "attr":
        return self.attrs[name]
    if self.saved is None:
        raise AutogradError(
            f"{type(self).__name__}: Trying to backward through the graph a second time (or directly access saved "
            f"tensors after they have already been freed): Specify retain_graph=True in the first call"
        )
    if name not in self.saved:
        raise AttributeError(f"'{type(self).__name__}' object keeps no '{name}'")
    if raw:
        return SavedTensor(self, name)
    value = self.saved[name]
    if isinstance(value, (Packed, tuple)) and source in ("input", "output"):
        edge = self.edges[index] if source == "input" and not self.rule.variadic else None
        history = engine.with_history((self, index) if source == "output" else edge)
        return engine.unpack(self, name, value, history)
    return value


def _dir(self: Node) -> list[str]:
    """The attributes, among them what it keeps."""
    names = list(object.__dir__(self))
    if isinstance(self.rule, Op) and isinstance(self.saved, dict):
        first = self.rule.tensors[0].name if self.rule.tensors else ""
        public = {first: "self", "out": "result"}
        names += [f"_saved_{public.get(n, n)}" for n in (*self.saved, *self.attrs)]
    return names


def _call(self: Node, *grads: Any) -> Any:
    """The node's gradients for its inputs, from those of its outputs."""
    count = len(self.outputs[1]) if len(self.outputs) > 1 else 1
    if len(grads) != count:
        raise TypeError(f"{type(self).__name__} expected {count} arguments, got {len(grads)} instead")
    if not all(g is None or isinstance(g, Tensor) for g in grads):
        raise TypeError(f"{type(self).__name__}: expected tensors or None as gradients")
    found = tuple(engine.pull(self, list(grads), modes.grad))
    return found[0] if len(found) == 1 else found


def _repr(self: Node) -> str:
    return f"<{engine.grad_name(self)} object at {id(self):#x}>"


Node.__repr__ = _repr  # type: ignore[method-assign, assignment]
Node.__getattr__ = _getattr  # type: ignore[attr-defined]
Node.__call__ = _call  # type: ignore[attr-defined, method-assign]
Node.__dir__ = _dir  # type: ignore[method-assign, assignment]
Node.name = _name  # type: ignore[attr-defined]
Node.next_functions = property(_next_functions)  # type: ignore[attr-defined]
Node.metadata = property(_get_metadata)  # type: ignore[attr-defined]
Node.register_hook = _register_hook  # type: ignore[attr-defined]
Node.register_prehook = _register_prehook  # type: ignore[attr-defined]


class GradientEdge(NamedTuple):
    """Where a tensor's gradient goes: a node and which of its outputs. ``autograd.grad`` takes it among its inputs."""

    node: Any
    output_nr: int
    ownership_token: Any = None


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """The edge of a tensor that requires a gradient."""
    sync(tensor)
    if not tensor._needs:
        raise AutogradError("It is not possible to get the gradient edge for a Tensor that does not require gradients")
    if tensor._node is None:
        return GradientEdge(AccumulateGrad(tensor), 0)
    x = tensor._array
    # What tells a gradient's shape, dtype and device; on the CPU without keeping the tensor's memory alive.
    like = np.broadcast_to(np.zeros((), x.dtype), x.shape) if type(x) is np.ndarray else x
    return GradientEdge(tensor._node, tensor._index, like)


def increment_version(tensor: Tensor | Iterable[Tensor]) -> None:
    """Count a write that autograd did not see, so that a backward that needs the old values is an error."""
    for t in (tensor,) if isinstance(tensor, Tensor) else tensor:
        version_of(t)[0] += 1


# ------------------------------------------------------------------------------------------------ what the graph keeps


class save_on_cpu(saved_tensors_hooks):
    """Inside, what backward needs is kept in host memory and comes back to its device when it is needed."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        def pack(t: Any) -> Any:
            return t.device, t.detach().cpu().clone() if t.device.type == "cpu" else t.detach().cpu()

        def unpack(packed: Any) -> Any:
            device, t = packed
            return t.to(device)

        super().__init__(pack, unpack)


@contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Any:
    """Inside, ``saved_tensors_hooks`` raise a RuntimeError with this message."""
    before, modes.pack_disabled = modes.pack_disabled, error_message
    try:
        yield
    finally:
        modes.pack_disabled = before


class _Mutations:
    """The copies that an ``allow_mutation_on_saved_tensors`` holds."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def clear(self) -> None:
        """Forget them: backward through what was written raises again."""
        self.kept.clear()


@contextmanager
def allow_mutation_on_saved_tensors() -> Any:
    """Inside, tensors that backward needs may be written: it sees the values they had. Each is copied when kept."""
    held = _Mutations()

    def pack(t: Any) -> Any:
        held.kept.append(wrap(t.detach().clone()._array))
        return len(held.kept) - 1

    def unpack(i: int) -> Any:
        if i >= len(held.kept):
            raise AutogradError("Trying to backward outside of the 'allow_mutation_on_saved_tensors' context in which "
                                "the graph was originally recorded.")  # fmt: skip
        return held.kept[i]

    try:
        with saved_tensors_hooks(pack, unpack):
            yield held
    finally:
        held.clear()


# ------------------------------------------------------------------------------------------------------ several tensors


class _Handles(RemovableHandle):
    """The handles of hooks on several tensors."""

    def __init__(self, handles: Sequence[Any]) -> None:
        super().__init__(OrderedDict())
        self._handles = handles

    def remove(self) -> None:
        """Remove them all."""
        for handle in self._handles:
            handle.remove()


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[..., None], *, mode: str = "all"
) -> RemovableHandle:
    """Call ``fn(grads)`` when backward has the gradients of all ``tensors`` that it reaches (None for others).

    ``mode`` "any": ``fn(grad)`` with the first one of each backward.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of ('all', 'any') but got {mode}")
    lock = threading.Lock()
    runs: Any = weakref.WeakKeyDictionary()

    def state() -> dict[str, Any]:
        task = engine.current()
        if task not in runs:
            runs.clear()
            reached = engine.reached(tensors)
            runs[task] = {"grads": [None] * len(tensors), "left": sum(reached), "done": False}
        return runs[task]  # type: ignore[no-any-return]

    def hook(i: int) -> Callable[[Tensor], None]:
        def inner(g: Tensor) -> None:
            with lock:
                here = state()
                if mode == "any":
                    first, here["done"] = not here["done"], True
                    ready = first
                else:
                    if here["grads"][i] is None:
                        here["left"] -= 1
                    here["grads"][i] = g
                    ready = here["left"] == 0
                    if ready:
                        runs.clear()  # holds no gradients between backwards
            if ready:
                fn(g if mode == "any" else here["grads"])

        return inner

    return _Handles([t.register_hook(hook(i)) for i, t in enumerate(tensors)])  # type: ignore[attr-defined]
