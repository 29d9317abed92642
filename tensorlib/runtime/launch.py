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


#: What the quick way raises for a grid that is none, or empty, before anything runs.
_NO_GRID = (struct.error, OverflowError, TypeError)


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
            except _NO_GRID:  # nothing ran: checked below, as at a first launch
                pass
    _launch(kernel, grid, args, constants, num_warps, num_stages, options)


def _launch(
    kernel: Jit,
    grid: Any,
    args: tuple[Any, ...],
    constants: dict[str, Any],
    num_warps: int,
    num_stages: int,
    options: dict[str, Any] | None,
) -> None:
    """`launch` with everything checked."""
    _bind(kernel, args, constants)
    device = _device(kernel, args)
    grid = _grid(kernel, grid, device)
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
    "extern_libs",
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
    if type(grid) is int:
        grid = (grid,)
    options: dict[str, Any] | None = None
    if order.options:
        options = {name: kwargs[name] for name in order.options if kwargs[name] is not None}
        warps, stages = options.pop("num_warps", 4), options.pop("num_stages", 2)
        if "extern_libs" in options:  # {name: path}: what Triton keeps it as has a hash
            options["extern_libs"] = tuple(sorted(dict(options["extern_libs"]).items()))
        options = options or None
    else:
        warps, stages = 4, 2
    arguments = tuple([values[name] for name in order.arguments])
    if any(type(v) is np.ndarray for v in arguments):
        raise _not_on_a_device(kernel, {n: args[at] if type(at) is int else kwargs[at] for n, at in order.given})
    constants = {name: values[name] for name in order.constants}
    if not observers and options is None:
        quick = kernel.quick.get((*map(type, arguments), *constants, *map(type, constants.values())))
        run = None if quick is None else quick(arguments, constants, warps, stages)
        if run is not None:
            try:
                return run(grid, arguments)
            except _NO_GRID:
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
    for name, value in constants.items():
        _check_constant(kernel, name, value)
    for name, value in zip(kernel.arguments, args, strict=True):
        _check_argument(kernel, name, value)


def _check_constant(kernel: Jit, name: str, value: Any) -> None:
    """KernelError for a constexpr that code cannot be compiled for."""
    if isinstance(value, tuple):
        for item in value:
            _check_constant(kernel, name, item)
    elif isinstance(value, np.ndarray) or hasattr(value, "_array") or hasattr(value, "data_ptr"):
        raise KernelError(f"{kernel.__name__}: {name} is a constexpr, got a tensor: expected a number: {name}.item()")
    elif type(value).__hash__ is None:
        raise KernelError(
            f"{kernel.__name__}: {name} is a constexpr, got a {type(value).__name__}: expected a number, string, "
            f"dtype, None, @jit function or a tuple of those"
        )


def _check_argument(kernel: Jit, name: str, value: Any) -> None:
    """KernelError for what no kernel takes at run time."""
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise KernelError(f"{kernel.__name__}: {name} does not fit 64 bits, got {value}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_argument(kernel, f"{name}[{i}]", item)
    elif isinstance(value, np.ndarray):
        raise KernelError(
            f"{kernel.__name__}: {name} is in NumPy's memory: expected an array on a device: a tensor's, after "
            f".to('native')"
        )
    elif not (
        value is None
        or hasattr(value, "data_ptr")
        or isinstance(value, (int, float, TensorDescriptor))
        or (isinstance(value, np.generic) and value.dtype in compiler.TYPES)
    ):
        kind = type(value).__name__ if not isinstance(value, np.generic) else f"number of {value.dtype}"
        raise KernelError(
            f"{kernel.__name__}: {name} is a {kind}: a kernel argument is a tensor, TensorDescriptor, int, float, "
            f"bool, NumPy scalar, None or a tuple of those; anything else goes to a parameter annotated tl.constexpr"
        )


def _grid(kernel: Jit, grid: Any, device: Device) -> tuple[int, ...]:
    """The sizes of a grid. KernelError for what is none."""
    given = grid
    try:
        if hasattr(grid, "__index__") and not getattr(grid, "shape", ()):
            grid = (grid,)
        else:
            given = grid = grid if isinstance(grid, str) else tuple(grid)
        sizes = tuple([n.__index__() for n in grid])  # not operator.index, which a marked number does not notice
    except (AttributeError, TypeError):
        sizes = ()
    gpu = device.compile_only or device.type in ("cuda", "hip")
    right = 1 <= len(sizes) <= 3 and min(sizes) >= 0 and max(sizes) <= _MOST_X
    if not right or (gpu and max(sizes[1:], default=0) > _MOST_YZ):
        fractions = isinstance(given, float) or (type(given) is tuple and any(isinstance(n, float) for n in given))
        raise KernelError(
            f"{kernel.__name__}: a grid has one to three whole sizes of 0 .. {_MOST_X} (y and z {_MOST_YZ} on a GPU), "
            f"got {given!r}{': use triton.cdiv' if fractions else ''}"
        )
    return sizes


_MOST_X, _MOST_YZ = 2**31 - 1, 2**16 - 1  # CUDA's limits of a grid, and what int32 holds: tl.program_id is one


def _device(kernel: Jit, args: tuple[Any, ...]) -> Device:
    found: Device | None = None
    first = ""
    for name, array in _arrays(kernel.arguments, args):
        if found is None:
            first, found = name, array.device
        elif array.device is not found:
            raise DeviceError(
                f"{kernel.__name__}: expected all arrays on one device, got {first} on {str(found)!r} and {name} on "
                f"{str(array.device)!r}: {name}.to({str(found)!r})"
            )
    if found is None:
        raise KernelError(f"{kernel.__name__}: none of its arguments is an array on a device")
    return found


def _arrays(names: Any, values: Any) -> Any:
    """(name of the parameter, array) of each array, those of tuples and descriptors too."""
    for name, value in zip(names, values, strict=True):
        if isinstance(value, tuple):
            yield from _arrays([f"{name}[{i}]" for i in range(len(value))], value)
        elif hasattr(value, "data_ptr"):
            yield name, value
        elif type(value) is TensorDescriptor:
            yield name, value.base


def _not_on_a_device(kernel: Jit, given: dict[str, Any]) -> DeviceError:
    """The error for a call by name, some of whose arrays are in NumPy's memory: given as they came, by parameter."""
    values = {name: given[name] for name in kernel.arguments if name in given}
    there = next(_arrays(values, map(_plain, values.values())), None)
    place = str(there[1].device) if there else "native"
    beside = f", {there[0]} on {place}" if there else ""
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            return DeviceError(
                f"{kernel.__name__}: {name} is a numpy.ndarray{beside}: tensorlib.from_numpy({name}).to({place!r})"
            )
        if isinstance(_plain(value), np.ndarray) and there:
            if not value.shape:
                return DeviceError(
                    f"{kernel.__name__}: {name} is a tensor on the CPU{beside}: {name}.item() for its number, "
                    f"{name}.to({place!r}) for a pointer to it"
                )
            return DeviceError(f"{kernel.__name__}: {name} is on the CPU{beside}: {name}.to({place!r})")
    return DeviceError(
        f"{kernel.__name__}: its tensors are on the CPU, where operators run in NumPy: move them to a GPU, or to "
        f"'native', which runs kernels on the processor"
    )


def _functions(value: Any) -> Any:
    if isinstance(value, tuple):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, Jit) or (hasattr(value, "cache_key") and hasattr(value, "fn")):
        yield compiler.as_jit(value)
