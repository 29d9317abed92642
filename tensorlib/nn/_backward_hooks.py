"""How a Module's backward hooks see its gradients: identity operations around the inputs and the outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import Function
from tensorlib.autograd.modes import is_grad_enabled


class _Watch(Function):
    """The identity on tensors; its backward passes all gradients together through ``see``."""

    @staticmethod
    def forward(ctx: Any, see: Callable[[tuple[Any, ...]], tuple[Any, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.see = see
        ctx.set_materialize_grads(False)
        watched = tuple(t.view_as(t) for t in tensors)
        ctx.mark_non_differentiable(*[w for w, t in zip(watched, tensors, strict=True) if not t.requires_grad])
        return watched

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return (None, *ctx.see(grads))


class BackwardHooks:
    """One call's backward hooks: gradients of the outputs are kept until those of the inputs are there."""

    def __init__(self, module: Any, hooks: Iterable[Any], pre_hooks: Iterable[Any]) -> None:
        self.module, self.hooks, self.pre_hooks = module, tuple(hooks), tuple(pre_hooks)
        self.grad_output: tuple[Any, ...] | None = None
        self.inputs = 0
        self.watched = False  # whether an input needs a gradient: otherwise the hooks run at the outputs

    def _watch(self, values: tuple[Any, ...], receive: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
        """The values with their tensors replaced by watched ones; None when no gradient can arrive."""
        where = [i for i, v in enumerate(values) if isinstance(v, Tensor)]
        if not is_grad_enabled() or not any(values[i].requires_grad for i in where):
            return None

        def see(grads: tuple[Any, ...]) -> tuple[Any, ...]:
            full: list[Any] = [None] * len(values)
            for i, grad in zip(where, grads, strict=True):
                full[i] = grad
            full = list(receive(tuple(full)))
            return tuple(full[i] for i in where)

        out = list(values)
        for i, tensor in zip(where, _Watch.apply(see, *(values[i] for i in where)), strict=True):
            out[i] = tensor
        return tuple(out)

    def watch_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The positional arguments, watched where a gradient flows to them."""
        self.inputs = len(args)
        watched = self._watch(args, self._at_inputs)
        self.watched = watched is not None
        return watched if self.watched else args

    def watch_outputs(self, result: Any) -> Any:
        """The result, watched. Only a Tensor or a tuple of Tensors can be."""
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors"
                f" but received {type(result)}",
                stacklevel=4,
            )
            return result
        single = isinstance(result, Tensor)
        watched = self._watch((result,) if single else tuple(result), self._at_outputs)
        if watched is None:
            return result
        if single:
            return watched[0]
        return watched if type(result) is tuple else type(result)(*watched)

    def _at_outputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.pre_hooks:
            changed = hook(self.module, grads)
            if changed is not None:
                changed = changed if isinstance(changed, tuple) else (changed,)
                if len(changed) != len(grads):
                    raise RuntimeError(
                        "Backward pre hook returned an invalid number of grad_output, "
                        f"got {len(changed)}, but expected {len(grads)}"
                    )
                grads = changed
        self.grad_output = grads
        if not self.watched:
            if self.hooks:
                warnings.warn(
                    "Full backward hook is firing when gradients are computed with respect to module outputs since no "
                    "inputs require gradients.",
                    stacklevel=2,
                )
            for hook in self.hooks:
                changed = hook(self.module, (None,) * self.inputs, grads)
                if changed is not None and any(g is not None for g in changed):
                    raise RuntimeError(
                        "Backward hook for Modules where no input requires gradient should always return None or "
                        "None for all gradients."
                    )
            self.grad_output = None
        return grads

    def _at_inputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.grad_output is None:  # the gradient did not come through the module's output
            return grads
        for hook in self.hooks:
            changed = hook(self.module, grads, self.grad_output)
            if changed is not None:
                changed = changed if isinstance(changed, tuple) else (changed,)
                if len(changed) != len(grads):
                    raise RuntimeError(
                        "Backward hook returned an invalid number of grad_input, "
                        f"got {len(changed)}, but expected {len(grads)}"
                    )
                grads = changed
        self.grad_output = None
        return grads
