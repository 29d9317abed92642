"""What the graph keeps: hooks that pack it elsewhere, and checkpointing, which keeps nothing and computes it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib import random
from tensorlib._autocast import Autocast
from tensorlib._core import Tensor, listening, modes, wrap
from tensorlib.errors import AutogradError


class saved_tensors_hooks:
    """Inside, each tensor that backward will need is kept as ``pack(tensor)`` and comes back by ``unpack(packed)``."""

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]) -> None:
        self._hooks = (pack_hook, unpack_hook)
        self._before: list[Any] = []

    def __enter__(self) -> None:
        if modes.pack_disabled is not None:
            raise AutogradError(modes.pack_disabled)
        self._before.append(modes.pack)
        modes.pack = self._hooks
        listening[0] += 1  # the fast paths do not look for hooks

    def __exit__(self, *_: object) -> None:
        modes.pack = self._before.pop()
        listening[0] -= 1


class _Done(BaseException):
    """Everything that was wanted has been computed again."""


class _Frame:
    """One checkpointed call: how to run it again, and what it then gave."""

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, preserve_rng_state: bool, early_stop: bool
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.rng = random.get_rng_state() if preserve_rng_state else None
        a = modes.autocast
        self.autocast = None if a is None else Autocast(a.cpu, a.gpu, a.caching, {})
        self.count = 0
        self.early_stop = early_stop
        self.again: list[Any] | None = None

    def pack(self, t: Tensor) -> int:
        self.count += 1
        return self.count - 1

    def unpack(self, index: int) -> Tensor:
        if self.again is None:
            self._recompute()
        assert self.again is not None
        if index >= len(self.again):
            raise AutogradError(
                f"checkpoint: the function saved {self.count} tensors in forward and {len(self.again)} when it was run "
                f"again: it must compute the same both times"
            )
        t = self.again[index]
        if t is None:
            raise AutogradError(
                "checkpoint: backward went twice through a checkpointed function; its values were freed"
            )
        return t

    def _recompute(self) -> None:
        found: list[Any] = []

        def keep(t: Tensor) -> Any:
            found.append(wrap(t._array))
            if self.early_stop and len(found) == self.count:
                raise _Done
            return found[-1]

        now = random.get_rng_state()
        before, modes.grad = modes.grad, True
        autocast, modes.autocast = modes.autocast, self.autocast
        if self.rng is not None:
            random.set_rng_state(self.rng)
        try:
            with saved_tensors_hooks(keep, lambda t: t):
                self.function(*self.args, **self.kwargs)
        except _Done:
            pass
        finally:
            modes.grad, modes.autocast = before, autocast
            if self.rng is not None:
                random.set_rng_state(now)
        self.again = found


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)`` without keeping its intermediate values: backward runs it again to have them.

    Random numbers are drawn again from the same state unless ``preserve_rng_state`` is False. ``use_reentrant`` is
    accepted for PyTorch's sake; there is one implementation, PyTorch's non-reentrant one.
    """
    if not modes.grad:
        return function(*args, **kwargs)
    frame = _Frame(function, args, kwargs, preserve_rng_state, early_stop)
    with saved_tensors_hooks(frame.pack, frame.unpack):
        return function(*args, **kwargs)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Run modules one after the other, in ``segments`` checkpointed groups; the last group is not checkpointed."""
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)

    def run(start: int, stop: int) -> Callable[[Any], Any]:
        def forward(x: Any) -> Any:
            for step in steps[start:stop]:
                x = step(x)
            return x

        return forward

    size = len(steps) // segments
    start = 0
    for start in range(0, size * (segments - 1), size):
        input = checkpoint(run(start, start + size), input, use_reentrant=use_reentrant, **kwargs)
    end = size * (segments - 1)
    return run(end, len(steps))(input)
