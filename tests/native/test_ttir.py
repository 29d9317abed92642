"""The parser of Triton's IR: held to stored texts of two versions, to Triton's own reading, to what it must refuse."""

from __future__ import annotations

import random
import re
import struct
import sys
from pathlib import Path

import pytest

from tensorlib.errors import KernelError, UnsupportedError
from tensorlib.runtime import compiler, versions
from tensorlib.runtime.native import parser, ttir

HERE = Path(__file__).parent
GOLDEN = sorted((HERE / "golden").glob("*/*.ttir"))
MODULE = """module {
  tt.func public @k(%x: !tt.ptr<f32>, %n: i32) {
    %i = tt.make_range {end = 8 : i32, start = 0 : i32} : tensor<8xi32>
    BODY
    tt.return
  } loc(#loc)
}
#loc = loc("kernel.py":1:0)
#loc1 = loc("kernel.py":7:4)
"""


def _parsed(body: str) -> ttir.Operation:
    """The last operation but the return of a kernel with this body."""
    return parser.parse(MODULE.replace("BODY", body)).kernel.body.block.operations[-2]


def _refused(body: str) -> str:
    with pytest.raises(UnsupportedError) as caught:
        parser.parse(MODULE.replace("BODY", body))
    return str(caught.value)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden_files(path: Path) -> None:
    """What was stored is what the parser makes of it, and all of it knows its line."""
    module = parser.parse(path.read_text(encoding="utf-8"))
    assert ttir.dump(module) == path.with_suffix(".dump").read_text(encoding="utf-8")
    operations = [o for f in module.functions.values() for o in ttir.walk(f.body)]
    known = [o for o in operations if o.line]
    assert len(known) >= 0.5 * len(operations)
    assert all(o.file.endswith(".py") for o in known)


def test_both_versions_are_there() -> None:
    """The same kernels of each, but those that a version lacks."""
    names = {v: {p.stem for p in GOLDEN if p.parent.name == v} for v in ("3.6", "3.9")}
    assert names["3.6"] ^ names["3.9"] == {"atomic_accesses", "block_pointers"}
    assert len(names["3.6"]) > 20


@pytest.mark.parametrize("path", GOLDEN[:: max(1, len(GOLDEN) // 12)], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_damaged_text_is_refused(path: Path) -> None:
    """A line that is cut, doubled or misspelt never passes unnoticed: an error that names it, or the same module."""
    text = path.read_text(encoding="utf-8")
    same = ttir.dump(parser.parse(text))
    lines = text.splitlines(keepends=True)
    body = [i for i, line in enumerate(lines) if re.match(r"\s+(%|tt\.(?!func)|scf\.|cf\.|\"tt)", line)]
    chance = random.Random(path.stem)
    for i in chance.sample(body, min(12, len(body))):
        name = re.search(r'([a-z]+\.[a-z_.]+\w)', lines[i])
        assert name is not None
        damaged = [
            lines[i].replace(name[1], name[1] + "x", 1),  # an operation that is not there
            lines[i].replace(name[1], "arith.bogus", 1),
            re.sub(r"%[\w#.-]+(?=[^%]*$)", "%unknown", lines[i], count=1),  # a value that is not there
            re.sub(r": (tensor|!tt|i32|f32|\()", r": tensor<3xf64>, \1", lines[i], count=1),
            lines[i].replace(" : ", " oddly : ", 1) if " : " in lines[i] else lines[i].replace("{", "oddly {"),
            re.sub(r" = (\w)", r" = #odd \1", lines[i], count=1),
        ]
        for line in damaged:
            if line == lines[i]:
                continue
            with pytest.raises(UnsupportedError, match=r"native: .*expected"):
                parser.parse("".join([*lines[:i], line, *lines[i + 1 :]]))
        gone = "".join([*lines[:i], *lines[i + 1 :]])
        try:
            assert ttir.dump(parser.parse(gone)) != same or name[1] == "arith.constant"
        except UnsupportedError:
            pass


def test_whatever_comes_is_parsed_or_refused() -> None:
    """Characters changed, cut and put in at random: no other error than the one that is meant."""
    chance = random.Random(0)
    signs = '%#:,<>(){}[]"=0x1-. atenfi@^!\n'
    for path in GOLDEN[::3]:
        text = path.read_text(encoding="utf-8")
        for _ in range(5):
            i, sign, more = chance.randrange(len(text)), chance.choice(signs), chance.randrange(12)
            try:
                ttir.dump(parser.parse(chance.choice([text[:i] + sign, text[:i]]) + text[i + more :]))
            except UnsupportedError:
                pass


def test_an_error_names_operation_and_source_line() -> None:
    """The file and line of the kernel where the text has them; the line of the IR otherwise."""
    message = _refused("%a = tt.fancy %i : tensor<8xi32> loc(#loc1)")
    assert message == (
        "native: tt.fancy (kernel.py:7): '%a = tt.fancy %i : tensor<8xi32>': expected an operation that tensorlib knows"
    )
    assert "(line 4 of the IR)" in _refused("%a = tt.fancy %i : tensor<8xi32>")


@pytest.mark.parametrize("body, expected", [
    ("%a = arith.addi %i, %i {magic = 1 : i32} : tensor<8xi32>", "attributes that tensorlib knows, not 'magic'"),
    ("%a = arith.addi %i, %i, %i : tensor<8xi32>", "2 operands"),
    ("%a = arith.addi %i, %n : tensor<8xi32>", "%n to be i32, not tensor<8xi32>"),
    ("%a = arith.addi %i, %zz : tensor<8xi32>", "a value that is defined here, not %zz"),
    ("%a = arith.addi %i, %i : tensor<8xi64>", "%i to be tensor<8xi32>"),
    ("%a = arith.cmpi lt, %i, %i : tensor<8xi32>", "a predicate that tensorlib knows, not 'lt'"),
    ("%a = arith.constant dense<[1, 2]> : tensor<8xi32>", "8 elements"),
    ("%a = arith.constant 300 : i8", "a number of 8 bits"),
    ("%a = arith.constant 1.5 : i32", "a constant of i32"),
    ("%a = arith.constant 0xFFF : f8E5M2", "at most 8 bits"),
    ("%a = arith.constant 1 : i37", "a type that tensorlib knows, not i37"),
    ("%i = arith.constant 1 : i32", "a new name, not %i"),
    ("%a, %b = arith.constant 1 : i32", "1 results"),
    ("%a = tt.splat %n : i32 -> tensor<8xi32, #blocked>", "'>'"),
    ("%a = tt.expand_dims %i : tensor<8xi32> -> tensor<1x8xi32>", "'axis'"),
    ("%a = tt.expand_dims %i {axis = \"0\"} : tensor<8xi32> -> tensor<1x8xi32>", "axis to be int"),
    ("%a = tt.get_program_id w : i32", "axis that tensorlib knows"),
    ("%a = tt.load %i : tensor<8xi32>", "pointers"),
    ("%a = tt.load %x evictionPolicy = evict_never : !tt.ptr<f32>", "evictionPolicy that tensorlib knows"),
    ("scf.if %n { }", "%n to be i32, not i1"),
    ("cf.br ^bb7", "blocks that are there"),
    ("tt.return\n %z = arith.constant 1 : i32", "a block that ends with its yield"),
    ("tt.call @gone(%n) : (i32) -> ()", "a function of the module"),
    ("%a = tt.elementwise_inline_asm \"mov\" {} %n : i32 -> i32", "assembly is a GPU's"),
    ("%a = tt.dot_scaled %i scale %i, %i, %i lhs = e3m2 rhs = e4m3 : t", "a format that tensorlib knows, not 'e3m2'"),
    ("%a = \"tt.reduce\"(%i) <{axis = 0 : i32}> : (tensor<8xi32>) -> i32", "1 regions"),
])  # fmt: skip
def test_what_is_not_understood_is_refused(body: str, expected: str) -> None:
    """Each with what was expected."""
    assert expected in _refused(body)


@pytest.mark.parametrize("text, type_, value", [
    ("1.000000e+00", "f32", 1.0), ("0xFF800000", "f32", -float("inf")), ("0x7C00", "f16", float("inf")),
    ("-0.000000e+00", "f32", -0.0), ("0x3F80", "bf16", 1.0), ("0x7FF0000000000000", "f64", float("inf")),
    ("-1", "i8", -1), ("255", "i8", 255), ("-9223372036854775808", "i64", -(2**63)), ("0x38", "f8E4M3FN", 0x38),
])  # fmt: skip
def test_scalar_constants(text: str, type_: str, value: float) -> None:
    """Also those written as bits; the sign of zero is kept."""
    found = _parsed(f"%a = arith.constant {text} : {type_}").attributes["value"]
    assert type(found) is type(value) and repr(found) == repr(value)


def test_not_a_number_keeps_its_bits() -> None:
    """The payload and the sign of a NaN."""
    found = _parsed("%a = arith.constant 0xFFC12345 : f32").attributes["value"]
    assert struct.pack("<f", found) == bytes.fromhex("4523C1FF")


@pytest.mark.parametrize("text, type_, values", [
    ("dense<0>", "tensor<8xi32>", (0,)), ("dense<true>", "tensor<8xi1>", (True,)),
    ("dense<[1, 2, 3, 4]>", "tensor<4xi32>", (1, 2, 3, 4)),
    ("dense<[[1, 2], [3, 4]]>", "tensor<2x2xi32>", (1, 2, 3, 4)),
    ("dense<[1.0, 1.0]>", "tensor<2xf32>", (1.0,)), ("dense<[0.0, -0.0]>", "tensor<2xf32>", (0.0, -0.0)),
    ('dense<"0x0000803F00000040">', "tensor<2xf32>", (1.0, 2.0)),
    ("dense<0x7F800000>", "tensor<2xf32>", (float("inf"),)),
    ('dense<"0xFEFF0100">', "tensor<2xi16>", (-2, 1)), ('dense<"0x05">', "tensor<4xi1>", (True, False, True, False)),
])  # fmt: skip
def test_constant_tiles(text: str, type_: str, values: tuple[object, ...]) -> None:
    """One value for all, nested lists, and bytes."""
    operation = _parsed(f"%a = arith.constant {text} : {type_}")
    found = operation.attributes["value"]
    assert repr(found.values) == repr(values)
    assert found.splat == (len(values) == 1)
    assert str(found.type) == str(operation.result.type) == type_


def test_structure_of_loops_and_branches() -> None:
    """A body has its arguments, and an end even where the text leaves it out."""
    loop = _parsed(
        "%c = arith.constant 1 : i32\n"
        "%f = arith.constant 0.0 : f32\n"
        "%r:2 = scf.for %k = %c to %n step %c iter_args(%a = %f, %b = %i) -> (f32, tensor<8xi32>) : i32 {\n"
        "  %q = arith.cmpi slt, %k, %n : i32\n"
        "  scf.if %q {\n    tt.store %x, %a : !tt.ptr<f32>\n  } else {\n  }\n"
        "  scf.yield %a, %b : f32, tensor<8xi32>\n"
        "} {tt.num_stages = 2 : i32}"
    )
    assert [v.name for v in loop.operands] == ["%c", "%n", "%c", "%f", "%i"]
    assert [str(v.type) for v in loop.regions[0].block.arguments] == ["i32", "f32", "tensor<8xi32>"]
    assert [v.name for v in loop.results] == ["%r#0", "%r#1"] and loop.attributes == {"tt.num_stages": 2}
    branch = loop.regions[0].block.operations[1]
    assert [r.block.terminator.name for r in branch.regions] == ["scf.yield", "scf.yield"]
    assert branch.regions[0].block.operations[0].operands[1] is loop.regions[0].block.arguments[1]


def test_names_end_with_their_region() -> None:
    """A name may be used again after its region, and not within."""
    reduce = (
        '%{} = "tt.reduce"(%i) <{{axis = 0 : i32}}> ({{\n^bb0(%a: i32, %b: i32):\n  %s = arith.addi %a, %b : i32\n'
        "  tt.reduce.return %s : i32\n}}) : (tensor<8xi32>) -> i32"
    )
    assert _parsed(reduce.format("p") + "\n" + reduce.format("q")).result.name == "%q"
    assert "not %s" in _refused(reduce.format("p") + "\n%t = arith.addi %s, %n : i32")


def test_line_of_what_the_library_inlined() -> None:
    """Of a function of Triton's own library it is the line of the call."""
    text = MODULE.replace("BODY", "%a = arith.addi %n, %n : i32 loc(#loc4)") + (
        '#loc2 = loc("/x/triton/language/standard.py":9:1)\n#loc3 = loc(callsite(#loc2 at #loc1))\n'
        '#loc4 = loc("acc"(#loc3))\n'
    )
    operation = parser.parse(text).kernel.body.block.operations[1]
    assert (operation.file, operation.line) == ("kernel.py", 7)


def test_descriptors_in_either_spelling() -> None:
    """3.6 writes a tensor, 3.9 its sizes; where the operation says which type it is, its name is left out."""
    for block in ("<tensor<1x8xsi16>>", "<1x8xsi16>"):
        body = (
            "%p = tt.bitcast %x : !tt.ptr<f32> -> !tt.ptr<i16>\n%w = arith.extsi %n : i32 to i64\n"
            f"%d = tt.make_tensor_descriptor %p, [%n, %n], [%w, %w] {{padding = 2 : i32}} : <i16>, {block}\n"
            f"%t = tt.descriptor_load %d[%n, %n] : !tt.tensordesc{block} -> tensor<1x8xi16>\n"
            f"tt.descriptor_store %d[%n, %n], %t : !tt.tensordesc{block}, tensor<1x8xi16>\n"
            f"tt.descriptor_reduce add, %d[%n, %n], %t : !tt.tensordesc{block}, tensor<1x8xi16>\n"
            f"%g = tt.descriptor_gather %d[%i, %n] : (!tt.tensordesc{block}, tensor<8xi32>, i32) -> tensor<8x8xi16>\n"
            f"tt.descriptor_scatter %d[%i, %n], %g : !tt.tensordesc{block}, tensor<8xi32>, i32, tensor<8x8xi16>"
        )
        last = _parsed(body)
        assert last.name == "tt.descriptor_scatter"
        assert last.operands[0].type == ttir.Descriptor(ttir.Tensor((1, 8), ttir.Scalar("i16")), True)


def test_types() -> None:
    """Types as they are written, and what descriptors say in either version."""
    for text in ("tensor<4x8x!tt.ptr<bf16>>", "!tt.ptr<!tt.ptr<f64>>", "tensor<f32>", "f8E4M3FN", "i1"):
        assert str(parser._Parser(text).type()) == text
    for text in ("!tt.tensordesc<tensor<8x16xsi32>>", "!tt.tensordesc<8x16xsi32>"):
        assert parser._Parser(text).type() == ttir.Descriptor(ttir.Tensor((8, 16), ttir.Scalar("i32")), True)


# -- beside Triton itself ----------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore")  # Triton warns of what older kernels use


@pytest.fixture(scope="module")
def constructs() -> object:
    """The module of kernels, which needs Triton."""
    pytest.importorskip("triton")
    sys.path.insert(0, str(HERE))
    import constructs

    sys.path.remove(str(HERE))
    return constructs


def test_the_installed_triton_says_what_is_stored(constructs) -> None:
    """The golden files of this version are what its front end gives now."""
    version = "{}.{}".format(*versions.require().number)
    stored = {p.stem: p for p in GOLDEN if p.parent.name == version}
    if not stored:
        pytest.skip(f"no golden files of Triton {version}")
    for name in ("add", "reductions", "control", "atomics", "messages", "dots"):
        made = constructs.CONSTRUCTS[name]
        text = parser.ttir_of(compiler.as_jit(made.kernel), made.keys, made.constants, made.options)
        assert ttir.dump(parser.parse(text)) == stored[name].with_suffix(".dump").read_text(encoding="utf-8"), name


def test_triton_reads_the_same_operations(constructs, tmp_path) -> None:
    """Triton's own parser finds as many operands, results and operations, in the same order."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    def after(region):
        for block in region.blocks:
            for o in block.operations:
                for inner in o.regions:
                    yield from after(inner)
                yield o.name, len(o.operands) + sum(len(v) for _, v in o.successors), len(o.results)

    for name, made in constructs.CONSTRUCTS.items():
        text = parser.ttir_of(compiler.as_jit(made.kernel), made.keys, made.constants, made.options)
        path = tmp_path / f"{name}.ttir"
        path.write_text(text)
        context = ir.context()
        ir.load_dialects(context)
        make_backend(GPUTarget("cuda", 80, 32)).load_dialects(context)
        theirs: list[tuple[str, int, int]] = []
        ir.parse_mlir_module(str(path), context).walk(
            lambda o, theirs=theirs: theirs.append((o.get_name(), o.get_num_operands(), o.get_num_results()))
        )
        ours = []
        for function in parser.parse(text).functions.values():
            ours += [*after(function.body), ("tt.func", 0, 0)]
        assert [*ours, ("builtin.module", 0, 0)] == theirs, name


def test_a_kernel_that_triton_refuses_is_a_kernel_error() -> None:
    """With Triton's reason and what it was compiled for."""
    pytest.importorskip("triton")
    broken = compiler.define("def broken(x, N: tl.constexpr):\n    tl.store(x, tl.nothing(N))\n", {})
    with pytest.raises(KernelError, match=r"broken: Triton makes no IR of it(.|\n)*x: \*fp32"):
        parser.ttir_of(broken, ("*fp32",), {"N": 8})
