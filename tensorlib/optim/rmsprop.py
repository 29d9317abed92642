"""RMSprop."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import check
from tensorlib.optim._fused import Fused

__all__ = ["RMSprop"]


class RMSprop(Fused):
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

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        alpha = group["alpha"]
        rule, names = "rmsprop", ["square_avg"]
        if group["momentum"] > 0:
            rule, names = rule + "_momentum", [*names, "momentum_buffer"]
        if group["centered"]:
            rule, names = rule + "_centered", [*names, "grad_avg"]
        return rule, tuple(names), (alpha, 1 - alpha, group["eps"], group["momentum"])
