"""``autocast`` and the functions that ask about it. What is cast, and where, is in ``tensorlib/_autocast.py``."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from tensorlib._autocast import LOWER, Autocast
from tensorlib._core import Tensor, listening, modes
from tensorlib._device import device
from tensorlib._dtypes import as_dtype, bfloat16, dtype, float16, float64
from tensorlib.runtime.engine import gpus

_defaults: dict[str, Any] = {"cpu": bfloat16, "gpu": float16, "caching": True}


def _kind(device_type: Any) -> str:
    """"cpu" or "gpu": ``cuda``, ``hip``, the interpreter and compile-only targets run one set of kernels."""
    if not isinstance(device_type, str):
        raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
    return "cpu" if device(device_type).type == "cpu" else "gpu"


def gpu_is_available() -> bool:
    """Whether a GPU can be used from this process."""
    return gpus().kind() is not None


def is_autocast_available(device_type: str) -> bool:
    """Whether autocast can be used on a type of device."""
    kind = _kind(device_type)
    return kind == "cpu" or device_type not in ("cuda", "hip") or gpu_is_available()


class autocast:
    """A region, or a decorated function, in which operators choose their dtype: products run in ``dtype``, losses and
    other delicate functions in float32, the rest in what comes. Run forward and loss in it, backward outside.

    device_type: "cpu", "cuda", ... : tensors of other devices are left alone. dtype: bfloat16 or float16, by default
    bfloat16 on the CPU and float16 on a GPU. enabled=False makes a region without autocast. cache_enabled: parameters
    are cast once per region, and again once they were written.
    On the CPU narrow products are computed in float32 and rounded once: right, and no faster than float32.
    RuntimeError for an unknown device type; a dtype that autocast does not know warns and disables it, as in PyTorch.
    Source: the PyTorch documentation, "Automatic Mixed Precision package".
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        self.device = device_type
        self._kind = _kind(device_type)
        self.fast_dtype = _lower(self._kind) if dtype is None else as_dtype(dtype)
        self._enabled = bool(enabled)
        self._caching = _defaults["caching"] if cache_enabled is None else bool(cache_enabled)
        self._before: list[Any] = []
        if self._enabled and not is_autocast_available(device_type):
            warnings.warn(f"{device_type.upper()} is not available: disabling autocast.", stacklevel=2)
            self._enabled = False
        if self._enabled and self.fast_dtype not in LOWER:
            known = ", ".join(map(str, LOWER))
            warnings.warn(
                f"In {device_type.upper()} autocast, but the target dtype is not supported. Disabling autocast.\n"
                f"{device_type.upper()} Autocast only supports dtypes of {known} currently.",
                stacklevel=2,
            )
            self._enabled = False

    def __enter__(self) -> autocast:
        before = modes.autocast
        self._before.append(before)
        mine = self.fast_dtype if self._enabled else None
        other = None if before is None else before.gpu if self._kind == "cpu" else before.cpu
        on_cpu, on_gpu = (mine, other) if self._kind == "cpu" else (other, mine)
        if on_cpu is None and on_gpu is None:
            modes.autocast = None
        else:
            modes.autocast = Autocast(on_cpu, on_gpu, self._caching, {} if before is None else before.cache)
        listening[0] += 1  # the fast paths do not look for autocast
        return self

    def __exit__(self, *error: object) -> None:
        modes.autocast = self._before.pop()
        listening[0] -= 1

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` in this region."""
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call


def _lower(kind: str) -> dtype:
    """The dtype of the region one is in, or else the default."""
    state = modes.autocast
    found = None if state is None else state.cpu if kind == "cpu" else state.gpu
    return found or _defaults[kind]


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether this thread is in an autocast region for a type of device."""
    state = modes.autocast
    return state is not None and (state.cpu if _kind(device_type) == "cpu" else state.gpu) is not None


def get_autocast_dtype(device_type: str) -> dtype:
    """The dtype that autocast casts to on a type of device."""
    return _lower(_kind(device_type))


def is_autocast_cpu_enabled() -> bool:
    """``is_autocast_enabled("cpu")``, by PyTorch's older name."""
    return is_autocast_enabled("cpu")


def get_autocast_cpu_dtype() -> dtype:
    """``get_autocast_dtype("cpu")``, by PyTorch's older name."""
    return get_autocast_dtype("cpu")


def get_autocast_gpu_dtype() -> dtype:
    """``get_autocast_dtype("cuda")``, by PyTorch's older name."""
    return get_autocast_dtype("cuda")


def set_autocast_dtype(device_type: str, dtype: Any) -> None:
    """Set the dtype that autocast regions for a type of device cast to by default."""
    _defaults[_kind(device_type)] = as_dtype(dtype)


def is_autocast_cache_enabled() -> bool:
    """Whether autocast keeps the casts of parameters."""
    return bool(_defaults["caching"] if modes.autocast is None else modes.autocast.caching)


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Set whether autocast regions keep the casts of parameters by default."""
    _defaults["caching"] = bool(enabled)


def clear_autocast_cache() -> None:
    """Forget the casts of parameters."""
    if modes.autocast is not None:
        modes.autocast.cache.clear()


def _cast(value: Any, kind: str, target: dtype) -> Any:
    """Floating-point tensors of the kind of device in any nesting of containers, as ``target``; float64 stays."""
    if isinstance(value, Tensor):
        here = ("cpu" if value.device.type == "cpu" else "gpu") == kind
        return value.to(target) if here and value.is_floating_point() and value.dtype is not float64 else value
    if isinstance(value, dict):
        return {k: _cast(v, kind, target) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_cast(v, kind, target) for v in value])
    if isinstance(value, (list, tuple)):
        return type(value)([_cast(v, kind, target) for v in value])
    return value


def custom_fwd(fwd: Any = None, *, device_type: str, cast_inputs: Any = None) -> Any:
    """Decorate ``forward`` of an autograd.Function: with ``cast_inputs`` it runs in that dtype with autocast off."""
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        ctx._autocast_dtype = get_autocast_dtype(device_type)
        ctx._fwd_used_autocast = is_autocast_enabled(device_type)
        if cast_inputs is None or not ctx._fwd_used_autocast:
            return fwd(ctx, *args, **kwargs)
        kind, target = _kind(device_type), as_dtype(cast_inputs)
        ctx._fwd_used_autocast = False
        with autocast(device_type, enabled=False):
            return fwd(ctx, *_cast(args, kind, target), **_cast(kwargs, kind, target))

    return forward


def custom_bwd(bwd: Any = None, *, device_type: str) -> Any:
    """Decorate ``backward`` of an autograd.Function: it runs under the autocast that ``custom_fwd`` saw."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(device_type, dtype=ctx._autocast_dtype, enabled=ctx._fwd_used_autocast):
            return bwd(ctx, *args, **kwargs)

    return backward
