"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.ops.optim import adam_
from tensorlib.optim._differentiable import Differentiable
from tensorlib.optim.optimizer import check_options, evaluate, found_inf_on, rate_on, takes_found_inf

__all__ = ["Adam", "AdamW"]


class Adam(Differentiable):
    """p <- p - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps). Kingma & Ba 2015, algorithm 1.

    m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2 with g <- g + weight_decay p; ``decoupled_weight_decay``
    (AdamW): p <- (1 - lr weight_decay) p instead. ``amsgrad``: v is its running maximum (Reddi et al. 2018).
    ``maximize``: g <- -g. State: ``step``, ``exp_avg`` (m), ``exp_avg_sq`` (v), ``max_exp_avg_sq``, in the parameter's
    dtype; half types compute in float32. ``foreach``, ``fused`` and ``capturable`` are accepted and change nothing: a
    step is one fused update that keeps its counts on the device. ``differentiable``: it is made of operations that
    autograd records, on parameters that are no leaves. ValueError for options out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_options(lr, foreach, fused, differentiable, capturable)
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
            raise ValueError("betas must be either both floats or both Tensors")
        for i, beta in enumerate(betas):
            if isinstance(beta, Tensor):
                if foreach and not capturable:
                    raise ValueError(
                        f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True"
                    )
                if beta.numel() != 1:
                    raise ValueError(f"Tensor betas[{i}] must be 1-element")
        if not differentiable:
            betas = (float(betas[0]), float(betas[1]))
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "differentiable": differentiable, "fused": fused, "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay"):
                group.setdefault(name, False)
            for name in ("foreach", "fused"):
                group.setdefault(name, None)

    @takes_found_inf
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss."""
        loss = evaluate(closure)
        if self.defaults["differentiable"]:
            self._recorded_step()
            return loss
        with no_grad():
            for number, group in enumerate(self.param_groups):
                self._step(number, group)
        return loss

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")
        return "adam", names, (*group["betas"], group["eps"])

    def _step(self, number: int, group: dict[str, Any]) -> None:
        _, names, (beta1, beta2, _) = self._rule(group)
        amsgrad = len(names) == 3
        for block, params, grads, offsets, index, _ in self._flat.updates(number, group, self.state, names, True):
            buffers = block.buffers
            adam_(
                params, grads, buffers["exp_avg"], buffers["exp_avg_sq"],
                buffers["max_exp_avg_sq"] if amsgrad else None, block.step, rate_on(group["lr"], block.device),
                found_inf_on(self, block.device), offsets=offsets, index=index, beta1=float(beta1), beta2=float(beta2),
                eps=float(group["eps"]), weight_decay=float(group["weight_decay"]), maximize=bool(group["maximize"]),
                decoupled_weight_decay=bool(group["decoupled_weight_decay"]),
            )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay: p <- (1 - lr weight_decay) p before each update. Loshchilov & Hutter 2019.

    Options and state are Adam's; ``weight_decay`` is 0.01 by default.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
        )  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
