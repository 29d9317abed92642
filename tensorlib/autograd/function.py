"""Custom differentiable functions: a forward and a backward written by the user, one Node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Node, Tensor, modes, version_of, wrap
from tensorlib._dispatch import edge, make_node, saved, sync
from tensorlib.autograd.engine import unpack, with_history, zeros
from tensorlib.errors import AutogradError


class FunctionCtx:
    """What a Function's forward tells its backward. Any attribute may be set on it."""

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._to_save: tuple[Any, ...] = ()
        self._kept: Any = None
        self._dirty: tuple[Any, ...] = ()
        self._constant: tuple[Any, ...] = ()
        self._materialize = True
        self._create = False
        self._node: Any = None

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors (inputs, outputs, others or None) for backward, where ``saved_tensors`` gives them."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"save_for_backward can only save variables, but got {type(t).__name__}")
        self._to_save = tensors

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
        """The tensors given to ``save_for_backward``. AutogradError once freed, or if one was written in place."""
        if self._node is not None and self._node.saved is None:
            raise AutogradError(
                f"{type(self).__name__}: Trying to backward through the graph a second time: its saved tensors were "
                f"freed. Call the first backward with retain_graph=True."
            )
        if self._kept is None:
            return self._to_save
        out: list[Any] = []
        for kept, origin in self._kept:
            if kept is None:
                out.append(None)
                continue
            history = (self._node, origin) if type(origin) is int else origin
            out.append(unpack(self._node, "saved tensor", kept, with_history(history) if self._create else None))
        return tuple(out)


class _Rule:
    """A Node's rule that calls the user's backward."""

    __slots__ = ("ctx", "function", "metas", "name", "places", "width")

    def __init__(self, function: type[Function], ctx: FunctionCtx, places: list[int], width: int) -> None:
        self.function = function
        self.ctx = ctx
        self.name = f"{function.__name__}Backward"
        self.places = places  # of the tensor arguments among all arguments
        self.width = width
        self.metas: list[Any] = []

    def backward(self, node: Node, grads: list[Any], create: bool) -> Sequence[Any]:
        ctx = self.ctx
        ctx._node, ctx._create = node, create
        if ctx._materialize:
            grads = [zeros(*m) if g is None and m is not None else g for g, m in zip(grads, self.metas, strict=True)]
        try:
            returned = self.function.backward(ctx, *grads)
        finally:
            ctx._node = None
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
        out = []
        for at, e in zip(self.places, node.edges, strict=True):
            g = returned[at]
            if g is not None and not isinstance(g, Tensor):
                raise TypeError(f"{self.name}: expected Variable or None (got {type(g).__name__}) as gradient {at}")
            out.append(g if e is not None else None)
        return out


class Function:
    """A differentiable operation of your own: subclass with static ``forward`` and ``backward``, call ``apply``.

    ``forward(ctx, *args)`` computes under ``no_grad``; or ``forward(*args)`` with
    ``setup_context(ctx, inputs, output)``.
    ``backward(ctx, *grad_outputs)`` returns a gradient, or None, for each argument of forward.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The computation."""
        raise AutogradError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradients."""
        raise AutogradError("You must implement either the backward or vjp method for your custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Fill ctx after a forward without ctx."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward and record it."""
        ctx = FunctionCtx()
        tensors = [(i, a) for i, a in enumerate(args) if isinstance(a, Tensor)]
        for _, t in tensors:
            sync(t)
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a._needs for a in args)
        wanted = modes.grad and any(ctx.needs_input_grad)
        before, modes.grad = modes.grad, False
        try:
            if cls.setup_context is not Function.setup_context:
                result = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args, **kwargs)
        finally:
            modes.grad = before
        single = not isinstance(result, (tuple, list))
        outputs = [result] if single else list(result)
        dirty = {id(t) for t in ctx._dirty}
        for t in ctx._dirty:
            version_of(t)[0] += 1
        given = {id(t) for _, t in tensors}
        constant = {id(t) for t in ctx._constant}
        origins = {id(o): i for i, o in enumerate(outputs) if isinstance(o, Tensor)}
        rule = _Rule(cls, ctx, [i for i, _ in tensors], len(args))
        edges = tuple(edge(t) for _, t in tensors)
        if wanted:
            node = make_node(rule, edges, kept=())
            ctx._kept = [
                (saved(t), origins[id(t)])
                if id(t) in origins and id(t) not in given
                else (saved(t), None if t is None else edge(t))
                for t in ctx._to_save
            ]
            ctx._to_save = ()
        for i, o in enumerate(outputs):
            if not isinstance(o, Tensor):
                rule.metas.append(None)
                continue
            x = o._array
            rule.metas.append((x.shape, x.dtype, _array.device_of(x)))
            if id(o) in given and id(o) not in dirty:
                outputs[i] = o = o.detach()
            if wanted and id(result if single else result[i]) not in constant and x.dtype.kind not in "iub":
                o._node, o._index, o._needs = node, i, True
        if wanted:
            node.outputs = (None, rule.metas)
        return outputs[0] if single else type(result)(outputs)


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
