"""LowRankMultivariateNormal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.distributions import constraints
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import lazy_property

__all__ = ["LowRankMultivariateNormal"]


class LowRankMultivariateNormal(Distribution):
    """Normal with covariance W W^T + D: W = cov_factor (…, k, m), D diagonal, cov_diag (…, k); loc (…, k).

    Costs k m^2 by Woodbury's identity: the "capacitance" I + W^T D^-1 W (m, m) is what is decomposed.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        event = loc.shape[-1:]
        if cov_factor.dim() < 2:
            raise ValueError("cov_factor must be at least two-dimensional, with optional leading batch dimensions")
        if cov_factor.shape[-2:-1] != event:
            raise ValueError(f"cov_factor must be a batch of matrices with shape {event[0]} x m")
        if cov_diag.shape[-1:] != event:
            raise ValueError(f"cov_diag must be a batch of vectors with shape {event}")
        try:
            batch = ops.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        except RuntimeError as e:
            raise ValueError(
                f"Incompatible batch shapes: loc {loc.shape}, cov_factor {cov_factor.shape}, cov_diag {cov_diag.shape}"
            ) from e
        self.loc = loc.expand((*batch, -1))
        self.cov_factor = cov_factor.expand((*batch, -1, -1))
        self.cov_diag = cov_diag.expand((*batch, -1))
        self._capacitance_tril = self._capacitance(cov_factor, cov_diag).expand((*batch, -1, -1))
        super().__init__(batch, event, validate_args=validate_args)

    @staticmethod
    def _capacitance(w: Tensor, d: Tensor) -> Tensor:
        k = (w.mT / d.unsqueeze(-2)) @ w
        return ops.linalg_cholesky(k + ops.eye(k.shape[-1], dtype=k.dtype, device=k.device))

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """loc."""
        return self.loc

    @lazy_property
    def variance(self) -> Tensor:
        """The diagonal of W W^T + D."""
        return (self.cov_factor**2).sum(-1) + self.cov_diag

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """W W^T + D."""
        return self.cov_factor @ self.cov_factor.mT + self.cov_diag.diag_embed()

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance."""
        root = self.cov_diag.sqrt().unsqueeze(-1)
        w = self.cov_factor / root
        one = ops.eye(w.shape[-2], dtype=w.dtype, device=w.device)
        return root * ops.linalg_cholesky(w @ w.mT + one)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance, by Woodbury's identity."""
        a = ops.linalg_solve_triangular(
            self._capacitance_tril, self.cov_factor.mT / self.cov_diag.unsqueeze(-2), upper=False
        )
        return self.cov_diag.reciprocal().diag_embed() - a.mT @ a

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """loc + W a + sqrt(D) b, a and b standard normal."""
        shape = self._extended_shape(sample_shape)
        kind = {"dtype": self.loc.dtype, "device": self.loc.device}
        a = ops.randn((*shape[:-1], self.cov_factor.shape[-1], 1), **kind)
        b = ops.randn(shape, **kind)
        return self.loc + (self.cov_factor @ a).squeeze(-1) + self.cov_diag.sqrt() * b

    def _log_det(self) -> Tensor:
        """The log of the covariance's determinant."""
        tril = self._capacitance_tril.diagonal(dim1=-2, dim2=-1)
        return 2 * tril.log().sum(-1) + self.cov_diag.log().sum(-1)

    def _squared(self, x: Tensor) -> Tensor:
        """x^T (W W^T + D)^-1 x."""
        wx = (self.cov_factor.mT / self.cov_diag.unsqueeze(-2)) @ x.unsqueeze(-1)
        tril = self._capacitance_tril.expand((*wx.shape[:-2], *self._capacitance_tril.shape[-2:]))
        less = (ops.linalg_solve_triangular(tril, wx, upper=False) ** 2).sum((-2, -1))
        return (x**2 / self.cov_diag).sum(-1) - less

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density at value (…, k)."""
        self._validate_sample(value)
        constant = self._event_shape[0] * math.log(2 * math.pi)
        return -0.5 * (constant + self._log_det() + self._squared(value - self.loc))

    def entropy(self) -> Tensor:
        """(k (1 + log(2 pi)) + log |S|) / 2."""
        return 0.5 * (self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._log_det())
