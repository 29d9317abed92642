"""What registering a hook returns, by PyTorch's name of this place."""

from tensorlib._hooks import RemovableHandle

__all__ = ["RemovableHandle"]
