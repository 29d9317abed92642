"""What distributions are made of: broadcasting of parameters, probabilities and logits, triangles as vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import finfo
from tensorlib._tensor import get_default_dtype
from tensorlib.autograd.modes import enable_grad

__all__ = [
    "broadcast_all", "clamp_probs", "lazy_property", "logits_to_probs", "probs_to_logits", "tril_matrix_to_vec",
    "vec_to_tril_matrix",
]  # fmt: skip


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


def _standard_normal(shape: Any, dtype: Any, device: Any) -> Tensor:
    """A draw of N(0, 1), under the private name by which other libraries' distributions import it."""
    return ops.randn(tuple(shape), dtype=dtype, device=device)


def clamp_probs(probs: Tensor) -> Tensor:
    """Probs within [eps, 1 - eps]."""
    eps = finfo(probs.dtype).eps
    return probs.clamp(min=eps, max=1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """Log p, or of a binary variable log p - log(1 - p); p clamped to [eps, 1 - eps]."""
    p = clamp_probs(probs)
    return p.log() - (-p).log1p() if is_binary else p.log()


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Softmax along the last dim, or of a binary variable the sigmoid."""
    return logits.sigmoid() if is_binary else logits.softmax(-1)


def _sum_rightmost(value: Tensor, dims: int) -> Tensor:
    """The sum over the last ``dims`` dims."""
    return value.sum(tuple(range(-dims, 0))) if dims else value


def vec_to_tril_matrix(vec: Tensor, diag: int = 0) -> Tensor:
    """(…, D) -> (…, n, n): the numbers by rows into the lower triangle, up to diagonal ``diag``; zeros elsewhere."""
    count = vec.shape[-1]
    n = (-(1 + 2 * diag) + ((1 + 2 * diag) ** 2 + 8 * count + 4 * abs(diag) * (diag + 1)) ** 0.5) / 2
    if abs(n - round(n)) > 1e-9:
        raise ValueError(
            f"The size of last dimension is {count} which cannot be expressed as the lower triangular part of a "
            "square D x D matrix."
        )
    size = round(n)
    rows, cols = ops.tril_indices(size, size, diag).unbind(0)
    place = (rows * size + cols).expand(vec.shape)
    flat = ops.zeros((*vec.shape[:-1], size * size), dtype=vec.dtype, device=vec.device)
    return flat.scatter(-1, place, vec).reshape((*vec.shape[:-1], size, size))


def tril_matrix_to_vec(mat: Tensor, diag: int = 0) -> Tensor:
    """(…, n, n) -> (…, D): the lower triangle up to diagonal ``diag``, by rows."""
    n = mat.shape[-1]
    if diag < -n or diag >= n:
        raise ValueError(f"diag ({diag}) provided is outside [{-n}, {n - 1}].")
    rows, cols = ops.tril_indices(n, n, diag).unbind(0)
    return mat[..., rows, cols]


class lazy_property:
    """A property that is computed once, tracked by autograd, and then kept in the object."""

    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self.wrapped = wrapped
        self.__doc__ = wrapped.__doc__
        self.name = wrapped.__name__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        with enable_grad():  # kept, and so tracked even where sample() asks first
            value = vars(instance)[self.name] = self.wrapped(instance)
        return value
