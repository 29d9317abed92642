"""The allocator of device memory over a device in Python: against a model, then what a model does not show."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from tensorlib.errors import ArgumentError, OutOfMemoryError
from tensorlib.runtime import caching, memory_blocks, memory_report
from tensorlib.runtime.caching import Allocator, Block, Config

KIB, MIB = 1 << 10, 1 << 20
CAPACITY = 160 * MIB
STREAMS = (0, 7, 8)
SIZES = st.one_of(
    st.sampled_from([3000, 3000, 3 * MIB]),  # often the same: hits
    st.sampled_from([3000, 600 * KIB, 3 * MIB, 25 * MIB]),
    st.sampled_from([0, 1, 511, 512, 513, 3000, 3000, 600 * KIB, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB, 7 * MIB]),
    st.sampled_from(
        [10 * MIB - 1, 10 * MIB, 11 * MIB + 7, 19 * MIB, 20 * MIB, 21 * MIB, 33 * MIB, 60 * MIB, 200 * MIB]
    ),
    st.integers(0, 4096),
    st.integers(0, 30 * MIB),
)
CONFIGS = [
    Config(),
    Config(),
    Config(max_split_size=21 * MIB),
    Config(garbage_collection_threshold=0.5),
    Config(caching=False),
]


class Count:
    """A quantity with PyTorch's four figures, counted one change at a time."""

    def __init__(self) -> None:
        self.current = self.peak = self.allocated = self.freed = 0

    def add(self, change: int) -> None:
        self.current += change
        self.peak = max(self.peak, self.current)
        self.allocated += max(change, 0)
        self.freed -= min(change, 0)

    def figures(self) -> dict[str, int]:
        return vars(self)


class Live:
    """A block in use, and who else works on it."""

    def __init__(self, block: Block, nbytes: int, pool: Any) -> None:
        self.block = block
        self.ptr, self.size, self.stream, self.nbytes, self.pool = block.ptr, block.size, block.stream, nbytes, pool
        self.others: set[int] = set()


class Machine(RuleBasedStateMachine):
    """Everything a program can do, with a recount after every step."""

    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.live: list[Live] = []
        self.busy: list[
            tuple[int, int, int, int]
        ] = []  # (start, end, stream, pieces) that others were given at the free
        self.counts = {
            (name, part): Count()
            for name in ("allocation", "allocated_bytes", "requested_bytes")
            for part in ("all", "small_pool", "large_pool")
        }
        self.routed: list[str] = []
        self.uses: dict[str, int] = {}
        self.graphs: dict[str, set[int]] = {}  # pool in use -> its segments
        self.limit = CAPACITY
        self.ooms = 0

    @initialize(config=st.sampled_from(CONFIGS))
    def start(self, config: Config) -> None:
        self.device = FakeDevice(CAPACITY)
        self.allocator = Allocator(self.device, config=config)
        self.config = config

    def count(self, live: Live, sign: int) -> None:
        parts = ("all", "small_pool" if live.size <= MIB else "large_pool")
        for part in parts:
            self.counts["allocation", part].add(sign)
            self.counts["allocated_bytes", part].add(sign * live.size)
            self.counts["requested_bytes", part].add(sign * live.nbytes)

    def pool_of(self, stream: int) -> Any:
        """Private pools take the streams 7 and 8."""
        return self.routed[-1] if self.routed and stream else caching.DEFAULT_POOL

    @rule(target=blocks, nbytes=SIZES, stream=st.sampled_from(STREAMS))
    def allocate(self, nbytes: int, stream: int) -> Live | None:
        reserved = self.allocator.reserved
        try:
            block = self.allocator.allocate(nbytes, stream)
        except OutOfMemoryError as error:
            self.ooms += 1
            assert str(error).startswith("CUDA out of memory. Tried to allocate ")
            return None
        assert self.allocator.reserved <= max(reserved, self.limit), "beyond the limit"
        assert block.nbytes == nbytes
        if not nbytes:
            assert block.ptr == block.size == 0
            return None
        assert block.size >= nbytes and block.size % 512 == 0 and block.ptr % 512 == 0 and block.stream == stream
        live = Live(block, nbytes, self.pool_of(stream))
        start, end = live.ptr, live.ptr + live.size
        assert self.device.holds(start, live.size), "outside what the driver gave"
        assert not any(start < other.ptr + other.size and other.ptr < end for other in self.live), "two live blocks"
        for first, last, other, pieces in self.busy:
            if start < last and first < end:
                assert self.device.done.get(other, 0) >= pieces, "another stream still uses it"
        self.live.append(live)
        self.count(live, 1)
        return live

    @rule(live=consumes(blocks), collected=st.booleans())
    def free(self, live: Live | None, collected: bool) -> None:
        if live is None:
            return
        self.live.remove(live)
        self.count(live, -1)
        for stream in live.others:
            self.busy.append((live.ptr, live.ptr + live.size, stream, self.device.given.get(stream, 0)))
        if collected:  # by the collector of cycles
            cycle: list[Any] = [live.block]
            cycle.append(cycle)
            del live.block, cycle
            gc.collect()
        else:
            live.block.free()
            live.block.free()

    @rule(stream=st.sampled_from(STREAMS), nbytes=st.sampled_from([3000, 3 * MIB]))
    def steps(self, stream: int, nbytes: int) -> None:
        """Ask for a size, and free it, so often that it is a hit."""
        for _ in range(3):
            self.allocate_and_free(nbytes, stream)

    @rule(
        target=blocks,
        streams=st.permutations(STREAMS),
        nbytes=st.sampled_from([3000, 3 * MIB]),
        count=st.integers(1, 2),
    )
    def hand_over(self, streams: list[int], nbytes: int, count: int) -> Live | None:
        """Let other streams work on a block, free it, let one of them finish, and ask for the same again."""
        own, *others = streams
        live = self.allocate(nbytes, own)
        for stream in others[:count]:
            self.device.work(stream)
            self.record_stream(live, stream)
        self.free(live, False)
        self.device.finish(others[0], 1)
        self.allocate_and_free(nbytes, own)
        return self.allocate(nbytes, own)

    def allocate_and_free(self, nbytes: int, stream: int) -> None:
        self.free(self.allocate(nbytes, stream), False)

    @rule(live=blocks, streams=st.sets(st.sampled_from(STREAMS), min_size=1))
    def use(self, live: Live | None, streams: set[int]) -> None:
        """Work on other streams."""
        for stream in streams:
            self.device.work(stream)
            self.record_stream(live, stream)

    @rule(live=blocks, stream=st.sampled_from(STREAMS))
    def record_stream(self, live: Live | None, stream: int) -> None:
        if live is not None:
            self.allocator.record_stream(live.block, stream)
            if stream != live.stream and self.config.caching:
                live.others.add(stream)

    @rule(stream=st.sampled_from(STREAMS))
    def work(self, stream: int) -> None:
        self.device.work(stream)

    @rule(stream=st.sampled_from(STREAMS), pieces=st.integers(1, 3))
    def finish(self, stream: int, pieces: int) -> None:
        self.device.finish(stream, pieces)

    @rule()
    def empty_cache(self) -> None:
        self.allocator.empty_cache()
        if not self.routed:
            for segment in self.allocator.snapshot():
                idle = all(block["state"] == "inactive" for block in segment["blocks"])
                assert not idle or self.uses.get(segment["segment_pool_id"]), "an idle segment was kept"

    @rule(failures=st.integers(1, 3))
    def driver_fails(self, failures: int) -> None:
        self.device.failures = failures

    @rule(fraction=st.sampled_from([0.25, 0.5, 1.0]))
    def limit(self, fraction: float) -> None:
        self.allocator.set_limit(fraction)
        self.limit = int(fraction * CAPACITY)

    @precondition(lambda self: len(self.routed) < 2)
    @rule(pool=st.sampled_from(["a", "b"]))
    def begin_pool(self, pool: str) -> None:
        self.allocator.begin_pool(pool, bool)
        self.uses[pool] = self.uses.get(pool, 0) + 1
        self.routed.append(pool)
        self.device.capturing = True

    @precondition(lambda self: self.routed)
    @rule()
    def end_pool(self) -> None:
        self.allocator.end_pool(self.routed.pop())
        self.device.capturing = bool(self.routed)

    @precondition(lambda self: any(self.uses.values()) and not self.routed)
    @rule(data=st.data())
    def release_pool(self, data: st.DataObject) -> None:
        pool = data.draw(st.sampled_from(sorted(pool for pool, uses in self.uses.items() if uses)))
        self.allocator.release_pool(pool)
        self.uses[pool] -= 1

    @rule()
    def reset_peak(self) -> None:
        self.allocator.reset_peak()
        for count in self.counts.values():
            count.peak = count.current

    @rule()
    def reset_accumulated(self) -> None:
        self.allocator.reset_accumulated()
        self.ooms = 0
        for count in self.counts.values():
            count.allocated = count.freed = 0

    @invariant()
    def recount(self) -> None:
        if not hasattr(self, "allocator"):
            return
        stats, snapshot = self.allocator.stats(), self.allocator.snapshot()
        for (name, part), count in self.counts.items():
            assert {key: stats[f"{name}.{part}.{key}"] for key in count.figures()} == count.figures(), (name, part)
        assert stats["num_ooms"] == self.ooms
        assert self.device.mode == "global"
        # what graphs rely on is kept
        for pool, uses in self.uses.items():
            held = {segment["address"] for segment in snapshot if segment["segment_pool_id"] == pool}
            before, self.graphs[pool] = self.graphs.get(pool, set()), held
            assert not uses or not self.config.caching or held >= before, "a graph's memory was given back"
        # segments are what the driver gave, and their blocks tile them
        assert {s["address"]: s["total_size"] for s in snapshot} == self.device.segments
        shown = {}
        sums = {(name, part): 0 for name in ("active", "split", "reserved", "segment") for part in ("small", "large")}
        for segment in snapshot:
            end, before, kind = segment["address"], "", segment["segment_type"]
            for block in segment["blocks"]:
                assert block["address"] == end and block["size"] > 0
                assert not before == block["state"] == "inactive", "neighbours that are not merged"
                end, before = end + block["size"], block["state"]
                if block["state"] == "active_allocated":
                    shown[block["address"]] = (
                        block["size"],
                        block["requested_size"],
                        segment["stream"],
                        segment["segment_pool_id"],
                    )
                sums["active", kind] += block["size"] * (block["state"] != "inactive")
                sums["split", kind] += block["size"] * (block["state"] == "inactive" and len(segment["blocks"]) > 1)
            assert end == segment["address"] + segment["total_size"]
            sums["reserved", kind] += segment["total_size"]
            sums["segment", kind] += 1
        assert shown == {live.ptr: (live.size, live.nbytes, live.stream, live.pool) for live in self.live}
        names = {
            "active": "active_bytes",
            "split": "inactive_split_bytes",
            "reserved": "reserved_bytes",
            "segment": "segment",
        }
        for (name, kind), value in sums.items():
            assert stats[f"{names[name]}.{kind}_pool.current"] == value, (name, kind)
        assert self.allocator.allocated == sum(live.size for live in self.live)
        assert self.allocator.reserved == sum(self.device.segments.values())
        pending = any(block["state"] == "active_pending_free" for s in snapshot for block in s["blocks"])
        assert stats["active.all.current"] >= len(self.live) and (
            pending or stats["active.all.current"] == len(self.live)
        )

    def teardown(self) -> None:
        if not hasattr(self, "allocator"):
            return
        while self.routed:
            self.end_pool()
        for pool, uses in self.uses.items():
            for _ in range(uses):
                self.allocator.release_pool(pool)
        for live in self.live:
            live.block.free()
        self.device.capturing = False
        self.allocator.empty_cache()
        assert not self.device.segments, "memory that nobody uses was kept"
        stats = self.allocator.stats()
        assert (
            stats["active.all.current"] == stats["active_bytes.all.current"] == stats["reserved_bytes.all.current"] == 0
        )


@pytest.fixture(autouse=True, scope="module")
def small_tables() -> Iterator[None]:
    """Tables so small that they overflow."""
    patch = pytest.MonkeyPatch()
    patch.setattr(caching, "_LOG_LENGTH", 16)
    patch.setattr(caching, "_RECIPES", 6)
    patch.setattr(memory_blocks, "QUICK_LISTS", 3)
    yield
    patch.undo()


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, derandomize=True, deadline=None)
TestModel = Machine.TestCase


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def allocator(device: FakeDevice) -> Allocator:
    return Allocator(device, config=Config())


def states(allocator: Allocator) -> list[list[tuple[int, str]]]:
    """Size and state of the blocks of each segment."""
    return [[(b["size"], b["state"]) for b in segment["blocks"]] for segment in allocator.snapshot()]


# -- where memory comes from
def test_segments_are_of_pytorchs_sizes(allocator: Allocator) -> None:
    kept = [allocator.allocate(n) for n in (1, MIB + 1, 10 * MIB - 512, 10 * MIB, 10 * MIB + 1)]
    assert [sum(size for size, _ in blocks) for blocks in states(allocator)] == [
        2 * MIB, 20 * MIB, 10 * MIB, 12 * MIB,
    ]  # fmt: skip
    assert [s["segment_type"] for s in allocator.snapshot()] == ["small", "large", "large", "large"]
    assert [block.size for block in kept] == [512, MIB + 512, 10 * MIB - 512, 10 * MIB, 10 * MIB + 512]


def test_a_loop_of_the_same_sizes_asks_the_driver_nothing(allocator: Allocator, device: FakeDevice) -> None:
    sizes = [100, 5000, 3 * MIB, 40 * MIB, 100, 70_000, 3 * MIB + 512] * 3

    def step() -> list[int]:
        return [block.ptr for block in [allocator.allocate(size) for size in sizes]]

    step()
    step()
    calls, misses = device.calls, allocator._misses
    assert sorted(step()) == sorted(step())
    assert device.calls == calls and allocator._misses == misses, "not answered from the quick lists"


def test_the_best_fit_is_cut_and_merged_again(allocator: Allocator) -> None:
    a, b, c = (allocator.allocate(n * MIB) for n in (6, 8, 6))
    assert len(allocator.snapshot()) == 1
    del b
    d = allocator.allocate(7 * MIB)
    assert states(allocator) == [
        [(6 * MIB, "active_allocated"), (7 * MIB, "active_allocated"), (MIB, "inactive"), (6 * MIB, "active_allocated")]
    ]
    del a, d
    e = allocator.allocate(14 * MIB)  # 6 + 7 + 1, merged
    assert len(allocator.snapshot()) == 1 and e.ptr == allocator.snapshot()[0]["address"]
    del c, e
    assert states(allocator) == [[(20 * MIB, "inactive")]]


def test_a_stream_gets_no_memory_of_another(allocator: Allocator) -> None:
    first = allocator.allocate(3000, 7)
    where = first.ptr
    del first
    assert allocator.allocate(3000, 8).ptr != where
    assert allocator.allocate(3000, 7).ptr == where


def test_no_bytes_are_no_memory(allocator: Allocator, device: FakeDevice) -> None:
    block = allocator.allocate(0, 7)
    assert (block.ptr, block.nbytes, block.size) == (0, 0, 0)
    allocator.record_stream(block, 8)
    del block
    assert device.calls == 0 and allocator.stats()["allocation.all.allocated"] == 0
    with pytest.raises(ArgumentError, match=r"allocate: got -1 bytes: expected 0 or more"):
        allocator.allocate(-1)


def test_a_block_is_freed_once(allocator: Allocator) -> None:
    block = allocator.allocate(3000)
    where = block.ptr
    assert repr(block) == f"<Block of 3000 bytes at {where:#x}>"
    block.free()
    assert (block.ptr, block.nbytes) == (0, 0)
    other = allocator.allocate(3000)
    block.free()
    del block
    assert other.ptr == where and allocator.allocate(3000).ptr != where
    assert allocator.allocated == 3072


# -- other streams
def test_record_stream_waits_for_what_the_stream_was_given(allocator: Allocator, device: FakeDevice) -> None:
    block = allocator.allocate(3000, 7)
    where = block.ptr
    allocator.record_stream(block, 8)
    allocator.record_stream(block, 7)
    device.work(8)
    del block
    assert states(allocator)[0][0] == (3072, "active_pending_free")
    stats = allocator.stats()
    assert stats["allocated_bytes.all.current"] == 0 and stats["active_bytes.all.current"] == 3072
    assert stats["active_bytes.all.peak"] == 3072
    assert allocator.allocate(3000, 7).ptr != where
    device.work(8)  # after the free: not waited for
    device.finish(8, 1)
    got = [allocator.allocate(3000, 7) for _ in range(2)]
    assert where in {block.ptr for block in got}
    del got
    assert len(device.events) == 1, "an event that is done is used again"


def test_every_stream_is_waited_for(allocator: Allocator, device: FakeDevice) -> None:
    block = allocator.allocate(3000, 7)
    where = block.ptr
    for stream in (8, 9):
        allocator.record_stream(block, stream)
        device.work(stream)
    del block
    device.finish(9)
    assert allocator.allocate(3000, 7).ptr != where
    device.finish(8)
    kept = [allocator.allocate(3000, 7) for _ in range(2)]
    assert where in {block.ptr for block in kept}


def test_a_stream_that_is_gone_holds_nothing_back(allocator: Allocator, device: FakeDevice) -> None:
    block = allocator.allocate(3000, 7)
    where = block.ptr
    allocator.record_stream(block, 8)
    device.gone.add(8)
    del block
    assert allocator.allocate(3000, 7).ptr == where  # after the whole device was waited for
    assert allocator.stats()["active.all.current"] == 0


def test_out_of_memory_waits_for_other_streams(allocator: Allocator, device: FakeDevice) -> None:
    device.capacity = 64 * MIB
    block = allocator.allocate(40 * MIB, 7)
    allocator.record_stream(block, 8)
    device.work(8)
    del block
    assert allocator.allocate(40 * MIB, 7).nbytes == 40 * MIB
    assert device.done[8] == 1 and allocator.stats()["num_sync_all_streams"] == 1


# -- out of memory
def test_cached_memory_is_given_back_as_far_as_needed(allocator: Allocator, device: FakeDevice) -> None:
    device.capacity = 100 * MIB
    blocks = [allocator.allocate(30 * MIB, stream) for stream in (7, 8, 9)]
    del blocks
    kept = allocator.allocate(30 * MIB, 0)
    stats = allocator.stats()
    assert (stats["num_alloc_retries"], stats["num_ooms"], stats["num_device_free"]) == (1, 0, 1)
    del kept
    assert allocator.allocate(90 * MIB, 0).nbytes == 90 * MIB
    assert len(device.segments) == 1


def test_the_text_of_an_out_of_memory_error(device: FakeDevice) -> None:
    allocator = Allocator(device, index=3, config=Config())
    device.capacity, device.others = 256 * MIB, 96 * MIB
    kept = [allocator.allocate(30 * MIB) for _ in range(4)] + [allocator.allocate(100) for _ in range(3)]
    kept.pop(1)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.allocate(80 * MIB)
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, MemoryError)
    assert str(caught.value) == (
        "CUDA out of memory. Tried to allocate 80.00 MiB. GPU 3 has a total capacity of 256.00 MiB of which 68.00 MiB "
        "is free. This process has 92.00 MiB: 90.00 MiB allocated, 2.00 MiB cached (largest free block 2.00 MiB; "
        "usable for this request 0 bytes). Other processes, and what else this process loads, have 96.00 MiB. Most "
        "of what is allocated: 3 x 30.00 MiB = 90.00 MiB, 3 x 100 bytes = 300 bytes. To try: nvidia-smi, which shows "
        "the other processes; a smaller batch, with gradients accumulated over several; del of tensors that are not "
        "needed any more (of a loss keep loss.item(), not its graph); utils.checkpoint for activations; autocast to "
        "bfloat16."
    )
    # nothing is lost
    assert allocator.allocate(30 * MIB).nbytes == 30 * MIB
    assert allocator.stats()["num_ooms"] == 1
    del kept


def test_an_out_of_memory_error_says_when_memory_is_in_pieces(device: FakeDevice) -> None:
    device.capacity, device.kind = 80 * MIB, "hip"
    allocator = Allocator(device, config=Config())
    blocks = [allocator.allocate(2 * MIB) for _ in range(40)]
    del blocks[::2]
    text = (
        r"^HIP out of memory. Tried .*: 40.00 MiB allocated, 40.00 MiB cached "
        r"\(largest free block 2.00 MiB; usable for this request 2.00 MiB\).*fragmentation"
    )
    with pytest.raises(OutOfMemoryError, match=text):
        allocator.allocate(3 * MIB)


def test_a_limit(allocator: Allocator, device: FakeDevice) -> None:
    assert allocator.fraction == 1
    allocator.set_limit(0.125)
    kept = allocator.allocate(100 * MIB)
    with pytest.raises(OutOfMemoryError, match=r"may reserve 128.00 MiB.*To try: a larger limit, by set_per_process"):
        allocator.allocate(30 * MIB)
    allocator.set_limit_bytes(200 * MIB)
    assert allocator.fraction == 200 / 1024
    assert allocator.allocate(30 * MIB).nbytes == 30 * MIB
    allocator.set_limit_bytes(None)
    assert allocator.fraction == 1
    for wrong in (-0.1, 1.5):
        with pytest.raises(ArgumentError, match="expected a fraction from 0 to 1"):
            allocator.set_limit(wrong)
    with pytest.raises(ArgumentError, match="expected 0 or more, or None"):
        allocator.set_limit_bytes(-1)
    del kept


# -- configuration
def test_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORLIB_ALLOC_CONF", " max_split_size_mb:64, garbage_collection_threshold: 0.8,")
    monkeypatch.setenv("TENSORLIB_NO_MEMORY_CACHING", "1")
    assert Config.from_environment() == Config(64 * MIB, 0.8, False)
    assert Config.parse("") == Config()
    for wrong in (
        "max_split_size_mb:20",
        "max_split_size_mb:x",
        "garbage_collection_threshold:1",
        "backend:native",
        "x",
    ):
        with pytest.raises(
            ArgumentError, match=rf"TENSORLIB_ALLOC_CONF: got '{wrong}': expected max_split_size_mb:<num"
        ):
            Config.parse(wrong)
    with pytest.raises(ArgumentError, match=r"got 'expandable_segments:True'.*segments never grow here, leave it out"):
        Config.parse("expandable_segments:True")


def test_large_chunks_stay_whole(device: FakeDevice) -> None:
    allocator = Allocator(device, config=Config(max_split_size=30 * MIB))
    allocator.allocate(100 * MIB).free()
    small = allocator.allocate(25 * MIB)
    assert len(device.segments) == 2, "the large one was cut"
    assert allocator.allocate(85 * MIB).size == 100 * MIB  # within 20 MiB: given whole
    assert allocator.allocate(70 * MIB).size == 70 * MIB
    stats = allocator.stats()
    assert stats["oversize_allocations.allocated"] == 3 and stats["oversize_allocations.current"] == 0
    assert stats["oversize_segments.current"] == 2 and stats["max_split_size"] == 30 * MIB
    del small


def test_idle_segments_are_collected_beyond_the_threshold(device: FakeDevice) -> None:
    device.capacity = 100 * MIB
    allocator = Allocator(device, config=Config(garbage_collection_threshold=0.5))
    for megabytes in (30, 32, 34, 36):
        allocator.allocate(megabytes * MIB).free()
    assert allocator.reserved <= 50 * MIB and allocator.stats()["num_alloc_retries"] == 0


def test_without_a_cache_the_driver_has_every_block(device: FakeDevice) -> None:
    allocator = Allocator(device, config=Config(caching=False))
    blocks = [allocator.allocate(n) for n in (100, 3000, 5 * MIB)]
    assert sorted(device.segments.values()) == [512, 3072, 5 * MIB]
    allocator.record_stream(blocks[0], 8)
    del blocks[0]
    assert sorted(device.segments.values()) == [3072, 5 * MIB]
    assert (
        allocator.stats()["segment.all.current"] == 2
        and allocator.stats()["active_bytes.all.current"] == 5 * MIB + 3072
    )
    del blocks
    assert not device.segments and not allocator.snapshot()


# -- graphs
def test_a_private_pool(allocator: Allocator, device: FakeDevice) -> None:
    outside = [allocator.allocate(3000, 7) for _ in range(3)]
    first_hit = outside.pop().ptr  # the next request of this size is a hit
    allocator.begin_pool((0, 1), lambda stream: stream == 7)
    device.capturing = True
    first = allocator.allocate(3000, 7)
    where = first.ptr
    assert where != first_hit
    del first
    assert allocator.allocate(3000, 7).ptr == where, "freed within the capture: its next node may have it"
    device.capturing = False  # the other stream is another thread's, which captures nothing
    other = allocator.allocate(3000, 8)
    device.capturing = True
    allocator.empty_cache()  # nothing happens
    device.capturing = False
    allocator.end_pool((0, 1))
    pools = {segment["segment_pool_id"]: segment["stream"] for segment in allocator.snapshot()}
    assert pools == {(0, 0): 8, (0, 1): 7}
    assert allocator.allocate(3000, 7).ptr != where, "the graph's replays write there"
    allocator.empty_cache()
    assert any(segment["address"] == where for segment in allocator.snapshot())
    allocator.release_pool((0, 1))
    allocator.empty_cache()
    assert not any(segment["address"] == where for segment in allocator.snapshot())
    with pytest.raises(ArgumentError, match="expected a pool in use"):
        allocator.release_pool((0, 1))
    with pytest.raises(ArgumentError, match="expected a pool that begin_pool began"):
        allocator.end_pool((0, 1))
    del outside, other


def test_a_pool_of_two_graphs(allocator: Allocator) -> None:
    for _ in range(2):
        allocator.begin_pool("shared")
        kept = allocator.allocate(3000, 7)
        allocator.end_pool("shared")
    assert len(allocator.snapshot()) == 1, "the second takes what the first has freed"
    del kept
    allocator.release_pool("shared")
    allocator.empty_cache()
    assert len(allocator.snapshot()) == 1
    allocator.release_pool("shared")
    allocator.empty_cache()
    assert not allocator.snapshot()


def test_what_other_streams_use_waits_for_the_end_of_a_capture(allocator: Allocator, device: FakeDevice) -> None:
    block = allocator.allocate(3000, 7)
    where = block.ptr
    allocator.record_stream(block, 8)
    device.work(8)
    allocator.begin_pool("graph", lambda stream: stream == 9)
    device.capturing = True
    del block
    assert not device.events
    device.finish(8)
    kept = allocator.allocate(3000, 9)
    with pytest.raises(OutOfMemoryError, match=r"To try: empty_cache\(\) before the capture"):
        allocator.allocate(2 << 30, 9)
    device.capturing = False
    allocator.end_pool("graph")
    assert allocator.allocate(3000, 7).ptr == where
    del kept


# -- statistics
def test_statistics_have_pytorchs_names(allocator: Allocator) -> None:
    names = set(allocator.stats())
    groups = ("allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes", "active_bytes",
              "inactive_split_bytes", "requested_bytes")  # fmt: skip
    expected = {
        f"{group}.{part}.{figure}"
        for group in groups
        for part in ("all", "large_pool", "small_pool")
        for figure in ("current", "peak", "allocated", "freed")
    }
    expected |= {
        f"{group}.{figure}"
        for group in ("oversize_allocations", "oversize_segments")
        for figure in ("current", "peak", "allocated", "freed")
    }
    expected |= {"num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free"}
    assert names == expected | {"max_split_size"}
    assert list(allocator.stats()) == sorted(names) and allocator.stats()["max_split_size"] == -1


def test_peaks(allocator: Allocator) -> None:
    for megabytes in (3, 50, 7):
        allocator.allocate(megabytes * MIB).free()
    assert (allocator.allocated, allocator.max_allocated) == (0, 50 * MIB)
    assert (allocator.reserved, allocator.max_reserved) == (70 * MIB, 70 * MIB)
    allocator.reset_peak()
    allocator.empty_cache()
    assert (allocator.max_allocated, allocator.reserved, allocator.max_reserved) == (0, 0, 70 * MIB)


def test_the_summary_is_a_table(allocator: Allocator) -> None:
    kept = allocator.allocate(3 * MIB)
    lines = allocator.summary().splitlines()
    assert len({len(line) for line in lines}) == 1
    row = next(line for line in lines if line.startswith("| Reserved memory"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["20.00 MiB", "20.00 MiB", "20.00 MiB", "0 bytes"]
    assert len(allocator.summary(abbreviated=True)) < len(allocator.summary())
    del kept


def test_the_snapshot_has_pytorchs_layout(allocator: Allocator) -> None:
    kept = allocator.allocate(1000, 7)
    (segment,) = allocator.snapshot()
    rest = {"address": kept.ptr + 1024, "size": 2 * MIB - 1024, "requested_size": 0, "state": "inactive", "frames": []}
    assert segment == {
        "device": 0, "address": kept.ptr, "total_size": 2 * MIB, "allocated_size": 1024, "active_size": 1024,
        "requested_size": 1000, "stream": 7, "segment_type": "small", "segment_pool_id": (0, 0), "is_expandable": False,
        "frames": [],
        "blocks": [
            {"address": kept.ptr, "size": 1024, "requested_size": 1000, "state": "active_allocated", "frames": []},
            rest,
        ],
    }  # fmt: skip


def test_the_picture_of_a_snapshot(allocator: Allocator) -> None:
    assert memory_report.picture([])[:8] == b"\x89PNG\r\n\x1a\n"
    blocks = [allocator.allocate(5 * MIB, 7) for _ in range(4)]
    allocator.record_stream(blocks[1], 8)
    del blocks[1:3]  # in use, waiting, free, in use: a quarter each
    file = memory_report.picture(allocator.snapshot())
    width, height = struct.unpack(">II", file[16:24])
    pixels = zlib.decompress(file[41:-16])  # after the signature and IHDR; before the CRC and IEND
    image = np.frombuffer(pixels, np.uint8).reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)
    row = next(row for row in image if (row[30] == (74, 128, 189)).all() and (row[700] == (222, 227, 234)).all())
    shown = [tuple(row[20 + round(1160 * place)].tolist()) for place in (0.1, 0.4, 0.6, 0.9)]
    assert shown == [(74, 128, 189), (222, 164, 60), (222, 227, 234), (74, 128, 189)]


# -- threads, the collector, processes
@pytest.mark.parametrize("caching_on", [True, False])
def test_threads_and_the_collector(caching_on: bool) -> None:
    device = FakeDevice(1 << 40)
    allocator = Allocator(device, config=Config(caching=caching_on))
    owners: dict[int, int] = {}
    problems: list[str] = []

    def work(seed: int) -> None:
        chance, held = random.Random(seed), []
        try:
            for step in range(300):
                block = allocator.allocate(chance.choice([100, 100, 3000, 70_000, 3 * MIB, step * 512]) or 1)
                if owners.setdefault(block.ptr, seed) != seed:
                    problems.append(f"{block.ptr:#x} was given to {seed} and {owners[block.ptr]}")
                held.append(block)
                del block
                if chance.random() < 0.3:
                    allocator.record_stream(held[-1], seed)
                if step % 50 == 0:
                    allocator.stats()
                if len(held) > 8:
                    gone: list[Any] = [held.pop(chance.randrange(len(held)))]
                    del owners[gone[0].ptr]
                    gone.append(gone)  # the collector of cycles frees it, at any point of any thread
            for block in held:
                del owners[block.ptr]
        except BaseException as error:
            problems.append(repr(error))

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(10, 10, 1000)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
    gc.collect()
    assert not problems
    stats = allocator.stats()
    assert stats["allocation.all.allocated"] == stats["allocation.all.freed"] == 1200
    assert stats["allocated_bytes.all.current"] == stats["requested_bytes.all.current"] == 0
    allocator.empty_cache()
    assert not device.segments and allocator.stats()["active_bytes.all.current"] == 0


class Interrupt(BaseException):
    """Stands for a KeyboardInterrupt."""


@pytest.mark.parametrize("capacity", [48 * MIB, 80 * MIB])
def test_an_interrupt_at_any_line_hands_nothing_out_twice(capacity: int) -> None:
    sizes = [3 * MIB, 100, 5 * MIB, 3000, 4 * MIB, 12 * MIB, 3000]
    files = {caching.__file__, memory_blocks.__file__}

    def interrupted(allocator: Allocator, line: int) -> tuple[list[Block], int]:
        """Blocks in use after allocations of which one was interrupted at a line, and the lines still to go."""
        left, live = line, []

        def trace(frame: Any, what: str, _: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in files or frame.f_code.co_name == "__del__":
                return None
            left -= what == "line"
            if not left:
                raise Interrupt
            return trace

        for turn in range(3):
            for number, size in enumerate(sizes):
                before = sys.gettrace()
                sys.settrace(trace)
                try:
                    block = allocator.allocate(size + 512 * turn, 0)
                except (Interrupt, OutOfMemoryError):  # the latter where the segment in hand was lost
                    continue
                finally:
                    sys.settrace(before)
                live.append(block)
                del block
                if number % 2:
                    allocator.record_stream(live[0], 7)
                    del live[0]
        return live, left

    line, left = 1, 0
    while left <= 0:
        device = FakeDevice(capacity)
        allocator = Allocator(device, config=Config())
        live, left = interrupted(allocator, line)
        for size in sizes:
            with contextlib.suppress(OutOfMemoryError):
                live.append(allocator.allocate(size, 0))
        places = sorted((block.ptr, block.ptr + block.size) for block in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places)), line
        assert all(device.holds(block.ptr, block.size) for block in live), line
        del live
        allocator.empty_cache()
        assert allocator.allocated <= 13 * MIB, line  # the chunk in hand, at most
        assert allocator.allocate(20 * MIB, 0).nbytes == 20 * MIB, line
        line += 2


def test_a_forked_child_and_the_end_of_the_process_call_no_driver() -> None:
    script = """
import os, sys
sys.path.insert(0, sys.argv[1])
from fake_device import FakeDevice
from tensorlib.errors import DeviceError
from tensorlib.runtime.caching import Allocator, Config
device = FakeDevice()
for config in (Config(), Config(caching=False)):
    allocator = Allocator(device, config=config)
    block, shared = allocator.allocate(3000), allocator.allocate(3000)
    allocator.record_stream(shared, 7)
    allocator.allocate(5000).free()
    calls = device.calls
    if not (child := os.fork()):
        del block, shared
        refused = 0
        for ask in (lambda: allocator.allocate(5000), allocator.empty_cache):
            try:
                ask()
            except DeviceError as error:
                refused += "Cannot re-initialize CUDA in forked subprocess" in str(error)
        os._exit(7 if refused == 2 and device.calls == calls else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert allocator.allocate(5000) is not None
allocator = Allocator(device, config=Config())
late = allocator.allocate(3000), allocator.allocate(0)
allocator.record_stream(late[0], 7)
class Loud(FakeDevice):
    def __getattribute__(self, name):
        if name in ("event_create", "event_record", "free"):
            print("called", name)
        return super().__getattribute__(name)
device.__class__ = Loud
print("fine")
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("fine\n", "")
