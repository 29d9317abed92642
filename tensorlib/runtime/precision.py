"""How float32 operands of products are multiplied on matrix units: ``set_float32_matmul_precision`` and its kin."""

from __future__ import annotations

#: Triton's ``input_precision`` for float32 operands, for the whole process as in PyTorch. "ieee": in float32. "tf32":
#: rounded to 10 bits of mantissa. "tf32x3": as the sum of two such numbers, three products of each pair.
float32 = ["ieee"]

#: Which word said so last, as ``backends.cuda.matmul.fp32_precision`` answers it.
said = ["none"]

#: What float32 can be, by PyTorch's words for it; "tf32x3" is not one of PyTorch's.
WORDS = {"none": "ieee", "ieee": "ieee", "tf32": "tf32", "tf32x3": "tf32x3"}


def choose(word: str) -> None:
    """Use the mode of a word."""
    float32[0], said[0] = WORDS[word], word
