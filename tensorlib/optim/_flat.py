"""Optimizer state in flat buffers: one per quantity, group, dtype and device, whose slices are the state tensors.

A fused update then reads and writes a few long arrays. The slices are what users see in ``state`` and ``state_dict``;
when one of them is no longer the slice it was (a state_dict was loaded, an entry was replaced, the parameter was moved
or cast, or a parameter received its first gradient), the group's buffers are made again from what ``state`` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tensorlib._core import Tensor, modes
from tensorlib._dtypes import float32, float64
from tensorlib.errors import CaptureError
from tensorlib.ops import view_as_complex, view_as_real, zeros
from tensorlib.ops._optim_numpy import ALIGN


def as_real(tensors: Sequence[Any]) -> list[Any]:
    """Complex tensors as pairs of real numbers, which is how they are updated; views of the same memory."""
    return [view_as_real(t) if t.is_complex() else t for t in tensors]


class Block:
    """The state of parameters of one dtype on one device."""

    __slots__ = ("buffers", "device", "dtype", "index", "offsets", "own", "params", "shapes", "step", "views", "where")

    def __init__(
        self, params: Sequence[Tensor], names: Sequence[str], counted: bool, own: Sequence[str] = (),
        own_dtype: Any = float32,
    ) -> None:  # fmt: skip
        self.params = list(params)
        self.dtype, self.device = params[0].dtype, params[0].device
        self.shapes = [p.shape for p in params]
        self.where = {id(p): i for i, p in enumerate(params)}
        offsets, end = [], 0
        whole = as_real(params)
        for p in whole:
            offsets.append(end)
            end += -(-p.numel() // ALIGN) * ALIGN
        self.offsets, self.index = tuple(offsets), tuple(range(len(params)))
        self.buffers = {n: zeros(end, dtype=self.dtype.to_real(), device=self.device) for n in names}
        self.views: dict[str, list[Tensor]] = {
            n: [b.narrow(0, o, p.numel()).view(p.shape) for o, p in zip(offsets, whole, strict=True)]
            for n, b in self.buffers.items()
        }
        if self.dtype.is_complex:
            self.views = {n: [view_as_complex(v) for v in views] for n, views in self.views.items()}
        #: Steps made by each parameter.
        self.step = zeros(len(params), dtype=float32, device=self.device) if counted else None
        #: Other numbers that each parameter has, (k, n).
        self.own = zeros(len(own), len(params), dtype=own_dtype, device=self.device) if own else None
        if self.own is not None:
            numbers = {n: [self.own.select(0, k).select(0, i) for i in self.index] for k, n in enumerate(own)}
            self.views = {**numbers, **self.views}
        if self.step is not None:
            self.views = {"step": [self.step.select(0, i) for i in self.index], **self.views}


class Update(NamedTuple):
    """What one fused call works on: some parameters of a block, all with gradients."""

    block: Block
    params: list[Tensor]
    grads: list[Tensor]
    offsets: tuple[int, ...]
    #: Positions of the parameters in the block.
    places: tuple[int, ...]
    #: Positions in ``params`` of those whose state was made just now.
    fresh: list[int]


class Flat:
    """The blocks of every group of an optimizer."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[Block]] = {}

    def updates(
        self, number: int, group: dict[str, Any], state: Any, names: Sequence[str], counted: bool,
        own: Sequence[str] = (),
    ) -> list[Update]:  # fmt: skip
        """The fused calls of group ``number``, its state up to date: parameters without a gradient are left out."""
        active = [p for p in group["params"] if p.grad is not None]
        if not active:
            return []
        blocks = self.blocks.get(number, [])
        fresh: set[int] = set()
        keys = ("step", *own, *names) if counted else tuple(names)
        if not self._current(blocks, active, state, keys):
            if modes.capture is not None and active[0].is_cuda:
                raise CaptureError(
                    "optimizer.step: its state would be made while a graph is captured, and made anew by every replay: "
                    "run one step, on a side stream, before the capture"
                )
            fresh = {id(p) for p in active if state[p].get(names[0]) is None}
            blocks = self.blocks[number] = self._rebuild(group["params"], active, state, names, counted, own)
        if len(blocks) == 1 and len(active) == len(blocks[0].params):
            block = blocks[0]
            grads = [p.grad for p in active]
            made = Update(block, active, grads, block.offsets, block.index, _places(active, fresh))
            return [_real_parts(made) if block.dtype.is_complex else made]
        out = []
        for block in blocks:
            index = tuple(block.where[id(p)] for p in active if id(p) in block.where)
            if index:
                params = [block.params[i] for i in index]
                grads = [p.grad for p in params]
                offsets = tuple(block.offsets[i] for i in index)
                made = Update(block, params, grads, offsets, index, _places(params, fresh))
                out.append(_real_parts(made) if block.dtype.is_complex else made)
        return out

    @staticmethod
    def _current(blocks: list[Block], active: list[Tensor], state: Any, keys: tuple[str, ...]) -> bool:
        """Whether every active parameter's state is still its slice of a block of its dtype and device."""
        if not blocks:
            return False
        for p in active:
            own = state.get(p)
            if not own:
                return False
            for block in blocks:
                i = block.where.get(id(p))
                if i is not None and block.params[i] is p:
                    break
            else:
                return False
            if p.dtype != block.dtype or p.device != block.device or p.shape != block.shapes[i]:
                return False
            views = block.views
            for key in keys:
                kept = views.get(key)
                if kept is None or own.get(key) is not kept[i]:
                    return False
        return True

    @staticmethod
    def _rebuild(
        params: Sequence[Tensor], active: list[Tensor], state: Any, names: Sequence[str], counted: bool,
        own_names: Sequence[str],
    ) -> list[Block]:  # fmt: skip
        """New blocks for the active parameters and those with state, filled from ``state``, which then shows them."""
        running = {id(p) for p in active}
        buckets: dict[Any, list[Tensor]] = {}
        for p in params:
            if id(p) in running or (p in state and state[p].get(names[0]) is not None):
                buckets.setdefault((p.dtype, p.device), []).append(p)
        blocks = []
        for bucket in buckets.values():
            # A state that was loaded has these numbers in the parameter's dtype, as PyTorch casts them.
            given = [state[p].get(n) for p in bucket for n in own_names]
            wide = any(isinstance(x, Tensor) and x.dtype is float64 for x in given)
            block = Block(bucket, names, counted, own_names, float64 if wide else float32)
            for i, p in enumerate(bucket):
                own = state[p]
                for key, views in block.views.items():
                    old = own.get(key)
                    if isinstance(old, Tensor):
                        views[i].copy_(old.detach().reshape(views[i].shape))
                    elif old is not None:
                        views[i].fill_(float(old))
                    own[key] = views[i]
            blocks.append(block)
        return blocks


def _real_parts(update: Update) -> Update:
    return update._replace(params=as_real(update.params), grads=as_real(update.grads))


def _places(params: list[Tensor], fresh: set[int]) -> list[int]:
    return [i for i, p in enumerate(params) if id(p) in fresh] if fresh else []
