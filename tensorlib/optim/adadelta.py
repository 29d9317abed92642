"""Adadelta."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import check
from tensorlib.optim._fused import Fused

__all__ = ["Adadelta"]


class Adadelta(Fused):
    """v <- rho v + (1 - rho) g^2; d = sqrt(u + eps) / sqrt(v + eps) g; u <- rho u + (1 - rho) d^2; p <- p - lr d.

    Zeiler 2012. g <- g + weight_decay p; ``maximize``: g <- -g. State: ``step``, ``square_avg`` (v), ``acc_delta`` (u).
    ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        check(eps, "epsilon value")
        check(weight_decay, "weight_decay value")
        super().__init__(params, {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "capturable": capturable, "foreach": foreach, "differentiable": differentiable,
        })  # fmt: skip

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        rho = group["rho"]
        return "adadelta", ("square_avg", "acc_delta"), (rho, 1 - rho, group["eps"])
