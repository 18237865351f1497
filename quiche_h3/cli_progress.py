"""What a terminal shows while bodies come and go: one line, drawn again and again."""

from __future__ import annotations

import shutil
import threading
import time
from typing import Final, TextIO

from ._options import KIB, MIB

_REDRAW_SECONDS: Final = 0.1


class Progress:
    """One line on a terminal: how much of the bodies is there, how fast they come, how long it will take.

    May be fed from several threads. `total` is None where no length is known; `expect()` adds to it.
    """

    def __init__(self, terminal: TextIO, total: int | None = 0) -> None:
        self._terminal = terminal
        self._total = total
        self._done = 0
        self._begin = time.monotonic()
        self._drawn = self._begin  # nothing is drawn of what takes less than an instant, but its end
        self._lock = threading.Lock()

    def expect(self, size: int | None) -> None:
        """A body of so many bytes more will come; None: of unknown length."""
        with self._lock:
            self._total = None if size is None or self._total is None else self._total + size

    def add(self, size: int) -> None:
        """So many bytes more have come."""
        with self._lock:
            self._done += size
            now = time.monotonic()
            if now - self._drawn >= _REDRAW_SECONDS:
                self._drawn = now
                self._draw()

    def finish(self) -> None:
        """No more comes."""
        with self._lock:
            self._draw()
            self._terminal.write("\n")
            self._terminal.flush()

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._terminal.write("\r" + self.line(time.monotonic() - self._begin, width).ljust(width))
        self._terminal.flush()

    def line(self, seconds: float, width: int) -> str:
        """The line after so many seconds, at most `width` wide."""
        rate = self._done / max(seconds, 1e-3)
        if self._total is None:
            return f"{show_size(self._done)}  {show_size(rate)}/s  {_clock(seconds)}"[:width]
        share = self._done / self._total if self._total else 1.0
        left = (self._total - self._done) / rate if rate else 0.0
        sizes = f"{show_size(self._done)} of {show_size(self._total)}"
        end = f"{sizes}  {show_size(rate)}/s  {_clock(seconds if share >= 1 else left)}"
        begin = f"{share:4.0%} "
        room = width - len(begin) - len(end) - 4
        if room < 5:
            return (begin + end)[:width]
        filled = round(min(share, 1.0) * room)
        return f"{begin}[{'#' * filled}{'.' * (room - filled)}]  {end}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def show_size(size: float) -> str:
    """Bytes as people read them."""
    for unit, name in ((1024 * MIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def show_seconds(seconds: float) -> str:
    """A time as people read it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
