"""Products of tiles in LLVM IR beside NumPy, in exact integers and bounds of rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import compiled
import ml_dtypes
import numpy as np
import pytest

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import codegen, dot, machine

pytestmark = pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")

DTYPES = compiled.DTYPES | {"bfloat": ml_dtypes.bfloat16}
#: operands, accumulator, the relative rounding of a product's sum, of its result
TYPES = [
    ("float", "float", "float", 2.0**-24, 0), ("double", "double", "double", 2.0**-53, 0),
    ("half", "half", "float", 2.0**-24, 0), ("bfloat", "bfloat", "float", 2.0**-24, 0),
    ("half", "half", "half", 2.0**-24, 2.0**-11), ("bfloat", "bfloat", "bfloat", 2.0**-24, 2.0**-8),
    ("half", "float", "float", 2.0**-24, 0), ("float", "float", "double", 2.0**-53, 0),
    ("i8", "i8", "i32", 0, 0), ("i32", "i32", "i32", 0, 0),
]  # fmt: skip
SHAPES = [
    (1, 1, 1), (16, 16, 16), (64, 64, 32), (2, 1, 2), (4, 8, 1), (32, 4, 8), (16, 256, 2), (256, 16, 512),
    (64, 64, 64), (128, 32, 64),
]  # fmt: skip


def machines() -> list[machine.Features]:
    """This processor, and what else it can run: narrower registers, fewer instructions."""
    host = machine.host()
    if host.architecture != "x86_64":
        return [host]
    levels = ["x86-64-v2", *(["x86-64-v3"] if host.lanes >= 8 else []), *(["x86-64-v4"] if host.lanes == 16 else [])]
    lacks = ("amx-int8",), ("amx-int8", "avx512vbmi"), ("amx-int8", "avx512vnni")
    return [*dict.fromkeys([host, *(without(host, *names) for names in lacks)]), *map(machine.level, levels)]


def without(features: machine.Features, *names: str) -> machine.Features:
    """A processor that lacks some instructions."""
    kept = (f"-{f[1:]}" if f[1:] in names else f for f in features.features.split(","))
    return features._replace(features=",".join(kept))


def run(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, types: tuple[str, str, str], features: machine.Features,
    change: Callable[[dot.Function], dot.Function] = lambda function: function, ahead: bool = False,
) -> None:  # fmt: skip
    """c += a @ b by the function; a has any strides, b and c contiguous columns."""
    (M, K), N = a.shape, b.shape[1]
    function = change(dot.function(*types, M, N, K, features, ahead))
    arguments = "ptr %a, i64 %am, i64 %ak, ptr %b, i64 %bk, ptr %c, i64 %cm"
    main = f"define void @main({arguments}) {{\n  call void {function.symbol}({arguments})\n  ret void\n}}"
    strides = [s // x.itemsize for x in (a, b, c) for s in x.strides]
    compiled.linked(compiled.module(function, main), "main", features, 7)(
        a.ctypes.data, strides[0], strides[1], b.ctypes.data, strides[2], c.ctypes.data, strides[4]
    )


def operands(types: tuple[str, ...], M: int, N: int, K: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(-128, 128, size) if type[0] == "i" else rng.standard_normal(size)).astype(DTYPES[type])
        for type, size in zip(types, ((M, K), (K, N), (M, N)), strict=True)
    ]


@pytest.mark.parametrize("a, b, c, eps, last", TYPES, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("M, N, K", SHAPES)
def test_product(a: str, b: str, c: str, eps: float, last: float, M: int, N: int, K: int) -> None:
    """c + a @ b within the rounding of K steps; integers to the last bit."""
    types = (a, b, c)
    x, y, start = operands(types, M, N, K, 1)
    out = start.copy()
    run(x, y, out, types, machine.host())
    wide = [v.astype(np.float64 if eps else np.int64) for v in (x, y, start)]
    expected = wide[2] + wide[0] @ wide[1]
    size = np.abs(wide[2]) + np.abs(wide[0]) @ np.abs(wide[1])
    error = np.abs(out.astype(expected.dtype) - expected)
    assert (error <= (K + 1) * eps * size + last * np.abs(expected)).all(), error.max()


@pytest.mark.parametrize("a, b, c, eps, last", TYPES, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("M, N, K", [(32, 16, 8), (64, 32, 128)])
def test_strides(a: str, b: str, c: str, eps: float, last: float, M: int, N: int, K: int) -> None:
    """A transposed a, a reversed one, rows of b and c with gaps: the same bits, and the gaps stay as they were."""
    types = (a, b, c)
    x, y, start = operands(types, M, N, K, 2)
    expected = start.copy()
    run(x, y, expected, types, machine.host())
    padded_y, padded_c = np.zeros((K, N + 5), y.dtype), np.full((M, N + 3), 77, start.dtype)
    padded_y[:, :N], padded_c[:, :N] = y, start
    for other in (np.asfortranarray(x), np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]):
        out = padded_c.copy()
        run(other, padded_y[:, :N], out[:, :N], types, machine.host())
        assert np.array_equal(out[:, :N], expected) and (out[:, N:] == 77).all()


@pytest.mark.parametrize("a, b, c, eps, last", TYPES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_width_gives_the_same_bits(a: str, b: str, c: str, eps: float, last: float) -> None:
    types = (a, b, c)
    for M, N, K in ((64, 64, 32), (16, 8, 16), (2, 32, 4), (64, 32, 128), (16, 16, 64)):
        x, y, start = operands(types, M, N, K, 3)
        results = []
        for features in machines():
            results.append(start.copy())
            run(x, y, results[-1], types, features)
        assert all(np.array_equal(results[0], other) for other in results[1:])


def test_tiles_that_are_refused() -> None:
    """Where the system does not permit AMX the product is made by vectors; that it was refused is remembered."""
    host = machine.host()
    if ".tiles" not in dot.function("i8", "i8", "i32", 64, 32, 128, host).text:
        pytest.skip("the processor has no AMX")
    x, y, start = operands(("i8", "i8", "i32"), 64, 32, 128, 5)

    def refused(function: dot.Function) -> dot.Function:
        text = function.text.replace("i64 4131", "i64 1").replace("label %tiles, label", "label %wrong, label")
        return function._replace(text=text.replace("tiles:\n", "wrong:\n  store i32 0, ptr %c\n  ret void\ntiles:\n"))

    out = start.copy()
    run(x, y, out, ("i8", "i8", "i32"), host, refused)
    assert np.array_equal(out, start + x.astype(np.int32) @ y.astype(np.int32))


def test_fetching_ahead_changes_nothing() -> None:
    """What lies past an array's end may be asked for."""
    x, y, start = operands(("float",) * 3, 64, 64, 64, 6)
    results = []
    for ahead in (False, True):
        results.append(start.copy())
        run(x, y, results[-1], ("float", "float", "float"), machine.host(), ahead=ahead)
    assert np.array_equal(*results)
    assert "llvm.prefetch" in dot.function("float", "float", "float", 64, 64, 64, machine.host(), True).text


def test_one_element_accumulates_in_order() -> None:
    """fma(a[k], b[k], c) for k = 0, 1, ...: what comes first absorbs what is small."""
    big, one = np.float32(2.0**24), np.float32(1)
    x, y = np.array([[big, one, one, -big]], np.float32), np.ones((4, 1), np.float32)
    out = np.zeros((1, 1), np.float32)
    run(x, y, out, ("float", "float", "float"), machine.host())
    assert out[0, 0] == 0


def test_special_values() -> None:
    """Infinities, NaN, and denormals of bfloat16, which are not flushed."""
    for type in ("float", "bfloat", "half"):
        dtype = DTYPES[type]
        small = np.float32(2.0**-133 if type == "bfloat" else 2.0**-24 if type == "half" else 2.0**-149)
        x = np.zeros((4, 2), dtype)
        x[0], x[1], x[2], x[3] = [np.inf, 1], [np.inf, -np.inf], [small, 0], [0, -0.0]
        y = np.ones((2, 2), dtype)
        out = np.zeros((4, 2), np.float32)
        run(x, y, out, (type, type, "float"), machine.host())
        assert np.isposinf(out[0]).all() and np.isnan(out[1]).all() and (out[2] == small).all() and (out[3] == 0).all()


def test_accumulator_of_bfloat_rounds_to_even() -> None:
    """Halfway cases, the smallest denormal and NaN, on every machine as ml_dtypes rounds them."""
    values = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-133, 3e38, np.nan, -1 - 2.0**-8], np.float32)
    x = np.resize(values, (8, 1))
    for features in machines():
        out = np.zeros((8, 4), ml_dtypes.bfloat16)
        run(x, np.ones((1, 4), np.float32), out, ("float", "float", "bfloat"), features)
        expected = np.repeat(x.astype(ml_dtypes.bfloat16), 4, 1)
        assert np.array_equal(out.astype(np.float32), expected.astype(np.float32), equal_nan=True)


def test_integers_wrap() -> None:
    """int32 sums are modulo 2**32; int8's extremes are exact."""
    x = np.full((16, 64), -128, np.int8)
    y = np.full((64, 16), -128, np.int8)
    out = np.full((16, 16), 2**31 - 1, np.int32)
    run(x, y, out, ("i8", "i8", "i32"), machine.host())
    assert (out == np.int64(2**31 - 1 + 64 * 16384).astype(np.int32)).all()


@pytest.mark.parametrize("level, lanes", compiled.LEVELS)
def test_every_processor(level: str, lanes: int) -> None:
    """Object files for AVX2, AVX-512 and NEON."""
    features = machine.level(level)
    for (a, b, c, *_), (M, N, K) in itertools.product(TYPES, ((64, 64, 32), (1, 1, 1), (16, 8, 2))):
        function = dot.function(a, b, c, M, N, K, features)
        text = compiled.module(function, "").replace("define internal", "define")
        assert len(codegen.compile(text, features)) > 500


def test_pack() -> None:
    """A transposed tile of half or of bytes becomes row-major, widened exactly."""
    features = machine.host()
    for source, target in (("half", "float"), ("bfloat", "float"), ("i8", "i32"), ("float", "float")):
        (x,) = operands((source,) * 1 + (source,) * 2, 16, 16, 8, 4)[:1]
        function = dot.pack(source, target, 8, 16, features)
        main = (
            "define void @main(ptr %x, i64 %r, i64 %c, ptr %out) {\n"
            f"  call void {function.symbol}(ptr %x, i64 %r, i64 %c, ptr %out)\n  ret void\n}}"
        )
        out = np.zeros((8, 16), DTYPES[target])
        compiled.linked(compiled.module(function, main), "main", features, 4)(x.ctypes.data, 1, 8, out.ctypes.data)
        assert np.array_equal(out, x.T.astype(DTYPES[target]))


def test_other_types_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no product of i8 by half into i32"):
        dot.function("i8", "half", "i32", 16, 16, 16, machine.host())
