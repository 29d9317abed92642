"""ExponentialFamily."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import grad
from tensorlib.distributions.distribution import Distribution
from tensorlib.errors import UnsupportedError

__all__ = ["ExponentialFamily"]


class ExponentialFamily(Distribution):
    """exp(<t(x), theta> - F(theta) + k(x)): a subclass gives theta as ``_natural_params`` and F as ``_log_normalizer``.

    entropy() is then F - <theta, grad F> - E[k]: Nielsen and Nock 2010, "Entropies and cross-entropies of exponential
    families".
    """

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        raise UnsupportedError(f"{type(self).__name__} names no natural parameters")

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        raise UnsupportedError(f"{type(self).__name__} names no log normalizer")

    @property
    def _mean_carrier_measure(self) -> Any:
        raise UnsupportedError(f"{type(self).__name__} names no expected carrier measure")

    def entropy(self) -> Tensor:
        """F(theta) - <theta, grad F(theta)> - E[k(x)]."""
        result: Any = -self._mean_carrier_measure
        thetas = [theta.detach().requires_grad_() for theta in self._natural_params]
        norm = self._log_normalizer(*thetas)
        slopes = grad(norm.sum(), thetas, create_graph=True)
        result = result + norm
        for theta, slope in zip(thetas, slopes, strict=True):
            result = result - (theta * slope).reshape((*self._batch_shape, -1)).sum(-1)
        return result  # type: ignore[no-any-return]
