"""The safetensors format: named arrays in one file, readable by every library that speaks it.

::

    8 bytes   the header's length, unsigned, little-endian
    header    JSON {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {text: text}}
    data      the arrays, row-major and little-endian, one after the other without a gap

Loading runs no code of the file and trusts nothing it says: every statement of the header is checked against the
file's size before anything is read or allocated. https://github.com/huggingface/safetensors, section Format.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from tensorlib.errors import CheckpointError, CheckpointNotFoundError

#: The format's names for element types. Sub-byte types of the format have no NumPy array to load into.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
        "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
        "F32": np.float32, "F64": np.float64, "C64": np.complex64, "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }.items()
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # the reference implementation's limit


def save_file(
    tensors: dict[str, np.ndarray], path: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write named arrays to ``path``, whole or not at all.

    The bytes go to a temporary file beside ``path``, reach the disk, and then take its name in one step: whatever
    happens (a full disk, a kill, a power cut), ``path`` is afterwards the old file or the new one, complete.

    tensors: any shape and memory layout, dtypes as in DTYPES. metadata: text to text. Raises CheckpointError for a
    dtype or a name the format cannot hold, OSError when the file cannot be written.
    """
    write = prepared(tensors, metadata)
    with replacing(path) as file:
        write(file)


def prepared(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None) -> Callable[[BinaryIO], None]:
    """What writes the arrays to a file. CheckpointError, before one is touched, where the format cannot hold them."""
    # Widest elements first, so that each array begins at a multiple of its element's size; then by name.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        array = tensors[name]
        if array.dtype not in _NAMES or name == "__metadata__":
            raise CheckpointError(f"save_file: tensor {name!r} of dtype {array.dtype}: expected another name than "
                                  f"__metadata__ and one of the dtypes {', '.join(map(str, _NAMES))}")  # fmt: skip
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": (end, end + array.nbytes)}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(f"save_file: the names, shapes and metadata take {len(text)} bytes: expected at most "
                              f"{LONGEST_HEADER}")  # fmt: skip

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)

    return write


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that becomes ``path`` when the block ends without an error, and leaves it alone otherwise."""
    path = Path(path)
    if not path.parent.exists():
        raise CheckpointNotFoundError(
            f"cannot write {path}: Parent directory {path.parent} does not exist: make the folder first"
        )
    temporary = path.with_name(f".{path.name}.tmp")  # one fixed name: what a kill leaves, the next save overwrites
    try:
        with open(str(temporary), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(temporary), path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):  # say what the caller named
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "posix":  # the rename itself is on the disk when the directory is
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def load_file(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a safetensors file, each array in memory of its own.

    Raises CheckpointError, naming the file and what is wrong with it, when it is missing or unreadable or differs
    from the format in any way: length of the header, JSON, names given twice, dtypes, shapes, offsets with a gap or
    an overlap, bytes missing or left over.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            with naming(path):
                entries, metadata = read_header(file, size)
                tensors = {name: read_array(file, name, dtype, shape) for name, dtype, shape in entries}
    except OSError as error:
        raise unreadable(path, error) from error
    return tensors, metadata


def unreadable(path: Any, error: OSError) -> CheckpointError:
    """What to raise where a file could not be read: also a FileNotFoundError where it is missing."""
    kind = CheckpointNotFoundError if isinstance(error, FileNotFoundError) else CheckpointError
    return kind(f"cannot read {path}: {error.strerror or error}")


def read_array(file: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """The next array of a file, in memory of its own; ValueError where the file ends early."""
    array = np.empty(math.prod(shape), dtype)
    rest = array.view(np.uint8).data
    while len(rest):  # a file may give less than it was asked for
        count = file.readinto(rest)
        if not count:
            raise ValueError(f"tensor {name!r} ends early")
        rest = rest[count:]
    return check_bools(array.reshape(shape), name)


def check_bools(array: np.ndarray, name: str) -> np.ndarray:
    """The array; ValueError where a bool is neither 0 nor 1, which NumPy would compute with."""
    if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise ValueError(f"tensor {name!r} holds a byte that is neither true nor false")
    return array


class _OtherFormatError(ValueError):
    """A file that does not begin as one of this format."""


@contextlib.contextmanager
def naming(path: Any) -> Iterator[None]:
    """Turn what a damaged file makes the parser say into a CheckpointError that names the file."""
    try:
        yield
    except _OtherFormatError as error:
        raise CheckpointError(f"{path} is {error}") from error
    except (ValueError, RecursionError) as error:  # JSON nested without end exhausts the stack
        reason = str(error) if type(error) is ValueError else f"its header is not JSON ({error})"
        raise CheckpointError(f"{path} is not a whole safetensors file: {reason}") from error


def read_header(file: Any, size: int) -> tuple[list[tuple[str, np.dtype[Any], tuple[int, ...]]], dict[str, str]]:
    """(name, dtype, shape) of each array in the order of the data, and the metadata."""
    if size < 8:
        raise ValueError(f"it has {size} bytes, fewer than the 8 that give its header's length")
    head = bytes(file.read(9))
    if head[:4] == b"PK\x03\x04":
        raise _OtherFormatError("a zip archive, as PyTorch's checkpoints are: expected a safetensors file")
    if size > 8 and head[8:] != b"{":
        raise _OtherFormatError(f"neither a safetensors file nor a PyTorch checkpoint: it begins with {head!r}")
    length = int.from_bytes(head[:8], "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise ValueError(f"it states a header of {length} bytes and has {size - 8} (at most {LONGEST_HEADER} are read)")
    text = head[8:] + file.read(max(0, length - 1))
    if not length or size == 8:
        raise ValueError("its header is empty")
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is not a table of text")
    found = [_entry(name, value) for name, value in header.items()]
    found.sort(key=lambda entry: entry[3])
    end = 0
    for name, dtype, shape, (begin, stop) in found:
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name!r}, {dtype} of shape {shape}, claims bytes {begin} to {stop} "
                             f"where {end} to {end + math.prod(shape) * dtype.itemsize} was expected")  # fmt: skip
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"its header describes {end} bytes of data and it holds {size - 8 - length}")
    return [(name, dtype, shape) for name, dtype, shape, _ in found], metadata


def _entry(name: str, value: Any) -> tuple[str, np.dtype[Any], tuple[int, ...], tuple[int, int]]:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has the dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has the shape {shape!r} and the offsets {offsets!r}")
    return name, DTYPES[dtype], tuple(shape), (offsets[0], offsets[1])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("its header gives a name twice")
    return table


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"its header holds the number {name}")
