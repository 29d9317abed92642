"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from tensorlib._core import Tensor
from tensorlib.ops import cat

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def _same_device(params: list[Tensor]) -> None:
    for param in params[1:]:
        if param.device != params[0].device:
            raise TypeError(
                f"Found two parameters on different devices, {params[0].device} and {param.device}: "
                "this is currently not supported."
            )


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened, one after the other: (n,). Differentiable."""
    params = list(parameters)
    _same_device(params)
    return cat([p.reshape(-1) for p in params])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Slices of ``vec`` (n,) become the data of the parameters: they share its memory."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected tensorlib.Tensor, but got: {type(vec).__name__}")
    params = list(parameters)
    _same_device(params)
    start = 0
    for param in params:
        end = start + param.numel()
        param.data = vec[start:end].view(param.shape).data
        start = end
