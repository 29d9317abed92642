"""The version of the library, and of the drivers: ``cuda`` and ``hip`` are None where that vendor's GPUs are not used.

PyTorch's names. There ``cuda`` is the toolkit that it was built with; here it is what the driver supports.
"""

from __future__ import annotations

from typing import Any

from tensorlib._version import __version__
from tensorlib.runtime.engine import gpus

__all__ = ["__version__", "cuda", "debug", "hip"]  # noqa: F822  cuda and hip are asked of the driver

debug = False


def __getattr__(name: str) -> Any:
    """``cuda`` and ``hip``: "13.0", of the driver whose GPU "cuda" means here, else None."""
    if name not in ("cuda", "hip"):
        raise AttributeError(f"module 'tensorlib.version' has no attribute {name!r}")
    found = gpus().drivers().get(name)
    return ".".join(map(str, found.version)) if found is not None and gpus().kind() == name else None
