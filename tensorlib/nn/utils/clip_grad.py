"""Clipping of gradients, in place: three launches for any number of them, on each device and of each dtype.

Nothing here waits for the device unless ``error_if_nonfinite`` asks for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from tensorlib._core import LIFTED, Tensor
from tensorlib.autograd import no_grad
from tensorlib.ops import stack, tensor, vector_norm
from tensorlib.ops.optim import multi_tensor_clip_, multi_tensor_norm

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _owners(parameters: Any) -> list[Tensor]:
    """The parameters that have a gradient."""
    return [p for p in ([parameters] if isinstance(parameters, Tensor) else parameters) if p.grad is not None]


def _gradients(parameters: Any) -> list[Tensor]:
    return [p.grad for p in _owners(parameters) if p.grad is not None]


def _alike(tensors: Sequence[Tensor], owners: Sequence[Tensor]) -> list[tuple[list[Tensor], Tensor | None]]:
    """The tensors by dtype and device, which one launch may serve, each with the first one's owner, if it is there too.

    By themselves what no kernel of them takes.
    """
    groups: dict[Any, tuple[list[Tensor], Tensor | None]] = {}
    for i, x in enumerate(tensors):
        key = (x.dtype, x.device) if x.is_floating_point() and type(x._array) not in LIFTED else id(x)
        if key not in groups:
            groups[key] = [], owners[i] if owners and owners[i].device == x.device else None
        groups[key][0].append(x)
    return list(groups.values())


def _norm(tensors: list[Tensor], owner: Tensor | None, norm_type: float) -> Tensor:
    """The norm of tensors of one dtype and device."""
    if tensors[0].is_floating_point() and type(tensors[0]._array) not in LIFTED:
        return multi_tensor_norm(tensors, owner, norm_type)
    return vector_norm(tensors[0], norm_type)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """(sum |x|^p)^(1/p) over all elements of all tensors, as if they were one vector; ``inf``: the largest |x|.

    A 0-d tensor on the device of the first. ``foreach`` is accepted and changes nothing. RuntimeError with
    ``error_if_nonfinite`` when the norm is infinite or NaN.
    """
    return _total_norm([tensors] if isinstance(tensors, Tensor) else list(tensors), [], norm_type, error_if_nonfinite)


def _total_norm(chosen: list[Tensor], owners: list[Tensor], norm_type: float, error_if_nonfinite: bool) -> Tensor:
    norm_type = float(norm_type)
    if not chosen:
        return tensor(0.0)
    device = chosen[0].device
    with no_grad():
        if norm_type > 0:
            norms = [_norm(group, owner, norm_type).to(device) for group, owner in _alike(chosen, owners)]
        else:  # which count or compare the tensors' norms
            norms = [vector_norm(g, norm_type).to(device) for g in chosen]
        total = norms[0] if norm_type > 0 and len(norms) == 1 else vector_norm(stack(norms), norm_type)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """g <- g min(1, max_norm / (total_norm + 1e-6)) for the gradients of all parameters."""
    with no_grad():
        max_norm = float(max_norm)
        owners = _owners(parameters)
        for grads, owner in _alike(_gradients(owners), owners):
            total = total_norm.to(grads[0].device)
            if grads[0].is_floating_point() and type(grads[0]._array) not in LIFTED:
                multi_tensor_clip_(grads, total, owner, max_norm=max_norm)
            else:
                scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
                for grad in grads:
                    grad.mul_(scale)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """g <- g min(1, max_norm / (norm + 1e-6)), norm over all gradients together; returns it. Pascanu et al. 2013."""
    if not isinstance(parameters, Tensor):
        parameters = list(parameters)
    owners = _owners(parameters)
    total = _total_norm(_gradients(owners), owners, norm_type, error_if_nonfinite)
    clip_grads_with_norm_(parameters, max_norm, total, foreach)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """g <- min(max(g, -clip_value), clip_value), elementwise."""
    clip_value = float(clip_value)
    with no_grad():
        for grad in _gradients(parameters):
            grad.clamp_(min=-clip_value, max=clip_value)


def clip_grad_norm(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """``clip_grad_norm_`` under its old name."""
    warnings.warn("`clip_grad_norm` is now deprecated in favor of `clip_grad_norm_`.", FutureWarning, stacklevel=2)
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
