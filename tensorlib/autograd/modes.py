"""Switches of a thread: whether operations are recorded. Each is a context manager, a decorator, or both."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from tensorlib._core import listening, modes


class _Switch:
    """Sets one of the thread's modes while entered; usable as ``with``, as ``@switch()`` and as ``@switch``."""

    mode: str
    value: bool

    def __new__(cls, function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Decorating without parentheses gives the decorated function."""
        self = object.__new__(cls)
        if callable(function):
            self.__init__()  # type: ignore[misc]
            return self(function)
        return self

    def __enter__(self) -> None:
        # A stack: one object may be entered again before it is left.
        self.__dict__.setdefault("_before", []).append(getattr(modes, self.mode))
        setattr(modes, self.mode, self.value)

    def __exit__(self, *_: object) -> None:
        setattr(modes, self.mode, self.__dict__["_before"].pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function or generator function. A class is one that is called: FutureWarning, as in PyTorch."""
        if inspect.isclass(function):
            warnings.warn("Decorating classes is deprecated and will be disabled in future versions. You should only "
                          "decorate functions or methods. To preserve the current behavior of class decoration, you "
                          "can directly decorate the `__init__` method and nothing else.",
                          FutureWarning, stacklevel=2)  # fmt: skip
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                steps = function(*args, **kwargs)
                resume: Callable[[], Any] = functools.partial(next, steps)
                while True:
                    with self:
                        try:
                            item = resume()
                        except StopIteration as stop:
                            return stop.value
                    # What the caller sends or throws arrives in the generator, in this mode.
                    try:
                        resume = functools.partial(steps.send, (yield item))
                    except GeneratorExit:
                        with self:
                            steps.close()
                        raise
                    except BaseException as error:
                        resume = functools.partial(steps.throw, error)

            return generator

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapped


class no_grad(_Switch):
    """Nothing computed inside is recorded."""

    mode, value = "grad", False


class enable_grad(_Switch):
    """Recording is on again inside a ``no_grad``."""

    mode, value = "grad", True


class set_grad_enabled(_Switch):
    """Recording on or off, at once; as a context manager it is put back at the end."""

    mode = "grad"

    def __new__(cls, mode: bool) -> Any:
        """A switch to ``mode``."""
        return object.__new__(cls)

    def __init__(self, mode: bool) -> None:
        self.value = bool(mode)
        self.__dict__["_before"] = [modes.grad]
        modes.grad = self.value

    def __enter__(self) -> None:
        modes.grad = self.value

    def __exit__(self, *_: object) -> None:
        modes.grad = self.__dict__["_before"][-1]

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function; the mode outside it is left as it was."""
        modes.grad = self.__dict__["_before"][-1]
        value = self.value

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with set_grad_enabled(value):
                return function(*args, **kwargs)

        return wrapped


class inference_mode(_Switch):
    """As ``no_grad``; ``is_inference_mode_enabled`` tells. ``inference_mode(False)`` switches it off inside."""

    mode = "grad"

    def __new__(cls, mode: Any = True) -> Any:
        """A switch, or the decorated function."""
        self = object.__new__(cls)
        if callable(mode):
            self.__init__(True)  # type: ignore[misc]
            return self(mode)
        return self

    def __init__(self, mode: Any = True) -> None:
        self.inference = bool(mode)
        self.value = not self.inference

    def __enter__(self) -> None:
        self.__dict__.setdefault("_before", []).append((modes.grad, modes.inference))
        modes.grad, modes.inference = self.value, self.inference

    def __exit__(self, *_: object) -> None:
        modes.grad, modes.inference = self.__dict__["_before"].pop()


def is_grad_enabled() -> bool:
    """Whether this thread records."""
    return modes.grad


def is_inference_mode_enabled() -> bool:
    """Whether this thread is in ``inference_mode``."""
    return modes.inference


class set_detect_anomaly:
    """Anomaly mode on or off: backward names the forward call whose gradient failed or was NaN. Slow.

    ``check_nan=False``: only what failed.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = modes.anomaly, modes.check_nan
        self._set(bool(mode), check_nan)

    @staticmethod
    def _set(mode: bool, check_nan: bool) -> None:
        listening[0] += int(mode) - int(modes.anomaly)
        modes.anomaly, modes.check_nan = mode, check_nan

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._set(*self._before)


class detect_anomaly(set_detect_anomaly):
    """Anomaly mode while entered."""

    def __init__(self, check_nan: bool = True) -> None:
        self._check = check_nan
        warnings.warn("Anomaly Detection has been enabled. This mode will increase the runtime and should only be "
                      "enabled for debugging.", stacklevel=2)  # fmt: skip

    def __enter__(self) -> None:
        self._before = modes.anomaly, modes.check_nan
        self._set(True, self._check)


def is_anomaly_enabled() -> bool:
    """Whether this thread is in anomaly mode."""
    return modes.anomaly


class set_multithreading_enabled:
    """Accepted for PyTorch's sake: backward runs in the thread that calls it, whatever the mode."""

    enabled = True

    def __init__(self, mode: bool) -> None:
        self._before = set_multithreading_enabled.enabled
        set_multithreading_enabled.enabled = bool(mode)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        set_multithreading_enabled.enabled = self._before


def is_multithreading_enabled() -> bool:
    """What ``set_multithreading_enabled`` was given last; True at first."""
    return set_multithreading_enabled.enabled
