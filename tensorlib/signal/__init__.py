"""Signal processing: window functions."""

from tensorlib.signal import windows

__all__ = ["windows"]
