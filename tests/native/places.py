"""Where the tests of kernels run them."""

from __future__ import annotations

import tensorlib as T
from tensorlib.runtime.native import codegen

DEVICES = ["interpret", *(["native"] if codegen.available() else [])]


def on(array, device):
    """An array as a tensor on a device."""
    return T.from_numpy(array).to(device)
