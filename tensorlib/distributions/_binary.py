"""probs or logits."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.utils import broadcast_all, lazy_property, logits_to_probs, probs_to_logits

__all__ = ["BinaryParameter"]


class BinaryParameter(Distribution):
    """What distributions of a probability share: ``probs`` or ``logits`` is given, the other computed when asked."""

    def _give(self, probs: Any, logits: Any, *others: Any) -> list[Tensor]:
        """Keep the one that is given, broadcast with ``others``, which come back in its dtype."""
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        *rest, given = broadcast_all(*others, logits if probs is None else probs)
        setattr(self, "logits" if probs is None else "probs", given)
        return [value.type_as(given) for value in rest]

    @property
    def _param(self) -> Tensor:
        given: Tensor = vars(self)["probs" if "probs" in vars(self) else "logits"]
        return given

    @lazy_property
    def logits(self) -> Tensor:
        """log(probs / (1 - probs)), where probs were given; clamped to those of [eps, 1 - eps]."""
        return probs_to_logits(self.probs, is_binary=True)

    @lazy_property
    def probs(self) -> Tensor:
        """sigmoid(logits), where logits were given."""
        return logits_to_probs(self.logits, is_binary=True)

    @property
    def param_shape(self) -> Any:
        """The shape of the parameter."""
        return self._param.size()
