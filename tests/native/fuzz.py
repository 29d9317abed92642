"""Random well-formed Triton kernels, as source text: the generator behind test_fuzz.py and tools/fuzz_native.py.

A program is a list of statements, each one operation on variables whose type is known; it is rendered to a module that
holds a kernel and its device functions. Statements can be dropped, or replaced by a constant of their type, and the
rest still makes a program: that is how a failing one is made small (`fuzz_oracle.reduce`).

What a program computes is defined: no lane that a mask leaves undefined is stored, no division by zero, no shift by the
width or more, no conversion out of range, no order of additions that shows. For that each value has a kind:
  plain     computed by operations that IEEE or two's complement define to the bit
  tame      small whole numbers: their sums, products and dots are exact in any order
  positive  from [0.5, 1.5]: sums have no cancellation, so that a relative bound holds
  close     right to a few units in the last place only: it goes to an `ap_` buffer, which is compared so
A kernel's parameters are described by their names, so that the text alone can be run (`fuzz_oracle.arguments`):
  in_f32, tm_f32, po_f32   inputs: any values, tame ones, positive ones      in_f32_at3   the same memory, 3 elements on
  out_f32, ap_f32          results, compared to the bit, or closely          io_f32       read and written in place
  ct_i32                   counters that every program adds to               n37, m5, q7  37, -5, 7/4   C4  a constexpr
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

SIZE = 4096  #: elements of an input
REGION = 2048  #: elements of a result that one program owns
PLACE = 320  #: elements that one program owns of a buffer changed in place
PROGRAMS = 8  #: most programs of a grid
COUNTERS = 256  #: elements of a buffer of counters

INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
FLOATS = ("f16", "bf16", "f32", "f64")
LANGUAGE = {
    "b": "tl.int1", "i8": "tl.int8", "i16": "tl.int16", "i32": "tl.int32", "i64": "tl.int64",
    "u8": "tl.uint8", "u16": "tl.uint16", "u32": "tl.uint32", "u64": "tl.uint64",
    "f16": "tl.float16", "bf16": "tl.bfloat16", "f32": "tl.float32", "f64": "tl.float64", "f8": "tl.float8e5",
}  # fmt: skip
BITS = {d: 1 if d == "b" else int(re.sub(r"\D", "", d)) for d in LANGUAGE}

PRELUDE = {
    "tame": """
@triton.jit
def tame(x):
    y = tl.where(x == x, x, 0.0).to(tl.float32)
    return (tl.floor(tl.minimum(tl.maximum(y, -4.0), 4.0)) + 0.0).to(x.dtype)
""",
    "bounded": """
@triton.jit
def bounded(x, LOW: tl.constexpr):
    y = tl.where(x == x, x, 0.0).to(tl.float32)
    return tl.minimum(tl.maximum(y, LOW), 100.0)
""",
    "multiply_add": """
@triton.jit
def multiply_add(a, b):
    return a * 3 + b
""",
    "multiply": """
@triton.jit
def multiply(a, b):
    return a * b
""",
    "first": """
@triton.jit
def first(a, b):
    return a
""",
    "last": """
@triton.jit
def last(a, b):
    return b
""",
    "larger": """
@triton.jit
def larger(a, i, b, j):
    take = (a > b) | ((a == b) & (i < j))
    return tl.where(take, a, b), tl.where(take, i, j)
""",
    "affine": """
@triton.jit
def affine(a, b, c, d):
    return a * c, b * c + d
""",
    "apart": """
@triton.jit(noinline=True)
def apart(x, y):
    return x + y
""",
    "twice": """
@triton.jit
def twice(x, y):
    return y, x
""",
}


class Type(NamedTuple):
    """Of a tile: its shape, () for a scalar, and its element type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(eq=False)
class Var:
    """A variable of the program."""

    name: str
    type: Type
    kind: str = "plain"
    product: bool = False  #: a float product: adding to it may be one fused operation
    fixed: bool = False  #: never assigned again
    used: bool = False

    @property
    def constant(self) -> str:
        """What may stand for it."""
        return f"tl.full({list(self.type.shape)}, 1, {LANGUAGE[self.type.dtype]})"


@dataclass(eq=False)
class Statement:
    """Lines with `{0}`, `{1}` … for the variables, those it defines first; or a block with bodies."""

    tag: str
    text: str
    defines: tuple[Var, ...] = ()
    uses: tuple[Var, ...] = ()
    assigns: tuple[Var, ...] = ()
    parts: list[tuple[str, list[Statement]]] = field(default_factory=list)  #: of a block: (header, body)
    state: str = "kept"  #: or "constant": its variables are constants; or "gone"

    def lines(self, indent: str) -> Iterator[str]:
        """Its source."""
        names = [v.name for v in (*self.defines, *self.uses)]
        if self.state == "constant":
            for v in self.defines:
                yield f"{indent}{v.name} = {v.constant}"
        elif self.state == "kept":
            for line in self.text.splitlines():
                yield indent + line.format(*names)
            for header, body in self.parts:
                yield indent + header.format(*names)
                inner = [line for s in body for line in s.lines(indent + "    ")]
                yield from inner or [indent + "    pass"]


@dataclass(eq=False)
class Function:
    """A device function."""

    name: str
    parameters: list[Var]
    body: list[Statement]
    result: Var
    noinline: bool

    def source(self) -> str:
        """Its definition."""
        head = "@triton.jit(noinline=True)" if self.noinline else "@triton.jit"
        lines = [line for s in self.body for line in s.lines("    ")]
        parameters = ", ".join(p.name for p in self.parameters)
        return "\n".join([head, f"def {self.name}({parameters}):", *lines, f"    return {self.result.name}", ""])


HEADER = """import triton
import triton.language as tl
"""
PID = """
    pid = tl.program_id(0) + tl.num_programs(0) * (tl.program_id(1) + tl.num_programs(1) * tl.program_id(2))
"""[1:-1]
PARAMETER = re.compile(r"\b(?:(?:in|tm|po|out|ap|io|ct)_(?:i|u|f|bf)\d+(?:_at\d+)?|[nmq]\d+|C\d+)\b")


@dataclass(eq=False)
class Program:
    """A kernel, its device functions and its grid."""

    seed: int
    grid: tuple[int, ...]
    body: list[Statement]
    functions: list[Function]

    def source(self) -> str:
        """The module: what it does not reach is left out."""
        body = "\n".join(line for s in self.body for line in s.lines("    "))
        names = sorted(set(PARAMETER.findall(body)), key=lambda n: (n[0] == "C", n))
        parameters = ", ".join(f"{n}: tl.constexpr" if n[0] == "C" else n for n in names)
        text = body
        functions: list[str] = []
        for function in reversed(self.functions):
            if re.search(rf"\b{function.name}\(", text):
                functions.insert(0, function.source())
                text += functions[0]
        prelude = [source for name, source in PRELUDE.items() if re.search(rf"\b{name}\b", text)]
        kernel = f"@triton.jit\ndef kernel({parameters}):\n{PID}\n{body}\n"
        return "\n\n".join(
            [HEADER + f"\nGRID = {self.grid}\n", *(f.strip() + "\n" for f in [*prelude, *functions]), kernel]
        )

    def statements(self) -> list[Statement]:
        """All of them, a block before what is in it."""

        def walk(body: list[Statement]) -> Iterator[Statement]:
            for s in body:
                yield s
                for _, inner in s.parts:
                    yield from walk(inner)

        return [*walk(self.body), *(s for f in self.functions for s in walk(f.body))]

    def tags(self) -> Counter[str]:
        """How often each construct occurs."""
        return Counter(s.tag for s in self.statements() if s.state == "kept")


@dataclass
class Options:
    """What programs may hold."""

    statements: int = 14
    fused: bool = True  #: a product and the addition to it may round once: programs do not show it
    saturate: bool = True  #: conversions of floats out of the range of an integer
    only: frozenset[str] = frozenset()  #: constructs to choose from, if any are given
    without: frozenset[str] = frozenset()


CONSTRUCTS: dict[str, tuple[float, bool, Callable[[Any], Any]]] = {}  # name -> weight, whether pure, method


def construct(weight: float, pure: bool = True) -> Callable[[Any], Any]:
    """A method that adds one kind of statement. pure: it may stand in a device function."""

    def declare(method: Any) -> Any:
        CONSTRUCTS[method.__name__] = weight, pure, method
        return method

    return declare


class Generator:
    """Writes one program. The same seed and options give the same program."""

    def __init__(self, seed: int, options: Options | None = None) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.options = options or Options()
        self.count = 0
        self.functions: list[Function] = []
        self.scopes: list[tuple[list[Var], list[Statement]]] = [([], [])]
        self.slots: Counter[str] = Counter()  # elements of a result that are taken
        self.inside = False  # a device function is being written
        self.depth = 0
        size = 2 ** self.rng.choice([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10])
        self.shapes = [self._shape_of(size, rank) for rank in (1, 1, 2, 2, 3)]
        # Few types a program, so that its values meet.
        self.dtypes = [*self.rng.sample(INTEGERS, 2), self.rng.choice(FLOATS), self.rng.choice(("i32", "f32"))]

    def _shape_of(self, size: int, rank: int) -> tuple[int, ...]:
        shape = [1] * rank
        while prod(shape) < size:
            shape[self.rng.randrange(rank)] *= 2
        return tuple(shape)

    # -- variables and statements

    def name(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def add(self, statement: Statement) -> None:
        for v in statement.uses:
            v.used = True
        self.scopes[-1][1].append(statement)

    def emit(
        self, tag: str, text: str, *uses: Var, like: Var | None = None, shape: tuple[int, ...] = (), dtype: str = "",
        kind: str = "plain", product: bool = False,
    ) -> Var:  # fmt: skip
        """`v = text`, with `{}` for each of uses; v is of the type of another, or of a shape and dtype."""
        v = Var(self.name(), Type(shape, dtype) if like is None else like.type, kind, product)
        filled = text.format(*(f"{{{i + 1}}}" for i in range(len(uses))))
        self.add(Statement(tag, "{0} = " + filled, (v,), uses))
        self.scopes[-1][0].append(v)
        return v

    def visible(self, test: Callable[[Var], bool]) -> list[Var]:
        return [v for names, _ in self.scopes for v in names if test(v)]

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def dtype(self, of: tuple[str, ...] = (*INTEGERS, *FLOATS)) -> str:
        known = [d for d in self.dtypes if d in of]
        return self.rng.choice(known) if known and self.chance(0.9) else self.rng.choice(of)

    def shape(self) -> tuple[int, ...]:
        return self.rng.choice(self.shapes)

    def any(self, of: tuple[str, ...] = (*INTEGERS, *FLOATS), rank: int | None = None, most: int = 512) -> Var:
        """A value that there is, of one of the types."""
        found = self.visible(
            lambda v: v.type.dtype in of and v.kind != "close" and v.type.size <= most
            and (len(v.type.shape) >= 1 if rank is None else len(v.type.shape) == rank)
        )  # fmt: skip
        fresh = [v for v in found if not v.used]
        if fresh and self.chance(0.5):
            return self.rng.choice(fresh)
        if found and self.chance(0.85):
            return self.rng.choice(found)
        shapes = [s for s in self.shapes if prod(s) <= most and (rank is None or len(s) == rank)]
        fitting = 1 if rank == 0 else min(most, 16)
        shape = self.rng.choice(shapes) if shapes else self._shape_of(fitting, 1 if rank is None else rank)
        return self.value(self.dtype(of), shape)

    def value(self, dtype: str, shape: tuple[int, ...], fresh: float = 0.3) -> Var:
        """A value of that type: one that there is, one converted, or a new one."""
        exact = [v for v in self.visible(lambda v: v.type == Type(shape, dtype) and v.kind != "close")]
        if exact and not self.chance(fresh):
            return self.rng.choice(exact)
        if not self.chance(fresh):
            like = self.visible(lambda v: v.type.shape == shape and v.type.dtype != dtype and v.kind != "close")
            if like:
                return self.cast(self.rng.choice(like), dtype)
            smaller = self.visible(
                lambda v: v.type.dtype == dtype and v.kind != "close" and v.type.shape != shape
                and prod(v.type.shape) in (1, prod(shape))
            )  # fmt: skip
            if smaller:
                return self.reshaped(self.rng.choice(smaller), shape)
        return self.new(dtype, shape)

    def new(self, dtype: str, shape: tuple[int, ...]) -> Var:
        """A value made of nothing that there is."""
        if dtype == "b":
            a = self.new(self.dtype(INTEGERS), shape)
            return self.emit(
                "compare",
                f"{{}} {self.rng.choice(['<', '==', '>='])} {self.rng.randrange(100)}",
                a,
                shape=shape,
                dtype="b",
            )
        if not self.inside and self.chance(0.75):
            return self.load(dtype, shape)
        language = LANGUAGE[dtype]
        if shape and dtype in INTEGERS and self.chance(0.7) and prod(shape) * 3 < 2 ** (BITS[dtype] - 1):
            return self.emit(
                "arange", f"{self.affine(shape, self.strides(shape))}.to({language})", shape=shape, dtype=dtype
            )
        if dtype in FLOATS:
            number: Any = self.rng.choice([-0.0, 0.5, 1.0, -2.0, 3.25, 1e-3, 1e4])
            tame = number in (1.0, -2.0)
            return self.emit(
                "full",
                f"tl.full({list(shape)}, {number}, {language})",
                shape=shape,
                dtype=dtype,
                kind="tame" if tame else "plain",
            )
        number = self.rng.choice([0, 1, 2, 5, 100, 127])
        return self.emit("full", f"tl.full({list(shape)}, {number}, {language})", shape=shape, dtype=dtype)

    # -- indices and memory

    def strides(self, shape: tuple[int, ...], by: int = 1) -> list[int]:
        """Of the elements in row-major order, or with the axes in another."""
        order = list(range(len(shape)))[::-1]
        if self.chance(0.3):
            self.rng.shuffle(order)
        strides, step = [0] * len(shape), by
        for axis in order:
            strides[axis] = step
            step *= shape[axis]
        return strides

    def affine(self, shape: tuple[int, ...], strides: list[Any], plus: str = " + ") -> str:
        """sum of arange * stride over the axes, of that shape."""
        terms = []
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
            at = ", ".join(":" if i == axis else "None" for i in range(len(shape)))
            lane = f"tl.arange(0, {size})" + (f"[{at}]" if len(shape) > 1 else "")
            terms.append(lane if stride == 1 else f"{lane} * {stride}")
        return f"({plus.join(terms)})" if terms else "0"

    def distinct(self, shape: tuple[int, ...], room: int) -> tuple[str, int]:
        """An index tile without repetition, below room if room >= 3 * size; and how many elements it spans."""
        size = prod(shape)
        by = self.rng.choice([1, 1, 1, 1, 2, 3]) if room >= 3 * size else 1
        text = self.affine(shape, self.strides(shape, by))
        span = by * (size - 1) + 1
        form = self.rng.choice(["", "", "", "reversed", "xor", "rotated"])
        if form == "reversed":
            text = f"({span - 1} - {text})"
        elif form == "xor" and by == 1 and size > 1:
            text = f"({text} ^ {self.rng.randrange(size)})"
        elif form == "rotated" and by == 1 and size > 1:
            wrap = self.rng.choice([f"% {size}", f"& {size - 1}", f"% n{size}"])
            text = f"(({text} + {self.rng.randrange(1, 2 * size)}) {wrap})"
        return text, span

    def index(self, shape: tuple[int, ...], room: int) -> tuple[str, list[Var], int]:
        """An index tile for loads, what it uses, and how many elements from 0 it reaches; at most room."""
        size = prod(shape)
        form = self.rng.choice(["distinct", "distinct", "runtime", "modulo", "divided", "zero", "gather", "wide"])
        if form == "runtime" and size * 5 < room:
            by = self.rng.choice([1, 2, 3, 5])
            strides = [f"{s} * n{by}" for s in self.strides(shape)]
            return self.affine(shape, strides), [], by * (size - 1) + 1
        if form == "modulo":
            limit = self.rng.choice([1, 3, 7, 8, 24, 100])
            text, _ = self.distinct(shape, 0)
            shown = self.rng.choice([str(limit), f"n{limit}"])
            return f"(({text} + {self.rng.randrange(50)}) % {shown})", [], limit
        if form == "divided":
            text, span = self.distinct(shape, 0)
            by = self.rng.choice([2, 3, 4])
            return f"({text} // {by})", [], span
        if form == "zero" and shape:
            strides = self.strides(shape)
            strides[self.rng.randrange(len(shape))] = 0
            return self.affine(shape, strides), [], size
        if form == "gather" and shape:
            limit = self.rng.choice([m for m in (1, 8, 16, 64, 128) if m <= room])
            v = self.value(self.rng.choice(["i32", "i32", "i64", "u32", "i16"]), shape)
            return f"({{}} & {limit - 1})", [v], limit
        text, span = self.distinct(shape, room)
        if form == "wide" and shape:
            text = f"{text}.to(tl.int64)"
        return text, [], span

    def mask(self, shape: tuple[int, ...], text: str, span: int) -> tuple[str, list[Var]]:
        """A mask of that shape for an index of that text."""
        size = prod(shape)
        if self.chance(0.5) and "{" not in text:
            bound = self.rng.choice([0, 1, size // 2, size - 1, size, span - 1, span, max(1, size // 3)])
            return f"{text} < {self.rng.choice([str(bound), f'n{bound}'])}", []
        if self.chance(0.3):
            limit = self.rng.randrange(3)
            return f"pid {self.rng.choice(['<', '>=', '!='])} {limit}", []
        return "{}", [self.value("b", shape, fresh=0.1)]

    def load(self, dtype: str, shape: tuple[int, ...], buffer: str = "") -> Var:
        """A load from an input, masked or not: lanes that the mask leaves undefined are replaced at once."""
        kind = "plain"
        if not buffer:
            kind = self.rng.choice(["plain", "plain", "tame", "positive"]) if dtype in FLOATS else "plain"
            buffer = f"{ {'plain': 'in', 'tame': 'tm', 'positive': 'po'}[kind] }_{dtype}"
        shift = 0
        if self.chance(0.1):
            shift = self.rng.choice([0, 1, 3, 16])
            buffer += f"_at{shift}"
        form = self.rng.choice(["plain", "plain", "masked", "masked", "tail", "chained"])
        language = LANGUAGE[dtype]
        tag = "load"
        if form == "tail" and shape:
            keep = self.rng.randrange(1, prod(shape) + 1)
            at = self.affine(shape, self.strides(shape))
            shown = self.rng.choice([str(keep), f"n{keep}"])
            pointers, uses, condition, masks = (
                f"{buffer} + ({SIZE - shift} - {shown}) + {at}",
                [],
                f"{at} < {shown}",
                [],
            )
            form = "masked"
        elif form == "chained" and len(shape) > 1:
            offset = self.rng.randrange(SIZE // 2)
            pointers, uses = f"{buffer} + {offset} + {self.affine(shape, self.strides(shape))[1:-1]}", []
            tag = "load.chained"
        else:
            text, uses, span = self.index(shape, SIZE // 2)
            offset = self.rng.choice(
                ["", "", " + pid", " + pid * 16", f" + {self.rng.randrange(SIZE // 4)}", " + 64", " + n16"]
            )
            pointers = f"{buffer}{offset} + {text}"
            condition, masks = self.mask(shape, text, span) if form == "masked" else ("", [])
        extra = self.rng.choice(
            ["", "", "", ", cache_modifier='.cg'", ", eviction_policy='evict_first'", ", volatile=True"]
        )
        if form != "masked":
            return self.emit(tag, f"tl.load({pointers}{extra})", *uses, shape=shape, dtype=dtype, kind=kind)
        choice = self.rng.choice(["none", "zero", "number", "tile"])
        if prod(shape) == 1 and choice in ("zero", "tile"):
            choice = "number"  # the interpreter takes a zero of one element for no `other`
        if choice == "zero":
            kind = "plain" if kind == "positive" else kind
            return self.emit(
                "load.zero",
                f"tl.load({pointers}, mask={condition}, other=0{extra})",
                *uses,
                *masks,
                shape=shape,
                dtype=dtype,
                kind=kind,
            )
        if choice == "number":
            return self.emit(
                "load.other",
                f"tl.load({pointers}, mask={condition}, other=1{extra})",
                *uses,
                *masks,
                shape=shape,
                dtype=dtype,
                kind=kind,
            )
        if choice == "tile":
            other = self.value(dtype, shape)
            kind = kind if other.kind == kind else "plain"
            v = self.emit(
                "load.tile",
                f"tl.load({pointers}, mask={condition}, other={{}}{extra})",
                *uses,
                *masks,
                other,
                shape=shape,
                dtype=dtype,
                kind=kind,
            )
            v.product = other.product
            return v
        found = f"tl.load({pointers}, mask={condition}{extra})"
        raw = f"tl.where({condition}, {found}, tl.full({list(shape)}, 1, {language}))"
        return self.emit("load.undefined", raw, *masks, *uses, *masks, shape=shape, dtype=dtype, kind=kind)

    def store(self, v: Var) -> None:
        """v to a place of its own in the program's region of a result."""
        dtype = v.type.dtype
        if dtype == "b":
            v = self.emit("cast", "{}.to(tl.int8)", v, shape=v.type.shape, dtype="i8")
            dtype = "i8"
        buffer = f"{'ap' if v.kind == 'close' else 'out'}_{dtype}"
        size = v.type.size
        room = REGION - self.slots[buffer]
        if size > room:
            return
        text, span = self.distinct(v.type.shape, min(room, 3 * size) if v.type.shape else 1)
        at = self.slots[buffer]
        self.slots[buffer] += span
        condition, masks = self.mask(v.type.shape, text, span) if self.chance(0.2) else ("", [])
        place = self.rng.choice(
            [f"{buffer} + pid * {REGION} + {at} + {text}", f"{buffer} + (pid * {REGION} + {at} + {text})"]
        )
        masked = f", mask={condition}" if condition else ""
        filled = f"tl.store({place}, {{}}{masked})".format("{0}", *(f"{{{i + 1}}}" for i in range(len(masks))))
        self.add(Statement("store.masked" if masked else "store", filled, (), (v, *masks)))

    # -- conversions

    def cast(self, v: Var, dtype: str) -> Var:
        """v as another type, where that is defined."""
        source, shape, language = v.type.dtype, v.type.shape, LANGUAGE[dtype]
        if source == dtype:
            return v
        if dtype == "b":
            return self.emit("compare", "{} != 0", v, shape=shape, dtype="b")
        if source in FLOATS and dtype in INTEGERS:
            if v.kind == "tame" and dtype[0] == "i":
                return self.emit("cast", f"{{}}.to({language})", v, shape=shape, dtype=dtype)
            if (
                self.options.saturate
                and source in ("f32", "f64")
                and dtype in ("i32", "i64", "u32")
                and self.chance(0.1)
            ):
                return self.emit("cast.saturated", f"{{}}.to({language})", v, shape=shape, dtype=dtype)
            low = -100.0 if dtype[0] == "i" else 0.0
            return self.emit("cast", f"bounded({{}}, {low}).to({language})", v, shape=shape, dtype=dtype)
        if source in INTEGERS and dtype in FLOATS:
            # Wider integers round twice on the way to a half type, or not, depending on the machine.
            limit = {"f16": 1023, "bf16": 127}.get(dtype)
            if limit is None or BITS[source] <= 8:
                return self.emit("cast", f"{{}}.to({language})", v, shape=shape, dtype=dtype)
            return self.emit("cast", f"({{}} & {limit}).to({language})", v, shape=shape, dtype=dtype)
        if source == "f64" and dtype == "bf16":  # twice rounded in NumPy
            return self.emit("cast", f"{{}}.to(tl.float32).to({language})", v, shape=shape, dtype=dtype, kind=v.kind)
        return self.emit("cast", f"{{}}.to({language})", v, shape=shape, dtype=dtype, kind=v.kind)

    def reshaped(self, v: Var, shape: tuple[int, ...]) -> Var:
        """v with another shape of as many elements, or of one element."""
        keep: dict[str, Any] = {"dtype": v.type.dtype, "kind": v.kind, "product": v.product}
        if v.type.shape == shape:
            return v
        if not v.type.shape:
            return self.emit(
                "splat", f"tl.broadcast_to({{}}, {list(shape)})" if shape else "{}", v, shape=shape, **keep
            )
        if not shape:
            if v.type.dtype not in INTEGERS:
                return self.new(v.type.dtype, ())
            return self.emit("unsplat", f"tl.max({{}}, axis=None).to({LANGUAGE[v.type.dtype]})", v, shape=(), **keep)
        if v.type.size == prod(shape):
            return self.emit("reshape", f"tl.reshape({{}}, {list(shape)})", v, shape=shape, **keep)
        one = self.emit("reshape", f"tl.reshape({{}}, {[1] * len(shape)})", v, shape=(1,) * len(shape), **keep)
        return self.emit("broadcast", f"tl.broadcast_to({{}}, {list(shape)})", one, shape=shape, **keep)

    def tamed(self, v: Var) -> Var:
        """v, or small whole numbers made of it."""
        if v.kind == "tame" or v.type.dtype not in FLOATS:
            return v
        return self.emit("tame", "tame({})", v, shape=v.type.shape, dtype=v.type.dtype, kind="tame")

    # -- elementwise

    @construct(3)
    def arithmetic(self) -> Any:
        a = self.any()
        dtype, shape = a.type.dtype, a.type.shape
        op = self.rng.choice("+-*")
        if op != "*" and self.options.fused and a.product and a.kind != "tame" and dtype in FLOATS:
            op = "*"
        b = self.value(dtype, shape)
        if op != "*" and self.options.fused and b.product and dtype in FLOATS:
            op = "*"
        if self.chance(0.15) and dtype not in ("b",):
            literal = {"f": "2.5", "b": "2.5"}.get(dtype[0], "3")
            text = self.rng.choice([f"({{}} {op} {literal})", f"({literal} {op} {{}})"])
            return self.emit(
                "arithmetic.literal", f"{text}.to({LANGUAGE[dtype]})", a, shape=shape, dtype=dtype, product=op == "*"
            )
        return self.emit(
            f"arithmetic{op}",
            f"({{}} {op} {{}}).to({LANGUAGE[dtype]})",
            a,
            b,
            shape=shape,
            dtype=dtype,
            product=op == "*",
        )

    @construct(0.8)
    def mixed(self) -> Any:
        """Operands of two types, and numbers that make Triton choose a wider one."""
        a = self.any()
        dtype, shape, language = a.type.dtype, a.type.shape, LANGUAGE[a.type.dtype]
        family = INTEGERS if dtype in INTEGERS else FLOATS
        if dtype in INTEGERS and self.chance(0.4):
            numbers = ["100", "True"] + ["-1"] * (dtype[0] == "i") + ["3000000000"] * (dtype in ("u32", "i64", "u64"))
            number = self.rng.choice(numbers)
            op = self.rng.choice("+-*&|^")
            return self.emit("mixed.literal", f"({{}} {op} {number}).to({language})", a, shape=shape, dtype=dtype)
        b = self.value(self.rng.choice([d for d in family if d != dtype]), self.rng.choice([shape, ()]))
        op = "*" if dtype in FLOATS else self.rng.choice(["+", "-", "*", "&", "^"])
        return self.emit("mixed", f"({{}} {op} {{}}).to({language})", a, b, shape=shape, dtype=dtype, product=True)

    @construct(1)
    def scalar_operand(self) -> Any:
        """A tile with a scalar of its type, broadcast by the operation."""
        a = self.any(rank=self.rng.choice([1, 2, 3]))
        dtype = a.type.dtype
        b = self.value(dtype, ())
        return self.emit("scalar_operand", f"({{}} * {{}}).to({LANGUAGE[dtype]})", a, b, like=a, product=True)

    @construct(1)
    def parameter(self) -> Any:
        """A run-time scalar: also 1, multiples of 16, negative ones and those of 64 bits."""
        if self.inside:
            return None
        a = self.any(("i32", "i64", "f32", "f64"))
        dtype = a.type.dtype
        name = (
            f"q{self.rng.randrange(1, 20)}"
            if dtype in FLOATS
            else self.rng.choice(["n1", "n16", "n37", "m5", "m1", "n5000000000"])
        )
        op = "*" if dtype in FLOATS else self.rng.choice("+-*")
        return self.emit("parameter", f"({{}} {op} {name}).to({LANGUAGE[dtype]})", a, like=a, product=True)

    @construct(1)
    def divide(self) -> Any:
        a = self.any()
        dtype, shape, language = a.type.dtype, a.type.shape, LANGUAGE[a.type.dtype]
        b = self.value(dtype, shape)
        if dtype in FLOATS:
            if dtype == "f32" and self.chance(0.3):
                return self.emit("divide.rn", "tl.div_rn({}, {})", a, b, shape=shape, dtype=dtype)
            return self.emit("divide.float", f"({{}} / {{}}).to({language})", a, b, shape=shape, dtype=dtype)
        op = self.rng.choice(["//", "%"])
        if self.chance(0.4):  # by a constant, as in index arithmetic
            by = self.rng.choice([1, 2, 3, 7, 8, 10, 64] + ([-1, -2, -3, -7] if dtype[0] == "i" else []))
            shown = f"tl.full([], {by}, {language})"
            text = f"((({{}} >> 1) {op} {shown})).to({language})"
            return self.emit("divide.constant", text, a, shape=shape, dtype=dtype)
        # The smallest number by -1 overflows: halve it first.
        return self.emit(
            "divide.integer", f"((({{}} >> 1) {op} ({{}} | 1))).to({language})", a, b, shape=shape, dtype=dtype
        )

    @construct(0.4)
    def remainder(self) -> Any:
        a = self.any(("f32", "f64"))
        b = self.value(a.type.dtype, a.type.shape)
        return self.emit("remainder", "{} % {}", self.tamed(a), b, like=a)

    @construct(1)
    def bits(self) -> Any:
        a = self.any(INTEGERS)
        b = self.value(a.type.dtype, a.type.shape)
        return self.emit("bits", f"{{}} {self.rng.choice('&|^')} {{}}", a, b, like=a)

    @construct(1)
    def shift(self) -> Any:
        a = self.any(INTEGERS)
        b = self.value(a.type.dtype, a.type.shape)
        op, last = self.rng.choice(["<<", ">>"]), BITS[a.type.dtype] - 1
        by = f"{self.rng.randrange(last + 1)}" if self.chance(0.4) else f"({{}} & {last})"
        uses = (a, b) if "{" in by else (a,)
        return self.emit("shift", f"({{}} {op} {by}).to({LANGUAGE[a.type.dtype]})", *uses, like=a)

    @construct(1.2)
    def compare(self) -> Any:
        a = self.any()
        b = self.value(a.type.dtype, a.type.shape)
        op = self.rng.choice(["<", "<=", ">", ">=", "==", "!="])
        return self.emit("compare", f"{{}} {op} {{}}", a, b, shape=a.type.shape, dtype="b")

    @construct(0.7)
    def boolean(self) -> Any:
        a = self.any(("b",))
        b = self.value("b", a.type.shape)
        choices = ["{} & {}", "{} | {}", "{} ^ {}", "(~{}) & {}", "{} == {}"]
        text = self.rng.choice(choices if a.type.shape else [*choices, "{} and {}", "(not {}) or {}"])
        return self.emit("boolean", text, a, b, shape=a.type.shape, dtype="b")

    @construct(1.5)
    def where(self) -> Any:
        a = self.any()
        b = self.value(a.type.dtype, a.type.shape)
        c = self.value("b", a.type.shape, fresh=0.1)
        kind = a.kind if a.kind == b.kind else "plain"
        return self.emit("where", "tl.where({}, {}, {})", c, a, b, like=a, kind=kind, product=a.product or b.product)

    @construct(1)
    def extreme(self) -> Any:
        a = self.any()
        dtype = a.type.dtype
        b = self.value(dtype, a.type.shape)
        fn = self.rng.choice(["minimum", "maximum"])
        if dtype in INTEGERS:
            return self.emit("extreme", f"tl.{fn}({{}}, {{}})", a, b, like=a)
        nan = self.rng.choice(["", ", propagate_nan=tl.PropagateNan.ALL", ", propagate_nan=tl.PropagateNan.NONE"])
        # Which of two zeros it is, is not defined: + 0.0 makes both positive.
        text = f"(tl.{fn}({{}}, {{}}{nan}) + 0.0).to({LANGUAGE[dtype]})"
        return self.emit("extreme.all" if "ALL" in nan else "extreme.none", text, a, b, like=a)

    @construct(0.5)
    def clamp(self) -> Any:
        a = self.any(("f32", "f16", "f64"))
        nan = self.rng.choice(["", ", propagate_nan=tl.PropagateNan.ALL"])
        language = LANGUAGE[a.type.dtype]
        text = (
            f"(tl.clamp({{}}, tl.full([], -1.5, {language}), tl.full([], 2.0, {language}){nan}) + 0.0).to({language})"
        )
        return self.emit("clamp", text, a, like=a)

    @construct(1)
    def unary(self) -> Any:
        a = self.any()
        dtype, shape = a.type.dtype, a.type.shape
        if dtype in INTEGERS:
            text = self.rng.choice(["-{}", "~{}", "tl.abs({})"])
            return self.emit("unary", f"({text}).to({LANGUAGE[dtype]})", a, shape=shape, dtype=dtype)
        choices = ["-{}", "tl.abs({})"]
        if dtype in ("f32", "f64"):
            choices += ["tl.floor({})", "tl.ceil({})", "tl.sqrt({})", "tl.sqrt(tl.abs({}))"]
        text = self.rng.choice(choices)
        product = a.product or text == "-{}"
        return self.emit(
            f"unary.{text[3:7] if text[0] == 't' else 'sign'}", text, a, shape=shape, dtype=dtype, product=product
        )

    @construct(0.5)
    def fma(self) -> Any:
        a = self.any(("f32", "f64"))
        b, c = (self.value(a.type.dtype, a.type.shape) for _ in range(2))
        a = self.tamed(a) if a.type.dtype == "f64" else a  # the interpreter's f64 is slow
        return self.emit("fma", "tl.fma({}, {}, {})", a, b, c, like=a)

    @construct(0.4)
    def umulhi(self) -> Any:
        a = self.any(("i32", "u32", "i64", "u64"))
        b = self.value(a.type.dtype, a.type.shape)
        return self.emit("umulhi", f"tl.umulhi({{}}, {{}}).to({LANGUAGE[a.type.dtype]})", a, b, like=a)

    @construct(1.5)
    def conversion(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS, "b"))
        return self.cast(a, self.rng.choice([d for d in (*self.dtypes, *INTEGERS, *FLOATS) if d != a.type.dtype]))

    @construct(0.5)
    def bitcast(self) -> Any:
        """The bits of a number as another type; those of a NaN are not defined."""
        a = self.any()
        dtype, shape = a.type.dtype, a.type.shape
        if dtype in FLOATS:
            to = {"f16": "i16", "bf16": "u16", "f32": "i32", "f64": "i64"}[dtype]
            number = f"tl.where({{}} == {{}}, {{}}, tl.full({list(shape)}, 1.0, {LANGUAGE[dtype]}))"
            text = f"{number}.to({LANGUAGE[to]}, bitcast=True)"
            return self.emit("bitcast", text, a, a, a, shape=shape, dtype=to)
        to = self.rng.choice(
            {8: ["i8", "u8"], 16: ["u16", "f16", "bf16"], 32: ["u32", "f32"], 64: ["u64", "f64"]}[BITS[dtype]]
        )
        return self.emit("bitcast", f"{{}}.to({LANGUAGE[to]}, bitcast=True)", a, shape=shape, dtype=to)

    @construct(0.3)
    def float8(self) -> Any:
        a = self.tamed(self.any(("f32", "f16")))
        return self.emit("float8", f"{{}}.to(tl.float8e5).to({LANGUAGE[a.type.dtype]})", a, like=a, kind="tame")

    @construct(0.2, pure=False)
    def checks(self) -> Any:
        """What changes nothing."""
        text = self.rng.choice(
            ["tl.debug_barrier()", "tl.assume(pid >= 0)", "tl.static_assert(1 < 2)", "tl.device_assert(pid >= 0, 'no')"]
        )
        self.add(Statement(text[3 : text.index("(")], text))

    @construct(0.3)
    def hint(self) -> Any:
        shape = self.shape()
        ones = [1] * len(shape)
        text = f"tl.max_contiguous(tl.multiple_of({self.affine(shape, self.strides(shape))}, {ones}), {ones})"
        return self.emit("hint", text, shape=shape, dtype="i32")

    # -- shapes

    @construct(1.2)
    def reshape(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS, "b"))
        return self.reshaped(a, self._shape_of(a.type.size, self.rng.choice([1, 2, 2, 3])))

    @construct(1.2)
    def transpose(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS, "b"), rank=self.rng.choice([2, 2, 3]))
        order = list(range(len(a.type.shape)))
        self.rng.shuffle(order)
        shape = tuple(a.type.shape[i] for i in order)
        text = "tl.trans({})" if order == [1, 0] else f"tl.permute({{}}, {order})"
        return self.emit("transpose", text, a, shape=shape, dtype=a.type.dtype, kind=a.kind, product=a.product)

    @construct(1)
    def broadcast(self) -> Any:
        """A tile with an axis more, or a row with a column."""
        a = self.any(rank=1, most=32)
        dtype, keep = a.type.dtype, {"kind": a.kind, "product": a.product}
        n = a.type.shape[0]
        m = self.rng.choice([1, 2, 4, 8])
        if self.chance(0.5):
            b = self.value(dtype, (m,))
            op = "*" if dtype in FLOATS else self.rng.choice("+-*^&|")
            return self.emit(
                "broadcast.outer",
                f"({{}}[:, None] {op} {{}}[None, :]).to({LANGUAGE[dtype]})",
                a,
                b,
                shape=(n, m),
                dtype=dtype,
                product=True,
            )
        axis = self.rng.randrange(2)
        one = self.emit(
            "expand_dims",
            f"tl.expand_dims({{}}, {axis})",
            a,
            shape=(1, n) if axis == 0 else (n, 1),
            dtype=dtype,
            **keep,
        )
        shape = (m, n) if axis == 0 else (n, m)
        return self.emit("broadcast", f"tl.broadcast_to({{}}, {list(shape)})", one, shape=shape, dtype=dtype, **keep)

    @construct(0.8)
    def join(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS, "b"), most=128)
        b = self.value(a.type.dtype, a.type.shape)
        keep: dict[str, Any] = {
            "dtype": a.type.dtype,
            "product": a.product or b.product,
            "kind": a.kind if a.kind == b.kind else "plain",
        }
        if self.chance(0.3) and a.type.shape:
            return self.emit(
                "interleave", "tl.interleave({}, {})", a, b, shape=(*a.type.shape[:-1], 2 * a.type.shape[-1]), **keep
            )
        return self.emit("join", "tl.join({}, {})", a, b, shape=(*a.type.shape, 2), **keep)

    @construct(0.7)
    def split(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS, "b"))
        if a.type.size < 2:
            return None
        if a.type.shape[-1] != 2:
            a = self.reshaped(a, (a.type.size // 2, 2))
        pair = [Var(self.name(), Type(a.type.shape[:-1], a.type.dtype), a.kind, a.product) for _ in range(2)]
        self.add(Statement("split", "{0}, {1} = tl.split({2})", tuple(pair), (a,)))
        self.scopes[-1][0].extend(pair)
        return pair[0]

    @construct(0.3)
    def concatenate(self) -> Any:
        """tl.cat, whose order is open: sorted, or summed."""
        a = self.any(("i32", "i16", "u32", "i64"), rank=1, most=32)
        b = self.value(a.type.dtype, a.type.shape)
        keep: dict[str, Any] = {"dtype": a.type.dtype}
        if self.chance(0.5):
            text = f"tl.sum(tl.cat({{}}, {{}}, can_reorder=True), 0).to({LANGUAGE[a.type.dtype]})"
            return self.emit("cat.sum", text, a, b, shape=(), **keep)
        text = "tl.sort(tl.cat({}, {}, can_reorder=True))"
        return self.emit("cat.sort", text, a, b, shape=(2 * a.type.size,), **keep)

    @construct(0.5)
    def flip(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS), most=64)
        if a.type.size < 2:
            return None
        axis = self.rng.randrange(len(a.type.shape))
        if a.type.dtype in FLOATS:
            a = self.tamed(a)  # made of sums of zeros and the value
        return self.emit("flip", f"tl.flip({{}}, {axis})", a, like=a)

    @construct(0.6)
    def gather(self) -> Any:
        a = self.any((*INTEGERS, *FLOATS), most=128)
        if not a.type.shape:
            return None
        axis = self.rng.randrange(len(a.type.shape))
        n = a.type.shape[axis]
        shape = list(a.type.shape)
        shape[axis] = self.rng.choice([n, 2 * n, max(1, n // 2)])
        at = self.value("i32", tuple(shape))
        keep: dict[str, Any] = {"dtype": a.type.dtype, "kind": a.kind, "product": a.product}
        return self.emit("gather", f"tl.gather({{}}, {{}} & {n - 1}, {axis})", a, at, shape=tuple(shape), **keep)

    # -- reductions, scans, sorting

    def _axis(self, a: Var) -> tuple[int | None, tuple[int, ...], str]:
        """An axis to reduce, the shape that is left, and the text of the arguments."""
        shape = a.type.shape
        axis = None if self.chance(0.15) else self.rng.randrange(len(shape))
        keep = axis is not None and self.chance(0.25)
        left = () if axis is None else tuple(1 if i == axis else n for i, n in enumerate(shape) if keep or i != axis)
        return axis, left, f"axis={axis}" + (", keep_dims=True" if keep else "")

    @construct(2)
    def reduction(self) -> Any:
        a = self.any()
        if not a.type.shape:
            return None
        dtype, language = a.type.dtype, LANGUAGE[a.type.dtype]
        axis, left, where = self._axis(a)
        forms = ["sum", "max", "min"]
        if dtype in INTEGERS:
            forms += ["xor_sum", "argmax", "argmin", "multiply", "reduce_or"]
        elif axis is not None:
            forms += ["argmax", "argmin"]
        form = self.rng.choice(forms)
        if form in ("argmax", "argmin"):
            if axis is None:
                return None
            a = self.tamed(a)
            tie = self.rng.choice(["", ", tie_break_left=True"])
            return self.emit(f"reduce.{form}", f"tl.{form}({{}}, {where}{tie})", a, shape=left, dtype="i32")
        if form == "multiply":
            return self.emit(
                "reduce.multiply",
                f"tl.reduce({{}}, {where.replace('axis=', '')}, multiply)"
                if "keep" not in where
                else f"tl.reduce({{}}, {axis}, multiply, keep_dims=True)",
                a,
                shape=left,
                dtype=dtype,
            )
        if form == "reduce_or" and axis is None:
            form = "xor_sum"
        if form == "sum" and dtype in FLOATS:
            if a.kind == "positive" and dtype in ("f32", "f64"):
                return self.emit("reduce.sum.close", f"tl.sum({{}}, {where})", a, shape=left, dtype=dtype, kind="close")
            a = self.tamed(a)
        plus = " + 0.0" if form in ("max", "min") and dtype in FLOATS else ""
        return self.emit(
            f"reduce.{form}", f"(tl.{form}({{}}, {where}){plus}).to({language})", a, shape=left, dtype=dtype
        )

    @construct(0.6)
    def extreme_with_index(self) -> Any:
        a = self.tamed(self.any())
        if not a.type.shape:
            return None
        axis = self.rng.randrange(len(a.type.shape))
        left = tuple(n for i, n in enumerate(a.type.shape) if i != axis)
        value, at = Var(self.name(), Type(left, a.type.dtype)), Var(self.name(), Type(left, "i32"))
        if self.chance(0.5):
            fn = self.rng.choice(["max", "min"])
            text = f"{{0}}, {{1}} = tl.{fn}({{2}}, {axis}, return_indices=True)\n"
            text += f"{{0}} = {{0}}.to({LANGUAGE[a.type.dtype]})"
            self.add(Statement("reduce.return_indices", text, (value, at), (a,)))
        else:
            index = self.affine(a.type.shape, self.strides(a.type.shape))
            self.add(
                Statement(
                    "reduce.pair", f"{{0}}, {{1}} = tl.reduce(({{2}}, {index}), {axis}, larger)", (value, at), (a,)
                )
            )
        self.scopes[-1][0].extend([value, at])
        return value

    @construct(1)
    def scan(self) -> Any:
        a = self.any(most=128)
        if not a.type.shape:
            return None
        dtype, shape = a.type.dtype, a.type.shape
        axis = self.rng.randrange(len(shape))
        back = self.rng.choice(["", ", reverse=True"])
        form = self.rng.choice(["cumsum", "cumsum", "multiply", "last", "larger", "affine"])
        if form in ("multiply", "affine") and dtype in FLOATS:
            form = "cumsum"
        if form == "cumsum":
            a = self.tamed(a)
            return self.emit(
                "scan.cumsum", f"tl.cumsum({{}}, {axis}{back}).to({LANGUAGE[dtype]})", a, shape=shape, dtype=dtype
            )
        if form in ("larger", "affine"):
            b = self.value("i32" if form == "larger" else dtype, shape)
            a = self.tamed(a)
            pair = Var(self.name(), a.type), Var(self.name(), b.type)
            text = f"{{0}}, {{1}} = tl.associative_scan(({{2}}, {{3}}), {axis}, {form}{back})"
            self.add(Statement(f"scan.{form}", text, pair, (a, b)))
            self.scopes[-1][0].extend(pair)
            return pair[0]
        return self.emit(
            f"scan.{form}", f"tl.associative_scan({{}}, {axis}, {form}{back})", a, shape=shape, dtype=dtype
        )

    @construct(0.5)
    def sort(self) -> Any:
        a = self.any(tuple(d for d in (*INTEGERS, "f32", "f64", "f16")), most=64)
        if not a.type.shape or a.type.shape[-1] < 2:
            return None
        a = self.tamed(a)
        descending = self.rng.choice(["", ", descending=True"])
        if self.chance(0.3):
            k = self.rng.choice([k for k in (2, 4, 8) if k <= a.type.shape[-1]])
            return self.emit(
                "topk",
                f"tl.topk({{}}, {k}).to({LANGUAGE[a.type.dtype]})",
                a,
                shape=(*a.type.shape[:-1], k),
                dtype=a.type.dtype,
            )
        return self.emit("sort", f"tl.sort({{}}{descending})", a, like=a)

    @construct(0.4)
    def histogram(self) -> Any:
        a = self.any(("i32",), rank=1)
        bins = self.rng.choice([2, 8, 16, 64])
        if self.chance(0.4):
            m = self.value("b", a.type.shape)
            return self.emit(
                "histogram.masked",
                f"tl.histogram({{}} & {bins - 1}, {bins}, mask={{}})",
                a,
                m,
                shape=(bins,),
                dtype="i32",
            )
        return self.emit("histogram", f"tl.histogram({{}} & {bins - 1}, {bins})", a, shape=(bins,), dtype="i32")

    @construct(0.7)
    def dot(self) -> Any:
        kind = self.rng.choice(["f32", "f32", "f16", "bf16", "i8", "f64", "f8"])
        k = self.rng.choice({"i8": [32], "f8": [32]}.get(kind, [16, 32]))
        m, n = self.rng.choice([1, 2, 8, 16, 32]), self.rng.choice([1, 4, 8, 16, 32])
        batch = (self.rng.choice([1, 2]),) if self.chance(0.1) and kind == "f32" else ()
        out = {"i8": "i32", "f64": "f64"}.get(kind, "f32")
        loaded = "f16" if kind == "f8" else kind
        a, b = (self.tamed(self.value(loaded, (*batch, *s))) for s in ((m, k), (k, n)))
        if self.chance(0.2):  # one operand transposed
            swapped = [*range(len(batch)), len(batch) + 1, len(batch)]
            b = self.emit(
                "transpose",
                f"tl.permute({{}}, {swapped})",
                self.tamed(self.value(loaded, (*batch, n, k))),
                shape=(*batch, k, n),
                dtype=loaded,
                kind="tame",
            )
        cast = ".to(tl.float8e5)" if kind == "f8" else ""
        uses = [a, b]
        shape = (*batch, m, n)
        if self.chance(0.5):
            uses.append(self.tamed(self.value(out, shape)))
        precision = self.rng.choice(["", ", input_precision='ieee'", ", allow_tf32=False"]) if kind == "f32" else ""
        plus = " + 0.0" if out != "i32" else ""
        third = ", {}" if len(uses) == 3 else ""
        text = f"(tl.dot({{}}{cast}, {{}}{cast}{third}{precision}, out_dtype={LANGUAGE[out]}){plus})"
        return self.emit(f"dot.{kind}{'.batch' if batch else ''}", text, *uses, shape=shape, dtype=out)

    @construct(0.3)
    def dot_close(self) -> Any:
        """A dot of positive numbers: right to a relative bound."""
        if self.inside:
            return None
        m, n, k = 16, self.rng.choice([8, 16]), self.rng.choice([16, 32])
        dtype = self.rng.choice(["f32", "f16", "bf16"])
        a = self.emit(
            "load", f"tl.load(po_{dtype} + {self.affine((m, k), [k, 1])})", shape=(m, k), dtype=dtype, kind="positive"
        )
        b = self.emit(
            "load",
            f"tl.load(po_{dtype} + 1000 + {self.affine((k, n), [n, 1])})",
            shape=(k, n),
            dtype=dtype,
            kind="positive",
        )
        return self.emit(
            "dot.close", "tl.dot({}, {}, input_precision='ieee')", a, b, shape=(m, n), dtype="f32", kind="close"
        )

    # -- functions that are right to a few units in the last place

    @construct(1.2)
    def math(self) -> Any:
        a = self.any(("f32", "f64"))
        dtype = a.type.dtype
        fn = self.rng.choice(["exp", "exp2", "log", "log2", "sin", "cos", "erf", "rsqrt", "sigmoid"])
        if fn == "sigmoid" and dtype != "f32":
            fn = "exp"
        if fn in ("log", "log2"):
            text = f"tl.{fn}(tl.abs({{}}) * 8.0 + 2.5)"
        elif fn == "rsqrt":
            text = "tl.rsqrt(tl.abs({}) + 0.5)"
        else:
            text = f"tl.{fn}({{}})"
        a = self.tamed(a)
        return self.emit(f"math.{fn}", text, a, like=a, kind="close")

    @construct(0.5)
    def libdevice(self) -> Any:
        a = self.tamed(self.any(("f32", "f64")))
        text = self.rng.choice(
            ["tanh({})", "log1p(tl.abs({}))", "expm1({})", "pow(tl.abs({}) + 0.5, {})", "atan({})", "sinh({})",
             "atan2({}, tl.abs({}) + 1.0)", "cosh({})", "asinh({})", "exp10({})", "cbrt({})", "hypot({}, {})",
             "erfc({})", "tan({} * 0.25)"]
        )  # fmt: skip
        uses = (a,) * text.count("{}")
        return self.emit(f"libdevice.{text[: text.index('(')]}", f"libdevice.{text}", *uses, like=a, kind="close")

    @construct(0.3)
    def libdevice_exact(self) -> Any:
        a = self.any(("f32", "f64"))
        text = self.rng.choice(
            ["trunc({})", "rint({})", "copysign({}, {})", "fmod({}, {})", "nearbyint({})", "round({})"]
        )
        a = self.tamed(a) if "fmod" in text else a
        uses = (a,) * text.count("{}")
        return self.emit(f"libdevice.{text[: text.index('(')]}", f"libdevice.{text}", *uses, like=a)

    @construct(0.7)
    def of_close(self) -> Any:
        """What keeps a close value close."""
        found = self.visible(lambda v: v.kind == "close" and bool(v.type.shape))
        if not found:
            return None
        a = self.rng.choice(found)
        keep: dict[str, Any] = {"dtype": a.type.dtype, "kind": "close"}
        form = self.rng.choice(["where", "reshape", "scale", "trans"])
        if form == "where":
            c = self.value("b", a.type.shape)
            return self.emit("close.where", "tl.where({}, {}, 2.0)", c, a, shape=a.type.shape, **keep)
        if form == "reshape":
            shape = self._shape_of(a.type.size, self.rng.choice([1, 2, 3]))
            return self.emit("close.reshape", f"tl.reshape({{}}, {list(shape)})", a, shape=shape, **keep)
        if form == "trans" and len(a.type.shape) == 2:
            return self.emit("close.trans", "tl.trans({})", a, shape=a.type.shape[::-1], **keep)
        return self.emit("close.scale", "{} * -3.0", a, shape=a.type.shape, **keep)

    @construct(0.4)
    def random_numbers(self) -> Any:
        shape = self.shape()
        at = self.affine(shape, self.strides(shape))
        seed = self.rng.choice(["7", "123456789", "n37", "pid"]) if not self.inside else "7"
        fn = self.rng.choice(["rand", "rand", "randint", "randn"])
        dtype, kind = {"rand": ("f32", "plain"), "randint": ("u32", "plain"), "randn": ("f32", "close")}[fn]
        cast = ".to(tl.uint32)" if fn == "randint" else ""
        return self.emit(
            f"random.{fn}", f"tl.{fn}({seed}, {at}){cast}", shape=shape, dtype=dtype, kind=kind, product=True
        )

    # -- memory

    @construct(2, pure=False)
    def loading(self) -> Any:
        return self.load(self.dtype(), self.shape())

    @construct(2, pure=False)
    def storing(self) -> Any:
        found = self.visible(lambda v: bool(v.type.size))
        if found:
            self.store(self.rng.choice(found))

    @construct(0.4, pure=False)
    def broadcast_pointers(self) -> Any:
        """A scalar's pointer, a row of pointers and a column of offsets."""
        dtype, m, n = self.dtype(), self.rng.choice([1, 2, 4, 8]), self.rng.choice([1, 4, 16])
        rows = f"(in_{dtype} + {self.rng.randrange(100)} + tl.arange(0, {m}) * 32)[:, None]"
        text = f"tl.load({rows} + tl.arange(0, {n})[None, :])"
        return self.emit("load.pointers", text, shape=(m, n), dtype=dtype)

    @construct(0.4, pure=False)
    def backward_pointers(self) -> Any:
        """Pointers that go down from one inside the buffer."""
        dtype, shape = self.dtype(), self.shape()
        at, span = self.distinct(shape, 3 * prod(shape))
        start = self.rng.randrange(span + 20, span + 200)
        shown = self.rng.choice([f"in_{dtype} + {start} - {at}", f"in_{dtype} - ({at} - {start})"])
        return self.emit("load.backward", f"tl.load({shown})", shape=shape, dtype=dtype)

    @construct(0.4, pure=False)
    def chosen_pointers(self) -> Any:
        """Pointers chosen by a mask, or by a scalar."""
        dtype, shape = self.dtype(), self.shape()
        v, p, q = Var(self.name(), Type(shape, dtype)), self.name("p"), self.name("p")
        at, other = self.distinct(shape, 3 * prod(shape))[0], self.distinct(shape, 3 * prod(shape))[0]
        lines = [f"{p} = in_{dtype} + {at}", f"{q} = in_{dtype} + {self.rng.randrange(100)} + {other}"]
        uses: tuple[Var, ...]
        if self.chance(0.5):
            uses = (self.value("b", shape),)
            lines.append(f"{{0}} = tl.load(tl.where({{1}}, {p}, {q}))")
        else:
            text, uses = self.condition()
            shift = re.sub(r"\{0\}", "{1}", text)
            lines += [f"if {shift}:", f"    {p} = {q} + 1", f"{{0}} = tl.load({p})"]
        self.add(Statement("load.chosen", "\n".join(lines), (v,), uses))
        self.scopes[-1][0].append(v)
        return v

    @construct(0.3, pure=False)
    def bytes_of(self) -> Any:
        """Memory read as another type, and written so."""
        shape = self.rng.choice([s for s in self.shapes if prod(s) <= 64] or [(16,)])
        dtype, to = self.rng.choice([("i32", "i16"), ("i64", "u32"), ("u16", "i8"), ("i8", "i32"), ("f32", "i32")])
        buffer = "io" if dtype != "f32" else "in"
        part = f"{buffer}_{dtype} + pid * {PLACE}" if buffer == "io" else f"in_{dtype} + 64"
        at, _ = self.distinct(shape, prod(shape))
        v = Var(self.name(), Type(shape, to))
        p = self.name("p")
        cast = f".to(tl.pointer_type({LANGUAGE[to]}))"
        text = f"{p} = ({part}){cast} + {at}\n{{0}} = tl.load({p})"
        if buffer == "io" and self.chance(0.5):
            text += f"\ntl.store({p}, {{0}} ^ 5)"
        self.add(Statement("bytes", text, (v,)))
        self.scopes[-1][0].append(v)
        return v

    @construct(0.5, pure=False)
    def indirect(self) -> Any:
        """Load what loaded indices point at, through pointers that are kept in a variable."""
        dtype, shape = self.dtype(), self.shape()
        at = self.value("i32", shape)
        v = Var(self.name(), Type(shape, dtype))
        p = self.name("p")
        limit = self.rng.choice([16, 256, 1024])
        text = f"{p} = in_{dtype} + ({{1}} & {limit - 1})\n{p} += {self.rng.randrange(200)}\n{{0}} = tl.load({p})"
        self.add(Statement("load.indirect", text, (v,), (at,)))
        self.scopes[-1][0].append(v)
        return v

    @construct(1.5, pure=False)
    def in_place(self) -> Any:
        """Read elements of the program's own part and write them elsewhere in it; through aliases too."""
        dtype = self.dtype()
        shape = self.rng.choice([s for s in self.shapes if prod(s) <= 64] or [(16,)])
        size = prod(shape)
        here = f"pid * {PLACE}"

        def place() -> str:
            name = f"io_{dtype}" + (f"_at{self.rng.choice([0, 1, 5, 16])}" if self.chance(0.2) else "")
            text, span = self.distinct(shape, 3 * size)
            at = self.rng.choice([0, 0, 1, 2, 8, 16, size, PLACE - 16 - span])
            return f"{name} + {here} + {max(0, min(at, PLACE - 16 - span))} + {text}"

        read, write = place(), place()
        form = self.rng.choice(["move", "move", "add", "swap", "mask", "twice"])
        v = Var(self.name(), Type(shape, dtype))
        if form == "move":
            text, uses = f"{{0}} = tl.load({read})\ntl.store({write}, {{0}})", ()
        elif form == "add":
            other = self.value(dtype, shape)
            op = "*" if dtype in FLOATS else "+"
            text, uses = (
                f"{{0}} = tl.load({read})\ntl.store({write}, ({{0}} {op} {{1}}).to({LANGUAGE[dtype]}))",
                (other,),
            )
        elif form == "swap":
            second = self.name("p")
            text, uses = (
                f"{{0}} = tl.load({read})\n{second} = tl.load({write})\n"
                f"tl.store({write}, {{0}})\ntl.store({read}, {second})",
                (),
            )
        elif form == "mask":
            mask = self.value("b", shape)
            text, uses = f"{{0}} = tl.load({read})\ntl.store({write}, {{0}}, mask={{1}})", (mask,)
        else:  # what was written is read again
            other = self.value(dtype, shape)
            text, uses = f"tl.store({write}, {{1}})\n{{0}} = tl.load({read})\ntl.store({place()}, {{0}})", (other,)
        self.add(Statement(f"in_place.{form}", text, (v,), uses))
        v.product = True
        self.scopes[-1][0].append(v)
        return v

    @construct(0.7, pure=False)
    def atomics(self) -> Any:
        """Updates whose order does not show; and of the program's own elements, whose old values are used."""
        dtype = self.rng.choice(["i32", "i32", "i64", "u32", "f32", "u64"])
        if self.chance(0.5):
            fn = self.rng.choice(
                ["add", "max", "min", "or", "xor", "and"] if dtype in INTEGERS else ["add", "max", "min"]
            )
            counters = f"ct_{dtype}_at{dict(add=0, max=32, min=64, xor=96, **{'or': 128, 'and': 160})[fn]}"
            a = self.tamed(self.any((dtype,)))
            at = self.value("i32", a.type.shape)
            masked, uses = ("", (a, at))
            if self.chance(0.4):
                masked, uses = ", mask={2}", (a, at, self.value("b", a.type.shape))
            sem = self.rng.choice(["", ", sem='relaxed'", ", sem='release'"])
            self.add(
                Statement(f"atomic.{fn}", f"tl.atomic_{fn}({counters} + ({{1}} & 15), {{0}}{masked}{sem})", (), uses)
            )
            return None
        a = self.any((dtype,), most=64)
        if a.type.dtype == "u64":
            return None
        dtype = a.type.dtype
        text, _ = self.distinct(a.type.shape, 3 * a.type.size if a.type.shape else 1)
        fn = self.rng.choice(["add", "xchg", "max"])
        a = a if fn == "xchg" else self.tamed(a)
        v = self.emit(f"atomic.{fn}.old", f"tl.atomic_{fn}(io_{dtype} + pid * {PLACE} + {text}, {{}})", a, like=a)
        v.product = True
        return v

    @construct(0.25, pure=False)
    def compare_and_swap(self) -> Any:
        dtype = self.rng.choice(["i32", "i64", "u32"])
        shape = self.rng.choice([s for s in self.shapes if prod(s) <= 64] or [()])
        a, b = self.value(dtype, shape), self.value(dtype, shape)
        text, _ = self.distinct(shape, 3 * prod(shape) if shape else 1)
        return self.emit(
            "atomic.cas",
            f"tl.atomic_cas(io_{dtype} + pid * {PLACE} + {text}, {{}}, {{}})",
            a,
            b,
            shape=shape,
            dtype=dtype,
        )

    @construct(0.4, pure=False)
    def descriptor(self) -> Any:
        """A block of a matrix through a tensor descriptor; outside the matrix it is zero."""
        dtype = self.rng.choice(["f32", "f16", "i32", "bf16", "i8"])
        least = 16 * 8 // BITS[dtype]  # 16 bytes a row
        m, n = self.rng.choice([1, 2, 8]), least * self.rng.choice([1, 2])
        rows, columns = self.rng.choice([5, 8, 16]), n * self.rng.choice([1, 2])
        name = self.name("p")
        v = Var(self.name(), Type((m, n), dtype))
        start = f"[{self.rng.choice(['0', '1', 'pid', 'n3'])}, {self.rng.choice(['0', str(least), f'pid * {least}'])}]"
        text = (
            f"{name} = tl.make_tensor_descriptor(in_{dtype}, shape=[{rows}, {columns}], strides=[{columns}, 1], "
            f"block_shape=[{m}, {n}])\n"
            f"{{0}} = {name}.load({start})"
        )
        self.add(Statement("descriptor.load", text, (v,)))
        self.scopes[-1][0].append(v)
        if self.chance(0.5) and m * n * 2 <= PLACE - 16:
            text = (
                f"{name} = tl.make_tensor_descriptor(io_{dtype} + pid * {PLACE}, shape=[{m}, {n}], strides=[{n}, 1], "
                f"block_shape=[{m}, {n}])\n"
                f"{name}.store([{self.rng.choice([0, m // 2])}, 0], {{0}})"
            )
            if PLACE * BITS[dtype] // 8 % 16 == 0:
                self.add(Statement("descriptor.store", text, (), (v,)))
        return v

    # -- control flow

    def leftovers(self) -> None:
        if self.inside:
            return
        for v in [*self.scopes[-1][0]]:
            if not v.used and v.type.size and not v.fixed:
                self.store(v)

    def carried(self) -> list[Var]:
        """Variables from outside that a block will assign."""
        found = self.visible(lambda v: not v.fixed and v.kind != "close")
        chosen = self.rng.sample(found, min(len(found), self.rng.choice([0, 1, 1, 2, 3])))
        for i, v in enumerate(chosen):
            if any(w.type == v.type for w in chosen[:i]):
                # Of two that begin as one value and are exchanged, MLIR's scf.for (Triton 3.9) loses one.
                other = "~{0}" if v.type.dtype == "b" else "{0} * 3" if v.type.dtype in FLOATS else "{0} + 7"
                cast = "" if v.type.dtype == "b" else f".to({LANGUAGE[v.type.dtype]})"
                self.add(Statement("assign", f"{{0}} = ({other}){cast}", (), (v,), (v,)))
        for v in chosen:  # what they are after the block is not known
            v.kind, v.product, v.used = "plain", True, False
        return chosen

    def assign(self, v: Var) -> None:
        """v = v op something of its type."""
        w = self.value(v.type.dtype, v.type.shape)
        if v.type.dtype in FLOATS:
            ops = ["{0} * {1}", "tl.where({0} > {1}, {0}, {1})", "{1}"]
        elif v.type.dtype == "b":
            ops = ["{0} ^ {1}", "{0} & {1}", "{1}"]
        else:
            ops = ["{0} + {1}", "{0} ^ {1}", "{0} * {1}", "tl.maximum({0}, {1})", "{1}", "{0} - 1"]
        text = f"{{0}} = ({self.rng.choice(ops)}).to({LANGUAGE[v.type.dtype]})"
        if v.type.dtype == "b":
            text = f"{{0}} = {self.rng.choice(ops)}"
        self.add(Statement("assign", text, (), (v, w), (v,)))
        v.used = False

    def block(self, statements: int, carried: list[Var], *names: Var) -> list[Statement]:
        self.scopes.append((list(names), []))
        self.depth += 1
        for _ in range(statements):
            self.one()
        for v in carried:
            pair = [w for w in carried if w is not v and w.type == v.type]
            if pair and self.chance(0.6):
                before = self.value(v.type.dtype, v.type.shape, fresh=0.1)  # made of the old values, used after
                form = self.rng.choice(["{0}, {1} = {1}, {0}", "{0} = {1}", "{0}, {1} = {1}, {2}"])
                uses = (v, pair[0]) if "{2}" not in form else (v, pair[0], before)
                self.add(Statement("exchange", form, (), uses, (v, pair[0])))
            if not pair or self.chance(0.6):
                self.assign(v)
        self.leftovers()
        self.depth -= 1
        return self.scopes.pop()[1]

    @construct(1.3, pure=False)
    def loop(self) -> Any:
        if self.depth >= 2:
            return None
        carried = self.carried()
        form = self.rng.choice(["range", "range", "runtime", "runtime", "step", "tl.range", "static", "data", "wide"])
        trips = self.rng.randrange(0, 5)
        uses: tuple[Var, ...] = ()
        k = Var(self.name("k"), Type((), "i64" if form == "wide" else "i32"), fixed=True)
        if form == "range":
            header = f"range({trips})"
        elif form == "runtime":
            header = f"range(0, n{trips})"
        elif form == "step":
            header = self.rng.choice(
                [f"range(1, n{trips * 3}, 3)", f"range(n{trips}, 0, -1)", f"range(m5, n{trips}, 2)"]
            )
        elif form == "tl.range":
            header = f"tl.range(0, n{trips}, num_stages={self.rng.choice([1, 2, 3])})"
        elif form == "static":
            header = f"tl.static_range({min(trips, 2)})"
        elif form == "wide":
            header = f"range(pid.to(tl.int64), pid.to(tl.int64) + {trips})"
        else:
            bound = self.value("i32", ())
            header, uses = "range(0, {0} & 3)", (bound,)
        statements = self.rng.randrange(1, 5)
        names = [] if form == "static" else [k]
        inner = self.block(statements, carried, *names)
        self.add(Statement(f"for.{form}", "", (), uses, (), [(f"for {k.name} in {header}:", inner)]))

    @construct(0.9, pure=False)
    def pointer_loop(self) -> Any:
        """A loop that advances a tile of pointers."""
        if self.depth >= 2:
            return None
        dtype, shape = self.dtype(), self.rng.choice([s for s in self.shapes if prod(s) <= 256] or [(128,)])
        p = self.name("p")
        at, span = self.distinct(shape, 3 * prod(shape))
        trips, step = self.rng.randrange(1, 5), self.rng.choice([1, 16, span, 7])
        kind = self.rng.choice(["in", "tm"]) if dtype in FLOATS else "in"
        self.add(Statement("pointers", f"{p} = {kind}_{dtype} + {self.rng.choice(['0', 'pid', '3'])} + {at}"))
        v = Var(self.name(), Type(shape, dtype), "tame" if kind == "tm" else "plain", fixed=True)
        carried = self.carried()
        k = Var(self.name("k"), Type((), "i32"), fixed=True)
        masked = f", mask={at} < {max(1, prod(shape) // 2)}, other=0" if self.chance(0.3) else ""
        inner = [Statement("load.advancing", f"{{0}} = tl.load({p}{masked})", (v,))]
        inner += self.block(self.rng.randrange(0, 4), carried, k, v)
        shown = self.rng.choice([str(step), f"n{step}"])
        advance = Statement("advance", self.rng.choice([f"{p} += {shown}", f"{p} = {p} + {shown}"]))
        inner.append(advance)
        bound = self.rng.choice([str(trips), f"n{trips}"])
        self.add(Statement("for.pointers", "", (), (), (), [(f"for {k.name} in range({bound}):", inner)]))

    @construct(0.4, pure=False)
    def pointer_ring(self) -> Any:
        """A loop that exchanges tiles of pointers, and moves one of them on a condition."""
        if self.depth >= 2:
            return None
        dtype, shape = self.dtype(), self.rng.choice([s for s in self.shapes if prod(s) <= 64] or [(16,)])
        p, q, k = self.name("p"), self.name("p"), Var(self.name("k"), Type((), "i32"), fixed=True)
        v = Var(self.name(), Type(shape, dtype), fixed=True)
        at, other = self.distinct(shape, 3 * prod(shape))[0], self.distinct(shape, 3 * prod(shape))[0]
        self.add(Statement("pointers", f"{p} = in_{dtype} + {at}\n{q} = in_{dtype} + 300 + {other}"))
        carried = self.carried()
        inner = [Statement("load.ring", f"{{0}} = tl.load({p})", (v,))]
        inner += self.block(self.rng.randrange(0, 3), carried, k, v)
        test = self.rng.choice([f"{k.name} % 2 == 0", "pid > 0", "n3 > 5"])
        inner.append(Statement("pointers.moved", f"if {test}:\n    {p} += {self.rng.choice(['1', '16', 'n3'])}"))
        inner.append(Statement("pointers.exchanged", f"{p}, {q} = {q}, {p}"))
        bound = self.rng.choice(["3", "n4", "n1"])
        self.add(Statement("for.ring", "", (), (), (), [(f"for {k.name} in range({bound}):", inner)]))

    @construct(0.5, pure=False)
    def dot_loop(self) -> Any:
        """A matmul's main loop with a mask on its last step."""
        if self.depth >= 1:
            return None
        dtype = self.rng.choice(["f32", "f16", "bf16"])
        m, n, k = self.rng.choice([8, 16, 32]), self.rng.choice([8, 16]), 16
        total = self.rng.choice([16, 40, 48])
        v = Var(self.name(), Type((m, n), "f32"))
        i = self.name("k")
        a, b = self.name("p"), self.name("p")
        rows, columns = "tl.arange(0, {})[:, None]", "tl.arange(0, {})[None, :]"
        self.add(Statement("dot.start", f"{{0}} = tl.zeros([{m}, {n}], tl.float32)", (v,)))
        lines = (
            f"{a} = tl.load(tm_{dtype} + {rows.format(m)} * 64 + {i} + {columns.format(k)}, "
            f"mask={i} + {columns.format(k)} < n{total}, other=0.0)\n"
            f"{b} = tl.load(tm_{dtype} + 512 + ({i} + {rows.format(k)}) * {n} + {columns.format(n)}, "
            f"mask={i} + {rows.format(k)} < n{total}, other=0.0)\n"
            f"{{0}} = tl.dot({a}, {b}, {{0}})"
        )  # fmt: skip
        carried = self.carried()
        inner = self.block(self.rng.randrange(0, 2), carried, Var(i, Type((), "i32"), fixed=True))
        inner.append(Statement("dot.step", lines, (), (v,), (v,)))
        self.add(Statement("for.dot", "", (), (), (), [(f"for {i} in range(0, n{total}, {k}):", inner)]))
        self.add(Statement("dot.end", "{0} = {0} + 0.0", (), (v,), (v,)))
        self.scopes[-1][0].append(v)
        return v

    @construct(0.7, pure=False)
    def while_loop(self) -> Any:
        if self.depth >= 2:
            return None
        w = Var(self.name("w"), Type((), "i32"), fixed=True)
        self.add(Statement("while.start", f"{{0}} = tl.full([], {self.rng.choice([0, 1])}, tl.int32)", (w,)))
        carried = self.carried()
        form = self.rng.choice(
            [f"{{0}} < {self.rng.randrange(5)}", f"{{0}} < n{self.rng.randrange(1, 5)}", "({0} < 6) & ({1} > {0})"]
        )
        uses = (w,) if "{1}" not in form else (w, self.value("i32", ()))
        inner = self.block(self.rng.randrange(1, 4), carried, w)
        inner.append(Statement("while.step", "{0} += 1", (), (w,), (w,)))
        self.add(Statement("while", "", (), uses, (), [(f"while {form}:", inner)]))

    def condition(self) -> tuple[str, tuple[Var, ...]]:
        """A scalar that decides."""
        form = self.rng.choice(["pid", "parameter", "value", "any"])
        if form == "pid":
            return self.rng.choice(["pid == 0", "pid % 2 == 1", "tl.program_id(0) > 0", "pid > 1 and n3 > 2"]), ()
        if form == "parameter":
            return self.rng.choice(["n37 > 12", "m5 > n1", "n4 == 4"]), ()
        if form == "value":
            return "{0} > 10", (self.value("i32", ()),)
        a = self.any(("i32", "i16"), most=256)
        return ("tl.sum({0}.to(tl.int32), axis=None) > 5", (a,)) if a.type.shape else ("{0} > 5", (a,))

    @construct(1, pure=False)
    def branch(self) -> Any:
        if self.depth >= 2:
            return None
        text, uses = self.condition()
        carried = self.carried()
        parts = [(f"if {text}:", self.block(self.rng.randrange(1, 4), carried))]
        if self.chance(0.5):
            some = self.rng.sample(carried, self.rng.randrange(len(carried) + 1))
            parts.append(("else:", self.block(self.rng.randrange(1, 3), some)))
        self.add(Statement("if", "", (), uses, (), parts))

    @construct(0.4, pure=False)
    def constexpr_branch(self) -> Any:
        if self.depth >= 2:
            return None
        test = self.rng.choice(["C4 > 3", "C4 == 5", "C1 and C4 == 4", "C0"])
        carried = self.carried()
        parts = [(f"if {test}:", self.block(2, carried)), ("else:", self.block(1, carried))]
        self.add(Statement("if.constexpr", "", (), (), (), parts))

    @construct(0.4, pure=False)
    def choice(self) -> Any:
        """a if c else b, of scalars."""
        dtype = self.dtype(INTEGERS)
        text, uses = self.condition()
        a, b = self.value(dtype, ()), self.value(dtype, ())
        filled = re.sub(r"\{0\}", "{}", text)
        count = filled.count("{}")
        return self.emit("ifexp", f"({{}} if {filled} else {{}})", a, *(uses * count), b, shape=(), dtype=dtype)

    # -- device functions

    @construct(0.6, pure=False)
    def call(self) -> Any:
        """A device function of the generator's own, of one or two tiles."""
        if not self.functions or self.chance(0.6):
            noinline = self.chance(0.3)  # of scalars: Triton takes no others
            types = [Type(() if noinline else self.shape(), self.dtype()) for _ in range(self.rng.choice([1, 2]))]
            self.functions.append(self.function(types, noinline))
        f = self.rng.choice(self.functions)
        given = [self.value(p.type.dtype, p.type.shape) for p in f.parameters]
        slots = ", ".join("{}" for _ in given)
        r = f.result
        return self.emit(
            f"call{'.noinline' if f.noinline else ''}",
            f"{f.name}({slots})",
            *given,
            shape=r.type.shape,
            dtype=r.type.dtype,
            kind=r.kind,
            product=True,
        )

    def function(self, types: list[Type], noinline: bool) -> Function:
        outer = self.scopes, self.inside, self.depth
        parameters = [Var(self.name("a"), t) for t in types]
        for p in parameters:
            p.product = True
        self.scopes, self.inside, self.depth = [(list(parameters), [])], True, 2
        for _ in range(self.rng.randrange(1, 5)):
            self.one()
        names, body = self.scopes[0]
        result = self.rng.choice([v for v in names if v not in parameters] or names)
        self.scopes, self.inside, self.depth = outer
        return Function(self.name("fn"), parameters, body, result, noinline)

    @construct(0.3)
    def helpers(self) -> Any:
        a = self.any(rank=self.rng.choice([None, 0]))
        b = self.value(a.type.dtype, a.type.shape)
        if self.chance(0.5) and a.type.dtype in INTEGERS:
            fn = "multiply_add" if a.type.shape else "apart"
            return self.emit(f"call.{fn}", f"{fn}({{}}, {{}})", a, b, like=a)
        pair = Var(self.name(), b.type, b.kind, b.product), Var(self.name(), a.type, a.kind, a.product)
        self.add(Statement("call.tuple", "{0}, {1} = twice({2}, {3})", pair, (a, b)))
        self.scopes[-1][0].extend(pair)
        return pair[0]

    # -- the program

    def one(self) -> None:
        """One more statement, or none where the chosen construct finds nothing to work on."""
        options = self.options
        names = [
            n for n, (_, pure, _) in CONSTRUCTS.items()
            if (pure or not self.inside) and n not in options.without and (not options.only or n in options.only)
        ]  # fmt: skip
        name = self.rng.choices(names, [CONSTRUCTS[n][0] for n in names])[0]
        CONSTRUCTS[name][2](self)

    def program(self) -> Program:
        """The program of this seed."""
        grid = self.rng.choice([(1,), (1,), (2,), (3,), (5,), (2, 2), (1, 3), (2, 1, 2), (2, 2, 2)])
        if prod(grid) > 1 and self.chance(0.1):
            self.add(Statement("return", f"if pid == {self.rng.randrange(3)}:\n    return"))
        for _ in range(self.rng.randrange(min(3, self.options.statements), self.options.statements + 1)):
            self.one()
        self.leftovers()
        if not any("store" in s.tag or "atomic" in s.tag or "in_place" in s.tag for s in self.scopes[0][1]):
            self.store(self.any())
        return Program(self.seed, grid, self.scopes[0][1], self.functions)


def generate(seed: int, options: Options | None = None) -> Program:
    """The program of a seed."""
    return Generator(seed, options).program()
