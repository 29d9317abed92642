"""RAdam."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import check, check_betas
from tensorlib.optim._fused import Fused, log

__all__ = ["RAdam"]


class RAdam(Fused):
    """Adam whose step size is rectified while the variance of its first steps is not known. Liu et al. 2020, alg. 2.

    With r_inf = 2 / (1 - b2) - 1 and r_t = r_inf - 2 t b2^t / (1 - b2^t): p <- p - lr m' where r_t <= 5, else
    p <- p - lr m' sqrt(((r_t - 4)(r_t - 2) r_inf) / ((r_inf - 4)(r_inf - 2) r_t)) sqrt(1 - b2^t) / (sqrt(v) + eps),
    m' = m / (1 - b1^t). g <- g + weight_decay p, or with ``decoupled_weight_decay`` p <- (1 - lr weight_decay) p.
    ``maximize``: g <- -g. State: ``step``, ``exp_avg`` (m), ``exp_avg_sq`` (v). ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
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
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "foreach": foreach, "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        })  # fmt: skip

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        beta1, beta2 = group["betas"]
        numbers = (1 - beta1, beta2, 1 - beta2, group["eps"], log(beta1), log(beta2), 2 / (1 - beta2) - 1)
        return "radam", ("exp_avg", "exp_avg_sq"), numbers
