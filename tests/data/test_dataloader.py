"""The DataLoader: order, workers, errors, the end of processes, and resuming in the middle of an epoch."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as T
from tensorlib.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    StackDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)
from tensorlib.utils.data.worker import parent_ends

# More workers than processors is what a test wants on a small machine.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and fork")


class Numbers(Dataset[Any]):
    """i -> an array full of i."""

    def __init__(self, n: int = 40, shape: tuple[int, ...] = (3,)) -> None:
        self.n = n
        self.shape = shape

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return np.full(self.shape, i, np.float32)


class Random(Numbers):
    """i, and a number of each global stream."""

    def __getitem__(self, i: int) -> Any:
        return i, random.random(), np.random.rand(), T.rand(()).item()


class Act(Numbers):
    """Does something at one index."""

    def __init__(self, at: int, action: Callable[[], Any]) -> None:
        super().__init__(16)
        self.at = at
        self.action = action

    def __getitem__(self, i: int) -> Any:
        if i == self.at:
            self.action()
        return i


class Stream(IterableDataset[int]):
    """Each worker's share of 0 … n - 1, with a random number; the shares differ in length."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        share = range(self.n) if info is None else range(info.id, self.n - 5 * info.id, info.num_workers)
        for i in share:
            yield i, (random.random() if info else 0.0)


def values(batches: Any) -> list[Any]:
    """Tensors as nested lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, T.Tensor):
            return value.tolist()
        return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value

    return [plain(batch) for batch in batches]


def children() -> list[Any]:
    gc.collect()  # an error that a test before this one kept holds its loader in a cycle
    return multiprocessing.active_children()


# ----------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_in_sequence(workers: int, drop_last: bool) -> None:
    loader = DataLoader(Numbers(10), 4, num_workers=workers, drop_last=drop_last)
    found = [batch[:, 0].tolist() for batch in loader]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]][: 2 if drop_last else 3]
    assert len(loader) == len(found)
    assert not children()


def test_order_is_the_generators_whatever_the_workers() -> None:
    orders = []
    for workers in (0, 2):
        loader = DataLoader(TensorDataset(T.arange(50)), 7, True, num_workers=workers,
                            generator=T.Generator().manual_seed(5))  # fmt: skip
        orders.append([values(loader), values(loader)])
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    assert sorted(i for batch in orders[0][0] for i in batch[0]) == list(range(50))


def test_default_stream_orders_without_a_generator() -> None:
    loader = DataLoader(TensorDataset(T.arange(50)), 7, shuffle=True)
    T.manual_seed(3)
    first = values(loader)
    T.manual_seed(3)
    assert values(loader) == first
    assert values(loader) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_one_index_of_tensors_equals_collating_the_samples(workers: int) -> None:
    x, y = T.randn(30, 3), T.arange(30)
    data = Subset(TensorDataset(x, y), list(range(29, -1, -1)))
    quick = DataLoader(data, 8, num_workers=workers)
    slow = DataLoader(data, 8, num_workers=workers, collate_fn=lambda samples: T.utils.data.default_collate(samples))
    for a, b in zip(quick, slow, strict=True):
        assert type(a) is type(b) is list
        assert all((p == q).all() and p.dtype is q.dtype and p.shape == q.shape for p, q in zip(a, b, strict=True))


def test_gradients_flow_through_a_tensor_dataset() -> None:
    x = T.randn(6, 2, requires_grad=True)
    for (batch,) in DataLoader(TensorDataset(x), 4):
        batch.sum().backward()
    assert (x.grad == 1).all()


def test_a_subclass_of_tensor_dataset_is_asked_for_its_samples() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index)[0] * 2

    assert values(DataLoader(Doubled(T.arange(4)), 2)) == [[0, 2], [4, 6]]
    assert values(DataLoader(Subset(Doubled(T.arange(4)), [3, 1]), 2)) == [[6, 2]]


def test_getitems_is_used() -> None:
    class Many(Numbers):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [-i for i in indices]

    assert values(DataLoader(Many(3), 2)) == [[0, -1], [-2]]
    assert values(DataLoader(StackDataset(a=Many(3)), 3))[0]["a"].tolist() == [0, -1, -2]


def test_without_batches_and_with_own_samplers() -> None:
    assert values(DataLoader(Numbers(3, ()), None)) == [0.0, 1.0, 2.0]
    assert values(DataLoader([5, 6, 7], sampler=[2, 0], batch_size=2)) == [[7, 5]]
    assert values(DataLoader([5, 6, 7], batch_sampler=[[2], [0, 1]], num_workers=1)) == [[7], [5, 6]]


def test_out_of_order_yields_what_is_ready() -> None:
    class Slow(Numbers):
        def __getitem__(self, i: int) -> int:
            if i == 0:
                time.sleep(1.0)
            return i

    loader = DataLoader(Slow(8), 1, num_workers=2, in_order=False)
    found = [batch[0] for batch in values(loader)]
    assert sorted(found) == list(range(8))
    assert found[0] != 0


def test_argument_errors() -> None:
    data = Numbers(4)
    for kwargs, match in [
        ({"num_workers": -1}, "num_workers option should be non-negative"),
        ({"timeout": -1}, "timeout option should be non-negative"),
        ({"prefetch_factor": 2}, "prefetch_factor option could only be specified in multiprocessing"),
        ({"num_workers": 1, "prefetch_factor": -2}, "prefetch_factor option should be non-negative"),
        ({"persistent_workers": True}, "persistent_workers option needs num_workers > 0"),
        ({"sampler": [0], "shuffle": True}, "sampler option is mutually exclusive with shuffle"),
        ({"batch_sampler": [[0]], "batch_size": 2}, "batch_sampler option is mutually exclusive"),
        ({"batch_size": None, "drop_last": True}, "batch_size=None option disables auto-batching"),
        ({"batch_size": 0}, "batch_size should be a positive integer"),
        ({"multiprocessing_context": "fork"}, "multiprocessing_context can only be used with"),
        ({"num_workers": 1, "multiprocessing_context": "thread"}, "should specify a valid start method"),
    ]:
        with pytest.raises(ValueError, match=match):
            DataLoader(data, **kwargs)  # type: ignore[arg-type]
    for kwargs in ({"shuffle": True}, {"sampler": [0]}, {"batch_sampler": [[0]]}):
        with pytest.raises(ValueError, match="DataLoader with IterableDataset: expected unspecified"):
            DataLoader(Stream(3), **kwargs)  # type: ignore[arg-type]
    loader = DataLoader(data)
    with pytest.raises(ValueError, match="batch_size attribute should not be set"):
        loader.batch_size = 3
    with pytest.warns(UserWarning, match="no accelerator is found"):
        next(iter(DataLoader(data, pin_memory=True)))


# ----------------------------------------------------------------------------------------------------------- workers


class Describe(Numbers):
    def __getitem__(self, i: int) -> Any:
        info = get_worker_info()
        assert info is not None and info.dataset is self
        drawn = random.random(), float(np.random.rand()), T.rand(()).item()
        return info.id, info.num_workers, info.seed, os.getpid(), *drawn


def test_worker_info_and_seeds() -> None:
    def rows(seed: int) -> list[Any]:
        loader = DataLoader(Describe(6), None, num_workers=2, generator=T.Generator().manual_seed(seed))
        return list(loader)

    found = rows(1)
    assert [row[0] for row in found] == [0, 1, 0, 1, 0, 1]
    assert {row[1] for row in found} == {2}
    assert found[1][2] == found[0][2] + 1
    assert len({row[3] for row in found}) == 2
    random.seed(found[0][2])
    T.manual_seed(found[0][2])
    assert found[0][4] == random.random()
    assert found[0][6] == T.rand(()).item()
    assert len({row[5] for row in found}) == 6
    assert [(*row[:3], *row[4:]) for row in rows(1)] == [(*row[:3], *row[4:]) for row in found]
    assert rows(2)[0][2] != found[0][2]
    assert get_worker_info() is None


def _shift(number: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.n += number


@pytest.mark.parametrize("context", ["spawn", *(["forkserver"] if os.name == "posix" else [])])
def test_other_ways_to_start(context: str) -> None:
    loader = DataLoader(Random(6), 2, num_workers=1, multiprocessing_context=context, worker_init_fn=_shift,
                        generator=T.Generator().manual_seed(0))  # fmt: skip
    other = DataLoader(Random(6), 2, num_workers=1, generator=T.Generator().manual_seed(0))
    assert values(loader) == values(other)


def test_persistent_workers_keep_their_processes() -> None:
    loader = DataLoader(Describe(8), 2, num_workers=2, persistent_workers=True)
    pids = [{int(pid) for batch in loader for pid in batch[3].tolist()} for _ in range(2)]
    assert pids[0] == pids[1] and len(pids[0]) == 2
    for batch in loader:
        first = batch
        break
    again = next(iter(loader))  # an epoch left in its middle
    assert again[0].tolist() == first[0].tolist() == [0, 0]
    assert len(children()) == 2
    del loader
    assert not children()


def test_breaking_off_ends_the_workers() -> None:
    for batch in DataLoader(Numbers(4000, (100,)), 4, num_workers=2):
        assert batch.shape == (4, 100)
        break
    assert not children()


@pytest.mark.parametrize("shape", [(), (5,), (300, 40)])
def test_batches_stay_what_they_are(shape: tuple[int, ...]) -> None:
    """Shared memory is used again only when nobody looks at it; small batches travel in messages."""
    loader = DataLoader(Numbers(120, shape), 2, num_workers=2)
    held = list(loader)
    for i, batch in enumerate(held):
        assert batch.shape == (2, *shape)
        assert (batch[0] == 2 * i).all() and (batch[1] == 2 * i + 1).all()
    views = []
    for batch in DataLoader(Numbers(120, shape), 2, num_workers=2):
        batch += 1  # it is the caller's
        views.append(batch[1].flatten()[:1])
    assert [view.item() for view in views] == list(range(2, 121, 2))


def test_growing_batches_and_other_contents() -> None:
    class Growing(Dataset[Any]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> Any:
            return {"x": T.full((1 << i, 3), i, dtype=T.bfloat16), "name": f"n{i}", "empty": T.empty(0, 2),
                    "t": T.arange(6).reshape(2, 3).T, "scalar": T.tensor(i), "obj": (None, {i})}  # fmt: skip

    for i, sample in enumerate(DataLoader(Growing(), None, num_workers=2)):
        assert sample["x"].dtype is T.bfloat16 and sample["x"].shape == (1 << i, 3) and (sample["x"] == i).all()
        assert sample["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert sample["scalar"].shape == () and sample["scalar"].item() == i
        assert (sample["name"], sample["empty"].shape, sample["obj"]) == (f"n{i}", (0, 2), [None, {i}])


def test_large_messages_both_ways_do_not_lock() -> None:
    class Text(Dataset[str]):
        def __len__(self) -> int:
            return 60_000

        def __getitem__(self, i: int) -> str:
            return str(i) * 20

    # Index lists and batches are each larger than a pipe holds.
    batches = list(DataLoader(Text(), 15_000, num_workers=1, prefetch_factor=4))
    assert [len(batch) for batch in batches] == [15_000] * 4
    assert batches[3][-1] == "59999" * 20


def test_iterable_shares() -> None:
    assert sorted(i for i, _ in DataLoader(Stream(20), None, num_workers=2)) == sorted(
        [*range(0, 20, 2), *range(1, 15, 2)]
    )
    loader = DataLoader(Stream(20), 3, drop_last=True)
    assert len(loader) == 6
    assert [batch[0].tolist()[0] for batch in loader] == [0, 3, 6, 9, 12, 15]
    assert len(DataLoader(Stream(20), 3)) == 7
    with pytest.warns(UserWarning, match="was reported to be 3"):
        short = Stream(6)
        loader = DataLoader(short, None)
        short.n = 3
        assert len(loader) == 3
        short.n = 6
        list(loader)


# ----------------------------------------------------------------------------------------------------------- errors


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)


def _raise(error: BaseException) -> Callable[[], Any]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("bad\nsample"), ValueError), (KeyError("k"), KeyError), (Odd(1, 2), RuntimeError),
     (StopIteration(), RuntimeError), (T.errors.ShapeError("s"), T.errors.ShapeError)],
)  # fmt: skip
def test_an_exception_in_a_worker_is_raised_here(workers: int, error: Exception, kind: type) -> None:
    loader = DataLoader(Act(9, _raise(error)), 4, num_workers=workers)
    found = []
    with pytest.raises(kind) as raised:
        for batch in loader:
            found.append(batch.tolist())
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7]]
    text = str(raised.value)
    assert f"Caught {type(error).__name__} in DataLoader worker process 0" in text
    assert "batch 2 (indices [8, 9, 10, 11])" in text
    assert "Original Traceback" in text and "in action" in text and "raise error" in text
    assert not children()


def test_persistent_workers_survive_an_exception() -> None:
    loader = DataLoader(Act(5, _raise(ValueError("x"))), 4, num_workers=2, persistent_workers=True)
    for _ in range(2):
        iterator = iter(loader)
        assert next(iterator).tolist() == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="worker process 1"):
            next(iterator)
        assert next(iterator).tolist() == [8, 9, 10, 11]


def test_errors_before_the_first_batch() -> None:
    def init(number: int) -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        next(iter(DataLoader(Numbers(), num_workers=1, worker_init_fn=init)))
    with pytest.raises(NotImplementedError, match="missing the required __iter__"):
        next(iter(DataLoader(IterableDataset(), num_workers=1)))


def test_what_cannot_be_pickled_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(Exception, match="pickle"):
        next(iter(DataLoader(Numbers(4), 2, num_workers=1, collate_fn=lambda batch: lambda: batch)))


def _unpickled_here() -> None:
    raise OSError("not in this process")


class Unreadable:
    def __reduce__(self) -> Any:
        return _unpickled_here, ()


def test_what_cannot_be_unpickled_is_its_own_error() -> None:
    with pytest.raises(OSError, match="not in this process"):
        next(iter(DataLoader(Numbers(4), 2, num_workers=1, collate_fn=lambda batch: Unreadable())))
    assert not children()


@POSIX
@pytest.mark.parametrize(("how", "match"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGTERM, "SIGTERM"), (None, "code 3")])
def test_a_worker_that_dies(how: Any, match: str) -> None:
    def action() -> None:
        os._exit(3) if how is None else os.kill(os.getpid(), how)

    loader = DataLoader(Act(9, action), 4, num_workers=2)
    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid\(s\) \d+\) exited unexpectedly.*{match}"):
        list(loader)
    assert not children()


@POSIX
def test_a_worker_killed_from_outside_while_it_waits() -> None:
    iterator = iter(DataLoader(Numbers(400), 1, num_workers=2))
    next(iterator)
    os.kill(children()[0].pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="exited unexpectedly, killed by signal SIGKILL"):
        list(iterator)
    assert time.monotonic() - began < 5
    with pytest.raises(StopIteration):
        next(iterator)


@POSIX
def test_persistent_workers_start_anew_after_a_death() -> None:
    loader = DataLoader(Numbers(40), 1, num_workers=1, persistent_workers=True)
    next(iter(loader))
    children()[0].kill()
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(loader)
    assert len(list(loader)) == 40


def test_timeout() -> None:
    loader = DataLoader(Act(1, lambda: time.sleep(30)), 1, num_workers=1, timeout=0.5)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.5 seconds"):
        list(loader)
    assert time.monotonic() - began < 5
    assert not children()


# ------------------------------------------------------------------------------------------------------ the process

_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(T.__file__).parent.parent)}

_PROGRAM = """
import os, sys, time, signal
import numpy as np
from tensorlib.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __len__(self): return 10_000
    def __getitem__(self, i):
        time.sleep(0.01)
        return np.full((64, 64), i, np.float32)

if __name__ == "__main__":
    loader = DataLoader(Data(), 4, num_workers=2)
    iterator = iter(loader)
    held = [next(iterator) for _ in range(3)]
    print(*[w.pid for w in iterator.pool.processes], flush=True)
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _gone(pids: list[int], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc")
@pytest.mark.parametrize("end", ["", "raise ValueError('stop')", "sys.exit(4)", "os.kill(os.getpid(), signal.SIGKILL)",
                                 "signal.pause()"])  # fmt: skip
def test_nothing_is_left_when_the_program_ends(tmp_path: Path, end: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(_PROGRAM) + f"    {end}\n")
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.exists() else set()
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=_ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    if "pause" in end:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the program and its workers
    _, errors = process.communicate(timeout=30)
    assert _gone(pids)
    assert (set(shared.iterdir()) if shared.exists() else set()) <= before
    expected = {"": 0, "raise ValueError('stop')": 1, "sys.exit(4)": 4}
    assert process.returncode == expected.get(end, process.returncode)
    if "pause" in end:
        assert errors.count("Traceback") == 1 and errors.strip().endswith("KeyboardInterrupt")
    elif "raise" not in end:
        assert errors == ""


def test_no_pipes_or_descriptors_are_left() -> None:
    folder = Path("/proc/self/fd")
    list(DataLoader(Numbers(40, (80, 80)), 2, num_workers=2))
    before = len(list(folder.iterdir())) if folder.exists() else 0
    for _ in range(3):
        list(DataLoader(Numbers(40, (80, 80)), 2, num_workers=2))
    assert not folder.exists() or len(list(folder.iterdir())) <= before
    assert all(end.closed for end in parent_ends)


def test_importing_the_library_loads_no_multiprocessing() -> None:
    code = ("import sys, tensorlib; assert not {'multiprocessing', 'zipfile', 'pickletools', 'tensorlib.io', "
            "'tensorlib.utils'} & set(sys.modules); tensorlib.utils.data.DataLoader; tensorlib.save")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, env=_ENVIRONMENT)


# ----------------------------------------------------------------------------------------------------------- resuming


def _loaders() -> dict[str, Callable[[int], Any]]:
    data = TensorDataset(T.arange(53))

    def seeded(seed: int) -> T.Generator:
        return T.Generator().manual_seed(seed)

    def distributed(workers: int) -> Any:
        sampler = DistributedSampler(data, 2, 1)
        sampler.set_epoch(7)
        return DataLoader(data, 4, sampler=sampler, num_workers=workers)

    return {
        "sequence": lambda w: DataLoader(data, 4, num_workers=w),
        "shuffled": lambda w: DataLoader(data, 4, True, num_workers=w),
        "generator": lambda w: DataLoader(data, 4, True, num_workers=w, generator=seeded(3)),
        "replacement": lambda w: DataLoader(data, 4, sampler=RandomSampler(data, True, 90, seeded(4)), num_workers=w),
        "weighted": lambda w: DataLoader(data, 4, sampler=WeightedRandomSampler(list(range(53)), 70), num_workers=w),
        "single": lambda w: DataLoader(data, None, True, num_workers=w, generator=seeded(5)),
        "persistent": lambda w: DataLoader(data, 4, True, num_workers=w, persistent_workers=w > 0),
        "augmented": lambda w: DataLoader(Random(30), 4, True, num_workers=w, persistent_workers=w > 0),
        "distributed": distributed,
        "stream": lambda w: DataLoader(Stream(33), 4, num_workers=w),
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", list(_loaders()))
@pytest.mark.parametrize(("epoch", "at"), [(0, 0), (0, 1), (1, 5), (1, 99)])
def test_resuming_sees_exactly_the_remaining_batches(
    name: str, workers: int, epoch: int, at: int, tmp_path: Path
) -> None:
    """The rest of the epoch and the next one, after the state went through a file and a new loader."""
    make = _loaders()[name]

    def seed() -> None:
        T.manual_seed(11)
        random.seed(11)
        np.random.seed(11)

    def streams() -> Any:
        return T.get_rng_state(), random.getstate(), np.random.get_state()

    seed()
    loader = make(workers)
    for _ in range(epoch):
        list(loader)
    iterator = iter(loader)
    for _ in range(at):
        if next(iterator, None) is None:
            break
        T.rand(3)  # the training draws too
    T.save(loader.state_dict(), tmp_path / "state")
    kept = streams()
    rest = []
    for batch in iterator:
        rest += values([batch])
        T.rand(3)
    following = values(loader)
    assert at < 99 or not rest

    T.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    resumed = make(workers)
    resumed.load_state_dict(T.load(tmp_path / "state"))
    T.set_rng_state(kept[0])
    random.setstate(kept[1])
    np.random.set_state(kept[2])
    found = []
    if at < 99:
        for batch in resumed:
            found += values([batch])
            T.rand(3)
    assert found == rest
    assert values(resumed) == following


def test_state_before_and_between() -> None:
    loader = DataLoader(TensorDataset(T.arange(9)), 2, True, generator=T.Generator().manual_seed(0))
    state = loader.state_dict()
    first = values(loader)
    other = DataLoader(TensorDataset(T.arange(9)), 2, True, generator=T.Generator())
    other.load_state_dict(state)
    assert other.state_dict()["batches"] == 0
    assert values(other) == first
    iterator = iter(loader)
    next(iterator)
    assert loader.state_dict()["batches"] == 1
    del iterator  # broken off: the next iteration is a new epoch
    assert loader.state_dict()["running"] is False


def test_resuming_out_of_order() -> None:
    class Slow(Numbers):
        def __getitem__(self, i: int) -> int:
            if i == 0:
                time.sleep(0.5)
            return i

    loader = DataLoader(Slow(12), 1, num_workers=2, in_order=False)
    iterator = iter(loader)
    seen = [next(iterator).item() for _ in range(4)]
    state = loader.state_dict()
    assert state["batches"] == 0 and state["ahead"] == sorted(seen)
    other = DataLoader(Slow(12), 1, num_workers=2, in_order=False)
    other.load_state_dict(state)
    assert sorted([*seen, *(batch.item() for batch in other)]) == list(range(12))


def test_states_that_do_not_fit() -> None:
    loader = DataLoader(Numbers(), 2, True, generator=T.Generator())
    with pytest.raises(ValueError, match="expected what state_dict"):
        loader.load_state_dict({"batches": 3})
    with pytest.raises(ValueError, match="make it with the same arguments"):
        DataLoader(Numbers(), 2).load_state_dict(loader.state_dict())
