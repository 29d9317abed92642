"""tensorlib: tensors, autograd and neural networks on Triton kernels, with NumPy on the CPU and nothing of torch.

The names are PyTorch's: ``import tensorlib as torch`` carries ordinary model code over.
"""

import gc as _gc
import importlib as _importlib
import sys as _sys
import warnings as _warnings
from typing import Any as _Any

# A thousand declarations are many small objects, none of them garbage: looking for some takes a fifth of the import.
_collecting = _gc.isenabled()
_gc.disable()

from tensorlib import _dtypes, _malloc, autograd, cuda, errors, random
from tensorlib._core import Tensor
from tensorlib._device import device
from tensorlib._dlpack import from_dlpack, to_dlpack
from tensorlib._dtypes import dtype, finfo, iinfo
from tensorlib._layout import (
    channels_last,
    channels_last_3d,
    contiguous_format,
    layout,
    memory_format,
    preserve_format,
    strided,
)
from tensorlib._printing import set_printoptions
from tensorlib._promotion import set_default_dtype
from tensorlib._settings import (
    are_deterministic_algorithms_enabled,
    compile,
    get_deterministic_debug_mode,
    get_float32_matmul_precision,
    get_num_interop_threads,
    get_num_threads,
    is_deterministic_algorithms_warn_only_enabled,
    is_warn_always_enabled,
    set_default_tensor_type,
    set_deterministic_debug_mode,
    set_float32_matmul_precision,
    set_flush_denormal,
    set_num_interop_threads,
    set_num_threads,
    set_warn_always,
    typename,
    use_deterministic_algorithms,
)
from tensorlib._size import Size
from tensorlib._storage import UntypedStorage
from tensorlib._tensor import (
    can_cast,
    get_default_device,
    get_default_dtype,
    is_tensor,
    promote_types,
    result_type,
    set_default_device,
)
from tensorlib._version import __version__
from tensorlib.autograd.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from tensorlib.op import declared as _declared
from tensorlib.op import names_in as _names_in
from tensorlib.random import Generator, default_generator, get_rng_state, initial_seed, manual_seed, seed, set_rng_state
from tensorlib.runtime import autotune

# NumPy warns of log(0), 0/0 and overflow; a tensor library gives inf and NaN, as PyTorch does. An errstate around each
# operator would cost more than many of them.
_warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"tensorlib\b")

inf, nan, pi, e, newaxis = float("inf"), float("nan"), 3.141592653589793, 2.718281828459045, None

for _d in _dtypes.ALL:
    globals()[_d.name] = _d
globals().update(_dtypes.ALIASES)
for _made in _declared():
    for _name in _names_in(_made, "function"):
        globals()[_name] = _made.public
        if _made.inplace:
            globals()[f"{_name}_"] = getattr(Tensor, f"{_name}_")

if _collecting:
    if not _gc.get_freeze_count():  # to the oldest generation at once, or the next allocation walks through all of them
        _gc.freeze()
        _gc.unfreeze()
    _gc.enable()


_SUBMODULES = (
    "_C", "_dynamo", "_utils", "accelerator", "amp", "array_api", "backends", "compiler", "cpu", "distributed",
    "distributions", "fft", "func", "futures", "fx", "hub", "io", "jit", "library", "linalg", "mps", "multiprocessing",
    "nn", "onnx", "ops", "optim", "overrides", "profiler", "serialization", "signal", "special", "testing", "triton",
    "utils", "version", "xpu",
)  # fmt: skip
#: Functions and classes of this namespace that live in a submodule.
_LATE: dict[str, tuple[str, ...]] = {
    "io": ("load", "save"),
    "io.records": ("PyTorchFileReader",),
    "func": ("vmap",),
    "futures": ("Future",),
    "jit": ("_assert", "ScriptModule"),
    "triton": ("launch",),
    "amp": ("autocast", "GradScaler"),
    # Names of the array API standard that PyTorch does not have: nothing of PyTorch's is shadowed.
    "array_api": ("__array_api_version__", "__array_namespace_info__", "astype", "broadcast_arrays", "cumulative_prod",
                  "cumulative_sum", "isdtype", "matrix_transpose", "repeat", "take_along_axis", "unique_all",
                  "unique_counts", "unique_inverse", "unique_values", "unstack", "vecdot"),
    "accelerator": ("AcceleratorError", "Event", "OutOfMemoryError", "Stream"),
    "_legacy": ("BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "HalfTensor",
                "IntTensor", "LongTensor", "ShortTensor"),
    "amp.autocast_mode": ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype", "clear_autocast_cache",
                          "get_autocast_cpu_dtype", "get_autocast_gpu_dtype", "is_autocast_cpu_enabled",
                          "is_autocast_cache_enabled", "set_autocast_cache_enabled"),
}  # fmt: skip
_HOME = {name: module for module, names in _LATE.items() for name in names}


def __getattr__(name: str) -> _Any:
    """Submodules load when they are first named, so that ``import tensorlib`` stays quick."""
    if name in _SUBMODULES:
        return _importlib.import_module(f"tensorlib.{name}")
    if name in _HOME:
        value = globals()[name] = getattr(_importlib.import_module(f"tensorlib.{_HOME[name]}"), name)
        return value
    if name == "torch":  # PyTorch imports itself into itself, and programs have come to write torch.torch
        return _sys.modules[__name__]
    if name.startswith("_foreach_"):
        return getattr(_importlib.import_module("tensorlib._foreach"), name)
    raise AttributeError(f"module 'tensorlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_HOME})
