"""What each elementwise operation is on one vector of lanes: a table from TTIR's names to functions.

Nothing traps and nothing is poison. Shifts by the width or more give 0 (or the sign); an integer divided by zero gives
0, and so does its remainder; the least integer divided by -1 is itself. 16-bit floats are computed in float32 and
rounded after each operation. ``maxnumf`` and ``minnumf`` take the number where one operand is NaN, ``maximumf`` and
``minimumf`` take the NaN; so does ``clampf`` where it says that NaN passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import elementary, formula, libdevice, llvm, ttir
from tensorlib.runtime.native.conversions import convert, from_integer, is_float8, round_half, to_float, to_integer
from tensorlib.runtime.native.tiles import Code, Number, Pointers, Uniform, Value, Vector, integer, number

Rule = Callable[[Code, ttir.Operation, list[Value]], Value]
#: operation -> what it does with its operands, at one index
RULES: dict[str, Rule] = {}
#: operations of more than one result: what they do, by the number of the result
MULTIPLE: dict[str, Callable[[Code, ttir.Operation, list[Value], int], Value]] = {}


def scalar_name(type: ttir.Type) -> str:
    """TTIR's name of the number type of a tensor or scalar."""
    element = type.element if isinstance(type, ttir.Tensor) else type
    if not isinstance(element, ttir.Scalar):
        raise UnsupportedError(f"native: {type}: expected numbers")
    return element.name


def compute(code: Code, operation: ttir.Operation, operands: list[Value], result: int = 0) -> Value:
    """One result of an elementwise operation. UnsupportedError where there is no rule."""
    rule = RULES.get(operation.name)
    if rule is not None:
        return rule(code, operation, operands)
    multiple = MULTIPLE.get(operation.name)
    if multiple is None:
        raise UnsupportedError(f"native: {operation.name}: this operation is not supported (line {operation.line})")
    return multiple(code, operation, operands, result)


def known(name: str) -> bool:
    """Whether there is a rule for an operation."""
    return name in RULES or name in MULTIPLE


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


# -- arithmetic of floats ----------------------------------------------------------------------------------------------


def in_float(code: Code, operands: Sequence[Value], function: Callable[..., Number]) -> Number:
    """A function of floats: 16-bit operands are computed as float and the result rounded back."""
    type = operands[0].type
    if type not in ("half", "bfloat"):
        return function(*operands)
    widened = [to_float(code, a, "f16" if type == "half" else "bf16") for a in operands]  # type: ignore[arg-type]
    return round_half(code, function(*widened), type)


def _float_binary(instruction: str) -> Rule:
    return lambda code, operation, operands: in_float(code, operands, lambda a, b: code.binary(instruction, a, b))


def _float_intrinsic(name: str) -> Rule:
    return lambda code, operation, operands: in_float(code, operands, lambda *a: code.intrinsic(name, a))


RULES.update({
    "arith.addf": _float_binary("fadd"), "arith.subf": _float_binary("fsub"), "arith.mulf": _float_binary("fmul"),
    "arith.divf": _float_binary("fdiv"), "tt.precise_divf": _float_binary("fdiv"),
    "tt.approx_divf": _float_binary("fdiv"),
    "arith.maxnumf": _float_intrinsic("maxnum"), "arith.minnumf": _float_intrinsic("minnum"),
    "arith.maximumf": _float_intrinsic("maximum"), "arith.minimumf": _float_intrinsic("minimum"),
    "math.floor": _float_intrinsic("floor"), "math.ceil": _float_intrinsic("ceil"),
    "math.trunc": _float_intrinsic("trunc"), "math.roundeven": _float_intrinsic("roundeven"),
    "math.sqrt": _float_intrinsic("sqrt"), "tt.precise_sqrt": _float_intrinsic("sqrt"),
    "math.fma": _float_intrinsic("fma"), "math.copysign": _float_intrinsic("copysign"),
})  # fmt: skip


@_rule("arith.negf")
def _negate(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    sign = 1 << (llvm.BITS[operands[0].type] - 1)
    bits = f"i{llvm.BITS[operands[0].type]}"
    flipped = code.binary("xor", code.cast("bitcast", _number(operands[0]), bits), integer(sign, bits))
    return code.cast("bitcast", flipped, operands[0].type)


@_rule("math.absf")
def _absolute(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return code.intrinsic("fabs", [_number(operands[0])])


@_rule("tt.clampf")
def _clamp(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    every = operation.attributes.get("propagateNan", "none") == "all"
    low, high = ("maximum", "minimum") if every else ("maxnum", "minnum")
    return in_float(code, operands, lambda x, a, b: code.intrinsic(high, [code.intrinsic(low, [x, a]), b]))


@_rule("math.rsqrt")
def _rsqrt(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return in_float(code, operands, lambda x: code.binary("fdiv", number(1, x.type), code.intrinsic("sqrt", [x])))


def _number(value: Value) -> Number:
    assert not isinstance(value, Pointers)
    return value


# -- elementary functions ----------------------------------------------------------------------------------------------


def call_elementary(code: Code, name: str, operands: Sequence[Number]) -> Number:
    """A function of `elementary` of float or double operands."""
    type = operands[0].type
    vector = code.lanes > 1 and not all(isinstance(a, Uniform) for a in operands)
    return _call(code, elementary.function(name, type, code.lanes if vector else 1, code.machine), operands, type)


def _elementary(name: str) -> Rule:
    return lambda code, operation, operands: in_float(code, operands, lambda *a: call_elementary(code, name, a))


for _name in (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh erf erfc cbrt "
    "atan2 round"
).split():
    RULES[f"math.{_name}"] = _elementary(_name)
RULES["math.powf"] = _elementary("pow")
RULES["arith.remf"] = _elementary("fmod")


@_rule("tt.extern_elementwise")
def _extern(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    """A function of libdevice, by its symbol."""
    values = [_number(a) for a in operands]
    result = llvm.type_of(operation.result.type)
    shared = all(isinstance(a, Uniform) for a in values)
    lanes = 1 if shared else code.lanes
    function = libdevice.function(
        str(operation.attributes["symbol"]), tuple(a.type for a in values), result, lanes, code.machine
    )
    return _call(code, function, values, result)


def _call(code: Code, function: formula.Function, operands: Sequence[Number], result: str) -> Number:
    """A helper function that takes vectors, or scalars where vectors have one lane."""
    symbol = code.module.define(function.symbol, function.text, function.declarations).removeprefix("@")
    if code.lanes > 1 or all(isinstance(a, Uniform) for a in operands):
        return code.call(symbol, operands, result)
    scalars = [code.extract(code.vector(a), 0) for a in operands]
    return code.vector(code.call(symbol, scalars, result))


def _resize(code: Code, a: Number, type: str) -> Number:
    if llvm.BITS[a.type] < llvm.BITS[type]:
        return code.cast("zext", a, type)
    return code.cast("trunc", a, type)


# -- arithmetic of integers --------------------------------------------------------------------------------------------


def _integer_binary(instruction: str) -> Rule:
    return lambda code, operation, operands: code.binary(instruction, _number(operands[0]), _number(operands[1]))


def _integer_intrinsic(name: str) -> Rule:
    return lambda code, operation, operands: code.intrinsic(name, [_number(a) for a in operands])


def _counted(name: str) -> Rule:
    """Of zero: the width."""
    return lambda code, operation, operands: code.intrinsic(name, [_number(operands[0])], "i1 false")


RULES.update({
    "arith.addi": _integer_binary("add"), "arith.subi": _integer_binary("sub"), "arith.muli": _integer_binary("mul"),
    "arith.andi": _integer_binary("and"), "arith.ori": _integer_binary("or"), "arith.xori": _integer_binary("xor"),
    "arith.maxsi": _integer_intrinsic("smax"), "arith.minsi": _integer_intrinsic("smin"),
    "arith.maxui": _integer_intrinsic("umax"), "arith.minui": _integer_intrinsic("umin"),
    "math.ctpop": _integer_intrinsic("ctpop"),
    "math.ctlz": _counted("ctlz"), "math.cttz": _counted("cttz"),
})  # fmt: skip


def _shift(instruction: str) -> Rule:
    def rule(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
        value, amount = _number(operands[0]), _number(operands[1])
        bits = llvm.BITS[value.type]
        if isinstance(amount, Uniform) and amount.constant is not None and 0 <= amount.constant < bits:
            if instruction == "shl" and not isinstance(value, Vector):
                return code.multiply(value, integer(1 << amount.constant, value.type))
            return code.binary(instruction, value, amount)
        last = integer(bits - 1, value.type)
        safe = code.intrinsic("umin", [amount, last])
        shifted = code.binary(instruction, value, safe)
        if instruction == "ashr":
            return shifted
        return code.select(code.compare("ugt", amount, last), integer(0, value.type), shifted)

    return rule


RULES.update({"arith.shli": _shift("shl"), "arith.shrsi": _shift("ashr"), "arith.shrui": _shift("lshr")})


def _division(instruction: str) -> Rule:
    signed, remainder = instruction[0] == "s", instruction.endswith("rem")

    def rule(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
        return divide(code, _number(operands[0]), _number(operands[1]), signed, remainder)

    return rule


RULES.update({f"arith.{'div' if name[1] == 'd' else 'rem'}{name[0]}i": _division(name)
              for name in ("sdiv", "udiv", "srem", "urem")})  # fmt: skip


def divide(code: Code, a: Number, b: Number, signed: bool, remainder: bool) -> Number:
    """a / b, or a % b, of integers, toward zero; 0 where b is 0."""
    type = a.type
    instruction = ("s" if signed else "u") + ("rem" if remainder else "div")
    if type == "i1":
        wide = [code.cast("zext", x, "i32") for x in (a, b)]
        return code.cast("trunc", divide(code, wide[0], wide[1], False, remainder), "i1")
    if isinstance(b, Uniform) and b.constant not in (None, 0, -1):
        return code.binary(instruction, a, b)
    zero, one = integer(0, type), integer(1, type)
    nothing = code.compare("eq", b, zero)
    vector = not (isinstance(a, Uniform) and isinstance(b, Uniform)) and llvm.BITS[type] <= 32
    if vector and isinstance(b, Uniform):
        return _divide_by_uniform(code, a, b, signed, remainder)
    unsafe = nothing
    if signed:
        least = code.compare("eq", a, integer(-1 << (llvm.BITS[type] - 1), type))
        unsafe = code.binary("or", nothing, code.binary("and", least, code.compare("eq", b, integer(-1, type))))
    divisor = code.select(unsafe, one, b)
    if not vector:
        quotient = code.binary(instruction, a, divisor)
        return code.select(nothing, zero, quotient)
    # a vector: no processor divides integers in vectors, but a double divides 32-bit integers exactly
    to, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    ratio = code.binary("fdiv", code.cast(to, a, "double"), code.cast(to, divisor, "double"))
    quotient = code.cast(back, ratio, type)
    if remainder:
        quotient = code.binary("sub", a, code.multiply(quotient, divisor))
    return code.select(nothing, zero, quotient)


def _divide_by_uniform(code: Code, a: Number, b: Uniform, signed: bool, remainder: bool) -> Number:
    """The same of a vector by one number of at most 32 bits: times its reciprocal in double, which is a little too
    large, but by less than what a / b can be below the next integer."""
    type, zero, one = b.type, integer(0, b.type), integer(1, b.type)
    nothing, minus = code.compare("eq", b, zero), code.compare("eq", b, integer(-1, type))
    to, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    divisor = code.select(nothing, one, code.select(minus, one, b) if signed else b)
    reciprocal = code.binary("fdiv", number(1.0 + 2.0**-50, "double"), code.cast(to, divisor, "double"))
    quotient = code.cast(back, code.binary("fmul", code.cast(to, a, "double"), reciprocal), type)
    if signed:
        quotient = code.select(minus, code.binary("sub", zero, a), quotient)
    if remainder:
        quotient = code.binary("sub", a, code.multiply(quotient, b))
    return code.select(nothing, zero, quotient)


@_rule("math.absi")
def _absolute_integer(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return code.intrinsic("abs", [_number(operands[0])], "i1 false")


def _high(code: Code, a: Number, b: Number, signed: bool) -> Number:
    """The upper half of a product."""
    wide = f"i{2 * llvm.BITS[a.type]}"
    if wide == "i128":
        return _high64(code, a, b, signed)
    extend = "sext" if signed else "zext"
    a, b = (code.vector(x) if not isinstance(x, Uniform) else x for x in (a, b))
    product = code.multiply(code.cast(extend, a, wide), code.cast(extend, b, wide))
    return code.cast("trunc", code.binary("lshr", product, integer(llvm.BITS[a.type], wide)), a.type)


def _high64(code: Code, a: Number, b: Number, signed: bool) -> Number:
    """By halves: vectors have no 64-bit product of 128 bits."""
    shift, low = integer(32), integer(0xFFFFFFFF)
    a, b = (code.vector(x) if not isinstance(x, Uniform) else x for x in (a, b))
    a0, b0 = (code.binary("and", x, low) for x in (a, b))
    a1, b1 = (code.binary("lshr", x, shift) for x in (a, b))
    mixed = code.add(code.multiply(a1, b0), code.binary("lshr", code.multiply(a0, b0), shift))
    middle = code.add(code.multiply(a0, b1), code.binary("and", mixed, low))
    top = code.add(code.multiply(a1, b1), code.binary("lshr", mixed, shift))
    result = code.add(top, code.binary("lshr", middle, shift))
    if signed:
        for x, y in ((a, b), (b, a)):
            result = code.binary("sub", result, code.binary("and", code.binary("ashr", x, integer(63)), y))
    return result


@_rule("tt.mulhiui")
def _high_unsigned(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return _high(code, _number(operands[0]), _number(operands[1]), False)


def _extended(code: Code, operation: ttir.Operation, operands: list[Value], result: int) -> Value:
    a, b = _number(operands[0]), _number(operands[1])
    if operation.name == "arith.addui_extended":
        total = code.add(a, b)
        return code.compare("ult", total, a) if result else total
    if result:
        return _high(code, a, b, operation.name == "arith.mulsi_extended")
    return code.multiply(a, b)


MULTIPLE.update(dict.fromkeys(("arith.addui_extended", "arith.mului_extended", "arith.mulsi_extended"), _extended))


def _rounded_division(up: bool, signed: bool) -> Rule:
    """Rounded up or down: the quotient toward zero, corrected where there is a remainder of the right sign."""

    def rule(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
        a, b = _number(operands[0]), _number(operands[1])
        type = a.type
        zero, one = integer(0, type), integer(1, type)
        quotient, rest = divide(code, a, b, signed, False), divide(code, a, b, signed, True)
        inexact = code.compare("ne", rest, zero)
        if not signed:
            return code.select(inexact, code.add(quotient, one), quotient)
        opposite = code.compare("slt", code.binary("xor", a, b), zero)
        if up:
            off = code.binary("and", inexact, code.binary("xor", opposite, integer(1, "i1")))
            return code.select(off, code.add(quotient, one), quotient)
        return code.select(code.binary("and", inexact, opposite), code.binary("sub", quotient, one), quotient)

    return rule


RULES.update({"arith.ceildivsi": _rounded_division(True, True), "arith.ceildivui": _rounded_division(True, False),
              "arith.floordivsi": _rounded_division(False, True)})  # fmt: skip

# -- comparisons and choices -------------------------------------------------------------------------------------------


@_rule("arith.cmpi")
def _compare_integers(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return code.compare(str(operation.attributes["predicate"]), _number(operands[0]), _number(operands[1]))


@_rule("arith.cmpf")
def _compare_floats(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    predicate = str(operation.attributes["predicate"])
    if predicate in ("true", "false", "always_true", "always_false"):
        return integer("true" in predicate, "i1")
    name = scalar_name(operation.operands[0].type)
    a, b = (to_float(code, _number(x), name) for x in operands)
    return code.compare(predicate, a, b)


def _classify(name: str) -> Rule:
    def rule(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
        x = to_float(code, _number(operands[0]), scalar_name(operation.operands[0].type))
        size, infinity = code.intrinsic("fabs", [x]), number(float("inf"), x.type)
        if name == "isnan":
            return code.compare("uno", x, x)
        if name == "isinf":
            return code.compare("oeq", size, infinity)
        finite = code.compare("olt", size, infinity)
        if name == "isfinite":
            return finite
        least = {"half": 2.0**-14, "double": 2.0**-1022}.get(operands[0].type, 2.0**-126)
        return code.binary("and", finite, code.compare("oge", size, number(least, x.type)))

    return rule


RULES.update({f"math.{name}": _classify(name) for name in ("isnan", "isinf", "isfinite", "isnormal")})


@_rule("arith.select")
def _select(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    condition, a, b = operands
    if a.type == "ptr" or b.type == "ptr":
        if isinstance(condition, Uniform) and condition.constant is not None:
            return a if condition.constant else b
        a, b = (code.vector(x) if not _scalar(x) else code.scalar(x) for x in (a, b))
    return code.select(_number(condition), _number(a), _number(b))


def _scalar(value: Value) -> bool:
    if isinstance(value, Pointers):
        return isinstance(value.base, Uniform) and isinstance(value.offset, Uniform)
    return isinstance(value, Uniform)


# -- conversions -------------------------------------------------------------------------------------------------------


def _types(operation: ttir.Operation) -> tuple[str, str]:
    return scalar_name(operation.operands[0].type), scalar_name(operation.result.type)


@_rule("arith.extsi")
def _extend_signed(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return code.cast("sext", _number(operands[0]), llvm.type_of(operation.result.type))


@_rule("arith.extui")
def _extend_unsigned(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return code.cast("zext", _number(operands[0]), llvm.type_of(operation.result.type))


@_rule("arith.trunci")
def _truncate(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return code.cast("trunc", _number(operands[0]), llvm.type_of(operation.result.type))


@_rule("arith.index_cast", "arith.index_castui")
def _index(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    type, a = llvm.type_of(operation.result.type), _number(operands[0])
    wider = "zext" if operation.name.endswith("ui") else "sext"
    return code.cast(wider if llvm.BITS[type] > llvm.BITS[a.type] else "trunc", a, type)


@_rule("arith.extf", "arith.truncf", "tt.fp_to_fp")
def _float_to_float(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    rounding = str(operation.attributes.get("rounding", operation.attributes.get("roundingmode", "rtne")))
    return convert(code, _number(operands[0]), *_types(operation), rounding)


@_rule("arith.sitofp", "arith.uitofp")
def _integer_to_float(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    return from_integer(code, _number(operands[0]), _types(operation)[1], operation.name == "arith.sitofp")


@_rule("arith.fptosi", "arith.fptoui")
def _float_to_integer(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    source, target = _types(operation)
    return to_integer(code, _number(operands[0]), source, target, operation.name == "arith.fptosi")


@_rule("tt.bitcast", "arith.bitcast")
def _bitcast(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    type, a = llvm.type_of(operation.result.type), operands[0]
    if type != "ptr":
        return code.cast("bitcast", _number(a), type)
    element = pointee(operation.result.type)
    if isinstance(a, Pointers) and llvm.SIZES[llvm.in_memory(element)] == llvm.SIZES[llvm.in_memory(a.element)]:
        return Pointers(a.base, a.offset, llvm.in_memory(element))
    return code.pointers(code.scalar(a) if _scalar(a) else code.vector(a), llvm.in_memory(element))


def pointee(type: ttir.Type) -> str:
    """LLVM's type of what a pointer, or a tile of pointers, points to."""
    element = type.element if isinstance(type, ttir.Tensor) else type
    assert isinstance(element, ttir.Pointer)
    return llvm.type_of(element.pointee)


@_rule("tt.addptr")
def _add_pointer(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    pointers = code.pointers(operands[0], llvm.in_memory(pointee(operation.result.type)))
    return Pointers(pointers.base, code.add(pointers.offset, code.widen(_number(operands[1]))), pointers.element)


@_rule("tt.ptr_to_int")
def _pointer_to_integer(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    a = operands[0]
    return code.cast("ptrtoint", code.scalar(a) if _scalar(a) else code.vector(a), "i64")


@_rule("tt.int_to_ptr")
def _integer_to_pointer(code: Code, operation: ttir.Operation, operands: list[Value]) -> Value:
    pointers = code.cast("inttoptr", _number(operands[0]), "ptr")
    return code.pointers(pointers, llvm.in_memory(pointee(operation.result.type)))


def type_is_float8(type: ttir.Type) -> bool:
    """Whether a value is an 8-bit float, held as its bits."""
    element = type.element if isinstance(type, ttir.Tensor) else type
    return isinstance(element, ttir.Scalar) and is_float8(element.name)
