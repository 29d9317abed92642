"""Reading the checkpoints that ``torch.save`` writes, without running anything that they contain.

A zip archive (since PyTorch 1.6) holds ``data.pkl``, a pickle that describes the structure, and one entry with the
bytes of each storage; before that pickles and storages follow each other in one file. The pickle is not unpickled: its
opcodes are interpreted here, on a stack of plain values. A global is looked up in a table by name, never imported; what
is not in the table is refused by its name. Every size is checked against the file before memory is taken, copies are
paid for in bytes of the pickle, so that a small file costs little whatever it says.
https://github.com/python/cpython/blob/main/Lib/pickletools.py documents the opcodes.
"""

from __future__ import annotations

import io
import itertools
import pickletools
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, wrap
from tensorlib._device import device as Device
from tensorlib._dtypes import ALL, as_dtype, dtype
from tensorlib._size import Size
from tensorlib.errors import CheckpointError, TensorlibError
from tensorlib.io._source import Placement, Source, strided, typed
from tensorlib.io.safetensors import check_bools
from tensorlib.nn.parameter import Buffer, Parameter

#: How a file of PyTorch before 1.6 begins: protocol 2, and a number of ten bytes.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, EOFError,
           AssertionError, NotImplementedError, struct.error, zipfile.BadZipFile, TensorlibError)  # fmt: skip


class Storage:
    """The memory of one storage, and the tensors' view of it."""

    def __init__(self, data: np.ndarray, kind: dtype | None, location: str, swap: bool, placement: Placement) -> None:
        self.data = data
        self.kind = kind  # None: bytes, that each tensor names the dtype of
        self.location = location
        self.swap = swap
        self.placement = placement
        self.placed: dict[Any, Any] = {}

    def array(self, kind: dtype) -> Any:
        """All of it as elements of a dtype, on its device."""
        if self.kind is not None and kind is not self.kind:
            raise ValueError(f"a tensor of {kind} looks into a storage of {self.kind}")
        found = self.placed.get(kind)
        if found is None:
            data = self.data
            if self.swap:
                unit = kind.itemsize // (2 if kind.is_complex else 1)
                data = np.ascontiguousarray(data.reshape(-1, unit)[:, ::-1]).reshape(-1)
            array = check_bools(typed(data[: data.size // kind.itemsize * kind.itemsize], kind.numpy), "of a storage")
            found = self.placed[kind] = self.placement.place(array, self.location)
        return found


class _Named:
    """A global of the pickle that stands for a class or function, and what calling it does here."""

    def __init__(self, name: str, call: Callable[..., Any] | None = None, kind: Any = None) -> None:
        self.name = name
        self.call = call
        self.kind = kind


# --------------------------------------------------------------------------------------------- what globals stand for


def _rebuild(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, kind: dtype, metadata: Any
) -> Tensor:
    if not isinstance(storage, Storage) or type(requires_grad) is not bool:
        raise ValueError("a tensor is not made of a storage, an offset, a shape and strides")
    flat = storage.array(kind)
    array = strided(flat, size, stride, offset)
    bits = dict(metadata or {})
    for bit, function in (("conj", np.conjugate), ("neg", np.negative)):  # PyTorch's lazy views, made here
        if bits.pop(bit, False):
            if array.size > flat.size:
                raise ValueError(f"a tensor with the {bit} bit repeats its elements")
            array = _array.to_device(function(_array.to_host(array)), _array.device_of(array))
    t = wrap(array)
    if bits:
        raise ValueError(f"a tensor has the metadata {sorted(map(str, bits))}, which are not known")
    return t.requires_grad_() if requires_grad else t


def _tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None,
    metadata: Any = None,
) -> Tensor:  # fmt: skip
    if not isinstance(storage, Storage) or storage.kind is None:
        raise ValueError("a tensor is made of something that is not a storage of a dtype")
    return _rebuild(storage, offset, size, stride, requires_grad, storage.kind, metadata)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, kind: Any, metadata: Any = None
) -> Tensor:
    if not isinstance(kind, dtype):
        raise ValueError(f"a tensor has the dtype {kind!r:.100}")
    return _rebuild(storage, offset, size, stride, requires_grad, kind, metadata)


def _parameter(data: Any, requires_grad: Any, hooks: Any = None, state: Any = None) -> Parameter:
    if not isinstance(data, Tensor) or type(requires_grad) is not bool:
        raise ValueError("a Parameter is not made of a tensor")
    return Parameter(data.detach(), requires_grad)


def _buffer(data: Any, requires_grad: Any, hooks: Any = None, persistent: Any = True) -> Buffer:
    if not isinstance(data, Tensor):
        raise ValueError("a Buffer is not made of a tensor")
    return Buffer(data, persistent=bool(persistent))


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """A tensor with Python attributes, which are left out."""
    made = isinstance(function, _Named) and function.kind is Tensor and isinstance(kind, _Named)
    if not made or kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        raise ValueError(f"a tensor is of the class {getattr(kind, 'name', kind)!r:.100}, which is not known")
    result: Tensor = function.call(*arguments)
    return result


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8"):
        raise ValueError(f"bytes are encoded as {encoding!r:.50}")
    return text.encode(encoding)


def _bytearray(data: Any = b"", encoding: Any = None) -> bytearray:
    return bytearray(_encode(data, encoding) if type(data) is str else data if type(data) is bytes else b"")


def _complex(real: Any, imag: Any) -> complex:
    return complex(float(real), float(imag))


def _device(kind: Any, index: Any = None) -> Device:
    return Device(kind, index)


def _size(values: Any = ()) -> Size:
    if type(values) is not tuple or any(type(n) is not int for n in values):
        raise ValueError("a Size is not made of integers")
    return Size(values)


_FACTORIES = {name: _Named(f"builtins.{name}", kind=made) for name, made in
              (("list", list), ("dict", dict), ("int", int), ("float", float), ("str", str), ("set", set),
               ("bool", bool), ("tuple", tuple))}  # fmt: skip


def _defaultdict(factory: Any = None) -> Any:
    if factory is not None and not (isinstance(factory, _Named) and factory is _FACTORIES.get(factory.name[9:])):
        raise ValueError(f"a defaultdict has the factory {getattr(factory, 'name', factory)!r:.100}")
    return defaultdict(None if factory is None else factory.kind)


def _pairs(values: Any = ()) -> list[tuple[Any, Any]]:
    pairs = list(values.items()) if isinstance(values, dict) else [tuple(pair) for pair in values]
    return [(_key(key), value) for key, value in pairs]


def _counter(values: Any = ()) -> Counter[Any]:
    return Counter(dict(_pairs(values)))


_STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
             "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
             "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
             "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64"}  # fmt: skip


def _table() -> dict[str, Any]:
    table: dict[str, Any] = {f"torch.{d.name}": d for d in ALL}
    for name, kind in _STORAGES.items():
        for module in ("torch", "torch.cuda"):
            table[f"{module}.{name}"] = _Named(f"{module}.{name}", kind=as_dtype(kind))
    calls: dict[str, tuple[Callable[..., Any] | None, Any]] = {
        "torch._utils._rebuild_tensor": (_tensor_v2, Tensor), "torch._utils._rebuild_tensor_v2": (_tensor_v2, Tensor),
        "torch._utils._rebuild_tensor_v3": (_tensor_v3, Tensor),
        "torch._utils._rebuild_parameter": (_parameter, Tensor),
        "torch._utils._rebuild_parameter_with_state": (_parameter, Tensor),
        "torch._tensor._rebuild_from_type_v2": (_from_type, None),
        "torch.nn.parameter.Parameter": (_parameter, None), "torch.nn.parameter.Buffer": (_buffer, None),
        "torch.Tensor": (None, None), "torch.Size": (_size, None), "torch.device": (_device, None),
        "torch.storage.UntypedStorage": (None, "bytes"), "torch.UntypedStorage": (None, "bytes"),
        "torch.serialization._get_layout": (lambda name: str(name).rpartition(".")[2], None),
        "collections.OrderedDict": (lambda *values: OrderedDict(_pairs(*values)), None),
        "collections.defaultdict": (_defaultdict, None), "collections.Counter": (_counter, None),
        "_codecs.encode": (_encode, None),
    }  # fmt: skip
    table |= {name: _Named(name, call, kind) for name, (call, kind) in calls.items()}
    builtins = dict(_FACTORIES)
    builtins["set"].call = lambda values=(): {_key(value) for value in values}
    for name, call in (("frozenset", lambda values=(): frozenset(_key(value) for value in values)),
                       ("complex", _complex), ("bytearray", _bytearray)):  # fmt: skip
        builtins[name] = _Named(f"builtins.{name}", call)
    for module in ("builtins", "__builtin__"):  # Python 2's name, which protocol 2 writes
        table |= {f"{module}.{name}": value for name, value in builtins.items()}
    return table


_GLOBALS = _table()


def _key(value: Any, budget: int = 64) -> Any:
    """A value that may be a key: of a plain type, so that its hash is quick and runs no code."""
    kind = type(value)
    if kind is tuple or kind is Size:
        if len(value) >= budget:
            raise ValueError("a key is a tuple of too many parts")
        for part in value:
            _key(part, budget // 4)
    elif kind not in (str, int, float, bool, bytes, complex, type(None), dtype, Device) and not isinstance(
        value, Tensor
    ):
        raise ValueError(f"a key is of the type {kind.__name__}")
    return value


# ------------------------------------------------------------------------------------------------- the opcodes


_MARK = object()
_PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
           "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING",
           "INT", "LONG", "FLOAT", "UNICODE", "STRING"}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Machine:
    """Interprets one pickle; ``load`` gives the storage of a persistent id."""

    def __init__(self, load: Callable[[Any], Storage], budget: int) -> None:
        self.load = load
        self.budget = budget  # elements that calls may copy: a pickle has a byte for each
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        """The object; the file then stands behind the pickle."""
        stack, memo = self.stack, self.memo
        argument: Any
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in _PUSHED:
                stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[argument])
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name == "MARK":
                stack.append(_MARK)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _SHORT_TUPLES:
                count = _SHORT_TUPLES[name]
                values = self.take(count)
                stack.append(tuple(values))
            elif name == "TUPLE":
                stack.append(tuple(self.marked()))
            elif name == "LIST":
                stack.append(self.marked())
            elif name == "DICT":
                stack.append(self.filled({}, self.marked()))
            elif name == "FROZENSET":
                stack.append(frozenset(_key(value) for value in self.marked()))
            elif name == "APPEND":
                (value,) = self.take(1)
                self.top(list).append(value)
            elif name == "APPENDS":
                values = self.marked()
                self.top(list).extend(values)
            elif name == "ADDITEMS":
                values = self.marked()
                self.top(set).update(_key(value) for value in values)
            elif name == "SETITEM":
                values = self.take(2)
                self.filled(self.top(dict), values)
            elif name == "SETITEMS":
                values = self.marked()
                self.filled(self.top(dict), values)
            elif name == "GLOBAL":
                stack.append(self.named(*argument.split(" ", 1)))
            elif name == "STACK_GLOBAL":
                stack.append(self.named(*self.take(2)))
            elif name == "BINPERSID":
                (value,) = self.take(1)
                stack.append(self.load(value))
            elif name in ("REDUCE", "NEWOBJ"):
                function, arguments = self.take(2)
                stack.append(self.called(function, arguments))
            elif name == "BUILD":
                (state,) = self.take(1)
                self.built(self.top(object), state)
            elif name == "POP":
                self.take(1)
            elif name == "POP_MARK":
                self.marked()
            elif name == "DUP":
                stack.append(self.top(object))
            elif name == "STOP":
                (result,) = self.take(1)
                return result
            elif name not in ("PROTO", "FRAME"):
                raise CheckpointError(f"its pickle holds the opcode {name}, which a checkpoint does not need: refused")
        raise ValueError("its pickle has no end")

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which must be of a kind."""
        value = self.stack[-1]
        if value is _MARK or not isinstance(value, kind):
            raise ValueError(f"its pickle fills a {type(value).__name__} as if it were a {kind.__name__}")
        return value

    def take(self, count: int) -> list[Any]:
        """The values on top, off the stack."""
        values = self.stack[-count:]
        if len(values) < count or any(value is _MARK for value in values):
            raise ValueError("its pickle takes more from its stack than is there")
        del self.stack[-count:]
        return values

    def marked(self) -> list[Any]:
        """The values down to the last mark, off the stack with it."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise ValueError("its pickle looks for a mark that is not there")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def filled(self, table: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
        """A dictionary with keys and values by turns."""
        for key, value in zip(values[::2], values[1::2], strict=True):
            table[_key(key)] = value
        return table

    def named(self, module: Any, name: Any) -> Any:
        """What a global stands for; CheckpointError for what is not in the table."""
        found = _GLOBALS.get(f"{module}.{name}")
        if found is None:
            raise CheckpointError(
                f"its pickle names the global {module}.{name}: expected only tensors, plain containers, numbers and "
                f"text; nothing was imported or run. Save the state_dict() of the object instead"
            )
        return found

    def called(self, function: Any, arguments: Any) -> Any:
        """A call of what is in the table."""
        if not isinstance(function, _Named) or function.call is None or type(arguments) is not tuple:
            shown = getattr(function, "name", type(function).__name__)
            raise CheckpointError(f"its pickle calls {shown}: refused")
        for argument in arguments:
            if isinstance(argument, (list, tuple, dict, set, frozenset, str, bytes)):
                self.budget -= len(argument)
        if self.budget < 0:
            raise ValueError("its pickle copies the same values again and again")
        return function.call(*arguments)

    def built(self, value: Any, state: Any) -> None:
        """State of an object: only a state_dict's ``_metadata`` is known."""
        if type(value) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
            raise CheckpointError(f"its pickle gives a state to a {type(value).__name__}: refused")
        value._metadata = state["_metadata"]  # type: ignore[attr-defined]


def _storage_id(value: Any, parts: int) -> tuple[dtype | None, str, str, int]:
    """(dtype, key, location, elements) of a persistent id."""
    if type(value) is not tuple or len(value) != parts or value[0] != "storage" or not isinstance(value[1], _Named):
        raise CheckpointError("its pickle refers to something outside that is not a storage: refused")
    kind, key, location, count = value[1].kind, value[2], value[3], value[4]
    if kind != "bytes" and not isinstance(kind, dtype):
        raise ValueError(f"a storage is of the class {value[1].name}")
    if type(key) is not str or type(location) is not str or type(count) is not int or not 0 <= count < 2**62:
        raise ValueError("a storage is not described by a name, a place and a number of elements")
    return (None if kind == "bytes" else kind), key, location, count


# ---------------------------------------------------------------------------------------------------- the files


def load_zip(source: Source, placement: Placement) -> Any:
    """The object in a zip checkpoint. CheckpointError for everything that is not one, or not whole."""
    try:
        entries = _entries(source)
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} entries data.pkl")
        prefix = pickles[0][: -len("data.pkl")]
        if f"{prefix}constants.pkl" in entries:
            raise CheckpointError("it is a TorchScript archive, which holds a program: save a state_dict() instead")
        order = b"little"
        if f"{prefix}byteorder" in entries:
            order = source.read(*entries[f"{prefix}byteorder"]).tobytes()[:16]
        if order not in (b"little", b"big"):
            raise ValueError(f"its byte order is {order!r}")
        storages: dict[str, Storage] = {}

        def load(value: Any) -> Storage:
            kind, key, location, count = _storage_id(value, 5)
            found = storages.get(key)
            size = count * (1 if kind is None else kind.itemsize)
            if found is None:
                begin, length = entries.get(f"{prefix}data/{key}", (0, -1))
                if length < size:
                    raise ValueError(f"storage {key!r} of {size} bytes is missing or has fewer")
                swap = order == b"big"
                found = storages[key] = Storage(source.read(begin, size), kind, location, swap, placement)
            elif found.kind is not kind or found.data.size != size:
                raise ValueError(f"storage {key!r} is described twice, differently")
            return found

        text = source.read(*entries[pickles[0]]).tobytes()
        return Machine(load, len(text)).run(io.BytesIO(text))
    except CheckpointError as error:
        raise CheckpointError(f"{source.name}: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{source.name} is not a whole PyTorch checkpoint: {error}") from error


def _entries(source: Source) -> dict[str, tuple[int, int]]:
    """name -> (begin, size) of an archive's entries: stored as they are, inside the file, apart from each other."""
    source.file.seek(source.begin)
    file: Any = source.file if source.begin == 0 else io.BytesIO(source.read(0, source.size).tobytes())
    found: dict[str, tuple[int, int]] = {}
    infos = zipfile.ZipFile(file).infolist()  # not closed: the file is the caller's
    for info in infos:
        if info.is_dir():
            continue
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"entry {info.filename!r} is compressed: PyTorch stores entries as they are")
        if info.flag_bits & 0x1:
            raise ValueError(f"entry {info.filename!r} is encrypted")
        if info.filename in found:
            raise ValueError(f"entry {info.filename!r} is there twice")
        local = source.read(info.header_offset, 30).tobytes()
        if local[:4] != b"PK\x03\x04":
            raise ValueError(f"entry {info.filename!r} is not where the archive says")
        name_size, extra_size = struct.unpack("<HH", local[26:30])
        begin = info.header_offset + 30 + name_size + extra_size
        if begin + info.file_size > source.size:
            raise ValueError(f"entry {info.filename!r} claims bytes {begin} to {begin + info.file_size} of a file of "
                             f"{source.size}")  # fmt: skip
        found[info.filename] = (begin, info.file_size)
    spans = sorted((info.header_offset, found[info.filename]) for info in infos if info.filename in found)
    for (_, (begin, size)), (after, _) in itertools.pairwise(spans):
        if begin + size > after:
            raise ValueError("its entries overlap")
    return found


def load_legacy(source: Source, placement: Placement) -> Any:
    """The object in a checkpoint of PyTorch before 1.6: five pickles, then the storages."""
    try:
        sizes: dict[str, tuple[dtype | None, str, int]] = {}
        storages: dict[str, Storage] = {}

        def described(value: Any) -> Storage:
            """The first reading, which only learns what the storages are: their bytes come after it."""
            if type(value) is not tuple or len(value) != 6 or value[5] is not None:
                raise ValueError("a storage is a view of another")
            kind, key, location, count = _storage_id(value, 6)
            size = count * (1 if kind is None else kind.itemsize)
            if sizes.setdefault(key, (kind, location, size)) != (kind, location, size):
                raise ValueError(f"storage {key!r} is described twice, differently")
            if sum(size for _, _, size in sizes.values()) > source.size:
                raise ValueError("its storages are larger than the file")
            return Storage(np.zeros(size, np.uint8), kind, location, False, Placement("cpu"))

        file = source.file
        file.seek(source.begin)
        _, protocol, system = (Machine(described, source.size).run(file) for _ in range(3))
        if protocol != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError(f"its protocol is {protocol!r:.50}, its system {system!r:.100}")
        begin = file.tell()
        Machine(described, source.size).run(file)
        keys = Machine(described, source.size).run(file)
        if type(keys) is not list or sorted(map(str, keys)) != sorted(sizes):
            raise ValueError("its list of storages differs from those its tensors use")
        at = file.tell() - source.begin
        for key in keys:
            kind, location, size = sizes[key]
            count = int.from_bytes(source.read(at, 8).tobytes(), "little")
            if count * (1 if kind is None else kind.itemsize) != size:
                raise ValueError(f"storage {key!r} has {count} elements, its tensors need {size} bytes")
            storages[key] = Storage(source.read(at + 8, size), kind, location, False, placement)
            at += 8 + size
        file.seek(begin)
        return Machine(lambda value: storages[value[2]], source.size).run(file)
    except CheckpointError as error:
        raise CheckpointError(f"{source.name}: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{source.name} is not a whole PyTorch checkpoint: {error}") from error
