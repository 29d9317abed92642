"""A kernel with the functions that it calls put in their place.

The kernel is copied, so that a module may be lowered more than once. A call of a function of one block becomes the
function's operations; a call of one that branches becomes an operation ``tt.call`` with a region of its blocks. Blocks
come in an order in which each is after those it may be reached from.
"""

from __future__ import annotations

from tensorlib.errors import UnsupportedError
from tensorlib.runtime.native import scaled, ttir

Values = dict[ttir.Value, ttir.Value]


def inlined(module: ttir.Module) -> ttir.Function:
    """The module's kernel without calls. UnsupportedError for recursion, and for loops made of branches."""
    return _Copy(module).function(module.kernel)


class _Copy:
    def __init__(self, module: ttir.Module) -> None:
        self.module = module
        self.calls: list[str] = []

    def function(self, function: ttir.Function) -> ttir.Function:
        body = self.region(function.body, {})
        return ttir.Function(
            function.name, body.blocks[0].arguments, function.argument_attributes, function.results, body,
            function.public, function.attributes, function.line,
        )  # fmt: skip

    def region(self, region: ttir.Region, values: Values) -> ttir.Region:
        ordered = _ordered(region.blocks)
        copies = {block: ttir.Block(name=block.name) for block in ordered}
        for block, copy in copies.items():
            for argument in block.arguments:
                if argument not in values:  # those of a call's entry block are its operands
                    values[argument] = ttir.Value(argument.type, None, argument.index, argument.name, copy)
                    copy.arguments.append(values[argument])
        for block, copy in copies.items():
            for operation in block.operations:
                self.operation(operation, values, copy, copies)
        return ttir.Region(list(copies.values()))

    def operation(
        self, operation: ttir.Operation, values: Values, block: ttir.Block, blocks: dict[ttir.Block, ttir.Block]
    ) -> None:
        """Appends a copy of an operation, or what it calls, to a block."""
        if operation.name == "tt.call":
            self.call(operation, values, block)
            return
        if operation.name == "tt.dot_scaled":
            values[operation.result] = scaled.expand(operation, [values[x] for x in operation.operands], block)
            return
        copy = ttir.Operation(
            operation.name, [values[x] for x in operation.operands], operation.attributes, line=operation.line,
            file=operation.file, block=block,
        )  # fmt: skip
        for result in operation.results:
            values[result] = ttir.Value(result.type, copy, result.index, result.name)
            copy.results.append(values[result])
        copy.regions = [self.region(region, values) for region in operation.regions]
        copy.successors = [(blocks[target], [values[x] for x in given]) for target, given in operation.successors]
        block.operations.append(copy)

    def call(self, operation: ttir.Operation, values: Values, block: ttir.Block) -> None:
        name = str(operation.attributes["callee"]).strip('@"')
        if name in self.calls:
            raise UnsupportedError(f"native: tt.call: {name} calls itself (line {operation.line})")
        callee = self.module.functions[name]
        self.calls.append(name)
        given: Values = {a: values[x] for a, x in zip(callee.arguments, operation.operands, strict=True)}
        entry = callee.body.blocks[0]
        if len(callee.body.blocks) == 1:
            for inner in entry.operations[:-1]:
                self.operation(inner, given, block, {})
            for result, returned in zip(operation.results, entry.terminator.operands, strict=True):
                values[result] = given[returned]
        else:
            copy = ttir.Operation("tt.call", [], operation.attributes, line=operation.line, file=operation.file,
                                  block=block)  # fmt: skip
            for result in operation.results:
                values[result] = ttir.Value(result.type, copy, result.index, result.name)
                copy.results.append(values[result])
            copy.regions = [self.region(callee.body, given)]
            block.operations.append(copy)
        self.calls.pop()


def _ordered(blocks: list[ttir.Block]) -> list[ttir.Block]:
    """Blocks that can be reached, each after its predecessors."""
    if len(blocks) == 1:
        return blocks
    finished: list[ttir.Block] = []
    open_: set[ttir.Block] = set()
    stack = [(blocks[0], iter(_successors(blocks[0])))]
    open_.add(blocks[0])
    done: set[ttir.Block] = set()
    while stack:
        block, rest = stack[-1]
        following = next(rest, None)
        if following is None:
            stack.pop()
            open_.discard(block)
            done.add(block)
            finished.append(block)
        elif following in open_:
            raise UnsupportedError("native: a branch goes back: expected loops as scf.for or scf.while")
        elif following not in done:
            open_.add(following)
            stack.append((following, iter(_successors(following))))
    return finished[::-1]


def _successors(block: ttir.Block) -> list[ttir.Block]:
    return [target for target, _ in block.terminator.successors] if block.operations else []
