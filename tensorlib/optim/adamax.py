"""Adamax."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.ops import maximum
from tensorlib.optim._each import Each, State, check, check_betas, decayed, rate

__all__ = ["Adamax"]


class Adamax(Each):
    """m <- b1 m + (1 - b1) g; u <- max(b2 u, |g| + eps); p <- p - lr / (1 - b1^t) m / u. Kingma & Ba 2015, section 7.1.

    g <- g + weight_decay p; ``maximize``: g <- -g. State: ``step``, ``exp_avg`` (m), ``exp_inf`` (u). ValueError for
    options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check(eps, "epsilon value")
        check_betas(betas)
        check(weight_decay, "weight_decay value")
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        self._zeros(state, p, "exp_avg", "exp_inf")

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        g = decayed(p, g, group)
        beta1, beta2 = group["betas"]
        m = s["exp_avg"].lerp_(g, 1 - beta1)
        u = s["exp_inf"].mul_(beta2)
        u.copy_(maximum(u, g.abs().add_(group["eps"])))
        p.addcdiv_(m, u, value=-rate(group) / (1 - beta1 ** s["step"].item()))
