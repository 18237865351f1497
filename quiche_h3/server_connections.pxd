# What makes server_connections.py compiled: every connection of a server passes here.

from quiche_h3._core.connection cimport Connection


cdef class ServerConnections:
    cdef readonly object counters
    cdef readonly object webtransport_counters
    cdef public bint webtransport
    cdef public object events
    cdef public object on_datagram
    cdef readonly list connect_hooks
    cdef readonly list close_hooks
    cdef readonly object dispatcher
    cdef readonly object request
    cdef object _limits
    cdef object _patience
    cdef bint _name_required

    cpdef protocol(self, Connection connection)
    cpdef connection_opened(self, Connection connection)
    cpdef connection_closed(self, Connection connection)
    cpdef datagram(self, Connection connection, bytes payload)
