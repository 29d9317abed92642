"""Initialisation: fill a tensor in place, outside autograd, and return it. Draws come in PyTorch's order."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.ops import empty_like, randperm, where
from tensorlib.ops import tensor as _tensor

__all__ = [
    "calculate_gain", "constant", "constant_", "dirac", "dirac_", "eye", "eye_", "kaiming_normal", "kaiming_normal_",
    "kaiming_uniform", "kaiming_uniform_", "normal", "normal_", "ones_", "orthogonal", "orthogonal_", "sparse",
    "sparse_", "trunc_normal_", "uniform", "uniform_", "xavier_normal", "xavier_normal_", "xavier_uniform",
    "xavier_uniform_", "zeros_",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


def _untracked(fn: F) -> F:
    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        with no_grad():
            return fn(*args, **kwargs)

    return call  # type: ignore[return-value]


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity: 1 for linear, conv and sigmoid, 5/3 for tanh,
    sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 3/4 for selu. ``param``: the slope (0.01).
    """
    if nonlinearity == "linear" or nonlinearity == "sigmoid" or nonlinearity.startswith("conv"):
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


@_untracked
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Draw from U(a, b)."""
    return tensor.uniform_(a, b, generator=generator)


@_untracked
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Draw from N(mean, std^2)."""
    return tensor.normal_(mean, std, generator=generator)


@_untracked
def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Draw from N(mean, std^2) restricted to [a, b]; the bounds are absolute, not multiples of std.

    Values outside are drawn again; where fewer than 30 % would stay inside, candidates uniform on [a, b] are
    accepted with the probability pdf(x) / max pdf instead.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=3,
        )

    def below(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    if below(b) - below(a) > 0.3:
        lo, hi = _tensor(a, dtype=tensor.dtype).item(), _tensor(b, dtype=tensor.dtype).item()
        result = tensor.normal_(mean, std, generator=generator)
        while True:
            outside = (result < lo) | (result > hi)
            if not outside.any():
                break
            result = where(outside, empty_like(result).normal_(mean, std, generator=generator), result)
        if result is not tensor:
            tensor.copy_(result)
        return tensor

    peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2
    result = tensor.uniform_(a, b, generator=generator)
    candidates, accept = empty_like(tensor).copy_(result), empty_like(tensor)

    def rejected() -> Tensor:
        log_pdf = ((candidates - mean) / std) ** 2 * -0.5 - peak
        return accept.uniform_(generator=generator).log() > log_pdf

    pending = rejected()
    while pending.any():
        candidates.uniform_(a, b, generator=generator)
        result = where(pending, candidates, result)
        pending = pending & rejected()
    if result is not tensor:
        tensor.copy_(result)
    return tensor


@_untracked
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with ``val``."""
    return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


@_untracked
def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return tensor.zero_()


@_untracked
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix, (m, n)."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    tensor.zero_()
    for i in range(min(tensor.shape)):
        tensor[i, i] = 1
    return tensor


@_untracked
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight (out, in, *kernel) that passes its input channels through, in each group."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    per_group = tensor.shape[0] // groups
    centre = tuple(n // 2 for n in tensor.shape[2:])
    tensor.zero_()
    for g in range(groups):
        for d in range(min(per_group, tensor.shape[1])):
            tensor[(g * per_group + d, d, *centre)] = 1
    return tensor


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out)). Glorot & Bengio 2010."""
    std = gain * math.sqrt(2.0 / float(sum(_calculate_fan_in_and_fan_out(tensor))))
    a = math.sqrt(3.0) * std
    return uniform_(tensor, -a, a, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """N(0, std^2) with std = gain sqrt(2 / (fan_in + fan_out)). Glorot & Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / float(sum(_calculate_fan_in_and_fan_out(tensor)))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """U(-b, b) with b = gain sqrt(3 / fan); ``a``: the negative slope of leaky_relu. He et al. 2015."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    std = calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode))
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """N(0, std^2) with std = gain / sqrt(fan); ``a``: the negative slope of leaky_relu. He et al. 2015."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    return normal_(
        tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode)), generator
    )


@_untracked
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """gain Q with orthonormal rows or columns, (rows, *) with the trailing dims flattened. Saxe et al. 2013.

    Q is uniform (Mezzadri 2006): the factor of a normal matrix, its columns signed by R's diagonal. The
    factorisation runs on the host, in float32 or wider.
    """
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    rows = tensor.shape[0]
    normal = tensor.new_empty((rows, tensor.numel() // rows)).normal_(0, 1, generator=generator)
    wide = normal.double() if normal.element_size() > 4 else normal.float()
    matrix = wide.cpu().numpy()
    q, r = np.linalg.qr(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    q = q * np.sign(np.diagonal(r))
    if matrix.shape[0] < matrix.shape[1]:
        q = q.T
    values = np.ascontiguousarray(q).reshape(tuple(tensor.shape))
    return tensor.copy_(_tensor(values)).mul_(gain)


@_untracked
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """N(0, std^2) with the fraction ``sparsity`` of each column (m, n) set to zero. Martens 2010."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor.shape
    zeros = math.ceil(sparsity * rows)
    tensor.normal_(0, std, generator=generator)
    for column in range(columns):
        tensor[randperm(rows)[:zeros], column] = 0
    return tensor


def _renamed(fn: F) -> F:
    """PyTorch's name without the underscore, of before the functions were told to work in place."""
    new = fn.__name__
    old = new.removesuffix("_")

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.", FutureWarning, stacklevel=2
        )
        return fn(*args, **kwargs)

    call.__name__ = call.__qualname__ = old
    return call  # type: ignore[return-value]


constant = _renamed(constant_)
dirac = _renamed(dirac_)
eye = _renamed(eye_)
kaiming_normal = _renamed(kaiming_normal_)
kaiming_uniform = _renamed(kaiming_uniform_)
normal = _renamed(normal_)
orthogonal = _renamed(orthogonal_)
sparse = _renamed(sparse_)
uniform = _renamed(uniform_)
xavier_normal = _renamed(xavier_normal_)
xavier_uniform = _renamed(xavier_uniform_)
