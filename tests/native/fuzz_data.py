"""What the parameters of a generated kernel stand for: their names say it (see `fuzz`)."""

from __future__ import annotations

import re
import zlib
from typing import Any

import ml_dtypes
import numpy as np
from fuzz import COUNTERS, PLACE, PROGRAMS, REGION, SIZE

DTYPES = {
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip
LENGTHS = {"in": SIZE, "tm": SIZE, "po": SIZE, "out": PROGRAMS * REGION, "ap": PROGRAMS * REGION,
           "io": PROGRAMS * PLACE + 16, "ct": COUNTERS}  # fmt: skip
_NAME = re.compile(r"(in|tm|po|out|ap|io|ct)_([a-z]+\d+)(?:_at(\d+))?")


def contents(name: str) -> np.ndarray:
    """What the buffer of that name holds at the start: always the same."""
    kind, dtype, _ = parts(name)
    numpy, n = np.dtype(DTYPES[dtype]), LENGTHS[kind]
    rng = np.random.default_rng(zlib.crc32(f"{kind}_{dtype}".encode()))
    if kind in ("out", "ap"):
        return np.full(n, 77).astype(numpy)
    if kind == "ct":
        return np.full(n, 3).astype(numpy)
    if kind == "tm":
        return rng.integers(-4, 5, n).astype(numpy)
    if kind == "po":
        return rng.uniform(0.5, 1.5, n).astype(np.float32).astype(numpy)
    small = rng.integers(-20, 20, n)
    if numpy.kind in "iu":
        info = np.iinfo(numpy)
        wide = rng.integers(info.min, info.max, n, numpy, endpoint=True)
        edges = rng.choice(np.array([info.min, info.max, 0, 1, info.max // 2, info.min + 1], numpy), n)
        choice = rng.random(n)
        return np.where(choice < 0.6, small.astype(numpy), np.where(choice < 0.9, wide, edges))
    wild = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4, n)
    huge = rng.standard_normal(n) * 10.0 ** rng.integers(-46, 39, n)
    edges = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-40, 65504.0, 3e38], n)
    choice = rng.random(n)
    with np.errstate(all="ignore"):
        found = np.where(choice < 0.3, small / 4, np.where(choice < 0.85, wild, np.where(choice < 0.95, huge, edges)))
        return (found if numpy == np.float64 else found.astype(np.float32)).astype(numpy)


def parts(name: str) -> tuple[str, str, int]:
    """Kind, dtype and offset of a buffer's name."""
    found = _NAME.fullmatch(name)
    assert found, name
    return found[1], found[2], int(found[3] or 0)


def scalar(name: str) -> Any:
    """The value that a parameter's name says."""
    number = int(name[1:])
    return {"n": number, "m": -number, "q": number / 4, "C": number}[name[0]]
