"""The names of memory formats and layouts: text with a type, as programs annotate with it and ask for it."""

from __future__ import annotations

__all__ = ["layout", "memory_format"]


class _Name(str):
    """A word that prints with the library's name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"tensorlib.{str.__str__(self)}"


class memory_format(_Name):
    """In which order dims lie in memory: contiguous_format, channels_last, channels_last_3d, preserve_format."""

    __slots__ = ()


class layout(_Name):
    """How a tensor's elements are kept: strided."""

    __slots__ = ()


strided = layout("strided")
contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")
