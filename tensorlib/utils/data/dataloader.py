"""DataLoader: batches of a dataset in the order of a sampler, read here or in worker processes, resumable anywhere."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import signal
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

from tensorlib import _blas
from tensorlib.random import Generator, default_generator
from tensorlib.runtime.engine import gpus
from tensorlib.utils.data import worker
from tensorlib.utils.data.collate import default_collate, default_convert
from tensorlib.utils.data.dataset import Dataset, IterableDataset
from tensorlib.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed
from tensorlib.utils.data.transport import Receiver

__all__ = ["DataLoader"]

#: What programs annotate ``collate_fn`` with, under PyTorch's private name.
_collate_fn_t = Callable[[list[Any]], Any]

T_co = TypeVar("T_co", covariant=True)
_FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")
_PATIENCE = 5.0  # seconds that workers are given to finish what they are reading when the loader is done with them


class DataLoader(Generic[T_co]):
    """Batches of ``dataset``: an iterable; each iteration is an epoch.

    dataset: has ``__getitem__`` and ``__len__``, or is an IterableDataset.
    batch_size: samples in a batch; None gives single samples, converted by ``default_convert``.
    shuffle, sampler, batch_sampler: the order: in sequence, random, a sampler's; or whole batches of indices.
    num_workers: processes that read ahead; 0 reads in this one, when a batch is asked for.
    collate_fn: makes a batch of a list of samples (``default_collate``).
    pin_memory: batches in page-locked memory, where there is a GPU.
    drop_last: leave out a shorter last batch.
    timeout: seconds to wait for a worker's batch; RuntimeError after it. 0 waits as long as the worker lives.
    worker_init_fn: called in each worker with its number, after seeding.
    multiprocessing_context: "fork", "spawn", "forkserver" or a context; the platform's default for None.
    generator: of the random order and of the workers' base seed. None: the default stream.
    prefetch_factor: batches each worker reads ahead (2).
    persistent_workers: keep the workers, with their datasets, from one epoch to the next.
    in_order: False yields whichever batch is ready.

    **Seeds.** Worker w seeds ``random``, ``numpy.random`` and the library's stream from base_seed + w; base_seed is
    drawn from ``generator`` for each iteration. The order of batches does not depend on the number of workers.

    **Resuming.** ``state_dict()`` between two batches is the position in the epoch, the random state the epoch began
    with, and the workers' random states; ``load_state_dict()`` on a loader made with the same arguments makes the next
    iteration yield exactly the remaining batches, and the epochs after it as they would have been. Skipped samples of
    a map-style dataset are not read; of an IterableDataset they are read again and left. The default stream itself
    belongs to the training run: save ``tensorlib.get_rng_state()`` beside. What a dataset draws at random in workers
    continues too, if the number of workers is the same.

    **Errors.** An exception in a worker is raised here, of its own class, with the worker's traceback as text. A
    worker that is killed is a RuntimeError that names its signal. Workers end with the iterator, with this process
    however it ends, and leave no shared memory.
    """

    dataset: Any
    batch_size: int | None
    num_workers: int
    pin_memory: bool
    drop_last: bool
    timeout: float
    sampler: Any
    pin_memory_device: str
    prefetch_factor: int | None
    _made = False

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers < 0:
            raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError(
                "prefetch_factor option could only be specified in multiprocessing. let num_workers > 0 to enable "
                "multiprocessing, otherwise set prefetch_factor to None."
            )
        if prefetch_factor is not None and prefetch_factor < 0:
            raise ValueError("prefetch_factor option should be non-negative")
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers option needs num_workers > 0")
        stream = isinstance(dataset, IterableDataset)
        if stream:
            for name, value in (("shuffle", shuffle or None), ("sampler", sampler), ("batch_sampler", batch_sampler)):
                if value is not None:
                    raise ValueError(
                        f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}"
                    )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.in_order = in_order
        self._stream = stream
        if sampler is None:
            if stream:
                sampler = itertools.repeat(None)  # a stream has no indices: an index is only a request
            else:
                sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)  # type: ignore[arg-type]
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn
        self.persistent_workers = persistent_workers
        self._iterator: _Workers | None = None  # the persistent one
        self._current: Any = None  # a weak reference to the last iterator
        self._resume: dict[str, Any] | None = None  # a loaded state, until the next iteration begins
        self._stated: int | None = None  # the length of a stream, once it was asked for
        self._made = True
        if num_workers > _blas.usable_processors():
            warnings.warn(
                f"This DataLoader will create {num_workers} worker processes in total. Our suggested max number of "
                f"worker in current system is {_blas.usable_processors()}, which is smaller than what this DataLoader "
                f"is going to create. Please be aware that excessive worker creation might get DataLoader running "
                f"slow or even freeze, lower the worker number to avoid potential slowness/freeze if necessary.",
                stacklevel=2,
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if self._made and name in _FIXED:
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        super().__setattr__(name, value)

    @property
    def multiprocessing_context(self) -> BaseContext | None:
        """How workers are started."""
        return self._context

    @multiprocessing_context.setter
    def multiprocessing_context(self, value: Any) -> None:
        if value is not None:
            if not self.num_workers:
                raise ValueError(
                    "multiprocessing_context can only be used with multi-process loading (num_workers > 0), but got "
                    f"num_workers={self.num_workers}"
                )
            if isinstance(value, str):
                known = multiprocessing.get_all_start_methods()
                if value not in known:
                    raise ValueError(
                        f"multiprocessing_context option should specify a valid start method in {known!r}, but got "
                        f"multiprocessing_context={value!r}"
                    )
                value = multiprocessing.get_context(value)
            if not isinstance(value, BaseContext):
                raise TypeError(
                    "multiprocessing_context option should be a valid context object or a string specifying the "
                    f"start method, but got multiprocessing_context={value}"
                )
        self._context = value

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __iter__(self) -> Iterator[Any]:
        if not self.num_workers:
            iterator: _Epoch = _InProcess(self)
        elif not self.persistent_workers:
            iterator = _Workers(self)
        elif self._iterator is None or self._iterator.closed:
            iterator = self._iterator = _Workers(self)
        else:
            iterator = self._iterator
            self._iterator.restart(self)
        self._current = weakref.ref(iterator)
        return iterator

    def __len__(self) -> int:
        """Batches in an epoch; of an IterableDataset, what its own length promises."""
        if not self._stream:
            return len(self._index_sampler)
        length = self._stated = len(self.dataset)
        if self.batch_size is None:
            return length
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)

    # ------------------------------------------------------------------------------------------------- the state

    def _generators(self) -> list[Generator]:
        """The generators that the order depends on, besides the default one."""
        found: list[Generator] = []
        owners = [self, self.batch_sampler, getattr(self.batch_sampler, "sampler", None), self.sampler]
        for owner in owners:
            generator = getattr(owner, "generator", None)
            if isinstance(generator, Generator) and generator is not default_generator:
                if all(generator is not other for other in found):
                    found.append(generator)
        return found

    def _samplers(self) -> list[Any]:
        """The samplers with a state of their own."""
        found: list[Any] = []
        for sampler in (self.batch_sampler, getattr(self.batch_sampler, "sampler", None), self.sampler):
            if hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict"):
                if all(sampler is not other for other in found):
                    found.append(sampler)
        return found

    def _snapshot(self) -> dict[str, Any]:
        """All that the order of an epoch depends on, before it begins."""
        return {
            "generators": [generator.get_state() for generator in self._generators()],
            "default_generator": default_generator.get_state(),
            "samplers": [sampler.state_dict() for sampler in self._samplers()],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Put back a snapshot, except for the default generator."""
        for owners, saved, method in (
            (self._generators(), state["generators"], "set_state"),
            (self._samplers(), state["samplers"], "load_state_dict"),
        ):
            if len(owners) != len(saved):
                raise ValueError(
                    f"DataLoader.load_state_dict: the state is of a loader with {len(saved)} generators or samplers "
                    f"with a state, this one has {len(owners)}: make it with the same arguments"
                )
            for owner, value in zip(owners, saved, strict=True):
                getattr(owner, method)(value)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, for ``load_state_dict`` of a loader made alike, in this or another process.

        Plain containers, numbers and tensors: ``tensorlib.save`` takes it. After the last batch, and before the first
        iteration, it is the beginning of the next epoch.
        """
        if self._resume is not None:
            return dict(self._resume)
        iterator = self._current() if self._current is not None else None
        if iterator is None or iterator.finished:
            lasting = self._iterator
            return {"version": 1, "running": False, "batches": 0, "ahead": [], **self._snapshot(),
                    "base_seed": None if lasting is None else lasting.base_seed,
                    "workers": [] if lasting is None else [_packed(rng) for rng in lasting.rng]}  # fmt: skip
        state: dict[str, Any] = iterator.state()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from ``state_dict()`` at the next iteration. ValueError for a state of another kind of loader."""
        missing = {"version", "running", "batches", "ahead", "generators", "samplers",
                   "default_generator", "base_seed", "workers"}  # fmt: skip
        missing -= set(state_dict)
        if missing or state_dict["version"] != 1:
            raise ValueError(f"DataLoader.load_state_dict: expected what state_dict() returned; without "
                             f"{sorted(missing)}")  # fmt: skip
        self._restore(state_dict)
        self._resume = dict(state_dict)
        if self._iterator is not None:  # workers that stand elsewhere
            self._iterator.close()
            self._iterator = None


def _packed(rng: Any) -> Any:
    """A random state (see ``worker.random_state``) with plain numbers only."""
    if rng is None:
        return None
    (version, words, gauss), numpy_state, own = rng
    return {"python": [version, list(words), gauss],
            "numpy": [str(numpy_state[0]), numpy_state[1].tolist(), *map(float, numpy_state[2:])],
            "tensorlib": own}  # fmt: skip


def _unpacked(rng: Any) -> Any:
    if rng is None:
        return None
    version, words, gauss = rng["python"]
    name, key, position, has_gauss, cached = rng["numpy"]
    return (version, tuple(words), gauss), (name, key, int(position), int(has_gauss), cached), rng["tensorlib"]


class _Epoch:
    """What iterating here and in workers have in common: the order, the position, the state."""

    rng: list[Any]  # for each worker its random state after the batches that were yielded

    def __init__(self, loader: DataLoader[Any]) -> None:
        if loader.pin_memory and loader.pin_memory_device:
            warnings.warn(
                f"pin_memory_device is deprecated, the current accelerator will be used as the device,"
                f"ignore pin_memory_device='{loader.pin_memory_device}'.",
                stacklevel=3,
            )
        gpu = gpus().kind() is not None
        if loader.pin_memory and not gpu:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, then device pinned memory won't be "
                "used.",
                stacklevel=3,
            )
        self.pins = loader.pin_memory and gpu
        self.rng = [None] * loader.num_workers
        self._begin(loader, draw=True)

    def _begin(self, loader: DataLoader[Any], draw: bool) -> None:
        """Start an epoch at its first batch, or where a loaded state stands."""
        # A copy: a loader that held its persistent iterator, which held it, would end its workers only when collected.
        self.loader = copy.copy(loader)
        self.loader._iterator = self.loader._current = None
        state, loader._resume = loader._resume, None
        running = state is not None and state["running"]
        self.finished = False
        self.yielded = state["batches"] if running else 0  # type: ignore[index]
        self.ahead: set[int] = set(state["ahead"]) if running else set()  # type: ignore[index]
        if state is not None and len(state["workers"]) == loader.num_workers:
            self.rng = [_unpacked(rng) for rng in state["workers"]]
        if state is not None and state["base_seed"] is not None:
            self.base_seed, draw = state["base_seed"], False
        if draw:
            self.base_seed = draw_seed(loader.generator)
        before = default_generator.get_state()
        if running:
            # The random numbers of the epoch's beginning again; the default stream itself stays with its owner.
            loader._restore(state)  # type: ignore[arg-type]
            default_generator.set_state(state["default_generator"])  # type: ignore[index]
        self.start = {**loader._snapshot(), "base_seed": self.base_seed}
        self.start_rng = list(self.rng)
        indices: Iterator[Any] = iter(loader._index_sampler)
        try:
            # A sampler draws when it is first asked: here, so that a state taken before the first batch is like others.
            indices = itertools.chain([next(indices)], indices)
        except StopIteration:
            indices = iter(())
        self.indices = indices
        self._position()
        if running:
            default_generator.set_state(before)

    def _position(self) -> None:
        """Leave out the batches that a loaded state has seen."""

    def __iter__(self) -> _Epoch:
        return self

    def __len__(self) -> int:
        return len(self.loader._index_sampler)

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled: pickle the DataLoader's state_dict()")

    def __next__(self) -> Any:
        try:
            data = self._next()
        except StopIteration:
            self.finished = True
            raise
        stated = self.loader._stated
        if stated is not None and self.loader._stream and self.yielded > stated:
            warnings.warn(
                f"Length of IterableDataset {self.loader.dataset} was reported to be {stated} (when accessing "
                f"len(dataloader)), but {self.yielded} samples have been fetched."
                + (
                    " For multiprocessing data-loading, this could be caused by not properly configuring the "
                    "IterableDataset replica at each worker: see get_worker_info."
                    if self.loader.num_workers
                    else ""
                ),
                stacklevel=2,
            )
        return pinned(data) if self.pins else data

    def _next(self) -> Any:
        raise TypeError(f"{type(self).__name__} is missing the required _next")

    def state(self) -> dict[str, Any]:
        """See ``DataLoader.state_dict``."""
        rng = self.start_rng if self.loader._stream else self.rng
        return {"version": 1, "running": True, "batches": self.yielded, "ahead": sorted(self.ahead), **self.start,
                "workers": [_packed(state) for state in rng]}  # fmt: skip


class _InProcess(_Epoch):
    """Reads a batch when it is asked for."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        if loader.timeout:
            raise AssertionError("DataLoader: timeout > 0 needs num_workers > 0")
        super().__init__(loader)

    def _position(self) -> None:
        loader = self.loader
        kind = worker.StreamFetcher if loader._stream else worker.MapFetcher
        self.fetcher = kind(loader.dataset, loader.batch_sampler is not None, loader.collate_fn, loader.drop_last)
        for index in itertools.islice(self.indices, self.yielded):
            self.fetcher.skip(index)

    def _next(self) -> Any:
        data = self.fetcher.fetch(next(self.indices))
        self.yielded += 1
        return data


class _Pool:
    """The worker processes and the pipes to them."""

    def __init__(self, context: Any, work: worker.Work) -> None:
        self.owner = os.getpid()
        self.processes: list[Any] = []
        self.receivers: list[Receiver] = []
        forked = context.get_start_method() == "fork"
        try:
            for number in range(work.num_workers):
                ours, theirs = context.Pipe(duplex=True)
                worker.parent_ends.add(ours)
                self.receivers.append(Receiver(ours))
                process = context.Process(
                    target=worker.run, args=(number, work, theirs, forked, self.owner), daemon=True
                )
                try:
                    process.start()
                finally:
                    theirs.close()
                self.processes.append(process)
        except BaseException:
            self.close()
            raise

    def send(self, number: int, message: Any) -> None:
        """Give a worker a message."""
        try:
            self.receivers[number].conn.send(message)
        except OSError:
            self.fail([number])

    def receive(self, lent: Callable[[Any], Any], timeout: float) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """The next messages, at least one. RuntimeError when a worker dies or the time is over."""
        until = time.monotonic() + timeout if timeout else None
        ends = {receiver.conn: number for number, receiver in enumerate(self.receivers)}
        sentinels = {process.sentinel: number for number, process in enumerate(self.processes)}
        ready = connection.wait([*ends, *sentinels], None if until is None else max(0.0, until - time.monotonic()))
        if not ready:
            self.close(patience=0.0)
            raise RuntimeError(f"DataLoader timed out after {timeout} seconds")
        readable = [end for end in ready if end in ends]
        if not readable:
            self.fail([sentinels[end] for end in ready if end in sentinels])  # type: ignore[index]
        for end in readable:
            number = ends[end]  # type: ignore[index]
            try:
                yield self.receivers[number].receive(lent)
            except (EOFError, OSError):
                self.fail([number])

    def fail(self, numbers: list[int]) -> None:
        """Raise the error of workers that are gone."""
        dead = []
        for number in numbers:
            process = self.processes[number]
            process.join(_PATIENCE)
            dead.append((process.pid, process.exitcode))
        self.close(patience=0.0)
        pids = ", ".join(str(pid) for pid, _ in dead)
        code = dead[0][1]
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            how = f"killed by signal {name}"
            if name == "SIGKILL":
                how += " (by hand, or by the system when memory ran out)"
            elif name == "SIGBUS":
                how += " (not enough shared memory)"
        else:
            how = f"with exit code {code}"
        raise RuntimeError(f"DataLoader worker (pid(s) {pids}) exited unexpectedly, {how}")

    def close(self, patience: float = _PATIENCE) -> None:
        """End the processes: by a word, and after ``patience`` seconds by signals."""
        if os.getpid() != self.owner:  # a copy in a forked child: they are not its processes
            return
        processes, self.processes = self.processes, []
        for receiver, process in zip(self.receivers, processes, strict=False):
            if patience and process.is_alive():
                try:
                    receiver.conn.send(worker.STOP)
                except OSError:
                    pass  # it is gone already
        until = time.monotonic() + patience
        for receiver, process in zip(self.receivers, processes, strict=False):
            # A worker may wait to send what nobody will read: take it off its hands until it is gone.
            while process.is_alive() and (left := until - time.monotonic()) > 0:
                if receiver.conn in connection.wait([receiver.conn, process.sentinel], left):
                    try:
                        receiver.conn.recv_bytes()
                    except (EOFError, OSError):
                        process.join(max(0.0, until - time.monotonic()))
        for end in (receiver.conn for receiver in self.receivers):
            end.close()
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


class _Workers(_Epoch):
    """Hands tasks to worker processes ahead of time and yields their batches in the order of the tasks.

    Task t belongs to worker t % num_workers, so that what each reads (and its random numbers) does not depend on
    speed; workers whose stream has ended are passed over, and without ``in_order`` the busy ones.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.closed = False
        super().__init__(loader)

    def close(self) -> None:
        """End the workers."""
        self.closed = True
        self._finalizer()

    def _position(self) -> None:
        loader = self.loader
        if not hasattr(self, "pool"):
            work = worker.Work(
                loader.dataset, worker.StreamFetcher if loader._stream else worker.MapFetcher,
                loader.batch_sampler is not None, loader.collate_fn, loader.drop_last, self.base_seed,
                loader.worker_init_fn, loader.num_workers, self.rng,
            )  # fmt: skip
            self.pool = _Pool(loader.multiprocessing_context or multiprocessing.get_context(), work)
            # Also at exit, and before multiprocessing's own way with daemons, which is a signal.
            self._finalizer = weakref.finalize(self, self.pool.close)
        self.sent = 0  # the number of the next task
        self.turn = 0  # the task that is to be yielded next
        self.tasks: dict[int, tuple[int, int | None]] = {}  # task -> its worker, the segment lent for it
        self.arrived: dict[int, tuple[str, Any, Any]] = {}
        self.load = [0] * loader.num_workers
        self.active = [True] * loader.num_workers
        self.skipping: set[int] = set()  # tasks that a loaded state has seen
        if loader._stream:
            self.skipping = set(range(self.yielded))
        else:
            for _ in itertools.islice(self.indices, self.yielded):
                pass
            self.sent = self.turn = self.yielded
        self.next_worker = self.sent % loader.num_workers
        for _ in range(max(1, loader.prefetch_factor or 0) * loader.num_workers):
            self._put()

    def restart(self, loader: DataLoader[Any]) -> None:
        """Another epoch of persistent workers."""
        try:
            while self.tasks.keys() - self.arrived.keys():
                self._receive()
            for task, (_, _, state) in sorted(self.arrived.items()):
                self._note(self.tasks[task][0], state)
            for number in range(loader.num_workers):
                self.pool.send(number, worker.RESTART)
            self._begin(loader, draw=False)
        except BaseException:
            self.close()
            raise

    def _put(self) -> None:
        """Give the next task to a worker."""
        while True:
            try:
                index = next(self.indices)
            except StopIteration:
                return
            if self.sent not in self.ahead:
                break
            self.sent += 1  # yielded out of order before the state was saved
            self.next_worker = self.sent % self.loader.num_workers
        workers = [(self.next_worker + i) % len(self.active) for i in range(len(self.active))]
        workers = [number for number in workers if self.active[number]]
        if not workers:
            return
        number = workers[0] if self.loader.in_order else min(workers, key=self.load.__getitem__)
        self.next_worker = (number + 1) % len(self.active)
        segment = self.pool.receivers[number].lend()
        self.tasks[self.sent] = (number, segment)
        self.load[number] += 1
        self.pool.send(number, (self.sent, index, segment, self.sent in self.skipping))
        self.sent += 1

    def _receive(self) -> None:
        for (task, kind, rng), data in self.pool.receive(lambda head: self.tasks[head[0]][1], self.loader.timeout):
            self.load[self.tasks[task][0]] -= 1
            self.arrived[task] = (kind, data, rng)

    def _note(self, number: int, state: Any) -> None:
        if state is not None:
            self.rng[number] = state

    def _next(self) -> Any:
        if self.closed:
            raise StopIteration
        try:
            return self._collect()
        except BaseException as error:
            # An interrupt may come between a message and its place: what follows it could wait for ever.
            if not (self.loader.persistent_workers and self.pool.processes and isinstance(error, Exception)):
                self.close()
            raise

    def _collect(self) -> Any:
        while self.tasks:
            while self.turn not in self.tasks and self.turn < self.sent:
                self.turn += 1  # yielded out of order, or seen by a loaded state
            task = self.turn
            if not self.loader.in_order and self.arrived:
                task = min(self.arrived)
            if task not in self.arrived:
                self._receive()
                continue
            kind, data, rng = self.arrived.pop(task)
            number, _ = self.tasks.pop(task)
            self._note(number, rng)
            if kind == "end":
                self.active[number] = False
            self._put()
            if kind == "failure":
                self._count(task)
                data.reraise()
            if kind == "unreadable":
                self._count(task)
                raise data
            if kind == "data":
                self._count(task)
                return data
        raise StopIteration

    def _count(self, task: int) -> None:
        """Note that a task's batch was yielded."""
        if self.loader._stream:
            self.yielded = task + 1  # tasks that found a stream's end count: they are asked again in their turn
            return
        self.ahead.add(task)
        while self.yielded in self.ahead:
            self.ahead.remove(self.yielded)
            self.yielded += 1

    def state(self) -> dict[str, Any]:
        """See ``DataLoader.state_dict``."""
        if self.loader._stream and not self.loader.in_order:
            raise RuntimeError(
                "DataLoader.state_dict: an IterableDataset in workers with in_order=False has no position that could "
                "be found again: use in_order=True"
            )
        return super().state()


#: PyTorch's private names of them, by which programs tell iterations apart and end workers.
_BaseDataLoaderIter, _SingleProcessDataLoaderIter, _MultiProcessingDataLoaderIter = _Epoch, _InProcess, _Workers
_Workers._shutdown_workers = _Workers.close  # type: ignore[attr-defined]


def pinned(data: Any) -> Any:
    """``data`` with every tensor in page-locked memory; containers as ``default_convert`` rebuilds them."""
    if hasattr(data, "pin_memory"):
        return data.pin_memory()
    if isinstance(data, (str, bytes)):
        return data
    if isinstance(data, Mapping):
        return type(data)({key: pinned(value) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(pinned(value) for value in data))
    if isinstance(data, Sequence):
        return type(data)([pinned(value) for value in data])  # type: ignore[call-arg]
    return data
