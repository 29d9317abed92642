"""Weibull."""

from __future__ import annotations

from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.distributions import constraints
from tensorlib.distributions.exponential import Exponential
from tensorlib.distributions.gumbel import EULER
from tensorlib.distributions.transformed_distribution import TransformedDistribution
from tensorlib.distributions.transforms import AffineTransform, PowerTransform
from tensorlib.distributions.utils import broadcast_all

__all__ = ["Weibull"]


class Weibull(TransformedDistribution):
    """scale e^(1 / concentration), e a standard exponential number."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "scale": constraints.positive,
        "concentration": constraints.positive,
    }
    support = constraints.positive

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.scale, self.concentration = broadcast_all(scale, concentration)
        self.concentration_reciprocal = self.concentration.reciprocal()
        base = Exponential(ops.ones_like(self.scale), validate_args=validate_args)
        transforms = [PowerTransform(self.concentration_reciprocal), AffineTransform(0, self.scale)]
        super().__init__(base, transforms, validate_args=validate_args)

    def _moment(self, n: int) -> Tensor:
        return (1 + n * self.concentration_reciprocal).lgamma().exp()

    @property
    def mean(self) -> Tensor:
        """scale gamma(1 + 1 / k)."""
        return self.scale * self._moment(1)

    @property
    def mode(self) -> Tensor:
        """scale ((k - 1) / k)^(1 / k)."""
        return self.scale * ((self.concentration - 1) / self.concentration) ** self.concentration_reciprocal

    @property
    def variance(self) -> Tensor:
        """scale^2 (gamma(1 + 2 / k) - gamma(1 + 1 / k)^2)."""
        return self.scale**2 * (self._moment(2) - self._moment(1) ** 2)

    def entropy(self) -> Tensor:
        """Euler's constant times (1 - 1 / k) + log(scale / k) + 1, k the concentration."""
        k = self.concentration_reciprocal
        return EULER * (1 - k) + (self.scale * k).log() + 1
