"""Pinned host memory over a device in Python."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tensorlib.errors import ArgumentError, OutOfMemoryError
from tensorlib.runtime import pinned
from tensorlib.runtime.pinned import Pinned

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


class Machine(RuleBasedStateMachine):
    """Arrays come and go, and streams copy from and to them."""

    arrays = Bundle("arrays")

    def __init__(self) -> None:
        super().__init__()
        self.devices = FakeDevice(), FakeDevice()  # the second only copies
        self.pinned = Pinned(self.devices[0])
        self.live: dict[
            int, tuple[int, dict[tuple[int, int], int]]
        ] = {}  # address -> bytes; (device, stream) -> pieces
        self.busy: list[tuple[int, int, int, int, int]] = []

    @rule(target=arrays, nbytes=st.sampled_from([1, 512, 513, 4000, 4096, 70_000, MIB, MIB + 1, 5 * MIB, 40 * MIB]))
    def allocate(self, nbytes: int) -> list[np.ndarray] | None:
        try:
            array = self.pinned.allocate(nbytes)
        except OutOfMemoryError:
            return None
        assert array.dtype == np.uint8 and array.shape == (nbytes,) and array.flags.writeable
        start, end = array.ctypes.data, array.ctypes.data + nbytes
        assert start % 512 == 0
        assert any(at <= start and end <= at + slab.nbytes for at, slab in self.devices[0].host.items())
        assert not any(start < at + size and at < end for at, (size, _) in self.live.items()), "two live arrays"
        for first, last, number, stream, pieces in self.busy:
            if start < last and first < end:
                assert self.devices[number].done.get(stream, 0) >= pieces, "a copy is still going on"
        assert pinned.is_pinned(array) and pinned.is_pinned(array[::2])
        self.live[start] = nbytes, {}
        return [array]

    @rule(holder=arrays, number=st.sampled_from([0, 0, 1]), stream=st.sampled_from([0, 7]), part=st.booleans())
    def copy(self, holder: list[np.ndarray] | None, number: int, stream: int, part: bool) -> None:
        if holder:
            array, device = holder[0], self.devices[number]
            self.live[array.ctypes.data][1][number, stream] = device.work(stream)
            pinned.record(array[len(array) // 2 :] if part else array, stream, device)

    @rule(holder=consumes(arrays), through_view=st.booleans())
    def free(self, holder: list[np.ndarray] | None, through_view: bool) -> None:
        if holder:
            array = holder.pop()
            start = array.ctypes.data
            if through_view:  # what keeps the memory is the base of every view
                view = array.reshape(-1, 1)[:1].view(np.int8)
                del array
                assert pinned.is_pinned(view)
                del view
            else:
                del array
            size, copies = self.live.pop(start)
            self.busy += [(start, start + size, *where, pieces) for where, pieces in copies.items()]

    @rule(number=st.sampled_from([0, 1]), stream=st.sampled_from([0, 7]))
    def finish(self, number: int, stream: int) -> None:
        self.devices[number].finish(stream, 1)

    @rule()
    def empty_cache(self) -> None:
        self.pinned.empty_cache()
        if not self.live:
            assert not self.devices[0].host

    @invariant()
    def recount(self) -> None:
        stats = self.pinned.stats()
        held = self.devices[0].host
        assert stats["allocations.current"] == len(held) == stats["num_host_alloc"] - stats["num_host_free"]
        assert stats["allocated_bytes.current"] == sum(slab.nbytes for slab in held.values())
        assert stats["active_requests.current"] >= len(self.live)
        assert stats["active_bytes.current"] >= sum(max(512, 1 << (n - 1).bit_length()) for n, _ in self.live.values())

    def teardown(self) -> None:
        assert self.pinned.stats()["active_requests.current"] >= len(self.live)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, derandomize=True, deadline=None)
TestModel = Machine.TestCase


def test_the_base_keeps_the_memory(device: FakeDevice) -> None:
    memory = Pinned(device)
    array = memory.allocate(1000)
    where = array.ctypes.data
    floats = array[:800].view(np.float64).reshape(10, 10).T
    del array
    gc.collect()
    assert memory.allocate(1000).ctypes.data != where, "the view still needs it"
    floats[:] = 3
    assert floats.sum() == 300
    del floats
    assert memory.allocate(1000).ctypes.data == where


def test_is_pinned_knows_pinned_memory_from_any_other(device: FakeDevice) -> None:
    memory = Pinned(device)
    array = memory.allocate(4096)
    assert pinned.is_pinned(array) and pinned.is_pinned(array[10:20].view(np.int16))
    assert not pinned.is_pinned(np.empty(4096, np.uint8)) and not pinned.is_pinned(memory.allocate(0))
    pinned.record(np.empty(4, np.uint8), 0, device)  # passed over
    assert not device.events


def test_an_event_is_used_again_for_each_copy_of_a_stream(device: FakeDevice) -> None:
    memory = Pinned(device)
    for _ in range(5):
        array = memory.allocate(2 * MIB)
        for _ in range(3):
            device.work(7)
            memory.record(array, 7)
        del array
        device.finish(7)
    assert len(device.events) == 1 and len(device.host) == 1


def test_a_piece_waits_for_the_last_copy_of_every_stream(device: FakeDevice) -> None:
    memory = Pinned(device)
    array = memory.allocate(2 * MIB)
    where = array.ctypes.data
    for stream in (7, 8):
        device.work(stream)
        memory.record(array, stream)
    del array
    device.finish(7)
    other = memory.allocate(2 * MIB)
    assert other.ctypes.data != where
    assert memory.stats()["active_requests.current"] == 2
    device.finish(8)
    assert memory.stats()["active_requests.current"] == 1
    assert memory.allocate(2 * MIB).ctypes.data == where


def test_small_pieces_share_a_slab(device: FakeDevice) -> None:
    memory = Pinned(device)
    arrays = [memory.allocate(4) for _ in range(2048)]
    assert len(device.host) == 1 and len({array.ctypes.data for array in arrays}) == 2048
    arrays.append(memory.allocate(4))
    assert len(device.host) == 2
    kept = arrays[5]
    arrays.clear()
    memory.empty_cache()
    assert len(device.host) == 1 and pinned.is_pinned(kept)


def test_memory_that_cannot_be_locked(device: FakeDevice) -> None:
    memory = Pinned(device)
    device.host_capacity = 8 * MIB
    array = memory.allocate(5 * MIB)
    with pytest.raises(OutOfMemoryError, match=r"^CUDA out of pinned host memory. Tried to lock 4.00 MiB. This process "
                       r"has 8.00 MiB pinned, of which 8.00 MiB is in use. To try: .*pin_memory=False"):  # fmt: skip
        memory.allocate(4 * MIB)
    del array
    assert memory.allocate(4 * MIB).nbytes == 4 * MIB  # the cached 8 MiB were given back for it
    with pytest.raises(ArgumentError, match="got -1 bytes"):
        memory.allocate(-1)


def test_statistics_have_pytorchs_names(device: FakeDevice) -> None:
    memory = Pinned(device)
    a, b = memory.allocate(3 * MIB), memory.allocate(100)
    del a
    stats = memory.stats()
    assert stats["active_bytes.current"] == 512 and stats["active_bytes.peak"] == 4 * MIB + 512
    assert stats["active_bytes.allocated"] == 4 * MIB + 512 and stats["active_bytes.freed"] == 4 * MIB
    assert stats["allocated_bytes.current"] == 5 * MIB and stats["allocations.current"] == 2
    assert stats["host_alloc_time.count"] == stats["num_host_alloc"] == 2
    assert stats["host_alloc_time.min"] <= stats["host_alloc_time.avg"] <= stats["host_alloc_time.max"]
    memory.reset_peak()
    memory.reset_accumulated()
    stats = memory.stats()
    assert stats["active_bytes.peak"] == 512 and stats["num_host_alloc"] == stats["host_alloc_time.count"] == 0
    del b


def test_within_a_capture_calls_are_relaxed(device: FakeDevice) -> None:
    memory = Pinned(device)
    array = memory.allocate(2 * MIB)
    device.work(7)
    memory.record(array, 7)
    del array
    device.capturing = True
    assert memory.allocate(2 * MIB) is not None  # asks the event, which the device asserts to be in relaxed mode
    assert device.mode == "global"


def test_threads_and_the_collector(device: FakeDevice) -> None:
    memory, problems = Pinned(device), []

    def work(seed: int) -> None:
        chance, held = random.Random(seed), []
        for step in range(400):
            array = memory.allocate(chance.choice([100, 100, 3000, 70_000]))
            array[:] = seed
            held.append(array)
            if chance.random() < 0.3:
                memory.record(array, seed)
            if len(held) > 8:
                gone: list[Any] = [held.pop(chance.randrange(len(held)))]
                if not (gone[0] == seed).all():
                    problems.append((seed, step))
                gone.append(gone)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(20)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
    gc.collect()
    assert not problems
    memory.empty_cache()
    assert memory.stats()["active_requests.current"] == 0 and not device.host


def test_a_forked_child_and_the_end_of_the_process_call_no_driver() -> None:
    script = """
import os, sys
sys.path.insert(0, sys.argv[1])
from fake_device import FakeDevice
from tensorlib.errors import DeviceError
from tensorlib.runtime import pinned
device = FakeDevice()
memory = pinned.Pinned(device)
array, waiting = memory.allocate(4096), memory.allocate(4096)
memory.record(waiting, 7)
calls = device.calls
if not (child := os.fork()):
    was = pinned.is_pinned(array)
    del array, waiting
    try:
        memory.allocate(4096)
    except DeviceError as error:
        os._exit(7 if "'spawn' start method" in str(error) and device.calls == calls and not was else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert memory.allocate(4096) is not None
print("fine")
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("fine\n", "")
