"""TransformedDistribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib._size import Size
from tensorlib.autograd import no_grad
from tensorlib.distributions import constraints
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.independent import Independent
from tensorlib.distributions.transforms import ComposeTransform, Transform
from tensorlib.distributions.utils import _sum_rightmost

__all__ = ["TransformedDistribution"]


class TransformedDistribution(Distribution):
    """t(x) for x of ``base_distribution`` and t the ``transforms`` one after the other.

    log p(y) = log p(x) - log |dy/dx|. Dims that a transform takes together become the event's.
    """

    def __init__(self, base_distribution: Any, transforms: Any, validate_args: bool | None = None) -> None:
        parts = [transforms] if isinstance(transforms, Transform) else transforms
        if not isinstance(parts, list) or not all(isinstance(t, Transform) for t in parts):
            raise ValueError(f"transforms must be a Transform or a list of Transforms, but was {transforms}")
        self.transforms = parts
        base = base_distribution
        shape, base_dims = base.batch_shape + base.event_shape, len(base.event_shape)
        whole = ComposeTransform(parts)
        if len(shape) < whole.domain.event_dim:
            raise ValueError(
                f"base_distribution needs to have shape with size at least {whole.domain.event_dim}, but got {shape}."
            )
        after = Size(whole.forward_shape(shape))
        wanted = Size(whole.inverse_shape(after))
        if wanted != shape:
            base = base.expand(wanted[: len(wanted) - base_dims])
        taken = whole.domain.event_dim - base_dims
        self.base_dist: Any = Independent(base, taken) if taken > 0 else base
        event_dims = max(whole.codomain.event_dim, base_dims + whole.codomain.event_dim - whole.domain.event_dim)
        cut = len(after) - event_dims
        super().__init__(after[:cut], after[cut:], validate_args=validate_args)

    _shared = ("base_dist",)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same distribution with its parameters expanded to ``batch_shape``, as views."""
        shape: Any = Size(batch_shape) + self._event_shape
        for t in reversed(self.transforms):
            shape = t.inverse_shape(shape)
        base = self.base_dist.expand(shape[: len(shape) - len(self.base_dist.event_shape)])
        new = super().expand(batch_shape, _instance)
        new.base_dist = base
        return new

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """Where the last transform leads."""
        if not self.transforms:
            return self.base_dist.support
        last = self.transforms[-1].codomain
        more = len(self._event_shape) - last.event_dim
        return constraints.independent(last, more) if more > 0 else last

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """The base's."""
        return bool(self.base_dist.has_rsample)

    def _forward(self, x: Tensor) -> Tensor:
        for t in self.transforms:
            x = t(x)
        return x

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the base, transformed, outside autograd."""
        with no_grad():
            return self._forward(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Differentiable draws of the base, transformed."""
        return self._forward(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The base's at t.inv(value), less the log of the Jacobian's determinant."""
        self._validate_sample(value)
        dims = len(self._event_shape)
        total: Any = 0.0
        y = value
        for t in reversed(self.transforms):
            x = t.inv(y)
            dims += t.domain.event_dim - t.codomain.event_dim
            total = total - _sum_rightmost(t.log_abs_det_jacobian(x, y), dims - t.domain.event_dim)
            y = x
        return total + _sum_rightmost(self.base_dist.log_prob(y), dims - len(self.base_dist.event_shape))  # type: ignore[no-any-return]

    def _monotone(self, value: Tensor) -> Tensor:
        """1 - value where the transforms fall."""
        sign: Any = 1
        for t in self.transforms:
            sign = sign * t.sign
        return value if isinstance(sign, int) and sign == 1 else sign * (value - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most value."""
        for t in reversed(self.transforms):
            value = t.inv(value)
        self.base_dist._validate_sample(value)
        return self._monotone(self.base_dist.cdf(value))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile."""
        return self._forward(self.base_dist.icdf(self._monotone(value)))
