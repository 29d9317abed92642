"""NegativeBinomial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.distributions import constraints
from tensorlib.distributions._binary import BinaryParameter
from tensorlib.distributions.gamma import Gamma

__all__ = ["NegativeBinomial"]


class NegativeBinomial(BinaryParameter):
    """The number of successes of probability probs = sigmoid(logits) before ``total_count`` failures."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "total_count": constraints.greater_than_eq(0),
        "probs": constraints.half_open_interval(0.0, 1.0),
        "logits": constraints.real,
    }
    support = constraints.nonnegative_integer

    def __init__(
        self, total_count: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        (self.total_count,) = self._give(probs, logits, total_count)
        super().__init__(self._param.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """r p / (1 - p)."""
        return self.total_count * self.logits.exp()

    @property
    def mode(self) -> Tensor:
        """floor((r - 1) p / (1 - p)), at least 0."""
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0.0)

    @property
    def variance(self) -> Tensor:
        """r p / (1 - p)^2."""
        return self.mean / (-self.logits).sigmoid()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Poisson numbers whose rates are gamma numbers, outside autograd."""
        with no_grad():
            rate = Gamma(self.total_count, (-self.logits).exp(), validate_args=False).sample(sample_shape)
            return ops.poisson(rate)

    def log_prob(self, value: Tensor) -> Tensor:
        """log C(r + value - 1, value) + r log(1 - p) + value log p, r the total count."""
        self._validate_sample(value)
        r = self.total_count
        norm = (1.0 + value).lgamma() + r.lgamma() - (r + value).lgamma()
        norm = norm.masked_fill(r + value == 0.0, 0.0)
        return r * ops.logsigmoid(-self.logits) + value * ops.logsigmoid(self.logits) - norm
