"""The worker process of a DataLoader: it seeds itself, reads what it is told to, and sends batches."""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import random
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.random  # NumPy imports it late: here once, rather than in every worker that seeds it

from tensorlib import _blas
from tensorlib import random as stream
from tensorlib._core import wrap
from tensorlib.utils.data.collate import default_collate
from tensorlib.utils.data.dataset import collated, many
from tensorlib.utils.data.transport import Sender

__all__ = ["WorkerInfo", "get_worker_info"]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker knows of itself: ``id`` of ``num_workers``, its ``seed`` and its copy of the ``dataset``."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None

#: The parent's ends of all pipes. A forked worker inherits them and closes them, or its siblings would never see the
#: end of their pipes when the parent is killed.
parent_ends: weakref.WeakSet[Any] = weakref.WeakSet()


def get_worker_info() -> WorkerInfo | None:
    """In a DataLoader's worker process its WorkerInfo, elsewhere None."""
    return _info


# ------------------------------------------------------------------------------------------------------- reading


class MapFetcher:
    """Batches of a dataset that is indexed."""

    def __init__(self, dataset: Any, batched: bool, collate_fn: Callable[[Any], Any], drop_last: bool) -> None:
        self.dataset = dataset
        self.batched = batched
        self.collate_fn = collate_fn

    def fetch(self, index: Any) -> Any:
        """The batch of a list of indices, or one sample."""
        if not self.batched:
            return self.collate_fn(self.dataset[index])
        if self.collate_fn is default_collate:
            batch = collated(self.dataset, index)
            if batch is not None:
                return batch
        return self.collate_fn(many(self.dataset, index))

    def skip(self, index: Any) -> None:
        """Nothing needs to be read to leave a batch out."""


class StreamFetcher:
    """Batches of a stream: an index only says how many."""

    def __init__(self, dataset: Any, batched: bool, collate_fn: Callable[[Any], Any], drop_last: bool) -> None:
        self.samples = iter(dataset)
        self.batched = batched
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.ended = False

    def _read(self, index: Any) -> Any:
        if self.ended:
            raise StopIteration
        if not self.batched:
            return next(self.samples)
        data = []
        for _ in index:
            try:
                data.append(next(self.samples))
            except StopIteration:
                self.ended = True
                break
        if not data or (self.drop_last and len(data) < len(index)):
            raise StopIteration
        return data

    def fetch(self, index: Any) -> Any:
        """The next batch; StopIteration after the last."""
        return self.collate_fn(self._read(index))

    def skip(self, index: Any) -> None:
        """Read the next batch and leave it."""
        self._read(index)


# ------------------------------------------------------------------------------------------------------- errors


class _Message(str):
    """KeyError shows the repr of its argument: this one's is the text, so that a traceback stays readable."""

    def __repr__(self) -> str:
        return str(self)


class Failure:
    """An exception on its way to the parent: its class, and its traceback as text."""

    def __init__(self, where: str) -> None:
        kind, error, trace = sys.exc_info()
        assert kind is not None
        self.name = kind.__name__
        self.text = "".join(traceback.format_exception(kind, error, trace))
        self.where = where
        try:
            self.kind: bytes | None = pickle.dumps(kind)
        except Exception:  # a class that only exists in the worker
            self.kind = None

    def reraise(self) -> None:
        """Raise an exception of the same class, RuntimeError where it takes other arguments than a text."""
        text = f"Caught {self.name} {self.where}.\nOriginal {self.text}"
        try:
            assert self.kind is not None
            kind = pickle.loads(self.kind)
            assert not issubclass(kind, StopIteration)  # would end the caller's loop without a word
            error = kind(_Message(text) if issubclass(kind, KeyError) else text)
        except Exception:
            error = RuntimeError(text)
        raise error


# ------------------------------------------------------------------------------------------------------- random state


def random_state() -> tuple[Any, Any, bytes]:
    """The state of Python's, NumPy's and the library's global streams."""
    return random.getstate(), np.random.get_state(), stream.get_rng_state().numpy().tobytes()


def set_random_state(state: tuple[Any, Any, bytes]) -> None:
    """Continue the three streams from ``random_state``."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    stream.set_rng_state(wrap(np.frombuffer(state[2], np.uint8)))


class _Watch:
    """Tells whether the streams moved since it was last asked: most datasets never touch most of them."""

    def __init__(self) -> None:
        self.last = random_state()
        self.seen = self.numpy_words()

    def numpy_words(self) -> bytes:
        """The memory of NumPy's Mersenne twister: ``get_state`` takes 100 µs to copy it into an array."""
        module: Any = np.random
        generator = module.get_bit_generator()
        if type(generator).__name__ != "MT19937":
            return pickle.dumps(generator.state)
        return bytes((ctypes.c_uint8 * 2500).from_address(generator.ctypes.state_address))

    def moved(self) -> tuple[Any, Any, bytes] | None:
        """The new state, None where it is the old one."""
        own, ours = random.getstate(), stream.get_rng_state().numpy().tobytes()
        words = self.numpy_words()
        kept = self.last[1][3]  # a second normal number is kept, and given without moving the generator
        if own == self.last[0] and ours == self.last[2] and words == self.seen and not kept:
            return None
        self.last, self.seen = random_state(), words
        return self.last


# ------------------------------------------------------------------------------------------------------- the process


@dataclass
class Work:
    """What a worker is given at its start; it is pickled where processes are spawned."""

    dataset: Any
    fetcher: type[MapFetcher] | type[StreamFetcher]
    batched: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool
    base_seed: int
    worker_init_fn: Callable[[int], Any] | None
    num_workers: int
    rng: list[Any]  # for each worker the random state to continue from, or None


STOP, RESTART = "stop", "restart"


def run(number: int, work: Work, conn: Any, forked: bool, parent: int) -> None:
    """The process: tasks from ``conn``, batches to it, until told to stop or the parent is gone.

    A task is (task, index, segment, skip); an answer's head is (task, kind, random state).
    """
    global _info
    if forked:
        for end in list(parent_ends):
            end.close()
        stream.default_generator._lock = threading.Lock()  # another thread may have held it during the fork
    # Ctrl-C reaches the whole group: the parent alone answers it. Its handlers of SIGTERM are not the worker's.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    blas = _blas.openblas()
    if blas is not None:
        blas.set_threads(1)  # the workers are the parallelism
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # Reads at once whatever comes, so that the parent never waits to send while this process waits to send to it, and
    # so that the end of the parent is seen in the middle of a long read.
    threading.Thread(target=_listen, args=(conn, tasks), daemon=True).start()
    sender = Sender(conn)
    seed = work.base_seed + number
    random.seed(seed)
    stream.manual_seed(seed)
    np.random.seed(np.random.SeedSequence([number, work.base_seed]).generate_state(4))
    _info = WorkerInfo(number, work.num_workers, seed, work.dataset)
    where = f"in DataLoader worker process {number}"
    failure: Failure | None = None
    fetcher: Any = None
    try:
        try:
            if work.worker_init_fn is not None:
                work.worker_init_fn(number)
            if work.rng[number] is not None:
                set_random_state(work.rng[number])
            fetcher = work.fetcher(work.dataset, work.batched, work.collate_fn, work.drop_last)
        except Exception:
            failure = Failure(where)
        watch = _Watch()
        ended = False
        while (message := tasks.get()) != STOP:
            if message == RESTART:
                ended = False
                if failure is None:
                    try:
                        fetcher = work.fetcher(work.dataset, work.batched, work.collate_fn, work.drop_last)
                    except Exception:
                        failure = Failure(where)
                continue
            task, index, segment, skip = message
            data = None
            if failure is not None:
                kind, data, failure = "failure", failure, None
            elif ended:
                kind = "end"
            else:
                try:
                    if skip:
                        kind = "skipped"
                        fetcher.skip(index)
                    else:
                        kind = "data"
                        data = fetcher.fetch(index)
                except Exception as error:
                    if isinstance(error, StopIteration) and work.fetcher is StreamFetcher:
                        kind, ended = "end", True
                    else:
                        kind, data = "failure", Failure(f"{where}, {_describe(task, index)}")
            try:
                sender.send((task, kind, watch.moved()), data, segment)
            except OSError:
                raise
            except Exception:  # the batch cannot be pickled
                sender.send((task, "failure", None), Failure(f"{where}, {_describe(task, index)}"), -1)
            del data, message, index
    except OSError:
        if os.getppid() == parent:
            raise  # the parent is there: it should hear of this


def _listen(conn: Any, tasks: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            tasks.put(conn.recv())
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, or wants no more: its end is closed only when nothing is to be sent


def _describe(task: int, index: Any) -> str:
    shown = f"{index[:8]!r:.200}{', …' if len(index) > 8 else ''}" if isinstance(index, list) else f"{index!r:.200}"
    return f"batch {task} (indices {shown})"
