"""Spectral normalisation: a weight over its largest singular value. The older form; see parametrizations."""

from __future__ import annotations

from typing import Any, TypeVar

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.nn import functional as F
from tensorlib.nn.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.ops import dot, mv, randn

__all__ = ["Power", "output_dim", "remove_spectral_norm", "spectral_norm"]

T = TypeVar("T", bound=Module)


def output_dim(module: Module, dim: int | None) -> int:
    """The dimension of a layer's weight that counts its outputs."""
    if dim is not None:
        return dim
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0


class Power:
    """Power iterations on a weight seen as a matrix (outputs, everything else). Miyato et al. 2018, algorithm 1."""

    def __init__(self, dim: int, iterations: int, eps: float) -> None:
        if iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={iterations}"
            )
        self.dim, self.iterations, self.eps = dim, iterations, eps

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as a matrix."""
        moved = weight if self.dim == 0 else weight.movedim(self.dim, 0)
        return moved.reshape(moved.shape[0], -1)

    def start(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Random unit vectors (u, v)."""
        h, w = self.matrix(weight.detach()).shape
        u, v = (randn(n, dtype=weight.dtype, device=weight.device) for n in (h, w))
        return F.normalize(u, dim=0, eps=self.eps), F.normalize(v, dim=0, eps=self.eps)

    def iterate(self, matrix: Tensor, u: Tensor, v: Tensor, iterations: int, first: str = "v") -> None:
        """u and v, in place, towards the first singular vectors; ``first``: which of them begins, from the other."""
        steps = [(v, matrix.t(), u), (u, matrix, v)]
        with no_grad():
            for _ in range(iterations):
                for target, m, source in steps if first == "v" else reversed(steps):
                    target.copy_(F.normalize(mv(m, source), dim=0, eps=self.eps))

    @staticmethod
    def sigma(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u^T W v: the largest singular value."""
        return dot(u, mv(matrix, v))  # type: ignore[no-any-return]


class _SpectralNorm:
    """The hook that computes the weight before each forward."""

    def __init__(self, name: str, power: Power) -> None:
        self.name, self.power = name, power

    def compute(self, module: Module, iterate: bool) -> Tensor:
        weight = getattr(module, f"{self.name}_orig")
        u, v = getattr(module, f"{self.name}_u"), getattr(module, f"{self.name}_v")
        matrix = self.power.matrix(weight)
        if iterate:
            self.power.iterate(matrix, u, v, self.power.iterations)
            u, v = u.clone(), v.clone()  # what is differentiated now must not change in the next forward
        return weight / self.power.sigma(matrix, u, v)  # type: ignore[no-any-return]

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module, module.training))


def spectral_norm(
    module: T, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> T:
    """The parameter ``name`` over its largest singular value, which power iterations follow at each training forward.

    Parameter ``name_orig``, buffers ``name_u`` and ``name_v``. dim: what counts as rows, by default the outputs.
    RuntimeError when done twice, ValueError for no iterations.
    """
    if any(isinstance(h, _SpectralNorm) and h.name == name for h in module._forward_pre_hooks.values()):
        raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    weight = module._parameters[name]
    if weight is None:
        raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
    hook = _SpectralNorm(name, Power(output_dim(module, dim), n_power_iterations, eps))
    u, v = hook.power.start(weight)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.data)
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: T, name: str = "weight") -> T:
    """Make ``name`` a parameter again. ValueError where it has no spectral norm."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, _SpectralNorm) and hook.name == name:
            with no_grad():
                weight = hook.compute(module, False)
            for attribute in (name, f"{name}_u", f"{name}_v", f"{name}_orig"):
                delattr(module, attribute)
            module.register_parameter(name, Parameter(weight.detach()))
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"spectral_norm of '{name}' not found in {module}")
