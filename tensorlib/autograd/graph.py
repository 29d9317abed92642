"""The recorded graph: its nodes and edges, hooks on what it keeps and on groups of tensors."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tensorlib._core import Node, Tensor, modes, version_of, wrap
from tensorlib._dispatch import sync
from tensorlib._hooks import RemovableHandle
from tensorlib.autograd import engine
from tensorlib.autograd.saved import saved_tensors_hooks
from tensorlib.errors import AutogradError

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

        def hook(g: Tensor) -> Any:
            out = fn((g,))
            return out[0] if isinstance(out, tuple) else out

        return self.variable.register_hook(hook)  # type: ignore[attr-defined,no-any-return]

    def register_hook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn((), ())`` after the gradient has been added to the leaf's."""
        return self.variable.register_post_accumulate_grad_hook(lambda t: fn((), ()) and None)  # type: ignore[attr-defined,no-any-return]

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


def _repr(self: Node) -> str:
    return f"<{engine.grad_name(self)} object at {id(self):#x}>"


Node.__repr__ = _repr  # type: ignore[method-assign, assignment]
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
    return GradientEdge(AccumulateGrad(tensor) if tensor._node is None else tensor._node, tensor._index)


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
    runs: dict[int, dict[str, Any]] = {}

    def state() -> dict[str, Any]:
        number = engine.current()
        if number not in runs:
            runs.clear()
            reached = engine.reached(tensors)
            runs[number] = {"grads": [None] * len(tensors), "left": sum(reached), "done": False}
        return runs[number]

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
