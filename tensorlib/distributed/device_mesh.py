"""Processes in a grid. A group has one process: every side of its grid is 1."""

from __future__ import annotations

import math
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._dtypes import int32
from tensorlib.distributed import ProcessGroup, init_process_group, is_initialized
from tensorlib.errors import UnsupportedError

__all__ = ["DeviceMesh", "init_device_mesh"]


class DeviceMesh:
    """The ranks of the processes in a grid, ``mesh``, whose dims may have names: rank 0 alone.

    UnsupportedError for a grid of several processes. A group is begun where there is none, unless ``_init_backend``.
    """

    def __init__(
        self, device_type: str, mesh: Any, *, mesh_dim_names: tuple[str, ...] | None = None, _init_backend: bool = True
    ) -> None:
        self.device_type = device_type
        self.mesh = ops.as_tensor(mesh, dtype=int32)
        if self.mesh.numel() != 1 or int(self.mesh.item()) != 0:  # type: ignore[attr-defined]
            raise UnsupportedError(
                f"DeviceMesh: a mesh of shape {tuple(self.mesh.shape)} with ranks {self.mesh.tolist()}: there is no "  # type: ignore[attr-defined]
                f"communication backend, and a group has one process; expected one rank, 0"
            )
        if mesh_dim_names is not None and len(mesh_dim_names) != self.mesh.ndim:
            raise RuntimeError(f"DeviceMesh: {len(mesh_dim_names)} names for {self.mesh.ndim} dims: {mesh_dim_names}")
        self.mesh_dim_names = None if mesh_dim_names is None else tuple(mesh_dim_names)
        if _init_backend and not is_initialized():
            init_process_group("gloo", rank=0, world_size=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the grid."""
        return tuple(self.mesh.shape)

    @property
    def ndim(self) -> int:
        """How many dims it has."""
        return self.mesh.ndim

    def size(self, mesh_dim: int | None = None) -> int:
        """The processes along a dim, or all."""
        return self.mesh.numel() if mesh_dim is None else self.mesh.shape[mesh_dim]

    def __len__(self) -> int:
        return self.size()

    def get_rank(self) -> int:
        """0."""
        return 0

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """0."""
        return 0

    def get_coordinate(self) -> list[int]:
        """Where this process is in the grid."""
        return [0] * self.ndim

    def get_group(self, mesh_dim: int | str | None = None) -> ProcessGroup:
        """The group along a dim: of this process."""
        return ProcessGroup()

    def get_all_groups(self) -> list[ProcessGroup]:
        """The group along each dim."""
        return [self.get_group() for _ in range(self.ndim)]

    def __getitem__(self, mesh_dim_names: str | tuple[str, ...]) -> DeviceMesh:
        names = (mesh_dim_names,) if isinstance(mesh_dim_names, str) else tuple(mesh_dim_names)
        unknown = [name for name in names if name not in (self.mesh_dim_names or ())]
        if unknown:
            raise KeyError(f"Invalid mesh_dim_names {unknown}: expected some of {self.mesh_dim_names}")
        sides: Tensor = ops.zeros((1,) * len(names), dtype=int32)
        return DeviceMesh(self.device_type, sides, mesh_dim_names=names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeviceMesh) and (self.device_type, self.shape, self.mesh_dim_names) == (
            other.device_type, other.shape, other.mesh_dim_names)  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.device_type, self.shape, self.mesh_dim_names))

    def __repr__(self) -> str:
        named = "" if self.mesh_dim_names is None else f", mesh_dim_names={self.mesh_dim_names}"
        return f"DeviceMesh({self.device_type!r}, {self.mesh.tolist()}{named})"  # type: ignore[attr-defined]


def init_device_mesh(
    device_type: str, mesh_shape: tuple[int, ...], *, mesh_dim_names: tuple[str, ...] | None = None,
    backend_override: Any = None,
) -> DeviceMesh:  # fmt: skip
    """The grid of all processes in this shape: every side must be 1, else UnsupportedError."""
    if math.prod(mesh_shape) != 1:
        raise UnsupportedError(
            f"init_device_mesh: a mesh of {mesh_shape} needs {math.prod(mesh_shape)} processes: there is no "
            f"communication backend, and a group has one; expected 1 in every place"
        )
    return DeviceMesh(device_type, ops.zeros(tuple(mesh_shape), dtype=int32), mesh_dim_names=mesh_dim_names)
