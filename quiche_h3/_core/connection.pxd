from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from quiche_h3._core.libquiche cimport c_bool, quiche_conn, quiche_send_info
from quiche_h3._core.libc_net cimport sockaddr_storage, socklen_t
from quiche_h3._core.settings cimport EngineSettings
from quiche_h3._core.udp cimport udp_socket

cdef extern from "deadlines.h" nogil:
    enum:
        DEADLINE_NONE

    ctypedef struct deadline:
        uint64_t at
        size_t index

    ctypedef struct deadlines:
        deadline **items

    void deadlines_remove(deadlines *h, deadline *d)
    bint deadlines_set(deadlines *h, deadline *d, uint64_t at)
    uint64_t deadlines_next(const deadlines *h)

cdef struct issued_cid:
    uint8_t len
    uint8_t id[20]

# How far a client is with the server's preferred address (RFC 9000 9.6).
cdef enum preference:
    PREFERENCE_UNKNOWN = 0
    PREFERENCE_PROBED
    PREFERENCE_SETTLED   # one way or the other

# What the loops without the GIL see of a connection. Embedded in the Connection that owns it.
cdef struct conn_t:
    deadline due             # first member: the heap's pointer is the connection's
    quiche_conn *quic        # owned by the Connection
    void *owner              # the Connection, borrowed: the endpoint's dict holds the reference
    conn_t *next_dirty
    udp_socket *sock         # where its last udp payload came in
    bint dirty
    bint established
    bint closing             # we have closed it: nothing paces what is left to send
    bint given_up            # it took too long, or runs away: what is left to send goes, then the connection
    preference preferred
    bint moved               # to the server's preferred address
    uint8_t probes           # how often its path was asked for an answer
    uint64_t probe_at        # when that is to be done again
    uint8_t received_ecn     # codepoint of its last udp payload
    uint32_t silent_timeouts # how many timers have run out since the last packet came
    bint more                # work is left over from the last turn
    int flushed              # how the last send pass ended
    c_bool log_failed        # its key log or qlog cannot be written any more
    bint log_failure_told
    sockaddr_storage peer
    sockaddr_storage local
    uint64_t created_at
    uint64_t wake_at         # the protocol wants a turn then; 0 when it wants none
    uint64_t now             # when its turn began
    uint64_t watch_at        # its watch looks at it then
    uint64_t sent            # packets
    uint64_t key_began       # `sent` when the key that encrypts them was made
    uint64_t unprompted      # bytes sent since a packet came or a timer ran out
    uint64_t handshake_bytes # received before the handshake was complete
    uint64_t release_at      # pacing: nothing leaves before; 0 when free
    uint8_t *held            # owned: one packet whose time has not come
    size_t held_len
    quiche_send_info *held_info  # owned, allocated with `held`
    unsigned cid_count
    issued_cid cids[20]
    unsigned buried_count
    issued_cid buried[8]     # the last that the peer has retired


cdef class Protocol:
    """What runs over a connection (HTTP/3), behind one narrow interface."""

    # Handles what arrived and what may be written now. True: work is left for the next turn.
    cdef bint service(self) except -1
    # The connection is gone; nothing may be sent any more.
    cdef int closed(self) except -1


cdef class Watch:
    """What looks at a connection from time to time, behind one narrow interface."""

    cdef uint64_t tick_ns           # the longest that a connection which is at work goes without a look
    cdef uint64_t look(self, uint64_t now) except 0


cdef class Gate:
    """Keeps other threads from quiche while the loop's thread works on it without the GIL."""

    cdef bint shut              # changed by the loop's thread alone, with the GIL
    cdef int wait(self) except -1


cdef class Connection:
    cdef conn_t c
    cdef Gate gate              # the endpoint's
    cdef object __weakref__
    cdef object _endpoint
    cdef object host            # the admission's books of the peer's first address, or None
    cdef EngineSettings settings
    cdef readonly uint64_t id
    cdef Protocol protocol
    cdef public Watch watch
    cdef public object state
    cdef public object context
    cdef tuple _ended_by        # how it ended: the arguments of ConnectionClosed
    cdef quiche_conn *quic(self) except? NULL
    cdef tuple ended_by(self)
    cdef int release(self) except -1
    cdef object ending(self)
    cdef socklen_t local_len(self)
    cdef void touch(self)
