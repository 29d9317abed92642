"""Samplers: the order in which the samples of a dataset are read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from tensorlib import random as stream
from tensorlib._core import Tensor
from tensorlib.errors import ArgumentError, UnsupportedError
from tensorlib.ops import as_tensor, randint, randperm
from tensorlib.random import Generator

__all__ = ["BatchSampler", "RandomSampler", "Sampler", "SequentialSampler", "SubsetRandomSampler",
           "WeightedRandomSampler"]  # fmt: skip

T_co = TypeVar("T_co", covariant=True)


class Sampler(Generic[T_co]):
    """An order of indices, or of lists of indices (batches): subclasses define ``__iter__``, and ``__len__`` if known.

    A DataLoader resumes in the middle of an epoch by iterating anew with the same random numbers and leaving out what
    was delivered. A sampler whose order depends on more than its ``generator`` and the default one (an epoch's number)
    gives that by ``state_dict()`` and takes it by ``load_state_dict(state)``.
    """

    def __iter__(self) -> Iterator[T_co]:
        raise UnsupportedError(f"Sampler [{type(self).__name__}] is missing the required __iter__: define it")


class SequentialSampler(Sampler[int]):
    """0, 1, …, len(data_source) - 1."""

    data_source: Sized

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class RandomSampler(Sampler[int]):
    """A random permutation of the indices, or with ``replacement`` independent draws.

    num_samples: how many are drawn (default: all); beyond the dataset's length one permutation follows another.
    generator: the stream to draw from; None takes a new one for each epoch, seeded by the default stream.
    """

    data_source: Sized
    replacement: bool

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:  # fmt: skip
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got replacement={replacement}")
        if not _is_count(self.num_samples):
            raise ValueError(f"num_samples should be a positive integer value, but got num_samples={self.num_samples}")

    @property
    def num_samples(self) -> int:
        """How many indices an epoch has; follows a dataset that grows."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, wanted = len(self.data_source), self.num_samples
        generator = self.generator
        if generator is None:
            generator = Generator().manual_seed(draw_seed(None))
        while wanted:
            if self.replacement:
                drawn = randint(n, (min(wanted, 32),), generator=generator).tolist()
            else:
                drawn = randperm(n, generator=generator).tolist()[:wanted]
            wanted -= len(drawn)
            yield from drawn

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in random order."""

    indices: Sequence[int]

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in randperm(len(self.indices), generator=self.generator).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices 0 … len(weights) - 1, drawn with probability weights[i] / sum(weights).

    With ``replacement`` by inversion of the cumulative weights; without, index i comes at the time -log(u_i) /
    weights[i] and the earliest ``num_samples`` are taken, those of weight 0 last (Efraimidis and Spirakis 2006).
    ArgumentError for weights that are negative, infinite, NaN or all zero, and for fewer weights than num_samples
    without replacement.
    """

    weights: Tensor
    num_samples: int
    replacement: bool

    def __init__(
        self, weights: Sequence[float], num_samples: int, replacement: bool = True, generator: Generator | None = None
    ) -> None:
        if not _is_count(num_samples):
            raise ValueError(f"num_samples should be a positive integer value, but got num_samples={num_samples}")
        if not isinstance(replacement, bool):
            raise ValueError(f"replacement should be a boolean value, but got replacement={replacement}")
        self.weights = as_tensor(weights, dtype="float64")
        if self.weights.ndim != 1:
            raise ValueError(
                f"weights should be a 1d sequence but given weights have shape {tuple(self.weights.shape)}"
            )
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        weights = self.weights.numpy(force=True)
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ArgumentError("WeightedRandomSampler: weights: expected finite numbers >= 0, not all of them 0 "
                                "(probability tensor contains either `inf`, `nan` or element < 0)")  # fmt: skip
        if not self.replacement and len(weights) < self.num_samples:
            raise ArgumentError(
                f"WeightedRandomSampler: cannot draw {self.num_samples} samples without replacement from "
                f"{len(weights)} weights: use replacement=True or fewer samples"
            )
        seed, offset = stream.draw(self.generator)
        count = self.num_samples if self.replacement else len(weights)
        u = stream.uniform01((count,), np.dtype(np.float64), seed, offset)
        if self.replacement:
            total = np.cumsum(weights / weights.max())
            drawn = np.searchsorted(total, u * total[-1], side="right")
        else:
            with np.errstate(divide="ignore"):
                times = -np.log1p(-u) / (weights / weights.max())
            times[weights == 0] = np.inf
            drawn = np.argsort(times, kind="stable")[: self.num_samples]
        yield from drawn.tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of ``batch_size`` successive indices of another sampler; a shorter last one unless ``drop_last``."""

    def __init__(self, sampler: Sampler[int] | Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not _is_count(batch_size):
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last should be a boolean value, but got drop_last={drop_last}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


def draw_seed(generator: Generator | None) -> int:
    """A seed of 63 bits from a stream, the default one for None."""
    seed, offset = stream.draw(generator)
    return int(stream.integers((), 0, (1 << 63) - 1, np.dtype(np.int64), seed, offset))
