"""Backward: nodes in falling order of their sequence number, each pulled once, gradients summed on the way.

No recursion, so the depth of a graph is not limited; no reference from a node to the tensors it made, so a graph
is freed as soon as its last tensor is.
"""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import KINDS, LIFTED, Node, Packed, Tensor, listening, modes, wrap
from tensorlib._dispatch import execute, make_node, sync
from tensorlib._dtypes import OF_NUMPY
from tensorlib.autograd.batched import vmap_flat
from tensorlib.autograd.pulls import brought_back, compiled
from tensorlib.errors import AutogradError, ShapeError
from tensorlib.op import Conjugated, Op, registry

ndarray = np.ndarray
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)


def full(shape: tuple[int, ...], value: float, dtype: np.dtype[Any], device: Any) -> Tensor:
    """A tensor with every element ``value``."""
    attrs = {"size": shape, "fill_value": value, "dtype": dtype, "device": device}
    return wrap(execute(registry["_full"], [], attrs, [(shape, dtype)], device)[0])


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any], device: Any) -> Tensor:
    """A tensor of zeros, for an output that received no gradient."""
    return full(shape, 0, dtype, device)


# ------------------------------------------------------------------------------------------------------- one node


def unpack(node: Node, name: str, value: Any, tensors: Any) -> Any:
    """A kept input or output as a Tensor, after checking that nobody wrote into it since."""
    if type(value) is Packed:
        given = value.unpack(value.packed)
        if not isinstance(given, Tensor):
            raise TypeError(
                f"saved_tensors_hooks: Output of saved tensor unpack_hook expected to be a Tensor but got result of "
                f"type {type(given).__name__}"
            )
        array = given._array
        return wrap(array) if tensors is None else tensors(array)
    if type(value) is not tuple:
        return value
    array, counter, version = value
    if counter[0] != version:
        op = node.rule
        raise AutogradError(
            f"{op.name}: one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: `{name}` of shape {tuple(array.shape)} is at version {counter[0]}, expected version "
            f"{version}. Write into a clone of it, or use the out-of-place operator."
        )
    t = wrap(array) if tensors is None else tensors(array)
    if t._writes is None:
        t._writes = counter  # a write by a backward is seen as well
    return t  # type: ignore[no-any-return]


class _Unpacked:
    """The history of what a hook gave for a leaf: the leaf's."""

    name = "UnpackedBackward"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> Sequence[Any]:
        """The gradient as it is."""
        return grads


def with_history(edge: Any) -> Any:
    """How to rewrap a kept input so that gradients flow on through it."""

    def rewrap(array: Any) -> Tensor:
        if edge is None:
            return wrap(array)
        if isinstance(edge, Tensor):
            if edge._array is array:
                return edge
            t = wrap(array)
            if edge._needs:
                t._node, t._needs = make_node(_Unpacked, (edge,)), True
            return t
        t = wrap(array)
        t._node, t._index = edge
        t._needs = True
        return t

    return rewrap


class _Values:
    """What the names of a vjp stand for in one pull; each is unpacked once."""

    __slots__ = ("cache", "create", "edges", "grads", "node", "op")

    def __init__(self, op: Op, node: Node, grads: list[Any], create: bool, edges: Sequence[Any]) -> None:
        self.op = op
        self.node = node
        self.edges = edges
        self.grads = grads
        self.create = create
        self.cache: dict[str, Any] = {}

    def grad(self, index: int) -> Tensor:
        """The gradient of an output; zeros when none arrived."""
        g = self.grads[index]
        if g is None:
            g = self.grads[index] = zeros(*self.node.outputs[1][index])
        return g

    def get(self, name: str, source: str, index: int) -> Any:
        """The value of one name."""
        if source == "grad":
            return self.grad(index)
        if source == "attr":
            return self.node.attrs[name]
        if source == "needs":
            return self._needs()
        if name in self.cache:
            return self.cache[name]
        kept = self.node.saved[name]
        if source == "input":
            if type(kept) is list:
                start = self._start(index)
                value: Any = [
                    unpack(self.node, name, k, with_history(self.node.edges[start + i]) if self.create else None)
                    for i, k in enumerate(kept)
                ]
            else:
                edge = self.node.edges[self._start(index)] if self.create else None
                value = unpack(self.node, name, kept, with_history(edge) if self.create else None)
        elif source == "output":
            public = index < self.op.n_public
            history = with_history((self.node, index)) if self.create and public else None
            value = unpack(self.node, name, kept, history)
        else:
            value = kept
        self.cache[name] = value
        return value

    def _counts(self) -> Any:
        return self.node.outputs[0] if self.op.variadic else None

    def _start(self, index: int) -> int:
        counts = self._counts()
        return index if counts is None else sum(n if n >= 0 else 1 for n in counts[:index])

    def _needs(self) -> dict[str, bool]:
        """{tensor parameter: a gradient is wanted}."""
        out, at = {}, 0
        for param, n in zip(self.op.tensors, self._counts() or [-1] * len(self.op.tensors), strict=True):
            width = n if n >= 0 else 1
            out[param.name] = any(e is not None for e in self.edges[at : at + width])
            at += width
        return out


#: The function that each operator's rules were made into when they were first needed.
_pulls: dict[Op, Any] = {}


def conjugate(g: Any) -> Any:
    """The complex conjugate; real tensors and None as they are."""
    return g if g is None or g._array.dtype.kind != "c" else g.conj()


def _decomposes(op: Op, g: Any) -> bool:
    return g is not None and type(g._array) in LIFTED and g._array.decomposes(op)


def pull(node: Node, grads: list[Any], create: bool, op: Any = None, edges: Any = None) -> Sequence[Any]:
    """Gradients for a node's edges from those of its outputs, by the node's rule or by ``op``.

    ``edges``: the node's, with None in place of those whose gradient nobody wants.
    """
    if op is None:
        op = node.rule
    if edges is None:
        edges = node.edges
    if type(op) is Op and not create and len(grads) == 1:
        by_rules = _pulls[op] if op in _pulls else _pulls.setdefault(op, compiled(op))
        found = None if by_rules is None else by_rules(node, grads[0], edges)
        if found is not None:
            return found
    if type(op) is not Op:
        if type(op) is not Conjugated:
            return op.backward(node, grads, create)
        plain = registry[op.name]
        if create and op.composite is not None:  # its own operators conjugate
            return pull(node, grads, create, plain, edges)
        return [conjugate(r) for r in pull(node, [conjugate(g) for g in grads], create, plain, edges)]
    if node.saved is None:
        raise AutogradError(
            f"{op.name}: Trying to backward through the graph a second time (or directly access saved tensors after "
            f"they have already been freed): Specify retain_graph=True in the first call."
        )
    vjps = op.vjps
    if vjps is None:
        raise AutogradError(f"{op.name}: the derivative for '{op.name}' is not implemented")
    results: Any
    if op.composite is not None and (create or any(map(_decomposes, (op,) * len(grads), grads))):
        results = _through_composite(op, node, _Values(op, node, grads, create, edges))
    elif op.rules is not None and not op.variadic:
        values = _Values(op, node, grads, create, edges)
        results = []
        for rule, e in zip(op.rules, edges, strict=True):
            if e is None or rule is None:
                results.append(None)
            else:
                results.append(rule.function(*[values.get(*p) for p in rule.plan]))
    elif type(vjps) is dict:
        values = _Values(op, node, grads, create, edges)
        results = []
        at = 0
        for param, n in zip(op.tensors, node.outputs[0], strict=True):
            width = n if n >= 0 else 1
            if param.name not in vjps or all(e is None for e in edges[at : at + width]):
                results.extend([None] * width)
            else:
                rule = vjps[param.name]
                r = rule.function(*[values.get(*p) for p in rule.plan])
                results.extend(r if param.kind == "arrays" else [r])
            at += width
    else:
        values = _Values(op, node, grads, create, edges)
        returned = vjps.function(*[values.get(*p) for p in vjps.plan])
        if not isinstance(returned, (tuple, list)):
            returned = (returned,)
        results = []
        for r in returned:
            if isinstance(r, list):
                results.extend(r)
            else:
                results.append(r)
    return results if node.inputs is None else brought_back(results, node.inputs, edges)


def _through_composite(op: Op, node: Node, values: _Values) -> list[Any]:
    """Differentiable gradients of a fused operator: those of the composite it is equal to."""
    inputs = [values.get(p.name, "input", i) for i, p in enumerate(op.tensors)]
    if not values.create:  # for the sake of gradients that only its parts can compute with
        for t, e in zip(_flat(inputs), node.edges, strict=True):
            if e is not None:
                t._needs = True
    modes_grad, modes.grad = modes.grad, True
    try:
        outs = op.composite(*inputs, **node.attrs)  # type: ignore[misc]
    finally:
        modes.grad = modes_grad
    outs = outs if isinstance(outs, tuple) else (outs,)
    wanted = [t for t, e in zip(_flat(inputs), values.edges, strict=True) if e is not None]
    pairs = [(o, values.grad(i)) for i, o in enumerate(outs) if o._needs]
    found = iter(run([o for o, _ in pairs], [g for _, g in pairs], True, values.create, wanted))
    return [None if e is None else next(found) for e in values.edges]


def _flat(values: Sequence[Any]) -> list[Any]:
    return [x for v in values for x in (v if isinstance(v, list) else [v])]


# --------------------------------------------------------------------------------------------------- the whole run


def reachable(roots: Sequence[Node]) -> list[Node]:
    """Every node a gradient can reach, newest first."""
    seen = set(roots)
    found = list(seen)
    for node in found:  # grows on the way
        for e in node.edges:
            if type(e) is tuple:
                n = e[0]
                if n not in seen:
                    seen.add(n)
                    found.append(n)
    if len(found) > 1:
        found.sort(key=_SEQ, reverse=True)
    return found


_SEQ = operator.attrgetter("seq")


class Task:
    """One backward, for those who ask in which they are: what is to be called when it is done."""

    __slots__ = ("__weakref__", "callbacks")

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], Any]] = []


class _Run(threading.local):
    """The backward that a thread is in: the nodes it goes through, and its Task, once somebody asked for it."""

    order: Sequence[Node] | None = None
    task: Task | None = None


#: For each operator whether its Nodes keep values, and not shapes alone: those that do cannot be gone through again.
_frees: dict[Op, bool] = {}


def _keeps_values(op: Op) -> bool:
    kept = op.keeps((True,) * len(op.tensors))
    found = _frees[op] = any(source not in ("shape", "dtype") for _, source, _ in kept)
    return found


_run = _Run()


def current() -> Task | None:
    """The backward that this thread is in."""
    if _run.task is None and _run.order is not None:
        _run.task = Task()
    return _run.task


def queue_callback(function: Callable[[], Any]) -> None:
    """Call ``function()`` when the backward that this thread is in has come to its end."""
    task = current()
    if task is None:
        raise AutogradError("queue_callback: Final callbacks can only be installed during backward pass.")
    task.callbacks.append(function)


def reached(tensors: Sequence[Tensor]) -> list[bool]:
    """Which tensors get a gradient from the backward that this thread is in."""
    nodes = set(_run.order or ())
    leaves = {id(e) for node in nodes for e in node.edges if isinstance(e, Tensor)}
    return [t._node in nodes if t._node is not None else id(t) in leaves for t in tensors]


def run(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], retain: bool, create: bool, inputs: Sequence[Tensor] | None
) -> list[Tensor | None]:
    """Send ``grads`` of ``outputs`` back. ``inputs`` None: into ``.grad`` of the leaves; else return theirs."""
    outer = _run.order, _run.task  # a hook, or a checkpoint, may start another
    try:
        found = _send(outputs, grads, retain, create, inputs)
        task = _run.task
        if task is not None:
            for callback in task.callbacks:  # one may queue another
                callback()
        return found
    finally:
        _run.order, _run.task = outer


def _send(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], retain: bool, create: bool, inputs: Sequence[Tensor] | None
) -> list[Tensor | None]:
    pending: dict[Node, list[Any]] = {}
    leaves: dict[int, tuple[Tensor, Tensor]] = {}
    shared: dict[int, Tensor] = {}  # gradients that something else holds as well
    useful: dict[Node, Any] | None = None  # what leads to an input, with the edges that do where not all of them do
    at_node: dict[Node, list[Tensor]] = {}
    captured: dict[Any, Tensor] = {}
    results: Sequence[Any] = grads
    edges: Any = []
    for t, g in zip(outputs, grads, strict=True):
        edges.append(t if t._node is None else (t._node, t._index))
        shared[id(g)] = g
    order = reachable([e[0] for e in edges if type(e) is tuple])
    if inputs is not None:
        useful = _useful(order, inputs, at_node)

    _run.order, _run.task = order, None
    before, autocast = modes.grad, modes.autocast
    if create is not before:
        modes.grad = create
    if autocast is not None:  # gradients are in the dtype of what they are gradients of
        modes.autocast = None
    try:
        nodes = iter(order)
        while True:
            # What the outputs were given, and what each node then gives, goes on along the edges.
            for i, e in enumerate(edges):
                r = results[i]
                if e is None or r is None:
                    continue
                if type(e) is not tuple:
                    have = leaves.get(id(e))
                    leaves[id(e)] = (e, r if have is None else have[1] + r)
                    continue
                node, index = e
                slots = pending.get(node)
                if slots is not None:
                    have = slots[index]
                    slots[index] = r if have is None else have + r
                elif len(node.outputs) < 2:  # a node with several outputs names them there
                    pending[node] = [r]
                else:
                    slots = pending[node] = [None] * len(node.outputs[1])
                    slots[index] = r
            for node in nodes:
                slots = pending.pop(node, None)
                if slots is None:
                    continue
                if node.hooks is not None:
                    _tensor_hooks(node, slots)
                if useful is None:
                    break
                for t in at_node.get(node, ()):
                    if slots[t._index] is not None:
                        captured[id(t)] = slots[t._index]
                        shared[id(slots[t._index])] = slots[t._index]
                if node in useful:
                    break
            else:
                break
            edges = node.edges if useful is None else useful[node] or node.edges
            if node.hooks is None and not listening[0]:
                results = pull(node, slots, create, None, edges)
            else:
                results = _pull_hooked(node, slots, create, edges)
            if not retain and node.saved:
                rule = node.rule
                if type(rule) is not Op or (_frees[rule] if rule in _frees else _keeps_values(rule)):
                    node.saved = None
            if len(results) != len(edges):
                raise AutogradError(f"{node.rule.name}: backward gave {len(results)} gradients for {len(edges)} inputs")
            n = len(results)  # of a sum all inputs have the same gradient
            if n > 1 and (results[0] is results[1] if n == 2 else len(set(map(id, results))) < n):
                for i, r in enumerate(results):
                    if r is not None and any(r is other for other in results[:i]):
                        shared[id(r)] = r
    finally:
        modes.grad = before
        if autocast is not None:
            modes.autocast = autocast

    if inputs is None:
        for leaf, g in leaves.values():
            accumulate(leaf, g, create, id(g) in shared)
        return []
    out: list[Tensor | None] = []
    for t in inputs:
        if t._node is None:
            found = leaves.get(id(t))
            out.append(_leaf_hooks(t, found[1]) if found is not None else None)
        else:
            out.append(captured.get(id(t)))
    return out


def _useful(order: Sequence[Node], inputs: Sequence[Tensor], at_node: dict[Node, list[Tensor]]) -> dict[Node, Any]:
    """{node that leads to one of the inputs: its edges that do, None for all}; those that nodes made go to at_node."""
    leaves = set()
    for t in inputs:
        if t._node is None:
            leaves.add(id(t))
        else:
            at_node.setdefault(t._node, []).append(t)
    useful: dict[Node, Any] = {}
    for node in reversed(order):
        leads = [
            e is not None and (e[0] in useful or e[0] in at_node if type(e) is tuple else id(e) in leaves)
            for e in node.edges
        ]
        if True in leads:
            if all(ok or e is None for ok, e in zip(leads, node.edges, strict=True)):
                useful[node] = None
            else:
                useful[node] = tuple([e if ok else None for ok, e in zip(leads, node.edges, strict=True)])
    return useful


def _pull_hooked(node: Node, slots: list[Any], create: bool, edges: Any) -> Sequence[Any]:
    hooks = node.hooks
    if hooks is not None:
        for hook in list(hooks.get("pre", {}).values()):
            replaced = hook(tuple(slots))
            if replaced is not None:
                slots = list(replaced) if isinstance(replaced, (tuple, list)) else [replaced]
    if listening[0] and modes.anomaly:
        results = _pull_watched(node, slots, create, edges)
    else:
        results = pull(node, slots, create, None, edges)
    if hooks is not None:
        for hook in list(hooks.get("post", {}).values()):
            replaced = hook(tuple(results), tuple(slots))
            if replaced is not None:
                results = list(replaced) if isinstance(replaced, (tuple, list)) else [replaced]
    return results


def _pull_watched(node: Node, slots: list[Any], create: bool, edges: Any) -> Sequence[Any]:
    """Anomaly mode: an error, or a NaN, names the forward operation and where it was called."""
    try:
        results = pull(node, slots, create, None, edges)
    except Exception as error:
        error.add_note(_where(node))
        raise
    for i, r in enumerate(results if modes.check_nan else ()):
        if r is not None and bool(r.isnan().any()):
            raise AutogradError(
                f"Function '{grad_name(node)}' returned nan values in its {i}th output.\n{_where(node)}"
            )
    return results


def _where(node: Node) -> str:
    """The forward call of a node as a traceback, without tensorlib's own frames."""
    if node.trace is None:
        return f"{node.rule.name}: the forward call was made outside anomaly mode, so its place is not known"
    package = __name__.partition(".")[0]
    root = sys.modules[package].__path__[0]
    frames = [f for f in node.trace if not f.filename.startswith((root, "<operator"))]
    return f"The forward call of '{node.rule.name}' was made here (most recent call last):\n{''.join(_format(frames))}"


def _format(frames: Sequence[Any]) -> list[str]:
    return [f'  File "{f.filename}", line {f.lineno}, in {f.name}\n    {f.line}\n' for f in frames]


def grad_name(node: Node) -> str:
    """A node's name as users see it: MulBackward0."""
    return type(node).__name__


def _tensor_hooks(node: Node, slots: list[Any]) -> None:
    """Hooks and ``retain_grad`` of this node's outputs, in the order they were registered."""
    assert node.hooks is not None
    for i, g in enumerate(slots):
        for hook in list(node.hooks.get(i, {}).values()):
            if g is not None:
                replaced = _tensor(hook(g))
                if replaced is not None:
                    g = slots[i] = replaced
        keeper = node.hooks.get(("retain", i))
        if keeper is not None and g is not None:
            t = keeper()
            if t is not None:
                t._grad = g.detach() if t._grad is None else t._grad + g


def _leaf_hooks(leaf: Any, g: Tensor) -> Tensor:
    if leaf._hooks is not None:
        for hook in list(leaf._hooks.get(0, {}).values()):
            replaced = _tensor(hook(g))
            if replaced is not None:
                g = replaced
    return g


def _tensor(replaced: Any) -> Any:
    """What a tensor hook returned: a Tensor, or None for the gradient as it is."""
    if replaced is not None and not isinstance(replaced, Tensor):
        raise TypeError(f"register_hook: expected the hook to return a Tensor or None, got {type(replaced).__name__}")
    return replaced


def accumulate(leaf: Tensor, g: Tensor, create: bool, shared: bool, hooked: bool = False) -> None:
    """Add a gradient to a leaf's ``.grad``, which then owns its memory. ``hooked``: the tensor's own hooks had it."""
    hooks = leaf._hooks
    if hooks is not None:
        came = g
        if not hooked:
            g = _leaf_hooks(leaf, g)
        for hook in list(hooks.get("pre", {}).values()):
            replaced = hook((g,))
            if replaced is not None:
                g = replaced[0] if isinstance(replaced, (tuple, list)) else replaced
        shared = shared or came is not g
    if g._array.shape != leaf._array.shape:
        raise ShapeError(
            f"backward: got a gradient of shape {tuple(g._array.shape)} for a leaf: expected shape "
            f"{tuple(leaf._array.shape)}"
        )
    if type(g._array) in LIFTED:
        g = g._array.accumulated(g)
    have = leaf._grad
    if create:
        leaf._grad = g if have is None else have + g
    elif have is None:
        x = g._array
        # Of our own making and seen by nobody else: taken. Otherwise copied.
        if shared or g._view is not None or (type(x) is ndarray and (x.base is not None or not x.flags.c_contiguous)):
            leaf._grad = g.detach().clone()
        else:
            leaf._grad = wrap(x)
    else:
        before = modes.grad
        if before:
            modes.grad = False
        try:
            have.add_(g)
        finally:
            if before:
                modes.grad = True
    if leaf._hooks is not None:  # one of them may have made it
        before, modes.grad = modes.grad, False  # an optimizer's step may be one of them
        try:
            for hook in list(leaf._hooks.get("post", {}).values()):
                if hook(leaf) is not None:
                    raise AutogradError("register_post_accumulate_grad_hook: Tensor post accumulate grad hooks should "
                                        "return None.")  # fmt: skip
        finally:
            modes.grad = before
        for hook in list(leaf._hooks.get("done", {}).values()):
            hook((), (g,))


# ----------------------------------------------------------------------------------------------- the public calls


def _sequence(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Tensor) or value is None:
        return (value,)
    if hasattr(value, "output_nr"):
        return (_at_edge(value),)
    return tuple([_at_edge(v) if hasattr(v, "output_nr") and not isinstance(v, Tensor) else v for v in value])


class _Edge:
    """Stands among the inputs of ``grad`` for a tensor of which only its place in the graph is known."""

    __slots__ = ("_index", "_like", "_node")

    _needs = True
    _view = None

    def __init__(self, node: Node, index: int, like: Any) -> None:
        self._node = node
        self._index = index
        self._like = like

    @property
    def _array(self) -> Any:
        """Something of the tensor's shape, dtype and device."""
        if self._like is None:
            raise AutogradError(
                "grad: a GradientEdge made by hand does not know its tensor's shape: use "
                "autograd.graph.get_gradient_edge(tensor)"
            )
        return self._like


def _at_edge(edge: Any) -> Any:
    """The tensor that a ``GradientEdge`` names, or what stands for it."""
    node = edge.node
    return node.variable if hasattr(node, "variable") else _Edge(node, edge.output_nr, edge.ownership_token)


def _one(x: Any) -> Tensor:
    """The gradient of a scalar with respect to itself, in its shape."""
    if type(x) is ndarray:
        one = np.empty(x.shape, x.dtype)  # np.ones takes 1 µs more
        one.fill(1)
        return wrap(one)
    return full(x.shape, 1, x.dtype, x.device)


def _seeds(name: str, outputs: tuple[Tensor, ...], given: Any) -> list[Tensor]:
    """The gradients to start from: those given, or 1 for scalar outputs."""
    seeds: Sequence[Any] = _sequence(given) if given is not None else [None] * len(outputs)
    if len(seeds) != len(outputs):
        raise AutogradError(f"{name}: got {len(outputs)} tensors and {len(seeds)} gradients")
    out = []
    for t, g in zip(outputs, seeds, strict=True):
        if not t._needs:
            raise AutogradError(
                f"{name}: element 0 of tensors does not require grad and does not have a grad_fn: "
                f"nothing it was computed from has requires_grad=True"
            )
        if g is None:
            if t._array.size != 1:
                raise AutogradError(
                    f"{name}: grad can be implicitly created only for scalar outputs, got shape "
                    f"{tuple(t._array.shape)}: reduce it, as in .sum(), or pass its gradient"
                )
            if t._array.dtype.kind == "c":
                raise AutogradError(
                    f"{name}: grad can be implicitly created only for real scalar outputs but got "
                    f"{OF_NUMPY[t._array.dtype]}: take a real one, as in .abs(), or pass its gradient"
                )
            g = _one(t._array)
        elif g._array.shape != t._array.shape:
            raise AutogradError(
                f"{name}: Mismatch in shape: grad_output[0] has a shape of {tuple(g._array.shape)} and output[0] has "
                f"a shape of {tuple(t._array.shape)}"
            )
        elif g._array.dtype != t._array.dtype:
            g = g.to(OF_NUMPY[t._array.dtype])
        out.append(g)
    return out


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Sum of gradients of ``tensors`` into ``.grad`` of the leaves they were computed from (or of ``inputs`` only).

    ``grad_tensors`` are the gradients to start from, 1 for scalars. AutogradError when nothing requires a gradient,
    or when the graph was already freed: pass ``retain_graph=True`` to the first call to go back twice.
    """
    outputs = (tensors,) if type(tensors) in KINDS else _sequence(tensors)
    for t in outputs:
        if t is not None and t._view is not None:
            sync(t)
    seeds = _seeds("backward", outputs, grad_tensors)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        run(outputs, seeds, retain, create_graph, None)
        return
    targets = _sequence(inputs)
    if not targets:
        raise AutogradError(
            "backward: `inputs` argument cannot be empty: pass the tensors that want a gradient, or None"
        )
    for t, g in zip(targets, run(outputs, seeds, retain, create_graph, targets), strict=True):
        if g is not None and type(t) is not _Edge:
            accumulate(t, g, create_graph, True, hooked=True)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """Sum of gradients of ``outputs`` with respect to ``inputs``, as a tuple; ``.grad`` is not touched.

    ``create_graph`` makes the result differentiable again. An input that was not used is an AutogradError, unless
    ``allow_unused`` (None comes for it) or ``materialize_grads`` (zeros). ``only_inputs`` changes nothing.
    ``is_grads_batched``: ``grad_outputs`` have a dimension more in front, and so have the gradients, one row for each
    of theirs, computed at once by ``vmap``; the graph is kept.
    """
    if is_grads_batched:
        return _batched_grads(outputs, inputs, grad_outputs, create_graph, allow_unused, materialize_grads)
    if materialize_grads and allow_unused is False:
        raise ValueError(
            "grad: Expected allow_unused to be True or not passed when materialize_grads=True, but got: "
            "allow_unused=False"
        )
    results, targets = _sequence(outputs), _sequence(inputs)
    if not targets:
        raise ValueError("grad requires non-empty inputs.")
    for t in (*results, *targets):
        sync(t)
    for i, t in enumerate(targets):
        if not t._needs:
            raise AutogradError(f"grad: One of the differentiated Tensors does not require grad: inputs[{i}]")
    seeds = _seeds("grad", results, grad_outputs)
    retain = create_graph if retain_graph is None else retain_graph
    found = run(results, seeds, retain, create_graph, targets)
    for i, g in enumerate(found):
        if g is None:
            if materialize_grads:
                t = targets[i]
                if type(t) is _Edge:
                    raise AutogradError(
                        "grad: materialize_grads cannot be used when the given input is a GradientEdge, whose shape "
                        "is not known: pass the tensor"
                    )
                made = found[i] = zeros(t._array.shape, t._array.dtype, _array.device_of(t._array))
                made._needs = True  # a gradient of it can be asked for in turn
            elif not allow_unused:
                raise AutogradError(
                    f"grad: One of the differentiated Tensors appears to not have been used in the graph: inputs[{i}]. "
                    f"Set allow_unused=True if this is the desired behavior."
                )
    return tuple(found)


def _batched_grads(
    outputs: Any, inputs: Any, grad_outputs: Any, create: bool, allow_unused: bool | None, materialize: bool
) -> tuple[Any, ...]:
    """A gradient for each row of ``grad_outputs``."""
    seeds = _sequence(grad_outputs)
    given = [g for g in seeds if g is not None]
    if not given or any(g._array.ndim == 0 or g._array.shape[0] != given[0]._array.shape[0] for g in given):
        raise AutogradError(
            "grad: is_grads_batched needs grad_outputs whose first dimension is the batch, of one size for all"
        )
    unused: list[bool] = []

    def rows(*gs: Any) -> list[Any]:
        left = iter(gs)
        found = grad(outputs, inputs, [None if g is None else next(left) for g in seeds], True, create,
                     allow_unused=allow_unused, materialize_grads=materialize)  # fmt: skip
        unused[:] = [g is None for g in found]
        return [g for g in found if g is not None]

    found = iter(vmap_flat(rows, given, [0] * len(given), 0, given[0]._array.shape[0], "error"))
    return tuple([None if absent else next(found) for absent in unused])
