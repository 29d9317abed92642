"""Muon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib._core import Tensor, modes
from tensorlib.autograd import no_grad
from tensorlib.errors import CaptureError
from tensorlib.ops import baddbmm, zeros
from tensorlib.ops import stack as stacked
from tensorlib.ops.optim import sgd_
from tensorlib.optim.optimizer import Optimizer, evaluate, rate_on

__all__ = ["Muon"]


class Muon(Optimizer):
    """b <- momentum b + (1 - momentum) g, made nearly orthogonal: p <- (1 - lr weight_decay) p - lr' orthogonal(b).

    For matrices only: the weights of hidden layers; everything else is AdamW's. ``orthogonal`` is ``ns_steps`` of the
    Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X in bfloat16, from X = b / |b|. ``nesterov``: of
    g + momentum (b - g). lr' = lr sqrt(max(1, rows/columns)), or with ``adjust_lr_fn="match_rms_adamw"``
    0.2 lr sqrt(max(rows, columns)). State: ``momentum_buffer``. Jordan et al. 2024. ValueError for options out of
    range and for parameters that are not matrices. Matrices of one shape are stepped together, in batched products.
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

    def _prepare(self) -> None:
        super()._prepare()
        self._stacks: dict[Any, Stack] = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss."""
        loss = evaluate(closure)
        with no_grad():
            for number, group in enumerate(self.param_groups):
                alike: dict[Any, list[Tensor]] = {}
                for p in group["params"]:
                    if p.grad is not None:
                        if p.is_complex():
                            raise RuntimeError("Muon does not support complex parameters")
                        _ = self.state[p]  # in the order of the parameters, whatever their shapes
                        alike.setdefault((number, p.shape, p.dtype, p.device), []).append(p)
                for key, params in alike.items():
                    self._together(key, params, group)
        return loss

    def _together(self, key: Any, params: list[Tensor], group: dict[str, Any]) -> None:
        """The step of matrices of one shape."""
        stack = self._stacks.get(key)
        if stack is None or not stack.holds(params, self.state):
            if modes.capture is not None and params[0].is_cuda:
                raise CaptureError(
                    "Muon.step: its state would be made while a graph is captured, and made anew by every replay: run "
                    "one step, on a side stream, before the capture"
                )
            stack = self._stacks[key] = Stack(params, self.state)
        momentum = group["momentum"]
        grads: Any = stacked([p.grad for p in params])
        buffer = stack.buffer.lerp_(grads, 1 - momentum)
        update = orthogonal(
            grads.lerp(buffer, momentum) if group["nesterov"] else buffer,
            group["ns_coefficients"], group["ns_steps"], group["eps"],
        ).to(buffer.dtype)  # fmt: skip
        rows, columns = params[0].shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            factor = 0.2 * max(rows, columns) ** 0.5
        else:
            factor = max(1, rows / columns) ** 0.5
        # p - factor lr (u + weight_decay / factor p), in one launch
        sgd_(
            params, list(update.unbind(0)), None, rate_on(group["lr"] * factor, buffer.device), None,
            offsets=(0,) * len(params), momentum=0.0, dampening=0.0, weight_decay=group["weight_decay"] / factor,
            nesterov=False, maximize=False,
        )  # fmt: skip


class Stack:
    """The momentum of matrices of one shape, as one array (n, rows, columns), whose slices are in ``state``."""

    def __init__(self, params: list[Tensor], state: Any) -> None:
        self.params = list(params)
        self.buffer = zeros(len(params), *params[0].shape, dtype=params[0].dtype, device=params[0].device)
        self.views = list(self.buffer.unbind(0))
        for p, view in zip(params, self.views, strict=True):
            old = state[p].get("momentum_buffer")
            if old is not None:
                view.copy_(old)
            state[p]["momentum_buffer"] = view

    def holds(self, params: list[Tensor], state: Any) -> bool:
        """Whether these are the parameters and their state still the slices."""
        return len(params) == len(self.params) and all(
            p is q and state[p].get("momentum_buffer") is view
            for p, q, view in zip(params, self.params, self.views, strict=True)
        )


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices (…, m, n) with x's singular vectors and all singular values near 1, in bfloat16."""
    if steps >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if len(coefficients) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    a, b, c = coefficients
    tall = x.shape[-2] > x.shape[-1]
    y: Any = x.bfloat16()
    y = y.mT.contiguous() if tall else y
    y = y.div(y.norm(dim=(-2, -1), keepdim=True).clamp(min=eps))
    for _ in range(steps):
        gram = y @ y.mT
        y = baddbmm(y, baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.mT if tall else y  # type: ignore[no-any-return]
