"""What a step is with ``differentiable=True``: the updates in operations of tensors, which autograd records.

Parameters are then results of other operations (clones, say), and ``loss.backward()`` after the step reaches what their
first values, their gradients, the learning rate and the weight decay were made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import float32
from tensorlib.autograd import enable_grad
from tensorlib.ops import maximum, tensor, view_as_complex, view_as_real, where, zeros_like
from tensorlib.ops._optim_numpy import SCHEDULES
from tensorlib.optim.optimizer import Optimizer, found_inf_on

Result = tuple[Any, ...]


class Differentiable(Optimizer):
    """Base of optimizers whose step is a rule of ``RULES``; a subclass says which, by ``_rule``."""

    #: Whether ``step`` is part of the state.
    _counts = True

    #: Names of the other numbers that each parameter has in its state: see ``ops._optim_numpy.SCHEDULES``.
    _own: tuple[str, ...] = ()

    def _start(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        """Put what does not begin at 0 into a parameter's state."""

    def _rule(self, group: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
        """(name of the rule, names of its states, its numbers)."""
        raise TypeError(f"{type(self).__name__} does not define _rule()")

    def _recorded_step(self) -> None:
        """One update of every parameter, recorded. Its state are new tensors, part of the graph as well."""
        with enable_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    found_inf = found_inf_on(self, p.device)
                    if found_inf is None or not found_inf.item():
                        self._recorded_update(p, p.grad, group)

    def _recorded_update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        rule, names, numbers = self._rule(group)
        state, rate = self.state[p], group["lr"]
        fresh = names[0] not in state if names else False
        if not state:
            self._start(state, p, group)
        for name in names:
            if name not in state:
                state[name] = zeros_like(p.detach())
        t = 1.0 if fresh else 2.0
        if self._counts:
            t = float(state.get("step", 0.0)) + 1
            state["step"] = tensor(t, dtype=float32, device=p.device)
        if rule in SCHEDULES:
            own = [np.float32(float(state[name])) for name in self._own]
            following, derived = SCHEDULES[rule](t, own, float(rate), numbers)
            numbers = (*numbers, *derived)
            for name, value in zip(self._own, following, strict=True):
                state[name] = tensor(float(value), dtype=float32, device=p.device)
        whole = p.is_complex()
        # A copy of p: what is kept for the backward pass must not be written.
        x, g, *states = (view_as_real(v) if whole else v for v in (p.clone(), g, *(state[name] for name in names)))
        if group.get("maximize"):
            g = -g
        decay = group.get("weight_decay", 0.0)
        if isinstance(decay, Tensor) or decay:
            if group.get("decoupled_weight_decay"):
                x = x * (1 - rate * decay)
            else:
                g = g + x * decay
        made, *states = RULES[rule](x, g, states, rate, t, numbers)
        for name, value in zip(names, states, strict=True):
            state[name] = view_as_complex(value) if whole else value
        p.copy_(view_as_complex(made) if whole else made)


def _mean(m: Any, g: Any, share: Any) -> Any:
    return m + (g - m) * share


def _sgd(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    momentum, dampening, nesterov = n
    if not s:
        return (p - g * rate,)
    b = g.detach() if t == 1 else s[0] * momentum + g * (1 - dampening)
    return p - (g + b * momentum if nesterov else b) * rate, b  # the first b is a constant, as in PyTorch


def _adam(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    beta1, beta2, eps = n
    m, v = _mean(s[0], g, 1 - beta1), s[1] * beta2 + g * g * (1 - beta2)
    largest = [maximum(s[2], v)] if len(s) == 3 else []
    denominator = (largest[0] if largest else v).sqrt() / (1 - beta2**t) ** 0.5 + eps
    return p - m * (rate / (1 - beta1**t)) / denominator, m, v, *largest


def _lion(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    return p - (s[0] * n[0] + g * n[1]).sign() * rate, s[0] * n[2] + g * n[3]


def _rmsprop(centered: bool, momentum: bool) -> Callable[..., Result]:
    def rule(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
        v = s[0] * n[0] + g * g * n[1]
        mean = [_mean(s[-1], g, n[1])] if centered else []
        step = g / ((v - mean[0] * mean[0] if centered else v).sqrt() + n[2])
        if not momentum:
            return p - step * rate, v, *mean
        b = s[1] * n[3] + step
        return p - b * rate, v, b, *mean

    return rule


def _adagrad(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    v = s[0] + g * g
    return p - g * (rate / (1 + (t - 1) * n[0])) / (v.sqrt() + n[1]), v


def _adadelta(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    v = s[0] * n[0] + g * g * n[1]
    step = (s[1] + n[2]).sqrt() / (v + n[2]).sqrt() * g
    return p - step * rate, v, s[1] * n[0] + step * step * n[1]


def _adamax(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    m, u = _mean(s[0], g, n[0]), maximum(s[1] * n[1], g.abs() + n[2])
    return p - m * (rate / (1 - (1 - n[0]) ** t)) / u, m, u


def _nadam(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    m, v = _mean(s[0], g, n[0]), s[1] * n[1] + g * g * n[2]
    return p - (g * n[7] + m * n[8]) * rate / ((v / n[9]).sqrt() + n[3]), m, v


def _radam(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    m, v = _mean(s[0], g, n[0]), s[1] * n[1] + g * g * n[2]
    step = m * (rate * n[7])
    return p - (step * n[8] / (v.sqrt() + n[3]) if n[8] > 0 else step), m, v


def _asgd(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    p = p * n[3] - g * n[4]
    return p, p if n[5] == 1 else _mean(s[0], p, n[5])


def _rprop(p: Any, g: Any, s: Sequence[Any], rate: Any, t: float, n: Any) -> Result:
    turn = g * s[0]
    size = (s[1] * where(turn > 0, n[1], where(turn < 0, n[0], 1.0))).clamp(n[2], n[3])
    g = where(turn < 0, 0.0, g)
    return p - g.sign() * size, g, size


#: (p, g, states, rate, step, numbers) -> the next p and states; the rules of ``ops._optim_numpy`` with their numbers,
#: "sgd" (momentum, dampening, nesterov) and "adam" (beta1, beta2, eps). Step is 1 or 2 where it is not counted.
RULES: dict[str, Callable[..., Result]] = {
    "sgd": _sgd, "adam": _adam, "nadam": _nadam, "radam": _radam, "asgd": _asgd, "rprop": _rprop, "lion": _lion,
    "adagrad": _adagrad, "adadelta": _adadelta, "adamax": _adamax, "rmsprop": _rmsprop(False, False),
    "rmsprop_centered": _rmsprop(True, False), "rmsprop_momentum": _rmsprop(False, True),
    "rmsprop_momentum_centered": _rmsprop(True, True),
}  # fmt: skip
