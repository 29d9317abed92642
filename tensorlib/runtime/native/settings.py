"""What may be set of device ``native``: the number of threads, and the guard. This loads nothing that compiles."""

from __future__ import annotations

import os
from collections.abc import Callable

from tensorlib import _blas
from tensorlib.runtime import environment

#: More threads than this are not started: each has a stack of its own, and no processor has as many.
MOST_THREADS = 1024

#: Called when the number of threads changes, and when the guard is switched.
threads_changed: list[Callable[[], None]] = []
guard_changed: list[Callable[[], None]] = []


class _State:
    threads: int | None = None
    guard: bool | None = None


def get_num_threads() -> int:
    """How many threads a launch runs on, the calling one among them: what was set, OMP_NUM_THREADS, the processors."""
    if _State.threads is None:
        _State.threads = min(given_threads() or _blas.usable_processors(), MOST_THREADS)
    return _State.threads


def given_threads() -> int | None:
    """What OMP_NUM_THREADS says; None where it says nothing, or nothing that is a number: OpenMP ignores that too."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isascii() and given.isdecimal() and int(given) > 0 else None


def set_num_threads(count: int) -> None:
    """Run launches on that many threads from now on, on MOST_THREADS at most."""
    count = min(count, MOST_THREADS)
    if count != get_num_threads():
        _State.threads = count
        for listener in threads_changed:
            listener()


def guarded() -> bool:
    """Whether every access of a kernel is checked: what was set, else TENSORLIB_NATIVE_GUARD."""
    if _State.guard is None:
        _State.guard = environment.switch("TENSORLIB_NATIVE_GUARD", False)
    return _State.guard


def guard(on: bool) -> None:
    """Check every access of kernels that are launched from now on, or do not. It holds for the whole process."""
    if bool(on) != guarded():
        _State.guard = bool(on)
        for listener in guard_changed:
            listener()
