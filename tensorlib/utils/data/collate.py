"""From a list of samples to one batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor, wrap
from tensorlib.ops import as_tensor, stack, tensor

__all__ = ["collate", "default_collate", "default_collate_fn_map", "default_convert"]

CollateMap = dict[Any, Callable[..., Any]]


def _rebuild_mapping(elem: Any, values: dict[Any, Any]) -> Any:
    """``values`` in a mapping of the kind of ``elem``: its own type where that can be made, otherwise a dict."""
    try:
        if isinstance(elem, MutableMapping):
            made = copy.copy(elem)  # keeps what the type holds besides its items, such as a default factory
            made.update(values)
            return made
        return type(elem)(values)  # type: ignore[call-arg]
    except TypeError:
        return values


def _rebuild_sequence(elem: Any, values: list[Any]) -> Any:
    """``values`` in a sequence of the kind of ``elem``: its own type where that can be made, otherwise a list."""
    try:
        if isinstance(elem, MutableSequence):
            made = copy.copy(elem)
            for i, value in enumerate(values):
                made[i] = value
            return made
        return type(elem)(values)
    except (TypeError, ValueError):  # a bytearray takes no tensors
        return values


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def default_convert(data: Any) -> Any:
    """NumPy arrays and scalars inside ``data`` as tensors over the same memory; everything else unchanged.

    Mappings, named tuples and sequences are rebuilt; a tuple becomes a list. It is what a DataLoader without batches
    (``batch_size=None``) does to each sample.
    """
    if isinstance(data, Tensor):
        return data
    if isinstance(data, np.ndarray) or (isinstance(data, np.generic) and not isinstance(data, (np.str_, np.bytes_))):
        return data if data.dtype.kind in "SUO" else as_tensor(data)
    if isinstance(data, Mapping):
        return _rebuild_mapping(data, {key: default_convert(data[key]) for key in data})
    if _is_namedtuple(data):
        return type(data)(*(default_convert(value) for value in data))
    if isinstance(data, tuple):
        return [default_convert(value) for value in data]
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _rebuild_sequence(data, [default_convert(value) for value in data])
    return data


def _refusal(found: Any) -> TypeError:
    return TypeError(
        f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {found}"
    )


def collate(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """One batch of a list of samples: element types by ``collate_fn_map``, containers by collating their members.

    ``collate_fn_map`` maps a type (or a tuple of types) to ``function(batch, *, collate_fn_map)``: the exact type of
    the first sample is looked for first, then the first entry that it is an instance of.
    """
    elem = batch[0]
    if collate_fn_map is not None:
        found = collate_fn_map.get(type(elem))
        if found is None:
            found = next((function for kind, function in collate_fn_map.items() if isinstance(elem, kind)), None)
        if found is not None:
            return found(batch, collate_fn_map=collate_fn_map)
    if isinstance(elem, Mapping):
        together = {key: collate([d[key] for d in batch], collate_fn_map=collate_fn_map) for key in elem}
        return _rebuild_mapping(elem, together)
    if _is_namedtuple(elem):
        columns = zip(*batch, strict=False)
        return type(elem)(*(collate(column, collate_fn_map=collate_fn_map) for column in columns))
    if isinstance(elem, Sequence):
        if any(len(other) != len(elem) for other in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        values = [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch, strict=True)]
        return values if isinstance(elem, tuple) else _rebuild_sequence(elem, values)
    raise _refusal(type(elem))


def collate_tensor_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """``stack(batch, 0)``."""
    first = batch[0]._array
    for t in batch:
        array = t._array
        if t._needs or type(array) is not np.ndarray or array.dtype != first.dtype or array.shape != first.shape:
            return stack(batch, 0)
    out = np.empty((len(batch), *first.shape), first.dtype)
    for i, t in enumerate(batch):
        out[i] = t._array
    return wrap(out)


def collate_numpy_array_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """The arrays stacked. TypeError for arrays of strings or objects."""
    if batch[0].dtype.kind in "SUO":
        raise _refusal(batch[0].dtype)
    return collate([as_tensor(array) for array in batch], collate_fn_map=collate_fn_map)


def collate_numpy_scalar_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """A 1-D tensor of the scalars' dtype."""
    return as_tensor(np.asarray(batch))


def collate_float_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """A 1-D float64 tensor."""
    return tensor(batch, dtype="float64")


def collate_int_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """A 1-D int64 tensor; bools give a bool tensor."""
    return tensor(batch)


def collate_str_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """The list as it is."""
    return batch


default_collate_fn_map: CollateMap = {
    Tensor: collate_tensor_fn,
    np.ndarray: collate_numpy_array_fn,
    (np.bool_, np.number, np.object_): collate_numpy_scalar_fn,
    float: collate_float_fn,
    int: collate_int_fn,
    str: collate_str_fn,
    bytes: collate_str_fn,
}


def default_collate(batch: Any) -> Any:
    """A list of samples as one batch with a new first dimension.

    Tensors and NumPy arrays are stacked; floats become a float64 tensor, ints int64, bools bool; strings and bytes
    stay a list; mappings, named tuples and sequences are collated member by member (tuples become lists). TypeError
    for other types, RuntimeError for sequences of unequal length. ``default_collate_fn_map`` may be extended.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)
