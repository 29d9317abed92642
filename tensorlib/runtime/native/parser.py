"""A strict parser of the text that Triton prints of its IR.

Triton's own front end makes the IR of a kernel and its first passes simplify it (`ttir_of`); the text is the only form
in which constants and attributes can be read. `parse` takes what `grammar` says and holds it to itself: the types that
an operation names must be those of its operands. Whatever else comes is an UnsupportedError that names the operation
and its line in the kernel's source, never a guess.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tensorlib.errors import UnsupportedError
from tensorlib.runtime import compiler
from tensorlib.runtime.native import grammar, ttir
from tensorlib.runtime.native.ttir import (
    Block,
    Dense,
    Descriptor,
    Function,
    Module,
    Operation,
    Pointer,
    Region,
    Scalar,
    Tensor,
    Type,
    Value,
    walk,
)


def ttir_of(
    kernel: compiler.Jit,
    keys: tuple[compiler.Key, ...],
    constants: dict[str, Any],
    options: dict[str, Any] | None = None,
) -> str:
    """The TTIR text of a kernel. keys: one specialisation key per argument; constants: every constexpr by name.

    options: Triton's, such as num_warps, which may change what `tl` says of them, and debug, without which there are
    no assertions. KernelError names the kernel, its types and constants, with Triton's error as its cause.
    """
    return compiler.front_end(kernel, keys, constants, options or {})


_SPACE = re.compile(r"\s*")
_BLANK = re.compile(r"[ \t]*")  # an operation ends with its line
_NAME = re.compile(r"%[\w$.\-]+")
_REFERENCE = re.compile(r"%[\w$.\-]+(?:#\d+)?")
_OPERATION = re.compile(r"[a-z_]+\.[A-Za-z_0-9.]+|module\b")
_WORD = re.compile(r"[A-Za-z_][\w.$]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"0x[0-9A-Fa-f]+|-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_SYMBOL = re.compile(r'@([\w$.\-]+|"[^"]*")')
_SCALAR = re.compile(r"(?:[su]?i\d+|bf16|f\d+(?:E\d+M\d+\w*)?|tf32|index)\b")
_DIMENSION = re.compile(r"(\d+)x")
_LOCATION = re.compile(r"loc\((#loc\d*)\)")
_BLOCK = re.compile(r"\^\w+")
_ALIAS = re.compile(r"#\w+")
_LINE = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"[ \t]*//[^\n]*")
_FLAGS = re.compile(r"[\w ,|]*")
_PAIRS = re.compile(r'"(?:[^"\\]|\\.)*"|[()]')
_PRINTED = re.compile(r":\s*%")


def parse(text: str) -> Module:
    """The module that a TTIR text is. UnsupportedError names the operation and line of what is not understood."""
    return _Parser(text).module()


class _Parser:
    """A place in a text, and the values that are known there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.values: dict[str, Value] = {}
        self.groups: dict[str, int] = {}  # "%0" of "%0:2" -> 2
        self.names: list[str] = []  # of the values, in order: those of a region are forgotten at its end
        self.blocks: list[dict[str, Block]] = []  # of the regions around
        self.locations = _Locations(text)
        self.types: dict[str, Type] = {}
        self.aliases: dict[str, str] = {}  # attributes by the name that the text gives them
        self.reading = [("module", 0)]  # the operations that are read, outermost first, and where they begin

    # -- what every part is made of

    def fail(self, expected: str) -> UnsupportedError:
        """An error at the operation that is read. Whoever calls raises it."""
        name, place = self.reading[-1]
        start = self.text.rfind("\n", 0, place) + 1
        end = self.text.find("\n", place)
        line = self.text[start : len(self.text) if end < 0 else end]
        file, number = self.locations.of_line(line)
        at = f"{file}:{number}" if file else f"line {self.text.count(chr(10), 0, start) + 1} of the IR"
        shown = re.sub(r"\s*loc\(.*", "", line).strip()
        return UnsupportedError(f"native: {name} ({at}): {shown!r}: expected {expected}")

    def space(self) -> None:
        """Skip blanks and line ends."""
        self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]

    def at(self, literal: str) -> bool:
        """Whether a literal comes next."""
        self.space()
        return self.text.startswith(literal, self.place)

    def accept(self, literal: str) -> bool:
        """Take a literal if it comes next."""
        if self.at(literal):
            self.place += len(literal)
            return True
        return False

    def expect(self, literal: str) -> None:
        """Take a literal."""
        if not self.accept(literal):
            raise self.fail(repr(literal))

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Take what a pattern matches, if it does."""
        self.space()
        found = pattern.match(self.text, self.place)
        if found is not None:
            self.place = found.end()
        return found

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        """Take what a pattern matches."""
        found = self.match(pattern)
        if found is None:
            raise self.fail(expected)
        return found[0]

    def listed(self, end: str, item: Callable[[], Any]) -> list[Any]:
        """Items with commas between, up to the end, which is taken."""
        found: list[Any] = []
        if self.accept(end):
            return found
        while True:
            found.append(item())
            if self.accept(end):
                return found
            self.expect(",")

    # -- types

    def type(self) -> Type:
        """A type."""
        self.space()
        if self.text.startswith("tensor<", self.place):
            start, self.place = self.place, self.place + 7
            shape = self.shape()
            element = self.type()
            if not isinstance(element, (Scalar, Pointer)):
                raise self.fail("a tensor of numbers or pointers")
            self.expect(">")
            return self.types.setdefault(self.text[start : self.place], Tensor(shape, element))
        if self.accept("!tt.ptr<"):
            pointee, space = self.type(), 1
            if self.accept(","):
                space = int(self.take(_NUMBER, "an address space"))
            self.expect(">")
            return Pointer(pointee, space)
        if self.accept("!tt.tensordesc<"):
            return self.descriptor()
        name = self.take(_SCALAR, "a type")
        if name not in ttir.BITS:
            raise self.fail(f"a type that tensorlib knows, not {name}")
        return Scalar(name)

    def shape(self) -> tuple[int, ...]:
        """The sizes ahead of an element type."""
        found = []
        while (size := _DIMENSION.match(self.text, self.place)) is not None:
            found.append(int(size[1]))
            self.place = size.end()
        return tuple(found)

    def descriptor(self) -> Descriptor:
        """The rest of a descriptor's type: 3.6 writes a tensor, 3.9 its sizes and element."""
        wrapped = self.accept("tensor<")
        shape = self.shape()
        name = self.take(_SCALAR, "an element type")
        signed = {"s": True, "u": False}.get(name[0]) if name[1:2] == "i" else None
        name = name[1:] if signed is not None else name
        if name not in ttir.BITS:
            raise self.fail(f"a type that tensorlib knows, not {name}")
        if wrapped:
            self.expect(">")
        self.expect(">")
        return Descriptor(Tensor(shape, Scalar(name)), signed)

    def type_list(self) -> list[Type]:
        """``T``, ``(T, T)`` or ``()``."""
        return self.listed(")", self.type) if self.accept("(") else [self.type()]

    # -- attributes

    def attribute(self) -> Any:
        """The value of an attribute."""
        self.space()
        if self.text.startswith('"', self.place):
            return _unquoted(self.take(_STRING, "a string"))
        if self.accept("array<"):
            self.take(_SCALAR, "an element type")
            if self.accept(">"):
                return []
            self.expect(":")
            return self.listed(">", self.number)
        if self.at("dense<"):
            values = self.dense()
            self.expect(":")
            return self.constant(values, self.type())
        if self.accept("#tt.cache_policy<"):
            return dict(self.listed(">", self.entry))
        if self.accept("["):
            return self.listed("]", self.attribute)
        if self.at("{"):
            return self.dictionary("{", "}")
        if self.at("#"):
            name = self.take(_ALIAS, "the name of an attribute")
            if name not in self.aliases:
                raise self.fail(f"an attribute that tensorlib knows, not {name}")
            return self.aliases[name]
        if self.at("@"):
            return self.symbol()
        if self.at("tensor<") or self.at("!tt."):
            return self.type()
        if (word := self.match(_WORD)) is not None:
            if word[0] in ("true", "false"):
                return word[0] == "true"
            return word[0]
        value = self.number()
        if self.accept(":"):
            return self.constant(value, self.type())
        return int(value) if value.lstrip("-").isdigit() else float(value)

    def number(self) -> str:
        """A number's text."""
        if (word := self.match(_WORD)) is not None:
            if word[0] in ("true", "false"):
                return word[0]
            raise self.fail("a number")
        return self.take(_NUMBER, "a number")

    def entry(self) -> tuple[str, Any]:
        """``name = value``, or ``name`` alone, which is true."""
        self.space()
        name = _unquoted(self.take(_STRING, "a name")) if self.at('"') else self.take(_WORD, "an attribute's name")
        return name, self.attribute() if self.accept("=") else True

    def dictionary(self, start: str, end: str) -> dict[str, Any]:
        """``{name = value, ...}``."""
        self.expect(start)
        return dict(self.listed(end, self.entry))

    def symbol(self) -> str:
        """A function's name."""
        return self.take(_SYMBOL, "a function's name")[1:].strip('"')

    def dense(self) -> Any:
        """``dense<...>``: nested lists of texts, or one text."""
        self.expect("dense<")
        if self.accept(">"):
            return []
        values = self.nested()
        self.expect(">")
        return values

    def nested(self) -> Any:
        """A number, a string of bytes, or a list of those."""
        if self.accept("["):
            return self.listed("]", self.nested)
        if self.at('"'):
            return self.take(_STRING, "a string")
        return self.number()

    def constant(self, values: Any, type_: Type) -> Any:
        """A constant from its text: int, float, bool, or Dense. An 8-bit float is its bits."""
        if isinstance(type_, Scalar):
            return self.one(values, type_)
        if not isinstance(type_, Tensor) or not isinstance(type_.element, Scalar):
            raise self.fail("a constant of numbers")
        element = type_.element
        if isinstance(values, str) and values.startswith('"'):
            return self.raw(values, type_)
        if isinstance(values, str):
            return Dense(type_, (self.one(values, element),))
        flat = tuple(self.one(v, element) for v in _flat(values, type_.shape, self))
        if len(flat) > 1 and all(v == flat[0] and math.copysign(1, v) == math.copysign(1, flat[0]) for v in flat):
            flat = flat[:1]
        return Dense(type_, flat)

    def raw(self, values: str, type_: Tensor) -> Dense:
        """A constant written as bytes: ``"0x..."``, little endian; a bit each for i1."""
        try:
            data = bytes.fromhex(values[3:-1])
        except ValueError:
            raise self.fail("bytes as hexadecimal digits") from None
        element = type_.element
        assert isinstance(element, Scalar)
        if element.name == "i1":
            if data in (b"\x00", b"\xff"):
                return Dense(type_, (data == b"\xff",))
            bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: type_.size]
            numbers: list[float] = [bool(b) for b in bits]
        else:
            width = element.bits // 8
            if len(data) % width:
                raise self.fail(f"elements of {width} bytes")
            pieces = [data[i : i + width] for i in range(0, len(data), width)]
            numbers = [
                _float_of_bits(int.from_bytes(p, "little"), element) if element.floating
                else int.from_bytes(p, "little", signed=True)
                for p in pieces
            ]  # fmt: skip
        if len(numbers) not in (1, type_.size):
            raise self.fail(f"{type_.size} elements")
        return Dense(type_, tuple(numbers))

    def one(self, text: Any, type_: Scalar) -> Any:
        """A number of a type from its text."""
        if not isinstance(text, str):
            raise self.fail(f"one {type_}")
        if type_.name == "i1":
            if text not in ("true", "false", "0", "1", "-1"):
                raise self.fail("true or false")
            return text not in ("false", "0")
        if type_.floating:
            if text.startswith("0x"):
                bits = int(text, 16)
                if bits >> type_.bits:
                    raise self.fail(f"at most {type_.bits} bits")
                return _float_of_bits(bits, type_)
            try:
                number = float(text)
            except ValueError:
                raise self.fail(f"a constant of {type_}") from None
            return int(np.array(number, _FLOATS[type_.name]).view(np.uint8)) if type_.bits == 8 else number
        try:
            value = int(text)
        except ValueError:
            raise self.fail(f"a constant of {type_}") from None
        if not -(1 << (type_.bits - 1)) <= value < 1 << type_.bits:
            raise self.fail(f"a number of {type_.bits} bits")
        return value

    # -- values

    def value(self) -> Value:
        """A value that is known here."""
        name = self.take(_REFERENCE, "a value")
        found = self.values.get(name)
        if found is None:
            if name in self.groups:
                raise self.fail(f"one of the {self.groups[name]} values {name}")
            raise self.fail(f"a value that is defined here, not {name}")
        return found

    def define(self, name: str, value: Value) -> None:
        """Give a value its name."""
        if name in self.values:
            raise self.fail(f"a new name, not {name}")
        self.values[name] = value
        self.names.append(name)

    def argument(self, block: Block) -> dict[str, Any]:
        """``%x: T {...}``, an argument of a block or function; returns its attributes."""
        name = self.take(_NAME, "an argument")
        self.expect(":")
        made = Value(self.type(), None, len(block.arguments), name, block)
        block.arguments.append(made)
        self.define(name, made)
        attributes = self.dictionary("{", "}") if self.at("{") else {}
        self.allowed(attributes, frozenset(("tt.nv_tma_desc",)))
        self.location()
        return attributes

    # -- locations

    def location(self) -> tuple[str, int]:
        """``loc(...)`` where there is one."""
        self.space()
        if not self.text.startswith("loc(", self.place):
            return "", 0
        found = _LOCATION.match(self.text, self.place)
        if found is not None:
            self.place = found.end()
            return self.locations.of(found[1])
        start = self.place + 4
        self.place = _closing(self.text, start)
        return self.locations.read(self.text[start : self.place - 1])

    # -- the module and its functions

    def module(self) -> Module:
        """The whole text."""
        self.preamble()
        self.expect("module")
        if self.match(_SYMBOL) is not None:
            raise self.fail("a module without a name")
        if self.accept("attributes"):
            attributes = self.dictionary("{", "}")
            self.allowed(attributes, frozenset())
        self.expect("{")
        functions: dict[str, Function] = {}
        while not self.accept("}"):
            made = self.function()
            if made.name in functions:
                raise self.fail(f"one function {made.name}")
            functions[made.name] = made
        self.location()
        self.preamble()
        if self.place < len(self.text):
            raise self.fail("the end")
        for function in functions.values():
            _check_calls(function, functions)
        if sum(f.public for f in functions.values()) != 1:
            raise self.fail("one public function")
        return Module(functions)

    def preamble(self) -> None:
        """The lines that give attributes their names: of locations, which `_Locations` reads, and of hints to LLVM."""
        while self.at("#"):
            self.reading[-1] = "module", self.place
            line = self.take(_LINE, "a line")
            if not line.startswith("#loc"):
                name, _, value = line.partition(" = ")
                if not value.startswith("#llvm.loop_"):
                    raise self.fail(f"attributes that tensorlib knows, not {value!r}")
                self.aliases[name] = value

    def function(self) -> Function:
        """``tt.func public @name(%x: T {...}, ...) -> T attributes {...} {...}``."""
        self.space()
        self.reading.append(("tt.func", self.place))
        self.expect("tt.func")
        public = not self.accept("private")
        if public:
            self.accept("public")
        name = self.symbol()
        if self.names:
            raise self.fail("a function that is not within another")
        entry = Block()
        self.expect("(")
        given = self.listed(")", functools.partial(self.argument, entry))
        results = self.type_list() if self.accept("->") else []
        attributes = self.dictionary("{", "}") if self.accept("attributes") else {}
        self.allowed(attributes, frozenset(("noinline",)))
        made = Function(name, entry.arguments, given, results, Region(), public, attributes)
        if not self.at("{"):
            raise self.fail("a function's body")
        made.body = self.region(entry)
        made.line = self.location()[1]
        self.forget(0)
        self.reading.pop()
        return made

    def allowed(self, attributes: dict[str, Any], names: frozenset[str]) -> None:
        """Fail unless every attribute is one of these or a hint, of the operation or, in ``_arg1``, of an argument."""
        for name in attributes:
            if name not in names and re.sub(r"_arg\d+$", "", name) not in grammar.HINTS:
                raise self.fail(f"attributes that tensorlib knows, not {name!r}")

    # -- regions and blocks

    def region(self, entry: Block | None = None, terminator: str = "") -> Region:
        """``{ ... }``. entry: the first block, whose arguments are written before. terminator: what may be left out."""
        self.expect("{")
        known = len(self.names)
        labels: dict[str, Block] = {}
        self.blocks.append(labels)
        made = Region()
        block = entry if entry is not None else Block()
        if not self.at("^"):
            made.blocks.append(block)
        while not self.accept("}"):
            if self.at("^"):
                label = self.take(_BLOCK, "a block")
                if label in labels and labels[label] in made.blocks:
                    raise self.fail(f"a new block, not {label}")
                fresh = labels.setdefault(label, Block())
                fresh.name = label
                if not made.blocks and entry is not None:
                    raise self.fail("a first block without a name")
                made.blocks.append(fresh)
                block = fresh
                if self.accept("("):
                    self.listed(")", functools.partial(self.argument, block))
                self.expect(":")
                if (comment := _COMMENT.match(self.text, self.place)) is not None:
                    self.place = comment.end()
            else:
                block.operations.append(self.operation(block))
        if any(b not in made.blocks for b in labels.values()):
            raise self.fail("blocks that are there")
        if terminator and len(made.blocks) == 1 and not (block.operations and block.operations[-1].name == terminator):
            block.operations.append(Operation(terminator, block=block))
        for each in made.blocks:
            _check_end(each, self)
        self.blocks.pop()
        self.forget(known)
        return made

    def forget(self, known: int) -> None:
        """End the scope of all names but the first."""
        for name in self.names[known:]:
            self.values.pop(name, None)
            self.groups.pop(name, None)
        del self.names[known:]

    # -- operations

    def operation(self, block: Block) -> Operation:
        """One operation, with its results named."""
        self.space()
        begin = self.place
        self.reading.append(("an operation", begin))
        targets = self.targets() if self.at("%") else []
        quoted = self.accept('"')
        name = self.take(_OPERATION, "an operation")
        self.reading[-1] = name, begin
        if quoted:
            self.expect('"')
        made = Operation(name, block=block)
        if name in grammar.REFUSED:
            raise self.fail(f"another operation: {grammar.REFUSED[name]}")
        special = _SPECIAL.get(name)
        if special is not None and not quoted:
            results = special(self, made)
        elif name in grammar.FORMS:
            results = self.generic(made, grammar.FORMS[name]) if quoted else self.ordinary(made, grammar.FORMS[name])
        else:
            raise self.fail("an operation that tensorlib knows")
        made.file, made.line = self.location()
        if sum(n for _, n in targets) != len(results):
            raise self.fail(f"{len(results)} results")
        numbers = iter(range(len(results)))
        for target, count in targets:
            for i in range(count):
                number = next(numbers)
                label = target if count == 1 else f"{target}#{i}"
                value = Value(results[number], made, number, label)
                made.results.append(value)
                self.define(label, value)
            if count == 1:
                self.values[f"{target}#0"] = made.results[-1]
                self.names.append(f"{target}#0")
            else:
                self.groups[target] = count
                self.names.append(target)
        self.reading.pop()
        return made

    def targets(self) -> list[tuple[str, int]]:
        """``%a, %b:2 =``."""
        found = []
        while True:
            name = self.take(_NAME, "a result")
            found.append((name, int(self.take(_NUMBER, "a number of results")) if self.accept(":") else 1))
            if self.accept("="):
                return found
            self.expect(",")

    def ordinary(self, made: Operation, form: grammar.Form) -> list[Type]:
        """An operation in the usual form: words, operands with commas, attributes, a colon and types."""
        words, text = list(form.words), self.text
        while True:
            self.place = _BLANK.match(text, self.place).end()  # type: ignore[union-attr]
            c = text[self.place : self.place + 1]
            if c == "%":
                made.operands.append(self.value())
            elif c == '"':
                name = {"tt.assert": "message", "tt.print": "prefix"}.get(made.name)
                if name is None or name in made.attributes:
                    raise self.fail("no string")
                made.attributes[name] = _unquoted(self.take(_STRING, "a string"))
            elif c == "[":
                self.place += 1
                made.operands += self.listed("]", self.value)
            elif c == "(" and made.name in ("scf.condition", "tt.call"):
                self.place += 1
                made.operands += self.listed(")", self.value)
            elif c == "@" and made.name == "tt.call":
                made.attributes["callee"] = self.symbol()
            elif c == "{":
                self.merge(made, self.dictionary("{", "}"))
            elif c == ",":
                self.place += 1
            elif c == ":" and made.name == "tt.print" and not made.operands and _PRINTED.match(text, self.place):
                self.place += 1
            elif c.isalpha() and not text.startswith("loc(", self.place):
                self.word(made, form, words)
            else:
                break
        if words:
            raise self.fail(f"{words[0]}")
        self.validate(made, form)
        return _TYPES[form.types](self, made)

    def word(self, made: Operation, form: grammar.Form, words: list[str]) -> None:
        """A bare word: one that is due, ``name = value``, or a flag."""
        word = self.take(_WORD, "a word")
        if words:
            made.attributes[words.pop(0)] = word
        elif word in form.attributes and self.accept("="):
            self.merge(made, {word: self.attribute()})
        elif word in form.flags:
            argument: Any = True
            if self.accept("<"):
                argument = self.take(_FLAGS, "flags")
                self.expect(">")
            self.merge(made, {word: argument})
        else:
            raise self.fail(f"a word that tensorlib knows, not {word!r}")

    def merge(self, made: Operation, attributes: dict[str, Any]) -> None:
        """Add attributes. None may come twice."""
        for name, value in attributes.items():
            if name in made.attributes:
                raise self.fail(f"one {name!r}")
            made.attributes[name] = value

    def validate(self, made: Operation, form: grammar.Form) -> None:
        """Fail unless there are as many operands, and such attributes, as the operation has."""
        low, high = form.operands
        if not low <= len(made.operands) <= high:
            raise self.fail(f"{low} to {high} operands, not {len(made.operands)}" if low != high else f"{low} operands")
        self.normalise(made.attributes)
        self.allowed(made.attributes, frozenset((*form.attributes, *form.words, *form.flags)))
        for name in form.attributes:
            if name not in made.attributes and name not in grammar.OPTIONAL:
                raise self.fail(f"{name!r}")
        for name, value in made.attributes.items():
            if name == "predicate":
                known: frozenset[Any] | None = grammar.PREDICATES[made.name]
            elif name == "axis":
                known = grammar.WORDS["axis"] if form.words else None
            elif name == "scope":
                known = grammar.SCOPES if made.name.startswith("tt.") else None
            else:
                known = grammar.WORDS.get(name)
            if known is not None:
                if value not in known:
                    raise self.fail(f"a {name} that tensorlib knows, not {value!r}")
            elif name in form.attributes and name in grammar.KINDS and type(value) is not grammar.KINDS[name]:
                raise self.fail(f"{name} to be {grammar.KINDS[name].__name__}, not {value!r}")

    def normalise(self, attributes: dict[str, Any]) -> None:
        """Cache hints as 3.6 writes them: two attributes, each there only where it says something."""
        policy = attributes.pop("cachePolicy", None)
        if policy is not None:
            if not isinstance(policy, dict) or policy.keys() != {"cache_modifier", "eviction_policy"}:
                raise self.fail("a cache policy that tensorlib knows")
            attributes["cacheModifier"] = policy["cache_modifier"]
            attributes["evictionPolicy"] = policy["eviction_policy"]
        for name, usual in (("cacheModifier", "none"), ("evictionPolicy", "evict_normal")):
            if attributes.get(name) == usual:
                del attributes[name]

    def generic(self, made: Operation, form: grammar.Form) -> list[Type]:
        """``"name"(operands) <{properties}> ({regions}) {attributes} : (T) -> T``."""
        self.expect("(")
        made.operands = self.listed(")", self.value)
        if self.accept("<"):
            self.merge(made, self.dictionary("{", "}"))
            self.expect(">")
        if self.accept("("):
            made.regions = self.listed(")", self.region)
        if self.at("{"):
            self.merge(made, self.dictionary("{", "}"))
        if len(made.regions) != form.regions:
            raise self.fail(f"{form.regions} regions")
        self.validate(made, form)
        return self.function_type(made)

    # -- the types that end an operation

    def typed(self, operands: Sequence[Value], types: Sequence[Type]) -> None:
        """Fail unless the operands have these types."""
        if len(operands) != len(types):
            raise self.fail(f"{len(operands)} types")
        for operand, type_ in zip(operands, types, strict=True):
            if operand.type != type_:
                raise self.fail(f"{operand.name} to be {operand.type}, not {type_}")

    def function_type(self, made: Operation) -> list[Type]:
        """``: (T, T) -> T``."""
        self.expect(":")
        self.expect("(")
        self.typed(made.operands, self.listed(")", self.type))
        self.expect("->")
        return self.type_list()

    def same(self, made: Operation) -> list[Type]:
        """``: T``, of every operand and the result."""
        self.expect(":")
        type_ = self.type()
        self.typed(made.operands, [type_] * len(made.operands))
        return [type_]

    def extended(self, made: Operation) -> list[Type]:
        """``: T`` or ``: T, T2``: the second result of addui_extended is the carry."""
        (type_,) = self.same(made)
        if self.accept(","):
            return [type_, self.type()]
        return [type_, type_]

    def compare(self, made: Operation) -> list[Type]:
        """``: T``, of the operands."""
        (type_,) = self.same(made)
        return [Tensor(type_.shape, Scalar("i1")) if isinstance(type_, Tensor) else Scalar("i1")]

    def select(self, made: Operation) -> list[Type]:
        """``: T``, or ``: C, T`` where the condition is a tile."""
        self.expect(":")
        type_: Type = self.type()
        condition: Type = Scalar("i1")
        if self.accept(","):
            condition, type_ = type_, self.type()
        self.typed(made.operands, [condition, type_, type_])
        return [type_]

    def cast(self, made: Operation) -> list[Type]:
        """``: T to R`` or ``: T -> R``."""
        self.expect(":")
        type_ = self.type()
        if made.name == "tt.histogram" and len(made.operands) == 2:
            self.typed(made.operands[:1], [type_])
            assert isinstance(type_, Tensor)
            self.typed(made.operands[1:], [Tensor(type_.shape, Scalar("i1"))])
        else:
            self.typed(made.operands, [type_] * len(made.operands))
        if not self.accept("->"):
            self.expect("to")
        result = self.type()
        return [result, result] if made.name == "tt.split" else [result]

    def each(self, made: Operation) -> list[Type]:
        """``: T, U``, of the operands; the result has the first's."""
        self.expect(":")
        first = self.type()
        self.expect(",")
        self.typed(made.operands, [first, self.type()])
        return [first]

    def load(self, made: Operation) -> list[Type]:
        """``: P``, of the pointer: mask and other follow from it."""
        self.expect(":")
        type_ = self.type()
        element, mask = self.pointed(type_)
        self.typed(made.operands, [type_, mask, element][: len(made.operands)])
        return [element]

    def store(self, made: Operation) -> list[Type]:
        """``: P``, of the pointer."""
        self.expect(":")
        type_ = self.type()
        element, mask = self.pointed(type_)
        self.typed(made.operands, [type_, element, mask][: len(made.operands)])
        return []

    def pointed(self, type_: Type) -> tuple[Type, Type]:
        """What is loaded through pointers of a type, and the type of a mask of it."""
        if isinstance(type_, Pointer):
            return type_.pointee, Scalar("i1")
        if isinstance(type_, Tensor) and isinstance(type_.element, Pointer):
            pointee = type_.element.pointee
            if isinstance(pointee, (Scalar, Pointer)):
                return Tensor(type_.shape, pointee), Tensor(type_.shape, Scalar("i1"))
        raise self.fail("pointers")

    def dot(self, made: Operation) -> list[Type]:
        """``: A * B -> C``."""
        self.expect(":")
        left = self.type()
        self.expect("*")
        right = self.type()
        self.expect("->")
        result = self.type()
        self.typed(made.operands, [left, right, result])
        return [result]

    def operands(self, made: Operation) -> list[Type]:
        """``: T, U``, of the operands; nothing where there are none."""
        if not made.operands:
            return []
        self.expect(":")
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        self.typed(made.operands, types)
        return []

    def none(self, made: Operation) -> list[Type]:
        """No types."""
        return []

    def unsplat(self, made: Operation) -> list[Type]:
        """``: T``, of the operand."""
        (type_,) = self.same(made)
        if not isinstance(type_, Tensor):
            raise self.fail("a tensor")
        return [type_.element]

    def condition(self, made: Operation) -> list[Type]:
        """``(%c) %x, %y : T, U``."""
        if made.operands[0].type != Scalar("i1"):
            raise self.fail("a condition of i1")
        if len(made.operands) > 1:
            self.expect(":")
            types = [self.type()]
            while self.accept(","):
                types.append(self.type())
            self.typed(made.operands[1:], types)
        return []

    def make_descriptor(self, made: Operation) -> list[Type]:
        """``%base, [%shape], [%strides] : <f16>, <8x8xf16>``: the names of the types are left out."""
        self.expect(":")
        if self.accept("<"):
            base: Type = Pointer(self.type())
            self.expect(">")
        else:
            base = self.type()
        self.typed(made.operands[:1], [base])
        self.expect(",")
        result = self.descriptor_type()
        rank = len(result.block.shape)
        self.typed(made.operands[1:], [Scalar("i32")] * rank + [Scalar("i64")] * rank)
        return [result]

    def descriptor_type(self) -> Descriptor:
        """``!tt.tensordesc<...>``, or without the name where the form fixes it."""
        if self.accept("<"):
            return self.descriptor()
        type_ = self.type()
        if not isinstance(type_, Descriptor):
            raise self.fail("a tensor descriptor")
        return type_

    def descriptor_load(self, made: Operation) -> list[Type]:
        """``%d[%i, %j] : D -> T``."""
        self.expect(":")
        self.typed(made.operands[:1], [self.descriptor_type()])
        self.expect("->")
        return [self.type()]

    def descriptor_store(self, made: Operation) -> list[Type]:
        """``%d[%i, %j], %x : D, T``."""
        self.expect(":")
        self.typed(made.operands[:1], [self.descriptor_type()])
        self.expect(",")
        self.typed(made.operands[-1:], [self.type()])
        return []

    # -- operations with a syntax of their own

    def constant_operation(self, made: Operation) -> list[Type]:
        """``arith.constant 1.0 : f32``, ``true``, ``dense<0> : tensor<8xi32>``."""
        if self.at("{"):
            self.merge(made, self.dictionary("{", "}"))
            self.allowed(made.attributes, frozenset())
        if self.at("dense<"):
            values = self.dense()
            self.expect(":")
            type_ = self.type()
        else:
            values = self.number()
            if values in ("true", "false"):
                made.attributes["value"] = values == "true"
                return [Scalar("i1")]
            self.expect(":")
            type_ = self.type()
            if not isinstance(type_, Scalar):
                raise self.fail("a constant of a scalar type")
        made.attributes["value"] = self.constant(values, type_)
        return [type_]

    def dot_scaled(self, made: Operation) -> list[Type]:
        """``%a scale %s, %b scale %t, %c lhs = e4m3 rhs = e2m1 {fastMath = false} : A, S * B, T -> C``; no scale, no
        type of one."""
        for side in ("lhs", "rhs"):
            made.operands.append(self.value())
            made.attributes[f"{side}_scale"] = scaled = self.accept("scale")
            if scaled:
                made.operands.append(self.value())
            self.expect(",")
        made.operands.append(self.value())
        for side in ("lhs", "rhs"):
            self.expect(side)
            self.expect("=")
            format = self.take(_WORD, "a format")
            if format not in grammar.WORDS[side]:
                raise self.fail(f"a format that tensorlib knows, not {format!r}")
            made.attributes[side] = format
        if self.at("{"):
            given = self.dictionary("{", "}")
            self.allowed(given, frozenset(("fastMath", "lhs_k_pack", "rhs_k_pack")))
            self.merge(made, given)
        self.expect(":")
        types = []
        for side in ("lhs", "rhs"):
            types.append(self.type())
            if made.attributes[f"{side}_scale"]:
                self.expect(",")
                types.append(self.type())
            self.expect("*" if side == "lhs" else "->")
        result = self.type()
        self.typed(made.operands, [*types, result])
        return [result]

    def inline_assembly(self, made: Operation) -> list[Type]:
        """``"griddepcontrol.wait; ..." {...} -> i32``: of a GPU's assembly what orders launches. Nothing to do."""
        text = _unquoted(self.take(_STRING, "a string"))
        if not text.startswith("griddepcontrol."):
            raise self.fail("another operation: assembly is a GPU's; write it in tl")
        self.dictionary("{", "}")
        self.expect("->")
        made.name = "ub.poison"
        return [self.type()]

    def assigned(self, block: Block) -> tuple[list[str], list[Value]]:
        """``(%a = %x, ...)``: names of arguments, and what they begin as."""
        names: list[str] = []
        values: list[Value] = []

        def pair() -> None:
            names.append(self.take(_NAME, "an argument"))
            self.expect("=")
            values.append(self.value())

        self.expect("(")
        self.listed(")", pair)
        return names, values

    def bind(self, block: Block, names: list[str], types: list[Type]) -> None:
        """Arguments of a block whose types come after their names."""
        if len(names) != len(types):
            raise self.fail(f"{len(names)} types")
        for name, type_ in zip(names, types, strict=True):
            made = Value(type_, None, len(block.arguments), name, block)
            block.arguments.append(made)
            self.define(name, made)

    def trailing(self, made: Operation) -> None:
        """Attributes after the regions."""
        if self.accept("attributes") or self.at("{"):
            self.merge(made, self.dictionary("{", "}"))
            self.allowed(made.attributes, frozenset(("unsigned",)))

    def for_operation(self, made: Operation) -> list[Type]:
        """``scf.for %i = %lo to %hi step %st iter_args(%a = %x) -> (T) : i32 {...}``."""
        block, known = Block(), len(self.names)
        if self.accept("unsigned"):
            made.attributes["unsigned"] = True
        names = [self.take(_NAME, "the loop's variable")]
        self.expect("=")
        made.operands.append(self.value())
        self.expect("to")
        made.operands.append(self.value())
        self.expect("step")
        made.operands.append(self.value())
        types: list[Type] = []
        if self.accept("iter_args"):
            carried, values = self.assigned(block)
            names += carried
            self.expect("->")
            types = self.type_list()
            self.typed(values, types)
            made.operands += values
        counter: Type = self.type() if self.accept(":") else Scalar("index")
        self.typed(made.operands[:3], [counter] * 3)
        self.bind(block, names, [counter, *types])
        made.regions = [self.region(block, "scf.yield")]
        self.forget(known)
        self.trailing(made)
        self.yields(made, made.regions[0], "scf.yield", types)
        return types

    def if_operation(self, made: Operation) -> list[Type]:
        """``scf.if %c -> (T) {...} else {...}``."""
        made.operands.append(self.value())
        self.typed(made.operands, [Scalar("i1")])
        types = self.type_list() if self.accept("->") else []
        made.regions = [self.region(terminator="scf.yield")]
        if self.accept("else"):
            made.regions.append(self.region(terminator="scf.yield"))
        elif types:
            raise self.fail("else")
        self.trailing(made)
        for region in made.regions:
            self.yields(made, region, "scf.yield", types)
        return types

    def while_operation(self, made: Operation) -> list[Type]:
        """``scf.while (%a = %x) : (T) -> U {...} do {...}``."""
        block, known = Block(), len(self.names)
        names: list[str] = []
        if self.at("("):
            names, made.operands = self.assigned(block)
        self.expect(":")
        before = self.type_list()
        self.typed(made.operands, before)
        self.expect("->")
        types = self.type_list()
        self.bind(block, names, before)
        made.regions = [self.region(block)]
        self.forget(known)
        self.expect("do")
        made.regions.append(self.region(terminator="scf.yield"))
        self.trailing(made)
        self.yields(made, made.regions[0], "scf.condition", types)
        self.yields(made, made.regions[1], "scf.yield", before)
        if [a.type for a in made.regions[1].block.arguments] != types:
            raise self.fail("a body that takes what the condition passes on")
        return types

    def yields(self, made: Operation, region: Region, name: str, types: list[Type]) -> None:
        """Fail unless a region is one block that ends with this operation, and gives these types."""
        if len(region.blocks) != 1 or region.block.terminator.name != name:
            raise self.fail(f"one block that ends with {name}")
        given = region.block.terminator.operands[1 if name == "scf.condition" else 0 :]
        if [v.type for v in given] != types:
            raise self.fail(f"{name} of {', '.join(map(str, types)) or 'nothing'}")

    def successor(self) -> tuple[Block, list[Value]]:
        """``^bb1(%x : T)``."""
        label = self.take(_BLOCK, "a block")
        target = self.blocks[-1].setdefault(label, Block())
        values: list[Value] = []
        if self.accept("("):
            while True:
                values.append(self.value())
                if not self.accept(","):
                    break
            self.expect(":")
            self.typed(values, self.listed(")", self.type))
        return target, values

    def branch(self, made: Operation) -> list[Type]:
        """``cf.br ^bb1(%x : T)``."""
        made.successors = [self.successor()]
        return []

    def conditional_branch(self, made: Operation) -> list[Type]:
        """``cf.cond_br %c, ^bb1(%x : T), ^bb2``."""
        made.operands.append(self.value())
        self.typed(made.operands, [Scalar("i1")])
        if self.accept("weights"):
            raise self.fail("no weights")
        for _ in range(2):
            self.expect(",")
            made.successors.append(self.successor())
        return []


_TYPES: dict[str, Callable[[_Parser, Operation], list[Type]]] = {
    "function": _Parser.function_type,
    **{
        name: getattr(_Parser, name)
        for name in (
            "same", "extended", "compare", "select", "cast", "each", "load", "store", "dot", "operands", "none",
            "unsplat", "condition", "make_descriptor", "descriptor_load", "descriptor_store",
        )
    },
}  # fmt: skip
_SPECIAL: dict[str, Callable[[_Parser, Operation], list[Type]]] = {
    "arith.constant": _Parser.constant_operation,
    "tt.dot_scaled": _Parser.dot_scaled,
    "tt.elementwise_inline_asm": _Parser.inline_assembly,
    "scf.for": _Parser.for_operation,
    "scf.if": _Parser.if_operation,
    "scf.while": _Parser.while_operation,
    "cf.br": _Parser.branch,
    "cf.cond_br": _Parser.conditional_branch,
}
_TERMINATORS = frozenset((
    "tt.return", "tt.reduce.return", "tt.scan.return", "tt.map_elementwise.return", "scf.yield", "scf.condition",
    "cf.br", "cf.cond_br",
))  # fmt: skip


def _check_end(block: Block, parser: _Parser) -> None:
    """Fail unless the last operation of a block, and no other, is one that ends blocks; branches fit their targets."""
    if not block.operations or block.terminator.name not in _TERMINATORS:
        raise parser.fail("a block that ends with a yield, a return or a branch")
    if any(o.name in _TERMINATORS for o in block.operations[:-1]):
        raise parser.fail("a block that ends with its yield, return or branch")
    for target, values in block.terminator.successors:
        if [v.type for v in values] != [a.type for a in target.arguments]:
            raise parser.fail(f"what {target.name} takes")


def _check_calls(function: Function, functions: dict[str, Function]) -> None:
    """Fail unless every function that is called is there and takes what it is given."""
    for operation in walk(function.body):
        if operation.name == "tt.call":
            called = functions.get(operation.attributes["callee"])
            if (
                called is None
                or [a.type for a in called.arguments] != [v.type for v in operation.operands]
                or called.results != [v.type for v in operation.results]
            ):
                raise UnsupportedError(
                    f"native: tt.call ({operation.file}:{operation.line}): @{operation.attributes['callee']}: "
                    f"expected a function of the module that takes these operands"
                )
        if operation.name == "tt.return" and [v.type for v in operation.operands] != function.results:
            raise UnsupportedError(
                f"native: tt.return ({operation.file}:{operation.line}): expected to return what @{function.name} says"
            )


def _flat(values: Any, shape: tuple[int, ...], parser: _Parser) -> Iterator[Any]:
    """The elements of nested lists, in order. They must have the shape."""
    if not shape:
        yield values
        return
    if not isinstance(values, list) or len(values) != shape[0]:
        raise parser.fail(f"{shape[0]} elements")
    for value in values:
        yield from _flat(value, shape[1:], parser)


_FLOATS: dict[str, Any] = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f8E4M3FN": ml_dtypes.float8_e4m3fn, "f8E5M2": ml_dtypes.float8_e5m2,
    "f8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "f8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "f8E4M3B11FNUZ": ml_dtypes.float8_e4m3b11fnuz,
}  # fmt: skip


def _float_of_bits(bits: int, type_: Scalar) -> float:
    """The number that the bits are; of 8-bit floats the bits, which is what holds them everywhere."""
    if type_.bits == 8:
        return bits
    if type_.name == "f64":
        return float(struct.unpack("<d", bits.to_bytes(8, "little"))[0])
    if type_.name == "f32":
        return float(struct.unpack("<f", bits.to_bytes(4, "little"))[0])
    return float(np.frombuffer(bits.to_bytes(type_.bits // 8, "little"), _FLOATS[type_.name])[0])


_ESCAPE = re.compile(r"\\([0-9A-Fa-f]{2}|.)")


def _unquoted(text: str) -> str:
    """The string that a literal is: bytes are escaped as two hexadecimal digits."""

    def one(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code, 16)) if len(code) == 2 else {"n": "\n", "t": "\t"}.get(code, code)

    plain = _ESCAPE.sub(one, text[1:-1])
    try:
        return plain.encode("latin-1").decode("utf-8") if "\\" in text else plain
    except UnicodeError:
        return plain


def _closing(text: str, place: int) -> int:
    """The place after the parenthesis that closes one opened just before a place."""
    depth = 1
    for found in _PAIRS.finditer(text, place):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(text)


class _Locations:
    """Files and lines by the names that the text gives them: ``#loc1 = loc("file.py":3:4)``."""

    _DEFINED = re.compile(r"^(#loc\d*) = loc\((.*)\)$", re.M)
    _FILE = re.compile(r'"((?:[^"\\]|\\.)*)":(\d+):(\d+)')
    _NAMED = re.compile(r'"(?:[^"\\]|\\.)*"\((.*)\)$')
    _CALL = re.compile(r"callsite\((.*) at (.*)\)$")
    _FUSED = re.compile(r"fused(?:<.*>)?\[(#loc\d*)")

    def __init__(self, text: str) -> None:
        self._texts = dict(self._DEFINED.findall(text))
        self._known: dict[str, tuple[str, int]] = {}

    def of(self, name: str) -> tuple[str, int]:
        """Of a name: its file and line; ("", 0) where they are not known."""
        found = self._known.get(name)
        if found is None:
            self._known[name] = ("", 0)  # a name that leads to itself
            found = self._known[name] = self.read(self._texts.get(name, ""))
        return found

    def read(self, text: str) -> tuple[str, int]:
        """Of what is written within ``loc(...)``."""
        if text.startswith("#"):
            return self.of(text)
        if (found := self._FILE.match(text)) is not None:
            return _unquoted(f'"{found[1]}"'), int(found[2])
        if (found := self._NAMED.match(text)) is not None:
            return self.read(found[1])
        if (found := self._CALL.match(text)) is not None:
            file, line = self.read(found[1])
            # Whoever reads a message wrote the call, not what Triton's own library is made of.
            own = not file or "/triton/language/" in file.replace("\\", "/")
            return self.read(found[2]) if own else (file, line)
        if (found := self._FUSED.match(text)) is not None:
            return self.of(found[1])
        return "", 0

    def of_line(self, line: str) -> tuple[str, int]:
        """Of the operation that a line of text ends."""
        names = _LOCATION.findall(line)
        return self.of(names[-1]) if names else ("", 0)
