"""Compiled kernels on disk: one file an entry, shared by processes, and by machines where the folder is.

An entry is found by the hash of everything its code depends on (`compiler.entry_key`), so that a change of a kernel, of
Triton or of a setting finds another entry, and none is ever changed. A file is written under another name and renamed,
and carries a hash of its contents: what a killed process, a full disk or a bad sector leaves behind is compiled again
and replaced. Processes that want the same entry wait for the one that compiles it. Nothing is unpickled, but a GPU will
run what is here: keep the folder as private as the program.

``TENSORLIB_CACHE_DIR`` names the folder; else it is ``tensorlib`` in ``TRITON_CACHE_DIR``, in ``XDG_CACHE_HOME``, or
in ``~/.cache``. ``TENSORLIB_CACHE_SIZE`` bounds its kernels in MiB (2048): those used longest ago go first, as do those
not used for 180 days. ``TENSORLIB_CACHE=0`` does without. To clear it delete the folder, at any time, or call `clear`.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

from tensorlib.runtime import environment, fingerprint

try:
    import fcntl
except ImportError:  # Windows: processes then compile what another compiles as well
    fcntl = None  # type: ignore[assignment]

_MAGIC = b"TLKERN\x00\x01"  # the last byte is the version of the layout
_HEAD = struct.Struct("<8s32sI")  # the magic, SHA-256 of what follows it, bytes of the JSON that begins there
_DAY = 86400.0
_UNUSED_DAYS = 180
_TOUCH_AFTER = _DAY / 2  # a hit says that an entry is in use at most this often
_PRUNE_AFTER = 64 << 20  # bytes written by this process
LOCK_SECONDS = 300.0  #: how long to wait for a process that compiles the same, before doing it as well


def folder() -> str | None:
    """The folder of what tensorlib keeps between runs; None where it is switched off or there is no home."""
    if not environment.switch("TENSORLIB_CACHE", True):
        return None
    variables = os.environ
    given = variables.get("TENSORLIB_CACHE_DIR")
    if given:
        return os.path.abspath(given)
    parent = variables.get("TRITON_CACHE_DIR") or variables.get("XDG_CACHE_HOME")
    if not parent:
        home = os.path.expanduser("~")
        if home == "~":
            return None
        parent = os.path.join(home, ".cache")
    return os.path.join(os.path.abspath(parent), "tensorlib")


def path_of(key: str) -> str | None:
    """The file of an entry."""
    place = folder()
    return None if place is None else os.path.join(place, "kernels", key[:2], f"{key[2:]}.kernel")


def load(key: str) -> tuple[dict[str, Any], bytes] | None:
    """What was stored under a key; None where there is nothing, or nothing that is whole."""
    path = path_of(key)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            content = file.read()
            written = os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    found = unpack(content, key)
    if found is not None and time.time() - written > _TOUCH_AFTER:
        with contextlib.suppress(OSError):  # a folder that may only be read
            os.utime(path)
    return found


def unpack(content: bytes, key: str) -> tuple[dict[str, Any], bytes] | None:
    """The two parts of a file's contents; None unless they are whole and stored under this key."""
    if len(content) < _HEAD.size:
        return None
    magic, digest, size = _HEAD.unpack_from(content)
    if magic != _MAGIC or fingerprint.sha256(memoryview(content)[40:]).digest() != digest:
        return None
    end = _HEAD.size + size
    try:
        header = json.loads(content[_HEAD.size : end])
    except ValueError:
        return None
    if end > len(content) or not isinstance(header, dict) or header.get("key") != key:
        return None
    return header, content[end:]


def pack(key: str, header: dict[str, Any], binary: bytes) -> bytes:
    """A file's contents."""
    text = json.dumps(header | {"key": key}).encode()
    rest = struct.pack("<I", len(text)) + text + binary
    return _MAGIC + fingerprint.sha256(rest).digest() + rest


def store(key: str, header: dict[str, Any], binary: bytes) -> bool:
    """Keep a JSON header and bytes under a key. False, after one warning in a process, where they cannot be written."""
    path = path_of(key)
    if path is None:
        return False
    limit()  # an impossible TENSORLIB_CACHE_SIZE is an error each time, not only when it is time to prune
    content = pack(key, header, binary)
    temporary = f"{path}.{os.getpid()}.{os.urandom(8).hex()}.tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        _warn(error)
        return False
    _State.written += len(content)
    if _State.written > _State.prune_at:
        _State.prune_at = _State.written + _PRUNE_AFTER
        _prune_in_turn()
    return True


def writable() -> bool:
    """Whether entries can be written."""
    place = folder()
    if place is None:
        return False
    probe = os.path.join(place, "kernels", f"{os.getpid()}.{os.urandom(8).hex()}.tmp")
    try:
        os.makedirs(os.path.dirname(probe), exist_ok=True)
        with open(probe, "xb") as file:
            file.write(b"\0")
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(probe)
    return True


class _State:
    """What this process did."""

    warned = False
    written = 0
    prune_at = 0  # the first entry that a process writes prunes, if nobody has today
    lock = threading.Lock()


def _warn(error: OSError) -> None:
    with _State.lock:
        if _State.warned:
            return
        _State.warned = True
    warnings.warn(
        f"compiled kernels cannot be kept in {folder()}: {error.strerror or error}; every process compiles them anew. "
        f"Set TENSORLIB_CACHE_DIR to a folder that can be written, or TENSORLIB_CACHE=0 to do without",
        UserWarning,  # NumPy's RuntimeWarnings are not shown
        stacklevel=2,
    )


# -- one process compiles, the others wait -----------------------------------------------------------------------------


@contextlib.contextmanager
def lock(key: str) -> Iterator[None]:
    """Held by one process at a time for a key, as far as the file system can lock. It ends with the process.

    Waiting ends when the entry is there, and after LOCK_SECONDS: two then do the same work, which harms nothing.
    """
    file, path = _lock_file(key), path_of(key) or ""
    before = _identity(path)
    try:
        if file is not None:
            pause, until = 0.002, time.monotonic() + LOCK_SECONDS
            while not _try_lock(file):
                if time.monotonic() > until or _identity(path) != before:
                    break
                time.sleep(pause)
                pause = min(pause * 1.5, 0.1)
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):  # said, not left to close: a forked child holds the file open
                fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from one that replaced it."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _lock_file(key: str) -> int | None:
    place = folder()
    if place is None or fcntl is None:
        return None
    locks = os.path.join(place, "locks")
    try:
        os.makedirs(locks, exist_ok=True)
        return os.open(os.path.join(locks, f"{key[:2]}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return None


def _try_lock(file: int) -> bool:
    """Whether the lock is held now, or cannot be had on this file system at all."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


# -- how much there is -------------------------------------------------------------------------------------------------


def entries() -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of every file of the kernels' folder."""
    place = folder()
    if place is None:
        return
    pending = [os.path.join(place, "kernels")]
    for each in pending:
        try:
            with os.scandir(each) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        with contextlib.suppress(OSError):  # it has just gone
                            yield entry.path, entry.stat(follow_symlinks=False)
        except OSError:
            continue


def usage() -> tuple[int, int]:
    """(kernels, bytes) in the cache."""
    sizes = [status.st_size for path, status in entries() if path.endswith(".kernel")]
    return len(sizes), sum(sizes)


def clear() -> int:
    """Delete every kernel of the cache, and say how many there were. Processes that use it compile anew."""
    return sum(_remove(path) for path, _ in list(entries()) if path.endswith((".kernel", ".tmp")))


def limit() -> int:
    """Bytes that the kernels may take. EnvironmentVariableError where TENSORLIB_CACHE_SIZE is no number of MiB."""
    try:
        size = float(os.environ.get("TENSORLIB_CACHE_SIZE") or 2048)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1 << 40:
        raise environment.refuse("TENSORLIB_CACHE_SIZE", "a number of MiB, 0 or more", "2048")
    return int(size * (1 << 20))


def prune() -> int:
    """Delete what was not used for long and what is too much, and say how many entries that were."""
    now, kept, removed = time.time(), [], 0
    for path, status in entries():
        if path.endswith(".tmp"):
            if now - status.st_mtime > _DAY:  # of a process that was killed
                _remove(path)
        elif path.endswith(".kernel"):
            if now - status.st_mtime > _UNUSED_DAYS * _DAY:
                removed += _remove(path)
            else:
                kept.append((status.st_mtime, status.st_size, path))
    total, allowed = sum(size for _, size, _ in kept), limit()
    if total > allowed:
        for _, size, path in sorted(kept):
            if total <= allowed * 0.8:
                break
            removed += _remove(path)
            total -= size
    return removed


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _prune_in_turn() -> None:
    """`prune`, unless another process did within a day, or within these bytes of this process."""
    place = folder()
    assert place is not None
    mark = os.path.join(place, "pruned")
    try:
        if _State.written <= _PRUNE_AFTER and time.time() - os.stat(mark).st_mtime < _DAY:
            return
    except OSError:
        pass
    with contextlib.suppress(OSError):
        with open(mark, "a"):
            os.utime(mark)
        prune()
