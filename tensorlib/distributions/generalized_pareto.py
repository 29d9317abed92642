"""GeneralizedPareto."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.distributions import constraints
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import broadcast_all

__all__ = ["GeneralizedPareto"]


class GeneralizedPareto(Distribution):
    """(1 + k z)^(-1 / k - 1) / scale, z = (x - loc) / scale, k the concentration; exp(-z) / scale where k = 0."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """[loc, inf], or up to loc - scale / k where k < 0."""
        upper = ops.where(self.concentration < 0, self.loc - self.scale / self.concentration, math.inf)
        return constraints.interval(self.loc, upper)

    def _zero(self) -> tuple[Tensor, Tensor]:
        """Where k is 0, and k with ones there."""
        zero = ops.isclose(self.concentration, ops.zeros_like(self.concentration))
        return zero, self.concentration.masked_fill(zero, 1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The quantile of uniform numbers."""
        return self.icdf(ops.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density at value."""
        self._validate_sample(value)
        zero, k = self._zero()
        z = (value - self.loc) / self.scale
        return -self.scale.log() - ops.where(zero, z, (1 / k + 1) * (k * z).log1p())

    def log_survival_function(self, value: Tensor) -> Tensor:
        """The log of the probability of more than value."""
        self._validate_sample(value)
        zero, k = self._zero()
        z = (value - self.loc) / self.scale
        return ops.where(zero, -z, -(k * z).log1p() / k)

    def log_cdf(self, value: Tensor) -> Tensor:
        """The log of the probability of at most value."""
        return (-self.log_survival_function(value).exp()).log1p()

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most value."""
        return self.log_cdf(value).exp()

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile."""
        zero, k = self._zero()
        log = (-value).log1p()
        return self.loc + self.scale * ops.where(zero, -log, (-k * log).expm1() / k)

    @property
    def mean(self) -> Tensor:
        """loc + scale / (1 - k) for k < 1, else NaN."""
        k = self.concentration
        return ops.where(k < 1, self.loc + self.scale / (1 - k), math.nan)

    @property
    def variance(self) -> Tensor:
        """scale^2 / ((1 - k)^2 (1 - 2 k)) for k < 1/2, else NaN."""
        k = self.concentration
        return ops.where(k < 0.5, self.scale**2 / ((1 - k) ** 2 * (1 - 2 * k)), math.nan)

    @property
    def mode(self) -> Tensor:
        """loc."""
        return self.loc

    def entropy(self) -> Tensor:
        """log scale + k + 1."""
        return self.scale.log() + self.concentration + 1
