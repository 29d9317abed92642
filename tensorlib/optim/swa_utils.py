"""Averages of weights over training: stochastic weight averaging and exponential moving averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, ClassVar

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.nn.batchnorm import _BatchNorm
from tensorlib.nn.module import Module
from tensorlib.ops import tensor
from tensorlib.optim.lr_scheduler import LRScheduler
from tensorlib.optim.optimizer import Optimizer

__all__ = ["SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn",
           "update_bn"]  # fmt: skip

Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[list[Tensor], list[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """decay average + (1 - decay) parameter, as ``avg_fn`` of an AveragedModel."""
    _check_decay(decay)

    def average(average: Tensor, current: Tensor, count: Any) -> Tensor:
        with no_grad():
            return decay * average + (1 - decay) * current

    return average


def get_swa_avg_fn() -> Average:
    """average + (parameter - average) / (count + 1), as ``avg_fn`` of an AveragedModel."""

    def average(average: Tensor, current: Tensor, count: Any) -> Tensor:
        with no_grad():
            return average + (current - average) / (count + 1)

    return average


def _each(update: Callable[[Tensor, Tensor, Any], Any]) -> MultiAverage:
    def average(averages: list[Tensor], currents: list[Tensor], count: Any) -> None:
        with no_grad():
            for a, p in zip(averages, currents, strict=True):
                update(a, p.to(a.device), count)

    return average


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """decay average + (1 - decay) parameter in place, as ``multi_avg_fn`` of an AveragedModel."""
    _check_decay(decay)

    def update(a: Tensor, p: Tensor, count: Any) -> Any:
        inexact = a.is_floating_point() or a.is_complex()
        return a.lerp_(p, 1 - decay) if inexact else a.copy_(a * decay + p * (1 - decay))

    return _each(update)


def get_swa_multi_avg_fn() -> MultiAverage:
    """average + (parameter - average) / (count + 1) in place, as ``multi_avg_fn`` of an AveragedModel."""

    def update(a: Tensor, p: Tensor, count: Any) -> Any:
        share = 1 / (float(count) + 1)
        return a.lerp_(p, share) if a.is_floating_point() or a.is_complex() else a.add_((p - a) // (count + 1))

    return _each(update)


class AveragedModel(Module):
    """A copy of a model whose parameters are averages: equal weights (SWA), or those of ``avg_fn``, ``multi_avg_fn``.

    ``update_parameters(model)`` takes the model's parameters into the averages; the first call copies them.
    ``use_buffers``: buffers are averaged too, otherwise copied at each update. SWA's batch norm statistics want
    ``update_bn`` afterwards. Izmailov et al. 2018. AssertionError when both functions are given.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged model's result."""
        return self.module(*args, **kwargs)

    def _values(self, model: Module) -> list[Tensor]:
        return [*model.parameters(), *(model.buffers() if self.use_buffers else ())]

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of ``model`` into the averages."""
        mine, current = [v.detach() for v in self._values(self.module)], [v.detach() for v in self._values(model)]
        if self.n_averaged.item() == 0:
            for a, p in zip(mine, current, strict=True):
                a.copy_(p)
        elif self.avg_fn is not None:
            for a, p in zip(mine, current, strict=True):
                a.copy_(self.avg_fn(a, p.to(a.device), self.n_averaged.to(a.device)))
        else:
            (self.multi_avg_fn or get_swa_multi_avg_fn())(mine, current, self.n_averaged)
        if not self.use_buffers:
            for a, p in zip(self.module.buffers(), model.buffers(), strict=True):
                a.detach().copy_(p.detach())
        self.n_averaged += 1


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Set the batch norm statistics of a model to the means over a loader: its batches, or their first elements."""
    norms = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    if not norms:
        return
    training = model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    with no_grad():
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
    for norm, momentum in norms.items():
        norm.momentum = momentum
    model.train(training)


class SWALR(LRScheduler):
    """lr goes from what it is to ``swa_lr`` in ``anneal_epochs``, by a cosine or a line, and stays there.

    TypeError for rates that do not fit the groups, ValueError for an unknown strategy or a negative length.
    """

    _SHAPES: ClassVar[dict[str, Callable[[float], float]]] = {
        "cos": lambda t: (1 - math.cos(math.pi * t)) / 2,
        "linear": lambda t: t,
    }

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        groups = optimizer.param_groups
        rates = list(swa_lr) if isinstance(swa_lr, (list, tuple)) else [swa_lr] * len(groups)
        if len(rates) != len(groups):
            raise ValueError(f"swa_lr must have the same length as optimizer.param_groups: {len(rates)}, {len(groups)}")
        for rate, group in zip(rates, groups, strict=True):
            group["swa_lr"] = rate.clone() if isinstance(rate, Tensor) else rate
        if anneal_strategy not in self._SHAPES:
            raise ValueError(f"anneal_strategy must by one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs, self._anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _done(self, step: float) -> float:
        share = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return self._SHAPES[self._anneal_strategy](share)

    def get_lr(self) -> list[Any]:
        """The rates of this step, from the last ones."""
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._done(max(0, step - 1)), self._done(step)
        rates = []
        for group in self.optimizer.param_groups:
            if before == 1:
                rates.append(group["swa_lr"])
                continue
            initial = (group["lr"] - before * group["swa_lr"]) / (1 - before)
            rates.append(initial * (1 - now) + group["swa_lr"] * now)
        return rates
