"""LogisticNormal."""

from __future__ import annotations

from typing import Any, ClassVar

from tensorlib.distributions import constraints
from tensorlib.distributions.normal import Normal
from tensorlib.distributions.transformed_distribution import TransformedDistribution
from tensorlib.distributions.transforms import StickBreakingTransform

__all__ = ["LogisticNormal"]


class LogisticNormal(TransformedDistribution):
    """Shares: normal numbers (…, k - 1) by StickBreakingTransform to (…, k)."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.simplex
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        base = Normal(loc, scale, validate_args=validate_args)
        if not base.batch_shape:
            base = base.expand((1,))
        super().__init__(base, StickBreakingTransform(), validate_args=validate_args)

    @property
    def loc(self) -> Any:
        """loc of the normal numbers."""
        return self.base_dist.base_dist.loc

    @property
    def scale(self) -> Any:
        """scale of the normal numbers."""
        return self.base_dist.base_dist.scale
