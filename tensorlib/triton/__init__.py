"""Triton's decorators for kernels that are launched on tensors: ``import tensorlib.triton as triton``.

A program written for Triton runs with that import changed: ``kernel[grid](x, y, n, BLOCK=1024)`` takes tensors on any
device, a GPU, ``native`` (machine code of the processor) or ``interpret``. A kernel that somebody else decorated with
Triton's own ``jit``, ``autotune`` or ``heuristics`` is taken by ``jit``. ``runtime.driver.active`` and ``testing`` know
every device too, and want neither a GPU nor PyTorch. Every other name is Triton's own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib import _dtypes
from tensorlib.errors import DtypeError
from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit as JITFunction
from tensorlib.runtime.descriptors import TensorDescriptor
from tensorlib.triton._tuning import Autotuner, Heuristics

__all__ = [
    "Autotuner", "Heuristics", "JITFunction", "TensorDescriptor", "autotune", "heuristics", "jit", "reinterpret",
]  # fmt: skip


#: The modules that are this library's; every other one is Triton's.
_OWN = ("language", "runtime", "testing")


def __getattr__(name: str) -> Any:
    """Everything else: ``Config``, ``cdiv``, ``next_power_of_2``, ``language``, ..."""
    if name in _OWN:
        return importlib.import_module(f"{__name__}.{name}")
    stock = compiler.triton()
    if hasattr(stock, name):
        return getattr(stock, name)
    try:
        return importlib.import_module(f"triton.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module 'triton' has no attribute {name!r}") from None


def jit(fn: Any = None, *, do_not_specialize: Sequence[str | int] | None = None, **_: Any) -> Any:
    """A kernel: ``kernel[grid](...)`` launches it on tensors. As triton.jit, or of what triton.jit made.

    do_not_specialize: arguments, by name or place, whose value never causes another compilation. The other options of
    triton.jit change nothing of what a kernel computes.
    """
    if fn is None:
        return functools.partial(jit, do_not_specialize=do_not_specialize)
    if not hasattr(fn, "__code__"):
        return _taken(fn)
    names = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    plain = tuple(names[n] if isinstance(n, int) else n for n in do_not_specialize or ())
    return compiler.jit(fn, do_not_specialize=plain)


def _taken(fn: Any) -> Any:
    """A kernel that is decorated already, by this module or by Triton's own decorators."""
    if isinstance(fn, (Autotuner, Heuristics)):
        return fn
    kind = type(fn).__name__
    if kind == "Autotuner" and hasattr(fn, "configs"):
        theirs = ("pre_hook", "user_defined_pre_hook"), ("post_hook", "user_defined_post_hook")
        hooks = {name: getattr(fn, name) if getattr(fn, given, False) else None for name, given in theirs}
        prune = {
            "early_config_prune": getattr(fn, "early_config_prune", None),
            "perf_model": getattr(fn, "perf_model", None),
            "top_k": getattr(fn, "configs_top_k", 1.0),
        }
        return Autotuner(
            _taken(fn.fn), fn.configs, fn.keys, reset_to_zero=getattr(fn, "reset_to_zero", ()),
            restore_value=getattr(fn, "restore_value", ()), prune_configs_by=prune, **hooks,
            do_bench=getattr(fn, "_do_bench", None),
        )  # fmt: skip
    if kind == "Heuristics" and hasattr(fn, "values"):
        return Heuristics(_taken(fn.fn), fn.values)
    return compiler.as_jit(fn)


def launch(kernel: Any, grid: Any, *args: Any, **kwargs: Any) -> None:
    """``kernel[grid](*args, **kwargs)`` for a kernel that anybody decorated: every parameter by position or by name.

    grid: an int, up to three of them, or a function of a dictionary of all parameters. Arguments are tensors on one
    device, numbers, None, descriptors or tuples of those. KernelError where they do not fit the kernel's parameters.
    """
    _taken(kernel)[grid](*args, **kwargs)


def reinterpret(tensor: Any, dtype: Any) -> Any:
    """The tensor's memory as another dtype of the same size, Triton's (``tl.float8e5``) or the library's."""
    if not isinstance(dtype, _dtypes.dtype):
        known = {str(compiler.language_dtype(d)): d for d in compiler.TYPES}
        if str(dtype) not in known:
            raise DtypeError(f"reinterpret: {dtype}: expected one of {', '.join(known)}")
        dtype = _dtypes.as_dtype(known[str(dtype)])
    return tensor.view(dtype)


def autotune(
    configs: Sequence[Any],
    key: Sequence[str],
    prune_configs_by: dict[str, Any] | None = None,
    reset_to_zero: Sequence[str] | None = None,
    restore_value: Sequence[str] | None = None,
    pre_hook: Callable[..., Any] | None = None,
    post_hook: Callable[..., Any] | None = None,
    warmup: int | None = None,
    rep: int | None = None,
    use_cuda_graph: bool = False,
    do_bench: Callable[..., Any] | None = None,
    cache_results: bool = False,
) -> Callable[[Any], Autotuner]:
    """``@autotune(configs, key=[...])`` above ``@jit``: the fastest configuration for each value of the key.

    prune_configs_by: "early_config_prune", a function of the configurations and of the arguments by name that gives
    those to time; "perf_model", one of the arguments by name that gives a time, and "top_k", how many of the shortest,
    or which share, are timed. do_bench(call, quantiles=...) times one; warmup, rep, use_cuda_graph and cache_results
    change nothing.
    """

    def decorate(fn: Any) -> Autotuner:
        return Autotuner(
            jit(fn), configs, key, reset_to_zero=reset_to_zero, restore_value=restore_value, pre_hook=pre_hook,
            post_hook=post_hook, prune_configs_by=prune_configs_by, do_bench=do_bench,
        )  # fmt: skip

    return decorate


def heuristics(values: dict[str, Callable[[dict[str, Any]], Any]]) -> Callable[[Any], Heuristics]:
    """``@heuristics({"EVEN": lambda args: args["n"] % 128 == 0})`` above ``@jit``."""

    def decorate(fn: Any) -> Heuristics:
        return Heuristics(jit(fn), values)

    return decorate
