"""How many floating-point operations a block of a program computes, by operator: products, convolutions, attention."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tensorlib._core import listening, observers
from tensorlib.autograd.profiler import _flops

__all__ = ["FlopCounterMode"]


class FlopCounterMode:
    """``with FlopCounterMode() as counter:``, then ``counter.get_total_flops()``: what ran inside, backward too.

    Counted are the operators whose declaration says how many they compute: a product of (m, k) by (k, n) is 2 m n k.
    Counts are of the whole block, "Global": ``mods`` and ``depth`` are PyTorch's and divide nothing. ``display``: print
    the table at the end.
    """

    def __init__(
        self, mods: Any = None, depth: int = 2, display: bool = True, custom_mapping: dict[Any, Any] | None = None
    ) -> None:
        self.display = display
        self.flop_counts: dict[str, dict[str, int]] = {"Global": defaultdict(int)}

    def _observe(self, op: Any, inputs: Any, attrs: Any, outputs: Any) -> None:
        count = _flops(op, inputs, attrs)
        if count:
            self.flop_counts["Global"][op.name] += int(count)

    def __enter__(self) -> FlopCounterMode:
        self.flop_counts["Global"].clear()
        observers.append(self._observe)
        listening[0] += 1
        return self

    def __exit__(self, *error: object) -> None:
        listening[0] -= 1
        observers.remove(self._observe)
        if self.display:
            print(self.get_table())

    def get_total_flops(self) -> int:
        """Of all operators."""
        return sum(self.flop_counts["Global"].values())

    def get_flop_counts(self) -> dict[str, dict[str, int]]:
        """{"Global": {operator: count}}."""
        return {place: dict(counts) for place, counts in self.flop_counts.items()}

    def get_table(self, depth: int | None = None) -> str:
        """A line an operator: its name, its count and its share."""
        counts, total = self.flop_counts["Global"], self.get_total_flops()
        rows = [("Operator", "FLOP", "% Total"), ("Global", f"{total:,}", "100.00%" if total else "0.00%")]
        rows += [(f" - {name}", f"{n:,}", f"{100 * n / total:.2f}%") for name, n in counts.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])]) for row in rows]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
