"""What PyTorch's optimizers are written with, by its private names: optimizers that began as copies of them use it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import float32, float64
from tensorlib._tensor import get_default_dtype
from tensorlib.autograd import set_grad_enabled

ParamsT = Iterable[Any]

_maximize_doc = "maximize (bool, optional): maximize the objective with respect to the params (default: False)"
_foreach_doc = "foreach (bool, optional): whether the update runs on lists of tensors (default: None)"
_fused_doc = "fused (bool, optional): whether the update is one kernel (default: None)"
_capturable_doc = "capturable (bool, optional): whether a step can be captured in a graph (default: False)"
_differentiable_doc = "differentiable (bool, optional): whether gradients flow through the step (default: False)"
_params_doc = "params (iterable): parameters, (name, parameter) pairs, or dictionaries of groups"


def _use_grad_for_differentiable(func: Callable[..., Any]) -> Callable[..., Any]:
    """``step`` with gradients where its optimizer has ``differentiable``, without them otherwise."""

    @functools.wraps(func)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        with set_grad_enabled(self.defaults["differentiable"]):
            return func(self, *args, **kwargs)

    return step


def _disable_dynamo_if_unsupported(single_tensor_fn: Any = None) -> Callable[..., Any]:
    """A decorator that leaves its function as it is."""
    return lambda function: function


def _get_value(x: Any) -> Any:
    """A number: of a tensor its own."""
    return x.item() if isinstance(x, Tensor) else x


def _to_scalar(x: Any) -> Any:
    """A tensor of one element without dimensions; anything else as it is."""
    return x.squeeze() if isinstance(x, Tensor) and x.dim() else x  # type: ignore[attr-defined]


def _dispatch_sqrt(x: Any) -> Any:
    """The square root of a number, or of a tensor."""
    return x.sqrt() if isinstance(x, Tensor) else x**0.5  # type: ignore[attr-defined]


def _stack_if_compiling(x: Any) -> Any:
    """The list itself: nothing compiles."""
    return x


def _get_scalar_dtype(is_fused: bool | None = None) -> Any:
    """Of a step counter: float32, or float64 where that is the default."""
    return float32 if is_fused or get_default_dtype() != float64 else float64


def _view_as_real(params: list[Tensor], *states: list[Tensor]) -> None:
    """Complex parameters and their states as real ones of one more dimension, in their lists."""
    for i, param in enumerate(params):
        if param.is_complex():  # type: ignore[attr-defined]
            for tensors in (params, *states):
                tensors[i] = ops.view_as_real(tensors[i])


def _default_to_fused_or_foreach(
    params: list[Tensor], differentiable: bool, use_fused: bool = False
) -> tuple[bool, bool]:
    """(fused, foreach) that an optimizer takes by itself: neither."""
    return False, False


def _group_tensors_by_device_and_dtype(
    tensorlistlist: list[list[Any]], with_indices: bool = False
) -> dict[tuple[Any, Any], tuple[list[list[Any]], list[int]]]:
    """Lists of tensors that belong together, apart for each (device, dtype) of the first list; and their places."""
    found: dict[tuple[Any, Any], tuple[list[list[Any]], list[int]]] = {}
    for i, row in enumerate(zip(*[xs or [None] * len(tensorlistlist[0]) for xs in tensorlistlist], strict=True)):
        lists, places = found.setdefault((row[0].device, row[0].dtype), ([[] for _ in tensorlistlist], []))
        for xs, x, given in zip(lists, row, tensorlistlist, strict=True):
            if given:
                xs.append(x)
        if with_indices:
            places.append(i)
    return found
