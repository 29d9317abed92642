"""The parameter block of a launch: how its bytes are laid out, and what the compiled binary says of them.

The layout is ours to write and the binary's to read, with nothing between them; `check` compares the two for every
kernel that is compiled for a target that is not there, so that a wrong offset is found without a GPU.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tensorlib.errors import KernelError
from tensorlib.runtime import hardware
from tensorlib.runtime.compiler import BYTES, Compiled, Key
from tensorlib.runtime.descriptors import MAP

_PACK = {
    "u1": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "fp16": "e", "fp32": "f", "fp64": "d",
}  # fmt: skip


def code(name: str) -> str:
    """The `struct` letter of a value of a Triton type; a pointer is an address, bfloat16 goes as its bits."""
    if name == MAP:
        return "128s"
    return "Q" if name[0] == "*" else "H" if name == "bf16" else _PACK[name]


class Block(NamedTuple):
    """A parameter block: (offset, size) of each parameter, and the bytes when values were given."""

    layout: list[tuple[int, int]]
    data: bytes


def packed(types: list[str], values: list[Any] | None = None) -> Block:
    """The block a launch writes: parameters in order, naturally aligned, then two u64 for Triton's scratch memories."""
    layout, data = [], bytearray()
    given = [*([0] * len(types) if values is None else values), 0, 0]
    for name, value in zip([*types, "u64", "u64"], given, strict=True):
        size = 128 if name == MAP else 8 if name[0] == "*" else BYTES[name]
        data.extend(bytes(-len(data) % size))
        layout.append((len(data), size))
        if name == MAP:
            data.extend(value or bytes(128))
        elif name == "bf16":
            data.extend(np.asarray(value, ml_dtypes.bfloat16).tobytes())
        else:
            data.extend(struct.pack("<" + _PACK["u64" if name[0] == "*" else name], value))
    return Block(layout, bytes(data))


def runtime_values(key: Key, value: Any) -> list[Any]:
    """The values that go into the block for an argument, tuples flattened: addresses and Python scalars."""
    if isinstance(key, tuple):
        return [v for k, item in zip(key, value, strict=True) for v in runtime_values(k, item)]
    if key[0] == "=":
        return []
    return [value.data_ptr() if key[0] == "*" else value]


def layout_of(compiled: Compiled) -> list[tuple[int, int]]:
    """(offset, size) of each parameter as the compiled binary itself says."""
    if compiled.target.startswith("sm_"):
        return _cubin_parameters(compiled.binary, compiled.name)
    return _hsaco_parameters(compiled.binary, compiled.name)


def check(compiled: Compiled) -> None:
    """KernelError unless the block we pack is the block the binary reads, and the device has the shared memory."""
    if _checked.get(id(compiled)) is compiled:
        return
    ours, its = packed(compiled.types).layout, layout_of(compiled)
    if MAP in compiled.types:  # a launch passes a pointer to each parameter: where a map lies is the binary's affair
        ours, its = [(0, size) for _, size in ours], [(0, size) for _, size in its]
    if ours != its:
        raise KernelError(
            f"{compiled.kernel.__name__}: {compiled.target} reads its parameters at {its} (offset, size), "
            f"tensorlib packs {ours} for {compiled.types} and two scratch pointers"
        )
    limit = hardware.nominal(compiled.target).shared
    if compiled.shared > limit:
        raise KernelError(
            f"{compiled.kernel.__name__}: asks for {compiled.shared} bytes of shared memory, a program on "
            f"{compiled.target} has {limit}: smaller blocks or fewer stages (num_stages)"
        )
    _checked[id(compiled)] = compiled


_checked: dict[int, Compiled] = {}  # by id: what passed. A process keeps what it compiled, so that ids stay theirs


_KPARAM_INFO, _FORMAT_SIZED = 0x17, 4


def _cubin_parameters(cubin: bytes, name: str) -> list[tuple[int, int]]:
    """The EIATTR_KPARAM_INFO records of the section .nv.info.<kernel>: ordinal, offset, size of each parameter."""
    section_table = struct.unpack_from("<Q", cubin, 0x28)[0]
    entry_size, count, names_index = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, section_table + i * entry_size) for i in range(count)]
    names = sections[names_index][4]
    wanted = f".nv.info.{name}".encode()
    for label, _, _, _, start, size in sections:
        if cubin[names + label : cubin.index(b"\0", names + label)] != wanted:
            continue
        found, at, end = {}, start, start + size
        while at < end:
            form, attribute, length = struct.unpack_from("<BBH", cubin, at)
            at += 4
            if form != _FORMAT_SIZED:
                continue  # the value sits in the length field
            if attribute == _KPARAM_INFO:
                _, ordinal, offset, bits = struct.unpack_from("<IHHI", cubin, at)
                found[ordinal] = offset, bits >> 18 & 0x3FFF
            at += length
        return [found[i] for i in sorted(found)]
    raise KernelError(f"{name}: its cubin has no section {wanted.decode()}")


def _hsaco_parameters(hsaco: bytes, name: str) -> list[tuple[int, int]]:
    """The arguments in the metadata note of a code object; the hidden ones that the runtime adds are left out."""
    section_table = struct.unpack_from("<Q", hsaco, 0x28)[0]
    entry_size, count, _ = struct.unpack_from("<HHH", hsaco, 0x3A)
    for i in range(count):
        _, kind, _, _, at, size = struct.unpack_from("<IIQQQQ", hsaco, section_table + i * entry_size)
        end = at + size
        while kind == _SECTION_OF_NOTES and at < end:
            owner, length, note = struct.unpack_from("<III", hsaco, at)
            text = at + 12 + (owner + 3 & ~3)
            if note == _NOTE_METADATA:
                for kernel in _message(hsaco, text)[0]["amdhsa.kernels"]:
                    if kernel[".name"] == name:
                        arguments = [a for a in kernel[".args"] if not a[".value_kind"].startswith("hidden")]
                        return [(a[".offset"], a[".size"]) for a in arguments]
            at = text + (length + 3 & ~3)
    raise KernelError(f"{name}: its code object has no metadata of it")


_SECTION_OF_NOTES, _NOTE_METADATA = 7, 32


def _message(data: bytes, at: int) -> tuple[Any, int]:
    """A value of MessagePack, and where it ends: maps, lists, strings, integers, booleans and nil, as the note has."""
    first = data[at]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 0x100, at
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
    if first in _NUMBERS:
        number = struct.Struct(_NUMBERS[first])
        return number.unpack_from(data, at)[0], at + number.size
    if first in _SIZES:
        kind, number = _SIZES[first][0], struct.Struct(_SIZES[first][1])
        size = number.unpack_from(data, at)[0]
        at += number.size
    else:
        kind = "map" if first < 0x90 else "list" if first < 0xA0 else "text"
        size = first & (31 if kind == "text" else 15)
    if kind == "text":
        return data[at : at + size].decode(), at + size
    items = []
    for _ in range(size * 2 if kind == "map" else size):
        item, at = _message(data, at)
        items.append(item)
    return (dict(zip(items[0::2], items[1::2], strict=True)) if kind == "map" else items), at


_NUMBERS = {
    0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_SIZES = {
    0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I"), 0xDC: ("list", ">H"), 0xDD: ("list", ">I"),
    0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
