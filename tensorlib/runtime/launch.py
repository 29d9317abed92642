"""The only door to a launch: the arguments say which device, and the device says what runs the kernel."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorlib._device import device as Device
from tensorlib.errors import DeviceError, KernelError
from tensorlib.runtime import compiler
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.descriptors import TensorDescriptor
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

    An argument is an array on a device, TensorDescriptor, int, float, bool, NumPy scalar, None, or a tuple of those; a
    Python float is float32, ``np.float64(x)`` is float64. A constant is a number, string, dtype, None, @jit function or
    a tuple of those. The device is the first array's. options go to Triton's compiler (``maxnreg``, ``waves_per_eu``).

    An empty grid runs nothing. DeviceError names both devices when the arrays are on two.
    """
    if type(kernel) is not Jit:
        kernel = compiler.as_jit(kernel)
    if type(grid) is int:
        grid = (grid,)
    if not observers and options is None:
        run = kernel.latest(args, constants, num_warps, num_stages)
        if run is None:
            quick = kernel.quick.get((*map(type, args), *constants, *map(type, constants.values())))
            if quick is not None and (run := quick(args, constants, num_warps, num_stages)) is not None:
                kernel.latest = quick
        if run is not None:
            try:
                return run(grid, args)
            except (struct.error, OverflowError):  # a grid that is none: checked below, as at a first launch
                pass
    _launch(kernel, grid, args, constants, num_warps, num_stages, options)


def _launch(
    kernel: Jit,
    grid: int | tuple[int, ...],
    args: tuple[Any, ...],
    constants: dict[str, Any],
    num_warps: int,
    num_stages: int,
    options: dict[str, Any] | None,
) -> None:
    """`launch` with everything checked."""
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


#: What ``kernel[grid](...)`` may be given by name beside the kernel's own parameters: the compiler's options.
_OPTIONS = frozenset((
    "num_warps", "num_stages", "num_ctas", "maxnreg", "waves_per_eu", "matrix_instr_nonkdim", "kpack",
    "enable_fp_fusion", "allow_flush_denorm", "launch_cooperative_grid", "launch_pdl", "instrumentation_mode",
))  # fmt: skip


def launch_by_name(kernel: Jit, grid: Any, *args: Any, **kwargs: Any) -> None:
    """``kernel[grid](*args, **kwargs)``: every parameter by position or by name, tensors as they are.

    grid: an int, up to three of them, or a function of a dictionary of all parameters that gives them. KernelError for
    what the kernel has no parameter for, and for what is missing.
    """
    form = (len(args), *kwargs)
    order = _forms.get((kernel, form))
    if order is None:
        order = _forms[kernel, form] = _order(kernel, len(args), kwargs)
    values = {name: _plain(args[at] if type(at) is int else kwargs[at]) for name, at in order.given}
    values.update(order.defaults)
    if callable(grid):
        grid = grid(values)
    grid = grid if type(grid) is tuple else (grid,) if isinstance(grid, int) else tuple(grid)
    options: dict[str, Any] | None = None
    if order.options:
        options = {name: kwargs[name] for name in order.options if kwargs[name] is not None}
        warps, stages = options.pop("num_warps", 4), options.pop("num_stages", 2)
        options = options or None
    else:
        warps, stages = 4, 2
    arguments = tuple([values[name] for name in order.arguments])
    if any(type(v) is np.ndarray for v in arguments):
        raise DeviceError(
            f"{kernel.__name__}: its tensors are on the CPU, where operators run in NumPy: move them to a GPU, or to "
            f"'native', which runs kernels on the processor"
        )
    constants = {name: values[name] for name in order.constants}
    if not observers and options is None:
        quick = kernel.quick.get((*map(type, arguments), *constants, *map(type, constants.values())))
        run = None if quick is None else quick(arguments, constants, warps, stages)
        if run is not None:
            try:
                return run(grid, arguments)
            except (struct.error, OverflowError):
                pass
    _launch(kernel, grid, arguments, constants, warps, stages, options)


compiler.launchers[:] = [launch_by_name]


class _Order(NamedTuple):
    """Where the values of a call are: (parameter, its place in args or its name in kwargs), and what it leaves out."""

    given: list[tuple[str, Any]]
    defaults: dict[str, Any]
    options: list[str]
    arguments: tuple[str, ...]
    constants: list[str]


_forms: dict[tuple[Jit, tuple[Any, ...]], _Order] = {}


def _order(kernel: Jit, count: int, kwargs: dict[str, Any]) -> _Order:
    names = [p.name for p in kernel.parameters]
    if count > len(names):
        expected = f"at most {len(names)}: {', '.join(names)}"
        raise KernelError(f"{kernel.__name__}: got {count} arguments, expected {expected}")
    given: dict[str, Any] = {name: i for i, name in enumerate(names[:count])}
    options = []
    for name in kwargs:
        if name in given:
            raise KernelError(f"{kernel.__name__}: {name} is given by position and by name")
        if name in names:
            given[name] = name
        elif name in _OPTIONS:
            options.append(name)
        else:
            raise KernelError(
                f"{kernel.__name__}: has no parameter {name}: its parameters are {', '.join(names)}, and the "
                f"compiler's options {', '.join(sorted(_OPTIONS))}"
            )
    signature = inspect.signature(kernel.fn).parameters
    defaults = {n: signature[n].default for n in names if n not in given and signature[n].default is not inspect._empty}
    missing = [name for name in names if name not in given and name not in defaults]
    if missing:
        raise KernelError(f"{kernel.__name__}: {', '.join(missing)} missing: expected {', '.join(names)}")
    constants = [p.name for p in kernel.parameters if p.constexpr]
    return _Order(list(given.items()), defaults, options, kernel.arguments, constants)


def _plain(value: Any) -> Any:
    """An argument as `launch` takes it: a tensor's array, what a tl.constexpr holds, our kind of descriptor."""
    array = getattr(value, "_array", None)
    if array is not None:
        return array
    if type(value) is tuple:
        return tuple([_plain(v) for v in value])
    if type(value).__module__.startswith("triton."):
        if type(value).__name__ == "constexpr":
            return value.value
        if type(value).__name__ == "TensorDescriptor":
            return TensorDescriptor(
                value.base, value.shape, value.strides, value.block_shape, value.padding,
                getattr(value, "round_f32_to_tf32", False),
            )  # fmt: skip
    return value


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
        elif type(value) is TensorDescriptor:
            yield value.base


def _functions(value: Any) -> Any:
    if isinstance(value, tuple):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, Jit) or (hasattr(value, "cache_key") and hasattr(value, "fn")):
        yield compiler.as_jit(value)
