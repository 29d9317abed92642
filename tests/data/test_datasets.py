"""Datasets, samplers and collation."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import tensorlib as T
from tensorlib.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    collate,
    default_collate,
    default_collate_fn_map,
    default_convert,
    random_split,
)

Point = collections.namedtuple("Point", "x y")


class Count(IterableDataset[int]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))

    def __len__(self) -> int:
        return self.n


def test_tensor_dataset() -> None:
    data = TensorDataset(T.arange(6).reshape(3, 2), T.tensor([5.0, 6, 7]))
    assert len(data) == 3
    assert [part.tolist() for part in data[1]] == [[2, 3], 6.0]
    assert [part.tolist() for part in data[-1]] == [[4, 5], 7.0]
    assert [part.tolist() for part in data[1:]] == [[[2, 3], [4, 5]], [6.0, 7.0]]
    with pytest.raises(AssertionError, match="Size mismatch"):
        TensorDataset(T.ones(3), T.ones(2))
    with pytest.raises(IndexError):
        data[3]


def test_stack_dataset() -> None:
    pair = StackDataset([1, 2, 3], "abc")  # type: ignore[arg-type]
    assert (len(pair), pair[1], pair.__getitems__([2, 0])) == (3, (2, "b"), [(3, "c"), (1, "a")])
    named = StackDataset(n=[1, 2], c="ab")  # type: ignore[arg-type]
    assert (named[1], named.__getitems__([1])) == ({"n": 2, "c": "b"}, [{"n": 2, "c": "b"}])
    for args, kwargs, match in [((), {}, "At least one"), (([1],), {"a": [1]}, "both"), (([1], [1, 2]), {}, "Size")]:
        with pytest.raises(ValueError, match=match):
            StackDataset(*args, **kwargs)  # type: ignore[arg-type]

    class Short(Dataset[int]):
        def __len__(self) -> int:
            return 3

        def __getitems__(self, indices: list[int]) -> list[int]:
            return [0]

    with pytest.raises(ValueError, match="Expected 2, got 1"):
        StackDataset(Short()).__getitems__([0, 1])


def test_concat_and_chain() -> None:
    joined = TensorDataset(T.arange(3)) + TensorDataset(T.arange(10, 12))
    assert isinstance(joined, ConcatDataset) and joined.cumulative_sizes == [3, 5]
    assert [joined[i][0].item() for i in (0, 2, 3, 4, -1, -5)] == [0, 2, 10, 11, 11, 0]
    with pytest.raises(ValueError, match="absolute value of index"):
        joined[-6]
    with pytest.raises(IndexError):
        joined[5]
    with pytest.raises(AssertionError, match="empty iterable"):
        ConcatDataset([])
    with pytest.raises(AssertionError, match="does not support IterableDataset"):
        ConcatDataset([Count(1)])
    chain = Count(2) + Count(3)
    assert isinstance(chain, ChainDataset) and (list(chain), len(chain)) == ([0, 1, 0, 1, 2], 5)
    with pytest.raises(AssertionError, match="only supports IterableDataset"):
        list(ChainDataset([TensorDataset(T.ones(1))]))


def test_subset() -> None:
    part = Subset(list("abcdef"), [4, 2, 0])  # type: ignore[arg-type]
    assert (len(part), part[0], part[-1], part.__getitems__([2, 1])) == (3, "e", "a", ["a", "c"])
    nested = Subset(Subset(TensorDataset(T.arange(10)), [9, 8, 7]), [2, 0])
    assert [item[0].item() for item in nested.__getitems__([0, 1])] == [7, 9]
    assert Subset(TensorDataset(T.arange(5)), [4, 3, 2])[[0, 2]][0].tolist() == [4, 2]


def test_random_split() -> None:
    parts = random_split(range(10), [3, 7], T.Generator().manual_seed(1))  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [3, 7]
    assert sorted(i for part in parts for i in part.indices) == list(range(10))
    same = random_split(range(10), [3, 7], generator=T.Generator().manual_seed(1))  # type: ignore[arg-type]
    assert [part.indices for part in same] == [part.indices for part in parts]
    assert [len(part) for part in random_split(range(10), [0.33, 0.33, 0.34])] == [4, 3, 3]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(range(10), [3, 3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Fraction at index 0"):
        random_split(range(10), [-0.5, 1.5])  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="Length of split at index 2 is 0"):
        random_split(range(2), [0.4, 0.4, 0.2])  # type: ignore[arg-type]


def test_missing_methods() -> None:
    for value, action in [(Dataset(), lambda d: d[0]), (IterableDataset(), iter), (Sampler(), iter)]:
        with pytest.raises(NotImplementedError, match="missing the required"):
            action(value)  # type: ignore[operator]
    with pytest.raises(TypeError):
        len(Dataset())  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- samplers


def seeded(seed: int) -> T.Generator:
    return T.Generator().manual_seed(seed)


def test_plain_samplers() -> None:
    assert list(SequentialSampler("abc")) == [0, 1, 2]
    order = list(RandomSampler("abcdefgh", generator=seeded(0)))
    assert sorted(order) == list(range(8)) and order == list(RandomSampler("abcdefgh", generator=seeded(0)))
    long = list(RandomSampler("abc", num_samples=8, generator=seeded(0)))
    assert len(long) == 8 and sorted(long[:3]) == sorted(long[3:6]) == [0, 1, 2]
    drawn = list(RandomSampler("abc", replacement=True, num_samples=100, generator=seeded(0)))
    assert len(drawn) == 100 and set(drawn) == {0, 1, 2} and drawn != sorted(drawn)
    assert sorted(SubsetRandomSampler([4, 9, 7])) == [4, 7, 9]
    T.manual_seed(0)
    first = list(RandomSampler(range(20)))
    assert list(RandomSampler(range(20))) != first
    with pytest.raises(TypeError, match="replacement should be a boolean"):
        RandomSampler("abc", 1)  # type: ignore[arg-type]
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match="num_samples should be a positive integer"):
            RandomSampler("abc", num_samples=bad)  # type: ignore[arg-type]


def test_weighted_sampler() -> None:
    weights = [0.1, 0.0, 0.6, 0.3]
    drawn = np.bincount(list(WeightedRandomSampler(weights, 20_000, generator=seeded(0))), minlength=4) / 20_000
    assert np.allclose(drawn, weights, atol=0.015)
    assert drawn[1] == 0
    firsts = np.zeros(4)
    generator = seeded(1)
    for _ in range(3000):
        order = list(WeightedRandomSampler(weights, 3, False, generator))
        assert sorted(order) == [0, 2, 3]
        firsts[order[0]] += 1
    assert np.allclose(firsts / 3000, weights, atol=0.03)
    assert list(WeightedRandomSampler(weights, 4, False))[-1] == 1
    with pytest.raises(RuntimeError, match="cannot draw 5 samples without replacement from 4 weights"):
        list(WeightedRandomSampler(weights, 5, False))
    for bad in ([-1.0, 2], [float("nan"), 1], [float("inf"), 1], [0.0, 0]):
        with pytest.raises(RuntimeError, match="expected finite numbers >= 0"):
            list(WeightedRandomSampler(bad, 1))
    with pytest.raises(ValueError, match="1d sequence"):
        WeightedRandomSampler([[1.0]], 1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="num_samples should be"):
        WeightedRandomSampler([1.0], True)
    with pytest.raises(ValueError, match="replacement should be"):
        WeightedRandomSampler([1.0], 1, 1)  # type: ignore[arg-type]


def test_batch_sampler() -> None:
    for drop, expected in [(False, [[0, 1, 2], [3, 4, 5], [6]]), (True, [[0, 1, 2], [3, 4, 5]])]:
        sampler = BatchSampler(SequentialSampler(range(7)), 3, drop)
        assert list(sampler) == expected and len(sampler) == len(expected)
    assert list(BatchSampler([], 3, False)) == []
    for size in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match="batch_size should be"):
            BatchSampler([1], size, False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drop_last should be"):
        BatchSampler([1], 1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "replicas"), [(10, 3), (9, 3), (2, 5), (11, 4), (1, 1)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_distributed_sampler(n: int, replicas: int, drop_last: bool) -> None:
    for shuffle in (False, True):
        samplers = [DistributedSampler(range(n), replicas, rank, shuffle, 3, drop_last) for rank in range(replicas)]
        shares = [list(sampler) for sampler in samplers]
        size = n // replicas if drop_last else -(-n // replicas)
        assert {len(share) for share in shares} == {len(samplers[0])} == {size}
        together = [i for turn in zip(*shares, strict=True) for i in turn]
        assert len(set(together)) == (size * replicas if drop_last else n)
        if not shuffle:
            assert together == [i % n for i in range(size * replicas)]
        samplers[0].set_epoch(1)
        assert shuffle or list(samplers[0]) == shares[0]
    assert list(DistributedSampler(range(50), 1, 0)) == list(DistributedSampler(range(50), 1, 0))
    other = DistributedSampler(range(50), 1, 0)
    other.set_epoch(1)
    assert list(other) != list(DistributedSampler(range(50), 1, 0))
    with pytest.raises(ValueError, match="Invalid rank"):
        DistributedSampler(range(3), 2, 2)
    with pytest.raises(RuntimeError, match="pass num_replicas= and rank="):
        DistributedSampler(range(3))


# ------------------------------------------------------------------------------------------------------- collation


def test_default_collate() -> None:
    assert default_collate([1, 2]).dtype is T.int64
    assert default_collate([1.0, 2]).dtype is T.float64
    assert default_collate([True, False]).dtype is T.bool
    assert default_collate([np.float32(1), np.float32(2)]).dtype is T.float32
    assert default_collate(["a", "b"]) == ["a", "b"] and default_collate([b"a"]) == [b"a"]
    stacked = default_collate([np.arange(3), np.arange(3)])
    assert stacked.shape == (2, 3) and stacked.dtype is T.int64
    assert default_collate([T.tensor(1.0), T.tensor(2.0)]).tolist() == [1, 2]
    assert default_collate([T.ones(2, 0)] * 3).shape == (3, 2, 0)
    mapped = default_collate([{"a": 0, "b": [1, "x"]}, {"a": 1, "b": [2, "y"]}])
    assert mapped["a"].tolist() == [0, 1] and mapped["b"][0].tolist() == [1, 2] and mapped["b"][1] == ("x", "y")
    point = default_collate([Point(1, 2.0), Point(3, 4.0)])
    assert type(point) is Point and point.x.tolist() == [1, 3] and point.y.tolist() == [2, 4]
    assert [part.tolist() for part in default_collate([(0, 1), (2, 3)])] == [[0, 2], [1, 3]]
    table = collections.defaultdict(list, a=1)
    assert type(default_collate([table, table])) is collections.defaultdict
    assert table["a"] == 1  # the sample is left as it was
    assert default_collate([MappingProxyType({"a": 1})])["a"].tolist() == [1]
    assert default_collate([range(2), range(2)])[1].tolist() == [1, 1]
    leaf = T.ones(2, requires_grad=True)
    default_collate([leaf, leaf]).sum().backward()
    assert leaf.grad.tolist() == [2, 2]  # type: ignore[union-attr]
    for batch, kind, match in [
        ([[1], [1, 2]], RuntimeError, "each element in list of batch should be of equal size"),
        ([None], TypeError, "found <class 'NoneType'>"), ([object()], TypeError, "default_collate: batch must contain"),
        ([np.array(["a"])], TypeError, "found <U1"), ([{1}], TypeError, "found <class 'set'>"),
        ([T.ones(2), T.ones(3)], RuntimeError, "stack"), ([{"a": 1}, {}], KeyError, "a"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=match):
            default_collate(batch)


def test_collate_of_other_types() -> None:
    class Custom:
        pass

    class More(Custom):
        pass

    def count(batch: Any, *, collate_fn_map: Any = None) -> int:
        return len(batch)

    assert collate([(Custom(), 1)] * 2, collate_fn_map={**default_collate_fn_map, Custom: count})[0] == 2
    assert collate([More()], collate_fn_map={Custom: count}) == 1


def test_default_convert() -> None:
    array = np.arange(3)
    converted = default_convert({"a": array, "b": [np.float32(1), 2], "c": (1, "x"), "p": Point(array, b"y")})
    assert isinstance(converted["a"], T.Tensor) and converted["a"].numpy() is array
    assert converted["b"][0].dtype is T.float32 and converted["b"][1] == 2
    assert converted["c"] == [1, "x"] and type(converted["p"]) is Point and converted["p"].y == b"y"
    text = np.array(["a"])
    assert default_convert(text) is text and default_convert(None) is None and default_convert("ab") == "ab"
