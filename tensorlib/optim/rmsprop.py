"""RMSprop."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import Each, State, check, decayed, rate

__all__ = ["RMSprop"]


class RMSprop(Each):
    """v <- alpha v + (1 - alpha) g^2; p <- p - lr g / (sqrt(v) + eps). Hinton 2012, lecture 6e.

    ``centered``: v less the square of g's running mean. ``momentum``: b <- momentum b + g / (...); p <- p - lr b.
    g <- g + weight_decay p; ``maximize``: g <- -g. State: ``step``, ``square_avg``, ``grad_avg``,
    ``momentum_buffer``. ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check(eps, "epsilon value")
        check(momentum, "momentum value")
        check(weight_decay, "weight_decay value")
        check(alpha, "alpha value")
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
            "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable,
        })  # fmt: skip

    _reads_count = False

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        self._zeros(state, p, "square_avg")
        if group["momentum"] > 0:
            self._zeros(state, p, "momentum_buffer")
        if group["centered"]:
            self._zeros(state, p, "grad_avg")

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        g = decayed(p, g, group)
        alpha = group["alpha"]
        v = s["square_avg"].mul_(alpha).addcmul_(g, g, value=1 - alpha)
        if group["centered"]:
            mean = s["grad_avg"].lerp_(g, 1 - alpha)
            v = v.addcmul(mean, mean, value=-1)
        size = v.sqrt().add_(group["eps"])
        if group["momentum"] > 0:
            p.add_(s["momentum_buffer"].mul_(group["momentum"]).addcdiv_(g, size), alpha=-rate(group))
        else:
            p.addcdiv_(g, size, value=-rate(group))
