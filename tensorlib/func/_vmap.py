"""``vmap``: a function of single examples as a function of batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlib._core import Tensor
from tensorlib._dispatch import kind_of
from tensorlib.autograd.batched import Batch, enter, out_dim
from tensorlib.autograd.lifted import inside
from tensorlib.errors import ArgumentError
from tensorlib.ops import cat
from tensorlib.utils._pytree import TreeSpec, broadcast_prefix, tree_flatten, tree_unflatten


def _is_dim(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """out[i] = func(inputs[i]) for all i at once: ``func`` sees tensors without the mapped dimension.

    ``in_dims``: for each argument the dimension to map over, None for one that is the same for all, or a tree of
    these of the argument's structure (an int for all). Arguments by keyword are the same for all. ``out_dims``:
    where the dimension goes in each result; None for one that does not depend on it. ``randomness``: what operators
    that draw random numbers do: "error", "different" numbers for each element, the "same" for all.
    ``chunk_size``: so many elements at a time, to save memory.

    Inside, values cannot be read (``item()``, ``if``), shapes cannot depend on them, and what is not mapped cannot be
    written with what is. Operators without a rule for batches run once for each element. ValueError for arguments that
    do not fit. Source: torch.func.vmap.
    """
    if randomness not in ("error", "different", "same"):
        raise ArgumentError(
            f"vmap: Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}"
        )
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size > 0):
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")
    name = getattr(func, "__name__", repr(func))

    @functools.wraps(func, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, dims, spec, count = _inputs(name, in_dims, args)
        if not leaves:
            raise ValueError(f"vmap({name})(<inputs>): got no inputs. Maybe you forgot to add inputs, or you are "
                             f"trying to vmap over a function with no inputs. The latter is unsupported.")  # fmt: skip
        given, places = leaves, dims

        def run(values: list[Any], size: int) -> tuple[list[Any], list[Any], TreeSpec]:
            level = Batch(size, randomness)
            with inside(level):
                inner = [
                    x if d is None else enter(x.movedim(d, 0) if d else x, level)
                    for x, d in zip(values, places, strict=True)
                ]
                out = func(*tree_unflatten(inner, spec), **kwargs)
            results, out_spec = tree_flatten(out)
            for r in results:
                if not isinstance(r, Tensor) and out_dims is not None:
                    raise ValueError(f"vmap({name}, ...): `{name}` must only return Tensors, got type {type(r)}. Did "
                                     f"you mean to set out_dims= to None for output?")  # fmt: skip
            wanted = broadcast_prefix(out_dims, out_spec, _is_dim)
            if wanted is None and isinstance(out_dims, tuple) and len(out_dims) == 1 and out_spec.is_leaf():
                wanted = list(out_dims)
            if wanted is None:
                raise ValueError(f"vmap({name}, ..., out_dims={out_dims}): out_dims is not compatible with the "
                                 f"structure of `outputs`: out_dims has structure {tree_flatten(out_dims)[1]} but "
                                 f"outputs has structure {out_spec}.")  # fmt: skip
            found = [r if d is None and not isinstance(r, Tensor) else out_dim(r, level, d)
                     for r, d in zip(results, wanted, strict=True)]  # fmt: skip
            return found, wanted, out_spec

        if chunk_size is None or chunk_size >= count:
            found, _, out_spec = run(given, count)
            return tree_unflatten(found, out_spec)
        pieces = []
        for start in range(0, count, chunk_size):
            size = min(chunk_size, count - start)
            part = [x if d is None else x.narrow(d, start, size) for x, d in zip(given, places, strict=True)]
            pieces.append(run(part, size))
        _, wanted, out_spec = pieces[0]
        joined = [values[0] if d is None else cat(list(values), d)
                  for d, values in zip(wanted, zip(*(p[0] for p in pieces), strict=True), strict=True)]  # fmt: skip
        return tree_unflatten(joined, out_spec)

    return mapped


def _inputs(name: str, in_dims: Any, args: tuple[Any, ...]) -> tuple[list[Any], list[Any], TreeSpec, int]:
    """(leaves, the dimension of each, structure, size of the batch)."""
    if not isinstance(in_dims, (int, tuple, list)) or isinstance(in_dims, bool):
        raise ValueError(
            f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): expected `in_dims` to be int or a (potentially nested) "
            f"tuple matching the structure of inputs, got: {type(in_dims)}."
        )
    leaves, spec = tree_flatten(args)
    if not leaves:
        return leaves, [], spec, 0
    dims = broadcast_prefix(tuple(in_dims) if isinstance(in_dims, list) else in_dims, spec, _is_dim)
    if dims is None:
        raise ValueError(
            f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): in_dims is not compatible with the structure of "
            f"`inputs`. in_dims has structure {tree_flatten(in_dims)[1]} but inputs has structure {spec}."
        )
    out: list[int | None] = []
    sizes = set()
    for x, d in zip(leaves, dims, strict=True):
        if d is None:
            out.append(None)
            continue
        if not isinstance(x, Tensor):
            raise ValueError(
                f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): Got in_dim={d} for an input but the input is of type "
                f"{kind_of(x)}. We cannot vmap over non-Tensor arguments, please use None as the respective in_dim"
            )
        n = x._array.ndim
        if not -n <= d < n:
            raise ValueError(
                f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): Got in_dim={d} for some input, but that input is a "
                f"Tensor of dimensionality {n} so expected in_dim to satisfy -{n} <= in_dim < {n}."
            )
        out.append(d % n)
        sizes.add(x._array.shape[d])
    if not sizes:
        raise ValueError(
            f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): at least one input must be mapped over: in_dims are None"
        )
    if len(sizes) > 1:
        raise ValueError(
            f"vmap: Expected all tensors to have the same size in the mapped dimension, got sizes {sorted(sizes)} for "
            f"the mapped dimension"
        )
    return leaves, out, spec, sizes.pop()
