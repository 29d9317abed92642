"""Loop nests around tile expressions, and tiles written to memory.

`Nests.nest` makes the loops in which tiles are evaluated. `materialise` writes a tile to the thread's scratch memory,
where that is cheaper than to evaluate it in place (an expensive tile that is broadcast) or the only way (a reshape that
merges dims). A tile that is contiguous along another dim than the last is written in squares, transposed in registers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import elementwise, llvm, ttir
from tensorlib.runtime.native.analysis import is_pointer, is_tile, permutation, shape_of, unit_dims, weight
from tensorlib.runtime.native.bounds import Bounds, Inside
from tensorlib.runtime.native.evaluate import Buffer, Index, Tiles, row_major, volume
from tensorlib.runtime.native.tiles import TRUE, Affine, Code, Number, Pointers, Uniform, Value, Vector, integer

#: operations of whose operands a nest may test whether the lanes of a vector have one quotient
_DIVISIONS = frozenset({"arith.divsi", "arith.divui", "arith.remsi", "arith.remui"})


class Nests(Tiles):
    """Code of loops."""

    _divisions: Sequence[ttir.Operation] = ()  #: whose operands are to be tested, a vector at a time

    # -- nests ---------------------------------------------------------------------------------------------------------

    def _constant_along(self, values: Sequence[ttir.Value]) -> set[ttir.Value]:
        """The tiles below some that do not differ along the nest's lanes: a nest computes them outside of that loop."""
        tiles = [value for value in values if is_tile(value)]
        lane = self.lane_dim(tiles)
        return {value for value, dims in self._visited(tiles)
                if len(dims) > lane and ((own := dims[lane]) is None or shape_of(value)[own] == 1)}  # fmt: skip

    def lane_dim(self, values: Sequence[ttir.Value]) -> int:
        """The dim that vectors run along: where most loads and stores are contiguous, else the last.

        What is read once a row counts for as much less, and what is written for more: a load that is contiguous along
        another dim can be transposed in registers (`settle_across`)."""
        shape = shape_of(values[0])
        size = max(1, volume(shape))
        scores = [0.0] * len(shape)
        for value, dims in self._visited(values):
            buffer, pointers = self.buffers.get(value), self._accessed(value)
            share = volume(shape_of(value)) / size
            for dim, own in enumerate(dims):
                if own is None:
                    continue
                if buffer is not None:
                    scores[dim] += 0.5 * share * (buffer.strides[own] == 1)
                elif pointers is not None and shape_of(pointers)[own] > 1:
                    written = 4.0 if value is pointers and value in values else 1.0
                    scores[dim] += written * share * (self.analysis.stride(pointers, own) in (1, -1))
        wide = self.machine.lanes // 2
        return max(range(len(shape)), key=lambda d: (shape[d] > 1, scores[d] if shape[d] >= wide else scores[d] - 8, d))

    def settle_across(self, values: Sequence[ttir.Value], lane: int) -> None:
        """Materialises the loads that are contiguous along another dim than a nest's lanes: they are read along it, and
        transposed in registers."""
        for value, dims in list(self._visited(values)):
            pointers, own = self._accessed(value), dims[lane]
            if value in self.buffers or pointers is None or is_pointer(value) or own is None:
                continue
            shape, wide = shape_of(value), self.machine.lanes // 2
            if shape[own] < wide or self.analysis.stride(pointers, own) in (0, 1, -1):
                continue
            if any(shape[d] >= wide and self.analysis.stride(pointers, d) == 1 for d in range(len(shape)) if d != own):
                self.materialise(value)

    def _accessed(self, value: ttir.Value) -> ttir.Value | None:
        """The pointers that evaluating a tile reads from, or that it is."""
        if is_pointer(value):
            return value
        operation = value.operation
        return operation.operands[0] if operation is not None and operation.name == "tt.load" else None

    def _visited(self, values: Sequence[ttir.Value]) -> Iterator[tuple[ttir.Value, tuple[int | None, ...]]]:
        """The tiles that evaluating tiles comes upon, with the dim of each that every dim of the nest is."""
        seen: set[tuple[ttir.Value, tuple[int | None, ...]]] = set()
        stack = [(value, tuple[int | None, ...](range(len(shape_of(value))))) for value in values if is_tile(value)]
        while stack:
            value, dims = stack.pop()
            if (value, dims) in seen or not is_tile(value):
                continue
            seen.add((value, dims))
            yield value, dims
            operation = value.operation
            if operation is None or value in self.buffers or value in self.moved or not self.analysis.lazy(operation):
                continue
            if operation.name == "tt.splat":
                continue
            stack.extend((x, self._source_dims(operation, dims)) for x in operation.operands)

    def _source_dims(self, operation: ttir.Operation, dims: tuple[int | None, ...]) -> tuple[int | None, ...]:
        source = shape_of(operation.operands[0])
        match operation.name:
            case "tt.expand_dims":
                axis = int(operation.attributes["axis"])
                return tuple(None if d is None or d == axis else d - (d > axis) for d in dims)
            case "tt.broadcast":
                return tuple(None if d is None or source[d] == 1 else d for d in dims)
            case "tt.trans":
                return tuple(None if d is None else permutation(operation)[d] for d in dims)
            case "tt.reshape":
                units = unit_dims(source, shape_of(operation.result)) or []
                return tuple(units.index(d) if d in units else None for d in dims)
        return dims

    def nest(
        self,
        shape: tuple[int, ...],
        lane: int,
        body: Callable[[Index, int, int], None],
        after: Callable[[list[Index], int], None] | None = None,
        innermost: int | None = None,
        unroll: int = 1,
        width: int | None = None,
        unrolled: int | None = None,
    ) -> None:
        """Loops over all elements of ``shape``, vectors along dim ``lane``.

        ``body(index, level, n)`` makes the code of one vector, the n-th of ``unroll`` that an iteration handles (along
        dim ``unrolled``, the lane dim if None); ``after(indices, level)`` what follows each run of the loop over dim
        ``innermost`` (the lane dim if None).
        """
        code = self.code
        assert not self._memo and len(code.levels) == 1, "nests do not nest"
        previous, size = code.lanes, shape[lane] if shape else 1
        lanes = code.lanes = min(width or self.machine.lanes, size)
        if unrolled is None:
            unrolled = lane
        unroll = min(unroll, size // lanes if unrolled == lane else shape[unrolled])
        if innermost is None:
            innermost = lane
        zero = integer(0, "i32")
        index: list[Number] = [zero] * len(shape)
        order = [d for d in range(len(shape)) if d not in (lane, innermost)]
        order += [lane] * (lane != innermost and bool(shape)) + [innermost] * bool(shape)
        self._memo.append({})
        opened: list[tuple[str, int, int]] = []
        level = level_after = 0
        for dim in order:
            if dim == innermost:
                level_after = level
            step = (lanes if dim == lane else 1) * (unroll if dim == unrolled else 1)
            start = zero
            if shape[dim] > step:
                level = code.open()
                self._memo.append({})
                slot = code.alloca("i32")
                start = Uniform(code.effect(level, f"load i32, ptr {slot}"), "i32", level)
                opened.append((slot, shape[dim], step))
            index[dim] = Affine(start, integer(1, "i32")) if dim == lane and lanes > 1 else start
        indices = []
        for n in range(unroll):
            moved = [*index]
            if n:
                distance = n * (lanes if unrolled == lane else 1)
                moved[unrolled] = code.add(index[unrolled], integer(distance, "i32"))
            indices.append(tuple(moved))
        self.innermost_index = index[innermost] if shape else zero
        self.level_after = level_after
        before = len(code.levels[level])
        for n, at in enumerate(indices):
            self._either(at, level, lambda at=at, n=n: body(at, level, n))  # type: ignore[misc]
        each = max(2.0, code.module.length(code.levels[level][before:]) / 4 / unroll)
        self.cost += self.trips * volume(shape) / lanes * each
        while len(opened) > level_after:
            self._close_loop(*opened.pop())
        if after is not None:
            after(indices, level_after)
        while opened:
            self._close_loop(*opened.pop())
        self._memo.clear()
        code.lanes = previous

    # -- quotients of indices ------------------------------------------------------------------------------------------

    def quotients(self, values: Sequence[ttir.Value], emit: Callable[[], None]) -> None:
        """A nest in which each vector whose indices have one quotient, as ``i // n`` and ``i % n`` mostly have, takes a
        way of its own, where it is a scalar and the remainder is contiguous. ``body`` is called twice for each."""
        closure, position, previous = self.closure(values), self.analysis.position, self._divisions
        self._divisions = sorted(
            (value.operation for value, same in closure.items()
             if same and value.operation is not None and value.operation.name in _DIVISIONS and is_tile(value)
             and value not in self.buffers and self.analysis.lazy(value.operation)),
            key=lambda operation: position[operation],
        )  # fmt: skip
        emit()
        self._divisions = previous

    def _either(self, index: Index, level: int, body: Callable[[], None]) -> None:
        """The code of one vector; twice where there are quotients to test."""
        code = self.code
        before = [dict(known) for known in self._memo]
        conditions = self._divided(index) if code.lanes > 1 else []
        if not conditions:
            self._memo[:] = before
            body()
            return
        module = code.module
        same, several, done = module.label(), module.label(), module.label()
        code.emit(level, f"br i1 {code.scalar(code.every(conditions)).text}, label %{same}, label %{several}")
        known = code.known(level)
        for label in (same, several):
            code.emit(level, f"{label}:")
            body()
            code.emit(level, f"br label %{done}")
            code.forget(known, level)
            self._memo[:] = [dict(known) for known in before]
        code.emit(level, f"{done}:")

    def _divided(self, index: Index) -> list[Uniform]:
        """Takes the lanes of an index to have one quotient, in each division; returns what has to hold for that."""
        code, conditions = self.code, list[Uniform]()
        for operation in self._divisions:
            a, b = (self.evaluate(x, index) for x in operation.operands)
            if not isinstance(a, Affine) or not isinstance(b, Uniform) or a.exact is not None or a.type != "i32":
                continue
            step = a.stride.constant
            if step is None or step < 1:
                continue
            reach = step * (code.lanes - 1)
            divisor = code.intrinsic("smax", [b, integer(1, "i32")])
            quotient = code.scalar(code.binary("udiv", a.base, divisor))
            rest = code.scalar(code.binary("sub", a.base, code.multiply(quotient, divisor)))
            conditions += [
                code.scalar(found) for found in (
                    code.compare("sgt", b, integer(0, "i32")),
                    code.compare("ule", a.base, integer((1 << 31) - 1 - reach, "i32")),
                    code.compare("ult", code.add(rest, integer(reach, "i32")), divisor),
                )
            ]  # fmt: skip
            found = quotient if operation.name.startswith("arith.div") else Affine(rest, a.stride)
            key = operation.result, tuple(i.key for i in index)
            self._memo[min(found.level, len(self._memo) - 1)][key] = found
        return conditions

    def _close_loop(self, slot: str, size: int, step: int) -> None:
        code, module = self.code, self.code.module
        lines = code.close()
        self._memo.pop()
        level = len(code.levels) - 1
        head, done = module.label(), module.label()
        now, following, more = module.name(), module.name(), module.name()
        for line in (
            f"store i32 0, ptr {slot}", f"br label %{head}", f"{head}:", *lines,
            f"{now} = load i32, ptr {slot}", f"{following} = add i32 {now}, {step}",
            f"store i32 {following}, ptr {slot}", f"{more} = icmp ult i32 {following}, {size}",
            f"br i1 {more}, label %{head}, label %{done}", f"{done}:",
        ):  # fmt: skip
            code.emit(level, line)

    def versions(self, values: Sequence[ttir.Value], masks: Sequence[ttir.Value], emit: Callable[[], None]) -> None:
        """A nest, twice where a test beforehand can make one of the two simpler (see `bounds`)."""
        code = self.code
        self.nests += 1
        if self._divisions and self.machine.lanes >= 16:
            emit()
            return
        bounds = Bounds(self)
        for mask in masks:
            bounds.mask(mask)
        inside = bounds.search(values)
        if self.guarded or not (inside.unwrapped or (inside.certain and self._masks_count)):
            emit()
            return
        if not inside.conditions:
            self._emit_inside(inside, emit)
            return
        condition = code.every(inside.conditions)
        module = code.module
        whole, edge, done = module.label(), module.label(), module.label()
        code.emit(0, f"br i1 {code.scalar(condition).text}, label %{whole}, label %{edge}")
        known, cost = code.known(), self.cost
        code.emit(0, f"{whole}:")
        self._emit_inside(inside, emit)
        code.forget(known)
        self.cost = cost
        code.emit(0, f"br label %{done}")
        code.emit(0, f"{edge}:")
        emit()
        code.forget(known)
        code.emit(0, f"br label %{done}")
        code.emit(0, f"{done}:")

    @functools.cached_property
    def _masks_count(self) -> bool:
        """Whether a nest without masks is worth the time that it takes to compile: AVX-512 has masks of its own, and a
        kernel of products spends its time elsewhere."""
        return self.machine.lanes < 16 or all(o.name != "tt.dot" for o in self.analysis.operations)

    def _emit_inside(self, inside: Inside, emit: Callable[[], None]) -> None:
        self.inside = inside
        emit()
        self.inside = None

    # -- materialisation -----------------------------------------------------------------------------------------------

    def materialise(self, value: ttir.Value) -> Buffer:
        """A tile in scratch memory, row-major. What is written to a buffer stays there until the region ends."""
        found = self.buffers.get(value)
        if found is not None:
            return found
        self.prepare([value])
        if value not in self.buffers:  # a reshape becomes a view of its operand's
            buffer = self.buffer_for(value)
            self.fill(buffer, value)
            self.buffers[value] = buffer
        return self.buffers[value]

    def fill(self, buffer: Buffer, value: ttir.Value) -> None:
        """Evaluates a tile into a buffer of its shape."""
        if self.pending([value]):
            self.flush()
        self.prepare([value])
        lane, last = self.lane_dim([value]), len(buffer.shape) - 1
        if last > 0 and buffer.strides[last] != 1:  # laid out for what is written to it
            lane = last = buffer.strides.index(1)
        width = min(self.machine.lanes, self.machine.lanes * 4 // llvm.SIZES[buffer.element])
        if lane != last and min(buffer.shape[lane], buffer.shape[last]) >= width >= 4:
            self.versions([value], (), lambda: self._fill_transposed(buffer, value, lane, width))
            return
        self.quotients([value], lambda: self.versions([value], (), lambda: self.nest(
            buffer.shape, lane, lambda index, level, n: self.write(buffer, index, self.evaluate(value, index), level)
        )))  # fmt: skip

    def fill_all(self, pairs: Sequence[tuple[Buffer, ttir.Value]]) -> None:
        """Evaluates tiles of one shape into buffers. In one nest, where their vectors run along the same dim, so that
        what they have in common is computed once: it writes nothing of an index before it has read all of it."""
        values = [value for _, value in pairs]
        if self.pending(values):
            self.flush()
        self.prepare(values)
        lane = self.lane_dim(values)
        if len(pairs) < 2 or any(buffer.strides[lane] != 1 for buffer, _ in pairs):
            for buffer, value in pairs:
                self.fill(buffer, value)
            return

        def body(index: Index, level: int, n: int) -> None:
            found = [self.to_memory(self.evaluate(value, index)) for value in values]
            for (buffer, _), value in zip(pairs, found, strict=True):
                self.write_memory(buffer, index, value, level)

        shape = pairs[0][0].shape
        self.quotients(values, lambda: self.versions(values, (), lambda: self.nest(shape, lane, body)))

    def _fill_transposed(self, buffer: Buffer, value: ttir.Value, lane: int, width: int) -> None:
        """Squares of a tile, evaluated along one dim and written along the last: transposed in registers."""
        code, last = self.code, len(buffer.shape) - 1
        rows: list[Vector] = []

        def body(index: Index, level: int, n: int) -> None:
            rows.append(code.vector(self.to_memory(self.evaluate(value, index))))
            if n < width - 1:
                return
            first, start = index[lane], code.add(index[last], integer(1 - width, "i32"))
            corner = first.base if isinstance(first, Affine) else first
            assert isinstance(start, Uniform)
            for k, column in enumerate(_transposed(code, rows)):
                at = [*index]
                at[lane], at[last] = code.add(corner, integer(k, "i32")), Affine(start, integer(1, "i32"))
                self.write_memory(buffer, tuple(at), column, level)
            rows.clear()

        self.nest(buffer.shape, lane, body, width=width, unroll=width, unrolled=last)

    def prepare(self, values: Sequence[ttir.Value], shape: tuple[int, ...] | None = None) -> None:
        """Materialises what lies under tiles and cannot, or should not, be evaluated at each of their indices."""
        size = volume(shape if shape is not None else max((shape_of(v) for v in values), key=volume))
        rows: set[ttir.Value] | None = None  # those that do not differ along the lanes
        while True:
            found = self.closure(values)
            for value, same in found.items():
                operation = value.operation
                if (
                    operation is None
                    or not is_tile(value)
                    or value in self.buffers
                    or not self.analysis.lazy(operation)
                ):
                    continue
                if (
                    operation.name == "tt.reshape"
                    and unit_dims(shape_of(operation.operands[0]), shape_of(value)) is None
                ):
                    source = self.materialise(operation.operands[0])
                    self.buffers[value] = Buffer(
                        source.base, source.element, shape_of(value), row_major(shape_of(value))
                    )
                    break
                own = volume(shape_of(value))
                if same or own >= size or weight(operation) < 1 or is_pointer(value):
                    continue
                if rows is None:
                    rows = self._constant_along(values)
                # read from a buffer each time, and written to it once: does that save anything?
                times = self.machine.lanes if value in rows else size // own
                if (times - 1) * (self.price(value) - 1) <= 2:
                    continue
                self.materialise(value)
                break
            else:
                return

    # -- combining functions -------------------------------------------------------------------------------------------

    def combine(self, operation: ttir.Operation, left: Sequence[Number], right: Sequence[Number]) -> list[Number]:
        """The function of a reduction or scan, of two operands each of which is one or more numbers."""
        region = operation.regions[0]
        values: dict[ttir.Value, Value] = dict(zip(region.blocks[0].arguments, [*left, *right], strict=True))
        return [_number(v) for v in self.run_region(region, values)]

    def run_region(self, region: ttir.Region, values: dict[ttir.Value, Value]) -> list[Value]:
        """Elementwise operations on given values; returns what the region returns.

        Nothing of them has an effect: both sides of a branch are computed, and what was taken is selected.
        """
        code, reached = self.code, dict[ttir.Block, Number]({region.blocks[0]: TRUE})
        number = {block: i for i, block in enumerate(region.blocks)}
        results: list[Value] = []
        for block in region.blocks:
            here = reached[block]
            for inner in block.operations[:-1]:
                self._run(inner, values)
            last = block.terminator
            if not last.successors:
                found = [self._given(x, values) for x in last.operands]
                pairs = zip(found, results or found, strict=True)
                results = [code.select(here, _number(x), _number(y)) for x, y in pairs]
                continue
            ways: list[Number] = [here]
            if last.name == "cf.cond_br":
                condition = _number(self._given(last.operands[0], values))
                otherwise = code.binary("xor", condition, TRUE)
                ways = [code.binary("and", here, condition), code.binary("and", here, otherwise)]
            for taken, (target, passed) in zip(ways, last.successors, strict=True):
                if number[target] <= number[block]:
                    raise UnsupportedError(
                        f"native: {last.name}: a loop is not supported in a function of elements (line {last.line})"
                    )
                for argument, x in zip(target.arguments, passed, strict=True):
                    value = _number(self._given(x, values))
                    values[argument] = code.select(taken, value, _number(values.get(argument, value)))
                reached[target] = code.binary("or", reached[target], taken) if target in reached else taken
        return results

    def _given(self, value: ttir.Value, values: dict[ttir.Value, Value]) -> Value:
        return values[value] if value in values else self.scalar(value)

    def _run(self, operation: ttir.Operation, values: dict[ttir.Value, Value]) -> None:
        """One operation of a region without effects."""
        if operation.name == "arith.constant":
            values[operation.result] = self.constant(operation)
        elif operation.name == "scf.if":
            condition = _number(self._given(operation.operands[0], values))
            sides = [self.run_region(region, values) for region in operation.regions]
            for result, *either in zip(operation.results, *sides, strict=True):
                yes, no = (_number(x) for x in either)
                values[result] = self.code.select(condition, yes, no)
        elif operation.regions or not elementwise.known(operation.name):
            raise UnsupportedError(
                f"native: {operation.name}: not supported in a function of elements (line {operation.line})"
            )
        else:
            operands = [self._given(x, values) for x in operation.operands]
            for result in operation.results:
                values[result] = elementwise.compute(self.code, operation, operands, result.index)


def _transposed(code: Code, rows: Sequence[Vector]) -> list[Vector]:
    """The columns of a square of n vectors of n lanes: log2(n) rounds, each of which exchanges blocks of one size."""
    n, vectors, size = len(rows), list(rows), 1
    while size < n:
        low = [i if not i & size else n + (i ^ size) for i in range(n)]
        high = [i ^ size if not i & size else n + i for i in range(n)]
        for k in range(n):
            if not k & size:
                pair = vectors[k], vectors[k + size]
                vectors[k], vectors[k + size] = code.interleave(*pair, low), code.interleave(*pair, high)
        size *= 2
    return vectors


def _number(value: Value) -> Number:
    assert not isinstance(value, Pointers)
    return value
