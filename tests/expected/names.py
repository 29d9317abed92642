"""Where PyTorch keeps an operator whose place or name differs, and what is not compared with it, and why."""

from __future__ import annotations

#: Our name -> the path below ``torch``.
NAMES: dict[str, str] = {
    "vector_norm": "linalg.vector_norm",
}

#: Our name -> why PyTorch has nothing to compare with.
NOT_IN_TORCH: dict[str, str] = {}

#: (our name, label of the case) -> why PyTorch's value is not what is expected.
LEFT_OUT: dict[tuple[str, str], str] = {
    ("take_along_dim", "sample 1 transposed"): "PyTorch refuses a transposed input there",
    ("erf", "special values"): "PyTorch's bfloat16 erf flushes small arguments to 0, its float32 one does not",
}

#: Public composites that no call is compared of, and why.
WITHOUT: dict[str, str] = {
    "empty": "its elements are undefined",
    "empty_like": "its elements are undefined",
    "tensor": "takes Python data: tests/tensor",
    "as_tensor": "takes Python data: tests/tensor",
    "from_numpy": "takes a NumPy array: tests/tensor",
    "_where_method": "where() under the method's order of arguments",
    "_as_view": "view() under the method's order of arguments",
    "broadcast_shapes": "takes shapes, no tensors",
}
