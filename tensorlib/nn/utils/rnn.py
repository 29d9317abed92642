"""Sequences of different lengths in one tensor: padded to the longest, or packed without padding.

Packed rows lie step by step: the first elements of all sequences, longest first, then the second ones of those that
have one, and so on. ``batch_sizes`` says how many there are at each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlib._core import Tensor
from tensorlib._device import device as Device
from tensorlib._dtypes import float16, float32, float64, int8, int16, int32, int64, uint8
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.ops import arange, as_tensor, cat, empty_like, from_numpy, tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class PackedSequence_(NamedTuple):
    """The fields of a PackedSequence."""

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(PackedSequence_):
    """Rows of all sequences, (sum of lengths, …), and how many belong to each step; recurrent layers take and give it.

    ``batch_sizes`` stays on the CPU. ``sorted_indices`` put the batch in order of length, ``unsorted_indices`` back.
    Made by ``pack_sequence`` and ``pack_padded_sequence``.
    """

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        """From the fields, or from the pair (data, batch_sizes) as one argument."""
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        elif batch_sizes.device.type != "cpu":
            raise ValueError(
                "batch_sizes should always be on CPU. Instances of PackedSequence should never be created manually. "
                "They should be instantiated by functions like pack_sequence and pack_padded_sequence in nn.utils.rnn."
            )
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def _with(self, data: Tensor) -> PackedSequence:
        """Other data; its permutations follow it to its device."""
        if data is self.data:
            return self
        places = (None if i is None else i.to(data.device) for i in (self.sorted_indices, self.unsorted_indices))
        return type(self)(data, self.batch_sizes, *places)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data in another dtype or on another device, as ``Tensor.to``; self where nothing changes."""
        return self._with(self.data.to(*args, **kwargs))

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """On a GPU."""
        return self._with(self.data.cuda(*args, **kwargs))

    def cpu(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """On the CPU, and what else ``to`` takes."""
        return self.to(*args, **{"device": Device("cpu"), **kwargs})

    def double(self) -> PackedSequence:
        """In float64."""
        return self.to(dtype=float64)

    def float(self) -> PackedSequence:
        """In float32."""
        return self.to(dtype=float32)

    def half(self) -> PackedSequence:
        """In float16."""
        return self.to(dtype=float16)

    def long(self) -> PackedSequence:
        """In int64."""
        return self.to(dtype=int64)

    def int(self) -> PackedSequence:
        """In int32."""
        return self.to(dtype=int32)

    def short(self) -> PackedSequence:
        """In int16."""
        return self.to(dtype=int16)

    def char(self) -> PackedSequence:
        """In int8."""
        return self.to(dtype=int8)

    def byte(self) -> PackedSequence:
        """In uint8."""
        return self.to(dtype=uint8)

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """q with q[permutation[i]] = i; None for None."""
    if permutation is None:
        return None
    places = arange(0, permutation.numel(), device=permutation.device)
    return empty_like(permutation).scatter_(0, permutation, places)


def _places(lengths: np.ndarray, of_time: Any, of_batch: Any) -> np.ndarray:
    """Where each packed row is in the flattened padded batch: time * of_time + sequence * of_batch."""
    steps, sequences = np.nonzero(np.arange(lengths.max(initial=0))[:, None] < lengths)
    return steps * of_time + sequences * of_batch


def _sizes(lengths: np.ndarray) -> np.ndarray:
    """How many sequences have a step, for each step."""
    return (np.arange(lengths.max(initial=0))[:, None] < lengths).sum(1)


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """The first ``lengths[b]`` steps of each sequence of a padded batch, packed.

    input (L, B, …), or (B, L, …) with ``batch_first``. Lengths must fall unless ``enforce_sorted`` is False, which
    sorts the batch and notes how.
    """
    lengths = as_tensor(lengths, dtype=int64) if not isinstance(lengths, Tensor) else lengths.to(dtype=int64)
    if lengths.ndim != 1 or lengths.device.type != "cpu":
        raise ArgumentError(
            f"pack_padded_sequence: 'lengths' argument should be a 1D CPU int64 tensor, but got {lengths.ndim}D "
            f"{lengths.device} tensor"
        )
    if not input.numel():
        raise ShapeError(f"pack_padded_sequence: Cannot pack empty tensors, got {tuple(input.shape)}.")
    steps, batch = (input.shape[1], input.shape[0]) if batch_first else input.shape[:2]
    if len(lengths) != batch:
        raise ShapeError(
            f"pack_padded_sequence: Expected `len(lengths)` to be equal to batch_size, but got {len(lengths)} "
            f"(batch_size={batch})"
        )
    counts = lengths.numpy()
    if counts.min() <= 0:
        raise ArgumentError(
            "pack_padded_sequence: Length of all samples has to be greater than 0, but found an element in 'lengths' "
            "that is <= 0"
        )
    if counts.max() > steps:
        raise ShapeError(
            f"pack_padded_sequence: a length of {counts.max()} with an input {tuple(input.shape)}: expected at most "
            f"its {steps} steps"
        )
    order = None
    if not enforce_sorted:
        ordered, order = lengths.sort(descending=True)
        counts = ordered.numpy()
        order = order.to(input.device)
        input = input.index_select(0 if batch_first else 1, order)
    elif (np.diff(counts) > 0).any():
        raise ArgumentError(
            "pack_padded_sequence: `lengths` array must be sorted in decreasing order when `enforce_sorted` is True. "
            "You can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
            "requirement if you do not need ONNX exportability."
        )
    places = _places(counts, *((1, steps) if batch_first else (batch, 1)))
    data = input.flatten(0, 1).index_select(0, from_numpy(places).to(input.device))
    return PackedSequence(data, from_numpy(_sizes(counts)), order)


def _spread(rows: Tensor, places: np.ndarray, n: Any, padding_value: Any) -> Tensor:
    """n rows of padding, the given ones at their places."""
    padding = rows.new_full((n, *rows.shape[1:]), padding_value)
    return padding.index_copy(0, from_numpy(places).to(rows.device), rows)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: Any = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(padded batch, lengths): the inverse of ``pack_padded_sequence``, the batch in its first order.

    ``total_length`` pads to more steps than the longest sequence has.
    """
    sizes = sequence.batch_sizes.numpy()
    steps = len(sizes)
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                f"Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total_length} and max sequence length being {steps}"
            )
        steps = total_length
    batch = int(sizes[0])
    counts = (sizes[:, None] > np.arange(batch)).sum(0)
    places = _places(counts, *((1, steps) if batch_first else (batch, 1)))
    padded = _spread(sequence.data, places, steps * batch, padding_value)
    padded = padded.unflatten(0, (batch, steps) if batch_first else (steps, batch))
    lengths, back = from_numpy(counts), sequence.unsorted_indices
    if back is None:
        return padded, lengths
    return padded.index_select(0 if batch_first else 1, back), lengths[back.cpu()]


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: Any = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences (L_b, …) in one tensor (L, B, …), or (B, L, …) with ``batch_first``, padded at their end or start."""
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    sequences = tuple(sequences)
    if not sequences:
        raise ArgumentError("pad_sequence: received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise ArgumentError(f"pad_sequence: padding_side should be one of left, right, got {padding_side!r}")
    counts = np.array([len(s) for s in sequences])
    steps, batch = int(counts.max()), len(counts)
    first = np.zeros(batch, int) if padding_side == "right" else steps - counts
    times = np.concatenate([np.arange(a, a + n) for a, n in zip(first, counts, strict=True)])
    of_time, of_batch = (1, steps) if batch_first else (batch, 1)
    places = times * of_time + np.repeat(np.arange(batch), counts) * of_batch
    rows = cat([s.to(sequences[0].dtype) for s in sequences])
    padded = _spread(rows, places, steps * batch, padding_value)
    return padded.unflatten(0, (batch, steps) if batch_first else (steps, batch))


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded batch, each of its length: the inverse of ``pad_sequence``."""
    batch = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [seq[: int(n)].clone() for seq, n in zip(batch, lengths, strict=True)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (L_b, …) packed; lengths must fall unless ``enforce_sorted`` is False."""
    lengths = tensor([len(s) for s in sequences])
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a PackedSequence, in their first order."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), batch_first=True)
