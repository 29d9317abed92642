"""Launches that ran before: a dictionary lookup finds what was loaded for such arguments.

Python's own work is what a small launch costs, so the code that looks is written for it: `quick` is generated for a
kernel and the types of its arguments, and finds what a device loaded for their alignment, width and constants. What it
finds is `run(grid, args)`, which is generated for one loaded kernel: `gpu_launch`, `native.engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from tensorlib.runtime import compiler, descriptors, versions
from tensorlib.runtime.compiler import Jit, Key
from tensorlib.runtime.descriptors import TensorDescriptor
from tensorlib.runtime.recording import Marked


class Loaded(Protocol):
    """A kernel loaded for one specialisation."""

    run: Callable[[tuple[int, ...], tuple[Any, ...]], None]


#: Launches with other integers that a `quick` remembers; all are dropped when there would be more.
_MOST = 1 << 12


class Launchers:
    """The kernels loaded on one device, for the target that its engine names."""

    def __init__(self, engine: Any) -> None:
        self.target: str = engine.target
        self.loaded: dict[Any, Any] = {}
        self._tables: list[dict[Any, Any]] = []  # those that `quick` functions look in

    def load(
        self,
        kernel: Jit,
        keys: tuple[Key, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> Loaded:
        """Compile a kernel for keys and constants, and load it."""
        raise TypeError(f"{type(self).__name__} loads nothing")

    def _quicken(
        self, kernel: Jit, args: tuple[Any, ...], constants: dict[str, Any], num_warps: int, num_stages: int, found: Any
    ) -> None:
        """Let the next such launch find what was loaded."""
        signature = signature_of(args, constants)
        quick = kernel.quick.get(signature)
        ranges = self.target[0] == "g"
        if quick is None or ranges > quick.ranges:
            quick = kernel.quick[signature] = _quick(kernel, args, constants, ranges)
        if all(table is not quick.table for table in self._tables):
            self._tables += (quick.table, quick.classes)
        key = quick.class_of(args, constants, num_warps, num_stages)
        if key is not None:
            quick.classes[key] = found.run
            kernel.latest = quick

    def launching(self, found: Any, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Called before a launch that goes the slow way, with its arguments as they came."""

    def forget(self) -> None:
        """Drop everything loaded: the next launch starts anew."""
        self.loaded.clear()
        for table in self._tables:
            table.clear()

    def run(
        self,
        kernel: Jit,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
        num_warps: int,
        num_stages: int,
        options: dict[str, Any] | None,
    ) -> None:
        """The slow way: find or load the kernel, launch it, and prepare the quick way for the next such launch."""
        given, args = args, tuple([plain(a) for a in args])
        keys = compiler.specialise_all(kernel, args, self.target)
        request = (
            kernel, keys, compiler.constants_key(constants), num_warps, num_stages,
            compiler.constants_key(options or {}),
        )  # fmt: skip
        found = self.loaded.get(request)
        if found is None:
            found = self.load(kernel, keys, constants, num_warps, num_stages, options)
            found = self.loaded.setdefault(request, found)
        if options is None:
            self._quicken(kernel, args, constants, num_warps, num_stages, found)
        self.launching(found, grid, given)
        found.run(grid, args)


def plain(value: Any) -> Any:
    """An argument as the generated code takes it: a subclass of int, as an IntEnum, is an int; nothing is marked."""
    if isinstance(value, Marked):
        return value.plain
    if type(value) is tuple:
        return tuple([plain(v) for v in value])
    if isinstance(value, int) and not isinstance(value, (bool, np.generic)):
        return int(value)
    return value


# -- finding what was loaded -------------------------------------------------------------------------------------------


def _tuple_key(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A key for the values of a tuple argument, as `_key_code` makes one for an argument by itself."""
    out: list[Any] = []
    for v in values:
        kind = type(v)
        if kind is int:
            out.append(_int_key(v))
        elif kind is tuple:
            out.append(_tuple_key(v))
        elif hasattr(v, "ptr"):
            out.append((v.dtype, v.ptr & 15 == 0, _in_range32(v)))
        else:
            out.append(compiler.specialise(v))
    return tuple(out)


def _int_key(v: int) -> int:
    return 0 if v == 1 else (1 if v & 15 else 2) if -(2**31) <= v < 2**31 else (3 if v & 15 else 4) + (v >= 1 << 63) * 2


def _in_range32(array: Any) -> bool:
    """What `compiler.specialise` asks for AMD, a little faster: most arrays lie in a block of less than 2 GiB."""
    owner = array.owner
    if owner is not None and owner.nbytes < 1 << 31 and min(array.strides, default=0) >= 0:
        return True
    return compiler.in_range32(array)


def signature_of(args: tuple[Any, ...], constants: dict[str, Any]) -> tuple[Any, ...]:
    """The types of arguments and constants: each has a `quick` of its own."""
    return (*map(type, args), *constants, *map(type, constants.values()))


def _quick(kernel: Jit, args: tuple[Any, ...], constants: dict[str, Any], ranges: bool) -> Any:
    """`quick(args, constants, num_warps, num_stages)`: the `run` of what was loaded for these, or None.

    None as well for arguments or constants of other types, or constants of other names. It first looks for the very
    integers, which are the same ones again and again, and only then for their classes, which take longer to work out.
    ``ranges``: for AMD's GPUs, whose kernels also differ by whether 32 bits reach all of an array.
    """
    names = [f"a{i}" for i in range(len(args))]
    scope: dict[str, Any] = {}
    arrays, aligned, exact, classed, checks = [], [], [], [], [f"len(constants) != {len(constants)}"]
    for name, parameter, value in zip(names, kernel.arguments, args, strict=True):
        plain = parameter in kernel.do_not_specialize
        kind = type(value)
        if hasattr(value, "ptr"):  # what is none will have no `ptr`
            arrays.append(name)
            exact.append(f"{name}.dtype")
            classed.append(f"{name}.dtype")
            if not plain:
                aligned.append(name)
            continue
        scope[f"t{name}"] = kind
        checks.append(f"{name}.__class__ is not t{name}")
        if kind is int and plain:
            exact.append(f"(-0x80000000 <= {name} < 0x80000000 or {name} >> 63 == 1)")
            classed.append(exact[-1])
        elif kind is int:
            exact.append(name)
            classed.append(f"int_key({name})")
        elif kind is TensorDescriptor:
            arrays.append(f"{name}.base")
            exact.append(f"{name}.key")
            classed.append(exact[-1])
        elif kind is tuple:
            exact.append(f"tuple_key({name})")
            classed.append(exact[-1])
        elif isinstance(value, np.integer) and not plain:
            exact.append(f"int({name}) & 15 == 0")
            classed.append(exact[-1])
    first = arrays[0] if arrays else None
    taken = [f"{', '.join(names)}, = args"] if names else []
    taken.append(f"device = {first}.device" if first else "device = device_of(args)")
    if len(arrays) > 1:
        others = " or ".join(f"{a}.device is not device" for a in arrays[1:])
        taken.append(f"if {others}: return None")
    parts = ["device", "num_warps", "num_stages"]
    if aligned:
        pointers = " | ".join(f"{a}.ptr" for a in aligned)
        parts.append(f"({pointers}) & 15 and ({''.join(f'{a}.ptr & 15 == 0, ' for a in aligned)})")
    rest = [f"in_range32({a})" for a in arrays] if ranges else []
    for i, (name, value) in enumerate(constants.items()):
        taken.append(f"v{i} = constants[{name!r}]")
        scope[f"tv{i}"] = type(value)
        checks.append(f"v{i}.__class__ is not tv{i}")
        rest.append(f"constant_key(v{i})" if isinstance(value, (float, tuple)) else f"v{i}")
    lines = [
        "def quick(args, constants, num_warps, num_stages):",
        "    try:",
        *("        " + line for line in taken),
        f"        if {' or '.join(checks)}: return None",
        f"        key = ({', '.join([*parts, *exact, *rest])})",
        "    except MISMATCH: return None",
        "    run = get(key)",
        "    if run is None:",
        "        run = classes.get(class_of(args, constants, num_warps, num_stages))",
        "        if run is not None:",
        "            if len(table) >= MOST: table.clear()",
        "            table[key] = run",
        "    return run",
        "def class_of(args, constants, num_warps, num_stages):",
        *("    " + line for line in taken),
        f"    return ({', '.join([*parts, *classed, *rest])})",
    ]
    table: dict[Any, Any] = {}
    classes: dict[Any, Any] = {}
    scope |= {
        "get": table.get, "table": table, "classes": classes, "int_key": _int_key, "tuple_key": _tuple_key,
        "in_range32": _in_range32, "constant_key": compiler.constant_key, "device_of": _device_of, "MOST": _MOST,
        "MISMATCH": (AttributeError, KeyError, TypeError, ValueError),
    }  # fmt: skip
    exec(compiler.compile_source("\n".join(lines), f"<quick {kernel.__name__}>"), scope)
    quick = scope["quick"]
    quick.table, quick.classes, quick.class_of, quick.ranges = table, classes, scope["class_of"], ranges
    return quick


def _device_of(values: Any) -> Any:
    """The device of the first array within tuples."""
    for v in values:
        if type(v) is tuple:
            found = _device_of(v)
            if found is not None:
                return found
        elif hasattr(v, "ptr"):
            return v.device
    return None


# -- the values of a launch --------------------------------------------------------------------------------------------


def values(
    key: Key, expression: str, mapped: bool = False, numbers: Iterator[int] | None = None
) -> Iterator[tuple[str, str]]:
    """(Triton type, expression) of the run-time values of an argument, tuples flattened.

    mapped: descriptors are tensor maps, ``tensor_map(argument, number)`` with numbers from the iterator.
    """
    if isinstance(key, tuple):
        for i, k in enumerate(key):
            yield from values(k, f"{expression}[{i}]", mapped, numbers)
    elif descriptors.is_key(key):
        number = next(numbers) if numbers is not None else 0
        yield from descriptors.expressions(key, expression, mapped, versions.descriptor_flags(), number)
    elif key[0] != "=":
        name = key.partition(" ")[0]
        if name[0] == "*":
            yield name, f"{expression}.ptr"
        else:
            yield name, f"{expression}.view(uint16).item()" if name == "bf16" else expression


def array_names(key: Key, expression: str) -> Iterator[str]:
    """The expressions of the arrays of an argument, those within tuples too."""
    if isinstance(key, tuple):
        for i, k in enumerate(key):
            yield from array_names(k, f"{expression}[{i}]")
    elif key[0] == "*":
        yield expression
    elif descriptors.is_key(key):
        yield f"{expression}.base"
