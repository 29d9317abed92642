"""Objects that are no tensors and take part in public functions by ``__torch_function__``, after NEP 18.

A public function asks for them when it could not use what came, so that calls with tensors pay nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tensorlib._core import Tensor


def implementing(values: Iterable[Any]) -> list[Any]:
    """The values, and those in lists and tuples among them, whose type has ``__torch_function__``: one of each type.

    In the order in which they came, but subclasses before the classes they are of.
    """
    found: list[Any] = []
    for value in values:
        for x in value if type(value) in (list, tuple) else (value,):
            kind = type(x)
            if isinstance(x, (Tensor, type)) or not hasattr(kind, "__torch_function__"):
                continue
            if all(type(y) is not kind for y in found):
                at = next((i for i, y in enumerate(found) if issubclass(kind, type(y))), len(found))
                found.insert(at, x)
    return found


def call(
    function: Callable[..., Any], objects: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str = ""
) -> Any:
    """``function(*args, **kwargs)`` as the first of the objects has it that does not give NotImplemented."""
    types = tuple(type(x) for x in objects)
    for x in objects:
        result = x.__torch_function__(function, types, args, kwargs)
        if result is not NotImplemented:
            return result
    raise TypeError(
        f"no implementation found for '{name or function.__name__}' on types that implement __torch_function__: "
        f"{[kind.__name__ for kind in types]}"
    )


def hand_over(function: Callable[..., Any], name: str, objects: list[Any], values: Mapping[str, Any]) -> Any:
    """A public function's call, with values by the names of its parameters, given to one of these objects.

    What has its default at the end of the positional parameters is left out, what only has a name goes by it.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    needed = 0
    for p in inspect.signature(function).parameters.values():
        if p.name not in values or p.kind is p.VAR_KEYWORD:
            continue
        value = values[p.name]
        if p.kind is p.KEYWORD_ONLY:
            if value is not p.default:
                kwargs[p.name] = value
        elif p.kind is p.VAR_POSITIONAL:
            args.extend(value)
            needed = len(args)
        else:
            args.append(value)
            usual = value is p.default or (type(value) is type(p.default) and value == p.default)
            if p.default is p.empty or not usual:
                needed = len(args)
    return call(function, objects, tuple(args[:needed]), kwargs, name)
