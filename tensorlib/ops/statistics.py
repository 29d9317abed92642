"""Covariance and correlation."""

from __future__ import annotations

import warnings
from typing import Any

from tensorlib._arguments import outside
from tensorlib._core import Tensor
from tensorlib._samples import draw, each, ints, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import composite


def _weights(name: str, w: Any, n: int, kinds: tuple[str, ...]) -> None:
    """Errors where weights do not fit ``n`` observations."""
    if w._array.ndim > 1 or w._array.size != n:
        raise ShapeError(
            f"cov: expected {name} to have one dimension and one weight for each of the {n} observations, got shape "
            f"{tuple(w._array.shape)}"
        )
    kind = "float" if w.dtype.is_floating_point else "int" if w._array.dtype.kind in "iu" else "bool"
    if kind not in kinds:
        raise DtypeError(f"cov: expected {name} to have {' or '.join(kinds)} dtype but got {name} with {w.dtype} dtype")
    if n and (w < 0).any():
        raise ArgumentError(f"cov: {name} cannot be negative")


@composite(
    samples=each(
        draw((3, 5)), draw((4,)), draw((3, 5), correction=0), draw(ints(2, 4)),
        draw((2, 4), fweights=values([1, 2, 0, 3], "int64")), draw((2, 4), aweights=values([0.5, 1.0, 2.0, 0.25])),
        draw((2, 4), fweights=values([1, 2, 0, 3], "int64"), aweights=values([0.5, 1.0, 2.0, 0.25]), correction=2),
    )
)  # fmt: skip
def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """Σ w (x - mean)(y - mean)ᵀ / (Σ w - correction): the covariances of the rows of input, variables by observations.

    A 1-D input is one variable. ``fweights``: how often each observation counts (integers); ``aweights``: its weight.
    """
    x: Any = input
    if x._array.ndim > 2:
        raise ShapeError(
            f"cov: expected input to have two or fewer dimensions but got an input with {x._array.ndim} dimensions"
        )
    if x._array.dtype.kind == "b":
        raise DtypeError("cov: bool dtype is not supported for input: use input.float()")
    if x._array.ndim < 2:
        x = x.reshape((1, x._array.size))
    n = x._array.shape[1]
    w: Any = None
    if fweights is not None:
        _weights("fweights", fweights, n, ("int",))
        w = fweights.reshape((n,))  # type: ignore[attr-defined]
    if aweights is not None:
        _weights("aweights", aweights, n, ("float",))
        a = aweights.reshape((n,))  # type: ignore[attr-defined]
        w = a if w is None else w * a
    total: Any = n if w is None else w.sum()
    if w is not None and not total != 0:
        raise ArgumentError("cov: weights sum to zero, can't be normalized")
    weighted = x if w is None else x * w
    mean = weighted.sum(1) / total
    if w is not None and aweights is not None and correction != 0:
        freedom = total - correction * (w * aweights.reshape((n,))).sum() / total  # type: ignore[attr-defined]
    else:
        freedom = total - correction
    if freedom <= 0:
        warnings.warn(
            "cov: degrees of freedom is <= 0. Correction should be strictly less than the number of observations.",
            UserWarning,
            stacklevel=outside(),
        )
        freedom = 0.0
    centered = x - mean.unsqueeze(1)
    other = (centered if w is None else centered * w).t()
    if other.dtype.is_complex:
        other = other.conj()
    return (centered.matmul(other.to(centered.dtype)) / freedom).squeeze()  # type: ignore[no-any-return]


@composite(samples=each(draw((3, 5)), draw((4,)), draw(ints(2, 4))))
def corrcoef(input: Tensor) -> Tensor:
    """The correlation coefficients of the rows of input: ``cov`` divided by the standard deviations, within -1 … 1."""
    if input._array.ndim > 2:
        raise ShapeError(
            f"corrcoef: expected input to have two or fewer dimensions but got an input with {input._array.ndim} "
            f"dimensions"
        )
    c: Any = cov(input)
    if not c._array.ndim:
        return c / c  # type: ignore[no-any-return]
    d = c.diagonal()
    deviation = (d.real if d.dtype.is_complex else d).sqrt()
    out = c / deviation.unsqueeze(1) / deviation.unsqueeze(0)
    return out if out.dtype.is_complex else out.clamp(-1, 1)  # type: ignore[no-any-return]
