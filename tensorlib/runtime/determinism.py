"""Whether kernels may add in no fixed order: ``use_deterministic_algorithms``."""

from __future__ import annotations

import warnings

#: "off", "warn" or "error", for the whole process as in PyTorch.
level = ["off"]


class Unordered(Exception):
    """A kernel was asked for whose sums have no fixed order; ``execute`` turns it into an error naming the operator."""


def atomic() -> None:
    """Called by a host function before it adds floating-point numbers atomically.

    For kernels of one's own: the library's have an ordered way where ``level`` is not "off".
    """
    if level[0] == "error":
        raise Unordered
    if level[0] == "warn":
        warnings.warn(
            "sums at repeated places are atomic on this device, in no fixed order, although "
            "use_deterministic_algorithms(True, warn_only=True) was called",
            stacklevel=2,
        )
