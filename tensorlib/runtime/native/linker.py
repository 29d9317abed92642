"""Object files as code in this process.

On Linux for x86-64 by the few rules of its object format that a module of LLVM's needs: sections are put side by side
in pages of their own, places that name a symbol get its address, and calls to the process's own functions, which may
be too far for a call, go by way of a stub. Elsewhere LLVM's own linker does it, through llvmlite.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import struct
from typing import Any, NamedTuple

import cffi

from tensorlib.errors import KernelError
from tensorlib.runtime.native import codegen, helpers, machine


class Loaded:
    """An object file linked into this process. Its code goes when this does."""

    __slots__ = ("_owner", "addresses")

    def __init__(self, owner: Any, addresses: dict[str, int]) -> None:
        self._owner = owner
        self.addresses = addresses

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]


def load(image: bytes, *symbols: str) -> Loaded:
    """Link an object file with the process's own functions; the addresses of symbols. KernelError where it fails."""
    if image[:4] == b"\x7fELF" and machine.host().triple == "x86_64-unknown-linux-gnu":
        try:
            return _linked(_Object(image), symbols)
        except (struct.error, LookupError, ValueError, OverflowError, OSError) as error:
            raise KernelError(f"machine code cannot be linked: the object file is damaged ({error})") from error
    return _by_llvmlite(image, symbols)


@functools.cache
def _helpers() -> Loaded:
    """What LLVM expects of a compiler's library, compiled when the first kernel that needs it is linked."""
    return load(codegen.compile(helpers.TEXT, machine.host()), *helpers.NAMES)


# -- ELF for x86-64, as the System V ABI and its supplement for AMD64 have it ------------------------------------------

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")  # type, machine, …, offset of the sections, …, their size, number, names
_SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, alignment, entry size
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_RELOCATION = struct.Struct("<QQq")  # offset, symbol << 32 | type, addend

_SYMBOLS, _RELOCATIONS, _EMPTY = 2, 4, 8  # types of section
_WRITE, _ALLOCATED = 1, 2
_UNDEFINED, _ABSOLUTE, _RESERVED = 0, 0xFFF1, 0xFF00
_ABSOLUTE_64, _RELATIVE_32, _CALL_32, _RELATIVE_64 = 1, 2, 4, 24
_TABLE_32 = (9, 41, 42)  # relative to a word that holds the address
_STUB = struct.Struct("<6sQ2x")
_JUMP = b"\xff\x25\0\0\0\0"  # to the address in the eight bytes that follow


class _Section(NamedTuple):
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


class _Object:
    """An object file, read."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        fields = _HEADER.unpack_from(image)
        kind, architecture, at, count, names = fields[0], fields[1], fields[5], fields[11], fields[12]
        if (image[4], kind, architecture) != (2, 1, 62):
            raise ValueError("expected one for x86-64")
        raw = [_SECTION.unpack_from(image, at + i * _SECTION.size) for i in range(count)]
        texts = raw[names][4]
        self.sections = [
            _Section(self._text(texts + s[0]), s[1], s[2], s[4], s[5], s[6], s[7], max(1, s[8])) for s in raw
        ]
        self.symbols = [symbol for s in self.sections if s.type == _SYMBOLS for symbol in self._symbols(s)]

    def _text(self, at: int) -> str:
        return self.image[at : self.image.index(b"\0", at)].decode()

    def _symbols(self, section: _Section) -> list[_Symbol]:
        texts = self.sections[section.link].offset
        rows = _SYMBOL.iter_unpack(self.image[section.offset : section.offset + section.size])
        return [_Symbol(self._text(texts + name), where, value) for name, _, _, where, value, _ in rows]

    def kept(self) -> list[int]:
        """The sections that the code needs, those that it writes to last. Nothing unwinds through a kernel."""
        found = [
            i for i, s in enumerate(self.sections) if s.flags & _ALLOCATED and s.size and s.name != ".eh_frame"
        ]
        return sorted(found, key=lambda i: bool(self.sections[i].flags & _WRITE))

    def relocations(self, kept: list[int]) -> list[tuple[int, int, int, int, int]]:
        """(section, offset, type, symbol, addend) of every place that names a symbol."""
        return [
            (s.info, offset, info & 0xFFFFFFFF, info >> 32, addend)
            for s in self.sections if s.type == _RELOCATIONS and s.info in kept
            for offset, info, addend in _RELOCATION.iter_unpack(self.image[s.offset : s.offset + s.size])
        ]  # fmt: skip


def _linked(made: _Object, wanted: tuple[str, ...]) -> Loaded:
    kept = made.kept()
    relocations = made.relocations(kept)
    outside = sorted({made.symbols[r[3]].name for r in relocations if made.symbols[r[3]].section == _UNDEFINED})
    tabled = sorted({r[3] for r in relocations if r[2] in _TABLE_32})

    # Code and constants, stubs, the table of addresses; then, in pages that stay writable, what the code writes to.
    places: dict[int, int] = {}
    end, writable = 0, None
    stubs = table = 0
    for i in [*kept, None]:
        if writable is None and (i is None or made.sections[i].flags & _WRITE):
            stubs = _aligned(end, 16)
            table = stubs + len(outside) * _STUB.size
            end = writable = _aligned(table + 8 * len(tabled), mmap.PAGESIZE)
        if i is not None:
            places[i] = _aligned(end, made.sections[i].alignment)
            end = places[i] + made.sections[i].size
    assert writable is not None
    pages = mmap.mmap(-1, max(_aligned(end, mmap.PAGESIZE), mmap.PAGESIZE))
    ffi, process, _ = _process()
    base = int(ffi.cast("uintptr_t", ffi.from_buffer(pages)))
    for i, place in places.items():
        section = made.sections[i]
        if section.type != _EMPTY:
            pages[place : place + section.size] = made.image[section.offset : section.offset + section.size]
    addresses = {name: _of_process(name) for name in outside}
    for i, name in enumerate(outside):
        _STUB.pack_into(pages, stubs + i * _STUB.size, _JUMP, addresses[name])

    def address(symbol: _Symbol, call: bool) -> int:
        if symbol.section == _UNDEFINED:
            return base + stubs + outside.index(symbol.name) * _STUB.size if call else addresses[symbol.name]
        if symbol.section == _ABSOLUTE:
            return symbol.value
        if symbol.section >= _RESERVED or symbol.section not in places:
            raise KernelError(f"machine code cannot be linked: {symbol.name} is in no section that is kept")
        return base + places[symbol.section] + symbol.value

    for i, which in enumerate(tabled):
        struct.pack_into("<Q", pages, table + 8 * i, address(made.symbols[which], False))
    for where, offset, kind, which, addend in relocations:
        at = places[where] + offset
        if kind in (_RELATIVE_32, _CALL_32):
            value = address(made.symbols[which], True) + addend - base - at
        elif kind in _TABLE_32:
            value = table + 8 * tabled.index(which) + addend - at
        elif kind == _ABSOLUTE_64:
            struct.pack_into("<Q", pages, at, address(made.symbols[which], False) + addend & 0xFFFFFFFFFFFFFFFF)
            continue
        elif kind == _RELATIVE_64:
            struct.pack_into("<q", pages, at, address(made.symbols[which], False) + addend - base - at)
            continue
        else:
            raise KernelError(f"machine code cannot be linked: a relocation of type {kind} is not understood")
        if not -(1 << 31) <= value < 1 << 31:
            raise KernelError(f"machine code cannot be linked: {made.symbols[which].name} is too far")
        struct.pack_into("<i", pages, at, value)
    start = ffi.cast("void *", base)
    if writable and process.mprotect(start, writable, mmap.PROT_READ | mmap.PROT_EXEC):
        raise codegen.NoCompiler("native: the system does not let this process run memory that it wrote")
    defined = {s.name: s for s in made.symbols if s.section not in (_UNDEFINED, _ABSOLUTE)}
    missing = [name for name in wanted if name not in defined]
    if missing:
        raise KernelError(f"machine code cannot be linked: it does not define {', '.join(missing)}")
    return Loaded(pages, {name: address(defined[name], False) for name in wanted})


def _aligned(n: int, to: int) -> int:
    return -(-n // to) * to


@functools.cache
def _process() -> tuple[Any, Any, Any]:
    """(cffi, the process's functions, those of mathematics, which stay as long as they are held)."""
    ffi = cffi.FFI()
    ffi.cdef("int mprotect(void *, size_t, int); void *dlsym(void *, const char *);")
    mathematics = ffi.dlopen("libm.so.6", ffi.RTLD_GLOBAL | ffi.RTLD_NOW)
    return ffi, ffi.dlopen(None), mathematics


def _of_process(name: str) -> int:
    """The address of a function of LLVM's helpers, or of the process."""
    if name in helpers.NAMES:
        return _helpers()[name]
    ffi, process, _ = _process()
    found = int(ffi.cast("uintptr_t", process.dlsym(ffi.NULL, name.encode())))
    if not found:
        raise KernelError(f"machine code cannot be linked: nothing here defines {name}")
    return found


# -- through llvmlite --------------------------------------------------------------------------------------------------

_numbers = itertools.count()


def _by_llvmlite(image: bytes, symbols: tuple[str, ...]) -> Loaded:
    binding = codegen.llvmlite().binding
    with codegen.LOCK:
        library = binding.JITLibraryBuilder().add_object_img(image)
        if any(name.encode() in image for name in helpers.NAMES) and helpers.NAMES[0] not in symbols:
            for name in helpers.NAMES:
                library.import_symbol(name, _helpers()[name])
        library.add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        try:
            tracker = library.link(_llvmlite_linker(), f"tensorlib.{next(_numbers)}")
        except RuntimeError as error:
            raise KernelError(f"machine code cannot be linked: {error}") from error
    return Loaded(tracker, {symbol: tracker[symbol] for symbol in symbols})


@functools.cache
def _llvmlite_linker() -> Any:
    made = codegen.llvmlite()
    for name in ("libm.so.6", "libm.so"):  # macOS has it in what every process loads
        try:
            made.binding.load_library_permanently(name)
            break
        except RuntimeError:
            continue
    return made.binding.create_lljit_compiler(made.target(machine.host()), use_jit_link=True)
