"""Copies: of another dtype, of another layout, on another device."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import LIFTED, Tensor, modes, wrap
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib._dispatch import edge, make_node, sync
from tensorlib._samples import ELEMENTWISE, draw, each, strided, transposed
from tensorlib.errors import DeviceError
from tensorlib.kernels import pointwise as kernels
from tensorlib.kernels import transfer as transfers
from tensorlib.op import Array, composite, op


@op(
    bench=[draw((1 << 24,), dtype=np.dtype(np.float16))],
    spec=lambda input, dtype: (input.shape, dtype),
    kernel=lambda out, input, dtype: kernels.copy(out, input),
    vjp=lambda g, input_dtype: g.to(input_dtype),
    on="",
    samples=each(
        draw((3, 4), dtype=np.dtype(np.float64)),
        draw((3, 4), dtype=np.dtype(np.int32)),
        draw((3, 4), dtype=np.dtype(np.uint8)),
        draw((), dtype=np.dtype(np.bool_)),
    ),
)
def cast(input: Array, dtype: Any):
    """The same numbers as another dtype: floats to ints cut off the fraction, complex to real the imaginary
    part; anything but 0 is True.
    """
    if input.dtype.kind == "c" and dtype.kind not in "cb":
        input = input.real
    if input.flags.c_contiguous:
        return input.astype(dtype)
    return input.astype(dtype, "C" if 0 in input.strides else "K")  # K would order an expanded array's dims otherwise


@op(
    bench=[draw((1 << 24,)), draw(transposed(4096, 4096))],
    spec=lambda input: (input.shape, input.dtype),
    kernel=kernels.copy,
    vjp=lambda g: g,
    on="",
    samples=each(draw((3, 4)), draw(transposed(3, 4)), draw(strided(2, 5)), draw(()), draw((0, 3))),
)
def _clone(input: Array):
    """A contiguous copy."""
    return np.array(input, order="C")


@composite(samples=ELEMENTWISE)
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own memory; gradients flow through it."""
    return _clone(input)


class _Transfer:
    """The history of a tensor that came from another device."""

    name = "ToCopyBackward0"

    @staticmethod
    def backward(node: Any, grads: list[Any], create: bool) -> tuple[Any, ...]:
        """The gradient, on the device the tensor came from."""
        return (grads[0].to(node.attrs),)


def transfer(input: Tensor, device: Device, non_blocking: bool = False) -> Tensor:
    """A copy on another device. ``non_blocking``: see ``kernels.transfer``."""
    sync(input)
    x = input._array
    if type(x) in LIFTED:
        out = wrap(x.read() if device is cpu else transfers.to(x.read(), device))
    else:
        out = wrap(transfers.to(x, device, non_blocking))
    if input._needs and modes.grad:
        out._node = make_node(_Transfer, (edge(input),), None, _array.device_of(x))
        out._needs = True
    return out


def pin(input: Tensor) -> Tensor:
    """The tensor in page-locked memory. DeviceError where it is on a GPU, or there is none."""
    x = input._array
    if not isinstance(x, np.ndarray):
        raise DeviceError(
            f"pin_memory: cannot pin a tensor on {_array.device_of(x)}: only dense CPU tensors can be pinned"
        )
    array = transfers.pin(x)
    if array is x:
        return input
    out = wrap(array)
    if input._needs and modes.grad:
        out._node = make_node(_Transfer, (edge(input),), None, cpu)
        out._needs = True
    return out
