"""RemovableHandle: what registering a hook returns."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any


class RemovableHandle:
    """Removes the hook it stands for: ``handle.remove()``, or at the end of ``with handle:``.

    ``hooks`` is the dictionary that holds the hook under ``self.id``; ``extra`` further ones that mark the same id.
    Ids rise through the process, so hooks run in the order in which they were registered.
    """

    _next = itertools.count()

    def __init__(self, hooks: MutableMapping[int, Any], *, extra: tuple[MutableMapping[int, Any], ...] = ()) -> None:
        self.id = next(RemovableHandle._next)
        self._dicts = tuple(weakref.ref(d) for d in (hooks, *extra))

    @property
    def hooks_dict_ref(self) -> Any:
        """A weak reference to the dictionary that holds the hook."""
        return self._dicts[0]

    def remove(self) -> None:
        """Take the hook out; a second call does nothing."""
        for ref in self._dicts:
            hooks = ref()
            if hooks is not None:
                hooks.pop(self.id, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"id": self.id, "dicts": [ref() for ref in self._dicts]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.id = state["id"]
        self._dicts = tuple(weakref.ref(d) for d in state["dicts"] if d is not None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
