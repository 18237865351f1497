"""quiche's own debug log, handed to the logger ``quiche_h3.quic``."""

from quiche_h3._core.libquiche cimport quiche_enable_debug_logging

import logging

from quiche_h3.logs import DebugThrottle

_logger = logging.getLogger("quiche_h3.quic")
cdef object _throttle = None


cdef void on_line(const char *line, void *argp) noexcept with gil:
    try:
        if _throttle.admit():
            _logger.debug("%s", line.decode("utf-8", "replace"))
    except BaseException:
        pass  # a log handler that fails must not reach the C code that wrote the line


def enable(int every):
    """Passes one in `every` of quiche's log lines on. quiche has one log for the whole process: the first call wins."""
    global _throttle
    first = _throttle is None
    _throttle = DebugThrottle(every)
    if first:
        quiche_enable_debug_logging(on_line, NULL)
