"""``save`` and ``load``: a nesting of containers, numbers and tensors in one safetensors file.

The tensors are the file's entries, under their path in the object (``model.0.weight``), so that every library that
reads safetensors reads them. The rest is JSON under ``tensorlib`` in the file's ``__metadata__``. A value is written as

    null, true, 1, 1.5, "text", [list]          itself
    {"tuple": [...]}, {"dict": {...}}, …        anything else: one name of _KINDS, and what it needs

so that loading builds what is in a table, and nothing else: no code of the file is run, no class imported.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, wrap
from tensorlib._device import device as Device
from tensorlib._dtypes import OF_NUMPY, as_dtype, dtype
from tensorlib._size import Size
from tensorlib.errors import CheckpointError, TensorlibError
from tensorlib.io import _torch
from tensorlib.io._source import Placement, Source, strided, typed
from tensorlib.io.safetensors import check_bools, naming, prepared, read_header, replacing, unreadable
from tensorlib.nn.parameter import Buffer, Parameter
from tensorlib.random import Generator

__all__ = ["load", "save"]

FORMAT = "tensorlib.save/1"
_KEY = "tensorlib"  # in the metadata
_DEEPEST = 200  # levels of nesting: JSON is read by recursion
_LONG = 256  # bytes from which on a bytes object is an entry of the file
_FACTORIES = {"list": list, "dict": dict, "set": set, "tuple": tuple, "int": int, "float": float, "str": str,
              "bool": bool}  # fmt: skip


def save(
    obj: Any,
    f: Any,
    pickle_module: Any = None,
    pickle_protocol: int | None = None,
    _use_new_zipfile_serialization: bool = True,
) -> None:
    """Write ``obj`` to a path, whole or not at all, or to a binary file object, as a safetensors file.

    obj: any nesting of dict (any plain keys), OrderedDict, defaultdict, Counter, list, tuple, named tuple, set,
    frozenset; None, bool, int, float, complex, str, bytes, bytearray; tensors, Parameters, Buffers, Generators,
    dtypes, devices, sizes; NumPy arrays and scalars. Tensors that share memory share it again when loaded, and the
    same tensor is the same tensor; their gradients and histories are not saved. Parameters of a module and optimizers
    go by their ``state_dict()``. CheckpointError names the place of anything else: nothing is pickled, and the
    two pickle arguments of PyTorch's signature are taken for its sake alone.

    A path is written beside itself, brought to the disk and renamed: a kill at any moment leaves the old file or the
    new one. OSError where it cannot be written; CheckpointNotFoundError, which is one and a RuntimeError, where its
    folder does not exist.
    """
    writer = _Writer()
    structure = writer.encode(obj, "obj", 0)
    tensors, entries = writer.entries()
    text = json.dumps({"object": structure, "memory": entries}, separators=(",", ":"), allow_nan=False)
    write = prepared(tensors, {"format": FORMAT, _KEY: text})
    if isinstance(f, (str, os.PathLike)):
        with replacing(f) as file:
            write(file)
    elif hasattr(f, "write"):
        write(f)
    else:
        raise TypeError(f"save: expected a path or a binary file object, got {type(f).__name__}")


def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """The object that ``save`` wrote, or what PyTorch's ``torch.save`` wrote, of a path or a binary file object.

    Of PyTorch's checkpoints (``.pt``, ``.pth``) tensors, Parameters, plain containers, numbers and text are read, as
    with ``weights_only=True``; no code of the file is run, and a global outside of that list is refused by its name.
    A safetensors file of another writer gives the dictionary of its tensors.

    map_location: where the tensors go: a device, its name, a dictionary of names, or a function (tensor, name of the
    device it was saved on) -> tensor, device or None. mmap: read by memory map, when an element is first used; needs a
    path, and the file must stay as it is. weights_only: False allows no more than True.

    CheckpointError for a file that is damaged, of another format, or holds more than can be loaded;
    CheckpointNotFoundError, which is also a FileNotFoundError, for a file that is missing.
    """
    placement = Placement(map_location)
    if isinstance(f, (str, os.PathLike)):
        try:
            with open(f, "rb") as file:
                return _load(Source(file, str(f), bool(mmap)), placement)
        except OSError as error:
            raise unreadable(f, error) from error
    if mmap:
        raise ValueError("load: mmap=True: f must be a file name in order to use the mmap argument")
    if not hasattr(f, "read"):
        raise TypeError(f"load: expected a path or a binary file object, got {type(f).__name__}")
    return _load(Source(f, str(getattr(f, "name", "the file object"))), placement)


def _load(source: Source, placement: Placement) -> Any:
    head = source.head(16)
    if head[:4] == b"PK\x03\x04":
        return _torch.load_zip(source, placement)
    if head.startswith(_torch.LEGACY):
        return _torch.load_legacy(source, placement)
    if head[:1] == b"\x80" and head[8:9] != b"{":
        raise CheckpointError(f"{source.name} is a bare pickle: refused, as reading one can run any code")
    with naming(source.name):
        entries, metadata = read_header(source.file, source.size)
        at = source.file.tell() - source.begin
        arrays = {}
        for name, kind, shape in entries:
            size = math.prod(shape) * kind.itemsize
            arrays[name] = check_bools(typed(source.read(at, size), kind), name).reshape(shape)
            at += size
    if _KEY not in metadata:
        return {name: wrap(placement.place(array, "cpu")) for name, array in arrays.items()}
    try:
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        described = json.loads(metadata[_KEY])
        return _Reader(arrays, described["memory"], placement).decode(described["object"])
    except CheckpointError as error:
        raise CheckpointError(f"{source.name}: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError,
            TensorlibError) as error:  # fmt: skip
        raise CheckpointError(f"{source.name} is not a whole checkpoint: {type(error).__name__}: {error}") from error


# -------------------------------------------------------------------------------------------------------- writing


class _Writer:
    """Describes an object; the memory of its tensors is decided when all are known."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}  # id of a tensor or array -> its number
        self.kept: list[Any] = []  # so that an id stays taken
        self.arrays: list[np.ndarray] = []
        self.names: list[str] = []
        self.open: set[int] = set()  # the containers that are being described

    def encode(self, value: Any, path: str, depth: int) -> Any:
        """The JSON of a value. CheckpointError names the path of what has none."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind in (complex, bytes, bytearray) or isinstance(value, (dtype, Device, np.generic)):
            return self._plain(value, path)
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if kind is np.ndarray:
            return {"array": self._number(value, value, path)}
        if kind is Generator:
            state = value.get_state().numpy().tobytes()
            return {"Generator": [str(value.device), base64.b64encode(state).decode()]}
        if depth >= _DEEPEST or id(value) in self.open:
            why = "contains itself" if id(value) in self.open else f"is nested deeper than {_DEEPEST} levels"
            raise CheckpointError(f"save: {path} {why}: expected a tree of plain containers")
        self.open.add(id(value))
        try:
            return self._container(value, kind, path, depth + 1)
        finally:
            self.open.discard(id(value))

    def _plain(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is complex:
            return {"complex": [value.real.hex(), value.imag.hex()]}
        if isinstance(value, dtype):
            return {"dtype": value.name}
        if isinstance(value, Device):
            return {"device": str(value)}
        if isinstance(value, np.generic):
            if value.dtype not in OF_NUMPY:
                self._refuse(value, path)
            return {"scalar": [value.dtype.name, base64.b64encode(value.tobytes()).decode()]}
        if len(value) < _LONG:
            return {kind.__name__: base64.b64encode(value).decode()}
        return {kind.__name__: self._number(value, np.frombuffer(value, np.uint8), path)}

    def _tensor(self, value: Tensor, path: str) -> Any:
        if type(value) not in (Tensor, Parameter, Buffer):
            self._refuse(value, path)
        array = value._array
        host = array if isinstance(array, np.ndarray) else _array.to_host(array)
        described: dict[str, Any] = {"at": self._number(value, host, path)}
        if value.device.type != "cpu":
            described["device"] = str(value.device)
        if type(value) is not Tensor:
            described["class"] = type(value).__name__
        if isinstance(value, Buffer) and not value.persistent:
            described["persistent"] = False
        if value.requires_grad:
            described["requires_grad"] = True
        return {"tensor": described}

    def _container(self, value: Any, kind: type, path: str, depth: int) -> Any:
        if kind in (list, tuple, Size) or (isinstance(value, tuple) and hasattr(value, "_fields")):
            parts = [self.encode(part, f"{path}[{i}]", depth) for i, part in enumerate(value)]
            if kind in (list, tuple, Size):
                return parts if kind is list else {kind.__name__: parts}
            fields: Any = value._fields  # type: ignore[attr-defined]
            return {"namedtuple": [kind.__name__, list(fields), parts]}
        if kind in (set, frozenset):
            return {kind.__name__: [self.encode(part, f"{path}{{{part!r:.40}}}", depth) for part in value]}
        if kind in (dict, OrderedDict, Counter, defaultdict):
            items: Any
            if all(type(key) is str for key in value):
                items = {key: self.encode(part, f"{path}[{key!r}]", depth) for key, part in value.items()}
            else:
                items = [
                    [self.encode(key, f"the key {key!r:.40} of {path}", depth),
                     self.encode(part, f"{path}[{key!r:.40}]", depth)]
                    for key, part in value.items()
                ]  # fmt: skip
            if kind is defaultdict:
                factory = value.default_factory
                if factory is not None and _FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
                    raise CheckpointError(
                        f"save: {path} is a defaultdict of {factory!r:.80}: expected one of {', '.join(_FACTORIES)}"
                    )
                return {"defaultdict": [factory.__name__ if factory else None, items]}
            metadata = getattr(value, "_metadata", None) if kind is OrderedDict else None
            if metadata is not None:  # a Module's versions
                return {"state_dict": [items, self.encode(metadata, f"{path}._metadata", depth)]}
            return {kind.__name__: items}
        self._refuse(value, path)

    def _refuse(self, value: Any, path: str) -> Any:
        kind = type(value)
        hint = "; save its state_dict()" if hasattr(value, "state_dict") else ""
        raise CheckpointError(
            f"save: {path} is a {kind.__module__}.{kind.__qualname__}: expected tensors, plain containers, numbers, "
            f"text, dtypes, devices and Generators{hint}"
        )

    def _number(self, owner: Any, array: np.ndarray, path: str) -> int:
        number = self.numbers.get(id(owner))
        if number is None:
            if array.dtype not in OF_NUMPY:
                raise CheckpointError(f"save: {path} is an array of dtype {array.dtype}: expected numbers or bools")
            number = self.numbers[id(owner)] = len(self.arrays)
            self.kept.append(owner)
            self.arrays.append(array)
            name = ".".join(part.strip("'\"") for part in re.findall(r"\[((?:'[^']*'|\"[^\"]*\"|[^\]])*)\]", path))
            self.names.append(name or "tensor")
        return number

    def entries(self) -> tuple[dict[str, np.ndarray], list[Any]]:
        """The file's entries, and for each number where in them it is: [entry, dtype, shape, strides, offset]."""
        tensors: dict[str, np.ndarray] = {}
        places: list[Any] = [None] * len(self.arrays)
        for group in _overlapping(self.arrays):
            name = self.names[group[0]]
            taken = (f"{name}#{i}" if i else name for i in range(len(tensors) + 1))
            name = next(candidate for candidate in taken if candidate not in tensors and candidate != "__metadata__")
            array = self.arrays[group[0]]
            if len(group) == 1 and not _repeats(array):
                tensors[name], kind = _storable(array)
                places[group[0]] = [name, kind, list(array.shape), _permutation(array), None]
                continue
            low = min(_extent(self.arrays[i])[0] for i in group)
            high = max(_extent(self.arrays[i])[1] for i in group)
            if (_extent(array), array.flags.c_contiguous) == ((low, high), True):
                tensors[name], _ = _storable(array)  # the first holds all the others: under its own shape and dtype
            else:
                tensors[name] = _memory(self.arrays[group[0]], low, high)
            for i in group:
                part = self.arrays[i]
                strides = [step // part.itemsize for step in part.strides]
                places[i] = [name, OF_NUMPY[part.dtype].name, list(part.shape), strides, _address(part) - low]
        return tensors, places


def _storable(array: np.ndarray) -> tuple[np.ndarray, str]:
    """An array of a dtype that the format has, and the name of its own: complex128 goes as pairs of float64."""
    kind = OF_NUMPY[array.dtype].name
    if kind == "complex128":
        return np.ascontiguousarray(array).reshape(-1).view(np.float64).reshape((*array.shape, 2)), kind
    return array, kind


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _extent(array: np.ndarray) -> tuple[int, int]:
    """The addresses from the first to behind the last byte of an array that is not empty."""
    steps = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    at = _address(array)
    return at + sum(s for s in steps if s < 0), at + sum(s for s in steps if s > 0) + array.itemsize


def _overlapping(arrays: list[np.ndarray]) -> list[list[int]]:
    """Numbers of arrays in groups that share memory; within a group the largest first."""
    alone = [[i] for i, array in enumerate(arrays) if not array.size]
    full = sorted((i for i, array in enumerate(arrays) if array.size), key=lambda i: _extent(arrays[i]))
    groups: list[list[int]] = []
    end = -1
    for i in full:
        low, high = _extent(arrays[i])
        if low < end:
            groups[-1].append(i)
        else:
            groups.append([i])
        end = max(end, high)
    for group in groups:
        group.sort(key=lambda i: (-arrays[i].nbytes, i))
    return sorted(groups + alone, key=min)


def _repeats(array: np.ndarray) -> bool:
    """Whether elements share memory with each other, as in ``expand``."""
    return any(n > 1 and step == 0 for n, step in zip(array.shape, array.strides, strict=True))


def _permutation(array: np.ndarray) -> list[int] | None:
    """The axes from the slowest to the fastest, for an array that is a dense permutation of a contiguous one."""
    if array.flags.c_contiguous or min(array.strides, default=0) < 0:
        return None
    axes = sorted(range(array.ndim), key=lambda axis: (-array.strides[axis], axis))
    return axes if array.transpose(axes).flags.c_contiguous else None


def _memory(array: np.ndarray, low: int, high: int) -> np.ndarray:
    """The bytes between two addresses, which arrays that are alive hold; bytes between them are the base's."""
    size = array.itemsize
    if (high - low) % size == 0 and array.dtype.isbuiltin == 1 and array.dtype != np.bool_ and array.dtype.kind != "c":
        return _array.as_strided(array, ((high - low) // size,), (1,), (low - _address(array)) // size)
    offset = low - _address(array)
    first = array[(0,) * array.ndim + (None,)].view(np.uint8)
    return _array.as_strided(first, (high - low,), (1,), offset)


# -------------------------------------------------------------------------------------------------------- reading


class _Reader:
    """Builds an object from its description, by a table."""

    def __init__(self, arrays: dict[str, np.ndarray], places: Any, placement: Placement) -> None:
        self.arrays = arrays
        self.places = places
        self.placement = placement
        self.flat: dict[Any, Any] = {}  # (entry, dtype, device it was on) -> it, in one dimension, where it belongs
        self.made: dict[Any, Any] = {}

    def decode(self, value: Any) -> Any:
        """The value that a description stands for."""
        if isinstance(value, list):
            return [self.decode(part) for part in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise ValueError(f"a value is described by {sorted(value)!r:.100}")
        ((kind, given),) = value.items()
        if kind not in _KINDS:
            raise ValueError(f"it holds a value of the kind {kind!r:.50}, which is not known")
        return _KINDS[kind](self, given)

    def items(self, value: Any) -> Any:
        """The pairs of a dictionary."""
        if isinstance(value, dict):
            return [(key, self.decode(part)) for key, part in value.items()]
        return [(_hashable(self.decode(key)), self.decode(part)) for key, part in value]

    def memory(self, number: Any, saved: str) -> Any:
        """The array of a number, placed; arrays over the same entry share it."""
        if type(number) is not int or not 0 <= number < len(self.places):
            raise ValueError(f"it refers to tensor {number!r:.50} of {len(self.places)}")
        name, kind_name, shape, strides, offset = self.places[number]
        kind = as_dtype(kind_name).numpy
        flat = self.flat.get((name, kind, saved))
        if flat is None:
            raw = self.arrays[name].reshape(-1)
            if raw.dtype != kind:
                raw = check_bools(typed(raw.view(np.uint8), kind), name)
            flat = self.flat[name, kind, saved] = self.placement.place(raw, saved)
        if offset is None:
            if sorted(strides or []) != list(range(len(shape) if strides is not None else 0)):
                raise ValueError(f"tensor {name!r} has the axes {strides!r:.100}")
            if math.prod(shape) != flat.size:
                raise ValueError(f"tensor {name!r} of {flat.size} elements has the shape {shape!r:.100}")
            array = flat.reshape(tuple(shape))
            if strides is not None and isinstance(array, np.ndarray):
                array = np.ascontiguousarray(array.transpose(strides)).transpose(np.argsort(strides))
            return array
        if offset % kind.itemsize:
            if not isinstance(flat, np.ndarray):
                raise ValueError(f"tensor {name!r} begins inside an element")
            flat = typed(flat.view(np.uint8)[offset:][: (flat.nbytes - offset) // kind.itemsize * kind.itemsize], kind)
            offset = 0
        return strided(flat, shape, strides, offset // kind.itemsize)

    def tensor(self, given: Any) -> Tensor:
        """A tensor; the same description is the same one."""
        number, made_of = given["at"], given.get("class", "Tensor")
        saved, wants = str(given.get("device", "cpu")), given.get("requires_grad", False)
        found = self.made.get(number)
        if found is None:
            found = wrap(self.memory(number, saved))
            if made_of == "Parameter":
                found = Parameter(found, bool(wants))
            elif made_of == "Buffer":
                found = Buffer(found, persistent=bool(given.get("persistent", True)))
            elif made_of != "Tensor":
                raise ValueError(f"a tensor is of the class {made_of!r:.50}")
            self.made[number] = found.requires_grad_() if wants else found
        result: Tensor = self.made[number]
        return result

    def array(self, number: Any) -> np.ndarray:
        """A NumPy array; the same number is the same one."""
        if ("array", number) not in self.made:
            array = self.memory(number, "cpu")
            self.made["array", number] = array if isinstance(array, np.ndarray) else _array.to_host(array)
        result: np.ndarray = self.made["array", number]
        return result

    def bytes(self, given: Any) -> bytes:
        """Bytes in base 64, or of an entry."""
        return base64.b64decode(given, validate=True) if isinstance(given, str) else self.array(given).tobytes()

    def scalar(self, given: Any) -> Any:
        """A NumPy scalar of its bytes."""
        kind, text = given
        (value,) = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).view(as_dtype(kind).numpy)
        return value

    def generator(self, given: Any) -> Generator:
        """A Generator in its state."""
        place, state = given
        made = Generator(place)
        made.set_state(wrap(np.frombuffer(base64.b64decode(state, validate=True), np.uint8)))
        return made

    def named(self, given: Any) -> Any:
        """A named tuple: of a class made here, the same for the same name and fields."""
        name, fields, parts = given
        if not all(isinstance(text, str) and len(text) < 256 for text in (name, *fields)) or len(fields) > 256:
            raise ValueError(f"a named tuple is called {name!r:.50}")
        key = (name, *fields)
        if key not in _NAMED:
            _NAMED[key] = namedtuple(name, fields)  # type: ignore[misc]
        return _NAMED[key](*(self.decode(part) for part in parts))

    def default(self, given: Any) -> Any:
        """A defaultdict of a known factory."""
        factory, items = given
        return defaultdict(None if factory is None else _FACTORIES[factory], self.items(items))

    def state_dict(self, given: Any) -> Any:
        """A Module's state with the versions of its layers."""
        items, metadata = given
        result: Any = OrderedDict(self.items(items))
        result._metadata = self.decode(metadata)
        return result


_NAMED: dict[Any, Any] = {}


def _hashable(value: Any) -> Any:
    hash(value)
    return value


def _float(text: Any) -> float:
    if text not in ("inf", "-inf", "nan"):
        raise ValueError(f"a number is {text!r:.50}")
    return float(text)


_KINDS: dict[str, Callable[[_Reader, Any], Any]] = {
    "int": lambda reader, given: int(given, 16),
    "float": lambda reader, given: _float(given),
    "complex": lambda reader, given: complex(float.fromhex(given[0]), float.fromhex(given[1])),
    "bytes": lambda reader, given: reader.bytes(given),
    "bytearray": lambda reader, given: bytearray(reader.bytes(given)),
    "tuple": lambda reader, given: tuple(reader.decode(part) for part in given),
    "Size": lambda reader, given: Size(int(n) for n in given),
    "set": lambda reader, given: {_hashable(reader.decode(part)) for part in given},
    "frozenset": lambda reader, given: frozenset(_hashable(reader.decode(part)) for part in given),
    "dict": lambda reader, given: dict(reader.items(given)),
    "OrderedDict": lambda reader, given: OrderedDict(reader.items(given)),
    "Counter": lambda reader, given: Counter(dict(reader.items(given))),
    "defaultdict": lambda reader, given: reader.default(given),
    "state_dict": lambda reader, given: reader.state_dict(given),
    "namedtuple": lambda reader, given: reader.named(given),
    "tensor": lambda reader, given: reader.tensor(given),
    "array": lambda reader, given: reader.array(given),
    "scalar": lambda reader, given: reader.scalar(given),
    "dtype": lambda reader, given: as_dtype(str(given)),
    "device": lambda reader, given: Device(str(given)),
    "Generator": lambda reader, given: reader.generator(given),
}
