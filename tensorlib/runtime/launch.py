"""The only door to a launch: the arguments say which device, and the device says what runs the kernel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from tensorlib._device import device as Device
from tensorlib.errors import DeviceError, KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.engine import engine_of


class Launch(NamedTuple):
    """What an observer is told of a launch, before it runs."""

    kernel: Jit
    grid: tuple[int, ...]
    device: Device
    args: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int

    @property
    def reached(self) -> frozenset[Jit]:
        """The kernel and every device function it uses, by name or as a constant."""
        used = {self.kernel, *self.kernel.dependencies}
        for value in self.constants.values():
            for function in _functions(value):
                used |= {function, *function.dependencies}
        return frozenset(used)


#: Called with each Launch: for tests and tools.
observers: list[Callable[[Launch], None]] = []


#: The operator whose host function is running, set by the dispatcher: an error of the GPU names it.
operator: list[str] = [""]


class Coverage:
    """Collects what launches reach, within a ``with`` block: functions, and each kernel with its constants."""

    def __init__(self) -> None:
        self.reached: set[Jit] = set()
        self.variants: set[tuple[Jit, Any]] = set()

    def _note(self, record: Launch) -> None:
        self.reached |= record.reached
        self.variants.add((record.kernel, compiler.constants_key(record.constants)))

    def __enter__(self) -> Coverage:
        observers.append(self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        observers.remove(self._note)


def cdiv(a: int, b: int) -> int:
    """ceil(a / b) for integers, b > 0."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n; 1 for n <= 1."""
    return 1 << max(n - 1, 0).bit_length()


def launch(
    kernel: Any,
    grid: int | tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    options: dict[str, Any] | None = None,
    **constants: Any,
) -> None:
    """Run kernel on grid programs: args are its parameters that are not constexpr, in order; constants the constexprs.

    An argument is an array on a device, int, float, bool, NumPy scalar, None, or a tuple of those; a Python float is
    float32, ``np.float64(x)`` is float64. A constant is a number, string, dtype, None, @jit function or a tuple of
    those. The device is the first array's. options go to Triton's compiler (``maxnreg``, ``waves_per_eu``, ...).

    An empty grid runs nothing. DeviceError names both devices when the arrays are on two.
    """
    if type(kernel) is not Jit:
        kernel = compiler.as_jit(kernel)
    if type(grid) is int:
        grid = (grid,)
    if not observers and options is None:
        quick = kernel.quick.get((*map(type, args), *constants, *map(type, constants.values())))
        if quick is not None:
            run = quick(args, constants, num_warps, num_stages)
            if run is not None:
                try:
                    return run(grid, args)
                except struct.error:  # a grid that is none: checked below, as at a first launch
                    pass
    grid = (grid,) if isinstance(grid, int) else tuple(grid)
    _bind(kernel, args, constants)
    device = _device(kernel, args)
    if not 1 <= len(grid) <= 3 or min(grid) < 0:
        raise KernelError(f"{kernel.__name__}: a grid has one to three sizes, none negative, got {grid}")
    if 0 in grid:
        return
    if observers:
        record = Launch(kernel, grid, device, args, constants, num_warps, num_stages)
        for observer in observers:
            observer(record)
    engine_of(device).launch(kernel, grid, args, constants, num_warps, num_stages, options)


def _bind(kernel: Jit, args: tuple[Any, ...], constants: dict[str, Any]) -> None:
    """Fill in defaults of constants; KernelError where arguments or constants do not fit the kernel's parameters."""
    if len(args) != len(kernel.arguments):
        raise KernelError(
            f"{kernel.__name__}: got {len(args)} arguments, expected {len(kernel.arguments)}: "
            f"{', '.join(kernel.arguments)}; constexprs go by keyword"
        )
    unknown = constants.keys() - kernel.constants
    if unknown:
        raise KernelError(
            f"{kernel.__name__}: {', '.join(sorted(unknown))} is not a constexpr of this kernel; "
            f"its constexprs are {', '.join(sorted(kernel.constants)) or 'none'}"
        )
    for name, default in kernel.defaults.items():
        constants.setdefault(name, default)
    missing = kernel.constants - constants.keys()
    if missing:
        raise KernelError(f"{kernel.__name__}: the constexprs {', '.join(sorted(missing))} are missing")


def _device(kernel: Jit, args: tuple[Any, ...]) -> Device:
    found: Device | None = None
    for array in _arrays(args):
        if found is None:
            found = array.device
        elif array.device is not found:
            raise DeviceError(
                f"{kernel.__name__}: expected all arrays on one device, got {str(found)!r} and {str(array.device)!r}"
            )
    if found is None:
        raise KernelError(f"{kernel.__name__}: none of its arguments is an array on a device")
    return found


def _arrays(values: Any) -> Any:
    for value in values:
        if isinstance(value, tuple):
            yield from _arrays(value)
        elif hasattr(value, "data_ptr"):
            yield value


def _functions(value: Any) -> Any:
    if isinstance(value, tuple):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, Jit) or (hasattr(value, "cache_key") and hasattr(value, "fn")):
        yield compiler.as_jit(value)
