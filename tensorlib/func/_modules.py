"""Modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib.errors import ArgumentError, AutogradError
from tensorlib.ops import stack


def _holders(module: Any) -> dict[str, tuple[dict[str, Any], str]]:
    """{full name: (the dict that holds the tensor, its name there)} of parameters and buffers."""
    out = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for held in (part._parameters, part._buffers):
            for name in held:
                out[f"{prefix}.{name}" if prefix else name] = (held, name)
    return out


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """module(*args, **kwargs) with the tensors of a dict (or of several) in place of its parameters and buffers.

    Those not named stay, names that the module does not have are passed over. ``tie_weights``: what the module
    shares among several names is replaced under all of them. ``strict``: every parameter and buffer must be named,
    and nothing else. The module is as before afterwards, except that in-place writes to its buffers go to the
    dict's tensors. Source: torch.func.functional_call.
    """
    if isinstance(parameter_and_buffer_dicts, dict):
        given = dict(parameter_and_buffer_dicts)
    elif isinstance(parameter_and_buffer_dicts, Sequence):
        if not all(isinstance(d, dict) for d in parameter_and_buffer_dicts):
            raise ValueError("functional_call: Expected all elements of parameter_and_buffer_dicts to be dictionaries")
        given = {}
        for one in parameter_and_buffer_dicts:
            for name, value in one.items():
                if name in given:
                    raise ValueError(f"functional_call: {name} appears in multiple dictionaries; behavior of "
                                     f"functional call is ambiguous")  # fmt: skip
                given[name] = value
    else:
        raise ValueError(
            f"functional_call: Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got "
            f"{type(parameter_and_buffer_dicts)}"
        )
    holders = _holders(module)
    if tie_weights:
        names: dict[int, list[str]] = {}
        for name, (held, key) in holders.items():
            if held[key] is not None:
                names.setdefault(id(held[key]), []).append(name)
        for group in names.values():
            found = [name for name in group if name in given]
            if len({id(given[name]) for name in found}) > 1:
                raise ValueError(
                    f"functional_call got multiple values for keys {sorted(found)}, which are tied. Consider using "
                    f"tie_weights=False"
                )
            if found:
                for name in group:
                    given.setdefault(name, given[found[0]])
    if strict:
        missing = sorted(name for name, (held, key) in holders.items() if name not in given and held[key] is not None)
        unexpected = sorted(name for name in given if name not in holders)
        if missing or unexpected:
            raise AutogradError(
                f"functional_call: Error(s) in strict mode: Unexpected key(s): {', '.join(unexpected)}; Missing "
                f"key(s): {', '.join(missing)}"
            )
    given = {name: value for name, value in given.items() if name in holders}
    before = [(holders[name][0], holders[name][1], holders[name][0][holders[name][1]]) for name in given]
    try:
        for name, value in given.items():
            held, key = holders[name]
            held[key] = value
        if args is None:
            args = ()
        elif not isinstance(args, tuple):
            args = (args,)
        return module(*args, **(kwargs or {}))
    finally:
        for held, key, value in reversed(before):
            held[key] = value


def stack_module_state(models: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, buffers) of modules of one class, each stacked along a new first dimension, by name.

    With ``vmap`` over ``functional_call`` on them: an ensemble that computes at once.
    """
    models = list(models)
    if not models:
        raise ArgumentError("stack_module_state: Expected at least one model, got 0.")
    if not (all(m.training for m in models) or all(not m.training for m in models)):
        raise ArgumentError("stack_module_state: Expected all models to have the same training/eval mode.")
    if any(type(m) is not type(models[0]) for m in models):
        raise ArgumentError("stack_module_state: Expected all models to be of the same class.")

    def gather(dicts: list[dict[str, Tensor]]) -> dict[str, Any]:
        out = {}
        for name, first in dicts[0].items():
            row = [d[name] for d in dicts]
            if all(t.requires_grad for t in row) or not any(t.requires_grad for t in row):  # type: ignore[attr-defined]
                out[name] = stack(row).detach().requires_grad_(first.requires_grad)  # type: ignore[attr-defined]
            else:
                raise AutogradError(
                    f"stack_module_state: Expected {name} from each model to have the same .requires_grad"
                )
        return out

    return gather([dict(m.named_parameters()) for m in models]), gather([dict(m.named_buffers()) for m in models])


def replace_all_batch_norm_modules_(root: Any) -> Any:
    """Have every batch normalisation of a module use the batch's statistics and keep none, in place: for ``vmap``."""

    def patch(module: Any) -> None:
        if hasattr(module, "track_running_stats") and "running_mean" in getattr(module, "_buffers", {}):
            module.running_mean = None
            module.running_var = None
            module.num_batches_tracked = None
            module.track_running_stats = False

    for module in root.modules():
        patch(module)
    return root
