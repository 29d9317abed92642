"""DLPack by PyTorch's names of this place: tensors to and from other libraries without a copy."""

from tensorlib._dlpack import from_dlpack, to_dlpack

__all__ = ["from_dlpack", "to_dlpack"]
