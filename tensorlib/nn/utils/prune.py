"""Pruning: a parameter becomes its original times a mask of zeros and ones, before each forward.

``name`` moves to ``name_orig``, the mask is the buffer ``name_mask``, and ``name`` itself is computed. Pruning again
prunes what is left; ``remove`` makes the zeros permanent.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.nn.utils.convert_parameters import parameters_to_vector

__all__ = [
    "BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured", "PruningContainer",
    "RandomStructured", "RandomUnstructured", "custom_from_mask", "global_unstructured", "identity", "is_pruned",
    "l1_unstructured", "ln_structured", "random_structured", "random_unstructured", "remove",
]  # fmt: skip


class BasePruningMethod:
    """A way to prune: a subclass defines ``compute_mask(t, default_mask)`` and names its ``PRUNING_TYPE``.

    "unstructured" chooses elements among those left, "structured" indices of ``self.dim``, "global" sees everything.
    """

    PRUNING_TYPE = "unstructured"
    _tensor_name: str

    def __call__(self, module: Any, inputs: Any) -> None:
        """Before a forward: the parameter is its original times the mask."""
        setattr(module, self._tensor_name, self.apply_mask(module))

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask for ``t``, of what ``default_mask`` left."""
        raise NotImplementedError(f"{type(self).__name__} defines no compute_mask")

    def apply_mask(self, module: Any) -> Tensor:
        """The original times the mask."""
        mask = getattr(module, f"{self._tensor_name}_mask")
        orig = getattr(module, f"{self._tensor_name}_orig")
        pruned: Tensor = mask.to(dtype=orig.dtype) * orig
        return pruned

    @classmethod
    def apply(
        cls, module: Any, name: str, *args: Any, importance_scores: Tensor | None = None, **kwargs: Any
    ) -> BasePruningMethod:
        """Prune ``module.name`` by this method, over whatever has pruned it before."""
        method: BasePruningMethod = cls(*args, **kwargs)
        method._tensor_name = name
        before = {k: h for k, h in module._forward_pre_hooks.items() if _prunes(h, name)}
        if len(before) > 1:
            raise ValueError(
                f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}. Use a "
                "PruningContainer."
            )
        for key, old in before.items():
            del module._forward_pre_hooks[key]
            container = old if isinstance(old, PruningContainer) else PruningContainer(old)
            container.add_pruning_method(method)
            method = container
        orig = getattr(module, name)
        scores = orig if importance_scores is None else importance_scores
        if scores.shape != orig.shape:
            raise ValueError(
                f"importance_scores should have the same shape as parameter {name} of {module}: got "
                f"{tuple(scores.shape)}, expected {tuple(orig.shape)}"
            )
        fresh = not before
        if fresh:
            module.register_parameter(f"{name}_orig", orig)
            del module._parameters[name]
            default = ops.ones_like(orig)
        else:
            default = getattr(module, f"{name}_mask").detach().clone()
        try:
            module.register_buffer(f"{name}_mask", method.compute_mask(scores, default_mask=default))
            setattr(module, name, method.apply_mask(module))
            module.register_forward_pre_hook(method)
        except Exception:
            if fresh:
                del module._parameters[f"{name}_orig"]
                module.register_parameter(name, orig)
            raise
        return method

    def prune(
        self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None
    ) -> Tensor:
        """``t`` times its mask, outside of any module."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise ValueError(
                f"importance_scores should have the same shape as tensor t: got {tuple(scores.shape)}, expected "
                f"{tuple(t.shape)}"
            )
        default = ops.ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=default)

    def remove(self, module: Any) -> None:
        """Make the zeros permanent: the pruned value becomes the parameter again."""
        name = self._tensor_name
        weight = self.apply_mask(module)
        if hasattr(module, name):
            delattr(module, name)
        orig = module._parameters.pop(f"{name}_orig")
        orig.data = weight.data
        del module._buffers[f"{name}_mask"]
        setattr(module, name, orig)


def _prunes(hook: Any, name: str) -> bool:
    return isinstance(hook, BasePruningMethod) and hook._tensor_name == name


class PruningContainer(BasePruningMethod):
    """Methods one after the other on one parameter: each prunes what the earlier ones left."""

    def __init__(self, *args: BasePruningMethod) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        if args:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod) -> None:
        """Add one for the same parameter."""
        if not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if self._tensor_name != method._tensor_name:
            raise ValueError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to PruningContainer "
                f"{self}. Found '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: int) -> BasePruningMethod:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The last method's mask, within what ``default_mask`` left."""
        method, mask = self._pruning_methods[-1], default_mask
        kind = method.PRUNING_TYPE
        part: Any
        if kind == "unstructured":
            part = mask == 1
        elif kind == "structured":
            if not hasattr(method, "dim"):
                raise AttributeError(
                    'Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.'
                )
            dim = _dim(t, method.dim)
            others = tuple(d for d in range(t.dim()) if d != dim)
            part = (slice(None),) * dim + (mask.sum(dim=others) != 0,)
        elif kind == "global":
            part = (slice(None),) * t.dim()
        else:
            raise ValueError(f"Unrecognized PRUNING_TYPE {kind}: expected unstructured, structured or global")
        new = mask.to(dtype=t.dtype).clone()
        new[part] = method.compute_mask(t[part], default_mask=mask[part]).to(dtype=new.dtype)
        return new


class Identity(BasePruningMethod):
    """Prunes nothing: the parametrisation with a mask of ones."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask as it is."""
        return default_mask


class _Amount(BasePruningMethod):
    """Prunes a share (float) or a number (int) of something."""

    amount: float

    def __init__(self, amount: float) -> None:
        if not isinstance(amount, numbers.Real):
            raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
        most = math.inf if isinstance(amount, numbers.Integral) else 1.0
        if not 0 <= float(amount) <= most:
            raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")
        self.amount = amount

    def _count(self, size: int) -> int:
        if not isinstance(self.amount, numbers.Integral):
            return round(self.amount * size)
        if int(self.amount) > size:
            raise ValueError(
                f"amount={self.amount} should be smaller than the number of parameters to prune={size}"
            )
        return int(self.amount)


class _Unstructured(_Amount):
    """Zeroes the elements of the lowest scores."""

    def _scores(self, t: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no _scores")

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The default mask with zeros at the lowest scores."""
        mask, count = default_mask.clone(), self._count(t.numel())
        if count:
            mask.view(-1)[self._scores(t).reshape(-1).topk(count, largest=False).indices] = 0
        return mask


class RandomUnstructured(_Unstructured):
    """Prunes elements at random."""

    def _scores(self, t: Tensor) -> Tensor:
        return ops.rand_like(t)


class L1Unstructured(_Unstructured):
    """Prunes the elements of least absolute value."""

    def _scores(self, t: Tensor) -> Tensor:
        return t.detach().abs()


class _Structured(_Amount):
    """Zeroes whole indices along ``dim``, those of the lowest scores."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def _scores(self, t: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no _scores")

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The default mask with zeros at the indices of the lowest scores."""
        if t.dim() <= 1:
            raise ValueError(
                "Structured pruning can only be applied to multidimensional tensors. Found tensor of shape "
                f"{t.shape} with {t.dim()} dims"
            )
        dim = _dim(t, self.dim)
        count = self._count(t.shape[dim])
        if not count:
            return default_mask
        pruned = self._scores(t).topk(count, largest=False).indices
        return default_mask.to(dtype=t.dtype).index_fill(dim, pruned, 0)


class RandomStructured(_Structured):
    """Prunes channels along ``dim`` at random."""

    def _scores(self, t: Tensor) -> Tensor:
        return ops.rand(t.shape[self.dim], device=t.device)


class LnStructured(_Structured):
    """Prunes the channels along ``dim`` of least ``n``-norm."""

    def __init__(self, amount: float, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def _scores(self, t: Tensor) -> Tensor:
        dim = _dim(t, self.dim)
        return ops.norm(t.detach(), p=self.n, dim=tuple(d for d in range(t.dim()) if d != dim))


def _dim(t: Tensor, dim: int) -> int:
    if not -t.dim() <= dim < t.dim():
        raise IndexError(f"Invalid index {dim} for tensor of size {t.shape}")
    return dim % t.dim()


class CustomFromMask(BasePruningMethod):
    """Prunes what a given mask says."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The default mask times the given one."""
        if default_mask.shape != self.mask.shape:
            raise ValueError(
                f"custom_from_mask: got a mask of shape {tuple(self.mask.shape)}: expected {tuple(default_mask.shape)}"
            )
        return default_mask * self.mask.to(dtype=default_mask.dtype)


def identity(module: Any, name: str) -> Any:
    """Give ``module.name`` a mask of ones. Returns the module."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Any, name: str, amount: float) -> Any:
    """Prune elements of ``module.name`` at random: a share (float) or a number (int). Returns the module."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: Any, name: str, amount: float, importance_scores: Tensor | None = None) -> Any:
    """Prune the elements of least absolute value, or of least score. Returns the module."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: Any, name: str, amount: float, dim: int) -> Any:
    """Prune channels along ``dim`` at random. Returns the module."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: Any, name: str, amount: float, n: Any, dim: int, importance_scores: Tensor | None = None
) -> Any:
    """Prune the channels along ``dim`` of least ``n``-norm. Returns the module."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Any, str]], pruning_method: Any, importance_scores: Any = None, **kwargs: Any
) -> None:
    """Prune several (module, name) as one long vector: the weakest of all go, wherever they are."""
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    places = list(parameters)
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    method = pruning_method(**kwargs)
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            f'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method {pruning_method} of '
            f"type {method.PRUNING_TYPE}"
        )
    method._tensor_name = "all"
    values = [getattr(module, name) for module, name in places]
    flat = parameters_to_vector([scores.get(place, v) for place, v in zip(places, values, strict=True)])
    masks = [getattr(m, f"{name}_mask", None) for m, name in places]
    default = parameters_to_vector(
        [ops.ones_like(v) if mask is None else mask for mask, v in zip(masks, values, strict=True)]
    )
    mask = PruningContainer(method).compute_mask(flat, default)
    parts = mask.split([v.numel() for v in values])
    for (module, name), part, value in zip(places, parts, values, strict=True):
        custom_from_mask(module, name, part.view_as(value))


def custom_from_mask(module: Any, name: str, mask: Tensor) -> Any:
    """Prune ``module.name`` where ``mask`` is 0. Returns the module."""
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: Any, name: str) -> Any:
    """Make the zeros of ``module.name`` permanent. ValueError where it was not pruned. Returns the module."""
    for key, hook in module._forward_pre_hooks.items():
        if _prunes(hook, name):
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")


def is_pruned(module: Any) -> bool:
    """Whether anything in the module is pruned."""
    return any(
        isinstance(hook, BasePruningMethod) for part in module.modules() for hook in part._forward_pre_hooks.values()
    )
