"""Adagrad."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import float32
from tensorlib.ops import full_like, tensor
from tensorlib.optim._each import check
from tensorlib.optim._fused import Fused

__all__ = ["Adagrad"]


class Adagrad(Fused):
    """v <- v + g^2; p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(v) + eps). Duchi et al. 2011.

    v starts at ``initial_accumulator_value``. g <- g + weight_decay p; ``maximize``: g <- -g. State: ``step``, ``sum``,
    made with the optimizer. ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check(lr_decay, "lr_decay value")
        check(weight_decay, "weight_decay value")
        check(initial_accumulator_value, "initial_accumulator_value value")
        check(eps, "epsilon value")
        super().__init__(params, {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "fused": fused,
        })  # fmt: skip
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = tensor(0.0, dtype=float32)
                value = group["initial_accumulator_value"]
                state["sum"] = full_like(p.detach(), complex(value, value) if p.is_complex() else value)

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        return "adagrad", ("sum",), (group["lr_decay"], group["eps"])
