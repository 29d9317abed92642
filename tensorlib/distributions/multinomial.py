"""Multinomial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.distributions import constraints
from tensorlib.distributions.binomial import Binomial
from tensorlib.distributions.categorical import Categorical
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import broadcast_all
from tensorlib.errors import UnsupportedError

__all__ = ["Multinomial"]


class Multinomial(Distribution):
    """Counts of ``total_count`` draws among k categories, probabilities proportional to probs (…, k) or exp(logits)."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    total_count: int

    def __init__(
        self, total_count: int = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        if not isinstance(total_count, int):
            raise UnsupportedError("Multinomial: inhomogeneous total_count is not supported: give one int")
        self.total_count = total_count
        self._categorical = Categorical(probs=probs, logits=logits)
        super().__init__(self._categorical.batch_shape, self._categorical.param_shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Counts with a sum of at most total_count."""
        return constraints.multinomial(self.total_count)

    @property
    def logits(self) -> Tensor:
        """Log probabilities."""
        return self._categorical.logits

    @property
    def probs(self) -> Tensor:
        """Probabilities."""
        return self._categorical.probs

    @property
    def param_shape(self) -> Any:
        """The shape of the parameter."""
        return self._categorical.param_shape

    @property
    def mean(self) -> Tensor:
        """n p."""
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        """n p (1 - p)."""
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts of categorical draws, outside autograd."""
        with no_grad():
            drawn = self._categorical.sample((self.total_count, *sample_shape)).movedim(0, -1)
            counts = ops.zeros(self._extended_shape(sample_shape), dtype=self.probs.dtype, device=drawn.device)
            return counts.scatter_add_(-1, drawn, ops.ones_like(drawn, dtype=self.probs.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """log(n! / prod value!) + sum(value log p)."""
        self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        logits = logits.masked_fill((value == 0) & (logits == -math.inf), 0)
        return (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1) + (logits * value).sum(-1)

    def entropy(self) -> Tensor:
        """n H - log n! + sum over categories of E[log count!], a count being binomial."""
        one = Binomial(self.total_count, probs=self.probs)
        counts = one.enumerate_support(expand=False)[1:]
        weights = one.log_prob(counts).exp() * (counts + 1).lgamma()
        n = self.total_count
        return n * self._categorical.entropy() - math.lgamma(n + 1) + weights.sum((0, -1))
