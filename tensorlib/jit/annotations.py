"""Names of types that a compiler would read: Python's."""

from __future__ import annotations

from typing import Any

__all__ = ["BroadcastingList1", "BroadcastingList2", "BroadcastingList3", "Dict", "Future", "List", "Optional", "Tuple"]

List = BroadcastingList1 = BroadcastingList2 = BroadcastingList3 = list
Dict = dict
Tuple: Any = tuple
Optional = Future = Any
