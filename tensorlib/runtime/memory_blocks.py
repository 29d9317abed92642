"""What a caching allocator keeps of a device's memory: segments, the chunks that tile them, and those that are free.

Two structures hold what is free, as in malloc with its fast bins:

- ``Heap.quick``: lists of chunks of one exact size, as they were freed, popped and appended to without a lock.
- ``Heap.order``: chunks merged with their free neighbours and sorted by size, for the best fit; under the lock.

An interrupt (Ctrl-C) may come between any two steps. At worst it costs the chunk in hand, which then belongs to nobody
until the process ends; no memory is ever handed out twice: a chunk is taken out of every table before it is changed,
and entries of ``order`` are checked when they are met.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

from tensorlib.runtime.memory_stats import event

MIB = 1 << 20
LARGE_SEGMENT = 20 * MIB  # for requests below OWN_SEGMENT
QUICK_LISTS = 1 << 9  # exact chunk sizes a heap remembers, besides those in use


class Home(Protocol):
    """Where a chunk goes when it is freed: nearly always a quick list."""

    def append(self, chunk: Chunk, /) -> None:
        """Take the chunk back."""


class Recipe:
    """A request answered before: where chunks for it lie, and its entries in the log."""

    __slots__ = ("freed", "log", "nbytes", "quick", "taken")

    def __init__(self, nbytes: int, size: int, quick: list[Chunk], log: Callable[[int], Any]) -> None:
        self.nbytes = nbytes
        self.quick = quick
        self.log = log
        self.taken = event(size, nbytes)
        self.freed = -self.taken


class Chunk:
    """A piece of a segment. ``prev`` and ``next`` are its neighbours there."""

    __slots__ = ("free", "home", "next", "prev", "ptr", "recipe", "segment", "size", "waiting")

    def __init__(self, ptr: int, size: int, segment: Segment) -> None:
        self.ptr = ptr
        self.size = size
        self.segment = segment
        self.prev: Chunk | None = None
        self.next: Chunk | None = None
        self.home: Home = _NOWHERE
        self.recipe: Recipe = _NO_RECIPE  # of the request it answers, or last answered
        self.free = False  # whether it lies in its heap; one in a quick list does not
        self.waiting = 0  # events to come before it may be used again


class Segment:
    """What one call of the driver gave."""

    __slots__ = ("first", "heap", "idle_since", "ptr", "size", "small", "stream")

    def __init__(self, ptr: int, size: int, stream: int, heap: Heap) -> None:
        self.ptr = ptr
        self.size = size
        self.stream = stream
        self.heap = heap
        self.small = heap.small
        self.idle_since = 0
        self.first: Chunk = Chunk(ptr, size, self)

    def chunks(self) -> Iterator[Chunk]:
        """From the first to the last; together they are the segment."""
        chunk: Chunk | None = self.first
        while chunk is not None:
            yield chunk
            chunk = chunk.next


class Block:
    """Device memory at ``ptr``. It goes back to the cache when the last reference to the Block goes."""

    __slots__ = ("_chunk", "ptr")

    ptr: int
    _chunk: Chunk

    def __del__(self) -> None:
        try:
            chunk = self._chunk
        except AttributeError:  # an interrupt came before it had one
            return
        self._chunk = NOTHING
        recipe = chunk.recipe
        recipe.log(recipe.freed)
        chunk.home.append(chunk)

    def free(self) -> None:
        """Give the memory back now. A second time does nothing."""
        self.__del__()
        self.ptr = 0

    @property
    def nbytes(self) -> int:
        """Bytes asked for."""
        return self._chunk.recipe.nbytes

    @property
    def size(self) -> int:
        """Bytes given."""
        return self._chunk.size

    @property
    def stream(self) -> int:
        """Handle of the stream it was allocated for."""
        return self._chunk.segment.stream

    def __repr__(self) -> str:
        return f"<Block of {self.nbytes} bytes at {self.ptr:#x}>"


class Heap:
    """The free chunks of one kind (small or large) of one stream in one pool."""

    __slots__ = ("fresh", "order", "places", "quick", "quick_limit", "small")

    def __init__(self, small: bool) -> None:
        self.small = small
        self.fresh: list[Chunk] = []  # freed, of sizes asked for only once so far, which have no quick list
        self.quick: dict[int, list[Chunk]] = {}
        self.quick_limit = QUICK_LISTS
        self.order: list[tuple[int, int]] = []  # (size, ptr), sorted
        self.places: dict[int, Chunk] = {}  # ptr -> the chunk that lies in order

    def list_of(self, size: int) -> list[Chunk]:
        """The quick list of chunks of a size."""
        found = self.quick.get(size)
        if found is None:
            found = self.quick[size] = []
        return found

    def forget(self, chunks: Iterator[Chunk]) -> None:
        """Drop the quick lists that none of the heap's chunks calls home."""
        homes = {id(chunk.home) for chunk in chunks}
        self.quick = {size: quick for size, quick in self.quick.items() if quick or id(quick) in homes}
        self.quick_limit = max(QUICK_LISTS, 2 * len(self.quick))

    def add(self, chunk: Chunk) -> None:
        """Sort a chunk in."""
        chunk.free = True
        self.places[chunk.ptr] = chunk
        insort(self.order, (chunk.size, chunk.ptr))

    def remove(self, chunk: Chunk) -> None:
        """Take a chunk out."""
        chunk.free = False
        self.places.pop(chunk.ptr, None)
        key = chunk.size, chunk.ptr
        at = bisect_left(self.order, key)
        if self.order[at : at + 1] == [key]:
            del self.order[at]

    def best_fit(self, size: int, max_split_size: int) -> Chunk | None:
        """The smallest chunk that holds size bytes, the lowest of these. What is too large to be cut stays whole."""
        at = bisect_left(self.order, (size, 0))
        while at < len(self.order):
            found, ptr = self.order[at]
            chunk = self.places.get(ptr)
            if chunk is None or chunk.size != found:
                del self.order[at]
                continue
            if size < max_split_size <= found or (size >= max_split_size and found >= size + LARGE_SEGMENT):
                return None
            return chunk
        return None

    def settle(self, chunk: Chunk) -> Chunk:
        """Merge a chunk that nobody owns with its free neighbours and sort it in; returns what became of it."""
        before, after = chunk.prev, chunk.next
        if before is not None and before.free:
            self.remove(before)
            before.size += chunk.size
            before.next = after
            if after is not None:
                after.prev = before
            chunk = before
        if after is not None and after.free:
            self.remove(after)
            chunk.size += after.size
            chunk.next = after.next
            if after.next is not None:
                after.next.prev = chunk
        self.add(chunk)
        return chunk

    def split(self, chunk: Chunk, size: int) -> None:
        """Cut a chunk that nobody owns to size; the rest is sorted in."""
        rest = Chunk(chunk.ptr + size, chunk.size - size, chunk.segment)
        rest.prev, rest.next = chunk, chunk.next
        if rest.next is not None:
            rest.next.prev = rest
        chunk.next, chunk.size = rest, size
        self.add(rest)


class Arena:
    """One stream's memory in one pool."""

    __slots__ = ("large", "recipes", "seen", "small", "stream")

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.small = Heap(True)
        self.large = Heap(False)
        self.seen: set[int] = set()  # bytes asked for once
        self.recipes: dict[int, Recipe] = {}  # bytes asked for more often -> how that was answered


class Pool:
    """Arenas that share nothing with other pools': the default one, and one for each set of captured graphs."""

    __slots__ = ("arenas", "id", "uses")

    def __init__(self, id: Hashable) -> None:
        self.id = id
        self.arenas: dict[int, Arena] = {}
        self.uses = 0  # captures and graphs that rely on its addresses

    def heaps(self) -> Iterator[Heap]:
        """All of them."""
        for arena in list(self.arenas.values()):
            yield arena.small
            yield arena.large


# What a Block of no bytes, or one that was freed, points to: going home changes nothing and is not logged.
_NOWHERE: Any = deque(maxlen=0)
_NO_RECIPE = Recipe(0, 0, [], _NOWHERE.append)
NOTHING: Chunk = Segment(0, 0, 0, Heap(True)).first
