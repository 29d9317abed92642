"""Distribution: what every distribution shares. Shapes are sample_shape + batch_shape + event_shape."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from tensorlib._core import Tensor
from tensorlib._size import Size
from tensorlib.autograd import no_grad
from tensorlib.distributions.constraints import Constraint, is_dependent
from tensorlib.distributions.utils import lazy_property
from tensorlib.errors import UnsupportedError

__all__ = ["Distribution"]


class Distribution:
    """A distribution over events of ``event_shape``, ``batch_shape`` of them at once.

    A subclass names its parameters in ``arg_constraints`` and its values in ``support``; both are checked, with a
    ValueError, unless ``validate_args`` is False.
    """

    has_rsample = False
    has_enumerate_support = False
    arg_constraints: ClassVar[dict[str, Constraint]] = {}
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
            for name, constraint in self._known_constraints().items():
                lazy = name not in self.__dict__ and isinstance(getattr(type(self), name, None), lazy_property)
                if not lazy and not is_dependent(constraint) and hasattr(self, name):
                    self._check(constraint, getattr(self, name), f"Expected parameter {name}", "satisfy the constraint")

    def _known_constraints(self) -> dict[str, Constraint]:
        try:
            return self.arg_constraints
        except NotImplementedError:
            warnings.warn(
                f"{type(self)} does not define `arg_constraints`: set `arg_constraints = {{}}` or initialize the "
                "distribution with `validate_args=False`.",
                stacklevel=4,
            )
            return {}

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

    #: Attributes that all of a batch share: expand leaves them.
    _shared: ClassVar[tuple[str, ...]] = ()

    def _get_checked_instance(self, cls: type, _instance: Any = None) -> Any:
        """An empty object for expand to fill; a subclass with another constructor defines its own expand."""
        if _instance is None and type(self).__init__ is not cls.__init__:  # type: ignore[misc]
            raise UnsupportedError(
                f"Subclass {type(self).__name__} of {cls.__name__} that defines a custom __init__ method must also "
                "define a custom .expand() method."
            )
        return type(self).__new__(type(self)) if _instance is None else _instance

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same distribution with its parameters expanded to ``batch_shape``, as views."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        old = len(self._batch_shape)
        for name, value in vars(self).items():
            if name in new.__dict__ or name in self._shared:
                value = new.__dict__.get(name, value)
            elif isinstance(value, Tensor):
                value = value.expand((*batch_shape, *value.shape[old:]))
            elif isinstance(value, Distribution):
                value = value.expand((*batch_shape, *value.batch_shape[old:]))
            new.__dict__[name] = value
        new._batch_shape = Size(batch_shape)
        return new

    @property
    def support(self) -> Any:
        """The values that there are, as a constraint."""
        raise UnsupportedError(f"{type(self).__name__} does not say its support")

    @property
    def mean(self) -> Any:
        """The mean."""
        raise UnsupportedError(f"{type(self).__name__} has no mean in closed form")

    @property
    def mode(self) -> Any:
        """The likeliest value."""
        raise UnsupportedError(f"{type(self).__name__} does not implement mode")

    @property
    def variance(self) -> Any:
        """The variance."""
        raise UnsupportedError(f"{type(self).__name__} has no variance in closed form")

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        return self.variance.sqrt()  # type: ignore[no-any-return]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, sample_shape + batch_shape + event_shape, outside autograd."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that are differentiable in the parameters, where ``has_rsample``."""
        raise UnsupportedError(f"{type(self).__name__} has no reparameterised sample: draw with sample()")

    def sample_n(self, n: int) -> Tensor:
        """n draws: an older name of sample((n,))."""
        return self.sample((n,))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density, or of the probability, at value."""
        raise UnsupportedError(f"{type(self).__name__} has no log_prob in closed form")

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most value."""
        raise UnsupportedError(f"{type(self).__name__} has no cdf in closed form")

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: cdf's inverse."""
        raise UnsupportedError(f"{type(self).__name__} has no icdf in closed form")

    def entropy(self) -> Tensor:
        """-E[log p]."""
        raise UnsupportedError(f"{type(self).__name__} has no entropy in closed form")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every value, along dim 0, where ``has_enumerate_support``."""
        raise UnsupportedError(f"{type(self).__name__} has no finite support to enumerate")

    def perplexity(self) -> Tensor:
        """exp(entropy)."""
        return self.entropy().exp()

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
        try:
            support = self.support
        except NotImplementedError:
            support = None
        if support is None:
            warnings.warn(
                f"{type(self)} does not define `support` to enable sample validation: initialize the distribution "
                "with `validate_args=False` to turn off validation.",
                stacklevel=3,
            )
            return
        self._check(support, value, "Expected value argument", "be within the support")

    def __repr__(self) -> str:
        names = [k for k in self.arg_constraints if k in self.__dict__]
        values = ((k, self.__dict__[k]) for k in names)
        return f"{type(self).__name__}({', '.join(f'{k}: {v if v.numel() == 1 else v.size()}' for k, v in values)})"
