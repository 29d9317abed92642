"""What may be set of device ``native``: the number of threads, and the guard. This loads nothing that compiles."""

from __future__ import annotations

import os
from collections.abc import Callable

from tensorlib import _blas

#: Called when the number of threads changes, and when the guard is switched.
threads_changed: list[Callable[[], None]] = []
guard_changed: list[Callable[[], None]] = []


class _State:
    threads: int | None = None
    guard: bool | None = None


def get_num_threads() -> int:
    """How many threads a launch runs on, the calling one among them: what was set, OMP_NUM_THREADS, the processors."""
    if _State.threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        _State.threads = int(given) if given.isdecimal() and int(given) > 0 else _blas.usable_processors()
    return _State.threads


def set_num_threads(count: int) -> None:
    """Run launches on that many threads from now on."""
    if count != get_num_threads():
        _State.threads = count
        for listener in threads_changed:
            listener()


def guarded() -> bool:
    """Whether every access of a kernel is checked: what was set, else TENSORLIB_NATIVE_GUARD."""
    if _State.guard is None:
        said = os.environ.get("TENSORLIB_NATIVE_GUARD", "0").lower()
        _State.guard = said not in ("", "0", "false", "off", "no")
    return _State.guard


def guard(on: bool) -> None:
    """Check every access of kernels that are launched from now on, or do not. It holds for the whole process."""
    if bool(on) != guarded():
        _State.guard = bool(on)
        for listener in guard_changed:
            listener()
