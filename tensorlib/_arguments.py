"""Wrong arguments: what a public function checks of them before it runs, and what it says of an error that they caused.

A public function of an operator, and of a composite, runs within one ``try`` (free until something is raised). What
comes out of it names the function that the user called and is of the type that PyTorch raises: a mistyped argument is
a TypeError that names it, whatever the body stumbled over; NumPy's refusals are an ArgumentError or a RangeError.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np

from tensorlib._core import Tensor
from tensorlib._device import device
from tensorlib._dtypes import OF_NUMPY, as_dtype
from tensorlib.errors import ArgumentError, DeviceError, OutOfMemoryError, RangeError, TensorlibError
from tensorlib.runtime.environment import EnvironmentVariableError

#: Kinds of arguments by the annotation of their parameter, None taken off it.
_KINDS = {
    "Array": "tensor", "Tensor": "tensor",
    "Arrays": "tensors", "Sequence[Tensor]": "tensors", "list[Tensor]": "tensors",
    "int": "int", "Dim": "int", "NewDim": "int", "float": "float", "bool": "bool", "str": "str",
    "Ints": "ints", "Sequence[int]": "ints", "Dims": "ints",
    "Scalar": "number", "float | Tensor": "tensor", "Tensor | float": "tensor",
}  # fmt: skip
_EXPECTED = {"tensor": "Tensor", "tensors": "tuple of Tensors", "int": "int", "float": "float", "bool": "bool",
             "str": "str", "ints": "tuple of ints", "number": "Number", "dtype": "dtype", "device": "device",
             "layout": "layout (tensorlib.strided)"}  # fmt: skip
#: The same by name, where the annotation says nothing.
_BY_NAME = {"dtype": "dtype", "device": "device", "layout": "layout", "keepdim": "bool", "dim": "ints",
            "alpha": "number", "beta": "number"}  # fmt: skip
#: How the generated code asks of the usual case that nothing is wrong.
_QUICK = {"int": "type({0}) is int", "float": "type({0}) is float or type({0}) is int", "bool": "type({0}) is bool",
          "layout": "{0} == 'strided'"}  # fmt: skip

#: Optional ones, whatever their annotation says.
_NONE = ("requires_grad", "pin_memory")
#: What PyTorch writes in Python, where any object is true or false and NumPy's rules for numbers hold.
_IN_PYTHON = frozenset(("stft", "istft", "unique", "unique_consecutive", "norm", "split", "tensordot", "einsum",
                        "cdist", "affine_grid", "svd_lowrank", "pca_lowrank", "lobpcg", "lu"))  # fmt: skip
_INT64 = 2**63

_ROOTS = tuple(
    str(path) for path in (Path(__file__).parent, Path(np.__file__).parent, Path(ml_dtypes.__file__).parent)
)  # fmt: skip
_STDLIB = sysconfig.get_paths()["stdlib"]
_METHOD = re.compile(r"^\w+(?=\.(__init__|forward)\(\))")
_PRIVATE = re.compile(r"(?<![\w.'])_[a-z]\w*(?=\(\)|:|\")")
_SPACES = re.compile(r"\b(linalg|fft|special)_(?=\w+(\(\))?:)")
_PREFIX = re.compile(r"(?:torch\.)?((?:\w+\.)*[a-zA-Z]\w*)(\(\))?: ")


class Kind:
    """What may come for one parameter. ``strict``: a bool is no number and no number a bool, as PyTorch's functions in
    C++ have it and those it writes in Python have not. ``numbers``: a number may stand for a tensor.
    """

    __slots__ = ("default", "kind", "name", "numbers", "optional", "strict")

    def __init__(self, name: str, annotation: str, default: Any, strict: bool, numbers: bool = False) -> None:
        bare = annotation.removesuffix(" | None")
        self.name = name
        self.kind = _BY_NAME.get(name, "") if bare in ("Any", "") else _KINDS.get(bare, "")
        self.optional = (
            bare != annotation or bare == "Dims" or self.kind == name or default is None or name in _NONE
        )
        self.optional = self.optional or (self.kind == "bool" and not strict)
        self.default = default
        self.strict = strict
        self.numbers = numbers or "float" in bare.split(" | ")

    def quick(self) -> str:
        """Source of a test that holds where nothing is wrong; empty where the type is not checked before the call."""
        if self.kind not in _QUICK:
            return ""
        test = _QUICK[self.kind].format(self.name)
        return f"({self.name} is None or {test})" if self.optional else f"({test})"

    def takes(self, value: Any) -> bool:
        """Whether the value is of this kind."""
        if value is None:
            return self.optional or not self.kind
        if value is self.default:
            return True
        kind = self.kind
        if kind == "tensor":
            if self.numbers and isinstance(value, (bool, int, float, complex)):
                return True
            return isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "__array__")
        if kind == "tensors":
            return isinstance(value, (tuple, list)) and all(isinstance(v, Tensor) for v in value)
        if kind == "int":
            return _is_int(value, self.strict)
        if kind == "ints":
            values = value if isinstance(value, (tuple, list)) else (value,)
            return all(_is_int(v, self.strict) for v in values)
        if kind in ("float", "number"):
            of_one = isinstance(value, Tensor) and not value._array.ndim
            plain = (bool, int, float, np.number, np.bool_)
            return of_one or isinstance(value, plain) or (kind == "number" and isinstance(value, complex))
        if kind == "bool":
            return isinstance(value, (bool, np.bool_)) or (not self.strict and isinstance(value, int))
        if kind == "str":
            return isinstance(value, str)
        if kind == "dtype":
            try:
                as_dtype(value)
            except (TypeError, ValueError):
                return False
        if kind == "device":
            return isinstance(value, (device, str)) or _is_int(value, True)
        return kind != "layout" or (isinstance(value, str) and value == "strided")


def _is_int(value: Any, strict: bool) -> bool:
    if isinstance(value, bool):
        return not strict
    if isinstance(value, Tensor):
        return not value._array.ndim and value._array.dtype.kind in "iu"
    return hasattr(value, "__index__") and not isinstance(value, np.ndarray)


class Arguments:
    """The parameters of one public function, for its checks and its errors."""

    __slots__ = ("kinds", "name", "public")

    def __init__(self, name: str, kinds: Sequence[Kind], public: bool = False) -> None:
        self.public = public or not name.startswith("_")
        self.name = re.sub("^(linalg|fft|special)_", r"\1.", name)  # as the user writes it
        self.kinds = tuple(kinds)
        if name in _IN_PYTHON:
            for kind in self.kinds:
                kind.strict = False
                kind.optional = kind.optional or kind.kind == "bool"

    def quick(self) -> str:
        """Source of the test that no argument is of a type that the body would take silently; may be empty."""
        return " and ".join(test for kind in self.kinds if (test := kind.quick()))

    def refuse(self, values: Mapping[str, Any]) -> None:
        """TypeError for the first argument of another type than its parameter's, of those checked before a call."""
        for kind in self.kinds:
            if kind.kind in _QUICK and kind.name in values and not kind.takes(values[kind.name]):
                raise self._mistyped(kind, values[kind.name])

    def _mistyped(self, kind: Kind, value: Any) -> TypeError:
        name, expected = f"{self.name}(): argument '{kind.name}'", _EXPECTED[kind.kind]
        if isinstance(value, (tuple, list)) and kind.kind in ("tensors", "ints"):
            wanted = Tensor if kind.kind == "tensors" else int
            for i, v in enumerate(value):
                if not (isinstance(v, wanted) if wanted is Tensor else _is_int(v, kind.strict)):
                    return TypeError(f"{name} must be {expected}, but found element of type {_came(v)} at pos {i}")
        if kind.kind == "dtype":
            known = ", ".join(d.name for d in OF_NUMPY.values())
            return TypeError(f"{name} must be dtype, not {_came(value)}: expected one of {known}")
        return TypeError(f"{name} must be {expected}, not {_came(value)}")

    def explained(self, error: Exception, values: Mapping[str, Any]) -> Exception | None:
        """What to raise instead of an error that left the body; None where the error itself, now naming the function,
        says it.
        """
        if isinstance(error, (Warning, EnvironmentVariableError)) or _foreign(error.__traceback__):
            return None
        ours = isinstance(error, TensorlibError)
        if not (isinstance(error, TypeError) and str(error).startswith(f"{self.name}()")):
            # Of a refused device only the argument that names one can be at fault.
            kinds = self.kinds if not isinstance(error, DeviceError) else [k for k in self.kinds if k.kind == "device"]
            for kind in kinds:
                if kind.kind and kind.name in values and not kind.takes(values[kind.name]):
                    return self._mistyped(kind, values[kind.name])
        if not isinstance(error, ValueError) and (name := self._too_long(values)):
            return ArgumentError(f"{self.name}: argument '{name}' does not fit a 64-bit integer: got {values[name]}")
        if ours or type(error) is TypeError:
            self._name(error)
            return None
        usual = {kind.name: kind.default for kind in self.kinds}
        came = ", ".join(f"{n} {_shown(v)}" for n, v in values.items() if n not in usual or v is not usual[n])
        if isinstance(error, MemoryError):
            return OutOfMemoryError(f"{self.name}: not enough memory ({error}): got {came}: expected smaller sizes")
        if isinstance(error, (AttributeError, NotImplementedError, TypeError)):
            return TypeError(f"{self.name}(): {error}: got {came}: expected arguments of the documented types")
        kind_of_error = RangeError if isinstance(error, IndexError) else ArgumentError
        detail = type(error).__name__ if isinstance(error, (AssertionError, KeyError)) else str(error)
        return kind_of_error(f"{self.name}: {detail}: got {came}: expected sizes and values that fit together")

    def _too_long(self, values: Mapping[str, Any]) -> str:
        """The name of an argument with an integer that 64 bits do not hold; empty where there is none."""
        for kind in self.kinds:
            if kind.kind in ("int", "ints"):
                value = values.get(kind.name)
                for v in value if isinstance(value, (tuple, list)) else (value,):
                    if isinstance(v, int) and not -_INT64 <= v < _INT64:
                        return kind.name
        return ""

    def _name(self, error: Exception) -> None:
        """Have the message begin with the name that the user called, not that of an operator behind it."""
        if not error.args or not isinstance(error.args[0], str) or not self.public:
            return
        message = _SPACES.sub(r"\1.", _PRIVATE.sub(self.name, error.args[0]))
        call = None
        while (begins := _PREFIX.match(message)) and _akin(begins[1], self.name):
            call, message = call or begins[2] or "", message[begins.end() :]
        if call is not None or re.search(rf"\b{re.escape(_bare(self.name))}", message) is None:
            message = f"{self.name}{call or ''}: {message}"
        error.args = (message, *error.args[1:])


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def _akin(inner: str, outer: str) -> bool:
    """Whether one name is the other or begins it, as ``inv`` and ``inv_ex``: naming both says the same thing twice."""
    inner, outer = _bare(inner), _bare(outer)
    return inner.startswith(outer) or outer.startswith(inner)


def _came(value: Any) -> str:
    return "Tensor" if isinstance(value, Tensor) else type(value).__name__


def _shown(value: Any) -> str:
    """A value in a message: shape and dtype of a tensor, all else shortened."""
    if isinstance(value, Tensor):
        return f"{tuple(value._array.shape)} {OF_NUMPY.get(value._array.dtype, value._array.dtype)}"
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return f"[{', '.join(_shown(v) for v in value[:4])}{', ...' if len(value) > 4 else ''}]"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _foreign(trace: TracebackType | None) -> bool:
    """Whether code that is neither ours nor NumPy's took part: the errors of a callback are the caller's."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        library = file.startswith((*_ROOTS, "<operator>", "<frozen")) or (
            file.startswith(_STDLIB) and "site-packages" not in file
        )
        if not library:
            return True
        trace = trace.tb_next
    return False


def outside() -> int:
    """The ``stacklevel`` at which a warning names the line of the caller's program, however deep in the library."""
    frame: Any = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_ROOTS[0], "<operator>")):
        frame = frame.f_back
        level += 1
    return level


#: The end of every generated public function.
GUARD = (
    "  except Exception as error:",
    "    values = {{{values}}}",
    "    if {public} and (objects := _implementing(values.values())):",
    "        return _hand_over(_late, _arguments.name, objects, values)",
    "    other = _arguments.explained(error, values)",
    "    if other is None:",
    "        raise",
    "    raise other from error",
)


def guard(names: Sequence[str], public: bool) -> list[str]:
    """Source of the handler of a generated function with these parameters. ``public``: users can call it."""
    values = ", ".join(f"{n!r}: {n}" for n in names)
    return [line.format(values=values, public=public) for line in GUARD]


def of_class(
    cls: type, function: Any, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Exception | None:
    """``Arguments.explained`` for a method of a class of the library, under the name of the class that was used.

    What the class itself raised (in its module, not below) is right as it is and only named.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    parameters = list(inspect.signature(function).parameters.values())[1:]
    kinds = [Kind(p.name, str(p.annotation), p.default, False) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    found = Arguments(cls.__name__, kinds)
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    values = {**dict(zip(positional, args, strict=False)), **kwargs}
    meant = (ValueError, IndexError, RuntimeError, AssertionError, TensorlibError)
    own = trace is not None and isinstance(error, meant) and not isinstance(error, NotImplementedError)
    if own and trace is not None and not trace.tb_frame.f_code.co_filename.startswith(_ROOTS[1:]):
        if not _foreign(error.__traceback__):
            found._name(error)
        return None
    if isinstance(error, TypeError) and error.args:
        error.args = (_METHOD.sub(cls.__name__, str(error.args[0]), count=1), *error.args[1:])
    return found.explained(error, values)


def named(constructor: Callable[..., None], of: type[Exception] | tuple[type[Exception], ...] = Exception) -> Any:
    """The constructor of a class of the library; its errors of these types name the class."""

    @functools.wraps(constructor)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            constructor(self, *args, **kwargs)
        except of as error:
            other = of_class(type(self), constructor, error, args, kwargs)
            if other is None:
                raise
            raise other from error

    return init
