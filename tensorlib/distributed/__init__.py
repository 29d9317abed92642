"""A process group of one process, so that programs for many run as one: its collectives move nothing.

There is no communication backend in this version: a group of more than one process is refused.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from tensorlib._core import Tensor
from tensorlib.errors import UnsupportedError

__all__ = [
    "Backend", "GroupMember", "ProcessGroup", "ReduceOp", "Work", "all_gather", "all_gather_into_tensor",
    "all_gather_object", "all_reduce", "barrier", "broadcast", "broadcast_object_list", "destroy_process_group",
    "gather", "get_backend", "get_rank", "get_world_size", "group", "init_process_group", "is_available",
    "is_gloo_available", "is_initialized", "is_mpi_available", "is_nccl_available", "is_torchelastic_launched",
    "new_group", "reduce", "reduce_scatter_tensor", "scatter",
]  # fmt: skip

_backend: list[str] = []


def __getattr__(name: str) -> Any:
    """``device_mesh``, which loads when it is first named."""
    if name in ("DeviceMesh", "device_mesh", "init_device_mesh"):
        module = importlib.import_module("tensorlib.distributed.device_mesh")
        return module if name == "device_mesh" else getattr(module, name)
    raise AttributeError(f"module 'tensorlib.distributed' has no attribute {name!r}")


class ReduceOp:
    """What ``all_reduce`` does with the tensors of all processes; of one process's they all give that tensor."""

    SUM, AVG, PRODUCT, MIN, MAX = "sum", "avg", "product", "min", "max"


class Backend(str):
    """The name of a communication backend in small letters; none of them is here."""

    UNDEFINED, GLOO, NCCL, XCCL, UCC, MPI, FAKE = "undefined", "gloo", "nccl", "xccl", "ucc", "mpi", "fake"
    backend_list = (UNDEFINED, GLOO, NCCL, XCCL, UCC, MPI, FAKE)

    def __new__(cls, name: str) -> Backend:
        """ValueError for what is no text."""
        if not isinstance(name, str):
            raise ValueError("Backend constructor parameter must be string-ish")
        return super().__new__(cls, name.lower())


class ProcessGroup:
    """The group of one process."""

    def rank(self) -> int:
        """0."""
        return 0

    def size(self) -> int:
        """1."""
        return 1


class Work:
    """What a collective with ``async_op`` gives: it is done."""

    def wait(self, timeout: Any = None) -> bool:
        """True at once."""
        return True

    def is_completed(self) -> bool:
        """True."""
        return True


class group:
    """The group of all processes under PyTorch's name."""

    WORLD = ProcessGroup()


class GroupMember:
    """Whether a process is in a group: ``NON_GROUP_MEMBER`` stands for one that it is not in."""

    WORLD: Any = None
    NON_GROUP_MEMBER = -100


def new_group(ranks: Any = None, timeout: Any = None, backend: Any = None, **_: Any) -> ProcessGroup:
    """A group of this process. ValueError for others' ranks."""
    _group()
    if any(r != 0 for r in ranks or ()):
        raise ValueError(f"new_group: ranks {list(ranks)}: expected [0]: there is one process")
    return ProcessGroup()


def is_gloo_available() -> bool:
    """False: there is no communication backend."""
    return False


def is_mpi_available() -> bool:
    """False: there is no communication backend."""
    return False


def is_available() -> bool:
    """False: there is no communication backend, and programs that ask go their way of one process.

    A group of one process can be begun in any case, by ``init_process_group``.
    """
    return False


def is_initialized() -> bool:
    """Whether ``init_process_group`` was called."""
    return bool(_backend)


def is_nccl_available() -> bool:
    """False: there is no communication backend."""
    return False


def is_torchelastic_launched() -> bool:
    """False: there is no launcher."""
    return False


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: Any = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
) -> None:
    """Begin a group of one process. ValueError without a world size, given or in WORLD_SIZE.

    ValueError when done twice as well; UnsupportedError (a NotImplementedError) for more than one process.
    """
    if _backend:
        raise ValueError("trying to initialize the default process group twice!")
    given = os.environ.get("WORLD_SIZE") if world_size < 0 else str(world_size)
    if given is None:
        raise ValueError(
            "Error initializing torch.distributed using env:// rendezvous: environment variable WORLD_SIZE expected, "
            "but not set"
        )
    if int(given) != 1:
        raise UnsupportedError(
            f"init_process_group: a group of {given} processes: expected 1: this version has no communication backend"
        )
    _backend.append(backend or "gloo")


def _group(async_op: bool = False) -> Work | None:
    if not _backend:
        raise ValueError("Default process group has not been initialized, please make sure to call init_process_group.")
    return Work() if async_op else None


def destroy_process_group(group: Any = None) -> None:
    """End the group."""
    _group()
    _backend.clear()


def get_backend(group: Any = None) -> str:
    """The backend that was asked for."""
    _group()
    return _backend[0]


def get_rank(group: Any = None) -> int:
    """0. ValueError without a group."""
    _group()
    return 0


def get_world_size(group: Any = None) -> int:
    """1. ValueError without a group."""
    _group()
    return 1


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Work | None:
    """Wait for nobody."""
    return _group(async_op)


def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Work | None:
    """The tensor stays: it is the sum, mean, product and extremum of itself."""
    return _group(async_op)


def reduce(
    tensor: Tensor, dst: int = 0, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """The tensor stays."""
    return _group(async_op)


def broadcast(tensor: Tensor, src: int = 0, group: Any = None, async_op: bool = False) -> Work | None:
    """The tensor stays."""
    return _group(async_op)


def broadcast_object_list(object_list: list[Any], src: int = 0, group: Any = None, device: Any = None) -> None:
    """The list stays."""
    _group()


def all_gather(tensor_list: list[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False) -> Work | None:
    """``tensor`` is written into the one tensor of the list."""
    work = _group(async_op)
    tensor_list[0].copy_(tensor)
    return work


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """``obj`` is the list's one element."""
    _group()
    object_list[0] = obj


def gather(
    tensor: Tensor, gather_list: list[Tensor] | None = None, dst: int = 0, group: Any = None, async_op: bool = False
) -> Work | None:
    """``tensor`` is written into the one tensor of the list."""
    work = _group(async_op)
    if gather_list:
        gather_list[0].copy_(tensor)
    return work


def scatter(
    tensor: Tensor, scatter_list: list[Tensor] | None = None, src: int = 0, group: Any = None, async_op: bool = False
) -> Work | None:
    """The list's one tensor is written into ``tensor``."""
    work = _group(async_op)
    if scatter_list:
        tensor.copy_(scatter_list[0])
    return work


def all_gather_into_tensor(
    output_tensor: Tensor, input_tensor: Tensor, group: Any = None, async_op: bool = False
) -> Work | None:
    """``input_tensor`` is written into ``output_tensor``."""
    work = _group(async_op)
    output_tensor.copy_(input_tensor.reshape(output_tensor.shape))
    return work


def reduce_scatter_tensor(
    output: Tensor, input: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """``input`` is written into ``output``."""
    work = _group(async_op)
    output.copy_(input.reshape(output.shape))
    return work
