"""A caching, stream-ordered allocator of device memory: asking the driver costs 100 µs and waits for the device.

What the driver gave is a *segment*; chunks tile it, each of them owned by one `Block` or free. Memory belongs to the
stream it was allocated for: what that stream is given later runs later, so a chunk may be handed out again while the
stream still works on its last use, and no event is needed. A use on another stream is told by `record_stream`, and the
chunk then waits for an event there.

A training loop asks for the same sizes step after step, so that nearly every request is a *hit*: a dictionary look-up
and a ``pop`` from a list of chunks of that very size, without a lock. What no list answers (`_find`) is cut from the
chunk that fits best, after chunks were merged with their neighbours if there was no good fit, and only then is the
driver asked.

Sizes are rounded up to 512 bytes. Requests up to 1 MiB share segments of 2 MiB; those below 10 MiB segments of 20 MiB;
larger ones get a segment of their own, in steps of 2 MiB (the figures of PyTorch's CUDACachingAllocator). Chunks are
always cut to size.

`Block.__del__` may run in any thread, and wherever Python collects garbage, inside this allocator too. So it appends to
a quick list and to the log of events, each of which is one step of the interpreter, and takes no lock. The statistics
are computed from that log: exactly, peaks included, with no counter to race for.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, Protocol

from tensorlib.errors import ArgumentError, DeviceError, DriverError, OutOfMemoryError
from tensorlib.runtime import memory_report
from tensorlib.runtime.driver import OutOfDeviceMemory
from tensorlib.runtime.memory_blocks import (
    LARGE_SEGMENT,
    MIB,
    NOTHING,
    Arena,
    Block,
    Chunk,
    Heap,
    Pool,
    Recipe,
    Segment,
)
from tensorlib.runtime.memory_report import Shortage
from tensorlib.runtime.memory_stats import SMALL, UNLIMITED, Ledger, event, flat

GRANULE = 512  #: bytes: the alignment of blocks, and what sizes are rounded up to
SMALL_SEGMENT = 2 * MIB
OWN_SEGMENT = 10 * MIB  # larger requests get a segment of their own size, rounded up to
SEGMENT_STEP = 2 * MIB
DEFAULT_POOL = (0, 0)  # the id that memory_snapshot shows for what belongs to no private pool

_LOG_LENGTH = 1 << 14  # events that may wait to be counted
_RECIPES = 1 << 13  # exact request sizes a stream remembers
_FORKED = (
    "cannot use the GPU in a forked child of a process that used it (Cannot re-initialize CUDA in forked subprocess): "
    "to use CUDA with multiprocessing, you must use the 'spawn' start method"
)


class Backend(Protocol):
    """What is asked of a driver, for one device; callable from any thread."""

    kind: str

    def malloc(self, nbytes: int, /) -> int:
        """Address of new memory, or OutOfDeviceMemory."""

    def free(self, ptr: int, /) -> None:
        """Give memory back, when all that the device was given is done."""

    def memory_info(self) -> tuple[int, int]:
        """Bytes free and in all."""

    def synchronize(self) -> None:
        """Wait for everything."""

    def event_create(self) -> int:
        """A new event."""

    def event_record(self, event: int, stream: int, /) -> None:
        """Mark the end of what the stream was given so far."""

    def event_query(self, event: int, /) -> bool:
        """Whether the stream has come that far."""

    def event_synchronize(self, event: int, /) -> None:
        """Wait until it has."""

    def event_destroy(self, event: int, /) -> None:
        """Give the event back."""

    def exchange_capture_mode(self, mode: str, /) -> str:
        """Set which calls this thread may make while it captures; returns the mode before."""


class Config(NamedTuple):
    """What TENSORLIB_ALLOC_CONF sets: ``key:value,key:value``."""

    max_split_size: int = UNLIMITED  #: bytes; larger chunks are not cut for smaller requests (max_split_size_mb)
    garbage_collection_threshold: float = 0.0  #: reserve beyond this part of the limit frees idle segments first
    caching: bool = True  #: False: every block is the driver's own (TENSORLIB_NO_MEMORY_CACHING=1)

    @classmethod
    def from_environment(cls) -> Config:
        """Read both variables. ArgumentError names what is unknown or out of range."""
        return cls.parse(os.environ.get("TENSORLIB_ALLOC_CONF", ""), os.environ.get("TENSORLIB_NO_MEMORY_CACHING", "0"))

    @classmethod
    def parse(cls, text: str, no_caching: str = "0") -> Config:
        """Of the text of both variables: ``max_split_size_mb:256,garbage_collection_threshold:0.8``."""
        max_split_size, threshold = UNLIMITED, 0.0
        for item in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = (part.strip() for part in item.partition(":"))
            try:
                number = float(value)
            except ValueError:
                number = math.nan  # which no condition below holds for
            if key == "max_split_size_mb" and LARGE_SEGMENT // MIB < number < UNLIMITED // MIB:
                max_split_size = int(number) * MIB
            elif key == "garbage_collection_threshold" and 0 < number < 1:
                threshold = number
            else:
                raise ArgumentError(
                    f"TENSORLIB_ALLOC_CONF: got {item!r}: expected max_split_size_mb:<number above "
                    f"{LARGE_SEGMENT // MIB}> or garbage_collection_threshold:<number between 0 and 1>, by commas"
                    + ("; segments never grow here, leave it out" if key == "expandable_segments" else "")
                )
        return cls(max_split_size, threshold, no_caching in ("", "0"))


class _Shared:
    """The home of a chunk that other streams use: freed, it waits for them."""

    __slots__ = ("allocator", "streams")

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.streams: set[int] = set()

    def append(self, chunk: Chunk, /) -> None:
        """Keep the chunk until what the other streams were given so far is done."""
        self.allocator._wait(chunk)


class _Driver:
    """The home of every chunk when there is no cache: freed, it goes back to the driver."""

    __slots__ = ("allocator",)

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator

    def append(self, chunk: Chunk, /) -> None:
        """Free the chunk's segment."""
        self.allocator._return(chunk)


def rounded(nbytes: int) -> int:
    """Bytes that a request takes."""
    return -(-nbytes // GRANULE) * GRANULE


def segment_size(size: int) -> int:
    """Bytes that the driver is asked for where nothing in the cache fits a request of size bytes (rounded)."""
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // SEGMENT_STEP) * SEGMENT_STEP


_allocators: weakref.WeakSet[Allocator] = weakref.WeakSet()


class Allocator:
    """The memory of one device.

    ``backend``: its driver; ``index``: its number, for messages. Every method may be called from any thread.
    """

    def __init__(self, backend: Backend, index: int = 0, config: Config | None = None) -> None:
        self.backend = backend
        self.index = index
        self.config = Config.from_environment() if config is None else config
        # The hot path: what allocate() reads. Empty while requests are routed to private pools.
        self._recipes: dict[int, dict[int, Recipe]] = {}
        self._lock = threading.RLock()
        self._ledger = Ledger(self._lock, self.config.max_split_size)
        self._log = self._ledger.log
        self._closed = ""  # why nothing can be allocated any more
        self._quiet = False  # after a fork and at the end of the process: freeing calls no driver
        self._pools: dict[Hashable, Pool] = {DEFAULT_POOL: Pool(DEFAULT_POOL)}
        self._routes: list[tuple[Hashable, Callable[[int], bool] | None]] = []
        self._segments: dict[int, Segment] = {}
        self._fraction = 1.0
        self._limit = UNLIMITED
        self._misses = 0  # a clock for the age of idle segments
        # Chunks freed while other streams may use them: (event, stream, chunk), and those that have no event yet.
        self._pending: deque[tuple[int, int, Chunk]] = deque()
        self._unrecorded: deque[Chunk] = deque()
        self._events: list[int] = []  # done, to be used again
        # Without a cache: segments that the driver has back and that must be counted, and those it could not get yet.
        self._returned: deque[Segment] = deque()
        self._unreturned: deque[Segment] = deque()
        _allocators.add(self)

    # -- allocation
    def allocate(self, nbytes: int, stream: int = 0) -> Block:
        """A block of nbytes for work on a stream, aligned to 512 bytes. Of 0 bytes: no memory, address 0.

        OutOfMemoryError after everything cached was given back to the driver.
        """
        try:
            recipe = self._recipes[stream][nbytes]
            chunk = recipe.quick.pop()
        except LookupError:
            return self._miss(nbytes, stream)
        chunk.recipe = recipe
        recipe.log(recipe.taken)
        if len(self._log) > _LOG_LENGTH:
            self._ledger.count()
        block = Block()
        block.ptr = chunk.ptr
        block._chunk = chunk
        return block

    def _miss(self, nbytes: int, stream: int) -> Block:
        if nbytes < 0:
            raise ArgumentError(f"allocate: got {nbytes} bytes: expected 0 or more")
        chunk = self._find(nbytes, stream) if nbytes else NOTHING
        block = Block()
        block.ptr = chunk.ptr
        block._chunk = chunk
        return block

    def _find(self, nbytes: int, stream: int) -> Chunk:
        """A chunk for a request, from the cache or from the driver, counted as allocated."""
        self._check()
        with self._lock:
            self._misses += 1
            if len(self._log) > _LOG_LENGTH:
                self._ledger.count()
            self._process_events()
            arena = self._arena(stream)
            size = rounded(nbytes)
            heap = arena.small if size <= SMALL else arena.large
            chunk = self._cached(heap, size) if self.config.caching else None
            if chunk is None:
                chunk = self._new(heap, size, nbytes, stream)
            if self.config.caching:
                recipe = self._recipe(arena, heap, nbytes, chunk.size)
                chunk.home = recipe.quick
            else:
                recipe = Recipe(nbytes, size, [], self._log.append)
                chunk.home = _Driver(self)
            chunk.recipe = recipe
            recipe.log(recipe.taken)
            return chunk

    def _recipe(self, arena: Arena, heap: Heap, nbytes: int, size: int) -> Recipe:
        """The recipe for a request that was given size bytes; from the second time on allocate() finds it itself."""
        found = arena.recipes.get(nbytes)
        if found is not None and size == rounded(nbytes):
            return found
        if nbytes not in arena.seen or size != rounded(nbytes):
            if len(arena.seen) >= _RECIPES:
                arena.seen.clear()
            arena.seen.add(nbytes)
            return Recipe(nbytes, size, heap.quick.get(size, heap.fresh), self._log.append)
        if len(arena.recipes) >= _RECIPES:
            arena.recipes.clear()
        found = arena.recipes[nbytes] = Recipe(nbytes, size, heap.list_of(size), self._log.append)
        return found

    def _arena(self, stream: int) -> Arena:
        """Where memory for a stream comes from: of the latest private pool that wants it, or of the default one."""
        for name, wanted in reversed(self._routes):
            if wanted is None or wanted(stream):
                pool = self._pools[name]
                break
        else:
            pool = self._pools[DEFAULT_POOL]
        arena = pool.arenas.get(stream)
        if arena is None:
            arena = pool.arenas[stream] = Arena(stream)
            if not self._routes:
                self._recipes[stream] = arena.recipes
        return arena

    def _cached(self, heap: Heap, size: int) -> Chunk | None:
        """A chunk of the cache cut to size. It is nobody's until it gets a Block."""
        quick = heap.quick.get(size)
        if quick:
            try:
                return quick.pop()
            except IndexError:  # another thread was faster
                pass
        limit = self.config.max_split_size
        self._settle(heap, heap.fresh)
        chunk = heap.best_fit(size, limit)
        # A poor fit is taken only if merging gives no better one: it would break up what large requests need.
        # Small chunks are cheap to cut and to merge, and settling them would cost the hits of the next step.
        if chunk is None or (not heap.small and chunk.size > size + size // 8):
            self._settle(heap, *heap.quick.values())
            chunk = heap.best_fit(size, limit)
        if chunk is not None:
            heap.remove(chunk)
            self._cut(heap, chunk, size)
        return chunk

    def _cut(self, heap: Heap, chunk: Chunk, size: int) -> None:
        if chunk.size > size and size < self.config.max_split_size:
            heap.split(chunk, size)

    def _settle(self, heap: Heap, *lists: list[Chunk]) -> None:
        """Merge what lies in lists of a heap."""
        for quick in filter(None, lists):
            while quick:
                try:
                    chunk = quick.pop()
                except IndexError:  # another thread was faster
                    break
                chunk = heap.settle(chunk)
                if chunk.size == chunk.segment.size:
                    chunk.segment.idle_since = self._misses
        if len(heap.quick) > heap.quick_limit:
            for arena in (arena for pool in self._pools.values() for arena in pool.arenas.values()):
                if heap in (arena.small, arena.large):
                    arena.recipes.clear()  # which name the lists
            heap.forget(chunk for s in self._segments.values() if s.heap is heap for chunk in s.chunks())

    # -- segments
    def _new(self, heap: Heap, size: int, nbytes: int, stream: int) -> Chunk:
        """A chunk of a new segment. What is cached goes back to the driver as far as that is needed."""
        wanted = segment_size(size) if self.config.caching else size
        threshold = self.config.garbage_collection_threshold
        if threshold:
            self._release(self.reserved + wanted - int(min(self._limit, self._capacity()) * threshold))
        ptr = self._malloc(wanted)
        if ptr is None and not self._routes:
            # What other streams still use, then idle segments as far as they are needed, then all of them.
            self._ledger.num_alloc_retries += 1
            self._synchronize_events()
            again = self._cached(heap, size) if self.config.caching else None
            if again is not None:
                return again
            for missing in (wanted, UNLIMITED):
                if ptr is None and self._release(missing):
                    ptr = self._malloc(wanted)
        if ptr is None:
            self._ledger.num_ooms += 1
            raise OutOfMemoryError(self._shortage(nbytes, wanted, heap).text())
        segment = self._segments[ptr] = Segment(ptr, wanted, stream, heap)
        self._ledger.add_segment(wanted, heap.small)
        chunk = segment.first
        self._cut(heap, chunk, size)
        return chunk

    def _malloc(self, size: int) -> int | None:
        """Memory of the driver, or None where there is not enough within the limit."""
        if self.reserved + size > self._limit:
            return None
        with self._relaxed():
            try:
                return self.backend.malloc(size)
            except OutOfDeviceMemory:
                return None

    @contextlib.contextmanager
    def _relaxed(self) -> Iterator[None]:
        """Calls that a capture forbids, of this thread or a global one of another, and that no graph will contain.

        This device need not be the one that is captured: a capture forbids them for every device.
        """
        mode = self.backend.exchange_capture_mode("relaxed")
        try:
            yield
        finally:
            self.backend.exchange_capture_mode(mode)

    def _release(self, wanted: int) -> int:
        """Give the driver idle segments of at least so many bytes, those idle longest first; returns how many bytes."""
        if wanted <= 0 or self._routes:
            return 0
        # A private pool that is in use keeps its memory: graphs hold its addresses.
        heaps = {id(heap): heap for pool in self._pools.values() if not pool.uses for heap in pool.heaps()}
        for heap in heaps.values():
            self._settle(heap, heap.fresh, *heap.quick.values())
        idle = [s for s in self._segments.values() if s.first.free and s.first.next is None and id(s.heap) in heaps]
        idle.sort(key=lambda segment: segment.idle_since)
        released = 0
        for segment in idle:
            if released >= wanted:
                break
            segment.heap.remove(segment.first)
            self._free(segment)
            released += segment.size
        if len(self._pools) > 1:
            used = {id(segment.heap) for segment in self._segments.values()}
            for name, pool in list(self._pools.items()):
                if name != DEFAULT_POOL and not pool.uses and not any(id(heap) in used for heap in pool.heaps()):
                    del self._pools[name]
        return released

    def _free(self, segment: Segment) -> None:
        """Give a segment back to the driver."""
        del self._segments[segment.ptr]
        self._ledger.remove_segment(segment.size, segment.small)
        with self._relaxed():
            self.backend.free(segment.ptr)

    def _capacity(self) -> int:
        return self.backend.memory_info()[1]

    def empty_cache(self) -> None:
        """Wait for what other streams use, and give every segment that no Block lies in back to the driver.

        While a pool is routed to (a capture), nothing is given back.
        """
        self._check()
        with self._lock:
            if not self._routes:
                self._synchronize_events()
                self._release(UNLIMITED)

    def _check(self) -> None:
        if self._closed:
            raise DeviceError(self._closed)

    # -- other streams
    def record_stream(self, block: Block, stream: int) -> None:
        """Tell that work on another stream uses the block: it is handed out again only when that is done."""
        chunk = block._chunk
        if chunk is NOTHING or stream == chunk.segment.stream or isinstance(chunk.home, _Driver):
            return  # without a cache the driver itself waits
        with self._lock:
            if not isinstance(chunk.home, _Shared):
                chunk.home = _Shared(self)
            chunk.home.streams.add(stream)

    def _wait(self, chunk: Chunk) -> None:
        """Hold a freed chunk until other streams are done with it. From a destructor: no lock, any thread."""
        if self._quiet:
            return
        chunk.waiting = 1
        self._log.append(event(chunk.size, chunk.size, True))
        # During a capture no event may be queried, and one recorded in it says nothing of the graph's replays.
        if self._routes or not self._record(chunk):
            self._unrecorded.append(chunk)

    def _record(self, chunk: Chunk) -> bool:
        """Record an event on every stream that uses the chunk; False where the driver refuses, as of a stream gone."""
        assert isinstance(chunk.home, _Shared)
        made: list[tuple[int, int, Chunk]] = []
        try:
            for stream in chunk.home.streams:
                try:
                    mark = self._events.pop()
                except IndexError:
                    mark = self.backend.event_create()
                made.append((mark, stream, chunk))
                self.backend.event_record(mark, stream)
        except DriverError:
            self._events += [mark for mark, _, _ in made]
            return False
        chunk.waiting = len(made)
        self._pending.extend(made)
        return True

    def _record_late(self) -> None:
        """Record the events that could not be recorded when their chunks were freed."""
        for _ in range(len(self._unrecorded)):
            chunk = self._unrecorded[0]
            recorded = self._record(chunk)
            if not recorded:
                with self._relaxed():
                    self.backend.synchronize()
            self._unrecorded.popleft()
            if not recorded:
                self._give_back(chunk)

    def _process_events(self) -> None:
        """Take back the chunks that other streams are done with, and what was put off during a capture."""
        if self._routes:
            return
        if self._unrecorded:
            self._record_late()
        if self._pending:
            with self._relaxed():
                self._query_events()
        if not self.config.caching:
            self._count_returned()

    def _query_events(self) -> None:
        behind = set()  # streams that have not come so far: no need to ask for their later events
        for _ in range(len(self._pending)):
            mark, stream, chunk = self._pending[0]
            done = stream not in behind and self.backend.event_query(mark)
            self._pending.popleft()
            if done:
                self._done(mark, chunk)
            else:
                behind.add(stream)
                self._pending.append((mark, stream, chunk))

    def _synchronize_events(self) -> None:
        """Wait for every event, and take the chunks back."""
        self._ledger.num_sync_all_streams += 1
        self._process_events()
        with self._relaxed():
            while self._pending:
                mark, _, chunk = self._pending[0]
                self.backend.event_synchronize(mark)
                self._pending.popleft()
                self._done(mark, chunk)

    def _done(self, mark: int, chunk: Chunk) -> None:
        self._events.append(mark)
        chunk.waiting -= 1
        if not chunk.waiting:
            self._give_back(chunk)

    def _give_back(self, chunk: Chunk) -> None:
        """Put a chunk that no stream uses any more into its quick list."""
        chunk.waiting = 0
        self._log.append(-event(chunk.size, chunk.size, True))
        heap = chunk.segment.heap
        home = chunk.home = heap.quick.get(chunk.size, heap.fresh)
        home.append(chunk)

    # -- without a cache
    def _return(self, chunk: Chunk) -> None:
        """Free a chunk's segment. From a destructor: no lock, any thread."""
        if self._quiet:
            return
        chunk.waiting = 1  # to be counted, or for the end of a capture
        self._log.append(event(chunk.size, chunk.size, True))
        if self._routes:
            self._unreturned.append(chunk.segment)
        else:
            with self._relaxed():
                self.backend.free(chunk.ptr)
            self._returned.append(chunk.segment)

    def _count_returned(self) -> None:
        """Free what could not be freed during a capture, and count all that was freed."""
        while self._unreturned and not self._routes:
            segment = self._unreturned.popleft()
            with self._relaxed():
                self.backend.free(segment.ptr)
            self._returned.append(segment)
        while self._returned:
            segment = self._returned.popleft()
            if self._segments.get(segment.ptr) is segment:  # or another one has its address already
                del self._segments[segment.ptr]
            self._log.append(-event(segment.size, segment.size, True))
            self._ledger.remove_segment(segment.size, segment.small)

    # -- private pools
    def begin_pool(self, pool: Hashable, wanted: Callable[[int], bool] | None = None) -> None:
        """From now on take requests whose stream satisfies ``wanted`` (None: all) from a pool of its own.

        Graphs rely on the addresses of what was allocated while they were captured: memory of a pool is not given to
        other requests, nor to the driver before ``release_pool`` was called as often as ``begin_pool``. Until
        ``end_pool`` no event is asked for and nothing is given back to the driver, as is due during a capture.
        """
        self._check()
        with self._lock:
            if pool not in self._pools:
                self._pools[pool] = Pool(pool)
            self._pools[pool].uses += 1
            self._routes.append((pool, wanted))
            self._recipes = {}

    def end_pool(self, pool: Hashable) -> None:
        """Stop taking requests from the pool. ArgumentError unless it was begun."""
        with self._lock:
            for at in range(len(self._routes) - 1, -1, -1):
                if self._routes[at][0] == pool:
                    del self._routes[at]
                    break
            else:
                raise ArgumentError(f"end_pool: got {pool!r}: expected a pool that begin_pool began")
            if not self._routes:
                arenas = self._pools[DEFAULT_POOL].arenas
                self._recipes = {stream: arena.recipes for stream, arena in arenas.items()}

    def release_pool(self, pool: Hashable) -> None:
        """One graph less relies on the pool. After the last, its memory goes to the driver when that is next asked.

        May run in a destructor. ArgumentError for a pool that is not in use.
        """
        with self._lock:
            found = self._pools.get(pool)
            if found is None or pool == DEFAULT_POOL or not found.uses:
                raise ArgumentError(f"release_pool: got {pool!r}: expected a pool in use")
            found.uses -= 1

    # -- limits
    @property
    def fraction(self) -> float:
        """Of the device's memory, what this process may reserve."""
        return self._fraction

    def set_limit(self, fraction: float) -> None:
        """Reserve at most this fraction of the device's memory, from 0 to 1."""
        if not 0 <= fraction <= 1:
            raise ArgumentError(f"set_limit: got {fraction}: expected a fraction from 0 to 1")
        self._fraction = float(fraction)
        self._limit = int(fraction * self._capacity()) if fraction < 1 else UNLIMITED

    def set_limit_bytes(self, nbytes: int | None) -> None:
        """Reserve at most so many bytes; None: no limit."""
        if nbytes is not None and nbytes < 0:
            raise ArgumentError(f"set_limit_bytes: got {nbytes}: expected 0 or more, or None")
        self._limit = UNLIMITED if nbytes is None else nbytes
        self._fraction = min(1.0, self._limit / self._capacity())

    # -- statistics
    @property
    def allocated(self) -> int:
        """Bytes that Blocks hold."""
        self._ledger.count()
        return self._ledger.allocated_bytes.all.current

    @property
    def max_allocated(self) -> int:
        """The most bytes that Blocks held since ``reset_peak``."""
        self._ledger.count()
        return self._ledger.allocated_bytes.all.peak

    @property
    def reserved(self) -> int:
        """Bytes that the allocator has of the driver."""
        return self._ledger.reserved_bytes.all.current

    @property
    def max_reserved(self) -> int:
        """The most bytes that the allocator had of the driver since ``reset_peak``."""
        return self._ledger.reserved_bytes.all.peak

    def nested_stats(self) -> dict[str, Any]:
        """What torch.cuda.memory_stats_as_nested_dict gives: {"allocated_bytes": {"all": {"current": …, "peak": …}}}.

        All are exact, but for the peaks and sums of "inactive_split": of these it knows what it saw when it was asked.
        """
        with self._lock:
            if not self.config.caching:
                self._count_returned()
            self._see_inactive()
            return self._ledger.nested()

    def stats(self) -> dict[str, int]:
        """The same flat, sorted by name, as torch.cuda.memory_stats: {"allocated_bytes.all.current": …}."""
        return dict(sorted(flat(self.nested_stats()).items()))

    def reset_peak(self) -> None:
        """Begin the peaks anew from what is now."""
        self._ledger.reset_peak()

    def reset_accumulated(self) -> None:
        """Begin the sums of what was ever allocated and freed, and the counts of calls, anew."""
        self._ledger.reset_accumulated()

    def _unused(self) -> set[int]:
        """The ids of the chunks that are free: in order or in a quick list."""
        free = {id(chunk) for segment in self._segments.values() for chunk in segment.chunks() if chunk.free}
        for heap in {id(s.heap): s.heap for s in self._segments.values()}.values():
            for quick in (heap.fresh, *heap.quick.values()):
                free.update(map(id, quick[:]))
        return free

    def _pieces(self) -> Iterator[tuple[Segment, list[dict[str, Any]]]]:
        """Every segment with the pieces that tile it, free neighbours as one: whether they are merged yet is nobody's.

        A piece is what memory_snapshot calls a block.
        """
        free = self._unused()
        for segment in sorted(self._segments.values(), key=lambda segment: segment.ptr):
            pieces: list[dict[str, Any]] = []
            for chunk in segment.chunks():
                state = "active_pending_free" if chunk.waiting else "active_allocated"
                state = "inactive" if id(chunk) in free else state
                if pieces and state == pieces[-1]["state"] == "inactive":
                    pieces[-1]["size"] += chunk.size
                    continue
                asked = 0 if state == "inactive" else chunk.recipe.nbytes
                piece = {"address": chunk.ptr, "size": chunk.size, "requested_size": asked, "state": state}
                pieces.append(piece)
            yield segment, pieces

    def _see_inactive(self) -> None:
        """Count the free pieces of segments of which another part is in use."""
        sizes: dict[bool, list[int]] = {True: [], False: []}
        for segment, pieces in self._pieces():
            if len(pieces) > 1:
                sizes[segment.small] += [piece["size"] for piece in pieces if piece["state"] == "inactive"]
        for small in (True, False):
            self._ledger.inactive_split.set(len(sizes[small]), small)
            self._ledger.inactive_split_bytes.set(sum(sizes[small]), small)

    def snapshot(self) -> list[dict[str, Any]]:
        """What torch.cuda.memory_snapshot gives: a dictionary a segment, by address, each with the blocks that tile it.

        A block's state is "active_allocated", "active_pending_free" (freed, another stream uses it) or "inactive".
        """
        with self._lock:
            if not self.config.caching:
                self._count_returned()
            names = {id(heap): pool.id for pool in self._pools.values() for heap in pool.heaps()}
            found = []
            for segment, blocks in self._pieces():
                active = [block for block in blocks if block["state"] != "inactive"]
                found.append(
                    {
                        "device": self.index,
                        "address": segment.ptr,
                        "total_size": segment.size,
                        "allocated_size": sum(b["size"] for b in active if b["state"] == "active_allocated"),
                        "active_size": sum(b["size"] for b in active),
                        "requested_size": sum(b["requested_size"] for b in active),
                        "stream": segment.stream,
                        "segment_type": "small" if segment.small else "large",
                        "segment_pool_id": names[id(segment.heap)],
                        "is_expandable": False,
                        "frames": [],
                        "blocks": [{**block, "frames": []} for block in blocks],
                    }
                )
            return found

    def summary(self, abbreviated: bool = False) -> str:
        """The statistics as a table; ``abbreviated`` leaves out the rows of the two pools."""
        return memory_report.summary(self.nested_stats(), self.backend.kind, self.index, abbreviated)

    def _shortage(self, nbytes: int, wanted: int, heap: Heap) -> Shortage:
        """How things stand for a request that cannot be answered."""
        try:
            free, total = self.backend.memory_info()
        except DriverError:
            free = total = 0
        self._ledger.count()
        idle: list[tuple[int, Heap]] = []
        owners: Counter[int] = Counter()
        for segment, pieces in self._pieces():
            for piece in pieces:
                if piece["state"] == "inactive":
                    idle.append((piece["size"], segment.heap))
                elif piece["state"] == "active_allocated":
                    owners[piece["requested_size"]] += 1
        return Shortage(
            kind=self.backend.kind,
            device=self.index,
            requested=nbytes,
            segment=wanted,
            total=total,
            free=free,
            allocated=self._ledger.allocated_bytes.all.current,
            cached=sum(size for size, _ in idle),
            reserved=self.reserved,
            largest=max((size for size, _ in idle), default=0),
            largest_here=max((size for size, of in idle if of is heap), default=0),
            limit=self._limit if self._limit < UNLIMITED else None,
            owners=owners,
            captured=bool(self._routes),
        )


def _after_fork() -> None:
    """A child has no part in its parent's device: its Blocks are dropped in silence, and it cannot allocate."""
    for allocator in _allocators:
        allocator._closed, allocator._quiet, allocator._recipes = _FORKED, True, {}
        allocator._lock = allocator._ledger.lock = threading.RLock()  # a thread of the parent may have held it


def _at_exit() -> None:
    for allocator in list(_allocators):
        allocator._quiet = True


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
