"""The devices: where an array lives and what runs its operators.

``cpu`` runs NumPy. ``cuda:i`` and ``hip:i`` are GPUs. Over host memory, ``interpret`` runs the GPU kernels in
Triton's interpreter, and ``native`` as machine code of the processor. A compile-only target such as ``sm_90`` or
``gfx942`` has no memory: its launches stop after the compiler, so that kernels are checked for a GPU that is not there.
``meta`` has neither memory nor kernels: what is there has a shape, strides and a dtype.
"""

from __future__ import annotations

import re
from typing import Any

from tensorlib.errors import DeviceError

#: The targets every kernel is compiled for in the checks: compute capabilities and LLVM gfx names.
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
_INDEXED = ("cuda", "hip")
_SPELLED = re.compile(r"(?P<type>cpu|cuda|hip|interpret|native|meta|sm_\d+|gfx[0-9a-f]+)(:(?P<index>\d+))?")


class device:
    """A place for arrays: ``device("cpu")``, ``device("cuda", 0)``, ``device("cuda:0")``, ``device("native")``."""

    __slots__ = ("engine", "index", "type")
    type: str
    index: int | None
    engine: Any  # what allocates and launches there, once it was used: runtime/engine.py

    def __new__(cls, type: Any, index: int | None = None) -> device:
        """The device of that name; a device is returned as it is."""
        if isinstance(type, device):
            return type
        if isinstance(type, int) and not isinstance(type, bool):
            type, index = "cuda", type
        match = _SPELLED.fullmatch(type) if isinstance(type, str) else None
        if match is None:
            raise DeviceError(
                f"unknown device {type!r}: expected 'cpu', 'cuda[:i]', 'hip[:i]', 'interpret', 'native', 'meta', "
                f"or a compile-only target such as 'sm_90' or 'gfx942'"
            )
        kind, spelled = match["type"], match["index"]
        if spelled is not None:
            if index is not None:
                raise DeviceError(f"device {type!r} already names an index; got index={index} as well")
            index = int(spelled)
        if kind not in _INDEXED:
            if index not in (None, 0):
                raise DeviceError(f"device {kind!r} has no index {index}: there is one of it")
            index = None
        self = _INTERNED.get((kind, index))
        if self is None:
            self = object.__new__(cls)
            self.type, self.index, self.engine = kind, index, None
            _INTERNED[kind, index] = self
        return self

    @property
    def compile_only(self) -> bool:
        """True for a target without memory, whose launches stop after the compiler."""
        return self.type.startswith(("sm_", "gfx"))

    @property
    def memoryless(self) -> bool:
        """True where arrays have no numbers: compile-only targets and ``meta``."""
        return self.type == "meta" or self.compile_only

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.type, self.index)


_INTERNED: dict[tuple[str, int | None], device] = {}

cpu = device("cpu")
meta = device("meta")
