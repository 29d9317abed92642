"""Tensor descriptors as kernel arguments: an array with the block that a kernel loads and stores of it at a time.

Where the hardware moves such blocks by itself (TMA, from sm_90) the parameter is a tensor map of 128 bytes that the
driver encodes, then the shape and the strides; elsewhere Triton rewrites the kernel to pointers, and the parameters are
the address, shape and strides in 64 bits, the padding, and shape and strides once more. The binary's metadata says
which of them it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib.errors import ArgumentError, DtypeError

MAP = "map"  #: the Triton type, as `Compiled.types` has it, of a tensor map
_TF32 = 11  # the driver's number of float32 that is rounded as it is loaded
_MOST = 1 << 20  # elements of a block, Triton's own limit


class TensorDescriptor:
    """An array as a kernel sees it through ``desc.load([i, j])`` and ``desc.store([i, j], block)``.

    As triton.tools.tensor_descriptor.TensorDescriptor: base is a tensor or DeviceArray at a multiple of 16 bytes;
    shape and strides in elements, the last stride 1 and the others multiples of 16 bytes; block_shape powers of two;
    what a block has outside of the shape reads as zero, or with padding="nan" as NaN. A block_shape may be assigned, as
    the configurations of an autotuner do before a launch; nothing else changes. ArgumentError names what does not fit.
    """

    __slots__ = ("_block", "_maps", "base", "key", "padding", "round_f32_to_tf32", "shape", "strides")

    def __init__(
        self,
        base: Any,
        shape: Sequence[int],
        strides: Sequence[int],
        block_shape: Sequence[int],
        padding: str = "zero",
        round_f32_to_tf32: bool = False,
    ) -> None:
        array = getattr(base, "_array", base)
        if not hasattr(array, "ptr"):
            raise ArgumentError(
                f"TensorDescriptor: got a {type(base).__name__} on the CPU: kernels run on a device: expected a tensor "
                f"there, as x.to('cuda') or x.to('interpret')"
            )
        self.base = array
        self.shape, self.strides = tuple(map(int, shape)), tuple(map(int, strides))
        self.padding, self.round_f32_to_tf32 = padding, bool(round_f32_to_tf32)
        self._maps: dict[Any, bytes]
        self.block_shape = block_shape  # type: ignore[assignment]  # any sequence is taken, and becomes a tuple

    @property
    def block_shape(self) -> tuple[int, ...]:
        """The sizes of the block that a kernel loads or stores at once."""
        return self._block

    @block_shape.setter
    def block_shape(self, sizes: Sequence[int]) -> None:
        self._block = tuple(map(int, sizes))
        self._maps = {}
        self._check()
        self.key = f"tensordesc<{_triton_type(self.base.dtype)}{list(self._block)}>".replace(" ", "")

    @staticmethod
    def from_tensor(
        tensor: Any, block_shape: Sequence[int], padding: str = "zero", round_f32_to_tf32: bool = False
    ) -> TensorDescriptor:
        """The descriptor of a whole tensor."""
        array = getattr(tensor, "_array", tensor)
        strides = getattr(array, "strides", ())
        return TensorDescriptor(tensor, array.shape, strides, block_shape, padding, round_f32_to_tf32)

    def __repr__(self) -> str:
        return f"TensorDescriptor({self.base!r}, {self.shape}, {self.strides}, {self.block_shape}, {self.padding!r})"

    @property
    def device(self) -> Any:
        """Where the array is."""
        return self.base.device

    @property
    def dtype(self) -> Any:
        """Of the elements."""
        return self.base.dtype

    def _check(self) -> None:
        rank, size = len(self.shape), self.base.dtype.itemsize
        given = f"TensorDescriptor: shape {self.shape}, strides {self.strides}, block_shape {self.block_shape}"
        if not 1 <= rank <= 5 or len(self.strides) != rank or len(self.block_shape) != rank:
            raise ArgumentError(f"{given}: expected one to five dimensions, the same number of each")
        if self.base.ptr % 16:
            raise ArgumentError(f"{given}: the address {self.base.ptr:#x} is no multiple of 16: clone the tensor")
        if any(b < 1 or b & (b - 1) for b in self.block_shape) or math.prod(self.block_shape) > _MOST:
            raise ArgumentError(f"{given}: expected blocks whose sizes are powers of two, of at most {_MOST} elements")
        if any(n < 1 for n in self.shape):
            raise ArgumentError(f"{given}: expected a shape of at least 1 in every dimension")
        if self.strides[-1] != 1 or any(s * size % 16 for s in self.strides[:-1]):
            raise ArgumentError(f"{given}: expected a last stride of 1, and others that are multiples of 16 bytes")
        if self.padding not in ("zero", "nan") or (self.padding == "nan" and self.base.dtype.kind in "iub"):
            raise ArgumentError(f"{given}: expected padding 'zero', or 'nan' for floats, got {self.padding!r}")
        if self.round_f32_to_tf32 and self.base.dtype != np.float32:
            raise DtypeError(f"{given}: round_f32_to_tf32 is for float32, got {self.base.dtype}")

    def map(self, driver: Any, meta: dict[str, Any]) -> bytes:
        """The tensor map that a binary wants, by its metadata. Encoded once: 1 µs, and the same at every launch."""
        element = _TF32 if self.round_f32_to_tf32 else meta["elem_type"]
        key = driver, meta["swizzle"], element, tuple(meta["block_size"])
        found = self._maps.get(key)
        if found is None:
            shape = list(self.shape)
            if meta.get("fp4_padded"):
                shape[-1] *= 2
            found = self._maps[key] = driver.tensor_map(
                ptr=self.base.ptr, dtype=element, shape=shape, strides=self.strides,
                block=meta["block_size"], swizzle=meta["swizzle"], fill_nan=self.padding == "nan",
            )  # fmt: skip
        return found


def is_key(key: Any) -> bool:
    """Whether a specialisation key is that of a descriptor."""
    return isinstance(key, str) and key.startswith("tensordesc<")


def types(key: str, mapped: bool, flags: int) -> list[str]:
    """The Triton types of the run-time parameters of a descriptor."""
    name, _, block = key.removeprefix("tensordesc<").partition("[")
    rank = block.count(",") + 1
    first = [MAP] if mapped else ["*" + name, *["i64"] * (2 * rank), *["u1"] * flags]
    return [*first, *["i32"] * rank, *["i64"] * rank]


def expressions(key: str, expression: str, mapped: bool, flags: int, number: int) -> list[tuple[str, str]]:
    """(Triton type, expression) of those parameters, for generated code; ``number``: which of a kernel's it is."""
    kinds = types(key, mapped, flags)
    rank = sum(kind == "i32" for kind in kinds)
    sizes = [f"{expression}.shape[{i}]" for i in range(rank)] + [f"{expression}.strides[{i}]" for i in range(rank)]
    if mapped:
        first = [f"tensor_map({expression}, {number})"]
    else:
        rules = [f"{expression}.padding == 'nan'", f"{expression}.round_f32_to_tf32"][:flags]
        first = [f"{expression}.base.ptr", *sizes, *rules]
    return list(zip(kinds, [*first, *sizes], strict=True))


_names: dict[np.dtype[Any], str] = {}


def _triton_type(dtype: np.dtype[Any]) -> str:
    name = _names.get(dtype)
    if name is None:
        raise DtypeError(f"TensorDescriptor: Triton has no element type for {dtype}")
    return name


def know(names: dict[np.dtype[Any], str]) -> None:
    """Tell Triton's names of the element types: `compiler` does, which imports this module."""
    _names.update(names)
