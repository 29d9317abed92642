"""Parametrizations: a parameter that is a function of another, computed each time the module's attribute is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from tensorlib._core import Tensor
from tensorlib.autograd import no_grad
from tensorlib.nn.container import ModuleDict, ModuleList
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = ["ParametrizationList", "cached", "is_parametrized", "register_parametrization", "remove_parametrizations",
           "transfer_parametrizations_and_params", "type_before_parametrizations"]  # fmt: skip

_caching = [0]
_cache: dict[tuple[int, str], Tensor] = {}


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """A block in which each parametrized tensor is computed once."""
    _caching[0] += 1
    try:
        yield
    finally:
        _caching[0] -= 1
        if not _caching[0]:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, first to last, and the tensor itself: ``original``, or ``original0``, ...

    Made by ``register_parametrization``. What the first one's ``right_inverse`` returns is what is trained.
    """

    original: Tensor
    unsafe: bool

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        shape, dtype = original.shape, original.dtype
        with no_grad():
            new: Any = original
            for module in reversed(self):
                if hasattr(module, "right_inverse"):
                    try:
                        new = module.right_inverse(new)
                    except NotImplementedError:
                        pass
        if not isinstance(new, Tensor) and not isinstance(new, Sequence):
            raise ValueError(
                f"'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                f"Got {type(new).__name__}"
            )
        self.is_tensor = isinstance(new, Tensor)
        self.ntensors = 1 if isinstance(new, Tensor) else len(new)
        if isinstance(new, Tensor):
            if original.dtype != new.dtype:
                raise ValueError(
                    f"When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                    f"original.dtype: {original.dtype}\nright_inverse(original).dtype: {new.dtype}"
                )
            with no_grad():
                original.set_(new) if hasattr(original, "set_") else _assign(original, new)
            _register(self, "original", original)
        else:
            for i, part in enumerate(new):
                if not isinstance(part, Tensor):
                    raise ValueError(
                        f"'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                        f"Got element {i} of the sequence with type {type(part).__name__}."
                    )
                leaf = Parameter(part) if isinstance(original, Parameter) else part
                leaf.requires_grad_(original.requires_grad)
                _register(self, f"original{i}", leaf)
        if not unsafe:
            made = self()
            if not isinstance(made, Tensor):
                raise ValueError(f"A parametrization must return a tensor. Got {type(made).__name__}.")
            if made.dtype != dtype:
                raise ValueError(
                    f"Registering a parametrization may not change the dtype of the tensor, unless the `unsafe` flag "
                    f"is enabled.\nunparametrized dtype: {dtype}\nparametrized dtype: {made.dtype}"
                )
            if made.shape != shape:
                raise ValueError(
                    f"Registering a parametrization may not change the shape of the tensor, unless the `unsafe` flag "
                    f"is enabled.\nunparametrized shape: {shape}\nparametrized shape: {made.shape}"
                )

    def right_inverse(self, value: Tensor) -> None:
        """Make the attribute ``value``: each parametrization's ``right_inverse``, last to first, into the originals."""
        with no_grad():
            new: Any = value
            for module in reversed(self):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"parametrization {type(module).__name__} does not implement right_inverse."
                    )
                new = module.right_inverse(new)
            if self.is_tensor:
                if not isinstance(new, Tensor):
                    raise ValueError(f"`right_inverse` should return a tensor. Got {type(new).__name__}")
                if new.dtype != value.dtype:
                    raise ValueError(f"The tensor returned by `right_inverse` has dtype {new.dtype}, not {value.dtype}")
                _assign(self.original, new)
                return
            if not isinstance(new, Sequence):
                raise ValueError(f"'right_inverse' must return a sequence of tensors. Got {type(new)}.")
            if len(new) != self.ntensors:
                raise ValueError(
                    f"'right_inverse' must return a sequence of tensors of length {self.ntensors}. Got {len(new)}."
                )
            for i, part in enumerate(new):
                _assign(getattr(self, f"original{i}"), part)

    def forward(self) -> Tensor:
        """The parametrized tensor."""
        if not len(self):
            raise RuntimeError("this parametrization has no modules")
        if self.is_tensor:
            x = self[0](self.original)
        else:
            x = self[0](*(getattr(self, f"original{i}") for i in range(self.ntensors)))
        for module in list(self)[1:]:
            x = module(x)
        return x  # type: ignore[no-any-return]


def _assign(target: Tensor, value: Tensor) -> None:
    """``target`` becomes ``value``, of another shape where need be; it stays the object that optimizers know."""
    if target.shape == value.shape:
        target.copy_(value)
    else:
        target.data = value.detach().clone()


def _register(module: Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def _parametrized_class(module: Module) -> None:
    """Give the module a class of its own, which can hold properties."""
    base = type(module)

    def deep(self: Any, memo: dict[int, Any]) -> Any:
        found = memo.get(id(self))
        if found is not None:
            return found
        replica = self.__new__(type(self))
        memo[id(self)] = replica
        replica.__dict__ = deepcopy(self.__dict__, memo)
        return replica

    def reduce(self: Any, protocol: Any) -> Any:
        raise RuntimeError(
            "Serialization of parametrized modules is only supported through state_dict(): save that, and load it into "
            "a module with the same parametrizations"
        )

    own = {"__deepcopy__": deep, "__reduce_ex__": reduce, "__module__": base.__module__}
    module.__class__ = type(f"Parametrized{base.__name__}", (base,), own)


def _inject(module: Module, name: str) -> None:
    def get(self: Any) -> Tensor:
        parametrization = self.parametrizations[name]
        if not _caching[0]:
            return parametrization()  # type: ignore[no-any-return]
        key = (id(self), name)
        if key not in _cache:
            _cache[key] = parametrization()
        return _cache[key]

    def put(self: Any, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    setattr(type(module), name, property(get, put))


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """``module.tensor_name`` becomes ``parametrization(original)``; several are applied in order of registration.

    The original is kept as ``module.parametrizations.<name>.original``; a ``right_inverse`` of the parametrization
    says from which original to start, and lets the attribute be assigned. unsafe: do not check that dtype and shape
    stay. ValueError where they change, or where the module has no such parameter or buffer.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        held: Any = module.parametrizations[tensor_name]
        if not unsafe:
            now = getattr(module, tensor_name)
            made = parametrization(now)
            if not isinstance(made, Tensor):
                raise ValueError(f"A parametrization must return a tensor. Got {type(made).__name__}.")
            if made.dtype != now.dtype or made.shape != now.shape:
                raise ValueError(
                    f"Registering a parametrization may not change the dtype or the shape of the tensor, unless the "
                    f"`unsafe` flag is enabled: {now.dtype} {tuple(now.shape)} became {made.dtype} {tuple(made.shape)}"
                )
            if hasattr(parametrization, "right_inverse"):
                try:
                    back = parametrization.right_inverse(now)
                except NotImplementedError:
                    back = now
                if not isinstance(back, Tensor) or back.shape != now.shape or back.dtype != now.dtype:
                    raise ValueError("parametrization.right_inverse must return a tensor of the same shape and dtype")
        held.append(parametrization)
        held.unsafe |= unsafe
    elif tensor_name in module._buffers or tensor_name in module._parameters:
        original = getattr(module, tensor_name)
        made_list = ParametrizationList([parametrization], original, unsafe=unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            _parametrized_class(module)
            module.parametrizations = ModuleDict()
        _inject(module, tensor_name)
        module.parametrizations[tensor_name] = made_list
    else:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name "
            f"'{tensor_name}'"
        )
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module, or one tensor of it, has parametrizations."""
    held = module.__dict__.get("_modules", {}).get("parametrizations")
    if not isinstance(held, ModuleDict):
        return False
    return len(held) > 0 if tensor_name is None else tensor_name in held


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make ``tensor_name`` a plain tensor again: with its parametrized value, or with the original's.

    ValueError where there is nothing to remove, or where several originals leave no choice.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    held: Any = module.parametrizations[tensor_name]
    if held.is_tensor:
        original = held.original
        if leave_parametrized:
            with no_grad():
                _assign(original, getattr(module, tensor_name))
    else:
        if not leave_parametrized:
            raise ValueError(
                "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
                "sequence of tensors."
            )
        value = getattr(module, tensor_name).detach().clone()
        needs = held.original0.requires_grad
        original = Parameter(value, needs) if isinstance(held.original0, Parameter) else value
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    _register(module, tensor_name, original)
    if not is_parametrized(module):
        delattr(module, "parametrizations")
        module.__class__ = type(module).__bases__[0]
    return module


def type_before_parametrizations(module: Module) -> type:
    """The module's class without its parametrizations."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(
    from_module: Module, to_module: Module, tensor_name: str | None = None
) -> Module:
    """Give ``to_module`` the parametrizations of another of its class, and copies of their originals."""
    if not is_parametrized(from_module):
        return to_module
    held: Any = from_module.parametrizations
    for name in list(held) if tensor_name is None else [tensor_name]:
        if not hasattr(to_module, name):
            _register(to_module, name, deepcopy(held[name].original))
        for parametrization in held[name]:
            register_parametrization(to_module, name, deepcopy(parametrization), unsafe=held[name].unsafe)
        target = to_module.parametrizations[name]  # type: ignore[index]
        if held[name].is_tensor:
            target.original = deepcopy(held[name].original)
        else:
            for i in range(held[name].ntensors):
                setattr(target, f"original{i}", deepcopy(getattr(held[name], f"original{i}")))
    return to_module


