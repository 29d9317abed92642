"""Functions of attention scores inside the fused kernels: soft caps, biases by position, masks; any chain of them.

A score function is a jit function ``forward(score, batch, head, query, key, *parameters)`` and its derivative
``backward(grad, score, batch, head, query, key, *parameters)``, the gradient of the score that ``forward`` was given.
Scores are tiles in float32 (float64 for float64); batch is a number, head one or a column; query and key are
positions, a column and a row, or a row and a column; a parameter is a number or a pointer. Positions never pass the
last query or key; those of queries are negative where a packed sequence has more queries than keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorlib.errors import ArgumentError
from tensorlib.runtime.compiler import Jit, define, jit

if TYPE_CHECKING:
    import triton.language as tl


class Declared(NamedTuple):
    """A score function by its name: what the kernels compute, and the same with tensors."""

    name: str
    forward: Jit
    backward: Jit
    reference: Callable[..., Any]
    is_mask: bool = False


#: Every score function that was declared, by name: an operator's attribute names them.
registry: dict[str, Declared] = {}

#: One link of a chain: a name, then the parameters; None stands for the next array.
Link = tuple[Any, ...]


def declare(
    name: str, forward: Jit, backward: Jit, reference: Callable[..., Any], is_mask: bool = False
) -> Declared:  # fmt: skip
    """Enter a score function. ArgumentError where the name is taken by another."""
    if name in registry:
        raise ArgumentError(f"score function {name!r} is declared already: give it another name")
    made = registry[name] = Declared(name, forward, backward, reference, is_mask)
    return made


def declare_mask(name: str, allowed: Jit, reference: Callable[..., Any]) -> Declared:
    """Enter a mask: ``allowed(batch, head, query, key, *parameters)``, True where a query may look at a key."""
    n = len(allowed.arguments) - 4
    more = "".join(f", p{i}" for i in range(n))
    stem = re.sub(r"\W", "_", name)
    given = f"batch, head, query, key{more}"
    forward = define(
        f"def _{stem}(score, {given}):\n    return tl.where(allowed({given}), score, float('-inf'))\n",
        {"allowed": allowed},
    )
    backward = define(
        f"def _{stem}_grad(grad, score, {given}):\n    return tl.where(allowed({given}), grad, 0.0)\n",
        {"allowed": allowed},
    )
    return declare(name, forward, backward, reference, True)


@lru_cache(maxsize=256)
def compose(chain: tuple[tuple[str, int], ...]) -> tuple[Jit, Jit]:
    """(forward, backward) of functions one after the other, given by (name, number of parameters).

    Both take ``(…, batch, head, query, key, parameters)``, the parameters of all in one tuple.
    """
    namespace: dict[str, Any] = {}
    calls, at = [], 0
    for i, (name, count) in enumerate(chain):
        namespace[f"f{i}"], namespace[f"g{i}"] = registry[name].forward, registry[name].backward
        calls.append("batch, head, query, key" + "".join(f", parameters[{at + j}]" for j in range(count)))
        at += count
    scores = [f"    s{i + 1} = f{i}(s{i}, {given})" for i, given in enumerate(calls)]
    n = len(chain)
    forward = "\n".join(
        ["def _score(s0, batch, head, query, key, parameters):", *scores, f"    return s{n}"]
    )  # fmt: skip
    backward = "\n".join([
        "def _score_grad(grad, s0, batch, head, query, key, parameters):", *scores[:-1],
        *(f"    grad = g{i}(grad, s{i}, {calls[i]})" for i in range(n - 1, -1, -1)), "    return grad",
    ])  # fmt: skip
    return define(forward + "\n", namespace, __name__), define(backward + "\n", namespace, __name__)


def composed(chain: Sequence[Link]) -> tuple[Jit | None, Jit | None]:
    """``compose`` of links; (None, None) of none."""
    if not chain:
        return None, None
    return compose(tuple([(link[0], len(link) - 1) for link in chain]))


def without_masks(chain: Sequence[Link]) -> tuple[Link, ...]:
    """The functions before the first mask. ArgumentError where another comes after one: parameters go by place."""
    masks = [registry[link[0]].is_mask for link in chain]
    first = masks.index(True) if True in masks else len(masks)
    if not all(masks[first:]):
        raise ArgumentError(f"flex_attention: expected masks after functions of scores, got {chain}: exchange them")
    return tuple(chain[:first])


def arguments(chain: Sequence[Link], arrays: Sequence[Any], number: Callable[[float], Any]) -> tuple[Any, ...]:
    """The parameters of all links in one tuple, arrays put where None stands, floats as ``number``."""
    rest = iter(arrays)
    return tuple([
        next(rest) if p is None else number(p) if isinstance(p, float) else p for link in chain for p in link[1:]
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the functions


@jit
def _tanh(x):
    # By exp of what is not positive, so that nothing overflows; NaN stays NaN.
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0.0, -t, t)


@jit
def _softcap(score, batch, head, query, key, cap):
    return tl.cast(cap, score.dtype) * _tanh(score / tl.cast(cap, score.dtype))


@jit
def _softcap_grad(grad, score, batch, head, query, key, cap):
    t = _tanh(score / tl.cast(cap, score.dtype))
    return grad * (1.0 - t * t)


@jit
def _alibi(score, batch, head, query, key, slopes):
    return score + tl.load(slopes + head).to(score.dtype) * (key - query).to(score.dtype)


@jit
def _same(grad, score, batch, head, query, key, slopes):
    return grad


@jit
def _in_prefix(batch, head, query, key, prefix):
    return (key < prefix) | (key <= query)


@jit
def _same_document(batch, head, query, key, of_query, of_key):
    return tl.load(of_query + tl.maximum(query, 0)) == tl.load(of_key + key)


SOFTCAP = declare(
    "softcap", _softcap, _softcap_grad, lambda score, batch, head, query, key, cap: cap * (score / cap).tanh()
)
ALIBI = declare(
    "alibi", _alibi, _same,
    lambda score, batch, head, query, key, slopes: score + slopes[head].to(score.dtype) * (key - query),
)  # fmt: skip
PREFIX = declare_mask(
    "prefix_lm", _in_prefix, lambda batch, head, query, key, prefix: (key < prefix) | (key <= query)
)  # fmt: skip
DOCUMENT = declare_mask(
    "document", _same_document,
    lambda batch, head, query, key, of_query, of_key: of_query[query.clamp(min=0)] == of_key[key],
)  # fmt: skip
