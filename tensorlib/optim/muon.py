"""Muon."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.ops import addmm
from tensorlib.optim._each import Each, State, rate

__all__ = ["Muon"]


class Muon(Each):
    """b <- momentum b + (1 - momentum) g, made nearly orthogonal: p <- (1 - lr weight_decay) p - lr' orthogonal(b).

    For matrices only: the weights of hidden layers; everything else is AdamW's. ``orthogonal`` is ``ns_steps`` of the
    Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X in bfloat16, from X = b / |b|. ``nesterov``: of
    g + momentum (b - g). lr' = lr sqrt(max(1, rows/columns)), or with ``adjust_lr_fn="match_rms_adamw"``
    0.2 lr sqrt(max(rows, columns)). State: ``momentum_buffer``. Jordan et al. 2024. ValueError for options out of
    range and for parameters that are not matrices.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        for value, name in ((lr, "Learning rate"), (momentum, "momentum"), (weight_decay, "weight decay")):
            if not value >= 0.0:
                raise ValueError(f"{name} should be >= 0 but is: {value}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn,
        })  # fmt: skip
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(
                        f"Muon only supports 2D parameters whereas we found a parameter with size: {p.size()}"
                    )

    _counts = _reads_count = False

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        self._zeros(state, p, "momentum_buffer")

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], rate(group)
        buffer = s["momentum_buffer"].lerp_(g, 1 - momentum)
        update = orthogonal(
            g.lerp(buffer, momentum) if group["nesterov"] else buffer,
            group["ns_coefficients"], group["ns_steps"], group["eps"],
        )  # fmt: skip
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            lr_here = 0.2 * lr * max(rows, columns) ** 0.5
        else:
            lr_here = lr * max(1, rows / columns) ** 0.5
        p.mul_(1 - lr * group["weight_decay"])
        p.add_(update.to(p.dtype), alpha=-lr_here)


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """A matrix (m, n) with x's singular vectors and all singular values near 1, in bfloat16."""
    if steps >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if x.ndim != 2:
        raise ValueError("Input tensor gradient must be a 2D matrix")
    if len(coefficients) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    y = x.bfloat16()
    y = y.T if tall else y
    y = y.div(y.norm().clamp(min=eps))
    for _ in range(steps):
        gram = y @ y.T
        y = addmm(y, addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.T if tall else y
