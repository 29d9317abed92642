"""Rprop."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.ops import full_like, zeros_like
from tensorlib.optim._fused import Fused

__all__ = ["Rprop"]


class Rprop(Fused):
    """p <- p - sign(g) d, where d grows by etas[1] while g keeps its sign and shrinks by etas[0] when it flips.

    After a flip g counts as 0. d starts at ``lr`` and stays within ``step_sizes``. Riedmiller & Braun 1993.
    ``maximize``: g <- -g. State: ``step``, ``prev`` (the last g), ``step_size`` (d). ValueError for wrong options.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(params, {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def _start(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        lr = float(group["lr"])
        state["step"], state["prev"] = 0.0, zeros_like(p.detach())
        state["step_size"] = full_like(p.detach(), complex(lr, lr) if p.is_complex() else lr)

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        return "rprop", ("prev", "step_size"), (*group["etas"], *group["step_sizes"])
