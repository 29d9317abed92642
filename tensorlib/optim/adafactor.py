"""Adafactor."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import finfo
from tensorlib.ops import zeros
from tensorlib.optim._each import Each, State, rate

__all__ = ["Adafactor"]


class Adafactor(Each):
    """Adaptive steps from the row and column means of g^2 alone: memory for a matrix of rows + columns numbers.

    With b = t^beta2_decay: R <- R + (mean over columns of g^2 - R) b, C likewise, v = R C / mean(R); vectors keep v
    whole. u = g / sqrt(v), u <- u / max(1, rms(u) / d), p <- p - max(eps[1], rms(p)) min(lr, 1/sqrt(t)) u, after
    p <- (1 - lr weight_decay) p. ``eps[0]`` None is the dtype's epsilon. ``maximize``: g <- -g. State: ``step``,
    ``row_var`` and ``col_var``, or ``variance``. Shazeer & Stern 2018. ValueError for options out of range,
    RuntimeError for complex parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        for value, name, bound, good in (
            (lr, "Learning rate", ">= 0", lr >= 0), (beta2_decay, "beta2_decay", "<= 0", beta2_decay <= 0),
            (eps[0], "epsilon1", ">= 0", eps[0] is None or eps[0] >= 0), (eps[1], "epsilon2", ">= 0", eps[1] >= 0),
            (d, "Clipping threshold d", ">= 1", d >= 1), (weight_decay, "weight_decay", ">= 0", weight_decay >= 0),
        ):  # fmt: skip
            if not good:
                raise ValueError(f"{name} should be {bound} but is: {value}")
        super().__init__(params, {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay,
            "foreach": foreach, "maximize": maximize,
        })  # fmt: skip

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        if p.is_complex():
            raise RuntimeError("Adafactor does not support complex parameters")
        if p.ndim > 1:
            state["row_var"] = zeros((*p.shape[:-1], 1), dtype=p.dtype, device=p.device)
            state["col_var"] = zeros((*p.shape[:-2], 1, p.shape[-1]), dtype=p.dtype, device=p.device)
        else:
            self._zeros(state, p, "variance")

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        t, lr = s["step"].item(), rate(group)
        eps1 = group["eps"][0] if group["eps"][0] is not None else finfo(p.dtype).eps
        share = t ** group["beta2_decay"]
        root = max(1.0, p.numel()) ** 0.5
        alpha = max(group["eps"][1], p.norm(2).item() / root) * min(lr, 1 / t**0.5)
        if group["weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        if p.ndim > 1:
            rows = s["row_var"].lerp_(g.norm(dim=-1, keepdim=True).square_().div_(max(1, g.shape[-1])), share)
            columns = s["col_var"].lerp_(g.norm(dim=-2, keepdim=True).square_().div_(max(1, g.shape[-2])), share)
            v = (rows @ columns).div_(rows.mean(dim=-2, keepdim=True).clamp_(min=eps1))
        else:
            v = s["variance"].lerp_(g.square(), share)
        update = v.clamp(min=eps1 * eps1).rsqrt_().mul_(g)
        p.add_(update, alpha=-alpha / max(1.0, update.norm(2).item() / (root * group["d"])))
