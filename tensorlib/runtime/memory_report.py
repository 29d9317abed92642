"""What a device's memory looks like to a person: the summary, the text of an out-of-memory error, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlib._picture import BACKGROUND, TEXT, png, write

_ROWS = (
    ("Allocated memory", "allocated_bytes", True),
    ("Active memory", "active_bytes", True),
    ("Requested memory", "requested_bytes", True),
    ("Reserved memory", "reserved_bytes", True),
    ("Non-releasable memory", "inactive_split_bytes", True),
    ("Allocations", "allocation", False),
    ("Active allocs", "active", False),
    ("Reserved segments", "segment", False),
    ("Non-releasable allocs", "inactive_split", False),
)
_PARTS = (("all", ""), ("large_pool", "  from large pool"), ("small_pool", "  from small pool"))
_OVERSIZE = (("Oversize allocations", "oversize_allocations"), ("Oversize segments", "oversize_segments"))
_COLUMNS = {"Cur Usage": "current", "Peak Usage": "peak", "Tot Alloc": "allocated", "Tot Freed": "freed"}
_OWNERS = 6  # sizes that an out-of-memory error names

_WIDTH, _MARGIN, _BAR, _GAP, _CAPTION, _HEADER = 1200, 20, 16, 5, 34, 84  # of a picture, in pixels
_LINES = 12  # of bars that one group of segments takes at most
_STATES = {
    "active_allocated": ("allocated", (74, 128, 189)),
    "active_pending_free": ("waiting", (222, 164, 60)),
    "inactive": ("free", (222, 227, 234)),
}


def vendor(kind: str) -> str:
    """As errors name it: "CUDA" or "HIP"."""
    return "HIP" if kind == "hip" else "CUDA"


def format_bytes(nbytes: int) -> str:
    """1536 -> "1.50 KiB"."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} bytes"


def summary(stats: dict[str, Any], kind: str, index: int, abbreviated: bool = False) -> str:
    """Nested statistics as a table; ``abbreviated`` leaves out the rows of the two pools."""
    width = 23 + 15 * len(_COLUMNS)

    def row(title: str, cells: list[str]) -> str:
        return f"| {title:<21} |" + "".join(f" {cell:>12} |" for cell in cells)

    def values(found: dict[str, int], in_bytes: bool) -> list[str]:
        return [format_bytes(found[key]) if in_bytes else f"{found[key]:,}" for key in _COLUMNS.values()]

    heavy, light = "|" + "=" * width + "|", "|" + "-" * width + "|"
    troubles = f"OOMs: {stats['num_ooms']}, retries: {stats['num_alloc_retries']}"
    calls = f"driver allocations: {stats['num_device_alloc']}, frees: {stats['num_device_free']}"
    lines = [
        heavy,
        f"|{f'tensorlib {vendor(kind)} memory summary, device {index}':^{width}}|",
        light,
        f"|{f'{troubles}, {calls}':^{width}}|",
        heavy,
        row("Metric", list(_COLUMNS)),
    ]
    for title, name, in_bytes in _ROWS:
        lines.append(light)
        for part, indented in _PARTS[: 1 if abbreviated else None]:
            lines.append(row(indented or title, values(stats[name][part], in_bytes)))
    lines.append(light)
    lines += [row(title, values(stats[name], False)) for title, name in _OVERSIZE]
    return "\n".join([*lines, heavy])


class Shortage(NamedTuple):
    """A request that could not be answered, and how the memory stood. All in bytes."""

    kind: str  #: of the driver
    device: int  #: its number
    requested: int
    segment: int  #: what the driver was asked for
    total: int
    free: int  #: of the device, as the driver says
    allocated: int
    cached: int  #: reserved, and in no Block
    reserved: int
    largest: int  #: the largest free block
    largest_here: int  #: the largest that this request could have used
    limit: int | None
    owners: dict[int, int]  #: bytes asked for -> how many Blocks of them live
    captured: bool  #: whether a capture forbade giving memory back

    def text(self) -> str:
        """The message of an OutOfMemoryError: what was asked, who has the memory, and what to try."""
        others = max(0, self.total - self.free - self.reserved)
        sentences = [
            f"{vendor(self.kind)} out of memory. Tried to allocate {format_bytes(self.requested)}. "
            f"GPU {self.device} has a total capacity of {format_bytes(self.total)} of which {format_bytes(self.free)} "
            f"is free. This process has {format_bytes(self.reserved)}: {format_bytes(self.allocated)} allocated, "
            f"{format_bytes(self.cached)} cached (largest free block {format_bytes(self.largest)}; "
            f"usable for this request {format_bytes(self.largest_here)}). Other processes, and what else this process "
            f"loads, have {format_bytes(others)}."
        ]
        if self.limit is not None:
            sentences.append(f"This process may reserve {format_bytes(self.limit)}.")
        if self.owners:
            groups = sorted(self.owners.items(), key=lambda item: item[0] * item[1], reverse=True)[:_OWNERS]
            listed = ", ".join(f"{n} x {format_bytes(size)} = {format_bytes(n * size)}" for size, n in groups)
            sentences.append(f"Most of what is allocated: {listed}.")
        return " ".join([*sentences, f"To try: {'; '.join(self._advice(others))}."])

    def _advice(self, others: int) -> list[str]:
        found = []
        if self.limit is not None and self.reserved + self.segment > self.limit:
            found.append("a larger limit, by set_per_process_memory_fraction")
        elif others > max(self.segment, self.total // 4):
            found.append(f"{'rocm-smi' if self.kind == 'hip' else 'nvidia-smi'}, which shows the other processes")
        if self.captured:
            found.append("empty_cache() before the capture, within which nothing goes back to the driver")
        elif self.cached > max(self.segment, self.reserved // 10):
            found.append(
                "inputs of fewer different sizes (padded), because what is cached is in too small pieces or of other "
                "streams: fragmentation, which TENSORLIB_ALLOC_CONF=max_split_size_mb:128 can lessen"
            )
        return [
            *found,
            "a smaller batch, with gradients accumulated over several",
            "del of tensors that are not needed any more (of a loss keep loss.item(), not its graph)",
            "utils.checkpoint for activations",
            "autocast to bfloat16",
        ]


def picture(snapshot: Sequence[dict[str, Any]]) -> bytes:
    """A PNG of what ``Allocator.snapshot`` gave: each segment a bar, its blocks coloured by their state.

    Segments of one device, pool, stream and size are a group, which has a scale of its own; a segment that is wider
    than a line goes on in the next.
    """
    groups: dict[tuple[int, Any, int, str], list[dict[str, Any]]] = {}
    for segment in snapshot:
        key = (segment["device"], segment["segment_pool_id"], segment["stream"], segment["segment_type"])
        groups.setdefault(key, []).append(segment)
    ordered = sorted(groups.items(), key=lambda item: str(item[0]))
    drawn = [(_caption(*key, group), *_bars(group)) for key, group in ordered]
    height = _HEADER + sum(_CAPTION + len(bars) * (_BAR + _GAP) + 2 * _GAP for _, _, bars in drawn) + _MARGIN
    image = np.full((height, _WIDTH, 3), BACKGROUND, np.float64)
    totals = dict.fromkeys(_STATES, 0)
    for segment in snapshot:
        for block in segment["blocks"]:
            totals[block["state"]] += block["size"]
    write(image, f"reserved {format_bytes(sum(totals.values()))}", _MARGIN, 24, align=0.0)
    left = _MARGIN
    for state, (name, colour) in _STATES.items():
        text = f"{name} {format_bytes(totals[state])}"
        image[48:62, left : left + 14] = colour
        write(image, text, left + 22, 55, align=0.0)
        left += 22 + 12 * len(text) + 32
    top = _HEADER
    for caption, scale, bars in drawn:
        write(image, f"{caption}, a line {format_bytes(scale)}", _MARGIN, top + 10, align=0.0)
        top += _CAPTION
        for bar in bars:
            image[top : top + _BAR, _MARGIN : _WIDTH - _MARGIN] = bar
            top += _BAR + _GAP
        top += 2 * _GAP
    return png(np.rint(image).astype(np.uint8))


def _caption(device: int, pool: Any, stream: int, kind: str, group: list[dict[str, Any]]) -> str:
    total = format_bytes(sum(segment["total_size"] for segment in group))
    own = "" if pool == (0, 0) else "private, "
    return f"GPU {device}, {own}stream {stream:x}, {kind}: {total} in {len(group)} segments"


def _bars(group: list[dict[str, Any]]) -> tuple[int, list[np.ndarray]]:
    """Bytes a line, and the lines: colours (width, 3). Segments follow each other with a dark line between."""
    width = _WIDTH - 2 * _MARGIN
    room = min(_LINES, 1 + len(group) // 4) * width - 4 * len(group)
    scale = max(sum(segment["total_size"] for segment in group) / max(room, width - 4), 1.0)  # bytes a pixel
    strip: list[np.ndarray] = []
    for segment in group:
        pixels = max(1, round(segment["total_size"] / scale))
        edges = np.cumsum([0, *(block["size"] for block in segment["blocks"])]) * (pixels / segment["total_size"])
        colours = np.array([_STATES[block["state"]][1] for block in segment["blocks"]], np.float64)
        # The mean colour of each pixel: the integral of the colours up to its end less that up to its beginning.
        sums = np.concatenate([np.zeros((1, 3)), np.cumsum(colours * np.diff(edges)[:, None], axis=0)])
        at = np.arange(pixels + 1)
        integral = np.stack([np.interp(at, edges, sums[:, channel]) for channel in range(3)], axis=1)
        bar = np.diff(integral, axis=0)
        wide = np.flatnonzero(np.diff(edges) > 3)  # a thin line where a block begins, if there is room to see it
        starts = np.ceil(edges[wide[wide > 0]]).astype(int)
        bar[starts[starts < pixels]] = BACKGROUND
        strip += [bar, np.array([BACKGROUND, TEXT, BACKGROUND], np.float64)]
    flow = np.concatenate(strip)
    lines = -(-len(flow) // width)
    flow = np.concatenate([flow, np.full((lines * width - len(flow), 3), BACKGROUND, np.float64)])
    return round(scale * width), list(flow.reshape(lines, width, 3))
