"""NAdam."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import float32
from tensorlib.ops import tensor
from tensorlib.optim._each import Each, State, check, check_betas, decayed_or_shrunk, rate

__all__ = ["NAdam"]


class NAdam(Each):
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

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        state["mu_product"] = tensor(1.0, dtype=float32)
        self._zeros(state, p, "exp_avg", "exp_avg_sq")

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        g = decayed_or_shrunk(p, g, group)
        beta1, beta2 = group["betas"]
        lr, t, decay = rate(group), s["step"].item(), group["momentum_decay"]
        mu, after = (beta1 * (1 - 0.5 * 0.96 ** (n * decay)) for n in (t, t + 1))
        s["mu_product"] *= mu
        product = s["mu_product"].item()
        m = s["exp_avg"].lerp_(g, 1 - beta1)
        v = s["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = v.div(1 - beta2**t).sqrt_().add_(group["eps"])
        p.addcdiv_(g, size, value=-lr * (1 - mu) / (1 - product))
        p.addcdiv_(m, size, value=-lr * after / (1 - product * after))
