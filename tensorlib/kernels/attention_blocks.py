"""Blocks of attention: lists of those that a mask leaves, for each row of blocks and for each column.

A block is (BLOCK_Q, BLOCK_KV) queries by keys. Those in no list are skipped; those that the mask leaves whole are
listed apart, and go without it. The mask of a block that it cuts may be stored as a tile of bools. Dong et al. 2024,
"Flex Attention".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tensorlib._array import DeviceArray, is_contiguous
from tensorlib.kernels.indexing import contiguous
from tensorlib.runtime.compiler import jit

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["Blocks", "block_mask", "block_start", "listed_blocks"]


# ``blocks`` is (counts, indices, counts of whole blocks, their indices, numbers of tiles or None, from one batch's
# lists to the next, from one head's, rows of blocks, columns of blocks).
@jit
def _lists_of(blocks, z, H):
    # Which lists matrix z of (batch, H) has.
    z = tl.cast(z, tl.int64)
    return z // H * blocks[5] + z % H * blocks[6]


@jit
def listed_blocks(blocks, part: tl.constexpr, z, H, at, OF_KEYS: tl.constexpr):
    # How many blocks row ``at`` (column: OF_KEYS) of blocks has that the mask cuts (part 0), or that are whole (part
    # 1), and the list of them.
    which = _lists_of(blocks, z, H)
    if OF_KEYS:
        line = which * blocks[8] + at
        length = blocks[7]
    else:
        line = which * blocks[7] + at
        length = blocks[8]
    return tl.load(blocks[2 * part] + line), blocks[2 * part + 1] + line * length


@jit
def block_start(listed, j, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    # Where the j-th tile of the listed blocks begins: SIZE // BLOCK tiles a block.
    PER: tl.constexpr = SIZE // BLOCK
    return tl.load(listed + j // PER) * SIZE + j % PER * BLOCK


@jit
def block_mask(mask, blocks, z, H, row, column, BLOCK_Q: tl.constexpr, BLOCK_KV: tl.constexpr):
    # The address that the mask of (row, column) would have at (0, 0), rows BLOCK_KV apart: its block is a tile.
    r = row // BLOCK_Q
    c = column // BLOCK_KV
    tile = tl.load(blocks[4] + (_lists_of(blocks, z, H) * blocks[7] + r) * blocks[8] + c).to(tl.int64)
    return mask + ((tile - r) * (BLOCK_Q * BLOCK_KV) - c * BLOCK_KV)


class Blocks:
    """Lists of blocks (queries, keys) of ``size``, of int32.

    ``lists``: how many blocks (B, H, rows) each row has that the mask cuts, which (B, H, rows, columns), the same of
    those that it leaves whole; these four by columns; then, where the mask of cut blocks is stored, the number of each
    block's tile (B, H, rows, columns). B and H may be 1.
    """

    __slots__ = ("lists", "size")

    def __init__(self, lists: Sequence[DeviceArray], size: tuple[int, int]) -> None:
        self.lists = [x if is_contiguous(x) else contiguous(x) for x in lists]
        self.size = size

    def arguments(self, of_keys: bool) -> tuple[Any, ...]:
        """What kernels take: the lists of rows, or of columns."""
        batches, heads, rows, columns = self.lists[1].shape
        tiles = self.lists[8] if len(self.lists) > 8 else None
        apart = (heads if batches > 1 else 0, 1 if heads > 1 else 0)
        return (*self.lists[4:8], tiles, *apart, rows, columns) if of_keys else (
            *self.lists[:4], tiles, *apart, rows, columns,
        )  # fmt: skip
