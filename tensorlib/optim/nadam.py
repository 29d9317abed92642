"""NAdam."""

from __future__ import annotations

import math
from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import check, check_betas
from tensorlib.optim._fused import Fused, log

__all__ = ["NAdam"]


class NAdam(Fused):
    """p <- p - lr ((1 - mu_t) g / (1 - M_t) + mu_(t+1) m / (1 - M_(t+1))) / (sqrt(v') + eps): Adam with a look ahead.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2), M_t their product, v' = v / (1 - b2^t), m and v as Adam's. Dozat 2016.
    g <- g + weight_decay p, or with ``decoupled_weight_decay`` p <- (1 - lr weight_decay) p. ``maximize``: g <- -g.
    State: ``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``. ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check(eps, "epsilon value")
        check_betas(betas)
        check(weight_decay, "weight_decay value")
        check(momentum_decay, "momentum_decay value")
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize, "foreach": foreach,
            "capturable": capturable, "differentiable": differentiable,
        })  # fmt: skip

    _own = ("mu_product",)

    def _start(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        state["step"], state["mu_product"] = 0.0, 1.0

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        beta1, beta2 = group["betas"]
        numbers = (1 - beta1, beta2, 1 - beta2, group["eps"], beta1, group["momentum_decay"] * math.log(0.96))
        return "nadam", ("exp_avg", "exp_avg_sq"), (*numbers, log(beta2))
