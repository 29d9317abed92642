"""``out=`` for public functions that are written with other operators."""

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
