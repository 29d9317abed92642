"""The class of modules that PyTorch's compiler makes, by which programs tell them: there is none here."""

from __future__ import annotations

__all__ = ["OptimizedModule"]


class OptimizedModule:
    """What no module is: ``compile`` leaves modules as they are."""
