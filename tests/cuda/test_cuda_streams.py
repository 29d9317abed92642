"""Streams and events: what waits for what, on a driver that runs nothing before somebody waits for it."""

from __future__ import annotations

import threading

import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib.errors import ArgumentError, DeviceError


def test_work_goes_to_the_current_stream(sim: Simulation) -> None:
    side = tl.cuda.Stream()
    assert tl.cuda.current_stream() == tl.cuda.default_stream() != side and side.cuda_stream
    x = tl.arange(4.0, device="cuda")
    side.wait_stream(tl.cuda.current_stream())
    with tl.cuda.stream(side):
        assert tl.cuda.current_stream() == side
        y = x * 2
        with tl.cuda.stream(None):
            assert tl.cuda.current_stream() == side
    assert tl.cuda.current_stream().cuda_stream == 0
    tl.cuda.current_stream().wait_stream(side)
    y.record_stream(tl.cuda.current_stream())
    assert (y + 1).tolist() == [1.0, 3.0, 5.0, 7.0]
    with side:
        assert tl.cuda.current_stream() == side
    tl.cuda.set_stream(side)
    assert tl.cuda.current_stream() == side
    tl.cuda.set_stream(tl.cuda.default_stream())


def test_a_stream_of_another_device(sim: Simulation) -> None:
    there = tl.cuda.Stream("cuda:1")
    with tl.cuda.stream(there):
        assert tl.cuda.current_device() == 1 and tl.ones(1, device="cuda").get_device() == 1
        assert tl.cuda.current_stream() == there and tl.cuda.current_stream(0) == tl.cuda.default_stream(0)
    assert tl.cuda.current_device() == 0 and tl.cuda.current_stream(1) == tl.cuda.default_stream("cuda:1")
    event = there.record_event()
    tl.cuda.current_stream().wait_event(event)  # of another device: may be waited for, not recorded
    with pytest.raises(DeviceError, match="expected one device"):
        event.record(tl.cuda.Stream(0))
    with pytest.raises(ValueError, match="Expected a cuda device"):
        tl.cuda.Stream("cpu")


def test_without_waiting_the_rule_is_broken(nvidia: Simulation) -> None:
    """What the tests above rely on: memory that another stream still writes is noticed."""
    x = tl.zeros(4, device="cuda")
    tl.cuda.synchronize()
    side = tl.cuda.Stream()
    with tl.cuda.stream(side):
        x += 1
    assert x.tolist() != [1.0] * 4  # read by the default stream, which waits for nobody
    tl.cuda.synchronize()
    assert x.tolist() == [1.0] * 4


def test_queries_and_events(sim: Simulation) -> None:
    sim.options(patience=1)
    side = tl.cuda.Stream(priority=-1)
    least, greatest = tl.cuda.Stream.priority_range()
    assert least >= 0 and greatest <= -1 and side.priority == -1 and tl.cuda.Stream(priority=-99).priority == greatest
    start, end = tl.cuda.Event(enable_timing=True), tl.cuda.Event(enable_timing=True, blocking=True)
    assert start.query() and start.cuda_event == 0 and "uninitialized" in repr(start) and start.device is None
    with pytest.raises(ArgumentError, match="must be recorded"):
        start.elapsed_time(end)
    with tl.cuda.stream(side):
        start.record()
        x = tl.ones(1000, device="cuda") * 3
        end.record()
    assert not side.query() and not end.query() and start.device == tl.device("cuda:0")
    end.synchronize()
    assert end.query() and side.query() and start.elapsed_time(end) >= 0
    with pytest.raises(ArgumentError, match="enable_timing"):
        start.elapsed_time(tl.cuda.Event())
    side.synchronize()
    assert x.sum().item() == 3000 and f"{end.cuda_event:#x}" in repr(end)
    for option in ("interprocess", "external"):
        with pytest.raises(ArgumentError, match=f"{option}=True: expected False"):
            tl.cuda.Event(**{option: True})


def test_streams_are_given_out_in_turn(sim: Simulation) -> None:
    made = [tl.cuda.Stream() for _ in range(34)]
    assert len(set(made[:32])) == 32 and made[32] == made[0] and made[33] == made[1]
    assert hash(made[32]) == hash(made[0]) and made[0] != tl.cuda.Stream("cuda:1") and made[0] != 3


def test_each_thread_has_its_own_stream(sim: Simulation) -> None:
    side, found = tl.cuda.Stream(), []
    tl.cuda.set_stream(side)

    def other() -> None:
        found.append(tl.cuda.current_stream().cuda_stream)
        with tl.cuda.stream(side):
            found.append(tl.ones(3, device="cuda").sum().item())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [0, 3.0] and tl.cuda.current_stream() == side
    tl.cuda.set_stream(tl.cuda.default_stream())


def test_another_librarys_stream(sim: Simulation) -> None:
    mine = tl.cuda.Stream()
    theirs = tl.cuda.ExternalStream(mine.cuda_stream)
    assert theirs == mine and tl.cuda.get_stream_from_external(mine.cuda_stream, 0) == mine
    assert mine.__cuda_stream__() == (0, mine.cuda_stream) and mine._as_parameter_.value == mine.cuda_stream
    with tl.cuda.stream(theirs):
        assert tl.ones(2, device="cuda").sum().item() == 2
    assert tl.cuda.Stream(stream_id=mine.stream_id, device_index=0, device_type=1) == mine


def test_generic_streams_and_accelerator(sim: Simulation) -> None:
    stream, event = tl.Stream(), tl.Event(enable_timing=True)
    assert isinstance(tl.cuda.Stream(), tl.Stream) and isinstance(tl.cuda.Event(), tl.Event)
    assert stream.device == tl.device("cuda:0") and stream.device_index == 0 and stream.native_handle
    with stream:
        assert tl.accelerator.current_stream() == tl.cuda.current_stream() and not stream.is_capturing()
        event.record()
    event.synchronize()
    tl.accelerator.set_stream(stream)
    assert tl.cuda.current_stream().stream_id == stream.stream_id
    tl.accelerator.set_stream(tl.cuda.default_stream())
    assert tl.accelerator.current_accelerator() == tl.device("cuda") and tl.accelerator.device_count() == 2
    with tl.accelerator.device_index(1):
        assert tl.accelerator.current_device_index() == 1
    with pytest.warns(FutureWarning, match="current_device_index"):
        assert tl.accelerator.current_device_idx() == 0
    tl.accelerator.set_device_index(0)
    assert tl.float32 in tl.accelerator.get_device_capability()["supported_dtypes"]
    assert tl.accelerator.get_memory_info()[1] == 1 << 30
    x = tl.ones(1000, device="cuda")
    assert tl.accelerator.memory_allocated() >= 4000 <= tl.accelerator.max_memory_reserved()
    tl.accelerator.synchronize()
    assert x.sum().item() == 1000


def test_streams_of_the_cpu() -> None:
    stream, event = tl.Stream("cpu"), tl.Event("cpu")
    event.record(stream)
    stream.wait_event(event)
    stream.wait_stream(tl.Stream(device="cpu"))
    stream.synchronize()
    with stream:
        assert stream.query() and event.query() and stream.device_index == -1 and event.device == tl.device("cpu")


def test_waiting_is_noticed_where_that_is_asked_for(nvidia: Simulation) -> None:
    x, pinned = tl.ones(3, device="cuda"), tl.ones(3).pin_memory()
    tl.cuda.set_sync_debug_mode("warn")
    assert tl.cuda.get_sync_debug_mode() == 1
    with pytest.warns(UserWarning, match="called a synchronizing CUDA operation: reading"):
        assert x.tolist() == [1.0] * 3
    with pytest.warns(UserWarning, match="writing to the GPU from memory that is not pinned"):
        tl.ones(1 << 19).cuda()
    assert tl.ones(3).cuda().device.type == "cuda"  # what is small goes through memory that is
    tl.cuda.set_sync_debug_mode(2)
    x.copy_(pinned.fill_(2), non_blocking=True)
    tl.cuda.synchronize()
    for act in (x.tolist, lambda: x.copy_(pinned), lambda: pinned.copy_(x)):
        with pytest.raises(DeviceError, match="called a synchronizing CUDA operation"):
            act()
    tl.cuda.set_sync_debug_mode("default")
    assert x.tolist() == [2.0] * 3
    with pytest.raises(RuntimeError, match="invalid value of debug_mode"):
        tl.cuda.set_sync_debug_mode("loud")


def test_the_cpus_own_module() -> None:
    assert tl.cpu.is_available() and tl.cpu.device_count() == 1 and tl.cpu.current_device() == "cpu"
    with tl.cpu.stream(tl.cpu.Stream()):
        tl.cpu.current_stream().wait_stream(tl.cpu.Stream())
    tl.cpu.synchronize()
    assert tl.cpu.Event().query() and tl.cpu.is_initialized() and tl.cpu.set_device("cpu") is None
