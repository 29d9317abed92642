"""Methods that are functions as well: what a tensor is, and writes that take no other operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib._samples import draw, each, ints
from tensorlib.op import composite


@composite(on="function")
def numel(input: Tensor) -> int:
    """The number of elements."""
    return int(input._array.size)


@composite(on="function")
def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating-point one."""
    return input.is_floating_point()  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def is_signed(input: Tensor) -> bool:
    """Whether the dtype holds negative numbers."""
    return input.is_signed()  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def is_nonzero(input: Tensor) -> bool:
    """Whether the only element is not 0. ArgumentError where there are more, or none."""
    return input.is_nonzero()  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether the two have one shape."""
    return input.is_same_size(other)  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def is_inference(input: Tensor) -> bool:
    """False: inference mode makes ordinary tensors."""
    return input.is_inference()  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def get_device(input: Tensor) -> int:
    """The number of the GPU it is on; -1 on the CPU."""
    return input.get_device()  # type: ignore[attr-defined, no-any-return]


@composite(on="function", samples=each(draw((2, 3))))
def detach(input: Tensor) -> Tensor:
    """The same memory without history; writes to it are counted."""
    return input.detach()  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def detach_(input: Tensor) -> Tensor:
    """Forget the history of input, which is returned."""
    return input.detach_()  # type: ignore[attr-defined, no-any-return]


@composite(on="function", samples=each(draw((2, 3), 2.5), draw(ints(3), 2)))
def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor like input with every element ``value``, a number or a 0-d tensor."""
    return input.clone().fill_(value)  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def fill_(input: Tensor, value: Any) -> Tensor:
    """Write a number (or a 0-d tensor) into every element of input, which is returned."""
    return input.fill_(value)  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def zero_(input: Tensor) -> Tensor:
    """Write zeros into input, which is returned."""
    return input.zero_()  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def resize_as_(input: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """Give input the shape of another tensor: see ``Tensor.resize_``."""
    return input.resize_as_(the_template)  # type: ignore[attr-defined, no-any-return]


@composite(on="function")
def as_strided_(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """Give input itself another size and stride over its memory: see ``as_strided``."""
    return input.as_strided_(size, stride, storage_offset)  # type: ignore[attr-defined, no-any-return]
