"""``__torch_function__``: how objects that are no tensors take part in the library's functions.

A class with ``__torch_function__(cls, func, types, args, kwargs)`` is asked where one of its objects comes in place of
a tensor; ``func`` is the public function, ``types`` the classes that take part. Subclasses of Tensor are tensors: their
methods are Python's, and ``__torch_function__`` of theirs is not asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from tensorlib._core import Tensor
from tensorlib._overrides import call, implementing
from tensorlib.errors import UnsupportedError
from tensorlib.op import declared, names_in

__all__ = [
    "TorchFunctionMode", "get_overridable_functions", "handle_torch_function", "has_torch_function",
    "has_torch_function_unary", "has_torch_function_variadic", "is_tensor_like", "is_tensor_method_or_property",
    "resolve_name", "wrap_torch_function",
]  # fmt: skip


def has_torch_function(relevant_args: Iterable[Any]) -> bool:
    """Whether the class of one of these has ``__torch_function__``; tensors count as none that has."""
    return bool(implementing(tuple(relevant_args)))


def has_torch_function_unary(arg: Any) -> bool:
    """``has_torch_function((arg,))``."""
    return has_torch_function((arg,))


def has_torch_function_variadic(*args: Any) -> bool:
    """``has_torch_function(args)``."""
    return has_torch_function(args)


def handle_torch_function(
    public_api: Callable[..., Any], relevant_args: Iterable[Any], *args: Any, **kwargs: Any
) -> Any:
    """``public_api(*args, **kwargs)`` as the first class among ``relevant_args`` has it; TypeError where none does."""
    return call(public_api, implementing(tuple(relevant_args)), args, kwargs, resolve_name(public_api) or "")


def wrap_torch_function(dispatcher: Callable[..., Iterable[Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that makes a function one of those: ``dispatcher``, called as it is, gives the relevant arguments."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def public(*args: Any, **kwargs: Any) -> Any:
            relevant = tuple(dispatcher(*args, **kwargs))
            if has_torch_function(relevant):
                return handle_torch_function(public, relevant, *args, **kwargs)
            return function(*args, **kwargs)

        return public

    return decorate


def is_tensor_like(inp: Any) -> bool:
    """Whether it is a Tensor, or its class has ``__torch_function__``."""
    return isinstance(inp, Tensor) or hasattr(type(inp), "__torch_function__")


def is_tensor_method_or_property(func: Any) -> bool:
    """Whether it is a method of Tensor, or how one of its properties is read."""
    owner = getattr(func, "__self__", None)
    return func in vars(Tensor).values() or (isinstance(owner, property) and owner in vars(Tensor).values())


class TorchFunctionMode:
    """The class of blocks in which PyTorch hands every function to an object; such a block cannot be entered here.

    Functions ask the objects among their arguments, after they could not use them: calls with tensors are Python's.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """``func(*args, **kwargs)``."""
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> NoReturn:
        raise UnsupportedError(
            f"{type(self).__name__}: functions are not handed to modes here: call what the mode would have called, or "
            f"give an object with __torch_function__ in place of a tensor"
        )

    def __exit__(self, *error: object) -> None:
        """Never reached: no block is entered."""


@functools.cache
def _functions() -> dict[str, list[Callable[..., Any]]]:
    spaces = {"function": "torch", "method": "torch.Tensor", "functional": "torch.nn.functional",
              "linalg": "torch.linalg", "fft": "torch.fft", "special": "torch.special"}  # fmt: skip
    found: dict[str, list[Callable[..., Any]]] = {}
    for space, name in spaces.items():
        found[name] = [made.public for made in declared() if any(names_in(made, space))]
    return found


def get_overridable_functions() -> dict[str, list[Callable[..., Any]]]:
    """The functions that ask, by the place in which they are public."""
    return {name: list(functions) for name, functions in _functions().items()}


def resolve_name(f: Callable[..., Any]) -> str | None:
    """The name of a public function with its place, as "torch.sum"; None where it is none."""
    for place, functions in _functions().items():
        if f in functions:
            return f"{place}.{f.__name__.removeprefix('linalg_').removeprefix('fft_').removeprefix('special_')}"
    return None
