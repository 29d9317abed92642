"""The parameter block of a launch: how its bytes are laid out, and what the compiled binary says of them.

The layout is ours to write and the binary's to read, with nothing between them; `check` compares the two for every
kernel that is compiled for a target that is not there, so that a wrong offset is found without a GPU.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tensorlib.errors import KernelError
from tensorlib.runtime.compiler import BYTES, Compiled, Key

_PACK = {
    "u1": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "fp16": "e", "fp32": "f", "fp64": "d",
}  # fmt: skip


class Block(NamedTuple):
    """A parameter block: (offset, size) of each parameter, and the bytes when values were given."""

    layout: list[tuple[int, int]]
    data: bytes


def packed(types: list[str], values: list[Any] | None = None) -> Block:
    """The block a launch writes: parameters in order, naturally aligned, then two u64 for Triton's scratch memories."""
    layout, data = [], bytearray()
    given = [*([0] * len(types) if values is None else values), 0, 0]
    for name, value in zip([*types, "u64", "u64"], given, strict=True):
        size = 8 if name[0] == "*" else BYTES[name]
        data.extend(bytes(-len(data) % size))
        layout.append((len(data), size))
        if name == "bf16":
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
    return _amdgcn_parameters(compiled.asm["amdgcn"])


def check(compiled: Compiled) -> None:
    """KernelError unless the block we pack is the block the binary reads."""
    ours, its = packed(compiled.types).layout, layout_of(compiled)
    if ours != its:
        raise KernelError(
            f"{compiled.kernel.__name__}: {compiled.target} reads its parameters at {its} (offset, size), "
            f"tensorlib packs {ours} for {compiled.types} and two scratch pointers"
        )


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


def _amdgcn_parameters(assembly: str) -> list[tuple[int, int]]:
    """The .args list of the kernel's metadata; the hidden arguments that the runtime adds are left out."""
    metadata = assembly[assembly.index(".amdgpu_metadata") :]
    listed = re.search(r"\.args:\s*\n(.*?)\n\s+\.(?!args)group_segment", metadata, re.S)
    found = []
    for entry in re.split(r"\n?\s+- ", listed[1] if listed else ""):
        fields = dict(re.findall(r"\.(\w+):\s*(\S+)", entry))
        if "offset" in fields and not fields.get("value_kind", "").startswith("hidden"):
            found.append((int(fields["offset"]), int(fields["size"])))
    return found
