"""What was measured, kept: one JSON file a device, the user's own and those that come with the library.

A file holds, for a tunable, for the version of its key and the source of its kernels, for a bucket of problems, one
result a configuration:

    {"format": 1, "device": "NVIDIA H200", "target": "sm_90", "tunables": {
        "matmul": {"1-5f0c…": {"M=1024 N=1024 …": {
            "BLOCK_M=128 … num_warps=8 num_stages=3": {"ms": 0.0182, "spread": 0.0003, "runs": 25, "triton": "3.9.0"},
            "BLOCK_M=256 … num_warps=8 num_stages=4": {"failed": "shared memory: 262144 bytes of 232448"}}}}}}

Results are kept for each configuration: a new candidate discards none. Writing merges with what is there under a lock,
so that processes which tune at the same time lose nothing of each other's, and replaces the file in one step. A file
that cannot be understood is set aside and never believed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorlib.runtime import cache

try:
    import fcntl
except ImportError:  # Windows: two processes that write at the same moment may lose one's results
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
SHIPPED = Path(__file__).parent

#: configuration -> what was seen of it
Results = dict[str, dict[str, Any]]

def folder() -> Path | None:
    """Where the user's tables are: `tables` in the folder that compiled kernels are kept in; None where that is off."""
    parent = cache.folder()
    return None if parent is None else Path(parent) / "tables"


def file_name(device: str, target: str) -> str:
    """The file of a device: its name and target, as a file name."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-')}-{target}.json"


class Table:
    """The results of one device, in memory. ``load`` and ``save`` keep them in a file."""

    def __init__(self, device: str, target: str) -> None:
        self.device = device
        self.target = target
        self.tunables: dict[str, dict[str, dict[str, Results]]] = {}

    def results(self, tunable: str, stamp: str, bucket: str) -> Results:
        """What is known of a bucket: empty when nothing is."""
        return self.tunables.get(tunable, {}).get(stamp, {}).get(bucket, {})

    def record(self, tunable: str, stamp: str, bucket: str, config: str, result: dict[str, Any]) -> None:
        """Add a result, or replace it."""
        self.tunables.setdefault(tunable, {}).setdefault(stamp, {}).setdefault(bucket, {})[config] = result

    def merge(self, other: Table) -> None:
        """Take over the results of another table; of two for the same configuration the later one."""
        for name, stamps in other.tunables.items():
            for stamp, buckets in stamps.items():
                for bucket, results in buckets.items():
                    mine = self.results(name, stamp, bucket)
                    for config, result in results.items():
                        if config not in mine or result.get("when", 0) >= mine[config].get("when", 0):
                            self.record(name, stamp, bucket, config, result)

    def __len__(self) -> int:
        return sum(len(r) for stamps in self.tunables.values() for buckets in stamps.values() for r in buckets.values())

    def as_json(self) -> str:
        """The text of the file."""
        content = {"format": FORMAT, "device": self.device, "target": self.target, "tunables": self.tunables}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def parse(text: str) -> Table:
    """A table from the text of a file. ValueError, saying what is wrong, for anything but a well-formed one."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"expected an object with format {FORMAT}")
    if not (isinstance(content.get("device"), str) and isinstance(content.get("target"), str)):
        raise ValueError("expected the names of a device and a target")
    table = Table(content["device"], content["target"])
    for name, stamps in _items(content.get("tunables"), "tunables"):
        for stamp, buckets in _items(stamps, name):
            for bucket, results in _items(buckets, stamp):
                for config, result in _items(results, bucket):
                    _check(result, f"{name}, {bucket}, {config}")
                    table.record(name, stamp, bucket, config, result)
    return table


def _items(value: Any, what: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{what}: expected an object, got {type(value).__name__}")
    return value.items()


def _check(result: Any, what: str) -> None:
    """A result holds a time, or the reason why there is none."""
    if isinstance(result, dict):
        ms, when = result.get("ms"), result.get("when", 0)
        timed = isinstance(ms, (int, float)) and not isinstance(ms, bool) and math.isfinite(ms) and ms > 0
        refused = isinstance(result.get("failed"), str) or isinstance(result.get("wrong"), str)
        if (timed or ("ms" not in result and refused)) and isinstance(when, (int, float)):
            return
    raise ValueError(f"{what}: expected a positive time in ms or a reason, got {result!r}")


# ------------------------------------------------------------------------------------------------------------- files


def load(path: Path) -> Table | None:
    """The table in a file, None when there is none. A damaged file is set aside with a warning, and is none."""
    try:
        text = path.read_text(encoding="utf-8")
        return parse(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        warnings.warn(f"the table of tuned configurations {path} cannot be read: {error}", stacklevel=4)
    except (ValueError, RecursionError) as error:  # bytes that are no text among them
        _set_aside(path, error)
    return None


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    moved = f"moved to {aside.name}"
    try:
        os.replace(path, aside)
    except OSError as reason:
        moved = f"it could not be moved away: {reason}"
    warnings.warn(
        f"the table of tuned configurations {path} is damaged and not used ({moved}): {error}", stacklevel=4
    )


def shipped(device: str, target: str) -> Table | None:
    """The table that comes with the library for this device, None when there is none."""
    return shipped_file(SHIPPED / file_name(device, target))


def shipped_file(path: Path) -> Table | None:
    """A table of the library's, None when there is none; read once."""
    if path not in _shipped:
        try:
            _shipped[path] = parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            _shipped[path] = None
        except (OSError, ValueError) as error:  # part of the installation, which is not ours to move about
            warnings.warn(f"the library's table of tuned configurations {path} is damaged: {error}", stacklevel=4)
            _shipped[path] = None
    return _shipped[path]


_shipped: dict[Path, Table | None] = {}


def forget() -> None:
    """Read the library's tables again when they are next asked for."""
    _shipped.clear()


def save(table: Table, path: Path) -> Table:
    """Merge a table into its file; returns all that the file then holds. OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        there = load(path)
        merged = Table(table.device, table.target)
        if there is not None:
            merged.merge(there)
        merged.merge(table)
        replace(path, merged.as_json())
    return merged


def clear(path: Path) -> bool:
    """Remove a file of the user's; whether there was one."""
    if not path.parent.is_dir():
        return False
    with locked(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True


def replace(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old one or the new one."""
    name = f"{path}.{os.getpid()}.new"  # one process at a time holds the lock
    try:
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file among processes, as far as the file system can lock; it ends with the process."""
    with open(path.with_name(path.name + ".lock"), "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a network file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
