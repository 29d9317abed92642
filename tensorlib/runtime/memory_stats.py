"""Statistics of a device's memory, under PyTorch's names, computed from a log of what was allocated and freed.

An allocation and a free each append one integer to the log: one step of the interpreter, right from any thread and
within a destructor, where a counter would need a lock. Folding the log into the counts is a few cumulative sums, so
that they are exact, and their peaks too.
"""

from __future__ import annotations

import threading
from array import array
from typing import Any

import numpy as np

SMALL = 1 << 20  #: bytes: the largest request of the small pool
UNLIMITED = (1 << 63) - 1


def event(size: int, nbytes: int, active_only: bool = False) -> int:
    """A log entry: size (a multiple of 512) in bits 32 up, what rounding added in bits 1 to 31; negative for a free.

    Bit 0: not of an allocation, but of memory that was freed and is still in use on another stream.
    """
    return size << 23 | (size - nbytes) << 1 | active_only


class Stat:
    """A quantity that rises and falls: now, at most since the last reset, and what was gained and lost in all."""

    __slots__ = ("allocated", "current", "freed", "peak")

    def __init__(self) -> None:
        self.current = self.peak = self.allocated = self.freed = 0

    def add(self, change: int) -> None:
        """Count one change."""
        self.window(max(change, 0), max(change, 0), max(-change, 0))

    def window(self, rise: int, gained: int, lost: int) -> None:
        """Count many changes at once: how far above the present they rose, and what was gained and lost in all."""
        self.peak = max(self.peak, self.current + rise)
        self.allocated += gained
        self.freed += lost
        self.current += gained - lost

    def fold(self, changes: np.ndarray) -> tuple[int, int, int]:
        """Count changes in the order in which they happened; returns what ``window`` was told."""
        if not changes.size:
            return 0, 0, 0
        running = changes.cumsum()
        total, moved = int(running[-1]), int(np.abs(changes).sum())
        seen = max(0, int(running.max())), (moved + total) // 2, (moved - total) // 2
        self.window(*seen)
        return seen

    def as_dict(self) -> dict[str, int]:
        """With PyTorch's names."""
        return {"current": self.current, "peak": self.peak, "allocated": self.allocated, "freed": self.freed}


class Stats:
    """A Stat for both pools together, and one for each."""

    __slots__ = ("parts",)
    NAMES = ("all", "small_pool", "large_pool")

    def __init__(self) -> None:
        self.parts = (Stat(), Stat(), Stat())

    @property
    def all(self) -> Stat:
        """Of both pools together."""
        return self.parts[0]

    def add(self, change: int, small: bool) -> None:
        """Count one change of one pool."""
        self.parts[0].add(change)
        self.parts[1 if small else 2].add(change)

    def set(self, value: int, small: bool) -> None:
        """Count the change of one pool to a value."""
        self.add(value - self.parts[1 if small else 2].current, small)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """With PyTorch's names."""
        return {name: part.as_dict() for name, part in zip(self.NAMES, self.parts, strict=True)}


class Ledger:
    """The log of one allocator, and all its statistics. ``log`` alone may be written without the lock."""

    def __init__(self, lock: threading.RLock, max_split_size: int) -> None:
        self.log: array[int] = array("q")
        self.lock = lock
        self.max_split_size = max_split_size
        # From the log:
        self.allocation, self.allocated_bytes, self.requested_bytes = Stats(), Stats(), Stats()
        self.active, self.active_bytes = Stats(), Stats()
        self.oversize_allocations = Stat()
        # Told by the allocator:
        self.segment, self.reserved_bytes = Stats(), Stats()
        self.inactive_split, self.inactive_split_bytes = Stats(), Stats()
        self.oversize_segments = Stat()
        self.num_alloc_retries = self.num_ooms = self.num_sync_all_streams = 0
        self.num_device_alloc = self.num_device_free = 0

    def count(self) -> None:
        """Fold the log into the statistics."""
        with self.lock:
            length = len(self.log)
            if not length:
                return
            events = np.array(self.log[:length], np.int64)
            del self.log[:length]  # what was appended meanwhile stays
            code, sign = np.abs(events), np.sign(events)
            size = code >> 32 << 9
            small, own = size <= SMALL, (code & 1) == 0
            plain = bool(own.all())
            taken, asked = sign * size, sign * (size - (code >> 1 & 0x7FFFFFFF))
            pools: tuple[Any, ...] = (slice(None), small, ~small)
            for part, pool in enumerate(pools):
                counts, totals, requests = sign[pool], taken[pool], asked[pool]
                if not plain:
                    self.active.parts[part].fold(counts)
                    self.active_bytes.parts[part].fold(totals)
                    counts, totals, requests = (changes[own[pool]] for changes in (counts, totals, requests))
                count_seen = self.allocation.parts[part].fold(counts)
                bytes_seen = self.allocated_bytes.parts[part].fold(totals)
                self.requested_bytes.parts[part].fold(requests)
                if plain:  # what is active did the same
                    self.active.parts[part].window(*count_seen)
                    self.active_bytes.parts[part].window(*bytes_seen)
            if self.max_split_size < UNLIMITED:
                self.oversize_allocations.fold(sign[own & (size >= self.max_split_size)])

    def add_segment(self, size: int, small: bool) -> None:
        """The driver gave a segment."""
        self.num_device_alloc += 1
        self.segment.add(1, small)
        self.reserved_bytes.add(size, small)
        if size >= self.max_split_size:
            self.oversize_segments.add(1)

    def remove_segment(self, size: int, small: bool) -> None:
        """The driver got it back."""
        self.num_device_free += 1
        self.segment.add(-1, small)
        self.reserved_bytes.add(-size, small)
        if size >= self.max_split_size:
            self.oversize_segments.add(-1)

    def _named(self) -> dict[str, Stats]:
        return {
            "allocation": self.allocation,
            "segment": self.segment,
            "active": self.active,
            "inactive_split": self.inactive_split,
            "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes,
            "active_bytes": self.active_bytes,
            "inactive_split_bytes": self.inactive_split_bytes,
            "requested_bytes": self.requested_bytes,
        }

    def _each(self) -> list[Stat]:
        parts = [part for stats in self._named().values() for part in stats.parts]
        return [*parts, self.oversize_allocations, self.oversize_segments]

    def nested(self) -> dict[str, Any]:
        """{"allocated_bytes": {"all": {"current": …, "peak": …, "allocated": …, "freed": …}, …}, "num_ooms": …}."""
        self.count()
        return {
            **{name: stats.as_dict() for name, stats in self._named().items()},
            "oversize_allocations": self.oversize_allocations.as_dict(),
            "oversize_segments": self.oversize_segments.as_dict(),
            "num_alloc_retries": self.num_alloc_retries,
            "num_ooms": self.num_ooms,
            "num_sync_all_streams": self.num_sync_all_streams,
            "num_device_alloc": self.num_device_alloc,
            "num_device_free": self.num_device_free,
            "max_split_size": -1 if self.max_split_size == UNLIMITED else self.max_split_size,
        }

    def reset_peak(self) -> None:
        """Begin the peaks anew from what is now."""
        with self.lock:
            self.count()
            for stat in self._each():
                stat.peak = stat.current

    def reset_accumulated(self) -> None:
        """Begin the sums of what was ever gained and lost, and the counts of calls, anew."""
        with self.lock:
            self.count()
            for stat in self._each():
                stat.allocated = stat.freed = 0
            self.num_alloc_retries = self.num_ooms = self.num_sync_all_streams = 0
            self.num_device_alloc = self.num_device_free = 0


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, int] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
