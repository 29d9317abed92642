"""Datasets: a map from an index to a sample, a stream of samples, and the combinations of both."""

from __future__ import annotations

import bisect
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from tensorlib._core import Tensor, wrap
from tensorlib.errors import UnsupportedError
from tensorlib.ops import randperm
from tensorlib.random import Generator, default_generator

__all__ = ["ChainDataset", "ConcatDataset", "Dataset", "IterableDataset", "StackDataset", "Subset", "TensorDataset",
           "random_split"]  # fmt: skip

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """A map from an index to a sample: subclasses define ``__getitem__``, and ``__len__`` for the default samplers.

    ``__getitems__(indices) -> list of samples`` may be defined as well, where a whole batch is cheaper at once.
    """

    def __getitem__(self, index: Any) -> T_co:
        raise UnsupportedError(f"Dataset [{type(self).__name__}] is missing the required __getitem__: define it")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """A stream of samples: subclasses define ``__iter__``.

    Each worker process of a DataLoader iterates over its own copy: without ``get_worker_info()`` in ``__iter__`` (or
    in ``worker_init_fn``) to take a share, every sample comes once from each worker.
    """

    def __iter__(self) -> Iterator[T_co]:
        raise UnsupportedError(f"IterableDataset [{type(self).__name__}] is missing the required __iter__: define it")

    def __add__(self, other: Dataset[Any]) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """sample i = (t[i] for t in tensors). Every tensor has the same size along dimension 0."""

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor) -> None:
        if any(tensors[0].size(0) != tensor.size(0) for tensor in tensors):
            raise AssertionError("Size mismatch between tensors")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].size(0))


class StackDataset(Dataset[Any]):
    """sample i = (d[i] for d in args), or {name: d[i]} for keyword arguments. All have the same length."""

    datasets: Any

    def __init__(self, *args: Dataset[Any], **kwargs: Dataset[Any]) -> None:
        if args and kwargs:
            raise ValueError(
                "StackDataset: expected datasets by position (samples are tuples) or by keyword (samples are dicts), "
                "but both were given"
            )
        self.datasets = args or kwargs
        members: list[Any] = list(args or kwargs.values())
        if not members:
            raise ValueError("At least one dataset should be passed")
        self._length = len(members[0])
        if any(len(member) != self._length for member in members):
            raise ValueError("Size mismatch between datasets")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: dataset[index] for name, dataset in self.datasets.items()}
        return tuple(dataset[index] for dataset in self.datasets)

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        """The samples at ``indices``, each member asked once where it can."""
        named = isinstance(self.datasets, dict)
        columns = []
        for dataset in self.datasets.values() if named else self.datasets:
            items = many(dataset, indices)
            if len(items) != len(indices):
                raise ValueError(f"Nested dataset's output size mismatch. Expected {len(indices)}, got {len(items)}")
            columns.append(items)
        rows = zip(*columns, strict=True)
        return [dict(zip(self.datasets, row, strict=True)) for row in rows] if named else list(rows)

    def __len__(self) -> int:
        return self._length


class ConcatDataset(Dataset[T_co]):
    """The samples of several datasets, one dataset after the other."""

    datasets: list[Any]
    cumulative_sizes: list[int]

    @staticmethod
    def cumsum(sequence: Iterable[Any]) -> list[int]:
        """The running total of the lengths."""
        return list(itertools.accumulate(len(member) for member in sequence))

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise AssertionError("datasets should not be an empty iterable")
        if any(isinstance(dataset, IterableDataset) for dataset in self.datasets):
            raise AssertionError("ConcatDataset does not support IterableDataset")
        self.cumulative_sizes = self.cumsum(self.datasets)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, idx: Any) -> T_co:
        if idx < 0:
            if -idx > len(self):
                raise ValueError("absolute value of index should not exceed dataset length")
            idx = len(self) + idx
        which = bisect.bisect_right(self.cumulative_sizes, idx)
        return self.datasets[which][idx - self.cumulative_sizes[which - 1] if which else idx]


class ChainDataset(IterableDataset[Any]):
    """The samples of several streams, one stream after the other."""

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = datasets

    def _streams(self) -> Iterator[Any]:
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise AssertionError("ChainDataset only supports IterableDataset")
            yield dataset

    def __iter__(self) -> Iterator[Any]:
        for dataset in self._streams():
            yield from dataset

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self._streams())


class Subset(Dataset[T_co]):
    """sample i = dataset[indices[i]]."""

    dataset: Any
    indices: Sequence[int]

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, list):
            return self.dataset[[self.indices[i] for i in idx]]
        return self.dataset[self.indices[idx]]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The samples at ``indices``; by ``__getitem__`` where a subclass has its own."""
        if type(self).__getitem__ is not Subset.__getitem__:
            return [self[i] for i in indices]
        return many(self.dataset, [self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


def many(dataset: Any, indices: list[Any]) -> Any:
    """The samples at ``indices``: at once by ``__getitems__``, where the dataset has it, or one by one."""
    at_once = getattr(dataset, "__getitems__", None)
    return at_once(indices) if callable(at_once) else [dataset[index] for index in indices]


def collated(dataset: Any, indices: list[Any]) -> list[Tensor] | None:
    """What ``default_collate`` makes of these samples, by one indexing of each tensor; None where that cannot be.

    For a TensorDataset and subsets of one, whose samples are rows: stacking the rows of a batch is the same as taking
    them from the tensor at once.
    """
    while True:
        found = type(dataset)
        if found.__getitem__ is TensorDataset.__getitem__ and not hasattr(dataset, "__getitems__"):
            break
        if found.__getitem__ is not Subset.__getitem__ or found.__getitems__ is not Subset.__getitems__:
            return None
        held = dataset.indices
        indices = [held[i] for i in indices]
        dataset = dataset.dataset
    rows = np.asarray(indices)
    if rows.dtype.kind != "i" or rows.ndim != 1:
        return None
    return [_rows(tensor, rows) for tensor in dataset.tensors]


def _rows(tensor: Tensor, rows: np.ndarray) -> Tensor:
    array = tensor._array
    if type(tensor) is Tensor and isinstance(array, np.ndarray) and not tensor.requires_grad:
        return wrap(array.take(rows, axis=0))
    return tensor[wrap(rows)]


def random_split(
    dataset: Dataset[T_co], lengths: Sequence[int | float], generator: Generator | None = default_generator
) -> list[Subset[T_co]]:
    """Disjoint random subsets of the given lengths, which add up to the dataset's.

    Fractions that add up to 1 stand for floor(fraction * len(dataset)), and what then remains is given to the subsets
    one sample each from the first on. ValueError for lengths of another sum; a warning for a subset of length 0.
    """
    size = len(dataset)  # type: ignore[arg-type]
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        for i, fraction in enumerate(lengths):
            if not 0 <= fraction <= 1:
                raise ValueError(f"Fraction at index {i} is not between 0 and 1")
        whole = [math.floor(size * fraction) for fraction in lengths]
        for i in range(size - sum(whole)):
            whole[i % len(whole)] += 1
        for i, length in enumerate(whole):
            if not length:
                warnings.warn(
                    f"Length of split at index {i} is 0. This might result in an empty dataset.", stacklevel=2
                )
    else:
        whole = list(lengths)  # type: ignore[arg-type]
    if sum(whole) != size:
        raise ValueError("Sum of input lengths does not equal the length of the input dataset!")
    order = randperm(size, generator=generator).tolist()
    ends = itertools.accumulate(whole)
    return [Subset(dataset, order[end - length : end]) for end, length in zip(ends, whole, strict=True)]
