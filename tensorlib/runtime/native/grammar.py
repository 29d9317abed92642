"""What of Triton's IR is understood: every operation with its form, its attributes, and the words they may be.

The forms are those that Triton 3.6 to 3.9 print. An operation is in one place: here, or among the parser's own.
"""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """How an operation is written, and what it may say."""

    types: str  #: the form of the types after its colon: which of the parser's methods reads them
    operands: tuple[int, int] = (0, 1 << 30)  #: the fewest and the most
    words: tuple[str, ...] = ()  #: attributes that are bare words ahead of the operands, in order
    attributes: tuple[str, ...] = ()  #: attributes by name
    flags: tuple[str, ...] = ()  #: bare words after the operands that may be there
    regions: int = 0


def _table() -> dict[str, Form]:
    """Every operation that is understood but those with a syntax of their own (the parser's own)."""
    table: dict[str, Form] = {}

    def add(dialect: str, names: str, form: Form) -> None:
        for name in names.split():
            table[f"{dialect}.{name}"] = form

    # Flags promise what need not hold on a CPU: ignoring them is right, and they are kept.
    integer, floating = ("overflow", "exact"), ("fastmath",)
    add("arith", "addi subi muli shli shrsi shrui divsi divui ceildivsi ceildivui floordivsi remsi remui andi ori xori "
        "maxsi maxui minsi minui", Form("same", (2, 2), flags=(*integer, "disjoint")))  # fmt: skip
    add("arith", "addf subf mulf divf remf maximumf minimumf maxnumf minnumf", Form("same", (2, 2), flags=floating))
    add("arith", "negf", Form("same", (1, 1), flags=floating))
    add("arith", "addui_extended mulsi_extended mului_extended", Form("extended", (2, 2)))
    add("arith", "cmpi", Form("compare", (2, 2), ("predicate",)))
    add("arith", "cmpf", Form("compare", (2, 2), ("predicate",), flags=floating))
    add("arith", "select", Form("select", (3, 3)))
    add("arith", "extsi extui trunci extf truncf sitofp uitofp fptosi fptoui bitcast index_cast index_castui",
        Form("cast", (1, 1), flags=("overflow", "fastmath", "nneg", "to_nearest_even")))  # fmt: skip
    unary = (
        "absf absi acos acosh asin asinh atan atanh cbrt ceil cos cosh ctlz ctpop cttz erf erfc exp exp2 expm1 floor "
        "log log10 log1p log2 round roundeven rsqrt sin sinh sqrt tan tanh trunc"
    )
    add("math", unary, Form("same", (1, 1), flags=floating))
    add("math", "atan2 copysign powf", Form("same", (2, 2), flags=floating))
    add("math", "fma", Form("same", (3, 3), flags=floating))
    add("math", "isfinite isinf isnan isnormal", Form("compare", (1, 1), flags=floating))
    # tt
    cached = ("cachePolicy", "cacheModifier", "evictionPolicy", "isVolatile")
    add("tt", "addptr", Form("each", (2, 2)))
    add("tt", "load", Form("load", (1, 3), attributes=cached))
    add("tt", "store", Form("store", (2, 3), attributes=(*cached, "ignore_cta")))
    add("tt", "atomic_rmw", Form("function", (2, 3), ("atomic_rmw_op", "sem", "scope")))
    add("tt", "atomic_cas", Form("function", (3, 3), ("sem", "scope")))
    add("tt", "atomic_load", Form("function", (1, 2), ("sem", "scope")))
    add("tt", "atomic_store", Form("store", (2, 3), ("sem", "scope")))
    add("tt", "int_to_ptr ptr_to_int bitcast splat broadcast", Form("cast", (1, 1)))
    add("tt", "fp_to_fp", Form("cast", (1, 1), attributes=("rounding",)))
    add("tt", "expand_dims", Form("cast", (1, 1), attributes=("axis",)))
    add("tt", "reshape", Form("cast", (1, 1), flags=("allow_reorder", "efficient_layout")))
    add("tt", "trans", Form("cast", (1, 1), attributes=("order",)))
    add("tt", "split", Form("cast", (1, 1)))
    add("tt", "cat join", Form("cast", (2, 2)))
    add("tt", "histogram", Form("cast", (1, 2)))
    add("tt", "unsplat", Form("unsplat", (1, 1)))
    add("tt", "clampf", Form("same", (3, 3), attributes=("propagateNan",)))
    add("tt", "precise_sqrt", Form("same", (1, 1)))
    add("tt", "precise_divf approx_divf mulhiui", Form("same", (2, 2)))
    add("tt", "make_range", Form("same", (0, 0), attributes=("start", "end")))
    add("tt", "get_program_id get_num_programs", Form("same", (0, 0), ("axis",)))
    add("tt", "dot", Form("dot", (3, 3), attributes=("inputPrecision", "maxNumImpreciseAcc")))
    add("tt", "gather", Form("function", (2, 2), attributes=("axis", "efficient_layout")))
    add("tt", "extern_elementwise",
        Form("function", attributes=("libname", "libpath", "pure", "symbol")))  # fmt: skip
    add("tt", "assert", Form("operands", (1, 1), attributes=("message",)))
    add("tt", "print", Form("operands", attributes=("prefix", "hex", "isSigned")))
    add("tt", "call", Form("function", attributes=("callee",)))
    add("tt", "return reduce.return scan.return map_elementwise.return", Form("operands"))
    add("tt", "reduce", Form("function", (1, 64), attributes=("axis",), regions=1))
    add("tt", "scan", Form("function", (1, 64), attributes=("axis", "reverse"), regions=1))
    add("tt", "map_elementwise", Form("function", (1, 64), attributes=("pack",), regions=1))
    add("tt", "make_tensor_descriptor", Form("make_descriptor", (3, 64), attributes=("padding",)))
    add("tt", "descriptor_load", Form("descriptor_load", (2, 64), attributes=cached))
    add("tt", "descriptor_store", Form("descriptor_store", (3, 64)))
    add("tt", "descriptor_reduce", Form("descriptor_store", (3, 64), ("kind",)))
    add("tt", "descriptor_gather", Form("function", (3, 3)))
    add("tt", "descriptor_scatter", Form("operands", (4, 4)))
    # Launches follow each other, and the lanes of a program are in step: nothing to do.
    add("tt", "grid_dependency_wait grid_dependency_launch_dependents", Form("none", (0, 0)))
    add("ttg", "barrier", Form("none", (0, 0), ("scope",)))
    add("gpu", "barrier", Form("none", (0, 0)))
    add("scf", "yield", Form("operands"))
    add("scf", "condition", Form("condition", (1, 1 << 30)))
    add("ub", "poison", Form("same", (0, 0)))
    add("llvm", "intr.assume", Form("operands", (1, 1)))
    return table


FORMS = _table()

#: What these are for is no part of what a CPU can run.
REFUSED = {
    "tt.atomic_poll": "a program that waits for another may wait for ever on a CPU",
}
#: Attributes of any operation that say how fast it may be, or what is true of it: nothing depends on them.
HINTS = frozenset((
    "tt.divisibility", "tt.contiguity", "tt.constancy", "tt.num_stages", "tt.loop_unroll_factor", "tt.flatten",
    "tt.warp_specialize", "tt.disallow_acc_multi_buffer", "tt.pointer_range", "llvm.loop_annotation",
))  # fmt: skip
PREDICATES = {
    "arith.cmpi": frozenset("eq ne slt sle sgt sge ult ule ugt uge".split()),
    "arith.cmpf": frozenset("false oeq ogt oge olt ole one ord ueq ugt uge ult ule une uno true".split()),
}
WORDS = {
    "axis": frozenset("x y z".split()),
    "sem": frozenset("relaxed acquire release acq_rel".split()),
    "atomic_rmw_op": frozenset("and or xor add fadd max min umax umin exch".split()),
    "kind": frozenset("add min max inc dec and or xor".split()),
    "rounding": frozenset("rtz rtne".split()),
    "inputPrecision": frozenset("tf32 tf32x3 ieee bf16x3 bf16x6".split()),
    "lhs": frozenset("e4m3 e5m2 e2m1 bf16 fp16".split()),
    "rhs": frozenset("e4m3 e5m2 e2m1 bf16 fp16".split()),
    "propagateNan": frozenset("none all".split()),
    "padding": frozenset(("zero", "nan", 1, 2)),
    "cacheModifier": frozenset("none ca cg wb cs wt cv".split()),
    "evictionPolicy": frozenset("evict_normal evict_first evict_last".split()),
}
SCOPES = frozenset("gpu cta sys".split())
#: The Python types of attributes that are not words.
KINDS: dict[str, type] = {
    "axis": int, "start": int, "end": int, "pack": int, "maxNumImpreciseAcc": int, "order": list, "isSigned": list,
    "hex": bool, "reverse": bool, "pure": bool, "isVolatile": bool, "libname": str, "libpath": str,
    "symbol": str, "message": str, "prefix": str, "callee": str, "efficient_layout": bool, "ignore_cta": bool,
}  # fmt: skip
#: Attributes that may be left out.
OPTIONAL = frozenset((
    "cachePolicy", "cacheModifier", "evictionPolicy", "isVolatile", "ignore_cta", "rounding",
    "inputPrecision", "maxNumImpreciseAcc", "efficient_layout", "padding",
))  # fmt: skip
