"""Distribution: what every distribution shares. Shapes are sample_shape + batch_shape + event_shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._tensor import Size, get_default_dtype
from tensorlib.autograd import no_grad
from tensorlib.distributions.constraints import Constraint, is_dependent
from tensorlib.errors import UnsupportedError

__all__ = ["Distribution"]


def broadcast_all(*values: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape: a number takes the first tensor's dtype and device."""
    first = next((v for v in values if isinstance(v, Tensor)), None)
    for v in values:
        if not isinstance(v, (Tensor, int, float)):
            raise ValueError(f"Input arguments must all be instances of Number or torch.Tensor, got {type(v).__name__}")
    kind = get_default_dtype() if first is None else first.dtype
    place = None if first is None else first.device
    tensors = [v if isinstance(v, Tensor) else ops.tensor(v, dtype=kind, device=place) for v in values]
    return list(ops.broadcast_tensors(*tensors))


class Distribution:
    """A distribution over events of ``event_shape``, ``batch_shape`` of them at once.

    A subclass names its parameters in ``arg_constraints`` and its values in ``support``; both are checked, with a
    ValueError, unless ``validate_args`` is False.
    """

    has_rsample = False
    has_enumerate_support = False
    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support: Any = None
    _validate_args = __debug__

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether distributions check their parameters and values where ``validate_args`` is not given."""
        if value not in (True, False):
            raise ValueError(f"set_default_validate_args: expected True or False, got {value!r}")
        Distribution._validate_args = value

    def __init__(
        self, batch_shape: Sequence[int] = (), event_shape: Sequence[int] = (), validate_args: bool | None = None
    ) -> None:
        self._batch_shape = Size(batch_shape)
        self._event_shape = Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            for name, constraint in self.arg_constraints.items():
                if name in self.__dict__ and not is_dependent(constraint):
                    self._check(constraint, self.__dict__[name], f"Expected parameter {name}", "satisfy the constraint")

    def _check(self, constraint: Constraint, value: Tensor, what: str, must: str) -> None:
        if not bool(constraint.check(value).all()):
            raise ValueError(
                f"{what} ({type(value).__name__} of shape {tuple(value.shape)}) of distribution {self!r} "
                f"to {must} {constraint!r}, but found invalid values:\n{value}"
            )

    @property
    def batch_shape(self) -> Size:
        """The shape of the parameters: how many distributions these are."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of one draw of one of them."""
        return self._event_shape

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same distribution with its parameters expanded to ``batch_shape``, as views."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        old = len(self._batch_shape)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                value = value.expand((*batch_shape, *value.shape[old:]))
            new.__dict__[name] = value
        new._batch_shape = Size(batch_shape)
        return new

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        return self.variance.sqrt()  # type: ignore[attr-defined, no-any-return]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, sample_shape + batch_shape + event_shape, outside autograd."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that are differentiable in the parameters, where ``has_rsample``."""
        raise UnsupportedError(f"{type(self).__name__} has no reparameterised sample: draw with sample()")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every value, along dim 0, where ``has_enumerate_support``."""
        raise UnsupportedError(f"{type(self).__name__} has no finite support to enumerate")

    def perplexity(self) -> Tensor:
        """exp(entropy)."""
        return self.entropy().exp()  # type: ignore[attr-defined, no-any-return]

    def _extended_shape(self, sample_shape: Sequence[int] = ()) -> Size:
        return Size((*sample_shape, *self._batch_shape, *self._event_shape))

    def _validate_sample(self, value: Tensor) -> None:
        """ValueError where ``value`` is no tensor, does not broadcast, or is outside the support."""
        if not self._validate_args:
            return
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        shape, wanted = value.shape, self._batch_shape + self._event_shape
        if shape[len(shape) - len(self._event_shape):] != self._event_shape:  # fmt: skip
            raise ValueError(
                f"The right-most size of value must match event_shape: {tuple(shape)} vs {tuple(self._event_shape)}."
            )
        if any(i != j and 1 not in (i, j) for i, j in zip(reversed(shape), reversed(wanted), strict=False)):
            raise ValueError(
                f"Value is not broadcastable with batch_shape+event_shape: {tuple(shape)} vs {tuple(wanted)}."
            )
        self._check(self.support, value, "Expected value argument", "be within the support")

    def __repr__(self) -> str:
        names = [k for k in self.arg_constraints if k in self.__dict__]
        values = ((k, self.__dict__[k]) for k in names)
        return f"{type(self).__name__}({', '.join(f'{k}: {v if v.numel() == 1 else v.size()}' for k, v in values)})"
