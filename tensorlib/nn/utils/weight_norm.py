"""Weight normalisation: a weight as a length and a direction. The older form; see parametrizations.weight_norm."""

from __future__ import annotations

from typing import Any, TypeVar

from tensorlib._core import Tensor
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = ["norm_except_dim", "remove_weight_norm", "weight_norm", "weight_of"]

T = TypeVar("T", bound=Module)


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The p-norm over all dimensions but one, which are kept as 1; over all of them, 0-d, for ``dim`` -1."""
    if dim == -1:
        return v.norm(pow)  # type: ignore[no-any-return]
    others = [d for d in range(v.ndim) if d != dim % v.ndim]
    return v.norm(pow, dim=others, keepdim=True) if others else v.abs()  # type: ignore[no-any-return]


def weight_of(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """g v / |v|, the norm over all dimensions but ``dim``. Salimans & Kingma 2016."""
    return v * (g / norm_except_dim(v, 2, dim))


class _WeightNorm:
    """The hook that computes the weight before each forward."""

    def __init__(self, name: str, dim: int) -> None:
        self.name, self.dim = name, dim

    def compute(self, module: Module) -> Tensor:
        return weight_of(getattr(module, f"{self.name}_v"), getattr(module, f"{self.name}_g"), self.dim)

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module))


def weight_norm(module: T, name: str = "weight", dim: int | None = 0) -> T:
    """Replace the parameter ``name`` by ``name_g``, its norms over all dimensions but ``dim``, and ``name_v``.

    The weight is computed before each forward. dim None: one norm of the whole. RuntimeError when done twice.
    """
    if any(isinstance(h, _WeightNorm) and h.name == name for h in module._forward_pre_hooks.values()):
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    hook = _WeightNorm(name, -1 if dim is None else dim)
    weight = getattr(module, name)
    del module._parameters[name]
    module.register_parameter(f"{name}_g", Parameter(norm_except_dim(weight.detach(), 2, hook.dim)))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, hook.compute(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: T, name: str = "weight") -> T:
    """Make ``name`` a parameter again. ValueError where it has no weight norm."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, _WeightNorm) and hook.name == name:
            weight = hook.compute(module)
            delattr(module, name)
            del module._parameters[f"{name}_g"], module._parameters[f"{name}_v"]
            setattr(module, name, Parameter(weight.detach()))
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")
