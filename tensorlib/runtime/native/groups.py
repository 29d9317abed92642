"""Statements that share a loop nest, and the order of what they read and write.

Stores and reductions of tiles of one shape that follow each other are held back as a *group* and become one nest, so
that what they have in common is read and computed once. A tile that is expensive and needed again is written to a
buffer by the way.

Hazards. A lazy load is evaluated later than it stands. Before code is made for a store, each load that stands before
it, is still to be used and may overlap it is materialised. The exception is an update in place: the load's pointers
are the store's own, no two of them coincide, and the load is used at the same index only. Then the nest reads each
vector before it writes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tensorlib.runtime.native import memory, ttir
from tensorlib.runtime.native.analysis import is_pointer, is_tile, shape_of, weight
from tensorlib.runtime.native.evaluate import Index
from tensorlib.runtime.native.nest import Nests
from tensorlib.runtime.native.reduction import Reducer, Results
from tensorlib.runtime.native.tiles import Pointers

#: a tile that costs this much an element is written to a buffer rather than evaluated again
EXPENSIVE = 4.0
#: vectors of partial results in a reduction over the lane dimension
ACCUMULATORS = 4


@dataclasses.dataclass
class Group:
    """Statements to become one nest over tiles of ``shape``."""

    shape: tuple[int, ...]
    roots: list[ttir.Operation] = dataclasses.field(default_factory=list)


class Groups(Nests):
    """Nests of one or more statements."""

    group: Group | None = None

    def pending(self, values: Sequence[ttir.Value]) -> bool:
        """Whether evaluating tiles needs a result of the group that is held back."""
        if self.group is None:
            return False
        roots = self.group.roots
        return any(v.operation in roots for v in self.closure(values) if v.operation is not None)

    def add_root(self, operation: ttir.Operation) -> None:
        """Holds back a store or reduction of tiles, to share a nest with others of its shape."""
        values = [x for x in operation.operands if is_tile(x)]
        shape = shape_of(values[0])
        if self.group is not None and not self._joins(operation, values, shape):
            self.flush()
        if operation.name == "tt.store":
            self.protect(operation, values)
        self.prepare(values, shape)
        if self.group is None:
            self.group = Group(shape)
        self.group.roots.append(operation)

    def _joins(self, operation: ttir.Operation, values: list[ttir.Value], shape: tuple[int, ...]) -> bool:
        """Whether a statement may share the pending nest."""
        group = self.group
        assert group is not None
        if group.shape != shape or self.pending(values):
            return False
        axes = {root.attributes["axis"] for root in group.roots if root.name == "tt.reduce"}
        if operation.name == "tt.reduce" and axes and operation.attributes["axis"] not in axes:
            return False
        loads = self.lazy_loads(values)
        position = self.analysis.position
        for root in group.roots:
            if root.name != "tt.store":
                continue
            pointers = root.operands[0]
            if operation.name == "tt.store" and self.overlap(pointers, operation.operands[0]):
                if pointers is not operation.operands[0] or not self.analysis.distinct(pointers):
                    return False
            for load in loads:
                if self.overlap(load.operands[0], pointers):
                    if position[load] > position[root] or not self._in_place(load, loads[load], root):
                        return False
        if operation.name == "tt.store":  # what the group reads must not be written before it is read
            for root in group.roots:
                for load, same in self.lazy_loads([x for x in root.operands if is_tile(x)]).items():
                    if self.overlap(load.operands[0], operation.operands[0]) and not self._in_place(
                        load, same, operation
                    ):
                        return False
        return True

    def _in_place(self, load: ttir.Operation, same: bool, store: ttir.Operation) -> bool:
        """Whether a nest may read what it writes: each vector before it is written, and no element twice."""
        pointers = store.operands[0]
        return same and load.operands[0] is pointers and self.analysis.distinct(pointers)

    def protect(self, store: ttir.Operation, values: Sequence[ttir.Value] = ()) -> None:
        """Materialises the loads before a write that it may overlap, and that are still to be used."""
        own = self.lazy_loads([x for x in values if is_tile(x)])
        for load in list(self.loads):
            value = load.result
            if value in self.buffers or not self.overlap(load.operands[0], store.operands[0]):
                continue
            later = self.analysis.used_after(value, store)
            if not later and load not in own:
                continue
            if store.name == "tt.store" and load in own and self._in_place(load, own[load], store):
                continue  # if it is used later too, the nest writes it to a buffer (`_kept`)
            group = self.group
            if group is not None and any(
                root.name == "tt.store" and self.overlap(load.operands[0], root.operands[0]) for root in group.roots
            ):
                self.flush()
                if value in self.buffers:
                    continue
            self.materialise(value)

    def flush(self) -> None:
        """Makes the nest of the statements that are held back."""
        group, self.group = self.group, None
        if group is None:
            return
        values = [x for root in group.roots for x in root.operands if is_tile(x)]
        lane = self.lane_dim(values)
        self.settle_across(values, lane)
        reductions = [root for root in group.roots if root.name == "tt.reduce"]
        axis = int(reductions[0].attributes["axis"]) if reductions else None
        kept = {value: self.buffer_for(value) for value in self._kept(group, values)}
        results = {root: Results.of(self, root) for root in reductions}
        reducers: dict[ttir.Operation, Reducer] = {}

        def body(index: Index, level: int, n: int) -> None:
            for value, buffer in kept.items():
                self.write(buffer, index, self.evaluate(value, index), level)
            for root in group.roots:
                if root in reducers:
                    reducers[root].step(index, level, n)
                else:
                    self.store(root, index, level)

        def after(indices: list[Index], level: int) -> None:
            for reducer in reducers.values():
                reducer.finish(indices, level)

        def emit() -> None:
            reducers.update((root, Reducer(self, root, lane, results[root])) for root in reductions)
            self.nest(group.shape, lane, body, after, axis, ACCUMULATORS if reductions else 1)

        masks = [root.operands[2] for root in group.roots if root.name == "tt.store" and len(root.operands) > 2]
        if reductions:
            self.versions(values, masks, emit)
        else:
            self.quotients(values, lambda: self.versions(values, masks, emit))
        self.buffers.update(kept)
        for found in results.values():
            found.publish(self)

    def _kept(self, group: Group, values: list[ttir.Value]) -> list[ttir.Value]:
        """Tiles that the nest computes and that are needed again: expensive ones, and loads that it overwrites."""
        analysis, last = self.analysis, group.roots[-1]
        stores = [root for root in group.roots if root.name == "tt.store"]
        left: dict[ttir.Value, int] = {}
        must = []
        for value, same in self.closure(values).items():
            if not same or not is_tile(value) or value in self.buffers or shape_of(value) != group.shape:
                continue
            operation = value.operation
            rest = analysis.roots[value] >> (analysis.position[last] + 1)
            if operation is None or not rest or not analysis.lazy(operation) or is_pointer(value):
                continue
            if operation.name == "tt.load" and any(
                self.overlap(operation.operands[0], s.operands[0]) and analysis.used_after(value, s) for s in stores
            ):
                must.append(value)
            elif weight(operation) and self.price(value) >= EXPENSIVE:
                left[value] = rest
        inside = {value: self.closure([value]) for value in left}
        outermost = [
            v for v in left if not any(w is not v and v in inside[w] and left[v] | left[w] == left[w] for w in left)
        ]
        return must + outermost

    def store(self, operation: ttir.Operation, index: Index, level: int) -> None:
        """tt.store of tiles, one vector."""
        pointers, value, *masks = (self.evaluate(x, index) for x in operation.operands)
        place = self.code.pointers(pointers, self.element(operation.operands[0]))
        mask = masks[0] if masks else None
        assert not isinstance(mask, Pointers)
        memory.store(self.code, place, self.to_memory(value), self.checked(operation, place, mask), level)
