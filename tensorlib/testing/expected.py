"""Expected values from elsewhere: what another library computed for the same calls, stored in a small file.

A record belongs to the numbers that went in (their digest is its key), so a sample that is edited has no record until
the values are made again. Of long results, evenly spread elements are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorlib._dtypes import OF_NUMPY
from tensorlib.testing import cases as all_cases
from tensorlib.testing.cases import (
    BFLOAT16,
    COMPLEX64,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Case,
    Declared,
    depends_on_dtype,
    proposed,
)
from tensorlib.testing.compare import is_float

#: Elements kept of one result.
KEPT = 48
#: The dtypes besides the usual one.
_OTHERS = (FLOAT64, BFLOAT16, FLOAT16, *(np.dtype(t) for t in (np.int64, np.uint8, np.bool_)), COMPLEX64)


class Values(NamedTuple):
    """One stored array: its dtype by name, its shape, and the elements that were kept (None: there was no array)."""

    dtype: str
    shape: tuple[int, ...]
    kept: np.ndarray | None


#: Begins the error of a call that is not compared, the reason after it.
LEFT_OUT = "left out: "


class Record(NamedTuple):
    """What one call gave: outputs and gradients, or the error it raised."""

    outputs: list[Values]
    gradients: list[Values | None]
    error: str | None


def positions(size: int) -> np.ndarray:
    """Which elements of a flat result are kept."""
    return np.arange(size) if size <= KEPT else np.unique(np.linspace(0, size - 1, KEPT).astype(np.int64))


def key(dtype: np.dtype[Any], args: Sequence[Any], attrs: dict[str, Any]) -> str:
    """The digest of a call: dtype under test, every number that goes in, every attribute."""
    digest = hashlib.blake2b(digest_size=8)

    def feed(value: Any) -> None:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.name}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, list):
            digest.update(b"[")
            for x in value:
                feed(x)
            digest.update(b"]")
        else:
            digest.update(repr(value).encode())

    digest.update(dtype.name.encode())
    for a in args:
        feed(a)
    for name in sorted(attrs):
        digest.update(name.encode())
        feed(attrs[name])
    return digest.hexdigest()


def cotangent(seed: str, index: int, shape: Sequence[int], of_complex: bool = False) -> np.ndarray:
    """The gradient of output ``index``, float64 or complex128: the same numbers for the same call everywhere."""
    rng = np.random.default_rng([int(seed, 16), index])
    parts = rng.standard_normal(tuple(shape))
    return np.asarray(parts + 1j * rng.standard_normal(tuple(shape)) if of_complex else parts)


class Call(NamedTuple):
    """One call whose result is stored."""

    case: Case
    dtype: np.dtype[Any]
    args: tuple[Any, ...]
    attrs: dict[str, Any]
    key: str
    gradients: bool
    usual: bool
    needs: list[bool]  # of each array, whether a gradient of it is stored


def plan(made: Declared) -> Iterator[Call]:
    """The calls whose results are stored: all in the usual dtype, the first two and the special ones in the others."""
    usual = all_cases.usual(made)
    everything = proposed(made)
    ordinary = [c for c in everything if depends_on_dtype(c)]
    few = [c for c in ordinary if not c.special][:2] + [c for c in ordinary if c.special or c.label == "ties"]
    gradients = not (all_cases.is_random(made) or all_cases.writes_first(made))
    takes = all_cases.dtypes(made)
    for dtype in (usual, *(d for d in _OTHERS if d != usual and (d != COMPLEX64 or d in takes))):
        for case in everything if dtype == usual else few:
            if (case.special or case.label == "ties") and not is_float(dtype):
                continue
            args, attrs = case.arguments(dtype)
            wants = dtype in (FLOAT32, COMPLEX64) or (dtype == BFLOAT16 and case is few[0])
            wants = wants and gradients and not case.special
            yield Call(case, dtype, args, attrs, key(dtype, args, attrs), wants, dtype == usual, case.needs())


# ------------------------------------------------------------------------------------------------------------- files


def store(array: np.ndarray) -> Values:
    """A result as it is kept."""
    return Values(OF_NUMPY[array.dtype].name, tuple(array.shape), array.reshape(-1)[positions(array.size)])


def save(path: Path, version: str, records: dict[str, Record]) -> None:
    """Write the records of one operator: an index in JSON and the bytes of all arrays."""
    data = bytearray()

    def packed(v: Values | None) -> Any:
        if v is None or v.kept is None:
            return None
        data.extend(np.ascontiguousarray(v.kept).tobytes())
        return [v.dtype, list(v.shape)]

    index: dict[str, Any] = {}
    for name, record in records.items():
        if record.error is not None:
            index[name] = {"error": record.error}
        else:
            index[name] = {
                "outputs": [packed(v) for v in record.outputs],
                "gradients": [packed(v) for v in record.gradients],
            }
    text = json.dumps({"version": version, "records": index}, separators=(",", ":")).encode()
    np.savez_compressed(path, index=np.frombuffer(text, np.uint8), data=np.frombuffer(bytes(data), np.uint8))


def load(path: Path) -> dict[str, Record]:
    """The records of one operator by key; none where there is no file."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        index, data = json.loads(file["index"].tobytes()), file["data"]
    at = 0

    def unpacked(entry: Any) -> Values | None:
        nonlocal at
        if entry is None:
            return None
        name, shape = entry
        dtype = _BY_NAME[name]
        size = len(positions(int(np.prod(shape, dtype=np.int64)))) * dtype.itemsize
        kept = data[at : at + size].copy().view(dtype)
        at += size
        return Values(name, tuple(shape), kept)

    records = {}
    for name, entry in index["records"].items():
        if "error" in entry:
            records[name] = Record([], [], entry["error"])
        else:
            outputs = [v for v in map(unpacked, entry["outputs"]) if v is not None]
            records[name] = Record(outputs, [unpacked(e) for e in entry["gradients"]], None)
    return records


_BY_NAME = {d.name: n for n, d in OF_NUMPY.items()}
