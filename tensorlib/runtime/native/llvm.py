"""LLVM IR as text: the names of its types, its constants, and a module that functions are added to.

Types are LLVM's own spellings: "float", "i32", "ptr", "<16 x float>". Nothing here knows a kernel.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import struct
from collections.abc import Iterable

from tensorlib.runtime.native import ttir

#: Triton's scalar types as LLVM's. An 8-bit float is its bits: only conversions look inside.
TYPES = {
    "i1": "i1", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64", "i128": "i128", "index": "i64",
    "f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double",
    "f8E4M3FN": "i8", "f8E5M2": "i8", "f8E4M3FNUZ": "i8", "f8E5M2FNUZ": "i8", "f8E4M3B11FNUZ": "i8",
}  # fmt: skip
SIZES = {
    "i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "i128": 16,
    "half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8,
}  # fmt: skip
BITS = {name: 8 * size for name, size in SIZES.items()} | {"i1": 1}
FLOATS = frozenset({"half", "bfloat", "float", "double"})
_CALLED = re.compile(r"\bcall [^@]*(@tl[\w.$]+)\(")
_SUFFIXES = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}


def type_of(type: ttir.Type) -> str:
    """LLVM's type of one element of a TTIR type: tensor<64xf32> -> float, and a pointer -> ptr."""
    if isinstance(type, ttir.Tensor):
        type = type.element
    return TYPES[type.name] if isinstance(type, ttir.Scalar) else "ptr"


def in_memory(type: str) -> str:
    """The type of a value in memory: a truth value takes a byte, a pointer is an integer."""
    return {"i1": "i8", "ptr": "i64"}.get(type, type)


def vector(type: str, lanes: int) -> str:
    """``<lanes x type>``."""
    return f"<{lanes} x {type}>"


def suffix(type: str, lanes: int = 0) -> str:
    """How an overloaded intrinsic's name ends: "v16f32" for 16 floats, "f32" for one."""
    return (f"v{lanes}" if lanes else "") + _SUFFIXES.get(type, type)


def wrap(value: int, type: str) -> int:
    """An integer modulo 2**bits, as the signed number of that type."""
    bits = BITS[type]
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) and bits > 1 else value


def constant(value: float | int | bool, type: str) -> str:
    """A number as LLVM spells it: floats by their bits, so that nothing is rounded twice.

    A double rounds once to the type; overflow gives infinity.
    """
    if type not in FLOATS:
        return str(wrap(int(value), type))
    value = float(value)
    if type == "double":
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    if type == "float":  # LLVM wants the double of the same value
        return f"0x{struct.unpack('<Q', struct.pack('<d', to_float(value)))[0]:016X}"
    if type == "half":
        return f"0xH{half_bits(value):04X}"
    bits = float_bits(to_float(value))
    if math.isnan(value):
        return "0xR7FC0"
    return f"0xR{((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF:04X}"


def half_bits(value: float) -> int:
    """The 16 bits of a number rounded to float16."""
    try:
        return int(struct.unpack("<H", struct.pack("<e", value))[0])
    except OverflowError:
        return 0xFC00 if value < 0 else 0x7C00


def to_float(value: float) -> float:
    """Rounded to float32."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def float_bits(value: float) -> int:
    """The 32 bits of a float32."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def from_bits(bits: int, type: str) -> float:
    """The number with these bits: constants that MLIR prints in hexadecimal (infinities, NaN)."""
    if type == "double":
        return float(struct.unpack("<d", struct.pack("<Q", bits))[0])
    if type == "half":
        return float(struct.unpack("<e", struct.pack("<H", bits))[0])
    return float(struct.unpack("<f", struct.pack("<I", bits << 16 if type == "bfloat" else bits))[0])


def splat(value: str, type: str) -> str:
    """A constant vector with one value in each lane (the text after its type)."""
    return f"splat ({type} {value})"


def lanes_of(values: Iterable[int | str], type: str) -> str:
    """A constant vector, lane by lane."""
    return "<" + ", ".join(f"{type} {value}" for value in values) + ">"


@dataclasses.dataclass
class Module:
    """Declarations and helper functions of one LLVM module, each once, and fresh names."""

    declarations: set[str] = dataclasses.field(default_factory=set)
    functions: dict[str, str] = dataclasses.field(default_factory=dict)
    _numbers: itertools.count[int] = dataclasses.field(default_factory=itertools.count)

    def name(self) -> str:
        """A local name that nothing else has."""
        return f"%v{next(self._numbers)}"

    def label(self) -> str:
        """A block's name that nothing else has."""
        return f"b{next(self._numbers)}"

    def declare(self, text: str) -> None:
        """Declares a function of which there is no body here."""
        self.declarations.add(text)

    def define(self, symbol: str, text: str, declarations: Iterable[str] = ()) -> str:
        """Adds a helper function unless it is there; returns its symbol."""
        self.functions.setdefault(symbol, text)
        self.declarations.update(declarations)
        return symbol

    def length(self, lines: Iterable[str]) -> int:
        """How many instructions on vectors some lines are, with those of helper functions that they call."""
        found = 0
        for line in lines:
            called = _CALLED.search(line)
            body = self.functions.get(called[1]) if called else None
            found += sum("<" in inner for inner in body.split("\n")) if body else "<" in line
        return found

    def text(self) -> str:
        """Declarations, then functions."""
        return "\n".join([*sorted(self.declarations), *self.functions.values()])
