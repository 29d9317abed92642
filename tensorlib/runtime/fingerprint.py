"""A kernel as text: its source, every function it reaches, and the values of the globals that they use.

Two kernels of one fingerprint compile to the same code. It is made without triton, from the lines of the source file
and from the bytecode, which says what names a function loads; so that a program whose kernels are all in the cache on
disk needs no compiler. What has no text that would be the same in another process raises `Unknown`.
"""

from __future__ import annotations

import dis
import linecache
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib import _dtypes


def sha256(data: Any = b"") -> Any:
    """``hashlib.sha256``, which brings OpenSSL with it: not before something is hashed."""
    import hashlib

    return hashlib.sha256(data)


class Unknown(Exception):
    """A value that cannot be told to another process."""


_LOADS = {dis.opmap[name]: shift for name, shift in (("LOAD_GLOBAL", 1), ("LOAD_NAME", 0))}


def names_loaded(code: types.CodeType) -> list[str]:
    """The names of globals that a code object and those nested in it load, in the order of their first use.

    `dis` says the same, ten times slower.
    """
    found: dict[str, None] = {}
    blocks = [code]
    for block in blocks:
        blocks.extend(c for c in block.co_consts if isinstance(c, types.CodeType))
        steps, names, high = block.co_code, block.co_names, 0
        for step, argument in zip(steps[0::2], steps[1::2], strict=True):
            shift = _LOADS.get(step)
            if shift is not None:
                found[names[(high | argument) >> shift]] = None
            high = (high | argument) << 8 if step == dis.EXTENDED_ARG else 0
    return list(found)


def source(fn: Callable[..., Any]) -> str:
    """The lines of a function's definition, with its decorators, and what follows them at a deeper indentation."""
    code = fn.__code__
    lines = linecache.getlines(code.co_filename, fn.__globals__)
    first = code.co_firstlineno - 1
    if not first < len(lines):
        raise Unknown(f"{fn.__qualname__} has no source")
    end, blocks = first + 1, [code]
    for block in blocks:
        blocks.extend(c for c in block.co_consts if isinstance(c, types.CodeType))
        end = max(end, max((last or 0 for _, last, _, _ in block.co_positions()), default=0))
    indentation = _indentation(lines[first])
    while end < len(lines) and (not lines[end].strip() or _indentation(lines[end]) > indentation):
        end += 1
    return "".join(lines[first:end]).rstrip()


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


class Reached:
    """The functions that a value reaches, numbered in the order they are met."""

    def __init__(self) -> None:
        self.functions: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, function: Any) -> int:
        """The number of a function; a new one is put at the end of the list."""
        found = self._numbers.get(id(function))
        if found is None:
            found = self._numbers[id(function)] = len(self.functions)
            self.functions.append(function)
        return found

    def text(self, value: Any, attributes: tuple[str, ...] = ()) -> str:
        """A value as text. attributes: the names that may be looked up in it, if it is a module."""
        kind = type(value)
        if value is None or kind in (bool, int, float, str, bytes):
            return repr(value) if kind is not float else f"float {value!r}"
        if isinstance(value, tuple):
            return f"{kind.__qualname__}({', '.join([self.text(v) for v in value])})"
        if isinstance(value, (np.dtype, _dtypes.dtype)):
            return f"dtype {value}"
        if isinstance(value, np.generic):
            return f"{value.dtype} {value.item()!r}"
        if isinstance(value, type) and issubclass(value, np.generic):
            return f"dtype {np.dtype(value)}"
        if isinstance(value, types.BuiltinFunctionType):
            return f"builtin {value.__module__}.{value.__qualname__}"
        if isinstance(value, int):  # of an enumeration
            return f"{kind.__qualname__} {int(value)}"
        home = str(getattr(value, "__module__", None) or kind.__module__)
        if isinstance(value, types.ModuleType):
            return self._module(value, attributes)
        if kind.__name__ == "constexpr" and kind.__module__.startswith("triton."):
            return f"constexpr {self.text(value.value)}"
        if home.partition(".")[0] == "triton" or (home == "builtins" and isinstance(value, type)):
            return f"{home}.{getattr(value, '__qualname__', None) or getattr(value, '__name__', None) or value}"
        if isinstance(getattr(value, "fn", value), types.FunctionType):
            return self.function(value)
        raise Unknown(f"{value!r} of {home}.{kind.__qualname__}")

    def function(self, function: Any) -> str:
        """A function as text: here its number."""
        return f"function {self.number(function)}"

    def _module(self, module: types.ModuleType, attributes: tuple[str, ...]) -> str:
        name = module.__name__
        if name.partition(".")[0] in ("triton", "numpy"):
            return f"module {name}"
        used = [f"{a}: {self.text(vars(module)[a], attributes)}" for a in attributes if a in vars(module)]
        return f"module {name} {{{', '.join(used)}}}"


def of(value: Any) -> str:
    """A hash of a value and of all the functions it reaches. Unknown where that cannot be had."""
    reached = Reached()
    sha = sha256(reached.text(value).encode())
    for function in reached.functions:  # the list grows
        sha.update(b"\0")
        sha.update(_function(function, reached).encode())
    return sha.hexdigest()


def digest(text: str) -> str:
    """A hash of a text."""
    return sha256(text.encode()).hexdigest()


class Arguments(Reached):
    """Values as text, with each function by its own hash."""

    def function(self, function: Any) -> str:
        """The hash of a function."""
        return f"function {function.fingerprint if hasattr(function, 'fingerprint') else of(function)}"


def _function(function: Any, reached: Reached) -> str:
    """One function as text: its lines, where they begin, its bytecode, its defaults and the values of its names."""
    fn = getattr(function, "fn", function)
    code = fn.__code__
    known = hasattr(function, "names_at_first_use")  # a Jit keeps both, as its code is generated once
    names = function.names_at_first_use if known else names_used(fn)
    parts = [
        function.source if known else source(fn),
        str(code.co_firstlineno),
        code.co_code.hex(),
        reached.text(fn.__defaults__),
        reached.text(tuple((fn.__kwdefaults__ or {}).items())),
    ]
    parts += [f"{name} = {reached.text(names[name], code.co_names)}" for name in sorted(names)]
    return "\n".join(parts)


def names_used(fn: Callable[..., Any]) -> dict[str, Any]:
    """The globals and closure variables that a function's body loads, and their values.

    Left out are `tl` and `libdevice` where a file gives the name to something else: in a kernel they are Triton's.
    """
    found: dict[str, Any] = {}
    for name in names_loaded(fn.__code__):
        if name in fn.__globals__:
            value = fn.__globals__[name]
            if name not in ("tl", "libdevice") or _name(value).partition(".")[0] == "triton":
                found[name] = value
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # a cell that is still empty
            continue
    return found


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", ""))
