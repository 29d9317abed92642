"""What the lowering makes of TTIR: run at every vector width, on one thread, beside NumPy."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import struct

import ml_dtypes
import numpy as np
import pytest

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import codegen, linker, llvm, machine, parser

pytestmark = pytest.mark.skipif(not codegen.available(), reason="there is no compiler for this processor")
if codegen.available():
    from tensorlib.runtime.native.lower import lower

WIDTHS = (16, 8, 4)
BFLOAT16 = ml_dtypes.bfloat16


@functools.cache
def _compiled(text: str, lanes: int, alias: bool, guard: bool):
    features = machine.host()._replace(lanes=lanes)
    program = lower(parser.parse(text), features, alias=alias, guard=guard)
    loaded = linker.load(codegen.compile(program.text, features), program.grid)
    return program, loaded


_STRUCT = {"i1": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "f32": "f", "f64": "d"}


def launch(text, *arguments, grid=(1,), lanes=16, alias=False, guard=False, extents=(), printer=0):
    """Run a kernel's programs; returns its status: (state, which, offset, x, y, z, access)."""
    program, loaded = _compiled(text, lanes, alias, guard)
    values = [*arguments, *(edge for extent in extents for edge in extent)]
    block = bytearray(program.arguments_size + 8)
    for value, parameter in zip(values, program.parameters, strict=True):
        if parameter.type.startswith("!tt.ptr"):
            struct.pack_into("<Q", block, parameter.offset, value if isinstance(value, int) else value.ctypes.data)
        else:
            struct.pack_into(f"<{_STRUCT[parameter.type]}", block, parameter.offset, value)
    scratch = np.full(program.scratch + 64, 0xAB, np.uint8)  # nothing may rest on what is there
    status = np.zeros(16, np.int64)
    status[8] = printer
    x, y, z = (*grid, 1, 1)[:3]
    void, count = ctypes.c_void_p, ctypes.c_int64
    run = ctypes.CFUNCTYPE(None, void, count, count, *[ctypes.c_int32] * 3, void, void)(loaded[program.grid])
    held = (ctypes.c_char * len(block)).from_buffer(block)
    run(ctypes.addressof(held), 0, x * y * z, x, y, z, -(-scratch.ctypes.data // 64) * 64, status.ctypes.data)
    return tuple(int(word) for word in status[:7])


def kernel(arguments: str, body: str) -> str:
    """A module with one kernel."""
    return f"module {{\n  tt.func public @kernel({arguments}) {{\n{body}\n    tt.return\n  }}\n}}\n"


def _tile(shape, element):
    return f"tensor<{'x'.join(map(str, shape))}x{element}>"


def pointers(name: str, argument: str, element: str, n: int, offset: str = "%range") -> str:
    """``%name = argument + offset``, a tile of n pointers."""
    many = f"tensor<{n}x!tt.ptr<{element}>>"
    return (
        f"    %{name}_all = tt.splat {argument} : !tt.ptr<{element}> -> {many}\n"
        f"    %{name} = tt.addptr %{name}_all, {offset} : {many}, tensor<{n}xi32>"
    )


def arange(n: int, name: str = "range") -> str:
    return f"    %{name} = tt.make_range {{end = {n} : i32, start = 0 : i32}} : tensor<{n}xi32>"


def elementwise(line: str, inputs: list[str], output: str, n: int) -> str:
    """A kernel that loads tiles %x0, %x1, ... and stores %y, which ``line`` defines."""
    body = [arange(n)]
    for i, element in enumerate(inputs):
        body += [pointers(f"p{i}", f"%a{i}", element, n), f"    %x{i} = tt.load %p{i} : tensor<{n}x!tt.ptr<{element}>>"]
    body += [line, pointers("po", "%out", output, n), f"    tt.store %po, %y : tensor<{n}x!tt.ptr<{output}>>"]
    arguments = ", ".join(
        [*(f"%a{i}: !tt.ptr<{element}>" for i, element in enumerate(inputs)), f"%out: !tt.ptr<{output}>"]
    )
    return kernel(arguments, "\n".join(body))


def apply(line: str, inputs: list[str], output: str, *arrays, result, lanes: int):
    """The kernel of `elementwise` on arrays, padded to a power of two."""
    n = 1 << (len(arrays[0]) - 1).bit_length()
    padded = [np.resize(a, n) for a in arrays]
    out = np.zeros(n, result)
    launch(elementwise(line.replace("<N", f"<{n}"), inputs, output, n), *padded, out, lanes=lanes)
    return out[: len(arrays[0])]


def same(got, want):
    """Equal bit for bit, but for NaNs, which are all one."""
    np.testing.assert_array_equal(got, want)
    if np.asarray(want).dtype.kind == "f":
        number = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(want)[number])


SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 1.5, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1e-39, 3.4e38, -3.4e38, 2.5, -2.5, 7e-46],
    np.float32,
)


def _pairs():
    a, b = np.meshgrid(SPECIAL, SPECIAL)
    return np.ascontiguousarray(a.ravel()), np.ascontiguousarray(b.ravel())


# -- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("addf", np.add),
        ("subf", np.subtract),
        ("mulf", np.multiply),
        ("divf", np.divide),
        ("maximumf", np.maximum),
        ("minimumf", np.minimum),
        ("maxnumf", np.fmax),
        ("minnumf", np.fmin),
    ],
)
def test_float_arithmetic_of_special_numbers(name, function, lanes):
    a, b = _pairs()
    got = apply(
        f"    %y = arith.{name} %x0, %x1 : tensor<Nxf32>", ["f32", "f32"], "f32", a, b, result=np.float32, lanes=lanes
    )
    with np.errstate(all="ignore"):
        want = function(a, b)
    if name in ("maximumf", "minimumf", "maxnumf", "minnumf"):
        np.testing.assert_array_equal(got, want)  # which zero is not said
    else:
        same(got, want)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("name", ["divsi", "divui", "remsi", "remui", "ceildivsi", "floordivsi"])
def test_integer_division(name, bits, lanes):
    signed = not name.endswith("ui")
    kind = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    limits = np.iinfo(kind)
    edges = [limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1, 2, 3, 7, 10, 100, limits.max // 3]
    numbers = np.array(edges + [-1, -2, -7] * signed, kind)
    drawn = np.random.default_rng(bits).integers(limits.min, limits.max, 400, kind, endpoint=True)
    a, b = (np.ascontiguousarray(x.ravel()) for x in np.meshgrid(numbers, numbers))
    a, b = np.concatenate([a, drawn]), np.concatenate([b, drawn[::-1] >> (bits // 2)])
    t = f"i{bits}"
    got = apply(f"    %y = arith.{name} %x0, %x1 : tensor<Nx{t}>", [t, t], t, a, b, result=kind, lanes=lanes)

    def exact(x, y):
        x, y = int(x), int(y)
        if not y:
            return 0
        quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        if "rem" in name:
            return x - y * quotient
        if name == "divsi" or name == "divui":
            return quotient
        return -(-x // y) if name == "ceildivsi" else x // y

    want = np.array([exact(x, y) & ((1 << bits) - 1) for x, y in zip(a, b, strict=True)], f"u{bits // 8}").view(kind)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("name", ["shli", "shrsi", "shrui"])
def test_shifts_past_the_width(name, lanes):
    values = np.array([-(2**31), -5, -1, 0, 1, 5, 2**31 - 1], np.int32)
    amounts = np.array([0, 1, 4, 31, 32, 33, 1000, -1], np.int32)
    a, b = (np.ascontiguousarray(x.ravel()) for x in np.meshgrid(values, amounts))
    got = apply(
        f"    %y = arith.{name} %x0, %x1 : tensor<Nxi32>", ["i32", "i32"], "i32", a, b, result=np.int32, lanes=lanes
    )

    def exact(x, n):
        x, n = int(x), int(n) & 0xFFFFFFFF
        if name == "shrsi":
            return x >> min(n, 31)
        return 0 if n > 31 else (x << n if name == "shli" else (x & 0xFFFFFFFF) >> n)

    want = np.array([exact(x, n) & 0xFFFFFFFF for x, n in zip(a, b, strict=True)], np.uint32).view(np.int32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_integers_wrap_before_they_widen(lanes):
    """(start + arange).to(int64), where start + arange overflows int32 within the tile."""
    body = "\n".join(
        [
            arange(64),
            "    %s = tt.splat %start : i32 -> tensor<64xi32>",
            "    %sum = arith.addi %s, %range : tensor<64xi32>",
            "    %y = arith.extsi %sum : tensor<64xi32> to tensor<64xi64>",
            pointers("po", "%out", "i64", 64),
            "    tt.store %po, %y : tensor<64x!tt.ptr<i64>>",
        ]
    )
    out = np.zeros(64, np.int64)
    start = 2**31 - 20
    launch(kernel("%start: i32, %out: !tt.ptr<i64>", body), start, out, lanes=lanes)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, (np.int32(start) + np.arange(64, dtype=np.int32)).astype(np.int64))


@pytest.mark.parametrize("lanes", WIDTHS)
def test_high_halves_of_products(lanes):
    drawn = np.random.default_rng(0)
    for bits, kind in ((32, np.uint32), (64, np.uint64)):
        a, b = (drawn.integers(0, 2**bits, 64, kind) for _ in range(2))
        t = f"i{bits}"
        got = apply(f"    %y = tt.mulhiui %x0, %x1 : tensor<Nx{t}>", [t, t], t, a, b, result=kind, lanes=lanes)
        want = np.array([int(x) * int(y) >> bits for x, y in zip(a, b, strict=True)], kind)
        np.testing.assert_array_equal(got, want)


# -- conversions -------------------------------------------------------------------------------------------------------

FLOATS = {
    "f16": np.float16,
    "bf16": BFLOAT16,
    "f32": np.float32,
    "f64": np.float64,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn,
    "f8E5M2": ml_dtypes.float8_e5m2,
    "f8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "f8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "f8E4M3B11FNUZ": ml_dtypes.float8_e4m3b11fnuz,
}


def _bits(array):
    return array.view(f"u{array.dtype.itemsize}")


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("source", [name for name in FLOATS if name not in ("f32", "f64")])
def test_narrow_floats_widen_exactly(source, lanes):
    kind = np.dtype(FLOATS[source])
    every = np.arange(1 << (8 * kind.itemsize), dtype=np.uint32).astype(f"u{kind.itemsize}").view(kind)
    line = f"    %y = tt.fp_to_fp %x0 : tensor<Nx{source}> -> tensor<Nxf32>"
    got = apply(line, [source], "f32", every, result=np.float32, lanes=lanes)
    same(got, every.astype(np.float32))


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("text", ["1.500000e+00", "-0.375000e+00", "0x01", "0x7F"])  # by number, and by bits: a NaN too
@pytest.mark.parametrize("name", [name for name in FLOATS if name.startswith("f8")])
def test_constants_of_8_bit_floats(name, text, lanes):
    kind = FLOATS[name]
    line = f"    %y = arith.constant dense<{text}> : tensor<Nx{name}>"
    got = apply(line, [name], name, np.zeros(40, kind), result=kind, lanes=lanes)
    want = np.uint8(int(text, 16)) if text.startswith("0x") else np.array(float(text), kind).view(np.uint8)
    np.testing.assert_array_equal(got.view(np.uint8), np.full(40, want))


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("target", [name for name in FLOATS if name not in ("f32", "f64")])
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_floats_round_to_nearest_even(source, target, lanes):
    kind, wide = np.dtype(FLOATS[target]), np.dtype(FLOATS[source])
    with np.errstate(invalid="ignore"):
        every = np.arange(1 << (8 * kind.itemsize), dtype=np.uint32).astype(f"u{kind.itemsize}").view(kind)
        grid, first = np.unique(every.astype(np.float64), return_index=True)
    grid, codes = grid[np.isfinite(grid)], _bits(every)[first[np.isfinite(grid)]]
    between = ((grid[1:] + grid[:-1]) / 2)[:: 1 if kind.itemsize == 1 else 17]  # ties
    values = np.concatenate([grid[::7], between, between * (1 + 2**-20), between * (1 - 2**-20)])
    if source == "f64":  # a tie but for a bit that float32 does not have
        values = np.concatenate([values, between * (1 + 2**-45), between * (1 - 2**-45)])
    values = np.concatenate([values, [0.0, -0.0, math.nan, 1e30, -1e30, 1e-30, math.inf, -math.inf]]).astype(wide)
    line = f"    %y = tt.fp_to_fp %x0, rounding = rtne : tensor<Nx{source}> -> tensor<Nx{target}>"
    if kind.itemsize == 2:
        line = f"    %y = arith.truncf %x0 : tensor<Nx{source}> to tensor<Nx{target}>"
    got = apply(line, [source], target, values, result=kind, lanes=lanes)
    nan = np.isnan(values)
    assert np.isnan(got[nan].astype(np.float32)).all()
    exact, got = values[~nan].astype(np.float64), got[~nan]
    largest, step = grid[-1], grid[-1] - grid[-2]
    above = np.clip(np.searchsorted(grid, exact), 1, len(grid) - 1)
    down, up = exact - grid[above - 1], grid[above] - exact
    even = (codes[above] & 1) == 0
    nearest = grid[np.where((up < down) | ((up == down) & even), above, above - 1)]
    if kind.itemsize == 2:  # halfway to the number after the largest, it is infinity
        nearest = np.where(np.abs(exact) >= largest + step / 2, np.copysign(math.inf, exact), nearest)
    same(
        got.astype(np.float64),
        np.where(nearest == 0, np.copysign(0.0, exact) if "FNUZ" not in target else 0.0, nearest),
    )


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("target", ["i8", "i16", "i32", "i64"])
@pytest.mark.parametrize("signed", [True, False])
def test_floats_to_integers_clamp(signed, target, lanes):
    values = np.array(
        [0, -0.0, 0.9, -0.9, 1.5, 127.9, 100, 3e9, 1e20, -1e20, math.inf, -math.inf, math.nan, -3e9, 2**31], np.float32
    )
    kind = np.dtype(f"{'i' if signed else 'u'}{int(target[1:]) // 8}")
    name = "fptosi" if signed else "fptoui"
    got = apply(
        f"    %y = arith.{name} %x0 : tensor<Nxf32> to tensor<Nx{target}>",
        ["f32"],
        target,
        values,
        result=kind,
        lanes=lanes,
    )
    wide = np.iinfo(np.dtype(f"{kind.kind}{max(kind.itemsize, 4)}"))

    def exact(x):
        if math.isnan(x):
            return 1 << 63 if target == "i64" else 0
        clamped = wide.min if x == -math.inf else wide.max if x == math.inf else min(max(int(x), wide.min), wide.max)
        return clamped & ((1 << (8 * kind.itemsize)) - 1)

    want = np.array([exact(float(x)) for x in values], f"u{kind.itemsize}").view(kind)
    np.testing.assert_array_equal(got, want)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 7, 64, 100, 127, 128])
def test_masked_lanes_do_not_touch_memory(n, lanes):
    """An array at the very end of what may be read and written: one byte further is a fault."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(base + page), page, 0) == 0
    for element, kind in (("f32", np.float32), ("i8", np.int8), ("f16", np.float16), ("f64", np.float64)):
        array = (
            np.ndarray(n, kind, buffer=memory, offset=page - n * np.dtype(kind).itemsize) if n else np.zeros(1, kind)
        )
        array[:] = np.arange(len(array))
        place = base + page - n * np.dtype(kind).itemsize
        add = "arith.addi" if element[0] == "i" else "arith.addf"
        body = "\n".join(
            [
                arange(128),
                "    %size = tt.splat %n : i32 -> tensor<128xi32>",
                "    %mask = arith.cmpi slt, %range, %size : tensor<128xi32>",
                pointers("p", "%x", element, 128),
                f"    %five = arith.constant dense<{5 if element[0] == 'i' else 5.0}> : tensor<128x{element}>",
                f"    %v = tt.load %p, %mask, %five : tensor<128x!tt.ptr<{element}>>",
                f"    %y = {add} %v, %v : tensor<128x{element}>",
                f"    tt.store %p, %y, %mask : tensor<128x!tt.ptr<{element}>>",
            ]
        )
        launch(kernel(f"%x: !tt.ptr<{element}>, %n: i32", body), place, n, lanes=lanes)
        if n:
            np.testing.assert_array_equal(array, (2 * np.arange(n)).astype(kind))
        del array
    assert libc.mprotect(ctypes.c_void_p(base + page), page, 3) == 0


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("element", ["i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"])
def test_gathers_stay_within_the_pages_of_their_elements(element, masked, lanes):
    """An array between pages that may not be read, of elements that are loaded here and there."""
    kinds = {"i": f"int{element[1:]}", "f": f"float{element[1:]}", "b": "uint16"}  # bfloat16 by its bits
    page, kind = mmap.PAGESIZE, np.dtype(kinds[element[0]]).type
    memory = mmap.mmap(-1, 3 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for number in (0, 2):
        assert libc.mprotect(ctypes.c_void_p(base + number * page), page, 0) == 0
    count, rng = page // np.dtype(kind).itemsize, np.random.default_rng(3)
    array = np.ndarray(count, kind, buffer=memory, offset=page)
    array[:] = rng.integers(0, 100, count)
    index = rng.integers(0, count, 128).astype(np.int32)
    index[:4] = 0, count - 1, 1, count - 2
    if masked:
        index[5::3] = rng.choice([-(2**30), 2**30, -1, count], len(index[5::3]))
    body = "\n".join([
        arange(128),
        pointers("i", "%index", "i32", 128), "    %at = tt.load %i : tensor<128x!tt.ptr<i32>>",
        pointers("p", "%x", element, 128, "%at"),
        "    %zero = arith.constant dense<0> : tensor<128xi32>",
        f"    %count = arith.constant dense<{count}> : tensor<128xi32>",
        "    %above = arith.cmpi sge, %at, %zero : tensor<128xi32>",
        "    %below = arith.cmpi slt, %at, %count : tensor<128xi32>",
        "    %mask = arith.andi %above, %below : tensor<128xi1>",
        f"    %other = arith.constant dense<{7 if element[0] == 'i' else 7.0}> : tensor<128x{element}>",
        f"    %v = tt.load %p{', %mask, %other' if masked else ''} : tensor<128x!tt.ptr<{element}>>",
        pointers("o", "%out", element, 128), f"    tt.store %o, %v : tensor<128x!tt.ptr<{element}>>",
    ])  # fmt: skip
    out = np.zeros(128, kind)
    text = kernel(f"%out: !tt.ptr<{element}>, %x: !tt.ptr<{element}>, %index: !tt.ptr<i32>", body)
    launch(text, out, base + page, index, lanes=lanes)
    other = BFLOAT16(7).view(np.uint16) if element == "bf16" else 7
    expected = [array[at] if 0 <= at < count else other for at in index]
    np.testing.assert_array_equal(out, np.array(expected, kind))


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("element", ["i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"])
def test_masks_that_are_known(element, lanes):
    """Constants, of which LLVM makes scalar accesses: no more bytes are read or written than the lanes' own."""
    kind = np.dtype(FLOATS.get(element, f"i{int(element[1:]) // 8}" if element[0] == "i" else None))
    wide, up, down = ("i64", "extsi", "trunci") if element[0] == "i" else ("f64", "extf", "truncf")
    for k in (0, 1, 2, 3, 8, 15, 16):
        body = [
            arange(16),
            f"    %k = arith.constant dense<{k}> : tensor<16xi32>",
            "    %mask = arith.cmpi slt, %range, %k : tensor<16xi32>",
            pointers("p", "%x", element, 16),
            pointers("po", "%out", element, 16),
            f"    %v = tt.load %p, %mask : tensor<16x!tt.ptr<{element}>>",
        ]
        value = "%v"
        if element != wide:
            body += [
                f"    %w = arith.{up} %v : tensor<16x{element}> to tensor<16x{wide}>",
                f"    %s = arith.{'addi' if wide == 'i64' else 'addf'} %w, %w : tensor<16x{wide}>",
                f"    %t = arith.{down} %s : tensor<16x{wide}> to tensor<16x{element}>",
            ]
            value = "%t"
        body.append(f"    tt.store %po, {value}, %mask : tensor<16x!tt.ptr<{element}>>")
        x = (np.arange(20) % 7 - 3).astype(kind)
        out = np.full(20, 9, kind)
        text = kernel(f"%x: !tt.ptr<{element}>, %out: !tt.ptr<{element}>", "\n".join(body))
        launch(text, x, out, lanes=lanes)
        want = np.full(20, 9, kind)
        want[:k] = x[:k] * (2 if element != wide else 1)
        np.testing.assert_array_equal(out, want)


def _moved(load_offset: str, store_offset: str, arguments: str = "%x: !tt.ptr<f32>", source: str = "%x") -> str:
    body = "\n".join(
        [
            arange(256),
            "    %last = arith.constant dense<255> : tensor<256xi32>",
            "    %one = arith.constant dense<1> : tensor<256xi32>",
            "    %zero = arith.constant dense<0> : tensor<256xi32>",
            "    %two = arith.constant dense<2> : tensor<256xi32>",
            "    %reverse = arith.subi %last, %range : tensor<256xi32>",
            "    %next = arith.addi %range, %one : tensor<256xi32>",
            "    %even = arith.muli %range, %two : tensor<256xi32>",
            pointers("pl", source, "f32", 256, load_offset),
            pointers("ps", "%x", "f32", 256, store_offset),
            "    %v = tt.load %pl : tensor<256x!tt.ptr<f32>>",
            "    tt.store %ps, %v : tensor<256x!tt.ptr<f32>>",
        ]
    )
    return kernel(arguments, body)


OFFSETS = {
    "%range": np.arange(256),
    "%reverse": 255 - np.arange(256),
    "%next": 1 + np.arange(256),
    "%even": 2 * np.arange(256),
    "%zero": np.zeros(256, int),
}


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("load", OFFSETS)
@pytest.mark.parametrize("store", ["%range", "%reverse", "%next", "%even"])
def test_a_load_precedes_the_store_after_it(load, store, lanes):
    """All of it: also where the two overlap, through one argument or through two."""
    start = np.arange(600, dtype=np.float32)
    want = start.copy()
    want[OFFSETS[store]] = start[OFFSETS[load]]
    one = start.copy()
    launch(_moved(load, store), one, lanes=lanes)
    np.testing.assert_array_equal(one, want)
    two = start.copy()
    launch(_moved(load, store, "%x: !tt.ptr<f32>, %y: !tt.ptr<f32>", "%y"), two, two, lanes=lanes, alias=True)
    np.testing.assert_array_equal(two, want)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_loads_between_stores(lanes):
    """A load sees the stores before it and none after it, and what was loaded stays as it was."""
    tile = "tensor<256x!tt.ptr<f32>>"
    body = "\n".join(
        [
            arange(256),
            "    %one = arith.constant dense<1> : tensor<256xi32>",
            "    %next = arith.addi %range, %one : tensor<256xi32>",
            pointers("p", "%x", "f32", 256),
            pointers("q", "%x", "f32", 256, "%next"),
            pointers("po", "%out", "f32", 256),
            f"    %a = tt.load %p : {tile}",
            f"    %b = tt.load %q : {tile}",
            "    %s = arith.addf %a, %b : tensor<256xf32>",
            f"    tt.store %p, %s : {tile}",
            f"    %c = tt.load %q : {tile}",
            "    %t = arith.mulf %c, %b : tensor<256xf32>",
            f"    tt.store %q, %t : {tile}",
            "    %u = arith.addf %a, %t : tensor<256xf32>",
            f"    tt.store %po, %u : {tile}",
        ]
    )
    x = np.random.default_rng(0).integers(-9, 9, 300).astype(np.float32)
    out, want = np.zeros(256, np.float32), x.copy()
    a, b = want[:256].copy(), want[1:257].copy()
    want[:256] = a + b
    t = want[1:257] * b
    want[1:257] = t
    launch(kernel("%x: !tt.ptr<f32>, %out: !tt.ptr<f32>", body), x, out, lanes=lanes)
    np.testing.assert_array_equal(x, want)
    np.testing.assert_array_equal(out, a + t)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("distance", [1000, 300, 256, 255, 17, 16, 1, 0, -1, -16, -100, -256, -300])
def test_pointers_from_a_table(distance, lanes):
    """Two addresses that are read from memory: what they lead to may lie apart, or meet in any way."""
    body = "\n".join(
        [
            arange(256),
            "    %c1 = arith.constant 1 : i32",
            "    %half = arith.constant dense<5.000000e-01> : tensor<256xf32>",
            "    %ai = tt.load %table : !tt.ptr<i64>",
            "    %next = tt.addptr %table, %c1 : !tt.ptr<i64>, i32",
            "    %bi = tt.load %next : !tt.ptr<i64>",
            "    %a = tt.int_to_ptr %ai : i64 -> !tt.ptr<f32>",
            "    %b = tt.int_to_ptr %bi : i64 -> !tt.ptr<f32>",
            pointers("p", "%a", "f32", 256),
            pointers("q", "%b", "f32", 256),
            pointers("r", "%x", "f32", 256),
            "    %u = tt.load %p : tensor<256x!tt.ptr<f32>>",
            "    %v = tt.load %q : tensor<256x!tt.ptr<f32>>",
            "    %w = tt.load %r : tensor<256x!tt.ptr<f32>>",
            "    %s = arith.addf %u, %v : tensor<256xf32>",
            "    tt.store %p, %s : tensor<256x!tt.ptr<f32>>",
            "    %t = arith.mulf %v, %half : tensor<256xf32>",
            "    tt.store %q, %t : tensor<256x!tt.ptr<f32>>",
            "    %z = arith.subf %w, %u : tensor<256xf32>",
            "    tt.store %r, %z : tensor<256x!tt.ptr<f32>>",
        ]
    )
    memory, x = np.arange(3000, dtype=np.float32), np.arange(256, dtype=np.float32) * 3
    want, other = memory.copy(), x - memory[1000:1256]
    u, v = want[1000:1256].copy(), want[1000 + distance : 1256 + distance].copy()
    want[1000:1256] = u + v
    want[1000 + distance : 1256 + distance] = v / 2
    address = memory.ctypes.data + 4000
    table = np.array([address, address + 4 * distance], np.int64)
    launch(kernel("%table: !tt.ptr<i64>, %x: !tt.ptr<f32>", body), table, x, lanes=lanes)
    np.testing.assert_array_equal(memory, want)
    np.testing.assert_array_equal(x, other)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize(
    ("start", "size"), [(0, 1000), (0, 30), (40, 64), (-20, 64), (90, 100), (0, 64), (36, 100), (37, 100)]
)
def test_indices_that_wrap(start, size, lanes):
    """x[(start + arange) % size]: contiguous where it does not wrap, and right where it does."""
    body = "\n".join(
        [
            arange(64),
            "    %s = tt.splat %start : i32 -> tensor<64xi32>",
            "    %i = arith.addi %s, %range : tensor<64xi32>",
            "    %m = tt.splat %size : i32 -> tensor<64xi32>",
            "    %j = arith.remsi %i, %m : tensor<64xi32>",
            pointers("p", "%x", "f32", 64, "%j"),
            pointers("po", "%out", "f32", 64),
            "    %v = tt.load %p : tensor<64x!tt.ptr<f32>>",
            "    tt.store %po, %v : tensor<64x!tt.ptr<f32>>",
        ]
    )
    x, out = np.arange(2000, dtype=np.float32), np.zeros(64, np.float32)
    text = kernel("%x: !tt.ptr<f32>, %out: !tt.ptr<f32>, %start: i32, %size: i32", body)
    launch(text, x[1000:], out, start, size, lanes=lanes)
    index = start + np.arange(64)
    np.testing.assert_array_equal(out, x[1000 + np.fmod(index, size)])
    if lanes == 16:
        assert "load <16 x float>" in lower(parser.parse(text), machine.host()._replace(lanes=16)).text


def grid_pointers(name: str, argument: str, element: str, shape, strides) -> str:
    """``%name = argument + i * strides[0] + j * strides[1]``, a tile of pointers; ``%i`` and ``%j`` are tiles too."""
    M, N = shape
    rows, columns, full = f"tensor<{M}x1xi32>", f"tensor<1x{N}xi32>", f"tensor<{M}x{N}xi32>"
    many = f"tensor<{M}x{N}x!tt.ptr<{element}>>"
    return "\n".join(
        [
            f"    %{name}_m = tt.make_range {{end = {M} : i32, start = 0 : i32}} : tensor<{M}xi32>",
            f"    %{name}_n = tt.make_range {{end = {N} : i32, start = 0 : i32}} : tensor<{N}xi32>",
            f"    %{name}_i = tt.expand_dims %{name}_m {{axis = 1 : i32}} : tensor<{M}xi32> -> {rows}",
            f"    %{name}_j = tt.expand_dims %{name}_n {{axis = 0 : i32}} : tensor<{N}xi32> -> {columns}",
            f"    %{name}_si = arith.constant dense<{strides[0]}> : {rows}",
            f"    %{name}_sj = arith.constant dense<{strides[1]}> : {columns}",
            f"    %{name}_oi = arith.muli %{name}_i, %{name}_si : {rows}",
            f"    %{name}_oj = arith.muli %{name}_j, %{name}_sj : {columns}",
            f"    %{name}_bi = tt.broadcast %{name}_oi : {rows} -> {full}",
            f"    %{name}_bj = tt.broadcast %{name}_oj : {columns} -> {full}",
            f"    %{name}_o = arith.addi %{name}_bi, %{name}_bj : {full}",
            f"    %{name}_all = tt.splat {argument} : !tt.ptr<{element}> -> {many}",
            f"    %{name} = tt.addptr %{name}_all, %{name}_o : {many}, {full}",
        ]
    )


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("element", ["f32", "f64", "f16", "i8"])
@pytest.mark.parametrize("shape", [(32, 64), (16, 16), (64, 4), (2, 128)])
def test_transposed_tiles(shape, element, lanes):
    """out[i, j] = x[j, i], under a mask, read as it lies; and out[j, i] = x[i, j]^T by tt.trans."""
    (M, N), kind = shape, np.dtype(FLOATS.get(element, np.int8))
    full = f"tensor<{M}x{N}xi32>"
    body = "\n".join(
        [
            grid_pointers("p", "%x", element, shape, (1, M)),
            grid_pointers("q", "%out", element, shape, (N, 1)),
            "    %limit = tt.splat %n : i32 -> " + full,
            f"    %mask = arith.cmpi slt, %p_o, %limit : {full}",
            f"    %v = tt.load %p, %mask : tensor<{M}x{N}x!tt.ptr<{element}>>",
            f"    tt.store %q, %v : tensor<{M}x{N}x!tt.ptr<{element}>>",
            grid_pointers("r", "%back", element, (N, M), (M, 1)),
            f"    %t = tt.trans %v {{order = array<i32: 1, 0>}} : tensor<{M}x{N}x{element}>"
            f" -> tensor<{N}x{M}x{element}>",
            f"    tt.store %r, %t : tensor<{N}x{M}x!tt.ptr<{element}>>",
        ]
    )
    x = (np.arange(M * N) % 100).astype(kind)
    out, back = np.zeros((M, N), kind), np.zeros((N, M), kind)
    limit = M * N - 5
    arguments = f"%x: !tt.ptr<{element}>, %out: !tt.ptr<{element}>, %back: !tt.ptr<{element}>, %n: i32"
    launch(kernel(arguments, body), x, out, back, limit, lanes=lanes)
    want = np.where(np.arange(M * N) < limit, x, 0).astype(kind).reshape(N, M)
    np.testing.assert_array_equal(out, want.T)
    np.testing.assert_array_equal(back, want)


# -- control flow ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", WIDTHS)
def test_carried_tiles_that_change_places(lanes):
    """a, b, c = b, c, a + b: each new value is made of old ones."""
    tile, many = "tensor<64xi32>", "tensor<64x!tt.ptr<i32>>"
    body = "\n".join(
        [
            arange(64),
            "    %one = arith.constant dense<1> : tensor<64xi32>",
            "    %c0 = arith.constant 0 : i32",
            "    %c1 = arith.constant 1 : i32",
            "    %z = arith.muli %range, %range : tensor<64xi32>",
            "    %r:3 = scf.for %i = %c0 to %n step %c1 iter_args(%a = %range, %b = %one, %c = %z)"
            f" -> ({tile}, {tile}, {tile})  : i32 {{",
            f"      %s = arith.addi %a, %b : {tile}",
            f"      scf.yield %b, %c, %s : {tile}, {tile}, {tile}",
            "    }",
            *(
                line
                for k in range(3)
                for line in (pointers(f"p{k}", f"%o{k}", "i32", 64), f"    tt.store %p{k}, %r#{k} : {many}")
            ),
        ]
    )
    text = kernel("%n: i32, " + ", ".join(f"%o{k}: !tt.ptr<i32>" for k in range(3)), body)
    for rounds in (0, 1, 2, 7):
        a, b, c = np.arange(64, dtype=np.int32), np.ones(64, np.int32), np.arange(64, dtype=np.int32) ** 2
        outs = [np.zeros(64, np.int32) for _ in range(3)]
        for _ in range(rounds):
            a, b, c = b, c, a + b
        launch(text, rounds, *outs, lanes=lanes)
        for got, want in zip(outs, (a, b, c), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_one_new_value_for_two_carried_tiles(lanes):
    """a, b = a + b, a + b: the sum is made of the old ones both times."""
    tile = "tensor<64xi32>"
    body = "\n".join(
        [
            arange(64),
            "    %one = arith.constant dense<1> : tensor<64xi32>",
            "    %c0 = arith.constant 0 : i32",
            "    %c1 = arith.constant 1 : i32",
            "    %r:2 = scf.for %i = %c0 to %n step %c1 iter_args(%a = %range, %b = %one)"
            f" -> ({tile}, {tile})  : i32 {{",
            f"      %s = arith.addi %a, %b : {tile}",
            f"      scf.yield %s, %s : {tile}, {tile}",
            "    }",
            pointers("p", "%x", "i32", 64),
            pointers("q", "%y", "i32", 64),
            "    tt.store %p, %r#0 : tensor<64x!tt.ptr<i32>>",
            "    tt.store %q, %r#1 : tensor<64x!tt.ptr<i32>>",
        ]
    )
    x, y = np.zeros(64, np.int32), np.zeros(64, np.int32)
    launch(kernel("%x: !tt.ptr<i32>, %y: !tt.ptr<i32>, %n: i32", body), x, y, 5, lanes=lanes)
    np.testing.assert_array_equal(x, 16 * (np.arange(64) + 1))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_a_tile_made_in_one_branch_is_not_known_in_the_other(lanes):
    """An expensive lazy tile, needed in either branch and after both; and a store in one of them over what was read."""
    many = "tensor<64x!tt.ptr<f32>>"
    body = "\n".join(
        [
            arange(64),
            pointers("p", "%x", "f32", 64),
            pointers("po", "%out", "f32", 64),
            f"    %v = tt.load %p : {many}",
            "    %e = math.sqrt %v : tensor<64xf32>",
            "    %f = math.exp %e : tensor<64xf32>",
            "    %zero = arith.constant 0 : i32",
            "    %cond = arith.cmpi sgt, %flag, %zero : i32",
            "    %r = scf.if %cond -> (tensor<64xf32>) {",
            "      %g = arith.addf %f, %f : tensor<64xf32>",
            f"      tt.store %p, %g : {many}",
            "      scf.yield %g : tensor<64xf32>",
            "    } else {",
            "      %h = arith.mulf %f, %v : tensor<64xf32>",
            "      scf.yield %h : tensor<64xf32>",
            "    }",
            "    %t = arith.addf %r, %f : tensor<64xf32>",
            "    %u = arith.addf %t, %v : tensor<64xf32>",
            f"    tt.store %po, %u : {many}",
        ]
    )
    text = kernel("%x: !tt.ptr<f32>, %out: !tt.ptr<f32>, %flag: i32", body)
    for flag in (0, 1):
        v = np.random.default_rng(1).random(64).astype(np.float32)
        x, out = v.copy(), np.zeros(64, np.float32)
        launch(text, x, out, flag, lanes=lanes)
        f = np.exp(np.sqrt(v))
        np.testing.assert_allclose(out, (2 * f if flag else f * v) + f + v, rtol=1e-6)
        np.testing.assert_allclose(x, 2 * f if flag else v, rtol=1e-6)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_early_return_and_calls(lanes):
    """Blocks with branches, in the kernel and in a function that it calls; a load before a store in another block."""
    text = """
module {
  tt.func public @kernel(%x: !tt.ptr<f32>, %out: !tt.ptr<f32>, %n: i32) {
    %pid = tt.get_program_id x : i32
    %range = tt.make_range {end = 32 : i32, start = 0 : i32} : tensor<32xi32>
    %px = tt.splat %x : !tt.ptr<f32> -> tensor<32x!tt.ptr<f32>>
    %pi = tt.addptr %px, %range : tensor<32x!tt.ptr<f32>>, tensor<32xi32>
    %v = tt.load %pi : tensor<32x!tt.ptr<f32>>
    %past = arith.cmpi sge, %pid, %n : i32
    cf.cond_br %past, ^bb1, ^bb2
  ^bb1:  // pred: ^bb0
    tt.return
  ^bb2:  // pred: ^bb0
    %w = tt.call @double(%v, %pid) : (tensor<32xf32>, i32) -> tensor<32xf32>
    tt.store %pi, %w : tensor<32x!tt.ptr<f32>>
    %sum = arith.addf %v, %w : tensor<32xf32>
    %c32 = arith.constant 32 : i32
    %at = arith.muli %pid, %c32 : i32
    %row = tt.addptr %out, %at : !tt.ptr<f32>, i32
    %po = tt.splat %row : !tt.ptr<f32> -> tensor<32x!tt.ptr<f32>>
    %pp = tt.addptr %po, %range : tensor<32x!tt.ptr<f32>>, tensor<32xi32>
    tt.store %pp, %sum : tensor<32x!tt.ptr<f32>>
    tt.return
  }
  tt.func private @double(%v: tensor<32xf32>, %pid: i32) -> tensor<32xf32> attributes {noinline = true} {
    %c1 = arith.constant 1 : i32
    %is = arith.cmpi eq, %pid, %c1 : i32
    cf.cond_br %is, ^bb1, ^bb2
  ^bb1:  // pred: ^bb0
    %a = arith.addf %v, %v : tensor<32xf32>
    tt.return %a : tensor<32xf32>
  ^bb2:  // pred: ^bb0
    %ten = arith.constant dense<1.000000e+01> : tensor<32xf32>
    %b = arith.mulf %v, %ten : tensor<32xf32>
    tt.return %b : tensor<32xf32>
  }
}
"""
    x, out = np.arange(32, dtype=np.float32), np.zeros((3, 32), np.float32)
    launch(text, x, out, 2, grid=(3,), lanes=lanes)
    v = np.arange(32, dtype=np.float32)
    np.testing.assert_array_equal(out[0], 11 * v)
    np.testing.assert_array_equal(out[1], 3 * (10 * v))
    np.testing.assert_array_equal(out[2], 0)
    np.testing.assert_array_equal(x, 20 * v)


# -- reductions --------------------------------------------------------------------------------------------------------


def _reduce(shape, axis, combine, element="f32"):
    rest = [n for i, n in enumerate(shape) if i != axis]
    full, less = _tile(shape, element), _tile(rest, element) if rest else element
    total = math.prod(shape)
    flat = f"tensor<{total}x{element}>"
    lines = [
        arange(total),
        pointers("p", "%x", element, total),
        f"    %v = tt.load %p : tensor<{total}x!tt.ptr<{element}>>",
        f"    %t = tt.reshape %v : {flat} -> {full}",
        f'    %r = "tt.reduce"(%t) <{{axis = {axis} : i32}}> ({{',
        f"    ^bb0(%a: {element}, %b: {element}):",
        f"      %c = {combine} %a, %b : {element}",
        f"      tt.reduce.return %c : {element}",
        f"    }}) : ({full}) -> {less}",
    ]
    if rest:
        n = math.prod(rest)
        value = "%r" if len(rest) == 1 else "%f"
        if len(rest) > 1:
            lines.append(f"    %f = tt.reshape %r : {less} -> tensor<{n}x{element}>")
        lines += [
            arange(n, "to"),
            pointers("po", "%out", element, n, "%to"),
            f"    tt.store %po, {value} : tensor<{n}x!tt.ptr<{element}>>",
        ]
    else:
        lines.append(f"    tt.store %out, %r : !tt.ptr<{element}>")
    return kernel(f"%x: !tt.ptr<{element}>, %out: !tt.ptr<{element}>", "\n".join(lines))


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1,), 0),
        ((2,), 0),
        ((16,), 0),
        ((1024,), 0),
        ((8, 64), 0),
        ((8, 64), 1),
        ((64, 2), 0),
        ((64, 2), 1),
        ((4, 8, 16), 0),
        ((4, 8, 16), 1),
        ((4, 8, 16), 2),
    ],
)
def test_reductions(shape, axis, lanes):
    x = np.random.default_rng(3).integers(-50, 50, shape).astype(np.float32)
    for combine, function in (("arith.addf", np.sum), ("arith.maxnumf", np.max), ("arith.minimumf", np.min)):
        want = function(x, axis)
        out = np.zeros(want.size, np.float32)
        launch(_reduce(shape, axis, combine), x.ravel(), out, lanes=lanes)
        np.testing.assert_array_equal(out, want.ravel())


@pytest.mark.parametrize("lanes", WIDTHS)
def test_nan_in_reductions(lanes):
    """maxnumf passes NaN by, unless there is nothing else; maximumf keeps it."""
    some, every = np.ones((2, 64), np.float32), np.full((2, 64), np.nan, np.float32)
    some[0, 17] = np.nan
    for x, combine, want in (
        (some, "arith.maxnumf", [1, 1]),
        (some, "arith.maximumf", [np.nan, 1]),
        (every, "arith.maxnumf", [np.nan, np.nan]),
    ):
        out = np.zeros(2, np.float32)
        launch(_reduce((2, 64), 1, combine), x.ravel(), out, lanes=lanes)
        np.testing.assert_array_equal(out, np.array(want, np.float32))


# -- dots --------------------------------------------------------------------------------------------------------------


def _flat(name: str, argument: str, element: str, shape, wanted: str = "tile") -> str:
    """Loads ``%name``, a row-major array of a shape; or makes ``%name_p``, pointers to it, flat."""
    n = math.prod(shape)
    lines = [arange(n, f"{name}_r"), pointers(f"{name}_p", argument, element, n, f"%{name}_r")]
    if wanted == "tile":
        lines += [
            f"    %{name}_f = tt.load %{name}_p : tensor<{n}x!tt.ptr<{element}>>",
            f"    %{name} = tt.reshape %{name}_f : tensor<{n}x{element}> -> {_tile(shape, element)}",
        ]
    return "\n".join(lines)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize(
    ("element", "result"),
    [("f32", "f32"), ("f16", "f32"), ("bf16", "f32"), ("f64", "f64"), ("i8", "i32"), ("f16", "f16"), ("f8E5M2", "f32")],
)
@pytest.mark.parametrize("batch", [(), (4,)])
def test_dot(batch, element, result, lanes):
    M, N, K = 16, 32, 16
    a_shape, b_shape, c_shape = (*batch, M, K), (*batch, K, N), (*batch, M, N)
    kinds = {"i8": np.int8, "i32": np.int32} | FLOATS
    drawn = np.random.default_rng(5)
    a, b = (drawn.integers(-3, 4, shape).astype(kinds[element]) for shape in (a_shape, b_shape))
    c = drawn.integers(-9, 9, c_shape).astype(kinds[result])
    body = "\n".join(
        [
            _flat("a", "%x", element, a_shape),
            _flat("b", "%y", element, b_shape),
            _flat("c", "%z", result, c_shape),
            f"    %d = tt.dot %a, %b, %c : {_tile(a_shape, element)} * {_tile(b_shape, element)}"
            f" -> {_tile(c_shape, result)}",
            f"    %f = tt.reshape %d : {_tile(c_shape, result)} -> {_tile((math.prod(c_shape),), result)}",
            f"    tt.store %c_p, %f : tensor<{math.prod(c_shape)}x!tt.ptr<{result}>>",
        ]
    )
    got = c.copy()
    arguments = f"%x: !tt.ptr<{element}>, %y: !tt.ptr<{element}>, %z: !tt.ptr<{result}>"
    launch(kernel(arguments, body), a, b, got, lanes=lanes)
    want = a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
    np.testing.assert_array_equal(got.astype(np.float64), want)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("form", ["a, b, s", "s, b, c", "a, s, s", "s, s, s"])
def test_a_carried_tile_within_its_own_dot(form, lanes):
    """s = dot(...), where the old s is accumulator, factor, or all of them."""
    n, tile = 16, _tile((16, 16), "f32")
    given = ", ".join(f"%{name.strip()}" for name in form.split(","))
    body = "\n".join(
        [
            *(_flat(name, f"%{name}x", "f32", (n, n)) for name in "abc"),
            "    %c0 = arith.constant 0 : i32",
            "    %c1 = arith.constant 1 : i32",
            "    %c3 = arith.constant 3 : i32",
            f"    %r = scf.for %i = %c0 to %c3 step %c1 iter_args(%s = %c) -> ({tile})  : i32 {{",
            f"      %d = tt.dot {given} : {tile} * {tile} -> {tile}",
            f"      scf.yield %d : {tile}",
            "    }",
            _flat("o", "%ox", "f32", (n, n), "pointers"),
            f"    %f = tt.reshape %r : {tile} -> tensor<256xf32>",
            "    tt.store %o_p, %f : tensor<256x!tt.ptr<f32>>",
        ]
    )
    drawn = np.random.default_rng(1)
    tiles = {name: drawn.integers(-1, 2, (n, n)).astype(np.float32) for name in "abc"}
    out, s = np.zeros((n, n), np.float32), tiles["c"]
    for _ in range(3):
        x, y, z = ({**tiles, "s": s}[name.strip()] for name in form.split(","))
        s = (x.astype(np.float64) @ y + z).astype(np.float32)
    arguments = "%ax: !tt.ptr<f32>, %bx: !tt.ptr<f32>, %cx: !tt.ptr<f32>, %ox: !tt.ptr<f32>"
    launch(kernel(arguments, body), *tiles.values(), out, lanes=lanes)
    np.testing.assert_allclose(out, s, rtol=1e-5)


# -- reports -----------------------------------------------------------------------------------------------------------

_COPY = kernel(
    "%x: !tt.ptr<f32>, %out: !tt.ptr<f32>, %shift: i32",
    "\n".join(
        [
            arange(64),
            "    %pid = tt.get_program_id x : i32",
            "    %c64 = arith.constant 64 : i32",
            "    %at = arith.muli %pid, %c64 : i32",
            "    %more = arith.addi %at, %shift : i32",
            "    %s = tt.splat %more : i32 -> tensor<64xi32>",
            "    %i = arith.addi %s, %range : tensor<64xi32>",
            "    %t = tt.splat %at : i32 -> tensor<64xi32>",
            "    %j = arith.addi %t, %range : tensor<64xi32>",
            pointers("p", "%x", "f32", 64, "%i"),
            pointers("po", "%out", "f32", 64, "%j"),
            "    %v = tt.load %p : tensor<64x!tt.ptr<f32>>",
            "    tt.store %po, %v : tensor<64x!tt.ptr<f32>>",
        ]
    ),
)


def _extent(array):
    return array.ctypes.data, array.ctypes.data + array.nbytes


@pytest.mark.parametrize("lanes", WIDTHS)
def test_guard_names_argument_element_and_program(lanes):
    x, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    extents = (_extent(x), _extent(out))
    assert launch(_COPY, x, out, 0, grid=(4,), lanes=lanes, guard=True, extents=extents)[0] == 0
    np.testing.assert_array_equal(out, x)
    assert launch(_COPY, x, out, 3, grid=(4,), lanes=lanes, guard=True, extents=extents) == (1, 0, 256, 3, 0, 0, 0)
    assert launch(_COPY, x, out, -1, grid=(4,), lanes=lanes, guard=True, extents=extents) == (1, 0, -1, 0, 0, 0, 0)
    small = np.zeros(100, np.float32)
    status = launch(_COPY, x, small, 0, grid=(4,), lanes=lanes, guard=True, extents=(_extent(x), _extent(small)))
    assert status == (1, 1, 100, 1, 0, 0, 1)
    np.testing.assert_array_equal(small, x[:100])


def test_device_assert_ends_the_program():
    text = _COPY.replace(
        "    tt.store",
        "    %bad = arith.cmpi slt, %i, %limit : tensor<64xi32>\n"
        '    tt.assert %bad, "too far" : tensor<64xi1>\n    tt.store',
    ).replace("    %v =", "    %limit = arith.constant dense<100> : tensor<64xi32>\n    %v =")
    x, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    assert launch(text, x, out, 0, grid=(4,))[:6] == (2, 0, 0, 1, 0, 0)
    np.testing.assert_array_equal(out[:64], x[:64])
    np.testing.assert_array_equal(out[64:], 0)
    program, _ = _compiled(text, 16, False, False)
    assert [(m.kind, m.text) for m in program.messages] == [("assert", "too far")]


def test_device_print_gives_values():
    text = _COPY.replace(
        "    tt.store",
        '    tt.print " v: " {hex = false, isSigned = array<i32: 0>} : %v : tensor<64xf32>\n    tt.store',
    )
    seen = []

    def report(message, x, y, z, values, count):
        seen.append((message, x, y, z, list((ctypes.c_float * count).from_address(values))))

    callback = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4, ctypes.c_void_p, ctypes.c_int64)(report)
    x, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    launch(text, x, out, 0, grid=(2,), printer=ctypes.cast(callback, ctypes.c_void_p).value)
    assert [entry[:4] for entry in seen] == [(0, 0, 0, 0), (0, 1, 0, 0)]
    np.testing.assert_array_equal(np.concatenate([entry[4] for entry in seen]), x)
    program, _ = _compiled(text, 16, False, False)
    (message,) = program.messages
    assert (message.kind, message.element, message.shape) == ("print", "f32", (64,))


def test_thousands_of_operations_in_one_expression():
    """Loops that Triton unrolled."""
    n = 3000
    lines = [
        arange(64),
        pointers("p", "%x", "f32", 64),
        pointers("po", "%out", "f32", 64),
        "    %v0 = tt.load %p : tensor<64x!tt.ptr<f32>>",
        "    %c = arith.constant dense<1.000000e+00> : tensor<64xf32>",
        "    %i0 = arith.addi %range, %range : tensor<64xi32>",
        "    %one = arith.constant dense<1> : tensor<64xi32>",
    ]
    lines += [f"    %v{k + 1} = arith.addf %v{k}, %c : tensor<64xf32>" for k in range(n)]
    lines += [f"    %i{k + 1} = arith.addi %i{k}, %one : tensor<64xi32>" for k in range(n)]
    lines += [
        f"    %f = arith.sitofp %i{n} : tensor<64xi32> to tensor<64xf32>",
        f"    %y = arith.addf %v{n}, %f : tensor<64xf32>",
        "    tt.store %po, %y : tensor<64x!tt.ptr<f32>>",
    ]
    x, out = np.zeros(64, np.float32), np.zeros(64, np.float32)
    launch(kernel("%x: !tt.ptr<f32>, %out: !tt.ptr<f32>", "\n".join(lines)), x, out)
    np.testing.assert_array_equal(out, 2 * n + 2 * np.arange(64))


# -- what Program says, and what is refused ----------------------------------------------------------------------------


def test_program_says_what_is_read_and_written():
    program = lower(parser.parse(_COPY), machine.host())
    assert (program.loads, program.stores) == ({0}, {1})
    assert [(p.name, p.type, p.offset) for p in program.parameters] == [
        ("x", "!tt.ptr<f32>", 0),
        ("out", "!tt.ptr<f32>", 8),
        ("shift", "i32", 16),
    ]
    assert program.arguments_size == 20 and program.scratch % 64 == 0


def test_recursion_is_refused():
    text = """
module {
  tt.func public @kernel(%n: i32) {
    tt.call @again(%n) : (i32) -> ()
    tt.return
  }
  tt.func private @again(%n: i32) {
    tt.call @again(%n) : (i32) -> ()
    tt.return
  }
}
"""
    with pytest.raises(UnsupportedError, match=r"kernel: .*again calls itself"):
        lower(parser.parse(text), machine.host())


def test_constants_are_spelled_exactly():
    assert llvm.constant(0.1, "float") == "0x3FB99999A0000000"
    assert llvm.constant(1e40, "float") == "0x7FF0000000000000"
    assert llvm.constant(0.1, "half") == "0xH2E66"
    assert llvm.constant(0.1, "bfloat") == "0xR3DCD"
    assert llvm.constant(-1, "i8") == llvm.constant(255, "i8") == "-1"
    assert llvm.constant(True, "i1") == "1"


@pytest.mark.parametrize("known", [True, False])
def test_what_the_next_program_reads_is_asked_for(known: bool) -> None:
    """Rows of a program's own, once: not what numbers in memory say, nor what all programs read."""
    row = "%p" if known else "%i"
    text = kernel(
        "%x: !tt.ptr<f32>, %w: !tt.ptr<f32>, %at: !tt.ptr<i32>, %out: !tt.ptr<f32>",
        f"""
    %c = arith.constant 1024 : i32
    %p = tt.get_program_id x : i32
    %place = tt.addptr %at, %p : !tt.ptr<i32>, i32
    %i = tt.load %place : !tt.ptr<i32>
    %start = arith.muli {row}, %c : i32
    %lane = tt.make_range {{end = 1024 : i32, start = 0 : i32}} : tensor<1024xi32>
    %first = tt.splat %start : i32 -> tensor<1024xi32>
    %n = arith.addi %first, %lane : tensor<1024xi32>
    %xs = tt.splat %x : !tt.ptr<f32> -> tensor<1024x!tt.ptr<f32>>
    %ws = tt.splat %w : !tt.ptr<f32> -> tensor<1024x!tt.ptr<f32>>
    %xp = tt.addptr %xs, %n : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>
    %wp = tt.addptr %ws, %lane : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>
    %a = tt.load %xp : tensor<1024x!tt.ptr<f32>>
    %b = tt.load %wp : tensor<1024x!tt.ptr<f32>>
    %s = "tt.reduce"(%a) <{{axis = 0 : i32}}> ({{
    ^bb0(%l: f32, %r: f32):
      %sum = arith.addf %l, %r : f32
      tt.reduce.return %sum : f32
    }}) : (tensor<1024xf32>) -> f32
    %t = tt.splat %s : f32 -> tensor<1024xf32>
    %d = arith.subf %a, %t : tensor<1024xf32>
    %e = arith.mulf %d, %b : tensor<1024xf32>
    %os = tt.splat %out : !tt.ptr<f32> -> tensor<1024x!tt.ptr<f32>>
    %op = tt.addptr %os, %n : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>
    tt.store %op, %e : tensor<1024x!tt.ptr<f32>>""",
    )
    x, w = np.arange(2048, dtype=np.float32) % 7, np.arange(1024, dtype=np.float32)
    out, at = np.zeros(2048, np.float32), np.array([0, 1], np.int32)
    launch(text, x, w, at, out, grid=(2,))
    rows = x.reshape(2, 1024)
    np.testing.assert_allclose(out.reshape(2, 1024), (rows - rows.sum(1, keepdims=True)) * w, rtol=1e-5)
    program, _ = _compiled(text, 16, False, False)
    assert program.text.count("call void @llvm.prefetch") == known
