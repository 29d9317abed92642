"""VonMises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import float64
from tensorlib.autograd import no_grad
from tensorlib.distributions import constraints
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import broadcast_all

__all__ = ["VonMises"]


class VonMises(Distribution):
    """exp(k cos(x - loc)) / (2 pi I0(k)) on the circle, k the concentration; angles in [-pi, pi)."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "concentration": constraints.positive,
    }
    support = constraints.real

    def __init__(self, loc: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """k cos(value - loc) - log(2 pi I0(k))."""
        self._validate_sample(value)
        k = self.concentration
        return k * (value - self.loc).cos() - math.log(2 * math.pi) - (ops.special_i0e(k).log() + k)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws outside autograd, by rejection from a wrapped Cauchy: Best and Fisher 1979. Computed in float64."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            loc, k = self.loc.to(float64).expand(shape), self.concentration.to(float64).expand(shape)
            tau = 1 + (1 + 4 * k**2).sqrt()
            rho = (tau - (2 * tau).sqrt()) / (2 * k)
            r = ops.where(k < 1e-5, 1 / k + k, (1 + rho**2) / (2 * rho))  # a series where rho would cancel
            x, done = ops.zeros_like(loc), ops.zeros_like(loc) > 1
            while not bool(done.all()):
                u1, u2, u3 = ops.rand((3, *shape), dtype=float64, device=loc.device).unbind()
                z = (math.pi * u1).cos()
                f = (1 + r * z) / (r + z)
                c = k * (r - f)
                accepted = ((c * (2 - c) - u2 > 0) | ((c / u2).log() + 1 - c >= 0)) & ~done
                x = ops.where(accepted, (u3 - 0.5).sign() * f.acos(), x)
                done = done | accepted
            return ((x + math.pi + loc) % (2 * math.pi) - math.pi).to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The circular variance 1 - I1(k) / I0(k)."""
        return 1 - ops.special_i1e(self.concentration) / ops.special_i0e(self.concentration)
