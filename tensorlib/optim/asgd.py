"""Averaged SGD."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import float32
from tensorlib.ops import tensor
from tensorlib.optim._each import Each, State, check, decayed, rate

__all__ = ["ASGD"]


class ASGD(Each):
    """p <- (1 - lambd e_t) p - e_t g, with the running mean of p kept in ``ax``. Polyak & Juditsky 1992.

    e_t = lr / (1 + lambd lr t)^alpha; from step ``t0`` on ax <- ax + (p - ax) mu_t with mu_t = 1 / max(1, t - t0).
    g <- g + weight_decay p; ``maximize``: g <- -g. State: ``step``, ``eta``, ``mu``, ``ax``. ValueError for options out
    of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check(weight_decay, "weight_decay value")
        super().__init__(params, {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        state["eta"] = tensor(rate(group), dtype=float32)
        state["mu"] = tensor(1.0, dtype=float32)
        self._zeros(state, p, "ax")

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        g = decayed(p, g, group)
        t, eta, mu = s["step"].item(), s["eta"].item(), s["mu"].item()
        p.mul_(1 - group["lambd"] * eta).add_(g, alpha=-eta)
        if mu == 1:
            s["ax"].copy_(p)
        else:
            s["ax"].add_(p.sub(s["ax"]).mul_(mu))
        lr = rate(group)
        # In float32 whatever the parameter's dtype is, as PyTorch has them.
        s["eta"].copy_(tensor(lr / (1 + group["lambd"] * lr * t) ** group["alpha"], dtype=float32))
        s["mu"].copy_(tensor(1 / max(1, t - group["t0"]), dtype=float32))
