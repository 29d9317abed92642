"""Lion."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.optim._each import check, check_betas
from tensorlib.optim._fused import Fused

__all__ = ["Lion"]


class Lion(Fused):
    """p <- (1 - lr weight_decay) p - lr sign(b1 m + (1 - b1) g); m <- b2 m + (1 - b2) g. Chen et al. 2023, algorithm 2.

    Every element moves by lr, so that lr is 3 to 10 times smaller, and ``weight_decay`` as many times larger, than for
    AdamW. ``maximize``: g <- -g. State: ``exp_avg`` (m), half of Adam's. Half types compute in float32. ValueError for
    options out of range. An extension beyond PyTorch.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_betas(betas)
        check(weight_decay, "weight_decay value")
        super().__init__(params, {
            "lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
            "capturable": capturable, "differentiable": differentiable, "fused": fused,
            "decoupled_weight_decay": True,
        })  # fmt: skip

    _counts = False

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        beta1, beta2 = group["betas"]
        return "lion", ("exp_avg",), (beta1, 1 - beta1, beta2, 1 - beta2)
