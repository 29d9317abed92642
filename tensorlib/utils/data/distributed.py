"""A sampler for data-parallel training: each replica reads its share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tensorlib.ops import randperm
from tensorlib.random import Generator
from tensorlib.utils.data.sampler import Sampler

__all__ = ["DistributedSampler"]


class DistributedSampler(Sampler[int]):
    """Every ``num_replicas``-th index from the ``rank``-th on, of an order that is the same on all replicas.

    All shares have the same length: indices from the front fill the last round, or with ``drop_last`` the rest at the
    end is left out. ``shuffle``: the order is random, a function of seed + epoch; call ``set_epoch`` before each
    epoch. num_replicas and rank are given by the caller. ValueError for a rank outside 0 … num_replicas - 1.
    """

    def __init__(
        self, dataset: Any, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True,
        seed: int = 0, drop_last: bool = False,
    ) -> None:  # fmt: skip
        if num_replicas is None or rank is None:
            raise RuntimeError(
                f"DistributedSampler: num_replicas={num_replicas}, rank={rank}: expected both: there is no process "
                f"group to ask; pass num_replicas= and rank="
            )
        if rank >= num_replicas or rank < 0:
            raise ValueError(f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]")
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.drop_last = drop_last
        n = len(dataset)
        self.num_samples = n // num_replicas if drop_last else math.ceil(n / num_replicas)
        self.total_size = self.num_samples * num_replicas
        self.shuffle = shuffle
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)
        if self.shuffle:
            order = randperm(n, generator=Generator().manual_seed(self.seed + self.epoch)).tolist()
        else:
            order = list(range(n))
        if n:
            order = (order * -(-self.total_size // n))[: self.total_size]
        return iter(order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch that the next iteration is: another one gives another order."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The epoch, for a DataLoader's ``state_dict``."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take back the epoch."""
        self.epoch = int(state_dict["epoch"])
