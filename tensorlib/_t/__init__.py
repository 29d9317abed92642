"""Triton's decorators for kernels that are launched on tensors: ``import tensorlib.triton as triton``.

A program written for Triton runs with that import changed: ``kernel[grid](x, y, n, BLOCK=1024)`` takes tensors on any
device, a GPU, ``native`` (machine code of the processor) or ``interpret``. A kernel that somebody else decorated with
Triton's own ``jit``, ``autotune`` or ``heuristics`` is taken by ``jit``. Every other name is Triton's own.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib.errors import KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.descriptors import TensorDescriptor
from tensorlib.runtime.engine import engine_of
from tensorlib.runtime.launch import launch_by_name

__all__ = ["Autotuner", "Heuristics", "TensorDescriptor", "autotune", "heuristics", "jit"]


def __getattr__(name: str) -> Any:
    """Everything else: ``Config``, ``cdiv``, ``next_power_of_2``, ``language``, ..."""
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
        return Autotuner(
            _taken(fn.fn), fn.configs, fn.keys, reset_to_zero=getattr(fn, "reset_to_zero", ()),
            restore_value=getattr(fn, "restore_value", ()), early_config_prune=getattr(fn, "early_config_prune", None),
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


class Heuristics:
    """A kernel some of whose constexprs are functions of its other parameters by name."""

    def __init__(self, fn: Any, values: dict[str, Callable[[dict[str, Any]], Any]]) -> None:
        self.fn = fn
        self.values = values

    def __getitem__(self, grid: Any) -> Any:
        return functools.partial(self.run, grid)

    def run(self, grid: Any, *args: Any, **kwargs: Any) -> None:
        """Launch it."""
        given = dict(zip(_names(self.fn), args, strict=False)) | kwargs
        for name, value in self.values.items():
            kwargs[name] = given[name] = value(given)
        _run(self.fn, grid, args, kwargs)


class Autotuner:
    """A kernel with configurations to choose from; the choice is made anew for each value of the key's parameters.

    Each is run and timed, where kernels run at their own speed: elsewhere (``interpret``, compile-only targets) the
    first is taken. Arguments in reset_to_zero are zeroed before each of these runs, those in restore_value put back.
    """

    def __init__(
        self,
        fn: Any,
        configs: Sequence[Any],
        key: Sequence[str],
        *,
        reset_to_zero: Sequence[str] | None = None,
        restore_value: Sequence[str] | None = None,
        early_config_prune: Callable[..., Sequence[Any]] | None = None,
    ) -> None:
        self.fn = fn
        self.configs = list(configs)
        self.key = tuple(key)
        self.reset_to_zero = tuple(reset_to_zero or ())
        self.restore_value = tuple(restore_value or ())
        self.early_config_prune = early_config_prune
        self.best_config: Any = None
        self._chosen: dict[Any, Any] = {}

    def __getitem__(self, grid: Any) -> Any:
        return functools.partial(self.run, grid)

    def run(self, grid: Any, *args: Any, **kwargs: Any) -> None:
        """Launch it with the configuration that was fastest for such arguments."""
        given = dict(zip(_names(self.fn), args, strict=False)) | kwargs
        tensors = [v for v in given.values() if hasattr(v, "data_ptr")]
        key = (*[given[k] for k in self.key if k in given], *[(str(t.dtype), str(t.device)) for t in tensors])
        best = self._chosen.get(key)
        if best is None:
            configs = self.configs
            if self.early_config_prune is not None:
                configs = list(self.early_config_prune(configs, given, **kwargs))
            if not configs:
                raise KernelError(f"{_name(self.fn)}: autotune has no configuration left for these arguments")
            best = configs[0]
            if len(configs) > 1 and tensors and _has_speed(tensors[0].device):
                best = self._fastest(configs, grid, args, kwargs, given)
            self._chosen[key] = best
        self.best_config = best
        self._launch(best, grid, args, kwargs, given)

    def _launch(self, config: Any, grid: Any, args: Any, kwargs: dict[str, Any], given: dict[str, Any]) -> None:
        if config.pre_hook is not None:
            config.pre_hook(given | config.all_kwargs())
        asked = {name: v for name, v in config.all_kwargs().items() if v is not None and name != "ir_override"}
        _run(self.fn, grid, args, kwargs | asked)

    def _fastest(self, configs: list[Any], grid: Any, args: Any, kwargs: dict[str, Any], given: dict[str, Any]) -> Any:
        """The configuration with the shortest of three runs; one that the device cannot run is left out."""
        saved = {name: given[name].clone() for name in self.restore_value}
        times: list[float] = []
        failure: KernelError | None = None
        engine = engine_of(next(v for v in given.values() if hasattr(v, "data_ptr")).device)
        wait = getattr(engine, "synchronize", lambda: None)
        for config in configs:
            shortest = float("inf")
            for i in range(4):  # the first compiles
                for name in self.reset_to_zero:
                    given[name].zero_()
                for name, value in saved.items():
                    given[name].copy_(value)
                wait()
                start = time.perf_counter()
                try:
                    self._launch(config, grid, args, kwargs, given)
                except KernelError as error:
                    failure = error
                    break
                wait()
                if i:
                    shortest = min(shortest, time.perf_counter() - start)
            times.append(shortest)
        if min(times) == float("inf") and failure is not None:
            raise failure
        for name in self.reset_to_zero:
            given[name].zero_()
        for name, value in saved.items():
            given[name].copy_(value)
        return configs[times.index(min(times))]


def _has_speed(device: Any) -> bool:
    return str(device).partition(":")[0] in ("cuda", "hip", "native")


def _names(fn: Any) -> list[str]:
    """The parameters of a kernel within its decorators."""
    while not isinstance(fn, Jit):
        fn = fn.fn
    return [p.name for p in fn.parameters]


def _name(fn: Any) -> str:
    while not isinstance(fn, Jit):
        fn = fn.fn
    return str(fn.__name__)


def _run(fn: Any, grid: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if isinstance(fn, Jit):
        launch_by_name(fn, grid, *args, **kwargs)
    else:
        fn.run(grid, *args, **kwargs)


def autotune(
    configs: Sequence[Any],
    key: Sequence[str],
    prune_configs_by: dict[str, Any] | None = None,
    reset_to_zero: Sequence[str] | None = None,
    restore_value: Sequence[str] | None = None,
    **_: Any,
) -> Callable[[Any], Autotuner]:
    """``@autotune(configs, key=[...])`` above ``@jit``: the fastest configuration for each value of the key."""
    prune = (prune_configs_by or {}).get("early_config_prune")

    def decorate(fn: Any) -> Autotuner:
        return Autotuner(
            jit(fn), configs, key, reset_to_zero=reset_to_zero, restore_value=restore_value, early_config_prune=prune
        )

    return decorate


def heuristics(values: dict[str, Callable[[dict[str, Any]], Any]]) -> Callable[[Any], Heuristics]:
    """``@heuristics({"EVEN": lambda args: args["n"] % 128 == 0})`` above ``@jit``."""

    def decorate(fn: Any) -> Heuristics:
        return Heuristics(jit(fn), values)

    return decorate
