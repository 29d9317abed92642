"""LKJCholesky."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import finfo
from tensorlib.autograd import no_grad
from tensorlib.distributions import constraints
from tensorlib.distributions.beta import Beta
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import broadcast_all

__all__ = ["LKJCholesky"]


class LKJCholesky(Distribution):
    """Cholesky factors (dim, dim) of correlation matrices of density proportional to |M|^(concentration - 1).

    Concentration 1 is uniform. Samples by the onion method: Lewandowski, Kurowicka and Joe 2009, section 3.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"concentration": constraints.positive}
    support = constraints.corr_cholesky

    def __init__(self, dim: int, concentration: Any = 1.0, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise ValueError(f"Expected dim to be an integer greater than or equal to 2. Found dim={dim}.")
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        c = self.concentration
        offset = ops.arange(-1, dim - 1, dtype=c.dtype, device=c.device).clamp(min=0)
        self._beta = Beta(offset + 0.5, (c + 0.5 * (dim - 2)).unsqueeze(-1) - 0.5 * offset)
        super().__init__(c.shape, (dim, dim), validate_args)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws outside autograd."""
        with no_grad():
            y = self._beta.sample(sample_shape).unsqueeze(-1)
            u = ops.randn(self._extended_shape(sample_shape), dtype=y.dtype, device=y.device).tril(-1)
            length = (u**2).sum(-1, keepdim=True).sqrt()
            w = y.sqrt() * (u / length.masked_fill(length == 0, 1))
            return w + (1 - (w**2).sum(-1)).clamp(min=finfo(w.dtype).tiny).sqrt().diag_embed()

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i (2 (c - 1) + dim - i) log value_ii less the normaliser, page 1999 of the paper."""
        self._validate_sample(value)
        c, n = self.concentration, self.dim - 1
        order = 2 * (c - 1).unsqueeze(-1) + self.dim - ops.arange(2, self.dim + 1, device=c.device)
        unnormalised = (order * value.diagonal(dim1=-1, dim2=-2)[..., 1:].log()).sum(-1)
        alpha = c + 0.5 * n
        return unnormalised - (0.5 * n * math.log(math.pi) + ops.mvlgamma(alpha - 0.5, n) - alpha.lgamma() * n)
