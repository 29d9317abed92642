"""The entries of a PyTorch checkpoint as bytes, for programs that take it apart themselves. Nothing of it is run."""

from __future__ import annotations

import os
import zipfile
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.errors import CheckpointError, CheckpointNotFoundError

__all__ = ["PyTorchFileReader"]


class PyTorchFileReader:
    """Reads the entries of a ``.pt`` file, by name or an open binary file; CheckpointError where it is no archive."""

    def __init__(self, name: Any) -> None:
        self._name = os.fspath(name) if isinstance(name, (str, os.PathLike)) else repr(name)
        try:
            self._archive = zipfile.ZipFile(name)
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"PyTorchFileReader: there is no file {self._name}") from None
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"PyTorchFileReader: {self._name} is no archive of PyTorch: {error}") from None
        names = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        self._prefix = names[0].partition("/")[0] + "/" if names else ""
        self._names = [name.removeprefix(self._prefix) for name in names]

    def get_all_records(self) -> list[str]:
        """The names of the entries."""
        return list(self._names)

    def has_record(self, name: str) -> bool:
        """Whether there is an entry."""
        return name in self._names

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._names:
            raise CheckpointError(f"PyTorchFileReader: {self._name} has no entry {name!r}: it has {self._names}")
        return self._archive.getinfo(self._prefix + name)

    def get_record(self, name: str) -> bytes:
        """An entry's bytes."""
        return self._archive.read(self._info(name))

    def get_record_size(self, name: str) -> int:
        """How many bytes an entry has."""
        return self._info(name).file_size

    def get_storage_from_record(self, name: str, numel: int, dtype: Any) -> Tensor:
        """An entry as a tensor of ``numel`` elements; CheckpointError where it has fewer bytes."""
        data = bytearray(self.get_record(name))
        if not numel:
            return ops.empty(0, dtype=dtype)  # type: ignore[no-any-return]
        if len(data) < numel * dtype.itemsize:
            raise CheckpointError(f"PyTorchFileReader: entry {name!r} of {self._name} has {len(data)} bytes: {numel} "
                                  f"elements of {dtype} were asked for")  # fmt: skip
        return ops.frombuffer(data, dtype=dtype, count=numel)  # type: ignore[no-any-return]
