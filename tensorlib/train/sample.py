"""Text from a model, one byte at a time."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Iterator

import numpy as np

import tensorlib as tl
from tensorlib.errors import ArgumentError
from tensorlib.train.gpt import GPT, VOCABULARY


def generate(model: GPT, prompt: bytes, tokens: int, *, temperature: float = 0.8, top_k: int = VOCABULARY,
             seed: int = 0) -> Iterator[int]:  # fmt: skip
    """Bytes drawn from softmax(logits / temperature) over the ``top_k`` likeliest, each after all that precede it.

    At temperature 0 the likeliest byte. The draws are NumPy's from ``seed``: the same on every device but for the
    rounding of the logits, and the library's own random state stays untouched.
    """
    if tokens < 0:
        raise ArgumentError(f"the number of bytes to generate is {tokens}: expected 0 or more")
    if not 0 <= temperature < math.inf:
        raise ArgumentError(f"--temperature is {temperature}: expected 0 or more")
    if top_k < 1:
        raise ArgumentError(f"--top-k is {top_k}: expected 1 or more")
    if not 0 <= seed < 2**128:
        raise ArgumentError(f"--seed is {seed}: expected 0 or more, below 2**128")
    return _generate(model, prompt or b"\n", tokens, temperature, min(top_k, VOCABULARY), seed)


def _generate(model: GPT, prompt: bytes, tokens: int, temperature: float, top_k: int, seed: int) -> Iterator[int]:
    random = np.random.Generator(np.random.Philox(key=seed))
    device = next(model.parameters()).device
    window = list(prompt)
    model.eval()
    for _ in range(tokens):
        window = window[-model.config.block :]
        with tl.no_grad():
            logits = model(tl.tensor([window], device=device))[0, -1].float().cpu().numpy().astype(np.float64)
        order = np.argsort(-logits, kind="stable")[:top_k]
        if temperature == 0:
            byte = int(order[0])
        else:
            with np.errstate(over="ignore", under="ignore"):
                p = np.exp((logits[order] - logits[order[0]]) / temperature)
            byte = int(
                order[min(int(np.searchsorted(np.cumsum(p / p.sum()), random.random(), side="right")), top_k - 1)]
            )
        yield byte
        window.append(byte)


def decoded(data: Iterable[int]) -> Iterator[str]:
    """UTF-8 text as its bytes arrive; what is not UTF-8 becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for byte in data:
        text = decoder.decode(bytes([byte]))
        if text:
            yield text
    text = decoder.decode(b"", final=True)
    if text:
        yield text
