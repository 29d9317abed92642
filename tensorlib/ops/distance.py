"""Distances and similarities between vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import wrap_dim
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import FLOAT_ONLY, result_dtype
from tensorlib._samples import between, draw, each, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import Array, Scalar, composite, pointwise
from tensorlib.ops.linalg import matmul
from tensorlib.ops.norms import vector_norm
from tensorlib.ops.selection import _where
from tensorlib.ops.triangles import triu_indices
from tensorlib.ops.views import broadcast_tensors
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _at_least_scalar(x, eps):
    return tl.where(x < eps, eps, x)


@pointwise(
    _at_least_scalar,
    promote=FLOAT_ONLY,
    vjp=lambda g: g,
    on="",
    domain=(1.0, 3.0),
    samples=each(draw(between(1, 3, 3, 4), eps=0.5), draw(between(1, 3, 1030), eps=1e-8)),
)
def _at_least(norm: Array, eps: Scalar):
    """The norm, eps where it is smaller; its gradient passes unchanged, as PyTorch's does."""
    return np.maximum(norm, eps)


@composite(
    on="function functional",
    samples=each(
        draw((3, 4), (3, 4)), draw((3, 4), (3, 4), dim=0), draw((2, 3, 4), (3, 1), dim=-1), draw((5,), (5,), dim=0),
        draw(transposed(3, 4), (1, 4), dim=1, eps=0.5), draw((0, 4), (0, 4)),
    ),
)  # fmt: skip
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Σ x1 x2 / (max(‖x1‖, eps) max(‖x2‖, eps)) along ``dim``.

    x1 and x2 broadcast and are promoted to one dtype; ``dim`` goes. DtypeError for integers, DimError for a ``dim`` out
    of range.
    """
    a: Any = x1
    b: Any = x2
    dtype = OF_NUMPY[result_dtype([a._array, b._array])]
    if not dtype.is_floating_point:
        raise DtypeError(
            f"cosine_similarity: expected common_dtype to be floating point, yet common_dtype is {dtype}: convert "
            f"them, as in x1.float()"
        )
    ndim = max(a.ndim, b.ndim)
    dim = wrap_dim("cosine_similarity", dim, ndim)
    a, b = a.to(dtype), b.to(dtype)
    if a.shape != b.shape:
        a, b = broadcast_tensors(a, b)
    if not ndim:
        dim, a, b = 0, a.reshape((1,)), b.reshape((1,))
    of_a = _at_least(vector_norm(a, 2, dim, True), eps)
    of_b = _at_least(vector_norm(b, 2, dim, True), eps)
    return ((a / of_a) * (b / of_b)).sum(dim)  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(
        draw((3, 4), (3, 4)), draw((3, 4), (4,), p=1.0), draw((2, 3, 4), (3, 4), keepdim=True), draw((5,), (5,), 3.0),
        draw((3, 4), (3, 4), math.inf, 0.5),
    ),
)  # fmt: skip
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """‖x1 - x2 + eps‖ₚ along the last dimension: (…, D), (…, D) -> (…), or (…, 1) with ``keepdim``. Broadcasts."""
    d: Any = x1 - x2 + eps
    if not d.ndim:
        return vector_norm(d.reshape((1,)), p, -1)
    return vector_norm(d, p, -1, keepdim)


@composite(
    complex=False,
    on="function functional",
    samples=each(draw((4, 3)), draw((5, 2), p=1.0), draw((4, 3), 3.5), draw((4, 3), math.inf),
                 draw(transposed(4, 3))),
)  # fmt: skip
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """‖input[i] - input[j]‖ₚ for i < j, in the order (0, 1), (0, 2), …: (N, M) -> (N (N - 1) / 2,).

    ShapeError for an input that is not 2-D, ArgumentError for a negative p.
    """
    x: Any = input
    if x.ndim != 2:
        raise ShapeError(f"pdist: only supports 2D tensors, got: {x.ndim}D")
    _check_power("pdist", p)
    rows, columns = triu_indices(x.shape[0], x.shape[0], 1, device=x.device)
    return _norm(x.index_select(0, rows) - x.index_select(0, columns), p)


def _norm(d: Any, p: float) -> Tensor:
    """‖d‖ₚ along the last dimension, 0 where that is empty."""
    return vector_norm(d, p, -1) if d.shape[-1] else d.sum(-1)  # type: ignore[no-any-return]


def _check_power(name: str, p: float) -> None:
    if p < 0:
        raise ArgumentError(f"{name}: only supports non-negative p values, got {p}")


_MODES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")


@composite(
    on="function",
    samples=each(
        draw((3, 4), (5, 4)), draw((2, 3, 4), (5, 4), p=1.0), draw((2, 3, 4), (2, 1, 4), 3.0),
        draw((3, 4), (5, 4), math.inf), draw((3, 4), (5, 4), 0.0), draw((30, 3), (4, 3)),
        draw((3, 4), (5, 4), compute_mode="use_mm_for_euclid_dist"),
    ),
)  # fmt: skip
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """‖x1[…, i] - x2[…, j]‖ₚ: (…, P, M), (…, R, M) -> (…, P, R), leading dimensions broadcast.

    p = 2 uses ‖a‖² + ‖b‖² - 2 a b, a matrix product, where P or R exceeds 25 or ``compute_mode`` asks for it;
    otherwise the differences are made, (…, P, R, M) of them. ShapeError for what does not fit.
    """
    a: Any = x1
    b: Any = x2
    if compute_mode not in _MODES:
        raise ArgumentError(f"cdist: {compute_mode} is not a valid value for compute_mode: expected one of {_MODES}")
    for name, t in (("X1", a), ("X2", b)):
        if not t.dtype.is_floating_point:
            raise DtypeError(f"cdist: only supports floating-point dtypes, {name} got: {t.dtype}")
        if t.ndim < 2:
            raise ShapeError(f"cdist: only supports at least 2D tensors, {name} got: {t.ndim}D")
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"cdist: X1 and X2 must have the same number of columns. X1: {a.shape[-1]} X2: {b.shape[-1]}")
    _check_power("cdist", p)
    large = a.shape[-2] > 25 or b.shape[-2] > 25
    if p == 2 and (compute_mode == _MODES[1] or (compute_mode == _MODES[0] and large)):
        of_a, of_b = (a * a).sum(-1, keepdim=True), (b * b).sum(-1, keepdim=True)
        square = of_a + of_b.transpose(-1, -2) - 2 * matmul(a, b.transpose(-1, -2))
        apart = square > 0  # the root has no slope at 0
        return _where(apart, _where(apart, square, 1.0).sqrt(), 0.0)
    return _norm(a.unsqueeze(-2) - b.unsqueeze(-3), p)
