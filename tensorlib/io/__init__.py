"""Files: tensors written and read without running anything that the file contains."""

from __future__ import annotations

from tensorlib.io.safetensors import load_file, save_file
from tensorlib.io.serialization import load, save

__all__ = ["load", "load_file", "save", "save_file"]
