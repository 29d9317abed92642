"""``tt.dot_scaled`` as operations that are there without it: operands in float32, each group times its scale; a dot.

Formats are those of the OCP Microscaling specification 1.0: e4m3, e5m2 and two e2m1 in a byte, with scales that are
powers of two (e8m0) or, as NVIDIA has them, e4m3. In float32 every product of an element and a scale is exact, where
GPUs without the instruction round it to bfloat16 (which loses nothing but what leaves its range).
"""

from __future__ import annotations

from typing import Any

from tensorlib.runtime.native import ttir
from tensorlib.runtime.native.ttir import Dense, Operation, Scalar, Tensor, Value

_F32, _I32 = Scalar("f32"), Scalar("i32")


def expand(operation: Operation, operands: list[Value], block: ttir.Block) -> Value:
    """Append what the operation is equal to; its result."""
    made = _Builder(operation, block)
    said = operation.attributes
    rest = iter(operands)
    left = next(rest)
    left_scale = next(rest) if said["lhs_scale"] else None
    right = next(rest)
    right_scale = next(rest) if said["rhs_scale"] else None
    a = made.rows(left, left_scale, said["lhs"], said.get("lhs_k_pack", True))
    b = made.rows(made.turned(right), right_scale, said["rhs"], said.get("rhs_k_pack", True))
    accumulator = next(rest)
    return made.emit("tt.dot", [a, made.turned(b), accumulator], accumulator.type, inputPrecision="ieee")


class _Builder:
    """Appends operations to a block, in the place of one."""

    def __init__(self, origin: Operation, block: ttir.Block) -> None:
        self.origin, self.block = origin, block

    def emit(self, name: str, operands: list[Value], type: ttir.Type, **attributes: Any) -> Value:
        """One more operation's result."""
        made = Operation(name, operands, attributes, line=self.origin.line, file=self.origin.file, block=self.block)
        result = Value(type, made, 0, f"{self.origin.result.name}.{len(self.block.operations)}")
        made.results.append(result)
        self.block.operations.append(made)
        return result

    def like(self, x: Value, element: Scalar) -> Tensor:
        """The type of tiles of x's shape."""
        return Tensor(shape_of(x), element)

    def constant(self, x: Value, value: float) -> Value:
        """A tile of x's type."""
        assert isinstance(x.type, Tensor)
        return self.emit("arith.constant", [], x.type, value=Dense(x.type, (value,)))

    def binary(self, name: str, x: Value, y: Value | float) -> Value:
        """An operation of two tiles, or of one and a constant."""
        return self.emit(name, [x, y if isinstance(y, Value) else self.constant(x, y)], x.type)

    def turned(self, x: Value) -> Value:
        """The last two dims exchanged."""
        shape = shape_of(x)
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        assert isinstance(x.type, Tensor)
        return self.emit("tt.trans", [x], Tensor(tuple(shape[d] for d in order), x.type.element), order=order)

    def rows(self, x: Value, scale: Value | None, format: str, packed_along: bool) -> Value:
        """An operand (…, rows, K) in float32, times its scales (…, rows, groups of K)."""
        if format == "e2m1":
            x = self.unpacked(x) if packed_along else self.turned(self.unpacked(self.turned(x)))
        else:
            x = self.widened(x)
        if scale is None:
            return x
        *lead, size = shape_of(x)
        groups = shape_of(scale)[-1]
        factor = self.factor(scale)
        factor = self.emit("tt.expand_dims", [factor], Tensor((*lead, groups, 1), _F32), axis=len(lead) + 1)
        factor = self.emit("tt.broadcast", [factor], Tensor((*lead, groups, size // groups), _F32))
        return self.binary("arith.mulf", x, self.emit("tt.reshape", [factor], self.like(x, _F32)))

    def widened(self, x: Value) -> Value:
        """Floats in float32."""
        assert isinstance(x.type, Tensor) and isinstance(x.type.element, Scalar)
        name = "tt.fp_to_fp" if x.type.element.bits == 8 else "arith.extf"
        return self.emit(name, [x], self.like(x, _F32))

    def unpacked(self, x: Value) -> Value:
        """Two e2m1 a byte, the first in the lower half, along the last dim. As the upper bits of a float32 they are
        2^126 too small, those below the normal ones too."""
        wide = self.emit("arith.extui", [x], self.like(x, _I32))
        values = []
        for shift in (0, 4):
            code = self.binary("arith.shrui", wide, shift) if shift else wide
            magnitude = self.binary("arith.shli", self.binary("arith.andi", code, 7), 22)
            sign = self.binary("arith.shli", self.binary("arith.andi", code, 8), 28)
            bits = self.binary("arith.ori", magnitude, sign)
            small = self.emit("tt.bitcast", [bits], self.like(bits, _F32))
            values.append(self.binary("arith.mulf", small, 2.0**126))
        *lead, size = shape_of(x)
        both = self.emit("tt.join", values, Tensor((*lead, size, 2), _F32))
        return self.emit("tt.reshape", [both], Tensor((*lead, 2 * size), _F32))

    def factor(self, scale: Value) -> Value:
        """Scales in float32: bytes are exponents, 255 NaN."""
        assert isinstance(scale.type, Tensor) and isinstance(scale.type.element, Scalar)
        if scale.type.element.floating:
            return self.widened(scale)
        exponent = self.emit("arith.extui", [scale], self.like(scale, _I32))
        bits = self.binary("arith.shli", exponent, 23)
        for at, special in ((0, 0x00400000), (255, 0x7FC00000)):
            is_it = self.emit(
                "arith.cmpi", [exponent, self.constant(exponent, at)], self.like(scale, Scalar("i1")), predicate="eq"
            )
            bits = self.emit("arith.select", [is_it, self.constant(bits, special), bits], bits.type)
        return self.emit("tt.bitcast", [bits], self.like(bits, _F32))


def shape_of(x: Value) -> tuple[int, ...]:
    """Of a tile."""
    assert isinstance(x.type, Tensor)
    return x.type.shape
