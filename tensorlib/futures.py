"""Results that another thread will give: ``Future``, and waiting for several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Future", "collect_all", "wait_all"]


T = TypeVar("T")


class Future(Generic[T]):
    """A value that is set once, by any thread: ``wait`` gives it, or raises the exception that was set instead.

    ``devices`` is taken as PyTorch does; values are what they are when they are set.
    """

    def __init__(self, *, devices: Any = None) -> None:
        self._ready = threading.Condition()
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[Any]], Any]] = []

    def done(self) -> bool:
        """Whether there is a value or an exception."""
        return self._done

    def wait(self) -> Any:
        """The value, as soon as there is one; the exception that was set is raised."""
        with self._ready:
            self._ready.wait_for(self.done)
        return self.value()

    def value(self) -> Any:
        """The value of a future that is done; RuntimeError before that."""
        if not self._done:
            raise RuntimeError("value(): the future is not done yet: wait() waits for it")
        if self._error is not None:
            raise self._error
        return self._value

    def _finish(self, value: Any, error: BaseException | None) -> None:
        with self._ready:
            if self._done:
                raise RuntimeError("a Future can be completed once: this one has a result already")
            self._value, self._error, self._done = value, error, True
            callbacks, self._callbacks = self._callbacks, []
            self._ready.notify_all()
        for callback in callbacks:
            callback(self)

    def set_result(self, result: Any) -> None:
        """Give the value; waiting threads go on, and callbacks run in this one."""
        self._finish(result, None)

    def set_exception(self, result: BaseException) -> None:
        """Give an exception for ``wait`` and ``value`` to raise."""
        if not isinstance(result, Exception):
            raise AssertionError(f"{result} is of type {type(result)}, not an Exception.")
        self._finish(None, result)

    def add_done_callback(self, callback: Callable[[Future[Any]], None]) -> None:
        """Call ``callback(self)`` when this is done, at once if it is."""
        with self._ready:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def then(self, callback: Callable[[Future[Any]], Any]) -> Future[Any]:
        """The future of ``callback(self)``, called when this is done; its exception is the future's."""
        later: Future[Any] = Future()

        def call(own: Future[Any]) -> None:
            try:
                result = callback(own)
            except Exception as error:
                later.set_exception(error)
            else:
                later.set_result(result)

        self.add_done_callback(call)
        return later


def collect_all(futures: list[Future[Any]]) -> Future[Any]:
    """A future of the list itself, done when all of them are."""
    all_done: Future[Any] = Future()
    lock, left = threading.Lock(), [len(futures)]

    def one(_: Future[Any]) -> None:
        with lock:
            left[0] -= 1
            last = not left[0]
        if last:
            all_done.set_result(futures)

    for future in futures:
        future.add_done_callback(one)
    if not futures:
        all_done.set_result(futures)
    return all_done


def wait_all(futures: list[Future[Any]]) -> list[Any]:
    """The values of all; the first exception among them is raised."""
    return [future.wait() for future in collect_all(futures).wait()]
