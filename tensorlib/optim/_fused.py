"""The optimizers whose step is one pointwise rule: every parameter of a group in one launch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlib.autograd import no_grad
from tensorlib.ops.optim import fused_
from tensorlib.optim._differentiable import Differentiable
from tensorlib.optim.optimizer import check_options, evaluate, found_inf_on, rate_on, takes_found_inf


def log(beta: float) -> float:
    """log(beta), -inf for 0."""
    return math.log(beta) if beta > 0 else -math.inf


class Fused(Differentiable):
    """Base of optimizers that are a rule of ``ops._optim_numpy.RULES``. A subclass says which, by ``_rule``.

    ``foreach``, ``fused`` and ``capturable`` are accepted and change nothing: a step is always one fused update, whose
    states are slices of flat buffers and whose counts of steps, where the rule has them, are on the device.
    """

    #: What PyTorch added to groups over time: a group of an old state_dict gets these.
    _later: dict[str, Any] = {"maximize": False, "differentiable": False, "capturable": False, "foreach": None}  # noqa: RUF012

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        check_options(
            defaults["lr"], defaults.get("foreach"), defaults.get("fused"), defaults.get("differentiable", False)
        )
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self._later.items():
                if name in self.defaults:
                    group.setdefault(name, value)

    @takes_found_inf
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss."""
        loss = evaluate(closure)
        if self.defaults.get("differentiable"):
            self._recorded_step()
            return loss
        with no_grad():
            for number, group in enumerate(self.param_groups):
                rule, names, numbers = self._rule(group)
                for p in group["params"]:
                    if p.grad is not None and not self.state[p]:
                        self._start(self.state[p], p, group)
                for update in self._flat.updates(number, group, self.state, names, self._counts, self._own):
                    block = update.block
                    fused_(
                        update.params, update.grads, [block.buffers[name] for name in names], block.step,
                        block.own, rate_on(group["lr"], block.device), found_inf_on(self, block.device),
                        offsets=update.offsets, index=update.places, rule=rule, numbers=tuple(map(float, numbers)),
                        weight_decay=float(group.get("weight_decay", 0.0)),
                        decoupled_weight_decay=bool(group.get("decoupled_weight_decay")),
                        maximize=bool(group.get("maximize")),
                    )  # fmt: skip
        return loss
