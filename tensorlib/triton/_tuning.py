"""Kernels that choose some of their constants: ``triton.autotune`` and ``triton.heuristics``."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib.errors import ArgumentError, KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.engine import engine_of
from tensorlib.runtime.launch import launch_by_name


class Heuristics:
    """A kernel some of whose constexprs are functions of its other parameters by name."""

    def __init__(self, fn: Any, values: dict[str, Callable[[dict[str, Any]], Any]]) -> None:
        self.fn = fn
        self.values = values

    def __getitem__(self, grid: Any) -> Any:
        return functools.partial(self.run, grid)

    @property
    def arg_names(self) -> list[str]:
        """Names of the kernel's parameters."""
        return _names(self.fn)

    def run(self, grid: Any, *args: Any, **kwargs: Any) -> None:
        """Launch it."""
        _run(self.fn, grid, args, self._chosen(args, kwargs))

    def warmup(self, *args: Any, grid: Any = None, **kwargs: Any) -> Any:
        """Compile it for what a launch would be given, and launch nothing."""
        return self.fn.warmup(*args, grid=grid, **self._chosen(args, kwargs))

    def _chosen(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        given = dict(zip(_names(self.fn), args, strict=False)) | kwargs
        for name, value in self.values.items():
            kwargs[name] = given[name] = value(given)
        return kwargs


class Autotuner:
    """A kernel with configurations to choose from; the choice is made anew for each value of the key's parameters.

    Each is run and timed, where kernels run at their own speed: elsewhere (``interpret``, compile-only targets) the
    first is taken. Arguments in reset_to_zero are zeroed before each of these runs, those in restore_value put back;
    pre_hook and post_hook are called around each of them instead.
    """

    def __init__(
        self,
        fn: Any,
        configs: Sequence[Any],
        key: Sequence[str],
        *,
        reset_to_zero: Sequence[str] | None = None,
        restore_value: Sequence[str] | None = None,
        pre_hook: Callable[..., Any] | None = None,
        post_hook: Callable[..., Any] | None = None,
        prune_configs_by: dict[str, Any] | None = None,
        do_bench: Callable[..., Any] | None = None,
    ) -> None:
        self.fn = fn
        self.configs = list(configs) or [compiler.triton().Config({}, num_warps=4, num_stages=3)]
        self.keys = list(key)
        self.reset_to_zero = list(reset_to_zero or ())
        self.restore_value = list(restore_value or ())
        self.pre_hook, self.post_hook = pre_hook, post_hook
        prune = prune_configs_by or {}
        self.early_config_prune = prune.get("early_config_prune")
        self.perf_model, self.configs_top_k = prune.get("perf_model"), prune.get("top_k", 1.0)
        self.do_bench = do_bench
        self.best_config: Any = None
        self.configs_timings: dict[Any, float] = {}  #: milliseconds, of the last choice that was made by timing
        self.cache: dict[Any, Any] = {}
        names = _names(fn)
        for what, given in (("key", key), ("reset_to_zero", self.reset_to_zero), ("restore_value", self.restore_value)):
            unknown = [name for name in given if name not in names]
            if unknown:
                raise ArgumentError(
                    f"{_name(fn)}: autotune: {what} names {', '.join(unknown)}: expected parameters of the kernel: "
                    f"{', '.join(names)}"
                )

    def __getitem__(self, grid: Any) -> Any:
        return functools.partial(self.run, grid)

    @property
    def arg_names(self) -> list[str]:
        """Names of the kernel's parameters."""
        return _names(self.fn)

    def run(self, grid: Any, *args: Any, **kwargs: Any) -> None:
        """Launch it with the configuration that was fastest for such arguments."""
        given = dict(zip(_names(self.fn), args, strict=False)) | kwargs
        arrays = [v for v in map(_array, given.values()) if v is not None]
        key = (*[given[k] for k in self.keys if k in given], *[(str(t.dtype), str(t.device)) for t in arrays])
        best = self.cache.get(key)
        if best is None:
            configs = self._pruned(given, kwargs)
            best = configs[0]
            if len(configs) > 1 and arrays and _has_speed(arrays[0].device):
                best = self._fastest(configs, arrays[0].device, grid, args, kwargs, given)
            self.cache[key] = best
        self.best_config = best
        self._launch(best, grid, args, kwargs, given)

    def warmup(self, *args: Any, grid: Any = None, **kwargs: Any) -> list[Any]:
        """Compile it in every configuration for what a launch would be given, and launch nothing."""
        given = dict(zip(_names(self.fn), args, strict=False)) | kwargs
        return [
            self.fn.warmup(*args, grid=grid, **self._asked(config, kwargs)) for config in self._pruned(given, kwargs)
        ]

    def _pruned(self, given: dict[str, Any], kwargs: dict[str, Any]) -> list[Any]:
        """The configurations worth timing. KernelError where none is."""
        configs = self.configs
        if self.early_config_prune is not None:
            configs = list(self.early_config_prune(configs, given, **kwargs))
        if not configs:
            raise KernelError(f"{_name(self.fn)}: autotune has no configuration left for these arguments")
        if self.perf_model is None:
            return configs
        top = self.configs_top_k
        most = max(1, int(len(configs) * top)) if isinstance(top, float) and top <= 1 else top
        if not isinstance(most, int):
            raise ArgumentError(
                f"{_name(self.fn)}: autotune: top_k {top!r}: expected an int, or a share of at most 1.0"
            )
        if len(configs) > most:
            model = self.perf_model
            configs = sorted(configs, key=lambda config: model(**given | config.all_kwargs()))[:most]
        return configs

    def _asked(self, config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        twice = config.kwargs.keys() & kwargs.keys()
        if twice:
            raise ArgumentError(
                f"{_name(self.fn)}: {', '.join(sorted(twice))} is given at the launch and by autotune's configuration"
            )
        asked = {name: v for name, v in config.all_kwargs().items() if v is not None and name != "ir_override"}
        return kwargs | asked

    def _launch(self, config: Any, grid: Any, args: Any, kwargs: dict[str, Any], given: dict[str, Any]) -> None:
        if config.pre_hook is not None:
            config.pre_hook(given | config.all_kwargs())
        _run(self.fn, grid, args, self._asked(config, kwargs))

    def _fastest(
        self, configs: list[Any], device: Any, grid: Any, args: Any, kwargs: dict[str, Any], given: dict[str, Any]
    ) -> Any:
        """The configuration with the shortest of three runs; one that the device cannot run is left out."""
        saved = {name: given[name].clone() for name in self.restore_value if given.get(name) is not None}
        wait = getattr(engine_of(device), "synchronize", lambda: None)

        def begin(full: dict[str, Any], **known: Any) -> None:
            if self.pre_hook is not None:
                self.pre_hook(full, **known)
                return
            for name in self.reset_to_zero:
                if full.get(name) is not None:
                    full[name].zero_()
            if self.post_hook is None:
                for name, value in saved.items():
                    full[name].copy_(value)

        def run(config: Any) -> float:
            full = given | config.all_kwargs()
            begin(full)
            wait()
            start = time.perf_counter()
            try:
                self._launch(config, grid, args, kwargs, given)
                wait()
            except Exception as error:
                if self.post_hook is not None:
                    self.post_hook(full, exception=error)
                raise
            milliseconds = (time.perf_counter() - start) * 1e3
            if self.post_hook is not None:
                self.post_hook(full, exception=None)
            return milliseconds

        def shortest(config: Any) -> float:
            if self.do_bench is not None:
                found = self.do_bench(functools.partial(run, config), quantiles=(0.5, 0.2, 0.8))
                return float(found[0] if isinstance(found, (list, tuple)) else found)
            return min([run(config) for _ in range(4)][1:])  # the first compiles

        times: list[float] = []
        failure: KernelError | None = None
        for config in configs:
            try:
                times.append(shortest(config))
            except KernelError as error:
                times.append(float("inf"))
                failure = error
        best = configs[times.index(min(times))]
        if min(times) == float("inf") and failure is not None:
            raise failure
        begin(given | best.all_kwargs(), **({} if self.pre_hook is None else {"reset_only": True}))
        for name, value in saved.items():
            given[name].copy_(value)
        self.configs_timings = dict(zip(configs, times, strict=True))
        return best


def _array(value: Any) -> Any:
    """The tensor that an argument is, or that its descriptor describes; None for anything else."""
    if hasattr(value, "block_shape") and hasattr(value, "base"):
        value = value.base
    return value if hasattr(value, "data_ptr") else None


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
