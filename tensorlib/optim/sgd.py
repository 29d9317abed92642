"""SGD with momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.ops.optim import sgd_
from tensorlib.optim._differentiable import Differentiable
from tensorlib.optim._flat import as_real
from tensorlib.optim.optimizer import check_options, evaluate, found_inf_on, rate_on, takes_found_inf

__all__ = ["SGD"]


class SGD(Differentiable):
    """b <- momentum b + (1 - dampening) (g + weight_decay p); p <- p - lr b. Sutskever et al. 2013.

    The first b is g + weight_decay p. ``nesterov``: p <- p - lr (g + momentum b). ``maximize``: g <- -g. Without
    momentum no state is kept. ``foreach`` and ``fused`` are accepted and change nothing: a step is one fused update.
    ``differentiable``: operations that autograd records, as in Adam. ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_options(lr, foreach, fused, differentiable)
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("nesterov", "maximize", "differentiable", "fused"):
                group.setdefault(name, False)
            group.setdefault("foreach", None)

    @takes_found_inf
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss."""
        loss = evaluate(closure)
        if self.defaults["differentiable"]:
            self._recorded_step()
            return loss
        with no_grad():
            for number, group in enumerate(self.param_groups):
                self._step(number, group)
        return loss

    _counts = False

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
        names = ("momentum_buffer",) if group["momentum"] else ()
        return "sgd", names, (group["momentum"], group["dampening"], group["nesterov"])

    def _step(self, number: int, group: dict[str, Any]) -> None:
        options = {
            "momentum": float(group["momentum"]), "weight_decay": float(group["weight_decay"]),
            "nesterov": bool(group["nesterov"]), "maximize": bool(group["maximize"]),
        }  # fmt: skip
        if not options["momentum"]:
            kinds: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    kinds.setdefault((p.dtype, p.device), []).append(p)
            for (_, device), params in kinds.items():
                lr = rate_on(group["lr"], device)
                grads = [p.grad for p in params]
                if params[0].is_complex():
                    params, grads = as_real(params), as_real(grads)
                found_inf, none = found_inf_on(self, device), (0,) * len(params)
                sgd_(params, grads, None, lr, found_inf, offsets=none, dampening=0.0, **options)
            return
        dampening = float(group["dampening"])
        for update in self._flat.updates(number, group, self.state, ("momentum_buffer",), False):
            buffer, lr = update.block.buffers["momentum_buffer"], rate_on(group["lr"], update.block.device)
            found_inf = found_inf_on(self, update.block.device)
            if not (dampening and update.fresh):
                parts = [(update.params, update.grads, update.offsets, dampening)]
            else:  # a first buffer is the gradient itself: zeros, without dampening
                # Had this step to be skipped on the device, the next one would be the first; state is never made while
                # a graph is captured, so that the host may ask.
                if found_inf is not None and found_inf.item():
                    for i in update.fresh:
                        del self.state[update.block.params[update.places[i]]]["momentum_buffer"]
                    continue
                fresh = set(update.fresh)
                chosen = [update.fresh, [i for i in range(len(update.params)) if i not in fresh]]
                parts = [
                    ([update.params[i] for i in part], [update.grads[i] for i in part],
                     tuple([update.offsets[i] for i in part]), damp)
                    for part, damp in zip(chosen, (0.0, dampening), strict=True) if part
                ]  # fmt: skip
            for params, grads, offsets, damp in parts:
                sgd_(params, grads, buffer, lr, found_inf, offsets=offsets, dampening=damp, **options)
