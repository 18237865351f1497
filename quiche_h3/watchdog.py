"""Notices that an event loop stands still, and says where: in whatever code a handler blocks it with."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

log: Final = logging.getLogger("quiche_h3")

_REPORTS_S: Final = 1.0  # at most one report in so many seconds


class Watchdog:
    """A thread that has the loop answer, for as long as handlers are at work. Made in the loop's thread.

    An idle loop is not woken: `busy` is looked at once in `limit` seconds, and nothing else happens.
    """

    def __init__(self, post: Callable[..., None], busy: Callable[[], bool], limit: float) -> None:
        self.blocked = 0
        """How often the loop did not answer in time."""
        self._post = post
        self._busy = busy
        self._limit = limit
        self._watched = threading.get_ident()
        self._reported = -_REPORTS_S
        self._end = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="quiche_h3-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        self._answered.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self._limit):
            if not self._busy():
                continue
            self._answered.clear()
            try:
                self._post(self._answered.set)
            except RuntimeError:
                return  # the loop has ended
            reported = False
            while not self._end.is_set() and not self._answered.wait(self._limit):
                if not reported:
                    self._report()
                reported = True

    def _report(self) -> None:
        self.blocked += 1
        now = time.monotonic()
        frame = sys._current_frames().get(self._watched)
        if frame is None or now - self._reported < _REPORTS_S:
            return
        self._reported = now
        stack = "".join(traceback.format_stack(frame))
        log.warning("the event loop is blocked for more than %d ms, in:\n%s", self._limit * 1000, stack)
