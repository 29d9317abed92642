"""Dirichlet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import finfo, float64
from tensorlib.distributions import constraints
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.gamma import standard_gamma

__all__ = ["Dirichlet"]


class Dirichlet(Distribution):
    """prod_i x_i^(c_i - 1) / B(c) on the simplex, concentration c (…, k)."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration": constraints.independent(constraints.positive, 1)
    }
    support = constraints.simplex
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.dim() < 1:
            raise ValueError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """concentration over its sum."""
        return self.concentration / self.concentration.sum(-1, True)

    @property
    def mode(self) -> Tensor:
        """(c - 1) over its sum, c < 1 counted as 1; the first vertex where all c < 1, as PyTorch."""
        c = self.concentration
        above = (c - 1).clamp(min=0.0)
        mode = above / above.sum(-1, True)
        vertex = ops.eye(1, c.shape[-1], dtype=c.dtype, device=c.device)[0].expand(c.shape)
        return ops.where((c < 1).all(-1, keepdim=True), vertex, mode)

    @property
    def variance(self) -> Tensor:
        """c (C - c) / (C^2 (C + 1)), C the sum of c."""
        total = self.concentration.sum(-1, True)
        return self.concentration * (total - self.concentration) / (total**2 * (total + 1))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Standard gammas over their sum, within [tiny, 1 - eps], differentiable in the concentration.

        Drawn in float64: of small concentrations most gammas are below what float32 can hold.
        """
        c = self.concentration
        drawn = standard_gamma(c.to(float64).expand(self._extended_shape(sample_shape)))
        drawn = drawn.clamp(min=finfo(float64).tiny)
        shares = (drawn / drawn.sum(-1, True)).to(c.dtype)
        info = finfo(c.dtype)
        # what is cut off keeps its gradient
        return shares + (shares.clamp(min=info.tiny, max=1 - info.eps) - shares).detach() if c.shape[-1] > 1 else shares

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density at value (…, k)."""
        self._validate_sample(value)
        c = self.concentration
        return ops.xlogy(c - 1.0, value).sum(-1) + c.sum(-1).lgamma() - c.lgamma().sum(-1)

    def entropy(self) -> Tensor:
        """log B(c) - (k - C) digamma(C) - sum((c - 1) digamma(c)), C the sum of c."""
        c = self.concentration
        total = c.sum(-1)
        norm = c.lgamma().sum(-1) - total.lgamma()
        return norm - (c.size(-1) - total) * total.digamma() - ((c - 1.0) * c.digamma()).sum(-1)
