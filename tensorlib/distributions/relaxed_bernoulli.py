"""Bernoulli with a temperature: continuous, and so differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.distributions import constraints
from tensorlib.distributions._binary import BinaryParameter
from tensorlib.distributions.transformed_distribution import TransformedDistribution
from tensorlib.distributions.transforms import SigmoidTransform
from tensorlib.distributions.utils import broadcast_all, clamp_probs

__all__ = ["LogitRelaxedBernoulli", "RelaxedBernoulli"]


class LogitRelaxedBernoulli(BinaryParameter):
    """logit of RelaxedBernoulli: (logits + logit(u)) / temperature, u uniform. Maddison et al. 2017."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        self._give(probs, logits)
        super().__init__(self._param.shape, validate_args=validate_args)

    _shared = ("temperature",)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that are differentiable in the parameter and the temperature."""
        probs = clamp_probs(self.probs.expand(self._extended_shape(sample_shape)))
        u = clamp_probs(ops.rand(probs.shape, dtype=probs.dtype, device=probs.device))
        drawn: Tensor = (u.log() - (-u).log1p() + probs.log() - (-probs).log1p()) / self.temperature
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """log t + d - 2 log(1 + exp d), d = logits - t value, t the temperature."""
        self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        away = logits - value * self.temperature
        t = self.temperature
        log = t.log() if isinstance(t, Tensor) else math.log(t)
        return log + away - 2 * away.exp().log1p()  # type: ignore[no-any-return]


class RelaxedBernoulli(TransformedDistribution):
    """sigmoid((logits + logit(u)) / temperature): near 0 and 1 at low temperatures. Jang et al. 2017."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        base = LogitRelaxedBernoulli(temperature, probs, logits)
        super().__init__(base, SigmoidTransform(), validate_args=validate_args)

    @property
    def temperature(self) -> Any:
        """The temperature."""
        return self.base_dist.temperature

    @property
    def logits(self) -> Any:
        """Log odds."""
        return self.base_dist.logits

    @property
    def probs(self) -> Any:
        """Probabilities."""
        return self.base_dist.probs
