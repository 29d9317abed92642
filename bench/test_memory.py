"""What the host spends on a GPU's memory, timed by pytest-benchmark over a driver that does nothing.

pytest bench/test_memory.py -o addopts=""
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tensorlib.runtime.caching import Allocator, Config
from tensorlib.runtime.pinned import Pinned

MIB = 1 << 20


class Nothing:
    """A driver whose memory is never touched, and whose streams are always done."""

    kind = "cuda"

    def __init__(self) -> None:
        self._next = 1 << 40
        self._host: list[np.ndarray] = []

    def malloc(self, nbytes: int) -> int:
        start, self._next = self._next, self._next + nbytes
        return start

    def host_allocate(self, nbytes: int) -> int:
        self._host.append(np.empty(nbytes + 4096, np.uint8))
        return int(self._host[-1].ctypes.data + -self._host[-1].ctypes.data % 4096)

    def free(self, ptr: int) -> None:
        pass

    host_free = event_destroy = event_synchronize = free

    def memory_info(self) -> tuple[int, int]:
        return 64 << 30, 80 << 30

    def synchronize(self) -> None:
        pass

    def event_create(self) -> int:
        return 1

    def event_record(self, event: int, stream: int) -> None:
        pass

    def event_query(self, event: int) -> bool:
        return True

    def exchange_capture_mode(self, mode: str) -> str:
        return "global"


@pytest.fixture
def allocator() -> Allocator:
    return Allocator(Nothing(), config=Config())


def test_hit(allocator: Allocator, benchmark: Any) -> None:
    """One allocation and its free, of a size that was asked for before."""
    for _ in range(3):
        allocator.allocate(1000, 0)
    benchmark(allocator.allocate, 1000, 0)


def training_step(chance: random.Random) -> list[int]:
    """Sizes of 2000 tensors, from scalars to activations."""
    bases = [4, 4096, 70_000, 3 * MIB, 5 * MIB, 11 * MIB, 64 * MIB]
    return [chance.choice(bases) + 512 * chance.randrange(100) for _ in range(2000)]


def test_step_of_known_sizes(allocator: Allocator, benchmark: Any) -> None:
    """2000 tensors allocated and freed, the same sizes every time."""
    sizes = training_step(random.Random(0))
    benchmark.pedantic(lambda: [allocator.allocate(size, 0) for size in sizes], rounds=50, warmup_rounds=3)


def test_step_of_new_sizes(allocator: Allocator, benchmark: Any) -> None:
    """2000 tensors allocated and freed, other sizes every time: each request is a miss."""
    chance = random.Random(0)

    def setup() -> tuple[tuple[list[int]], dict[str, Any]]:
        return (training_step(chance),), {}

    benchmark.pedantic(lambda sizes: [allocator.allocate(size, 0) for size in sizes], setup=setup, rounds=20)


def test_record_stream(allocator: Allocator, benchmark: Any) -> None:
    """An allocation that another stream uses too: an event at each free, asked at the next miss."""

    def use() -> None:
        allocator.record_stream(allocator.allocate(1000, 0), 7)

    benchmark(use)


def test_statistics(allocator: Allocator, benchmark: Any) -> None:
    """``memory_stats`` with 2000 live tensors."""
    kept = [allocator.allocate(size, 0) for size in training_step(random.Random(0))]
    benchmark(allocator.stats)
    del kept


def test_pinned(benchmark: Any) -> None:
    """A pinned array and its free."""
    memory = Pinned(Nothing())
    memory.allocate(1000)
    benchmark(memory.allocate, 1000)
