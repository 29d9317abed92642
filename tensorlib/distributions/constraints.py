"""What a parameter or a value of a distribution must be: ``constraint.check(value)`` says where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor

__all__ = [
    "Constraint", "boolean", "dependent", "greater_than", "greater_than_eq", "integer_interval", "interval",
    "is_dependent", "less_than", "lower_cholesky", "nonnegative", "nonnegative_integer", "positive",
    "positive_definite", "positive_integer", "real", "real_vector", "simplex", "unit_interval",
]  # fmt: skip


class Constraint:
    """A set: ``check`` gives a bool tensor of the batch's shape; ``event_dim`` dims on the right are one event."""

    def __init__(
        self, name: str, check: Callable[[Tensor], Tensor], event_dim: int = 0, is_discrete: bool = False
    ) -> None:
        self.name = name
        self._check = check
        self.event_dim = event_dim
        self.is_discrete = is_discrete

    def check(self, value: Tensor) -> Tensor:
        """Where ``value`` is in the set."""
        return self._check(value)

    def __repr__(self) -> str:
        return self.name


def _unchecked(value: Tensor) -> Tensor:
    raise ValueError("Cannot determine validity of dependent constraint")


def is_dependent(constraint: Constraint) -> bool:
    """Whether the set depends on other parameters and cannot be checked alone."""
    return constraint._check is _unchecked


def interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """[lower_bound, upper_bound]."""
    return Constraint(
        f"Interval(lower_bound={lower_bound}, upper_bound={upper_bound})",
        lambda x: (x >= lower_bound) & (x <= upper_bound),
    )


def integer_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """The integers of [lower_bound, upper_bound]."""
    return Constraint(
        f"IntegerInterval(lower_bound={lower_bound}, upper_bound={upper_bound})",
        lambda x: (x % 1 == 0) & (x >= lower_bound) & (x <= upper_bound),
        is_discrete=True,
    )


def greater_than(lower_bound: Any) -> Constraint:
    """(lower_bound, inf]."""
    return Constraint(f"GreaterThan(lower_bound={lower_bound})", lambda x: x > lower_bound)


def greater_than_eq(lower_bound: Any) -> Constraint:
    """[lower_bound, inf]."""
    return Constraint(f"GreaterThanEq(lower_bound={lower_bound})", lambda x: x >= lower_bound)


def less_than(upper_bound: Any) -> Constraint:
    """[-inf, upper_bound)."""
    return Constraint(f"LessThan(upper_bound={upper_bound})", lambda x: x < upper_bound)


def _simplex(x: Tensor) -> Tensor:
    return (x >= 0).all(-1) & ((x.sum(-1) - 1).abs() < 1e-6)


def _lower_cholesky(x: Tensor) -> Tensor:
    lower = (ops.tril(x) == x).flatten(-2).all(-1)
    return lower & (ops.diagonal(x, dim1=-2, dim2=-1) > 0).all(-1)


def _positive_definite(x: Tensor) -> Tensor:
    symmetric = ops.isclose(x, x.mT, atol=1e-6).flatten(-2).all(-1)
    return symmetric & (ops.linalg_cholesky_ex(x)[1] == 0)


dependent = Constraint("Dependent()", _unchecked)
real = Constraint("Real()", lambda x: x == x)
positive = greater_than(0.0)
nonnegative = greater_than_eq(0.0)
unit_interval = interval(0.0, 1.0)
boolean = Constraint("Boolean()", lambda x: (x == 0) | (x == 1), is_discrete=True)
nonnegative_integer = Constraint("NonnegativeInteger()", lambda x: (x % 1 == 0) & (x >= 0), is_discrete=True)
positive_integer = Constraint("PositiveInteger()", lambda x: (x % 1 == 0) & (x >= 1), is_discrete=True)
real_vector = Constraint("RealVector()", lambda x: (x == x).all(-1), event_dim=1)
simplex = Constraint("Simplex()", _simplex, event_dim=1)
lower_cholesky = Constraint("LowerCholesky()", _lower_cholesky, event_dim=2)
positive_definite = Constraint("PositiveDefinite()", _positive_definite, event_dim=2)
