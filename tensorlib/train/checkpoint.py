"""One file holds everything a run needs to continue to the bit, so that no part can be newer than another.

A safetensors file: the model's and the optimizer's tensors, the random state and the training losses as arrays, the
rest as JSON in the metadata, and a SHA-256 over all of it, so that a flipped bit is an error and not a worse model.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorlib.errors import CheckpointError, CheckpointNotFoundError
from tensorlib.io.safetensors import load_file, save_file

FILE = "checkpoint.safetensors"
_FORMAT = "tensorlib.train.{kind}/1"


@dataclass
class Checkpoint:
    """The state of a run between two steps. The step is also the position in the data."""

    kind: str  # of `tensorlib train <kind>`
    step: int
    config: dict[str, Any]
    model: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]  # "<parameter's index>.<exp_avg, ...>"
    random: np.ndarray  # state of the library's random stream, one for every device
    losses: np.ndarray  # (step,) float64: the training loss of every step
    history: list[dict[str, Any]]  # one entry an evaluation, as in log.jsonl
    seconds: float  # spent in training steps
    data: str  # digest of the data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all; CheckpointError when it cannot be written."""
        tensors = {"losses": self.losses, "random": self.random}
        for part in ("model", "optimizer"):
            tensors |= {f"{part}.{name}": array for name, array in getattr(self, part).items()}
        state = {name: getattr(self, name) for name in ("step", "config", "history", "seconds", "data")}
        metadata = {"format": _FORMAT.format(kind=self.kind), "state": json.dumps(state)}
        try:
            save_file(tensors, path, metadata | {"sha256": _digest(tensors, metadata)})
        except CheckpointError:
            raise
        except OSError as error:
            kept = "; the checkpoint before it is intact" if os.path.exists(path) else ""
            raise CheckpointError(f"cannot write {path}: {error.strerror or error}{kept}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], kind: str = "gpt") -> Checkpoint:
        """Read a file, or the one in a run's directory; CheckpointError when it is missing, damaged or another's."""
        wanted = _FORMAT.format(kind=kind)
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        if not path.exists():
            raise CheckpointNotFoundError(f"there is no checkpoint at {path}")
        tensors, metadata = load_file(path)
        if metadata.get("format") != wanted:
            raise CheckpointError(f"{path} is not a checkpoint of `tensorlib train {kind}` ({wanted}): "
                                  f"its format is {metadata.get('format', 'not given')}")  # fmt: skip
        if metadata.pop("sha256", None) != _digest(tensors, metadata):
            raise CheckpointError(f"{path} is damaged: its content does not have the checksum it was written with")
        try:
            losses, random = tensors.pop("losses"), tensors.pop("random")
            parts: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}}
            for name, array in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = array
            state: dict[str, Any] = json.loads(metadata["state"])
            state |= {"kind": kind, "losses": losses, "random": random, **parts}
            return cls(**state)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} was written by another version of tensorlib: {error}") from error


def _digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """SHA-256 over the metadata and each array's name, dtype, shape and bytes."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(json.dumps([name, str(array.dtype), tensors[name].shape]).encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
