"""``out=`` and other names of parameters, for public functions that are written with other operators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from tensorlib.op import into

F = TypeVar("F", bound=Callable[..., Any])


def takes_out(function: F) -> F:
    """The function with a keyword ``out``: tensors that the results are written into, resized where they must be."""

    @functools.wraps(function)
    def public(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return result if out is None else into(function.__name__, out, result)

    signature = inspect.signature(function)
    keyword = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Any")
    public.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])  # type: ignore[attr-defined]
    return public  # type: ignore[return-value]


def also_named(**names: str) -> Callable[[F], F]:
    """The function with other keywords for its parameters: ``also_named(indices="indices_or_sections")``.

    PyTorch's parser knows some parameters by another name than its documentation, or by several.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def public(*args: Any, **kwargs: Any) -> Any:
            for other, own in names.items():
                if other in kwargs:
                    if own in kwargs:
                        raise TypeError(f"{function.__name__}() got multiple values for argument '{own}' ({other})")
                    kwargs[own] = kwargs.pop(other)
            return function(*args, **kwargs)

        public.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return public  # type: ignore[return-value]

    return decorate
