"""Averaged SGD."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import check
from tensorlib.optim._fused import Fused

__all__ = ["ASGD"]


class ASGD(Fused):
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

    _own = ("eta", "mu")

    def _start(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        state["step"], state["eta"], state["mu"] = 0.0, float(group["lr"]), 1.0

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        return "asgd", ("ax",), (group["lambd"], group["alpha"], group["t0"])
