"""How tensors are split over processes, and the class by which programs tell split ones: here none is split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from tensorlib.distributed.device_mesh import DeviceMesh, init_device_mesh
from tensorlib.errors import UnsupportedError

__all__ = [
    "DTensor", "DeviceMesh", "Partial", "Placement", "Replicate", "Shard", "distribute_tensor", "init_device_mesh",
]  # fmt: skip


class Placement:
    """How a tensor lies along one dim of a mesh."""

    def is_shard(self, dim: int | None = None) -> bool:
        """Whether each process has a part (of ``dim``)."""
        return isinstance(self, Shard) and dim in (None, self.dim)

    def is_replicate(self) -> bool:
        """Whether each process has all of it."""
        return isinstance(self, Replicate)

    def is_partial(self, reduce_op: str | None = None) -> bool:
        """Whether the processes' tensors are still to be reduced."""
        return isinstance(self, Partial) and reduce_op in (None, self.reduce_op)


@dataclass(frozen=True)
class Shard(Placement):
    """Each process has a part along ``dim``."""

    dim: int


@dataclass(frozen=True)
class Replicate(Placement):
    """Each process has all of it."""


@dataclass(frozen=True)
class Partial(Placement):
    """The tensor is the reduction of the processes' tensors."""

    reduce_op: str = "sum"


class DTensor:
    """What no tensor is: with one process each is whole. UnsupportedError where one is asked for."""

    def __new__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(
            "DTensor: there is no communication backend, a group has one process, and that has whole tensors: use the "
            "tensor itself"
        )

    from_local = staticmethod(lambda *args, **kwargs: DTensor(*args, **kwargs))


def distribute_tensor(tensor: Any, device_mesh: DeviceMesh | None = None, placements: Any = None) -> DTensor:
    """UnsupportedError: with one process the tensor itself is whole."""
    return DTensor(tensor, device_mesh, placements)
