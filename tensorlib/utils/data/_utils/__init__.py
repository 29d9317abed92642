"""PyTorch's private paths to a loader's parts: ``utils.data._utils.collate`` is ``utils.data.collate``."""

from __future__ import annotations

import importlib
import sys

for _name in ("collate", "worker"):  # as modules: the package has functions of these names
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"tensorlib.utils.data.{_name}")
