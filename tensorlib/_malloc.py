"""Keep freed memory in the process on glibc, so that a training step does not fault its buffers in again every time.

glibc gives arrays above 32 MB (at most) back to the kernel when they are freed; raising two thresholds keeps them for
the next step. Nothing else of the process is changed. ``TENSORLIB_MALLOC=0`` in the environment leaves it as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_THRESHOLD = 1 << 30


def keep_freed_memory() -> str:
    """Raise the thresholds; returns what was done, for ``tensorlib doctor``."""
    if os.environ.get("TENSORLIB_MALLOC") == "0":
        return "left as it is (TENSORLIB_MALLOC=0)"
    if sys.platform != "linux":
        return "left as it is (not glibc)"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return "left as it is (no mallopt: not glibc)"
    done = mallopt(_M_MMAP_THRESHOLD, _THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _THRESHOLD)
    return "freed memory is kept for the next step" if done else "left as it is (mallopt refused)"


status = keep_freed_memory()
