"""What is set for the whole process: threads, determinism, the precision of float32 products, warnings."""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tensorlib import _blas
from tensorlib._core import Tensor
from tensorlib._promotion import set_default_dtype
from tensorlib.errors import ArgumentError
from tensorlib.runtime import determinism
from tensorlib.runtime import precision as float32_precision
from tensorlib.runtime.native import settings as native

#: What float32 products are rounded to on matrix units; PyTorch's CUDA takes tf32 for "medium" too.
_PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "tf32"}
_state: dict[str, Any] = {"precision": "highest", "interop": 1, "warn": False}


@cache
def _library() -> Any:
    return _blas.openblas()


def get_num_threads() -> int:
    """How many threads matrix products of the CPU and kernels as machine code of the processor run on; NumPy's other
    functions run on one.
    """
    used = _library()
    return native.get_num_threads() if used is None else used.threads


def set_num_threads(num: int) -> None:
    """Set how many threads matrix products of the CPU and kernels as machine code of the processor run on. ValueError
    below 1.

    More than there can be is cut to what there can be: OpenBLAS takes as many as it was built for (64 in NumPy's
    wheels), the native engine 1024. ``get_num_threads`` says what holds.
    """
    if not isinstance(num, int) or isinstance(num, bool):
        raise TypeError(f"set_num_threads expects an int, but got {type(num).__name__}")
    if num < 1:
        raise ArgumentError(f"set_num_threads expects a positive integer, got {num}")
    used = _library()
    if used is not None:
        used.set_threads(num)
    native.set_num_threads(num)


def get_num_interop_threads() -> int:
    """How many operators run side by side: always 1 here, whatever was set."""
    return 1


def set_num_interop_threads(num: int) -> None:
    """Accepted and without effect: operators run one after the other."""
    if num < 1:
        raise ArgumentError(f"set_num_interop_threads expects a positive integer, got {num}")


def set_float32_matmul_precision(precision: str) -> None:
    """"highest": products of float32 operands in float32. "high", "medium": operands rounded to tf32 (10 bits of
    mantissa) where a GPU's matrix units take it, several times faster; sums stay float32. Elsewhere, float32.

    ``backends.cuda.matmul.fp32_precision = "tf32x3"`` is nearly as accurate as float32, on tensor cores.
    """
    if precision not in _PRECISIONS:
        raise ArgumentError(f"set_float32_matmul_precision: got {precision!r}: expected one of {(*_PRECISIONS,)}")
    _state["precision"] = precision
    float32_precision.choose(_PRECISIONS[precision])


def get_float32_matmul_precision() -> str:
    """What ``set_float32_matmul_precision`` set, or what comes to the same of what ``backends.cuda.matmul`` set."""
    said, how = str(_state["precision"]), float32_precision.float32[0]
    return said if _PRECISIONS[said] == how else "highest" if how == "ieee" else "high"


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Reruns give the same bits, or an error names the operator that cannot (``warn_only``: a warning).

    Every operator of the library has such a form. On the CPU there is no other. On a GPU single float32 and float64
    elements that meet in one place (``index_add``, ``scatter_add``, ``index_put(accumulate=True)``, gradients of
    indexing) are otherwise added atomically, in no fixed order; here they are sorted first. The error is for kernels of
    a user's own whose host function says that they add atomically.
    """
    determinism.level[0] = "off" if not mode else "warn" if warn_only else "error"


def are_deterministic_algorithms_enabled() -> bool:
    """Whether ``use_deterministic_algorithms`` is on."""
    return determinism.level[0] != "off"


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Whether ``use_deterministic_algorithms`` is on and only warns."""
    return determinism.level[0] == "warn"


_DEBUG = {"default": "off", "warn": "warn", "error": "error", 0: "off", 1: "warn", 2: "error"}


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """0 or "default", 1 or "warn", 2 or "error"."""
    if debug_mode not in _DEBUG:
        raise RuntimeError(f"invalid value of debug_mode, expected one of `default`, `warn`, `error`, got {debug_mode}")
    determinism.level[0] = _DEBUG[debug_mode]


def get_deterministic_debug_mode() -> int:
    """0, 1 or 2."""
    return ("off", "warn", "error").index(determinism.level[0])


def set_flush_denormal(mode: bool) -> bool:
    """False: the processor's mode is left as it is, since it would change the user's other code."""
    return False


def set_warn_always(b: bool, /) -> None:
    """Kept and answered: which warnings are shown, and how often, is for Python's own filters to say."""
    _state["warn"] = bool(b)


def is_warn_always_enabled() -> bool:
    """What ``set_warn_always`` set."""
    return bool(_state["warn"])


def typename(obj: Any, /) -> str:
    """The name of an object's type: "tensorlib.FloatTensor" of a float32 tensor, else module and class."""
    if isinstance(obj, Tensor):
        return obj.type()  # type: ignore[attr-defined, no-any-return]
    kind = type(obj)
    named = (getattr(obj, "__qualname__", None) and obj) or kind
    module = getattr(named, "__module__", None)
    name = getattr(named, "__qualname__", kind.__qualname__)
    return name if module in (None, "builtins") else f"{module}.{name}"


def set_default_tensor_type(t: Any, /) -> None:
    """``set_default_dtype`` under the name of a tensor type: "torch.DoubleTensor", "FloatTensor", ..."""
    kinds = {"FloatTensor": "float32", "DoubleTensor": "float64", "HalfTensor": "float16", "BFloat16Tensor": "bfloat16"}
    name = t if isinstance(t, str) else getattr(t, "__name__", str(t))
    kind = kinds.get(name.rpartition(".")[2])
    if kind is None or ".cuda." in name:
        raise TypeError(f"set_default_tensor_type: got {name}: expected one of {', '.join(kinds)}")
    set_default_dtype(kind)


def compile(
    model: Any = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: Any = "inductor",
    mode: str | None = None,
    options: Any = None,
    disable: bool = False,
) -> Any:
    """The model or function as it is, with a warning: this version has no compiler, and operators run one by one."""
    if model is None:
        def decorate(model: Callable[..., Any]) -> Any:
            return compile(model, disable=disable)

        return decorate
    if not callable(model):
        raise TypeError(f"compile() expected a callable, got {type(model).__name__}")
    if not disable and backend != "eager":
        warnings.warn("compile: this version has no compiler: what was given runs eagerly", stacklevel=2)
    return model


#: Which implementations of attention a program says it wants.
ATTENTION = {"flash": True, "mem_efficient": True, "math": True, "cudnn": True}


class SDPBackend(enum.Enum):
    """PyTorch's implementations of attention by name. There is one a device here, so that a choice changes nothing."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


_SDP = {SDPBackend.MATH: "math", SDPBackend.FLASH_ATTENTION: "flash",
        SDPBackend.EFFICIENT_ATTENTION: "mem_efficient", SDPBackend.CUDNN_ATTENTION: "cudnn"}  # fmt: skip


@contextlib.contextmanager
def sdpa_kernel(backends: SDPBackend | list[SDPBackend], set_priority: bool = False) -> Iterator[None]:
    """Name the implementations of attention for the block: ``backends.cuda.flash_sdp_enabled()`` and its kin say so.

    The result does not change: there is one implementation a device.
    """
    chosen = [backends] if isinstance(backends, SDPBackend) else list(backends)
    if not chosen or not all(isinstance(b, SDPBackend) for b in chosen):
        raise TypeError(f"sdpa_kernel: expected one SDPBackend or a list of them, got {backends!r}")
    before = dict(ATTENTION)
    ATTENTION.update({name: b in chosen for b, name in _SDP.items()})
    try:
        yield
    finally:
        ATTENTION.update(before)
