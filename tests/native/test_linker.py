"""Object files as code: every kind of reference that a module of LLVM's makes, and what cannot be linked."""

from __future__ import annotations

import ctypes
import struct

import pytest

from tensorlib.errors import KernelError
from tensorlib.runtime.native import codegen, linker, machine

if not codegen.available():
    pytest.skip("there is no compiler for this processor", allow_module_level=True)


def link(text: str, *names: str) -> linker.Loaded:
    return linker.load(codegen.compile(text, machine.host()), *names)


def test_constants_are_found():
    code = link(
        "@c = private constant [4 x i64] [i64 10, i64 20, i64 30, i64 40]\n"
        "define i64 @at(i64 %i) {\n %p = getelementptr i64, ptr @c, i64 %i\n %v = load i64, ptr %p\n ret i64 %v\n}",
        "at",
    )
    at = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code["at"])
    assert [at(i) for i in range(4)] == [10, 20, 30, 40]


def test_what_code_writes_to_keeps_its_value():
    code = link(
        "@n = internal global i64 5\n@zero = internal global [100 x i64] zeroinitializer\n"
        "define i64 @next() {\n %a = load i64, ptr @n\n %b = add i64 %a, 1\n store volatile i64 %b, ptr @n\n"
        " %p = getelementptr i64, ptr @zero, i64 %b\n %z = load volatile i64, ptr %p\n store volatile i64 %b, ptr %p\n"
        " %c = add i64 %b, %z\n ret i64 %c\n}",
        "next",
    )
    following = ctypes.CFUNCTYPE(ctypes.c_int64)(code["next"])
    assert [following(), following(), following()] == [6, 7, 8]


def test_functions_of_the_process_are_called_and_named():
    """Called by way of a stub, and by an address in a table; of the C library and of the mathematical one."""
    code = link(
        "declare double @cbrt(double)\ndeclare i64 @strlen(ptr)\n@text = private constant [4 x i8] c\"abc\\00\"\n"
        "define double @root(double %x) {\n %y = call double @cbrt(double %x)\n ret double %y\n}\n"
        "define i64 @length() {\n %n = call i64 @strlen(ptr @text)\n ret i64 %n\n}\n"
        "define ptr @address() {\n ret ptr @cbrt\n}",
        "root", "length", "address",
    )  # fmt: skip
    unary = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    assert unary(code["root"])(27.0) == pytest.approx(3.0)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code["length"])() >= 3  # a constant string may be folded
    assert unary(ctypes.CFUNCTYPE(ctypes.c_void_p)(code["address"])())(8.0) == pytest.approx(2.0)


def test_a_table_of_jumps():
    cases = "".join(f"    i64 {i}, label %c{i}\n" for i in range(12))
    blocks = "".join(f"c{i}:\n  call void asm sideeffect \"\", \"\"()\n  ret i64 {i * i + 3}\n" for i in range(12))
    code = link(
        f"define i64 @choose(i64 %i) {{\n  switch i64 %i, label %other [\n{cases}  ]\n{blocks}other:\n  ret i64 -1\n}}",
        "choose",
    )
    choose = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code["choose"])
    assert [choose(i) for i in (0, 1, 5, 11, 12, -1)] == [3, 4, 28, 124, -1, -1]


def test_a_symbol_that_is_not_there():
    with pytest.raises(KernelError, match="cannot be linked"):
        link("define void @f() {\n ret void\n}", "g")


ELF = machine.host().triple == "x86_64-unknown-linux-gnu"


@pytest.mark.skipif(not ELF, reason="of our own linker")
def test_a_damaged_object_file_is_an_error():
    """Cut short or overwritten anywhere in its tables: one kind of error. What the code does is not looked at."""
    text = "declare void @abort()\ndefine void @f() {\n call void @abort()\n ret void\n}"
    image = codegen.compile(text, machine.host())
    sections = struct.unpack_from("<Q", image, 40)[0]
    for length in range(0, len(image), 7):
        if length >= 4:
            with pytest.raises(KernelError, match="machine code cannot be linked"):
                linker.load(image[:length], "f")
    for at in range(4, 64):
        damaged = bytearray(image)
        damaged[at] ^= 0xFF
        try:
            linker.load(bytes(damaged), "f")
        except KernelError as error:
            assert "machine code cannot be linked" in str(error)
    for at in range(sections, len(image)):
        damaged = bytearray(image)
        damaged[at] ^= 0xFF
        try:
            linker.load(bytes(damaged), "f")
        except KernelError as error:
            assert "machine code cannot be linked" in str(error)
