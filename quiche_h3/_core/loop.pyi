from __future__ import annotations

from quiche_h3.ev import Loop as Loop
from quiche_h3.ev import Watcher as Watcher

def _debug_counts() -> tuple[int, int]: ...
