"""Wishart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import finfo
from tensorlib.distributions import constraints
from tensorlib.distributions.chi2 import Chi2
from tensorlib.distributions.exp_family import ExponentialFamily
from tensorlib.distributions.multivariate_normal import MultivariateNormal
from tensorlib.distributions.utils import lazy_property

__all__ = ["Wishart"]


class Wishart(ExponentialFamily):
    """The sum of x x^T over df normal vectors x of covariance S (…, n, n); df > n - 1 may be no integer.

    One of covariance_matrix S, precision_matrix S^-1 and its Cholesky factor scale_tril is given. Samples by Bartlett's
    decomposition.
    """

    support = constraints.positive_definite
    has_rsample = True

    def __init__(
        self, df: Any, covariance_matrix: Tensor | None = None, precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None, validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        given = {
            "covariance_matrix": covariance_matrix, "precision_matrix": precision_matrix, "scale_tril": scale_tril,
        }  # fmt: skip
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise ValueError("Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified.")
        matrix: Any = given[names[0]]
        if matrix.dim() < 2:
            raise ValueError("scale_tril must be at least two-dimensional, with optional leading batch dimensions")
        n = matrix.shape[-1]
        df = df if isinstance(df, Tensor) else ops.tensor(df, dtype=matrix.dtype, device=matrix.device)
        batch = ops.broadcast_shapes(matrix.shape[:-2], df.shape)
        self.df = df.expand(batch)
        if bool((self.df <= n - 1).any()):
            raise ValueError(f"Value of df={df} expected to be greater than ndim - 1 = {n - 1}.")
        matrix = matrix.expand((*batch, -1, -1))
        setattr(self, names[0], matrix)
        super().__init__(batch, (n, n), validate_args=validate_args)
        self._tril = MultivariateNormal(matrix.new_zeros(n), **{names[0]: matrix, "validate_args": False}).scale_tril
        degrees = self.df.unsqueeze(-1) - ops.arange(n, dtype=matrix.dtype, device=matrix.device)
        self._chi2 = Chi2(degrees)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        """What the parameters must be: df more than n - 1."""
        return {
            "covariance_matrix": constraints.positive_definite, "precision_matrix": constraints.positive_definite,
            "scale_tril": constraints.lower_cholesky, "df": constraints.greater_than(self.event_shape[-1] - 1),
        }  # fmt: skip

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of S."""
        return self._tril

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """S."""
        return self._tril @ self._tril.mT

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of S."""
        return ops.cholesky_inverse(self._tril)

    @property
    def mean(self) -> Tensor:
        """df S."""
        return self.df[..., None, None] * self.covariance_matrix

    @property
    def mode(self) -> Tensor:
        """(df - n - 1) S, NaN where that is not positive."""
        factor = self.df - self._event_shape[-1] - 1
        return factor.masked_fill(factor <= 0, math.nan)[..., None, None] * self.covariance_matrix

    @property
    def variance(self) -> Tensor:
        """df (S_ij^2 + S_ii S_jj)."""
        s = self.covariance_matrix
        diagonal = s.diagonal(dim1=-2, dim2=-1)
        return self.df[..., None, None] * (s**2 + diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """L A A^T L^T, A lower triangular of normal numbers with roots of Chi2 numbers on the diagonal."""
        drawn = self._bartlett(sample_shape)
        for _ in range(10):  # few degrees of freedom: some draws are singular to rounding
            regular = self.support.check(drawn)
            if bool(regular.all()):
                break
            drawn = ops.where(regular[..., None, None], drawn, self._bartlett(sample_shape))
        return drawn

    def _bartlett(self, sample_shape: Sequence[int]) -> Tensor:
        roots = self._chi2.rsample(sample_shape).sqrt().clamp(min=finfo(self._tril.dtype).eps)
        noise = ops.randn(self._extended_shape(sample_shape), dtype=roots.dtype, device=roots.device).tril(-1)
        factor = self._tril @ (noise + roots.diag_embed())
        return factor @ factor.mT

    def _half_log_det(self) -> Tensor:
        return self._tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density at value (…, n, n)."""
        self._validate_sample(value)
        nu, n = self.df, self._event_shape[-1]
        tril = self._tril.expand((*value.shape[:-2], n, n))
        norm = nu * (n * math.log(2) / 2 + self._half_log_det()) + ops.mvlgamma(nu / 2, n)
        trace = ops.cholesky_solve(value.expand(tril.shape), tril).diagonal(dim1=-2, dim2=-1).sum(-1)
        return (nu - n - 1) / 2 * ops.linalg_slogdet(value)[1] - trace / 2 - norm

    def entropy(self) -> Tensor:
        """(n + 1) (log |L| + n log(2) / 2) + log gamma_n(d) - (df - n - 1) digamma_n(d) / 2 + d n, d = df / 2."""
        nu, n = self.df, self._event_shape[-1]
        half = ops.arange(n, dtype=nu.dtype, device=nu.device) / 2
        digamma = ((nu / 2).unsqueeze(-1) - half).digamma().sum(-1)
        first = (n + 1) * (n * math.log(2) / 2 + self._half_log_det()) + ops.mvlgamma(nu / 2, n)
        return first - (nu - n - 1) / 2 * digamma + nu * n / 2

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return -self.precision_matrix / 2, (self.df - self._event_shape[-1] - 1) / 2

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        x, y = natural_params
        n = self._event_shape[-1]
        nu = y + (n + 1) / 2
        return nu * (n * math.log(2) - ops.linalg_slogdet(-2 * x)[1]) + ops.mvlgamma(nu, n)
