"""How far a run is: one line that is rewritten on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import shutil
import time
from collections import deque
from typing import TextIO

_REFRESH = 0.1  # seconds between rewrites on a terminal
_SPARSE = 30.0  # seconds between plain lines elsewhere, beside the one for each evaluation
_TEXT = 67  # columns of the longest usual text, so that the bar does not change its width


class Progress:
    """The live line of a run of ``total`` steps, each of ``count`` units: tokens, images."""

    def __init__(self, stream: TextIO, total: int, count: int, unit: str) -> None:
        self.stream, self.total, self.count, self.unit = stream, total, count, unit
        self.live = stream.isatty()
        self.bar = _bar_characters(stream)
        self.durations: deque[float] = deque(maxlen=50)
        self.next = 0.0 if self.live else time.monotonic() + _SPARSE
        self.shown = False

    @property
    def rate(self) -> float:
        """Units a second over the last steps."""
        return self.count * len(self.durations) / max(sum(self.durations), 1e-9)

    def due(self, duration: float) -> bool:
        """Note a step of that many seconds; True when it is time to bring the line up to date."""
        self.durations.append(duration)
        return time.monotonic() >= self.next

    def show(self, step: int, loss: float, headline: str) -> None:
        """Bring the line up to date; away from a terminal, print one."""
        self.next = time.monotonic() + (_REFRESH if self.live else _SPARSE)
        left = (self.total - step) * sum(self.durations) / max(1, len(self.durations))
        text = (
            f"step {step:>{len(str(self.total))}}/{self.total}  loss {loss:.3f}  "
            f"{headline}  {_short(self.rate):>5} {self.unit}/s  ETA {_clock(left)}"
        )
        if self.live:
            room = shutil.get_terminal_size().columns - 1
            width = min(24, room - _TEXT)
            self.stream.write(f"\r\x1b[K{f'{self._drawn(step, width)}  {text}' if width >= 8 else text}"[: room + 4])
            self.shown = True
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _drawn(self, step: int, width: int) -> str:
        filled = width * step // self.total
        return self.bar[0] * filled + self.bar[1] * (width - filled)

    def end(self) -> None:
        """Leave the line as it is and go on below it."""
        if self.shown:
            self.stream.write("\n")
            self.stream.flush()
            self.shown = False


def _bar_characters(stream: TextIO) -> str:
    try:
        "━┈".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#."
    return "━┈"


def _short(n: float) -> str:
    return f"{n / 1e6:.1f}M" if n >= 1e6 else f"{n / 1e3:.1f}k" if n >= 1e3 else f"{n:.0f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
