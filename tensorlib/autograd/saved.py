"""What the graph keeps: hooks that pack it elsewhere, and checkpointing, which keeps nothing and computes it again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tensorlib import _array, random
from tensorlib._autocast import Autocast
from tensorlib._core import Tensor, listening, modes, wrap
from tensorlib.autograd import engine
from tensorlib.errors import AutogradError


class saved_tensors_hooks:
    """Inside, each tensor that backward will need is kept as ``pack(tensor)`` and comes back by ``unpack(packed)``."""

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]) -> None:
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook

    def __enter__(self) -> None:
        if modes.pack_disabled is not None:
            raise AutogradError(modes.pack_disabled)
        modes.pack = (self.pack_hook, self.unpack_hook, modes.pack)
        listening[0] += 1  # the fast paths do not look for hooks

    def __exit__(self, *_: object) -> None:
        if modes.pack is not None:  # the latest entered of any: they are one stack
            modes.pack = modes.pack[2]
            listening[0] -= 1


class _Done(BaseException):
    """Everything that was wanted has been computed again."""


class CheckpointError(AutogradError):
    """A checkpointed function did not compute the same again."""


class _Settings:
    """What the two ``set_checkpoint_…`` switch, for every checkpoint made meanwhile."""

    early_stop: bool | None = None
    debug: bool | None = None


@contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """Whether checkpoints made inside stop the second run where the last value that backward needs is there."""
    before, _Settings.early_stop = _Settings.early_stop, enable
    try:
        yield
    finally:
        _Settings.early_stop = before


@contextmanager
def set_checkpoint_debug_enabled(enabled: bool | None) -> Iterator[None]:
    """Overrides ``debug=`` of the checkpoints made inside; None leaves it to them."""
    before, _Settings.debug = _Settings.debug, enabled
    try:
        yield
    finally:
        _Settings.debug = before


def noop_context_fn() -> tuple[Any, Any]:
    """The two contexts of a checkpoint that asks for none."""
    return nullcontext(), nullcontext()


def _about(t: Tensor) -> tuple[Any, ...]:
    return tuple(t._array.shape), str(t._array.dtype), str(_array.device_of(t._array))


class _Frame:
    """One checkpointed call: how to run it again, and what it then gave."""

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, preserve_rng_state: bool, early_stop: bool,
        around: Any, check: bool, debug: bool,
    ) -> None:  # fmt: skip
        self.function, self.args, self.kwargs = function, args, kwargs
        self.around = around
        self.check = check
        self.debug = debug
        self.complete = False  # whether the first run has ended
        self.whole = True  # whether the second runs were of all that the first one kept
        self.rng = random.get_rng_state() if preserve_rng_state else None
        a = modes.autocast
        self.autocast = None if a is None else Autocast(a.cpu, a.gpu, a.caching, {})
        self.early_stop = early_stop
        self.about: list[Any] = []  # of each value that was kept: its shape, dtype and device
        #: What each backward computed again, until it has taken it.
        self.again: Any = weakref.WeakKeyDictionary()

    def pack(self, t: Tensor) -> int:
        self.about.append(_about(t))
        return len(self.about) - 1

    def unpack(self, index: int) -> Tensor:
        task = engine.current()
        if task is None:  # somebody looks at what a node kept, outside backward
            return self._recompute()[index]
        if task not in self.again:
            self.again[task] = self._recompute()
        found = self.again[task]
        if index not in found:
            raise CheckpointError(
                "checkpoint: Unpack is being triggered for a tensor that was already unpacked once: keep what "
                "ctx.saved_tensors gave instead of asking again"
            )
        return found.pop(index)

    def _differs(self, text: str) -> CheckpointError:
        if self.debug:
            text += (
                f". You are seeing this error because you passed `debug=True` to checkpoint: in forward "
                f"{self.function} kept, as (shape, dtype, device), {self.about}"
            )
        return CheckpointError(f"checkpoint: {text}: the function must compute the same both times")

    def _recompute(self) -> dict[int, Tensor]:
        found: list[Any] = []

        def keep(t: Tensor) -> Any:
            if len(found) >= len(self.about):
                if self.complete:
                    raise self._differs("trying to save more tensors during recomputation than in forward")
                # The function takes a gradient itself, and so needs its values before it has come to its end.
                self.whole = False
            found.append(t if t._node is None and t._view is None and not t._needs else wrap(t._array))
            if self.early_stop and len(found) == len(self.about):
                raise _Done
            return found[-1]

        now = random.get_rng_state()
        before, modes.grad = modes.grad, True
        autocast, modes.autocast = modes.autocast, self.autocast
        if self.rng is not None:
            random.set_rng_state(self.rng)
        try:
            with self.around, saved_tensors_hooks(keep, lambda t: t):
                self.function(*self.args, **self.kwargs)
        except _Done:
            pass
        finally:
            modes.grad, modes.autocast = before, autocast
            if self.rng is not None:
                random.set_rng_state(now)
        if len(found) != len(self.about) and self.whole:
            raise self._differs(
                f"A different number of tensors was saved: {len(self.about)} in forward, {len(found)} when run again"
            )
        for i, t in enumerate(found):
            if self.check and i < len(self.about) and _about(t) != self.about[i]:
                raise self._differs(
                    f"Recomputed values for the following tensors have different metadata: tensors have different "
                    f"metadata at position {i}: {self.about[i]} in forward, {_about(t)} when run again"
                )
        return dict(enumerate(found))


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)`` without keeping its intermediate values: backward runs it again to have them.

    Random numbers are drawn again from the same state unless ``preserve_rng_state`` is False. ``use_reentrant`` is
    accepted for PyTorch's sake; there is one implementation, PyTorch's non-reentrant one. ``context_fn()`` gives the
    contexts of the first and of the second run. CheckpointError where the second run keeps other shapes, dtypes or
    devices (not with ``determinism_check="none"``) or another number of tensors; ``debug`` says more in it.
    """
    if use_reentrant and (context_fn is not noop_context_fn or debug):
        raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
    if determinism_check not in ("default", "none"):
        raise ValueError(
            f"determinism_check should be one of the functions ['default', 'none'], but got {determinism_check}"
        )
    if not modes.grad:
        return function(*args, **kwargs)
    first, second = context_fn()
    frame = _Frame(
        function, args, kwargs, preserve_rng_state,
        early_stop if _Settings.early_stop is None else _Settings.early_stop, second, determinism_check == "default",
        debug if _Settings.debug is None else _Settings.debug,
    )  # fmt: skip
    with first, saved_tensors_hooks(frame.pack, frame.unpack):
        result = function(*args, **kwargs)
    frame.complete = True
    return result


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
