"""Elementary functions in LLVM IR beside float64, long double and C's rules for the edges; libdevice beside NumPy."""

from __future__ import annotations

import math
import re

import compiled
import numpy as np
import pytest
from scipy import special

from tensorlib.errors import KernelError, UnsupportedError
from tensorlib.runtime import _libdevice
from tensorlib.runtime.native import codegen, elementary, formula, libdevice, linker, machine

pytestmark = [
    pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

INF, NAN = np.inf, np.nan
#: name -> the same function in NumPy, right in float64 and in long double
EXACT = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10,
    "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "cbrt": np.cbrt, "erf": special.erf, "erfc": special.erfc, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
    "rint": np.rint, "nearbyint": np.rint, "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
}  # fmt: skip
EXACT_OF_TWO = {
    "pow": np.power, "atan2": np.arctan2, "hypot": np.hypot, "fmod": np.fmod,
    "remainder": np.vectorize(lambda x, y: math.remainder(x, y) if math.isfinite(x) and y and y == y else NAN),
}  # fmt: skip
#: where the functions turn: the ends of exp's range, halves, powers of two, the seams of the formulas
EDGES = np.array([
    0.0, -0.0, INF, -INF, NAN, 1, -1, 2, -2, 0.5, -0.5, 1.5, 2.5, -2.5, 3, 10, 100, 1000, 1e10, 2**-149, -(2**-149),
    2**-126, -(2**-126), 3.4028234663852886e38, -3.4028234663852886e38, 88.72283, 88.72284, 89.4, 89.5, -87.34,
    -103.97, -103.98, -104.5, 127.99999, 128, -126, -149, -149.5, -150, -150.5, 0.6, 0.93, 4, 10.05, 10.06, 10.1, 20,
    71476, 71477, 1e30, 16777216, 0.99999994, 1.0000001, -0.99999994, 2 / 3, math.pi, math.pi / 2, 11 * math.pi,
], np.float32)  # fmt: skip


def single(step: int) -> np.ndarray:
    """Every step-th float32, NaN and infinities among them, and the edges."""
    return np.concatenate([EDGES, np.arange(7, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)])


#: what has a form of its own for processors with tables in registers: those that are given to `elementary.function`
FORMS = {"erf": (machine.host(), None)}


def build(name: str, element: str, lanes: int, features: machine.Features):
    return compiled.over_arrays(elementary.function(name, element, lanes, features), lanes, features)


@pytest.mark.parametrize("name", EXACT)
def test_single(name: str) -> None:
    """400,000 float32 over the whole range of bit patterns stay within the stated error; edges are exact."""
    features = machine.host()
    x = single(10007)
    exact = EXACT[name](x.astype(np.float64))
    forms = [elementary.function(name, "float", features.lanes, known) for known in FORMS.get(name, (features,))]
    error, where = max(compiled.ulps(compiled.over_arrays(f, features.lanes, features)(x), exact) for f in forms)
    stated, _ = elementary.ERRORS.get(name, (0.5, 0.5))
    assert error <= stated, f"{name}: {error:.3f} ulp: expected {stated}: {where} of {x[int(where.split()[1][:-1])]!r}"
    assert stated <= error * 1.5 + 0.1 or not error, f"{name}: {error:.3f} ulp: the table states {stated}"


def double() -> np.ndarray:
    """float64 near 0, near 1, over exp's range, over all exponents, and as arguments of waves."""
    rng = np.random.default_rng(5)
    return np.concatenate([
        EDGES.astype(np.float64), rng.uniform(-2, 2, 20000), rng.uniform(0.5, 2, 20000), rng.uniform(-760, 760, 20000),
        np.ldexp(rng.uniform(-2, 2, 20000), rng.integers(-1075, 1024, 20000)), rng.uniform(-2e6, 2e6, 20000),
        np.arange(-300, 300) * (math.pi / 4), [709.78, 709.79, -745.13, -745.14, 1023.99999, 1024, -1074, -1074.5],
        [-1075.5, 5e-324, -5e-324, 2.0**-1022, 1.7976931348623157e308, 2.0**20, 1e22, 1e300],
    ])  # fmt: skip


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="needs a long double that is wider than float64")
@pytest.mark.parametrize("name", sorted(EXACT.keys() - {"erf", "erfc"}))
def test_double(name: str) -> None:
    """100,000 float64 stay within the stated error of long double."""
    features = machine.host()
    x = double()
    found = build(name, "double", max(1, features.lanes // 2), features)(x)
    error, where = compiled.ulps(found, EXACT[name](x.astype(np.longdouble)))
    stated = elementary.ERRORS.get(name, (0.5, 0.5))[1] + 0.01
    assert error <= stated, f"{name}: {error:.3f} ulp: expected {stated}: {where} of {x[int(where.split()[1][:-1])]!r}"


@pytest.mark.parametrize("name", ["erf", "erfc"])
def test_double_by_c(name: str) -> None:
    features = machine.host()
    x = double()
    expected = np.array([getattr(math, name)(v) for v in x])
    assert np.array_equal(build(name, "double", 4, features)(x), expected, equal_nan=True)


@pytest.mark.parametrize("name", EXACT_OF_TWO)
@pytest.mark.parametrize("element", ["float", "double"])
def test_two_operands(name: str, element: str) -> None:
    """All pairs of edges, and random pairs where the result is neither 0 nor infinite."""
    features = machine.host()
    rng = np.random.default_rng(6)
    edges = np.concatenate([EDGES[:30], [33554432, 16777215, -3, 3]]).astype(np.float32)
    pairs = [np.ravel(v) for v in np.meshgrid(edges, edges)]
    near = [rng.uniform(0, 10, 20000), rng.uniform(-40, 40, 20000)]
    wide = [np.exp(rng.uniform(-80, 80, 20000)), rng.uniform(-5, 5, 20000)]
    whole = [rng.uniform(-5, 5, 20000), np.rint(rng.uniform(-20, 20, 20000))]
    x, y = (np.concatenate(v).astype(compiled.DTYPES[element]) for v in zip(pairs, near, wide, whole, strict=True))
    found = build(name, element, features.lanes, features)(x, y)
    exact = EXACT_OF_TWO[name](x.astype(np.float64), y.astype(np.float64))
    if name == "remainder":  # C's: infinity divides a finite number, 0 nothing
        exact = np.where(np.isfinite(x) & np.isinf(y), x, exact)
    error, where = compiled.ulps(found, exact)
    stated = elementary.ERRORS.get(name, (0.5, 0.5))[element == "double"] + (element == "double")
    assert error <= stated, f"{name}: {error:.3f} ulp: expected {stated}: {where}"


@pytest.mark.parametrize("name", sorted(elementary.NAMES))
@pytest.mark.parametrize("element", ["float", "double"])
def test_widths_agree(name: str, element: str) -> None:
    """Every width gives the same bits, and the code for any processor those of the code for this one, but for FORMS."""
    features = machine.host()
    rng = np.random.default_rng(7)
    x = np.concatenate([EDGES, rng.standard_normal(500) * 3, np.exp(rng.uniform(-80, 80, 500))])
    operands = [x, x[::-1] * 1.5, x * 0.75][: len(elementary.function(name, element, 1, None).arguments)]
    expected = build(name, element, 1, features)(*operands)
    bits = f"u{expected.itemsize}"
    for lanes in (2, 4, 8, 16):
        for known in (features,) if name in FORMS else (features, None):
            function = elementary.function(name, element, lanes, known)
            found = compiled.over_arrays(function, lanes, features)(*operands)
            same = (found.view(bits) == expected.view(bits)) | (np.isnan(found) & np.isnan(expected))
            assert same.all(), (lanes, [v[~same] for v in operands], found[~same], expected[~same])


#: C99's and POSIX's, which glibc, musl and macOS have
IN_EVERY_C_LIBRARY = set(
    "acos acosh asin asinh atan atan2 atanh cbrt cos cosh erf erfc exp fmod hypot ldexp ldexpf lgamma log log1p logb "
    "nextafter nextafterf pow remainder sin sinh tan tanh tgamma j0 j1 jn y0 y1 yn".split()
)


@pytest.mark.parametrize("level, lanes", compiled.LEVELS)
def test_every_processor(level: str, lanes: int) -> None:
    """All of it becomes an object file for AVX2, AVX-512 and NEON, wide functions and plain ones."""
    features = machine.level(level)
    functions = [
        elementary.function(name, element, n, features)
        for name in sorted(elementary.NAMES) for element in ("float", "double") for n in (1, lanes)
    ] + [
        libdevice.function(symbol, arguments, result, lanes, features)
        for symbol, arguments, result in SYMBOLS
    ]  # fmt: skip
    declarations = sorted({d for f in functions for d in f.declarations})
    called = {d.partition("@")[2].partition("(")[0] for d in declarations}
    assert {name for name in called if not name.startswith("llvm.")} <= IN_EVERY_C_LIBRARY
    text = "\n".join([*declarations, *(f.text.replace("define internal", "define") for f in functions)])
    assert codegen.compile(text, features, 1).startswith(b"\x7fELF") or not features.triple.endswith("linux-gnu")


def test_far_arguments() -> None:
    """sin, cos and tan of numbers far beyond the seams, and of those nearest to a multiple of pi/2, in float64."""
    features = machine.host()
    rng = np.random.default_rng(8)
    worst = [16367173 * 2.0**72, 5.0e9, 1.5990964e24, 6381956970095103 * 2.0**797]  # Kahan and Muller's hard cases
    x = np.concatenate([np.ldexp(rng.uniform(1, 2, 50000), rng.integers(10, 127, 50000)), worst[:3]]).astype(np.float32)
    for name in ("sin", "cos", "tan"):
        found = build(name, "float", features.lanes, features)(x)
        error, where = compiled.ulps(found, EXACT[name](x.astype(np.float64)))
        assert error <= elementary.ERRORS[name][0], f"{name}: {error:.3f}: {where}"


def test_missing_library_function() -> None:
    """A function that the process does not have is an error when the code is linked, not a crash when it runs."""
    text = (
        "declare double @tensorlib_absent(double)\n"
        "define double @main(double %x) {\n  %y = call double @tensorlib_absent(double %x)\n  ret double %y\n}"
    )
    with pytest.raises(KernelError, match="cannot be linked"):
        linker.load(codegen.compile(text, machine.host()), "main")


def test_unknown_name() -> None:
    with pytest.raises(UnsupportedError, match="no function 'gamma'"):
        elementary.function("gamma", "float", 4)


# -- libdevice

TYPES = {"int32": "i32", "uint32": "i32", "int64": "i64", "uint64": "i64", "fp32": "float", "fp64": "double"}
NUMPY = {
    "int32": np.int32, "uint32": np.uint32, "int64": np.int64, "uint64": np.uint64, "fp32": np.float32,
    "fp64": np.float64,
}  # fmt: skip
#: What the interpreter computes in fewer digits than are to be checked, or otherwise at an edge: held to SciPy instead.
OTHERWISE = {
    "erfinv": special.erfinv, "erfcinv": special.erfcinv, "erfcx": special.erfcx, "normcdf": special.ndtr,
    "normcdfinv": special.ndtri, "j0": special.j0, "j1": special.j1, "y0": special.y0, "y1": special.y1,
    "jn": special.jn, "yn": special.yn, "tgamma": special.gamma,
    "cyl_bessel_i0": lambda x: np.where(np.isinf(x), INF, special.i0(x)),
    "cyl_bessel_i1": lambda x: np.where(np.isinf(x), x, special.i1(x)),
    "lgamma": lambda x: np.where(np.isinf(x), INF, special.gammaln(x)),
}  # fmt: skip


def _rows() -> list[tuple[str, tuple[str, ...], str, str]]:
    """(name, operands, symbol, result) of all that Triton's tables of CUDA's and AMD's libdevice have."""
    triton = pytest.importorskip("triton")
    found = []
    for family in ("cuda", "hip"):
        with open(f"{triton.__path__[0]}/language/extra/{family}/libdevice.py") as file:
            text = file.read()
        for name, body in re.findall(r"def (\w+)\((.*?)(?=@core\.extern|\Z)", text, re.S):
            rows = re.findall(
                r'\(\s*((?:core\.dtype\("\w+"\),?\s*)+)\):\s*\(\s*"([\w.]+)",\s*core\.dtype\("(\w+)"\)', body
            )
            found += [(name, tuple(re.findall(r'"(\w+)"', types)), symbol, result) for types, symbol, result in rows]
    return found


ROWS = _rows()
SYMBOLS = sorted({(symbol, tuple(TYPES[t] for t in operands), TYPES[result]) for _, operands, symbol, result in ROWS})


def _samples(name: str, type: str, position: int, rng: np.random.Generator) -> np.ndarray:
    dtype = NUMPY[type]
    if name in ("jn", "yn"):
        return (rng.integers(0, 8, 600) if position == 0 else rng.uniform(0.5, 40, 600)).astype(dtype)
    if name in ("j0", "j1", "y0", "y1"):
        return rng.uniform(0.1, 60, 600).astype(dtype)
    if name in ("ldexp", "scalbn") and position == 1:
        return rng.integers(-1200, 1200, 600).astype(dtype)
    if type.startswith("fp"):
        some = [EDGES, [2.0**31, 2.0**32, 2.0**63, 2.0**64, 0.25, -0.75, 700, 20.5], rng.standard_normal(200) * 3]
        more = [rng.uniform(-1, 1, 150), rng.uniform(0, 40, 100), np.exp(rng.uniform(-30, 30, 100))]
        x = np.concatenate([*some, *more])
    else:
        info = np.iinfo(dtype)
        x = np.concatenate([
            np.array([0, 1, 2, 7, info.max, info.min, info.max // 2, 255, 0x7654, 0x3210], dtype),
            rng.integers(info.min, info.max, 400, dtype, endpoint=True), rng.integers(0, 9, 190).astype(dtype),
        ])  # fmt: skip
    return (rng.permutation(x)[:600] if position else x[:600]).astype(dtype)


@pytest.mark.parametrize("name", sorted({name for name, *_ in ROWS}))
def test_libdevice(name: str) -> None:
    """Each symbol of a function beside its NumPy version: integers, conversions, directed rounding bit for bit."""
    features = machine.host()
    rng = np.random.default_rng(9)
    for _, operands, symbol, result in (row for row in ROWS if row[0] == name):
        function = libdevice.function(symbol, tuple(TYPES[t] for t in operands), TYPES[result], 8, features)
        arrays = [_samples(name, type, i, rng) for i, type in enumerate(operands)]
        size = min(map(len, arrays))
        arrays = [x[:size] for x in arrays]
        signed = [x.view(x.dtype.str.replace("u", "i")) for x in arrays]
        found = compiled.over_arrays(function, 8, features)(*signed).view(NUMPY[result])
        rounds = bool(re.search(r"_r[nzdu]$|2", name)) and name not in ("exp2", "log2", "atan2", "fast_log2f")
        rounds = rounds and name != "rsqrt_rn"
        wide = result == "fp32" and not rounds and name not in ("nextafter", "fma", "uint_as_float", "int_as_float")
        given = [x.astype(np.float64) if wide and x.dtype == np.float32 else x for x in arrays]
        if name in OTHERWISE:
            expected = OTHERWISE[name](*given)
        else:
            expected = np.asarray(_libdevice.FUNCTIONS[name](*given))
        if expected.dtype.kind in "iu" and expected.dtype.itemsize == found.dtype.itemsize:
            expected = expected.view(found.dtype)
        if found.dtype.kind != "f":
            assert np.array_equal(found, expected.astype(found.dtype)), (symbol, arrays)
            continue
        if name in OTHERWISE:
            tolerance = 2e-6 if result == "fp32" else 1e-10 if name[0] in "jyl" else 2e-12
            expected = expected.astype(found.dtype)
            near = np.isclose(found, expected, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True)
            assert near.all(), (symbol, [x[~near] for x in arrays], found[~near], expected[~near])
            continue
        error, where = compiled.ulps(found, expected)
        of = name if name == "rsqrt_rn" or name in elementary.ERRORS else name.removeprefix("fast_").removesuffix("f")
        stated = 0 if rounds else elementary.ERRORS.get(of, (1.0, 4.5))
        allowed = stated if not stated else stated[0] if wide else max(stated[1], 1) * 2
        at = int(where.split()[1][:-1])
        assert error <= allowed, f"{symbol}: {error:.2f} ulp: {where} of {[x[at] for x in arrays]}"


def test_libdevice_is_whole() -> None:
    """What Triton offers of the interpreter's table was checked, and a symbol that there is not is a named error."""
    stock = pytest.importorskip("triton.language.extra.libdevice")
    assert {name for name, *_ in ROWS} >= {n for n in _libdevice.FUNCTIONS if hasattr(stock, n)}
    with pytest.raises(UnsupportedError, match="no function '__nv_nothing'"):
        libdevice.function("__nv_nothing", ("float",), "float", 4)
    with pytest.raises(UnsupportedError, match="__nv_popc of"):
        libdevice.function("__nv_popc", ("i32",), "float", 4)


def test_rounding_mode_is_put_back() -> None:
    """After a directed rounding the processor rounds to nearest again."""
    features = machine.host()
    up = compiled.over_arrays(libdevice.function("__nv_fadd_ru", ("float", "float"), "float", 4), 4, features)
    tiny = np.full(4, 2.0**-40, np.float32)
    assert (up(np.ones(4), tiny) == np.float32(1) + np.finfo(np.float32).eps).all()
    assert np.float32(1) + tiny[0] == 1 and 1.0 + 2.0**-60 == 1.0


def test_formula_refuses_mixed_types() -> None:
    f = formula.Formula("@f", 4)
    x = f.constant(1.0, "float")
    with pytest.raises(TypeError, match="expected float, got i32"):
        x + f.constant(1, "i32")
    with pytest.raises(TypeError, match="no such operation on float"):
        x & x
