"""biject_to and transform_to: from a constraint to the transform that leads there from all real numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib.distributions import constraints, transforms
from tensorlib.errors import UnsupportedError

__all__ = ["ConstraintRegistry", "biject_to", "transform_to"]

_Factory = Callable[[Any], transforms.Transform]


class ConstraintRegistry:
    """registry(constraint) is the transform that was registered for the constraint's type."""

    def __init__(self) -> None:
        self._registry: dict[type, _Factory] = {}

    def register(self, constraint: Any, factory: _Factory | None = None) -> Any:
        """Declare ``factory(constraint)`` for a type of constraint, or for that of an instance; also a decorator."""
        if factory is None:
            return lambda factory: self.register(constraint, factory)
        kind = constraint if isinstance(constraint, type) else type(constraint)
        if not issubclass(kind, constraints.Constraint):
            raise TypeError(f"Expected constraint to be either a Constraint subclass or instance, but got {constraint}")
        self._registry[kind] = factory
        return factory

    def __call__(self, constraint: Any) -> transforms.Transform:
        """The transform for a constraint; UnsupportedError where none is registered for its type."""
        factory = self._registry.get(type(constraint))
        if factory is None:
            raise UnsupportedError(f"Cannot transform {type(constraint).__name__} constraints: register a transform")
        return factory(constraint)


#: To a constraint by a bijection: densities can be carried over.
biject_to = ConstraintRegistry()
#: To a constraint by a map that is good to optimise through, bijective or not.
transform_to = ConstraintRegistry()


def _declare(factory: _Factory, *kinds: Any, bijective: bool = True, other: bool = True) -> None:
    for kind in kinds:
        if bijective:
            biject_to.register(kind, factory)
        if other:
            transform_to.register(kind, factory)


def _shifted_exp(bound: Any, sign: int) -> transforms.Transform:
    return transforms.ComposeTransform([transforms.ExpTransform(), transforms.AffineTransform(bound, sign)])


def _to_interval(c: Any) -> transforms.Transform:
    if isinstance(c.lower_bound, (int, float)) and isinstance(c.upper_bound, (int, float)):
        if c.lower_bound == 0 and c.upper_bound == 1:
            return transforms.SigmoidTransform()
    scale = transforms.AffineTransform(c.lower_bound, c.upper_bound - c.lower_bound)
    return transforms.ComposeTransform([transforms.SigmoidTransform(), scale])


_declare(lambda c: transforms.identity_transform, constraints.real)
_declare(lambda c: transforms.ExpTransform(), constraints.positive, constraints.nonnegative)
_declare(
    lambda c: transforms.ExpTransform() if isinstance(c.lower_bound, float) and c.lower_bound == 0 else
    _shifted_exp(c.lower_bound, 1),
    constraints.greater_than, constraints.greater_than_eq,
)  # fmt: skip
_declare(lambda c: _shifted_exp(c.upper_bound, -1), constraints.less_than)
_declare(_to_interval, constraints.interval, constraints.half_open_interval)
_declare(lambda c: transforms.StickBreakingTransform(), constraints.simplex, other=False)
_declare(lambda c: transforms.SoftmaxTransform(), constraints.simplex, bijective=False)
_declare(lambda c: transforms.LowerCholeskyTransform(), constraints.lower_cholesky, bijective=False)
_declare(
    lambda c: transforms.PositiveDefiniteTransform(),
    constraints.positive_definite, constraints.positive_semidefinite, bijective=False,
)  # fmt: skip
_declare(lambda c: transforms.CorrCholeskyTransform(), constraints.corr_cholesky)


def _declare_combined(to: ConstraintRegistry) -> None:
    """Of sets made of others, by the transforms of those."""

    def independent(c: Any) -> transforms.Transform:
        return transforms.IndependentTransform(to(c.base_constraint), c.reinterpreted_batch_ndims)

    def cat(c: Any) -> transforms.Transform:
        return transforms.CatTransform([to(part) for part in c.cseq], c.dim, c.lengths)

    def stack(c: Any) -> transforms.Transform:
        return transforms.StackTransform([to(part) for part in c.cseq], c.dim)

    to.register(constraints.independent, independent)
    to.register(constraints.cat, cat)
    to.register(constraints.stack, stack)


for _registry in (biject_to, transform_to):
    _declare_combined(_registry)
