"""MultivariateNormal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.distributions import constraints
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import lazy_property

__all__ = ["MultivariateNormal"]


class MultivariateNormal(Distribution):
    """exp(-(x - loc)^T S^-1 (x - loc) / 2) / sqrt((2 pi)^k |S|), loc (…, k), S = scale_tril scale_tril^T (…, k, k).

    One of covariance_matrix S, precision_matrix S^-1 and its Cholesky factor scale_tril is given.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector, "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite, "scale_tril": constraints.lower_cholesky,
    }  # fmt: skip
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = {
            "covariance_matrix": covariance_matrix, "precision_matrix": precision_matrix, "scale_tril": scale_tril,
        }  # fmt: skip
        names = [name for name, value in given.items() if value is not None]
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        if len(names) != 1:
            raise ValueError("Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified.")
        matrix: Any = given[names[0]]
        if matrix.dim() < 2:
            raise ValueError(f"{names[0]} must be at least two-dimensional, with optional leading batch dimensions")
        batch = ops.broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        matrix = matrix.expand((*batch, -1, -1))
        setattr(self, names[0], matrix)
        self.loc = loc.expand((*batch, -1))
        super().__init__(batch, self.loc.shape[-1:], validate_args=validate_args)
        if names[0] == "scale_tril":
            self._unbroadcasted_scale_tril = matrix
        elif names[0] == "covariance_matrix":
            self._unbroadcasted_scale_tril = ops.linalg_cholesky(matrix)
        else:
            # P = F F^T with F upper triangular, from the Cholesky factor of P flipped in both dims; then L = F^-T
            upper = ops.linalg_cholesky(matrix.flip((-2, -1))).flip((-2, -1))
            one = ops.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
            self._unbroadcasted_scale_tril = ops.linalg_solve_triangular(upper.mT, one, upper=False)

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of S."""
        return self._unbroadcasted_scale_tril

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """S."""
        return self._unbroadcasted_scale_tril @ self._unbroadcasted_scale_tril.mT

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of S."""
        return ops.cholesky_inverse(self._unbroadcasted_scale_tril)

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
        """The diagonal of S."""
        return (self._unbroadcasted_scale_tril**2).sum(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """loc + scale_tril @ standard normal."""
        eps = ops.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (self._unbroadcasted_scale_tril @ eps.unsqueeze(-1)).squeeze(-1)

    def _half_log_det(self) -> Tensor:
        return ops.diagonal(self._unbroadcasted_scale_tril, dim1=-2, dim2=-1).log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density at value (…, k)."""
        self._validate_sample(value)
        away = (value - self.loc).unsqueeze(-1)
        tril = self._unbroadcasted_scale_tril
        tril = tril.expand((*away.shape[:-2], *tril.shape[-2:]))
        squared = (ops.linalg_solve_triangular(tril, away, upper=False) ** 2).sum((-2, -1))
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + squared) - self._half_log_det()

    def entropy(self) -> Tensor:
        """k (1 + log(2 pi)) / 2 + log |S| / 2."""
        entropy: Tensor = 0.5 * self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._half_log_det()
        return entropy
