"""The switches of PyTorch's backends: what programs set at their start. They say here what is so.

A value may be set and read back. ``cuda.matmul.allow_tf32 = True`` lets a GPU round the operands of float32 products to
tf32; none of the others changes a result: attention has one implementation a device. ``native.enabled = False`` leaves
the CPU's operators to NumPy, ``native.guard = True`` checks every access of kernels on device "native".
``cudnn.benchmark = True`` times configurations of kernels as they are first used on a GPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np

from tensorlib import _blas, _native
from tensorlib._settings import ATTENTION as _attention
from tensorlib.amp.autocast_mode import gpu_is_available
from tensorlib.errors import DeviceError
from tensorlib.runtime import autotune, engine, precision
from tensorlib.runtime.native import settings


class _Switches:
    """Settings of one backend; an unknown one is an AttributeError, so that a misspelling is seen."""

    def __init__(self, available: bool | Callable[[], bool], **values: object) -> None:
        self.__dict__.update(values, _available=available if callable(available) else lambda: available)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__dict__:
            known = ", ".join(n for n in self.__dict__ if not n.startswith("_"))
            raise AttributeError(f"this backend has no setting {name!r}; it has {known}")
        follow = self.__dict__.get("_follow", {}).get(name)
        if follow is not None:
            follow(value)  # which may refuse it
        self.__dict__[name] = value

    def is_available(self) -> bool:
        """Whether the backend can be used."""
        return bool(self._available())  # type: ignore[attr-defined]

    def is_built(self) -> bool:
        """Whether the backend is part of this installation."""
        return bool(self._available())  # type: ignore[attr-defined]

    def version(self) -> None:
        """None: the backend is not part of this library."""

    @contextlib.contextmanager
    def flags(self, **values: object) -> Iterator[None]:
        """Settings for the block."""
        before = {name: getattr(self, name) for name in values if name in self.__dict__}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)


class _Matmul(_Switches):
    """Of matrix products: two switches are one state, which ``set_float32_matmul_precision`` changes too."""

    @property
    def fp32_precision(self) -> str:
        """What float32 operands are multiplied as: "ieee" or "none", "tf32", or "tf32x3", which PyTorch lacks.

        "tf32x3" takes three products on tensor cores for each, and is nearly as accurate as float32.
        """
        return precision.said[0]

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 operands are rounded to tf32 on matrix units, as "high" and "medium" ask for."""
        return precision.float32[0] == "tf32"


def _fp32_precision(value: object) -> None:
    if not isinstance(value, str) or value not in precision.WORDS:
        raise RuntimeError(
            f"backends.cuda.matmul.fp32_precision: Unknown precision: {value!r}: expected one of "
            f"{', '.join(precision.WORDS)}"
        )
    precision.choose(value)


def _sdp(name: str) -> dict[str, object]:
    return {
        f"{name}_sdp_enabled": lambda: bool(_attention[name]),
        f"enable_{name}_sdp": lambda enabled: _attention.update({name: bool(enabled)}),
    }


@contextlib.contextmanager
def _sdp_kernel(
    enable_flash: bool = True, enable_math: bool = True, enable_mem_efficient: bool = True, enable_cudnn: bool = True
) -> Iterator[None]:
    """``nn.attention.sdpa_kernel`` under its older name, with a switch for each implementation."""
    before = dict(_attention)
    _attention.update(flash=enable_flash, math=enable_math, mem_efficient=enable_mem_efficient, cudnn=enable_cudnn)
    try:
        yield
    finally:
        _attention.update(before)


def _boolean(name: str, value: object) -> bool:
    """A switch's value: a bool, or 0 or 1. TypeError for another: "off" would be true."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"backends.native.{name}: got {value!r}: expected True or False")


def _enable(value: object) -> None:
    on = _boolean("enabled", value)
    if on and not _native.available():
        raise DeviceError(f"backends.native.enabled: needs {engine.codegen().requirement()}")
    _native.enable(on)


cudnn = _Switches(
    False, enabled=False, benchmark=False, benchmark_limit=10, deterministic=False, allow_tf32=False,
    _follow={"benchmark": lambda on: autotune.benchmark(bool(on))},
)  # fmt: skip
cuda = _Switches(
    gpu_is_available,
    matmul=_Matmul(
        gpu_is_available, allow_tf32=False, fp32_precision="none", allow_fp16_reduced_precision_reduction=False,
        allow_bf16_reduced_precision_reduction=False,
        _follow={
            "allow_tf32": lambda on: precision.choose("tf32" if on else "ieee"), "fp32_precision": _fp32_precision,
        },
    ),
    sdp_kernel=_sdp_kernel,
    **{key: value for name in _attention for key, value in _sdp(name).items()},
)  # fmt: skip
mps = _Switches(False)
mkl = _Switches(False)
mkldnn = _Switches(False, enabled=False, deterministic=False)
openmp = _Switches(False)
#: Operators of the CPU as machine code, where that was measured to be faster than NumPy: see ``tensorlib._native``.
#: ``guard``: every access of a kernel on device "native" is checked, and one out of bounds is a KernelError.
native = _Switches(
    _native.available, enabled=_native.asked() and _native.available(), guard=settings.guarded(),
    _follow={"enabled": _enable, "guard": lambda on: settings.guard(_boolean("guard", on))},
)  # fmt: skip
opt_einsum = _Switches(True, enabled=True, strategy="auto")
cpu = SimpleNamespace(get_cpu_capability=lambda: getattr(_blas.openblas(), "core", "default"))

# ``import tensorlib.backends.cudnn as cudnn``: the switches are reached as modules too, as PyTorch's are
for _name, _switches in list(globals().items()):
    if isinstance(_switches, _Switches):
        sys.modules[f"{__name__}.{_name}"] = _switches  # type: ignore[assignment]
