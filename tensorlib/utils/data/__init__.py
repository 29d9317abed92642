"""Datasets, samplers and the DataLoader that brings both together."""

from __future__ import annotations

from tensorlib.utils.data import dataloader, dataset, distributed, sampler
from tensorlib.utils.data.collate import collate, default_collate, default_collate_fn_map, default_convert
from tensorlib.utils.data.dataloader import DataLoader
from tensorlib.utils.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from tensorlib.utils.data.distributed import DistributedSampler
from tensorlib.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from tensorlib.utils.data.worker import WorkerInfo, get_worker_info

__all__ = [
    "BatchSampler", "ChainDataset", "ConcatDataset", "DataLoader", "Dataset", "DistributedSampler", "IterableDataset",
    "RandomSampler", "Sampler", "SequentialSampler", "StackDataset", "Subset", "SubsetRandomSampler", "TensorDataset",
    "WeightedRandomSampler", "WorkerInfo", "collate", "dataloader", "dataset", "default_collate",
    "default_collate_fn_map", "default_convert", "distributed", "get_worker_info", "random_split", "sampler",
]  # fmt: skip
