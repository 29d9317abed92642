"""Attention with any function of scores and any mask, as ``torch.nn.attention.flex_attention`` has it.

``score_mod`` and ``mask_mod`` may be any functions of tensors: they are batched over all scores, which are then held at
once. Those of `nn.attention.mods` are computed inside the fused kernels, forward and backward; of any other mask bools
are made, and read by these. With a `BlockMask` that ``create_block_mask`` made, kernels skip the blocks that it leaves
out, apply no mask to those that it leaves whole, and bools are made of the rest alone.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

from tensorlib._core import Tensor, modes
from tensorlib._device import device as Device
from tensorlib.errors import ArgumentError, UnsupportedError
from tensorlib.func import vmap
from tensorlib.nn.attention.mods import MaskMod, ScoreMod, intersection
from tensorlib.nn.functional import pad
from tensorlib.ops import arange, argsort, full, matmul, tensor, where, zeros, zeros_like
from tensorlib.ops.attention import fits
from tensorlib.ops.flex_attention import ALL, _flex_attention
from tensorlib.runtime.engine import gpus

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "FlexKernelOptions",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]

_DEFAULT_SPARSE_BLOCK_SIZE = 128
_BACKENDS = ("AUTO", "TRITON", "FLASH", "TRITON_DECODE")


class FlexKernelOptions(TypedDict, total=False):
    """PyTorch's options of its kernels. Accepted and without effect: tiles are chosen by ``tensorlib tune``."""

    num_warps: int
    num_stages: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_M1: int
    BLOCK_N1: int
    BLOCK_M2: int
    BLOCK_N2: int
    PRESCALE_QK: bool
    ROWS_GUARANTEED_SAFE: bool
    BLOCKS_ARE_CONTIGUOUS: bool
    WRITE_DQ: bool
    FORCE_USE_FLEX_ATTENTION: bool
    USE_TMA: bool
    kpack: int
    matrix_instr_nonkdim: int
    waves_per_eu: int
    BACKEND: str


class AuxRequest(NamedTuple):
    """What ``flex_attention`` gives beside its output: log-sum-exps, and the largest score of each row."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What was requested; None where it was not."""

    lse: Tensor | None = None
    max_scores: Tensor | None = None


# ---------------------------------------------------------------------------------------------------------------- masks


def noop_mask(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    """True: every query looks at every key."""
    return batch.new_ones((), dtype=tensor(True).dtype)


def _joined(masks: tuple[Any, ...], start: bool) -> Callable[..., Tensor]:
    if not all(callable(m) for m in masks):
        raise RuntimeError(f"All inputs should be callable mask_mods: {masks}")

    def joined(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        result: Any = b.new_full((), start, dtype=tensor(True).dtype)
        for mask in masks:
            allowed = mask(b, h, q_idx, kv_idx)
            result = result & allowed if start else result | allowed
        return result

    return joined


def or_masks(*mask_mods: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mask_mod that allows what any of these allows."""
    return _joined(mask_mods, False)


def and_masks(*mask_mods: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mask_mod that allows what all of these allow; a fused one of fused ones."""
    if mask_mods and all(isinstance(m, MaskMod) for m in mask_mods):
        return intersection(mask_mods)  # type: ignore[arg-type]
    return _joined(mask_mods, True)


def _arity(function: Callable[..., Any]) -> int:
    """How many parameters without defaults a mod has: 5 with the score, 4 without. AssertionError for others."""
    found = sum(
        p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_POSITIONAL
        for p in inspect.signature(function).parameters.values()
    )
    if found not in (4, 5):
        raise AssertionError(f"Expected 4 or 5 positional args, got {found}")
    return found


def _batched(function: Callable[..., Any], score: bool) -> Callable[..., Any]:
    """A mod of scalars as one of (batches,), (heads,), (queries,), (keys,), after scores of all of them."""
    first = (0,) if score else ()
    for which in (3, 2, 1, 0):
        dims = [None] * 4
        dims[which] = 0  # type: ignore[call-overload]
        function = vmap(function, in_dims=(*first, *dims))
    return function


def _indices(B: int, H: int, L: int, S: int, device: Any) -> list[Tensor]:
    return [arange(n, device=device) for n in (B, H, L, S)]


def create_mask(
    mod_fn: Callable[..., Tensor], B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None
) -> Tensor:
    """mod_fn at every (b, h, q_idx, kv_idx), (B, H, Q_LEN, KV_LEN) bool; of a score_mod where it does not give -inf."""
    device = _default(device)
    B, H = 1 if B is None else B, 1 if H is None else H
    at = _indices(B, H, Q_LEN, KV_LEN, device)
    if _arity(mod_fn) == 5:
        mask: Tensor = _batched(mod_fn, True)(zeros(B, H, Q_LEN, KV_LEN, device=device), *at) != -math.inf
        return mask
    mask = _batched(mod_fn, False)(*at)
    return mask


def _default(device: Any) -> Any:
    """The GPU where there is one, for None."""
    if device is None:
        return Device("cpu" if gpus().kind() is None else "cuda")
    return device


def _sliced(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Any:
    raise RuntimeError(
        "Cannot use mask_mod from a sliced BlockMask. When you slice a BlockMask using [], the mask_mod attribute is "
        "reset. You must set it from the original BlockMask's mask_mod: sliced_mask.mask_mod = base_mask.mask_mod, its "
        "query index moved by where the slice begins"
    )


# ---------------------------------------------------------------------------------------------------------- block masks


def _dense(count: Tensor, indices: Tensor, columns: int) -> Tensor:
    """(…, rows, columns) int32: 1 where a block is listed."""
    listed = arange(indices.shape[-1], device=indices.device) < count.unsqueeze(-1)
    spot = where(listed, indices, columns).long()  # one column more takes what is not listed
    out = zeros(*indices.shape[:-1], columns + 1, dtype=indices.dtype, device=indices.device)
    return out.scatter(-1, spot, 1)[..., :columns].contiguous()


def _ordered(dense: Tensor) -> tuple[Tensor, Tensor]:
    """(how many blocks each row has, which: those first, both in rising order)."""
    dense = dense.int()
    return dense.sum(-1).int(), argsort(dense, dim=-1, descending=True, stable=True).int()


def _transposed(count: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    return _ordered(_dense(count, indices, indices.shape[-1]).transpose(-2, -1))


def _cropped(count: Tensor, indices: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    indices = indices[:, :, :rows, :columns]
    count = count[:, :, :rows].clamp(max=columns)
    return (indices < count.unsqueeze(-1)).sum(-1).int(), indices


_TENSORS = (
    "kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices",
    "full_q_num_blocks", "full_q_indices", "dq_write_order", "dq_write_order_full", "dq_kv_order",
)  # fmt: skip


class BlockMask:
    """Which blocks of BLOCK_SIZE (queries, keys) a mask leaves: for each row of blocks how many, and which columns.

    ``kv_num_blocks`` (B, H, rows), ``kv_indices`` (B, H, rows, columns) are the blocks that ``mask_mod`` cuts,
    ``full_kv_…`` those that it leaves whole (None where these are among the former); ``q_…`` are the same by columns.
    All int32. What counts in `flex_attention` is ``mask_mod``, as in PyTorch without compilation; blocks let kernels
    skip what it excludes where they are known to agree with it: those of ``create_block_mask``, moved or cropped.
    ``dq_…`` is kept as it is given: gradients are computed in one order here without it.
    """

    #: The mask_mod that the blocks are known to agree with.
    _agrees: Callable[..., Tensor] | None = None
    #: Numbers of the tiles of cut blocks, and where each lies: see `_tiles`.
    _tiled: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        seq_lengths: tuple[int, int],
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None,
        full_kv_indices: Tensor | None,
        q_num_blocks: Tensor | None,
        q_indices: Tensor | None,
        full_q_num_blocks: Tensor | None,
        full_q_indices: Tensor | None,
        BLOCK_SIZE: tuple[int, int] = (_DEFAULT_SPARSE_BLOCK_SIZE, _DEFAULT_SPARSE_BLOCK_SIZE),
        mask_mod: Callable[..., Tensor] = noop_mask,
        *,
        dq_write_order: Tensor | None = None,
        dq_write_order_full: Tensor | None = None,
        dq_kv_order: Tensor | None = None,
        dq_kv_order_spt: bool | None = None,
    ) -> None:
        if kv_indices.ndim < 2:
            raise RuntimeError("BlockMask must have at least 2 dimensions")
        if kv_num_blocks is None:
            raise AssertionError("kv_num_blocks must be provided")
        for side, one, other in (
            ("kv", full_kv_num_blocks, full_kv_indices),
            ("q", full_q_num_blocks, full_q_indices),
        ):
            if (one is None) != (other is None):
                raise AssertionError(
                    f"full_{side}_num_blocks and full_{side}_indices must be both provided or omitted"
                )
        if dq_write_order_full is not None and dq_write_order is None:
            raise ArgumentError("dq_write_order_full requires dq_write_order")
        self.seq_lengths = seq_lengths
        self.kv_num_blocks, self.kv_indices = kv_num_blocks, kv_indices
        self.full_kv_num_blocks, self.full_kv_indices = full_kv_num_blocks, full_kv_indices
        self.q_num_blocks, self.q_indices = q_num_blocks, q_indices
        self.full_q_num_blocks, self.full_q_indices = full_q_num_blocks, full_q_indices
        self.dq_write_order, self.dq_write_order_full = dq_write_order, dq_write_order_full
        self.dq_kv_order, self.dq_kv_order_spt = dq_kv_order, dq_kv_order_spt
        self.BLOCK_SIZE = BLOCK_SIZE
        self.mask_mod = mask_mod

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None,
        BLOCK_SIZE: int | tuple[int, int] = _DEFAULT_SPARSE_BLOCK_SIZE,
        mask_mod: Callable[..., Tensor] | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
        *,
        dq_write_order: Tensor | None = None,
        dq_write_order_full: Tensor | None = None,
        dq_kv_order: Tensor | bool | None = None,
    ) -> BlockMask:
        """A BlockMask of the blocks of each row; those of each column follow unless ``compute_q_blocks`` is False."""
        if kv_indices.ndim < 2:
            raise RuntimeError("BlockMask must have at least 2 dimensions")
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise AssertionError("full_kv_num_blocks and full_kv_indices must be both provided or omitted")
        columns: list[Any] = [None] * 4
        if compute_q_blocks:
            columns[:2] = _transposed(kv_num_blocks, kv_indices)
            if full_kv_num_blocks is not None and full_kv_indices is not None:
                columns[2:] = _transposed(full_kv_num_blocks, full_kv_indices)
        if isinstance(BLOCK_SIZE, int):
            BLOCK_SIZE = (BLOCK_SIZE, BLOCK_SIZE)
        if seq_lengths is None:
            seq_lengths = (kv_indices.shape[-2] * BLOCK_SIZE[0], kv_indices.shape[-1] * BLOCK_SIZE[1])
        if dq_kv_order is not None and not isinstance(dq_kv_order, (bool, Tensor)):
            raise ArgumentError("dq_kv_order must be a bool, Tensor, or None")
        return cls(
            seq_lengths, kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, columns[0], columns[1],
            columns[2], columns[3], BLOCK_SIZE, noop_mask if mask_mod is None else mask_mod,
            dq_write_order=dq_write_order, dq_write_order_full=dq_write_order_full,
            dq_kv_order=dq_kv_order if isinstance(dq_kv_order, Tensor) else None,
            dq_kv_order_spt=dq_kv_order if isinstance(dq_kv_order, bool) else None,
        )  # fmt: skip

    def as_tuple(self, flatten: bool = True) -> tuple[Any, ...]:
        """Every attribute in order: lengths, tensors, block sizes, mask_mod; ``flatten`` opens the pairs."""
        tensors = [getattr(self, name) for name in _TENSORS]
        if flatten:
            return (*self.seq_lengths, *tensors, self.dq_kv_order_spt, *self.BLOCK_SIZE, self.mask_mod)
        return (self.seq_lengths, *tensors, self.dq_kv_order_spt, self.BLOCK_SIZE, self.mask_mod)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, queries, keys)."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self) -> int:
        """How many elements the mask stands for."""
        return math.prod(self.shape)

    def sparsity(self) -> float:
        """The percentage of the mask that lies in blocks which are left out."""
        blocks = int(self.kv_num_blocks.sum().item())
        if self.full_kv_num_blocks is not None:
            blocks += int(self.full_kv_num_blocks.sum().item())
        return 100 * (1 - blocks * self.BLOCK_SIZE[0] * self.BLOCK_SIZE[1] / self.numel())

    def to_dense(self) -> Tensor:
        """(B, H, rows, columns) int32: 1 for a block that is not left out."""
        dense = _dense(self.kv_num_blocks, self.kv_indices, self.kv_indices.shape[-1])
        if self.full_kv_num_blocks is None or self.full_kv_indices is None:
            return dense
        return dense | _dense(self.full_kv_num_blocks, self.full_kv_indices, self.full_kv_indices.shape[-1])

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of each of the first ``limit`` masks: full, partly covered and empty cells of a grid."""
        dense = self.to_dense().cpu().numpy()
        *batches, rows, columns = dense.shape
        most = (grid_size, grid_size) if isinstance(grid_size, int) else grid_size
        if grid_size == -1:
            most = (rows, columns)
        row_step, column_step = (max(1, -(-n // m)) for n, m in zip((rows, columns), most, strict=True))
        pictures = []
        for i, at in enumerate(itertools.product(*map(range, batches))):
            if i == limit:
                pictures += [
                    "...", "To print out more, set BlockMask.to_string(limit=N)",
                    "You can also index (BlockMask[batch, head]) to choose a specific batch or head",
                ]  # fmt: skip
                break
            lines = [f"{at}"]
            for r in range(0, rows, row_step):
                shares = [
                    dense[at][r : r + row_step, c : c + column_step].mean() for c in range(0, columns, column_step)
                ]
                lines.append("".join(("█" if s == 1 else " " if s == 0 else "░") * 2 for s in shares))
            pictures.append("\n".join(lines) + "\n")
        return "\n".join(pictures)

    def __str__(self) -> str:
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{self.to_string().strip()}\n)"

    def __repr__(self) -> str:
        lines = []
        for name in _TENSORS[:8]:
            t = getattr(self, name)
            lines.append(f"    {name}={None if t is None else t.shape},")
        mask = getattr(self.mask_mod, "__name__", self.mask_mod)
        lines += [
            f"    BLOCK_SIZE={self.BLOCK_SIZE},", f"    shape={self.shape},", f"    sparsity={self.sparsity():.2f}%,",
            f"    mask_mod={mask}",
        ]  # fmt: skip
        return "BlockMask(\n" + "\n".join(lines) + "\n)"

    def _of(self, blocks: list[Any], mask_mod: Any, seq_lengths: tuple[int, int]) -> BlockMask:
        count, indices, full_count, full_indices = blocks
        made = BlockMask.from_kv_blocks(
            count, indices, full_count, full_indices, self.BLOCK_SIZE, mask_mod, seq_lengths, self.q_indices is not None
        )
        made.dq_kv_order_spt = self.dq_kv_order_spt
        if self.dq_write_order is not None:
            made.dq_write_order, made.dq_write_order_full = _write_order(made, bool(self.dq_kv_order_spt))
        return made

    def _without_order(self, what: str) -> None:
        if self.dq_kv_order is not None:
            raise UnsupportedError(
                f"{what} BlockMask with tensor dq_kv_order is not supported yet. Construct a new BlockMask with "
                f"matching precomputed dq_write_order metadata."
            )

    def __getitem__(self, index: Any) -> BlockMask:
        """The part at an index of batch, head and row of blocks; a number keeps its dimension. Set its ``mask_mod``."""
        self._without_order("Slicing")
        given = index if isinstance(index, tuple) else (index,)
        padded = (*given, slice(None), slice(None), slice(None))[:3]
        at = tuple(
            (slice(i + n, i + n + 1) if -n <= i < 0 else slice(i, i + 1)) if isinstance(i, int) else i
            for i, n in zip(padded, self.kv_num_blocks.shape[:3], strict=False)
        )
        blocks = [None if t is None else t[at] for t in (getattr(self, name) for name in _TENSORS[:4])]
        return self._of(blocks, _sliced, self.seq_lengths)

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """The upper left part of new lengths."""
        self._without_order("Adjusting")
        rows, columns = -(-new_q_len // self.BLOCK_SIZE[0]), -(-new_kv_len // self.BLOCK_SIZE[1])
        blocks: list[Any] = [*_cropped(self.kv_num_blocks, self.kv_indices, rows, columns), None, None]
        if self.full_kv_num_blocks is not None and self.full_kv_indices is not None:
            blocks[2:] = _cropped(self.full_kv_num_blocks, self.full_kv_indices, rows, columns)
        made = self._of(blocks, self.mask_mod, (new_q_len, new_kv_len))
        if new_q_len <= self.seq_lengths[0] and new_kv_len <= self.seq_lengths[1]:
            made._agrees = self._agrees
        return made

    def to(self, device: Any) -> BlockMask:
        """The same on another device; tensors that ``mask_mod`` has stay where they are."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        moved: dict[str, Any] = {name: t if t is None else t.to(device) for name, t in tensors.items()}
        made = BlockMask(
            self.seq_lengths, **moved, BLOCK_SIZE=self.BLOCK_SIZE, mask_mod=self.mask_mod,
            dq_kv_order_spt=self.dq_kv_order_spt,
        )  # fmt: skip
        made._agrees = self._agrees
        return made


def _write_order(mask: BlockMask, descending: bool) -> tuple[Tensor, Tensor | None]:
    """For each block by columns, the how-manieth of its row it is: PyTorch's order of adding up query gradients."""
    if mask.q_num_blocks is None or mask.q_indices is None:
        raise ArgumentError("BlockMask must have q_num_blocks and q_indices to compute dq_write_order")
    dense = mask.to_dense()
    ends = dense.cumsum(-1)
    rank = ends[..., -1:] - ends if descending else ends - dense

    def of(indices: Tensor) -> Tensor:
        row = indices.long().clamp(0, dense.shape[-2] - 1)
        found: Tensor = rank.transpose(-2, -1).gather(-1, row).int()
        return found

    return of(mask.q_indices), None if mask.full_q_indices is None else of(mask.full_q_indices)


def create_block_mask(
    mask_mod: Callable[..., Tensor],
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = _DEFAULT_SPARSE_BLOCK_SIZE,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """The blocks in which ``mask_mod(b, h, q_idx, kv_idx)`` is True somewhere, and apart those that it leaves whole.

    B, H None: 1, the mask is the same for all. ``separate_full_blocks`` False lists both kinds together.
    ``compute_dq_write_order`` adds PyTorch's order of gradients. ``_compile`` has no effect. AssertionError for a
    function that does not take four arguments.
    """
    if _arity(mask_mod) != 4:
        raise AssertionError(f"create-block_mask requires a mask_mod function! Got {mask_mod}")
    if not isinstance(dq_kv_order, bool):
        raise ArgumentError("dq_kv_order must be a bool when using create_block_mask")
    m, n = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else BLOCK_SIZE
    mask = create_mask(mask_mod, B, H, Q_LEN, KV_LEN, device)
    mask = pad(mask, (0, -KV_LEN % n, 0, -Q_LEN % m))
    *lead, rows, columns = mask.shape
    covered = mask.reshape((*lead, rows // m, m, columns // n, n)).sum((-3, -1))
    partial, full = covered > 0, None
    if separate_full_blocks:
        full = covered == m * n
        partial = partial & full.logical_not()
    whole = (None, None) if full is None else _ordered(full)
    made = BlockMask.from_kv_blocks(*_ordered(partial), whole[0], whole[1], (m, n), mask_mod, (Q_LEN, KV_LEN))
    if compute_dq_write_order:
        made.dq_write_order, made.dq_write_order_full = _write_order(made, dq_kv_order)
        made.dq_kv_order_spt = dq_kv_order
    made._agrees = mask_mod
    return made


def _lists(mask: BlockMask, device: Any) -> list[Tensor] | None:
    """The lists that kernels take; None where the blocks may not agree with the mask, or are no multiples of tiles."""
    known = mask._agrees is not None and mask._agrees is mask.mask_mod and mask.q_indices is not None
    if not known or any(side % 16 for side in mask.BLOCK_SIZE) or Device("cpu") == device:
        return None
    found: list[Any] = []
    count: Any
    for count, indices, full_count, full_indices in (
        (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices),
        (mask.q_num_blocks, mask.q_indices, mask.full_q_num_blocks, mask.full_q_indices),
    ):
        found += [count, indices]
        found += [zeros_like(count), indices] if full_count is None else [full_count, full_indices]
    return found


def _tiles(mask: BlockMask) -> tuple[Tensor, Tensor]:
    """(the mask of each block that it cuts (number, queries, keys), each block's number: -1 whole, -2 left out)."""
    if mask._tiled is None:
        listed = _dense(mask.kv_num_blocks, mask.kv_indices, mask.kv_indices.shape[-1])
        number = where(listed > 0, listed.flatten().cumsum(0).reshape(listed.shape) - 1, -2)
        if mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None:
            whole = _dense(mask.full_kv_num_blocks, mask.full_kv_indices, mask.full_kv_indices.shape[-1])
            number = where(whole > 0, -1, number)
        at = listed.nonzero()  # how many there are is read by the host, once a BlockMask
        mask._tiled = number.int(), at if at.shape[0] else at.new_zeros((1, 4))
    number, at = mask._tiled
    b, h, row, column = at.unbind(1)
    (m, n), (L, S) = mask.BLOCK_SIZE, mask.seq_lengths
    i = (row.unsqueeze(1) * m + arange(m, device=at.device)).clamp(max=L - 1)
    j = (column.unsqueeze(1) * n + arange(n, device=at.device)).clamp(max=S - 1)
    of: Any = mask.mask_mod
    for dims in ((None, None, None, 0), (None, None, 0, None), (0, 0, 0, 0)):
        of = vmap(of, in_dims=dims)
    tiles: Tensor = of(b, h, i, j)
    return tiles, number


# ------------------------------------------------------------------------------------------------------------ attention


def _check(query: Any, key: Any, value: Any, enable_gqa: bool, block_mask: Any) -> None:
    """The errors of the operands."""
    if query.device != key.device or query.device != value.device:
        raise ArgumentError(
            f"Expected query, key, and value to have the same device type, but got query.device: {query.device}, "
            f"key.device: {key.device}, and value.device: {value.device} instead."
        )
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ArgumentError(
            f"Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: {query.ndim}, "
            f"key.dim: {key.ndim} and value.dim: {value.ndim} instead."
        )
    if query.shape[-1] != key.shape[-1]:
        raise ArgumentError(
            f"Expect query and key/value to have the same embedding dimension but got E={query.shape[-1]} and "
            f"E={key.shape[-1]}."
        )
    if not query.ndim == key.ndim == value.ndim == 4:
        raise UnsupportedError("NYI: query, key, and value must be 4D tensors")
    heads, of_key = query.shape[1], key.shape[1]
    if not enable_gqa and heads != of_key:
        raise ArgumentError(
            f"Expect query and key/value to have the same number of heads but got Hq={heads} and Hkv={of_key}. Try "
            f"setting enable_gqa=True for GQA."
        )
    if enable_gqa and (not of_key or heads % of_key):
        raise ArgumentError(
            f"Expect number of query heads to be a multiple of kv heads for GQA but got Hq={heads} and Hkv={of_key}."
        )
    batch, of_key = query.shape[0], key.shape[0]
    if batch != of_key:
        if block_mask is None:
            raise ArgumentError(
                f"Expect query and key/value to have the same batch size, or non-none block_mask, but got "
                f"block_mask=None, Bq={batch}, and Bkv={of_key}."
            )
        if block_mask.kv_num_blocks.shape[0] != batch:
            raise ArgumentError(
                f"Expect query and key/value to have the same batch size, or block_mask and query to have the same "
                f"batch size, but got Bq={batch}, Bkv={of_key}, B_block_mask={block_mask.kv_num_blocks.shape[0]}."
            )
        if of_key != 1:
            raise RuntimeError(f"Bq and Bkv must broadcast. Got Bq={batch} and Bkv={of_key}")


def _check_mask(mask: BlockMask, query: Any, key: Any) -> None:
    """The errors of a block mask."""
    if mask.mask_mod is _sliced:
        raise RuntimeError("Cannot use mask_mod from a sliced BlockMask")
    L, S = query.shape[-2], key.shape[-2]
    if tuple(mask.shape[-2:]) != (L, S):
        smaller = L > mask.shape[-2] or S > mask.shape[-1]
        raise ArgumentError(
            f"block_mask was created for block_mask.shape={mask.shape} but got q_len={L} and kv_len={S}. As the block "
            f"mask was created for a {'smaller' if smaller else 'larger'} length than you're using it for, you likely "
            f"need to create a new block mask"
            + ("." if smaller else ", or crop it by block_mask._adjust(q_len, kv_len).")
        )
    if query.device != mask.kv_num_blocks.device:
        raise RuntimeError(
            f"Expect q/k/v and block_mask to be on the same device but got {query.device} and "
            f"{mask.kv_num_blocks.device}."
        )


def _check_options(options: Any) -> None:
    options = options or {}
    if "BACKEND" in options:
        if options.get("FORCE_USE_FLEX_ATTENTION", False):
            raise RuntimeError("BACKEND cannot be combined with legacy FORCE_USE_FLEX_ATTENTION: name the BACKEND only")
        if options["BACKEND"] not in _BACKENDS:
            raise ArgumentError(f"Invalid BACKEND value '{options['BACKEND']}'. Must be one of {_BACKENDS}")


def _learned(buffers: Any) -> bool:
    return bool(modes.grad) and any(b.requires_grad for b in buffers)


def _with_scores(
    query: Any, key: Any, value: Any, score_mod: Any, mask: Any, scale: float
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out, log-sum-exp, largest score), all scores held at once."""
    B, H, L, _ = query.shape
    S = key.shape[-2]
    group = H // key.shape[1] if key.shape[1] else 1
    k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (key, value))
    q, k, v = (x.float() if x.dtype.itemsize < 4 else x for x in (query, k, v))
    s = matmul(q, k.transpose(-1, -2)) * scale
    if score_mod is not None:
        s = _batched(score_mod, True)(s, *_indices(B, H, L, S, query.device)).to(s.dtype)
    if mask is not None:
        s = where(mask, s, full((), -math.inf, dtype=s.dtype, device=s.device))
    nothing = (s == -math.inf).all(-1, keepdim=True)
    calm = where(nothing, zeros((), dtype=s.dtype, device=s.device), s)
    w = calm.softmax(-1).masked_fill(nothing, 0.0)
    lse = calm.logsumexp(-1).masked_fill(nothing.squeeze(-1), -math.inf)
    top = s.amax(-1) if S else s.new_full((B, H, L), -math.inf)
    return matmul(w, v).to(query.dtype), lse, top


def _attend(
    query: Any, key: Any, value: Any, score_mod: Any, block_mask: BlockMask | None, scale: float, want_top: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(out, log-sum-exp, largest score), in the fused kernels where these can."""
    mask_mod: Any = None if block_mask is None or block_mask.mask_mod is noop_mask else block_mask.mask_mod
    B, H, L, _ = query.shape
    S = key.shape[-2]
    if key.shape[0] != B:
        key, value = (x.expand(B, *x.shape[1:]) for x in (key, value))
    fused = (
        (score_mod is None or (isinstance(score_mod, ScoreMod) and not _learned(score_mod.buffers)))
        and not want_top
        and query.dtype == key.dtype == value.dtype
        and fits(query, value)
    )
    mask: Any = None
    blocks: list[Tensor] | None = None
    inside = fused and isinstance(mask_mod, MaskMod)
    # Where a window is all that a mask is, kernels know without lists what lies outside.
    if fused and block_mask is not None and mask_mod is not None and not (inside and not mask_mod.chain):
        blocks = _lists(block_mask, query.device)
    if blocks is not None and not inside and block_mask is not None:
        mask, number = _tiles(block_mask)
        blocks.append(number)
    elif mask_mod is not None and not inside:
        mask = _batched(mask_mod, False)(*_indices(B, H, L, S, query.device))
    if not fused:
        return _with_scores(query, key, value, score_mod, mask, scale)
    parts = [m for m in (score_mod, mask_mod if inside else None) if m is not None]
    out, lse = _flex_attention(
        query, key, value, mask, [b for m in parts for b in m.buffers], blocks or [],
        mask_mod.window if inside else ALL, False, tuple(link for m in parts for link in m.chain), scale,
        None if blocks is None or block_mask is None else tuple(block_mask.BLOCK_SIZE),
    )  # fmt: skip
    return out, where(lse == math.inf, -lse, lse), None


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: FlexKernelOptions | None = None,
    *,
    return_aux: AuxRequest | None = None,
) -> Any:
    """softmax(score_mod(query @ key.mT * scale)) @ value where block_mask.mask_mod allows; scale 1 / sqrt(E) for None.

    query (B, H, L, E), key (B, H_kv, S, E), value (B, H_kv, S, E_v) -> (B, H, L, E_v); H_kv is H, or divides it with
    ``enable_gqa``; B of key and value may be 1. ``score_mod(score, b, h, q_idx, kv_idx)`` and ``mask_mod(b, h, q_idx,
    kv_idx)`` are functions of scalar tensors, batched by vmap; gradients reach what they capture. Functions of
    `nn.attention.mods` run in the fused kernels, where no scores are stored; other masks are stored as bools and read
    by these. What a window excludes, and blocks that ``create_block_mask`` found empty, are skipped. Another score_mod,
    one with a parameter that requires grad, and ``max_scores`` hold all scores at once. Scores in float32 (float64 for
    float64). A query that may look at no key
    gives 0, its log-sum-exp is -inf. ``return_aux=AuxRequest(lse=…, max_scores=…)`` gives (out, AuxOutput); the older
    ``return_lse`` (out, log-sum-exp), both (B, H, L). kernel_options have no effect. ValueError for sizes that do not
    fit. Dong et al. 2024, "Flex Attention".
    """
    _check(query, key, value, enable_gqa, block_mask)
    if block_mask is not None:
        _check_mask(block_mask, query, key)
    if return_lse and return_aux is not None:
        raise ArgumentError(
            "Cannot specify both return_lse and return_aux. return_lse is deprecated, please use "
            "return_aux=AuxRequest(lse=True) instead."
        )
    _check_options(kernel_options)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else float(scale)
    want_top = return_aux is not None and return_aux.max_scores
    state = modes.autocast
    if state is not None:  # as one operator: nothing within is cast
        query, key, value = state.cast(("lower", "lower"), (query, key, value))[0]
        modes.autocast = None
    try:
        out, lse, top = _attend(query, key, value, score_mod, block_mask, scale, want_top)
    finally:
        modes.autocast = state
    if return_aux is not None:
        return out, AuxOutput(lse if return_aux.lse else None, top if return_aux.max_scores else None)
    return (out, lse) if return_lse else out
