"""Custom differentiable functions: a forward and a backward written by the user, one Node."""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _array
from tensorlib._core import Node, Tensor, modes, version_of, wrap
from tensorlib._dispatch import edge, make_node, saved, sync
from tensorlib._inplace import check_writable, follow
from tensorlib.autograd import dual
from tensorlib.autograd.batched import BatchedArray, enter, leave
from tensorlib.autograd.engine import unpack, with_history, zeros
from tensorlib.autograd.lifted import highest, levels_of, lift_edge, state
from tensorlib.errors import AutogradError, UnsupportedError


class FunctionCtx:
    """What a Function's forward tells its backward. Any attribute may be set on it."""

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._to_save: tuple[Any, ...] = ()
        self._for_forward: tuple[Any, ...] = ()
        self._dirty: tuple[Any, ...] = ()
        self._constant: tuple[Any, ...] = ()
        self._materialize = True
        self._node: Any = None  # a weak reference to the Node that keeps what was saved

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors (inputs, outputs, others or None) for backward, where ``saved_tensors`` gives them."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"save_for_backward can only save variables, but got {type(t).__name__}")
        self._to_save = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Keep tensors for ``jvp``, where ``saved_tensors`` gives them."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"save_for_forward can only save tensors, but argument is of type {type(t).__name__}")
        self._for_forward = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say that forward wrote these inputs in place; it must return them."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say that no gradient flows through these outputs."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether an output without a gradient comes to backward as zeros (the default) or as None."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors given to ``save_for_backward``, with their history: a leaf is itself, and backward may ask for a
        gradient by it. AutogradError once freed, or if one was written in place.
        """
        if self._node is None:
            return self._to_save
        node = self._node()
        if node is None or node.saved is None:
            raise AutogradError(
                "Trying to backward through the graph a second time (or directly access saved tensors after they have "
                "already been freed): call the first backward with retain_graph=True"
            )
        out: list[Any] = []
        for kept, origin in node.saved:
            if kept is None:
                out.append(None)
                continue
            history = (node, origin) if type(origin) is int else origin
            out.append(unpack(node, "saved tensor", kept, with_history(history)))
        return tuple(out)


class _Rule:
    """A Node's rule that calls the user's backward."""

    __slots__ = ("ctx", "function", "inputs", "metas", "name", "places", "width")

    def __init__(self, function: type[Function], ctx: FunctionCtx, places: list[int], width: int) -> None:
        self.function = function
        self.ctx = ctx
        self.name = f"{function.__name__}Backward"
        self.places = places  # of the tensor arguments among all arguments
        self.width = width
        self.metas: list[Any] = []
        self.inputs: list[Any] = []  # (shape, dtype) of the tensor arguments

    def backward(self, node: Node, grads: list[Any], create: bool) -> Sequence[Any]:
        ctx = self.ctx
        if ctx._materialize:
            grads = [zeros(*m) if g is None and m is not None else g for g, m in zip(grads, self.metas, strict=True)]
        returned = self.function._pullback(ctx, *grads)
        if not isinstance(returned, (tuple, list)):
            returned = (returned,)
        returned = list(returned)
        while len(returned) > self.width and returned[-1] is None:
            returned.pop()
        if len(returned) != self.width:
            raise AutogradError(
                f"function {self.name} returned an incorrect number of gradients (expected {self.width}, got "
                f"{len(returned)})"
            )
        out: list[Any] = []
        for at, e, (shape, dtype) in zip(self.places, node.edges, self.inputs, strict=True):
            g = returned[at]
            if g is not None and not isinstance(g, Tensor):
                raise TypeError(f"{self.name}: expected Variable or None (got {type(g).__name__}) as gradient {at}")
            if g is None or e is None:
                out.append(None)
                continue
            if g._array.shape != shape:  # what broadcast the input is undone by a sum
                lead = len(g._array.shape) - len(shape)
                fits = lead >= 0 and all(n in (1, m) for n, m in zip(shape, g._array.shape[lead:], strict=True))
                if not fits:
                    raise AutogradError(
                        f"Function {self.name} returned an invalid gradient at index {at} - got "
                        f"{list(g._array.shape)} but expected shape compatible with {list(shape)}"
                    )
                g = g.sum_to_size(shape)  # type: ignore[attr-defined]
            if g._array.dtype != dtype:
                g = g.to(dtype)  # type: ignore[attr-defined]
            out.append(g)
        return out


class Function:
    """A differentiable operation of your own: subclass with static ``forward`` and ``backward``, call ``apply``.

    ``forward(ctx, *args)`` computes under ``no_grad``; or ``forward(*args)`` with
    ``setup_context(ctx, inputs, output)``.
    ``backward(ctx, *grad_outputs)`` returns a gradient, or None, for each argument of forward.

    For forward mode, ``jvp(ctx, *grad_inputs)`` returns a tangent for each output. Under ``vmap`` a class with
    ``generate_vmap_rule = True`` runs on batches as it is; or ``vmap(info, in_dims, *args)`` computes with the tensors
    that hold them (``info.batch_size``, ``info.randomness``), and returns (outputs, out_dims).
    """

    generate_vmap_rule = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{type(self)} should not be instantiated: its methods are static, call {type(self).__name__}.apply",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """An error: the form of the first versions of PyTorch."""
        raise AutogradError("Legacy autograd function with non-static forward method is deprecated: make forward and "
                            "backward static methods and call .apply on the class")  # fmt: skip

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The computation."""
        raise UnsupportedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradients."""
        raise UnsupportedError("You must implement either the backward or vjp method for your custom autograd.Function "
                               "to use it with backward mode AD.")  # fmt: skip

    #: Another name for ``backward``.
    vjp = backward

    @classmethod
    def _pullback(cls, ctx: Any, *grad_outputs: Any) -> Any:
        if cls.vjp is Function.vjp:
            return cls.backward(ctx, *grad_outputs)
        if cls.backward is not Function.backward:
            raise AutogradError(
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You should only "
                "implement one of them."
            )
        return cls.vjp(ctx, *grad_outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Fill ctx after a forward without ctx."""

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The tangents of the outputs."""
        raise UnsupportedError("You must implement the jvp function for custom autograd.Function to use it with "
                               "forward mode AD.")  # fmt: skip

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """The outputs of tensors that hold a batch, and where it is in each output."""
        raise AutogradError("You must implement the vmap staticmethod of a custom autograd.Function, or set "
                            "generate_vmap_rule = True, to use it with vmap.")  # fmt: skip

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward and record it."""
        if cls.setup_context is not Function.setup_context:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        top = highest(*[a._array for a in args if isinstance(a, Tensor)])
        if top is not None:
            if type(top) is not BatchedArray:
                return cls._forward_mode(top.level, args, kwargs)
            if cls.vmap is not Function.vmap:
                return cls._over_batch(top.level, args)
            ahead = [level for a in args if isinstance(a, Tensor) for level in levels_of(a._array)
                     if isinstance(level, dual.Dual)]  # fmt: skip
            if cls.generate_vmap_rule and ahead:
                return cls._forward_mode(max(ahead, key=lambda level: level.order), args, kwargs)
            if not cls.generate_vmap_rule:
                raise AutogradError(
                    f"You tried to vmap over {cls.__name__}, but it does not have vmap support. Please override and "
                    f"implement the vmap staticmethod or set generate_vmap_rule=True."
                )
        return cls._run(args, kwargs)[0]

    @classmethod
    def _over_batch(cls, level: Any, args: tuple[Any, ...]) -> Any:
        """``vmap`` of the tensors that hold the batch of a level."""
        held, dims = [], []
        for a in args:
            batched = isinstance(a, Tensor) and level in levels_of(a._array)
            held.append(leave(a, level) if batched else a)
            dims.append(0 if batched else None)
        before, state.active = state.active, tuple([other for other in state.active if other.order < level.order])
        try:
            out, out_dims = cls.vmap(VmapInfo(level.count, level.randomness), tuple(dims), *held)
        finally:
            state.active = before
        single = not isinstance(out, (tuple, list))
        outs = [out] if single else list(out)
        places = list(out_dims) if isinstance(out_dims, (tuple, list)) else [out_dims] * len(outs)
        found = [
            o if d is None else enter(o.movedim(d, 0) if d else o, level) for o, d in zip(outs, places, strict=True)
        ]
        return found[0] if single else tuple(found)

    @classmethod
    def _forward_mode(cls, level: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs with the tangents that ``jvp`` gives."""
        primals = [dual.primal_of(a, level) if isinstance(a, Tensor) else a for a in args]
        tangents = []
        for a in args:
            live = isinstance(a, Tensor) and dual.tangent_in(a._array, level) is not None
            tangents.append(dual.tangent_of(a, level) if live else None)
        separate, constant = cls.setup_context is not Function.setup_context, all(t is None for t in tangents)
        if constant and not separate:
            return cls._run(tuple(args), kwargs)[0]
        if cls.jvp is Function.jvp and not constant:
            cls.jvp(None)
        before, state.active = state.active, tuple([other for other in state.active if other is not level])
        grad, modes.grad = modes.grad, False
        try:
            if separate and highest(*[p._array for p in primals if isinstance(p, Tensor)]) is not None:
                # Forward may take no batches, and no numbers of another level: they go through their own rules.
                ctx, value = FunctionCtx(), cls.apply(*primals, **kwargs)
                ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a._needs for a in args)
                cls.setup_context(ctx, tuple(primals), value)
            else:
                value, ctx = cls._run(tuple(primals), kwargs)
            ctx._to_save = ctx._for_forward or ctx._to_save
            if ctx._materialize:
                tangents = [
                    zeros(p._array.shape, p._array.dtype, _array.device_of(p._array))
                    if t is None and isinstance(p, Tensor) and p._array.dtype.kind not in "iub"
                    else t
                    for t, p in zip(tangents, primals, strict=True)
                ]
            pushed: Any = None if constant else cls.jvp(ctx, *tangents)
        finally:
            state.active, modes.grad = before, grad
        single = isinstance(value, Tensor)
        outs = [value] if single else list(value)
        ahead = [None] * len(outs) if constant else [pushed] if single and not isinstance(pushed, tuple) else pushed
        wanted = modes.grad and any(isinstance(a, Tensor) and a._needs for a in args)
        swapped = any(isinstance(a, Tensor) and dual.swapped_at(a._array, level) for a in args)
        # Its own backward meets dual numbers, and so gives their derivatives.
        recorded: Any = cls._run(tuple(args), kwargs)[0] if wanted and not separate else value
        found = [recorded] if isinstance(recorded, Tensor) else list(recorded)
        written = {id(p): a for p, a in zip(primals, args, strict=True) if any(p is t for t in ctx._dirty)}
        for i, (o, along) in enumerate(zip(outs, ahead, strict=True)):
            found[i] = t = written.get(id(o), found[i])
            if isinstance(t, Tensor) and (along is not None or (constant and o._array.dtype.kind not in "iub")):
                t._array = dual.joined(o._array, None if along is None else along._array, level, swapped)
        result = found[0] if single else type(value)(found)
        return cls._run(tuple(args), kwargs, (result,))[0] if wanted and separate else result

    @classmethod
    def _run(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any], known: tuple[Any] | None = None
    ) -> tuple[Any, FunctionCtx]:
        """(outputs, what forward kept); ``known``: what forward has returned, which is then not called again."""
        ctx = FunctionCtx()
        separate = cls.setup_context is not Function.setup_context
        tensors = [(i, a) for i, a in enumerate(args) if isinstance(a, Tensor)]
        for _, t in tensors:
            sync(t)
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a._needs for a in args)
        wanted = modes.grad and any(ctx.needs_input_grad)
        before, modes.grad = modes.grad, False
        try:
            if separate:
                result = cls.forward(*args, **kwargs) if known is None else known[0]
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args, **kwargs)
        finally:
            modes.grad = before
        single = not isinstance(result, (tuple, list))
        outputs = [result] if single else list(result)
        dirty = {id(t) for t in ctx._dirty}
        if dirty - {id(o) for o in outputs}:
            raise AutogradError(
                f"{cls.__name__}: Some elements marked as dirty during the forward method were not returned as output: "
                f"return every input that forward writes"
            )
        given = {id(t) for _, t in tensors}
        constant = {id(t) for t in ctx._constant}
        origins = {id(o): i for i, o in enumerate(outputs) if isinstance(o, Tensor)}
        rule = _Rule(cls, ctx, [i for i, _ in tensors], len(args))
        rule.inputs = [(t._array.shape, t._array.dtype) for _, t in tensors]
        edges = tuple(edge(t) for _, t in tensors)
        levels = {other for o in outputs if isinstance(o, Tensor) for other in levels_of(o._array)}
        if levels:
            latest = sorted(levels, key=lambda other: -other.order)
            edges = tuple([e if e is None else lift_edge(e, t, latest)
                           for e, (_, t) in zip(edges, tensors, strict=True)])  # fmt: skip
        if wanted:
            node = make_node(rule, edges, kept=())
            written = [(k, t) for k, t in enumerate(ctx._to_save) if id(t) in dirty]  # kept as it is after the write
            node.saved = [
                (None, None)
                if id(t) in dirty
                else (saved(t), origins[id(t)])
                if id(t) in origins and id(t) not in given
                else (saved(t), t if t is None or t._node is None else edge(t))
                for t in ctx._to_save
            ]
            ctx._to_save = ()
            ctx._node = weakref.ref(node)
        for i, o in enumerate(outputs):
            if not isinstance(o, Tensor):
                rule.metas.append(None)
                continue
            x = o._array
            rule.metas.append((x.shape, x.dtype, _array.device_of(x)))
            if id(o) in given and id(o) not in dirty:
                outputs[i] = o = o.detach()
            if id(o) in given and not (wanted and id(o) not in constant):
                version_of(o)[0] += 1
            elif id(o) in given:
                check_writable(o, cls.__name__)
                source = wrap(x)
                source._node, source._index, source._needs = node, i, True
                follow(o, source, own=True)
            elif wanted and id(result if single else result[i]) not in constant and x.dtype.kind not in "iub":
                o._node, o._index, o._needs = node, i, True
        if wanted:
            for k, t in written:
                node.saved[k] = saved(t), origins[id(t)]
            node.outputs = (None, rule.metas)
        return (outputs[0] if single else type(result)(outputs)), ctx


class InplaceFunction(Function):
    """A Function that remembers whether it was asked to work in place."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class VmapInfo(NamedTuple):
    """What a Function's ``vmap`` is told of the transform."""

    batch_size: int
    randomness: str


def once_differentiable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a backward whose own gradient must not be taken: doing so raises."""

    @functools.wraps(function)
    def wrapped(ctx: Any, *grads: Any) -> Any:
        before, modes.grad = modes.grad, False
        try:
            out = function(ctx, *grads)
        finally:
            modes.grad = before
        if not modes.grad:
            return out

        class _Once:
            name = "NotDifferentiable"

            @staticmethod
            def backward(node: Node, grads: list[Any], create: bool) -> Any:
                raise AutogradError(
                    "trying to differentiate twice a function that was marked with @once_differentiable"
                )

        def guard(t: Any) -> Any:
            if isinstance(t, Tensor):
                t = wrap(np.asarray(t._array) if isinstance(t._array, np.ndarray) else t._array)
                t._node, t._needs = make_node(_Once, (None,)), True
            return t

        return tuple(map(guard, out)) if isinstance(out, tuple) else guard(out)

    return wrapped
