"""HalfCauchy."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.distributions import constraints
from tensorlib.distributions.cauchy import Cauchy
from tensorlib.distributions.transformed_distribution import TransformedDistribution
from tensorlib.distributions.transforms import AbsTransform

__all__ = ["HalfCauchy"]


class HalfCauchy(TransformedDistribution):
    """|x| of a Cauchy number of loc 0 and that scale."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"scale": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(Cauchy(0, scale, validate_args=False), AbsTransform(), validate_args=validate_args)

    @property
    def scale(self) -> Any:
        """scale."""
        return self.base_dist.scale

    @property
    def mean(self) -> Tensor:
        """inf."""
        return ops.full_like(self.scale, math.inf)

    @property
    def mode(self) -> Tensor:
        """0."""
        return ops.zeros_like(self.scale)

    @property
    def variance(self) -> Any:
        """inf."""
        return self.base_dist.variance

    def log_prob(self, value: Tensor) -> Tensor:
        """Cauchy's, and log 2."""
        self._validate_sample(value)
        value = ops.as_tensor(value, dtype=self.scale.dtype, device=self.scale.device)
        return ops.where(value >= 0, self.base_dist.log_prob(value) + math.log(2), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """2 atan(value / scale) / pi."""
        self._validate_sample(value)
        return 2 * self.base_dist.cdf(value) - 1  # type: ignore[no-any-return]

    def icdf(self, prob: Tensor) -> Tensor:
        """The quantile."""
        return self.base_dist.icdf((prob + 1) / 2)  # type: ignore[no-any-return]

    def entropy(self) -> Tensor:
        """Cauchy's, less log 2."""
        return self.base_dist.entropy() - math.log(2)  # type: ignore[no-any-return]
