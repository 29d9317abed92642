"""Files: tensors written and read without running anything that the file contains."""

from __future__ import annotations

from tensorlib.io.safetensors import load_file, save_file

__all__ = ["load_file", "save_file"]
